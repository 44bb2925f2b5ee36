"""grpo.py: its mathematics by hand and by exact enumeration, one update against a loop in double precision, and short
runs on the shipped base model: what is trained, what is logged, what is refused, and that a killed run continues."""

import copy
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from policies import (
    BASE,
    EOS,
    ROOT,
    base_models,
    close,
    config,
    deviation,
    gradient,
    rollout_of_six,
    slow_gradient,
)
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

import curate
import grpo
from data import tiny
from engine import (
    checkpoints,
    format,
    loading,
    packing,
    processes,
    runlog,
    template,
    training,
    watch,
)
from engine import model as models
from engine.format import FORMATS
from engine.rollout import Tokens
from engine.rows import BadInput, read_rows
from grading.sandbox import Workers

# ---- Advantages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rewards, pop, sample, none",
    [
        (
            [1, 0, 0, 1],
            [1, -1, -1, 1],
            [0.866025, -0.866025, -0.866025, 0.866025],
            [0.5, -0.5, -0.5, 0.5],
        ),
        (
            [1, 0, 0, 0],
            [1.732051, -0.577350, -0.577350, -0.577350],
            [1.5, -0.5, -0.5, -0.5],
            [0.75, -0.25, -0.25, -0.25],
        ),
        (
            [1, 1, 1, 0, 0, 0, 0, 0],
            [1.290994] * 3 + [-0.774597] * 5,
            [1.207615] * 3 + [-0.724569] * 5,
            [0.625] * 3 + [-0.375] * 5,
        ),
    ],
)
def test_advantages_by_hand(rewards, pop, sample, none):
    """Mean 1/2: deviation √(1/4), of the sample √(1/3). Mean 1/4: √(3/16) and √(1/4). Mean 3/8: √(15/64), √(15/56)."""
    given = torch.tensor([rewards], dtype=torch.float32)
    for std, expected in (("pop", pop), ("sample", sample), ("none", none)):
        # the default eps is small
        for found, tolerance in (
            (grpo.advantages(given, std, eps=0.0), 1e-6),
            (grpo.advantages(given, std), 1e-5),
        ):
            assert (std, found[0].tolist()) == (std, pytest.approx(expected, abs=tolerance))


def test_leave_one_out_by_hand():
    """[1, 0, 0, 0]: the others' means are 0, 1/3, 1/3, 1/3. [3, 1, 2]: 3 - 1.5, 1 - 2.5, 2 - 2. If asked divided by
    the group's deviation too, √(3/16)."""
    found = grpo.advantages(torch.tensor([[1.0, 0, 0, 0]]), "none", "others")
    assert found[0].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    found = grpo.advantages(torch.tensor([[3.0, 1, 2]]), "none", "others")
    assert found[0].tolist() == pytest.approx([1.5, -1.5, 0], abs=1e-6)
    rewards = torch.rand(3, 5, generator=torch.Generator().manual_seed(2))
    others = (rewards.sum(1, keepdim=True) - rewards) / 4
    found = grpo.advantages(rewards, "none", "others")
    assert found[1].tolist() == pytest.approx((rewards - others)[1].tolist(), abs=1e-6)
    found = grpo.advantages(torch.tensor([[1.0, 0, 0, 0]]), "pop", "others")
    assert found[0].tolist() == pytest.approx([2.309401] + [-0.769800] * 3, abs=1e-5)


def test_batch_deviation_by_hand():
    """[1, 0, 0, 0] and [1, 1, 1, 1]: 5 of 8 are 1, deviation √(15/64) = .484123; .75 and -.25 over it. The second
    group of equal rewards gets 0; in a batch of equal rewards all do."""
    found = grpo.advantages(torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]]), "batch", eps=0.0)
    assert found[0].tolist() == pytest.approx([1.549193] + [-0.516398] * 3, abs=1e-6)
    assert found[1].tolist() == [0, 0, 0, 0]
    assert grpo.advantages(torch.full((2, 3), 0.1), "batch").tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("std", ["pop", "sample", "batch", "none"])
def test_equal_rewards_have_advantage_zero(std):
    """Exactly 0 and no NaN, also for 0.1, of which seven have another mean in float32; the group beside stays."""
    rewards = torch.tensor([[0.1] * 7, [0.0] * 7, [1.3] * 7, [1.0] + [0.0] * 6])
    assert rewards[0].mean() != rewards[0, 0]
    found = grpo.advantages(rewards, std)
    assert found[:3].tolist() == [[0.0] * 7] * 3
    assert found[3, 0].item() > 0.5
    if std != "batch":
        assert found[3].tolist() == pytest.approx(grpo.advantages(rewards[3:], std)[0].tolist())


def test_groups_are_independent():
    """Another reward in group 1 changes group 1 and no other; the rewards are not written into."""
    rewards = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    other = rewards.clone()
    other[1, 2] += 1
    before, after = grpo.advantages(rewards), grpo.advantages(other)
    for group in (0, 2, 3):
        assert after[group].tolist() == before[group].tolist()
    assert not torch.allclose(before[1], after[1])
    assert (rewards[1, 2] + 1).item() == other[1, 2].item()


def test_a_group_of_one_has_no_sample_deviation():
    """Nor others to compare with: both would divide by 0. Its deviation over G is 0, and so is its advantage."""
    for how in (("sample", "group"), ("none", "others")):
        with pytest.raises(ValueError):
            grpo.advantages(torch.ones(3, 1), *how)
    assert grpo.advantages(torch.ones(3, 1), "pop").tolist() == [[0.0]] * 3


# ---- The clipped objective ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, advantage, low, high, value, slope",
    [
        (1.5, 1, 0.2, 0.2, 1.2, 0),
        (1.5, 1, 0.2, 0.28, 1.28, 0),
        (0.5, 1, 0.2, 0.2, 0.5, 1),
        (0.5, -1, 0.2, 0.2, -0.8, 0),
        (1.5, -1, 0.2, 0.2, -1.5, -1),
        (2.0, -1, 0.2, 0.2, -2.0, -1),
        (2.0, 1, 0.2, 0.2, 1.2, 0),
        (1.1, 2, 0.2, 0.2, 2.2, 2),
        (0.9, -2, 0.2, 0.2, -1.8, -2),
        (0.79, -1, 0.22, 0.2, -0.79, -1),
        (0.79, -1, 0.2, 0.2, -0.8, 0),
    ],
)
def test_clipped_objective_by_hand(ratio, advantage, low, high, value, slope):
    """A > 0: no gain above 1 + high. A < 0: no gain below 1 - low, but a ratio above 1 is punished without limit:
    clipping that side too would leave a bad token that became likely (ratio 2) without a gradient."""
    rho = torch.tensor([ratio], requires_grad=True)
    found = grpo.clipped_objective(rho, torch.tensor([float(advantage)]), low, high)
    found.sum().backward()
    assert [found.item(), rho.grad.item()] == pytest.approx([value, slope], abs=1e-6)


def test_is_clipped_by_hand():
    """Ratios .5, .9, 1.1, 1.5 with ε = .2 below and .3 above. A > 0 is clipped above 1.3, A < 0 below .8; on the other
    side the gradient stays. At A = 0 there is nothing to take away."""
    ratio = torch.tensor([0.5, 0.9, 1.1, 1.5])
    cfg = config(eps_low=0.2, eps_high=0.3)
    found = {a: grpo.is_clipped(ratio, torch.full((4,), a), cfg).tolist() for a in (2.0, -2.0, 0.0)}
    assert found[2.0] == [False, False, False, True]
    assert found[-2.0] == [True, False, False, False]
    assert found[0.0] == [False] * 4


# ---- The other objectives ------------------------------------------------------------------------------------------


def slope_of(log_ratios, advantage, old=-1.0, rows=None, share=None, **flags):
    """(value, clipped, gradient in logp) of an objective for tokens with these log-ratios, as lists."""
    logp = (torch.tensor(log_ratios, dtype=torch.float64) + old).requires_grad_(True)
    rows = torch.tensor(rows or [0] * len(logp))
    advantage = torch.as_tensor(advantage, dtype=torch.float64).expand(len(logp))
    share = None if share is None else torch.full_like(logp, share)
    cfg = config(**flags)
    tokens = Tokens(torch.full_like(logp, old), advantage, rows, share)
    value, clipped = grpo.OBJECTIVES[cfg.loss].function(logp, tokens, cfg)
    value.sum().backward()
    return value.tolist(), clipped.tolist(), logp.grad.tolist()


def test_objective_grpo_by_hand():
    """Log-ratios .1, -.3, .5: ρ of the tokens is 1.105171, .740818, 1.648721. A = 1, clipped above 1.28: the last has
    the value 1.28 and no gradient; the gradient of the others in log π is ρA. A = -1: clipped below .8, the second."""
    value, clipped, slope = slope_of([0.1, -0.3, 0.5], 1, eps_high=0.28)
    assert value == pytest.approx([1.105171, 0.740818, 1.28], abs=1e-6)
    assert clipped == [False, False, True]
    assert slope == pytest.approx([1.105171, 0.740818, 0], abs=1e-6)
    value, clipped, slope = slope_of([0.1, -0.3, 0.5], -1, eps_high=0.28)
    assert value == pytest.approx([-1.105171, -0.8, -1.648721], abs=1e-6)
    assert clipped == [False, True, False]
    assert slope == pytest.approx([-1.105171, 0, -1.648721], abs=1e-6)


def test_objective_gspo_by_hand():
    """Log-ratios .1, -.3, .5: ρ of the sequence is e^.1 = 1.105171 for each of its tokens, and each of the three has a
    third of the sequence's gradient, 3 · ρA/3 summed. A second sequence stays apart: e^-.4 = .670320, clipped to .8."""
    value, clipped, slope = slope_of(
        [0.1, -0.3, 0.5, -0.4], [2, 2, 2, -1], rows=[0, 0, 0, 1], loss="gspo"
    )
    assert value == pytest.approx([2.210342] * 3 + [-0.8], abs=1e-6)
    assert clipped == [False] * 3 + [True]
    assert slope == pytest.approx([2.210342] * 3 + [0], abs=1e-6)
    value, clipped, slope = slope_of([0.3, 0.3], 1, loss="gspo")  # e^.3 = 1.35: no gain above 1.2
    assert value == pytest.approx([1.2] * 2)
    assert (clipped, slope) == ([True] * 2, [0, 0])
    value, _, slope = slope_of([0.3, 0.3], -1, loss="gspo")  # but a loss without limit
    assert value == pytest.approx([-1.349859] * 2, abs=1e-6)
    assert slope == pytest.approx([-1.349859] * 2, abs=1e-6)


