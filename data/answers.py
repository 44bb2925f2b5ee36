"""What is a right answer? Extraction, equality and the Countdown checker; curation, reward and test all grade here.

Nothing that a model wrote is ever executed, and every string is graded in bounded time: texts are cut to a length,
regular expressions are linear, nesting and powers are limited. An answer is parsed into a value that is the same for
every equivalent spelling (a Fraction, a formula's value at two points, a tuple with its brackets, ...), and two answers
are equal when these values are.
"""
import cmath
import math
import operator
import random
import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache

from data.format import FORMATS


# ---- Which part of a text is the answer? ------------------------------------------------------------------------

LONGEST_TEXT, LONGEST_ANSWER, LONGEST_FORMULA = 200_000, 2_000, 400        # characters; beyond it nothing is right
ANSWER_LINE = re.compile(r"\banswer\b[*_ \t]{0,9}(?::|is\b:?)[*_ \t]{0,9}([^\n]*)(?=(\n\s{0,9}[^\n]*)?)", re.IGNORECASE)


def extract_answer(text, format=""):
    """The answer that a text gives, or None. With a format's name, only its response part is read.

    First of: last \\boxed (one without its closing brace: the text was cut, None), last <answer>, last "Answer:" or
    "the answer is" line (if nothing follows on it, the line after), "#### 42", the whole text if it is a short line.
    """
    text = FORMATS[format].split(text)[1] if format else text
    text = text[-LONGEST_TEXT:].strip()
    *_, box = [None, *re.finditer(r"\\(?:boxed|fbox)(?=\s*\{| )", text)]
    if box:
        return _box(text[box.end():].lstrip())
    closed = text.rfind("</answer>")
    opened = text.rfind("<answer>", 0, max(closed, 0))
    if opened >= 0:
        return _clean(text[opened + len("<answer>"):closed])
    *_, line = [None, *ANSWER_LINE.finditer(text)]
    if line:
        return _clean(line[1]) or _clean(line[2] or "")
    last = text.rpartition("####")[2].partition("\n")[0].strip()
    if "####" in text and re.fullmatch(r"(?=\D*\d)\S{1,40}", last):
        return _clean(last)
    return _clean(text) if len(text) <= 100 and "\n" not in text else None


def _box(rest):
    """What stands in the box that begins with `rest`: {...} with inner braces, or `42$`."""
    if not rest.startswith("{"):
        return _clean(re.match(r"[^$\n]*", rest)[0])
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", rest, re.DOTALL):                # \{ and \} are characters, not groups
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return _clean(rest[1:brace.start()])
    return None


def _clean(answer):
    return answer.strip().strip("*`").strip() or None


def answer_of(row):
    """Extracted answer of a completion row; None for one that was cut while it was thinking."""
    return extract_answer(row.get("response" if "response" in row else "text") or "")


# ---- Arithmetic without eval ------------------------------------------------------------------------------------

SUBSCRIPT = r"(?:_(?:\w|\{\w{1,9}\}))?"
TOKEN = re.compile(rf"\\[a-zA-Z]+{SUBSCRIPT}|[0-9]+\.?[0-9]*|\.[0-9]+|[a-zA-Z]{SUBSCRIPT}|\S")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
BRACKETS = {"(": ")", "{": "}"}
CONSTANTS = {"e": math.e, "i": 1j, "\\pi": math.pi}
FUNCTIONS = {"\\" + name: getattr(cmath, name.replace("arc", "a")) for name in
             "sin cos tan sinh cosh tanh arcsin arccos arctan exp log".split()}
FUNCTIONS |= {"\\ln": cmath.log, "\\cot": lambda x: 1 / cmath.tan(x),
              "\\sec": lambda x: 1 / cmath.cos(x), "\\csc": lambda x: 1 / cmath.sin(x)}
LETTERS = set("""alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu xi rho sigma tau phi varphi chi
                 psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega hbar ell infty""".split())


