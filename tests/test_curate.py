"""curate.py: published rules by hand, the draws by statistics, and the whole script on small files."""

import copy
import dataclasses
import json
import random
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

import curate
from curation import pool, quality, rewrite, similarity
from engine import settings
from engine.format import FORMATS
from engine.rows import BadInput, read_rows
from grading.repetition import repeated_share

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def trace(number, question=None, thinking="first a then b", response="4", **more):
    return {
        "id": f"r{number:03}",
        "question": question or f"question {number} ?",
        "answer": "4",
        "thinking": thinking,
        "response": response,
        "model": "teacher",
        **more,
    }


def pool_of(sizes, seed=0):
    """Rows of several domains with distinct lengths, in random order."""
    rows = [
        trace(100 * d + i, domain=domain, n_thinking_tokens=10 * (i + 1) + d)
        for d, (domain, size) in enumerate(sizes.items())
        for i in range(size)
    ]
    random.Random(seed).shuffle(rows)
    return rows


def ids(rows):
    return [row["id"] for row in rows]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def decontaminate(rows, questions, n=8, layers=("exact", "ngram")):
    """(rows kept, Counter of the reasons for dropping the others)."""
    held_out, kept, reasons = (
        similarity.Overlap(similarity.parse_layers("--layers", layers, n)),
        [],
        Counter(),
    )
    for i, question in enumerate(questions):
        held_out.add({"id": i, "question": question})
    for row in rows:
        found = held_out.find(row)
        kept += [] if found else [row]
        reasons.update(found[:1] if found else ())
    return kept, reasons


# ---- Identity, overlap, copies ----------------------------------------------------------------------------------


def test_question_id_is_that_of_s1():
    assert pool.question_id("What is 1+1?") == "31adf3e245f99d7b"
    assert pool.question_id("How many r in raspberry?") == "466c23bcad372163"


# 13 words: 13 - 8 + 1 = 6 n-grams
TRAIN = "Find the number of positive integers n less than or equal to 2024"


def test_ngrams_by_hand():
    assert len(similarity.ngrams(TRAIN, 8)) == 6
    assert len(similarity.ngrams(TRAIN, 13)) == 1 and similarity.ngrams(TRAIN, 14) == set()
    assert similarity.ngrams("A  b\nC", 2) == {("a", "b"), ("b", "c")}
    shared = similarity.ngrams(TRAIN, 8) & similarity.ngrams(
        "FIND the  number of positive\nintegers n less than 5", 8
    )
    assert len(shared) == 2


@pytest.mark.parametrize(
    "test_question, reason",
    [
        ("FIND the  number of positive\nintegers n less than 5", "shared 8-gram"),
        # the comma makes `n,` another word
        ("Find the number of positive integers n, less than 5", None),
        ("number of positive integers n less than", None),  # 7 words in common
        ("of positive integers n less than or equal", "shared 8-gram"),
    ],
)
def test_contamination_needs_eight_words_in_a_row(test_question, reason):
    kept, reasons = decontaminate([trace(1, TRAIN)], [test_question], 8)
    assert (len(kept), dict(reasons)) == ((0, {reason: 1}) if reason else (1, {}))


def test_short_questions_are_caught_when_equal_and_only_then():
    rows = [
        trace(1, "make 20 from 7 5 8"),
        trace(2, "make 20 from 7 5 9"),
        trace(3, "Make 20  from 7 5 8 "),
    ]
    kept, reasons = decontaminate(rows, ["make 20 from 7 5 8", "make 20 from 7"], 8)
    assert ids(kept) == ["r002"] and reasons == {"same question": 2}


def test_first_of_each_keeps_file_order():
    rows = [trace(3, "b"), trace(1, "a"), trace(2, "B ")]
    assert ids(curate.first_of_each(rows, pool.question_of)) == ["r003", "r001"]


# ---- Quality ----------------------------------------------------------------------------------------------------


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
    assert quality.quality_ok({"question": question, "source": source}) is not dropped
    if not source:
        assert quality.quality_ok({"question": question}) is not dropped


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
    """Around each = , with what stands up to 16 characters behind, nothing is lost and nothing found twice."""
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
        found = list(quality.chains(text))
        assert found == quality._CHAIN.findall(plain), text
        n += len(found)
    assert n > 50


def test_a_slip_counts_until_it_is_taken_back():
    assert quality.standing_slips("7 + 5 = 11 no wait , check 7 + 5 = 12 yes") == []
    assert quality.standing_slips("7+5 = 11 no wait , check 7 + 5 = 12 yes") == []
    assert quality.standing_slips("7+5 = 12 yes . check 7 + 5 = 11 no") == ["7 + 5 = 11"]
    assert quality.standing_slips("7 + 5 = 11 wait , 5 + 7 = 12") == ["7 + 5 = 11"]


LOOP = "okay so . then " + "7 + 9 = 16 - 4 = 12 hmm . then " * 4


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
    assert quality.quality_problem(trace(1) | changes) == problem


def test_repetition_limit_is_a_setting():
    share = repeated_share(LOOP)
    assert 0.3 < share < 0.8
    assert quality.quality_problem(trace(1, thinking=LOOP), share + 0.01) is None
    assert quality.quality_problem(trace(1, thinking=LOOP), share - 0.01) == "repetition"


@pytest.mark.parametrize(
    "weak, strong, keep", [(0, 0, False), (0, 1, True), (0, 3, True), (0, 4, False), (1, 2, False)]
)
def test_difficulty_of_limo(weak, strong, keep):
    assert curate.solve_filter(weak, strong) is keep
    problem = curate.difficulty_problem({"id": 7}, [{"7": weak}, {"7": strong}], "limo")
    assert (problem is None) is keep


def test_difficulty_of_s1_and_untried_rows():
    assert curate.difficulty_problem({"id": "a"}, [{"a": 0}, {"a": 1}]) == "solved"
    assert curate.difficulty_problem({"id": "a"}, [{"a": 0}, {"b": 1}]) is None
    assert curate.difficulty_problem({"id": "a"}, [{}, {}], "limo") is None
    assert (
        curate.difficulty_problem({"id": "a"}, [{"a": 2}, {}], "limo") == "solved by the weak model"
    )
    assert curate.difficulty_problem({"id": "a"}, [{"a": 0}, {"a": 0}], "limo") == "never solved"


# ---- s1's selection ---------------------------------------------------------------------------------------------


def test_length_weights_by_hand():
    assert curate.length_weights([100, 300, 200]) == pytest.approx([1 / 7, 4 / 7, 2 / 7])
    assert curate.length_weights([5000, 1000, 8000, 2000]) == pytest.approx(
        [4 / 15, 1 / 15, 8 / 15, 2 / 15]
    )
    # a tie: first come, first ranked
    assert curate.length_weights([5, 5]) == pytest.approx([2 / 3, 1 / 3])
    assert curate.length_weights([9]) == [1] and sum(
        curate.length_weights(list(range(2000)))
    ) == pytest.approx(1)


@pytest.mark.parametrize(
    "source, benchmark",
    [
        ("Idavidrein/gpqa", "GPQA"),
        ("qq8933/AIME_1983_2024", "AIME"),
        ("qfq/openaimath/Algebra", "MATH"),
        ("hendrycks/MATH", "MATH"),
        ("AI-MO/NuminaMath-CoT/amc_aime", None),
        ("olympiadbench/maths", None),
        ("MATHEMATICA", None),
        (None, None),
    ],
)
def test_benchmark_of_a_source(source, benchmark):
    assert pool.benchmark_of({"source": source}) == benchmark


def test_outright_picks_by_hand():
    rows = [
        trace(1, source="hendrycks/MATH", correct=True, n_thinking_tokens=5600),
        trace(2, source="hendrycks/MATH", correct=True, n_thinking_tokens=5601),
        trace(3, source="AIME", correct=False, n_thinking_tokens=90000),
        trace(4, source="GPQA", correct=True, n_thinking_tokens=10),
        trace(5, source="AIME", correct=None, n_thinking_tokens=80000),
        trace(6, source="olympiad", correct=True, n_thinking_tokens=70000),
    ]
    # k = 2 leaves room for the outright picks alone, so that nothing can come from the draws
    assert ids(curate.s1_select(rows, 2, seed=1)) == ["r002", "r004"]
    assert ids(curate.s1_select(rows, 1, seed=1)) == ["r002"]
    assert sorted(ids(curate.s1_select(rows, 9))) == ids(rows)  # drawn again in vain, never twice


