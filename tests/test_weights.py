"""report/weights.py: sparsity, rank and overlap by hand, checkpoints in files."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from engine.rows import BadInput
from report import weights


def test_unchanged_by_hand():
    """One of four changed; 5e-6 is equal at 1e-5, 2e-5 is not (2505.11711).

    bfloat16 hides 1 + 0.003, not 1 + 0.005.
    """
    base, one = torch.tensor([1.0, 2, 3, 4]), torch.ones(2)
    assert weights.difference(base, torch.tensor([1, 2, 3.5, 4]), "fp32").tolist() == [
        0,
        0,
        0.5,
        0,
    ]
    small = weights.difference(torch.zeros(2), torch.tensor([5e-6, 2e-5]), "fp32")
    assert (small > weights.PUBLISHED[1]).tolist() == [False, True]
    assert weights.difference(one, torch.tensor([1.003, 1.005]), "bf16").tolist() == [
        0,
        0.0078125,
    ]
    assert (
        weights.difference(one, torch.tensor([1.003, 1.005]), "fp32") > weights.PUBLISHED[1]
    ).all()


def test_overlap_by_hand():
    """Sets {0, 1, 2} and {1, 2, 3, 4}: 2/3 of the first, 1/2 of the second."""
    one, other = torch.zeros(6, dtype=bool), torch.zeros(6, dtype=bool)
    one[[0, 1, 2]] = other[[1, 2, 3, 4]] = True
    assert weights.overlap(one, other) == (pytest.approx(200 / 3), pytest.approx(50))
    assert weights.overlap(one, torch.zeros(6, dtype=bool)) == (0, None)


def test_weight_changes_of_checkpoints(tmp_path, capsys, monkeypatch):
    """A 4 × 3 matrix with a rank-1 update of one row, and a vector left alone.

    A checkpoint in two files; tensors without a partner.
    """
    base = {"model.layers.0.w": torch.arange(12.0).view(4, 3), "model.layers.1.b": torch.ones(4)}
    tuned = {
        "model.layers.0.w": base["model.layers.0.w"].clone(),
        "model.layers.1.b": torch.ones(4),
        "extra": torch.ones(2),
    }
    tuned["model.layers.0.w"][1] += 1
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    save_file(base, tmp_path / "base/model.safetensors")
    files = {name: f"part{i}.safetensors" for i, name in enumerate(tuned)}
    for name, file in files.items():
        save_file({name: tuned[name]}, tmp_path / "one" / file)
    (tmp_path / "one/model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    two = {name: x.clone() for name, x in base.items()}
    two["model.layers.0.w"][1:3, 0] += 1
    two["model.layers.1.b"][0] = math.nan
    save_file(two, tmp_path / "two/model.safetensors")
    base, one, two = (str(tmp_path / name) for name in ("base", "one", "two"))
    monkeypatch.setattr(weights, "RANK_WIDTH", 3)
    found, overlaps = weights.weight_changes(base, {"one": one, "two": two})
    path, one = one, found["one"]
    assert (
        one["n"] == 16
        and one["unmatched"] == 1
        and one["unchanged"]["fp32"]["1e-05"] == pytest.approx(100 * 13 / 16)
    )
    assert one["matrices"] == {"model.layers.0.w": {"changed": 25, "full_rank": 3, "rank": 1}}
    assert one["rank_share"] == pytest.approx(100 / 3) and one["layers"]["layer 1"] == {
        "norm": 2,
        "update_norm": 0,
        "changed": 0,
    }
    assert one["layers"]["layer 0"] == pytest.approx(
        {"norm": math.sqrt(506), "update_norm": math.sqrt(3), "changed": 25}
    )
    assert found["two"]["unmatched"] == 1 and found["two"]["n"] == 12  # the vector has a NaN
    assert overlaps == [
        pytest.approx(
            {
                "one": "one",
                "other": "two",
                "of_one": 100 / 3,
                "of_other": 50,
                "chance_of_one": 100 * 2 / 12,
                "chance_of_other": 100 * 3 / 12,
            }
        )
    ]
    assert capsys.readouterr().out.count("1 tensors cannot be compared") == 2
    monkeypatch.setattr(weights, "RANK_WIDTH", 2)
    assert weights.weight_changes(base, {"one": path})[0]["one"]["rank_share"] is None
    with pytest.raises(BadInput, match="no safetensors weights"):
        weights.find_tensors(str(tmp_path))
