"""What runs and measurements say: claims decided by paired differences, figures, and one self-contained page.

analyze.py measures and calls `draw` and `page`; here is no model and no torch. A run is a completion file with its
header; the same run under several seeds is one run with several replicates. Every number in a figure, a sentence or a
table is computed from these; whether a caveat is printed is decided by a number, too.
"""
import html
import io
import itertools
import json
import math
import os
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import evaluate
from data import run
from data.rows import BadInput, read_rows

MARGIN = 5                               # points; a difference whose interval lies within ± this counts as "the same"
MEASURES = {"KL": lambda s: s["kl_forward"]["macro"], "shifted": lambda s: s["shifted_per_response"],
            "PCA": lambda s: s["pca_shift"], "PCA masked": lambda s: s["pca_shift_masked"]}
INK, BASE_COLOUR = "#21262d", "#8a8f98"  # in the report INK becomes the colour of the page's text
COLOURS = "#d1670b #1f77b4 #2a9d57 #b0479b #a08a00 #17a2a8 #c43c4c #6f5bd0".split()


# ---------------------------------------------------------------- runs

class Run(NamedTuple):
    """A completion file: which run, which replicate (its seed, for people), what was asked for, what came out."""
    name: str
    seed: str
    settings: dict
    rows: list

    def of(self, model):
        return bool(self.settings.get("model")) and os.path.realpath(self.settings["model"]) == os.path.realpath(model)

    def forcing(self):
        budget, waits = self.settings.get("thinking_budget"), self.settings.get("waits")
        return ", ".join([f"budget {budget}"] * (budget is not None) + [f"Wait ×{waits}"] * bool(waits)) or "no forcing"


def scope(row):
    """(group, task) of a row, as evaluate.py reads them."""
    group = str(row.get("group") or "all")
    return group, str(row.get("task") or row.get("subject") or group)


def key(row):
    return str(row["id"]), row.get("sample", 0)


def right(row):
    return evaluate.grade(row, evaluate.answer_of(row))


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error})") from error


def read_runs(paths):
    """Completion files, and those of directories -> list of Run. Each directory is a replicate; people know it by the
    number after "seed" in its path, else by its place in the list."""
    files = [f for p in map(Path, paths) for f in (sorted(p.glob("*.jsonl")) if p.is_dir() else [p])]
    places = {f: os.path.realpath(f.parent) for f in files}
    seeds = {place: (re.findall(r"seed[-_]?(\d+)", place) or [""])[-1] for place in places.values()}
    if "" in seeds.values() or len(set(seeds.values())) < len(seeds):
        seeds = {place: str(i) for i, place in enumerate(seeds)}
    return [Run(f.stem, seeds[places[f]], read_json(h) if (h := run.header_of(f)).is_file() else {},
                read_rows(f, need=("id",))) for f in places]


def pooled(runs, name=None, group=None):
    """evaluate.metrics of the replicates of a run together; samples of one question stay apart by seed."""
    return evaluate.metrics([row | {"sample": f"{row.get('sample', 0)} of seed {r.seed}, run {r.name},"}
                             for r in runs if name in (None, r.name) for row in r.rows if group in (None, scope(row)[0])])


def shares(runs, name, group):
    """{seed: {question: share right}} of a run, in one group or in "all"; what `paired` takes."""
    return {r.seed: {q: share for s in pooled([r], name, None if group == "all" else group)["groups"].values()
                     for q, (share, _) in s["questions"].items()} for r in runs if r.name == name}


# ---------------------------------------------------------------- claims

def judge(low, high, expect):
    """Interval of a difference in points against what was expected -> (True, False or None for undecided, words)."""
    same = expect == "same"
    if same and -MARGIN <= low and high <= MARGIN:
        return True, f"yes, unchanged within {MARGIN} points"
    if low <= 0 <= high:
        return None, f"undecided, the interval leaves ±{MARGIN}" if same else "not significant"
    found = "higher" if low > 0 else "lower"
    return found == expect, f"no, {found}" if same else "yes" if found == expect else "reversed"


