"""Reinforcement learning with verifiable rewards: GRPO, on-policy by default.

Per step, with N prompts and G samples of each (B = N·G rows):
    1. sample G completions per prompt from the policy
    2. reward r of each completion; a program decides (grading/rewards.py)
    3. advantage A_i = (r_i - mean of its group) / std of its group
    4. ratio ρ_t = exp(logp_t - old_logp_t), and an update by
       loss = - Σ min(ρ A, clip(ρ, 1-ε_low, 1+ε_high) A) / normaliser
              + β Σ KL(policy ‖ reference) / normaliser

Sources: DeepSeekMath (arXiv 2402.03300) §4; DeepSeek-R1 (arXiv 2501.12948) §2.2; DAPO (arXiv
2503.14476) for the token normaliser and ε_high; Dr. GRPO (arXiv 2503.20783) for --adv-std none
--normalise constant. The loss above is --loss grpo; GSPO, CISPO, REINFORCE, NFT and RFT are beside
it in OBJECTIVES.

Departs from DeepSeekMath in:
1. The normaliser is the token count of the whole step; --normalise sequence is the paper's.
2. There is no KL term unless --kl and --beta ask for one. KL to the reference is reported all the
same.
3. One update per rollout; --updates-per-rollout is the paper's μ.

old_logp comes from the decoder, at the sampling temperature, by the same forward functions that
training uses. So before the first update every ρ is 1 up to float rounding: ratio_first in the log
is the largest |ρ - 1| and should stay below 1e-4 in float32. If it does not, rollout and training
disagree, and nothing below can be trusted. With --dtype bf16 they do disagree: sampling rounds the
weights and every state, training (autocast) only the products, and the same token can become twice
as likely. Then --tis 2: old_logp comes from training's own forward pass, every first ρ is 1, and a
token's weight in the loss is its probability there over that of the sampler, at most 2.

As the first ρ are 1, the loss of an on-policy step says nothing of the model: it is -Σ w A over the
tokens. With --normalise sequence that is 0 (the advantages of a group sum to 0), with token its
sign says whether right answers are longer. Only its gradient matters.

A laptop, 80 seconds (after recipes/tiny.sh; the reward rises from 0.27, mean of 10 steps, to 0.72):
    python grpo.py --model data/tiny_base --data out/tiny/seed0/data/train.jsonl --out out/grpo
        --format think --steps 100 --max-tokens 128 --lr 5e-4
GSM8K at 0.5B:
    python grpo.py --model Qwen/Qwen2.5-0.5B-Instruct --data out/gsm8k.jsonl --out out/grpo-0.5b
        --format plain --max-tokens 512 --prompts-per-step 64

Off-policy on purpose: --updates-per-rollout, --minibatches, --lag, --offpolicy-frac. The log has
ess, the effective sample size (Σw)² / (n Σw²) of the ratios w to the sampler, and dlogp, the mean
|logp - sampled logp|, both of the last update on a rollout.

Reads problem rows (id, question, answer). Writes a model directory with log.jsonl, training.json,
samples.jsonl (one group of each step), accuracies.jsonl (the problems with their share of right
answers at each visit, for `curate.py --method variance`), curves.png and flops.jsonl (what was
computed, measurements aside). Rewards are computed in processes with a time limit: a group one of
whose rewards hangs, crashes or is not a number is left out of the update, counted as
reward_failures, and named on the terminal. A run that was killed continues from its last checkpoint
with the same command, to the same weights on a CPU.
"""

import math
import os
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

import kernels
from engine import (
    dealing,
    fitting,
    loading,
    lora,
    machine,
    processes,
    runlog,
    settings,
    sharding,
    tensor_parallel,
    training,
    watch,
)
from engine import model as models
from engine.columns import read_problems
from engine.completions import completion_row
from engine.decoder import Request, Sampling, decode
from engine.format import DATE, FORMATS, Format, with_asks, with_system
from engine.logprobs import logps_of, self_certainty
from engine.rollout import Rollout, Sums, make_micro_batch, sums_of, trained_states
from engine.rows import BadInput, write_rows
from engine.sampling import LEAST_TEMPERATURE, random_key
from grading.rewards import needs_of, reward_files, rewardable_problems
from grading.sandbox import Failure, Workers

OBJECTIVES = {}  # name: Objective


@dataclass(frozen=True, kw_only=True)
class Config(settings.Training):
    data: str  # problem rows
    # text of a completion, see engine/format.py
    format: Literal["s1", "think", "r1", "plain"] = "think"
    system: str = ""  # system prompt of rows without one
    date: str = DATE  # what a chat template that writes a date takes for today
    special_in_text: bool = False  # special tokens that a row's texts name are special, not text
    # correct, vote, cosine, lcpo ...: sum (+) of products (&), see grading/rewards.py;
    # FILE.py:FUNCTION
    reward: str = "correct"
    # seconds that the rewards of a group may take; past it the group is left out
    reward_seconds: float = 10.0

    steps: int = 100  # rollouts
    prompts_per_step: int = 16  # N
    group_size: int = 8  # G, samples per prompt
    # for lcpo: draw budgets from this range, in steps of a third number if there is one, and say
    # them in the question; L1: 100 4000
    budgets: tuple[int, ...] = ()
    # how: L1's sentence, or the number alone before the question (for models of few words)
    budget_words: Literal["l1", "first"] = "l1"
    # samples per prompt that vote, the first G of them trained; TTRL: 64, G = 32
    votes: int = 0
    # DAPO: more prompts until N groups are neither all right nor all wrong
    dynamic_sampling: bool = False
    max_tokens: int = 1024  # of a completion
    temperature: float = 1.0  # of sampling; training divides logits by it too
    # DAPO's overlong filter: a completion that was cut is in the group, not in the loss
    mask_truncated: bool = False

    # whose mean is taken off a reward; others: RLOO
    baseline: Literal["group", "others"] = "group"
    # what the advantages are divided by
    adv_std: Literal["pop", "sample", "batch", "none"] = "pop"
    loss: str = field(default="grpo", metadata={"names": OBJECTIVES})  # the objective
    eps_low: float = 0.2  # clip range below 1; UniReason: 0.22, GSPO: 3e-4
    eps_high: float = 0.2  # clip range above 1; DAPO, UniReason: 0.28, GSPO: 4e-4
    nft_eps: float = 1.0  # least likelihood ratio of NFT's implicit negative policy
    normalise: Literal["token", "sequence", "constant"] = "token"  # see `token_weights`
    kl: Literal["none", "k1", "k2", "k3"] = "none"  # estimator of the KL term, see `kl_estimate`
    beta: float = 0.0  # weight of the KL term; R1: 0.001
    kl_in: Literal["loss", "reward"] = "loss"  # where the KL term is added, see `kl_of_rows`
    entropy: float = 0.0  # weight of an entropy bonus per token
    kl_every: int = 1  # steps between measurements of the full-vocabulary KL; 0 = never
    reference: str | None = None  # model of the KL; default: --model
    # steps after which the reference becomes the policy, R1: 400; 0 = never
    ref_refresh: int = 0

    updates_per_rollout: int = 1  # passes over each rollout, the paper's μ
    # parts of a rollout, whole groups, an update for each; R1: 16, UniReason: 4
    minibatches: int = 1
    lag: int = 0  # steps between a rollout and its update, as in asynchronous training
    offpolicy_frac: float = 0.0  # share of each group that another model samples
    offpolicy_model: str | None = None  # a teacher, say; default: --model as it was at the start
    # truncated importance sampling: weight min(π_old / sampler, this); TRL: 2; 0 = no
    tis: float = 0.0

    eval_data: str | None = None  # held-out problems
    eval_every: int = 0  # steps between evaluations at --temperature; 0 = never
    slots: int = 256  # sequences decoded side by side
    # Adam's moments wait in host memory while the device samples
    offload_optimizer: bool = False


