"""What is a right answer, and how sure are we? Completions in, metrics with intervals out.

    pass@k    1 - C(n-c, k) / C(n, k), mean over questions             Chen et al. 2021, eq. 1 (c of n samples right)
    maj@k     is the most frequent answer of the first k right?        s1, §5.2 (what the grader takes as equal is one)
    avg@k     share of the first k that are right                      bon@k: is the one with the largest --best-by?
    interval  Wilson's, for as many questions as the spread between questions is worth: samples of one question are not
              independent, questions are
    control, scaling, performance of several runs                      s1 (arXiv 2501.19393), §3.2
    TI        100 · gain in a group / gain in maths                    UniReason (arXiv 2507.00432), §2.1

Departs from the papers in: 1. Answers are graded by rules, then symbolically; s1 and LIMO ask a language model where rules
fail. 2. Of several `Answer:` lines the last one counts; s1's regular expression takes everything from the first one on.
3. An answer that cannot be found is wrong; s1 guesses A in multiple choice. 4. No ×100 tolerance, unlike LIMO.
How an answer is found in a text and when two are equal stands in grading/answers.py.

One run:     python evaluate.py out/tiny/seed0/runs/sft-s1.jsonl --base out/tiny/seed0/runs/base.jsonl
A study:     python evaluate.py out/wait0.jsonl out/wait1.jsonl out/wait2.jsonl --base out/base.jsonl --figure curve.png
A folder:    python evaluate.py out/runs --markdown
A table:     python evaluate.py --scores scores.jsonl --base Qwen3-14B-Base       rows: model, group, benchmark, score

Reads completion rows (engine/rows.py) and, where present, the settings beside them (RUN.config.json). A row is graded
against `answer`, `nums` and `target`, IFEval's `instruction_id_list` or CoQA's `references`, what it has. Prints one line
per run and group (row field `group`); --out saves everything, per task and per question too.
Exit status: 0, 1 for input that cannot be used (one line names file and line), 2 for wrong flags.
"""

import json
import math
import random
import statistics
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from os.path import commonpath, dirname
from pathlib import Path
from typing import Literal

from engine import runlog, settings
from engine.rows import BadInput, read_rows, write_rows
from grading import symbolic
from grading.answers import (  # noqa: F401
    answer_of,
    canonical,
    check_expression,
    classes,
    extract_answer,
    grade,
    is_correct,
    overlap,
)
from grading.ifeval import follows


@dataclass(frozen=True)
class Config:
    # completion files, one per run, or folders
    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})
    base: str | None = None  # run to compare the others with: paired difference and transferability
    # for pass@k, maj@k, avg@k, bon@k; empty: 1, 4 and 8 if there are as many samples
    k: tuple[int, ...] = ()
    # row field that chooses the best of k samples; a list counts with its mean
    best_by: str = "logp"
    # transferability: v1 mean relative gain, v2 signed square root with headroom
    ti: Literal["v1", "v2"] = "v2"
    # scale of v2 per group: 1, or the spread of its scores over all that is given
    sigma: Literal["one", "pooled"] = "one"
    resamples: int = 10_000  # of the paired bootstrap; s1: 10,000
    seed: int = 0  # of the bootstrap
    # a table of scores in percent instead of runs; --base is then a model of it
    scores: str | None = None
    figure: str | None = None  # PNG: accuracy against thinking tokens, a curve for each model
    markdown: bool = False  # print the table as Markdown
    json: bool = False  # print JSON instead of the table
    out: str | None = None  # file to save the metrics in


# ---- Statistics: plain numbers in and out ----------------------------------------------------------------------