def test_benchmark_weights_by_hand():
    weights = curate.benchmark_weights(
        Counter(Biology=6, Quantum=4), Counter({"Number theory": 12, "Geometry": 8})
    )
    assert weights == pytest.approx(
        {"Biology": 0.2, "Quantum": 4 / 30, "Number theory": 0.4, "Geometry": 8 / 30}
    )
    # ratio 0.5 * 3 / 2 = 0.75: 2 rows become int(1.5) = 1
    assert curate.benchmark_weights(Counter(a=2), Counter(b=3)) == pytest.approx(
        {"a": 1 / 4, "b": 3 / 4}
    )
    assert curate.benchmark_weights(Counter(), Counter(b=3)) == {"b": 1}
    assert curate.benchmark_weights(Counter(a=2), Counter()) == {}


def test_domains_are_drawn_uniformly_and_long_traces_first():
    """One draw from each of 3000 seeds; domains of 100, 5 and 1 rows must each come up a third of the time.

    Standard error of a share of 1/3: sqrt(1/3 * 2/3 / 3000) = 0.0086; 5 of them are 0.043, far from 100/106 and 1/106.
    """
    rows = pool_of({"big": 100, "small": 5, "single": 1})
    drawn = [curate.s1_select(rows, 1, seed)[0] for seed in range(3000)]
    shares = Counter(row["domain"] for row in drawn)
    assert {d: n / 3000 for d, n in shares.items()} == pytest.approx(
        {"big": 1 / 3, "small": 1 / 3, "single": 1 / 3}, abs=0.043
    )
    # Inside `small` (about 1000 draws, standard error 0.016): 16/31, 8/31, 4/31, 2/31, 1/31 from the longest down.
    ranks = Counter(
        50 - row["n_thinking_tokens"] // 10 * 10 for row in drawn if row["domain"] == "small"
    )
    expected = {10 * rank: 2.0 ** (4 - rank) / 31 for rank in range(5)}
    assert {rank: n / shares["small"] for rank, n in ranks.items()} == pytest.approx(
        expected, abs=0.08
    )
    # Of the 100 rows of `big` none beyond rank 30 may appear: 1000 draws, chance 2^-31 each.
    assert all(row["n_thinking_tokens"] >= 700 for row in drawn if row["domain"] == "big")


def test_diverse_is_uniform_inside_a_domain():
    rows = pool_of({"big": 40, "small": 5})
    drawn = [curate.diverse_select(rows, 1, seed)[0] for seed in range(2000)]
    # 5 errors
    assert sum(row["domain"] == "small" for row in drawn) / 2000 == pytest.approx(0.5, abs=0.056)
    small = Counter(row["id"] for row in drawn if row["domain"] == "small")
    assert len(small) == 5 and max(small.values()) < 1.5 * min(small.values())  # 200 each ± 13


def test_notebook_draws_the_last_30_percent_by_benchmark():
    rows = pool_of({"a": 60, "b": 60, "c": 60}) + [
        trace(900 + i, domain="b", source="AIME", correct=False, n_thinking_tokens=5)
        for i in range(3)
    ]
    chosen = curate.s1_select(rows, 40, seed=3, variant="notebook")
    assert {row["domain"] for row in chosen[28:]} == {"b"}  # only b holds AIME rows
    assert {row["domain"] for row in chosen[20:28]} != {"b"}  # uniform: b eight times once in 6561
    assert {row["domain"] for row in curate.s1_select(rows, 40, seed=3)[28:]} == {"a", "b", "c"}
    # b runs dry: the rest comes from the other domains instead of an endless loop
    assert len(curate.s1_select(rows, 150, seed=3, variant="notebook")) == 150


@pytest.mark.parametrize("choose", [curate.s1_select, curate.diverse_select])
def test_draws_repeat_by_seed_whatever_the_order_of_the_rows(choose):
    rows = pool_of({"a": 30, "b": 9, "c": 4})
    before = copy.deepcopy(rows)
    first = ids(choose(rows, 17, 5))
    assert first == ids(choose(rows[::-1], 17, 5)) != ids(choose(rows, 17, 6))
    assert len(set(first)) == 17 and rows == before
    assert sorted(ids(choose(rows, 99, 5))) == sorted(ids(rows))


# ---- LIMO's selection -------------------------------------------------------------------------------------------

TRACE_A = (
    "Perhaps x is 3 . Check : since 3 + 1 = 4 , it works . It might also be 5 ; check 5 + 1 = 6 , no . "
    "Therefore x is 3 ."
)  # 37 words, hits 2, 2, 2
TRACE_B = "Since 3 + 1 = 4 , x is 3 ."  # 11 words, hits 0, 0, 1


def test_limo_score_by_hand():
    """A: .30 * 37/37 + .20 + .25 + .25 * (2/37) / (1/11) = .898649; B: .30 * 11/37 + .25 = .339189."""
    scores = curate.limo_score([trace(1, thinking=TRACE_A), trace(2, thinking=TRACE_B)])
    assert scores == pytest.approx([0.898649, 0.339189], abs=1e-6)
    # length saturates at 22 tokens: B gets .30 * 11/22
    scores = curate.limo_score(
        [trace(1, thinking=TRACE_A), trace(2, thinking=TRACE_B)], length_cap=22
    )
    assert scores == pytest.approx([0.898649, 0.40], abs=1e-6)
    # counted tokens replace words in the length, not in the frequencies
    scores = curate.limo_score(
        [trace(1, thinking=TRACE_A, n_thinking_tokens=50), trace(2, thinking=TRACE_B)]
    )
    assert scores == pytest.approx([0.898649, 0.30 * 11 / 50 + 0.25], abs=1e-6)


def test_limo_score_of_extremes():
    one_kind = [
        trace(i, thinking=f"{word} x y z")
        for i, word in enumerate(("check", "might", "since", "w"))
    ]
    assert curate.limo_score(one_kind) == pytest.approx([0.50, 0.55, 0.55, 0.30])
    assert curate.limo_score([]) == []
    assert curate.limo_score([trace(1, thinking="", response="")]) == [0]
    # no hit at all: 0, not a division by zero
    assert curate.limo_score([trace(1, thinking="x y")]) == [0.3]
    assert curate.limo_score([trace(1, thinking="check might since")]) == pytest.approx([1.0])


def test_words_are_whole_words():
    words = quality.words_of(
        "Check, check checks (verify) double-check… LET me try; let me try me “perhaps”"
    )
    assert quality.count_words(words, quality.VERIFY["strict"]) == 3
    assert quality.count_words(words, quality.VERIFY["extended"]) == 4
    assert quality.count_words(words, ("let me try",)) == 2
    assert quality.count_words(words, quality.EXPLORE["strict"]) == 1


def test_limo_select_order_ties_and_best_per_problem():
    rows = [
        trace(1, "p", thinking=TRACE_B),
        trace(2, "p", thinking=TRACE_A),
        trace(5, "s", thinking=TRACE_B),
        trace(3, "q", thinking=TRACE_B + " x" * 5),
        trace(4, "r", thinking=TRACE_B),
    ]
    before = copy.deepcopy(rows)
    best = curate.limo_select(rows, 9)
    assert ids(best) == ["r002", "r004", "r005", "r003"]  # 1 gives way to 2; 4 before 5 by id
    assert [row["score"] for row in best] == sorted((row["score"] for row in best), reverse=True)
    assert ids(curate.limo_select(rows, 9, best_per_problem=False)) == [
        "r002",
        "r001",
        "r004",
        "r005",
        "r003",
    ]
    assert ids(curate.limo_select(rows, 2, lowest=True)) == ["r003", "r001"]
    assert rows == before and "score" not in rows[0]
    for seed in range(5):
        assert curate.limo_select(random.Random(seed).sample(rows, 5), 9) == best


def test_limo_prefers_the_longer_of_equal_scores():
    rows = [
        trace(1, thinking="check might since", n_thinking_tokens=60),
        trace(2, thinking="check might since", n_thinking_tokens=70),
    ]
    best = curate.limo_select(rows, 2, length_cap=50)
    assert ids(best) == ["r002", "r001"] and best[0]["score"] == best[1]["score"]


# ---- The whole script -------------------------------------------------------------------------------------------


