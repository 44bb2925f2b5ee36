"""What is a right answer, and how sure are we? Completions in, metrics with intervals out.

    pass@k    1 - C(n-c, k) / C(n, k), mean over questions; c of n samples are right
              (Chen et al. 2021, eq. 1)
    maj@k     is the most frequent answer of the first k samples right? (s1, §5.2)
    avg@k     share of the first k samples that are right
    bon@k     is the sample with the largest --best-by among the first k right?
    weighted@k  is the answer with the largest sum of --best-by right? (where these are shares)
    flexible  share of samples whose last number is right, where all answers are plain numbers
              (lm-evaluation-harness's "flexible-extract"); accuracy needs an answer that is marked
    interval  Wilson's, for as many independent questions as the spread between questions is worth:
              samples of one question are not independent, questions are
    control, scaling, performance of several runs (s1, 2501.19393, §3.2)
    adherence how well a length is kept that was asked for (L1, 2503.04697, §4): mean error in
              tokens and in percent, bias, share beyond it, rank correlation of asked and used
    TI        100 * gain in a group / gain in maths (UniReason, 2507.00432, §2.1)

Departs from the papers in:
1. Answers are graded by rules, then symbolically; s1 and LIMO ask a language model in such cases.
2. Of several `Answer:` lines the last one counts; s1 takes everything after the first one.
3. An answer that cannot be found is wrong; s1 guesses A in multiple choice. If more than 30% have
   none, a line says which instruction would help.
4. No tolerance of a factor 100, unlike LIMO.

One run:   python evaluate.py out/tiny/seed0/runs/sft-s1.jsonl --base out/tiny/seed0/runs/base.jsonl
A study:   python evaluate.py out/wait0.jsonl out/wait1.jsonl --base out/base.jsonl --figure c.png
A folder:  python evaluate.py out/runs --markdown
A table:   python evaluate.py --scores scores.jsonl --base Qwen3-14B-Base
           whose rows have the fields model, group, benchmark, score

Reads completion rows (engine/rows.py) and the settings beside them, if there are any
(RUN.config.json). grading/answers.py finds the answer in a text and decides whether it is right:
by the row's `answer`, `nums` and `target`, IFEval's `instruction_id_list` or CoQA's `references`.
Prints one line per run and group (row field `group`). --out saves everything as JSON, with each
task and each question.
Exit status: 0; 1 for input that cannot be used (one line names file and line); 2 for wrong flags.
"""

import functools
import json
import math
import random
import re
import statistics
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from os.path import commonpath, dirname
from pathlib import Path
from typing import Literal

from engine import runlog, settings
from engine.axes import name_doublings
from engine.format import asked_length
from engine.rows import BadInput, check_file_to_write, read_rows, write_rows
from grading import symbolic
from grading.answers import answer_classes, answer_of, grade, overlap
from grading.extraction import LONGEST_TEXT
from grading.ifeval import follows


@dataclass(frozen=True)
class Config:
    # completion files, one per run, or folders
    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})
    # run to compare the others with: paired difference and transferability
    base: str | None = None
    # for pass@k, maj@k, avg@k, bon@k, weighted@k; empty: 1, 4 and 8 if there are as many samples
    k: tuple[int, ...] = ()
    # row field that chooses the best of k samples; a list counts with its mean
    best_by: str = "logp"

    # transferability: v1 mean relative gain, v2 signed square root with headroom
    ti: Literal["v1", "v2"] = "v2"
    # scale of v2 per group: 1, or the spread of its scores over all that is given
    sigma: Literal["one", "pooled"] = "one"
    resamples: int = 10_000  # of the paired bootstrap; s1: 10,000

    # a table of scores in percent instead of runs; --base is then a model of it
    scores: str | None = None
    # file for the rows of all runs, as samples of one run; with --choose one row of each question
    rows: str | None = None
    # which: of the answer with most votes, or with the largest sum of --best-by, or of the best
    choose: Literal["all", "majority", "weighted", "best"] = "all"
    figure: str | None = None  # PNG: accuracy against thinking tokens, a curve for each model
    markdown: bool = False  # print the table as Markdown
    out: str | None = None  # file to save the metrics in, as JSON


# ---- Definitions: plain numbers in and out -----------------------------------------------------


