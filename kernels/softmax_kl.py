"""Statistics of given rows of logits: log-probability, entropy, rank, and KL between two of them. Start reading here.

A softmax needs the largest logit and the sum over all of them before its first probability is known, which is three
passes over memory when each step is a call of torch. The online softmax (Milakov and Gimelshein 2018, 1805.02867)
takes one: keep the largest logit so far, m, and sums relative to it. With u = z - m:

    s = Σ e^u,   t = Σ e^u u                  logsumexp L = m + log s,   entropy H = log s - t / s
    a = Σ e^(u_p) (u_p - u_q)                 KL(p‖q) = a / s_p - log s_p + log s_q

When a larger logit comes, m becomes m' and every u grows by δ = m - m' ≤ 0, so that the sums become

    s' = e^δ s,   t' = e^δ (t + δ s),         a' = e^δ_p (a + (δ_p - δ_q) s_p)

All terms are of the order of log V, however large the logits are: nothing cancels. Gradients, given those of L, H and
the target's logit:  ∂/∂z_v = p_v (g_L + g_H (L - H - z_v)) + g_target [v = target],  p_v = e^(z_v - L).
"""

import torch
import triton
import triton.language as tl

from kernels import reference

# the largest logit before any was seen; finite, because 0 · inf is NaN
LOWEST = tl.constexpr(-1e38)
BLOCK = 4096  # logits of a row at a time


@triton.jit
def absorb(top, total, lean, z):
    """Take the columns z (R, C) into m, s and t, each (R,)."""
    new_top = tl.maximum(top, tl.max(z, 1))
    shift = top - new_top
    u = z - new_top[:, None]
    e = tl.exp(u)
    lean = tl.exp(shift) * (lean + shift * total) + tl.sum(e * u, 1)
    return new_top, tl.exp(shift) * total + tl.sum(e, 1), lean


@triton.jit
def absorb_pair(top_p, total_p, gap_p, top_q, total_q, gap_q, z_p, z_q):
    """Take the columns z_p and z_q (R, C) into m, s and a of both sides, each (R,)."""
    new_p, new_q = tl.maximum(top_p, tl.max(z_p, 1)), tl.maximum(top_q, tl.max(z_q, 1))
    shift_p, shift_q = top_p - new_p, top_q - new_q
    u_p, u_q = z_p - new_p[:, None], z_q - new_q[:, None]
    e_p, e_q = tl.exp(u_p), tl.exp(u_q)
    gap_p = tl.exp(shift_p) * (gap_p + (shift_p - shift_q) * total_p) + tl.sum(e_p * (u_p - u_q), 1)
    gap_q = tl.exp(shift_q) * (gap_q + (shift_q - shift_p) * total_q) + tl.sum(e_q * (u_q - u_p), 1)
    total_p = tl.exp(shift_p) * total_p + tl.sum(e_p, 1)
    total_q = tl.exp(shift_q) * total_q + tl.sum(e_q, 1)
    return new_p, total_p, gap_p, new_q, total_q, gap_q