def small_pool():
    rows = pool_of({"a": 12, "b": 6})
    return rows + [
        dict(rows[0]),  # a copy
        trace(800, "make 20 from 7 5 8"),  # held out
        trace(801, thinking="so 2 + 2 = 5 ."),
        trace(802, thinking=LOOP),  # quality
        trace(803, response="5"),  # wrong
        trace(804),
        trace(805),  # solved by the student
        trace(806, rows[0]["question"], thinking="a later trace of a question that is there"),
    ]


def config(tmp_path, **settings):
    data = write(tmp_path / "pool.jsonl", small_pool())
    return curate.Config(data=data, out=str(tmp_path / "out.jsonl"), **settings)


def test_main_end_to_end(tmp_path, capsys):
    against = write(tmp_path / "test.jsonl", [{"id": "t", "question": "Make 20 from 7 5 8"}])
    tries = [
        {"id": name, "question": "q", "answer": "4", "response": response}
        for name, response in (("r804", "3"), ("r804", "4"), ("r805", "4"), ("r001", "7"))
    ]
    cfg = config(
        tmp_path,
        k=7,
        against=(against,),
        attempts=(write(tmp_path / "tries.jsonl", tries),),
        keep_correct=True,
    )
    chosen = curate.main(cfg)
    printed = [line.split(maxsplit=1)[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "pool",
        "copies",
        "held",
        "quality",
        "correct",
        "difficulty",
        "18",
        "questions",
        "left",
        "s1",
    ]
    assert read_rows(cfg.out) == chosen and len(set(ids(chosen))) == 7
    for row in chosen:
        assert row["correct"] is True and row["domain"] in "ab" and row["model"] == "teacher"

    saved = json.loads((tmp_path / "out.config.json").read_text())
    assert saved["method"] == "s1" and saved["k"] == 7 and saved["against"] == [against]
    assert [(stage["stage"], stage["kept"], stage.get("dropped")) for stage in saved["funnel"]] == [
        ("pool", 26, None),
        ("copies", 25, {"same question and trace": 1}),
        ("held out", 24, {"same question": 1}),
        ("quality", 22, {"false equation": 1, "repetition": 1}),
        ("correct", 21, {"wrong": 1}),
        ("difficulty", 19, {"solved": 2}),
        ("questions", 18, {"later trace": 1}),
    ]
    assert saved["funnel"][5]["without_attempt"] == 18  # 21 less 804, 805 and 001
    assert (
        saved["totals"]["left"]["domains"] == {"a": 12, "b": 6}
        and saved["totals"]["s1"]["rows"] == 7
    )


@pytest.mark.parametrize(
    "method, n",
    [
        ("s1", 5),
        ("random", 5),
        ("diverse", 5),
        ("longest", 5),
        ("limo", 5),
        ("limo-low", 5),
        ("full", 25),
    ],
)
def test_every_method_is_repeatable(tmp_path, method, n):
    cfg = config(tmp_path, method=method, k=5, seed=3)
    chosen = curate.main(cfg)
    first = Path(cfg.out).read_bytes()
    assert curate.main(cfg) == chosen and Path(cfg.out).read_bytes() == first
    assert len(chosen) == n == len({(row["id"], row["thinking"]) for row in chosen})
    assert all({"correct", "n_thinking_tokens", "domain"} <= row.keys() for row in chosen)
    assert all(("score" in row) == method.startswith("limo") for row in chosen)
    if method == "longest":
        assert [row["n_thinking_tokens"] for row in chosen] == [120, 110, 100, 90, 80]


def test_quality_filter_follows_the_paper_unless_told(tmp_path, capsys):
    def stages(**settings):
        curate.main(config(tmp_path, k=5, **settings))
        return [
            stage["stage"]
            for stage in json.loads((tmp_path / "out.config.json").read_text())["funnel"]
        ]

    assert "quality" in stages(method="random") and "quality" not in stages(
        method="random", quality=False
    )
    assert "quality" not in stages(method="limo") and "quality" in stages(
        method="full", quality=True
    )
    assert "questions" not in stages(method="full")


def test_too_few_rows_are_all_kept_and_said_to_be(tmp_path, capsys):
    # 26 less a copy, 2 of quality, a later trace
    assert len(curate.main(config(tmp_path, method="longest"))) == 22
    assert "only 22 rows are left to choose, fewer than --k 1000" in capsys.readouterr().out


def test_rows_without_id_length_and_gold(tmp_path, capsys):
    rows = [
        {
            "question": "What is 1+1?",
            "thinking": "one two three",
            "response": "It holds.",
            "subject": "s",
        },
        {"question": "q", "thinking": "x", "response": "It holds.", "correct": True},
    ]
    chosen = curate.main(
        curate.Config(
            data=write(tmp_path / "p.jsonl", rows), out=str(tmp_path / "o"), method="full"
        )
    )
    assert chosen[0]["id"] == "31adf3e245f99d7b" and chosen[0]["n_thinking_tokens"] == 3
    assert [(row["domain"], row["correct"]) for row in chosen] == [("s", None), ("unknown", True)]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k": 0}, "--k"),
        ({"length_cap": 0}, "--length-cap"),
        ({"difficulty": "limo", "attempts": ("x",)}, "two files"),
        ({"attempts": ("OTHER",)}, "none of their ids"),
        ({"against": ("missing.jsonl",)}, "missing.jsonl"),
    ],
)
def test_bad_settings_are_named(tmp_path, capsys, settings, message):
    write(tmp_path / "other.jsonl", [{"id": "elsewhere", "response": "4"}])
    settings = {
        k: (str(tmp_path / "other.jsonl"),) if v == ("OTHER",) else v for k, v in settings.items()
    }
    with pytest.raises(BadInput, match=message):
        curate.main(config(tmp_path, **settings))
    assert not (tmp_path / "out.jsonl").exists()


def test_the_filter_that_empties_the_pool_is_named(tmp_path, capsys):
    data = write(tmp_path / "p.jsonl", [trace(1, response="5"), trace(2, response="6")])
    with pytest.raises(BadInput, match=r"'correct' \(wrong 2\)"):
        curate.main(curate.Config(data=data, out=str(tmp_path / "o"), keep_correct=True))


