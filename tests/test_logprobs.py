"""engine/logprobs.py against transformers' logits."""

import math

import pytest
import torch
from policies import base_models, config, rollout_of_six

import grpo
from engine import (
    logprobs,
)


def test_logps_are_those_of_the_model():
    """At the sampling temperature, 0 where nothing is trained, in the rows' order although micro-batches mix them."""
    sequences, masks, _, _ = rollout_of_six()
    cfg = config(micro_batch_tokens=30)
    found = grpo.logps_of(base_models()[0], sequences, masks, cfg)
    for ids, mask, values in zip(sequences, masks, found):
        with torch.no_grad():
            logp = (base_models()[2](torch.tensor([ids])).logits[0] / cfg.temperature).log_softmax(
                1
            )
        expected = [logp[t - 1, ids[t]].item() if mask[t] else 0.0 for t in range(len(ids))]
        assert values == pytest.approx(expected, abs=1e-5)


def test_self_certainty_by_hand():
    """KL(uniform ‖ p): .429813 for p = [.7, .1, .1, .1], 0 for the uniform, 2.075198 for [.97, .01, .01, .01]; by the
    head's mean row as by all logits. Of a model: the loop over transformers' logits at temperature 1 and the tokenizer's
    149 tokens, mean over the completion's tokens."""
    for p, expected in (
        ([0.7, 0.1, 0.1, 0.1], 0.429813),
        ([0.25] * 4, 0),
        ([0.97, 0.01, 0.01, 0.01], 2.075198),
    ):
        z = torch.tensor(p).log() + 5.0
        assert (z.logsumexp(0) - z.mean() - math.log(4)).item() == pytest.approx(expected, abs=1e-6)
    rows = [{"prompt": ids[:2], "ids": ids[2:]} for ids in rollout_of_six()[0]]
    cfg = config(micro_batch_tokens=30)
    found = logprobs.self_certainty(base_models()[0], rows, cfg, 149)
    for row, value in zip(rows, found):
        with torch.no_grad():
            logp = (
                base_models()[2](torch.tensor([row["prompt"] + row["ids"]]))
                .logits[0, 1:-1, :149]
                .log_softmax(1)
            )
        assert value == pytest.approx((-logp.mean(1) - math.log(149)).mean().item(), abs=1e-5)
