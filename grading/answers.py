r"""What is a right answer? Curation, reward and test all grade here.

    extract_answer, answer_of     the answer in a text, in a completion row (grading/extraction.py)
    parse                         an answer as a value, the same for every equivalent spelling
    is_correct, grade             are two answers the same? is an answer right for a row?
    overlap                       words shared with reference answers
    canonical, answer_classes     which answers count as one in a vote

An answer is brought to one spelling (grading/spelling.py), taken apart into lists, tuples and
intervals (grading/structures.py), and its parts become values: a Fraction, a formula's value at two
points, or words. Two answers are equal if their values are. `is_correct` then asks which other
spellings may stand for the gold answer, and last grading/symbolic.py.

Nothing that a model wrote is ever executed, and every string is graded in bounded time: texts are
cut to a length, regular expressions are linear, nesting and powers are limited.
"""

import cmath
import json
import math
import re
import string
from bisect import bisect_left, insort
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from engine.rows import BadInput
from grading.choices import chosen, letter_of, letters_of
from grading.extraction import answer_of, extract_answer
from grading.formulas import (
    LONGEST_FORMULA,
    Expression,
    check_expression,
    expression_value,
    is_countdown_problem,
)
from grading.reals import same_reals
from grading.spelling import LONGEST_ANSWER, normal_form
from grading.structures import UNORDERED, VARIABLE, names_differ, structure
from grading.symbolic import Budget, equal
from grading.units import split_letter_unit, split_unit, units_differ

__all__ = [
    "answer_classes",
    "answer_of",
    "canonical",
    "extract_answer",
    "grade",
    "is_correct",
    "is_gradable",
    "overlap",
    "parse",
]

MOST_PARTS = 50  # that are compared one by one
MOST_SIDES = 8  # of a chain of equations

# ---- Values ------------------------------------------------------------------------------------

WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\d [\d.]")  # or numbers side by side: no product
ARTICLE = re.compile(r"^\s?(?:the|an?) (?=[a-zA-Z]{2})", re.IGNORECASE)
# Letters side by side are a product, but No is the word. He, Jo and Na are words, too.
TWO_LETTER_WORD = re.compile(
    r"\s?([A-Z][a-z]|(?i:no|on|in|up|at|it|of|or|to|us|we|do|go|if|is|am|an|as|ok|ox))\s?"
)
RATIO = re.compile(r"\s?([^:,=<>]{1,40}?)\s?(?::| to )\s?([^:,=<>]{1,40})")
TIME = re.compile(r"\s?\d{1,2}:[0-5]\d(?:[ap]m)?\s?")
EQUALITY = re.compile(r"=|\\(?:approx|equiv)(?![a-zA-Z])")


WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,18})\s*")


class Reading(NamedTuple):
    """An answer in normal form, its unit, and its value."""

    text: str
    unit: str
    value: object


@lru_cache(4096)
def read(text, thousands=True):
    """Text of an answer -> Reading. thousands=False reads 1,234 as two numbers."""
    if WHOLE_NUMBER.fullmatch(text):
        return Reading(text, "", Fraction(int(text)))
    text = normal_form(text, thousands)
    return Reading(text, split_unit(text)[1], _value(text, 0))


def parse(text, thousands=True):
    """An answer as a value, the same for every equivalent spelling; "" if there is nothing.

    Fraction for a number, str for words, ("at", ...) for a formula, ("equation", ...), or a kind
    and its parts: ("set", ...), ("matrix", ...), ("(]", ...).
    """
    return read(text, thousands).value


def _value(text, depth):
    kind, parts = structure(text, depth)
    if not kind:
        return _value_of_part(parts[0])
    values = [_value(part, depth + 1) for part in parts]
    if kind in UNORDERED:
        values.sort(key=repr)
    return (kind, *values)


def _value_of_part(text):
    """Value of what has no structure: a formula, else words."""
    if TWO_LETTER_WORD.fullmatch(text):
        return text.strip().casefold()
    text, _ = split_unit(text)
    try:
        return _value_of_formula(text)
    except (ValueError, ArithmeticError):
        text = ARTICLE.sub("", text).strip("\"' ")
        text = re.sub(r"\s+|\\(?=\{|\})", "", text)
        return text.casefold() if WORD.search(text) else text


