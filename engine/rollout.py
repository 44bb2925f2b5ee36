"""A rollout as tensors: rows to train on, packed micro-batches of them, sums over their tokens.

N is the number of trained tokens of a micro-batch, B the number of rows of a rollout.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from engine import model as models
from engine import processes
from engine.shared_prompts import pack_groups


@dataclass
class Rollout:
    """Completions to train on. Lists over rows; per token they cover prompt and completion."""

    sequences: list  # token ids
    masks: list  # True where a token is trained: not prompt, not injected, not truncated
    old_logps: list  # under the old policy; read where the mask is True
    advantage: torch.Tensor  # (B,)
    right_share: torch.Tensor | None = None  # (B,) mean reward of a row's group
    sampled_logps: list | None = None  # under the sampler, where it is not the old policy (--tis)
    token_rewards: list | None = None  # added to the advantage of each token
    n_tokens: int | None = None  # of the vocabulary; what a larger head has beyond is in no softmax

    def part(self, rows):
        """The rows of a slice, as a Rollout."""
        columns = {name: values for name, values in vars(self).items() if name != "n_tokens"}
        return replace(
            self,
            **{name: values[rows] for name, values in columns.items() if values is not None},
        )


class Tokens(NamedTuple):
    """The trained tokens of a micro-batch, (N,) each. Sequences are whole."""

    old_logp: torch.Tensor  # under the policy that is taken for the sampler's
    advantage: torch.Tensor
    row: torch.Tensor  # which sequence a token belongs to
    right_share: torch.Tensor | None = None  # mean reward of the token's group
    sampled_logp: torch.Tensor | None = None  # under the model that sampled it
    weight: torch.Tensor | None = None  # in the sum that is the loss


class MicroBatch(NamedTuple):
    """Rows packed for one forward pass, and their trained tokens."""

    batch: object  # packing.Batch
    packed: object  # attention.Packed
    tokens: Tokens
    n_tokens: int | None  # of the tokenizer; what a larger head has beyond is in no softmax


def make_micro_batch(rollout, weights, rows, device):
    """Pack these rows of a rollout for one forward pass."""

    def of_tokens(values):  # (N,) of the trained tokens of these rows
        kept = [x for i in rows for x, m in zip(values[i], rollout.masks[i]) if m]
        return torch.tensor(kept, device=device)

    def of_rows(values):  # (N,) from (B,)
        return None if values is None else values[rows].to(device)[batch.row]

    batch, packed = pack_groups(
        [rollout.sequences[i] for i in rows], [rollout.masks[i] for i in rows], device
    )
    advantage = of_rows(rollout.advantage)
    if rollout.token_rewards is not None:
        advantage = advantage + of_tokens(rollout.token_rewards)
    old_logp = sampled_logp = of_tokens(rollout.old_logps)
    if rollout.sampled_logps is not None:
        sampled_logp = of_tokens(rollout.sampled_logps)
    token_weight = torch.cat([weights[i] for i in rows]).to(device)
    right_share = of_rows(rollout.right_share)
    tokens = Tokens(old_logp, advantage, batch.row, right_share, sampled_logp, token_weight)
    return MicroBatch(batch, packed, tokens, rollout.n_tokens)


def trained_states(model, micro_batch):
    """Hidden states (N, D) from which the trained tokens are predicted, and the output head."""
    batch = micro_batch.batch
    hidden = models.hidden_states(model, batch.ids, batch.positions, micro_batch.packed)
    return hidden[batch.where], models.output_head(model, micro_batch.n_tokens)


@torch.no_grad()
def sums_of(loss, stats, clipped, full_kl, tokens):
    """Sums over the tokens of a micro-batch, w being the ratio to the sampler."""
    log_w = stats.logp - tokens.sampled_logp
    ratio = (stats.logp - tokens.old_logp).exp()
    sums = {
        "loss": loss,
        "entropy": stats.entropy.sum(),
        "kl": 0 if full_kl is None else full_kl.sum(),
        "clipped": clipped.sum(),
        "dlogp": log_w.abs().sum(),
        "w": log_w.exp().sum(),
        "w²": (2 * log_w).exp().sum(),
        "n": len(clipped),
    }
    return {name: float(value) for name, value in sums.items()} | {
        "ratio_max": (ratio - 1).abs().max().item()
    }


class Sums:
    """Sums of an update over micro-batches and ranks, divided once by the same count."""

    names = ("loss", "entropy", "kl", "clipped", "dlogp", "w", "w²", "n")

    def __init__(self):
        self.total = dict.fromkeys(self.names, 0.0)
        self.ratio_max = 0.0

    def add(self, numbers):
        """numbers: see sums_of."""
        for name in self.names:
            self.total[name] += numbers[name]
        self.ratio_max = max(self.ratio_max, numbers["ratio_max"])

    def means(self, ranks, measure_kl):
        """Numbers per token for the log; None where nothing was trained or measured. Collective."""
        parts = processes.gather_from_ranks([self.ratio_max, self.total], ranks)
        total = {name: sum(part[name] for _, part in parts) for name in self.names}
        n = total["n"] or math.nan
        ess = total["w"] ** 2 / (n * total["w²"]) if total["w²"] else math.nan
        values = {
            "loss": total["loss"],
            "entropy": total["entropy"] / n,
            "kl": total["kl"] / n if measure_kl else math.nan,
            "clip_fraction": total["clipped"] / n,
            "ratio_max": max(ratio for ratio, _ in parts),
            "dlogp": total["dlogp"] / n,
            "ess": ess,
        }
        return {name: finite(value) for name, value in values.items()}


def finite(value):
    return None if math.isnan(value) else value