@triton.jit
def _row_statistics(
    logits, target, logit, logsumexp, entropy, rank, n_columns, stride, BLOCK: tl.constexpr
):
    """One row of logits per program -> one number of each kind."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    own = tl.load(logits + tl.load(target + row)).to(tl.float32)
    top, total, lean = (
        tl.full([1], LOWEST, tl.float32),
        tl.zeros([1], tl.float32),
        tl.zeros([1], tl.float32),
    )
    above = tl.zeros([1], tl.int32)
    for start in range(0, n_columns, BLOCK):
        v = start + tl.arange(0, BLOCK)[None, :]  # (1, C)
        z = tl.where(v < n_columns, tl.load(logits + v, mask=v < n_columns).to(tl.float32), LOWEST)
        top, total, lean = absorb(top, total, lean, z)
        above += tl.sum((z > own).to(tl.int32), 1)
    one = row + tl.arange(0, 1)
    tl.store(logit + one, own)
    tl.store(logsumexp + one, top + tl.log(total))
    tl.store(entropy + one, tl.log(total) - lean / total)
    tl.store(rank + one, 1 + above)


@triton.jit
def _row_gradient(
    logits,
    target,
    logsumexp,
    entropy,
    for_logit,
    for_sum,
    for_entropy,
    gradient,
    n_columns,
    stride,
    BLOCK: tl.constexpr,
):
    """BLOCK columns of one row per program -> as many of the gradient (N, V)."""
    row, v = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = v < n_columns
    z = tl.load(logits + row * stride + v, mask=inside).to(tl.float32)  # (C,)
    total, spread = tl.load(logsumexp + row), tl.load(entropy + row)
    slope = tl.exp(z - total) * (
        tl.load(for_sum + row) + tl.load(for_entropy + row) * (total - spread - z)
    )
    slope += tl.where(v == tl.load(target + row), tl.load(for_logit + row), 0.0)
    tl.store(gradient + row * n_columns + v, slope.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _row_kl(
    logits_p, logits_q, forward, reverse, n_columns, stride_p, stride_q, BLOCK: tl.constexpr
):
    """One row of both logits per program -> KL(p‖q) and KL(q‖p) of that row."""
    row = tl.program_id(0).to(tl.int64)
    zero = tl.zeros([1], tl.float32)
    top_p, total_p, gap_p, top_q, total_q, gap_q = (
        zero + LOWEST,
        zero,
        zero,
        zero + LOWEST,
        zero,
        zero,
    )
    for start in range(0, n_columns, BLOCK):
        v = start + tl.arange(0, BLOCK)[None, :]  # (1, C)
        z_p = tl.load(logits_p + row * stride_p + v, mask=v < n_columns).to(tl.float32)
        z_q = tl.load(logits_q + row * stride_q + v, mask=v < n_columns).to(tl.float32)
        z_p, z_q = tl.where(v < n_columns, z_p, LOWEST), tl.where(v < n_columns, z_q, LOWEST)
        top_p, total_p, gap_p, top_q, total_q, gap_q = absorb_pair(
            top_p, total_p, gap_p, top_q, total_q, gap_q, z_p, z_q
        )
    ratio = tl.log(total_q) - tl.log(total_p)
    one = row + tl.arange(0, 1)
    tl.store(forward + one, gap_p / total_p + ratio)
    tl.store(reverse + one, gap_q / total_q - ratio)


class _RowStatistics(torch.autograd.Function):
    """logits (N, V), target (N,) -> the target's logit, logsumexp, entropy, rank, each (N,)."""

    @staticmethod
    def forward(ctx, logits, target):
        n, n_columns = logits.shape
        logit, logsumexp, entropy = (
            torch.empty(n, dtype=torch.float32, device=logits.device) for _ in range(3)
        )
        rank = torch.empty(n, dtype=torch.int64, device=logits.device)
        _row_statistics[(n,)](
            logits,
            target,
            logit,
            logsumexp,
            entropy,
            rank,
            n_columns,
            logits.stride(0),
            BLOCK,
            num_warps=8,
        )
        ctx.save_for_backward(logits, target, logsumexp, entropy)
        ctx.mark_non_differentiable(rank)
        return logit, logsumexp, entropy, rank

    @staticmethod
    def backward(ctx, for_logit, for_sum, for_entropy, _):
        logits, target, logsumexp, entropy = ctx.saved_tensors
        given = [g.contiguous() for g in (for_logit, for_sum, for_entropy)]
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        n, n_columns = logits.shape
        _row_gradient[n, triton.cdiv(n_columns, BLOCK)](
            logits,
            target,
            logsumexp,
            entropy,
            *given,
            gradient,
            n_columns,
            logits.stride(0),
            BLOCK,
            num_warps=8,
        )
        return gradient, None


def log_softmax_statistics(logits, target, ignore_index=-100):
    """logits (N, V), target (N,) int64 -> TokenStats of logp, entropy, rank and logsumexp, 0 where target is ignored.

    Differentiable in logits but for the rank. Raises ValueError as reference.token_stats does.
    """
    safe, ignored = reference.check_target(
        target, len(logits), logits.shape[1], logits.device, ignore_index
    )
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    logit, logsumexp, entropy, rank = _RowStatistics.apply(logits, safe)
    values = {"logp": logit - logsumexp, "entropy": entropy, "rank": rank, "logsumexp": logsumexp}
    return reference.TokenStats(
        **{name: value.masked_fill(ignored, 0) for name, value in values.items()}
    )


def log_softmax_kl(logits_p, logits_q):
    """As reference.log_softmax_kl, in one pass over both and without a gradient."""
    reference.check_logits(logits_p, logits_q)
    logits_p, logits_q = (x if x.stride(1) == 1 else x.contiguous() for x in (logits_p, logits_q))
    forward, reverse = (
        torch.empty(len(logits_p), dtype=torch.float32, device=logits_p.device) for _ in "pq"
    )
    _row_kl[(len(logits_p),)](
        logits_p,
        logits_q,
        forward,
        reverse,
        logits_p.shape[1],
        logits_p.stride(0),
        logits_q.stride(0),
        BLOCK,
        num_warps=8,
    )
    return forward, reverse
