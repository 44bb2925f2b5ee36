"""engine/sampling.py: random numbers, cut distributions and drawn tokens, by hand."""

import math
import random

import pytest
import torch

from engine import sampling
from engine.sampling import choose, keep_likely, random_key, sample, uniform

# ---- Random numbers

MASK = 2**64 - 1


def mix(x):
    """SplitMix64's finaliser (Steele, Lea, Flood 2014) on Python's unbounded integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def test_uniform_is_splitmix64():
    """The published first outputs for seed 1234567 check the Python twin; the twin checks the
    tensor code, whose constants are the same numbers minus 2^64 and whose shifts are of signed
    integers."""
    assert [mix(1234567 + k * 0x9E3779B97F4A7C15 & MASK) for k in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    rng = random.Random(3)
    keys = [0, 1, 2**63 - 1, 2**62] + [rng.getrandbits(63) for _ in range(60)]
    counters = [0, 1, 32767, 2**31] + [rng.randrange(40000) for _ in range(60)]
    expected = [
        (mix(mix(k) + (c + 1) * 0x9E3779B97F4A7C15 & MASK) >> 11) / 2**53
        for k, c in zip(keys, counters)
    ]
    assert uniform(torch.tensor(keys), torch.tensor(counters)).tolist() == expected


def test_uniform_is_uniform():
    """1e5 draws over 100 neighbouring keys and 1000 neighbouring counters. Mean 1/2 ±
    5·(1/√12)/√1e5 = 0.0046, variance 1/12 ± 5·√(1/180)/√1e5 = 0.0012, χ² of 64 bins has mean 63 and
    deviation √126: at most 63 + 5·11.2 = 119. The correlation of neighbours in either direction has
    deviation 1/√1e5: at most 0.016."""
    key, counter = torch.arange(100).repeat_interleave(1000), torch.arange(1000).repeat(100)
    u = uniform(key, counter)
    assert 0 <= u.min() and u.max() < 1 and u.dtype == torch.float64
    assert abs(u.mean() - 0.5) < 0.0046 and abs(u.var() - 1 / 12) < 0.0012
    assert ((torch.histc(u, 64, 0, 1) - 1562.5) ** 2 / 1562.5).sum() < 119
    grid = u.view(100, 1000) - 0.5
    for a, b in ((grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1])):
        assert abs((a * b).mean() * 12) < 0.016


def test_uniform_depends_on_nothing_but_key_and_counter():
    key, counter = torch.arange(50) * 977, torch.arange(50) % 11
    u, order = uniform(key, counter), torch.randperm(50)
    assert torch.equal(uniform(key[order], counter[order]), u[order])
    assert torch.equal(uniform(key[17:18], counter[17:18]), u[17:18])


def test_random_key_names_the_sample():
    """Seed, id and sample number each change the key; it fits a positive int64. ("a", 11) is not
    ("a1", 1)."""
    names = [
        (0, "a", 1),
        (1, "a", 1),
        (0, "b", 1),
        (0, "a", 2),
        (0, "a", 11),
        (0, "a1", 1),
        (0, "a", "1"),
    ]
    keys = [random_key(*name) for name in names]
    assert len(set(keys)) == len(names) and all(0 <= k < 2**63 for k in keys)
    assert random_key(*names[0]) == keys[0]


# ---- Choosing a token


def draw(monkeypatch, probabilities, us, **more):
    """Tokens that sample() takes for given uniform numbers."""
    monkeypatch.setattr(
        sampling, "uniform", lambda key, counter: torch.tensor(us, dtype=torch.float64)
    )
    logits = torch.tensor([probabilities]).log().expand(len(us), -1)
    return sample(logits, None, None, **more)


def test_sample_inverts_the_cumulative_distribution(monkeypatch):
    """p = [.5, 0, .25, .25]: cumulative .5, .5, .75, 1. u below .5 is token 0, below .75 token 2,
    else 3; token 1, which has probability 0, never, not even at the smallest and the largest
    possible u."""
    us = [0.0, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2**-53]
    token, logp = draw(monkeypatch, [0.5, 0.0, 0.25, 0.25], us)
    assert token.tolist() == [0, 0, 2, 2, 3, 3]
    assert logp.tolist() == pytest.approx([math.log(0.5)] * 2 + [math.log(0.25)] * 4, abs=1e-6)
    token, _ = draw(monkeypatch, [0.0, 0.3, 0.7, 0.0, 0.0], [0.0, 1 - 2**-53])
    assert token.tolist() == [1, 2]


def test_choose_against_one_sum():
    """3,000 draws from 1,000 tokens, a third of probability 0: each token's share of the cumulative
    distribution, computed by numpy, holds its u up to the rounding of float64 sums."""
    rng = torch.Generator().manual_seed(3)
    likely = torch.rand(3000, 1000, generator=rng) * (torch.rand(3000, 1000, generator=rng) > 1 / 3)
    u = torch.rand(3000, 1, generator=rng, dtype=torch.float64)
    u[:2] = torch.tensor([[0.0], [1 - 2**-53]])
    token = choose(likely, u)
    share = likely.double() / likely.double().sum(1, keepdim=True)
    above = torch.from_numpy(share.numpy().cumsum(1)).gather(1, token) - u
    assert (likely.gather(1, token) > 0).all()
    assert (above > -1e-12).all() and (above < share.gather(1, token) + 1e-12).all()


def test_choose_finds_a_token_of_small_probability():
    """Of 1 and 2^-30 the second has u from 1 / (1 + 2^-30) on. In float32 both sums are 1."""
    likely = torch.tensor([[1, 2**-30]]).expand(2, -1)
    u = torch.tensor([[1 - 2**-29], [1 - 2**-32]], dtype=torch.float64)
    assert choose(likely, u)[:, 0].tolist() == [0, 1]


def test_choose_among_nan_names_a_token():
    assert (
        0
        <= choose(
            torch.full((1, 130), torch.nan), torch.tensor([[0.5]], dtype=torch.float64)
        ).item()
        < 130
    )


def test_sample_frequencies():
    """60,000 draws from 7 tokens of probability 1/28 .. 7/28: each count within 5 standard
    deviations of N·p."""
    n, p = 60000, torch.arange(1, 8) / 28
    token, _ = sample(p.log().expand(n, -1), torch.arange(n), torch.full((n,), 5))
    counts = torch.bincount(token, minlength=7)
    assert (abs(counts - n * p) < 5 * (n * p * (1 - p)).sqrt()).all()


def test_temperature(monkeypatch):
    """p = [1/5, 4/5] at T = 1/2 is ∝ p²: [1/17, 16/17]; at T = 2 ∝ √p: [1/3, 2/3]. logp belongs to
    that distribution."""
    for temperature, first in ((0.5, 1 / 17), (2.0, 1 / 3)):
        token, logp = draw(
            monkeypatch, [0.2, 0.8], [first - 1e-4, first + 1e-4], temperature=temperature
        )
        assert token.tolist() == [0, 1]
        assert logp.tolist() == pytest.approx([math.log(first), math.log(1 - first)], abs=1e-5)


def test_top_p_counts_probability_at_the_sampling_temperature(monkeypatch):
    """p = [1/5, 4/5] at T = 2 is [1/3, 2/3]: top-p 0.7 needs both tokens (at T = 1 the second alone
    would do)."""
    token, logp = draw(monkeypatch, [0.2, 0.8], [0.3, 0.4], temperature=2.0, top_p=0.7)
    assert token.tolist() == [0, 1] and logp[0].item() == pytest.approx(math.log(1 / 3), abs=1e-5)


def test_greedy_takes_the_largest_and_reports_its_logp_at_temperature_1():
    token, logp = sample(
        torch.tensor([[0.2, 0.7, 0.1]]).log(), None, None, temperature=0.0, top_k=1
    )
    assert token.item() == 1 and logp.item() == pytest.approx(math.log(0.7), abs=1e-6)


def test_greedy_tells_close_logits_apart():
    """1 and its next larger float32 number among 1,000 others: less log Σ exp ≈ 8 both round to one
    number, of which the first would win. The larger logit is the choice, as in transformers."""
    logits = torch.ones(1, 1000)
    logits[0, 700] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert logits.log_softmax(1).unique().numel() == 1
    assert sample(logits, None, None, temperature=0.0)[0].item() == 700


def check_kept(probabilities, top_k, top_p, kept):
    """keep_likely of the logits and of their mirror image: `kept` stay as they are, else -inf."""
    logits = torch.tensor([probabilities, probabilities[::-1]]).log()
    before = logits.tolist()
    first, second = keep_likely(logits, top_k, top_p).tolist()
    expected = [x if i in kept else -math.inf for i, x in enumerate(before[0])]
    assert first == expected
    assert second[::-1] == expected
    assert logits.tolist() == before  # the input is not written into


@pytest.mark.parametrize(
    "probabilities, top_k, kept",
    [
        ([0.4, 0.1, 0.3, 0.2], 2, {0, 2}),
        ([0.4, 0.1, 0.3, 0.2], 0, {0, 1, 2, 3}),  # 0 is all
        ([0.4, 0.1, 0.3, 0.2], 4, {0, 1, 2, 3}),
        ([0.4, 0.1, 0.3, 0.2], 9, {0, 1, 2, 3}),  # more than there are
        ([0.4, 0.2, 0.2, 0.2], 2, {0, 1, 2, 3}),  # equal to the second largest: all stay
    ],
)
def test_top_k_by_hand(probabilities, top_k, kept):
    """The top_k largest logits, and those that equal the smallest of them, stay."""
    check_kept(probabilities, top_k, 1.0, kept)


@pytest.mark.parametrize(
    "top_k, top_p, kept",
    [
        (0, 0.39, {0}),
        (0, 0.41, {0, 2}),  # .4 does not reach .41, .7 does
        (0, 0.69, {0, 2}),
        (0, 0.71, {0, 2, 3}),
        (0, 1e-9, {0}),  # never empty
        (3, 0.60, {0, 2}),  # of the three kept .4/.9 = .44 is less than .6, .78 is not
        (2, 0.57, {0}),  # .4/.7 = .571: top-p counts what top-k left, renormalised
        (0, 0.57, {0, 2}),
    ],
)
def test_top_p_by_hand(top_k, top_p, kept):
    """p = .4 .1 .3 .2. In order .4 .3 .2 .1 with sums .4 .7 .9 1: a token stays if the sum before
    it is less than top_p."""
    check_kept([0.4, 0.1, 0.3, 0.2], top_k, top_p, kept)


def test_top_p_ties_keep_the_right_number():
    """Five tokens of 0.2: three make 0.6 ≥ 0.5, two do not. Which of the equals stay is not
    promised."""
    assert keep_likely(torch.zeros(1, 5), 0, 0.5).isfinite().sum().item() == 3


def test_logp_is_that_of_the_cut_distribution(monkeypatch):
    """p = [.4, .1, .3, .2] with top_k = 2: [4/7, 0, 3/7, 0]."""
    token, logp = draw(monkeypatch, [0.4, 0.1, 0.3, 0.2], [4 / 7 - 1e-4, 4 / 7 + 1e-4], top_k=2)
    assert token.tolist() == [0, 2]
    assert logp.tolist() == pytest.approx([math.log(4 / 7), math.log(3 / 7)], abs=1e-6)
