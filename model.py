"""Any Hugging Face causal language model with our attention: load, pack, forward, save.

transformers supplies architecture and weights; one attention function, put in through its AttentionInterface, serves

    packed sequences   all tokens of several sequences in one row (1, T), each attending to its own sequence only:
                       training, scoring, and prefill of the decoder's cache
    one decoding step  the newest token of each of B sequences against their cached keys and values

so that a model is trained, scored and sampled by the same code. There is no padding and no attention mask: a packed
row knows the length of each sequence, and its positions restart at 0.

Shapes: T tokens in a packed row, B sequences, H heads, H_kv key-value heads, K head width, D width, V vocabulary.
"""
import inspect
import math
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import kernels
from engine.rows import BadInput
from engine.modules import quicken

transformers_logging.disable_progress_bar()      # one bar per loaded tensor tells nobody anything


class Batch(NamedTuple):
    """Sequences packed into one row, and the tokens to be scored."""
    ids: torch.Tensor          # (T,) all tokens, sequence after sequence
    positions: torch.Tensor    # (T,) restart at 0 in each sequence
    lengths: list[int]         # of each sequence; they sum to T
    where: torch.Tensor        # (N,) index in T of the position that predicts a scored token
    target: torch.Tensor       # (N,) the scored token
    row: torch.Tensor          # (N,) the sequence it belongs to


def pack(sequences, masks=None, device="cpu"):
    """Lists of token ids (and for each token whether it is scored) -> Batch. Raises ValueError for an empty sequence.

    The only place of the shift by one: position t predicts token t + 1 of the same sequence. The first token of a
    sequence is predicted by nothing, so it is never scored.
    """
    lengths = [len(ids) for ids in sequences]
    if not lengths or min(lengths) == 0:
        raise ValueError("pack needs at least one token in each sequence")
    each = torch.tensor(lengths)
    ids = torch.tensor([i for ids in sequences for i in ids])
    row = torch.arange(len(lengths)).repeat_interleave(each)
    positions = torch.arange(len(ids)) - (each.cumsum(0) - each)[row]
    scored = positions > 0
    if masks is not None:
        scored &= torch.tensor([bool(m) for mask in masks for m in mask])
    at = scored.nonzero()[:, 0]                                           # (N,) tokens that are predicted
    return Batch(ids.to(device), positions.to(device), lengths,
                 (at - 1).to(device), ids[at].to(device), row[at].to(device))


class Packed:
    """How a packed row splits into sequences; what `attention` needs and no more."""

    def __init__(self, lengths, device):
        self.max_len = max(lengths)
        ends = torch.tensor([0, *lengths]).cumsum(0)
        self.cu_seqlens = ends.to(torch.int32).to(device)                 # (n + 1,) for the CUDA kernel
        # Elsewhere: sequences of like length side by side in a padded block, causal, pads behind the real tokens,
        # where no real token looks. Blocks of like length bound the waste: at most half of a long block is padding.
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        groups = []
        for i in order:
            longest = lengths[groups[-1][0]] if groups else 0
            if groups and (longest <= 64 or 2 * lengths[i] >= longest):
                groups[-1].append(i)
            else:
                groups.append([i])
        self.blocks, real = [], []
        for group in groups:
            group.sort()
            n = torch.tensor([lengths[i] for i in group])
            column = torch.arange(int(n.max()))
            is_real = column < n[:, None]
            # (n, L) where in T each cell comes from; a pad repeats its own sequence's last token: what is NaN there
            # would reach a neighbour even with weight 0
            index = ends[:-1][group][:, None] + column.minimum(n[:, None] - 1)
            real.append(index[is_real])
            self.blocks.append((index.to(device), is_real.flatten().nonzero()[:, 0].to(device)))
        self.back = None if len(groups) == 1 else torch.cat(real).argsort().to(device)


