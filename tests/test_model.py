"""engine/model.py: packing by hand, packed against one at a time, against transformers' own attention, leaks, load and save.

Random models of three families, initialised so widely (0.25 instead of 0.02) that attention matters: log-probabilities
spread over several units. Grouped heads (4 query, 2 key-value), head width 10, vocabulary 37; lengths 1 to 150.
"""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

import kernels
from engine import attention, loading, packing
from engine import model as models
from engine.decoder import Request, decode
from engine.format import FORMATS
from engine.rows import BadInput

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
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


# ---- pack


def test_pack_by_hand():
    """Sequences (5 6 7), (8), (9 4 2 3): 8 tokens at positions 0 1 2 | 0 | 0 1 2 3. Scored are all but the first of
    each: tokens 1 2 5 6 7 of the row, predicted at 0 1 4 5 6; token 3 (the 8) is scored by nothing and the 9 is not
    predicted from it."""
    batch = packing.pack([[5, 6, 7], [8], [9, 4, 2, 3]])
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 4, 2, 3]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert batch.lengths == [3, 1, 4]
    assert batch.where.tolist() == [0, 1, 4, 5, 6]
    assert batch.target.tolist() == [6, 7, 4, 2, 3]
    assert batch.row.tolist() == [0, 0, 2, 2, 2]
    assert all(x.dtype == torch.int64 for x in batch if isinstance(x, torch.Tensor))


def test_pack_with_masks_by_hand():
    """masks (0 0 1), (1), (1 0 1 1): the first token of a sequence stays unscored although its mask is 1 (the 8, the
    9), which leaves the 7 predicted at 1, and the 2 and 3 predicted at 5 and 6."""
    batch = packing.pack(
        [[5, 6, 7], [8], [9, 4, 2, 3]], [[0, 0, 1], [1], [True, False, True, True]]
    )
    assert (batch.where.tolist(), batch.target.tolist(), batch.row.tolist()) == (
        [1, 5, 6],
        [7, 2, 3],
        [0, 2, 2],
    )


def test_nothing_of_the_next_document_is_predicted():
    """For many random lengths: the predicting position lies directly before the scored token, in the same sequence."""
    seqs = sequences([1, 9, 2, 1, 1, 30, 4])
    batch = packing.pack(seqs)
    owner = torch.tensor([i for i, ids in enumerate(seqs) for _ in ids])
    assert torch.equal(owner[batch.where], batch.row) and torch.equal(
        owner[batch.where + 1], batch.row
    )
    assert torch.equal(batch.ids[batch.where + 1], batch.target)
    assert torch.equal(batch.positions[batch.where + 1], batch.positions[batch.where] + 1)
    assert len(batch.where) == sum(len(ids) - 1 for ids in seqs) == 41


def test_pack_leaves_its_inputs_alone():
    seqs, masks = [[5, 6, 7], [8, 9]], [[0, 1, 1], [1, 1]]
    packing.pack(seqs, masks)
    assert (seqs, masks) == ([[5, 6, 7], [8, 9]], [[0, 1, 1], [1, 1]])


@pytest.mark.parametrize("seqs", [[], [[]], [[1, 2], []]])
def test_pack_refuses_empty_sequences(seqs):
    with pytest.raises(ValueError, match="at least one token"):
        packing.pack(seqs)


def test_nothing_scored_gives_no_numbers():
    """A micro-batch of one-token sequences has N = 0 scored tokens: empty statistics, sum 0, no NaN."""
    batch = packing.pack([[5], [6]])
    assert len(batch.where) == len(batch.target) == len(batch.row) == 0
    logp = models.score(random_model(LlamaConfig(**SMALL)), batch).logp
    assert logp.shape == (0,) and logp.sum() == 0


# ---- packed against one at a time, and against transformers


def losses_and_gradients(model, groups):
    """Sum over all scored tokens of -logp, and its gradient, packing each group of sequences into one row."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for group in groups:
        loss = -models.score(model, packing.pack(group)).logp.sum()
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


def test_packed_equals_one_at_a_time(model):
    """Seven sequences in one row, in two rows, and in seven rows: hidden states to 2e-6 of the largest, loss to 1e-6 of
    itself, all gradients to 1e-6. Each gradient has an entry above 5e-3 after division by the 264 scored tokens (the
    largest of all is 0.2): at least 5,000 tolerances."""
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


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_transformers_own_attention(model, implementation):
    """Log-probabilities of a packed row against transformers' own model, mask and head on each sequence alone: 2e-5
    where they spread over more than 1 (std). All layers' hidden states likewise, embeddings to final norm."""
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
    """score at T = 0.7 with entropy against the whole logits: the temperature and the wish reach the kernel."""
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


# ---- leaks and positions


@pytest.mark.parametrize("changed", [0, 1, 3, 6])
def test_no_document_sees_another(model, changed):
    """Every token of one document replaced: the hidden states of the six others stay bit for bit. The reverse check:
    those of the changed document all move, by more than 0.01."""
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
    """Token 30 of the 70-token document replaced: positions 0 to 29 stay bit for bit, 30 and all later ones move."""
    seqs = sequences()
    before = forward(model, seqs).split(LENGTHS)[3]
    seqs[3] = [*seqs[3][:30], (seqs[3][30] - 1) % (V - 2) + 2, *seqs[3][31:]]
    after = forward(model, seqs).split(LENGTHS)[3]
    moved = (before - after).abs().amax(1)
    assert (moved[:30] == 0).all() and (moved[30:] > 1e-4).all()


