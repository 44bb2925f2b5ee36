"""LoRA: train two thin matrices beside each matrix of a model, and leave the model as it is.

    y = W x + (alpha / r) B A x,    W (outputs, inputs) frozen,  A (r, inputs),  B (outputs, r)

Source: Hu et al. 2021 (arXiv 2106.09685), §4.1. B begins as zeros, so training begins with the
model itself. A begins as PEFT's does: uniform within 1/√inputs. As with PEFT's "all-linear", every
linear layer of every block gets an adapter; the output head and the embedding get none.

What it saves: gradients and Adam's moments are for A and B only, a hundredth of the weights. Nobody
updates W, so it needs no float32 master copy: with --dtype bf16 it is loaded and kept in bfloat16,
2 bytes a number. A and B are float32. An update of A and B is never rounded to W's precision, since
sampling computes W x and B A x apart, too: added into bfloat16, a small B A would be lost.

In reinforcement learning the KL needs the model of the start. That is this one while the adapters
are `off`: no second model in memory.
"""

import json
import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from engine import model as models
from engine.rows import BadInput

NAMES = ("lora_A", "lora_B")


class Shape(NamedTuple):
    """What adapters are made from."""

    rank: int
    alpha: float
    seed: int  # of A


def shape_of(cfg):
    """The adapters that settings ask for, or None without --lora."""
    return Shape(cfg.lora, cfg.lora_alpha, cfg.seed) if cfg.lora else None


class Adapters:
    """The adapters of a model, kept as model.lora."""

    def __init__(self, shape, layers):
        self.shape = shape
        self.scale = shape.alpha / shape.rank
        self.layers = layers  # {name: torch.nn.Linear with lora_A and lora_B}
        self.are_on = True

    def add(self, layer, inputs, output):
        """Forward hook of a layer: its output, with the adapter's."""
        if not self.are_on:
            return output
        return output + self.scale * F.linear(F.linear(inputs[0], layer.lora_A), layer.lora_B)


# ---------------------------------------------------------------- before training


def attach(model, shape, dtype=torch.float32):
    """Freeze a model and give every linear layer of its blocks an adapter, B being zero.

    dtype: of A and B. Raises BadInput for a model without such layers.
    """
    model.requires_grad_(False)
    blocks = list(models.layers(model))
    inside = {id(module) for block in blocks for module in block.modules()}
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module) in inside
    }
    if not layers:
        raise BadInput(f"--lora: {type(model).__name__} has no torch.nn.Linear in its layers")
    model.lora = Adapters(shape, layers)
    for layer in layers.values():
        n_outputs, n_inputs = layer.weight.shape
        for name, size in zip(NAMES, ((shape.rank, n_inputs), (n_outputs, shape.rank))):
            zeros = torch.zeros(size, dtype=dtype, device=layer.weight.device)
            layer.register_parameter(name, torch.nn.Parameter(zeros))
        # Before other hooks: where a layer is cut over ranks, one of them sums its outputs.
        layer.register_forward_hook(model.lora.add, prepend=True)


@torch.no_grad()
def draw(model, fill=torch.Tensor.copy_):
    """Draw every A, the same for any number of ranks. fill(parameter, values) puts it in place."""
    generator = torch.Generator().manual_seed(model.lora.shape.seed)
    for layer in model.lora.layers.values():
        rank, n_inputs = layer.lora_A.shape
        bound = 1 / math.sqrt(n_inputs)
        values = torch.empty(rank, n_inputs).uniform_(-bound, bound, generator=generator)
        fill(layer.lora_A, values)
        fill(layer.lora_B, torch.zeros(layer.lora_B.shape))


# ---------------------------------------------------------------- in use


@contextmanager
def off(model):
    """Compute what the model did before training. Nothing changes for a model without adapters."""
    adapters = getattr(model, "lora", None)
    if adapters is None:
        yield
        return
    before, adapters.are_on = adapters.are_on, False
    try:
        yield
    finally:
        adapters.are_on = before


# ---------------------------------------------------------------- after training


def is_part(name):
    """Whether a parameter of this name is an adapter's, and not the model's own."""
    return name.rpartition(".")[2] in NAMES


@torch.no_grad()
def merged(model, name, weight, whole=torch.Tensor.detach):
    """A parameter as a model without adapters needs it, in float32: W + (alpha / r) B A.

    weight: the parameter `name`. whole: puts A and B together, where they are cut over ranks.
    """
    path, _, kind = name.rpartition(".")
    layer = model.lora.layers.get(path)
    weight = weight.float()
    if layer is None or kind != "weight":
        return weight
    change = whole(layer.lora_B).float() @ whole(layer.lora_A).float()
    return weight + model.lora.scale * change


@torch.no_grad()
def tensors_of(model, whole=torch.Tensor.detach):
    """A and B of every layer by PEFT's names -> {name: tensor in host memory}."""
    return {
        f"base_model.model.{path}.{name}.weight": whole(getattr(layer, name)).cpu().contiguous()
        for path, layer in model.lora.layers.items()
        for name in NAMES
    }


def save(tensors, shape, base, folder):
    """Write adapters as PEFT's files into a folder. tensors: see tensors_of. base: --model.

    The configuration comes last, so that a folder with one is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "adapter_model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors writes files that only their owner can read
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=1) + "\n", encoding="utf-8"
    )
