"""evaluate.py: by hand (numbers worked in the docstrings), published numbers, brute force, fuzz,
end to end.
"""

import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import evaluate
from engine import settings
from engine.rows import BadInput, read_rows, write_rows
from evaluate import (
    Config,
    control,
    main,
    majority,
    mean_interval,
    metrics,
    paired_bootstrap,
    pass_at_k,
    performance,
    scaling,
    t_quantile,
    transferability,
    wilson,
)
from grading import symbolic
from grading.answers import canonical, grade

# ---- statistics


def test_pass_at_k_by_hand():
    """n=4, c=3, k=1 -> 3/4; n=10, c=3, k=5 -> 1 - 21/252 = 0.916667; n=4, c=2, k=3 -> 1: only 2 are
    wrong.
    """
    assert [pass_at_k(4, 3, 1), pass_at_k(9, 0, 3), pass_at_k(4, 2, 3)] == [0.75, 0, 1]
    assert pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=1e-6)
    # of 10,000 samples one is right, of 10 drawn one in 1,000; no factorial overflows a float
    assert pass_at_k(10_000, 1, 10) == pytest.approx(0.001, abs=1e-9)
    for wrong in ((4, 2, 5), (4, 5, 1), (4, 2, 0)):
        with pytest.raises(ValueError):
            pass_at_k(*wrong)


def test_pass_at_k_by_enumeration():
    """All ways to draw k of n <= 7 samples: the share of them that holds a right one."""
    for n, c in itertools.product(range(1, 8), range(8)):
        for k in range(1, n + 1) if c <= n else ():
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_majority():
    """Votes of equivalent spellings add up: 1/2 and 0.5 beat 3, 3 only ties with them when they are
    two.
    """
    answers = [5, 7, 7, 5, 9, 9, 9, 9]
    assert [majority(answers[:n]) for n in (2, 4, 8)] == [5, 5, 9]
    assert (
        majority([None, None, 3]) == 3
        and majority([None, None]) is None
        and majority([2, 2, 3, None]) == 2
    )

    def key(answer):
        return canonical({}, answer)

    assert (
        majority(["3", "1/2", "0.5"], key) == "1/2"
        and majority(["3", "3", "1/2", "0.5"], key) == "3"
    )
    row = {"nums": [1, 2, 3], "target": 6}
    assert (
        canonical(row, "1 + 2 + 3") == canonical(row, "3 + (2 + 1)") != canonical(row, "1 * 2 + 4")
    )
    assert canonical(row, "1 + 5") != canonical(row, "2 + 4")


def test_wilson():
    """s1's headline, 15 and 17 of 30: [33, 67] and [39, 73] percent. 0 of 10: z²/(n + z²) =
    3.8415/13.8415 = 0.2775.
    """
    assert [round(100 * x) for x in wilson(15, 30) + wilson(17, 30)] == [33, 67, 39, 73]
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5) and wilson(0, 0) == (0, 1)
    assert wilson(10, 10) == pytest.approx((1 - 0.27753, 1), abs=1e-5)


def test_mean_interval():
    """Shares 0, 1/2, 1, 1/2 of 4 questions vary by (1/4 + 1/4) / 3 = 1/6 around 1/2, which is what
    4 · (1/4) / (1/6) = 6 independent samples would do. Were there only 5 samples, they would be 5;
    questions that agree in all samples count once. t of 3 degrees of freedom is 3.182446, so the
    first interval is 1/2 ± (3.182446 √(1/24 + 3.182446²/144)) / (1 + 3.182446²/6) = 0.5 ± 0.3962.
    """
    t = 3.182446
    first = mean_interval([0, 0.5, 1, 0.5], 8)
    assert first == pytest.approx((0.5, *wilson(3, 6, t)))
    assert first == pytest.approx((0.5, 0.1038, 0.8962), abs=1e-4)
    assert mean_interval([0, 0.5, 1, 0.5], 5) == pytest.approx((0.5, *wilson(2.5, 5, t)))
    assert mean_interval([0, 0.5, 1, 0.5]) == pytest.approx((0.5, *wilson(2, 4, t)))
    assert (
        mean_interval([1, 0, 1, 1])
        == mean_interval([1, 0, 1, 1], 40)
        == pytest.approx((0.75, *wilson(3, 4)))
    )
    # no spread seen is not certainty
    assert mean_interval([0.5] * 4, 16) == pytest.approx((0.5, *wilson(8, 16, t)))
    assert mean_interval([1] * 4, 16) == pytest.approx((1, *wilson(4, 4)))
    # one question is one, however many samples it has
    assert mean_interval([0.75], 16) == pytest.approx((0.75, *wilson(0.75, 1)))
    assert mean_interval([])[1:] == (0, 1)


def test_t_quantile():
    """Known values: tan(0.475 π) for one degree of freedom, √(2 · 0.95² / (1 - 0.95²)) for two, and
    those of any table; towards z = 1.96 for many.
    """
    assert t_quantile(1) == pytest.approx(math.tan(0.475 * math.pi))
    assert t_quantile(2) == pytest.approx(math.sqrt(2 * 0.95**2 / (1 - 0.95**2)))
    known = {3: 3.182446, 4: 2.776445, 9: 2.262157, 10: 2.228139, 29: 2.045230, 120: 1.979930}
    for df, t in known.items():
        assert t_quantile(df) == pytest.approx(t, abs=1e-6)
    assert t_quantile(1000) == pytest.approx(1.962339, abs=1e-6)
    assert t_quantile(1000) > t_quantile(1001) > t_quantile(10**6) > 1.959964
    assert t_quantile(1000) - t_quantile(1001) < 1e-5


def coverage(draw, truth, n_questions, n_samples, n_studies, rng):
    """Share of made-up studies whose interval holds the truth. draw: chance of a question."""
    held = 0
    for _ in range(n_studies):
        chances = [draw() for _ in range(n_questions)]
        values = [sum(rng.random() < x for _ in range(n_samples)) / n_samples for x in chances]
        _, low, high = mean_interval(values, n_questions * n_samples)
        assert 0 <= low <= high <= 1 and high - low > 0.01
        held += low <= truth <= high
    return held / n_studies