def pass_at_k(n, c, k):
    """Probability that k of n samples, drawn without replacement, hold one of the c right ones.

    Chen et al. 2021 (2107.03374), eq. 1. Raises ValueError outside of 0 <= c <= n, 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers, key=lambda answer: answer, weights=None):
    """The first answer of the class with most votes, or with the largest sum of weights.

    key: answer -> its class. Ties go to the class seen first. None votes for nothing.
    """
    votes, first = {}, {}
    for answer, weight in zip(answers, weights or [1] * len(answers)):
        if answer is not None:
            first.setdefault(key(answer), answer)
            votes[key(answer)] = votes.get(key(answer), 0) + weight
    return first[max(votes, key=votes.get)] if votes else None  # max keeps the first of equals


def wilson(successes, n, z=1.959964):
    """95% interval (low, high) of a share; unlike p ± z s it does not collapse at 0 and 1."""
    if not n:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = p + z * z / (2 * n)
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(values, n_samples=None):
    """(mean, low, high) over questions, 95%; values are shares in 0..1, one per question.

    The values of N questions have the mean p and the variance V = sum (value - p)^2 / (N - 1). The
    mean then has the variance V / N, which that of n independent samples, p (1 - p) / n, equals for

        n = N p (1 - p) / V,    at most n_samples, their number over all questions (default N).

    The interval is Wilson's for these n, with Student's t of N - 1 degrees of freedom in the place
    of z, because V is an estimate. So it stays within 0..1 and does not collapse there.
    If all samples of each question agree, every value is 0 or 1, the variance follows from the
    mean, and the interval is Wilson's with z for N samples. So it is for a single question, which
    says nothing about the spread between questions.

    1 / N and z, which stood here before, make the interval too narrow for few questions: of
    made-up studies of 30 questions with 16 samples 91 to 95% held the truth, now 93 to 96%.
    """
    n = len(values)
    if not n:
        return math.nan, 0.0, 1.0
    mean = statistics.fmean(values)
    if n == 1 or all(value in (0, 1) for value in values):
        return mean, *wilson(mean * n, n)
    effective = n_samples or n
    variance = statistics.variance(values)
    if variance > 1e-12:
        effective = min(effective, n * mean * (1 - mean) / variance)
    return mean, *wilson(mean * effective, effective, t_quantile(n - 1))


@functools.cache
def t_quantile(df):
    """The t that Student's distribution exceeds in absolute value in 5% of cases.

    df: degrees of freedom, whole. From the finite sum for P(|T| < t) of Abramowitz and Stegun,
    26.7.3 and 26.7.4, by bisection; above 1,000 from the first terms of 26.7.5.
    """
    if df > 1000:
        z = 1.959964
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if probability_within(middle, df) < 0.95:
            low = middle
        else:
            high = middle
    return high


def probability_within(t, df):
    """P(|T| < t), Student's distribution. Abramowitz and Stegun, 26.7.3 (odd df), 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = df % 2
    # 1 + 1/2 cos^2 + 1·3/(2·4) cos^4 + ..., or cos + 2/3 cos^3 + 2·4/(3·5) cos^5 + ...
    term = cosine if is_odd else 1.0
    total = 0.0
    for power in range(is_odd, df - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    """(difference, low, high) of mean(a) - mean(b), 95%. s1, §5.1.

    a[i] and b[i] belong to one question.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"paired values needed, not {len(a)} and {len(b)}")
    rng, n = random.Random(seed), len(a)
    differences = [x - y for x, y in zip(a, b)]
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))
    low = means[int(0.025 * n_resamples)]
    high = means[math.ceil(0.975 * n_resamples) - 1]
    return sum(differences) / n, low, high


def control(points, limits):
    """Percent of runs whose tokens stay within their limit. s1, §3.2, eq. 1.

    A point is tokens or (tokens, accuracy). A limit is the largest number of tokens, or (smallest,
    largest).
    """
    tokens = [point[0] if isinstance(point, tuple) else point for point in points]
    bounds = [limit if isinstance(limit, tuple) else (0, limit) for limit in limits]
    if len(tokens) != len(bounds) or not tokens:
        raise ValueError(f"one limit per run needed, not {len(bounds)} for {len(tokens)}")
    within = [low <= x <= high for x, (low, high) in zip(tokens, bounds)]
    return 100 * statistics.fmean(within)


def scaling(points, x="log2"):
    """Mean slope over all pairs of points (tokens, accuracy in percent). s1, §3.2, eq. 2.

    In points per doubling of tokens, or per token with x="linear": the paper names no unit, log2
    reproduces its Table 3. Pairs of equal tokens are left out; NaN if there is no other pair.
    """
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


def ranks(values):
    """Ranks from 1, the mean rank for equal values: [7, 3, 7] -> [2.5, 1, 2.5]."""
    order = sorted(values)
    first, count = {}, Counter(order)
    for place, value in enumerate(order, 1):
        first.setdefault(value, place)
    return [first[value] + (count[value] - 1) / 2 for value in values]


def rank_correlation(xs, ys):
    """Spearman's: Pearson's correlation of the ranks; None where one side is constant."""
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return statistics.correlation(ranks(xs), ranks(ys))


def adherence(pairs):
    """[(tokens asked for, tokens used)] -> {"n", "error", "relative", "bias", "over", "rank"}.

    error: mean |used - asked| in tokens. In percent of what was asked: relative, the mean of
    |used - asked|; bias, the mean of used - asked, which is L1's error (2503.04697, §4); over, the
    share of completions longer than asked. rank: rank correlation, None for a single length.
    """
    asked, used = zip(*pairs)
    return {
        "n": len(pairs),
        "error": statistics.fmean(abs(u - a) for a, u in pairs),
        "relative": 100 * statistics.fmean(abs(u - a) / a for a, u in pairs),
        "bias": 100 * statistics.fmean((u - a) / a for a, u in pairs),
        "over": 100 * statistics.fmean(u > a for a, u in pairs),
        "rank": rank_correlation(asked, used),
    }


def performance(points):
    """The best accuracy of any run. s1, §3.2, eq. 3."""
    return max(accuracy for _, accuracy in points)


def relative_gain(pairs):
    """Mean of (tuned - base) / base over a group's (base, tuned) scores; NaN if a base is 0."""
    return statistics.fmean((after - old) / old if old else math.nan for old, after in pairs)


def headroom_gain(pairs, sigma=1):
    """Σ w sign(d) √|d| over a group's (base, tuned) scores, d = (tuned - base) / sigma.

    The weights w are the headroom 100 - base, scaled to a sum of 1. NaN if all base scores are 100.
    """
    deltas = [(after - before) / sigma for before, after in pairs]
    headroom = [100 - before for before, _ in pairs]
    total = sum(w * math.copysign(math.sqrt(abs(d)), d) for w, d in zip(headroom, deltas))
    return total / sum(headroom) if sum(headroom) else math.nan


def transferability(base, tuned, version="v2", sigma=None):
    """{group: TI in percent}, TI = 100 * gain of the group / gain in maths. UniReason, §2.1.

    base and tuned: {group: {benchmark: score in percent}}; the result has every group but "math".
    version: "v1" is the paper's of July 2025 (`relative_gain`), "v2" of October 2025
    (`headroom_gain`).
    sigma: {group: constant} of v2. The paper prints "standard deviation over the group's
    benchmarks", but its numbers need one sigma for all audited models. None is 1, which changes
    TI by a constant factor per group.
    NaN where the index is undefined; the reason is printed to stderr. Raises ValueError if the
    groups or benchmarks of the two differ.
    """
    gains = {}
    for group, scores in base.items():
        if set(scores) != set(tuned.get(group, ())) or not scores:
            raise ValueError(f"base and tuned differ in the benchmarks of group '{group}'")
        pairs = [(before, tuned[group][name]) for name, before in scores.items()]
        if version == "v1":
            gains[group] = relative_gain(pairs)
        else:
            gains[group] = headroom_gain(pairs, (sigma or {}).get(group, 1))
        if math.isnan(gains[group]):
            score = 0 if version == "v1" else 100
            print(f"TI is undefined: base score {score} in group '{group}'", file=sys.stderr)
    if "math" not in gains:
        raise ValueError("no group 'math' to compare with")
    in_maths = gains.pop("math")
    if in_maths <= 0:
        print("TI is undefined: no gain in maths", file=sys.stderr)
    return {
        group: 100 * gain / in_maths if in_maths > 0 else math.nan for group, gain in gains.items()
    }


def pooled_sigma(tables):
    """{group: standard deviation of all its scores}. A table is {group: {benchmark: score}}."""
    found = {}
    for table in tables:
        for group, scores in table.items():
            found.setdefault(group, []).extend(scores.values())
    return {group: statistics.pstdev(scores) or 1 for group, scores in found.items()}


# ---- The metrics of a run ----------------------------------------------------------------------


@dataclass
class Sample:
    """A completion row after grading."""

    row: dict
    answer: str | None
    right: bool | None  # None: the row has no answer to compare with
    score: float | None  # of --best-by
    # the same number for all answers of a question that the grader takes as equal
    answer_class: int | None = None
    # IFEval: which instructions are followed, by the strict and by the loose reading
    strict: list | None = None
    loose: list | None = None
    overlap: tuple | None = None  # CoQA: exact match and F1 with the references
    flexible: bool | None = None  # is the last number right? None: the answer is no plain number

    def tokens(self, name="n_tokens"):
        """A count of the row, or None."""
        return self.row.get(name)


def metrics(rows, k=(1,), best_by="logp"):
    """Completion rows -> {"all": summary, "groups": {group: summary with "tasks" and "questions"}}.

    questions: {id: (share of samples right, mean thinking tokens or None)}. Beside "all" and
    "groups" stands "undecided": {id: number of symbolic comparisons without a result}, for the
    questions with any, and "lengths": see `asked_and_used`. Raises BadInput that names lines for a
    sample that is there twice, a question with two answers, rows of two formats and rows that
    cannot be graded.
    """
    check_rows(rows)
    questions, undecided = grade_questions(rows, best_by)
    groups = {}
    for name, samples in questions.items():
        row = samples[0].row
        group = str(row.get("group") or "all")
        task = str(row.get("task") or row.get("subject") or group)
        groups.setdefault(group, {}).setdefault(task, {})[name] = samples
    return {
        "all": summarise(questions, k),
        "groups": {group: summarise_group(tasks, k) for group, tasks in groups.items()},
        "undecided": undecided,
        "lengths": asked_and_used(rows),
    }


def asked_and_used(rows):
    """[(tokens asked for, tokens used)] of the rows that were asked for a length."""
    found = []
    for row in rows:
        asked, counted_by = asked_length(row) or (None, None)
        if counted_by and row.get(counted_by) is not None:
            found.append((asked, row[counted_by]))
    return found


def check_rows(rows):
    """Raise BadInput naming the lines of rows that do not belong in one file."""
    line_of_sample, first_of_question = {}, {}
    for line, row in enumerate(rows, 1):
        question, sample = str(row["id"]), str(row.get("sample", 0))
        earlier = line_of_sample.setdefault((question, sample), line)
        if earlier != line:
            raise BadInput(
                f"lines {earlier} and {line} are both sample {sample} of question '{question}'"
            )
        gold = row.get("answer"), row.get("target"), row.get("instruction_id_list")
        earlier, first_gold = first_of_question.setdefault(question, (line, gold))
        if first_gold != gold:
            raise BadInput(
                f"lines {earlier} and {line} have different answers to question '{question}'"
            )
        if ("response" in row) != ("response" in rows[0]):
            raise BadInput(
                f"one of lines 1 and {line} has a response and the other has not: "
                "two formats in one file"
            )


def grade_questions(rows, best_by):
    """Completion rows -> ({question: [Sample]}, {question: comparisons without a result}).

    Raises BadInput that names the line.
    """
    questions, undecided = {}, Counter()
    for line, row in enumerate(rows, 1):
        name = str(row["id"])
        before = symbolic.FAILURES.total()
        try:
            sample = grade_row(row, best_by)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise BadInput(f"line {line}: cannot be graded ({error})") from error
        questions.setdefault(name, []).append(sample)
        undecided[name] += symbolic.FAILURES.total() - before
    for name, samples in questions.items():
        before = symbolic.FAILURES.total()
        numbers = answer_classes(samples[0].row, [sample.answer for sample in samples])
        for sample, number in zip(samples, numbers):
            sample.answer_class = number
        undecided[name] += symbolic.FAILURES.total() - before
    return questions, dict(+undecided)


def grade_row(row, best_by):
    """A completion row -> Sample."""
    answer = answer_of(row)
    sample = Sample(row, answer, grade(row, answer), best_by_score(row.get(best_by)))
    if row.get("instruction_id_list") is not None:
        sample.strict = follows(row, answer or "")
        sample.loose = follows(row, answer or "", loose=True)
    elif sample.right is not None and isinstance(row.get("references"), list):
        sample.overlap = overlap(answer, row["references"])
    if sample.right is not None:
        sample.flexible = last_number_is_right(row)
    return sample


# A number of a text, and a gold answer that is nothing but a number.
NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?")
LONGEST_NUMBER = 300  # characters
# Fields of rows that are graded by something else than their `answer`.
OTHER_GOLDS = ("choices", "nums", "instruction_id_list", "references")


def last_number_is_right(row):
    """Is the last number of a row's whole text its answer? None if that is no plain number.

    lm-evaluation-harness's "flexible-extract" of GSM8K, with commas and $ ignored. It needs no
    answer that is marked, and may count what was only a step.
    """
    gold = str(row.get("answer")).strip()
    has_other_gold = any(row.get(name) is not None for name in OTHER_GOLDS)
    if has_other_gold or not NUMBER.fullmatch(gold) or len(gold) > LONGEST_NUMBER:
        return None
    parts = [row.get("text")] if row.get("text") else [row.get("thinking"), row.get("response")]
    text = "\n".join(part for part in parts if part)
    numbers = NUMBER.findall(text[-LONGEST_TEXT:])
    if not numbers or len(numbers[-1]) > LONGEST_NUMBER:
        return False
    return number_of(numbers[-1]) == number_of(gold)


def number_of(text):
    """$1,234.5 -> Fraction("1234.5")"""
    return Fraction(text.replace("$", "").replace(",", ""))


def best_by_score(value):
    """A number, or the mean of a list of numbers; None for anything else."""
    if isinstance(value, list):
        numbers = value and all(isinstance(x, (int, float)) for x in value)
        value = statistics.fmean(value) if numbers else None
    is_number = isinstance(value, (int, float)) and not math.isnan(value)
    return value if is_number else None


def mean(values):
    """Their mean; None if there are none."""
    values = list(values)
    return statistics.fmean(values) if values else None


def percent(values):
    """The mean of truth values or shares, in percent; None if there are none."""
    values = list(values)
    return 100 * statistics.fmean(values) if values else None


def summarise(questions, k):
    """The numbers of some questions, {id: [Sample]}. Shares in percent; None: nothing to count."""
    kept = [samples for samples in questions.values() if samples[0].right is not None]
    flat = [sample for samples in kept for sample in samples]
    accuracy, low, high = mean_interval([share_right(samples) for samples in kept], len(flat))
    summary = {
        "n_questions": len(kept),
        "n_samples": len(flat),
        "skipped": len(questions) - len(kept),
        "accuracy": 100 * accuracy if kept else None,
        "low": 100 * low,
        "high": 100 * high,
        "flexible": None,
    }
    flexible = [sample.flexible for sample in flat]
    if None not in flexible:  # side by side means over the same samples
        summary["flexible"] = percent(flexible)
    fewest = min(map(len, kept), default=0)
    for size in sorted(k):
        if 1 <= size <= fewest:
            summary |= summarise_k(kept, size)
    summary |= count_tokens(kept)
    summary["truncated"] = percent(sample.row.get("finish") == "length" for sample in flat)
    summary["forced"] = percent(bool(sample.row.get("forced")) for sample in flat)
    summary["no_answer"] = percent(sample.answer is None for sample in flat)
    instructed = [sample for sample in flat if sample.strict is not None]
    if instructed:
        summary["ifeval"] = summarise_ifeval(instructed)
    overlaps = [sample.overlap for sample in flat if sample.overlap is not None]
    if overlaps:
        exact, f1 = zip(*overlaps)
        summary["overlap"] = {"exact": percent(exact), "f1": percent(f1)}
    return summary


def summarise_group(tasks, k):
    """{task: {id: [Sample]}} -> summary of all its questions, with "questions" and "tasks"."""
    questions = {name: samples for inside in tasks.values() for name, samples in inside.items()}
    shares = {}
    for name, samples in questions.items():
        if samples[0].right is not None:
            thinking = [sample.tokens("n_thinking_tokens") for sample in samples]
            mean_thinking = None if None in thinking else statistics.fmean(thinking)
            shares[name] = (share_right(samples), mean_thinking)
    return summarise(questions, k) | {
        "questions": shares,
        "tasks": {task: summarise(inside, k) for task, inside in tasks.items()},
    }


def share_right(samples):
    """Share of the samples of a question that are right."""
    return statistics.fmean(sample.right for sample in samples)


def summarise_k(questions, k):
    """What k samples per question buy. questions: a list of lists of Sample, k or more in each.

    tokens@k: per question, the sum over the first k samples and the longest of them.
    """
    heads = [samples[:k] for samples in questions]
    voted = [majority_sample(head) for head in heads]
    found = {
        f"maj@{k}": percent(bool(vote and vote.right) for vote in voted),
        f"pass@{k}": percent(
            pass_at_k(len(samples), sum(sample.right for sample in samples), k)
            for samples in questions
        ),
        f"avg@{k}": percent(share_right(head) for head in heads),
    }
    if all(sample.score is not None for samples in questions for sample in samples):
        best = [max(head, key=lambda sample: sample.score) for head in heads]
        found[f"bon@{k}"] = percent(sample.right for sample in best)
        if all(0 <= sample.score <= 1 for head in heads for sample in head):
            voted = [majority_sample(head, weighted=True) for head in heads]
            found[f"weighted@{k}"] = percent(bool(vote and vote.right) for vote in voted)
    lengths = lengths_of(questions)
    if lengths:
        sums = [sum(of_question[:k]) for of_question in lengths]
        longest = [max(of_question[:k]) for of_question in lengths]
        found[f"tokens@{k}"] = [mean(sums), mean(longest)]
    return found


def majority_sample(samples, weighted=False):
    """The first sample of the most frequent answer, or None if none has an answer.

    weighted: of the answer with the largest sum of scores.
    """
    answered = [sample for sample in samples if sample.answer is not None]
    weights = [sample.score for sample in answered] if weighted else None
    return majority(answered, lambda sample: sample.answer_class, weights)


def lengths_of(questions):
    """Tokens of each sample of each question; None unless all are known."""
    lengths = [[sample.tokens() for sample in samples] for samples in questions]
    known = all(length is not None for of_question in lengths for length in of_question)
    return lengths if known and lengths else None


def count_tokens(questions):
    """Mean numbers of tokens. questions: a list of lists of Sample.

    total_tokens and sequential_tokens are per question: the sum over its samples, and the longest
    of them. That is the cost of sampling one after the other and side by side.
    """
    flat = [sample for samples in questions for sample in samples]
    lengths = lengths_of(questions)
    return {
        "n_thinking_tokens": mean(known_counts(flat, "n_thinking_tokens")),
        "n_tokens": mean(known_counts(flat, "n_tokens")),
        "stopped_tokens": mean(
            known_counts([s for s in flat if s.row.get("finish") == "stop"], "n_tokens")
        ),
        "total_tokens": mean(map(sum, lengths)) if lengths else None,
        "sequential_tokens": mean(map(max, lengths)) if lengths else None,
    }


def known_counts(samples, name):
    """A count of each sample, where the row has it."""
    return [sample.tokens(name) for sample in samples if sample.tokens(name) is not None]


def summarise_ifeval(samples):
    """IFEval's four accuracies: of prompts (all instructions followed), of single instructions."""
    found = {}
    for reading in ("strict", "loose"):
        followed = [getattr(sample, reading) for sample in samples]
        found[f"prompt_{reading}"] = percent(all(each) for each in followed)
        found[f"instruction_{reading}"] = percent(x for each in followed for x in each)
    order = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
    return {name: found[name] for name in order}


# ---- Runs on disk ------------------------------------------------------------------------------


def completion_files(paths):
    """The files among the paths, and in each folder those with completions, in name order."""
    found = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = [str(file) for file in sorted(Path(path).glob("*.jsonl")) if has_completions(file)]
        if not inside:
            raise BadInput(f"{path}: no completions in this directory")
        found += inside
    return found


def has_completions(path):
    """Does the first line look like a completion row?"""
    with open(path, "rb") as file:
        line = file.readline()
    return b'"response"' in line or b'"text"' in line


def metrics_of_file(path, k=(), best_by="logp"):
    """`metrics` of a completion file, with the run's "settings".

    What is odd but usable is said on stderr. Raises BadInput that names file and line.
    """
    rows = read_completions(path)
    check_sample_counts(path, rows, k)
    try:
        result = metrics(rows, k or (1, 4, 8), best_by)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    if undecided := result["undecided"]:
        print(f"{path}: {describe_undecided(undecided)}", file=sys.stderr)
    if (result["all"]["no_answer"] or 0) > MANY_WITHOUT_ANSWER:
        print(f"{path}: {advise_on_answers(rows)}", file=sys.stderr)
    if skipped := result["all"]["skipped"]:
        print(
            f"{path}: {skipped} questions without an answer that can be compared with: skipped",
            file=sys.stderr,
        )
    return result | {"settings": settings_of_run(path)}


def describe_undecided(undecided):
    """A line about the symbolic comparisons without a result, {question: their number}."""
    names = [f"'{name}'" for name in list(undecided)[:3]]
    if len(undecided) > len(names):
        names.append(f"{len(undecided) - len(names)} more")
    reasons = ", ".join(f"{n} {kind}" for kind, n in symbolic.FAILURES.items())
    return (
        f"{sum(undecided.values())} symbolic comparisons gave no result and count as not the same, "
        f"in questions {', '.join(names)} (in all runs so far: {reasons})"
    )


MANY_WITHOUT_ANSWER = 30  # percent of a run


def advise_on_answers(rows):
    """A line about a run in which many samples have no answer: what would help?"""
    without = [row for row in rows if answer_of(row) is None]
    n_cut = sum(row.get("finish") == "length" for row in without)
    found = f"{len(without)} of {len(rows)} samples have no answer that can be found"
    if 2 * n_cut > len(without):
        return f"{found}: {n_cut} of them were cut; a larger --max-tokens of generate.py would help"
    n_thinking = sum(
        row.get("thinking") not in (None, "") and not row["response"] for row in without
    )
    if 2 * n_thinking > len(without):
        return (
            f"{found}: {n_thinking} of them stopped without an end of thinking; the model may have "
            "been trained for another --format of generate.py, or too little"
        )
    advice = Counter(map(instruction_for, without)).most_common(1)[0][0]
    return f'{found}: it would help to end the questions with an instruction, as in "{advice}"'


def instruction_for(row):
    """The sentence that asks for an answer that grading/answers.py finds."""
    if row.get("instruction_id_list") is not None or row.get("references") is not None:
        return "Answer in words."
    if row.get("choices") == ["no", "yes"]:
        return "Begin with yes or no."
    if row.get("choices"):
        return "End with the letter of your choice, as in: Answer: B"
    if row.get("nums") is not None:
        return "Put the expression in <answer></answer>."
    return r"Put the final answer in \boxed{}."


def read_completions(path):
    """Rows of a completion file. Raises BadInput, which says so if the file ends within a line."""
    try:
        return read_rows(path, need=("id",))
    except BadInput as error:
        message = str(error)
        if Path(path).is_file() and Path(path).read_bytes()[-1:] not in (b"\n", b""):
            message += "; the file ends within a line: the run was cut, start it again"
        raise BadInput(message) from error


def check_sample_counts(path, rows, k):
    """Raise BadInput if a question has fewer samples than --k; warn if their numbers differ."""
    counts = Counter(str(row["id"]) for row in rows)
    fewest, most = min(counts.values()), max(counts.values())
    for size in k:
        if not 1 <= size <= fewest:
            question = min(counts, key=counts.get)
            raise BadInput(f"{path}: --k {size} with {fewest} samples of question '{question}'")
    if fewest < most:
        print(
            f"{path}: {fewest} to {most} samples per question, as if the run had been cut",
            file=sys.stderr,
        )


def settings_of_run(path):
    """The settings that generate.py saved beside a completion file; {} if there are none."""
    header = runlog.header_of(path)
    try:
        return json.loads(header.read_text(encoding="utf-8")) if header.exists() else {}
    except ValueError as error:
        raise BadInput(f"{header}: not JSON ({error})") from error


# ---- Rows of several runs ----------------------------------------------------------------------


def merge_runs(files):
    """The rows of some runs as samples of one run.

    Rows that were asked for a length get `length_error`, |used - asked| in percent of asked, and
    `length_rank`, the rank correlation of asked and used over the rows of their question (0 if the
    question's rows are all as long).
    """
    by_question = {}
    for path in files:
        for row in read_completions(path):
            by_question.setdefault(str(row["id"]), []).append(row)
    merged = []
    for rows in by_question.values():
        pairs = asked_and_used(rows)
        rank = rank_correlation(*zip(*pairs)) or 0 if pairs else None
        for number, row in enumerate(rows):
            row = row | {"sample": number}
            if own := asked_and_used([row]):
                row |= {"length_error": adherence(own)["relative"], "length_rank": rank}
            merged.append(row)
    return merged


def choose_samples(rows, how, best_by):
    """One row of each question, see --choose; the first where nothing can be chosen. BadInput."""
    questions, _ = grade_questions(rows, best_by)
    if how != "majority" and any(s.score is None for group in questions.values() for s in group):
        raise BadInput(f"--choose {how}: rows without a number in '{best_by}' (--best-by)")
    return [choose_one(group, how).row | {"sample": 0} for group in questions.values()]


def choose_one(samples, how):
    """The sample of the "majority", of the "weighted" vote, the "best", or "any" that is right.

    The first where nothing can be chosen.
    """
    if how == "best":
        return max(samples, key=lambda sample: sample.score)
    if how == "any":
        return next((sample for sample in samples if sample.right), samples[0])
    return majority_sample(samples, how == "weighted") or samples[0]


# ---- Comparisons -------------------------------------------------------------------------------


def compare_runs(tuned, base, cfg, sigma=None):
    """Metrics of a run and of the base run -> {"difference", "transferability"}.

    transferability: only if there is a group "math" and another one. difference: {"all" or group:
    [points, low, high, number of shared questions]}.
    """
    differences = {}
    for group, pairs in shared_questions(tuned, base, cfg.base).items():
        if pairs:
            interval = paired_bootstrap(*zip(*pairs), cfg.resamples)
            differences[group] = [*(100 * x for x in interval), len(pairs)]
    result = {"difference": differences}
    before, after, in_one = shared_scores(task_scores(base), task_scores(tuned))
    if "math" in before and len(before) > 1:
        if in_one:
            left_out = ", ".join(in_one)
            print(
                f"transferability to {cfg.base}: only one run has {left_out}: left out",
                file=sys.stderr,
            )
        result["transferability"] = defined_transferability(before, after, cfg.base, cfg.ti, sigma)
    return result


def shared_questions(tuned, base, base_name):
    """{"all" or group: [(share right in tuned, in base)]} over the questions of both.

    The groups are those of tuned; in which group base has a question makes no difference. Raises
    BadInput if no question is in both.
    """
    theirs = {}
    for summary in base["groups"].values():
        theirs |= summary["questions"]
    pairs = {"all": []}
    for group, summary in groups_by_name(tuned).items():
        shared = [
            (share, theirs[name][0])
            for name, (share, _) in summary["questions"].items()
            if name in theirs
        ]
        pairs["all"] = pairs["all"] + shared
        if group != "all":  # the only group of a run without groups
            pairs[group] = shared
    if not pairs["all"]:
        raise BadInput(
            f"{base_name}: no question in common with a run that is to be compared with it"
        )
    return pairs


def groups_by_name(result):
    """{group: summary} of a run's metrics, where "all" is no group beside others.

    Rows without a group are in the group "all". If there are other groups, too, they are here under
    "no group", because "all" then means all groups.
    """
    groups = result["groups"]
    if len(groups) == 1:
        return groups
    return {"no group" if name == "all" else name: groups[name] for name in groups}


def shared_scores(base, tuned):
    """Two tables {group: {task: score}} -> the same two with the tasks of both, and the others.

    The others are a list of "group/task", in the order of the tables.
    """
    in_both, in_one = ({}, {}), {}
    for table, other in ((base, tuned), (tuned, base)):
        for group, scores in table.items():
            for task in scores:
                if task not in other.get(group, ()):
                    in_one[f"{group}/{task}"] = None
                elif table is base:
                    in_both[0].setdefault(group, {})[task] = base[group][task]
                    in_both[1].setdefault(group, {})[task] = tuned[group][task]
    return *in_both, list(in_one)


def task_scores(result):
    """{group: {task: percent}} of a run's metrics, as UniReason (§A.3.4) reports each benchmark.

    That is accuracy; for IFEval the share of followed instructions; for CoQA the exact match, the
    one of lm-eval's two measures that UniReason's low numbers fit.
    """
    scores = {}
    for group, summary in groups_by_name(result).items():
        tasks = {name: task for name, task in summary["tasks"].items() if task["n_questions"]}
        if tasks:
            scores[group] = {name: task_score(task) for name, task in tasks.items()}
    return scores


def task_score(summary):
    """The number that stands for a task in the transferability index, in percent."""
    if "ifeval" in summary:
        return summary["ifeval"]["instruction_strict"]
    if "overlap" in summary:
        return summary["overlap"]["exact"]
    return summary["accuracy"]


def defined_transferability(base, tuned, name, version, sigma):
    """`transferability` with None where it is undefined.

    Raises BadInput, which begins with `name`, if the benchmarks differ.
    """
    try:
        index = transferability(base, tuned, version, sigma)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error
    return {group: None if math.isnan(ti) else ti for group, ti in index.items()}


def scaling_study(runs):
    """Control, scaling and performance of each model with two runs or more.

    runs: metrics with "settings". They are compared over the questions that they share. A run is
    one point: mean thinking tokens, accuracy and its interval. Control counts the runs that were
    given a budget.
    """
    by_model = {}
    for run in runs:
        by_model.setdefault(str(run["settings"].get("model", "")), []).append(run)
    studies = {}
    for model, series in by_model.items():
        questions = [questions_with_thinking(run) for run in series]
        shared = set.intersection(*map(set, questions))
        if len(series) < 2 or not shared:
            continue
        points = [point_of_run(of_run, shared) for of_run in questions]
        tokens_accuracy = [point[:2] for point in points]
        limits = [thinking_limit(run) for run in series]
        limited = [(point[0], limit) for point, limit in zip(points, limits) if limit is not None]
        slope = scaling(tokens_accuracy)
        studies[model] = {
            "n_runs": len(series),
            "n_questions": len(shared),
            "n_limited": len(limited),
            "control": control(*zip(*limited)) if limited else None,
            "scaling": None if math.isnan(slope) else slope,
            "performance": performance(tokens_accuracy),
            "points": sorted(points),
            "lengths": [pair for run in series for pair in run["lengths"]],
        }
    return studies


def questions_with_thinking(run):
    """{id: (share right, mean thinking tokens)} of a run, where the tokens were counted."""
    return {
        name: pair
        for group in run["groups"].values()
        for name, pair in group["questions"].items()
        if pair[1] is not None
    }


def point_of_run(questions, shared):
    """(mean thinking tokens, accuracy, low, high) over the shared questions; shares in percent."""
    tokens = statistics.fmean(questions[name][1] for name in shared)
    interval = mean_interval([questions[name][0] for name in shared])
    return tokens, *(100 * x for x in interval)


def thinking_limit(run):
    """The budget of thinking tokens that a run was given, or None. -1 is generate.py's "auto"."""
    budget = run["settings"].get("thinking_budget")
    return None if budget == -1 else budget


def draw_scaling(path, studies):
    """PNG of accuracy against mean thinking tokens, a curve for each model. s1, Fig. 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for model, numbers in studies.items():
        tokens, accuracy, low, high = zip(*numbers["points"])
        label = Path(model).name or "these runs"
        if numbers["scaling"] is not None:
            label += f" ({numbers['scaling']:+.1f} points per doubling)"
        below = [max(0, a - b) for a, b in zip(accuracy, low)]
        above = [max(0, b - a) for a, b in zip(accuracy, high)]
        axes.errorbar(tokens, accuracy, [below, above], fmt="o-", capsize=3, label=label)
    axes.set_xscale("log", base=2)
    places = [tokens for numbers in studies.values() for tokens, *_ in numbers["points"]]
    name_doublings(axes, min(places), max(places))
    axes.set(xlabel="mean thinking tokens", ylabel="right answers, %")
    axes.grid(axis="y", alpha=0.25)
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


# ---- A table of scores -------------------------------------------------------------------------


def read_scores(path):
    """A table of scores -> {model: {group: {benchmark: score}}}. Raises BadInput."""
    models, line_of = {}, {}
    rows = read_rows(path, need=("model", "group", "benchmark", "score"))
    for line, row in enumerate(rows, 1):
        model, group, benchmark = (str(row[name]) for name in ("model", "group", "benchmark"))
        earlier = line_of.setdefault((model, group, benchmark), line)
        if earlier != line:
            raise BadInput(f"{path}:{line}: {model} {group} {benchmark} is on line {earlier} too")
        if not isinstance(row["score"], (int, float)):
            raise BadInput(f"{path}:{line}: score {row['score']!r} is not a number")
        models.setdefault(model, {}).setdefault(group, {})[benchmark] = row["score"]
    return models


def report_scores(cfg):
    """Group averages and both indices of each model -> {model: {"average", "v1", "v2"}}."""
    models = read_scores(cfg.scores)
    if cfg.base is not None and cfg.base not in models:
        raise BadInput(
            f"--base {cfg.base}: not among the models of {cfg.scores}: {', '.join(models)}"
        )
    base = cfg.base or next(iter(models))
    sigma = pooled_sigma(models.values()) if cfg.sigma == "pooled" else None
    report = {}
    for name, scores in models.items():
        averages = {group: statistics.fmean(of.values()) for group, of in scores.items()}
        report[name] = {"average": averages}
        if name != base:
            for version in ("v1", "v2"):
                report[name][version] = defined_transferability(
                    models[base], scores, f"{cfg.scores}: {name}", version, sigma
                )
    if cfg.out:
        write_rows(cfg.out, [report])
    print(*table_of_scores(report, list(models[base]), cfg.markdown), sep="\n")
    return report


# ---- Printing ----------------------------------------------------------------------------------


def format_table(head, lines, markdown=False):
    """The lines of a table. A cell is a string, a number or None; numbers to the right."""
    rows = [head] + [[format_cell(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows)]
    is_text = [any(isinstance(line[i], str) for line in lines) for i in range(len(head))]
    padded = [
        [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text)
        ]
        for row in rows
    ]
    if not markdown:
        return ["  ".join(cells) for cells in padded]
    rules = ["-" * (width + 1) + ("-" if text else ":") for width, text in zip(widths, is_text)]
    table = ["| " + " | ".join(cells) + " |" for cells in padded]
    return [table[0], "|" + "|".join(rules) + "|", *table[1:]]


def format_cell(cell):
    if cell is None:
        return "-"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


HEADS = {
    "n_questions": "n",
    "n_samples": "samples",
    "n_thinking_tokens": "thinking",
    "n_tokens": "tokens",
    "stopped_tokens": "stopped",
    "total_tokens": "total",
    "sequential_tokens": "sequential",
}


def table_of_runs(runs, markdown=False):
    """{path: metrics} -> a line per run and group, and one for all groups if there are several."""
    folder = ""
    if all(map(dirname, runs)):
        folder = commonpath(map(dirname, runs)) + "/"
    lines = []  # (run, group, summary)
    for path, result in runs.items():
        groups = dict(groups_by_name(result))
        if len(groups) > 1:
            groups["all"] = result["all"]
        name = path[len(folder) :].removesuffix(".jsonl")
        lines += [(name, group, summary) for group, summary in groups.items()]
    columns = columns_of([summary for _, _, summary in lines])
    return format_table(
        ["run", "group", *(HEADS.get(column, column) for column in columns)],
        [
            [name, group, *(summary.get(column) for column in columns)]
            for name, group, summary in lines
        ],
        markdown,
    )


def columns_of(summaries):
    """The numbers of a summary that the table shows."""
    several = any(summary["n_samples"] > summary["n_questions"] for summary in summaries)
    names = dict.fromkeys(name for summary in summaries for name in summary)
    # pass@1, maj@1 and their like are the accuracy, of all samples or of the first.
    at_k = [
        name
        for name in names
        if "@" in name and not name.endswith("@1") and not name.startswith("tokens")
    ]
    flexible = any(summary["flexible"] is not None for summary in summaries)
    return [
        "n_questions",
        "n_samples",
        "accuracy",
        "low",
        "high",
        *(["flexible"] if flexible else []),
        *at_k,
        "n_thinking_tokens",
        "n_tokens",
        "stopped_tokens",
        *(["total_tokens", "sequential_tokens"] if several else []),
        "truncated",
        "forced",
        "no_answer",
        "skipped",
    ]


def table_of_scores(report, groups, markdown=False):
    """The report of a table of scores -> a line per model."""
    indices = [(version, group) for version in ("v1", "v2") for group in groups if group != "math"]
    return format_table(
        ["model", *groups, *(f"TI {version} {group}" for version, group in indices)],
        [
            [
                name,
                *(float(numbers["average"][group]) for group in groups),
                *(numbers.get(version, {}).get(group) for version, group in indices),
            ]
            for name, numbers in report.items()
        ],
        markdown,
    )


def print_run(path, result, cfg):
    """What the table has no column for: comparisons with the base run, IFEval, CoQA."""
    compared = result.get("compared", {})
    differences = compared.get("difference", {})
    if len(differences) == 2:  # "all" and the only group hold the same questions
        first = next(iter(differences))
        differences = {first: differences[first]}
    for group, (difference, low, high, n) in differences.items():
        verdict = "not significant" if low <= 0 <= high else "significant"
        print(
            f"{path} - {cfg.base}, {group}: {difference:+.1f} points "
            f"[{low:+.1f}, {high:+.1f}], {n} questions, {verdict}"
        )
    for group, ti in compared.get("transferability", {}).items():
        shown = "undefined" if ti is None else f"{ti:.1f}"
        print(f"{path}, transferability to {group} ({cfg.ti}): {shown}")
    if lengths := result["lengths"]:
        print_adherence(path, lengths)
    if ifeval := result["all"].get("ifeval"):
        numbers = [f"{name.replace('_', ' ')} {value:.1f}" for name, value in ifeval.items()]
        print(f"{path}, IFEval: {', '.join(numbers)}")
    if shared := result["all"].get("overlap"):
        print(
            f"{path}, words shared with the references: "
            f"exact {shared['exact']:.1f}, F1 {shared['f1']:.1f}"
        )


def print_adherence(name, lengths):
    """One line on how well the lengths that were asked for were kept."""
    found = adherence(lengths)
    rank = "" if found["rank"] is None else f", rank correlation {found['rank']:.2f}"
    print(
        f"{name}, tokens asked for and used: {found['error']:.1f} off ({found['relative']:.0f}%), "
        f"bias {found['bias']:+.0f}%, {found['over']:.0f}% longer than asked{rank}"
    )


def print_study(model, numbers):
    """One line of control, scaling and performance."""
    cells = [
        f"{name} {'-' if value is None else f'{value:.4g}'}"
        for name, value in numbers.items()
        if name not in ("points", "lengths")
    ]
    print(f"{model or 'these runs'}: {', '.join(cells)}")
    if lengths := numbers["lengths"]:
        print_adherence(f"{model or 'these runs'}, all its runs", lengths)


def main(cfg):
    """Grade the runs, compare and print. Returns the report that --out saves."""
    for path in filter(None, (cfg.out, cfg.figure, cfg.rows)):
        check_file_to_write(path)
    if cfg.choose != "all" and not cfg.rows:
        raise BadInput(f"--choose {cfg.choose}: needs --rows, the file to write")
    if cfg.scores:
        return report_scores(cfg)
    if not cfg.runs:
        raise BadInput("no completions given: evaluate.py RUN.jsonl [RUN.jsonl ...]")
    files = completion_files(cfg.runs)
    if cfg.rows:
        rows = merge_runs(files)
        if cfg.choose != "all":
            rows = choose_samples(rows, cfg.choose, cfg.best_by)
        write_rows(cfg.rows, rows)
    runs = {path: metrics_of_file(path, cfg.k, cfg.best_by) for path in files}
    shown = dict(runs)
    if cfg.base:
        shown[cfg.base] = runs.get(cfg.base) or metrics_of_file(cfg.base, cfg.k, cfg.best_by)
        sigma = pooled_sigma(map(task_scores, shown.values())) if cfg.sigma == "pooled" else None
        for path, result in runs.items():
            if path != cfg.base:
                result["compared"] = compare_runs(result, shown[cfg.base], cfg, sigma)
    studies = scaling_study(list(runs.values()))
    report = {"config": asdict(cfg), "runs": shown, "study": studies}
    if cfg.out:
        write_rows(cfg.out, [report])
    print(*table_of_runs(shown, cfg.markdown), sep="\n")
    for path, result in runs.items():
        print_run(path, result, cfg)
    for model, numbers in studies.items():
        print_study(model, numbers)
    if cfg.figure:
        if not studies:
            raise BadInput(
                f"--figure {cfg.figure}: no model has two runs with thinking tokens "
                "over the same questions"
            )
        draw_scaling(cfg.figure, studies)
    return report


if __name__ == "__main__":
    settings.cli(main, Config)
