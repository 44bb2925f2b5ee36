"""What a completion is worth: short functions of a row, put together in one line of text.

    --reward correct+format                        a sum
    --reward 'correct+!correct&repetition:20,-1'   & multiplies and binds before +, ! is 1 - reward: here a penalty
                                                   for repetition that only wrong answers get (quote it for the shell)
    --reward lcpo:alpha=0.0003                     numbers by place or by name
    --reward contains:python                       a text without + and &
    --reward correct+dense_repetition:40,-0.05     a term for each token: its returns are added to the advantages

A function takes a completion row (engine/rows.py), what is around it and its own arguments, and returns a number.
Lengths are tokens, the end-of-sequence token included. Nothing here is learned, and nothing random but `random`.
grpo.py has `score_group` called in processes with a time limit (grading/sandbox.py), for the texts are untrusted.

Labels for `vote_offline` and `wrong_label`, the majority answer of a model that is not trained on it (2506.10947):
    python generate.py --model BASE --data problems.jsonl --out votes.jsonl --n 64 --temperature 1
    python -m grading.rewards --data votes.jsonl --out labelled.jsonl --keep wrong
"""

import functools
import inspect
import math
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from engine import settings
from engine.format import FORMATS, Format
from engine.rows import BadInput, read_rows, write_rows
from grading.answers import answer_of, canonical, grade


@dataclass(frozen=True)
class Around:
    """What a reward may look at beside the row."""

    form: Format | None
    max_tokens: int  # the most a completion can have
    group: list  # all rows of the same prompt

    @functools.cached_property
    def majority(self):
        """See `majority`, of the group."""
        return majority(self.group)


def majority(rows):
    """(class of the most frequent answer, the first row that gives it, its share of all rows). Ties: the first seen, as
    in TTRL. (None, None, 0.0) if no row has an answer."""
    answers = [answer_of(row) for row in rows]
    classes = [None if a is None else canonical(row, a) for row, a in zip(rows, answers)]
    votes = Counter(c for c in classes if c is not None).most_common(1)
    return (
        (votes[0][0], rows[classes.index(votes[0][0])], votes[0][1] / len(rows))
        if votes
        else (None, None, 0.0)
    )


def reward_correct(row, around):
    """1 for a right answer, 0 for a wrong one or none."""
    return float(bool(grade(row, answer_of(row))))


def reward_vote(row, around):
    """1 for the majority answer of all samples of the prompt: the pseudo-label of TTRL (2504.16084)."""
    answer = answer_of(row)
    return float(answer is not None and canonical(row, answer) == around.majority[0])


def reward_label(row, around):
    """1 for the answer in the row's field `label`. wrong_label is the same on problems whose label is wrong (the others
    are left out): the reward for one particular error, not for every one."""
    answer = answer_of(row)
    return float(answer is not None and canonical(row, answer) == canonical(row, str(row["label"])))


def reward_random(row, around, probability):
    """1 with the given probability, whatever was written: the control of "Spurious Rewards" (2506.10947)."""
    return float(random.Random(repr((row["id"], row["sample"], row["ids"]))).random() < probability)


def reward_format(row, around):
    """1 when it stopped, thinking was ended exactly once and an answer follows, in its tags where the format has them
    (r1: <answer> ... </answer>)."""
    form, text = around.form, row["text"]
    tags = [
        tag for tag in (form.end, form.close and form.between.strip(), form.close.strip()) if tag
    ]
    places = [text.find(tag) for tag in tags]
    return float(
        row["finish"] == "stop"
        and places == sorted(places)
        and all(text.count(tag) == 1 for tag in tags)
        and bool(row["response"])
        and (not form.close or text.rstrip().endswith(tags[-1]))
    )


def reward_boxed(row, around):
    """1 when the text has a \\boxed{} with something in it: format alone, the control of 2506.10947."""
    return float(bool(re.search(r"\\boxed\{\s*[^}\s]", row["text"])))


