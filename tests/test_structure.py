"""The shape of the code base: who imports whom, what an import does, what a setting is for."""

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import settings

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["curate", "sft", "grpo", "generate", "evaluate", "analyze"]
SOURCES = sorted(
    p for p in [*ROOT.glob("*.py"), *ROOT.glob("kernels/*.py"), *ROOT.glob("data/*.py")]
)

# What each room may import from the others; the reading order of the README.
ALLOWED = {
    "data": {"data"},
    "kernels": {"kernels"},
    "evaluate": {"data"},
    "curate": {"data", "evaluate"},
    "modules": set(),
    "model": {"data", "kernels", "modules"},
    "plan": {"data", "model", "kernels"},
    "distributed": {"data", "model", "modules", "kernels"},
    "decoder": {"data", "model", "modules"},
    "generate": {"data", "model", "modules", "distributed", "decoder"},
    "sft": {"data", "model", "distributed", "plan"},
    "rollouts": {"data", "model", "distributed", "kernels", "sft", "decoder", "generate"},
    "grpo": {"data", "model", "distributed", "plan", "kernels", "sft", "decoder", "rollouts"},
    "report": {"data", "evaluate"},
    "analyze": {"data", "model", "kernels", "evaluate", "report"},
}


def imports(path):
    """Top-level package names that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    """A stage never imports a later one, and the scripts without torch stay without it."""
    room = path.parent.name if path.parent != ROOT else path.stem
    ours = imports(path) & set(ALLOWED)
    assert ours <= ALLOWED[room] | {room}, f"{path.name} imports {ours - ALLOWED[room]}"
    if room in ("evaluate", "curate", "report"):
        assert not imports(path) & {"torch", "transformers", "numpy"}


def test_scripts_are_inert_on_import():
    """Importing every script prints nothing, writes nothing and starts nothing."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import " + ", ".join(
        SCRIPTS + ["model", "kernels"]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_setting_is_explained_and_read(name):
    """Each field of a Config has a comment, which is its --help, and is used somewhere below."""
    source = (ROOT / f"{name}.py").read_text()
    config = next(
        n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Config"
    )
    lines = source.splitlines()
    users = "\n".join(path.read_text() for path in ROOT.glob("*.py"))
    for field in config.body:
        if not isinstance(field, ast.AnnAssign):
            continue
        assert "#" in lines[field.end_lineno - 1], f"{name}.Config.{field.target.id} has no comment"
        assert re.search(
            rf"(?:cfg|settings)\.{field.target.id}\b|check_positive\([^)]*\"{field.target.id}\"",
            users,
        ), f"{name}.Config.{field.target.id} is read by nothing"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_unknown_flags(name, capsys):
    """--help prints the docstring and each setting's comment; a misspelt flag is refused by name with status 2."""
    script = importlib.import_module(name)
    with pytest.raises(SystemExit) as done:
        settings.parse(script.Config, ["--help"])
    shown = capsys.readouterr().out
    assert (
        done.value.code == 0
        and script.__doc__.strip().splitlines()[0] in shown
        and "--out" in shown
    )
    with pytest.raises(SystemExit) as done:
        settings.parse(
            script.Config,
            [
                x
                for f in dataclasses.fields(script.Config)
                if f.default is dataclasses.MISSING
                for x in (f"--{f.name}", "x")
            ]
            + ["--no-such-flag", "1"],
        )
    assert done.value.code == 2 and "--no-such-flag" in capsys.readouterr().err


def test_no_machine_paths_and_no_private_words():
    """Nothing in the project depends on where it was written."""
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True
    ).stdout.split()
    for name in files or [p.relative_to(ROOT).as_posix() for p in SOURCES]:
        path = ROOT / name
        if not path.is_file() or path.suffix == ".safetensors" or name == "tests/test_structure.py":
            continue
        text = path.read_text(errors="replace")
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/\w", text), name


def test_no_code_is_run_from_text():
    """No eval, exec or pickle on anything: model output and data files are untrusted."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
        assert not imports(path) & {"pickle", "dill", "joblib"}, path
        assert "torch.load(" not in path.read_text(), path


STAGES = ["model", "curate", "sft", "grpo", "generate", "evaluate", "analyze"]


def test_sizes_stay_readable():
    """The seven scripts of the pipeline within 3,500 lines, no file past 600; kernels within 975, their twin included and
    the benchmark not."""
    lines = {p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines()) for p in SOURCES}
    assert sum(lines[f"{name}.py"] for name in STAGES) <= 3500 and max(lines.values()) <= 600, lines
    assert (
        sum(
            n
            for name, n in lines.items()
            if name.startswith("kernels/") and not name.endswith("bench.py")
        )
        <= 975
    )


def test_readme_names_what_exists():
    """Each file of the reading order is there, about as long as the README says (within 15%), and none is missing."""
    listed = dict(
        re.findall(
            r"^\| `([\w/]+\.py)` \| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE
        )
    )
    here = {
        p.relative_to(ROOT).as_posix(): len(p.read_text().splitlines())
        for p in SOURCES
        if p.name != "__init__.py"
    }
    assert set(listed) == set(here)
    assert all(abs(int(n) - here[name]) <= 0.15 * here[name] for name, n in listed.items())