def test_objective_cispo_by_hand():
    """log π = log-ratio - 1. Weights clip(ρ) to .8 .. 1.28 on both sides for both signs, and every token keeps a
    gradient: A · the clipped weight."""
    for a in (1.0, -2.0):
        value, clipped, slope = slope_of([0.1, -0.3, 0.5], a, loss="cispo", eps_high=0.28)
        assert slope == pytest.approx([1.105171 * a, 0.8 * a, 1.28 * a], abs=1e-6)
        expected = [1.105171 * a * -0.9, 0.8 * a * -1.3, 1.28 * a * -0.5]
        assert value == pytest.approx(expected, abs=1e-6)
        assert clipped == [False, True, True]
    # none below
    assert slope_of([-3.0], 1.0, loss="cispo", eps_low=1.0)[2] == pytest.approx([math.exp(-3)])


def test_objective_reinforce_by_hand():
    """A log π: the gradient is A, wherever the ratio is."""
    value, clipped, slope = slope_of([0.1, -3, 5], -0.5, loss="reinforce")
    assert value == pytest.approx([0.45, 2, -2]) and slope == [-0.5] * 3 and not any(clipped)


@pytest.mark.parametrize(
    "ratio, eps, loss, coefficient",
    [
        (0.8, 1, -0.064539, 0.25),
        (1.2, 1, 0, 0.4),
        (1.2, 0.5, 0.068993, 0.428571),
        (4.5, 1, 0, 1.5),
        (4.5, 0.5, 0.693147, 3.0),
    ],
)
def test_objective_nft_of_a_wrong_answer(ratio, eps, loss, coefficient):
    """r = 1/4, ω = 1, hence A = -r/(1-r) = -1/3. The argument (1 - ρ/4) / (3/4) is 1.066667, .933333, -.166667: below
    ε its value is ε, and its gradient passes. The coefficient is what pushes log π down."""
    value, _, slope = slope_of([math.log(ratio)], -1 / 3, share=0.25, loss="nft", nft_eps=eps)
    assert [-value[0], -slope[0]] == pytest.approx([loss, coefficient], abs=1e-6)


def test_objective_nft_of_a_right_answer_and_far_away():
    """A log ρ with gradient A at every ratio. Ratios of e^40 and e^-40 of a wrong answer are finite."""
    value, _, slope = slope_of([0.5, -0.5], 1.732051, share=0.25, loss="nft")
    assert value == pytest.approx([0.866025, -0.866025], abs=1e-6)
    assert slope == pytest.approx([1.732051] * 2)
    value, _, slope = slope_of([40.0, -40.0, 9.0], -1.0, share=0.25, loss="nft", nft_eps=1e-3)
    infinite = [x for x in value + slope if not math.isfinite(x)]
    assert infinite == []
    assert slope[0] == 0
    assert slope[2] < -1e3
    value, _, slope = slope_of([0.0], 0.0, share=0.0, loss="nft")  # a group without a right answer
    assert value + slope == [0, 0]


@pytest.mark.parametrize(
    "std, right, wrong",
    [
        ("pop", [1.732051, 1, 0.577350], [-0.577350, -1, -1.732051]),
        ("none", [0.75, 0.5, 0.25], [-0.25, -0.5, -0.75]),
    ],
)
def test_on_policy_every_objective_has_the_gradient_of_grpo(std, right, wrong):
    """r = 1/4, 1/2, 3/4: NFT pushes right answers by ω and wrong ones by -ω r/(1-r), ω = √((1-r)/r) or 1-r: which is
    A. At ratio 1 the others have the gradient A too, of GSPO the sum over a sequence."""
    for n_right, up, down in zip((1, 2, 3), right, wrong):
        rewards = torch.tensor([[1.0] * n_right + [0.0] * (4 - n_right)])
        a = grpo.advantages(rewards, std)[0]
        assert close(a, [up] * n_right + [down] * (4 - n_right), 1e-5)
        for kind in ("grpo", "gspo", "cispo", "reinforce", "nft"):
            _, clipped, slope = slope_of(
                [0.0] * 4, a, rows=[0, 1, 2, 3], share=n_right / 4, loss=kind
            )
            assert slope == pytest.approx(a.tolist(), abs=1e-6) and not any(clipped), kind


# ---- KL -----------------------------------------------------------------------------------------------------------


KINDS = pytest.mark.parametrize("kind", ["k1", "k2", "k3"])


@KINDS
def test_kl_estimates_by_hand(kind):
    """p = 1/2, reference 1/4: d = log q - log p = -log 2 = -.693147; k1 = -d = .693147, k2 = d²/2 = .240227,
    k3 = e^d - 1 - d = .193147. Exchanged d = log 2: k1 = -.693147, k2 = .240227, k3 = 2 - 1 - .693147 = .306853."""
    expected = {
        "k1": [0.693147, -0.693147],
        "k2": [0.240227, 0.240227],
        "k3": [0.193147, 0.306853],
    }
    logp, ref_logp = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    found = grpo.kl_estimate(logp, ref_logp, kind)
    assert found.tolist() == pytest.approx(expected[kind], abs=1e-6)


def test_k3_keeps_its_digits_near_zero():
    """d = 1e-3: e^d - 1 - d = d²/2 + d³/6 = 5.00167e-7; exp(d) - 1 - d in float32 would be off by up to 1e-7."""
    found = grpo.kl_estimate(torch.tensor(-1e-3), torch.tensor(0.0), "k3")
    assert found.item() == pytest.approx(5.00167e-7, abs=2e-10)


@KINDS
def test_kl_estimates_in_expectation(kind):
    """Exact, p = [.5, .5] against reference [.25, .75], the gradient in the logits of p with samples held fixed:
    values k1 and k3 are KL(p‖ref) = .143841; as losses k1 has no gradient at all, k2 has that of KL(p‖ref), k3 has that
    of KL(ref‖p)."""
    ref = torch.tensor([0.25, 0.75], dtype=torch.float64)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(0)
    value = (logp.exp().detach() * grpo.kl_estimate(logp, ref.log(), kind)).sum()
    value.backward()
    expected = {
        "k1": [0.143841, 0, 0],
        "k2": [0.161214, 0.274653, -0.274653],
        "k3": [0.143841, 0.25, -0.25],
    }
    assert [value.item(), *logits.grad.tolist()] == pytest.approx(expected[kind], abs=1e-6)


def test_gradients_of_both_kls_by_torch():
    """The gradients that k2 and k3 have above: of KL(p‖ref) ± .274653, of KL(ref‖p) ± .25."""
    ref = torch.tensor([0.25, 0.75], dtype=torch.float64)

    def slope(function):
        logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        value = function(logits.log_softmax(0))
        value.backward()
        return [value.item(), *logits.grad.tolist()]

    reverse = slope(lambda logp: (logp.exp() * (logp - ref.log())).sum())
    forward = slope(lambda logp: (ref * (ref.log() - logp)).sum())
    assert reverse == pytest.approx([0.143841, 0.274653, -0.274653], abs=1e-6)
    assert forward == pytest.approx([0.130812, 0.25, -0.25], abs=1e-6)


# ---- Weights of tokens, order of prompts, rewards --------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_token_weights_by_hand(normalise):
    """Sequences of 2 and 6 trained tokens, max_tokens 10. token: 1/8 each. sequence: 1/(2·2) = .25 and 1/(2·6) =
    .083333. constant: 1/(2·10) = .05. A third row without a trained token counts as a row: 1/(3·2), 1/(3·6), 1/(3·10);
    tokens come in any order."""
    two, six = {"token": (0.125, 0.125), "sequence": (0.25, 1 / 12), "constant": (0.05, 0.05)}[
        normalise
    ]
    row = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1])
    weight = grpo.token_weights(row, 2, normalise, 10)
    assert weight.tolist() == pytest.approx([two] * 2 + [six] * 6, abs=1e-6)
    share = 1 if normalise == "token" else 2 / 3
    row = torch.tensor([2, 0, 2, 2, 0, 2, 2, 2])
    weight = grpo.token_weights(row, 3, normalise, 10)
    expected = [share * (six if i == 2 else two) for i in row.tolist()]
    assert weight.tolist() == pytest.approx(expected, abs=1e-6)
    assert grpo.token_weights(row[:0], 3, normalise, 10).tolist() == []  # nothing to divide


def test_choose_prompts_visits_each_once_per_epoch():
    """7 problems, 3 a step: 14 steps are 6 epochs, and steps straddle them. Step 9 is known without steps 0..8."""
    steps = [grpo.choose_prompts(7, step, 3, seed=1) for step in range(14)]
    places = [i for step in steps for i in step]
    epochs = [tuple(places[i : i + 7]) for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) > 3
    torch.manual_seed(5)
    assert grpo.choose_prompts(7, 9, 3, seed=1) == steps[9]
    assert [grpo.choose_prompts(7, step, 3, seed=100) for step in range(14)] != steps


# ---- One update against a loop ---------------------------------------------------------------------------------------


def running(cfg, model, reference=None, other=None, pool=None, problems=()):
    return grpo.Setup(
        cfg,
        model,
        model,
        processes.Ranks("cpu"),
        reference,
        other,
        tiny.tokenizer(),
        FORMATS[cfg.format],
        pool,
        problems,
        {},
    )


