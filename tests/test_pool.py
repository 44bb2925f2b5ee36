"""curation/pool.py: what is asked of a row, and pools that are read from files."""

import json
from pathlib import Path

import pytest
from small_pools import ids, trace, write

import curate
from curation import pool
from engine.rows import BadInput


def test_question_id_is_that_of_s1():
    assert pool.question_id("What is 1+1?") == "31adf3e245f99d7b"
    assert pool.question_id("How many r in raspberry?") == "466c23bcad372163"


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


def test_domains_by_column_keywords_and_replies(tmp_path, capsys):
    taxonomy = write(tmp_path / "t.json", [])
    Path(taxonomy).write_text(
        json.dumps({"Geometry": ["triangle", "right angle"], "Number theory": ["prime"]})
    )
    rows = [
        trace(1, "Is the triangle of a prime , right-angle ? Triangle!"),
        trace(2, "a prime"),
        trace(3, "primes", subject="x"),
        trace(4, "nothing", subject="y"),
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

    assert domains() == ["unknown", "unknown", "x", "y"]
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
            domains="ask",
        )
    )
    assert ids(asked) == ids(rows) and all(
        "00 Geometry\n01 Number theory" in row["question"] for row in asked
    )
    assert asked[1]["question"].endswith("\n\na prime")
    Path(taxonomy).write_text('{"a": 5}')
    with pytest.raises(BadInput, match="--taxonomy .*t.json: cannot be used"):
        domains(taxonomy=taxonomy)


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


def test_one_id_stands_for_one_question(tmp_path, capsys):
    """Two files that count from 0 each. Case, spaces and STaR's hint do not change a question."""
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
            b'{"id": 1, "question": "a", "response": "", "thinking": "", "n_thinking_tokens": NaN}',
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
