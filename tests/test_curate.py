"""curate.py: published rules by hand, draws by statistics, the whole script on small files."""

import copy
import dataclasses
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from small_pools import config, ids, pool_of, trace, write, write_problems, write_tries

import curate
from curation import pool
from engine import settings
from engine.rows import BadInput, read_rows

ROOT = Path(__file__).resolve().parent.parent


def choose(method, rows, k, **settings):
    """What a method chooses from a list of rows."""
    cfg = curate.Config(data="", out="", method=method, k=k, **settings)
    return curate.select(rows, curate.Inputs(cfg))


def limo_scores(rows, **settings):
    inputs = curate.Inputs(curate.Config(data="", out="", **settings))
    return list(curate.score_rows(rows, inputs))


def test_first_of_each_keeps_file_order():
    rows = [trace(3, "b"), trace(1, "a"), trace(2, "B ")]
    assert ids(curate.first_of_each(rows, pool.question_of)) == ["r003", "r001"]


def test_mixed_languages_are_dropped():
    """Numbers and signs are no words; a single word of the other script is enough."""
    cfg = curate.Config(data="", out="", script="latin")
    inputs = curate.Inputs(cfg)
    for thinking, reason in (
        ("try 7 + 5 = 12 low", None),
        ("7 + 5 = 12", None),
        ("try 7 + 5 = 12 低", "words that are not latin"),
    ):
        assert curate.drop_mixed_language({"thinking": thinking}, inputs) == reason
    assert curate.FILTERS["language"].when(cfg)
    assert not curate.FILTERS["language"].when(curate.Config(data="", out=""))


@pytest.mark.parametrize(
    "weak, strong, keep", [(0, 0, False), (0, 1, True), (0, 3, True), (0, 4, False), (1, 2, False)]
)
def test_difficulty_of_limo(weak, strong, keep):
    assert (curate.limo_difficulty([weak, strong]) is None) is keep


def test_difficulty_of_s1_and_untried_rows():
    assert curate.s1_difficulty([0, 1]) == "solved"
    assert curate.s1_difficulty([0, None]) is None
    assert curate.limo_difficulty([None, None]) is None
    assert curate.limo_difficulty([2, None]) == "solved by the weak model"
    assert curate.limo_difficulty([0, 0]) == "never solved"
    assert curate.limo_difficulty([0, 4]) == "solved too often"


def test_length_weights_by_hand():
    """100 300 200: ranks 2 0 1, so 1/4 1 1/2 over their sum 7/4. Of equal lengths the first is longer."""
    assert curate.length_weights([100, 300, 200]) == pytest.approx([1 / 7, 4 / 7, 2 / 7])
    assert curate.length_weights([5000, 1000, 8000, 2000]) == pytest.approx(
        [4 / 15, 1 / 15, 8 / 15, 2 / 15]
    )
    # a tie: first come, first ranked
    assert curate.length_weights([5, 5]) == pytest.approx([2 / 3, 1 / 3])
    assert curate.length_weights([9]) == [1]
    assert sum(curate.length_weights(list(range(2000)))) == pytest.approx(1)


OUTRIGHT = [
    trace(1, source="hendrycks/MATH", correct=True, n_thinking_tokens=5600),
    trace(2, source="hendrycks/MATH", correct=True, n_thinking_tokens=5601),
    trace(3, source="AIME", correct=False, n_thinking_tokens=90000),
    trace(4, source="GPQA", correct=True, n_thinking_tokens=10),
    trace(5, source="AIME", correct=None, n_thinking_tokens=80000),
    trace(6, source="olympiad", correct=True, n_thinking_tokens=70000),
]


def test_take_outright_by_hand():
    """Right answers alone (not None): all of GPQA and AIME, of MATH those of more than 5,600 tokens;
    in the order of sort_rows, at most k."""
    assert ids(curate.take_outright(OUTRIGHT, 9)) == ["r002", "r004"]
    assert ids(curate.take_outright(OUTRIGHT[::-1], 9)) == ["r002", "r004"]
    assert ids(curate.take_outright(OUTRIGHT, 1)) == ["r002"]


