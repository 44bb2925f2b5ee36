"""engine/dealing.py: micro-batches of a step and groups of a rollout, dealt by hand."""

import pytest
import torch

from engine import dealing, processes


def test_deal_by_hand():
    """Rows of 6 5 4 3 2 tokens, at most 10 a pass. Alone: best fit decreasing, [6 4] [5 3 2]. Two ranks: one pass each,
    the longest to the emptiest: 6, 5, then 4 to the 5, 3 to the 6, 2 to a 9: 11, too much; so two passes each, evenly."""
    assert dealing.deal([6, 5, 4, 3, 2], 10, 1) == [[[0, 2], [1, 3, 4]]]
    first, second = dealing.deal([6, 5, 4, 3, 2], 10, 2)
    assert len(first) == len(second) == 2
    assert sorted(i for group in first + second for i in group) == [0, 1, 2, 3, 4]
    assert dealing.deal([6, 5, 4, 3, 2], 11, 2) == [[[0, 3, 4]], [[1, 2]]]
    # two ranks have nothing to do, and take part
    assert dealing.deal([7, 20], 10, 4) == [[[1]], [[0]], [[]], [[]]]


@pytest.mark.parametrize("n_ranks", [2, 3, 8])
def test_deal_is_even_and_within_bounds(n_ranks):
    """100 rows, at most 300 tokens a pass: as many passes for each rank, loads within a row of one another."""
    lengths = torch.randint(1, 60, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    ranks = dealing.deal(lengths, 300, n_ranks)
    assert len(ranks) == n_ranks and len({len(groups) for groups in ranks}) == 1
    assert sorted(i for groups in ranks for group in groups for i in group) == list(range(100))
    loads = [sum(lengths[i] for i in group) for groups in ranks for group in groups]
    assert max(loads) <= 300 and max(loads) - min(loads) < 60


def test_groups_stay_together_and_all_ranks_see_all():
    """7 problems dealt to 3 ranks, the fifth as much work as all others, and put together again."""
    dealt = dealing.deal_groups([1, 1, 1, 1, 6, 1, 1], 3)
    assert dealt == [[4], [0, 2, 5], [1, 3, 6]]
    ranks = processes.Ranks("cpu", 0, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "gather_from_ranks", lambda value, ranks: dealt)
        assert dealing.gather_dealt(dealt[0], dealt, ranks) == list(range(7))


def test_groups_are_dealt_by_hand():
    """The largest first, to the rank with least: 9 | 6, then 3 | 9, 12 | 9, 12 | 11, 12 | 12. Equal groups in turn."""
    assert dealing.deal_groups([9, 1, 2, 6, 3, 3], 2) == [[0, 5], [1, 2, 3, 4]]
    assert dealing.deal_groups([5] * 7, 3) == [[0, 3, 6], [1, 4], [2, 5]]
    assert dealing.deal_groups([2, 3], 4) == [[1], [0], [], []]
