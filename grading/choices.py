r"""Multiple choice: which letter does an answer name?

letter_of    "B", "(B) blue", "Option B", "B because it is blue" -> "B"
letters_of   "A, D" and "AD" -> {"A", "D"}
chosen       the same, and a choice that is given by its text
"""

import re

from grading.spelling import LONGEST_ANSWER, normal_form, plain_characters

WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|mbox|boxed|bf|rm)\s?\{([^{}]*)\}"
)
WHOLE_WRAPPER = re.compile(r"\\(?:text|textbf|mbox)\s?\{(.*)\}", re.DOTALL)
# what may stand in front of a letter: "Option B", "the correct choice is (B)"
LEAD = (
    r"(?:(?:the )?(?:correct |right |best |final )?(?:answer|option|choice|letter)s?"
    r"(?: is| are)?|I (?:would )?(?:choose|pick|select)|it is|it's|选项?|选择|是)\s?:?\s?"
)
LETTER = re.compile(
    rf"(?:{LEAD})?[(\[]?\s?([A-Z])(?![a-zA-Z0-9_^*/+=])\s?(.*)", re.IGNORECASE | re.DOTALL
)
# What may follow it: a bracket or a stop, a reason in words, or a text.
REASON = re.compile(
    r"(?:because|since|as|for|so|due|which|that|given|where|and (?:the|it|this|not)|but|is correct"
    r"|is (?:the )?(?:correct|right|answer|best)|,|;|—|–|-|→|=|\bin\b)",
    re.IGNORECASE,
)
# "B or C", "B, C", "(A) and (D)": not one letter
ANOTHER_LETTER = re.compile(
    r"^[)\].:]?\s?(?:or|and|,|/|&|或|和|;)\s?(?:or |and |option )?\(?[A-Z]\b(?!\s[a-z])"
)
LETTERS = re.compile(r"\(?[A-J]\)?(?:\s?(?:,|and|&|\s)?\s?\(?[A-J]\)?){0,9}")


def _bare(text):
    r"""Text without the marks around it: $\textbf{(B)}\ 12$ -> (B) 12."""
    text = plain_characters(text[:LONGEST_ANSWER])
    # One around the whole text may hold formulas with braces.
    if around := WHOLE_WRAPPER.fullmatch(text.strip("$ ")):
        text = around[1]
    while (unwrapped := WRAPPER.sub(r" \1 ", text)) != text:
        text = unwrapped
    text = re.sub(r"\\[ ,;:!()\[\]]|\\q?quad|~|\$|\*\*|__|`|[{}]", " ", text)
    return " ".join(text.split()).strip(" *\"'")


def letter_of(text, texts=()):
    r"""The letter that an answer begins with, or None.

    Takes "B", "b", "(B)", "B.", "B) 12", "Option B", "\textbf{(B)}\ 12", "B because ...".
    Refuses "B or C", "A dog", "it is a dog", "BC" and "not B". texts: of the choices; the own text
    of a letter may follow it.
    """
    bare = _bare(text)
    found = LETTER.fullmatch(bare)
    if not found:
        return None
    letter, rest = found[1], found[2].strip()
    # "the answer is a dog", but "option a is right"
    is_word = letter in "aAiI" and rest[:1].isalpha() and not REASON.match(rest)
    is_marked = re.match(r"[)\].:]", rest) or (found.start(1) > 0 and not is_word)
    if letter.islower() and not (is_marked or not rest):
        return None
    letter = letter.upper()
    if ANOTHER_LETTER.match(rest):
        return None
    if not rest or is_marked or REASON.match(rest):
        return letter
    number = ord(letter) - ord("A")
    if number < len(texts) and _same_words(rest, texts[number]):
        return letter
    return None


def letters_of(text):
    r"""{"A", "D"} of "AD", "A, D", "A and D", "(A)(D)"; None if there is anything else."""
    bare = _bare(text).rstrip(".")
    if not LETTERS.fullmatch(bare):
        return None
    letters = re.findall("[A-J]", bare)
    return set(letters) if len(set(letters)) == len(letters) else None


def chosen(text, choices):
    """The letter of a choice that is named by its letter or by its text; None if none is."""
    texts = [str(choice) for choice in choices]
    letter = letter_of(text, texts)
    if letter and ord(letter) - ord("A") < len(texts):
        return letter
    same = [number for number, choice in enumerate(texts) if _same_words(text, choice)]
    if not same:
        said = _plain_number(text)
        same = [n for n, choice in enumerate(texts) if said and _plain_number(choice) == said]
    return chr(ord("A") + same[0]) if len(same) == 1 else None


def _same_words(one, other):
    return _words(one) == _words(other)


def _words(text):
    return _bare(text).casefold().strip(" .,;:!\"'")


def _plain_number(text):
    """The normal form of a text that holds a digit, so that \\frac12 names the choice 1/2."""
    return normal_form(text) if re.search(r"\d", text) else ""
