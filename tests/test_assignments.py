"""assignments/: the table, the starter, grafting, the grader on hostile submissions, the hunt.

The slow tests grade the solution, the starter and all wrong solutions: -m slow.
"""

import ast
import filecmp
import functools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "assignments"
sys.path.append(str(KIT))

import cut  # noqa: E402
import exercises  # noqa: E402
import grade  # noqa: E402
import hunt  # noqa: E402
import package  # noqa: E402
import running  # noqa: E402
import source  # noqa: E402
from wrong import check  # noqa: E402

# ---- the table


@functools.cache
def functions_of(file):
    """{name of a function in a file: its docstring}."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name: ast.get_docstring(node) for node in tree.body if hasattr(node, "name")}


def test_the_table_fits_the_project():
    """100 points in four ladders; every function, test and needed exercise is there, and every test
    of an exercise says what it calculates."""
    assert sum(exercise.points for exercise in exercises.choose()) == 100
    assert len(exercises.BY_NAME) == len(exercises.EXERCISES)
    assert {e.ladder for e in exercises.EXERCISES} == {*exercises.LADDERS, exercises.SPARE}
    for exercise in exercises.EXERCISES:
        assert set(exercise.needs) <= set(exercises.BY_NAME)
        for place in (*exercise.functions, *exercise.twins):
            file, _, name = place.partition(":")
            pieces, _ = source.read((ROOT / file).read_text(encoding="utf-8"))
            assert source.find(pieces, name), place
        for test in exercise.tests:
            file, _, function = test.partition("::")
            assert functions_of(file).get(function.partition("[")[0]), f"{test} without docstring"


def test_exercises_are_chosen_by_name_and_ladder():
    names = [exercise.name for exercise in exercises.choose(["measure", "pack"], ["pass_at_k"])]
    assert names == ["paired_bootstrap", "check_expression", "pack"]
    assert len(exercises.choose(["all"])) == len(exercises.EXERCISES)
    with pytest.raises(ValueError, match="no exercise or ladder 'pakc'"):
        exercises.choose(["pakc"])


def test_wrong_solutions_are_up_to_date():
    """Four or more of each exercise; their right lines are there, and what comes out is Python."""
    counts = Counter(wrong.exercise for wrong in check.WRONG)
    assert min(counts[exercise.name] for exercise in exercises.EXERCISES) >= 4
    assert len({(wrong.exercise, wrong.mistake) for wrong in check.WRONG}) == len(check.WRONG)
    for wrong in (*check.WRONG, *check.others.OTHERS):
        for file, text in check.submission(wrong).items():
            ast.parse(text)
            assert text != (ROOT / file).read_text(encoding="utf-8")
        assert set(wrong.costs) <= set(exercises.BY_NAME[wrong.exercise].parts)


# ---- the starter


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """(folder, {file: lines that are gone}) with all exercises cut."""
    out = tmp_path_factory.mktemp("cut") / "starter"
    return out, cut.cut(ROOT, out, exercises.EXERCISES)


def test_the_starter_leaks_no_line(starter):
    """No line that was removed is anywhere in the starter, short ones and those of other code aside."""
    out, gone = starter
    elsewhere = {line.strip() for p in out.rglob("*") for line in lines_of(p)}
    removed = {line.strip() for lines in gone.values() for line in lines}
    telling = {line for line in removed if len(line) > 30 and not line.startswith("#")}
    assert len(telling) > 150
    assert telling & elsewhere - SHARED == set()


# Lines that other code has, too: they say nothing of the exercise.
SHARED = {
    "except (ValueError, ArithmeticError):",
    "for i, ids in enumerate(sequences):",
    'history = row.get("history") or []',
    "lengths = [len(ids) for ids in sequences]",
    "log_ratio = logp - tokens.old_logp",
    "ratio = (logp - tokens.old_logp).exp()",  # README.md, how to add an objective
    "row, own = rows_inside(target, z.shape[1])",
    "temperature, softcap = head.fold(temperature)",
    # two Triton kernels make their logits alike
    "tokens = tl.minimum(v, n_vocab - 1)",
    "z = _tile_logits(hidden, weight, rows, tokens, width, inverse, CAP, BLOCK_D)  # (R, C)",
}


def lines_of(path):
    """The lines of a file of text, or of a notebook's cells."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [line for cell in cells for line in "".join(cell["source"]).split("\n")]
    if path.is_file() and path.suffix in {".py", ".md", ".sh", ".txt", ".html", ".jsonl"}:
        return path.read_text(encoding="utf-8").split("\n")
    return []


