"""What is a right answer? Extraction and equality; curation, reward and test all grade here.

    extract_answer, answer_of     the answer in a text, in a completion row
    parse                         an answer as a value, the same for every equivalent spelling
    is_correct, grade             are two answers the same? is an answer right for a row?
    overlap                       words shared with reference answers
    canonical, answer_classes     which answers count as one in a vote

Nothing that a model wrote is ever executed, and every string is graded in bounded time: texts are
cut to a length, regular expressions are linear, nesting and powers are limited. An answer is
parsed into a value (a Fraction, a formula's value at two points, a tuple with its brackets, ...),
and two answers are equal if their values are. What these rules cannot read is compared
symbolically (grading/symbolic.py).
"""

import cmath
import re
import string
from bisect import bisect_left, insort
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from engine.format import FORMATS
from grading.formulas import (
    LETTERS,
    LONGEST_FORMULA,
    LOOKALIKES,
    SUBSCRIPT,
    Expression,
    check_expression,
    expression_value,
)
from grading.symbolic import Budget, equal

# ---- Which part of a text is the answer? -------------------------------------------------------

LONGEST_TEXT, LONGEST_ANSWER = 200_000, 2_000  # characters; beyond it nothing is right

BOX = re.compile(r"\\(?:boxed|fbox)(?=\s*\{| )")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are characters, not groups
# Between two boxes that are one list: "\boxed{1}, \boxed{2}" or "\boxed{1} \text{ and } \boxed{2}".
BETWEEN_BOXES = re.compile(
    r"(?=.{1,40}$)(?=.*(?:[,;]|\b(?:and|or)\b))(?:[ $,;}]|\\q?quad|\\text\{|and|or)+"
)
# "Answer: 12", "**The answer is** 12": the rest of the line, and the line after it.
ANSWER_LINE = re.compile(
    r"\b(?:answer|correct (?:option|choice))\b[*_ \t]{0,9}(?::|is\b:?)[*_ \t]{0,9}([^\n]*)"
    r"(?=(\n\s{0,9}[^\n]*)?)",
    re.IGNORECASE,
)
# "B", "**(B)**", "C) 45 degrees"
LETTER_LINE = re.compile(r"[\s*_]{0,9}\(?([A-J])(?:[).:][^\n]*)?[\s*_]{0,9}")


def extract_answer(text, format=""):
    """The answer that a text gives, or None. With a format's name, only its response part is read.

    The first of these that occurs: the last \\boxed (None if its closing brace is missing, because
    the text was cut); the last <answer>; the last "Answer:" or "the answer is" line (if nothing
    follows on it, the line after); "#### 42"; the whole text if it is a short line. Of several
    boxes the last counts; with only a comma or "and" between them on one line they are one list.
    """
    if format:
        text = FORMATS[format].split(text)[1]
    text = text[-LONGEST_TEXT:].strip()
    boxes = list(BOX.finditer(text))[-9:]
    if boxes:
        return _answer_in_boxes(text, boxes)
    closed = text.rfind("</answer>")
    opened = text.rfind("<answer>", 0, max(closed, 0))
    if opened >= 0:
        return _clean(text[opened + len("<answer>") : closed])
    lines = list(ANSWER_LINE.finditer(text))
    if lines:
        return _answer_on_line(text, lines[-1])
    marked = text.rpartition("####")[2].partition("\n")[0].strip()
    if "####" in text and re.fullmatch(r"(?=\D*\d)\S{1,40}", marked):
        return _clean(marked)
    return _clean(text) if len(text) <= 100 and "\n" not in text else None


def _answer_in_boxes(text, boxes):
    """The content of the last box, with those before it that belong to the same list."""
    answer, _ = _read_box(text, boxes[-1].end())
    if not answer:
        return answer
    for box, following in zip(boxes[-2::-1], boxes[:0:-1]):  # from the back
        before, end = _read_box(text, box.end())
        if not before or not BETWEEN_BOXES.fullmatch(text[end : following.start()]):
            break
        answer = f"{before}, {answer}"
    return answer


def _read_box(text, begin):
    """(content of the box at text[begin:], where it ends). None if a box {...} has no end.

    Without braces, as in \\boxed 42$, the box ends with the line or the formula.
    """
    begin += len(text[begin:]) - len(text[begin:].lstrip())
    if not text.startswith("{", begin):
        end = re.compile(r"[^$\n]*").match(text, begin).end()
        return _clean(text[begin:end]), end
    depth = 0
    for brace in BRACE.finditer(text, begin):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}":
            depth -= 1
            if depth == 0:
                return _clean(text[begin + 1 : brace.start()]), brace.end()
    return None, len(text)


