"""engine/onednn.py: reordered weights give the same numbers, and the model is itself afterwards."""

from pathlib import Path

import pytest
import torch
from torch import nn

from engine import loading, onednn
from engine.decoder import Request, Sampling, decode
from engine.format import FORMATS

BASE = Path(__file__).resolve().parent.parent / "data" / "tiny_base"


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(onednn, "LARGE", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_numbers(any_size, dtype):
    """Against nn.Linear, with and without a bias, for one row, many, and rows of rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24), nn.Linear(24, 56, bias=False)).to(dtype)
    for shape in ((1, 40), (33, 40), (2, 5, 40)):
        rows = torch.randn(shape).to(dtype)
        with torch.inference_mode():
            wanted = model(rows)
            with onednn.reordered_weights(model, 8):
                found = model(rows)
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted)


def test_the_model_is_itself_afterwards(any_size):
    """After an exception, too: it can be trained again."""
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(KeyError), onednn.reordered_weights(model, 2):
        assert "forward" in vars(model[0])
        raise KeyError
    assert "forward" not in vars(model[0])
    model(torch.ones(1, 4)).sum().backward()
    assert model[0].weight.grad is not None


def test_small_models_stay_as_they_are():
    model = nn.Sequential(nn.Linear(4, 4))
    assert onednn.linear_layers(model) == []


def test_the_decoder_uses_them(monkeypatch):
    """The same greedy tokens; every linear layer of the model is asked, the head among them."""
    model, tokenizer = loading.load(BASE)
    form = FORMATS["think"]
    prompts = [form.prompt_ids(tokenizer, text) for text in ("copy a b", "sort 3 1", "copy c")]
    requests = [Request(prompt, i, 12) for i, prompt in enumerate(prompts)]
    used = set()
    product = onednn.linear

    def noted(weight, bias, rows):
        used.add(id(weight))
        return product(weight, bias, rows)

    monkeypatch.setattr(onednn, "linear", noted)
    plain = dict(decode(model, tokenizer, form, requests, Sampling()))
    assert not used
    monkeypatch.setattr(onednn, "LARGE", 0)
    found = dict(decode(model, tokenizer, form, requests, Sampling()))
    assert [found[i].ids for i in range(3)] == [plain[i].ids for i in range(3)]
    assert len(used) == sum(type(module) is nn.Linear for module in model.modules())
