"""The Triton kernels on a CPU, in Triton's interpreter, against float64. `pytest tests/interpreted.py`, or test_triton.py.

The interpreter is chosen when triton is imported, so this needs a process of its own. It is right for float32 and
float16; its bfloat16 dot returns garbage (held as integers), so bfloat16 is compiled in test_triton.py and run by gpu.py.
Every torch.empty of a wrapper is poisoned here (NaN, or a huge integer): what no kernel writes would show.
"""
import os
import sys

assert "triton" not in sys.modules, "the interpreter has to be asked for before triton is imported"
os.environ["TRITON_INTERPRET"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

from kernels import attention, reference  # noqa: E402


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    empty = torch.empty

    def poisoned(*size, **options):
        out = empty(*size, **options)
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)


# ---- attention.py

def slots(lengths, n_heads, kv_heads, width, max_len, dtype, seed=0):
    """A query per row and a cache with one slot more than rows, in which every dead cell is NaN."""
    rng = torch.Generator().manual_seed(seed)
    keys, values = (torch.full((len(lengths) + 1, kv_heads, max_len, width), torch.nan, dtype=dtype) for _ in "kv")
    for row, length in enumerate(lengths):
        for cache in (keys, values):
            cache[row, :, :length + 1] = torch.randn(kv_heads, length + 1, width, generator=rng).to(dtype)
    return torch.randn(len(lengths), n_heads, width, generator=rng).to(dtype), keys, values, torch.tensor(lengths)


def attend(query, keys, values, lengths, scale, window=None, softcap=None):
    """Float64, one head at a time: the definition."""
    out = torch.empty(query.shape, dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        first = 0 if window is None else max(0, length - window + 1)
        for h in range(query.shape[1]):
            g = h // (query.shape[1] // keys.shape[1])
            k, v = (x[row, g, first:length + 1].double() for x in (keys, values))
            scores = scale * (k @ query[row, h].double())
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            out[row, h] = scores.softmax(0) @ v
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n_heads, kv_heads, width, max_len, lengths, window, softcap", [
    (10, 2, 48, 300, [0, 1, 63, 64, 65, 127, 128, 299], None, None),       # G = 5, K no power of 2, edges of blocks
    (4, 4, 16, 600, [599, 5, 64], 7, None),                                # G = 1, window within a block
    (6, 2, 128, 520, [519, 511, 512, 0], 130, 5.0),                        # several splits, window over its edges
    (5, 1, 20, 70, [3, 69], 64, 2.0),                                      # window longer than one of the rows
    (34, 2, 32, 40, [17, 39], None, 1.0)])                                 # G = 17: two tiles' worth of heads in one
def test_decode_attention(n_heads, kv_heads, width, max_len, lengths, window, softcap, dtype):
    """float32 within 2e-6 of float64; float16 at most twice as far from it as the twin, which is within 4e-3. Without
    window and cap it would be off by more than 0.05 (asserted). Dead cells are NaN, the output is poisoned."""
    query, keys, values, lengths = slots(lengths, n_heads, kv_heads, width, max_len, dtype)
    out = attention.decode_attention(query, keys, values, lengths, 0.3, window, softcap)
    twin = reference.decode_attention(query, keys.nan_to_num(), values.nan_to_num(), lengths, int(lengths.max()), 0.3,
                                      window, softcap)
    expected = attend(query, keys, values, lengths, 0.3, window, softcap)
    assert out.dtype == dtype and out.shape == query.shape
    error, budget = ((x - expected).abs().max() for x in (out, twin))
    assert max(error, budget) <= 2e-6 if dtype == torch.float32 else error <= 2 * budget <= 8e-3
    if window or softcap:
        assert (attend(query, keys, values, lengths, 0.3) - expected).abs().max() > 0.05


@pytest.mark.parametrize("programs, max_splits", [(1, 64), (10**6, 64), (10**6, 2)])      # 1, 16 and 2 splits
def test_the_number_of_splits_changes_nothing(monkeypatch, programs, max_splits):
    """Rows of 1 to 16 blocks, so that many splits stay empty: always within 1e-6 of float64."""
    monkeypatch.setattr(attention, "PROGRAMS", programs)
    monkeypatch.setattr(attention, "MAX_SPLITS", max_splits)
    monkeypatch.setattr(attention, "BLOCK_BYTES", 1024)                    # 16 cells
    query, keys, values, lengths = slots([0, 15, 16, 17, 100, 249], 3, 1, 16, 250, torch.float32)
    out = attention.decode_attention(query, keys, values, lengths, 0.5)
    assert (out - attend(query, keys, values, lengths, 0.5)).abs().max() <= 1e-6


def test_strides_of_the_cache_and_of_the_query():
    """A cache stored as (slots, L, H_kv, K) and a query cut out of a larger tensor give the same as contiguous ones."""
    query, keys, values, lengths = slots([5, 70, 33], 4, 2, 16, 80, torch.float32)
    wide = torch.randn(3, 8, 16)
    wide[:, ::2] = query
    other = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (keys, values)]
    assert not any(x.is_contiguous() for x in other)
    assert torch.equal(attention.decode_attention(wide[:, ::2], *other, lengths, 0.3),
                       attention.decode_attention(query, keys, values, lengths, 0.3))


def test_a_bad_number_stays_in_its_row_of_attention():
    """NaN in a key of row 0 and Inf in a value of row 1: rows 2 and 3 bit-equal to those without, rows 0 and 1 not finite."""
    query, keys, values, lengths = slots([9, 20, 3, 70], 4, 2, 16, 80, torch.float32)
    clean = attention.decode_attention(query, keys, values, lengths, 0.3)
    keys[0, :, 4], values[1, :, 20] = torch.nan, torch.inf
    out = attention.decode_attention(query, keys, values, lengths, 0.3)
    assert torch.equal(out[2:], clean[2:]) and not out[:2].isfinite().any() and clean.isfinite().all()


def test_no_rows_to_attend():
    query, keys, values, lengths = slots([2], 4, 2, 16, 8, torch.float32)
    assert attention.decode_attention(query[:0], keys, values, lengths[:0], 0.3).shape == (0, 4, 16)


@pytest.mark.parametrize("change, message", [
    (dict(query=torch.zeros(2, 3, 16)), "does not fit"), (dict(query=torch.zeros(4, 4, 16)), "does not fit"),
    (dict(query=torch.zeros(2, 4, 8)), "does not fit"), (dict(query=torch.zeros(2, 4, 16).half()), "must be alike"),
    (dict(lengths=torch.tensor([1, 2], dtype=torch.int32)), "int64"), (dict(lengths=torch.tensor([1])), r"\(2,\)")])
def test_decode_attention_refuses(change, message):
    query, keys, values, lengths = slots([2, 5], 4, 2, 16, 8, torch.float32)
    with pytest.raises(ValueError, match=message):
        attention.decode_attention(**{"query": query, "keys": keys, "values": values, "lengths": lengths,
                                      "scale": 1.0, **change})
