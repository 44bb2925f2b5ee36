"""analyze.py, report/page.py and what they are made of: the published vectors, brute force in float64, claims by hand, hostile
text, interrupted and streamed runs, the whole script. The page in a browser: test_report.py."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import analyze
from analyze import (
    Config,
    Side,
    Tally,
    clustered,
    kl_estimator,
    log_ratio,
    main,
    most_shifted,
    pca_shift,
    pca_shift_masked,
    pooled_layers,
    rank_shifts,
    summarise,
    token_numbers,
)
from data import tiny
from engine import attention, loading, packing, runlog
from engine import model as models
from engine.format import FORMATS
from engine.rows import BadInput, read_rows, write_rows
from kernels import Head, reference
from report import behaviours, weights
from report.page import (
    Run,
    choose_pairs,
    choose_waits,
    completions_of,
    contrasts,
    judge,
    paired,
    read_runs,
    settle,
)

HOSTILE = "</script><img src=x onerror=1>"


def make_model(path, seed, words=(), n_vocabulary=None):
    """A random Qwen2 of width 32 over the tiny world's vocabulary, saved to path."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(list(words))
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=n_vocabulary or len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():  # logits of a useful size: KL far above rounding
        model.lm_head.weight.mul_(20)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


made = {}  # what other test files use, too, is made once


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Models base, tuned (training.json says SFT) and other (says RL), with a hostile word in their vocabulary."""
    if "place" in made:
        return made["place"]
    path = made["place"] = tmp_path_factory.mktemp("analyze")
    for seed, name in enumerate(("base", "tuned", "other")):
        make_model(path / name, seed, [HOSTILE])
    (path / "tuned" / "training.json").write_text(
        json.dumps({"train_on": "completion", "lr": 1e-3, "n_steps": 7})
    )
    (path / "other" / "training.json").write_text(
        json.dumps({"reward": "correct", "lr": 5e-4, "n_steps": 3})
    )
    return path


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
    """T26: log-ratios (ln 2, 0, ln 2) and (ln 2, 0): means 0.462098, 0.346574; their mean, not that of all tokens."""
    p, q = (
        [[math.log(x) for x in row] for row in rows]
        for rows in ([[0.9, 0.5, 0.8], [0.6, 0.7]], [[0.45, 0.5, 0.4], [0.3, 0.7]])
    )
    assert kl_estimator([*map(log_ratio, p, q)]) == pytest.approx(0.404336, abs=1e-6)
    # abs hides the direction
    assert kl_estimator([*map(log_ratio, q, p)]) == pytest.approx(0.404336, abs=1e-6)
    assert log_ratio([-1e4], [-1e4]) == 0  # 1e-10 keeps it finite


def test_rank_shifts():
    """T27: shifts 0, 0, 2, 9, 0."""
    assert rank_shifts([1, 1, 3, 10, 1], [1] * 5) == (pytest.approx(2.2), 2)


def test_pca_shift():
    """T28: dPC 0.5, 1.75 in layer 0 (4 along z is invisible), 1, -2 in layer 1."""
    base = [
        torch.tensor([[1.0, 2, 3]])
        + torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]),
        torch.tensor([[0.0, 3, 0], [0, -3, 0], [0, 0, 1], [0, 0, -1]]),
    ]
    tuned = [base[0] + torch.tensor([0.5, -0.25, 4]), base[1] + torch.tensor([7.0, 1, -2])]
    distance, points = pca_shift(base, tuned)
    assert distance == pytest.approx(1.352082, abs=1e-5)
    torch.testing.assert_close(
        points, torch.tensor([[[0, 2], [0.5, 1.75]], [[0, 0], [1, -2]]], dtype=torch.float64)
    )
    assert pca_shift_masked(base, tuned)[0] == pytest.approx(
        (math.hypot(0.5, 0.25) + math.hypot(1, 2)) / 2
    )
    assert pca_shift(base, base)[0] == pca_shift_masked(base, base)[0] == 0


def test_pca_shift_cancels_and_its_repair_does_not():
    """Two layers that move in opposite directions: the published distance is 0."""
    base = [torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])] * 2
    tuned = [base[0] + torch.tensor([1.0, 0]), base[1] - torch.tensor([1.0, 0])]
    assert pca_shift(base, tuned)[0] == pytest.approx(0, abs=1e-12)
    assert pca_shift_masked(base, tuned)[0] == pytest.approx(1)


# ---- models


def brute_force(place, pairs):
    """What measure gives, from whole logits of transformers' own forward pass in float64, one text at a time."""
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
    """KL in both directions, log-probability, rank and entropy: to 1e-6 with --dtype fp64, to rounding in float32."""
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
    """A vocabulary in ragged chunks, a capped head, a scaled one, of different width: as whole logits in float64, to 1e-6."""
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
    """The micro-batch changes nothing but rounding, and the order of the answers is that of the questions."""
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
    """Without pads: the mean of the packed states. With pads: something else, unless no text is padded."""
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
    """A Tally of responses whose tokens have these KL and ranks; all tokens have id 5, but the first of a response 6."""
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
    """Two responses of 3 and 1 tokens: macro (2 + 6) / 2, micro (1 + 2 + 3 + 6) / 4; tasks weigh the same in rank shift."""
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
    words = most_shifted(both.values(), {5: "so", 6: "7"}.get)
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
    """log G/B of 9, 1, 3 and of 9, 2: without the first (3 + 1) / 2 and 2, not (9 + 1 + 3) / 3; the exact KL has all."""
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
    """Four values, two of each question: the interval is that of two question means; one of each: mean ± 1.96 s/√n."""
    value, low, high = clustered([1, 1, 3, 3], [1] * 4, ["a", "a", "b", "b"])
    assert (
        value == 2
        and high - value == pytest.approx(1.959964 * math.sqrt(2) / math.sqrt(2)) == value - low
    )
    independent = clustered([1, 1, 3, 3], [1] * 4, "abcd")[2] - 2
    assert (
        independent == pytest.approx(1.959964 * math.sqrt(4 / 3) / 2) and independent < high - value
    )
    assert clustered([1, 3], [1, 1], "aa") == (2, None, None)


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
    """NaN in one of three layers: the PCA shift of the two others, and a warning; in all of them: None."""
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


