"""data/load.py: rows to train on from files, directories and data sets."""

import subprocess
import sys
from pathlib import Path

import pytest

from data import tiny
from data.load import is_data_set, read_traces
from engine.columns import as_row
from engine.rows import BadInput, write_rows

ROOT = Path(__file__).resolve().parent.parent


def test_several_responses_of_one_question(tmp_path):
    """A list of responses becomes a row each, with its own thinking or the common one."""
    rows = [
        {"id": 1, "question": "a", "response": ["x", "y"], "thinking": ["s", "t"]},
        {"id": 2, "question": "b", "response": "z"},
        {"id": 3, "question": "c", "response": ["u", "v"], "thinking": "w"},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert [
        (r["id"], r.get("thinking"), r["response"])
        for r in read_traces(str(tmp_path / "rows.jsonl"))
    ] == [(1, "s", "x"), (1, "t", "y"), (2, None, "z"), (3, "w", "u"), (3, "w", "v")]
    write_rows(tmp_path / "rows.jsonl", [rows[0] | {"thinking": ["s"]}])
    with pytest.raises(
        BadInput, match=r"rows\.jsonl: row 1: 2 responses but 1 entries in 'thinking'"
    ):
        read_traces(str(tmp_path / "rows.jsonl"))


def test_rows_from_directories_and_data_sets(tmp_path, monkeypatch):
    """The same rows from directories of JSONL, of parquet, saved by `datasets`, and from the hub.

    A missing column and a name that is nowhere are refused in one line.
    """
    import datasets
    from datasets import Dataset

    fields = ("question", "thinking", "response")
    wanted = [{key: row[key] for key in fields} for row in tiny.teacher_pool(12, seed=0)]
    wanted = [as_row(row) for row in wanted]  # with ids
    (tmp_path / "jsonl").mkdir()
    write_rows(tmp_path / "jsonl" / "a.jsonl", wanted[:5])
    write_rows(tmp_path / "jsonl" / "b.jsonl", wanted[5:])
    Dataset.from_list(wanted).save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    Dataset.from_list(wanted).to_parquet(tmp_path / "parquet" / "train.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("jsonl", "saved", "parquet"):
        assert read_traces(str(tmp_path / name)) == wanted, name
    raw = [{"question": "q", "solution": "s", "answer": "7"}]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *_, split: raw if name == "GAIR/LIMO" else [{}]
    )
    assert read_traces("limo") == [
        as_row({"question": "q", "answer": "7", "response": "s", "source": "LIMO"})
    ]
    with pytest.raises(BadInput, match="gsm8k: cannot be loaded"):
        read_traces("gsm8k")
    Dataset.from_list([{"question": "a", "text": "b"}]).save_to_disk(tmp_path / "other")
    with pytest.raises(BadInput, match="other: row 1: no column 'response'"):
        read_traces(str(tmp_path / "other"))
    monkeypatch.undo()
    with pytest.raises(BadInput, match="no-one/has-this: cannot be loaded") as caught:
        read_traces("no-one/has-this")
    assert "\n" not in str(caught.value)


def test_what_is_a_data_set(tmp_path, monkeypatch):
    """owner/name, a name of data/hub.py, a directory without JSONL; no missing file."""
    monkeypatch.chdir(tmp_path)
    write_rows("rows/a.jsonl", [{"question": "q"}])
    (tmp_path / "saved").mkdir()
    (tmp_path / "limo").mkdir()
    write_rows("limo/a.jsonl", [{"question": "q"}])
    for name in ("saved", "s1k-1.1", "gsm8k", "owner/name"):
        assert is_data_set(name), name
    for name in ("rows", "rows/a.jsonl", "missing.jsonl", "some/missing.jsonl", "./some", "limo"):
        assert not is_data_set(name), name


def test_reading_jsonl_imports_no_checkers():
    """Fine-tuning on a file needs neither IFEval's checker nor the graders."""
    code = "import sys, data.load; print([m for m in sys.modules if m.startswith('grading')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
