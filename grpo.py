"""Reinforcement learning with verifiable rewards: GRPO, on-policy by default.

Per step, with N prompts and G samples of each (B = N·G rows):
    1. sample G completions per prompt from the policy
    2. reward r of each completion                              (a program decides: grading/rewards.py)
    3. advantage A_i = (r_i - mean of its group) / std of its group
    4. ratio ρ_t = exp(logp_t - old_logp_t),  loss = - Σ min(ρ A, clip(ρ, 1-ε_low, 1+ε_high) A) / normaliser
                                                     + β Σ KL(policy ‖ reference) / normaliser
Sources: DeepSeekMath (arXiv 2402.03300) §4, DeepSeek-R1 (arXiv 2501.12948) §2.2, DAPO (arXiv 2503.14476) for the
token normaliser and ε_high, Dr. GRPO (arXiv 2503.20783) for --adv-std none --normalise constant. Line 4 is what
--loss grpo means; GSPO, CISPO, REINFORCE, NFT and RFT stand beside it in `objective`, rewards in grading/rewards.py.

Departs from DeepSeekMath in: 1. The normaliser is the token count of the whole step (--normalise sequence is the
paper's). 2. No KL term unless --kl and --beta ask for one; KL to the reference is reported all the same. 3. One
update per rollout; --updates-per-rollout is the paper's μ.

old_logp comes from the decoder, at the sampling temperature, by the same forward functions that training uses. So on
the first update every ρ is 1 up to float rounding; ratio_first in the log is the largest |ρ - 1| and should stay
below 1e-4 in float32. If it does not, rollout and training disagree and nothing below can be trusted.

A laptop, 80 seconds (after recipes/tiny.sh; the reward rises from 0.27, mean of 10 steps, to 0.72):
                      python grpo.py --model data/tiny_base --data out/tiny/seed0/data/train.jsonl --out out/grpo
                      --format think --steps 100 --max-tokens 128 --lr 5e-4
GSM8K at 0.5B:        python grpo.py --model Qwen/Qwen2.5-0.5B-Instruct --data out/gsm8k.jsonl --out out/grpo-0.5b
                      --format plain --max-tokens 512 --prompts-per-step 64 --device cuda

Off-policy on purpose: --updates-per-rollout, --minibatches, --lag, --offpolicy-frac. The log has ess, the effective
sample size (Σw)² / (n Σw²) of the ratios w to the sampler, and dlogp, the mean |logp - sampled logp|, both of the last
update on a rollout.

Reads problem rows (id, question, answer). Writes a model directory with log.jsonl, training.json, samples.jsonl (one
group of each step), curves.png and flops.jsonl (what was computed, measurements aside). Rewards are computed in
processes with a time limit: a group one of whose rewards hangs, crashes or is not a number is left out of the update,
counted as reward_failures, and named on the terminal. A run that was killed continues from its last checkpoint with the
same command, to the same weights on a CPU.
"""

import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

import kernels
from engine import (
    checkpoints,
    dealing,
    loading,
    plan,
    processes,
    runlog,
    settings,
    sharding,
    tensor_parallel,
    training,
)
from engine import model as models
from engine.format import FORMATS, ask
from engine.rows import BadInput, read_problems, read_rows, write_rows
from engine.sampling import random_key
from engine.watch import draw_curves, line_of, warnings_of
from grading.rewards import needs_of, reward_files, rewardable_problems
from grading.sandbox import Workers
from rollouts import Run, collect, columns, fitting, held_out_accuracy, logps_of, pack_groups