def _answer_on_line(text, found):
    """The answer at a match of ANSWER_LINE: the rest of the line, else the line after."""
    rest, next_line = found[1], found[2] or ""
    line_start = text.rfind("\n", 0, found.start()) + 1
    inside_bold = text[line_start : found.start(1)].count("**") % 2
    if inside_bold:  # **Answer: B** because ...
        bold = _clean(rest.partition("**")[0])
        if bold:
            return bold
    return _clean(rest) or _clean(next_line)


def _clean(answer):
    return answer.strip().strip("*`").strip() or None


def answer_of(row):
    """Extracted answer of a completion row; None if it has none or was cut while thinking."""
    text = _response_of(row)
    if row.get("instruction_id_list") is not None:  # IFEval looks at the whole response
        return text or None
    answer = extract_answer(text)
    if answer is not None:
        return answer
    first_line = text.strip().partition("\n")[0]
    if isinstance(row.get("references"), list):  # CoQA: the first line, as lm-eval takes it
        return first_line or None
    if row.get("choices") == ["no", "yes"]:  # HaluEval: the first line, with one of the two in it
        said = set(re.findall(r"\b(?:yes|no)\b", first_line[:LONGEST_ANSWER].lower()))
        return said.pop() if len(said) == 1 else None
    if row.get("choices"):
        letter = LETTER_LINE.fullmatch(text.rstrip().rpartition("\n")[2][:200])
        return letter[1] if letter else None
    return None


def _response_of(row):
    """The response of a row; where an engine wrote `text` alone, what follows the thinking."""
    if "response" in row:
        return row["response"] or ""
    text = row.get("text") or ""
    for form in (FORMATS["s1"], FORMATS["think"]):
        if form.open in text or form.end in text:
            text = text.rpartition(form.end)[2] if form.end in text else ""
    return text


# ---- Spelling: from an answer to its normal form -----------------------------------------------

# these words are not units to be dropped
SCALES = r"million|billion|trillion|thousand|hundred|dozen|[ap]\.?m\b"
# m alone may be a name
UNITS = r"[cmkn]m|kg|mg|ml|ft|mi|lb|oz|[mn]s|hr|yr|[kM]?Hz|[kM]?eV|k?Pa|k[JNWV]|m[VW]|AU|pc"
POWER = r"\s*(?:\^\s*\{?\s*[23]\s*\}?)?\s*$"
TEXT_COMMANDS = (
    r"\\(?:text|mbox|mathrm|mathbf|mathit|operatorname|"
    r"(?:text|math)(?:bf|it|rm|sf|tt|normal))\s*\{"
)
UNIT_AFTER_NUMBER = (
    rf"(?<=[\d}})])\s*(?:(?:degrees?|inch(?:es)?|feet|cm|mm|km|ft|kg|mg|ml|units?){POWER}"
    rf"|(?:\s(?!\s*(?:{SCALES}))(?:[a-zA-Z]{{3,20}}|of|in|{UNITS})\.?)+{POWER}"
    rf"|\s(?:{UNITS}|[mgJ])\s*/\s*(?:{UNITS}|[smhgLK]){POWER})"
)


class Rule(NamedTuple):
    """A rewriting rule with an example of what it does alone."""

    name: str
    before: str
    after: str
    pattern: str
    new: object  # replacement, or a function of the match


