"""curate.py: published rules by hand, the draws by statistics, and the whole script on small files."""
import copy
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import curate
from data import dedup, pool, quality, run
from data.rows import BadInput, read_rows

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def trace(number, question=None, thinking="first a then b", response="4", **more):
    return {"id": f"r{number:03}", "question": question or f"question {number} ?", "answer": "4", "thinking": thinking,
            "response": response, "model": "teacher", **more}


def pool_of(sizes, seed=0):
    """Rows of several domains with distinct lengths, in random order."""
    rows = [trace(100 * d + i, domain=domain, n_thinking_tokens=10 * (i + 1) + d)
            for d, (domain, size) in enumerate(sizes.items()) for i in range(size)]
    random.Random(seed).shuffle(rows)
    return rows


def ids(rows):
    return [row["id"] for row in rows]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def decontaminate(rows, questions, n=8, layers=("exact", "ngram")):
    """(rows kept, Counter of the reasons for dropping the others)."""
    held_out, kept, reasons = dedup.Overlap(dedup.parse_layers("--layers", layers, n)), [], Counter()
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


TRAIN = "Find the number of positive integers n less than or equal to 2024"   # 13 words: 13 - 8 + 1 = 6 n-grams


def test_ngrams_by_hand():
    assert len(dedup.ngrams(TRAIN, 8)) == 6
    assert len(dedup.ngrams(TRAIN, 13)) == 1 and dedup.ngrams(TRAIN, 14) == set()
    assert dedup.ngrams("A  b\nC", 2) == {("a", "b"), ("b", "c")}
    shared = dedup.ngrams(TRAIN, 8) & dedup.ngrams("FIND the  number of positive\nintegers n less than 5", 8)
    assert len(shared) == 2


@pytest.mark.parametrize("test_question, reason", [
    ("FIND the  number of positive\nintegers n less than 5", "shared 8-gram"),
    ("Find the number of positive integers n, less than 5", None),         # the comma makes `n,` another word
    ("number of positive integers n less than", None),                     # 7 words in common
    ("of positive integers n less than or equal", "shared 8-gram"),
])
def test_contamination_needs_eight_words_in_a_row(test_question, reason):
    kept, reasons = decontaminate([trace(1, TRAIN)], [test_question], 8)
    assert (len(kept), dict(reasons)) == ((0, {reason: 1}) if reason else (1, {}))


def test_short_questions_are_caught_when_equal_and_only_then():
    rows = [trace(1, "make 20 from 7 5 8"), trace(2, "make 20 from 7 5 9"), trace(3, "Make 20  from 7 5 8 ")]
    kept, reasons = decontaminate(rows, ["make 20 from 7 5 8", "make 20 from 7"], 8)
    assert ids(kept) == ["r002"] and reasons == {"same question": 2}


def test_first_of_each_keeps_file_order():
    rows = [trace(3, "b"), trace(1, "a"), trace(2, "B ")]
    assert ids(curate.first_of_each(rows, pool.question_of)) == ["r003", "r001"]


# ---- Quality ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("question, source, dropped", [
    ("See p3. for details", "", True),
    ("step3. next", "", True),
    ("see p0. and p1000. and p12", "", False),                             # only 1 to 999, and only before a period
    ("**Q1** Find x", "", True),
    ("**Find** x and 3", "", True),
    ("**Find** x", "", False),
    ("**Find** x\nand 3", "", False),                                      # the digit stands on another line
    ("**Find this** x and 3", "", False),                                  # a space inside
    ("a ![Image](u)", "", True),
    ("Find x. [asy]draw();[/asy]", "AI-MO/NuminaMath-CoT/x", True),
    ("Find x. [asy]draw();[/asy]", "qq8933/AIME_1983_2024", False),
    ("[asy] ![Image] p1.", "qq8933/AIME_1983_2024", False),
    ("![Image] p1.", "qq8933/AIME_1983_2024", True),                       # AIME excuses figures, not the rest
])
def test_string_rule_of_s1(question, source, dropped):
    assert quality.quality_ok({"question": question, "source": source}) is not dropped
    if not source:
        assert quality.quality_ok({"question": question}) is not dropped


