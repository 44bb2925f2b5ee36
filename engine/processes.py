"""The processes that torchrun started: who does what, and how they tell each other."""

import json
import os
import warnings
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from engine.rows import BadInput

# one process needs none: no news
warnings.filterwarnings("ignore", "torch.distributed is disabled")


class Ranks(NamedTuple):
    """What this process does in a run of several: part `index` of `n` of the rows, on `device`."""

    device: str
    index: int = 0
    n: int = 1
    group: dist.ProcessGroup | None = None  # the ranks that share one model with this one
    leads: bool = True  # the one process that speaks and writes what is common
    writes: bool = True  # of the ranks that share a model, the one that writes its rows
    mesh: DeviceMesh | None = None  # (dp, tp), of a model in shards


def join_ranks(device="cpu", tp=1, shards=False):
    """Join the processes that torchrun has started -> Ranks. tp neighbouring ranks share a model. Raises BadInput.

    shards: for a model that `load` spreads over all ranks; without it a model is whole on every tp ranks.
    """
    world = int(os.environ.get("WORLD_SIZE", 0))
    if max(world, 1) % tp:
        raise BadInput(
            f"--tp {tp}: does not divide {max(world, 1)} process{'es' * (world > 1)} (torchrun --nproc-per-node)"
        )
    if world == 0 or world == 1 and not shards:
        return Ranks(device)
    kind = torch.device(device).type
    if kind == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # A rank may wait for another's long texts: the default of 10 or 30 minutes would end the run.
        # Both backends on a GPU: what is offloaded is gathered from the CPU.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=timedelta(days=7)
        )
    rank = dist.get_rank()
    if shards:
        mesh = init_device_mesh(kind, (world // tp, tp), mesh_dim_names=("dp", "tp"))
        return Ranks(
            device, rank // tp, world // tp, mesh.get_group("tp"), rank == 0, rank % tp == 0, mesh
        )
    groups = (
        [
            dist.new_group(range(first, first + tp), timedelta(days=7))
            for first in range(0, world, tp)
        ]
        if tp > 1
        else None
    )
    return Ranks(
        device,
        rank // tp,
        world // tp,
        groups[rank // tp] if groups else None,
        rank == 0,
        rank % tp == 0,
    )


def barrier(ranks):
    """Wait until every process has come here."""
    if ranks.n > 1 or ranks.group is not None:
        dist.barrier()


def sum_over_ranks(numbers, ranks):
    """The sum of each process's number or list of numbers; ranks that share a model have the same and count once."""
    if ranks.n == 1 and ranks.group is None:
        return numbers
    summed = torch.tensor(numbers, device=ranks.device)
    dist.all_reduce(summed.mul_(ranks.writes))
    return summed.tolist()


def gather_from_ranks(value, ranks):
    """[the value of each part of the rows, in order]. It goes through JSON: a pickle can run code."""
    if ranks.n == 1 and ranks.group is None:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(
        ranks.device
    )
    sizes = [
        torch.zeros(1, dtype=torch.int64, device=ranks.device) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(sizes, sizes[0] + len(text))
    texts = [torch.zeros(int(max(sizes)), dtype=torch.uint8, device=ranks.device) for _ in sizes]
    dist.all_gather(texts, torch.nn.functional.pad(text, (0, len(texts[0]) - len(text))))
    every = len(sizes) // ranks.n  # ranks that share a model have the same
    return [json.loads(bytes(t[:n].tolist())) for t, n in list(zip(texts, sizes))[::every]]