# May differ between a run and its continuation.
FREE = settings.FREE | {"slots", "offload_optimizer"}
MAX_ROUNDS = 10  # of --dynamic-sampling, N prompts each
# Fields of the log that are printed, and of a completion in samples.jsonl.
SHOWN = (
    *("reward", "accuracy", "n_tokens", "truncated", "equal_groups", "reward_failures", "loss"),
    *("entropy", "kl", "clip_fraction", "ratio_first", "grad_norm", "rollout_tok_s"),
    *("update_tok_s", "held_out"),
)


# ---------------------------------------------------------------- 3. advantage


def advantages(rewards, std="pop", baseline="group", eps=1e-6):
    """rewards (N, G) -> advantages (N, G): centred per group, over its standard deviation + eps.

    std: "pop" divides by G (with 0/1 rewards it is √(p(1-p))), "sample" by G - 1, "batch" is the
    population's over all N·G rewards, "none" does not divide (Dr. GRPO: dividing gives very easy
    and very hard prompts more weight).
    baseline: mean of the "group", or of the "others" in it (RLOO, arXiv 2402.14740), which makes
    every advantage larger by G / (G - 1). A group of equal rewards gets exactly 0.
    """
    n_samples = rewards.shape[1]
    if n_samples < 2 and (std == "sample" or baseline == "others"):
        raise ValueError("the sample deviation and the others' mean need a group of two or more")
    centred = rewards - rewards.mean(1, keepdim=True)
    if baseline == "others":
        centred = centred * (n_samples / (n_samples - 1))  # = r - (sum - r) / (G - 1)
    if std == "batch":
        centred = centred / (rewards.std(correction=0) + eps)
    elif std != "none":
        correction = int(std == "sample")
        centred = centred / (rewards.std(1, keepdim=True, correction=correction) + eps)
    # Equal rewards may have another mean in float32, and eps would not hide that.
    is_equal = (rewards == rewards[:, :1]).all(1, keepdim=True)
    return centred.masked_fill(is_equal, 0.0)


# ---------------------------------------------------------------- 4. the objectives


class Objective(NamedTuple):
    function: object  # (logp (N,), Tokens, cfg) -> (gain (N,), clipped (N,) bool)
    needs: frozenset  # "binary rewards", "accepted samples"


def objective(name, needs=()):
    """Register a function as --loss NAME: what is maximised per token, and where the clip acts.

    needs: "binary rewards" for rewards of 0 and 1 and advantages per group; "accepted samples" for
    advantages of 1 where the reward is positive, while all other samples are masked.
    """

    def register(function):
        OBJECTIVES[name] = Objective(function, frozenset(needs))
        return function

    return register


def clipped_objective(ratio, advantage, eps_low, eps_high):
    """PPO's pessimistic bound min(ρA, clip(ρ)A), (N,). For A < 0 that is the larger penalty."""
    clipped = ratio.clamp(1 - eps_low, 1 + eps_high)
    return torch.minimum(ratio * advantage, clipped * advantage)


def is_clipped(ratio, advantage, cfg):
    """Where the clip takes the gradient away, (N,) bool: beyond the side that A pushes to."""
    too_low = (ratio < 1 - cfg.eps_low) & (advantage < 0)
    too_high = (ratio > 1 + cfg.eps_high) & (advantage > 0)
    return too_low | too_high


def nowhere(logp):
    return torch.zeros_like(logp, dtype=torch.bool)


@objective("grpo")
def grpo(logp, tokens, cfg):
    """min(ρA, clip(ρ)A), ρ of the token. DeepSeekMath (arXiv 2402.03300), eq. 3."""
    ratio = (logp - tokens.old_logp).exp()
    gain = clipped_objective(ratio, tokens.advantage, cfg.eps_low, cfg.eps_high)
    return gain, is_clipped(ratio, tokens.advantage, cfg)


@objective("gspo")
def gspo(logp, tokens, cfg):
    """The same, ρ of the sequence: exp(mean_t log ρ_t). arXiv 2507.18071; --normalise sequence."""
    sums = torch.zeros_like(logp).index_add(0, tokens.row, logp - tokens.old_logp)
    lengths = torch.bincount(tokens.row)
    ratio = (sums[tokens.row] / lengths[tokens.row]).exp()
    gain = clipped_objective(ratio, tokens.advantage, cfg.eps_low, cfg.eps_high)
    return gain, is_clipped(ratio, tokens.advantage, cfg)


@objective("cispo")
def cispo(logp, tokens, cfg):
    """sg(clip(ρ)) A log π (sg: no gradient), so that no token loses its gradient.

    MiniMax-M1 (arXiv 2506.13585), where nothing is clipped below: --eps-low 1.
    """
    ratio = (logp - tokens.old_logp).exp()
    low, high = 1 - cfg.eps_low, 1 + cfg.eps_high
    weight = ratio.clamp(low, high).detach()
    return weight * tokens.advantage * logp, (ratio < low) | (ratio > high)


@objective("reinforce")
def reinforce(logp, tokens, cfg):
    """A log π."""
    return tokens.advantage * logp, nowhere(logp)


@objective("rft", needs=("accepted samples",))
def rft(logp, tokens, cfg):
    """log π of accepted samples: expert iteration, the likelihood of sft.py."""
    return tokens.advantage * logp, nowhere(logp)


