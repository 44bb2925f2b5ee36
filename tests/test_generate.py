"""generate.py: the whole command, with its refusals and its resumption."""

import dataclasses
import functools
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

import generate
from data import tiny
from engine import decoder, loading, settings
from engine import model as models
from engine.completions import completion_text
from engine.decoder import Request, Sampling, decode
from engine.format import FORMATS, Format
from engine.rows import BadInput, read_rows
from engine.sampling import random_key

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data" / "tiny_base")
TOKENIZER = tiny.tokenizer()
EOS, END = TOKENIZER.convert_tokens_to_ids(["<eos>", "</think>"])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path):
    """config(flag=value, ...) of a small sampled run on the shipped base model: 5 problems, 3 samples."""
    problems = tiny.problems("math", 5, 9, "dev")
    data = write(tmp_path / "problems.jsonl", problems)

    def make(**more):
        return generate.Config(
            **{
                "model": BASE,
                "data": data,
                "out": str(tmp_path / "out.jsonl"),
                "format": "think",
                "n": 3,
                "temperature": 1.0,
                "max_tokens": 26,
                "wait": "wait",
                "slots": 4,
                **more,
            }
        )

    return make


def test_main_writes_rows_in_the_order_of_the_problems(config, tmp_path):
    """15 rows: problem fields, sample number, and parts that fit together; settings and identity beside them."""
    cfg = config(waits=1, logp=True)
    rows = generate.main(cfg)
    problems = read_rows(cfg.data)
    assert rows == read_rows(cfg.out)
    assert [(r["id"], r["sample"]) for r in rows] == [
        (p["id"], n) for p in problems for n in range(3)
    ]
    assert len({tuple(r["ids"]) for r in rows}) > 10  # samples differ
    tokenizer = loading.load(BASE)[1]
    for row in rows:
        assert row["question"] == next(p["question"] for p in problems if p["id"] == row["id"])
        assert row["n_tokens"] == len(row["ids"]) == len(row["logp"]) <= 26
        assert row["finish"] == ("stop" if row["ids"][-1] == EOS else "length")
        assert row["text"].split() == tokenizer.convert_ids_to_tokens(
            [i for i in row["ids"] if i != EOS]
        )
        assert all(row["logp"][i] == 0 for i in row["injected"])
        assert len(row["injected"]) == row["n_waits"] + (
            0 if "</think>" not in row["text"] else row["ids"].index(END) in row["injected"]
        )
        before, found, after = row["text"].partition("</think>")
        assert row["thinking"] == before.strip() and row["response"] == after.strip()
        assert row["n_thinking_tokens"] == len(row["thinking"].split())
    header = json.loads((tmp_path / "out.config.json").read_text())
    assert (
        header["temperature"] == 1.0
        and header["identity"]["seed"] == 0
        and header["skipped_prompts"] == 0
    )
    assert header["n_tokens"] == sum(r["n_tokens"] for r in rows)
    assert not (tmp_path / "out.jsonl.unfinished").exists()


def test_main_seed_and_limit(config, tmp_path):
    first = generate.main(config())
    second = generate.main(config(seed=1, out=str(tmp_path / "second.jsonl")))
    fewer = generate.main(config(limit=2, out=str(tmp_path / "fewer.jsonl")))
    assert sum(a["ids"] == b["ids"] for a, b in zip(first, second)) < 4
    assert [r["ids"] for r in fewer] == [r["ids"] for r in first[:6]]


def test_main_only_one_group(config, tmp_path):
    """--only keeps the rows of a group, before --limit counts them."""
    rows = [
        row | {"group": "odd" if i % 2 else "even"}
        for i, row in enumerate(read_rows(config().data))
    ]
    data = write(tmp_path / "groups.jsonl", rows)
    found = generate.main(config(data=data, only="odd", limit=2, n=1))
    assert [r["id"] for r in found] == [rows[1]["id"], rows[3]["id"]]
    with pytest.raises(BadInput, match="no row of --only even more"):
        generate.main(config(data=data, only="even more"))


class Killed(Exception):
    pass


def killed_after(n, monkeypatch):
    """generate.decode, ended from outside behind its n-th completion."""

    def dying(*arguments):
        for number, found in enumerate(decode(*arguments)):
            if number == n:
                raise Killed
            yield found

    monkeypatch.setattr(generate, "decode", dying)


def test_main_resumes_with_the_same_file(config, tmp_path, monkeypatch):
    """7 of 15 rows done, the seventh cut in the middle of its line: the same command writes the same bytes as a run
    that nobody disturbed, with other --slots, and decodes only the 9 rows that are missing."""
    generate.main(config(out=str(tmp_path / "whole.jsonl")))
    with monkeypatch.context() as patch:
        killed_after(7, patch)
        with pytest.raises(Killed):
            generate.main(config())
    part = tmp_path / "out.jsonl.unfinished"
    text = part.read_bytes()
    assert text.count(b"\n") == 7 and not (tmp_path / "out.jsonl").exists()
    part.write_bytes(text[:-40])
    asked = []
    monkeypatch.setattr(
        generate,
        "decode",
        lambda m, t, f, requests, *more: (
            asked.append(len(requests)) or decode(m, t, f, requests, *more)
        ),
    )
    generate.main(config(slots=3))
    assert asked == [9]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_main_of_a_complete_run_does_nothing(config, tmp_path, monkeypatch, capsys):
    first = generate.main(config())
    before = [(f.name, f.stat().st_mtime_ns) for f in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(loading, "load", None)  # would fail if called
    assert generate.main(config(slots=2)) == first
    assert [(f.name, f.stat().st_mtime_ns) for f in sorted(tmp_path.iterdir())] == before
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [True, False])
def test_main_refuses_other_settings(config, tmp_path, monkeypatch, finished):
    """A changed setting, and changed contents of --data, are named; --overwrite starts over and keeps no old row."""
    cfg = config()
    with monkeypatch.context() as patch:
        if not finished:
            killed_after(4, patch)
        try:
            generate.main(cfg)
        except Killed:
            pass
    with pytest.raises(BadInput, match="temperature: 1.0 there, 0.9 here") as error:
        generate.main(config(temperature=0.9))
    assert "\n" not in str(error.value) and "--overwrite" in str(error.value)
    rows = generate.main(config(temperature=0.9, overwrite=True))
    generate.main(config(temperature=0.9, out=str(tmp_path / "other.jsonl")))
    assert rows == read_rows(tmp_path / "other.jsonl")
    write(tmp_path / "problems.jsonl", tiny.problems("math", 6, 9, "dev"))
    with pytest.raises(BadInput, match="contents of --data"):
        generate.main(config(temperature=0.9))


