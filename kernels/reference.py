"""Log-probability, entropy, rank and KL per token, and the decoder's attention, in plain PyTorch.

With z = softcap(h Wᵀ) / temperature, one row of V logits per token:
    logsumexp  L = log Σ_v exp z_v
    logp         = z_target - L
    entropy    H = L - Σ_v p_v z_v,          p = exp(z - L)
    rank         = 1 + #{v : z_v > z_target}  (1 = the most likely token; ties do not push the target down)
    KL(p‖q)      = Σ_v p_v (log p_v - log q_v)

The logits of a batch would take N·V numbers (32k tokens of Qwen2.5: 20 GB in fp32). So the vocabulary is cut into
parts, one of which has logits at a time. What each part gives, as a softmax of its own, gives that of the whole: with
w_c = exp(L_c - L) the probability of part c (under q: v_c),
    L = log Σ_c exp L_c,    H = Σ_c w_c (H_c - log w_c),    KL(p‖q) = Σ_c w_c (KL_c + log w_c - log v_c)
A part is a chunk of columns here, a tile of the kernel in linear.py, a rank's share of the head in parallel.py.

Gradients come from the logits of a part, computed once more unless all of them together are few:
    ∂/∂z_v = p_v (g_L + g_H (L - H - z_v)) + g_target [v = target],   then ∂/∂h = (∂/∂z) W, ∂/∂W = (∂/∂z)ᵀ h
Parts of the vocabulary, not of the rows, so that each row of ∂/∂W is written once and not added to.
"""

import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_NUMBERS = 2**21  # logits held at a time: 8 MB in fp32, what a CPU caches
# up to so many (128 MB) stay for the gradient here, which then takes three products, not four
KEPT_NUMBERS = 2**25


class Head(NamedTuple):
    """An output head: logits = scale · W h, with a softcap c = softcap: c · tanh(scale · W h / c).

    weight (V, D) has the rows of the vocabulary's tokens only. Models pad their heads: cut it with
    `weight[:n_tokens]` first. softcap: Gemma 2's final_logit_softcapping. scale: Cohere's
    logit_scale, or 1 / logits_scaling of Granite.
    """

    weight: torch.Tensor  # (V, D)
    softcap: float | None = None
    scale: float = 1.0

    def fold(self, temperature):
        """-> (temperature, softcap) with which W h alone gives the same tempered logits z.

        Without a softcap, z = scale · W h / T = W h / (T / scale). With one,
            z = c · tanh(scale · W h / c) / T
              = (c / scale) · tanh(W h / (c / scale)) / (T / scale)
        because (c / scale) / (T / scale) = c / T. So both are divided by the scale, and no code
        behind this line knows of it.
        """
        softcap = None if self.softcap is None else self.softcap / self.scale
        return temperature / self.scale, softcap

    def part(self, start, stop):
        """The head of the tokens start .. stop - 1."""
        return self._replace(weight=self.weight[start:stop])

    def logits(self, hidden, temperature=1.0, out=None):
        """hidden (N, D) -> tempered logits z (N, V) in float32 or better: for a few rows at a time.

        out: memory (N, V) to use where its type allows.
        """
        if out is not None and out.dtype == hidden.dtype:
            products = torch.mm(hidden, self.weight.T, out=out)
        else:
            products = hidden @ self.weight.T
        return self.temper(products, temperature, out)

    def temper(self, products, temperature=1.0, out=None):
        """products W h of any shape -> tempered logits z, in float32 or better."""
        temperature, softcap = self.fold(temperature)
        z = products.to(torch.promote_types(products.dtype, torch.float32))
        if softcap is not None:
            z = torch.mul(torch.tanh(z / softcap), softcap, out=out)
        return z if temperature == 1 else torch.div(z, temperature, out=out)


class TokenStats(NamedTuple):
    """One number per token, each (N,) in float32 (ids and ranks in int64); None for what was not wanted."""

    logp: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    rank: torch.Tensor | None = None
    argmax: torch.Tensor | None = None
    logsumexp: torch.Tensor | None = None


