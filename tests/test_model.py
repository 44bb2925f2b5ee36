"""engine/model.py: against transformers' own forward pass, positions, the head."""

import copy

import pytest
import torch
from small_models import (
    LAYERS,
    SMALL,
    H,
    V,
    each_family,  # noqa: F401  (the fixture `model`)
    forward,
    random_model,
    sequences,
)
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
)

import kernels
from engine import attention, packing
from engine import model as models


def test_nothing_scored_gives_no_numbers():
    """A micro-batch of one-token sequences has N = 0 scored tokens: empty statistics, sum 0, no
    NaN."""
    batch = packing.pack([[5], [6]])
    assert len(batch.where) == len(batch.target) == len(batch.row) == 0
    logp = models.score(random_model(LlamaConfig(**SMALL)), batch).logp
    assert logp.shape == (0,) and logp.sum() == 0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_transformers_own_attention(model, implementation):
    """Log-probabilities of a packed row against transformers' own model, mask and head on each
    sequence alone: 2e-5 where they spread over more than 1 (std). All layers' hidden states
    likewise, embeddings to final norm."""
    theirs = AutoModelForCausalLM.from_config(
        copy.deepcopy(model.config), attn_implementation=implementation
    ).eval()
    theirs.load_state_dict(model.state_dict())
    seqs = sequences()
    batch = packing.pack(seqs)
    with torch.no_grad():
        logp = models.score(model, batch).logp
        layers = models.hidden_states(
            model,
            batch.ids,
            batch.positions,
            attention.Packed(batch.lengths, "cpu"),
            all_layers=True,
        )
        expected, states = [], []
        for ids in seqs:
            out = theirs(torch.tensor([ids]), output_hidden_states=True)
            expected.append(
                out.logits[0].log_softmax(1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            )
            states.append(out.hidden_states)
    expected = torch.cat(expected)
    assert expected.std() > 1 and (logp - expected).abs().max() <= 2e-5
    assert len(layers) == LAYERS + 1
    for layer, column in zip(layers, zip(*states)):
        column = torch.cat([x[0] for x in column])
        assert (layer - column).abs().max() <= 1e-5 * column.abs().max() and column.std() > 0.05


def test_the_scored_statistics_are_those_of_the_kernel(model):
    """score at T = 0.7 with entropy against the whole logits: the temperature and the wish reach
    the kernel."""
    seqs = sequences([4, 9])
    batch = packing.pack(seqs, [[0, 0, 1, 1], [0] * 5 + [1] * 4])
    with torch.no_grad():
        stats = models.score(model, batch, temperature=0.7, want=("logp", "entropy"))
        logits = forward(model, seqs) @ models.head(model).T / 0.7
        log_p = logits.log_softmax(1)[[1, 2, 8, 9, 10, 11]]
    assert torch.equal(batch.target, torch.tensor(seqs[0][2:] + seqs[1][5:]))
    assert (stats.logp - log_p.gather(1, batch.target[:, None])[:, 0]).abs().max() <= 1e-5
    assert (stats.entropy + (log_p.exp() * log_p).sum(1)).abs().max() <= 1e-5
    assert stats.rank is None and stats.logp.std() > 0.5


def test_positions_restart():
    """Rotary models see only differences of positions, so this one has learned absolute ones
    (GPT-2). A text behind a longer one, twice: both copies have the hidden states of the text
    alone. The reverse check, positions that run on from 50, moves every one of them by more than
    0.01."""
    model = random_model(
        GPT2Config(
            vocab_size=V,
            n_embd=32,
            n_layer=2,
            n_head=H,
            n_positions=128,
            bos_token_id=None,
            eos_token_id=1,
            initializer_range=0.25,
        )
    )
    text, longer = sequences([12, 50])
    alone = forward(model, [text])
    for copy_of_it in forward(model, [longer, text, text]).split([50, 12, 12])[1:]:
        assert (copy_of_it - alone).abs().max() <= 2e-6 * alone.abs().max()
    running = models.hidden_states(
        model, torch.tensor(text), torch.arange(50, 62), attention.Packed([12], "cpu")
    )
    assert (running - alone).abs().amax(1).min() > 0.01


def test_final_logits_are_capped():
    """A model with final_logit_softcapping: score and next_token_logits use cap · tanh(z / cap); 2
    is small enough to change log-probabilities by more than 0.1."""
    model = random_model(LlamaConfig(**SMALL))
    seqs = sequences([6])
    plain = models.score(model, packing.pack(seqs)).logp
    model.config.final_logit_softcapping = 2.0
    hidden = forward(model, seqs)
    expected = (
        (2 * torch.tanh(hidden @ models.head(model).T / 2))
        .log_softmax(1)[:-1]
        .gather(1, torch.tensor(seqs[0][1:])[:, None])[:, 0]
    )
    assert (models.score(model, packing.pack(seqs)).logp - expected).abs().max() <= 1e-5
    assert (
        models.next_token_logits(model, hidden)[:-1]
        .log_softmax(1)
        .gather(1, torch.tensor(seqs[0][1:])[:, None])[:, 0]
        - expected
    ).abs().max() <= 1e-5
    assert (plain - expected).abs().max() > 0.1
    capped = kernels.Head(models.head(model), softcap=2.0)
    assert kernels.token_stats(hidden[:-1], capped, torch.tensor(seqs[0][1:])).logp.allclose(
        expected, atol=1e-5
    )
