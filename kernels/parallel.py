"""token_stats for a head whose vocabulary is sharded over ranks.

After Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053, section 3). Each rank holds all hidden
states and some rows of the head. Its shard is a part of the vocabulary like a chunk or a tile: the
ranks exchange a few numbers per token, reference.merge_parts joins them, and all ranks compute the
same loss. Backward, a rank's own numbers give the gradient of its shard. The hidden states are used
by all ranks, so their gradient is summed over ranks.
"""

import torch
import torch.distributed as dist

from kernels import reference


def token_stats(
    hidden, head, target, offset, group=None, temperature=1.0, want=("logp",), backend=reference
):
    """reference.token_stats for the entries offset .. offset + V_rank - 1 of the vocabulary.

    hidden (N, D) and target (N,), counted over the whole vocabulary, are the same on all ranks.
    head: this rank's shard. Returns the same TokenStats on all ranks, and all must differentiate
    the same loss of them. Raises ValueError if the shards do not follow one another in the order of
    ranks.
    """
    hidden, head = reference.check_inputs(hidden, head, temperature, want)
    end = offset + len(head.weight)
    bounds = _gather(torch.tensor([offset, end], device=hidden.device), group)  # (ranks, 2)
    starts, ends = bounds.T.tolist()
    if [0, *ends[:-1]] != starts:
        raise ValueError(
            f"shards start at {starts} and end at {ends}: they must follow one another"
        )
    target, ignored = reference.check_target(target, len(hidden), ends[-1], hidden.device)
    inside = (target >= offset) & (target < end) & ~ignored  # (N,)
    local = torch.where(inside, target - offset, -1)

    threshold = None
    if "rank" in want:
        # Only one rank has the logit of a target, but all count the logits above it.
        fixed = head._replace(weight=head.weight.detach())
        own = backend.statistics(hidden.detach(), fixed, local, None, temperature, ())
        threshold = own.logit.masked_fill(~inside, 0)
        dist.all_reduce(threshold, group=group)

    shared = _Shared.apply(hidden, group)
    stats = reference.differentiable_statistics(
        shared, head, local, threshold, temperature, want, backend
    )
    stats = stats._replace(logit=stats.logit.masked_fill(~inside, 0))
    if stats.argmax is not None:
        stats = stats._replace(argmax=stats.argmax + offset)
    parts = reference.PartStats(*(None if x is None else _gather(x, group) for x in stats))
    return reference.token_stats_of(reference.merge_parts(parts), want, ignored)


class _Shared(torch.autograd.Function):
    """A tensor that all ranks hold alike and use differently: gradients are summed over ranks."""

    @staticmethod
    def forward(ctx, hidden, group):
        ctx.group = group
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient):
        exact = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.contiguous().to(exact, copy=True)
        dist.all_reduce(total, group=ctx.group)
        return total.to(gradient.dtype), None


def _gather(x, group):
    """x (N,) on each rank -> (ranks, N). Only this rank's own row carries a gradient."""
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, x.detach().contiguous(), group=group)
    rows[dist.get_rank(group)] = x
    return torch.stack(rows)
