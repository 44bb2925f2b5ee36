"""engine/runlog.py: what makes two runs the same, and a log without gaps or repeats."""

import json
import multiprocessing
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import runlog
from engine.rows import BadInput, write_rows


@dataclass(frozen=True)
class Flags:
    n_rows: int = 5
    rate: float = 0.25
    k: tuple[int, ...] = (1, 8)


@dataclass(frozen=True)
class Required:
    out: str
    seed: int = 0


def test_identity_and_difference(tmp_path):
    """Settings named in `without` do not count, contents of inputs do.

    The identity survives JSON, which makes tuples lists.
    """
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
    """A changed byte, a new file and a new name each change it.

    Reading again and a deeper directory do not.
    """
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


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_log_resumes_without_gap_or_repeat(tmp_path):
    """Five lines and a sixth cut by a kill: resuming after step 3 keeps 1 2 3, adds 4."""
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
    """A last line without its newline may be half of one, and does not count.

    Resuming after step 6 itself: `{"step": 6` may be the beginning of step 66.
    """
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
    """Every third of 8 steps and the last, 3 6 8, and two values.

    The file has all of them at once: another process may be reading.
    """
    log = runlog.Log(tmp_path / "log.jsonl", total=8, every=3, shown=("loss", "n"))
    for step in range(1, 9):
        log(step, loss=0.123456, n=step, flops=5)
        assert '"flops": 5' in (tmp_path / "log.jsonl").read_text().splitlines()[-1]
        assert steps_of(tmp_path / "log.jsonl") == list(range(1, step + 1))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["3/8", "6/8", "8/8"]
    assert printed[0].split() == ["step", "3/8", "loss", "0.1235", "n", "3"]


def test_flops_are_summed_and_checked(tmp_path):
    """3 + 4.5 = 7.5. What is no number is named by line; a sum of 0 is refused."""
    path = tmp_path / "flops.jsonl"
    write_rows(path, [{"phase": "a", "flops": 3}, {"phase": "b", "flops": 4.5}])
    assert runlog.flops_in(path) == 7.5
    for bad in (True, "3", -1, float("inf"), float("nan")):
        write_rows(path, [{"phase": "a", "flops": 3}, {"phase": "b", "flops": bad}])
        with pytest.raises(BadInput, match=r"flops\.jsonl:2: 'flops' is not a number"):
            runlog.flops_in(path)
    write_rows(path, [{"phase": "a", "flops": 0}])
    with pytest.raises(BadInput, match="nothing was computed"):
        runlog.flops_in(path)


def test_sigterm_is_noted_once_and_then_obeyed():
    """The first SIGTERM fills the list and restores the default action; leaving restores ours."""
    before = signal.getsignal(signal.SIGTERM)
    with runlog.sigterm() as asked:
        assert not asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def hold(out, ready, end):
    with runlog.locked(out):
        ready.set()
        end.wait(60)


def test_one_process_for_each_out(tmp_path):
    """A second process is refused in one line while the first runs, and let in when it was killed.

    No file is left behind; a lock file that a kill left locks nothing.
    """
    out = tmp_path / "new" / "run"
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    first = context.Process(target=hold, args=(out, ready, end))
    first.start()
    assert ready.wait(60)
    with pytest.raises(BadInput, match=f"^--out {out}: another process") as caught:
        with runlog.locked(out):
            pass
    assert "\n" not in str(caught.value)
    with runlog.locked(tmp_path / "other"):
        pass
    first.kill()
    first.join()
    assert Path(f"{out}.lock").exists()
    with runlog.locked(out):
        assert Path(f"{out}.lock").exists()
    assert not Path(f"{out}.lock").exists()


def test_a_child_does_not_keep_the_lock(tmp_path):
    """Reward workers are forks, and may outlive a parent that was killed."""
    context = multiprocessing.get_context("fork")
    end = context.Event()
    with runlog.locked(tmp_path / "out"):
        child = context.Process(target=end.wait, args=(60,))
        child.start()
    ready, second = context.Event(), context.Event()
    second.set()
    other = context.Process(target=hold, args=(tmp_path / "out", ready, second))
    other.start()
    assert ready.wait(60)
    end.set()
    for process in (child, other):
        process.join()


def test_a_lock_that_cannot_be_made_costs_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="^--out .*file/out: .*Not a directory"):
        with runlog.locked(tmp_path / "file" / "out"):
            pass
