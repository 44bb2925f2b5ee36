"""All tests run from any directory, without network, on one thread (sums are then the same in every run). Those marked
slow, minutes each, run when they are asked for: `-m slow`."""

import os
import sys
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    PYTHONDONTWRITEBYTECODE="1",
)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402  (after the environment that it reads)

torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes and is left out unless -m asks for it")
    config.option.markexpr = config.option.markexpr or "not slow"


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name == "test_mutants.py")


def pytest_collection_finish(session):
    if (
        session.items
        and session.items[-1].path.name == "test_mutants.py"
        and not session.config.option.collectonly
    ):
        session.items[-1].module.start()


def pytest_terminal_summary(terminalreporter):
    slow = [
        item
        for item in terminalreporter.stats.get("deselected", ())
        if item.get_closest_marker("slow")
    ]
    if slow and terminalreporter.config.option.markexpr == "not slow":
        terminalreporter.write_line(
            f"{len(slow)} slow tests were left out: bash tests/run.sh -m slow"
        )
