"""What training did to the weights, read from checkpoints tensor by tensor: no model is built.

sparsity   percent of weights that changed by no more than a tolerance, in float32 and as bfloat16
           shows them. bfloat16 rounds small changes away (1 + 0.003 is 1), so that it alone would
           make any training look sparse.
rank       of each matrix's float32 update, against the largest possible
overlap    of the sets of weights that two trainings changed, against what chance gives: the density
           of the other set
Source: 2505.11711 (bfloat16, tolerance 1e-5).
"""

import itertools
import json
import math
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from tqdm import tqdm

from engine.rows import BadInput

TOLERANCES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)  # up to which a weight counts as unchanged
PUBLISHED = ("bf16", 1e-5)  # the paper's numbers and tolerance
DTYPES = ("fp32", "bf16")
RANK_WIDTH = 1024  # the rank is computed for matrices up to this width: it needs an SVD of each


# ---------------------------------------------------------------- two tensors


def difference(before, after, dtype):
    """How far weights are apart once both are rounded to dtype, "fp32" or "bf16"."""
    if dtype == "bf16":
        before, after = before.bfloat16(), after.bfloat16()
    return (after.float() - before.float()).abs()


def overlap(one, other):
    """Two masks -> (percent of the first's set that is in the second's, and the other way round).

    None for an empty set.
    """
    n_both = (one & other).sum().item()
    sizes = [mask.sum().item() for mask in (one, other)]
    return tuple(100 * n_both / n if n else None for n in sizes)


def update_rank(delta):
    """Rank of a matrix's update; None if the matrix is too wide."""
    import torch

    return int(torch.linalg.matrix_rank(delta)) if min(delta.shape) <= RANK_WIDTH else None


# ---------------------------------------------------------------- one tuned model


@dataclass
class Layer:
    """Sums over the weights of one layer."""

    square: float = 0.0  # of the base's weights
    update_square: float = 0.0
    n_changed: int = 0  # as published
    n: int = 0

    def summary(self):
        return {
            "norm": math.sqrt(self.square),
            "update_norm": math.sqrt(self.update_square),
            "changed": 100 * self.n_changed / self.n,
        }


@dataclass
class Changes:
    """Counts of one tuned model, tensor after tensor."""

    n: int = 0  # weights compared
    unmatched: int = 0  # tensors that cannot be compared
    n_changed: dict = field(default_factory=lambda: defaultdict(int))  # {(dtype, tolerance): n}
    layers: dict = field(default_factory=lambda: defaultdict(Layer))
    matrices: dict = field(default_factory=dict)

    def add(self, name, before, after):
        """Count a tensor -> the mask of its published changes.

        None where it cannot be compared: missing (after is None), of another shape, or with numbers
        that are not finite.
        """
        if after is None or after.shape != before.shape:
            self.unmatched += 1
            return None
        delta = after.float() - before.float()
        if not delta.isfinite().all():
            self.unmatched += 1
            return None
        self.n += delta.numel()
        for dtype in DTYPES:
            apart = difference(before, after, dtype)
            for tolerance in TOLERANCES:
                self.n_changed[dtype, tolerance] += (apart > tolerance).sum().item()
        dtype, tolerance = PUBLISHED
        mask = difference(before, after, dtype) > tolerance
        layer = self.layers[layer_name(name)]
        layer.square += before.double().square().sum().item()
        layer.update_square += delta.double().square().sum().item()
        layer.n_changed += mask.sum().item()
        layer.n += mask.numel()
        if delta.ndim == 2:
            self.matrices[name] = {
                "changed": 100 * mask.double().mean().item(),
                "full_rank": min(delta.shape),
                "rank": update_rank(delta),
            }
        return mask

    def summary(self):
        """The entry "weights" of metrics.json; shares in percent."""
        ranks = [
            m["rank"] / m["full_rank"] for m in self.matrices.values() if m["rank"] is not None
        ]
        return {
            "n": self.n,
            "unmatched": self.unmatched,
            "rank_share": 100 * statistics.fmean(ranks) if ranks else None,
            "unchanged": {dtype: self.unchanged(dtype) for dtype in DTYPES},
            "layers": {name: layer.summary() for name, layer in self.layers.items()},
            "matrices": self.matrices,
        }

    def unchanged(self, dtype):
        """{tolerance: percent of weights that changed by no more}."""
        if not self.n:
            return {f"{t:g}": None for t in TOLERANCES}
        return {f"{t:g}": 100 * (1 - self.n_changed[dtype, t] / self.n) for t in TOLERANCES}


