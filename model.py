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
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import kernels
from data.rows import BadInput

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
            index = ends[:-1][group][:, None] + column                    # (n, L) where in T each cell comes from
            is_real = column < n[:, None]
            real.append(index[is_real])
            self.blocks.append((index.clamp(max=int(ends[-1]) - 1).to(device),
                                is_real.flatten().nonzero()[:, 0].to(device)))
        self.back = None if len(groups) == 1 else torch.cat(real).argsort().to(device)


class Cache:
    """Keys and values of up to `slots` sequences, preallocated: per layer (slots, max_len, H_kv, K).

    Live sequences occupy the first slots without a gap, so that a decoding step reads a plain slice.
    """

    def __init__(self, model, slots, max_len):
        config = model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weight = head(model)
        self.slots, self.max_len = slots, max_len
        self.keys, self.values = (
            [torch.zeros(slots, max_len, heads, width, dtype=weight.dtype, device=weight.device)
             for _ in range(config.num_hidden_layers)] for _ in range(2))

    def move(self, source, destination):
        """Copy slot source[i] to slot destination[i] in all layers."""
        for tensor in (*self.keys, *self.values):
            tensor[destination] = tensor[source]


@dataclass
class Prefill:
    """A packed row whose keys and values also go into the cache."""
    packed: Packed
    cache: Cache
    slot: torch.Tensor         # (T,) of each token
    positions: torch.Tensor    # (T,)


@dataclass
class Step:
    """One new token for each of the first B slots of the cache."""
    cache: Cache
    lengths: torch.Tensor      # (B,) tokens already cached
    longest: int               # an upper bound of lengths, known without asking the device
    seen: torch.Tensor         # (B, 1, 1, longest + 1) which cells a sequence may attend to


def attention(module, query, key, value, attention_mask, scaling=None, sequences=None,
              sliding_window=None, softcap=None, **_):
    """transformers' attention hook. query (1, H, T, K), key and value (1, H_kv, T, K) -> ((1, T, H, K), None).

    sequences: Packed, Prefill or Step. What we do not compute is refused, not approximated.
    """
    if attention_mask is not None or sequences is None:
        raise ValueError("call model.hidden_states: this attention takes packed sequences, not a mask")
    if softcap is not None:
        raise BadInput("this model caps its attention scores, which model.attention does not compute")
    packed = getattr(sequences, "packed", sequences)
    longest = sequences.longest + 1 if isinstance(sequences, Step) else packed.max_len
    if sliding_window is not None and longest > sliding_window:
        raise BadInput(f"{longest} tokens exceed this model's sliding window of {sliding_window}, "
                       "which model.attention does not compute")
    if isinstance(sequences, Step):
        return _attend_to_cache(query, key, value, sequences, module.layer_idx, scaling), None
    # Under autocast a norm of queries and keys (Qwen3) gives float32 while values are bfloat16.
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # (T, H, K), (T, H_kv, K)
    if isinstance(sequences, Prefill):
        sequences.cache.keys[module.layer_idx][sequences.slot, sequences.positions] = key
        sequences.cache.values[module.layer_idx][sequences.slot, sequences.positions] = value
    return _attend_within(query, key, value, packed, scaling)[None], None


def _attend_within(query, key, value, packed, scale):
    """Causal attention inside each packed sequence. (T, H, K), (T, H_kv, K) twice -> (T, H, K)."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _flash_within(query, key, value, packed, scale)
    parts = []
    for index, real in packed.blocks:
        q, k, v = (x[index].transpose(1, 2) for x in (query, key, value))          # (n, H, L, K)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        parts.append(out.transpose(1, 2).flatten(0, 1)[real])                      # (real tokens, H, K)
    return parts[0] if packed.back is None else torch.cat(parts)[packed.back]


def _flash_within(query, key, value, packed, scale):
    """The same by PyTorch's variable-length flash kernel (CUDA, half precision). Its window (-1, 0) means causal."""
    from torch.nn.attention.varlen import varlen_attn
    grouped = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:                  # torch 2.12 and later ask to be told
        grouped["enable_gqa"] = True
    else:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return varlen_attn(query, key, value, packed.cu_seqlens, packed.cu_seqlens, packed.max_len, packed.max_len,
                       scale=scale, window_size=(-1, 0), **grouped)


def _attend_to_cache(query, key, value, step, layer, scale):
    """query (1, H, B, K), one new token per sequence, against the cached ones and itself -> (1, B, H, K)."""
    n_heads, n, width = query.shape[1:]
    keys, values = step.cache.keys[layer], step.cache.values[layer]
    at = torch.arange(n, device=query.device)
    keys[at, step.lengths] = key[0].transpose(0, 1)
    values[at, step.lengths] = value[0].transpose(0, 1)
    keys, values = (x[:n, :step.longest + 1].transpose(1, 2) for x in (keys, values))   # (B, H_kv, L, K)
    # The heads that share a key-value head stand as further query rows: nothing is repeated in memory.
    grouped = query[0].transpose(0, 1).reshape(n, keys.shape[1], -1, width)        # (B, H_kv, H / H_kv, K)
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=step.seen, scale=scale)
    return out.reshape(1, n, n_heads, width)


