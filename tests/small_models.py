"""Small random models of three families for the tests, and sequences for them.

They are initialised so widely (0.25 instead of 0.02) that attention matters: log-probabilities
spread over several units. Grouped heads (4 query, 2 key-value), head width 10, vocabulary 37;
sequences of 1 to 150 tokens.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from engine import attention, packing
from engine import model as models

V, H, H_KV, K, LAYERS = 37, 4, 2, 10, 3
LENGTHS = [3, 150, 1, 70, 5, 2, 40]
SMALL = dict(
    vocab_size=V,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=LAYERS,
    num_attention_heads=H,
    num_key_value_heads=H_KV,
    head_dim=K,
    max_position_embeddings=512,
    initializer_range=0.25,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
NO_HEAD_DIM = {k: v for k, v in SMALL.items() if k != "head_dim"}
FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}


def random_model(config, implementation="packed", seed=0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for p in model.parameters():  # norms and biases that are not just 1 and 0
        if p.ndim == 1:
            p.data += 0.3 * torch.randn(p.shape)
    return model


@pytest.fixture(scope="module", params=FAMILIES, name="model")
def each_family(request):
    """For a test with an argument `model`, in a file that imports this."""
    config = FAMILIES[request.param](**(NO_HEAD_DIM if request.param == "qwen2" else SMALL))
    return random_model(config)


def sequences(lengths=LENGTHS, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(2, V, (n,), generator=rng).tolist() for n in lengths]


def forward(model, seqs):
    batch = packing.pack(seqs)
    return models.hidden_states(
        model, batch.ids, batch.positions, attention.Packed(batch.lengths, "cpu")
    )
