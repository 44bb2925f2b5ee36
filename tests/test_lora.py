"""engine/lora.py: adapters against explicit products W + B A, PEFT's files, and runs that train only them."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from ranks import BASE, by_sgd, cut_short, gap, make_material, ranks_run, settings_of, weights_of
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import each_family, forward, sequences  # noqa: F401
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import generate
import grpo
import sft
from data import tiny
from engine import checkpoints, loading, lora, sharding
from engine import model as models
from engine.rows import BadInput, read_rows, write_rows

SHAPE = lora.Shape(rank=3, alpha=6.0, seed=1)  # the scale is 2


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("lora"))


def adapted(model, trained=True):
    """A copy with adapters; trained: with a B that is not zero."""
    model = copy.deepcopy(model)
    lora.attach(model, SHAPE)
    lora.draw(model)
    if trained:
        generator = torch.Generator().manual_seed(2)
        for layer in model.lora.layers.values():
            layer.lora_B.data.normal_(std=0.1, generator=generator)
    return model


# ---- the layer


def test_training_begins_with_the_model_itself(model):
    """Bit by bit, with B = 0. A is not 0: it is uniform within 1/√inputs, as PEFT draws it."""
    adapters = adapted(model, trained=False)
    assert torch.equal(forward(adapters, sequences()), forward(model, sequences()))
    layer = adapters.lora.layers["model.layers.0.mlp.down_proj"]
    assert layer.lora_A.shape == (3, 44) and layer.lora_B.shape == (32, 3)
    assert 0.8 / 44**0.5 < layer.lora_A.abs().max() <= 1 / 44**0.5
    assert len(adapters.lora.layers) == 3 * 7  # q, k, v, o, gate, up, down; not the head


def test_values_and_gradients_of_an_explicit_product(model):
    """W + 2 B A in the place of every matrix, by autograd, in double precision."""
    adapters = adapted(model).double()
    names = list(adapters.lora.layers)
    factors = {
        name: (
            layer.lora_A.detach().clone().requires_grad_(),
            layer.lora_B.detach().clone().requires_grad_(),
        )
        for name, layer in adapters.lora.layers.items()
    }

    class Explicit(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = copy.deepcopy(model).double()

        def forward(self):
            return forward(self.m, sequences())

    explicit = Explicit()
    replaced = {
        f"m.{name}.weight": explicit.m.get_submodule(name).weight.detach() + 2 * (b @ a)
        for name, (a, b) in factors.items()
    }
    wanted = functional_call(explicit, replaced, ())
    found = forward(adapters, sequences())
    assert (found - forward(model.double(), sequences())).abs().max() > 0.1
    model.float()
    assert (found - wanted).abs().max() < 1e-10
    direction = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3)).double()
    (found * direction).sum().backward()
    (wanted * direction).sum().backward()
    for name in names:
        layer = adapters.lora.layers[name]
        for ours, theirs in zip((layer.lora_A, layer.lora_B), factors[name]):
            assert theirs.grad.abs().max() > 1e-3
            assert (ours.grad - theirs.grad).abs().max() < 1e-9 * theirs.grad.abs().max()
    trained = {name for name, p in adapters.named_parameters() if p.grad is not None}
    assert trained == {f"{name}.{kind}" for name in names for kind in lora.NAMES}


def test_off_is_the_model_before(model):
    adapters = adapted(model)
    with lora.off(adapters), lora.off(adapters):
        assert torch.equal(forward(adapters, sequences()), forward(model, sequences()))
    assert not torch.allclose(forward(adapters, sequences()), forward(model, sequences()))
    with lora.off(model):  # has none
        pass


# ---- what is saved


def test_saved_models_compute_the_same(material, tmp_path):
    """The merged model to 1e-6, and what PEFT's files say by hand: W + alpha/r B A."""
    base, tokenizer = loading.load(str(material / "qwen2"))
    model = adapted(base)
    sharding.save(model, tokenizer, tmp_path)
    sharding.save_adapters(model, "a base", tmp_path / "adapter")
    merged, _ = loading.load(str(tmp_path))
    rows = [[3 + (i * i) % 140 for i in range(n)] for n in (40, 7)]
    wanted = forward(model, rows)
    assert (forward(merged, rows) - wanted).abs().max() < 1e-6 * wanted.abs().max()
    assert (forward(base, rows) - wanted).abs().max() > 1e-2

    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    assert config["base_model_name_or_path"] == "a base" and scale == 2
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in factors
    before, after = weights_of(material / "qwen2"), weights_of(tmp_path)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        path = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{path}.lora_A.weight" in factors:
            a, b = factors.pop(f"{path}.lora_A.weight"), factors.pop(f"{path}.lora_B.weight")
            weight = weight + scale * b @ a
        assert (weight - after[name]).abs().max() < 1e-6
    assert not factors
    # transformers, where PEFT is installed, would load an adapter that it finds in --out itself
    assert not (tmp_path / "adapter_config.json").exists()