# ---- weights


def test_unchanged_by_hand():
    """2505.11711: one of four changed; 5e-6 is equal at 1e-5 and 2e-5 is not; bfloat16 hides 1 + 0.003, not 1 + 0.005."""
    base, one = torch.tensor([1.0, 2, 3, 4]), torch.ones(2)
    assert weights.difference(base, torch.tensor([1, 2, 3.5, 4]), torch.float32).tolist() == [
        0,
        0,
        0.5,
        0,
    ]
    small = weights.difference(torch.zeros(2), torch.tensor([5e-6, 2e-5]), torch.float32)
    assert (small > weights.PUBLISHED).tolist() == [False, True]
    assert weights.difference(one, torch.tensor([1.003, 1.005]), torch.bfloat16).tolist() == [
        0,
        0.0078125,
    ]
    assert (
        weights.difference(one, torch.tensor([1.003, 1.005]), torch.float32) > weights.PUBLISHED
    ).all()


def test_overlap_by_hand():
    """Sets {0, 1, 2} and {1, 2, 3, 4}: 2/3 of the first, 1/2 of the second."""
    one, other = torch.zeros(6, dtype=bool), torch.zeros(6, dtype=bool)
    one[[0, 1, 2]] = other[[1, 2, 3, 4]] = True
    assert weights.overlap(one, other) == (pytest.approx(200 / 3), pytest.approx(50))
    assert weights.overlap(one, torch.zeros(6, dtype=bool)) == (0, None)


def test_weight_changes_of_checkpoints(tmp_path, capsys):
    """A 4 × 3 matrix with a rank-1 update of one row, a vector left alone; a checkpoint in files; what has no partner."""
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
    found, overlaps = weights.weight_changes(base, {"one": one, "two": two}, 3)
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
    assert weights.weight_changes(base, {"one": path}, 2)[0]["one"]["rank_share"] is None
    with pytest.raises(BadInput, match="no safetensors weights"):
        weights.shards(str(tmp_path))


