"""report/claims.py: paired differences and verdicts by hand."""

import functools
import re

import pytest

import evaluate
from engine.rows import BadInput
from report.claims import (
    budget_curves,
    compare_trainings,
    compare_waits,
    decide,
    decide_claim,
    decide_difference,
    paired_difference,
)
from report.runs import Run
from report.study import Models

difference = functools.partial(paired_difference, bootstrap=evaluate.paired_bootstrap)


def settle(claim, runs):
    return decide_claim(claim, runs, "claims.json", evaluate.paired_bootstrap)


@pytest.mark.parametrize(
    "low, high, expect, holds, words",
    [
        (1, 9, "higher", True, "yes"),
        (-9, -1, "lower", True, "yes"),
        (-9, -1, "higher", False, "reversed"),
        (1, 9, "lower", False, "reversed"),
        (-1, 9, "higher", None, "not significant"),
        (0, 9, "higher", None, "not significant"),
        (-4, 4.9, "same", True, "yes, unchanged within 5 points"),
        (1, 4, "same", True, "yes, unchanged within 5 points"),
        (1, 9, "same", False, "no, higher"),
        (-9, -1, "same", False, "no, lower"),
        (-6, 3, "same", None, "undecided, the interval leaves ±5"),
        (0, 0, "same", True, "yes, unchanged within 5 points"),
    ],
)
def test_decide(low, high, expect, holds, words):
    assert decide(low, high, expect) == (holds, words)


def test_paired_by_hand():
    """Questions pair by id; what only one side has is left out.

    Of two seeds each question counts once, with its mean.
    """
    before = {"0": {"a": 0.0, "b": 1.0, "c": 0.0}, "1": {"a": 0.0, "b": 0.0}, "7": {"a": 1.0}}
    after = {"0": {"a": 1.0, "b": 1.0, "d": 1.0}, "1": {"a": 1.0, "b": 1.0}}
    found = difference(before, after)
    # a: 1, b: 1/2
    assert (
        found["difference"] == pytest.approx(75)
        and found["n"] == 2
        and found["seeds"] == ["0", "1"]
    )
    assert found["per_seed"] == pytest.approx({"0": 50, "1": 100})
    assert (found["low"], found["high"]) == pytest.approx((50, 100))
    assert (
        difference({"0": {"a": 1.0}}, {"0": {"b": 1.0}}) is None
        and difference({}, {"0": {"b": 1.0}}) is None
    )
    # no seed in common: pooled
    assert difference({"0": {"a": 0.0}}, {"1": {"a": 1.0}})["difference"] == 100


def graded(name, answers, seed="0", group="math", **settings):
    rows = [
        {"id": str(i), "question": "q", "answer": "1", "response": a, "group": group}
        for i, a in enumerate(answers)
    ]
    return Run(name, seed, settings, rows, graded=evaluate.metrics(rows))


def test_claims_by_hand():
    """20 questions, 10 turn right: +50 points; groups are kept apart; an unknown run is named."""
    runs = [
        graded("a", "0" * 20),
        graded("b", "0" * 10 + "1" * 10),
        graded("a", "0" * 20, "1"),
        graded("b", "0" * 5 + "1" * 15, "1"),
        graded("p", "1" * 4, group="plain"),
    ]
    claim = {"id": "A", "text": "t", "group": "math", "from": "a", "to": "b", "expect": "higher"}
    found = settle(claim, runs[:2])
    assert found["holds"] is True and found["n"] == 20
    assert re.fullmatch(
        r"yes: 0\.0 → 50\.0, \+50\.0 \[\d+\.\d, \d+\.\d\], n=20, seeds 0", found["verdict"]
    )
    assert settle(claim | {"expect": "lower"}, runs)["verdict"].startswith(
        "reversed: 0.0 → 62.5, +62.5 ["
    )
    assert settle(claim, runs)["verdict"].endswith("n=20, seeds 0 (+50.0), 1 (+75.0)")
    assert settle(claim | {"to": "a", "expect": "same"}, runs)["verdict"].startswith(
        "yes, unchanged within 5 points: 0.0 → 0.0, +0.0"
    )
    for wrong, word in (
        ({"to": "zz"}, "zz"),
        ({"to": "p"}, "in common"),
        ({"expect": "more"}, "higher, lower or same"),
    ):
        with pytest.raises(BadInput, match=word):
            settle(claim | wrong, runs)


