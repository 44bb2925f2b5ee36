"""Formulas without eval: arithmetic, LaTeX, and the checker of Countdown and Game-24.

Nothing that a model wrote is ever executed: a text becomes tokens and tokens become a number.
Nesting, powers and factorials are limited, so every text is read in bounded time.
"""

import cmath
import math
import operator
import random
import re
from collections import Counter
from fractions import Fraction

from grading.spelling import LETTERS, plain_characters

LONGEST_FORMULA = 400  # characters; beyond it nothing is right
DEEPEST_NESTING = 50  # brackets, signs and arguments inside each other
LARGEST_POWER = 4096  # bits
LARGEST_FACTORIAL = 3_000

SUBSCRIPT = r"(?:_(?:\w|\{\w{1,9}\}))?'{0,3}"  # with primes: x_1'
# \dot{x}_0, \lambda, 12.5, .5, x_1, and any other sign
TOKEN = re.compile(
    rf"\\(?:dot|ddot|hat|bar|vec|tilde|overline)\s*\{{\w{{1,3}}\}}{SUBSCRIPT}"
    rf"|\\[a-zA-Z]+{SUBSCRIPT}"
    rf"|[0-9]+\.?[0-9]*|\.[0-9]+|[a-zA-Z]{SUBSCRIPT}|\S"
)
BRACKETS = {"(": ")", "{": "}", "[": "]"}
CONSTANTS = {"e": math.e, "i": 1j, "\\pi": math.pi}


def _product(one, other):
    """one * other. A float that falls to 0 would equal every other that does."""
    product = one * other
    if product == 0 and one != 0 and other != 0:
        raise ArithmeticError("underflow")
    return product


def _quotient(one, other):
    quotient = one / other
    if quotient == 0 and one != 0:
        raise ArithmeticError("underflow")
    return quotient


def _without_noise(function):
    """A function of an angle whose zeros are 0: cos(pi/2) is 6e-17 in floating point."""

    def rounded(angle):
        value = function(angle)
        if abs(value) < 1e-15 * max(1.0, abs(angle)) and abs(angle) > 0.1:
            return Fraction(0)
        return value

    return rounded


SIN, COS, TAN = (_without_noise(function) for function in (cmath.sin, cmath.cos, cmath.tan))
OPERATORS = {"+": operator.add, "-": operator.sub, "*": _product, "/": _quotient}
FUNCTIONS = {
    "\\sin": SIN,
    "\\cos": COS,
    "\\tan": TAN,
    "\\cot": lambda x: COS(x) / SIN(x),
    "\\sec": lambda x: 1 / COS(x),
    "\\csc": lambda x: 1 / SIN(x),
    "\\arcsin": cmath.asin,
    "\\arccos": cmath.acos,
    "\\arctan": cmath.atan,
    "\\sinh": cmath.sinh,
    "\\cosh": cmath.cosh,
    "\\tanh": cmath.tanh,
    "\\exp": lambda x: _power(math.e, x),
    "\\log": cmath.log,
    "\\ln": cmath.log,
    "\\lg": lambda x: cmath.log(x) / math.log(10),
}
INVERSES = {
    "\\sin": cmath.asin,
    "\\cos": cmath.acos,
    "\\tan": cmath.atan,
}  # \sin^{-1} x


