"""Numbers of each token without logits for the whole batch, and the decoder's attention.

Call these; each picks the Triton kernel for tensors on a GPU, and plain PyTorch for others:
    token_stats       log-probability, entropy, rank, likeliest token of given targets
    token_kl          KL of two models, both ways
    log_softmax_kl    the same, from logits that are at hand
    decode_attention  attention of one new token per sequence to the cache
    masked_attention  attention with a mask and, perhaps, a softcap: plain PyTorch everywhere
Head describes an output head: its weight, its softcap and its scale.

Files in reading order:
    reference.py            plain PyTorch: the definitions, the forward and the backward pass
    softmax_kl.py           Triton: the online softmax over rows of given logits
    linear.py               Triton: the same from hidden states and head, no logits in memory
    reference_attention.py  plain PyTorch: attention to the cache
    attention.py            Triton: the same, split over the cells of a sequence
    parallel.py             token_stats of a head that is sharded over ranks
    pair.py                 all numbers that compare two models, in one pass
    bench.py                time and memory: python -m kernels.bench

The plain functions are what a kernel is tested against. Triton is imported at the first call with
a tensor on a GPU. This folder shares its name with a package of the Hugging Face hub, which
transformers looks for. So its import must be quick, without side effects, and without a
__version__. If that package is installed too, in a version that transformers uses, transformers
takes this folder for it; __getattr__ then says what to do.
"""

import importlib.util
import os

import torch

from kernels import reference, reference_attention
from kernels.reference import Head, TokenStats
from kernels.reference_attention import masked_attention

__all__ = [
    "Head",
    "TokenStats",
    "decode_attention",
    "log_softmax_kl",
    "masked_attention",
    "token_kl",
    "token_stats",
]


def token_stats(hidden, head, target, temperature=1.0, want=("logp",), offset=None, group=None):
    """See reference.token_stats; with an offset, for a shard of the head, parallel.token_stats."""
    backend = _triton("linear") if hidden.is_cuda else reference
    if offset is None:
        return reference.token_stats(hidden, head, target, temperature, want, backend)
    # torch.distributed is imported only where it is used.
    parallel = importlib.import_module("kernels.parallel")
    return parallel.token_stats(hidden, head, target, offset, group, temperature, want, backend)


def token_kl(hidden_p, head_p, hidden_q, head_q, temperature=1.0):
    """See reference.token_kl, which also computes on a GPU if a gradient is asked for."""
    tensors = hidden_p, head_p.weight, hidden_q, head_q.weight
    use_triton = hidden_p.is_cuda and not _needs_gradient(*tensors)
    backend = _triton("linear") if use_triton else reference
    return backend.token_kl(hidden_p, head_p, hidden_q, head_q, temperature)


def log_softmax_kl(logits_p, logits_q):
    """See reference.log_softmax_kl, which also computes on a GPU if a gradient is asked for."""
    use_triton = logits_p.is_cuda and not _needs_gradient(logits_p, logits_q)
    backend = _triton("softmax_kl") if use_triton else reference
    return backend.log_softmax_kl(logits_p, logits_q)


def decode_attention(query, keys, values, lengths, scale, window=None, softcap=None):
    """See reference_attention.decode_attention.

    The host never waits for `lengths`, so a CUDA graph of a decoding step stays right.
    """
    backend = _triton("attention") if query.is_cuda else reference_attention
    return backend.decode_attention(query, keys, values, lengths, scale, window, softcap)


def _triton(name):
    """The file of that name, which imports triton."""
    # What Triton 3.9 does anyway, without its warning.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    return importlib.import_module(f"kernels.{name}")


def _needs_gradient(*tensors):
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def __getattr__(name):
    if name.startswith("__") or importlib.util.find_spec(f"kernels.{name}"):
        # A file of ours: python goes on to import it.
        raise AttributeError(f"module 'kernels' has no attribute {name!r}")
    raise ImportError(
        f"no {name!r} in this project's kernels/. If transformers asked: it wants the hub's "
        "package of that name, which cannot be beside this project; `pip uninstall kernels` in its "
        "environment"
    )