# Applied one after the other, in this order.
RULES = [
    Rule(
        "thousands separated in LaTeX",
        r"1{,}000 and 10,\!080",
        "1000 and 10080",
        r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3})",
        "",
    ),
    Rule(
        "sizes of brackets",
        r"\left( 1, 2 \right)",
        "( 1, 2 )",
        r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])",
        "",
    ),
    Rule("math delimiters", r"\(9\) or $9$", "9 or 9", r"(?<!\\)\\[()\[\]]|\\?\$", ""),
    Rule("spaces", r"7\,m", "7 m", r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![a-zA-Z])", " "),
    Rule(
        "kinds of fractions", r"\dfrac{1}{2}", r"\frac{1}{2}", r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"
    ),
    Rule("kinds of text", r"\mathrm{kg}", r"\text{kg}", TEXT_COMMANDS, r"\\text{"),
    Rule(
        "units as text after a number",
        r"15\text{ cm}^2",
        "15",
        rf"(?:(?<=[\d}})])|(?<=\\pi))\s*\\text\{{(?!\s*(?:{SCALES}))[^{{}}]*\}}{POWER}",
        "",
    ),
    Rule("other text", r"\text{east}", " east ", r"\\text\{([^{}]*)\}", r" \1 "),
    Rule(
        "degrees and percent",
        r"90^\circ, 5\%",
        "90 , 5 ",
        r"\^?\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?|\\?%",
        " ",
    ),
    Rule("units after a number", "3 m/s^2", "3", UNIT_AFTER_NUMBER, ""),
    Rule(
        "functions without a backslash",
        "sqrt(2) + 2pi",
        r"\sqrt(2) + 2\pi",
        r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|ln|log|pi|infty)(?![a-zA-Z])",
        r"\\\1",
    ),
    Rule("roots with brackets", r"\sqrt(2)", r"\sqrt{2}", r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    Rule(
        "signs of products and powers",
        r"3 \times 10**4",
        "3 * 10^4",
        r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*\*",
        lambda found: "^" if found[0] == "**" else "*",
    ),
    Rule("signs of quotients", r"6 \div 2", "6 / 2", r"\\div(?![a-zA-Z])", "/"),
    Rule(
        "one-letter arguments",
        r"\frac12, \sqrt2",
        r"\frac{1}2, \sqrt{2}",
        r"\\(frac|sqrt)\s*(\w)",
        r"\\\1{\2}",
    ),
    Rule(
        "one-letter denominators",
        r"\frac{1}2",
        r"\frac{1}{2}",
        r"\\frac\s*(\{[^{}]*\})\s*(\w)",
        r"\\frac\1{\2}",
    ),
    Rule(
        "mixed numbers in LaTeX",
        r"1\frac{4}{5}",
        r"(1+\frac{4}{5})",
        r"(?<![\w}.^])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}",
        r"(\1+\\frac{\2}{\3})",
    ),
    Rule(
        "mixed numbers",
        "1 4/5",
        r"(1+\frac{4}{5})",
        r"(?<![\w}.^/])(\d+)\s+(\d+)\s*/\s*(\d+)",
        r"(\1+\\frac{\2}{\3})",
    ),
    Rule(
        "exponents of ten",
        "3e8",
        "(3*10^{8})",
        r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,4})(?![\w.])",
        r"(\1*10^{\2})",
    ),
    Rule("braces around one letter", "x_{0}^{2}", "x_0^2", r"([_^])\{(\w)\}", r"\1\2"),
    Rule(
        "primes",
        r"y^{\prime\prime}",
        "y''",
        r"\^\s*\{?\s*(\\prime\s*)+\}?",
        lambda found: "'" * found[0].count("p"),
    ),
    Rule(
        "halves of the day",
        "5 p.m., 1:58 AM",
        "5pm, 1:58am",
        r"(?<=\d)\s*([apAP])\.?\s?[mM](?![a-zA-Z])\.?",
        lambda found: found[1].lower() + "m",
    ),
    Rule("hours with a zero", "05:00", "5:00", r"(?<![\d:.])0(?=\d\s*:\s*\d\d)", ""),
    Rule("about", r"\approx 3", " 3", r"^\\approx(?![a-zA-Z])", ""),
    Rule(
        "the empty set",
        r"\{\} or ∅",
        r"\emptyset or \emptyset",
        r"\\\{\s*\\\}|\\varnothing(?![a-zA-Z])|∅",
        r"\\emptyset",
    ),
    Rule(
        "lists in words",
        "1, 2 and 3",
        "1, 2, 3",
        r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*",
        ", ",
    ),
]
COMPILED_RULES = [(re.compile(rule.pattern), rule.new) for rule in RULES]

NAMES_OF_LETTERS = sorted(LETTERS | {"pi"}, key=len, reverse=True)
GLUED = re.compile(r"\\(" + "|".join(NAMES_OF_LETTERS) + r")([a-zA-Z]+)")  # \lambdakT
THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)")  # 1,234,567


