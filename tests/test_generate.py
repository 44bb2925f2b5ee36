"""generate.py: the whole command, with its refusals and its resumption."""
import json
from pathlib import Path

import pytest

import generate
import model as models
from data import run, tiny
from data.format import FORMATS
from data.rows import BadInput, read_rows
from decoder import decode

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
        return generate.Config(**{"model": BASE, "data": data, "out": str(tmp_path / "out.jsonl"), "format": "think",
                                  "n": 3, "temperature": 1.0, "max_tokens": 26, "wait": "wait", "slots": 4, **more})
    return make


def test_main_writes_rows_in_the_order_of_the_problems(config, tmp_path):
    """15 rows: problem fields, sample number, and parts that fit together; settings and identity beside them."""
    cfg = config(waits=1, logp=True)
    rows = generate.main(cfg)
    problems = read_rows(cfg.data)
    assert rows == read_rows(cfg.out)
    assert [(r["id"], r["sample"]) for r in rows] == [(p["id"], n) for p in problems for n in range(3)]
    assert len({tuple(r["ids"]) for r in rows}) > 10                     # samples differ
    tokenizer = models.load(BASE)[1]
    for row in rows:
        assert row["question"] == next(p["question"] for p in problems if p["id"] == row["id"])
        assert row["n_tokens"] == len(row["ids"]) == len(row["logp"]) <= 26
        assert row["finish"] == ("stop" if row["ids"][-1] == EOS else "length")
        assert row["text"].split() == tokenizer.convert_ids_to_tokens([i for i in row["ids"] if i != EOS])
        assert all(row["logp"][i] == 0 for i in row["injected"])
        assert len(row["injected"]) == row["n_waits"] + (0 if "</think>" not in row["text"] else
                                                         row["ids"].index(END) in row["injected"])
        before, found, after = row["text"].partition("</think>")
        assert row["thinking"] == before.strip() and row["response"] == after.strip()
        assert row["n_thinking_tokens"] == len(row["thinking"].split())
    header = json.loads((tmp_path / "out.config.json").read_text())
    assert header["temperature"] == 1.0 and header["identity"]["seed"] == 0 and header["skipped_prompts"] == 0
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
    rows = [row | {"group": "odd" if i % 2 else "even"} for i, row in enumerate(read_rows(config().data))]
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
    monkeypatch.setattr(generate, "decode", lambda m, t, f, requests, *more: asked.append(len(requests)) or
                        decode(m, t, f, requests, *more))
    generate.main(config(slots=3))
    assert asked == [9]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_main_of_a_complete_run_does_nothing(config, tmp_path, monkeypatch, capsys):
    first = generate.main(config())
    before = [(f.name, f.stat().st_mtime_ns) for f in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(models, "load", None)                            # would fail if called
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
    problems = [{"id": "short", "question": "copy a b"}, {"id": "endless", "question": "copy " + "a " * 599},
                {"id": "long", "question": "copy " + "a " * 499}]
    rows = generate.main(config(data=write(tmp_path / "long.jsonl", problems), n=2))
    assert [(r["id"], r["sample"]) for r in rows] == [("short", 0), ("short", 1), ("long", 0), ("long", 1)]
    assert all(r["n_tokens"] <= 9 for r in rows if r["id"] == "long")
    printed = capsys.readouterr().out
    assert "skipped" in printed and "'endless'" in printed and "1 prompts skipped" in printed
    assert json.loads((tmp_path / "out.config.json").read_text())["skipped_prompts"] == 1
    with pytest.raises(BadInput, match="no prompt fits"):
        generate.main(config(data=write(tmp_path / "none.jsonl", problems[1:2]), out=str(tmp_path / "none-out.jsonl")))


@pytest.mark.parametrize("flag, bad", [("n", 0), ("temperature", -0.1), ("top_p", 0.0), ("top_p", 1.01),
                                       ("max_tokens", 0), ("waits", -1), ("slots", 0), ("thinking_budget", -2)])
def test_main_refuses_values_out_of_range(config, flag, bad):
    with pytest.raises(BadInput, match=f"--{flag.replace('_', '-')} {bad}: out of range"):
        generate.main(config(**{flag: bad}))


@pytest.mark.parametrize("more, message", [
    ({"thinking_budget": 25}, "--thinking-budget 25 leaves no room"),
    ({"waits": 1, "wait": "Wait"}, "--wait 'Wait' is not in this tokenizer's vocabulary"),
    ({"waits": 1, "format": "plain"}, "no single token that ends thinking"),
    ({"thinking_budget": 3, "format": "plain"}, "no single token that ends thinking"),
    ({"data": "missing.jsonl"}, "cannot be read"),
])
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
    cfg = run.parse(generate.Config, "--model m --data d --out o --waits 2 --wait Hmm --thinking-budget 0".split())
    assert (cfg.waits, cfg.wait, cfg.thinking_budget, cfg.top_p) == (2, "Hmm", 0, 1.0)
