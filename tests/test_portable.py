"""Grading, curation and the imports of training where a system lacks what Linux has.

Nothing here runs on Windows or macOS. A process is started in which the modules and signals are
missing that are missing on Windows, in its workers, too. What it lacks it cannot use by accident;
what Windows does otherwise it does not show.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_pools import trace, write

import curate
import evaluate
from engine import runlog
from engine.rows import read_rows, write_rows

ROOT = Path(__file__).resolve().parent.parent

# Python imports this file at its start, in every process.
AS_ON_WINDOWS = """
import os, signal, sys, warnings

for name in ("resource", "fcntl", "termios", "pwd", "grp", "pty"):
    sys.modules[name] = None
for name in list(vars(signal)):
    if name.startswith("ITIMER_") or name in (
        "setitimer", "getitimer", "alarm", "pause", "pthread_kill", "sigwait",
        "SIGALRM", "SIGPROF", "SIGVTALRM", "SIGPIPE", "SIGHUP", "SIGUSR1",
    ):
        delattr(signal, name)
for name in ("fork", "forkpty", "set_blocking", "sysconf", "getuid", "sched_getaffinity"):
    delattr(os, name)
# A file that is opened without an encoding has another one there.
ours = r"(engine|grading|curation|report|data|kernels|curate|evaluate|sft|grpo)\\\\b"
warnings.filterwarnings("error", category=EncodingWarning, module=ours)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A function that runs a program as on Windows -> what it printed, read as JSON."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(AS_ON_WINDOWS)
    (folder / "acts.py").write_text(
        "import re, time\n"
        "def act(item):\n"
        "    kind, x = item\n"
        "    if kind == 'sleep':\n"
        "        time.sleep(x)\n"
        "    if kind == 'loop':\n"
        "        while True: pass\n"
        "    if kind == 'spin':\n"
        "        re.match('(a+)+$', 'a' * 40 + 'b')\n"
        "    return x\n"
    )

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
                "PYTHONWARNDEFAULTENCODING": "1",
            },
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_the_process_lacks_what_windows_lacks(elsewhere):
    found = elsewhere(
        "import json, os, signal\n"
        "missing = []\n"
        "for name in ('resource', 'fcntl'):\n"
        "    try: __import__(name)\n"
        "    except ImportError: missing.append(name)\n"
        "print(json.dumps([missing, hasattr(signal, 'setitimer'), hasattr(os, 'fork')]))"
    )
    assert found == [["resource", "fcntl"], False, False]


