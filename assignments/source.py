"""Functions in the text of Python files: find them, empty them, put them in the place of others.

A place is "FILE.py:NAME" or "FILE.py:CLASS.NAME". All is done on lines of text, so that what is not
touched stays as it is.
"""

import ast
import functools
import re
from typing import NamedTuple

# Lines that may begin a statement at the left margin. Text inside a string rarely looks so.
STATEMENT = re.compile(r"(def|class|async def|from|import|if|for|with|try)\b|@|[A-Za-z_][\w., ]*=")
METHOD = re.compile(r"    (def |async def |@)")


class Missing(Exception):
    """A function is not there, or cannot be read; the message is for the student."""


class Piece(NamedTuple):
    """A top-level statement, or one in the body of a class."""

    names: tuple  # that it defines
    first: int  # its lines, decorators included, counted from 0
    end: int  # the line behind it
    node: ast.AST


def names_of(node):
    """Names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return tuple((alias.asname or alias.name).split(".")[0] for alias in node.names)
    stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return tuple(n.id for n in stored if isinstance(n.ctx, ast.Store))


def pieces_of(nodes, offset=0):
    """The statements as Pieces; offset: the line before their text."""
    found = []
    for node in nodes:
        decorators = getattr(node, "decorator_list", ())
        first = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        found.append(Piece(names_of(node), first + offset, node.end_lineno + offset, node))
    return found


@functools.lru_cache(maxsize=64)
def read(text):
    """The top-level statements of a file as Pieces, and [(text, message)] of what is no Python.

    A file with a syntax error is parsed statement by statement, so that one broken function does
    not take the others with it.
    """
    try:
        return pieces_of(ast.parse(text).body), []
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, in older Pythons
        reason = message_of(error, 0)
    lines = text.split("\n")
    # A decorator begins the function below it.
    starts = starts_of(lines, STATEMENT, "@")
    found, broken = [], []
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        pieces, messages = read_chunk(lines[start:end], start)
        found += pieces
        broken += messages
    return found, broken or [("", reason)]


def starts_of(lines, pattern, decorator):
    """Indices of lines that match, without those right below a decorator."""
    return [
        i
        for i, line in enumerate(lines)
        if pattern.match(line) and not (i and lines[i - 1].startswith(decorator))
    ]


def message_of(error, offset):
    line = offset + (getattr(error, "lineno", None) or 1)
    return f"{type(error).__name__}: {getattr(error, 'msg', error)} (line {line})"


def read_chunk(lines, offset):
    """As read, of the lines of one statement. A class is read method by method."""
    text = "\n".join(lines)
    try:
        return pieces_of(ast.parse(text).body, offset), []
    except (SyntaxError, ValueError) as error:
        whole = [(text, message_of(error, offset))]
    if not lines[0].startswith("class "):
        return [], whole
    # Broken methods make room for `pass`, line by line, so that all others stay in their places.
    starts = starts_of(lines, METHOD, "    @")
    kept, broken = list(lines), []
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        method = "\n".join(lines[start:end])
        try:
            ast.parse(f"class A:\n{method}")
        except (SyntaxError, ValueError) as error:
            broken.append((method, message_of(error, offset + start - 1)))
            kept[start:end] = ["    pass"] + [""] * (end - start - 1)
    try:
        return pieces_of(ast.parse("\n".join(kept)).body, offset), broken
    except (SyntaxError, ValueError):
        return [], whole


def find(pieces, name):
    """The last Piece that defines a top-level name, or CLASS.NAME; None if there is none."""
    owner, _, method = name.rpartition(".")
    if owner:
        holder = find(pieces, owner)
        if holder is None or not isinstance(holder.node, ast.ClassDef):
            return None
        offset = holder.end - holder.node.end_lineno
        return find(pieces_of(holder.node.body, offset), method)
    found = [piece for piece in pieces if name in piece.names]
    return found[-1] if found else None


def function_lines(piece):
    """(line of `def`, first line of the body behind the docstring, end) of a function, from 0."""
    node = piece.node
    offset = piece.end - node.end_lineno
    if ast.get_docstring(node, clean=False) is not None:
        begin = node.body[0].end_lineno
    else:
        begin = node.body[0].lineno - 1
    return node.lineno - 1 + offset, begin + offset, piece.end


def emptied(text, bodies):
    """The text of a file with other bodies for some functions: signature and docstring stay.

    bodies: {name: line of the new body}. Returns (text, lines that are gone).
    """
    pieces, _ = read(text)
    lines, gone = text.split("\n"), []
    spans = []
    for name, body in bodies.items():
        piece = find(pieces, name)
        if piece is None:
            raise Missing(f"no function {name}")
        start, begin, end = function_lines(piece)
        indent = re.match(" *", lines[start])[0] + "    "
        spans.append((begin, end, indent + body))
    for begin, end, body in sorted(spans, reverse=True):
        gone += lines[begin:end]
        lines[begin:end] = [body]
    return "\n".join(lines), gone


def used_names(nodes):
    """Names and attributes that occur in some syntax trees."""
    names, attributes = set(), set()
    for node in nodes:
        for n in ast.walk(node):
            if isinstance(n, ast.Name):
                names.add(n.id)
            elif isinstance(n, ast.Attribute):
                attributes.add(n.attr)
    return names, attributes


def helpers(pieces, known, nodes):
    """The submission's own Pieces that these syntax trees need, in the order of their file.

    known: names that the solution defines; its version of them counts.
    """
    chosen, seen, todo = [], set(), list(nodes)
    while todo:
        names, _ = used_names(todo)
        todo = []
        for name in sorted(names - seen - known):
            piece = find(pieces, name)
            if piece is not None and piece not in chosen:
                chosen.append(piece)
                todo.append(piece.node)
        seen |= names
    return sorted(chosen, key=lambda piece: piece.first)


def own_text(lines, piece):
    """The lines of a piece."""
    return lines[piece.first : piece.end]


def graft(solution, submission, names):
    """The text of the solution's file with these functions of the submission's -> text.

    Helpers and imports that the submission defines and the solution does not are taken along, if
    the functions need them. Decorators are the solution's. Raises Missing, whose message is for
    the student.
    """
    ours, _ = read(solution)
    theirs, broken = read(submission)
    our_lines, their_lines = solution.split("\n"), submission.split("\n")
    known = {name for piece in ours for name in piece.names}
    found = {name: theirs_or_missing(theirs, broken, name) for name in names}
    edits = []
    for name, piece in found.items():
        mine = find(ours, name)
        start, _, end = function_lines(mine)
        their_start = function_lines(piece)[0]
        edits.append((start, end, their_lines[their_start : piece.end]))
        owner = name.rpartition(".")[0]
        if owner:
            edits[-1][2].extend(new_methods(ours, theirs, their_lines, owner, piece))
    needed = helpers(theirs, known, [piece.node for piece in found.values()])
    is_import = [isinstance(piece.node, (ast.Import, ast.ImportFrom)) for piece in needed]
    imports = [p for p, flag in zip(needed, is_import) if flag]
    others = [p for p, flag in zip(needed, is_import) if not flag]
    first = min(find(ours, name.split(".")[0]).first for name in names)
    extra = [line for piece in imports + others for line in [*own_text(their_lines, piece), ""]]
    edits.append((first, first, extra))
    for start, end, lines in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
        our_lines[start:end] = lines
    return "\n".join(our_lines)


def theirs_or_missing(pieces, broken, name):
    """The submission's Piece of a function. broken: as of read."""
    last = name.split(".")[-1]
    for text, message in broken:
        if re.search(rf"\bdef {last}\b", text):
            raise Missing(f"{last}: {message}")
    piece = find(pieces, name)
    if piece is None:
        reasons = "".join(f"; {message}" for _, message in broken)
        raise Missing(f"there is no function {last} in your file{reasons}")
    if not isinstance(piece.node, ast.FunctionDef):
        raise Missing(f"{last} is no function in your file")
    return piece


