"""What a completion is worth: short functions of a row, combined in one line of text.

    --reward correct+format                       a sum
    --reward 'correct+!correct&repetition:20,-1'  & multiplies and binds tighter than +, !x is 1-x:
                                                  only wrong answers are punished for repetition
                                                  (quote it for the shell)
    --reward lcpo:alpha=0.0003                    numbers by place or by name
    --reward contains:python                      a text without + and &
    --reward correct+dense_repetition:40,-0.05    a number for each token; its returns are added
                                                  to the advantages
    --reward correct+my_rewards.py:shorter:0.002  your own function from your own file

A reward takes a completion row (engine/rows.py), what is around it (`Around`) and its own
arguments, and returns a number. What it needs of a problem is declared in its decorator and
nowhere else:

    @reward("shorter", needs=("answer",))
    def reward_shorter(row, around, alpha=0.001):
        return reward_correct(row, around) * (1 - alpha * row["n_tokens"])

The same works in a file of your own, --reward FILE.py:shorter, which imports what it uses from
grading.rewards. There a function without needs does without the decorator.

Lengths are tokens and count the end-of-sequence token. No reward is learned, and only `random` is
random.
grpo.py computes rewards in processes with a time limit (grading/sandbox.py): the texts are
untrusted.
"""

import functools
import importlib.util
import inspect
import math
import random
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.format import FORMATS, Format
from engine.rows import BadInput
from grading.answers import answer_of, canonical, grade
from grading.repetition import repeated_share

# ---- The table of rewards ----------------------------------------------------------------------

# What a reward may need beyond the completion itself.
NEEDS = {
    "answer": "a gold answer that grading/answers.py can compare with",
    "label": "the field `label` (python -m grading.labels)",
    "wrong label": "a label that is known to be wrong",
    "budget": "a positive number of tokens in the field `budget`, named in the question",
    "upper budget": "the question to word the budget as a limit, not as an aim",
    "votes": "the answers of all samples of the prompt, to be counted",
    "self_certainty": "the field `self_certainty`, which grpo.py measures with the policy",
}


@dataclass(frozen=True)
class Reward:
    """A function and what is declared beside it; see `reward`."""

    name: str
    function: Callable
    needs: frozenset = frozenset()
    per_token: bool = False
    usage: str = ""
    valid: Callable = lambda *arguments: True


REWARDS = {}


def reward(name, needs=(), per_token=False, usage="", valid=lambda *arguments: True):
    """Put the decorated function into the table of rewards.

    needs: names in NEEDS. per_token: it returns a list with a number for each token, not one
    number. valid: a test of its arguments. usage: what they must be, in words, for the message
    when they are not.
    """
    if unknown := set(needs) - set(NEEDS):
        raise ValueError(f"reward '{name}' needs {unknown.pop()!r}: not one of {', '.join(NEEDS)}")
    if name in REWARDS:
        raise ValueError(f"there already is a reward '{name}'")

    def register(function):
        REWARDS[name] = Reward(name, function, frozenset(needs), per_token, usage, valid)
        return function

    return register


@dataclass(frozen=True)
class Around:
    """What a reward may look at beside the row."""

    form: Format | None
    max_tokens: int  # the most that a completion can have
    group: list  # all rows of the same prompt

    @functools.cached_property
    def majority(self):
        """See `majority`, of the group."""
        return majority(self.group)


def majority(rows):
    """Completion rows of one problem -> the vote on its answer.

    Returns (class of the most frequent answer, the first row that gives it, its share of all rows).
    Ties go to the class seen first, as in TTRL. (None, None, 0.0) if no row has an answer.
    """
    answers = [answer_of(row) for row in rows]
    classes = [
        None if answer is None else canonical(row, answer) for row, answer in zip(rows, answers)
    ]
    votes = Counter(found for found in classes if found is not None)
    if not votes:
        return None, None, 0.0
    winner, n_votes = votes.most_common(1)[0]
    return winner, rows[classes.index(winner)], n_votes / len(rows)