def test_few_questions_with_many_samples():
    """30 questions with 16 samples, as in AIME, with chances of mean 1/2 and 1/10; 600 studies, so
    ± 1.8 points. With 1/N and z the second is at 91%.
    """
    rng = random.Random(0)
    for a, b in ((1, 1), (0.2, 1.8)):
        held = coverage(lambda a=a, b=b: rng.betavariate(a, b), a / (a + b), 30, 16, 600, rng)
        assert 0.925 <= held <= 0.98, (a, b)


@pytest.mark.slow
def test_coverage_of_few_questions():
    """4,000 studies of each law of the chances, so ± 0.8 points: 93% or more, where 1/N and z had
    91.9 to 95.4. The last law is very skewed: nearly all questions are hopeless, a few are sure;
    there 91.3 became 92.7.
    """
    rng = random.Random(1)
    laws = [(0.3, 0.6), (0.1, 0.3), (0.5, 0.5), (1, 1), (5, 5), (50, 50), (0.2, 1.8), (1, 9)]
    for a, b in laws:
        held = coverage(lambda a=a, b=b: rng.betavariate(a, b), a / (a + b), 30, 16, 4000, rng)
        assert 0.93 <= held <= 0.97, (a, b)
    assert coverage(lambda: rng.betavariate(0.05, 0.5), 1 / 11, 30, 16, 4000, rng) > 0.915


def test_the_interval_covers_what_it_promises():
    """1,000 made-up studies of 40 questions with 4 samples: chances of a question from a U-shaped
    law with mean 1/3 (so samples of a question agree often). 95% ± 2 of the intervals hold 1/3;
    counting samples as independent, far fewer do.
    """
    rng, held, naive = random.Random(0), 0, 0
    for _ in range(1000):
        values = [
            sum(rng.random() < chance for _ in range(4)) / 4
            for chance in (rng.betavariate(0.3, 0.6) for _ in range(40))
        ]
        _, low, high = mean_interval(values, 160)
        held += low <= 1 / 3 <= high
        low, high = wilson(4 * sum(values), 160)
        naive += low <= 1 / 3 <= high
    assert 930 <= held <= 970 and naive < 850


def test_samples_of_one_question_are_not_independent():
    """20 questions, each with 50 samples that all agree but one: the interval is that of 20
    questions, not of 1,000.
    """
    values = [0.98] * 10 + [0.02] * 10
    mean, low, high = mean_interval(values, 1000)
    assert high - low > 5 * (wilson(500, 1000)[1] - wilson(500, 1000)[0])


# +1 on 10 of 100 questions, -1 on 2.
RIGHT_A = [1] * 10 + [0] * 2 + [1] * 40 + [0] * 48
RIGHT_B = [0] * 10 + [1] * 2 + [1] * 40 + [0] * 48


def test_paired_bootstrap_difference():
    """(10 - 2) / 100 = 0.08, not the mean of the resamples; with a and b exchanged -0.08."""
    assert paired_bootstrap(RIGHT_A, RIGHT_B)[0] == pytest.approx(0.08, abs=1e-9)
    assert paired_bootstrap(RIGHT_B, RIGHT_A)[0] == pytest.approx(-0.08, abs=1e-9)
    with pytest.raises(ValueError):
        paired_bootstrap([1], [1, 0])
    with pytest.raises(ValueError):
        paired_bootstrap([], [])


def test_paired_bootstrap_interval():
    """Differences +1 ten times, -1 twice, 0 else: s/√N = √(0.12 - 0.08²)/10 = 0.0337, so
    0.08 ± 1.96 · 0.0337 = 0.014 ... 0.146. Unpaired it would be 0.08 ± 0.138.
    """
    assert paired_bootstrap(RIGHT_A, RIGHT_B)[1:] == pytest.approx((0.014, 0.146), abs=0.015)
    assert paired_bootstrap(RIGHT_B, RIGHT_A)[1:] == pytest.approx((-0.146, -0.014), abs=0.015)
    # shares, as of four samples, count as they are
    shares = [(0.25 * x, 0.25 * y) for x, y in zip(RIGHT_A, RIGHT_B)]
    assert paired_bootstrap(*zip(*shares))[1:] == pytest.approx((0.0035, 0.0365), abs=0.004)
    # every difference alike: nothing varies
    assert paired_bootstrap([1] * 7, [0.5] * 7) == (0.5, 0.5, 0.5)


def test_paired_bootstrap_percentiles():
    """One question of three is won. Of 27 resamples 8 have no win and one has three, 3.7%: more
    than 2.5%, less than 5%. One of four: none with probability 0.316, three or more with 0.051,
    four with 0.004.
    """
    assert paired_bootstrap([1, 0, 0], [0, 0, 0]) == (pytest.approx(1 / 3), 0, 1)
    assert paired_bootstrap([1, 0, 0, 0], [0, 0, 0, 0]) == (0.25, 0, 0.75)


def test_paired_bootstrap_repeats():
    """The same seed gives the same interval, another one another; the global state is not used."""
    random.seed(1)
    first = paired_bootstrap(RIGHT_A, RIGHT_B, 50)
    random.seed(2)
    assert paired_bootstrap(RIGHT_A, RIGHT_B, 50) == first
    found = {paired_bootstrap(RIGHT_A, RIGHT_B, 50, seed=seed) for seed in range(9)}
    assert len(found) > 1, f"expected other intervals for other seeds, obtained {found}"


def test_paired_bootstrap_is_fast():
    start = time.perf_counter()
    paired_bootstrap([1, 0] * 250, [0, 1] * 250)
    assert time.perf_counter() - start < 4


def test_control():
    """Tokens of s1's Tables 12 and 13 against the limits that were asked for."""
    tokens, steps = [1024, 2048, 4096, 8192, 16384], [1600, 3200, 6400, 12800, 25600]
    assert control([7939, 7158, 8263, 7108, 7500], tokens) == 40
    assert control([1024, 2048, 4031, 5664, 6330], tokens) == 100
    assert control([7252, 6277, 5396, 5552, 7551], steps) == 60
    assert control([1517, 2963, 4636, 5409, 7551], steps) == 100 == control([(5, 40.0)], [(1, 9)])
    assert control([(5, 40.0)], [(6, 9)]) == 0
    # Class-conditional control against the 6,109 tokens of no instruction:
    # "short" has to be below, "long" above it.
    assert control([8033, 9651], [(0, 6109), (6109, math.inf)]) == 50
    with pytest.raises(ValueError):
        control([1, 2], [3])


