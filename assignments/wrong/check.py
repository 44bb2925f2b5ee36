"""Grade the wrong solutions: each must lose points, and be told what was expected.

python assignments/wrong/check.py                 all
python assignments/wrong/check.py pack measure    of these exercises and ladders
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cut  # noqa: E402
import exercises  # noqa: E402
import grade  # noqa: E402
import running  # noqa: E402
import source  # noqa: E402

from wrong import batch, measure, others, reinforce, spare, tokens  # noqa: E402

WRONG = (*measure.WRONG, *batch.WRONG, *tokens.WRONG, *reinforce.WRONG, *spare.WRONG)
LIMITS = running.Limits(seconds=20)


def submission(wrong, root=cut.ROOT):
    """{file: text} that a student with this mistake hands in. ValueError if it is out of date."""
    exercise = exercises.BY_NAME[wrong.exercise]
    (file,) = exercise.files
    text = (Path(root) / file).read_text(encoding="utf-8")
    for right, mistake in wrong.edits:
        text = edited(text, right, mistake, exercise)
    for name, code in wrong.code.items():
        pieces, _ = source.read(text)
        start, _, end = source.function_lines(source.find(pieces, name))
        lines = text.split("\n")
        lines[start:end] = code.rstrip("\n").split("\n")
        text = "\n".join(lines)
    return {file: text}


def edited(text, right, mistake, exercise):
    """The text of the exercise's file with lines replaced in one of its functions."""
    pieces, _ = source.read(text)
    lines = text.split("\n")
    for place in exercise.functions:
        piece = source.find(pieces, place.partition(":")[2])
        part = "\n".join(lines[piece.first : piece.end])
        try:
            new = source.replaced(part, right, mistake, place)
        except ValueError:
            continue
        return "\n".join([*lines[: piece.first], new, *lines[piece.end :]])
    raise ValueError(f"{exercise.name}: no function reads {right!r}; the list is out of date")


def grade_wrong(wrong, solution):
    """The Grade of a wrong solution's exercise."""
    with tempfile.TemporaryDirectory(prefix="wrong-") as folder:
        for file, text in submission(wrong).items():
            path = Path(folder) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return grade.grade_exercise(exercises.BY_NAME[wrong.exercise], solution, folder, LIMITS)


def verdicts(chosen):
    """Yield (wrong solution, parts that it lost, whether a message has expected and obtained)."""
    running.preload()
    with tempfile.TemporaryDirectory(prefix="solution-") as folder:
        cut.copy_project(cut.ROOT, Path(folder) / "s", cut.NOT_FOR_STUDENTS)
        for wrong in chosen:
            graded = grade_wrong(wrong, Path(folder) / "s")
            lost = [part for part in graded.parts if part.score < part.points]
            yield wrong, lost


def refused():
    """Lines on right solutions that lose points."""
    return [
        f"{other.exercise}, {other.mistake}: refused: {part.lines[0]}"
        for other, lost in verdicts(others.OTHERS)
        for part in lost
    ]


def says_what_was_expected(part):
    return any("expected " in line and "obtained " in line for line in part.lines)


def main(names):
    of_these = {exercise.name for exercise in exercises.choose(names or ["all"])}
    chosen = [wrong for wrong in WRONG if wrong.exercise in of_these]
    n_rejected = n_told = 0
    for wrong, lost in verdicts(chosen):
        told = bool(lost) and all(says_what_was_expected(part) for part in lost)
        n_rejected += bool(lost)
        n_told += told
        note = "" if lost else "  SURVIVED"
        if wrong.costs and {part.name for part in lost} != set(wrong.costs):
            note += f"  should cost {', '.join(wrong.costs)}"
        print(f"{wrong.exercise}: {wrong.mistake}{note}")
        for part in lost:
            print(f"    {part.name}: {part.lines[0]}")
    if not names:
        print("\n".join(refused()))
    print(f"{len(chosen)} wrong solutions, {n_rejected} rejected, {n_told} told what was expected")


if __name__ == "__main__":
    main(sys.argv[1:])