def layer_name(tensor):
    """model.layers.3.mlp.up_proj.weight -> "layer 3"; what is in no layer keeps its name."""
    number = re.search(r"\.(\d+)\.", tensor)
    return f"layer {number[1]}" if number else tensor


# ---------------------------------------------------------------- checkpoints


def weight_changes(base, tuned, device="cpu"):
    """Model directories or hub names, {name: path} of the tuned -> (changes, overlaps).

    changes: {name: Changes.summary()}. overlaps: of the changed sets of each two, in percent.
    Tensor after tensor, so that memory holds one of each model.
    """
    base_files = find_tensors(base)
    tuned_files = {name: find_tensors(path) for name, path in tuned.items()}
    changes = {name: Changes() for name in tuned}
    overlaps = {pair: Overlap() for pair in itertools.combinations(tuned, 2)}
    for tensor in tqdm(sorted(base_files), desc="weights", disable=None):
        before = read_tensor(base_files, tensor, device)
        masks = {
            name: changes[name].add(tensor, before, read_tensor(files, tensor, device))
            for name, files in tuned_files.items()
        }
        for (one, other), sums in overlaps.items():
            sums.add(masks[one], masks[other])
    for name, files in tuned_files.items():
        changes[name].unmatched += len(set(files) - set(base_files))
        if changes[name].unmatched:
            print(
                f"warning: {name}: {changes[name].unmatched} tensors cannot be compared with those "
                f"of {base}; left out"
            )
    summaries = {name: found.summary() for name, found in changes.items()}
    known = [
        {"one": one, "other": other} | sums.summary()
        for (one, other), sums in overlaps.items()
        if sums.n_one and sums.n_other
    ]
    return summaries, known


@dataclass
class Overlap:
    """Counts of the weights that two trainings changed."""

    n_both: int = 0
    n_one: int = 0
    n_other: int = 0
    n: int = 0  # weights of the tensors that both have

    def add(self, one, other):
        """Count two masks; None: a tensor that cannot be compared."""
        if one is None or other is None:
            return
        self.n_both += (one & other).sum().item()
        self.n_one += one.sum().item()
        self.n_other += other.sum().item()
        self.n += one.numel()

    def summary(self):
        """Percent of each set that is in the other, and the percent that chance would give."""
        return {
            "of_one": 100 * self.n_both / self.n_one,
            "of_other": 100 * self.n_both / self.n_other,
            "chance_of_one": 100 * self.n_other / self.n,
            "chance_of_other": 100 * self.n_one / self.n,
        }


def find_tensors(path):
    """A model directory or hub name -> {tensor's name: safetensors file}. Raises BadInput."""
    from transformers.utils import cached_file

    index_name = "model.safetensors.index.json"
    try:
        index = cached_file(path, index_name, _raise_exceptions_for_missing_entries=False)
        names = ["model.safetensors"]
        if index:
            names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        files = [cached_file(path, name) for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path}: no safetensors weights ({str(error).splitlines()[0]})") from error
    found = {}
    for file in sorted(files):
        with safe_open(file, "pt") as opened:
            found |= {name: file for name in opened.keys()}
    return found


def read_tensor(files, name, device):
    """A tensor of a checkpoint, None if it is not there. files: see find_tensors."""
    if name not in files:
        return None
    with safe_open(files[name], "pt", device=str(device)) as opened:
        return opened.get_tensor(name)
