"""Attention of one new token per sequence to the slot cache: the decoding step, limited by reading keys and values.

For row b, query head h and its key-value head g = h // (H / H_kv), over the live cells c of slot b:
    s_c = scale · q_h · k_c,   with a cap s_c = cap · tanh(s_c / cap)
    out = Σ_c e^(s_c - L) v_c,   L = log Σ_c e^s_c
One program per row and head would leave most of a GPU idle, so the live cells are dealt out to `splits` programs
(split-KV, Flash-Decoding, Dao et al. 2023; online softmax, Milakov and Gimelshein 2018, 1805.02867). Split i gives
out_i and L_i over its own cells, and a second kernel puts them together:
    out = Σ_i e^(L_i - L) out_i,   L = log Σ_i e^L_i
A split takes its share of the *live* cells, not of the cache, so work follows each row's length; the grid follows
from shapes alone and nothing is read on the host, so that a CUDA graph of a step stays right while sequences grow.

The H / H_kv heads of one key-value head are the rows of one tile: its keys and values are read once for all of them.
"""

import torch
import triton
import triton.language as tl

# of keys per step, and as many of values: 64 cells at K = 128 in half precision
BLOCK_BYTES = 16384
PROGRAMS = 2048  # wanted in all, about 16 per multiprocessor, so that uneven rows even out
MAX_SPLITS = 64  # as many as the second kernel holds at once


@triton.jit
def _live_cells(
    lengths, row, max_len, SPLITS: tl.constexpr, WINDOW: tl.constexpr, BLOCK_L: tl.constexpr
):
    """First live cell of a row, the one past its last, and the cells that each split takes (whole blocks)."""
    last = tl.minimum(tl.load(lengths + row), max_len - 1)
    first = tl.maximum(last - WINDOW + 1, 0) if WINDOW else last * 0
    return first, last + 1, tl.cdiv(tl.cdiv(last + 1 - first, BLOCK_L), SPLITS) * BLOCK_L