def _normal_form(text, thousands=True):
    """An answer in one spelling. thousands=False reads 1,234 as two numbers."""
    text = " ".join(text[:LONGEST_ANSWER].translate(LOOKALIKES).split()).rstrip(" .$")
    for pattern, new in COMPILED_RULES:
        text = pattern.sub(new, text)
    text = GLUED.sub(r"\\\1 \2", text)
    in_brackets = re.search(r"[(\[]|\\\{", text)  # there a comma separates
    if thousands and not in_brackets:
        text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return text


# ---- Structure: lists, tuples, intervals, matrices ---------------------------------------------

# "x =", "f(x) =", "x \in", where something follows
NAME = re.compile(
    r"\s*([a-zA-Z\\](?:[a-zA-Z\\_]|\{\w*\}){0,20}(?:\([a-z, ]{1,9}\))?)\s*"
    r"(?:=|\\(?:in|approx)(?![a-zA-Z]))(?=.)"
)
# "(x, y) =" before a bracket
NAMED_TUPLE = re.compile(
    r"^\(\s*[a-zA-Z](?:_\w)?(?:\s*,\s*[a-zA-Z](?:_\w)?){1,9}\s*\)\s*=\s*(?=\()"
)
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\d [\d.]")  # or numbers side by side: no product
RELATION = re.compile(r"[<>]=?|\\[lg](?:t|eq?(?:slant)?)(?![a-zA-Z])")
VARIABLE = re.compile(rf"\s*(?![ei]\b)[a-zA-Z]{SUBSCRIPT}(?:\([a-zA-Z]\))?\s*")

DEEPEST = 4  # levels of structure inside each other
MOST_PARTS = 50  # that are compared one by one
UNORDERED = ("set", "union")


def _structure(text, depth):
    """(kind, texts of the parts) of an answer in normal form.

    The kind says what holds the parts together: "set" and "union", where order does not count;
    "()", "[)" and so on; "matrix" with the lengths of its rows; "named" with the names; "<", "<="
    and chains of them; "" for a single formula or some words.
    """
    if depth > DEEPEST:
        return "", [text]
    text = text.strip().rstrip(".,;: ")
    named = _named_values(text)
    if named:
        return named
    text = _without_name(text)
    bracketed = _matrix(text) or _union(text) or _tuple(text)
    if bracketed:
        return bracketed
    text = _without_braces(text)
    parts = _list_parts(text)
    if len(parts) > 1:
        conditions = all(RELATION.search(part) for part in parts)
        return "union" if conditions else "set", parts
    return _interval(text)


def _named_values(text):
    """y = 2, x = 1 -> ("named x y", ["1", "2"]); None if not all parts have different names."""
    parts = _split(text, ",")
    values = {}
    for part in parts:
        if name := NAME.match(part):
            values[name[1]] = part[name.end() :]
    if len(values) == len(parts) > 1:
        names = sorted(values)
        return "named " + " ".join(names), [values[name] for name in names]
    return None


def _without_name(text):
    r"""x = 5, f(x) = 2x, x \in [0, 1] and (x, y) = (1, 2) -> 5, 2x, [0, 1] and (1, 2)."""
    if name := NAME.match(text):
        text = text[name.end() :].strip()
    return NAMED_TUPLE.sub("", text)


def _matrix(text):
    matrix = re.fullmatch(r"\\begin\{([pbv]?matrix)\}(.*)\\end\{\1\}", text, re.DOTALL)
    if not matrix:
        return None
    rows = [row.split("&") for row in matrix[2].split("\\\\") if row.strip()]
    return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]


def _union(text):
    parts = _split(text, "\\cup")
    return ("union", parts) if len(parts) > 1 else None


def _tuple(text):
    """(1, 2] -> ("(]", ["1", "2"]): order and kind of bracket count."""
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]"):
        return None
    parts = _split(text[1:-1], ",")
    return (text[0] + text[-1], parts) if len(parts) > 1 else None


def _without_braces(text):
    r"""\{1, 2\} -> 1, 2 and \{x \mid x > 2\} -> x > 2."""
    braces = re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL)
    # The comma makes _split look at the brackets inside: they match if one pair is around all.
    if not braces or len(_split(braces[1] + ",", ",")) == 1:
        return text
    return re.sub(r"^\s*[a-zA-Z]\s*(?:\\mid(?![a-zA-Z])|[|:])", "", braces[1])


