"""Checkpoints of a training run: weights, optimizer state and random state, as OUT/checkpoint-STEP.

A checkpoint is written whole or not at all. It is written into a folder of another name, which is
renamed when everything is in it. After that the checkpoint before it is deleted. So from the first
one on there is a complete checkpoint at every moment.

torch.distributed.checkpoint writes and reads it. Each rank writes its own parts, and any number of
ranks can continue. The files are safetensors: the usual .distcp files come with a pickle that
describes them, and a pickle can run code when it is read.
"""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from engine import dtensors, sharding
from engine.processes import barrier
from engine.rows import BadInput
from engine.sharding import parts, ranks_of

# ---------------------------------------------------------------- write


def save_checkpoint(out, model, optimizers, step, identity, reference=None, **more):
    """Write OUT/checkpoint-STEP and delete the one before. Raises BadInput if it cannot be written.

    identity: the run's settings, by which another run's checkpoint is refused.
    reference: a second model that changes, too. more: noted in state.json, for read_state.
    """
    ranks = ranks_of(model)
    out = Path(out)
    unfinished = out / "checkpoint.part"
    try:
        if ranks.leads:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        barrier(ranks)
        tensors = _tensors(model, optimizers, reference)
        writer = HuggingFaceStorageWriter(unfinished, _file_numbers(tensors), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, no_dist=not _is_sharded(model))
        if ranks.leads:
            sizes = _sizes(unfinished)
            state = {"step": step, "identity": identity, "files": sizes, **more}
            (unfinished / "state.json").write_text(json.dumps(state))
            _publish(unfinished, out, step)
        barrier(ranks)
    except (OSError, SafetensorError, dcp.api.CheckpointException) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = str(error).split("\n")[0]
        if f"os error {errno.ENOSPC}" in str(error):  # safetensors' words for a full disk
            reason = os.strerror(errno.ENOSPC)
        raise BadInput(
            f"{out}: the checkpoint of step {step} cannot be written ({reason}); "
            "the one before it is kept and the same command continues from it"
        ) from error


def _file_numbers(tensors):
    """-> {name: number of the file to write it to, from 1}, by the bytes of the tensors before it.

    A rank copies a file at a time to host memory, which need not have room for all of them.
    """
    numbers = {}
    n_bytes = 0
    for name, tensor in tensors.items():
        n_bytes += tensor.nbytes
        numbers[name] = 1 + int(n_bytes // sharding.FILE_BYTES)
    return numbers


def _publish(unfinished, out, step):
    """Give a complete checkpoint its name, then delete the others."""
    older = saved_checkpoints(out)
    final = out / f"checkpoint-{step}"
    shutil.rmtree(final, ignore_errors=True)
    os.replace(unfinished, final)
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def saved_checkpoints(out):
    """-> folders of complete checkpoints, the newest first.

    There are two only if a run died before it deleted the older one.
    """
    found = [
        path
        for path in Path(out).glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name)
    ]
    return sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def _sizes(folder):
    """-> {name of a safetensors file: bytes}, to notice a file that is missing or cut short."""
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}


# ---------------------------------------------------------------- read


def read_state(path):
    """-> (step, identity, all that state.json notes) of a checkpoint.

    Raises BadInput if its files are not those that were written.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        if state["files"] != _sizes(path):
            raise ValueError(f"its files are not the {len(state['files'])} that were written")
        return int(state["step"]), dict(state["identity"]), state
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: unreadable checkpoint ({error}); delete it to start over"
        ) from error


def load_checkpoint(path, model, optimizers, reference=None):
    """Restore what save_checkpoint saved, in place. Raises BadInput if it cannot be read."""
    try:
        reader = HuggingFaceStorageReader(path)
        saved = reader.read_metadata().state_dict_metadata
        _make_optimizer_state(saved, model, optimizers)
        tensors = _tensors(model, optimizers, reference)
        if set(tensors) != set(saved):
            raise KeyError(min(set(tensors) ^ set(saved)))
        dcp.load(tensors, storage_reader=reader, no_dist=not _is_sharded(model))
        torch.set_rng_state(tensors["random"])
    except (
        OSError,
        KeyError,
        ValueError,
        IndexError,
        SafetensorError,
        dcp.api.CheckpointException,
    ) as error:
        reason = str(error).strip().split("\n")[-1]
        raise BadInput(
            f"{path}: unreadable checkpoint ({reason}); delete it to start over"
        ) from error


def _make_optimizer_state(saved, model, optimizers):
    """Make the tensors of optimizer state that dcp.load is to fill: before a step there are none.

    saved: {name as in _tensors: metadata of the tensor}.
    """
    named = parts(model)
    for key, metadata in saved.items():
        kind, _, rest = key.partition("/")
        if not kind.startswith("optimizer"):
            continue
        slot, _, name = rest.partition("/")
        optimizer = optimizers[int(kind.removeprefix("optimizer"))]
        p = named[name]
        dtype = metadata.properties.dtype
        if len(metadata.size) > 0:
            value = torch.zeros_like(p, dtype=dtype)
        else:
            # The number of steps: a fused step reads it where the weights are, others on the host.
            device = p.device if optimizer.defaults.get("fused") else "cpu"
            value = torch.zeros((), dtype=dtype, device=device)
        optimizer.state[p][slot] = value


# ---------------------------------------------------------------- what is in one


def _is_sharded(model):
    return hasattr(model, "shards")


def _tensors(model, optimizers, reference=None):
    """-> {name: tensor}, all that a checkpoint holds. These are the run's own tensors, not copies.

    Tensors of a sharded model are DTensors, which know their place in the whole.
    """
    weights = dict(model.named_parameters())
    tensors = {f"weight/{name}": p.detach() for name, p in weights.items()}
    if reference is not None:
        for name, p in reference.named_parameters():
            tensors[f"reference/{name}"] = p.detach()
    name_of = {id(part): name for name, part in parts(model).items()}
    for number, optimizer in enumerate(optimizers):
        for part, state in optimizer.state.items():
            name = name_of[id(part)]
            for slot, value in state.items():
                if value.ndim > 0 and isinstance(weights[name], DTensor):
                    value = dtensors.cut_like(weights[name], value)
                tensors[f"optimizer{number}/{slot}/{name}"] = value
    tensors["random"] = torch.get_rng_state()
    return tensors