class Scripted:
    """A random.Random whose choices are given: places in the population."""

    def __init__(self, *places):
        self.places, self.asked = list(places), []

    def choices(self, population, weights=None):
        self.asked.append((list(population), weights and list(weights)))
        return [population[self.places.pop(0)]]


def test_draw_by_domain_by_hand():
    """Domain a: r000 r001 r002 of 10, 20, 30 tokens, domain b: r100 of 11. Drawn: a, its longest
    (r002); b, its only one (r100), which empties b; a, the second of 20 and 10 (r000). A window of
    2 sees the two longest, at 2/3 and 1/3. A row that is chosen already may be drawn, in vain."""
    rows = curate.longest_last(pool_of({"a": 3, "b": 1}))
    rng = Scripted(0, 0, 1, 0, 0, 1)
    assert ids(curate.draw_by_domain(rows, 3, rng, window=2)) == ["r002", "r100", "r000"]
    assert [population for population, _ in rng.asked[::2]] == [["a", "b"], ["a", "b"], ["a"]]
    assert [weights for _, weights in rng.asked[::2]] == [None] * 3
    weights = [weights for _, weights in rng.asked[1::2]]
    assert weights[0] == pytest.approx([2 / 3, 1 / 3])
    assert weights[1] == pytest.approx([1])
    taken = [row for row in rows if row["id"] == "r002"]
    chosen = curate.draw_by_domain(rows, 2, Scripted(0, 0, 0, 0), taken, window=2)
    assert ids(chosen) == ["r002", "r001"]
    assert ids(taken) == ["r002"]
    # there are only four rows
    assert len(curate.draw_by_domain(rows, 9, random.Random(1), window=2)) == 4


def test_outright_picks_by_hand():
    rows = OUTRIGHT
    # k = 2 leaves room for the outright picks alone, so that nothing can come from the draws
    assert ids(choose("s1", rows, 2, seed=1)) == ["r002", "r004"]
    assert ids(choose("s1", rows, 1, seed=1)) == ["r002"]
    assert sorted(ids(choose("s1", rows, 9))) == ids(rows)  # drawn again in vain, never twice


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
    """One draw from each of 3000 seeds; domains of 100, 5 and 1 rows come up equally often.

    Standard error of a share of 1/3: sqrt(1/3 * 2/3 / 3000) = 0.0086; 5 of them are 0.043, far from
    100/106 and 1/106.
    """
    rows = pool_of({"big": 100, "small": 5, "single": 1})
    drawn = [choose("s1", rows, 1, seed=seed)[0] for seed in range(3000)]
    shares = Counter(row["domain"] for row in drawn)
    drawn_shares = {domain: shares[domain] / 3000 for domain in ("big", "small", "single")}
    assert drawn_shares == pytest.approx(dict.fromkeys(drawn_shares, 1 / 3), abs=0.043)
    # Inside `small` (about 1000 draws, standard error 0.016): 16/31, 8/31, 4/31, 2/31, 1/31 from
    # the longest down.
    ranks = Counter(
        50 - row["n_thinking_tokens"] // 10 * 10 for row in drawn if row["domain"] == "small"
    )
    expected = {10 * rank: 2.0 ** (4 - rank) / 31 for rank in range(5)}
    found = {rank: ranks[rank] / shares["small"] for rank in expected}
    assert found == pytest.approx(expected, abs=0.08)
    # Of the 100 rows of `big` none beyond rank 30 may appear: 1000 draws, chance 2^-31 each.
    assert min(row["n_thinking_tokens"] for row in drawn if row["domain"] == "big") >= 700


def test_diverse_is_uniform_inside_a_domain():
    rows = pool_of({"big": 40, "small": 5})
    drawn = [choose("diverse", rows, 1, seed=seed)[0] for seed in range(2000)]
    # 5 errors
    assert sum(row["domain"] == "small" for row in drawn) / 2000 == pytest.approx(0.5, abs=0.056)
    small = Counter(row["id"] for row in drawn if row["domain"] == "small")
    assert len(small) == 5 and max(small.values()) < 1.5 * min(small.values())  # 200 each ± 13


