"""What is a right answer? Extraction and equality; curation, reward and test all grade here.

Nothing that a model wrote is ever executed, and every string is graded in bounded time: texts are cut to a length,
regular expressions are linear, nesting and powers are limited. An answer is parsed into a value that is the same for
every equivalent spelling (a Fraction, a formula's value at two points, a tuple with its brackets, ...), and two answers
are equal when these values are. What the rules cannot read is compared symbolically (grading/symbolic.py).
"""

import cmath
import re
import string
import time
from collections import Counter
from fractions import Fraction
from functools import lru_cache

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
from grading.symbolic import equal

# ---- Which part of a text is the answer? ------------------------------------------------------------------------

LONGEST_TEXT, LONGEST_ANSWER = 200_000, 2_000  # characters; beyond it nothing is right
ANSWER_LINE = re.compile(
    r"\b(?:answer|correct (?:option|choice))\b[*_ \t]{0,9}(?::|is\b:?)[*_ \t]{0,9}([^\n]*)"
    r"(?=(\n\s{0,9}[^\n]*)?)",
    re.IGNORECASE,
)
LETTER_LINE = re.compile(r"[\s*_]{0,9}\(?([A-J])(?:[).:][^\n]*)?[\s*_]{0,9}")
BETWEEN_BOXES = re.compile(
    r"(?=.{1,40}$)(?=.*(?:[,;]|\b(?:and|or)\b))(?:[ $,;}]|\\q?quad|\\text\{|and|or)+"
)


def extract_answer(text, format=""):
    """The answer that a text gives, or None. With a format's name, only its response part is read.

    First of: last \\boxed (one without its closing brace: the text was cut, None), last <answer>, last "Answer:" or
    "the answer is" line (if nothing follows on it, the line after), "#### 42", the whole text if it is a short line.
    Of several boxes the last counts; with only a comma or "and" between them on one line they are one list.
    """
    text = FORMATS[format].split(text)[1] if format else text
    text = text[-LONGEST_TEXT:].strip()
    boxes = [*re.finditer(r"\\(?:boxed|fbox)(?=\s*\{| )", text)][-9:]
    if boxes:
        answer, _ = _box(text, boxes[-1].end())
        for box, following in zip(boxes[-2::-1], boxes[:0:-1]) if answer else ():
            before, end = _box(text, box.end())
            if not before or not BETWEEN_BOXES.fullmatch(text[end : following.start()]):
                break
            answer = f"{before}, {answer}"
        return answer
    closed = text.rfind("</answer>")
    opened = text.rfind("<answer>", 0, max(closed, 0))
    if opened >= 0:
        return _clean(text[opened + len("<answer>") : closed])
    *_, line = [None, *ANSWER_LINE.finditer(text)]
    if line:
        # **Answer: B** because ...
        bold = text[text.rfind("\n", 0, line.start()) + 1 : line.start(1)].count("**") % 2
        return (
            _clean(line[1].partition("**")[0] if bold else line[1])
            or _clean(line[1])
            or _clean(line[2] or "")
        )
    last = text.rpartition("####")[2].partition("\n")[0].strip()
    if "####" in text and re.fullmatch(r"(?=\D*\d)\S{1,40}", last):
        return _clean(last)
    return _clean(text) if len(text) <= 100 and "\n" not in text else None


def _box(text, begin):
    """(what stands in the box at text[begin:], where it ends): {...} with inner braces, or `42$`; None if it has no end."""
    begin += len(text[begin:]) - len(text[begin:].lstrip())
    if not text.startswith("{", begin):
        end = re.compile(r"[^$\n]*").match(text, begin).end()
        return _clean(text[begin:end]), end
    depth = 0
    # \{ and \} are characters, not groups
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return _clean(text[begin + 1 : brace.start()]), brace.end()
    return None, len(text)


def _clean(answer):
    return answer.strip().strip("*`").strip() or None


