"""engine/loading.py: save and load; damaged directories and unknown families are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import (
    H_KV,
    LAYERS,
    NO_HEAD_DIM,
    SMALL,
    H,
    K,
    V,
    random_model,
    sequences,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Qwen3Config,
)

from engine import loading, packing
from engine import model as models
from engine.decoder import Request, decode
from engine.format import FORMATS
from engine.rows import BadInput

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random Qwen3 with the tiny world's tokenizer, as loading.save writes it."""
    path = tmp_path_factory.mktemp("saved") / "model"
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "tiny_base")
    config = Qwen3Config(**{**SMALL, "vocab_size": len(tokenizer)}, attention_dropout=0.3)
    loading.save(random_model(config), tokenizer, path)
    return path


def test_save_and_load_bit_for_bit(directory):
    """Every tensor equal after save and load, by us and by plain transformers, whose logits our
    score agrees with."""
    torch.manual_seed(0)
    original = load_file(directory / "model.safetensors")
    model, tokenizer = loading.load(str(directory))
    plain = AutoModelForCausalLM.from_pretrained(directory)
    for name, p in plain.named_parameters():
        assert torch.equal(p, original[name]) and torch.equal(p, model.get_parameter(name)), name
        assert p.dtype == torch.float32
    assert not model.training and model.config.attention_dropout == 0.0
    assert (
        tokenizer.get_vocab()
        == AutoTokenizer.from_pretrained(ROOT / "data" / "tiny_base").get_vocab()
    )
    assert (
        tokenizer.chat_template
        == AutoTokenizer.from_pretrained(ROOT / "data" / "tiny_base").chat_template
    )
    ids = tokenizer.encode("make 20 from 7 5 8")
    with torch.no_grad():
        expected = (
            plain.eval()(torch.tensor([ids]))
            .logits[0]
            .log_softmax(1)[:-1]
            .gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        )
        assert (models.score(model, packing.pack([ids])).logp - expected).abs().max() <= 1e-5
    assert models.context_length(model) == 512 and models.softcap(model) is None


def test_save_again_leaves_no_debris(directory, tmp_path):
    """Saving a loaded model gives the same bytes; files that lay beside stay; no temporary
    directory is left."""
    model, tokenizer = loading.load(str(directory))
    (tmp_path / "log.jsonl").write_text("mine\n")
    (tmp_path / "saving").mkdir()  # of a save that was killed
    (tmp_path / "saving" / "config.json").write_text("half")
    loading.save(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        directory / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "log.jsonl").read_text() == "mine\n" and not (tmp_path / "saving").exists()