# ---- Is the answer right? ----------------------------------------------------------------------


@reward("correct", needs=("answer",))
def reward_correct(row, around):
    """1 for a right answer, 0 for a wrong one or none."""
    return float(bool(grade(row, answer_of(row))))


@reward("vote", needs=("votes",))
def reward_vote(row, around):
    """1 for the majority answer of the prompt's samples: the pseudo-label of TTRL (2504.16084)."""
    answer = answer_of(row)
    return float(answer is not None and canonical(row, answer) == around.majority[0])


@reward("vote_offline", needs=("label",))
def reward_label(row, around):
    """1 for the answer in the row's field `label`: offline votes (2506.10947)."""
    answer = answer_of(row)
    return float(answer is not None and canonical(row, answer) == canonical(row, str(row["label"])))


@reward("wrong_label", needs=("label", "wrong label"))
def reward_wrong_label(row, around):
    """The same where the label is wrong: pays for one particular error, not for every one."""
    return reward_label(row, around)


@reward("random", usage="a probability", valid=lambda probability: 0 <= probability <= 1)
def reward_random(row, around, probability):
    """1 with a probability, whatever was written: a control of Spurious Rewards (2506.10947)."""
    key = repr((row["id"], row["sample"], row["ids"]))
    return float(random.Random(key).random() < probability)


# ---- What does the text look like? -------------------------------------------------------------


@reward("format")
def reward_format(row, around):
    """1 if the completion stopped, ended its thinking exactly once and then gave an answer.

    A format with tags around the answer (r1: <answer> ... </answer>) needs each tag once and in
    order.
    """
    form, text = around.form, row["text"]
    tags = [form.end, form.close and form.between.strip(), form.close.strip()]
    tags = [tag for tag in tags if tag]
    places = [text.find(tag) for tag in tags]
    each_once = all(text.count(tag) == 1 for tag in tags)
    in_order = places == sorted(places)
    closed = not form.close or text.rstrip().endswith(tags[-1])
    stopped = row["finish"] == "stop"
    return float(stopped and each_once and in_order and closed and bool(row["response"]))


@reward("boxed")
def reward_boxed(row, around):
    """1 for a \\boxed{} with something in it, right or wrong: a control of 2506.10947."""
    return float(bool(re.search(r"\\boxed\{\s*[^}\s]", row["text"])))


@reward("contains", usage="a text", valid=bool)
def reward_contains(row, around, text: str):
    """1 if the text occurs, in upper or lower case (2506.10947: contains:python)."""
    return float(text.casefold() in row["text"].casefold())


CJK = "\u3040-\u30ff\u3400-\u9fff"  # written without spaces: each character is a word


@reward("language", usage="a script", valid=bool)
def reward_language(row, around, script: str):
    """Share of the words written in a script (latin, cjk, ...); 1 for a text without words.

    Language consistency of DeepSeek-R1 (2501.12948). Script stands for language here, so English
    and French are not told apart.
    """
    words = re.findall(rf"[{CJK}]|[^\W\d_{CJK}]+", row["text"])
    if not words:
        return 1.0
    prefix = script.upper()  # unicode names begin with it: LATIN SMALL LETTER A
    n_ours = sum(
        all(unicodedata.name(letter, "").startswith(prefix) for letter in word) for word in words
    )
    return n_ours / len(words)


@reward("repetition", usage="n = 1, 2, 3 ...", valid=lambda n, most: n >= 1 and n == int(n))
def reward_repetition(row, around, n=20, most=-1):
    """most * share of the n-grams of words that repeat an earlier one; 0 below n words.

    "Demystifying long CoT" (2502.03373) punishes wrong answers alone: !correct&repetition.
    """
    return most * repeated_share(row["text"], int(n))


