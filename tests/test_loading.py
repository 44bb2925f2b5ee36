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

from engine import attention, loading, packing
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


def with_ids_that_no_training_saw(directory, path):
    """A model whose first ten ids have embeddings 30 times as large as the others."""
    shutil.copytree(directory, path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.embed_tokens.weight"][:10] *= 30
    if "lm_head.weight" in tensors:
        tensors["lm_head.weight"][:10] *= 30
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return str(path)


def test_half_precision_is_checked_with_ordinary_text(directory, tmp_path):
    """SmolLM2, Gemma and Mistral have never trained ids 2 to 9. There transformers' own bfloat16 is
    further from its own float32 than any fixed bound; the model is sound and loads."""
    path = with_ids_that_no_training_saw(directory, tmp_path / "model")
    model, tokenizer = loading.load(path, dtype=torch.bfloat16)
    low = [[5, 3, 8, 6, 4], [7, 9, 2, 5]]
    with torch.no_grad():
        theirs = loading._transformers_logp(model, low, "cpu")
        with loading._float32_arithmetic(model):
            exact = loading._transformers_logp(model, low, "cpu")
        assert model.dtype == torch.bfloat16
        model.float()
        assert torch.equal(exact, loading._transformers_logp(model, low, "cpu"))
    assert (theirs - exact).abs().mean() > 0.25
    for ids in loading.ordinary_ids(tokenizer, len(tokenizer)):
        assert len(ids) >= 4 and min(ids) > 9


def test_ids_where_the_tokenizer_has_no_ordinary_text():
    """Unknown words, or ids beyond the model's: from the middle of the vocabulary."""

    def unknown(text):
        return {"input_ids": [3] * 9}

    def beyond(text):
        return {"input_ids": list(range(90, 99))}

    for tokenizer in (unknown, beyond):
        assert loading.ordinary_ids(tokenizer, 40) == [[25, 23, 28, 26, 24], [27, 29, 22, 25]]
    assert loading.ordinary_ids(beyond, 99) == [list(range(90, 99))] * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_attention_is_refused_with_type_and_figures(directory, monkeypatch, dtype):
    """An attention that scales the queries by 1.6: the line says in which type, how far and what to
    try."""

    def wrong(module, query, *tensors, **options):
        return attention.attention(module, 1.6 * query, *tensors, **options)

    monkeypatch.setattr(loading, "attention", wrong)
    with pytest.raises(BadInput) as caught:
        loading.load(str(directory), dtype=getattr(torch, dtype))
    message = str(caught.value)
    assert "Qwen3ForCausalLM computes something that" in message and "\n" not in message
    assert f"in {dtype}" in message and "away from transformers'" in message
    assert "is allowed); try" in message


CUSTOM = """
from pathlib import Path
Path(__file__).with_name("it ran").touch()
from transformers import PretrainedConfig
class OwnConfig(PretrainedConfig):
    model_type = "own"
"""


@pytest.mark.parametrize("part", ["config", "model", "tokenizer"])
def test_custom_code_is_neither_run_nor_asked_about(directory, tmp_path, monkeypatch, part):
    """transformers' default asks on the terminal. Ours refuses what only the code could load."""

    def asked(*_):
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    path = tmp_path / "model"
    shutil.copytree(directory, path)
    (path / "own.py").write_text(CUSTOM)
    file = path / ("tokenizer_config.json" if part == "tokenizer" else "config.json")
    settings = json.loads(file.read_text())
    if part == "config":
        settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    elif part == "model":
        settings |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own"}}
    else:
        settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    file.write_text(json.dumps(settings))
    if part == "tokenizer":  # transformers has a class for tokenizer.json alone
        loading.load(str(path))
    else:
        with pytest.raises(BadInput) as caught:
            loading.load(str(path))
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not (path / "it ran").exists()


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "content, named",
    [
        (b"", "not JSON"),
        (b"{nope", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"eos_token_id": "<eos>"}', "'eos_token_id' '<eos>' is not a token id"),
        (b'{"eos_token_id": [1, "<eos>"]}', "'eos_token_id' '<eos>' is not a token id"),
        (b'{"eos_token_id": 1.5}', "'eos_token_id' 1.5 is not a token id"),
    ],
)
def test_garbage_in_a_config_is_named(directory, tmp_path, file, content, named):
    """transformers drops a broken generation_config.json without a word, and its stop tokens."""
    shutil.copytree(directory, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        loading.load(str(tmp_path / "model"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'model'}: {file}: ") and named in message
    assert "\n" not in message
