"""The worker process of grading/symbolic.py: what value has a formula, and are two the same?

Imported in that process only. What it is given is parsed by a grammar, never by python.
"""

import functools
import logging
import zlib

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify

logging.disable(logging.CRITICAL)  # it warns that its own time limit is off

N_POINTS = 2
# Whole, because factorials, binomials and bounds of sums may need it; prime, because few formulas
# agree there by accident. A name has the same value in all formulas.
VALUES = (11, 13, 17, 19, 23, 29, 31, 37)
DIGITS = 30  # of the computation
KEPT = 20  # of them in a fingerprint


def ask(question):
    """LaTeX -> its fingerprint; [LaTeX, LaTeX] -> bool. Raises for what cannot be read."""
    return fingerprint(question) if isinstance(question, str) else same(question)


def same(pair):
    """[LaTeX, LaTeX] -> bool. Raises for what cannot be read."""
    one, other = (read_latex(text) for text in pair)
    # Asked both ways: the library favours the first.
    forth = verify(one, other, timeout_seconds=None)
    return bool(forth and verify(other, one, timeout_seconds=None))


def fingerprint(text):
    """Values at the fixed points as one text; None for a decimal, which may be a rounded number.

    Formulas that are the same have the same fingerprint, where both have one. Raises if the formula
    has no value at one of the points.
    """
    if "." in text:
        return None
    formula = read_latex(text)
    return "; ".join(value_at(formula, point) for point in range(N_POINTS))


def value_at(formula, point):
    """The value of a formula where each name has one of VALUES, as text."""
    at = {
        name: VALUES[zlib.crc32(f"{name} {point}".encode()) % len(VALUES)]
        for name in formula.free_symbols
    }
    value = formula.evalf(DIGITS, subs=at)
    if not value.is_number or not value.is_finite:
        raise ValueError(f"no value: {value}")
    parts = value.as_real_imag()
    largest = max(map(abs, parts))
    # What is left of a difference of equal numbers is zero.
    noise = max(largest * sympy.Float("1e-18"), sympy.Float("1e-15"))
    return " ".join("0" if abs(part) < noise else str(sympy.Float(part, KEPT)) for part in parts)


@functools.lru_cache(4096)
def read_latex(text):
    """LaTeX -> a sympy expression in which r and R are two names."""
    return latex2sympy(
        text,
        is_real=True,
        normalization_config=None,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )


# The first questions of a process load much of sympy. They must not use up the time of others.
same([r"\binom{n}{2}", r"\frac{n(n-1)}{2}"])
same([r"|x-1|", r"|1-x|"])
fingerprint(r"\lfloor\log_2 n\rfloor + \sum_{k=1}^{n} k")
