"""generate.py: the whole command, with its refusals and its resumption."""

import dataclasses
import functools
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from forcing import each_case
from tiny_runs import BASE, END, EOS, TOKENIZER, config_in, write
from transformers import AutoModelForCausalLM, Qwen3Config

import generate
from data import tiny
from engine import decoder, loading, settings
from engine import model as models
from engine.decoder import Request, Sampling, decode
from engine.format import FORMATS, Format, asked
from engine.rows import BadInput, read_rows
from engine.sampling import random_key


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path)


def test_main_writes_rows_in_the_order_of_the_problems(config, tmp_path):
    """15 rows: problem fields, sample number, and parts that fit together; settings and identity
    beside them."""
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


def test_main_refuses_before_it_removes(config, tmp_path):
    """--overwrite with a setting that cannot work: the rows of the earlier run are still there."""
    rows = generate.main(config())
    with pytest.raises(BadInput, match="leaves no room"):
        generate.main(config(thinking_budget=25, overwrite=True))
    assert read_rows(tmp_path / "out.jsonl") == rows


def test_main_skips_prompts_longer_than_the_context(config, tmp_path, capsys):
    """The context is 512 tokens: a question of 600 words is named and skipped; the others are
    written. One of 500 words (with <user>, <bot>, <think> 503 tokens) keeps room for 9 tokens,
    fewer than --max-tokens 26."""
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
        ("temperature", 1e-40),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1e-300),
        ("top_p", 1.01),
        ("max_tokens", 0),
        ("waits", -1),
        ("slots", 0),
        ("thinking_budget", -2),
    ],
)
def test_main_refuses_values_out_of_range(config, flag, bad):
    """Some of them would give logits that are not finite, for which the model was blamed."""
    with pytest.raises(BadInput, match=f"--{flag.replace('_', '-')} {bad}: out of range"):
        generate.main(config(**{flag: bad}))


@pytest.mark.parametrize(
    "more, message",
    [
        ({"thinking_budget": 25}, "--thinking-budget 25 leaves no room"),
        ({"waits": 1, "wait": "Wait"}, "--wait 'Wait' is not in this tokenizer's vocabulary"),
        ({"waits": 1, "format": "plain"}, "--format plain: it has no thinking of its own"),
        (
            {"thinking_budget": 3, "format": "plain"},
            "--format plain: it has no thinking of its own",
        ),
        ({"data": "missing.jsonl"}, "cannot be read"),
    ],
)
def test_main_refuses_what_cannot_be_meant(config, tmp_path, more, message):
    """One line each. A budget of 25 leaves no token for an answer: the forced end of thinking is
    one token here, and 25 + 1 is not less than --max-tokens 26; 24 + 1 is. What was refused has
    left nothing that the right command, with the same --out, could stumble over."""
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
    """The tiny tokenizer knows no <|im_start|>: it encodes s1's delimiter as <unk>, which is a
    special token too."""
    assert FORMATS["s1"].end_id(TOKENIZER) is None


def test_flags_reach_the_settings():
    cfg = settings.parse(
        generate.Config,
        "--model m --data d --out o --waits 2 --wait Hmm --thinking-budget 0".split(),
    )
    assert (cfg.waits, cfg.wait, cfg.thinking_budget, cfg.top_p) == (2, "Hmm", 0, 1.0)


# ---- The plain decoder

PLAIN_CASES = {
    "greedy": ({}, {}),
    "sampled": ({"temperature": 0.9}, {}),
    "top-k and top-p": ({"temperature": 1.2, "top_k": 9, "top_p": 0.8}, {}),
    "waits": ({"temperature": 0.9, "wait": "wait repeat"}, {"waits": 2}),
    "waits and a budget": ({"temperature": 0.9, "wait": "wait"}, {"waits": 2, "budget": 9}),
    "a budget of nothing": ({"temperature": 0.9}, {"budget": 0}),
    "a budget of each round": (
        {"temperature": 0.9, "wait": "wait", "budget_rule": "round"},
        {"waits": 2, "budget": 7},
    ),
    "a minimum": ({"temperature": 0.9, "wait": "wait"}, {"min_thinking": 15}),
    "no string": ({"temperature": 0.9, "wait": ""}, {"waits": 2}),
    "no string, greedy": ({"wait": "", "budget_rule": "round"}, {"waits": 1, "budget": 12}),
    "rejection": (
        {"temperature": 1.0, "over_budget": "reject", "max_tries": 3},
        {"budget": 14},
    ),
    "end of sequence inside thinking": ({"temperature": 2.5, "wait": "wait"}, {"waits": 1}),
    "and nothing forced": ({"temperature": 2.5}, {}),
}


