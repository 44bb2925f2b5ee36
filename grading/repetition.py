"""How much does a text repeat itself? One measure for curation, rewards and the report."""

import re

# Characters of scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
HAS_NO_SPACES = re.compile(f"[{NO_SPACES}]")
WORD = re.compile(rf"[{NO_SPACES}]|[^\s{NO_SPACES}]+")


def split_words(text):
    """The words of a text. Where a script puts no spaces between words, each character is one."""
    return WORD.findall(text) if HAS_NO_SPACES.search(text) else text.split()


def repeated_share(text, n=8):
    """Share of a text's n-grams of words that occurred before in it.

    0 for most prose, close to 1 for a loop; 0 for a text of fewer than n words.
    """
    words = split_words(text)
    n_grams = len(words) - n + 1
    if n_grams < 1:
        return 0.0
    different = set(zip(*(words[i:] for i in range(n))))
    return 1 - len(different) / n_grams
