"""Log-probability, entropy, rank and KL of each token, in plain PyTorch. Start reading here.

Each token has one row of V logits, z = head.logits(h) / temperature. From it:
    L        = log Σ_v exp z_v                  logsumexp
    logp     = z_target - L
    p_v      = exp(z_v - L)
    H        = -Σ_v p_v log p_v                 entropy; also L - Σ_v p_v z_v
    rank     = 1 + #{v : z_v > z_target}        1 is the likeliest token; equal logits share a rank
    KL(p‖q)  = Σ_v p_v (log p_v - log q_v)

The logits of a whole batch are too large: those of 32k tokens of Qwen2.5 take 20 GB in float32.
So the vocabulary is cut into parts, and only one part has logits at a time. Part c gives the
numbers of its own softmax, L_c and H_c. Its whole probability is w_c = exp(L_c - L) under p, and
v_c under q. The numbers of the whole vocabulary follow:
    L        = log Σ_c exp L_c
    H        = Σ_c w_c (H_c - log w_c)
    KL(p‖q)  = Σ_c w_c (KL_c + log w_c - log v_c)
A part is a chunk of the vocabulary here, the tiles of one program in linear.py, and a rank's
shard of the head in parallel.py. merge_parts and merge_kl serve all three.

The backward pass computes the logits of each part again instead of storing them. With g_L, g_H
and g_target, the derivatives of the loss by L, H and z_target:
    ∂/∂z_v   = p_v (g_L + g_H (L - H - z_v)) + g_target [v = target]
    ∂/∂h     = (∂/∂z) W,    ∂/∂W = (∂/∂z)ᵀ h
Parts are cut from the vocabulary and not from the rows, so each row of ∂/∂W is written once.

Shapes: N tokens, D width, V vocabulary, C entries of one part of it.
"""

import sys
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

# Logits held at a time: 8 MB in float32, which stays in the cache of a CPU.
CHUNK_NUMBERS = 2**21
# Targets of this value are ignored: torch's own choice in F.cross_entropy.
IGNORED = -100


# ---- with all logits at hand


def log_softmax_kl(logits_p, logits_q):
    """logits (N, V) of two models -> (KL(p‖q), KL(q‖p)), each (N,) in float32 or better."""
    check_logits(logits_p, logits_q)
    exact = torch.promote_types(logits_p.dtype, torch.float32)
    logp = logits_p.to(exact).log_softmax(1)  # (N, V)
    logq = logits_q.to(exact).log_softmax(1)  # (N, V)
    difference = logp - logq
    return (logp.exp() * difference).sum(1), -(logq.exp() * difference).sum(1)


# ---- the head, and what is asked of it


class Head(NamedTuple):
    """An output head: logits = scale · W h, with a softcap c: c · tanh(scale · W h / c).

    weight has one row per token of the vocabulary. Many models pad theirs: cut it with
    weight[:n_tokens]. softcap is final_logit_softcapping of Gemma 2. scale is logit_scale of
    Cohere, or 1 / logits_scaling of Granite.
    """

    weight: torch.Tensor  # (V, D)
    softcap: float | None = None
    scale: float = 1.0

    def part(self, start, stop):
        """The head of the tokens start .. stop - 1."""
        return self._replace(weight=self.weight[start:stop])

    def logits(self, hidden, temperature=1.0):
        """hidden (N, D) -> z (N, V) in float32 or better. For few rows, or a part of the head."""
        return self.temper(hidden @ self.weight.T, temperature)

    def temper(self, products, temperature=1.0):
        """products x = W h of any shape -> z, in float32 or better."""
        z = products.to(torch.promote_types(products.dtype, torch.float32))
        temperature, softcap = self.fold(temperature)
        if softcap is not None:
            z = softcap * torch.tanh(z / softcap)
        return z if temperature == 1 else z / temperature

    def fold(self, temperature):
        """-> (temperature, softcap) that give the same z when the scale is left out.

        Without a softcap: z = scale · x / T = x / (T / scale). With a softcap c:
            z = c · tanh(scale · x / c) / T
              = (c / scale) · tanh(x / (c / scale)) / (T / scale)
        because scale / c = 1 / (c / scale) and c / T = (c / scale) / (T / scale). So both are
        divided by the scale, and what uses them needs to know nothing of it.
        """
        softcap = None if self.softcap is None else self.softcap / self.scale
        return temperature / self.scale, softcap


class TokenStats(NamedTuple):
    """Numbers of each token, (N,): ids and ranks in int64, others in float32. None: not wanted."""

    logp: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    rank: torch.Tensor | None = None
    argmax: torch.Tensor | None = None
    logsumexp: torch.Tensor | None = None


