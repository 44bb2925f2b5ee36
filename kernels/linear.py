"""Token statistics and KL straight from hidden states and heads, in Triton.

    z = softcap(h Wᵀ) / temperature      a tile of R rows and C tokens of the vocabulary

Tensor cores make a tile of logits in registers, and it is never written to memory. One program
takes R rows and SPAN tokens of the vocabulary, tile after tile, and keeps the sums of the online
softmax (softmax_kl.py). It writes a few numbers per row: those of its part of the vocabulary, which
reference.merge_parts joins. That is SPAN / 5 times less memory than the logits. The idea of not
storing logits is that of Liger (arXiv 2410.10989) and of cut cross-entropy (Wijmans et al. 2024,
arXiv 2411.09009).

The rank needs the target's logit before the others are counted. So a first kernel computes it, as
the diagonal of tiles of the same shape and with the same order of sums: then equal logits compare
equal.

Backward, the vocabulary is cut into N_PARTS parts. _logit_gradient makes a part's logits again and
writes their gradient, in half precision for half-precision inputs. Two products by torch (cuBLAS)
turn it into the gradients of hidden states and weight. A kernel that did it all would have to make
the logits twice, once for each gradient, or add D numbers up in memory for each C logits. Forward
and backward together take four products of N · V · D, one more than if logits were stored.

The plain PyTorch twins are statistics, logit_gradient and token_kl in reference.py.
Shapes: N tokens, D width, V vocabulary, R x C a tile of logits, BLOCK_D of D at a time.
"""

import functools
import sys

import torch
import triton
import triton.language as tl

from kernels import reference
from kernels.reference import PartStats
from kernels.softmax_kl import LOWEST, absorb, absorb_pair

# Tokens of the vocabulary per program. Small enough to have many programs for any N; the numbers
# that programs write then take 1% of the memory of fp32 logits.
SPAN = 512
# Blocks of rows that run side by side on the same tokens, so that both stay in the cache.
GROUP = 16
# Parts of the backward pass: the gradient of a sixteenth of the logits is 3% of fp32 logits.
N_PARTS = 16
TILES = {
    # In half precision.
    True: dict(BLOCK_R=128, BLOCK_C=128, BLOCK_D=64, num_warps=8, num_stages=3),
    # In float32, which is not for speed.
    False: dict(BLOCK_R=32, BLOCK_C=32, BLOCK_D=32, num_warps=4, num_stages=3),
}
# Few enough registers that one program multiplies while another takes its sums.
PAIRED = dict(maxnreg=128)


# ---- shared by the kernels


@triton.jit
def _tile_logits(
    hidden,  # (N, D)
    weight,  # (V, D)
    rows,  # (R,) rows of hidden
    tokens,  # (C,) rows of weight
    width,
    inverse,  # 1 / temperature
    CAP: tl.constexpr,  # softcap, or 0 for none
    BLOCK_D: tl.constexpr,
):
    """z of these rows and tokens: (R, C) in float32."""
    d = tl.arange(0, BLOCK_D)
    h = hidden + rows.to(tl.int64)[:, None] * width + d[None, :]  # (R, BLOCK_D) addresses
    w = weight + tokens.to(tl.int64)[None, :] * width + d[:, None]  # (BLOCK_D, C) addresses
    z = tl.zeros([rows.shape[0], tokens.shape[0]], tl.float32)
    for start in range(0, width, BLOCK_D):
        inside = d < width - start
        h_tile = tl.load(h, mask=inside[None, :], other=0.0)
        w_tile = tl.load(w, mask=inside[:, None], other=0.0)
        z = tl.dot(h_tile, w_tile, z, input_precision="ieee")
        h += BLOCK_D
        w += BLOCK_D
    if CAP > 0:
        # c · tanh(z / c), with tanh(x) = 2 sigmoid(2x) - 1
        z = CAP * (2 * tl.sigmoid(2 / CAP * z) - 1)
    return z * inverse