@functools.cache
def small_model(name):
    """The shipped base model, or a random one with large weights whose texts differ at once."""
    if name == "tiny base":
        return loading.load(BASE)[0]
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=157,
        hidden_size=28,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        initializer_range=0.35,
        tie_word_embeddings=False,
        eos_token_id=EOS,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()
    with torch.no_grad():
        # All embeddings share a constant, which makes the ends likely.
        model.get_input_embeddings().weight[:, 0] = 1.5
        model.get_output_embeddings().weight[[EOS, END], 0] += 4
    return model


@pytest.mark.parametrize("case", PLAIN_CASES)
@pytest.mark.parametrize("name", ["tiny base", "random"])
def test_plain_gives_the_same_tokens(name, case):
    """The decoder of this page, one sequence after the other, against the batched one, 7 requests
    in 3 slots: every field of each completion, log-probabilities to 1e-4. Prompts of several
    lengths (one of a single token) and limits that cut some of the texts."""
    shared, own = PLAIN_CASES[case]
    model, form, sampling = small_model(name), FORMATS["think"], Sampling(**shared)
    questions = ["copy a b", "sort 7 3 5", "compare 4 9", "close ( [ {", "first of a b c"]
    prompts = [form.prompt_ids(TOKENIZER, question) for question in questions]
    prompts += [prompts[0], prompts[0][:1]]
    requests = [
        Request(prompt, random_key(3, i), 30 - i, **own) for i, prompt in enumerate(prompts)
    ]
    batched = dict(decode(model, TOKENIZER, form, requests, sampling, 3))
    plain = dict(generate.decode_plainly(model, TOKENIZER, form, requests, sampling))
    for i in range(len(requests)):
        assert plain[i]._replace(logp=None) == batched[i]._replace(logp=None)
        assert plain[i].logp == pytest.approx(batched[i].logp, abs=1e-4)


def test_plain_cases_cover_the_rules():
    """What the cases above compare does occur in them."""
    seen = set()
    for shared, own in PLAIN_CASES.values():
        form, sampling = FORMATS["think"], Sampling(**shared)
        prompts = [form.prompt_ids(TOKENIZER, text) for text in ("copy a b", "sort 7 3 5")]
        requests = [
            Request(prompt, random_key(3, i), 30, **own) for i, prompt in enumerate(prompts * 4)
        ]
        found = generate.decode_plainly(small_model("random"), TOKENIZER, form, requests, sampling)
        for _, c in found:
            seen |= {c.finish, f"waits {c.n_waits}", f"forced {c.forced}", f"tries {c.n_tries}"}
            if c.finish == "stop" and END not in c.ids:
                seen.add("end inside thinking")
    assert seen >= {"stop", "length", "waits 1", "waits 2", "forced True", "tries 2", "tries 3"}
    assert "end inside thinking" in seen


def test_plain_through_the_command(config, tmp_path):
    """--plain writes the same rows, also where a run continues without it."""
    more = {"waits": 1, "thinking_budget": 9, "temperature": 0.0}
    rows = generate.main(config(**more))
    cfg = config(plain=True, out=str(tmp_path / "plain.jsonl"), **more)
    assert generate.main(cfg) == rows
    assert generate.main(dataclasses.replace(cfg, plain=False)) == rows


@pytest.mark.parametrize(
    "more, name",
    [
        ({"stop": ("a",)}, "--stop"),
        ({"format": "s1-steps"}, "--format s1-steps"),
        ({"score": True}, "--score"),
        ({"interactive": True}, "--interactive"),
        ({"tp": 2}, "--tp"),
    ],
)
def test_plain_refuses_what_it_does_not_serve(config, monkeypatch, more, name):
    monkeypatch.setattr(loading, "load", None)
    with pytest.raises(BadInput, match=f"^--plain .* not with {name}$"):
        generate.main(config(plain=True, **more))


# ---- Settings of a row


def test_a_row_has_settings_of_its_own(config, tmp_path):
    """max_tokens, waits and thinking_budget of a row precede the flags: row by row the text of a
    run in which the flag says the same, and the others have the flags' (--waits 1, budget 12)."""
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
    """As for the flags: a wait string outside the vocabulary, a format without an end of thinking.
    The right command with the same --out then finds nothing to stumble over."""
    rows = read_rows(config().data)
    cfg = config(data=write(tmp_path / "own.jsonl", [rows[0], rows[1] | own]), **more)
    with pytest.raises(BadInput, match="--wait 'Wait'|no thinking of its own"):
        generate.main(cfg)
    assert {f.name for f in tmp_path.iterdir()} == {"problems.jsonl", "own.jsonl"}


