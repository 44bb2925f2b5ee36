"""Each mistake listed in mutants/ is put into a copy of the project, where its test has to fail.

They take as long as all other tests together, so conftest.py starts them first and puts their test
last.
"""

import atexit
import functools
import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mutants import MUTANTS

ROOT = Path(__file__).resolve().parent.parent
N_WORKERS = 1  # of two cores: the other tests are what a run waits for
if not importlib.util.find_spec("triton"):  # those tests are then skipped
    MUTANTS = [mutant for mutant in MUTANTS if "test_triton.py" not in mutant[4]]


def plant(mutant, folder):
    """Copy the project to `folder` with a few lines replaced.

    ValueError if the right lines are not there exactly once.
    """
    file, right, wrong, _, _ = mutant
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "out", "__pycache__")
    )
    (folder / file).write_text(replaced((ROOT / file).read_text(), right, wrong, file))


def replaced(text, right, wrong, file):
    """The text with the lines `right` replaced by `wrong`, at the indentation where they stand."""
    lines, wanted = text.split("\n"), right.split("\n")
    stripped = [line.strip() for line in wanted]
    places = [
        i
        for i in range(len(lines) - len(wanted) + 1)
        if [line.strip() for line in lines[i : i + len(wanted)]] == stripped
    ]
    if len(places) != 1:
        raise ValueError(f"{file}: {len(places)} places read {right!r}; mutants/ is out of date")
    start, end = places[0], places[0] + len(wanted)
    indent = lines[start][: len(lines[start]) - len(wanted[0])]
    new = [indent + line if line else "" for line in wrong.split("\n")]
    return "\n".join(lines[:start] + new + lines[end:])


def work(folder, worker):
    """Run this worker's share of the mutants -> pytest's exit code of each, printed as JSON.

    The heavy libraries are imported once; each mutant gets a fork that has them, and imports the
    mutated project.
    """
    import datasets.utils  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch.distributed.checkpoint  # noqa: F401
    import torch.distributed.fsdp  # noqa: F401
    import torch.distributed.tensor.parallel  # noqa: F401
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    gc.freeze()  # the libraries' objects: pytest collects garbage ten times in each fork
    os.nice(10)  # the other tests have only one process: they go first
    codes, parent = {}, os.getppid()
    for i in range(worker, len(MUTANTS), N_WORKERS):
        if os.getppid() != parent:  # the tests were killed
            break
        place = folder / str(i)
        plant(MUTANTS[i], place)
        codes[i] = run_in_fork(place, MUTANTS[i][4])
        shutil.rmtree(place)
    gc.unfreeze()  # some libraries complain of what is left at the end
    print(json.dumps(codes))


def run_in_fork(place, test):
    """Run one test of the copy in `place` -> pytest's exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(place / "output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(place)
    # The copy's modules are to be imported, not those of the original.
    originals = (ROOT, ROOT / "tests")
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in originals]
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider"]
    os._exit(pytest.main([*options, f"tests/{test}"]))


@functools.cache
def start():
    """Start the processes that try the mutants, once -> those processes."""
    folder = tempfile.mkdtemp()
    workers = []
    for i in range(N_WORKERS):
        command = [sys.executable, __file__, folder, str(i)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    def clean_up():
        for worker in workers:
            worker.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(clean_up)
    return workers


def test_every_mistake_is_caught():
    """At least 30 mistakes, each caught: pytest ends with 1, a failed test.

    0 is a mistake that survived, more is a broken run.
    """
    assert len(MUTANTS) >= 30
    codes = {}
    for worker in start():
        codes |= json.loads(worker.communicate()[0].splitlines()[-1])
    assert len(codes) == len(MUTANTS)
    assert not {MUTANTS[int(i)][3]: code for i, code in codes.items() if code != 1}


if __name__ == "__main__" and sys.argv[1] == "check":
    # python tests/test_mutants.py check [grpo.py data ...]: name the entries of these files and
    # rooms whose right lines are no longer there, and exit with 1 if there are any
    outdated = False
    for mutant in MUTANTS:
        if not sys.argv[2:] or mutant[0] in sys.argv[2:] or mutant[0].split("/")[0] in sys.argv[2:]:
            try:
                replaced((ROOT / mutant[0]).read_text(), *mutant[1:3], mutant[0])
            except (ValueError, OSError) as error:
                print(error)
                outdated = True
    sys.exit(outdated)
elif __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
