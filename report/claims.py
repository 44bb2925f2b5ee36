"""Claims about runs, decided by paired differences; two trainings against each other.

A difference is paired over the questions that both sides answered, so that hard and easy questions
cancel. Its interval comes from the caller: `bootstrap` is a function of two lists of equal length
such as evaluate.paired_bootstrap -> (mean of the first - mean of the second, low, high).
"""

import statistics
from collections import defaultdict
from pathlib import Path

from engine.rows import BadInput
from report.runs import field_by_seed, shares_by_seed

MARGIN = 5  # points; a difference whose interval lies within ± this counts as "the same"
EXPECTATIONS = ("higher", "lower", "same")

# What a response has, by title: measured on both trainings' own answers.
RESPONSE_MEASURES = {
    "KL to the base, nats per token": "kl_forward",
    "shifted tokens per answer": "n_shifted",
}


def format_number(x):
    """A number as the tables show it."""
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2g}"


# ---------------------------------------------------------------- paired differences


def paired_difference(before, after, bootstrap, scale=100):
    """Two {seed: {question: share}} -> the difference after - before with its 95% interval.

    scale 100: shares come out as points. With several seeds a question counts once, with its mean
    over the seeds that both sides have. None if the sides have no question in common.
    """
    seeds = [seed for seed in before if seed in after]
    old_means = mean_by_question(before, seeds)
    new_means = mean_by_question(after, seeds)
    common = sorted(old_means.keys() & new_means.keys())
    if not common:
        return None
    old = [old_means[question] for question in common]
    new = [new_means[question] for question in common]
    difference, low, high = (scale * x for x in bootstrap(new, old))
    return {
        "before": scale * statistics.fmean(old),
        "after": scale * statistics.fmean(new),
        "difference": difference,
        "low": low,
        "high": high,
        "interval": interval_in_words(difference, low, high, scale),
        "n": len(common),
        "seeds": seeds or sorted({*before, *after}),
        "per_seed": difference_by_seed(before, after, seeds, scale),
    }


def interval_in_words(difference, low, high, scale):
    """Points with one decimal; other numbers, of any size, as the tables show them."""
    if scale == 100:
        return f"{difference:+.1f} [{low:.1f}, {high:.1f}]"
    sign = "+" if difference > 0 else ""
    return f"{sign}{format_number(difference)} [{format_number(low)}, {format_number(high)}]"


def mean_by_question(shares, seeds):
    """{seed: {question: share}} -> {question: mean over these seeds; over all if none is given}."""
    values = defaultdict(list)
    for seed in seeds or shares:
        for question, share in shares[seed].items():
            values[question].append(share)
    return {question: statistics.fmean(found) for question, found in values.items()}


def difference_by_seed(before, after, seeds, scale):
    """{seed: mean difference over the questions that both sides answered under it}."""
    found = {}
    for seed in seeds:
        common = before[seed].keys() & after[seed].keys()
        if common:
            gains = (after[seed][question] - before[seed][question] for question in common)
            found[seed] = scale * statistics.fmean(gains)
    return found


# ---------------------------------------------------------------- claims


def decide_claim(claim, runs, path, bootstrap):
    """A claim {id, text, group, from, to, expect} -> the same with its difference and verdict.

    With `measure` it is about this field of the rows instead of right answers. runs: graded. path:
    of the claims' file, for messages. Adds holds (True, False, or None for undecided) and verdict
    (words). Raises BadInput for a claim that cannot be decided.
    """
    complete = {"id", "text", "group", "from", "to"} <= set(claim)
    if not complete or claim.get("expect") not in EXPECTATIONS:
        raise BadInput(
            f"--claims {path}: {claim} is not "
            "{id, text, group, from, to, expect: higher, lower or same}"
        )
    measure = claim.get("measure")
    before, after = (
        field_by_seed(runs, claim[side], claim["group"], measure)
        if measure
        else shares_by_seed(runs, claim[side], claim["group"])
        for side in ("from", "to")
    )
    found = paired_difference(before, after, bootstrap, 1 if measure else 100)
    if found is None:
        known = ", ".join(dict.fromkeys(run.name for run in runs))
        raise BadInput(
            f"--claims {path}: claim {claim['id']}: the runs '{claim['from']}' and '{claim['to']}' "
            f"have no question of group '{claim['group']}' in common; --runs has {known}"
        )
    holds, words = decide_difference(found, claim["expect"], measure)
    show = format_number if measure else "{:.1f}".format
    verdict = (
        f"{words}: {show(found['before'])} → {show(found['after'])}, {found['interval']}, "
        f"n={found['n']}, seeds {', '.join(seeds_in_words(found))}"
    )
    return claim | found | {"holds": holds, "verdict": verdict}


def decide_difference(found, expect, measure):
    """What paired_difference found -> (holds, in words). A single number decides nothing."""
    if found["n"] == 1:
        return None, "a single number has no interval"
    if not measure:
        return decide(found["low"], found["high"], expect)
    # "The same" for a number of any size: within a tenth of what it was.
    return decide(found["low"], found["high"], expect, abs(found["before"]) / 10, "10%")


