"""Any Hugging Face causal language model with our attention: load, pack, forward, save.

transformers supplies architecture and weights; one attention function, put in through its AttentionInterface, serves

    packed sequences   all tokens of several sequences in one row (1, T), each attending to its own sequence only:
                       training, scoring, and prefill of the decoder's cache
    one decoding step  the newest token of each of B sequences against their cached keys and values

so that a model is trained, scored and sampled by the same code. There is no padding and no attention mask: a packed
row knows the length of each sequence, and its positions restart at 0.

Shapes: T tokens in a packed row, B sequences, H heads, H_kv key-value heads, K head width, D width, V vocabulary.
"""

import math

import torch

import kernels
from engine.attention import Packed, Prefill, _attend
from engine.rows import BadInput


def head(model):
    """The output head's weight (V, D); of a vocabulary that is split over ranks the whole, for a check or two."""
    weight = model.get_output_embeddings().weight
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def layers(model):
    """The ModuleList of the model's layers, whatever the family calls it."""
    n = model.config.get_text_config().num_hidden_layers
    return next(
        m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n
    )


def softcap(model):
    """The cap of the final logits, or None."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def logit_scale(model):
    """The factor of the final logits: Cohere's, or Granite's division; else 1."""
    config = model.config.get_text_config()
    if getattr(config, "logits_scaling", None):
        return 1 / config.logits_scaling
    return getattr(config, "logit_scale", None) or 1.0


def output_head(model, n_tokens=None):
    """The output head as kernels.Head, of the first n_tokens entries where it is larger than the vocabulary."""
    return kernels.Head(head(model)[:n_tokens], softcap(model), logit_scale(model))


def context_length(model):
    """Tokens of the longest sequence that the model takes."""
    return min(
        model.config.get_text_config().max_position_embeddings, rope_limit(model) or math.inf
    )


def rope_limit(model):
    """Tokens from which on a rotary embedding depends on the longest sequence of the batch ("dynamic", "longrope"), or
    None. Past it a sequence would be computed differently in other company, so it is refused."""
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
            if kind in ("dynamic", "longrope"):
                parameters = module.config.rope_parameters
                parameters = parameters if layer is None else parameters[layer]
                limits.append(
                    parameters.get("original_max_position_embeddings")
                    or module.config.max_position_embeddings
                )
    return min(limits, default=None)


def hidden_states(model, ids, positions, sequences, all_layers=False):
    """ids and positions (T,), sequences a Packed or Step -> (T, D) after the final norm. A Prefill only fills its cache.

    all_layers: a list of n_layers + 1 tensors (T, D) instead, from the embeddings to the final norm.
    """
    if not hasattr(model, "rope_limit"):
        model.rope_limit = rope_limit(model)  # asked at each step, so looked up once
    if model.rope_limit is not None and sequences.max_len > model.rope_limit:
        raise BadInput(
            f"{sequences.max_len} tokens: beyond {model.rope_limit} the rotary embedding of {type(model).__name__} "
            "depends on the other sequences of a batch"
        )
    # A model in shards has the weights of a layer only while that layer itself is called.
    if (
        not isinstance(sequences, Packed)
        and type(model).__name__ in PLAIN
        and not hasattr(model, "shards")
    ):
        return _plain_layers(model.base_model, ids, positions, sequences)
    out = model.base_model(
        input_ids=ids[None],
        position_ids=positions[None],
        use_cache=False,
        output_hidden_states=all_layers,
        sequences=sequences,
    )
    return [h[0] for h in out.hidden_states] if all_layers else out.last_hidden_state[0]


# Families whose layer is the one written out below.
PLAIN = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}


def _plain_layers(body, ids, positions, sequences):
    """The layers of a Step, (T,) -> (T, D), or of a Prefill: the same modules and, to the bit, the same numbers, without
    what transformers does around them for masks and caches of its own; for a few sequences that takes a CPU as long."""
    x, half = body.embed_tokens(ids), sequences.cache.keys[0].shape[3] // 2
    # (T, 1, K)
    cos, sin = (table[positions, None] for table in sequences.cache.rotation(body.rotary_emb, x))

    def rotate(x):  # (T, H, K); "RoFormer" (Su et al. 2021), i paired with i + K / 2
        return x * cos + x.roll(half, 2) * sin

    # of layers that do not say it themselves (Mistral)
    window = getattr(body.config, "sliding_window", None)
    for layer in body.layers:
        own, h = layer.self_attn, layer.input_layernorm(x)
        query, key, value = (
            project(h).view(len(h), -1, 2 * half)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        if hasattr(own, "q_norm"):  # Qwen3
            query, key = own.q_norm(query), own.k_norm(key)
        query, key = rotate(query), rotate(key)
        # nobody asks for what follows
        if isinstance(sequences, Prefill) and layer is body.layers[-1]:
            return sequences.cache.write(
                own.layer_idx, sequences.slots, sequences.positions, key, value
            )
        out = _attend(
            query,
            key,
            value,
            sequences,
            own.layer_idx,
            own.scaling,
            own.sliding_window if hasattr(own, "sliding_window") else window,
        )
        x = x + own.o_proj(out.flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return body.norm(x)


def score(model, batch, temperature=1.0, want=("logp",), n_tokens=None):
    """kernels.TokenStats, each (N,), of the scored tokens of a Batch.

    n_tokens: only the first so many logits count, where the head is larger than the vocabulary.
    """
    hidden = hidden_states(
        model, batch.ids, batch.positions, Packed(batch.lengths, batch.ids.device)
    )
    return kernels.token_stats(
        hidden[batch.where], output_head(model, n_tokens), batch.target, temperature, want
    )


def next_token_logits(model, hidden):
    """hidden (B, D) -> (B, V) float32. For a decoding step; everything else goes through `kernels`."""
    logits = model.get_output_embeddings()(hidden).float()
    scale, cap = logit_scale(model), softcap(model)
    if scale != 1:
        logits = logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def forward_flops(model, lengths):
    """Floating-point operations of one forward pass over sequences of these lengths; a backward pass takes twice as many.

    2 N per token for N parameters in matrix products, the head among them and the embedding not, and for causal
    attention 2 · layers · heads · head width · length² per sequence (Kaplan et al. 2020, §2.1; windows not considered).
    """
    config, embedding = model.config.get_text_config(), model.get_input_embeddings().weight
    n = sum(p.numel() for p in model.parameters()) - (head_is_apart(model) and embedding.numel())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention_width = config.num_hidden_layers * config.num_attention_heads * width
    return sum(2 * n * length + 2 * attention_width * length**2 for length in lengths)


def head_is_apart(model):
    """Whether the output head is another matrix than the embedding."""
    return model.get_output_embeddings().weight is not model.get_input_embeddings().weight