def test_the_starter_keeps_signatures_and_docstrings(starter):
    out, _ = starter
    for exercise in exercises.EXERCISES:
        for place in exercise.functions:
            file, _, name = place.partition(":")
            nodes = []
            for root in (ROOT, out):
                pieces, _ = source.read((root / file).read_text(encoding="utf-8"))
                nodes.append(source.find(pieces, name).node)
            whole, empty = nodes
            assert ast.get_docstring(whole) == ast.get_docstring(empty)
            assert ast.dump(whole.args) == ast.dump(empty.args)
            last = ast.unparse(empty.body[-1])
            assert last == f"raise NotImplementedError('exercise: {exercise.name}')"
            assert len(empty.body) == 1 + bool(ast.get_docstring(whole))


def test_the_starter_is_the_same_each_time_and_without_answers(starter, tmp_path):
    out, _ = starter
    cut.cut(ROOT, tmp_path / "again", exercises.EXERCISES)
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    again = [str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*")]
    assert set(names) <= set(again)
    _, differ, missing = filecmp.cmpfiles(out, tmp_path / "again", names, shallow=False)
    assert (differ, missing) == ([], [])
    for part in ("tests/mutants", "assignments/wrong", "assignments/answers", ".git/"):
        assert not [name for name in names if part in name], part
    said = (out / "README.md").read_text(encoding="utf-8")
    assert not [name for name in cut.NOT_FOR_STUDENTS if name in said] and "--adv-std" in said
    for part in ("cut", "exercises", "grade", "running", "source"):  # what grade.py imports
        assert f"assignments/{part}.py" in names
    with pytest.raises(FileExistsError, match="not empty"):
        cut.cut(ROOT, out, exercises.EXERCISES)


def test_only_what_was_chosen_is_cut(tmp_path):
    cut.cut(ROOT, tmp_path / "s", exercises.choose(["pack"]))
    changed = [
        str(p.relative_to(ROOT))
        for p in ROOT.glob("*/*.py")
        if (tmp_path / "s" / p.relative_to(ROOT)).is_file()
        and p.read_bytes() != (tmp_path / "s" / p.relative_to(ROOT)).read_bytes()
    ]
    assert changed == ["engine/packing.py"]


def test_the_starter_imports(starter):
    """All scripts and rooms, and one --help."""
    names = "curate sft grpo generate evaluate analyze engine.decoder kernels grading.answers"
    code = "".join(f"import {name}; " for name in names.split())
    code += "import sys; sys.argv = ['x', '--help']; evaluate.settings.cli(None, evaluate.Config)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=starter[0], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--resamples" in done.stdout, done.stderr


# ---- grafting

SOLUTION = '''"""A module."""

import math

LIMIT = 3


def helper(x):
    return x + 1


@register("f")
def f(x):
    """Docstring."""
    return helper(x)


class Box:
    size = 1

    def area(self, x):
        return x

    def other(self):
        return 2
'''


def grafted(submission, *names):
    """The module that comes out, with `register` noted."""
    text = source.graft(SOLUTION, submission, names or ["f"])
    space = {"register": lambda name: lambda function: function}
    exec(compile(text, "grafted", "exec"), space)
    return space, text


def test_own_helpers_and_imports_count_and_other_functions_do_not():
    """mine and statistics are the submission's; helper, LIMIT and other are the solution's."""
    space, text = grafted("""
import statistics as stats
from fractions import Fraction
LIMIT = 99
SCALE = Fraction(2)
def unused(x): return x
def helper(x): return 1000
def mine(x):
    return stats.fmean([deeper(x)]) * SCALE
def deeper(x):
    return helper(x) + LIMIT
def f(x): return mine(x)
""")
    assert space["f"](1) == 10  # (1 + 1 + 3) · 2
    assert "unused" not in text and "1000" not in text and '@register("f")\ndef f(x)' in text


def test_a_method_is_grafted_with_its_own_helpers():
    space, text = grafted(
        """
class Box:
    size = 50
    def area(self, x):
        return self.twice(x) + self.other() + self.size
    def twice(self, x):
        return 2 * x
    def other(self):
        return 1000
""",
        "Box.area",
    )
    assert space["Box"]().area(5) == 13  # 10 + 2 + 1
    assert "1000" not in text


@pytest.mark.parametrize(
    "broken",
    ["def g(x:\n    return\n", "def g(x):\n  a = (1\n", "def g(x):\nreturn 1\n", "x = = 1\n"],
)
def test_a_syntax_error_elsewhere_costs_nothing(broken):
    space, _ = grafted(broken + "\ndef f(x):\n    return 7\n\n" + broken)
    assert space["f"](0) == 7


def test_what_cannot_be_grafted_is_said():
    for text, message in (
        ("def g(x): return 1", "there is no function f in your file"),
        ("def f(x:\n    return 1\n", r"f: SyntaxError: .* \(line 1\)"),
        ("def f(x):\n    a = = 1\n", r"f: SyntaxError: .* \(line 2\)"),
        ("f = 3", "f is no function"),
        ("f\x00", "null"),
    ):
        with pytest.raises(source.Missing, match=message):
            grafted(text)
    with pytest.raises(source.Missing, match=r"area: SyntaxError: .* \(line 3\)"):
        grafted("class Box:\n    def area(self):\n        a = = 1\n", "Box.area")


def test_files_are_found_where_students_put_them(tmp_path):
    """In place, in a folder, alone; not a namesake of another room."""
    for name in ("a/engine/packing.py", "b/project/engine/packing.py", "c/packing.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
        found = grade.locate(tmp_path / name[0], "engine/packing.py")
        assert found == tmp_path / name
    (tmp_path / "d" / "data").mkdir(parents=True)
    (tmp_path / "d" / "data" / "format.py").write_text("")
    assert grade.locate(tmp_path / "d", "engine/format.py") is None


# ---- messages


@pytest.mark.parametrize(
    "text, message",
    [
        ("assert 0.5 == 0.25 ± 1e-06\n  more", "expected 0.25, obtained 0.5"),
        (
            "assert [1.23456789, 2] == approx([1 ± 1.0e-06, 2 ± 2.0e-06])",
            "expected [1, 2], obtained [1.23457, 2]",
        ),
        ("assert (1 == 2)", "expected 2, obtained 1"),
        ("assert (f(1), 2) == approx((3 ± 1e-6, 4))", "expected (3, 4), obtained (f(1), 2)"),
        ("assert 'a == b' == 'it is c'", "expected 'it is c', obtained 'a == b'"),
        ("assert True is False", "expected False, obtained True"),
        ("assert 24 > 30", "expected > 30, obtained 24"),
        ("f(2): expected 3, obtained 4\nassert 4 is 3", "f(2): expected 3, obtained 4"),
        ("assert False", "assert False"),
    ],
)
def test_comparisons_in_one_line(text, message):
    assert running.comparison(text) == message


def test_long_values_are_shown_where_they_differ():
    message = running.comparison(f"assert '{'x' * 900}ab' == '{'x' * 900}cd'")
    assert "ab'" in message and "cd'" in message and len(message) <= running.LONGEST


def test_what_a_process_left_is_understood():
    """Two tests were to run; one passed, the other never ended. A line cut off is ignored."""
    events = [{"collected": {"t::a": "by hand", "t::b": ""}}, {"start": "t::a"}]
    events += [{"name": "t::a", "passed": True, "message": ""}, {"start": "t::b"}]
    text = "\n".join(map(json.dumps, events)) + '\n{"name": "t::'
    outcome = running.outcome_of(text, "stopped after 3 seconds")
    assert [test.passed for test in outcome.tests] == [True, False]
    assert outcome.tests[1].message == "stopped after 3 seconds in b"
    assert running.outcome_of("", "").problem == "the process ended before its tests were over"


def test_a_part_needs_all_of_its_tests():
    """Two tests belong to the part. Points only if both are there and passed."""
    a, b = (running.Test(name, True) for name in ("t.py::a", "t.py::b[x]"))
    wanted = ("t.py::a", "t.py::b")
    assert grade.judge("p", 2, wanted, [a, b], "").score == 2
    for tests in ([], [a], [a, b._replace(passed=False, message="no")]):
        part = grade.judge("p", 2, wanted, tests, "it ended")
        assert (part.score, len(part.lines)) == (0, 1), tests


# ---- grading

# One submission with something wrong in most exercises.
HOSTILE = {
    "evaluate.py": '''
import math, os, random, sys

def pass_at_k(n, c, k):
    raise KeyboardInterrupt

def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    os._exit(0)
''',
    "grading/formulas.py": '''
def check_expression(text, nums, target, n_used=None, left_to_right=False)
    return True

def expression_value(text, left_to_right=False):
    return None
''',
    "engine/training.py": '''
import sys
def lr_at(step, n_steps, peak, warmup, schedule="cosine", hold=0.0, floor=0.0):
    sys.exit("enough")
''',
    "engine/packing.py": '''
import shutil
from pathlib import Path
def pack(sequences, masks=None, device="cpu"):
    shutil.rmtree(Path.cwd(), ignore_errors=True)
    raise IndexError("nothing is left")

def fill_bins(lengths, capacity):
    print("x" * 10_000_000)
    return best_fit(lengths, capacity, math.inf)

def best_fit(lengths, capacity, least):
    bins = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [b for b in bins if sum(lengths[j] for j in b) + lengths[i] <= capacity]
        if fitting:
            max(fitting, key=lambda b: sum(lengths[j] for j in b)).append(i)
        else:
            bins.append([i])
    return sorted(sorted(b) for b in bins)
''',
    "engine/sampling.py": '''
import torch
def keep_likely(logits, top_k, top_p):
    return [0] * 10**12
''',
    "grpo.py": '''
import torch
def kl_estimate(logp, ref_logp, kind):
    d = ref_logp - logp
    if kind == "k2":
        return d**2
    return -d if kind == "k1" else torch.expm1(d) - d

def token_weights(row, n_rows, normalise, max_tokens):
    if normalise == "sequence":
        while True:
            pass
    share = max(1, len(row)) if normalise == "token" else n_rows * max_tokens
    return torch.full(row.shape, 1 / share)
''',
    "tests/test_grpo.py": "def test_kl_estimates_by_hand(): pass\n",
    "conftest.py": "import os; os._exit(0)\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Gradescope's results of HOSTILE: {"exercise: part": entry}."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, text in HOSTILE.items():
        (folder / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "s" / name).write_text(text)
    names = "pass_at_k,paired_bootstrap,check_expression,lr_at,pack,fill_bins,keep_likely"
    names += ",clip,kl_estimate,token_weights"
    command = [sys.executable, KIT / "grade.py", ROOT, folder / "s", folder / "r.json"]
    done = subprocess.run(
        [*command, "--only", names, "--seconds", "4", "--memory", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    assert len(done.stdout) < 20_000
    return {entry["name"]: entry for entry in results["tests"]} | {"score": results["score"]}


@pytest.mark.parametrize(
    "name, message",
    [
        ("pass_at_k: estimator", "the process ended before its tests were over in test_"),
        ("paired_bootstrap: interval", "the process ended before its tests were over in test_"),
        ("check_expression: value", r"SyntaxError: .* \(line 2\)"),
        ("lr_at: warm-up and cosine", "SystemExit: enough"),
        ("pack: one row", "IndexError: nothing is left"),
        ("keep_likely: top-k", "MemoryError"),
        ("clip: value and gradient", "there is no function clipped_objective in your file"),
        ("kl_estimate: k2", r"expected \[0.240227, 0.240227\], obtained \[0.480453, 0.480453\]"),
        ("token_weights: sequence", "stopped after .* of processor time"),
    ],
)
def test_what_goes_wrong_costs_its_own_points_and_is_said(hostile, name, message):
    entry = hostile[name]
    assert entry["score"] == 0 and entry["status"] == "failed"
    assert any(re.search(message, line) for line in entry["output"].split("\n")), entry


def test_what_is_right_beside_it_has_its_points(hostile):
    """fill_bins prints 10 MB a call and has a helper; k1 and k3 beside a wrong k2; two normalisers
    beside one that hangs. The edited test and the conftest.py do nothing."""
    right = ("fill_bins: best fit, longest first", "fill_bins: every length", "kl_estimate: k1")
    right += ("kl_estimate: k3", "token_weights: token", "token_weights: constant")
    for name in right:
        assert hostile[name]["score"] == hostile[name]["max_score"] > 0, hostile[name]
    assert hostile["score"] == 7 + 1 + 2 + 1 + 1
    assert "by hand: p = 1/2, reference 1/4" in hostile["kl_estimate: k2"]["output"]


def test_a_new_python_gives_what_a_fork_gives(starter, tmp_path):
    """The way of systems without a fork: the starter's pass_at_k is not written."""
    (tests,) = (exercises.BY_NAME["pass_at_k"].tests[:1],)
    for folder, passed in ((starter[0], False), (ROOT, True)):
        report = tmp_path / f"{passed}.jsonl"
        assert running.launch(folder, tests, report, running.Limits(60)) == ""
        (test,) = running.outcome_of(report.read_text(), "").tests
        assert test.passed is passed
        assert test.message == ("" if passed else "exercise: pass_at_k: not written yet")


def test_hidden_tests_are_a_part_of_their_own(tmp_path, monkeypatch):
    """30% of 4 points; shown to students only after the deadline."""
    hidden, copy = tmp_path / "hidden", tmp_path / "copy"
    hidden.mkdir()
    text = "from evaluate import pass_at_k\ndef test_more():\n    assert pass_at_k(2, 1, 1) == 1\n"
    (hidden / "test_pass_at_k.py").write_text(text)
    cut.copy_project(ROOT, copy, cut.NOT_FOR_STUDENTS)
    monkeypatch.setattr(running, "HAS_FORK", False)  # no fork of a process that runs tests
    graded = grade.grade_exercise(
        exercises.BY_NAME["pass_at_k"], copy, ROOT, running.Limits(60), hidden
    )
    entries = grade.results_of([graded], 1.0)["tests"]
    assert [(e["score"], e["max_score"]) for e in entries] == [(2.1, 2.1), (0.7, 0.7), (0, 1.2)]
    assert [e["visibility"] for e in entries] == ["visible", "visible", "after_published"]
    assert entries[2]["output"] == "test_more: expected 1, obtained 0.5"
    other = exercises.BY_NAME["pack"]
    assert grade.parts_of(other, hidden) == other.parts


def test_a_folder_of_submissions(tmp_path, monkeypatch):
    """Two students, one of whom handed in nothing: a file for each, and a table."""
    monkeypatch.setattr(running, "HAS_FORK", False)
    (tmp_path / "in" / "ada").mkdir(parents=True)
    (tmp_path / "in" / "bob").mkdir()
    (tmp_path / "in" / "ada" / "evaluate.py").write_bytes((ROOT / "evaluate.py").read_bytes())
    out = tmp_path / "out"
    grade.main([str(ROOT), str(tmp_path / "in"), str(out), "--each", "--only", "pass_at_k"])
    table = (out / "grades.csv").read_text(encoding="utf-8").splitlines()
    assert table == ["submission,pass_at_k,total", "ada,4,4", "bob,0,0"]
    bob = json.loads((out / "bob.json").read_text(encoding="utf-8"))
    assert bob["tests"][0]["output"] == "evaluate.py is not in your submission"


def test_files_for_gradescope_and_classroom(starter, tmp_path):
    """The zip holds what Gradescope looks for; the workflow has a step for each exercise."""
    package.main(["gradescope", str(tmp_path / "a.zip"), "--only", "pack"])
    with package.zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert archive.read("solution/assignments/arguments.txt") == b"--only\npack\n"
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
    assert {"setup.sh", "run_autograder", "solution/assignments/grade.py"} <= set(names)
    assert not [name for name in names if "mutants" in name or "wrong" in name]
    text = package.workflow(exercises.EXERCISES)
    for exercise in exercises.EXERCISES:
        assert text.count(f"grade.py --here {exercise.name}\n") == 1


# ---- find the bug


def test_the_hunt_plants_what_it_says(tmp_path):
    """Three files differ from the project, each in the lines of its bug; the sheet has the tests."""
    bugs = hunt.bugs_of(7)
    assert bugs == hunt.bugs_of(7) != hunt.bugs_of(8)
    hunt.plant(bugs, tmp_path / "h")
    for bug in bugs:
        before = (ROOT / bug.file).read_text(encoding="utf-8").split("\n")
        after = (tmp_path / "h" / bug.file).read_text(encoding="utf-8").split("\n")
        changed = [i for i, (a, b) in enumerate(zip(before, after), 1) if a != b]
        assert changed and set(changed) <= set(bug.lines) and len(before) == len(after)
    sheet = (tmp_path / "h" / "hunt.md").read_text(encoding="utf-8")
    assert all(bug.test in sheet and bug.mistake not in sheet for bug in bugs)
    assert not (tmp_path / "h" / "tests" / "mutants").exists()
    of_one_file = hunt.bugs_of(1, 4, "grpo.py")
    assert [bug.file for bug in of_one_file] == ["grpo.py"] * 4
    assert len({bug.lines for bug in of_one_file}) == 4


def test_the_hunt_grades_file_and_line():
    bugs = hunt.bugs_of(7)
    answers = [
        f'1,{bugs[0].file},{bugs[0].lines.start},"the vote, it is turned round"',
        f"2,./{bugs[1].file},1,no idea",
        "nonsense",
    ]
    graded = hunt.grade(bugs, answers)
    assert [entry["points"] for entry in graded] == [3, 1, 0]
    assert graded[0]["sentence"] == "the vote, it is turned round"
    assert graded[0]["mistake"] == bugs[0].mistake


# ---- everything: minutes


@pytest.mark.slow
def test_the_solution_has_all_points_within_a_minute_and_a_gigabyte(tmp_path):
    """100 of 100; at most 60 processor seconds and 1 GB of memory for the largest process."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, KIT / "grade.py", ROOT, ROOT, tmp_path / "r.json"]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    lost = [entry["name"] for entry in results["tests"] if entry["status"] == "failed"]
    assert (results["score"], lost) == (100, [])
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    assert after.ru_maxrss < 2**20


@pytest.mark.slow
def test_the_starter_has_no_points_and_says_what_is_to_write(starter, tmp_path):
    command = [sys.executable, KIT / "grade.py", ROOT, starter[0], tmp_path / "r.json"]
    subprocess.run([*command, "--only", "all"], check=True, capture_output=True)
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert results["score"] == 0
    for entry in results["tests"]:
        name = entry["name"].partition(":")[0]
        assert entry["output"] == f"exercise: {name}: not written yet"


@pytest.mark.slow
def test_each_exercise_can_be_solved_alone(starter):
    """The functions of one exercise, and of those it names as needed, are put into the starter."""
    out, _ = starter
    for exercise in exercises.EXERCISES:
        solved = [exercise, *(exercises.BY_NAME[name] for name in exercise.needs)]
        files = {file: (out / file).read_bytes() for e in solved for file in e.files}
        for one in solved:
            for place in one.functions:
                file, _, name = place.partition(":")
                text = (out / file).read_text(encoding="utf-8")
                whole = (ROOT / file).read_text(encoding="utf-8")
                (out / file).write_text(source.graft(text, whole, [name]), encoding="utf-8")
        command = [sys.executable, "assignments/grade.py", "--here", exercise.name]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        for file, content in files.items():
            (out / file).write_bytes(content)


@pytest.mark.slow
def test_every_wrong_solution_is_rejected_and_told_why():
    """All of them; nine of ten by a line with what was expected and what was obtained."""
    code = "import sys; sys.path.append(sys.argv[1]); from wrong import check; check.main([])"
    done = subprocess.run(
        [sys.executable, "-c", code, KIT], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.strip().split("\n")
    signs = ("SURVIVED", "should cost", "refused: ")
    assert [line for line in lines if any(sign in line for sign in signs)] == []
    n, rejected, told = (int(word) for word in last.split() if word.isdigit())
    assert rejected == n >= 60 and told >= 0.9 * n


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_tests_of_a_hunt_fail(tmp_path, seed):
    bugs = hunt.bugs_of(seed)
    hunt.plant(bugs, tmp_path / "h")
    for bug in bugs:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, f"tests/{bug.test}"], cwd=tmp_path / "h", capture_output=True, text=True
        )
        assert done.returncode == 1, done.stdout
