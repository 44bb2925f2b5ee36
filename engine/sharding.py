"""Train a model in shards, on several GPUs, none of which ever holds the whole model.

PyTorch's own tools do the work, over a mesh of (data parallel, tensor parallel) ranks:

    data parallel    FSDP2, `fully_shard` (Zhao et al. 2023, arXiv 2304.11277; the idea is ZeRO-3's,
                     Rajbhandari et al. 2019, arXiv 1910.02054). Every rank keeps its share of each
                     weight, of its gradient and of the optimizer's state, and has rows of its own.
    tensor parallel  `parallelize_module` (Megatron-LM, Shoeybi et al. 2019, arXiv 1909.08053, §3).
                     Neighbouring ranks have the same rows and split each matrix and the vocabulary.

Four steps:

    1. shard    Make the model without weights and cut it: each layer, and as the root what is left,
                the embedding, the last norm and the head (`load_to_train`).
    2. read     Read this rank's part of each weight from the safetensors files (`_read_shards`).
    3. forward  FSDP gathers a layer's weights when the layer is called, and drops them afterwards.
                Those of the root are whole while the root is called: all that uses them has to run
                inside its forward (`compute_in_forward`).
    4. clip     After the backward pass each rank has its share of each gradient. Sum the squares
                over the ranks, and hand the shares to the optimizer (`clip_gradients`).

Weights and Adam's moments are float32 in shards. Matrix products are in bfloat16 if asked for.
One process without torchrun trains a plain model, and none of this happens.
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
from engine import attention, dtensors, loading, lora
from engine import model as models
from engine.processes import Ranks, barrier
from engine.rows import BadInput
from engine.tensor_parallel import planned_cuts

# Bytes of one safetensors file of a large model, or of a checkpoint.
FILE_BYTES = 5e9

# It warns that a weight cut in two dimensions needs two gathers.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


class Root(torch.nn.Module):
    """The module that FSDP gathers embedding, last norm and head for, while it is called."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.is_running = False

    def forward(self, work):
        self.is_running = True
        try:
            return work(self.model)
        finally:
            self.is_running = False


class Shards(NamedTuple):
    """A sharded model's own data, kept as model.shards."""

    root: Root
    parts: dict  # name -> this rank's part of the weight, in the same memory: the optimizer's
    halves: set  # names of weights whose gradient is to be summed over the tp ranks
    ranks: Ranks


# ---------------------------------------------------------------- step 1: shard


def load_to_train(
    path, ranks, bf16=False, offload=False, recompute=False, compiled=False, adapters=None
):
    """Load a model directory or hub name -> (model in float32, tokenizer). Raises BadInput.

    The model is in shards under torchrun (where ranks.mesh is set), else plain.

    bf16: gather shards and compute in bfloat16. (A plain model does it by autocast.)
    offload: keep shards and Adam's state in host memory.
    recompute: keep only the input of each layer for the backward pass.
    compiled: torch.compile each layer.
    adapters: lora.Shape of the adapters to train. The model itself is then frozen, and in bfloat16
    if bf16 is set.
    """
    dtype = torch.bfloat16 if bf16 and adapters else torch.float32
    if ranks.mesh is None:
        model, tokenizer = loading.load(path, ranks.device, dtype)
        if adapters:
            lora.attach(model, adapters)
            lora.draw(model)
        _wrap_layers(model, recompute, compiled)
        return model, tokenizer

    tokenizer = loading.load_tokenizer(path)
    model, folder = _without_weights(path, dtype)
    if adapters:
        lora.attach(model, adapters)
    _wrap_layers(model, recompute, compiled)
    halves = set()
    if ranks.mesh["tp"].size() > 1:
        halves = _split_layers(model, ranks.mesh["tp"], path)
    root = _shard(model, ranks, bf16, offload)
    _read_shards(model, folder, path)
    if adapters:
        lora.draw(model, lambda p, values: p.to_local().copy_(values[dtensors.region(p)]))

    parts = {
        name: torch.nn.Parameter(p.detach().to_local(), p.requires_grad)
        for name, p in model.named_parameters()
    }
    # Past torch's own __setattr__, which could take the root for a submodule: it holds the model.
    object.__setattr__(model, "shards", Shards(root, parts, halves, ranks))
    compute_in_forward(model, lambda model: loading.check_forward(model, tokenizer, path))
    return model.eval(), tokenizer


def _wrap_layers(model, recompute, compiled):
    """Compile each layer, and recompute it in the backward pass, as asked for."""
    for layer in models.layers(model):
        # Compiling comes first, so that it is inside the checkpoint: dynamo compiles no checkpoint.
        if compiled:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if recompute:
            layer.forward = partial(
                torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False
            )


