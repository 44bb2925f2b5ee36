"""grading/symbolic.py: what math-verify shows to be equal, what it is not asked, its limit of
processor time, and verdicts on a busy machine.
"""

import math
import os
import random
import subprocess
import sys
import time

import pytest

from grading import symbolic
from grading.answers import answer_classes, is_correct
from grading.sandbox import Failure

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
    ("\\overline{AB}!", "AB!"),
    ("\\log_2 8 +", "3"),
]


def test_what_the_rules_cannot_read_is_compared_symbolically():
    pytest.importorskip("math_verify")
    symbolic.forget()
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


def test_a_symbolic_comparison_ends_in_time():
    """9^{9^{9}} fills the memory and holds the interpreter; its process is ended, counted, and the
    next has a new one. After two attempts it is not asked again, but still counted.
    """
    pytest.importorskip("math_verify")
    symbolic._workers().map(["1"])  # the process is there
    symbolic.FAILURES.clear(), symbolic.forget()
    start = time.process_time()
    assert not is_correct("9^{9^{9}}!", "|3|") and time.process_time() - start < 1
    assert symbolic.FAILURES == {"timeout": 1} and symbolic._workers().map(["3"])
    for n in (2, 3, 4):
        assert not is_correct("9^{9^{9}}!", "|3|") and symbolic.FAILURES == {"timeout": n}
    assert list(symbolic._attempts.values()) == [2]


class Scripted:
    """In the place of the workers: gives the results of a list and keeps the questions."""

    def __init__(self, *results):
        self.results, self.questions = list(results), []

    def map(self, questions):
        self.questions += questions
        return [self.results.pop(0)]


def test_a_time_out_is_no_verdict(monkeypatch):
    """The comparison that had no result is asked again; True and False are remembered. A second
    order of the pair is the same question.
    """
    late = Failure("timeout", "")
    workers = Scripted("1", late, late, True)
    monkeypatch.setattr(symbolic, "_workers", lambda: workers)
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: name)
    symbolic.FAILURES.clear(), symbolic.forget()
    workers.results = ["1", "1", late, True]
    assert not symbolic.equal("|x|", "|y|") and symbolic.FAILURES == {"timeout": 1}
    assert symbolic.equal("|x|", "|y|") and symbolic.equal("|y|", "|x|")
    assert workers.questions == ["|x|", "|y|", ["|x|", "|y|"], ["|x|", "|y|"]]
    symbolic.forget()


def test_the_number_of_questions_is_limited_not_their_time(monkeypatch):
    """One without a result is enough for two answers; so are MOST_QUESTIONS of any kind."""
    workers = Scripted(*range(999))
    monkeypatch.setattr(symbolic, "_workers", lambda: workers)
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: name)
    symbolic.forget()
    budget = symbolic.Budget(2)
    assert not any(symbolic.equal("|x|", f"|{n}|", budget) for n in range(9))
    assert workers.questions == ["|0|", "|x|", "|1|"] and budget.n == 0
    workers.results, budget = [Failure("crash", "")], symbolic.Budget(2)
    assert not any(symbolic.equal("|x|", f"|{n}|", budget) for n in (6, 7)) and budget.n == 0
    symbolic.forget()


def test_different_fingerprints_are_different_formulas(monkeypatch):
    """n formulas of different values: n questions, no comparison. Formulas without a fingerprint,
    because of a decimal, are compared.
    """
    pytest.importorskip("math_verify")
    asked, ask = [], symbolic._ask
    monkeypatch.setattr(symbolic, "_ask", lambda question: asked.append(question) or ask(question))
    symbolic.forget()
    formulas = [f"\\binom{{n}}{{{k}}}" for k in range(2, 12)]
    spelt = ["\\frac{n(n-1)}{2}", "\\frac{n!}{2!(n-2)!}"]
    numbers = answer_classes({}, [*formulas, *spelt, *formulas])
    assert numbers == [*range(10), 0, 0, *range(10)]
    assert sorted(map(str, asked)) == sorted(
        map(str, [*formulas, *spelt, *([formulas[0], other] for other in spelt)])
    )
    assert is_correct("\\log_2 3", "1.584963") and not is_correct("\\log_2 3", "1.6")