TABLES = {  # s1 Tables 12-14: tokens, right answers of 30, scaling, performance
    "TCC": ([7939, 7158, 8263, 7108, 7500], [8, 9, 10, 10, 12], -23.77, 40.0),
    "TCC+BF": ([1024, 2048, 4031, 5664, 6330], [1, 9, 10, 10, 12], 13.16, 40.0),
    "SCC": ([7252, 6277, 5396, 5552, 7551], [10, 7, 10, 11, 10], 2.93, 36.7),
    "SCC+BF": ([1517, 2963, 4636, 5409, 7551], [7, 7, 10, 11, 10], 6.41, 36.7),
    "CCC": ([8033, 9651], [9, 11], 25.18, 36.7),
    "BF": ([500, 1000, 2000, 3933, 5300, 6657, 7320], [0, 4, 9, 13, 15, 16, 17], 14.82, 56.7),
}


@pytest.mark.parametrize("method", TABLES)
def test_scaling_reproduces_the_paper(method):
    tokens, right, slope, best = TABLES[method]
    points = [(t, 100 * r / 30) for t, r in zip(tokens, right)]
    assert scaling(points) == pytest.approx(slope, abs=0.05) and performance(
        points
    ) == pytest.approx(best, abs=0.05)


def test_scaling_by_hand():
    """Slopes 10, 20 and 30/2 per doubling -> 15; -10, +5 and -5/2 -> -2.5. Linear: 10/1000,
    20/2000, 30/3000.
    """
    points = [(1000, 10), (2000, 20), (4000, 40)]
    assert (
        scaling(points) == scaling(points[::-1]) == 15
        and scaling([(1000, 40), (2000, 30), (4000, 35)]) == -2.5
    )
    assert scaling(points, x="linear") == pytest.approx(0.01)
    # NaN: no pair with different tokens
    assert scaling([(7, 1), (7, 2)]) != scaling([(7, 1), (7, 2)])


NAMES = {
    "math": ["AIME24", "AIME25", "MATH500", "Olymp"],
    "other": ["GPQA", "LCB2", "ACP", "HeadQA"],
    "non": ["CoQA", "MC-TACO", "IFEval", "Halu"],
}


def scores(*values):
    values = iter(values)
    return {group: {name: next(values) for name in names} for group, names in NAMES.items()}


# UniReason, Table 1
BASE = scores(13.0, 9.3, 60.4, 27.9, 42.6, 29.7, 10.7, 37.6, 10.0, 67.7, 69.2, 35.7)


TUNED = {
    "RL": scores(55.7, 38.0, 87.8, 33.8, 57.7, 40.6, 65.4, 40.2, 28.2, 74.0, 70.0, 40.7),
    "think": scores(52.0, 37.0, 85.0, 25.0, 55.9, 21.9, 68.6, 34.8, 1.7, 38.2, 42.3, 2.3),
    "no-think": scores(16.0, 13.0, 77.2, 22.7, 48.7, 23.5, 69.3, 35.0, 5.3, 66.1, 41.4, 3.3),
}


@pytest.mark.parametrize(
    "tuned, version, sigma, other, non, tolerance",
    [
        ("RL", "v1", None, 83.90, 29.35, 0.05),
        ("think", "v1", None, 85.74, -41.23, 0.05),
        ("no-think", "v1", None, 741.5, -250.3, 0.05),
        ("RL", "v2", None, 87.68, 58.96, 0.01),
        ("think", "v2", None, 55.66, -117.52, 0.01),
        ("no-think", "v2", None, 176.25, -314.97, 0.01),
        # as published
        ("RL", "v2", "fitted", 82.3, 52.2, 0.1),
        ("think", "v2", "fitted", 52.2, -104.1, 0.1),
        ("no-think", "v2", "fitted", 165.4, -278.9, 0.1),
        ("RL", "v2", "pooled", 82.0, 52.3, 0.1),
        ("think", "v2", "pooled", 52.1, -104.3, 0.1),
    ],
)
def test_transferability_reproduces_the_paper(tuned, version, sigma, other, non, tolerance):
    """TI scales with √(sigma_math / sigma_group): factors 0.9386, 0.8856 are sigmas 1/0.9386²,
    1/0.8856².
    """
    sigma = {
        "fitted": {"math": 1, "other": 0.9386**-2, "non": 0.8856**-2},
        "pooled": {"math": 16.12, "other": 18.43, "non": 20.46},
    }.get(sigma)
    index = transferability(BASE, TUNED[tuned], version, sigma)
    assert index == {
        "other": pytest.approx(other, abs=tolerance),
        "non": pytest.approx(non, abs=tolerance),
    }


def test_transferability_where_it_is_undefined(capsys):
    def undefined(math, other, version, why):
        (base, tuned) = ({"math": {"a": math[i]}, "other": {"b": other[i]}} for i in (0, 1))
        assert (
            transferability(base, tuned, version)["other"]
            != transferability(base, tuned, version)["other"]
        )
        assert why in capsys.readouterr().err

    for version in ("v1", "v2"):
        undefined((50, 50), (50, 60), version, "no gain in maths")
        undefined((50, 40), (50, 60), version, "no gain in maths")
    undefined((50, 60), (0, 60), "v1", "base score 0 in group 'other'")
    undefined((0, 60), (9, 60), "v1", "base score 0 in group 'math'")
    undefined((50, 60), (100, 60), "v2", "base score 100 in group 'other'")
    with pytest.raises(ValueError, match="math"):
        transferability({"other": {"b": 50}}, {"other": {"b": 60}})
    with pytest.raises(ValueError, match="differ"):
        transferability(BASE, {"math": {"a": 1}})


# ---- runs


def completion(id, response, answer="4", sample=0, **more):
    return {
        "id": id,
        "sample": sample,
        "answer": answer,
        "response": response,
        "n_thinking_tokens": 10,
        "n_tokens": 12,
        "finish": "stop",
        "forced": False,
        **more,
    }


def example():
    """q1: 3 of 4 right, q2: 4 of 4, q3: 1 of 4 (one cut while thinking), q4 has no answer to
    compare with.
    """
    rows = [
        completion("q1", f"Answer: {a}", sample=i, subject="algebra")
        for i, a in enumerate([5, 4, 4, 4])
    ]
    rows += [completion("q2", "\\boxed{4.}", sample=i, subject="algebra") for i in range(4)]
    rows += [
        completion(
            "q3", r, sample=i, group="other", n_thinking_tokens=20 + i, finish=f, forced=i == 2
        )
        for i, (r, f) in enumerate([("", "length"), ("7", "stop"), ("8", "stop"), ("4", "stop")])
    ]
    return rows + [completion("q4", "5", answer="")]