def answer_of(row):
    """Extracted answer of a completion row; None for one that was cut while it was thinking.

    A row without a `response`, as other engines write them, has it in `text` behind the format's delimiter.
    """
    text = row.get("response" if "response" in row else "text") or ""
    if "response" not in row:
        for form in (FORMATS["s1"], FORMATS["think"]):
            if form.open in text or form.end in text:
                text = text.rpartition(form.end)[2] if form.end in text else ""
    if row.get("instruction_id_list") is not None:  # IFEval looks at all of it
        return text or None
    answer, first = extract_answer(text), text.strip().partition("\n")[0]
    # CoQA: the first line, as lm-eval takes it
    if answer is None and isinstance(row.get("references"), list):
        return first or None
    # so in HaluEval, with one of the two in it
    if answer is None and row.get("choices") == ["no", "yes"]:
        said = set(re.findall(r"\b(?:yes|no)\b", first[:LONGEST_ANSWER].lower()))
        return said.pop() if len(said) == 1 else None
    if (
        answer is None
        and row.get("choices")
        and (line := LETTER_LINE.fullmatch(text.rstrip().rpartition("\n")[2][:200]))
    ):
        return line[1]  # the last line is a letter: "B", "**(B)**"
    return answer


# ---- Is an answer right? ----------------------------------------------------------------------------------------

# these words are not units to be dropped
SCALES = r"million|billion|trillion|thousand|hundred|dozen|[ap]\.?m\b"
# m alone may be a name
UNITS = r"[cmkn]m|kg|mg|ml|ft|mi|lb|oz|[mn]s|hr|yr|[kM]?Hz|[kM]?eV|k?Pa|k[JNWV]|m[VW]|AU|pc"
POWER = r"\s*(?:\^\s*\{?\s*[23]\s*\}?)?\s*$"
REWRITES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3})", ""),  # 1{,}000 and 10,\!080
        (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[()\[\]]|\\?\$", ""),  # \( \) \[ \] $ \$
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![a-zA-Z])", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (
            r"\\(?:text|mbox|mathrm|mathbf|mathit|operatorname|(?:text|math)(?:bf|it|rm|sf|tt|normal))\s*\{",
            r"\\text{",
        ),
        # 15\text{ cm}^2
        (rf"(?:(?<=[\d}})])|(?<=\\pi))\s*\\text\{{(?!\s*(?:{SCALES}))[^{{}}]*\}}{POWER}", ""),
        (r"\\text\{([^{}]*)\}", r" \1 "),
        (r"\^?\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?|\\?%", " "),
        (
            rf"(?<=[\d}})])\s*(?:(?:degrees?|inch(?:es)?|feet|cm|mm|km|ft|kg|mg|ml|units?){POWER}"
            rf"|(?:\s(?!\s*(?:{SCALES}))(?:[a-zA-Z]{{3,20}}|of|in|{UNITS})\.?)+{POWER}"
            rf"|\s(?:{UNITS}|[mgJ])\s*/\s*(?:{UNITS}|[smhgLK]){POWER})",
            "",
        ),  # 3 m/s^2
        (r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|ln|log|pi|infty)(?![a-zA-Z])", r"\\\1"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*\*", lambda found: "^" if found[0] == "**" else "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\(frac|sqrt)\s*(\w)", r"\\\1{\2}"),  # \frac12, \sqrt2
        (r"\\frac\s*(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}"),
        # mixed: 1\frac{4}{5}
        (r"(?<![\w}.^])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}", r"(\1+\\frac{\2}{\3})"),
        (r"(?<![\w}.^/])(\d+)\s+(\d+)\s*/\s*(\d+)", r"(\1+\\frac{\2}{\3})"),  # mixed: 1 4/5
        (r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,4})(?![\w.])", r"(\1*10^{\2})"),
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r"\^\s*\{?\s*(\\prime\s*)+\}?", lambda found: "'" * found[0].count("p")),
        # 5 p.m., 1:58 AM
        (r"(?<=\d)\s*([apAP])\.?\s?[mM](?![a-zA-Z])\.?", lambda found: found[1].lower() + "m"),
        (r"(?<![\d:.])0(?=\d\s*:\s*\d\d)", ""),  # 05:00
        (r"^\\approx(?![a-zA-Z])", ""),
        (r"\\\{\s*\\\}|\\varnothing(?![a-zA-Z])|∅", r"\\emptyset"),
        (r"\s*,?\s*(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])\s*", ", "),
    )
]
GLUED = re.compile(
    r"\\(" + "|".join(sorted(LETTERS | {"pi"}, key=len, reverse=True)) + r")([a-zA-Z]+)"
)
THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)")
NAME = re.compile(
    r"\s*([a-zA-Z\\](?:[a-zA-Z\\_]|\{\w*\}){0,20}(?:\([a-z, ]{1,9}\))?)\s*"
    r"(?:=|\\(?:in|approx)(?![a-zA-Z]))(?=.)"
)
NAMED_TUPLE = re.compile(
    r"^\(\s*[a-zA-Z](?:_\w)?(?:\s*,\s*[a-zA-Z](?:_\w)?){1,9}\s*\)\s*=\s*(?=\()"
)
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\d [\d.]")  # or numbers side by side: no product
RELATION = re.compile(r"[<>]=?|\\[lg](?:t|eq?(?:slant)?)(?![a-zA-Z])")
VARIABLE = re.compile(rf"\s*(?![ei]\b)[a-zA-Z]{SUBSCRIPT}(?:\([a-zA-Z]\))?\s*")
UNORDERED = ("set", "union")