def new_methods(ours, theirs, their_lines, owner, piece):
    """Lines of methods that a method of the submission uses and the solution's class lacks."""
    holder = find(theirs, owner)
    offset = holder.end - holder.node.end_lineno
    methods = pieces_of(holder.node.body, offset)
    known = {n for p in pieces_of(find(ours, owner).node.body) for n in p.names}
    lines, todo, seen = [], [piece.node], set()
    while todo:
        _, attributes = used_names(todo)
        new = [m for m in methods if set(m.names) & (attributes - known - seen)]
        seen |= attributes
        todo = [m.node for m in new]
        for method in new:
            lines += ["", *own_text(their_lines, method)]
    return lines


def replaced(text, right, wrong, file):
    """The text with the lines `right` replaced by `wrong`, at the indentation where they stand.

    ValueError if they are not there exactly once.
    """
    lines, wanted = text.split("\n"), [line.strip() for line in right.split("\n")]
    places = [
        i
        for i in range(len(lines) - len(wanted) + 1)
        if [line.strip() for line in lines[i : i + len(wanted)]] == wanted
    ]
    if len(places) != 1:
        raise ValueError(f"{file}: {len(places)} places read {right!r}; the list is out of date")
    start, end = places[0], places[0] + len(wanted)
    indent = re.match(" *", lines[start])[0]
    return "\n".join([*lines[:start], *(indent + x for x in wrong.split("\n")), *lines[end:]])