def templates(rng):
    """Pairs (one, other, right) of the kinds that the rules cannot read."""
    a, k = rng.randrange(2, 9), rng.randrange(2, 5)
    x, n = rng.choice("xyzt"), rng.choice("nmk")
    right = [
        (f"|{x}-{a}|", f"|{a}-{x}|"),
        (f"|{a}{x}+1|", f"|-{a}{x}-1|"),
        (f"({n}+{a})!", f"({n}+{a})({n}+{a - 1})!"),
        (f"\\binom{{{n}}}{{2}}", f"\\frac{{{n}({n}-1)}}{{2}}"),
        (f"\\binom{{{n}}}{{{k}}}", f"\\frac{{{n}!}}{{{k}!({n}-{k})!}}"),
        (f"\\binom{{{a + 6}}}{{{k}}}", str(math.comb(a + 6, k))),
        (f"|\\sin {x}|^2+|\\cos {x}|^2", "1"),
        (f"|\\sin(2{x})|", f"|2\\sin({x})\\cos({x})|"),
        (f"|({x}+{a})^2|", f"({x}+{a})^2"),
        (f"({x}+{a})({x}-{k})+{n}!", f"{n}!+{x}^2+{a - k}{x}-{a * k}".replace("+-", "-")),
        (f"\\sum_{{k=1}}^{{{a}}} k", str(a * (a + 1) // 2)),
        (f"\\log_{{{a}}} {a**k}", str(k)),
        (f"\\lfloor \\frac{{{7 * a}}}{{{k}}} \\rfloor", str(7 * a // k)),
        (f"{a}!", str(math.factorial(a))),
    ]
    one, other = rng.choice(right)
    if rng.random() < 0.5:
        return one, other, True
    return one, f"{other}+{rng.randrange(1, 4)}", False


def verdicts(pairs, n_busy=0):
    """is_correct of each pair, beside so many processes that are busy."""
    loop = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(loop) for _ in range(n_busy)]
    symbolic.forget(), symbolic.FAILURES.clear(), is_correct("|x|", "|y|")
    try:
        return [is_correct(one, other) for one, other, _ in pairs]
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_verdicts_on_a_busy_machine():
    pytest.importorskip("math_verify")
    pairs = [templates(random.Random(seed)) for seed in range(10)]
    assert verdicts(pairs, n_busy=2 * os.cpu_count()) == [right for *_, right in pairs]


@pytest.mark.slow
def test_the_same_verdict_with_ten_busy_loops_beside_it():
    """200 pairs, about half of them right."""
    pytest.importorskip("math_verify")
    pairs = [templates(random.Random(seed)) for seed in range(200)]
    wanted = [right for *_, right in pairs]
    assert 80 < sum(wanted) < 120
    for n_busy in (0, 10):
        assert verdicts(pairs, n_busy) == wanted and not symbolic.FAILURES


@pytest.mark.slow
def test_votes_over_many_answers_are_cheap():
    """16 different binomials: under 3 seconds on a quiet core, processes and all."""
    pytest.importorskip("math_verify")
    symbolic.forget(), is_correct("|x|", "|y|")
    start = time.perf_counter()
    numbers = answer_classes({}, [f"\\binom{{n+{k}}}{{{k}}}" for k in range(2, 18)])
    assert numbers == list(range(16)) and time.perf_counter() - start < 3


def test_without_math_verify_the_rules_are_left(monkeypatch):
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(symbolic, "_workers", None)
    assert not is_correct("\\binom{n}{2}", "n(n-1)/2") and is_correct("\\frac{42}{2}", "21")
