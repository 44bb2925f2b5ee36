"""Is this question one that was seen before? Layers from exact equality to reworded and renumbered questions.

    exact          equal after lower-casing and joining white space
    ngram:8        one run of 8 words in common is enough                              s1 (2501.19393), §C.5
    minhash:0.6    Jaccard similarity of the sets of 3-word shingles, candidates by MinHash and locality-sensitive hashing
    masked:0.7     the same after every number became 0: the question with other numbers
    answer:0.4     the same gold answer, and a Jaccard similarity that alone would not be enough
    embedding:0.9  cosine of the rows' `embedding` fields, from whatever encoder wrote them

MinHash (Broder 1997): under a random permutation the smallest element of two sets is the same with probability J, their
Jaccard similarity. b bands of r such minima each: sets with similarity s meet in at least one band with probability
1 - (1 - s^r)^b. Candidates are confirmed with the exact similarity, so that hashing can only miss a pair, never make one.
"""

import hashlib
import random
import re
import zlib
from array import array
from collections import Counter
from math import sqrt
from operator import mul

from engine.rows import BadInput
from grading.answers import parse

# and their limits
LAYERS = {"exact": None, "ngram": 8, "minhash": 0.6, "masked": 0.7, "answer": 0.4, "embedding": 0.9}
N_HASHES, PRIME = 128, (1 << 61) - 1
_rng = random.Random(1997)
PERMUTATIONS = [(_rng.randrange(1, PRIME), _rng.randrange(PRIME)) for _ in range(N_HASHES)]


def normalised(text):
    """Lower case, one space between words; punctuation stays attached (s1's decontamination)."""
    return " ".join(text.lower().split())


def ngrams(text, n):
    """Set of the n-word tuples of a text; empty when it has fewer than n words."""
    words = text.lower().split()
    return set(zip(*(words[i:] for i in range(n))))


def shingles(text, masked=False, k=3):
    """Set of hashes of the k-word runs of a text; of a shorter text, of all of it. Punctuation goes, but the signs of
    arithmetic are words: without them all sums of two numbers would be the same question.

    masked: every number (12, 3.5, 1,000) counts as 0.
    """
    text = text.lower()
    if masked:
        text = re.sub(r"\d+(?:[.,]\d+)*", "0", text)
    # Chinese has no spaces
    words = re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[-+*/^=<>|!]", text)
    return {
        zlib.crc32(" ".join(words[i : i + k]).encode()) for i in range(max(1, len(words) - k + 1))
    }


