"""Sequences packed side by side into one row, without padding, and the tokens to be scored."""

import math
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """Sequences packed into one row, and the tokens to be scored."""

    ids: torch.Tensor  # (T,) all tokens, sequence after sequence
    positions: torch.Tensor  # (T,) restart at 0 in each sequence
    lengths: list[int]  # of each sequence; they sum to T
    where: torch.Tensor  # (N,) index in T of the position that predicts a scored token
    target: torch.Tensor  # (N,) the scored token
    row: torch.Tensor  # (N,) the sequence it belongs to


def pack(sequences, masks=None, device="cpu"):
    """Lists of token ids (and for each token whether it is scored) -> Batch. Raises ValueError for an empty sequence.

    The only place of the shift by one: position t predicts token t + 1 of the same sequence. The first token of a
    sequence is predicted by nothing, so it is never scored.
    """
    lengths = [len(ids) for ids in sequences]
    if not lengths or min(lengths) == 0:
        raise ValueError("pack needs at least one token in each sequence")
    each = torch.tensor(lengths)
    ids = torch.tensor([i for ids in sequences for i in ids])
    row = torch.arange(len(lengths)).repeat_interleave(each)
    positions = torch.arange(len(ids)) - (each.cumsum(0) - each)[row]
    scored = positions > 0
    if masks is not None:
        scored &= torch.tensor([bool(m) for mask in masks for m in mask])
    at = scored.nonzero()[:, 0]  # (N,) tokens that are predicted
    return Batch(
        ids.to(device),
        positions.to(device),
        lengths,
        (at - 1).to(device),
        ids[at].to(device),
        row[at].to(device),
    )


def fill_bins(lengths, capacity):
    """Best-fit decreasing: indices grouped so that each group's lengths sum to at most `capacity`.

    Longest first, where lengths within an eighth of a doubling count as equal and keep the order of the input, so that
    a shuffled input gives other groups; each goes where the least room is left that suffices. A length above the
    capacity gets a bin of its own. Groups and their members keep the order of the input. A million rows: seconds.
    """
    # room -> bins with that much left; bit r of rooms: there is one
    bins, with_room, rooms = [], {}, 0
    for i in sorted(range(len(lengths)), key=lambda i: -round(8 * math.log2(max(1, lengths[i])))):
        length = lengths[i]
        enough = rooms >> length if length <= capacity else 0
        if enough:
            room = length + (enough & -enough).bit_length() - 1  # the lowest bit set
            place = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            bins[place].append(i)
        else:
            room, place = max(capacity, length), len(bins)
            bins.append([i])
        if room - length:
            with_room.setdefault(room - length, []).append(place)
            rooms |= 1 << room - length
    return sorted(sorted(b) for b in bins)
