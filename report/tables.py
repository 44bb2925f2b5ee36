"""Tables as text, heading row first: the terminal prints them, the page sets them in HTML."""

import statistics
from pathlib import Path

from report.behaviours import RULES
from report.claims import format_number
from report.study import MEASURES, UNKNOWN

# Columns of the table of weights: type of numbers, tolerance below which a weight is unchanged.
UNCHANGED = {
    "unchanged %, bf16, 1e-5": ("bf16", "1e-05"),
    "fp32, 1e-5": ("fp32", "1e-05"),
    "fp32, exact": ("fp32", "0"),
}


def format_columns(rows):
    """Rows of texts -> lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def print_tables(study):
    """Print the claims, and what tells the trainings apart."""
    found = {
        "claims": claims_table(study.claims),
        "SFT against RL": model_table(study),
        "differences": contrasts_table(study),
    }
    for title, rows in found.items():
        if rows:
            print(f"\n{title}", *format_columns(rows), sep="\n")


def transpose(rows):
    return [list(column) for column in zip(*rows)]


# ---------------------------------------------------------------- claims


def claims_table(claims):
    if not claims:
        return []
    rows = [["", "claim", "where", "verdict"]]
    for claim in claims:
        where = f"{claim['group']}: {claim['from']} → {claim['to']}"
        rows.append([claim["id"], claim["text"], where, claim["verdict"]])
    return rows


# ---------------------------------------------------------------- SFT against RL


def model_table(study):
    """Accuracy, transferability and the measures: a column per model, for there are many rows."""
    values = {name: model_values(study, name) for name in study.models.paths()}
    known = [
        head
        for head in values[study.models.base]
        if any(column[head][0] is not None for column in values.values())
    ]
    columns = [["model", *known]]
    for title, names in seeds_together(study.models).items():
        cells = [format_cell([values[name][head] for name in names]) for head in known]
        columns.append([title, *cells])
    return transpose(columns)


def seeds_together(models):
    """{title of a column: names of its models}. Seeds of one training share a column."""
    together = {models.base: [models.base]}
    for name in models.tuned:
        names = list(models.replicates(name).values())
        many = f"{Path(name).name}, {len(names)} seeds: mean ± sd"
        together[many if len(names) > 1 else name] = names
    return together


def model_values(study, name):
    """{head: (value, low, high)} of one model."""
    groups = study.groups()
    values = {}
    for group in groups:
        summary = study.accuracy.get(name, {}).get(group)
        right = (summary["accuracy"], summary["low"], summary["high"]) if summary else UNKNOWN
        values[f"right % {group}"] = right
    for group in groups:
        for version in ("v1", "v2"):
            index = study.transfer.get(name, {}).get(version, {}).get(group)
            values[f"TI {version} {group}"] = (index, None, None)
    for measure in MEASURES:
        for group in groups:
            values[f"{measure} {group}"] = study.measure(measure, name, group)
    return values


def format_cell(replicates):
    """(value, low, high) of each seed -> mean ± standard deviation, or value and interval."""
    values = [value for value, _, _ in replicates if value is not None]
    if not values:
        return "-"
    text = format_number(statistics.fmean(values))
    if len(values) > 1:
        return f"{text} ± {format_number(statistics.stdev(values))}"
    _, low, high = replicates[0]
    if len(replicates) == 1 and low is not None:
        return f"{text} [{format_number(low)}, {format_number(high)}]"
    return text


def contrasts_table(study):
    if not study.contrasts:
        return []
    first = study.contrasts[0]
    rows = [["in", "what", first["one"], first["other"], "difference", "per seed", ""]]
    for contrast in study.contrasts:
        per_seed = [format_number(x) for x in contrast["per_seed"].values()]
        rows.append(
            [
                contrast["group"],
                contrast["measure"],
                format_number(contrast["before"]),
                format_number(contrast["after"]),
                contrast["interval"],
                ", ".join(per_seed) if len(per_seed) > 1 else "-",
                contrast["verdict"],
            ]
        )
    return rows


# ---------------------------------------------------------------- weights and compute


def weights_table(study):
    rows = [["model", *UNCHANGED, "rank of updates, % of full"]]
    for name, weights in study.weights.items():
        if not weights["n"]:
            continue
        shares = [weights["unchanged"][dtype][t] for dtype, t in UNCHANGED.values()]
        rank = weights["rank_share"]
        rows.append(
            [name, *map(format_number, shares), "-" if rank is None else format_number(rank)]
        )
    return rows if len(rows) > 1 else []


def overlaps_table(study):
    if not study.overlaps:
        return []
    rows = [
        ["changed by", "and by", "% of the first's", "by chance", "% of the second's", "by chance"]
    ]
    for overlap in study.overlaps:
        shares = ("of_one", "chance_of_one", "of_other", "chance_of_other")
        numbers = [format_number(overlap[name]) for name in shares]
        rows.append([overlap["one"], overlap["other"], *numbers])
    return rows


def compute_table(study):
    if not study.compute:
        return []
    rows = [["model", "phase", "tokens", "FLOPs"]]
    for name, ledger in study.compute.items():
        for phase, totals in ledger["phases"].items():
            rows.append([name, phase, f"{totals['tokens']:,}", f"{totals['flops']:.3g}"])
        rows.append([name, "all", "", f"{ledger['total']:.3g}"])
    return rows


# ---------------------------------------------------------------- what traces do


def traces_table(study):
    """Behaviours of the runs in the main group; the judge's column if one was asked."""
    judged = {name: judge_in_words(traces) for name, traces in main_traces(study).items()}
    judge_asked = any(judged.values())
    rows = [
        [
            "run",
            *(f"{name} %" for name in RULES),
            *(["judged"] if judge_asked else []),
            "words of doubt",
            "repeated %",
            "tokens, right",
            "tokens, wrong",
        ]
    ]
    for name, traces in main_traces(study).items():
        shares = [found["share"] for found in traces["behaviours"].values()]
        rows.append(
            [
                name,
                *map(format_number, shares),
                *([judged[name] or "-"] if judge_asked else []),
                format_number(sum(traces["wait_words"].values())),
                format_number(100 * traces["repetition"]),
                *("-" if n is None else f"{n:.0f}" for n in traces["length"].values()),
            ]
        )
    return rows if len(rows) > 1 else []


def main_traces(study):
    """{run: its summary in the main group}, of the runs that have one."""
    group = study.main_group()
    return {name: found[group] for name, found in study.behaviours.items() if group in found}


def judge_in_words(traces):
    words = []
    for name, found in traces["behaviours"].items():
        if "judged" in found:
            share, agreement = found["judged"]["share"], found["judged"]["agreement"]
            words.append(f"{name} {share:.0f}%, agree {agreement:.0f}%")
    return "; ".join(words)
