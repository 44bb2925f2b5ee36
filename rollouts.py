"""Rollouts: completions of the policy, and what they are worth. The first half of a step of grpo.py.

A rollout is lists of completion rows (engine/rows.py), one list for each prompt, plain enough for JSON. Beside the fields
that generate.py writes a row has its `prompt` as ids, the sampler's `logp` of each token in full, `reward`, `right`
(None without a gold answer) and `token_rewards`.

Under torchrun the prompts of a step are dealt to the ranks by the work that they promise, a group never to two, and what
comes of them goes to all.
"""

import contextlib
import heapq
import math
import statistics
import time
from typing import NamedTuple

import torch

import kernels
from engine import attention, dealing, packing, processes, sharding, training
from engine import model as models
from engine.completions import completion_row
from engine.decoder import Request, Sampling, decode
from engine.format import Format
from engine.rows import BadInput
from engine.sampling import random_key
from grading.rewards import needs_of
from grading.sandbox import Failure, Workers


class Run(NamedTuple):
    """What stays from step to step. The weights of `model` change; those of `reference` if it is refreshed."""

    cfg: object  # grpo.Config
    model: torch.nn.Module  # the policy that is trained, under torchrun in shards
    # the same policy to sample from: `model` itself, under torchrun a copy
    sampler: torch.nn.Module
    ranks: processes.Ranks  # those that share the sampler, and which prompts are theirs
    reference: torch.nn.Module | None
    other: torch.nn.Module | None  # the sampler of --offpolicy-frac
    tokenizer: object
    form: Format
    pool: Workers
    problems: list
    lengths: dict  # id of a problem, as text -> mean tokens of its completions when last sampled