class Expression:
    """Recursive descent over + - * / ^ ( ) and LaTeX's \\frac, \\sqrt, functions and names; sum() is the whole value.

    It is a Fraction as long as everything is rational, else a float or complex number. A name stands for a number
    between 1 and 2 that depends on the name and on `point`: formulas that agree at two points are taken as the same.
    Raises ValueError or ArithmeticError for anything else, for deep nesting and for huge powers.
    """

    def __init__(self, text, point=0, implicit=True, left_to_right=False):
        self.tokens, self.at, self.depth = [*TOKEN.findall(text), ""], 0, 0
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
            elif self.implicit and re.match(r"[\w\\({.]", self.tokens[self.at]):
                total = total * self.power()                               # 2x, 3\sqrt{5}, (a+5)(b+2)
            else:
                break
        return total

    def signed(self):
        sign = 1
        while found := self.take("+", "-"):
            sign = -sign if found == "-" else sign
        return sign * self.power()                                         # -3^2 = -9

    def power(self):
        self.depth += 1
        if self.depth > 50:                                                # every recursion passes here
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
            return self.sum(BRACKETS[token])
        if token == "\\frac":
            return self.group() / self.group()
        if token == "\\sqrt":
            degree = self.sum("]") if self.take("[") else Fraction(2)
            return _power(self.group(), 1 / degree)
        if token in FUNCTIONS:
            exponent = self.group() if self.take("^") else Fraction(1)
            bracketed, argument = self.tokens[self.at] in BRACKETS, self.power()
            while not bracketed and re.match(r"\w|\\pi", self.tokens[self.at]):
                argument = argument * self.power()                         # \cos 2t
            return _power(FUNCTIONS[token](argument), exponent)
        if token in CONSTANTS:
            return CONSTANTS[token]
        if re.match(r"[a-zA-Z]", token) or token[1:].partition("_")[0] in LETTERS:
            return random.Random(f"{token} {self.point}").uniform(1, 2)
        raise ValueError(f"unexpected {token}")


def _power(base, exponent):
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if max(abs(base.numerator), base.denominator).bit_length() * abs(exponent) > 4096:
            raise ValueError("power too large")
        if base < 0 and exponent.denominator > 1 and exponent.denominator % 2:
            return (-1) ** exponent.numerator * float(-base) ** float(exponent)     # the real root
    return base ** exponent


def check_expression(text, nums, target, n_used=None, left_to_right=False):
    """Countdown and Game-24: does `text` reach `target` with + - * / ( ) and every number of `nums` exactly once?

    n_used: with exactly that many of them instead. left_to_right: without precedence, as on a simple calculator.
    The whole text must be the expression; `= target` may follow. A sign before a number or bracket is allowed.
    """
    found = _expression_value(text, left_to_right)
    if found is None or found[1] != Fraction(target):
        return False
    used, given = Counter(found[0]), Counter(int(n) for n in nums)
    return used == given if n_used is None else sum(used.values()) == n_used and not used - given


def _expression_value(text, left_to_right=False):
    """(numbers used, value) of an arithmetic expression over integers, or None."""
    if not isinstance(text, str) or len(text) > LONGEST_FORMULA:
        return None
    text = re.sub(r"\\(?:times|cdot)", "*", text.translate(LOOKALIKES)).replace("\\div", "/")
    found = re.fullmatch(r"([0-9+\-*/() ]+)(?:=\s*(-?[0-9]{1,50}))?", text.strip().strip("$").strip())
    try:
        value = Expression(found[1], implicit=False, left_to_right=left_to_right).sum() if found else None
    except (ValueError, ArithmeticError):
        return None
    if value is None or (found[2] and Fraction(found[2]) != value):
        return None
    return sorted(int(n) for n in re.findall(r"[0-9]+", found[1])), value


# ---- Is an answer right? ----------------------------------------------------------------------------------------

SCALES = r"million|billion|trillion|thousand|hundred|dozen|[ap]\.?m\b"     # these words are not units to be dropped
POWER = r"\s*(?:\^\s*\{?\s*[23]\s*\}?)?\s*$"
LOOKALIKES = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "°": "",
                            "√": "\\sqrt", "∪": "\\cup ", "±": "\\pm ", "€": "", "£": "", "²": "^2", "³": "^3"})
