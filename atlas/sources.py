"""Which files of the project a shell text depends on, and their fingerprints.

A script depends on what it imports, directly or not; a change of comments or layout changes
nothing. A file or folder that is named (a model, a list of keywords) counts with its contents.
"""

import ast
import functools
import hashlib
import re
from pathlib import Path

from engine import runlog

# python -m data.tiny
MODULE = re.compile(r"-m ([\w.]+)")
# A word that may be a path under root: not the rest of a variable or of another path.
NAMED = re.compile(r"(?<![\w./$}-])/?[\w.-]+(?:/[\w.-]+)*")


def fingerprints(text, root=".", above=()):
    """A shell text -> {file or folder under root that it depends on: fingerprint}.

    above: recipes by which this text was reached. They name themselves, or one another, in their
    usage.
    """
    root = Path(root)
    scripts, found = set(), {}
    for name in MODULE.findall(text):
        # The last is the module, those before are its packages.
        scripts |= {path for path in module_files(name, root)[-1:]}
    for name in set(NAMED.findall(text)):
        path = root / name
        if path.suffix == ".py" and path.is_file():
            scripts.add(path)
        elif path.suffix == ".sh" and path.is_file():
            if name not in above:
                found[name] = runlog.fingerprint(path)
                shell = path.read_text(encoding="utf-8")
                found |= fingerprints(shell, root, (*above, name))
        elif path.exists() and ("/" in name or path.is_file()):
            found[name] = runlog.fingerprint(path)
    for script in closure(scripts, root):
        found[str(script.relative_to(root))] = code_fingerprint(script, state_of(script))
    return dict(sorted(found.items()))


def module_files(name, root):
    """a.b.c -> those of a/__init__.py, a/b.py ... that exist under root."""
    parts = name.split(".")
    found = []
    for end in range(1, len(parts) + 1):
        stem = root.joinpath(*parts[:end])
        found += [p for p in (stem / "__init__.py", stem.with_suffix(".py")) if p.is_file()]
    return found


def closure(scripts, root):
    """Files -> all files under root that they import, themselves included."""
    found, waiting = set(), list(scripts)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_files(path, root, state_of(path))
    return found


def state_of(path):
    """Time and size of a file, arguments of the caches below: a changed file is read again."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.cache
def imported_files(path, root, state):
    """Files under root that a file imports anywhere, also by a name in a string."""
    text = path.read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # importlib.import_module("kernels.parallel"), "grading.simplify:ask"
            if re.fullmatch(r"\w+(\.\w+)+(:\w+)?", node.value):
                names.add(node.value.partition(":")[0])
    found = {file for name in names for file in module_files(name, root)}
    if 'import_module(f"' in text:
        # Which file of the folder is chosen at run time.
        found |= set(path.parent.glob("*.py"))
    return sorted(found)


@functools.cache
def code_fingerprint(path, state):
    """16 hex digits of what Python reads: comments and layout do not count."""
    tree = ast.dump(ast.parse(path.read_text(encoding="utf-8")))
    return hashlib.sha256(tree.encode()).hexdigest()[:16]
