"""engine/rows.py: rows come back as they were written; mistakes are named by file and line."""

import os
from pathlib import Path

import pytest

from engine.columns import read_problems
from engine.rows import BadInput, is_text, read_rows, write_rows

ROWS = [
    {"id": "a", "question": "1 + 1 ?", "answer": "2"},
    {"id": "b", "question": "ü → \u2028 ∑", "extra": [1, None]},
]


def test_rows_come_back_as_they_went(tmp_path):
    """Unknown keys, nested values and non-ASCII survive.

    One line per row, readable by people: no \\u escapes.
    """
    path = tmp_path / "new" / "rows.jsonl"
    write_rows(path, iter(ROWS))
    assert read_rows(path) == read_rows(str(path)) == ROWS
    text = path.read_bytes().decode("utf-8")
    assert text.count("\n") == 2 and "ü → \u2028 ∑" in text
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_line_separators_inside_a_string_end_no_line(tmp_path):
    """U+2028, U+0085 and form feed end a line for str.splitlines, not in JSONL.

    Windows line ends are fine, too.
    """
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "a\u2028b\u0085c"}\r\n{"question": "d"}\r\n'.encode())
    assert [row["question"] for row in read_rows(path)] == ["a\u2028b\u0085c", "d"]


def test_a_directory_is_read_in_name_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "10.jsonl"):
        write_rows(tmp_path / name, [{"id": name}])
    (tmp_path / "notes.txt").write_text("not a row")
    assert [row["id"] for row in read_rows(tmp_path)] == ["10.jsonl", "a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    "content, where, what",
    [
        (b'{"question": 1}\n{"question": \n', 2, "not a JSON object"),
        (b'{"question": 1}\n\n{"question": 1}\n', 2, "empty line"),
        (b'{"question": 1}\n  \n', 2, "empty line"),
        (b"", 1, "empty line"),
        (b'{"question": 1}\n{"id": 3}\n', 2, "no field 'question'"),
        (b'{"question": null}\n', 1, "no field 'question'"),
        (b'{"question": 1}\n{"question": "\xff"}\n', 2, "UnicodeDecodeError"),
        (b'{"question": 1}\n["question"]\n', 2, "not a JSON object but list"),
        (b'"question"\n', 1, "not a JSON object but str"),
        (b'{"question": 1} {"question": 2}\n', 1, "not a JSON object"),
        (b'{"question": ' + 100_000 * b"[" + b"\n", 1, "not a JSON object"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, content, where, what):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_rows(path, need=("question",))
    assert str(caught.value).startswith(f"{path}:{where}: ") and what in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_missing_files_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.jsonl: cannot be read \(No such file"):
        read_rows(tmp_path / "gone.jsonl")
    with pytest.raises(BadInput, match="no .jsonl file in this directory"):
        read_rows(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """The third row cannot be made: the file holds the two old rows, not the first two new ones."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)

    def new_rows():
        yield from ({"id": 1}, {"id": 2})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, new_rows())
    assert read_rows(path) == ROWS
    write_rows(path, [{"id": 3}])
    assert read_rows(path) == [{"id": 3}] and [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    """JSON can hold it, UTF-8 and tokenizers cannot."""
    assert is_text("") and is_text("a") and is_text("ü \U0001f600")
    assert not is_text("\ud83d") and not is_text(None) and not is_text(3)
    (tmp_path / "p.jsonl").write_text('{"id": "a", "question": "x\\ud83d"}\n')
    with pytest.raises(BadInput, match="row 'a': 'question' is not a text"):
        read_problems(tmp_path / "p.jsonl")


def test_half_a_surrogate_pair_is_written_as_it_was_read(tmp_path):
    """JSON can hold one and UTF-8 cannot. Letters beyond ASCII stay readable."""
    rows = [{"id": 1, "note": "\ud83d", "é": ["ü \udc00"]}, {"id": 2, "note": "é"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert "é" in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()[1]


def test_only_a_regular_file_is_written(tmp_path):
    """A device would be replaced by a file, as root."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "folder", tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(BadInput, match=f"^{path}: "):
            write_rows(path, [{"id": 1}])
    assert (tmp_path / "pipe").is_fifo() and Path(os.devnull).is_char_device()


def test_an_id_that_no_file_can_hold_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "\\ud800", "question": "q"}\n')
    with pytest.raises(BadInput, match=r"rows.jsonl: row '\\ud800': 'id' is not a text"):
        read_problems(tmp_path / "rows.jsonl")
