"""Wrong solutions of the exercises: mistakes that public code made, and easy slips.

Not for students. The tests of an exercise must reject each of them, and say what was expected and
what was obtained: python assignments/wrong/check.py NAME ... shows what they say.
"""

from typing import NamedTuple


class Wrong(NamedTuple):
    """A wrong solution: the project's own with some lines replaced, or whole functions."""

    exercise: str
    mistake: str  # in words
    # (right lines, wrong lines) of the file of the exercise's functions
    edits: tuple = ()
    # {function: its text}
    code: dict = {}
    # the parts of the exercise that it costs; () is not stated
    costs: tuple = ()