@objective("nft", needs=("binary rewards",))
def nft(logp, tokens, cfg):
    """Negative-aware fine-tuning (arXiv 2505.18116), r the share of right answers in the group.

    A > 0: A log ρ.   A < 0: |A| (1-r)/r log max(ε, (1-rρ)/(1-r)), whose gradient passes the
    maximum. The paper's ω(q) is A of a right answer: √((1-r)/r) for --adv-std pop, 1-r for none. As
    in its code ρ is at most e^10 and r in .02 ... .98. On-policy the gradient is GRPO's.
    """
    log_ratio = logp - tokens.old_logp
    r = tokens.right_share.clamp(0.02, 0.98)
    # Likelihood ratio of the implicit policy that writes the wrong answers.
    negative = (1 - r * log_ratio.clamp(max=10).exp()) / (1 - r)
    limited = negative.clamp(min=cfg.nft_eps).detach()
    # The value is log(limited); the gradient is that of negative / limited.
    log_negative = limited.log() + (negative - negative.detach()) / limited
    right = tokens.advantage * log_ratio
    wrong = -tokens.advantage * (1 - r) / r * log_negative
    return torch.where(tokens.advantage > 0, right, wrong), nowhere(logp)


def kl_estimate(logp, ref_logp, kind):
    """Per-token estimates of KL(policy ‖ reference) on the policy's own tokens (Schulman 2020).

    All three go into the loss as written, d = ref_logp - logp; their gradients differ. k1 = -d:
    zero in expectation, it only adds noise. k2 = d²/2: the gradient of KL(policy ‖ reference).
    k3 = e^d - 1 - d: that of KL(reference ‖ policy).
    """
    d = ref_logp - logp
    return {"k1": -d, "k2": d**2 / 2, "k3": torch.expm1(d) - d}[kind]


def token_weights(row, n_rows, normalise, max_tokens):
    """row (N,): the sequence of each trained token of the step -> its weight (N,) in the loss.

    token     1 / trained tokens of the step                (DAPO)
    sequence  1 / (rows · tokens of its sequence)           (GRPO: long answers count less per
    token)
    constant  1 / (rows · max_tokens)                       (Dr. GRPO)
    """
    if normalise == "token":
        return torch.full(row.shape, 1 / max(1, len(row)))
    if normalise == "constant":
        return torch.full(row.shape, 1 / (n_rows * max_tokens))
    return 1 / (n_rows * torch.bincount(row)[row].float())


# ---------------------------------------------------------------- 1. sample


@dataclass
class Setup:
    """Everything that stays from step to step, but for the weights of `model`."""

    cfg: Config
    model: torch.nn.Module  # the policy that is trained, under torchrun in shards
    sampler: (
        torch.nn.Module
    )  # the same policy to sample from: `model` itself, under torchrun a copy
    ranks: processes.Ranks  # the ranks that share the sampler, and which prompts are theirs
    reference: torch.nn.Module | None
    other: torch.nn.Module | None  # the sampler of --offpolicy-frac
    tokenizer: object
    form: Format
    pool: Workers  # processes that compute rewards
    problems: list
    lengths: dict  # id of a problem, as text -> mean tokens of its completions when last sampled
    # id -> share of right answers of each group that was sampled, in order
    accuracies: dict = field(default_factory=dict)


def choose_prompts(n_problems, step, prompts_per_step, seed):
    """Indices of the problems of step 0, 1, ...

    The data come in a new order each time they are used up. Needs no state.
    """
    chosen = []
    for place in range(step * prompts_per_step, (step + 1) * prompts_per_step):
        epoch = place // n_problems
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(n_problems, generator=generator)
        chosen.append(int(order[place % n_problems]))
    return chosen


def sample_groups(setup, problems, stream, places):
    """Sample G (or --votes) completions of the problems at these places -> a list of rows for each.

    A row is that of generate.py with its `prompt` as ids and the `logp` of each token at the
    sampling temperature. The first round(offpolicy_frac · G) rows of a group are the other model's,
    with its log-probabilities. stream: what names this draw, so that every step samples anew.
    """
    cfg, form = setup.cfg, setup.form
    n_samples = max(cfg.votes, cfg.group_size)
    n_other = round(cfg.offpolicy_frac * cfg.group_size)
    requests = []
    for place in places:
        prompt = form.row_prompt_ids(setup.tokenizer, problems[place])
        for number in range(n_samples):
            # The place is in the key, too: a small data set can repeat within a step.
            key = random_key(cfg.seed, *stream, place, problems[place]["id"], number)
            requests.append(Request(prompt, key, cfg.max_tokens))

    # A model decodes all its requests in one call: finished sequences make room for waiting ones.
    rows = [None] * len(requests)
    samplers = [(setup.sampler, range(n_other, n_samples))]
    if n_other:
        samplers.append((setup.other, range(n_other)))
    for model, numbers in samplers:
        mine = [i for i in range(len(requests)) if i % n_samples in numbers]
        for at, completion in sample(setup, model, [requests[i] for i in mine]):
            which, number = divmod(mine[at], n_samples)
            problem = problems[places[which]]
            row = completion_row(problem, number, completion, setup.tokenizer, form)
            prompt = requests[mine[at]].prompt
            rows[mine[at]] = row | {"prompt": prompt, "logp": completion.logp}
    return [rows[i : i + n_samples] for i in range(0, len(rows), n_samples)]


def sample(setup, model, requests):
    """Yield (index, Completion) of the requests, from the full distribution at --temperature.

    A cut by top-p would have to be made in training, too.
    """
    cfg = setup.cfg
    with training.rounded_weights(model, cfg.dtype):
        yield from decode(
            model, setup.tokenizer, setup.form, requests, Sampling(cfg.temperature), cfg.slots
        )


def expected_work(setup, problem):
    """Estimate a group's tokens: its prompt once, and G times its mean length at the last visit.

    A problem that was not sampled yet counts as long as it may become. Known to all ranks and the
    same for any number of them.
    """
    cfg = setup.cfg
    longest = cfg.max_tokens
    if "budget" in needs_of(cfg.reward):
        longest = min(cfg.max_tokens, problem["budget"])
    n_prompt = len(setup.form.row_prompt_ids(setup.tokenizer, problem))
    n_completion = setup.lengths.get(str(problem["id"]), longest)
    return n_prompt + max(cfg.votes, cfg.group_size) * n_completion


# ---------------------------------------------------------------- 2. reward


