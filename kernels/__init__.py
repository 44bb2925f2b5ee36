"""Token statistics from hidden states and a head, without logits for the whole batch, and the decoder's attention.
Tensors on a GPU go to the Triton kernels, which are imported at the first such call; others to their twins.

reference.py   plain PyTorch: what runs on a CPU, and what a kernel is tested against
softmax_kl.py  rows of given logits: the online softmax
linear.py      the same straight from hidden states and head: no logits in memory
attention.py   one new token per sequence against the slot cache
pair.py        all numbers of two models' distributions in one pass
parallel.py    a head whose vocabulary is sharded over ranks
bench.py       time and memory of all of them

This folder shares its name with a package of the Hugging Face hub, for which transformers looks: keep what stands
here quick, without side effects and without a __version__. Where that package is installed too, in a version that
transformers uses, transformers takes this folder for it; __getattr__ says so.
"""

import importlib.util
import os

import torch

from kernels import reference
from kernels.reference import Head, TokenStats, masked_attention

__all__ = [
    "Head",
    "TokenStats",
    "decode_attention",
    "log_softmax_kl",
    "masked_attention",
    "token_kl",
    "token_stats",
]


def _engine(name, tensor, *differentiable):
    """The Triton file of that name for a tensor on a GPU; the twin for others, and for gradients that it lacks."""
    if not tensor.is_cuda or (
        torch.is_grad_enabled() and any(x.requires_grad for x in differentiable)
    ):
        return reference
    # what Triton 3.9 does anyway, without its warning
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    return importlib.import_module(f"kernels.{name}")


def token_stats(
    hidden,
    head,
    target,
    temperature=1.0,
    want=("logp",),
    ignore_index=-100,
    offset=None,
    group=None,
):
    """See reference.token_stats; with an offset, for a rank's shard of the head, parallel.token_stats."""
    engine = _engine("linear", hidden)
    options = temperature, want, ignore_index, engine
    if offset is None:
        return reference.token_stats(hidden, head, target, *options)
    return importlib.import_module("kernels.parallel").token_stats(
        hidden, head, target, offset, group, *options
    )


def token_kl(hidden_p, head_p, hidden_q, head_q, temperature=1.0):
    """See reference.token_kl, which also serves on a GPU where a gradient is asked for."""
    engine = _engine("linear", hidden_p, hidden_p, head_p.weight, hidden_q, head_q.weight)
    return engine.token_kl(hidden_p, head_p, hidden_q, head_q, temperature)


def log_softmax_kl(logits_p, logits_q):
    """See reference.log_softmax_kl, which also serves on a GPU where a gradient is asked for."""
    return _engine("softmax_kl", logits_p, logits_p, logits_q).log_softmax_kl(logits_p, logits_q)


def decode_attention(query, keys, values, lengths, scale, window=None, softcap=None):
    """See reference.decode_attention. The host never waits for `lengths`: a CUDA graph stays right."""
    engine = _engine("attention", query)
    return engine.decode_attention(query, keys, values, lengths, scale, window, softcap)


def __getattr__(name):
    # of ours: import goes on
    if name.startswith("__") or importlib.util.find_spec(f"kernels.{name}"):
        raise AttributeError(f"module 'kernels' has no attribute {name!r}")
    raise ImportError(
        f"no {name!r} in this project's kernels/. If transformers asked: it wants the hub's package of "
        "that name, which cannot be beside this project; `pip uninstall kernels` in its environment"
    )
