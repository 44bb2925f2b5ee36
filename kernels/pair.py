"""Compare two models token by token: log-probability, rank and entropy under both, and KL both ways.

For analysis. On a CPU the products with the two heads are nearly all of the work. token_stats and
token_kl one after another would make each product three times; here each is made once. Chunks of
the vocabulary are merged as in kernels/reference.py.
"""

import torch

import kernels
from kernels import reference

NAMES = "tuned", "base"  # p and q of the KL


def token_numbers(tuned, base, target):
    """(hidden (N, D), Head) of two models, target (N,) -> {name: (N,)}.

    Names: kl_forward = KL(tuned‖base), kl_reverse = KL(base‖tuned), and logp, rank and entropy of
    both, as logp_tuned, logp_base, ... The widths D of the two models may differ.
    """
    if target.is_cuda:
        return _by_kernels(tuned, base, target)
    return _by_chunks(tuned, base, target)


def _by_kernels(tuned, base, target):
    numbers = {}
    for name, (hidden, head) in zip(NAMES, (tuned, base)):
        stats = kernels.token_stats(hidden, head, target, want=("logp", "rank", "entropy"))
        numbers[f"logp_{name}"] = stats.logp
        numbers[f"rank_{name}"] = stats.rank
        numbers[f"entropy_{name}"] = stats.entropy
    numbers["kl_forward"], numbers["kl_reverse"] = kernels.token_kl(*tuned, *base)
    return numbers


def _by_chunks(tuned, base, target):
    n, n_vocab = len(target), len(tuned[1].weight)
    size = reference.columns(2 * n, n_vocab)  # two pairs of tensors at a time
    dtype = torch.promote_types(tuned[0].dtype, torch.float32)
    room = torch.empty(4, n * size, dtype=dtype)
    sides = tuned, base
    own = [_target_logit(hidden, head, target) for hidden, head in sides]  # (N,) each
    above = [torch.zeros(n, dtype=torch.int64) for _ in sides]
    parts = []
    for start in range(0, n_vocab, size):
        width = min(size, n_vocab - start)
        z_p, z_q, e_p, e_q = (x[: n * width].view(n, width) for x in room)  # (N, C)
        sums = []
        for i, (z, e) in enumerate(((z_p, e_p), (z_q, e_q))):
            hidden, head = sides[i]
            made = head.part(start, start + width).logits(hidden, out=z)
            if made is not z:  # half precision: the product had no room in float32
                z.copy_(made)
            # A product with one row may round otherwise than one with many.
            inside = ((target >= start) & (target < start + width)).nonzero()[:, 0]
            z[inside, target[inside] - start] = own[i][inside]
            above[i] += torch.gt(z, own[i][:, None], out=e).sum(1).long()
            top = z.amax(1)
            z.sub_(top[:, None])
            total = torch.exp(z, out=e).sum(1)
            mean = _dot(e, z) / total  # Σ p (z - top) of the chunk
            sums.append((top, total.log(), total, mean))
        (top_p, log_p, total_p, mean_p), (top_q, log_q, total_q, mean_q) = sums
        # In the chunk, log p_v/q_v = (z_p - top_p - log_p) - (z_q - top_q - log_q): z is relative
        # to its top by now, so that it is gap + ratio.
        gap, ratio = z_p.sub_(z_q), log_q - log_p
        parts.append(
            (
                top_p + log_p,
                top_q + log_q,
                log_p - mean_p,
                log_q - mean_q,
                _dot(e_p, gap) / total_p + ratio,
                -_dot(e_q, gap) / total_q - ratio,
            )
        )
    sum_p, sum_q, entropy_p, entropy_q, forward, reverse = map(torch.stack, zip(*parts))
    numbers = {}
    numbers["kl_forward"], numbers["kl_reverse"] = reference.merge_kl(
        sum_p, sum_q, forward, reverse
    )
    for i, (sums, entropies) in enumerate(((sum_p, entropy_p), (sum_q, entropy_q))):
        logsumexp, entropy = reference.merge(sums, entropies)
        numbers[f"logp_{NAMES[i]}"] = own[i] - logsumexp
        numbers[f"rank_{NAMES[i]}"] = above[i] + 1
        numbers[f"entropy_{NAMES[i]}"] = entropy
    return numbers


def _target_logit(hidden, head, target):
    """(N,): the logit of each row's target."""
    return head.temper((hidden * head.weight[target]).sum(1))


def _dot(a, b):
    """Dot products of the rows of a and b (N, C) -> (N,)."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]
