r"""Which part of a text is the answer? An ordered list of rules; the first that applies counts.

    RULES             the rules, each a function and an entry with an example
    extract_answer    the answer in a text
    answer_of         the answer of a completion row

A rule takes a text and returns the answer, "" if its mark is there without an answer (a box that
was cut), or None if its mark is not there. Each runs in linear time.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from engine.format import FORMATS
from grading.choices import chosen, letter_of
from grading.spelling import LONGEST_ANSWER

LONGEST_TEXT = 200_000  # characters; what is before is not read
LONGEST_SHORT_TEXT = 100  # a text without any mark may be an answer as a whole
MOST_BOXES = 9  # that can be one list
MOST_CUES = 20  # the last ones of a text are read

# ---- Boxes -------------------------------------------------------------------------------------

BOX = re.compile(r"\\(?:boxed|fbox)(?=\s*\{| )")
# Questions ask for the answer "within \boxed{}", and small models repeat that behind their answer.
EMPTY_BOX = re.compile(r"\$?\\(?:boxed|fbox)\s{0,9}\{\s{0,9}\}\$?")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are characters, not groups
# Between two boxes that are one list: "\boxed{1}, \boxed{2}" or "x = \boxed{1} and y = \boxed{2}".
BETWEEN_BOXES = re.compile(
    r"(?=.{1,60}$)(?=.*(?:[,;]|\b(?:and|or)\b))"
    r"(?:[ $,;}]|\\[()]|\\q?quad|\\text\s?\{|\band\b|\bor\b|[a-zA-Z](?:_\{?\w\}?)?\s?=)+"
)
NAME_BEFORE_BOX = re.compile(r"([a-zA-Z](?:_\{?\w\}?)?)\s?=\s?(?:\\[(\[]|\$)?\s?$")


def boxes(text):
    r"""The content of the last \boxed or \fbox, with those before it that are one list with it.

    Takes "x = \boxed{1} and y = \boxed{2}" as x = 1, y = 2. Refuses a box without its closing
    brace.
    """
    found = list(BOX.finditer(text))[-MOST_BOXES:]
    if not found:
        return None
    answer, _ = _read_box(text, found[-1].end())
    if not answer:
        return ""
    answers, names = [answer], [_name_before(text, found[-1])]
    for box, following in zip(found[-2::-1], found[:0:-1]):  # from the back
        before, end = _read_box(text, box.end())
        if not before or not BETWEEN_BOXES.fullmatch(text[end : following.start()]):
            break
        answers.insert(0, before)
        names.insert(0, _name_before(text, box))
    if len(answers) > 1 and all(names) and len(set(names)) == len(names):
        answers = [f"{name} = {answer}" for name, answer in zip(names, answers)]
    return ", ".join(answers)


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


def _name_before(text, box):
    name = NAME_BEFORE_BOX.search(text, max(0, box.start() - 20), box.start())
    return name[1] if name else ""


# ---- Tags and hash marks -----------------------------------------------------------------------


def answer_tag(text):
    """The last <answer>...</answer>; one that is not closed counts if it ends the text.

    An answer line inside is read as such. Refuses an unclosed tag with several lines after it.
    """
    closed = text.rfind("</answer>")
    opened = text.rfind("<answer>")
    if opened < 0 or (0 <= closed < opened and "\n" in text[opened:].strip()):
        opened = text.rfind("<answer>", 0, max(closed, 0))
        if opened < 0:
            return None
    begin = opened + len("<answer>")
    inside = text[begin:closed] if closed > opened else text[begin:]
    inside = inside.strip()
    if closed < opened and "\n" in inside:
        return None
    return answer_line(inside) or _clean(inside) or ""


def last_hash_line(text):
    """The last line, if it begins with or holds ####, as in "#### 18 dollars" and "#### C".

    Refuses headings: a word that is followed by a number, as in "#### Step 2".
    """
    line = text.rpartition("\n")[2]
    _, mark, answer = line.rpartition("####")
    answer = answer.strip()
    if not mark or not answer or len(answer) > LONGEST_SHORT_TEXT:
        return None
    if re.match(r"#|(?:step|final|answer|part|case)\b", answer, re.IGNORECASE):
        return None
    return _first_statement(answer)


def hash_number(text):
    """ "#### 42" or "#### 18 dollars" on any line; the last counts. Refuses "#### Step 2"."""
    marked = text.rpartition("####")[2].partition("\n")[0].strip()
    if "####" in text and re.fullmatch(
        r"(?=\D*\d)\S{1,40}|[$-]{0,2}\d[\d.,]{0,30} [a-z]{2,20}", marked
    ):
        return _clean(marked)
    return None


# ---- Lines that say that they hold the answer --------------------------------------------------

CUES = (
    # "### Final Answer" alone on its line
    r"(?P<heading>^[ \t]{0,3}[#*_ \t]{0,8}(?:the )?(?:final |correct )?answer[*_: \t]{0,9}$)",
    # "Answer: 12", "**The answer is** 12", "the correct option is"
    r"\b(?:answers?|correct (?:option|choice))\b[*_ \t]{0,9}"
    r"(?::|=|(?:is|was|are|would be|should be|must be|will be)\b:?)(?!=)",
    # "答案是12", "答：12"
    r"(?:答案|答)(?:应该|应|就)?(?:[是为]|[：:])",
    # "故选：B", "因此选择 B"
    r"(?:故|应|因此|所以)?选择?(?:[：:]|项|(?=\s?[A-J]))",
)
# "if the answer is 12" and "I hope the answer is 12" give none.
UNSURE = (
    r"(?P<unsure>\b(?:if|whether|hope|check|verify|sure) (?:that )?(?:the |this |my )?(?:final )?)?"
)
CUE = re.compile(f"{UNSURE}(?:{'|'.join(CUES)})", re.IGNORECASE | re.MULTILINE)
# Between the cue and the answer: "the answer is therefore about 12".
FILLER = re.compile(
    r"(?:[\s_:：=]|(?:therefore|thus|then|hence|simply|equal to|given by|approximately|about|exactly"
    r"|clearly|just|indeed|now|also|probably|option|choice)\b[,:]?|一共|总共|共有?|大约|约)+",
    re.IGNORECASE,
)
FORMULAS = re.compile(
    r"\$\$(?P<a>(?:[^$\\]|\\.)+)\$\$|\$(?P<b>(?:[^$\\]|\\.)+)\$|\\\((?P<c>.+?)\\\)|\\\[(?P<d>.+?)\\\]",
    re.DOTALL,
)
# Where the answer ends on its line:
ENDS = (
    # a stop, or a semicolon, before another sentence
    r"[.!?](?=\s+[^\s\d])|;(?=\s[a-zA-Z]{3})|[。！？；]",
    # GSM8K's mark
    r"[.!?]?\s*####",
    # a clause: "12, which is", "12 because", "12 — as shown"
    r",\s+(?=(?:which|because|since|so|as|where|that|but|when|if|with|giving|making|meaning|not"
    r"|(?:and |or )?(?:we|the|this|it|there|I|they|he|she)|therefore|thus|hence)\b)",
    r"\s(?=(?:because|since|which|where|as (?:it|the|there|we|this)|when|if)\b)",
    r"\s[–—]\s?(?=[a-zA-Z]{2})",
    r"[，,](?=因为|所以|即|其中|因此|也就是)|因为",
)
END = re.compile("|".join(ENDS), re.IGNORECASE)
# Stops that end no sentence: "Mr.", "3 p.m.", "J."
ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|rs|no|vs|prof|jr|sr|[ap]\.m)|(?<![a-z])[a-z])$", re.I
)


def answer_line(text):
    """The last line with "Answer:", "the answer is", "答案是" or a heading; else the line after it.

    Of the line only the answer counts, not the sentence that follows. Refuses "if the answer is".
    """
    for cue in list(CUE.finditer(text))[-MOST_CUES:][::-1]:
        if cue["unsure"]:
            continue
        return _answer_at(text, cue) or ""
    return None


def _answer_at(text, cue):
    """The answer at a match of CUE: the rest of the line, else what is after it."""
    line_start = text.rfind("\n", 0, cue.start()) + 1
    after = text[cue.end() : cue.end() + 2 * LONGEST_ANSWER]
    rest, _, next_lines = after.partition("\n")
    inside_bold = text[line_start : cue.end()].count("**") % 2
    if inside_bold:  # **Answer: B** because ...
        bold, _, rest = rest.partition("**")
        if _clean(bold):
            return _first_statement(bold)
    if re.fullmatch(r"[\s*_:]*(?:\\\[|\$\$)\s*", rest):
        return _first_statement(_paragraph(after))
    return _first_statement(rest) or _first_statement(_paragraph(next_lines))


def _paragraph(text):
    r"""The next line, or the whole of a formula \[...\] that begins on it."""
    text = text.lstrip(" \n\t_:")
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if text.startswith(opening):
            end = text.find(closing, len(opening))
            if end >= 0:
                return " ".join(text[: end + len(closing)].split())
    return text.partition("\n")[0]


def _first_statement(rest):
    r"""The answer at the beginning of a line, without the sentence that follows it.

    "18, which is the total." -> 18; "$x = 1$ and $y = 2$. I hope ..." -> $x = 1$ and $y = 2$.
    """
    rest = rest.strip()
    if filler := FILLER.match(rest):
        rest = rest[filler.end() :]
    if bold := re.match(r"\*\*([^*\n]+)\*\*", rest):
        return _clean(bold[1])
    hidden = FORMULAS.sub(_hidden, rest)
    for end in END.finditer(hidden):
        before = hidden[: end.start()]
        if end[0] == "." and ABBREVIATION.search(before):
            continue
        if before.strip():
            return _clean(rest[: end.start()])
    return _clean(rest)


def _hidden(formula):
    r"""As many other characters as the formula has, so that no stop inside it ends the answer.

    One at its end does, as in "$18.$ I hope it is correct."
    """
    has_stop = re.search(r"\.\s*(?:\$|\\[)\]])", formula[0])
    return "\x01" * (len(formula[0]) - 1) + ("." if has_stop else "\x01")


def letter_a(text):
    """The last line "A: 18". Refuses a list of choices and a dialogue: lines "B:" or "Q:"."""
    line = text.rpartition("\n")[2].strip()
    if not line.startswith("A:") or re.search(r"^\s*[BQ]:", text, re.MULTILINE):
        return None
    return _first_statement(line[2:])


def short_text(text):
    """The whole text, if it is one short line."""
    return _clean(text) if len(text) <= LONGEST_SHORT_TEXT and "\n" not in text else None


def _clean(answer):
    return answer.strip().strip("*`").strip() or None


# ---- The list of rules -------------------------------------------------------------------------


class ExtractionRule(NamedTuple):
    """A rule with an example: what it finds in a text."""

    name: str
    text: str
    answer: str
    find: Callable


RULES = [
    ExtractionRule("boxes", r"so \boxed{1} and \boxed{2}.", "1, 2", boxes),
    ExtractionRule("answer tags", "so <answer>42</answer> it is", "42", answer_tag),
    ExtractionRule(
        "#### on the last line", "so 6 * 7 = 42.\n#### 42 songs", "42 songs", last_hash_line
    ),
    ExtractionRule("answer lines", "so\nThe answer is 42. I hope so.", "42", answer_line),
    ExtractionRule("#### anywhere", "so\n#### 42\nQuestion:", "42", hash_number),
    ExtractionRule("A: on the last line", "so\nA: 42", "42", letter_a),
    ExtractionRule("a short text", "42", "42", short_text),
]


def extract_answer(text, format=""):
    """The answer that a text gives, or None. With a format's name, only its response part is read.

    The first rule of RULES that applies: the last \\boxed (None if its closing brace is missing,
    because the text was cut); the last <answer>; "#### 42" on the last line; the last "Answer:" or
    "the answer is"; "#### 42" anywhere; "A: 42" on the last line; the whole text if it is short.
    """
    if format:
        text = FORMATS[format].split(text)[1]
    text = EMPTY_BOX.sub("", text[-LONGEST_TEXT:]).strip()
    for rule in RULES:
        answer = rule.find(text)
        if answer is not None:
            return answer or None
    return None


# ---- Rows --------------------------------------------------------------------------------------


def answer_of(row):
    """Extracted answer of a completion row; None if it has none or was cut while thinking."""
    text = _response_of(row)
    if row.get("instruction_id_list") is not None:  # IFEval looks at the whole response
        return text or None
    choices = row.get("choices")
    if choices and choices != ["no", "yes"]:
        return _answer_among(choices, text)
    answer = extract_answer(text)
    if answer is not None:
        return answer
    first_line = text.strip().partition("\n")[0]
    if isinstance(row.get("references"), list):  # CoQA: the first line, as lm-eval takes it
        return first_line or None
    return _yes_or_no(text.strip()) if choices else None


def _yes_or_no(text):
    """Which of the two is on the first line, as HaluEval's grader asks; else begins the last."""
    first_line = text.partition("\n")[0][:LONGEST_ANSWER].lower()
    said = set(re.findall(r"\b(?:yes|no)\b", first_line))
    if len(said) == 1:
        return said.pop()
    last = re.match(r"[\s*_]{0,9}(yes|no)\b", text.rpartition("\n")[2].lower())
    return last[1] if last and not said else None


def _answer_among(choices, text):
    """The answer of a multiple-choice row.

    The first rule whose answer is a letter counts, then the first whose answer is a choice's text,
    so that a formula in a box does not hide a later "Answer: D"; then a letter on the last line.
    """
    text = text[-LONGEST_TEXT:].strip()
    answers = [answer for rule in RULES if (answer := rule.find(text)) is not None]
    for names in (letter_of, lambda answer: chosen(answer, choices)):
        for answer in answers:
            if answer and names(answer):
                return answer
    if letter := letter_of(text.rpartition("\n")[2][:200]):
        return letter
    return (answers[0] or None) if answers else None


def _response_of(row):
    """The response of a row; where an engine wrote `text` alone, what follows the thinking."""
    if "response" in row:
        return row["response"] or ""
    text = row.get("text") or ""
    for form in (FORMATS["s1"], FORMATS["think"]):
        if form.open in text or form.end in text:
            text = text.rpartition(form.end)[2] if form.end in text else ""
    return text
