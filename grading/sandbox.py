"""Processes that run one function on untrusted items, each with a hard time limit.

    with Workers("grading.rewards:score_group", n=2, limit=10.0) as pool:
        results = pool.map(items)                # in their order; a Failure where there is no value

What hangs inside C (a regular expression, a huge power) holds the interpreter: no thread and no signal handler in Python
can stop it, only the end of its process. Items and values are lines of JSON through pipes, never pickles, and the
processes plain children: multiprocessing's would import the calling script, and torch with it, once more each.

A worker past the limit is killed, and another one starts in its place at once, so that the next item does not wait for
all of its start; so after a crash. The first item starts the first. Workers end with their parent, however it ended: at
the end of their input, or, busy, by the kernel's timers.
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

# seconds: past the limit until the parent kills it itself; to import the function
SLACK, START = 1.0, 60.0


class Failure(NamedTuple):
    kind: str  # "timeout"; "crash": the process died; "error": the function raised an exception
    text: str


class Worker:
    def __init__(self, function, limit, memory):
        paths = [str(Path(__file__).resolve().parent.parent), *map(os.path.abspath, sys.path)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grading.sandbox", function, str(limit), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self.input, self.output = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.input, False)
        self.function, self.limit, self.ready, self.received = function, limit, False, b""

    def take(self, index, text):
        self.index, self.unsent = index, text
        self.deadline = time.monotonic() + (self.limit + SLACK if self.ready else START)

    def look(self, readable):
        """Send and receive what the pipes allow -> [], or [value or Failure]; after a failure `process` is None."""
        # full; dead, as its output will tell
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self.unsent = self.unsent[os.write(self.input, self.unsent) :] if self.unsent else b""
        new = os.read(self.output, 1 << 20) if readable else None
        self.received += new or b""
        if not self.ready and b"\n" in self.received:
            self.ready, self.received = True, self.received.partition(b"\n")[2]
            self.take(self.index, self.unsent)
        if self.received.endswith(b"\n"):
            answer, self.received = json.loads(self.received), b""
            return [answer["value"] if "value" in answer else Failure("error", answer["error"])]
        late = time.monotonic() > self.deadline
        if new != b"" and not late:
            return []
        code = self.end()
        if not self.ready:
            raise RuntimeError(f"a worker could not import {self.function}")
        if late or code in (-signal.SIGALRM, -signal.SIGPROF):
            return [Failure("timeout", f"no result in {self.limit:g} seconds")]
        return [Failure("crash", f"the process ended with status {code}")]

    def end(self):
        """Kill the process, if it lives -> its exit status."""
        self.process.kill()
        with self.process as process:  # closes the pipes and waits
            self.process = None
        return process.returncode


class Workers(contextlib.AbstractContextManager):
    """At most n processes that run a function, "module:name", of one argument. limit: seconds per item; memory: bytes
    of a process's address space, past which the function gets a MemoryError."""

    def __init__(self, function, n=2, limit=2.0, memory=4 << 30):
        self.settings, self.n, self.idle, self.owner = (function, limit, memory), n, [], os.getpid()

    def __exit__(self, *_):
        while self.idle:
            self.idle.pop().end()

    def map(self, items):
        """The value of each item or its Failure, in order. Raises RuntimeError when the function cannot be imported."""
        if self.owner != os.getpid():  # after a fork: the pipes are the parent's
            self.idle, self.owner = [], os.getpid()
        texts = [json.dumps(item).encode() + b"\n" for item in items]
        results, todo, busy = [None] * len(texts), deque(enumerate(texts)), []
        try:
            while todo or busy:
                while todo and len(busy) < self.n:
                    busy.append(self.idle.pop() if self.idle else Worker(*self.settings))
                    busy[-1].take(*todo.popleft())
                with selectors.DefaultSelector() as selector:
                    for worker in busy:
                        selector.register(worker.output, selectors.EVENT_READ)
                        if worker.unsent:
                            selector.register(worker.input, selectors.EVENT_WRITE)
                    wait = min(worker.deadline for worker in busy) - time.monotonic()
                    ready = {key.fd for key, _ in selector.select(max(0.0, wait))}
                for worker in list(busy):
                    for result in worker.look(worker.output in ready):
                        results[worker.index] = result
                        busy.remove(worker)
                        self.idle += [worker if worker.process else Worker(*self.settings)]
        finally:  # interrupted: what still runs is not waited for
            for worker in busy:
                if worker.process:
                    worker.end()
        return results


def serve(name, limit, memory):
    """The life of a worker: a line of JSON in, a line of JSON out, until the input ends."""

    def arm(seconds):
        # the clock, which math-verify resets; processor time
        for timer in signal.ITIMER_REAL, signal.ITIMER_PROF:
            signal.setitimer(timer, seconds)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the parent is gone: end, and say nothing
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints goes to the terminal
    # not on every system, and not above an earlier limit
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    module, _, function = name.partition(":")
    function = getattr(importlib.import_module(module), function)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        arm(limit)
        try:
            answer = json.dumps({"value": function(json.loads(line))})
        except BaseException as error:
            answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
        arm(0)
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