def pass_at_k(n, c, k):
    """Probability that k samples, drawn without replacement from n of which c are right, hold a right one."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers, key=lambda answer: answer, weights=None):
    """The first answer of the largest class, or of that with the largest sum of weights (ties: the class seen first).
    None votes for nothing."""
    votes, first = {}, {}
    for answer, weight in zip(answers, weights or [1] * len(answers)):
        if answer is not None:
            first.setdefault(key(answer), answer)
            votes[key(answer)] = votes.get(key(answer), 0) + weight
    return first[max(votes, key=votes.get)] if votes else None  # max keeps the first of equals


def wilson(successes, n, z=1.959964):
    """95% interval (low, high) of a share; unlike ± z·s it does not collapse at 0 and 1."""
    if not n:
        return 0.0, 1.0
    p, scale = successes / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (p + z * z / (2 * n) - half) / scale), min(
        1.0, (p + z * z / (2 * n) + half) / scale
    )


def mean_interval(values, n_samples=None):
    """(mean, low, high) over questions; values are shares in 0..1, one per question (its mean over samples).

    Wilson's interval for n = N p(1 - p) / variance between the N questions: N if all samples of each question agree, up
    to n_samples, their number in all questions together (default N), if questions are all alike.
    """
    n, mean = len(values), statistics.fmean(values) if values else math.nan
    limit = n_samples or n
    spread = statistics.pvariance(values) if values else 0
    effective = (
        min(limit, n * mean * (1 - mean) / spread)
        if spread > 1e-12
        else limit
        if 0 < mean < 1
        else n
    )
    return mean, *wilson(mean * effective if n else 0, effective)


def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    """(difference, low, high) of mean(a) - mean(b), 95%; a[i], b[i] belong to one question (s1 §5.1)."""
    if len(a) != len(b) or not a:
        raise ValueError(f"paired values needed, not {len(a)} and {len(b)}")
    rng, n, differences = random.Random(seed), len(a), [x - y for x, y in zip(a, b)]
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))
    return (
        sum(differences) / n,
        means[int(0.025 * n_resamples)],
        means[math.ceil(0.975 * n_resamples) - 1],
    )


def control(points, limits):
    """Percent of runs whose tokens stay within their limit; a point is tokens or (tokens, accuracy), a limit is the
    largest number of tokens or (smallest, largest). s1 §3.2, eq. 1."""
    tokens = [point[0] if isinstance(point, tuple) else point for point in points]
    bounds = [limit if isinstance(limit, tuple) else (0, limit) for limit in limits]
    if len(tokens) != len(bounds) or not tokens:
        raise ValueError(f"one limit per run needed, not {len(bounds)} for {len(tokens)}")
    return 100 * statistics.fmean(low <= x <= high for x, (low, high) in zip(tokens, bounds))


def scaling(points, x="log2"):
    """Mean slope over all pairs of (tokens, accuracy in percent): points per doubling of tokens, or per token with
    x="linear". The paper names no unit; log2 reproduces its Table 3. Pairs of equal x are left out. s1 §3.2, eq. 2."""
    placed = [
        (math.log2(tokens) if x == "log2" else tokens, accuracy)
        for tokens, accuracy in points
        if tokens > 0
    ]
    slopes = [
        (f1 - f0) / (x1 - x0)
        for i, (x0, f0) in enumerate(placed)
        for x1, f1 in placed[i + 1 :]
        if x0 != x1
    ]
    return statistics.fmean(slopes) if slopes else math.nan


def performance(points):
    """The best accuracy of any run. s1 §3.2, eq. 3."""
    return max(accuracy for _, accuracy in points)


def transferability(base, tuned, version="v2", sigma=None):
    """{group: TI in percent} for every group but "math"; base and tuned are {group: {benchmark: score in percent}}.

    v1  gain = mean of (tuned - base) / base                                                  (July 2025)
    v2  gain = Σ w sign(d) √|d|, d = (tuned - base) / sigma[group], w ∝ 100 - base, Σ w = 1    (October 2025, §2.1)
    sigma: one constant per group. The paper prints "standard deviation over the group's benchmarks", but its numbers
    need one sigma for all audited models; with None it is 1, which changes TI by a constant factor per group.
    NaN where the index is undefined; the reason is printed to stderr.
    """
    gains = {}
    for group, scores in base.items():
        if set(scores) != set(tuned.get(group, ())) or not scores:
            raise ValueError(f"base and tuned differ in the benchmarks of group '{group}'")
        pairs = [(before, tuned[group][name]) for name, before in scores.items()]
        if version == "v1":
            gains[group] = statistics.fmean(
                (after - old) / old if old else math.nan for old, after in pairs
            )
        else:
            deltas = [(after - before) / (sigma or {}).get(group, 1) for before, after in pairs]
            room = [100 - before for before, _ in pairs]
            total = sum(w * math.copysign(math.sqrt(abs(d)), d) for w, d in zip(room, deltas))
            gains[group] = total / sum(room) if sum(room) else math.nan
        if math.isnan(gains[group]):
            print(
                f"TI is undefined: base score {0 if version == 'v1' else 100} in group '{group}'",
                file=sys.stderr,
            )
    if "math" not in gains:
        raise ValueError("no group 'math' to compare with")
    if gains["math"] <= 0:
        print("TI is undefined: no gain in maths", file=sys.stderr)
    return {
        group: 100 * gain / gains["math"] if gains["math"] > 0 else math.nan
        for group, gain in gains.items()
        if group != "math"
    }


def pooled_sigma(tables):
    """{group: standard deviation} of all scores of all models; tables are {group: {benchmark: score}}, one per model."""
    found = {}
    for table in tables:
        for group, scores in table.items():
            found.setdefault(group, []).extend(scores.values())
    return {group: statistics.pstdev(scores) or 1 for group, scores in found.items()}


# ---- A run ------------------------------------------------------------------------------------------------------


def metrics(rows, k=(1,), best_by="logp"):
    """Completion rows -> {"all": summary, "groups": {group: summary with "tasks", "questions"}}.

    questions: {id: (share of samples right, mean thinking tokens or None)}. Raises BadInput that names lines for a sample
    that is there twice, a question with two answers, rows of two formats and rows that cannot be graded.
    """
    questions, seen, first = {}, {}, {}
    for line, row in enumerate(rows, 1):
        name = (str(row["id"]), str(row.get("sample", 0)))
        if name in seen:
            raise BadInput(
                f"lines {seen[name]} and {line} are both sample {name[1]} of question '{name[0]}'"
            )
        seen[name] = line
        gold = row.get("answer"), row.get("target"), row.get("instruction_id_list")
        if first.setdefault(name[0], (line, gold))[1] != gold:
            raise BadInput(
                f"lines {first[name[0]][0]} and {line} have different answers to question '{name[0]}'"
            )
        if ("response" in row) != ("response" in rows[0]):
            raise BadInput(
                f"one of lines 1 and {line} has a response and the other has not: two formats in one file"
            )
        try:
            answer = answer_of(row)
            sample = {
                "row": row,
                "answer": answer,
                "right": grade(row, answer),
                "score": _score(row.get(best_by)),
            }
            if gold[2] is not None:
                sample |= {
                    "strict": follows(row, answer or ""),
                    "loose": follows(row, answer or "", loose=True),
                }
            elif sample["right"] is not None and isinstance(row.get("references"), list):
                sample["overlap"] = overlap(answer, row["references"])
        # BadInput is a ValueError
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise BadInput(f"line {line}: cannot be graded ({error})") from error
        questions.setdefault(name[0], []).append(sample)
    groups = {}
    for name, samples in questions.items():
        row = samples[0]["row"]
        for sample, number in zip(samples, classes(row, [sample["answer"] for sample in samples])):
            sample["class"] = number
        group = str(row.get("group") or "all")
        task = str(row.get("task") or row.get("subject") or group)
        groups.setdefault(group, {}).setdefault(task, {})[name] = samples
    return {
        "all": _summary(questions, k),
        "groups": {
            group: _summary(
                {name: samples for inside in tasks.values() for name, samples in inside.items()},
                k,
                with_questions=True,
            )
            | {"tasks": {task: _summary(inside, k) for task, inside in tasks.items()}}
            for group, tasks in groups.items()
        },
    }


def _score(value):
    if isinstance(value, list):
        value = (
            statistics.fmean(value)
            if value and all(isinstance(x, (int, float)) for x in value)
            else None
        )
    return value if isinstance(value, (int, float)) and not math.isnan(value) else None


def _mean(values, scale=1):
    values = list(values)
    return scale * statistics.fmean(values) if values else None


def _summary(questions, k, with_questions=False):
    """Numbers of some questions, {id: [graded samples]}. Shares and accuracies in percent; None: nothing to count.

    total_tokens and sequential_tokens are per question: the sum over its samples and the longest of them, which is what
    they cost one after the other and side by side; tokens@k are the same two for the first k.
    """
    kept = {name: samples for name, samples in questions.items() if samples[0]["right"] is not None}
    right = {name: statistics.fmean(s["right"] for s in samples) for name, samples in kept.items()}
    flat = [sample for samples in kept.values() for sample in samples]
    mean, low, high = mean_interval(list(right.values()), len(flat))
    summary = {
        "n_questions": len(kept),
        "n_samples": len(flat),
        "skipped": len(questions) - len(kept),
        "accuracy": 100 * mean if kept else None,
        "low": 100 * low,
        "high": 100 * high,
    }
    lengths = [[s["row"].get("n_tokens") for s in samples] for samples in kept.values()]
    counted = bool(lengths) and not any(None in of_question for of_question in lengths)
    for size in sorted(k):
        if not kept or not 1 <= size <= min(map(len, kept.values())):
            continue
        heads = [samples[:size] for samples in kept.values()]
        votes = [
            majority([s for s in head if s["answer"] is not None], key=lambda s: s["class"])
            for head in heads
        ]
        summary[f"maj@{size}"] = _mean((bool(vote and vote["right"]) for vote in votes), 100)
        summary[f"pass@{size}"] = _mean(
            (
                pass_at_k(len(samples), sum(s["right"] for s in samples), size)
                for samples in kept.values()
            ),
            100,
        )
        summary[f"avg@{size}"] = _mean(
            (statistics.fmean(s["right"] for s in head) for head in heads), 100
        )
        if all(s["score"] is not None for s in flat):
            summary[f"bon@{size}"] = _mean(
                (max(head, key=lambda s: s["score"])["right"] for head in heads), 100
            )
        if counted:
            summary[f"tokens@{size}"] = [
                _mean(measure(of[:size]) for of in lengths) for measure in (sum, max)
            ]
    for name in ("n_thinking_tokens", "n_tokens"):
        summary[name] = _mean(s["row"][name] for s in flat if s["row"].get(name) is not None)
    summary["stopped_tokens"] = _mean(
        s["row"]["n_tokens"]
        for s in flat
        if s["row"].get("finish") == "stop" and s["row"].get("n_tokens") is not None
    )
    summary["total_tokens"], summary["sequential_tokens"] = (
        _mean(map(measure, lengths)) if counted else None for measure in (sum, max)
    )
    for name, test in (
        ("truncated", lambda s: s["row"].get("finish") == "length"),
        ("forced", lambda s: bool(s["row"].get("forced"))),
        ("no_answer", lambda s: s["answer"] is None),
    ):
        summary[name] = _mean(map(test, flat), 100)
    checked = [s for s in flat if "strict" in s]
    if checked:  # IFEval's four numbers
        summary["ifeval"] = {
            f"{level}_{way}": _mean(
                (x for s in checked for x in ([all(s[way])] if level == "prompt" else s[way])), 100
            )
            for level in ("prompt", "instruction")
            for way in ("strict", "loose")
        }
    if shared := [s["overlap"] for s in flat if "overlap" in s]:
        summary["overlap"] = {
            name: _mean(column, 100) for name, column in zip(("exact", "f1"), zip(*shared))
        }
    if with_questions:
        thinking = {
            name: [x["row"].get("n_thinking_tokens") for x in samples]
            for name, samples in kept.items()
        }
        summary["questions"] = {
            name: (
                right[name],
                None if None in thinking[name] else statistics.fmean(thinking[name]),
            )
            for name in kept
        }
    return summary


def load(path, k=(), best_by="logp"):
    """Metrics of a completion file, with the "settings" of the run if RUN.config.json stands beside it."""
    try:
        rows = read_rows(path, need=("id",))
    except BadInput as error:
        cut = Path(path).is_file() and Path(path).read_bytes()[-1:] not in (b"\n", b"")
        raise BadInput(
            f"{error}{cut * '; the file ends within a line: the run was cut, start it again'}"
        ) from error
    counts = Counter(str(row["id"]) for row in rows)
    fewest, most = min(counts.values()), max(counts.values())
    if too_large := [size for size in k if not 1 <= size <= fewest]:
        raise BadInput(
            f"{path}: --k {too_large[0]} with {fewest} samples of question '{min(counts, key=counts.get)}'"
        )
    if fewest < most:
        print(
            f"{path}: {fewest} to {most} samples per question, as if the run had been cut",
            file=sys.stderr,
        )
    failures = sum(symbolic.FAILURES.values())
    try:
        result = metrics(rows, k or (1, 4, 8), best_by)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if lost := sum(symbolic.FAILURES.values()) - failures:
        print(
            f"{path}: {lost} symbolic comparisons gave no result ({dict(symbolic.FAILURES)}), counted as not the same",
            file=sys.stderr,
        )
    if skipped := result["all"]["skipped"]:
        print(
            f"{path}: {skipped} questions without an answer that can be compared with: skipped",
            file=sys.stderr,
        )
    header = runlog.header_of(path)
    try:
        settings = json.loads(header.read_text(encoding="utf-8")) if header.exists() else {}
    except ValueError as error:
        raise BadInput(f"{header}: not JSON ({error})") from error
    return result | {"settings": settings, "undecided": lost}


def runs_of(paths):
    """The completion files that are named, and those in the folders that are named; other .jsonl files there are not."""
    for path in paths:
        files = sorted(Path(path).glob("*.jsonl")) if Path(path).is_dir() else []
        found = [
            str(file)
            for file in files
            if b'"response"' in (head := file.open("rb").readline()) or b'"text"' in head
        ]
        if Path(path).is_dir() and not found:
            raise BadInput(f"{path}: no completions in this directory")
        yield from found or [path]


def tasks_of(result):
    """{group: {task: percent}} of a run: accuracy, or the share of followed instructions (UniReason, §A.3.4), or the exact
    match of CoQA, the one of lm-eval's two measures that UniReason's low numbers fit."""
    return {
        group: {
            task: s["ifeval"]["instruction_strict"]
            if "ifeval" in s
            else s.get("overlap", {}).get("exact", s["accuracy"])
            for task, s in summary["tasks"].items()
            if s["n_questions"]
        }
        for group, summary in result["groups"].items()
        if summary["n_questions"]
    }


def compare(tuned, base, cfg, sigma=None):
    """{"all" or group: paired difference to the base run in points} and, if there is a group "math", the TI."""
    result, pairs = {"difference": {}}, {"all": []}
    for group in tuned["groups"]:
        ours, theirs = (
            side["groups"].get(group, {}).get("questions", {}) for side in (tuned, base)
        )
        pairs[group] = [(ours[name][0], theirs[name][0]) for name in ours if name in theirs]
        pairs["all"] = pairs["all"] + (pairs[group] if group != "all" else [])
    if not any(pairs.values()):
        raise BadInput(
            f"{cfg.base}: no question in common with a run that is to be compared with it"
        )
    for group, both in pairs.items():
        if both:
            interval = paired_bootstrap(*zip(*both), cfg.resamples, cfg.seed)
            result["difference"][group] = [*(100 * x for x in interval), len(both)]
    if "math" in base["groups"] and len(base["groups"]) > 1:
        result["transferability"] = index_of(
            tasks_of(base), tasks_of(tuned), cfg.base, cfg.ti, sigma
        )
    return result


def index_of(base, tuned, name, version, sigma):
    """transferability, with None where it is undefined. Raises BadInput where benchmarks differ."""
    try:
        index = transferability(base, tuned, version, sigma)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error
    return {group: None if math.isnan(ti) else ti for group, ti in index.items()}


def study(runs):
    """Control, scaling and performance of each model that has two runs or more, over the questions they share.

    A run is one point: mean thinking tokens, accuracy and its interval. Control counts the runs that were given a budget.
    """
    result, by_model = {}, {}
    for r in runs:
        by_model.setdefault(str(r["settings"].get("model", "")), []).append(r)
    for model, series in by_model.items():
        counted = [
            {
                name: pair
                for group in r["groups"].values()
                for name, pair in group["questions"].items()
                if pair[1] is not None
            }
            for r in series
        ]
        shared = set.intersection(*map(set, counted))
        if len(series) < 2 or not shared:
            continue
        points = [
            (
                statistics.fmean(c[name][1] for name in shared),
                *(100 * x for x in mean_interval([c[name][0] for name in shared])),
            )
            for c in counted
        ]
        # -1: "auto"
        limits = [b if (b := r["settings"].get("thinking_budget")) != -1 else None for r in series]
        limited = [(point[0], limit) for point, limit in zip(points, limits) if limit is not None]
        slope = scaling([point[:2] for point in points])
        result[model] = {
            "n_runs": len(series),
            "n_questions": len(shared),
            "n_limited": len(limited),
            "control": control(*zip(*limited)) if limited else None,
            "scaling": None if math.isnan(slope) else slope,
            "performance": performance([point[:2] for point in points]),
            "points": sorted(points),
        }
    return result


def draw(path, studies):
    """PNG of accuracy (95% intervals) against mean thinking tokens, a curve for each model; s1, Fig. 1."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).add_subplot()
    for model, numbers in studies.items():
        tokens, accuracy, low, high = zip(*numbers["points"])
        slope = (
            ""
            if numbers["scaling"] is None
            else f" ({numbers['scaling']:+.1f} points per doubling)"
        )
        bars = [
            [max(0, a - b) for a, b in zip(accuracy, low)],
            [max(0, b - a) for a, b in zip(accuracy, high)],
        ]
        axes.errorbar(
            tokens,
            accuracy,
            bars,
            fmt="o-",
            capsize=3,
            label=(Path(model).name or "these runs") + slope,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:g}")
    axes.set(xlabel="thinking tokens (mean)", ylabel="accuracy (%)")
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def table(head, lines, markdown=False):
    """The lines of a table, numbers to the right; a cell is a string, a number or None."""
    rows = [
        head,
        *(
            [
                cell
                if isinstance(cell, str)
                else "-"
                if cell is None
                else f"{cell:.1f}"
                if isinstance(cell, float)
                else str(cell)
                for cell in line
            ]
            for line in lines
        ),
    ]
    width = [max(map(len, column)) for column in zip(*rows)]
    text = [any(isinstance(line[i], str) for line in lines) for i in range(len(head))]
    for number, row in enumerate(rows):
        cells = [
            f"{cell:<{w}}" if left else f"{cell:>{w}}" for cell, w, left in zip(row, width, text)
        ]
        yield "| " + " | ".join(cells) + " |" if markdown else "  ".join(cells)
        if markdown and not number:
            yield (
                "|"
                + "|".join("-" * (w + 1) + ("-" if left else ":") for w, left in zip(width, text))
                + "|"
            )


