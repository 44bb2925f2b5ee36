"""Log-probability, entropy, rank and KL per token in plain PyTorch, chunk by chunk.

With z = softcap(h Wᵀ) / temperature, one row of V logits per token:
    logsumexp  L = log Σ_v exp z_v
    logp         = z_target - L
    entropy      = L - Σ_v p_v z_v,          p = exp(z - L)
    rank         = 1 + #{v : z_v > z_target}  (1 = the most likely token; ties do not push the target down)
    KL(p‖q)      = Σ_v p_v (log p_v - log q_v)

The logits of a batch would take N·V numbers (32k tokens of Qwen2.5: 20 GB in fp32). Here only one chunk of rows
has logits at a time; under autograd a chunk is computed again in the backward pass instead of being kept.
"""
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_NUMBERS = 2**24      # logits held at a time: 64 MB in fp32


class TokenStats(NamedTuple):
    """One number per token, each (N,) in float32 (ids and ranks in int64); None for what was not wanted."""
    logp: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    rank: torch.Tensor | None = None
    argmax: torch.Tensor | None = None
    logsumexp: torch.Tensor | None = None


def token_stats(hidden, weight, target, temperature=1.0, softcap=None, want=("logp",), ignore_index=-100):
    """hidden (N, D), weight (V, D), target (N,) int64 -> TokenStats of the target under softmax(hidden weightᵀ / T).

    want: any of TokenStats' fields. Differentiable in hidden and weight for logp, entropy and logsumexp.
    Where target is ignore_index every wanted value is 0. Raises ValueError for shapes that do not fit, an unknown
    field, a target outside the vocabulary or a temperature that is not positive.
    """
    _check(hidden, weight)
    unknown = set(want) - set(TokenStats._fields)
    if unknown:
        raise ValueError(f"want={sorted(unknown)}: not among {TokenStats._fields}")
    if target.shape != hidden.shape[:1]:
        raise ValueError(f"target {tuple(target.shape)} does not fit hidden {tuple(hidden.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}: must be positive")
    ignored = target == ignore_index
    safe = target.masked_fill(ignored, 0)
    if len(safe) and not 0 <= int(safe.min()) <= int(safe.max()) < len(weight):
        raise ValueError(f"target outside the vocabulary of {len(weight)}")

    def chunk_stats(hidden, weight, target):                         # (C, D), (V, D), (C,) -> tuple of (C,)
        z = _logits(hidden, weight, temperature, softcap)            # (C, V)
        chosen = z.gather(1, target[:, None])[:, 0]                  # (C,)
        logsumexp = z.logsumexp(1)
        values = {"logp": chosen - logsumexp, "logsumexp": logsumexp}
        if "entropy" in want:
            values["entropy"] = logsumexp - ((z - logsumexp[:, None]).exp() * z).sum(1)
        if "rank" in want:
            values["rank"] = 1 + (z > chosen[:, None]).sum(1)
        if "argmax" in want:
            values["argmax"] = z.argmax(1)
        return tuple(values[name] for name in want)

    parts = _in_chunks(chunk_stats, len(weight), hidden, weight, safe)
    return TokenStats(**{name: value.masked_fill(ignored, 0) for name, value in zip(want, parts)})


def token_kl(hidden_p, weight_p, hidden_q, weight_q, temperature=1.0, softcap_p=None, softcap_q=None):
    """hidden_p (N, D), weight_p (V, D), hidden_q (N, E), weight_q (V, E) -> (KL(p‖q), KL(q‖p)), each (N,) float32.

    The KL runs over the full vocabulary at each position; both models must share it. Widths may differ.
    """
    _check(hidden_p, weight_p)
    _check(hidden_q, weight_q)
    if len(hidden_p) != len(hidden_q) or len(weight_p) != len(weight_q):
        raise ValueError(f"{len(hidden_p)} tokens of {len(weight_p)} against {len(hidden_q)} of {len(weight_q)}: "
                         "KL needs the same tokens and one vocabulary")

    def chunk_kl(hidden_p, weight_p, hidden_q, weight_q):
        return log_softmax_kl(_logits(hidden_p, weight_p, temperature, softcap_p),
                              _logits(hidden_q, weight_q, temperature, softcap_q))

    return _in_chunks(chunk_kl, 2 * len(weight_p), hidden_p, weight_p, hidden_q, weight_q)


def log_softmax_kl(logits_p, logits_q):
    """logits (N, V) of two models -> (KL(p‖q), KL(q‖p)), each (N,) float32: where a reader starts."""
    logp, logq = logits_p.float().log_softmax(1), logits_q.float().log_softmax(1)
    difference = logp - logq
    return (logp.exp() * difference).sum(1), -(logq.exp() * difference).sum(1)


def decode_attention(query, keys, values, lengths, longest, scale, window=None, softcap=None, masks=None):
    """Attention of one new token per sequence to the cache of its slot -> (B, H, K).

    query (B, H, K); keys, values (slots, H_kv, L, K), of which row b reads slot b, head h the head h // (H / H_kv);
    lengths (B,) int64: row b attends to cells 0..lengths[b], the last of which holds its own key, with a window only
    to the last `window` of them. longest: an upper bound of lengths on the host. softcap c: scores become
    c · tanh(score / c). masks: a dict that keeps what all layers of a step share.
    """
    n, n_heads, width = query.shape
    masks = {} if masks is None else masks
    if window not in masks:
        cell = torch.arange(longest + 1, device=query.device)
        seen = cell <= lengths[:, None]
        if window is not None:
            seen &= cell > lengths[:, None] - window
        masks[window] = torch.zeros(seen.shape, device=query.device).masked_fill(~seen, -torch.inf)[:, None, None]
    keys, values = keys[:n, :, :longest + 1], values[:n, :, :longest + 1]           # (B, H_kv, L, K)
    # The heads that share a key-value head stand as further query rows: nothing is repeated in memory.
    grouped = query.reshape(n, keys.shape[1], -1, width) * scale                       # (B, H_kv, H / H_kv, K)
    scores = grouped @ keys.transpose(2, 3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))            # half precision: softmax in fp32
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = (scores + masks[window]).softmax(3).to(values.dtype)
    return (weights @ values).reshape(n, n_heads, width)


def _logits(hidden, weight, temperature, softcap):
    z = (hidden @ weight.T.to(hidden.dtype)).float()
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z / temperature


def _in_chunks(function, n_columns, hidden, weight, *others):
    """Call function on row chunks of hidden and of what else has one row per token; weights pass whole."""
    n, size = len(hidden), max(1, CHUNK_NUMBERS // n_columns)
    recompute = torch.is_grad_enabled() and n > size
    parts = []
    for start in range(0, max(n, 1), size):
        rows = [x[start:start + size] if i % 2 else x for i, x in enumerate((weight, *others))]
        arguments = (hidden[start:start + size], *rows)
        parts.append(checkpoint(function, *arguments, use_reentrant=False) if recompute else function(*arguments))
    return tuple(torch.cat(column) for column in zip(*parts))


def _check(hidden, weight):
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (N, D) and (V, D)")