class Cache:
    """Keys and values of up to `slots` sequences, preallocated: per layer (slots, H_kv, max_len, K).

    Live sequences occupy the first slots without a gap, so that a decoding step reads a plain slice. On a CPU the n-th
    numbers of all keys of a head lie together, not the numbers of a key: attention takes 0.65 to 0.95 of the time so.
    """

    def __init__(self, model, slots, max_len):
        def zeros(*shape):
            return torch.zeros(slots, *shape, dtype=weight.dtype, device=weight.device)

        weight, shapes = head(model), cache_shape(model)
        self.slots, self.max_len, self.tables = slots, max_len, None
        self.n_positions = min(max_len, rope_limit(model) or max_len)
        self.values = [zeros(heads, max_len, width) for heads, width in shapes]
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            self.keys = [zeros(heads, width, max_len).transpose(2, 3) for heads, width in shapes]
        else:
            self.keys = [zeros(heads, max_len, width) for heads, width in shapes]

    def rotation(self, embedding, like):
        """cos and sin (positions, K), sin with the sign that its half of the numbers takes; made once. embedding: the
        model's rotary module; like: any tensor of its type and device."""
        if self.tables is None:
            cos, sin = (table[0] for table in embedding(like, torch.arange(self.n_positions, device=like.device)[None]))
            self.tables = cos, torch.cat([-sin[:, :sin.shape[1] // 2], sin[:, sin.shape[1] // 2:]], 1)
        return self.tables

    def write(self, layer, slot, position, key, value):
        """key, value (T, H_kv, K) of a layer, to each token's slot (T,) and position (T,)."""
        self.keys[layer][slot, :, position] = key
        self.values[layer][slot, :, position] = value

    def copy(self, source, destination, length):
        """Copy the first `length` cells of slot source[i] to slot destination[i] in all layers."""
        for tensor in (*self.keys, *self.values):
            tensor[destination, :, :length] = tensor[source, :, :length]

    def clear(self, slots, length):
        """Forget the first `length` cells of these slots: a NaN would outlive its sequence, for 0 · NaN is NaN."""
        for tensor in (*self.keys, *self.values):
            tensor[slots, :, :length] = 0


def cache_shape(model):
    """(key-value heads, head width) of each layer; under tensor parallelism the heads of this rank."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return [(heads // getattr(model, "attention_parts", 1), width)] * config.num_hidden_layers


def bytes_per_token(model):
    """Memory that the cache takes for one token of one sequence."""
    return 2 * sum(heads * width for heads, width in cache_shape(model)) * head(model).element_size()


def free_memory(device):
    """Bytes that can still be allocated on a device."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1])
    except (OSError, TypeError):                     # not Linux: nothing is known
        return 2**60


@dataclass
class Prefill:
    """A packed row whose keys and values also go into the cache."""
    packed: Packed
    cache: Cache
    slots: torch.Tensor        # (T,) of each token
    positions: torch.Tensor    # (T,)

    @property
    def max_len(self):
        return self.packed.max_len


@dataclass
class Step:
    """One new token for each of the first B slots of the cache."""
    cache: Cache
    lengths: torch.Tensor      # (B,) tokens already cached
    bounds: list[int]          # no less than lengths, known without asking the device

    def __post_init__(self):
        self.slots = torch.arange(len(self.lengths), device=self.lengths.device)
        self.masks = {}        # of each window, made by the first layer that needs it

    @property
    def max_len(self):
        return max(self.bounds) + 1


def attention(module, query, key, value, attention_mask, scaling=None, sequences=None,
              sliding_window=None, softcap=None, **_):
    """transformers' attention hook. query (1, H, T, K), key and value (1, H_kv, T, K) -> ((1, T, H, K), None).

    sequences: Packed, Prefill or Step. sliding_window w: a token sees itself and w - 1 before it (Mistral, Gemma);
    softcap c: scores become c · tanh(score / c) (Gemma 2).
    """
    if attention_mask is not None or sequences is None:
        raise ValueError("call model.hidden_states: this attention takes packed sequences, not a mask")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))          # (T, H, K), (T, H_kv, K) twice
    return _attend(query, key, value, sequences, module.layer_idx, scaling, sliding_window, softcap)[None], None


def _attend(query, key, value, sequences, layer, scale, window=None, softcap=None):
    """Within what `sequences` is: query (T, H, K), key and value (T, H_kv, K) of a layer -> (T, H, K)."""
    if window is not None and sequences.max_len <= window:
        window = None                                # nobody is that far away
    if isinstance(sequences, Step):
        return _attend_to_cache(query, key, value, sequences, layer, scale, window, softcap)
    # Under autocast a norm of queries and keys (Qwen3) gives float32 while values are bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    packed = sequences
    if isinstance(sequences, Prefill):
        packed = sequences.packed
        sequences.cache.write(layer, sequences.slots, sequences.positions, key, value)
    return _attend_within(query, key, value, packed, scale, window, softcap)


def _attend_within(query, key, value, packed, scale, window=None, softcap=None):
    """Causal attention inside each packed sequence. (T, H, K), (T, H_kv, K) twice -> (T, H, K)."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and softcap is None:
        return _flash_within(query, key, value, packed, scale, window)
    parts = []
    for index, real in packed.blocks:
        q, k, v = (x[index].transpose(1, 2) for x in (query, key, value))          # (n, H, L, K)
        if softcap is None and window is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        else:
            place = torch.arange(index.shape[1], device=query.device)
            distance = place[:, None] - place
            seen = (distance >= 0) & (distance < (window or len(place)))            # (L, L)
            if softcap is None:
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)
            else:
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
                scores = softcap * torch.tanh((q @ k.transpose(2, 3)).float() * (scale / softcap))
                out = scores.masked_fill(~seen, -torch.inf).softmax(3).to(v.dtype) @ v
        parts.append(out.transpose(1, 2).flatten(0, 1)[real])                      # (real tokens, H, K)
    return parts[0] if packed.back is None else torch.cat(parts)[packed.back]


def _flash_within(query, key, value, packed, scale, window=None):
    """The same by PyTorch's variable-length flash kernel (CUDA, half precision). Its window (-1, 0) means causal."""
    from torch.nn.attention.varlen import varlen_attn
    grouped = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:                  # torch 2.12 and later ask to be told
        grouped["enable_gqa"] = True
    else:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return varlen_attn(query, key, value, packed.cu_seqlens, packed.cu_seqlens, packed.max_len, packed.max_len,
                       scale=scale, window_size=(-1 if window is None else window - 1, 0), **grouped)


def _attend_to_cache(query, key, value, step, layer, scale, window=None, softcap=None):
    """One new token per sequence, (B, H, K) and twice (B, H_kv, K), against the cached ones and itself -> (B, H, K)."""
    keys, values = step.cache.keys[layer], step.cache.values[layer]
    step.cache.write(layer, step.slots, step.lengths, key.to(keys.dtype), value.to(keys.dtype))
    return kernels.decode_attention(query.to(keys.dtype), keys, values, step.lengths, step.bounds, scale, window,
                                    softcap, step.masks)


AttentionInterface.register("packed", attention)


def load(path, device="cpu", dtype=torch.float32):
    """A local directory or hub name -> (model in eval mode, tokenizer). Raises BadInput in one line."""
    model, tokenizer = read(path, dtype)
    model = model.to(device).eval()
    check_forward(model, path)
    return model, tokenizer


def read(path, dtype):
    """The same on the CPU and unchecked. Weights come from safetensors only: a pickle can run code."""
    tokenizer = load_tokenizer(path)
    with refusing(path):
        model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="packed",
                                                            use_safetensors=True, output_loading_info=True)
    if found["missing_keys"]:
        raise BadInput(f"{path}: the weights lack {sorted(found['missing_keys'])[0]}")
    without_dropout(model.config)
    quicken(model)
    return model, tokenizer


