"""The shape of the code base: who imports whom, what an import does, what a setting is for.

No test here counts lines, arguments or anything else.
"""

import ast
import dataclasses
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import settings

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["curate", "sft", "grpo", "generate", "evaluate", "analyze"]

ROOMS = ["engine", "kernels", "grading", "data", "curation", "report", "atlas"]
# The rooms that each room or script may import, besides itself.
ALLOWED = {
    "kernels": set(),
    "engine": {"kernels"},
    "grading": {"engine"},
    "data": {"engine", "grading"},
    "curation": {"engine", "grading"},
    "report": {"engine", "grading"},
    # decides claims with the statistics of evaluate.py
    "atlas": {"engine", "grading", "report", "evaluate"},
    # A stage needs itself, the engine, the kernels and one more room, which may need grading.
    "curate": {"engine", "curation", "grading"},
    "sft": {"engine", "kernels", "data"},
    "grpo": {"engine", "kernels", "grading"},
    "generate": {"engine", "kernels"},
    "evaluate": {"engine", "grading"},
    # analyze.py compares runs with the statistics of evaluate.py
    "analyze": {"engine", "kernels", "report", "evaluate"},
}
# What these rooms may know of the engine: text and files, no tensors.
WITHOUT_TENSORS = ["grading", "data", "curation", "report", "atlas"]
PLAIN_ENGINE = {"engine.rows", "engine.format", "engine.settings", "engine.runlog"}
PLAIN_ENGINE |= {"engine.axes", "engine.columns"}


def name_of(path):
    """data/tiny.py -> data.tiny; kernels/__init__.py -> kernels."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]
)
MODULES = {name_of(path): path for path in SOURCES}


def imports(tree):
    """Full names of the modules that a syntax tree imports anywhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else node.module)
    return names


