"""The next token: counter-based random numbers, top-k and top-p, greedy and sampled choice.

Shapes: B sequences, V vocabulary.
"""

import hashlib

import torch

from engine.machine import exact_device

# Below these, logits divided by the temperature are infinite in float32, and no token is among
# those that make up top_p.
LEAST_TEMPERATURE = 1e-6
LEAST_TOP_P = 1e-6


def random_key(seed, *parts):
    """Return a 63-bit key for a stream of random numbers, from a seed and the sample's names."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniform(key, counter):
    """key (B,), counter (B,) int64 -> (B,) float64 in [0, 1), on a device that has float64.

    A counter-based generator keeps no state (Salmon et al. 2011, "Parallel random numbers: as easy
    as 1, 2, 3"). The number depends on the key and the position of the token alone, hence not on
    the other sequences of a batch. The mixer is SplitMix64.
    """

    def shift(x, n):
        # int64 is signed: the mask clears the copies of the sign bit.
        return (x >> n) & ((1 << (64 - n)) - 1)

    def mix(x):
        x = (x ^ shift(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as int64
        x = (x ^ shift(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
        return x ^ shift(x, 31)

    golden_gamma = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15
    bits = mix(mix(key) + (counter + 1) * golden_gamma)
    bits = shift(bits, 11).to(exact_device(key.device))
    return bits.double() / 2**53


def keep_likely(logits, top_k, top_p):
    """logits (B, V) -> (B, V) with -inf for all but the top_k tokens and, of these, the top_p set.

    The top_p set is the smallest one with this probability (Holtzman et al. 2020, "nucleus"), where
    the top_k have probability 1 together. Logits equal to the smallest of the top_k stay, too.
    top_k 0 or top_p 1 cut nothing.
    """
    if 0 < top_k < logits.shape[1]:
        smallest = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)
        probability = ordered.softmax(1)
        # A token stays if the tokens before it do not reach top_p yet: the first one always stays.
        before = probability.cumsum(1) - probability
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(1, index, before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def sample(logits, key, counter, temperature=1.0, top_k=0, top_p=1.0):
    """logits (B, V) float32 -> token (B,), logp (B,).

    logp belongs to the distribution that the token was drawn from (greedy: temperature 1). It is
    not finite if a logit of the row is NaN or infinite.
    """
    if temperature == 0:
        # Take the largest logit: log-probabilities may round to ties.
        token = logits.argmax(1, keepdim=True)
        logp = logits.log_softmax(1)
    else:
        logp = keep_likely(logits / temperature, top_k, top_p).log_softmax(1)
        token = choose(logp.exp(), uniform(key, counter)[:, None])
    return token[:, 0], logp.gather(1, token)[:, 0]


def choose(probability, u):
    """probability (B, V), u (B, 1) float64 in [0, 1) -> token (B, 1).

    Inverts the cumulative distribution: the first token whose cumulative probability exceeds u. A
    token of probability 0 is never chosen. A row with NaN returns an arbitrary valid token id.
    """
    # In float32 a token of probability below 6e-8 would vanish in the sums. One sum over the whole
    # vocabulary is up to 12% of a step (135M model, V = 49,152, 64 sequences on a CPU); in a tiny
    # vocabulary nothing is faster.
    cumulative = probability.to(u.device).double().cumsum(1)
    # Rounding leaves the last sum beside 1.
    token = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return token.clamp(max=probability.shape[1] - 1).to(probability.device)
