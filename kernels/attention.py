"""Attention of one new token per sequence to the cache, in Triton: the decoding step.

Its time is that of reading keys and values. For row b, query head h and its key-value head
g = h // (H / H_kv), over the live cells c of slot b:
    s_c = scale · q_h · k_c,    with a softcap: softcap · tanh(s_c / softcap)
    out = Σ_c e^(s_c - L) v_c,  L = log Σ_c e^s_c

One program per row and head would leave most of a GPU idle. So the live cells of a row are dealt
out to several programs, called splits (split-KV of Flash-Decoding, Dao et al. 2023). Split i gives
out_i and L_i over its own cells, by the online softmax of softmax_kl.py, and a second kernel joins
them:
    out = Σ_i e^(L_i - L) out_i,   L = log Σ_i e^L_i

A split takes its share of the *live* cells, not of the cache, so work follows the length of each
row. The grid depends on shapes alone, and the host reads nothing: a CUDA graph of a step stays
right while sequences grow. The H / H_kv query heads of one key-value head are the rows of one tile,
so its keys and values are read once for all of them.

The plain PyTorch twin is reference_attention.py.
Shapes: B rows, H query heads, H_kv key-value heads, K head width, L cells of a slot, S splits,
G = H / H_kv. A tile is BLOCK_G heads x BLOCK_L cells, and BLOCK_K is K padded to a power of 2.
"""

import torch
import triton
import triton.language as tl

# Bytes of keys per step, and as many of values: 64 cells at K = 128 in half precision.
BLOCK_BYTES = 16384
# Programs wanted in all: about 16 per multiprocessor, so that rows of unlike length even out.
PROGRAMS = 2048
# As many as the second kernel holds at once.
MAX_SPLITS = 64


@triton.jit
def _live_cells(
    lengths,  # (B,)
    row,
    max_len,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,  # or 0 for none
    BLOCK_L: tl.constexpr,
):
    """-> (first live cell of a row, the cell after its last, cells per split in whole blocks)."""
    last = tl.minimum(tl.load(lengths + row), max_len - 1)
    first = tl.maximum(last - WINDOW + 1, 0) if WINDOW else last * 0
    n_blocks = tl.cdiv(last + 1 - first, BLOCK_L)
    return first, last + 1, tl.cdiv(n_blocks, SPLITS) * BLOCK_L


