"""What did training change? Two models side by side on the tokens that the tuned one wrote; numbers, figures, a report.

For each token y that the tuned model G wrote, G and the base model B are asked what they expected there:
    KL          Σ_v G(v) log G(v)/B(v) over the whole vocabulary, and the same with G and B exchanged
    rank shift  rank of y under B - rank of y under G (1 = the most likely token); a token with a shift ≠ 0 is "shifted"
    PCA shift   how far a layer's mean state on given problems moved along the two main directions of the base's states
    weights     which of them changed at all, in float32 and as bfloat16 shows them, and the rank of each matrix's change
Source: UniReason (arXiv 2507.00432), §3 and §4.1; weights: 2505.11711; what traces do: report/behaviours.py. Departs from
UniReason's scripts in: 1. Token ids come from the decoder; a text encoded again may split differently. 2. KL is exact;
their estimate (single tokens, absolute value, no first token) is `kl_estimate`; --kl published shows it. 3. They leave out the first token of a response by an off-by-one; --skip-first does, too. 4. Tokens
that budget forcing wrote are not counted. 5. `pca_shift` is theirs: it pools pads, and layers cancel; `pca_shift_masked`
pools tokens only and averages lengths, which cannot. 6. Intervals are over questions: several samples of one are not
independent.

A laptop, seconds:   python analyze.py --base data/tiny_base --tuned out/tiny/seed0/sft-s1 out/tiny/seed0/grpo
                     --data out/tiny/seed0/runs/{sft-s1,grpo}.jsonl --runs out/tiny/seed0/runs --out out/tiny
A 7B model:          python analyze.py --base Qwen/Qwen2.5-7B-Instruct --tuned simplescaling/s1.1-7B --data out/s1.jsonl
                     --runs out/runs --out out/analysis --device cuda --dtype bf16
Too large for two:   the same with --stream: one model at a time, the base's states in shards on disk

Reads model directories, completion rows (engine/rows.py) and the headers beside them, flops.jsonl of the trainings where
there is one (rows of phase, tokens, flops). evaluate.py grades --runs; a run is known by its file's name. Writes
metrics.json, the figures as PNG, and report.html, one file that needs nothing else. Killed, it continues from --out/work.
"""

import functools
import itertools
import json
import math
import os
import random
import shutil
import statistics
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer

import kernels
from engine import attention, loading, packing, runlog, settings
from engine import model as models
from engine.rows import BadInput
from kernels.pair import token_numbers
from report.behaviours import read_judged, word_class
from report.page import (
    VIEWED_TOKENS,
    completions_of,
    contrasts,
    describe,
    draw,
    forced_points,
    model_table,
    page,
    piece,
    pooled,
    read_json,
    read_runs,
    scope,
    settle,
    tables,
    to_show,
    traces,
    transcript,
)
from report.weights import ledger, matched, weight_changes


@dataclass(frozen=True)
class Config:
    base: str  # model that training started from: directory or hub name
    out: str  # directory to write into
    tuned: tuple[str, ...] = ()  # models that were trained from it
    data: tuple[str, ...] = ()  # completions of the tuned models; their headers say whose
    # completions to grade: files, or directories with one replicate (seed) each
    runs: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()  # what a judge model said about traces, see report/behaviours.py
    # JSON list of {id, text, group, from, to, expect: higher | lower | same}
    claims: str | None = None
    # of --data; default: what the headers say
    format: Literal["s1", "s1-steps", "think", "r1", "plain"] | None = None
    max_responses: int = 100  # responses per task and tuned model; UniReason: 100
    k_texts: int = 100  # problems per task for the PCA shift; UniReason: 100
    # which KL tables and figures show; metrics.json has both
    kl: Literal["exact", "published"] = "exact"
    # leave out the first token of each response, as UniReason's scripts do
    skip_first: bool = False
    # rank of each matrix's update up to this width; 0 = none (an SVD per matrix)
    rank_width: int = 1024
    stream: bool = False  # one model in memory at a time; the base's states wait in --out/work
    device: str = "cpu"  # or cuda
    # of weights and computation; fp64 to check the others against
    dtype: Literal["fp32", "bf16", "fp64"] = "fp32"
    # tokens per forward pass; changes memory and speed, not the result
    micro_batch_tokens: int = 16384


