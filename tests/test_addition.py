"""data/addition.py: STaR's scratchpad line by line, and who may read which sums."""

import pytest

from data import addition
from data.addition import Config, interleave, main, problem, scratchpad
from data.tiny import VOCABULARY, split_of
from engine.rows import BadInput, read_rows
from grading.answers import answer_of, grade


def test_scratchpads_of_the_paper():
    """The lines that STaR's gen_sums.py writes for 624 + 259 and 95 + 17."""
    assert scratchpad(624, 259, "paper").splitlines() == [
        "6 2 4 + 2 5 9 , C: 0",
        "2 + 5 , 3 C: 1",
        "6 + 2 , 8 3 C: 0",
        ", 8 8 3 C: 0",
        "0 8 8 3",
    ]
    assert scratchpad(95, 17, "paper").splitlines() == [
        "9 5 + 1 7 , C: 0",
        "9 + 1 , 2 C: 1",
        ", 1 2 C: 1",
        "1 1 2",
    ]
    assert scratchpad(6, 7) == "6 + 7 , c 0 . , 3 c 1 . 1 3"


@pytest.mark.parametrize("a, b", [(624, 259), (95, 17), (999, 999), (1000, 1000), (5, 4)])
def test_the_answer_is_the_sum(a, b):
    """The last line of the scratchpad is the sum behind its carry; only its own digits are right."""
    row = problem(a, b)
    *_, carry_and_sum = scratchpad(a, b, "paper").splitlines()
    assert int(carry_and_sum.replace(" ", "")) == a + b == int(row["answer"].replace(" ", ""))

    def is_right(answer):
        made = row | {"thinking": "", "response": answer, "text": answer}
        return grade(made, answer_of(made))

    assert is_right(row["answer"]) and not is_right(addition.spaced(a + b + 1))
    assert not is_right("0 " + row["answer"])


def test_files(tmp_path):
    """Long sums are read with a hint only; sums of two digits or more that measure are read by no
    one; the tiny world has all words; the digits take turns."""
    main(Config(str(tmp_path), n_warm=400, n_train=30, n_held_out=20))
    rows = {name: read_rows(tmp_path / f"{name}.jsonl") for name in ("warm", "train", "dev")}
    assert len(rows["warm"]) == 400 and len(rows["train"]) == 150 and len(rows["dev"]) == 140
    words = {
        word for row in rows["warm"] for word in f"{row['question']} {row['thinking']}".split()
    }
    assert words <= set(VOCABULARY)
    longer = [row for row in rows["warm"] if len(row["question"].partition("+")[0].split()) > 3]
    assert len(longer) > 40 and all(" from " in row["question"] for row in longer)
    assert sum(" from " in row["question"] for row in rows["warm"]) < 220
    assert {split_of(row["id"].replace("+", " + ")) for row in rows["train"][1::5]} == {"train"}
    measured = {row["id"] for row in rows["dev"] if row["group"] != "digits1"}
    assert not measured & {row["id"] for row in rows["train"]}
    groups = [row["group"] for row in rows["train"][:5]]
    assert groups == [f"digits{n}" for n in range(1, 6)]
    with pytest.raises(BadInput, match="--digits is 1 to 5"):
        main(Config(str(tmp_path), digits=6))


def test_all_lengths_take_turns():
    assert interleave([[1, 2], [3], [4, 5, 6]]) == [[1, 3, 4], [2, 5], [6]]
