"""curation/low_memory.py: with little memory the same rows are chosen."""

import dataclasses
import json
import random
import sys
import tracemalloc

import pytest
from small_pools import trace, write

import curate
from curation import low_memory, pool, similarity
from engine.rows import read_rows


def pool_with_ties(path, seed, n=400):
    """Several traces per question; few lengths, words and domains, so that most rows tie."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        q = rng.randrange(60)
        words = rng.choices(("so", "check", "maybe", "since", "x"), k=rng.randrange(1, 4))
        row = trace(i, f"question {q}", " ".join(words), response=rng.choice("445"))
        row |= {
            "id": f"q{q}",
            "domain": "aaaabbc"[q % 7],
            "source": ("AIME", "GPQA", "omni")[q % 3],
            "n_thinking_tokens": rng.randrange(1, 6),
            "history": [0, rng.randrange(4) / 4, 1],
            "number": i,
        }
        rows.append(row)
    return write(path, rows)


STREAMED = [name for name, method in curate.METHODS.items() if method.stream]


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("seed", range(3))
def test_streaming_chooses_what_the_plain_function_chooses(
    tmp_path, capsys, monkeypatch, name, seed
):
    """The whole output, byte for byte, for few rows, for many and for all; with pruning."""
    monkeypatch.setattr(low_memory, "PRUNE_AT", 20)
    data = pool_with_ties(tmp_path / "pool.jsonl", seed)
    plain = dataclasses.replace(curate.METHODS[name], stream=None)
    for k in (1, 7, 40, 1000):
        cfg = curate.Config(
            data=data, out=str(tmp_path / "o.jsonl"), method=name, k=k, seed=seed, per_question=5
        )
        cfg = dataclasses.replace(cfg, order=("chosen", "random")[k == 40])
        chosen = curate.main(cfg)
        streamed = (tmp_path / "o.jsonl").read_bytes()
        with monkeypatch.context() as patch:
            patch.setitem(curate.METHODS, name, plain)
            curate.curate(cfg)
        assert (tmp_path / "o.jsonl").read_bytes() == streamed
        numbers = [row["number"] for row in chosen]
        assert len(set(numbers)) == len(numbers) and 1 <= len(numbers) <= k


def test_every_method_but_two_has_a_twin():
    assert set(curate.METHODS) - set(STREAMED) == {"full", "s1-notebook"}


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
    inputs = curate.Inputs(curate.Config(data="", out="", seed=seed))
    fewer = []
    for i in range(0, 900, 90):
        fewer = fewer + rows[i : i + 90]
        longest_first = curate.select_longest(fewer, len(fewer), inputs)
        outright = curate.take_outright(fewer, 300)
        fewer = low_memory.within_reach_of_s1(longest_first, outright, 300, curate.WINDOW)
    assert len(fewer) < 750
    assert curate.select_s1(fewer, 300, inputs) == curate.select_s1(rows, 300, inputs)
    scores = [rng.randrange(40) / 40 for _ in rows]
    for row in rows:
        row["question"] = f"q{rng.randrange(300)}"
    for lowest in (False, True):
        places = low_memory.within_reach_of_best(
            [row["question"] for row in rows], scores, 20, lowest
        )
        reached = [rows[i] for i in places], [scores[i] for i in places]
        some = curate.best_per_question(*reached, lowest)
        assert len(places) < 200
        assert some[:20] == curate.best_per_question(rows, scores, lowest)[:20]
    questions = [similarity.digest(row["question"]) for row in rows]
    right = [row["correct"] for row in rows]
    places = low_memory.within_reach_of_bands(questions, right, scores, 9, n_bands=3)
    reached = [rows[i] for i in places], [scores[i] for i in places]
    assert len(places) < 200
    some = curate.middle_of_band(*reached, 2, 3)
    assert some[:9] == curate.middle_of_band(rows, scores, 2, 3)[:9]


@pytest.mark.parametrize("seed", range(3))
def test_keys_sort_and_draw_as_rows_do(seed):
    """Ids with zero bytes, accents and common beginnings; one domain has more than k rows."""
    rng = random.Random(seed)
    rows = [
        trace(0, thinking=str(i), domain=rng.choice("aab"))
        | {"id": "".join(rng.choices(("a", "b", "\0", "\1", "é", "z"), k=rng.randrange(1, 4)))}
        for i in range(200)
    ]
    cards = [pool.Card(i, row, 0) for i, row in enumerate(rows)]
    keys = sorted(
        low_memory.make_key(i, row, "ab".index(row["domain"])) for i, row in enumerate(rows)
    )
    assert [low_memory.read_key(key)[0] for key in keys] == [
        card.at for card in pool.sort_rows(cards)
    ]
    inputs = curate.Inputs(curate.Config(data="", out="", seed=seed))
    for k in (7, 60, 200):
        diverse = low_memory.draw_diverse(keys, "ab", k, seed, curate.draw_by_domain)
        assert diverse == [card.at for card in curate.select_diverse(cards, k, inputs)]
        drawn = low_memory.draw_random(keys, k, seed)
        assert drawn == [card.at for card in curate.select_random(cards, k, inputs)]


@pytest.mark.parametrize(
    "method", ["random", "diverse", "limo", "limo-low", "limo-band", "variance"]
)
def test_only_what_may_be_chosen_becomes_a_card(tmp_path, capsys, monkeypatch, method):
    """A card takes 400 bytes, and a pool may have millions of rows; other rows leave up to 100."""
    made = []
    monkeypatch.setattr(low_memory, "Card", lambda *given: made.append(given) or pool.Card(*given))
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
    assert sys.getsizeof(low_memory.make_key(1 << 50, {"id": pool.question_id("x")})) < 80


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