@pytest.mark.parametrize("kl", ["none", "k1", "k2", "k3"])
@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_gradient_equals_a_loop_over_tokens(monkeypatch, normalise, kl):
    """To 5e-6 of the largest component (token statistics are float32). The prompt's tokens, the two injected ones and
    the row of advantage 0 are in no sum of the loop; temperature 0.8 is; eps_low and eps_high differ."""
    rows = rollout_of_six()
    cfg = config(
        normalise=normalise,
        kl=kl,
        beta=0.0 if kl == "none" else 0.3,
        eps_high=0.28,
        micro_batch_tokens=30,
    )
    expected, loss, entropy, mean_kl = slow_gradient(*rows, cfg)
    found, values = gradient(monkeypatch, *rows, cfg)
    assert deviation(found, expected) < 5e-6
    assert values["loss"] == pytest.approx(loss, abs=1e-6)
    assert values["grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-5)
    if kl != "none":  # otherwise the row of advantage 0 is skipped and not measured
        assert (values["entropy"], values["kl"]) == pytest.approx((entropy, mean_kl), abs=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        {"loss": "gspo"},
        {"loss": "cispo"},
        {"loss": "reinforce"},
        {"loss": "nft", "nft_eps": 0.7},
        {"entropy": 0.2},
    ],
    ids=str,
)
def test_gradient_of_each_objective_equals_a_loop(monkeypatch, flags):
    """As above, with the sequence normaliser, and the same for another size and order of micro-batches: the mean over
    a sequence that GSPO takes is of that sequence. An entropy bonus has a gradient in the row of advantage 0 too."""
    sequences, masks, olds, advantage = rollout_of_six()
    share = [0.3, 0.6, 0.5, 0.8, 0.4, 0.5]
    cfg = config(normalise="sequence", eps_high=0.28, micro_batch_tokens=30, **flags)
    expected, loss, _, _ = slow_gradient(sequences, masks, olds, advantage, cfg, share)
    found, values = gradient(
        monkeypatch,
        sequences,
        masks,
        olds,
        advantage,
        cfg,
        share=torch.tensor(share),
        measure_kl=False,
    )
    assert deviation(found, expected) < 5e-6 and values["loss"] == pytest.approx(loss, abs=1e-6)
    order = [4, 0, 5, 2, 1, 3]
    found, _ = gradient(
        monkeypatch,
        *([x[i] for i in order] for x in (sequences, masks, olds)),
        advantage[order],
        config(normalise="sequence", eps_high=0.28, **flags),
        share=torch.tensor(share)[order],
    )
    assert deviation(found, expected) < 5e-6


def test_a_reward_of_tokens_is_an_advantage_of_its_own(monkeypatch):
    """Each token's loss has advantage + token reward, on both sides of 0; a row of advantage 0 that has one is trained."""
    sequences, masks, olds, advantage = rollout_of_six()
    generator = torch.Generator().manual_seed(9)
    extra = [(torch.rand(len(ids), generator=generator) - 0.7).tolist() for ids in sequences]
    cfg = config(micro_batch_tokens=30)
    found, values = gradient(
        monkeypatch, sequences, masks, olds, advantage, cfg, measure_kl=False, token_rewards=extra
    )
    oracle, losses = base_models()[2], []
    for i, ids in enumerate(sequences):
        logp = (oracle(torch.tensor([ids])).logits[0] / cfg.temperature).log_softmax(1)
        for t in range(1, len(ids)):
            if masks[i][t]:
                ratio, a = (
                    (logp[t - 1, ids[t]] - olds[i][t]).exp(),
                    advantage[i].item() + extra[i][t],
                )
                losses.append(
                    -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a) / sum(map(sum, masks))
                )
    oracle.zero_grad()
    sum(losses).backward()
    assert deviation(found, torch.cat([p.grad.flatten() for p in oracle.parameters()])) < 5e-6
    assert values["loss"] == pytest.approx(sum(losses).item(), abs=1e-6)


def test_truncated_importance_sampling_by_hand(monkeypatch):
    """One row, temperature 1; the old policy is the present one, the sampler had log-probabilities lower by log 3, log .5
    and 0: weights min(3, 2), .5 and 1. So the gradient is that of three rows with advantages 2, .5, 1 for one token each.
    The effective sample size has the ratios 3, .5, 1 uncut: 4.5² / (3 · 10.25); |Δ log p| is log 6 / 3."""
    ids, cfg = [7, 30, 41, 52], config(temperature=1.0, tis=2.0)
    with torch.no_grad():
        logp = models.score(base_models()[0], packing.pack([ids])).logp
    olds, sampled = (
        [[0.0, *logp.tolist()]],
        [[0.0, *(logp - torch.tensor([3, 0.5, 1]).log()).tolist()]],
    )
    found, values = gradient(
        monkeypatch,
        [ids],
        [[False] + [True] * 3],
        olds,
        torch.tensor([1.0]),
        cfg,
        sampled_logps=sampled,
    )
    masks = [[i == t for i in range(4)] for t in (1, 2, 3)]
    expected, _ = gradient(
        monkeypatch, [ids] * 3, masks, olds * 3, torch.tensor([2, 0.5, 1]), config(temperature=1.0)
    )
    assert deviation(found, expected) < 1e-6
    assert values["ess"] == pytest.approx(4.5**2 / (3 * 10.25), abs=1e-6)
    assert (
        values["dlogp"] == pytest.approx(math.log(6) / 3, abs=1e-6) and values["ratio_max"] < 1e-5
    )


@pytest.mark.parametrize("weights, ess", [([1, 1, 1, 1], 1), ([2, 0.5, 0.5, 1], 0.727273)])
def test_effective_sample_size_by_hand(monkeypatch, weights, ess):
    """(Σw)² / (n Σw²): 16 / (4 · 4) and 16 / (4 · 5.5)."""
    ids = [7, 30, 41, 52, 33]
    with torch.no_grad():
        logp = models.score(base_models()[0], packing.pack([ids])).logp
    olds = [[0.0, *(logp - torch.tensor(weights).log()).tolist()]]
    _, values = gradient(
        monkeypatch,
        [ids],
        [[False] + [True] * 4],
        olds,
        torch.tensor([1.0]),
        config(temperature=1.0),
    )
    assert values["ess"] == pytest.approx(ess, abs=1e-5)


def test_rft_is_the_likelihood_of_what_was_accepted(monkeypatch, short):
    """The gradient of --loss rft is that of sft.py's loss on the accepted completions alone; the rejected ones are in no
    count. A group in which all were accepted teaches too."""
    kept, policy = [], base_models()[0]
    monkeypatch.setattr(
        training,
        "update",
        lambda model, *more: (
            kept.append(torch.cat([p.grad.flatten() for p in model.parameters()])) or 1.0
        ),
    )
    rows = [
        [
            {
                "prompt": [5, 8, 6],
                "ids": ids,
                "injected": [],
                "logp": [-1.0] * len(ids),
                "finish": "stop",
                "reward": reward,
                "token_rewards": None,
            }
            for ids, reward in group
        ]
        for group in (
            [([30, 41, EOS], 1.0), ([52, EOS], 0.0)],
            [([33, 34, 35, EOS], 2.0), ([9, EOS], -1.0)],
        )
    ]
    values = grpo.learn(
        running(config(loss="rft", group_size=2, kl_every=0), policy),
        [],
        {"groups": rows, "stats": {}},
        0,
    )
    accepted = [rows[0][0], rows[1][0]]
    batch = packing.pack(
        [row["prompt"] + row["ids"] for row in accepted],
        [[False] * 3 + [True] * len(row["ids"]) for row in accepted],
    )
    logp = models.score(policy, batch, config().temperature).logp
    (-logp.sum() / 7).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    policy.zero_grad(set_to_none=True)
    assert deviation(kept[0], expected) < 1e-6 and values["loss"] == pytest.approx(
        -logp.mean().item(), abs=1e-6
    )
    assert [[row["advantage"] for row in group] for group in rows] == [[1, 0], [1, 0]]


def test_entropy_bonus_raises_entropy():
    """No reward teaches (advantage 0); 5 steps of Adam at a large bonus raise the mean entropy, at -1 they lower it."""
    sequences, masks, olds, advantage = rollout_of_six()
    last = []
    for bonus in (1.0, -1.0):
        policy, cfg = copy.deepcopy(base_models()[0]), config(entropy=bonus)
        optimizers = training.make_optimizers(policy, 1e-3, (0.9, 0.95), 0.0)
        arguments = (
            policy,
            None,
            optimizers,
            grpo.Rollout(sequences, masks, olds, 0 * advantage),
            cfg,
            1.0,
            False,
        )
        entropy = [grpo.update_policy(*arguments)["entropy"] for _ in range(6)]
        last.append(entropy[-1] - entropy[0])
    assert last[0] > 0.1 and last[1] < -0.1


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_gradient_is_the_same_for_any_micro_batch_and_order(monkeypatch, normalise):
    """Sums are divided once, by counts of the whole step. One row at a time, all at once, or shuffled."""
    sequences, masks, olds, advantage = rollout_of_six()
    cfg = {"normalise": normalise, "kl": "k2", "beta": 0.1}
    whole, values = gradient(monkeypatch, sequences, masks, olds, advantage, config(**cfg))
    for size, order in (
        (1, range(6)),
        (26, range(6)),
        (40, [4, 0, 5, 2, 1, 3]),
        (10**6, [5, 3, 1, 0, 4, 2]),
    ):
        found, other = gradient(
            monkeypatch,
            *([x[i] for i in order] for x in (sequences, masks, olds)),
            advantage[list(order)],
            config(**cfg, micro_batch_tokens=size),
        )
        assert deviation(found, whole) < 1e-6
        assert other == pytest.approx(values, abs=1e-5)


def test_masked_tokens_have_no_part_in_the_gradient(monkeypatch):
    """What the decoder reported for a prompt or injected token is not read; a trained token's value is."""
    sequences, masks, olds, advantage = rollout_of_six()
    before, _ = gradient(monkeypatch, sequences, masks, olds, advantage, config())
    others = [[x if m else 99.0 for x, m in zip(old, mask)] for old, mask in zip(olds, masks)]
    assert torch.equal(
        gradient(monkeypatch, sequences, masks, others, advantage, config())[0], before
    )
    others[0][9] += 0.05
    assert (
        gradient(monkeypatch, sequences, masks, others, advantage, config())[0] - before
    ).abs().max() > 1e-4


def test_masked_rows_leave_numerator_and_denominator(monkeypatch):
    """With the token normaliser, rows masked as a whole (truncated) are as if they had not been sampled."""
    sequences, masks, olds, advantage = rollout_of_six()
    kept = [1, 2, 5]
    masks = [mask if i in kept else [False] * len(mask) for i, mask in enumerate(masks)]
    found, values = gradient(monkeypatch, sequences, masks, olds, advantage, config())
    alone, expected = gradient(
        monkeypatch,
        *([x[i] for i in kept] for x in (sequences, masks, olds)),
        advantage[kept],
        config(),
    )
    assert deviation(found, alone) < 1e-6 and values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_a_masked_row_counts_in_no_normaliser(monkeypatch, normalise):
    """Six rows of which three are masked as a whole are as three."""
    sequences, masks, olds, advantage = rollout_of_six()
    kept = [1, 2, 5]
    masks = [mask if i in kept else [False] * len(mask) for i, mask in enumerate(masks)]
    cfg = config(normalise=normalise)
    found, _ = gradient(monkeypatch, sequences, masks, olds, advantage, cfg)
    alone, _ = gradient(
        monkeypatch, *([x[i] for i in kept] for x in (sequences, masks, olds)), advantage[kept], cfg
    )
    assert found.abs().max() > 1e-3 and deviation(found, alone) < 1e-6