@triton.jit
def _place(n_rows, n_vocab, BLOCK_R: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr):
    """-> (this program's rows (R,), which of them exist (R,), its span of the vocabulary).

    Grid (blocks of rows · spans,): GROUP blocks of rows go through the spans together. Rows past
    the last one are computed as copies of it and not stored.
    """
    n_blocks = tl.cdiv(n_rows, BLOCK_R)
    n_spans = tl.cdiv(n_vocab, SPAN)
    program = tl.program_id(0)
    block, span = tl.swizzle2d(program // n_spans, program % n_spans, n_blocks, n_spans, GROUP)
    rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
    return tl.minimum(rows, n_rows - 1), rows < n_rows, span


# ---- forward


@triton.jit
def _target_logits(
    hidden,  # (N, D)
    weight,  # (V, D)
    target,  # (N,)
    out,  # (N,)
    n_rows,
    width,
    inverse,
    CAP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the logit of each row's target. Grid (blocks of rows,).

    A program makes the tile of its R rows and their R targets, and keeps the diagonal.
    """
    i = tl.arange(0, BLOCK_R)
    rows = tl.program_id(0) * BLOCK_R + i
    real = rows < n_rows
    # A target of -1 is in another rank's shard: any token will do.
    tokens = tl.maximum(tl.load(target + rows, mask=real, other=0), 0)
    rows_read = tl.minimum(rows, n_rows - 1)
    z = _tile_logits(hidden, weight, rows_read, tokens, width, inverse, CAP, BLOCK_D)  # (R, R)
    diagonal = tl.where(i[:, None] == i[None, :], z, 0.0)
    tl.store(out + rows, tl.sum(diagonal, 1), mask=real)


@triton.jit
def _statistics(
    hidden,  # (N, D)
    weight,  # (V, D)
    target,  # (N,)
    threshold,  # (N,)
    out,  # (5, spans, N)
    n_rows,
    n_vocab,
    width,
    inverse,
    CAP: tl.constexpr,
    RANK: tl.constexpr,
    ARGMAX: tl.constexpr,
    SPAN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write logsumexp, entropy, count above threshold, largest logit and its token of R rows and
    SPAN tokens. Grid: see _place."""
    rows, real, span = _place(n_rows, n_vocab, BLOCK_R, SPAN, GROUP)
    zero = tl.zeros([BLOCK_R], tl.float32)
    top, total, moment = zero + LOWEST, zero, zero  # (R,) each
    above, best = zero, zero
    if RANK:
        own = tl.load(target + rows)[:, None]  # (R, 1)
        bound = tl.load(threshold + rows)[:, None]  # (R, 1)
    end = tl.minimum(span * SPAN + SPAN, n_vocab)
    for first in range(span * SPAN, end, BLOCK_C):
        v = first + tl.arange(0, BLOCK_C)  # (C,)
        tokens = tl.minimum(v, n_vocab - 1)
        z = _tile_logits(hidden, weight, rows, tokens, width, inverse, CAP, BLOCK_D)  # (R, C)
        z = tl.where(v < n_vocab, z, LOWEST)
        if RANK:
            # The target is never above itself, whatever the rounding.
            above += tl.sum(((z > bound) & (v != own)).to(tl.float32), 1)
        if ARGMAX:
            largest = tl.max(z, 1)
            place = tl.min(tl.where(z == largest[:, None], v, n_vocab - 1), 1)
            best = tl.where(largest > top, place.to(tl.float32), best)
        top, total, moment = absorb(top, total, moment, z)
    out += span.to(tl.int64) * n_rows + rows
    field = tl.cdiv(n_vocab, SPAN).to(tl.int64) * n_rows  # from one number's (spans, N) to the next
    tl.store(out, top + tl.log(total), mask=real)
    tl.store(out + field, tl.log(total) - moment / total, mask=real)
    tl.store(out + 2 * field, above, mask=real)
    tl.store(out + 3 * field, top, mask=real)
    # Counts and token ids are exact in float32 up to 16 million.
    tl.store(out + 4 * field, best, mask=real)


def statistics(hidden, head, target, threshold, temperature, want):
    """As reference.statistics."""
    (hidden, weight), tile = _dense_and_tile(hidden, head.weight)
    temperature, softcap = head.fold(temperature)
    n, width = hidden.shape
    n_vocab = len(weight)
    n_blocks = triton.cdiv(n, tile["BLOCK_R"])
    n_spans = triton.cdiv(n_vocab, SPAN)
    settings = width, 1 / temperature, float(softcap or 0)

    logit = torch.empty(n, dtype=torch.float32, device=hidden.device)
    square = {name: x for name, x in tile.items() if name != "BLOCK_C"}
    _target_logits[(n_blocks,)](hidden, weight, target, logit, n, *settings, **square)

    rank, argmax = "rank" in want, "argmax" in want
    # With these two, or on an A100, so few registers would spill.
    if _hopper(hidden.device) and hidden.element_size() == 2 and not (rank or argmax):
        tile |= PAIRED
    out = torch.empty(5, n_spans, n, dtype=torch.float32, device=hidden.device)
    _statistics[(n_blocks * n_spans,)](
        hidden,
        weight,
        target,
        logit if threshold is None else threshold,
        out,
        n,
        n_vocab,
        *settings,
        RANK=rank,
        ARGMAX=argmax,
        SPAN=SPAN,
        GROUP=GROUP,
        **tile,
    )
    parts = PartStats(
        logit=logit[None],
        logsumexp=out[0],
        entropy=out[1] if "entropy" in want else None,
        above=out[2] if rank else None,
        top=out[3] if argmax else None,
        argmax=out[4] if argmax else None,
    )
    return reference.merge_parts(parts)


# ---- backward


@triton.jit
def _logit_gradient(
    hidden,  # (N, D)
    weight,  # (V, D), V tokens of one part of the head
    target,  # (N,) counted from the part's first token, and all that follow but the last
    logsumexp,
    entropy,
    grad_logit,
    grad_logsumexp,
    grad_entropy,
    out,  # (N, V)
    n_rows,
    n_vocab,
    width,
    inverse,
    CAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write R x C numbers of ∂loss/∂(h Wᵀ). Grid: see _place, with BLOCK_C for a span."""
    rows, real, column = _place(n_rows, n_vocab, BLOCK_R, BLOCK_C, GROUP)
    v = column * BLOCK_C + tl.arange(0, BLOCK_C)  # (C,)
    tokens = tl.minimum(v, n_vocab - 1)
    z = _tile_logits(hidden, weight, rows, tokens, width, inverse, CAP, BLOCK_D)  # (R, C)
    # ∂/∂z_v = p_v (g_L + g_H (L - H - z_v)) + g_target [v = target],  p_v = e^(z_v - L)
    total = tl.load(logsumexp + rows)
    factor = tl.load(grad_logsumexp + rows)[:, None]
    if ENTROPY:
        mean = (total - tl.load(entropy + rows))[:, None]  # Σ_v p_v z_v = L - H
        factor += tl.load(grad_entropy + rows)[:, None] * (mean - z)
    slope = tl.exp(z - total[:, None]) * factor
    own = v[None, :] == tl.load(target + rows)[:, None]
    slope += tl.where(own, tl.load(grad_logit + rows)[:, None], 0.0)
    if CAP > 0:
        # z = c · tanh(x / c) / T has the slope (1 - tanh²(x / c)) / T in x.
        capped = z / (inverse * CAP)
        slope *= 1 - capped * capped
    place = out + rows.to(tl.int64)[:, None] * n_vocab + v[None, :]
    inside = real[:, None] & (v < n_vocab)[None, :]
    tl.store(place, (slope * inverse).to(out.dtype.element_ty), mask=inside)


def logit_gradient(hidden, head, target, stats, grad, temperature):
    """As reference.logit_gradient."""
    (hidden, weight), tile = _dense_and_tile(hidden, head.weight)
    temperature, softcap = head.fold(temperature)
    n, width = hidden.shape
    n_vocab = len(weight)
    has_entropy = grad.entropy is not None
    numbers = [stats.logsumexp, stats.entropy, grad.logit, grad.logsumexp, grad.entropy]
    if not has_entropy:
        numbers[1] = numbers[4] = stats.logsumexp  # not read
    out = torch.empty(n, n_vocab, dtype=hidden.dtype, device=hidden.device)
    grid = (triton.cdiv(n, tile["BLOCK_R"]) * triton.cdiv(n_vocab, tile["BLOCK_C"]),)
    _logit_gradient[grid](
        hidden,
        weight,
        target,
        *(x.contiguous() for x in numbers),
        out,
        n,
        n_vocab,
        width,
        1 / temperature,
        float(softcap or 0),
        ENTROPY=has_entropy,
        GROUP=GROUP,
        **tile,
    )
    return out


def chunk_size(n_rows, n_vocab):
    """Tokens of a part of the backward pass: whole tiles."""
    return triton.cdiv(triton.cdiv(n_vocab, N_PARTS), 128) * 128


token_stats = functools.partial(reference.token_stats, backend=sys.modules[__name__])


# ---- KL of two models


@triton.jit
def _kl(
    hidden_p,  # (N, D)
    weight_p,  # (V, D)
    hidden_q,  # (N, E)
    weight_q,  # (V, E)
    out,  # (4, spans, N)
    n_rows,
    n_vocab,
    width_p,
    width_q,
    inverse_p,
    inverse_q,
    CAP_P: tl.constexpr,
    CAP_Q: tl.constexpr,
    SPAN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write logsumexp of p and of q, KL(p‖q) and KL(q‖p), of R rows and SPAN tokens.

    Grid: see _place.
    """
    rows, real, span = _place(n_rows, n_vocab, BLOCK_R, SPAN, GROUP)
    zero = tl.zeros([BLOCK_R], tl.float32)
    top_p, total_p, gap_p = zero + LOWEST, zero, zero  # (R,) each
    top_q, total_q, gap_q = zero + LOWEST, zero, zero
    end = tl.minimum(span * SPAN + SPAN, n_vocab)
    for first in range(span * SPAN, end, BLOCK_C):
        v = first + tl.arange(0, BLOCK_C)  # (C,)
        tokens = tl.minimum(v, n_vocab - 1)
        z_p = _tile_logits(hidden_p, weight_p, rows, tokens, width_p, inverse_p, CAP_P, BLOCK_D)
        z_q = _tile_logits(hidden_q, weight_q, rows, tokens, width_q, inverse_q, CAP_Q, BLOCK_D)
        z_p = tl.where(v < n_vocab, z_p, LOWEST)  # (R, C)
        z_q = tl.where(v < n_vocab, z_q, LOWEST)
        top_p, total_p, gap_p, top_q, total_q, gap_q = absorb_pair(
            top_p, total_p, gap_p, top_q, total_q, gap_q, z_p, z_q
        )
    ratio = tl.log(total_q) - tl.log(total_p)
    out += span.to(tl.int64) * n_rows + rows
    field = tl.cdiv(n_vocab, SPAN).to(tl.int64) * n_rows  # from one number's (spans, N) to the next
    tl.store(out, top_p + tl.log(total_p), mask=real)
    tl.store(out + field, top_q + tl.log(total_q), mask=real)
    tl.store(out + 2 * field, gap_p / total_p + ratio, mask=real)
    tl.store(out + 3 * field, gap_q / total_q - ratio, mask=real)


def token_kl(hidden_p, head_p, hidden_q, head_q, temperature=1.0):
    """reference.token_kl without a gradient."""
    hidden_p, head_p, hidden_q, head_q = reference.check_pair(
        hidden_p, head_p, hidden_q, head_q, temperature
    )
    tensors, tile = _dense_and_tile(hidden_p, head_p.weight, hidden_q, head_q.weight)
    tile["BLOCK_C"] = min(tile["BLOCK_C"], 64)  # two tiles of logits at a time
    temperature_p, softcap_p = head_p.fold(temperature)
    temperature_q, softcap_q = head_q.fold(temperature)
    n, n_vocab = len(hidden_p), len(head_p.weight)
    n_spans = triton.cdiv(n_vocab, SPAN)
    out = torch.empty(4, n_spans, n, dtype=torch.float32, device=hidden_p.device)
    _kl[(triton.cdiv(n, tile["BLOCK_R"]) * n_spans,)](
        *tensors,
        out,
        n,
        n_vocab,
        hidden_p.shape[1],
        hidden_q.shape[1],
        1 / temperature_p,
        1 / temperature_q,
        float(softcap_p or 0),
        float(softcap_q or 0),
        SPAN=SPAN,
        GROUP=GROUP,
        **tile,
    )
    return reference.merge_kl(*out)


# ---- helpers of the launches


def _dense_and_tile(*matrices):
    """-> (the matrices, copied where they are not contiguous; the tile sizes for their type)."""
    types = {x.dtype for x in matrices}
    if len(types) > 1 or not types < {torch.float16, torch.bfloat16, torch.float32}:
        raise ValueError(f"{types}: the kernels take float16, bfloat16 or float32, all alike")
    half = matrices[0].element_size() == 2
    return [x.contiguous() for x in matrices], dict(TILES[half])


def _hopper(device):
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