def paired(before, after):
    """Two {seed: {question: share right}} -> difference after - before in points over questions, with 95% interval. With
    several seeds a question counts once, with its mean over the seeds that both have. None: nothing in common."""
    seeds = [s for s in before if s in after]
    sides = [[side[s] for s in seeds] if seeds else list(side.values()) for side in (before, after)]
    shares = [{q: statistics.fmean(x[q] for x in side if q in x) for q in set().union(*side)} for side in sides]
    common = sorted(shares[0].keys() & shares[1].keys())
    if not common:
        return None
    difference, low, high = (100 * x for x in evaluate.paired_bootstrap(*([s[q] for q in common] for s in shares[::-1])))
    each = {s: 100 * statistics.fmean(after[s][q] - before[s][q] for q in both) for s in seeds
            if (both := before[s].keys() & after[s].keys())}
    old, new = (100 * statistics.fmean(side[q] for q in common) for side in shares)
    return {"before": old, "after": new, "difference": difference, "low": low, "high": high,
            "interval": f"{difference:+.1f} [{low:.1f}, {high:.1f}]", "n": len(common),
            "seeds": seeds or sorted({*before, *after}), "per_seed": each}


def settle(claim, runs, path):
    """A claim -> the claim with difference, interval, n, seeds, holds, verdict. Raises BadInput for what cannot be."""
    if not {"id", "text", "group", "from", "to"} <= set(claim) or claim.get("expect") not in ("higher", "lower", "same"):
        raise BadInput(f"--claims {path}: {claim} is not {{id, text, group, from, to, expect: higher, lower or same}}")
    found = paired(*(shares(runs, claim[side], claim["group"]) for side in ("from", "to")))
    if found is None:
        raise BadInput(f"--claims {path}: claim {claim['id']}: the runs '{claim['from']}' and '{claim['to']}' have no "
                       f"question of group '{claim['group']}' in common; --runs has {', '.join({r.name: 0 for r in runs})}")
    holds, words = judge(found["low"], found["high"], claim["expect"])
    seeds = [f"{s} ({d:+.1f})" for s, d in found["per_seed"].items()] if len(found["per_seed"]) > 1 else found["seeds"]
    verdict = f"{words}: {found['before']:.1f} → {found['after']:.1f}, {found['interval']}, n={found['n']}, seeds {', '.join(seeds)}"
    return claim | found | {"holds": holds, "verdict": verdict}


# ---------------------------------------------------------------- figures; their intervals are 95%

STYLE = {"font.size": 9.5, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "0",
         "legend.frameon": False, "text.parse_math": False, "svg.fonttype": "none", "figure.constrained_layout.use": True}
LABEL = {"textcoords": "offset points", "fontsize": 8}
STYLE |= {f"{thing}color": INK for thing in ("text.", "axes.edge", "axes.label", "axes.title", "xtick.", "ytick.")}


def grouped(figure, values, colours, label, log=False):
    """Bars side by side, or points on a log axis. values: {model: {group: (value, low, high)}}, low and high or None."""
    axes, groups = figure.subplots(), list(dict.fromkeys(group for by_group in values.values() for group in by_group))
    seen = [x for by_group in values.values() for triple in by_group.values() for x in triple if x and x > 0] or [1]
    floor, width = min(seen) if log else 0, 0.8 / len(values)
    for k, (model, by_group) in enumerate(values.items()):
        for group, (value, low, high) in by_group.items():
            x, y = groups.index(group) + (k - (len(values) - 1) / 2) * width, max(value, floor)
            error = None if low is None else [[max(0, y - max(low, floor))], [max(0, high - y)]]
            axes.bar(x, 0 if log else y, 0.9 * width, color=colours[model])
            axes.errorbar(x, y, error, fmt="o" if log else "none", color=colours[model] if log else INK, capsize=2)
            text = f"{value:.2g}" if log else f"{value:.1f}" if len(values) < 5 else f"{value:.0f}"
            axes.annotate(text, (x, max(y, high or 0)), (0, 3), ha="center", **LABEL)
        axes.plot([], [], "s", color=colours[model], label=model)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel=label, yscale="log" if log else "linear", xlim=(-0.5, len(groups) - 0.5),
             ylim=(floor / 2 if log else 0, (3 if log else 1.1) * max(seen)))
    axes.yaxis.set_major_formatter("{x:g}")


