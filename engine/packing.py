"""Sequences packed side by side into one row without padding, and which tokens are scored."""

import math
from bisect import bisect_left, insort
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """A packed row of T tokens, N of which are scored."""

    ids: torch.Tensor  # (T,) all tokens, one sequence after the other
    positions: torch.Tensor  # (T,) they restart at 0 in each sequence
    lengths: list[int]  # tokens of each sequence; they sum to T
    where: torch.Tensor  # (N,) position in the row that predicts a scored token
    target: torch.Tensor  # (N,) the scored token
    row: torch.Tensor  # (N,) index of its sequence


def pack(sequences, masks=None, device="cpu"):
    """Pack lists of token ids into one row -> Batch.

    masks: for each token whether it is scored; default: all. The first token of a sequence is never
    scored, because nothing before it belongs to its text. This is the only place where predictions
    and targets are shifted by one: position t predicts token t + 1. Raises ValueError for an empty
    sequence.
    """
    lengths = [len(ids) for ids in sequences]
    if not lengths or min(lengths) == 0:
        raise ValueError("pack needs at least one token in each sequence")
    ids = torch.tensor([token for ids in sequences for token in ids])  # (T,)
    positions = torch.cat([torch.arange(length) for length in lengths])  # (T,)
    row = torch.repeat_interleave(torch.tensor(lengths))  # (T,) 0 0 0 1 2 2 ...

    is_scored = positions > 0
    if masks is not None:
        is_scored &= torch.tensor([bool(scored) for mask in masks for scored in mask])
    scored_at = is_scored.nonzero()[:, 0]  # (N,)
    return Batch(
        ids=ids.to(device),
        positions=positions.to(device),
        lengths=lengths,
        where=(scored_at - 1).to(device),
        target=ids[scored_at].to(device),
        row=row[scored_at].to(device),
    )


def fill_bins(lengths, capacity):
    """Group indices so that the lengths of each group sum to at most `capacity` -> list of lists.

    Best-fit decreasing: the longest first, each into the bin where it leaves the least room. A
    length above the capacity gets a bin of its own. Indices within a group, and groups by their
    first index, are in the order of the input. A million lengths take seconds.
    """

    def size_class(i):
        # Lengths within an eighth of a doubling count as equal and keep the order of the input, so
        # that a shuffled input gives other groups.
        return round(8 * math.log2(max(1, lengths[i])))

    bins = []
    bins_with_room = {}  # room that is left -> the bins that have just that much
    rooms = []  # the keys of bins_with_room in ascending order
    for i in sorted(range(len(lengths)), key=size_class, reverse=True):
        at = bisect_left(rooms, lengths[i])  # the least room that is enough
        if at < len(rooms):
            room = rooms[at]
            chosen = bins_with_room[room].pop()
            if not bins_with_room[room]:
                del bins_with_room[room], rooms[at]
        else:
            room = max(capacity, lengths[i])
            chosen = []
            bins.append(chosen)
        chosen.append(i)
        room -= lengths[i]
        if room > 0 and room not in bins_with_room:
            bins_with_room[room] = []
            insort(rooms, room)
        if room > 0:
            bins_with_room[room].append(chosen)
    return sorted(sorted(indices) for indices in bins)
