"""Attention of one new token per sequence to the cache, in plain PyTorch: the twin of attention.py.

For row b, query head h and its key-value head g = h // (H / H_kv), over the cells c that row b sees
in its slot of the cache:
    s_c = scale · q_h · k_c,    with a softcap: softcap · tanh(s_c / softcap)
    out = Σ_c softmax(s)_c v_c

Shapes: B rows, H query heads, H_kv key-value heads, K head width, L cells of a slot.
"""

import torch
import torch.nn.functional as F


def decode_attention(query, keys, values, lengths, scale, window=None, softcap=None):
    """query (B, H, K), keys and values (slots, H_kv, L, K), lengths (B,) int64 -> (B, H, K).

    Row b reads the cells 0 .. lengths[b] of slot b, the last of which holds its own key; with a
    window, only the last `window` of these.
    """
    n_rows = len(query)
    cell = torch.arange(keys.shape[2], device=lengths.device)
    is_seen = cell <= lengths[:, None]  # (B, L)
    if window is not None:
        is_seen &= cell > lengths[:, None] - window
    # The heads that share a key are the rows of one product: in bfloat16 a CPU reads the cache four
    # times as fast so.
    n_kv_heads, width = keys.shape[1], keys.shape[3]
    groups = query.reshape(n_rows, n_kv_heads, -1, width)  # (B, H_kv, H / H_kv, K)
    is_seen = is_seen[:, None, None]  # (B, 1, 1, L), the same for all heads
    out = masked_attention(groups, keys[:n_rows], values[:n_rows], is_seen, scale, softcap)
    return out.reshape(query.shape)


def masked_attention(query, key, value, is_seen, scale, softcap=None):
    """Attention to the keys that a mask names, with a cap of the scores or without.

    query (B, H, L, K), key and value (B, H_kv, M, K), is_seen (..., L, M) bool -> (B, H, L, K).
    """
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=is_seen, scale=scale, enable_gqa=True
        )
    group_size = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group_size, 1) for x in (key, value))  # (B, H, M, K)
    products = query @ key.transpose(2, 3)  # (B, H, L, M)
    scores = scale * products.to(torch.promote_types(products.dtype, torch.float32))
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~is_seen, -torch.inf).softmax(3)
    return weights.to(value.dtype) @ value
