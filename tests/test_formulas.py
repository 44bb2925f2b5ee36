"""grading/formulas.py: arithmetic without eval, and the checker of Countdown."""

import random
import re
from fractions import Fraction

import pytest
from conftest import optional_data

from engine.rows import read_rows
from grading.answers import grade
from grading.formulas import check_expression

VALUES = [
    ("(54 - 10) + (73 - 81)", [54, 10, 73, 81], 36, {}, True),
    ("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24, {}, True),  # exact only with fractions
    ("201 / 200", [201, 200], 1, {}, False),  # near is not equal
    ("100*3/7", [100, 3, 7], 43, {}, False),
    ("7 / 2", [7, 2], 3, {}, False),  # no whole-number division
    ("7 / 2", [7, 2], 3.5, {}, True),
    ("1 + 2 * 3", [1, 2, 3], 7, {}, True),
    ("1 + 2 * 3", [1, 2, 3], 9, {}, False),
    ("1 + 2 * 3", [1, 2, 3], 9, {"left_to_right": True}, True),
    ("1 + 2 * 3", [1, 2, 3], 7, {"left_to_right": True}, False),
    ("24 - 8 / 2 * 3", [24, 8, 2, 3], 24, {"left_to_right": True}, True),
    ("1 + (2 * 3)", [1, 2, 3], 7, {"left_to_right": True}, True),
    ("-3 + 27", [3, 27], 24, {}, True),
    ("5 / (3 - 3)", [3, 3, 5], 24, {}, False),
]
NUMBERS = [
    ("6 * 4", [4, 6], 24, {}, True),
    ("6 * 4", [4, 6, 1], 24, {}, False),
    ("6 * 4", [4, 6, 1], 24, {"n_used": 2}, True),
    ("6 * 4", [6, 4], 24, {"n_used": 1}, False),
    ("6 * 4 * 1 * 1", [4, 6, 1], 24, {}, False),  # each once, not as often as one likes
    ("6 * 4 * 1 * 1", [4, 6, 1], 24, {"n_used": 4}, False),
    ("12 + 12", [12, 5], 24, {"n_used": 2}, False),
    ("6 + 6 + 12", [12, 6, 6], 24, {}, True),
    ("24", [2, 4], 24, {}, False),  # digits are not joined
    ("2 4", [2, 4], 24, {}, False),
    ("1.5 * 16", [1, 5, 16], 24, {}, False),
]
TEXTS = [
    ("6 * 4 = 24", [4, 6], 24, {}, True),
    ("24 = 6 * 4", [4, 6], 24, {}, True),
    ("6 * 4 = 25", [4, 6], 24, {}, False),
    ("$6 \\times 4$", [4, 6], 24, {}, True),
    ("12 ÷ 4 × 3", [3, 4, 12], 9, {}, True),
    ("6(4)", [6, 4], 24, {}, False),
    ("the answer is 6 * 4", [4, 6], 24, {}, False),
    ("2 ** 3", [2, 3], 8, {}, False),
    ("9 // 2", [9, 2], 4, {}, False),
    ("(6 * 4", [4, 6], 24, {}, False),
    ("", [], 0, {}, False),
    ("()", [], 0, {}, False),
    ("9**9**9", [9, 9, 9], 9, {}, False),
    (None, [4, 6], 24, {}, False),
]


def is_right(text, nums, target, options, right):
    """check_expression says what is expected, and the grader of rows says the same."""
    found = check_expression(text, nums, target, **options)
    asked = f"check_expression({text!r}, {nums}, {target}{options and f', {options}' or ''})"
    assert found is right, f"{asked}: expected {right}, obtained {found}"
    assert grade({"nums": nums, "target": target, **options}, text) is right


@pytest.mark.parametrize("text, nums, target, options, right", VALUES)
def test_countdown_value(text, nums, target, options, right):
    """The value is exact, as with fractions: 8 / (3 - 8/3) = 24, and 201/200 is not 1."""
    is_right(text, nums, target, options, right)


@pytest.mark.parametrize("text, nums, target, options, right", NUMBERS)
def test_countdown_numbers(text, nums, target, options, right):
    """Each number exactly once, or n_used of them; a number that is given twice counts twice."""
    is_right(text, nums, target, options, right)


@pytest.mark.parametrize("text, nums, target, options, right", TEXTS)
def test_countdown_text(text, nums, target, options, right):
    """The whole text is the expression; `= target` may follow, and all sides must be equal."""
    is_right(text, nums, target, options, right)


def test_check_expression_on_judged_rows():
    """Verdicts and solutions of others; our own are in judged_answers.jsonl."""
    countdown = optional_data("countdown")
    for row in read_rows(countdown / "judged_gemma3_27b.jsonl"):
        assert (
            check_expression(row["parsed"], row["nums"], row["target"])
            == row["exact_correct_all_used"]
        )
    assert all(
        check_expression(row["solution"], row["nums"], row["target"])
        for row in read_rows(countdown / "countdown_generated_2000.jsonl")
    )


def test_check_expression_against_python():
    """1,000 random expressions over + - * / ( ); python's eval on Fractions is the oracle, for
    texts made here.
    """
    rng = random.Random(1)
    for _ in range(1000):
        nums, text = [rng.randint(1, 9) for _ in range(4)], []
        for number in nums:
            text += ["(" * rng.randint(0, 1), f"F({number})", rng.choice("+-*/")]
        text = "".join(text[:-1])
        text += ")" * text.replace("F(", "").count("(")
        try:
            value = eval(text, {"F": Fraction})
        except ZeroDivisionError:
            continue
        assert check_expression(re.sub(r"F\((\d)\)", r"\1", text), nums, value)
