"""Has this question been seen before? Layers from exact equality to other words and other numbers.

    exact          equal after lower-casing and joining white space
    ngram:8        one run of 8 words in common is enough                 s1 (2501.19393), §C.5
    minhash:0.6    Jaccard similarity of the sets of 3-word shingles; MinHash and locality-sensitive
                   hashing find the candidates
    masked:0.7     the same after every number became 0: the question with other numbers
    answer:0.4     the same gold answer, and a Jaccard similarity too low to count alone
    embedding:0.9  cosine of the rows' `embedding` fields, from whatever encoder wrote them

Where a script puts no spaces between words, characters are counted. Chinese and Japanese have no
other way; in Korean the same phrase is written with more spaces or fewer.

MinHash (Broder 1997): under a random permutation, two sets have the same smallest element with
probability J, their Jaccard similarity. With b bands of r such minima each, sets of similarity s
agree in at least one whole band with probability 1 - (1 - s^r)^b. Each candidate is confirmed with
the exact similarity, so hashing may miss a pair but never makes one up.
"""

import hashlib
import random
import re
import unicodedata
import zlib
from array import array
from collections import Counter
from math import sqrt
from operator import mul

from engine.rows import BadInput
from grading.answers import parse
from grading.repetition import NO_SPACES

# Layer: its default limit, n for ngram and the least similarity for the others.
LAYERS = {"exact": None, "ngram": 8, "minhash": 0.6, "masked": 0.7, "answer": 0.4, "embedding": 0.9}

# ---- Two texts ----------------------------------------------------------------------------------


def normalise(text):
    """Lower case, one space between words; punctuation stays (s1's decontamination)."""
    return " ".join(text.lower().split())


def ngrams(text, n):
    """Set of the n-word tuples of a text; empty when it has fewer than n words.

    In a text with Chinese, Japanese, Korean or Thai also of its runs of characters.
    """
    words = text.lower().split()
    return set(zip(*(words[i:] for i in range(n)))) | character_runs(text, n)


CHARACTER = f"{NO_SPACES}\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"  # with Korean
HAS_CHARACTERS = re.compile(f"[{CHARACTER}]")
CHARACTER_OR_WORD = re.compile(rf"[{CHARACTER}]|[^\W{CHARACTER}]+|[-+*/^=<>|!]")