class PartStats(NamedTuple):
    """Numbers of each token over a part of the vocabulary, (N,) each, or (parts, N) of several."""

    logit: torch.Tensor  # of the target; 0 where the target is in another part
    logsumexp: torch.Tensor
    entropy: torch.Tensor | None = None
    above: torch.Tensor | None = None  # number of logits above the threshold
    top: torch.Tensor | None = None  # largest logit
    argmax: torch.Tensor | None = None  # its token


def token_stats(hidden, head, target, temperature=1.0, want=("logp",), backend=None):
    """hidden (N, D), Head of V tokens, target (N,) int64 -> TokenStats, 0 where target is IGNORED.

    want: any fields of TokenStats. logp, entropy and logsumexp are differentiable, once, in hidden
    and in the head's weight. The weight is rounded to hidden's type, or both to autocast's.
    backend: the module whose statistics, logit_gradient and chunk_size compute; this one or linear.

    Raises ValueError for shapes, types or devices that do not fit, for an unknown field, for a
    temperature or scale that is not positive, and for a target outside the vocabulary. The last
    makes the host wait for the device.
    """
    hidden, head = check_inputs(hidden, head, temperature, want)
    target, ignored = check_target(target, len(hidden), len(head.weight), hidden.device)
    backend = backend or sys.modules[__name__]
    stats = differentiable_statistics(hidden, head, target, None, temperature, want, backend)
    return token_stats_of(stats, want, ignored)


def token_stats_of(stats, want, ignored):
    """PartStats of the whole vocabulary -> the TokenStats that are wanted, 0 where ignored."""
    values = {
        "logp": stats.logit - stats.logsumexp,
        "entropy": stats.entropy,
        "rank": None if stats.above is None else stats.above + 1,
        "argmax": stats.argmax,
        "logsumexp": stats.logsumexp,
    }
    return TokenStats(**{name: values[name].masked_fill(ignored, 0) for name in want})


# ---- forward: chunk by chunk


def statistics(hidden, head, target, threshold, temperature, want):
    """hidden (N, D), Head of V tokens, target (N,) -> PartStats over all V, (N,) each.

    target: -1 where it is not among these V. threshold (N,): count the logits above it; None for
    those above the target's.
    """
    n, n_vocab = len(hidden), len(head.weight)
    size = chunk_size(n, n_vocab)
    if "rank" in want and threshold is None and size < n_vocab:
        # Equal logits must compare equal, so the target's comes from the same products as theirs.
        threshold = statistics(hidden, head, target, None, temperature, ()).logit
    parts = []
    for start in range(0, n_vocab, size):
        z = head.part(start, start + size).logits(hidden, temperature)  # (N, C)
        part = part_statistics(z, target - start, threshold, want)
        if part.argmax is not None:
            part = part._replace(argmax=part.argmax + start)
        parts.append(part)
    return merge_parts(stack(parts))


def part_statistics(z, target, threshold, want):
    """z (N, C), target (N,) counted from the part's first entry -> PartStats, (N,) each."""
    row, own = rows_inside(target, z.shape[1])
    logit = z.new_zeros(len(z))
    logit[row] = z[row, own]
    logsumexp = z.logsumexp(1)
    entropy = above = top = argmax = None
    if "entropy" in want:
        logp = z - logsumexp[:, None]  # (N, C)
        entropy = -(logp.exp() * logp).sum(1)
    if "rank" in want:
        above = (z > (logit if threshold is None else threshold)[:, None]).sum(1)
    if "argmax" in want:
        top, argmax = z.max(1)
    return PartStats(logit, logsumexp, entropy, above, top, argmax)


def rows_inside(target, n_entries):
    """target (N,) -> (rows whose target is one of a part's n_entries, their targets)."""
    row = ((target >= 0) & (target < n_entries)).nonzero()[:, 0]
    return row, target[row]


