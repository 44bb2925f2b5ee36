"""What runs and measurements say: claims decided by paired differences, figures, and one self-contained page.

analyze.py measures and calls `draw` and `page`; here is no model and no torch. A run is a completion file with its
header; the same run under several seeds is one run with several replicates. Every number in a figure, a sentence or a
table is computed from these; whether a caveat is printed is decided by a number, too. The page is report/page.html.
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
from types import SimpleNamespace
from typing import NamedTuple

import evaluate
from engine import runlog
from engine.format import FORMATS
from engine.rows import BadInput, read_rows
from grading.answers import answer_of, grade
from report import behaviours, figures
from report.figures import BASE_COLOUR, COLOURS, INK

VIEWED_TOKENS = 800  # of a transcript in the report
MARGIN = 5  # points; a difference whose interval lies within ± this counts as "the same"
# What sets SFT and RL apart, of a summary of analyze.py: (value, low, high), None where there is no interval.
MEASURES = {
    "KL": lambda s: tuple(s["kl_forward"][k] for k in ("macro", "low", "high")),
    "shifted": lambda s: (s["shifted_per_response"], s["shifted_low"], s["shifted_high"]),
    "PCA": lambda s: (s["pca_shift"], None, None),
    "PCA masked": lambda s: (s["pca_shift_masked"], None, None),
}


# ---------------------------------------------------------------- runs


class Run(NamedTuple):
    """A completion file: which run, which replicate (its seed, for people), what was asked for, what came out."""

    name: str
    seed: str
    settings: dict
    rows: list

    def of(self, model):
        return bool(self.settings.get("model")) and os.path.realpath(
            self.settings["model"]
        ) == os.path.realpath(model)

    def forcing(self):
        budget, waits = self.settings.get("thinking_budget"), self.settings.get("waits")
        return (
            ", ".join(
                [f"budget {budget}"] * (budget is not None) + [f"Wait ×{waits}"] * bool(waits)
            )
            or "no forcing"
        )


def scope(row):
    """(group, task) of a row, as evaluate.py reads them."""
    group = str(row.get("group") or "all")
    return group, str(row.get("task") or row.get("subject") or group)


def key(row):
    return str(row["id"]), row.get("sample", 0)


def right(row):
    return grade(row, answer_of(row))


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error})") from error


def read_runs(paths):
    """Completion files, and those of directories -> list of Run. Each directory is a replicate; people know it by the
    number after "seed" in its path, else by its place in the list."""
    files = [
        f for p in map(Path, paths) for f in (sorted(p.glob("*.jsonl")) if p.is_dir() else [p])
    ]
    places = {f: os.path.realpath(f.parent) for f in files}
    seeds = {place: (re.findall(r"seed[-_]?(\d+)", place) or [""])[-1] for place in places.values()}
    if "" in seeds.values() or len(set(seeds.values())) < len(seeds):
        seeds = {place: str(i) for i, place in enumerate(seeds)}
    return [
        Run(
            f.stem,
            seeds[places[f]],
            read_json(h) if (h := runlog.header_of(f)).is_file() else {},
            read_rows(f, need=("id",)),
        )
        for f in places
    ]


def pooled(runs, name=None, group=None):
    """evaluate.metrics of the replicates of a run together; samples of one question stay apart by seed."""
    return evaluate.metrics(
        [
            row | {"sample": f"{row.get('sample', 0)} of seed {r.seed}, run {r.name},"}
            for r in runs
            if name in (None, r.name)
            for row in r.rows
            if group in (None, scope(row)[0])
        ]
    )


def shares(runs, name, group):
    """{seed: {question: share right}} of a run, in one group or in "all"; what `paired` takes."""
    return {
        r.seed: {
            q: share
            for s in pooled([r], name, None if group == "all" else group)["groups"].values()
            for q, (share, _) in s["questions"].items()
        }
        for r in runs
        if r.name == name
    }


def completions_of(path, files, cfg):
    """What the model at `path` wrote, without forcing if there is such -> (rows, rows skipped, their format)."""
    mine = [f for f in files if f.of(path)] or files[: len(files) == 1]
    mine = [f for f in mine if f.forcing() == "no forcing"] or mine
    if mine and not mine[0].of(path):
        print(
            f"warning: --data {mine[0].name}: its header does not say that {path} wrote it; taken for that all the same"
        )
    form = cfg.format or next((f.settings.get("format") for f in mine), None)
    if form not in FORMATS:
        raise BadInput(
            f"--tuned {path}: no file of --data "
            + (
                "names its format in its header; give --format"
                if mine
                else "says in its header that this model wrote it"
            )
        )
    for f in mine:
        known = (f.settings.get("identity") or {}).get("contents of --model")
        if known and f.of(path) and known != runlog.fingerprint(path):
            print(
                f"warning: --data {f.name}: its header says that another state of {path} wrote it (contents of --model)"
            )
    rows = [row for f in mine for row in f.rows]
    kept = [row for row in rows if row.get("ids") and row.get("question") is not None]
    print(
        f"{path}: {len(kept)} completions, {len(rows) - len(kept)} without token ids or question skipped"
    )
    if not kept:
        raise BadInput(
            f"--tuned {path}: none of its completions has a question and token ids (field 'ids')"
        )
    return kept, len(rows) - len(kept), FORMATS[form]


# ---------------------------------------------------------------- the study, and what the report shows of it


def describe(cfg, tuned, runs):
    """What can be said before a model is loaded: training settings, accuracy, transferability. tuned: {name: path}.

    Returns the study, what the report speaks about; the keys of its dicts are names of models.
    """
    study = SimpleNamespace(
        base=Path(cfg.base).name,
        base_path=cfg.base,
        tuned=tuned,
        runs=runs,
        training={},
        kinds={},
        accuracy={},
        transfer={},
        results={},
        points={},
        questions={},
        compute={},
        matched={},
        weights={},
        refused={},
        overlaps=[],
        published=cfg.kl == "published",
    )
    colours = dict(zip(dict.fromkeys(Path(name).name for name in tuned), itertools.cycle(COLOURS)))
    study.colours = {study.base: BASE_COLOUR} | {name: colours[Path(name).name] for name in tuned}
    for name, path in {study.base: cfg.base, **tuned}.items():
        if free := [r for r in runs if r.of(path) and r.forcing() == "no forcing"]:
            summary = pooled(free, name if name in {r.name for r in free} else free[0].name)
            study.accuracy[name] = {g: s for g, s in summary["groups"].items() if s["n_questions"]}
    scores = {
        name: {
            g: {task: t["accuracy"] for task, t in s["tasks"].items() if t["n_questions"]}
            for g, s in by_group.items()
        }
        for name, by_group in study.accuracy.items()
    }
    for name, path in tuned.items():
        settings = (
            read_json(f"{path}/training.json") if Path(path, "training.json").is_file() else {}
        )
        study.training[name] = settings
        study.kinds[name] = (
            "RL" if "reward" in settings else "SFT" if "train_on" in settings else "tuned"
        )
        if settings.get("identity", {}).get("contents of --model") not in (
            None,
            runlog.fingerprint(cfg.base),
        ):
            print(f"warning: {path} was not trained from {cfg.base} as it is now (training.json)")
        before, after = scores.get(study.base, {}), scores.get(name, {})
        if "math" in before and all(set(before[g]) == set(after.get(g, ())) for g in before):
            study.transfer[name] = {}
            for version in ("v1", "v2"):
                index = evaluate.transferability(before, after, version=version)
                study.transfer[name][version] = {
                    g: None if math.isnan(ti) else ti for g, ti in index.items()
                }
    first = {kind: name for name, kind in [*study.kinds.items()][::-1]}
    study.pair = [first["SFT"], first["RL"]] if {"SFT", "RL"} <= set(first) else [*tuned][:2]
    # Of models trained with several seeds ("seed1/grpo") the figures show the first; the table has mean and deviation.
    study.shown = study.pair if any("/" in name for name in tuned) else [*tuned]
    return study


def choose_pairs(one, other):
    """Problems that two models answered -> [(row, row)]: two of the first group, one of the others; differing grades first."""
    others, groups = {key(row): row for row in other}, defaultdict(dict)
    for row in one:
        if key(row) in others and right(row) is not None:
            groups[scope(row)[0]].setdefault(
                (right(row), right(others[key(row)])), (row, others[key(row)])
            )
    order = ((False, True), (True, False), (True, True), (False, False))
    return [
        pair
        for i, by in enumerate(groups.values())
        for pair in [by[o] for o in order if o in by][: 1 + (i == 0)]
    ]


def choose_waits(runs, model, n=3):
    """Completions with a forced Wait -> [(run, row)]: n whose answer it mended and one whose answer it spoilt."""
    # by whether the answer is right in the end
    found, mine = {True: [], False: []}, [r for r in runs if r.of(model)]
    for forced in sorted(mine, key=lambda r: r.settings.get("waits") or 0):
        before = {
            key(row): right(row)
            for r in mine
            if (r.seed, r.forcing()) == (forced.seed, "no forcing")
            for row in r.rows
        }
        for row in forced.rows:
            if (
                row.get("n_waits")
                and row.get("ids")
                and {now := right(row), before.get(key(row))} == {True, False}
            ):
                found[now].append((forced, row))
    return found[True][:n] + found[False][-1:]


def to_show(cfg, study, written):
    """Rows for the report -> {model: [(heading, title, row)]}: the pair's answers to some problems and the base's own, and
    completions with a forced Wait."""
    viewed = {name: [] for name in (study.base, *study.tuned)}
    free = [r for r in study.runs if r.of(cfg.base) and r.forcing() == "no forcing"]
    own = {key(row): row for r in free for row in r.rows if row.get("ids")}
    for pair in choose_pairs(*(written[name][0] for name in (study.pair * 2)[:2])):
        heading = f"{' / '.join(dict.fromkeys(scope(pair[0])))}, problem {pair[0]['id']}"
        if key(pair[0]) in own:
            viewed[study.base].append((heading, f"{study.base} (base)", own[key(pair[0])]))
        for name, row in zip(study.pair, pair):
            viewed[name].append((heading, f"{name} ({study.kinds[name]})", row))
    for name in study.shown[:6]:  # the page stays below 5 MB
        for r, row in choose_waits(study.runs, study.tuned[name]):
            was = "wrong" if right(row) else "right"
            viewed[name].append(
                (
                    f"{' / '.join(dict.fromkeys(scope(row)))}, {r.forcing()}: {was} without it",
                    r.name,
                    row,
                )
            )
    return viewed


def piece(tokenizer, *ids):
    """Text of the last of one or two tokens, with the space that the tokenizer puts between them."""
    exact = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(ids, **exact)[len(tokenizer.decode(ids[:-1], **exact)) :]


def transcript(tokenizer, row, values, title):
    """What the viewer shows of a completion: at most VIEWED_TOKENS tokens, each as the page's script takes it apart."""
    ids, injected, tokens = row["ids"][:VIEWED_TOKENS], set(row.get("injected") or ()), []
    names = "kl_forward", "rank_base", "rank_tuned", "entropy_tuned", "likely_ids", "likely_p"

    def short(x, digits=4):  # JSON knows no NaN
        return round(x, digits) if math.isfinite(x) else None

    for i, (kl, rank_base, rank_tuned, entropy, top, p) in enumerate(
        zip(*(values[name].tolist() for name in names))
    ):
        likely = [[piece(tokenizer, int(t)), short(x, 3)] for t, x in zip(top, p)]
        tokens.append(
            [
                piece(tokenizer, *ids[max(0, i - 1) : i + 1]),
                short(kl),
                int(rank_base),
                int(rank_tuned),
                short(entropy),
                int(i in injected),
                likely,
            ]
        )
    return {
        "title": title,
        "question": str(row["question"]),
        "answer": str(row.get("answer", "not given")),
        "said": str(answer_of(row) or "nothing"),
        "right": right(row),
        "tokens": tokens,
    }