def test_ledger_by_hand(tmp_path):
    """Totals by phase; 1.2288e18 FLOPs against 3.6e17 of 5 epochs: 17.07 epochs would match; a broken line is named."""
    assert weights.ledger(tmp_path) is None
    rows = [
        {"phase": "train", "tokens": 10, "flops": 3e17},
        {"phase": "train", "tokens": 2, "flops": 6e16},
    ]
    write_rows(tmp_path / "flops.jsonl", rows)
    sft = weights.ledger(tmp_path)
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
    rl = weights.ledger(tmp_path)
    assert rl["total"] == pytest.approx(1.2288e18) and rl["training"] == 9.216e17
    found = weights.matched(sft, rl, {"epochs": 5, "n_steps": 315})
    assert found["total"]["epochs"] == pytest.approx(17.07, abs=0.01) and found["training"][
        "times"
    ] == pytest.approx(2.56)
    write_rows(tmp_path / "flops.jsonl", [rows[0], rows[0] | {"flops": "many"}])
    with pytest.raises(BadInput, match=r"flops.jsonl:2: 'flops' is not a number"):
        weights.ledger(tmp_path)


# ---- behaviours


def test_rules_against_labels():
    """Agreement with labels by hand, whether a trace shows a behaviour: at least 95% on the 22 traces that the rules were made
    with, 90% on 22 others."""
    rows = [
        json.loads(line)
        for line in (Path(__file__).parent / "labelled_traces.jsonl").read_text().splitlines()
    ]
    for split, least in (("dev", 0.95), ("held_out", 0.9)):
        chosen = [row for row in rows if row["split"] == split]
        for name in behaviours.RULES:
            agree = [
                bool(behaviours.behaviours(row["text"])[name]) == bool(row[name]) for row in chosen
            ]
            assert sum(row[name] for row in chosen) >= 3 and sum(agree) / len(agree) >= least, (
                split,
                name,
                sum(agree),
            )


def test_behaviours_by_hand():
    """Counts of one trace; words, repetition and classes; long near misses take no more than their length's share."""
    assert behaviours.behaviours(
        "wait , maybe 1 + 4 = 5 vs 10 low . wait , perhaps 2 * 5 = 10 vs 10 yes"
    ) == {"verification": 2, "backtracking": 2, "subgoal": 0, "backward": 0}
    assert behaviours.behaviours("") == dict.fromkeys(behaviours.RULES, 0)
    import time

    began = time.process_time()
    for text in ("= 1 " * 5000, "need 12 " * 2500, "12/3=4 " * 2800, "wai " * 5000):
        behaviours.behaviours(text)
    assert time.process_time() - began < 2  # 80,000 characters
    assert behaviours.wait_words("Wait, wait... waiting; Hmm")["wait"] == 2
    classes = [behaviours.word_class(t) for t in (" So", "therefore,", "cat", "12", "+")]
    assert classes == ["logical", "logical", "content", "sign", "sign"]


def test_variety_by_hand():
    """Two questions of three samples: one with two right solutions that read differently and one answer, one with none."""

    def row(question, answer, thinking):
        return {"id": question, "answer": "4", "thinking": thinking, "response": answer}

    rows = [
        row("a", "4", "2 + 2"),
        row("a", "4", "2  +  2"),
        row("a", "4", "1 + 3"),
        row("b", "5", "x"),
        row("b", "6", "y"),
        row("b", "7", "z"),
    ]
    assert behaviours.variety(rows) == {
        "coverage": 50,
        "diversity": 1,
        "different_answers": 0.5,
        "n_samples": 3,
    }
    assert behaviours.variety([{"id": "a", "response": "4"}]) is None