def test_main_refuses_before_it_removes(config, tmp_path):
    """--overwrite with a setting that cannot work: the rows of the earlier run are still there."""
    rows = generate.main(config())
    with pytest.raises(BadInput, match="leaves no room"):
        generate.main(config(thinking_budget=25, overwrite=True))
    assert read_rows(tmp_path / "out.jsonl") == rows


def test_main_skips_prompts_longer_than_the_context(config, tmp_path, capsys):
    """The context is 512 tokens: a question of 600 words is named and skipped; the others are written. One of 500 words
    (with <user>, <bot>, <think> 503 tokens) keeps room for 9 tokens, fewer than --max-tokens 26."""
    problems = [
        {"id": "short", "question": "copy a b"},
        {"id": "endless", "question": "copy " + "a " * 599},
        {"id": "long", "question": "copy " + "a " * 499},
    ]
    rows = generate.main(config(data=write(tmp_path / "long.jsonl", problems), n=2))
    assert [(r["id"], r["sample"]) for r in rows] == [
        ("short", 0),
        ("short", 1),
        ("long", 0),
        ("long", 1),
    ]
    assert all(r["n_tokens"] <= 9 for r in rows if r["id"] == "long")
    printed = capsys.readouterr().out
    assert "skipped" in printed and "'endless'" in printed and "1 prompts skipped" in printed
    assert json.loads((tmp_path / "out.config.json").read_text())["skipped_prompts"] == 1
    with pytest.raises(BadInput, match="no prompt fits"):
        generate.main(
            config(
                data=write(tmp_path / "none.jsonl", problems[1:2]),
                out=str(tmp_path / "none-out.jsonl"),
            )
        )


