"""Rows of other people's columns become ours; files of other kinds become rows.

    messages                       role and content; the last assistant turn is the response
    conversations                  ShareGPT: from and value
    prompt, completion             texts, or lists of messages
    instruction, input, output     Alpaca
    problem, solution, answer      open-r1 and others

Earlier turns and the system prompt become `history`; a <think>...</think> before a response becomes
`thinking`. Rows that have a `question` are ours already and keep their columns.
Rows without an id get one from their question.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

from engine.rows import BadInput, is_text, read_rows

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}

# Columns that become others; all the rest passes through.
TAKEN = ("messages", "conversations", "prompt", "completion", "instruction", "input", "output")
TAKEN += ("problem", "system")


def as_row(raw):
    """A row of other columns -> a row of ours. Raises BadInput with the reason alone."""
    if not isinstance(raw, dict):
        return raw
    row = raw
    if raw.get("question") is None:
        found = fields_of(raw)
        if found is None:
            return raw
        rest = {name: value for name, value in raw.items() if name not in TAKEN}
        row = {**rest, **found}
    if row.get("id") is None:
        row = dict(row)
        text = json.dumps([row["question"], row.get("history")])
        row["id"] = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    return row


def fields_of(raw):
    """question, response, thinking and history of a row; None if it has no columns we know."""
    for name in ("messages", "conversations"):
        if raw.get(name) is not None:
            return fields_of_messages(raw[name], name, raw.get("system"))
    prompt, completion = raw.get("prompt"), raw.get("completion")
    if isinstance(prompt, list):
        completion = completion or []
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        answer = raw.get("reward_model")
        found = fields_of_messages([*prompt, *completion], "prompt", raw.get("system"))
        if isinstance(answer, dict) and "answer" not in raw:  # verl's rows
            found["answer"] = answer.get("ground_truth")
        return found
    if prompt is not None:
        return fields_of_texts(prompt, completion, raw.get("system"))
    if raw.get("instruction") is not None:
        question = raw["instruction"]
        if raw.get("input"):
            question = f"{question}\n\n{raw['input']}"
        response = raw.get("response") if raw.get("output") is None else raw["output"]
        return fields_of_texts(question, response, raw.get("system"))
    if raw.get("problem") is not None:
        response = raw.get("response")
        response = raw.get("solution") if response is None else response
        return fields_of_texts(raw["problem"], response, raw.get("system"), raw.get("thinking"))
    return None


def fields_of_texts(question, response, system=None, thinking=None):
    """Fields of a row from its two texts and its system prompt."""
    found = {"question": question}
    if response is not None:
        found["response"] = response
        if isinstance(response, str) and not thinking:
            thinking, found["response"] = split_off_thinking(response)
        if thinking:
            found["thinking"] = thinking
    if system:
        found["history"] = [{"role": "system", "content": system}]
    return found


def fields_of_messages(messages, name, system=None):
    """Fields of a row from its conversation. Raises BadInput."""
    if not isinstance(messages, list) or not messages:
        raise BadInput(f"'{name}' is not a list of messages")
    turns = [as_message(message, name) for message in messages]
    if system and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system, "thinking": ""})
    last = turns.pop() if turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise BadInput(f"'{name}' has no turn of the user before the last answer")
    found = {"question": turns.pop()["content"]}
    if last is not None:
        found["response"] = last["content"]
        if last["thinking"]:
            found["thinking"] = last["thinking"]
    if turns:
        found["history"] = [{"role": t["role"], "content": t["content"]} for t in turns]
    return found


def as_message(message, name):
    """{"role", "content", "thinking"} of one message. Raises BadInput."""
    if not isinstance(message, dict):
        raise BadInput(f"'{name}' is not a list of messages")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if role not in ROLES:
        raise BadInput(f"'{name}' has a message of the role {role!r}")
    if isinstance(content, list):  # parts, each with its type
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(parts) if all(map(is_text, parts)) else None
    if not is_text(content):
        raise BadInput(f"'{name}' has a message whose content is not a text")
    thinking = ""
    if ROLES[role] == "assistant":
        thinking, content = split_off_thinking(content)
        thinking = thinking or message.get("reasoning_content") or ""
    return {"role": ROLES[role], "content": content, "thinking": thinking}


def split_off_thinking(text):
    """<think>a</think>b, also without the first tag -> (a, b)."""
    found = re.match(r"\s*(?:<think>)?(.*?)</think>(.*)\Z", text, re.DOTALL)
    return (found[1].strip(), found[2].strip()) if found else ("", text)


# ---- files


def read_any(path, need=()):
    """Rows of ours from a file, a directory, or a name on the hub. Raises BadInput naming the row.

    .jsonl, .json, .csv, .parquet, .arrow; a directory of .jsonl files, one that `datasets` saved or
    reads; owner/name.
    """
    place = Path(path)
    if place.suffix == ".jsonl" or (place.is_dir() and any(place.glob("*.jsonl"))):
        return read_rows(path, need, as_row)
    if place.is_file() and place.suffix not in READERS:
        return read_rows(path, need, as_row)
    is_name = str(path).count("/") == 1 and not place.suffix and not str(path).startswith(".")
    if not place.exists() and not is_name:
        raise BadInput(f"{path}: cannot be read (No such file or directory)")
    read = READERS[place.suffix] if place.is_file() else read_with_datasets
    try:
        raw_rows = read(path)
    except BadInput:
        raise
    except Exception as error:  # the libraries raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: cannot be loaded ({reason})") from error
    rows = [checked(raw, f"{path}: row {n}", need) for n, raw in enumerate(raw_rows, 1)]
    if not rows:
        raise BadInput(f"{path}: no rows")
    return rows


def checked(raw, where, need):
    """One raw row -> ours, with the fields `need`. Raises BadInput beginning with `where`."""
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: not an object but {type(raw).__name__}")
    try:
        row = as_row(raw)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    for field in need:
        if row.get(field) is None:
            raise BadInput(f"{where}: no field '{field}'")
    return row


def read_json(path):
    """A list of objects, or the only list in an object, or one object a line."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        is_one_row = fields_of(found) is not None or "question" in found or len(lists) != 1
        found = [found] if is_one_row else lists[0]
    if not isinstance(found, list):
        raise BadInput(f"{path}: not a list of objects")
    return found