def chunk_size(n_rows, n_vocab):
    """Vocabulary entries of a chunk."""
    return min(n_vocab, max(1, CHUNK_NUMBERS // max(1, n_rows)))


# ---- backward: chunk by chunk


def logit_gradient(hidden, head, target, stats, grad, temperature):
    """∂loss/∂x for the products x = W h of one part of the head -> (N, C) in hidden's type.

    target (N,) counts from the part's first entry. stats: logsumexp and entropy over the whole
    vocabulary. grad: ∂loss/∂logit, ∂loss/∂logsumexp and ∂loss/∂entropy, (N,) each; the last may be
    None.
    """
    z = head.logits(hidden, temperature)  # (N, C)
    p = (z - stats.logsumexp[:, None]).exp()  # (N, C)
    # ∂/∂z_v = p_v (g_L + g_H (L - H - z_v)) + g_target [v = target]
    factor = grad.logsumexp[:, None]
    if grad.entropy is not None:
        mean = (stats.logsumexp - stats.entropy)[:, None]  # Σ_v p_v z_v = L - H
        factor = factor + grad.entropy[:, None] * (mean - z)
    slope = p * factor
    row, own = rows_inside(target, z.shape[1])
    slope[row, own] += grad.logit[row]
    # z = c · tanh(x / c) / T, so ∂z/∂x = (1 - tanh²(x / c)) / T, where tanh(x / c) = z T / c
    temperature, softcap = head.fold(temperature)
    if softcap is not None:
        slope *= 1 - (z * (temperature / softcap)) ** 2
    return (slope / temperature).to(hidden.dtype)


class _Statistics(torch.autograd.Function):
    """backend.statistics with the gradient of the logit, the logsumexp and the entropy.

    A Head is taken apart on the way in: autograd sees a tensor only as an argument of its own.
    """

    @staticmethod
    def forward(ctx, hidden, weight, softcap, scale, target, threshold, temperature, want, backend):
        head = Head(weight, softcap, scale)
        stats = backend.statistics(hidden, head, target, threshold, temperature, want)
        ctx.save_for_backward(hidden, weight, target, stats.logsumexp, stats.entropy)
        ctx.settings = softcap, scale, temperature, backend
        discrete = stats.above, stats.top, stats.argmax
        ctx.mark_non_differentiable(*(x for x in discrete if x is not None))
        # The gradient of an output that the loss does not use is None, not a tensor of zeros.
        ctx.set_materialize_grads(False)
        return tuple(stats)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logit, grad_logsumexp, grad_entropy, *_):
        hidden, weight, target, logsumexp, entropy = ctx.saved_tensors
        softcap, scale, temperature, backend = ctx.settings
        stats = PartStats(None, logsumexp, entropy)
        zeros = torch.zeros_like(logsumexp)
        grad = PartStats(
            zeros if grad_logit is None else grad_logit,
            zeros if grad_logsumexp is None else grad_logsumexp,
            grad_entropy,
        )
        # Sums over parts are in float32 or better: each part's product is rounded to hidden's type,
        # and their sum once more at the end. Rounded after every part, it would be 10 times as far
        # off for a vocabulary of 50,000.
        exact = torch.promote_types(hidden.dtype, torch.float32)
        grad_hidden = torch.zeros_like(hidden, dtype=exact) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        n_vocab = len(weight)
        size = backend.chunk_size(len(hidden), n_vocab)
        for start in range(0, n_vocab, size):
            part = Head(weight[start : start + size], softcap, scale)
            slope = backend.logit_gradient(hidden, part, target - start, stats, grad, temperature)
            if grad_hidden is not None:
                grad_hidden += slope @ part.weight
            if grad_weight is not None:
                torch.mm(slope.T, hidden, out=grad_weight[start : start + size])
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, *[None] * 7


def differentiable_statistics(hidden, head, target, threshold, temperature, want, backend):
    """backend.statistics, differentiable in hidden and in the head's weight."""
    settings = threshold, temperature, tuple(want), backend
    return PartStats(*_Statistics.apply(hidden, *head, target, *settings))


# ---- from parts to the whole vocabulary


def stack(parts):
    """A list of PartStats of (N,) -> one of (parts, N)."""
    return PartStats(*(None if x[0] is None else torch.stack(x) for x in zip(*parts)))


def merge_parts(parts):
    """PartStats of (parts, N) -> PartStats of the whole vocabulary, (N,) each."""
    logsumexp = parts.logsumexp.logsumexp(0)
    entropy = above = top = argmax = None
    if parts.entropy is not None:
        log_w = parts.logsumexp - logsumexp  # (parts, N)
        entropy = (log_w.exp() * (parts.entropy - log_w)).sum(0)
    if parts.above is not None:
        above = parts.above.sum(0).long()
    if parts.argmax is not None:
        # The first of equal logits wins, as within a part.
        best = parts.top.argmax(0, keepdim=True)
        top = parts.top.gather(0, best)[0]
        argmax = parts.argmax.gather(0, best)[0].long()
    return PartStats(parts.logit.sum(0), logsumexp, entropy, above, top, argmax)


def merge_kl(sum_p, sum_q, forward, reverse):
    """logsumexp of p and q and both KLs of each part, (parts, N) -> (KL(p‖q), KL(q‖p)), (N,)."""
    log_w = sum_p - sum_p.logsumexp(0)
    log_v = sum_q - sum_q.logsumexp(0)
    forward = (log_w.exp() * (forward + log_w - log_v)).sum(0)
    reverse = (log_v.exp() * (reverse + log_v - log_w)).sum(0)
    return forward, reverse


# ---- KL of two models


def token_kl(hidden_p, head_p, hidden_q, head_q, temperature=1.0):
    """hidden_p (N, D), hidden_q (N, E), Heads of the same V tokens -> (KL(p‖q), KL(q‖p)), (N,).

    Exact: over the full vocabulary at each position. In float32 or better, and differentiable.
    Raises ValueError for what does not fit, as token_stats does.
    """
    hidden_p, head_p, hidden_q, head_q = check_pair(hidden_p, head_p, hidden_q, head_q, temperature)
    # Parts take float32 copies and round them back, so that autograd sums the parts' gradients in
    # float32.
    hidden_p = hidden_p.to(torch.promote_types(hidden_p.dtype, torch.float32))
    hidden_q = hidden_q.to(torch.promote_types(hidden_q.dtype, torch.float32))

    def part_kl(hidden_p, weight_p, hidden_q, weight_q):
        hidden_p, hidden_q = hidden_p.to(weight_p.dtype), hidden_q.to(weight_q.dtype)
        z_p = head_p._replace(weight=weight_p).logits(hidden_p, temperature)  # (N, C)
        z_q = head_q._replace(weight=weight_q).logits(hidden_q, temperature)  # (N, C)
        return z_p.logsumexp(1), z_q.logsumexp(1), *log_softmax_kl(z_p, z_q)

    n_vocab = len(head_p.weight)
    # Several tensors of a chunk's size are alive at a time.
    size = chunk_size(4 * len(hidden_p), n_vocab)
    # With several chunks, the backward pass makes the logits of each again.
    recompute = torch.is_grad_enabled() and size < n_vocab
    parts = []
    for start in range(0, n_vocab, size):
        weight_p = head_p.weight[start : start + size]
        weight_q = head_q.weight[start : start + size]
        part = hidden_p, weight_p, hidden_q, weight_q
        if recompute:
            parts.append(checkpoint(part_kl, *part, use_reentrant=False))
        else:
            parts.append(part_kl(*part))
    return merge_kl(*map(torch.stack, zip(*parts)))


# ---- what is refused


def check_inputs(hidden, head, temperature, want=()):
    """-> hidden and head in one type. Raises ValueError for what does not fit."""
    weight = head.weight
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} "
            "must be (N, D) and (V, D)"
        )
    floating = hidden.is_floating_point() and weight.is_floating_point()
    if not floating or hidden.device != weight.device:
        raise ValueError(
            f"hidden {hidden.dtype} on {hidden.device} and weight {weight.dtype} "
            f"on {weight.device} must be floating-point numbers on one device"
        )
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}: must be positive")
    if head.scale <= 0:
        raise ValueError(f"scale {head.scale}: must be positive")
    unknown = set(want) - set(TokenStats._fields)
    if unknown:
        raise ValueError(f"want={sorted(unknown)}: not among {TokenStats._fields}")
    if hidden.device.type != "meta" and torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return hidden, head._replace(weight=weight.to(hidden.dtype))


