"""grading/rewards.py beyond what test_grpo.py works by hand: format, Countdown, labels, rewards of tokens, and the function
that the workers call."""

import json
import math

import pytest

from engine.format import FORMATS
from engine.rows import BadInput, read_rows
from grading import rewards
from grading.sandbox import Failure, Workers


def completion(text, form="think", finish="stop", **more):
    thinking, response = FORMATS[form].split(text)
    return {
        "id": "p",
        "sample": 0,
        "question": "?",
        "text": text,
        "thinking": thinking,
        "response": response,
        "finish": finish,
        "ids": [1, 2],
        "n_tokens": 2,
        **more,
    }


def worth(reward, *rows, form="think"):
    found = rewards.rewards_of(rewards.parse_reward(reward), rows, FORMATS[form], 100)
    return found if len(rows) > 1 else found[0]


def answered(*answers, **more):
    return [
        {
            "id": "p",
            "sample": i,
            "question": "?",
            "text": "",
            "response": "" if a is None else f"Answer: {a}",
            "finish": "stop",
            "n_tokens": 9,
            "ids": [i],
            **more,
        }
        for i, a in enumerate(answers)
    ]


@pytest.mark.parametrize(
    "text, value",
    [
        ("think </think> <answer> 4 </answer>", 1),
        ("a</think><answer>4</answer>", 1),
        ("a </think> 4", 0),
        ("a </think> <answer> 4", 0),
        ("a <answer> 4 </answer> </think> b", 0),
        ("<answer> 4 </answer>", 0),
        ("a </think> <answer> 4 </answer> <answer> 5 </answer>", 0),
        ("a </think> b </think> <answer> 4 </answer>", 0),
        ("a </think> </answer> 4 <answer>", 0),
        ("a </think> <answer> </answer>", 0),
        ("a </think> <answer> 4 </answer> and so on", 0),
    ],
)
def test_format_of_r1_asks_for_its_tags(text, value):
    """Thinking ended once, then the answer in its tags, in this order and each once, and nothing after them."""
    assert worth("format", completion(text, "r1"), form="r1") == value
    assert worth("format", completion(text, "r1", "length"), form="r1") == 0


@pytest.mark.parametrize(
    "text, value",
    [
        ("\\boxed{3}", 1),
        ("\\boxed{}", 0),
        ("\\boxed{ }", 0),
        ("\\boxed", 0),
        ("so \\boxed{\\frac{1}{2}}", 1),
        ("3", 0),
        ("\\boxed{} then \\boxed{7}", 1),
    ],
)
def test_boxed_by_hand(text, value):
    assert worth("boxed", completion(text)) == value
    assert worth("boxed&!contains:python", completion("use Python " + text)) == 0


@pytest.mark.parametrize(
    "text, value",
    [("(3*5)+7", 1.0), ("3+5+7", 0.1), ("3*5+5", 0.1), ("I do not know", 0.1), ("", 0)],
)
def test_countdown_by_hand(text, value):
    """TinyZero on 3, 5, 7 for 22: right, wrong value, a number twice; without the tags 0."""
    of = {"nums": [3, 5, 7], "target": 22}
    assert (
        worth(
            "countdown", completion(f"hm </think> <answer> {text} </answer>", "r1", **of), form="r1"
        )
        == value
    )
    assert worth("countdown", completion(f"hm </think> {text}", "r1", **of), form="r1") == 0
    row = completion(f"hm </think> <answer> {text} </answer>", "r1", **of)
    assert worth("countdown:wrong=0", row, form="r1") == int(value)


def test_labels_by_hand():
    """The field `label` is what pays, not the gold answer; equal values are one answer, no answer is none."""
    rows = answered(12, "7.0", 7, None, answer="12", label="7")
    assert worth("vote_offline", *rows) == [0, 1, 1, 0] == worth("wrong_label", *rows)
    assert worth("!wrong_label", *rows) == [1, 0, 0, 1]
    assert worth("vote_offline", *answered(7, 8, label=7)) == [1, 0]
    row = {
        **completion("x </think> 5 + 8 + 7"),
        "nums": [7, 5, 8],
        "target": 1,
        "left_to_right": True,
        "label": "7 + 5 + 8",
    }
    assert worth("vote_offline", row) == 1


@pytest.mark.parametrize(
    "ids, n, values",
    [
        ([1, 2, 3, 1, 2, 3, 9], 3, [0, 0, 0, -0.05, -0.05, -0.05, 0]),
        ([7] * 5, 3, [0, -0.05, -0.05, -0.05, -0.05]),
        ([1, 2], 3, [0, 0]),
        ([], 3, []),
        ([4, 4], 1, [0, -0.05]),
        ([1, 2, 1, 2, 5, 1, 2], 2, [0, 0, -0.05, -0.05, 0, -0.05, -0.05]),
    ],
)
def test_dense_repetition_by_hand(ids, n, values):
    """A token is punished when an n-gram that covers it stood before; the first occurrence is free."""
    row = completion("x", ids=ids)
    assert rewards.reward_dense_repetition(row, None, n, -0.05, 0) == pytest.approx(values)
    returns = rewards.reward_dense_repetition(row, None, n, -0.05, 0.5)
    assert returns == pytest.approx(
        [
            sum(v * 0.5 ** (s - t) for s, v in enumerate(values) if s >= t)
            for t in range(len(values))
        ]
    )


