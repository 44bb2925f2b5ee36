"""data/search.py: the paper's moves, heuristics and ratings, the twelve strategies, and what a reader
of streams finds wrong."""

import random

import pytest
from small_pools import write

from data import search
from data.search import (
    STRATEGIES,
    Config,
    alignment,
    children,
    distance_mult,
    distance_sum,
    examine,
    main,
    moves,
    optimal_stream,
    rating,
    root_of,
)
from data.tiny import VOCABULARY
from engine.rows import BadInput, read_rows
from grading.formulas import check_expression

PAPER = {"signs": "+*-/", "largest": None}


def test_moves_of_the_paper():
    assert moves(6, 3) == [(6, "+", 3, 9), (6, "*", 3, 18), (6, "-", 3, 3), (6, "/", 3, 2)]
    assert [move[3] for move in moves(2, 5)] == [7, 10, 3]
    assert [move[3] for move in moves(0, 4)] == [4, 0, 4]
    assert [child.nums for child in children(root_of([9, 8]))] == [(17,), (1,)]  # 72 is beyond 50


def test_heuristics_by_hand():
    """24 has the factors 2 3 4 6 8 12 24: 5 is 1 from 4, 50 is 26 from 24. A single number is
    measured from the target."""
    assert distance_sum([3, 5], 10) == 6 and distance_sum([7], 10) == 3
    assert distance_mult([5, 50], 24) == 27 and distance_mult([12, 2], 24) == 0
    assert distance_mult([12], 24) == 12


def test_searches_of_the_paper():
    """24 from 4, 9, 3: depth-first by sums explores 29 operations (rating 1 - 30/48); a beam of two
    by factors finds 4 * 6 after three to six, by the order in which it writes."""
    found = search.search([4, 9, 3], 24, "dfs-sum", **PAPER)
    assert len(found.explored) == 29 and rating(29, found.solution) == 0.375
    rated = set()
    for seed in range(12):
        found = search.search([4, 9, 3], 24, "bfs2-mult", rng=random.Random(seed), **PAPER)
        assert found.solution == "4 * ( 9 - 3 )"
        rated.add(round(rating(len(found.explored), found.solution), 6))
    assert rated == {0.916667, 0.895833, 0.875, 0.854167}
    assert rating(4, True) == pytest.approx(0.895833) and rating(4, False) == 0


def test_a_stream_by_hand():
    """Depth-first with one branch that fails: 2 + 1 = 3 is nearest to 6 by factors, 3 + 3 is right."""
    found = search.search([1, 2, 3], 6, "dfs-mult", limit=3)
    assert found.text == "try 1 + 2 = 3 then 3 3 try 3 + 3 = 6 yes"
    assert found.solution == "3 + ( 1 + 2 )" and found.explored == [(3, 3), (6,)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_writes_can_be_read(strategy):
    """On twenty problems: no error, the same numbers visited, an answer that is right, words of the
    tiny world."""
    n_solved = 0
    for row in search.problems(20, "train", False, strategy):
        found = search.search(row["nums"], row["target"], strategy, rng=random.Random(0))
        assert examine(found.text, row["nums"], row["target"]) == (found.explored, None)
        assert set(found.text.split()) <= set(VOCABULARY)
        if found.solution:
            n_solved += 1
            assert check_expression(found.solution, row["nums"], row["target"])
            assert found.explored[-1] == (row["target"],)
        assert alignment(found.explored, found.explored) == 1
    assert n_solved >= 8


@pytest.mark.parametrize(
    "text, n_explored, error",
    [
        ("try 9 - 3 = 6 then 4 6 try 4 * 6 = 24 yes", 2, None),
        ("try 9 - 3 = 7 then 4 7", 0, "arithmetic"),
        ("try 9 - 3 = 6 then 4 6 try 4 * 6 = 24 low", 2, "arithmetic"),
        # The paper's checker takes both: a number used twice, and one left over.
        ("try 9 + 3 = 12 then 4 12 try 12 + 9 = 21 low", 1, "exploration"),
        ("try 9 + 3 = 12 then 12 try 12 * 2 = 24 yes", 1, "exploration"),
        ("try 9 - 3 = 6 then 4 5", 1, "exploration"),
        ("try 9 - 3 = 6 then 4 6 wait , 4 9 3 try 4 + 3 = 7", 2, None),
        ("try 9 - 3 = 6 then 4 6 try 4 * 6 = 24 then", 2, "format"),
        ("try 9 - = 6", 0, "format"),
        ("okay", 0, "format"),
        ("", 0, None),
    ],
)
def test_first_errors(text, n_explored, error):
    explored, found = examine(text, [4, 9, 3], 24)
    assert (len(explored), found) == (n_explored, error)


def test_alignment_by_hand():
    """Two of three and of four in common: 2/4."""
    assert alignment([(1,), (2,), (3,)], [(2,), (3,), (4,), (5,), (2,)]) == 0.5
    assert alignment([], [(1,)]) == 0 and alignment([], []) == 1


def test_data(tmp_path):
    """Streams and optimal paths are of the same problems; measured targets and numbers are new."""
    main(Config(str(tmp_path / "data"), n_train=300, n_held_out=20))
    names = ("streams", "optimal", "train", "dev")
    rows = {name: read_rows(tmp_path / "data" / f"{name}.jsonl") for name in names}
    assert [row["id"] for row in rows["streams"]] == [row["id"] for row in rows["optimal"]]
    assert len({row["strategy"] for row in rows["streams"]}) == 12
    for row in rows["optimal"]:
        assert check_expression(row["response"], row["nums"], row["target"])
        assert row["thinking"] == optimal_stream(row["nums"], row["target"]).text
        assert row["thinking"].endswith("yes") and row["thinking"].count("try") == 2
    trained = {(*sorted(row["nums"]), row["target"]) for row in rows["train"]}
    assert not trained & {(*sorted(row["nums"]), row["target"]) for row in rows["dev"]}
    targets = {row["target"] for row in rows["train"]}
    for row in rows["dev"]:
        assert (row["target"] in targets) == (row["group"] == "numbers")
    with pytest.raises(BadInput, match="--limit 1, --longest 220: no search finds a solution"):
        main(Config(str(tmp_path / "none"), n_train=50, limit=1))


def test_a_run_is_examined(tmp_path, capsys):
    row = {"id": "a", "nums": [4, 9, 3], "target": 24}
    rows = [
        row | {"thinking": search.search([4, 9, 3], 24, "bfs5-sum").text},
        row | {"id": "b", "thinking": "try 4 + 9 = 14"},
    ]
    data = write(tmp_path / "run.jsonl", rows)
    first, second = main(Config(str(tmp_path / "out.jsonl"), "examine", data))
    assert first["align_bfs5_sum"] == 1 and first["error"] is None and first["explored"] > 2
    assert (second["error_arithmetic"], second["explored"]) == (1, 0)
    said = capsys.readouterr().out
    assert "first errors: none 50%, arithmetic 50%, exploration 0%, format 0%" in said
    with pytest.raises(BadInput, match="--do examine: needs --data"):
        main(Config(str(tmp_path / "out.jsonl"), "examine"))
