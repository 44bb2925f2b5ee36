"""grading/verdicts.py: lessons and questions of a verifier, and its probabilities, by hand."""

import pytest
from small_pools import write
from tiny_runs import BASE

import evaluate
import generate
from engine.rows import BadInput, read_rows, write_rows
from grading import verdicts
from grading.verdicts import Config, fill, probability

TINY = {"template": "check {question} {thinking} therefore {response}", "no": "unsure"}


def attempt(sample, response, **more):
    row = {"id": "q", "question": "make 6 from 2 4", "answer": "6", "nums": [2, 4], "target": 6}
    return row | {"sample": sample, "thinking": "2 + 4", "response": response, **more}


def run(do, rows, tmp_path, **more):
    write_rows(tmp_path / "in.jsonl", rows)
    return verdicts.main(
        Config(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), do, **more)
    )


def test_texts_keep_their_braces():
    row = {"question": "{thinking}", "thinking": None, "response": r"\boxed{4}"}
    text = fill("{x} {question}|{thinking}|{response} {", row)
    assert text == r"{x} {thinking}||\boxed{4} {"


def test_lessons(tmp_path):
    """Right and wrong by the grader; an attempt without a gold answer teaches nothing."""
    rows = [attempt(0, "2 + 4"), attempt(1, "4 - 2"), attempt(2, "6", answer=None, nums=None)]
    found = run("train", rows, tmp_path, **TINY)
    assert [(row["id"], row["response"]) for row in found] == [("q-0", "yes"), ("q-1", "unsure")]
    assert found[1]["question"] == "check make 6 from 2 4 2 + 4 therefore 4 - 2"
    assert found[1]["thinking"] == "" and read_rows(tmp_path / "out.jsonl") == found
    with pytest.raises(BadInput, match="in.jsonl: no row can be graded"):
        run("train", rows[2:], tmp_path)


def test_probability_by_hand():
    """p(yes) = .3 and p(no) = .1: .75. Far apart is 0 or 1, not an overflow."""
    assert probability([-1.2039728, -2.3025851]) == pytest.approx(0.75)
    assert probability([-2000, 0]) < 1e-300 and probability([0, -2000]) == 1


def test_what_was_asked_comes_back(tmp_path):
    """The attempt is carried along whole and gets one field more."""
    rows = [attempt(0, "2 + 4", logp=[-1.0]), attempt(1, "4 - 2")]
    asked = run("ask", rows, tmp_path, **TINY)
    assert [row["choices"] for row in asked] == [["yes", "unsure"]] * 2
    heard = [row | {"choice_logp": [-1.0, -1.0 - i]} for i, row in enumerate(asked)]
    joined = run("join", heard, tmp_path)
    assert joined == [rows[0] | {"verifier": 0.5}, rows[1] | {"verifier": 0.731059}]
    with pytest.raises(BadInput, match="in.jsonl:2: choice_logp is not a pair of numbers"):
        run("join", [heard[0], heard[1] | {"choice_logp": [1]}], tmp_path)
    with pytest.raises(BadInput, match="--yes and --no are both 'yes'"):
        run("ask", rows, tmp_path, no="yes")


def test_a_verifier_of_another_vocabulary_is_refused(tmp_path):
    """The tiny world has no word "no": every verdict would be about <unk>."""
    run("ask", [attempt(0, "2 + 4")], tmp_path)
    cfg = generate.Config(
        model=BASE,
        data=str(tmp_path / "out.jsonl"),
        out=str(tmp_path / "heard.jsonl"),
        format="plain",
        score=True,
        device="cpu",
    )
    with pytest.raises(BadInput, match="row 'q': the tokenizer has no word for the choice 'no'"):
        generate.main(cfg)


def test_scores_choose_and_vote(tmp_path):
    """Right are samples 0 and 1, with .3 and .4; wrong is 2, with .5. The best is wrong, the sum of
    the right ones is larger."""
    rows = [
        attempt(0, "2 + 4", verifier=0.3),
        attempt(1, "4 + 2", verifier=0.4),
        attempt(2, "4 - 2", verifier=0.5),
    ]
    path = write(tmp_path / "run.jsonl", rows)
    found = evaluate.metrics_of_file(path, (2, 3), "verifier")["all"]
    assert (found["bon@3"], found["weighted@3"], found["weighted@2"]) == (0, 100, 100)
    rows[1]["verifier"] = 0.1
    found = evaluate.metrics_of_file(write(tmp_path / "run.jsonl", rows), (3,), "verifier")["all"]
    assert found["weighted@3"] == 0 and found["maj@3"] == 100
    rows[1]["verifier"] = -0.1
    found = evaluate.metrics_of_file(write(tmp_path / "run.jsonl", rows), (3,), "verifier")["all"]
    assert "weighted@3" not in found and "bon@3" in found
