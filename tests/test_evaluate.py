"""evaluate.py: by hand (numbers worked in the docstrings), published numbers, brute force, fuzz, end to end."""

import itertools
import json
import math
import random
import re
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from bench_grader import attack, hostile

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
    transferability,
    wilson,
)
from grading import symbolic
from grading.answers import (
    answer_classes,
    answer_of,
    canonical,
    extract_answer,
    grade,
    is_correct,
    is_gradable,
    overlap,
    parse,
)
from grading.formulas import check_expression
from grading.sandbox import Workers

SHARED = Path(__file__).parents[2] / "shared" / "data"

GOLDS = [
    "7",
    "-125",
    "0.35",
    ".25",
    "\\frac{3}{8}",
    "\\frac 59",
    "1\\frac{4}{5}",
    "2\\sqrt{5}",
    "11\\sqrt2",
    "5\\pi",
    "52_8",
    "4210_{5}",
    "10,\\!080",
    "58,500",
    "\\$18.90",
    "76^\\circ",
    "15\\mbox{ cm}^2",
    "6 - 5i",
    "2, 3, 9",
    "1 \\pm \\sqrt{19}",
    "(6,31,-1)",
    "(3,4]",
    "\\left[ \\frac{1}{2}, 5 \\right)",
    "(0,9) \\cup (9,36)",
    "\\text{east}",
    "\\begin{pmatrix} -2 \\\\ 1/3 \\end{pmatrix}",
    "x^3+3x-6",
    "3R^2",
    "5x - 7y + 4 = 0",
    "\\{1\\pm\\sqrt{5},-2\\}",
]


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return read_rows(path)


# ---- extraction