def test_peft_reads_the_files(material, tmp_path):
    """PEFT's own model has the logits of our merged one. PEFT is no requirement of the project."""
    peft = pytest.importorskip("peft")
    base, tokenizer = loading.load(str(material / "qwen3"))
    model = adapted(base)
    sharding.save(model, tokenizer, tmp_path)
    sharding.save_adapters(model, str(material / "qwen3"), tmp_path / "adapter")
    ids = torch.arange(3, 60)[None]
    theirs = AutoModelForCausalLM.from_pretrained(material / "qwen3")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted, found = theirs(ids).logits, ours(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(material / "qwen3")(ids).logits
    assert (found - wanted).abs().max() < 1e-5 and (plain - wanted).abs().max() > 0.1


# ---- what it costs


def test_flops_of_frozen_weights(model):
    """Against PyTorch's count: the backward pass through frozen weights has one product, not two."""
    ids = torch.arange(2, 34)[None]
    for trained in (model, adapted(model)):
        trained.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            trained(ids, labels=ids, use_cache=False).loss.backward()
        trained.set_attn_implementation("packed")
        # PyTorch computes the whole square of attention scores, of which half is masked.
        width = models.head_width(model.config)
        wanted = counter.get_total_flops() - 3 * 2 * 3 * 4 * width * 32**2
        if trained is not model:
            # The inputs of the first layer's q, k and v have no gradient, which is not looked at.
            wanted += 2 * 32 * 32 * (4 + 2 + 2) * width
        assert models.training_flops(trained, [32]) == pytest.approx(wanted, rel=0.02)


# ---- runs of sft.py


def test_a_run_trains_adapters_only(material, tmp_path):
    """The loss falls, a checkpoint has A and B alone, a killed run continues to the bit."""
    more = dict(lora=4, lr=2e-2, epochs=4, save_every=3)
    history = sft.main(settings_of(material, tmp_path / "whole", **more))
    assert len(history) == 12 and history[-1]["loss"] < 0.85 * history[0]["loss"]
    cut_short(settings_of(material, tmp_path / "cut", **more), at=5)
    (saved,) = checkpoints.saved_checkpoints(tmp_path / "cut")
    names = set()
    for file in saved.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names |= set(tensors.keys())
    weights = {name for name in names if name.startswith("weight/")}
    assert len(weights) == 2 * 7 * 2 and all(lora.is_part(name) for name in weights)
    assert all(lora.is_part(name) for name in names if name.startswith("optimizer"))
    rest = sft.main(settings_of(material, tmp_path / "cut", **more))
    assert [row["step"] for row in rest] == list(range(4, 13))
    assert gap(tmp_path / "whole", tmp_path / "cut") == 0
    ours, theirs = (
        load_file(tmp_path / run / "adapter" / "adapter_model.safetensors")
        for run in ("whole", "cut")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sft.main(settings_of(material, tmp_path / "cut", **more)) == []  # it is complete
    # weights that have no adapter are those of the base
    before, after = weights_of(material / "qwen3"), weights_of(tmp_path / "whole")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2 * 7 and all("_proj" in name for name in changed)


def test_the_frozen_model_is_in_bfloat16(material, tmp_path):
    """With --dtype bf16: 2 bytes a weight, A and B in float32; what is saved is not rounded again."""
    cfg = settings_of(material, tmp_path / "out", lora=4, lr=1e-2, dtype="bf16", epochs=2)
    history = sft.main(cfg)
    assert history[-1]["loss"] < history[0]["loss"]
    ranks = sharding.Ranks("cpu")
    model, _ = sharding.load_to_train(cfg.model, ranks, bf16=True, adapters=SHAPE)
    kinds = {(lora.is_part(name), p.dtype) for name, p in model.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    before, after = weights_of(material / "qwen3"), weights_of(tmp_path / "out")
    factors = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{kind}.weight"] for kind in "AB")
    wanted = before[f"{name}.weight"].bfloat16().float() + 32 / 4 * b @ a
    assert (b @ a).abs().max() > 1e-3
    assert torch.allclose(after[f"{name}.weight"], wanted, rtol=0, atol=1e-6)


def test_ranks_in_bfloat16(material, tmp_path):
    """Frozen shards in bfloat16, adapters in float32: near to one process, rounding apart."""
    cfg = settings_of(material, tmp_path / "one", lora=3, lr=0.1, dtype="bf16")
    (history,) = by_sgd([cfg])
    for (found,) in ranks_run(by_sgd, [dataclasses.replace(cfg, out=str(tmp_path / "two"))]):
        for ours, theirs in zip(history, found, strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=5e-3)
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=5e-2)
    before = weights_of(material / "qwen3")
    ours, theirs = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, x in before.items():
        if "_proj" in name:
            change, other = ours[name] - x.bfloat16(), theirs[name] - x.bfloat16()
            assert change.norm() > 0 and (change - other).norm() < 0.1 * change.norm()
        else:
            assert torch.equal(theirs[name], x.bfloat16().float())


@pytest.mark.parametrize("more", [{}, {"recompute": True, "adam_dtype": "bf16"}])
def test_ranks_train_the_same_adapters(material, tmp_path, more):
    """Two ranks in shards, against one process."""
    cfg = settings_of(material, tmp_path / "one", lora=3, lr=0.1, **more)
    ((history,),) = [by_sgd([cfg])]
    found = ranks_run(by_sgd, [dataclasses.replace(cfg, out=str(tmp_path / "two"))])
    for (theirs,) in found:
        for ours, other in zip(history, theirs, strict=True):
            for key in ("loss", "grad_norm"):
                assert other[key] == pytest.approx(ours[key], rel=2e-5)
    assert gap(tmp_path / "one", tmp_path / "two") < 1e-6
    assert gap(tmp_path / "one", material / "qwen3") > 1e-2
    files = [tmp_path / out / "adapter" / "adapter_model.safetensors" for out in ("one", "two")]
    ours, theirs = map(load_file, files)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in ours)


@pytest.mark.parametrize("more", [{"lora": 2}, {}])
@pytest.mark.parametrize("n", [1, 2])
def test_the_type_of_the_saved_weights(material, tmp_path, more, n):
    """--save-dtype bf16 rounds what fp32 saves; config.json says so, and generate.py takes it."""
    cfg = settings_of(material, tmp_path / "fp32", lr=0.1, **more)
    half = dataclasses.replace(cfg, out=str(tmp_path / "bf16"), save_dtype="bf16")
    if n == 1:
        by_sgd([cfg, half])
    else:
        ranks_run(by_sgd, [cfg, half])
    whole, rounded = weights_of(cfg.out), weights_of(half.out)
    assert whole.keys() == rounded.keys()
    assert {x.dtype for x in whole.values()} == {torch.float32}
    assert all(torch.equal(rounded[name], x.bfloat16()) for name, x in whole.items())
    for out, name in ((cfg.out, "float32"), (half.out, "bfloat16")):
        assert json.loads((Path(out) / "config.json").read_text())["dtype"] == name
    rows = tmp_path / "problems.jsonl"
    write_rows(rows, [{"id": "a", "question": "compare 1 2"}])
    completions = tmp_path / "completions.jsonl"
    generate.main(
        generate.Config(
            model=half.out, data=str(rows), out=str(completions), format="think", max_tokens=4
        )
    )
    assert len(read_rows(completions)) == 1


@pytest.mark.parametrize(
    "more, words",
    [
        (dict(tp=2), "--tp"),
        (dict(muon_lr=0.1), "--muon-lr"),
        (dict(lora=-1), "--lora -1"),
        (dict(lora_alpha=0.0), "--lora-alpha 0.0"),
    ],
)
def test_refusals(material, tmp_path, more, words):
    with pytest.raises(BadInput) as refused:
        sft.main(settings_of(material, tmp_path / "out", **{"lora": 2} | more))
    assert words in str(refused.value) and "\n" not in str(refused.value)


# ---- runs of grpo.py


def config_of_rl(path, out, **more):
    write_rows(path / "train.jsonl", tiny.problems("math", 9, 9, "train"))
    settings = dict(
        steps=3,
        prompts_per_step=3,
        group_size=4,
        max_tokens=24,
        reward="random:0.5",
        lr=5.0,
        clip=100.0,
        lora=3,
    )
    return grpo.Config(
        **{"model": BASE, "data": str(path / "train.jsonl"), "out": str(path / out)}
        | settings
        | more
    )


def test_rl_against_the_model_of_the_start(tmp_path, monkeypatch):
    """The first ratio is 1 and the first KL 0; later the policy is away from its start.

    The reference is the policy without adapters: no second model is loaded.
    """
    monkeypatch.setattr(grpo, "load_beside", None)
    cfg = config_of_rl(tmp_path, "out", kl="k2", beta=0.05, updates_per_rollout=2)
    ((history,),) = [by_sgd([cfg], grpo)]
    assert all(row["ratio_first"] < 1e-5 for row in history)
    assert history[0]["kl"] < 1e-9 and history[-1]["kl"] > 1e-5
    assert gap(tmp_path / "out", BASE) > 1e-4
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()


def test_rl_with_a_reference_in_a_file_is_the_same(tmp_path):
    """--reference takes a second model: of the same weights, the run is the same."""
    more = dict(kl="k3", beta=0.1, kl_in="loss")
    first, second = by_sgd(
        [
            config_of_rl(tmp_path, "off", **more),
            config_of_rl(tmp_path, "file", reference=BASE, **more),
        ],
        grpo,
    )
    for ours, theirs in zip(first, second, strict=True):
        for key in ("loss", "kl", "grad_norm", "reward"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-8)
    assert gap(tmp_path / "off", tmp_path / "file") < 1e-6


def test_rl_in_bfloat16_samples_what_it_trains(tmp_path):
    """Adapters are not lost in the rounding of W: sampler and trainer stay as near as at the start."""
    history = grpo.main(config_of_rl(tmp_path, "out", dtype="bf16", lr=0.03))
    assert history[0]["kl"] == 0 and history[-1]["kl"] > 0.01
    assert all(row["dlogp"] < 0.01 for row in history)


@pytest.mark.parametrize("n, tp", [(2, 1), (2, 2)])
def test_rl_of_several_ranks(tmp_path, n, tp):
    """In shards, sampled by whole copies or by one that is cut over two ranks."""
    more = dict(kl="k1", beta=0.1, kl_in="reward", adv_std="none")
    (wanted,) = by_sgd([config_of_rl(tmp_path, "one", **more)], grpo)
    cfg = config_of_rl(tmp_path, "many", tp=tp, **more)
    for (history,) in ranks_run(by_sgd, [cfg], grpo, n=n):
        for ours, theirs in zip(history, wanted, strict=True):
            for key in ("reward", "loss", "kl", "grad_norm"):
                assert ours[key] == pytest.approx(theirs[key], rel=2e-4, abs=2e-6), key
    assert gap(tmp_path / "one", tmp_path / "many") < 1e-5
    assert gap(tmp_path / "one", BASE) > 1e-3


def test_a_reference_that_follows_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--ref-refresh: with --lora"):
        grpo.main(config_of_rl(tmp_path, "out", ref_refresh=2))
