"""What did training change? Two models side by side on the tokens that the tuned one wrote.

For each token y of an answer of the tuned model G, G and the base model B say what they expected:
    KL          Σ_v G(v) log G(v)/B(v) over the whole vocabulary, and with G and B exchanged
    rank shift  rank of y under B - rank of y under G (1 = most likely); unless 0, y is "shifted"
    PCA shift   how far a layer's mean state on given problems moved along the two main directions
                of the base's states
Source: UniReason (arXiv 2507.00432), §3 and §4.1. Departs from its scripts in:
1. Token ids come from the decoder. A text that is encoded again may split differently.
2. KL is exact. Theirs is an estimate from single tokens, with an absolute value and without the
   first token of a response; it is `kl_estimate` in metrics.json.
3. All tokens of a response count. Theirs leave out the first by an off-by-one; --published does
   so, too, and shows their estimate instead of the KL.
4. Tokens that budget forcing wrote do not count.
5. `pca_shift` is theirs: it pools pads, and layers cancel. `pca_shift_masked` pools tokens only
   and averages lengths, which cannot cancel.
6. Intervals are over questions: several samples of one question are not independent.

A laptop, 1 minute:  python analyze.py --base data/tiny_base --out out/tiny \\
                         --tuned out/tiny/seed0/sft-s1 out/tiny/seed0/grpo \\
                         --data out/tiny/seed0/runs/sft-s1.jsonl out/tiny/seed0/runs/grpo.jsonl \\
                         --runs out/tiny/seed0/runs
A 7B model:          python analyze.py --base Qwen/Qwen2.5-7B-Instruct \\
                         --tuned simplescaling/s1.1-7B --data out/s1.jsonl --runs out/runs \\
                         --out out/analysis --dtype bf16
Too large for two:   the same with --stream: one model at a time, the base's states in files

Reads model directories, completion rows (engine/rows.py) with the headers beside them, and
flops.jsonl of the trainings where there is one. Prints tables and writes metrics.json. report/ adds
what the weights, the runs and their traces say, figures (PNG) and report.html, one file that needs
nothing else. An interrupted analysis continues from --out/work.
"""

import functools
import json
import math
import os
import random
import shutil
import statistics
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer

import evaluate
import kernels
from engine import attention, loading, machine, packing, runlog, settings
from engine.model import hidden_states, output_head
from engine.rows import BadInput
from kernels.pair import token_numbers
from report import tables
from report.behaviours import read_judged, summarise_runs
from report.claims import budget_curves, compare_trainings, compare_waits, decide_claim
from report.compute import match_pair, read_ledgers
from report.figures import draw_figures
from report.page import make_page
from report.runs import Completions, find_completions, pool_rows, read_json, read_runs, row_scope
from report.study import Study, describe_models
from report.transcripts import VIEWED_TOKENS, choose_transcripts, make_transcript, token_text
from report.weights import weight_changes
from report.words import TokenCount, most_shifted


@dataclass(frozen=True, kw_only=True)
class Config:
    base: str  # model that training started from: directory or hub name
    tuned: tuple[str, ...] = ()  # models that were trained from it
    # completions of the tuned models; their headers say whose, and in which format
    data: tuple[str, ...] = ()
    out: str  # directory to write into

    # completions to grade: files, or directories with one replicate (seed) each
    runs: tuple[str, ...] = ()
    # completions of another test-bed, files or directories: a figure has their accuracy beside it
    beside: tuple[str, ...] = ()
    # JSON list of {id, text, group, from, to, expect: higher | lower | same}
    claims: str | None = None
    judged: tuple[str, ...] = ()  # a judge's answers about traces, see report/behaviours.py

    # as UniReason's scripts: no first tokens, and tables and figures show their estimate of the KL
    published: bool = False

    stream: bool = False  # one model in memory at a time; the base's states wait in --out/work
    device: str = "auto"  # cuda, else mps, else cpu
    # of weights and computation; fp64 to check the others against
    dtype: Literal["fp32", "bf16", "fp64"] = "fp32"
    # tokens per forward pass; changes memory and speed, not the result
    micro_batch_tokens: int = 16384


# As in UniReason:
N_RESPONSES = 100  # per task and tuned model, for KL and rank shift
N_TEXTS = 100  # problems per task, for the PCA shift
TEXT_TOKENS = 128  # of each problem

N_POSITIONS = 40  # points of the curves along a response
CURVES = ("kl_forward", "kl_reverse", "rank_shift", "entropy_base", "entropy_tuned")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


# ---------------------------------------------------------------- the mathematics


def log_ratio(tuned, base):
    """Log-probabilities of a response's tokens under both models -> mean of log G/B.

    With the 1e-10 that UniReason adds to both probabilities.
    """
    ratios = [
        math.log((math.exp(g) + 1e-10) / (math.exp(b) + 1e-10))
        for g, b in zip(tuned, base, strict=True)
    ]
    return statistics.fmean(ratios)


