"""curation/funnel.py: counts, reasons and the summary, by hand."""

import pytest

from curation.funnel import Funnel, count_rows, summarise, summary_line
from engine.rows import BadInput

ROWS = [
    {"id": i, "domain": "aab"[i % 3], "n_thinking_tokens": i, "correct": (True, False, None)[i % 3]}
    for i in range(6)
]
STAGES = [
    ("", lambda row: None),
    ("even", lambda row: "odd" if row["id"] % 2 else None),
    ("small", lambda row: "four" if row["id"] == 4 else None),
]


def test_rows_meet_the_stages_in_order(capsys):
    funnel = Funnel()
    left = [row["id"] for _, row in funnel.pass_rows(enumerate(ROWS), STAGES)]
    assert left == [0, 2]
    assert funnel.table == [
        {"stage": "pool", "kept": 6},
        {"stage": "even", "kept": 3, "dropped": {"odd": 3}},
        {"stage": "small", "kept": 2, "dropped": {"four": 1}},
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "even               3 kept  (-3: odd 3)"
    assert printed[3].startswith("left               2 rows  correct 100.0%  thinking tokens 1.0")


def test_a_stage_that_leaves_nothing_is_named(capsys):
    stages = [*STAGES, ("none", lambda row: "all of them")]
    funnel = Funnel()
    with pytest.raises(BadInput, match="no row is left after the filter 'none' .all of them 2"):
        list(funnel.pass_rows(enumerate(ROWS), stages))
    assert funnel.table[-1] == {"stage": "none", "kept": 0, "dropped": {"all of them": 2}}


def test_summary_by_hand():
    """Tokens 0 to 5: mean 2.5; of the four graded rows two are right."""
    totals = dict.fromkeys(("rows", "correct", "graded", "tokens"), 0)
    totals |= {("domain", "a"): 0, ("domain", "b"): 0}
    assert list(count_rows(ROWS, totals)) == ROWS
    summary = summarise(totals)
    assert summary == {
        "rows": 6,
        "correct": 0.5,
        "mean_thinking_tokens": 2.5,
        "domains": {"a": 4, "b": 2},
    }
    assert summary_line("x", summary).endswith(
        "6 rows  correct 50.0%  thinking tokens 2.5  domains a 4, b 2"
    )


def test_pairs_are_counted_by_tenths_and_kept_for_the_audit_alone():
    pair = {"layer": "minhash", "similarity": 0.69}
    for with_pairs in (False, True):
        funnel = Funnel(with_pairs)
        funnel.note_pair("held out", pair)
        assert funnel.similar == {"held out": {"minhash 0.6": 1}}
        assert funnel.pairs == ([{"stage": "held out"} | pair] if with_pairs else [])
