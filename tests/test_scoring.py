"""engine/scoring.py: likelihoods of given completions, against transformers' own forward pass."""

import functools
import itertools
import re

import pytest
import torch
from tiny_runs import BASE, TOKENIZER, config_in, write
from transformers import AutoModelForCausalLM

import generate
from engine import scoring
from engine.rows import BadInput, read_rows


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path)


@functools.cache
def theirs():
    return AutoModelForCausalLM.from_pretrained(BASE, attn_implementation="eager").eval()


def by_transformers(prompt, completion, temperature=1.0):
    """(logp, entropy, rank) of each token of a completion, from transformers' own forward and from
    the definitions."""
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
    """The rows of a run, ids and all: log-probabilities, entropies and ranks of transformers' own
    forward pass at that temperature (0: at 1), the row's fields kept. Where the model drew freely,
    the run's own logp is that number."""
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
    """A row with thinking and response is scored as training reads it: <think> a b </think> a b
    <eos>, seven tokens. A row of the base model's own style is likelier than one with the answer of
    another question."""
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
    """Multiple choice by likelihood: the sum over each choice's tokens, in the order of the
    choices, however the texts are gathered for the model (all at once, some 40 tokens, some 20);
    the likeliest is the response, as a letter where the answer is one."""
    monkeypatch.setattr(scoring, "PREFILL", room)
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
    """27 choices and a letter as the answer: the likeliest, which has no letter, or a line that
    names the row."""
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
    """A row without a sample number is sample 0: beside another sample 0 of its id it is refused,
    and not written in the other's place."""
    rows = [
        {"id": "1", "question": "copy a", "response": "a"},
        {"id": "1", "sample": 0, "question": "copy b", "response": "b"},
    ]
    with pytest.raises(BadInput, match="two rows have the id '1'"):
        generate.main(config(data=write(tmp_path / "twice.jsonl", rows), score=True))


def test_score_asks_what_the_run_asked(config, tmp_path):
    """A run with --ask, scored with the same --ask: the model reads the same prompt, so the numbers
    are the run's."""
    source = config(ask="tokens:9", logp=True, n=1)
    sampled = generate.main(source)
    rows = generate.main(
        config(data=source.out, out=str(tmp_path / "scored.jsonl"), score=True, ask="tokens:9")
    )
    for row, before in zip(rows, sampled):
        assert row["logp"] == pytest.approx(before["logp"], abs=2e-5)


def test_score_resumes_with_the_same_file(config, tmp_path, monkeypatch):
    """Ended behind its fourth row: the same command scores what is missing, and the file is that of
    a whole run."""
    source = config(n=2)
    generate.main(source)
    cfg = config(data=source.out, out=str(tmp_path / "scored.jsonl"), score=True)
    generate.main(config(data=source.out, out=str(tmp_path / "whole.jsonl"), score=True))
    original, asked = scoring.score_rows, []
    with monkeypatch.context() as patch:
        patch.setattr(
            scoring,
            "score_rows",
            lambda *given: itertools.chain(
                itertools.islice(original(*given), 4), (1 / 0 for _ in "x")
            ),
        )
        with pytest.raises(ZeroDivisionError):
            generate.main(cfg)
    assert len(read_rows(cfg.out + ".unfinished")) == 4
    monkeypatch.setattr(
        scoring,
        "score_rows",
        lambda rows, *given: asked.append(len(rows)) or original(rows, *given),
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


@pytest.mark.parametrize(
    "more",
    [
        {"response": 5},
        {"response": ["a"]},
        {"response": "half \ud800"},
        {"response": "a", "thinking": {"x": 1}},
        {"choices": ["a", "half \ud800"]},
    ],
)
def test_score_of_what_is_no_text_is_refused(config, tmp_path, more):
    row = {"id": "r", "question": "a ?", **more}
    with pytest.raises(BadInput, match="row 'r'.* not a ") as caught:
        generate.main(config(data=write(tmp_path / "bad.jsonl", [row]), score=True))
    assert "\n" not in str(caught.value)
