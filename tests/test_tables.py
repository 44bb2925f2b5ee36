"""report/tables.py: cells and columns by hand."""

from report.study import Models, Study
from report.tables import format_cell, format_columns, model_table, seeds_together, traces_table


def test_cells():
    """One value with its interval; several seeds with their deviation (here √2); nothing known."""
    assert format_cell([(12.34, 10.0, 14.0)]) == "12.3 [10.0, 14.0]"
    assert format_cell([(0.01234, None, None)]) == "0.012"
    assert format_cell([(1.0, 0.0, 9.0), (3.0, 0.0, 9.0)]) == "2 ± 1.4"
    # a single seed of two has no deviation, and its interval is not that of the mean
    assert format_cell([(1.0, 0.0, 9.0), (None, None, None)]) == "1"
    assert format_cell([(None, None, None)]) == "-"


def test_columns_stand_below_each_other():
    assert format_columns([["a", "bb"], ["ccc", ""]]) == ["a    bb", "ccc"]


def test_seeds_share_a_column():
    """Rows that nobody has a number for are left out."""
    tuned = {"seed0/rl": "0", "seed1/rl": "1", "sft": "2"}
    models = Models("base", "b", tuned, {}, {}, [], [])
    rl = "rl, 2 seeds: mean ± sd"
    assert seeds_together(models) == {
        "base": ["base"],
        rl: ["seed0/rl", "seed1/rl"],
        "sft": ["sft"],
    }
    study = Study(models)
    known = {
        "kl_forward": {"macro": 0.5, "low": None, "high": None},
        "pca_shift": None,
        "pca_shift_masked": None,
        "shifted_per_response": None,
        "shifted_low": None,
        "shifted_high": None,
    }
    study.results = {"seed0/rl": {"groups": {"math": known}}}
    study.accuracy = {"base": {"math": {"accuracy": 25.0, "low": 20.0, "high": 30.0}}}
    assert model_table(study) == [
        ["model", "base", rl, "sft"],
        ["right % math", "25.0 [20.0, 30.0]", "-", "-"],
        ["KL math", "-", "0.5", "-"],
    ]


def test_the_column_of_the_judge():
    """There if one was asked about any run."""
    habits = {name: {"share": 50.0} for name in ("verification", "backtracking")}
    traces = {
        "behaviours": habits,
        "wait_words": {"wait": 1.5, "but": 1.0},
        "repetition": 0.25,
        "length": {"right": 12.4, "wrong": None},
    }
    study = Study(Models("base", "b", {}, {}, {}, [], []))
    study.results = {"m": {"groups": {"math": {}}}}
    study.behaviours = {"run": {"math": traces}, "elsewhere": {"plain": traces}}
    heads, *rows = traces_table(study)
    assert "judged" not in heads
    assert rows == [["run", "50.0", "50.0", "2.5", "25.0", "12", "-"]]
    judged = {"judged": {"share": 40.0, "agreement": 90.0}}
    study.behaviours["run"]["math"] = traces | {
        "behaviours": habits | {"verification": habits["verification"] | judged}
    }
    heads, row = traces_table(study)
    assert "judged" in heads and "verification 40%, agree 90%" in row
