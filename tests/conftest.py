"""All tests run from any directory, without network, on one thread (sums are then the same in every run)."""
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false",
                  PYTHONDONTWRITEBYTECODE="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402  (after the environment that it reads)

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name == "test_mutants.py")


def pytest_collection_finish(session):
    if session.items and session.items[-1].path.name == "test_mutants.py" and not session.config.option.collectonly:
        session.items[-1].module.start()