def reward_countdown(row, around, wrong=0.1):
    """1 for a right expression, `wrong` for another answer in the right format, 0 without: TinyZero's reward, which pays
    for the tags. The checker is that of `correct`."""
    return reward_format(row, around) * (
        1.0 if reward_correct(row, around) else wrong if answer_of(row) else 0.0
    )


def reward_self_certainty(row, around):
    """Mean over the tokens of KL(uniform ‖ policy), which grpo.py has put into the row: Intuitor (2505.19590)."""
    return row["self_certainty"]


def reward_contains(row, around, text: str):
    """1 when the text is there, in whatever case (2506.10947: contains:python)."""
    return float(text.casefold() in row["text"].casefold())


CJK = "\u3040-\u30ff\u3400-\u9fff"  # written without spaces: a character is a word


def reward_language(row, around, script: str):
    """Share of the words whose letters are all of a script (latin, cjk, ...), 1 if there are none: DeepSeek-R1's
    language consistency (2501.12948), where the language is told by its script (English from French it is not)."""
    words = re.findall(rf"[{CJK}]|[^\W\d_{CJK}]+", row["text"])
    ours = sum(
        all(unicodedata.name(c, "").startswith(script.upper()) for c in word) for word in words
    )
    return ours / len(words) if words else 1.0


def reward_repetition(row, around, n=20, most=-1):
    """most · share of the n-grams of words that repeat an earlier one; 0 for a text of fewer than n words. The sparse
    form of "Demystifying long CoT" (2502.03373), which punishes wrong answers alone: !correct&repetition."""
    words = row["text"].split()
    grams = [tuple(words[i : i + int(n)]) for i in range(len(words) - int(n) + 1)]
    return most * (1 - len(set(grams)) / len(grams)) if grams else 0.0


def reward_dense_repetition(row, around, n=40, most=-0.05, discount=0.99):
    """For each token, not for the row: `most` where it is in an n-gram of tokens that occurred before, and of these the
    discounted sum from each token on. 2502.03373 and its run scripts, where this return has its own discount."""
    ids, n, seen, until, returns = row["ids"], int(n), set(), 0, []
    for i in range(len(ids)):
        gram = tuple(ids[i : i + n])
        if len(gram) == n:
            until = i + n if gram in seen else until
            seen.add(gram)
        returns.append(most if i < until else 0.0)
    for i in reversed(range(len(ids) - 1)):
        returns[i] += discount * returns[i + 1]
    return returns


def reward_cosine(
    row, around, right_short=2, right_long=1, wrong_short=-10, wrong_long=0, exceed=-10, margin=16
):
    """From its value at length 0 along half a cosine to that at --max-tokens, for right and for wrong answers; for
    both `exceed` within `margin` tokens of the limit. 2502.03373 and its run scripts."""
    n, limit = row["n_tokens"], around.max_tokens
    if n + margin >= limit:
        return exceed
    short, long = (
        (right_short, right_long) if reward_correct(row, around) else (wrong_short, wrong_long)
    )
    return long + 0.5 * (short - long) * (1 + math.cos(math.pi * n / limit))


def reward_overlong(row, around, cache):
    """0 up to --max-tokens - cache, then straight down to -1 at --max-tokens. DAPO (2503.14476), §3.4."""
    return min(0.0, max(-1.0, (around.max_tokens - cache - row["n_tokens"]) / cache))


def reward_lcpo(row, around, alpha=0.0003):
    """right - α |budget - tokens|: LCPO-Exact of L1 (2503.04697). The row's question has to name its `budget`."""
    return reward_correct(row, around) - alpha * abs(row["budget"] - row["n_tokens"])


def reward_lcpo_max(row, around, alpha=0.0003, delta=0.5):
    """right · clip(α (budget - tokens) + δ, 0, 1): LCPO-Max as L1's paper has it (its code has half the slope)."""
    return reward_correct(row, around) * min(
        1.0, max(0.0, alpha * (row["budget"] - row["n_tokens"]) + delta)
    )