def jaccard(a, b):
    """Size of the intersection over size of the union; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def signature(hashes, n=N_HASHES):
    """The smallest hash of a non-empty set under each of n permutations x -> (a x + b) mod p."""
    return [min([(a * x + b) % PRIME for x in hashes]) for a, b in PERMUTATIONS[:n]]


def collision(s, b, r):
    """Probability that sets of Jaccard similarity s agree in all r rows of at least one of b bands."""
    return 1 - (1 - s**r) ** b


def bands_for(threshold, n=N_HASHES, recall=0.95):
    """(b, r) with b·r <= n: the largest r, hence the fewest candidates, that still finds `recall` of the pairs which
    are just as similar as the threshold."""
    return next(
        (n // r, r) for r in range(n, 0, -1) if r == 1 or collision(threshold, n // r, r) >= recall
    )


def parse_layers(flag, given, ngram=8):
    """["exact", "minhash:0.6"] -> {"exact": None, "minhash": 0.6}. Raises BadInput."""
    layers = {}
    for text in given:
        name, _, number = text.partition(":")
        try:
            limit = float(number) if number else ngram if name == "ngram" else LAYERS[name]
            if (
                name == "exact"
                and number
                or name == "ngram"
                and (limit < 1 or limit != int(limit))
                or name not in ("exact", "ngram")
                and not 0 < limit <= 1
            ):
                raise ValueError
        except (KeyError, ValueError):
            known = ", ".join(
                layer + f":{default}" * (default is not None) for layer, default in LAYERS.items()
            )
            raise BadInput(
                f"{flag} {text}: not one of {known} (a share of 1 behind all but ngram)"
            ) from None
        layers[name] = int(limit) if name == "ngram" else limit
    return layers


class Minima:
    """Texts to be found again by MinHash and locality-sensitive hashing."""

    def __init__(self, threshold, masked=False, prefilter=True):
        """prefilter: remember every shingle, to pass over texts that share too few with all the others together. For
        a few thousand held-out questions it saves nearly all the hashing; for a growing pool it would cost memory."""
        self.threshold, self.masked = threshold, masked
        self.bands, self.rows = bands_for(threshold)
        self.texts, self.buckets, self.known = [], {}, set() if prefilter else None

    def keys(self, hashes):
        minima = signature(hashes, self.bands * self.rows)
        return [
            (band, *minima[band * self.rows : (band + 1) * self.rows]) for band in range(self.bands)
        ]

    def add(self, text):
        hashes = shingles(text, self.masked)
        for key in self.keys(hashes):
            self.buckets.setdefault(hash(key), []).append(len(self.texts))
        self.texts.append(text)
        if self.known is not None:
            self.known |= hashes

    def find(self, text):
        """(number, similarity) of the most similar text with at least the threshold, or None."""
        hashes = shingles(text, self.masked)
        # J(A, B) <= |A ∩ B| / |A| <= |A ∩ all shingles| / |A|: nothing is lost here.
        if (
            not self.texts
            or self.known is not None
            and len(hashes & self.known) < self.threshold * len(hashes)
        ):
            return None
        candidates = {i for key in self.keys(hashes) for i in self.buckets.get(hash(key), ())}
        found = [
            (i, jaccard(hashes, shingles(self.texts[i], self.masked))) for i in sorted(candidates)
        ]
        best = max(found, key=lambda pair: pair[1], default=(0, -1))
        return best if best[1] >= self.threshold else None


class Overlap:
    """Rows that others may not repeat: add() them, then find() says which one a row repeats and how."""

    def __init__(self, layers, growing=False):
        """layers: of parse_layers, cheap ones first. growing: the rows are a pool that is searched while it grows; the
        n-gram layer then compares rows of different sources only, as s1 does between its sixteen sources."""
        self.layers, self.growing = layers, growing
        self.names, self.questions, self.sources, self.by = (
            [],
            [],
            [],
            {layer: {} for layer in layers},
        )
        self.vectors = []
        for layer in {"minhash", "masked"} & set(layers):
            self.by[layer] = Minima(layers[layer], layer == "masked", prefilter=not growing)

    def add(self, row):
        number, question = len(self.names), row["question"]
        self.names.append(row.get("id"))
        self.questions.append(question)
        self.sources.append(row.get("source"))
        for layer, limit in self.layers.items():
            if layer in ("minhash", "masked"):
                self.by[layer].add(question)
            elif layer == "answer":
                if (key := gold(row)) is not None:
                    self.by[layer].setdefault(key, []).append((number, shingles(question)))
            elif layer == "embedding":
                self.vectors.append(unit(row))
            else:
                for key in ngrams(question, limit) if layer == "ngram" else [normalised(question)]:
                    self.by[layer].setdefault(key, number)

    def find(self, row):
        """(reason, layer, number of the other row, similarity) of the first layer that finds one, or None."""
        for layer, limit in self.layers.items():
            if found := getattr(self, layer)(row, limit):
                shown = {"exact": "same question", "ngram": f"shared {limit}-gram"}.get(
                    layer, f"{layer} {limit}"
                )
                return shown, layer, *found
        return None

    def exact(self, row, _):
        number = self.by["exact"].get(normalised(row["question"]))
        return None if number is None else (number, 1.0)

    def ngram(self, row, n):
        """Similarity: share of the row's own n-grams that are not its alone."""
        grams, seen = ngrams(row["question"], n), self.by["ngram"]
        shared = [seen[gram] for gram in grams if gram in seen]
        if self.growing:
            shared = [number for number in shared if self.sources[number] != row.get("source")]
        return (min(shared), len(shared) / len(grams)) if shared else None

    def minhash(self, row, _):
        return self.by["minhash"].find(row["question"])

    def masked(self, row, _):
        return self.by["masked"].find(row["question"])

    def answer(self, row, limit):
        ours, same = shingles(row["question"]), self.by["answer"].get(gold(row), ())
        best = max(
            ((number, jaccard(ours, theirs)) for number, theirs in same),
            key=lambda p: p[1],
            default=(0, -1),
        )
        return best if best[1] >= limit else None

    def embedding(self, row, limit):
        """Every pair is compared, in plain Python: for pools of thousands, not millions."""
        ours = unit(row)
        cosines = [
            (number, sum(map(mul, ours, theirs))) for number, theirs in enumerate(self.vectors)
        ]
        best = max(cosines, key=lambda pair: pair[1], default=(0, -2))
        return best if best[1] >= limit else None