@pytest.mark.parametrize(
    "flag, bad",
    [
        ("n", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("max_tokens", 0),
        ("waits", -1),
        ("slots", 0),
        ("thinking_budget", -2),
    ],
)
def test_main_refuses_values_out_of_range(config, flag, bad):
    with pytest.raises(BadInput, match=f"--{flag.replace('_', '-')} {bad}: out of range"):
        generate.main(config(**{flag: bad}))


@pytest.mark.parametrize(
    "more, message",
    [
        ({"thinking_budget": 25}, "--thinking-budget 25 leaves no room"),
        ({"waits": 1, "wait": "Wait"}, "--wait 'Wait' is not in this tokenizer's vocabulary"),
        ({"waits": 1, "format": "plain"}, "no single token that ends thinking"),
        ({"thinking_budget": 3, "format": "plain"}, "no single token that ends thinking"),
        ({"data": "missing.jsonl"}, "cannot be read"),
    ],
)
def test_main_refuses_what_cannot_be_meant(config, tmp_path, more, message):
    """One line each. A budget of 25 leaves no token for an answer: the forced end of thinking is one token here, and
    25 + 1 is not less than --max-tokens 26; 24 + 1 is. What was refused has left nothing that the right command,
    with the same --out, could stumble over."""
    with pytest.raises(BadInput, match=message) as error:
        generate.main(config(**more))
    assert "\n" not in str(error.value)
    assert len(generate.main(config(thinking_budget=24, wait="", limit=2))) == 6


def test_main_refuses_two_rows_with_one_id(config, tmp_path):
    """They would share their random numbers and, on resuming, their completions."""
    rows = read_rows(config().data)
    with pytest.raises(BadInput, match=f"two rows have the id '{rows[2]['id']}'"):
        generate.main(config(data=write(tmp_path / "twice.jsonl", rows + rows[2:3])))


def test_unknown_words_do_not_count_as_an_end_token():
    """The tiny tokenizer knows no <|im_start|>: it encodes s1's delimiter as <unk>, which is a special token too."""
    assert FORMATS["s1"].end_id(TOKENIZER) is None


def test_flags_reach_the_settings():
    cfg = settings.parse(
        generate.Config,
        "--model m --data d --out o --waits 2 --wait Hmm --thinking-budget 0".split(),
    )
    assert (cfg.waits, cfg.wait, cfg.thinking_budget, cfg.top_p) == (2, "Hmm", 0, 1.0)


# ---- A series of runs -----------------------------------------------------------------------------------------------


def test_sweep_is_a_run_for_each_value(config, tmp_path, monkeypatch):
    """--sweep thinking_budget=4,9,none: three files, named after flag and value, each with the rows of a run with that
    flag, and continued by it. The model is loaded once for all three."""
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
    """One file and one header for each value, also for values with a point in them; each header knows its value."""
    generate.main(config(sweep=sweep, waits=1, n=1, limit=2))
    assert {f.name for f in tmp_path.glob("out*")} == {
        name + end for name in names for end in (".jsonl", ".config.json")
    }
    flag = sweep.removeprefix("--").partition("=")[0].replace("-", "_")
    values = [json.loads(f.read_text())[flag] for f in tmp_path.glob("*.config.json")]
    assert len(set(values)) == len(names)


def test_sweep_of_an_out_without_suffix(config, tmp_path):
    """--out runs/a --sweep temperature=0.5,0.75: the point in a value is not the beginning of a suffix."""
    runs = generate.main(
        config(sweep="temperature=0.5,0.75", n=1, limit=2, out=str(tmp_path / "a"))
    )
    assert len(runs) == 2 and len(list(tmp_path.glob("a*"))) == 4


def test_sweep_of_a_value_that_is_no_file_name(config, tmp_path):
    """--wait and/or: two values, two files beside one another, or a line that names the value."""
    try:
        runs = generate.sweep(config(sweep="wait=and/or,and-or", waits=1))
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


# ---- Likelihoods ----------------------------------------------------------------------------------------------------


@functools.cache
def theirs():
    return AutoModelForCausalLM.from_pretrained(BASE, attn_implementation="eager").eval()


def by_transformers(prompt, completion, temperature=1.0):
    """(logp, entropy, rank) of each token of a completion, from transformers' own forward and from the definitions."""
    with torch.no_grad():
        z = (
            theirs()(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()
            / temperature
        )
    p = z.softmax(1)
    chosen = p[range(len(completion)), completion]
    return (
        chosen.log().tolist(),
        torch.special.entr(p).sum(1).tolist(),
        (1 + (p > chosen[:, None]).sum(1)).tolist(),
    )


def words(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_score_of_sampled_rows(config, tmp_path, temperature):
    """The rows of a run, ids and all: log-probabilities, entropies and ranks of transformers' own forward pass at that
    temperature (0: at 1), the row's fields kept. Where the model drew freely, the run's own logp is that number."""
    source = config(waits=1, logp=True, n=2, temperature=0.7)
    sampled = generate.main(source)
    assert len({row["n_tokens"] for row in sampled}) > 2
    cfg = config(
        data=source.out, out=str(tmp_path / "scored.jsonl"), score=True, temperature=temperature
    )
    rows = generate.main(cfg)
    assert rows == read_rows(cfg.out)
    assert [(r["id"], r["sample"]) for r in rows] == [(r["id"], r["sample"]) for r in sampled]
    for row, before in zip(rows, sampled):
        logp, entropy, rank = by_transformers(
            words(f"<user> {row['question']} <bot> <think>"), row["ids"], temperature or 1.0
        )
        assert row["logp"] == pytest.approx(logp, abs=1e-4) and row["entropy"] == pytest.approx(
            entropy, abs=1e-4
        )
        assert row["rank"] == rank and {
            k: v for k, v in row.items() if k not in ("logp", "rank", "entropy")
        } == {k: v for k, v in before.items() if k != "logp"}
        if temperature:
            # behind "wait" the end tokens took no part
            ours = set(range(1, row["n_tokens"])) - set(row["injected"])
            drawn = [i for i in ours if i - 1 not in row["injected"]]
            assert [before["logp"][i] for i in drawn] == pytest.approx(
                [row["logp"][i] for i in drawn], abs=1e-4
            )
    assert max(row["rank"][0] for row in rows) > 1


def test_score_of_text(config, tmp_path):
    """A row with thinking and response is scored as training reads it: <think> a b </think> a b <eos>, seven tokens. A
    row of the base model's own style is likelier than one with the answer of another question."""
    rows = [
        {"id": "1", "question": "copy a b", "thinking": "a b", "response": "a b"},
        {"id": "2", "question": "copy a b", "thinking": "", "response": "c d"},
        {"id": "1", "sample": 1, "question": "copy a b", "response": "a b"},
    ]
    found = generate.main(config(data=write(tmp_path / "text.jsonl", rows), score=True))
    for row, text in zip(
        found,
        (
            "<think> a b </think> a b <eos>",
            "<think> </think> c d <eos>",
            "<think> </think> a b <eos>",
        ),
    ):
        logp, entropy, rank = by_transformers(words("<user> copy a b <bot>"), words(text))
        assert row["logp"] == pytest.approx(logp, abs=2e-5) and row["rank"] == rank
        assert row["entropy"] == pytest.approx(entropy, abs=2e-5)
    assert sum(found[1]["logp"]) < sum(found[2]["logp"]) - 3


CHOICES = [
    {"id": "q1", "question": "compare 4 9", "choices": ["high", "low", "yes"], "answer": "low"},
    {
        "id": "q2",
        "question": "copy a b",
        "choices": ["a", "a b c d e f g", "a b", "b"],
        "answer": "C",
    },
    {"id": "q3", "question": "sort 3 2 1", "choices": ["1 2 3", "3 2 1"], "answer": "A"},
    {"id": "q4", "question": "copy e", "choices": ["w", "e e e e e", "e"], "answer": "e"},
    {"id": "q5", "question": "first of a b c", "choices": ["b", "a"], "answer": "B"},
]


@pytest.mark.parametrize("room", [10**4, 40, 20])
def test_score_of_choices(config, tmp_path, monkeypatch, room):
    """Multiple choice by likelihood: the sum over each choice's tokens, in the order of the choices, however the texts
    are gathered for the model (all at once, some 40 tokens, some 20); the likeliest is the response, as a letter where
    the answer is one."""
    monkeypatch.setattr(generate, "PREFILL", room)
    found = generate.main(
        config(data=write(tmp_path / "mc.jsonl", CHOICES), score=True, format="plain")
    )
    assert [row["id"] for row in found] == [row["id"] for row in CHOICES]
    for row, given in zip(found, CHOICES):
        sums = [
            sum(by_transformers(words(f"<user> {row['question']} <bot>"), words(choice))[0])
            for choice in given["choices"]
        ]
        assert row["choice_logp"] == pytest.approx(sums, abs=1e-4), row["id"]
        best = sums.index(max(sums))
        assert row["response"] == (
            "ABCD"[best] if given["answer"] in "ABCD" else given["choices"][best]
        )
        assert row["thinking"] == "" and {k: row[k] for k in given} == given


def test_score_of_more_choices_than_letters(config, tmp_path):
    """27 choices and a letter as the answer: the likeliest, which has no letter, or a line that names the row."""
    row = {"id": "q", "question": "copy a", "choices": ["b"] * 26 + ["a"], "answer": "A"}
    try:
        (found,) = generate.main(
            config(data=write(tmp_path / "mc.jsonl", [row]), score=True, format="plain")
        )
    except BadInput as error:
        assert "row 'q'" in str(error)
    else:
        assert found["response"] == "a" and len(found["choice_logp"]) == 27


def test_score_loses_no_row(config, tmp_path):
    """A row without a sample number is sample 0: beside another sample 0 of its id it is refused, and not written in the
    other's place."""
    rows = [
        {"id": "1", "question": "copy a", "response": "a"},
        {"id": "1", "sample": 0, "question": "copy b", "response": "b"},
    ]
    with pytest.raises(BadInput, match="two rows have the id '1'"):
        generate.main(config(data=write(tmp_path / "twice.jsonl", rows), score=True))


def test_score_asks_what_the_run_asked(config, tmp_path):
    """A run with --ask, scored with the same --ask: the model reads the same prompt, so the numbers are the run's."""
    source = config(ask="tokens:9", logp=True, n=1)
    sampled = generate.main(source)
    rows = generate.main(
        config(data=source.out, out=str(tmp_path / "scored.jsonl"), score=True, ask="tokens:9")
    )
    for row, before in zip(rows, sampled):
        assert row["logp"] == pytest.approx(before["logp"], abs=2e-5)


def test_score_resumes_with_the_same_file(config, tmp_path, monkeypatch):
    """Ended behind its fourth row: the same command scores what is missing, and the file is that of a whole run."""
    source = config(n=2)
    generate.main(source)
    cfg = config(data=source.out, out=str(tmp_path / "scored.jsonl"), score=True)
    generate.main(config(data=source.out, out=str(tmp_path / "whole.jsonl"), score=True))
    original, asked = generate.likelihoods, []
    with monkeypatch.context() as patch:
        patch.setattr(
            generate,
            "likelihoods",
            lambda *given: itertools.chain(
                itertools.islice(original(*given), 4), (1 / 0 for _ in "x")
            ),
        )
        with pytest.raises(ZeroDivisionError):
            generate.main(cfg)
    assert len(read_rows(cfg.out + ".unfinished")) == 4
    monkeypatch.setattr(
        generate,
        "likelihoods",
        lambda cfg, rows, *given: asked.append(len(rows)) or original(cfg, rows, *given),
    )
    generate.main(cfg)
    assert (
        asked == [6]
        and (tmp_path / "scored.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    )


@pytest.mark.parametrize(
    "bad, message",
    [
        ({}, "row 'x' has neither ids, nor response, nor choices to score"),
        ({"ids": []}, "row 'x': nothing to score"),
        ({"ids": None}, "row 'x'"),
        ({"ids": [5, 149]}, "row 'x': nothing to score, or ids outside the vocabulary"),
        ({"ids": [5, "6"]}, "row 'x': nothing to score, or ids outside the vocabulary"),
        ({"ids": [7] * 600}, "row 'x' has 604 tokens, the context 512"),
        ({"choices": ["a", ""]}, "row 'x': nothing to score"),
        ({"choices": []}, "row 'x'"),
        ({"choices": None}, "row 'x'"),
        ({"choices": ["a", 7]}, "row 'x'"),
    ],
)
def test_score_names_a_row_that_it_cannot_take(config, tmp_path, bad, message):
    """One line with the row, for what is missing, empty, too long or of another type."""
    good = {"id": "good", "question": "copy a", "ids": [7, 8]}
    cfg = config(
        data=write(tmp_path / "rows.jsonl", [good, {"id": "x", "question": "copy", **bad}]),
        score=True,
    )
    with pytest.raises(BadInput, match=re.escape(message)) as error:
        generate.main(cfg)
    assert "\n" not in str(error.value)


def test_score_refuses_before_a_file_is_touched(config, tmp_path):
    """A bad row, then the mended file: the same command finds nothing to stumble over."""
    good = {"id": "good", "question": "copy a", "ids": [7, 8]}
    cfg = config(
        data=write(tmp_path / "rows.jsonl", [good, {"id": "x", "question": "copy"}]), score=True
    )
    with pytest.raises(BadInput, match="row 'x'"):
        generate.main(cfg)
    write(tmp_path / "rows.jsonl", [good])
    assert len(generate.main(cfg)) == 1


# ---- Pipes and people -----------------------------------------------------------------------------------------------


def test_stdout_holds_rows_and_nothing_else(config, tmp_path, capsys):
    """--stdout: the rows of a run with --out, as they finish, one JSON object a line; what is said goes to stderr, with
    the same numbers; no file is made."""
    expected = generate.main(config(out=str(tmp_path / "file.jsonl")))
    said = capsys.readouterr().out.splitlines()[-1].removeprefix(str(tmp_path / "file.jsonl"))
    before = sorted(f.name for f in tmp_path.iterdir())
    problems = read_rows(config().data) + [{"id": "endless", "question": "copy " + "a " * 599}]
    generate.main(config(stdout=True, out=""))
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert sorted(rows, key=repr) == sorted(expected, key=repr) and len(rows) == 15
    assert sorted(f.name for f in tmp_path.iterdir()) == before and "slots of" in shown.err
    n_cut = sum(row["finish"] == "length" for row in expected)
    assert n_cut and f"{n_cut} cut by --max-tokens" in said
    generate.main(config(data=write(tmp_path / "more.jsonl", problems), stdout=True, out="", n=1))
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 5 and "skipped: the prompt of row 'endless'" in shown.err


def test_stdout_counts_what_was_cut(config, capsys):
    """The closing line of --stdout tells how many rows --max-tokens cut, as it does for a file."""
    generate.main(config(stdout=True, out=""))
    shown = capsys.readouterr()
    n_cut = sum(json.loads(line)["finish"] == "length" for line in shown.out.splitlines())
    assert n_cut and f"{n_cut} cut by --max-tokens" in shown.err


def command(*flags):
    """generate.py as it is typed."""
    return [
        sys.executable,
        str(ROOT / "generate.py"),
        "--model",
        BASE,
        "--format",
        "think",
        *map(str, flags),
    ]


def greedy_text(question, history=(), **forcing):
    """The text of an answer in the terminal, decoded here."""
    model, tokenizer = loading.load(BASE)
    request = Request(FORMATS["think"].prompt_ids(tokenizer, question, history), 0, 60, **forcing)
    ((_, c),) = decode(model, tokenizer, FORMATS["think"], [request], Sampling(wait="wait"))
    return completion_text(tokenizer, c)


def said(question, **forcing):
    """A question and its answer as history; the thinking is not part of it."""
    response = greedy_text(question, **forcing).partition("</think>")[2].strip()
    return [{"role": "user", "content": question}, {"role": "assistant", "content": response}]


def test_interactive_in_a_pipe():
    """Four questions and seven commands through stdin. Each answer is printed whole, thinking included (no colours in a
    pipe), greedy, so that it is the text decoded here: with the conversation so far as history, without it after /new,
    under the budget and the waits that were typed. What cannot be meant is told in one line, and changes nothing."""
    first, second = greedy_text("copy a b"), greedy_text("sort 7 3", said("copy a b"), budget=2)
    third = greedy_text("sort 7 3", waits=1, budget=2)
    dialogue = [
        ("copy a b", first + "\n"),
        ("/budget 2", ""),
        ("sort 7 3", second + "\n"),
        ("/new", ""),
        ("/nonsense 4", re.compile("/nonsense: not one of thinking_budget, waits, .*new\n")),
        ("/waits x", re.compile(".*\n")),
        ("/temperature -1", "--temperature -1.0: out of range\n"),
        ("", ""),
        ("/waits 1", ""),
        ("sort 7 3", third + "\n"),
        ("/thinking-budget none", ""),
        ("/waits 0", ""),
        ("close ( [", greedy_text("close ( [", said("sort 7 3", waits=1, budget=2)) + "\n"),
    ]
    assert "</think>" in first and len({second, third, greedy_text("sort 7 3")}) == 3
    done = subprocess.run(
        command("--interactive", "--max-tokens", 60, "--wait", "wait"),
        capture_output=True,
        text=True,
        input="".join(typed + "\n" for typed, _ in dialogue),
    )
    assert done.returncode == 0, done.stderr
    rest = done.stdout.partition("\n")[2]
    for typed, answer in dialogue:
        assert rest.startswith("> "), (typed, rest)
        found = (
            answer.match(rest, 2)[0]
            if isinstance(answer, re.Pattern)
            else rest[2 : 2 + len(answer)]
        )
        assert isinstance(answer, re.Pattern) or found == answer, typed
        rest = rest[2 + len(found) :]
    assert rest == "> \n" and "\x1b" not in done.stdout


def chatting(monkeypatch, capsys, cfg, *typed, terminal=False):
    """What the terminal shows behind the first line."""
    lines = iter(typed)
    monkeypatch.setattr(
        "builtins.input", lambda prompt: next(lines, None) or (_ for _ in ()).throw(EOFError)
    )
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    generate.main(
        dataclasses.replace(cfg, interactive=True, data="", out="", temperature=0.0, max_tokens=60)
    )
    return capsys.readouterr().out.partition("\n")[2]


def test_thinking_is_dimmed_in_a_terminal(config, monkeypatch, capsys):
    """Up to and with the end of thinking dim, the answer plain; together the whole text, character for character."""
    shown = chatting(monkeypatch, capsys, config(), "copy a b", terminal=True)
    parts = re.findall(r"\x1b\[2m(.*?)\x1b\[0m(.*?)(?=\x1b|\Z)", shown, re.DOTALL)
    thinking, _, response = greedy_text("copy a b").partition("</think>")
    assert "".join(dim for dim, _ in parts) == thinking + "</think>"
    assert "".join(plain for _, plain in parts) == response + "\n\n" and response.strip()


def test_the_stop_token_is_not_shown(config, monkeypatch, capsys):
    """Neither without --stop nor with one that does not come."""
    assert chatting(monkeypatch, capsys, config(), "copy a b") == greedy_text("copy a b") + "\n\n"
    assert (
        chatting(monkeypatch, capsys, config(stop=("never",)), "copy a b")
        == greedy_text("copy a b") + "\n\n"
    )


# ---- Settings of a row ----------------------------------------------------------------------------------------------


def test_a_row_has_settings_of_its_own(config, tmp_path):
    """max_tokens, waits and thinking_budget of a row precede the flags: row by row the text of a run in which the flag
    says the same, and the others have the flags' (--waits 1, budget 12)."""
    flags = {"waits": 1, "thinking_budget": 12, "max_tokens": 30}
    own = [
        {"max_tokens": 9, "thinking_budget": 5},
        {"waits": 0},
        {"waits": 3},
        {"thinking_budget": 1},
        {},
    ]
    problems = [
        {"id": str(i), "question": q}
        for i, q in enumerate(("sort 7 3 5", "close ( [ {", "copy a b", "logic t or f", "sort 9 8"))
    ]
    rows = generate.main(
        config(data=write(tmp_path / "own.jsonl", [p | o for p, o in zip(problems, own)]), **flags)
    )
    plain = generate.main(
        config(
            data=write(tmp_path / "plain.jsonl", problems), out=str(tmp_path / "p.jsonl"), **flags
        )
    )
    for i, fields in enumerate(own):
        one = {
            "data": write(tmp_path / f"{i}.jsonl", problems[i : i + 1]),
            "out": str(tmp_path / f"out{i}.jsonl"),
        }
        alone, ids = (
            generate.main(config(**{**flags, **one, **fields})),
            [r["ids"] for r in rows[3 * i : 3 * i + 3]],
        )
        assert [r["ids"] for r in alone] == ids
        assert ([r["ids"] for r in plain[3 * i : 3 * i + 3]] == ids) == (fields == {})
    assert all(r["n_tokens"] <= 9 and r["max_tokens"] == 9 for r in rows[:3])
    assert not any(r["n_waits"] for r in rows[3:6]) and max(r["n_waits"] for r in rows[6:9]) > 1


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_tokens", 0),
        ("max_tokens", "9"),
        ("max_tokens", 2.5),
        ("waits", -1),
        ("waits", True),
        ("thinking_budget", -2),
        ("thinking_budget", "auto"),
        ("thinking_budget", [3]),
    ],
)
def test_a_rows_bad_setting_is_named(config, tmp_path, name, value):
    rows = read_rows(config().data)
    data = write(tmp_path / "bad.jsonl", [*rows[:2], rows[2] | {name: value}])
    message = f"{data}: row '{rows[2]['id']}': {name} {value!r} is not a number of tokens"
    with pytest.raises(BadInput, match=re.escape(message)):
        generate.main(config(data=data))
    assert not (tmp_path / "out.jsonl.unfinished").exists()


def test_a_rows_budget_without_room_is_named(config, tmp_path):
    """Budget 25 of 26 tokens, and budget 9 of the row's own 9: both leave none for the answer."""
    rows = read_rows(config().data)
    for own, limit in (({"thinking_budget": 25}, 26), ({"thinking_budget": 9, "max_tokens": 9}, 9)):
        data = write(tmp_path / "bad.jsonl", [rows[0], rows[1] | own])
        with pytest.raises(
            BadInput,
            match=f"row '{rows[1]['id']}': --thinking-budget {own['thinking_budget']} leaves no "
            f"room for an answer in --max-tokens {limit}",
        ):
            generate.main(config(data=data))


@pytest.mark.parametrize(
    "more, own",
    [
        ({"wait": "Wait"}, {"waits": 1}),
        ({"format": "plain"}, {"thinking_budget": 3}),
        ({"format": "plain"}, {"waits": 1}),
    ],
)
def test_a_rows_setting_that_cannot_be_served_is_refused_before_a_file_is_touched(
    config, tmp_path, more, own
):
    """As for the flags: a wait string outside the vocabulary, a format without an end of thinking. The right command
    with the same --out then finds nothing to stumble over."""
    rows = read_rows(config().data)
    cfg = config(data=write(tmp_path / "own.jsonl", [rows[0], rows[1] | own]), **more)
    with pytest.raises(BadInput, match="--wait 'Wait'|no single token that ends thinking"):
        generate.main(cfg)
    assert {f.name for f in tmp_path.iterdir()} == {"problems.jsonl", "own.jsonl"}


def test_a_killed_run_of_rows_with_settings_of_their_own(config, tmp_path, monkeypatch):
    """Only the last row waits. Killed when that row is done, the run continues with rows that are free; their text (some
    stop inside their thinking, asserted) must not depend on it: same bytes as a run that nobody disturbed."""
    problems = tiny.problems("math", 16, 9, "dev") + [{"id": "w", "question": "copy a", "waits": 1}]
    data = write(tmp_path / "own.jsonl", problems)
    cfg = config(data=data, temperature=2.5, max_tokens=60, n=6, slots=102)
    free = write(tmp_path / "free.jsonl", problems[:-1])
    free = generate.main(dataclasses.replace(cfg, data=free, out=str(tmp_path / "free-out.jsonl")))
    assert sum(EOS in row["ids"] and END not in row["ids"] for row in free) > 1
    whole = generate.main(dataclasses.replace(cfg, out=str(tmp_path / "whole.jsonl")))
    with monkeypatch.context() as patch:
        patch.setattr(
            generate,
            "decode",
            lambda model, tokenizer, form, requests, *more: (
                found if requests[found[0]].waits else 1 / 0
                for found in sorted(
                    decode(model, tokenizer, form, requests, *more), key=lambda found: -found[0]
                )
            ),
        )
        with pytest.raises(ZeroDivisionError):
            generate.main(cfg)
    assert [r["id"] for r in read_rows(cfg.out + ".unfinished")] == ["w"] * 6
    assert generate.main(cfg) == whole


# ---- Budgets --------------------------------------------------------------------------------------------------------

# its forced end is six tokens
SIX = Format("six", open="<think> wait", end="</think>", cue=" a b c d e")


@pytest.mark.parametrize("context", [32768, 40960])
def test_t15_auto_budget(config, tmp_path, monkeypatch, context):
    """T15: max_tokens 32768, a prompt of 300 ids and 2 that start thinking, 6 ids of a forced end:
    32768 - 300 - 2 - 6 - 100 = 32360, in a context that is no longer and in one that is."""
    model, tokenizer = loading.load(BASE)
    monkeypatch.setattr(models, "context_length", lambda model: context)
    problem = {"id": "1", "question": "copy " + "a " * 296 + "b"}
    cfg = config(thinking_budget=-1, max_tokens=32768)
    (request, *_), _, skipped = generate.make_requests(cfg, [problem], model, tokenizer, SIX)
    assert len(request.prompt) == 302 and not skipped
    assert request.budget == 32360


def test_t15_auto_budget_of_s1(config, monkeypatch):
    """The same for s1's own delimiters: the line break that may come before <|im_start|>answer is not among the six
    ids of T15."""
    pieces = {
        "<|im_start|>": 1,
        "think": 2,
        "answer": 3,
        "\n": 4,
        "Final": 5,
        " Answer": 6,
        ":": 7,
        "q": 8,
    }
    pattern = re.compile("|".join(map(re.escape, pieces)))
    tokenizer = SimpleNamespace(
        encode=lambda text, **_: [pieces[p] for p in pattern.findall(text)],
        chat_template="x",
        eos_token_id=0,
        unk_token_id=None,
        all_special_ids=[1],
        added_tokens_decoder={},
        __len__=lambda: 9,
        apply_chat_template=lambda messages, **_: messages[0]["content"],
        batch_decode=lambda ids: [{i: p for p, i in pieces.items()}.get(i, "") for (i,) in ids],
    )
    tokenizer = type("Stub", (SimpleNamespace,), {"__len__": lambda self: 9})(**vars(tokenizer))
    monkeypatch.setattr(models, "context_length", lambda model: 32768)
    cfg = config(thinking_budget=-1, max_tokens=32768, format="s1", n=1)
    (request,), _, _ = generate.make_requests(
        cfg, [{"id": "1", "question": "q" * 300}], loading.load(BASE)[0], tokenizer, FORMATS["s1"]
    )
    assert len(request.prompt) == 302 and request.budget == 32360


def test_auto_budget_leaves_a_hundred_tokens_for_the_answer(config, tmp_path, monkeypatch):
    """Each prompt has its own: in a context of 512, questions of 1 and of 301 words, --max-tokens 600. The forced end is
    one token (</think>; a line break is no token of the tiny tokenizer)."""
    problems = [{"id": "a", "question": "copy a"}, {"id": "b", "question": "copy " + "a " * 300}]
    asked = []
    monkeypatch.setattr(
        generate, "decode", lambda m, t, f, requests, *more: asked.extend(requests) or iter(())
    )
    generate.main(
        config(data=write(tmp_path / "p.jsonl", problems), thinking_budget=-1, max_tokens=600, n=1)
    )
    lengths = [len(r.prompt) for r in asked]
    assert (
        lengths == [5, 304]
        and asked[1].budget == 512 - 304 - 1 - 100
        and asked[1].max_tokens == 512 - 304
    )


def test_auto_budget_under_the_harness_rule(config, tmp_path):
    """s1's own evaluation (commands.sh): the automatic budget, for each round between two waits. The rows are served;
    they may be cut by the context, but none is skipped as if its prompt did not fit."""
    rows = generate.main(
        config(thinking_budget=-1, waits=2, budget_rule="round", max_tokens=300, n=1)
    )
    assert len(rows) == 5 and max(row["n_waits"] for row in rows) == 2


def test_auto_budget_skips_a_prompt_without_room(config, tmp_path, capsys):
    """--thinking-budget -1 and a prompt that leaves 60 tokens of the context, or none: that row is named and skipped, as
    it is under every other budget; the other rows are served."""
    problems = [
        {"id": "good", "question": "copy a"},
        {"id": "tight", "question": "copy " + "a " * 448},
        {"id": "endless", "question": "copy " + "a " * 599},
    ]
    rows = generate.main(
        config(data=write(tmp_path / "p.jsonl", problems), thinking_budget=-1, max_tokens=200, n=1)
    )
    printed = capsys.readouterr().out
    assert [r["id"] for r in rows] == ["good"] and "'tight'" in printed and "'endless'" in printed


def test_minimum_and_round_budget_leave_room_for_the_answer(config, tmp_path):
    """--budget-rule round with --min-thinking: each Wait that the minimum asks for begins a new round. A budget that is
    accepted must leave an answer: no row may be cut inside its thinking."""
    try:
        rows = generate.main(
            config(min_thinking=12, thinking_budget=12, budget_rule="round", max_tokens=15, n=12)
        )
    except BadInput as error:
        assert "leaves no room" in str(error)
    else:
        assert not [r for r in rows if "</think>" not in r["text"]]


def test_rejection_through_the_command(config, tmp_path):
    """--over-budget reject: rows tell how many tries they took; what is accepted ended its thinking by itself within
    the budget, delimiter included; what is not is called rejected and has no answer."""
    rows = generate.main(
        config(thinking_budget=14, over_budget="reject", max_tries=3, max_tokens=40)
    )
    assert {r["n_tries"] for r in rows} == {1, 2, 3} and {r["finish"] for r in rows} >= {
        "stop",
        "rejected",
    }
    for row in rows:
        assert row["injected"] == [] and row["n_thinking_tokens"] <= 14
        if row["finish"] == "rejected":
            assert (
                row["n_tries"] == 3
                and row["response"] == ""
                and END not in row["ids"]
                and row["n_tokens"] == 14
            )
        else:
            assert row["ids"].index(END) + 1 <= 14
    again = generate.main(
        config(
            thinking_budget=14,
            over_budget="reject",
            max_tries=3,
            max_tokens=40,
            slots=1,
            out=str(tmp_path / "again.jsonl"),
        )
    )
    assert again == rows


# ---- What the model is told, where it stops -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, told",
    [
        ("tokens:2048", "\n\nThink for up to 2048 tokens."),
        ("steps:16", "\n\nThink for up to 16 steps."),
        (
            "long",
            "\n\nAnswer after a long amount of thinking. If you feel like you are finished early, spend the extra time "
            "trying to double-check your work until you are absolutely sure that you have the correct answer.",
        ),
        (
            "short",
            "\n\nAnswer after a short amount of thinking. Do not spend excessive time double-checking your work.",
        ),
        (
            "l1:512",
            " Let's think step by step and output the final answer within \\boxed{}. Think for 512 tokens.",
        ),
        (
            "l1-max:512",
            " Let's think step by step and output the final answer within \\boxed{}. Think for maximum 512 "
            "tokens.",
        ),
    ],
)
def test_ask(config, monkeypatch, how, told):
    """What --ask adds to the question, word for word, reaches the chat template; the row keeps its own question."""
    asked, original = [], Format.prompt_text
    monkeypatch.setattr(
        Format,
        "prompt_text",
        lambda self, tokenizer, question, history=(): (
            asked.append(question) or original(self, tokenizer, question, history)
        ),
    )
    rows = generate.main(config(ask=how, n=1, max_tokens=3))
    questions = [p["question"] for p in read_rows(config().data)]
    assert asked == [q + told for q in questions] and [r["question"] for r in rows] == questions


@pytest.mark.parametrize(
    "how",
    [
        "longer",
        "tokens",
        "tokens:",
        "tokens:0",
        "tokens:-5",
        "tokens:1.5",
        "long:5",
        "l1",
        "l1:x",
        ":5",
    ],
)
def test_ask_refuses(config, monkeypatch, how):
    monkeypatch.setattr(loading, "load", None)
    with pytest.raises(
        BadInput, match=f"^--ask {how}: not one of tokens:N, steps:N, long, short, l1:N, l1-max:N$"
    ):
        generate.main(config(ask=how))


def test_stop_through_the_command(config, tmp_path):
    """--stop and --stop-tokens, as typed: a row tells what ended it, its text ends before that, ids and logp keep it.
    Every row is the beginning of the row without them."""
    flags = [
        "--model",
        BASE,
        "--data",
        config().data,
        "--out",
        str(tmp_path / "stop.jsonl"),
        "--format",
        "think",
        "--n",
        "3",
        "--temperature",
        "1",
        "--max-tokens",
        "26",
        "--slots",
        "4",
        "--logp",
        "--stop",
        "5 ",
        "= 1",
        "--stop-tokens",
        "+",
        "--stop-tokens",
        "no",
    ]
    cfg = settings.parse(generate.Config, flags)
    assert cfg.stop == ("5 ", "= 1") and cfg.stop_tokens == ("+", "no")
    plain = generate.main(config(logp=True))
    with pytest.raises(
        BadInput,
        match=r"^--stop-tokens 'no': not a token of this vocabulary \(--stop takes any str",
    ):
        generate.main(cfg)
    rows = generate.main(dataclasses.replace(cfg, stop_tokens=("+",)))
    seen = set()
    for row, whole in zip(rows, plain):
        n = row["n_tokens"]
        assert row["ids"] == whole["ids"][:n] and row["logp"] == pytest.approx(
            whole["logp"][:n], abs=1e-4
        )
        seen.add(row["stop"])
        if row["stop"] is None:
            assert row["finish"] == "length" and row["text"] == whole["text"]
        elif row["stop"] in ("+", "<eos>"):
            assert (
                row["finish"] == "stop"
                and TOKENIZER.convert_ids_to_tokens(row["ids"][-1]) == row["stop"]
            )
            assert row["text"] == TOKENIZER.decode(row["ids"][:-1])
        else:
            assert row["finish"] == "stop" and row["stop"] in TOKENIZER.decode(row["ids"])
            assert TOKENIZER.decode(row["ids"]).startswith(row["text"] + row["stop"])
        assert not any(s in row["text"] for s in cfg.stop)
    assert seen >= {"+", "5 ", "= 1"}


# ---- Flags that do not go together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, message",
    [
        ({"steps": 2}, "--steps 2: --format think has no steps (s1-steps has)"),
        ({"over_budget": "reject"}, "--over-budget reject samples until --thinking-budget is kept"),
        (
            {"over_budget": "reject", "thinking_budget": 9, "temperature": 0.0},
            "it needs one, and --temperature",
        ),
        (
            {"min_thinking": 9, "thinking_budget": 8},
            "--min-thinking 9 is more than --thinking-budget 8",
        ),
        ({"data": ""}, "--data: problem rows are needed (or --interactive)"),
        ({"out": ""}, "--out: where to write is needed (or --stdout)"),
        ({"min_thinking": -1}, "--min-thinking -1: out of range"),
        ({"max_tries": 0}, "--max-tries 0: out of range"),
        ({"steps": -1}, "--steps -1: out of range"),
        ({"limit": -1}, "--limit -1: out of range"),
        ({"tp": 0}, "--tp 0: out of range"),
        ({"top_k": -1}, "--top-k -1: out of range"),
        ({"interactive": True, "data": "", "out": "", "waits": -1}, "--waits -1: out of range"),
    ],
)
def test_flags_that_do_not_go_together(config, tmp_path, monkeypatch, more, message):
    """One line, before the model is loaded and a file is made."""
    monkeypatch.setattr(loading, "load", None)
    with pytest.raises(BadInput, match=re.escape(message)) as error:
        generate.main(config(**more))
    assert "\n" not in str(error.value) and [f.name for f in tmp_path.iterdir()] == [
        "problems.jsonl"
    ]


def test_out_is_not_data(config, tmp_path):
    with pytest.raises(BadInput, match="--out .* is --data"):
        generate.main(config(out=str(tmp_path / "." / "problems.jsonl")))
    assert len(read_rows(config().data)) == 5


def test_tensor_parallel_without_torchrun(config):
    with pytest.raises(BadInput, match="--tp 2: does not divide 1 process"):
        generate.main(config(tp=2))


@pytest.mark.parametrize(
    "bad",
    [{"question": 5}, {"question": ["copy a"]}, {"question": "copy \ud800"}, {"id": [1]}],
    ids=ascii,
)
def test_a_problem_of_another_type_is_named(config, tmp_path, bad):
    """A number or a list for a question, half a surrogate pair (JSON can hold one), a list for an id: the row or its
    line is told in one line, not in a traceback from inside the tokenizer."""
    fine, odd = {"id": "fine", "question": "copy a"}, {"id": "odd", "question": "copy b"}
    data = write(tmp_path / "bad.jsonl", [fine, odd | bad])
    with pytest.raises(BadInput, match="'odd'|\\[1\\]|bad.jsonl:2") as error:
        generate.main(config(data=data))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "problems.jsonl:1: empty line"),
        ('{"id": "1", "question": "copy a"}\n\n', "problems.jsonl:2: empty line"),
        ('{"id": "1"}\n', "problems.jsonl:1: no field 'question'"),
    ],
)
def test_problems_that_are_none(config, tmp_path, text, message):
    """An empty file, an empty line, a row without a question: file and line are named."""
    cfg = config()
    (tmp_path / "problems.jsonl").write_text(text)
    with pytest.raises(BadInput, match=re.escape(message)):
        generate.main(cfg)