def character_runs(text, n):
    """Set of the runs of characters of a text that say as much as n words; empty for Latin scripts.

    A word has about one and a half characters, so a run has 12 where n is 8: with 8, "which of the
    following is right" (下列说法正确的是) would be a copy. Numbers and Latin words in between count
    as one character each. At least a third of a run are characters, so that no formula is a copy.
    Spaces and punctuation do not count, nor the width of digits and letters.
    """
    if not HAS_CHARACTERS.search(text):
        return set()
    units = CHARACTER_OR_WORD.findall(unicodedata.normalize("NFKC", text).lower())
    length = max(1, 3 * n // 2)
    runs = set(zip(*(units[i:] for i in range(length))))
    return {run for run in runs if 3 * sum(map(is_character, run)) >= length}


def is_character(unit):
    return bool(HAS_CHARACTERS.match(unit))


SHINGLE_WORD = re.compile(rf"[{NO_SPACES}]|[^\W{NO_SPACES}]+|[-+*/^=<>|!]")


def shingles(text, masked=False, k=3):
    """Set of hashes of a text's runs of k words; a shorter text is one run.

    Each character of a script without spaces is a word. Punctuation goes, but the signs of
    arithmetic count as words: without them all sums of two numbers would be the same question.
    masked: every number (12, 3.5, 1,000) counts as 0.
    """
    text = text.lower()
    if masked:
        text = re.sub(r"\d+(?:[.,]\d+)*", "0", text)
    words = SHINGLE_WORD.findall(text)
    n_runs = max(1, len(words) - k + 1)
    return {zlib.crc32(" ".join(words[i : i + k]).encode()) for i in range(n_runs)}


def jaccard(a, b):
    """Size of the intersection over size of the union; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


# ---- MinHash ------------------------------------------------------------------------------------

N_HASHES = 128
PRIME = (1 << 61) - 1
_rng = random.Random(1997)
PERMUTATIONS = [(_rng.randrange(1, PRIME), _rng.randrange(PRIME)) for _ in range(N_HASHES)]


def minhash_signature(hashes, n=N_HASHES):
    """The smallest hash of a non-empty set under each of n permutations x -> (a x + b) mod p."""
    return [min([(a * x + b) % PRIME for x in hashes]) for a, b in PERMUTATIONS[:n]]


def collision_probability(s, b, r):
    """Probability that sets of Jaccard similarity s agree in all r rows of some of b bands."""
    return 1 - (1 - s**r) ** b


def choose_bands(threshold, n=N_HASHES, recall=0.95):
    """Return (b, r) with b * r <= n, with the largest r and hence the fewest candidates.

    It still finds a share `recall` of the pairs that are just as similar as the threshold.
    """
    for r in range(n, 1, -1):
        if collision_probability(threshold, n // r, r) >= recall:
            return n // r, r
    return n, 1


class MinHashIndex:
    """Texts that can be found again by similarity."""

    def __init__(self, threshold, masked=False, prefilter=True):
        """prefilter: remember every shingle, and skip texts that share too few with all others.

        For a few thousand held-out questions it saves nearly all the hashing; for a growing pool it
        would cost memory.
        """
        self.threshold, self.masked = threshold, masked
        self.n_bands, self.n_rows = choose_bands(threshold)
        self.texts = []
        self.buckets = {}  # hash of a band: numbers of the texts in it
        self.known = set() if prefilter else None

    def band_hashes(self, hashes):
        minima = minhash_signature(hashes, self.n_bands * self.n_rows)
        bands = [minima[i * self.n_rows : (i + 1) * self.n_rows] for i in range(self.n_bands)]
        return [hash((number, *band)) for number, band in enumerate(bands)]

    def add(self, text):
        hashes = shingles(text, self.masked)
        for band in self.band_hashes(hashes):
            self.buckets.setdefault(band, []).append(len(self.texts))
        self.texts.append(text)
        if self.known is not None:
            self.known |= hashes

    def find(self, text):
        """(number, similarity) of the most similar text with at least the threshold, or None."""
        if not self.texts:
            return None
        hashes = shingles(text, self.masked)
        if self.known is not None:
            # J(A, B) <= |A ∩ B| / |A| <= |A ∩ all shingles| / |A|: nothing is lost here.
            if len(hashes & self.known) < self.threshold * len(hashes):
                return None
        candidates = set()
        for band in self.band_hashes(hashes):
            candidates.update(self.buckets.get(band, ()))
        pairs = [
            (number, jaccard(hashes, shingles(self.texts[number], self.masked)))
            for number in sorted(candidates)
        ]
        return best_pair(pairs, self.threshold)


def best_pair(pairs, least):
    """The first (number, similarity) with the highest similarity; None if it is below `least`."""
    best = max(pairs, key=lambda pair: pair[1], default=None)
    return best if best and best[1] >= least else None


# ---- Layers -------------------------------------------------------------------------------------


def parse_layers(flag, given):
    """["exact", "minhash:0.5"] -> {"exact": None, "minhash": 0.5}. Raises BadInput."""
    layers = {}
    for text in given:
        name, _, number = text.partition(":")
        try:
            layers[name] = parse_limit(name, number)
        except (KeyError, ValueError):
            known = ", ".join(
                layer if default is None else f"{layer}:{default}"
                for layer, default in LAYERS.items()
            )
            raise BadInput(
                f"{flag} {text}: not one of {known} (a share of 1 for all but ngram)"
            ) from None
    return layers


def parse_limit(name, number):
    """A layer's limit. Raises KeyError for an unknown layer, ValueError if it is out of range."""
    default = LAYERS[name]
    if not number:
        return default
    limit = float(number)
    if name == "ngram":
        in_range = limit >= 1 and limit == int(limit)
    else:
        in_range = name != "exact" and 0 < limit <= 1
    if not in_range:
        raise ValueError(number)
    return int(limit) if name == "ngram" else limit


class SeenQuestions:
    """Rows that others may not repeat: add() them; find() says which one a row repeats and how."""

    def __init__(self, layers, growing=False):
        """layers: of parse_layers, cheap ones first.

        growing: the rows are a pool that is searched while it grows. The n-gram layer then compares
        rows of different sources only, as s1 does between its sixteen sources.
        """
        self.layers, self.growing = layers, growing
        # of the rows, by number
        self.ids, self.questions, self.sources, self.vectors = [], [], [], []
        self.index = {layer: {} for layer in layers}
        for layer in {"minhash", "masked"} & set(layers):
            is_masked = layer == "masked"
            self.index[layer] = MinHashIndex(layers[layer], is_masked, prefilter=not growing)

    def add(self, row):
        number, question = len(self.ids), row["question"]
        self.ids.append(row.get("id"))
        self.questions.append(question)
        self.sources.append(row.get("source"))
        for layer, limit in self.layers.items():
            index = self.index[layer]
            if layer == "exact":
                index.setdefault(normalise(question), number)
            elif layer == "ngram":
                for gram in ngrams(question, limit):
                    index.setdefault(gram, number)
            elif layer == "answer":
                if (answer := gold_answer(row)) is not None:
                    index.setdefault(answer, []).append((number, shingles(question)))
            elif layer == "embedding":
                self.vectors.append(unit_embedding(row))
            else:
                index.add(question)

    def find(self, row):
        """(reason, layer, number of the other row, similarity) of the first layer to find one."""
        for layer, limit in self.layers.items():
            if found := getattr(self, f"find_{layer}")(row, limit):
                reasons = {"exact": "same question", "ngram": f"shared {limit}-gram"}
                return reasons.get(layer, f"{layer} {limit}"), layer, *found
        return None

    def find_exact(self, row, _):
        number = self.index["exact"].get(normalise(row["question"]))
        return None if number is None else (number, 1.0)

    def find_ngram(self, row, n):
        """The similarity is the share of the row's n-grams that another row has, too."""
        grams, seen = ngrams(row["question"], n), self.index["ngram"]
        shared = [seen[gram] for gram in grams if gram in seen]
        if self.growing:
            shared = [number for number in shared if self.sources[number] != row.get("source")]
        return (min(shared), len(shared) / len(grams)) if shared else None

    def find_minhash(self, row, _):
        return self.index["minhash"].find(row["question"])

    def find_masked(self, row, _):
        return self.index["masked"].find(row["question"])

    def find_answer(self, row, least):
        ours = shingles(row["question"])
        same_answer = self.index["answer"].get(gold_answer(row), ())
        pairs = [(number, jaccard(ours, theirs)) for number, theirs in same_answer]
        return best_pair(pairs, least)

    def find_embedding(self, row, least):
        """Compare with every row, in plain Python: for pools of thousands, not millions."""
        ours = unit_embedding(row)
        cosines = [sum(map(mul, ours, theirs)) for theirs in self.vectors]
        return best_pair(list(enumerate(cosines)), least)


def gold_answer(row):
    """The gold answer as the grader reads it: 1/2 and 0.5 are the same. None without one."""
    return (parse(str(row["answer"])) or None) if row.get("answer") is not None else None


def unit_embedding(row):
    """The row's `embedding`, scaled to length 1. Raises BadInput."""
    vector = row.get("embedding")
    is_vector = isinstance(vector, list) and all(isinstance(x, (int, float)) for x in vector)
    if not is_vector or not any(vector):
        raise BadInput(
            f"row {row.get('id')}: `embedding` is not a list of numbers, "
            "which the layer embedding needs"
        )
    length = sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


# ---- Filters ------------------------------------------------------------------------------------


class CopyFinder:
    """Finds rows that repeat a held-out question, or with held_out=None an earlier row of the pool.

    In a pool, another trace of an earlier question counts as a copy for the layer `exact` alone.
    """

    def __init__(self, layers, note_pair, held_out=None):
        """note_pair: called with a dict about each pair that is found."""
        self.is_pool = held_out is None
        self.seen = SeenQuestions(layers, growing=self.is_pool)
        self.note_pair = note_pair
        self.questions = DigestSet()  # of the pool's rows that were kept
        for row in held_out or ():
            self.seen.add(row)

    def find_reason(self, row):
        """The reason to drop the row, or None. A row of the pool that is kept is added."""
        name = digest(normalise(row["question"]))
        if self.is_pool and name in self.questions and "exact" not in self.seen.layers:
            return None
        if found := self.seen.find(row):
            reason, layer, other, similarity = found
            self.note_pair(
                {
                    "layer": layer,
                    "similarity": round(similarity, 4),
                    "id": row["id"],
                    "question": row["question"],
                    "other_id": self.seen.ids[other],
                    "other": self.seen.questions[other],
                }
            )
            return reason
        if self.is_pool:
            self.seen.add(row)
            self.questions.add(name)
        return None


class KeyLimit:
    """Lets the first `limit` rows of each key pass."""

    def __init__(self):
        self.seen = DigestSet()
        self.counts = Counter()

    def exceeds(self, limit, *key):
        """Count one more row with this key, some texts: are there now more than `limit`?"""
        name = digest(*key)
        if limit == 1:  # the usual case, in a fifth of a Counter's memory
            return not self.seen.add(name)
        self.counts[name] += 1
        return self.counts[name] > limit


def digest(*texts):
    """64 bits that stand for some texts."""
    joined = "\0".join(texts).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


class DigestSet:
    """A set of 64-bit digests in 16 to 32 bytes each, where Python's set takes 80.

    An open-addressing table of numbers. 0 marks an empty slot, so the digest 0 is stored as 1.
    """

    def __init__(self):
        self.table = array("Q", bytes(8 << 10))  # 1024 slots
        self.n = 0

    def slot(self, digest):
        """Where the digest is, or would be put."""
        mask = len(self.table) - 1
        slot = digest & mask
        while self.table[slot] not in (0, digest):
            slot = (slot + 1) & mask
        return slot

    def __contains__(self, digest):
        return self.table[self.slot(digest or 1)] != 0

    def add(self, digest):
        """Add a digest and return whether it is new."""
        digest = digest or 1
        if 2 * (self.n + 1) > len(self.table):
            self.grow()
        slot = self.slot(digest)
        if self.table[slot]:
            return False
        self.table[slot] = digest
        self.n += 1
        return True

    def grow(self):
        """Double the table."""
        old = self.table
        self.table = array("Q", bytes(2 * 8 * len(old)))
        for digest in filter(None, old):
            self.table[self.slot(digest)] = digest