def gold(row):
    """The gold answer as the grader reads it, so that 1/2 and 0.5 are the same; None without one."""
    return (parse(str(row["answer"])) or None) if row.get("answer") is not None else None


def unit(row):
    """The row's `embedding` with length 1. Raises BadInput."""
    vector = row.get("embedding")
    if (
        not isinstance(vector, list)
        or not all(isinstance(x, (int, float)) for x in vector)
        or not any(vector)
    ):
        raise BadInput(
            f"row {row.get('id')}: `embedding` is not a list of numbers, which the layer embedding needs"
        )
    length = sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def digest(*texts):
    """64 bits that stand for some texts."""
    return int.from_bytes(
        hashlib.blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=8).digest(),
        "little",
    )


class Seen:
    """A set of 64-bit digests in an open-addressing table of 16 to 32 bytes each, where Python's set takes 80."""

    def __init__(self):
        self.table, self.n = array("Q", bytes(8 << 10)), 0

    def place(self, digest):
        """Where the digest is, or would be put."""
        mask = len(self.table) - 1
        place = digest & mask
        while self.table[place] not in (0, digest):
            place = (place + 1) & mask
        return place

    def __contains__(self, digest):
        return self.table[self.place(digest or 1)] != 0

    def add(self, digest):
        """Whether the digest (0 stands for 1) is new."""
        if 2 * (self.n + 1) > len(self.table):
            old, self.table = self.table, array("Q", bytes(16 * len(self.table)))
            for each in filter(None, old):
                self.table[self.place(each)] = each
        place = self.place(digest or 1)
        if self.table[place]:
            return False
        self.table[place] = digest or 1
        self.n += 1
        return True


def overlap_filter(layers, note, rows=None):
    """A filter that drops what repeats one of these rows, or with rows=None an earlier row of the pool; another trace of
    an earlier question is a copy for the layer `exact` alone. note: called with what is known of each pair."""
    seen, questions = Overlap(layers, growing=rows is None), Seen()
    for row in rows or ():
        seen.add(row)

    def problem(row):
        name = digest(normalised(row["question"]))
        if rows is None and "exact" not in layers and name in questions:
            return None
        if found := seen.find(row):
            reason, layer, other, similarity = found
            note(
                {
                    "layer": layer,
                    "similarity": round(similarity, 4),
                    "id": row["id"],
                    "question": row["question"],
                    "other_id": seen.names[other],
                    "other": seen.questions[other],
                }
            )
            return reason
        if rows is None:
            seen.add(row)
            questions.add(name)

    return problem


def at_most(limit, key, reason):
    """A filter that lets `limit` rows of each key(row) pass, a list of texts."""
    seen, counts = Seen(), Counter()

    def problem(row):
        name = digest(*key(row))
        if limit > 1:  # a Counter takes five times the memory
            counts[name] += 1
        return None if (seen.add(name) if limit == 1 else counts[name] <= limit) else reason

    return problem