def test_a_wait_of_no_token_and_a_model_without_a_template(config, monkeypatch):
    """A blank as --wait would be encoded as nothing. A tokenizer without a chat template has no prompt for a question;
    --format r1 needs none."""
    with pytest.raises(BadInput, match="^--wait ' ' is not in this tokenizer's vocabulary$"):
        generate.main(config(waits=1, wait=" "))
    model, tokenizer = loading.load(BASE)
    tokenizer.chat_template = None
    monkeypatch.setattr(loading, "load", lambda *given: (model, tokenizer))
    with pytest.raises(
        BadInput, match="the tokenizer has no chat template, which format 'think' needs"
    ):
        generate.main(config())
    assert len(generate.main(config(format="r1", n=1))) == 5


def test_a_row_of_broken_logits_is_named(config, tmp_path, monkeypatch, capsys):
    """Its first three tokens are written with finish "nan", stderr says which row it was, the others are served."""
    expected, original = generate.main(config(out=str(tmp_path / "whole.jsonl"))), decoder.advance
    key = random_key(0, expected[4]["id"], 1)
    monkeypatch.setattr(
        decoder,
        "advance",
        lambda state, logits, *rest: original(
            state,
            torch.where(((state["key"] == key) & (state["n"] == 3))[:, None], torch.nan, logits),
            *rest,
        ),
    )
    rows = generate.main(config())
    assert (
        rows[4]["finish"] == "nan"
        and rows[4]["ids"] == expected[4]["ids"][:3]
        and rows[4]["stop"] is None
    )
    assert (
        f"row '{expected[4]['id']}': the model's logits are not finite after 3 tokens"
        in capsys.readouterr().err
    )
    assert rows[:4] + rows[5:] == expected[:4] + expected[5:]


