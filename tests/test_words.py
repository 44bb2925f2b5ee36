"""report/words.py: classes of words; most_shifted is worked by hand in test_analyze.py."""

from report.words import classify_word


def test_classes_of_words():
    """Discourse words in any case and with punctuation; what has no letter is a sign."""
    classes = [classify_word(t) for t in (" So", "therefore,", "cat", "12", "+")]
    assert classes == ["logical", "logical", "content", "sign", "sign"]