def test_a_save_cut_short_is_no_model(directory, tmp_path, monkeypatch):
    """The weights arrive, then the process dies: without config.json `load` refuses what is there
    in one line."""
    model, tokenizer = loading.load(str(directory))
    replace = loading.os.replace

    def die_at_config(source, destination):
        if Path(destination).name == "config.json":
            raise KeyboardInterrupt
        replace(source, destination)

    monkeypatch.setattr(loading.os, "replace", die_at_config)
    with pytest.raises(KeyboardInterrupt):
        loading.save(model, tokenizer, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").exists()
    with pytest.raises(BadInput, match="no config.json"):
        loading.load(str(tmp_path / "m"))


def test_dropout_is_off_even_in_train_mode(directory):
    """The config says 0.3; a text must have equal likelihoods in two calls, in train mode, too."""
    assert json.loads((directory / "config.json").read_text())["attention_dropout"] == 0.3
    model, _ = loading.load(str(directory))
    batch = packing.pack(sequences([9, 4]))
    with torch.no_grad():
        calls = [models.score(model.train(mode), batch).logp for mode in (True, True, False)]
    assert torch.equal(calls[0], calls[1]) and torch.equal(calls[0], calls[2])


def damaged(directory, path, damage):
    shutil.copytree(directory, path)
    weights = path / "model.safetensors"
    if damage == "no config":
        (path / "config.json").unlink()
    elif damage == "broken config":
        (path / "config.json").write_text("{nope")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "weights empty":
        weights.write_bytes(b"")
    elif damage == "pickled weights":
        torch.save(load_file(weights), path / "pytorch_model.bin")
        weights.unlink()
    elif damage == "a tensor is missing":  # transformers would make one up at random
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "a weight is NaN":
        tensors = load_file(weights)
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "no tokenizer":  # transformers would make up an empty one
        for file in path.glob("*token*"):
            file.unlink()
    elif damage == "broken tokenizer":
        (path / "tokenizer.json").write_text("{nope")
    return str(path)


@pytest.mark.parametrize(
    "damage",
    [
        "no config",
        "broken config",
        "no weights",
        "weights cut short",
        "weights empty",
        "pickled weights",
        "a tensor is missing",
        "a weight is NaN",
        "no tokenizer",
        "broken tokenizer",
    ],
)
def test_a_damaged_directory_is_refused_in_one_line(directory, tmp_path, damage):
    path = damaged(directory, tmp_path / "m", damage)
    with pytest.raises(BadInput) as caught:
        loading.load(path)
    assert str(caught.value).startswith(path + ": ") and "\n" not in str(caught.value)
    assert ("finite" in str(caught.value)) == (damage == "a weight is NaN")


@pytest.mark.parametrize(
    "name", ["out/nothing/here", "./nothing/here", "/nothing", "nothing", "someone/no-such-model"]
)
def test_what_is_not_there_is_refused_in_one_line(name):
    """Paths at once, a hub-like name after transformers has looked into its cache (no network is
    asked)."""
    with pytest.raises(BadInput) as caught:
        loading.load(name)
    assert str(caught.value).startswith(name + ": ") and "\n" not in str(caught.value)


DEFAULT = {"rope_type": "default", "rope_theta": 1e4}


TWO_KINDS = ["sliding_attention", "full_attention", "sliding_attention"]


LATENT = {
    **NO_HEAD_DIM,
    "num_key_value_heads": H,
    "kv_lora_rank": 12,
    "q_lora_rank": 14,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
}


# window 6: longer than what `load` computes to check a model, shorter than what is computed here
OTHERS = {
    "a bias in the head": ("Phi", NO_HEAD_DIM),
    "attention sinks": (
        "GptOss",
        SMALL
        | dict(
            rope_parameters=DEFAULT,
            intermediate_size=48,
            num_local_experts=2,
            num_experts_per_tok=1,
            layer_types=["full_attention"] * LAYERS,
        ),
    ),
    "sinks in some layers": (
        "MiMoV2Flash",
        SMALL
        | dict(
            v_head_dim=K,
            swa_num_attention_heads=H,
            swa_num_key_value_heads=H_KV,
            swa_head_dim=K,
            swa_v_head_dim=K,
            sliding_window=6,
            layer_types=TWO_KINDS,
            mlp_layer_types=["dense"] * LAYERS,
        ),
    ),
    "position bias in the mask": ("Bloom", dict(vocab_size=V, hidden_size=32, n_layer=2, n_head=4)),
    "an attention of its own": (
        "Falcon",
        dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    ),
    "a window that layers do not pass on": (
        "Qwen2Moe",
        NO_HEAD_DIM
        | dict(
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=2,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=24,
        ),
    ),
    "a window of all layers that none passes on": (
        "Phimoe",
        NO_HEAD_DIM | dict(sliding_window=6, num_local_experts=2, intermediate_size=48),
    ),
    "attention in chunks": (
        "Llama4Text",
        SMALL
        | dict(
            intermediate_size_mlp=44,
            attention_chunk_size=6,
            num_local_experts=2,
            num_experts_per_tok=1,
        ),
    ),
    "blocks of keys that an index chooses": (
        "MiniMaxM3VLText",
        SMALL
        | dict(
            layer_types=["minimax_m3_sparse", "full_attention", "minimax_m3_sparse"],
            index_block_size=4,
            index_topk_blocks=2,
            index_head_dim=8,
            index_n_heads=2,
            rotary_dim=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            dense_intermediate_size=48,
            shared_intermediate_size=24,
            intermediate_size=48,
        ),
    ),
    "two attentions in a layer": ("DiffLlama", NO_HEAD_DIM),
    "keys wider than the head width": ("DeepseekV3", LATENT),
    "keys wider than the head width, other router": ("DeepseekV2", LATENT),
    "as many key-value heads as heads, unsaid": (
        "GPT2",
        dict(vocab_size=V, n_embd=32, n_layer=2, n_head=H),
    ),
    "queries, keys and values in one matrix": (
        "GPTNeoX",
        dict(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=44,
            num_hidden_layers=2,
            num_attention_heads=H,
        ),
    ),
    "key-value heads repeated by the layer": (
        "JetMoe",
        dict(
            vocab_size=V,
            hidden_size=32,
            num_hidden_layers=2,
            num_key_value_heads=2,
            kv_channels=8,
            intermediate_size=48,
            num_local_experts=3,
            num_experts_per_tok=2,
        ),
    ),
    "heads that differ between layers": (
        "Gemma4Text",
        SMALL
        | dict(
            layer_types=TWO_KINDS[:2] + TWO_KINDS[1:2],
            sliding_window=6,
            global_head_dim=12,
            num_kv_shared_layers=0,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=V,
        ),
    ),
    "a language model inside of another": (
        "Gemma3",
        dict(
            text_config=SMALL | dict(sliding_window=6, layer_types=TWO_KINDS),
            image_token_index=V - 1,
            boi_token_index=V - 2,
            eoi_token_index=V - 3,
            mm_tokens_per_image=4,
            vision_config=dict(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=28,
            ),
        ),
    ),
    "state space, no attention": (
        "Mamba",
        dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=4),
    ),
    "state space beside attention": (
        "NemotronH",
        SMALL
        | dict(
            layers_block_type=["mamba", "attention", "mamba"],
            ssm_state_size=4,
            mamba_num_heads=4,
            mamba_head_dim=16,
            n_groups=1,
            chunk_size=16,
        ),
    ),
    "recurrence beside attention": (
        "RecurrentGemma",
        SMALL | dict(attention_window_size=6, lru_width=32, block_types=["recurrent", "attention"]),
    ),
    "convolution beside attention": (
        "Lfm2",
        NO_HEAD_DIM | dict(layer_types=["conv", "full_attention", "conv"]),
    ),
}


