"""engine/chat.py: questions and commands in the terminal."""

import dataclasses
import re
import subprocess
import sys

import pytest
from tiny_runs import BASE, command, config_in

import generate
from engine import loading
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


def test_interactive_in_a_pipe():
    """Four questions and seven commands through stdin. Each answer is printed whole, thinking
    included (no colours in a pipe), greedy, so that it is the text decoded here: with the
    conversation so far as history, without it after /new, under the budget and the waits that were
    typed. What cannot be meant is told in one line, and changes nothing."""
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
    """Up to and with the end of thinking dim, the answer plain; together the whole text, character
    for character."""
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
