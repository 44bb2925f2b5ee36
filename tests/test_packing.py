"""engine/packing.py: packing by hand, and best-fit bins."""

from collections import Counter

import pytest
import torch
from small_models import (
    sequences,
)

from engine import packing


def test_pack_by_hand():
    """Sequences (5 6 7), (8), (9 4 2 3): 8 tokens at positions 0 1 2 | 0 | 0 1 2 3. Scored are all
    but the first of each: tokens 1 2 5 6 7 of the row, predicted at 0 1 4 5 6; token 3 (the 8) is
    scored by nothing and the 9 is not predicted from it."""
    batch = packing.pack([[5, 6, 7], [8], [9, 4, 2, 3]])
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 4, 2, 3]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert batch.lengths == [3, 1, 4]
    assert batch.where.tolist() == [0, 1, 4, 5, 6]
    assert batch.target.tolist() == [6, 7, 4, 2, 3]
    assert batch.row.tolist() == [0, 0, 2, 2, 2]
    types = {type(x) if isinstance(x, list) else x.dtype for x in batch}
    assert types == {torch.int64, list}


def test_pack_with_masks_by_hand():
    """masks (0 0 1), (1), (1 0 1 1): the first token of a sequence stays unscored although its mask
    is 1 (the 8, the 9), which leaves the 7 predicted at 1, and the 2 and 3 predicted at 5 and 6."""
    batch = packing.pack(
        [[5, 6, 7], [8], [9, 4, 2, 3]], [[0, 0, 1], [1], [True, False, True, True]]
    )
    assert batch.where.tolist() == [1, 5, 6]
    assert batch.target.tolist() == [7, 2, 3]
    assert batch.row.tolist() == [0, 2, 2]


def test_nothing_of_the_next_document_is_predicted():
    """For many random lengths: the predicting position lies directly before the scored token, in
    the same sequence."""
    seqs = sequences([1, 9, 2, 1, 1, 30, 4])
    batch = packing.pack(seqs)
    owner = [i for i, ids in enumerate(seqs) for _ in ids]
    assert len(batch.where) == sum(len(ids) - 1 for ids in seqs) == 41
    where = batch.where.tolist()
    assert batch.row.tolist() == [owner[at] for at in where]
    assert batch.row.tolist() == [owner[at + 1] for at in where]
    assert batch.target.tolist() == [batch.ids[at + 1].item() for at in where]
    positions = batch.positions.tolist()
    assert [positions[at + 1] for at in where] == [positions[at] + 1 for at in where]


def test_pack_leaves_its_inputs_alone():
    """Lists go in and stay as they are; the mask of a first token is not set to 0 in place."""
    seqs, masks = [[5, 6, 7], [8, 9]], [[0, 1, 1], [1, 1]]
    packing.pack(seqs, masks)
    assert (seqs, masks) == ([[5, 6, 7], [8, 9]], [[0, 1, 1], [1, 1]])


@pytest.mark.parametrize("seqs", [[], [[]], [[1, 2], []]])
def test_pack_refuses_empty_sequences(seqs):
    """No sequence, or one of no tokens: ValueError, not an empty row."""
    with pytest.raises(ValueError):
        packing.pack(seqs)


def test_fill_bins_by_hand():
    """Capacity 13, lengths 5 2 7 9 1. Longest first: 9 opens bin A (4 left); 7 opens B (6 left); 5
    fits B alone (1 left); 2 fits A (2 left); 1 fits both and fills B. A = {1, 3}, B = {0, 2, 4};
    bins are listed by their first member. Lengths 1 10 4 6 5: 10 opens A (3 left); 6 opens B, where
    5 fits (2 left); 4 opens C; 1 goes to B, which has the least room, and not to A, the first."""
    assert packing.fill_bins([5, 2, 7, 9, 1], 13) == [[0, 2, 4], [1, 3]]
    assert packing.fill_bins([1, 10, 4, 6, 5], 13) == [[0, 3, 4], [1], [2]]
    assert packing.fill_bins([5, 7, 3, 2], 10) == [[0, 3], [1, 2]]


def test_fill_bins_takes_the_longest_first():
    """4 4 6 6 into 10: each 6 takes a 4, two full bins. In the order of the input the fours share
    one, and each 6 has its own."""
    lengths = [4, 4, 6, 6]
    bins = packing.fill_bins(lengths, 10)
    assert [sum(lengths[i] for i in b) for b in bins] == [10, 10]


def test_an_oversized_item_gets_its_own_bin():
    """11 does not fit into 10: it stands alone instead of waiting for ever, and takes nothing with
    it."""
    assert packing.fill_bins([3, 11, 7], 10) == [[0, 2], [1]]
    assert packing.fill_bins([20, 20], 10) == [[0], [1]]
    assert packing.fill_bins([], 10) == []


@pytest.mark.parametrize("capacity", [1, 30, 97, 5000])
def test_fill_bins_holds_each_index_once(capacity):
    """200 random lengths: every index in exactly one bin, in order within and between bins, no bin
    of several above capacity, and no two bins that would fit into one (which first-fit never
    leaves)."""
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    copy = list(lengths)
    bins = packing.fill_bins(lengths, capacity)
    assert lengths[:5] == copy[:5] and lengths == copy
    times = Counter(i for b in bins for i in b)
    assert {i: times[i] for i in range(200) if times[i] != 1} == {} and len(times) == 200
    unsorted = [b for b in bins if b != sorted(b)]
    assert unsorted[:1] == [] and [b[0] for b in bins][:9] == sorted(b[0] for b in bins)[:9]
    assert bins == sorted(bins)
    sums = [sum(lengths[i] for i in b) for b in bins]
    assert [s for s, b in zip(sums, bins) if s > capacity and len(b) > 1] == []
    if len(sums) > 1:
        assert sum(sorted(sums)[:2]) > capacity


def test_fill_bins_wastes_little():
    """64 lengths like those of s1 (1k to 12k tokens) into 32k: 98% of the slots hold tokens, the
    last bin aside."""
    lengths = torch.randint(1000, 12000, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    bins = packing.fill_bins(lengths, 32768)
    full = sorted(sum(lengths[i] for i in b) for b in bins)[1:]
    assert round(sum(full) / (len(full) * 32768), 4) >= 0.98