def test_metrics():
    """Accuracy (3/4 + 1 + 1/4)/3 = 66.67. pass@2: q1 and q2 1, q3 1 - C(3,2)/C(4,2) = 1/2 -> 83.33.
    maj@2: q1 [5, 4] ties, 5 came first: wrong; q2 right; q3 [None, 7]: wrong -> 33.33. Group
    "other" has 4 samples of thinking lengths 20..23, one of them cut, one forced, one without an
    answer.
    """
    rows = example()
    before = json.dumps(rows)
    result = metrics(rows, k=(1, 2, 5))
    assert json.dumps(rows) == before
    everything, other = result["all"], result["groups"]["other"]
    assert (everything["n_questions"], everything["n_samples"], everything["skipped"]) == (3, 12, 1)
    assert everything["accuracy"] == pytest.approx(200 / 3) == everything["pass@1"]
    assert everything["pass@2"] == pytest.approx(100 * 2.5 / 3)
    assert everything["maj@2"] == pytest.approx(100 / 3) and "pass@5" not in everything
    assert everything["low"] < everything["accuracy"] < everything["high"]
    assert [other[name] for name in ("n_thinking_tokens", "truncated", "forced", "no_answer")] == [
        21.5,
        25,
        25,
        25,
    ]
    assert list(result["groups"]) == ["all", "other"] and list(
        result["groups"]["all"]["tasks"]
    ) == ["algebra", "all"]
    assert result["groups"]["all"]["tasks"]["algebra"]["accuracy"] == 87.5
    assert result["groups"]["other"]["questions"] == {"q3": (0.25, 21.5)}
    shuffled = rows[::-1]
    assert metrics(shuffled, k=(1,))["all"]["accuracy"] == pytest.approx(everything["accuracy"])


def test_last_number():
    """The last number of the whole text, without commas and $; only for golds that are numbers."""
    for text, gold, right in (
        ("So 6 * 7 is 42.", "42", True),
        ("It is 42, not 43", "42", False),
        ("in all $1,234.50", "1234.5", True),
        ("minus 3 is -3", "-3", True),
        ("no number", "3", False),
        ("7" * 5000, "7", False),
    ):
        assert evaluate.last_number_is_right({"answer": gold, "response": text}) is right, text
    number = {"answer": "4", "response": "", "thinking": "so it is 4 and"}
    assert evaluate.last_number_is_right(number) is True  # cut while thinking
    assert evaluate.last_number_is_right(number | {"text": "4 5"}) is False
    for other in ({"answer": "1/2"}, {"answer": None}, {"choices": ["1", "4"]}, {"nums": [4]}):
        assert evaluate.last_number_is_right(number | other) is None


def test_flexible_beside_strict(tmp_path, capsys):
    """Of two marked and two unmarked answers 4 two are right by the strict reading, all by the
    flexible one. Beside an answer that is no number there is no column.
    """
    said = ["So 4.", "So that is\n4 apples.", "\\boxed{4}", "Answer: 4"]
    rows = [
        completion(f"q{i}", text + "\n" * (i < 2) + "x" * 120 * (i < 2))
        for i, text in enumerate(said)
    ]
    path = str(tmp_path / "run.jsonl")
    write_rows(path, rows)
    summary = main(Config(runs=(path,)))["runs"][path]["all"]
    assert (summary["accuracy"], summary["flexible"], summary["no_answer"]) == (50, 100, 50)
    printed = capsys.readouterr()
    assert "flexible" in printed.out.splitlines()[0].split()
    assert printed.err == (
        f"{path}: 2 of 4 samples have no answer that can be found: it would help to end the "
        'questions with an instruction, as in "Put the final answer in \\boxed{}."\n'
    )
    write_rows(path, rows + [completion("r", "x", answer="x")])
    assert main(Config(runs=(path,)))["runs"][path]["all"]["flexible"] is None
    assert "flexible" not in capsys.readouterr().out


def test_advice_where_answers_are_missing():
    """It depends on the rows; where most were cut, no instruction helps."""
    none = completion("q", "well\n" * 99)
    for fields, words in (
        ({}, "boxed"),
        ({"choices": ["a", "b"]}, "Answer: B"),
        ({"choices": ["no", "yes"]}, "yes or no"),
        ({"nums": [1], "target": 1}, "<answer>"),
    ):
        advice = evaluate.advise_on_answers([none | fields, completion("r", "4")])
        assert advice.startswith("1 of 2 samples have no answer") and words in advice, fields
    advice = evaluate.advise_on_answers([none | {"finish": "length"}] * 3)
    assert "3 of them were cut" in advice and "--max-tokens" in advice and "boxed" not in advice
    thought = none | {"thinking": "x", "response": ""}
    advice = evaluate.advise_on_answers([thought, thought, none])
    assert "2 of them stopped without an end of thinking" in advice and "--format" in advice


def test_comparisons_without_a_result_are_named(tmp_path, capsys, monkeypatch):
    """Four questions with a symbolic comparison that ran out of time, one of them twice."""

    def ask(question):
        raise symbolic.NoResult("timeout")

    monkeypatch.setattr(symbolic, "_ask", ask)
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: name)
    symbolic.forget(), symbolic.FAILURES.clear()
    rows = [completion(f"q{i}", f"|{i}-x|", answer=f"|x-{i}|") for i in range(4)]
    rows += [completion("q3", "|4-x|", answer="|x-3|", sample=1), completion("sure", "4")]
    path = str(tmp_path / "run.jsonl")
    write_rows(path, rows)
    result = main(Config(runs=(path,)))["runs"][path]
    # two of the samples of q3, and the two with each other, both ways
    assert result["undecided"] == {"q0": 1, "q1": 1, "q2": 1, "q3": 4}
    said = capsys.readouterr().err
    assert "7 symbolic comparisons gave no result and count as not the same" in said
    assert "in questions 'q0', 'q1', 'q2', 1 more (in all runs so far: 7 timeout)" in said
    symbolic.forget()