def _value_of_formula(text):
    """A Fraction, a formula's values at two points, or left - right of an equation up to a factor.

    Raises ValueError or ArithmeticError for what is no formula.
    """
    if text.count(":") > 1:
        return _value_of_ratio(text.split(":"))
    ratio = RATIO.fullmatch(text) if ":" in text or " to " in text else None
    if ratio and not TIME.fullmatch(text):
        text = f"({ratio[1]})/({ratio[2]})"
    text = text.replace(" degrees", "")
    if len(text) > LONGEST_FORMULA or WORD.search(text):
        raise ValueError("words, not a formula")
    sides = EQUALITY.split(text)
    if len(sides) > 1:
        return _value_of_chain(sides, text)
    n_points = 2 if re.search("[a-zA-Z]", text) else 1
    values = [_rounded(Expression(text, point).sum()) for point in range(n_points)]
    different = list(dict.fromkeys(values))
    if isinstance(values[0], Fraction) and len(different) == 1:
        return values[0]
    return ("at", *different)


def _value_of_ratio(parts):
    """1:2:3 -> its parts divided by the first, so that 2:4:6 is the same."""
    if len(parts) > MOST_SIDES:
        raise ValueError("too many parts")
    first = parts[0]
    return ("ratio", *(_value_of_formula(f"({part})/({first})") for part in parts[1:]))


def _value_of_chain(sides, text):
    r"""m + n = 256 + 37 = 293 -> 293, \frac{22}{7} \approx 3.14 -> 22/7, x + y = 3 -> an equation.

    Raises ValueError for a chain that is false or says nothing: 5 + 6 = 12.
    """
    if len(sides) > MOST_SIDES:
        raise ValueError("too long a chain")
    values = [_value_of_formula(side) for side in sides]
    if len(sides) == 2 and not (_is_constant(values[0]) and _is_constant(values[1])):
        if values[0] == values[1]:
            return values[0]
        return "equation", _equation(*sides)
    n_names = next((i for i, value in enumerate(values) if _is_constant(value)), 0)
    values = values[n_names:]  # m + n is not known
    may_be_rounded = "\\approx" in text
    for value in values[1:]:
        if value != values[0] and not (may_be_rounded and _is_close(value, values[0])):
            raise ValueError("the sides of a chain differ")
    return values[0]


def _is_constant(value):
    return isinstance(value, Fraction) or (value[0] == "at" and len(value) == 2)


def _is_close(one, other):
    """Within one in a hundred, as a rounded number may be?"""
    numbers = [_real(value) for value in (one, other)]
    if None in numbers:
        return False
    return abs(numbers[0] - numbers[1]) <= Fraction(1, 100) * abs(numbers[1])