REWRITES = [(re.compile(pattern), new) for pattern, new in (
    (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3})", ""),                            # 1{,}000 and 10,\!080
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"(?<!\\)\\[()\[\]]|\\?\$", ""),                                      # \( \) \[ \] $ \$
    (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![a-zA-Z])", " "),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(?:text|mbox|mathrm|mathbf|mathit|operatorname|(?:text|math)(?:bf|it|rm|sf|tt|normal))\s*\{", r"\\text{"),
    (rf"(?<=[\d}})])\s*\\text\{{(?!\s*(?:{SCALES}))[^{{}}]*\}}{POWER}", ""),       # 15\text{ cm}^2
    (r"\\text\{([^{}]*)\}", r" \1 "),
    (r"\^?\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?|\\?%", " "),
    (rf"(?<=[\d}})])\s*(?:(?:degrees?|inch(?:es)?|feet|cm|mm|km|ft|kg|mg|ml|units?){POWER}"
     rf"|(?:\s(?!\s*(?:{SCALES}))(?:[a-zA-Z]{{3,20}}|of|in|cm|mm|km|ft|kg|mg|ml)\.?)+{POWER})", ""),
    (r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|ln|log|pi|infty)(?![a-zA-Z])", r"\\\1"),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*\*", lambda found: "^" if found[0] == "**" else "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\(frac|sqrt)\s*(\w)", r"\\\1{\2}"),                                # \frac12, \sqrt2
    (r"\\frac\s*(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}"),
    (r"(?<![\w}.^])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),        # mixed: 1\frac{4}{5}
    (r"(?<![\w}.^/])(\d+)\s+(\d+)\s*/\s*(\d+)", r"(\1+\\frac{\2}{\3})"),                    # mixed: 1 4/5
    (r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,4})(?![\w.])", r"(\1*10^{\2})"),
    (r"([_^])\{(\w)\}", r"\1\2"),
    (r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*", ", "),
)]
THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)")
NAME = re.compile(r"\s*[a-zA-Z\\][a-zA-Z\\_{}]{0,20}(?:\([a-z, ]{1,9}\))?\s*(?:=|\\(?:in|approx)(?![a-zA-Z]))(?=.)")
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\d [\d.]")                # or numbers side by side: no product


@lru_cache(4096)
def parse(text, thousands=True):
    """An answer as a value that equals that of every equivalent spelling: Fraction for a number, str for words,
    ("at", ...) for a formula, ("set", ...), ("matrix", ...) or ("(", ..., "]"). "" when there is nothing.

    thousands=False reads 1,234 as two numbers.
    """
    text = " ".join(text[:LONGEST_ANSWER].translate(LOOKALIKES).split()).rstrip(" .$")
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    if thousands and not re.search(r"[(\[]|\\\{", text):                   # inside brackets a comma separates
        text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return _node(text, 0)


def _node(text, depth):
    text = text.strip().rstrip(".,;: ")
    text = text[name.end():].strip() if (name := NAME.match(text)) else text        # x = 5, f(x) = 2x, x \in [0, 1]
    if depth > 4:
        return _words(text)
    if matrix := re.fullmatch(r"\\begin\{([pbv]?matrix)\}(.*)\\end\{\1\}", text, re.DOTALL):
        rows = [row for row in matrix[2].split("\\\\") if row.strip()]
        return ("matrix", *(tuple(_node(cell, depth + 1) for cell in row.split("&")) for row in rows))
    if len(parts := _split(text, "\\cup")) > 1:
        return ("union", *_multiset(parts, depth))
    if text[:1] in tuple("([") and text[-1:] in tuple(")]") and len(parts := _split(text[1:-1], ",")) > 1:
        return (text[0], *(_node(part, depth + 1) for part in parts), text[-1])     # order and kind of bracket count
    braces = re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL)
    if braces and len(_split(braces[1] + ",", ",")) > 1:                    # brackets match inside: one pair around all
        text = braces[1]
    if len(parts := _split(text, ",")) > 1:
        return ("set", *_multiset(parts, depth))
    if "\\pm" in text:
        return ("set", *_multiset([text.replace("\\pm", sign) for sign in "+-"], depth))
    try:
        return _formula(text)
    except (ValueError, ArithmeticError):
        return _words(text)


def _multiset(parts, depth):
    return sorted((_node(part, depth + 1) for part in parts), key=repr)


def _words(text):
    text = re.sub(r"\s+|\\(?=\{|\})", "", text)
    return text.casefold() if WORD.search(text) else text


def _split(text, separator):
    """Parts of text between separators that stand outside all brackets; [text] if brackets do not match."""
    if separator not in text:
        return [text]
    parts, depth, begin = [], 0, 0
    for found in re.finditer(r"[(\[{]|[)\]}]|" + re.escape(separator), text):
        depth += 1 if found[0] in "([{" else -1 if found[0] in ")]}" else 0
        if depth < 0:
            return [text]
        if found[0] == separator and depth == 0:
            parts.append(text[begin:found.start()])
            begin = found.end()
    return [*parts, text[begin:]] if depth == 0 else [text]


