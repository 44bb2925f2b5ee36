"""Cases of budget forcing by hand: where a sequence is, what it asked for, what is forced on it.

For generate.py's force_budget, which decides for one sequence, and for the batched decoder's.
"""

from typing import NamedTuple

import pytest


class Case(NamedTuple):
    decision: str  # "answer", "wait", "end" or "" for nothing
    wants_end: bool = False
    is_open: bool = True  # inside its thinking
    n_tokens: int = 0  # of thinking, injected ones included
    n_round: int = 0  # the model's own since the last wait
    n_waits: int = 0
    budget: int | None = None
    waits: int = 0
    min_thinking: int = 0
    rule: str = "total"
    n_wait: int = 1  # tokens of the wait string


CASES = {
    # the budget is spent, whether the model wants to end or not
    "answer, spent": Case("answer", n_tokens=8, budget=8),
    "answer, not a token early": Case("", n_tokens=7, budget=8),
    "answer, budget 0": Case("answer", budget=0),
    "answer, it wants to end": Case("answer", True, n_tokens=8, budget=8, waits=2),
    "answer, all rounds count": Case("answer", n_tokens=8, n_round=2, n_waits=1, budget=8),
    "answer, a round has its own": Case(
        "", n_tokens=8, n_round=2, n_waits=1, budget=8, rule="round"
    ),
    "answer, a round is over": Case(
        "answer", n_tokens=19, n_round=8, n_waits=1, budget=8, rule="round"
    ),
    "answer, thinking is over": Case("", is_open=False, n_tokens=8, budget=8),
    # it wants to end too early
    "wait, the first": Case("wait", True, n_tokens=3, n_round=3, waits=1),
    "wait, the last of two": Case("wait", True, n_tokens=9, n_round=3, n_waits=1, waits=2),
    "wait, none is left": Case("end", True, n_tokens=9, n_round=3, n_waits=2, waits=2),
    "wait, less than the minimum": Case("wait", True, n_tokens=9, n_waits=5, min_thinking=10),
    "wait, the minimum is reached": Case("end", True, n_tokens=10, n_waits=5, min_thinking=10),
    "wait, it does not want to end": Case("", n_tokens=3, waits=1),
    "wait, room for one token behind it": Case("wait", True, n_tokens=6, budget=8, waits=1),
    "wait, no room behind it": Case("end", True, n_tokens=7, budget=8, waits=1),
    "wait, a string of three": Case("end", True, n_tokens=5, budget=8, waits=1, n_wait=3),
    "wait, a string of three fits": Case("wait", True, n_tokens=4, budget=8, waits=1, n_wait=3),
    "wait, a new round has room": Case(
        "wait", True, n_tokens=7, n_round=7, budget=8, waits=1, rule="round"
    ),
    # it wants to end, and may
    "end, within its budget": Case("end", True, n_tokens=3, budget=8),
    "end, of an answer": Case("", True, is_open=False, n_tokens=3, waits=1),
    "end, nothing is asked for": Case("", True, n_tokens=3),
    "end, it thinks on": Case("", n_tokens=3, budget=8, waits=1),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