def test_a_judge_through_files(tmp_path):
    """Four questions per trace; counts come back by trace; mean 2.0, share 0.667, agreement with the rules; no tag is 0."""
    rows = [
        {"id": str(i), "question": "q", "response": text}
        for i, text in enumerate(("wait, no", "wait", "nothing"))
    ]
    write_rows(tmp_path / "run.jsonl", rows)
    asked = behaviours.main(
        behaviours.Config(data=(str(tmp_path / "run.jsonl"),), out=str(tmp_path / "judge.jsonl"))
    )
    assert (
        len(asked) == 12
        and "wait, no" in asked[0]["question"]
        and "<count>" in asked[0]["question"]
    )
    said = {
        "wait, no": "twice <count>2</count>",
        "wait": "no tag",
        "nothing": "<count>1</count> or <count> 4 </count>",
    }
    answers = [
        row
        | {
            "thinking": "I think <count>9</count>",
            "response": next(v for k, v in said.items() if row["question"].endswith(k)),
        }
        for row in asked
        if row["judged"]["behaviour"] == "backtracking"
    ]
    write_rows(tmp_path / "judged.jsonl", answers)
    judged = behaviours.read_judged(tmp_path / "judged.jsonl")
    found = behaviours.summary(rows, judged, lambda shares: (sum(shares) / len(shares), 0, 1))
    assert found["behaviours"]["backtracking"]["judged"] == pytest.approx(
        {"n": 3, "mean": 2, "share": 200 / 3, "agreement": 100 / 3}
    )
    assert found["behaviours"]["backtracking"]["share"] == pytest.approx(200 / 3)
    assert "judged" not in found["behaviours"]["subgoal"]
    with pytest.raises(BadInput, match=r"run.jsonl:1: no field 'judged'"):
        behaviours.read_judged(tmp_path / "run.jsonl")


# ---- models that do not fit together


def test_streamed_and_resumed(place, tmp_path):
    """States of one pass through shards, one model at a time: the same numbers. What is there is not computed again, a killed
    pass continues, and shards whose numbers are known are gone."""
    base, tuned = (loading.load(place / name)[0] for name in ("base", "tuned"))
    true, b, t = measure(base, tuned, examples(), 20), Side.of(base), Side.of(tuned)
    analyze.store(b, examples(), 20, tmp_path, "base")
    n_shards = len(list(tmp_path.glob("states-*.safetensors")))
    assert n_shards > 2
    calls, passes = [], models.hidden_states

    def counted(model, *arguments, **more):
        calls.append(model)
        return passes(model, *arguments, **more)

    models.hidden_states = counted
    try:
        half = analyze.measure(b._replace(model=None), t, examples(), 20, tmp_path)
        next(half)
        half.close()  # killed after a micro-batch
        assert len(calls) == len(list(tmp_path.glob("numbers-*"))) == 1
        assert len(list(tmp_path.glob("states-*"))) == n_shards - 1
        analyze.store(b, examples(), 20, tmp_path, "base")  # the same command again
        found = dict(analyze.measure(b._replace(model=None), t, examples(), 20, tmp_path))
    finally:
        models.hidden_states = passes
    assert (
        len(calls) == n_shards
        and all(model is tuned for model in calls)
        and not list(tmp_path.glob("states-*"))
    )
    for i, values in enumerate(true):
        for name in values:
            assert torch.equal(values[name], found[i][name])


def test_likely_tokens(place):
    """With top: the base's three likeliest tokens at each position, as softmax of its logits gives them."""
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


# ---- claims


@pytest.mark.parametrize(
    "low, high, expect, holds, words",
    [
        (1, 9, "higher", True, "yes"),
        (-9, -1, "lower", True, "yes"),
        (-9, -1, "higher", False, "reversed"),
        (1, 9, "lower", False, "reversed"),
        (-1, 9, "higher", None, "not significant"),
        (0, 9, "higher", None, "not significant"),
        (-4, 4.9, "same", True, "yes, unchanged within 5 points"),
        (1, 4, "same", True, "yes, unchanged within 5 points"),
        (1, 9, "same", False, "no, higher"),
        (-9, -1, "same", False, "no, lower"),
        (-6, 3, "same", None, "undecided, the interval leaves ±5"),
        (0, 0, "same", True, "yes, unchanged within 5 points"),
    ],
)
def test_judge(low, high, expect, holds, words):
    assert judge(low, high, expect) == (holds, words)


