"""The worker process of grading/symbolic.py: can math-verify show two formulas to be the same?

Imported in that process only. What it is given is parsed by a grammar, never by python.
"""

import logging

from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify

logging.disable(logging.CRITICAL)  # it warns that its own time limit is off


def same(pair):
    """[LaTeX, LaTeX] -> bool. Raises for what cannot be read."""
    one, other = (read_latex(text) for text in pair)
    # Asked both ways: the library favours the first.
    forth = verify(one, other, timeout_seconds=None)
    return bool(forth and verify(other, one, timeout_seconds=None))


def read_latex(text):
    """LaTeX -> a sympy expression in which r and R are two names."""
    return latex2sympy(
        text,
        is_real=True,
        normalization_config=None,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