@reward(
    "dense_repetition",
    per_token=True,
    usage="n = 1, 2, 3 ... and a discount in 0 .. 1",
    valid=lambda n, most, discount: n >= 1 and n == int(n) and 0 <= discount <= 1,
)
def reward_dense_repetition(row, around, n=40, most=-0.05, discount=0.99):
    """For each token: the discounted sum, from this token on, of `most` per repeated token.

    A token is repeated if it is inside an n-gram of tokens that occurred before. 2502.03373 and
    its run scripts, where this return has a discount of its own.
    """
    ids, n = row["ids"], int(n)
    seen = set()
    until = 0  # tokens before this place are inside a repeated n-gram
    returns = []
    for i in range(len(ids)):
        gram = tuple(ids[i : i + n])
        if len(gram) == n:
            until = i + n if gram in seen else until
            seen.add(gram)
        returns.append(most if i < until else 0.0)
    for i in reversed(range(len(ids) - 1)):
        returns[i] += discount * returns[i + 1]
    return returns


# ---- How long is it? ---------------------------------------------------------------------------


@reward("cosine", needs=("answer",))
def reward_cosine(
    row, around, right_short=2, right_long=1, wrong_short=-10, wrong_long=0, exceed=-10, margin=16
):
    """Half a cosine over the length, from the value at 0 tokens to the value at max_tokens.

    Right and wrong answers have their own pair of values. Within `margin` tokens of the limit both
    get `exceed`. 2502.03373 and its run scripts.
    """
    n, limit = row["n_tokens"], around.max_tokens
    if n + margin >= limit:
        return exceed
    short, long = (
        (right_short, right_long) if reward_correct(row, around) else (wrong_short, wrong_long)
    )
    return long + 0.5 * (short - long) * (1 + math.cos(math.pi * n / limit))


@reward("overlong", usage="1 token or more", valid=lambda cache: cache >= 1)
def reward_overlong(row, around, cache):
    """0 up to max_tokens - cache, then down to -1 at max_tokens. DAPO (2503.14476), §3.4."""
    return min(0.0, max(-1.0, (around.max_tokens - cache - row["n_tokens"]) / cache))


@reward("lcpo", needs=("answer", "budget"))
def reward_lcpo(row, around, alpha=0.0003):
    """right - alpha |budget - tokens|: LCPO-Exact of L1 (2503.04697)."""
    return reward_correct(row, around) - alpha * abs(row["budget"] - row["n_tokens"])


@reward("lcpo_max", needs=("answer", "budget", "upper budget"))
def reward_lcpo_max(row, around, alpha=0.0003, delta=0.5):
    """right * clip(alpha (budget - tokens) + delta, 0, 1): LCPO-Max of L1's paper.

    Its code has half the slope.
    """
    kept = alpha * (row["budget"] - row["n_tokens"]) + delta
    return reward_correct(row, around) * min(1.0, max(0.0, kept))


# ---- Of other papers ---------------------------------------------------------------------------


@reward("countdown", needs=("answer",))
def reward_countdown(row, around, wrong=0.1):
    """1 for a right expression, `wrong` for another answer, 0 without the format: TinyZero.

    TinyZero pays for the tags. The checker is that of `correct`.
    """
    if not reward_format(row, around):
        return 0.0
    if reward_correct(row, around):
        return 1.0
    return wrong if answer_of(row) else 0.0


@reward("self_certainty", needs=("self_certainty",))
def reward_self_certainty(row, around):
    """Mean over the tokens of KL(uniform || policy): Intuitor (2505.19590)."""
    return row["self_certainty"]


# ---- From text to functions --------------------------------------------------------------------


class Factor(NamedTuple):
    """One reward in a sum of products."""

    name: str
    negated: bool  # use 1 - reward
    arguments: tuple


