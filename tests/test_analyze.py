"""analyze.py: the published vectors, brute force in float64, interrupted and streamed runs."""

# ruff: noqa: F811  (a fixture is imported by its name, which is then an argument)

import gc
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from analysis import HOSTILE, analysed, completions, make_model, place  # noqa: F401  (fixtures)
from safetensors.torch import load_file, save_file

import analyze
from analyze import (
    Config,
    Side,
    Tally,
    cluster_interval,
    kl_estimate,
    log_ratio,
    main,
    pca_shift,
    pca_shift_masked,
    pooled_layers,
    rank_shifts,
    summarise,
)
from engine import attention, loading, packing, runlog
from engine import model as models
from engine.rows import BadInput, read_rows, write_rows
from kernels import Head, reference
from kernels.pair import token_numbers
from report.words import most_shifted


def measure(base, tuned, examples, micro_batch_tokens=16384, **more):
    """analyze.measure of two models, as a list."""
    found = dict(
        analyze.measure(Side.of(base), Side.of(tuned), examples, micro_batch_tokens, **more)
    )
    return [found[i] for i in range(len(examples))]


def examples(n=5):
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randint(7, 140, (3 + i,), generator=generator).tolist(),
            torch.randint(7, 140, (2 * i + 1,), generator=generator).tolist(),
        )
        for i in range(n)
    ]


# ---- published vectors


def test_kl_estimator():
    """Log-ratios (ln 2, 0, ln 2) and (ln 2, 0): means 0.462098 and 0.346574.

    The estimate is the mean of these means, not that of all tokens.
    """
    p, q = (
        [[math.log(x) for x in row] for row in rows]
        for rows in ([[0.9, 0.5, 0.8], [0.6, 0.7]], [[0.45, 0.5, 0.4], [0.3, 0.7]])
    )
    assert kl_estimate([*map(log_ratio, p, q)]) == pytest.approx(0.404336, abs=1e-6)
    # abs hides the direction
    assert kl_estimate([*map(log_ratio, q, p)]) == pytest.approx(0.404336, abs=1e-6)
    assert log_ratio([-1e4], [-1e4]) == 0  # 1e-10 keeps it finite


def test_rank_shifts():
    """Shifts 0, 0, 2, 9, 0: mean 2.2, two shifted. Shifts -2, 2, 0: mean 0, two shifted."""
    assert rank_shifts([1, 1, 3, 10, 1], [1] * 5) == (pytest.approx(2.2), 2)
    assert rank_shifts([1, 3, 4], [3, 1, 4]) == (0, 2)
    ranks = torch.tensor([[150_000, 3], [1, 1]], dtype=torch.int32)
    assert rank_shifts(*ranks) == (75000.5, 2)
    assert rank_shifts(*ranks.flip(0)) == (-75000.5, 2)


def test_pca_shift():
    """Layer 0: main directions x and y, from the base alone. The shift (.5, -.25, 4) is .5 along x; 4
    along z is invisible; y is at 2, then 1.75. Layer 1: directions y and z, shift 1 and -2. Mean
    (.75, -1.125), whose length is 1.352082; the mean of the lengths is another number."""
    base = [
        torch.tensor([[1.0, 2, 3]])
        + torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]),
        torch.tensor([[0.0, 3, 0], [0, -3, 0], [0, 0, 1], [0, 0, -1]]),
    ]
    tuned = [base[0] + torch.tensor([0.5, -0.25, 4]), base[1] + torch.tensor([7.0, 1, -2])]
    distance, points = pca_shift(base, tuned)
    assert distance == pytest.approx(1.352082, abs=1e-5)
    assert points.shape == (2, 2, 2)
    flat = [0, 2, 0.5, 1.75, 0, 0, 1, -2]
    assert points.flatten().tolist() == pytest.approx(flat, abs=1e-9)
    assert pca_shift_masked(base, tuned)[0] == pytest.approx(
        (math.hypot(0.5, 0.25) + math.hypot(1, 2)) / 2
    )
    assert [pca_shift(base, base)[0], pca_shift_masked(base, base)[0]] == [0, 0]


