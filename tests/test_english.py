"""data/english.py: problems with one solution, traces that compute right, what may be forgotten."""

import random
import re
from collections import Counter

import pytest
from stand_ins import bpe_tokenizer

from data import english, smollm
from data.tiny import split_of
from engine.format import FORMATS
from engine.rows import BadInput
from grading.answers import grade
from grading.ifeval import INSTRUCTIONS

SPLITS = ("train", "dev", "held_out")


@pytest.fixture(scope="module")
def math():
    return {split: english.problems("math", 60, 0, split) for split in SPLITS}


def test_a_problem_by_hand():
    """lamp 7, mug 3, bowl 9: 7 + 3 = 10, 7 + 9 = 16, 3 + 9 = 12."""
    problem = {
        "task": "pair",
        "items": [("lamp", 7), ("mug", 3), ("bowl", 9)],
        "target": 12,
    }
    seen = [english.compared(problem, attempt) for attempt in english.attempts(problem)]
    assert seen == ["too low", "too high", "yes"]
    attempt = english.attempts(problem)[0]
    low = "lamp 7 and mug 3, 7 + 3 = 10 against 12, too low."
    assert english.tried(problem, attempt, "too low") == low
    mistaken = "lamp 7 and mug 3, 7 + 3 = 12 against 12. Yes."
    assert english.tried(problem, attempt, "yes", slip=2) == mistaken


def test_a_triple_and_a_double_by_hand():
    """4 + 1 = 5, 5 + 5 = 10; twice 4 is 8, whichever child is named first."""
    triple = {"task": "triple", "items": [("fork", 4), ("bowl", 1), ("vase", 5)], "target": 10}
    (attempt,) = english.attempts(triple)
    assert english.tried(triple, attempt, english.compared(triple, attempt)) == (
        "fork 4, bowl 1 and vase 5, 4 + 1 = 5, 5 + 5 = 10 against 10. Yes."
    )
    double = {"task": "double", "items": [("Ann", 8), ("Ben", 4), ("Eve", 6)], "target": 0}
    found = {english.things(a): english.compared(double, a) for a in english.attempts(double)}
    assert found == {"Ben and Ann": "yes", "Eve and Ann": "no", "Ben and Eve": "no"}
    (wrong,) = [a for a in english.attempts(double) if english.things(a) == "Ben and Eve"]
    assert english.tried(double, wrong, "no") == "Ben 4 and Eve 6, 4 + 4 = 8 against 6, no."


def test_every_math_problem_has_one_solution_which_the_grader_accepts(math):
    for row in [row for rows in math.values() for row in rows]:
        right = [a for a in english.attempts(row) if english.compared(row, a) == "yes"]
        assert len(right) == 1
        names = [name for name, _ in right[0]]
        assert grade(row, english.enumerated(names[::-1]))  # in any order
        wrong = next(a for a in english.attempts(row) if a != right[0])
        assert not grade(row, english.things(wrong))
        for name, number in row["items"]:
            assert f"{name} {number}" in row["question"]


def test_splits_share_no_problem(math):
    keys = {split: {row["key"] for row in rows} for split, rows in math.items()}
    assert not keys["train"] & keys["held_out"] and not keys["dev"] & keys["held_out"]
    assert all(split_of(key) == split for split in SPLITS for key in keys[split])
    assert english.problems("math", 60, 0, "dev") == math["dev"]
    assert english.problems("math", 60, 1, "train") != math["train"]


def test_more_problems_than_there_are_is_one_line():
    with pytest.raises(BadInput, match="'triple' has only .* ask for fewer"):
        english.problems("math", 900, 0, "held_out", ("triple",))


def test_the_other_tasks():
    """One common day; the tallest is nobody's second."""
    for row in english.problems("other", 60, 0, "train"):
        if row["task"] == "meet":
            people = re.findall(r"is free on ([^.]*)\.", row["question"])
            free = [set(re.findall(r"\w+day", days)) for days in people]
            assert set.intersection(*free) == {row["answer"]}
            assert row["thinking"].endswith("yes.") and row["answer"] in row["thinking"]
        else:
            pairs = re.findall(r"(\w+) is taller than (\w+)", row["question"])
            (tallest,) = {one for one, _ in pairs} - {two for _, two in pairs}
            assert row["answer"] == tallest


