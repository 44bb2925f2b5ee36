"""engine/training.py: learning rates, AdamW in bfloat16 and one update by hand."""

import math

import pytest
import torch
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from engine import training
from engine.training import lr_at, make_optimizers, update


def test_s1_schedule():
    """1,000 rows, 16 a step, 5 epochs = 315 steps, ceil(15.75) = 16 of warm-up, cosine over 299."""
    lr = {step: lr_at(step, 315, 1e-5, 0.05) for step in (0, 8, 16, 90, 165, 315)}
    assert lr == pytest.approx(
        {0: 0, 8: 5.0e-6, 16: 1.0e-5, 90: 8.5633e-6, 165: 5.0263e-6, 315: 0}, abs=1e-9
    )


def test_limo_schedule():
    """800 rows, 64 a step, 15 epochs = 195 steps, no warm-up: the first step is at the peak."""
    lr = {step: lr_at(step, 195, 5e-6, 0.0) for step in (0, 97, 98, 195)}
    assert lr == pytest.approx({0: 5e-6, 97: 2.5201e-6, 98: 2.4799e-6, 195: 0}, abs=1e-10)


def test_hold_floor_and_linear_by_hand():
    """10 steps at peak 2. Warm-up 0.15 → ceil(1.5) = 2 steps: 0, 1. Hold 0.5 → peak up to step 5. Linear over the
    other 5 to a floor of 0.1: step 5 + k has 2 (0.1 + 0.9 (1 - k/5)) = 2, 1.64, 1.28, 0.92, 0.56."""
    rates = [lr_at(step, 10, 2.0, 0.15, "linear", 0.5, 0.1) for step in range(10)]
    assert rates == pytest.approx([0, 1, 2, 2, 2, 2, 1.64, 1.28, 0.92, 0.56], abs=1e-12)
    assert lr_at(10, 10, 2.0, 0.15, "linear", 0.5, 0.1) == pytest.approx(0.2)
    assert lr_at(7, 10, 1.0, 0.0, "cosine", 0.5) == pytest.approx(0.6545085)  # (1 + cos 72°) / 2
    assert [lr_at(step, 4, 3.0, 0.5, "constant") for step in range(4)] == [0, 1.5, 3, 3]
    rates = [lr_at(step, 10, 1.0, 0.4, "linear", 0.1) for step in (3, 4)]
    assert rates == pytest.approx([0.75, 1.0])


def test_a_single_step_is_taken_at_the_peak():
    """It would be the warm-up, at rate 0, and change nothing. Two steps: 0, then the peak."""
    for warmup in (0.0, 0.05, 1.0):
        assert lr_at(0, 1, 3.0, warmup) == 3.0
    assert [lr_at(step, 2, 3.0, 0.05) for step in range(2)] == [0.0, 3.0]
    assert [lr_at(step, 2, 3.0, 1.0) for step in range(2)] == [0.0, 1.5]


@pytest.mark.parametrize("n, warmup", [(315, 0.05), (7, 0.3), (20, 0.0)])
def test_cosine_is_that_of_transformers(n, warmup):
    """Every rate of a schedule of n steps at peak 0.7, as transformers sets it."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.7)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(warmup * n), n)
    for step in range(n):
        expected = optimizer.param_groups[0]["lr"]
        assert (step, lr_at(step, n, 0.7, warmup)) == (step, pytest.approx(expected, abs=1e-12))
        optimizer.step()
        schedule.step()


def test_biases_are_not_decayed():
    """Qwen2 has biases on queries, keys and values, and here an untied head: neither decays."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    names = {id(p): name for name, p in model.named_parameters()}
    (optimizer,) = make_optimizers(model, 1.0, (0.9, 0.95), 0.5)
    free = {
        names[id(p)]
        for group in optimizer.param_groups
        if not group["weight_decay"]
        for p in group["params"]
    }
    assert {
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.bias",
    } <= free
    assert len(free) == 2 + 3 + 3  # embeddings, biases, norms


def test_bf16_adam_by_hand_and_against_torch():
    """One step from 0: moments are (1-β) g and (1-β) g², both exact in bfloat16 here, so the step is lr · sign(g) after
    decay: 1 · (1 - 0.1 · 0.5) - 0.1 = 0.85. Twenty steps of a noisy gradient stay within 2% of torch's AdamW."""
    p = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    p.grad = torch.tensor([2.0, 0.5])
    optimizer = training.AdamWBf16(
        [{"params": [p], "weight_decay": 0.5}], lr=0.1, betas=(0.5, 0.75)
    )
    optimizer.step()
    assert p.tolist() == pytest.approx([0.85, -1.05]) and p.dtype == torch.float32
    assert {k: (v.dtype, v.tolist()) for k, v in optimizer.state[p].items() if k != "step"} == {
        "exp_avg": (torch.bfloat16, [1.0, 0.25]),
        "exp_avg_sq": (torch.bfloat16, [1.0, 0.0625]),
    }
    start = torch.randn(200, generator=torch.Generator().manual_seed(0))
    ends = []
    for kind in (training.AdamWBf16, torch.optim.AdamW):
        p, noise = torch.nn.Parameter(start.clone()), torch.Generator().manual_seed(1)
        optimizer = kind([{"params": [p], "weight_decay": 0.1}], lr=0.05, betas=(0.9, 0.95))
        for _ in range(20):
            p.grad = p.detach() + torch.randn(200, generator=noise)
            optimizer.step()
        ends.append(p.detach() - start)
    assert 0 < (ends[0] - ends[1]).norm() < 0.02 * ends[1].norm()


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.b = torch.nn.Parameter(torch.tensor([3.0]))


def sgd(model, peak):
    optimizer = torch.optim.SGD(model.parameters(), lr=peak)
    optimizer.param_groups[0]["peak"] = peak
    return [optimizer]


def test_update_clips_the_whole_gradient():
    """Gradient (3, 0, 4): norm 5, clipped to 1 it is (0.6, 0, 0.8). At half of the peak 2 the step is exactly that:
    (1, 2), (3) → (0.4, 2), (2.2). The norm before clipping is returned, the gradient cleared."""
    model = Two()
    model.a.grad, model.b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert update(model, sgd(model, 2.0), clip=1.0, scale=0.5) == pytest.approx(5)
    assert model.a.tolist() == pytest.approx(
        [0.4, 2.0], abs=1e-5
    ) and model.b.item() == pytest.approx(2.2, abs=1e-5)
    assert model.a.grad is None and model.b.grad is None
    model.a.grad, model.b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    update(model, sgd(model, 0.1), clip=10.0, scale=1.0)  # below the bound nothing is scaled
    assert model.a.tolist() == pytest.approx(
        [0.1, 2.0], abs=1e-5
    ) and model.b.item() == pytest.approx(1.8, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_applied(bad):
    model = Two()
    model.a.grad, model.b.grad = torch.tensor([bad, 0.0]), torch.tensor([4.0])
    assert not math.isfinite(update(model, sgd(model, 1.0), 1.0, 1.0))
    assert model.a.tolist() == [1.0, 2.0] and model.b.item() == 3.0 and model.a.grad is None


def test_moments_move_and_come_back():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    training.move_state([optimizer], "meta")
    kinds = {slot: value.device.type for slot, value in optimizer.state[model.weight].items()}
    assert kinds == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}
