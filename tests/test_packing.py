"""engine/packing.py: packing by hand, and best-fit bins."""

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
    assert all(x.dtype == torch.int64 for x in batch if isinstance(x, torch.Tensor))


def test_pack_with_masks_by_hand():
    """masks (0 0 1), (1), (1 0 1 1): the first token of a sequence stays unscored although its mask
    is 1 (the 8, the 9), which leaves the 7 predicted at 1, and the 2 and 3 predicted at 5 and 6."""
    batch = packing.pack(
        [[5, 6, 7], [8], [9, 4, 2, 3]], [[0, 0, 1], [1], [True, False, True, True]]
    )
    assert (batch.where.tolist(), batch.target.tolist(), batch.row.tolist()) == (
        [1, 5, 6],
        [7, 2, 3],
        [0, 2, 2],
    )


def test_nothing_of_the_next_document_is_predicted():
    """For many random lengths: the predicting position lies directly before the scored token, in
    the same sequence."""
    seqs = sequences([1, 9, 2, 1, 1, 30, 4])
    batch = packing.pack(seqs)
    owner = torch.tensor([i for i, ids in enumerate(seqs) for _ in ids])
    assert torch.equal(owner[batch.where], batch.row) and torch.equal(
        owner[batch.where + 1], batch.row
    )
    assert torch.equal(batch.ids[batch.where + 1], batch.target)
    assert torch.equal(batch.positions[batch.where + 1], batch.positions[batch.where] + 1)
    assert len(batch.where) == sum(len(ids) - 1 for ids in seqs) == 41


def test_pack_leaves_its_inputs_alone():
    seqs, masks = [[5, 6, 7], [8, 9]], [[0, 1, 1], [1, 1]]
    packing.pack(seqs, masks)
    assert (seqs, masks) == ([[5, 6, 7], [8, 9]], [[0, 1, 1], [1, 1]])


@pytest.mark.parametrize("seqs", [[], [[]], [[1, 2], []]])
def test_pack_refuses_empty_sequences(seqs):
    with pytest.raises(ValueError, match="at least one token"):
        packing.pack(seqs)


def test_fill_bins_by_hand():
    """Capacity 10, lengths 4 8 1 4 2 1. Longest first: 8 opens bin A (2 left); 4 (index 0) opens B
    (6 left); 4 (index 3) fits B (2 left); 2 fills either, the later first: B; the ones (index 2, 5)
    fill A. A = {1, 2, 5}, B = {0, 3, 4}; bins are listed by their first member. Best fit: of 7, 5,
    3, 2 the 3 goes to the 7, which it fills, though there is more room beside the 5."""
    assert packing.fill_bins([4, 8, 1, 4, 2, 1], 10) == [[0, 3, 4], [1, 2, 5]]
    assert packing.fill_bins([5, 7, 3, 2], 10) == [[0, 3], [1, 2]]


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
    assert lengths == copy and sorted(i for b in bins for i in b) == list(range(200))
    assert bins == sorted(sorted(b) for b in bins)
    sums = [sum(lengths[i] for i in b) for b in bins]
    assert all(s <= capacity or len(b) == 1 for s, b in zip(sums, bins))
    if len(sums) > 1:
        assert sum(sorted(sums)[:2]) > capacity


def test_fill_bins_wastes_little():
    """64 lengths like those of s1 (1k to 12k tokens) into 32k: 98% of the slots hold tokens, the
    last bin aside."""
    lengths = torch.randint(1000, 12000, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    bins = packing.fill_bins(lengths, 32768)
    full = sorted(sum(lengths[i] for i in b) for b in bins)[1:]
    assert sum(full) / (len(full) * 32768) >= 0.98