def test_pca_shift_without_a_layer_that_is_not_finite():
    """Two layers, NaN in a state of the second: the shift is that of the first, 3 along x."""
    base = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    broken = base.clone()
    broken[2, 1] = math.nan
    distance, points = pca_shift([base, base], [base + torch.tensor([3.0, 0]), broken])
    assert distance == pytest.approx(3)
    assert len(points) == 1


def test_pca_shift_cancels_and_its_repair_does_not():
    """Two layers that move in opposite directions: the published distance is 0."""
    base = [torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])] * 2
    tuned = [base[0] + torch.tensor([1.0, 0]), base[1] - torch.tensor([1.0, 0])]
    assert pca_shift(base, tuned)[0] == pytest.approx(0, abs=1e-12)
    assert pca_shift_masked(base, tuned)[0] == pytest.approx(1)


# ---- models


def brute_force(place, pairs):
    """The numbers of `measure` from whole logits of transformers' own forward pass in float64."""
    plain = {name: loading.load(place / name)[0].double() for name in ("base", "tuned")}
    for model in plain.values():
        model.set_attn_implementation("sdpa")
    for prompt, ids in pairs:
        true, logs = {}, {}
        for name, model in plain.items():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            logs[name] = logits.log_softmax(1).detach()
            chosen = logs[name].gather(1, torch.tensor(ids)[:, None])
            true |= {
                f"rank_{name}": 1 + (logs[name] > chosen).sum(1).double(),
                f"logp_{name}": chosen[:, 0],
                f"entropy_{name}": -(logs[name].exp() * logs[name]).sum(1),
            }
        for kl, p, q in (("kl_forward", "tuned", "base"), ("kl_reverse", "base", "tuned")):
            true[kl] = (logs[p].exp() * (logs[p] - logs[q])).sum(1)
            assert true[kl].min() > 0.01  # signal ≫ tolerance
        yield true


def test_measure_against_float64(place):
    """KL, log-probability, rank, entropy: to 1e-6 in float64, to rounding in float32."""
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        base, tuned = (loading.load(place / name, dtype=dtype)[0] for name in ("base", "tuned"))
        found = measure(base, tuned, examples(), micro_batch_tokens=20)
        for values, true in zip(found, brute_force(place, examples()), strict=True):
            assert set(values) == set(true)
            for name in true:
                torch.testing.assert_close(
                    values[name],
                    true[name],
                    atol=0 if "rank" in name else tolerance,
                    rtol=tolerance / 2,
                )


def test_token_numbers_in_chunks(monkeypatch):
    """Ragged chunks, a capped head, a scaled one, other widths: as whole logits in float64."""
    generator, target = torch.Generator().manual_seed(5), torch.tensor([0, 36, 7, 7, 20, 12])
    tuned, base = (
        (
            torch.randn(6, width, generator=generator),
            Head(0.6 * torch.randn(37, width, generator=generator), cap, scale),
        )
        for width, cap, scale in ((8, 4.0, 1.0), (5, None, 1.5))
    )
    logs = {}
    for name, (hidden, (weight, cap, scale)) in (("tuned", tuned), ("base", base)):
        z = scale * (hidden.double() @ weight.double().T)
        logs[name] = (z if cap is None else cap * torch.tanh(z / cap)).log_softmax(1)
    for numbers in (1, 12 * 5, 12 * 36, 2**21):
        monkeypatch.setattr(reference, "CHUNK_NUMBERS", numbers)
        found = token_numbers(tuned, base, target)
        for name, log in logs.items():
            chosen = log.gather(1, target[:, None])
            assert found[f"rank_{name}"].tolist() == (1 + (log > chosen).sum(1)).tolist()
            torch.testing.assert_close(
                found[f"logp_{name}"].double(), chosen[:, 0], atol=1e-6, rtol=1e-6
            )
            torch.testing.assert_close(
                found[f"entropy_{name}"].double(), -(log.exp() * log).sum(1), atol=1e-6, rtol=1e-6
            )
        for kl, p, q in (("kl_forward", "tuned", "base"), ("kl_reverse", "base", "tuned")):
            true = (logs[p].exp() * (logs[p] - logs[q])).sum(1)
            torch.testing.assert_close(found[kl].double(), true, atol=1e-6, rtol=1e-6)


