"""Processes that run one function on untrusted items, each with a hard time limit.

    with Workers("grading.rewards:score_group", n=2, limit=10.0) as pool:
        results = pool.map(items)            # in their order; a Failure where there is no value

What hangs inside C (a regular expression, a huge power) holds the interpreter: no thread and no
signal handler in Python can stop it, only the end of its process. Items and values are lines of
JSON through pipes, never pickles. The processes are plain children: those of multiprocessing would
import the calling script, and torch with it, once more each. A thread for each of them waits at
its pipes, which works on every system.

A worker past the limit is killed, as is one that crashed, and another one starts in its place at
once, so that the next item does not wait for all of its start. The first item starts the first.
A limit by the clock depends on what else the machine does. With cpu_limit the processor time of an
item is limited, too, and the other limit may be long.
Workers end with their parent, however it ended: when their input ends or, if they are busy, by the
kernel's timers. Windows has no such timers: a thread of the worker looks at its clocks, and where C
holds the interpreter the parent ends it, after PATIENCE times its processor time by the clock.
There is no limit of memory either, and such a worker may outlive a parent that is killed.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None

SLACK = 1.0  # seconds past the limit until the parent kills a worker whose own timers failed
START = 300.0  # seconds to import the function, on a busy machine, too
READ = 1 << 20  # bytes
PATIENCE = 5.0
TICK = 0.02  # seconds between two looks at the clocks

HAS_TIMERS = hasattr(signal, "setitimer")
# How a worker ends that is out of time. Without timers these are exit codes that mean nothing else.
LATE = -signal.SIGALRM if HAS_TIMERS else 220
SPENT = -signal.SIGPROF if HAS_TIMERS else 221


class Failure(NamedTuple):
    """Why an item has no value."""

    kind: str  # "timeout"; "crash": the process died; "error": the function raised an exception
    text: str


# ---- The parent's side -------------------------------------------------------------------------


class Worker:
    """A process that runs a function on one item after the other.

    answers: queue of (worker, line) for what it says: b"ready\\n", a line for each item, and b""
    when it has ended.
    """

    def __init__(self, function, limit, memory, cpu_limit, answers):
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *map(os.path.abspath, sys.path)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grading.sandbox", function]
            + [str(limit), str(memory), str(cpu_limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self.function = function
        self.limit = limit
        self.cpu_limit = cpu_limit
        self.ready = False  # the function is imported
        self.has_ended = False
        self.items = queue.SimpleQueue()
        talk = threading.Thread(target=self.talk, args=(answers,), daemon=True)
        talk.start()

    def talk(self, answers):
        """In a thread: pass lines on, in both directions, until the process ends."""
        with self.process.stdin as send, self.process.stdout as receive:
            line = read_line(receive)
            answers.put((self, line))
            while line and (item := self.items.get()):
                try:
                    write_line(send, item)
                    line = read_line(receive)
                except OSError:  # a broken pipe
                    line = b""
                answers.put((self, line))

    def assign(self, index, line):
        """Give it an item: its place in the list and its line of JSON."""
        self.index = index
        self.items.put(line)
        self.start_clock()

    def start_clock(self):
        limit = self.limit if HAS_TIMERS else min(self.limit, PATIENCE * self.cpu_limit)
        self.deadline = time.monotonic() + (limit + SLACK if self.ready else START)

    def hear(self, line):
        """Take what it said -> [], or [value or Failure] if that is the end of its item."""
        if line == b"ready\n" and not self.ready:
            self.ready = True
            self.start_clock()
            return []
        if not line:
            self.has_ended = True
            return [self.failure()]
        answer = json.loads(line)
        return [answer["value"] if "value" in answer else Failure("error", answer["error"])]

    def failure(self):
        """Why it has no value for its item, after it ended or past its deadline; ends it."""
        late = not self.has_ended and time.monotonic() > self.deadline
        status = self.end()
        if not self.ready:
            raise RuntimeError(f"a worker could not import {self.function}")
        if status == SPENT or (late and not HAS_TIMERS and self.cpu_limit < self.limit):
            return Failure("timeout", f"no result in {self.cpu_limit:g} seconds of processor time")
        if late or status == LATE:
            return Failure("timeout", f"no result in {self.limit:g} seconds")
        return Failure("crash", f"the process ended with status {status}")

    def end(self):
        """Kill the process, if it lives -> its exit status."""
        self.has_ended = True
        self.process.kill()
        self.items.put(None)
        return self.process.wait()


def read_line(file):
    """A line of bytes of an unbuffered file; b"" at its end, or if it ends within a line."""
    parts = [os.read(file.fileno(), READ)]
    while parts[-1] and not parts[-1].endswith(b"\n"):
        parts.append(os.read(file.fileno(), READ))
    return b"".join(parts) if parts[-1] else b""


def write_line(file, line):
    left = memoryview(line)
    while left:
        left = left[os.write(file.fileno(), left) :]


class Workers(contextlib.AbstractContextManager):
    """At most n processes that run a function, "module:name", of one argument.

    limit: seconds per item by the clock. cpu_limit: seconds of processor time per item (default:
    limit). memory: bytes of a process's address space; beyond it the function gets a MemoryError.
    """

    def __init__(self, function, n=2, limit=2.0, memory=4 << 30, cpu_limit=None):
        self.settings = (function, limit, memory, limit if cpu_limit is None else cpu_limit)
        self.n = n
        self.begin()

    def begin(self):
        self.idle = []
        self.answers = queue.SimpleQueue()
        self.owner = os.getpid()

    def __exit__(self, *_):
        while self.idle:
            self.idle.pop().end()

    def map(self, items):
        """The value of each item or its Failure, in order.

        Raises RuntimeError if the function cannot be imported.
        """
        if self.owner != os.getpid():  # after a fork: the processes and threads are the parent's
            self.begin()
        lines = [json.dumps(item).encode() + b"\n" for item in items]
        results = [None] * len(lines)
        todo, busy = deque(enumerate(lines)), []
        try:
            while todo or busy:
                while todo and len(busy) < self.n:
                    worker = self.idle.pop() if self.idle else self.start()
                    worker.assign(*todo.popleft())
                    busy.append(worker)
                for worker, result in self.next_results(busy):
                    results[worker.index] = result
                    busy.remove(worker)
                    # After a failure a new one: it is ready when the next item comes.
                    self.idle.append(self.start() if worker.has_ended else worker)
        finally:  # interrupted: what still runs is not waited for
            for worker in busy:
                worker.end()
        return results

    def start(self):
        return Worker(*self.settings, self.answers)

    def next_results(self, busy):
        """Wait for the next line or deadline -> [(worker, value or Failure)] of finished items."""
        seconds = min(worker.deadline for worker in busy) - time.monotonic()
        try:
            # Windows takes Ctrl-C only between two waits.
            worker, line = self.answers.get(timeout=min(max(0.0, seconds), 0.5))
        except queue.Empty:
            late = [worker for worker in busy if time.monotonic() > worker.deadline]
            return [(worker, worker.failure()) for worker in late]
        if worker.has_ended:  # killed before this was read
            return []
        results = worker.hear(line)
        if worker in busy:
            return [(worker, result) for result in results]
        if worker.has_ended:  # while it had nothing to do
            self.idle.remove(worker)
        return []


# ---- The worker's side -------------------------------------------------------------------------


def serve(name, limit, memory, cpu_limit):
    """The life of a worker: a line of JSON in, a line of JSON out, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    if hasattr(signal, "SIGPIPE"):  # the parent is gone: end, and say nothing
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints goes to the terminal
    # Not every system has this limit, and it cannot be above an earlier one.
    if resource:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    module, _, function = name.partition(":")
    function = getattr(importlib.import_module(module), function)
    timers = Timers(limit, cpu_limit)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        timers.start()
        try:
            answer = json.dumps({"value": function(json.loads(line))})
        except BaseException as error:
            answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
        timers.stop()
        answers.write(answer.encode() + b"\n")
        answers.flush()


class Timers:
    """End this process after so many seconds, or seconds of processor time, of an item.

    The kernel does it where it can. Elsewhere a thread does.
    """

    def __init__(self, limit, cpu_limit):
        self.limits = limit, cpu_limit
        self.began = None  # clocks at the start of an item
        if not HAS_TIMERS:
            threading.Thread(target=self.watch, daemon=True).start()

    def start(self):
        if HAS_TIMERS:
            self.set(*self.limits)
        else:
            self.began = time.monotonic(), time.process_time()

    def stop(self):
        if HAS_TIMERS:
            self.set(0, 0)
        else:
            self.began = None

    def set(self, seconds, cpu_seconds):
        """Have the kernel end this process after so many seconds; 0: not at all."""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        # Processor time, too: math-verify resets the other one.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    def watch(self):
        while True:
            time.sleep(TICK)
            began = self.began
            if not began:
                continue
            if time.process_time() - began[1] > self.limits[1]:
                os._exit(SPENT)
            if time.monotonic() - began[0] > self.limits[0]:
                os._exit(LATE)


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
