"""Are two formulas the same? Asked only where the rules of answers.py cannot read one of them.

Those are binomials, floors, logarithms to a base, sums, absolute values, factorials of a variable.
math-verify (grading/simplify.py) turns LaTeX into sympy and simplifies the difference. Sympy
computes 9^{9^{9}} until the memory is full and lets no signal handler in, so it runs in a process
of its own that is ended after LIMIT seconds. The process starts with the first question (half a
second, and again after each that was ended) and ends with this one. Without math-verify no two
formulas are the same.

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

LIMIT = 1.0  # seconds for one comparison; what takes longer counts as not the same
MEMORY = 1 << 30  # bytes; what takes more will not end in time
LONGEST = 400  # characters

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


@functools.lru_cache(4096)
def equal(one, other):
    """True if math-verify shows two formulas to be the same within LIMIT.

    False if it does not, or if it is not installed.
    """
    if not BEYOND_RULES.search(one + other) or not readable(one) or not readable(other):
        return False
    if not importlib.util.find_spec("math_verify"):
        return False
    pair = [re.sub(r"_(\w)", r"_{\1}", text) for text in (one, other)]  # \log_2n is \log_{2}n
    try:
        (result,) = _workers().map([pair])
    except RuntimeError:  # it cannot be imported here
        result = Failure("import", "")
    # An error is no failure: it says that this is not LaTeX, so not the same.
    if isinstance(result, Failure) and result.kind != "error":
        FAILURES[result.kind] += 1
    return result is True


@functools.cache
def _workers():
    return Workers("grading.simplify:same", n=1, limit=LIMIT, memory=MEMORY)