@functools.lru_cache
def parse_reward(text):
    """'correct+!correct&random:0.5' -> a sum of products, [[Factor], [Factor, Factor]].

    Raises BadInput that names what is unknown, missing, out of range or in a wrong place.
    """
    terms = [[parse_factor(text, factor) for factor in term.split("&")] for term in text.split("+")]
    for term in terms:
        for factor in term:
            alone = len(term) == 1 and not factor.negated
            if find_reward(factor.name).per_token and not alone:
                raise BadInput(
                    f"--reward {text}: {factor.name} is a number for each token; "
                    "it can be added, not multiplied"
                )
    return terms


FACTOR = re.compile(r"(!?)((?:[^:]*\.py:)?[^:]*)(?::(.*))?", re.DOTALL)


def parse_factor(text, factor):
    """'!random:0.5', a part of --reward `text` -> Factor."""
    negation, name, given = FACTOR.fullmatch(factor).groups(default="")
    try:
        found = find_reward(name)
    except BadInput as error:
        raise BadInput(f"--reward {text}: {error}") from error.__cause__
    try:
        arguments = parse_arguments(found.function, given)
        if not found.valid(*arguments):
            raise ValueError
    except (TypeError, ValueError):
        own = own_parameters(found.function)
        usage = ",".join(str(parameter).partition(":")[0] for parameter in own)
        shape = f"{name}:{usage}" if own else name
        limits = f" with {found.usage}" if found.usage else ""
        raise BadInput(f"--reward {text}: '{factor}' is not {shape}{limits}") from None
    return Factor(name, bool(negation), arguments)


def parse_arguments(function, given):
    """'0.1,alpha=2' -> all arguments of a reward after row and around, in order, with its defaults.

    They are finite numbers, unless the first is annotated `str`: then all of the text is that
    argument. Raises TypeError or ValueError.
    """
    own = own_parameters(function)
    if own and own[0].annotation in (str, "str"):
        return (given,)
    by_place, by_name = [], {}
    for piece in given.split(",") if given else []:
        name, _, value = piece.rpartition("=")
        if name:
            by_name[name] = float(value)
        else:
            by_place.append(float(value))
    bound = inspect.signature(function).bind(None, None, *by_place, **by_name)
    bound.apply_defaults()
    arguments = bound.args[2:]
    if not all(math.isfinite(argument) for argument in arguments):
        raise ValueError("not a finite number")
    return arguments


def own_parameters(function):
    """The parameters of a reward after row and around."""
    return list(inspect.signature(function).parameters.values())[2:]


def find_reward(name):
    """The Reward of a name in the table, or of FILE.py:FUNCTION. Raises BadInput."""
    if ".py:" in name:
        return load_reward(name)
    if name not in REWARDS:
        raise BadInput(
            f"no reward '{name}' (there are {', '.join(REWARDS)}, "
            "and FILE.py:FUNCTION for your own)"
        )
    return REWARDS[name]


@functools.cache
def load_reward(name):
    """Import FILE.py and take FUNCTION of it, with what its decorator declares if it has one.

    A decorated function may also be called by its declared name. The file is the user's own code
    and is run as such. Raises BadInput in one line.
    """
    path, _, function_name = name.rpartition(":")
    if not Path(path).is_file():
        raise BadInput(f"no file '{path}'")
    module = import_file(str(Path(path).resolve()))
    for declared in REWARDS.values():
        in_file = declared.function.__module__ == module.__name__
        if in_file and function_name in (declared.name, declared.function.__name__):
            return declared
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BadInput(f"{path} has no function '{function_name}'")
    return Reward(name, function)


