"""report/runs.py: who wrote what, and under which seed."""

# ruff: noqa: F811  (a fixture is imported by its name, which is then an argument)

import pytest
from analysis import completions, place  # noqa: F401  (a fixture)

from engine import runlog
from engine.rows import BadInput, write_rows
from report.runs import Run, find_completions, read_runs


def test_runs_and_their_seeds(tmp_path):
    """A directory is a replicate, named by the number after "seed" where that tells them apart."""
    for folder in ("seed3/runs", "seed12/runs", "a/x", "b/x"):
        write_rows(tmp_path / folder / "r.jsonl", [{"id": "1"}])
    named = read_runs([str(tmp_path / "seed3/runs"), str(tmp_path / "seed12/runs/r.jsonl")])
    assert [(r.name, r.seed) for r in named] == [("r", "3"), ("r", "12")]
    assert [r.seed for r in read_runs([str(tmp_path / "a/x"), str(tmp_path / "b/x")])] == ["0", "1"]
    words = [
        Run("", "", settings, []).forcing()
        for settings in (
            {},
            {"thinking_budget": 0, "waits": 0},
            {"thinking_budget": None, "waits": 2},
            {"thinking_budget": 9, "waits": 1},
        )
    ]
    assert words == ["no forcing", "budget 0", "Wait ×2", "budget 9, Wait ×1"]


def test_whose_completions(capsys):
    """One file without header serves all models, with a warning; two are refused.

    So are all without a format.
    """
    rows = completions("tuned")
    plain, other = Run("x", "", {"format": "think"}, rows), Run("y", "", {"format": "think"}, rows)
    assert len(find_completions([plain], "m").rows) == 10
    assert "warning" in capsys.readouterr().out
    with pytest.raises(BadInput, match="says in its header that this model wrote it"):
        find_completions([plain, other], "m")
    with pytest.raises(BadInput, match="names its format in its header"):
        find_completions([plain._replace(settings={})], "m")
    forced = Run("z", "", {"format": "think", "model": "m", "waits": 1}, rows)
    free = Run("z", "", {"format": "think", "model": "m"}, rows[:3])
    assert len(find_completions([forced, free], "m").rows) == 3  # unforced ones if there are


def test_completions_of_another_state_are_warned_about(place, capsys):
    """The header knows what the model directory held when it wrote the completions."""
    rows = completions("tuned")
    for print_, warned in (("0" * 16, True), (runlog.fingerprint(place / "tuned"), False)):
        r = Run(
            "x",
            "",
            {
                "format": "think",
                "model": str(place / "tuned"),
                "identity": {"contents of --model": print_},
            },
            rows,
        )
        find_completions([r], str(place / "tuned"))
        assert ("another state of" in capsys.readouterr().out) is warned
