"""Log-probability, entropy, rank and KL of given rows of logits, in Triton: the online softmax.

A softmax needs the largest logit and the sum of all exponentials before it knows its first
probability. That makes three passes over memory when each step is a call of torch. The online
softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) makes one pass. It keeps the largest logit
so far, m, and sums of terms relative to it. With u_v = z_v - m:
    s = Σ e^u_v                         logsumexp  L = m + log s
    t = Σ e^u_v u_v                     entropy    H = log s - t / s
    a = Σ e^u_p (u_p - u_q)             KL(p‖q)      = a / s_p - log s_p + log s_q
because log p_v = u_v - log s and p_v = e^u_v / s.

When a larger logit comes, m becomes m', and each old u becomes u + δ with δ = m - m' ≤ 0. Put that
into the sums:
    s' = Σ e^(u + δ)                                = e^δ s
    t' = Σ e^(u + δ) (u + δ)                        = e^δ (t + δ s)
    a' = Σ e^(u_p + δ_p) (u_p + δ_p - u_q - δ_q)    = e^δ_p (a + (δ_p - δ_q) s_p)
All terms are of the order of log V, however large the logits are, so nothing cancels. `absorb` and
`absorb_pair` are these lines; linear.py uses them, too.

The plain PyTorch twins are log_softmax_kl and part_statistics in reference.py.
Shapes: N rows, V columns, R rows and C columns of a tile. Here R = 1.
"""

import torch
import triton
import triton.language as tl

from kernels import reference

# The largest logit before any was seen. Finite, because 0 · inf is NaN.
LOWEST = tl.constexpr(-1e38)
# Logits of a row at a time.
BLOCK = 4096


# ---- the online softmax


@triton.jit
def absorb(top, total, moment, z):
    """Take the logits z (R, C) into m = top, s = total and t = moment, (R,) each."""
    # The largest logit so far, and the new logits relative to it: u <= 0, so e^u cannot overflow.
    new_top = tl.maximum(top, tl.max(z, 1))
    u = z - new_top[:, None]  # (R, C)
    e = tl.exp(u)  # (R, C)
    # The old sums become relative to the new m: t' = e^δ (t + δ s) and s' = e^δ s. Then add.
    delta = top - new_top
    shrink = tl.exp(delta)
    moment = shrink * (moment + delta * total) + tl.sum(e * u, 1)
    total = shrink * total + tl.sum(e, 1)
    return new_top, total, moment


@triton.jit
def absorb_pair(top_p, total_p, gap_p, top_q, total_q, gap_q, z_p, z_q):
    """Take the logits z_p and z_q (R, C) into m, s and a = gap of both sides, (R,) each.

    gap_p sums e^u_p (u_p - u_q), for KL(p‖q); gap_q sums e^u_q (u_q - u_p), for KL(q‖p).
    """
    new_p = tl.maximum(top_p, tl.max(z_p, 1))
    new_q = tl.maximum(top_q, tl.max(z_q, 1))
    u_p = z_p - new_p[:, None]  # (R, C)
    u_q = z_q - new_q[:, None]
    e_p = tl.exp(u_p)
    e_q = tl.exp(u_q)
    # a' = e^δ_p (a + (δ_p - δ_q) s_p). It reads the old s, so s comes after it.
    delta_p = top_p - new_p
    delta_q = top_q - new_q
    shrink_p = tl.exp(delta_p)
    shrink_q = tl.exp(delta_q)
    gap_p = shrink_p * (gap_p + (delta_p - delta_q) * total_p) + tl.sum(e_p * (u_p - u_q), 1)
    gap_q = shrink_q * (gap_q + (delta_q - delta_p) * total_q) + tl.sum(e_q * (u_q - u_p), 1)
    total_p = shrink_p * total_p + tl.sum(e_p, 1)
    total_q = shrink_q * total_q + tl.sum(e_q, 1)
    return new_p, total_p, gap_p, new_q, total_q, gap_q


# ---- log-probability, entropy and rank


@triton.jit
def _row_statistics(
    logits,  # (N, V), rows `stride` apart
    target,  # (N,)
    out_logit,  # (N,) each
    out_logsumexp,
    out_entropy,
    out_rank,
    n_columns,
    stride,
    BLOCK: tl.constexpr,
):
    """Read one row of logits, BLOCK at a time, and write its four numbers. Grid (N,)."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    own = tl.load(logits + tl.load(target + row)).to(tl.float32)
    top = tl.full([1], LOWEST, tl.float32)
    total = tl.zeros([1], tl.float32)
    moment = tl.zeros([1], tl.float32)
    above = tl.zeros([1], tl.int32)
    for start in range(0, n_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]  # (1, C)
        inside = column < n_columns
        z = tl.load(logits + column, mask=inside).to(tl.float32)
        z = tl.where(inside, z, LOWEST)
        top, total, moment = absorb(top, total, moment, z)
        above += tl.sum((z > own).to(tl.int32), 1)
    place = row + tl.arange(0, 1)
    tl.store(out_logit + place, own)
    tl.store(out_logsumexp + place, top + tl.log(total))
    tl.store(out_entropy + place, tl.log(total) - moment / total)
    tl.store(out_rank + place, 1 + above)


@triton.jit
def _row_gradient(
    logits,  # (N, V), rows `stride` apart
    target,  # (N,), and all that follow but the last
    logsumexp,
    entropy,
    grad_logit,
    grad_logsumexp,
    grad_entropy,
    out,  # (N, V)
    n_columns,
    stride,
    BLOCK: tl.constexpr,
):
    """Write BLOCK columns of one row of ∂loss/∂z. Grid (N, blocks of columns).

    ∂/∂z_v = p_v (g_L + g_H (L - H - z_v)) + g_target [v = target],  p_v = e^(z_v - L)
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # (C,)
    inside = column < n_columns
    z = tl.load(logits + row * stride + column, mask=inside).to(tl.float32)
    total = tl.load(logsumexp + row)
    mean = total - tl.load(entropy + row)  # Σ_v p_v z_v = L - H
    factor = tl.load(grad_logsumexp + row) + tl.load(grad_entropy + row) * (mean - z)
    slope = tl.exp(z - total) * factor
    slope += tl.where(column == tl.load(target + row), tl.load(grad_logit + row), 0.0)
    tl.store(out + row * n_columns + column, slope.to(out.dtype.element_ty), mask=inside)