@lru_cache(4096)
def parse(text, thousands=True):
    """An answer as a value that equals that of every equivalent spelling: Fraction for a number, str for words,
    ("at", ...) for a formula, ("set", ...), ("matrix", ...) or ("(", ..., "]"). "" when there is nothing.

    thousands=False reads 1,234 as two numbers.
    """
    return _node(_normalised(text, thousands), 0)


def _normalised(text, thousands=True):
    text = " ".join(text[:LONGEST_ANSWER].translate(LOOKALIKES).split()).rstrip(" .$")
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    text = GLUED.sub(r"\\\1 \2", text)  # \lambdakT
    if thousands and not re.search(r"[(\[]|\\\{", text):  # inside brackets a comma separates
        text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return text


def _node(text, depth):
    kind, parts = _parts(text) if depth <= 4 else ("", [text])
    if kind:
        nodes = [_node(part, depth + 1) for part in parts]
        return (kind, *(sorted(nodes, key=repr) if kind in UNORDERED else nodes))
    try:
        return _formula(parts[0])
    except (ValueError, ArithmeticError):
        return _words(parts[0])


def _parts(text):
    """(kind, texts of the parts). The kind says what holds them together: "set" and "union", in which order does not
    count, "()" and its like, a matrix with the lengths of its rows, "<" and its like; "" for one formula or some words."""
    text = text.strip().rstrip(".,;: ")
    names = {
        name[1]: part[name.end() :] for part in _split(text, ",") if (name := NAME.match(part))
    }
    if len(names) > 1 and len(names) == len(_split(text, ",")):  # y = 2, x = 1
        return "named " + " ".join(sorted(names)), [value for _, value in sorted(names.items())]
    # x = 5, f(x) = 2x, x \in [0, 1]
    text = text[name.end() :].strip() if (name := NAME.match(text)) else text
    text = NAMED_TUPLE.sub("", text)  # (x, y) = (1, 2)
    if matrix := re.fullmatch(r"\\begin\{([pbv]?matrix)\}(.*)\\end\{\1\}", text, re.DOTALL):
        rows = [row.split("&") for row in matrix[2].split("\\\\") if row.strip()]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if len(parts := _split(text, "\\cup")) > 1:
        return "union", parts
    if (
        text[:1] in tuple("([")
        and text[-1:] in tuple(")]")
        and len(parts := _split(text[1:-1], ",")) > 1
    ):
        return text[0] + text[-1], parts  # order and kind of bracket count
    braces = re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL)
    # brackets match inside: one pair around all
    if braces and len(_split(braces[1] + ",", ",")) > 1:
        text = re.sub(r"^\s*[a-zA-Z]\s*(?:\\mid(?![a-zA-Z])|[|:])", "", braces[1])
    parts = [
        part.replace("\\pm", sign)
        for part in _split(text.replace(";", ","), ",")
        for sign in ("+-" if "\\pm" in part else "+")
    ]
    if len(parts) > 1:
        return "union" if all(map(RELATION.search, parts)) else "set", parts
    return _relation(text)