def test_measure_for_any_batch(place):
    """The micro-batch changes nothing but rounding; answers come in the order of the questions."""
    base, tuned = (loading.load(place / name)[0] for name in ("base", "tuned"))
    small, large = (measure(base, tuned, examples(), size) for size in (1, 10_000))
    for (_, ids), a, b in zip(examples(), small, large, strict=True):
        assert all(len(value) == len(ids) for value in a.values())
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)


def test_a_model_against_itself(place):
    """Exactly no KL and no shift."""
    model = loading.load(place / "base")[0]
    for values in measure(model, model, examples()):
        assert not values["kl_forward"].any() and not values["kl_reverse"].any()
        assert torch.equal(values["rank_base"], values["rank_tuned"])


def test_pooled_layers(place):
    """Without pads: the mean of the packed states. With pads: another number for padded texts."""
    model, tokenizer = loading.load(place / "base")
    texts = ["make 20 from 7 5 8", "copy n q", "sort 15 2 21  2 15 21"]
    padded, masked = pooled_layers(model, tokenizer, texts)
    small = pooled_layers(model, tokenizer, texts, micro_batch_tokens=1)
    for i, text in enumerate(texts):
        batch = packing.pack([tokenizer.encode(text)])
        states = models.hidden_states(
            model,
            batch.ids,
            batch.positions,
            attention.Packed(batch.lengths, "cpu"),
            all_layers=True,
        )
        for layer, state in enumerate(states):
            torch.testing.assert_close(masked[layer][i], state.mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(small[0][layer][i], padded[layer][i], atol=1e-5, rtol=1e-4)
    assert len(padded) == len(masked) == 3 and padded[0].shape == (3, 32)
    assert (padded[0][1] - masked[0][1]).abs().max() > 1e-3
    torch.testing.assert_close(padded[1][2], masked[1][2])  # the longest has no pad
    assert model.config._attn_implementation == "packed"


def tally_of(task, kls, base, tuned, questions=None):
    """A Tally of responses with these KL and ranks. Tokens have id 5, the first of a response 6."""
    tally = Tally("g", 1)
    for i, (kl, b, t) in enumerate(zip(kls, base, tuned)):
        values = {
            name: torch.tensor(kl, dtype=torch.float64)
            for name in (
                "kl_forward",
                "kl_reverse",
                "logp_base",
                "logp_tuned",
                "entropy_base",
                "entropy_tuned",
            )
        }
        values |= {"rank_base": torch.tensor(b).double(), "rank_tuned": torch.tensor(t).double()}
        tally.add(
            (questions or "abcdefg")[i], [6] + [5] * (len(kl) - 1), values, list(range(len(kl)))
        )
    return tally


def test_summary_by_hand():
    """Two responses of 3 and 1 tokens: macro (2 + 6) / 2, micro (1 + 2 + 3 + 6) / 4.

    In the rank shift both tasks weigh the same.
    """
    both = {
        "a": tally_of("a", [[1, 2, 3]], [[1, 4, 1]], [[1, 1, 1]]),
        "b": tally_of("b", [[6]], [[1]], [[3]]),
    }
    found = summarise(both, {"a": {"pca_shift": 2.0, "pca_shift_masked": 3.0}})
    half = 1.959964 * math.sqrt(8) / math.sqrt(2)
    # micro: residuals 6 - 3 · 3 = -3 and 6 - 3 · 1 = 3 over 4 tokens
    micro_half = 1.959964 * math.sqrt(2 * (9 + 9)) / 4
    assert found["kl_forward"] == pytest.approx(
        {
            "macro": 4,
            "low": 4 - half,
            "high": 4 + half,
            "micro": 3,
            "micro_low": 3 - micro_half,
            "micro_high": 3 + micro_half,
        }
    )
    assert found["rank_shift_mean"] == pytest.approx((1 - 2) / 2)
    assert [
        found[k]
        for k in (
            "shifted_tokens",
            "shifted_share",
            "shifted_per_response",
            "n_responses",
            "n_tokens",
        )
    ] == [2, 0.5, 1.0, 2, 4]
    assert found["pca_shift"] == 2 and found["pca_shift_masked"] == 3
    assert found["by_position"] == {
        "width": 1,
        "n": [2, 1, 1],
        "kl_forward": [3.5, 2, 3],
        "kl_reverse": [3.5, 2, 3],
        "rank_shift": [-1, 3, 0],
        "entropy_base": [3.5, 2, 3],
        "entropy_tuned": [3.5, 2, 3],
    }
    assert (
        found["by_tenth"]["n"] == [2, 0, 0, 1, 0, 0, 1] and found["by_tenth"]["kl_forward"][6] == 3
    )
    assert found["by_tenth"]["kl_forward"][1] is None
    alone = summarise({"b": both["b"]}, {})
    assert (
        alone["kl_forward"]["low"] is None
        and alone["pca_shift"] is None
        and alone["kl_estimate"] is None
    )
    words = most_shifted([tally.words for tally in both.values()], {5: "so", 6: "7"}.get)
    assert words["most_shifted"] == [
        {
            "token": "so",
            "class": "logical",
            "id": 5,
            "count": 1,
            "seen": 2,
            "mean_shift": 3,
            "sum": 3,
        },
        {"token": "7", "class": "sign", "id": 6, "count": 1, "seen": 2, "mean_shift": -2, "sum": 2},
    ]
    half = {"logical": 50, "content": 0, "sign": 50}
    assert words["classes"] == {"all": half, "shifted": half}


def test_the_published_estimate_leaves_out_the_first_token():
    """log G/B of 9, 1, 3 and of 9, 2: without the first (3 + 1) / 2 and 2, not (9 + 1 + 3) / 3.

    The exact KL has all tokens.
    """
    tally = Tally("g", 1)
    for i, row in enumerate(([9.0, 1, 3], [9.0, 2])):
        row, ones = torch.tensor(row, dtype=torch.float64), torch.ones(len(row)).double()
        tally.add(
            str(i),
            [5] * len(row),
            {
                "kl_forward": row,
                "kl_reverse": row,
                "logp_tuned": -ones,
                "logp_base": -ones - row,
                "rank_base": ones,
                "rank_tuned": ones,
                "entropy_base": ones,
                "entropy_tuned": ones,
            },
            list(range(len(row))),
        )
    found = summarise({"t": tally}, {})
    assert found["kl_estimate"] == pytest.approx(2, abs=1e-4)
    assert found["kl_forward"]["macro"] == pytest.approx((13 / 3 + 5.5) / 2)


def test_samples_of_one_question_are_not_independent():
    """Four values of two questions: the interval is that of two question means.

    Of four questions: mean ± 1.96 s/√n.
    """
    value, low, high = cluster_interval([1, 1, 3, 3], [1] * 4, ["a", "a", "b", "b"])
    assert (
        value == 2
        and high - value == pytest.approx(1.959964 * math.sqrt(2) / math.sqrt(2)) == value - low
    )
    independent = cluster_interval([1, 1, 3, 3], [1] * 4, "abcd")[2] - 2
    assert (
        independent == pytest.approx(1.959964 * math.sqrt(4 / 3) / 2) and independent < high - value
    )
    assert cluster_interval([1, 3], [1, 1], "aa") == (2, None, None)


def test_responses_that_are_not_finite_are_counted():
    """A NaN in one column leaves out its response and no other."""
    tally = tally_of("a", [[1, 2], [math.nan, 2], [3, 4]], [[1, 1]] * 3, [[1, 1]] * 3)
    found = summarise({"a": tally}, {})
    assert (
        found["nan_responses"] == 1
        and found["n_responses"] == 2
        and found["kl_forward"]["macro"] == pytest.approx(2.5)
    )


def test_a_layer_that_is_not_finite_is_left_out(place, capsys):
    """NaN in one of three layers: the shift of the two others, and a warning; in all: None."""
    generator = torch.Generator().manual_seed(1)
    base = [torch.randn(4, 3, generator=generator) for _ in range(3)]
    tuned = [x + torch.randn(3, generator=generator) for x in base]
    whole = pca_shift(base[:2], tuned[:2])[0]
    tuned[2] = tuned[2] / 0 * 0
    assert pca_shift(base, tuned)[0] == pytest.approx(whole) and len(pca_shift(base, tuned)[1]) == 2
    found = analyze.task_shifts(
        "m", {"t": ("x",)}, {("x",): (base, base)}, {("x",): (tuned, tuned)}
    )["t"]
    assert found["nan_layers"] == 1 and found["pca_shift"] == pytest.approx(whole)
    assert "1 layers are not finite" in capsys.readouterr().out
    found = analyze.task_shifts(
        "m", {"t": ("x",)}, {("x",): (base, base)}, {("x",): (tuned[2:] * 3,) * 2}
    )["t"]
    assert found["pca_shift"] is None and found["points"] == []


# ---- models that do not fit together


def test_streamed_and_resumed(place, tmp_path, monkeypatch):
    """States of one pass in files, one model at a time: the same numbers.

    What is there is not computed again, a killed pass continues, and states whose numbers are known
    are deleted.
    """
    base, tuned = (loading.load(place / name)[0] for name in ("base", "tuned"))
    whole = measure(base, tuned, examples(), 20)
    base_side, tuned_side = Side.of(base), Side.of(tuned)
    analyze.store(base_side, examples(), 20, tmp_path, "base")
    n_files = len(list(tmp_path.glob("states-*.safetensors")))
    assert n_files > 2
    calls = []

    def counted(model, *arguments, **more):
        calls.append(model)
        return models.hidden_states(model, *arguments, **more)

    monkeypatch.setattr(analyze, "hidden_states", counted)
    half = analyze.measure(base_side.without_model(), tuned_side, examples(), 20, tmp_path)
    next(half)
    half.close()  # killed after a micro-batch
    assert len(calls) == len(list(tmp_path.glob("numbers-*"))) == 1
    assert len(list(tmp_path.glob("states-*"))) == n_files - 1
    analyze.store(base_side, examples(), 20, tmp_path, "base")  # the same command again
    found = dict(analyze.measure(base_side.without_model(), tuned_side, examples(), 20, tmp_path))
    assert len(calls) == n_files and all(model is tuned for model in calls)
    assert not list(tmp_path.glob("states-*"))
    for i, values in enumerate(whole):
        for name in values:
            assert torch.equal(values[name], found[i][name])


def test_likely_tokens(place):
    """With top: the base's three most likely tokens, as the softmax of its logits gives them."""
    base, tuned = (loading.load(place / name)[0] for name in ("base", "tuned"))
    for (prompt, ids), values in zip(
        examples(2), measure(base, tuned, examples(2), top=3), strict=True
    ):
        batch = packing.pack([prompt + ids])
        hidden = models.hidden_states(
            base, batch.ids, batch.positions, attention.Packed(batch.lengths, "cpu")
        )
        p, at = models.next_token_logits(base, hidden).softmax(1)[len(prompt) - 1 : -1].topk(3)
        assert torch.equal(values["likely_ids"].long(), at)
        torch.testing.assert_close(values["likely_p"], p.double(), atol=1e-6, rtol=1e-5)


def test_other_tokenizers_are_refused(place, tmp_path):
    """By name, for another vocabulary and for a head of another size."""
    write_rows(tmp_path / "data.jsonl", completions("tuned"))
    (tmp_path / "data.config.json").write_text(
        json.dumps({"model": str(tmp_path / "stranger"), "format": "think"})
    )

    def refused(words, size=None):
        make_model(tmp_path / "stranger", 5, words, size)
        with pytest.raises(BadInput) as caught:
            main(
                Config(
                    base=str(place / "base"),
                    tuned=(str(tmp_path / "stranger"),),
                    data=(str(tmp_path / "data.jsonl"),),
                    out=str(tmp_path / "out"),
                )
            )
        return str(caught.value)

    message = refused(["other"])
    assert (
        "stranger: its tokenizer is not that of --base" in message
        and "base" in message
        and "\n" not in message
    )
    assert "head" in refused([HOSTILE], 200)


def test_main(analysed):
    """Everything is written, the numbers add up, and metrics.json is what main returned."""
    metrics, out = analysed
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    tuned = metrics["tuned"]
    assert set(tuned["groups"]) == {"math", "other", "plain"} and set(tuned["tasks"]) == {
        "pair",
        "sort",
        "copy",
    }
    assert tuned["all"]["n_tokens"] == sum(task["n_tokens"] for task in tuned["tasks"].values())
    assert tuned["all"]["kl_forward"]["macro"] > 0.01 and tuned["all"]["pca_shift"] > 0
    assert metrics["other"]["skipped_rows"] == 1 and metrics["other"]["all"]["n_responses"] == 10
    assert (
        metrics["runs"]["tuned-wait1"]["all"]["accuracy"] == 100
        and metrics["runs"]["base"]["all"]["accuracy"] == 0
    )
    assert metrics["claims"][0]["holds"] is True and metrics["claims"][0]["difference"] == 100
    assert (out / "report.html").stat().st_size < 5e6 and not (out / "work").exists()
    assert tuned["weights"]["unchanged"]["fp32"]["0"] < 2 and len(metrics["overlaps"]) == 1
    habit = metrics["behaviours"]["tuned-wait2"]["math"]["behaviours"]["backtracking"]
    assert (
        habit["mean"] == 2
        and habit["share"] == 100
        and habit["high"] > 99
        and 40 < habit["low"] < 60
    )
    words = [
        c["verdict"]
        for c in metrics["contrasts"]
        if c["measure"] == "right, %" and c["group"] == "math"
    ]
    assert words == ["no significant difference"]
    for c in metrics["contrasts"]:
        assert ("no significant" in c["verdict"]) == (
            c["low"] <= 0 <= c["high"] and c["low"] != c["high"]
        ), c


def test_injected_and_first_tokens_are_not_counted(place):
    """One "wait" each was injected: one token fewer; --published: one more."""
    base, tuned = (Side.of(loading.load(place / name)[0]) for name in ("base", "tuned"))
    rows = completions("tuned", 1)
    job = analyze.Job("tuned", rows, [], None, examples=[([7], row["ids"]) for row in rows])
    counts = []
    for published in (False, True):
        cfg = Config(base="", out="", published=published)
        tallies = analyze.tally_responses(cfg, base, tuned, job)
        counts.append(summarise(tallies, {})["n_tokens"])
    assert counts == [sum(len(row["ids"]) - k for row in rows) for k in (1, 2)]


def test_streamed_as_a_whole(place, analysed, monkeypatch):
    """--stream gives the numbers of two models side by side, never holding two."""
    alive, load, most = [], loading.load, []

    def watched(*arguments, **more):
        gc.collect()
        model, tokenizer = load(*arguments, **more)
        alive.append(weakref.ref(model))
        most.append(sum(ref() is not None for ref in alive))
        return model, tokenizer

    monkeypatch.setattr(loading, "load", watched)
    monkeypatch.setattr(analyze, "draw_figures", lambda *_: {})
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"), str(place / "other")),
        out=str(place / "streamed"),
        data=(str(place / "runs" / "tuned.jsonl"), str(place / "runs" / "other.jsonl")),
        stream=True,
        micro_batch_tokens=64,
    )
    metrics = main(cfg)
    assert len(most) == 3 and max(most) == 1
    for name in ("tuned", "other"):
        for k in ("kl_forward", "kl_reverse"):
            assert metrics[name]["all"][k] == pytest.approx(analysed[0][name]["all"][k], rel=1e-4)
        assert metrics[name]["all"]["shifted_tokens"] == analysed[0][name]["all"]["shifted_tokens"]
        assert metrics[name]["all"]["pca_shift"] == pytest.approx(
            analysed[0][name]["all"]["pca_shift"], rel=1e-5
        )


