"""Checkpoints of a training run: weights, optimizer, random state, in safetensors."""

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

from engine.processes import barrier
from engine.rows import BadInput
from engine.sharding import FILE_BYTES, parts

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
        # a rank copies a file at a time to host memory, so not all of it
        for key, tensor in state.items():
            n_bytes += tensor.nbytes
            files[key] = 1 + int(n_bytes // FILE_BYTES)
        dcp.save(
            state,
            no_dist=shards is None,
            storage_writer=HuggingFaceStorageWriter(part, files, save_distributed=True),
        )
        if leads:
            (part / "state.json").write_text(
                json.dumps({"step": step, "identity": identity, "files": _sizes(part), **more})
            )
            older = saved_checkpoints(out)
            shutil.rmtree(out / f"checkpoint-{step}", ignore_errors=True)
            os.replace(part, out / f"checkpoint-{step}")
            for path in older:
                shutil.rmtree(path, ignore_errors=True)
        if shards is not None:
            barrier(shards.ranks)
    except (OSError, SafetensorError, dcp.api.CheckpointException) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = (
            os.strerror(errno.ENOSPC)
            if f"os error {errno.ENOSPC}" in str(error)
            else str(error).split("\n")[0]
        )
        raise BadInput(
            f"{out}: the checkpoint of step {step} cannot be written ({reason}); the one before it is kept "
            "and the same command continues from it"
        ) from error


def saved_checkpoints(out):
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
        raise BadInput(
            f"{path}: unreadable checkpoint ({error}); delete it to start over"
        ) from error


def load_checkpoint(path, model, optimizers, reference=None):
    """Restore what save_checkpoint saved. Raises BadInput when it cannot be read."""
    try:
        reader = HuggingFaceStorageReader(path)
        saved = reader.read_metadata().state_dict_metadata
        named = parts(model)
        for key, tensor in saved.items():  # an optimizer has no state before its first step
            kind, _, rest = key.partition("/")
            if kind.startswith("optimizer"):
                slot, _, name = rest.partition("/")
                p, like, optimizer = (
                    named[name],
                    tensor.properties.dtype,
                    optimizers[int(kind.removeprefix("optimizer"))],
                )
                # A fused step reads its count where the weights are, any other on the host.
                optimizer.state[p][slot] = (
                    torch.zeros_like(p, dtype=like)
                    if len(tensor.size)
                    else torch.zeros(
                        (),
                        dtype=like,
                        device=p.device if optimizer.defaults.get("fused") else "cpu",
                    )
                )
        state = _state(model, optimizers, reference)
        if set(state) != set(saved):
            raise KeyError(min(set(state) ^ set(saved)))
        dcp.load(state, storage_reader=reader, no_dist=getattr(model, "shards", None) is None)
        torch.set_rng_state(state["random"])
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
                    value = DTensor.from_local(
                        value,
                        p.device_mesh,
                        p.placements,
                        run_check=False,
                        shape=p.shape,
                        stride=p.stride(),
                    )
                state[f"optimizer{number}/{slot}/{name}"] = value
    return state | {"random": torch.get_rng_state()}