@pytest.mark.parametrize(
    "text, answer",
    [
        ("so \\boxed{1} ... \\boxed{2} it is", "2"),
        ("$\\boxed 42$ ok", "42"),
        ("\\fbox{9}", "9"),
        ("\\boxed {9}", "9"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\frac{1}{2}} then \\boxed{5", None),  # T17
        ("$$\\boxed{-2}, \\boxed{1}$$", "-2, 1"),
        ("$\\boxed{1}$ and $\\boxed{2}$", "1, 2"),
        ("\\boxed{1},\n\\boxed{2}", "2"),
        ("\\boxed{1} \\quad \\text{or} \\quad \\boxed{2}", "1, 2"),
        ("\\boxed{1}, \\boxed{2}; \\boxed{3}", "1, 2, 3"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{1}, \\boxed{2", None),
        ("\\boxed{\\left\\{ 1, 2 \\right.}", "\\left\\{ 1, 2 \\right."),
        ("\\boxed{}", None),
        ("Answer: 12\nAnswer: 13", "13"),  # s1 gives "12\nAnswer: 13"
        ("**Final Answer:** 12", "12"),
        ("### Final Answer:\n\nAnswer: Dan", "Dan"),
        ("so\n**Answer: Eve** (second)", "Eve"),
        ("Answer: 2**3", "2**3"),
        ("The correct option is **(B)** here", "(B)"),
        ("correct choice: C", "C"),
        ("**The answer is:** 2**3", "2**3"),
        ("**Answer**:\n\n$42$\n", "$42$"),
        ("The answer is 7.", "7."),
        ("Answer: 3 <answer> 4 </answer>", "4"),
        ("<answer>4</answer> \\boxed{5}", "5"),
        ("He pays 3 * 6 = 18.\n#### 18", "18"),
        ("#### Step 2\nwe stop here", None),
        ("8 + 5 + 7", "8 + 5 + 7"),
        (" c\n", "c"),
        ("two\nlines", None),
        ("x" * 101, None),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_extract_answer_reads_the_response_part():
    """T17: what was boxed while thinking does not count, and 023 is 23."""
    text = "hm \\boxed{5}\n<|im_start|>answer\nAnswer: so \\boxed{023}."
    assert extract_answer(text, "s1") == "023" and is_correct("023", "23")
    assert extract_answer("hm \\boxed{5}", "s1") is None


def test_answer_of():
    assert answer_of({"response": "Answer: 4", "text": "Answer: 5"}) == "4"
    assert answer_of({"response": "", "thinking": "Answer: 5", "text": "Answer: 5"}) is None
    assert answer_of({"response": None, "text": "Answer: 5"}) is None
    assert answer_of({"text": "Answer: 5"}) == "5" and answer_of({}) is None


# ---- grading


@pytest.mark.parametrize(
    "prediction, answer",
    [
        ("9.", "9"),
        ("$9$", "9"),
        ("\\(9\\)", "9"),
        ("x = 9", "9"),
        ("\\text{Area} = 9", "9"),
        ("+9", "9"),
        ("9.0", "9"),
        ("1{,}000", "1000"),
        ("1,000", "1000"),
        ("1,234,567", "1234567"),
        ("10,\\!080", "10080"),
        ("3.5\\times10^4", "35,000"),
        ("\\frac12", "\\frac{1}{2}"),
        ("1/2", "\\dfrac{1}{2}"),
        ("0.5", "\\tfrac12"),
        ("-\\frac{1}{2}", "\\frac{-1}{2}"),
        ("1\\frac{4}{5}", "9/5"),
        ("1 4/5", "1.8"),
        ("2^{10}", "1024"),
        ("\\sqrt2", "\\sqrt{2}"),
        ("\\sqrt{16}", "4"),
        ("\\sqrt[3]{-8}", "-2"),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"),
        ("4\\sqrt2+4", "4+4\\sqrt{2}"),
        ("(x+1)(x-1)", "x^2 - 1"),
        ("12\\text{ cm}", "12"),
        ("12 cm", "12"),
        ("12", "12\\mbox{ inches}^2"),
        ("90^\\circ", "90"),
        ("18 dollars", "\\$18"),
        ("0.333333333", "\\frac{1}{3}"),
        ("1.4142136", "\\sqrt{2}"),
        ("50\\%", "50"),
        ("50\\%", "\\frac12"),
        ("50", "50\\%"),
        ("\\left( 1, \\frac12 \\right)", "(1, 0.5)"),
        ("2, 1", "1,2"),
        ("\\{1,2\\}", "2, 1"),
        ("3 \\text{ and } 5", "5,3"),
        ("1+\\sqrt2, 1-\\sqrt{2}", "1 \\pm \\sqrt{2}"),
        ("x \\in [-2,7]", "[-2,7]"),
        ("(2, \\infty)", "(2,+\\infty)"),
        ("100,200", "100, 200"),
        ("(A)", "A"),
        ("A.", "A"),
        ("\\text{A}", "A"),
        ("a", "A"),
        ("(C) 45 degrees", "\\text{(C)}"),
        ("Evelyn", "\\text{Evelyn}"),
        (
            "\\begin{bmatrix} 1 \\\\ 0.5 \\end{bmatrix}",
            "\\begin{pmatrix} 1 \\\\ 1/2 \\end{pmatrix}",
        ),
        ("7y - 5x = 4", "5x - 7y + 4 = 0"),
        ("\\frac{e^{t}}{3}", "\\frac{1}{3}e^t"),
        ("6 - 5i", "-5i + 6"),
        ("x > 2", "(2, \\infty)"),
        ("2 \\le x", "[2,\\infty)"),
        ("0≤x<1", "[0, 1)"),
        ("1 > x > 0", "(0,1)"),
        ("x < -1 or x > 3", "(-\\infty,-1) \\cup (3,\\infty)"),
        ("\\{x \\mid -3<x<4\\}", "(-3, 4)"),
        ("a<b<c", "c>b>a"),
        ("y = 2, x = 1", "x = 1, y = 2"),
        ("x = 1, y = 2", "1, 2"),
        ("\\pm 1, \\pm 7", "1,-1,7,-7"),
        ("(x, y) = (1, 2)", "(1,2)"),
        ("y = 2, x = 1", "(1, 2)"),
        ("(1, 2)", "x=1, y=2"),
        ("(x,y)=(1,2)", "x=1, y=2"),
        ("3 m/s^2", "3"),
        ("3e8 m/s", "3 \\times 10^8"),
        ("2.5 kHz", "2.5"),
        ("7.5\\,\\mathrm{kg/m^3}", "7.5"),
        ("(-4, 27); (2, 15)", "(2,15),(-4,27)"),
        ("1:58 a.m.", "1:58"),
        ("1:58 PM", "1:58\\text{ p.m.}"),
        ("5\\text{ am}", "5am"),
        ("5:00", "05:00"),
        ("C e^{-t} + 2", "2 + ce^{-t}"),
        ("\\frac{\\dot{x}_0}{\\omega}", "\\dot{x}_{0}/\\omega"),
        ("\\lambda k T", "k\\lambdaT"),
        ("y'+y", "y^{\\prime} + y"),
        ("2\\pi\\text{ square feet}", "2\\pi"),
        ("\\left[(a+b)^2\\right]c", "c(a+b)^2"),
    ],
)
def test_right(prediction, answer):
    assert is_correct(prediction, answer)
    assert grade({"answer": answer}, prediction) is True


@pytest.mark.parametrize(
    "prediction, answer",
    [
        ("8", "9"),
        ("90", "9"),
        ("0.09", "9"),
        ("900", "9"),
        ("9.0000001", "9"),
        ("2999999.9999", "3000000"),
        ("52_9", "52_8"),
        ("0.33", "\\frac{1}{3}"),
        ("0.2500001", "\\frac{1}{4}"),
        ("2^{-99}", "2^{-98}"),
        ("0.5", "50"),
        ("(0,1)", "[0,1]"),
        ("(0,1]", "(0,1)"),
        ("(1,2)", "(2,1)"),
        ("1,1,2", "1,2,2"),
        ("1,2", "1,2,3"),
        ("5", ".5"),
        ("5 cm^2", "5 cm^3"),
        ("B", "A"),
        ("(C) 45", "B"),
        ("south", "\\text{east}"),
        ("1,234", "(1,234)"),
        ("", "9"),
        ("r^2", "R^2"),
        ("x^2+1", "x^2-1"),
        ("\\sqrt{3}", "\\sqrt{2}"),
        ("5 \\text{ million}", "5"),
        ("500%", "50"),
        ("-9", "9"),
        ("1,2", "12"),
        ("x \\ge 2", "(2,\\infty)"),
        ("x < 2", "(2, \\infty)"),
        ("a<b<c", "c<b<a"),
        ("2<x, x<3", "2<x<3"),
        ("x = 1, y = 2", "x = 2, y = 1"),
        ("x = 1, y = 2", "1, 3"),
        ("f(x)=x", "f(x)=x, f(x)=-x"),
        ("\\pm 1, 7", "1,-1,7,-7"),
        ("east, west", "east, west, up"),
        ("(x, y) = (2, 1)", "(1,2)"),
        ("x = 2, y = 1", "(1, 2)"),
        ("x=1,y=2", "z=1,y=2"),
        ("5 m", "5 s"),
        ("5 a/b", "5"),
        ("5m/s", "5"),
        ("1:58 PM", "1:58 am"),
        ("1:58 pm", "1:59"),
        ("3 = 4", "5 = 6"),
        ("y' + y", "2y"),
        ("c + C", "2c"),
        ("[x+1]", "(x+1)"),
        ("None", "9"),
        ("25%", "2500%"),
        ("2(x+1)", "2x+1"),
        ("", ""),
        ("1 2", "2"),
        ("6 7", "42"),
        ("\\boxed", "9"),
    ],
)
def test_wrong(prediction, answer):
    assert not is_correct(prediction, answer)
    assert not grade({"answer": answer}, prediction)


SYMBOLIC = [
    ("\\binom{5}{2}", "10"),
    ("\\lfloor\\log_2 n\\rfloor + 1", "1+\\lfloor \\log_{2}n \\rfloor"),
    ("|x-1|", "|1-x|"),
    ("\\frac{n!}{2}", "\\frac{n (n-1)!}{2}"),
    ("(4, \\log_2 8)", "(4, 3)"),
    ("\\sum_{k=1}^{10} k, 2", "2, 55"),
]
NOT_EQUAL = [
    ("\\binom{5}{2}", "11"),
    ("R!", "r!"),
    ("|x|", "x"),
    ("\\binom{5}{2}, 3", "10"),
    ("y'!", "y!"),
    ("52_8!", "52_9!"),
    ("1 + 1 = \\binom{5}{1}", "5"),
    ("(4, \\log_2 8)", "4, 3"),
    ("\\overline{AB}!", "AB!"),
    ("\\log_2 8 +", "3"),
]


def test_what_the_rules_cannot_read_is_compared_symbolically(monkeypatch):
    """With more time than LIMIT, so that a busy machine changes nothing."""
    pytest.importorskip("math_verify")
    symbolic.equal.cache_clear()
    with Workers("grading.simplify:same", n=1, limit=30) as patient:
        monkeypatch.setattr(symbolic, "_workers", lambda: patient)
        for pairs, right in ((SYMBOLIC, True), (NOT_EQUAL, False)):
            for one, other in pairs:
                assert is_correct(one, other) is right and is_correct(other, one) is right, one


def test_what_math_verify_is_not_asked():
    """It drops primes and subscripts of numbers, takes words for products, 1 2 for 12 and 3!! for (3!)!."""
    assert all(
        map(
            symbolic.readable,
            ("\\log_2 8", "\\sum_{k=1}^{n} k", "|x_1|", "\\lfloor\\log_{2}n\\rfloor", "n!/2"),
        )
    )
    assert not any(
        map(
            symbolic.readable,
            ("y'!", "52_8!", "(5)_8", "\\overline{AB}!", "east!", "1 2!", "3!!", "{3!"),
        )
    )


def test_a_symbolic_comparison_ends_in_time(monkeypatch):
    """9^{9^{9}} fills the memory and holds the interpreter; its process is ended, counted, and the next has a new one."""
    pytest.importorskip("math_verify")
    symbolic._workers().map([["1", "1"]])  # the process is there
    symbolic.FAILURES.clear(), symbolic.equal.cache_clear()
    start = time.perf_counter()
    assert not is_correct("9^{9^{9}}!", "|3|") and time.perf_counter() - start < 2
    assert symbolic.FAILURES == {"timeout": 1} and symbolic._workers().map([["1", "1"]]) == [True]
    monkeypatch.setattr(symbolic, "_workers", None)  # what was asked once is not asked again
    assert not is_correct("9^{9^{9}}!", "|3|") and symbolic.FAILURES == {"timeout": 1}


def test_without_math_verify_the_rules_are_left(monkeypatch):
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(symbolic, "_workers", None)
    assert not is_correct("\\binom{7}{2}", "21") and is_correct("\\frac{42}{2}", "21")


def test_broken_answers_are_no_gold():
    for gold in (
        "\\frac{q}{}",
        "^{6}",
        "=2",
        "\\frac{1}{2",
        "\\sqrt{}",
        "3^",
        "",
        "$$",
        "9" * 2001,
    ):
        assert not is_gradable(gold) and grade({"answer": gold}, gold) is None, gold
    assert all(
        map(is_gradable, [*GOLDS, "\\{\\}", "\\emptyset", "no", 4, "x \\to 0^+", "-", ") } ]", "*"])
    )


def test_a_choice_may_be_given_by_its_text():
    row = {"answer": "B", "choices": ["red", "Green", "A", "C"]}
    assert [grade(row, said) for said in ("green", "B", "(B) green", "red", "A", "C", "D")] == [
        True
    ] * 3 + [False] * 4
    assert grade({"answer": "green", "choices": ["red", "green"]}, "Green")
    assert grade({"answer": "Yen", "accept": ["Japanese yen"]}, "japanese yen.") is True
    assert (
        grade({"answer": "Yen", "accept": "xyz"}, "x") is False
        and grade({"answer": "4", "accept": True}, "4") is True
    )


def test_a_letter_on_the_last_line_answers_a_choice():
    """Only where there are choices: s1 takes any text without a letter for A, here it has no answer."""
    for said, letter in (
        ("Because.\n\n**B**", "B"),
        ("Because.\n(C)", "C"),
        ("Because.\nD) 45 degrees", "D"),
        ("Because.\nA dog", None),
        ("Because.\nI am sure", None),
        ("Because.\nb", None),
    ):
        assert answer_of({"response": said, "choices": ["w", "x", "y", "z"]}) == letter, said
        assert answer_of({"response": said}) is None


def test_text_without_a_response_is_split_by_its_delimiters():
    assert answer_of({"text": "<think>\\boxed{1}</think> so \\boxed{2}"}) == "2"
    assert answer_of({"text": "<think> \\boxed{1}"}) is None
    assert (
        answer_of({"text": "<|im_start|>think\n\\boxed{1}\n<|im_start|>answer\nAnswer: 2"}) == "2"
    )


def test_classes():
    """Equal values are a class, and so is what the grader takes for equal: 50% for 50, 0.333333 for 1/3."""
    assert answer_classes(
        {}, ["1/3", "50", None, "0.333333", "50\\%", "\\frac13", "0.3", "fifty"]
    ) == [
        0,
        1,
        None,
        0,
        1,
        0,
        2,
        3,
    ]
    assert answer_classes({"nums": [1, 2], "target": 3}, ["1+2", "2 + 1", "3", "1*2"]) == [
        0,
        0,
        1,
        2,
    ]


def test_rows_without_an_answer_are_skipped():
    assert [grade({"answer": gold}, "") for gold in ("", " $ ", ".", None)] == [None] * 4
    assert (
        grade({}, "4") is None
        and grade({"answer": "4"}, None) is False
        and grade({"answer": 4}, "4") is True
    )


def perturb(gold):
    """(what was done, prediction, should be accepted) for one gold answer; the table of spec/pitfalls.md and more."""
    bare, kind = (
        gold.strip("$ ").rstrip("$. "),
        parse(gold)[0] if isinstance(parse(gold), tuple) else "",
    )
    yield "identity", gold, True
    yield "period", gold + ".", True
    yield "dollars", f"${bare}$", True
    yield "boxed", extract_answer(f"so \\boxed{{{gold}}}."), True
    yield "spaces", "  " + gold + " ", True
    yield "big fractions", gold.replace("\\frac", "\\dfrac"), True
    if not re.search(r"=|\\in |\\approx", gold):
        yield "x =", "x = " + gold, True
    if re.fullmatch(r"-?\d+", bare):
        yield "units", bare + "\\text{ cm}", True
        yield "decimals", bare + ".00", True
        yield "near miss", bare + ".0000001", False
        yield "thousands", re.sub(r"(?<=\d)(?=(\d{3})+$)", "{,}", bare), True
        yield "thousands", f"{int(bare):,}", True
    if re.fullmatch(r"\\frac\{\d+\}\{\d+\}", bare):
        yield "a/b", "/".join(re.findall(r"\d+", bare)), True
    if re.fullmatch(r"\\text\{[a-zA-Z]+\}", bare):
        yield "words", bare[6:-1].upper() + ".", True
    *_, last = [None, *re.finditer(r"\d+", gold)]
    if last:
        yield (
            "last number + 1",
            gold[: last.start()] + str(int(last[0]) + 1) + gold[last.end() :],
            False,
        )
    if isinstance(parse(gold), Fraction) and parse(gold):
        yield "sign", "-" + bare if bare[0] != "-" else bare[1:], False
    if re.fullmatch(r"-?[1-9]\d*", gold):
        yield "times 100", gold + "00", False
        yield "one hundredth", f"\\frac{{{gold}}}{{100}}", False
    swapped = gold.translate(str.maketrans("()[]", "[]()"))
    if kind in ("()", "(]", "[)", "[]", "union") and swapped != gold:
        yield "() and [] swapped", swapped, False
    parts = bare.replace("\\left", "").replace("\\right", "").split(",")
    simple = not re.search(r"[\[\]{}]|.[()]|[()].|and|or|\\!", "".join(parts).strip("()"))
    if kind in ("()", "set") and simple:
        inside = [part.strip("( )") for part in parts]
        left, right = ("(", ")") if kind == "()" else ("", "")
        yield "a part missing", ", ".join(inside[1:]).join((left, right)), False
        yield "a part too many", ", ".join([*inside, "77"]).join((left, right)), False
        if inside[::-1] != inside:
            yield "parts reversed", ", ".join(inside[::-1]).join((left, right)), kind == "set"
        if kind == "set" and "\\pm" not in gold:
            yield "braces", "\\{" + ", ".join(inside) + "\\}", True


SETS = (
    "math/math500.jsonl",
    "math/aime24.jsonl",
    "math/aime25.jsonl",
    "math/minerva_108.jsonl",
    "math/olympiadbench_202.jsonl",
)


@pytest.mark.parametrize("golds", ["own list", *SETS])
def test_perturbations(golds):
    own = golds == "own list"
    golds = GOLDS if own else [row["answer"] for row in shared(golds)]
    wrong = [
        (what, prediction, gold)
        for gold in golds
        for what, prediction, accept in perturb(gold)
        if is_correct(prediction, gold) != accept
    ]
    assert not wrong
    assert not own or len({what for gold in golds for what, *_ in perturb(gold)}) == 22


# Of math_qwen25_3b_judged, outputs whose judge is plainly wrong, by the end of their id and why.
JUDGE_IS_WRONG = {
    "same number, 10^{-5} for 1e-5": "m10 m44 m129 m136 m166 m175 m194 m223 m263 m265",
    "1.8 for 1\\frac{4}{5}": "g274 g297",
    "a list in another order": "o151 o160 o185 o203 o207",
    "'5 and 9' for 5, 9": "g185 o148 o187 o216 o226 o237",
    "\\pm 1, \\pm 7 for 1, -1, 7, -7": "o154",
    "the same formula": "g237 m72 m81 m85",
    "f(x) = left out or added": "m86 o91",
    "an interval as an inequality": "g70 o132",
    "5 am for 5am": "g370",
    "C for c, a constant of integration": "m63 m80 m96",
    "accepts (1, \\infty) for [1, \\infty)": "g74",
    "accepts 1 for 100": "o78",
    "accepts one of two functions": "o68 o114",
}
NO_GOLD = "g83 g167 g172 g192 g366 o157"  # empty, or \frac{q}{}, ^{6}, =2


def test_agreement_with_judged_answers():
    """1,600 + 400 + 977 judged outputs, 2,933 of them as judged (98.5%): all of the first two, 933 of the last. Of its 44
    others 4 have no usable gold answer, and in 40 the judge is wrong: in each the question, the gold answer and what was
    said were read again, and the list is exact (a name too many or too few fails here). So 100% of the 2,971 that can be
    graded. All verdicts were also compared with math-verify's, 19 differences looked at one by one."""
    agree, skipped = {}, []
    wrong = {name: why for why, names in JUDGE_IS_WRONG.items() for name in names.split()}
    for name in ("gsm8k_openai_400q_x4", "math_8samples_rm_50q", "math_qwen25_3b_judged"):
        raw, corrected = [], []
        for row in shared(f"graded/{name}.jsonl"):
            texts, judged = row.get("responses") or [row["response"]], row["judged_correct"]
            short = (
                "".join(re.findall(r"-([a-z])\w*?-(\d+)$", row["id"])[0]) if "qwen" in name else ""
            )
            for text, right in zip(texts, judged if isinstance(judged, list) else [judged]):
                answer = (
                    text.rpartition("A:")[2] if name.startswith("gsm8k") else extract_answer(text)
                )
                ours = grade({"answer": row["gold"]}, answer)
                raw.append(bool(ours) == right)
                skipped += [short] if ours is None else []
                if ours is not None:
                    corrected.append(ours == (right != (short in wrong)))
        agree[name] = sum(raw), len(raw), statistics.fmean(corrected)
    assert [sum(column) for column in list(zip(*agree.values()))[:2]] == [2933, 2977]
    assert agree == {
        "gsm8k_openai_400q_x4": (1600, 1600, 1),
        "math_8samples_rm_50q": (400, 400, 1),
        "math_qwen25_3b_judged": (933, 977, 1),
    }
    assert sorted(skipped) == sorted(NO_GOLD.split()) and len(wrong) == 40


HOSTILE = [
    "9**9**9",
    "9^9^9^9",
    "9^{9^{9^{9}}}",
    "__import__('os').system('echo')",
    "{" * 5000,
    "(" * 5000,
    "-" * 5000,
    "\\frac" * 500,
    "\\sqrt{" * 400,
    "1e999999999",
    "9" * 100_000,
    "1/0",
    "0^{-1}",
    "170!!!",
    "99999!",
    "x" * 10**6,
    "\\boxed{" * 10**5,
    "answer" + " " * 10**6,
    "#" * 10**6,
    "<answer>" * 10**5,
    "1 " + "aaa " * 490,
    "1" + " " * 1990,
    "\\begin{pmatrix}" * 100,
    "," * 2000,
    "(" + "1," * 990 + ")",
    "\\pm" * 600,
    "\\text{" * 300,
    "^" * 999,
    "(" * 390,
    "-(" * 190,
    "\ud800",
    "1,000" * 300,
    "\0",
    "\\boxed{1}" + "\\quad\\text{" * 9000 + "\\boxed{7}",
    "\\boxed{1}" + " ," * 9000 + "\\boxed{2}",
    "²³¼٣",
    "\\log" * 90,
    "e^{e^{e^{e^9}}}",
    "9^{999}" * 50 + ",1",
    "=" * 500,
    "x=" * 800,
]


def test_hostile_strings(tmp_path, monkeypatch):
    """Every string gets an answer and none is executed; the chosen and 1,000 random ones together within seconds.
    `python tests/bench_grader.py --fuzz 100000` does the same for many more."""
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    for text in [*HOSTILE, *hostile(1000)]:
        attack(text)
    assert time.process_time() - start < 10 and not list(tmp_path.iterdir())
    assert not any(is_correct(text, "7") for text in HOSTILE)
    assert not is_correct("a" * 2001 + "b", "a" * 2001 + "c")


def test_each_hostile_string_is_answered_within_two_seconds():
    for text in HOSTILE:
        start = time.perf_counter()
        extract_answer(text), is_correct(text, text)
        assert time.perf_counter() - start < 2, text[:50]


# ---- expressions


@pytest.mark.parametrize(
    "text, nums, target, options, right",
    [
        ("(54 - 10) + (73 - 81)", [54, 10, 73, 81], 36, {}, True),
        ("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24, {}, True),  # exact only with fractions
        ("6 * 4 = 24", [4, 6], 24, {}, True),
        ("6 * 4 = 25", [4, 6], 24, {}, False),
        ("$6 \\times 4$", [4, 6], 24, {}, True),
        ("12 ÷ 4 × 3", [3, 4, 12], 9, {}, True),
        ("6 * 4", [4, 6, 1], 24, {}, False),
        ("6 * 4", [4, 6, 1], 24, {"n_used": 2}, True),
        ("6 * 4", [6, 4], 24, {"n_used": 1}, False),
        ("6 * 4 * 1 * 1", [4, 6, 1], 24, {}, False),
        ("12 + 12", [12, 5], 24, {"n_used": 2}, False),
        ("1 + 2 * 3", [1, 2, 3], 7, {}, True),
        ("1 + 2 * 3", [1, 2, 3], 9, {}, False),
        ("1 + 2 * 3", [1, 2, 3], 9, {"left_to_right": True}, True),
        ("1 + 2 * 3", [1, 2, 3], 7, {"left_to_right": True}, False),
        ("24 - 8 / 2 * 3", [24, 8, 2, 3], 24, {"left_to_right": True}, True),
        ("1 + (2 * 3)", [1, 2, 3], 7, {"left_to_right": True}, True),
        ("-3 + 27", [3, 27], 24, {}, True),
        ("2 4", [2, 4], 24, {}, False),
        ("24", [2, 4], 24, {}, False),
        ("6(4)", [6, 4], 24, {}, False),
        ("the answer is 6 * 4", [4, 6], 24, {}, False),
        ("2 ** 3", [2, 3], 8, {}, False),
        ("9 // 2", [9, 2], 4, {}, False),
        ("1.5 * 16", [1, 5, 16], 24, {}, False),
        ("5 / (3 - 3)", [3, 3, 5], 24, {}, False),
        ("(6 * 4", [4, 6], 24, {}, False),
        ("", [], 0, {}, False),
        ("()", [], 0, {}, False),
        ("9**9**9", [9, 9, 9], 9, {}, False),
        (None, [4, 6], 24, {}, False),
    ],
)
def test_check_expression(text, nums, target, options, right):
    assert check_expression(text, nums, target, **options) is right
    assert grade({"nums": nums, "target": target, **options}, text) is right


def test_check_expression_on_judged_rows():
    for row in shared("countdown/judged_gemma3_27b.jsonl"):
        assert (
            check_expression(row["parsed"], row["nums"], row["target"])
            == row["exact_correct_all_used"]
        )
    assert all(
        check_expression(row["solution"], row["nums"], row["target"])
        for row in shared("countdown/countdown_generated_2000.jsonl")
    )


def test_check_expression_against_python():
    """1,000 random expressions over + - * / ( ); python's eval on Fractions is the oracle, for texts made here."""
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


# ---- statistics


def test_pass_at_k_by_hand_and_by_enumeration():
    """T20: n=4, c=3, k=1 -> 3/4; n=10, c=3, k=5 -> 1 - 21/252 = 0.916667; n=4, c=2, k=3 -> 1: only 2 are wrong."""
    assert [pass_at_k(4, 3, 1), pass_at_k(9, 0, 3), pass_at_k(4, 2, 3)] == [0.75, 0, 1]
    assert pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=1e-6)
    for n, c in itertools.product(range(1, 8), range(8)):
        for k in range(1, n + 1) if c <= n else ():
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    for wrong in ((4, 2, 5), (4, 5, 1), (4, 2, 0)):
        with pytest.raises(ValueError, match="pass@k"):
            pass_at_k(*wrong)


def test_majority():
    """T19, and votes of equivalent spellings add up: 1/2 and 0.5 beat 3, 3 only ties with them when they are two."""
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
    """s1's headline, 15 and 17 of 30: [33, 67] and [39, 73] percent. 0 of 10: z²/(n + z²) = 3.8415/13.8415 = 0.2775."""
    assert [round(100 * x) for x in wilson(15, 30) + wilson(17, 30)] == [33, 67, 39, 73]
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5) and wilson(0, 0) == (0, 1)
    assert wilson(10, 10) == pytest.approx((1 - 0.27753, 1), abs=1e-5)


def test_mean_interval():
    """Shares 0, 1/2, 1, 1/2 of 4 questions vary by 1/8 around 1/2, which is what 4 · (1/4) / (1/8) = 8 independent
    samples would do. Were there only 6 samples, they would be 6; questions that agree in all samples count once."""
    assert mean_interval([0, 0.5, 1, 0.5], 8) == pytest.approx((0.5, *wilson(4, 8)))
    assert mean_interval([0, 0.5, 1, 0.5], 6) == pytest.approx((0.5, *wilson(3, 6)))
    assert mean_interval([0, 0.5, 1, 0.5]) == pytest.approx((0.5, *wilson(2, 4)))
    assert (
        mean_interval([1, 0, 1, 1])
        == mean_interval([1, 0, 1, 1], 40)
        == pytest.approx((0.75, *wilson(3, 4)))
    )
    # no spread seen is not certainty
    assert mean_interval([0.5] * 4, 16) == pytest.approx((0.5, *wilson(8, 16)))
    assert mean_interval([1] * 4, 16) == pytest.approx((1, *wilson(4, 4)))
    assert mean_interval([])[1:] == (0, 1)


def test_the_interval_covers_what_it_promises():
    """1,000 made-up studies of 40 questions with 4 samples: chances of a question from a U-shaped law with mean 1/3 (so
    samples of a question agree often). 95% ± 2 of the intervals hold 1/3; counting samples as independent, far fewer do."""
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
    """20 questions, each with 50 samples that all agree but one: the interval is that of 20 questions, not of 1,000."""
    values = [0.98] * 10 + [0.02] * 10
    mean, low, high = mean_interval(values, 1000)
    assert high - low > 5 * (wilson(500, 1000)[1] - wilson(500, 1000)[0])


def test_paired_bootstrap():
    """+1 on 10 of 100 questions, -1 on 2: difference 0.08, s/√N = √(0.12 - 0.08²)/10 = 0.0337, so 0.08 ± 0.066."""
    a = [1] * 10 + [0] * 2 + [1] * 40 + [0] * 48
    b = [0] * 10 + [1] * 2 + [1] * 40 + [0] * 48
    difference, low, high = paired_bootstrap(a, b)
    assert difference == pytest.approx(0.08) and (low, high) == pytest.approx(
        (0.014, 0.146), abs=0.015
    )
    assert (
        paired_bootstrap(a, b, 50)
        == paired_bootstrap(a, b, 50)
        != paired_bootstrap(a, b, 50, seed=1)
    )
    backwards = paired_bootstrap(b, a)
    assert backwards[0] == -difference and backwards[1] < 0
    assert paired_bootstrap(a, a) == (0, 0, 0)
    with pytest.raises(ValueError):
        paired_bootstrap([1], [1, 0])


def test_paired_bootstrap_is_fast():
    start = time.perf_counter()
    paired_bootstrap([1, 0] * 250, [0, 1] * 250)
    assert time.perf_counter() - start < 4


def test_control():
    """T10: tokens of s1's Tables 12 and 13 against the limits that were asked for."""
    tokens, steps = [1024, 2048, 4096, 8192, 16384], [1600, 3200, 6400, 12800, 25600]
    assert control([7939, 7158, 8263, 7108, 7500], tokens) == 40
    assert control([1024, 2048, 4031, 5664, 6330], tokens) == 100
    assert control([7252, 6277, 5396, 5552, 7551], steps) == 60
    assert control([1517, 2963, 4636, 5409, 7551], steps) == 100 == control([(5, 40.0)], [(1, 9)])
    assert control([(5, 40.0)], [(6, 9)]) == 0
    # Class-conditional control against the 6,109 tokens of no instruction: "short" has to be below, "long" above it.
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
    """T12."""
    tokens, right, slope, best = TABLES[method]
    points = [(t, 100 * r / 30) for t, r in zip(tokens, right)]
    assert scaling(points) == pytest.approx(slope, abs=0.05) and performance(
        points
    ) == pytest.approx(best, abs=0.05)


def test_scaling_by_hand():
    """T11: slopes 10, 20 and 30/2 per doubling -> 15; -10, +5 and -5/2 -> -2.5. Linear: 10/1000, 20/2000, 30/3000."""
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
        ("think", "v1", None, 85.74, -41.23, 0.05),  # T24
        ("no-think", "v1", None, 741.5, -250.3, 0.05),
        ("RL", "v2", None, 87.68, 58.96, 0.01),
        ("think", "v2", None, 55.66, -117.52, 0.01),  # T25
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
    """T24, T25. TI scales with √(sigma_math / sigma_group): factors 0.9386, 0.8856 are sigmas 1/0.9386², 1/0.8856²."""
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
    """q1: 3 of 4 right, q2: 4 of 4, q3: 1 of 4 (one cut while thinking), q4 has no answer to compare with."""
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
    maj@2: q1 [5, 4] ties, 5 came first: wrong; q2 right; q3 [None, 7]: wrong -> 33.33. Group "other" has 4 samples of
    thinking lengths 20..23, one of them cut, one forced, one without an answer."""
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


def test_what_more_samples_and_tokens_buy():
    """Two questions, three samples. q1: 5, 4, 0.5·8 with scores 1, 2, 3; q2: 9, 8, 4 with 3, 1, 2 (the gold is 4).
    avg@2 (1/2 + 0)/2; bon@2 picks q1's second, q2's first: 1/2; bon@3 q1's third, q2's first: 1/2; maj@3 takes
    8/2 for 4: q1 right, q2 a tie that 9 wins. Tokens 10 20 30 and 1 2 6: sums 60 and 9, the longest 30 and 6; of the
    first two 30 and 3, 20 and 2. q2's longest sample was cut: the mean of the others is (10 + 20 + 30 + 1 + 2)/5."""
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
    """Lengths 100, 200, 8192, the last one cut: clip ratio 1/3, stopped length 150, mean length 2830.67."""
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
    """Three responses, two instructions each. Strict: both; no comma only; none. Loose: without its first line the second
    ends as it should, too, and the third has no comma any more."""
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


def test_words_shared_with_references():
    """SQuAD's words: "The barn, in Ohio!" is barn in ohio. With "a big barn" 1 of 3 and 1 of 2 words: F1 2 · 1 / 5 = 0.4;
    with "in a barn" 2 of 3 and 2 of 2: 0.8. Both as references, each left out once: (0.8 + 0.4) / 2 = 0.6."""
    said = "The barn, in Ohio!"
    assert overlap(said, ["a big barn"]) == (0, pytest.approx(0.4))
    assert overlap(said, ["in a barn"]) == (0, pytest.approx(0.8))
    assert overlap(said, ["a big barn", "in a barn"]) == (0, pytest.approx(0.6))
    # exact with one of three: 1 when another is left out, twice of three times; F1 of "in a barn" with "a big barn": 1/2
    assert overlap("In a barn.", ["in barn", "a big barn", "x"]) == pytest.approx(
        (2 / 3, (0.5 + 1 + 1) / 3)
    )
    # a word counts as often as it stands there
    assert overlap("barn barn", ["barn"]) == (0, pytest.approx(2 / 3))
    assert overlap("the", ["a"]) == (1, 1) and overlap("the", ["x"]) == overlap(
        "", ["x"]
    ) == overlap(None, ["x"]) == (0, 0)


def test_conversations(tmp_path, capsys):
    """Right is who says the same words as one reference; exact match and F1 stand beside it, and the first line answers
    where nothing is marked as the answer."""
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


def test_yes_or_no():
    """HaluEval's rule: the first line says one of the two; a marked answer comes first."""
    row = {"choices": ["no", "yes"], "answer": "yes"}
    for said, answer in (
        ("Yes, because\nnothing", "yes"),
        ("**No**\nYes", "no"),
        ("yes or no?\nyes", None),
        ("Nothing\nyes", None),
        ("Hm.\nNo, \\boxed{Yes}", "Yes"),
        ("Yes.", "Yes."),
    ):
        assert answer_of(row | {"response": said}) == answer, said
        assert grade(row, answer) is ((answer or "").lower().strip(".") == "yes")


def test_table_of_scores(tmp_path, capsys):
    """UniReason's Table 1 as rows: group averages recomputed from the cells (27.65 and 53.8 in maths, 44.1 and 51.0 where
    45.2 and 60.0 are printed) and both indices, as test_transferability_reproduces_the_paper has them."""
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
    """T25: the same two constants that fit the controlled study."""
    base, tuned, other, non = MORE[model]
    index = transferability(
        scores(*base), scores(*tuned), "v2", {"math": 1, "other": 0.9386**-2, "non": 0.8856**-2}
    )
    assert index == {"other": pytest.approx(other, abs=0.15), "non": pytest.approx(non, abs=0.15)}


def test_averages_of_limo():
    """T23: LIMO's Table 1, ten benchmarks: 78.1 against 32.3 for as many traces from NuminaMath, 45.8 points."""
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
            b'{"id": "q", "response": "4", "answer": "4"}\n{"id": "p", "text": "4", "answer": "4"}\n',
            "one of lines 1 and 2 has a response and the other has not: two formats in one file",
        ),
        (
            b'{"id": "q", "response": "4", "answer": "4"}\n{"id": "q", "sample": 1, "response": "4", "answer": "5"}\n',
            "lines 1 and 2 have different answers to question 'q'",
        ),
        (
            b'{"id": "q", "response": "4\xff", "answer": "4"}\n',
            ":1: not a JSON object .UnicodeDecodeError",
        ),
        (b'{"id": "q", "response": 4, "answer": "4"}\n', "line 1: cannot be graded"),
        (
            b'{"id": "q", "response": "4", "nums": ["a"], "target": "b"}\n',
            "line 1: cannot be graded",
        ),
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
    """A gold that is empty or broken, fewer samples of one question, a 10 MB line: graded, counted and named."""
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
    """Two models, one run each, are no series; two runs of a model are compared on the questions they share: here q0
    and q1, right 1 of 2 at 100 tokens and 2 of 2 at 400, so 25 points per doubling; q2 is in one run only."""
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


def test_main(tmp_path, capsys):
    """40 questions, 30 right at 400 thinking tokens and 11 right at 100: 47.5 points over 2 doublings. The base has 10
    right; the 20 more are 50 points, and 1 more is not significant."""
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
    }
    assert report["runs"][long]["compared"]["difference"]["all"][0] == 50
    assert set(report["runs"][short]) == {"all", "groups", "settings", "undecided"}, (
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