def test_everything_can_be_imported(elsewhere):
    """Rooms, scripts, and with them what trains and samples; memory is then unknown."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("engine", "grading", "curation", "report", "data", "atlas", ".")
        for path in sorted((ROOT / room).glob("*.py"))
        # imported in its own process only
        if path.stem not in ("__init__", "simplify")
    ]
    assert {"engine.training", "grading.sandbox", "curation.pool", "sft", "grpo"} <= set(modules)
    found = elsewhere(
        f"import importlib, json\nfor name in {modules}: importlib.import_module(name)\n"
        "from engine import machine, training\n"
        "print(json.dumps([machine.peak_memory('cpu'), training.memory_gb('cpu')]))"
    )
    assert found == [None, None]


def test_symbolic_verdicts_are_the_same(elsewhere):
    """Of the worker with math-verify; a hostile power ends by its limit, and costs no more."""
    pytest.importorskip("math_verify")
    pairs = [
        ("\\binom{5}{2}", "10"),
        ("|x-1|", "|1-x|"),
        ("(n+1)!", "(n+1) n!"),
        ("\\binom{5}{2}", "11"),
    ]
    began = time.monotonic()
    verdicts, failures = elsewhere(
        "import json\nfrom grading import symbolic\n"
        f"verdicts = [symbolic.equal(*pair) for pair in {pairs}]\n"
        "symbolic.equal('9^{9^{9^9}}!', '9^{9^{9^8}}!')\n"
        "print(json.dumps([verdicts, dict(symbolic.FAILURES)]))"
    )
    assert verdicts == [True, True, True, False]
    assert failures in ({}, {"timeout": 1}, {"crash": 1})
    assert time.monotonic() - began < 60


def test_workers_without_timers(elsewhere, tmp_path):
    """A loop in Python and a sleep are ended by the worker's own thread, what holds the interpreter
    by the parent; others have their values.
    """
    began = time.monotonic()
    found = elsewhere(
        "import json\nfrom grading.sandbox import HAS_TIMERS, Workers\n"
        "with Workers('acts:act', n=2, limit=30.0, cpu_limit=0.2) as pool:\n"
        "    items = [['value', 1], ['loop', 0], ['spin', 0], ['sleep', 0.5], ['value', 2]]\n"
        "    found = pool.map(items)\n"
        "with Workers('acts:act', n=1, limit=0.3) as pool:\n"
        "    found += pool.map([['sleep', 60]])\n"
        "print(json.dumps([HAS_TIMERS, found]))"
    )
    spent = ["timeout", "no result in 0.2 seconds of processor time"]
    late = ["timeout", "no result in 0.3 seconds"]
    assert found == [False, [1, spent, spent, 0.5, 2, late]]
    assert time.monotonic() - began < 25  # not the 30 seconds of the clock


def completions():
    """Rows of two questions, right and wrong, words, and a formula for the symbolic worker."""
    golds = {"a": "12", "b": "\\binom{n}{2}"}
    texts = {
        "a": ["The answer is \\boxed{12}.", "\\boxed{13}"],
        "b": ["So \\boxed{\\frac{n(n-1)}{2}}", "\\boxed{n}"],
    }
    return [
        {
            "id": key,
            "question": "q",
            "answer": golds[key],
            "sample": k,
            "text": text,
            "thinking": "",
            "response": text,
            "n_thinking_tokens": 0,
            "n_tokens": 5 + k,
            "finish": "stop",
        }
        for key in golds
        for k, text in enumerate(texts[key])
    ]


def test_evaluation_is_the_same(elsewhere, tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "metrics.json"
    write_rows(rows, completions())
    here = evaluate.main(evaluate.Config(runs=(str(rows),), out=str(out)))
    program = "import json, evaluate\n" + (
        "found = evaluate.main(evaluate.Config(runs=({!r},), out={!r}))\nprint(json.dumps(found))"
    ).format(str(rows), str(tmp_path / "there.json"))
    there = elsewhere(program)
    here = json.loads(json.dumps(here))
    assert here.pop("config") != there.pop("config")  # another --out
    assert there == here and (tmp_path / "there.json").exists()
    assert here["runs"][str(rows)]["all"]["accuracy"] == 50  # one of two of each


def test_curation_is_the_same(elsewhere, tmp_path):
    pool = tmp_path / "pool.jsonl"
    write(pool, [trace(i, f"question {i} of é") for i in range(12)])
    settings = dict(data=str(pool), method="random", k=5, quality=False)
    curate.main(curate.Config(**settings, out=str(tmp_path / "here.jsonl")))
    elsewhere(
        "import curate\n"
        f"curate.main(curate.Config(**{settings!r}, out={str(tmp_path / 'there.jsonl')!r}))\n"
        "print(1)"
    )
    here, there = (read_rows(tmp_path / f"{name}.jsonl") for name in ("here", "there"))
    assert here == there and len(here) == 5


# ---- locks


class Msvcrt:
    """Windows' locks, by those of this system: a byte of a file, without waiting."""

    LK_NBLCK = 2

    @staticmethod
    def locking(number, mode, n_bytes):
        import fcntl

        assert (mode, n_bytes) == (Msvcrt.LK_NBLCK, 1)
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, n_bytes)


def test_windows_locks_out(tmp_path, monkeypatch):
    """Another process is refused in one line while the first one writes; nothing is left behind."""
    out = tmp_path / "out"
    program = (
        "import sys\nfrom engine import runlog\nfrom engine.rows import BadInput\n"
        "try:\n"
        "    with runlog.locked(sys.argv[1]): print('free')\n"
        "except BadInput as error: print(error)"
    )

    def ask():
        command = [sys.executable, "-c", program, str(out)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout

    monkeypatch.setattr(runlog, "fcntl", None)
    monkeypatch.setattr(runlog, "msvcrt", Msvcrt)
    with runlog.locked(out):
        assert f"--out {out}: another process is writing there" in ask()
    assert not Path(f"{out}.lock").exists() and ask() == "free\n"


def test_a_system_without_locks_runs_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(runlog, "fcntl", None)
    monkeypatch.setattr(runlog, "msvcrt", None)
    with runlog.locked(tmp_path / "out"), runlog.locked(tmp_path / "out"):
        pass
