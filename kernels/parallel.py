"""token_stats of a head whose vocabulary is sharded over ranks (Megatron-LM, Shoeybi et al. 2019, 1909.08053, §3).

Each rank holds some rows of the head and all hidden states. Its shard is a part of the vocabulary like any other: the
ranks exchange a few numbers per token, which reference.merge puts together as it does chunks and tiles, and all then
compute the same loss. Backward, a rank's own numbers give the gradient of its shard; that of the hidden states, which
all share, is the sum over ranks.
"""

import torch
import torch.distributed as dist

from kernels import reference


class _Shared(torch.autograd.Function):
    """What all ranks hold alike and use differently: the same forward, gradients summed over ranks."""

    @staticmethod
    def forward(ctx, hidden, group):
        ctx.group = group
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


def _gather(x, group):
    """(N,) on each rank -> (ranks, N), of which the rank's own row carries the gradient."""
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, x.detach().contiguous(), group=group)
    rows[dist.get_rank(group)] = x
    return torch.stack(rows)


def token_stats(
    hidden,
    head,
    target,
    offset,
    group=None,
    temperature=1.0,
    want=("logp",),
    ignore_index=-100,
    engine=reference,
):
    """As reference.token_stats, for a head whose weight (V_rank, D) is entries offset .. offset + V_rank of the vocabulary.

    hidden (N, D) and target (N,), counted over the whole vocabulary, are the same on all ranks, and so is what is
    returned and what is to be made of it. Shards follow one another in the order of ranks; ValueError if not.
    """
    hidden, head = reference.check(hidden, head, temperature, want)
    bounds = _gather(torch.tensor([offset, offset + len(head.weight)], device=hidden.device), group)
    starts, ends = bounds.T.tolist()
    if [0, *ends[:-1]] != starts:
        raise ValueError(
            f"shards start at {starts} and end at {ends}: they must follow one another"
        )
    _, ignored = reference.check_target(target, len(hidden), ends[-1], hidden.device, ignore_index)
    inside = (target >= offset) & (target < ends[dist.get_rank(group)]) & ~ignored
    local, hidden = torch.where(inside, target - offset, -1), _Shared.apply(hidden, group)
    threshold = None
    if "rank" in want:
        own, *_ = engine.statistics(
            hidden.detach(),
            head._replace(weight=head.weight.detach()),
            local,
            None,
            temperature,
            (),
        )
        threshold = own.masked_fill(~inside, 0)
        dist.all_reduce(threshold, group=group)
    logit, logsumexp, entropy, above, top, argmax = reference.Statistics.apply(
        hidden, *head, local, threshold, temperature, tuple(want), engine
    )
    logit = _gather(logit.masked_fill(~inside, 0), group).sum(0)
    entropies = None if entropy is None else _gather(entropy, group)
    logsumexp, entropy = reference.merge(_gather(logsumexp, group), entropies)
    if above is not None:
        dist.all_reduce(above, group=group)
    if argmax is not None:
        _, argmax = reference.merge_argmax(_gather(top, group), _gather(argmax + offset, group))
    return reference.pack(want, ignored, logit, logsumexp, entropy, above, top, argmax)