def test_equal_rewards_leave_weights_alone_even_with_momentum(monkeypatch):
    """A step without a gradient is no step: Adam's momentum of earlier steps and weight decay do not act either."""
    sequences, masks, olds, advantage = rollout_of_six()
    policy, reference = copy.deepcopy(base_models()[0]), base_models()[1]
    before = [p.detach().clone() for p in policy.parameters()]
    optimizers = training.make_optimizers(policy, 1e-3, (0.9, 0.95), 0.1)
    rollout = grpo.Rollout(sequences, masks, olds, advantage)
    nothing = grpo.Rollout(sequences, masks, olds, 0 * advantage)
    grpo.update_policy(policy, reference, optimizers, rollout, config(), 1.0, True)
    moved = [p.detach().clone() for p in policy.parameters()]
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(before, moved))
    grpo.update_policy(policy, reference, optimizers, nothing, config(), 1.0, True)
    assert all(torch.equal(a, b) for a, b in zip(moved, policy.parameters()))


def test_rows_of_advantage_zero_are_skipped_and_counted(monkeypatch):
    """No forward pass for them where no KL is asked for (row 2 is not packed), the same gradient as with it (measuring
    the KL brings it back), and their tokens stay in the normaliser: without them the gradient is larger by 44 to 35."""
    sequences, masks, olds, advantage = rollout_of_six()
    packed, original = [], packing.pack
    monkeypatch.setattr(
        packing, "pack", lambda rows, *more: packed.extend(rows) or original(rows, *more)
    )
    found, _ = gradient(monkeypatch, sequences, masks, olds, advantage, config(), measure_kl=False)
    assert sequences[2] not in packed and len(packed) == 5
    packed.clear()
    full, _ = gradient(monkeypatch, sequences, masks, olds, advantage, config())
    assert len(packed) == 6 and deviation(full, found) < 1e-6
    others = [0, 1, 3, 4, 5]
    fewer, _ = gradient(
        monkeypatch,
        *([x[i] for i in others] for x in (sequences, masks, olds)),
        advantage[others],
        config(),
    )
    assert sum(map(sum, masks)) == 44 and deviation(fewer * 35 / 44, found) < 1e-6


def test_nothing_to_learn_takes_no_step(monkeypatch):
    """All advantages 0 and no KL term: not even the optimizer's weight decay or momentum moves a weight."""
    sequences, masks, olds, advantage = rollout_of_six()
    found, values = gradient(monkeypatch, sequences, masks, olds, 0 * advantage, config())
    assert found is None and values["grad_norm"] == 0 and values["loss"] == 0


def test_clip_fraction_and_ratio_by_hand(monkeypatch):
    """One row, temperature 1, trained tokens with log-ratios 0.5, -0.5, 0.1 (e^.5 = 1.65 > 1.2, e^-.5 = .61 < .8): for
    A > 0 only the first is clipped, for A < 0 only the second. The furthest ratio is |e^.5 - 1| = .6487."""
    ids = [7, 30, 41, 52]
    with torch.no_grad():
        logp = models.score(base_models()[0], packing.pack([ids])).logp
    olds = [[0.0, *(logp - torch.tensor([0.5, -0.5, 0.1])).tolist()]]
    for advantage in (1.0, -1.0):
        _, values = gradient(
            monkeypatch,
            [ids],
            [[False] + [True] * 3],
            olds,
            torch.tensor([advantage]),
            config(temperature=1.0),
        )
        assert values["clip_fraction"] == pytest.approx(1 / 3, abs=1e-9)
        assert values["ratio_max"] == pytest.approx(math.exp(0.5) - 1, abs=1e-5)
    assert (
        gradient(
            monkeypatch,
            [ids],
            [[False] + [True] * 3],
            olds,
            torch.tensor([1.0]),
            config(temperature=1.0, eps_high=0.7),
        )[1]["clip_fraction"]
        == 0
    )


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_kl_pulls_the_policy_to_the_reference(kind):
    """8 x 6 completions of the policy; rewards teach nothing (advantage 0), β is large. 8 steps of Adam
    bring the measured KL(policy ‖ reference) from .007 nats per token below .003; with the wrong sign it would grow."""
    policy, reference = copy.deepcopy(base_models()[0]), base_models()[1]
    cfg = config(kl=kind, beta=5.0, group_size=6, max_tokens=30)
    problems = tiny.problems("math", 8, 1, "train")
    groups = grpo.sample_groups(running(cfg, policy), problems, ("rollout", 0), range(8))
    sequences, masks, olds = grpo.token_columns([row for group in groups for row in group], cfg)
    optimizers = training.make_optimizers(policy, 1e-3, (0.9, 0.95), 0.0)
    arguments = (
        policy,
        reference,
        optimizers,
        grpo.Rollout(sequences, masks, olds, torch.zeros(48)),
        cfg,
        1.0,
        True,
    )
    kl = [grpo.update_policy(*arguments)["kl"] for _ in range(9)]
    assert kl[0] > 0.006 and kl[-1] < 0.003


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_of_rows_equals_a_loop(kind):
    """Summed over the trained tokens of each row, on transformers' forward; what the policy finds likelier than the
    reference does is a positive k1. Row 3 has one trained token, and what masked tokens hold is not read."""
    sequences, masks, olds, _ = rollout_of_six()
    cfg, expected = config(kl=kind, micro_batch_tokens=30), []
    for ids, mask, old in zip(sequences, masks, olds):
        with torch.no_grad():
            ref = (base_models()[3](torch.tensor([ids])).logits[0] / cfg.temperature).log_softmax(1)
        d = [ref[t - 1, ids[t]].item() - old[t] for t in range(1, len(ids)) if mask[t]]
        expected.append(
            sum({"k1": -x, "k2": x * x / 2, "k3": math.exp(x) - 1 - x}[kind] for x in d)
        )
    others = [[x if m else 99.0 for x, m in zip(old, mask)] for old, mask in zip(olds, masks)]
    assert grpo.kl_of_rows(
        base_models()[1], sequences, masks, others, cfg
    ).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_kl_in_the_reward_has_the_gradient_of_the_kl():
    """Exact, as above, p = [.5, .5] against [.25, .75]: Σ p (-k1) ∇ log p is minus the gradient of KL(p‖ref), here
    ±.274653, whatever the baseline; in the loss k1 has none."""
    ref, logits = torch.tensor([0.25, 0.75]), torch.zeros(2, requires_grad=True)
    logp = logits.log_softmax(0)
    penalty = grpo.kl_estimate(logp.detach(), ref.log(), "k1")
    tokens = Tokens(logp.detach(), -penalty + 3.0, torch.tensor([0, 1]))
    value, _ = grpo.reinforce(logp, tokens, config())
    (logp.exp().detach() * value).sum().backward()
    assert close(logits.grad, [-0.274653, 0.274653])


# ---- Whole runs --------------------------------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def short(tmp_path, monkeypatch):
    """short(flag=value, ...): settings of a small run on the shipped base model: 3 prompts of 4 samples a step."""
    data = write(tmp_path / "train.jsonl", tiny.problems("math", 24, 0, "train"))
    # takes time; tested by itself
    monkeypatch.setattr(watch, "draw_curves", lambda *arguments: None)

    def make(**more):
        return grpo.Config(
            **{
                "model": BASE,
                "data": data,
                "out": str(tmp_path / "out"),
                "steps": 2,
                "prompts_per_step": 3,
                "group_size": 4,
                "max_tokens": 40,
                "lr": 5e-4,
                "micro_batch_tokens": 32768,
                **more,
            }
        )

    return make


calls_more = []  # the rewards of tokens in these calls


@pytest.fixture
def spied(monkeypatch):
    """Calls of update_policy in a run: (sequences, masks, old_logps, advantage, what it returned)."""
    calls, original = [], grpo.update_policy

    def spy(model, reference, optimizers, rollout, *more):
        values = original(model, reference, optimizers, rollout, *more)
        calls.append(
            (rollout.sequences, rollout.masks, rollout.old_logps, rollout.advantage, values)
        )
        spied_more.append(rollout.token_rewards)
        return values

    spied_more = calls_more
    spied_more.clear()
    monkeypatch.setattr(grpo, "update_policy", spy)
    return calls


FIELDS = {
    "step",
    "reward",
    "accuracy",
    "n_tokens",
    "truncated",
    "equal_groups",
    "loss",
    "entropy",
    "kl",
    "ratio_first",
    "clip_fraction",
    "grad_norm",
    "lr",
    "dlogp",
    "ess",
    "n_groups",
    "reward_failures",
    "rollout_tok_s",
    "rollout_seconds",
    "update_tok_s",
    "update_seconds",
    "rollout_tokens",
    "rollout_flops",
    "train_tokens",
    "train_flops",
}


def test_a_real_run(tmp_path, short):
    """8 steps of 8 x 8 completions. Policy and reference are one model at step 1 (KL below 1e-6) and drift apart
    (above 1e-5); rollout and training agree at every step; on-policy nothing is clipped."""
    history = grpo.main(short(steps=8, prompts_per_step=8, group_size=8, max_tokens=64))
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log == history and [h["step"] for h in history] == list(range(1, 9))
    for h in history:
        assert set(h) == FIELDS and all(math.isfinite(x) for x in h.values())
        assert (
            h["reward"] == pytest.approx(h["accuracy"])
            and 0 < h["n_tokens"] <= 64
            and 0 <= h["truncated"] <= 1
        )
        assert h["ratio_first"] < 1e-4 and h["clip_fraction"] == 0 and h["entropy"] > 0.01
    assert abs(history[0]["kl"]) < 1e-6 and all(h["kl"] > 1e-5 for h in history[2:])
    assert max(h["grad_norm"] for h in history) > 1e-3
    book = {row["phase"]: row for row in read_rows(tmp_path / "out" / "flops.jsonl")}
    assert (
        book["rollout"]["tokens"] == round(64 * sum(h["n_tokens"] for h in history))
        and book["rollout"]["flops"] > 1e9
    )
    # forward and backward over rows with an advantage
    assert 0 < book["train"]["flops"] <= 3 * book["rollout"]["flops"]
    samples = [
        json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    ]
    assert [s["step"] for s in samples] == list(range(1, 9)) and {
        len(s["group"]) for s in samples
    } == {8}
    trained, start = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(Path(BASE) / "model.safetensors"),
    )
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert loading.load(tmp_path / "out")[1].eos_token_id == EOS


