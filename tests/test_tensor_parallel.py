"""engine/tensor_parallel.py: a model cut over two ranks computes what the whole one does."""

import re

import pytest
import torch
from ranks import TOKENIZER, ranks_run
from test_families import (
    FAMILIES,
    LENGTHS,
    LIMITS,
    SEED,
    SMALL,
    logp_packed,
    random_model,
    sequences,
    texts_of_slots,
)
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from engine import kv_cache, loading, processes, tensor_parallel
from engine.rows import BadInput

BIASES = dict(attention_bias=True, mlp_bias=True)
PLAN = {
    name: FAMILIES[name][:2]
    for name in ("qwen2", "qwen3", "llama 3", "mistral", "gemma 2", "gemma 3", "olmo 2", "phi 3")
}
PLAN["llama, biases in every layer"] = (LlamaConfig, BIASES)


def memory(model):
    """Bytes of the storage of each matrix of the layers, so that a view counts as the whole."""
    return {
        name: module.weight.untyped_storage().nbytes()
        for name, module in model.base_model.layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@torch.no_grad()
def computed(model):
    logp = logp_packed(model, sequences([3, 70, 1, 40, 5, 2, 23], seed=1))
    texts, _ = texts_of_slots(model, sequences(LENGTHS[:7]), [min(n, 14) for n in LIMITS[:7]])
    return logp.tolist(), texts, memory(model), kv_cache.bytes_per_token(model)


def whole_and_split():
    """-> for each family what is computed before and after the cut, or why it cannot be cut."""
    group, found = processes.join_ranks(tp=2).group, {}
    for name, (config, own) in PLAN.items():
        model = random_model(config(**{**SMALL, **own}), SEED)
        model.set_attn_implementation("packed")
        whole = computed(model)
        try:
            tensor_parallel.split(model, group, name)
        except BadInput as error:
            found[name] = str(error)
        else:
            found[name] = whole, computed(model)
    return found


@pytest.fixture(scope="module")
def cuts():
    return ranks_run(whole_and_split)


@pytest.mark.parametrize("family", PLAN)
def test_a_split_model_computes_what_the_whole_one_does(cuts, family):
    """On both ranks: equal greedy texts, and log-probabilities (they spread over 1) to 5e-5."""
    for rank in cuts:
        if isinstance(rank[family], str):
            assert family in rank[family] and "--tp 2" in rank[family]
            continue
        (logp, texts, *_), (found, found_texts, *_) = rank[family]
        logp, found = torch.tensor([logp, found])
        assert logp.std() > 1 and (logp - found).abs().max() <= 5e-5
        assert texts == found_texts and len({tuple(ids) for ids in texts}) > 5


@pytest.mark.parametrize("family", PLAN)
def test_a_rank_holds_its_part_of_the_weights_and_no_more(cuts, family):
    """Half of every matrix and of the cache.

    Of OLMo 2, whose norms run over all heads, half of the MLP only. What cannot be cut is refused:
    --tp is for a model that does not fit.
    """
    for rank in cuts:
        if isinstance(rank[family], str):
            continue
        (*_, whole, cache), (*_, part, cache_part) = rank[family]
        uncut = "self_attn" if family == "olmo 2" else "none"
        assert {name: size / whole[name] for name, size in part.items()} == {
            name: 1.0 if uncut in name else 0.5 for name in whole
        }
        assert cache_part == (cache if family == "olmo 2" else cache // 2)


# ---- refused

ODD = dict(
    vocab_size=len(TOKENIZER),
    hidden_size=36,
    intermediate_size=45,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=1,
)
CANNOT_BE_CUT = {
    "3 key-value heads": (
        LlamaConfig(**ODD, num_key_value_heads=3),
        "k_proj .*cannot be cut into 2 equal",
    ),
    "45 hidden units": (
        LlamaConfig(**ODD, num_key_value_heads=2),
        "gate_proj .*cannot be cut into 2 equal",
    ),
    "no plan": (
        GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=1, n_head=2, eos_token_id=1),
        "no tensor-parallel plan for GPT2LMHeadModel",
    ),
    "no model": (None, "no such model directory"),
}


@pytest.mark.parametrize("what", CANNOT_BE_CUT)
def test_all_ranks_refuse_what_one_refuses(tmp_path, what):
    """A model that cannot be cut, or is not there: every rank ends with the same line.

    One that waited for the others would end in a traceback of the network.
    """
    made, message = CANNOT_BE_CUT[what]
    if made is not None:
        loading.save(AutoModelForCausalLM.from_config(made), TOKENIZER, tmp_path / "model")

    def work():
        ranks = processes.join_ranks(tp=2)
        tensor_parallel.load_split(str(tmp_path / "model"), ranks, torch.float32)

    for answer in ranks_run(work):
        assert isinstance(answer, BadInput) and "\n" not in str(answer), answer
        if what != "no model":
            assert "--tp 2" in str(answer)
        assert re.search(message, str(answer))
