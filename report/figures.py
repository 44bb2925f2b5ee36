"""Figures: which ones the page has, and one function each that plots given numbers.

A plot_ function takes a matplotlib figure and plain numbers; the functions below them say where the
numbers of a Study go. Intervals are 95%. INK is the one colour that the page replaces by that of
its text.
"""

import io
import itertools
import math
import os
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

from engine.axes import name_decades, name_doublings, say_empty

INK, BASE_COLOUR = "#21262d", "#8a8f98"
COLOURS = "#d1670b #1f77b4 #2a9d57 #b0479b #a08a00 #17a2a8 #c43c4c #6f5bd0".split()
# UniReason, Fig. 5: logical words are red
CLASSES = {"logical": "#c43c4c", "content": "#1f77b4", "sign": BASE_COLOUR}

STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "0",
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
LABEL = {"textcoords": "offset points", "fontsize": 8}
FEW_TOKENS = 30  # a position with fewer tokens is not plotted
PANELS = 4  # columns of the PCA panels
WORD_PANELS = 12
WORD_COLUMNS = 3
# One panel of words, in inches.
WORD_WIDTH, WORD_HEIGHT = 2.4, 1.5


# ---------------------------------------------------------------- bars and points


def plot_bars(figure, values, colours, label, xlabel="tasks"):
    """Bars side by side. values: {model: {group: (value, low, high)}}, low and high may be None."""
    axes = figure.subplots()
    groups = union_of_keys(values)
    decimals = 1 if len(values) < 5 else 0  # many bars leave little room
    for place, (model, by_group) in enumerate(values.items()):
        for group, (value, low, high) in by_group.items():
            x = groups.index(group) + offset(place, len(values))
            axes.bar(x, value, 0.9 * slot_width(len(values)), color=colours[model])
            axes.errorbar(x, value, error_bar(value, low, high), fmt="none", color=INK, capsize=2)
            annotate(axes, x, max(value, high or 0), f"{value:.{decimals}f}")
        axes.plot([], [], "s", color=colours[model], label=model)  # for the legend
    name_groups(axes, groups)
    axes.set(xlabel=xlabel, ylabel=label, ylim=(0, 1.1 * max(positive_numbers(values), default=1)))
    axes.yaxis.set_major_formatter("{x:g}")


def plot_points(figure, values, colours, label):
    """Points on a logarithmic axis; values as in plot_bars.

    Numbers that are not positive are drawn at the smallest positive one.
    """
    axes = figure.subplots()
    groups = union_of_keys(values)
    positive = positive_numbers(values) or [1]
    floor = min(positive)
    for place, (model, by_group) in enumerate(values.items()):
        colour = colours[model]
        for group, (value, low, high) in by_group.items():
            x = groups.index(group) + offset(place, len(values))
            y = max(value, floor)
            error = error_bar(y, None if low is None else max(low, floor), high)
            axes.errorbar(x, y, error, fmt="o", color=colour, capsize=2)
            annotate(axes, x, max(y, high or 0), f"{value:.2g}")
        axes.plot([], [], "s", color=colour, label=model)  # for the legend
    name_groups(axes, groups)
    axes.set(xlabel="tasks", ylabel=label, yscale="log", ylim=(floor / 2, 3 * max(positive)))
    name_decades(axes.yaxis, floor / 2, 3 * max(positive))


def union_of_keys(values):
    """{model: {key: ...}} -> all keys, in the order in which they come."""
    return list(dict.fromkeys(key for by_key in values.values() for key in by_key))


def positive_numbers(values):
    triples = [triple for by_group in values.values() for triple in by_group.values()]
    return [x for triple in triples for x in triple if x is not None and x > 0]


def slot_width(n_models):
    return 0.8 / n_models


def offset(place, n_models):
    """How far from the middle of its group a model is drawn."""
    return (place - (n_models - 1) / 2) * slot_width(n_models)


def error_bar(value, low, high):
    """matplotlib's form: how far the interval reaches below and above, never negative."""
    if low is None:
        return None
    return [[max(0, value - low)], [max(0, high - value)]]


