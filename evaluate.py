"""What is a right answer, and how sure are we? Completions in, metrics with intervals out.

    pass@k    1 - C(n-c, k) / C(n, k), mean over questions             Chen et al. 2021, eq. 1 (c of n samples right)
    maj@k     is the most frequent answer of the first k right?        s1, §5.2 (equivalent answers count as one)
    interval  Wilson for right/wrong questions, else mean ± 1.96 s/√N over the N questions: samples of one question
              are not independent, questions are
    control, scaling, performance of several runs                      s1 (arXiv 2501.19393), §3.2
    TI        100 · gain in a group / gain in maths                    UniReason (arXiv 2507.00432), §2.1

Departs from the papers in: 1. Answers are graded by rules alone; s1 and LIMO ask a language model where rules fail.
2. Of several `Answer:` lines the last one counts; s1's regular expression takes everything from the first one on.
3. An answer that cannot be found is wrong; s1 guesses A in multiple choice. 4. No ×100 tolerance, unlike LIMO.
Nothing that a model wrote is ever executed, and every string is graded in bounded time.

One run:     python evaluate.py out/tiny/sft.jsonl
A study:     python evaluate.py out/wait0.jsonl out/wait1.jsonl out/wait2.jsonl --base out/base.jsonl --k 1 8 64

Reads completion rows (data/rows.py) and, where present, the settings beside them (RUN.config.json). A row is graded
against `answer`, or against `nums` and `target` if it has them. Prints one line per run and group (row field `group`);
--out saves everything, per task and per question too.
"""
import cmath
import json
import math
import operator
import random
import re
import statistics
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal

from data import run
from data.format import FORMATS
from data.rows import BadInput, read_rows, write_rows


@dataclass(frozen=True)
class Config:
    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})  # completion files, one per run
    base: str | None = None              # run to compare the others with: paired difference and transferability
    k: tuple[int, ...] = (1, 4, 8)       # for pass@k and maj@k; a k above the number of samples is left out
    ti: Literal["v1", "v2"] = "v2"       # transferability: v1 mean relative gain, v2 signed square root with headroom
    resamples: int = 10_000              # of the paired bootstrap; s1: 10,000
    seed: int = 0                        # of the bootstrap
    json: bool = False                   # print JSON instead of the table
    out: str | None = None               # file to save the metrics in


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
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\d [\d.]")                 # or numbers side by side, which are no product


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
    """Is the prediction right for this row? None if there is no answer to compare with: skip the row, never reward it."""
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


# ---- How sure are we? -------------------------------------------------------------------------------------------

