"""Inference over several GPUs: a part of each matrix on every rank, as plain tensors."""

import re

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from engine import loading
from engine.rows import BadInput

# ---------------------------------------------------------------- inference: a part of each matrix, as plain tensors


def load_split(path, ranks, dtype):
    """models.load for generate.py: with ranks.group, this rank's part of a model that these ranks share."""
    if ranks.group is None:
        return loading.load(path, ranks.device, dtype)
    # one after the other: each reads the whole before it keeps its part
    refused = [None] * dist.get_world_size(ranks.group)
    for rank in dist.get_process_group_ranks(ranks.group):
        if rank == dist.get_rank():
            try:
                model, tokenizer = loading.read(path, dtype)
                split(model, ranks.group, path)
            except BadInput as error:  # the others must hear of it, or they would wait for this one
                refused[0] = str(error)
        dist.barrier(ranks.group)
    dist.all_gather_object(refused, refused[0], ranks.group)
    if any(refused):
        raise BadInput(next(filter(None, refused)))
    model = model.to(ranks.device).eval()
    loading.check_forward(model, path)
    return model, tokenizer


@torch.no_grad()
def copy_weights(model, other):
    """The weights of a model in shards to one of load_split, whole or in parts; collective. A checksum over all ranks of
    both proves it: RuntimeError if the copy differs in a bit."""
    ranks = model.shards.ranks
    group = getattr(other, "group", None)
    rank, size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    cuts = _cuts(other, size, "the model") if size > 1 else {}
    places, sums = (
        dict(other.named_parameters()),
        torch.zeros(2, dtype=torch.int64, device=ranks.device),
    )
    for name, p in model.named_parameters():
        mine, n_parts, local = places[name], 1, p.to_local().detach()
        for mesh_size, placement in zip(p.device_mesh.shape, p.placements):
            n_parts *= 1 if placement.is_replicate() else mesh_size
        sums[0] += n_parts * _checksum(local.to(ranks.device, mine.dtype))
        whole = DTensor.from_local(
            local.to(ranks.device),
            p.device_mesh,
            p.placements,
            run_check=False,
            shape=p.shape,
            stride=p.stride(),
        ).full_tensor()
        layer, _, kind = name.removeprefix(f"{other.base_model_prefix}.").rpartition(".")
        how, n_parts = cuts.get(layer), size
        if how == "rowwise" and kind == "bias":
            mine.copy_(whole if rank == 0 else torch.zeros_like(whole))  # it is added once
        elif how is not None:
            mine.copy_(whole.chunk(size, int(how == "rowwise"))[rank])
        else:
            mine.copy_(whole)
            n_parts = 1
        sums[1] += n_parts * _checksum(mine)
    dist.all_reduce(sums)  # each of n parts is on world / n ranks: both are world · the sum
    if sums[0] != sums[1]:
        raise RuntimeError("the weights that sample are not those that are trained")


def _checksum(x):
    """The sum of a tensor's numbers read as integers, modulo 2^64."""
    return (
        x.contiguous()
        .view({2: torch.int16, 4: torch.int32}[x.element_size()])
        .sum(dtype=torch.int64)
    )


def _cuts(model, size, name):
    """Which layers a family's plan cuts -> {path in the base model: "colwise" (a rank keeps a part of the outputs) or
    "rowwise" (the matching part of the inputs; the sum over ranks is the output)}. All others stay whole."""
    plan = getattr(model.config, "base_model_tp_plan", None)
    if not plan:
        raise BadInput(
            f"--tp {size}: transformers has no tensor-parallel plan for {type(model).__name__}"
        )
    found = {}
    for path, layer in model.base_model.named_modules():
        how = plan.get(re.sub(r"\.\d+\.", ".*.", path))
        if how not in ("colwise", "rowwise"):
            continue
        heads = model.config.num_key_value_heads if path.endswith("k_proj") else size
        if layer.weight.shape[how == "rowwise"] % size or heads % size:
            raise BadInput(f"--tp {size}: {path} of {name} cannot be cut into {size} equal parts")
        found[path] = how
    if not found:  # Phi 3 has queries, keys and values in one matrix
        raise BadInput(
            f"--tp {size}: transformers' plan for {type(model).__name__} cuts no layer of {name}"
        )
    return found


def split(model, group, name="the model"):
    """Tensor parallelism in place, for inference: plain tensors and one all_reduce take half of DTensor's time per token."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    for path, how in _cuts(model, size, name).items():
        layer = model.base_model.get_submodule(path)
        layer.weight.data = layer.weight.data.chunk(size, int(how == "rowwise"))[rank].clone()
        if how == "colwise" and layer.bias is not None:
            layer.bias.data = layer.bias.data.chunk(size)[rank].clone()
        if how == "rowwise":
            if rank and layer.bias is not None:
                layer.bias.data.zero_()  # it is added once
            layer.register_forward_hook(lambda layer, inputs, output: _sum_over(output, group))
        if path.endswith("k_proj"):
            model.attention_parts = size
    model.group = group


def _sum_over(tensor, group):
    dist.all_reduce(tensor, group=group)
    return tensor
