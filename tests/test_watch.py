"""engine/watch.py: warnings in words, curves."""

import math

import pytest

from engine import (
    watch,
)


def steps_of(**columns):
    quiet = {
        "ratio_first": 1e-6,
        "equal_groups": 1,
        "n_groups": 4,
        "reward": 0.5,
        "entropy": 0.5,
        "truncated": 0.1,
    }
    return [{**quiet, **dict(zip(columns, values))} for values in zip(*columns.values())]


@pytest.mark.parametrize(
    "kind, columns, words",
    [
        (None, {"entropy": [0.5] * 9 + [0.1]}, ""),
        (None, {"truncated": [0.0] * 5 + [0.45] * 5}, ""),
        (None, {"equal_groups": [4] * 4 + [3]}, ""),
        (None, {"entropy": [0.5] * 5 + [None] * 5}, ""),
        ("drift", {"ratio_first": [1e-6, 0.02]}, "off by a factor of 1.02"),
        (
            "equal",
            {"equal_groups": [0] + [4] * 5, "reward": [0.3] + [0] * 5},
            "last 5 steps had equal rewards (mean 0)",
        ),
        (
            "entropy",
            {"entropy": [0.5] * 5 + [0.3] + [0.04] * 5},
            "entropy collapses: 0.04 nats per token, in the beginning 0.5",
        ),
        (
            "length",
            {"truncated": [0.05] * 5 + [0.8] * 5},
            "80% of the completions run into --max-tokens, in the beginning 5%",
        ),
    ],
)
def test_warnings_in_words(kind, columns, words):
    found = watch.warnings_of(steps_of(**columns))
    assert set(found) == ({kind} if kind else set()) and words in found.get(kind, "")


def test_a_ratio_off_the_policy_is_no_drift():
    rows = steps_of(ratio_first=[0.3])
    assert set(watch.warnings_of(rows)) == {"drift"} and watch.warnings_of(rows, math.inf) == {}
    assert set(watch.warnings_of(steps_of(ratio_first=[3.0]), 1.0)) == {"drift"}


def test_curves_are_drawn(tmp_path):
    """A PNG with a line for each number of the log, gaps and missing columns left out; nothing is shown on a screen."""
    rows = [
        {
            "step": i + 1,
            "reward": i / 9,
            "n_tokens": 5.0,
            "entropy": 0.3,
            "ratio_first": 1e-6,
            "kl": None if i else 0.1,
            "held_out": 0.5,
        }
        for i in range(9)
    ]
    watch.draw_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    watch.draw_curves([], tmp_path / "none.png")