class _EmptyOnMeta(TorchFunctionMode):
    """Let torch.empty make tensors without memory.

    A model that is made inside has matrices of the right shape that take no memory. Its norms and
    buffers (rotary frequencies) are real: other functions make them.
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        if function is torch.empty:
            options["device"] = "meta"
        return function(*arguments, **options)


def _without_weights(path, dtype=torch.float32):
    """-> (model whose matrices take no memory, the folder that holds its weights)."""
    with loading.refusing(path):
        folder = Path(path)
        if not folder.exists():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(path, allow_patterns=["*.json", "model*.safetensors"]))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        loading.without_dropout(config)
        with _EmptyOnMeta():
            model = AutoModelForCausalLM.from_config(
                config,
                dtype=dtype,
                attn_implementation="packed",
                trust_remote_code=False,
            )
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, folder


def _split_layers(model, tp_mesh, path):
    """Split matrices over the tp ranks by transformers' plan, embedding and head by the vocabulary.

    Returns the names of the norms of queries and keys. Each rank has them whole, but for its heads
    only: their gradients have to be summed over the tp ranks.
    """
    size = tp_mesh.size()
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    is_tied = head.weight is embedding.weight

    styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    cuts = planned_cuts(model, size, path)
    plan = {f"{model.base_model_prefix}.{layer}": styles[how]() for layer, how in cuts.items()}
    names = {module: name for name, module in model.named_modules()}
    plan[names[embedding]] = RowwiseParallel(input_layouts=Replicate())
    plan[names[head]] = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(model, tp_mesh, plan)
    if is_tied:  # parallelize_module has made two weights of one
        head.weight = embedding.weight

    if not any(layer.endswith("q_proj") for layer in cuts):
        return set()
    model.attention_parts = size
    return {name for name, _ in model.named_parameters() if re.search(r"\.[qk]_norm\.", name)}


def _shard(model, ranks, bf16, offload):
    """Cut every weight over the data-parallel ranks and allocate this rank's parts -> Root."""
    options = {"mesh": ranks.mesh["dp"]}
    if bf16:
        # Gradients are summed over the ranks in float32.
        options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
    else:
        options["mp_policy"] = MixedPrecisionPolicy()
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    else:
        options["offload_policy"] = OffloadPolicy()

    buffers = dict(model.named_buffers())
    for layer in models.layers(model):
        fully_shard(layer, **options)
    root = fully_shard(Root(model), **options)

    root.to_empty(device="cpu" if offload else ranks.device)
    # to_empty has emptied the buffers, too. They are in no file: put them back.
    for name, _ in model.named_buffers():
        module, _, last = name.rpartition(".")
        model.get_submodule(module)._buffers[last] = buffers[name].to(ranks.device)
    return root


# ---------------------------------------------------------------- step 2: read


@torch.no_grad()
def _read_shards(model, folder, path):
    """Fill this rank's part of every weight from the safetensors files; read no more than that."""
    try:
        file_of = _weight_map(folder)
        for name, p in model.named_parameters():
            if lora.is_part(name):
                continue
            if name not in file_of:
                raise BadInput(
                    f"{path}: the weights lack {name}; if a file has it by another name (experts "
                    "one by one), load them in one process and "
                    "save_pretrained(..., save_original_format=False)"
                )
            with safe_open(folder / file_of[name], "pt") as file:
                stored = file.get_slice(name)  # reads only what is indexed
                shape, wanted = stored.get_shape(), list(p.shape)
                if shape != wanted:
                    raise BadInput(f"{path}: {name} is {shape}, not {wanted} as config.json says")
                p.to_local().copy_(stored[dtensors.region(p)])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, BadInput):  # a ValueError, too
            raise
        raise BadInput(f"{path}: unreadable weights ({error})") from error


def _weight_map(folder):
    """-> {name of a weight: name of the file that has it}."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        return dict.fromkeys(file.keys(), "model.safetensors")


# ---------------------------------------------------------------- step 3: forward


def compute_in_forward(model, work):
    """Call work(model) where the weights of embedding, last norm and head are whole -> its result.

    A sharded model has them only inside its root's forward. work returns a tensor, or a tuple whose
    first entry is one.
    """
    shards = getattr(model, "shards", None)
    if shards is None or shards.root.is_running:
        return work(model)
    result = shards.root(work)
    first = result[0] if isinstance(result, tuple) else result
    if first is None or not first.requires_grad:
        # FSDP drops the whole weights in the backward pass, which will not come.
        shards.root.reshard()
    return result


def score(model, batch):
    """Log-probability (N,) of each scored token of a Batch, with gradient."""

    def work(model):
        head = model.get_output_embeddings().weight
        if not isinstance(head, DTensor):
            return models.score(model, batch).logp
        # With --tp each rank has the head's rows (V / tp, D) of a part of the vocabulary.
        hidden = models.hidden_states(
            model, batch.ids, batch.positions, attention.Packed(batch.lengths, batch.ids.device)
        )  # (T, D)
        return kernels.token_stats(
            hidden[batch.where],
            kernels.Head(head.to_local(), models.softcap(model), models.logit_scale(model)),
            batch.target,
            offset=dtensors.region(head)[0].start,
            group=model.shards.ranks.group,
        ).logp

    return compute_in_forward(model, work)


def ranks_of(model):
    """The Ranks that a model is sharded over. A plain model's are this process alone."""
    if hasattr(model, "shards"):
        return model.shards.ranks
    return Ranks(str(models.head(model).device))