def test_notebook_draws_the_last_30_percent_by_benchmark():
    rows = pool_of({"a": 60, "b": 60, "c": 60}) + [
        trace(900 + i, domain="b", source="AIME", correct=False, n_thinking_tokens=5)
        for i in range(3)
    ]
    chosen = choose("s1-notebook", rows, 40, seed=3)
    assert {row["domain"] for row in chosen[28:]} == {"b"}  # only b holds AIME rows
    assert {row["domain"] for row in chosen[20:28]} != {"b"}  # uniform: b eight times once in 6561
    assert {row["domain"] for row in choose("s1", rows, 40, seed=3)[28:]} == {"a", "b", "c"}
    # b runs dry: the rest comes from the other domains instead of an endless loop
    assert len(choose("s1-notebook", rows, 150, seed=3)) == 150


@pytest.mark.parametrize("method", ["s1", "s1-notebook", "diverse", "random"])
def test_draws_repeat_by_seed_whatever_the_order_of_the_rows(method):
    rows = pool_of({"a": 30, "b": 9, "c": 4})
    before = copy.deepcopy(rows)
    first = ids(choose(method, rows, 17, seed=5))
    assert first == ids(choose(method, rows[::-1], 17, seed=5))
    assert first != ids(choose(method, rows, 17, seed=6))
    assert len(set(first)) == 17 and rows == before
    assert sorted(ids(choose(method, rows, 99, seed=5))) == sorted(ids(rows))


TRACE_A = (
    "Perhaps x is 3 . Check : since 3 + 1 = 4 , it works . It might also be 5 ; check 5 + 1 = 6 , "
    "no . Therefore x is 3 ."
)  # 37 words, hits 2, 2, 2


TRACE_B = "Since 3 + 1 = 4 , x is 3 ."  # 11 words, hits 0, 0, 1


def test_limo_score_by_hand():
    """A: .30 * 37/37 + .20 + .25 + .25 * (2/37) / (1/11) = .898649.

    B: .30 * 11/37 + .25 = .339189.
    """
    scores = limo_scores([trace(1, thinking=TRACE_A), trace(2, thinking=TRACE_B)])
    assert scores == pytest.approx([0.898649, 0.339189], abs=1e-6)
    # length saturates at 22 tokens: B gets .30 * 11/22
    scores = limo_scores([trace(1, thinking=TRACE_A), trace(2, thinking=TRACE_B)], length_cap=22)
    assert scores == pytest.approx([0.898649, 0.40], abs=1e-6)
    # counted tokens replace words in the length, not in the frequencies
    scores = limo_scores(
        [trace(1, thinking=TRACE_A, n_thinking_tokens=50), trace(2, thinking=TRACE_B)]
    )
    assert scores == pytest.approx([0.898649, 0.30 * 11 / 50 + 0.25], abs=1e-6)


def test_limo_score_of_extremes():
    """Four words each, one of a kind: .30 + .20, .30 + .25, .30 + .25, .30. No rows: no scores. No
    text: 0. No hit of a kind in any row: 0 for it, not a division by zero."""
    one_kind = [
        trace(i, thinking=f"{word} x y z")
        for i, word in enumerate(("check", "might", "since", "w"))
    ]
    assert limo_scores(one_kind) == pytest.approx([0.50, 0.55, 0.55, 0.30])
    assert limo_scores([]) == []
    assert limo_scores([trace(1, thinking="", response="")]) == [0]
    # no hit at all: 0, not a division by zero
    assert limo_scores([trace(1, thinking="x y")]) == [0.3]
    assert limo_scores([trace(1, thinking="check might since")]) == pytest.approx([1.0])


def test_limo_select_order_ties_and_best_per_problem():
    rows = [
        trace(1, "p", thinking=TRACE_B),
        trace(2, "p", thinking=TRACE_A),
        trace(5, "s", thinking=TRACE_B),
        trace(3, "q", thinking=TRACE_B + " x" * 5),
        trace(4, "r", thinking=TRACE_B),
    ]
    before = copy.deepcopy(rows)
    best = choose("limo", rows, 9)
    assert ids(best) == ["r002", "r004", "r005", "r003"]  # 1 gives way to 2; 4 before 5 by id
    assert [row["score"] for row in best] == sorted((row["score"] for row in best), reverse=True)
    ranked = curate.rank_by_score(rows, limo_scores(rows))
    assert ids(ranked) == ["r002", "r001", "r004", "r005", "r003"]
    assert ids(choose("limo-low", rows, 2)) == ["r003", "r001"]
    assert rows == before and "score" not in rows[0]
    for seed in range(5):
        assert choose("limo", random.Random(seed).sample(rows, 5), 9) == best


