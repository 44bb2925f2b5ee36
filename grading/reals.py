r"""Sets of real numbers: (0,36) \setminus \{9\} is (0,9) \cup (9,36), and |x| < 2 is (-2,2).

Asked where two answers have different structures and one of them names a set. A set is read from
intervals, finite sets, \mathbb{R}, and inequalities that are linear in one variable or in its
absolute value. Two sets are equal if they hold the same numbers at and between all their ends.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from grading.formulas import Expression
from grading.structures import split

CUE = re.compile(r"[<>|]|\\(?:cup|cap|setminus|mathbb|[lgn]e|land|lor|infty)(?![a-zA-Z])")
SIGN = re.compile(r"<=?|>=?|\\[lgn]e(?![a-zA-Z])")
NAMES_OF_SIGNS = {"\\le": "<=", "\\ge": ">=", "\\ne": "!="}
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
MOST_ENDS = 40


class RealSet(NamedTuple):
    """A test of membership, and the finite numbers where it may change."""

    ends: frozenset
    contains: Callable


def same_reals(one, other):
    """Are two texts in normal form the same set of real numbers? False if one cannot be read."""
    if not (CUE.search(one) or CUE.search(other)):
        return False
    try:
        return _members(read_set(one), read_set(other))
    except (ValueError, ArithmeticError, RecursionError):
        return False


def _members(one, other):
    ends = sorted(one.ends | other.ends)
    if len(ends) > MOST_ENDS:
        raise ValueError("too many ends")
    if not ends:
        return one.contains(Fraction(0)) == other.contains(Fraction(0))
    between = [(low + high) / 2 for low, high in zip(ends, ends[1:])]
    points = [ends[0] - 1, *ends, *between, ends[-1] + 1]
    return all(one.contains(point) == other.contains(point) for point in points)


def read_set(text, depth=0):
    r"""The RealSet of a text: \lor and \cup bind least, then \land and \cap, then \setminus."""
    if depth > 4:
        raise ValueError("nested too deeply")
    text = re.sub(r"^\s?[a-zA-Z]\s?\\in(?![a-zA-Z])", "", text.strip()).strip()
    text = text.replace("\\lor", "\\cup").replace("\\land", "\\cap")
    for sign, joined in (("\\cup", _union), ("\\cap", _intersection), ("\\setminus", _difference)):
        parts = split(text, sign)
        if len(parts) > 1:
            sets = [read_set(part, depth + 1) for part in parts]
            ends = frozenset().union(*(part.ends for part in sets))
            return RealSet(ends, joined(sets))
    return _read_part(text, depth)


def _union(sets):
    return lambda point: any(part.contains(point) for part in sets)


def _intersection(sets):
    return lambda point: all(part.contains(point) for part in sets)


def _difference(sets):
    first, *others = sets
    return lambda point: first.contains(point) and not any(part.contains(point) for part in others)


def _read_part(text, depth):
    r"""A set without \cup, \cap and \setminus."""
    if text == "\\mathbb{R}":
        return RealSet(frozenset(), lambda point: True)
    if text in ("\\mathbb{R}^+", "\\mathbb{R}_+"):
        return _interval(Fraction(0), False, math.inf, False)
    if text == "\\emptyset":
        return RealSet(frozenset(), lambda point: False)
    if builder := re.fullmatch(r"\\\{\s?[a-zA-Z]\s?(?:\\in \\mathbb\{R\}\s?)?[|:](.*)\\\}", text):
        return read_set(builder[1], depth + 1)
    if builder := re.fullmatch(r"\\?\{\s?[a-zA-Z]\s?\\in\s?([^|:]*?)\\?\}", text):
        return read_set(builder[1], depth + 1)
    if braces := re.fullmatch(r"\\\{([^{}]*)\\\}", text):
        points = frozenset(_number(part) for part in split(braces[1], ","))
        return RealSet(points, lambda point: point in points)
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and not SIGN.search(text):
        parts = split(text[1:-1], ";" if ";" in text else ",")
        if len(parts) != 2:
            raise ValueError("no interval")
        low, high = (_number(part) for part in parts)
        return _interval(low, text[0] == "[", high, text[-1] == "]")
    conditions = split(text, ",")
    if len(conditions) > 1:
        sets = [read_set(condition, depth + 1) for condition in conditions]
        return RealSet(frozenset().union(*(part.ends for part in sets)), _union(sets))
    return _inequalities(text)


def _number(text):
    """A constant as a Fraction; floats are rounded to 9 digits; infinities stay."""
    bare = text.replace(" ", "").lstrip("+")
    if bare.lstrip("-") == "\\infty":
        return -math.inf if bare[0] == "-" else math.inf
    values = [Expression(text, point).sum() for point in (0, 1)]
    if values[0] != values[1]:
        raise ValueError("not a constant")
    return _fraction(values[0])


def _fraction(value):
    if isinstance(value, Fraction):
        return value
    value = complex(value)
    if abs(value.imag) > 1e-12 or not math.isfinite(value.real):
        raise ValueError("not a real number")
    return Fraction(f"{value.real:.9g}")


def _interval(low, low_closed, high, high_closed):
    """low .. high, with or without its ends."""
    if low > high:
        raise ValueError("no interval")

    def contains(point):
        above = point > low or (low_closed and point == low)
        below = point < high or (high_closed and point == high)
        return above and below

    ends = frozenset(end for end in (low, high) if not math.isinf(end))
    return RealSet(ends, contains)


def _inequalities(text):
    r"""A chain: 0 < 2x \le 6 is 0 < 2x and 2x \le 6."""
    signs = [NAMES_OF_SIGNS.get(sign, sign) for sign in SIGN.findall(text)]
    sides = SIGN.split(text)
    if not signs:
        raise ValueError("no inequality")
    sets = [_inequality(*step) for step in zip(sides, signs, sides[1:])]
    return RealSet(frozenset().union(*(part.ends for part in sets)), _intersection(sets))


def _inequality(left, sign, right):
    if "|" in right:
        left, sign, right = right, MIRRORED[sign], left
    absolute = re.fullmatch(r"\s?\|([^|]+)\|\s?", left)
    if not absolute:
        return _linear(f"({left})-({right})", sign)
    inside = absolute[1]
    upper = _linear(f"({inside})-({right})", sign)
    lower = _linear(f"-({inside})-({right})", sign)
    # |x| < 2 is x < 2 and -x < 2; |x| > 2 is x > 2 or -x > 2.
    joined = _union if sign in (">", ">=") else _intersection
    return RealSet(upper.ends | lower.ends, joined([upper, lower]))


def _linear(text, sign):
    """The set where slope * x + offset is <, <=, >, >= or != 0."""
    names = set(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", text)) - {"e", "i"}
    if len(names) != 1:
        raise ValueError("not one variable")
    (name,) = names
    points = [Expression(text, names={name: Fraction(x)}).sum() for x in range(3)]
    offset, at_one, at_two = points
    slope = at_one - offset
    if abs(slope) < 1e-9 or abs(at_two - at_one - slope) > 1e-9 * abs(slope):
        raise ValueError("not linear")
    root = _fraction(-offset / slope)
    if sign == "!=":
        return RealSet(frozenset([root]), lambda point: point != root)
    closed = "=" in sign
    if (sign[0] == "<") == (_fraction(slope) > 0):
        return _interval(-math.inf, False, root, closed)
    return _interval(root, closed, math.inf, False)
