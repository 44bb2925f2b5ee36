"""Token statistics and KL straight from hidden states and heads: logits live in a tile of a program, never in memory.

    z = softcap(h Wᵀ) / temperature      a tile of R rows and C vocabulary entries, made by tensor cores, in registers

One program takes R rows and SPAN vocabulary entries, tile by tile, and keeps the sums of the online softmax
(softmax_kl.py). It leaves a few numbers per row, those of its part of the vocabulary, which reference.merge puts
together: SPAN / 5 times less memory than the logits. The idea of not storing them is that of Liger (2410.10989) and
of cut cross-entropy (Wijmans et al. 2024, 2411.09009).

rank needs the target's logit before the others are counted: a first kernel computes it as the diagonal of tiles of
the same shape, in the same order of sums, so that an equal logit compares equal.

Backward, by parts of the vocabulary: _slope makes a part's logits anew and writes their gradient, in half precision
for half-precision inputs, and two products of torch (cuBLAS) turn it into those of hidden states and weight. All in
Triton, logits would have to be made twice, once for each gradient, or gradients be added up in memory tile after
tile, D numbers for C logits. Forward and backward take four products of N·V·D, one more than if logits were kept.
"""

import functools
import sys

import torch
import triton
import triton.language as tl

from kernels import reference
from kernels.softmax_kl import LOWEST, absorb, absorb_pair

# vocabulary entries per program: enough programs for any N, and 1% of fp32 logits' memory
SPAN = 512
GROUP = 16  # row blocks that run side by side on the same entries, so that both stay in the cache
# of the backward pass: a sixteenth of the gradients at a time, 3% of fp32 logits' memory
N_PARTS = 16
# half precision
TILES = {
    True: dict(BLOCK_R=128, BLOCK_C=128, BLOCK_D=64, num_warps=8, num_stages=3),
    # float32, not for speed
    False: dict(BLOCK_R=32, BLOCK_C=32, BLOCK_D=32, num_warps=4, num_stages=3),
}
# registers, so that one program can multiply while another takes its sums
PAIRED = dict(maxnreg=128)


@triton.jit
def _logits(
    hidden, weight, rows, entries, width, inverse, CAP: tl.constexpr, BLOCK_D: tl.constexpr
):
    """z of these rows (R,) and vocabulary entries (C,): (R, C) in float32. inverse: 1 / temperature; CAP 0: none."""
    d = tl.arange(0, BLOCK_D)
    h = hidden + rows.to(tl.int64)[:, None] * width + d[None, :]  # (R, D) addresses
    w = weight + entries.to(tl.int64)[None, :] * width + d[:, None]  # (D, C)
    z = tl.zeros([rows.shape[0], entries.shape[0]], tl.float32)
    for start in range(0, width, BLOCK_D):
        inside = d < width - start
        z = tl.dot(
            tl.load(h, mask=inside[None, :], other=0.0),
            tl.load(w, mask=inside[:, None], other=0.0),
            z,
            input_precision="ieee",
        )
        h += BLOCK_D
        w += BLOCK_D
    if CAP > 0:
        z = CAP * (2 * tl.sigmoid(2 / CAP * z) - 1)  # tanh
    return z * inverse


@triton.jit
def _place(n_rows, n_vocab, BLOCK_R: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr):
    """This program's rows (R,), clamped to what exists, which of them are real, and which span of the vocabulary."""
    n_blocks, n_spans = tl.cdiv(n_rows, BLOCK_R), tl.cdiv(n_vocab, SPAN)
    block, span = tl.swizzle2d(
        tl.program_id(0) // n_spans, tl.program_id(0) % n_spans, n_blocks, n_spans, GROUP
    )
    rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
    return tl.minimum(rows, n_rows - 1), rows < n_rows, span