def token_stats(
    hidden,
    head,
    target,
    temperature=1.0,
    want=("logp",),
    ignore_index=-100,
    engine=None,
):
    """hidden (N, D), a Head of V tokens, target (N,) int64 -> TokenStats of the target under softmax(logits / T).

    want: any of TokenStats' fields; logp, entropy and logsumexp are differentiable in hidden and weight, once. Weight
    is rounded to hidden's type, both to autocast's where that is on. Where target is ignore_index all values are 0.
    engine: the file whose statistics and logit_gradient compute, this one or linear.py. Raises ValueError for shapes,
    types or devices that do not fit, an unknown field, a temperature that is not positive, or a target outside the
    vocabulary; for the last the host has to wait for the device.
    """
    hidden, head = check(hidden, head, temperature, want)
    safe, ignored = check_target(target, len(hidden), len(head.weight), hidden.device, ignore_index)
    engine = engine or sys.modules[__name__]
    values = Statistics.apply(hidden, *head, safe, None, temperature, tuple(want), engine)
    return pack(want, ignored, *values)


def pack(want, ignored, logit, logsumexp, entropy, above, _, argmax):
    values = {
        "logp": logit - logsumexp,
        "logsumexp": logsumexp,
        "entropy": entropy,
        "argmax": argmax,
        "rank": None if above is None else above + 1,
    }
    return TokenStats(**{name: values[name].masked_fill(ignored, 0) for name in want})


class Statistics(torch.autograd.Function):
    """hidden (N, D), the fields of a Head, target (N,) -> what statistics() returns, differentiable for the first three.

    autograd sees tensors only as arguments of their own: so a Head is taken apart on the way in."""

    @staticmethod
    def forward(ctx, hidden, weight, softcap, scale, target, threshold, temperature, want, engine):
        head = Head(weight, softcap, scale)
        few = (
            engine is sys.modules[__name__]
            and any(ctx.needs_input_grad)
            and len(hidden) * len(weight) <= KEPT_NUMBERS
        )
        given, kept = (hidden, head, target, threshold, temperature, want), []
        values = statistics(*given, kept) if few else engine.statistics(*given)
        ctx.save_for_backward(hidden, weight, target, *values[1:3], *kept)
        ctx.mark_non_differentiable(*(x for x in values[3:] if x is not None))
        ctx.settings = softcap, scale, temperature, engine
        ctx.set_materialize_grads(False)  # None for what nobody differentiates
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, for_logit, for_sum, for_entropy, *_):
        hidden, weight, target, logsumexp, entropy, *kept = ctx.saved_tensors
        softcap, scale, temperature, engine = ctx.settings
        for_logit, for_sum = (
            torch.zeros_like(logsumexp) if x is None else x for x in (for_logit, for_sum)
        )
        if for_entropy is None:
            entropy = None
        for_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        size = engine.columns(len(hidden), len(weight))
        for i, start in enumerate(range(0, len(weight), size)):
            part = weight[start : start + size]  # (C, D)
            given = (
                hidden,
                Head(part, softcap, scale),
                target - start,
                logsumexp,
                entropy,
                for_logit,
                for_sum,
                for_entropy,
                temperature,
            )
            # (N, C), hidden's type
            slope = logit_gradient(*given, kept[i]) if kept else engine.logit_gradient(*given)
            if for_hidden is not None:
                for_hidden.addmm_(slope, part)  # in half precision rounded once for each part
            if for_weight is not None:
                torch.mm(slope.T, hidden, out=for_weight[start : start + size])
        return for_hidden, for_weight, *[None] * 7


def statistics(hidden, head, target, threshold, temperature, want, kept=None):
    """-> the target's logit, L, H, number of logits above the threshold, largest logit, its place; each (N,), or None
    where entropy, rank or argmax is not wanted. threshold (N,): None for the target's logit (any for target -1).
    kept: a list that gets the logits, part by part."""
    weight, n = head.weight, len(hidden)
    size = columns(n, len(weight))
    logit = torch.zeros(
        n, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device
    )
    above = torch.zeros(n, dtype=torch.int64, device=hidden.device) if "rank" in want else None
    if "rank" in want and threshold is None:  # of a single chunk the logit is known when it counts
        threshold = (
            logit
            if size == len(weight)
            else statistics(hidden, head, target, None, temperature, ())[0]
        )
    # Two tensors of a chunk's size in all, used again for each chunk: new ones cost a CPU page faults.
    room, spare = torch.empty(2, n * size, dtype=logit.dtype, device=hidden.device)
    sums, entropies, tops, places = [], [], [], []
    for start in range(0, len(weight), size):
        part = weight[start : start + size]
        less, e = (x[: n * len(part)].view(n, len(part)) for x in (room, spare))  # (N, C)
        room_of_z = less if kept is None else torch.empty_like(less)
        z = head._replace(weight=part).logits(hidden, temperature, room_of_z)
        if kept is not None:
            kept.append(z)
        here = ((target >= start) & (target < start + size)).nonzero()[:, 0]
        logit[here] = z[here, target[here] - start]
        if "rank" in want:
            above += torch.gt(z, threshold[:, None], out=e).sum(1).long()
        top, place = z.max(1) if "argmax" in want else (z.amax(1), torch.zeros(()))
        tops.append(top)
        places.append(place + start)
        torch.sub(z, top[:, None], out=less)
        total = torch.exp(less, out=e).sum(1)
        sums.append(top + total.log())
        if "entropy" in want:
            entropies.append(total.log() - e.mul_(less).sum(1) / total)
    logsumexp, entropy = merge(torch.stack(sums), torch.stack(entropies) if entropies else None)
    top, argmax = (
        merge_argmax(torch.stack(tops), torch.stack(places)) if "argmax" in want else (None, None)
    )
    return logit, logsumexp, entropy, above, top, argmax