def read_csv(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        # An empty cell is a missing value.
        return [{k: v or None for k, v in row.items() if k} for row in csv.DictReader(file)]


def read_parquet(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def read_arrow(path):
    import datasets

    return [dict(row) for row in datasets.Dataset.from_file(str(path))]


def read_with_datasets(path):
    """Rows of a directory that `datasets` saved or reads, or of a data set on the hub."""
    import datasets

    place = Path(path)
    if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(str(path))
        if isinstance(found, dict):
            found = found["train"] if "train" in found else next(iter(found.values()))
    else:
        found = datasets.load_dataset(str(path), split="train")
    return [dict(row) for row in found]


READERS = {".json": read_json, ".csv": read_csv, ".parquet": read_parquet, ".arrow": read_arrow}


def read_problems(path, need=()):
    """Problem rows, each with an id of its own and a question that is a text. Raises BadInput."""
    rows = read_any(path, ("id", "question", *need))
    check_ids(path, [(str(row["id"]), 0) for row in rows])
    for row in rows:
        if isinstance(row["id"], str) and not is_text(row["id"]):
            raise BadInput(f"{path}: row {row['id']!r}: 'id' is not a text")
        if not is_text(row["question"]):
            raise BadInput(f"{path}: row '{row['id']}': 'question' is not a text")
    return rows


def check_ids(path, keys):
    """Raise BadInput for a key that comes twice. keys: (id as text, number of the sample)."""
    repeated = next((key for key, n in Counter(keys).items() if n > 1), None)
    if repeated is not None:
        raise BadInput(
            f"{path}: two rows have the id '{repeated[0]}' (rows without ids: the same question)"
        )