def reward_groups(setup, groups, reward):
    """What grading.rewards.score_group says of each group, or the Failure of its worker process."""
    if not setup.ranks.writes:  # another of the ranks that have these rows asks
        return [None] * len(groups)
    items = []
    for group in groups:
        rows = [
            {name: value for name, value in row.items() if name not in ("prompt", "logp")}
            for row in group
        ]
        items.append(
            {
                "reward": reward,
                "format": setup.cfg.format,
                "max_tokens": setup.cfg.max_tokens,
                "rows": rows,
            }
        )
    return setup.pool.map(items)


def sample_and_reward(setup, problems, stream):
    """Sample and reward the groups of some problems, each on one rank -> [(rows, verdict)] on all.

    Returns the seconds of sampling, too.
    """
    began = time.perf_counter()
    work = [expected_work(setup, problem) for problem in problems]
    shares = dealing.deal_groups(work, setup.ranks.n)
    groups = sample_groups(setup, problems, stream, shares[setup.ranks.index])
    seconds = time.perf_counter() - began
    if "self_certainty" in needs_of(setup.cfg.reward):
        rows = [row for group in groups for row in group]
        values = self_certainty(setup.sampler, rows, setup.cfg, len(setup.tokenizer))
        for row, value in zip(rows, values):
            row["self_certainty"] = value
    verdicts = reward_groups(setup, groups, setup.cfg.reward)
    return dealing.gather_dealt(list(zip(groups, verdicts)), shares, setup.ranks), seconds


def collect(setup, step):
    """Sample and reward -> {"groups": at most N to train on, "stats": numbers of all for the log}.

    With --dynamic-sampling in rounds of N prompts until N groups teach something. A group without a
    reward is left out and named.
    """
    cfg = setup.cfg
    kept, judged, sampled, votes = [], [], [], []
    n_failures, seconds = 0, 0.0
    for number in range(MAX_ROUNDS if cfg.dynamic_sampling else 1):
        problems, stream = problems_of_round(setup, step, number)
        found, took = sample_and_reward(setup, problems, stream)
        seconds += took
        for group, verdict in found:
            sampled += group
            # Remembered for dealing: the next visit will take about as long.
            problem = str(group[0]["id"])
            setup.lengths[problem] = statistics.fmean(row["n_tokens"] for row in group)
            if any(row["finish"] == "nan" for row in group):
                verdict = Failure("error", "the model's logits are not finite")
            if not isinstance(verdict, dict):  # a Failure, which JSON has made a list
                n_failures += 1
                report_failure(setup, step, problem, verdict)
                continue
            add_rewards(group, verdict)
            judged.append(group)
            note_accuracy(setup.accuracies, group)
            if verdict["vote"]:
                votes.append(verdict["vote"])
            trained = group[: cfg.group_size]
            if not cfg.dynamic_sampling or is_mixed(trained, cfg.reward):
                kept.append(trained)
        if len(kept) >= cfg.prompts_per_step:
            break
    # One failed reward leaves a group out; no reward at all means that the reward is broken.
    if not judged:
        raise BadInput(
            f"--reward {cfg.reward}: no reward could be computed in step {step + 1}; "
            "the reasons are above"
        )
    stats = statistics_of(judged, sampled, votes, seconds)
    lengths = [len(row["prompt"] + row["ids"]) for row in sampled]
    stats["reward_failures"] = n_failures
    stats["rollout_flops"] = models.forward_flops(setup.model, lengths)
    return {"groups": kept[: cfg.prompts_per_step], "stats": stats}


def problems_of_round(setup, step, number):
    """Problems and random stream of round 0, 1, ... of a step. Each round has its own order."""
    cfg = setup.cfg
    if number:
        place, seed, stream = step * MAX_ROUNDS + number, cfg.seed + 10**6, (step, number)
    else:
        place, seed, stream = step, cfg.seed, (step,)
    chosen = choose_prompts(len(setup.problems), place, cfg.prompts_per_step, seed)
    return [setup.problems[i] for i in chosen], ("rollout", *stream)


def report_failure(setup, step, problem, failure):
    if setup.ranks.leads:
        kind, text = failure
        print(f"step {step + 1}: no reward for problem {problem}, left out: {kind}, {text}")


def add_rewards(group, verdict):
    """Put what score_group said into the rows of the group."""
    values = zip(group, verdict["reward"], verdict["right"], verdict["token_rewards"])
    for row, reward, right, token_rewards in values:
        row |= {"reward": reward, "right": right, "token_rewards": token_rewards}


def note_accuracy(accuracies, group):
    """Add a group's share of right answers to its problem's list; nothing without a gold answer."""
    graded = [row["right"] for row in group if row["right"] is not None]
    if graded:
        accuracies.setdefault(str(group[0]["id"]), []).append(statistics.fmean(graded))


def is_mixed(group, reward):
    """Whether the samples of a group differ in being right, or in reward where no answer counts.

    A reward for length differs in nearly every group.
    """
    decides = "right" if "answer" in needs_of(reward) else "reward"
    return len({row[decides] for row in group}) > 1


def statistics_of(judged, sampled, votes, seconds):
    """Numbers of a rollout for the log.

    judged: groups with rewards; sampled: rows of all groups; votes: score_group's "vote" of each
    group.
    """
    rows = [row for group in judged for row in group]
    n_tokens = [row["n_tokens"] for row in sampled]
    graded = [row["right"] for row in rows if row["right"] is not None]
    stats = {
        "reward": statistics.fmean(row["reward"] for row in rows),
        "accuracy": mean_or_none(graded),
        "n_tokens": statistics.fmean(n_tokens),
        "truncated": statistics.fmean(row["finish"] == "length" for row in sampled),
        "equal_groups": sum(len({row["reward"] for row in group}) == 1 for group in judged),
        "n_groups": len(judged),
        "rollout_tok_s": sum(n_tokens) / seconds,
        "rollout_seconds": seconds,
        "rollout_tokens": sum(n_tokens),
    }
    if votes:
        # The majority answer: how often it is right, its share of the votes, and how often it
        # rewards a sample as the gold answer would.
        labels = [vote["right"] for vote in votes if vote["right"] is not None]
        agreed = [vote["agreement"] for vote in votes if vote["agreement"] is not None]
        stats["label_accuracy"] = mean_or_none(labels)
        stats["majority_share"] = statistics.fmean(vote["share"] for vote in votes)
        stats["reward_accuracy"] = mean_or_none(agreed)
    return stats


def mean_or_none(values):
    return statistics.fmean(values) if values else None


