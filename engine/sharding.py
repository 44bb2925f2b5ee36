"""Several processes, started by torchrun: who does what; a model in shards to train, in parts to generate; checkpoints.

    torchrun --nproc-per-node 8 -- sft.py ... [--tp 2]

Training is sharded by PyTorch's own tools over a mesh of (data parallel, tensor parallel) ranks:

    data parallel    FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277; Rajbhandari et al. 2019, "ZeRO-3"): every rank
                     keeps its share of each weight, gradient and optimizer state, gathers a layer's weights when
                     that layer computes, and sees its own rows
    tensor parallel  `parallelize_module` (Shoeybi et al. 2019, "Megatron-LM", §3): neighbouring ranks share the rows
                     and split the matrices and the vocabulary

Weights and Adam's moments are float32 in shards; matrix products are in bfloat16 where asked (MixedPrecisionPolicy).
No rank ever holds the whole model: weights are read from safetensors straight into shards, and written back one whole
parameter at a time. One process without torchrun is one plain model, to which none of this happens.
"""

import json
import logging
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

import kernels
from engine import attention, loading, modules
from engine import model as models
from engine.processes import Ranks, barrier
from engine.rows import BadInput
from engine.tensor_parallel import _cuts

FILE_BYTES = 5e9  # of one safetensors file of a large model or, of all ranks, a checkpoint

# 2-D shards take two gathers: known
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


# ---------------------------------------------------------------- training: a model in shards


class Root(torch.nn.Module):
    """What FSDP gathers the embeddings, the last norm and the head for: all that uses them runs inside its forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, work, *arguments):
        return work(self.model, *arguments)


class Shards(NamedTuple):
    """Hangs on a sharded model as model.shards."""

    root: Root
    # name -> this rank's part of the weight, sharing its memory: what an optimizer steps
    parts: dict
    halves: set  # names of weights whose gradient is summed over the ranks of tp
    ranks: Ranks


def load(path, ranks, bf16=False, offload=False, recompute=False, compiled=False):
    """A model directory or hub name -> (model to train, float32, in shards under torchrun, tokenizer).

    bf16: shards are gathered and computed with in bfloat16 (one plain model does that by autocast). offload: shards and
    Adam's state live in host memory. recompute: only the input of each layer is kept for the backward pass.
    compiled: torch.compile of each layer. Raises BadInput.
    """
    if ranks.mesh is None:
        model, tokenizer = loading.load(path, ranks.device)
    else:
        tokenizer = loading.load_tokenizer(path)
        model, folder = _without_weights(path)
    # inside the checkpoint, of which dynamo compiles nothing
    for layer in models.layers(model) if compiled else ():
        layer.forward = torch.compile(layer.forward, dynamic=True)
    for layer in models.layers(model) if recompute else ():
        layer.forward = partial(
            torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False
        )
    halves = (
        _split_layers(model, ranks, path)
        if ranks.mesh is not None and ranks.mesh["tp"].size() > 1
        else set()
    )
    if ranks.mesh is None:
        return model, tokenizer

    buffers = dict(model.named_buffers())
    options = dict(
        mesh=ranks.mesh["dp"],
        offload_policy=CPUOffloadPolicy(torch.cuda.is_available()) if offload else OffloadPolicy(),
        mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        if bf16
        else MixedPrecisionPolicy(),
    )
    for layer in models.layers(model):
        fully_shard(layer, **options)
    root = fully_shard(Root(model), **options)
    root.to_empty(device="cpu" if offload else ranks.device)
    for name, _ in model.named_buffers():  # to_empty has emptied the rotary frequencies too
        module, _, last = name.rpartition(".")
        model.get_submodule(module)._buffers[last] = buffers[name].to(ranks.device)
    _read_shards(model, folder, path)
    parts = {
        name: torch.nn.Parameter(p.detach().to_local()) for name, p in model.named_parameters()
    }
    # the root holds the model: no submodule
    object.__setattr__(model, "shards", Shards(root, parts, halves, ranks))
    root(loading.check_forward, path)
    root.reshard()
    return model.eval(), tokenizer


class _EmptyOnMeta(TorchFunctionMode):
    """torch.empty makes tensors without memory: a model under it has no weights, but its buffers and norms."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        return function(
            *arguments, **(options or {}) | ({"device": "meta"} if function is torch.empty else {})
        )


def _without_weights(path):
    """-> (model whose matrices take no memory, the folder of its weights)."""
    with loading.refusing(path):
        folder = Path(path)
        if not folder.exists():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(path, allow_patterns=["*.json", "model*.safetensors"]))
        config = AutoConfig.from_pretrained(folder)
        loading.without_dropout(config)
        with _EmptyOnMeta():
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="packed"
            )
        modules.fuse_norms(model)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, folder


@torch.no_grad()
def _read_shards(model, folder, path):
    """Fill this rank's part of every weight from the safetensors files, reading no more than that part."""
    index = folder / "model.safetensors.index.json"
    try:
        files = (
            json.loads(index.read_text())["weight_map"]
            if index.is_file()
            else dict.fromkeys(
                safe_open(folder / "model.safetensors", "pt").keys(), "model.safetensors"
            )
        )
        for name, p in model.named_parameters():
            if name not in files:
                raise BadInput(
                    f"{path}: the weights lack {name}; if a file has it by another name (experts one by one), "
                    "load them in one process and save_pretrained(..., save_original_format=False)"
                )
            with safe_open(folder / files[name], "pt") as file:
                whole = file.get_slice(name)
                if list(p.shape) != whole.get_shape():
                    raise BadInput(
                        f"{path}: {name} is {whole.get_shape()}, not {list(p.shape)} as config.json says"
                    )
                p.to_local().copy_(whole[_region(p)])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise (
            error
            if isinstance(error, BadInput)
            else BadInput(f"{path}: unreadable weights ({error})")
        ) from error


