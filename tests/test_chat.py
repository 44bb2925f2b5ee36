"""engine/chat.py: questions and commands in the terminal."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import BASE, TOKENIZER, command, config_in

import generate
from engine import chat, loading
from engine.completions import completion_text
from engine.decoder import Request, Sampling, decode
from engine.format import FORMATS


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path)


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


SPEED = re.compile(r"\[(\d+ tokens.*), [\d.]+ tokens/s\]\n")


def test_interactive_in_a_pipe():
    """Questions and commands through stdin. Each answer is printed whole, thinking included (no
    colours in a pipe), greedy, so that it is the text decoded here: with the conversation so far as
    history, without it after /new, under the budget and the waits that were typed. What cannot be
    meant is told in one line, and changes nothing."""
    first, second = greedy_text("copy a b"), greedy_text("sort 7 3", said("copy a b"), budget=2)
    third = greedy_text("sort 7 3", waits=1, budget=2)
    dialogue = [
        ("copy a b", first + "\n"),
        ("/budget 2", ""),
        ("sort 7 3", second + "\n"),
        ("/new", ""),
        ("/nonsense 4", "/nonsense: not a command; /help lists them\n"),
        ("/waits x", "/waits x: not a number\n"),
        ("/format x", "/format x: not one of s1, s1-steps, think, r1, plain\n"),
        ("/temperature -1", "--temperature -1.0: out of range\n"),
        ("", ""),
        ("/waits 1", ""),
        ("/format plain", re.compile("--format plain: it has no thinking of its own.*\n")),
        ("sort 7 3", third + "\n"),
        ("/thinking-budget none", ""),
        ("/waits 0", ""),
        ("/help", chat.HELP + "\n"),
        ("close ( [", greedy_text("close ( [", said("sort 7 3", waits=1, budget=2)) + "\n"),
    ]
    assert "</think>" in first and len({second, third, greedy_text("sort 7 3")}) == 3
    typed = [line for line, _ in dialogue] + ["/quit", "copy a b"]
    done = subprocess.run(
        command("--interactive", "--max-tokens", 60, "--wait", "wait"),
        capture_output=True,
        text=True,
        input="".join(line + "\n" for line in typed),
    )
    assert done.returncode == 0, done.stderr
    first_lines, rest = done.stdout.split("/quit ends.\n", 1)
    assert f"loading {BASE} ...\n--format think\nType a question. /help " in first_lines
    for line, answer in dialogue:
        assert rest.startswith("> "), (line, rest)
        rest = rest[2:]
        is_pattern = isinstance(answer, re.Pattern)
        found = answer.match(rest)[0] if is_pattern else rest[: len(answer)]
        assert is_pattern or found == answer, line
        rest = rest[len(found) :]
        if line and not line.startswith("/"):
            rest = rest[len(SPEED.match(rest)[0]) :]
    assert rest == "> " and "\x1b" not in done.stdout


def chatting(monkeypatch, capsys, cfg, *typed, terminal=False):
    """What the terminal shows behind the first lines."""
    lines = iter(typed)

    def read(prompt):
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", read)
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    generate.main(
        dataclasses.replace(cfg, interactive=True, data="", out="", temperature=0.0, max_tokens=60)
    )
    return capsys.readouterr().out.partition("/quit ends.\n")[2]


def test_thinking_is_dimmed_in_a_terminal(config, monkeypatch, capsys):
    """Up to and with the end of thinking dim, the answer plain; together the whole text, character
    for character."""
    shown = chatting(monkeypatch, capsys, config(), "copy a b", terminal=True)
    shown = shown[: SPEED.search(shown).start()]
    parts = re.findall(r"\x1b\[2m(.*?)\x1b\[0m(.*?)(?=\x1b|\Z)", shown, re.DOTALL)
    thinking, _, response = greedy_text("copy a b").partition("</think>")
    assert "".join(dim for dim, _ in parts) == thinking + "</think>"
    assert "".join(plain for _, plain in parts) == response + "\n" and response.strip()


def test_the_stop_token_is_not_shown(config, monkeypatch, capsys):
    """Neither without --stop nor with one that does not come."""
    for cfg in (config(), config(stop=("never",))):
        shown = chatting(monkeypatch, capsys, cfg, "copy a b")
        assert SPEED.sub("", shown) == greedy_text("copy a b") + "\n\n"


def test_length_and_cut_are_told(config, monkeypatch, capsys):
    """The counts are those of the row; an answer of three tokens was cut."""
    shown = chatting(monkeypatch, capsys, config(), "copy a b", "/max_tokens 3", "close ( [")
    row = chat.measured({"n_tokens": 6, "n_thinking_tokens": 2, "finish": "stop"}, 2.0)
    assert row == "[6 tokens, 2 of them thinking, 3.0 tokens/s]"
    assert SPEED.findall(shown)[1].endswith(", cut by /max_tokens")


def test_ctrl_c_stops_an_answer_and_not_the_chat(config, monkeypatch, capsys):
    """The next question is answered as if the stopped one had not been asked."""
    show, calls = chat.Display.__call__, []

    def interrupted(self, state, n):
        calls.append(n)
        if len(calls) == 2:
            raise KeyboardInterrupt
        show(self, state, n)

    monkeypatch.setattr(chat.Display, "__call__", interrupted)
    shown = chatting(monkeypatch, capsys, config(), "sort 7 3", "copy a b")
    assert "[stopped; the question is forgotten]\n" in shown
    assert SPEED.sub("", shown).endswith(greedy_text("copy a b") + "\n\n")


def test_garbage_on_stdin_is_one_line(config, monkeypatch, capsys):
    """A byte that is no UTF-8 comes as half a surrogate, which no tokenizer takes."""
    for line in ("\udcff", "/system \udcff"):
        shown = chatting(monkeypatch, capsys, config(), line)
        assert shown == "what was typed is not UTF-8\n\n"


class Answers:
    """answer() of a chat: notes what it was asked with."""

    def __init__(self):
        self.asked = []

    def __call__(self, cfg, problem, history):
        self.asked.append((cfg.format, cfg.system, problem["question"]))
        return {"n_tokens": 1, "n_thinking_tokens": 0, "finish": "stop", "response": "x"}


def test_format_and_system_are_those_that_were_typed(config, monkeypatch, capsys):
    """/system without a text is none."""
    lines = ["a", "/format plain", "/system Be brief, please.", "b", "/system", "c", "/quit"]
    monkeypatch.setattr("builtins.input", lambda prompt: lines.pop(0))
    answer = Answers()
    chat.chat(config(), lambda cfg: None, answer)
    assert answer.asked == [
        ("think", "", "a"),
        ("plain", "Be brief, please.", "b"),
        ("plain", "", "c"),
    ]


def test_what_may_become_a_wait_is_not_shown(capsys):
    """The first two of three tokens of an end of thinking are held back, until it is clear that
    they stay; a rejected try is followed by a new one from its first token on."""
    ids = torch.tensor([TOKENIZER.convert_tokens_to_ids(["a", "b", "(", "[", "7"])])
    display = chat.Display(TOKENIZER, FORMATS["think"].fit(TOKENIZER), set())

    def shown(n, n_match):
        display({"ids": ids, "n": torch.tensor([n]), "n_match": torch.tensor([n_match])}, 1)
        return capsys.readouterr().out

    assert [shown(2, 0), shown(3, 1), shown(4, 2), shown(5, 0)] == ["a b", "", "", " ( [ 7"]
    assert shown(1, 0) == "\n[over the budget; another try]\na"


# ---------------------------------------------------------------- the format of a model's training


@pytest.mark.parametrize(
    "saved, given, found",
    [
        (None, {}, ("plain", "")),
        ({"format": "think"}, {}, ("think", "")),
        ({"format": "r1", "system": "S"}, {}, ("r1", "S")),
        ({"format": "r1", "system": "S"}, {"system": "T"}, ("r1", "T")),
        ({"format": "r1", "system": "S"}, {"format": "s1"}, ("s1", "")),
        ({"format": "another", "system": 3}, {}, ("plain", "")),
    ],
)
def test_a_model_is_used_as_it_was_trained(tmp_path, saved, given, found):
    if saved:
        (tmp_path / "training.json").write_text(json.dumps(saved))
    cfg = generate.as_trained(generate.Config(model=str(tmp_path), **given))
    assert (cfg.format, cfg.system) == found


def test_the_file_of_a_run_names_the_format_that_was_found(config):
    """The tiny base model was trained with --format think; a header of "auto" could be continued
    with another training.json beside the model."""
    cfg = config(format="auto", limit=1)
    generate.main(cfg)
    header = json.loads(Path(cfg.out).with_name("out.config.json").read_text())
    assert header["format"] == header["identity"]["format"] == "think"