def test_as_published(place, analysed, monkeypatch):
    """--published: the tables show UniReason's estimate, and first tokens do not count."""
    monkeypatch.setattr(analyze, "draw_figures", lambda *_: {})
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"),),
        out=str(place / "published"),
        data=(str(place / "runs" / "tuned.jsonl"),),
        published=True,
    )
    found, exact = main(cfg)["tuned"]["groups"]["math"], analysed[0]["tuned"]["groups"]["math"]
    assert found["n_tokens"] == exact["n_tokens"] - exact["n_responses"]
    assert found["kl_estimate"] == pytest.approx(exact["kl_estimate"])
    assert f"{found['kl_estimate']:.2g}" != f"{exact['kl_forward']['macro']:.2g}"
    row = f"<tr><td>KL math<td>-<td>{found['kl_estimate']:.2g}<tr>"
    assert row in (place / "published/report.html").read_text()


def test_an_interrupted_analysis_continues(place, monkeypatch):
    """Killed while the second model is measured, the same command computes what is missing.

    Other settings start over.
    """
    monkeypatch.setattr(analyze, "draw_figures", lambda *_: {})
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"), str(place / "other")),
        out=str(place / "killed"),
        data=(str(place / "runs" / "tuned.jsonl"), str(place / "runs" / "other.jsonl")),
        micro_batch_tokens=64,
    )
    numbers, counts = analyze.token_numbers, []

    def counted(*arguments):
        counts[-1] += 1
        if counts[0] == 8 and len(counts) == 1:
            raise KeyboardInterrupt
        return numbers(*arguments)

    monkeypatch.setattr(analyze, "token_numbers", counted)
    counts.append(0)
    with pytest.raises(KeyboardInterrupt):
        main(cfg)
    counts.append(0)
    metrics = main(cfg)
    counts.append(0)
    again = main(cfg)  # complete, so that all is computed
    assert counts[1] == counts[2] - 7
    assert json.dumps(metrics) == json.dumps(again)
    (analyze.open_work(cfg) / "mark").touch()
    assert (analyze.open_work(cfg) / "mark").exists()
    assert not (analyze.open_work(replace(cfg, micro_batch_tokens=32)) / "mark").exists()