def _region(p):
    """Which part of the whole weight a DTensor holds here: a slice for each dimension."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, offsets = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return tuple(slice(start, start + size) for size, start in zip(sizes, offsets))


def _split_layers(model, ranks, path):
    """Tensor parallelism by transformers' plan for the family, and of embedding and head by the vocabulary -> the names of
    the weights between two split matrices (norms of queries and keys): each rank's gradient of them is of its heads."""
    ways = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    found = _cuts(model, ranks.mesh["tp"].size(), path)
    plan = {f"{model.base_model_prefix}.{layer}": ways[how]() for layer, how in found.items()}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    names = {id(module): name for name, module in model.named_modules()}
    plan[names[id(model.get_input_embeddings())]] = RowwiseParallel(input_layouts=Replicate())
    plan[names[id(model.get_output_embeddings())]] = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(model, ranks.mesh["tp"], plan)
    if tied:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    if not any(layer.endswith("q_proj") for layer in found):
        return set()
    model.attention_parts = ranks.mesh["tp"].size()
    return {name for name, _ in model.named_parameters() if re.search(r"\.[qk]_norm\.", name)}


def compute(model, work):
    """work(model), a tensor or a tuple that begins with one, where the weights of head, last norm and embeddings are whole:
    a sharded model has them inside its forward pass alone."""
    shards = getattr(model, "shards", None)
    if shards is None:
        return work(model)
    result = shards.root(work)
    if not (result[0] if isinstance(result, tuple) else result).requires_grad:
        shards.root.reshard()  # no backward pass will come, after which FSDP has shards again
    return result


def score(model, batch):
    """Log-probability (N,) of each scored token of a Batch, with gradient."""

    def work(model):
        head = model.get_output_embeddings().weight
        if not isinstance(head, DTensor):
            return models.score(model, batch).logp
        hidden = models.hidden_states(
            model, batch.ids, batch.positions, attention.Packed(batch.lengths, batch.ids.device)
        )
        return kernels.token_stats(
            hidden[batch.where],
            kernels.Head(head.to_local(), models.softcap(model), models.logit_scale(model)),
            batch.target,
            offset=_region(head)[0].start,
            group=model.shards.ranks.group,
        ).logp

    return compute(model, work)


def ranks_of(model):
    """The Ranks that a model is sharded over; of a plain one, of this process alone."""
    return model.shards.ranks if hasattr(model, "shards") else Ranks(str(models.head(model).device))


def parts(model):
    """name -> what an optimizer is to step: the parameters, of a sharded model this rank's part of each."""
    shards = getattr(model, "shards", None)
    return dict(model.named_parameters()) if shards is None else shards.parts


def clip_gradients(model, clip):
    """Scale the gradient to the norm `clip` where it is longer, as torch's clip_grad_norm_ -> its norm, over all shards.

    Of a sharded model the gradient moves to `parts`.
    """
    shards = getattr(model, "shards", None)
    if shards is None:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    square, world = (
        torch.zeros((), dtype=torch.float64, device=shards.ranks.device),
        dist.get_world_size(),
    )
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        part = shards.parts[name]
        part.grad = p.grad.to_local()
        if name in shards.halves:
            dist.all_reduce(part.grad, group=shards.ranks.group)
        # Each of the n different parts of a weight is on world / n ranks. (_StridedShard is no Shard: ask what it is not.)
        n_parts = 1
        for size, placement in zip(p.device_mesh.shape, p.placements):
            n_parts *= 1 if placement.is_replicate() else size
        square += part.grad.double().square().sum().to(square.device) * (n_parts / world)
    dist.all_reduce(square)
    norm = square.sqrt().item()
    for part in shards.parts.values():
        if part.grad is not None and norm > clip:
            part.grad.mul_(clip / (norm + 1e-6))
    return norm


def save(model, tokenizer, path):
    """As loading.save; of a sharded model one whole parameter at a time is put together, for the leader to write."""
    shards = getattr(model, "shards", None)
    if shards is None:
        return loading.save(model, tokenizer, path)
    leads, part = shards.ranks.leads, loading.saving(path) if shards.ranks.leads else None
    tensors, n_bytes, files = {}, 0, []
    for name, p in model.named_parameters():
        whole = DTensor.from_local(
            p.detach().to_local().to(shards.ranks.device),
            p.device_mesh,
            p.placements,
            shape=p.shape,
            stride=p.stride(),
        ).full_tensor()
        if not leads:
            continue
        if tensors and n_bytes + whole.nbytes > FILE_BYTES:
            files.append(_write_file(part, len(files), tensors))
            tensors, n_bytes = {}, 0
        tensors[name], n_bytes = whole.cpu().contiguous(), n_bytes + whole.nbytes
    if leads:
        files.append(_write_file(part, len(files), tensors))
        if len(files) == 1:
            (part / "part-0").rename(part / "model.safetensors")
        else:
            final = [
                f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
            ]
            for i, name in enumerate(final):
                (part / f"part-{i}").rename(part / name)
            weight_map = {key: name for keys, name in zip(files, final) for key in keys}
            (part / "model.safetensors.index.json").write_text(
                json.dumps(
                    {
                        "metadata": {"total_size": sum(p.numel() * 4 for p in model.parameters())},
                        "weight_map": weight_map,
                    }
                )
            )
        model.config.architectures, model.config.dtype = [type(model).__name__], torch.float32
        model.config.save_pretrained(part)
        model.generation_config.save_pretrained(part)
        loading.publish(part, tokenizer, path)
    barrier(shards.ranks)


def _write_file(part, number, tensors):
    save_file(tensors, part / f"part-{number}", metadata={"format": "pt"})
    return list(tensors)