AttentionInterface.register("packed", attention)


def load(path, device="cpu", dtype=torch.float32):
    """A local directory or hub name -> (model in eval mode, tokenizer). Raises BadInput in one line.

    Weights are read from safetensors only: a pickle can run code.
    """
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise BadInput(f"{path}: not a model directory (no config.json)")
    if not Path(path).exists() and (str(path).count("/") != 1 or str(path).startswith((".", "/"))):
        raise BadInput(f"{path}: no such model directory")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="packed",
                                                            use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{path}: cannot be loaded as a model ({str(error).strip().splitlines()[0]})") from error
    if found["missing_keys"]:
        raise BadInput(f"{path}: the weights lack {sorted(found['missing_keys'])[0]}")
    if len(tokenizer) < 3:                           # what transformers makes up when there are no tokenizer files
        raise BadInput(f"{path}: no tokenizer")
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{path}: the tokenizer has no end-of-sequence token")
    for name in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if getattr(model.config, name, None):
            setattr(model.config, name, 0.0)     # likelihoods of one text must not differ from call to call
    model = model.to(device).eval()
    check_forward(model, path)
    return model, tokenizer


def check_forward(model, path):
    """Raise BadInput unless two packed sequences get the log-probabilities of transformers' own forward pass.

    Sinks, position biases, scaled logits, recurrent layers: what our attention or head lacks shows here.
    """
    pair, device = [[5, 3, 8, 6, 4], [7, 9, 2, 5]], head(model).device
    with torch.no_grad():
        try:
            ours = score(model, pack(pair, device=device)).logp
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadInput(f"{path}: {type(model).__name__} does not take packed sequences ({error})") from error
        model.set_attn_implementation("eager")
        logits = [model(torch.tensor([ids], device=device), use_cache=False).logits[0, :-1].float() for ids in pair]
        theirs = torch.cat([z.log_softmax(1)[range(len(ids) - 1), ids[1:]] for z, ids in zip(logits, pair)])
        model.set_attn_implementation("packed")
    error = (ours - theirs).abs()                    # in half precision the head alone rounds a logit of 16 by 0.06
    if not (error.max() < 3e-4 if model.dtype == torch.float32 else error.mean() < 0.25):
        raise BadInput(f"{path}: {type(model).__name__} computes something that model.py does not")


def head(model):
    """The output head's weight (V, D)."""
    return model.get_output_embeddings().weight


def softcap(model):
    """The cap of the final logits, or None."""
    return getattr(model.config, "final_logit_softcapping", None)


def context_length(model):
    return model.config.max_position_embeddings


def hidden_states(model, ids, positions, sequences, all_layers=False):
    """ids and positions (T,), sequences a Packed, Prefill or Step -> (T, D) after the final norm.

    all_layers: a list of n_layers + 1 tensors (T, D) instead, from the embeddings to the final norm.
    """
    out = model.base_model(input_ids=ids[None], position_ids=positions[None], use_cache=False,
                           output_hidden_states=all_layers, sequences=sequences)
    return [h[0] for h in out.hidden_states] if all_layers else out.last_hidden_state[0]


def score(model, batch, temperature=1.0, want=("logp",)):
    """kernels.TokenStats, each (N,), of the scored tokens of a Batch."""
    hidden = hidden_states(model, batch.ids, batch.positions, Packed(batch.lengths, batch.ids.device))
    return kernels.token_stats(hidden[batch.where], head(model), batch.target, temperature, softcap(model), want)


def next_token_logits(model, hidden):
    """hidden (B, D) -> (B, V) float32. For a decoding step; everything else goes through `kernels`."""
    logits = (hidden @ head(model).T).float()
    cap = softcap(model)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def fill_bins(lengths, capacity):
    """First-fit decreasing: indices grouped so that each group's lengths sum to at most `capacity`.

    A length above the capacity gets a bin of its own. Groups and their members keep the order of the input.
    """
    bins, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((b for b, left in enumerate(room) if left >= lengths[i]), None)
        if place is None:
            bins.append([i])
            room.append(capacity - lengths[i])
        else:
            bins[place].append(i)
            room[place] -= lengths[i]
    return sorted(sorted(b) for b in bins)


def save(model, tokenizer, path):
    """Write a Hugging Face directory (safetensors, config, tokenizer) into `path`, beside what is already there.

    config.json comes last and `load` asks for it first, so that a save cut short is not taken for a model.
    """
    path = Path(path)
    part = path / "saving"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
        file.chmod(0o644)                            # safetensors' own files are for their owner only
        os.replace(file, path / file.name)
    part.rmdir()
