"""engine/sweep.py: a run for each value of a flag."""

import json
import re
from pathlib import Path

import pytest
from tiny_runs import BASE, config_in

import generate
from engine import loading, sweep
from engine.rows import BadInput


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path)


def test_sweep_is_a_run_for_each_value(config, tmp_path, monkeypatch):
    """--sweep thinking_budget=4,9,none: three files, named after flag and value, each with the rows
    of a run with that flag, and continued by it. The model is loaded once for all three."""
    loads, original = [], loading.load
    monkeypatch.setattr(loading, "load", lambda *given: loads.append(given[0]) or original(*given))
    runs = generate.main(config(sweep="thinking_budget=4,9,none", n=2, limit=3))
    assert loads == [BASE] and [len(rows) for rows in runs] == [6, 6, 6]
    names = sorted(f.name.lower() for f in tmp_path.iterdir() if f.suffix == ".jsonl")
    assert names == [
        "out-thinking-budget-4.jsonl",
        "out-thinking-budget-9.jsonl",
        "out-thinking-budget-none.jsonl",
        "problems.jsonl",
    ]
    for budget, rows in zip((4, 9, None), runs):
        one = config(thinking_budget=budget, n=2, limit=3, out=str(tmp_path / f"one{budget}.jsonl"))
        assert generate.main(one) == rows
    assert all(r["n_thinking_tokens"] <= 4 for r in runs[0]) and any(
        r["n_thinking_tokens"] > 9 for r in runs[2]
    )
    monkeypatch.setattr(loading, "load", None)  # a complete run needs no model
    out = str(tmp_path / "out-thinking-budget-9.jsonl")
    assert generate.main(config(thinking_budget=9, n=2, limit=3, out=out)) == runs[1]


@pytest.mark.parametrize(
    "sweep, names",
    [
        ("--wait=wait,hmm,", {"out-wait-wait", "out-wait-hmm", "out-wait-"}),  # the last is none
        ("min-thinking=1,5", {"out-min-thinking-1", "out-min-thinking-5"}),
        ("ask=long,tokens:8", {"out-ask-long", "out-ask-tokens-8"}),
        ("temperature=0.5,0.75", {"out-temperature-0.5", "out-temperature-0.75"}),
        ("seed=3,4", {"out-seed-3", "out-seed-4"}),
    ],
)
def test_sweep_of_other_flags(config, tmp_path, sweep, names):
    """One file and one header for each value, also for values with a point in them; each header
    knows its value."""
    generate.main(config(sweep=sweep, waits=1, n=1, limit=2))
    assert {f.name for f in tmp_path.glob("out*")} == {
        name + end for name in names for end in (".jsonl", ".config.json")
    }
    flag = sweep.removeprefix("--").partition("=")[0].replace("-", "_")
    values = [json.loads(f.read_text())[flag] for f in tmp_path.glob("*.config.json")]
    assert len(set(values)) == len(names)


def test_sweep_of_an_out_without_suffix(config, tmp_path):
    """--out runs/a --sweep temperature=0.5,0.75: the point in a value is not the beginning of a
    suffix."""
    runs = generate.main(
        config(sweep="temperature=0.5,0.75", n=1, limit=2, out=str(tmp_path / "a"))
    )
    assert len(runs) == 2 and len(list(tmp_path.glob("a*"))) == 4


def test_sweep_of_a_value_that_is_no_file_name(config, tmp_path):
    """--wait and/or: two values, two files beside one another, or a line that names the value."""
    try:
        runs = sweep.runs_of_sweep(config(sweep="wait=and/or,and-or", waits=1))
    except BadInput as error:
        assert "and/or" in str(error) and "\n" not in str(error)
    else:
        assert len({one.out for one in runs}) == 2 and {Path(one.out).parent for one in runs} == {
            tmp_path
        }


@pytest.mark.parametrize(
    "more, message",
    [
        (
            {"sweep": "slots=1,2"},
            "--sweep slots=1,2: not FLAG=A,B,... with a FLAG of thinking_budget, waits",
        ),
        ({"sweep": "thinking_budget"}, "--sweep thinking_budget: not FLAG=A,B"),
        ({"sweep": "thinking_budget="}, "--sweep thinking_budget=: not FLAG=A,B"),
        ({"sweep": "waits=1,two"}, "--sweep waits=1,two: 'two' is not a value of --waits"),
        ({"sweep": "waits=1,none"}, "'none' is not a value of --waits"),
        ({"sweep": "waits=1,-1"}, "--waits -1: out of range"),
        ({"sweep": "waits=1,"}, "'' is not a value of --waits"),
        ({"sweep": "ask=long,longer"}, "--ask longer: not one of"),
        ({"sweep": "waits=1", "out": ""}, "--out is needed"),
    ],
)
def test_sweep_refuses(config, tmp_path, monkeypatch, more, message):
    """All values before the first run, and before the model is loaded: one line, no file."""
    monkeypatch.setattr(loading, "load", None)
    with pytest.raises(BadInput, match=re.escape(message)) as error:
        generate.main(config(**more))
    assert "\n" not in str(error.value) and [f.name for f in tmp_path.iterdir()] == [
        "problems.jsonl"
    ]
