"""grading/answers.py: by hand, judged answers, perturbed answers, hostile strings."""

import random
import re
import statistics
import time
from fractions import Fraction
from pathlib import Path

import pytest
from bench_grader import PIECES, attack, hostile
from conftest import optional_data

from engine.rows import read_rows
from grading.answers import (
    Leaders,
    answer_classes,
    answer_of,
    extract_answer,
    grade,
    is_correct,
    is_gradable,
    overlap,
    parse,
)
from grading.extraction import RULES as EXTRACTION_RULES
from grading.spelling import LONGEST_ANSWER, RULES

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
    return read_rows(optional_data(name))


# ---- extraction


@pytest.mark.parametrize(
    "text, answer",
    [
        ("so \\boxed{1} ... \\boxed{2} it is", "2"),
        ("$\\boxed 42$ ok", "42"),
        ("\\fbox{9}", "9"),
        ("\\boxed {9}", "9"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\frac{1}{2}} then \\boxed{5", None),
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
        ("The answer is \\boxed{}.\n\nThe answer is 20.", "20."),
        ("\\boxed{3}. The answer is within $\\boxed{ }$.", "3"),
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
    """What was boxed while thinking does not count, and 023 is 23."""
    text = "hm \\boxed{5}\n<|im_start|>answer\nAnswer: so \\boxed{023}."
    assert extract_answer(text, "s1") == "023" and is_correct("023", "23")
    assert extract_answer("hm \\boxed{5}", "s1") is None


def test_answer_of():
    assert answer_of({"response": "Answer: 4", "text": "Answer: 5"}) == "4"
    assert answer_of({"response": "", "thinking": "Answer: 5", "text": "Answer: 5"}) is None
    assert answer_of({"response": None, "text": "Answer: 5"}) is None
    assert answer_of({"text": "Answer: 5"}) == "5" and answer_of({}) is None


# ---- rules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_does_what_its_example_says(rule):
    assert re.sub(rule.pattern, rule.new, rule.before) == rule.after
    assert not rule.cues or any(cue in rule.before for cue in rule.cues)


@pytest.mark.parametrize("rule", EXTRACTION_RULES, ids=lambda rule: rule.name)
def test_each_extraction_rule_does_what_its_example_says(rule):
    assert rule.find(rule.text) == rule.answer == extract_answer(rule.text)


# ---- grading


def test_number_words_are_no_units():
    """Words that change the number before them: only then is what is dropped a unit."""
    for said in ("7 factorial", "7 plus", "7\\text{ if }n>1", "7 modulo"):
        assert not is_correct(said, "7"), said
    assert is_correct("7 boxes", "7") and is_correct("7\\text{ square feet}", "7")


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
    """Only where there are choices: s1 takes any text without a letter for A, here it has no
    answer.
    """
    for said, letter in (
        ("Because.\n\n**B**", "B"),
        ("Because.\n(C)", "C"),
        ("Because.\nD) 45 degrees", "D"),
        ("Because.\nA dog", None),
        ("Because.\nI am sure", None),
        ("Because.\nb", "B"),
        ("Because.\nB or C", None),
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
    """Equal values are a class, and so is what the grader takes for equal: 50% for 50, 0.333333 for
    1/3.
    """
    assert answer_classes(
        {}, ["1/3", "50", None, "0.333333", "50\\%", "\\frac13", "0.3", "none"]
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


def test_classes_of_many_answers():
    """Comparing every answer with every leader, the slow way, gives the same classes; plain numbers
    are not compared unless they are decimals within 1e-5 of each other.
    """
    rng = random.Random(4)
    pool = ["1/3", "0.33333333", "\\frac{1}{3}", "-5", "-5.0000001", "50\\%", "0.5", "50", "1,000"]
    pool += ["red", "Red", "blue", "x=5", "5", "(1, 2)", "1, 2", "0.3333", "2/6", "0", "0.0000001"]
    for _ in range(20):
        answers = rng.choices(pool, k=12)
        leaders, slow = [], []
        for answer in answers:
            equal = (
                number
                for number, leader in enumerate(leaders)
                if is_correct(answer, leader) or is_correct(leader, answer)
            )
            number = next(equal, len(leaders))
            leaders += [answer] if number == len(leaders) else []
            slow.append(number)
        assert answer_classes({}, answers) == slow, answers
    found = Leaders()
    for answer in ["7", "1/3", "blue", "x", "0.3333"]:
        found.add(answer)
    assert found.possible("0.333333") == [(1, "1/3"), (2, "blue"), (3, "x")]
    assert found.possible("7.00001") == [(0, "7"), (2, "blue"), (3, "x")]
    assert found.possible("8") == [(2, "blue"), (3, "x")]
    assert [number for number, _ in found.possible("green")] == [4, 1, 0, 3]
    start = time.process_time()
    assert answer_classes({}, [str(n) for n in range(3000)]) == list(range(3000))
    assert time.process_time() - start < 2


def test_rows_without_an_answer_are_skipped():
    assert [grade({"answer": gold}, "") for gold in ("", " $ ", ".", None)] == [None] * 4
    assert (
        grade({}, "4") is None
        and grade({"answer": "4"}, None) is False
        and grade({"answer": 4}, "4") is True
    )


def perturb(gold):
    """(what was done, prediction, should be accepted) for one gold answer."""
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


JUDGED = read_rows(Path(__file__).parent / "judged_answers.jsonl")


@pytest.mark.parametrize("row", JUDGED, ids=lambda row: row["why"])
def test_agreement_with_own_judged_answers(row):
    """Responses and verdicts written for this test, one for each thing that a grader gets wrong
    easily.
    """
    assert grade(row, answer_of(row)) is row["right"]


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
    "a point whose gold answer has no brackets": "o243",
    "accepts 1 for 100": "o78",
    "accepts one of two functions": "o68 o114",
}


NO_GOLD = "g83 g167 g172 g192 g366 o157"  # empty, or \frac{q}{}, ^{6}, =2


def test_agreement_with_judged_answers():
    """1,600 + 400 + 977 judged outputs, 2,932 of them as judged (98.5%): all of the first two, 932
    of the last. Of its 45 others 4 have no usable gold answer, and in 41 the judge is wrong: in
    each the question, the gold answer and what was said were read again, and the list is exact (a
    name too many or too few fails here). So 100% of the 2,971 that can be graded. All verdicts were
    also compared with math-verify's, 19 differences looked at one by one.
    """
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
    assert [sum(column) for column in list(zip(*agree.values()))[:2]] == [2932, 2977]
    assert agree == {
        "gsm8k_openai_400q_x4": (1600, 1600, 1),
        "math_8samples_rm_50q": (400, 400, 1),
        "math_qwen25_3b_judged": (932, 977, 1),
    }
    assert sorted(skipped) == sorted(NO_GOLD.split()) and len(wrong) == 41


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
    """Every string gets an answer and none is executed; the chosen and 1,000 random ones together
    within seconds. `python tests/bench_grader.py --fuzz 100000` does the same for many more.
    """
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


def test_the_time_of_a_repeated_motif_is_near_linear():
    """As degenerate samples write them: a few signs, over and over, up to the longest answer.

    All that is asked about one text takes a tenth of a second; a rule that is quadratic in blanks
    or brackets takes minutes.
    """
    rng = random.Random(1)
    signs = [
        *PIECES,
        "~",
        "\\quad",
        "\\%",
        " ",
        "\n",
        "5",
        "a ",
        "1,",
        "and ",
        "\\text{a}",
        "=",
        "约",
    ]
    for _ in range(100):
        motif = "".join(rng.choices(signs, k=rng.randint(1, 3)))
        text = (rng.choice(("", "5", "\\boxed{", "Answer: ")) + motif * LONGEST_ANSWER)[
            :LONGEST_ANSWER
        ]
        start = time.process_time()
        attack(text)
        assert time.process_time() - start < 1, text[:50]


def test_words_shared_with_references():
    """SQuAD's words: "The barn, in Ohio!" is barn in ohio. With "a big barn" 1 of 3 and 1 of 2
    words: F1 2 · 1 / 5 = 0.4; with "in a barn" 2 of 3 and 2 of 2: 0.8. Both as references, each
    left out once: (0.8 + 0.4) / 2 = 0.6.
    """
    said = "The barn, in Ohio!"
    assert overlap(said, ["a big barn"]) == (0, pytest.approx(0.4))
    assert overlap(said, ["in a barn"]) == (0, pytest.approx(0.8))
    assert overlap(said, ["a big barn", "in a barn"]) == (0, pytest.approx(0.6))
    # Exact with one of three: 1 when another is left out, twice of three times.
    # F1 of "in a barn" with "a big barn" is 1/2.
    assert overlap("In a barn.", ["in barn", "a big barn", "x"]) == pytest.approx(
        (2 / 3, (0.5 + 1 + 1) / 3)
    )
    # a word counts as often as it stands there
    assert overlap("barn barn", ["barn"]) == (0, pytest.approx(2 / 3))
    assert overlap("the", ["a"]) == (1, 1) and overlap("the", ["x"]) == overlap(
        "", ["x"]
    ) == overlap(None, ["x"]) == (0, 0)


def test_yes_or_no():
    """HaluEval's rule: the first line says one of the two; a marked answer comes first.

    Where the first line says neither, the last may begin with one.
    """
    row = {"choices": ["no", "yes"], "answer": "yes"}
    for said, answer in (
        ("Yes, because\nnothing", "yes"),
        ("**No**\nYes", "no"),
        ("yes or no?\nyes", None),
        ("Nothing\nyes", "yes"),
        ("Nothing\nbut yes", None),
        ("Hm.\nNo, \\boxed{Yes}", "Yes"),
        ("Yes.", "Yes."),
    ):
        assert answer_of(row | {"response": said}) == answer, said
        assert grade(row, answer) is ((answer or "").lower().strip(".") == "yes")