# ---------------------------------------------------------------- claims and differences


def judge(low, high, expect):
    """Interval of a difference in points against what was expected -> (True, False or None for undecided, words)."""
    same = expect == "same"
    if same and -MARGIN <= low and high <= MARGIN:
        return True, f"yes, unchanged within {MARGIN} points"
    if low <= 0 <= high:
        return None, f"undecided, the interval leaves ±{MARGIN}" if same else "not significant"
    found = "higher" if low > 0 else "lower"
    return found == expect, f"no, {found}" if same else "yes" if found == expect else "reversed"


def paired(before, after, scale=100, n_resamples=10_000):
    """Two {seed: {question: share right}} -> difference after - before in points over questions, with 95% interval. With
    several seeds a question counts once, with its mean over the seeds that both have. None: nothing in common."""
    seeds = [s for s in before if s in after]
    sides = [[side[s] for s in seeds] if seeds else list(side.values()) for side in (before, after)]
    shares = [
        {q: statistics.fmean(x[q] for x in side if q in x) for q in set().union(*side)}
        for side in sides
    ]
    common = sorted(shares[0].keys() & shares[1].keys())
    if not common:
        return None
    sides = [[s[q] for q in common] for s in shares]
    difference, low, high = (
        scale * x for x in evaluate.paired_bootstrap(*sides[::-1], n_resamples)
    )
    each = {
        s: scale * statistics.fmean(after[s][q] - before[s][q] for q in both)
        for s in seeds
        if (both := before[s].keys() & after[s].keys())
    }
    old, new = (scale * statistics.fmean(side) for side in sides)
    return {
        "before": old,
        "after": new,
        "difference": difference,
        "low": low,
        "high": high,
        "interval": f"{difference:+.1f} [{low:.1f}, {high:.1f}]",
        "n": len(common),
        "seeds": seeds or sorted({*before, *after}),
        "per_seed": each,
    }