def test_limo_prefers_the_longer_of_equal_scores():
    rows = [
        trace(1, thinking="check might since", n_thinking_tokens=60),
        trace(2, thinking="check might since", n_thinking_tokens=70),
    ]
    best = choose("limo", rows, 2, length_cap=50)
    assert ids(best) == ["r002", "r001"] and best[0]["score"] == best[1]["score"]


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
        keep="correct",
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
        curate.main(curate.Config(data=data, out=str(tmp_path / "o"), keep="correct"))


def test_a_method_of_ones_own_is_one_function(tmp_path, capsys, monkeypatch):
    """--method takes it, its fields are asked for, and filters, order and output are as ever."""
    monkeypatch.setattr(curate, "METHODS", curate.METHODS.copy())

    @curate.method("shortest", needs=("thinking",))
    def select_shortest(rows, k, inputs):
        return pool.sort_rows(rows, key=pool.n_tokens)[:k]

    cfg = config(tmp_path, method="shortest", k=3, quality=True)
    assert [row["n_thinking_tokens"] for row in curate.main(cfg)] == [4, 4, 4]
    shuffled = curate.main(dataclasses.replace(cfg, order="random", seed=1))
    assert sorted(ids(shuffled)) == sorted(row["id"] for row in curate.main(cfg))
    write(tmp_path / "pool.jsonl", [{"question": "q", "response": "4"}])
    with pytest.raises(BadInput, match="pool.jsonl:1: no field 'thinking'"):
        curate.main(dataclasses.replace(cfg, quality=None))
    monkeypatch.setitem(curate.METHODS, "none", curate.Method(lambda *_: [], (), False))
    with pytest.raises(BadInput, match="--method none chose no row"):
        curate.main(config(tmp_path, method="none"))