def _list_parts(text):
    r"""1 \pm 2; 3 -> 1 + 2, 1 - 2, 3."""
    parts = []
    for part in _split(text.replace(";", ","), ","):
        signs = ("+", "-") if "\\pm" in part else ("+",)
        parts += [part.replace("\\pm", sign) for sign in signs]
    return parts


def _interval(text):
    r"""_structure of chains: x > 2 is (2, \infty), 0 \le x < 1 is [0, 1).

    Chains without a single variable become "<" and "<=", with the smaller side first.
    """
    signs, sides = RELATION.findall(text), RELATION.split(text)
    upwards = {sign.lstrip("\\")[0] in "<l" for sign in signs}
    if len(upwards) != 1 or not all(side.strip() for side in sides):
        return "", [text]
    loose = ["=" in sign or "e" in sign for sign in signs]
    if upwards == {False}:
        loose, sides = loose[::-1], sides[::-1]
    variable = [bool(VARIABLE.fullmatch(side)) for side in sides]
    if variable == [False, True]:
        return "[)" if loose[0] else "()", [sides[0], "\\infty"]
    if variable == [True, False]:
        return "(]" if loose[0] else "()", ["-\\infty", sides[1]]
    if variable == [False, True, False]:
        return ("[" if loose[0] else "(") + ("]" if loose[1] else ")"), sides[::2]
    return " ".join("<=" if same else "<" for same in loose), sides


def _split(text, separator):
    """Parts of text between separators outside all brackets; [text] if brackets do not match."""
    if separator not in text:
        return [text]
    parts, depth, begin = [], 0, 0
    for found in re.finditer(r"[(\[{]|[)\]}]|" + re.escape(separator), text):
        if found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth -= 1
        if depth < 0:
            return [text]
        if found[0] == separator and depth == 0:
            parts.append(text[begin : found.start()])
            begin = found.end()
    return [*parts, text[begin:]] if depth == 0 else [text]


# ---- Values ------------------------------------------------------------------------------------


@lru_cache(4096)
def parse(text, thousands=True):
    """An answer as a value, the same for every equivalent spelling; "" if there is nothing.

    Fraction for a number, str for words, ("at", ...) for a formula, ("equation", ...), or a kind
    and its parts: ("set", ...), ("matrix", ...), ("(]", ...). thousands=False reads 1,234 as two
    numbers.
    """
    return _value(_normal_form(text, thousands), 0)


def _value(text, depth):
    kind, parts = _structure(text, depth)
    if not kind:
        return _value_of_part(parts[0])
    values = [_value(part, depth + 1) for part in parts]
    if kind in UNORDERED:
        values.sort(key=repr)
    return (kind, *values)


def _value_of_part(text):
    """Value of what has no structure: a formula, else words."""
    try:
        return _value_of_formula(text)
    except (ValueError, ArithmeticError):
        text = re.sub(r"\s+|\\(?=\{|\})", "", text)
        return text.casefold() if WORD.search(text) else text


def _value_of_formula(text):
    """A Fraction, a formula's values at two points, or left - right of an equation up to a factor.

    Raises ValueError or ArithmeticError for what is no formula.
    """
    if len(text) > LONGEST_FORMULA or WORD.search(text):
        raise ValueError("words, not a formula")
    has_letters = re.search("[a-zA-Z]", text)
    left, equals, right = text.partition("=")
    if equals:
        if not has_letters:
            raise ValueError("0.5 = 50 says nothing")
        first, second = (Expression(f"({left})-({right})", point).sum() for point in (0, 1))
        return "equation", _rounded(first / second)
    n_points = 2 if has_letters else 1
    values = [_rounded(Expression(text, point).sum()) for point in range(n_points)]
    different = list(dict.fromkeys(values))
    if isinstance(values[0], Fraction) and len(different) == 1:
        return values[0]
    return ("at", *different)


def _rounded(value):
    """A Fraction, also for a float that is one but for rounding; else a string of 9 digits."""
    if isinstance(value, Fraction):
        if max(abs(value.numerator), value.denominator).bit_length() > 10_000:
            raise ValueError("too long a number")
        return value
    value = complex(value)
    if not cmath.isfinite(value):
        raise ValueError("not finite")
    noise = 1e-12 * abs(value)
    real = 0.0 if abs(value.real) < noise else value.real
    imag = 0.0 if abs(value.imag) < noise else value.imag
    simple = Fraction(real).limit_denominator(1000)
    if not imag and abs(real - simple) <= 1e-12 * abs(real):
        return simple
    return f"{real:.9g}" + (f"{imag:+.9g}i" if imag else "")


