"""What Gradescope and GitHub Classroom need.

    python assignments/package.py gradescope autograder.zip    upload it as the autograder
    python assignments/package.py classroom STARTER            write the workflow into a starter

--only, --without, --hidden FOLDER, --hidden-share: as for grade.py; the starter knows its own
exercises. In Classroom the tests of the first commit count, whatever the student did to them.
"""

import argparse
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import cut
import exercises

HERE = Path(__file__).resolve().parent

WORKFLOW_HEAD = """\
name: exercises
on: [push, workflow_dispatch]
permissions:
  checks: write
  actions: read
  contents: read
jobs:
  grade:
    runs-on: ubuntu-latest
    timeout-minutes: 30
    steps:
      - uses: actions/checkout@v4
        with:
          fetch-depth: 0
      - name: the tests of the first commit
        run: git checkout "$(git rev-list --max-parents=0 HEAD | tail -1)" -- tests assignments
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
          cache: pip
      - name: install
        run: |
          torch=$(sed -n 's/^\\(torch==[0-9.]*\\).*/\\1/p' requirements.txt)
          pip install --quiet "$torch" --index-url https://download.pytorch.org/whl/cpu
          grep -vE '^(torch|triton|ruff)\\b' requirements.txt > graded.txt
          pip install --quiet -r graded.txt
"""
WORKFLOW_STEP = """\
      - name: {name}
        id: {name}
        uses: classroom-resources/autograding-command-grader@v1
        with:
          test-name: "{name}"
          command: python assignments/grade.py --here {name}
          timeout: 5
          max-score: {points}
"""
WORKFLOW_END = """\
      - name: report
        if: ${{{{ !cancelled() }}}}
        uses: classroom-resources/autograding-grading-reporter@v1
        env:
{results}
        with:
          runners: {runners}
"""


def workflow(chosen):
    """A GitHub Classroom workflow: one step per exercise, and a report -> its text."""
    results = "\n".join(
        f'          {e.name.upper()}_RESULTS: "${{{{ steps.{e.name}.outputs.result }}}}"'
        for e in chosen
    )
    steps = "".join(WORKFLOW_STEP.format(name=e.name, points=e.points) for e in chosen)
    end = WORKFLOW_END.format(results=results, runners=",".join(e.name for e in chosen))
    return WORKFLOW_HEAD + steps + end


def write_workflow(starter):
    """Write the workflow for the exercises of a starter -> its path."""
    names = (Path(starter) / "assignments" / "chosen.txt").read_text(encoding="utf-8").split()
    path = Path(starter) / ".github" / "workflows" / "classroom.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = workflow(exercises.choose(names))
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_autograder(path, arguments, hidden=None):
    """Write Gradescope's zip: setup.sh, run_autograder, the solution, hidden tests."""
    with tempfile.TemporaryDirectory() as folder:
        solution = Path(folder) / "solution"
        cut.copy_project(cut.ROOT, solution, cut.NOT_FOR_STUDENTS)
        if hidden:
            shutil.copytree(hidden, solution / "assignments" / "hidden")
            arguments = [*arguments, "--hidden", "assignments/hidden"]
        text = "".join(argument + "\n" for argument in arguments)
        file = solution / "assignments" / "arguments.txt"
        file.write_text(text, encoding="utf-8", newline="\n")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("setup.sh", "run_autograder"):
                add(archive, HERE / "gradescope" / name, name, executable=True)
            for file in sorted(solution.rglob("*")):
                if file.is_file():
                    add(archive, file, file.relative_to(folder).as_posix())


def add(archive, file, name, executable=False):
    """Add a file with a date and a mode of its own, whatever this system's are."""
    info = zipfile.ZipInfo(name, date_time=(2000, 1, 1, 0, 0, 0))
    info.external_attr = (0o755 if executable else 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    content = file.read_bytes()
    archive.writestr(info, content.replace(b"\r\n", b"\n") if executable else content)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("gradescope", "classroom"))
    parser.add_argument("place", help="the zip to write, or the starter's folder")
    parser.add_argument("--only", default="", help="exercises or ladders, or all")
    parser.add_argument("--without", default="", help="exercises or ladders")
    parser.add_argument("--hidden", help="folder of hidden tests")
    parser.add_argument("--hidden-share", default="0.3", help="of an exercise's points")
    options = parser.parse_args(arguments)
    try:
        if options.kind == "classroom":
            print(write_workflow(options.place))
            return
        exercises.choose(cut.names(options.only), cut.names(options.without))
        kept = [("--only", options.only), ("--without", options.without)]
        if options.hidden:
            kept.append(("--hidden-share", options.hidden_share))
        flags = [part for flag, value in kept if value for part in (flag, value)]
        write_autograder(options.place, flags, options.hidden)
        print(f"{options.place}: {Path(options.place).stat().st_size / 1e6:.1f} MB")
    except (ValueError, OSError) as error:
        sys.exit(f"package.py: {error}")


if __name__ == "__main__":
    main()
