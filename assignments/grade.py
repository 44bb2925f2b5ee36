"""Grade exercises: one at a time, from a submission into a clean copy of the solution.

    python assignments/grade.py                                your own copy, all its exercises
    python assignments/grade.py --here pack kl_estimate        your own copy, these
    python assignments/grade.py SOLUTION SUBMISSION results.json
    python assignments/grade.py SOLUTION SUBMISSIONS results --each

The third grades a folder that a student handed in: a whole project, some of its files, or the files
without their folders. Of each file only the functions of the exercise count, with the helpers and
imports that they need; other functions, edited tests and other files do not. Each exercise runs in
a process of its own with limits, in a copy of its own, so that what hangs, crashes, ends Python or
deletes files costs its own points. results.json is what Gradescope reads. The last grades every
folder in SUBMISSIONS, into results/NAME.json and results/grades.csv.

--hidden FOLDER: more tests for the solution's copy, FOLDER/test_EXERCISE.py. They are a part of the
exercise, with --hidden-share of its points, and students see its messages only after the deadline.
"""

import argparse
import csv
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cut
import exercises
import running
import source

ROOT = Path(__file__).resolve().parent.parent
MOST_MESSAGES = 3  # of a part
HIDDEN = "hidden tests"


class Part(NamedTuple):
    """What came out of one part of an exercise."""

    name: str
    score: float
    points: float
    lines: list  # what the student reads


class Grade(NamedTuple):
    """What came out of one exercise."""

    exercise: exercises.Exercise
    parts: list

    @property
    def score(self):
        return sum(part.score for part in self.parts)


# ---- one exercise


def parts_of(exercise, hidden=None, share=0.3):
    """{name: (points, tests)} of an exercise, with a part for its hidden tests if there are any."""
    if hidden is None or not (Path(hidden) / f"test_{exercise.name}.py").is_file():
        return exercise.parts
    parts = {
        name: (points * (1 - share), tests) for name, (points, tests) in exercise.parts.items()
    }
    return parts | {HIDDEN: (exercise.points * share, (hidden_file(exercise),))}


def hidden_file(exercise):
    return f"tests/test_hidden_{exercise.name}.py"


def grade_exercise(exercise, solution, submission, limits, hidden=None, share=0.3):
    """Put one exercise of a submission into a copy of the solution and run its tests -> Grade."""
    parts = parts_of(exercise, hidden, share)
    with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "project"
        shutil.copytree(solution, copy)
        if HIDDEN in parts:
            shutil.copy(Path(hidden) / f"test_{exercise.name}.py", copy / hidden_file(exercise))
        try:
            graft_into(copy, submission, exercise)
        except source.Missing as missing:
            return failed(exercise, parts, str(missing))
        return grade_copy(exercise, parts, copy, limits)


def graft_into(copy, submission, exercise):
    """Write the submission's functions into the copy's files."""
    functions = {}
    for place in exercise.functions:
        file, _, name = place.partition(":")
        functions.setdefault(file, []).append(name)
    for file, names in functions.items():
        handed_in = locate(submission, file)
        if handed_in is None:
            raise source.Missing(f"{file} is not in your submission")
        theirs = handed_in.read_bytes().decode("utf-8-sig", errors="replace")
        theirs = theirs.replace("\r\n", "\n")
        path = copy / file
        text = source.graft(path.read_text(encoding="utf-8"), theirs, names)
        path.write_text(text, encoding="utf-8", newline="\n")


def locate(submission, file):
    """The file in a submission: in its place, further down, or alone -> Path or None."""
    submission = Path(submission)
    if (submission / file).is_file():
        return submission / file
    name = file.rpartition("/")[2]
    found = sorted(path for path in submission.rglob(name) if path.is_file())
    nested = [path for path in found if path.as_posix().endswith("/" + file)]
    # reference.py may come alone; "data/format.py" is another file.
    alone = [path for path in found if path.parent.name not in ROOMS]
    return (nested or alone or [None])[0]


