"""Any Hugging Face causal language model with our attention: hidden states, scores, logits.

transformers supplies the architecture and the weights. One attention function, plugged in by name,
serves both kinds of forward pass:

    packed sequences   all tokens of several sequences in one row (1, T), each attending to its own
                       sequence only: training, scoring, and encoding prompts into the cache
    a decoding step    the newest token of each of B sequences against their cached keys and values

So a model is trained, scored and sampled by the same code. There is no padding and no attention
mask: a packed row knows the length of each sequence, and its positions restart at 0.

Shapes: T tokens in a packed row, N scored tokens, B sequences, D width, V vocabulary.
"""

import math

import torch

import kernels
from engine.attention import Packed
from engine.rows import BadInput


def hidden_states(model, ids, positions, sequences, all_layers=False):
    """Hidden states after the final norm. ids and positions (T,) -> (T, D).

    sequences: attention.Packed, Prefill or Step, which says what each token attends to.
    all_layers: a list of n_layers + 1 tensors (T, D) instead, from embeddings to final norm.
    Raises BadInput for a sequence beyond rope_limit.
    """
    if not hasattr(model, "rope_limit"):
        model.rope_limit = rope_limit(model)  # looked up once: a decoding step asks each time
    if model.rope_limit is not None and sequences.max_len > model.rope_limit:
        raise BadInput(
            f"{sequences.max_len} tokens: beyond {model.rope_limit} the rotary embedding of "
            f"{type(model).__name__} depends on the other sequences of a batch"
        )
    out = model.base_model(
        input_ids=ids[None],
        position_ids=positions[None],
        use_cache=False,
        output_hidden_states=all_layers,
        sequences=sequences,
    )
    return [h[0] for h in out.hidden_states] if all_layers else out.last_hidden_state[0]


def score(model, batch, temperature=1.0, want=("logp",), n_tokens=None):
    """Statistics of the scored tokens of a packing.Batch -> kernels.TokenStats, each (N,).

    n_tokens: the size of the vocabulary, where the head has more rows.
    """
    packed = Packed(batch.lengths, batch.ids.device)
    hidden = hidden_states(model, batch.ids, batch.positions, packed)[batch.where]  # (N, D)
    return kernels.token_stats(
        hidden, output_head(model, n_tokens), batch.target, temperature, want
    )


def next_token_logits(model, hidden):
    """Logits of the next token in a decoding step. hidden (B, D) -> (B, V) float32.

    Only for a few rows at a time: everything else goes through `kernels`, which never holds the
    logits of a whole batch.
    """
    module = model.get_output_embeddings()
    head = kernels.Head(module.weight, softcap(model), logit_scale(model))
    return head.temper(module(hidden).float())


# ---------------------------------------------------------------- the output head


def head(model):
    """The weight of the output head (V, D).

    Where the vocabulary is split over ranks, the whole is gathered: for rare calls only.
    """
    weight = model.get_output_embeddings().weight
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def output_head(model, n_tokens=None):
    """The output head as kernels.Head: its first n_tokens rows, where it has more than that."""
    return kernels.Head(head(model)[:n_tokens], softcap(model), logit_scale(model))


def softcap(model):
    """The cap of the final logits (Gemma 2), or None."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def logit_scale(model):
    """The factor of the final logits: Cohere's logit_scale, Granite's 1 / logits_scaling, or 1."""
    config = model.config.get_text_config()
    if getattr(config, "logits_scaling", None):
        return 1 / config.logits_scaling
    return getattr(config, "logit_scale", None) or 1.0


def head_is_apart(model):
    """Whether the output head is another matrix than the embedding."""
    return model.get_output_embeddings().weight is not model.get_input_embeddings().weight


# ---------------------------------------------------------------- facts about a model


def layers(model):
    """The ModuleList of the model's layers, whatever the family calls it."""
    n = model.config.get_text_config().num_hidden_layers
    lists = (m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList))
    return next(found for found in lists if len(found) == n)


def head_width(config):
    """The width K of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def context_length(model):
    """Tokens of the longest sequence that the model takes."""
    longest = model.config.get_text_config().max_position_embeddings
    return min(longest, rope_limit(model) or math.inf)


def rope_limit(model):
    """Tokens up to which the rotary embedding is the same in any company, or None for no limit.

    Beyond it the kinds "dynamic" and "longrope" depend on the longest sequence of the batch. A
    sequence would be computed differently beside others, so longer ones are refused.
    """
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if not isinstance(kinds, dict):  # Gemma 3 has one kind for each type of layer
            kinds = {None: kinds}
        for layer_type, kind in kinds.items():
            if kind in ("dynamic", "longrope"):
                parameters = module.config.rope_parameters
                if layer_type is not None:
                    parameters = parameters[layer_type]
                original = parameters.get("original_max_position_embeddings")
                limits.append(original or module.config.max_position_embeddings)
    return min(limits, default=None)


def forward_flops(model, lengths):
    """Floating-point operations of one forward pass over sequences of these lengths.

    Per token 2 · N for N parameters in matrix products: the
    head counts, an embedding apart from it does not. Causal attention adds per sequence
    2 · layers · heads · head width · length² (Kaplan et al. 2020, §2.1; windows are ignored).
    """
    config = model.config.get_text_config()
    n_parameters = sum(p.numel() for p in model.parameters())
    if head_is_apart(model):
        n_parameters -= model.get_input_embeddings().weight.numel()
    attention_width = config.num_attention_heads * head_width(config)
    per_square = 2 * config.num_hidden_layers * attention_width
    return sum(2 * n_parameters * length + per_square * length**2 for length in lengths)


def training_flops(model, lengths):
    """Floating-point operations of a forward and a backward pass over sequences of these lengths.

    A backward pass takes as many as a forward pass for the gradients of what goes into a product,
    and as many for those of its weights. Frozen weights have none: 2 for each and each token less.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad]
    n_frozen = sum(p.numel() for p in frozen)
    embedding = model.get_input_embeddings().weight
    if head_is_apart(model) and not embedding.requires_grad:
        n_frozen -= embedding.numel()
    return 3 * forward_flops(model, lengths) - 2 * n_frozen * sum(lengths)
