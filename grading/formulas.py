"""Formulas without eval: arithmetic, LaTeX and the checker of Countdown and Game-24.

Nothing that a model wrote is ever executed: a text becomes tokens, tokens become a number, and nesting, powers and
factorials are limited, so that every text is read in bounded time.
"""

import cmath
import math
import operator
import random
import re
from collections import Counter
from fractions import Fraction

LONGEST_FORMULA = 400  # characters; beyond it nothing is right
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
SUBSCRIPT = r"(?:_(?:\w|\{\w{1,9}\}))?'{0,3}"
TOKEN = re.compile(
    rf"\\(?:dot|ddot|hat|bar|vec|tilde|overline)\s*\{{\w{{1,3}}\}}{SUBSCRIPT}|\\[a-zA-Z]+{SUBSCRIPT}"
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
    """alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi
                 psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega hbar ell infty""".split()
)


class Expression:
    """Recursive descent over + - * / ^ ( ) and LaTeX's \\frac, \\sqrt, functions and names; sum() is the whole value.

    It is a Fraction as long as everything is rational, else a float or complex number. A name stands for a number
    between 1 and 2 that depends on the name and on `point`: formulas that agree at two points are taken as the same.
    Raises ValueError or ArithmeticError for anything else, for deep nesting and for huge powers.
    """

    def __init__(self, text, point=0, implicit=True, left_to_right=False):
        self.tokens, self.at, self.depth = [*TOKEN.findall(text), ""], 0, 0
        # constants of integration are c or C
        if not any(token.startswith("c") for token in self.tokens):
            self.tokens = [
                "c" + token[1:] if token.startswith("C") else token for token in self.tokens
            ]
        self.point, self.implicit, self.left_to_right = point, implicit, left_to_right

    def take(self, *wanted):
        """The next token if it is one of these, else ''."""
        token = self.tokens[self.at]
        self.at += token in wanted
        return token if token in wanted else ""

    def sum(self, end=""):
        total = self.product()
        while sign := self.take("+", "-", *("*/" if self.left_to_right else "")):
            total = OPERATORS[sign](total, self.product())
        if self.tokens[self.at] != end:
            raise ValueError(f"unexpected {self.tokens[self.at]}")
        self.at += 1
        return total

    def product(self):
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
        sign = 1
        while found := self.take("+", "-"):
            sign = -sign if found == "-" else sign
        return sign * self.power()  # -3^2 = -9

    def power(self):
        self.depth += 1
        if self.depth > 50:  # every recursion passes here
            raise ValueError("nested too deeply")
        value = self.atom()
        if self.take("!"):
            if value not in range(171):
                raise ValueError("no such factorial")
            value = Fraction(math.factorial(int(value.real)))
        value = _power(value, self.group()) if self.take("^") else value
        self.depth -= 1
        return value

    def group(self):
        return self.sum("}") if self.take("{") else self.signed()

    def atom(self):
        token = self.tokens[self.at]
        self.at += bool(token)
        if re.match(r"[0-9.]", token):
            return Fraction(token)
        if token in BRACKETS:
            begin, value = self.at, self.sum(BRACKETS[token])
            if token == "[" and not {"(", "{"} & set(self.tokens[begin : self.at]):
                raise ValueError(
                    "[ ] groups only what holds other brackets; else it is an interval's or a list's"
                )
            return value
        if token == "\\frac":
            return self.group() / self.group()
        if token == "\\sqrt":
            degree = self.sum("]") if self.take("[") else Fraction(2)
            return _power(self.group(), 1 / degree)
        if token in FUNCTIONS:
            exponent = self.group() if self.take("^") else Fraction(1)
            bracketed, argument = self.tokens[self.at] in BRACKETS, self.power()
            while not bracketed and re.match(r"\w|\\pi", self.tokens[self.at]):
                argument = argument * self.power()  # \cos 2t
            return _power(FUNCTIONS[token](argument), exponent)
        if token in CONSTANTS:
            return CONSTANTS[token]
        if (
            re.match(r"[a-zA-Z]", token)
            or "{" in token
            or re.split("[_']", token[1:])[0] in LETTERS
        ):
            return random.Random(f"{token} {self.point}").uniform(1, 2)
        raise ValueError(f"unexpected {token}")


def _power(base, exponent):
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if max(abs(base.numerator), base.denominator).bit_length() * abs(exponent) > 4096:
            raise ValueError("power too large")
        if base < 0 and exponent.denominator > 1 and exponent.denominator % 2:
            return (-1) ** exponent.numerator * float(-base) ** float(exponent)  # the real root
    return base**exponent


def check_expression(text, nums, target, n_used=None, left_to_right=False):
    """Countdown and Game-24: does `text` reach `target` with + - * / ( ) and every number of `nums` exactly once?

    n_used: with exactly that many of them instead. left_to_right: without precedence, as on a simple calculator.
    The whole text must be the expression; `= target` may follow. A sign before a number or bracket is allowed.
    """
    found = expression_value(text, left_to_right)
    if found is None or found[1] != Fraction(target):
        return False
    used, given = Counter(found[0]), Counter(int(n) for n in nums)
    return used == given if n_used is None else sum(used.values()) == n_used and not used - given


def expression_value(text, left_to_right=False):
    """(numbers used, value) of an arithmetic expression over integers, or None."""
    if not isinstance(text, str) or len(text) > LONGEST_FORMULA:
        return None
    text = re.sub(r"\\(?:times|cdot)", "*", text.translate(LOOKALIKES)).replace("\\div", "/")
    found = re.fullmatch(
        r"([0-9+\-*/() ]+)(?:=\s*(-?[0-9]{1,50}))?", text.strip().strip("$").strip()
    )
    try:
        value = (
            Expression(found[1], implicit=False, left_to_right=left_to_right).sum()
            if found
            else None
        )
    except (ValueError, ArithmeticError):
        return None
    if value is None or (found[2] and Fraction(found[2]) != value):
        return None
    return sorted(int(n) for n in re.findall(r"[0-9]+", found[1])), value