def settle(claim, runs, path):
    """A claim -> the claim with difference, interval, n, seeds, holds, verdict. Raises BadInput for what cannot be."""
    if not {"id", "text", "group", "from", "to"} <= set(claim) or claim.get("expect") not in (
        "higher",
        "lower",
        "same",
    ):
        raise BadInput(
            f"--claims {path}: {claim} is not {{id, text, group, from, to, expect: higher, lower or same}}"
        )
    found = paired(*(shares(runs, claim[side], claim["group"]) for side in ("from", "to")))
    if found is None:
        raise BadInput(
            f"--claims {path}: claim {claim['id']}: the runs '{claim['from']}' and '{claim['to']}' have no "
            f"question of group '{claim['group']}' in common; --runs has {', '.join({r.name: 0 for r in runs})}"
        )
    holds, words = judge(found["low"], found["high"], claim["expect"])
    seeds = (
        [f"{s} ({d:+.1f})" for s, d in found["per_seed"].items()]
        if len(found["per_seed"]) > 1
        else found["seeds"]
    )
    verdict = (
        f"{words}: {found['before']:.1f} → {found['after']:.1f}, {found['interval']}, n={found['n']}, "
        f"seeds {', '.join(seeds)}"
    )
    return claim | found | {"holds": holds, "verdict": verdict}


