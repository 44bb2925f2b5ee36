"""engine/kv_cache.py: cells by hand."""

import pytest
import torch
from small_models import H_KV, LAYERS, SMALL, K, random_model
from transformers import LlamaConfig

from engine import kv_cache

SLOTS, MAX_LEN = 5, 7


@pytest.fixture
def cache():
    """Each cell of slot s holds 10 s plus its position, in keys and, negated, in values."""
    found = kv_cache.Cache(random_model(LlamaConfig(**SMALL)), SLOTS, MAX_LEN)
    cell = 10.0 * torch.arange(SLOTS)[:, None] + torch.arange(MAX_LEN)
    for keys, values in zip(found.keys, found.values):
        keys[:] = cell[:, None, :, None]
        values[:] = -cell[:, None, :, None]
    return found


def cells(cache, layer):
    """Cells (slots, positions) of a layer, the same in each head and number."""
    keys, values = cache.keys[layer], cache.values[layer]
    assert torch.equal(keys, -values)
    assert torch.equal(keys, keys[:, :1, :, :1].expand_as(keys))
    return keys[:, 0, :, 0]


def test_a_cache_has_a_tensor_for_each_layer(cache):
    """4 bytes for a key and a value of 3 layers, 2 heads and 10 numbers: 480 for a token."""
    assert len(cache.keys) == len(cache.values) == LAYERS
    assert {tensor.shape for tensor in (*cache.keys, *cache.values)} == {(SLOTS, H_KV, MAX_LEN, K)}
    assert kv_cache.bytes_per_token(random_model(LlamaConfig(**SMALL))) == 480


def test_write_by_hand(cache):
    """Three tokens go to cells (4, 0), (1, 6) and (1, 2) of layer 2; nothing else changes."""
    before = [cells(cache, layer).clone() for layer in range(LAYERS)]
    key = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, H_KV, K)
    cache.write(2, torch.tensor([4, 1, 1]), torch.tensor([0, 6, 2]), key, -key)
    before[2][4, 0], before[2][1, 6], before[2][1, 2] = 1, 2, 3
    assert all(torch.equal(cells(cache, layer), before[layer]) for layer in range(LAYERS))


def test_copy_by_hand(cache):
    """The first 3 cells of slots 4 and 3 go to slots 0 and 2, in all layers."""
    cache.copy([4, 3], [0, 2], 3)
    for layer in range(LAYERS):
        assert cells(cache, layer)[0].tolist() == [40, 41, 42, 3, 4, 5, 6]
        assert cells(cache, layer)[2].tolist() == [30, 31, 32, 23, 24, 25, 26]
        assert cells(cache, layer)[[1, 3, 4], 0].tolist() == [10, 30, 40]


def test_clear_by_hand(cache):
    """The first 2 cells of slots 1 and 3 are 0 in all layers, also where they were NaN."""
    cache.values[0][3, :, 1] = torch.nan
    cache.keys[0][3, :, 1] = torch.nan
    cache.clear([1, 3], 2)
    for layer in range(LAYERS):
        assert cells(cache, layer)[1].tolist() == [0, 0, 12, 13, 14, 15, 16]
        assert cells(cache, layer)[3].tolist() == [0, 0, 32, 33, 34, 35, 36]
        assert cells(cache, layer)[2].tolist() == [20, 21, 22, 23, 24, 25, 26]
