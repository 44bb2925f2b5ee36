"""The report's figures, each a function that draws given numbers into a matplotlib figure; their intervals are 95%.

What is drawn is decided in report/page.py. INK is the one colour that the page replaces by that of its text.
"""

import itertools
import math

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
}
LABEL = {"textcoords": "offset points", "fontsize": 8}
STYLE |= {
    f"{thing}color": INK
    for thing in ("text.", "axes.edge", "axes.label", "axes.title", "xtick.", "ytick.")
}


def grouped(figure, values, colours, label, log=False):
    """Bars side by side, or points on a log axis. values: {model: {group: (value, low, high)}}, low and high or None."""
    axes, groups = (
        figure.subplots(),
        list(dict.fromkeys(group for by_group in values.values() for group in by_group)),
    )
    seen = [
        x
        for by_group in values.values()
        for triple in by_group.values()
        for x in triple
        if x and x > 0
    ] or [1]
    floor, width = min(seen) if log else 0, 0.8 / len(values)
    for k, (model, by_group) in enumerate(values.items()):
        for group, (value, low, high) in by_group.items():
            x, y = groups.index(group) + (k - (len(values) - 1) / 2) * width, max(value, floor)
            error = None if low is None else [[max(0, y - max(low, floor))], [max(0, high - y)]]
            axes.bar(x, 0 if log else y, 0.9 * width, color=colours[model])
            axes.errorbar(
                x,
                y,
                error,
                fmt="o" if log else "none",
                color=colours[model] if log else INK,
                capsize=2,
            )
            text = f"{value:.2g}" if log else f"{value:.1f}" if len(values) < 5 else f"{value:.0f}"
            axes.annotate(text, (x, max(y, high or 0)), (0, 3), ha="center", **LABEL)
        axes.plot([], [], "s", color=colours[model], label=model)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(
        ylabel=label,
        yscale="log" if log else "linear",
        xlim=(-0.5, len(groups) - 0.5),
        ylim=(floor / 2 if log else 0, (3 if log else 1.1) * max(seen)),
    )
    axes.yaxis.set_major_formatter("{x:g}")


def budget_curve(figure, curves, colours):
    """Accuracy against thinking tokens. curves: see forced_points."""
    axes, tokens = (
        figure.subplots(),
        [p["n_thinking_tokens"] for points in curves.values() for p in points],
    )
    smallest = min(x for x in [*tokens, 64] if x > 0)
    ticks = [0, *(2**k for k in range(20) if smallest <= 2**k <= max(tokens))]
    for model, points in curves.items():
        x, y, low, high = (
            [p[name] for p in points] for name in ("n_thinking_tokens", "accuracy", "low", "high")
        )
        axes.errorbar(
            x,
            y,
            [[max(0, a - b) for a, b in pairs] for pairs in (zip(y, low), zip(high, y))],
            fmt="o-",
            capsize=2,
            color=colours.get(model, INK),
            elinewidth=1,
            label=model,
        )
        for i, point in enumerate(points):  # in turn above and below, as neighbours may be close
            axes.annotate(
                point["label"],
                (x[i], (high, low)[i % 2][i]),
                (0, (4, -12)[i % 2]),
                ha="center",
                **LABEL,
            )
    # Logarithmic from the smallest number on, linear below it, so that an answer without thinking (0) has a place.
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.6)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set(
        xlabel="mean thinking tokens",
        ylabel="right answers, %",
        xlim=(-0.3 * smallest, 1.3 * max(tokens)),
        ylim=0,
    )
    axes.grid(axis="y", alpha=0.25)


def shifted_words(figure, results, colours, n=12):
    """A panel per model with its most shifted tokens."""
    for axes, (model, result) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items()
    ):
        words = result["most_shifted"][:n][::-1]
        for y, word in enumerate(words):
            axes.barh(y, word["sum"], color=colours[model])
            axes.annotate(
                f"{word['count']}×, {word['mean_shift']:+.1f}",
                (word["sum"], y),
                (3, 0),
                va="center",
                **LABEL,
            )
        axes.set_yticks(range(len(words)), [word["token"][:20] for word in words])
        axes.set(
            title=model,
            xlabel="sum of |rank shift|",
            xlim=(0, 1.35 * max([w["sum"] for w in words] or [1])),
        )