def annotate(axes, x, y, text):
    axes.annotate(text, (x, y), (0, 3), ha="center", **LABEL)


def name_groups(axes, groups):
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)


# ---------------------------------------------------------------- curves


def plot_budgets(figure, curves, beside, colours):
    """Accuracy against thinking tokens, and the same of another test-bed where there is one.

    curves: see report.claims.budget_curves. beside: see Study.
    """
    if not beside:
        plot_curves(figure.subplots(), curves, colours)
        return
    here, there = figure.subplots(1, 2)
    plot_curves(here, curves, colours)
    plot_curves(there, beside["curves"], colours)
    here.set_title("these problems")
    there.set_title(beside["where"])


def plot_curves(axes, curves, colours):
    """{model: its runs under several budgets} as lines of accuracy against thinking tokens."""
    tokens = [point["n_thinking_tokens"] for points in curves.values() for point in points]
    smallest = min(x for x in [*tokens, 64] if x > 0)
    for model, points in curves.items():
        x = [point["n_thinking_tokens"] for point in points]
        y = [point["accuracy"] for point in points]
        below = [max(0, point["accuracy"] - point["low"]) for point in points]
        above = [max(0, point["high"] - point["accuracy"]) for point in points]
        axes.errorbar(
            x,
            y,
            [below, above],
            fmt="o-",
            capsize=2,
            color=colours.get(model, INK),
            elinewidth=1,
            label=model,
        )
        for i, point in enumerate(points):
            # In turn above and below, as neighbours may be close; below 0 are the ticks.
            above_all = (point["high"], 4 + 10 * (i % 2))
            end, shift = (point["low"], -12) if i % 2 and point["low"] > 5 else above_all
            axes.annotate(point["label"], (x[i], end), (0, shift), ha="center", **LABEL)
    # Logarithmic from the smallest number on and linear below it: an answer without thinking (0)
    # needs a place, too.
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.6)
    name_doublings(axes, smallest, max(smallest, *tokens), first=[0])
    highest = max(point["high"] for points in curves.values() for point in points)
    axes.set(
        xlabel="mean thinking tokens", ylabel="right answers, %", ylim=(0, 1.15 * highest or 1)
    )
    axes.set_xlim(-0.3 * smallest, 1.3 * max(tokens))
    axes.grid(axis="y", alpha=0.25)


def plot_along(figure, results, colours, group):
    """KL, rank shift and entropy along the answers of a group. results: entries of metrics.json."""
    kl_axes, shift_axes, entropy_axes = figure.subplots(1, 3)
    for model, result in results.items():
        if group not in result["groups"]:
            continue
        colour = colours[model]
        places = result["groups"][group]["by_position"]
        known = [i for i, n in enumerate(places["n"]) if n >= FEW_TOKENS]
        x = [(i + 0.5) * places["width"] for i in known]
        kl = [places["kl_forward"][i] for i in known]
        shift = [places["rank_shift"][i] for i in known]
        style = {"color": colour, "lw": 1.4, "marker": "." if len(x) < 10 else None}
        kl_axes.plot(x, kl, label=model, **style)
        shift_axes.plot(x, shift, **style)
        tenths = result["groups"][group]["by_tenth"]
        middle = [10 * i + 5 for i in range(len(tenths["n"]))]
        entropy_axes.plot(middle, tenths["entropy_tuned"], color=colour, lw=1.4)
        entropy_axes.plot(middle, tenths["entropy_base"], color=colour, lw=1, ls="--")
    kl_axes.set(title="KL to the base, nats", xlabel="token of the answer")
    shift_axes.set(title="mean rank shift", xlabel="token of the answer")
    entropy_axes.set(title="entropy, nats (base dashed)", xlabel="% of the answer")
    for axes in (kl_axes, shift_axes, entropy_axes):
        axes.set_ylim(min(0, axes.get_ylim()[0]), None)
        axes.grid(axis="y", alpha=0.25)
        if not any(len(line.get_xdata()) for line in axes.lines):
            say_empty(axes, f"no place has\n{FEW_TOKENS} tokens")