class Expression:
    """Recursive descent over + - * / ^ ! ( ), LaTeX's \\frac, \\sqrt, \\binom, functions, names.

    sum() is the value of the whole text: a Fraction as long as everything is rational, else a
    float or a complex number. A name stands for a number between 1 and 2 that depends on the name
    and on `point`: formulas that agree at two points are taken as the same.
    names: the numbers that some names stand for.
    implicit: side by side means a product, as in 2x. left_to_right: no precedence, as on a simple
    calculator.
    Raises ValueError or ArithmeticError for anything else, for deep nesting and for huge powers.
    """

    def __init__(self, text, point=0, implicit=True, left_to_right=False, names=None):
        self.tokens = [*TOKEN.findall(text), ""]  # "" is the end
        # Constants of integration are c or C.
        if not any(token.startswith("c") for token in self.tokens):
            self.tokens = [
                "c" + token[1:] if token.startswith("C") else token for token in self.tokens
            ]
        self.at = 0  # index of the next token
        self.depth = 0
        self.point = point
        self.names = names or {}
        self.implicit = implicit
        self.left_to_right = left_to_right

    def take(self, *wanted):
        """Read the next token if it is one of these; else return ""."""
        token = self.tokens[self.at]
        if token not in wanted:
            return ""
        self.at += 1
        return token

    def sum(self, end=""):
        """product (+ product | - product)* end"""
        signs = "+-*/" if self.left_to_right else "+-"
        total = self.product()
        while sign := self.take(*signs):
            total = OPERATORS[sign](total, self.product())
        if self.tokens[self.at] != end:
            raise ValueError(f"unexpected {self.tokens[self.at]}")
        self.at += 1
        return total

    def product(self):
        """signed (* signed | / signed | power)*"""
        total = self.signed()
        while not self.left_to_right:
            if sign := self.take("*", "/"):
                total = OPERATORS[sign](total, self.signed())
            elif self.implicit and self.starts_a_factor():
                total = _product(total, self.power())  # 2x, 3\sqrt{5}, (a+5)(b+2)
            else:
                break
        return total

    def starts_a_factor(self):
        """Does the next token go on with a product? 4{10} is no product."""
        token = self.tokens[self.at]
        if token == "{":
            return not self.tokens[self.at + 1][:1].isdigit()
        return re.match(r"[\w\\(\[.]", token)

    def signed(self):
        """(+ | -)* power, so -3^2 is -9"""
        sign = 1
        while found := self.take("+", "-"):
            if found == "-":
                sign = -sign
        return sign * self.power()

    def power(self):
        """atom !? (^ group)?"""
        self.depth += 1
        if self.depth > DEEPEST_NESTING:  # every recursion passes here
            raise ValueError("nested too deeply")
        value = self.atom()
        if self.take("!"):
            value = _factorial(value)
        if self.take("^"):
            value = _power(value, self.group())
        self.depth -= 1
        return value

    def group(self):
        """{ sum } | signed"""
        return self.sum("}") if self.take("{") else self.signed()

    def atom(self):
        """A number, a bracket, \\frac, \\sqrt, a function, a constant or a name."""
        token = self.tokens[self.at]
        if token:
            self.at += 1
        if re.match(r"[0-9.]", token):
            return Fraction(token)
        if token in BRACKETS:
            return self.bracket(token)
        if token == "\\frac":
            return _quotient(self.group(), self.group())
        if token in ("\\binom", "\\dbinom", "\\tbinom"):
            return _binomial(self.group(), self.group())
        if token == "\\sqrt":
            degree = self.sum("]") if self.take("[") else Fraction(2)
            return _power(self.group(), 1 / degree)
        if token in FUNCTIONS:
            return self.function(token)
        if token.startswith("\\log_"):
            return self.logarithm(token.removeprefix("\\log_").strip("{}"))
        if token in self.names:
            return self.names[token]
        if token in CONSTANTS:
            return CONSTANTS[token]
        is_accented = "{" in token  # \dot{x}
        is_letter = re.match(r"[a-zA-Z]", token) or re.split("[_']", token[1:])[0] in LETTERS
        if is_accented or is_letter:
            return random.Random(f"{token} {self.point}").uniform(1, 2)
        raise ValueError(f"unexpected {token}")

    def bracket(self, opened):
        """( sum ), { sum } or [ sum ], behind its first bracket."""
        begin = self.at
        value = self.sum(BRACKETS[opened])
        # [ ] groups only what holds other brackets; else it is an interval or a list.
        if opened == "[" and not {"(", "{"} & set(self.tokens[begin : self.at]):
            raise ValueError("an interval or a list, not a group")
        return value

    def function(self, name):
        r"""(^ group)? argument, as in \sin^2 x, \cos 2t and \ln(x) y, where y is outside."""
        exponent = self.group() if self.take("^") else Fraction(1)
        if exponent == -1 and name in INVERSES:
            return INVERSES[name](self.argument())
        return _power(FUNCTIONS[name](self.argument()), exponent)

    def logarithm(self, base):
        r"""argument, of a logarithm to a base: \log_2 8, \log_{10} 100."""
        if not base.isdigit() or int(base) < 2:
            raise ValueError("a base that is no number")
        return cmath.log(self.argument()) / math.log(int(base))

    def argument(self):
        r"""What a function is applied to: (x), or all factors of 2\pi t."""
        bracketed = self.tokens[self.at] in BRACKETS
        argument = self.power()
        while not bracketed and re.match(r"\w|\\pi", self.tokens[self.at]):
            argument = argument * self.power()
        return argument


