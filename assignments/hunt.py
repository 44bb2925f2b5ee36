"""Find the bug: mistakes are planted in a copy of the project, and a test of each fails.

    python assignments/hunt.py 7 OUT                     three bugs of seed 7, and OUT/hunt.md
    python assignments/hunt.py 7 OUT --bugs 5 --file grpo.py
    python assignments/hunt.py 7 --grade answers.csv results.json

A seed names the bugs (of --bugs and --file), so each student can have a seed. hunt.md shows for
each bug the test that fails and its docstring. An answer is a line "number,file,line,sentence".
The right file has one point, the right line two; the sentence is for the lecturer, who finds it
beside the mistake in words. The bugs are those of tests/mutants, which is the solution sheet.
"""

import argparse
import ast
import csv
import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import cut
import source

TESTS = cut.ROOT / "tests"
FILE_POINTS, LINE_POINTS = 1, 2
# Their tests take long, or need more than Python.
NOT_HUNTED = (
    "test_recipes",
    "test_page",
    "_ranks",
    "test_sharding",
    "test_triton",
    "test_pipeline",
)

NO_STAGE = ("tests/", "recipes/", "assignments/")


class Bug(NamedTuple):
    file: str
    right: str
    wrong: str
    mistake: str  # in words
    test: str  # test file::function
    lines: range  # of the planted lines in the file, from 1
    docstring: str


def mutants():
    """The entries of tests/mutants."""
    sys.path.insert(0, str(TESTS))
    try:
        from mutants import MUTANTS
    finally:
        sys.path.remove(str(TESTS))
    return MUTANTS


def docstring_of(test):
    """The docstring of a test "FILE::FUNCTION", or ""."""
    file, _, function = test.partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function.partition("[")[0]:
            return ast.get_docstring(node) or ""
    return ""


def bugs_of(seed, n=3, file=None):
    """The bugs of a seed: one for each of n files, or n of one. ValueError if there are fewer."""
    rng = random.Random(seed)
    entries = sorted(entry for entry in mutants() if is_hunted(entry, file))
    rng.shuffle(entries)
    chosen = []
    for entry in entries:
        place, right, wrong, mistake, test = entry
        text = (cut.ROOT / place).read_text(encoding="utf-8")
        docstring = docstring_of(test)
        others = [bug for bug in chosen if bug.file == place]
        if not docstring or (others and file is None) or any(b.test == test for b in others):
            continue
        try:
            lines = planted_lines(text, right, wrong, place)
        except ValueError:
            continue
        # Two bugs in one file must not touch, and stay where they are.
        if any(right.count("\n") != wrong.count("\n") for _ in others):
            continue
        if any(set(lines) & set(bug.lines) for bug in others):
            continue
        chosen.append(Bug(place, right, wrong, mistake, test, lines, docstring))
        if len(chosen) == n:
            return chosen
    raise ValueError(f"only {len(chosen)} bugs with a test that explains itself, not {n}")


def is_hunted(entry, file):
    place, right, wrong, _, test = entry
    is_simple = place.endswith(".py") and wrong.strip() and right.count("\n") == wrong.count("\n")
    is_wanted = place == file if file else not place.startswith(NO_STAGE)
    return is_simple and is_wanted and not any(name in test for name in NOT_HUNTED)


def planted_lines(text, right, wrong, file):
    """The lines of a file, from 1, that planting a bug changes."""
    before = text.split("\n")
    after = source.replaced(text, right, wrong, file).split("\n")
    changed = [i for i, (a, b) in enumerate(zip(before, after), 1) if a != b]
    return range(min(changed), max(changed) + 1)


def plant(bugs, out):
    """Write the project with the bugs in it to the folder `out`, and hunt.md for the student."""
    left_out = cut.NOT_FOR_STUDENTS | {"assignments/handout"}
    cut.copy_project(cut.ROOT, out, left_out)
    for bug in bugs:
        path = Path(out) / bug.file
        text = path.read_text(encoding="utf-8")
        text = source.replaced(text, bug.right, bug.wrong, bug.file)
        path.write_text(text, encoding="utf-8", newline="\n")
    (Path(out) / "hunt.md").write_text(sheet(bugs), encoding="utf-8", newline="\n")


def sheet(bugs):
    """What the student reads."""
    lines = [
        "# Find the bug",
        "",
        f"{len(bugs)} mistakes are in this copy, each in another place. A test that fails for each:",
        "",
    ]
    for number, bug in enumerate(bugs, 1):
        lines += [f"## Bug {number}", "", f"    python -m pytest -q tests/{bug.test}", ""]
        lines += [f"> {line}".rstrip() for line in bug.docstring.split("\n")] + [""]
    lines += [
        "Write `answers.csv`: a line for each bug with its number, the file, the line and one",
        "sentence on what is wrong, and why it matters:",
        "",
        '    1,grpo.py,212,"the advantage is divided by ..."',
        "",
    ]
    return "\n".join(lines)


def grade(bugs, answers):
    """Lines of answers -> a list of dicts, one per bug, with its points and the truth."""
    given = {}
    for row in csv.reader(answers):
        cells = [cell.strip() for cell in row]
        if len(cells) >= 3 and cells[0].isdigit():
            given.setdefault(int(cells[0]), cells)
    graded = []
    for number, bug in enumerate(bugs, 1):
        _, file, line, *sentence = given.get(number, ["", "", "", ""])
        right_file = file.replace("\\", "/").removeprefix("./") == bug.file
        right_line = right_file and line.isdigit() and int(line) in bug.lines
        graded.append(
            {
                "bug": number,
                "points": FILE_POINTS * right_file + LINE_POINTS * right_line,
                "of": FILE_POINTS + LINE_POINTS,
                "answer": f"{file}, line {line}",
                "sentence": ", ".join(sentence),
                "truth": f"{bug.file}, line {bug.lines.start}",
                "mistake": bug.mistake,
            }
        )
    return graded


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", type=int, help="names the bugs")
    parser.add_argument("out", nargs="?", help="a new folder for the student's copy")
    parser.add_argument("--bugs", type=int, default=3, help="how many")
    parser.add_argument("--file", help="only bugs of this file")
    parser.add_argument("--grade", metavar="ANSWERS", nargs="+", help="answers.csv [results.json]")
    options = parser.parse_args(arguments)
    try:
        bugs = bugs_of(options.seed, options.bugs, options.file)
        if options.grade:
            text = Path(options.grade[0]).read_text(encoding="utf-8-sig", errors="replace")
            graded = grade(bugs, text.splitlines())
            for entry in graded:
                print(f"bug {entry['bug']}: {entry['points']} of {entry['of']}")
                print(f"    answer   {entry['answer']}: {entry['sentence']}")
                print(f"    truth    {entry['truth']}: {entry['mistake']}")
            if len(options.grade) > 1:
                content = json.dumps(graded, indent=1, ensure_ascii=False) + "\n"
                Path(options.grade[1]).write_text(content, encoding="utf-8")
        elif options.out:
            plant(bugs, options.out)
            print(f"{options.out}: {len(bugs)} bugs; the student reads {options.out}/hunt.md")
        else:
            parser.error("name a folder, or --grade ANSWERS")
    except (ValueError, OSError) as error:
        sys.exit(f"hunt.py: {error}")


if __name__ == "__main__":
    main()
