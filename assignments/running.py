"""Run the tests of one exercise in a process of its own, with limits, and say what came out.

    outcome = run(folder, tests, Limits(seconds=60))

On Linux the process is a fork of this one, which loads the libraries once (call `preload`);
elsewhere it is a new Python. What it prints goes nowhere. It writes a line of JSON at each step, so
that what it did before it hung, crashed or ended is known.
"""

import atexit
import contextlib
import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

HAS_FORK = sys.platform.startswith("linux")
LONGEST = 400  # characters of a message


class Limits(NamedTuple):
    # of processor time for all tests of an exercise; by the clock 10 and three times as many; on
    # Windows by the clock alone
    seconds: float = 20.0
    memory: float = 2.0  # GB beyond what the libraries take; Linux only

    @property
    def by_the_clock(self):
        return 10 + 3 * self.seconds


class Test(NamedTuple):
    """One test that ran, or should have."""

    name: str  # tests/FILE.py::FUNCTION[case]
    passed: bool
    message: str = ""  # one line
    hint: str = ""  # the test's docstring: the calculation by hand


class Outcome(NamedTuple):
    tests: list  # of Test
    problem: str = ""  # why tests are missing: a line for the student


def preload():
    """Import the libraries that the tests use, once for all forks."""
    if not HAS_FORK:
        return
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update(settings, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    import tokenizers  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()  # pytest collects garbage often, in every fork
    atexit.register(gc.unfreeze)  # some libraries complain of what is left at the end


# ---- the parent's side


def run(folder, tests, limits):
    """Run the given tests (see exercises.py) of the project in `folder` -> Outcome."""
    handle, report = tempfile.mkstemp(suffix=".jsonl")
    os.close(handle)
    try:
        start = fork if HAS_FORK else launch
        ending = start(Path(folder), tests, Path(report), limits)
        text = Path(report).read_text(encoding="utf-8", errors="replace")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(report)
    return outcome_of(text, ending)


def fork(folder, tests, report, limits):
    """Run the tests in a fork -> "" or how it ended before its time."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            silence()
            set_limits(limits)
            run_here(folder, tests, report)
        finally:
            os._exit(70)
    deadline = time.monotonic() + limits.by_the_clock
    pause = 0.005
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            kill_group(child)
            os.waitpid(child, 0)
            return f"stopped after {limits.by_the_clock:g} seconds"
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    kill_group(child)  # what it has started
    return describe(os.waitstatus_to_exitcode(status), limits)


def launch(folder, tests, report, limits):
    """The same in a new Python, for systems where a fork is not safe."""
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), str(report)]
    command += [json.dumps(tests), json.dumps(limits)]
    # On POSIX a session of its own, so that its children can be ended with it.
    options = {} if os.name == "nt" else {"start_new_session": True}
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, **options)
    try:
        return describe(process.wait(limits.by_the_clock), limits)
    except subprocess.TimeoutExpired:
        return f"stopped after {limits.by_the_clock:g} seconds"
    finally:
        if os.name == "nt":
            kill = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
            subprocess.run(kill, stdout=null, stderr=null, check=False)
        else:
            kill_group(process.pid)
        process.kill()
        process.wait()


def kill_group(process):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def describe(code, limits):
    """An exit code -> "" for pytest's own, or words."""
    if code in range(0, 6):
        return ""
    if code == -getattr(signal, "SIGXCPU", 0):
        return f"stopped after {limits.seconds:g} seconds of processor time"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"the process was ended by {name}"
    return f"the process ended with status {code}"


def outcome_of(text, ending):
    """The lines that the process wrote, and how it ended -> Outcome."""
    collected, finished, started, problem = {}, {}, None, ""
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # cut off in the middle
            continue
        if "collected" in event:
            collected = event["collected"]
        elif "start" in event:
            started = event["start"]
        elif "name" in event:
            finished[event["name"]] = event
        elif "problem" in event:
            problem = problem or event["problem"]
    if not problem and (ending or set(collected) - set(finished) or not collected):
        last = started if started and started not in finished else None
        where = f" in {last.partition('::')[2]}" if last else ""
        problem = (ending or "the process ended before its tests were over") + where
    tests = []
    for name, hint in collected.items():
        event = finished.get(name)
        if event is None:
            tests.append(Test(name, False, problem, hint))
        else:
            tests.append(Test(name, event["passed"], event["message"], hint))
    return Outcome(tests, problem)


# ---- the child's side


def silence():
    """Nothing in, and nothing that is printed goes anywhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def set_limits(limits):
    """Limit memory and the size of files, where the system knows such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(ValueError, OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + int(limits.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(ValueError, OSError):
        seconds = math.ceil(limits.seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_here(folder, tests, report):
    """Run the tests in this process, which then ends."""
    os.chdir(folder)
    # The folder's modules are to be imported, not those beside this file.
    here = Path(__file__).resolve().parent
    mine = (here, here.parent, here.parent / "tests")
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in mine]
    for name in ("source", "exercises", "cut", "running", "grade", "conftest"):
        sys.modules.pop(name, None)
    functions = dict.fromkeys(test.partition("[")[0] for test in tests)
    # -vv: comparisons in full
    options = ["-vv", "-s", "-p", "no:cacheprovider", "--rootdir", str(folder), *functions]
    with open(report, "a", encoding="utf-8") as file:
        code = pytest.main(options, plugins=[Reporter(tests, file)])
    os._exit(int(code))


def belongs(name, tests):
    """Whether a collected test is one of these: a file, a function, or some of its cases."""

    def is_part(test):
        end = "" if "[" in test else "[" if "::" in test else "::"
        return name == test or name.startswith(test + end)

    return any(map(is_part, tests))


class Reporter:
    """A plugin of pytest that writes a line of JSON at each step."""

    def __init__(self, tests, file):
        self.tests, self.file = tests, file

    def write(self, **event):
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(problem="cannot be imported: " + last_line(str(report.longrepr)))

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if belongs(item.nodeid, self.tests)]
        hints = {item.nodeid: tidy(item.function.__doc__ or "") for item in items}
        self.write(collected=hints)

    def pytest_runtest_logstart(self, nodeid):
        self.write(start=nodeid)

    def pytest_runtest_logreport(self, report):
        # A skipped test is not a passed one.
        if report.when == "call" or not report.passed:
            message = "" if report.passed else getattr(report, "in_one_line", "was skipped")
            self.write(name=report.nodeid, passed=report.passed, message=message)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            report.in_one_line = message_of(call.excinfo)
        return report


def tidy(text):
    return re.sub(r"\s+", " ", text).strip()


def shortened(text):
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


def last_line(text):
    """The error that a traceback ends with."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    lines = lines or [line.strip() for line in text.splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else "no reason was given"


def message_of(caught):
    """What went wrong in a test, as one line: of a comparison expected against obtained."""
    error = caught.value
    if isinstance(error, NotImplementedError) and str(error).startswith("exercise: "):
        return f"{error}: not written yet"
    if missing := re.match(r"DID NOT RAISE <class '(?:\w+\.)*(\w+)'>", str(error)):
        return f"expected {missing[1]}, obtained no error"
    if isinstance(error, AssertionError):
        return comparison(str(error))
    place = caught.traceback[-1]
    file = Path(str(place.path)).name
    text = tidy(str(error)) or "no message"
    where = f"{file}, line {place.lineno + 1}, in {place.name}"
    return shortened(f"{type(error).__name__}: {text[:300]} ({where})")


def comparison(text):
    """pytest's words for a comparison that failed -> "expected ..., obtained ..."."""
    first = text.split("\n")[0].strip()
    pattern = re.search(r"Expected regex: (.*)\n\s*Actual message: (.*)", text)
    if pattern:
        return shortened(f"expected a message with {pattern[1]}, obtained {pattern[2]}")
    if not first.startswith("assert "):
        return shortened(first)
    found, sign, expected = split_comparison(without_outer(first.removeprefix("assert ")))
    if not sign:
        return shortened(first)
    sign = "" if sign in ("==", "is") else f"{sign} "
    found, expected = readable(found), readable(expected)
    # Long texts: where they begin to differ.
    if len(found) + len(expected) > LONGEST - 30:
        at = len(os.path.commonprefix([found, expected]))
        start, most = max(0, at - 30), LONGEST // 2 - 30
        dots = "..." if start else ""
        found, expected = (dots + side[start : start + most] for side in (found, expected))
    return shortened(f"expected {sign}{expected}, obtained {found}")


def depths(text):
    """The depth of brackets at each character; None inside a string."""
    found, depth, quote, escaped = [], 0, "", False
    for character in text:
        if quote:
            found.append(None)
            if escaped or character == "\\":
                escaped = not escaped
            elif character == quote:
                quote = ""
            continue
        if character in "'\"":
            quote = character
        depth -= character in ")]}"
        found.append(depth)
        depth += character in "([{"
    return found


def without_outer(text):
    """(a == b and c) -> a == b and c. What is cut off has no closing bracket."""
    while text.startswith("("):
        closing = [i for i, depth in enumerate(depths(text)) if depth == 0 and text[i] == ")"]
        if closing and closing[0] < len(text) - 1:
            break
        text = text[1:].removesuffix(")") if closing else text[1:]
    return text


def split_comparison(text):
    """a == b -> (a, "==", b); the sign is "" if there is no comparison outside of brackets."""
    at = depths(text)
    for match in re.finditer(r" (==|is|<=|>=|<|>|!=|in|not in) ", text):
        if at[match.start()] == 0:
            return text[: match.start()], match[1], text[match.end() :]
    return text, "", ""


def readable(text):
    """A side of a comparison without approx(...) and its tolerances, numbers to six digits."""
    text = re.sub(r" ± [-+\d.e]+", "", text)
    while match := re.search(r"approx\(", text):
        closing = next(
            (match.end() + i for i, depth in enumerate(depths(text[match.end() :])) if depth == -1),
            len(text),
        )
        text = text[: match.start()] + text[match.end() : closing] + text[closing + 1 :]
    return re.sub(r"\d+\.\d{7,}(e[-+]?\d+)?", lambda number: f"{float(number[0]):.6g}", text)


if __name__ == "__main__":
    _folder, _report, _tests, _limits = sys.argv[1:5]
    set_limits(Limits(*json.loads(_limits)))
    run_here(Path(_folder), json.loads(_tests), Path(_report))