def table_of_runs(results, markdown=False):
    """One line per run and group, and one for all where there are several groups."""
    folder = len(commonpath(map(dirname, results)) + "/") if all(map(dirname, results)) else 0
    lines = [
        (path[folder:].removesuffix(".jsonl"), group, summary)
        for path, result in results.items()
        for group, summary in (
            result["groups"] | ({"all": result["all"]} if len(result["groups"]) > 1 else {})
        ).items()
    ]
    several = any(summary["n_samples"] > summary["n_questions"] for *_, summary in lines)
    votes = list(
        dict.fromkeys(
            name
            for *_, summary in lines
            for name in summary
            if "@" in name and not name.endswith("@1") and not name.startswith("tokens")
        )
    )
    columns = [
        "n_questions",
        "n_samples",
        "accuracy",
        "low",
        "high",
        *votes,
        "n_thinking_tokens",
        "n_tokens",
        "stopped_tokens",
        *(["total_tokens", "sequential_tokens"] if several else []),
        "truncated",
        "forced",
        "no_answer",
        "skipped",
    ]
    heads = {
        "n_questions": "n",
        "n_samples": "samples",
        "n_thinking_tokens": "thinking",
        "n_tokens": "tokens",
    }
    return table(
        ["run", "group", *(heads.get(c, c.removesuffix("_tokens")) for c in columns)],
        [
            [path, group, *(summary.get(column) for column in columns)]
            for path, group, summary in lines
        ],
        markdown,
    )