def test_runs_that_share_some_questions(tmp_path, capsys):
    """The tuned run has the group "math" and rows without a group, the base "math", "other" and
    other groups for some questions. All four shared questions count, once each: +1, +1, 0, 0 are 50
    points; in maths 1/2, without a group 1/2. The benchmark "b" is in one run only.
    """
    tuned = [completion(f"m{i}", "4", group="math", task="a") for i in range(2)]
    tuned += [completion(f"n{i}", "4") for i in range(2)]
    base = [completion(f"m{i}", "45"[i], group="math", task="a") for i in range(2)]
    base += [completion(f"n{i}", "45"[i], group="other") for i in range(2)]
    base += [completion("b0", "5", group="math", task="b"), completion("o", "5", group="third")]
    names = [str(tmp_path / f"{name}.jsonl") for name in ("tuned", "base")]
    for name, rows in zip(names, (tuned, base)):
        write_rows(name, rows)
    result = main(Config(runs=(names[0],), base=names[1], resamples=50))["runs"][names[0]]
    differences = result["compared"]["difference"]
    assert list(differences) == ["all", "math", "no group"]
    assert [(found[0], found[3]) for found in differences.values()] == [(50, 4), (50, 2), (50, 2)]
    assert "transferability" not in result["compared"]
    printed = capsys.readouterr()
    assert "left out" not in printed.err
    rows = [line.split() for line in printed.out.splitlines() if line.startswith("tuned ")]
    assert [line[1] for line in rows] == ["math", "no", "all"] and rows[-1][2] == "4"
    # Both have a second group now; the index needs the benchmarks of both only.
    write_rows(names[0], tuned + [completion("o", "4", group="third")])
    write_rows(names[1], base)
    compared = main(Config(runs=(names[0],), base=names[1], resamples=50))["runs"][names[0]]
    assert list(compared["compared"]["transferability"]) == ["third"]
    assert "only one run has math/b, other/other, no group/all: left out" in capsys.readouterr().err
    write_rows(names[0], [completion("elsewhere", "4")])
    with pytest.raises(BadInput, match="no question in common"):
        main(Config(runs=(names[0],), base=names[1]))


def test_what_more_samples_and_tokens_buy():
    """Two questions, three samples. q1: 5, 4, 0.5·8 with scores 1, 2, 3; q2: 9, 8, 4 with 3, 1, 2
    (the gold is 4). avg@2 (1/2 + 0)/2; bon@2 picks q1's second, q2's first: 1/2; bon@3 q1's third,
    q2's first: 1/2; maj@3 takes 8/2 for 4: q1 right, q2 a tie that 9 wins. Tokens 10 20 30 and 1 2
    6: sums 60 and 9, the longest 30 and 6; of the first two 30 and 3, 20 and 2. q2's longest sample
    was cut: the mean of the others is (10 + 20 + 30 + 1 + 2)/5.
    """
    rows = [
        completion("q1", a, sample=i, n_tokens=10 * i + 10, score=i + 1)
        for i, a in enumerate(["5", "4", "8/2"])
    ]
    rows += [
        completion("q2", a, sample=i, n_tokens=n, score=s, finish="length" if n == 6 else "stop")
        for i, (a, n, s) in enumerate(zip("984", (1, 2, 6), ([4, 2], [1], [2])))
    ]
    found = metrics(rows, (1, 2, 3), best_by="score")["all"]
    assert [found[f"avg@{k}"] for k in (1, 2, 3)] == pytest.approx([0, 25, 50])
    assert [found[f"bon@{k}"] for k in (1, 2, 3)] == [0, 50, 50] and [
        found[f"maj@{k}"] for k in (1, 2, 3)
    ] == [0, 0, 50]
    assert found["tokens@2"] == [16.5, 11] and found["tokens@3"] == [34.5, 18]
    assert (found["total_tokens"], found["sequential_tokens"], found["stopped_tokens"]) == (
        34.5,
        18,
        12.6,
    )
    assert found["truncated"] == pytest.approx(100 / 6)
    rows[1].pop("n_tokens"), rows[2].pop("score")
    found = metrics(rows, (1, 2, 3), best_by="score")["all"]
    assert "bon@2" not in found and "tokens@2" not in found and found["total_tokens"] is None


def test_clip_ratio_and_stopped_length_of_simplerl():
    """Lengths 100, 200, 8192, the last one cut: clip ratio 1/3, stopped length 150, mean length
    2830.67.
    """
    rows = [
        completion(f"q{n}", "4", n_tokens=n, finish="length" if n > 999 else "stop")
        for n in (100, 200, 8192)
    ]
    found = metrics(rows)["all"]
    assert (found["truncated"], found["stopped_tokens"]) == (pytest.approx(100 / 3), 150)
    assert found["n_tokens"] == pytest.approx(2830.67, abs=0.01)


def test_weighted_votes():
    """8 has two votes that weigh .3 and .4, 7 one that weighs .9; equal sums go to the first."""
    assert majority([7, 8, 8], weights=[0.9, 0.3, 0.4]) == 7 and majority([7, 8, 8]) == 8
    assert majority([7, 8, 8, None], weights=[0.5, 0.25, 0.25, 9]) == 7


def test_ifeval_run(tmp_path, capsys):
    """Three responses, two instructions each. Strict: both; no comma only; none. Loose: without its
    first line the second ends as it should, too, and the third has no comma any more.
    """
    checks = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {}],
        "answer": None,
    }
    rows = [
        completion(f"q{i}", text, group="plain", **checks)
        for i, text in enumerate(('"quoted"', 'Sure:\n"quoted"', "Well, now\nyes"))
    ]
    found = metrics(rows)["all"]
    assert found["accuracy"] == pytest.approx(100 / 3) and found["skipped"] == 0
    assert found["ifeval"] == {
        "prompt_strict": pytest.approx(100 / 3),
        "prompt_loose": pytest.approx(200 / 3),
        "instruction_strict": pytest.approx(50),
        "instruction_loose": pytest.approx(500 / 6),
    }
    base = [completion(f"q{i}", "no", group="plain", **checks) for i in range(3)]
    for name, written, right in (("base", base, "1"), ("tuned", rows, "4")):
        write_rows(
            tmp_path / f"{name}.jsonl",
            written + [completion("m1", "4", group="math"), completion("m2", right, group="math")],
        )
    names = [str(tmp_path / f"{name}.jsonl") for name in ("tuned", "base")]
    report = main(Config(runs=(names[0],), base=names[1], ti="v1"))
    assert report["runs"][names[0]]["compared"]["transferability"] == {"plain": pytest.approx(0)}, (
        "50% of instructions each"
    )
    assert "IFEval: prompt strict 33.3" in capsys.readouterr().out