@triton.jit
def _attend(
    query,
    keys,
    values,
    lengths,
    partial,
    partial_sum,
    scale,
    max_len,
    key_slot,
    key_head,
    key_cell,
    value_slot,
    value_head,
    value_cell,  # strides
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAP: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """One split of one row and key-value head: out_i (GROUP, K) and L_i (GROUP,). Grid (splits, H_kv, B)."""
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    first, end, share = _live_cells(lengths, row, max_len, SPLITS, WINDOW, BLOCK_L)
    first += split * share
    end = tl.minimum(end, first + share)
    if first >= end:
        return  # the second kernel does not look at empty splits
    # padded: a dot wants 16 rows and powers of 2
    g, k = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_K)
    place = (row * tl.num_programs(1) + head) * GROUP + g  # (G,) of this head among all B·H
    # (G, K)
    q = tl.load(
        query + place[:, None] * WIDTH + k, mask=(g[:, None] < GROUP) & (k < WIDTH), other=0.0
    )
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)  # Σ e^(s - top)
    out = tl.zeros([BLOCK_G, BLOCK_K], tl.float32)  # Σ e^(s - top) v
    key_row = keys + row * key_slot + head * key_head
    value_row = values + row * value_slot + head * value_head
    for start in range(first, end, BLOCK_L):
        cell = start + tl.arange(0, BLOCK_L).to(tl.int64)
        live = cell < end  # dead cells may hold anything, NaN too: never loaded
        here = live[:, None] & (k < WIDTH)
        key = tl.load(key_row + cell[:, None] * key_cell + k, mask=here, other=0.0)  # (L, K)
        s = tl.dot(q, key.T, input_precision="ieee") * scale  # (G, L)
        if CAP > 0:
            s = CAP * (2 * tl.sigmoid(2 / CAP * s) - 1)  # tanh
        s = tl.where(live, s, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        shrink = tl.exp(top - new_top)
        p = tl.exp(s - new_top[:, None])
        value = tl.load(value_row + cell[:, None] * value_cell + k, mask=here, other=0.0)  # (L, K)
        out = tl.dot(p.to(value.dtype), value, out * shrink[:, None], input_precision="ieee")
        total, top = total * shrink + tl.sum(p, 1), new_top
    where = place * SPLITS + split
    tl.store(
        partial + where[:, None] * WIDTH + k,
        out / total[:, None],
        mask=(g[:, None] < GROUP) & (k < WIDTH),
    )
    tl.store(partial_sum + where, top + tl.log(total), mask=g < GROUP)


@triton.jit
def _combine(
    partial,
    partial_sum,
    lengths,
    out,
    max_len,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """out = Σ e^(L_i - L) out_i of one row and query head, over the splits that had cells. Grid (H, B)."""
    row = tl.program_id(1).to(tl.int64)
    place = row * HEADS + tl.program_id(0)
    first, end, share = _live_cells(lengths, row, max_len, SPLITS, WINDOW, BLOCK_L)
    split, k = tl.arange(0, SPLITS), tl.arange(0, BLOCK_K)
    used = split * share < end - first  # (S,)
    where = place * SPLITS + split
    sums = tl.load(partial_sum + where, mask=used, other=float("-inf"))
    weight = tl.exp(sums - tl.max(sums, 0))
    # (S, K)
    parts = tl.load(
        partial + where[:, None] * WIDTH + k, mask=used[:, None] & (k < WIDTH), other=0.0
    )
    mixed = tl.sum(weight[:, None] * parts, 0) / tl.sum(weight, 0)
    tl.store(out + place * WIDTH + k, mixed.to(out.dtype.element_ty), mask=k < WIDTH)


def decode_attention(query, keys, values, lengths, scale, window=None, softcap=None):
    """query (B, H, K), keys and values (slots, H_kv, L, K), lengths (B,) int64 -> (B, H, K). No gradient.

    As reference_attention.decode_attention. Raises ValueError for shapes or types that do not fit.
    A length beyond the cache cannot be seen without a sync; such a row attends to its whole slot.
    """
    n, n_heads, width = query.shape
    slots, kv_heads, max_len, _ = keys.shape
    if values.shape != keys.shape or keys.shape[3] != width or n > slots or n_heads % kv_heads:
        raise ValueError(
            f"query {tuple(query.shape)} does not fit keys {tuple(keys.shape)} "
            f"and values {tuple(values.shape)}"
        )
    if (
        not query.dtype == keys.dtype == values.dtype
        or lengths.shape != (n,)
        or lengths.dtype != torch.int64
    ):
        raise ValueError(
            f"query {query.dtype}, keys {keys.dtype}, values {values.dtype} must be alike, "
            f"lengths {lengths.dtype} {tuple(lengths.shape)} int64 ({n},)"
        )
    if not keys.device == values.device == lengths.device == query.device:
        raise ValueError("query, keys, values and lengths must be on one device")
    keys, values = (x if x.stride(3) == 1 else x.contiguous() for x in (keys, values))
    query, lengths = query.contiguous(), lengths.contiguous()
    out = torch.empty(n, n_heads, width, dtype=query.dtype, device=query.device)
    if not n:
        return out
    group, block_k = n_heads // kv_heads, max(16, triton.next_power_of_2(width))
    size = keys.element_size()  # in float32 half the bytes: its products take more registers
    block_l = max(16, min(128, BLOCK_BYTES // (block_k * size * (size // 2))))
    splits = min(
        MAX_SPLITS,
        triton.next_power_of_2(triton.cdiv(max_len, block_l)),
        triton.next_power_of_2(triton.cdiv(PROGRAMS, n * kv_heads)),
    )
    partial = torch.empty(n, n_heads, splits, width, dtype=torch.float32, device=query.device)
    partial_sum = torch.empty(n, n_heads, splits, dtype=torch.float32, device=query.device)
    shared = dict(WIDTH=width, SPLITS=splits, WINDOW=window or 0, BLOCK_K=block_k, BLOCK_L=block_l)
    _attend[splits, kv_heads, n](
        query,
        keys,
        values,
        lengths,
        partial,
        partial_sum,
        float(scale),
        max_len,
        *keys.stride()[:3],
        *values.stride()[:3],
        GROUP=group,
        CAP=float(softcap or 0),
        BLOCK_G=max(16, triton.next_power_of_2(group)),
        **shared,
    )
    _combine[n_heads, n](partial, partial_sum, lengths, out, max_len, HEADS=n_heads, **shared)
    return out
