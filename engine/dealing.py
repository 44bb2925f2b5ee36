"""Dealing work to the ranks of a run, so that none waits long for another."""

import heapq

from engine import packing, processes


def deal(lengths, capacity, n_ranks):
    """Deal the rows of one step out as micro-batches -> for each rank a list of lists of indices.

    lengths: tokens per row; capacity: tokens per micro-batch. Every rank gets equally many
    micro-batches, some of which may be empty. Several ranks wait for the slowest, so theirs are
    filled evenly: the longest row goes to the emptiest micro-batch.
    """
    bins = packing.fill_bins(lengths, capacity)
    n_each = -(-len(bins) // n_ranks)
    while n_ranks > 1:
        bins = fill_evenly(lengths, n_each * n_ranks)
        if all(len(b) <= 1 or sum(lengths[i] for i in b) <= capacity for b in bins):
            break
        n_each += 1
    return [bins[rank::n_ranks] for rank in range(n_ranks)]


def fill_evenly(work, n_bins):
    """Give the largest item that is left to the bin with the least -> lists of indices.

    The fullest bin holds at most 4/3 of the best possible (Graham 1969). Ties go round in turn.
    """
    bins = [[] for _ in range(n_bins)]
    loads = [(0, place) for place in range(n_bins)]
    for i in sorted(range(len(work)), key=lambda i: -work[i]):
        load, place = heapq.heappop(loads)
        bins[place].append(i)
        heapq.heappush(loads, (load + work[i], place))
    return bins


def micro_batches(lengths, capacity, ranks):
    """Yield this rank's micro-batches of a step as (indices of rows, whether they count).

    A model in shards needs all ranks in every pass. A rank without work repeats the shortest row,
    and what it computes does not count. capacity: tokens, which engine/fitting.py has chosen.
    """
    if capacity <= 0:
        raise ValueError("the size of a micro-batch is not chosen yet")
    shortest = min(range(len(lengths)), key=lengths.__getitem__, default=None)
    for group in deal(lengths, capacity, ranks.n)[ranks.index]:
        yield (group, True) if group else ([shortest], False)


def deal_groups(work, n_ranks):
    """Work of each group -> for each rank the places of its groups, in order."""
    return [sorted(share) for share in fill_evenly(work, n_ranks)]


def gather_dealt(values, shares, ranks):
    """Values of this rank's places -> of all places in order, on every rank; collective.

    shares: the places of each rank, as deal_groups gave them. Values must be plain enough for JSON.
    """
    parts = processes.gather_from_ranks(values, ranks)
    found = {}
    for places, part in zip(shares, parts):
        found |= dict(zip(places, part, strict=True))
    return [found[place] for place in range(len(found))]
