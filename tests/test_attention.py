"""engine/attention.py: packed against one at a time, leaks between sequences, the call of the CUDA
kernel.
"""

import pytest
import torch
from small_models import (
    LENGTHS,
    V,
    each_family,  # noqa: F401  (the fixture `model`)
    forward,
    sequences,
)

from engine import attention, packing
from engine import model as models


def losses_and_gradients(model, groups):
    """Sum over all scored tokens of -logp, and its gradient, packing each group of sequences into
    one row."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for group in groups:
        loss = -models.score(model, packing.pack(group)).logp.sum()
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


def test_packed_equals_one_at_a_time(model):
    """Seven sequences in one row, in two rows, and in seven rows: hidden states to 2e-6 of the
    largest, loss to 1e-6 of itself, all gradients to 1e-6. Each gradient has an entry above 5e-3
    after division by the 264 scored tokens (the largest of all is 0.2): at least 5,000 tolerances.
    """
    seqs = sequences()
    together = forward(model, seqs)
    apart = torch.cat([forward(model, [ids]) for ids in seqs])
    assert together.shape == (sum(LENGTHS), 32)
    assert together.std() > 0.1 and (together - apart).abs().max() <= 2e-6 * apart.abs().max()
    n = sum(len(ids) - 1 for ids in seqs)
    loss_alone, alone = losses_and_gradients(model, [[ids] for ids in seqs])
    for groups in ([seqs], [seqs[:2], seqs[2:]]):
        loss, gradients = losses_and_gradients(model, groups)
        assert abs(loss - loss_alone) <= 1e-6 * loss_alone and loss_alone / n > 1
        for name, g in gradients.items():
            assert alone[name].abs().max() / n >= 5e-3, name
            assert (g - alone[name]).abs().max() / n <= 1e-6, name


def test_order_of_the_sequences_changes_nothing(model):
    seqs, order = sequences(), [4, 0, 6, 1, 5, 3, 2]
    states = forward(model, seqs).split(LENGTHS)
    shuffled = forward(model, [seqs[i] for i in order]).split([LENGTHS[i] for i in order])
    assert all(
        (states[i] - x).abs().max() <= 2e-6 * states[i].abs().max() for i, x in zip(order, shuffled)
    )


@pytest.mark.parametrize("changed", [0, 1, 3, 6])
def test_no_document_sees_another(model, changed):
    """Every token of one document replaced: the hidden states of the six others stay bit for bit.
    The reverse check: those of the changed document all move, by more than 0.01."""
    seqs = sequences()
    before = forward(model, seqs).split(LENGTHS)
    other = [
        ids if i != changed else [(t - 2 + 11) % (V - 2) + 2 for t in ids]
        for i, ids in enumerate(seqs)
    ]
    after = forward(model, other).split(LENGTHS)
    for i, (a, b) in enumerate(zip(before, after)):
        assert torch.equal(a, b) if i != changed else (a - b).abs().amax(1).min() > 0.01


def test_no_token_sees_a_later_one(model):
    """Token 30 of the 70-token document replaced: positions 0 to 29 stay bit for bit, 30 and all
    later ones move."""
    seqs = sequences()
    before = forward(model, seqs).split(LENGTHS)[3]
    seqs[3] = [*seqs[3][:30], (seqs[3][30] - 1) % (V - 2) + 2, *seqs[3][31:]]
    after = forward(model, seqs).split(LENGTHS)[3]
    moved = (before - after).abs().amax(1)
    assert (moved[:30] == 0).all() and (moved[30:] > 1e-4).all()


def test_a_mask_is_refused(model):
    """Whoever calls model(ids) gets an error that names the right function, not an answer without a
    mask."""
    with pytest.raises(ValueError, match="hidden_states"):
        model(torch.tensor([[3, 4, 5]]))


@pytest.mark.parametrize("window", [None, 1, 3, 4, 7])
@pytest.mark.parametrize("told", [True, False], ids=["torch 2.12 and later", "torch 2.11"])
def test_flash_call_is_attend_packed(monkeypatch, told, window):
    """The call of the CUDA kernel, with a plain stand-in for it: inside each of three sequences
    causal, with a window the last so many tokens only (flash counts those to the left of a token,
    itself not included), and 6 query heads over 2 key-value heads by either convention of grouped
    heads. Equal to one sequence at a time."""
    import torch.nn.attention.varlen as library

    def attend(
        query, key, value, starts, starts_k, longest, longest_k, scale, window_size, enable_gqa
    ):
        assert (
            starts.dtype == torch.int32
            and torch.equal(starts, starts_k)
            and longest == longest_k == 7
        )
        left, right = window_size
        assert right == 0 and (enable_gqa or query.shape[1] == key.shape[1])
        parts = []
        for a, b in zip(starts.tolist(), starts.tolist()[1:]):
            q, k, v = (x[a:b].transpose(0, 1)[None] for x in (query, key, value))
            seen = torch.ones(b - a, b - a, dtype=torch.bool).tril()
            seen = seen if left < 0 else seen.triu(-left)
            parts.append(
                torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
                )[0].transpose(0, 1)
            )
        return torch.cat(parts)

    def new(query, key, value, a, b, c, d, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        return attend(query, key, value, a, b, c, d, scale, window_size, enable_gqa)

    def old(query, key, value, a, b, c, d, *, scale=None, window_size=(-1, -1)):
        return attend(query, key, value, a, b, c, d, scale, window_size, False)

    monkeypatch.setattr(library, "varlen_attn", new if told else old)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(12, heads, 8, generator=generator) for heads in (6, 2, 2))
    packed = attention.Packed([4, 7, 1], "cpu")
    found, wanted = (
        f(query, key, value, packed, 0.3, window)
        for f in (attention.flash_packed, attention.attend_packed)
    )
    assert wanted.std() > 0.1 and (found - wanted).abs().max() < 1e-6
    whole = attention.attend_packed(query, key, value, packed, 0.3)
    changed = (whole - wanted).abs().amax((1, 2)) > 1e-3  # tokens that the window keeps from others
    places = [i for n in (4, 7, 1) for i in range(n)]
    assert changed.tolist() == [window is not None and i >= window for i in places]