# ---- Runs that end early --------------------------------------------------------------------------------------------


def test_out_of_memory(config, tmp_path, monkeypatch):
    """The memory runs out behind the fourth row: a line that names --slots, the four rows are kept, and the same command
    with fewer slots brings the file of a run that nobody disturbed."""
    generate.main(config(out=str(tmp_path / "whole.jsonl")))

    def greedy_for_memory(*given):
        yield from itertools.islice(decode(*given), 4)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has")

    with monkeypatch.context() as patch:
        patch.setattr(generate, "decode", greedy_for_memory)
        with pytest.raises(
            BadInput, match="--slots 4: out of memory; finished rows are kept"
        ) as error:
            generate.main(config())
    assert "\n" not in str(error.value) and len(read_rows(tmp_path / "out.jsonl.unfinished")) == 4
    generate.main(config(slots=1))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["run[1].jsonl", "what?*.jsonl", "a b.jsonl", "rows"])
def test_any_name_will_do(config, tmp_path, monkeypatch, name):
    """Brackets, stars and question marks in --out are letters, not patterns; nothing is lost, also not by a kill."""
    with monkeypatch.context() as patch:
        killed_after(7, patch)
        with pytest.raises(Killed):
            generate.main(config(out=str(tmp_path / name)))
    rows = generate.main(config(out=str(tmp_path / name)))
    assert len(rows) == 15 and read_rows(tmp_path / name) == rows
    assert {f.name for f in tmp_path.iterdir()} == {
        "problems.jsonl",
        name,
        str(Path(name).with_suffix(".config.json")),
    }


