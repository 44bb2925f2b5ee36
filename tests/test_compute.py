"""report/compute.py: ledgers by hand."""

import pytest

from engine.rows import BadInput, write_rows
from report.compute import match_compute, read_ledger


def test_ledger_by_hand(tmp_path):
    """Totals by phase; 1.2288e18 FLOPs against 3.6e17 of 5 epochs: 17.07 epochs would match."""
    assert read_ledger(tmp_path) is None
    rows = [
        {"phase": "train", "tokens": 10, "flops": 3e17},
        {"phase": "train", "tokens": 2, "flops": 6e16},
    ]
    write_rows(tmp_path / "flops.jsonl", rows)
    sft = read_ledger(tmp_path)
    assert (
        sft["phases"] == {"train": {"tokens": 12, "flops": 3.6e17}}
        and sft["total"] == sft["training"] == 3.6e17
    )
    write_rows(
        tmp_path / "flops.jsonl",
        [
            {"phase": "sample", "tokens": 1, "flops": 3.072e17},
            {"phase": "train", "tokens": 1, "flops": 9.216e17},
        ],
    )
    rl = read_ledger(tmp_path)
    assert rl["total"] == pytest.approx(1.2288e18) and rl["training"] == 9.216e17
    found = match_compute(sft, rl, {"epochs": 5, "n_steps": 315})
    assert found["total"]["epochs"] == pytest.approx(17.07, abs=0.01) and found["training"][
        "times"
    ] == pytest.approx(2.56)
    write_rows(tmp_path / "flops.jsonl", [rows[0], rows[0] | {"flops": "many"}])
    with pytest.raises(BadInput, match=r"flops.jsonl:2: 'flops' is not a number"):
        read_ledger(tmp_path)
