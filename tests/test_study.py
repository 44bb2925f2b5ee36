"""report/study.py: names and pairs of models."""

import json
from dataclasses import replace

from report.study import UNKNOWN, Models, Study, choose_pair, describe_models, name_models

KINDS = {"a": "SFT", "b": "SFT", "rl": "RL"}


def test_names_of_models():
    """The last part of a path; where that is not unique, two seeds get a slash, others a dash."""
    assert name_models("data/base", ["out/sft", "org/rl"]) == {"sft": "out/sft", "rl": "org/rl"}
    seeds = ["o/seed0/rl", "o/seed1/rl"]
    assert name_models("data/base", seeds) == {"seed0/rl": seeds[0], "seed1/rl": seeds[1]}
    assert list(name_models("data/base", ["a/rl", "b/rl"])) == ["a-rl", "b-rl"]
    assert list(name_models("x/m", ["y/m"])) == ["y-m"]  # the base has that name, too


def test_the_pair(tmp_path):
    """The first SFT and the first RL model by their training.json, else the first two."""
    assert choose_pair({"a": "RL", "b": "SFT", "c": "SFT"}) == ["b", "a"]
    assert choose_pair({"a": "RL", "b": "RL", "c": "tuned"}) == ["a", "b"]
    paths = []
    for seed in (0, 1):
        for name, settings in (("rl", {"reward": "correct"}), ("sft", {"train_on": "all"})):
            path = tmp_path / f"seed{seed}" / name
            path.mkdir(parents=True)
            (path / "training.json").write_text(json.dumps(settings))
            paths.append(str(path))
    models = describe_models("base", paths)
    assert models.pair == models.shown == ["seed0/sft", "seed0/rl"]  # several seeds: only the pair
    assert models.replicates("seed0/rl") == {"seed0": "seed0/rl", "seed1": "seed1/rl"}
    fewer = models.without(["seed0/rl"])
    assert fewer.pair == ["seed0/sft"] and "seed0/rl" not in fewer.tuned


def test_the_sft_model_that_is_as_accurate():
    """Means over two seeds: a 40 and 20, b 60 and 50, RL 50 and 60. b is 0 away from it, a 25."""
    kinds = {f"s{seed}/{name}": kind for seed in (0, 1) for name, kind in KINDS.items()}
    models = Models("base", "base", {name: name for name in kinds}, {}, kinds, [], [])
    models = replace(models, pair=["s0/a", "s0/rl"], shown=["s0/a", "s0/rl"])
    right = {"s0/a": 40, "s1/a": 20, "s0/b": 60, "s1/b": 50, "s0/rl": 50, "s1/rl": 60}
    nearest = models.with_nearest_sft(right)
    assert nearest.pair == nearest.shown == ["s0/b", "s0/rl"]
    # Where the RL model was not graded the first stays, and so it does in a pair of another kind.
    ungraded = {name: value for name, value in right.items() if not name.endswith("rl")}
    assert models.with_nearest_sft(ungraded) is models
    assert models.with_nearest_sft(right | {"s0/b": 90, "s1/b": 91}).pair[0] == "s0/a"
    twins = replace(models, pair=["s0/a", "s0/b"])
    assert twins.with_nearest_sft(right) is twins


def test_measures():
    """Exact or published KL; what was not measured is unknown."""
    summary = {
        "kl_forward": {"macro": 1.0, "low": 0.5, "high": 1.5},
        "kl_estimate": 0.9,
        "shifted_per_response": 4.0,
        "shifted_low": 3.0,
        "shifted_high": 5.0,
        "pca_shift": 2.0,
        "pca_shift_masked": None,
    }
    study = Study(Models("b", "b", {"m": "m"}, {}, {}, ["m"], ["m"]))
    study.results = {"m": {"groups": {"other": summary}}}
    assert study.main_group() == "other"
    assert study.measure("KL", "m", "other") == (1.0, 0.5, 1.5)
    assert study.measure("shifted", "m", "other") == (4.0, 3.0, 5.0)
    assert study.measure("PCA", "m", "other") == (2.0, None, None)
    assert study.measure("PCA masked", "m", "other") == UNKNOWN
    assert study.measure("KL", "b", "other") == study.measure("KL", "m", "math") == UNKNOWN
    study.published = True
    assert study.measure("KL", "m", "other") == (0.9, None, None)