def budget_curve(figure, curves, colours):
    """Accuracy against thinking tokens. curves: see forced_points."""
    axes, tokens = figure.subplots(), [p["n_thinking_tokens"] for points in curves.values() for p in points]
    smallest = min(x for x in [*tokens, 64] if x > 0)
    ticks = [0, *(2**k for k in range(20) if smallest <= 2**k <= max(tokens))]
    for model, points in curves.items():
        x, y, low, high = ([p[name] for p in points] for name in ("n_thinking_tokens", "accuracy", "low", "high"))
        axes.errorbar(x, y, [[max(0, a - b) for a, b in pairs] for pairs in (zip(y, low), zip(high, y))], fmt="o-", capsize=2,
                      color=colours.get(model, INK), elinewidth=1, label=model)
        for i, point in enumerate(points):               # in turn above and below, as neighbours may be close
            axes.annotate(point["label"], (x[i], (high, low)[i % 2][i]), (0, (4, -12)[i % 2]), ha="center", **LABEL)
    # Logarithmic from the smallest number on, linear below it, so that an answer without thinking (0) has a place.
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.6)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set(xlabel="mean thinking tokens", ylabel="right answers, %", xlim=(-0.3 * smallest, 1.3 * max(tokens)), ylim=0)
    axes.grid(axis="y", alpha=0.25)


def shifted_words(figure, results, colours, n=12):
    """A panel per model with its most shifted tokens."""
    for axes, (model, result) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items()):
        words = result["most_shifted"][:n][::-1]
        for y, word in enumerate(words):
            axes.barh(y, word["sum"], color=colours[model])
            axes.annotate(f"{word['count']}×, {word['mean_shift']:+.1f}", (word["sum"], y), (3, 0), va="center", **LABEL)
        axes.set_yticks(range(len(words)), [word["token"][:20] for word in words])
        axes.set(title=model, xlabel="sum of |rank shift|", xlim=(0, 1.35 * max([w["sum"] for w in words] or [1])))


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
                triangle, = axes.plot(*after, "^", color=colours[model], ms=6, alpha=0.85, zorder=3)
            if task == tasks[0] and task in by_task:
                triangle.set_label(model)
    figure.supxlabel("shift along PC1", fontsize=9.5)
    figure.supylabel("place along PC2", fontsize=9.5)


def draw(study, out):
    """Write the PNG files -> {caption: SVG for the page, its ink the page's}. A figure without data is left out."""
    import matplotlib
    from matplotlib.figure import Figure
    plain = {}                                               # of a run with several seeds, the first
    for r in study.runs:
        if r.forcing() == "no forcing":
            plain.setdefault(r.name, r)
    accuracy = {name: {g: (s["accuracy"], s["low"], s["high"]) for g, s in pooled(study.runs, name)["groups"].items()
                       if s["n_questions"]} for name in plain}
    known = {os.path.realpath(path): study.colours[name] for name, path in {study.base: study.base_path, **study.tuned}.items()}
    spare = itertools.cycle([c for c in COLOURS if c not in known.values()])
    colours = {name: known.get(os.path.realpath(r.settings.get("model", ""))) or next(spare) for name, r in plain.items()}
    colours |= study.colours
    kl, shifted = ({m: {g: value(s) for g, s in study.results[m]["groups"].items()} for m in study.shown} for value in (
        lambda s: tuple(s["kl_forward"][k] for k in ("macro", "low", "high")),
        lambda s: (s["shifted_per_response"], None, None)))
    results, points = ({m: d[m] for m in study.shown} for d in (study.results, study.points))
    n_rows, drawn = math.ceil(max(map(len, points.values())) / 4), {}
    for name, height, plot, data, caption, *more in (
            ("budget", 3.9, budget_curve, study.curves, "Thinking cut at a budget or prolonged by “Wait”."),
            ("accuracy", 3.4, grouped, accuracy, "Every model, thinking as long as it wants.", "right answers, %"),
            ("kl", 3.4, grouped, kl, "Distance to the base on a model's own answers.", "KL per token, nats", True),
            ("rank_shift", 3.4, grouped, shifted, "Tokens whose rank training has changed.", "shifted tokens per answer"),
            ("tokens", 3.2, shifted_words, results, "The most shifted tokens: how often, and the mean shift."),
            ("pca", 0.8 + 1.75 * n_rows, pca_panels, n_rows and points,
             "Mean hidden states of each task's problems, a segment per layer: circle base, triangle tuned.")):
        (out / f"{name}.png").unlink(missing_ok=True)
        if data:
            with matplotlib.rc_context(STYLE):
                figure, svg = Figure((7.2, height)), io.StringIO()
                plot(figure, data, colours, *more)
                if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
                    figure.legend(loc="outside upper left", ncols=6, handletextpad=0.2, columnspacing=1)
                figure.savefig(out / f"{name}.png", dpi=160, facecolor="white")
                figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
            drawn[caption] = svg.getvalue()[svg.getvalue().index("<svg"):].replace(INK, "currentColor")
    return drawn