def _relation(text):
    r"""_parts of x > 2, which is (2, \infty), of 0 \le x < 1, which is [0, 1), and of other chains, with < for >."""
    signs, sides = RELATION.findall(text), RELATION.split(text)
    loose = ["=" in sign or "e" in sign for sign in signs]
    if (
        not signs
        or len({sign.lstrip("\\")[0] in "<l" for sign in signs}) > 1
        or not all(map(str.strip, sides))
    ):
        return "", [text]
    if signs[0].lstrip("\\")[0] in ">g":
        loose, sides = loose[::-1], sides[::-1]
    variable = [bool(VARIABLE.fullmatch(side)) for side in sides]
    if variable == [False, True]:
        return ("[" if loose[0] else "(") + ")", [sides[0], "\\infty"]
    if variable == [True, False]:
        return "(" + ("]" if loose[0] else ")"), ["-\\infty", sides[1]]
    if variable == [False, True, False]:
        return ("[" if loose[0] else "(") + ("]" if loose[1] else ")"), sides[::2]
    return " ".join("<=" if same else "<" for same in loose), sides


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
            parts.append(text[begin : found.start()])
            begin = found.end()
    return [*parts, text[begin:]] if depth == 0 else [text]


def _formula(text):
    """Value of a number, of a formula (at two points), or of an equation (left - right, up to a constant factor)."""
    if len(text) > LONGEST_FORMULA or WORD.search(text):
        raise ValueError("words, not a formula")
    left, equals, right = text.partition("=")
    if equals and not re.search("[a-zA-Z]", text):
        raise ValueError("0.5 = 50 says nothing")
    text = f"({left})-({right})" if equals else text
    values = [
        Expression(text, point).sum()
        for point in range(2 if equals or re.search("[a-zA-Z]", text) else 1)
    ]
    if equals:
        return ("equation", _rounded(values[0] / values[1]))
    values = [_rounded(value) for value in values]
    return (
        values[0]
        if isinstance(values[0], Fraction) and len(set(values)) == 1
        else ("at", *dict.fromkeys(values))
    )


def _rounded(value):
    """A Fraction, also for a float that is one but for rounding, else a string of 9 digits: equal means the same."""
    if isinstance(value, Fraction):
        if max(abs(value.numerator), value.denominator).bit_length() > 10_000:
            raise ValueError("too long a number")
        return value
    value = complex(value)
    if not cmath.isfinite(value):
        raise ValueError("not finite")
    real, imag = (
        0.0 if abs(part) < 1e-12 * abs(value) else part for part in (value.real, value.imag)
    )
    simple = Fraction(real).limit_denominator(1000)
    if not imag and abs(real - simple) <= 1e-12 * abs(real):
        return simple
    return f"{real:.9g}" + (f"{imag:+.9g}i" if imag else "")


