"""The processes that torchrun started: each one's part of the work, and how they talk.

    torchrun --standalone --nproc-per-node 8 -- sft.py ... [--tp 2]

Every process runs the same script. With --tp t, t neighbouring ranks share one model and work on
the same rows: 8 processes with --tp 2 deal the rows into 4 parts. One process without torchrun
exchanges nothing; the functions below then return at once.
"""

import json
import os
import warnings
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from engine import machine
from engine.rows import BadInput

# Expected where one process runs alone.
warnings.filterwarnings("ignore", "torch.distributed is disabled")

# A rank may wait for another's long texts, longer than torch's default of 10 (NCCL) or 30 minutes.
TIMEOUT = timedelta(days=7)


class Ranks(NamedTuple):
    """This process among the others: it has part `index` of `n` parts of the rows."""

    device: str
    index: int = 0
    n: int = 1
    group: dist.ProcessGroup | None = None  # the ranks that share one model with this one
    leads: bool = True  # the one process that prints and writes what is common
    writes: bool = True  # the one process, of those that share a model, that writes its rows
    mesh: DeviceMesh | None = None  # (dp, tp), if the model is trained in shards

    @property
    def is_alone(self):
        return self.n == 1 and self.group is None


def join_ranks(device="cpu", tp=1, shards=False):
    """Join the processes that torchrun has started -> Ranks.

    tp: number of neighbouring ranks that share one model. BadInput if it does not divide them.
    shards: train in shards over all ranks (engine/sharding.py), even over a single one.
    """
    machine.check_device(device)
    world = int(os.environ.get("WORLD_SIZE", 0))  # 0: not started by torchrun
    n_processes = max(world, 1)
    if n_processes % tp:
        noun = "process" if n_processes == 1 else "processes"
        raise BadInput(
            f"--tp {tp}: does not divide {n_processes} {noun} (torchrun --nproc-per-node)"
        )
    if world == 0 or (world == 1 and not shards):
        return Ranks(device)

    if torch.device(device).type == "mps":
        raise BadInput(f"--device {device}: one process only, not under torchrun")
    device = _start_backend(device)
    rank = dist.get_rank()
    mesh = None
    group = None
    if shards:
        kind = torch.device(device).type
        mesh = init_device_mesh(kind, (world // tp, tp), mesh_dim_names=("dp", "tp"))
        group = mesh.get_group("tp")
    elif tp > 1:
        # Every rank has to create every group, also those that it is not in.
        groups = [
            dist.new_group(range(first, first + tp), TIMEOUT) for first in range(0, world, tp)
        ]
        group = groups[rank // tp]
    return Ranks(
        device,
        index=rank // tp,
        n=world // tp,
        group=group,
        leads=rank == 0,
        writes=rank % tp == 0,
        mesh=mesh,
    )


def _start_backend(device):
    """Start torch.distributed, once -> this rank's own device."""
    backend = "gloo"
    if torch.device(device).type == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # gloo, too: offloaded shards are gathered from the CPU
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=TIMEOUT)
    return device


def barrier(ranks):
    """Wait until every process has come here."""
    if not ranks.is_alone:
        dist.barrier()


def sum_over_ranks(numbers, ranks):
    """Sum each process's number, or list of numbers, over the parts of the rows.

    Ranks that share a model have the same numbers, which count once.
    """
    if ranks.is_alone:
        return numbers
    summed = torch.tensor(numbers, device=ranks.device)
    if not ranks.writes:
        summed.zero_()
    dist.all_reduce(summed)
    return summed.tolist()


def gather_from_ranks(value, ranks):
    """Collect one value from each part of the rows -> list, in the order of the parts.

    Values travel as JSON. torch's all_gather_object would unpickle them, and a pickle can run code.
    """
    if ranks.is_alone:
        return [value]
    encoded = bytearray(json.dumps(value).encode())
    mine = torch.frombuffer(encoded, dtype=torch.uint8).to(ranks.device)

    world = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64, device=ranks.device) for _ in range(world)]
    dist.all_gather(sizes, torch.full_like(sizes[0], len(mine)))
    sizes = [int(size) for size in sizes]

    # all_gather wants tensors of one length: pad to the longest.
    longest = max(sizes)
    texts = [torch.zeros(longest, dtype=torch.uint8, device=ranks.device) for _ in range(world)]
    dist.all_gather(texts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    values = [
        json.loads(bytes(text[:size].tolist())) for text, size in zip(texts, sizes, strict=True)
    ]
    tp = world // ranks.n  # neighbours that share a model sent the same value
    return values[::tp]
