"""engine/axes.py: what stands at the ticks of figures."""

import json

import pytest
from matplotlib.figure import Figure

from engine import axes, runlog, watch
from report import figures


def shown(axis):
    """The words at the ticks of an axis that are inside its limits."""
    low, high = sorted(axis.get_view_interval())
    found = []
    for minor in (False, True):
        labels = axis.get_ticklabels(minor=minor)
        places = axis.get_ticklocs(minor=minor)
        found += [label.get_text() for x, label in zip(places, labels) if low <= x <= high]
    return [text for text in found if text]


@pytest.mark.parametrize(
    "low, high, wanted",
    [
        (0.1, 0.9, ["0.1", "0.2", "0.5"]),  # shorter than a decade
        (0.06, 0.4, ["0.1", "0.2"]),
        (0.002, 30, ["0.01", "0.1", "1", "10"]),
    ],
)
def test_decades_are_plain_numbers(low, high, wanted):
    """matplotlib writes 6 x 10^-1 in TeX between the decades of a short axis."""
    figure = Figure()
    panel = figure.subplots()
    panel.set(yscale="log", ylim=(low, high))
    axes.name_decades(panel.yaxis, low, high)
    figure.canvas.draw()
    assert shown(panel.yaxis) == wanted


@pytest.mark.parametrize(
    "low, high, wanted",
    [
        (60, 300, ["64", "128", "256"]),
        (90, 110, ["90", "110"]),  # no power of two
        (100, 200, ["100", "200"]),  # only 128
        (100, 100, ["100"]),
    ],
)
def test_doublings(low, high, wanted):
    panel = Figure().subplots()
    panel.set_xscale("log", base=2)
    axes.name_doublings(panel, low, high)
    panel.set_xlim(low / 2, high * 2)
    assert shown(panel.xaxis) == wanted


def test_no_figure_has_tex_at_its_ticks():
    """Distances to the base within a decade, as real models have them: the axis is from half of
    0.2, the lowest end, to three times 0.4."""
    figure = Figure()
    values = {"m": {"math": (0.3, 0.2, 0.4), "other": (0.25, None, None)}}
    figures.plot_points(figure, values, {"m": "C0"}, "KL")
    figure.canvas.draw()
    (panel,) = figure.axes
    assert shown(panel.yaxis) == ["0.1", "0.2", "0.5", "1"] and panel.get_xlabel() == "tasks"


def curves_of(monkeypatch, tmp_path, history):
    """The panels of curves.png."""
    seen = []
    monkeypatch.setattr(Figure, "subplots", keep(seen, Figure.subplots))
    watch.draw_curves(history, tmp_path / "curves.png")
    return list(seen[0].flat)


def keep(seen, original):
    def made(self, *arguments, **more):
        seen.append(original(self, *arguments, **more))
        return seen[-1]

    return made


def test_what_was_not_measured_is_said(monkeypatch, tmp_path):
    """A panel without numbers has a word instead of an axis from -0.05 to 0.05; a legend names only
    what is drawn; steps are whole numbers."""
    rows = [{"step": n, "reward": n / 9, "accuracy": 0.1, "n_tokens": 3.0} for n in (1, 2, 3)]
    panels = curves_of(monkeypatch, tmp_path, rows)
    legend = [text.get_text() for text in panels[0].get_legend().get_texts()]
    assert legend == ["reward", "accuracy"] and panels[0].get_xlabel() == "step"
    assert panels[1].get_legend() is None and panels[1].get_title() == "n_tokens"
    words = [[text.get_text() for text in panel.texts] for panel in panels]
    assert words == [[], []] + 6 * [["not measured"]]
    panels = curves_of(monkeypatch, tmp_path, rows[:1])
    assert panels[0].get_xticks().tolist() == [1]


def test_the_loss_of_one_step_is_seen(monkeypatch, tmp_path):
    """A line of one point is nothing without a marker."""
    seen = []
    monkeypatch.setattr(Figure, "add_subplot", keep(seen, Figure.add_subplot))
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    runlog.plot_loss(tmp_path)
    (line,) = seen[-1].lines
    assert line.get_marker() == "." and seen[-1].get_xticks().tolist() == [1]
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": None}) + "\n")
    runlog.plot_loss(tmp_path)
    assert [text.get_text() for text in seen[-1].texts] == ["no step has a finite loss"]
