"""Reinforcement learning with verifiable rewards: GRPO, on-policy by default.

Per step, with N prompts and G samples of each (B = N·G rows):
    1. sample G completions per prompt from the policy
    2. reward r of each completion                              (a program decides: data/rewards.py)
    3. advantage A_i = (r_i - mean of its group) / std of its group
    4. ratio ρ_t = exp(logp_t - old_logp_t),  loss = - Σ min(ρ A, clip(ρ, 1-ε_low, 1+ε_high) A) / normaliser
                                                     + β Σ KL(policy ‖ reference) / normaliser
Sources: DeepSeekMath (arXiv 2402.03300) §4, DeepSeek-R1 (arXiv 2501.12948) §2.2, DAPO (arXiv 2503.14476) for the
token normaliser and ε_high, Dr. GRPO (arXiv 2503.20783) for --adv-std none --normalise constant. Line 4 is what
--objective grpo means; GSPO, CISPO, REINFORCE and NFT stand beside it in `objective`, rewards in data/rewards.py.

Departs from DeepSeekMath in: 1. The normaliser is the token count of the whole step (--normalise sequence is the
paper's). 2. No KL term unless --kl and --beta ask for one; KL to the reference is reported all the same. 3. One
update per rollout; --updates-per-rollout is the paper's μ.

old_logp comes from the decoder, at the sampling temperature, by the same forward functions that training uses. So on
the first update every ρ is 1 up to float rounding; ratio_first in the log is the largest |ρ - 1| and should stay
below 1e-4 in float32. If it does not, rollout and training disagree and nothing below can be trusted.

A laptop, 70 seconds (after recipes/tiny.sh; the reward rises from 0.27, mean of 10 steps, to 0.73):
                      python grpo.py --model data/tiny_base --data out/tiny/seed0/data/train.jsonl --out out/grpo
                      --format think --steps 100 --max-tokens 128 --lr 5e-4
GSM8K at 0.5B:        python grpo.py --model Qwen/Qwen2.5-0.5B-Instruct --data out/gsm8k.jsonl --out out/grpo-0.5b
                      --format plain --max-tokens 512 --prompts-per-step 64 --device cuda

Reads problem rows (id, question, answer). Writes a model directory with log.jsonl, training.json and samples.jsonl
(one group of each step). A run that was killed continues from its last checkpoint with the same command.
"""
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import evaluate
import generate
import kernels
import model as models
import sft
from data import run
from data.format import FORMATS
from data.rewards import NEED_ANSWER, NEED_BUDGET, parse_reward, rewards_of
from data.rows import BadInput, read_rows
from decoder import Request, Sampling, decode, random_key


@dataclass(frozen=True)
class Config:
    model: str                           # directory or hub name to start from; also the reference
    data: str                            # problem rows
    out: str                             # model directory to write
    format: Literal["s1", "think", "r1", "plain"] = "think"        # text of a completion, see data/format.py
    reward: str = "correct"              # correct, vote, cosine, lcpo ...: sum (+) of products (&), see data/rewards.py

    steps: int = 100                     # rollouts
    prompts_per_step: int = 16           # N
    group_size: int = 8                  # G, samples per prompt
    max_tokens: int = 1024               # of a completion
    temperature: float = 1.0             # of sampling; training divides logits by it too
    mask_truncated: bool = False         # DAPO's overlong filter: what was cut is in the group, not in the loss

    baseline: Literal["group", "others"] = "group"                 # whose mean is taken off a reward; others: RLOO
    adv_std: Literal["pop", "sample", "batch", "none"] = "pop"     # what the advantages are divided by
    objective: Literal["grpo", "gspo", "cispo", "reinforce", "nft"] = "grpo"  # see `objective`
    eps_low: float = 0.2                 # clip range below 1; UniReason: 0.22, GSPO: 3e-4
    eps_high: float = 0.2                # clip range above 1; DAPO, UniReason: 0.28, GSPO: 4e-4
    nft_eps: float = 1.0                 # least likelihood ratio of NFT's implicit negative policy
    normalise: Literal["token", "sequence", "constant"] = "token"  # see `token_weights`
    kl: Literal["none", "k1", "k2", "k3"] = "none"                 # estimator of the KL term, see `kl_estimate`
    beta: float = 0.0                    # weight of the KL term; R1: 0.001
    kl_in: Literal["loss", "reward"] = "loss"                      # where the KL term stands; see `kl_of_rows`
    entropy: float = 0.0                 # weight of an entropy bonus per token
    kl_every: int = 1                    # steps between measurements of the full-vocabulary KL; 0 = never
    updates_per_rollout: int = 1         # passes over each rollout

    lr: float = 1e-6                     # R1: 3e-6, UniReason: 1e-6
    schedule: Literal["cosine", "linear", "constant"] = "constant"  # of the learning rate
    warmup: float = 0.0                  # share of the steps
    weight_decay: float = 0.0            # of matrices
    beta1: float = 0.9                   # AdamW
    beta2: float = 0.95                  # AdamW
    clip: float = 1.0                    # gradient norm
    micro_batch_tokens: int = 32768      # tokens per forward pass; changes memory and speed, not the result

    eval_data: str | None = None         # held-out problems
    eval_every: int = 0                  # steps between evaluations at --temperature; 0 = never
    seed: int = 0                        # order of the prompts and all sampling
    slots: int = 256                     # sequences decoded side by side
    save_every: int = 25                 # steps between checkpoints
    device: str = "cpu"                  # or cuda
    overwrite: bool = False              # replace a run with other settings in --out instead of refusing


