"""grading/rewards.py: rewards by hand, what they need, what the workers call, a reader's own."""

import json
import math
import re

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


def worth(reward, *rows, form="think", max_tokens=100):
    """Rewards of the rows of one group; of a single row its reward."""
    found = rewards.rewards_of(rewards.parse_reward(reward), rows, FORMATS[form], max_tokens)
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


# ---- Each reward by hand, on Countdown rows


def countdown_row(text, finish="stop", **more):
    thinking, response = FORMATS["think"].split(text)
    return {
        "id": "p",
        "sample": 0,
        "question": "make 20 from 7 5 8",
        "nums": [7, 5, 8],
        "target": 20,
        "n_used": 3,
        "left_to_right": True,
        "text": text,
        "thinking": thinking,
        "response": response,
        "finish": finish,
        "ids": [1, 2],
        **more,
    }


def near(value):
    return pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "row, correct, formatted",
    [
        (countdown_row("try it </think> 7 + 5 + 8"), 1, 1),
        (countdown_row("try it </think> 7 + 5 + 9"), 0, 1),
        (countdown_row("7 + 5 + 8"), 0, 0),  # never left its thinking: no answer
        (countdown_row("a </think> b </think> 7 + 5 + 8"), 0, 0),
        (countdown_row("try it </think>"), 0, 0),
        (countdown_row("try it </think> 7 + 5 + 8", "length"), 1, 0),
    ],
)
def test_rewards_by_hand(row, correct, formatted):
    assert worth("correct", row) == correct and worth("format", row) == formatted
    assert (
        worth("correct+format", row) == correct + formatted
        and worth("correct&format", row) == correct * formatted
    )
    assert worth("!correct", row) == 1 - correct and worth("format+!format&correct", row) == max(
        correct, formatted
    )


def test_reward_without_a_gold_answer_is_zero():
    """grade says None ("skip"); a reward must not take that for right."""
    row = {k: v for k, v in countdown_row("x </think> 20").items() if k not in ("nums", "target")}
    assert worth("correct", row) == 0


def test_reward_random_has_its_probability_and_no_memory():
    """2000 completions at p = .3: within 5·√(.3·.7/2000) = .051; the same completion has the same
    reward again.
    """
    rows = [countdown_row("x", ids=[i, 3], sample=i % 5) for i in range(2000)]
    found = worth("random:0.3", *rows)
    assert set(found) == {0.0, 1.0} and abs(sum(found) / 2000 - 0.3) < 0.051
    assert found == worth("random:0.3", *rows)
    assert set(worth("random:0", *rows)) == {0.0} and set(worth("random:1", *rows)) == {1.0}


def test_reward_random_takes_a_number_as_id():
    assert worth("random:1", countdown_row("x", id=7)) == 1.0


RIGHT, WRONG = "hm </think> 7 + 5 + 8", "hm </think> 7 + 5 + 9"


@pytest.mark.parametrize(
    "n, right, wrong",
    [
        (0, 2, -10),
        (3584, 1.853553, -8.535534),
        (7168, 1.5, -5),
        (10752, 1.146447, -1.464466),
        (14319, 1.000003, -0.000035),
        (14320, -10, -10),
        (14336, -10, -10),
    ],
)
def test_reward_cosine_by_hand(n, right, wrong):
    """L = 14336 and the run scripts' values; the limit counts as exceeded from 16 tokens before it
    on.
    """
    rows = [countdown_row(text, n_tokens=n) for text in (RIGHT, WRONG)]
    assert worth("cosine", *rows, max_tokens=14336) == near([right, wrong])
    assert worth("cosine:2,1,-10,0,-10", *rows, max_tokens=14336) == near([right, wrong])


def test_reward_cosine_with_other_values():
    """TRL's: 1 -> .5 and -1 -> -.5 have ±.75 in the middle of L = 100. exceed=3 and margin=0 by
    name.
    """
    rows = [countdown_row(text, n_tokens=50) for text in (RIGHT, WRONG)]
    assert worth("cosine:1,.5,-1,-.5", *rows) == near([0.75, -0.75])
    assert worth("cosine:exceed=3,margin=0", countdown_row(RIGHT, n_tokens=99)) == near(1.000247)
    assert worth("cosine:exceed=3,margin=0", countdown_row(RIGHT, n_tokens=100)) == 3


@pytest.mark.parametrize(
    "text, how, penalty",
    [
        ("a b a b a b", "2,1", 0.6),
        ("5 5 5 5 5", "2,-1", -0.75),
        ("5 5 5 5 5", "2", -0.75),
        ("a b c d", "2", 0),
        ("a", "2", 0),
        ("", "1", 0),
        ("a a", "1,-0.5", -0.25),
        ("a b " * 20, "most=-2", -2 * (1 - 2 / 21)),
    ],
)
def test_reward_repetition_by_hand(text, how, penalty):
    """a b a b a b: 5 pairs, 2 different, 3/5 repeat. Shorter than n: nothing to repeat, and no
    division by zero.
    """
    assert worth(f"repetition:{how}", countdown_row(text)) == near(penalty)


def test_reward_for_wrong_answers_alone():
    """Both repeat "go" and "+"; with !correct& only the wrong one pays, and correct is added to
    either.
    """
    right, wrong = (countdown_row("go go go " + text) for text in (RIGHT, WRONG))
    assert worth("repetition:1", right) < -0.3 and worth("repetition:1", wrong) < -0.3
    assert worth("!correct&repetition:1", right, wrong) == [0, worth("repetition:1", wrong)]
    assert worth("correct+!correct&repetition:1", right, wrong) == [1, worth("repetition:1", wrong)]


