"""What training did to the weights, read from checkpoints tensor by tensor: no model is built, memory is flat.

sparsity   percent of weights that did not change by more than a tolerance, in float32 and as bfloat16 shows them:
           bfloat16 rounds small changes away (1 + 0.003 is 1), so that it alone would make any training look sparse
rank       of each matrix's float32 update, against the largest possible
overlap    of the sets that two trainings changed, against what chance gives: the density of the other set
Source: 2505.11711 (bfloat16, tolerance 1e-5). And what trainings cost, from the flops.jsonl that they write.
"""

import itertools
import json
import math
import re
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm import tqdm
from transformers.utils import cached_file

from engine.rows import BadInput, read_rows

TOLERANCES, PUBLISHED = (0.0, 1e-6, 1e-5, 1e-4, 1e-3), 1e-5  # of a weight that counts as unchanged
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def shards(path):
    """{tensor's name: safetensors file} of a model directory or hub name."""
    try:
        index = cached_file(
            path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False
        )
        names = (
            set(json.loads(Path(index).read_text())["weight_map"].values())
            if index
            else ["model.safetensors"]
        )
        files = [cached_file(path, name) for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: no safetensors weights ({str(error).splitlines()[0]})") from error
    found = {}
    for file in sorted(files):
        with safe_open(file, "pt") as opened:
            found |= {name: file for name in opened.keys()}
    return found


def read_tensor(file, name, device):
    with safe_open(file, "pt", device=str(device)) as opened:
        return opened.get_tensor(name)


def difference(before, after, dtype):
    """By how much weights differ once both are rounded to dtype."""
    return (after.to(dtype).float() - before.to(dtype).float()).abs()


def overlap(one, other):
    """Two masks -> percent of one's set that is in the other's, and the other way round; None for an empty set."""
    both = (one & other).sum().item()
    return tuple(100 * both / n if (n := mask.sum().item()) else None for mask in (one, other))


class Changes:
    """Counts of one tuned model, tensor after tensor."""

    def __init__(self):
        self.counts, self.n, self.unmatched = defaultdict(int), 0, 0
        self.layers, self.matrices = defaultdict(lambda: [0.0, 0.0, 0, 0]), {}

    def add(self, name, before, after, rank_width):
        """-> the mask of published changes (bfloat16, 1e-5), None where the tensors cannot be compared."""
        delta = (
            None if after is None or after.shape != before.shape else after.float() - before.float()
        )
        if delta is None or not delta.isfinite().all():
            self.unmatched += 1
            return None
        self.n += delta.numel()
        for dtype, kind in DTYPES.items():
            apart = difference(before, after, kind)
            for tolerance in TOLERANCES:
                self.counts[dtype, tolerance] += (apart > tolerance).sum().item()
        mask = apart > PUBLISHED  # of the last dtype, bfloat16
        number = re.search(r"\.(\d+)\.", name)
        layer = self.layers[f"layer {number[1]}" if number else name]
        squares = (x.double().square().sum().item() for x in (before, delta))
        for i, x in enumerate((*squares, mask.sum().item(), mask.numel())):
            layer[i] += x
        if delta.ndim == 2:
            full = min(delta.shape)
            self.matrices[name] = {
                "changed": 100 * mask.double().mean().item(),
                "full_rank": full,
                "rank": int(torch.linalg.matrix_rank(delta)) if full <= rank_width else None,
            }
        return mask

    def summary(self):
        ranks = [
            m["rank"] / m["full_rank"] for m in self.matrices.values() if m["rank"] is not None
        ]
        return {
            "n": self.n,
            "unmatched": self.unmatched,
            "rank_share": 100 * statistics.fmean(ranks) if ranks else None,
            "unchanged": {
                dtype: {
                    f"{t:g}": 100 * (1 - self.counts[dtype, t] / self.n) if self.n else None
                    for t in TOLERANCES
                }
                for dtype in DTYPES
            },
            "layers": {
                name: {
                    "norm": math.sqrt(norm),
                    "update_norm": math.sqrt(update),
                    "changed": 100 * n_changed / n,
                }
                for name, (norm, update, n_changed, n) in self.layers.items()
            },
            "matrices": self.matrices,
        }


def weight_changes(base, tuned, rank_width=1024, device="cpu"):
    """Checkpoints, {name: path} of the tuned -> ({name: Changes.summary()}, overlaps of the updated sets of each two).

    rank_width: the rank is computed for matrices up to this width (an SVD each). unmatched: tensors that only one of base
    and tuned has, of another shape, or with numbers that are not finite.
    """
    where, there = shards(base), {name: shards(path) for name, path in tuned.items()}
    found, pairs = (
        {name: Changes() for name in tuned},
        {pair: [0, 0, 0, 0] for pair in itertools.combinations(tuned, 2)},
    )
    for tensor in tqdm(sorted(where), desc="weights", disable=None):
        before = read_tensor(where[tensor], tensor, device)
        after = {
            name: read_tensor(files[tensor], tensor, device) if tensor in files else None
            for name, files in there.items()
        }
        masks = {name: found[name].add(tensor, before, after[name], rank_width) for name in tuned}
        for (one, other), sums in pairs.items():
            a, b = masks[one], masks[other]
            if a is not None and b is not None:
                for i, x in enumerate(
                    ((a & b).sum().item(), a.sum().item(), b.sum().item(), a.numel())
                ):
                    sums[i] += x
    for name, files in there.items():
        found[name].unmatched += len(set(files) - set(where))
        if found[name].unmatched:
            print(
                f"warning: {name}: {found[name].unmatched} tensors cannot be compared with those of {base}; left out"
            )
    overlaps = [
        {
            "one": one,
            "other": other,
            "of_one": 100 * both / a,
            "of_other": 100 * both / b,
            "chance_of_one": 100 * b / n,
            "chance_of_other": 100 * a / n,
        }
        for (one, other), (both, a, b, n) in pairs.items()
        if a and b
    ]
    return {name: changes.summary() for name, changes in found.items()}, overlaps


# ---------------------------------------------------------------- compute


def ledger(path):
    """flops.jsonl of a training directory, rows of phase, tokens, flops -> {"phases": {phase: totals}, "total", "training"};
    None without one. "training" is what phases named train... took: forward and backward passes of updates."""
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


def matched(one, other, training):
    """Ledgers of two trainings, settings of the first -> for "total" and "training": how many times the first's FLOPs the
    other took, and the steps and epochs of the first that would take as much."""
    result = {}
    for what in ("total", "training"):
        if one[what] and other[what]:
            times = other[what] / one[what]
            result[what] = {"times": times} | {
                k: training[k] * times for k in ("n_steps", "epochs") if k in training
            }
    return result