def is_correct(prediction, answer):
    """Are two answers the same? Never raises, never executes anything, answers within two seconds (plus, on a busy machine,
    what the symbolic comparison's process takes to start).

    Exact, with these exceptions: a decimal may stand for a number without finite decimals if it is within 1e-6 of it;
    50% is 50 as well as 1/2; 1,234 may be a list where the answer is one; a choice may be followed by its text; c may
    be written C; names (x = 1) and a.m. may be left out or added.
    """
    prediction, answer = str(prediction), str(answer)
    if (
        not answer.strip()
        or not prediction.strip()
        or max(len(prediction), len(answer)) > LONGEST_ANSWER
    ):
        return False
    if prediction.strip() == answer.strip():
        return True
    powers = [
        re.findall(r"(?:\}|[a-z]{2})\s*\^\s*\{?([23])\}?\W*$", side)
        for side in (prediction, answer)
    ]
    if all(powers) and powers[0] != powers[1]:  # 5 cm^2 is not 5 cm^3; both may be just 5
        return False
    said, gold = parse(prediction), parse(answer)
    if said == gold or (isinstance(gold, tuple) and parse(prediction, thousands=False) == gold):
        return True
    if choice := re.fullmatch(r"\(?([A-J])\)?", answer.replace("\\text", "").strip("{}$. ")):
        said = re.match(r"(?:\\text\s*\{)?\(?([A-Ja-j])(?:[).:}]|$)", prediction.strip("$* "))
        return bool(said) and said[1].upper() == choice[1]
    for one, other, written, facing in (
        (said, gold, prediction, answer),
        (gold, said, answer, prediction),
    ):
        if not isinstance(one, Fraction):
            continue
        if "%" in written and "%" not in facing and one / 100 == other:
            return True
        value = _endless(other)
        if "." in written and value is not None and abs(one - value) * 10**6 <= abs(value):
            return True
    if re.fullmatch(r"\d{1,2}:\d\d", str(gold)):  # 1:58 a.m. for 1:58
        return str(said) in (f"{gold}am", f"{gold}pm")
    return _unread(said, gold) and _equal(
        _normalised(prediction), _normalised(answer), time.monotonic() + 0.5
    )


def _endless(node):
    """A real number that no finite decimal equals (1/3, √2; the latter to 9 digits), else None."""
    if isinstance(node, Fraction):
        finite = pow(10, node.denominator.bit_length(), node.denominator) == 0
        return None if finite else node
    constant = isinstance(node, tuple) and node[0] == "at" and len(node) == 2 and "i" not in node[1]
    return Fraction(node[1]) if constant else None


def _unread(*nodes):
    """Do these nodes hold a part that the rules could not read, or names, which may be left out?"""
    return any(
        node[0].startswith("named") or (node[0] not in ("at", "equation") and _unread(*node[1:]))
        if isinstance(node, tuple)
        else isinstance(node, str)
        for node in nodes
    )


def _equal(one, other, until, depth=0):
    """Are two normalised texts the same, part by part, by the rules or else symbolically? No question after `until`."""
    (kind, parts), (kind_, parts_) = (
        _parts(text) if depth <= 4 else ("", [text]) for text in (one, other)
    )
    if "named" in (kind[:5], kind_[:5]):  # x = 1, y = 2 for 1, 2 or (1, 2)
        kind = kind_ = (
            next((other for other in ("set", "()") if other in (kind, kind_)), kind)
            if kind != kind_
            else kind
        )
    if kind != kind_ or len(parts) != len(parts_) or len(parts) > 50:
        return False
    if not kind:
        nodes = _node(parts[0], 5), _node(parts_[0], 5)
        return (
            nodes[0] == nodes[1]
            or _unread(*nodes)
            and time.monotonic() < until
            and equal(*sorted((parts[0], parts_[0])))
        )
    if kind not in UNORDERED:
        return all(_equal(part, part_, until, depth + 1) for part, part_ in zip(parts, parts_))
    left, right = ([(_node(part, depth + 1), part) for part in side] for side in (parts, parts_))
    # cheap ones first
    for same in (lambda x, y: x[0] == y[0], lambda x, y: _equal(x[1], y[1], until, depth + 1)):
        for x in list(left):
            if y := next((y for y in right if same(x, y)), None):
                left.remove(x), right.remove(y)
    return not left