# ---------------------------------------------------------------- words, decided by the numbers

def forced_points(runs, group):
    """{model: a dict per run, by thinking tokens} for the models that ran under three budgets or numbers of waits."""
    curves = defaultdict(list)
    for r in {r.name: r for r in runs if r.settings.get("model")}.values():
        summary = pooled(runs, r.name, group)["all"]
        if summary["n_thinking_tokens"] is not None:
            point = {"name": r.name, "label": r.forcing(), "waits": r.settings.get("waits") or 0}
            curves[Path(r.settings["model"]).name].append(summary | point)
    return {model: sorted(points, key=lambda p: p["n_thinking_tokens"]) for model, points in curves.items()
            if len({p["label"] for p in points}) > 2}


def listed(items):
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def lead(study):
    said, before = [], study.accuracy.get(study.base, {})
    for name, by in ((name, study.accuracy[name]) for name in [study.base, *study.shown] if name in study.accuracy):
        scores = [f"{s['accuracy']:.1f}% in {g}" + (f" ({s['accuracy'] - before[g]['accuracy']:+.1f} points)"
                  if g in before and name != study.base else "") for g, s in by.items()]
        said.append(f"{name} ({study.kinds.get(name, 'base')}) is right on {listed(scores)}.")
    said += [f"Per token of its own answers, {n} is " + listed([f"{s['kl_forward']['macro']:.2g} ({g})" for g, s in
             r["groups"].items()]) + " nats of KL away from the base." for n, r in study.results.items() if n in study.shown]
    for model, points in study.curves.items():
        low, high = ("{accuracy:.1f}% ({label}, {n_thinking_tokens:.0f} tokens)".format(
            **pick(points, key=lambda p: p["accuracy"])) for pick in (min, max))
        said.append(f"Forcing {model} to think less or more moves it from {low} to {high}.")
    return " ".join(said)


def caveats(study):
    """What these numbers do not say; a number or a setting calls for each sentence."""
    said, group, runs = [], study.group, study.runs
    if len({r.seed for r in runs}) == 1:
        said.append("One seed: the intervals are over questions and hold nothing of what varies between trainings.")
    if runs and all(len({key(row)[0] for row in r.rows}) == len(r.rows) for r in runs):
        said.append("A majority vote over short answers was not measured; at equal tokens it may beat one long thought.")
    for model, points in study.curves.items():
        waits = [p for p in points if "budget" not in p["label"]]
        best, most = (max(waits, key=lambda p: p[by], default=None) for by in ("accuracy", "waits"))
        if best is not most and (found := paired(*(shares(runs, p["name"], group) for p in (best, most)))):
            said.append(f"More waiting is not always better: {most['label']} against {best['label']} makes "
                        f"{found['interval']} points for {model}" + (": in the end it hurts." if found["high"] < 0 else "."))
    free = {r.name: pooled(runs, r.name, group)["all"] for r in runs if r.forcing() == "no forcing"}
    order = sorted((s["n_thinking_tokens"], name, s["accuracy"]) for name, s in free.items() if s["n_thinking_tokens"])
    if len(order) > 2:
        agree = 100 * statistics.fmean(a[2] < b[2] for a, b in itertools.combinations(order, 2))
        said.append(f"Training changes how long a model thinks, too. Mean thinking tokens in {group}: " + listed(
            [f"{name} {tokens:.0f} ({accuracy:.0f}% right)" for tokens, name, accuracy in order]) + f". In {agree:.0f}% of "
            "the pairs the longer is the better one" + (": better and longer are not told apart." if agree > 60 else "."))
    if len(study.pair) == 2:
        one, other = (study.results[name]["groups"] for name in study.pair)
        how = [f"; {n}: {t['n_steps']} steps at learning rate {t['lr']:g}" for n in study.pair
               if {"n_steps", "lr"} <= set(t := study.training[n])]
        said.append(f"The two trainings are not matched in compute or accuracy{''.join(how)}.")
        for title, value in MEASURES.items():
            if less := [g for g in one if g in other and (value(one[g]) or 0) <= (value(other[g]) or 0)]:
                said.append(f"{title} is not larger for {study.pair[0]} than for {study.pair[1]} in {listed(less)}.")
    if full := [g for g, s in study.accuracy.get(study.base, {}).items() if s["accuracy"] > 95]:
        said.append(f"The base is right on more than 95% of {listed(full)}: training can lose there, hardly gain, and TI v2, "
                    "weighted by the room for gains, hardly sees a loss.")
    if closed := {"compare", "fact", "repeat"} & {task for r in study.results.values() for task in r["tasks"]}:
        said.append(f"Pretraining has seen the questions of {listed(sorted(closed))}: they show forgetting, not learning.")
    return said + ["The published PCA shift counts pads, lets layers cancel, and varies from seed to seed."]


