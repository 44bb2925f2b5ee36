"""Keys and values of the sequences that are being decoded."""

import re
from pathlib import Path

import torch

from engine.model import head, rope_limit


class Cache:
    """Keys and values of up to `slots` sequences, preallocated: per layer (slots, H_kv, max_len, K).

    Live sequences occupy the first slots without a gap, so that a decoding step reads a plain slice. On a CPU the n-th
    numbers of all keys of a head lie together, not the numbers of a key: attention takes 0.65 to 0.95 of the time so.
    """

    def __init__(self, model, slots, max_len):
        def zeros(*shape):
            return torch.zeros(slots, *shape, dtype=weight.dtype, device=weight.device)

        weight, shapes = head(model), cache_shape(model)
        self.slots, self.max_len, self.tables = slots, max_len, None
        self.n_positions = min(max_len, rope_limit(model) or max_len)
        self.values = [zeros(heads, max_len, width) for heads, width in shapes]
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            self.keys = [zeros(heads, width, max_len).transpose(2, 3) for heads, width in shapes]
        else:
            self.keys = [zeros(heads, max_len, width) for heads, width in shapes]

    def rotation(self, embedding, like):
        """cos and sin (positions, K), sin with the sign that its half of the numbers takes; made once. embedding: the
        model's rotary module; like: any tensor of its type and device."""
        if self.tables is None:
            cos, sin = (
                table[0]
                for table in embedding(
                    like, torch.arange(self.n_positions, device=like.device)[None]
                )
            )
            self.tables = (
                cos,
                torch.cat([-sin[:, : sin.shape[1] // 2], sin[:, sin.shape[1] // 2 :]], 1),
            )
        return self.tables

    def write(self, layer, slot, position, key, value):
        """key, value (T, H_kv, K) of a layer, to each token's slot (T,) and position (T,)."""
        self.keys[layer][slot, :, position] = key
        self.values[layer][slot, :, position] = value

    def copy(self, source, destination, length):
        """Copy the first `length` cells of slot source[i] to slot destination[i] in all layers."""
        for tensor in (*self.keys, *self.values):
            tensor[destination, :, :length] = tensor[source, :, :length]

    def clear(self, slots, length):
        """Forget the first `length` cells of these slots: a NaN would outlive its sequence, for 0 · NaN is NaN."""
        for tensor in (*self.keys, *self.values):
            tensor[slots, :, :length] = 0


def cache_shape(model):
    """(key-value heads, head width) of each layer; under tensor parallelism the heads of this rank."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return [(heads // getattr(model, "attention_parts", 1), width)] * config.num_hidden_layers


def bytes_per_token(model):
    """Memory that the cache takes for one token of one sequence."""
    return (
        2 * sum(heads * width for heads, width in cache_shape(model)) * head(model).element_size()
    )


def free_memory(device):
    """Bytes that can still be allocated on a device."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        return 1024 * int(
            re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]
        )
    except (OSError, TypeError):  # not Linux: nothing is known
        return 2**60
