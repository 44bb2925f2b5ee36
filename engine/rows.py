"""JSONL rows, the contract between all stages.

UTF-8, one object per line, unknown keys pass through.

problem     id, question, answer
    optional: solution, source, level, subject, group
    task                          the benchmark that it is from
    choices                       of multiple choice
    accept                        further right answers
    nums, target                  Countdown
    instruction_id_list, kwargs   IFEval
    references                    CoQA: what each annotator answered
    history                       system prompt and earlier turns
    asks                          names of requests that end the question (ASK in engine/format.py)
    max_tokens, waits, thinking_budget   of this row alone, for generate.py
    budget                        named in the question, for grpo.py
    accuracies                    share of right answers at each visit, from grpo.py for curate.py
trace       problem + thinking, response, model
    curation adds correct, n_thinking_tokens, score, ...
completion  problem + sample, text, thinking, response, ids, injected, n_thinking_tokens, n_tokens,
            finish ("stop", "length", "rejected" or "nan"), stop (what stopped it), forced,
            n_tries, logp
    verifier                      probability of being right (grading/verdicts.py)
"""

import json
import os
import re
from pathlib import Path


class BadInput(ValueError):
    """The user gave something unusable. The message is one line naming file, line or flag."""


def read_rows(path, need=(), convert=None):
    """Rows of a .jsonl file, or of a directory's .jsonl files in name order -> list of dicts.

    need: fields that each row must hold. convert: from other columns to ours (engine/columns.py).
    Raises BadInput naming file and line for a missing file or field, a broken or empty line, an
    empty file.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise BadInput(f"{path}: no .jsonl file in this directory")
        return [row for file in files for row in read_rows(file, need, convert)]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    # Only "\n" ends a line: str.splitlines would also cut at U+2028, which real questions contain.
    lines = content.removesuffix(b"\n").split(b"\n")
    places = [(f"{path}:{number}", line) for number, line in enumerate(lines, 1)]
    return [parse_row(where, line, need, convert) for where, line in places]


def parse_row(where, line, need=(), convert=None):
    """One line of bytes -> dict with the fields `need`. Raises BadInput beginning with `where`."""
    if not line.strip():
        raise BadInput(f"{where}: empty line")
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = f"not a JSON object ({type(error).__name__}: {error})"
        raise BadInput(f"{where}: {reason[:300]}") from error
    if not isinstance(row, dict):
        raise BadInput(f"{where}: not a JSON object but {type(row).__name__}")
    if convert is not None:
        try:
            row = convert(row)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
    for field in need:
        if row.get(field) is None:
            raise BadInput(f"{where}: no field '{field}'")
    return row


def is_text(value):
    """Whether a tokenizer takes it: a string without half a surrogate pair, which JSON can hold."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not re.search("[\ud800-\udfff]", value)


def line_of(row):
    """A row as a line of JSON, readable letters and all.

    Half a surrogate pair, which UTF-8 cannot hold, is written as its escape: as it was read.
    """
    line = json.dumps(row, ensure_ascii=False)
    return (line if is_text(line) else json.dumps(row)) + "\n"


def check_file_to_write(path):
    """Raise BadInput for what a file would not be written to but replaced: a device, a pipe.

    Also for a directory.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: a directory, not a file to write")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: not a regular file; nothing is written there")


def is_message(message):
    """Whether it is {"role": text, "content": text}."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and is_text(message.get("content"))
    )


def write_rows(path, rows):
    """Write rows to path, whole or not at all: a reader never sees half a file.

    Makes the directory. The rows may come from a generator. Raises BadInput for a path that is no
    regular file.
    """
    path = Path(path)
    check_file_to_write(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(line_of(row))
    os.replace(part, path)