def test_paired_by_hand():
    """Questions pair by id; of two seeds each question counts once with its mean; what only one side has is left out."""
    before = {"0": {"a": 0.0, "b": 1.0, "c": 0.0}, "1": {"a": 0.0, "b": 0.0}, "7": {"a": 1.0}}
    after = {"0": {"a": 1.0, "b": 1.0, "d": 1.0}, "1": {"a": 1.0, "b": 1.0}}
    found = paired(before, after)
    # a: 1, b: 1/2
    assert (
        found["difference"] == pytest.approx(75)
        and found["n"] == 2
        and found["seeds"] == ["0", "1"]
    )
    assert found["per_seed"] == pytest.approx({"0": 50, "1": 100})
    assert (found["low"], found["high"]) == pytest.approx((50, 100))
    assert (
        paired({"0": {"a": 1.0}}, {"0": {"b": 1.0}}) is None
        and paired({}, {"0": {"b": 1.0}}) is None
    )
    # no seed in common: pooled
    assert paired({"0": {"a": 0.0}}, {"1": {"a": 1.0}})["difference"] == 100


def graded(name, answers, seed="0", group="math", **settings):
    rows = [
        {"id": str(i), "question": "q", "answer": "1", "response": a, "group": group}
        for i, a in enumerate(answers)
    ]
    return Run(name, seed, settings, rows)


def test_claims_by_hand():
    """20 questions, 10 turn right: +50 points; groups are kept apart; an unknown run is named."""
    runs = [
        graded("a", "0" * 20),
        graded("b", "0" * 10 + "1" * 10),
        graded("a", "0" * 20, "1"),
        graded("b", "0" * 5 + "1" * 15, "1"),
        graded("p", "1" * 4, group="plain"),
    ]
    claim = {"id": "A", "text": "t", "group": "math", "from": "a", "to": "b", "expect": "higher"}
    found = settle(claim, runs[:2], "f")
    assert found["holds"] is True and found["n"] == 20
    assert re.fullmatch(
        r"yes: 0\.0 → 50\.0, \+50\.0 \[\d+\.\d, \d+\.\d\], n=20, seeds 0", found["verdict"]
    )
    assert settle(claim | {"expect": "lower"}, runs, "f")["verdict"].startswith(
        "reversed: 0.0 → 62.5, +62.5 ["
    )
    assert settle(claim, runs, "f")["verdict"].endswith("n=20, seeds 0 (+50.0), 1 (+75.0)")
    assert settle(claim | {"to": "a", "expect": "same"}, runs, "f")["verdict"].startswith(
        "yes, unchanged within 5 points: 0.0 → 0.0, +0.0"
    )
    for wrong, word in (
        ({"to": "zz"}, "zz"),
        ({"to": "p"}, "in common"),
        ({"expect": "more"}, "higher, lower or same"),
    ):
        with pytest.raises(BadInput, match=word):
            settle(claim | wrong, runs, "f")


def test_contrasts_by_hand():
    """Two seeds of two trainings: KL of a question is the mean of its samples, then of the seeds, then of the differences;
    what an interval does not tell apart is not called different."""

    def answers(kls, shifted):
        return {
            "math": [
                {"question": q, "kl_forward": kl, "n_shifted": n}
                for q, kl, n in zip("aabc", kls, shifted)
            ]
        }

    questions = {
        "s0/sft": answers([1, 3, 4, 6], [1, 1, 3, 5]),
        "s1/sft": answers([1, 3, 4, 6], [1, 1, 3, 5]),
        "s0/rl": answers([1, 1, 2, 4], [3, 3, 2, 5]),
        "s1/rl": answers([1, 1, 4, 4], [3, 3, 2, 5]),
    }
    study = SimpleNamespace(
        pair=["s0/sft", "s0/rl"],
        tuned={name: name for name in questions},
        questions=questions,
        runs=[],
        results={name: {"groups": {"math": {}, "x": {}}} for name in questions},
    )
    kl, shifted = contrasts(study)
    assert (kl["one"], kl["other"], kl["n"], kl["seeds"]) == ("sft", "rl", 3, ["s0", "s1"])
    assert (
        kl["difference"] == pytest.approx(((1 - 2) + (3 - 4) + (4 - 6)) / 3)
        and kl["verdict"] == "less with rl"
    )
    assert kl["per_seed"] == pytest.approx({"s0": (-1 - 2 - 2) / 3, "s1": (-1 + 0 - 2) / 3})
    assert (
        shifted["difference"] == pytest.approx(1 / 3)
        and shifted["verdict"] == "no significant difference"
    )
    assert contrasts(SimpleNamespace(pair=["s0/sft"])) == []


