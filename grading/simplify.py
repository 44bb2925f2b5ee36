"""The worker of grading/symbolic.py: two formulas in, whether math-verify shows them to be the same out.

Imported in that process only; what it is given is parsed by a grammar, never by python.
"""

import logging

from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify

logging.disable(logging.CRITICAL)  # it warns that its own time limit is off


def same(pair):
    """[LaTeX, LaTeX] -> bool. Raises for what cannot be read. Asked both ways: the library favours the first."""
    one, other = (
        latex2sympy(
            text,
            is_real=True,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        for text in pair
    )
    return bool(
        verify(one, other, timeout_seconds=None) and verify(other, one, timeout_seconds=None)
    )