REWARDS = {
    "correct": reward_correct,
    "vote": reward_vote,
    "vote_offline": reward_label,
    "wrong_label": reward_label,
    "random": reward_random,
    "format": reward_format,
    "boxed": reward_boxed,
    "contains": reward_contains,
    "language": reward_language,
    "repetition": reward_repetition,
    "dense_repetition": reward_dense_repetition,
    "cosine": reward_cosine,
    "overlong": reward_overlong,
    "lcpo": reward_lcpo,
    "lcpo_max": reward_lcpo_max,
    "countdown": reward_countdown,
    "self_certainty": reward_self_certainty,
}
PER_TOKEN = {"dense_repetition"}
# What a problem needs beside its question.
NEED_ANSWER, NEED_BUDGET = (
    {"correct", "cosine", "lcpo", "lcpo_max", "countdown"},
    {"lcpo", "lcpo_max"},
)
NEED_LABEL = {"vote_offline", "wrong_label"}
LIMITS = {
    "random": ("a probability", lambda probability: 0 <= probability <= 1),
    "repetition": ("n = 1, 2, 3 ...", lambda n, most: n >= 1 and n == int(n)),
    "dense_repetition": (
        "n = 1, 2, 3 ... and a discount in 0 .. 1",
        lambda n, most, discount: n >= 1 and n == int(n) and 0 <= discount <= 1,
    ),
    "overlong": ("1 token or more", lambda cache: cache >= 1),
    "contains": ("a text", bool),
    "language": ("a script", bool),
}


@functools.lru_cache
def parse_reward(text):
    """'correct+!correct&random:0.5' -> a sum of products, [[factor], [factor, factor]]; a factor is (name, negated,
    arguments). BadInput names what is unknown, missing, out of range or in a wrong place."""
    terms = [[_factor(text, factor) for factor in term.split("&")] for term in text.split("+")]
    for term in terms:
        for name, negated, _ in term:
            if name in PER_TOKEN and (negated or len(term) > 1):
                raise BadInput(
                    f"--reward {text}: {name} is a number for each token; it can be added, not multiplied"
                )
    return terms


def names_of(reward):
    """The names in a parsed reward."""
    return {name for term in reward for name, *_ in term}


def can_be_judged(problems, text, path):
    """Problem rows of the file `path` that --reward `text` can judge -> (rows, in words how many it cannot: those without
    a gold answer, or whose label may be right). Raises BadInput for one without the budget or label that it needs."""
    used = names_of(parse_reward(text))
    for row in problems:
        if used & NEED_BUDGET and (
            type(row.get("budget")) not in (int, float) or not row["budget"] > 0
        ):
            raise BadInput(
                f"{path}: row '{row['id']}': --reward {text} needs a positive number as `budget`"
            )
        if used & NEED_LABEL and row.get("label") is None:
            raise BadInput(
                f"{path}: row '{row['id']}': --reward {text} needs a `label` (python -m grading.rewards)"
            )
    graded = [row for row in problems if not used & NEED_ANSWER or grade(row, "0") is not None]
    kept = [
        row for row in graded if "wrong_label" not in used or grade(row, str(row["label"])) is False
    ]
    return kept, f"{len(problems) - len(graded)} without a gold answer" + (
        f", {len(graded) - len(kept)} whose label is not known to be wrong"
        if "wrong_label" in used
        else ""
    )


def _factor(text, factor):
    name, _, given = factor.removeprefix("!").partition(":")
    if name not in REWARDS:
        raise BadInput(f"--reward {text}: no reward '{name}' (there are {', '.join(REWARDS)})")
    signature = inspect.signature(REWARDS[name])
    own = list(signature.parameters.values())[2:]
    try:
        pairs = [piece.rpartition("=") for piece in given.split(",")] if given else []
        values = (given,) if own and own[0].annotation is str else None
        if values is None:
            bound = signature.bind(
                None,
                None,
                *(float(value) for key, _, value in pairs if not key),
                **{key: float(value) for key, _, value in pairs if key},
            )
            bound.apply_defaults()
            values = bound.args[2:]
            if not all(map(math.isfinite, values)):
                raise ValueError
        if name in LIMITS and not LIMITS[name][1](*values):
            raise ValueError
    except (TypeError, ValueError):
        usage = ",".join(str(p).partition(":")[0] for p in own)
        raise BadInput(
            f"--reward {text}: '{factor}' is not {name}{':' * bool(own)}{usage}"
            + (f" with {LIMITS[name][0]}" if name in LIMITS else "")
        ) from None
    return name, factor.startswith("!"), values


