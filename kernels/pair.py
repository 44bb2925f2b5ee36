"""All numbers of two models' next-token distributions at once: log-probability, rank and entropy under both, KL both ways.

For analysis on a CPU, where the products with the two heads are nearly all of the work: token_stats and token_kl one
after another would make each product three times.
"""

import torch

import kernels
from kernels import reference


def token_numbers(tuned, base, target):
    """(hidden (N, D), head (V, D), softcap) of two models, target (N,) -> {name: (N,)}: kl_forward (tuned‖base),
    kl_reverse, and logp, rank, entropy of both as logp_base, logp_tuned, ... On a GPU by the kernels. On a CPU both
    logits of a chunk of the vocabulary give all numbers at once, so that a head is multiplied with once, not thrice;
    chunks come together as in kernels/reference.py."""
    sides = {"tuned": tuned, "base": base}
    if target.is_cuda:
        numbers = {}
        for name, (hidden, weight, cap) in sides.items():
            stats = kernels.token_stats(
                hidden, weight, target, 1.0, cap, ("logp", "rank", "entropy")
            )
            numbers |= {
                f"{what}_{name}": getattr(stats, what) for what in ("logp", "rank", "entropy")
            }
        kl = kernels.token_kl(*tuned[:2], *base[:2], softcap_p=tuned[2], softcap_q=base[2])
        return numbers | dict(zip(("kl_forward", "kl_reverse"), kl))
    n, n_vocabulary = len(target), len(tuned[1])
    size, parts = reference.columns(2 * n, n_vocabulary), []  # two pairs of logits at a time
    dtype = torch.promote_types(tuned[0].dtype, torch.float32)
    room, own, above = (
        torch.empty(4, n * size, dtype=dtype),
        [],
        [torch.zeros(n, dtype=torch.int64) for _ in sides],
    )
    for hidden, weight, cap in sides.values():
        logit = (hidden * weight[target]).sum(1).to(dtype)
        own.append(logit if cap is None else cap * torch.tanh(logit / cap))

    def dot(a, b):  # of each row
        return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]

    for start in range(0, n_vocabulary, size):
        width = min(size, n_vocabulary - start)
        z_p, z_q, e_p, e_q = (x[: n * width].view(n, width) for x in room)  # (N, C)
        here = ((target >= start) & (target < start + width)).nonzero()[:, 0]
        sums = []
        for (hidden, weight, cap), z, e, logit, count in zip(
            sides.values(), (z_p, z_q), (e_p, e_q), own, above
        ):
            part = weight[start : start + width]
            z = (
                torch.mm(hidden, part.T, out=z)
                if z.dtype == hidden.dtype
                else z.copy_(hidden @ part.T)
            )
            if cap is not None:
                z.div_(cap).tanh_().mul_(cap)
            # a product with one row may round otherwise than with many
            z[here, target[here] - start] = logit[here]
            count += torch.gt(z, logit[:, None], out=e).sum(1).long()
            top = z.amax(1)
            total = torch.exp(z.sub_(top[:, None]), out=e).sum(1)
            sums.append((top, total, dot(e, z) / total))  # of the chunk: Σ p z
        (top_p, sum_p, mean_p), (top_q, sum_q, mean_q) = sums
        entropies = sum_p.log() - mean_p, sum_q.log() - mean_q
        gap, ratio = z_p.sub_(z_q), sum_q.log() - sum_p.log()  # log p/q in the chunk is their sum
        parts.append(
            (
                top_p + sum_p.log(),
                top_q + sum_q.log(),
                *entropies,
                dot(e_p, gap) / sum_p + ratio,
                -dot(e_q, gap) / sum_q - ratio,
            )
        )
    sum_p, sum_q, entropy_p, entropy_q, forward, reverse = map(torch.stack, zip(*parts))
    numbers = dict(
        zip(("kl_forward", "kl_reverse"), reference.merge_kl(sum_p, sum_q, forward, reverse))
    )
    for name, sums, entropy, logit, count in zip(
        sides, (sum_p, sum_q), (entropy_p, entropy_q), own, above
    ):
        total, whole = reference.merge(sums, entropy)
        numbers |= {
            f"logp_{name}": logit - total,
            f"rank_{name}": count + 1,
            f"entropy_{name}": whole,
        }
    return numbers