TEXT_TOKENS = 128  # of a problem for the PCA shift, as in UniReason
N_BINS = 40  # positions of the curves along a response
CURVES = ("kl_forward", "kl_reverse", "rank_shift", "entropy_base", "entropy_tuned")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


# ---------------------------------------------------------------- the mathematics


def kl_estimator(ratios):
    """log_ratio of each response -> UniReason's estimate, the absolute value of their mean; None without any."""
    return abs(statistics.fmean(ratios)) if ratios else None


def log_ratio(tuned, base):
    """Log-probabilities of a response's tokens -> mean of log G/B, with the 1e-10 that UniReason adds to probabilities."""
    return statistics.fmean(
        math.log((math.exp(g) + 1e-10) / (math.exp(b) + 1e-10))
        for g, b in zip(tuned, base, strict=True)
    )


def rank_shifts(ranks_base, ranks_tuned):
    """Ranks (N,) of the actual tokens -> (mean shift, number of tokens with a shift other than 0)."""
    shift = torch.as_tensor(ranks_base).double() - torch.as_tensor(ranks_tuned).double()
    return shift.mean().item(), int((shift != 0).sum())


def clustered(sums, counts, questions):
    """Σ sums / Σ counts over responses, and its 95% interval: (value, low, high), None, None for a single question.

    Responses of one question vary together, so what each adds to the error of the ratio is summed per question first
    (the linearised ratio of cluster totals; with counts of 1 and a response each it is mean ± 1.96 s/√n).
    """
    value, errors = sum(sums) / sum(counts), defaultdict(float)
    for total, count, question in zip(sums, counts, questions, strict=True):
        errors[question] += total - value * count
    n = len(errors)
    if n < 2:
        return value, None, None
    half = 1.959964 * math.sqrt(n / (n - 1) * sum(x * x for x in errors.values())) / sum(counts)
    return value, value - half, value + half


def pca_shift(base_layers, tuned_layers):
    """Lists of (K, H), one per layer -> (distance, points (layers, 2, 2)), as published. A point of base or tuned is the
    shift along PC1 and the place on PC2. The components belong to the base alone, projections are not centred, and a
    component's largest loading is positive. The mean over layers keeps the signs; then the length is taken. A layer with
    a number that is not finite is left out."""
    points = []
    for base, tuned in zip(base_layers, tuned_layers, strict=True):
        base, tuned = (torch.as_tensor(x, dtype=torch.float64) for x in (base, tuned))
        if not (base.isfinite().all() and tuned.isfinite().all()):
            continue
        components = torch.linalg.svd(base - base.mean(0), full_matrices=False).Vh[:2]  # (2, H)
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        before, after = (x.mean(0) @ (components * largest.sign()).T for x in (base, tuned))  # (2,)
        points.append([[0.0, before[1].item()], [(after[0] - before[0]).item(), after[1].item()]])
    points = torch.tensor(points, dtype=torch.float64).view(-1, 2, 2)
    return (points[:, 1] - points[:, 0]).mean(0).norm().item(), points


def pca_shift_masked(base_layers, tuned_layers):
    """The same, but the mean over layers of each layer's length. Give it states pooled without pads."""
    points = pca_shift(base_layers, tuned_layers)[1]
    return (points[:, 1] - points[:, 0]).norm(dim=1).mean().item(), points


# ---------------------------------------------------------------- what is kept of responses