# ---- completions


def test_runs_and_their_seeds(tmp_path):
    """A directory is a replicate, named by the number after "seed" where that tells them apart."""
    for place in ("seed3/runs", "seed12/runs", "a/x", "b/x"):
        write_rows(tmp_path / place / "r.jsonl", [{"id": "1"}])
    named = read_runs([str(tmp_path / "seed3/runs"), str(tmp_path / "seed12/runs/r.jsonl")])
    assert [(r.name, r.seed) for r in named] == [("r", "3"), ("r", "12")]
    assert [r.seed for r in read_runs([str(tmp_path / "a/x"), str(tmp_path / "b/x")])] == ["0", "1"]
    words = [
        Run("", "", settings, []).forcing()
        for settings in (
            {},
            {"thinking_budget": 0, "waits": 0},
            {"thinking_budget": None, "waits": 2},
            {"thinking_budget": 9, "waits": 1},
        )
    ]
    assert words == ["no forcing", "budget 0", "Wait ×2", "budget 9, Wait ×1"]


def test_what_is_shown():
    """Pairs: of the first group two, differing grades first. Waits: mended answers, and one spoilt."""
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


def completions(name, forced=0):
    """Rows as generate.py writes them, of three math, two other and three plain questions; the last math one is hostile."""
    tokenizer, rows = tiny.tokenizer(), []
    tokenizer.add_tokens([HOSTILE])
    for number, (group, task, question, answer) in enumerate(
        [
            ("math", "pair", "pair sum 9 from 4 5", "4 + 5"),
            ("math", "pair", "pair sum 7 from 4 3", "4 + 3"),
            ("math", "pair", f"pair sum 8 from 4 4 {HOSTILE}", "4 + 4"),
            ("math", "pair", "pair sum 3 from 1 2", "1 + 2"),
            ("other", "sort", "sort 3 1", "1 3"),
            ("other", "sort", "sort 9 4", "4 9"),
            ("other", "sort", "sort 5 2", "2 5"),
            ("plain", "copy", "copy a b", "a b"),
            ("plain", "copy", "copy b c", "b c"),
            ("plain", "copy", "copy c", "c"),
        ]
    ):
        said = answer if name == "tuned" and number % 2 or forced else "a"
        thinking = f"try {HOSTILE} 4 + 5 = 9" + " wait yes" * forced
        text = f"{thinking} </think> {said}"
        ids = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]
        wait = [i for i, token in enumerate(ids) if token == tokenizer.encode("wait")[0]]
        rows.append(
            {
                "id": str(number),
                "group": group,
                "task": task,
                "question": question,
                "answer": answer,
                "sample": 0,
                "text": text,
                "thinking": thinking,
                "response": said,
                "ids": ids,
                "injected": wait,
                "n_thinking_tokens": len(ids) - 3,
                "n_tokens": len(ids),
                "finish": "stop",
                "n_waits": forced,
                "forced": False,
            }
        )
    return rows