def _formula(text):
    """Value of a number, of a formula (at two points), or of an equation (left - right, up to a constant factor)."""
    if len(text) > LONGEST_FORMULA or WORD.search(text):
        raise ValueError("words, not a formula")
    left, equals, right = text.partition("=")
    text = f"({left})-({right})" if equals else text
    values = [Expression(text, point).sum() for point in range(2 if equals or re.search("[a-zA-Z]", text) else 1)]
    if equals:
        return ("equation", _rounded(values[0] / values[1]))
    values = [_rounded(value) for value in values]
    return values[0] if isinstance(values[0], Fraction) and len(set(values)) == 1 else ("at", *dict.fromkeys(values))


def _rounded(value):
    """A Fraction, also for a float that is one but for rounding, else a string of 9 digits: equal means the same."""
    if isinstance(value, Fraction):
        if max(abs(value.numerator), value.denominator).bit_length() > 10_000:
            raise ValueError("too long a number")
        return value
    value = complex(value)
    if not cmath.isfinite(value):
        raise ValueError("not finite")
    real, imag = (0.0 if abs(part) < 1e-12 * abs(value) else part for part in (value.real, value.imag))
    simple = Fraction(real).limit_denominator(1000)
    if not imag and abs(real - simple) <= 1e-12 * abs(real):
        return simple
    return f"{real:.9g}" + (f"{imag:+.9g}i" if imag else "")


def is_correct(prediction, answer):
    """Are two answers the same? Never raises, never executes anything.

    Exact, with these exceptions: a decimal may stand for a number without finite decimals if it is within 1e-6 of it;
    50% is 50 as well as 1/2; 1,234 may be a list where the answer is one; a choice may be followed by its text.
    """
    prediction, answer = str(prediction), str(answer)
    if not answer.strip() or not prediction.strip() or max(len(prediction), len(answer)) > LONGEST_ANSWER:
        return False
    powers = [re.findall(r"(?:\}|[a-z]{2})\s*\^\s*\{?([23])\}?\W*$", side) for side in (prediction, answer)]
    if all(powers) and powers[0] != powers[1]:                             # 5 cm^2 is not 5 cm^3; both may be just 5
        return False
    said, gold = parse(prediction), parse(answer)
    if said == gold or (isinstance(gold, tuple) and parse(prediction, thousands=False) == gold):
        return True
    if choice := re.fullmatch(r"\(?([A-J])\)?", answer.replace("\\text", "").strip("{}$. ")):
        said = re.match(r"(?:\\text\s*\{)?\(?([A-Ja-j])(?:[).:}]|$)", prediction.strip("$* "))
        return bool(said) and said[1].upper() == choice[1]
    for one, other, written, facing in ((said, gold, prediction, answer), (gold, said, answer, prediction)):
        if not isinstance(one, Fraction):
            continue
        if "%" in written and "%" not in facing and one / 100 == other:
            return True
        value = _endless(other)
        if "." in written and value is not None and abs(one - value) * 10**6 <= abs(value):
            return True
    return False


def _endless(node):
    """A real number that no finite decimal equals (1/3, √2; the latter to 9 digits), else None."""
    if isinstance(node, Fraction):
        finite = pow(10, node.denominator.bit_length(), node.denominator) == 0
        return None if finite else node
    constant = isinstance(node, tuple) and node[0] == "at" and len(node) == 2 and "i" not in node[1]
    return Fraction(node[1]) if constant else None


def grade(row, prediction):
    """Is the prediction right for this row? None if it has no answer: such a row is skipped, never rewarded."""
    if row.get("nums") is not None and row.get("target") is not None:
        return check_expression(prediction, row["nums"], row["target"], row.get("n_used"), row.get("left_to_right"))
    gold = row.get("answer")
    if gold is None or len(str(gold)) > LONGEST_ANSWER or parse(str(gold)) == "":
        return None
    return prediction is not None and is_correct(prediction, gold)


def canonical(row, answer):
    """Hashable name of an answer's equivalence class, for voting. Expressions are the same if they use the same
    numbers and have the same value, in whatever order they are written; other answers, if they are spelled alike."""
    if row.get("nums") is not None and isinstance(answer, str):
        found = _expression_value(answer, row.get("left_to_right", False))
        return (tuple(found[0]), found[1]) if found else answer.strip()
    return parse(answer) if isinstance(answer, str) else None