def test_dense_repetition_is_added_token_by_token():
    """Beside a number for the row, which it does not change; two of them add up; none at all is None."""
    rows = [
        completion("a </think> 4", ids=[7] * 5, answer="4"),
        completion("a </think> 5", ids=[1, 2, 3], answer="4"),
    ]
    reward = rewards.parse_reward(
        "correct+dense_repetition:3,-0.05,0+dense_repetition:n=2,discount=0"
    )
    assert rewards.rewards_of(reward, rows, FORMATS["think"], 100) == [1, 0]
    assert rewards.token_rewards_of(reward, rows)[0] == pytest.approx([0, -0.1, -0.1, -0.1, -0.1])
    assert rewards.token_rewards_of(reward, rows)[1] == [0, 0, 0]
    assert rewards.token_rewards_of(rewards.parse_reward("correct"), rows) == [None, None]
    for text in (
        "correct&dense_repetition",
        "!dense_repetition",
        "dense_repetition:0",
        "dense_repetition:3,-1,1.5",
    ):
        with pytest.raises(BadInput, match="dense_repetition"):
            rewards.parse_reward(text)


def scored(reward, *rows):
    return rewards.score_group(
        json.loads(
            json.dumps({"reward": reward, "format": "think", "max_tokens": 50, "rows": rows})
        )
    )


def test_what_a_worker_returns():
    """TTRL's diagnostics: 12 has 3 of 6 votes; it is wrong if gold is 7. A row without gold has no `right`."""
    found = scored("vote", *answered(12, 12, 7, None, 12, 5, answer="7"))
    assert found == {
        "reward": [1, 1, 0, 0, 1, 0],
        "right": [False, False, True, False, False, False],
        "token_rewards": [None] * 6,
        "vote": {"share": 0.5, "right": False, "agreement": 2 / 6},
    }
    rows = answered(12, 12, 7, None, 12, 5, answer="12")
    assert scored("vote+format", *rows)["vote"] == {"share": 0.5, "right": True, "agreement": 1}
    # a lucky hit
    assert scored("vote", *answered(1, 1, 2, 3, 4, 5, answer="9"))["vote"]["agreement"] == 4 / 6
    assert scored("vote", *answered(12, 7))["vote"] == {
        "share": 0.5,
        "right": None,
        "agreement": None,
    }
    assert scored("vote", *answered(None, None, answer="1"))["vote"] == {
        "share": 0.0,
        "right": None,
        "agreement": 1,
    }
    assert (
        scored("boxed", *answered(1))["right"] == [None]
        and scored("boxed", *answered(1))["vote"] is None
    )
    assert scored("self_certainty+correct", *answered(1, 2, answer="2", self_certainty=0.25))[
        "reward"
    ] == [0.25, 1.25]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_a_failure(value):
    """Raised in the worker, so a Failure for the caller, with the sample; nothing is scored."""
    item = {
        "reward": "self_certainty",
        "format": "think",
        "max_tokens": 9,
        "rows": answered(1, self_certainty=0.5)
        + [{**answered(1)[0], "sample": 1, "self_certainty": value}],
    }
    with Workers("grading.rewards:score_group", 1, 5.0) as pool:
        found, fine = pool.map([item, {**item, "rows": item["rows"][:1]}])
    assert (
        isinstance(found, Failure)
        and found.kind == "error"
        and f"the reward of sample 1 is {value}" in found.text
    )
    assert fine["reward"] == [0.5]


def test_which_problems_can_be_judged():
    rows = [
        {"id": 1, "answer": "3", "label": "3"},
        {"id": 2, "answer": "3", "label": "4"},
        {"id": 3, "label": "4"},
    ]

    def ids(reward):
        kept, words = rewards.can_be_judged(rows, reward, "rows.jsonl")
        return [row["id"] for row in kept], words

    assert ids("correct") == ([1, 2], "1 without a gold answer") and ids("countdown+format")[0] == [
        1,
        2,
    ]
    assert ids("vote") == ([1, 2, 3], "0 without a gold answer") == ids("vote_offline")
    assert ids("wrong_label") == (
        [2],
        "0 without a gold answer, 2 whose label is not known to be wrong",
    )
    with pytest.raises(
        BadInput, match="rows.jsonl: row '4': --reward vote_offline needs a `label`"
    ):
        rewards.can_be_judged([*rows, {"id": 4}], "vote_offline", "rows.jsonl")


def test_labels_from_completions(tmp_path, capsys):
    """Three problems: the majority right, wrong, and none that answers. The labelled rows are problems again."""
    rows = [
        row | {"id": f"q{i}", "logp": [-0.1], "group": "math"}
        for i, answers in enumerate([(4, 4, 5), (6, 7, 6), (None, None, None)])
        for row in answered(*answers, answer="4")
    ]
    data = tmp_path / "votes.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def labelled(keep):
        rewards.main(rewards.Config(str(data), str(tmp_path / "out.jsonl"), keep))
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