def test_contrasts_by_hand():
    """KL of a question: mean of its samples, then of the seeds, then of the differences.

    What an interval does not tell apart is not called different.
    """

    def answers(kls, shifted):
        return {
            "math": [
                {"question": q, "kl_forward": kl, "n_shifted": n}
                for q, kl, n in zip("aabc", kls, shifted)
            ]
        }

    questions = {
        "s0/sft": answers([1, 3, 4, 6], [1, 1, 3, 5]),
        "s1/sft": answers([1, 3, 4, 6], [1, 1, 3, 5]),
        "s0/rl": answers([1, 1, 2, 4], [3, 3, 2, 5]),
        "s1/rl": answers([1, 1, 4, 4], [3, 3, 2, 5]),
    }
    models = Models("b", "b", {name: name for name in questions}, {}, {}, ["s0/sft", "s0/rl"], [])
    bootstrap = functools.partial(evaluate.paired_bootstrap, n_resamples=2000)
    kl, shifted = compare_trainings(models, questions, [], bootstrap)
    assert (kl["one"], kl["other"], kl["n"], kl["seeds"]) == ("sft", "rl", 3, ["s0", "s1"])
    assert (
        kl["difference"] == pytest.approx(((1 - 2) + (3 - 4) + (4 - 6)) / 3)
        and kl["verdict"] == "less with rl"
    )
    assert kl["per_seed"] == pytest.approx({"s0": (-1 - 2 - 2) / 3, "s1": (-1 + 0 - 2) / 3})
    assert (
        shifted["difference"] == pytest.approx(1 / 3)
        and shifted["verdict"] == "no significant difference"
    )
    assert compare_trainings(models.without(["s0/rl"]), questions, [], bootstrap) == []


def test_a_budget_that_hurts():
    """Three numbers of Waits make a curve; the most are not the best: -50 points."""
    runs = []
    for waits, answers, tokens in ((0, "1000", 5), (1, "1111", 9), (4, "1100", 30)):
        run = graded(f"w{waits}", answers, waits=waits, model="out/m")
        for row in run.rows:
            row["n_thinking_tokens"] = tokens
        runs.append(run._replace(graded=evaluate.metrics(run.rows)))
    runs.append(graded("unknown", "1111"))  # no header
    by_name = {run.name: run.graded for run in runs}
    assert budget_curves(runs[:2], by_name, "math") == {}  # two numbers are no curve
    points = budget_curves(runs[::-1], by_name, "math")["m"]
    assert [(p["name"], p["label"], p["accuracy"]) for p in points] == [
        ("w0", "no forcing", 25),
        ("w1", "Wait ×1", 100),
        ("w4", "Wait ×4", 50),
    ]
    found = compare_waits(points, runs, "math", evaluate.paired_bootstrap)
    assert (found["most"], found["best"], found["difference"]) == ("Wait ×4", "Wait ×1", -50)
    assert compare_waits(points[:2], runs, "math", evaluate.paired_bootstrap) is None


def test_a_claim_about_a_field_of_the_rows():
    """Tokens 10, 20 -> 16, 26 of one seed, 12, 22 of another: means 10, 20 -> 14, 24, so +4.

    Two samples of a question count as their mean: 15 and 17 are 16. Rows of other groups are out.
    """

    def run(name, seed, *tokens):
        rows = [
            {"id": question, "group": "math", "n_tokens": n}
            for question, of_question in zip("ab", tokens)
            for n in of_question
        ]
        return Run(name, seed, {}, [*rows, {"id": "c", "group": "other"}])

    runs = [
        *(run("old", seed, [10], [20]) for seed in "01"),
        run("new", "0", [15, 17], [26]),
        run("new", "1", [12], [22]),
    ]
    claim = {"id": "T", "text": "t", "group": "math", "measure": "n_tokens", "from": "old"}
    claim |= {"to": "new", "expect": "same"}
    found = decide_claim(claim, runs, "c.json", evaluate.paired_bootstrap)
    assert (found["before"], found["after"], found["difference"]) == (15, 19, 4)
    assert found["holds"] is False and found["verdict"].startswith("no, higher: 15.0 → 19.0, +4 [")
    with pytest.raises(BadInput, match="'n_tokens' is not a number"):
        decide_claim(claim | {"group": "all"}, runs, "c.json", evaluate.paired_bootstrap)


def test_the_same_for_a_number_of_any_size_is_a_tenth_of_it():
    """0.40 -> 0.41 to 0.43 is within 0.04; up to 0.45 is undecided; one question decides nothing."""
    found = {"before": 0.40, "low": 0.01, "high": 0.03, "n": 9}
    assert decide_difference(found, "same", "kl") == (True, "yes, unchanged within 10%")
    found |= {"low": -0.01, "high": 0.05}
    assert decide_difference(found, "same", "kl")[0] is None
    assert decide_difference(found | {"low": 0.02}, "same", "kl") == (False, "no, higher")
    assert decide_difference(found | {"low": 0.02}, "higher", "kl") == (True, "yes")
    assert decide_difference(found | {"low": 0.02, "n": 1}, "higher", "kl")[0] is None