def logit_gradient(
    hidden,
    head,
    target,
    logsumexp,
    entropy,
    for_logit,
    for_sum,
    for_entropy,
    temperature,
    z=None,
):
    """Gradient of the products hidden Wᵀ of a part of the head, W (C, D): (N, C) in hidden's type. target counts from the
    part's first entry; entropy is None where its gradient is not asked for. z: its logits if they were kept."""
    z = head.logits(hidden, temperature) if z is None else z  # (N, C)
    temperature, softcap = head.fold(temperature)
    for_logit, factor = for_logit / temperature, (for_sum / temperature)[:, None]
    if entropy is not None:
        factor = (
            ((logsumexp - entropy)[:, None] - z)
            .mul_(for_entropy[:, None] / temperature)
            .add_(factor)
        )
    slope = (z - logsumexp[:, None]).exp_().mul_(factor)
    here = ((target >= 0) & (target < len(head.weight))).nonzero()[:, 0]
    slope[here, target[here]] += for_logit[here]
    if softcap is not None:
        slope *= 1 - (z * (temperature / softcap)) ** 2  # slope of the cap
    return slope.to(hidden.dtype)


def columns(n_rows, n_vocab):
    """Vocabulary entries of a chunk."""
    return min(n_vocab, max(1, CHUNK_NUMBERS // max(1, n_rows)))


def merge(logsumexp, entropy=None):
    """(parts, N) each -> those of the whole vocabulary, (N,)."""
    total = logsumexp.logsumexp(0)
    log_share = logsumexp - total
    return total, None if entropy is None else (log_share.exp() * (entropy - log_share)).sum(0)


def merge_argmax(top, place):
    """(parts, N) each -> the largest logit and its place, (N,); of equal ones the first."""
    part = top.argmax(0, keepdim=True)
    return top.gather(0, part)[0], place.gather(0, part)[0]


def merge_kl(sum_p, sum_q, forward, reverse):
    """logsumexp of both sides and KL of both directions, (parts, N) each -> (KL(p‖q), KL(q‖p)) of the whole, (N,)."""
    log_p, log_q = sum_p - sum_p.logsumexp(0), sum_q - sum_q.logsumexp(0)
    return (log_p.exp() * (forward + log_p - log_q)).sum(0), (
        log_q.exp() * (reverse + log_q - log_p)
    ).sum(0)


def token_kl(hidden_p, head_p, hidden_q, head_q, temperature=1.0):
    """hidden_p (N, D), hidden_q (N, E), their Heads of V tokens -> (KL(p‖q), KL(q‖p)), each (N,) float32.

    The KL runs over the full vocabulary at each position; both models must share it. Widths may differ.
    """
    hidden_p, head_p, hidden_q, head_q = check_pair(hidden_p, head_p, hidden_q, head_q, temperature)

    def part_kl(hidden_p, weight_p, hidden_q, weight_q):
        z_p = head_p._replace(weight=weight_p).logits(hidden_p, temperature)
        z_q = head_q._replace(weight=weight_q).logits(hidden_q, temperature)
        return z_p.logsumexp(1), z_q.logsumexp(1), *log_softmax_kl(z_p, z_q)

    # several tensors of a chunk's size at a time
    n_vocab, parts = len(head_p.weight), []
    size = columns(4 * len(hidden_p), n_vocab)
    for start in range(0, n_vocab, size):
        weight_p, weight_q = (head.weight[start : start + size] for head in (head_p, head_q))
        part = hidden_p, weight_p, hidden_q, weight_q
        recompute = torch.is_grad_enabled() and size < n_vocab
        parts.append(
            checkpoint(part_kl, *part, use_reentrant=False) if recompute else part_kl(*part)
        )
    return merge_kl(*map(torch.stack, zip(*parts)))


def log_softmax_kl(logits_p, logits_q):
    """logits (N, V) of two models -> (KL(p‖q), KL(q‖p)), each (N,) float32: where a reader starts."""
    check_logits(logits_p, logits_q)
    exact = torch.promote_types(logits_p.dtype, torch.float32)
    logp, logq = logits_p.to(exact).log_softmax(1), logits_q.to(exact).log_softmax(1)
    difference = logp - logq
    return (logp.exp() * difference).sum(1), -(logq.exp() * difference).sum(1)


def decode_attention(query, keys, values, lengths, scale, window=None, softcap=None):
    """Attention of one new token per sequence to the cache of its slot.

    query (B, H, K), keys and values (slots, H_kv, L, K), lengths (B,) int64 -> (B, H, K).

    Row b reads the cells 0 .. lengths[b] of slot b, the last of which holds its own key; query head
    h reads key-value head h // (H / H_kv). window w: only the last w of these cells. softcap c:
    scores become c · tanh(score / c).
    """
    n_rows = len(query)
    cell = torch.arange(keys.shape[2], device=lengths.device)
    is_seen = cell <= lengths[:, None]  # (B, L)
    if window is not None:
        is_seen &= cell > lengths[:, None] - window
    query = query[:, :, None]  # (B, H, 1, K)
    is_seen = is_seen[:, None, None]  # (B, 1, 1, L), the same for all heads
    out = masked_attention(query, keys[:n_rows], values[:n_rows], is_seen, scale, softcap)
    return out[:, :, 0]


def masked_attention(query, key, value, is_seen, scale, softcap=None):
    """Attention to the keys that a mask names, with a cap of the scores or without.

    query (B, H, L, K), key and value (B, H_kv, M, K), is_seen (..., L, M) bool -> (B, H, L, K).
    """
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=is_seen, scale=scale, enable_gqa=True
        )
    group_size = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group_size, 1) for x in (key, value))  # (B, H, M, K)
    products = query @ key.transpose(2, 3)  # (B, H, L, M)
    scores = scale * products.to(torch.promote_types(products.dtype, torch.float32))
    scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~is_seen, -torch.inf).softmax(3)
    return weights.to(value.dtype) @ value