def _real(value):
    """A constant as a Fraction; None if it is not real or too large to be read back."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, tuple) and value[0] == "at" and len(value) == 2 and "i" not in value[1]:
        return Fraction(value[1])
    return None


def _equation(left, right):
    """left - right at one point as a multiple of that at another, the same for 2x = 4 and x = 2."""
    first, second = (Expression(f"({left})-({right})", point).sum() for point in (0, 1))
    return _rounded(first / second)


def _rounded(value):
    """A Fraction, also for a float that is one but for rounding; else a string of 9 digits.

    Raises ValueError for what is not finite or has more than LONGEST_NUMBER bits.
    """
    if isinstance(value, Fraction):
        n_bits = max(abs(value.numerator), value.denominator).bit_length()
        if n_bits > LONGEST_NUMBER:
            raise ValueError("too long a number")
        # Python refuses to write more than 4,300 decimal digits.
        return value if n_bits <= LONGEST_FRACTION else f"{value.numerator:x}i{value.denominator:x}"
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


LONGEST_NUMBER, LONGEST_FRACTION = 100_000, 10_000  # bits

# ---- Are two answers the same? -----------------------------------------------------------------

DECIMAL = re.compile(r"\s?[+-]?(\d*\.\d+)\s?")
CHOICE = re.compile(r"\(?([A-J])\)?")
CHOICE_WITH_TEXT = re.compile(r"\(?([A-J])\)?\s*[.:)、．]\s*(\S.*)", re.DOTALL)
NAME_OF_CHOICE = re.compile(r"^\s*[a-zA-Z]\s*=")
BASED = re.compile(r"\s?([0-9A-F]+)_(?:\w|\{\w+\})\s?")
MIXED = re.compile(r"(?<![\w}.^/])(\d+) and (\d+\s?/\s?\d+|\\[dt]?frac)")
YES_OR_NO = re.compile(
    r"[\s*_\"'$]*(yes|no|true|false)\b[*_\"'$]*"
    r"(?:[,.;:!–—\n]|\s+(?:because|since|-|(?:it|this|that|he|she|they|there|we|you)\b)|\s*$)",
    re.I,
)
PERCENT = re.compile("[%％]|percent")


def is_correct(prediction, answer):
    """Are two answers the same? Never raises, never executes anything, ends in bounded time.

    The time of symbolic comparisons is processor time, so the verdict does not depend on how busy
    the machine is. Exact, with these exceptions: a decimal may stand for a number without finite
    decimals if it is within 1e-6 of it; 50% is 50 as well as 1/2; 1,234 may be a list where the
    answer is one; a choice may be followed by its text; c may be written C; names (x = 1), units
    and a.m. may be left out or added; a base may be left out.
    """
    prediction, answer = str(prediction), str(answer)
    if max(len(prediction), len(answer)) > LONGEST_ANSWER:
        return False
    if not answer.strip() or not prediction.strip():
        return False
    if prediction.strip() == answer.strip():
        return True
    numbers = WHOLE_NUMBER.fullmatch(prediction), WHOLE_NUMBER.fullmatch(answer)
    if all(numbers):
        return int(numbers[0][1]) == int(numbers[1][1])
    choice = CHOICE.fullmatch(answer.replace("\\text", "").strip("{}$. "))
    if choice:
        return letter_of(NAME_OF_CHOICE.sub("", prediction)) == choice[1]
    said, gold = read(prediction), read(answer)
    if units_differ(said.unit, gold.unit):
        return False
    if "=" in said.text and "=" in gold.text:
        if _same_equation(said.text, gold.text):
            return True
        if names_differ(said.text, gold.text):
            return False
    if said.value == gold.value:
        return True
    if any(same(said, gold, prediction, answer) for same in ALLOWANCES):
        return True
    if not _unread(said.value, gold.value):
        return False
    return _equal(said.text, gold.text, Budget())


# ---- Other spellings that may stand for an answer ----------------------------------------------
# Each takes the readings of the prediction and of the gold answer, and both as they were written.


def _is_choice_with_text(said, gold, prediction, answer):
    r"""C, or 1 - i, for "C. 1 - i"; A, D for AD."""
    with_text = CHOICE_WITH_TEXT.fullmatch(answer.strip("$ "))
    if with_text:
        return letter_of(prediction) == with_text[1] or is_correct(prediction, with_text[2])
    letters = letters_of(answer)
    return bool(letters) and len(letters) > 1 and letters_of(prediction) == letters


def _is_other_reading(said, gold, prediction, answer):
    """1,234 for a list; "1 and 4/5" for 9/5; 3.14 where the prediction says 22/7, about 3.14."""
    if "," in prediction and isinstance(gold.value, tuple):
        if parse(prediction, thousands=False) == gold.value:
            return True
    if " and " in prediction and (mixed := MIXED.sub(r"\1 \2", prediction)) != prediction:
        return parse(mixed) == gold.value
    exact, about, rounded = prediction.rpartition("\\approx")
    return bool(about and exact.strip()) and parse(rounded) == gold.value


def _is_number_in_another_way(said, gold, prediction, answer):
    """50% for 1/2, 0.3333333 for 1/3, 0.30000000000000004 for 0.3, 52 for 52_8, 5 N for 5."""
    if _stands_for(said, gold, prediction, answer) or _stands_for(gold, said, answer, prediction):
        return True
    if _same_decimal(said.text, gold.text):
        return True
    based = BASED.fullmatch(gold.text)
    if based and said.text.strip() == based[1]:
        return True
    return _same_with_letter_unit(gold, said) or _same_with_letter_unit(said, gold)


def _same_with_letter_unit(number, other):
    """Is the other 5 N or 5 m^2 where this is 5, 5 newtons or 5 square meters?"""
    if not isinstance(number.value, Fraction):
        return False
    amount, unit = split_letter_unit(other.text)
    if not unit or units_differ(number.unit, unit):
        return False
    return _value(amount, 0) == number.value


def _stands_for(reading, other, written, other_written):
    """May a number be another value, written differently: 50% for 1/2, 0.3333333 for 1/3?"""
    value = reading.value
    if not isinstance(value, Fraction):
        return False
    if PERCENT.search(written) and not PERCENT.search(other_written):
        if value / 100 == other.value:
            return True
    endless = _endless(other.value)
    if "." not in written or endless is None:
        return False
    # 0.\overline{3} and 0.333... are exact
    if not DECIMAL.fullmatch(split_unit(reading.text)[0]) and "10^" not in reading.text:
        return False
    return abs(value - endless) * 10**6 <= abs(endless)


def _endless(value):
    """A real number that no finite decimal equals (1/3, √2; the latter to 9 digits), else None."""
    if isinstance(value, Fraction):
        finite = pow(10, value.denominator.bit_length(), value.denominator) == 0
        return None if finite else value
    return _real(value)


def _same_decimal(one, other):
    """Two decimals of which both are long and one is the other rounded, or differs by float noise.

    Long are 9 digits; noise is 1e-14 of a number with 15 digits or more.
    """
    texts = [split_unit(text)[0] for text in (one, other)]
    found = [DECIMAL.fullmatch(text) or WHOLE_NUMBER.fullmatch(text) for text in texts]
    if not all(found) or not any(DECIMAL.fullmatch(text) for text in texts):
        return False
    values = [Fraction(text.strip()) for text in texts]
    difference = abs(values[0] - values[1])
    n_digits = [len(match[1].lstrip("+-0.").replace(".", "")) for match in found]
    if max(n_digits) >= 15 and difference * 10**14 <= abs(values[1]):
        return True
    if min(n_digits) < 9:
        return False
    shorter = min(len(text.strip().partition(".")[2]) for text in texts)
    return difference < Fraction(1, 10**shorter)


def _is_same_word(said, gold, prediction, answer):
    """No, because ... for no; 1:58 a.m. for 1:58; jo for Jo."""
    if isinstance(gold.value, str) and gold.value in ("yes", "no", "true", "false"):
        word = YES_OR_NO.match(prediction)
        return bool(word) and word[1].lower() == gold.value
    if TIME.fullmatch(gold.text):
        time_of_day = gold.text.strip()
        return str(said.value) in (f"{time_of_day}am", f"{time_of_day}pm")
    texts = [reading.text.strip() for reading in (said, gold)]
    is_word = any(TWO_LETTER_WORD.fullmatch(text) for text in texts)
    return is_word and texts[0].casefold() == texts[1].casefold()


def _is_same_structure(said, gold, prediction, answer):
    r"""(1, 2, 3) for 1, 2, 3; a column for (1, 2); (0,9) \cup (9,36) for (0,36) \setminus \{9\}."""
    if same_reals(said.text, gold.text):
        return True
    kind, parts = structure(said.text, 0)
    gold_kind, gold_parts = structure(gold.text, 0)
    is_list_in_brackets = kind in ("()", "[]") and gold_kind == "set" and "{" not in gold.text
    kinds = {kind[:6], gold_kind[:6]}
    is_vector = kinds == {"matrix", "()"} and len(set(_row_lengths(kind + gold_kind))) == 1
    if not (is_list_in_brackets or is_vector) or len(parts) != len(gold_parts):
        return False
    if len(parts) > MOST_PARTS:
        return False
    return all(is_correct(part, gold_part) for part, gold_part in zip(parts, gold_parts))


def _row_lengths(kind):
    """[1, 1, 1] of a column; a row has one length."""
    lengths = re.findall(r"\d+", kind)
    return lengths if len(lengths) == 1 or set(lengths) == {"1"} else ["1", "2"]


def _is_solved(said, gold, prediction, answer):
    """m + n = 293 or 293 = m for 293. 2x = 10 is no answer to 10: it is still to be solved."""
    if not isinstance(said.value, tuple) or said.value[0] != "equation":
        return False
    left, _, right = said.text.partition("=")
    if VARIABLE.fullmatch(right):
        left, right = right, left
    without_powers = re.sub(r"\^\s?\{?\d+\}?|_\w|_\{\w*\}", "", left)
    names = set(re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]", without_powers))
    if len(names) < 2 and re.search(r"\d", without_powers):
        return False
    if re.fullmatch(r"\s?-[^+-]*", left):  # -x = 5
        return False
    return not isinstance(gold.value, str) and _value(right, 0) == gold.value


ALLOWANCES = [
    _is_number_in_another_way,
    _is_other_reading,
    _is_same_word,
    _is_choice_with_text,
    _is_solved,
    _is_same_structure,
]


def _same_equation(one, other):
    """x = y and y = x; y = -x/2 + 3/4 and 2x + 4y - 3 = 0."""
    sides = [text.rstrip(". ").split("=") for text in (one, other)]
    if not all(len(pair) == 2 for pair in sides):
        return False
    if any(len(text) > LONGEST_FORMULA or WORD.search(text) for text in (one, other)):
        return False
    try:
        equations = [_equation(left, right) for left, right in sides]
    except (ValueError, ArithmeticError):
        return False
    # Twice a constant is 0 = 0.
    return equations[0] == equations[1] and equations[0] != 1


# ---- Symbolically, part by part ----------------------------------------------------------------


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
    kind, parts = structure(one, depth)
    other_kind, other_parts = structure(other, depth)
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
    """Can an answer be compared with anything? Not empty, NaN, too long or broken LaTeX."""
    if answer is None or (isinstance(answer, float) and not math.isfinite(answer)):
        return False
    answer = str(answer)
    if WHOLE_NUMBER.fullmatch(answer):
        return True
    if len(answer) > LONGEST_ANSWER or parse(answer) == "":
        return False
    text = read(answer).text
    # Braces without a command may be the answer: ) } ]
    is_latex = re.search(r"\\[a-zA-Z]|[\^_]", text)
    braces = re.findall(r"(?<!\\)[{}]", text)
    if is_latex and braces.count("{") != braces.count("}"):
        return False
    return not BROKEN.search(text)


def grade(row, prediction):
    """Is the prediction right for this row? None if it has no answer: such a row is skipped.

    Looks at `nums` and `target` (Countdown), `instruction_id_list` (IFEval), `references` (CoQA:
    the same words as one of them), else at `answer` (of a list any is right) and, beside it,
    `choices` (whose text may stand for the letter) and `accept` (further right answers).
    Raises BadInput for an answer that is an object.
    """
    if row.get("nums") is not None and row.get("target") is not None:
        if not is_countdown_problem(row["nums"], row["target"]):
            return None
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
    golds = gold_answers(row)
    if not golds:
        return None
    if prediction is None:
        return False
    if row.get("choices"):
        letter = chosen(prediction, row["choices"])
        if letter and letter in [chosen(gold, row["choices"]) for gold in golds]:
            return True
        prediction = letter or prediction
    return any(is_correct(prediction, gold) for gold in golds)


def gold_answers(row):
    """The texts that are right for a row: its answer, or each of a list of them, and `accept`.

    Without an answer that can be graded there are none. Raises BadInput for an object.
    """
    answer = row.get("answer")
    if isinstance(answer, str) and answer.startswith('["') and answer.endswith('"]'):
        answer = _json_list(answer)
    answers = answer if isinstance(answer, list) else [answer]
    if any(isinstance(gold, (dict, list)) for gold in answers):
        raise BadInput(f"row '{row.get('id')}': `answer` holds an object, not a text")
    golds = [str(gold) for gold in answers if is_gradable(gold)]
    others = row["accept"] if isinstance(row.get("accept"), list) else []
    return golds and [*golds, *map(str, others)]


def _json_list(text):
    """The list of texts that is written as JSON, else the text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if all(isinstance(item, str) for item in found) else text


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
    if not isinstance(answer, str):
        return None
    letter = chosen(answer, row["choices"]) if row.get("choices") else None
    return letter or parse(answer)


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