def test_accuracies_of_each_visit(tmp_path, short, monkeypatch):
    """3 problems, 2 of them a step: in 3 steps each is sampled twice. The shares are those of the
    rewards, for a reward of 0 and 1, and curate.py ranks by them."""
    rewards, original = {}, grpo.add_rewards

    def spy(group, verdict):
        rewards.setdefault(group[0]["id"], []).append(sum(verdict["reward"]) / len(group))
        original(group, verdict)

    monkeypatch.setattr(grpo, "add_rewards", spy)
    data = write(tmp_path / "three.jsonl", tiny.problems("math", 3, 0, "train"))
    grpo.main(short(data=data, steps=3, prompts_per_step=2))
    rows = read_rows(tmp_path / "out" / "accuracies.jsonl")
    assert {row["id"]: row["accuracies"] for row in rows} == rewards
    assert [len(row["accuracies"]) for row in rows] == [2, 2, 2]
    assert len({value for row in rows for value in row["accuracies"]}) > 1
    assert all(row["question"] for row in rows)
    one = curate.Config(
        data=str(tmp_path / "out" / "accuracies.jsonl"),
        out=str(tmp_path / "one.jsonl"),
        method="variance",
        k=1,
    )
    (chosen,) = curate.main(one)
    assert chosen["score"] == max(statistics.pstdev(row["accuracies"]) for row in rows)


def test_without_kl_there_is_no_reference(short, tmp_path, monkeypatch):
    """--kl-every 0 and --beta 0 load one model, log no KL, and train the same weights (measuring must not act)."""
    loaded, original = [], loading.load
    monkeypatch.setattr(
        loading, "load", lambda *arguments: loaded.append(arguments) or original(*arguments)
    )
    history = grpo.main(short(kl_every=0, steps=2))
    without = load_file(tmp_path / "out" / "model.safetensors")
    assert len(loaded) == 1 and all(h["kl"] is None and h["grad_norm"] > 0 for h in history)
    grpo.main(short(kl_every=1, steps=2, overwrite=True))
    measured, start = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(Path(BASE) / "model.safetensors"),
    )
    moved = max((without[name] - start[name]).abs().max() for name in start)
    assert len(loaded) == 3 and moved > 1e-4
    assert max((without[name] - measured[name]).abs().max() for name in start) < 0.01 * moved


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_ratio_is_one_at_any_temperature(short, temperature):
    """Old log-probabilities are taken at the sampling temperature, from the cache; training divides
    by it too. Without that the ratio would be off by far more than 0.1 at some token."""
    history = grpo.main(short(temperature=temperature, max_tokens=64))
    assert all(h["ratio_first"] < 1e-4 for h in history) and history[1]["grad_norm"] > 0


def test_ratio_is_one_with_a_head_larger_than_the_tokenizer(tmp_path, short):
    """Ids that the tokenizer lacks are never sampled (157 logits, 149 words; Qwen2.5: 151,936 and
    151,665), so training must leave them out of its softmax as well."""
    torch.manual_seed(0)
    size = Qwen3Config(
        vocab_size=157,
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=200,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    loading.save(Qwen3ForCausalLM(size), tiny.tokenizer(), tmp_path / "larger")
    history = grpo.main(short(model=str(tmp_path / "larger"), reward="random:0.5", steps=1))
    assert history[0]["grad_norm"] > 0 and history[0]["ratio_first"] < 1e-4


def test_what_is_trained(short, spied):
    """The mask covers each completion, its end-of-sequence token included, and nothing of the prompt;
    groups of 4 stand together; texts differ inside a group, for the sample number is in the key."""
    grpo.main(short(prompts_per_step=8))
    tokenizer, stopped = tiny.tokenizer(), 0
    start = tokenizer.convert_tokens_to_ids("<think>")
    for sequences, masks, old_logps, advantage, _ in spied:
        assert len(sequences) == len(masks) == len(old_logps) == len(advantage) == 32
        for ids, mask, old in zip(sequences, masks, old_logps):
            n_prompt = ids.index(start) + 1
            assert mask == [False] * n_prompt + [True] * (len(ids) - n_prompt) and len(old) == len(
                ids
            )
            assert (
                all(x <= 0 for x in old[n_prompt:])
                and min(old[n_prompt:]) < -0.01
                and set(old[:n_prompt]) == {0.0}
            )
            stopped += ids[-1] == EOS
        prompts = [tuple(ids[: ids.index(start)]) for ids in sequences]
        assert (
            all(len(set(prompts[i : i + 4])) == 1 for i in range(0, 32, 4))
            and len(set(prompts)) == 8
        )
        assert len({tuple(ids) for ids in sequences}) > 24
    assert stopped > 10


def test_injected_and_truncated_tokens_are_masked(short, spied, monkeypatch):
    """Every third completion token is declared injected: it is not trained. With --mask-truncated a
    completion that was cut is not trained at all, and stays in its group's mean."""
    original = grpo.sample_groups

    def rollout(*arguments):
        groups = original(*arguments)
        return [
            [row | {"injected": list(range(1, len(row["ids"]), 3))} for row in group]
            for group in groups
        ]

    monkeypatch.setattr(grpo, "sample_groups", rollout)
    grpo.main(short(mask_truncated=True, steps=1, prompts_per_step=8, max_tokens=24))
    ((sequences, masks, _, advantage, _),) = spied
    start, cut = tiny.tokenizer().convert_tokens_to_ids("<think>"), 0
    for ids, mask in zip(sequences, masks):
        n_prompt, n = ids.index(start) + 1, len(ids) - ids.index(start) - 1
        truncated = ids[-1] != EOS
        assert mask == [False] * n_prompt + [i % 3 != 1 and not truncated for i in range(n)]
        cut += truncated
    assert 0 < cut < 32 and len(advantage) == 32


@pytest.mark.parametrize("probability", [0, 1])
def test_a_reward_without_variance_moves_nothing(tmp_path, short, probability):
    """random:0 and random:1 give every group equal rewards: each weight stays bit for bit, weight decay included."""
    history = grpo.main(short(reward=f"random:{probability}", steps=2, weight_decay=0.1))
    trained, start = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(Path(BASE) / "model.safetensors"),
    )
    assert set(trained) == set(start) and all(
        torch.equal(trained[name], start[name]) for name in start
    )
    assert [(h["reward"], h["equal_groups"], h["grad_norm"]) for h in history] == [
        (probability, 3, 0.0)
    ] * 2


@pytest.mark.parametrize(
    "flags",
    [
        {"loss": "nft"},
        {"loss": "gspo", "eps_low": 3e-4, "eps_high": 4e-4},
        {"loss": "cispo", "baseline": "others", "adv_std": "none"},
        {"loss": "reinforce", "adv_std": "batch", "entropy": 1e-3},
    ],
    ids=str,
)
def test_a_run_with_each_objective(short, spied, flags):
    """Two updates of 8 x 4 completions: the first on-policy (nothing clipped), and the weights move. NFT is told the
    mean reward of each group; the advantages are those of the flags."""
    history = grpo.main(
        short(
            reward="random:0.5",
            updates_per_rollout=2,
            steps=1,
            prompts_per_step=8,
            lr=2e-3,
            **flags,
        )
    )
    assert (
        history[0]["ratio_first"] < 1e-4
        and history[0]["grad_norm"] > 0
        and spied[0][4]["clip_fraction"] == 0
    )
    assert spied[1][4]["ratio_max"] > 1e-3 and all(math.isfinite(x) for x in history[0].values())
    if flags["loss"] in ("gspo", "cispo"):
        assert history[0]["clip_fraction"] > 0


def test_budgets_reach_the_reward(short, spied, tmp_path):
    """LCPO needs no variance of right and wrong: with alpha = 1 the sample nearest to its budget of 9 tokens has the
    largest advantage of its group, where all are wrong."""
    problems = [p | {"budget": 9, "target": 987654} for p in tiny.problems("math", 8, 3, "train")]
    grpo.main(short(data=write(tmp_path / "budget.jsonl", problems), reward="lcpo:1", steps=1))
    ((sequences, masks, _, advantage, _),) = spied
    off = torch.tensor([abs(sum(mask) - 9.0) for mask in masks]).view(3, 4)
    assert (
        close(advantage.view(3, 4), grpo.advantages(-off).tolist(), 1e-4)
        and len(set(off.flatten().tolist())) > 3
    )


def test_kl_in_the_reward_of_a_run(short, spied, monkeypatch):
    """Rewards 0 and KL sums of 0, 1, 2 ... at β = .5: a row with a larger sum has a smaller advantage, the logged reward
    is that without the KL, and update_policy has no KL of its own in its loss."""
    monkeypatch.setattr(
        grpo, "kl_of_rows", lambda reference, sequences, *more: torch.arange(len(sequences)).float()
    )
    history = grpo.main(
        short(reward="random:0", kl="k1", beta=0.5, kl_in="reward", adv_std="none", steps=1)
    )
    assert history[0]["reward"] == 0 and close(spied[0][3], [0.75, 0.25, -0.25, -0.75] * 3)
    assert abs(history[0]["loss"]) < 1 and history[0]["grad_norm"] > 0


def test_second_update_of_a_rollout_is_off_policy(short, spied):
    """--updates-per-rollout 2: the same old log-probabilities twice; the second pass sees what the first changed."""
    history = grpo.main(
        short(updates_per_rollout=2, steps=1, reward="random:0.5", lr=2e-3, max_tokens=64)
    )
    (*first, before), (*second, after) = spied
    assert first[:3] == second[:3] and torch.equal(first[3], second[3])
    assert before["ratio_max"] < 1e-4 and after["ratio_max"] > 1e-2
    assert history[0]["ratio_first"] == before["ratio_max"]
    assert history[0]["clip_fraction"] == after["clip_fraction"] > 0


