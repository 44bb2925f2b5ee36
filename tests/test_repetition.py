"""grading/repetition.py: the share of repeated n-grams, by hand."""

import pytest

from grading.repetition import repeated_share, split_words


def test_repetition_by_hand():
    assert repeated_share("a b c d e f g h") == 0
    # 8 words three times: of 17 8-grams the first 8 are new, the other 9 were there before
    assert repeated_share("a b c d e f g h " * 3) == pytest.approx(9 / 17)
    assert repeated_share("a b c d e f g h " * 2) == pytest.approx(1 / 9)
    assert repeated_share("too short") == 0
    assert repeated_share("a a a b", n=1) == 0.5


def test_scripts_without_spaces():
    """Their characters are counted: 这个 20 times has 40 characters, so 33 8-grams, of which two are
    new. Spaces separate the rest as ever, so other scripts give what they gave.
    """
    assert repeated_share("这个" * 20) == pytest.approx(31 / 33)
    assert repeated_share("これはです" * 8) == pytest.approx(1 - 5 / 33)
    assert repeated_share("ไทย" * 10) == pytest.approx(1 - 3 / 23)
    assert repeated_share("设 x 是一个正整数，求 x 的最小值。") == 0
    assert split_words("设x=1，则 y=2。") == ["设", "x=1，", "则", "y=2。"]
    for text in ("a  b\tc\x1dd\xa0e", "그는 집에 갔다", "für α, x² — \u2028 end", ""):
        assert split_words(text) == text.split()
