"""Keys and values of the sequences that are being decoded."""

import torch

from engine.model import head, head_width


class Cache:
    """Keys and values of up to `slots` sequences, (slots, H_kv, max_len, K) in each layer.

    Live sequences are in the first slots without a gap: a decoding step reads a plain slice.
    """

    def __init__(self, model, slots, max_len):
        self.slots = slots
        self.max_len = max_len
        weight = head(model)
        options = {"dtype": weight.dtype, "device": weight.device}
        shapes = [(slots, heads, max_len, width) for heads, width in cache_shape(model)]
        self.keys = [torch.zeros(shape, **options) for shape in shapes]
        self.values = [torch.zeros(shape, **options) for shape in shapes]

    def write(self, layer, slots, positions, key, value):
        """Store key and value (T, H_kv, K) at each token's slot (T,) and position (T,)."""
        self.keys[layer][slots, :, positions] = key
        self.values[layer][slots, :, positions] = value

    def copy(self, source, destination, length):
        """Copy the first `length` cells of slot source[i] to slot destination[i] in all layers."""
        for tensor in (*self.keys, *self.values):
            tensor[destination, :, :length] = tensor[source, :, :length]

    def clear(self, slots, length):
        """Zero the first `length` cells of these slots in all layers.

        Attention gives the cells behind a sequence the weight 0, but 0 · NaN is NaN: a NaN of an
        earlier sequence in the slot would reach the next one.
        """
        for tensor in (*self.keys, *self.values):
            tensor[slots, :, :length] = 0


def cache_shape(model):
    """(key-value heads, head width) of each layer.

    Under tensor parallelism these are the heads of this rank.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    heads_here = heads // getattr(model, "attention_parts", 1)
    return [(heads_here, head_width(config))] * config.num_hidden_layers


def bytes_per_token(model):
    """Memory of the cache for one token of one sequence."""
    n_numbers = 2 * sum(heads * width for heads, width in cache_shape(model))  # keys and values
    return n_numbers * head(model).element_size()