def check(hidden, head, temperature, want=()):
    """hidden and head in one type; ValueError for what does not fit."""
    weight = head.weight
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (N, D) and (V, D)"
        )
    if (
        not hidden.is_floating_point()
        or not weight.is_floating_point()
        or hidden.device != weight.device
    ):
        raise ValueError(
            f"hidden {hidden.dtype} on {hidden.device} and weight {weight.dtype} on {weight.device} "
            "must be floating-point numbers on one device"
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


def check_target(target, n, n_vocab, device, ignore_index):
    """-> target with 0 for what is ignored, and which those are; ValueError for what does not fit."""
    if target.shape != (n,) or target.dtype != torch.int64 or target.device != device:
        raise ValueError(
            f"target {tuple(target.shape)} {target.dtype} on {target.device} must be ({n},) int64 "
            f"on {device}"
        )
    ignored = target == ignore_index
    safe = target.masked_fill(ignored, 0)
    if n and not ((safe >= 0) & (safe < n_vocab)).all():
        raise ValueError(f"target outside the vocabulary of {n_vocab}")
    return safe, ignored


def check_pair(hidden_p, head_p, hidden_q, head_q, temperature):
    hidden_p, head_p = check(hidden_p, head_p, temperature)
    hidden_q, head_q = check(hidden_q, head_q, temperature)
    n_vocab = len(head_p.weight), len(head_q.weight)
    if (
        len(hidden_p) != len(hidden_q)
        or n_vocab[0] != n_vocab[1]
        or hidden_p.device != hidden_q.device
    ):
        raise ValueError(
            f"{len(hidden_p)} tokens of {n_vocab[0]} against {len(hidden_q)} of {n_vocab[1]}: "
            "KL needs the same tokens and one vocabulary, on one device"
        )
    return hidden_p, head_p, hidden_q, head_q


def check_logits(logits_p, logits_q):
    if logits_p.ndim != 2 or logits_p.shape != logits_q.shape or logits_p.device != logits_q.device:
        raise ValueError(
            f"logits {tuple(logits_p.shape)} and {tuple(logits_q.shape)} must be (N, V) on one device"
        )