# ---------------------------------------------------------------- 4. update


def update_policy(model, reference, optimizers, rollout, cfg, scale, measure_kl):
    """Pass over a rollout in packed micro-batches, then take one optimizer step -> numbers to log.

    Masked tokens do not count, in numerator or denominator; a row whose tokens are all masked is
    ignored. Rows of advantage 0 have no gradient unless the loss has a KL or an entropy bonus:
    their tokens count in the normaliser, but they pass only forward, and that only to measure the
    KL. If no row has a gradient, the weights stay, whatever the momentum.
    """
    ranks = sharding.ranks_of(model)
    trained, measured = rows_to_train(rollout, cfg, measure_kl)
    # Weights are of the whole step, so the gradient is the same for any size of micro-batch.
    weights = weights_of_rows(rollout.masks, cfg)
    sums = Sums()
    for rows, learns in ((trained, True), (measured, False)):
        lengths = [len(rollout.sequences[i]) for i in rows]
        for chosen, counts in dealing.micro_batches(lengths, cfg.micro_batch_tokens, ranks):
            chosen = [rows[i] for i in chosen]
            micro_batch = make_micro_batch(rollout, weights, chosen, ranks.device)

            def compute_loss(model):
                return loss_of(model, reference, micro_batch, cfg, measure_kl)

            with torch.set_grad_enabled(learns), training.autocast(cfg, ranks):
                loss, numbers = sharding.compute_in_forward(model, compute_loss)
            if learns:
                # FSDP takes the mean over ranks; what a rank repeats to take part does not count.
                (loss * (ranks.n if counts else 0)).backward()
            if counts:
                sums.add(numbers)
    # Without a gradient there is no step: Adam's momentum and weight decay would move the weights.
    norm = training.update(model, optimizers, cfg.clip, scale) if trained else 0.0
    model.zero_grad(set_to_none=True)
    lengths = [len(rollout.sequences[i]) for i in trained]
    return sums.means(ranks, measure_kl) | {
        "grad_norm": None if math.isnan(norm) else norm,
        "tokens": sum(lengths),
        "flops": models.training_flops(model, lengths),
    }


def loss_of(model, reference, micro_batch, cfg, measure_kl):
    """The loss of a micro-batch, and sums over its tokens for the log."""
    tokens, target = micro_batch.tokens, micro_batch.batch.target
    # At the sampling temperature and over the tokenizer's tokens, as the decoder took them:
    # otherwise the first ratio would not be 1.
    hidden, head = trained_states(model, micro_batch)  # (N, D)
    stats = kernels.token_stats(
        hidden, head, target, cfg.temperature, want=("logp", "entropy")
    )  # (N,) each
    gain, clipped = OBJECTIVES[cfg.loss].function(stats.logp, tokens, cfg)
    # Where another model sampled: the importance weight of its tokens, truncated (IMPALA's ρ̄).
    if cfg.tis:
        gain = gain * (tokens.old_logp - tokens.sampled_logp).exp().clamp(max=cfg.tis)
    loss, full_kl = -gain, None
    if has_kl_loss(cfg) or measure_kl:
        # The reference has no gradient. full_kl sums over the vocabulary and is for the log only.
        def compare(reference):
            ref_hidden, ref_head = trained_states(reference, micro_batch)
            ref_logp = ref_hidden.new_zeros(())
            if has_kl_loss(cfg):
                ref_logp = kernels.token_stats(ref_hidden, ref_head, target, cfg.temperature).logp
            if not measure_kl:
                return ref_logp, None
            with torch.no_grad():
                kl, *_ = kernels.token_kl(hidden, head, ref_hidden, ref_head, cfg.temperature)
            return ref_logp, kl

        with lora.off(reference):
            ref_logp, full_kl = sharding.compute_in_forward(reference, compare)
    if has_kl_loss(cfg):
        loss = loss + cfg.beta * kl_estimate(stats.logp, ref_logp, cfg.kl)
    if cfg.entropy:
        loss = loss - cfg.entropy * stats.entropy
    # The weights sum to 1 over the step with --normalise token: this is the mean over its tokens.
    loss = (loss * tokens.weight).sum()
    return loss, sums_of(loss, stats, clipped, full_kl, tokens)


def has_kl_loss(cfg):
    return cfg.kl != "none" and cfg.beta > 0 and cfg.kl_in == "loss"


def rows_to_train(rollout, cfg, measure_kl):
    """Indices of the rows with a gradient, and of those that only pass forward, for the KL."""
    everywhere = has_kl_loss(cfg) or cfg.entropy != 0  # a gradient in every row
    trained, measured = [], []
    for i, mask in enumerate(rollout.masks):
        if not any(mask):
            continue
        has_token_reward = rollout.token_rewards is not None and any(rollout.token_rewards[i])
        if everywhere or bool(rollout.advantage[i] != 0) or has_token_reward:
            trained.append(i)
        elif measure_kl:
            measured.append(i)
    return trained, measured


def weights_of_rows(masks, cfg):
    """token_weights of the whole step -> a tensor for each row."""
    row = torch.tensor([i for i, mask in enumerate(masks) for is_trained in mask if is_trained])
    n_rows = max(1, sum(map(any, masks)))
    weights = token_weights(row, n_rows, cfg.normalise, cfg.max_tokens)
    return weights.split([sum(mask) for mask in masks])


# ---------------------------------------------------------------- 3. and 4. on a rollout


def learn(setup, optimizers, batch, step):
    """Advantages and updates on what `collect` returned -> numbers for the log.

    Loss, ratio and norm are those of the first update; clipping, effective sample size and |Δ log
    p| those of the last, which is the furthest from the sampler.
    """
    cfg, began = setup.cfg, time.perf_counter()
    scale = training.lr_at(step, cfg.steps, 1.0, cfg.warmup, cfg.schedule)  # of the peak rate
    if not batch["groups"]:
        return nothing_learned(setup, batch, step) | {"lr": cfg.lr * scale}
    rollout = make_rollout(setup, batch["groups"])
    measure_kl = bool(cfg.kl_every) and step % cfg.kl_every == 0
    parts = split_groups(len(batch["groups"]), cfg)
    updates = []
    for part in parts * cfg.updates_per_rollout:
        updates.append(
            update_policy(
                setup.model,
                setup.reference,
                optimizers,
                rollout.part(part),
                cfg,
                scale,
                measure_kl and not updates,  # once per rollout
            )
        )
    first, last, seconds = updates[0], updates[-1], time.perf_counter() - began
    n_tokens = cfg.updates_per_rollout * sum(map(len, rollout.sequences))
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
        "update_tok_s": n_tokens / seconds,
        "train_tokens": sum(numbers["tokens"] for numbers in updates),
        "train_flops": sum(numbers["flops"] for numbers in updates),
    }


