"""Checkpoints of a training run: weights, optimizer state and random state, as OUT/checkpoint-STEP.

A checkpoint is written whole or not at all. It is written into a folder of another name, which is
renamed when everything is in it. After that the checkpoint before it is deleted. So from the first
one on there is a complete checkpoint at every moment.

torch.distributed.checkpoint writes and reads it. Each rank writes its own parts, and any number of
ranks can continue. The files are safetensors: the usual .distcp files come with a pickle that
describes them, and a pickle can run code when it is read.
"""

import json
import os
import re
import shutil
import zlib
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from engine import dtensors
from engine.processes import barrier, gather_from_ranks
from engine.rows import BadInput
from engine.sharding import parts, ranks_of

# Of a file, about: writing it takes twice as much memory, on a laptop beside the training.
FILE_BYTES = 2**28

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
        barrier(ranks)
        files = _size_and_sum_of_files(unfinished, ranks)
        if ranks.leads:
            state = {"step": step, "identity": identity, "files": files, **more}
            state["sum"] = _sum_of_state(state)
            (unfinished / "state.json").write_text(json.dumps(state), encoding="utf-8")
            _publish(unfinished, out, step)
        barrier(ranks)
    except (OSError, SafetensorError, dcp.api.CheckpointException) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise BadInput(
            f"{out}: the checkpoint of step {step} cannot be written ({_reason(error)}); "
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
        numbers[name] = 1 + int(n_bytes // FILE_BYTES)
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


def _reason(error):
    """Why a file could not be written, in the operating system's words where it has some."""
    if isinstance(error, dcp.api.CheckpointException):  # {rank: (its error, where)}
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os error (\d+)", str(error))  # safetensors' words
    if number:
        return os.strerror(int(number[1]))
    return str(error).split("\n")[0]


# ---------------------------------------------------------------- what it is checked by


def _data_files(folder):
    return sorted(folder.glob("*.safetensors"))


def _size_and_sum_of_files(folder, ranks):
    """-> {name of a safetensors file: [its bytes, its checksum]}. Each rank reads some of them."""
    mine = {
        file.name: [file.stat().st_size, _sum_of_file(file)]
        for file in _data_files(folder)[ranks.index :: ranks.n]
    }
    found = {}
    for part in gather_from_ranks(mine, ranks):
        found |= part
    return dict(sorted(found.items()))


def _sum_of_file(path):
    """CRC-32 of a file, to notice bits that have changed on the disk."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**24):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sum_of_state(state):
    """CRC-32 of what state.json notes, except its own checksum."""
    rest = {name: value for name, value in state.items() if name != "sum"}
    return zlib.crc32(json.dumps(rest).encode())


# ---------------------------------------------------------------- read


def read_state(path):
    """-> (step, identity, all that state.json notes) of a checkpoint.

    Raises BadInput if its files are not those that were written. check_sums reads them, too.
    """
    try:
        state = json.loads((path / "state.json").read_bytes())
        sizes = {file.name: file.stat().st_size for file in _data_files(path)}
        if sizes != {name: size for name, (size, _) in state["files"].items()}:
            raise ValueError(f"its files are not the {len(state['files'])} that were written")
        if state["sum"] != _sum_of_state(state) or path.name != f"checkpoint-{state['step']}":
            raise ValueError("state.json is not as it was written")
        return int(state["step"]), dict(state["identity"]), state
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{path}: unreadable checkpoint ({error}); delete it to start over"
        ) from error


def check_sums(path, state, ranks):
    """Raise BadInput if a bit of a checkpoint's files has changed. Each rank reads some of them."""
    for name, found in _size_and_sum_of_files(path, ranks).items():
        if found != state["files"][name]:
            raise BadInput(
                f"{path}: unreadable checkpoint ({name} is not as it was written); "
                "delete it to start over"
            )


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
    # A frozen weight is --model's own.
    tensors = {f"weight/{name}": p.detach() for name, p in weights.items() if p.requires_grad}
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
