"""Small policies and rollouts for the tests of grpo.py and what it shares, and the slow loop over tokens."""

import copy
import functools
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import grpo
from data import tiny
from engine import (
    loading,
    packing,
    training,
)
from engine import model as models

ROOT = Path(__file__).resolve().parent.parent


BASE = str(ROOT / "data" / "tiny_base")


EOS = tiny.VOCABULARY.index("<eos>")


def close(x, expected, tolerance=1e-6):
    return torch.allclose(x, torch.tensor(expected, dtype=x.dtype), rtol=0, atol=tolerance)


@functools.cache
def base_models():
    """(policy, a reference that differs, transformers' own pair) in double precision."""
    policy = loading.load(BASE, dtype=torch.float64)[0].requires_grad_(True)
    reference = copy.deepcopy(policy).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for p in reference.parameters():
        p += 0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    oracle = AutoModelForCausalLM.from_pretrained(
        BASE, dtype=torch.float64, attn_implementation="sdpa"
    )
    oracle_reference = copy.deepcopy(oracle)
    oracle_reference.load_state_dict(reference.state_dict())
    return policy, reference, oracle, oracle_reference


def config(**more):
    usual = {"model": BASE, "data": "", "out": "", "temperature": 0.8, "max_tokens": 19}
    # One micro-batch unless a test asks for more: the size that main() would choose.
    return grpo.Config(**{**usual, "micro_batch_tokens": 32768, **more})


def rollout_of_six():
    """Six unequal rows: prompts of 2..7 tokens, completions of 1..17, two injected tokens, old log-probabilities up to
    0.5 from the policy's, so that clipping acts on both sides for both signs of the advantage."""
    generator = torch.Generator().manual_seed(4)

    def draw(n, low=7, high=149):
        return torch.randint(low, high, (n,), generator=generator).tolist()

    shapes = [(3, 17), (5, 2), (2, 9), (7, 1), (4, 12), (6, 5)]
    sequences = [draw(a) + draw(b - 1) + [EOS] for a, b in shapes]
    masks = [[False] * a + [True] * b for a, b in shapes]
    masks[0][8] = masks[4][6] = False  # as if injected
    policy = base_models()[0]
    with torch.no_grad():
        logp = models.score(policy, packing.pack(sequences), config().temperature).logp
    shift = torch.rand(len(logp), generator=generator) - 0.5
    olds, at = [], 0
    for ids in sequences:
        olds.append([0.0] + (logp + shift)[at : at + len(ids) - 1].tolist())
        at += len(ids) - 1
    return sequences, masks, olds, torch.tensor([1.5, -0.7, 0.0, 0.4, -1.2, 0.9])


def gradient(
    monkeypatch,
    sequences,
    masks,
    olds,
    advantage,
    cfg,
    policy=None,
    measure_kl=True,
    share=None,
    **more,
):
    """(gradient of every weight, flat; what update_policy returns), without a step being taken."""
    policy, reference, kept = policy or base_models()[0], base_models()[1], []

    def update(model, optimizers, clip, scale):
        kept.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad(set_to_none=True)
        return kept[0].norm().item()

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", update)
        values = grpo.update_policy(
            policy,
            reference,
            [],
            grpo.Rollout(sequences, masks, olds, advantage, share, **more),
            cfg,
            1.0,
            measure_kl,
        )
    return kept[0] if kept else None, values


def deviation(found, expected):
    """Largest difference of two gradients as a share of the largest component, which must not be small itself."""
    assert expected.abs().max() > 1e-2
    return ((found - expected).abs().max() / expected.abs().max()).item()


def slow_loss(logp, old, a, ratio, share, cfg):
    """Loss of one token; ratio is its own, or its sequence's for gspo."""
    limit = min(max(ratio.item(), 1 - cfg.eps_low), 1 + cfg.eps_high)
    if cfg.loss == "cispo":
        return -limit * a * logp
    if cfg.loss == "reinforce":
        return -a * logp
    if cfg.loss == "nft" and a > 0:
        return -a * (logp - old)
    if cfg.loss == "nft":
        odds, negative = share / (1 - share), (1 - share * ratio) / (1 - share)
        # of -log max(ε, negative) in logp
        slope = odds * ratio.item() / max(negative.item(), cfg.nft_eps)
        return (
            -a
            / odds
            * (slope * (logp - logp.detach()) - math.log(max(negative.item(), cfg.nft_eps)))
        )
    return -ratio * a if ratio.item() * a <= limit * a else torch.tensor(-limit * a)


def slow_gradient(sequences, masks, olds, advantage, cfg, share=None):
    """The loss as the docstrings of grpo.py write it, token by token, on transformers' own forward: its gradient, its
    value, and the mean entropy and full KL(policy ‖ reference) of the trained tokens."""
    _, _, oracle, oracle_reference = base_models()
    losses, n_rows, n_tokens, entropy, kl = [], len(sequences), sum(map(sum, masks)), 0.0, 0.0
    for i, ids in enumerate(sequences):
        logp, ref = (
            (m(torch.tensor([ids])).logits[0] / cfg.temperature).log_softmax(1)
            for m in (oracle, oracle_reference)
        )
        trained = [t for t in range(1, len(ids)) if masks[i][t]]
        of_sequence = sum(logp[t - 1, ids[t]] - olds[i][t] for t in trained) / len(trained)
        for t in trained:
            spread = -(logp[t - 1].exp() * logp[t - 1]).sum()
            entropy += spread.item() / n_tokens
            kl += (logp[t - 1].exp() * (logp[t - 1] - ref[t - 1])).sum().item() / n_tokens
            ratio = (of_sequence if cfg.loss == "gspo" else logp[t - 1, ids[t]] - olds[i][t]).exp()
            loss = slow_loss(
                logp[t - 1, ids[t]], olds[i][t], advantage[i].item(), ratio, share and share[i], cfg
            )
            loss = loss - cfg.entropy * spread
            d = ref[t - 1, ids[t]].detach() - logp[t - 1, ids[t]]
            loss = (
                loss
                + cfg.beta
                * {"none": 0 * d, "k1": -d, "k2": d * d / 2, "k3": d.exp() - 1 - d}[cfg.kl]
            )
            losses.append(
                loss
                / {
                    "token": n_tokens,
                    "constant": n_rows * cfg.max_tokens,
                    "sequence": n_rows * sum(masks[i]),
                }[cfg.normalise]
            )
    oracle.zero_grad()
    sum(losses).backward()
    return (
        torch.cat([p.grad.flatten() for p in oracle.parameters()]),
        sum(losses).item(),
        entropy,
        kl,
    )
