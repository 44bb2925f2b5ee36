"""Settings of all tests: any directory, no network, one thread, for the same sums each time.

Tests marked slow take minutes and run when they are asked for: `-m slow`.
"""

import inspect
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# A GPU is hidden: the tests compare to the bit, on a CPU. tests/gpu.py is for GPUs.
# torch reads OMP_NUM_THREADS when it is first imported, which is after this file.
# It is not imported here: a test of plain Python then starts in a second.
os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    PYTHONDONTWRITEBYTECODE="1",
)

# Real questions, traces and tokenizers, which are not part of the repository.
OPTIONAL_DATA = Path(os.environ.get("REASONING_DATA", "not given"))


def optional_data(name):
    """Path of a file or folder of OPTIONAL_DATA. If it is missing the calling test is skipped."""
    path = OPTIONAL_DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in the folder of optional data (REASONING_DATA names it)")
    return path


@pytest.fixture(scope="session")
def bpe():
    """A BPE tokenizer with a chat template, in the place of a real model's."""
    from stand_ins import bpe_tokenizer

    return bpe_tokenizer()


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes and is left out unless -m asks for it")
    config.option.markexpr = config.option.markexpr or "not slow"


def pytest_collection_modifyitems(items):
    """Put the mutants last: they run beside the other tests."""
    items.sort(key=lambda item: item.path.name == "test_mutants.py")


def pytest_collection_finish(session):
    """Start the mutants before the first test."""
    if not session.items or session.config.option.collectonly:
        return
    last = session.items[-1]
    if last.path.name == "test_mutants.py":
        last.module.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Print the docstring of a test that fails: it holds the calculation by hand."""
    report = yield
    docstring = inspect.getdoc(item.function) if hasattr(item, "function") else None
    if report.failed and call.when == "call" and docstring:
        report.sections.append(("what this test checks", docstring))
    return report


def pytest_terminal_summary(terminalreporter):
    """Say how many tests were left out because they are slow."""
    left_out = terminalreporter.stats.get("deselected", ())
    slow = [item for item in left_out if item.get_closest_marker("slow")]
    if slow and terminalreporter.config.option.markexpr == "not slow":
        terminalreporter.write_line(
            f"{len(slow)} slow tests were left out: bash tests/run.sh -m slow"
        )