# ---- Are two answers the same? -----------------------------------------------------------------

POWER_OF_UNIT = re.compile(r"(?:\}|[a-z]{2})\s*\^\s*\{?([23])\}?\W*$")


def is_correct(prediction, answer):
    """Are two answers the same? Never raises, never executes anything, ends in bounded time.

    The time of symbolic comparisons is processor time, so the verdict does not depend on how busy
    the machine is. Exact,
    with these exceptions: a decimal may stand for a number without finite decimals if it is within
    1e-6 of it; 50% is 50 as well as 1/2; 1,234 may be a list where the answer is one; a choice may
    be followed by its text; c may be written C; names (x = 1) and a.m. may be left out or added.
    """
    prediction, answer = str(prediction), str(answer)
    if max(len(prediction), len(answer)) > LONGEST_ANSWER:
        return False
    if not answer.strip() or not prediction.strip():
        return False
    if prediction.strip() == answer.strip():
        return True
    if _units_differ(prediction, answer):
        return False
    said, gold = parse(prediction), parse(answer)
    if said == gold:
        return True
    if isinstance(gold, tuple) and parse(prediction, thousands=False) == gold:
        return True
    choice = re.fullmatch(r"\(?([A-J])\)?", answer.replace("\\text", "").strip("{}$. "))
    if choice:
        return _chosen_letter(prediction) == choice[1]
    if _stands_for(said, gold, prediction, answer) or _stands_for(gold, said, answer, prediction):
        return True
    if re.fullmatch(r"\d{1,2}:\d\d", str(gold)):  # 1:58 a.m. for 1:58
        return str(said) in (f"{gold}am", f"{gold}pm")
    if not _unread(said, gold):
        return False
    return _equal(_normal_form(prediction), _normal_form(answer), Budget())


def _units_differ(prediction, answer):
    """5 cm^2 is not 5 cm^3, although units are dropped; both may be just 5."""
    said, gold = POWER_OF_UNIT.findall(prediction), POWER_OF_UNIT.findall(answer)
    return bool(said and gold) and said != gold


def _chosen_letter(prediction):
    """The letter that a choice begins with: "(C) 45 degrees", "\\text{C}", "c"; or None."""
    said = re.match(r"(?:\\text\s*\{)?\(?([A-Ja-j])(?:[).:}]|$)", prediction.strip("$* "))
    return said[1].upper() if said else None


def _stands_for(value, other, written, other_written):
    """May a number be another value, written differently: 50% for 1/2, 0.3333333 for 1/3?"""
    if not isinstance(value, Fraction):
        return False
    if "%" in written and "%" not in other_written and value / 100 == other:
        return True
    endless = _endless(other)
    if "." not in written or endless is None:
        return False
    return abs(value - endless) * 10**6 <= abs(endless)


def _endless(value):
    """A real number that no finite decimal equals (1/3, √2; the latter to 9 digits), else None."""
    if isinstance(value, Fraction):
        finite = pow(10, value.denominator.bit_length(), value.denominator) == 0
        return None if finite else value
    is_constant = isinstance(value, tuple) and value[0] == "at" and len(value) == 2
    return Fraction(value[1]) if is_constant and "i" not in value[1] else None


def _unread(*values):
    """Is there a part that the rules could not read, or a name, which may be left out?"""
    for value in values:
        if isinstance(value, str):
            return True
        if isinstance(value, tuple):
            kind, *parts = value
            if kind.startswith("named"):
                return True
            if kind not in ("at", "equation") and _unread(*parts):
                return True
    return False


def _equal(one, other, budget, depth=0):
    """Are two normal forms the same, part by part, by the rules or else symbolically?

    budget: the symbolic questions that may still be asked.
    """
    kind, parts = _structure(one, depth)
    other_kind, other_parts = _structure(other, depth)
    if kind != other_kind and "named" in (kind[:5], other_kind[:5]):
        # x = 1, y = 2 for 1, 2 or (1, 2)
        unnamed = [known for known in ("set", "()") if known in (kind, other_kind)]
        kind = other_kind = unnamed[0] if unnamed else kind
    if kind != other_kind or len(parts) != len(other_parts) or len(parts) > MOST_PARTS:
        return False
    if not kind:
        return _equal_parts(parts[0], other_parts[0], budget)
    if kind in UNORDERED:
        return _equal_in_any_order(parts, other_parts, budget, depth + 1)
    return all(
        _equal(part, other_part, budget, depth + 1) for part, other_part in zip(parts, other_parts)
    )


