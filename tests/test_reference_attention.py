"""kernels/reference_attention.py: one new token against the cache, against loops in float64."""

import math

import pytest
import torch

import kernels


def attention_by_loops(query, keys, values, lengths, scale, window, softcap):
    """Each head of each row by itself, in float64, from the definition."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // keys.shape[1]
    for b, n in enumerate(lengths.tolist()):
        for h in range(query.shape[1]):
            cells = [i for i in range(n + 1) if window is None or n - i < window]
            scores = [
                scale
                * sum(float(x) * float(y) for x, y in zip(query[b, h], keys[b, h // group, i]))
                for i in cells
            ]
            if softcap is not None:
                scores = [softcap * math.tanh(x / softcap) for x in scores]
            top = max(scores)
            weights = [math.exp(x - top) for x in scores]
            for i, w in zip(cells, weights):
                out[b, h] += w / sum(weights) * values[b, h // group, i].double()
    return out


def attention_case(dtype, n_kv, seed=0):
    """5 rows of 0..12 cached tokens in 7 slots of 13 cells, 6 heads, width 4; finite rubbish behind
    each length."""
    rng = torch.Generator().manual_seed(seed)
    query, keys, values = (
        torch.randn(*shape, generator=rng).to(dtype)
        for shape in ((5, 6, 4), (7, n_kv, 13, 4), (7, n_kv, 13, 4))
    )
    lengths = torch.tensor([4, 0, 10, 7, 1])
    for b, n in enumerate(lengths.tolist()):
        keys[b, :, n + 1 :], values[b, :, n + 1 :] = 300.0, -700.0
    return query, keys, values, lengths


@pytest.mark.parametrize("n_kv", [1, 2, 6])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 4, 11, 40])
def test_decode_attention_against_loops(n_kv, window, softcap):
    """Heads that share keys and heads that do not, ragged lengths, windows shorter and longer than
    they are, whatever stands behind a row's length. float32 within 1e-5 of float64 loops; the
    window and the cap each move the result by more than 0.1."""
    query, keys, values, lengths = attention_case(torch.float32, n_kv)
    expected = attention_by_loops(query, keys, values, lengths, 0.7, window, softcap)
    before = [x.clone() for x in (query, keys, values, lengths)]
    out = kernels.decode_attention(query, keys, values, lengths, 0.7, window, softcap)
    assert out.shape == query.shape and out.dtype == torch.float32
    assert (out - expected).abs().max() < 1e-5
    assert all(torch.equal(x, y) for x, y in zip(before, (query, keys, values, lengths)))
    for changed in (
        ((None, softcap) if window in (1, 4) else ()),
        ((window, None) if softcap and window != 1 else ()),
    ):
        if changed:
            other = attention_by_loops(query, keys, values, lengths, 0.7, *changed)
            assert (other - expected).abs().max() > 0.1


def test_decode_attention_in_half_precision():
    """bfloat16 with scores in the tens: no further from the truth than twice the rounding of the
    result and of the products (2^-8 of the largest value); a softmax in bfloat16 would be ten times
    as far."""
    query, keys, values, lengths = attention_case(torch.bfloat16, 2, seed=5)
    out = kernels.decode_attention(6 * query, keys, values, lengths, 1.0)
    assert out.dtype == torch.bfloat16
    assert (
        out - attention_by_loops(6 * query, keys, values, lengths, 1.0, None, None)
    ).abs().max() < 2**-7 * 4