def plot_shifted_words(figure, results, colours, n=12):
    """A panel per model with its most shifted tokens. results: entries of metrics.json."""
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (model, result) in zip(panels, results.items()):
        words = result["most_shifted"][:n][::-1]
        for y, word in enumerate(words):
            axes.barh(y, word["sum"], color=colours[model])
            text = f"{word['count']}×, {word['mean_shift']:+.1f}"
            axes.annotate(text, (word["sum"], y), (3, 0), va="center", **LABEL)
        axes.set_yticks(range(len(words)), [word["token"][:20] for word in words])
        if not words:
            say_empty(axes, "no token was shifted")
        largest = max((word["sum"] for word in words), default=1)
        axes.set(title=model, xlabel="sum of |rank shift|", xlim=(0, 1.35 * largest))


def plot_word_panels(figure, panels):
    """Words by how often and how far they are shifted, the larger the more.

    panels: {title: most_shifted}. Each panel has as many words as there is room for.
    """
    from matplotlib.textpath import TextPath

    columns = min(WORD_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    right, bottom = 72 * WORD_WIDTH * 0.9, -72 * WORD_HEIGHT * 0.8  # in points
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, words) in zip(grid, panels.items()):
        axes.set_title(title)
        x, y, tallest = 0.0, 0.0, 0.0
        for word in words:
            size = 7 + 15 * math.sqrt(word["sum"] / words[0]["sum"])
            text = word["token"][:16]
            width = TextPath((0, 0), text, size=size).get_extents().width + 6
            if x and x + width > right:  # the next line; words come by size
                x, y, tallest = 0.0, y - 1.25 * tallest, 0.0
            if y - size < bottom:
                break
            tallest = max(tallest, size)
            axes.text(x, y, text, fontsize=size, color=CLASSES[word["class"]], va="top")
            x += width
        axes.set(xlim=(0, right), ylim=(bottom, 2))


# ---------------------------------------------------------------- states and weights


def plot_pca(figure, points, colours):
    """A panel per task: a circle for the base, a triangle for the tuned model, a segment per layer.

    points: {model: {task: [[base's (x, y), tuned's (x, y)] of each layer]}}.
    """
    tasks = union_of_keys(points)
    columns = min(PANELS, len(tasks))
    rows = math.ceil(len(tasks) / PANELS)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, task in itertools.zip_longest(panels, tasks):
        axes.set(title=task or "", xmargin=0.12, ymargin=0.12, visible=task is not None)
        for model, by_task in points.items():
            triangle = None
            for before, after in by_task.get(task, ()):
                axes.plot(*zip(before, after), color=BASE_COLOUR, lw=0.8, zorder=1)
                axes.plot(*before, "o", color=BASE_COLOUR, ms=5, zorder=2)
                style = {"color": colours[model], "ms": 6, "alpha": 0.85, "zorder": 3}
                (triangle,) = axes.plot(*after, "^", **style)
            if triangle is not None and task == tasks[0]:
                triangle.set_label(model)
    figure.supxlabel("shift along PC1", fontsize=9.5)
    figure.supylabel("place along PC2", fontsize=9.5)


def plot_weights(figure, weights, colours):
    """Left: share of weights that did not change, by tolerance. Right: size of the update against
    that of the weights, layer by layer. weights: see report.weights.weight_changes."""
    left, right = figure.subplots(1, 2)
    for model, found in weights.items():
        colour = colours[model]
        exact, rounded = found["unchanged"]["fp32"], found["unchanged"]["bf16"]
        places = range(len(exact))
        left.plot(places, list(exact.values()), "o-", color=colour, ms=4, lw=1.2, label=model)
        left.plot(places, list(rounded.values()), "s--", color=colour, ms=4, lw=1.2)
        sizes = {
            int(name.split()[1]): layer["update_norm"] / max(layer["norm"], 1e-30)
            for name, layer in found["layers"].items()
            if name.startswith("layer ")
        }
        layers = sorted(sizes)
        right.plot(layers, [sizes[k] for k in layers], "o-", color=colour, ms=4, lw=1.2)
    left.set_xticks(places, ["exact" if t == "0" else t for t in exact])
    left.set(title="unchanged weights, % (bf16 dashed)", xlabel="tolerance", ylim=(-3, 103))
    right.set(title="‖update‖ / ‖weights‖", xlabel="layer", ylim=(0, None))
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)