@triton.jit
def _attend(
    query,  # (B, H, K)
    keys,  # (slots, H_kv, L, K)
    values,  # (slots, H_kv, L, K)
    lengths,  # (B,)
    partial,  # (B, H, S, K): out_i
    partial_sum,  # (B, H, S): L_i
    scale,
    max_len,
    key_slot,  # strides
    key_head,
    key_cell,
    value_slot,
    value_head,
    value_cell,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAP: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Write out_i and L_i of one split, for the heads of one key-value head of one row.

    Grid (S, H_kv, B). Splits without cells write nothing, and _combine does not read them.
    """
    split = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    first, end, share = _live_cells(lengths, row, max_len, SPLITS, WINDOW, BLOCK_L)
    first += split * share
    end = tl.minimum(end, first + share)
    if first >= end:
        return

    # Padded, because a dot product wants 16 rows and powers of 2.
    g = tl.arange(0, BLOCK_G)
    k = tl.arange(0, BLOCK_K)
    real = (g[:, None] < GROUP) & (k < WIDTH)  # (G, K)
    place = (row * tl.num_programs(1) + head) * GROUP + g  # (G,) of these heads among all B · H
    q = tl.load(query + place[:, None] * WIDTH + k, mask=real, other=0.0)  # (G, K)
    key_row = keys + row * key_slot + head * key_head
    value_row = values + row * value_slot + head * value_head

    # Online softmax: all sums are relative to the largest score so far.
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)  # Σ e^(s - top)
    out = tl.zeros([BLOCK_G, BLOCK_K], tl.float32)  # Σ e^(s - top) v
    for start in range(first, end, BLOCK_L):
        cell = start + tl.arange(0, BLOCK_L).to(tl.int64)  # (L,)
        # Dead cells are not loaded: they may hold anything, even NaN.
        live = cell < end
        inside = live[:, None] & (k < WIDTH)  # (L, K)
        key = tl.load(key_row + cell[:, None] * key_cell + k, mask=inside, other=0.0)
        s = tl.dot(q, key.T, input_precision="ieee") * scale  # (G, L)
        if CAP > 0:
            # c · tanh(s / c), with tanh(x) = 2 sigmoid(2x) - 1
            s = CAP * (2 * tl.sigmoid(2 / CAP * s) - 1)
        s = tl.where(live, s, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        shrink = tl.exp(top - new_top)
        p = tl.exp(s - new_top[:, None])  # (G, L)
        value = tl.load(value_row + cell[:, None] * value_cell + k, mask=inside, other=0.0)
        out = tl.dot(p.to(value.dtype), value, out * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(p, 1)
        top = new_top

    where = place * SPLITS + split
    tl.store(partial + where[:, None] * WIDTH + k, out / total[:, None], mask=real)
    tl.store(partial_sum + where, top + tl.log(total), mask=g < GROUP)


@triton.jit
def _combine(
    partial,  # (B, H, S, K)
    partial_sum,  # (B, H, S)
    lengths,  # (B,)
    out,  # (B, H, K)
    max_len,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Write out = Σ_i e^(L_i - L) out_i of one row and query head. Grid (H, B)."""
    row = tl.program_id(1).to(tl.int64)
    place = row * HEADS + tl.program_id(0)
    first, end, share = _live_cells(lengths, row, max_len, SPLITS, WINDOW, BLOCK_L)
    split = tl.arange(0, SPLITS)
    k = tl.arange(0, BLOCK_K)
    used = split * share < end - first  # (S,)
    where = place * SPLITS + split
    sums = tl.load(partial_sum + where, mask=used, other=float("-inf"))  # (S,)
    weight = tl.exp(sums - tl.max(sums, 0))
    inside = used[:, None] & (k < WIDTH)
    parts = tl.load(partial + where[:, None] * WIDTH + k, mask=inside, other=0.0)  # (S, K)
    mixed = tl.sum(weight[:, None] * parts, 0) / tl.sum(weight, 0)
    tl.store(out + place * WIDTH + k, mixed.to(out.dtype.element_ty), mask=k < WIDTH)


def decode_attention(query, keys, values, lengths, scale, window=None, softcap=None):
    """reference_attention.decode_attention without a gradient.

    Raises ValueError for shapes or types that do not fit. A length beyond the cache cannot be seen
    without making the host wait: such a row attends to its whole slot.
    """
    _check(query, keys, values, lengths)
    # The kernel needs neighbouring numbers of one key; slots, heads and cells may have any stride.
    keys, values = (x if x.stride(3) == 1 else x.contiguous() for x in (keys, values))
    query, lengths = query.contiguous(), lengths.contiguous()
    out = torch.empty_like(query)
    n, n_heads, width = query.shape
    if n == 0:
        return out
    kv_heads, max_len = keys.shape[1:3]
    group = n_heads // kv_heads

    block_k = max(16, triton.next_power_of_2(width))
    size = keys.element_size()
    # In float32 half the bytes, because its products take more registers.
    block_bytes = BLOCK_BYTES if size == 2 else BLOCK_BYTES // 2
    block_l = max(16, min(128, block_bytes // (block_k * size)))
    n_blocks = triton.cdiv(max_len, block_l)
    wanted = triton.cdiv(PROGRAMS, n * kv_heads)
    splits = min(MAX_SPLITS, triton.next_power_of_2(n_blocks), triton.next_power_of_2(wanted))

    partial = torch.empty(n, n_heads, splits, width, dtype=torch.float32, device=query.device)
    partial_sum = torch.empty(n, n_heads, splits, dtype=torch.float32, device=query.device)
    shared = dict(WIDTH=width, SPLITS=splits, WINDOW=window or 0, BLOCK_K=block_k, BLOCK_L=block_l)
    strides = *keys.stride()[:3], *values.stride()[:3]
    _attend[splits, kv_heads, n](
        query,
        keys,
        values,
        lengths,
        partial,
        partial_sum,
        float(scale),
        max_len,
        *strides,
        GROUP=group,
        CAP=float(softcap or 0),
        BLOCK_G=max(16, triton.next_power_of_2(group)),
        **shared,
    )
    _combine[n_heads, n](partial, partial_sum, lengths, out, max_len, HEADS=n_heads, **shared)
    return out


def _check(query, keys, values, lengths):
    n, n_heads, width = query.shape
    slots, kv_heads, _, key_width = keys.shape
    if values.shape != keys.shape or key_width != width or n > slots or n_heads % kv_heads:
        raise ValueError(
            f"query {tuple(query.shape)} does not fit keys {tuple(keys.shape)} "
            f"and values {tuple(values.shape)}"
        )
    alike = query.dtype == keys.dtype == values.dtype
    if not alike or lengths.shape != (n,) or lengths.dtype != torch.int64:
        raise ValueError(
            f"query {query.dtype}, keys {keys.dtype}, values {values.dtype} must be alike, "
            f"lengths {lengths.dtype} {tuple(lengths.shape)} int64 ({n},)"
        )
    if not keys.device == values.device == lengths.device == query.device:
        raise ValueError("query, keys, values and lengths must be on one device")