ROOMS = {
    "engine",
    "grading",
    "kernels",
    "data",
    "curation",
    "report",
    "atlas",
    "tests",
    "assignments",
}


def grade_copy(exercise, parts, folder, limits):
    """Run an exercise's tests in a folder -> Grade.

    If the process did not come to its end, the parts that it did not decide run by themselves.
    """
    tests = [test for _, tests in parts.values() for test in tests]
    outcome = running.run(folder, tests, limits)
    found = []
    for name, (points, wanted) in parts.items():
        part = [test for test in outcome.tests if running.belongs(test.name, wanted)]
        problem = outcome.problem
        undecided = problem and any(test.message == problem for test in part)
        if undecided and len(parts) > 1:
            again = running.run(folder, wanted, limits._replace(seconds=limits.seconds / 3))
            part, problem = again.tests, again.problem
        found.append(judge(name, points, wanted, part, problem))
    return Grade(exercise, found)


def judge(name, points, wanted, tests, problem):
    """A Part from its tests. Every test that the part names must be there and pass."""
    lost = [test for test in tests if not test.passed]
    are_there = all(any(running.belongs(t.name, [one]) for t in tests) for one in wanted)
    if are_there and not lost:
        return Part(name, points, points, [])
    unwritten = {test.message for test in lost if test.message.startswith("exercise: ")}
    if unwritten:
        return Part(name, 0, points, sorted(unwritten))
    lines = []
    for test in lost[:MOST_MESSAGES]:
        lines.append(f"{test.name.partition('::')[2]}: {test.message}")
    if len(lost) > MOST_MESSAGES:
        lines.append(f"and {len(lost) - MOST_MESSAGES} tests more")
    hints = dict.fromkeys(test.hint for test in lost[:MOST_MESSAGES] if test.hint)
    lines += [f"by hand: {hint}" for hint in hints]
    if not lost:
        lines.append(problem or "its tests are not there")
    return Part(name, 0, points, lines)


def failed(exercise, parts, message):
    """The Grade of an exercise whose tests could not begin."""
    return Grade(
        exercise, [Part(name, 0, points, [message]) for name, (points, _) in parts.items()]
    )


# ---- a submission


def grade(chosen, solution, submission, limits=None, hidden=None, share=0.3):
    """Grade the chosen exercises of a submission -> a list of Grades."""
    limits = limits or running.Limits()
    running.preload()
    if not Path(submission).is_dir():
        raise ValueError(f"no folder {submission}")
    with tempfile.TemporaryDirectory(prefix="solution-", ignore_cleanup_errors=True) as folder:
        clean = Path(folder) / "solution"
        cut.copy_project(solution, clean, cut.NOT_FOR_STUDENTS)
        return [
            grade_exercise(exercise, clean, submission, limits, hidden, share)
            for exercise in chosen
        ]


def grade_here(chosen, limits=None):
    """Run the tests of the chosen exercises in this copy of the project -> a list of Grades."""
    running.preload()
    limits = limits or running.Limits()
    return [grade_copy(exercise, exercise.parts, ROOT, limits) for exercise in chosen]


def rounded(number):
    return round(number, 2)


def results_of(grades, seconds):
    """Grades as Gradescope's results.json."""
    tests = []
    for number, grade in enumerate(grades, 1):
        for place, part in enumerate(grade.parts, 1):
            tests.append(
                {
                    "name": f"{grade.exercise.name}: {part.name}",
                    "number": f"{number}.{place}",
                    "score": rounded(part.score),
                    "max_score": rounded(part.points),
                    "status": "passed" if part.score == part.points else "failed",
                    "output": "\n".join(part.lines),
                    "visibility": "after_published" if part.name == HIDDEN else "visible",
                }
            )
    return {
        "score": rounded(sum(grade.score for grade in grades)),
        "execution_time": round(seconds),
        "output": "\n".join(summary(grades)),
        "output_format": "text",
        "tests": tests,
    }