def contrasts(study):
    """The pair of trainings, measure by measure, on the questions that both answered -> [{measure, group, one, other,
    before, after, difference, low, high, n, per_seed, verdict}]; only what an interval tells apart is called different."""
    if len(study.pair) < 2:
        return []
    copies = [
        {
            name.rpartition("/")[0]: name
            for name in study.tuned
            if Path(name).name == Path(first).name
        }
        for first in study.pair
    ]

    def of_responses(by_seed, group, field):
        found = {}
        for seed, name in by_seed.items():
            values = defaultdict(list)
            for response in study.questions[name].get(group, ()):
                values[response["question"]].append(response[field])
            found[seed] = {q: statistics.fmean(v) for q, v in values.items()}
        return found

    one, other = (
        name if len(found) == 1 else Path(name).name for name, found in zip(study.pair, copies)
    )
    result, both = [], [study.results[name]["groups"] for name in study.pair]
    free = [
        next(
            (r.name for r in study.runs if r.of(study.tuned[name]) and r.forcing() == "no forcing"),
            None,
        )
        for name in study.pair
    ]
    for group in [g for g in both[0] if g in both[1]]:
        sides = {
            "KL to the base, nats per token": (
                1,
                [of_responses(side, group, "kl_forward") for side in copies],
            ),
            "shifted tokens per answer": (
                1,
                [of_responses(side, group, "n_shifted") for side in copies],
            ),
        }
        if None not in free:
            sides = {"right, %": (100, [shares(study.runs, name, group) for name in free])} | sides
        for measure, (scale, (before, after)) in sides.items():
            if found := paired(before, after, scale, 2000):
                low, high = found["low"], found["high"]
                words = (
                    f"more with {other}"
                    if low > 0
                    else f"less with {other}"
                    if high < 0
                    else "the same"
                    if low == high == 0
                    else "no significant difference"
                )
                found["interval"] = f"{number(found['difference'])} [{number(low)}, {number(high)}]"
                result.append(
                    {
                        "measure": measure,
                        "group": group,
                        "one": one,
                        "other": other,
                        "verdict": words,
                    }
                    | found
                )
    return result


def traces(runs, judged):
    """{run: {group: what its traces do}}: behaviours by rules (mean count; percent of responses with one, its interval over
    questions) and, where one was asked, by a judge; words of doubt, repetition, length by correctness, variety."""
    result = {}
    for name in dict.fromkeys(r.name for r in runs):
        replicates, result[name] = [r.rows for r in runs if r.name == name], {}
        for group in dict.fromkeys(scope(row)[0] for rows in replicates for row in rows):
            inside = [[row for row in rows if scope(row)[0] == group] for rows in replicates]
            result[name][group] = found = behaviours.summary(
                sum(inside, []), judged, evaluate.mean_interval
            )
            # one sample has no variety
            each = [v for v in map(behaviours.variety, inside) if v and v["n_samples"] > 1]
            if each:
                found["variety"] = {k: statistics.fmean(v[k] for v in each) for k in each[0]}
    return result