def pass_at_k(n, c, k):
    """Probability that k samples, drawn without replacement from n of which c are right, hold a right one."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers, key=lambda answer: answer):
    """The first answer of the largest class (ties: the class seen first). None votes for nothing."""
    classes = {}
    for answer in answers:
        if answer is not None:
            classes.setdefault(key(answer), []).append(answer)
    return max(classes.values(), key=len)[0] if classes else None          # max keeps the first of equals


def wilson(successes, n, z=1.959964):
    """95% interval (low, high) of a share; unlike ± z·s it does not collapse at 0 and 1."""
    if not n:
        return 0.0, 1.0
    p, scale = successes / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (p + z * z / (2 * n) - half) / scale), min(1.0, (p + z * z / (2 * n) + half) / scale)


def mean_interval(values):
    """(mean, low, high) over questions; values are shares in 0..1, one per question (its mean over samples).

    If all are 0 or 1 (one sample each, or all samples agree) Wilson, else normal with the standard deviation between
    questions, which holds what varies between the samples of a question too.
    """
    n, mean = len(values), statistics.fmean(values) if values else math.nan
    if n < 2 or set(values) <= {0, 1} or len(set(values)) == 1:
        return mean, *wilson(sum(values), n)
    half = 1.959964 * statistics.stdev(values) / math.sqrt(n)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    """(difference, low, high) of mean(a) - mean(b), 95%; a[i], b[i] belong to one question (s1 §5.1)."""
    if len(a) != len(b) or not a:
        raise ValueError(f"paired values needed, not {len(a)} and {len(b)}")
    rng, n, differences = random.Random(seed), len(a), [x - y for x, y in zip(a, b)]
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))
    return sum(differences) / n, means[int(0.025 * n_resamples)], means[math.ceil(0.975 * n_resamples) - 1]


def control(points, limits):
    """Percent of runs whose tokens stay within their limit; a point is tokens or (tokens, accuracy), a limit is the
    largest number of tokens or (smallest, largest). s1 §3.2, eq. 1."""
    tokens = [point[0] if isinstance(point, tuple) else point for point in points]
    bounds = [limit if isinstance(limit, tuple) else (0, limit) for limit in limits]
    if len(tokens) != len(bounds) or not tokens:
        raise ValueError(f"one limit per run needed, not {len(bounds)} for {len(tokens)}")
    return 100 * statistics.fmean(low <= x <= high for x, (low, high) in zip(tokens, bounds))


def scaling(points, x="log2"):
    """Mean slope over all pairs of (tokens, accuracy in percent): points per doubling of tokens, or per token with
    x="linear". The paper names no unit; log2 reproduces its Table 3. Pairs of equal tokens are left out. s1 §3.2, eq. 2."""
    placed = [(math.log2(tokens) if x == "log2" else tokens, accuracy) for tokens, accuracy in points if tokens > 0]
    slopes = [(f1 - f0) / (x1 - x0) for i, (x0, f0) in enumerate(placed) for x1, f1 in placed[i + 1:] if x0 != x1]
    return statistics.fmean(slopes) if slopes else math.nan


def performance(points):
    """The best accuracy of any run. s1 §3.2, eq. 3."""
    return max(accuracy for _, accuracy in points)


def transferability(base, tuned, version="v2", sigma=None):
    """{group: TI in percent} for every group but "math"; base and tuned are {group: {benchmark: score in percent}}.

    v1  gain = mean of (tuned - base) / base                                                  (July 2025)
    v2  gain = Σ w sign(d) √|d|, d = (tuned - base) / sigma[group], w ∝ 100 - base, Σ w = 1    (October 2025, §2.1)
    sigma: one constant per group. The paper prints "standard deviation over the group's benchmarks", but its numbers
    need one sigma for all audited models; with None it is 1, which changes TI by a constant factor per group.
    NaN where the index is undefined; the reason is printed to stderr.
    """
    gains = {}
    for group, scores in base.items():
        if set(scores) != set(tuned.get(group, ())) or not scores:
            raise ValueError(f"base and tuned differ in the benchmarks of group '{group}'")
        pairs = [(before, tuned[group][name]) for name, before in scores.items()]
        if version == "v1":
            gains[group] = statistics.fmean((after - old) / old if old else math.nan for old, after in pairs)
        else:
            deltas = [(after - before) / (sigma or {}).get(group, 1) for before, after in pairs]
            room = [100 - before for before, _ in pairs]
            total = sum(w * math.copysign(math.sqrt(abs(d)), d) for w, d in zip(room, deltas))
            gains[group] = total / sum(room) if sum(room) else math.nan
        if math.isnan(gains[group]):
            print(f"TI is undefined: base score {'0' if version == 'v1' else '100'} in group '{group}'", file=sys.stderr)
    if "math" not in gains:
        raise ValueError("no group 'math' to compare with")
    if gains["math"] <= 0:
        print("TI is undefined: no gain in maths", file=sys.stderr)
    return {group: 100 * gain / gains["math"] if gains["math"] > 0 else math.nan
            for group, gain in gains.items() if group != "math"}


# ---- A run ------------------------------------------------------------------------------------------------------

def metrics(rows, k=(1,)):
    """Completion rows -> {"all": summary, "groups": {group: summary, with "tasks" and "questions" (share right)}}."""
    questions, seen = {}, {}
    for line, row in enumerate(rows, 1):
        name = (str(row["id"]), row.get("sample", 0))
        if name in seen:
            raise BadInput(f"lines {seen[name]} and {line} are both sample {name[1]} of question '{name[0]}'")
        seen[name] = line
        answer = answer_of(row)
        questions.setdefault(name[0], []).append({"row": row, "answer": answer, "right": grade(row, answer)})
    groups = {}
    for name, samples in questions.items():
        row = samples[0]["row"]
        group = str(row.get("group") or "all")
        task = str(row.get("task") or row.get("subject") or group)
        groups.setdefault(group, {}).setdefault(task, {})[name] = samples
    return {"all": _summary(questions, k), "groups": {group: _summary(
        {name: samples for inside in tasks.values() for name, samples in inside.items()}, k, with_questions=True)
        | {"tasks": {task: _summary(inside, k) for task, inside in tasks.items()}} for group, tasks in groups.items()}}


def _summary(questions, k, with_questions=False):
    """Numbers of some questions, {id: [graded samples]}. Shares and accuracies in percent; None: nothing to count."""
    kept = {name: samples for name, samples in questions.items() if samples[0]["right"] is not None}
    right = {name: statistics.fmean(s["right"] for s in samples) for name, samples in kept.items()}
    flat = [sample for samples in kept.values() for sample in samples]
    mean, low, high = mean_interval(list(right.values()))
    summary = {"n_questions": len(kept), "n_samples": len(flat), "skipped": len(questions) - len(kept),
               "accuracy": 100 * mean if kept else None, "low": 100 * low, "high": 100 * high}
    for size in sorted(k):
        if not kept or not 1 <= size <= min(map(len, kept.values())):
            continue
        votes = [majority([s for s in samples[:size] if s["answer"] is not None],
                          key=lambda s: canonical(s["row"], s["answer"])) for samples in kept.values()]
        summary[f"maj@{size}"] = 100 * statistics.fmean(bool(vote and vote["right"]) for vote in votes)
        summary[f"pass@{size}"] = 100 * statistics.fmean(
            pass_at_k(len(samples), sum(s["right"] for s in samples), size) for samples in kept.values())
    for name in ("n_thinking_tokens", "n_tokens"):
        counts = [s["row"][name] for s in flat if s["row"].get(name) is not None]
        summary[name] = statistics.fmean(counts) if counts else None
    for name, test in (("truncated", lambda s: s["row"].get("finish") == "length"),
                       ("forced", lambda s: bool(s["row"].get("forced"))),
                       ("no_answer", lambda s: s["answer"] is None)):
        summary[name] = 100 * statistics.fmean(map(test, flat)) if flat else None
    return summary | ({"questions": right} if with_questions else {})


def load(path, k):
    """Metrics of a completion file, with the "settings" of the run if RUN.config.json stands beside it."""
    rows = read_rows(path, need=("id",))
    try:
        result = metrics(rows, k)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    header = Path(path).with_suffix(".config.json")
    try:
        settings = json.loads(header.read_text(encoding="utf-8")) if header.exists() else {}
    except ValueError as error:
        raise BadInput(f"{header}: not JSON ({error})") from error
    return result | {"settings": settings}


def compare(tuned, base, cfg):
    """{"all" or group: paired difference to the base run in points} and, if there is a group "math", the TI."""
    result, pairs = {"difference": {}}, {"all": []}
    for group in tuned["groups"]:
        ours, theirs = (side["groups"].get(group, {}).get("questions", {}) for side in (tuned, base))
        pairs[group] = [(ours[name], theirs[name]) for name in ours if name in theirs]
        pairs["all"] = pairs["all"] + (pairs[group] if group != "all" else [])
    if not any(pairs.values()):
        raise BadInput(f"{cfg.base}: no question in common with a run that is to be compared with it")
    for group, both in pairs.items():
        if both:
            interval = paired_bootstrap(*zip(*both), cfg.resamples, cfg.seed)
            result["difference"][group] = [*(100 * x for x in interval), len(both)]
    if "math" in base["groups"] and len(base["groups"]) > 1:
        scores = [{group: {task: s["accuracy"] for task, s in summary["tasks"].items() if s["n_questions"]}
                   for group, summary in side["groups"].items()} for side in (base, tuned)]
        try:
            index = transferability(*scores, version=cfg.ti)
        except ValueError as error:
            raise BadInput(f"{cfg.base}: {error}") from error
        result["transferability"] = {group: None if math.isnan(ti) else ti for group, ti in index.items()}
    return result


def study(runs):
    """Control, scaling and performance over runs of one method: a point per run, all its questions together."""
    runs = [r for r in runs if r["all"]["n_thinking_tokens"] is not None and r["all"]["n_questions"]]
    if len(runs) < 2:
        return None
    points = [(r["all"]["n_thinking_tokens"], r["all"]["accuracy"]) for r in runs]
    limited = [(point[0], r["settings"]["budget"]) for point, r in zip(points, runs) if r["settings"].get("budget")]
    slope = scaling(points)
    return {"n_runs": len(runs), "n_limited": len(limited), "control": control(*zip(*limited)) if limited else None,
            "scaling": None if math.isnan(slope) else slope, "performance": performance(points)}


def table(results):
    """Fixed-width lines: one per run and group."""
    lines = [(path, group, summary) for path, result in results.items()
             for group, summary in ({"all": result["all"]} | result["groups"]).items()]
    votes = list(dict.fromkeys(name for *_, summary in lines for name in summary if "@" in name))
    columns = ["n_questions", "n_samples", "accuracy", "low", "high", *votes, "n_thinking_tokens", "n_tokens",
               "truncated", "forced", "no_answer", "skipped"]
    heads = {"n_questions": "n", "n_samples": "samples", "n_thinking_tokens": "thinking", "n_tokens": "tokens"}
    width = max([3, *(len(path) for path, _, _ in lines)]), max([5, *(len(group) for _, group, _ in lines)])
    yield f"{'run':<{width[0]}}  {'group':<{width[1]}}" + "".join(f"{heads.get(c, c):>10}" for c in columns)
    for path, group, summary in lines:
        cells = (summary.get(column) for column in columns)
        yield f"{path:<{width[0]}}  {group:<{width[1]}}" + "".join(
            f"{'-' if cell is None else f'{cell:.1f}' if isinstance(cell, float) else cell:>10}" for cell in cells)


def main(cfg):
    if not cfg.runs:
        raise BadInput("no completions given: evaluate.py RUN.jsonl [RUN.jsonl ...]")
    results = {path: load(path, cfg.k) for path in cfg.runs}
    if cfg.base:
        base = load(cfg.base, cfg.k)
        for result in results.values():
            result["compared"] = compare(result, base, cfg)
    shown = results | ({cfg.base: base} if cfg.base else {})
    report = {"config": asdict(cfg), "runs": shown, "study": study(list(results.values()))}
    if cfg.out:
        write_rows(cfg.out, [report])
    if cfg.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return report
    print(*table(shown), sep="\n")
    for path, result in results.items():
        compared = result.get("compared", {})
        for group, (difference, low, high, n) in compared.get("difference", {}).items():
            print(f"{path} - {cfg.base}, {group}: {difference:+.1f} points [{low:+.1f}, {high:+.1f}], {n} questions"
                  + (", not significant" if low <= 0 <= high else ""))
        for group, ti in compared.get("transferability", {}).items():
            print(f"{path}, transferability to {group} ({cfg.ti}): {'undefined' if ti is None else f'{ti:.1f}'}")
    if report["study"]:
        print("all runs: " + ", ".join(f"{name} {'-' if value is None else f'{value:.4g}'}"
                                       for name, value in report["study"].items()))
    return report


if __name__ == "__main__":
    run.cli(main, Config)
