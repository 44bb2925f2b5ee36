"""What a completion is worth: short functions of a row, put together in one line of text.

    --reward correct+format                        a sum
    --reward 'correct+!correct&repetition:20,-1'   & multiplies and binds before +, ! is 1 - reward: here a penalty
                                                   for repetition that only wrong answers get (quote it for the shell)
    --reward lcpo:alpha=0.0003                     numbers by place or by name
    --reward contains:python                       a text without + and &

A function takes a completion row (data/rows.py), what is around it and its own arguments, and returns a number.
Lengths are tokens, the end-of-sequence token included. Nothing here is learned, and nothing random but `random`.
"""
import functools
import inspect
import math
import random
import unicodedata
from collections import Counter
from dataclasses import dataclass

from data.answers import answer_of, canonical, grade
from data.format import Format
from data.rows import BadInput


@dataclass(frozen=True)
class Around:
    """What a reward may look at beside the row."""
    form: Format | None
    max_tokens: int           # the most a completion can have
    group: list               # all rows of the same prompt

    @functools.cached_property
    def majority(self):
        """Class of the most frequent answer; ties: the first seen, as in TTRL. None if no row has an answer."""
        votes = Counter(canonical(row, a) for row in self.group if (a := answer_of(row)) is not None)
        return votes.most_common(1)[0][0] if votes else None


def reward_correct(row, around):
    """1 for a right answer, 0 for a wrong one or none."""
    return float(bool(grade(row, answer_of(row))))


def reward_vote(row, around):
    """1 for the majority answer of the row's own group: the pseudo-label of TTRL (2504.16084)."""
    answer = answer_of(row)
    return float(answer is not None and canonical(row, answer) == around.majority)


def reward_random(row, around, probability):
    """1 with the given probability, whatever was written: the control of "Spurious Rewards" (2506.10947)."""
    return float(random.Random(repr((row["id"], row["sample"], row["ids"]))).random() < probability)


def reward_format(row, around):
    """1 when thinking was ended exactly once and an answer follows."""
    end = around.form.end
    return float(row["finish"] == "stop" and row["text"].count(end) == (1 if end else 0) and bool(row["response"]))


def reward_contains(row, around, text: str):
    """1 when the text is there, in whatever case (2506.10947: contains:python)."""
    return float(text.casefold() in row["text"].casefold())


def reward_language(row, around, script: str):
    """Share of the letters that are of a script (latin, cjk, ...), 1 if there are none. DeepSeek-R1 (2501.12948)
    counts words of the target language; letters need no dictionary, but cannot tell English from French."""
    letters = [c for c in row["text"] if c.isalpha()]
    ours = sum(unicodedata.name(c, "").startswith(script.upper()) for c in letters)
    return ours / len(letters) if letters else 1.0


def reward_repetition(row, around, n=20, most=-1):
    """most · share of the n-grams of words that repeat an earlier one; 0 for a text of fewer than n words. The sparse
    form of "Demystifying long CoT" (2502.03373), which punishes wrong answers alone: !correct&repetition."""
    words = row["text"].split()
    grams = [tuple(words[i:i + int(n)]) for i in range(len(words) - int(n) + 1)]
    return most * (1 - len(set(grams)) / len(grams)) if grams else 0.0


def reward_cosine(row, around, right_short=2, right_long=1, wrong_short=-10, wrong_long=0, exceed=-10, margin=16):
    """From its value at length 0 along half a cosine to that at --max-tokens, for right and for wrong answers; for
    both `exceed` within `margin` tokens of the limit. 2502.03373 and its run scripts."""
    n, limit = row["n_tokens"], around.max_tokens
    if n + margin >= limit:
        return exceed
    short, long = (right_short, right_long) if reward_correct(row, around) else (wrong_short, wrong_long)
    return long + 0.5 * (short - long) * (1 + math.cos(math.pi * n / limit))


def reward_overlong(row, around, cache):
    """0 up to --max-tokens - cache, then straight down to -1 at --max-tokens. DAPO (2503.14476), §3.4."""
    return min(0.0, max(-1.0, (around.max_tokens - cache - row["n_tokens"]) / cache))


def reward_lcpo(row, around, alpha=0.0003):
    """right - α |budget - tokens|: LCPO-Exact of L1 (2503.04697). The row's question has to name its `budget`."""
    return reward_correct(row, around) - alpha * abs(row["budget"] - row["n_tokens"])


def reward_lcpo_max(row, around, alpha=0.0003, delta=0.5):
    """right · clip(α (budget - tokens) + δ, 0, 1): LCPO-Max as L1's paper has it (its code has half the slope)."""
    return reward_correct(row, around) * min(1.0, max(0.0, alpha * (row["budget"] - row["n_tokens"]) + delta))


REWARDS = {"correct": reward_correct, "vote": reward_vote, "random": reward_random, "format": reward_format,
           "contains": reward_contains, "language": reward_language, "repetition": reward_repetition,
           "cosine": reward_cosine, "overlong": reward_overlong, "lcpo": reward_lcpo, "lcpo_max": reward_lcpo_max}
NEED_ANSWER, NEED_BUDGET = {"correct", "cosine", "lcpo", "lcpo_max"}, {"lcpo", "lcpo_max"}
LIMITS = {"random": ("a probability", lambda probability: 0 <= probability <= 1),
          "repetition": ("n = 1, 2, 3 ...", lambda n, most: n >= 1 and n == int(n)),
          "overlong": ("1 token or more", lambda cache: cache >= 1),
          "contains": ("a text", bool), "language": ("a script", bool)}


def parse_reward(text):
    """'correct+!correct&random:0.5' -> a sum of products, [[factor], [factor, factor]]; a factor is (name, negated,
    arguments). BadInput names what is unknown, missing or out of range."""
    return [[_factor(text, factor) for factor in term.split("&")] for term in text.split("+")]


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
            bound = signature.bind(None, None, *(float(value) for key, _, value in pairs if not key),
                                   **{key: float(value) for key, _, value in pairs if key})
            bound.apply_defaults()
            values = bound.args[2:]
            if not all(map(math.isfinite, values)):
                raise ValueError
        if name in LIMITS and not LIMITS[name][1](*values):
            raise ValueError
    except (TypeError, ValueError):
        usage = ",".join(str(p).partition(":")[0] for p in own)
        raise BadInput(f"--reward {text}: '{factor}' is not {name}{':' * bool(own)}{usage}"
                       + (f" with {LIMITS[name][0]}" if name in LIMITS else "")) from None
    return name, factor.startswith("!"), values


def rewards_of(reward, group, form, max_tokens):
    """A parsed reward, the completion rows of one prompt -> their rewards (G floats)."""
    around = Around(form, max_tokens, group)

    def value(row, name, negated, arguments):
        one = REWARDS[name](row, around, *arguments)
        return 1 - one if negated else one
    return [float(sum(math.prod(value(row, *factor) for factor in term) for term in reward)) for row in group]
