"""One attention function for packed sequences and for a decoding step, put into transformers by its AttentionInterface."""

import inspect
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

import kernels


class Packed:
    """How a packed row splits into sequences; what `attention` needs and no more."""

    def __init__(self, lengths, device):
        self.max_len = max(lengths)
        ends = torch.tensor([0, *lengths]).cumsum(0)
        self.cu_seqlens = ends.to(torch.int32).to(device)  # (n + 1,) for the CUDA kernel
        # Elsewhere: sequences of like length side by side in a padded block, causal, pads behind the real tokens,
        # where no real token looks. Blocks of like length bound the waste: at most half of a long block is padding.
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        groups = []
        for i in order:
            longest = lengths[groups[-1][0]] if groups else 0
            if groups and (longest <= 64 or 2 * lengths[i] >= longest):
                groups[-1].append(i)
            else:
                groups.append([i])
        self.blocks, real = [], []
        for group in groups:
            group.sort()
            n = torch.tensor([lengths[i] for i in group])
            column = torch.arange(int(n.max()))
            is_real = column < n[:, None]
            # (n, L) where in T each cell comes from; a pad repeats its own sequence's last token: what is NaN there
            # would reach a neighbour even with weight 0
            index = ends[:-1][group][:, None] + column.minimum(n[:, None] - 1)
            real.append(index[is_real])
            self.blocks.append((index.to(device), is_real.flatten().nonzero()[:, 0].to(device)))
        self.back = None if len(groups) == 1 else torch.cat(real).argsort().to(device)


@dataclass
class Prefill:
    """A packed row whose keys and values also go into the cache."""

    packed: Packed
    cache: object  # kv_cache.Cache
    slots: torch.Tensor  # (T,) of each token
    positions: torch.Tensor  # (T,)

    @property
    def max_len(self):
        return self.packed.max_len


@dataclass
class Step:
    """One new token for each of the first B slots of the cache."""

    cache: object  # kv_cache.Cache
    lengths: torch.Tensor  # (B,) tokens already cached
    bounds: list[int]  # no less than lengths, known without asking the device

    def __post_init__(self):
        self.slots = torch.arange(len(self.lengths), device=self.lengths.device)
        self.masks = {}  # of each window, made by the first layer that needs it

    @property
    def max_len(self):
        return max(self.bounds) + 1


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
    """transformers' attention hook. query (1, H, T, K), key and value (1, H_kv, T, K) -> ((1, T, H, K), None).

    sequences: Packed, Prefill or Step. sliding_window w: a token sees itself and w - 1 before it (Mistral, Gemma);
    softcap c: scores become c · tanh(score / c) (Gemma 2).
    """
    if attention_mask is not None or sequences is None:
        raise ValueError(
            "call model.hidden_states: this attention takes packed sequences, not a mask"
        )
    # (T, H, K), (T, H_kv, K) twice
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return _attend(
        query, key, value, sequences, module.layer_idx, scaling, sliding_window, softcap
    )[None], None


def _attend(query, key, value, sequences, layer, scale, window=None, softcap=None):
    """Within what `sequences` is: query (T, H, K), key and value (T, H_kv, K) of a layer -> (T, H, K)."""
    if window is not None and sequences.max_len <= window:
        window = None  # nobody is that far away
    if isinstance(sequences, Step):
        return _attend_to_cache(query, key, value, sequences, layer, scale, window, softcap)
    # Under autocast a norm of queries and keys (Qwen3) gives float32 while values are bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    packed = sequences
    if isinstance(sequences, Prefill):
        packed = sequences.packed
        sequences.cache.write(layer, sequences.slots, sequences.positions, key, value)
    return _attend_within(query, key, value, packed, scale, window, softcap)


def _attend_within(query, key, value, packed, scale, window=None, softcap=None):
    """Causal attention inside each packed sequence. (T, H, K), (T, H_kv, K) twice -> (T, H, K)."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and softcap is None:
        return _flash_within(query, key, value, packed, scale, window)
    parts = []
    for index, real in packed.blocks:
        q, k, v = (x[index].transpose(1, 2) for x in (query, key, value))  # (n, H, L, K)
        if softcap is None and window is None:
            out = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, enable_gqa=True
            )
        else:
            place = torch.arange(index.shape[1], device=query.device)
            distance = place[:, None] - place
            seen = (distance >= 0) & (distance < (window or len(place)))  # (L, L)
            if softcap is None:
                out = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=seen, scale=scale, enable_gqa=True
                )
            else:
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
                scores = softcap * torch.tanh((q @ k.transpose(2, 3)).float() * (scale / softcap))
                out = scores.masked_fill(~seen, -torch.inf).softmax(3).to(v.dtype) @ v
        parts.append(out.transpose(1, 2).flatten(0, 1)[real])  # (real tokens, H, K)
    return parts[0] if packed.back is None else torch.cat(parts)[packed.back]


def _flash_within(query, key, value, packed, scale, window=None):
    """The same by PyTorch's variable-length flash kernel (CUDA, half precision). Its window (-1, 0) means causal."""
    from torch.nn.attention.varlen import varlen_attn

    grouped = {}
    # torch 2.12 and later ask to be told
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:
        grouped["enable_gqa"] = True
    else:
        key, value = (
            x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value)
        )
    return varlen_attn(
        query,
        key,
        value,
        packed.cu_seqlens,
        packed.cu_seqlens,
        packed.max_len,
        packed.max_len,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )


def _attend_to_cache(query, key, value, step, layer, scale, window=None, softcap=None):
    """One new token per sequence, (B, H, K) and twice (B, H_kv, K), against the cached ones and itself -> (B, H, K)."""
    keys, values = step.cache.keys[layer], step.cache.values[layer]
    step.cache.write(layer, step.slots, step.lengths, key.to(keys.dtype), value.to(keys.dtype))
    return kernels.decode_attention(
        query.to(keys.dtype),
        keys,
        values,
        step.lengths,
        step.bounds,
        scale,
        window,
        softcap,
        step.masks,
    )


AttentionInterface.register("packed", attention)