# ---------------------------------------------------------------- which figures the page has


class Picture(NamedTuple):
    """A figure: how to plot it, and what stands below it."""

    name: str  # of the PNG file
    height: float  # inches; all are 7.2 wide
    caption: str
    plot: Callable  # of a matplotlib figure
    has_data: bool  # a figure without data is left out


def draw_figures(study, out):
    """Write the figures that have data into out, as PNG -> {caption: SVG for the page}."""
    drawn = {}
    for picture in pictures_of(study):
        file = out / f"{picture.name}.png"
        file.unlink(missing_ok=True)
        if picture.has_data:
            drawn[picture.caption] = draw(picture, file)
    return drawn


def draw(picture, file):
    """Write a picture's PNG -> its SVG, in the colour of the page's text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure, svg = Figure((7.2, picture.height)), io.StringIO()
        picture.plot(figure)
        if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
            figure.legend(loc="outside upper left", ncols=6, handletextpad=0.2, columnspacing=1)
        figure.savefig(file, dpi=160, facecolor="white")
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    text = svg.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def pictures_of(study):
    """All figures of the page, in order."""
    colours = colours_of(study)
    return [
        *pictures_of_answers(study, colours),
        *pictures_of_shifts(study, colours),
        *pictures_of_words(study, colours),
        *pictures_of_states(study, colours),
        picture_of_behaviours(study, colours),
    ]


def pictures_of_answers(study, colours):
    accuracy = {
        name: accuracy_of(study.graded[run.name]) for name, run in unforced_runs(study).items()
    }
    return [
        Picture(
            "budget",
            3.9,
            "Thinking cut at a budget or prolonged by “Wait”.",
            partial(plot_budgets, curves=study.curves, beside=study.beside, colours=colours),
            bool(study.curves),
        ),
        Picture(
            "accuracy",
            3.4,
            "Every model, thinking as long as it wants.",
            partial(plot_bars, values=accuracy, colours=colours, label="right answers, %"),
            bool(accuracy),
        ),
    ]


def pictures_of_shifts(study, colours):
    group = study.main_group()
    kl = measure_by_group(study, "KL")
    shifted = measure_by_group(study, "shifted")
    results = {name: study.results[name] for name in study.models.shown}
    return [
        Picture(
            "kl",
            3.4,
            "Distance to the base on a model's own answers.",
            partial(plot_points, values=kl, colours=colours, label="KL per token, nats"),
            bool(kl),
        ),
        Picture(
            "rank_shift",
            3.4,
            "Tokens whose rank training changed.",
            partial(plot_bars, values=shifted, colours=colours, label="shifted tokens per answer"),
            bool(shifted),
        ),
        Picture(
            "along",
            2.9,
            f"Along the answers in {group}.",
            partial(plot_along, results=results, colours=colours, group=group),
            bool(results),
        ),
    ]


def pictures_of_words(study, colours):
    results = {name: study.results[name] for name in study.models.shown}
    words = shifted_by_task(study)
    return [
        Picture(
            "tokens",
            3.2,
            "The most shifted tokens: how often, and the mean shift.",
            partial(plot_shifted_words, results=results, colours=colours),
            bool(results),
        ),
        Picture(
            "words",
            1.6 * math.ceil(len(words) / WORD_COLUMNS),
            "Shifted words, the larger the oftener and farther: discourse words red, words of "
            "content blue, the rest grey.",
            partial(plot_word_panels, panels=words),
            bool(words),
        ),
    ]


def pictures_of_states(study, colours):
    points = {name: study.points[name] for name in study.models.shown}
    rows = math.ceil(len(union_of_keys(points)) / PANELS)
    weights = {name: study.weights[name] for name in study.models.shown if study.weights[name]["n"]}
    return [
        Picture(
            "pca",
            0.8 + 1.75 * rows,
            "Mean hidden states of each task's problems, a segment per layer: circle base, "
            "triangle tuned.",
            partial(plot_pca, points=points, colours=colours),
            rows > 0,
        ),
        Picture(
            "weights",
            3.2,
            "Weights: how many stayed as they were, and the size of the update.",
            partial(plot_weights, weights=weights, colours=colours),
            bool(weights),
        ),
    ]


def picture_of_behaviours(study, colours):
    group = study.main_group()
    habits = {
        name: habits_of(study.behaviours[run.name][group])
        for name, run in unforced_runs(study).items()
        if group in study.behaviours.get(run.name, ())
    }
    return Picture(
        "behaviours",
        3.4,
        f"What the traces do in {group}, counted by rules: percent of answers with at least one.",
        partial(plot_bars, values=habits, colours=colours, label="answers, %", xlabel="behaviour"),
        bool(habits),
    )


def unforced_runs(study):
    """Runs that thought as long as they wanted -> {name: run}; of several seeds the first.

    A run that alone is its model's has the model's name, as in the other figures. Of a model
    trained under several seeds ("seed0/sft") the run's name stands for all of them.
    """
    runs = {}
    for run in study.runs:
        if run.is_unforced():
            runs.setdefault(run.name, run)
    models = {os.path.realpath(path): name for name, path in study.models.paths().items()}
    authors = {name: models.get(author_of(run), "") for name, run in runs.items()}
    named = {}
    for name, run in runs.items():
        author = authors[name]
        is_only = list(authors.values()).count(author) == 1 and "/" not in author
        named[author if author and is_only and author not in runs else name] = run
    # The base first, then the models as they were given, then runs of others.
    order = [*study.models.paths(), ""]
    return dict(sorted(named.items(), key=lambda pair: order.index(authors[pair[1].name])))


def author_of(run):
    """The path of the model that wrote a run, as its header says."""
    return os.path.realpath(run.settings.get("model", ""))


def colours_of(study):
    """{model or run: colour}. A run has its model's colour; seeds of one training share theirs."""
    models = study.models
    trainings = dict.fromkeys(Path(name).name for name in models.tuned)
    by_training = dict(zip(trainings, itertools.cycle(COLOURS)))
    colours = {models.base: BASE_COLOUR}
    colours |= {name: by_training[Path(name).name] for name in models.tuned}
    by_path = {os.path.realpath(path): colours[name] for name, path in models.paths().items()}
    spare = itertools.cycle([c for c in COLOURS if c not in by_path.values()])
    of_runs = {}
    for name, run in unforced_runs(study).items():
        of_runs[name] = by_path.get(author_of(run)) or next(spare)
    return of_runs | colours


