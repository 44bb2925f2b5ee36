"""The starter: this project without the bodies of the exercises' functions, as students get it.

    python assignments/cut.py OUT                        the exercises of the four ladders
    python assignments/cut.py OUT --only pack,clip       these; a ladder's name is all of it
    python assignments/cut.py OUT --without measure      all but these
    python assignments/cut.py --list                     names, points, minutes

Of each function the signature and the docstring stay; the body raises NotImplementedError and
names the exercise. What shows an answer is left out or emptied: the mutants, the wrong solutions,
the lecturer's pages, other code that computes the same, the history of git. The same project gives
the same starter to the byte. Students run

    python assignments/grade.py                          all exercises
    python assignments/grade.py --here pack clip         these
"""

import argparse
import shutil
import sys
from pathlib import Path

import exercises
import source

ROOT = Path(__file__).resolve().parent.parent

# Left out wherever they are.
NOT_COPIED = {
    ".git",
    ".ci",
    ".venv",
    "out",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".vscode",
}
# Left out of the starter: they show answers, or are of no use without them.
NOT_FOR_STUDENTS = {
    "tests/mutants",
    "tests/test_mutants.py",
    "tests/test_assignments.py",
    "tests/bench_trl.py",
    "assignments/README.md",
    "assignments/answers.md",
    "assignments/wrong",
    "assignments/hunt.py",
    "assignments/gradescope",
    "assignments/hidden",
    "assignments/package.py",
}

BODIES = {
    "raise": 'raise NotImplementedError("exercise: {names}")',
    "skip": '__import__("pytest").skip("the starter leaves this oracle out")',
}


def copy_project(root, out, left_out=()):
    """Copy the project's files to the folder `out`, which must be new or empty."""
    root, out = Path(root), Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; choose another folder")

    def ignored(folder, names):
        places = {name: (Path(folder) / name) for name in names}
        return {
            name
            for name, place in places.items()
            if name in NOT_COPIED
            or place.relative_to(root).as_posix() in left_out
            or place.resolve() == out.resolve()
        }

    shutil.copytree(root, out, ignore=ignored, dirs_exist_ok=True)


def cut(root, out, chosen):
    """Write the starter with these exercises to the folder `out` -> {file: lines that are gone}."""
    copy_project(root, out, NOT_FOR_STUDENTS)
    shorten_readme(Path(out) / "README.md")
    bodies = {}
    for exercise in chosen:
        for place in exercise.functions:
            bodies.setdefault(place, BODIES["raise"].format(names=exercise.name))
    for place, how in exercises.twins_of(chosen).items():
        names = [e.name for e in chosen if place in e.twins]
        bodies[place] = BODIES[how].format(names=" and ".join(names))
    files = {}
    for place, body in bodies.items():
        file, _, name = place.partition(":")
        files.setdefault(file, {})[name] = body
    gone = {}
    for file, functions in sorted(files.items()):
        path = Path(out) / file
        text, gone[file] = source.emptied(path.read_text(encoding="utf-8"), functions)
        path.write_text(text, encoding="utf-8", newline="\n")
    # What grade.py grades there without being told.
    names = "".join(exercise.name + "\n" for exercise in chosen)
    (Path(out) / "assignments" / "chosen.txt").write_text(names, encoding="utf-8", newline="\n")
    return gone


def shorten_readme(path):
    """Drop the paragraphs that speak of files which the starter has not."""
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    kept = [text for text in paragraphs if not any(name in text for name in NOT_FOR_STUDENTS)]
    path.write_text("\n\n".join(kept), encoding="utf-8", newline="\n")


def names(text):
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", help="a new folder")
    parser.add_argument("--only", type=names, default=(), help="exercises or ladders, or all")
    parser.add_argument("--without", type=names, default=(), help="exercises or ladders")
    parser.add_argument("--list", action="store_true", help="show the exercises and end")
    options = parser.parse_args(arguments)
    try:
        chosen = exercises.choose(options.only, options.without)
        if not options.list:
            if options.out is None:
                parser.error("name a folder for the starter")
            gone = cut(ROOT, options.out, chosen)
    except (ValueError, OSError, source.Missing) as error:
        sys.exit(f"cut.py: {error}")
    print("\n".join(exercises.table(chosen)))
    if not options.list:
        print(f"{options.out}: the starter, without {sum(map(len, gone.values()))} lines")


if __name__ == "__main__":
    main()
