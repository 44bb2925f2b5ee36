"""Sample from a model that is cut over several GPUs: each rank has a part of each matrix.

Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053, §3) cuts the matrices of a layer in pairs:

    colwise  the first: queries, keys and values (gate and up in the MLP). A rank has a part of the
             outputs, in attention that of its own heads.
    rowwise  the second: the output projection (down in the MLP). A rank has the matching part of
             the inputs. The layer's output is the sum over the ranks.

So attention and MLP need one sum over the ranks each. Embedding, norms and head stay whole.
Training does the same with PyTorch's DTensor (engine/sharding.py). Plain tensors and an all_reduce,
as here, take half of its time per token.
"""

import re

import torch
import torch.distributed as dist

from engine import dtensors, loading
from engine.rows import BadInput

# ---------------------------------------------------------------- which matrices are cut, and how


def planned_cuts(model, size, name):
    """Read transformers' plan for the family -> {path in the base model: "colwise" or "rowwise"}.

    size: number of ranks. name: the model's, for messages. Layers not in the plan stay whole.
    Raises BadInput if there is no plan, or if a layer cannot be cut into `size` equal parts.
    """
    plan = getattr(model.config, "base_model_tp_plan", None)
    if not plan:
        raise BadInput(
            f"--tp {size}: transformers has no tensor-parallel plan for {type(model).__name__}"
        )
    cuts = {}
    for path, layer in model.base_model.named_modules():
        how = plan.get(re.sub(r"\.\d+\.", ".*.", path))  # the plan writes layers.*.mlp.up_proj
        if how not in ("colwise", "rowwise"):
            continue
        is_divisible = layer.weight.shape[cut_dimension(how)] % size == 0
        if path.endswith("k_proj"):  # a head may not be cut in two
            is_divisible = is_divisible and model.config.num_key_value_heads % size == 0
        if not is_divisible:
            raise BadInput(f"--tp {size}: {path} of {name} cannot be cut into {size} equal parts")
        cuts[path] = how
    if not cuts:  # Phi 3 has queries, keys and values in one matrix
        raise BadInput(
            f"--tp {size}: transformers' plan for {type(model).__name__} cuts no layer of {name}"
        )
    return cuts


def cut_dimension(how):
    """The dimension of a weight (outputs, inputs) that is cut."""
    return {"colwise": 0, "rowwise": 1}[how]


def cut_of(how, kind):
    """How a parameter of a layer is cut. Of an adapter B A only the matrix at the cut is."""
    is_away = (how, kind) in {("colwise", "lora_A"), ("rowwise", "lora_B")}
    return None if is_away else how


def part_of(whole, how, kind, rank, size):
    """Cut a rank's part out of a layer's weight or bias.

    how: "colwise", "rowwise", or None if the layer is not cut. kind: "weight", "bias", or "lora_A"
    and "lora_B" of an adapter.
    """
    how = cut_of(how, kind)
    if how is None:
        return whole
    if kind != "bias":
        return whole.chunk(size, cut_dimension(how))[rank]
    if how == "colwise":
        return whole.chunk(size)[rank]
    # The outputs are summed over the ranks: only one of them may add the bias.
    return whole if rank == 0 else torch.zeros_like(whole)


# ---------------------------------------------------------------- a whole model -> one in parts


def load_split(path, ranks, dtype):
    """Load a model to sample from -> (model, tokenizer).

    If ranks share a model (ranks.group), this rank gets its part. Raises BadInput, on every rank.
    """
    if ranks.group is None:
        return loading.load(path, ranks.device, dtype)
    # One rank after the other: each reads the whole model before it keeps its part.
    refusal = None
    for rank in dist.get_process_group_ranks(ranks.group):
        if rank == dist.get_rank():
            try:
                model, tokenizer = loading.read(path, dtype)
                split(model, ranks.group, path)
            except BadInput as error:
                refusal = str(error)
        dist.barrier(ranks.group)
    # The other ranks must hear of a refusal, or they would wait for this one for ever.
    refusals = [None] * dist.get_world_size(ranks.group)
    dist.all_gather_object(refusals, refusal, ranks.group)
    for refusal in refusals:
        if refusal is not None:
            raise BadInput(refusal)
    model = model.to(ranks.device).eval()
    loading.check_forward(model, tokenizer, path)
    return model, tokenizer


@torch.no_grad()
def split(model, group, name="the model"):
    """Cut a model in place: this rank keeps its part of each matrix in the plan. Raises BadInput.

    name: the model's, for messages.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)

    def sum_over_group(layer, inputs, output):
        dist.all_reduce(output, group=group)
        return output

    for path, how in planned_cuts(model, size, name).items():
        layer = model.base_model.get_submodule(path)
        for kind, p in layer.named_parameters():
            # A copy, for a view would keep the whole in memory.
            p.data = part_of(p.data, how, kind, rank, size).clone()
        if how == "rowwise":
            layer.register_forward_hook(sum_over_group)
        if path.endswith("k_proj"):
            model.attention_parts = size  # the cache has room for a part of the heads
    model.group = group


# ---------------------------------------------------------------- a model in shards -> a sampler


@torch.no_grad()
def copy_weights(model, sampler):
    """Copy the weights of a model in shards to a sampler that load_split made. Collective.

    A checksum over all ranks shows that both have the same bits. RuntimeError if not.
    """
    device = model.shards.ranks.device
    group = getattr(sampler, "group", None)
    rank, size, cuts = 0, 1, {}
    if group is not None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        cuts = planned_cuts(sampler, size, "the model")

    targets = dict(sampler.named_parameters())
    # If a weight is cut into n parts, each part is on world / n ranks. So n times the sum of all
    # ranks' checksums is `world` times the checksum of the whole, however the weight is cut.
    sums = torch.zeros(2, dtype=torch.int64, device=device)
    for name, p in model.named_parameters():
        if not p.requires_grad:  # beside adapters; both models have read it from the same files
            continue
        target = targets[name]
        shard = p.to_local().to(device, target.dtype)
        sums[0] += dtensors.n_parts(p) * _checksum(shard)

        layer, _, kind = name.removeprefix(f"{sampler.base_model_prefix}.").rpartition(".")
        how = cut_of(cuts.get(layer), kind)
        target.copy_(part_of(dtensors.whole(p, device), how, kind, rank, size))
        sums[1] += (1 if how is None else size) * _checksum(target)
    dist.all_reduce(sums)
    if sums[0] != sums[1]:
        raise RuntimeError("the weights that sample are not those that are trained")


def _checksum(x):
    """The sum of a tensor's numbers, their bits read as integers, modulo 2^64."""
    integer = {2: torch.int16, 4: torch.int32}[x.element_size()]
    return x.contiguous().view(integer).sum(dtype=torch.int64)