@functools.cache
def import_file(path):
    """The module of a Python file, imported once in a process."""
    # A name that no other module has, so that the file may be called random.py.
    spec = importlib.util.spec_from_file_location(f"rewards in {path}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(f"{path} cannot be imported ({what})") from error
    return module


def reward_files(text):
    """The Python files that --reward `text` names, in order."""
    names = [factor.name for term in parse_reward(text) for factor in term]
    return list(dict.fromkeys(name.rpartition(":")[0] for name in names if ".py:" in name))


# ---- What rewards need of the problems ---------------------------------------------------------


def needs_of(text):
    """What the rewards in --reward `text` declare to need: a set of names in NEEDS."""
    factors = [factor for term in parse_reward(text) for factor in term]
    return frozenset().union(*(find_reward(factor.name).needs for factor in factors))


def rewardable_problems(problems, text, path):
    """Problem rows that --reward `text` can judge -> (rows, what is left out in words).

    Left out are problems without a gold answer or whose label may be right. path: of the rows.
    Raises BadInput for a problem without the budget or label that the reward needs.
    """
    needs = needs_of(text)
    for row in problems:
        where = f"{path}: row '{row['id']}': --reward {text}"
        budget = row.get("budget")
        if "budget" in needs and not (type(budget) in (int, float) and budget > 0):
            raise BadInput(f"{where} needs a positive number as `budget`")
        if "label" in needs and row.get("label") is None:
            raise BadInput(f"{where} needs a `label` (python -m grading.labels)")
    kept = problems
    if "answer" in needs:
        kept = [row for row in kept if grade(row, "0") is not None]
    left_out = f"{len(problems) - len(kept)} without a gold answer"
    if "wrong label" in needs:
        n_before = len(kept)
        # None, for a problem without a gold answer, is not False.
        kept = [row for row in kept if grade(row, str(row["label"])) is False]
        left_out += f", {n_before - len(kept)} whose label is not known to be wrong"
    return kept, left_out


# ---- Rewards of a group ------------------------------------------------------------------------


def rewards_of(parsed, group, form, max_tokens):
    """A parsed reward, the completion rows of one prompt -> their rewards (G floats)."""
    around = Around(form, max_tokens, group)

    def value(row, factor):
        found = find_reward(factor.name).function(row, around, *factor.arguments)
        return 1 - found if factor.negated else found

    terms = [term for term in parsed if not find_reward(term[0].name).per_token]
    return [
        float(sum(math.prod(value(row, factor) for factor in term) for term in terms))
        for row in group
    ]


def token_rewards_of(parsed, group):
    """The terms for each token -> a list of numbers for each row, or None without such terms."""
    factors = [term[0] for term in parsed if find_reward(term[0].name).per_token]
    found = []
    for row in group:
        of_terms = [
            find_reward(factor.name).function(row, None, *factor.arguments) for factor in factors
        ]
        found.append([sum(at_token) for at_token in zip(*of_terms)] or None)
    return found


def score_group(item):
    """Score the completions of one prompt. This function runs in the worker processes.

    item: {"reward", "format", "max_tokens", "rows"}, plain JSON. Returns lists over the rows,
    "reward", "right" (None without a gold answer) and "token_rewards", and "vote", see
    `vote_statistics`, or None. Raises ValueError for a reward that is not finite: no advantage can
    be computed from it.
    """
    parsed, rows = parse_reward(item["reward"]), item["rows"]
    values = rewards_of(parsed, rows, FORMATS[item["format"]], item["max_tokens"])
    for row, value in zip(rows, values):
        if not math.isfinite(value):
            raise ValueError(f"the reward of sample {row['sample']} is {value}")
    right = [grade(row, answer_of(row)) for row in rows]
    voted = "votes" in needs_of(item["reward"])
    return {
        "reward": values,
        "right": right,
        "token_rewards": token_rewards_of(parsed, rows),
        "vote": vote_statistics(rows, right) if voted else None,
    }


def vote_statistics(rows, right):
    """TTRL's diagnostics of a vote: how good is the majority answer as a label?

    "share": of the samples that gave it; "right": is it the gold answer; "agreement": share of
    samples that the vote rewards as the gold answer would. None where there is no gold answer.
    """
    _, first, share = majority(rows)
    votes = rewards_of(parse_reward("vote"), rows, None, 0)
    agree = [bool(vote) == gold for vote, gold in zip(votes, right)]
    return {
        "share": share,
        "right": first and grade(first, answer_of(first)),
        "agreement": None if None in right else sum(agree) / len(agree),
    }
