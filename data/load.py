"""Rows to train on, from wherever they are: JSONL, a directory, a data set by its name."""

import re
from pathlib import Path

from data import prepare
from engine.rows import BadInput, read_rows

NEED = ("question", "response")


def read_traces(path):
    """Trace rows from a .jsonl file or a directory of them, from a data set of data/prepare.py by its name (s1k, limo ...),
    or from one on the hub (owner/name) or in a directory, whose columns must have our names.

    A row with a list as `response` (several responses of one question) becomes a row for each of them, with its own
    `thinking` where that is a list too. Raises BadInput naming file and line, or row.
    """
    folder = Path(path)
    on_hub = (
        not folder.exists()
        and path.count("/") == 1
        and not folder.suffix
        and not path.startswith(".")
    )
    if (
        path in prepare.DATASETS
        and not folder.exists()
        or on_hub
        or folder.is_dir()
        and not any(folder.glob("*.jsonl"))
    ):
        rows = _data_set(path)
        for number, row in enumerate(rows, 1):
            for field in NEED:
                if row.get(field) is None:
                    raise BadInput(f"{path}: row {number}: no column '{field}'")
    else:
        rows = read_rows(path, NEED)
    one_each = []
    for number, row in enumerate(rows, 1):
        responses, thinking = row["response"], row.get("thinking")
        if not isinstance(responses, list):
            one_each.append(row)
            continue
        several = isinstance(thinking, list)
        if several and len(thinking) != len(responses):
            raise BadInput(
                f"{path}: row {number}: {len(responses)} responses but {len(thinking)} entries in 'thinking'"
            )
        one_each += [
            row | {"response": response, "thinking": thinking[k] if several else thinking}
            for k, response in enumerate(responses)
        ]
    return one_each


def is_text(value):
    """Whether it is a string that a tokenizer takes: JSON can hold half of a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or not re.search("[\ud800-\udfff]", value))


def read_problems(path, need=()):
    """Problem rows of a .jsonl file or a directory of them. Raises BadInput."""
    rows = read_rows(path, ("id", "question", *need))
    for row in rows:
        if not is_text(row["question"]):
            raise BadInput(f"{path}: row '{row['id']}': 'question' is not a text")
    return rows


def _data_set(path):
    """Rows of data that the `datasets` library reads. Raises BadInput."""
    try:
        import datasets

        if path in prepare.DATASETS:
            name, configuration, split, convert = prepare.DATASETS[path]
            return [convert(row) for row in datasets.load_dataset(name, configuration, split=split)]
        saved = (Path(path) / "state.json").is_file()  # by save_to_disk
        found = (
            datasets.load_from_disk(path) if saved else datasets.load_dataset(path, split="train")
        )
        return [dict(row) for row in found]
    except Exception as error:  # the library raises many kinds; all mean that it could not be read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: cannot be loaded ({reason})") from error
