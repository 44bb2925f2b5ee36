"""The notebook runs, cell by cell, without Jupyter."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOUR = ROOT / "assignments" / "tour.ipynb"
# Runs the code cells of sys.argv[1] in order, in one namespace.
RUN = """
import json, sys
names = {"__name__": "__main__"}
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
"""


def run(notebook, folder):
    settings = {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    settings |= {"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", RUN, str(notebook)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | settings, capture_output=True, text=True, timeout=600
    )


def cells_of(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_the_tour_runs():
    """From its own folder, as Jupyter starts it. It finds the project, and tells what it promises."""
    done = run(TOUR, TOUR.parent)
    assert done.returncode == 0, done.stderr
    for part in (
        "0 waits, right: True\ntry 3 * 2 = 6 + 4 = 10 low try 4 + 2 = 6 * 3 = 18 yes",
        "1 waits, right: False",
        "yes wait , try",
        "sequence  loss +0.0000",
        "token     loss -0.0936",
        "tokens changed their rank",
        "advantages                6 / 6",
    ):
        assert part in done.stdout, done.stdout


def test_a_cell_that_raises_fails(tmp_path):
    """So that the test above can fail; and outside of the project the first cell says what to do."""
    broken = tmp_path / "broken.ipynb"
    cell = {"cell_type": "code", "source": ["1 / 0"]}
    broken.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    done = run(broken, tmp_path)
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr and "cell 0" in done.stderr
    done = run(TOUR, tmp_path)
    assert done.returncode != 0 and "set REPOSITORY above" in done.stderr


def test_the_tour_is_stored_without_outputs():
    cells = cells_of(TOUR)
    assert [c["id"] for c in cells if c.get("outputs") or c.get("execution_count")] == []
    assert {c["cell_type"] for c in cells} == {"markdown", "code"}
    assert TOUR.stat().st_size < 50_000
