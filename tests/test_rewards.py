"""grading/rewards.py: rewards by hand, what they need, what the workers call, a reader's own."""

import json
import math

import pytest

from engine.format import FORMATS
from engine.rows import BadInput
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
    """Thinking ended once, then the answer in its tags, in this order and each once, and nothing
    after them.
    """
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
    """The field `label` is what pays, not the gold answer; equal values are one answer, no answer
    is none.
    """
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
    """A token is punished if an n-gram around it occurred before; the first time is free."""
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
    """Beside a number for the row, which it does not change; two of them add up; none at all is
    None.
    """
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
    """TTRL's diagnostics: 12 has 3 of 6 votes; it is wrong if gold is 7. A row without gold has no
    `right`.
    """
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


def test_which_problems_can_be_rewarded():
    rows = [
        {"id": 1, "answer": "3", "label": "3"},
        {"id": 2, "answer": "3", "label": "4"},
        {"id": 3, "label": "4"},
    ]

    def ids(reward):
        kept, words = rewards.rewardable_problems(rows, reward, "rows.jsonl")
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
        rewards.rewardable_problems([*rows, {"id": 4}], "vote_offline", "rows.jsonl")


# ---- The table, and rewards from a file of one's own


OWN = """
from grading.rewards import reward, reward_correct

def shorter(row, around, alpha=0.1):
    return -alpha * row["n_tokens"] / around.max_tokens

@reward("half", needs=("answer",), usage="a share", valid=lambda share: 0 <= share <= 1)
def reward_half(row, around, share=0.5):
    return share * reward_correct(row, around)

@reward("by_place", per_token=True)
def by_place(row, around):
    return list(range(len(row["ids"])))

def broken(row, around):
    return row["no such field"]

def nothing(row, around):
    return None

number = 3
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    yield str(path)
    for name in ("half", "by_place"):
        rewards.REWARDS.pop(name, None)
    rewards.parse_reward.cache_clear()
    rewards.load_reward.cache_clear()


def test_rewards_of_a_file(own):
    """9 of 50 tokens at alpha 0.1 are -0.018; arguments, products and numbers for each token as for
    ours.
    """
    rows = answered(12, 7, answer="7")
    assert scored(f"{own}:shorter", *rows)["reward"] == pytest.approx([-0.018, -0.018])
    found = scored(f"correct+!correct&{own}:shorter:alpha=0.5+{own}:by_place", *rows)
    assert found["reward"] == pytest.approx([-0.09, 1])
    assert found["token_rewards"] == [[0], [0]]
    assert scored(f"{own}:half:0.25", *rows)["reward"] == [0, 0.25] and rewards.reward_files(
        f"correct+{own}:half+format&{own}:shorter"
    ) == [own]


def test_what_a_file_declares_is_needed(own):
    assert rewards.needs_of(f"{own}:reward_half") == {"answer"}
    assert rewards.needs_of(f"{own}:half+format") == {"answer"} == rewards.needs_of("correct")
    assert rewards.needs_of(f"{own}:shorter&vote") == {"votes"}
    with pytest.raises(BadInput, match="is not .*own.py:half:share=0.5 with a share"):
        rewards.parse_reward(f"{own}:half:2")
    with pytest.raises(BadInput, match="by_place is a number for each token"):
        rewards.parse_reward(f"correct&{own}:by_place")


def test_rewards_of_a_file_in_a_worker(own):
    """Also in the process with a time limit: what raises, and what is no number, is a failure of
    its group alone.
    """
    item = {"format": "think", "max_tokens": 50, "rows": answered(7, answer="7")}
    items = [
        {**item, "reward": f"correct+{own}:{name}"}
        for name in ("half", "broken", "nothing", "shorter")
    ]
    with Workers("grading.rewards:score_group", 1, 5.0) as pool:
        half, broken, nothing, shorter = pool.map(items)
    assert half["reward"] == [1.5] and shorter["reward"] == pytest.approx([0.982])
    assert broken.kind == "error" and "KeyError: 'no such field'" in broken.text
    assert nothing.kind == "error" and "TypeError" in nothing.text


@pytest.mark.parametrize(
    "content, name, words",
    [
        (None, "f", "no file '"),
        ("x = 1", "f", "has no function 'f'"),
        ("f = 1", "f", "has no function 'f'"),
        ("1 / 0", "f", r"cannot be imported \(ZeroDivisionError: division by zero"),
        ("def f(:", "f", r"cannot be imported \(SyntaxError: .* line 1"),
        ("raise SystemExit(2)", "f", r"cannot be imported \(SystemExit: 2"),
        (
            "from grading.rewards import reward\n@reward('correct')\ndef f(row, around): pass",
            "f",
            "there already is a reward 'correct'",
        ),
        (
            "from grading.rewards import reward\n"
            "@reward('f', needs=('gold',))\n"
            "def f(row, around): pass",
            "f",
            "needs 'gold': not one of answer, label",
        ),
        ("def f(row): return 1", "f", "is not .*bad.py:f$"),
    ],
)
def test_bad_files_end_in_one_line(tmp_path, content, name, words):
    path = tmp_path / "bad.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=words) as error:
        rewards.parse_reward(f"correct+{path}:{name}")
    assert "\n" not in str(error.value) and str(error.value).startswith("--reward correct+")


def test_a_misspelt_reward_lists_the_others():
    with pytest.raises(BadInput, match="no reward 'corect'.*correct, vote, .*FILE.py:FUNCTION"):
        rewards.parse_reward("corect")


@pytest.mark.parametrize(
    "name, needs",
    [
        ("correct", {"answer"}),
        ("cosine", {"answer"}),
        ("countdown", {"answer"}),
        ("lcpo", {"answer", "budget"}),
        ("lcpo_max", {"answer", "budget", "upper budget"}),
        ("vote", {"votes"}),
        ("vote_offline", {"label"}),
        ("wrong_label", {"label", "wrong label"}),
        ("self_certainty", {"self_certainty"}),
        ("format", set()),
        ("random:0.5", set()),
    ],
)
def test_what_each_reward_needs(name, needs):
    assert rewards.needs_of(name) == needs
    assert rewards.needs_of(f"format+boxed&!{name}") == needs


class Watched(dict):
    """A row that remembers which of its fields were read."""

    def __init__(self, row):
        super().__init__(row)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)


@pytest.mark.parametrize("name", rewards.REWARDS)
def test_what_a_reward_reads_is_declared(name):
    """Whatever is registered: no field of a problem is read that `needs` does not name."""
    found = rewards.REWARDS[name]
    row = Watched(completion("a </think> 4", answer="4", label="4", budget=3, self_certainty=0.5))
    arguments = ["4" if p.annotation is str else 3 for p in rewards.own_parameters(found.function)]
    found.function(row, rewards.Around(FORMATS["think"], 100, [row]), *arguments)
    fields = {"answer", "label", "budget", "self_certainty"}
    assert row.read & fields <= found.needs