@pytest.mark.parametrize("text, false", [
    ("so 7 + 5 = 11 .", ["7 + 5 = 11"]),
    ("maybe 4 * 1 = 4 - 2 = 2 vs 10 low", []),
    ("maybe 4 * 1 = 4 - 2 = 3 vs 10 low", ["4 - 2 = 3"]),
    ("7 + 5 = 11 - 1 = 10", ["7 + 5 = 11 - 1"]),                           # the second step is right for itself
    ("7 + 5 = 12 - 2 = 10 and 2 + 4 = 3 * 2", []),
    ("2 + 3 * 4 = 14 or, from left to right, 2 + 3 * 4 = 20", []),
    ("2 + 3 * 4 = 24", ["2 + 3 * 4 = 24"]),
    ("1/2 + 1/3 = 5/6", []), ("6 / 4 = 3 / 2", []), ("7 / 2 = 3", ["7 / 2 = 3"]), ("7/2 = 3 remainder 1", []),
    ("3 - 5 = -2", []), ("3 - 5 = 2", ["3 - 5 = 2"]), ("3 − 5 × 2 = −7 ÷ 1", []),
    ("1,200 + 1 = 1,201", []), ("1,200 + 1 = 201", ["1,200 + 1 = 201"]),
    (r"$3 \times 4 = 13$ and \(3 \cdot 4 = 14\)", ["3 * 4 = 13", "3 * 4 = 14"]),
    ("43 x 11 = 474", ["43* 11 = 474"]),
    ("y = 3 + 4 = 8", ["3 + 4 = 8"]),
    ("2 + 2 = 5.", ["2 + 2 = 5"]), ("2 + 2 = 5, so", ["2 + 2 = 5"]), ("**so 2 + 2 = 5**", ["2 + 2 = 5"]),
    # numbers that are parts of something larger are left alone
    ("x + 3 = 5 and 2x + 3 = 4 and 3 * 4 = 13x", []), ("2^3 + 1 = 9, 2 * 4 = 2^3, (1 + 2) * 4 = 12", []),
    ("3.5 + 1 = 4.5, 3 + 2 = 4.5 + 0.5", []), ("20% of 5 + 5 = 2", []), ("53 1/4 = 213/4", []),
    ("√3 * 5 = 5√3", []),
    ("1 + 2 = 4 - x", []), ("4 / 0 = 4", []), ("3 = 4", []), ("1 + 1 = ?", []),
])
def test_false_equations(text, false):
    assert quality.false_equations(text) == false


def test_false_equations_survives_hostile_text():
    long = "9" * 5000                                                      # int() of it would raise
    assert quality.false_equations(f"{long} + 1 = 2 and " + "1 + " * 20_000 + "1 = 3") == \
        [" + ".join(["1"] * 20_001) + " = 3"]


def test_a_slip_counts_until_it_is_taken_back():
    assert quality.standing_slips("7 + 5 = 11 no wait , check 7 + 5 = 12 yes") == []
    assert quality.standing_slips("7+5 = 11 no wait , check 7 + 5 = 12 yes") == []
    assert quality.standing_slips("7+5 = 12 yes . check 7 + 5 = 11 no") == ["7 + 5 = 11"]
    assert quality.standing_slips("7 + 5 = 11 wait , 5 + 7 = 12") == ["7 + 5 = 11"]


def test_repetition_by_hand():
    assert quality.repetition("a b c d e f g h") == 0
    # 8 words three times: 17 8-grams, of which the first 8 are new and the other 9 were there before
    assert quality.repetition("a b c d e f g h " * 3) == pytest.approx(9 / 17)
    assert quality.repetition("too short") == 0


LOOP = "okay so . then " + "7 + 9 = 16 - 4 = 12 hmm . then " * 4


@pytest.mark.parametrize("changes, problem", [
    ({}, None),
    ({"question": "see p3. of"}, "question string"),
    ({"thinking": " \n"}, "no thinking"),
    ({"finish": "length"}, "unfinished"), ({"finish": "stop"}, None),
    ({"response": " "}, "no answer"),
    ({"response": "First, let us think.\nThen nothing comes of it"}, "no answer"),
    ({"response": "First, let us think.\nSo the claim holds", "answer": ""}, None),      # a proof
    ({"thinking": "a <think> b"}, "delimiter in text"), ({"response": "4 <|im_start|>answer"}, "delimiter in text"),
    ({"thinking": "2 + 2 = 5"}, "false equation"),
    ({"thinking": LOOP}, "repetition"),
    ({"thinking": LOOP + "Check:"}, None),
    ({"thinking": "check 1 + 4 = 5 * 2 = 10 vs 10 yes . " * 9}, "repetition"),           # share 0.89, checks or not
])
def test_quality_problem(changes, problem):
    assert quality.quality_problem(trace(1) | changes) == problem