def test_a_killed_run_of_rows_with_settings_of_their_own(config, tmp_path, monkeypatch):
    """Only the last row waits. Killed when that row is done, the run continues with rows that are
    free; their text (some stop inside their thinking, asserted) must not depend on it: same bytes
    as a run that nobody disturbed."""
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


# ---- Budgets

# its forced end is six tokens
SIX = Format("six", open="<think> wait", end="</think>", cue=" a b c d e")


@pytest.mark.parametrize("context", [32768, 40960])
def test_auto_budget(config, tmp_path, monkeypatch, context):
    """Max_tokens 32768, a prompt of 300 ids and 2 that start thinking, 6 ids of a forced end:
    32768 - 300 - 2 - 6 - 100 = 32360, in a context that is no longer and in one that is."""
    model, tokenizer = loading.load(BASE)
    monkeypatch.setattr(models, "context_length", lambda model: context)
    problem = {"id": "1", "question": "copy " + "a " * 296 + "b"}
    cfg = config(thinking_budget=-1, max_tokens=32768)
    (request, *_), _, skipped = generate.make_requests(cfg, [problem], model, tokenizer, SIX)
    assert len(request.prompt) == 302 and not skipped
    assert request.budget == 32360


def test_auto_budget_of_s1(config, monkeypatch):
    """The same for s1's own delimiters: the line break that may come before <|im_start|>answer is
    not among the six ids of the plain delimiters."""
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
        get_chat_template=lambda: "x",
        bos_token=None,
        bos_token_id=None,
        eos_token="",
        eos_token_id=0,
        unk_token_id=None,
        all_special_ids=[1],
        added_tokens_decoder={},
        __len__=lambda: 9,
        apply_chat_template=lambda messages, **_: messages[0]["content"],
        batch_decode=lambda ids: [{i: p for p, i in pieces.items()}.get(i, "") for (i,) in ids],
    )
    tokenizer = type(
        "Stub", (SimpleNamespace,), {"__len__": lambda self: 9, "__hash__": object.__hash__}
    )(**vars(tokenizer))
    monkeypatch.setattr(models, "context_length", lambda model: 32768)
    cfg = config(thinking_budget=-1, max_tokens=32768, format="s1", n=1)
    (request,), _, _ = generate.make_requests(
        cfg, [{"id": "1", "question": "q" * 300}], loading.load(BASE)[0], tokenizer, FORMATS["s1"]
    )
    assert len(request.prompt) == 302 and request.budget == 32360


def test_auto_budget_leaves_a_hundred_tokens_for_the_answer(config, tmp_path, monkeypatch):
    """Each prompt has its own: in a context of 512, questions of 1 and of 301 words, --max-tokens
    600. The forced end is one token (</think>; a line break is no token of the tiny tokenizer)."""
    problems = [{"id": "a", "question": "copy a"}, {"id": "b", "question": "copy " + "a " * 300}]
    asked = []
    monkeypatch.setattr(
        generate, "decode", lambda m, t, f, requests, *more: asked.extend(requests) or iter(())
    )
    data = write(tmp_path / "p.jsonl", problems)
    with pytest.raises(BadInput, match="2 of 2 rows are missing"):
        generate.main(config(data=data, thinking_budget=-1, max_tokens=600, n=1))
    lengths = [len(r.prompt) for r in asked]
    assert (
        lengths == [5, 304]
        and asked[1].budget == 512 - 304 - 1 - 100
        and asked[1].max_tokens == 512 - 304
    )


def test_auto_budget_under_the_harness_rule(config, tmp_path):
    """s1's own evaluation (commands.sh): the automatic budget, for each round between two waits.
    The rows are served; they may be cut by the context, but none is skipped as if its prompt did
    not fit."""
    rows = generate.main(
        config(thinking_budget=-1, waits=2, budget_rule="round", max_tokens=300, n=1)
    )
    assert len(rows) == 5 and max(row["n_waits"] for row in rows) == 2


def test_auto_budget_skips_a_prompt_without_room(config, tmp_path, capsys):
    """--thinking-budget -1 and a prompt that leaves 60 tokens of the context, or none: that row is
    named and skipped, as it is under every other budget; the other rows are served."""
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
    """--budget-rule round with --min-thinking: each Wait that the minimum asks for begins a new
    round. A budget that is accepted must leave an answer: no row may be cut inside its thinking."""
    try:
        rows = generate.main(
            config(min_thinking=12, thinking_budget=12, budget_rule="round", max_tokens=15, n=12)
        )
    except BadInput as error:
        assert "leaves no room" in str(error)
    else:
        assert not [r for r in rows if "</think>" not in r["text"]]


def test_rejection_through_the_command(config, tmp_path):
    """--over-budget reject: rows tell how many tries they took; what is accepted ended its thinking
    by itself within the budget, delimiter included; what is not is called rejected and has no
    answer."""
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


