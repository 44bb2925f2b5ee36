"""engine/columns.py: rows of other columns and files of other kinds become ours."""

import csv
import json

import pytest

from data.load import read_traces
from engine.columns import as_row, read_any, read_problems
from engine.rows import BadInput, write_rows

THOUGHT = "<think>\na\n</think>\n\nb"
TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "<think>old</think>y"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": THOUGHT},
]
EARLIER = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "y"},
]
NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
SHARED = [{"from": NAMES[m["role"]], "value": m["content"]} for m in TURNS]
PLAIN = {"question": "q", "thinking": "a", "response": "b"}
SYSTEM = [{"role": "system", "content": "s"}]


@pytest.mark.parametrize(
    "raw, row",
    [
        ({"messages": TURNS, "source": "z"}, PLAIN | {"history": EARLIER, "source": "z"}),
        ({"conversations": SHARED}, PLAIN | {"history": EARLIER}),
        ({"conversations": SHARED[1:], "system": "s"}, PLAIN | {"history": EARLIER}),
        ({"messages": TURNS[3:]}, PLAIN),
        ({"messages": TURNS[:4]}, {"question": "q", "history": EARLIER}),
        ({"prompt": "q", "completion": THOUGHT}, PLAIN),
        ({"prompt": TURNS[3:4], "completion": TURNS[4:]}, PLAIN),
        ({"prompt": TURNS[:4], "completion": THOUGHT}, PLAIN | {"history": EARLIER}),
        (
            {"prompt": TURNS[3:4], "reward_model": {"ground_truth": "4"}},
            {"question": "q", "reward_model": {"ground_truth": "4"}, "answer": "4"},
        ),
        ({"instruction": "q", "input": "", "output": THOUGHT}, PLAIN),
        (
            {"instruction": "q", "input": "i", "output": "b"},
            {"question": "q\n\ni", "response": "b"},
        ),
        (
            {"instruction": "q", "output": "b", "system": "s"},
            {"question": "q", "response": "b", "history": SYSTEM},
        ),
        (
            {"problem": "q", "solution": "b", "answer": "4"},
            {"question": "q", "response": "b", "solution": "b", "answer": "4"},
        ),
        ({"problem": "q", "answer": "4"}, {"question": "q", "answer": "4"}),
    ],
)
def test_other_columns(raw, row):
    found = as_row(raw | {"id": 7})
    assert found == row | {"id": 7}
    assert len(as_row(raw)["id"]) == 16  # of the question


def test_rows_of_ours_stay():
    row = {"id": 1, "question": "q", "messages": [], "response": "<think>a</think>b"}
    assert as_row(row) is row


@pytest.mark.parametrize(
    "raw, message",
    [
        ({"messages": "hello"}, "'messages' is not a list of messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "the role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "content is not a text"),
        ({"conversations": SHARED[2:3]}, "no turn of the user"),
    ],
)
def test_refused_by_line(tmp_path, raw, message):
    write_rows(tmp_path / "rows.jsonl", [{"messages": TURNS}, raw])
    with pytest.raises(BadInput, match=rf"rows\.jsonl:2: .*{message}"):
        read_traces(str(tmp_path / "rows.jsonl"))


def test_files_of_all_kinds(tmp_path):
    """The same rows from JSON, a list of lines, CSV, parquet, arrow and a saved folder."""
    from datasets import Dataset, DatasetDict

    raw = [{"id": f"{i}", "prompt": f"q, {i}", "completion": THOUGHT} for i in range(3)]
    wanted = [{"id": f"{i}", **PLAIN, "question": f"q, {i}"} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(raw))
    (tmp_path / "data.json").write_text(json.dumps({"version": 1, "data": raw}))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, raw)))
    with open(tmp_path / "a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(raw[0]))
        writer.writeheader()
        writer.writerows(raw)
    saved = Dataset.from_list(raw)
    saved.to_parquet(tmp_path / "a.parquet")
    saved.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": saved}).save_to_disk(tmp_path / "dict")
    arrow = str(next((tmp_path / "saved").glob("*.arrow")))
    names = ["a.json", "data.json", "lines.json", "a.csv", "a.parquet", "saved", "dict"]
    for path in [str(tmp_path / name) for name in names] + [arrow]:
        assert read_traces(path) == wanted, path
        assert read_problems(path) == wanted, path
    (tmp_path / "a.json").write_text(json.dumps([raw[0], {"text": "x"}]))
    with pytest.raises(BadInput, match=r"a\.json: row 2: no field 'question'"):
        read_any(tmp_path / "a.json", ("question",))
    (tmp_path / "a.parquet").write_bytes(b"x" * 99)
    with pytest.raises(BadInput, match=r"a\.parquet: cannot be loaded"):
        read_traces(str(tmp_path / "a.parquet"))
    with pytest.raises(BadInput, match=r"none\.jsonl: cannot be read"):
        read_any(tmp_path / "none.jsonl")


def test_rows_without_ids_get_one_from_their_question(tmp_path):
    """GSM8K's own columns, say. The same question twice would be one problem with two answers."""
    path = tmp_path / "rows.jsonl"
    raw = [{"question": "q", "answer": "1"}, {"question": "r", "answer": "2"}]
    write_rows(path, raw)
    rows = read_problems(path)
    assert [{k: v for k, v in row.items() if k != "id"} for row in rows] == raw
    assert rows[0]["id"] != rows[1]["id"] and len(rows[0]["id"]) == 16
    write_rows(path, [*raw, raw[0]])
    with pytest.raises(BadInput, match=f"two rows have the id '{rows[0]['id']}' .rows without ids"):
        read_problems(path)


def test_an_id_that_comes_twice_is_refused(tmp_path):
    """By number or as text: both are one problem."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"id": 1, "question": "q"}, {"id": "1", "question": "r"}])
    with pytest.raises(BadInput, match="rows.jsonl: two rows have the id '1'"):
        read_problems(path)