@dataclass(frozen=True)
class Config:
    model: str  # directory or hub name to start from; also the reference
    data: str  # problem rows
    out: str  # model directory to write
    # text of a completion, see engine/format.py
    format: Literal["s1", "think", "r1", "plain"] = "think"
    # correct, vote, cosine, lcpo ...: sum (+) of products (&), see grading/rewards.py
    reward: str = "correct"
    # that the rewards of a group may take; past it the group is left out
    reward_seconds: float = 10.0
    reward_workers: int = 2  # processes that compute rewards

    steps: int = 100  # rollouts
    prompts_per_step: int = 16  # N
    group_size: int = 8  # G, samples per prompt
    # for lcpo: draw budgets from this range and say them in the question; L1: 100 4000
    budgets: tuple[int, ...] = ()
    votes: int = 0  # samples per prompt that vote, the first G of them trained; TTRL: 64, G = 32
    # DAPO: more prompts until N groups are neither all right nor all wrong
    dynamic_sampling: bool = False
    max_rounds: int = 10  # of --dynamic-sampling, N prompts each
    max_tokens: int = 1024  # of a completion
    temperature: float = 1.0  # of sampling; training divides logits by it too
    # DAPO's overlong filter: what was cut is in the group, not in the loss
    mask_truncated: bool = False

    baseline: Literal["group", "others"] = "group"  # whose mean is taken off a reward; others: RLOO
    adv_std: Literal["pop", "sample", "batch", "none"] = "pop"  # what the advantages are divided by
    loss: Literal["grpo", "gspo", "cispo", "reinforce", "nft", "rft"] = "grpo"  # see `objective`
    eps_low: float = 0.2  # clip range below 1; UniReason: 0.22, GSPO: 3e-4
    eps_high: float = 0.2  # clip range above 1; DAPO, UniReason: 0.28, GSPO: 4e-4
    nft_eps: float = 1.0  # least likelihood ratio of NFT's implicit negative policy
    normalise: Literal["token", "sequence", "constant"] = "token"  # see `token_weights`
    kl: Literal["none", "k1", "k2", "k3"] = "none"  # estimator of the KL term, see `kl_estimate`
    beta: float = 0.0  # weight of the KL term; R1: 0.001
    kl_in: Literal["loss", "reward"] = "loss"  # where the KL term stands; see `kl_of_rows`
    entropy: float = 0.0  # weight of an entropy bonus per token
    kl_every: int = 1  # steps between measurements of the full-vocabulary KL; 0 = never
    reference: str | None = None  # model of the KL; default: --model
    ref_refresh: int = 0  # steps after which the reference becomes the policy, R1: 400; 0 = never

    updates_per_rollout: int = 1  # passes over each rollout, the paper's μ
    # parts of a rollout, whole groups, an update for each; R1: 16, UniReason: 4
    minibatches: int = 1
    lag: int = 0  # steps between a rollout and its update, as in asynchronous training
    offpolicy_frac: float = 0.0  # share of each group that another model samples
    offpolicy_model: str | None = None  # a teacher, say; default: --model as it was at the start
    # truncated importance sampling: weight min(π_old / sampler, this); TRL: 2; 0 = no
    tis: float = 0.0

    lr: float = 1e-6  # R1: 3e-6, UniReason: 1e-6
    schedule: Literal["cosine", "linear", "constant"] = "constant"  # of the learning rate
    warmup: float = 0.0  # share of the steps
    weight_decay: float = 0.0  # of matrices
    beta1: float = 0.9  # AdamW
    beta2: float = 0.95  # AdamW
    clip: float = 1.0  # gradient norm
    # tokens per forward pass; changes memory and speed, not the result
    micro_batch_tokens: int = 32768

    eval_data: str | None = None  # held-out problems
    eval_every: int = 0  # steps between evaluations at --temperature; 0 = never
    show_every: int = 25  # steps between samples on the terminal; 0 = never
    seed: int = 0  # order of the prompts and all sampling
    slots: int = 256  # sequences decoded side by side
    save_every: int = 25  # steps between checkpoints
    device: str = "cpu"  # or cuda
    tp: int = 1  # torchrun: neighbouring ranks that share a copy of the model in rollouts
    offload_optimizer: bool = False  # Adam's moments wait in host memory while the device samples
    offload: bool = False  # torchrun: shards and optimizer in host memory
    recompute: bool = False  # activation checkpointing: 1/3 more compute, keeps one input per layer
    # of Adam's moments; bf16 saves 4 bytes a parameter
    adam_dtype: Literal["fp32", "bf16"] = "fp32"
    # train nothing: say whether this fits on 8xH100-80GB, say, and how long it takes
    plan: str = ""
    dtype: Literal["fp32", "bf16"] = "fp32"  # of the computation; weights stay float32
    overwrite: bool = False  # replace a run with other settings in --out instead of refusing


SHOWN = (
    "reward",
    "accuracy",
    "n_tokens",
    "truncated",
    "equal_groups",
    "reward_failures",
    "loss",
    "entropy",
    "kl",
    # on the terminal
    "clip_fraction",
    "ratio_first",
    "grad_norm",
    "rollout_tok_s",
    "update_tok_s",
    "held_out",
)
# fields in samples.jsonl
SAMPLE = ("id", "question", "text", "reward", "right", "advantage", "n_tokens")
FREE = (
    "out",
    "save_every",
    "overwrite",
    "micro_batch_tokens",
    "slots",
    "reward_workers",
    "show_every",
    "recompute",
    "tp",
    "offload",
    "offload_optimizer",
    "plan",
)  # may differ between a run and its continuation


# ---------------------------------------------------------------- the mathematics