def summary(grades):
    """A line per exercise, and the sum."""
    lines = []
    for grade in grades:
        parts = " · ".join(f"{p.name} {p.score:g}/{p.points:g}" for p in grade.parts)
        total = sum(part.points for part in grade.parts)
        lines.append(f"{grade.exercise.name:<22}{grade.score:>5g} / {total:<4g} {parts}")
    score = math.fsum(grade.score for grade in grades)
    points = math.fsum(part.points for grade in grades for part in grade.parts)
    return [*lines, f"{'total':<22}{score:>5g} / {points:g}"]


def show(grades):
    """Print what was found, the messages first."""
    for grade in grades:
        for part in grade.parts:
            if part.lines:
                print(f"\n{grade.exercise.name}: {part.name}")
            for line in part.lines:
                print(f"    {line}")
    print()
    print("\n".join(summary(grades)))


def grade_each(chosen, solution, submissions, results, **how):
    """Grade every folder in `submissions` into the folder `results`, with a table of all."""
    results = Path(results)
    results.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in sorted(path for path in Path(submissions).iterdir() if path.is_dir()):
        began = time.perf_counter()
        grades = grade(chosen, solution, folder, **how)
        write(results / f"{folder.name}.json", results_of(grades, time.perf_counter() - began))
        rows.append([folder.name, *(rounded(g.score) for g in grades)])
        rows[-1].append(rounded(sum(g.score for g in grades)))
        print(f"{folder.name:<22}{rows[-1][-1]:>6g}")
    with open(results / "grades.csv", "w", encoding="utf-8", newline="") as file:
        head = ["submission", *(exercise.name for exercise in chosen), "total"]
        csv.writer(file).writerows([head, *rows])


def write(path, content):
    text = json.dumps(content, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def chosen_here():
    """Names of the exercises that this copy was cut for."""
    file = Path(__file__).resolve().parent / "chosen.txt"
    return tuple(file.read_text(encoding="utf-8").split()) if file.is_file() else ()


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="*", help="SOLUTION SUBMISSION [RESULTS]")
    parser.add_argument("--here", nargs="*", metavar="NAME", help="exercises of this copy")
    parser.add_argument("--each", action="store_true", help="SUBMISSION is a folder of them")
    parser.add_argument("--only", type=cut.names, default=(), help="exercises or ladders, or all")
    parser.add_argument("--without", type=cut.names, default=(), help="exercises or ladders")
    parser.add_argument("--hidden", help="folder of hidden tests")
    parser.add_argument("--hidden-share", type=float, default=0.3, help="of an exercise's points")
    parser.add_argument("--seconds", type=float, default=20, help="an exercise's processor time")
    parser.add_argument("--memory", type=float, default=2, help="GB that an exercise may take")
    options = parser.parse_args(arguments)
    limits = running.Limits(options.seconds, options.memory)
    try:
        if len(options.places) < 2:
            if options.places:
                parser.error("name a solution and a submission, or use --here NAME")
            chosen = exercises.choose(options.here or options.only or chosen_here())
            grades = grade_here(chosen, limits)
            show(grades)
            is_all = all(part.score == part.points for g in grades for part in g.parts)
            sys.exit(0 if is_all else 1)
        began = time.perf_counter()
        chosen = exercises.choose(options.only, options.without)
        how = {"limits": limits, "hidden": options.hidden, "share": options.hidden_share}
        solution, submission, *results = options.places
        if options.each:
            grade_each(chosen, solution, submission, *(results or ["results"]), **how)
            return
        grades = grade(chosen, solution, submission, **how)
        show(grades)
        if results:
            write(results[0], results_of(grades, time.perf_counter() - began))
    except (ValueError, OSError) as error:
        sys.exit(f"grade.py: {error}")


if __name__ == "__main__":
    main()