@pytest.mark.parametrize(
    "line, message",
    [
        ("{broken", "p.jsonl:2: not a JSON object"),
        ("", "p.jsonl:2: empty line"),
        (json.dumps({"id": 1, "question": "q", "response": "r"}), "p.jsonl:2: no field 'thinking'"),
        (json.dumps(trace(1) | {"thinking": 5}), "thinking 5 is not text"),
        (
            json.dumps(trace(1) | {"n_thinking_tokens": "5"}),
            "n_thinking_tokens '5' is not a number",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(trace(0)) + "\n" + line + "\n" + json.dumps(trace(2)) + "\n")
    with pytest.raises(BadInput, match=message):
        curate.main(curate.Config(data=str(path), out=str(tmp_path / "o")))


def test_command_line(tmp_path):
    def call(*flags):
        return subprocess.run(
            [sys.executable, str(ROOT / "curate.py"), *flags], capture_output=True, text=True
        )

    cfg = config(tmp_path)
    done = call("--data", cfg.data, "--out", cfg.out, "--method", "random", "--k", "3")
    assert done.returncode == 0, done.stderr
    assert "quality           23 kept  (-2: false equation 1, repetition 1)" in done.stdout
    assert len(read_rows(cfg.out)) == 3
    wrong = call("--data", cfg.data, "--out", cfg.out, "--methd", "random")
    assert wrong.returncode == 2 and "--methd" in wrong.stderr
    gone = call("--data", str(tmp_path / "gone.jsonl"), "--out", cfg.out)
    assert (
        gone.returncode == 1
        and gone.stderr.startswith("curate.py: ")
        and gone.stderr.count("\n") == 1
    )


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        settings.parse(curate.Config, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in curate.Config.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in shown
    assert (
        "as in the papers" in shown
        and settings.parse(curate.Config, ["--data", "a", "--out", "b"]).quality is None
    )


# ---- Copies in other words --------------------------------------------------------------------------------------


def test_jaccard_of_shingles_by_hand():
    """Seven 3-word runs each; `jumps` stands in three of them, so 4 of 4 + 3 + 3 are shared."""
    fox = "the quick brown fox {} over the lazy dog"
    a, b = similarity.shingles(fox.format("jumps")), similarity.shingles(fox.format("leaps"))
    assert (len(a), len(b), len(a & b)) == (7, 7, 4) and similarity.jaccard(a, b) == pytest.approx(
        0.4
    )
    rest = "the sum of all positive integers n less than 100"
    assert similarity.jaccard(
        similarity.shingles("What is " + rest), similarity.shingles("Find " + rest)
    ) == pytest.approx(8 / 11)
    assert similarity.shingles("Compute 5^2 - 4^2", True) != similarity.shingles(
        "Compute 9^2 + 9 + 1", True
    )
    assert len(similarity.shingles("求 x 的值是多少")) == 5  # seven words, one of them x
    assert (
        similarity.shingles("Two, words?") == similarity.shingles("two words")
        and len(similarity.shingles("x")) == 1
    )
    assert similarity.shingles("add 12 and 3.5", masked=True) == similarity.shingles(
        "add 1,000 and 7", masked=True
    )


def test_collision_probabilities():
    """Banding of FineWeb (14 bands of 8) and two others; 1 - (1 - s^r)^b."""
    for (b, r), expected in {
        (14, 8): {0.5: 0.0533, 0.6: 0.2111, 0.7: 0.5645, 0.75: 0.7716, 0.8: 0.9235, 0.9: 0.9996},
        (20, 5): {0.5: 0.4701, 0.7: 0.9748},
        (16, 8): {0.8: 0.9470},
    }.items():
        assert {s: round(similarity.collision(s, b, r), 4) for s in expected} == expected
    for threshold in (0.4, 0.6, 0.8, 1.0):
        b, r = similarity.bands_for(threshold)
        assert b * r <= 128 and similarity.collision(threshold, b, r) >= 0.95
        # one row more would miss pairs
        assert similarity.collision(threshold, 128 // (r + 1), r + 1) < 0.95 or r == 128


def test_signatures_estimate_jaccard():
    """At J = 1/2 the share of equal minima of 128 has standard deviation sqrt(.25 / 128) = .0442, mean 1/2."""
    rng, errors = random.Random(3), []
    for _ in range(60):
        both, a, b = ({rng.getrandbits(32) for _ in range(n)} for n in (24, 12, 12))
        pairs = list(zip(similarity.signature(both | a), similarity.signature(both | b)))
        errors.append(sum(x == y for x, y in pairs) / len(pairs) - 0.5)
    assert abs(sum(errors) / 60) < 5 * 0.0442 / 60**0.5
    assert 0.030 < (sum(e * e for e in errors) / 60) ** 0.5 < 0.060


def reworded(text, share, rng):
    return " ".join(
        rng.choice("alpha beta gamma delta epsilon zeta".split()) if rng.random() < share else word
        for word in text.split()
    )


@pytest.mark.parametrize("threshold, masked", [(0.6, False), (0.8, True)])
def test_minhash_finds_what_comparing_all_pairs_finds(threshold, masked):
    rng = random.Random(5)
    texts = [
        " ".join(rng.choice("abcdefghijklmnopqrst") + str(rng.randrange(9)) for _ in range(30))
        for _ in range(40)
    ]
    asked = [reworded(text, share, rng) for text in texts for share in (0, 0.03, 0.08, 0.3)]
    index = [similarity.Minima(threshold, masked, prefilter) for prefilter in (True, False)]
    for minima in index:
        for text in texts:
            minima.add(text)
    missed, n = 0, 0
    for text in asked:
        hashes = similarity.shingles(text, masked)
        pairs = [
            (similarity.jaccard(hashes, similarity.shingles(other, masked)), -i)
            for i, other in enumerate(texts)
        ]
        best, place = max(pairs)
        found = index[0].find(text)
        assert found == index[1].find(text)  # the prefilter loses nothing
        assert found is None or found == (-place, best) and best >= threshold
        missed, n = missed + (found is None and best >= threshold), n + (best >= threshold)
    assert 60 < n < len(asked) and missed <= 0.05 * n


TRAIN_RIDE = "A train leaves the station at {} and travels {} miles in {} hours. What is its average speed in miles an hour?"


@pytest.mark.parametrize(
    "layers, question, reason",
    [
        (("exact",), TRAIN_RIDE.format(5, 120, 2), None),
        # of the constant words at the end
        (("exact", "ngram"), TRAIN_RIDE.format(5, 120, 2), "shared 8-gram"),
        (("ngram:13",), TRAIN_RIDE.format(5, 120, 2), None),
        # 18 runs of three words, 8 hold a number
        (("minhash:0.6",), TRAIN_RIDE.format(5, 120, 2), None),
        (("minhash:0.3",), TRAIN_RIDE.format(5, 120, 2), "minhash 0.3"),
        (("masked:0.9",), TRAIN_RIDE.format(5, 120, 2.5), "masked 0.9"),
        (("exact", "masked:0.9"), TRAIN_RIDE.format(9, 300, 4), "same question"),
        (("minhash:0.6",), "of What is the speed?", None),
    ],
)
def test_layers_on_one_question(layers, question, reason):
    kept, reasons = decontaminate(
        [trace(1, question)], [TRAIN_RIDE.format(9, 300, 4)], layers=layers
    )
    assert (len(kept), dict(reasons)) == ((0, {reason: 1}) if reason else (1, {}))


def test_layers_answer_and_embedding():
    seen = similarity.Overlap(similarity.parse_layers("--layers", ("answer:0.4", "embedding:0.9")))
    seen.add(
        {"id": "t", "question": TRAIN_RIDE.format(9, 300, 4), "answer": "1/2", "embedding": [3, 4]}
    )
    near = {
        "id": "x",
        "question": TRAIN_RIDE.format(5, 120, 2),
        "answer": "0.5",
        "embedding": [4, -3],
    }
    assert seen.find(near)[:3] == ("answer 0.4", "answer", 0)
    assert seen.find(near | {"answer": "0.6"}) is None
    *found, cosine = seen.find(near | {"answer": None, "embedding": [30, 41]})
    assert found == ["embedding 0.9", "embedding", 0] and cosine == pytest.approx(
        254 / (30**2 + 41**2) ** 0.5 / 5
    )
    with pytest.raises(BadInput, match="row x: `embedding` is not a list of numbers"):
        seen.find(near | {"answer": None, "embedding": "no"})


@pytest.mark.parametrize(
    "layer", ["minhsh", "minhash:2", "ngram:2.5", "ngram:0", "exact:1", "masked:x", "masked:0"]
)
def test_bad_layers_are_named(layer):
    with pytest.raises(BadInput, match=f"--layers {layer}: not one of exact, ngram:8, minhash:0.6"):
        similarity.parse_layers("--layers", ["exact", layer])


def test_ngrams_compare_sources_as_s1_does():
    """Within a source overlaps stay; what is dropped is not added, so that it cannot drop others."""
    rows = [
        trace(1, TRAIN, source="a"),
        trace(2, TRAIN + " or so", source="a"),
        trace(3, TRAIN + " or more", source="b"),
        trace(4, "more or less so " + TRAIN[-30:], source="b"),
        trace(5, TRAIN, source=None),
    ]
    pairs = []
    drop = curate.overlap_filter(similarity.parse_layers("--dedup", ("ngram",)), pairs.append)
    # 5 asks what 1 asks
    assert [drop(row) for row in rows] == [None, None, "shared 8-gram", None, None]
    assert [(pair["id"], pair["other_id"]) for pair in pairs] == [("r003", "r001")]


def test_seen_is_a_set():
    rng, seen, plain = random.Random(1), similarity.Seen(), set()
    for _ in range(5000):
        digest = rng.choice(
            (0, 1 << 63, rng.randrange(4000), rng.getrandbits(64), rng.randrange(9) << 20)
        )
        assert (digest or 1) in plain or digest not in seen
        assert seen.add(digest) == ((digest or 1) not in plain)
        plain.add(digest or 1)
        assert digest in seen
    assert seen.n == len(plain) and 2 * seen.n <= len(seen.table) <= 4096 * 4


def test_audit_file_and_near_copies(tmp_path, capsys):
    rows = [
        trace(1, TRAIN_RIDE.format(9, 300, 4)),
        trace(2, TRAIN_RIDE.format(9, 300, 4), thinking="another trace"),
        trace(3, TRAIN_RIDE.format(5, 120, 2)),
        trace(4, "something else entirely , is it not ?"),
        trace(5, "How many primes are below 100 ?"),
    ]
    against = write(
        tmp_path / "test.jsonl",
        [
            {"id": "t", "question": "How many primes are there below 50 ?"},
            {"id": "u", "question": "Nothing like the others"},
        ],
    )
    cfg = curate.Config(
        data=write(tmp_path / "pool.jsonl", rows),
        out=str(tmp_path / "out.jsonl"),
        method="full",
        against=(against,),
        layers=("exact", "masked:0.2"),
        dedup=("masked:0.9",),
        audit=str(tmp_path / "audit.jsonl"),
    )
    # 2 is another trace, not another question
    assert ids(curate.main(cfg)) == ["r001", "r002", "r004"]
    near, held = sorted(read_rows(cfg.audit), key=lambda pair: pair["id"])
    assert near == {
        "stage": "near copies",
        "layer": "masked",
        "similarity": 1.0,
        "id": "r003",
        "question": rows[2]["question"],
        "other_id": "r001",
        "other": rows[0]["question"],
    }
    # "how many primes", "many primes are" of 4 and 5 runs: 2 of 7; "below 0" is too short for a third
    assert (held["layer"], held["id"], held["other_id"], held["similarity"]) == (
        "masked",
        "r005",
        "t",
        round(2 / 7, 4),
    )
    funnel = {
        stage["stage"]: stage
        for stage in json.loads((tmp_path / "out.config.json").read_text())["funnel"]
    }
    assert funnel["held out"]["similarity"] == {"masked 0.2": 1} and funnel["near copies"][
        "similarity"
    ] == {"masked 1.0": 1}
    write(tmp_path / "test.jsonl", rows)
    with pytest.raises(BadInput, match="no row is left after the filter 'held out'"):
        curate.main(cfg)
    assert len(read_rows(cfg.audit)) == 5


# ---- What is done to traces and prompts -------------------------------------------------------------------------

STEPS = "\n\n".join(f"step {i} is {i * 7}" for i in range(9))


def corrupted(how, share, thinking=STEPS, donor=(), seed=0):
    return rewrite.corrupted(
        trace(1, thinking=thinking, n_thinking_tokens=99), how, share, seed, donor
    )["thinking"]


def test_corruptions_keep_what_they_should():
    steps = rewrite.split_steps(STEPS)[0]
    assert len(steps) == 9
    changed = corrupted("digits", 1)
    assert all(a != b if a.isdigit() else a == b for a, b in zip(STEPS, changed, strict=True))
    half = sum(a != b for a, b in zip("1" * 2000, corrupted("digits", 0.5, "1" * 2000)))
    assert 880 < half < 1120  # 1000 ± 5 · 22
    shuffled = corrupted("shuffle", 1)
    assert sorted(shuffled.split("\n\n")) == sorted(steps) and shuffled != STEPS
    assert sum(a != b for a, b in zip(corrupted("shuffle", 0.4).split("\n\n"), steps)) <= 4
    assert len(corrupted("delete", 0.67).split("\n\n")) == 3
    assert [step for step in steps if step in corrupted("delete", 0.67)] == corrupted(
        "delete", 0.67
    ).split("\n\n")
    inserted = corrupted("insert", 0.67, donor=["foreign"]).split("\n\n")
    assert (
        inserted.count("foreign") == 6 and [step for step in inserted if step != "foreign"] == steps
    )
    for how in rewrite.CORRUPTIONS:
        assert corrupted(how, 0, donor=["foreign"]) == STEPS
        assert corrupted(how, 0.5, donor=["foreign"]) == corrupted(how, 0.5, donor=["foreign"])
    row = trace(1, thinking=STEPS, n_thinking_tokens=99)
    made = rewrite.corrupted(row, "delete", 0.67)
    assert (
        made["corrupted"] == "delete:0.67"
        and "n_thinking_tokens" not in made
        and row["thinking"] == STEPS
    )


def test_steps_without_blank_lines_begin_with_a_second_thought():
    text = "try 7 + 8 = 15 low wait , maybe 9 + 8 = 17 but Waiting helps. Hmm, yes"
    assert rewrite.split_steps(text) == (
        ["try 7 + 8 = 15 low", "wait , maybe 9 + 8 = 17", "but Waiting helps.", "Hmm, yes"],
        " ",
    )
    assert corrupted("keywords", 1, "a wait, b. Wait , maybe c; await it") == "a b. c; await it"


def test_insert_takes_steps_of_the_next_row():
    rows = [trace(i, thinking="\n\n".join([f"own {i}"] * 4)) for i in range(3)]
    for i, row in enumerate(rewrite.finished(iter(rows), corrupt="insert:0.5")):
        assert Counter(row["thinking"].split("\n\n")) == {f"own {i}": 4, f"own {(i + 1) % 3}": 2}
    assert list(rewrite.finished(iter([]))) == [] and list(rewrite.finished(rows)) == rows


@pytest.mark.parametrize(
    "flag, text",
    [
        ("corrupt", "shufle"),
        ("corrupt", "digits:2"),
        ("corrupt", "digits:x"),
        ("budget", "l1:5"),
        ("budget", "l1:9:5"),
        ("budget", "tokens:9"),
        ("budget", "l1:1:2:3"),
        ("hint", "no gold here"),
    ],
)
def test_bad_transformations_are_named(tmp_path, flag, text):
    with pytest.raises(BadInput, match=f"--{flag} .?{text}"):
        curate.main(config(tmp_path, **{flag: text}))


def test_buckets_of_s1():
    assert [rewrite.bucket(n) for n in (1, 2, 3, 1023, 1024, 1025, 2048, 2049)] == [
        1,
        2,
        4,
        1024,
        1024,
        2048,
        2048,
        4096,
    ]


def test_budgets_in_prompts():
    made = rewrite.with_budget(trace(1, "How many?", n_thinking_tokens=1025), "tokens")
    assert (
        made["question"] == "How many?\n\nThink for up to 2048 tokens." and made["budget"] == 2048
    )
    made = rewrite.with_budget(trace(1, "How many?", thinking="add\n\n carry\n \nsum"), "steps")
    assert made["question"] == "How many?\n\nThink for up to 4 steps." and made["budget"] == 4
    assert (
        made["thinking"]
        == "4 steps left\nadd\n<|im_start|>3 steps left\ncarry\n<|im_start|>2 steps left\nsum"
    )
    text = rewrite.trained_text(made, "s1-steps")
    assert text == f"<|im_start|>{made['thinking']}\n<|im_start|>answer\n4"
    assert FORMATS["s1-steps"].split(text.removeprefix("<|im_start|>")) == (made["thinking"], "4")


def test_budgets_of_l1_are_uniform():
    """U{100..4000}: mean 2050, standard error of 4000 draws 1126 / sqrt(4000) = 17.8; half are maxima, ± .0079."""
    name, numbers = rewrite.parse_budget("l1:100:4000:0.5")
    rows = [rewrite.with_budget(trace(i, "Q"), name, numbers, seed=1) for i in range(4000)]
    budgets = [row["budget"] for row in rows]
    assert (
        100 <= min(budgets) < 120
        and 3980 < max(budgets) <= 4000
        and abs(sum(budgets) / 4000 - 2050) < 5 * 17.8
    )
    assert abs(sum("budget_is_maximum" in row for row in rows) / 4000 - 0.5) < 5 * 0.0079
    for row in rows[:9]:
        kind = "maximum " if "budget_is_maximum" in row else ""
        assert row["question"] == (
            "Q Let's think step by step and output the final answer within \\boxed{}. "
            f"Think for {kind}{row['budget']} tokens."
        )
    assert (
        rows[7]
        == rewrite.with_budget(trace(7, "Q"), name, numbers, seed=1)
        != rewrite.with_budget(trace(7, "Q"), name, numbers, seed=2)
    )
    exact = rewrite.parse_budget("l1:5:5")
    assert not any("budget_is_maximum" in rewrite.with_budget(trace(i), *exact) for i in range(99))


def test_star_hints_the_failures_and_forgets_the_hints(tmp_path):
    """Right without a hint: 0 and 2; with one: 1. Trained on are 0, 2 and 1, and no hint is in their text."""
    rows = [trace(i, f"question {i}", response=response) for i, response in enumerate("4554")]
    rows[3]["response"] = "7"
    rows[2]["response"] = "4"
    first = write(tmp_path / "first.jsonl", rows)
    hinted = curate.main(
        curate.Config(
            data=first,
            out=str(tmp_path / "hinted.jsonl"),
            method="full",
            keep_wrong=True,
            hint=" ( {answer} )",
        )
    )
    assert [row["question"] for row in hinted] == ["question 1 ( 4 )", "question 3 ( 4 )"]
    assert not any({"thinking", "response", "correct"} & row.keys() for row in hinted)
    (tmp_path / "both").mkdir()
    write(tmp_path / "both/a.jsonl", rows)
    write(
        tmp_path / "both/b.jsonl",
        [row | {"thinking": "t", "response": r} for row, r in zip(hinted, "49")],
    )
    kept = curate.main(
        curate.Config(
            data=str(tmp_path / "both"),
            out=str(tmp_path / "traces.jsonl"),
            method="full",
            keep_correct=True,
        )
    )
    assert ids(kept) == ["r000", "r002", "r001"] and [row.get("hint") for row in kept] == [
        None,
        None,
        True,
    ]
    assert all(
        row["question"] == f"question {row['id'][-1]}" and "unhinted" not in row for row in kept
    )


def test_hint_at_a_choice():
    row = {
        "id": 1,
        "question": "Where? (a) here (b) there",
        "choices": ["here", "there"],
        "answer_index": 1,
        "answer": "b",
    }
    assert rewrite.hinted(row, "choices")["question"] == "Where? (a) here (b) there (CORRECT)"
    with pytest.raises(BadInput, match="does not list its right choice"):
        rewrite.hinted(row | {"choices": ["here", "nowhere"]}, "choices")
    with pytest.raises(BadInput, match="row 1 has no answer"):
        rewrite.hinted(row | {"answer": None}, " ({answer})")


def test_samples_for_the_same_flops():
    assert [
        rewrite.matched_samples(1, strong, weak) for strong, weak in ((27e9, 9e9), (8, 1), (70, 8))
    ] == [3, 8, 8]
    assert (
        rewrite.matched_samples(10, 27, 9) == 30
        and rewrite.matched_samples(1, 27, 9, 1000, 1500) == 2
    )


def test_several_teachers_at_the_same_flops(tmp_path, capsys):
    rows = [
        trace(10 * q + i, f"question {q}", thinking=f"t {i}", model=model)
        for q in range(2)
        for i, model in enumerate(["big"] * 3 + ["small"] * 5 + ["other"])
    ]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", rows),
        out=str(tmp_path / "o.jsonl"),
        method="full",
        per_question=1,
        match_flops=("big=27e9", "small=9e9"),
    )
    assert Counter((row["question"][-1], row["model"]) for row in curate.main(cfg)) == {
        ("0", "big"): 1,
        ("0", "small"): 3,
        ("1", "big"): 1,
        ("1", "small"): 3,
    }
    for wrong in (("big=27e9",), ("big=27e9", "small=x"), ("big=27e9", "small=0")):
        with pytest.raises(BadInput, match="--match-flops big=27e9.*: not STRONG=PARAMETERS"):
            curate.main(dataclasses.replace(cfg, match_flops=wrong))


def test_domains_by_column_keywords_and_replies(tmp_path, capsys):
    taxonomy = write(tmp_path / "t.json", [])
    Path(taxonomy).write_text(
        json.dumps({"Geometry": ["triangle", "right angle"], "Number theory": ["prime"]})
    )
    rows = [
        trace(1, "Is the triangle of a prime , right-angle ? Triangle!"),
        trace(2, "a prime"),
        trace(3, "primes", topic="x"),
        trace(4, "nothing", topic="y"),
    ]
    replies = write(
        tmp_path / "r.jsonl",
        [
            {"id": "r004", "response": "It is geometry. 00"},
            {"id": "r001", "response": "About numbers, so\n**01**"},
            {"id": "r002", "response": "?"},
        ],
    )

    def domains(**settings):
        cfg = curate.Config(
            data=write(tmp_path / "p.jsonl", rows),
            out=str(tmp_path / "o.jsonl"),
            method="full",
            **settings,
        )
        return [row["domain"] for row in curate.main(cfg)]

    assert domains(domain_field="topic") == ["unknown", "unknown", "x", "y"]
    assert domains(taxonomy=taxonomy) == ["Geometry", "Number theory", "unknown", "unknown"]
    assert domains(taxonomy=taxonomy, domains=replies) == [
        "Number theory",
        "Number theory",
        "unknown",
        "Geometry",
    ]
    asked = curate.main(
        curate.Config(
            data=str(tmp_path / "p.jsonl"),
            out=str(tmp_path / "q.jsonl"),
            method="full",
            taxonomy=taxonomy,
            ask_domain=True,
        )
    )
    assert ids(asked) == ids(rows) and all(
        "00 Geometry\n01 Number theory" in row["question"] for row in asked
    )
    assert asked[1]["question"].endswith("\n\na prime")
    Path(taxonomy).write_text('{"a": 5}')
    with pytest.raises(BadInput, match="--taxonomy .*t.json: cannot be used"):
        domains(taxonomy=taxonomy)


# ---- Difficulty, ablation sets, order ---------------------------------------------------------------------------


def problems(tmp_path, n, **more):
    return write(
        tmp_path / "problems.jsonl",
        [
            {
                "id": f"p{i}",
                "question": f"question {i}",
                "answer": "4",
                **{name: values[i] for name, values in more.items()},
            }
            for i in range(n)
        ],
    )


def tries(tmp_path, rights, n=8, name="tries.jsonl"):
    """Completions of which rights[i] of n are right for problem i."""
    return write(
        tmp_path / name,
        [
            {"id": f"p{i}", "answer": "4", "response": "4" if j < right else "5"}
            for i, right in enumerate(rights)
            for j in range(n)
        ],
    )


def test_pass_rate_window_on_problems(tmp_path, capsys):
    cfg = curate.Config(
        data=problems(tmp_path, 6),
        out=str(tmp_path / "o.jsonl"),
        method="full",
        difficulty="rate",
        attempts=(tries(tmp_path, [0, 1, 4, 7, 8]),),
    )
    assert ids(curate.main(cfg)) == ["p2"]  # 0, .125, .5, .875, 1 and never attempted
    assert "too hard 2, too easy 2, never attempted 1" in capsys.readouterr().out
    assert ids(curate.main(dataclasses.replace(cfg, pass_rate=(0.125, 0.875)))) == [
        "p1",
        "p2",
        "p3",
    ]
    assert "thinking" not in curate.main(cfg)[0] and "correct" not in curate.main(cfg)[0]
    for wrong in ((0.5,), (0.8, 0.2), (0.2, 2.0)):
        with pytest.raises(BadInput, match="--pass-rate takes two shares"):
            curate.main(dataclasses.replace(cfg, pass_rate=wrong))


def test_attempts_without_gold_do_not_count(tmp_path, capsys):
    path = write(
        tmp_path / "a.jsonl",
        [
            {"id": "a", "answer": "4", "response": "4"},
            {"id": "b", "response": "4"},
            {"id": "a", "answer": "", "response": "4"},
        ],
    )
    assert pool.read_attempts(path) == ({"a": 1}, {"a": 1})
    assert "a.jsonl: 2 attempts have no answer to grade them by" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, kept",
    [
        ("easy", "gm1"),
        ("medium", "m1m2m4"),
        ("hard", "m4m5"),
        ("simple", "m1m2"),
        ("complex", "m4m5"),
        ("advanced", "a"),
    ],
)
def test_sets_by_source_and_level(name, kept):
    rows = {
        "g": {"source": "gsm8k"},
        "m1": {"source": "MATH", "level": "Level 1"},
        "m2": {"source": "MATH", "level": 2},
        "m4": {"source": "hendrycks/MATH", "level": "4"},
        "m5": {"source": "MATH", "level": 5},
        "a": {"source": "AIME", "level": None},
        "o": {"source": "olympiad", "level": 1},
        "m": {"source": "MATH"},
    }
    assert "".join(key for key, row in rows.items() if pool.in_subset(row, name)) == kept


def test_one_shot_by_historical_variance(tmp_path, capsys):
    """Standard deviations 1/2, 0 and .353553: problem 0 first, then 2."""
    history = [[0, 1, 0, 1], [0.5] * 4, [0, 0.25, 0.5, 0.75, 1]]
    cfg = curate.Config(
        data=problems(tmp_path, 3, history=history),
        out=str(tmp_path / "o.jsonl"),
        method="variance",
        k=3,
    )
    best = curate.main(cfg)
    assert ids(best) == ["p0", "p2", "p1"] and [row["score"] for row in best] == pytest.approx(
        [0.5, 0.353553, 0], abs=1e-6
    )
    one = curate.main(dataclasses.replace(cfg, k=1, copies=128))
    assert len({row["id"] for row in one}) == 128 and {row["question"] for row in one} == {
        "question 0"
    }
    epochs = tuple(
        tries(tmp_path, rights, 2, f"epoch{i}.jsonl")
        for i, rights in enumerate([[0, 1, 2], [1, 1, 0]])
    )
    bare = dataclasses.replace(cfg, data=problems(tmp_path, 3), attempts=epochs)
    assert [(row["id"], row["score"]) for row in curate.main(bare)] == [
        ("p2", 0.5),
        ("p0", 0.25),
        ("p1", 0),
    ]
    with pytest.raises(BadInput, match="row p0 has neither a `history`"):
        curate.main(dataclasses.replace(bare, attempts=()))


def test_limo_bands_by_hand(tmp_path, capsys):
    """Right traces of question a score 0 to 6, of b 10 to 19; c has four and drops out, wrong traces do not count."""
    rows, scores = [], []
    for name, n, first in (("a", 7, 0), ("b", 10, 10), ("c", 4, 90)):
        for i in range(n):
            rows += [
                trace(len(rows), name, correct=True),
                trace(len(rows) + 1, name, correct=False),
            ]
            scores += [first + i, 50]

    def banded(band):
        return [(row["question"], score) for row, score in curate.limo_band(rows, scores, band)]

    assert [banded(band) for band in range(1, 6)] == [
        [("b", 10), ("a", 0)],
        [("b", 12), ("a", 1)],
        [("b", 14), ("a", 2)],
        [("b", 16), ("a", 4)],
        [("b", 18), ("a", 5)],
    ]
    many = [trace(i, f"q{i % 3}", thinking="x " * i + "y") for i in range(24)]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", many),
        out=str(tmp_path / "o.jsonl"),
        method="limo-band",
        k=2,
    )
    low, high = (curate.main(dataclasses.replace(cfg, band=band)) for band in (1, 5))
    assert [row["question"] for row in low] == [row["question"] for row in high] and len(low) == 2
    assert all(a["score"] < b["score"] for a, b in zip(low, high)) and {
        row["band"] for row in high
    } == {5}
    write(tmp_path / "p.jsonl", many[:12])
    with pytest.raises(BadInput, match="no question has five right traces"):
        curate.main(cfg)


def test_sizes_of_the_data_ablation_are_nested(tmp_path, capsys):
    rows = [trace(i, thinking=" ".join(["check", "so"] * (i * 7 % 30))) for i in range(60)]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", rows), out=str(tmp_path / "o.jsonl"), method="limo"
    )
    sets = [ids(curate.main(dataclasses.replace(cfg, k=k))) for k in (4, 8, 12, 16, 20)]
    assert (
        all(small == large[: len(small)] for small, large in zip(sets, sets[1:]))
        and len(sets[-1]) == 20
    )


