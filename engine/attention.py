"""One attention function for packed rows and for decoding steps, plugged into transformers.

transformers looks attention functions up by name in its AttentionInterface; ours is "packed". It
computes each layer in one of three ways:

    attend_packed   causal attention within each sequence of a packed row: training and scoring
    flash_packed    the same by one CUDA kernel, in half precision
    attend_cached   the newest token of each sequence against the cached ones: a decoding step

Shapes: T tokens in a packed row, B sequences, H query heads, H_kv key-value heads, K head width.
"""

import inspect
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

import kernels


class Packed:
    """How a packed row splits into sequences.

    Sequences may share tokens, as the samples of one prompt do. The row then holds a shared token
    once, and there are two more tensors; S is the sum of the lengths, shared tokens counted for
    each sequence:
        source (S,)   where in the row each token of each sequence is
        first (T,)    where among the S tokens each token of the row occurs first
    """

    def __init__(self, lengths, device, source=None, first=None):
        self.lengths = list(lengths)  # tokens of each sequence
        self.max_len = max(lengths)
        ends = torch.tensor([0, *lengths]).cumsum(0)
        self.cu_seqlens = ends.to(torch.int32).to(device)  # (n + 1,) where each begins and ends
        self.source = source
        self.first = first


@dataclass
class Prefill:
    """A packed row of prompts whose keys and values also go into the cache."""

    packed: Packed
    cache: object  # kv_cache.Cache
    slots: torch.Tensor  # (T,) slot of each token
    positions: torch.Tensor  # (T,) position of each token in its slot

    @property
    def max_len(self):
        return self.packed.max_len


@dataclass
class Step:
    """A decoding step: one new token for each of the first B slots of the cache."""

    cache: object  # kv_cache.Cache
    lengths: torch.Tensor  # (B,) tokens already cached
    longest: int  # no less than any of lengths; known without waiting for the device

    def __post_init__(self):
        self.slots = torch.arange(len(self.lengths), device=self.lengths.device)
        self.max_len = self.longest + 1


def attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    sequences=None,
    sliding_window=None,
    softcap=None,
    **_,
):
    """The function that transformers calls in each layer.

    query (1, H, T, K), key and value (1, H_kv, T, K) -> ((1, T, H, K), None).

    sequences: Packed, Prefill or Step. In a Step T is B, one token of each sequence.
    sliding_window w: a token sees itself and the w - 1 tokens before it (Mistral, Gemma).
    softcap c: scores become c · tanh(score / c) (Gemma 2).
    """
    if attention_mask is not None or sequences is None:
        raise ValueError(
            "call model.hidden_states: this attention takes packed sequences, not a mask"
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, H or H_kv, K)
    if sliding_window is not None and sequences.max_len <= sliding_window:
        sliding_window = None  # no token is that far away from another
    options = scaling, sliding_window, softcap
    if isinstance(sequences, Step):
        out = attend_cached(query, key, value, sequences, module.layer_idx, *options)
    else:
        # Under autocast a norm of queries and keys (Qwen3) returns float32; values are bfloat16.
        query, key = query.to(value.dtype), key.to(value.dtype)
        packed = sequences
        if isinstance(sequences, Prefill):
            packed = sequences.packed
            sequences.cache.write(
                module.layer_idx, sequences.slots, sequences.positions, key, value
            )
        is_half = query.dtype in (torch.bfloat16, torch.float16)
        use_flash = query.is_cuda and is_half and softcap is None
        attend = flash_packed if use_flash else attend_packed
        out = attend(query, key, value, packed, *options)
    return out[None], None


def attend_packed(query, key, value, packed, scale, window=None, softcap=None):
    """Causal attention within each sequence, one sequence at a time.

    query (T, H, K), key and value (T, H_kv, K) -> (T, H, K).
    """
    if packed.source is not None:
        query, key, value = (x[packed.source] for x in (query, key, value))
    each = zip(*(x.split(packed.lengths) for x in (query, key, value)))
    out = torch.cat([_attend_alone(q, k, v, scale, window, softcap) for q, k, v in each])
    return out if packed.first is None else out[packed.first]


def _attend_alone(query, key, value, scale, window, softcap):
    """The same of one sequence of L tokens. query (L, H, K), key and value (L, H_kv, K)."""
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))  # (1, H, L, K)
    if window is None and softcap is None:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
    else:
        place = torch.arange(query.shape[2], device=query.device)
        distance = place[:, None] - place  # (L, L) how far a key is behind a query
        is_seen = distance >= 0
        if window is not None:
            is_seen &= distance < window
        out = kernels.masked_attention(query, key, value, is_seen, scale, softcap)
    return out[0].transpose(0, 1)


def flash_packed(query, key, value, packed, scale, window=None, softcap=None):
    """The same as attend_packed by PyTorch's variable-length flash kernel (CUDA, half precision).

    It has no softcap.
    """
    from torch.nn.attention.varlen import varlen_attn

    grouped_heads = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.12 and later
        grouped_heads["enable_gqa"] = True
    else:
        group_size = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group_size, dim=1) for x in (key, value))
    # How many tokens it sees to the left and to the right of a token; -1 means all of them.
    n_left = -1 if window is None else window - 1
    return varlen_attn(
        query,
        key,
        value,
        packed.cu_seqlens,
        packed.cu_seqlens,
        packed.max_len,
        packed.max_len,
        scale=scale,
        window_size=(n_left, 0),
        **grouped_heads,
    )


def attend_cached(query, key, value, step, layer, scale, window=None, softcap=None):
    """Cache the new key and value of each sequence, then attend to all that are cached.

    query (B, H, K), key and value (B, H_kv, K) -> (B, H, K).
    """
    cache = step.cache
    dtype = cache.keys[layer].dtype
    cache.write(layer, step.slots, step.lengths, key.to(dtype), value.to(dtype))
    keys = cache.keys[layer][:, :, : step.max_len]  # (slots, H_kv, L, K), all that can be in use
    values = cache.values[layer][:, :, : step.max_len]
    return kernels.decode_attention(
        query.to(dtype), keys, values, step.lengths, scale, window, softcap
    )


AttentionInterface.register("packed", attention)
