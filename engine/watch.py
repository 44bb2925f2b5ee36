"""A reinforcement learning run for people, beside its log: warnings in words, samples, curves."""

import math
import statistics

from engine import runlog
from engine.axes import name_decades, name_steps, say_empty

WINDOW = 5  # steps that a warning compares: the last ones and the first ones
SHOW_EVERY = 25  # steps between samples on the terminal
SAMPLE = ("id", "question", "text", "reward", "right", "advantage", "n_tokens")  # in samples.jsonl
PANELS = (  # of curves.png
    ("reward", "accuracy", "held_out"),
    ("n_tokens",),
    ("truncated", "clip_fraction"),
    ("entropy",),
    ("kl",),
    ("grad_norm",),
    ("ratio_first", "dlogp"),
    ("rollout_tok_s", "update_tok_s"),
)


class Watcher:
    """Writes samples.jsonl and curves.png of a run, and prints samples and warnings."""

    def __init__(self, run, most_ratio):
        """run: a training.Run that is about to take its steps. most_ratio: see warnings_of."""
        self.run, self.most_ratio = run, most_ratio
        self.warned = set()  # kinds of warnings that hold since an earlier step
        self.samples = None
        if run.ranks.leads:
            self.samples = runlog.Log(run.out / "samples.jsonl", run.start, every=0)

    def look(self, step, groups, is_last):
        """Look at the groups of a step after it was logged."""
        group = groups[0] if groups else []
        if self.samples:
            self.samples(step + 1, group=[{name: row[name] for name in SAMPLE} for row in group])
        if step % SHOW_EVERY == 0 or is_last:
            for row in worst_and_best(group):
                self.run.say(line_of(row))
        found = warnings_of(self.run.history, self.most_ratio)
        for kind in found.keys() - self.warned:
            self.run.say(f"warning: {found[kind]}")
        self.warned = found.keys()

    def finish(self):
        """Say how many groups taught nothing, and draw the curves."""
        taken = self.run.taken
        n_equal, n_groups, n_failed = (
            sum(row[name] for row in taken)
            for name in ("equal_groups", "n_groups", "reward_failures")
        )
        self.run.say(
            f"groups with equal rewards, which teach nothing: {n_equal} of {n_groups}; "
            f"without a reward, left out: {n_failed}"
        )
        if self.run.ranks.leads:
            draw_curves(self.run.history, self.run.out / "curves.png")


def warnings_of(history, most_ratio=1e-3):
    """Log rows of grpo.py so far -> {kind: the problem in words}.

    most_ratio: how far the ratio before the first update may be from 1. Up to rounding it is 1 when
    rollout and training are one policy in float32.
    """

    def mean(rows, name):
        values = [row[name] for row in rows if row.get(name) is not None]
        return statistics.fmean(values) if values else math.nan

    found, first, last = {}, history[:WINDOW], history[-WINDOW:]
    ratio = history[-1]["ratio_first"]
    if ratio is not None and ratio > most_ratio:
        found["drift"] = (
            "rollout and training drift apart: before the first update a token's probability is "
            f"off by a factor of {1 + ratio:.3g}; what is trained is not what was sampled "
            "(--tis 2 weights the tokens by how likely they are in training)"
        )
    if len(history) < WINDOW:
        return found
    if all(row["equal_groups"] == row["n_groups"] for row in last):
        found["equal"] = (
            f"all groups of the last {WINDOW} steps had equal rewards (mean "
            f"{mean(last, 'reward'):.3g}): nothing is learned; the problems are too hard or too "
            "easy, or the reward is broken"
        )
    before, now = mean(first, "entropy"), mean(last, "entropy")
    if now < 0.1 * before:
        found["entropy"] = (
            f"entropy collapses: {now:.2g} nats per token, in the beginning {before:.2g}; the "
            "samples grow alike (--entropy, --eps-high, a lower --lr)"
        )
    before, now = mean(first, "truncated"), mean(last, "truncated")
    if now > max(0.5, 0.25 + before):
        found["length"] = (
            f"length explodes: {now:.0%} of the completions run into --max-tokens, in the "
            f"beginning {before:.0%} (--mask-truncated, or overlong:N in the reward)"
        )
    return found


def worst_and_best(group):
    """The rows of a group with the lowest and the highest reward."""
    ordered = sorted(group, key=lambda row: row["reward"])
    return ordered[:1] + ordered[1:][-1:]


def line_of(row, width=240):
    """A rewarded completion row as one line for a terminal.

    Without control characters; the middle of a long text is left out.
    """
    text = f"{row['question']} >> {row['text']}"
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split())
    if len(text) > width:
        text = f"{text[: width // 2]} ... {text[-width // 2 :]}"
    return f"  reward {row['reward']:.3g}, {row['n_tokens']} tokens: {text}"


def draw_curves(history, path):
    """Draw log rows over steps into a PNG, a panel for each of PANELS."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, names in zip(figure.subplots(2, 4).flat, PANELS):
        measured = [name for name in names if any(row.get(name) is not None for row in history)]
        axes.set_title(", ".join(measured or names), fontsize=9)
        if not measured:
            say_empty(axes, "not measured")
            continue
        lines = [draw_curve(axes, history, name) for name in measured]
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        name_steps(axes, [row["step"] for row in history])
        if len(measured) > 1:
            axes.legend(fontsize=8)
        values = [y for line in lines for y in line if y > 0]
        if "ratio_first" in measured and values:
            axes.set_yscale("log")
            name_decades(axes.yaxis, min(values), max(values))
    FigureCanvasAgg(figure).print_png(path)


def draw_curve(axes, history, name):
    """Draw one number of the log over steps -> its values."""
    rows = [row for row in history if row.get(name) is not None]
    values = [row[name] for row in rows]
    few = "." if len(rows) < 20 else None
    # Dashed, as it may lie on the reward.
    style = "--" if name == "accuracy" else "-"
    axes.plot([row["step"] for row in rows], values, style, label=name, marker=few)
    return values