def scores_report(cfg):
    """Group averages and both indices of each model of a table of scores -> {model: {"average", "v1", "v2"}}."""
    models, seen = {}, {}
    for line, row in enumerate(
        read_rows(cfg.scores, need=("model", "group", "benchmark", "score")), 1
    ):
        key = (str(row["model"]), str(row["group"]), str(row["benchmark"]))
        if not isinstance(row["score"], (int, float)) or key in seen:
            raise BadInput(
                f"{cfg.scores}:{line}: "
                + (
                    f"{' '.join(key)} is on line {seen[key]} too"
                    if key in seen
                    else f"score {row['score']!r} is not a number"
                )
            )
        seen[key] = line
        models.setdefault(key[0], {}).setdefault(key[1], {})[key[2]] = row["score"]
    if cfg.base is not None and cfg.base not in models:
        raise BadInput(
            f"--base {cfg.base}: not among the models of {cfg.scores}: {', '.join(models)}"
        )
    base = cfg.base or next(iter(models))
    sigma = pooled_sigma(models.values()) if cfg.sigma == "pooled" else None
    result = {
        name: {"average": {group: statistics.fmean(x.values()) for group, x in scores.items()}}
        | {
            version: index_of(models[base], scores, f"{cfg.scores}: {name}", version, sigma)
            for version in ("v1", "v2")
            if name != base
        }
        for name, scores in models.items()
    }
    if cfg.out:
        write_rows(cfg.out, [result])
    if cfg.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return result
    groups = list(models[base])
    indices = [(version, group) for version in ("v1", "v2") for group in groups if group != "math"]
    print(
        *table(
            ["model", *groups, *(f"TI {version} {group}" for version, group in indices)],
            [
                [
                    name,
                    *(float(numbers["average"][group]) for group in groups),
                    *(numbers.get(version, {}).get(group) for version, group in indices),
                ]
                for name, numbers in result.items()
            ],
            cfg.markdown,
        ),
        sep="\n",
    )
    return result