def nothing_learned(setup, batch, step):
    """Say that no group of a step teaches anything -> numbers for the log."""
    if setup.ranks.leads:
        print(
            f"step {step + 1}: all {batch['stats']['n_groups']} groups of {MAX_ROUNDS} rounds are "
            "all right or all wrong; there is nothing to learn from them and the weights stay"
        )
    unknown = ("loss", "entropy", "kl", "ratio_first", "clip_fraction", "dlogp", "ess")
    zero = {"grad_norm": 0.0, "update_tok_s": 0.0, "update_seconds": 0.0}
    return dict.fromkeys(unknown) | zero | {"train_tokens": 0, "train_flops": 0}


def make_rollout(setup, groups):
    """Groups of rewarded rows -> Rollout. Notes the advantage in each row."""
    cfg, rows = setup.cfg, [row for group in groups for row in group]
    needs = OBJECTIVES[cfg.loss].needs
    reward = torch.tensor([[row["reward"] for row in group] for group in groups])  # (N, G)
    if "binary rewards" in needs and not ((reward == 0) | (reward == 1)).all():
        raise BadInput(f"--reward {cfg.reward}: --loss {cfg.loss} needs rewards of 0 and 1")
    sequences, masks, sampled_logps = token_columns(rows, cfg)
    n_tokens = len(setup.tokenizer)
    # RLOO's place for the KL: in the reward, before the baseline is taken off.
    if cfg.kl_in == "reward":
        kl = kl_of_rows(setup.reference, sequences, masks, sampled_logps, cfg, n_tokens)  # (B,)
        reward -= cfg.beta * kl.view_as(reward)
    if "accepted samples" in needs:
        advantage = (reward > 0).float().flatten()
        masks = [
            [is_trained and bool(accepted) for is_trained in mask]
            for mask, accepted in zip(masks, advantage)
        ]
    else:
        advantage = advantages(reward, cfg.adv_std, cfg.baseline).flatten()  # (B,)
    for row, value in zip(rows, advantage.tolist()):
        row["advantage"] = value
    old_logps = sampled_logps
    if cfg.tis:  # the sampler is not taken for the old policy
        old_logps = logps_of(setup.model, sequences, masks, cfg, n_tokens)
    # Rewards of single tokens are added to the advantage of those tokens, not to the reward.
    token_rewards = None
    if any(row["token_rewards"] for row in rows):
        token_rewards = [[0.0] * len(row["prompt"]) + (row["token_rewards"] or []) for row in rows]
    right_share = reward.mean(1).repeat_interleave(cfg.group_size)  # (B,)
    return Rollout(
        sequences,
        masks,
        old_logps,
        advantage,
        right_share,
        sampled_logps,
        token_rewards,
        n_tokens,
    )


def token_columns(rows, cfg):
    """Completion rows -> (sequences, masks, the sampler's logps): lists over rows and their tokens.

    Not trained: the prompt, injected tokens, and with --mask-truncated all of a completion that was
    cut.
    """
    sequences, masks, logps = [], [], []
    for row in rows:
        injected = set(row["injected"])
        is_cut = cfg.mask_truncated and row["finish"] == "length"
        trained = [not is_cut and i not in injected for i in range(len(row["ids"]))]
        sequences.append(row["prompt"] + row["ids"])
        masks.append([False] * len(row["prompt"]) + trained)
        logps.append([0.0] * len(row["prompt"]) + row["logp"])
    return sequences, masks, logps


def kl_of_rows(reference, sequences, masks, old_logps, cfg, n_tokens=None):
    """Sum over a row's trained tokens of the estimate of KL(policy ‖ reference), (B,).

    --kl-in reward takes β times this off a completion's reward, with k1 as RLOO does (arXiv
    2402.14740). Through the advantage k1 has the gradient of KL(policy ‖ reference), which in the
    loss only k2 has.
    """
    with lora.off(reference):
        ref_logps = logps_of(reference, sequences, masks, cfg, n_tokens)
    sums = []
    for old, ref, mask in zip(old_logps, ref_logps, masks):
        trained = torch.tensor(mask)
        old, ref = torch.tensor(old)[trained], torch.tensor(ref)[trained]
        sums.append(kl_estimate(old, ref, cfg.kl).sum())
    return torch.stack(sums)