def test_conversations(tmp_path, capsys):
    """Right is who says the same words as one reference; exact match and F1 stand beside it, and
    the first line answers where nothing is marked as the answer.
    """
    references = {
        "references": ["in a barn", "a big barn"],
        "answer": "in a barn",
        "group": "non",
        "task": "coqa",
    }
    rows = [
        completion(f"q{i}", text, **references)
        for i, text in enumerate(
            (
                "In barn.\n\nQ: And then?\n\nA: x",
                "So \\boxed{a barn in Ohio}\nas I said",
                "no idea\nwhere",
            )
        )
    ]
    found = metrics(rows)["groups"]["non"]
    assert found["accuracy"] == pytest.approx(100 / 3)
    # of two references one is the person's own
    assert found["overlap"]["exact"] == pytest.approx(100 * 0.5 / 3)
    assert found["overlap"]["f1"] == pytest.approx(100 * ((1 + 0.5) / 2 + (0.8 + 0.4) / 2 + 0) / 3)
    write_rows(tmp_path / "run.jsonl", rows)
    report = main(Config(runs=(str(tmp_path / "run.jsonl"),)))
    assert "words shared with the references: exact 16.7, F1 45.0" in capsys.readouterr().out
    assert evaluate.task_scores(next(iter(report["runs"].values()))) == {
        "non": {"coqa": pytest.approx(50 / 3)}
    }
    assert grade({"references": []}, "x") is None and grade({"references": ["x"]}, None) is False


def test_table_of_scores(tmp_path, capsys):
    """UniReason's Table 1 as rows: group averages recomputed from the cells (27.65 and 53.8 in
    maths, 44.1 and 51.0 where 45.2 and 60.0 are printed) and both indices, as
    test_transferability_reproduces_the_paper has them.
    """
    rows = [
        {"model": model, "group": group, "benchmark": name, "score": score}
        for model, table in ({"base": BASE} | TUNED).items()
        for group, scores in table.items()
        for name, score in scores.items()
    ]
    path = tmp_path / "scores.jsonl"
    write_rows(path, rows)
    report = main(Config(scores=str(path), base="base", markdown=True))
    means = [
        report[model]["average"][group]
        for model, group in (
            ("base", "math"),
            ("RL", "math"),
            ("no-think", "other"),
            ("RL", "other"),
        )
    ]
    assert means == pytest.approx([27.65, 53.825, 44.125, 50.975])
    assert report["RL"]["v1"] == pytest.approx({"other": 83.90, "non": 29.35}, abs=0.05)
    assert report["RL"]["v2"] == pytest.approx({"other": 87.68, "non": 58.96}, abs=0.01)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split("|")[1].strip() == "model" and set(printed[1]) == set("|-:")
    assert len(set(map(len, printed))) == 1 and len(printed) == 2 + 4
    main(Config(scores=str(path), sigma="pooled", out=str(tmp_path / "out.jsonl")))
    saved = read_rows(tmp_path / "out.jsonl")[0]
    assert list(saved) == ["base", "RL", "think", "no-think"]
    spread = {
        g: statistics.pstdev([x for t in (BASE, *TUNED.values()) for x in t[g].values()])
        for g in BASE
    }
    expected = transferability(BASE, TUNED["RL"], "v2", spread)
    assert saved["RL"]["v2"] == pytest.approx(expected)
    for extra, words in (
        (rows[0], "scores.jsonl:49: base math AIME24 is on line 1 too"),
        ({**rows[0], "score": "9", "benchmark": "x"}, "49: score '9'"),
        ({"model": "new"}, "49: no field 'group'"),
        ({**rows[0], "model": "new"}, "new: base and tuned"),
    ):
        write_rows(path, rows + [extra])
        with pytest.raises(BadInput, match=words):
            main(Config(scores=str(path), base="base"))
    with pytest.raises(BadInput, match="--base nobody: not among the models"):
        main(Config(scores=str(path), base="nobody"))


MORE = {  # UniReason, Tables 9-11 and 5: base, tuned, published TI v2 of other and non-reasoning
    "S1.1-7B": (
        (12.0, 9.7, 72.8, 29.6, 23.4, 32.9, 57.5, 33.7, 8.1, 74.6, 80.0, 64.6),
        (23.3, 13.3, 75.8, 28.7, 41.4, 10.7, 36.7, 31.4, 1.1, 70.0, 40.2, 14.3),
        -65.5,
        -213.3,
    ),
    "LIMO-32B": (
        (16.7, 16.7, 80.0, 30.1, 40.4, 49.0, 72.1, 38.6, 9.4, 75.3, 79.1, 77.5),
        (56.7, 46.0, 86.4, 42.2, 62.3, 58.7, 77.9, 37.0, 7.9, 73.0, 75.9, 71.2),
        40.5,
        -27.3,
    ),
    "S1.1-32B": (
        (16.7, 16.7, 80.0, 30.1, 40.4, 49.0, 72.1, 38.6, 9.4, 75.3, 79.1, 77.5),
        (59.0, 44.0, 92.8, 41.6, 59.9, 58.2, 74.3, 36.0, 0.2, 69.4, 52.8, 50.8),
        33.8,
        -62.2,
    ),
    "SimpleRL-7B": (
        (3.3, 1.6, 59.1, 11.6, 37.5, 7.8, 26.8, 38.4, 0.9, 61.7, 47.4, 17.2),
        (15.7, 7.6, 69.8, 24.1, 29.3, 14.7, 35.4, 34.1, 1.2, 59.7, 48.4, 28.9),
        15.4,
        34.4,
    ),
}


@pytest.mark.parametrize("model", MORE)
def test_transferability_of_other_models(model):
    """The same two constants that fit the controlled study."""
    base, tuned, other, non = MORE[model]
    index = transferability(
        scores(*base), scores(*tuned), "v2", {"math": 1, "other": 0.9386**-2, "non": 0.8856**-2}
    )
    assert index == {"other": pytest.approx(other, abs=0.15), "non": pytest.approx(non, abs=0.15)}


def test_averages_of_limo():
    """LIMO's Table 1, ten benchmarks: 78.1 against 32.3 for as many traces from NuminaMath, 45.8
    points.
    """
    limo = statistics.fmean([63.3, 95.6, 96.3, 67.6, 84.2, 91.1, 83.9, 76.2, 52.2, 70.7])
    numina = statistics.fmean([6.5, 59.2, 40.6, 36.7, 11.2, 49.4, 32.7, 36.2, 24.6, 25.8])
    assert (
        limo == pytest.approx(78.11)
        and numina == pytest.approx(32.29)
        and round(limo - numina, 1) == 45.8
    )