@triton.jit
def _target_logits(
    hidden,
    weight,
    target,
    out,
    n_rows,
    width,
    inverse,
    CAP: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Logit of each row's target: tiles of R rows and their R targets, of which the diagonal is kept."""
    i = tl.arange(0, BLOCK_R)
    rows = tl.program_id(0) * BLOCK_R + i
    # -1: another shard's
    entries = tl.maximum(tl.load(target + rows, mask=rows < n_rows, other=0), 0)
    # (R, R)
    z = _logits(hidden, weight, tl.minimum(rows, n_rows - 1), entries, width, inverse, CAP, BLOCK_D)
    tl.store(out + rows, tl.sum(tl.where(i[:, None] == i[None, :], z, 0.0), 1), mask=rows < n_rows)


@triton.jit
def _statistics(
    hidden,
    weight,
    target,
    threshold,
    parts,
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
    """R rows, SPAN entries -> parts (5, spans, N): logsumexp, entropy, count above threshold, top, place."""
    rows, real, span = _place(n_rows, n_vocab, BLOCK_R, SPAN, GROUP)
    zero = tl.zeros([BLOCK_R], tl.float32)
    top, total, lean, above, best = zero + LOWEST, zero, zero, zero, zero  # (R,)
    if RANK:
        own, bound = tl.load(target + rows)[:, None], tl.load(threshold + rows)[:, None]  # (R, 1)
    for first in range(span * SPAN, tl.minimum(span * SPAN + SPAN, n_vocab), BLOCK_C):
        v = first + tl.arange(0, BLOCK_C)
        z = _logits(hidden, weight, rows, tl.minimum(v, n_vocab - 1), width, inverse, CAP, BLOCK_D)
        z = tl.where(v < n_vocab, z, LOWEST)  # (R, C)
        if RANK:  # the target is never above itself, whatever the rounding
            above += tl.sum(((z > bound) & (v != own)).to(tl.float32), 1)
        if ARGMAX:
            largest = tl.max(z, 1)
            place = tl.min(tl.where(z == largest[:, None], v, n_vocab - 1), 1)
            best = tl.where(largest > top, place.to(tl.float32), best)
        top, total, lean = absorb(top, total, lean, z)
    parts += span.to(tl.int64) * n_rows + rows
    field = tl.cdiv(n_vocab, SPAN).to(tl.int64) * n_rows
    tl.store(parts, top + tl.log(total), mask=real)
    tl.store(parts + field, tl.log(total) - lean / total, mask=real)
    tl.store(parts + 2 * field, above, mask=real)
    tl.store(parts + 3 * field, top, mask=real)
    tl.store(parts + 4 * field, best, mask=real)  # exact in float32 up to 16 million entries


@triton.jit
def _slope(
    hidden,
    weight,
    target,
    logsumexp,
    entropy,
    for_logit,
    for_sum,
    for_entropy,
    out,
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
    """Gradient of h Wᵀ for R rows and C entries of a part, into out (N, entries of the part)."""
    rows, real, column = _place(n_rows, n_vocab, BLOCK_R, BLOCK_C, GROUP)
    v = column * BLOCK_C + tl.arange(0, BLOCK_C)
    # (R, C)
    z = _logits(hidden, weight, rows, tl.minimum(v, n_vocab - 1), width, inverse, CAP, BLOCK_D)
    total, factor = tl.load(logsumexp + rows), tl.load(for_sum + rows)[:, None]
    if ENTROPY:
        factor += tl.load(for_entropy + rows)[:, None] * (
            (total - tl.load(entropy + rows))[:, None] - z
        )
    slope = tl.exp(z - total[:, None]) * factor
    slope += tl.where(
        v[None, :] == tl.load(target + rows)[:, None], tl.load(for_logit + rows)[:, None], 0.0
    )
    if CAP > 0:
        capped = z / (inverse * CAP)
        slope *= 1 - capped * capped
    place = out + rows.to(tl.int64)[:, None] * n_vocab + v[None, :]
    tl.store(
        place,
        (slope * inverse).to(out.dtype.element_ty),
        mask=real[:, None] & (v < n_vocab)[None, :],
    )


@triton.jit
def _kl(
    hidden_p,
    weight_p,
    hidden_q,
    weight_q,
    parts,
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
    """R rows, SPAN entries of both heads -> parts (4, spans, N): logsumexp of p and q, KL(p‖q), KL(q‖p)."""
    rows, real, span = _place(n_rows, n_vocab, BLOCK_R, SPAN, GROUP)
    zero = tl.zeros([BLOCK_R], tl.float32)
    top_p, total_p, gap_p, top_q, total_q, gap_q = (
        zero + LOWEST,
        zero,
        zero,
        zero + LOWEST,
        zero,
        zero,
    )
    for first in range(span * SPAN, tl.minimum(span * SPAN + SPAN, n_vocab), BLOCK_C):
        v = first + tl.arange(0, BLOCK_C)
        entries = tl.minimum(v, n_vocab - 1)
        z_p = _logits(hidden_p, weight_p, rows, entries, width_p, inverse_p, CAP_P, BLOCK_D)
        z_q = _logits(hidden_q, weight_q, rows, entries, width_q, inverse_q, CAP_Q, BLOCK_D)
        z_p, z_q = tl.where(v < n_vocab, z_p, LOWEST), tl.where(v < n_vocab, z_q, LOWEST)  # (R, C)
        top_p, total_p, gap_p, top_q, total_q, gap_q = absorb_pair(
            top_p, total_p, gap_p, top_q, total_q, gap_q, z_p, z_q
        )
    ratio = tl.log(total_q) - tl.log(total_p)
    parts += span.to(tl.int64) * n_rows + rows
    field = tl.cdiv(n_vocab, SPAN).to(tl.int64) * n_rows
    tl.store(parts, top_p + tl.log(total_p), mask=real)
    tl.store(parts + field, top_q + tl.log(total_q), mask=real)
    tl.store(parts + 2 * field, gap_p / total_p + ratio, mask=real)
    tl.store(parts + 3 * field, gap_q / total_q - ratio, mask=real)


def _tiles(*matrices):
    """The same matrices in one piece, and the tile for their type."""
    kinds = {x.dtype for x in matrices}
    if len(kinds) > 1 or not kinds < {torch.float16, torch.bfloat16, torch.float32}:
        raise ValueError(f"{kinds}: the kernels take float16, bfloat16 or float32, all alike")
    return [x.contiguous() for x in matrices], dict(TILES[matrices[0].element_size() == 2])


def _hopper(device):
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def statistics(hidden, head, target, threshold, temperature, want):
    """As reference.statistics."""
    (hidden, weight), tile = _tiles(hidden, head.weight)
    temperature, softcap = head.fold(temperature)
    n, n_vocab, spans = len(hidden), len(weight), triton.cdiv(len(weight), SPAN)
    options = hidden.shape[1], 1 / temperature, float(softcap or 0)
    logit = torch.empty(n, dtype=torch.float32, device=hidden.device)
    _target_logits[(triton.cdiv(n, tile["BLOCK_R"]),)](
        hidden,
        weight,
        target,
        logit,
        n,
        *options,
        **{name: x for name, x in tile.items() if name != "BLOCK_C"},
    )
    if _hopper(hidden.device) and hidden.element_size() == 2 and not {"rank", "argmax"} & {*want}:
        tile |= PAIRED  # with those, or on an A100, registers would spill
    parts = torch.empty(5, spans, n, dtype=torch.float32, device=hidden.device)
    _statistics[(triton.cdiv(n, tile["BLOCK_R"]) * spans,)](
        hidden,
        weight,
        target,
        logit if threshold is None else threshold,
        parts,
        n,
        n_vocab,
        *options,
        RANK="rank" in want,
        ARGMAX="argmax" in want,
        SPAN=SPAN,
        GROUP=GROUP,
        **tile,
    )
    logsumexp, entropy = reference.merge(*parts[: 2 if "entropy" in want else 1])
    above = parts[2].sum(0).long() if "rank" in want else None
    top, argmax = (
        reference.merge_argmax(parts[3], parts[4].long()) if "argmax" in want else (None, None)
    )
    return logit, logsumexp, entropy, above, top, argmax


def logit_gradient(
    hidden, head, target, logsumexp, entropy, for_logit, for_sum, for_entropy, temperature
):
    """As reference.logit_gradient."""
    (hidden, part), tile = _tiles(hidden, head.weight)
    temperature, softcap = head.fold(temperature)
    n, n_vocab = len(hidden), len(part)
    out = torch.empty(n, n_vocab, dtype=hidden.dtype, device=hidden.device)
    given = (logsumexp, entropy, for_logit, for_sum, for_entropy)
    given = [logsumexp if x is None else x.contiguous() for x in given]  # of no entropy, anything
    grid = (triton.cdiv(n, tile["BLOCK_R"]) * triton.cdiv(n_vocab, tile["BLOCK_C"]),)
    _slope[grid](
        hidden,
        part,
        target,
        *given,
        out,
        n,
        n_vocab,
        hidden.shape[1],
        1 / temperature,
        float(softcap or 0),
        ENTROPY=entropy is not None,
        GROUP=GROUP,
        **tile,
    )
    return out


def columns(n_rows, n_vocab):
    """Vocabulary entries of a part: whole tiles."""
    return triton.cdiv(triton.cdiv(n_vocab, N_PARTS), 128) * 128


token_stats = functools.partial(reference.token_stats, engine=sys.modules[__name__])


def token_kl(hidden_p, head_p, hidden_q, head_q, temperature=1.0):
    """As reference.token_kl, without a gradient."""
    hidden_p, head_p, hidden_q, head_q = reference.check_pair(
        hidden_p, head_p, hidden_q, head_q, temperature
    )
    pair, tile = _tiles(hidden_p, head_p.weight, hidden_q, head_q.weight)
    temperature_p, softcap_p = head_p.fold(temperature)
    temperature_q, softcap_q = head_q.fold(temperature)
    n, n_vocab = len(hidden_p), len(head_p.weight)
    spans = triton.cdiv(n_vocab, SPAN)
    tile["BLOCK_C"] = min(tile["BLOCK_C"], 64)  # two tiles at a time
    parts = torch.empty(4, spans, n, dtype=torch.float32, device=hidden_p.device)
    _kl[(triton.cdiv(n, tile["BLOCK_R"]) * spans,)](
        *pair,
        parts,
        n,
        n_vocab,
        pair[0].shape[1],
        pair[2].shape[1],
        1 / temperature_p,
        1 / temperature_q,
        float(softcap_p or 0),
        float(softcap_q or 0),
        SPAN=SPAN,
        GROUP=GROUP,
        **tile,
    )
    return reference.merge_kl(*parts)
