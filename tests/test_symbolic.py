"""grading/symbolic.py: what math-verify shows to be equal, what it is not asked, and its time
limit.
"""

import time

import pytest

from grading import symbolic
from grading.answers import is_correct
from grading.sandbox import Workers

SYMBOLIC = [
    ("\\binom{5}{2}", "10"),
    ("\\lfloor\\log_2 n\\rfloor + 1", "1+\\lfloor \\log_{2}n \\rfloor"),
    ("|x-1|", "|1-x|"),
    ("\\frac{n!}{2}", "\\frac{n (n-1)!}{2}"),
    ("(4, \\log_2 8)", "(4, 3)"),
    ("\\sum_{k=1}^{10} k, 2", "2, 55"),
]


NOT_EQUAL = [
    ("\\binom{5}{2}", "11"),
    ("R!", "r!"),
    ("|x|", "x"),
    ("\\binom{5}{2}, 3", "10"),
    ("y'!", "y!"),
    ("52_8!", "52_9!"),
    ("1 + 1 = \\binom{5}{1}", "5"),
    ("(4, \\log_2 8)", "4, 3"),
    ("\\overline{AB}!", "AB!"),
    ("\\log_2 8 +", "3"),
]


def test_what_the_rules_cannot_read_is_compared_symbolically(monkeypatch):
    """With more time than LIMIT, so that a busy machine changes nothing."""
    pytest.importorskip("math_verify")
    symbolic.equal.cache_clear()
    with Workers("grading.simplify:same", n=1, limit=30) as patient:
        monkeypatch.setattr(symbolic, "_workers", lambda: patient)
        for pairs, right in ((SYMBOLIC, True), (NOT_EQUAL, False)):
            for one, other in pairs:
                assert is_correct(one, other) is right and is_correct(other, one) is right, one


def test_what_math_verify_is_not_asked():
    """It drops primes and subscripts of numbers, takes words for products, 1 2 for 12 and 3!! for
    (3!)!.
    """
    assert all(
        map(
            symbolic.readable,
            ("\\log_2 8", "\\sum_{k=1}^{n} k", "|x_1|", "\\lfloor\\log_{2}n\\rfloor", "n!/2"),
        )
    )
    assert not any(
        map(
            symbolic.readable,
            ("y'!", "52_8!", "(5)_8", "\\overline{AB}!", "east!", "1 2!", "3!!", "{3!"),
        )
    )


def test_a_symbolic_comparison_ends_in_time(monkeypatch):
    """9^{9^{9}} fills the memory and holds the interpreter; its process is ended, counted, and the
    next has a new one.
    """
    pytest.importorskip("math_verify")
    symbolic._workers().map([["1", "1"]])  # the process is there
    symbolic.FAILURES.clear(), symbolic.equal.cache_clear()
    start = time.perf_counter()
    assert not is_correct("9^{9^{9}}!", "|3|") and time.perf_counter() - start < 2
    assert symbolic.FAILURES == {"timeout": 1} and symbolic._workers().map([["1", "1"]]) == [True]
    monkeypatch.setattr(symbolic, "_workers", None)  # what was asked once is not asked again
    assert not is_correct("9^{9^{9}}!", "|3|") and symbolic.FAILURES == {"timeout": 1}


def test_without_math_verify_the_rules_are_left(monkeypatch):
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(symbolic, "_workers", None)
    assert not is_correct("\\binom{7}{2}", "21") and is_correct("\\frac{42}{2}", "21")