def pca_panels(figure, points, colours, columns=4):
    """A panel per task. Circle: base, triangle: tuned, a grey segment for each layer."""
    tasks = list(dict.fromkeys(task for by_task in points.values() for task in by_task))
    panels = figure.subplots(math.ceil(len(tasks) / columns), columns, squeeze=False).flatten()
    for axes, task in itertools.zip_longest(panels, tasks):
        axes.set(title=task or "", xmargin=0.12, ymargin=0.12, visible=task is not None)
        for model, by_task in points.items():
            for before, after in by_task.get(task, ()):
                axes.plot(*zip(before, after), color=BASE_COLOUR, lw=0.8, zorder=1)
                axes.plot(*before, "o", color=BASE_COLOUR, ms=5, zorder=2)
                (triangle,) = axes.plot(
                    *after, "^", color=colours[model], ms=6, alpha=0.85, zorder=3
                )
            if task == tasks[0] and task in by_task:
                triangle.set_label(model)
    figure.supxlabel("shift along PC1", fontsize=9.5)
    figure.supylabel("place along PC2", fontsize=9.5)


def along(figure, results, colours, group):
    """KL and rank shift by position in a response, entropy along it (base: dashed). results: entries of metrics.json."""
    panels = figure.subplots(1, 3)
    for model, result in results.items():
        found = result["groups"].get(group)
        if not found:
            continue
        places, tenths = found["by_position"], found["by_tenth"]
        known = [i for i, n in enumerate(places["n"]) if n >= 30]  # fewer tokens say little
        x = [(i + 0.5) * places["width"] for i in known]
        for axes, name in zip(panels, ("kl_forward", "rank_shift")):
            axes.plot(
                x,
                [places[name][i] for i in known],
                color=colours[model],
                lw=1.4,
                label=model if name == "kl_forward" else None,
            )
        middle = [10 * i + 5 for i in range(len(tenths["n"]))]
        panels[2].plot(middle, tenths["entropy_tuned"], color=colours[model], lw=1.4)
        panels[2].plot(middle, tenths["entropy_base"], color=colours[model], lw=1, ls="--")
    for axes, title, x in zip(
        panels,
        ("KL to the base, nats", "mean rank shift", "entropy, nats (base dashed)"),
        ("token of the answer", "token of the answer", "% of the answer"),
    ):
        axes.set(title=title, xlabel=x, ylim=(min(0, axes.get_ylim()[0]), None))
        axes.grid(axis="y", alpha=0.25)


def word_pictures(figure, panels, width, height):
    """Words by how often and how far they are shifted, the larger the more, as many as there is room for. panels: {title:
    most_shifted}; width and height of a panel in inches."""
    from matplotlib.textpath import TextPath

    columns = min(3, len(panels))
    grid = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False).flatten()
    inside, bottom = 72 * width * 0.9, -72 * height * 0.8  # points
    for axes, title in itertools.zip_longest(grid, panels):
        axes.set_axis_off()
        if title is None:
            continue
        axes.set_title(title)
        words, x, y, tallest = panels[title], 0.0, 0.0, 0.0
        for word in words:
            size = 7 + 15 * math.sqrt(word["sum"] / words[0]["sum"])
            text = word["token"][:16]
            wide = TextPath((0, 0), text, size=size).get_extents().width + 6
            if x and x + wide > inside:  # the next line; words come by size
                x, y, tallest = 0.0, y - 1.25 * tallest, 0.0
            if y - size < bottom:
                break
            tallest = max(tallest, size)
            axes.text(x, y, text, fontsize=size, color=CLASSES[word["class"]], va="top")
            x += wide
        axes.set(xlim=(0, inside), ylim=(bottom, 2))


def weight_panels(figure, weights, colours):
    """Share of weights that did not change, by tolerance; size of the update against that of the weights, layer by layer."""
    left, right = figure.subplots(1, 2)
    for model, found in weights.items():
        for dtype, style in (("fp32", "o-"), ("bf16", "s--")):
            shares = found["unchanged"][dtype]
            left.plot(
                range(len(shares)),
                list(shares.values()),
                style,
                color=colours[model],
                ms=4,
                lw=1.2,
                label=model if dtype == "fp32" else None,
            )
        layers = {k: v for k, v in found["layers"].items() if k.startswith("layer ")}
        order = sorted(layers, key=lambda k: int(k.split()[1]))
        sizes = [layers[k]["update_norm"] / max(layers[k]["norm"], 1e-30) for k in order]
        right.plot(
            [int(k.split()[1]) for k in order], sizes, "o-", color=colours[model], ms=4, lw=1.2
        )
    left.set_xticks(range(len(shares)), [t if t != "0" else "exact" for t in shares])
    left.set(title="unchanged weights, % (bf16 dashed)", xlabel="tolerance", ylim=(-3, 103))
    right.set(title="‖update‖ / ‖weights‖", xlabel="layer", ylim=(0, None))
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)