@pytest.mark.parametrize("feature", OTHERS)
@torch.no_grad()
def test_an_architecture_is_computed_as_transformers_does_or_refused(directory, tmp_path, feature):
    """Either `load` refuses the class by name in one line, in float32 and in bfloat16, or three
    packed sequences get transformers' own log-probabilities to 1e-4 and each token of a greedy text
    has transformers' largest logit. The wrong numbers that this is about were 0.002 to 6 away."""
    family, settings = OTHERS[feature]
    theirs = random_model(getattr(transformers, f"{family}Config")(**settings), "eager")
    theirs.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    loading.save(theirs, AutoTokenizer.from_pretrained(directory), tmp_path)
    try:
        model, tokenizer = loading.load(str(tmp_path))
    except BadInput as error:
        assert "\n" not in str(error) and type(theirs).__name__ in str(error)
        with pytest.raises(BadInput, match=type(theirs).__name__):
            loading.load(str(tmp_path), dtype=torch.bfloat16)
        return

    def logits(ids):
        return theirs(torch.tensor([ids]), use_cache=False).logits[0]

    seqs = sequences([7, 3, 30])
    expected = torch.cat([logits(ids).log_softmax(1)[range(len(ids) - 1), ids[1:]] for ids in seqs])
    assert (models.score(model, packing.pack(seqs)).logp - expected).abs().max() <= 1e-4
    for i, completion in decode(
        model, tokenizer, FORMATS["plain"], [Request(ids, 0, 12) for ids in seqs], slots=2
    ):
        z = logits(seqs[i] + completion.ids)[len(seqs[i]) - 1 : -1]
        assert (
            z.max(1).values - z.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        ).max() <= 1e-3