def test_order_of_the_rows_written(tmp_path, capsys):
    rows = [
        trace(i, level=level, thinking="w " * (9 - i), logp=logp)
        for i, (level, logp) in enumerate(
            [("Level 3", [-1, -3]), ("Level 1", [-1]), ("Level 2", [-9, 0, 0])]
        )
    ]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", rows), out=str(tmp_path / "o.jsonl"), method="full"
    )

    def order(**settings):
        return "".join(row["id"][-1] for row in curate.main(dataclasses.replace(cfg, **settings)))

    # nll 2, 1, 3
    assert order() == "012" and order(order="easy") == "120" and order(order="nll") == "102"
    attempts = write(
        tmp_path / "a.jsonl",
        [
            {"id": f"r00{i}", "answer": "4", "response": str(r)}
            for i, r in ((0, 5), (0, 4), (1, 5), (2, 4))
        ],
    )
    # pass rates .5, 0, 1
    assert order(order="easy", attempts=(attempts,), difficulty="none") == "201"
    assert {order(order="random", seed=seed) for seed in range(30)} == {
        "012",
        "021",
        "102",
        "120",
        "201",
        "210",
    }
    assert order(order="random", seed=4, method="longest", k=3, quality=False) == order(
        order="random", seed=4
    )
    write(tmp_path / "p.jsonl", [trace(1)])
    with pytest.raises(BadInput, match="--order nll: row r001 has no `logp`"):
        order(order="nll")