# ---------------------------------------------------------------- step 4: clip


def parts(model):
    """-> {name: what the optimizer updates}: the parameters, or this rank's part of each."""
    shards = getattr(model, "shards", None)
    return dict(model.named_parameters()) if shards is None else shards.parts


def clip_gradients(model, clip):
    """Scale the gradient down to the norm `clip` if it is longer -> its norm before.

    As torch.nn.utils.clip_grad_norm_. Gradients of a sharded model move to its `parts`, where the
    optimizer looks for them.
    """
    shards = getattr(model, "shards", None)
    if shards is None:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    _move_gradients(model)
    norm = _gradient_norm(model)
    if norm > clip:
        for part in shards.parts.values():
            if part.grad is not None:
                part.grad.mul_(clip / (norm + 1e-6))
    return norm


def _move_gradients(model):
    """Give each of the parts its share of the gradient."""
    shards = model.shards
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        part = shards.parts[name]
        part.grad = p.grad.to_local()
        if name in shards.halves:
            dist.all_reduce(part.grad, group=shards.ranks.group)


def _gradient_norm(model):
    """Norm of the whole gradient: the root of the sum of squares over all different parts."""
    shards = model.shards
    world = dist.get_world_size()
    square = torch.zeros((), dtype=torch.float64, device=shards.ranks.device)
    for name, p in model.named_parameters():
        gradient = shards.parts[name].grad
        if gradient is None:
            continue
        mine = gradient.double().square().sum().to(square.device)
        # Of a weight that is cut into n parts, each part is on world / n ranks: count it once.
        square += mine * (dtensors.n_parts(p) / world)
    dist.all_reduce(square)
    return square.sqrt().item()


# ---------------------------------------------------------------- save


def save(model, tokenizer, path, dtype=torch.float32):
    """Write a Hugging Face directory, as loading.save does, with weights of this dtype.

    The weights of a sharded model are put together one at a time, and the leading rank writes them.
    Adapters are merged into the weights they belong to, in float32.
    """
    ranks = ranks_of(model)
    whole = partial(_whole, ranks.device)
    has_adapters = hasattr(model, "lora")
    if ranks.mesh is None and not has_adapters:
        return loading.save(model, tokenizer, path, dtype)
    folder = loading.saving(path) if ranks.leads else None
    files = _WeightFiles(folder)
    for name, p in model.named_parameters():
        if lora.is_part(name):
            continue
        weight = whole(p)  # all ranks take part
        if has_adapters:
            weight = lora.merged(model, name, weight, whole)
        if ranks.leads:
            files.add(name, weight.to(dtype))
    if ranks.leads:
        files.finish()
        model.config.architectures = [type(model).__name__]
        model.config.dtype = dtype
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        loading.publish(folder, tokenizer, path)
    barrier(ranks)


def save_adapters(model, base, folder):
    """Write a model's adapters as PEFT's files into a folder. base: --model, which they are for."""
    ranks = ranks_of(model)
    tensors = lora.tensors_of(model, partial(_whole, ranks.device))  # all ranks take part
    if ranks.leads:
        lora.save(tensors, model.lora.shape, base, folder)
    barrier(ranks)


def _whole(device, p):
    """A parameter, put together on this device if it is cut over ranks."""
    return dtensors.whole(p, device) if isinstance(p, DTensor) else p.detach()


class _WeightFiles:
    """Safetensors files of at most FILE_BYTES each, named as transformers names them."""

    def __init__(self, folder):
        self.folder = folder
        self.tensors = {}  # those that the next file will hold
        self.n_bytes = 0  # of those
        self.names = []  # for each file written, the names of its weights
        self.total_bytes = 0

    def add(self, name, weight):
        if self.tensors and self.n_bytes + weight.nbytes > FILE_BYTES:
            self._write()
        self.tensors[name] = weight.cpu().contiguous()
        self.n_bytes += weight.nbytes

    def _write(self):
        # How many files there will be, which their names say, is known only at the end.
        save_file(self.tensors, self._part(len(self.names)), metadata={"format": "pt"})
        self.names.append(list(self.tensors))
        self.total_bytes += self.n_bytes
        self.tensors = {}
        self.n_bytes = 0

    def _part(self, number):
        return self.folder / f"part-{number}"

    def finish(self):
        self._write()
        n = len(self.names)
        if n == 1:
            self._part(0).rename(self.folder / "model.safetensors")
            return
        weight_map = {}
        for i, names in enumerate(self.names):
            file = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
            self._part(i).rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
        (self.folder / "model.safetensors.index.json").write_text(
            json.dumps(index), encoding="utf-8"
        )