def test_repetition_limit_is_a_setting():
    share = quality.repetition(LOOP)
    assert 0.3 < share < 0.8
    assert quality.quality_problem(trace(1, thinking=LOOP), share + 0.01) is None
    assert quality.quality_problem(trace(1, thinking=LOOP), share - 0.01) == "repetition"


@pytest.mark.parametrize("weak, strong, keep",
                         [(0, 0, False), (0, 1, True), (0, 3, True), (0, 4, False), (1, 2, False)])
def test_difficulty_of_limo(weak, strong, keep):
    assert curate.solve_filter(weak, strong) is keep
    problem = curate.difficulty_problem({"id": 7}, [{"7": weak}, {"7": strong}], "limo")
    assert (problem is None) is keep


def test_difficulty_of_s1_and_untried_rows():
    assert curate.difficulty_problem({"id": "a"}, [{"a": 0}, {"a": 1}]) == "solved"
    assert curate.difficulty_problem({"id": "a"}, [{"a": 0}, {"b": 1}]) is None
    assert curate.difficulty_problem({"id": "a"}, [{}, {}], "limo") is None
    assert curate.difficulty_problem({"id": "a"}, [{"a": 2}, {}], "limo") == "solved by the weak model"
    assert curate.difficulty_problem({"id": "a"}, [{"a": 0}, {"a": 0}], "limo") == "never solved"


# ---- s1's selection ---------------------------------------------------------------------------------------------

def test_length_weights_by_hand():
    assert curate.length_weights([100, 300, 200]) == pytest.approx([1 / 7, 4 / 7, 2 / 7])
    assert curate.length_weights([5000, 1000, 8000, 2000]) == pytest.approx([4 / 15, 1 / 15, 8 / 15, 2 / 15])
    assert curate.length_weights([5, 5]) == pytest.approx([2 / 3, 1 / 3])  # a tie: first come, first ranked
    assert curate.length_weights([9]) == [1] and sum(curate.length_weights(list(range(2000)))) == pytest.approx(1)


@pytest.mark.parametrize("source, benchmark", [
    ("Idavidrein/gpqa", "GPQA"), ("qq8933/AIME_1983_2024", "AIME"), ("qfq/openaimath/Algebra", "MATH"),
    ("hendrycks/MATH", "MATH"), ("AI-MO/NuminaMath-CoT/amc_aime", None), ("olympiadbench/maths", None),
    ("MATHEMATICA", None), (None, None)])
def test_benchmark_of_a_source(source, benchmark):
    assert pool.benchmark_of({"source": source}) == benchmark


def test_outright_picks_by_hand():
    rows = [trace(1, source="hendrycks/MATH", correct=True, n_thinking_tokens=5600),
            trace(2, source="hendrycks/MATH", correct=True, n_thinking_tokens=5601),
            trace(3, source="AIME", correct=False, n_thinking_tokens=90000),
            trace(4, source="GPQA", correct=True, n_thinking_tokens=10),
            trace(5, source="AIME", correct=None, n_thinking_tokens=80000),
            trace(6, source="olympiad", correct=True, n_thinking_tokens=70000)]
    # k = 2 leaves room for the outright picks alone, so that nothing can come from the draws
    assert ids(curate.s1_select(rows, 2, seed=1)) == ["r002", "r004"]
    assert ids(curate.s1_select(rows, 1, seed=1)) == ["r002"]
    assert sorted(ids(curate.s1_select(rows, 9))) == ids(rows)             # drawn again in vain, never twice


def test_benchmark_weights_by_hand():
    weights = curate.benchmark_weights(Counter(Biology=6, Quantum=4), Counter({"Number theory": 12, "Geometry": 8}))
    assert weights == pytest.approx({"Biology": 0.2, "Quantum": 4 / 30, "Number theory": 0.4, "Geometry": 8 / 30})
    # ratio 0.5 * 3 / 2 = 0.75: 2 rows become int(1.5) = 1
    assert curate.benchmark_weights(Counter(a=2), Counter(b=3)) == pytest.approx({"a": 1 / 4, "b": 3 / 4})
    assert curate.benchmark_weights(Counter(), Counter(b=3)) == {"b": 1}
    assert curate.benchmark_weights(Counter(a=2), Counter()) == {}


