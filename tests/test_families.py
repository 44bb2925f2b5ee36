"""The families of the plan against transformers' own models: random small ones, whose windows, caps
and rotary embeddings all matter within 70 tokens.

Everything is float32. Rounding decides no token: along all greedy texts the best logit leads the
next by GAP, many times what the two computations differ by. For each feature of a family there is a
model without it (same weights): other log-probabilities, other texts. So a check that passes has
seen the feature.
"""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

import generate
from data import tiny
from engine import attention, loading, packing
from engine import model as models
from engine.decoder import Request, decode
from engine.format import FORMATS
from engine.rows import BadInput, read_rows

TOKENIZER = tiny.tokenizer()
V, EOS, GAP, SEED = len(TOKENIZER), TOKENIZER.convert_tokens_to_ids("<eos>"), 1e-3, 10
STOPS = [EOS, 20, 33, 47, 61, 75]  # several ends, so that texts end by themselves too
LENGTHS = (1, 2, 38, 7, 3, 31, 12, 5, 19, 6, 26)  # prompts; through 4 slots, with these limits
LIMITS = (30, 5, 21, 29, 30, 1, 25, 17, 28, 30, 13)
SMALL = dict(
    vocab_size=V,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.3,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=STOPS,
    pad_token_id=0,
)
LOCAL = ["sliding_attention", "full_attention", "sliding_attention"]
GLOBAL = ["full_attention"] * 3