def split_groups(n_groups, cfg):
    """Split a rollout into --minibatches parts of whole groups -> slices of rows."""
    ends = [n_groups * i // cfg.minibatches for i in range(cfg.minibatches + 1)]
    return [
        slice(cfg.group_size * begin, cfg.group_size * end)
        for begin, end in zip(ends, ends[1:])
        if begin < end
    ]


# ---------------------------------------------------------------- the run


def train(cfg, ranks, problems, held_out):
    """Load, loop over the steps, save; see main. Returns the log rows of the steps taken now."""
    model, tokenizer = training.load_model(cfg, ranks)
    form = FORMATS[cfg.format].fit(tokenizer, cfg.date, cfg.special_in_text)
    form.check(tokenizer)
    if "self_certainty" in needs_of(cfg.reward) and models.softcap(model):
        raise BadInput(
            f"--reward {cfg.reward}: no self_certainty of a model that caps its logits: {cfg.model}"
        )
    optimizers = training.make_optimizers(
        model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay, adam_dtype=cfg.adam_dtype
    )
    reference = load_reference(cfg, model, tokenizer, ranks)
    # A reference that changes is saved with the run.
    run = training.Run(
        cfg, identity_of(cfg), model, optimizers, reference if cfg.ref_refresh else None
    )
    if run.is_complete:
        return []
    setup = set_up(cfg, model, reference, tokenizer, form, run.noted)
    run.say(form.fitted.describe())
    setup.problems = usable_problems(setup, problems, run.say)
    held_out = fitting_problems(setup, held_out, run.say)
    cfg = setup.cfg = fitting.with_micro_batch(cfg, run, longest_row(setup))
    queue = deque(run.noted.get("queue", ()))  # rollouts that wait for their update
    watcher = watch.Watcher(run, most_ratio_of(cfg))

    def note():  # in a checkpoint, beside weights and optimizer
        return {"queue": list(queue), "lengths": setup.lengths, "accuracies": setup.accuracies}

    n_workers = max(2, (os.cpu_count() or 2) // 4)
    with Workers("grading.rewards:score_group", n_workers, cfg.reward_seconds) as setup.pool:
        for step in run.steps(cfg.steps, shown=SHOWN, note=note):
            # 1. sample and 2. reward, with --lag for a later step: rollout s is sampled with the
            # weights of step s - lag.
            with training.moments_on_host(optimizers, ranks.device, cfg.offload_optimizer):
                while len(queue) <= cfg.lag and step + len(queue) < cfg.steps:
                    queue.append(collect(setup, step + len(queue)))
            batch = queue.popleft()
            # 3. advantage and 4. update
            values = batch["stats"] | learn(setup, optimizers, batch, step)
            update_copies(setup, step)
            is_last = step + 1 == cfg.steps
            is_due = cfg.eval_every and ((step + 1) % cfg.eval_every == 0 or is_last)
            if held_out and is_due:
                values["held_out"] = held_out_accuracy(setup, held_out)
            run.log(step, **values)
            watcher.look(step, batch["groups"], is_last)

    watcher.finish()
    if ranks.leads:
        write_rows(run.out / "flops.jsonl", ledger_of(run.history))
        write_rows(run.out / "accuracies.jsonl", visited_problems(setup))
    run.finish(tokenizer, n_steps=cfg.steps)
    return run.taken


def identity_of(cfg):
    """What makes two runs the same: settings, data, models, and the files of the user's rewards."""
    files = {f"reward {path}": path for path in reward_files(cfg.reward)}
    return runlog.identity(
        cfg,
        FREE,
        data=cfg.data,
        model=cfg.model,
        reference=cfg.reference,
        offpolicy_model=cfg.offpolicy_model,
        **files,
    )


def set_up(cfg, model, reference, tokenizer, form, noted):
    """Load what samples -> Setup, without problems and reward workers. noted: in a checkpoint."""
    ranks = processes.join_ranks(cfg.device, cfg.tp)
    other, sampler = None, model
    if cfg.offpolicy_frac:
        path = cfg.offpolicy_model or cfg.model
        other = load_beside(cfg, path, tokenizer, ranks, "--offpolicy-model")
    if sharding.ranks_of(model).mesh is not None:  # in shards, from which one cannot decode
        dtype = loading.DTYPES[cfg.dtype]
        sampler, _ = tensor_parallel.load_split(cfg.model, ranks, dtype)
        if cfg.lora:
            lora.attach(sampler, lora.shape_of(cfg), dtype)
        tensor_parallel.copy_weights(model, sampler)
    return Setup(
        cfg=cfg,
        model=model,
        sampler=sampler,
        ranks=ranks,
        reference=reference,
        other=other,
        tokenizer=tokenizer,
        form=form,
        pool=None,
        problems=[],
        lengths=noted.get("lengths", {}),
        accuracies=noted.get("accuracies", {}),
    )


def load_reference(cfg, model, tokenizer, ranks):
    """The model of the KL, None if there is no KL. A policy with adapters is its own reference."""
    if not (cfg.beta or cfg.kl_every):
        return None
    if cfg.lora and not cfg.reference:
        return model  # without its adapters, see lora.off
    return load_beside(cfg, cfg.reference or cfg.model, tokenizer, ranks, "--reference")


def load_beside(cfg, path, tokenizer, ranks, flag):
    """Load a model without gradients, in shards if ranks have a mesh.

    Raises BadInput if its tokenizer is not --model's: token ids would mean other texts.
    """
    if ranks.mesh is not None:
        model, own = sharding.load_to_train(path, ranks, cfg.dtype == "bf16")
    else:
        model, own = tensor_parallel.load_split(path, ranks, torch.float32)
    if own.get_vocab() != tokenizer.get_vocab():
        raise BadInput(f"{flag} {path}: another tokenizer than that of --model {cfg.model}")
    return model.requires_grad_(False)


@torch.no_grad()
def update_copies(setup, step):
    """Bring the sampler's copy, and the reference if it is due, to the weights of the policy."""
    if setup.sampler is not setup.model:
        tensor_parallel.copy_weights(setup.model, setup.sampler)
    if setup.cfg.ref_refresh and (step + 1) % setup.cfg.ref_refresh == 0:
        old = sharding.parts(setup.reference)
        for name, part in sharding.parts(setup.model).items():
            old[name].copy_(part)


def usable_problems(setup, problems, say):
    """Problems that the reward can judge and that fit into the context, with budgets if asked for.

    Raises BadInput when none is left.
    """
    cfg = setup.cfg
    if cfg.budgets:
        problems = [with_budget(problem, cfg) for problem in problems]
    judged, left_out = rewardable_problems(problems, cfg.reward, cfg.data)
    fitting = fitting_problems(setup, judged)
    say(
        f"{len(fitting)} problems ({left_out} and {len(judged) - len(fitting)} too long for the "
        f"context left out); {cfg.prompts_per_step} x {max(cfg.votes, cfg.group_size)} completions "
        "a step"
    )
    if not fitting:
        raise BadInput(f"{cfg.data}: no problem is left to train on")
    return fitting


def with_budget(problem, cfg):
    """Draw a problem's budget from --budgets and say it in the question (L1, arXiv 2503.04697)."""
    low, high, step = (*cfg.budgets, 1)[:3]
    n_budgets = (high - low) // step + 1
    budget = low + step * (random_key(cfg.seed, "budget", problem["id"]) % n_budgets)
    is_limit = cfg.budget_words == "l1" and "upper budget" in needs_of(cfg.reward)
    how = "l1-max" if is_limit else cfg.budget_words
    (problem,) = with_asks([problem], f"{how}:{budget}")
    return problem | {"budget": budget}


def fitting_problems(setup, problems, say=None):
    """Problems whose prompt leaves room for --max-tokens in the context."""
    longest = models.context_length(setup.model) - setup.cfg.max_tokens
    kept = [
        problem
        for problem in problems
        if len(setup.form.row_prompt_ids(setup.tokenizer, problem)) <= longest
    ]
    n_out = len(problems) - len(kept)
    if say and n_out:
        path, n = setup.cfg.eval_data, len(problems)
        say(f"{path}: {n_out} of {n} problems too long for the context left out")
    return kept


def longest_row(setup):
    """Tokens of the longest prompt, about, and of the longest completion."""
    problem = max(setup.problems, key=lambda problem: len(problem["question"]))
    return len(setup.form.row_prompt_ids(setup.tokenizer, problem)) + setup.cfg.max_tokens


def held_out_accuracy(setup, problems):
    """Share of right answers, one sample each at --temperature.

    An answer that cannot be graded in time is not right.
    """
    cfg = setup.cfg
    shares = dealing.deal_groups([1] * len(problems), setup.ranks.n)
    mine = [problems[place] for place in shares[setup.ranks.index]]
    requests = []
    for problem in mine:
        prompt = setup.form.row_prompt_ids(setup.tokenizer, problem)
        key = random_key(cfg.seed, "evaluation", problem["id"])
        requests.append(Request(prompt, key, cfg.max_tokens))
    groups = [None] * len(mine)
    for i, completion in sample(setup, setup.sampler, requests):
        groups[i] = [completion_row(mine[i], 0, completion, setup.tokenizer, setup.form)]
    verdicts = reward_groups(setup, groups, "correct")
    n_right = 0
    for problem, verdict in zip(problems, dealing.gather_dealt(verdicts, shares, setup.ranks)):
        if isinstance(verdict, dict):
            n_right += bool(verdict["right"][0])
        elif setup.ranks.leads:
            kind, text = verdict
            print(f"held-out problem {problem['id']} could not be graded: {kind}, {text}")
    return n_right / len(problems)


def most_ratio_of(cfg):
    """How far the first ratio may be from 1 before a warning of drift."""
    if (cfg.lag or cfg.offpolicy_frac) and not cfg.tis:
        return math.inf  # off-policy on purpose
    if cfg.dtype == "fp32":
        return 1e-3
    return 1e-2 if cfg.tis else 1.0


def visited_problems(setup):
    """The problems that were sampled and graded, with `accuracies`: a number for each visit."""
    found = ((problem, setup.accuracies.get(str(problem["id"]))) for problem in setup.problems)
    return [problem | {"accuracies": values} for problem, values in found if values]


def ledger_of(history):
    """Rows of flops.jsonl: what sampling and training computed."""
    return [
        {"phase": phase}
        | {unit: sum(row[f"{phase}_{unit}"] for row in history) for unit in ("tokens", "flops")}
        for phase in ("rollout", "train")
    ]


# ---------------------------------------------------------------- the command


def check(cfg):
    """Raise BadInput for settings out of range or that do not go together."""
    settings.check_training(cfg)
    settings.check_positive(
        cfg,
        *("steps", "prompts_per_step", "group_size", "max_tokens", "updates_per_rollout"),
        *("minibatches", "nft_eps", "slots", "reward_seconds"),
    )
    settings.check_range(cfg, LEAST_TEMPERATURE, math.inf, "temperature")
    settings.check_range(
        cfg,
        *(0, math.inf),
        *("votes", "lag", "ref_refresh", "tis", "eval_every", "kl_every"),
        *("eps_low", "eps_high", "beta"),
    )
    check_objective(cfg)
    check_kl(cfg)
    if cfg.budgets:
        check_budgets(cfg)
    if cfg.minibatches > cfg.prompts_per_step:
        raise BadInput(
            f"--minibatches {cfg.minibatches}: more than --prompts-per-step, and groups stay whole"
        )
    if 0 < cfg.votes < cfg.group_size:
        raise BadInput(f"--votes {cfg.votes}: at least --group-size {cfg.group_size}, the trained")
    if not 0 <= cfg.offpolicy_frac <= 1:
        raise BadInput(f"--offpolicy-frac {cfg.offpolicy_frac}: a share, 0 to 1")


def check_budgets(cfg):
    numbers = cfg.budgets
    is_range = len(numbers) in (2, 3) and min(numbers) > 0 and numbers[0] <= numbers[1]
    if not is_range:
        raise BadInput("--budgets: the least and the most tokens, and perhaps the step between")
    if "budget" not in needs_of(cfg.reward):
        raise BadInput(f"--budgets: no lcpo in --reward {cfg.reward}")


def check_objective(cfg):
    if cfg.loss not in OBJECTIVES:
        raise BadInput(f"--loss {cfg.loss}: not one of {', '.join(OBJECTIVES)}")
    needs = OBJECTIVES[cfg.loss].needs
    if cfg.group_size < 2 and "accepted samples" not in needs:
        raise BadInput(
            "--group-size 1 has no others to compare with: all advantages would be 0 "
            "(--loss rft needs none)"
        )
    weightings = (("group", "pop"), ("group", "none"))
    if "binary rewards" in needs and (cfg.baseline, cfg.adv_std) not in weightings:
        raise BadInput(
            f"--loss {cfg.loss} needs --baseline group and --adv-std pop or none, its weightings"
        )
    if cfg.kl_in == "reward" and needs:
        raise BadInput(
            f"--loss {cfg.loss} asks which answers are right; it does not go with --kl-in reward"
        )


def check_kl(cfg):
    if (cfg.kl == "none") != (cfg.beta == 0):
        raise BadInput(f"--kl {cfg.kl} with --beta {cfg.beta}: a KL needs both")
    if cfg.kl_in == "reward" and (cfg.kl == "none" or cfg.adv_std != "none"):
        raise BadInput(
            "--kl-in reward needs --kl, --beta, and --adv-std none: in a group of equal rewards "
            "the KL's noise would be all that the deviation measures"
        )
    if cfg.lora and cfg.ref_refresh:
        raise BadInput("--ref-refresh: with --lora the reference is --model, without adapters")
    if (cfg.reference or cfg.ref_refresh) and not (cfg.kl_every or cfg.beta):
        flag = "--reference" if cfg.reference else "--ref-refresh"
        raise BadInput(f"{flag}: no KL is measured (--kl-every) or trained (--beta)")


def main(cfg):
    """Train and save. Returns the log rows of the steps taken now."""
    check(cfg)
    problems = with_system(read_problems(cfg.data), cfg.system)
    if cfg.plan:
        from engine import plan

        tokenizer = loading.load_tokenizer(cfg.model)
        form = FORMATS[cfg.format].fit(tokenizer, cfg.date, cfg.special_in_text)
        return plan.of_problems(cfg, form, tokenizer, problems)
    cfg = machine.on_device(cfg)
    ranks = training.join_to_train(cfg)
    held_out = read_problems(cfg.eval_data, need=("answer",)) if cfg.eval_data else []
    held_out = with_system(held_out, cfg.system)
    flags = f"--micro-batch-tokens {cfg.micro_batch_tokens}, --slots {cfg.slots}"
    relief = "less of them, --lora 16, --offload-optimizer or more ranks under torchrun"
    with training.failures_in_one_line(cfg, flags, relief), runlog.locked(cfg.out):
        return train(cfg, ranks, problems, held_out)


if __name__ == "__main__":
    settings.cli(main, Config)
