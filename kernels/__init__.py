"""Token statistics from hidden states and a head, without vocabulary-sized logits for the whole batch, and the decoder's
attention. Tensors on a GPU go to the Triton kernels, which are imported at the first such call; others to the twins.

reference.py   plain PyTorch: what runs on a CPU, and what a kernel is tested against
attention.py   one new token per sequence against the slot cache

This folder shares its name with a package of the Hugging Face hub, for which transformers looks on import: keep what
stands here quick, without side effects and without a __version__.
"""
import importlib
import os

from kernels import reference
from kernels.reference import TokenStats

__all__ = ["TokenStats", "decode_attention", "log_softmax_kl", "token_kl", "token_stats"]


def _kernels(tensor, name):
    """The Triton file of that name for a tensor on a GPU, the twin for any other."""
    if not tensor.is_cuda:
        return reference
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")        # what Triton 3.9 does anyway, without its warning
    return importlib.import_module(f"kernels.{name}")


token_stats, token_kl, log_softmax_kl = reference.token_stats, reference.token_kl, reference.log_softmax_kl


def decode_attention(query, keys, values, lengths, longest, scale, window=None, softcap=None, masks=None):
    """See reference.decode_attention. On a GPU `longest` and `masks` are not looked at: a graph of it stays right."""
    if query.is_cuda:
        return _kernels(query, "attention").decode_attention(query, keys, values, lengths, scale, window, softcap)
    return reference.decode_attention(query, keys, values, lengths, longest, scale, window, softcap, masks)
