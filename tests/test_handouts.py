"""What students read: every exercise is there, examples and links are right, experiments run."""

import doctest
import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from engine import settings

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "assignments"
sys.path.insert(0, str(KIT))

import cut  # noqa: E402
import exercises  # noqa: E402
import leaderboard  # noqa: E402
import tiny  # noqa: E402

HANDOUTS = sorted((KIT / "handout").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *KIT.glob("*.md"), *HANDOUTS]
LEFT_OUT = [ROOT / name for name in cut.NOT_FOR_STUDENTS]


def text_of(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("exercise", exercises.EXERCISES, ids=lambda e: e.name)
def test_a_handout_has_the_exercise(exercise):
    """Points and minutes of the table, a heading, the files, hints, the command."""
    page = text_of(KIT / "handout" / f"{exercise.ladder}.md")
    row = rf"\| \[{exercise.name}\]\(#\d-{exercise.name}\) \|.* {exercise.points} \| {exercise.minutes} \|"
    assert re.search(row, page)
    assert set(exercise.files) <= set(re.findall(r"`(\w[\w/]*\.py)`", page))
    section = re.split(r"^## ", page.split(f". {exercise.name}\n")[1], flags=re.MULTILINE)[0]
    assert f"    python assignments/grade.py --here {exercise.name}\n" in section
    assert "<details><summary>Hint 1" in section
    assert section.count("<details>") == section.count("</details>")


@pytest.mark.parametrize("page", HANDOUTS, ids=lambda page: page.stem)
def test_examples_by_hand_are_right(page, monkeypatch):
    """Every number under "By hand" comes out of the solution."""
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 5 and failed == 0


def anchors_of(page):
    """Anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(text):
    """Targets of links and images, in Markdown and HTML, that are no web addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    targets = [one or other for one, other in found]
    return [target for target in targets if not re.match(r"\w+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """And from a student's page to nothing that the starter lacks."""
    for link in links_of(text_of(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}"
        if page.parent != ROOT and page not in LEFT_OUT:
            assert target not in LEFT_OUT, f"{page.name} links to {link}, which students lack"


def test_links_of_the_tour():
    cells = json.loads(text_of(KIT / "tour.ipynb"))["cells"]
    links = links_of("\n".join("".join(cell["source"]) for cell in cells))
    assert len(links) > 4
    assert [link for link in links if not (KIT / link).exists()] == []


def test_figures_are_small():
    for figure in (KIT / "figures").iterdir():
        assert figure.stat().st_size < 100_000, figure.name


# ---- the experiments


@pytest.fixture
def stages(monkeypatch):
    """The stages run in this process, which starts faster -> the names of those that ran."""
    ran = []

    def stage(*command):
        command = [str(part) for part in command]
        name, *flags = command[1:] if command[0] == "-m" else command
        ran.append(name)
        if name == "assignments/leaderboard.py":
            return leaderboard.main(flags)
        module = importlib.import_module(name.removesuffix(".py"))
        module.main(settings.parse(module.Config, flags))

    monkeypatch.setattr(tiny, "stage", stage)
    monkeypatch.chdir(ROOT)
    return ran


EXPECTED = {
    "measure": ("significant", ["data.tiny", "evaluate.py", "evaluate.py"]),
    "batch": ("nats per trained token", ["data.tiny"]),
    "tokens": ("budget.png", ["data.tiny", "sft.py", *["generate.py"] * 5, "evaluate.py"]),
    "reinforce": ("largest |loss|", ["data.tiny", "grpo.py"]),
    "spare": ("limo-low", ["data.tiny", *["curate.py"] * 4]),
    "why": ("why.png", ["data.tiny", *["grpo.py"] * 3]),
    "board": ("held out", ["data.tiny", "grpo.py", "assignments/leaderboard.py"]),
}


@pytest.mark.parametrize("name", tiny.EXPERIMENTS)
def test_an_experiment_runs(name, stages, tmp_path, capsys):
    tiny.main([name, "--quick", "--out", str(tmp_path)])
    shown, ran = EXPECTED[name]
    assert stages == ran
    assert shown in capsys.readouterr().out


def test_a_stage_is_a_process_of_this_python(capfd):
    """Its failure ends the experiment with its exit code, and its message is seen."""
    with pytest.raises(SystemExit) as done:
        tiny.stage("evaluate.py", "no-such-file.jsonl")
    assert done.value.code == 1 and "no-such-file.jsonl" in capfd.readouterr().err
    tiny.stage("-c", "import os; print(os.environ['HF_HUB_OFFLINE'])")
    assert capfd.readouterr().out.endswith("1\n")
    with pytest.raises(SystemExit, match="first the exercise pack"):
        tiny.stage("-c", "raise NotImplementedError('exercise: pack')")


def test_only_the_board_takes_flags_of_grpo(capsys):
    with pytest.raises(SystemExit):
        tiny.main(["batch", "--lr", "1"])
    assert "unknown: --lr 1" in capsys.readouterr().err


def test_an_unsolved_exercise_is_named(monkeypatch, tmp_path):
    def unsolved(*given):
        raise NotImplementedError("exercise: pack")

    monkeypatch.setitem(tiny.EXPERIMENTS, "batch", unsolved)
    with pytest.raises(SystemExit, match="tiny.py: exercise: pack"):
        tiny.main(["batch", "--out", str(tmp_path)])


def test_an_experiment_begins_anew(tmp_path):
    """Functions that have changed make another run of the same settings. What else is there stays."""
    run, answers, other = tmp_path / "grpo", tmp_path / "wait.jsonl", tmp_path / "notes.jsonl"
    run.mkdir()
    for file in (run / "training.json", answers, tmp_path / "wait.jsonl.unfinished", other):
        file.write_text("{}")
    tiny.fresh(str(run))
    tiny.fresh(str(answers))
    tiny.fresh(str(tmp_path / "new.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.jsonl"]
    tiny.fresh(str(tmp_path))
    assert other.is_file()