@pytest.fixture(scope="session")
def analysed(place):
    """main() on three models and six runs -> (its result, the output directory)."""
    if "analysed" in made:
        return made["analysed"]
    for name, model, waits in (
        ("base", "base", 0),
        ("tuned", "tuned", 0),
        ("other", "other", 0),
        ("tuned-wait1", "tuned", 1),
        ("tuned-wait2", "tuned", 2),
    ):
        rows = completions(name, waits)
        write_rows(
            place / "runs" / f"{name}.jsonl",
            rows + ([rows[0] | {"id": "empty", "ids": []}] if name == "other" else []),
        )
        (place / "runs" / f"{name}.config.json").write_text(
            json.dumps(
                {
                    "model": str(place / model),
                    "format": "think",
                    "waits": waits,
                    "thinking_budget": None,
                    "temperature": 0.7,
                }
            )
        )
    claims = [
        {
            "id": "A",
            "text": f"hostile {HOSTILE}",
            "group": "all",
            "from": "base",
            "to": "tuned-wait1",
            "expect": "higher",
        }
    ]
    (place / "claims.json").write_text(json.dumps(claims))
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"), str(place / "other")),
        out=str(place / "out"),
        data=(str(place / "runs" / "tuned.jsonl"), str(place / "runs" / "other.jsonl")),
        runs=(str(place / "runs"),),
        claims=str(place / "claims.json"),
    )
    made["analysed"] = main(cfg), place / "out"
    return made["analysed"]


def test_main(analysed):
    """Everything is written, the numbers add up, and metrics.json is what main returned."""
    metrics, out = analysed
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    for name in (
        "budget",
        "accuracy",
        "kl",
        "rank_shift",
        "along",
        "tokens",
        "words",
        "pca",
        "weights",
        "behaviours",
    ):
        assert (out / f"{name}.png").stat().st_size > 5000
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
    """One "wait" each was injected: one token fewer; --skip-first: one more."""
    base, tokenizer = loading.load(place / "base")
    tuned, rows, counts = loading.load(place / "tuned")[0], completions("tuned", 1), []
    for skip in (False, True):
        cfg = Config(base="", out="", skip_first=skip)
        job = analyze.job_of(
            cfg, tokenizer, "tuned", (rows, 0, FORMATS["think"]), len(tokenizer), []
        )
        tallies = analyze.analyse(cfg, Side.of(base), Side.of(tuned), job)
        counts.append(summarise(tallies, {})["n_tokens"])
    assert counts == [sum(len(row["ids"]) - k for row in rows) for k in (1, 2)]


def test_whose_completions(place, capsys):
    """One file without header serves all models, with a warning; two are refused; without a format they all are."""
    rows = completions("tuned")
    plain, other = Run("x", "", {"format": "think"}, rows), Run("y", "", {"format": "think"}, rows)
    cfg = SimpleNamespace(format=None)
    assert len(completions_of("m", [plain], cfg)[0]) == 10 and "warning" in capsys.readouterr().out
    with pytest.raises(BadInput, match="says in its header that this model wrote it"):
        completions_of("m", [plain, other], cfg)
    with pytest.raises(BadInput, match="--format"):
        completions_of("m", [plain._replace(settings={})], cfg)
    forced = Run("z", "", {"format": "think", "model": "m", "waits": 1}, rows)
    free = Run("z", "", {"format": "think", "model": "m"}, rows[:3])
    assert len(completions_of("m", [forced, free], cfg)[0]) == 3  # unforced ones if there are


