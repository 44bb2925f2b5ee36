"""grading/repetition.py: the share of repeated n-grams, by hand."""

import pytest

from grading.repetition import repeated_share


def test_repetition_by_hand():
    assert repeated_share("a b c d e f g h") == 0
    # 8 words three times: of 17 8-grams the first 8 are new, the other 9 were there before
    assert repeated_share("a b c d e f g h " * 3) == pytest.approx(9 / 17)
    assert repeated_share("a b c d e f g h " * 2) == pytest.approx(1 / 9)
    assert repeated_share("too short") == 0
    assert repeated_share("a a a b", n=1) == 0.5