def test_positions_restart():
    """Rotary models see only differences of positions, so this one has learned absolute ones (GPT-2). A text behind a
    longer one, twice: both copies have the hidden states of the text alone. The reverse check, positions that run
    on from 50, moves every one of them by more than 0.01."""
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


# ---- fill_bins


def test_fill_bins_by_hand():
    """Capacity 10, lengths 4 8 1 4 2 1. Longest first: 8 opens bin A (2 left); 4 (index 0) opens B (6 left); 4
    (index 3) fits B (2 left); 2 fills either, the later first: B; the ones (index 2, 5) fill A.
    A = {1, 2, 5}, B = {0, 3, 4}; bins are listed by their first member. Best fit: of 7, 5, 3, 2 the 3 goes to the 7, which it
    fills, though there is more room beside the 5."""
    assert packing.fill_bins([4, 8, 1, 4, 2, 1], 10) == [[0, 3, 4], [1, 2, 5]]
    assert packing.fill_bins([5, 7, 3, 2], 10) == [[0, 3], [1, 2]]


def test_an_oversized_item_gets_its_own_bin():
    """11 does not fit into 10: it stands alone instead of waiting for ever, and takes nothing with it."""
    assert packing.fill_bins([3, 11, 7], 10) == [[0, 2], [1]]
    assert packing.fill_bins([20, 20], 10) == [[0], [1]]
    assert packing.fill_bins([], 10) == []


@pytest.mark.parametrize("capacity", [1, 30, 97, 5000])
def test_fill_bins_holds_each_index_once(capacity):
    """200 random lengths: every index in exactly one bin, in order within and between bins, no bin of several above
    capacity, and no two bins that would fit into one (which first-fit never leaves)."""
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    copy = list(lengths)
    bins = packing.fill_bins(lengths, capacity)
    assert lengths == copy and sorted(i for b in bins for i in b) == list(range(200))
    assert bins == sorted(sorted(b) for b in bins)
    sums = [sum(lengths[i] for i in b) for b in bins]
    assert all(s <= capacity or len(b) == 1 for s, b in zip(sums, bins))
    if len(sums) > 1:
        assert sum(sorted(sums)[:2]) > capacity


def test_fill_bins_wastes_little():
    """64 lengths like those of s1 (1k to 12k tokens) into 32k: 98% of the slots hold tokens, the last bin aside."""
    lengths = torch.randint(1000, 12000, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    bins = packing.fill_bins(lengths, 32768)
    full = sorted(sum(lengths[i] for i in b) for b in bins)[1:]
    assert sum(full) / (len(full) * 32768) >= 0.98


# ---- save and load


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random Qwen3 with the tiny world's tokenizer, as loading.save writes it."""
    path = tmp_path_factory.mktemp("saved") / "model"
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "tiny_base")
    config = Qwen3Config(**{**SMALL, "vocab_size": len(tokenizer)}, attention_dropout=0.3)
    loading.save(random_model(config), tokenizer, path)
    return path


def test_save_and_load_bit_for_bit(directory):
    """Every tensor equal after save and load, by us and by plain transformers, whose logits our score agrees with."""
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
    """Saving a loaded model gives the same bytes; files that lay beside stay; no temporary directory is left."""
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
    """The weights arrive, then the process dies: without config.json `load` refuses what is there in one line."""
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
    """The config says 0.3; likelihoods of one text must be equal in two calls, in train mode too."""
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
    """Paths at once, a hub-like name after transformers has looked into its cache (no network is asked)."""
    with pytest.raises(BadInput) as caught:
        loading.load(name)
    assert str(caught.value).startswith(name + ": ") and "\n" not in str(caught.value)


# ---- what is refused rather than approximated


def test_a_mask_is_refused(model):
    """Whoever calls model(ids) gets an error that names the right function, not an answer without a mask."""
    with pytest.raises(ValueError, match="hidden_states"):
        model(torch.tensor([[3, 4, 5]]))


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
    """Either `load` refuses the class by name in one line, in float32 and in bfloat16, or three packed sequences get
    transformers' own log-probabilities to 1e-4 and each token of a greedy text has transformers' largest logit. The
    wrong numbers that this is about were 0.002 to 6 away."""
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


def test_final_logits_are_capped():
    """A model with final_logit_softcapping: score and next_token_logits use cap · tanh(z / cap); 2 is small enough to
    change log-probabilities by more than 0.1."""
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


@pytest.mark.parametrize("window", [None, 1, 3, 4, 7])
@pytest.mark.parametrize("told", [True, False], ids=["torch 2.12 and later", "torch 2.11"])
def test_flash_call_is_attend_packed(monkeypatch, told, window):
    """The call of the CUDA kernel, with a plain stand-in for it: inside each of three sequences causal, with a window
    the last so many tokens only (flash counts those to the left of a token, itself not included), and 6 query heads
    over 2 key-value heads by either convention of grouped heads. Equal to one sequence at a time."""
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