def advantages(rewards, std="pop", baseline="group", eps=1e-6):
    """rewards (N, G) -> advantages (N, G): centred per group, divided by the group's standard deviation + eps.

    std: "pop" divides by G (with 0/1 rewards it is sqrt(p(1-p))), "sample" by G - 1, "none" not at all (Dr. GRPO:
    dividing weighs very easy and very hard prompts up), "batch" is the population's over all N·G rewards.
    baseline: mean of the "group", or of the "others" in it (RLOO, arXiv 2402.14740), which makes every advantage
    larger by G / (G - 1). A group of equal rewards gets exactly 0.
    """
    n_samples = rewards.shape[1]
    if n_samples < 2 and (std == "sample" or baseline == "others"):
        raise ValueError(
            "the sample standard deviation and the mean of the others need a group of two or more"
        )
    centred = rewards - rewards.mean(1, keepdim=True)
    if baseline == "others":
        centred = centred * (n_samples / (n_samples - 1))  # = r - (sum - r) / (G - 1)
    equal = (rewards == rewards[:, :1]).all(1, keepdim=True)
    if std == "batch":
        centred = centred / (rewards.std(correction=0) + eps)
    elif std != "none":
        centred = centred / (rewards.std(1, keepdim=True, correction=int(std == "sample")) + eps)
    return centred.masked_fill(equal, 0.0)


