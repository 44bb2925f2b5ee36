"""Runs: completion files with their headers, and which model wrote what.

The same file name in several directories is one run under several seeds.
"""

import json
import math
import os
import re
import statistics
from pathlib import Path
from typing import NamedTuple

from engine import runlog
from engine.format import DATE, FORMATS, with_asks
from engine.rows import BadInput, read_rows
from grading.answers import answer_of, grade

UNFORCED = "no forcing"


class Run(NamedTuple):
    """One completion file."""

    name: str  # of the file, without .jsonl
    seed: str  # of the replicate, as people know it
    settings: dict  # the header beside the file, {} without one
    rows: list
    path: str = ""
    graded: dict | None = None  # evaluate.metrics of the rows, once they are graded

    def written_by(self, model):
        """Whether the header says that the model directory (or hub name) `model` wrote this."""
        author = self.settings.get("model")
        return bool(author) and os.path.realpath(author) == os.path.realpath(model)

    def forcing(self):
        """How thinking was forced, in words: "budget 32, Wait ×1", or UNFORCED."""
        budget, waits = self.settings.get("thinking_budget"), self.settings.get("waits")
        words = []
        if budget is not None:
            words.append(f"budget {budget}")
        if waits:
            words.append(f"Wait ×{waits}")
        return ", ".join(words) or UNFORCED

    def is_unforced(self):
        return self.forcing() == UNFORCED

    def question_shares(self, group):
        """{question: share of its samples that are right}, of one group or of "all"."""
        groups = self.graded["groups"]
        chosen = groups if group == "all" else [group] if group in groups else []
        return {
            question: share
            for name in chosen
            for question, (share, _) in groups[name]["questions"].items()
        }


# ---------------------------------------------------------------- rows


def row_scope(row):
    """(group, task) of a row, by the same rule as evaluate.py."""
    group = str(row.get("group") or "all")
    return group, str(row.get("task") or row.get("subject") or group)


def sample_key(row):
    """(question, sample): what identifies a row in its run."""
    return str(row["id"]), row.get("sample", 0)


def is_right(row):
    """Whether a row's answer is right; None where there is nothing to compare it with."""
    return grade(row, answer_of(row))


# ---------------------------------------------------------------- reading


def read_json(path):
    """A JSON file -> its value. Raises BadInput."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error})") from error


def read_runs(paths):
    """Completion files, or directories of them -> list of Run. Each directory is a replicate."""
    files = []
    for path in map(Path, paths):
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    folders = {file: os.path.realpath(file.parent) for file in files}
    seeds = name_replicates(folders.values())
    runs = []
    for file, folder in folders.items():
        header = runlog.header_of(file)
        settings = read_json(header) if header.is_file() else {}
        rows = read_rows(file, need=("id",))
        runs.append(Run(file.stem, seeds[folder], settings, rows, str(file)))
    return runs


def name_replicates(folders):
    """Folders -> {folder: the number after "seed" in its path, else its place in the list}."""
    names = {}
    for folder in folders:
        numbers = re.findall(r"seed[-_]?(\d+)", folder)
        names[folder] = numbers[-1] if numbers else None
    if None in names.values() or len(set(names.values())) < len(names):
        return {folder: str(place) for place, folder in enumerate(names)}
    return names


def pool_rows(runs):
    """The rows of several runs as one list. Samples of one question stay apart by run and seed."""
    return [
        row | {"sample": f"{row.get('sample', 0)} of seed {run.seed}, run {run.name},"}
        for run in runs
        for row in run.rows
    ]


def shares_by_seed(runs, name, group):
    """{seed: {question: share right}} of the run of that name, in one group or in "all"."""
    return {run.seed: run.question_shares(group) for run in runs if run.name == name}


def field_by_seed(runs, name, group, measure):
    """{seed: {question: mean of a field over its samples}} of the run of that name.

    Rows of one group or of "all". Raises BadInput where such a row has no such number.
    """
    found = {}
    for run in runs:
        if run.name != name:
            continue
        values = {}
        for number, row in enumerate(run.rows, 1):
            if group not in ("all", row_scope(row)[0]):
                continue
            value = row.get(measure)
            if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
                raise BadInput(f"{run.path}:{number}: '{measure}' is not a number")
            values.setdefault(str(row["id"]), []).append(value)
        found[run.seed] = {question: statistics.fmean(v) for question, v in values.items()}
    return found


# ---------------------------------------------------------------- what a model wrote


class Completions(NamedTuple):
    """What one model wrote, as far as it can be compared token by token."""

    rows: list  # with a question and token ids
    n_skipped: int  # rows without
    format: object  # of the reasoning texts, see engine/format.py
    date: str = DATE  # with which their prompts were written
    special_in_text: bool = False


def find_completions(files, model):
    """The completions that a model wrote, the unforced ones if there are any.

    files: list of Run. A single file without an author in its header is taken for the model's.
    Raises BadInput if there are none, or none that can be used.
    """
    mine = [file for file in files if file.written_by(model)]
    if not mine and len(files) == 1:
        mine = files
        print(
            f"warning: --data {mine[0].name}: its header does not say that {model} wrote it; "
            "taken for that all the same"
        )
    mine = [file for file in mine if file.is_unforced()] or mine
    form = find_format(mine, model)
    for file in mine:
        warn_of_another_state(file, model)
    rows = [row for file in mine for row in with_asks(file.rows, file.settings.get("ask"))]
    kept = [row for row in rows if row.get("ids") and row.get("question") is not None]
    n_skipped = len(rows) - len(kept)
    print(f"{model}: {len(kept)} completions, {n_skipped} without token ids or question skipped")
    if not kept:
        raise BadInput(
            f"--tuned {model}: none of its completions has a question and token ids (field 'ids')"
        )
    settings = mine[0].settings
    date, special = settings.get("date", DATE), bool(settings.get("special_in_text"))
    return Completions(kept, n_skipped, form, date, special)


def find_format(files, model):
    """The format that the headers name first. Raises BadInput without one."""
    if not files:
        raise BadInput(
            f"--tuned {model}: no file of --data says in its header that this model wrote it"
        )
    names = [file.settings["format"] for file in files if file.settings.get("format")]
    if not names or names[0] not in FORMATS:
        raise BadInput(
            f"--tuned {model}: no file of --data names its format in its header "
            f'({runlog.header_of(files[0].path)}, "format": one of {", ".join(FORMATS)})'
        )
    return FORMATS[names[0]]


def warn_of_another_state(file, model):
    """Warn if the model directory has changed since it wrote this file."""
    known = (file.settings.get("identity") or {}).get("contents of --model")
    if known and file.written_by(model) and known != runlog.fingerprint(model):
        print(
            f"warning: --data {file.name}: its header says that another state of {model} wrote it "
            "(contents of --model)"
        )
