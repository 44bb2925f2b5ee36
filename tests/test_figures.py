"""report/figures.py: all figures of a small analysis, and the numbers behind bars."""

# ruff: noqa: F811  (a fixture is imported by its name, which is then an argument)

from types import SimpleNamespace

import pytest
from analysis import analysed, place  # noqa: F401  (fixtures)

import analyze
from engine.rows import BadInput
from report import figures, page


def test_every_figure_is_written(analysed):
    names = ["budget", "accuracy", "kl", "rank_shift", "along", "tokens", "words", "pca"]
    for name in [*names, "weights", "behaviours"]:
        assert (analysed[1] / f"{name}.png").stat().st_size > 5000


def test_a_figure_without_data_is_removed(tmp_path, monkeypatch):
    """What an earlier analysis drew does not stay beside the new numbers."""
    (tmp_path / "old.png").touch()
    old = figures.Picture("old", 3, "caption", None, False)
    monkeypatch.setattr(figures, "pictures_of", lambda study: [old])
    assert figures.draw_figures(None, tmp_path) == {} and not (tmp_path / "old.png").exists()


def test_the_curve_of_another_test_bed_is_drawn_beside(place):
    """Two panels with the same three points of the same runs; too few runs are refused."""
    from matplotlib.figure import Figure

    curves = analyze.curves_beside((str(place / "runs"),))
    (name,) = curves
    labels = [point["label"] for point in curves[name]]
    assert (name, labels) == ("tuned", ["no forcing", "Wait ×1", "Wait ×2"])
    figure, alone = Figure(), Figure()
    figures.plot_budgets(figure, curves, {"where": "out/tiny", "curves": curves}, {})
    here, there = figure.axes
    assert [axes.get_title() for axes in (here, there)] == ["these problems", "out/tiny"]
    points = [axes.lines[0].get_xydata().tolist() for axes in (here, there)]
    assert points[0] == points[1] and len(points[0]) == 3
    figures.plot_budgets(alone, curves, {}, {})
    assert len(alone.axes) == 1
    with pytest.raises(BadInput, match="--beside .*base.jsonl: no model has math runs under three"):
        analyze.curves_beside((str(place / "runs/base.jsonl"),))


def test_bars_by_hand():
    """Two models share 0.8 of a group's width; intervals reach from the value, never backwards."""
    assert [figures.offset(place, 2) for place in (0, 1)] == pytest.approx([-0.2, 0.2])
    assert figures.error_bar(5, 3, 9) == [[2], [4]]
    assert figures.error_bar(5, 6, 9) == [[0], [4]]  # rounding may put an end past the value
    assert figures.error_bar(5, None, None) is None
    values = {"m": {"a": (1, None, None), "b": (0, -2, 3)}, "n": {"c": (2, 1, 4)}}
    assert figures.union_of_keys(values) == ["a", "b", "c"]
    assert sorted(figures.positive_numbers(values)) == [1, 1, 2, 3, 4]


def test_colours():
    """Seeds of one training share a colour, a run has its model's, the base is grey."""
    paths = {"base": "b", "seed0/sft": "x/seed0/sft", "seed1/sft": "x/seed1/sft", "rl": "rl"}
    models = SimpleNamespace(base="base", tuned=dict(list(paths.items())[1:]), paths=lambda: paths)
    run = SimpleNamespace(name="r", settings={"model": "x/seed1/sft"}, is_unforced=lambda: True)
    other = SimpleNamespace(name="s", settings={"model": "unknown"}, is_unforced=lambda: True)
    colours = figures.colours_of(SimpleNamespace(models=models, runs=[run, other]))
    assert colours["base"] == figures.BASE_COLOUR
    assert colours["seed0/sft"] == colours["seed1/sft"] == colours["r"] != colours["rl"]
    assert colours["s"] not in (colours["r"], colours["rl"], colours["base"])


def test_a_run_has_the_name_of_its_model():
    """One name in all figures. Two runs of one model keep theirs, and so does that of several
    seeds, which stands for all of them."""

    def named(paths, runs):
        base, *tuned = paths
        models = SimpleNamespace(base=base, tuned={n: paths[n] for n in tuned}, paths=lambda: paths)
        runs = [
            SimpleNamespace(name=name, settings={"model": path}, is_unforced=lambda: True)
            for name, path in runs
        ]
        study = SimpleNamespace(models=models, runs=runs)
        assert set(figures.unforced_runs(study)) <= set(figures.colours_of(study))
        return list(figures.unforced_runs(study))

    paths = {"SmolLM2": "m/SmolLM2", "sft": "out/sft"}
    assert named(paths, [("before", "m/SmolLM2"), ("after", "out/sft")]) == ["SmolLM2", "sft"]
    twice = [("before", "m/SmolLM2"), ("again", "m/SmolLM2"), ("x", "elsewhere")]
    assert named(paths, twice) == ["before", "again", "x"]
    seeds = {"b": "b", "seed0/sft": "s0/sft", "seed1/sft": "s1/sft"}
    assert named(seeds, [("sft", "s0/sft"), ("sft", "s1/sft"), ("base", "b")]) == ["b", "sft"]


def test_forcing_that_changes_nothing_is_said_so():
    """The lowest and the highest point are the same then, and no move from one to the other."""
    points = [{"accuracy": 0.0, "label": f"budget {n}", "n_thinking_tokens": n} for n in (8, 16)]
    (sentence,) = page.forcing_sentences(SimpleNamespace(curves={"sft": points}))
    assert sentence == "Forcing sft to think less or more changes nothing: 0.0%."
    points[1] = points[1] | {"accuracy": 9.0}
    (sentence,) = page.forcing_sentences(SimpleNamespace(curves={"sft": points}))
    assert "moves it from 0.0%" in sentence and "to 9.0%" in sentence