def test_hostile_text_is_escaped(analysed):
    """A completion, a question and a claim that try to end the script or to load an image stay text."""
    page = (analysed[1] / "report.html").read_text()
    assert "<img" not in page and "onerror" in page and page.count("</script>") == 2
    data = json.loads(
        re.search(r"<script type=application/json id=data>(.*?)</script>", page, re.DOTALL)[1]
    )
    assert any(HOSTILE in token[0] for tokens in data for token in tokens)
    # nothing is loaded from anywhere
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\((?!#)", page)
    assert sum(token[5] for tokens in data for token in tokens) >= 3  # injected tokens are marked


def test_streamed_as_a_whole(place, analysed, monkeypatch):
    """--stream gives the numbers of two models side by side, never holding two; --kl published shows the estimate."""
    alive, load, most = [], loading.load, []
    import gc
    import weakref

    def watched(*arguments, **more):
        gc.collect()
        model, tokenizer = load(*arguments, **more)
        alive.append(weakref.ref(model))
        most.append(sum(ref() is not None for ref in alive))
        return model, tokenizer

    monkeypatch.setattr(loading, "load", watched)
    monkeypatch.setattr(analyze, "draw", lambda *_: {})
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"), str(place / "other")),
        out=str(place / "streamed"),
        data=(str(place / "runs" / "tuned.jsonl"), str(place / "runs" / "other.jsonl")),
        stream=True,
        kl="published",
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
    shown = f"{metrics['tuned']['groups']['math']['kl_estimate']:.2g}"
    assert f"<td>{shown}<td>" in (place / "streamed/report.html").read_text()


def test_an_interrupted_analysis_continues(place, monkeypatch):
    """Killed while the second model is measured, the same command computes what is missing; other settings start over."""
    monkeypatch.setattr(analyze, "draw", lambda *_: {})
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
    work = analyze.workplace(cfg)
    (work / "mark").touch()
    assert (analyze.workplace(cfg) / "mark").exists()
    assert not (analyze.workplace(Config(**{**cfg.__dict__, "skip_first": True})) / "mark").exists()


def test_a_broken_model_does_not_stop_the_others(place, tmp_path, capsys, monkeypatch):
    """NaN in a layer: the model is refused by name, the other one analysed; refused alone, the run ends."""
    monkeypatch.setattr(analyze, "draw", lambda *_: {})
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
        main(Config(**{**cfg.__dict__, "tuned": cfg.tuned[1:], "data": cfg.data[1:]}))


def test_memory_does_not_grow_with_the_responses(monkeypatch):
    """When a response has been counted, its numbers are gone."""
    import weakref

    names, refs, ids = (
        (
            "kl_forward",
            "kl_reverse",
            "logp_base",
            "logp_tuned",
            "entropy_base",
            "entropy_tuned",
            "rank_base",
            "rank_tuned",
        ),
        [],
        list(range(50)),
    )

    def fake(base, tuned, examples, *_, **__):
        for i in range(len(examples)):
            values = {name: torch.ones(50, dtype=torch.float64) for name in names}
            refs.append(weakref.ref(values["kl_forward"]))
            yield i, values
            assert sum(ref() is not None for ref in refs) <= 2

    monkeypatch.setattr(analyze, "measure", fake)
    rows = [{"id": str(i), "question": "q", "ids": ids, "group": "g"} for i in range(40)]
    job = SimpleNamespace(name="m", rows=rows, examples=[([1], ids)] * 40)
    tally = analyze.analyse(Config(base="", out=""), None, None, job)["g"]
    assert len(tally.responses) == 40 and not any(
        isinstance(x, torch.Tensor) for r in tally.responses for x in r.values()
    )


def test_completions_of_another_state_are_warned_about(place, capsys):
    """The header knows what the model directory held when it wrote the completions."""
    rows = completions("tuned")
    for print_, warned in (("0" * 16, True), (runlog.fingerprint(place / "tuned"), False)):
        r = Run(
            "x",
            "",
            {
                "format": "think",
                "model": str(place / "tuned"),
                "identity": {"contents of --model": print_},
            },
            rows,
        )
        completions_of(str(place / "tuned"), [r], SimpleNamespace(format=None))
        assert ("another state of" in capsys.readouterr().out) is warned


def test_the_benchmark_runs(capsys):
    """tests/bench_analyze.py in small."""
    import bench_analyze

    ratio = bench_analyze.main(
        bench_analyze.Config(responses=2, length=16, layers=1, width=128, vocabulary=300, repeats=1)
    )
    assert ratio > 0 and "two forward passes" in capsys.readouterr().out


def test_the_recipe_compares_what_it_trained(tmp_path):
    """recipes/unireason.sh on a real model, with stand-ins for its programs: both trainings from the same problems, three
    runs on the tasks, one model at a time in the analysis."""
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
    monkeypatch.setattr(analyze, "draw", lambda *_: {})
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
