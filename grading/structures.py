r"""What holds the parts of an answer together: lists, tuples, intervals, matrices, names.

structure    (kind, texts of the parts) of an answer in normal form
split_name   x = 5 -> ("x", "5")
split        the parts between separators outside all brackets
"""

import re

from grading.formulas import SUBSCRIPT
from grading.spelling import LETTERS

DEEPEST = 4  # levels of structure inside each other
UNORDERED = ("set", "union")

RELATION = re.compile(r"[<>]=?|\\[lg](?:t|eq?(?:slant)?)(?![a-zA-Z])")
VARIABLE = re.compile(rf"\s*(?![ei]\b)[a-zA-Z]{SUBSCRIPT}(?:\([a-zA-Z]\))?\s*")

# "x =", "a_5 =", "f(2) =", "|AB| =", "\angle ABC =", "P(X=1) =", "x \in", where something follows
NAME = re.compile(
    r"\s?(\|[a-zA-Z]{1,4}\||\[[A-Z]{1,5}\]"
    r"|[a-zA-Z\\](?:[\w\\' ]|\{[\w, +-]{0,9}\}|\^\{?-1\}?){0,40}?"
    r"(?:[(\[][\w\\ ,=<>+|-]{1,20}[)\]])?)\s?"
    r"(?:=|\\(?:in|approx|equiv)(?![a-zA-Z]))(?=.)"
)
# "(x, y) =" before a bracket
NAMED_TUPLE = re.compile(
    r"^\(\s?[a-zA-Z](?:_\w)?(?:\s?,\s?[a-zA-Z](?:_\w)?){1,9}\s?\)\s?=\s?(?=\()"
)
PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
MATRIX = re.compile(
    r"(?P<factor>[^&]{0,200}?)[\[(]?\s?\\begin\{(?P<kind>array|[pbvB]?matrix|smallmatrix)\}"
    r"(?:\{[lcr| ]{0,50}\})?(?P<cells>.*)\\end\{(?P=kind)\}\s?[\])]?",
    re.DOTALL,
)


def structure(text, depth):
    """(kind, texts of the parts) of an answer in normal form.

    The kind says what holds the parts together: "set" and "union", where order does not count;
    "()", "[)" and so on; "matrix" with the lengths of its rows; "named" with the names; "<", "<="
    and chains of them; "" for a single formula or some words.
    """
    if depth > DEEPEST:
        return "", [text]
    text = text.strip().rstrip(",;: ")
    if not text.endswith(".."):
        text = text.rstrip(". ")
    named = _named_values(text)
    if named:
        return named
    groups = split(text, ";")
    if len(groups) > 1 and all("=" in group and "," in group for group in groups):
        return "set", groups  # p = 5, q = 2; p = 7, q = 2
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


# ---- Names -------------------------------------------------------------------------------------


def split_name(text):
    r"""x = 5, f(2) = 5, |AB| = 5, N \equiv 5 -> (name, "5"); ("", text) without a name.

    \frac{22}{7} = 3.14 has a number before the sign, which is no name.
    """
    if "=" not in text and "\\" not in text:
        return "", text
    found = NAME.match(text)
    if not found or not _holds_a_letter(found[1]):
        return "", text
    return found[1].strip(), text[found.end() :].strip()


def _holds_a_letter(name):
    words = re.findall(r"\\[a-zA-Z]+|[a-zA-Z]", name)
    return any(word[0] != "\\" or word[1:] in LETTERS for word in words)


def names_differ(one, other):
    """y = 4 is not x = 4. Only single variables count: y = 2x may be f(x) = 2x."""
    if one.count("=") != 1 or other.count("=") != 1:
        return False
    names = split_name(one)[0], split_name(other)[0]
    if not all(VARIABLE.fullmatch(name) and "(" not in name for name in names):
        return False
    return names[0].casefold() != names[1].casefold()


def _named_values(text):
    """y = 2, x = 1 -> ("named x y", ["1", "2"]); None if not all parts have different names."""
    if "=" not in text:
        return None
    separator = ";" if ";" in text else ","
    parts = split(text, separator)
    values = {}
    for part in parts:
        name, value = split_name(part)
        if name:
            values[name] = value
    if len(values) == len(parts) > 1:
        names = sorted(values)
        return "named " + " ".join(names), [values[name] for name in names]
    return None


def _without_name(text):
    r"""x = 5, f(x) = 2x, x \in [0, 1] and (x, y) = (1, 2) -> 5, 2x, [0, 1] and (1, 2)."""
    _, text = split_name(text)
    return NAMED_TUPLE.sub("", text)


# ---- Brackets ----------------------------------------------------------------------------------


def _matrix(text):
    r"""\begin{pmatrix} 1 & 2 \end{pmatrix}, also as an array and with a factor before it."""
    if "\\begin" not in text:
        return None
    matrix = MATRIX.fullmatch(text)
    if not matrix:
        return None
    rows = [row.split("&") for row in matrix["cells"].split("\\\\") if row.strip()]
    cells = [cell for row in rows for cell in row]
    factor = matrix["factor"].strip().rstrip("*").strip()
    if factor == "-":
        cells = [f"-({cell})" for cell in cells]
    elif factor:
        cells = [f"({factor})*({cell})" for cell in cells]
    return f"matrix {[len(row) for row in rows]}", cells


def _union(text):
    r"""A \cup B. Of sets \{1\} \cup \{2\} it is the set of their elements."""
    parts = split(text.replace("\\lor", "\\cup"), "\\cup")
    if len(parts) == 1:
        return None
    elements = [re.fullmatch(r"\s?\\\{([^{}|:]*)\\\}\s?", part) for part in parts]
    if all(elements):
        return "set", [element for found in elements for element in split(found[1], ",")]
    return "union", parts


def _tuple(text):
    """(1, 2] -> ("(]", ["1", "2"]): order and kind of bracket count. [2; 3] is [2, 3].

    [[1, 2], [3, 4]] is a matrix.
    """
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]"):
        return None
    parts = split(text[1:-1], ";" if ";" in text else ",")
    if text[:2] == "[[" and len(parts) > 1:
        rows = [re.fullmatch(r"\s?\[([^\[\]]*)\]\s?", part) for part in parts]
        if all(rows):
            cells = [split(row[1], ",") for row in rows]
            return f"matrix {[len(row) for row in cells]}", [x for row in cells for x in row]
    return (text[0] + text[-1], parts) if len(parts) > 1 else None


def _without_braces(text):
    r"""\{1, 2\} -> 1, 2 and \{x \mid x > 2\} -> x > 2."""
    braces = re.fullmatch(r"\\?\{(.*?)\\?\}", text, re.DOTALL)
    # The comma makes split look at the brackets inside: they match if one pair is around all.
    if not braces or len(split(braces[1] + ",", ",")) == 1:
        return text
    return re.sub(r"^\s?[a-zA-Z]\s?(?:\\in \\mathbb\{R\}\s?)?[|:]", "", braces[1])


# ---- Lists and intervals -----------------------------------------------------------------------


def _list_parts(text):
    r"""1 \pm 2; 3 -> 1 + 2, 1 - 2, 3."""
    parts = []
    for part in split(text.replace(";", ","), ","):
        signs = ("+", "-") if PLUS_MINUS.search(part) else ("+",)
        parts += [PLUS_MINUS.sub(sign, part) for sign in signs]
    return parts


def _interval(text):
    r"""Structure of chains: x > 2 is (2, \infty), 0 \le x < 1 is [0, 1).

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


def split(text, separator):
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
