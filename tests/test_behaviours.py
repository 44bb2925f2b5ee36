"""report/behaviours.py: rules against labels by hand, variety, a judge through files."""

import json
import time
from pathlib import Path

import pytest

from engine.rows import BadInput, write_rows
from report import behaviours


def test_rules_against_labels():
    """Whether a trace shows a behaviour: at least 95% agreement with labels by hand on the 22
    traces that the rules were made with, 90% on 22 others.
    """
    rows = [
        json.loads(line)
        for line in (Path(__file__).parent / "labelled_traces.jsonl").read_text().splitlines()
    ]
    for split, least in (("dev", 0.95), ("held_out", 0.9)):
        chosen = [row for row in rows if row["split"] == split]
        for name in behaviours.RULES:
            agree = [
                bool(behaviours.count_behaviours(row["text"])[name]) == bool(row[name])
                for row in chosen
            ]
            assert sum(row[name] for row in chosen) >= 3 and sum(agree) / len(agree) >= least, (
                split,
                name,
                sum(agree),
            )


def test_behaviours_by_hand():
    """Counts of one trace and of words; long near misses take time linear in their length."""
    assert behaviours.count_behaviours(
        "wait , maybe 1 + 4 = 5 vs 10 low . wait , perhaps 2 * 5 = 10 vs 10 yes"
    ) == {"verification": 2, "backtracking": 2, "subgoal": 0, "backward": 0}
    assert behaviours.count_behaviours("") == dict.fromkeys(behaviours.RULES, 0)
    began = time.process_time()
    for text in ("= 1 " * 5000, "need 12 " * 2500, "12/3=4 " * 2800, "wai " * 5000):
        behaviours.count_behaviours(text)
    assert time.process_time() - began < 2  # 80,000 characters
    assert behaviours.count_wait_words("Wait, wait... waiting; Hmm")["wait"] == 2


def test_variety_by_hand():
    """Three samples each of two questions: two right solutions that read differently, with one
    answer, and none.
    """

    def row(question, answer, thinking):
        return {"id": question, "answer": "4", "thinking": thinking, "response": answer}

    rows = [
        row("a", "4", "2 + 2"),
        row("a", "4", "2  +  2"),
        row("a", "4", "1 + 3"),
        row("b", "5", "x"),
        row("b", "6", "y"),
        row("b", "7", "z"),
    ]
    assert behaviours.solution_variety(rows) == {
        "coverage": 50,
        "diversity": 1,
        "different_answers": 0.5,
        "n_samples": 3,
    }
    assert behaviours.solution_variety([{"id": "a", "response": "4"}]) is None


def test_a_judge_through_files(tmp_path):
    """Four questions per trace; counts come back by trace; no tag is 0.

    Mean 2.0, share 0.667, agreement with the rules 1/3.
    """
    rows = [
        {"id": str(i), "question": "q", "response": text}
        for i, text in enumerate(("wait, no", "wait", "nothing"))
    ]
    write_rows(tmp_path / "run.jsonl", rows)
    asked = behaviours.main(
        behaviours.Config(data=(str(tmp_path / "run.jsonl"),), out=str(tmp_path / "judge.jsonl"))
    )
    assert (
        len(asked) == 12
        and "wait, no" in asked[0]["question"]
        and "<count>" in asked[0]["question"]
    )
    said = {
        "wait, no": "twice <count>2</count>",
        "wait": "no tag",
        "nothing": "<count>1</count> or <count> 4 </count>",
    }
    answers = [
        row
        | {
            "thinking": "I think <count>9</count>",
            "response": next(v for k, v in said.items() if row["question"].endswith(k)),
        }
        for row in asked
        if row["judged"]["behaviour"] == "backtracking"
    ]
    write_rows(tmp_path / "judged.jsonl", answers)
    judged = behaviours.read_judged(tmp_path / "judged.jsonl")
    found = behaviours.summarise_traces(
        rows, judged, lambda shares: (sum(shares) / len(shares), 0, 1)
    )
    assert found["behaviours"]["backtracking"]["judged"] == pytest.approx(
        {"n": 3, "mean": 2, "share": 200 / 3, "agreement": 100 / 3}
    )
    assert found["behaviours"]["backtracking"]["share"] == pytest.approx(200 / 3)
    assert "judged" not in found["behaviours"]["subgoal"]
    with pytest.raises(BadInput, match=r"run.jsonl:1: no field 'judged'"):
        behaviours.read_judged(tmp_path / "run.jsonl")