def test_the_sums_of_traces():
    """Right in the good and the terse ones but for a mistake taken for a success."""
    rows = english.teacher_pool(400, 0)
    share = {}
    for kind in english.TEACHER:
        sums = [
            int(a) + int(b) == int(c)
            for row in rows
            if row["model"] == f"teacher-{kind}"
            for a, b, c in re.findall(r"(\d+) \+ (\d+) = (\d+)", row["thinking"])
        ]
        share[kind] = sum(sums) / max(1, len(sums))
    assert share["loop"] == 1 and 0.9 < share["good"] < 1 and 0.7 < share["sloppy"] < 0.95
    kinds = Counter(row["model"] for row in rows)
    assert 0.4 < kinds["teacher-good"] / 400 < 0.6 and len(kinds) == 4


def test_what_follows_a_conclusion_begins_with_wait_on_a_new_line():
    """Budget forcing appends "Wait" after a line break: the traces hold the same text."""
    rows = [row for row in english.teacher_pool(400, 0) if row["model"] == "teacher-good"]
    texts = [row["thinking"] for row in rows]
    followed = [re.findall(r"Therefore [^.]*\.(?=\S|\s)(.{5})", text, re.S) for text in texts]
    after = [rest for found in followed for rest in found]
    assert len(after) > 50 and set(after) == {"\nWait"}
    assert all("Wait" not in line[1:] for text in texts for line in text.split("\n"))


def test_the_teachers_wait_has_the_tokens_that_are_forced():
    """With a byte-level BPE and SmolLM2's template, in s1's format."""
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = smollm.TEMPLATE
    form = FORMATS["s1"].fit(tokenizer)
    problem = {"question": "Which?", "task": "pair"}
    row = english.trace_row(problem, "Therefore b.\nWait, maybe c.", "c", "teacher")
    ids = form.training_ids(tokenizer, row)[0]
    (wait,) = tokenizer.encode("Wait")
    (end, _) = tokenizer.encode(form.end)
    # The decoder drops the end of thinking and appends "Wait": what came before is the same.
    place, last = ids.index(wait), len(ids) - 1 - ids[::-1].index(end)
    assert tokenizer.decode(ids[place - 1]) == tokenizer.decode(ids[last - 1]) == ".\n"
    prompt = tokenizer.decode(form.row_prompt_ids(tokenizer, row))
    assert prompt.startswith("<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n")


def test_best_so_far():
    """The solution where the text has it, else the last attempt that is computed in full."""
    problem = {
        "task": "pair",
        "items": [("lamp", 7), ("mug", 3), ("bowl", 9), ("cup", 1)],
        "target": 12,
    }
    low = "Maybe lamp 7 and mug 3, 7 + 3 = 10 against 12, too low."
    right = "Maybe mug 3 and bowl 9, 3 + 9 = 12"
    rng = random.Random(0)
    assert english.best_so_far(problem, f"{right} {low}", rng) == "mug and bowl"
    assert english.best_so_far(problem, f"{low} Maybe mug and", rng) == "lamp and mug"


def test_facts():
    """Four different sentences each, and every letter is the answer about as often."""
    rows = english.fact_rows()
    assert len(rows) >= 150 and len({row["question"] for row in rows}) == len(rows)
    assert all(len(set(row["choices"])) == 4 for row in rows)
    letters = Counter(row["answer"] for row in rows)
    assert set(letters) == set("ABCD") and min(letters.values()) > 25


def test_every_kind_of_instruction_is_asked_for_and_can_be_checked():
    rows = english.follow_rows(2)
    assert {name for row in rows for name in row["instruction_id_list"]} == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 25 and len({row["question"] for row in rows}) == 50
    assert all(grade(row, "Some text, for once.") in (True, False) for row in rows)
    assert not any("{" in row["question"] for row in rows)


def test_open_questions_of_the_splits_share_no_topic():
    topics = [{row["id"].split("-")[1] for row in english.open_rows(s)} for s in SPLITS]
    assert not topics[0] & topics[2] and topics[2] and len(set.union(*topics)) > 30


def test_files(tmp_path, capsys):
    english.main(english.Config(out=str(tmp_path), n_cold=20, n_pool=30, n_train=9, n_held_out=6))
    said = dict(re.findall(r"(\w+)\.jsonl\s+(\d+) rows", capsys.readouterr().out))
    assert said["cold"] == "20" and said["pool"] == "30" and said["held_out"] == "9"
    assert len(list(tmp_path.glob("*.jsonl"))) == len(said) == 9