def rope(theta=1e3, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


def of_two(local, everywhere):
    return {"sliding_attention": rope(local), "full_attention": rope(everywhere)}


LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
LONGROPE = dict(
    rope_type="longrope", short_factor=[1.0, 1.3, 1.7, 2.5], long_factor=[1.0, 2.0, 4.0, 8.0]
)
PHI3 = dict(max_position_embeddings=256, original_max_position_embeddings=70)

# configuration, what is not SMALL, and for each feature what is different in a model without it
FAMILIES = {
    "qwen2": (Qwen2Config, {}, {}),
    "qwen2 windows": (
        Qwen2Config,
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
        {"window": dict(use_sliding_window=False), "full layers": dict(max_window_layers=0)},
    ),
    "qwen3": (Qwen3Config, dict(head_dim=10), {}),
    "llama 3": (
        LlamaConfig,
        dict(rope_parameters=rope(**LLAMA3)),
        {"scaling": dict(rope_parameters=rope())},
    ),
    "mistral": (
        MistralConfig,
        dict(sliding_window=5),
        {"window": dict(sliding_window=None), "one token more": dict(sliding_window=6)},
    ),
    "gemma 2": (
        Gemma2Config,
        dict(
            head_dim=10,
            sliding_window=5,
            layer_types=LOCAL,
            attn_logit_softcapping=1.5,
            final_logit_softcapping=4.0,
            query_pre_attn_scalar=3,
        ),
        {
            "window": dict(layer_types=GLOBAL),
            "full layers": dict(layer_types=[LOCAL[0]] * 3),
            "cap of scores": dict(attn_logit_softcapping=None),
            "cap of logits": dict(final_logit_softcapping=None),
            "scale": dict(query_pre_attn_scalar=10),
        },
    ),
    "gemma 3": (
        Gemma3TextConfig,
        dict(
            head_dim=10,
            sliding_window=5,
            layer_types=LOCAL,
            query_pre_attn_scalar=3,
            rope_parameters=of_two(10.0, 1e4),
        ),
        {
            "window": dict(sliding_window=128),
            "local rope": dict(rope_parameters=of_two(1e4, 1e4)),
            "global rope": dict(rope_parameters=of_two(10.0, 10.0)),
            "scale": dict(query_pre_attn_scalar=10),
        },
    ),
    "olmo 2": (Olmo2Config, {}, {}),
    "granite": (
        GraniteConfig,
        dict(
            logits_scaling=0.5,
            embedding_multiplier=3.0,
            residual_multiplier=0.6,
            attention_multiplier=0.5,
        ),
        {
            "scale of logits": dict(logits_scaling=1.0),
            "scale of embeddings": dict(embedding_multiplier=1.0),
            "scale of residuals": dict(residual_multiplier=1.0),
        },
    ),
    "cohere 2": (
        Cohere2Config,
        dict(logit_scale=1.6, sliding_window=5, layer_types=LOCAL),
        {
            "window": dict(layer_types=GLOBAL),
            "full layers": dict(layer_types=[LOCAL[0]] * 3),
            "scale of logits": dict(logit_scale=1.0),
        },
    ),
    "phi 3": (Phi3Config, dict(sliding_window=5), {"window": dict(sliding_window=None)}),
    "phi 3 longrope": (
        Phi3Config,
        PHI3 | dict(rope_parameters=rope(**LONGROPE)),
        {"short factors": dict(rope_parameters=rope(**LONGROPE | {"short_factor": [1.0] * 4}))},
    ),
}


def random_model(config, seed):
    """Of transformers, with its eager attention; norms and biases are not just 1 and 0."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    for p in model.parameters():
        if p.ndim == 1:
            p.data += 0.3 * torch.randn(p.shape)
    return model


def packed(config, weights):
    """A model with our attention and these weights."""
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="packed", dtype=torch.float32
    ).eval()
    model.load_state_dict(weights)
    model.generation_config.eos_token_id = STOPS
    return model


def sequences(lengths, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(7, V, (n,), generator=rng).tolist() for n in lengths]


def logp_alone(model, seqs):
    """Log-probabilities by transformers' forward, one sequence at a time."""
    each = [
        model(torch.tensor([ids]), use_cache=False).logits[0, :-1].log_softmax(1) for ids in seqs
    ]
    return torch.cat([z[range(len(ids) - 1), ids[1:]] for z, ids in zip(each, seqs)])


def logp_packed(model, seqs):
    return models.score(model, packing.pack(seqs)).logp


@torch.no_grad()
def texts_of_transformers(model, prompts, limits):
    """Greedy texts of a left-padded batch, and the smallest lead of a chosen token over the next
    best."""
    width = max(map(len, prompts))
    out = model.generate(
        input_ids=torch.tensor([[0] * (width - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        do_sample=False,
        max_new_tokens=max(limits),
        eos_token_id=STOPS,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    texts, best = [], torch.stack(out.logits, 1).topk(2).values  # (B, steps, 2)
    for row, limit in zip(out.sequences[:, width:].tolist(), limits):
        stop = next((i + 1 for i, token in enumerate(row) if token in STOPS), len(row))
        texts.append(row[: min(stop, limit)])
    return texts, min(
        float((b[: len(ids), 0] - b[: len(ids), 1]).min()) for b, ids in zip(best, texts)
    )


def texts_of_slots(model, prompts, limits, slots=4):
    requests = [Request(p, i, m) for i, (p, m) in enumerate(zip(prompts, limits))]
    found = dict(decode(model, TOKENIZER, FORMATS["think"], requests, slots=slots))
    return [found[i].ids for i in range(len(requests))], [
        found[i].finish for i in range(len(requests))
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Both models of a family (ours saved and loaded again) and transformers' texts."""
    config, own, without = FAMILIES[request.param]
    path = tmp_path_factory.mktemp("family")
    theirs = random_model(config(**{**SMALL, **own}), SEED)
    loading.save(theirs, TOKENIZER, path)
    ours, _ = loading.load(str(path))
    texts, gap = texts_of_transformers(theirs, sequences(LENGTHS), LIMITS)
    others = {
        name: packed(config(**{**SMALL, **own, **change}), theirs.state_dict())
        for name, change in without.items()
    }
    return SimpleNamespace(
        name=request.param, theirs=theirs, ours=ours, texts=texts, gap=gap, others=others
    )


def test_greedy_texts(family):
    """11 prompts of 1..38 tokens and limits of 1..30 through 4 slots: transformers' texts, token
    for token; a model without a feature writes others (a cap or a scale of the logits keeps their
    order, so the texts are the same)."""
    assert family.gap > GAP
    found, finish = texts_of_slots(family.ours, sequences(LENGTHS), LIMITS)
    assert found == family.texts
    assert len({tuple(ids) for ids in found}) > 8 and len({i for ids in found for i in ids}) > 40
    assert (
        finish == ["stop" if ids[-1] in STOPS else "length" for ids in found]
        and len(set(finish)) == 2
    )
    for name, other in family.others.items():
        differ = sum(
            a != b for a, b in zip(texts_of_slots(other, sequences(LENGTHS), LIMITS)[0], found)
        )
        keeps_order = name in ("cap of logits", "scale of logits")
        assert differ == 0 if keeps_order else differ >= 3, name


def test_log_probabilities_and_gradients(family):
    """Seven sequences of 1..70 tokens in one row: log-probabilities of transformers' eager forward
    on each alone to 2e-5 (they spread over more than 1), gradients of their sum to 1e-4 of a
    gradient's largest entry. Without a feature some log-probability is more than 0.3 away."""
    seqs = sequences([3, 70, 1, 40, 5, 2, 23], seed=1)
    wanted, found = logp_alone(family.theirs, seqs), logp_packed(family.ours, seqs)
    assert wanted.std() > 1 and (wanted - found).abs().max() <= 2e-5
    wanted.sum().backward()
    found.sum().backward()
    for (name, p), q in zip(family.theirs.named_parameters(), family.ours.parameters()):
        assert (
            p.grad.abs().max() > 0.1 and (p.grad - q.grad).abs().max() <= 1e-4 * p.grad.abs().max()
        ), name
    family.theirs.zero_grad(), family.ours.zero_grad()
    with torch.no_grad():
        for name, other in family.others.items():
            assert (logp_packed(other, seqs) - found).abs().max() > 0.3, name


def test_the_cache_gives_what_scoring_gives(family):
    """The log-probability that the decoder reports of each token, from its cache, is that of
    scoring the text."""
    prompts = sequences(LENGTHS)
    found = dict(
        decode(
            family.ours,
            TOKENIZER,
            FORMATS["think"],
            [Request(p, i, m) for i, (p, m) in enumerate(zip(prompts, LIMITS))],
            slots=3,
        )
    )
    batch = packing.pack(
        [p + found[i].ids for i, p in enumerate(prompts)],
        [[False] * len(p) + [True] * len(found[i].ids) for i, p in enumerate(prompts)],
    )
    with torch.no_grad():
        logp = models.score(family.ours, batch).logp
    assert (
        logp - torch.tensor([x for i in range(len(prompts)) for x in found[i].logp])
    ).abs().max() < 1e-4


# ---- where a window begins to matter


@pytest.fixture(scope="module")
def mistral():
    """Window 5: its model, transformers', and one without the window."""
    config, own, without = FAMILIES["mistral"]
    theirs = random_model(config(**{**SMALL, **own}), seed=3)
    return (
        theirs,
        *(
            packed(config(**{**SMALL, **own, **change}), theirs.state_dict())
            for change in ({}, without["window"])
        ),
    )


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@torch.no_grad()
def test_the_edge_of_a_window(mistral, n):
    """A text of n tokens alone, window 5. Its last hidden state, and the log-probability of the
    token that greedy decoding puts behind it (a step that feeds token n to a cache of n - 1), are
    transformers'. Up to 5 tokens the window changes nothing; from 6 on a model without it is more
    than 0.01 away in both."""
    (ids,) = sequences([n])
    theirs, *pair = mistral
    out = theirs(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    state, (logp, token) = (
        out.hidden_states[-1][0, -1],
        (x.item() for x in out.logits[0, -1].log_softmax(0).max(0)),
    )
    for model in pair:
        batch = packing.pack([ids])
        found = models.hidden_states(
            model, batch.ids, batch.positions, attention.Packed([n], "cpu")
        )[-1]
        ((_, step),) = decode(model, TOKENIZER, FORMATS["think"], [Request(ids, 0, 1)], slots=1)
        if model is pair[0] or n <= 5:
            assert (
                (found - state).abs().max() < 1e-5
                and step.ids == [token]
                and abs(step.logp[0] - logp) < 1e-5
            )
        else:
            assert (found - state).abs().max() > 0.01 and abs(step.logp[0] - logp) > 0.01


def test_half_precision_with_caps_is_no_worse_than_transformers():
    """Gemma 2 in bfloat16: the mean error of log-probabilities, measured by the same model in
    float32, is at most 1.1 times that of transformers' eager attention."""
    config, own, _ = FAMILIES["gemma 2"]
    exact = random_model(config(**{**SMALL, **own}), seed=SEED)
    theirs = AutoModelForCausalLM.from_config(
        exact.config, attn_implementation="eager", dtype=torch.bfloat16
    ).eval()
    theirs.load_state_dict(exact.state_dict())
    ours = packed(config(**{**SMALL, **own}), exact.state_dict()).to(torch.bfloat16)
    seqs = sequences([30, 70, 50, 64])
    with torch.no_grad():
        wanted = logp_alone(exact, seqs)
        found = logp_packed(ours, seqs)
        rough = torch.cat(
            [
                z[range(len(ids) - 1), ids[1:]]
                for ids in seqs
                for z in [
                    theirs(torch.tensor([ids]), use_cache=False)
                    .logits[0, :-1]
                    .float()
                    .log_softmax(1)
                ]
            ]
        )
    assert 0 < (found - wanted).abs().mean() < 1.1 * (rough - wanted).abs().mean() < 0.2


# ---- rotary embeddings that depend on the longest sequence

LIMIT = 48
STRETCHED = {
    "dynamic": (
        LlamaConfig,
        dict(max_position_embeddings=LIMIT, rope_parameters=rope(rope_type="dynamic", factor=4.0)),
    ),
    "longrope": (
        Phi3Config,
        dict(
            max_position_embeddings=192,
            original_max_position_embeddings=LIMIT,
            rope_parameters=rope(**LONGROPE),
        ),
    ),
}


@pytest.fixture(scope="module", params=STRETCHED)
def stretched(request, tmp_path_factory):
    config, own = STRETCHED[request.param]
    path = tmp_path_factory.mktemp("stretched") / "model"
    theirs = random_model(config(**{**SMALL, **own}), SEED)
    loading.save(theirs, TOKENIZER, path)
    return theirs, loading.load(str(path))[0], str(path)


@torch.no_grad()
def test_the_limit_of_a_stretched_rope(stretched):
    """Up to the limit, that one included, what transformers computes; one token more is refused in
    one line, alone and in company, scored and decoded. Transformers does compute something else
    there, by more than 0.01 already for the first tokens."""
    theirs, ours, _ = stretched
    assert models.context_length(ours) == LIMIT
    # 20 first: transformers forgets a longer text only below LIMIT
    seqs = sequences([20, LIMIT, LIMIT - 1])
    assert (logp_packed(ours, seqs) - logp_alone(theirs, seqs)).abs().max() <= 2e-5
    (longer,) = sequences([LIMIT + 1])
    first = logp_alone(theirs, [longer[:LIMIT]])
    assert (logp_alone(theirs, [longer])[:8] - first[:8]).abs().max() > 0.01
    for company in ([longer], [seqs[0], longer]):
        with pytest.raises(
            BadInput, match=f"{LIMIT + 1} tokens: beyond {LIMIT} the rotary embedding"
        ) as error:
            logp_packed(ours, company)
        assert "\n" not in str(error.value)
    # nothing is left of it
    assert (logp_packed(ours, seqs) - logp_alone(theirs, seqs)).abs().max() <= 2e-5
    prompts, limits = sequences([LIMIT - 20, 1, 30, LIMIT - 1]), [20, LIMIT - 1, 18, 1]
    for model in (theirs, ours):
        model.generation_config.eos_token_id = EOS
    texts = [
        theirs.generate(
            torch.tensor([p]),
            attention_mask=torch.ones(1, len(p), dtype=torch.int64),
            max_new_tokens=m,
            do_sample=False,
            pad_token_id=0,
        )[0, len(p) :].tolist()
        for p, m in zip(prompts, limits)
    ]
    assert texts_of_slots(ours, prompts, limits, slots=2)[0] == texts
    assert LIMIT in [len(p) + len(ids) for p, ids in zip(prompts, texts)]
    for prompt, limit in ((longer, 3), (longer[: LIMIT - 1], 9)):
        with pytest.raises(BadInput, match=f"beyond {LIMIT} the rotary embedding"):
            texts_of_slots(ours, [prompt], [limit])


def test_generate_keeps_to_the_limit(stretched, tmp_path, capsys):
    """Completions end where the exact part ends; a prompt that leaves no room is skipped and named;
    --score names the row."""
    _, _, path = stretched
    problems = [{"id": f"p{n}", "question": " ".join(["a"] * n)} for n in (3, 40, 60)]
    data, out = tmp_path / "problems.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in problems))
    settings = dict(model=path, data=str(data), out=str(out), format="think", max_tokens=100)
    rows = generate.main(generate.Config(**settings))
    tokens = {
        row["id"]: len(FORMATS["think"].prompt_ids(TOKENIZER, row["question"])) + row["n_tokens"]
        for row in rows
    }
    assert set(tokens) == {"p3", "p40"} and max(tokens.values()) <= LIMIT
    assert all(row["finish"] == "stop" or tokens[row["id"]] == LIMIT for row in rows)
    assert (
        f"skipped: the prompt of row 'p60' has 63 tokens, the context {LIMIT}"
        in capsys.readouterr().out
    )
    rows = [row | {"ids": [9] * 60} if row["id"] == "p3" else row for row in read_rows(out)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match=f"row 'p3' has 66 tokens, the context {LIMIT}"):
        generate.main(
            generate.Config(**settings | {"out": str(tmp_path / "scores.jsonl"), "score": True})
        )
