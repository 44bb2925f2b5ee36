"""Linear layers of a large model on a CPU, while it decodes."""

from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

LARGE = 50_000_000  # parameters from which the copy pays


@contextmanager
def reordered_weights(model, n_rows):
    """Hold the linear layers' weights in the order in which oneDNN multiplies n_rows rows fastest.

    A decoding step multiplies few rows by all weights of the model, and reads them at half of the
    processor's speed as they lie in nn.Linear. The copy takes as much memory as the weights. Other
    devices and small models stay as they are, and so does a processor without oneDNN.
    """
    layers = linear_layers(model)
    try:
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), n_rows)
            layer.forward = partial(linear, weight, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the method of the class is back


def linear_layers(model):
    """The nn.Linear layers whose weights are worth reordering: of a large model on a CPU."""
    weights = list(model.parameters())
    if (
        sum(weight.numel() for weight in weights) < LARGE
        or not torch.backends.mkldnn.is_available()
    ):
        return []
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    types = torch.float32, torch.bfloat16
    return [x for x in layers if x.weight.device.type == "cpu" and x.weight.dtype in types]


def linear(weight, bias, rows):
    """rows (..., K) -> rows · weightᵀ + bias (..., M), without a gradient."""
    flat = rows.reshape(-1, rows.shape[-1])
    out = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
    return out.view(*rows.shape[:-1], -1)
