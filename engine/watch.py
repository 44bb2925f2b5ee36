"""What a person sees of a reinforcement learning run beside its log: warnings in words, samples, curves."""

import math
import statistics

WINDOW = 5  # steps that a warning looks at, the last and the first


def warnings_of(history, most_ratio=1e-3):
    """Log rows of grpo.py so far -> {kind: what is wrong, in words}. most_ratio: how far the ratio before the first update
    may be from 1, which it is but for rounding when rollout and training are one policy in float32."""

    def mean(rows, name):
        values = [row[name] for row in rows if row.get(name) is not None]
        return statistics.fmean(values) if values else math.nan

    found, first, last = {}, history[:WINDOW], history[-WINDOW:]
    ratio = history[-1]["ratio_first"]
    if ratio is not None and ratio > most_ratio:
        found["drift"] = (
            f"rollout and training drift apart: before the first update a token's probability is off by a "
            f"factor of {1 + ratio:.3g}; what is trained is not what was sampled"
        )
    if len(history) < WINDOW:
        return found
    if all(row["equal_groups"] == row["n_groups"] for row in last):
        found["equal"] = (
            f"all groups of the last {WINDOW} steps had equal rewards (mean {mean(last, 'reward'):.3g}): "
            "nothing is learned; the problems are too hard or too easy, or the reward is broken"
        )
    before, now = mean(first, "entropy"), mean(last, "entropy")
    if now < 0.1 * before:
        found["entropy"] = (
            f"entropy collapses: {now:.2g} nats per token, in the beginning {before:.2g}; the samples "
            "grow alike (--entropy, --eps-high, a lower --lr)"
        )
    before, now = mean(first, "truncated"), mean(last, "truncated")
    if now > max(0.5, 0.25 + before):
        found["length"] = (
            f"length explodes: {now:.0%} of the completions run into --max-tokens, in the beginning "
            f"{before:.0%} (--mask-truncated, or overlong:N in the reward)"
        )
    return found


def line_of(row, width=240):
    """A rewarded completion row as one line for a terminal: no control characters, the middle of a long text left out."""
    text = " ".join(
        "".join(
            c if c.isprintable() else " " for c in f"{row['question']} >> {row['text']}"
        ).split()
    )
    if len(text) > width:
        text = f"{text[: width // 2]} ... {text[-width // 2 :]}"
    return f"  reward {row['reward']:.3g}, {row['n_tokens']} tokens: {text}"


PANELS = (
    ("reward", "accuracy", "held_out"),
    ("n_tokens",),
    ("truncated", "clip_fraction"),
    ("entropy",),
    ("kl",),
    ("grad_norm",),
    ("ratio_first", "dlogp"),
    ("rollout_tok_s", "update_tok_s"),
)


def draw_curves(history, path):
    """Log rows as a PNG, over steps; a panel for each of PANELS."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, names in zip(figure.subplots(2, 4).flat, PANELS):
        for name in names:
            points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
            axes.plot(
                *zip(*points or [(math.nan, math.nan)]),
                label=name,
                marker="." if len(points) < 20 else None,
            )
        axes.legend(fontsize=8)
        if "ratio_first" in names:
            axes.set_yscale("log")
    FigureCanvasAgg(figure).print_png(path)
