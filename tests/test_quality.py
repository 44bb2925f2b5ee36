"""curation/quality.py: the string rule, false equations, loops and words, by hand."""

import random
import re
from collections import Counter

import pytest
from conftest import optional_data
from small_pools import LOOP, trace

from curation import quality
from curation.quality import (
    find_chains,
    find_quality_problem,
    passes_string_rule,
    uncorrected_equations,
)
from engine.rows import read_rows
from grading.repetition import repeated_share


@pytest.mark.parametrize(
    "question, source, dropped",
    [
        ("See p3. for details", "", True),
        ("step3. next", "", True),
        ("see p0. and p1000. and p12", "", False),  # only 1 to 999, and only before a period
        ("**Q1** Find x", "", True),
        ("**Find** x and 3", "", True),
        ("**Find** x", "", False),
        ("**Find** x\nand 3", "", False),  # the digit stands on another line
        ("**Find this** x and 3", "", False),  # a space inside
        ("a ![Image](u)", "", True),
        ("Find x. [asy]draw();[/asy]", "AI-MO/NuminaMath-CoT/x", True),
        ("Find x. [asy]draw();[/asy]", "qq8933/AIME_1983_2024", False),
        ("[asy] ![Image] p1.", "qq8933/AIME_1983_2024", False),
        ("![Image] p1.", "qq8933/AIME_1983_2024", True),  # AIME excuses figures, not the rest
    ],
)
def test_string_rule_of_s1(question, source, dropped):
    assert passes_string_rule({"question": question, "source": source}) is not dropped
    if not source:
        assert passes_string_rule({"question": question}) is not dropped


@pytest.mark.parametrize(
    "text, false",
    [
        ("so 7 + 5 = 11 .", ["7 + 5 = 11"]),
        ("maybe 4 * 1 = 4 - 2 = 2 vs 10 low", []),
        ("maybe 4 * 1 = 4 - 2 = 3 vs 10 low", ["4 - 2 = 3"]),
        ("7 + 5 = 11 - 1 = 10", ["7 + 5 = 11 - 1"]),  # the second step is right for itself
        ("7 + 5 = 12 - 2 = 10 and 2 + 4 = 3 * 2", []),
        ("2 + 3 * 4 = 14 or, from left to right, 2 + 3 * 4 = 20", []),
        ("2 + 3 * 4 = 24", ["2 + 3 * 4 = 24"]),
        ("1/2 + 1/3 = 5/6", []),
        ("6 / 4 = 3 / 2", []),
        ("7 / 2 = 3", ["7 / 2 = 3"]),
        ("7/2 = 3 remainder 1", []),
        ("3 - 5 = -2", []),
        ("3 - 5 = 2", ["3 - 5 = 2"]),
        ("3 − 5 × 2 = −7 ÷ 1", []),
        ("1,200 + 1 = 1,201", []),
        ("1,200 + 1 = 201", ["1,200 + 1 = 201"]),
        (r"$3 \times 4 = 13$ and \(3 \cdot 4 = 14\)", ["3 * 4 = 13", "3 * 4 = 14"]),
        ("43 x 11 = 474", ["43* 11 = 474"]),
        ("y = 3 + 4 = 8", ["3 + 4 = 8"]),
        ("2 + 2 = 5.", ["2 + 2 = 5"]),
        ("2 + 2 = 5, so", ["2 + 2 = 5"]),
        ("**so 2 + 2 = 5**", ["2 + 2 = 5"]),
        # numbers that are parts of something larger are left alone
        ("x + 3 = 5 and 2x + 3 = 4 and 3 * 4 = 13x", []),
        ("2^3 + 1 = 9, 2 * 4 = 2^3, (1 + 2) * 4 = 12", []),
        ("3.5 + 1 = 4.5, 3 + 2 = 4.5 + 0.5", []),
        ("20% of 5 + 5 = 2", []),
        ("53 1/4 = 213/4", []),
        ("√3 * 5 = 5√3", []),
        ("1 + 2 = 4 - x", []),
        ("4 / 0 = 4", []),
        ("3 = 4", []),
        ("1 + 1 = ?", []),
    ],
)
def test_false_equations(text, false):
    assert quality.false_equations(text) == false


def test_false_equations_survives_hostile_text():
    long = "9" * 5000  # int() of it would raise
    assert quality.false_equations(f"{long} + 1 = 2 and " + "1 + " * 20_000 + "1 = 3") == [
        " + ".join(["1"] * 20_001) + " = 3"
    ]


