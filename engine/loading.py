"""Model directories in and out: load, check, save."""

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from engine.attention import Packed, Prefill, Step, attention
from engine.kv_cache import Cache
from engine.model import head, hidden_states, next_token_logits, score
from engine.packing import pack
from engine.rows import BadInput

transformers_logging.disable_progress_bar()  # one bar per loaded tensor tells nobody anything


# ---------------------------------------------------------------- load


def load(path, device="cpu", dtype=torch.float32):
    """Load a local directory or hub name -> (model in eval mode, tokenizer).

    Raises BadInput in one line for what cannot be loaded or would be computed wrongly.
    """
    model, tokenizer = read(path, dtype)
    model = model.to(device).eval()
    check_forward(model, path)
    return model, tokenizer


def read(path, dtype):
    """The same on the CPU and unchecked.

    Weights come from safetensors only: a pickle can run code.
    """
    tokenizer = load_tokenizer(path)
    with refusing(path):
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="packed",
            use_safetensors=True,
            output_loading_info=True,
        )
    if found["missing_keys"]:
        raise BadInput(f"{path}: the weights lack {sorted(found['missing_keys'])[0]}")
    without_dropout(model.config)
    return model, tokenizer


def load_tokenizer(path):
    """The tokenizer of a model directory or hub name. Raises BadInput where there is none."""
    exists = Path(path).exists()
    if exists and not (Path(path) / "config.json").is_file():
        raise BadInput(f"{path}: not a model directory (no config.json)")
    is_hub_name = str(path).count("/") == 1 and not str(path).startswith((".", "/"))
    if not exists and not is_hub_name:
        raise BadInput(f"{path}: no such model directory")
    with refusing(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if len(tokenizer) < 3:  # without tokenizer files transformers makes up an empty one
        raise BadInput(f"{path}: no tokenizer")
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


@contextmanager
def refusing(path):
    """Turn whatever a broken directory or an unknown family raises into BadInput of one line."""
    try:
        yield
    except Exception as error:
        family = ""
        if Path(path).exists():
            config = (Path(path) / "config.json").read_text()
            named = re.search(r'"architectures": \[\s*"(\w+)"', config)
            family = f"{named[1]}: " if named else ""
        raise BadInput(
            f"{path}: cannot be loaded as a model ({family}{in_one_line(error)})"
        ) from error


def in_one_line(error):
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def without_dropout(config):
    """Switch dropout off: the likelihood of a text must not differ from call to call."""
    for name in ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if getattr(config, name, None):
            setattr(config, name, 0.0)


# ---------------------------------------------------------------- check

SEQUENCES = [[5, 3, 8, 6, 4], [7, 9, 2, 5]]  # what check_forward computes; any ids would do


def check_forward(model, path):
    """Raise BadInput unless our attention and head compute what transformers does.

    Two short sequences, packed and through the cache, must get the log-probabilities of
    transformers' own forward pass, and every layer must ask for the attention that the config
    names. Attention sinks, position biases, recurrent layers, windows that only a mask knows:
    whatever our code lacks shows here.
    """

    def refuse(reason):
        raise BadInput(f"{path}: {type(model).__name__} {reason}")

    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    unknown_kinds = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if unknown_kinds:
        refuse(f"has layers of the kind {unknown_kinds[0]}, which engine/model.py does not compute")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        refuse("has a head with a bias, which engine/model.py does not add")

    device = head(model).device
    try:
        with torch.no_grad():
            packed, windows = _packed_logp(model, device)
            cached = _cached_logp(model, device)
            expected = _transformers_logp(model, device)
    except Exception as error:  # whatever an unknown architecture does with our arguments
        refuse(f"does not take packed sequences ({in_one_line(error)})")
    finally:
        model.set_attn_implementation("packed")

    if windows != _named_windows(config):
        refuse(
            "has layers that do not call the attention once, with the window that the config names"
        )
    if not expected.isfinite().all():
        refuse("has weights that give no finite log-probabilities")
    # Of the 4 + 3 tokens that are predicted, the cache predicted the fourth of each sequence.
    error = torch.cat([packed - expected, cached - expected[[2, 6]]]).abs()
    if model.dtype == torch.float32:
        is_close = error.max() < 3e-4
    else:  # in half precision the head alone rounds a logit of 16 by 0.06
        is_close = error.mean() < 0.25
    if not is_close:
        refuse("computes something that engine/model.py does not")


def _packed_logp(model, device):
    """Log-probabilities (7,) of SEQUENCES, packed -> them, and [(layer, its window), ...]."""
    calls = []

    def recorded(module, *tensors, sliding_window=None, **options):
        calls.append((module.layer_idx, sliding_window))
        return attention(module, *tensors, sliding_window=sliding_window, **options)

    AttentionInterface.register("recorded", recorded)
    model.set_attn_implementation("recorded")
    logp = score(model, pack(SEQUENCES, device=device)).logp
    return logp, sorted(calls, key=lambda call: call[0])


def _named_windows(config):
    """[(layer, window or None), ...] as the config names them."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    return [(i, None if kind == "full_attention" else window) for i, kind in enumerate(kinds)]


def _cached_logp(model, device):
    """Log-probabilities (2,) of the fourth token of each of SEQUENCES, predicted from the cache.

    Two tokens of each are encoded into the cache, the third is fed in a decoding step.
    """
    cache = Cache(model, slots=2, max_len=5)
    batch = pack([ids[:2] for ids in SEQUENCES], device=device)
    slots = torch.tensor([0, 0, 1, 1], device=device)
    prefill = Prefill(Packed(batch.lengths, device), cache, slots, batch.positions)
    hidden_states(model, batch.ids, batch.positions, prefill)

    third, fourth = (torch.tensor([ids[i] for ids in SEQUENCES], device=device) for i in (2, 3))
    lengths = torch.tensor([2, 2], device=device)
    hidden = hidden_states(model, third, lengths, Step(cache, lengths, longest=2))
    return -F.cross_entropy(next_token_logits(model, hidden), fourth, reduction="none")


def _transformers_logp(model, device):
    """Log-probabilities (7,) of SEQUENCES by transformers' own attention and head, one by one."""
    model.set_attn_implementation("eager")
    found = []
    for ids in SEQUENCES:
        ids = torch.tensor(ids, device=device)
        logits = model(ids[None], use_cache=False).logits[0, :-1].float()
        found.append(-F.cross_entropy(logits, ids[1:], reduction="none"))
    return torch.cat(found)


# ---------------------------------------------------------------- save


def save(model, tokenizer, path):
    """Write a Hugging Face directory (safetensors, config, tokenizer) into `path`.

    Other files there stay. config.json comes last and `load` asks for it first, so that a save that
    was cut short is not taken for a model.
    """
    part = saving(path)
    model.save_pretrained(part)
    publish(part, tokenizer, path)


def saving(path):
    """Make an empty folder inside `path` to write into before `publish` -> its path."""
    part = Path(path) / "saving"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def publish(part, tokenizer, path):
    """Move what was saved, and the tokenizer, to `path`: config.json last."""
    tokenizer.save_pretrained(part)
    for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
        file.chmod(0o644)  # safetensors writes files that only their owner can read
        os.replace(file, Path(path) / file.name)
    part.rmdir()