@pytest.mark.parametrize(
    "n, limit, cache, reward",
    [
        (16384, 20480, 4096, 0),
        (17408, 20480, 4096, -0.25),
        (18432, 20480, 4096, -0.5),
        (20480, 20480, 4096, -1),
        (20481, 20480, 4096, -1),
        (10, 20480, 4096, 0),
        (90, 100, 20, -0.5),
    ],
)
def test_reward_overlong_by_hand(n, limit, cache, reward):
    assert worth(f"overlong:{cache}", countdown_row("x", n_tokens=n), max_tokens=limit) == near(
        reward
    )


@pytest.mark.parametrize(
    "budget, n, right, wrong, most",
    [
        (1000, 1000, 1, 0, 0.5),
        (1000, 1200, 0.94, -0.06, 0.44),
        (1000, 500, 0.85, -0.15, 0.65),
        (1000, 2000, 0.7, -0.3, 0.2),
        (1000, 3000, 0.4, -0.6, 0),
        (100, 4000, -0.17, -1.17, 0),
        (3600, 512, 0.0736, -0.9264, 1),
    ],
)
def test_reward_lcpo_by_hand(budget, n, right, wrong, most):
    """α = .0003. Exact is symmetric around the budget and acts on wrong answers too; Max is .5 at
    it, 0 when wrong.
    """
    rows = [countdown_row(text, n_tokens=n, budget=budget) for text in (RIGHT, WRONG)]
    assert worth("lcpo", *rows) == near([right, wrong]) and worth(
        "lcpo:alpha=0.0003", *rows
    ) == near([right, wrong])
    assert worth("lcpo_max", *rows) == near([most, 0])
    assert worth("lcpo_max:alpha=0,delta=0.25", *rows) == near([0.25, 0])


def test_reward_vote_by_hand():
    """12 has three of five votes of [12, 12, 7, none, 12, 5]. Ties go to the first seen, no answer
    rewards none, equal values are one class, and the gold answer is not looked at.
    """
    assert worth("vote", *answered(12, 12, 7, None, 12, 5, answer="7")) == [1, 1, 0, 0, 1, 0]
    assert worth("vote", *answered(1, 1, 2, 3, 4, 5)) == [1, 1, 0, 0, 0, 0]
    assert worth("vote", *answered(7, 3, 3, 7)) == [1, 0, 0, 1]
    assert worth("vote", *answered(None, None)) == [0, 0]
    assert worth("vote", *answered("0.5", 2, "1/2", 3)) == [1, 0, 1, 0]
    rows = [
        countdown_row("x </think> " + text) for text in ("9", "7 + 5 + 8", "9 + 1", "8 + 5 + 7")
    ]
    assert worth("vote", *rows) == [0, 1, 0, 1]  # the same numbers and value


def test_reward_contains_and_language_by_hand():
    assert (
        worth("contains:python", countdown_row("use Python \\boxed{3}"))
        == 1
        == worth("contains:n", countdown_row("N"))
    )
    assert (
        worth("contains:a, b=c", countdown_row("xa, b=c")) == 1
        and worth("contains:a, b=c", countdown_row("a")) == 0
    )
    assert worth("correct&!contains:hm", countdown_row(RIGHT)) == 0
    assert worth("language:latin", countdown_row("abc 1+2, дом!")) == 0.5
    mixed = countdown_row("let us 计算 it now")  # let, us, 计, 算, it, now
    assert worth("language:latin", mixed) == near(4 / 6) and worth("language:cjk", mixed) == near(
        2 / 6
    )
    assert worth("language:latin", countdown_row("abcд don't")) == near(2 / 3)  # abcд, don, t
    assert worth("language:latin", countdown_row("1 + 2")) == 1


def test_parse_reward():
    terms = rewards.parse_reward("correct+!format&random:0.5")
    assert terms == [[("correct", False, ())], [("format", True, ()), ("random", False, (0.5,))]]
    assert rewards.parse_reward("cosine:margin=0,exceed=-1") == [
        [("cosine", False, (2, 1, -10, 0, -1, 0))]
    ]
    for text, named in (
        ("corect", "'corect'"),
        ("correct+", "''"),
        ("correct,format", "'correct,format'"),
        ("random", "probability"),
        ("random:2", "probability"),
        ("random:x", "probability"),
        ("correct:1", "'correct:1' is not correct"),
        ("overlong", "overlong:cache"),
        ("!", "''"),
        ("overlong:0", "1 token or more"),
        ("repetition:0", "n = 1"),
        ("repetition:1.5", "n = 1"),
        ("cosine:1,2,3,4,5,6,7", "margin=16"),
        ("cosine:what=1", "what=1' is not cosine:right_"),
        ("lcpo:nan", "lcpo:alpha=0.0003"),
        ("lcpo:alpha=", "alpha=0.0003"),
        ("contains", "a text"),
        ("lcpo:1,alpha=2", "alpha=0.0003"),
        ("language:", "a script"),
        ("lcpo:inf", "alpha"),
        ("correct&&format", "''"),
    ):
        with pytest.raises(BadInput, match=re.escape(named)) as error:
            rewards.parse_reward(text)
        assert "\n" not in str(error.value) and f"--reward {text}" in str(error.value)