def test_figure(tmp_path):
    """Two runs of a model make a curve, from 0% to 100%; one run makes none."""
    for name, tokens, said in (("a", 100, "5"), ("b", 400, "4")):
        write_rows(
            tmp_path / f"{name}.jsonl",
            [completion(f"q{i}", said, n_thinking_tokens=tokens) for i in range(7)],
        )
    a, b, png = (str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "new/curve.png"))
    main(Config(runs=(a, b), figure=png))
    assert Path(png).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(BadInput, match="--figure"):
        main(Config(runs=(a,), figure=png))


def test_a_folder_of_runs(tmp_path, capsys):
    """Its completion files are the runs, in name order; logs and problems are not."""
    for name in ("long", "base"):
        write_rows(tmp_path / f"{name}.jsonl", [completion("q", "4")])
    write_rows(tmp_path / "log.jsonl", [{"step": 1}])
    write_rows(tmp_path / "problems.jsonl", [{"id": "q", "question": "2+2"}])
    main(Config(runs=(str(tmp_path),), markdown=True))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[:4]] == [
        "run",
        lines[1].split("|")[1],
        "base",
        "long",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="none: no completions in this directory"):
        main(Config(runs=(str(tmp_path / "none"),)))


@pytest.mark.parametrize(
    "content, words",
    [
        (
            b'{"id": "q", "response": "4", "answer": "4"}\n{"id": "p", "resp',
            ":2: .* the file ends within a line: the run",
        ),
        (
            b'{"id": "q", "response": "4", "answer": "4"}\n'
            b'{"id": "p", "text": "4", "answer": "4"}\n',
            "one of lines 1 and 2 has a response and the other has not: two formats in one file",
        ),
        (
            b'{"id": "q", "response": "4", "answer": "4"}\n'
            b'{"id": "q", "sample": 1, "response": "4", "answer": "5"}\n',
            "lines 1 and 2 have different answers to question 'q'",
        ),
        (
            b'{"id": "q", "response": "4\xff", "answer": "4"}\n',
            ":1: not a JSON object .UnicodeDecodeError",
        ),
        (b'{"id": "q", "response": 4, "answer": "4"}\n', "line 1: cannot be graded"),
        (
            b'{"id": "q", "response": "4", "instruction_id_list": ["x:y"], "kwargs": [{}]}\n',
            "line 1: .* .'x:y' is not an",
        ),
        (b'{"response": "4"}\n', ":1: no field 'id'"),
        (b"", ":1: empty line$"),
    ],
)
def test_bad_runs_are_refused_with_file_and_line(tmp_path, content, words):
    (tmp_path / "run.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match="run.jsonl.*" + words):
        main(Config(runs=(str(tmp_path / "run.jsonl"),)))


def test_what_is_odd_but_usable_is_said(tmp_path, capsys):
    """A gold that is empty or broken, fewer samples of one question, a 10 MB line: graded, counted
    and named.
    """
    path = str(tmp_path / "run.jsonl")
    big = completion("big", "x" * 10_000_000 + " \\boxed{4}")
    write_rows(
        path,
        [
            completion("q", "4"),
            completion("q", "5", sample=1),
            big,
            completion("e", "4", answer=""),
            completion("b", "4", answer="\\frac{4}{}"),
        ],
    )
    start = time.perf_counter()
    summary = main(Config(runs=(path,)))["runs"][path]["all"]
    assert time.perf_counter() - start < 2
    assert (summary["n_questions"], summary["skipped"], summary["accuracy"]) == (2, 2, 75)
    said = capsys.readouterr().err
    assert "1 to 2 samples per question" in said
    assert "2 questions without an answer that can be compared with: skipped" in said
    for k in ((1, 2), (0,)):
        with pytest.raises(BadInput, match=rf"--k {k[-1]} with 1 samples of question 'big'"):
            main(Config(runs=(path,), k=k))


def test_repeated_sample_is_refused(tmp_path):
    write_rows(
        tmp_path / "run.jsonl",
        [completion("q1", "4"), completion("q2", "4"), completion("q1", "5")],
    )
    with pytest.raises(
        BadInput, match=r"run.jsonl: lines 1 and 3 are both sample 0 of question 'q1'"
    ):
        main(Config(runs=(str(tmp_path / "run.jsonl"),)))


def test_study_compares_like_with_like(tmp_path):
    """Two models, one run each, are no series; two runs of a model are compared on the questions
    they share: here q0 and q1, right 1 of 2 at 100 tokens and 2 of 2 at 400, so 25 points per
    doubling; q2 is in one run only.
    """
    for name, model, right, ids in (
        ("a", "m", "45", "01"),
        ("b", "m", "445", "012"),
        ("c", "other", "4", "0"),
    ):
        write_rows(
            tmp_path / f"{name}.jsonl",
            [
                completion(f"q{i}", text, n_thinking_tokens=100 if name == "a" else 400)
                for i, text in zip(ids, right)
            ],
        )
        (tmp_path / f"{name}.config.json").write_text(json.dumps({"model": model}))
    report = main(Config(runs=tuple(str(tmp_path / f"{name}.jsonl") for name in "abc")))
    assert list(report["study"]) == ["m"]
    assert report["study"]["m"]["n_questions"] == 2 and report["study"]["m"][
        "scaling"
    ] == pytest.approx(25)


def test_adherence_by_hand():
    """900, 1100 and 1300 tokens for 1000: 100, 100 and 300 off, which is 10, 10 and 30%; bias
    (-10 + 10 + 30) / 3. One length has no rank correlation. Ranks 1.5 1.5 3.5 3.5 against 2 1 3 4:
    covariance (1 * .5 + 1 * 1.5 + 1 * .5 + 1 * 1.5) = 4, over √(4 · 5)."""
    found = evaluate.adherence([(1000, 900), (1000, 1100), (1000, 1300)])
    assert found == {
        "n": 3,
        "error": pytest.approx(500 / 3),
        "relative": pytest.approx(50 / 3),
        "bias": pytest.approx(10),
        "over": pytest.approx(200 / 3),
        "rank": None,
    }
    found = evaluate.adherence([(10, 14), (10, 12), (20, 19), (20, 44)])
    assert found["rank"] == pytest.approx(4 / math.sqrt(20))
    assert evaluate.ranks([7, 3, 7, 9]) == [2.5, 1, 2.5, 4]


def test_lengths_that_were_asked_for(tmp_path, capsys):
    """A request's tokens, of thinking where the request says so; without one, the row's `budget`."""
    rows = [
        completion("a", "4", asks=["box", "l1:20"], budget=7, n_tokens=25, n_thinking_tokens=9),
        completion("b", "4", asks=["tokens:10"], n_tokens=25, n_thinking_tokens=9),
        completion("c", "4", budget=40, n_tokens=50),
        completion("d", "4", asks=["steps:3"], n_tokens=50),
        completion("e", "4", asks=["tokens:x"], n_tokens=50),
    ]
    assert evaluate.metrics(rows)["lengths"] == [(20, 25), (10, 9), (40, 50)]
    write_rows(tmp_path / "one.jsonl", rows)
    main(Config(runs=(str(tmp_path / "one.jsonl"),)))
    said = "one.jsonl, tokens asked for and used: 5.3 off (20%), bias +13%, 67% longer than asked"
    assert f"{said}, rank correlation 1.00" in capsys.readouterr().out


def test_runs_become_samples_of_one(tmp_path):
    """Lengths 12 and 24 for 10 and 20: 20% off, in order. A question as long both times has no
    order. Of three samples the majority, the best and the heaviest answer are different rows."""
    for asked, used in ((10, 12), (20, 24)):
        rows = [
            completion("a", "4", budget=asked, n_tokens=used),
            completion("b", "5", budget=asked, n_tokens=15),
            completion("c", "4"),
        ]
        write_rows(tmp_path / f"{asked}.jsonl", rows)
    runs = tuple(str(tmp_path / f"{asked}.jsonl") for asked in (10, 20))
    out = str(tmp_path / "merged.jsonl")
    main(Config(runs=runs, rows=out))
    found = [
        (row["id"], row["sample"], row.get("length_error"), row.get("length_rank"))
        for row in read_rows(out)
    ]
    assert found == [
        ("a", 0, pytest.approx(20), 1),
        ("a", 1, pytest.approx(20), 1),
        ("b", 0, pytest.approx(50), 0),
        ("b", 1, pytest.approx(25), 0),
        ("c", 0, None, None),
        ("c", 1, None, None),
    ]
    rows = [
        completion("a", a, sample=i, p=p)
        for i, (a, p) in enumerate([("5", 0.1), ("5", 0.1), ("4", 0.4), ("6", 0.3), ("6", 0.3)])
    ]
    write_rows(tmp_path / "10.jsonl", rows)
    for how, sample in (("majority", 0), ("best", 2), ("weighted", 3)):
        main(Config(runs=runs[:1], rows=out, choose=how, best_by="p"))
        (row,) = read_rows(out)
        assert row == rows[sample] | {"sample": 0}
    with pytest.raises(BadInput, match="--choose best: rows without a number in 'q'"):
        main(Config(runs=runs[:1], rows=out, choose="best", best_by="q"))
    with pytest.raises(BadInput, match="--choose best: needs --rows"):
        main(Config(runs=runs[:1], choose="best"))


def test_main(tmp_path, capsys):
    """40 questions, 30 right at 400 thinking tokens and 11 right at 100: 47.5 points over 2
    doublings. The base has 10 right; the 20 more are 50 points, and 1 more is not significant.
    """
    for name, right, tokens in (("short", 10, 100), ("long", 30, 400), ("same", 11, 100)):
        write_rows(
            tmp_path / f"{name}.jsonl",
            [
                completion(
                    f"q{i}",
                    "4" if i < right else "5",
                    group="math" if i % 2 else "other",
                    n_thinking_tokens=tokens,
                )
                for i in range(40)
            ],
        )
    (tmp_path / "long.config.json").write_text('{"thinking_budget": 300}')
    # "auto": no limit to be kept
    (tmp_path / "same.config.json").write_text('{"thinking_budget": -1}')
    short, long, same, out = (
        str(tmp_path / name) for name in ("short.jsonl", "long.jsonl", "same.jsonl", "out.json")
    )
    report = main(Config(runs=(long, same), base=short, out=out, resamples=500))
    assert report["study"][""] == {
        "n_runs": 2,
        "n_questions": 40,
        "n_limited": 1,
        "control": 0,
        "scaling": pytest.approx(47.5 / 2),
        "performance": 75,
        "points": [
            (100, pytest.approx(27.5), *(pytest.approx(100 * x) for x in wilson(11, 40))),
            (400, 75, *(pytest.approx(100 * x) for x in wilson(30, 40))),
        ],
        "lengths": [],
    }
    assert report["runs"][long]["compared"]["difference"]["all"][0] == 50
    assert set(report["runs"][short]) == {"all", "groups", "settings", "undecided", "lengths"}, (
        "the base is not compared with itself"
    )
    assert report["runs"][long]["compared"]["transferability"]["other"] == pytest.approx(100)
    printed = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in printed[:10]}) == 1 and len(printed[0].split()) == len(
        printed[1].split()
    )
    gain, none = (
        next(p for p in printed if p.startswith(f"{path} - ") and ", all:" in p)
        for path in (long, same)
    )
    assert (
        gain.endswith(", 40 questions, significant")
        and "+50.0" in gain
        and "not significant" in none
    )
    saved = read_rows(out)[0]
    assert saved["config"]["base"] == short and saved["runs"][short]["all"]["accuracy"] == 25
    assert saved["runs"][long]["all"]["accuracy"] == 75


def test_wrong_use_ends_in_one_line(tmp_path):
    script = Path(evaluate.__file__)
    for arguments, words in (
        ([], "no completions given"),
        ([tmp_path / "none.jsonl"], "none.jsonl: cannot be read"),
    ):
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1
    with pytest.raises(SystemExit) as stopped:
        settings.parse(Config, ["run.jsonl", "--sample", "3"])
    assert stopped.value.code == 2
    assert settings.parse(Config, ["a", "b", "--k", "1", "16"]) == Config(
        runs=("a", "b"), k=(1, 16)
    )


def test_needs_neither_torch_nor_transformers():
    heavy = {"torch", "transformers", "numpy", "sympy", "math_verify", "matplotlib"}
    code = f"import sys, evaluate; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(evaluate.__file__).parent, check=True)
