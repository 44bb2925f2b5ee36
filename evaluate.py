"""What is a right answer, and how sure are we? Completions in, metrics with intervals out.

    pass@k    1 - C(n-c, k) / C(n, k), mean over questions             Chen et al. 2021, eq. 1 (c of n samples right)
    maj@k     is the most frequent answer of the first k right?        s1, §5.2 (equivalent answers count as one)
    interval  Wilson for right/wrong questions, else mean ± 1.96 s/√N over the N questions: samples of one question
              are not independent, questions are
    control, scaling, performance of several runs                      s1 (arXiv 2501.19393), §3.2
    TI        100 · gain in a group / gain in maths                    UniReason (arXiv 2507.00432), §2.1

Departs from the papers in: 1. Answers are graded by rules alone; s1 and LIMO ask a language model where rules fail.
2. Of several `Answer:` lines the last one counts; s1's regular expression takes everything from the first one on.
3. An answer that cannot be found is wrong; s1 guesses A in multiple choice. 4. No ×100 tolerance, unlike LIMO.
How an answer is found in a text and when two are equal stands in data/answers.py.

One run:     python evaluate.py out/tiny/seed0/runs/sft-s1.jsonl --base out/tiny/seed0/runs/base.jsonl
A study:     python evaluate.py out/wait0.jsonl out/wait1.jsonl out/wait2.jsonl --base out/base.jsonl --k 1 8 64

Reads completion rows (data/rows.py) and, where present, the settings beside them (RUN.config.json). A row is graded
against `answer`, or against `nums` and `target` if it has them. Prints one line per run and group (row field `group`);
--out saves everything, per task and per question too.
"""
import json
import math
import random
import statistics
import sys
from dataclasses import asdict, dataclass, field
from os.path import commonpath, dirname
from typing import Literal

from data import run
from data.answers import answer_of, canonical, check_expression, extract_answer, grade, is_correct  # noqa: F401
from data.rows import BadInput, read_rows, write_rows


@dataclass(frozen=True)
class Config:
    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})  # completion files, one per run
    base: str | None = None              # run to compare the others with: paired difference and transferability
    k: tuple[int, ...] = (1, 4, 8)       # for pass@k and maj@k; a k above the number of samples is left out
    ti: Literal["v1", "v2"] = "v2"       # transferability: v1 mean relative gain, v2 signed square root with headroom
    resamples: int = 10_000              # of the paired bootstrap; s1: 10,000
    seed: int = 0                        # of the bootstrap
    json: bool = False                   # print JSON instead of the table
    out: str | None = None               # file to save the metrics in


# ---- How sure are we? -------------------------------------------------------------------------------------------