def measured(study, name, summary):
    """One of MEASURES of a summary, the published KL if that was asked for; (None, None, None) without a summary."""
    if summary and name == "KL" and study.published:
        return summary["kl_estimate"], None, None
    return MEASURES[name](summary) if summary else (None, None, None)


def draw(study, out):
    """Write the PNG files -> {caption: SVG for the page, its ink the page's}. A figure without data is left out."""
    import matplotlib
    from matplotlib.figure import Figure

    plain = {}  # of a run with several seeds, the first
    for r in study.runs:
        if r.forcing() == "no forcing":
            plain.setdefault(r.name, r)
    accuracy = {
        name: {
            g: (s["accuracy"], s["low"], s["high"])
            for g, s in pooled(study.runs, name)["groups"].items()
            if s["n_questions"]
        }
        for name in plain
    }
    known = {
        os.path.realpath(p): study.colours[name]
        for name, p in {study.base: study.base_path, **study.tuned}.items()
    }
    spare = itertools.cycle([c for c in COLOURS if c not in known.values()])
    colours = {
        name: known.get(os.path.realpath(r.settings.get("model", ""))) or next(spare)
        for name, r in plain.items()
    }
    colours |= study.colours
    kl, shifted = (
        {
            m: {
                g: measured(study, what, s)
                for g, s in study.results[m]["groups"].items()
                if measured(study, what, s)[0] is not None
            }
            for m in study.shown
        }
        for what in ("KL", "shifted")
    )
    results, points = ({m: d[m] for m in study.shown} for d in (study.results, study.points))
    n_rows, drawn = math.ceil(max(map(len, points.values())) / 4), {}
    habits = {
        name: {
            b: (v["share"], v["low"], v["high"])
            for b, v in study.traces[name][study.group]["behaviours"].items()
        }
        for name in plain
        if study.group in study.traces.get(name, ())
    }
    words = {
        f"{task}, {m}": t["most_shifted"]
        for task in dict.fromkeys(t for r in results.values() for t in r["tasks"])
        for m in study.pair
        if (t := results.get(m, {}).get("tasks", {}).get(task)) and t["most_shifted"]
    }
    for name, height, plot, data, caption, *more in (
        (
            "budget",
            3.9,
            figures.budget_curve,
            study.curves,
            "Thinking cut at a budget or prolonged by “Wait”.",
        ),
        (
            "accuracy",
            3.4,
            figures.grouped,
            accuracy,
            "Every model, thinking as long as it wants.",
            "right answers, %",
        ),
        (
            "kl",
            3.4,
            figures.grouped,
            kl,
            "Distance to the base on a model's own answers.",
            "KL per token, nats",
            True,
        ),
        (
            "rank_shift",
            3.4,
            figures.grouped,
            shifted,
            "Tokens whose rank training changed.",
            "shifted tokens per answer",
        ),
        ("along", 2.9, figures.along, results, f"Along the answers in {study.group}.", study.group),
        (
            "tokens",
            3.2,
            figures.shifted_words,
            results,
            "The most shifted tokens: how often, and the mean shift.",
        ),
        (
            "words",
            1.6 * math.ceil(min(12, len(words)) / 3),
            figures.word_pictures,
            dict([*words.items()][:12]),
            "Shifted words, the larger the oftener and farther: discourse words red, words of content blue, the rest grey.",
            2.4,
            1.5,
        ),
        (
            "pca",
            0.8 + 1.75 * n_rows,
            figures.pca_panels,
            n_rows and points,
            "Mean hidden states of each task's problems, a segment per layer: circle base, triangle tuned.",
        ),
        (
            "weights",
            3.2,
            figures.weight_panels,
            {m: study.weights[m] for m in study.shown if study.weights[m]["n"]},
            "Weights: how many stayed as they were, and the size of the update.",
        ),
        (
            "behaviours",
            3.4,
            figures.grouped,
            habits,
            f"What the traces do in {study.group}, counted by rules: percent of "
            "answers with at least one.",
            "answers, %",
        ),
    ):
        (out / f"{name}.png").unlink(missing_ok=True)
        if data:
            with matplotlib.rc_context(figures.STYLE):
                figure, svg = Figure((7.2, height)), io.StringIO()
                plot(figure, data, *([] if name == "words" else [colours]), *more)
                if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
                    figure.legend(
                        loc="outside upper left", ncols=6, handletextpad=0.2, columnspacing=1
                    )
                figure.savefig(out / f"{name}.png", dpi=160, facecolor="white")
                figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
            drawn[caption] = svg.getvalue()[svg.getvalue().index("<svg") :].replace(
                INK, "currentColor"
            )
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
    return {
        model: sorted(points, key=lambda p: p["n_thinking_tokens"])
        for model, points in curves.items()
        if len({p["label"] for p in points}) > 2
    }