def choose_prompts(n_problems, step, prompts_per_step, seed):
    """Indices of the problems of step 0, 1, ...: the data in a new order each time it is used up. Needs no state."""
    chosen = []
    for place in range(step * prompts_per_step, (step + 1) * prompts_per_step):
        order = torch.randperm(
            n_problems, generator=torch.Generator().manual_seed(seed + place // n_problems)
        )
        chosen.append(int(order[place % n_problems]))
    return chosen


def fitting(cfg, problems, model, tokenizer, form):
    """Those whose prompt leaves room for --max-tokens in the context."""
    longest = models.context_length(model) - cfg.max_tokens
    return [p for p in problems if len(form.prompt_ids(tokenizer, p["question"])) <= longest]


@contextlib.contextmanager
def computing_in(dtype, model):
    """Sample with the weights rounded to bfloat16, if that is what training computes in; then the float32 ones are back."""
    weights = [(p, p.data) for p in model.parameters()] if dtype == "bf16" else []
    for p, data in weights:
        p.data = data.bfloat16()
    try:
        yield
    finally:
        for p, data in weights:
            p.data = data


def expected_work(here, problem):
    """Tokens that a group will take: its prompt, which is encoded once, and per sample the mean length when this problem was
    last sampled, else as many tokens as it may have. Known to all ranks and the same for any number of them."""
    cfg = here.cfg
    budgeted = "budget" in needs_of(cfg.reward)
    most = min(cfg.max_tokens, problem["budget"]) if budgeted else cfg.max_tokens
    return len(here.form.prompt_ids(here.tokenizer, problem["question"])) + max(
        cfg.votes, cfg.group_size
    ) * here.lengths.get(str(problem["id"]), most)


def deal_groups(work, n_ranks):
    """Work of each group -> for each rank the places of its groups: the largest that is left goes to the rank that has least
    (Graham 1969: the longest is at most 4/3 of the best possible). Equal ones in turn."""
    shares, loads = [[] for _ in range(n_ranks)], [(0, rank) for rank in range(n_ranks)]
    for place in sorted(range(len(work)), key=lambda i: -work[i]):
        load, rank = heapq.heappop(loads)
        shares[rank].append(place)
        heapq.heappush(loads, (load + work[place], rank))
    return [sorted(share) for share in shares]


def rollout(here, problems, stream, places):
    """Sample G (or --votes) completions of the problems at these places -> for each a list of completion rows, with their
    `prompt` (ids) and `logp`. The first round(offpolicy_frac · G) of a group are the other model's, with its
    log-probabilities."""
    cfg, tokenizer, form = here.cfg, here.tokenizer, here.form
    n_samples, n_other = max(cfg.votes, cfg.group_size), round(cfg.offpolicy_frac * cfg.group_size)
    requests = []
    for place in places:  # the place too: a small data set can repeat within a step
        prompt = form.prompt_ids(tokenizer, problems[place]["question"])
        for number in range(n_samples):
            key = random_key(cfg.seed, *stream, place, problems[place]["id"], number)
            requests.append(Request(prompt, key, cfg.max_tokens))
    rows = [None] * len(requests)
    for model, numbers in [(here.sampler, range(n_other, n_samples)), (here.other, range(n_other))][
        : 1 + (n_other > 0)
    ]:
        chosen = [i for i in range(len(requests)) if i % n_samples in numbers]
        with computing_in(cfg.dtype, model):
            # The full distribution: a cut by top-p would have to be made in training too.
            for at, completion in decode(
                model,
                tokenizer,
                form,
                [requests[i] for i in chosen],
                Sampling(cfg.temperature),
                cfg.slots,
            ):
                which, number = divmod(chosen[at], n_samples)
                rows[chosen[at]] = completion_row(
                    problems[places[which]], number, completion, tokenizer, form
                ) | {"prompt": requests[chosen[at]].prompt, "logp": completion.logp}
    return [rows[i : i + n_samples] for i in range(0, len(rows), n_samples)]


def judge(here, groups, reward):
    """What grading.rewards.score_group says of each group of this rank's rows, or the Failure of the worker that was asked."""
    if not here.ranks.writes:  # of the ranks that have these rows another one asks
        return [None] * len(groups)
    items = [
        {
            "reward": reward,
            "format": here.cfg.format,
            "max_tokens": here.cfg.max_tokens,
            "rows": [
                {name: value for name, value in row.items() if name not in ("prompt", "logp")}
                for row in group
            ],
        }
        for group in groups
    ]
    return here.pool.map(items)


def share(here, values, shares):
    """Values of this rank's problems -> of all problems, in order, on every rank; collective. shares: as of deal_groups."""
    parts = processes.gather_from_ranks(values, here.ranks)
    found = {
        place: value
        for places, part in zip(shares, parts)
        for place, value in zip(places, part, strict=True)
    }
    return [found[place] for place in range(len(found))]


def collect(here, step):
    """Sample and reward -> {"groups": those to be trained, N at most, "stats": what the log says of all that was sampled}.

    With --dynamic-sampling in rounds of N prompts until N groups are mixed: by being right if the reward asks for that
    (a length reward differs in every group), else by reward. A group without a reward is left out and named.
    """
    cfg, needs = here.cfg, needs_of(here.cfg.reward)
    kept, judged, sampled, votes, n_failures, seconds = [], [], [], [], 0, 0.0
    for number in range(cfg.max_rounds if cfg.dynamic_sampling else 1):
        # an order of its own
        again = (step * cfg.max_rounds + number, cfg.prompts_per_step, cfg.seed + 10**6)
        chosen = choose_prompts(
            len(here.problems), *(again if number else (step, cfg.prompts_per_step, cfg.seed))
        )
        began, problems = time.perf_counter(), [here.problems[i] for i in chosen]
        shares = deal_groups([expected_work(here, problem) for problem in problems], here.ranks.n)
        groups = rollout(
            here, problems, ("rollout", step, number)[: 2 + (number > 0)], shares[here.ranks.index]
        )
        seconds += time.perf_counter() - began
        if "self_certainty" in needs:
            new = [row for group in groups for row in group]
            for row, value in zip(new, self_certainty(here, new).tolist()):
                row["self_certainty"] = value
        for group, found in share(here, list(zip(groups, judge(here, groups, cfg.reward))), shares):
            sampled += group
            here.lengths[str(group[0]["id"])] = statistics.fmean(row["n_tokens"] for row in group)
            if any(row["finish"] == "nan" for row in group):
                found = Failure("error", "the model's logits are not finite")
            if not isinstance(found, dict):  # a Failure, which JSON has made a list
                n_failures, (kind, text) = n_failures + 1, found
                if here.ranks.leads:
                    print(
                        f"step {step + 1}: no reward for problem {group[0]['id']}, left out: {kind}, {text}"
                    )
                continue
            for row, value, right, per_token in zip(
                group, found["reward"], found["right"], found["token_rewards"]
            ):
                row |= {"reward": value, "right": right, "token_rewards": per_token}
            votes += [found["vote"]] if found["vote"] else []
            judged.append(group)
            trained = group[: cfg.group_size]
            if (
                not cfg.dynamic_sampling
                or len({row["right" if "answer" in needs else "reward"] for row in trained}) > 1
            ):
                kept.append(trained)
        if len(kept) >= cfg.prompts_per_step:
            break
    if not judged:
        raise BadInput(
            f"--reward {cfg.reward}: no reward could be computed in step {step + 1}; the reasons stand above"
        )
    rows = [row for group in judged for row in group]
    graded = [row["right"] for row in rows if row["right"] is not None]
    labels, agreed = (
        [vote[name] for vote in votes if vote[name] is not None] for name in ("right", "agreement")
    )
    stats = {
        "reward": statistics.fmean(row["reward"] for row in rows),
        "accuracy": statistics.fmean(graded) if graded else None,
        "n_tokens": statistics.fmean(row["n_tokens"] for row in sampled),
        "truncated": statistics.fmean(row["finish"] == "length" for row in sampled),
        "equal_groups": sum(len({row["reward"] for row in group}) == 1 for group in judged),
        "n_groups": len(judged),
        "reward_failures": n_failures,
        "rollout_tok_s": sum(row["n_tokens"] for row in sampled) / seconds,
        "rollout_seconds": seconds,
        "rollout_tokens": sum(row["n_tokens"] for row in sampled),
        "rollout_flops": models.forward_flops(
            here.model, [len(row["prompt"] + row["ids"]) for row in sampled]
        ),
    }
    if votes:  # the majority answers: how often right, how large, how often they pay as gold does
        stats |= {
            "label_accuracy": statistics.fmean(labels) if labels else None,
            "majority_share": statistics.fmean(vote["share"] for vote in votes),
            "reward_accuracy": statistics.fmean(agreed) if agreed else None,
        }
    return {"groups": kept[: cfg.prompts_per_step], "stats": stats}


def columns(rows, cfg):
    """Completion rows -> (sequences, masks, sampler's log-probabilities), lists over rows and tokens of prompt and
    completion. Masked out: the prompt, what was injected, and with --mask-truncated all of what was cut."""
    sequences = [row["prompt"] + row["ids"] for row in rows]
    masks = []
    for row in rows:
        injected, cut = set(row["injected"]), cfg.mask_truncated and row["finish"] == "length"
        masks.append(
            [False] * len(row["prompt"])
            + [not cut and i not in injected for i in range(len(row["ids"]))]
        )
    return sequences, masks, [[0.0] * len(row["prompt"]) + row["logp"] for row in rows]


def pack_groups(sequences, masks, device):
    """model.pack and model.Packed, but what neighbours have in common before their first scored token, the prompt of a
    group, stands in the packed row once -> (Batch, Packed).

    So it passes through the layers once and not G times, and autograd adds up what the G samples ask of it. Attention
    still sees whole sequences: attention.Packed names shared tokens G times.
    The CUDA kernel of half precision wants contiguous sequences instead; on a GPU nothing is shared.
    """
    batch = packing.pack(sequences, masks, device)
    # (T,) of the unshared row
    cell = torch.arange(len(batch.ids))
    leader, begin, source = None, 0, cell.clone()
    for ids, mask in zip(sequences, masks):
        start = mask.index(True) if any(mask) else len(ids)
        if leader is not None and ids[:start] == leader[0]:
            source[begin : begin + start] = cell[leader[1] : leader[1] + start]
        else:
            leader = ids[:start], begin
        begin += len(ids)
    own = source == cell
    if own.all() or batch.ids.is_cuda:
        return batch, attention.Packed(batch.lengths, device)
    place = (own.cumsum(0) - 1)[source]  # (S,) where a cell is in the shared row
    packed = attention.Packed(batch.lengths, device, source=place, first=own.nonzero()[:, 0])
    return batch._replace(
        ids=batch.ids[own], positions=batch.positions[own], where=place[batch.where]
    ), packed


@torch.no_grad()
def token_values(model, sequences, masks, cfg, measure):
    """measure(model, hidden (N, D), target (N,)) -> (N,), for the trained tokens of all rows: a list per row. Collective if
    the model is in shards: each rank then computes its part of the rows."""
    ranks, found = sharding.ranks_of(model), {}
    for group in dealing.deal([len(ids) for ids in sequences], cfg.micro_batch_tokens, ranks.n)[
        ranks.index
    ]:
        chosen = group or [0]  # nothing left for this rank, but the others need its shards
        batch, packed = pack_groups(
            [sequences[i] for i in chosen], [masks[i] for i in chosen], ranks.device
        )

        def work(model):
            hidden = models.hidden_states(model, batch.ids, batch.positions, packed)[batch.where]
            return measure(model, hidden, batch.target)

        with training.autocast(cfg, ranks.mesh is not None):
            values = (
                sharding.compute_in_forward(model, work)
                .float()
                .cpu()
                .split([sum(masks[i]) for i in chosen])
            )
        found |= {i: value.tolist() for i, value in zip(group, values)}
    found = {
        i: value
        for part in processes.gather_from_ranks(list(found.items()), ranks)
        for i, value in part
    }
    return [found[i] for i in range(len(sequences))]


def logps_of(model, sequences, masks, cfg, n_tokens=None):
    """Log-probabilities of the trained tokens under a model as it is now, 0 elsewhere: lists like the sampler's."""
    values = token_values(
        model,
        sequences,
        masks,
        cfg,
        lambda model, hidden, target: (
            kernels.token_stats(
                hidden,
                models.output_head(model, n_tokens),
                target,
                cfg.temperature,
            ).logp
        ),
    )
    found = [iter(row) for row in values]
    return [[next(row) if m else 0.0 for m in mask] for row, mask in zip(found, masks)]


def self_certainty(here, rows):
    """Mean over the tokens of each completion of KL(uniform ‖ policy) = logsumexp z - mean z - log V at temperature 1, (B,).

    Intuitor (arXiv 2505.19590). The mean over the vocabulary of z = W h is (mean of W's rows) h: no logits are needed.
    """

    def measure(model, hidden, target):
        head = models.output_head(model, len(here.tokenizer))
        logsumexp = kernels.token_stats(hidden, head, target, want=("logsumexp",)).logsumexp
        mean = head.scale * (hidden.float() @ head.weight.float().mean(0))
        return logsumexp - mean - math.log(len(head.weight))

    sequences = [row["prompt"] + row["ids"] for row in rows]
    masks = [[False] * len(row["prompt"]) + [True] * len(row["ids"]) for row in rows]
    values = token_values(here.sampler, sequences, masks, here.cfg, measure)
    return torch.tensor([sum(row) / max(1, len(row)) for row in values])


def held_out_accuracy(here, problems):
    """Share of right answers, one sample each at cfg.temperature; what cannot be graded in time is not right."""
    cfg, shares = here.cfg, deal_groups([1] * len(problems), here.ranks.n)
    own = [problems[place] for place in shares[here.ranks.index]]
    requests = [
        Request(
            here.form.prompt_ids(here.tokenizer, p["question"]),
            random_key(cfg.seed, "evaluation", p["id"]),
            cfg.max_tokens,
        )
        for p in own
    ]
    groups = [None] * len(own)
    with computing_in(cfg.dtype, here.sampler):
        for i, c in decode(
            here.sampler, here.tokenizer, here.form, requests, Sampling(cfg.temperature), cfg.slots
        ):
            groups[i] = [completion_row(own[i], 0, c, here.tokenizer, here.form)]
    found = share(here, judge(here, groups, "correct"), shares)
    for problem, verdict in zip(problems, found):
        if not isinstance(verdict, dict) and here.ranks.leads:
            print(
                f"held-out problem {problem['id']} could not be graded: {verdict[0]}, {verdict[1]}"
            )
    return statistics.fmean(isinstance(x, dict) and bool(x["right"][0]) for x in found)
