"""engine/shared_prompts.py: the prompt of a group is computed once, and nothing else changes."""

import pytest
import torch
from policies import base_models, config, deviation, gradient, slow_gradient

import grpo
from engine import (
    shared_prompts,
)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_prompt_is_computed_once_for_its_group(monkeypatch, reverse):
    """Three groups: 3 samples of a prompt of 70 tokens, 2 of one of 4, 1 of another, and a prompt that only begins like the
    one before. Lengths from 5 to 130 give several blocks. Gradient, loss, KL and entropy are those of the loop, in which
    each sequence is alone; the packed row holds each prompt once."""
    generator = torch.Generator().manual_seed(7)

    def draw(n):
        return torch.randint(7, 149, (n,), generator=generator).tolist()

    long, short, other = draw(70), draw(4), draw(6)
    rows = [
        (long, 3),
        (long, 60),
        (long, 17),
        (short, 2),
        (short, 9),
        (short + [9], 5),
        (other, 12),
    ]
    rows = rows[::-1] if reverse else rows
    sequences = [prompt + draw(n) for prompt, n in rows]
    masks = [[False] * len(prompt) + [True] * n for prompt, n in rows]
    olds, advantage = [[-4.0] * len(ids) for ids in sequences], torch.randn(7, generator=generator)
    cfg = config(kl="k2", beta=0.3, eps_low=2.0, eps_high=50.0)
    batch, packed = shared_prompts.pack_groups(sequences, masks, "cpu")
    assert len(batch.ids) == 70 + 80 + 4 + 11 + 10 + 18 and len(packed.source) == sum(
        map(len, sequences)
    )
    expected, loss, entropy, kl = slow_gradient(sequences, masks, olds, advantage, cfg)
    found, values = gradient(monkeypatch, sequences, masks, olds, advantage, cfg)
    assert deviation(found, expected) < 5e-6 and values["loss"] == pytest.approx(loss, rel=1e-6)
    assert (values["entropy"], values["kl"]) == pytest.approx((entropy, kl), abs=1e-5)
    olds = grpo.logps_of(base_models()[0], sequences, masks, cfg)
    alone = [
        grpo.logps_of(base_models()[0], [ids], [mask], cfg)[0]
        for ids, mask in zip(sequences, masks)
    ]
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(olds, alone))
