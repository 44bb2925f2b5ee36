"""The next token: counter-based random numbers, top-k and top-p, greedy and sampled choice."""

import hashlib

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- sampling


def random_key(seed, *parts):
    """A 63-bit key for a stream of random numbers, from a seed and whatever names the sample."""
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:8], "big") >> 1


def uniform(key, counter):
    """key and counter (B,) int64 -> (B,) float64 in [0, 1), without a state to keep.

    A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the number for a
    token depends on its key and position alone, hence not on who shares the batch. The mixer is SplitMix64.
    """

    def shift(x, n):  # logical shift: int64 is signed
        return (x >> n) & ((1 << (64 - n)) - 1)

    def mix(x):
        x = (x ^ shift(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
        x = (x ^ shift(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
        return x ^ shift(x, 31)

    x = mix(mix(key) + (counter + 1) * -0x61C8864680B583EB)  # 0x9E3779B97F4A7C15
    return shift(x, 11).double() / 2**53


def keep_likely(logits, top_k, top_p):
    """Set all but the top_k tokens, then all but the smallest set with probability top_p, to -inf. (B, V)."""
    if top_k and top_k < logits.shape[1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)
        probability = ordered.softmax(1)
        above = probability.cumsum(1) - probability  # of the tokens before this one
        outside = torch.zeros_like(above, dtype=torch.bool).scatter(1, index, above >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def sample(logits, key, counter, temperature=1.0, top_k=0, top_p=1.0, with_logp=True):
    """logits (B, V) float32 -> token (B,), logp (B,) under the distribution it was drawn from (greedy: at T = 1).

    Without with_logp a greedy choice spares itself the softmax; NaN or infinite logits show in logp either way.
    """
    if temperature == 0:
        token = first_max(logits)  # of the logits: log-probabilities may round to ties
        top = logits.gather(1, token)
        if not with_logp:
            return token[:, 0], (top - top)[:, 0]  # 0, or NaN
    else:
        logits = keep_likely(logits / temperature, top_k, top_p)
        top = logits.amax(1, keepdim=True)
    likely = (logits - top).exp_()  # probabilities, but for their sum
    if temperature > 0:
        token = choose(likely, uniform(key, counter)[:, None])
    return token[:, 0], (logits.gather(1, token) - top - likely.sum(1, keepdim=True).log())[:, 0]


def first_max(logits, width=128):
    """logits (B, V) -> (B, 1), the first token with the largest logit of a row, or a NaN: the first block of the vocabulary
    that has it, then the place in this block. On a CPU one search over all of it takes several times as long."""
    blocks = _blocks(logits, width, -torch.inf)
    block = blocks.amax(2).argmax(1, keepdim=True)
    return block * width + _pick(blocks, block).argmax(1, keepdim=True)


def choose(likely, u, width=128):
    """likely (B, V) not normalised, u (B, 1) float64 in [0, 1) -> (B, 1), the first token whose cumulative probability
    exceeds u; one with probability 0 never does.

    In two levels, blocks of the vocabulary and the tokens of one: sums in float64 over all of it take longer than the
    rest of sampling. NaN gives some token.
    """

    def first_above(sums, point):
        return torch.searchsorted(sums, point, right=True).clamp(max=sums.shape[1] - 1)

    blocks = _blocks(likely, width, 0.0)
    below = blocks.sum(2).double().cumsum(1)  # (B, blocks)
    point = u * below[:, -1:]
    block = first_above(below, point)
    start = F.pad(below, (1, 0)).gather(1, block)
    inside = _pick(blocks, block).double().cumsum(1)  # (B, width)
    # A block's sum in float32 may exceed that in float64: then its last token that has a probability is meant.
    last = inside[:, -1:].nextafter(torch.zeros_like(u))
    return (block * width + first_above(inside, (point - start).minimum(last))).clamp(
        max=likely.shape[1] - 1
    )


def _blocks(x, width, fill):
    """(B, V) -> (B, blocks, width), the last block filled up with `fill`."""
    rest = -x.shape[1] % width
    return (F.pad(x, (0, rest), value=fill) if rest else x).unflatten(1, (-1, width))


def _pick(blocks, block):
    """blocks (B, blocks, width), block (B, 1) -> that block of each row, (B, width)."""
    return blocks.gather(1, block[:, :, None].expand(-1, -1, blocks.shape[2]))[:, 0]
