"""What trainings cost, from the flops.jsonl that they write (rows of phase, tokens, flops)."""

from collections import defaultdict
from pathlib import Path

from engine.rows import BadInput, read_rows


def read_ledger(path):
    """flops.jsonl of a training directory -> {"phases", "total", "training"}; None without one.

    phases: {phase: totals of tokens and FLOPs}. training: FLOPs of the phases named train..., the
    forward and backward passes of updates.
    """
    file = Path(path) / "flops.jsonl"
    if not file.is_file():
        return None
    phases = defaultdict(lambda: {"tokens": 0, "flops": 0.0})
    for number, row in enumerate(read_rows(file, need=("phase", "tokens", "flops")), 1):
        for name in ("tokens", "flops"):
            if not isinstance(row[name], (int, float)) or not row[name] >= 0:
                raise BadInput(f"{file}:{number}: '{name}' is not a number from 0 on")
            phases[str(row["phase"])][name] += row[name]
    flops = {phase: totals["flops"] for phase, totals in phases.items()}
    return {
        "phases": dict(phases),
        "total": sum(flops.values()),
        "training": sum(x for phase, x in flops.items() if phase.startswith("train")),
    }


def match_compute(one, other, training):
    """Two ledgers, settings of the first training -> {"total" and "training": what would match}.

    times: how many times the first's FLOPs the second took. n_steps, epochs: how long the first
    would have to train to take as many.
    """
    result = {}
    for what in ("total", "training"):
        if not one[what] or not other[what]:
            continue
        times = other[what] / one[what]
        result[what] = {"times": times}
        for name in ("n_steps", "epochs"):
            if name in training:
                result[what][name] = training[name] * times
    return result


def read_ledgers(models):
    """{name: path of a training directory} -> {name: ledger} of those that have one."""
    ledgers = {name: read_ledger(path) for name, path in models.items()}
    return {name: ledger for name, ledger in ledgers.items() if ledger}


def match_pair(models, ledgers):
    """The pair of trainings of a study against each other -> match_compute, {} without ledgers."""
    if len(models.pair) < 2 or not set(models.pair) <= set(ledgers):
        return {}
    one, other = models.pair
    return match_compute(ledgers[one], ledgers[other], models.training[one])
