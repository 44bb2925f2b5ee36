"""engine/completions.py: the rows of a run on disk, while it lasts, killed, continued and
complete."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import command, config_in, write

import generate
from data import tiny
from engine import completions, loading, runlog, settings
from engine.decoder import decode
from engine.rows import BadInput, read_rows


@pytest.fixture
def config(tmp_path):
    return config_in(tmp_path)


class Killed(Exception):
    pass


def killed_after(n, monkeypatch):
    """Let generate.decode be ended from outside behind its n-th completion."""

    def dying(*arguments):
        for number, found in enumerate(decode(*arguments)):
            if number == n:
                raise Killed
            yield found

    monkeypatch.setattr(generate, "decode", dying)


def test_main_resumes_with_the_same_file(config, tmp_path, monkeypatch):
    """7 of 15 rows done, the seventh cut in the middle of its line: the same command writes the
    same bytes as a run that nobody disturbed, with other --slots, and decodes only the 9 rows that
    are missing."""
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
    """A changed setting, and changed contents of --data, are named; --overwrite starts over and
    keeps no old row."""
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


def test_out_of_memory(config, tmp_path, monkeypatch):
    """The memory runs out behind the fourth row: a line that names --slots, the four rows are kept,
    and the same command with fewer slots brings the file of a run that nobody disturbed."""
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
    """Brackets, stars and question marks in --out are letters, not patterns; nothing is lost, also
    not by a kill."""
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
    """A run that continues first puts its rows into one file. Killed there, it has lost none of
    them."""
    with monkeypatch.context() as patch:
        killed_after(7, patch)
        with pytest.raises(Killed):
            generate.main(config())
    with monkeypatch.context() as patch:
        patch.setattr(completions, "write_rows", die)
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
    """The command, killed without warning once 5 of its 60 rows are on disk: the same command ends
    with the bytes of an undisturbed run, and keeps what it had."""
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


def test_a_row_that_is_missing_is_an_error(config, tmp_path, monkeypatch):
    """A row that another hand took out of the unfinished file: named, and made by the same command."""
    whole = generate.main(config(out=str(tmp_path / "whole.jsonl")))
    add = completions.RowFile.add

    def forgetful(file, row):
        if row["sample"] != 2:
            add(file, row)

    with monkeypatch.context() as patch, pytest.raises(BadInput) as caught:
        patch.setattr(completions.RowFile, "add", forgetful)
        generate.main(config())
    first = whole[0]["id"]
    line = f"out.jsonl: 5 of 15 rows are missing, the first of id '{first}'; the same command"
    assert line in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
    generate.main(config())
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("line", [b"garbage", b"\0\0\0", b"\xff", b"[1]", b'{"sample": 1}'])
def test_garbage_in_an_unfinished_file_costs_one_line(config, tmp_path, monkeypatch, line):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(3, patch)
        generate.main(config())
    part = tmp_path / "out.jsonl.unfinished"
    part.write_bytes(part.read_bytes() + line + b"\n")
    with pytest.raises(BadInput, match="out.jsonl.unfinished:4: ") as caught:
        generate.main(config())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{nope", "[]", "\0", '{"identity": "x"}'])
def test_garbage_in_a_header_costs_one_line(config, tmp_path, text):
    (tmp_path / "out.config.json").write_text(text)
    with pytest.raises(BadInput, match="out.config.json: not the settings of a run") as caught:
        generate.main(config())
    assert "\n" not in str(caught.value) and "--overwrite" in str(caught.value)
    assert len(generate.main(config(overwrite=True))) == 15


def test_an_out_that_is_no_file_is_refused(config, tmp_path):
    """A directory, a pipe, a device (as root it would be replaced): still there afterwards."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "folder", tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(BadInput, match=f"^{path}: (a directory|not a regular file)"):
            generate.main(config(out=str(path), overwrite=True))
    assert (tmp_path / "pipe").is_fifo() and Path(os.devnull).is_char_device()


def test_ids_1_and_the_text_1_are_one_problem(config, tmp_path):
    """As evaluate.py and curate.py take them."""
    problems = read_rows(config().data)
    problems[0]["id"], problems[1]["id"] = 1, "1"
    data = write(tmp_path / "same.jsonl", problems)
    with pytest.raises(BadInput, match="two rows have the id '1'"):
        generate.main(config(data=data))


def test_a_second_process_is_refused(config, tmp_path):
    """generate.py as it is typed, while another process has its --out."""
    cfg = config()
    flags = ("--data", cfg.data, "--out", cfg.out, "--n", 3, "--max-tokens", 26)
    with runlog.locked(cfg.out):
        done = subprocess.run(command(*flags), capture_output=True, text=True)
    assert done.returncode == 1 and not Path(cfg.out).exists()
    assert done.stderr.splitlines()[-1].startswith(f"generate.py: --out {cfg.out}: another process")
