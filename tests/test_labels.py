"""grading/labels.py: problems labelled by the majority answer of their completions."""

import json

import pytest

from engine.rows import BadInput, read_rows
from grading import labels


def completions(answers):
    return [
        {
            "id": "p",
            "sample": number,
            "question": "?",
            "answer": "4",
            "text": "",
            "response": "" if answer is None else f"Answer: {answer}",
            "finish": "stop",
            "n_tokens": 9,
            "ids": [number],
        }
        for number, answer in enumerate(answers)
    ]


def test_labels_from_completions(tmp_path, capsys):
    """Three problems: the majority right, wrong, and none that answers. The labelled rows are
    problems again.
    """
    rows = [
        row | {"id": f"q{i}", "logp": [-0.1], "group": "math"}
        for i, answers in enumerate([(4, 4, 5), (6, 7, 6), (None, None, None)])
        for row in completions(answers)
    ]
    data = tmp_path / "votes.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def labelled(keep):
        labels.main(labels.Config(str(data), str(tmp_path / "out.jsonl"), keep))
        return read_rows(tmp_path / "out.jsonl")

    assert labelled("wrong") == [
        {
            "id": "q1",
            "question": "?",
            "answer": "4",
            "group": "math",
            "label": "6",
            "label_share": 2 / 3,
        }
    ]
    assert [row["id"] for row in labelled("all")] == ["q0", "q1"] and [
        r["id"] for r in labelled("right")
    ] == ["q0"]
    assert "1 of 3 problems labelled" in capsys.readouterr().out
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[6:]))
    with pytest.raises(BadInput, match="votes.jsonl: --keep all leaves no problem"):
        labelled("all")
