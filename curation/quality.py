"""Is this trace worth reading, however hard its question is? Words, string rules, false equations.

A trace that gets a sum wrong and does not notice is worth less than one that corrects itself, so
false equations of plain integers are looked for. Doubtful context is skipped, not judged.
"""

import re
import string
from fractions import Fraction
from functools import lru_cache

from engine.format import FORMATS
from grading.answers import answer_of, grade
from grading.repetition import repeated_share

# ---- Words --------------------------------------------------------------------------------------

PUNCTUATION = string.punctuation + "…“”‘’–—"
# LIMO's kinds of words. strict: the two of each kind that the paper names.
VERIFY = {
    "strict": ("check", "verify"),
    "extended": ("check", "verify", "validate", "confirm", "double-check", "recheck"),
}
EXPLORE = {
    "strict": ("perhaps", "might"),
    "extended": (
        "perhaps",
        "might",
        "maybe",
        "alternatively",
        "wait",
        "consider",
        "suppose",
        "possibly",
        "let me try",
    ),
}
CONNECT = {
    "strict": ("therefore", "since"),
    "extended": (
        "therefore",
        "since",
        "thus",
        "hence",
        "because",
        "so",
        "then",
        "consequently",
        "however",
    ),
}


def words_of(text):
    """Words in lower case without the punctuation around them."""
    return [word.strip(PUNCTUATION) for word in text.lower().split()]


def count_words(words, wanted):
    """Count how often the wanted words or phrases occur among words; whole words only."""
    text = f" {'  '.join(words)} "  # two spaces between words, so that neighbours share none
    return sum(text.count(f" {'  '.join(item.split())} ") for item in wanted)


# ---- What is wrong with a row -------------------------------------------------------------------

DELIMITERS = sorted({text.strip() for f in FORMATS.values() for text in (f.open, f.end) if text})

# The largest share of repeated 8-grams. 99% of finished R1-like traces stay below 0.2.
MAX_REPETITION = 0.3
# Whoever checks repeats: four checks of one solution reach a share of 0.8, a loop exceeds 0.85.
MAX_REPETITION_OF_CHECKS = 0.8


def passes_string_rule(row):
    """s1's rule on the question (filter.ipynb): no figure, no sub-question `p3.`, no **Q1**."""
    question = row["question"]
    if "[asy]" in question:  # an AIME figure excuses everything else
        return "AIME" in str(row.get("source") or "")
    has_sub_question = re.search(r"p[1-9][0-9]{0,2}\.", question)  # anywhere: `step3.` counts, too
    has_numbered_bold = re.search(r"\*\*(?=.*\d)[^\s\]]*\*\*", question)
    return "![Image]" not in question and not has_sub_question and not has_numbered_bold


def find_quality_problem(row, max_repetition=MAX_REPETITION):
    """Why a row is not worth training on, however hard its question is; None if it is worth it."""
    thinking = row["thinking"]
    if not passes_string_rule(row):
        return "question string"
    if not thinking.strip():
        return "no thinking"
    if row.get("finish") == "length":
        return "unfinished"
    if lacks_answer(row):
        return "no answer"
    if holds_delimiter(row):
        return "delimiter in text"
    if uncorrected_equations(thinking):
        return "false equation"
    if is_repetitive(thinking, max_repetition):
        return "repetition"
    return None


def holds_delimiter(row):
    """Is there a format's tag inside the thinking or the response? sft.py refuses such rows.

    A response without a thinking apart may hold it between tags: sft.py splits it off.
    """
    thinking, response = row.get("thinking") or "", row.get("response") or ""
    texts = (thinking, response) if thinking.strip() else ()
    return any(delimiter in text for delimiter in DELIMITERS for text in texts)


def lacks_answer(row):
    if not row["response"].strip():
        return True
    # A proof needs no answer: it has no gold one, and the grader says None.
    return answer_of(row) is None and grade(row, None) is not None


def is_repetitive(thinking, max_repetition=MAX_REPETITION):
    share = repeated_share(thinking)
    if share <= max_repetition:
        return False
    checks = not set(words_of(thinking)).isdisjoint(VERIFY["extended"])
    return not (checks and share <= MAX_REPETITION_OF_CHECKS)


# ---- False equations ----------------------------------------------------------------------------

