"""data/: rows and their errors, runs (flags, identity, log), the text of a reasoning model, the tiny world."""

import dataclasses
import importlib
import inspect
import itertools
import json
import math
import os
import random
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoTokenizer

import sft
from data import tiny
from engine import loading, packing, runlog, settings
from engine import model as models
from engine.format import FORMATS
from engine.rows import BadInput, read_rows, write_rows

ROOT = Path(__file__).resolve().parent.parent
QWEN = ROOT.parent / "shared" / "data" / "tokenizers" / "qwen2.5"


# ---- rows

ROWS = [
    {"id": "a", "question": "1 + 1 ?", "answer": "2"},
    {"id": "b", "question": "ü → \u2028 ∑", "extra": [1, None]},
]


def test_rows_come_back_as_they_went(tmp_path):
    """Unknown keys, nested values and non-ASCII survive; one line per row, readable by people (no \\u escapes)."""
    path = tmp_path / "new" / "rows.jsonl"
    write_rows(path, iter(ROWS))
    assert read_rows(path) == read_rows(str(path)) == ROWS
    text = path.read_bytes().decode("utf-8")
    assert text.count("\n") == 2 and "ü → \u2028 ∑" in text
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_line_separators_inside_a_string_end_no_line(tmp_path):
    """U+2028, U+0085 and form feed end a line for str.splitlines, not in JSONL; Windows line ends are fine too."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "a\u2028b\u0085c"}\r\n{"question": "d"}\r\n'.encode())
    assert [row["question"] for row in read_rows(path)] == ["a\u2028b\u0085c", "d"]


def test_a_directory_is_read_in_name_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "10.jsonl"):
        write_rows(tmp_path / name, [{"id": name}])
    (tmp_path / "notes.txt").write_text("not a row")
    assert [row["id"] for row in read_rows(tmp_path)] == ["10.jsonl", "a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    "content, where, what",
    [
        (b'{"question": 1}\n{"question": \n', 2, "not a JSON object"),
        (b'{"question": 1}\n\n{"question": 1}\n', 2, "empty line"),
        (b'{"question": 1}\n  \n', 2, "empty line"),
        (b"", 1, "empty line"),
        (b'{"question": 1}\n{"id": 3}\n', 2, "no field 'question'"),
        (b'{"question": null}\n', 1, "no field 'question'"),
        (b'{"question": 1}\n{"question": "\xff"}\n', 2, "UnicodeDecodeError"),
        (b'{"question": 1}\n["question"]\n', 2, "not a JSON object but list"),
        (b'"question"\n', 1, "not a JSON object but str"),
        (b'{"question": 1} {"question": 2}\n', 1, "not a JSON object"),
        (b'{"question": ' + 100_000 * b"[" + b"\n", 1, "not a JSON object"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, content, where, what):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_rows(path, need=("question",))
    assert str(caught.value).startswith(f"{path}:{where}: ") and what in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_missing_files_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.jsonl: cannot be read \(No such file"):
        read_rows(tmp_path / "gone.jsonl")
    with pytest.raises(BadInput, match="no .jsonl file in this directory"):
        read_rows(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """The third row cannot be made: the file holds the two old rows, not the first two new ones."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)

    def new_rows():
        yield from ({"id": 1}, {"id": 2})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, new_rows())
    assert read_rows(path) == ROWS
    write_rows(path, [{"id": 3}])
    assert read_rows(path) == [{"id": 3}] and [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


# ---- run: flags


@dataclass(frozen=True)
class Flags:
    files: tuple[str, ...] = field(default=(), metadata={"positional": True})  # what to read
    n_rows: int = 5  # how many, 100% of them
    rate: float = 0.25  # a share
    limit: float | None = None  # no limit if not given
    kind: Literal["fast", "slow"] = "fast"  # which way
    power: Literal[2, 3] = 2  # an exponent
    k: tuple[int, ...] = (1, 8)  # several
    deep: bool = False  # yes or no
    wide: bool = True  # yes or no


@dataclass(frozen=True)
class Required:
    out: str  # where to
    seed: int = 0  # of the draws


def test_flags_become_a_config():
    """Each annotation gives its type; a tuple flag replaces the default, takes several values and may be repeated."""
    assert settings.parse(Flags, []) == Flags()
    given = settings.parse(
        Flags,
        "a b --n-rows 7 --rate=-1e-3 --limit 2 --kind slow --power 3 --k 4 --k 2 16 --deep "
        "--no-wide".split(),
    )
    assert given == Flags(("a", "b"), 7, -0.001, 2.0, "slow", 3, (4, 2, 16), True, False)
    assert type(given.limit) is float and type(given.k) is tuple and type(given.files) is tuple
    assert settings.parse(Required, ["--out", "x"]) == Required("x", 0)


@pytest.mark.parametrize(
    "config, arguments, named",
    [
        (Flags, "--n-row 7", "--n-row"),  # no abbreviations either
        (Flags, "--learning-rate 7", "--learning-rate"),
        (Flags, "--n-rows 1e3", "--n-rows"),
        (Flags, "--n-rows many", "--n-rows"),
        (Flags, "--rate x", "--rate"),
        (Flags, "--kind quick", "--kind"),
        (Flags, "--power 4", "--power"),
        (Flags, "--k 1 two", "--k"),
        (Flags, "--deep yes --n-rows", "--n-rows"),
        (Required, "--seed 1", "--out"),
        (Required, "x --out y", "x"),
    ],
)
def test_wrong_flags_are_refused_by_name(capsys, config, arguments, named):
    with pytest.raises(SystemExit) as caught:
        settings.parse(config, arguments.split())
    assert caught.value.code == 2 and re.search(
        rf"{named}\b", capsys.readouterr().err.splitlines()[-1]
    )


def test_a_wrong_flag_costs_one_line(capsys):
    """What parse's docstring says; the list of all flags is what --help is for."""
    with pytest.raises(SystemExit):
        settings.parse(Flags, ["--learning-rate", "7"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_shows_docstring_comments_and_defaults(capsys):
    """--help of the class above: module docstring, each comment (a % in it does not break argparse), each default."""
    with pytest.raises(SystemExit) as caught:
        settings.parse(Flags, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and " ".join(__doc__.split()) in shown
    for text in (
        "what to read",
        "how many, 100% of them (default: 5)",
        "a share (default: 0.25)",
        "no limit if not given --",
        "which way (default: fast)",
        "several (default: 1 8)",
    ):
        assert text in shown, text


SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("data/*.py"))
    if re.search(r"^class Config:", path.read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_of_every_script_has_its_comment(name, capsys):
    """For each setting the comment on its line appears in --help behind its flag; none is without."""
    script = importlib.import_module(name)
    with pytest.raises(SystemExit):
        settings.parse(script.Config, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    source = inspect.getsource(script.Config)
    lines = {m[1]: m[0] for m in re.finditer(r"^    (\w+):.*$", source, re.MULTILINE)}
    for setting in dataclasses.fields(script.Config):
        comment = " ".join(lines[setting.name].partition("  # ")[2].split())
        assert comment, f"{name}.Config.{setting.name} has no comment"
        assert comment in shown, f"{name}.Config.{setting.name}: its comment is not in --help"


def test_scripts_were_found():
    assert {"sft", "grpo", "generate", "curate", "evaluate", "data.tiny"} <= set(SCRIPTS)


def test_bad_input_ends_in_one_line(monkeypatch, capsys):
    """cli: BadInput becomes `script: message` and a status that is not 0; other errors stay what they are."""
    monkeypatch.setattr("sys.argv", ["/some/where/script.py", "--out", "x"])

    def refuse(config):
        raise BadInput(f"rows.jsonl:3: no good for {config.out}")

    with pytest.raises(SystemExit) as caught:
        settings.cli(refuse, Required)
    # sys.exit(str): status 1, str on stderr
    assert caught.value.code == "script.py: rows.jsonl:3: no good for x"

    def bug(config):
        raise ValueError("a mistake of ours keeps its traceback")

    with pytest.raises(ValueError):
        settings.cli(bug, Required)


# ---- run: identity


def test_identity_and_difference(tmp_path):
    """Settings named in `without` do not count, contents of inputs do; JSON (tuples become lists) changes nothing."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("1\n")
    one = runlog.identity(Flags(k=(4,)), ("rate",), data=rows, model=None)
    assert json.loads(json.dumps(one)) == one and "rate" not in one and one["k"] == [4]
    assert one == runlog.identity(Flags(k=(4,), rate=9.0), ("rate",), data=rows, model=None)
    assert runlog.difference(one, one) == ""
    two = runlog.identity(Flags(k=(4,), n_rows=6), ("rate",), data=rows, model=None)
    assert runlog.difference(one, two) == "n_rows: 6 there, 5 here"
    rows.write_text("2\n")
    three = runlog.identity(Flags(k=(4,)), ("rate",), data=rows, model=None)
    assert runlog.difference(one, three).startswith("contents of --data: ")
    assert runlog.difference({"a": 1}, {}) == "a: None there, 1 here"


def test_fingerprint_sees_every_file(tmp_path):
    """A changed byte, a new file and a new name each change it; reading again and a deeper directory do not."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    seen = [runlog.fingerprint(tmp_path)]
    assert re.fullmatch("[0-9a-f]{16}", seen[0]) and runlog.fingerprint(tmp_path) == seen[0]
    for change in (
        lambda: (tmp_path / "a").write_text("3"),
        lambda: (tmp_path / "c").write_text(""),
        lambda: (tmp_path / "c").rename(tmp_path / "d"),
    ):
        change()
        seen.append(runlog.fingerprint(tmp_path))
    assert len(set(seen)) == 4
    (tmp_path / "deeper").mkdir()
    assert runlog.fingerprint(tmp_path) == seen[-1]
    assert runlog.fingerprint("Qwen/Qwen2.5-0.5B") != runlog.fingerprint("Qwen/Qwen2.5-1.5B")


def test_save_config(tmp_path):
    runlog.save_config(Required("ü", 3), tmp_path / "new" / "training.json", n_steps=7)
    assert json.loads((tmp_path / "new" / "training.json").read_text()) == {
        "out": "ü",
        "seed": 3,
        "n_steps": 7,
    }
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["training.json"]


# ---- run: log


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_log_resumes_without_gap_or_repeat(tmp_path):
    """Five lines and a sixth cut by a kill; continuing after step 3 keeps 1 2 3 and goes on with 4."""
    path = tmp_path / "run" / "log.jsonl"
    log = runlog.Log(path, every=0)
    for step in range(1, 6):
        log(step, loss=1 / step)
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')
    log = runlog.Log(path, last_step=3, every=0)
    assert steps_of(path) == [1, 2, 3]
    log(4, loss=0.5)
    assert steps_of(path) == [1, 2, 3, 4]
    assert json.loads(path.read_text().splitlines()[2]) == {"step": 3, "loss": 1 / 3}


def test_log_keeps_a_whole_last_line_and_drops_a_half_one(tmp_path):
    """Resuming after step 6 itself: a line 6 without its newline may be half of `66`, so it does not count."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 5}\n{"step": 6}')
    runlog.Log(path, last_step=6, every=0)
    assert steps_of(path) == [5] and path.read_text().endswith("\n")


def test_a_new_run_begins_a_new_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n')
    runlog.Log(path, every=0)
    assert path.read_text() == ""


def test_log_prints_what_was_asked_for(tmp_path, capsys):
    """Every third of 8 steps and the last, 3 6 8, and two values. The file has all, at once (another process may be
    reading)."""
    log = runlog.Log(tmp_path / "log.jsonl", total=8, every=3, shown=("loss", "n"))
    for step in range(1, 9):
        log(step, loss=0.123456, n=step, flops=5)
        assert '"flops": 5' in (tmp_path / "log.jsonl").read_text().splitlines()[-1]
        assert steps_of(tmp_path / "log.jsonl") == list(range(1, step + 1))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["3/8", "6/8", "8/8"]
    assert printed[0].split() == ["step", "3/8", "loss", "0.1235", "n", "3"]


# ---- the text of a reasoning model


@pytest.fixture(scope="module")
def qwen():
    if not QWEN.exists():
        pytest.skip(f"{QWEN} is not there")
    return AutoTokenizer.from_pretrained(QWEN)


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


TRACE = {
    "question": "How many r in raspberry?",
    "thinking": "\n Let me count.\n\nr, r, r: 3. ",
    "response": "It is 3.\n",
}
CHAT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
TRACES = [
    (TRACE, "Let me count.\n\nr, r, r: 3.", "Answer: It is 3."),
    # "Answer:" anywhere in the response keeps it as it is
    ({**TRACE, "response": "So\nAnswer: 3"}, "Let me count.\n\nr, r, r: 3.", "So\nAnswer: 3"),
    ({**TRACE, "response": "answer: 3"}, "Let me count.\n\nr, r, r: 3.", "Answer: answer: 3"),
    (
        {
            "question": "x²+1=0?\n\tü",
            "thinking": "{i}^2 = -1 ;\u2028 ok\t",
            "response": "$\\boxed{\\pm i}$",
        },
        "{i}^2 = -1 ;\u2028 ok",
        "Answer: $\\boxed{\\pm i}$",
    ),
    ({"question": "None?", "thinking": None, "response": "3"}, "", "Answer: 3"),
]


@pytest.mark.parametrize("row, thinking, response", TRACES)
def test_s1_text_is_that_of_its_paper(qwen, row, thinking, response):
    """s1's tokenization.py, up to the newline behind <|im_end|> (nothing reads it): the chat prompt with Qwen's default
    system text, the two delimiters made of an existing special token and a word, both parts stripped, `Answer: ` in
    front of a response that lacks it. The pieces' ids are those of the whole string."""
    ids, trained = FORMATS["s1"].training_ids(qwen, row)
    text = (
        CHAT.replace("{question}", row["question"])
        + f"<|im_start|>think\n{thinking}\n<|im_start|>answer\n{response}<|im_end|>"
    )
    assert qwen.decode(ids) == text
    assert ids == qwen.encode(text, add_special_tokens=False)
    assert len(qwen) == 151665 and max(ids) < 151665  # no new token
    prompt = CHAT.replace("{question}", row["question"])
    n = len(qwen.encode(prompt, add_special_tokens=False))
    assert qwen.decode(ids[:n]) == prompt and trained == [False] * n + [True] * (len(ids) - n)
    assert ids[-1] == qwen.convert_tokens_to_ids("<|im_end|>") == qwen.eos_token_id and trained[-1]


def test_s1_on_long_real_traces(qwen):
    """The same on ten distilled traces, the longest of some thousand tokens; the mask switches once."""
    path = ROOT.parent / "shared" / "data" / "traces" / "distill_samples_10.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    n_tokens = []
    for row in read_rows(path, need=("question", "thinking", "response")):
        ids, trained = FORMATS["s1"].training_ids(qwen, row)
        assert ids == qwen.encode(qwen.decode(ids), add_special_tokens=False)
        assert trained == sorted(trained) and 0 < sum(trained) < len(ids)
        n_tokens.append(len(ids))
    assert len(n_tokens) == 10 and max(n_tokens) > 1000


def test_s1_forced_answer_by_hand(qwen):
    """Test vector T13: four thinking tokens, then the budget is out: prompt, <|im_start|>think, the four, newline,
    <|im_start|>answer, newline, Final Answer:. What the decoder writes are `after`, `end` and `cue`."""
    s1 = FORMATS["s1"]
    assert (
        s1.open + "abcd" + s1.after + s1.end + s1.cue
        == "<|im_start|>thinkabcd\n<|im_start|>answer\nFinal Answer:"
    )
    assert s1.end_id(qwen) == qwen.convert_tokens_to_ids("<|im_start|>")


def test_think_text(words):
    """One token per word: <user> q <bot> | <think> t </think> r <eos>; trained from <think> to <eos>."""
    row = {
        "question": "make 20 from 7 5 8",
        "thinking": " try 7 + 8 high ",
        "response": "7 + 5 + 8",
    }
    ids, trained = FORMATS["think"].training_ids(words, row)
    text = "<user> make 20 from 7 5 8 <bot> <think> try 7 + 8 high </think> 7 + 5 + 8 <eos>".split()
    assert words.convert_ids_to_tokens(ids) == text
    assert trained == [False] * 8 + [True] * 13 and text[8] == "<think>"
    assert FORMATS["think"].end_id(words) == words.convert_tokens_to_ids("</think>")


def test_r1_text(qwen):
    """DeepSeek-R1-Zero's template, no chat template; the completion begins at <think> and ends after </answer>. A
    question that holds braces or the placeholder itself is inserted once and as it is."""
    row = {"question": "What is {question} or {x}?", "thinking": " so 2 ", "response": "4 "}
    ids, trained = FORMATS["r1"].training_ids(qwen, row)
    text = qwen.decode(ids)
    start = text.index("User: ")
    assert text[start:] == (
        "User: What is {question} or {x}?. Assistant: <think> so 2 </think> <answer> 4 </answer>"
        "<|im_end|>"
    )
    assert text[:start].endswith(
        "<think> reasoning process here </think> <answer> answer here </answer>. "
    )
    n = trained.index(True)
    assert qwen.decode(ids[:n]).endswith("Assistant:") and qwen.decode(ids[n:]).startswith(
        " <think> so 2"
    )
    assert all(trained[n:])


def test_plain_text(qwen):
    """Chat template and response; a trace, if there is one, stands before the response."""
    ids, trained = FORMATS["plain"].training_ids(qwen, {"question": "q", "response": " r "})
    assert qwen.decode(ids) == CHAT.replace("{question}", "q") + "r<|im_end|>"
    assert qwen.decode(ids[trained.index(True) :]) == "r<|im_end|>"
    ids, _ = FORMATS["plain"].training_ids(
        qwen, {"question": "q", "thinking": "t", "response": "r"}
    )
    assert qwen.decode(ids).endswith("assistant\nt\n\nr<|im_end|>")


@pytest.mark.parametrize("name", FORMATS)
def test_the_decoder_starts_where_training_did(qwen, name):
    """prompt_ids are the first ids of training_ids, `open` included: same ids in training and in use."""
    prompt, (ids, _) = (
        FORMATS[name].prompt_ids(qwen, TRACE["question"]),
        FORMATS[name].training_ids(qwen, TRACE),
    )
    assert ids[: len(prompt)] == prompt and qwen.decode(prompt).endswith(FORMATS[name].open)


def test_training_ids_leave_the_row_alone(words):
    row = dict(TRACE)
    for form in FORMATS.values():
        form.training_ids(words, row)
    assert row == TRACE


@pytest.mark.parametrize(
    "name, text, thinking, response",
    [
        ("s1", "\na\nb\n<|im_start|>answer\nAnswer: 3", "a\nb", "Answer: 3"),
        ("s1", "\na\nb", "a\nb", ""),  # unfinished: no response
        ("s1", "a<|im_start|>answer", "a", ""),
        ("s1", "a<|im_start|>answer\nb<|im_start|>answer\nc", "a", "b<|im_start|>answer\nc"),
        ("think", "\na\n</think>\n\n4", "a", "4"),
        ("think", "</think>4", "", "4"),
        ("think", " 4", "4", ""),
        ("think", "", "", ""),
        ("r1", " a </think> <answer> 4 </answer>", "a", "4"),
        ("r1", " a </think> <answer> 4", "a", "4"),  # cut before </answer>
        ("r1", " a </think> 4", "a", "4"),
        ("r1", " a <answer> 4 </answer>", "a <answer> 4 </answer>", ""),
        ("r1", "a</think><answer>4</answer>", "a", "4"),
        ("plain", " the answer is 4 ", "", "the answer is 4"),
    ],
)
def test_split(name, text, thinking, response):
    assert FORMATS[name].split(text) == (thinking, response)


def test_steps_are_split_at_the_answer_and_nowhere_else():
    """s1's step-conditional traces: every header begins with the answer's first token. Written and read back; the
    prompt of use ends in what training writes first."""
    form, thinking = FORMATS["s1-steps"], "2 steps left\nadd\n<|im_start|>1 steps left\ncarry"
    pieces = form.completion_pieces({"question": "q", "thinking": thinking, "response": "42"})
    assert (
        "".join(pieces) == f"<|im_start|>{thinking}\n<|im_start|>answer\n42"
        and pieces[0] == form.open
    )
    assert form.split("".join(pieces[1:])) == (thinking, "42")


@pytest.mark.parametrize("name", FORMATS)
def test_split_undoes_the_training_text(qwen, name):
    """What a model that imitates the training text perfectly generates comes apart into trace and response."""
    form = FORMATS[name]
    text = "".join(form.completion_pieces({**TRACE, "response": "Answer: 3"}))[len(form.open) :]
    expected = "Let me count.\n\nr, r, r: 3."
    assert form.split(text) == (
        (expected, "Answer: 3") if form.end else ("", expected + "\n\nAnswer: 3")
    )


def test_a_missing_chat_template_is_refused_by_name(words):
    """Guessing a template would train on text that no one uses; r1 brings its own."""
    bare = tiny.tokenizer()
    bare.chat_template = None
    for name in ("s1", "think", "plain"):
        with pytest.raises(BadInput, match=f"no chat template, which format '{name}' needs"):
            FORMATS[name].training_ids(bare, TRACE)
    assert FORMATS["r1"].training_ids(bare, TRACE)[0]


def test_end_id_needs_a_single_special_token(words, qwen):
    """The decoder watches for one token: the tiny world has </think>, Qwen2.5 splits it into several; the tiny world
    reads <|im_start|>answer as <unk>, which is a special token but not that one."""
    assert FORMATS["think"].end_id(qwen) is None and FORMATS["plain"].end_id(qwen) is None
    assert FORMATS["s1"].end_id(words) is None


# ---- the tiny world


def left_to_right(expression):
    """Value of '7 + 8 - 5', operator by operator: the rule of the world, written a second time."""
    first, *rest = expression.split()
    total = int(first)
    for operator, number in zip(rest[::2], rest[1::2]):
        total = {"+": total + int(number), "-": total - int(number), "*": total * int(number)}[
            operator
        ]
    return total


def equations(thinking):
    """(left side with its running total, value written) of each `a + b = c` in a trace; chains count link by link."""
    found = re.findall(r"(?=\b(\d+) ([-+*]) (\d+) = (\d+))", thinking)
    return [(left_to_right(f"{a} {op} {b}"), int(c)) for a, op, b, c in found]


PINNED = [
    "make 7 from 3 4 6",
    "pair sum 20 from 6 3 12 1 5 8",
    "pick three total 13 from 5 6 2 3 4 3",
]


@pytest.fixture(scope="module")
def pool():
    return tiny.teacher_pool(1500, seed=0)


@pytest.fixture(scope="module")
def held_out():
    return {
        split: [
            row
            for group, n in (("math", 300), ("other", 200), ("plain", 200))
            for row in tiny.problems(group, n, 0, split)
        ]
        for split in ("held_out", "dev")
    }


def test_the_same_seed_gives_the_same_rows(pool, held_out):
    """Python's set order and hash seed must not matter: the first problems are pinned, so that results of different
    days and machines are about the same problems."""
    assert (
        tiny.teacher_pool(200, seed=0) == pool[:200]
        and tiny.teacher_pool(200, seed=1) != pool[:200]
    )
    assert list(tiny.pretraining_rows(50, 3)) == list(tiny.pretraining_rows(50, 3))
    assert list(tiny.pretraining_rows(50, 3)) != list(tiny.pretraining_rows(50, 4))
    assert tiny.problems("math", 300, 0, "held_out") == held_out["held_out"][:300]
    assert [row["question"] for row in held_out["held_out"][:3]] == PINNED


def key_of(row):
    """What makes two problems one, read off the question: `pair sum 11 from 8 2 9` → (pair sum 11, 2, 8, 9)."""
    task, _, numbers = row["question"].partition(" from ")
    return task, *sorted(map(int, numbers.split()))


def test_no_problem_is_in_two_splits(pool, held_out):
    """Keys of held-out, dev, and three sorts of training rows (pool, problems for RL, reading): pairwise disjoint, the
    closed sets (compare, fact, repeat) aside."""
    closed = ("compare", "fact", "repeat")
    splits = {
        **held_out,
        "train": pool
        + tiny.problems("math", 400, 0, "train")
        + list(tiny.pretraining_rows(3000, 0)),
    }
    sets = {
        split: {key_of(row) for row in rows if row["question"].split()[0] not in closed}
        for split, rows in splits.items()
    }
    assert len(sets["train"]) > 3000 and min(map(len, sets.values())) > 450
    for a, b in itertools.combinations(sets, 2):
        assert not sets[a] & sets[b], (a, b)
    first, second = (
        {key_of(row) for row in tiny.problems("math", 300, seed, "held_out")} for seed in (0, 1)
    )
    assert first != second  # a split is a rule, not a list


def test_split_shares(held_out):
    """1/8 of the keys each: of 8,000 keys 1,000 ± 4 standard deviations of 29.6."""
    splits = [tiny.split_of(f"key {i}") for i in range(8000)]
    assert all(abs(splits.count(name) - 1000) < 119 for name in ("held_out", "dev"))
    assert {*splits} == {"held_out", "dev", "train"}
    questions = [row["question"] for rows in held_out.values() for row in rows[:300]]
    assert len(questions) == len(set(questions)) == 600


def test_every_answer_is_right(held_out):
    """By evaluate.grade, and for math by hand: the target, each number used at most as often as it was given."""
    evaluate = importlib.import_module("evaluate")
    for row in held_out["held_out"] + held_out["dev"]:
        assert evaluate.grade(row, row["answer"]) is True, row
        if row["group"] == "math":
            assert (
                left_to_right(row["answer"])
                == row["target"]
                == int(re.search(r"\d+", row["question"])[0])
            )
            assert 0 <= row["target"] <= 50
            left = list(row["nums"])
            for number in row["answer"].split()[::2]:
                left.remove(int(number))
            assert len(left) == len(row["nums"]) - row["n_used"]
            listed = list(map(int, row["question"].partition(" from ")[2].split()))
            assert listed == row["nums"]


def solve(question):
    """Answers of the tasks that are not math, written a second time from the docstring of the world."""
    task, *words = question.split()
    if task == "sort":
        return " ".join(map(str, sorted(map(int, words))))
    if task == "close":
        return " ".join({"(": ")", "[": "]", "{": "}"}[w] for w in words[::-1])
    if task == "logic":
        value = words[0] == "t"
        for joint, word in zip(words[1::2], words[2::2]):
            value = (value and word == "t") if joint == "and" else (value or word == "t")
        return "t" if value else "f"
    if task == "compare":
        a, b = map(int, words)
        return "low" if a < b else "high" if a > b else "yes"
    if task == "copy":
        return " ".join(words)
    if task in ("first", "last"):
        return words[1] if task == "first" else words[-1]
    return " ".join([words[0]] * int(words[1])) if task == "repeat" else None


def test_answers_of_the_other_groups(held_out):
    """Seven tasks solved a second time; a fact only has to be the same whenever it is asked."""
    facts, tasks = {}, set()
    for row in (
        held_out["held_out"]
        + held_out["dev"]
        + [tiny.problem("plain", "fact", random.Random(i), "train") for i in range(60)]
    ):
        if row["group"] == "math":
            continue
        tasks.add(row["task"])
        if row["task"] == "fact":
            assert (
                facts.setdefault(row["question"], row["answer"]) == row["answer"]
                and row["answer"] in tiny.COLOURS
            )
        else:
            assert row["answer"] == solve(row["question"]), row
    assert tasks == {*tiny.TASKS["other"], *tiny.TASKS["plain"]}


def test_examples_in_the_docstring_are_true():
    """Each `question  <think> ... </think> answer` of the module's docstring is answered as the world answers it."""
    examples = re.findall(
        r"^\S* +(?:sort|close|logic|compare) +(\S.*?) +<think> .*?</think> (.*?)(?: {3,}.*)?$",
        tiny.__doc__,
        re.MULTILINE,
    )
    assert len(examples) == 4
    for question, answer in examples:
        assert solve(question) == answer, question
    said = int(re.search(r"vocabulary of about (\d+) words", tiny.__doc__)[1])
    assert abs(said - len(tiny.VOCABULARY)) <= 5, f"{len(tiny.VOCABULARY)} words"


def test_chains_by_hand():
    """7 + 8 = 15, - 5 = 10; left to right, so 2 + 3 * 4 is 20; 30 + 30 leaves 0..50, as 3 - 5 does."""
    assert tiny.evaluate_chain([7, 8, 5], "+-") == [15, 10]
    assert tiny.evaluate_chain([2, 3, 4], "+*") == [5, 20]
    assert tiny.evaluate_chain([30, 30], "+") is None and tiny.evaluate_chain([3, 5], "-") is None
    assert tiny.evaluate_chain([25, 25], "+") == [50] and tiny.evaluate_chain([5, 5, 9], "-*") == [
        0,
        0,
    ]
    assert tiny.calculation(((7, 8, 5), "+-")) == "7 + 8 = 15 - 5 = 10"
    assert tiny.calculation(((7, 8, 5), "+-"), slip=-12) == "7 + 8 = 15 - 5 = 0"
    assert tiny.expression(((7, 8, 5), "+-")) == "7 + 8 - 5"
    assert tiny.evaluate_text({"response": "7 + 8 - 5", "target": 10})
    assert not tiny.evaluate_text({"response": "7 + 8 - 5", "target": 11})


def test_candidates_by_hand():
    """pair from 1 2 3 takes 2: sums of 3 pairs. cd from 1 2: orders x operators = 1 + 2, 1 * 2, 2 + 1, 2 - 1, 2 * 1
    (1 - 2 is negative)."""
    pairs = tiny.candidates({"task": "pair", "nums": [1, 2, 3], "n_used": 2})
    assert pairs == [((1, 2), ("+",)), ((1, 3), ("+",)), ((2, 3), ("+",))]
    chains = tiny.candidates({"task": "cd", "nums": [1, 2], "n_used": 2})
    assert [tiny.expression(c) for c in chains] == ["1 * 2", "1 + 2", "2 * 1", "2 + 1", "2 - 1"]


def test_pool_rows_hold_what_they_promise(pool):
    """Shares of kinds and tasks within 4 standard deviations of 1,500 draws (at most 0.052), unique ids, counts of
    words, responses graded alike by evaluate.grade and the world."""
    evaluate = importlib.import_module("evaluate")
    kinds = [row["model"].removeprefix("teacher-") for row in pool]
    for kind, share in {"good": 0.5, "blurt": 0.2, "sloppy": 0.15, "loop": 0.15}.items():
        assert abs(kinds.count(kind) / 1500 - share) < 0.052
    for task, share in {"pair": 0.7, "pick": 0.2, "cd": 0.1}.items():
        assert (
            abs(sum(row["task"] == task == row["subject"] for row in pool) / 1500 - share) < 0.052
        )
    assert len({row["id"] for row in pool}) == 1500
    right = [left_to_right(row["response"]) == row["target"] for row in pool]
    assert 0.3 < sum(right) / 1500 < 0.8  # something to curate
    for row, is_right in zip(pool, right):
        assert row["n_thinking_tokens"] == len(row["thinking"].split()) > 0
        assert evaluate.grade(row, row["response"]) is is_right is tiny.evaluate_text(row)


def test_kinds_of_teacher_traces(pool):
    """good: compares each attempt with the target and says so truthfully but for one mistake, doubts and checks.
    blurt: one guess. sloppy: false equations in about half (an attempt slips with 1/4, there are 1 to 4), no
    comparison. loop: one calculation, 2 to 5 times."""
    of = {kind: [row for row in pool if row["model"] == f"teacher-{kind}"] for kind in tiny.TEACHER}
    for row in of["good"]:
        words = row["thinking"].split()
        assert words[:4] == ["okay", "we", "need", str(row["target"])]
        verdicts = re.findall(r"= (\d+) vs (\d+) (low|high|yes) \.", row["thinking"])
        assert len(verdicts) >= 1 and all(int(target) == row["target"] for _, target, _ in verdicts)
        for value, target, verdict in verdicts:
            value, target = int(value), int(target)
            assert verdict == ("low" if value < target else "high" if value > target else "yes")
    text = " ".join(row["thinking"] for row in of["good"])
    assert all(
        f" {word} " in f" {text} "
        for word in ("wait", "check", "maybe", "perhaps", "therefore", "unsure")
    )
    checked = sum("check" in row["thinking"].split() for row in of["good"]) / len(of["good"])
    assert 0.2 < checked < 0.8
    wrong = {
        kind: sum(any(a != b for a, b in equations(row["thinking"])) for row in rows) / len(rows)
        for kind, rows in of.items()
    }
    assert (
        0.3 < wrong["sloppy"] < 0.7
        and 0 < wrong["good"] < 0.3
        and wrong["blurt"] == wrong["loop"] == 0
    )
    for kind in ("blurt", "sloppy", "loop"):
        assert not any(
            {"vs", "wait", "check", "therefore"} & {*row["thinking"].split()} for row in of[kind]
        )
    for row in of["blurt"]:
        assert re.fullmatch(r"okay let me guess [\d+*=\- ]+ \.", row["thinking"])
    for row in of["loop"]:
        ideas = re.findall(r"then (.*?) hmm \.", row["thinking"])
        assert 2 <= len(ideas) <= 5 and len(set(ideas)) == 1


def test_one_word_is_one_token(pool, held_out, words):
    """Nothing of the world is unknown to its tokenizer: pool, problems, and 500 documents of the base model's
    reading; text → ids → text is the identity."""
    texts = [
        row[key]
        for row in (*pool, *tiny.pretraining_rows(500, 0), *held_out["held_out"], *held_out["dev"])
        for key in ("question", "thinking", "response", "answer")
        if row.get(key)
    ]
    assert {word for text in texts for word in text.split()} <= {*tiny.VOCABULARY[7:]}
    for text in texts[::37]:
        ids = words.encode(text)
        assert (
            len(ids) == len(text.split())
            and words.unk_token_id not in ids
            and words.decode(ids) == text
        )
    assert words.get_vocab() == {word: i for i, word in enumerate(tiny.VOCABULARY)}
    assert len(set(tiny.VOCABULARY)) == len(tiny.VOCABULARY)
    assert words.decode(words.encode("quux 3")) == "<unk> 3"


def test_chat_template_of_the_tiny_world(words):
    chat = [
        {"role": "user", "content": "fact a red ?"},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "repeat a 2"},
    ]
    text = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<user> fact a red ? <bot> blue <user> repeat a 2 <bot>"
    assert words.decode(words.encode(text)) == text


def test_reading_of_the_base_model():
    """Half math within 4 standard deviations of 1,000 draws; three fields; the plain tasks and comparisons without
    thinking; about 70% of the math terse (it begins with `try`) as the docstring says."""
    rows = list(tiny.pretraining_rows(1000, 0))
    math_rows = [row for row in rows if " from " in row["question"]]
    assert abs(len(math_rows) / 1000 - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert all(sorted(row) == ["question", "response", "thinking"] for row in rows)
    terse = sum(row["thinking"].startswith("try ") for row in math_rows) / len(math_rows)
    assert abs(terse - 0.7) < 4 * math.sqrt(0.21 / len(math_rows))
    plain = [
        row
        for row in rows
        if row["question"].split()[0] in ("copy", "first", "last", "fact", "repeat", "compare")
    ]
    assert len(plain) > 200 and not any(row["thinking"] for row in plain)


def test_best_so_far_by_hand():
    """Target 5 from 1 2 3 4, pairs. The text computes 1 + 2 and 2 + 3 (right) and 3 + 4: the right one counts. Without
    it, the last full one. A calculation cut before its result (`3 + 4 =`) is none."""
    problem = {"task": "pair", "nums": [1, 2, 3, 4], "n_used": 2, "target": 5}
    best = lambda text: tiny.expression(tiny.best_so_far(problem, text, random.Random(0)))  # noqa: E731
    assert best("try 1 + 2 = 3 low try 2 + 3 = 5 yes try 3 + 4 = 7") == "2 + 3"
    assert best("try 1 + 2 = 3 low try 3 + 4 = 7 high") == "3 + 4"
    assert best("try 1 + 2 = 3 low try 3 + 4 =") == "1 + 2"
    assert (
        len({tiny.expression(tiny.best_so_far(problem, "", random.Random(i))) for i in range(40)})
        > 3
    )


def test_main_writes_the_world(tmp_path, capsys):
    """Small counts end to end; problems for measuring carry no trace; another seed leaves held-out as it is."""
    for seed in (0, 5):
        tiny.main(
            tiny.Config(str(tmp_path / str(seed)), seed=seed, n_pool=30, n_train=20, n_held_out=9)
        )
    a, b = (tmp_path / seed for seed in "05")
    assert {p.name for p in a.iterdir()} == {
        "dev.jsonl",
        "held_out.jsonl",
        "pool.jsonl",
        "tiny.json",
        "train.jsonl",
    }
    for name in ("held_out", "dev"):
        assert (a / f"{name}.jsonl").read_bytes() == (b / f"{name}.jsonl").read_bytes()
        rows = read_rows(a / f"{name}.jsonl", need=("id", "question", "answer", "group"))
        assert not any("thinking" in row for row in rows) and {row["group"] for row in rows} == {
            *tiny.TASKS
        }
    assert (a / "pool.jsonl").read_bytes() != (b / "pool.jsonl").read_bytes()
    assert (
        len(read_rows(a / "pool.jsonl", need=("question", "thinking", "response", "model"))) == 30
    )
    assert "30 traces of the teacher" in capsys.readouterr().out


# ---- the shipped base model and how it is made


def test_shipped_base_model(words):
    """Small enough for the repository, the world's own vocabulary, and trained: new documents of
    its reading cost below 0.5 nats a token (measured: 0.20) where an untrained model has ln 149 = 5.0."""
    directory = ROOT / "data" / "tiny_base"
    assert sum(file.stat().st_size for file in directory.iterdir()) < 4e6
    model, tokenizer = loading.load(str(directory))
    assert (
        tokenizer.get_vocab() == words.get_vocab()
        and tokenizer.chat_template == words.chat_template
    )
    assert tokenizer.eos_token_id == model.config.eos_token_id == words.eos_token_id
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in tiny.untrained_model(0).parameters()
    )
    n = sum(p.numel() for p in model.parameters())
    said = int(re.search(r"A Qwen3 of (\d+) thousand parameters", tiny.untrained_model.__doc__)[1])
    assert n == 169_824 and round(n / 1000) == said
    nll = []
    for network in (model, tiny.untrained_model(0)):
        network.set_attn_implementation("packed")
        examples = [
            FORMATS["think"].training_ids(tokenizer, row)
            for row in tiny.pretraining_rows(60, 12345)
        ]
        with torch.no_grad():
            nll.append(-models.score(network, packing.pack(*zip(*examples))).logp.mean().item())
    assert nll[0] < 0.5 and abs(nll[1] - math.log(149)) < 0.2


def test_untrained_model_depends_on_its_seed_only():
    """Same seed, same weights, whatever was drawn before; making it leaves the global random state alone."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a = tiny.untrained_model(0).state_dict()
    assert torch.equal(torch.rand(1), expected)
    b, c = tiny.untrained_model(0).state_dict(), tiny.untrained_model(1).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(
        a["lm_head.weight"], c["lm_head.weight"]
    )


def test_the_recipe_of_the_base_model_still_runs(tmp_path):
    """64 documents instead of 96,000 and the flags of recipes/tiny_base.sh: 2 epochs of 2 steps, Muon for the hidden
    matrices. The first loss is that of guessing, ln 149 = 5.00 (within 0.2); the steps lower it."""
    lines = (ROOT / "recipes" / "tiny_base.sh").read_text().replace("\\\n", " ").splitlines()
    command = next(line for line in lines if line.startswith("python sft.py"))
    recipe = settings.parse(
        sft.Config, shlex.split(command.replace("$seed", "0").replace("$order", "42"))[2:]
    )
    assert (recipe.muon_lr, recipe.schedule, recipe.hold, recipe.lr_floor) == (
        0.02,
        "linear",
        0.4,
        0.02,
    )
    tiny.main(tiny.Config(str(tmp_path), n_pool=1, n_train=1, n_held_out=1, pretrain=64))
    cfg = dataclasses.replace(
        recipe,
        model=str(tmp_path / "untrained"),
        data=str(tmp_path / "pretrain.jsonl"),
        out=str(tmp_path / "base"),
        print_every=0,
        warmup=0.0,
    )
    history = sft.main(cfg)
    assert len(history) == 4 and abs(history[0]["loss"] - math.log(149)) < 0.2
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    assert os.path.getsize(tmp_path / "base" / "model.safetensors") == os.path.getsize(
        ROOT / "data" / "tiny_base" / "model.safetensors"
    )