def test_parts_of_a_rollout(short, spied):
    """--minibatches 3 of 3 groups: an update each, the first on-policy, the others with the old policy of the rollout; each
    group is in one part whole. The gradient of the first part is that of a rollout of this group alone."""
    history = grpo.main(
        short(minibatches=3, steps=1, prompts_per_step=3, reward="random:0.5", lr=2e-3)
    )
    assert [len(call[0]) for call in spied] == [4, 4, 4] and len(
        {tuple(c[0][0][:8]) for c in spied}
    ) == 3
    assert spied[0][4]["ratio_max"] < 1e-4 < 1e-3 < spied[2][4]["ratio_max"]
    assert (
        history[0]["ratio_first"] == spied[0][4]["ratio_max"]
        and history[0]["dlogp"] == spied[2][4]["dlogp"]
    )
    spied.clear()
    grpo.main(
        short(minibatches=3, updates_per_rollout=2, steps=1, reward="random:0.5", overwrite=True)
    )
    assert [call[0] for call in spied[:3]] == [call[0] for call in spied[3:]] and len(spied) == 6


def test_budgets_are_drawn_and_said(short, spied, monkeypatch):
    """--budgets: a number of the range for each problem, the same at every visit, in L1's words at the end of the question
    and in the reward: with alpha 1 the sample nearest to it has the largest advantage where all are wrong."""
    asked, original = [], grpo.sample_groups
    monkeypatch.setattr(
        grpo,
        "sample_groups",
        lambda here, problems, *more: asked.extend(problems) or original(here, problems, *more),
    )
    grpo.main(short(budgets=(5, 30), reward="lcpo:1", steps=1, prompts_per_step=24))
    assert all(format.asked(p).endswith(f"Think for {p['budget']} tokens.") for p in asked)
    assert all(5 <= p["budget"] <= 30 for p in asked) and len({p["budget"] for p in asked}) > 8
    first = {p["id"]: p["budget"] for p in asked}
    asked.clear()
    grpo.main(
        short(budgets=(5, 30), reward="lcpo_max", steps=1, prompts_per_step=24, overwrite=True)
    )
    assert {p["id"]: p["budget"] for p in asked} == first and "Think for maximum" in format.asked(
        asked[0]
    )
    asked.clear()
    more = {"budget_words": "first", "steps": 1, "overwrite": True}
    grpo.main(short(budgets=(5, 30), reward="lcpo", **more))
    assert all(format.asked(p) == f"{first[p['id']]} {p['question']}" for p in asked)
    asked.clear()
    grpo.main(short(budgets=(5, 31, 10), reward="lcpo", prompts_per_step=24, **more))
    assert {p["budget"] for p in asked} == {5, 15, 25}
    with pytest.raises(BadInput, match="--ask first:5[1-9]: the tokenizer has no word"):
        grpo.main(short(budgets=(51, 59), reward="lcpo", **more))


def test_a_problem_twice_in_one_step_is_sampled_twice(short, spied, tmp_path):
    """2 problems, 3 prompts a step: one of them has two places. Its 8 samples are 8 draws, not 4 copied ones."""
    data = write(tmp_path / "two.jsonl", tiny.problems("math", 2, 3, "train"))
    grpo.main(short(data=data, steps=1))
    assert len({tuple(ids) for ids in spied[0][0]}) > 9


def test_a_problem_is_sampled_anew_at_each_step(short, spied, tmp_path):
    """1 problem, 7 samples a step, weights that never move (random:0): the second step writes other texts."""
    data = write(tmp_path / "one.jsonl", tiny.problems("math", 1, 3, "train"))
    grpo.main(short(data=data, reward="random:0", prompts_per_step=1, group_size=7))
    first, second = ({tuple(ids) for ids in call[0]} for call in spied)
    assert len(first & second) < 3 and len(second) > 3


def test_held_out_accuracy_is_logged(tmp_path, short):
    """Every second step and at the last: steps 2 and 3 of 3."""
    held_out = write(tmp_path / "held_out.jsonl", tiny.problems("math", 10, 0, "held_out"))
    history = grpo.main(short(steps=3, eval_data=held_out, eval_every=2))
    assert ["held_out" in h for h in history] == [False, True, True] and 0 <= history[1][
        "held_out"
    ] <= 1
    assert history[1]["held_out"] * 10 % 1 == pytest.approx(0, abs=1e-9)


def test_held_out_prompts_past_the_context_are_left_out(tmp_path, short, capsys):
    """As training prompts are; the accuracy is of the others."""
    rows = tiny.problems("math", 5, 0, "held_out")
    rows[2] |= {"question": rows[2]["question"] + " perhaps" * 600}
    history = grpo.main(
        short(steps=1, eval_data=write(tmp_path / "held_out.jsonl", rows), eval_every=1)
    )
    assert (
        "held_out.jsonl: 1 of 5 problems too long for the context left out"
        in capsys.readouterr().out
    )
    assert history[0]["held_out"] * 4 % 1 == pytest.approx(0, abs=1e-9)


def test_what_the_chat_template_adds_is_said(short, monkeypatch, capsys):
    monkeypatch.setattr(template.Template, "describe", lambda self: "chat template: adds X")
    grpo.main(short(steps=1))
    assert capsys.readouterr().out.count("chat template: adds X\n") == 1


def test_an_out_that_cannot_be_written_costs_one_line(tmp_path, short):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="^--out .*file/out: .*Not a directory"):
        grpo.main(short(out=str(tmp_path / "file" / "out")))


@pytest.mark.parametrize("question", [7, ["compare 1 2"], "compare \ud800 2"])
def test_a_question_that_is_no_text_is_refused(tmp_path, short, question):
    """By its row, of the held-out problems too, and before anything is written."""
    data = tmp_path / "odd.jsonl"
    rows = [{"id": i, "question": "compare 1 2", "answer": "low"} for i in range(3)]
    data.write_text(
        "".join(
            json.dumps(row | {"question": question} if row["id"] == 1 else row) + "\n"
            for row in rows
        )
    )
    for flag in ("data", "eval_data"):
        with pytest.raises(BadInput, match="odd.jsonl: row '1': 'question' is not a text"):
            grpo.main(short(**{flag: str(data)}))
    assert not (tmp_path / "out").exists()


DIE = """
import os, signal, sys
import grpo
original, calls = grpo.decode, []
def decode(*arguments):
    calls.append(1)
    for number, found in enumerate(original(*arguments)):
        if len(calls) == 4 and number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield found
grpo.decode = decode
from engine import settings
grpo.main(settings.parse(grpo.Config, sys.argv[1:]))
"""