def _factorial(value):
    return Fraction(math.factorial(_whole_number(value)))


def _binomial(n, k):
    """n over k of whole numbers; others are compared symbolically."""
    return Fraction(math.comb(_whole_number(n), _whole_number(k)))


def _whole_number(value):
    """A whole number of bounded size as an int, else ValueError."""
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise ValueError("not a whole number")
    if not 0 <= value <= LARGEST_FACTORIAL:
        raise ValueError("too small or too large")
    return int(value)


def _power(base, exponent):
    """base^exponent; an odd root of a negative number is the real one."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        n_bits = max(abs(base.numerator), base.denominator).bit_length()
        if n_bits * abs(exponent) > LARGEST_POWER:
            raise ValueError("power too large")
        odd_root = exponent.denominator > 1 and exponent.denominator % 2
        if base < 0 and odd_root:
            return (-1) ** exponent.numerator * float(-base) ** float(exponent)
    power = base**exponent
    if power == 0 and base != 0:
        raise ArithmeticError("underflow")
    return power


# ---- Countdown and Game-24 ---------------------------------------------------------------------


def check_expression(text, nums, target, n_used=None, left_to_right=False):
    """Countdown and Game-24: does `text` reach `target` with each of `nums` exactly once?

    Allowed are + - * / and brackets.
    n_used: with exactly so many of them instead. left_to_right: without precedence, as on a simple
    calculator. The whole text must be the expression; `= target` may follow and `target =` be in
    front. A sign before a number or bracket is allowed.
    """
    found = expression_value(text, left_to_right)
    if found is None or found[1] != Fraction(target):
        return False
    used, given = Counter(found[0]), Counter(int(n) for n in nums)
    if n_used is None:
        return used == given
    return sum(used.values()) == n_used and not used - given


def is_countdown_problem(nums, target):
    """Are nums a list of whole numbers and target a finite number? NaN and words are none."""
    if not isinstance(nums, (list, tuple)):
        return False
    return all(_is_finite(n) and n == int(n) for n in nums) and _is_finite(target)


def _is_finite(number):
    return isinstance(number, (int, float, Fraction)) and math.isfinite(number)


def expression_value(text, left_to_right=False):
    """(numbers used, value) of an arithmetic expression over integers, or None."""
    if not isinstance(text, str) or len(text) > LONGEST_FORMULA:
        return None
    sides = [side.strip() for side in _arithmetic(text).split("=")]
    if len(sides) > 3 or not all(re.fullmatch(r"[0-9+\-*/() ]+", side) for side in sides):
        return None
    try:
        values = [
            Expression(side, implicit=False, left_to_right=left_to_right).sum() for side in sides
        ]
    except (ValueError, ArithmeticError):
        return None
    if any(value != values[0] for value in values):  # 6 * 4 = 25
        return None
    # Of 24 = 6 * 4 the right side is the expression.
    is_target_first = len(sides) == 2 and re.fullmatch(r"-?[0-9]+", sides[0])
    expression = sides[1] if is_target_first else sides[0]
    return sorted(int(n) for n in re.findall(r"[0-9]+", expression)), values[0]


def _arithmetic(text):
    r"""An expression in signs of arithmetic alone: **\(6 \times 4\)**. -> 6 * 4."""
    text = plain_characters(text).strip(" \n`.$✓✔✅")
    # Asterisks around the whole are bold type; inside they are a product.
    if text.startswith("**") and text.endswith("**"):
        text = text.strip("*").strip()
    text = text.removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]")
    text = text.strip(" \n`.$✓✔✅")
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\[,;!]", "", text)
    text = re.sub(r"\\(?:times|cdot)(?![a-zA-Z])", "*", text).replace("\\div", "/")
    text = re.sub(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", text)
    return text.replace("[", "(").replace("]", ")")