def test_chains_are_what_one_regular_expression_finds():
    """Searching around each `=` and 16 characters behind loses nothing and finds nothing twice."""
    rng, n = random.Random(2), 0
    pieces = (
        "1",
        "2",
        "12",
        "3",
        "1,000",
        "9",
        "٣",
        " ",
        "  ",
        "\t",
        "\n",
        "=",
        "=",
        " = ",
        " = ",
        "+",
        "-",
        "*",
        "/",
        " + 3",
        "x",
        ".",
        ",",
        "^",
        "(",
        " of ",
        " mod ",
        " (remainder",
        " R",
        "\\times ",
        "×",
        "−",
        "so 1",
    )
    for _ in range(4000):
        text = "".join(rng.choices(pieces, k=rng.randrange(3, 30)))
        plain = text.translate({0xD7: "*", 0x2212: "-"})
        plain = re.sub(r"\\times|\\cdot|(?<=\d) ?x(?= ?\d)", "*", re.sub(r"[ \t]+", " ", plain))
        found = list(find_chains(text))
        assert found == quality._CHAIN.findall(plain), text
        n += len(found)
    assert n > 50


def test_a_slip_counts_until_it_is_taken_back():
    assert uncorrected_equations("7 + 5 = 11 no wait , check 7 + 5 = 12 yes") == []
    assert uncorrected_equations("7+5 = 11 no wait , check 7 + 5 = 12 yes") == []
    assert uncorrected_equations("7+5 = 12 yes . check 7 + 5 = 11 no") == ["7 + 5 = 11"]
    assert uncorrected_equations("7 + 5 = 11 wait , 5 + 7 = 12") == ["7 + 5 = 11"]


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({}, None),
        ({"question": "see p3. of"}, "question string"),
        ({"thinking": " \n"}, "no thinking"),
        ({"finish": "length"}, "unfinished"),
        ({"finish": "stop"}, None),
        ({"response": " "}, "no answer"),
        ({"response": "First, let us think.\nThen nothing comes of it"}, "no answer"),
        ({"response": "First, let us think.\nSo the claim holds", "answer": ""}, None),  # a proof
        ({"thinking": "a <think> b"}, "delimiter in text"),
        ({"response": "4 <|im_start|>answer"}, "delimiter in text"),
        ({"thinking": "2 + 2 = 5"}, "false equation"),
        ({"thinking": LOOP}, "repetition"),
        ({"thinking": LOOP + "Check:"}, None),
        # share 0.89, checks or not
        ({"thinking": "check 1 + 4 = 5 * 2 = 10 vs 10 yes . " * 9}, "repetition"),
    ],
)
def test_quality_problem(changes, problem):
    assert find_quality_problem(trace(1) | changes) == problem


def test_repetition_limit_is_a_setting():
    share = repeated_share(LOOP)
    assert 0.3 < share < 0.8
    assert find_quality_problem(trace(1, thinking=LOOP), share + 0.01) is None
    assert find_quality_problem(trace(1, thinking=LOOP), share - 0.01) == "repetition"


def test_words_are_whole_words():
    words = quality.words_of(
        "Check, check checks (verify) double-check… LET me try; let me try me “perhaps”"
    )
    assert quality.count_words(words, quality.VERIFY["strict"]) == 3
    assert quality.count_words(words, quality.VERIFY["extended"]) == 4
    assert quality.count_words(words, ("let me try",)) == 2
    assert quality.count_words(words, quality.EXPLORE["strict"]) == 1


HEALTHY = """Okay, the train covers 120 km in 1.5 hours, so its speed is 120 / 1.5 = 80 km/h. Wait, the
question asks for m/s. 80 km/h is 80,000 m in 3,600 s, and 80,000 / 3,600 = 200 / 9, about 22.2.
Let me check: 22.2 * 3.6 = 79.9, fine. With the 15% tax of 20, i.e. 20 * 15 / 100 = 3, the price is
20 + 3 = 23. If x + 3 = 10 then x = 7, and f(2) = 2^3 - 1 = 7 as well. In base 8, 7 + 1 = 10_8.
So 3 * 4 - 2 = 12 - 2 = 10 and 17 mod 5 = 2. Therefore the answer is 200/9 m/s."""


def test_a_healthy_trace_passes():
    """Prose as a model writes it: units, decimals, powers, percentages and a step taken back."""
    assert uncorrected_equations(HEALTHY) == []
    assert repeated_share(HEALTHY) == 0
    assert find_quality_problem(trace(1, thinking=HEALTHY, response="200/9")) is None
    wrong = HEALTHY.replace("20 + 3 = 23", "20 + 3 = 33")
    assert uncorrected_equations(wrong) == ["20 + 3 = 33"]
    assert find_quality_problem(trace(1, thinking=wrong, response="200/9")) == "false equation"
    loop = HEALTHY + " Hmm, let us see what that means for the speed." * 20
    assert find_quality_problem(trace(1, thinking=loop.replace("check", "see"))) == "repetition"


def test_real_traces():
    """Healthy traces of Qwen3-8B and of a UniReason model must pass."""
    rows = [
        row
        for name in ("qwen3_8b_thinking_on_200", "unireason_sft_math500_traces_100")
        for row in read_rows(optional_data(f"traces/{name}.jsonl"))
    ]
    slips = [row["id"] for row in rows if uncorrected_equations(row["thinking"])]
    assert len(slips) <= 3, slips  # of 723 equations; one slip is a real one
    share = Counter(repeated_share(row["thinking"]) > 0.3 for row in rows)
    assert share[True] <= 12  # traces cut in a loop