# ---------------------------------------------------------------- tables and the page

def model_table(study):
    """SFT against RL, as text: a heading row, then a row per model; shown the other way round, for it has many columns."""
    groups = list(dict.fromkeys(g for r in study.results.values() for g in r["groups"]))
    rows = [{"model": m} | {f"right % {g}": study.accuracy.get(m, {}).get(g, {}).get("accuracy") for g in groups}
            | {f"TI {v} {g}": study.transfer.get(m, {}).get(v, {}).get(g) for g in groups for v in ("v1", "v2")}
            | {f"{name} {g}": value(s) if (s := study.results.get(m, {}).get("groups", {}).get(g)) else None
               for name, value in MEASURES.items() for g in groups} for m in [study.base, *study.tuned]]
    heads = [head for head in rows[0] if any(row[head] is not None for row in rows)]
    copies = defaultdict(list)                               # of one model, trained with several seeds
    for row in rows:
        copies[Path(row["model"]).name].append(row)
    lines = []
    for name, same in copies.items():
        lines.append([name if len(same) == 1 else f"{name}, {len(same)} seeds: mean ± sd"])
        for head in heads[1:]:
            values = [row[head] for row in same if row[head] is not None]
            lines[-1].append("-" if not values else number(statistics.fmean(values)) + (
                f" ± {number(statistics.stdev(values))}" if len(values) > 1 else ""))
    return [heads, *lines]


def number(x):
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2g}"


def page(study, claims, viewed, pictures, command):
    """The report. What a model or a file wrote is escaped here, or set as text by the page's script."""
    def table(rows, css):
        lines = ("<tr>" + "".join(f"<{'td' if i else 'th'}>{e(cell)}" for cell in row) for i, row in enumerate(rows))
        return f"<div class=wide><table class={css}>{''.join(lines)}</table></div>"
    e, words = html.escape, {True: "right", False: "wrong", None: "not graded"}
    about = [f"base {study.base}", "tuned " + listed([f"{m} ({kind})" for m, kind in study.kinds.items()]), "answers compared "
             f"token by token: {sum(r['all']['n_responses'] for r in study.results.values())}", "graded runs: "
             f"{len({r.name for r in study.runs})}", f"seeds: {', '.join(sorted({r.seed for r in study.runs}))}"]
    cards = "".join(f"<h3>{e(heading)}</h3><div class=pair>" + "".join(
        f"<div class=card><b>{e(t['title'])}</b> <b class={words[t['right']]}>{words[t['right']]}</b><br>{e(t['question'])}"
        f"<br><small>solution: {e(t['answer'])} · said: {e(t['said'])}</small>"
        f"<div class=tokens>{e(''.join(x[0] for x in t['tokens']))}</div></div>" for t in beside) + "</div>"
        for heading, beside in viewed)
    parts = {"ABOUT": e(" · ".join(about)), "COMMAND": e(command), "LEAD": e(lead(study)), "CARDS": cards,
             "CLAIMS": table(claims, "claims"), "MODELS": table([*zip(*model_table(study))], "numbers"),
             "FIGURES": "".join(f"<figure><div class=wide>{svg}</div><figcaption>{e(caption)}</figcaption></figure>"
                                for caption, svg in pictures.items()),
             "CAVEATS": "".join(f"<li>{e(sentence)}" for sentence in caveats(study)),
             # In JSON "<" may be written \u003c, so that no text can end the script element.
             "DATA": json.dumps([t["tokens"] for _, beside in viewed for t in beside]).replace("<", "\\u003c")}
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], PAGE)