def pass_at_k(n, c, k):
    """Probability that k samples, drawn without replacement from n of which c are right, hold a right one."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers, key=lambda answer: answer):
    """The first answer of the largest class (ties: the class seen first). None votes for nothing."""
    classes = {}
    for answer in answers:
        if answer is not None:
            classes.setdefault(key(answer), []).append(answer)
    return max(classes.values(), key=len)[0] if classes else None          # max keeps the first of equals


def wilson(successes, n, z=1.959964):
    """95% interval (low, high) of a share; unlike ± z·s it does not collapse at 0 and 1."""
    if not n:
        return 0.0, 1.0
    p, scale = successes / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (p + z * z / (2 * n) - half) / scale), min(1.0, (p + z * z / (2 * n) + half) / scale)


def mean_interval(values):
    """(mean, low, high) over questions; values are shares in 0..1, one per question (its mean over samples).

    If all are 0 or 1 (one sample each, or all samples agree) Wilson, else normal with the standard deviation between
    questions, which holds what varies between the samples of a question too.
    """
    n, mean = len(values), statistics.fmean(values) if values else math.nan
    if n < 2 or set(values) <= {0, 1} or len(set(values)) == 1:
        return mean, *wilson(sum(values), n)
    half = 1.959964 * statistics.stdev(values) / math.sqrt(n)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    """(difference, low, high) of mean(a) - mean(b), 95%; a[i], b[i] belong to one question (s1 §5.1)."""
    if len(a) != len(b) or not a:
        raise ValueError(f"paired values needed, not {len(a)} and {len(b)}")
    rng, n, differences = random.Random(seed), len(a), [x - y for x, y in zip(a, b)]
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))
    return sum(differences) / n, means[int(0.025 * n_resamples)], means[math.ceil(0.975 * n_resamples) - 1]


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
    placed = [(math.log2(tokens) if x == "log2" else tokens, accuracy) for tokens, accuracy in points if tokens > 0]
    slopes = [(f1 - f0) / (x1 - x0) for i, (x0, f0) in enumerate(placed) for x1, f1 in placed[i + 1:] if x0 != x1]
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
            gains[group] = statistics.fmean((after - old) / old if old else math.nan for old, after in pairs)
        else:
            deltas = [(after - before) / (sigma or {}).get(group, 1) for before, after in pairs]
            room = [100 - before for before, _ in pairs]
            total = sum(w * math.copysign(math.sqrt(abs(d)), d) for w, d in zip(room, deltas))
            gains[group] = total / sum(room) if sum(room) else math.nan
        if math.isnan(gains[group]):
            print(f"TI is undefined: base score {0 if version == 'v1' else 100} in group '{group}'", file=sys.stderr)
    if "math" not in gains:
        raise ValueError("no group 'math' to compare with")
    if gains["math"] <= 0:
        print("TI is undefined: no gain in maths", file=sys.stderr)
    return {group: 100 * gain / gains["math"] if gains["math"] > 0 else math.nan
            for group, gain in gains.items() if group != "math"}


# ---- A run ------------------------------------------------------------------------------------------------------

def metrics(rows, k=(1,)):
    """Completion rows -> {"all": summary, "groups": {group: summary with "tasks", "questions"}}.

    questions: {id: (share of samples right, mean thinking tokens or None)}.
    """
    questions, seen = {}, {}
    for line, row in enumerate(rows, 1):
        name = (str(row["id"]), row.get("sample", 0))
        if name in seen:
            raise BadInput(f"lines {seen[name]} and {line} are both sample {name[1]} of question '{name[0]}'")
        seen[name] = line
        answer = answer_of(row)
        questions.setdefault(name[0], []).append({"row": row, "answer": answer, "right": grade(row, answer)})
    groups = {}
    for name, samples in questions.items():
        row = samples[0]["row"]
        group = str(row.get("group") or "all")
        task = str(row.get("task") or row.get("subject") or group)
        groups.setdefault(group, {}).setdefault(task, {})[name] = samples
    return {"all": _summary(questions, k), "groups": {group: _summary(
        {name: samples for inside in tasks.values() for name, samples in inside.items()}, k, with_questions=True)
        | {"tasks": {task: _summary(inside, k) for task, inside in tasks.items()}} for group, tasks in groups.items()}}


def _summary(questions, k, with_questions=False):
    """Numbers of some questions, {id: [graded samples]}. Shares and accuracies in percent; None: nothing to count."""
    kept = {name: samples for name, samples in questions.items() if samples[0]["right"] is not None}
    right = {name: statistics.fmean(s["right"] for s in samples) for name, samples in kept.items()}
    flat = [sample for samples in kept.values() for sample in samples]
    mean, low, high = mean_interval(list(right.values()))
    summary = {"n_questions": len(kept), "n_samples": len(flat), "skipped": len(questions) - len(kept),
               "accuracy": 100 * mean if kept else None, "low": 100 * low, "high": 100 * high}
    for size in sorted(k):
        if not kept or not 1 <= size <= min(map(len, kept.values())):
            continue
        votes = [majority([s for s in samples[:size] if s["answer"] is not None],
                          key=lambda s: canonical(s["row"], s["answer"])) for samples in kept.values()]
        summary[f"maj@{size}"] = 100 * statistics.fmean(bool(vote and vote["right"]) for vote in votes)
        summary[f"pass@{size}"] = 100 * statistics.fmean(
            pass_at_k(len(samples), sum(s["right"] for s in samples), size) for samples in kept.values())
    for name in ("n_thinking_tokens", "n_tokens"):
        counts = [s["row"][name] for s in flat if s["row"].get(name) is not None]
        summary[name] = statistics.fmean(counts) if counts else None
    for name, test in (("truncated", lambda s: s["row"].get("finish") == "length"),
                       ("forced", lambda s: bool(s["row"].get("forced"))),
                       ("no_answer", lambda s: s["answer"] is None)):
        summary[name] = 100 * statistics.fmean(map(test, flat)) if flat else None
    if with_questions:
        lengths = {name: [x["row"].get("n_thinking_tokens") for x in samples] for name, samples in kept.items()}
        summary["questions"] = {name: (right[name], None if None in lengths[name] else statistics.fmean(lengths[name]))
                                for name in kept}
    return summary


def load(path, k):
    """Metrics of a completion file, with the "settings" of the run if RUN.config.json stands beside it."""
    rows = read_rows(path, need=("id",))
    try:
        result = metrics(rows, k)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    header = run.header_of(path)
    try:
        settings = json.loads(header.read_text(encoding="utf-8")) if header.exists() else {}
    except ValueError as error:
        raise BadInput(f"{header}: not JSON ({error})") from error
    return result | {"settings": settings}


def compare(tuned, base, cfg):
    """{"all" or group: paired difference to the base run in points} and, if there is a group "math", the TI."""
    result, pairs = {"difference": {}}, {"all": []}
    for group in tuned["groups"]:
        ours, theirs = (side["groups"].get(group, {}).get("questions", {}) for side in (tuned, base))
        pairs[group] = [(ours[name][0], theirs[name][0]) for name in ours if name in theirs]
        pairs["all"] = pairs["all"] + (pairs[group] if group != "all" else [])
    if not any(pairs.values()):
        raise BadInput(f"{cfg.base}: no question in common with a run that is to be compared with it")
    for group, both in pairs.items():
        if both:
            interval = paired_bootstrap(*zip(*both), cfg.resamples, cfg.seed)
            result["difference"][group] = [*(100 * x for x in interval), len(both)]
    if "math" in base["groups"] and len(base["groups"]) > 1:
        scores = [{group: {task: s["accuracy"] for task, s in summary["tasks"].items() if s["n_questions"]}
                   for group, summary in side["groups"].items()} for side in (base, tuned)]
        try:
            index = transferability(*scores, version=cfg.ti)
        except ValueError as error:
            raise BadInput(f"{cfg.base}: {error}") from error
        result["transferability"] = {group: None if math.isnan(ti) else ti for group, ti in index.items()}
    return result


def study(runs):
    """Control, scaling and performance of each model that has two runs or more, over the questions they share.

    A run is one point: mean thinking tokens and accuracy. Control counts the runs that were given a budget.
    """
    result, by_model = {}, {}
    for r in runs:
        by_model.setdefault(str(r["settings"].get("model", "")), []).append(r)
    for model, series in by_model.items():
        counted = [{name: pair for group in r["groups"].values() for name, pair in group["questions"].items()
                    if pair[1] is not None} for r in series]
        shared = set.intersection(*map(set, counted))
        if len(series) < 2 or not shared:
            continue
        points = [(statistics.fmean(c[name][1] for name in shared), 100 * statistics.fmean(c[name][0] for name in shared))
                  for c in counted]
        limits = [b if (b := r["settings"].get("thinking_budget")) != -1 else None for r in series]   # -1: "auto"
        limited = [(tokens, limit) for (tokens, _), limit in zip(points, limits) if limit is not None]
        slope = scaling(points)
        result[model] = {"n_runs": len(series), "n_questions": len(shared), "n_limited": len(limited),
                         "control": control(*zip(*limited)) if limited else None,
                         "scaling": None if math.isnan(slope) else slope, "performance": performance(points)}
    return result


def table(results):
    """Fixed-width lines: one per run and group, and one for all where there are several groups."""
    folder = len(commonpath(map(dirname, results)) + "/") if all(map(dirname, results)) else 0
    lines = [(path[folder:].removesuffix(".jsonl"), group, summary) for path, result in results.items()
             for group, summary in (result["groups"] | ({"all": result["all"]} if len(result["groups"]) > 1 else {})).items()]
    votes = list(dict.fromkeys(name for *_, summary in lines for name in summary if "@" in name and "@1" not in name))
    columns = ["n_questions", "n_samples", "accuracy", "low", "high", *votes, "n_thinking_tokens", "n_tokens",
               "truncated", "forced", "no_answer", "skipped"]
    heads = {"n_questions": "n", "n_samples": "samples", "n_thinking_tokens": "thinking", "n_tokens": "tokens"}
    width = max([3, *(len(path) for path, _, _ in lines)]), max([5, *(len(group) for _, group, _ in lines)])
    yield f"{'run':<{width[0]}}  {'group':<{width[1]}}" + "".join(f"{heads.get(c, c):>10}" for c in columns)
    for path, group, summary in lines:
        cells = (summary.get(column) for column in columns)
        yield f"{path:<{width[0]}}  {group:<{width[1]}}" + "".join(
            f"{'-' if cell is None else f'{cell:.1f}' if isinstance(cell, float) else cell:>10}" for cell in cells)


def main(cfg):
    if not cfg.runs:
        raise BadInput("no completions given: evaluate.py RUN.jsonl [RUN.jsonl ...]")
    results = {path: load(path, cfg.k) for path in cfg.runs}
    if cfg.base:
        base = load(cfg.base, cfg.k)
        for path in results.keys() - {cfg.base}:
            results[path]["compared"] = compare(results[path], base, cfg)
    shown = results | ({cfg.base: base} if cfg.base else {})
    report = {"config": asdict(cfg), "runs": shown, "study": study(list(results.values()))}
    if cfg.out:
        write_rows(cfg.out, [report])
    if cfg.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return report
    print(*table(shown), sep="\n")
    for path, result in results.items():
        compared = result.get("compared", {})
        for group, (difference, low, high, n) in compared.get("difference", {}).items():
            print(f"{path} - {cfg.base}, {group}: {difference:+.1f} points [{low:+.1f}, {high:+.1f}], {n} questions"
                  + (", not significant" if low <= 0 <= high else ""))
        for group, ti in compared.get("transferability", {}).items():
            print(f"{path}, transferability to {group} ({cfg.ti}): {'undefined' if ti is None else f'{ti:.1f}'}")
    for model, numbers in report["study"].items():
        print(f"{model or 'these runs'}: " + ", ".join(f"{name} {'-' if value is None else f'{value:.4g}'}"
                                                       for name, value in numbers.items()))
    return report


if __name__ == "__main__":
    run.cli(main, Config)
