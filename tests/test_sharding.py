"""engine/sharding.py: 2 and 4 ranks that train a model in shards train it as one process does."""

import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from ranks import (
    BASE,
    TOKENIZER,
    by_sgd,
    cut_short,
    gap,
    make_material,
    ranks_run,
    settings_of,
    weights_of,
)
from test_families import FAMILIES, SEED, SMALL, random_model, sequences
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import sft
from engine import dtensors, loading, packing, processes, sharding
from engine import model as models
from engine.rows import BadInput, read_rows


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"))


# ---- one step


@pytest.mark.parametrize("tp", [1, 2])
def test_one_step_of_two_ranks(material, tmp_path, tp):
    """The shortest of the tests below: all 13 rows in one step."""
    settings = dict(batch_rows=13, tp=tp)
    (((alone,),),) = [by_sgd([settings_of(material, tmp_path / "alone", batch_rows=13)])]
    for ((found,),) in ranks_run(by_sgd, [settings_of(material, tmp_path / "out", **settings)]):
        assert found["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-6)
    assert gap(tmp_path / "alone", tmp_path / "out") <= 1e-6


# family -> its configuration, and the numbers of ranks that split its matrices
SHARDED = {
    "gemma 3": (*FAMILIES["gemma 3"][:2], (1, 2)),
    "llama, biases in every layer": (
        LlamaConfig,
        {"attention_bias": True, "mlp_bias": True},
        (2,),
    ),
}
TEXTS = [sequences([n], seed=n)[0] for n in (30, 17, 50, 8)]


def gradients_in_shards(folder):
    """-> {(family, tp): (norm, share of the weights on this rank, {weight: whole gradient})}."""
    found = {}
    for name, (_, _, ways) in SHARDED.items():
        for tp in ways:
            ranks = processes.join_ranks(tp=tp, shards=True)
            model, _ = sharding.load_to_train(str(folder / name), ranks)
            (-sharding.score(model, packing.pack(TEXTS)).sum() / 100).backward()
            norm = sharding.clip_gradients(model, 1e9)
            parts = model.shards.parts
            n_here = sum(part.numel() for part in parts.values())
            n_whole = sum(p.numel() for p in model.parameters())
            gradients = {
                key: dtensors.cut_like(p, parts[key].grad).full_tensor().tolist()
                for key, p in model.named_parameters()
            }
            found[name, tp] = norm, n_here / n_whole, gradients
    return found


def test_a_model_to_be_sharded_is_made_without_weights():
    """Matrices have a shape and no memory. Rotary frequencies, which are in no file, are real."""
    model, folder = sharding._without_weights(BASE)
    assert folder == Path(BASE) and all(p.is_meta for p in model.parameters() if p.ndim > 1)
    whole, _ = loading.load(BASE)
    for (name, ours), (_, theirs) in zip(model.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.equal(ours, theirs) and len(ours) > 1, name


def test_families_in_shards(tmp_path):
    """All gradients are those of one process, and a rank holds half of the weights.

    To the bit over data-parallel ranks (here with the same rows), to 1e-5 of the largest with split
    matrices. Gemma 3 has scaled embeddings, two rotary embeddings and windows; the Llama has biases
    on both sides of every cut.
    """
    wanted = {}
    for name, (config, own, _) in SHARDED.items():
        model = random_model(config(**{**SMALL, **own}), SEED)
        loading.save(model, TOKENIZER, tmp_path / name)
        model, _ = loading.load(str(tmp_path / name))
        (-models.score(model, packing.pack(TEXTS)).logp.sum() / 100).backward()
        wanted[name] = {key: p.grad for key, p in model.named_parameters()}
    for answer in ranks_run(gradients_in_shards, tmp_path):
        for (name, tp), (norm, share, gradients) in answer.items():
            assert 0.49 <= share <= 0.52  # one token of 149 more or less; norms
            whole = wanted[name]
            largest = max(gradient.abs().max().item() for gradient in whole.values())
            square = sum(gradient.square().sum().item() for gradient in whole.values())
            assert gradients.keys() == whole.keys() and largest > 0.1
            assert norm == pytest.approx(math.sqrt(square), rel=1e-5)
            tolerance = 0 if tp == 1 else 1e-5 * largest
            for key, gradient in gradients.items():
                error = (torch.tensor(gradient) - whole[key]).abs().max()
                assert error <= tolerance, key


# ---- runs


def on_two_ranks(sgd, others, left):
    """-> (history of a run, the first step of each of the others, messages of what is refused).

    left: a run that is cut short, so that another with its --out is refused.
    """
    (history,) = by_sgd([sgd])
    cut_short(left)
    material = Path(left.model).parent
    refused = []
    for cfg in (
        dataclasses.replace(left, lr=0.5),
        dataclasses.replace(left, muon_lr=0.01),
        dataclasses.replace(left, tp=3),
        *(
            dataclasses.replace(left, model=str(material / name))
            for name in ("no head", "other shape", "no model")
        ),
    ):
        with pytest.raises(BadInput) as caught:
            sft.main(cfg)
        refused.append(str(caught.value))
    sharding.FILE_BYTES = 20_000  # models in several files
    return history, [sft.main(cfg)[0] for cfg in others], refused


@pytest.fixture(scope="module")
def runs(material, tmp_path_factory):
    """3 steps of gradient descent, of 5, 5 and 3 rows, by 1, 2 and 4 ranks, with and without --tp.

    -> (folder of all runs, {name: history on each rank}).
    """
    folder, histories = tmp_path_factory.mktemp("runs"), {}

    def sgd(out, model="qwen3", **more):
        return settings_of(material, folder / out, model, **{"micro_batch_tokens": 70, **more})

    histories["1"], histories["1 qwen2"] = by_sgd(
        [sgd("1", micro_batch_tokens=10_000), sgd("1 qwen2", "qwen2", micro_batch_tokens=10_000)]
    )
    others = [
        settings_of(material, folder / "bf16", dtype="bf16"),
        settings_of(material, folder / "recompute", model="qwen2", recompute=True),
        settings_of(
            material, folder / "again", model=folder / "recompute", train_on="all", offload=True
        ),
    ]
    left = settings_of(material, folder / "left", lr=0.01, save_every=1)
    two = ranks_run(on_two_ranks, sgd("2"), others, left)
    histories["2"], histories["others"], histories["refused"] = zip(*two, strict=True)
    histories["4"] = [h for (h,) in ranks_run(by_sgd, [sgd("4")], n=4)]
    histories["tp 2"] = [
        h for (h,) in ranks_run(by_sgd, [sgd("tp 2", "qwen2", tp=2, micro_batch_tokens=10_000)])
    ]
    histories["2 x 2"] = [
        h for (h,) in ranks_run(by_sgd, [sgd("2 x 2", tp=2, micro_batch_tokens=200)], n=4)
    ]
    return folder, histories


@pytest.mark.parametrize("ranks", ["2", "4", "tp 2", "2 x 2"])
def test_training_is_that_of_one_process(material, runs, ranks):
    """Loss, gradient norm and weights after 3 steps to 1e-6; only the first rank writes.

    Micro-batches have at most 70 or 200 tokens, the last step has fewer rows than 4 ranks can
    share, and gradients are clipped. transformers loads what was written.
    """
    folder, histories = runs
    alone = folder / ("1 qwen2" if ranks == "tp 2" else "1")
    ours = folder / ranks
    before = material / ("qwen2" if ranks == "tp 2" else "qwen3")
    assert gap(before, alone) > 0.05
    assert gap(alone, ours) <= 1e-6
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in alone.iterdir())
    for history in histories[ranks]:
        for found, wanted in zip(history, histories[alone.name], strict=True):
            assert found["n_trained"] == wanted["n_trained"] and wanted["grad_norm"] > 1
            for value in ("loss", "grad_norm"):
                assert found[value] == pytest.approx(wanted[value], rel=1e-6)
    assert [row["step"] for row in read_rows(ours / "log.jsonl")] == [1, 2, 3]
    loaded = AutoModelForCausalLM.from_pretrained(ours)
    assert all(torch.equal(p, weights_of(ours)[key]) for key, p in loaded.named_parameters())
    assert AutoTokenizer.from_pretrained(ours).get_vocab() == TOKENIZER.get_vocab()
    configs = [json.loads((path / "config.json").read_text()) for path in (ours, alone)]
    assert configs[0] == configs[1]


def test_bf16_recomputing_and_offloading_in_shards(material, runs):
    """The first loss: in bfloat16 within 2% of float32 but not equal, equal if recomputing.

    A model in several files is read again, straight into shards in host memory, and by
    transformers: the first loss is that of the whole model.
    """
    folder, histories = runs
    written = folder / "recompute"
    assert len(list(written.glob("model-0000?-of-0000?.safetensors"))) > 3
    assert not (written / "model.safetensors").exists()
    again = AutoModelForCausalLM.from_pretrained(written).eval()
    tokenizer = AutoTokenizer.from_pretrained(written)
    total, n = 0.0, 0
    texts = [
        sft.FORMATS["think"].training_ids(tokenizer, row)[0]
        for row in read_rows(material / "rows.jsonl")
    ]
    first_step = sft.plan_steps([len(ids) for ids in texts], 1, 5, 0, 42)[0]
    for i in first_step:
        with torch.no_grad():
            logp = again(torch.tensor([texts[i]])).logits[0, :-1].log_softmax(1)
        total -= logp[range(len(logp)), texts[i][1:]].sum().item()
        n += len(logp)
    for bf16, recomputed, continued in histories["others"]:
        assert 1e-5 < abs(bf16["loss"] / histories["1"][0]["loss"] - 1) < 0.02
        assert recomputed["loss"] == pytest.approx(histories["1 qwen2"][0]["loss"], rel=1e-6)
        assert continued["loss"] == pytest.approx(total / n, rel=1e-5)


def test_what_shards_refuse(runs):
    """Every rank ends with one line that names what is wrong."""
    wanted = [
        "lr: 0.01 there, 0.5 here",
        "--muon-lr needs whole matrices",
        "--tp 3: does not divide 2 processes",
        r"no head: the weights lack lm_head.weight; .*save_original_format=False",
        r"other shape: .* is \[149, 32\], not \[149, 64\]",
        "no model: no such model directory",
    ]
    for refused in runs[1]["refused"]:
        assert len(refused) == len(wanted)
        for line, message in zip(refused, wanted):
            assert re.search(message, line) and "\n" not in line


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_are_one_program(material, monkeypatch, recompute):
    """Both layers are traced once, not each anew (PyTorch gives up after 8), also if recomputed.

    The traced program, run as it is, gives the same log-probability to the bit.
    """
    traced, rows = [], [[5, 3, 8, 6, 4], [7, 9, 2, 5]]

    def program(graph, inputs):
        traced.append(graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=program))
    model, again = (
        sharding.load_to_train(
            str(material / "qwen2"),
            processes.join_ranks(),
            recompute=recompute,
            compiled=compiled,
        )[0]
        for compiled in (False, True)
    )
    wanted, found = (models.score(m.train(), packing.pack(rows)).logp for m in (model, again))
    assert len(traced) == 1 and torch.equal(wanted, found)


def test_held_out_loss_of_two_ranks(material, tmp_path):
    """The same number on both as in one process, whoever has which of the 13 rows."""
    more = dict(eval_data=str(material / "rows.jsonl"), micro_batch_tokens=70, eval_every=2)
    (alone,) = by_sgd([settings_of(material, tmp_path / "one", **more)])
    wanted = [row["eval_loss"] for row in alone if "eval_loss" in row]
    assert len(wanted) == 2 and wanted[0] > 1.01 * wanted[1]
    for (found,) in ranks_run(by_sgd, [settings_of(material, tmp_path / "two", **more)]):
        assert [row["eval_loss"] for row in found if "eval_loss" in row] == pytest.approx(
            wanted, rel=1e-5
        )