def clipped_objective(ratio, advantage, eps_low, eps_high):
    """PPO's pessimistic bound, (N,) each: min(ρA, clip(ρ)A). For A < 0 the minimum is the larger penalty."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - eps_low, 1 + eps_high) * advantage)


def objective(logp, old_logp, advantage, row, right_share, cfg):
    """What is maximised per trained token (N,), and where the clip acts (N,) bool.

    row (N,): the sequence of each token, all of whose tokens are here; right_share (N,): mean reward of its group,
    the r of nft. A and ε as above, ρ = π / π_old, sg: no gradient.
    grpo       min(ρA, clip(ρ)A), ρ of the token                            DeepSeekMath (arXiv 2402.03300)
    gspo       the same, ρ of the sequence: exp(mean_t log ρ_t)             arXiv 2507.18071; --normalise sequence
    cispo      sg(clip(ρ)) A log π: no token loses its gradient             MiniMax-M1 (arXiv 2506.13585), where
               nothing is clipped below: --eps-low 1
    reinforce  A log π
    rft        log π of accepted samples (A = 1), the others masked: expert iteration, the likelihood of sft.py
    nft        A > 0: A log ρ;  A < 0: |A| (1-r)/r log max(ε, (1-rρ)/(1-r)), where the gradient passes the maximum
               (arXiv 2505.18116). The paper's ω(q) is A of a right answer: √((1-r)/r) for --adv-std pop, 1-r for
               none. As in its code ρ is at most e^10 and r in .02 .. .98. On-policy the gradient is GRPO's.
    """
    difference = logp - old_logp
    ratio, low, high = difference.exp(), 1 - cfg.eps_low, 1 + cfg.eps_high
    if cfg.loss == "gspo":
        ratio = (
            torch.zeros_like(logp).index_add(0, row, difference)[row] / torch.bincount(row)[row]
        ).exp()
    if cfg.loss in ("grpo", "gspo"):
        outside = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        return clipped_objective(ratio, advantage, cfg.eps_low, cfg.eps_high), outside
    if cfg.loss == "cispo":
        return ratio.clamp(low, high).detach() * advantage * logp, (ratio < low) | (ratio > high)
    if cfg.loss in ("reinforce", "rft"):
        return advantage * logp, torch.zeros_like(logp, dtype=torch.bool)
    r = right_share.clamp(0.02, 0.98)
    # likelihood ratio of the implicit policy
    negative = (1 - r * difference.clamp(max=10).exp()) / (1 - r)
    limited = negative.clamp(min=cfg.nft_eps).detach()
    log_negative = limited.log() + (negative - negative.detach()) / limited
    return torch.where(
        advantage > 0, advantage * difference, -advantage * (1 - r) / r * log_negative
    ), torch.zeros_like(logp, dtype=torch.bool)


def kl_estimate(logp, ref_logp, kind):
    """Per-token estimates of KL(policy ‖ reference) on the policy's own tokens (Schulman 2020), d = ref_logp - logp.

    All three go into the loss as written; their gradients differ. k1 = -d: zero in expectation, it only adds noise.
    k2 = d²/2: the gradient of KL(policy ‖ reference). k3 = e^d - 1 - d: that of KL(reference ‖ policy).
    """
    d = ref_logp - logp
    return {"k1": -d, "k2": d**2 / 2, "k3": torch.expm1(d) - d}[kind]


def token_weights(row, n_rows, normalise, max_tokens):
    """row (N,): which sequence each trained token belongs to -> weight (N,) of each token's loss in the step's sum.

    token     1 / trained tokens of the step                (DAPO)
    sequence  1 / (rows · tokens of its sequence)           (GRPO: long answers count less per token)
    constant  1 / (rows · max_tokens)                       (Dr. GRPO)
    """
    if normalise == "token":
        return torch.full(row.shape, 1 / max(1, len(row)))
    if normalise == "constant":
        return torch.full(row.shape, 1 / (n_rows * max_tokens))
    return 1 / (n_rows * torch.bincount(row)[row].float())


# ---------------------------------------------------------------- one step


def kl_of_rows(reference, sequences, masks, old_logps, cfg, n_tokens=None):
    """Sum over a row's trained tokens of the estimate of KL(policy ‖ reference), (B,); arguments as of policy_update.

    --kl-in reward takes β times this off a completion's reward, with k1 as RLOO does (arXiv 2402.14740). Through the
    advantage k1 has the gradient of KL(policy ‖ reference), which in the loss only k2 has.
    """
    ref_logps = logps_of(reference, sequences, masks, cfg, n_tokens)
    return torch.stack(
        [
            kl_estimate(
                *(torch.tensor([x for x, m in zip(row, mask) if m]) for row in rows), cfg.kl
            ).sum()
            for *rows, mask in zip(old_logps, ref_logps, masks)
        ]
    )


def policy_update(
    model,
    reference,
    optimizers,
    sequences,
    masks,
    old_logps,
    advantage,
    cfg,
    scale,
    measure_kl,
    n_tokens=None,
    right_share=None,
    sampled_logps=None,
    token_rewards=None,
):
    """One pass over a rollout in packed micro-batches, then one optimizer step -> dict of measured numbers.

    sequences, masks, old_logps: lists, per row and token of prompt and completion; advantage (B,); n_tokens: of the
    tokenizer, since what a larger head has beyond them is never sampled and belongs into no softmax;
    right_share (B,): mean reward of a row's group, for --loss nft alone; sampled_logps: of the sampler, where it is not
    the old policy (--tis); token_rewards: lists like old_logps, added to the advantage of each token.
    Masked tokens (prompt, injected, truncated) are in neither numerator nor denominator; a row of nothing else is no
    row. Rows of advantage 0 have no gradient unless the loss has a KL or an entropy bonus: their tokens stay in the
    normaliser, but they only pass forward, and that only to measure the KL. If no row has a gradient the weights stay,
    whatever the momentum.
    """

    def of_tokens(values, rows):  # (N,) of the trained tokens of these rows
        return torch.tensor(
            [x for i in rows for x, m in zip(values[i], masks[i]) if m], device=ranks.device
        )

    ranks = sharding.ranks_of(model)
    row = torch.tensor([i for i, mask in enumerate(masks) for m in mask if m])
    n_rows = max(1, sum(map(any, masks)))
    weights = token_weights(row, n_rows, cfg.normalise, cfg.max_tokens).split(
        [sum(mask) for mask in masks]
    )
    use_kl = cfg.kl != "none" and cfg.beta > 0 and cfg.kl_in == "loss"
    everywhere = use_kl or cfg.entropy != 0  # a gradient in every row
    has_gradient = [
        everywhere
        or bool(advantage[i] != 0)
        or (token_rewards is not None and any(token_rewards[i]))
        for i in range(len(sequences))
    ]
    trained = [i for i, mask in enumerate(masks) if any(mask) and has_gradient[i]]
    measured = [
        i for i, mask in enumerate(masks) if any(mask) and not has_gradient[i] and measure_kl
    ]
    total = dict.fromkeys(("loss", "entropy", "kl", "clipped", "dlogp", "w", "w²", "n"), 0.0)
    furthest = 0.0
    bins = [
        (rows, group)
        for rows in (trained, measured)
        for group in dealing.deal(
            [len(sequences[i]) for i in rows], cfg.micro_batch_tokens, ranks.n
        )[ranks.index]
    ]
    for rows, group in bins:
        learns = rows is trained
        # nothing left for this rank, but the others need its shards
        chosen = [rows[i] for i in group or [0]]
        batch, packed = pack_groups(
            [sequences[i] for i in chosen], [masks[i] for i in chosen], ranks.device
        )
        old_logp = of_tokens(old_logps, chosen)
        sampled_logp = old_logp if sampled_logps is None else of_tokens(sampled_logps, chosen)
        token_weight = torch.cat([weights[i] for i in chosen]).to(ranks.device)  # (N,)
        token_advantage, share = (
            None if x is None else x[chosen].to(ranks.device)[batch.row]
            for x in (advantage, right_share)
        )  # (N,)
        if token_rewards is not None:
            token_advantage = token_advantage + of_tokens(token_rewards, chosen)

        def states(model):
            # (N, D)
            hidden = models.hidden_states(model, batch.ids, batch.positions, packed)[batch.where]
            return hidden, models.output_head(model, n_tokens)

        def micro_batch(model):
            hidden, head = states(model)
            stats = kernels.token_stats(
                hidden, head, batch.target, cfg.temperature, want=("logp", "entropy")
            )
            gain, clipped = objective(stats.logp, old_logp, token_advantage, batch.row, share, cfg)
            if cfg.tis:
                gain = gain * (old_logp - sampled_logp).exp().clamp(max=cfg.tis)
            loss, kl = -gain, None

            def against(reference):  # which asks for no gradients
                ref_hidden, ref_head = states(reference)
                ref_logp = (
                    kernels.token_stats(ref_hidden, ref_head, batch.target, cfg.temperature).logp
                    if use_kl
                    else ref_hidden.new_zeros(())
                )
                with torch.no_grad():
                    return ref_logp, kernels.token_kl(
                        hidden, head, ref_hidden, ref_head, cfg.temperature
                    )[0] if measure_kl else None

            if use_kl or measure_kl:
                ref_logp, kl = sharding.compute_in_forward(reference, against)
            if use_kl:
                loss = loss + cfg.beta * kl_estimate(stats.logp, ref_logp, cfg.kl)
            if cfg.entropy:
                loss = loss - cfg.entropy * stats.entropy
            return (loss * token_weight).sum(), stats, clipped, kl

        with torch.set_grad_enabled(learns), training.autocast(cfg, ranks.mesh is not None):
            loss, stats, clipped, kl = sharding.compute_in_forward(model, micro_batch)
        if learns:
            (loss * (ranks.n if group else 0)).backward()  # FSDP takes the mean over ranks
        if not group:
            continue
        with torch.no_grad():
            difference = stats.logp - sampled_logp
            furthest = max(furthest, ((stats.logp - old_logp).exp() - 1).abs().max().item())
            for name, value in (
                ("loss", loss),
                ("entropy", stats.entropy.sum()),
                ("clipped", clipped.sum()),
                ("dlogp", difference.abs().sum()),
                ("w", difference.exp().sum()),
                ("w²", (2 * difference).exp().sum()),
                ("n", len(clipped)),
                ("kl", 0 if kl is None else kl.sum()),
            ):
                total[name] += float(value)
    parts = processes.gather_from_ranks([furthest, total], ranks)
    furthest, total = (
        max(most for most, _ in parts),
        {name: sum(part[name] for _, part in parts) for name in total},
    )
    n = total["n"] or math.nan  # nothing trained, nothing measured
    norm = training.update(model, optimizers, cfg.clip, scale) if trained else 0.0
    model.zero_grad(set_to_none=True)
    values = {
        "loss": total["loss"],
        "entropy": total["entropy"] / n,
        "kl": total["kl"] / n if measure_kl else math.nan,
        "clip_fraction": total["clipped"] / n,
        "ratio_max": furthest,
        "grad_norm": norm,
        "dlogp": total["dlogp"] / n,
        "ess": total["w"] ** 2 / (n * total["w²"]) if total["w²"] else math.nan,
        "tokens": sum(len(sequences[i]) for i in trained),
        "flops": 3 * models.forward_flops(model, [len(sequences[i]) for i in trained]),
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def train_on(here, optimizers, batch, step):
    """Steps 3 and 4 on what `collect` returned -> what the log says of them. Loss, ratio and norm are those of the first
    update; clipping, effective sample size and |Δ log p| those of the last, which is the furthest from the sampler."""
    cfg, began = here.cfg, time.perf_counter()
    rows = [row for group in batch["groups"] for row in group]
    scale = training.lr_at(step, cfg.steps, 1.0, cfg.warmup, cfg.schedule)
    if not rows:
        if here.ranks.leads:
            print(
                f"step {step + 1}: all {batch['stats']['n_groups']} groups of {cfg.max_rounds} rounds are all right or "
                "all wrong; there is nothing to learn from them and the weights stay"
            )
        return {
            "loss": None,
            "entropy": None,
            "kl": None,
            "ratio_first": None,
            "clip_fraction": None,
            "grad_norm": 0.0,
            "dlogp": None,
            "ess": None,
            "lr": cfg.lr * scale,
            "update_tok_s": 0.0,
            "update_seconds": 0.0,
            "train_tokens": 0,
            "train_flops": 0,
        }
    reward = torch.tensor([[row["reward"] for row in group] for group in batch["groups"]])  # (N, G)
    if cfg.loss == "nft" and not ((reward == 0) | (reward == 1)).all():
        raise BadInput(f"--reward {cfg.reward}: --loss nft needs rewards of 0 and 1")
    sequences, masks, sampled_logps = columns(rows, cfg)
    if cfg.kl_in == "reward":
        # (B,)
        kl = kl_of_rows(here.reference, sequences, masks, sampled_logps, cfg, len(here.tokenizer))
        reward -= cfg.beta * kl.view_as(reward)
    if cfg.loss == "rft":
        advantage = (reward > 0).float().flatten()  # (B,)
        masks = [[m and bool(accepted) for m in mask] for mask, accepted in zip(masks, advantage)]
    else:
        advantage = advantages(reward, cfg.adv_std, cfg.baseline).flatten()  # (B,)
    for row, value in zip(rows, advantage.tolist()):
        row["advantage"] = value
    right_share = reward.mean(1).repeat_interleave(cfg.group_size)  # (B,)
    token_rewards = (
        [[0.0] * len(row["prompt"]) + (row["token_rewards"] or []) for row in rows]
        if any(row["token_rewards"] for row in rows)
        else None
    )
    old_logps = (
        logps_of(here.model, sequences, masks, cfg, len(here.tokenizer))
        if cfg.tis
        else sampled_logps
    )
    measure_kl, updates, n_groups = (
        bool(cfg.kl_every) and step % cfg.kl_every == 0,
        [],
        len(batch["groups"]),
    )
    ends = [cfg.group_size * (n_groups * i // cfg.minibatches) for i in range(cfg.minibatches + 1)]
    parts = [slice(a, b) for a, b in zip(ends, ends[1:]) if a < b]
    for part in parts * cfg.updates_per_rollout:
        updates.append(
            policy_update(
                here.model,
                here.reference,
                optimizers,
                sequences[part],
                masks[part],
                old_logps[part],
                advantage[part],
                cfg,
                scale,
                measure_kl and not updates,
                len(here.tokenizer),
                right_share[part],
                sampled_logps[part],
                token_rewards and token_rewards[part],
            )
        )
    first, last, seconds = updates[0], updates[-1], time.perf_counter() - began
    return {
        "loss": first["loss"],
        "entropy": first["entropy"],
        "kl": first["kl"],
        "ratio_first": first["ratio_max"],
        "clip_fraction": last["clip_fraction"],
        "grad_norm": first["grad_norm"],
        "dlogp": last["dlogp"],
        "ess": last["ess"],
        "lr": cfg.lr * scale,
        "update_seconds": seconds,
        "update_tok_s": cfg.updates_per_rollout * sum(map(len, sequences)) / seconds,
        "train_tokens": sum(u["tokens"] for u in updates),
        "train_flops": sum(u["flops"] for u in updates),
    }


# ---------------------------------------------------------------- around the loop


def usable_problems(cfg, problems, model, tokenizer, form, say=print):
    """Problems that --reward can judge and whose prompt leaves room for --max-tokens, with a drawn budget in field and
    question if --budgets asks for it; the others are counted. Raises BadInput when none is left."""
    if cfg.budgets:
        how, (low, high) = "l1-max" if "upper budget" in needs_of(cfg.reward) else "l1", cfg.budgets
        problems = [
            p | {"budget": low + random_key(cfg.seed, "budget", p["id"]) % (high - low + 1)}
            for p in problems
        ]
        problems = [p | {"question": ask(p["question"], f"{how}:{p['budget']}")} for p in problems]
    judged, skipped = rewardable_problems(problems, cfg.reward, cfg.data)
    problems = fitting(cfg, judged, model, tokenizer, form)
    say(
        f"{len(problems)} problems ({skipped} and {len(judged) - len(problems)} too long for the context left out); "
        f"{cfg.prompts_per_step} x {max(cfg.votes, cfg.group_size)} completions a step"
    )
    if not problems:
        raise BadInput(f"{cfg.data}: no problem is left to train on")
    return problems


def check(cfg):
    """Raise BadInput for settings out of range or that do not go together."""
    settings.check_positive(
        cfg,
        "steps",
        "prompts_per_step",
        "group_size",
        "max_tokens",
        "temperature",
        "updates_per_rollout",
        "lr",
        "clip",
        "nft_eps",
        "micro_batch_tokens",
        "slots",
        "save_every",
        "max_rounds",
        "reward_seconds",
        "reward_workers",
        "minibatches",
    )
    for bad, why in (
        (
            cfg.group_size < 2 and cfg.loss != "rft",
            "--group-size 1 has no others to compare with: all advantages would be 0 (--loss rft needs none)",
        ),
        (
            cfg.loss == "nft"
            and (cfg.baseline, cfg.adv_std) not in (("group", "pop"), ("group", "none")),
            "--loss nft needs --baseline group and --adv-std pop or none, its two weightings",
        ),
        (
            (cfg.kl == "none") != (cfg.beta == 0),
            f"--kl {cfg.kl} with --beta {cfg.beta}: a KL needs both",
        ),
        (
            cfg.kl_in == "reward" and (cfg.kl == "none" or cfg.adv_std != "none"),
            "--kl-in reward needs --kl, --beta, and --adv-std none: in a group of equal rewards the KL's noise would be "
            "all that the deviation measures",
        ),
        (
            cfg.kl_in == "reward" and cfg.loss in ("nft", "rft"),
            f"--loss {cfg.loss} asks which answers are right; it does not go with --kl-in reward",
        ),
        (
            (cfg.reference or cfg.ref_refresh) and not (cfg.kl_every or cfg.beta),
            f"--{'reference' if cfg.reference else 'ref-refresh'}: no KL is measured (--kl-every) or trained (--beta)",
        ),
        (
            cfg.budgets and (len(cfg.budgets) != 2 or not 0 < cfg.budgets[0] <= cfg.budgets[1]),
            "--budgets: two numbers of tokens, the least and the most",
        ),
        (
            cfg.budgets and "budget" not in needs_of(cfg.reward),
            f"--budgets: no lcpo in --reward {cfg.reward}",
        ),
        (
            cfg.minibatches > cfg.prompts_per_step,
            f"--minibatches {cfg.minibatches}: more than --prompts-per-step, and groups stay whole",
        ),
        (
            0 < cfg.votes < cfg.group_size,
            f"--votes {cfg.votes}: at least --group-size {cfg.group_size}, the trained",
        ),
        (
            not 0 <= cfg.offpolicy_frac <= 1,
            f"--offpolicy-frac {cfg.offpolicy_frac}: a share, 0 to 1",
        ),
        *(
            (getattr(cfg, name) < 0, f"--{name.replace('_', '-')} {getattr(cfg, name)}: 0 or more")
            for name in (
                "votes",
                "lag",
                "ref_refresh",
                "tis",
                "show_every",
                "eval_every",
                "kl_every",
            )
        ),
    ):
        if bad:
            raise BadInput(why)


def load_beside(cfg, path, tokenizer, ranks, flag):
    """A model without gradients, in shards if ranks have a mesh. Raises BadInput if its tokenizer is not --model's: token
    ids would mean other texts."""
    model, own = (
        sharding.load_to_train(path, ranks, cfg.dtype == "bf16")
        if ranks.mesh is not None
        else tensor_parallel.load_split(path, ranks, torch.float32)
    )
    if own.get_vocab() != tokenizer.get_vocab():
        raise BadInput(f"{flag} {path}: another tokenizer than that of --model {cfg.model}")
    return model.requires_grad_(False)


def main(cfg):
    """Train and save. Returns the log rows of the steps taken now."""
    check(cfg)
    if cfg.plan:
        return plan.of_problems(
            cfg, FORMATS[cfg.format], loading.load_tokenizer(cfg.model), read_problems(cfg.data)
        )
    ranks, problems = processes.join_ranks(cfg.device, shards=True), read_problems(cfg.data)
    if ranks.mesh is None and cfg.offload:
        raise BadInput(
            "--offload is for shards: start with torchrun (also one process: --nproc-per-node 1)"
        )
    held_out = read_problems(cfg.eval_data, need=("answer",)) if cfg.eval_data else []
    identity = runlog.identity(
        cfg,
        FREE,
        data=cfg.data,
        model=cfg.model,
        reference=cfg.reference,
        offpolicy_model=cfg.offpolicy_model,
        **{f"reward {path}": path for path in reward_files(cfg.reward)},
    )
    try:
        with runlog.sigterm() as asked_to_end:
            return train(cfg, ranks, problems, held_out, identity, asked_to_end)
    except torch.OutOfMemoryError as error:
        raise BadInput(
            f"--micro-batch-tokens {cfg.micro_batch_tokens}, --slots {cfg.slots}: not enough memory; less of "
            "them, --offload-optimizer or more ranks under torchrun; the last checkpoint is kept"
        ) from error
    except (OSError, SafetensorError) as error:
        raise (
            error if isinstance(error, BrokenPipeError) else BadInput(f"--out {cfg.out}: {error}")
        ) from error


def train(cfg, ranks, problems, held_out, identity, asked_to_end):
    """The run itself; see main. asked_to_end: filled by SIGTERM."""
    needs, out, say = (
        needs_of(cfg.reward),
        Path(cfg.out),
        print if ranks.leads else (lambda *_, **__: None),
    )
    sampling = processes.join_ranks(cfg.device, cfg.tp)
    model, tokenizer = sharding.load_to_train(
        cfg.model, ranks, cfg.dtype == "bf16", cfg.offload, cfg.recompute
    )
    form = FORMATS[cfg.format]
    form.check(tokenizer)
    if "self_certainty" in needs and models.softcap(model):
        raise BadInput(
            f"--reward {cfg.reward}: no self_certainty of a model that caps its logits ({cfg.model})"
        )
    optimizers = training.make_optimizers(
        model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay, adam_dtype=cfg.adam_dtype
    )
    reference = other = None
    if cfg.beta or cfg.kl_every:
        reference = load_beside(cfg, cfg.reference or cfg.model, tokenizer, ranks, "--reference")
    changing = reference if cfg.ref_refresh else None  # what a checkpoint has to hold
    start = training.resume(cfg, identity, model, optimizers, changing)
    if start is None:
        return []
    if cfg.offpolicy_frac:
        other = load_beside(
            cfg, cfg.offpolicy_model or cfg.model, tokenizer, sampling, "--offpolicy-model"
        )
    sampler = model
    if ranks.mesh is not None:
        sampler, _ = tensor_parallel.load_split(
            cfg.model, sampling, torch.bfloat16 if cfg.dtype == "bf16" else torch.float32
        )
        tensor_parallel.copy_weights(model, sampler)
    problems = usable_problems(cfg, problems, model, tokenizer, form, say)
    held_out, n_given = fitting(cfg, held_out, model, tokenizer, form), len(held_out)
    if len(held_out) < n_given:
        say(
            f"{cfg.eval_data}: {n_given - len(held_out)} of {n_given} problems too long for the context left out"
        )
    log, samples = (
        (
            runlog.Log(out / "log.jsonl", start, cfg.steps, shown=SHOWN),
            runlog.Log(out / "samples.jsonl", start, every=0),
        )
        if ranks.leads
        else (None, None)
    )
    history = read_rows(log.path) if start and ranks.leads and log.path.stat().st_size else []
    off_policy = (cfg.lag or cfg.offpolicy_frac) and not cfg.tis
    most_ratio, warned = math.inf if off_policy else 1e-3 if cfg.dtype == "fp32" else 1.0, set()
    with Workers("grading.rewards:score_group", cfg.reward_workers, cfg.reward_seconds) as pool:
        state = (
            checkpoints.read_state(checkpoints.saved_checkpoints(out)[0])[2]
            if start
            else {"queue": [], "lengths": {}}
        )
        # lengths only deal the work: older ones lack it
        queue, lengths = deque(state["queue"]), state.get("lengths", {})
        here = Run(
            cfg,
            model,
            sampler,
            sampling,
            reference,
            other,
            tokenizer,
            form,
            pool,
            problems,
            lengths,
        )
        for step in range(start, cfg.steps):
            # 1. sample and 2. reward, with --lag for a later step; rollout s is sampled with the weights of step s - lag
            if cfg.offload_optimizer:
                training.move_state(optimizers, "cpu")
            while len(queue) <= cfg.lag and step + len(queue) < cfg.steps:
                queue.append(collect(here, step + len(queue)))
            batch = queue.popleft()
            if cfg.offload_optimizer:
                training.move_state(optimizers, ranks.device)
            # 3. advantage, 4. update
            values = batch["stats"] | train_on(here, optimizers, batch, step)
            if sampler is not model:
                tensor_parallel.copy_weights(model, sampler)
            if cfg.ref_refresh and (step + 1) % cfg.ref_refresh == 0:
                with torch.no_grad():
                    for name, part in sharding.parts(model).items():
                        sharding.parts(reference)[name].copy_(part)
            last = step + 1 == cfg.steps
            if held_out and cfg.eval_every and ((step + 1) % cfg.eval_every == 0 or last):
                values["held_out"] = held_out_accuracy(here, held_out)
            history.append({"step": step + 1, **values})
            group = (batch["groups"] or [[]])[0]
            if ranks.leads:
                log(**history[-1])
                samples(step + 1, group=[{name: row[name] for name in SAMPLE} for row in group])
            if cfg.show_every and (step % cfg.show_every == 0 or last):
                for row in sorted(group, key=lambda row: row["reward"])[:: max(1, len(group) - 1)]:
                    say(line_of(row))
            found = warnings_of(history, most_ratio)
            for kind in found.keys() - warned:
                say(f"warning: {found[kind]}", flush=True)
            warned = found.keys()
            ends = bool(processes.sum_over_ranks(float(len(asked_to_end)), ranks))
            if not last and (ends or (step + 1) % cfg.save_every == 0):
                checkpoints.save_checkpoint(
                    out,
                    model,
                    optimizers,
                    step + 1,
                    identity,
                    changing,
                    queue=list(queue),
                    lengths=lengths,
                )
            if ends and not last:
                say(f"SIGTERM: stopped after step {step + 1}; the same command continues")
                raise SystemExit(143)
    taken = [row for row in history if row["step"] > start]
    say(
        f"groups with equal rewards, which teach nothing: {sum(h['equal_groups'] for h in taken)} of "
        f"{sum(h['n_groups'] for h in taken)}; without a reward, left out: {sum(h['reward_failures'] for h in taken)}"
    )
    if ranks.leads:
        draw_curves(history, out / "curves.png")
        write_rows(
            out / "flops.jsonl",
            [
                {
                    "phase": phase,
                    **{
                        unit: sum(h[f"{phase}_{unit}"] for h in history)
                        for unit in ("tokens", "flops")
                    },
                }
                for phase in ("rollout", "train")
            ],
        )
    training.finish(cfg, model, tokenizer, identity, n_steps=cfg.steps)
    return taken


if __name__ == "__main__":
    settings.cli(main, Config)
