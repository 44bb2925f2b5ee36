"""How much does a text repeat itself? One measure for curation, rewards and the report."""


def repeated_share(text, n=8):
    """Share of a text's n-grams of words that occurred before in it.

    0 for most prose, close to 1 for a loop; 0 for a text of fewer than n words.
    """
    words = text.split()
    n_grams = len(words) - n + 1
    if n_grams < 1:
        return 0.0
    different = set(zip(*(words[i:] for i in range(n))))
    return 1 - len(different) / n_grams