def main(cfg):
    if cfg.scores:
        return scores_report(cfg)
    if not cfg.runs:
        raise BadInput("no completions given: evaluate.py RUN.jsonl [RUN.jsonl ...]")
    results = {path: load(path, cfg.k, cfg.best_by) for path in runs_of(cfg.runs)}
    base = results.get(cfg.base) or (load(cfg.base, cfg.k, cfg.best_by) if cfg.base else None)
    shown = results | ({cfg.base: base} if base else {})
    sigma = pooled_sigma(map(tasks_of, shown.values())) if cfg.sigma == "pooled" else None
    for path in results.keys() - {cfg.base} if base else ():
        results[path]["compared"] = compare(results[path], base, cfg, sigma)
    report = {"config": asdict(cfg), "runs": shown, "study": study(list(results.values()))}
    if cfg.out:
        write_rows(cfg.out, [report])
    if cfg.figure:
        if not report["study"]:
            raise BadInput(
                f"--figure {cfg.figure}: no model has two runs with thinking tokens over the same questions"
            )
        draw(cfg.figure, report["study"])
    if cfg.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return report
    print(*table_of_runs(shown, cfg.markdown), sep="\n")
    for path, result in results.items():
        compared = result.get("compared", {})
        differences = compared.get("difference", {})
        for group, (difference, low, high, n) in list(differences.items())[
            : 1 if len(differences) == 2 else None
        ]:
            print(
                f"{path} - {cfg.base}, {group}: {difference:+.1f} points [{low:+.1f}, {high:+.1f}], {n} questions"
                + (", not significant" if low <= 0 <= high else ", significant")
            )
        for group, ti in compared.get("transferability", {}).items():
            print(
                f"{path}, transferability to {group} ({cfg.ti}): {'undefined' if ti is None else f'{ti:.1f}'}"
            )
        if ifeval := result["all"].get("ifeval"):
            print(
                f"{path}, IFEval: "
                + ", ".join(
                    f"{name.replace('_', ' ')} {value:.1f}" for name, value in ifeval.items()
                )
            )
        if shared := result["all"].get("overlap"):
            print(
                f"{path}, words shared with the references: exact {shared['exact']:.1f}, F1 {shared['f1']:.1f}"
            )
    for model, numbers in report["study"].items():
        print(
            f"{model or 'these runs'}: "
            + ", ".join(
                f"{name} {'-' if value is None else f'{value:.4g}'}"
                for name, value in numbers.items()
                if name != "points"
            )
        )
    return report


if __name__ == "__main__":
    settings.cli(main, Config)