def check_target(target, n, n_vocab, device):
    """-> (target with 0 where it is ignored, where that is). ValueError if it does not fit."""
    if target.shape != (n,) or target.dtype != torch.int64 or target.device != device:
        raise ValueError(
            f"target {tuple(target.shape)} {target.dtype} on {target.device} must be ({n},) int64 "
            f"on {device}"
        )
    ignored = target == IGNORED
    target = target.masked_fill(ignored, 0)
    if n and not ((target >= 0) & (target < n_vocab)).all():
        raise ValueError(f"target outside the vocabulary of {n_vocab}")
    return target, ignored


def check_pair(hidden_p, head_p, hidden_q, head_q, temperature):
    """-> the same, each pair in one type. Raises ValueError for what does not fit."""
    hidden_p, head_p = check_inputs(hidden_p, head_p, temperature)
    hidden_q, head_q = check_inputs(hidden_q, head_q, temperature)
    n_p, n_q = len(hidden_p), len(hidden_q)
    vocab_p, vocab_q = len(head_p.weight), len(head_q.weight)
    if n_p != n_q or vocab_p != vocab_q or hidden_p.device != hidden_q.device:
        raise ValueError(
            f"{n_p} tokens of {vocab_p} against {n_q} of {vocab_q}: "
            "KL needs the same tokens and one vocabulary, on one device"
        )
    return hidden_p, head_p, hidden_q, head_q


def check_logits(logits_p, logits_q):
    if logits_p.ndim != 2 or logits_p.shape != logits_q.shape or logits_p.device != logits_q.device:
        raise ValueError(
            f"logits {tuple(logits_p.shape)} and {tuple(logits_q.shape)} "
            "must be (N, V) on one device"
        )