def test_every_method_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        settings.parse(curate.Config, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"how to choose: {', '.join(curate.METHODS)} (default: s1)" in shown


def test_a_filter_of_ones_own_is_one_function(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(curate, "FILTERS", curate.FILTERS.copy())

    @curate.row_filter("long", needs=("thinking",))
    def find_long(row, inputs):
        return "over 50 tokens" if pool.n_tokens(row) > 50 else None

    chosen = curate.main(config(tmp_path, method="full"))
    assert max(row["n_thinking_tokens"] for row in chosen) <= 50
    assert "over 50 tokens 10" in capsys.readouterr().out


def test_pass_rate_takes_two_numbers(capsys):
    with pytest.raises(SystemExit):
        settings.parse(curate.Config, ["--data", "d", "--out", "o", "--pass-rate", "0.5"])
    assert "--pass-rate: expected 2 arguments" in capsys.readouterr().err


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


def test_pass_rate_window_on_problems(tmp_path, capsys):
    cfg = curate.Config(
        data=write_problems(tmp_path, 6),
        out=str(tmp_path / "o.jsonl"),
        method="full",
        difficulty="rate",
        attempts=(write_tries(tmp_path, [0, 1, 4, 7, 8]),),
    )
    assert ids(curate.main(cfg)) == ["p2"]  # 0, .125, .5, .875, 1 and never attempted
    assert "too hard 2, too easy 2, never attempted 1" in capsys.readouterr().out
    assert ids(curate.main(dataclasses.replace(cfg, pass_rate=(0.125, 0.875)))) == [
        "p1",
        "p2",
        "p3",
    ]
    assert "thinking" not in curate.main(cfg)[0] and "correct" not in curate.main(cfg)[0]
    for wrong in ((0.8, 0.2), (0.2, 2.0)):
        with pytest.raises(BadInput, match="--pass-rate takes two shares"):
            curate.main(dataclasses.replace(cfg, pass_rate=wrong))


def test_one_shot_by_historical_variance(tmp_path, capsys):
    """Standard deviations 1/2, 0 and .353553: problem 0 first, then 2."""
    history = [[0, 1, 0, 1], [0.5] * 4, [0, 0.25, 0.5, 0.75, 1]]
    cfg = curate.Config(
        data=write_problems(tmp_path, 3, history=history),
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
        write_tries(tmp_path, rights, 2, f"epoch{i}.jsonl")
        for i, rights in enumerate([[0, 1, 2], [1, 1, 0]])
    )
    # with a history of its own, a row needs no attempts
    assert curate.main(dataclasses.replace(cfg, attempts=epochs[:1])) == best
    bare = dataclasses.replace(cfg, data=write_problems(tmp_path, 3), attempts=epochs)
    assert [(row["id"], row["score"]) for row in curate.main(bare)] == [
        ("p2", 0.5),
        ("p0", 0.25),
        ("p1", 0),
    ]
    with pytest.raises(BadInput, match="row p0 has neither `accuracies`"):
        curate.main(dataclasses.replace(bare, attempts=()))
    with pytest.raises(BadInput, match="one file of --attempts has no variance.* two or more"):
        curate.main(dataclasses.replace(bare, attempts=epochs[:1]))
    once = write_problems(tmp_path, 3, accuracies=[[0, 1], [1], [0, 0.5]])
    with pytest.raises(BadInput, match="row p1 was tried in one epoch only.* two or more"):
        curate.main(dataclasses.replace(bare, data=once, attempts=()))


def test_limo_bands_by_hand(tmp_path, capsys):
    """Right traces of question a score 0 to 6, of b 10 to 19; c has four and drops out.

    Wrong traces do not count.
    """
    rows, scores = [], []
    for name, n, first in (("a", 7, 0), ("b", 10, 10), ("c", 4, 90)):
        for i in range(n):
            rows += [
                trace(len(rows), name, correct=True),
                trace(len(rows) + 1, name, correct=False),
            ]
            scores += [first + i, 50]

    def banded(band):
        chosen = curate.middle_of_band(rows, scores, band)
        return [(row["question"], row["score"]) for row in chosen]

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
    right = curate.main(dataclasses.replace(cfg, per_question=4, keep="correct"))
    # question 0 is never right
    assert len(right) == 36 and len({row["question"] for row in right}) == 9
    varied = curate.main(dataclasses.replace(cfg, max_same_answer=2))
    assert Counter((row["question"], row["response"]) for row in varied) == {
        (f"question {q}", answer): 2
        for q in range(10)
        for answer in ("0", "1", "4")
        if q or answer != "4"
    }


def test_nothing_heavy_is_imported():
    heavy = {"torch", "numpy", "transformers", "matplotlib", "datasets"}
    code = f"import sys, curate; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "\n", done


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
        ({"method": "shortest"}, "--method shortest: not one of s1, s1-notebook, random, diverse"),
        ({"corrupt": "shuffle", "budget": "tokens"}, "--budget tokens .* --corrupt changes"),
        ({"difficulty": "rate"}, "needs --attempts"),
        ({"domains": "x"}, "--domains needs a --taxonomy"),
        ({"audit": "x"}, "--audit needs"),
        ({"dedup": ("x",)}, "--dedup x: not one of"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, settings, message):
    with pytest.raises(BadInput, match=message):
        curate.main(config(tmp_path, **settings))


def test_right_answers_with_a_second_tag_are_no_traces(tmp_path, capsys):
    """A model's own samples: sft.py refuses a <think> inside the thinking, and splits one off the
    response of a row that has no thinking apart.
    """
    rows = [
        trace(1, thinking="2 + 2 is 4"),
        trace(2, "question 2", thinking="2 + <think> 2 is 4"),
        trace(3, "question 3", thinking="", response="<think>2 + 2</think> \\boxed{4}"),
    ]
    cfg = curate.Config(
        data=write(tmp_path / "p.jsonl", rows),
        out=str(tmp_path / "o.jsonl"),
        method="full",
        keep="correct",
    )
    assert [row["question"] for row in curate.main(cfg)] == [rows[0]["question"], "question 3"]
    assert "delimiter in text 1" in capsys.readouterr().out