def test_responses_per_question_and_same_answers(tmp_path, capsys):
    rows = [
        trace(
            16 * q + i,
            f"question {q}",
            thinking=f"try {i}",
            response=str(4 if q and i % 3 else i % 2),
        )
        for q in range(10)
        for i in range(16)
    ]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", rows), out=str(tmp_path / "o.jsonl"), method="full"
    )
    four = curate.main(dataclasses.replace(cfg, per_question=4))
    assert Counter(row["question"] for row in four) == {f"question {q}": 4 for q in range(10)}
    assert [row["thinking"] for row in four[:4]] == [f"try {i}" for i in range(4)]
    right = curate.main(dataclasses.replace(cfg, per_question=4, keep_correct=True))
    # question 0 is never right
    assert len(right) == 36 and len({row["question"] for row in right}) == 9
    varied = curate.main(dataclasses.replace(cfg, max_same_answer=2))
    assert Counter((row["question"], row["response"]) for row in varied) == {
        (f"question {q}", answer): 2
        for q in range(10)
        for answer in ("0", "1", "4")
        if q or answer != "4"
    }


# ---- Large pools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_early_pruning_changes_no_selection(seed):
    rng = random.Random(seed)
    rows = [
        trace(
            i,
            domain=rng.choice("aaaabc"),
            n_thinking_tokens=rng.randrange(60),
            correct=rng.random() < 0.5,
            source="AIME" if rng.random() < 0.1 else "omni",
        )
        for i in range(900)
    ]
    fewer = []
    for i in range(0, 900, 90):
        fewer = curate.s1_candidates(fewer + rows[i : i + 90], 300)
    assert len(fewer) < 750 and curate.s1_select(fewer, 300, seed) == curate.s1_select(
        rows, 300, seed
    )
    counts = Counter((pool.benchmark_of(row), row["domain"]) for row in rows)
    assert (
        curate.s1_select(fewer, 300, seed, "notebook", counts)
        == curate.s1_select(rows, 300, seed, "notebook")
        != curate.s1_select(rows, 300, seed)
    )
    scores = [rng.randrange(40) / 40 for _ in rows]
    for row in rows:
        row["question"] = f"q{rng.randrange(300)}"
    for lowest in (False, True):
        places = curate.within_reach([row["question"] for row in rows], scores, 20, lowest)
        some = curate.ranked([rows[i] for i in places], [scores[i] for i in places], True, lowest)
        assert len(places) < 200 and some[:20] == curate.ranked(rows, scores, True, lowest)[:20]
    questions, right = (
        [pool.digest(row["question"]) for row in rows],
        [row["correct"] for row in rows],
    )
    places = curate.band_within_reach(questions, right, scores, 9, n_bands=3)
    some = curate.limo_band([rows[i] for i in places], [scores[i] for i in places], 2, 3)
    assert len(places) < 200 and some[:9] == curate.limo_band(rows, scores, 2, 3)[:9]