def listed(items):
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def lead(study):
    said, before = [], study.accuracy.get(study.base, {})
    for name, by in (
        (name, study.accuracy[name])
        for name in [study.base, *study.shown]
        if name in study.accuracy
    ):
        scores = [
            f"{s['accuracy']:.1f}% in {g}"
            + (
                f" ({s['accuracy'] - before[g]['accuracy']:+.1f} points)"
                if g in before and name != study.base
                else ""
            )
            for g, s in by.items()
        ]
        said.append(f"{name} ({study.kinds.get(name, 'base')}) is right on {listed(scores)}.")
    said += [
        f"Per token of its own answers, {n} is "
        + listed([f"{s['kl_forward']['macro']:.2g} ({g})" for g, s in r["groups"].items()])
        + " nats of KL away from the base."
        for n, r in study.results.items()
        if n in study.shown
    ]
    for name in [n for n in study.pair if study.weights[n]["n"]]:
        found = study.weights[name]["unchanged"]
        said.append(
            f"{name} left {found['bf16']['1e-05']:.1f}% of the weights as they were in bfloat16 (within 1e-5), "
            f"{found['fp32']['1e-05']:.1f}% in float32."
        )
    for model, points in study.curves.items():
        low, high = (
            "{accuracy:.1f}% ({label}, {n_thinking_tokens:.0f} tokens)".format(
                **pick(points, key=lambda p: p["accuracy"])
            )
            for pick in (min, max)
        )
        said.append(f"Forcing {model} to think less or more moves it from {low} to {high}.")
    return " ".join(said)


def caveats(study):
    """What these numbers do not say; a number or a setting calls for each sentence."""
    said, group, runs = [], study.group, study.runs
    if len({r.seed for r in runs}) == 1:
        said.append(
            "One seed: the intervals are over questions and hold nothing of what varies between trainings."
        )
    if runs and all(len({key(row)[0] for row in r.rows}) == len(r.rows) for r in runs):
        said.append(
            "A majority vote over short answers was not measured; at equal tokens it may beat one long thought."
        )
    for model, points in study.curves.items():
        waits = [p for p in points if "budget" not in p["label"]]
        best, most = (max(waits, key=lambda p: p[by], default=None) for by in ("accuracy", "waits"))
        if best is not most and (
            found := paired(*(shares(runs, p["name"], group) for p in (best, most)))
        ):
            said.append(
                f"More waiting is not always better: {most['label']} against {best['label']} makes "
                f"{found['interval']} points for {model}"
                + (": in the end it hurts." if found["high"] < 0 else ".")
            )
    free = {r.name: pooled(runs, r.name, group)["all"] for r in runs if r.forcing() == "no forcing"}
    order = sorted(
        (s["n_thinking_tokens"], name, s["accuracy"])
        for name, s in free.items()
        if s["n_thinking_tokens"]
    )
    if len(order) > 2:
        agree = 100 * statistics.fmean(a[2] < b[2] for a, b in itertools.combinations(order, 2))
        said.append(
            f"Training changes how long a model thinks, too. Mean thinking tokens in {group}: "
            + listed(
                [f"{name} {tokens:.0f} ({accuracy:.0f}% right)" for tokens, name, accuracy in order]
            )
            + f". In {agree:.0f}% of "
            "the pairs the longer is the better one"
            + (": better and longer are not told apart." if agree > 60 else ".")
        )
    if len(study.pair) == 2:
        one, other = (study.results[name]["groups"] for name in study.pair)
        how = [
            f"; {n}: {t['n_steps']} steps at learning rate {t['lr']:g}"
            for n in study.pair
            if {"n_steps", "lr"} <= set(t := study.training[n])
        ]
        even = "total" in study.matched and abs(study.matched["total"]["times"] - 1) < 0.05
        said.append(
            f"The two trainings are not matched in {'' if even else 'compute or '}accuracy{''.join(how)}."
        )
        said += [
            f"Counting {what} FLOPs, {study.pair[1]} took {m['times']:.3g} times what {study.pair[0]} took"
            + (
                f"; as many steps of {study.pair[0]}: {m['n_steps']:.0f}."
                if "n_steps" in m
                else "."
            )
            for what, m in study.matched.items()
        ]
        for title, value in MEASURES.items():
            if less := [
                g
                for g in one
                if g in other and (value(one[g])[0] or 0) <= (value(other[g])[0] or 0)
            ]:
                said.append(
                    f"{title} is not larger for {study.pair[0]} than for {study.pair[1]} in {listed(less)}."
                )
    if full := [g for g, s in study.accuracy.get(study.base, {}).items() if s["accuracy"] > 95]:
        said.append(
            f"The base is right on more than 95% of {listed(full)}: training can lose there, hardly gain, and TI v2, "
            "weighted by the room for gains, hardly sees a loss."
        )
    if closed := {"compare", "fact", "repeat"} & {
        task for r in study.results.values() for task in r["tasks"]
    }:
        said.append(
            f"Pretraining has seen the questions of {listed(sorted(closed))}: they show forgetting, not learning."
        )
    said += [f"Left out, for it could not be loaded: {reason}" for reason in study.refused.values()]
    return said + [
        "Behaviours are counted by phrases; how far that agrees with a reader was measured on 44 short traces.",
        "bfloat16 hides small changes of weights: sparsity in it is partly rounding.",
        "The published PCA shift counts pads, lets layers cancel, and varies from seed to seed.",
    ]