def die(*_):
    raise Killed


def test_killed_once_more_while_it_tidies_up(config, tmp_path, monkeypatch):
    """A run that continues first puts its rows into one file. Killed there, it has lost none of them."""
    with monkeypatch.context() as patch:
        killed_after(7, patch)
        with pytest.raises(Killed):
            generate.main(config())
    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_rows", die)
        with pytest.raises(Killed):
            generate.main(config())
    asked = []
    monkeypatch.setattr(
        generate,
        "decode",
        lambda m, t, f, requests, *more: (
            asked.append(len(requests)) or decode(m, t, f, requests, *more)
        ),
    )
    generate.main(config())
    assert asked == [8]


def test_kill_minus_nine(config, tmp_path):
    """The command, killed without warning once 5 of its 60 rows are on disk: the same command ends with the bytes of an
    undisturbed run, and keeps what it had."""
    data = write(tmp_path / "many.jsonl", tiny.problems("math", 20, 9, "dev"))
    flags = [
        "--data",
        data,
        "--n",
        3,
        "--temperature",
        1,
        "--max-tokens",
        40,
        "--slots",
        2,
        "--waits",
        1,
        "--wait",
        "wait",
    ]
    part = tmp_path / "out.jsonl.unfinished"
    process = subprocess.Popen(
        command(*flags, "--out", tmp_path / "out.jsonl"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and (not part.exists() or part.read_bytes().count(b"\n") < 5):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = part.read_bytes().split(b"\n")[:-1]
    assert 5 <= len(before) < 60 and not (tmp_path / "out.jsonl").exists()
    whole = settings.parse(generate.Config, command(*flags, "--out", tmp_path / "whole.jsonl")[2:])
    whole = dataclasses.replace(whole, slots=20)
    generate.main(whole)
    rows = generate.main(dataclasses.replace(whole, out=str(tmp_path / "out.jsonl")))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not part.exists() and all(json.loads(line) in rows for line in before)