def _equal_parts(one, other, budget):
    """_equal of two texts without structure."""
    value, other_value = _value_of_part(one), _value_of_part(other)
    if value == other_value:
        return True
    if not _unread(value, other_value):
        return False
    return equal(one, other, budget)


def _equal_in_any_order(parts, other_parts, budget, depth):
    """Has each part an equal partner of its own on the other side? As many parts on both sides."""
    left = [(_value(part, depth), part) for part in parts]
    right = [(_value(part, depth), part) for part in other_parts]

    def same_value(x, y):
        return x[0] == y[0]

    def same_symbolically(x, y):
        return _equal(x[1], y[1], budget, depth)

    for same in (same_value, same_symbolically):  # the cheap question first
        for x in list(left):
            partner = next((y for y in right if same(x, y)), None)
            if partner:
                left.remove(x)
                right.remove(partner)
    return not left


# ---- Is an answer right for a row? -------------------------------------------------------------

# An operator without one of its sides, or an empty argument: ^2, 3 +, \frac{1}{}
BROKEN = re.compile(
    r"^\s*[\^_*/=]\s*\S|\S\s*[\^_*/=]\s*$|\\frac\s*\{[^{}]*\}\s*\{\s*\}|\\sqrt\s*\{\s*\}"
)


def is_gradable(answer):
    """Can an answer be compared with anything? Not if it is empty, too long, or broken LaTeX."""
    if answer is None:
        return False
    answer = str(answer)
    if len(answer) > LONGEST_ANSWER or parse(answer) == "":
        return False
    text = _normal_form(answer)
    # Braces without a command may be the answer: ) } ]
    is_latex = re.search(r"\\[a-zA-Z]|[\^_]", text)
    braces = re.findall(r"(?<!\\)[{}]", text)
    if is_latex and braces.count("{") != braces.count("}"):
        return False
    return not BROKEN.search(text)


def grade(row, prediction):
    """Is the prediction right for this row? None if it has no answer: such a row is skipped.

    Looks at `nums` and `target` (Countdown), `instruction_id_list` (IFEval), `references` (CoQA:
    the same words as one of them), else at `answer` and, beside it, `choices` (whose text may
    stand for the letter) and `accept` (further right answers).
    """
    if row.get("nums") is not None and row.get("target") is not None:
        return check_expression(
            prediction, row["nums"], row["target"], row.get("n_used"), row.get("left_to_right")
        )
    if row.get("instruction_id_list") is not None:
        # Imported here: most programs that grade never see an instruction.
        from grading.ifeval import follows

        return prediction is not None and all(follows(row, prediction))
    if isinstance(row.get("references"), list):
        if not row["references"]:
            return None
        said = plain_words(prediction or "")
        return any(said == plain_words(answer) for answer in row["references"])
    gold = row.get("answer")
    if not is_gradable(gold):
        return None
    if prediction is None:
        return False
    if row.get("choices"):
        prediction = _as_letter(prediction, row["choices"], gold)
    others = row["accept"] if isinstance(row.get("accept"), list) else []
    return any(is_correct(prediction, right) for right in [gold, *others])


def _as_letter(prediction, choices, gold):
    """The letter of a choice that was given by its text, unless the gold answer is a text, too."""
    texts = [str(choice).strip().casefold() for choice in choices]
    said = prediction.strip().casefold()
    if len(said) <= 1 or said not in texts or str(gold).strip().casefold() in texts:
        return prediction
    return chr(ord("A") + texts.index(said))


# ---- Words shared with references --------------------------------------------------------------