class Tally:
    """Of the measured responses of a task: a few numbers each, sums per position, counts per token; no more, so that
    memory hardly grows with the number of responses."""

    def __init__(self, group, width):
        self.group, self.width, self.responses, self.words, self.n_nan = group, width, [], {}, 0
        # per `width` positions; last: count
        self.sums = torch.zeros(len(CURVES) + 1, N_BINS, dtype=torch.float64)
        # per tenth of the response
        self.tenths = torch.zeros(len(CURVES) + 1, 10, dtype=torch.float64)

    def add(self, question, ids, values, kept):
        """values: {name: (N,)} of the tokens ids; kept: the indices that count (not injected, perhaps not the first)."""
        if not all(column[kept].isfinite().all() for column in values.values()):
            self.n_nan += 1
            return
        shift = values["rank_base"] - values["rank_tuned"]
        columns = [
            *({**values, "rank_shift": shift}[name][kept] for name in CURVES),
            torch.ones(len(kept)).double(),
        ]
        columns, at = torch.stack(columns), torch.tensor(kept)
        self.sums.index_add_(1, (at // self.width).clamp(max=N_BINS - 1), columns)
        self.tenths.index_add_(1, at * 10 // len(ids), columns)
        for i in kept:
            # seen, shifted, Σ shift, Σ |shift|
            word = self.words.setdefault(ids[i], [0, 0, 0.0, 0.0])
            word[0] += 1
            if x := shift[i].item():
                word[1], word[2], word[3] = word[1] + 1, word[2] + x, word[3] + abs(x)
        mean, n_shifted = rank_shifts(values["rank_base"][kept], values["rank_tuned"][kept])
        later = [i for i in kept if i]  # the published estimate has no first
        estimate = (
            log_ratio(*(values[f"logp_{side}"][later].tolist() for side in ("tuned", "base")))
            if later
            else None
        )
        self.responses.append(
            {
                "question": question,
                "n": len(kept),
                "n_shifted": n_shifted,
                "shift": mean * len(kept),
                "estimate": estimate,
                "kl_forward": values["kl_forward"][kept].mean().item(),
                "kl_reverse": values["kl_reverse"][kept].mean().item(),
            }
        )


def summarise(tallies, shifts):
    """{task: Tally} and {task: PCA shifts} -> entry of metrics.json. KL in nats per token, macro: mean over responses,
    micro: over tokens. Rank and PCA shift of several tasks are the mean of the tasks' values, as published."""
    responses = [r for t in tallies.values() for r in t.responses]
    questions = [(task, r["question"]) for task, t in tallies.items() for r in t.responses]
    counts, ones = [r["n"] for r in responses], [1] * len(responses)
    entry = {
        "kl_estimate": kl_estimator([r["estimate"] for r in responses if r["estimate"] is not None])
    }
    for name in ("kl_forward", "kl_reverse"):
        macro = clustered([r[name] for r in responses], ones, questions)
        micro = clustered([r[name] * r["n"] for r in responses], counts, questions)
        entry[name] = dict(
            zip(("macro", "low", "high", "micro", "micro_low", "micro_high"), (*macro, *micro))
        )
    n_shifted, n_tokens = sum(r["n_shifted"] for r in responses), sum(counts)
    known = [shifts[task] for task in tallies if task in shifts]
    for name in ("pca_shift", "pca_shift_masked"):
        found = [s[name] for s in known if s[name] is not None]
        entry[name] = statistics.fmean(found) if found else None
    means = [
        sum(r["shift"] for r in t.responses) / sum(r["n"] for r in t.responses)
        for t in tallies.values()
    ]
    per_response, low, high = clustered([r["n_shifted"] for r in responses], ones, questions)
    width = max(t.width for t in tallies.values())
    return entry | {
        "rank_shift_mean": statistics.fmean(means),
        "shifted_tokens": n_shifted,
        "shifted_share": n_shifted / n_tokens,
        "shifted_per_response": per_response,
        "shifted_low": low,
        "shifted_high": high,
        "n_responses": len(responses),
        "n_questions": len(set(questions)),
        "n_tokens": n_tokens,
        "nan_responses": sum(t.n_nan for t in tallies.values()),
        "by_position": {"width": width} | curves(sum(t.sums for t in tallies.values())),
        "by_tenth": curves(sum(t.tenths for t in tallies.values())),
    }


def curves(sums):
    """(CURVES and a count, bins) -> {name: its mean in each bin, "n": tokens in it}, up to the last bin with a token."""
    sums = sums[:, : int((sums[-1] > 0).nonzero().max()) + 1]
    means = (sums[:-1] / sums[-1]).tolist()
    return {"n": [int(n) for n in sums[-1]]} | {
        name: [None if math.isnan(x) else float(f"{x:.6g}") for x in row]
        for name, row in zip(CURVES, means)
    }


def most_shifted(tallies, name_of, n=30):
    """Tokens by the summed size of their shifts, frequent or far: [{token, class, id, count, mean_shift, sum}], and the
    percent of logical and content words among the shifted tokens and among all."""
    words = defaultdict(lambda: [0, 0, 0.0, 0.0])
    for tally in tallies:
        for token, numbers in tally.words.items():
            words[token] = [a + b for a, b in zip(words[token], numbers)]
    order = sorted((t for t in words if words[t][1]), key=lambda t: (-words[t][3], t))[:n]
    listed = [
        {
            "token": name_of(t),
            "class": word_class(name_of(t)),
            "id": t,
            "count": words[t][1],
            "seen": words[t][0],
            "mean_shift": words[t][2] / words[t][1],
            "sum": words[t][3],
        }
        for t in order
    ]
    classes = [Counter(), Counter()]  # of all tokens, of the shifted ones
    for token, (seen, shifted, *_) in words.items():
        classes[0][word_class(name_of(token))] += seen
        classes[1][word_class(name_of(token))] += shifted
    shares = [
        {kind: 100 * count[kind] / max(1, count.total()) for kind in ("logical", "content", "sign")}
        for count in classes
    ]
    return {"most_shifted": listed, "classes": {"all": shares[0], "shifted": shares[1]}}


# ---------------------------------------------------------------- forward passes


class Side(NamedTuple):
    """A model as the comparison needs it: the head and, unless its states are all on disk, the model."""

    head: kernels.Head
    model: torch.nn.Module | None

    @classmethod
    def of(cls, model):
        return cls(models.output_head(model), model)


def batches(examples, micro_batch_tokens, device):
    """(prompt ids, completion ids) each -> yields (number, indices of a micro-batch, its Batch: completions are scored)."""
    for number, group in enumerate(
        packing.fill_bins([len(p) + len(c) for p, c in examples], micro_batch_tokens)
    ):
        masks = [[False] * len(p) + [True] * len(c) for p, c in (examples[i] for i in group)]
        yield (
            number,
            group,
            packing.pack([[*examples[i][0], *examples[i][1]] for i in group], masks, device),
        )


def save_shard(tensors, file):
    """Whole or not at all: what a killed run leaves can be trusted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: x.contiguous() for name, x in tensors.items()}, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)


def states(side, batch, file=None):
    """(N, D): the states that predict a batch's scored tokens; from `file` if they are there, else computed and, with a
    `file`, kept in it."""
    if file is not None and file.is_file():
        return load_file(file, device=str(side.head.weight.device))["hidden"]
    packed = attention.Packed(batch.lengths, batch.ids.device)
    hidden = models.hidden_states(side.model, batch.ids, batch.positions, packed)[batch.where]
    if file is not None:
        save_shard({"hidden": hidden}, file)
    return hidden


@torch.no_grad()
def store(side, examples, micro_batch_tokens, folder, desc):
    """One pass of a model whose states `measure` will read from `folder`. What is there is not computed again."""
    total = sum(len(p) + len(c) for p, c in examples)
    with tqdm(total=total, desc=desc, unit="token", unit_scale=True, disable=None) as bar:
        for number, _, batch in batches(examples, micro_batch_tokens, side.head.weight.device):
            if not (folder / f"numbers-{number:05}.safetensors").is_file():
                states(side, batch, folder / f"states-{number:05}.safetensors")
            bar.update(len(batch.ids))


@torch.no_grad()
def measure(base, tuned, examples, micro_batch_tokens=16384, folder=None, top=0, desc=None):
    """(prompt ids, completion ids) each -> yields (index, {name: (N,) float64 over its completion's tokens}), names as in
    token_numbers; with top=k also the base's k likeliest tokens, likely_ids and likely_p (N, k).

    folder: finished micro-batches are kept there, and so are, before that, states of a side without a model.
    """
    total = sum(len(p) + len(c) for p, c in examples)
    with tqdm(
        total=total, desc=desc, unit="token", unit_scale=True, disable=None if desc else True
    ) as bar:
        for number, group, batch in batches(examples, micro_batch_tokens, base.head.weight.device):
            kept, done = (
                folder and folder / f"{kind}-{number:05}.safetensors"
                for kind in ("states", "numbers")
            )
            if done and done.is_file():
                columns = load_file(done)
            else:
                hidden = [
                    states(side, batch, None if side.model is not None else kept)
                    for side in (tuned, base)
                ]
                columns = token_numbers(
                    (hidden[0], tuned.head), (hidden[1], base.head), batch.target
                )
                for part in hidden[1].split(64) if top else ():  # a few rows of logits at a time
                    z = base.head.logits(part).softmax(1).topk(top)
                    for name, x in (("likely_ids", z.indices), ("likely_p", z.values)):
                        columns[name] = torch.cat([columns[name], x]) if name in columns else x
                columns = {name: column.double().cpu() for name, column in columns.items()}
                if done:
                    save_shard(columns, done)
                    kept.unlink(missing_ok=True)
            parts = [
                column.split([len(examples[i][1]) for i in group]) for column in columns.values()
            ]
            yield from ((i, dict(zip(columns, values))) for i, *values in zip(group, *parts))
            bar.update(len(batch.ids))


@torch.no_grad()
def pooled_layers(model, tokenizer, texts, micro_batch_tokens=16384):
    """Mean hidden state of each text, padded on the left -> (with the pads in the mean, as UniReason's script has it, and
    without), each a list over layers of (K, H) float32."""
    encoded = [tokenizer.encode(text)[:TEXT_TOKENS] for text in texts]
    longest, device = max(map(len, encoded)), models.head(model).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(e)) + e for e in encoded], device=device)  # (K, T)
    mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in encoded], device=device)
    size, pools = max(1, micro_batch_tokens // longest), ([], [])
    model.set_attn_implementation("sdpa")  # our own attention knows no pads
    try:
        for part, real in zip(ids.split(size), mask.split(size)):
            layers = model.base_model(
                input_ids=part, attention_mask=real, use_cache=False, output_hidden_states=True
            ).hidden_states
            for pool, counted in zip(pools, (torch.ones_like(real), real)):
                pool.append(
                    [
                        (
                            (h.float() * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
                        ).cpu()
                        for h in layers
                    ]
                )
    finally:
        model.set_attn_implementation("packed")
    return tuple([torch.cat(parts) for parts in zip(*pool)] for pool in pools)


def problem_texts(cfg, rows):
    """{task: up to k_texts of its problems, question and answer}, as UniReason draws them; tasks with fewer than three, of
    which there are no two components, are left out."""
    texts = defaultdict(set)
    for row in rows:
        texts[scope(row)[1]].add(f"{row['question']}  {row.get('answer') or ''}")
    return {
        task: tuple(random.Random(42).sample(sorted(found), min(cfg.k_texts, len(found))))
        for task, found in texts.items()
        if len(found) > 2
    }


def task_shifts(name, texts, before, after):
    """{task: pca_shift, pca_shift_masked, nan_layers, points} from pooled_layers of base and tuned model, {texts: pools}."""
    shifts = {}
    for task, chosen in texts.items():
        padded, masked = zip(before[chosen], after[chosen])
        (distance, points), repaired = pca_shift(*padded), pca_shift_masked(*masked)[0]
        n_nan = len(padded[0]) - len(points)
        if n_nan:
            print(
                f"warning: {name}: {n_nan} layers are not finite on problems of {task} and are left out"
            )
        found = {
            k: None if math.isnan(x) else x
            for k, x in (("pca_shift", distance), ("pca_shift_masked", repaired))
        }
        shifts[task] = found | {"nan_layers": n_nan, "points": points.tolist()}
    return shifts


# ---------------------------------------------------------------- inputs


def check_vocabularies(cfg):
    """Before anything is computed: each tuned model speaks the base's vocabulary, else BadInput names the difference."""
    vocabularies, sizes = {}, {}
    for path in (cfg.base, *cfg.tuned):
        try:
            vocabularies[path] = AutoTokenizer.from_pretrained(path).get_vocab()
            sizes[path] = AutoConfig.from_pretrained(path).get_text_config().vocab_size
        except Exception as error:  # of whatever kind a broken directory or a strange family raises
            why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            raise BadInput(f"{path}: cannot be loaded as a model ({why})") from error
        theirs, ours = vocabularies[path], vocabularies[cfg.base]
        if token := min(
            (t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t)), default=None
        ):
            raise BadInput(
                f"--tuned {path}: its tokenizer is not that of --base {cfg.base}, {token!r} has another id"
            )
        if sizes[path] != sizes[cfg.base]:
            raise BadInput(
                f"--tuned {path}: the size of its head is not that of --base {cfg.base}; KL needs one vocabulary"
            )
    return sizes[cfg.base]


def job_of(cfg, tokenizer, name, written, n_vocabulary, viewed):
    """What a model is asked: its measured rows, and the rows that the report shows, [(heading, title, row)]."""
    rows, n_skipped, form = written
    n_seen = defaultdict(itertools.count)
    measured = [row for row in rows if next(n_seen[scope(row)]) < cfg.max_responses]
    if foreign := [
        row["id"] for row in measured if min(row["ids"]) < 0 or max(row["ids"]) >= n_vocabulary
    ]:
        raise BadInput(
            f"--data: row '{foreign[0]}' has token ids outside the vocabulary of {n_vocabulary}"
        )
    shown = [
        (form.prompt_ids(tokenizer, row["question"]), row["ids"][:VIEWED_TOKENS])
        for _, _, row in viewed
    ]
    examples = [(form.prompt_ids(tokenizer, row["question"]), row["ids"]) for row in measured]
    return SimpleNamespace(
        name=name,
        rows=measured,
        examples=examples,
        skipped=n_skipped,
        viewed=viewed,
        shown=shown,
        texts=problem_texts(cfg, rows),
    )


def analyse(cfg, base, tuned, job, folder=None):
    """Measure the rows of a job -> {task: Tally}."""
    longest, tallies = max((len(ids) for _, ids in job.examples), default=1), {}
    for i, values in measure(
        base, tuned, job.examples, cfg.micro_batch_tokens, folder, desc=job.name
    ):
        row, (group, task) = job.rows[i], scope(job.rows[i])
        injected = set(row.get("injected") or ())
        if kept := [k for k in range(cfg.skip_first, len(row["ids"])) if k not in injected]:
            tallies.setdefault(task, Tally(group, math.ceil(longest / N_BINS))).add(
                str(row["id"]), row["ids"], values, kept
            )
    if n_nan := sum(t.n_nan for t in tallies.values()):
        print(
            f"warning: {job.name}: {n_nan} responses have numbers that are not finite and are left out"
        )
    tallies = {task: tally for task, tally in tallies.items() if tally.responses}
    if job.rows and not tallies:
        raise BadInput(f"--tuned {job.name}: no response gives finite numbers")
    return tallies


def entry_of(tallies, shifts, tokenizer):
    """Tallies and PCA shifts of one tuned model -> its entry of metrics.json."""
    tasks, name_of = (
        defaultdict(dict),
        functools.cache(lambda t: piece(tokenizer, t).strip() or repr(piece(tokenizer, t))),
    )
    for task, tally in tallies.items():
        tasks[tally.group][task] = tally
    parts = {"tasks": {task: {task: tally} for task, tally in tallies.items()}, "groups": tasks}
    entry = {
        part: {
            name: summarise(inside, shifts) | most_shifted(inside.values(), name_of)
            for name, inside in by.items()
        }
        for part, by in parts.items()
    }
    return entry | {"all": summarise(tallies, shifts)} | most_shifted(tallies.values(), name_of)


def workplace(cfg):
    """--out/work, where an interrupted analysis continues; emptied when settings, models or completions are others."""
    folder = Path(cfg.out) / "work"
    inputs = {
        path: runlog.fingerprint(path) for path in (cfg.base, *cfg.tuned, *cfg.data, *cfg.runs)
    }
    identity = runlog.identity(cfg, ("claims", "judged", "kl", "rank_width", "k_texts")) | inputs
    header = folder / "identity.json"
    if header.is_file() and read_json(header) != identity:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header.write_text(json.dumps(identity))
    return folder


def compare(cfg, study, files):
    """The base against one tuned model after the other, into the study -> transcripts, [heading, side by side]."""
    n_vocabulary = check_vocabularies(cfg)
    written = {name: completions_of(path, files, cfg) for name, path in study.tuned.items()}
    viewed, dtype = to_show(cfg, study, written), DTYPES[cfg.dtype]
    model, tokenizer = loading.load(cfg.base, cfg.device, dtype)
    written = {study.base: ([], 0, next(iter(written.values()))[2])} | written
    jobs = [
        job_of(cfg, tokenizer, name, parts, n_vocabulary, viewed[name])
        for name, parts in written.items()
    ]
    work = workplace(cfg)

    def pools(jobs):  # of the model that is loaded
        return {
            chosen: pooled_layers(model, tokenizer, chosen, cfg.micro_batch_tokens)
            for chosen in dict.fromkeys(chosen for job in jobs for chosen in job.texts.values())
        }

    base, before, shown = Side.of(model), pools(jobs), []
    if cfg.stream:  # its states go to disk, its head stays
        for k, job in enumerate(jobs):
            store(
                base,
                job.examples,
                cfg.micro_batch_tokens,
                work / f"{k}",
                f"{study.base} on {job.name}",
            )
            store(
                base,
                job.shown,
                cfg.micro_batch_tokens,
                work / f"{k}-shown",
                f"{study.base} on {job.name}",
            )
        weight = base.head.weight.detach().clone()
        base = Side(base.head._replace(weight=weight), None)
    model = None
    for k, job in enumerate(jobs):
        tuned = base
        if job.name != study.base:
            try:
                model = loading.load(study.tuned[job.name], cfg.device, dtype)[0]
            # weights that are not numbers, a layer that engine/model.py does not compute
            except BadInput as error:
                print(f"warning: {error}; the other models are analysed")
                study.refused[job.name] = str(error)
                continue
            tuned = Side.of(model)
            tallies = analyse(cfg, base, tuned, job, work / f"{k}")
            shifts = task_shifts(job.name, job.texts, before, pools([job]))
            study.results[job.name] = entry_of(tallies, shifts, tokenizer) | {
                "skipped_rows": job.skipped
            }
            study.points[job.name] = {task: shift["points"] for task, shift in shifts.items()}
            study.questions[job.name] = {
                group: [r for t in tallies.values() if t.group == group for r in t.responses]
                for group in study.results[job.name]["groups"]
            }
        for i, values in measure(
            base, tuned, job.shown, cfg.micro_batch_tokens, work / f"{k}-shown", top=3
        ):
            heading, title, row = job.viewed[i]
            shown.append((heading, transcript(tokenizer, row, values, title)))
        model = tuned = None  # before the next one is loaded
    study.tuned = {name: path for name, path in study.tuned.items() if name not in study.refused}
    study.pair, study.shown = (
        [n for n in names if n in study.tuned] for names in (study.pair, study.shown)
    )
    if not study.tuned:
        raise BadInput(next(iter(study.refused.values())))
    order = list(dict.fromkeys(heading for job in jobs[1:] for heading, _, _ in job.viewed))
    groups = [g for r in study.results.values() for g in r["groups"]]
    study.group = "math" if "math" in groups else groups[0]  # what training was for
    study.curves = forced_points(study.runs, study.group)
    return [[heading, [t for h, t in shown if h == heading]] for heading in order]


def main(cfg):
    """Analyse, write everything into --out, print the tables; returns what metrics.json holds."""
    if not cfg.tuned or not cfg.data:
        raise BadInput("--tuned and --data are needed: which models, and what they wrote")
    files, runs, names = (
        read_runs(cfg.data),
        read_runs(cfg.runs),
        [Path(path).name for path in (*cfg.tuned, cfg.base)],
    )
    claims = [
        settle(claim, runs, cfg.claims) for claim in (read_json(cfg.claims) if cfg.claims else ())
    ]
    # "seed1/grpo" is a copy of "seed0/grpo"
    parents = [Path(path).parent.name for path in cfg.tuned]
    tuned = {
        n if names.count(n) == 1 else parent + "-/"["seed" in parent] + n: path
        for n, parent, path in zip(names, parents, cfg.tuned)
    }
    study = describe(cfg, tuned, runs)
    study.compute = {name: found for name, path in tuned.items() if (found := ledger(path))}
    judged = {k: v for path in cfg.judged for k, v in read_judged(path).items()}
    out = Path(cfg.out)
    viewed = compare(cfg, study, files)
    study.weights, study.overlaps = weight_changes(
        cfg.base, study.tuned, cfg.rank_width, cfg.device
    )
    study.traces, study.contrasts = traces(runs or files, judged), contrasts(study)
    study.matched = (
        matched(*(study.compute[n] for n in study.pair), study.training[study.pair[0]])
        if len(study.pair) == 2 and set(study.pair) <= set(study.compute)
        else {}
    )

    metrics = {
        name: result | {"weights": study.weights[name]} for name, result in study.results.items()
    }
    metrics |= {
        "refused": study.refused,
        "claims": claims,
        "transferability": study.transfer,
        "contrasts": study.contrasts,
        "overlaps": study.overlaps,
        "behaviours": study.traces,
        "compute": {"ledgers": study.compute, "matched": study.matched},
        "runs": {},
    }
    for name in dict.fromkeys(r.name for r in runs):
        summary = metrics["runs"][name] = pooled(runs, name) | {
            "seeds": [r.seed for r in runs if r.name == name]
        }
        for of_group in summary["groups"].values():
            del of_group["questions"]  # evaluate.py --out has them
    runlog.save_config(cfg, out / "analysis.config.json")
    (out / "metrics.json").write_text(
        json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    flags = [
        f"--{k.replace('_', '-')} {' '.join(v) if isinstance(v, tuple) else '' if v is True else v}".strip()
        for k, v in asdict(cfg).items()
        if v != getattr(Config, k, None)
    ]
    rows = [["", "claim", "where", "verdict"]] if claims else []
    rows += [
        [c["id"], c["text"], f"{c['group']}: {c['from']} → {c['to']}", c["verdict"]] for c in claims
    ]
    text = page(study, rows, viewed, draw(study, out), f"python analyze.py {' '.join(flags)}")
    (out / "report.html").write_text(text, encoding="utf-8")
    for title, lines in (
        ("claims", rows),
        ("SFT against RL", [*zip(*model_table(study))]),
        ("differences", tables(study).get("CONTRASTS")),
    ):
        if lines:
            widths = [max(map(len, column)) for column in zip(*lines)]
            print(
                f"\n{title}",
                *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
                sep="\n",
            )
    shutil.rmtree(out / "work")
    print(f"\n{out / 'report.html'}: {len(text) / 1e6:.1f} MB")
    return metrics


if __name__ == "__main__":
    settings.cli(main, Config)