class _RowStatistics(torch.autograd.Function):
    """logits (N, V), target (N,) -> logit of the target, logsumexp, entropy, rank, (N,) each."""

    @staticmethod
    def forward(ctx, logits, target):
        n, n_columns = logits.shape
        logit = torch.empty(n, dtype=torch.float32, device=logits.device)
        logsumexp = torch.empty_like(logit)
        entropy = torch.empty_like(logit)
        rank = torch.empty(n, dtype=torch.int64, device=logits.device)
        out = logit, logsumexp, entropy, rank
        size = n_columns, logits.stride(0)
        _row_statistics[(n,)](logits, target, *out, *size, BLOCK, num_warps=8)
        ctx.save_for_backward(logits, target, logsumexp, entropy)
        ctx.mark_non_differentiable(rank)
        return out

    @staticmethod
    def backward(ctx, grad_logit, grad_logsumexp, grad_entropy, _):
        logits, target, logsumexp, entropy = ctx.saved_tensors
        grads = [g.contiguous() for g in (grad_logit, grad_logsumexp, grad_entropy)]
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        n, n_columns = logits.shape
        grid = n, triton.cdiv(n_columns, BLOCK)
        given = logits, target, logsumexp, entropy, *grads
        size = n_columns, logits.stride(0)
        _row_gradient[grid](*given, out, *size, BLOCK, num_warps=8)
        return out, None


def log_softmax_statistics(logits, target):
    """logits (N, V), target (N,) int64 -> TokenStats but for argmax, 0 where target is IGNORED.

    All but the rank are differentiable in the logits. Raises ValueError as reference.token_stats.
    """
    n, n_columns = logits.shape
    target, ignored = reference.check_target(target, n, n_columns, logits.device)
    logit, logsumexp, entropy, rank = _RowStatistics.apply(_with_dense_rows(logits), target)
    values = {"logp": logit - logsumexp, "entropy": entropy, "rank": rank, "logsumexp": logsumexp}
    return reference.TokenStats(**{name: x.masked_fill(ignored, 0) for name, x in values.items()})


# ---- KL


@triton.jit
def _row_kl(
    logits_p,  # (N, V), rows stride_p apart
    logits_q,
    out_forward,  # (N,)
    out_reverse,
    n_columns,
    stride_p,
    stride_q,
    BLOCK: tl.constexpr,
):
    """Read one row of both logits, BLOCK at a time, and write KL(p‖q) and KL(q‖p). Grid (N,)."""
    row = tl.program_id(0).to(tl.int64)
    lowest = tl.full([1], LOWEST, tl.float32)
    zero = tl.zeros([1], tl.float32)
    top_p, total_p, gap_p = lowest, zero, zero
    top_q, total_q, gap_q = lowest, zero, zero
    for start in range(0, n_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]  # (1, C)
        inside = column < n_columns
        z_p = tl.load(logits_p + row * stride_p + column, mask=inside).to(tl.float32)
        z_q = tl.load(logits_q + row * stride_q + column, mask=inside).to(tl.float32)
        z_p = tl.where(inside, z_p, LOWEST)
        z_q = tl.where(inside, z_q, LOWEST)
        top_p, total_p, gap_p, top_q, total_q, gap_q = absorb_pair(
            top_p, total_p, gap_p, top_q, total_q, gap_q, z_p, z_q
        )
    ratio = tl.log(total_q) - tl.log(total_p)
    place = row + tl.arange(0, 1)
    tl.store(out_forward + place, gap_p / total_p + ratio)
    tl.store(out_reverse + place, gap_q / total_q - ratio)


def log_softmax_kl(logits_p, logits_q):
    """reference.log_softmax_kl in one pass over both logits, without a gradient."""
    reference.check_logits(logits_p, logits_q)
    logits_p, logits_q = _with_dense_rows(logits_p), _with_dense_rows(logits_q)
    n, n_columns = logits_p.shape
    forward = torch.empty(n, dtype=torch.float32, device=logits_p.device)
    reverse = torch.empty_like(forward)
    size = n_columns, logits_p.stride(0), logits_q.stride(0)
    _row_kl[(n,)](logits_p, logits_q, forward, reverse, *size, BLOCK, num_warps=8)
    return forward, reverse


def _with_dense_rows(logits):
    """The logits, copied unless the numbers of a row are neighbours in memory."""
    return logits if logits.stride(1) == 1 else logits.contiguous()