# A chain of plain integers such as `4 * 1 = 4 - 2 = 2`. The text before it must not make its first
# number part of something larger (`x + 3 = 5`, `2^3 + 1 = 9`, `20% of 5 + 5 = 2`), nor may the text
# after it do so with the last one (`3 * 4 = 12x`).
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})"
_PIECE = rf"{_NUMBER}(?: ?[-+*/] ?{_NUMBER})*"
_CHAIN = re.compile(
    rf"(?<![\w.,:^_)}}\]\\+*/-])(?<![-+*/^)}}\]\\\d] )(?<!of )(?<!mod ){_PIECE}(?: ?= ?-?{_PIECE})+"
    r"(?![\w^(!%√]|[.,:]\d| ?[-+/]| ?\*(?!\*)| ?\\[A-Za-z]| \(?(?:mod|remainder|R)\b)"
)
_INSIDE = " ,+-*/="  # what a chain is made of, beside digits
_LOOKAHEAD = 16  # characters; no less than _CHAIN looks at behind a chain
_EQUALS_BETWEEN_NUMBERS = re.compile(r"=(?:(?<=\d=)|(?<=\d =)) ?-?\d")
_SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "\\times": "*", "\\cdot": "*", "\t": " "}


def write_signs_in_ascii(text):
    """Write signs of arithmetic in ASCII, `3 x 4` as `3* 4`, and runs of spaces as one."""
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    while "  " in text:
        text = text.replace("  ", " ")
    if re.search(r"x ?\d", text):
        text = re.sub(r"(?<=\d) ?x(?= ?\d)", "*", text)
    return text


def find_chains(text):
    """Yield what _CHAIN.findall finds in the text with its signs in ASCII.

    Most of a trace is words, so only the surroundings of each `=` between two numbers are searched.
    """
    text = write_signs_in_ascii(text)

    def is_inside(character):
        return character in _INSIDE or character.isdecimal()

    end = 0
    for equals in _EQUALS_BETWEEN_NUMBERS.finditer(text):
        if equals.start() < end:
            continue
        start = end = equals.start()
        while start and is_inside(text[start - 1]):
            start -= 1
        while end < len(text) and is_inside(text[end]):
            end += 1
        for chain in _CHAIN.finditer(text, start, end + _LOOKAHEAD):
            if chain.start() < end:
                yield chain[0]


def find_equations(text):
    """Yield (left, right, whether they are equal) for each `=` after plain integer arithmetic.

    As people write, the left value must equal the first number on the right, from which the next
    piece goes on (`7 + 5 = 12 - 2 = 10`), or all of the right (`2 + 4 = 3 * 2`).
    """
    for chain in find_chains(text):
        pieces = [piece.strip() for piece in chain.split("=")]
        for left, right in zip(pieces, pieces[1:]):
            if not re.search(r"\d ?[-+*/]", left):  # `3 = 4` computes nothing
                continue
            first_number = re.match(r"-?[\d,]+", right)[0]
            try:
                allowed = possible_values(right) | possible_values(first_number)
                yield left, right, not possible_values(left).isdisjoint(allowed)
            except ZeroDivisionError:
                continue


@lru_cache(maxsize=10_000)  # traces repeat themselves and each other
def possible_values(piece):
    """Values of `a op b op c`: read from left to right, and with * and / before + and -."""
    first, *rest = re.findall(r"(?:^-|[-+*/])?\d+", re.sub("[ ,]", "", piece))
    running = int(first)
    terms = [running]
    for item in rest:
        if item[0] in "+-":
            running += int(item)
            terms.append(int(item))
        else:
            number = int(item[1:])
            factor = number if item[0] == "*" else Fraction(1, number)
            running *= factor
            terms[-1] *= factor
    return frozenset((running, sum(terms)))


def false_equations(text):
    """The integer equations of a text that are wrong: 'so 7 + 5 = 11 .' -> ['7 + 5 = 11']."""
    return [f"{left} = {right}" for left, right, is_equal in find_equations(text) if not is_equal]


def uncorrected_equations(text):
    """The false equations that no later right one with the same left side corrects."""
    last = {}  # left side: its last equation, None if that is right
    for left, right, is_equal in find_equations(text):
        last[left.replace(" ", "")] = None if is_equal else f"{left} = {right}"
    return [equation for equation in last.values() if equation]
