"""The selections of curate.py for a pool that is larger than memory; they choose the same rows.

A row is looked at once as it comes and leaves a few numbers behind: 30 to 100 bytes, or a Card if
its fields are needed. These tell which rows can be chosen at all. Only such rows become Cards, and
among them curate.py's plain functions choose.

    s1, longest        a Card of each row; from time to time those out of reach are dropped
    random, diverse    a key of some 70 bytes, which sorts and draws as the row does
    limo, variance     three numbers and the score's terms; rows that are at least as good as the
                       best of the k-th question can be chosen
"""

import heapq
import random
import struct
from array import array
from collections import Counter
from itertools import groupby

from curation.pool import Card, digest_of_trace, domain_of, question_of
from curation.similarity import digest

PRUNE_AT = 50_000  # cards, about 20 MB


class StreamedPool:
    """The (place, row) of a pool, to be looked at once, and a way to read some rows again."""

    def __init__(self, rows, reread, rank=lambda row: 0):
        """reread: places -> their (place, row). rank: what --order sorts by."""
        self.rows, self.reread, self.rank = rows, reread, rank

    def __iter__(self):
        return iter(self.rows)

    def card(self, place, row):
        return Card(place, row, self.rank(row))

    def cards(self, places):
        return [self.card(place, row) for place, row in self.reread(places)]

    def in_order(self):
        """Yield all rows, sorted by rank; of each, 16 bytes are in memory."""
        places, ranks = array("Q"), array("d")
        for place, row in self:
            places.append(place)
            ranks.append(self.rank(row))
        order = sorted(range(len(ranks)), key=ranks.__getitem__)
        for _, row in self.reread(places[i] for i in order):
            yield row


# ---- s1, longest --------------------------------------------------------------------------------


def collect_cards(pool, prune):
    """Cards of the rows that can still be chosen. prune: cards -> those that can."""
    cards, limit = [], PRUNE_AT
    for place, row in pool:
        cards.append(pool.card(place, row))
        if len(cards) >= limit:
            cards = prune(cards)
            limit = max(limit, 2 * len(cards))
    return cards


def within_reach_of_s1(longest_first, outright, k, window):
    """The rows that Algorithm 1 can choose: outright ones, and k + window longest of each domain.

    With n rows taken outright it draws k - n more, and at most n times in vain, among the `window`
    longest that remain in a domain.
    """
    kept, n_of_domain = [], Counter()
    outright = {id(row) for row in outright}
    for row in longest_first:
        n_of_domain[domain_of(row)] += 1
        if n_of_domain[domain_of(row)] <= k + window or id(row) in outright:
            kept.append(row)
    return kept


# ---- random, diverse ----------------------------------------------------------------------------


def make_key(place, row, domain=0):
    """Some 70 bytes that sort as (id, trace) do, and then by place. domain: its number."""
    # "\0\0" ends the id: a shorter id sorts before a longer one that begins with it.
    name = str(row["id"]).encode("utf-8").replace(b"\0", b"\0\xff") + b"\0\0"
    return name + struct.pack(">QQL", digest_of_trace(row), place, domain)


def read_key(key):
    """Key -> (place, number of the domain)."""
    return struct.unpack(">QL", key[-12:])


def collect_keys(pool):
    """Return (keys in order, names of the domains)."""
    numbers = {}  # of the domains
    keys = []
    for place, row in pool:
        number = numbers.setdefault(domain_of(row), len(numbers))
        keys.append(make_key(place, row, number))
    return sorted(keys), list(numbers)


def draw_random(keys, k, seed):
    """select_random() on sorted keys -> places."""
    drawn = random.Random(seed).sample(keys, min(k, len(keys)))
    return [read_key(key)[0] for key in drawn]


def draw_diverse(keys, domains, k, seed, draw_by_domain):
    """select_diverse() on sorted keys -> places.

    Of each domain it can reach the last k rows in the drawn order.
    """
    rng = random.Random(seed)
    within_reach, n_of_domain = [], Counter()
    for i in reversed(rng.sample(range(len(keys)), len(keys))):
        place, domain = read_key(keys[i])
        n_of_domain[domain] += 1
        if n_of_domain[domain] <= k:
            # All lengths are equal: the window is one row, so that lengths change nothing.
            row = {"at": place, "domain": domains[domain], "n_thinking_tokens": 1}
            within_reach.append(row)
    return [row["at"] for row in draw_by_domain(within_reach[::-1], k, rng)]


# ---- Scores -------------------------------------------------------------------------------------


class ScoreTable:
    """Columns with each row's place, its question, whether it is right, and its score's terms."""

    def __init__(self, pool, terms_of):
        self.pool = pool
        self.places, self.questions, self.right = array("Q"), array("Q"), bytearray()
        self.terms = []
        for place, row in pool:
            self.places.append(place)
            self.questions.append(digest(question_of(row)))
            self.right.append(row.get("correct") is True)
            terms = terms_of(row)
            self.terms = self.terms or [array("d") for _ in terms]
            for column, term in zip(self.terms, terms):
                column.append(term)

    def read_again(self, numbers, scores):
        """Numbers of rows in this table -> (their cards, their scores)."""
        cards = self.pool.cards(self.places[i] for i in numbers)
        return cards, [scores[i] for i in numbers]


def within_reach_of_best(questions, scores, k, lowest=False):
    """Numbers of the rows that can be chosen when each question gives its best row.

    They are at least as good as the best row of the k-th question, ties included.
    """
    best_of = heapq.nsmallest if lowest else heapq.nlargest
    n_looked_at = 2 * k
    while n_looked_at < len(scores):
        seen = set()
        for i in best_of(n_looked_at, range(len(scores)), key=scores.__getitem__):
            seen.add(questions[i])
            if len(seen) == k:
                limit = scores[i]
                if lowest:
                    return [j for j, score in enumerate(scores) if score <= limit]
                return [j for j, score in enumerate(scores) if score >= limit]
        n_looked_at *= 4
    return range(len(scores))


def within_reach_of_bands(questions, right, scores, k, n_bands=5):
    """Numbers of the rows of the k questions with the best score, ties included.

    Only right rows count, and only questions with n_bands of them.
    """
    order = sorted((i for i, is_right in enumerate(right) if is_right), key=questions.__getitem__)
    groups = [list(rows) for _, rows in groupby(order, key=questions.__getitem__)]
    groups = [group for group in groups if len(group) >= n_bands]
    best = [max(scores[i] for i in group) for group in groups]
    limit = min(heapq.nlargest(k, best), default=0)
    return [i for group, score in zip(groups, best) if score >= limit for i in group]
