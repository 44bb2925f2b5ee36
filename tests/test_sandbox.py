"""grading/sandbox.py: functions that return, raise, hang, crash and print; what is left of the
processes afterwards.
"""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grading.sandbox import Failure, Workers

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = """
import os, re, signal, sys, time
def act(item):
    kind, x = item
    if kind == "sleep":
        time.sleep(x)
    if kind == "spin":                      # in C, holding the interpreter
        re.match(r"(a+)+$", "a" * 40 + "b")
    if kind == "deaf":                      # a library that takes the timer for itself
        signal.setitimer(signal.ITIMER_REAL, 0), signal.setitimer(signal.ITIMER_PROF, 0)
        time.sleep(4)
    if kind == "exit":
        os._exit(x)
    if kind == "leave":
        sys.exit(3)
    if kind == "memory":
        bytearray(1 << 40)
    if kind == "print":
        print(x, flush=True)
    if kind == "object":
        return object()
    if kind == "big":
        return "y" * x
    return [x, os.getpid()] if kind == "who" else float(x) if isinstance(x, str) else x
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    (tmp_path / "acts.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Workers("acts:act", n=2, limit=0.4) as pool:
        yield pool


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_values_come_in_order_from_processes_that_stay(pool):
    """Nothing runs before the first item; later items, a late one and large ones are answered by
    the same two.
    """
    assert pool.idle == []
    results = pool.map([["who", i] for i in range(20)])
    assert [i for i, _ in results] == list(range(20))
    pids = {pid for _, pid in results}
    assert len(pids) <= 2 and os.getpid() not in pids
    assert {pid for _, pid in pool.map([["who", 0]] * 9)} <= pids
    assert pool.map(
        [["sleep", 0.2], ["big", 300_000], ["value", None], ["value", [1, "é\n\u2028"]]]
    ) == [0.2, "y" * 300_000, None, [1, "é\n\u2028"]]
    big = ["z" * 500_000, 1]
    assert pool.map([["value", big], ["value", 0]]) == [big, 0]  # more than a pipe holds
    assert pool.map([]) == []
    pool.__exit__()
    assert not any(map(alive, pids))


def test_failures_are_named_and_replaced(pool):
    """Each failure has its kind and its own place; the items around it have their values."""
    items = [
        ["value", 1],
        ["sleep", 60],
        ["exit", 3],
        ["value", 2],
        ["spin", 0],
        ["value", "not a number"],
        ["leave", 0],
        ["memory", 0],
        ["object", 0],
        ["value", "nan"],
        ["value", 3],
    ]
    began = time.monotonic()
    results = pool.map(items)
    assert time.monotonic() - began < 8
    assert [r.kind if isinstance(r, Failure) else None for r in results] == [
        None,
        "timeout",
        "crash",
        None,
        "timeout",
        "error",
        "error",
        "error",
        "error",
        None,
        None,
    ]
    assert results[0] == 1 and results[3] == 2 and results[10] == 3 and math.isnan(results[9])
    assert results[1].text == "no result in 0.4 seconds" and "status 3" in results[2].text
    assert (
        results[5].text.startswith("ValueError: could not convert")
        and results[6].text == "SystemExit: 3"
    )
    assert results[7].text.startswith("MemoryError")


def test_processor_time_is_limited_by_itself(pool):
    """An item that sleeps uses none; one that computes is ended long before the clock's limit."""
    with Workers("acts:act", n=1, limit=60, cpu_limit=0.2) as patient:
        assert patient.map([["sleep", 0.5]]) == [0.5]
        (failure,) = patient.map([["spin", 0]])
    assert failure == ("timeout", "no result in 0.2 seconds of processor time")


def test_another_worker_starts_at_once(tmp_path, monkeypatch):
    """While nobody asks: after a time-out its successor is there before the next item, not begun by
    it.
    """
    (tmp_path / "acts.py").write_text(
        FUNCTIONS + f"open({str(tmp_path / 'started')!r}, 'a').write('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Workers("acts:act", n=1, limit=0.2) as pool:
        assert pool.map([["sleep", 60]])[0].kind == "timeout"
        until = time.monotonic() + 20
        while (tmp_path / "started").read_text() != "xx" and time.monotonic() < until:
            time.sleep(0.02)
        assert pool.map([["value", 4]]) == [4] and (tmp_path / "started").read_text() == "xx"


def test_a_worker_without_timers_is_killed_by_the_parent(pool):
    pid = pool.map([["who", 0]])[0][1]
    began = time.monotonic()
    assert pool.map([["deaf", 0]])[0].kind == "timeout" and 1.3 < time.monotonic() - began < 3.5
    assert not alive(pid)
    stopped = pool.map([["who", 0]])[0][1]
    os.kill(stopped, signal.SIGSTOP)  # takes nothing from its pipe
    assert pool.map([["value", "1" * 200_000]])[0].kind == "timeout" and not alive(stopped)
    killed = pool.map([["who", 0]])[0][1]
    os.kill(killed, signal.SIGKILL)
    time.sleep(0.05)
    assert pool.map([["value", 1]])[0].kind == "crash" and pool.map([["value", 1]]) == [1]


def test_what_a_function_prints_is_no_answer(pool, capfd):
    assert pool.map([["print", 12345], ["value", 5]]) == [12345, 5]
    assert "12345" in capfd.readouterr().err


def test_a_function_that_is_not_there(pool, capfd):
    for name in ("no_such_module:f", "acts:no_such_function"):
        with pytest.raises(RuntimeError, match=f"could not import {name}"):
            Workers(name).map([1])
    assert "no_such_function" in capfd.readouterr().err


def test_an_interrupt_leaves_no_process(pool):
    """Ctrl-C while a worker is busy: it does not outlive the call."""
    pid = pool.map([["who", 0]])[0][1]
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.map([["sleep", 60]])
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert not alive(pid) and pool.map([["value", 1]]) == [1]


def test_a_fork_starts_its_own(pool):
    pid = pool.map([["who", 0]])[0][1]
    child = os.fork()
    if not child:
        answer = pool.map([["who", 0]])[0]
        # A Failure would differ from the parent's worker, too.
        os._exit(0 if type(answer) is list and answer[1] != pid else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.map([["who", 7]]) == [[7, pid]]


def test_workers_end_with_a_killed_parent(pool, tmp_path):
    """kill -9 of the parent: the idle worker ends at once, the one that spins at its limit."""
    code = (
        "from grading.sandbox import Workers\n"
        "pool = Workers('acts:act', n=2, limit=1.5)\n"
        "print(*(pid for _, pid in pool.map([['who', 0], ['who', 1]])), flush=True)\n"
        "pool.map([['spin', 0]])"
    )
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    assert pids and any(map(alive, pids))
    until = time.monotonic() + 6
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids))