def accuracy_of(graded):
    """evaluate.metrics of a run -> {group: (accuracy, low, high)}."""
    return {
        group: (summary["accuracy"], summary["low"], summary["high"])
        for group, summary in graded["groups"].items()
        if summary["n_questions"]
    }


def measure_by_group(study, name):
    """One of the measures of the shown models -> {model: {group: (value, low, high)}}."""
    found = {}
    for model in study.models.shown:
        groups = study.results[model]["groups"]
        values = {group: study.measure(name, model, group) for group in groups}
        found[model] = {group: value for group, value in values.items() if value[0] is not None}
    return found


def shifted_by_task(study):
    """{"task, model": its most shifted tokens} of the pair, as many as the page has room for."""
    tasks = dict.fromkeys(
        task for name in study.models.shown for task in study.results[name]["tasks"]
    )
    panels = {}
    for task in tasks:
        for model in study.models.pair:
            found = study.results[model]["tasks"].get(task, {}).get("most_shifted")
            if found:
                panels[f"{task}, {model}"] = found
    return dict(list(panels.items())[:WORD_PANELS])


def habits_of(traces):
    """What the traces of a run do -> {behaviour: (percent of answers with one, low, high)}."""
    return {
        name: (found["share"], found["low"], found["high"])
        for name, found in traces["behaviours"].items()
    }
