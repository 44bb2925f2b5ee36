"""Is this trace worth reading, however hard its question? String rules, false arithmetic, loops, and words by kind."""

import re
import string
from fractions import Fraction
from functools import lru_cache

from engine.format import FORMATS
from grading.answers import answer_of, grade
from grading.repetition import repeated_share

DELIMITERS = sorted({text.strip() for f in FORMATS.values() for text in (f.open, f.end) if text})
PUNCTUATION = string.punctuation + "…“”‘’–—"
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


def quality_ok(row):
    """s1's string rule on the question (filter.ipynb): no figure, no sub-question `p3.`, no numbered bold text."""
    question = row["question"]
    if "[asy]" in question:  # an AIME figure excuses everything else
        return "AIME" in str(row.get("source") or "")
    return (
        "![Image]" not in question
        and not re.search(r"p[1-9][0-9]{0,2}\.", question)  # anywhere: `step3.` counts as well
        and not re.search(r"\*\*(?=.*\d)[^\s\]]*\*\*", question)
    )


def quality_problem(row, max_repetition=0.3):
    """Why a row is not worth training on, however hard its question; or None."""
    thinking, response = row["thinking"], row["response"]
    if not quality_ok(row):
        return "question string"
    if not thinking.strip():
        return "no thinking"
    if row.get("finish") == "length":
        return "unfinished"
    if not response.strip() or answer_of(row) is None and grade(row, None) is not None:
        return "no answer"  # a proof, which has no gold, needs none
    if any(delimiter in thinking or delimiter in response for delimiter in DELIMITERS):
        return "delimiter in text"
    if standing_slips(thinking):
        return "false equation"
    # Who checks, repeats: four checks of one solution reach a share of 0.8, a trace caught in a loop exceeds 0.85.
    share = repeated_share(thinking)
    if (
        share <= max_repetition
        or share <= 0.8
        and not set(words_of(thinking)).isdisjoint(VERIFY["extended"])
    ):
        return None
    return "repetition"


# A chain such as `4 * 1 = 4 - 2 = 2` of plain integers. What stands before must not make its first number a part of
# something larger (`x + 3 = 5`, `2^3 + 1 = 9`, `20% of 5 + 5 = 2`), nor what stands behind the last (`3 * 4 = 12x`).
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})"
_PIECE = rf"{_NUMBER}(?: ?[-+*/] ?{_NUMBER})*"
_CHAIN = re.compile(
    rf"(?<![\w.,:^_)}}\]\\+*/-])(?<![-+*/^)}}\]\\\d] )(?<!of )(?<!mod ){_PIECE}(?: ?= ?-?{_PIECE})+"
    r"(?![\w^(!%√]|[.,:]\d| ?[-+/]| ?\*(?!\*)| ?\\[A-Za-z]| \(?(?:mod|remainder|R)\b)"
)
_INSIDE = " ,+-*/="


def chains(text):
    """What _CHAIN.findall finds in a text with its signs written in ASCII, but searched only around each `=` between two
    numbers: most of a trace is words."""
    for sign, plain in (
        ("×", "*"),
        ("·", "*"),
        ("÷", "/"),
        ("−", "-"),
        ("\\times", "*"),
        ("\\cdot", "*"),
        ("\t", " "),
    ):
        text = text.replace(sign, plain)
    while "  " in text:
        text = text.replace("  ", " ")
    if re.search(r"x ?\d", text):
        text = re.sub(r"(?<=\d) ?x(?= ?\d)", "*", text)
    done = 0
    for equals in re.finditer(r"=(?:(?<=\d=)|(?<=\d =)) ?-?\d", text):
        if equals.start() < done:
            continue
        first = done = equals.start()
        while first and (text[first - 1] in _INSIDE or text[first - 1].isdecimal()):
            first -= 1
        while done < len(text) and (text[done] in _INSIDE or text[done].isdecimal()):
            done += 1
        for chain in _CHAIN.finditer(text, first, done + 16):  # 16: farther than its lookahead sees
            if chain.start() < done:
                yield chain[0]


def equations(text):
    """(left, right, whether they are equal) for each `=` behind plain integer arithmetic, in order.

    Read as people write: the left value must equal the first number on the right, from which the next piece goes on
    (`7 + 5 = 12 - 2 = 10`), or all of the right (`2 + 4 = 3 * 2`). Doubtful context is skipped, not judged.
    """
    for chain in chains(text):
        pieces = [piece.strip() for piece in chain.split("=")]
        for left, right in zip(pieces, pieces[1:]):
            if not re.search(r"\d ?[-+*/]", left):  # `3 = 4` computes nothing
                continue
            try:
                yield (
                    left,
                    right,
                    not readings(left).isdisjoint(
                        readings(right) | readings(re.match(r"-?[\d,]+", right)[0])
                    ),
                )
            except ZeroDivisionError:
                continue


@lru_cache(maxsize=10_000)  # traces repeat themselves and each other
def readings(piece):
    """Values of `a op b op c`: worked from left to right, and with * and / before + and -."""
    first, *rest = re.findall(r"(?:^-|[-+*/])?\d+", re.sub("[ ,]", "", piece))
    running = int(first)
    terms = [running]
    for item in rest:
        if item[0] in "+-":
            running += int(item)
            terms.append(int(item))
        else:
            factor = int(item[1:]) if item[0] == "*" else Fraction(1, int(item[1:]))
            running *= factor
            terms[-1] *= factor
    return frozenset((running, sum(terms)))


def false_equations(text):
    """Integer equations of a text that are wrong: 'so 7 + 5 = 11 .' -> ['7 + 5 = 11']."""
    return [f"{left} = {right}" for left, right, equal in equations(text) if not equal]


def standing_slips(text):
    """The false equations that no later right one with the same left side takes back."""
    last = {
        left.replace(" ", ""): (equal, f"{left} = {right}")
        for left, right, equal in equations(text)
    }
    return [shown for equal, shown in last.values() if not equal]


def words_of(text):
    return [word.strip(PUNCTUATION) for word in text.lower().split()]


def count_words(words, wanted):
    """How often the wanted words or phrases occur among words; whole words only."""
    text = f" {'  '.join(words)} "  # two spaces: neighbours share none
    return sum(text.count(f" {'  '.join(item.split())} ") for item in wanted)