# ---------------------------------------------------------------- tables and the page


def model_table(study):
    """SFT against RL, as text: a heading row, then a row per model; shown the other way round, for it has many columns."""
    groups = list(dict.fromkeys(g for r in study.results.values() for g in r["groups"]))
    copies = defaultdict(list)  # of one model, trained with several seeds
    for m in [study.base, *study.tuned]:
        right = {g: study.accuracy.get(m, {}).get(g) for g in groups}
        row = {
            f"right % {g}": (s["accuracy"], s["low"], s["high"]) if s else (None,) * 3
            for g, s in right.items()
        }
        row |= {
            f"TI {v} {g}": (study.transfer.get(m, {}).get(v, {}).get(g), None, None)
            for g in groups
            for v in ("v1", "v2")
        }
        inside = study.results.get(m, {}).get("groups", {})
        row |= {
            f"{name} {g}": measured(study, name, inside.get(g)) for name in MEASURES for g in groups
        }
        copies[m if m == study.base else Path(m).name, m == study.base].append(row)
    heads = [
        head
        for head in row
        if any(r[head][0] is not None for rows in copies.values() for r in rows)
    ]
    lines = []
    for (name, _), same in copies.items():
        lines.append([name if len(same) == 1 else f"{name}, {len(same)} seeds: mean ± sd"])
        for head in heads:
            values, (_, low, high) = (
                [r[head][0] for r in same if r[head][0] is not None],
                same[0][head],
            )
            spread = (
                f" ± {number(statistics.stdev(values))}"
                if len(values) > 1
                else f" [{number(low)}, {number(high)}]"
                if len(same) == 1 and values and low is not None
                else ""
            )
            lines[-1].append(number(statistics.fmean(values)) + spread if values else "-")
    return [["model", *heads], *lines]


NOTES = {  # below each of these tables
    "CONTRASTS": "Difference: the second minus the first, paired over the questions that both answered, with its 95% interval; "
    "per seed where there are several. Only what an interval tells apart is called more or less.",
    "WEIGHTS": "What training changed in the weights. bfloat16 rounds small changes away; the float32 columns do not.",
    "OVERLAPS": "Overlap of the changed sets (bfloat16, 1e-5); by chance: the density of the other set.",
    "TRACES": "Percent of answers with at least one of each, counted by rules. Words of doubt per answer; percent of 8-grams "
    "that repeat; mean thinking tokens of right and wrong answers. A forced “Wait” counts, too.",
    "COMPUTE": "FLOPs, as the trainings wrote them down (flops.jsonl).",
}


