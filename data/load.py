"""Rows to train on, from wherever they are: JSONL, a directory, a data set by its name."""

from pathlib import Path

from engine.columns import as_row, read_any, read_with_datasets
from engine.rows import BadInput

# Files by which one knows what `save_to_disk` wrote.
SAVED = ("state.json", "dataset_dict.json")

# data/hub.py is imported where it is needed: reading JSONL needs no checkers of answers.


def read_traces(path):
    """Trace rows, which have `question` and `response`.

    path: a .jsonl, .json, .csv, .parquet or .arrow file, or a directory of .jsonl; a data set of
    data/hub.py by its name (s1k, limo ...); or any data set on the hub (owner/name) or in a
    directory. The columns have our names or others (engine/columns.py).

    A row whose `response` is a list becomes one row for each response. Its `thinking` is a list,
    too, or common to all. Raises BadInput naming file and line, or row.
    """
    need = ("question", "response")
    rows = read_data_set(path, need) if is_data_set(path) else read_any(path, need)
    one_each = []
    for number, row in enumerate(rows, 1):
        one_each += one_row_per_response(row, where=f"{path}: row {number}")
    return one_each


def one_row_per_response(row, where):
    """[row] if it has one response, else a row for each of them. Raises BadInput."""
    responses = row["response"]
    thinking = row.get("thinking")
    if not isinstance(responses, list):
        return [row]
    if not isinstance(thinking, list):
        thinking = [thinking] * len(responses)
    if len(thinking) != len(responses):
        raise BadInput(
            f"{where}: {len(responses)} responses but {len(thinking)} entries in 'thinking'"
        )
    return [row | {"response": r, "thinking": t} for r, t in zip(responses, thinking)]


# ---- data sets


def is_data_set(path):
    """Whether `path` is a data set for the `datasets` library, not a file or directory of JSONL."""
    place = Path(path)
    if place.exists():
        return place.is_dir() and not any(place.glob("*.jsonl"))
    if path.count("/") == 1 and not place.suffix and not path.startswith("."):  # owner/name
        return True
    from data import hub

    return path in hub.DATASETS


def read_data_set(path, need):
    """Rows with the fields `need`, read by the `datasets` library. Raises BadInput."""
    from data import hub

    try:
        if path in hub.DATASETS and not Path(path).exists():
            data_set = hub.DATASETS[path]
            raw_rows = hub.fetch(data_set.hub, data_set.parts[0], data_set.split)
            rows = [data_set.convert(row) for row in raw_rows]
        elif any((Path(path) / name).is_file() for name in SAVED):
            rows = read_with_datasets(path)
        else:
            rows = hub.fetch(path, None, "train")
        rows = [dict(row) for row in rows]
    except BadInput:
        raise
    except Exception as error:
        raise hub.unreadable(path, error) from error
    found = []
    for number, raw in enumerate(rows, 1):
        try:
            row = as_row(raw)
        except BadInput as error:
            raise BadInput(f"{path}: row {number}: {error}") from error
        for field in need:
            if row.get(field) is None:
                raise BadInput(f"{path}: row {number}: no column '{field}'")
        found.append(row)
    return found