def test_a_killed_run_continues_bit_for_bit(tmp_path, short):
    """kill -9 in the middle of step 4, the last checkpoint is of step 2: the same command ends with the same bytes of
    weights as a run that was let alone, and with the same log apart from times. The log's line of step 3, and half a
    line behind it, are written anew."""
    flags = {
        "steps": 5,
        "save_every": 2,
        "warmup": 0.4,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "max_tokens": 48,
    }
    whole = grpo.main(short(**flags, out=str(tmp_path / "whole")))
    cfg = short(**flags)
    given = [
        x
        for name, value in vars(cfg).items()
        for x in ("--" + name.replace("_", "-"), str(value))
        if name in {*flags, "model", "data", "out", "prompts_per_step", "group_size", "lr"}
    ]
    died = subprocess.run(
        [sys.executable, "-c", DIE, *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)},
    )
    assert died.returncode == -9, died.stderr[-2000:]
    out = tmp_path / "out"
    assert [p.name for p in checkpoints.saved_checkpoints(out)] == ["checkpoint-2"] and not (
        out / "model.safetensors"
    ).exists()
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 4, "rewa')
    assert len(grpo.main(cfg)) == 3
    assert (out / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()

    def timeless(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            {k: v for k, v in row.items() if not k.endswith(("tok_s", "seconds"))} for row in rows
        ]

    assert (
        timeless(out / "log.jsonl") == timeless(tmp_path / "whole" / "log.jsonl")
        and len(whole) == 5
    )
    for name in ("samples.jsonl", "accuracies.jsonl"):
        assert timeless(out / name) == timeless(tmp_path / "whole" / name)
    assert not checkpoints.saved_checkpoints(out)
    assert grpo.main(cfg) == []  # complete: nothing is done
    with pytest.raises(BadInput, match="lr: 0.0005 there, 0.1 here"):
        grpo.main(short(**flags | {"lr": 0.1}))


# ---- Off the policy, and other ways to fill a batch --------------------------------------------------------------------


def test_another_model_samples_its_share(short):
    """--offpolicy-frac .5 of groups of 4: the first two of each come from the other model and have its log-probabilities,
    the others the policy's."""
    problems, policy = tiny.problems("math", 3, 1, "train"), loading.load(BASE)[0]
    other = copy.deepcopy(policy).requires_grad_(False)
    for p in other.parameters():
        p *= 1.1
    cfg = short(offpolicy_frac=0.5)
    here = running(cfg, policy, other=other)
    rows = [
        row
        for group in grpo.sample_groups(here, problems, ("rollout", 0), range(len(problems)))
        for row in group
    ]
    sequences, masks, sampled = grpo.token_columns(rows, cfg)
    for model, mine in ((policy, (2, 3)), (other, (0, 1))):
        for i, (values, olds) in enumerate(
            zip(grpo.logps_of(model, sequences, masks, cfg), sampled)
        ):
            same = max(abs(a - b) for a, b in zip(values, olds)) < 1e-4
            assert same == (i % 4 in mine), (i, mine)
    assert [row["sample"] for row in rows] == [0, 1, 2, 3] * 3


def test_a_run_off_the_policy(short, spied, tmp_path):
    """All samples from the base model: at step 1 it is the policy, later not, and effective sample size, |Δ log p| and the
    first ratio say so, without a warning of drift. With --tis the ratio is that to the policy itself."""
    history = grpo.main(short(offpolicy_frac=1.0, steps=3, reward="random:0.5", lr=3e-3))
    assert history[0]["ess"] == pytest.approx(1, abs=1e-6) and history[0]["dlogp"] < 1e-5
    assert (
        history[2]["ess"] < 0.999
        and history[2]["dlogp"] > 1e-3
        and history[2]["ratio_first"] > 1e-2
    )
    again = grpo.main(
        short(
            offpolicy_frac=1.0,
            steps=3,
            reward="random:0.5",
            lr=3e-3,
            tis=2.0,
            out=str(tmp_path / "tis"),
        )
    )
    assert (
        again[2]["ratio_first"] < 1e-4
        and again[2]["dlogp"] > 1e-3
        and again[2]["clip_fraction"] == 0
    )
    assert again[0]["grad_norm"] == pytest.approx(history[0]["grad_norm"], rel=1e-4)


def test_lag(short, spied, capsys):
    """--lag 2: the rollouts of steps 1 to 3 come from the base model, that of step 4 from the weights after step 1."""
    history = grpo.main(short(lag=2, steps=4, reward="random:0.5", lr=2e-3))
    cfg, base = short(), loading.load(BASE)[0]
    worst = [
        max(
            abs(a - b)
            for of_base, of_sampler in zip(grpo.logps_of(base, sequences, masks, cfg), olds)
            for a, b in zip(of_base, of_sampler)
        )
        for sequences, masks, olds, *_ in spied
    ]
    assert max(worst[:3]) < 1e-4 and worst[3] > 1e-3
    assert [h["ratio_first"] > 1e-3 for h in history] == [False, True, True, True]
    assert history[0]["ess"] == pytest.approx(1, abs=1e-6) and history[2]["ess"] < 1 - 1e-6
    assert "warning: rollout and training" not in capsys.readouterr().out


def test_lag_without_learning_changes_nothing(short, spied):
    """random:0 never moves a weight: with a lag the same completions are trained, in the same order."""
    grpo.main(short(reward="random:0", steps=3))
    texts = [call[0] for call in spied]
    spied.clear()
    grpo.main(short(reward="random:0", steps=3, lag=2, overwrite=True))
    assert [call[0] for call in spied] == texts


def test_reference_refresh(short, tmp_path):
    """--ref-refresh 2: the KL grows to step 2 and 4 and is 0 at steps 1, 3 and 5, which begin at the reference."""
    kl = [h["kl"] for h in grpo.main(short(ref_refresh=2, steps=5, reward="random:0.5", lr=2e-3))]
    assert max(kl[0], kl[2], kl[4]) < 1e-6 and min(kl[1], kl[3]) > 1e-6
    fixed = [
        h["kl"]
        for h in grpo.main(
            short(steps=5, reward="random:0.5", lr=2e-3, out=str(tmp_path / "fixed"))
        )
    ]
    assert fixed[1] == pytest.approx(kl[1]) and fixed[2] > 1e-5


def test_another_reference(short, tmp_path, capsys):
    """--reference: the KL is to that model, from step 1 on. One with another tokenizer is refused in one line."""
    model, tokenizer = loading.load(BASE)
    with torch.no_grad():
        for p in model.parameters():
            p *= 1.05
    loading.save(model, tokenizer, tmp_path / "near")
    assert grpo.main(short(reference=str(tmp_path / "near"), steps=1))[0]["kl"] > 1e-4
    renamed = json.loads(
        (tmp_path / "near" / "tokenizer.json").read_text().replace('"perhaps"', '"possibly"')
    )
    (tmp_path / "near" / "tokenizer.json").write_text(json.dumps(renamed))
    for flag in ("reference", "offpolicy_model"):
        with pytest.raises(
            BadInput,
            match=f"--{flag.replace('_', '-')} .*near: another tokenizer than that of --model",
        ):
            grpo.main(
                short(**{flag: str(tmp_path / "near")}, offpolicy_frac=0.5, out=str(tmp_path / "x"))
            )


def test_a_killed_run_keeps_its_waiting_rollouts_and_its_reference(short, tmp_path, monkeypatch):
    """Stopped in step 5 of 6, the last checkpoint is of step 4: with --lag 1 a rollout was waiting then, sampled with
    earlier weights, and the reference was refreshed at step 3. Weights and log are those of a run that was let alone."""
    flags = {
        "lag": 1,
        "ref_refresh": 3,
        "steps": 6,
        "save_every": 2,
        "reward": "random:0.5",
        "lr": 2e-3,
        "kl": "k2",
        "beta": 0.1,
    }
    whole = grpo.main(short(**flags, out=str(tmp_path / "whole")))
    original = grpo.learn

    def stop(here, optimizers, batch, step):
        if step == 4:
            raise KeyboardInterrupt
        return original(here, optimizers, batch, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grpo, "learn", stop)
        grpo.main(short(**flags))
    (checkpoint,) = checkpoints.saved_checkpoints(tmp_path / "out")
    assert (
        checkpoint.name == "checkpoint-4"
        and len(checkpoints.read_state(checkpoint)[2]["queue"]) == 1
    )
    state = json.loads((checkpoint / "state.json").read_text())
    del state["lengths"]  # a checkpoint of before groups were dealt by length
    state["sum"] = checkpoints._sum_of_state(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    rest = grpo.main(short(**flags))
    assert [
        {k: v for k, v in h.items() if not k.endswith(("tok_s", "seconds"))} for h in whole[4:]
    ] == [{k: v for k, v in h.items() if not k.endswith(("tok_s", "seconds"))} for h in rest]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_dynamic_sampling_fills_the_batch(short, spied):
    """Three prompts of 4 samples a round, until three groups are neither all right nor all wrong. Every trained group is
    mixed, all that was sampled is in the log's reward, and without the flag some groups were not mixed."""
    history = grpo.main(short(dynamic_sampling=True, steps=2))
    assert [len(call[0]) for call in spied] == [12, 12] and all(
        h["equal_groups"] > 0 for h in history
    )
    for *_, advantage, _ in spied:
        assert all(len(set(group)) > 1 for group in advantage.view(3, 4).tolist())
    assert all(h["n_groups"] % 3 == 0 and 3 < h["n_groups"] <= 30 for h in history)
    assert all(h["n_groups"] >= 3 + h["equal_groups"] - 2 for h in history)


def test_dynamic_sampling_looks_at_correctness_not_at_length(short, spied, tmp_path, monkeypatch):
    """cosine differs in every group of unequal lengths; on problems that nobody solves all groups are filtered: three
    rounds, a line that says so, weights as they were, and the run goes on."""
    monkeypatch.setattr(grpo, "MAX_ROUNDS", 3)
    problems = [p | {"target": 987654} for p in tiny.problems("math", 8, 3, "train")]
    data = write(tmp_path / "hard.jsonl", problems)
    history = grpo.main(short(data=data, dynamic_sampling=True, reward="cosine", steps=2))
    assert [(h["n_groups"], h["grad_norm"], h["loss"]) for h in history] == [
        (9, 0.0, None)
    ] * 2 and not spied
    assert history[0]["equal_groups"] < 9
    trained, start = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(Path(BASE) / "model.safetensors"),
    )
    assert all(torch.equal(trained[name], start[name]) for name in start)
    grpo.main(short(data=data, reward="cosine", steps=1, out=str(tmp_path / "all")))
    assert spied[0][3].abs().max() > 0.5


def test_all_groups_filtered_is_a_clear_line(short, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grpo, "MAX_ROUNDS", 2)
    data = write(
        tmp_path / "hard.jsonl",
        [p | {"target": 987654} for p in tiny.problems("math", 8, 3, "train")],
    )
    grpo.main(short(data=data, dynamic_sampling=True, steps=1))
    assert "step 1: all 6 groups of 2 rounds are all right or all wrong" in capsys.readouterr().out


def test_votes(short, spied):
    """TTRL: six vote, the first four are trained. The rewards are agreement with the majority of six, the advantages are
    taken within the four, and the log compares the labels with the gold answers."""
    history = grpo.main(short(reward="vote", votes=6, steps=1, prompts_per_step=8))
    ((sequences, masks, _, advantage, _),) = spied
    assert len(sequences) == 32 and history[0]["n_groups"] == 8
    assert all(
        0 <= history[0][name] <= 1
        for name in ("label_accuracy", "majority_share", "reward_accuracy")
    )
    assert history[0]["majority_share"] >= 1 / 6 and history[0]["label_accuracy"] * 8 % 1 == 0
    assert history[0]["reward_accuracy"] * 48 % 1 == pytest.approx(0, abs=1e-6)
    sums = advantage.view(8, 4).sum(1)
    assert sums.abs().max() < 1e-4 and advantage.abs().max() > 0.5


def test_self_certainty_of_a_run(short, spied):
    """Every completion has its own certainty, so no group is equal, and the weights move without any gold answer."""
    history = grpo.main(short(reward="self_certainty", steps=1))
    assert (
        history[0]["reward"] > 0 and history[0]["equal_groups"] == 0 and history[0]["grad_norm"] > 0
    )
    assert spied[0][3].abs().max() > 0.5


def test_dense_repetition_of_a_run(short, spied):
    """Returns of tokens reach the update, 0 in the prompts; all rewards of rows are 0, and the weights move."""
    history = grpo.main(short(reward="dense_repetition:2,-0.1", steps=1))
    sequences, masks = spied[0][:2]
    per_token = calls_more[0]
    assert all(
        len(values) == len(ids) and not any(v for v, m in zip(values, mask) if not m)
        for values, ids, mask in zip(per_token, sequences, masks)
    )
    assert (
        min(map(min, per_token)) < -0.1
        and history[0]["reward"] == 0
        and history[0]["grad_norm"] > 0
    )


# ---- Rewards that fail -------------------------------------------------------------------------------------------------

ACTS = """
import os, time
from grading.rewards import score_group
def score(item):
    question = item["rows"][0]["question"]
    if question.endswith("7"):
        time.sleep(60)
    if question.endswith("8"):
        os._exit(9)
    if question.endswith("9"):
        raise ValueError("what is this?")
    return score_group(item)
"""


def test_rewards_that_hang_or_crash_are_counted_and_left_out(
    short, spied, tmp_path, monkeypatch, capsys
):
    """Of six problems one hangs, one ends its process, one raises: three groups are trained, the log counts three failures,
    the terminal names each, and the mean reward is that of the others."""
    (tmp_path / "acts.py").write_text(ACTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(grpo, "Workers", lambda name, n, limit: Workers("acts:score", n, limit))
    problems = [
        {"id": f"p{i}", "question": f"compare {i} 2", "answer": "low"} for i in range(3)
    ] + [{"id": f"p{i}", "question": f"compare 4 {i}", "answer": "low"} for i in (7, 8, 9)]
    history = grpo.main(
        short(
            data=write(tmp_path / "six.jsonl", problems),
            prompts_per_step=6,
            steps=1,
            reward="format+random:0.5",
            reward_seconds=0.4,
        )
    )
    said = capsys.readouterr().out
    assert (
        history[0]["reward_failures"] == 3
        and history[0]["n_groups"] == 3
        and len(spied[0][0]) == 12
    )
    for line in (
        "problem p7, left out: timeout, no result in 0.4 seconds",
        "problem p8, left out: crash, the process ended with status 9",
        "problem p9, left out: error, ValueError: what is this?",
        "left out: 3",
    ):
        assert line in said
    with pytest.raises(BadInput, match="no reward could be computed in step 1"):
        grpo.main(
            short(
                data=write(tmp_path / "one.jsonl", problems[5:]),
                prompts_per_step=2,
                out=str(tmp_path / "one"),
            )
        )


def test_a_reward_that_is_nan_is_no_reward(short, tmp_path, capsys):
    """A budget of infinity gives rewards of minus infinity: that group is left out, the other trained."""
    problems = [
        p | {"budget": budget}
        for p, budget in zip(tiny.problems("math", 2, 3, "train"), (math.inf, 9))
    ]
    history = grpo.main(
        short(
            data=write(tmp_path / "two.jsonl", problems), reward="lcpo", prompts_per_step=2, steps=1
        )
    )
    assert (
        history[0]["reward_failures"] == 1
        and history[0]["n_groups"] == 1
        and math.isfinite(history[0]["reward"])
    )
    assert "left out: error, ValueError: the reward of sample 0 is -inf" in capsys.readouterr().out


def test_held_out_answers_that_cannot_be_graded(short, tmp_path, monkeypatch, capsys):
    """They are named and not right; grading has the same limit as the rewards."""
    (tmp_path / "acts.py").write_text(ACTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    problems = [{"id": "a", "question": "compare 4 7", "answer": "low"}]
    with Workers("acts:score", 1, 0.4) as pool:
        assert (
            grpo.held_out_accuracy(running(short(), loading.load(BASE)[0], pool=pool), problems)
            == 0
        )
    assert "held-out problem a could not be graded: timeout" in capsys.readouterr().out


# ---- For a person ------------------------------------------------------------------------------------------------------


def test_a_warning_is_printed_once(short, capsys):
    """random:0 for seven steps: from the fifth on all groups were equal, which is said once."""
    grpo.main(
        short(
            reward="random:0", steps=7, max_tokens=8, prompts_per_step=1, group_size=2, kl_every=0
        )
    )
    said = capsys.readouterr().out
    assert (
        said.count("warning:")
        == 1
        == said.count("all groups of the last 5 steps had equal rewards (mean 0)")
    )
    assert said.index("warning:") > said.index("step 5/7")


def test_samples_for_a_person(short, tmp_path, capsys):
    """The best and the worst of the first group on the terminal, one line each without control characters; the whole group
    in samples.jsonl with reward and advantage."""
    history = grpo.main(short(steps=2, reward="random:0.5"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  reward")]
    groups = [
        json.loads(line)["group"]
        for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    ]
    assert len(said) == 4 and len(history) == 2 and [len(group) for group in groups] == [4, 4]
    worst, best = (
        min(groups[0], key=lambda row: row["reward"]),
        max(groups[0], key=lambda row: row["reward"]),
    )
    assert said[0].startswith(f"  reward {worst['reward']:.3g}, ") and said[1].startswith(
        f"  reward {best['reward']:.3g}, "
    )
    assert set(groups[0][0]) == set(watch.SAMPLE) and any(
        row["advantage"] for group in groups for row in group
    )
    line = watch.line_of(
        {"question": "q\n\x1b[31m", "text": "x" * 500 + "\r\u202e", "reward": 0.5, "n_tokens": 3},
        40,
    )
    assert (
        line.isprintable()
        and line.startswith("  reward 0.5, 3 tokens: q [31m >> xxx")
        and len(line) < 80
    )


def test_a_run_draws_its_curves(short, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(watch, "draw_curves", lambda rows, path: drawn.append((len(rows), path)))
    grpo.main(short(steps=2, max_tokens=8))
    assert drawn == [(2, tmp_path / "out" / "curves.png")]


def test_bf16_is_reported(short):
    """--dtype bf16 on a CPU: sampled and trained in bfloat16 over float32 weights; the first ratio is near 1, not at it."""
    history = grpo.main(short(dtype="bf16", reward="random:0.5", steps=1))
    assert (
        1e-5 < history[0]["ratio_first"] < 1
        and history[0]["grad_norm"] > 0
        and history[0]["dlogp"] < 0.05
    )


def test_bf16_with_tis_begins_at_a_ratio_of_1(short, capsys):
    """The old policy is then training's own forward pass, and no warning of drift is printed."""
    settings = dict(dtype="bf16", tis=2.0, reward="random:0.5", steps=2)
    history = grpo.main(short(**settings))
    assert all(row["ratio_first"] < 1e-2 for row in history) and history[1]["grad_norm"] > 0
    assert all(row["dlogp"] > 1e-4 for row in history)  # the sampler's differ all the same
    assert "drift" not in capsys.readouterr().out
    assert grpo.most_ratio_of(short(**settings)) == 1e-2
    assert grpo.most_ratio_of(short(dtype="bf16")) == 1.0


def test_problems_without_a_gold_answer_are_left_out(tmp_path, short, capsys):
    """Two of six have none (one missing, one empty): with --reward correct 4 are used, with --reward format all 6; with
    none left the run is refused."""
    rows = [{"id": f"p{i}", "question": f"compare {i} 9", "answer": "low"} for i in range(4)]
    rows += [
        {"id": "p4", "question": "compare 4 9"},
        {"id": "p5", "question": "compare 5 9", "answer": " "},
    ]
    data = write(tmp_path / "some.jsonl", rows)
    grpo.main(short(data=data, steps=1, max_tokens=8))
    assert "4 problems (2 without a gold answer and 0 too long" in capsys.readouterr().out
    grpo.main(
        short(data=data, steps=1, max_tokens=8, reward="format", out=str(tmp_path / "format"))
    )
    assert "6 problems (0 without" in capsys.readouterr().out
    grpo.main(
        short(
            data=data,
            steps=1,
            max_tokens=8,
            reward="vote+contains:correct",
            out=str(tmp_path / "vote"),
        )
    )
    assert "6 problems (0 without" in capsys.readouterr().out
    with pytest.raises(BadInput, match="no problem is left to train on"):
        grpo.main(short(data=write(tmp_path / "none.jsonl", rows[4:]), out=str(tmp_path / "none")))


@pytest.mark.parametrize(
    "more, message",
    [
        ({"steps": -1}, "--steps -1"),
        ({"steps": 0}, "--steps 0"),
        ({"group_size": 0}, "--group-size 0"),
        ({"prompts_per_step": 0}, "--prompts-per-step 0"),
        ({"max_tokens": 0}, "--max-tokens 0"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"temperature": 1e-40}, "--temperature 1e-40"),
        ({"eps_low": math.nan}, "--eps-low nan"),
        ({"eps_high": -0.1}, "--eps-high -0.1"),
        ({"beta": math.nan}, "--beta nan"),
        ({"warmup": -1.0}, "--warmup -1.0"),
        ({"beta1": 2.0}, "--beta1 2.0"),
        ({"device": "gpu"}, "--device gpu: not a device"),
        ({"updates_per_rollout": 0}, "--updates-per-rollout 0"),
        ({"slots": 0}, "--slots 0"),
        ({"save_every": 0}, "--save-every 0"),
        ({"group_size": 1}, "--group-size 1 has no others"),
        ({"nft_eps": 0.0}, "--nft-eps 0.0"),
        ({"group_size": 1, "adv_std": "none"}, "--group-size 1 has no others"),
        (
            {"loss": "nft", "adv_std": "sample"},
            "--loss nft needs --baseline group and --adv-std pop or none",
        ),
        ({"loss": "nft", "baseline": "others"}, "--loss nft needs --baseline group"),
        ({"loss": "nft", "reward": "correct+overlong:8"}, "--loss nft needs rewards of 0 and 1"),
        (
            {"reward": "correct+lcpo"},
            r"train.jsonl: row '.+': --reward correct\+lcpo needs a positive .* `budget`",
        ),
        ({"reward": "overlong"}, "'overlong' is not overlong:cache"),
        ({"votes": 3}, "--votes 3: at least --group-size 4"),
        ({"loss": "ppo"}, "--loss ppo: not one of grpo, gspo"),
        ({"lag": -1}, "--lag -1"),
        ({"offpolicy_frac": 1.5}, "--offpolicy-frac 1.5"),
        ({"tis": -1.0}, "--tis -1.0"),
        ({"reward_seconds": 0}, "--reward-seconds 0"),
        ({"reward": "vote_offline"}, "row '.+': --reward vote_offline needs a `label`"),
        ({"ref_refresh": 2, "kl_every": 0}, "--ref-refresh: no KL"),
        ({"minibatches": 4}, "--minibatches 4"),
        ({"reference": BASE, "kl_every": 0}, "--reference: no KL"),
        ({"budgets": (9,)}, "--budgets: the least"),
        ({"budgets": (1, 9)}, "--budgets: no lcpo"),
        ({"budgets": (9, 2), "reward": "lcpo"}, "--budgets: the least"),
        (
            {"kl_in": "reward", "kl": "k1", "beta": 0.1, "adv_std": "none", "loss": "rft"},
            "--loss rft .* --kl-in reward",
        ),
        ({"kl_in": "reward"}, "--kl-in reward needs --kl"),
        (
            {"kl_in": "reward", "kl": "k1", "beta": 0.1},
            "--kl-in reward needs --kl, --beta, and --adv-std none",
        ),
        ({"kl": "k2"}, "--kl k2 with --beta 0.0"),
        ({"beta": 0.1}, "--kl none with --beta 0.1"),
        ({"reward": "bonus"}, "no reward 'bonus'"),
        ({"data": "missing.jsonl"}, "missing.jsonl"),
        ({"max_tokens": 512}, "no problem is left"),  # the context is 512
    ],
)
def test_bad_input_is_one_line(short, more, message):
    with pytest.raises(BadInput, match=message) as error:
        grpo.main(short(**more))
    assert "\n" not in str(error.value)


def test_empty_data_is_one_line(tmp_path, short):
    with pytest.raises(BadInput, match="empty.jsonl"):
        grpo.main(short(data=write(tmp_path / "empty.jsonl", [])))


def test_offload_without_shards_is_refused(short):
    with pytest.raises(BadInput, match="--offload is for shards: start with torchrun"):
        grpo.main(short(offload=True))


def test_a_second_process_on_one_out_is_refused(short, monkeypatch):
    """tests/test_runlog.py has two real processes."""

    def taken(path):
        raise BlockingIOError

    monkeypatch.setattr(runlog, "open_locked", taken)
    with pytest.raises(BadInput, match="^--out .*: another process is writing there"):
        grpo.main(short())