def test_a_broken_model_does_not_stop_the_others(place, tmp_path, capsys, monkeypatch):
    """NaN in a layer: the model is refused by name, the other one analysed.

    Refused alone, it ends the run.
    """
    monkeypatch.setattr(analyze, "draw_figures", lambda *_: {})
    make_model(tmp_path / "broken", 1, [HOSTILE])
    tensors = load_file(tmp_path / "broken/model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3] = math.nan
    save_file(tensors, tmp_path / "broken/model.safetensors", metadata={"format": "pt"})
    rows = completions("tuned")
    for name, model in (("a", place / "tuned"), ("b", tmp_path / "broken")):
        write_rows(tmp_path / f"{name}.jsonl", rows)
        (tmp_path / f"{name}.config.json").write_text(
            json.dumps({"model": str(model), "format": "think"})
        )
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"), str(tmp_path / "broken")),
        out=str(tmp_path / "out"),
        data=(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")),
    )
    metrics = main(cfg)
    assert "broken" in metrics["refused"]["broken"] and "broken" not in metrics
    assert metrics["tuned"]["all"]["n_responses"] == 10
    assert "the other models are analysed" in capsys.readouterr().out
    with pytest.raises(BadInput, match="broken"):
        main(replace(cfg, tuned=cfg.tuned[1:], data=cfg.data[1:]))


def test_memory_does_not_grow_with_the_responses(monkeypatch):
    """When a response has been counted, its numbers are gone."""
    sides = ("base", "tuned")
    names = [f"{what}_{side}" for what in ("logp", "rank", "entropy") for side in sides]
    ids, refs = list(range(50)), []

    def fake(base, tuned, examples, *_, **__):
        for i in range(len(examples)):
            values = {
                name: torch.ones(50, dtype=torch.float64)
                for name in ("kl_forward", "kl_reverse", *names)
            }
            refs.append(weakref.ref(values["kl_forward"]))
            yield i, values
            assert sum(ref() is not None for ref in refs) <= 2

    monkeypatch.setattr(analyze, "measure", fake)
    rows = [{"id": str(i), "question": "q", "ids": ids, "group": "g"} for i in range(40)]
    job = analyze.Job("m", rows, [], None, examples=[([1], ids)] * 40)
    tally = analyze.tally_responses(Config(base="", out=""), None, None, job)["g"]
    assert len(tally.responses) == 40
    assert not any(isinstance(x, torch.Tensor) for r in tally.responses for x in r.values())


def test_the_benchmark_runs(capsys):
    """tests/bench_analyze.py in small."""
    import bench_analyze

    ratio = bench_analyze.main(
        bench_analyze.Config(responses=2, length=16, layers=1, width=128, vocabulary=300, repeats=1)
    )
    assert ratio > 0 and "two forward passes" in capsys.readouterr().out


def test_the_recipe_compares_what_it_trained(tmp_path):
    """recipes/unireason.sh with a real model's name and stand-ins for the programs.

    Both trainings from the same problems, three runs on the tasks, --stream in the analysis.
    """
    from test_recipes import commands

    found = commands(
        tmp_path,
        "unireason.sh",
        MODEL="org/base",
        PROBLEMS="p.jsonl",
        TASKS="t.jsonl",
        NPROC="8",
        TP="4",
        TRACES="traces.jsonl",
    )
    place = tmp_path / "out/seed0"
    trained = [(c.model, c.data) for _, name, c in found if name in ("sft.py", "grpo.py")]
    assert trained == [
        ("org/base", str(place / "sft-run/traces.jsonl")),
        ("org/base", str(place / "rl-run/problems.jsonl")),
    ]
    answers = [c for _, name, c in found if name == "generate.py" and c.data == "t.jsonl"]
    assert [c.model for c in answers] == ["org/base", str(place / "sft"), str(place / "rl")]
    _, name, last = found[-1]
    assert (
        name == "analyze.py"
        and last.stream
        and last.tuned == (str(place / "sft"), str(place / "rl"))
    )
    assert (place / "sft").readlink() == Path("sft-run/model")


def test_wrong_use_is_named(place, tmp_path):
    for cfg, word in (
        (Config(base="b", out="o"), "--tuned and --data"),
        (
            Config(base="b", out="o", tuned=("t",), data=(str(tmp_path / "none.jsonl"),)),
            "none.jsonl",
        ),
    ):
        with pytest.raises(BadInput, match=word):
            main(cfg)


def test_a_changed_base_is_noticed(place, analysed, capsys, monkeypatch):
    """training.json knows what the model was trained from; another base now gives a warning."""
    settings = json.loads((place / "tuned" / "training.json").read_text())
    path = place / "tuned" / "training.json"
    monkeypatch.setattr(analyze, "draw_figures", lambda *_: {})
    for print_, warned in (("0" * 16, True), (runlog.fingerprint(place / "base"), False)):
        path.write_text(json.dumps(settings | {"identity": {"contents of --model": print_}}))
        main(
            Config(
                base=str(place / "base"),
                tuned=(str(place / "tuned"),),
                data=(str(place / "runs" / "tuned.jsonl"),),
                out=str(place / "again"),
            )
        )
        assert ("was not trained from" in capsys.readouterr().out) is warned
    assert read_rows(place / "runs" / "tuned.jsonl")
    path.write_text(json.dumps(settings))