PAGE = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1"><meta name=color-scheme
content="light dark"><title>What did training change?</title><style>:root{--ink:#21262d;--dim:#5b636e;--back:#fff;--card:#f5f6f8;--line:#d5d9df;
--good:#1a7f45;--bad:#c0362c;--heat:209,103,11}@media(prefers-color-scheme:dark){:root{--ink:#e2e6eb;--dim:#9aa4b0;--back:#14171b;--card:#1e2329;
--line:#39414a;--good:#4cc27f;--bad:#ff8378;--heat:240,130,30}}*{box-sizing:border-box}h2{margin:2.2rem 0 .6rem}figure{margin:1.6rem 0}
body{margin:auto;padding:1rem 1rem 8rem;max-width:58rem;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
.dim,small,figcaption,table{font-size:.88rem}.dim,small,figcaption{color:var(--dim)}code{overflow-wrap:anywhere}.wide{overflow-x:auto}
table{border-collapse:collapse}td,th{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
.numbers td+td,.numbers th+th{text-align:right}.numbers td{white-space:nowrap}figure svg{width:100%;min-width:34rem;height:auto}
.pair{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}.right{color:var(--good)}.wrong{color:var(--bad)}
.card,#tip{background:var(--card);border-radius:.5rem;padding:.7rem .9rem;min-width:0}.bar{position:sticky;top:0;background:var(--back);padding:.5rem 0}
.tokens{font:.85rem/1.75 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin-top:.5rem}.injected{outline:2px solid var(--ink)}
#tip{position:fixed;left:50%;bottom:.8rem;transform:translateX(-50%);width:min(36rem,94vw);border:1px solid var(--line);white-space:pre-line}</style>
<h1>What did training change?</h1><p class=dim>@ABOUT@<br><code>@COMMAND@</code><p>@LEAD@<h2>Claims</h2>@CLAIMS@<h2>SFT against RL</h2>@MODELS@
<p class=dim>TI: gain outside maths in percent of the gain in maths, two definitions. KL: nats per token of the tuned model's own answers, to the base.
Shifted: tokens per answer that the two rank differently. PCA: shift of mean hidden states as published, and (masked) without pads and signs.
<h2>Figures</h2><p class=dim>Intervals are 95%.@FIGURES@<h2>Token by token</h2><p>Problems on which the grades differ come first: these are examples,
not a sample. Framed tokens were written by budget forcing, not by the model. Point at a token or tap it.<p class=bar><label>Colour: <select id=by>
<option value=0>KL to the base<option value=1>rank shift<option value=2>entropy of the tuned model</select></label> from 0 to <span id=most></span>
@CARDS@<h2>What to keep in mind</h2><ul>@CAVEATS@</ul><div id=tip hidden></div><script type=application/json id=data>@DATA@</script><script>
const get=id=>document.getElementById(id),data=JSON.parse(get("data").textContent),boxes=[...document.querySelectorAll(".tokens")],
name=x=>x.trim()||JSON.stringify(x),value=t=>[t[1],Math.abs(t[2]-t[3]),t[4]][get("by").value];
boxes.forEach((box,i)=>box.replaceChildren(...data[i].map(t=>{const s=document.createElement("span");s.textContent=t[0];if(t[5])s.className="injected";
s.onpointerover=s.onclick=()=>{get("tip").hidden=false;get("tip").textContent=`${name(t[0])}${t[5]?" (injected)":""}\\nKL ${t[1]} nats · rank ${t[2]} `+
`under the base, ${t[3]} tuned · entropy ${t[4]} nats\\nthe base expected `+t[6].map(x=>`${name(x[0])} ${(100*x[1]).toFixed(1)}%`).join(", ")};return s})));
function paint(){const all=data.flat().map(value).sort((a,b)=>a-b),most=all[Math.floor(all.length*.98)]||all.at(-1)||1;get("most").textContent=
most.toPrecision(2);boxes.forEach((box,i)=>[...box.children].forEach((s,j)=>s.style.background=`rgba(var(--heat),${
(.85*Math.sqrt(Math.min(1,value(data[i][j])/most))).toFixed(3)})`))}get("by").onchange=paint;paint();
document.addEventListener("click",e=>{if(!e.target.closest(".tokens"))get("tip").hidden=true})</script></html>
"""