IMPORTS = {name: imports(ast.parse(path.read_text())) for name, path in MODULES.items()}
# The same without what is imported inside a function.
ON_IMPORT = {}
for _name, _path in MODULES.items():
    _body = ast.parse(_path.read_text()).body
    _outside = [n for n in _body if not isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    ON_IMPORT[_name] = imports(ast.Module(_outside, []))


# ---- rooms


def test_six_scripts_at_the_top():
    """What is not a stage is in a room."""
    assert {path.stem for path in ROOT.glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_rooms_import_one_way(name):
    """engine <- grading <- data, curation, report <- scripts <- atlas."""
    room = name.split(".")[0]
    for other in IMPORTS[name] & set(MODULES):
        other_room = other.split(".")[0]
        assert other_room in ALLOWED[room] | {room}, f"{name} imports {other}"
        if room in WITHOUT_TENSORS and other_room == "engine":
            assert other in PLAIN_ENGINE, f"{name} imports {other}"


def test_no_module_imports_itself_in_the_end():
    """The imports have an order, which is the reading order."""
    # A package's __init__ is loaded before its modules and may look them up later, as kernels does.
    graph = {name: IMPORTS[name] & set(MODULES) for name in MODULES if name not in ROOMS}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_lists_its_files(room):
    """The docstring of each __init__ is the table of contents: one line per file, none missing."""
    docstring = importlib.import_module(room).__doc__
    with_ending = re.findall(r"^ *(\w+)\.py +\S", docstring, re.MULTILINE)
    listed = with_ending or re.findall(r"^(\w+)  +\S", docstring, re.MULTILINE)
    here = [path.stem for path in (ROOT / room).glob("*.py") if path.stem != "__init__"]
    assert sorted(listed) == sorted(here)


def test_files_that_the_readme_names_exist():
    readme = (ROOT / "README.md").read_text()
    places = [ROOT, ROOT / "recipes"]
    for name in re.findall(r"(?<![\w/.-])(?:[\w-]+/)*[\w-]+\.(?:py|sh)\b", readme):
        if not name.startswith("my_"):  # the reader's own
            assert any((place / name).is_file() for place in places), name


# ---- what an import does

HEAVY = ("torch", "transformers", "numpy", "datasets", "matplotlib")
# The file of a process of its own, which has to parse LaTeX.
OWN_PROCESS = {"grading.simplify"}
LIGHT = sorted(
    {name for name in MODULES if name.startswith(("grading.", "curation.", "data."))}
    | {"curate", "evaluate", "report.page", "engine.rows", "engine.format", "engine.settings"}
    | {"engine.runlog"}
)


def test_what_has_no_tensors_imports_none():
    """Grading and curating start at once: no torch, transformers or numpy behind them."""
    code = f"""
import importlib, sys
for name in {[name for name in LIGHT if name not in OWN_PROCESS]}:
    importlib.import_module(name)
    heavy = [module for module in {HEAVY} if module in sys.modules]
    if heavy:
        sys.exit(f"{{name}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def loaded_with(name):
    """Modules of the project that importing `name` loads."""
    found, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += ON_IMPORT[module] & set(MODULES)
    return found


def test_fine_tuning_imports_no_checkers():
    """sft.py learns by likelihood: nothing that grades or rewards answers is loaded with it."""
    assert not [name for name in loaded_with("sft") if name.startswith("grading")]


def test_scripts_are_inert_on_import():
    """Importing every script prints nothing, writes nothing and starts nothing."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(SCRIPTS)}, kernels"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr


# ---- settings

WITH_CONFIG = sorted(
    name for name, path in MODULES.items() if re.search(r"^class Config\b", path.read_text(), re.M)
)


def test_scripts_with_settings_were_found():
    assert {*SCRIPTS, "data.tiny", "data.prepare", "engine.plan"} <= set(WITH_CONFIG)


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_every_setting_is_explained_and_read(name):
    """Each setting, inherited ones too, has a comment and is used somewhere."""
    config = importlib.import_module(name).Config
    comments = settings.comments_of(config)
    code = "\n".join(path.read_text() for path in SOURCES)
    for field in dataclasses.fields(config):
        assert comments.get(field.name), f"{name}.Config.{field.name} has no comment"
        used = rf"\b(?:cfg|config|settings)\.{field.name}\b|[\"']{field.name}[\"']"
        assert re.search(used, code), f"{name}.Config.{field.name} is read by nothing"


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_help_and_unknown_flags(name, capsys):
    """--help prints docstring and comments; a misspelt flag is refused by name."""
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as done:
        settings.parse(module.Config, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    assert module.__doc__.strip().splitlines()[0] in shown
    for comment in settings.comments_of(module.Config).values():
        assert " ".join(comment.split()) in shown

    arguments = ["--no-such-flag", "1"]
    for field in dataclasses.fields(module.Config):
        if field.default is dataclasses.MISSING:
            arguments += [settings.flag(field.name), "x"]
    with pytest.raises(SystemExit) as done:
        settings.parse(module.Config, arguments)
    assert done.value.code == 2 and "--no-such-flag" in capsys.readouterr().err


# ---- what must not be there


def tracked_files():
    """Files of the repository; without git those that are code."""
    command = ["git", "-C", str(ROOT), "ls-files"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.split()
    files = [ROOT / name for name in listed]
    if not files:
        files = [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("recipes/*.sh")]
    return [path for path in files if path.is_file()]


def test_no_machine_paths():
    """Nothing in the project depends on where it was written."""
    for path in tracked_files():
        if path.suffix == ".safetensors" or path == Path(__file__).resolve():
            continue
        text = path.read_text(errors="replace")
        found = re.search(r"(?<![\w.])/(work|root|home|tmp)/\w", text)
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_no_code_is_run_from_text():
    """No eval, exec or pickle on anything: model output and data files are untrusted.

    Only a reader's own file of rewards, named on the command line, is loaded as code.
    """
    for name, path in MODULES.items():
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), name
        assert not IMPORTS[name] & {"pickle", "dill", "joblib", "marshal", "runpy"}, name
        assert "torch.load(" not in text, name
        if name != "grading.rewards":
            assert "spec_from_file_location" not in text and "exec_module" not in text, name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_texts_are_opened_with_their_encoding(name):
    """Windows would take its own, in which a row with é is another one or cannot be read."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        is_open = isinstance(node.func, ast.Name) and called == "open"
        is_binary = any("b" in str(getattr(a, "value", "")) for a in node.args[1:2])
        if called in ("read_text", "write_text") or (is_open and not is_binary):
            given = {keyword.arg for keyword in node.keywords}
            assert "encoding" in given, f"{name}, line {node.lineno}: no encoding"
