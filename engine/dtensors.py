"""A weight that is cut over ranks: which part is here, and how to put the whole together.

PyTorch's DTensor is such a weight. `p.shape` is the shape of the whole and `p.to_local()` the part
on this rank. `p.placements` says for each dimension of the mesh of ranks whether the ranks along it
hold different parts (Shard) or the same one (Replicate).
"""

from torch.distributed.tensor import DTensor


def region(p):
    """Where this rank's part lies in the whole weight: one slice for each dimension."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, starts = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return tuple(slice(start, start + size) for size, start in zip(sizes, starts, strict=True))


def n_parts(p):
    """Into how many different parts the weight is cut. Each part is on world / n_parts ranks."""
    n = 1
    for n_ranks, placement in zip(p.device_mesh.shape, p.placements, strict=True):
        # Not is_shard(): a dimension that is cut twice has a _StridedShard, which is no Shard.
        if not placement.is_replicate():
            n *= n_ranks
    return n


def cut_like(p, local):
    """A DTensor cut as p is, with `local` as this rank's part."""
    return DTensor.from_local(
        local, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )


def whole(p, device):
    """Put a weight together on every rank, on this device. Collective: all ranks must call it."""
    local = p.detach().to_local().to(device)
    return cut_like(p, local).full_tensor()