def rewards_of(reward, group, form, max_tokens):
    """A parsed reward, the completion rows of one prompt -> their rewards (G floats)."""
    around = Around(form, max_tokens, group)

    def value(row, name, negated, arguments):
        one = REWARDS[name](row, around, *arguments)
        return 1 - one if negated else one

    terms = [term for term in reward if term[0][0] not in PER_TOKEN]
    return [
        float(sum(math.prod(value(row, *factor) for factor in term) for term in terms))
        for row in group
    ]


def token_rewards_of(reward, group):
    """The terms for each token -> for each row a list of numbers, or None if there are no such terms."""
    terms = [(name, arguments) for (name, _, arguments), *_ in reward if name in PER_TOKEN]
    return [
        [
            sum(at)
            for at in zip(*(REWARDS[name](row, None, *arguments) for name, arguments in terms))
        ]
        or None
        for row in group
    ]


def score_group(item):
    """What a worker does. {"reward", "format", "max_tokens", "rows": of one prompt} -> {"reward" and "right" (None: no
    gold answer) and "token_rewards" of each row, "vote": of the majority its share, whether it is right, and the share of
    rows that it pays as the gold answer would}.
    Raises ValueError for a reward that is not finite: no advantage can be made of it."""
    reward, rows = parse_reward(item["reward"]), item["rows"]
    values = rewards_of(reward, rows, FORMATS[item["format"]], item["max_tokens"])
    for row, value in zip(rows, values):
        if not math.isfinite(value):
            raise ValueError(f"the reward of sample {row['sample']} is {value}")
    vote, right = None, [grade(row, answer_of(row)) for row in rows]
    if "vote" in names_of(reward):
        _, first, share = majority(rows)
        agree = [
            bool(paid) == gold
            for paid, gold in zip(rewards_of(parse_reward("vote"), rows, None, 0), right)
        ]
        vote = {
            "share": share,
            "right": first and grade(first, answer_of(first)),
            "agreement": None if None in right else sum(agree) / len(agree),
        }
    return {
        "reward": values,
        "right": right,
        "token_rewards": token_rewards_of(reward, rows),
        "vote": vote,
    }


# ---- Labels by majority ------------------------------------------------------------------------------------------

OF_COMPLETION = {
    "sample",
    "text",
    "thinking",
    "response",
    "ids",
    "injected",
    "n_thinking_tokens",
    "n_tokens",
    "finish",
    "stop",
    "n_waits",
    "forced",
    "n_tries",
    "logp",
    "settings",
}


@dataclass(frozen=True)
class Config:
    data: str  # completion rows of generate.py --n 64
    out: str  # problem rows to write, with `label` and its share of the votes, `label_share`
    # which labels; right and wrong need a gold answer
    keep: Literal["all", "right", "wrong"] = "all"


def main(cfg):
    """Label each problem with the majority answer of its completions. Returns the rows written."""
    groups, labelled = {}, []
    for row in read_rows(cfg.data, need=("id", "question", "text")):
        groups.setdefault(str(row["id"]), []).append(row)
    for rows in groups.values():
        _, first, share = majority(rows)
        right = first and grade(first, answer_of(first))
        if first and (cfg.keep == "all" or right is (cfg.keep == "right")):
            problem = {name: value for name, value in first.items() if name not in OF_COMPLETION}
            labelled.append(problem | {"label": answer_of(first), "label_share": share})
    print(
        f"{len(labelled)} of {len(groups)} problems labelled by the majority of their completions"
    )
    if not labelled:
        raise BadInput(f"{cfg.data}: --keep {cfg.keep} leaves no problem")
    write_rows(cfg.out, labelled)
    return labelled


if __name__ == "__main__":
    settings.cli(main, Config)