def decide(low, high, expect, margin=MARGIN, margin_in_words=f"{MARGIN} points"):
    """The interval of a difference, and what was expected -> (holds, in words).

    holds is None where the interval does not decide. margin: up to which it is "the same".
    """
    if expect == "same" and -margin <= low and high <= margin:
        return True, f"yes, unchanged within {margin_in_words}"
    if low <= 0 <= high:
        if expect == "same":
            return (
                None,
                f"undecided, the interval leaves ±{margin_in_words.removesuffix(' points')}",
            )
        return None, "not significant"
    found = "higher" if low > 0 else "lower"
    if expect == "same":
        return False, f"no, {found}"
    if found == expect:
        return True, "yes"
    return False, "reversed"


def seeds_in_words(found):
    """The seeds of a difference; with several of them each with its own difference."""
    if len(found["per_seed"]) < 2:
        return found["seeds"]
    return [f"{seed} ({points:+.1f})" for seed, points in found["per_seed"].items()]


# ---------------------------------------------------------------- two trainings


def compare_trainings(models, responses, runs, bootstrap):
    """The pair of trainings, measure by measure and group by group -> list of differences.

    responses: {model: {group: [{question, kl_forward, n_shifted, ...}]}}. Each difference says
    measure, group, the two names (one, other), verdict, and what paired_difference found.
    """
    if len(models.pair) < 2:
        return []
    first, second = models.pair
    replicates = [models.replicates(name) for name in models.pair]
    one, other = (
        name if len(found) == 1 else Path(name).name for name, found in zip(models.pair, replicates)
    )
    answers = [unforced_run(runs, models.tuned[name]) for name in models.pair]
    contrasts = []

    def add(measure, group, before, after, scale=1):
        found = paired_difference(before, after, bootstrap, scale)
        if found is None:
            return
        low, high = found["low"], found["high"]
        numbers = map(format_number, (found["difference"], low, high))
        found["interval"] = "{} [{}, {}]".format(*numbers)
        about = {"measure": measure, "group": group, "one": one, "other": other}
        contrasts.append(about | {"verdict": name_difference(low, high, other)} | found)

    for group in responses[first]:
        if group not in responses[second]:
            continue
        if None not in answers:
            shares = [shares_by_seed(runs, name, group) for name in answers]
            add("right, %", group, *shares, scale=100)
        for measure, field in RESPONSE_MEASURES.items():
            values = [values_by_seed(found, responses, group, field) for found in replicates]
            add(measure, group, *values)
    return contrasts


def unforced_run(runs, model):
    """Name of the first run in which a model thought as long as it wanted, or None."""
    return next((r.name for r in runs if r.written_by(model) and r.is_unforced()), None)


def values_by_seed(replicates, responses, group, field):
    """{seed: {question: mean of a field over its responses}} of the replicates of one training."""
    found = {}
    for seed, name in replicates.items():
        values = defaultdict(list)
        for response in responses[name].get(group, ()):
            values[response["question"]].append(response[field])
        found[seed] = {question: statistics.fmean(v) for question, v in values.items()}
    return found


def name_difference(low, high, other):
    """An interval of other - one in words. Only what it tells apart is called more or less."""
    if low > 0:
        return f"more with {other}"
    if high < 0:
        return f"less with {other}"
    return "the same" if low == high == 0 else "no significant difference"


# ---------------------------------------------------------------- thinking under a budget


def budget_curves(runs, graded, group):
    """Models that ran under three budgets or numbers of Waits -> {model: its runs, by tokens}.

    graded: {run's name: evaluate.metrics}. A run is its summary in this group with name, label
    (the forcing in words) and waits.
    """
    curves = defaultdict(list)
    named = {run.name: run for run in runs if run.settings.get("model")}
    for name, run in named.items():
        summary = graded[name]["groups"].get(group)
        if summary is None or summary["n_thinking_tokens"] is None:
            continue
        point = {"name": name, "label": run.forcing(), "waits": run.settings.get("waits") or 0}
        curves[Path(run.settings["model"]).name].append(summary | point)
    return {
        model: sorted(points, key=lambda point: point["n_thinking_tokens"])
        for model, points in curves.items()
        if len({point["label"] for point in points}) > 2
    }


def compare_waits(points, runs, group, bootstrap):
    """Points of a curve -> the run with the most Waits against the most accurate one.

    Returns the labels (most, best) and the paired difference; None where they are the same run.
    """
    waits = [point for point in points if "budget" not in point["label"]]
    if not waits:
        return None
    best = max(waits, key=lambda point: point["accuracy"])
    most = max(waits, key=lambda point: point["waits"])
    if best is most:
        return None
    shares = [shares_by_seed(runs, point["name"], group) for point in (best, most)]
    found = paired_difference(*shares, bootstrap)
    return found and {"best": best["label"], "most": most["label"]} | found