@pytest.mark.parametrize("seed", range(3))
def test_keys_sort_and_draw_as_rows_do(seed):
    """Ids with zero bytes, beginnings of each other and accents; a domain of more than k rows and a small one."""
    rng = random.Random(seed)
    rows = [
        trace(0, thinking=str(i), domain=rng.choice("aab"))
        | {"id": "".join(rng.choices(("a", "b", "\0", "\1", "é", "z"), k=rng.randrange(1, 4)))}
        for i in range(200)
    ]
    cards = [pool.Card(i, row, 0) for i, row in enumerate(rows)]
    keys = sorted(pool.sort_key(i, row, "ab".index(row["domain"])) for i, row in enumerate(rows))
    assert [pool.place_of(key)[0] for key in keys] == [card.at for card in curate.in_order(cards)]
    for k in (7, 60, 200):
        assert curate.diverse_places(keys, "ab", k, seed) == [
            card.at for card in curate.diverse_select(cards, k, seed)
        ]


@pytest.mark.parametrize(
    "method", ["random", "diverse", "limo", "limo-low", "limo-band", "variance"]
)
def test_only_what_may_be_chosen_becomes_a_card(tmp_path, capsys, monkeypatch, method):
    """A card takes 400 bytes, and a pool may have millions of rows; what stays of the others is 100 bytes at most."""
    made = []
    monkeypatch.setattr(curate, "Card", lambda *given: made.append(given) or pool.Card(*given))
    rows = [
        trace(i, f"question {i % 30}", thinking="so " * (1 + i % 97) + f"{i}", history=[0, i % 89])
        | {"id": f"q{i % 30}"}
        for i in range(300)
    ]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", rows),
        out=str(tmp_path / "o.jsonl"),
        method=method,
        k=3,
        quality=False,
    )
    assert len(curate.main(cfg)) == 3 and 3 <= len(made) <= 40, len(made)
    assert sys.getsizeof(pool.sort_key(1 << 50, {"id": pool.question_id("x")})) < 80


