"""Dealing work to the ranks of a run: the micro-batches of a step, filled evenly."""

import heapq

from engine import packing


def deal(lengths, capacity, n_ranks):
    """The micro-batches of one step for each rank: lists of indices, equally many per rank (some may be empty).

    Several ranks wait for the slowest, so their micro-batches are filled evenly: the longest row goes to the emptiest.
    """
    bins = packing.fill_bins(lengths, capacity)
    n_each = -(-len(bins) // n_ranks)
    while n_ranks > 1:
        bins = [[] for _ in range(n_each * n_ranks)]
        loads = [(0, place) for place in range(len(bins))]
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            load, place = heapq.heappop(loads)
            bins[place].append(i)
            heapq.heappush(loads, (load + lengths[i], place))
        if all(len(b) <= 1 or sum(lengths[i] for i in b) <= capacity for b in bins):
            break
        n_each += 1
    return [bins[rank::n_ranks] for rank in range(n_ranks)]