def kl_estimate(ratios):
    """log_ratio of each response -> UniReason's estimate: the absolute value of their mean."""
    return abs(statistics.fmean(ratios)) if ratios else None


def rank_shifts(ranks_base, ranks_tuned):
    """Ranks (N,) of the actual tokens -> (mean shift, number of tokens that are shifted)."""
    shift = torch.as_tensor(ranks_base).double() - torch.as_tensor(ranks_tuned).double()
    return shift.mean().item(), int((shift != 0).sum())


def cluster_interval(sums, counts, questions):
    """Σ sums / Σ counts over responses, with its 95% interval -> (value, low, high).

    Responses of one question vary together. What each adds to the error of the ratio is therefore
    summed per question first (the linearised ratio of cluster totals). With a response per question
    and counts of 1 this is mean ± 1.96 s/√n. low and high are None for a single question.
    """
    value = sum(sums) / sum(counts)
    # Were all responses alike, each of these residuals would be 0.
    errors = defaultdict(float)
    for total, count, question in zip(sums, counts, questions, strict=True):
        errors[question] += total - value * count
    n = len(errors)
    if n < 2:
        return value, None, None
    variance = n / (n - 1) * sum(error * error for error in errors.values())
    half = 1.959964 * math.sqrt(variance) / sum(counts)
    return value, value - half, value + half


def pca_shift(base_layers, tuned_layers):
    """Lists of (K, H), one per layer -> (distance, points (layers, 2, 2)), as published.

    A point is (shift along PC1, place on PC2), of the base and of the tuned model. The components
    are those of the base alone, and projections are not centred. A component's largest loading is
    positive. The distance is the length of the mean over layers, so that signs cancel. A layer with
    a number that is not finite is left out.
    """
    points = []
    for base, tuned in zip(base_layers, tuned_layers, strict=True):
        base = torch.as_tensor(base, dtype=torch.float64)
        tuned = torch.as_tensor(tuned, dtype=torch.float64)
        if not (base.isfinite().all() and tuned.isfinite().all()):
            continue
        components = main_components(base)  # (2, H)
        before = base.mean(0) @ components.T  # (2,)
        after = tuned.mean(0) @ components.T
        shift = (after[0] - before[0]).item()
        points.append([[0.0, before[1].item()], [shift, after[1].item()]])
    points = torch.tensor(points, dtype=torch.float64).view(-1, 2, 2)  # layers, model, PC
    return (points[:, 1] - points[:, 0]).mean(0).norm().item(), points


def main_components(states):
    """States (K, H) -> their two main directions (2, H), the largest loading of each positive."""
    components = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:2]
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return components * largest.sign()


def pca_shift_masked(base_layers, tuned_layers):
    """The same, but the mean over layers of each layer's length; for states pooled without pads."""
    points = pca_shift(base_layers, tuned_layers)[1]
    return (points[:, 1] - points[:, 0]).norm(dim=1).mean().item(), points


# ---------------------------------------------------------------- from tokens to numbers