@contextmanager
def refusing(path):
    """Whatever a broken directory or a strange family raises becomes one line."""
    try:
        yield
    except Exception as error:
        name = re.search(r'"architectures": \[\s*"(\w+)"', (Path(path) / "config.json").read_text()) \
            if Path(path).exists() else None
        raise BadInput(f"{path}: cannot be loaded as a model ({name[1] + ': ' if name else ''}"
                       f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})") from error


def without_dropout(config):
    """Likelihoods of one text must not differ from call to call."""
    for name in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if getattr(config, name, None):
            setattr(config, name, 0.0)


def load_tokenizer(path):
    """The tokenizer of a model directory or hub name. Raises BadInput where there is none."""
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise BadInput(f"{path}: not a model directory (no config.json)")
    if not Path(path).exists() and (str(path).count("/") != 1 or str(path).startswith((".", "/"))):
        raise BadInput(f"{path}: no such model directory")
    with refusing(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if len(tokenizer) < 3:                           # what transformers makes up when there are no tokenizer files
        raise BadInput(f"{path}: no tokenizer")
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


def check_forward(model, path):
    """Raise BadInput unless two short sequences, packed and through the cache, get the log-probabilities of
    transformers' own forward pass, and every layer asks for the attention that the config speaks of.

    Sinks, position biases, scaled logits, recurrent layers, windows that are put into a mask: what our attention or
    head lacks shows here.
    """
    def refuse(why):
        raise BadInput(f"{path}: {type(model).__name__} {why}")

    config, calls, pair, device = model.config.get_text_config(), [], [[5, 3, 8, 6, 4], [7, 9, 2, 5]], head(model).device
    kinds = getattr(config, "layer_types", None)
    strange = set(kinds or ()) - {"full_attention", "sliding_attention"}
    if strange:
        refuse(f"has layers of the kind {sorted(strange)[0]}, which model.py does not compute")

    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        refuse("has a head with a bias, which model.py does not add")

    def recorded(module, *tensors, sliding_window=None, **more):
        calls.append((module.layer_idx, sliding_window))
        return attention(module, *tensors, sliding_window=sliding_window, **more)

    AttentionInterface.register("recorded", recorded)
    with torch.no_grad():
        try:
            model.set_attn_implementation("recorded")
            ours = score(model, pack(pair, device=device)).logp
            layers = list(calls)
            cache, batch = Cache(model, 2, 5), pack([ids[:2] for ids in pair], device=device)
            slots = batch.positions.new_tensor([0, 0, 1, 1])
            hidden_states(model, batch.ids, batch.positions, Prefill(Packed([2, 2], device), cache, slots, batch.positions))
            at = batch.positions.new_tensor([2, 2])
            hidden = hidden_states(model, at.new_tensor([ids[2] for ids in pair]), at, Step(cache, at, [2, 2]))
            cached = -F.cross_entropy(next_token_logits(model, hidden), at.new_tensor([ids[3] for ids in pair]),
                                      reduction="none")
            model.set_attn_implementation("eager")
            pair = [torch.tensor(ids, device=device) for ids in pair]
            theirs = [-F.cross_entropy(model(ids[None], use_cache=False).logits[0, :-1].float(), ids[1:], reduction="none")
                      for ids in pair]
        except Exception as error:                   # whatever an unknown architecture does with our arguments
            refuse(f"does not take packed sequences ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})")
        finally:
            model.set_attn_implementation("packed")
    window = getattr(config, "sliding_window", None)
    wanted = [(i, None if kinds and kinds[i] == "full_attention" else window) for i in range(config.num_hidden_layers)]
    if sorted(layers, key=lambda call: call[0]) != wanted:
        refuse("has layers that do not call the attention once, with the window that the config names")
    theirs = torch.cat(theirs)
    if not theirs.isfinite().all():
        refuse("has weights that give no finite log-probabilities")
    error = torch.cat([ours - theirs, cached - theirs[[2, 6]]]).abs()
    # In half precision the head alone rounds a logit of 16 by 0.06.
    if not (error.max() < 3e-4 if model.dtype == torch.float32 else error.mean() < 0.25):
        refuse("computes something that model.py does not")


def head(model):
    """The output head's weight (V, D); of a vocabulary that is split over ranks the whole, for a check or two."""
    weight = model.get_output_embeddings().weight
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def layers(model):
    """The ModuleList of the model's layers, whatever the family calls it."""
    n = model.config.get_text_config().num_hidden_layers
    return next(m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n)


def softcap(model):
    """The cap of the final logits, or None."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def context_length(model):
    """Tokens of the longest sequence that the model takes."""
    return min(model.config.get_text_config().max_position_embeddings, rope_limit(model) or math.inf)


def rope_limit(model):
    """Tokens from which on a rotary embedding depends on the longest sequence of the batch ("dynamic", "longrope"), or
    None. Past it a sequence would be computed differently in other company, so it is refused."""
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer, kind in (kinds.items() if isinstance(kinds, dict) else [(None, kinds)]):
            if kind in ("dynamic", "longrope"):
                parameters = module.config.rope_parameters
                parameters = parameters if layer is None else parameters[layer]
                limits.append(parameters.get("original_max_position_embeddings") or module.config.max_position_embeddings)
    return min(limits, default=None)


def hidden_states(model, ids, positions, sequences, all_layers=False):
    """ids and positions (T,), sequences a Packed or Step -> (T, D) after the final norm. A Prefill only fills its cache.

    all_layers: a list of n_layers + 1 tensors (T, D) instead, from the embeddings to the final norm.
    """
    if not hasattr(model, "rope_limit"):
        model.rope_limit = rope_limit(model)         # asked at each step, so looked up once
    if model.rope_limit is not None and sequences.max_len > model.rope_limit:
        raise BadInput(f"{sequences.max_len} tokens: beyond {model.rope_limit} the rotary embedding of {type(model).__name__} "
                       "depends on the other sequences of a batch")
    # A model in shards has the weights of a layer only while that layer itself is called.
    if not isinstance(sequences, Packed) and type(model).__name__ in PLAIN and not hasattr(model, "shards"):
        return _plain_layers(model.base_model, ids, positions, sequences)
    out = model.base_model(input_ids=ids[None], position_ids=positions[None], use_cache=False,
                           output_hidden_states=all_layers, sequences=sequences)
    return [h[0] for h in out.hidden_states] if all_layers else out.last_hidden_state[0]


# Families whose layer is the one written out below.
PLAIN = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}


def _plain_layers(body, ids, positions, sequences):
    """The layers of a Step, (T,) -> (T, D), or of a Prefill: the same modules and, to the bit, the same numbers, without
    what transformers does around them for masks and caches of its own; for a few sequences that takes a CPU as long."""
    x, half = body.embed_tokens(ids), sequences.cache.keys[0].shape[3] // 2
    cos, sin = (table[positions, None] for table in sequences.cache.rotation(body.rotary_emb, x))  # (T, 1, K)

    def rotate(x):                                   # (T, H, K); "RoFormer" (Su et al. 2021), i paired with i + K / 2
        return x * cos + x.roll(half, 2) * sin

    window = getattr(body.config, "sliding_window", None)              # of layers that do not say it themselves (Mistral)
    for layer in body.layers:
        own, h = layer.self_attn, layer.input_layernorm(x)
        query, key, value = (project(h).view(len(h), -1, 2 * half) for project in (own.q_proj, own.k_proj, own.v_proj))
        if hasattr(own, "q_norm"):                   # Qwen3
            query, key = own.q_norm(query), own.k_norm(key)
        query, key = rotate(query), rotate(key)
        if isinstance(sequences, Prefill) and layer is body.layers[-1]:            # nobody asks for what follows
            return sequences.cache.write(own.layer_idx, sequences.slots, sequences.positions, key, value)
        out = _attend(query, key, value, sequences, own.layer_idx, own.scaling,
                      own.sliding_window if hasattr(own, "sliding_window") else window)
        x = x + own.o_proj(out.flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return body.norm(x)


def score(model, batch, temperature=1.0, want=("logp",), n_tokens=None):
    """kernels.TokenStats, each (N,), of the scored tokens of a Batch.

    n_tokens: only the first so many logits count, where the head is larger than the vocabulary.
    """
    hidden = hidden_states(model, batch.ids, batch.positions, Packed(batch.lengths, batch.ids.device))
    return kernels.token_stats(hidden[batch.where], head(model)[:n_tokens], batch.target, temperature, softcap(model),
                               want)


def next_token_logits(model, hidden):
    """hidden (B, D) -> (B, V) float32. For a decoding step; everything else goes through `kernels`."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = softcap(model)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def fill_bins(lengths, capacity):
    """Best-fit decreasing: indices grouped so that each group's lengths sum to at most `capacity`.

    Longest first, where lengths within an eighth of a doubling count as equal and keep the order of the input, so that
    a shuffled input gives other groups; each goes where the least room is left that suffices. A length above the
    capacity gets a bin of its own. Groups and their members keep the order of the input. A million rows: seconds.
    """
    bins, with_room, rooms = [], {}, 0               # room -> bins with that much left; bit r of rooms: there is one
    for i in sorted(range(len(lengths)), key=lambda i: -round(8 * math.log2(max(1, lengths[i])))):
        length = lengths[i]
        enough = rooms >> length if length <= capacity else 0
        if enough:
            room = length + (enough & -enough).bit_length() - 1            # the lowest bit set
            place = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            bins[place].append(i)
        else:
            room, place = max(capacity, length), len(bins)
            bins.append([i])
        if room - length:
            with_room.setdefault(room - length, []).append(place)
            rooms |= 1 << room - length
    return sorted(sorted(b) for b in bins)


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


def save(model, tokenizer, path):
    """Write a Hugging Face directory (safetensors, config, tokenizer) into `path`, beside what is already there.

    config.json comes last and `load` asks for it first, so that a save cut short is not taken for a model.
    """
    part = saving(path)
    model.save_pretrained(part)
    publish(part, tokenizer, path)


def saving(path):
    """An empty folder inside `path` to write into before `publish`."""
    part = Path(path) / "saving"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def publish(part, tokenizer, path):
    """Move what was saved, and the tokenizer, to `path`: config.json last."""
    tokenizer.save_pretrained(part)
    for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
        file.chmod(0o644)                            # safetensors' own files are for their owner only
        os.replace(file, Path(path) / file.name)
    part.rmdir()
