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
import errno
import json
import logging
import os
import re
import shutil
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

import kernels
import model as models
from engine import modules
from engine.rows import BadInput

FILE_BYTES = 5e9                                 # of one safetensors file of a large model or, of all ranks, a checkpoint
warnings.filterwarnings("ignore", "torch.distributed is disabled")                 # one process needs none: no news
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # 2-D shards take two gathers: known


class Ranks(NamedTuple):
    """What this process does in a run of several: part `index` of `n` of the rows, on `device`."""
    device: str
    index: int = 0
    n: int = 1
    group: dist.ProcessGroup | None = None       # the ranks that share one model with this one
    leads: bool = True                           # the one process that speaks and writes what is common
    writes: bool = True                          # of the ranks that share a model, the one that writes its rows
    mesh: DeviceMesh | None = None               # (dp, tp), of a model in shards


def join(device="cpu", tp=1, shards=False):
    """Join the processes that torchrun has started -> Ranks. tp neighbouring ranks share a model. Raises BadInput.

    shards: for a model that `load` spreads over all ranks; without it a model is whole on every tp ranks.
    """
    world = int(os.environ.get("WORLD_SIZE", 0))
    if max(world, 1) % tp:
        raise BadInput(f"--tp {tp}: does not divide {max(world, 1)} process{'es' * (world > 1)} (torchrun --nproc-per-node)")
    if world == 0 or world == 1 and not shards:
        return Ranks(device)
    kind = torch.device(device).type
    if kind == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # A rank may wait for another's long texts: the default of 10 or 30 minutes would end the run.
        # Both backends on a GPU: what is offloaded is gathered from the CPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=timedelta(days=7))
    rank = dist.get_rank()
    if shards:
        mesh = init_device_mesh(kind, (world // tp, tp), mesh_dim_names=("dp", "tp"))
        return Ranks(device, rank // tp, world // tp, mesh.get_group("tp"), rank == 0, rank % tp == 0, mesh)
    groups = [dist.new_group(range(first, first + tp), timedelta(days=7)) for first in range(0, world, tp)] \
        if tp > 1 else None
    return Ranks(device, rank // tp, world // tp, groups[rank // tp] if groups else None, rank == 0, rank % tp == 0)


def barrier(ranks):
    """Wait until every process has come here."""
    if ranks.n > 1 or ranks.group is not None:
        dist.barrier()


def total(numbers, ranks):
    """The sum of each process's number or list of numbers; ranks that share a model have the same and count once."""
    if ranks.n == 1 and ranks.group is None:
        return numbers
    summed = torch.tensor(numbers, device=ranks.device)
    dist.all_reduce(summed.mul_(ranks.writes))
    return summed.tolist()


def gather(value, ranks):
    """[the value of each part of the rows, in order]. It goes through JSON: a pickle can run code."""
    if ranks.n == 1 and ranks.group is None:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(ranks.device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=ranks.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, sizes[0] + len(text))
    texts = [torch.zeros(int(max(sizes)), dtype=torch.uint8, device=ranks.device) for _ in sizes]
    dist.all_gather(texts, torch.nn.functional.pad(text, (0, len(texts[0]) - len(text))))
    every = len(sizes) // ranks.n                        # ranks that share a model have the same
    return [json.loads(bytes(t[:n].tolist())) for t, n in list(zip(texts, sizes))[::every]]


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
    parts: dict                  # name -> this rank's part of the weight, sharing its memory: what an optimizer steps
    halves: set                  # names of weights whose gradient is summed over the ranks of tp
    ranks: Ranks


def load(path, ranks, bf16=False, offload=False, recompute=False, compiled=False):
    """A model directory or hub name -> (model to train, float32, in shards under torchrun, tokenizer).

    bf16: shards are gathered and computed with in bfloat16 (one plain model does that by autocast). offload: shards and
    Adam's state live in host memory. recompute: only the input of each layer is kept for the backward pass.
    compiled: torch.compile of each layer. Raises BadInput.
    """
    if ranks.mesh is None:
        model, tokenizer = models.load(path, ranks.device)
    else:
        tokenizer = models.load_tokenizer(path)
        model, folder = _without_weights(path)
    for layer in models.layers(model) if compiled else ():       # inside the checkpoint, of which dynamo compiles nothing
        layer.forward = torch.compile(layer.forward, dynamic=True)
    for layer in models.layers(model) if recompute else ():
        layer.forward = partial(torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False)
    halves = _split_layers(model, ranks, path) if ranks.mesh is not None and ranks.mesh["tp"].size() > 1 else set()
    if ranks.mesh is None:
        return model, tokenizer

    buffers = dict(model.named_buffers())
    options = dict(mesh=ranks.mesh["dp"],
                   offload_policy=CPUOffloadPolicy(torch.cuda.is_available()) if offload else OffloadPolicy(),
                   mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy())
    for layer in models.layers(model):
        fully_shard(layer, **options)
    root = fully_shard(Root(model), **options)
    root.to_empty(device="cpu" if offload else ranks.device)
    for name, buffer in model.named_buffers():           # to_empty has emptied the rotary frequencies too
        module, _, last = name.rpartition(".")
        model.get_submodule(module)._buffers[last] = buffers[name].to(ranks.device)
    _read_shards(model, folder, path)
    parts = {name: torch.nn.Parameter(p.detach().to_local()) for name, p in model.named_parameters()}
    object.__setattr__(model, "shards", Shards(root, parts, halves, ranks))     # the root holds the model: no submodule
    root(models.check_forward, path)
    root.reshard()
    return model.eval(), tokenizer


class _EmptyOnMeta(TorchFunctionMode):
    """torch.empty makes tensors without memory: a model under it has no weights, but its buffers and norms."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        return function(*arguments, **(options or {}) | ({"device": "meta"} if function is torch.empty else {}))


def _without_weights(path):
    """-> (model whose matrices take no memory, the folder of its weights)."""
    with models.refusing(path):
        folder = Path(path)
        if not folder.exists():
            from huggingface_hub import snapshot_download
            folder = Path(snapshot_download(path, allow_patterns=["*.json", "model*.safetensors"]))
        config = AutoConfig.from_pretrained(folder)
        models.without_dropout(config)
        with _EmptyOnMeta():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="packed")
        modules.quicken(model)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, folder


@torch.no_grad()
def _read_shards(model, folder, path):
    """Fill this rank's part of every weight from the safetensors files, reading no more than that part."""
    index = folder / "model.safetensors.index.json"
    try:
        files = json.loads(index.read_text())["weight_map"] if index.is_file() else \
            dict.fromkeys(safe_open(folder / "model.safetensors", "pt").keys(), "model.safetensors")
        for name, p in model.named_parameters():
            if name not in files:
                raise BadInput(f"{path}: the weights lack {name}; if a file has it by another name (experts one by one), "
                               "load them in one process and save_pretrained(..., save_original_format=False)")
            with safe_open(folder / files[name], "pt") as file:
                whole = file.get_slice(name)
                if list(p.shape) != whole.get_shape():
                    raise BadInput(f"{path}: {name} is {whole.get_shape()}, not {list(p.shape)} as config.json says")
                p.to_local().copy_(whole[_region(p)])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise error if isinstance(error, BadInput) else BadInput(f"{path}: unreadable weights ({error})") from error


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
        shards.root.reshard()                    # no backward pass will come, after which FSDP has shards again
    return result


def score(model, batch):
    """Log-probability (N,) of each scored token of a Batch, with gradient."""
    def work(model):
        head = model.get_output_embeddings().weight
        if not isinstance(head, DTensor):
            return models.score(model, batch).logp
        hidden = models.hidden_states(model, batch.ids, batch.positions, models.Packed(batch.lengths, batch.ids.device))
        return kernels.token_stats(hidden[batch.where], head.to_local(), batch.target, softcap=models.softcap(model),
                                   offset=_region(head)[0].start, group=model.shards.ranks.group).logp
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
    square, world = torch.zeros((), dtype=torch.float64, device=shards.ranks.device), dist.get_world_size()
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
    """As models.save; of a sharded model one whole parameter at a time is put together, for the leader to write."""
    shards = getattr(model, "shards", None)
    if shards is None:
        return models.save(model, tokenizer, path)
    leads, part = shards.ranks.leads, models.saving(path) if shards.ranks.leads else None
    tensors, n_bytes, files = {}, 0, []
    for name, p in model.named_parameters():
        whole = DTensor.from_local(p.detach().to_local().to(shards.ranks.device), p.device_mesh, p.placements,
                                   shape=p.shape, stride=p.stride()).full_tensor()
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
            final = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
            for i, name in enumerate(final):
                (part / f"part-{i}").rename(part / name)
            weight_map = {key: name for keys, name in zip(files, final) for key in keys}
            (part / "model.safetensors.index.json").write_text(json.dumps(
                {"metadata": {"total_size": sum(p.numel() * 4 for p in model.parameters())}, "weight_map": weight_map}))
        model.config.architectures, model.config.dtype = [type(model).__name__], torch.float32
        model.config.save_pretrained(part)
        model.generation_config.save_pretrained(part)
        models.publish(part, tokenizer, path)
    barrier(shards.ranks)


def _write_file(part, number, tensors):
    save_file(tensors, part / f"part-{number}", metadata={"format": "pt"})
    return list(tensors)


# ---------------------------------------------------------------- checkpoints

def save_checkpoint(out, model, optimizers, step, identity, reference=None, **more):
    """Weights, optimizer state and random state as OUT/checkpoint-STEP, by torch.distributed.checkpoint, in safetensors: the
    usual .distcp files would be unpickled. A checkpoint is there when its folder has its name; the one before is deleted
    after that. Any number of ranks can continue from it. reference: a second model that changes. more: noted with it,
    for read_state. Raises BadInput when it cannot be written."""
    shards = getattr(model, "shards", None)
    leads, out = shards is None or shards.ranks.leads, Path(out)
    part = out / "checkpoint.part"
    try:
        if leads:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        if shards is not None:
            barrier(shards.ranks)
        state, n_bytes, files = _state(model, optimizers, reference), 0, {}
        for key, tensor in state.items():                # a rank copies a file at a time to host memory, so not all of it
            n_bytes += tensor.nbytes
            files[key] = 1 + int(n_bytes // FILE_BYTES)
        dcp.save(state, no_dist=shards is None,
                 storage_writer=HuggingFaceStorageWriter(part, files, save_distributed=True))
        if leads:
            (part / "state.json").write_text(json.dumps({"step": step, "identity": identity, "files": _sizes(part), **more}))
            older = checkpoints(out)
            shutil.rmtree(out / f"checkpoint-{step}", ignore_errors=True)
            os.replace(part, out / f"checkpoint-{step}")
            for path in older:
                shutil.rmtree(path, ignore_errors=True)
        if shards is not None:
            barrier(shards.ranks)
    except (OSError, SafetensorError, dcp.api.CheckpointException) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = os.strerror(errno.ENOSPC) if f"os error {errno.ENOSPC}" in str(error) else str(error).split("\n")[0]
        raise BadInput(f"{out}: the checkpoint of step {step} cannot be written ({reason}); the one before it is kept "
                       "and the same command continues from it") from error


def checkpoints(out):
    """Folders of complete checkpoints, the last one first. Two are there only if the run died between two lines."""
    found = [p for p in Path(out).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=lambda path: -int(path.name.partition("-")[2]))


def _sizes(path):
    return {file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))}


def read_state(path):
    """-> (step, identity, all that was noted) of a checkpoint whose files are as they were written. Raises BadInput."""
    try:
        state = json.loads((path / "state.json").read_text())
        if state["files"] != _sizes(path):
            raise ValueError(f"its files are not the {len(state['files'])} that were written")
        return int(state["step"]), dict(state["identity"]), state
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: unreadable checkpoint ({error}); delete it to start over") from error


def load_checkpoint(path, model, optimizers, reference=None):
    """Restore what save_checkpoint saved. Raises BadInput when it cannot be read."""
    try:
        reader = HuggingFaceStorageReader(path)
        saved = reader.read_metadata().state_dict_metadata
        named = parts(model)
        for key, tensor in saved.items():                # an optimizer has no state before its first step
            kind, _, rest = key.partition("/")
            if kind.startswith("optimizer"):
                slot, _, name = rest.partition("/")
                p, like, optimizer = named[name], tensor.properties.dtype, optimizers[int(kind.removeprefix("optimizer"))]
                # A fused step reads its count where the weights are, any other on the host.
                optimizer.state[p][slot] = torch.zeros_like(p, dtype=like) if len(tensor.size) else \
                    torch.zeros((), dtype=like, device=p.device if optimizer.defaults.get("fused") else "cpu")
        state = _state(model, optimizers, reference)
        if set(state) != set(saved):
            raise KeyError(min(set(state) ^ set(saved)))
        dcp.load(state, storage_reader=reader, no_dist=getattr(model, "shards", None) is None)
        torch.set_rng_state(state["random"])
    except (OSError, KeyError, ValueError, IndexError, SafetensorError, dcp.api.CheckpointException) as error:
        reason = str(error).strip().split("\n")[-1]
        raise BadInput(f"{path}: unreadable checkpoint ({reason}); delete it to start over") from error


def _state(model, optimizers, reference=None):
    """All tensors of a checkpoint by name; those of a sharded model as DTensors, which know their place in the whole."""
    weights = dict(model.named_parameters())
    names = {id(part): name for name, part in parts(model).items()}
    state = {f"weight/{name}": p.detach() for name, p in weights.items()}
    if reference is not None:
        state |= {f"reference/{name}": p.detach() for name, p in reference.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for part, values in optimizer.state.items():
            name = names[id(part)]
            for slot, value in values.items():
                if value.ndim and isinstance(weights[name], DTensor):
                    p = weights[name]
                    value = DTensor.from_local(value, p.device_mesh, p.placements, run_check=False, shape=p.shape,
                                               stride=p.stride())
                state[f"optimizer{number}/{slot}/{name}"] = value
    return state | {"random": torch.get_rng_state()}


# ---------------------------------------------------------------- inference: a part of each matrix, as plain tensors

def load_split(path, ranks, dtype):
    """models.load for generate.py: with ranks.group, this rank's part of a model that these ranks share."""
    if ranks.group is None:
        return models.load(path, ranks.device, dtype)
    refused = [None] * dist.get_world_size(ranks.group)  # one after the other: each reads the whole before it keeps its part
    for rank in dist.get_process_group_ranks(ranks.group):
        if rank == dist.get_rank():
            try:
                model, tokenizer = models.read(path, dtype)
                split(model, ranks.group, path)
            except BadInput as error:                    # the others must hear of it, or they would wait for this one
                refused[0] = str(error)
        dist.barrier(ranks.group)
    dist.all_gather_object(refused, refused[0], ranks.group)
    if any(refused):
        raise BadInput(next(filter(None, refused)))
    model = model.to(ranks.device).eval()
    models.check_forward(model, path)
    return model, tokenizer


@torch.no_grad()
def copy_weights(model, other):
    """The weights of a model in shards to one of load_split, whole or in parts; collective. A checksum over all ranks of
    both proves it: RuntimeError if the copy differs in a bit."""
    ranks = model.shards.ranks
    group = getattr(other, "group", None)
    rank, size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    cuts = _cuts(other, size, "the model") if size > 1 else {}
    places, sums = dict(other.named_parameters()), torch.zeros(2, dtype=torch.int64, device=ranks.device)
    for name, p in model.named_parameters():
        mine, n_parts, local = places[name], 1, p.to_local().detach()
        for mesh_size, placement in zip(p.device_mesh.shape, p.placements):
            n_parts *= 1 if placement.is_replicate() else mesh_size
        sums[0] += n_parts * _checksum(local.to(ranks.device, mine.dtype))
        whole = DTensor.from_local(local.to(ranks.device), p.device_mesh, p.placements, run_check=False, shape=p.shape,
                                   stride=p.stride()).full_tensor()
        layer, _, kind = name.removeprefix(f"{other.base_model_prefix}.").rpartition(".")
        how, n_parts = cuts.get(layer), size
        if how == "rowwise" and kind == "bias":
            mine.copy_(whole if rank == 0 else torch.zeros_like(whole))          # it is added once
        elif how is not None:
            mine.copy_(whole.chunk(size, int(how == "rowwise"))[rank])
        else:
            mine.copy_(whole)
            n_parts = 1
        sums[1] += n_parts * _checksum(mine)
    dist.all_reduce(sums)                                # each of n parts is on world / n ranks: both are world · the sum
    if sums[0] != sums[1]:
        raise RuntimeError("the weights that sample are not those that are trained")


def _checksum(x):
    """The sum of a tensor's numbers read as integers, modulo 2^64."""
    return x.contiguous().view({2: torch.int16, 4: torch.int32}[x.element_size()]).sum(dtype=torch.int64)


def move_state(optimizers, device):
    """Adam's moments to the host while the device has other use for the memory, or back."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for slot, value in state.items():
                state[slot] = value.to(device) if value.ndim else value


def _cuts(model, size, name):
    """Which layers a family's plan cuts -> {path in the base model: "colwise" (a rank keeps a part of the outputs) or
    "rowwise" (the matching part of the inputs; the sum over ranks is the output)}. All others stay whole."""
    plan = getattr(model.config, "base_model_tp_plan", None)
    if not plan:
        raise BadInput(f"--tp {size}: transformers has no tensor-parallel plan for {type(model).__name__}")
    found = {}
    for path, layer in model.base_model.named_modules():
        how = plan.get(re.sub(r"\.\d+\.", ".*.", path))
        if how not in ("colwise", "rowwise"):
            continue
        heads = model.config.num_key_value_heads if path.endswith("k_proj") else size
        if layer.weight.shape[how == "rowwise"] % size or heads % size:
            raise BadInput(f"--tp {size}: {path} of {name} cannot be cut into {size} equal parts")
        found[path] = how
    if not found:                                # Phi 3 has queries, keys and values in one matrix
        raise BadInput(f"--tp {size}: transformers' plan for {type(model).__name__} cuts no layer of {name}")
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
                layer.bias.data.zero_()                          # it is added once
            layer.register_forward_hook(lambda layer, inputs, output: _sum_over(output, group))
        if path.endswith("k_proj"):
            model.attention_parts = size
    model.group = group


def _sum_over(tensor, group):
    dist.all_reduce(tensor, group=group)
    return tensor
