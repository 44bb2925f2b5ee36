"""report/transcripts.py: which completions the page shows."""

from test_claims import graded

from report.transcripts import choose_pairs, choose_waits


def test_what_is_shown():
    """Two pairs of the first group, differing grades first; Waits that mended and one that spoilt."""
    pairs = choose_pairs(graded("a", "0101").rows, graded("b", "1011").rows)
    assert [(a["response"], b["response"]) for a, b in pairs] == [("0", "1"), ("1", "0")]
    forced = graded("w", "1100", model="m", waits=1)
    for row in forced.rows:
        row |= {"n_waits": 1, "ids": [1]}
    shown = choose_waits([graded("a", "0011", model="m"), forced], "m")
    assert [(row["id"], row["response"]) for _, row in shown] == [
        ("0", "1"),
        ("1", "1"),
        ("3", "0"),
    ]
