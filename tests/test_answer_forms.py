"""The grader on other people's answers: the forms that models write, on public questions.

The rows of optional data skip where the folder is missing; tests/judged_answers.jsonl holds own
examples of each kind.
"""

import json

import pytest
from conftest import optional_data

from engine.rows import BadInput, read_rows
from grading.answers import answer_of, grade, is_correct
from grading.ifeval import follows

FULL_WIDTH = str.maketrans({sign: chr(ord(sign) + 0xFEE0) for sign in "0123456789()[]+=,:;<>%/"})
FORMS = {
    "Minerva": "Final Answer: The final answer is ${}$. I hope it is correct.",
    "heading": "### Answer\n\n${}$",
    "next line": "The answer is:\n\\[ {} \\]\n",
    "full width": "The answer is ${}$.",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_gold_answer_is_found_in_every_form(form):
    """All 500 of MATH-500."""
    lost = []
    for row in read_rows(optional_data("math/math500.jsonl")):
        gold = row["answer"]
        written = gold.translate(FULL_WIDTH) if form == "full width" else gold
        text = "First we count.\n\n" + FORMS[form].format(written)
        if not grade(row, answer_of({"response": text})):
            lost.append((gold, answer_of({"response": text})))
    assert not lost


CHOICE_SETS = ("acpbench_mcq_140", "commonsenseqa_dev_600", "mmlu_pro_a", "mmlu_stem_500")
CHOICE_FORMS = (
    "\\boxed{{{text}.}}",
    "\\boxed{{\\text{{{text}}}}}",
    "Answer: Option {letter}",
    "The answer is {letter} because {text} fits.",
    "\\boxed{{\\textbf{{({letter})}}}}",
)


@pytest.mark.parametrize("name", CHOICE_SETS)
@pytest.mark.parametrize("form", CHOICE_FORMS)
def test_a_choice_is_found_in_every_form(name, form):
    """At least 99 of 100, and no other letter is right in its place."""
    rows = read_rows(optional_data(f"mc/{name}.jsonl"))
    right = wrong = 0
    for row in rows:
        number = ord(row["answer"]) - ord("A")
        for index in (number, (number + 1) % len(row["choices"])):
            text = form.format(text=row["choices"][index], letter=chr(ord("A") + index))
            verdict = grade(row, answer_of(row | {"response": "We think.\n\n" + text}))
            right += verdict is True and index == number
            wrong += verdict is True and index != number
    assert right >= 0.99 * len(rows) and wrong <= 0.01 * len(rows), (right, wrong, len(rows))


YES_FORMS = (
    "{word}",
    "**{word}**",
    "{word}.",
    "\\boxed{{{word}}}",
    "\\boxed{{\\text{{{word}}}}}",
    "The answer is {word}.",
    "{word}, because the ferry is there.",
    "{word} it is.",
)


@pytest.mark.parametrize("form", YES_FORMS)
def test_yes_and_no_are_found_in_every_form(form):
    """ACPBench's questions; the other word is never right."""
    for row in read_rows(optional_data("mc/acpbench_bool_140.jsonl")):
        row["choices"] = ["no", "yes"]
        for word in ("Yes", "No", "yes", "no"):
            response = "We look.\n\n" + form.format(word=word)
            verdict = grade(row, answer_of(row | {"response": response}))
            assert verdict is (word.lower() == row["answer"]), (response, row["answer"])


def test_the_faults_that_were_found():
    """Rows {call, prediction, gold, choices, right} from public sets and bug reports."""
    different = []
    for row in read_rows(optional_data("../faults/grader.jsonl")):
        said, gold = row["prediction"], row["gold"]
        if row["call"].startswith("is_correct"):
            verdict = is_correct(said, gold)
        elif row["call"].startswith("grade"):
            given = {"answer": gold, "response": "We count.\n3 and 15.\n\n" + said}
            given |= {"choices": row["choices"]} if row["choices"] else {}
            verdict = grade(given, answer_of(given))
        else:
            verdict = follows(json.loads(gold), said)[0]
        if verdict is not row["right"]:
            different.append((row["kind"], said, gold, verdict))
    assert not different


def test_a_gold_answer_may_be_a_list():
    """Any of a list is right; NaN and Countdown rows with bad numbers are no gold answers."""
    assert grade({"answer": ["4", "four"]}, "4") and grade({"answer": '["4"]'}, "4")
    assert grade({"answer": ["4", "5"]}, "6") is False
    assert grade({"answer": float("nan")}, "4") is None and grade({"answer": []}, "4") is None
    for nums in ([1, float("nan")], [1, float("inf")], [1, "two"], "12"):
        assert grade({"nums": nums, "target": 3}, "1 + 2") is None
    with pytest.raises(BadInput, match="row 'q7'"):
        grade({"id": "q7", "answer": {"value": 4}}, "4")