def tables(study):
    """Further tables, heading row first: {name: rows}, the name being its place in the page."""
    pair = [study.contrasts[0][side] for side in ("one", "other")] if study.contrasts else []
    found = {
        "CONTRASTS": [["in", "what", *pair, "difference", "per seed", ""]]
        + [
            [
                c["group"],
                c["measure"],
                number(c["before"]),
                number(c["after"]),
                c["interval"],
                ", ".join(map(number, c["per_seed"].values())) if len(c["per_seed"]) > 1 else "-",
                c["verdict"],
            ]
            for c in study.contrasts
        ]
    }
    found["WEIGHTS"] = [
        [
            "model",
            "unchanged %, bf16, 1e-5",
            "fp32, 1e-5",
            "fp32, exact",
            "rank of updates, % of full",
        ]
    ] + [
        [
            m,
            *(
                number(w["unchanged"][d][t])
                for d, t in (("bf16", "1e-05"), ("fp32", "1e-05"), ("fp32", "0"))
            ),
            "-" if w["rank_share"] is None else number(w["rank_share"]),
        ]
        for m, w in study.weights.items()
        if w["n"]
    ]
    found["OVERLAPS"] = [
        ["changed by", "and by", "% of the first's", "by chance", "% of the second's", "by chance"]
    ] + [
        [
            o["one"],
            o["other"],
            *(number(o[k]) for k in ("of_one", "chance_of_one", "of_other", "chance_of_other")),
        ]
        for o in study.overlaps
    ]
    found["TRACES"] = [
        [
            "run",
            *(f"{b} %" for b in behaviours.RULES),
            "judged",
            "words of doubt",
            "repeated %",
            "tokens, right",
            "tokens, wrong",
        ]
    ]
    for name, by_group in study.traces.items():
        if t := by_group.get(study.group):
            judged = [
                f"{b} {v['judged']['share']:.0f}%, agree {v['judged']['agreement']:.0f}%"
                for b, v in t["behaviours"].items()
                if "judged" in v
            ]
            found["TRACES"].append(
                [
                    name,
                    *(number(v["share"]) for v in t["behaviours"].values()),
                    "; ".join(judged) or "-",
                    number(sum(t["wait_words"].values())),
                    number(100 * t["repetition"]),
                    *("-" if n is None else f"{n:.0f}" for n in t["length"].values()),
                ]
            )
    found["COMPUTE"] = [["model", "phase", "tokens", "FLOPs"]] + [
        [m, *line]
        for m, book in study.compute.items()
        for line in (
            *(
                [phase, f"{t['tokens']:,}", f"{t['flops']:.3g}"]
                for phase, t in book["phases"].items()
            ),
            ["all", "", f"{book['total']:.3g}"],
        )
    ]
    if all(row[5] == "-" for row in found["TRACES"][1:]):  # nobody was asked to judge
        found["TRACES"] = [row[:5] + row[6:] for row in found["TRACES"]]
    return {name: rows for name, rows in found.items() if len(rows) > 1}


def number(x):
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2g}"


def page(study, claims, viewed, pictures, command):
    """The report. What a model or a file wrote is escaped here, or set as text by the page's script."""

    def table(rows, css):
        lines = (
            "<tr>" + "".join(f"<{'td' if i else 'th'}>{e(cell)}" for cell in row)
            for i, row in enumerate(rows)
        )
        return f"<div class=wide><table class={css}>{''.join(lines)}</table></div>"

    e, words = html.escape, {True: "right", False: "wrong", None: "not graded"}
    about = [
        f"base {study.base}",
        "tuned " + listed([f"{m} ({kind})" for m, kind in study.kinds.items()]),
        "answers compared "
        f"token by token: {sum(r['all']['n_responses'] for r in study.results.values())}",
        f"graded runs: {len({r.name for r in study.runs})}",
        f"seeds: {', '.join(sorted({r.seed for r in study.runs}))}",
    ]
    cards = "".join(
        f"<h3>{e(heading)}</h3><div class=beside>"
        + "".join(
            f"<div class=card><b>{e(t['title'])}</b> <b class={words[t['right']].replace(' ', '-')}>{words[t['right']]}</b>"
            f"<div class=question>{e(t['question'])}</div><small>solution: {e(t['answer'])} · said: {e(t['said'])}</small>"
            f"<div class=tokens>{e(''.join(x[0] for x in t['tokens']))}</div></div>"
            for t in side
        )
        + "</div>"
        for heading, side in viewed
    )
    more = {
        name: table(rows, "plain") + f"<p class=dim>{NOTES[name]}"
        for name, rows in tables(study).items()
    }
    parts = {
        "ABOUT": e(" · ".join(about)),
        "COMMAND": e(command),
        "LEAD": e(lead(study)),
        "CARDS": cards,
        "CLAIMS": "<h2>Claims</h2>" + table(claims, "claims") if claims else "",
        "MODELS": table([*zip(*model_table(study))], "numbers"),
        "FIGURES": "".join(
            f"<figure><div class=wide>{svg}</div><figcaption>{e(caption)}</figcaption></figure>"
            for caption, svg in pictures.items()
        ),
        "CONTRASTS": more.pop("CONTRASTS", ""),
        "MORE": "".join(more.values()),
        "CAVEATS": "".join(f"<li>{e(sentence)}" for sentence in caveats(study)),
        # In JSON "<" may be written \u003c, so that no text can end the script element.
        "DATA": json.dumps([t["tokens"] for _, side in viewed for t in side]).replace(
            "<", "\\u003c"
        ),
    }
    template = Path(__file__).with_name("page.html")
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], template.read_text(encoding="utf-8"))
