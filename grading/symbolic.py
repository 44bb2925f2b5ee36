"""Are two formulas the same? Asked only where the rules of answers.py cannot read one of them.

Those are binomials, floors, logarithms to a base, sums, absolute values, factorials of a variable.
The process of grading/simplify.py is asked twice:

1. for the fingerprint of each formula, its values at two fixed points. Formulas with different
   fingerprints are different. One question for each formula: n formulas need n questions, not n².
2. only for equal fingerprints: does math-verify show the difference to be zero?

Sympy computes 9^{9^{9}} until the memory is full and lets no signal handler in. So it runs in a
process of its own, which the kernel ends after CPU_LIMIT seconds of processor time. That time does
not depend on what else the machine does, so the verdict does not either. The process starts with
the first question and ends with this one. Without math-verify no two formulas are the same.

Never asked is what math-verify (0.9, latex2sympy2_extended 1.11) gets wrong: 52_8 = 52_9 and y' =
y, because it drops what it does not know; 3!!, which it reads as (3!)!; \\overline{AB}, words and
any command outside of COMMANDS; equations, where it compares right sides; lists, where it accepts
one of several; r = R (a setting).
"""

import functools
import importlib.util
import re
from collections import Counter

from grading.sandbox import Failure, Workers

CPU_LIMIT = 1.0  # seconds of processor time for one question
CLOCK_LIMIT = 120.0  # seconds by the clock; only a guard against a process that sleeps
MEMORY = 1 << 30  # bytes; what takes more will not end in time
LONGEST = 400  # characters
MOST_QUESTIONS = 30  # comparisons of parts in one comparison of answers
MOST_ATTEMPTS = 2  # at a question that ran out of time

BEYOND_RULES = re.compile(
    r"\\(?:binom|log|sum|prod|[lr]floor|[lr]ceil|min|max|gcd|lcm|neq?)(?![a-zA-Z])|[|!]"
)
COMMANDS = set(
    """frac sqrt binom log ln exp sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan pi
    infty sum prod lfloor rfloor lceil rceil min max gcd lcm ne neq cdot times div alpha beta gamma
    delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi psi omega
    Gamma Delta Theta Lambda Sigma Phi Psi Omega""".split()
)
FAILURES = Counter()  # why comparisons of this process gave no result: timeout, crash, import


class Budget:
    """Comparisons that one comparison of two answers may still ask for.

    A number, not a time: a busy machine must not change a verdict.
    """

    def __init__(self, n=MOST_QUESTIONS):
        self.n = n


class NoResult(Exception):
    """A question without a result; the message is the kind of a sandbox.Failure."""


def readable(text):
    """Does the text hold only what math-verify reads rightly?"""
    # The base of a logarithm and the index of a sum are the subscripts that it knows.
    text = re.sub(r"\\log\s*_\s*\w", r"\\log ", text)
    text = re.sub(r"_\s*\{\s*[a-z]\s*=", "{", text)
    if len(text) > LONGEST or not re.fullmatch(r"[a-zA-Z0-9\s+\-*/^_(){}|!,.\\]+", text):
        return False
    if text.count("(") != text.count(")") or text.count("{") != text.count("}"):
        return False
    if not set(re.findall(r"\\([a-zA-Z]+|.)", text)) <= COMMANDS:
        return False
    # Words, 52_8, numbers side by side, 3!!
    return not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|[\d)}]\s*_|\d\s+[\d.]|!\s*!", text)


def equal(one, other, budget=None):
    """True if math-verify shows two formulas to be the same.

    False if it does not, if it is not installed, or if nothing is left of the budget. A question
    without a result counts as False, is counted in FAILURES, is not remembered as an answer, and
    uses up the budget: one such question is enough for two answers.
    """
    if not BEYOND_RULES.search(one + other) or not readable(one) or not readable(other):
        return False
    if not importlib.util.find_spec("math_verify"):
        return False
    budget = budget or Budget()
    if budget.n == 0:
        return False
    budget.n -= 1
    # \log_2n is \log_{2}n. Sorted: a pair is one question, whichever of the two comes first.
    first, second = sorted(re.sub(r"_(\w)", r"_{\1}", text) for text in (one, other))
    try:
        return _comparable(first, second) and _same(first, second)
    except NoResult as failure:
        FAILURES[str(failure)] += 1
        budget.n = 0
        return False


def _comparable(one, other):
    """False if the fingerprints show two formulas to be different."""
    values, other_values = _fingerprint(one), _fingerprint(other)
    return None in (values, other_values) or values == other_values


# Both raise NoResult, and functools does not keep the result of a call that raises.


@functools.lru_cache(4096)
def _fingerprint(text):
    """The values of a formula at the fixed points, as one text; None if it has none."""
    return _ask(text)


@functools.lru_cache(4096)
def _same(one, other):
    return _ask([one, other]) is True


_attempts = Counter()  # questions that ran out of time: how often


def _ask(question):
    """The answer of the process, None if the question cannot be read. Raises NoResult."""
    name = repr(question)
    # A crowd of equal hostile answers would otherwise cost a second each.
    if _attempts[name] >= MOST_ATTEMPTS:
        raise NoResult("timeout")
    try:
        (result,) = _workers().map([question])
    except RuntimeError:  # it cannot be imported here
        raise NoResult("import") from None
    if not isinstance(result, Failure):
        return result
    if result.kind == "error":  # this is not LaTeX, or has no value
        return None
    if result.kind == "timeout":
        _attempts[name] += 1
    raise NoResult(result.kind)


def forget():
    """Forget all answers and attempts."""
    _fingerprint.cache_clear()
    _same.cache_clear()
    _attempts.clear()


@functools.cache
def _workers():
    return Workers(
        "grading.simplify:ask", n=1, limit=CLOCK_LIMIT, memory=MEMORY, cpu_limit=CPU_LIMIT
    )