class Tally:
    """The measured responses of a task: a few numbers each, sums per position, counts per token.

    No more is kept, so that memory hardly grows with the number of responses.
    """

    def __init__(self, group, width):
        self.group = group
        self.width = width  # of a position, in tokens
        self.responses = []  # numbers of each response
        self.words = defaultdict(TokenCount)  # by token id
        self.n_nan = 0  # responses that are left out
        # Sums of CURVES and, in the last row, the number of tokens.
        self.by_position = torch.zeros(len(CURVES) + 1, N_POSITIONS, dtype=torch.float64)
        self.by_tenth = torch.zeros(len(CURVES) + 1, 10, dtype=torch.float64)

    def add(self, question, ids, values, counted):
        """Add a response.

        ids: its N tokens. values: {name: (N,)}, see `measure`. counted: indices of the tokens that
        count.
        """
        kept = {name: column[counted] for name, column in values.items()}
        if not all(column.isfinite().all() for column in kept.values()):
            self.n_nan += 1
            return
        kept["rank_shift"] = kept["rank_base"] - kept["rank_tuned"]
        self.add_to_curves(kept, torch.tensor(counted), len(ids))
        for i, shift in zip(counted, kept["rank_shift"].tolist()):
            self.words[ids[i]].add(shift)
        n = len(counted)
        mean_shift, n_shifted = rank_shifts(kept["rank_base"], kept["rank_tuned"])
        self.responses.append(
            {
                "question": question,
                "n": n,
                "n_shifted": n_shifted,
                "shift": mean_shift * n,
                "estimate": published_estimate(values, counted),
                "kl_forward": kept["kl_forward"].mean().item(),
                "kl_reverse": kept["kl_reverse"].mean().item(),
            }
        )

    def add_to_curves(self, kept, places, n_tokens):
        ones = torch.ones(len(places)).double()
        columns = torch.stack([*(kept[name] for name in CURVES), ones])  # (6, tokens)
        position = (places // self.width).clamp(max=N_POSITIONS - 1)
        self.by_position.index_add_(1, position, columns)
        self.by_tenth.index_add_(1, places * 10 // n_tokens, columns)


def published_estimate(values, counted):
    """log_ratio of a response without its first token, as UniReason has it; None for one token."""
    later = [i for i in counted if i > 0]
    if not later:
        return None
    return log_ratio(values["logp_tuned"][later].tolist(), values["logp_base"][later].tolist())


def summarise(tallies, shifts):
    """{task: Tally} and {task: PCA shifts} -> an entry of metrics.json.

    KL is in nats per token; macro: mean over responses, micro: over tokens. Rank and PCA shift of
    several tasks are the mean of the tasks' values, as published.
    """
    responses = [r for tally in tallies.values() for r in tally.responses]
    questions = [(task, r["question"]) for task, tally in tallies.items() for r in tally.responses]
    n_tokens = sum(r["n"] for r in responses)
    n_shifted = [r["n_shifted"] for r in responses]
    per_response, low, high = cluster_interval(n_shifted, [1] * len(responses), questions)
    estimates = [r["estimate"] for r in responses if r["estimate"] is not None]
    width = max(tally.width for tally in tallies.values())
    return {
        "kl_estimate": kl_estimate(estimates),
        "kl_forward": summarise_kl("kl_forward", responses, questions),
        "kl_reverse": summarise_kl("kl_reverse", responses, questions),
        "pca_shift": mean_over_tasks("pca_shift", tallies, shifts),
        "pca_shift_masked": mean_over_tasks("pca_shift_masked", tallies, shifts),
        "rank_shift_mean": statistics.fmean(map(mean_rank_shift, tallies.values())),
        "shifted_tokens": sum(n_shifted),
        "shifted_share": sum(n_shifted) / n_tokens,
        "shifted_per_response": per_response,
        "shifted_low": low,
        "shifted_high": high,
        "n_responses": len(responses),
        "n_questions": len(set(questions)),
        "n_tokens": n_tokens,
        "nan_responses": sum(tally.n_nan for tally in tallies.values()),
        "by_position": {"width": width} | mean_curves(sum(t.by_position for t in tallies.values())),
        "by_tenth": mean_curves(sum(t.by_tenth for t in tallies.values())),
    }


def summarise_kl(name, responses, questions):
    """One direction of the KL over responses (macro) and over tokens (micro), with intervals."""
    means = [r[name] for r in responses]
    counts = [r["n"] for r in responses]
    totals = [mean * n for mean, n in zip(means, counts)]
    macro, low, high = cluster_interval(means, [1] * len(means), questions)
    micro, micro_low, micro_high = cluster_interval(totals, counts, questions)
    return {
        "macro": macro,
        "low": low,
        "high": high,
        "micro": micro,
        "micro_low": micro_low,
        "micro_high": micro_high,
    }


def mean_over_tasks(name, tasks, shifts):
    """Mean of a PCA shift over the tasks that have one, else None."""
    found = [shifts[task][name] for task in tasks if task in shifts]
    found = [distance for distance in found if distance is not None]
    return statistics.fmean(found) if found else None


def mean_rank_shift(tally):
    return sum(r["shift"] for r in tally.responses) / sum(r["n"] for r in tally.responses)


def mean_curves(sums):
    """Sums of CURVES and a count (6, positions) -> {name: means, "n": tokens of each position}.

    Up to the last position with a token; None for one without.
    """
    n_filled = int((sums[-1] > 0).nonzero().max()) + 1
    sums = sums[:, :n_filled]
    found = {"n": [int(n) for n in sums[-1]]}
    for name, means in zip(CURVES, (sums[:-1] / sums[-1]).tolist()):
        found[name] = [None if math.isnan(x) else float(f"{x:.6g}") for x in means]
    return found


# ---------------------------------------------------------------- both models on the same tokens


class Side(NamedTuple):
    """One of the two models: its head and, unless all its states are in files, the model."""

    head: kernels.Head
    model: torch.nn.Module | None

    @classmethod
    def of(cls, model):
        return cls(output_head(model), model)

    def without_model(self):
        weight = self.head.weight.detach().clone()
        return Side(self.head._replace(weight=weight), None)

    @property
    def device(self):
        return self.head.weight.device


@torch.no_grad()
def measure(base, tuned, examples, micro_batch_tokens=16384, folder=None, top=0, desc=None):
    """Both models on the same answers. Yields (index of the example, {name: (N,) float64}).

    examples: (prompt ids, completion ids) each; N tokens of the completion.
    names: kl_forward (tuned‖base), kl_reverse, and logp, rank and entropy under both, as logp_base,
    logp_tuned, ...; with top=k also the base's k most likely tokens: likely_ids, likely_p (N, k).
    folder: finished micro-batches are kept there, and a side without a model has its states there.
    """
    with progress_bar(examples, desc) as bar:
        for number, group, batch in batches(examples, micro_batch_tokens, base.device):
            if folder is None:
                numbers = compare_batch(base, tuned, batch, top)
            else:
                numbers = compare_once(base, tuned, batch, top, folder, number)
            # A batch has its examples one behind the other: cut its columns apart again.
            lengths = [len(examples[i][1]) for i in group]
            parts = [column.split(lengths) for column in numbers.values()]
            for i, *columns in zip(group, *parts):
                yield i, dict(zip(numbers, columns))
            bar.update(len(batch.ids))


def compare_batch(base, tuned, batch, top=0, states=None):
    """The numbers of `measure` for a packed batch with N scored tokens -> {name: (N,) or (N, top)}.

    states: file with those of a side without a model.
    """
    tuned_hidden = scored_states(tuned, batch, states)  # (N, D)
    base_hidden = scored_states(base, batch, states)
    numbers = token_numbers((tuned_hidden, tuned.head), (base_hidden, base.head), batch.target)
    if top:
        numbers |= likely_tokens(base.head, base_hidden, top)
    return {name: column.cpu().double() for name, column in numbers.items()}


def scored_states(side, batch, states=None):
    """States (N, D) from which a batch's scored tokens are predicted."""
    if side.model is None:
        return load_file(states, device=str(side.device))["hidden"]
    packed = attention.Packed(batch.lengths, batch.ids.device)
    hidden = hidden_states(side.model, batch.ids, batch.positions, packed)  # (T, D)
    return hidden[batch.where]


def likely_tokens(head, hidden, top):
    """States (N, D) -> the most likely tokens: {"likely_ids", "likely_p": (N, top)}."""
    ids, p = [], []
    for part in hidden.split(64):  # a few rows of logits at a time
        most = head.logits(part).softmax(1).topk(top)
        ids.append(most.indices)
        p.append(most.values)
    return {"likely_ids": torch.cat(ids), "likely_p": torch.cat(p)}


def batches(examples, micro_batch_tokens, device):
    """Pack examples, each whole. Yields (number, indices of its examples, Batch).

    Completions are scored, prompts are not.
    """
    lengths = [len(prompt) + len(completion) for prompt, completion in examples]
    for number, group in enumerate(packing.fill_bins(lengths, micro_batch_tokens)):
        chosen = [examples[i] for i in group]
        ids = [[*prompt, *completion] for prompt, completion in chosen]
        masks = [[False] * len(prompt) + [True] * len(completion) for prompt, completion in chosen]
        yield number, group, packing.pack(ids, masks, device)


def progress_bar(examples, desc=None):
    """A bar over the tokens of the examples; without a description it is not shown."""
    total = sum(len(prompt) + len(completion) for prompt, completion in examples)
    hide = None if desc else True  # None: hide it where there is no terminal
    return tqdm(total=total, desc=desc, unit="token", unit_scale=True, disable=hide)


# ---------------------------------------------------------------- micro-batches in files


def shard(folder, kind, number):
    """File of a micro-batch: kind "states" of the base, kind "numbers" once it is compared."""
    return folder / f"{kind}-{number:05}.safetensors"


def save_shard(tensors, file):
    """Write a file whole or not at all: what a killed run leaves can be trusted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    save_file({name: x.contiguous() for name, x in tensors.items()}, part)
    os.replace(part, file)


@torch.no_grad()
def store(side, examples, micro_batch_tokens, folder, desc):
    """Write the states that `measure` will read from `folder`, except those that are there."""
    with progress_bar(examples, desc) as bar:
        for number, _, batch in batches(examples, micro_batch_tokens, side.device):
            states = shard(folder, "states", number)
            if not states.is_file() and not shard(folder, "numbers", number).is_file():
                save_shard({"hidden": scored_states(side, batch)}, states)
            bar.update(len(batch.ids))


def compare_once(base, tuned, batch, top, folder, number):
    """compare_batch, but the numbers are kept in a file and read if they are there."""
    numbers = shard(folder, "numbers", number)
    states = shard(folder, "states", number)
    if numbers.is_file():
        return load_file(numbers)
    found = compare_batch(base, tuned, batch, top, states)
    save_shard(found, numbers)
    states.unlink(missing_ok=True)
    return found


# ---------------------------------------------------------------- states of problems


@torch.no_grad()
def pooled_layers(model, tokenizer, texts, micro_batch_tokens=16384):
    """Mean hidden state of each of K texts -> (padded, masked), each a list over layers of (K, H).

    Texts are padded on the left. padded: with the pads in the mean, as UniReason's script has it;
    masked: without.
    """
    device = output_head(model).weight.device
    ids, mask = pad_left(tokenizer, texts, device)  # (K, T)
    size = max(1, micro_batch_tokens // ids.shape[1])
    padded, masked = [], []  # of each micro-batch
    # Our own attention works without pads; here they are wanted.
    model.set_attn_implementation("sdpa")
    try:
        for part, real in zip(ids.split(size), mask.split(size)):
            layers = model.base_model(
                input_ids=part, attention_mask=real, use_cache=False, output_hidden_states=True
            ).hidden_states
            padded.append([mean_state(hidden, torch.ones_like(real)) for hidden in layers])
            masked.append([mean_state(hidden, real) for hidden in layers])
    finally:
        model.set_attn_implementation("packed")
    return tuple([torch.cat(parts) for parts in zip(*pool)] for pool in (padded, masked))


def pad_left(tokenizer, texts, device):
    """Texts -> ids and mask (K, T), 0 for a pad; at most TEXT_TOKENS of each text."""
    encoded = [tokenizer.encode(text)[:TEXT_TOKENS] for text in texts]
    longest = max(map(len, encoded))
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id
    ids = [[pad] * (longest - len(tokens)) + tokens for tokens in encoded]
    mask = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in encoded]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def mean_state(hidden, mask):
    """(K, T, H) and the mask (K, T) of what counts -> (K, H) float32 on the CPU."""
    total = (hidden.float() * mask[..., None]).sum(1)
    return (total / mask.sum(1, keepdim=True)).cpu()


def problem_texts(rows):
    """{task: up to N_TEXTS of its problems, question and answer}, drawn as UniReason does.

    A task with fewer than three problems has no two components and is left out.
    """
    texts = defaultdict(set)
    for row in rows:
        task = row_scope(row)[1]
        texts[task].add(f"{row['question']}  {row.get('answer') or ''}")
    return {
        task: tuple(random.Random(42).sample(sorted(found), min(N_TEXTS, len(found))))
        for task, found in texts.items()
        if len(found) > 2
    }


def task_shifts(name, texts, before, after):
    """PCA shifts of a model -> {task: pca_shift, pca_shift_masked, nan_layers, points}.

    texts: {task: texts}. before, after: {texts: pooled_layers} of the base and the tuned model.
    """
    shifts = {}
    for task, chosen in texts.items():
        base_padded, base_masked = before[chosen]
        tuned_padded, tuned_masked = after[chosen]
        distance, points = pca_shift(base_padded, tuned_padded)
        repaired, _ = pca_shift_masked(base_masked, tuned_masked)
        n_nan = len(base_padded) - len(points)
        if n_nan:
            print(
                f"warning: {name}: {n_nan} layers are not finite on problems of {task} and are "
                "left out"
            )
        shifts[task] = {
            "pca_shift": None if math.isnan(distance) else distance,
            "pca_shift_masked": None if math.isnan(repaired) else repaired,
            "nan_layers": n_nan,
            "points": points.tolist(),
        }
    return shifts


# ---------------------------------------------------------------- one base, several tuned models


@dataclass
class Job:
    """What one model is asked."""

    name: str
    rows: list  # the completions to measure
    viewed: list  # completions that the page shows
    folder: Path  # for finished micro-batches
    examples: list = field(default_factory=list)  # (prompt ids, completion ids) of the rows
    viewed_examples: list = field(default_factory=list)
    texts: dict = field(default_factory=dict)  # {task: problems for the PCA shift}
    n_skipped: int = 0  # completions that cannot be measured

    @property
    def viewed_folder(self):
        return self.folder.with_name(f"{self.folder.name}-viewed")


def make_jobs(study, files, tokenizer, work):
    """A job for the base and for each tuned model. Finished micro-batches go to folders in work."""
    models = study.models
    written = {name: find_completions(files, path) for name, path in models.tuned.items()}
    form = next(iter(written.values())).format
    # The base is asked about nothing but its own answers that the page shows.
    written = {models.base: Completions([], 0, form)} | written
    rows = {name: found.rows for name, found in written.items()}
    viewed = choose_transcripts(models, study.runs, rows)
    jobs = []
    for number, (name, found) in enumerate(written.items()):
        job = Job(name, first_of_each_task(found.rows), viewed[name], work / str(number))
        job.n_skipped = found.n_skipped
        job.texts = problem_texts(found.rows)
        form = found.format.fit(tokenizer, found.date, found.special_in_text)
        job.examples = examples_of(job.rows, form, tokenizer)
        viewed_rows = [chosen.row for chosen in job.viewed]
        job.viewed_examples = examples_of(viewed_rows, form, tokenizer, VIEWED_TOKENS)
        jobs.append(job)
    return jobs


def examples_of(rows, form, tokenizer, longest=None):
    """Completion rows -> (prompt ids, completion ids) each, the completion's first `longest`."""
    return [(form.row_prompt_ids(tokenizer, row), row["ids"][:longest]) for row in rows]


def first_of_each_task(rows):
    """The first N_RESPONSES rows of each task."""
    n_seen, kept = Counter(), []
    for row in rows:
        n_seen[row_scope(row)] += 1
        if n_seen[row_scope(row)] <= N_RESPONSES:
            kept.append(row)
    return kept


def check_vocabularies(base, tuned):
    """Check that the models share a vocabulary -> its size. Raises BadInput if they do not."""
    base_vocabulary, base_size = read_vocabulary(base)
    for path in tuned:
        vocabulary, size = read_vocabulary(path)
        tokens = {*base_vocabulary, *vocabulary}
        other = [t for t in tokens if base_vocabulary.get(t) != vocabulary.get(t)]
        if other:
            raise BadInput(
                f"--tuned {path}: its tokenizer is not that of --base {base}, "
                f"{min(other)!r} has another id"
            )
        if size != base_size:
            raise BadInput(
                f"--tuned {path}: the size of its head is not that of --base {base}; "
                "KL needs one vocabulary"
            )
    return base_size


def read_vocabulary(path):
    """A model directory or hub name -> ({token: id}, number of rows of its head)."""
    try:
        vocabulary = AutoTokenizer.from_pretrained(path, trust_remote_code=False).get_vocab()
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        size = config.get_text_config().vocab_size
    except Exception as error:  # of whatever kind a broken directory or a strange family raises
        why = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"{path}: cannot be loaded as a model ({type(error).__name__}: {why})"
        ) from error
    return vocabulary, size


def check_ids(jobs, n_vocab):
    """Raise BadInput for a row with token ids that the models do not have."""
    for row in (row for job in jobs for row in job.rows):
        if min(row["ids"]) < 0 or max(row["ids"]) >= n_vocab:
            raise BadInput(
                f"--data: row '{row['id']}' has token ids outside the vocabulary of {n_vocab}"
            )


def open_work(cfg):
    """--out/work, where an interrupted analysis continues.

    Emptied if settings, models or completions have changed.
    """
    folder = Path(cfg.out) / "work"
    paths = (cfg.base, *cfg.tuned, *cfg.data, *cfg.runs)
    identity = runlog.identity(cfg, without=("claims", "judged", "published", "device"))
    identity |= {path: runlog.fingerprint(path) for path in paths}
    header = folder / "identity.json"
    if header.is_file() and read_json(header) != identity:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header.write_text(json.dumps(identity), encoding="utf-8")
    return folder


def compare_models(cfg, study, files):
    """The base against one tuned model after the other -> transcripts for the page.

    files: runs with the completions of the tuned models. Fills in what the Study has of both models
    on the tokens of the tuned one. Raises BadInput if no model can be loaded.
    """
    # Everything that can be refused is refused before a model is loaded.
    n_vocab = check_vocabularies(cfg.base, cfg.tuned)
    tokenizer = loading.load_tokenizer(cfg.base)
    base_job, *jobs = make_jobs(study, files, tokenizer, open_work(cfg))
    check_ids(jobs, n_vocab)
    base, before = prepare_base(cfg, [base_job, *jobs], tokenizer)
    transcripts = measure_viewed(cfg, base, base, base_job, tokenizer)
    for job in jobs:
        try:
            model, _ = loading.load(study.models.tuned[job.name], cfg.device, DTYPES[cfg.dtype])
        except BadInput as error:
            # Weights that are not numbers, say, or a layer that engine/model.py does not compute.
            print(f"warning: {error}; the other models are analysed")
            study.refused[job.name] = str(error)
            continue
        tuned = Side.of(model)
        tallies = tally_responses(cfg, base, tuned, job)
        after = pool_problems(cfg, model, tokenizer, [job])
        shifts = task_shifts(job.name, job.texts, before, after)
        add_results(study, job, tallies, shifts, tokenizer)
        transcripts += measure_viewed(cfg, base, tuned, job, tokenizer)
        del model, tuned  # before the next one is loaded

    study.models = study.models.without(study.refused)
    if not study.models.tuned:
        raise BadInput(next(iter(study.refused.values())))
    headings = dict.fromkeys(chosen.heading for job in jobs for chosen in job.viewed)
    return [
        (heading, [found for other, found in transcripts if other == heading])
        for heading in headings
    ]


def prepare_base(cfg, jobs, tokenizer):
    """Load the base -> (Side, its pooled states of all problems).

    With --stream its states of all jobs go to files, and the model is not kept.
    """
    model, _ = loading.load(cfg.base, cfg.device, DTYPES[cfg.dtype])
    base = Side.of(model)
    pooled = pool_problems(cfg, model, tokenizer, jobs)
    if not cfg.stream:
        return base, pooled
    for job in jobs:
        desc = f"{Path(cfg.base).name} on {job.name}"
        store(base, job.examples, cfg.micro_batch_tokens, job.folder, desc)
        store(base, job.viewed_examples, cfg.micro_batch_tokens, job.viewed_folder, desc)
    return base.without_model(), pooled


def pool_problems(cfg, model, tokenizer, jobs):
    """{texts: pooled_layers} of a model for all texts of the jobs."""
    chosen = dict.fromkeys(texts for job in jobs for texts in job.texts.values())
    return {
        texts: pooled_layers(model, tokenizer, texts, cfg.micro_batch_tokens) for texts in chosen
    }


def tally_responses(cfg, base, tuned, job):
    """Measure the rows of a job -> {task: Tally}. Raises BadInput if no response gives numbers."""
    longest = max((len(ids) for _, ids in job.examples), default=1)
    width = math.ceil(longest / N_POSITIONS)
    tallies = {}
    found = measure(base, tuned, job.examples, cfg.micro_batch_tokens, job.folder, desc=job.name)
    for i, values in found:
        row = job.rows[i]
        group, task = row_scope(row)
        counted = counted_tokens(row, cfg.published)
        if counted:
            tally = tallies.setdefault(task, Tally(group, width))
            tally.add(str(row["id"]), row["ids"], values, counted)
    n_nan = sum(tally.n_nan for tally in tallies.values())
    if n_nan:
        print(
            f"warning: {job.name}: {n_nan} responses have numbers that are not finite and are "
            "left out"
        )
    tallies = {task: tally for task, tally in tallies.items() if tally.responses}
    if job.rows and not tallies:
        raise BadInput(f"--tuned {job.name}: no response gives finite numbers")
    return tallies


def counted_tokens(row, published):
    """Indices of the tokens that count: those the model wrote; as published without the first."""
    injected = set(row.get("injected") or ())
    first = 1 if published else 0
    return [i for i in range(first, len(row["ids"])) if i not in injected]


def add_results(study, job, tallies, shifts, tokenizer):
    """Put what was measured of one tuned model into the Study."""

    @functools.cache
    def name_of(token):
        text = token_text(tokenizer, token)
        return text.strip() or repr(text)

    def entry(chosen):
        words = [tally.words for tally in chosen.values()]
        return summarise(chosen, shifts) | most_shifted(words, name_of)

    by_group = defaultdict(dict)
    for task, tally in tallies.items():
        by_group[tally.group][task] = tally
    study.results[job.name] = {
        "tasks": {task: entry({task: tally}) for task, tally in tallies.items()},
        "groups": {group: entry(inside) for group, inside in by_group.items()},
        "all": summarise(tallies, shifts),
        **most_shifted([tally.words for tally in tallies.values()], name_of),
        "skipped_rows": job.n_skipped,
    }
    study.points[job.name] = {task: shift["points"] for task, shift in shifts.items()}
    study.responses[job.name] = {
        group: [response for tally in inside.values() for response in tally.responses]
        for group, inside in by_group.items()
    }


def measure_viewed(cfg, base, tuned, job, tokenizer):
    """Measure what the page shows of a job -> [(heading, transcript)]."""
    found = measure(
        base, tuned, job.viewed_examples, cfg.micro_batch_tokens, job.viewed_folder, top=3
    )
    transcripts = []
    for i, values in found:
        heading, title, row = job.viewed[i]
        transcripts.append((heading, make_transcript(tokenizer, row, values, title)))
    return transcripts


# ---------------------------------------------------------------- runs and their statistics


def grade_run(run):
    """A run -> the same with its grades. Raises BadInput that names file and line."""
    try:
        return run._replace(graded=evaluate.metrics(run.rows))
    except BadInput as error:
        raise BadInput(f"{run.path}: {error}") from error


def grade_together(runs):
    """evaluate.metrics of several seeds of a run."""
    return runs[0].graded if len(runs) == 1 else evaluate.metrics(pool_rows(runs))


def grade_runs(study):
    """Fill in what the Study has of graded runs. The claims must have been decided by then."""
    for name in dict.fromkeys(run.name for run in study.runs):
        study.graded[name] = grade_together([run for run in study.runs if run.name == name])
    for name, path in study.models.paths().items():
        mine = [run for run in study.runs if run.written_by(path) and run.is_unforced()]
        names = [run.name for run in mine]
        if mine:
            chosen = name if name in names else names[0]
            graded = grade_together([run for run in mine if run.name == chosen])
            study.accuracy[name] = {
                group: summary
                for group, summary in graded["groups"].items()
                if summary["n_questions"]
            }
    study.transfer = transferability(study.models, study.accuracy)
    right = {
        name: groups["math"]["accuracy"]
        for name, groups in study.accuracy.items()
        if "math" in groups
    }
    study.models = study.models.with_nearest_sft(right)


def transferability(models, accuracy):
    """{model: {"v1" or "v2": {group: TI}}} of the models that have the base's tasks.

    TI is None where it is undefined.
    """
    before = task_scores(accuracy.get(models.base, {}))
    if "math" not in before:
        return {}
    found = {}
    for name in models.tuned:
        after = task_scores(accuracy.get(name, {}))
        if all(set(tasks) == set(after.get(group, ())) for group, tasks in before.items()):
            found[name] = {
                version: evaluate.defined_transferability(before, after, name, version, None)
                for version in ("v1", "v2")
            }
    return found


def task_scores(accuracy):
    """{group: summary} -> {group: {task: percent right}}."""
    return {
        group: {
            task: found["accuracy"]
            for task, found in summary["tasks"].items()
            if found["n_questions"]
        }
        for group, summary in accuracy.items()
    }


def compare_answers(study):
    """Fill in the paired differences of the Study, and its curves under a budget."""
    bootstrap = functools.partial(evaluate.paired_bootstrap, n_resamples=2000)
    study.contrasts = compare_trainings(study.models, study.responses, study.runs, bootstrap)
    group = graded_group(study)
    study.curves = budget_curves(study.runs, study.graded, group)
    for model, points in study.curves.items():
        found = compare_waits(points, study.runs, group, evaluate.paired_bootstrap)
        if found:
            study.waits[model] = found


def graded_group(study):
    """The group whose accuracy is drawn: math, where a run has it."""
    has_math = any("math" in graded["groups"] for graded in study.graded.values())
    return "math" if has_math else study.main_group()


def curves_beside(paths):
    """Completions of another test-bed -> {model: its runs under several budgets}, as Study.curves.

    Raises BadInput if no model has runs under three of them.
    """
    runs = [grade_run(run) for run in read_runs(paths)]
    graded = {}
    for name in dict.fromkeys(run.name for run in runs):
        graded[name] = grade_together([run for run in runs if run.name == name])
    curves = budget_curves(runs, graded, "math")
    if not curves:
        raise BadInput(f"--beside {paths[0]}: no model has math runs under three budgets or Waits")
    return curves


# ---------------------------------------------------------------- the command


def command_line(cfg):
    """The command that gives these settings."""
    words = ["python analyze.py"]
    for name, value in asdict(cfg).items():
        if value == getattr(Config, name, None):  # the default
            continue
        words.append(settings.flag(name))
        if isinstance(value, tuple):
            words += value
        elif value is not True:
            words.append(str(value))
    return " ".join(words)


def main(cfg):
    """Analyse, write everything into --out, print the tables -> what metrics.json holds."""
    if not cfg.tuned or not cfg.data:
        raise BadInput("--tuned and --data are needed: which models, and what they wrote")
    asked = cfg
    cfg = machine.on_device(cfg)
    exact = machine.exact_device(cfg.device)
    if cfg.dtype == "fp64" and exact != torch.device(cfg.device):
        raise BadInput(f"--device {cfg.device}: has no fp64; --device cpu has")
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: not a directory, in which the analysis could be written")

    # What the runs say. A file that cannot be used is found before a model is loaded.
    files = read_runs(cfg.data)
    runs = [grade_run(run) for run in read_runs(cfg.runs)]
    claims = read_json(cfg.claims) if cfg.claims else []
    study = Study(describe_models(cfg.base, cfg.tuned), cfg.published, runs)
    study.claims = [
        decide_claim(claim, runs, cfg.claims, evaluate.paired_bootstrap) for claim in claims
    ]
    grade_runs(study)
    if cfg.beside:
        study.beside = {"where": cfg.beside[0], "curves": curves_beside(cfg.beside)}
    study.compute = read_ledgers(study.models.tuned)
    judged = {}
    for path in cfg.judged:
        judged |= read_judged(path)

    # KL, rank shift and PCA shift.
    transcripts = compare_models(cfg, study, files)

    # Weights, paired differences, traces, and what the trainings cost.
    study.weights, study.overlaps = weight_changes(cfg.base, study.models.tuned, exact)
    study.behaviours = summarise_runs(runs or files, judged, evaluate.mean_interval)
    compare_answers(study)
    study.matched = match_pair(study.models, study.compute)

    metrics = study.metrics()
    runlog.save_config(cfg, out / "analysis.config.json")
    text = json.dumps(metrics, indent=1, ensure_ascii=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    tables.print_tables(study)

    page = make_page(study, transcripts, draw_figures(study, out), command_line(asked))
    (out / "report.html").write_text(page, encoding="utf-8")
    shutil.rmtree(out / "work")
    print(f"\n{out / 'report.html'}: {len(page) / 1e6:.1f} MB")
    return metrics


if __name__ == "__main__":
    settings.cli(main, Config)