def test_one_id_stands_for_one_question(tmp_path, capsys):
    """Two files that count from 0 each; case and spaces of the question do not matter, nor does STaR's hint."""
    (tmp_path / "p").mkdir()
    write(
        tmp_path / "p/a.jsonl",
        [trace(1, "one"), trace(2, "two"), trace(2, "Two ", thinking="again")],
    )
    write(
        tmp_path / "p/b.jsonl",
        [trace(3, "three"), trace(1, "one (4)", thinking="t", unhinted="One"), trace(2, "four")],
    )
    cfg = curate.Config(data=str(tmp_path / "p"), out=str(tmp_path / "o.jsonl"), method="full")
    with pytest.raises(
        BadInput, match=r"p/a.jsonl:2 and \S*p/b.jsonl:3: different questions with one id, 'r002'"
    ):
        curate.main(cfg)
    assert not (tmp_path / "o.jsonl").exists()
    (tmp_path / "p/b.jsonl").write_text(json.dumps({"question": "four", "response": "4"}) + "\n")
    assert ids(curate.main(cfg)) == ["r001", "r002", "r002", pool.question_id("four")]


def test_text_does_not_stay_in_memory(tmp_path, capsys):
    """150 rows of 40 kB are 6 MB; the rows of one moment are a few."""
    path = tmp_path / "p.jsonl"
    with open(path, "w") as file:
        for i in range(150):
            file.write(
                json.dumps(trace(i, thinking=f"{i} " + "eightlong" * 4_400, n_thinking_tokens=i))
                + "\n"
            )
    cfg = curate.Config(
        data=str(path), out=str(tmp_path / "o.jsonl"), method="longest", quality=False, k=3
    )
    for method in ("longest", "limo", "random", "full"):
        tracemalloc.start()
        curate.curate(dataclasses.replace(cfg, method=method))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.5e6, (method, peak)
    assert len(read_rows(cfg.out)) == 150


def test_rows_of_a_directory_are_found_again(tmp_path, capsys):
    (tmp_path / "pool").mkdir()
    rows = [trace(i, question=f"frage {i} ü\u2028 ?", n_thinking_tokens=10 + i) for i in range(6)]
    write(tmp_path / "pool/b.jsonl", rows[:2])
    (tmp_path / "pool/a.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows[2:])
    )
    best = curate.main(
        curate.Config(
            data=str(tmp_path / "pool"), out=str(tmp_path / "o.jsonl"), method="longest", k=5
        )
    )
    assert (
        ids(best) == ["r005", "r004", "r003", "r002", "r001"]
        and best[4]["question"] == rows[1]["question"]
    )


def test_nothing_heavy_is_imported():
    code = "import sys, curate; print(*{'torch', 'numpy', 'transformers', 'matplotlib', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "\n", done


def test_funnel_as_a_picture(tmp_path, capsys):
    curate.main(config(tmp_path, k=5, figure=str(tmp_path / "funnel.png")))
    assert (tmp_path / "funnel.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "name, text",
    [
        ("s1", "<|im_start|>think\nfirst a then b\n<|im_start|>answer\nAnswer: 4"),
        ("think", "<think>\nfirst a then b\n</think>\n\n4"),
        ("r1", " <think> first a then b </think> <answer> 4 </answer>"),
        ("plain", "first a then b\n\n4"),
    ],
)
def test_text_of_each_format(tmp_path, capsys, name, text):
    rows = [trace(1), trace(2, thinking="a </think> b")]
    kept = curate.main(
        curate.Config(
            data=write(tmp_path / "p.jsonl", rows),
            out=str(tmp_path / "o.jsonl"),
            method="full",
            format=name,
        )
    )
    assert [row["completion"] for row in kept] == [
        text
    ] and "delimiter in text 1" in capsys.readouterr().out
    assert kept[0]["thinking"] == "first a then b"  # what sft.py reads stays as it is


# ---- Bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"id": 1, "question": "q\xff"', "p.jsonl:2: not a JSON object .UnicodeDecodeError"),
        (b'{"id": 1, "question": "a", "thinki', "p.jsonl:2: not a JSON object .JSONDecodeError"),
        (
            b'{"id": 1, "question": "a", "response": "x", "thinking": "\\ud83d"}',
            "p.jsonl:2: holds half a character",
        ),
        (
            b'{"id": 1, "question": "a", "response": "x", "thinking": "t", "n_thinking_tokens": NaN}',
            "nan is not a number",
        ),
        (b'{"id": 1, "question": "a", "response": "x"}', "p.jsonl:2: no field 'thinking'"),
        (b"[" * 200_000, "p.jsonl:2: not a JSON object .RecursionError"),
    ],
)
def test_a_bad_line_costs_nothing_that_was_there(tmp_path, capsys, line, message):
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    out.write_text("an earlier result\n")
    path.write_bytes(
        json.dumps(trace(0)).encode() + b"\n" + line + b"\n" + json.dumps(trace(2)).encode() + b"\n"
    )
    with pytest.raises(BadInput, match=message):
        curate.main(curate.Config(data=str(path), out=str(out), method="full", quality=True))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.jsonl", "p.jsonl"]
    assert out.read_text() == "an earlier result\n"


def test_a_line_of_ten_megabytes(tmp_path, capsys):
    rows = [trace(1, thinking="so" * 5_200_000 + " end" * 40), trace(2), trace(3, response="")]
    path = write(tmp_path / "p.jsonl", rows)
    assert Path(path).stat().st_size > 10e6
    kept = curate.main(
        curate.Config(data=path, out=str(tmp_path / "o.jsonl"), method="full", quality=True)
    )
    assert ids(kept) == ["r002"] and "repetition 1, no answer 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"copies": 0, "per_question": 0}, "--per-question, --copies must be at least 1"),
        ({"band": 6}, "--band 6"),
        ({"keep_correct": True, "keep_wrong": True}, "leave nothing"),
        ({"difficulty": "rate"}, "needs --attempts"),
        ({"domains": "x"}, "need a --taxonomy"),
        ({"audit": "x"}, "--audit needs"),
        ({"dedup": ("x",)}, "--dedup x: not one of"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, settings, message):
    with pytest.raises(BadInput, match=message):
        curate.main(config(tmp_path, **settings))


# ---- Real data --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data: real traces are not read")
def test_real_traces():
    """Healthy traces of Qwen3-8B and of a UniReason model must pass; a set made of MATH-500 must be found out."""
    rows = [
        row
        for name in ("qwen3_8b_thinking_on_200", "unireason_sft_math500_traces_100")
        for row in read_rows(SHARED / "traces" / f"{name}.jsonl")
    ]
    slips = [row["id"] for row in rows if quality.standing_slips(row["thinking"])]
    assert len(slips) <= 3, slips  # of 723 equations; one slip is a real one
    share = Counter(repeated_share(row["thinking"]) > 0.3 for row in rows)
    assert share[True] <= 12  # traces cut in a loop
    held_out = [row["question"] for row in read_rows(SHARED / "math" / "math500.jsonl")]
    kept, _ = decontaminate(rows, held_out)
    assert not any(row["id"].startswith("unireason") for row in kept) and len(kept) == 200


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data: s1's taxonomy is not read")
def test_taxonomy_of_s1():
    taxonomy = rewrite.load_taxonomy(SHARED / "traces" / "s1_msc_taxonomy.json")
    assert (
        len(taxonomy) == 61
        and rewrite.domain_of_reply("It counts things, so 05.", taxonomy) == "Combinatorics"
    )
