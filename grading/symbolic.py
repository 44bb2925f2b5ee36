"""Are two formulas the same? Asked only where the rules of grading/answers.py cannot read one of them: binomials, floors,
logarithms to a base, sums, absolute values, factorials of a variable.

math-verify (grading/simplify.py) turns LaTeX into sympy and simplifies the difference. Sympy computes 9^{9^{9}} until the
memory is full and lets no signal handler in, so it runs in a process of its own that is ended after LIMIT seconds. The
process starts with the first question (half a second, and again after each that was ended) and ends with this one.
Without math-verify nothing is the same.

What math-verify gets wrong is never asked (version 0.9, latex2sympy2_extended 1.11): 52_8 = 52_9 and y' = y, because it
drops what it does not know; 3!!, which it takes for (3!)!; \\overline{AB}, words and anything else outside of COMMANDS;
equations, of which it compares right sides; lists, of which it accepts one of several; r = R (a setting).
"""

import functools
import importlib.util
import re
from collections import Counter

from grading.sandbox import Failure, Workers

LIMIT = 1.0  # seconds for one comparison; what takes longer counts as not the same
BEYOND_RULES = r"\\(?:binom|log|sum|prod|[lr]floor|[lr]ceil|min|max|gcd|lcm|neq?)(?![a-zA-Z])|[|!]"
COMMANDS = set(
    """frac sqrt binom log ln exp sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan pi infty sum
                  prod lfloor rfloor lceil rceil min max gcd lcm ne neq cdot times div alpha beta gamma delta epsilon
                  varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta
                  Lambda Sigma Phi Psi Omega""".split()
)
FAILURES = Counter()  # why comparisons of this process gave no result: timeout, crash, import


def readable(text):
    """Does the text hold only what math-verify reads rightly?"""
    text = re.sub(
        r"\\log\s*_\s*\w|_\s*\{\s*[a-z]\s*=",
        lambda found: "\\log " if "log" in found[0] else "{",
        text,
    )
    return (
        len(text) <= 400
        and re.fullmatch(r"[a-zA-Z0-9\s+\-*/^_(){}|!,.\\]+", text) is not None
        and all(text.count(opened) == text.count(closed) for opened, closed in ("()", "{}"))
        and set(re.findall(r"\\([a-zA-Z]+|.)", text)) <= COMMANDS
        and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|[\d)}]\s*_|\d\s+[\d.]|!\s*!", text)
    )


@functools.lru_cache(4096)
def equal(one, other):
    """True if math-verify shows two formulas to be the same within LIMIT; else, or if it is not installed, False."""
    if not (
        re.search(BEYOND_RULES, one + other)
        and readable(one)
        and readable(other)
        and importlib.util.find_spec("math_verify")
    ):
        return False
    try:
        # \log_2n
        (result,) = _workers().map([[re.sub(r"_(\w)", r"_{\1}", text) for text in (one, other)]])
    except RuntimeError:  # it cannot be imported here
        result = Failure("import", "")
    # an error: not LaTeX, so not the same
    if isinstance(result, Failure) and result.kind != "error":
        FAILURES[result.kind] += 1
    return result is True


@functools.cache
def _workers():
    # what takes more will not end in time
    return Workers("grading.simplify:same", n=1, limit=LIMIT, memory=1 << 30)
