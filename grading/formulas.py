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

LONGEST_FORMULA = 400  # characters; beyond it nothing is right
DEEPEST_NESTING = 50  # brackets, signs and arguments inside each other
LARGEST_POWER = 4096  # bits
LARGEST_FACTORIAL = 170  # the last whose value is a finite float

LOOKALIKES = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": "*",
        "·": "*",
        "÷": "/",
        "π": "\\pi ",
        "∞": "\\infty ",
        "°": "",
        "√": "\\sqrt",
        "∪": "\\cup ",
        "±": "\\pm ",
        "€": "",
        "£": "",
        "²": "^2",
        "³": "^3",
        "≤": "\\le ",
        "≥": "\\ge ",
        "′": "'",
        "’": "'",
    }
)
SUBSCRIPT = r"(?:_(?:\w|\{\w{1,9}\}))?'{0,3}"  # with primes: x_1'
# \dot{x}_0, \lambda, 12.5, .5, x_1, and any other sign
TOKEN = re.compile(
    rf"\\(?:dot|ddot|hat|bar|vec|tilde|overline)\s*\{{\w{{1,3}}\}}{SUBSCRIPT}"
    rf"|\\[a-zA-Z]+{SUBSCRIPT}"
    rf"|[0-9]+\.?[0-9]*|\.[0-9]+|[a-zA-Z]{SUBSCRIPT}|\S"
)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
BRACKETS = {"(": ")", "{": "}", "[": "]"}
CONSTANTS = {"e": math.e, "i": 1j, "\\pi": math.pi}
FUNCTIONS = {
    "\\" + name: getattr(cmath, name.replace("arc", "a"))
    for name in "sin cos tan sinh cosh tanh arcsin arccos arctan exp log".split()
}
FUNCTIONS |= {
    "\\ln": cmath.log,
    "\\cot": lambda x: 1 / cmath.tan(x),
    "\\sec": lambda x: 1 / cmath.cos(x),
    "\\csc": lambda x: 1 / cmath.sin(x),
}
LETTERS = set(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi
    varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega hbar ell infty""".split()
)


class Expression:
    """Recursive descent over + - * / ^ ! ( ), LaTeX's \\frac and \\sqrt, functions and names.

    sum() is the value of the whole text: a Fraction as long as everything is rational, else a
    float or a complex number. A name stands for a number between 1 and 2 that depends on the name
    and on `point`: formulas that agree at two points are taken as the same.
    implicit: side by side means a product, as in 2x. left_to_right: no precedence, as on a simple
    calculator.
    Raises ValueError or ArithmeticError for anything else, for deep nesting and for huge powers.
    """

    def __init__(self, text, point=0, implicit=True, left_to_right=False):
        self.tokens = [*TOKEN.findall(text), ""]  # "" is the end
        # Constants of integration are c or C.
        if not any(token.startswith("c") for token in self.tokens):
            self.tokens = [
                "c" + token[1:] if token.startswith("C") else token for token in self.tokens
            ]
        self.at = 0  # index of the next token
        self.depth = 0
        self.point = point
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
            elif self.implicit and re.match(r"[\w\\({\[.]", self.tokens[self.at]):
                total = total * self.power()  # 2x, 3\sqrt{5}, (a+5)(b+2)
            else:
                break
        return total

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
            return self.group() / self.group()
        if token == "\\sqrt":
            degree = self.sum("]") if self.take("[") else Fraction(2)
            return _power(self.group(), 1 / degree)
        if token in FUNCTIONS:
            return self.function(FUNCTIONS[token])
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

    def function(self, function):
        """(^ group)? argument, as in \\sin^2 x, \\cos 2t and \\ln(x) y, where y is outside."""
        exponent = self.group() if self.take("^") else Fraction(1)
        bracketed = self.tokens[self.at] in BRACKETS
        argument = self.power()
        while not bracketed and re.match(r"\w|\\pi", self.tokens[self.at]):
            argument = argument * self.power()
        return _power(function(argument), exponent)


def _factorial(value):
    if value not in range(LARGEST_FACTORIAL + 1):
        raise ValueError("no such factorial")
    return Fraction(math.factorial(int(value.real)))


def _power(base, exponent):
    """base^exponent; an odd root of a negative number is the real one."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        n_bits = max(abs(base.numerator), base.denominator).bit_length()
        if n_bits * abs(exponent) > LARGEST_POWER:
            raise ValueError("power too large")
        odd_root = exponent.denominator > 1 and exponent.denominator % 2
        if base < 0 and odd_root:
            return (-1) ** exponent.numerator * float(-base) ** float(exponent)
    return base**exponent


def check_expression(text, nums, target, n_used=None, left_to_right=False):
    """Countdown and Game-24: does `text` reach `target` with each of `nums` exactly once?

    Allowed are + - * / and ( ).
    n_used: with exactly so many of them instead. left_to_right: without precedence, as on a simple
    calculator. The whole text must be the expression; `= target` may follow. A sign before a
    number or bracket is allowed.
    """
    found = expression_value(text, left_to_right)
    if found is None or found[1] != Fraction(target):
        return False
    used, given = Counter(found[0]), Counter(int(n) for n in nums)
    if n_used is None:
        return used == given
    return sum(used.values()) == n_used and not used - given


def expression_value(text, left_to_right=False):
    """(numbers used, value) of an arithmetic expression over integers, or None."""
    if not isinstance(text, str) or len(text) > LONGEST_FORMULA:
        return None
    text = re.sub(r"\\(?:times|cdot)", "*", text.translate(LOOKALIKES)).replace("\\div", "/")
    text = text.strip().strip("$").strip()
    found = re.fullmatch(r"([0-9+\-*/() ]+)(?:=\s*(-?[0-9]{1,50}))?", text)
    if not found:
        return None
    expression, claimed = found[1], found[2]  # 6 * 4, and 24 of "= 24"
    try:
        value = Expression(expression, implicit=False, left_to_right=left_to_right).sum()
    except (ValueError, ArithmeticError):
        return None
    if claimed and Fraction(claimed) != value:
        return None
    return sorted(int(n) for n in re.findall(r"[0-9]+", expression)), value
