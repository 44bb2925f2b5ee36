"""Words whose rank training changed (UniReason, Fig. 5): which, how often, how far."""

from collections import Counter, defaultdict
from dataclasses import dataclass

# UniReason's figure tells logical words from words of content and gives no list. Here discourse
# words are logical and all others content.
LOGICAL = frozenset(
    "so but now then therefore let since because thus wait alternatively however first next".split()
)


def classify_word(token):
    """The text of a token -> "logical", "content", or "sign" if it has no letter."""
    word = token.strip().strip(".,;:!?").lower()
    if word in LOGICAL:
        return "logical"
    return "content" if any(map(str.isalpha, word)) else "sign"


@dataclass
class TokenCount:
    """How often a token occurs, and how far it is shifted."""

    seen: int = 0
    shifted: int = 0
    sum: float = 0.0  # of its shifts
    absolute: float = 0.0  # sum of their sizes

    def add(self, shift):
        self.seen += 1
        self.shifted += shift != 0
        self.sum += shift
        self.absolute += abs(shift)

    def merge(self, other):
        self.seen += other.seen
        self.shifted += other.shifted
        self.sum += other.sum
        self.absolute += other.absolute


def most_shifted(counts, name_of, n=30):
    """The n tokens with the largest sum of |shift|, be they frequent or far, and the word classes.

    counts: {token id: TokenCount} of each task. name_of: token id -> text.
    Returns most_shifted, a list, and classes: percent of logical and content words and of signs
    among all tokens and among the shifted ones.
    """
    words = defaultdict(TokenCount)
    for by_token in counts:
        for token, count in by_token.items():
            words[token].merge(count)
    shifted = [token for token, count in words.items() if count.shifted]
    shifted.sort(key=lambda token: (-words[token].absolute, token))
    listed = [describe(token, name_of(token), words[token]) for token in shifted[:n]]
    seen_by_class, shifted_by_class = Counter(), Counter()
    for token, count in words.items():
        kind = classify_word(name_of(token))
        seen_by_class[kind] += count.seen
        shifted_by_class[kind] += count.shifted
    classes = {"all": class_shares(seen_by_class), "shifted": class_shares(shifted_by_class)}
    return {"most_shifted": listed, "classes": classes}


def describe(token, text, count):
    """The entry of a shifted token in metrics.json."""
    return {
        "token": text,
        "class": classify_word(text),
        "id": token,
        "count": count.shifted,
        "seen": count.seen,
        "mean_shift": count.sum / count.shifted,
        "sum": count.absolute,
    }


def class_shares(counts):
    """{class: number of tokens} -> {class: percent}."""
    total = max(1, counts.total())
    return {kind: 100 * counts[kind] / total for kind in ("logical", "content", "sign")}