def plain_words(text):
    """Words in lower case, without punctuation and articles, as in SQuAD (1606.05250, §6.1)."""
    no_punctuation = dict.fromkeys(map(ord, string.punctuation))
    text = str(text)[:LONGEST_ANSWER].lower().translate(no_punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


def overlap(prediction, references):
    """(exact match, F1 of words) in 0..1, the best over the references.

    With several references, the mean over leaving each one out in turn, as a person among the
    annotators would be measured (CoQA, 1808.07042, §6.1).
    """
    said = plain_words(prediction or "")
    references = [plain_words(answer) for answer in references]
    rounds = [references]
    if len(references) > 1:
        rounds = [references[:i] + references[i + 1 :] for i in range(len(references))]
    exact = [max(float(said == words) for words in answers) for answers in rounds]
    f1 = [max(_word_f1(said, words) for words in answers) for answers in rounds]
    return sum(exact) / len(rounds), sum(f1) / len(rounds)


def _word_f1(said, words):
    """F1 of two lists of words, each word as often as it occurs."""
    if not said or not words:
        return float(said == words)
    n_same = sum((Counter(said) & Counter(words)).values())
    return 2 * n_same / (len(said) + len(words))


# ---- Which answers are one answer? -------------------------------------------------------------


def canonical(row, answer):
    """Hashable name of an answer's equivalence class, for voting.

    Expressions of Countdown are the same if they use the same numbers and have the same value, in
    whatever order; other answers if their values are. None for an answer that is no text.
    """
    if row.get("nums") is not None and isinstance(answer, str):
        found = expression_value(answer, row.get("left_to_right", False))
        return (tuple(found[0]), found[1]) if found else answer.strip()
    return parse(answer) if isinstance(answer, str) else None


def answer_classes(row, answers):
    """A number for each answer (None for None), the same for answers that the grader equates.

    Two answers are in one class if they have one canonical name, or if one is right where the first
    answer of the other's class is the solution. The time is near linear in the number of different
    answers: see Leaders.
    """
    number_of = {}  # canonical name -> class
    leaders = Leaders()
    numbers = []
    for answer in answers:
        if answer is None:
            numbers.append(None)
            continue
        name = canonical(row, answer)
        if name not in number_of:
            # Expressions of Countdown are the same if their names are, and only then.
            number = leaders.find(answer) if row.get("nums") is None else None
            number_of[name] = leaders.add(answer) if number is None else number
        numbers.append(number_of[name])
    return numbers


PLAIN_NUMBER = re.compile(
    r"-?\d{1,300}(?:\.\d{1,300}|/\d{1,300})?|-?\\frac\{\d{1,300}\}\{\d{1,300}\}"
)
PLAIN_WORD = re.compile(r"[a-zA-Z]{3,99}")
NEAR = Fraction(1, 10**5)  # relative; decimals further apart are never taken for each other


class Leaders:
    """The first answer of each class of a vote.

    Most answers are plain numbers. Two of them with different values are different answers, except
    for decimals that are nearly equal: only those are compared. Two different words are different,
    too. Everything else is compared with every other leader, each pair once. Where this needs
    symbolic comparisons, grading/symbolic.py makes them for equal fingerprints only.
    """

    def __init__(self):
        self.n = 0
        # (class, answer), in the order of the classes
        self.words, self.others = [], []
        # (value, class, answer), in the order of the values
        self.numbers = []

    def add(self, answer):
        """Make the answer the leader of a new class -> the class."""
        value = _plain_number(answer)
        if value is not None:
            insort(self.numbers, (value, self.n, answer))
        elif PLAIN_WORD.fullmatch(answer):
            self.words.append((self.n, answer))
        else:
            self.others.append((self.n, answer))
        self.n += 1
        return self.n - 1

    def find(self, answer):
        """The first class whose leader equals an answer with a new canonical name, or None."""
        for number, leader in sorted(self.possible(answer)):
            if is_correct(answer, leader) or is_correct(leader, answer):
                return number
        return None

    def possible(self, answer):
        """The leaders, (class, answer), that may equal the answer."""
        value = _plain_number(answer)
        if value is not None:
            return [*self.nearly(value, answer), *self.words, *self.others]
        numbers = [(number, leader) for _, number, leader in self.numbers]
        words = [] if PLAIN_WORD.fullmatch(answer) else self.words
        return [*numbers, *words, *self.others]

    def nearly(self, value, answer):
        """The leaders among the plain numbers that differ from a value by rounding only."""
        reach = abs(value) * NEAR
        begin = bisect_left(self.numbers, (value - reach,))
        found = []
        for other, number, leader in self.numbers[begin:]:
            if other > value + reach:
                break
            if "." in answer or "." in leader:
                found.append((number, leader))
        return found


def _plain_number(answer):
    """The value of an integer, a decimal or a fraction that is written plainly; else None."""
    value = parse(answer) if PLAIN_NUMBER.fullmatch(answer) else None
    return value if isinstance(value, Fraction) else None