def test_domains_are_drawn_uniformly_and_long_traces_first():
    """One draw from each of 3000 seeds; domains of 100, 5 and 1 rows must each come up a third of the time.

    Standard error of a share of 1/3: sqrt(1/3 * 2/3 / 3000) = 0.0086; 5 of them are 0.043, far from 100/106 and 1/106.
    """
    rows = pool_of({"big": 100, "small": 5, "single": 1})
    drawn = [curate.s1_select(rows, 1, seed)[0] for seed in range(3000)]
    shares = Counter(row["domain"] for row in drawn)
    assert {d: n / 3000 for d, n in shares.items()} == pytest.approx({"big": 1 / 3, "small": 1 / 3, "single": 1 / 3},
                                                                       abs=0.043)
    # Inside `small` (about 1000 draws, standard error 0.016): 16/31, 8/31, 4/31, 2/31, 1/31 from the longest down.
    ranks = Counter(50 - row["n_thinking_tokens"] // 10 * 10 for row in drawn if row["domain"] == "small")
    expected = {10 * rank: 2.0 ** (4 - rank) / 31 for rank in range(5)}
    assert {rank: n / shares["small"] for rank, n in ranks.items()} == pytest.approx(expected, abs=0.08)
    # Of the 100 rows of `big` none beyond rank 30 may appear: 1000 draws, chance 2^-31 each.
    assert all(row["n_thinking_tokens"] >= 700 for row in drawn if row["domain"] == "big")


def test_diverse_is_uniform_inside_a_domain():
    rows = pool_of({"big": 40, "small": 5})
    drawn = [curate.diverse_select(rows, 1, seed)[0] for seed in range(2000)]
    assert sum(row["domain"] == "small" for row in drawn) / 2000 == pytest.approx(0.5, abs=0.056)      # 5 errors
    small = Counter(row["id"] for row in drawn if row["domain"] == "small")
    assert len(small) == 5 and max(small.values()) < 1.5 * min(small.values())               # 200 each ± 13


def test_notebook_draws_the_last_30_percent_by_benchmark():
    rows = pool_of({"a": 60, "b": 60, "c": 60}) + \
        [trace(900 + i, domain="b", source="AIME", correct=False, n_thinking_tokens=5) for i in range(3)]
    chosen = curate.s1_select(rows, 40, seed=3, variant="notebook")
    assert {row["domain"] for row in chosen[28:]} == {"b"}                 # only b holds AIME rows
    assert {row["domain"] for row in chosen[20:28]} != {"b"}               # uniform: b eight times once in 6561
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

TRACE_A = ("Perhaps x is 3 . Check : since 3 + 1 = 4 , it works . It might also be 5 ; check 5 + 1 = 6 , no . "
           "Therefore x is 3 .")                                           # 37 words, hits 2, 2, 2
TRACE_B = "Since 3 + 1 = 4 , x is 3 ."                                     # 11 words, hits 0, 0, 1


def test_limo_score_by_hand():
    """A: .30 * 37/37 + .20 + .25 + .25 * (2/37) / (1/11) = .898649; B: .30 * 11/37 + .25 = .339189."""
    scores = curate.limo_score([trace(1, thinking=TRACE_A), trace(2, thinking=TRACE_B)])
    assert scores == pytest.approx([0.898649, 0.339189], abs=1e-6)
    # length saturates at 22 tokens: B gets .30 * 11/22
    scores = curate.limo_score([trace(1, thinking=TRACE_A), trace(2, thinking=TRACE_B)], length_cap=22)
    assert scores == pytest.approx([0.898649, 0.40], abs=1e-6)
    # counted tokens replace words in the length, not in the frequencies
    scores = curate.limo_score([trace(1, thinking=TRACE_A, n_thinking_tokens=50), trace(2, thinking=TRACE_B)])
    assert scores == pytest.approx([0.898649, 0.30 * 11 / 50 + 0.25], abs=1e-6)


def test_limo_score_of_extremes():
    one_kind = [trace(i, thinking=f"{word} x y z") for i, word in enumerate(("check", "might", "since", "w"))]
    assert curate.limo_score(one_kind) == pytest.approx([0.50, 0.55, 0.55, 0.30])
    assert curate.limo_score([]) == []
    assert curate.limo_score([trace(1, thinking="", response="")]) == [0]
    assert curate.limo_score([trace(1, thinking="x y")]) == [0.3]          # no hit at all: 0, not a division by zero
    assert curate.limo_score([trace(1, thinking="check might since")]) == pytest.approx([1.0])


def test_words_are_whole_words():
    words = quality.words_of("Check, check checks (verify) double-check… LET me try; let me try me “perhaps”")
    assert quality.count_words(words, quality.VERIFY["strict"]) == 3
    assert quality.count_words(words, quality.VERIFY["extended"]) == 4
    assert quality.count_words(words, ("let me try",)) == 2
    assert quality.count_words(words, quality.EXPLORE["strict"]) == 1


def test_limo_select_order_ties_and_best_per_problem():
    rows = [trace(1, "p", thinking=TRACE_B), trace(2, "p", thinking=TRACE_A), trace(5, "s", thinking=TRACE_B),
            trace(3, "q", thinking=TRACE_B + " x" * 5), trace(4, "r", thinking=TRACE_B)]
    before = copy.deepcopy(rows)
    best = curate.limo_select(rows, 9)
    assert ids(best) == ["r002", "r004", "r005", "r003"]                   # 1 gives way to 2; 4 before 5 by id
    assert [row["score"] for row in best] == sorted((row["score"] for row in best), reverse=True)
    assert ids(curate.limo_select(rows, 9, best_per_problem=False)) == ["r002", "r001", "r004", "r005", "r003"]
    assert ids(curate.limo_select(rows, 2, lowest=True)) == ["r003", "r001"]
    assert rows == before and "score" not in rows[0]
    for seed in range(5):
        assert curate.limo_select(random.Random(seed).sample(rows, 5), 9) == best


def test_limo_prefers_the_longer_of_equal_scores():
    rows = [trace(1, thinking="check might since", n_thinking_tokens=60),
            trace(2, thinking="check might since", n_thinking_tokens=70)]
    best = curate.limo_select(rows, 2, length_cap=50)
    assert ids(best) == ["r002", "r001"] and best[0]["score"] == best[1]["score"]


# ---- The whole script -------------------------------------------------------------------------------------------

def small_pool():
    rows = pool_of({"a": 12, "b": 6})
    return rows + [
        dict(rows[0]),                                                     # a copy
        trace(800, "make 20 from 7 5 8"),                                  # held out
        trace(801, thinking="so 2 + 2 = 5 ."), trace(802, thinking=LOOP),  # quality
        trace(803, response="5"),                                          # wrong
        trace(804), trace(805),                                            # solved by the student
        trace(806, rows[0]["question"], thinking="a later trace of a question that is there")]


def config(tmp_path, **settings):
    data = write(tmp_path / "pool.jsonl", small_pool())
    return curate.Config(data=data, out=str(tmp_path / "out.jsonl"), **settings)


def test_main_end_to_end(tmp_path, capsys):
    against = write(tmp_path / "test.jsonl", [{"id": "t", "question": "Make 20 from 7 5 8"}])
    tries = [{"id": name, "question": "q", "answer": "4", "response": response}
             for name, response in (("r804", "3"), ("r804", "4"), ("r805", "4"), ("r001", "7"))]
    cfg = config(tmp_path, k=7, against=(against,), attempts=(write(tmp_path / "tries.jsonl", tries),),
                 keep_correct=True)
    chosen = curate.main(cfg)
    printed = [line.split(maxsplit=1)[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["pool", "copies", "held", "quality", "correct", "difficulty", "18", "questions", "left", "s1"]
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
        ("questions", 18, {"later trace": 1})]
    assert saved["funnel"][5]["without_attempt"] == 18                     # 21 less 804, 805 and 001
    assert saved["totals"]["left"]["domains"] == {"a": 12, "b": 6} and saved["totals"]["s1"]["rows"] == 7


@pytest.mark.parametrize("method, n", [("s1", 5), ("random", 5), ("diverse", 5), ("longest", 5), ("limo", 5),
                                       ("limo-low", 5), ("full", 25)])
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
        return [stage["stage"] for stage in json.loads((tmp_path / "out.config.json").read_text())["funnel"]]
    assert "quality" in stages(method="random") and "quality" not in stages(method="random", quality=False)
    assert "quality" not in stages(method="limo") and "quality" in stages(method="full", quality=True)
    assert "questions" not in stages(method="full")


def test_too_few_rows_are_all_kept_and_said_to_be(tmp_path, capsys):
    assert len(curate.main(config(tmp_path, method="longest"))) == 22     # 26 less a copy, 2 of quality, a later trace
    assert "only 22 rows are left to choose, fewer than --k 1000" in capsys.readouterr().out


def test_rows_without_id_length_and_gold(tmp_path, capsys):
    rows = [{"question": "What is 1+1?", "thinking": "one two three", "response": "It holds.", "subject": "s"},
            {"question": "q", "thinking": "x", "response": "It holds.", "correct": True}]
    chosen = curate.main(curate.Config(data=write(tmp_path / "p.jsonl", rows), out=str(tmp_path / "o"), method="full"))
    assert chosen[0]["id"] == "31adf3e245f99d7b" and chosen[0]["n_thinking_tokens"] == 3
    assert [(row["domain"], row["correct"]) for row in chosen] == [("s", None), ("unknown", True)]


@pytest.mark.parametrize("settings, message", [
    ({"k": 0}, "--k"), ({"length_cap": 0}, "--length-cap"),
    ({"difficulty": "limo", "attempts": ("x",)}, "two files"),
    ({"attempts": ("OTHER",)}, "none of their ids"),
    ({"against": ("missing.jsonl",)}, "missing.jsonl"),
])
def test_bad_settings_are_named(tmp_path, capsys, settings, message):
    write(tmp_path / "other.jsonl", [{"id": "elsewhere", "response": "4"}])
    settings = {k: (str(tmp_path / "other.jsonl"),) if v == ("OTHER",) else v for k, v in settings.items()}
    with pytest.raises(BadInput, match=message):
        curate.main(config(tmp_path, **settings))
    assert not (tmp_path / "out.jsonl").exists()


def test_the_filter_that_empties_the_pool_is_named(tmp_path, capsys):
    data = write(tmp_path / "p.jsonl", [trace(1, response="5"), trace(2, response="6")])
    with pytest.raises(BadInput, match=r"'correct' \(wrong 2\)"):
        curate.main(curate.Config(data=data, out=str(tmp_path / "o"), keep_correct=True))


@pytest.mark.parametrize("line, message", [
    ("{broken", "p.jsonl:2: not a JSON object"), ("", "p.jsonl:2: empty line"),
    (json.dumps({"id": 1, "question": "q", "response": "r"}), "p.jsonl:2: no field 'thinking'"),
    (json.dumps(trace(1) | {"thinking": 5}), "thinking 5 is not text"),
    (json.dumps(trace(1) | {"n_thinking_tokens": "5"}), "n_thinking_tokens '5' is not a number"),
])
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(trace(0)) + "\n" + line + "\n" + json.dumps(trace(2)) + "\n")
    with pytest.raises(BadInput, match=message):
        curate.main(curate.Config(data=str(path), out=str(tmp_path / "o")))


def test_command_line(tmp_path):
    def call(*flags):
        return subprocess.run([sys.executable, str(ROOT / "curate.py"), *flags], capture_output=True, text=True)
    cfg = config(tmp_path)
    done = call("--data", cfg.data, "--out", cfg.out, "--method", "random", "--k", "3")
    assert done.returncode == 0, done.stderr
    assert "quality           23 kept  (-2: false equation 1, repetition 1)" in done.stdout
    assert len(read_rows(cfg.out)) == 3
    wrong = call("--data", cfg.data, "--out", cfg.out, "--methd", "random")
    assert wrong.returncode == 2 and "--methd" in wrong.stderr
    gone = call("--data", str(tmp_path / "gone.jsonl"), "--out", cfg.out)
    assert gone.returncode == 1 and gone.stderr.startswith("curate.py: ") and gone.stderr.count("\n") == 1


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        run.parse(curate.Config, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in curate.Config.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in shown
    assert "as in the papers" in shown and run.parse(curate.Config, ["--data", "a", "--out", "b"]).quality is None


# ---- Real data --------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data: real traces are not read")
def test_real_traces():
    """Healthy traces of Qwen3-8B and of a UniReason model must pass; a set made of MATH-500 must be found out."""
    rows = [row for name in ("qwen3_8b_thinking_on_200", "unireason_sft_math500_traces_100")
            for row in read_rows(SHARED / "traces" / f"{name}.jsonl")]
    slips = [row["id"] for row in rows if quality.standing_slips(row["thinking"])]
    assert len(slips) <= 3, slips                                          # of 723 equations; one slip is a real one
    share = Counter(quality.repetition(row["thinking"]) > 0.3 for row in rows)
    assert share[True] <= 12                                               # traces cut in a loop
    held_out = [row["question"] for row in read_rows(SHARED / "math" / "math500.jsonl")]
    kept, _ = decontaminate(rows, held_out)
    assert not any(row["id"].startswith("unireason") for row in kept) and len(kept) == 200