FREE = ("out", "save_every", "overwrite", "micro_batch_tokens", "slots")


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
        raise ValueError("the sample standard deviation and the mean of the others need a group of two or more")
    centred = rewards - rewards.mean(1, keepdim=True)
    if baseline == "others":
        centred = centred * (n_samples / (n_samples - 1))                # = r - (sum - r) / (G - 1)
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
    nft        A > 0: A log ρ;  A < 0: |A| (1-r)/r log max(ε, (1-rρ)/(1-r)), where the gradient passes the maximum
               (arXiv 2505.18116). The paper's ω(q) is A of a right answer: √((1-r)/r) for --adv-std pop, 1-r for
               none. As in its code ρ is at most e^10 and r in .02 .. .98. On-policy the gradient is GRPO's.
    """
    difference = logp - old_logp
    ratio, low, high = difference.exp(), 1 - cfg.eps_low, 1 + cfg.eps_high
    if cfg.objective == "gspo":
        ratio = (torch.zeros_like(logp).index_add(0, row, difference)[row] / torch.bincount(row)[row]).exp()
    if cfg.objective in ("grpo", "gspo"):
        outside = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        return clipped_objective(ratio, advantage, cfg.eps_low, cfg.eps_high), outside
    if cfg.objective == "cispo":
        return ratio.clamp(low, high).detach() * advantage * logp, (ratio < low) | (ratio > high)
    if cfg.objective == "reinforce":
        return advantage * logp, torch.zeros_like(logp, dtype=torch.bool)
    r = right_share.clamp(0.02, 0.98)
    negative = (1 - r * difference.clamp(max=10).exp()) / (1 - r)        # likelihood ratio of the implicit policy
    limited = negative.clamp(min=cfg.nft_eps).detach()
    log_negative = limited.log() + (negative - negative.detach()) / limited
    return torch.where(advantage > 0, advantage * difference, -advantage * (1 - r) / r * log_negative), \
        torch.zeros_like(logp, dtype=torch.bool)


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

def choose_prompts(n_problems, step, prompts_per_step, seed):
    """Indices of the problems of step 0, 1, ...: the data in a new order each time it is used up. Needs no state."""
    chosen = []
    for place in range(step * prompts_per_step, (step + 1) * prompts_per_step):
        order = torch.randperm(n_problems, generator=torch.Generator().manual_seed(seed + place // n_problems))
        chosen.append(int(order[place % n_problems]))
    return chosen


def rollout(model, tokenizer, form, problems, cfg, stream):
    """Sample cfg.group_size completions of each problem -> (rows, completions, prompts), group after group."""
    requests = []
    for place, problem in enumerate(problems):            # the place too: a small data set can repeat within a step
        prompt = form.prompt_ids(tokenizer, problem["question"])
        for number in range(cfg.group_size):
            key = random_key(cfg.seed, *stream, place, problem["id"], number)
            requests.append(Request(prompt, key, cfg.max_tokens))
    completions = [None] * len(requests)
    # The full distribution: a cut by top-p would have to be made in training too.
    for index, completion in decode(model, tokenizer, form, requests, Sampling(cfg.temperature), cfg.slots):
        completions[index] = completion
    rows = [generate.completion_row(problems[i // cfg.group_size], i % cfg.group_size, c, tokenizer, form)
            for i, c in enumerate(completions)]
    return rows, completions, [r.prompt for r in requests]


@torch.no_grad()
def kl_of_rows(reference, sequences, masks, old_logps, cfg, n_tokens=None):
    """Sum over a row's trained tokens of the estimate of KL(policy ‖ reference), (B,); arguments as of policy_update.

    --kl-in reward takes β times this off a completion's reward, with k1 as RLOO does (arXiv 2402.14740). Through the
    advantage k1 has the gradient of KL(policy ‖ reference), which in the loss only k2 has.
    """
    total = torch.zeros(len(sequences))
    for group in models.fill_bins([len(ids) for ids in sequences], cfg.micro_batch_tokens):
        batch = models.pack([sequences[i] for i in group], [masks[i] for i in group], cfg.device)
        ref_logp = models.score(reference, batch, cfg.temperature, n_tokens=n_tokens).logp.float().cpu()
        logp = torch.tensor([x for i in group for x, m in zip(old_logps[i], masks[i]) if m])
        total.index_add_(0, torch.tensor(group)[batch.row.cpu()], kl_estimate(logp, ref_logp, cfg.kl))
    return total


def policy_update(model, reference, optimizers, sequences, masks, old_logps, advantage, cfg, scale, measure_kl,
                  n_tokens=None, right_share=None):
    """One pass over a rollout in packed micro-batches, then one optimizer step -> dict of measured numbers.

    sequences, masks, old_logps: lists, per row and token of prompt and completion; advantage (B,); n_tokens: of the
    tokenizer, since what a larger head has beyond them is never sampled and belongs into no softmax;
    right_share (B,): mean reward of a row's group, for --objective nft alone.
    Masked tokens (prompt, injected, truncated) are in neither numerator nor denominator; a row of nothing else is no
    row. Rows of advantage 0 have no gradient: unless a KL or an entropy bonus is asked for their forward pass is left
    out, but their tokens stay in the normaliser. If no row has a gradient the weights stay, whatever the momentum.
    """
    row = torch.tensor([i for i, mask in enumerate(masks) for m in mask if m])
    n_rows = max(1, sum(map(any, masks)))
    weight = token_weights(row, n_rows, cfg.normalise, cfg.max_tokens)
    weights = [weight[row == i] for i in range(len(sequences))]
    use_kl = cfg.kl != "none" and cfg.beta > 0 and cfg.kl_in == "loss"
    everywhere = use_kl or cfg.entropy != 0               # a gradient in every row
    active = [i for i in range(len(sequences)) if any(masks[i]) and (everywhere or measure_kl or advantage[i] != 0)]
    has_gradient = any(everywhere or advantage[i] != 0 for i in active)
    total = dict.fromkeys(("loss", "entropy", "kl", "clipped", "n"), 0.0)
    furthest = 0.0
    for group in models.fill_bins([len(sequences[i]) for i in active], cfg.micro_batch_tokens):
        chosen = [active[i] for i in group]
        batch = models.pack([sequences[i] for i in chosen], [masks[i] for i in chosen], cfg.device)
        packed = models.Packed(batch.lengths, batch.ids.device)
        hidden = models.hidden_states(model, batch.ids, batch.positions, packed)[batch.where]         # (N, D)
        stats = kernels.token_stats(hidden, models.head(model)[:n_tokens], batch.target, cfg.temperature,
                                    models.softcap(model), want=("logp", "entropy"))
        old_logp = torch.tensor([x for i in chosen for x, m in zip(old_logps[i], masks[i]) if m], device=cfg.device)
        token_weight = torch.cat([weights[i] for i in chosen]).to(cfg.device)                         # (N,)
        token_advantage, share = (None if x is None else x[chosen].to(cfg.device)[batch.row]
                                  for x in (advantage, right_share))                                  # (N,)
        gain, clipped = objective(stats.logp, old_logp, token_advantage, batch.row, share, cfg)
        loss = -gain
        if use_kl or measure_kl:
            with torch.no_grad():
                ref_hidden = models.hidden_states(reference, batch.ids, batch.positions, packed)[batch.where]
        if use_kl:
            with torch.no_grad():
                ref_logp = kernels.token_stats(ref_hidden, models.head(reference)[:n_tokens], batch.target,
                                               cfg.temperature, models.softcap(reference)).logp
            loss = loss + cfg.beta * kl_estimate(stats.logp, ref_logp, cfg.kl)
        if cfg.entropy:
            loss = loss - cfg.entropy * stats.entropy
        loss = (loss * token_weight).sum()
        loss.backward()
        with torch.no_grad():
            furthest = max(furthest, ((stats.logp - old_logp).exp() - 1).abs().max().item())
            total["loss"] += loss.item()
            total["entropy"] += stats.entropy.sum().item()
            total["clipped"] += clipped.sum().item()
            total["n"] += len(clipped)
            if measure_kl:
                kl, _ = kernels.token_kl(hidden, models.head(model)[:n_tokens], ref_hidden,
                                         models.head(reference)[:n_tokens], cfg.temperature,
                                         models.softcap(model), models.softcap(reference))
                total["kl"] += kl.sum().item()
    n = total["n"] or math.nan                            # nothing trained, nothing measured
    norm = 0.0
    if has_gradient:
        norm = sft.update(model, optimizers, cfg.clip, scale)
    model.zero_grad(set_to_none=True)
    values = {"loss": total["loss"], "entropy": total["entropy"] / n, "kl": total["kl"] / n if measure_kl else math.nan,
              "clip_fraction": total["clipped"] / n, "ratio_max": furthest, "grad_norm": norm}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def held_out_accuracy(model, tokenizer, form, problems, cfg):
    """Share of right answers, one sample each at cfg.temperature."""
    prompts = [form.prompt_ids(tokenizer, p["question"]) for p in problems]
    requests = [Request(ids, random_key(cfg.seed, "evaluation", p["id"]), cfg.max_tokens)
                for p, ids in zip(problems, prompts)]
    rows = [generate.completion_row(problems[i], 0, c, tokenizer, form)
            for i, c in decode(model, tokenizer, form, requests, Sampling(cfg.temperature), cfg.slots)]
    return statistics.fmean(bool(evaluate.grade(row, evaluate.answer_of(row))) for row in rows)


def usable_problems(cfg, reward, problems, model, tokenizer, form):
    """Problems that a parsed reward can judge and whose prompt leaves room for --max-tokens; the others are counted.
    Raises BadInput for a row without the budget that the reward needs, and when no problem is left."""
    n_all, used = len(problems), {name for term in reward for name, *_ in term}
    for p in problems if used & NEED_BUDGET else []:
        if type(p.get("budget")) not in (int, float) or not p["budget"] > 0:
            raise BadInput(f"{cfg.data}: row '{p['id']}': --reward {cfg.reward} needs a positive number as `budget`")
    if used & NEED_ANSWER:
        problems = [p for p in problems if evaluate.grade(p, "0") is not None]
    n_graded = len(problems)
    longest = models.context_length(model) - cfg.max_tokens
    problems = [p for p in problems if len(form.prompt_ids(tokenizer, p["question"])) <= longest]
    print(f"{len(problems)} problems ({n_all - n_graded} without a gold answer and {n_graded - len(problems)} too long "
          f"for the context left out); {cfg.prompts_per_step} x {cfg.group_size} completions a step")
    if not problems:
        raise BadInput(f"{cfg.data}: no problem is left to train on")
    return problems


def step_values(rows, reward, updates):
    """What the log says of a step; reward (N, G). Loss, ratio and norm are the first update's, clipping the last's."""
    first, last = updates[0], updates[-1]
    return {"reward": reward.mean().item(),
            "accuracy": statistics.fmean(bool(evaluate.grade(row, evaluate.answer_of(row))) for row in rows),
            "n_tokens": statistics.fmean(row["n_tokens"] for row in rows),
            "truncated": statistics.fmean(row["finish"] == "length" for row in rows),
            "equal_groups": int((reward == reward[:, :1]).all(1).sum()),
            "loss": first["loss"], "entropy": first["entropy"], "kl": first["kl"], "ratio_first": first["ratio_max"],
            "clip_fraction": last["clip_fraction"], "grad_norm": first["grad_norm"]}


def main(cfg):
    """Train and save. Returns the log rows of the steps taken now."""
    run.check_positive(cfg, "steps", "prompts_per_step", "group_size", "max_tokens", "temperature", "updates_per_rollout",
                       "lr", "clip", "nft_eps", "micro_batch_tokens", "slots", "save_every")
    if cfg.adv_std == "sample" and cfg.group_size < 2:
        raise BadInput("--group-size 1 has no sample standard deviation; use --adv-std none or a larger group")
    if cfg.baseline == "others" and cfg.group_size < 2:
        raise BadInput("--group-size 1 has no others for --baseline others")
    if cfg.objective == "nft" and (cfg.baseline, cfg.adv_std) not in (("group", "pop"), ("group", "none")):
        raise BadInput("--objective nft needs --baseline group and --adv-std pop or none, its two weightings")
    if (cfg.kl == "none") != (cfg.beta == 0):
        raise BadInput(f"--kl {cfg.kl} with --beta {cfg.beta}: a KL term needs both")
    if cfg.kl_in == "reward" and (cfg.kl == "none" or cfg.adv_std != "none"):
        raise BadInput("--kl-in reward needs --kl, --beta, and --adv-std none: in a group of equal rewards the KL's noise "
                       "would be all that the deviation measures")
    reward_terms = parse_reward(cfg.reward)
    problems = read_rows(cfg.data, need=("id", "question"))
    held_out = read_rows(cfg.eval_data, need=("id", "question", "answer")) if cfg.eval_data else []
    identity = run.identity(cfg, FREE, data=cfg.data, model=cfg.model)
    model, tokenizer = models.load(cfg.model, cfg.device)
    form = FORMATS[cfg.format]
    form.check(tokenizer)
    optimizers = sft.make_optimizers(model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay)
    start = sft.resume(cfg, identity, model, optimizers)
    if start is None:
        return []
    reference = models.load(cfg.model, cfg.device)[0].requires_grad_(False) if cfg.beta or cfg.kl_every else None

    problems = usable_problems(cfg, reward_terms, problems, model, tokenizer, form)
    log = run.Log(Path(cfg.out) / "log.jsonl", start, cfg.steps)
    samples = run.Log(Path(cfg.out) / "samples.jsonl", start, every=0)
    history = []
    for step in range(start, cfg.steps):
        began = time.perf_counter()
        # 1. sample
        chosen = [problems[i] for i in choose_prompts(len(problems), step, cfg.prompts_per_step, cfg.seed)]
        rows, completions, prompts = rollout(model, tokenizer, form, chosen, cfg, ("rollout", step))
        sampled = time.perf_counter()
        sequences = [prompt + c.ids for prompt, c in zip(prompts, completions)]
        masks = [[False] * len(prompt) + [not x and not (cfg.mask_truncated and c.finish == "length")
                                          for x in c.injected] for prompt, c in zip(prompts, completions)]
        old_logps = [[0.0] * len(prompt) + c.logp for prompt, c in zip(prompts, completions)]
        # 2. reward, 3. advantage
        groups = [rows[i:i + cfg.group_size] for i in range(0, len(rows), cfg.group_size)]
        reward = torch.tensor([rewards_of(reward_terms, group, form, cfg.max_tokens) for group in groups])  # (N, G)
        if cfg.kl_in == "reward":
            reward -= cfg.beta * kl_of_rows(reference, sequences, masks, old_logps, cfg, len(tokenizer)).view_as(reward)
        if cfg.objective == "nft" and not ((reward == 0) | (reward == 1)).all():
            raise BadInput(f"--reward {cfg.reward}: --objective nft needs rewards of 0 and 1")
        advantage = advantages(reward, cfg.adv_std, cfg.baseline).flatten()                           # (B,)
        right_share = reward.mean(1).repeat_interleave(cfg.group_size)                                # (B,)
        # 4. update
        scale = sft.lr_at(step, cfg.steps, 1.0, cfg.warmup, cfg.schedule)
        measure_kl = bool(cfg.kl_every) and step % cfg.kl_every == 0
        updates = [policy_update(model, reference, optimizers, sequences, masks, old_logps, advantage, cfg, scale,
                                 measure_kl and number == 0, len(tokenizer), right_share)
                   for number in range(cfg.updates_per_rollout)]
        seconds = time.perf_counter() - began
        values = step_values(rows, reward, updates) | {
            "lr": cfg.lr * scale, "tok_s": sum(row["n_tokens"] for row in rows) / seconds,
            "rollout_share": (sampled - began) / seconds}
        if held_out and cfg.eval_every and ((step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps):
            values["held_out"] = held_out_accuracy(model, tokenizer, form, held_out, cfg)
        history.append({"step": step + 1, **values})
        log(**history[-1])
        samples(step + 1, group=[{"question": row["question"], "text": row["text"], "reward": r}
                                 for row, r in zip(rows[:cfg.group_size], reward[0].tolist())])
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            sft.save_checkpoint(cfg.out, model, optimizers, step + 1, identity)
    n_equal = sum(h["equal_groups"] for h in history)
    print(f"groups with equal rewards, which teach nothing: {n_equal} of {len(history) * cfg.prompts_per_step}")
    sft.finish(cfg, model, tokenizer, identity, n_steps=cfg.steps)
    return history


if __name__ == "__main__":
    run.cli(main, Config)
