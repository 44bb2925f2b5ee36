"""Processes that run one function on untrusted items, each with a hard time limit.

    with Workers("grading.rewards:score_group", n=2, limit=10.0) as pool:
        results = pool.map(items)            # in their order; a Failure where there is no value

What hangs inside C (a regular expression, a huge power) holds the interpreter: no thread and no
signal handler in Python can stop it, only the end of its process. Items and values are lines of
JSON through pipes, never pickles. The processes are plain children: those of multiprocessing would
import the calling script, and torch with it, once more each.

A worker past the limit is killed, as is one that crashed, and another one starts in its place at
once, so that the next item does not wait for all of its start. The first item starts the first.
A limit by the clock depends on what else the machine does. With cpu_limit the processor time of an
item is limited, too, and the other limit may be long.
Workers end with their parent, however it ended: when their input ends or, if they are busy, by the
kernel's timers.
"""

import contextlib
import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

SLACK = 1.0  # seconds past the limit until the parent kills a worker whose own timers failed
START = 300.0  # seconds to import the function, on a busy machine, too
READ = 1 << 20  # bytes


class Failure(NamedTuple):
    """Why an item has no value."""

    kind: str  # "timeout"; "crash": the process died; "error": the function raised an exception
    text: str


# ---- The parent's side -------------------------------------------------------------------------


class Worker:
    """A process that runs a function on one item after the other."""

    def __init__(self, function, limit, memory, cpu_limit):
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
        self.input = self.process.stdin.fileno()
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.input, False)
        self.function = function
        self.limit = limit
        self.cpu_limit = cpu_limit
        self.ready = False  # the function is imported
        self.received = b""

    def assign(self, index, line):
        """Give it an item: its place in the list and its line of JSON."""
        self.index = index
        self.unsent = line
        self.deadline = time.monotonic() + (self.limit + SLACK if self.ready else START)

    def poll(self, readable):
        """Send and receive what the pipes allow -> [], or [value or Failure] if the item is done.

        readable: there is something to receive. After a crash or timeout `process` is None.
        """
        if self.unsent:
            self.send()
        new = os.read(self.output, READ) if readable else None
        self.received += new or b""
        if not self.ready and b"\n" in self.received:
            self.ready = True
            self.received = self.received.partition(b"\n")[2]
            self.assign(self.index, self.unsent)  # the clock starts now
        if self.received.endswith(b"\n"):
            answer = json.loads(self.received)
            self.received = b""
            return [answer["value"] if "value" in answer else Failure("error", answer["error"])]
        late = time.monotonic() > self.deadline
        ended = new == b""
        if not ended and not late:
            return []
        status = self.end()
        if not self.ready:
            raise RuntimeError(f"a worker could not import {self.function}")
        if late or status == -signal.SIGALRM:
            return [Failure("timeout", f"no result in {self.limit:g} seconds")]
        if status == -signal.SIGPROF:
            return [
                Failure("timeout", f"no result in {self.cpu_limit:g} seconds of processor time")
            ]
        return [Failure("crash", f"the process ended with status {status}")]

    def send(self):
        # The pipe may be full, or the process dead, as its output will tell.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            n_sent = os.write(self.input, self.unsent)
            self.unsent = self.unsent[n_sent:]

    def end(self):
        """Kill the process, if it lives -> its exit status."""
        self.process.kill()
        with self.process as process:  # closes the pipes and waits
            self.process = None
        return process.returncode


class Workers(contextlib.AbstractContextManager):
    """At most n processes that run a function, "module:name", of one argument.

    limit: seconds per item by the clock. cpu_limit: seconds of processor time per item (default:
    limit). memory: bytes of a process's address space; beyond it the function gets a MemoryError.
    """

    def __init__(self, function, n=2, limit=2.0, memory=4 << 30, cpu_limit=None):
        self.settings = (function, limit, memory, limit if cpu_limit is None else cpu_limit)
        self.n = n
        self.idle = []
        self.owner = os.getpid()

    def __exit__(self, *_):
        while self.idle:
            self.idle.pop().end()

    def map(self, items):
        """The value of each item or its Failure, in order.

        Raises RuntimeError if the function cannot be imported.
        """
        if self.owner != os.getpid():  # after a fork: the pipes are the parent's
            self.idle, self.owner = [], os.getpid()
        lines = [json.dumps(item).encode() + b"\n" for item in items]
        results = [None] * len(lines)
        todo, busy = deque(enumerate(lines)), []
        try:
            while todo or busy:
                while todo and len(busy) < self.n:
                    worker = self.idle.pop() if self.idle else Worker(*self.settings)
                    worker.assign(*todo.popleft())
                    busy.append(worker)
                readable = wait_for(busy)
                for worker in list(busy):
                    for result in worker.poll(worker.output in readable):
                        results[worker.index] = result
                        busy.remove(worker)
                        # After a failure a new one: it is ready when the next item comes.
                        self.idle.append(worker if worker.process else Worker(*self.settings))
        finally:  # interrupted: what still runs is not waited for
            for worker in busy:
                if worker.process:
                    worker.end()
        return results


def wait_for(workers):
    """Wait until a pipe is ready or the first deadline is over -> the files that are ready."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.output, selectors.EVENT_READ)
            if worker.unsent:
                selector.register(worker.input, selectors.EVENT_WRITE)
        seconds = min(worker.deadline for worker in workers) - time.monotonic()
        return {key.fd for key, _ in selector.select(max(0.0, seconds))}


# ---- The worker's side -------------------------------------------------------------------------


def serve(name, limit, memory, cpu_limit):
    """The life of a worker: a line of JSON in, a line of JSON out, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the parent is gone: end, and say nothing
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints goes to the terminal
    # Not every system has this limit, and it cannot be above an earlier one.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    module, _, function = name.partition(":")
    function = getattr(importlib.import_module(module), function)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        set_timers(limit, cpu_limit)
        try:
            answer = json.dumps({"value": function(json.loads(line))})
        except BaseException as error:
            answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
        set_timers(0, 0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


def set_timers(seconds, cpu_seconds):
    """Have the kernel end this process after so many seconds; 0: not at all."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # Processor time, too: math-verify resets the other one.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