# ---- What the model is told, where it stops


@pytest.mark.parametrize(
    "how, told",
    [
        ("tokens:48", "\n\nThink for up to 48 tokens."),
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
            "l1:12",
            " Let's think step by step and output the final answer within \\boxed{}. Think for 12 tokens.",
        ),
        (
            "l1-max:12",
            " Let's think step by step and output the final answer within \\boxed{}. Think for maximum 12 "
            "tokens.",
        ),
    ],
)
def test_ask(config, monkeypatch, how, told):
    """What --ask adds to the question, word for word, reaches the chat template; the row keeps its
    own question."""
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


def test_a_length_that_the_model_was_not_told(config, tmp_path, capsys):
    """--ask first:N begins the question. A number without a word is refused; one outside --budgets
    of the training is said."""
    rows = generate.main(config(ask="first:12", n=1, max_tokens=3))
    assert {tuple(row["asks"]) for row in rows} == {("first:12",)}
    assert asked(rows[0]) == "12 " + rows[0]["question"]
    with pytest.raises(
        BadInput, match="row '.*': --ask first:51: the tokenizer has no word for 51"
    ):
        generate.main(config(ask="first:51", overwrite=True))
    told = shutil.copytree(BASE, tmp_path / "told")
    (told / "training.json").write_text('{"budgets": [10, 40], "identity": {}}')
    for number, is_said in ((40, False), (41, True), (9, True)):
        cfg = config(model=str(told), ask=f"first:{number}", n=1, max_tokens=3, overwrite=True)
        capsys.readouterr()
        generate.main(cfg)
        said = f"first:{number}: the model was trained with budgets of 10 to 40 tokens"
        assert (said in capsys.readouterr().out) == is_said


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
        BadInput,
        match=f"^--ask {how}: not one of number, answer, choice, box, letter, tokens:N, steps:N, long, short, l1:N, l1-max:N, first:N$",
    ):
        generate.main(config(ask=how))


def test_stop_through_the_command(config, tmp_path):
    """--stop, as typed: a row tells what ended it, its text ends before that, ids and logp keep it.
    Every row is the beginning of the row without it."""
    flags = "--format think --n 3 --temperature 1 --max-tokens 26 --slots 4 --logp".split()
    paths = ["--model", BASE, "--data", config().data, "--out", str(tmp_path / "stop.jsonl")]
    cfg = settings.parse(generate.Config, [*paths, *flags, "--stop", "5 ", "= 1"])
    assert cfg.stop == ("5 ", "= 1")
    plain = generate.main(config(logp=True))
    rows = generate.main(cfg)
    seen = set()
    for row, whole in zip(rows, plain):
        n = row["n_tokens"]
        assert row["ids"] == whole["ids"][:n]
        assert row["logp"] == pytest.approx(whole["logp"][:n], abs=1e-4)
        seen.add(row["stop"])
        text = TOKENIZER.decode(row["ids"])
        if row["stop"] is None:
            assert row["finish"] == "length" and row["text"] == whole["text"]
        elif row["stop"] == "<eos>":
            assert row["finish"] == "stop" and row["ids"][-1] == EOS
            assert row["text"] == TOKENIZER.decode(row["ids"][:-1])
        else:
            assert row["finish"] == "stop" and text.startswith(row["text"] + row["stop"])
        assert not any(string in row["text"] for string in cfg.stop)
    assert seen >= {"5 ", "= 1"}


# ---- Flags that do not go together


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
        ({"out": ""}, "--out: where to write is needed"),
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
    """A number or a list for a question, half a surrogate pair (JSON can hold one), a list for an
    id: the row or its line is told in one line, not in a traceback from inside the tokenizer."""
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
    """A blank as --wait would be encoded as nothing. A tokenizer without a chat template has no
    prompt for a question; --format r1 needs none."""
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
    """Its first three tokens are written with finish "nan", stderr says which row it was, the
    others are served."""
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


@each_case
def test_force_budget_by_hand(case):
    """budget 8, 7 tokens of thinking, the model wants to end: "Wait" would be the 8th and nothing
    could follow, so it may end; at 6 it has to wait; at 8 the answer is forced.
    """
    thought = generate.Thought(case.is_open, False, False, case.n_tokens, case.n_round)
    thought.n_waits = case.n_waits
    request = Request([5], 0, 99, case.waits, case.budget, case.min_thinking)
    sampling = Sampling(budget_rule=case.rule)
    before = dataclasses.astuple(thought)
    found = generate.force_budget(thought, case.wants_end, request, sampling, case.n_wait)
    assert found == case.decision
    assert dataclasses.astuple(thought) == before  # it decides, and changes nothing