def is_gradable(answer):
    """Can an answer be compared with anything? Not if it is empty, too long, or broken LaTeX such as \\frac{1}{}."""
    if answer is None or len(answer := str(answer)) > LONGEST_ANSWER or parse(answer) == "":
        return False
    text = _normalised(answer)
    braces = re.findall(r"(?<!\\)[{}]", text)  # without a command they may be the answer: ) } ]
    return (
        braces.count("{") == braces.count("}") or not re.search(r"\\[a-zA-Z]|[\^_]", text)
    ) and not re.search(
        r"^\s*[\^_*/=]\s*\S|\S\s*[\^_*/=]\s*$|\\frac\s*\{[^{}]*\}\s*\{\s*\}|\\sqrt\s*\{\s*\}", text
    )


def grade(row, prediction):
    """Is the prediction right for this row? None if it has no answer: such a row is skipped, never rewarded.

    Looks at `nums` and `target` (Countdown), `instruction_id_list` (IFEval), `references` (CoQA: the same words as one of
    them), else `answer` and, beside it, `choices` (whose text may stand for the letter) and `accept` (other right answers).
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
        said = plain_words(prediction or "")
        return (
            any(said == plain_words(answer) for answer in row["references"])
            if row["references"]
            else None
        )
    gold, choices = row.get("answer"), row.get("choices")
    if not is_gradable(gold):
        return None
    if prediction is None:
        return False
    said = prediction.strip().casefold()
    if (
        choices
        and len(said) > 1
        and said in (texts := [str(choice).strip().casefold() for choice in choices])
    ):
        prediction = (
            prediction
            if str(gold).strip().casefold() in texts
            else chr(ord("A") + texts.index(said))
        )
    others = row["accept"] if isinstance(row.get("accept"), list) else []
    return any(is_correct(prediction, right) for right in [gold, *others])


def plain_words(text):
    """Lower case, without punctuation and articles (SQuAD's normalisation, 1606.05250, §6.1)."""
    text = str(text)[:LONGEST_ANSWER].lower().translate(dict.fromkeys(map(ord, string.punctuation)))
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


def overlap(prediction, references):
    """(exact match, F1 of words) in 0..1: the best over the references. Of several, the mean over leaving out each one in
    turn, as a person among the annotators would be measured (CoQA, 1808.07042, §6.1)."""

    def best(answers):
        pairs = []
        for words in answers:
            same = sum((Counter(said) & Counter(words)).values())
            f1 = 2 * same / (len(said) + len(words)) if said and words else float(said == words)
            pairs.append((float(said == words), f1))
        return [max(column) for column in zip(*pairs)]

    said, words = plain_words(prediction or ""), [plain_words(answer) for answer in references]
    rounds = (
        [best(words[:i] + words[i + 1 :]) for i in range(len(words))]
        if len(words) > 1
        else [best(words)]
    )
    return tuple(sum(column) / len(rounds) for column in zip(*rounds))


def canonical(row, answer):
    """Hashable name of an answer's equivalence class, for voting. Expressions are the same if they use the same
    numbers and have the same value, in whatever order they are written; other answers, if they are spelled alike."""
    if row.get("nums") is not None and isinstance(answer, str):
        found = expression_value(answer, row.get("left_to_right", False))
        return (tuple(found[0]), found[1]) if found else answer.strip()
    return parse(answer) if isinstance(answer, str) else None


def answer_classes(row, answers):
    """A number for each answer (None for None) that is the same for answers which the grader takes as the same: they
    have one canonical name, or one is right where the first answer of the other's class is the solution."""
    names, leaders, found = {}, [], []
    for answer in answers:
        name = None if answer is None else canonical(row, answer)
        if answer is not None and name not in names:
            same = (
                ()
                if row.get("nums") is not None
                else (
                    i
                    for i, leader in enumerate(leaders)
                    if is_correct(answer, leader) or is_correct(leader, answer)
                )
            )
            names[name] = (
                next(iter(same), len(leaders)) if row.get("nums") is None else len(leaders)
            )
            leaders += [answer] if names[name] == len(leaders) else []
        found.append(None if answer is None else names[name])
    return found
