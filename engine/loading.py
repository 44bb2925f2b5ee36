"""Model directories in and out: load, check, save."""

import json
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

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

transformers_logging.disable_progress_bar()  # one bar per loaded tensor tells nobody anything


# ---------------------------------------------------------------- load


def load(path, device="cpu", dtype=torch.float32):
    """Load a local directory or hub name -> (model in eval mode, tokenizer).

    Raises BadInput in one line for what cannot be loaded or would be computed wrongly.
    """
    model, tokenizer = read(path, dtype)
    model = model.to(device).eval()
    check_forward(model, tokenizer, path)
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
            trust_remote_code=False,  # the default asks on the terminal
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
    if exists:
        check_configs(path)
    with refusing(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if len(tokenizer) < 3:  # without tokenizer files transformers makes up an empty one
        raise BadInput(f"{path}: no tokenizer")
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{path}: the tokenizer has no end-of-sequence token")
    return tokenizer


def check_configs(path):
    """Raise BadInput for a config file of a model directory that holds garbage.

    transformers drops a broken generation_config.json without a word, and its stop tokens with it.
    """
    for name in ("config.json", "generation_config.json"):
        file = Path(path) / name
        if not file.is_file():
            continue
        try:
            config = json.loads(file.read_bytes())
        except (ValueError, OSError, RecursionError) as error:
            raise BadInput(f"{path}: {name}: not JSON ({in_one_line(error)})") from error
        if not isinstance(config, dict):
            raise BadInput(f"{path}: {name}: not a JSON object but {type(config).__name__}")
        stops = config.get("eos_token_id")
        for stop in stops if isinstance(stops, list) else [stops]:
            if stop is not None and type(stop) is not int:
                raise BadInput(f"{path}: {name}: 'eos_token_id' {stop!r} is not a token id")


@contextmanager
def refusing(path):
    """Turn whatever a broken directory or an unknown family raises into BadInput of one line."""
    try:
        yield
    except Exception as error:
        family = ""
        if Path(path).exists():
            config = (Path(path) / "config.json").read_text(encoding="utf-8", errors="replace")
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

# What check_forward computes. Some real models have never trained the first ids of their
# vocabulary.
TEXTS = ("The sum of two and three is five.", "She walked to the river and sat down.")
MOST_TOKENS = 12  # of a text

# How far our log-probabilities may be from transformers': at most, for a token, in float32;
MOST_FLOAT32_ERROR = 3e-4
# on average in half precision, where the head alone rounds a logit of 16 by 0.06: a multiple of the
# error that transformers itself has there, and an absolute floor.
HALF_ERRORS, HALF_FLOOR = 2.0, 0.1


def check_forward(model, tokenizer, path):
    """Raise BadInput unless our attention and head compute what transformers does.

    Two short texts, packed and through the cache, must get the log-probabilities of transformers'
    own forward pass, and every layer must ask for the attention that the config names. Attention
    sinks, position biases, recurrent layers, windows that only a mask knows: whatever our code
    lacks shows here.
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
    sequences = ordinary_ids(tokenizer, len(head(model)))
    is_half = model.dtype != torch.float32
    try:
        with torch.no_grad():
            packed, windows = _packed_logp(model, sequences, device)
            cached = _cached_logp(model, sequences, device)
            expected = theirs = _transformers_logp(model, sequences, device)
            if is_half:
                with _float32_arithmetic(model):
                    expected = _transformers_logp(model, sequences, device)
    except Exception as error:  # whatever an unknown architecture does with our arguments
        refuse(f"does not take packed sequences ({in_one_line(error)})")
    finally:
        model.set_attn_implementation("packed")

    if windows != _named_windows(config):
        refuse(
            "has layers that do not call the attention once, with the window that the config names"
        )
    if not (expected.isfinite().all() and theirs.isfinite().all()):
        refuse("has weights that give no finite log-probabilities")
    # The cache predicted the fourth token of each sequence, whose first token nothing predicts.
    fourth = [2, len(sequences[0]) - 1 + 2]
    error = torch.cat([packed - expected, cached - expected[fourth]]).abs()
    if not is_half:
        if not error.max() <= MOST_FLOAT32_ERROR:
            refuse(
                "computes something that engine/model.py does not: in float32 a log-probability is "
                f"{error.max():.2g} away from transformers' own ({MOST_FLOAT32_ERROR} is allowed); "
                "try another transformers, or a model of another architecture"
            )
        return
    own_error = (theirs - expected).abs().mean()
    allowed = HALF_ERRORS * own_error + HALF_FLOOR
    if not error.mean() <= allowed:
        name = str(model.dtype).removeprefix("torch.")
        refuse(
            f"computes something that engine/model.py does not: in {name} log-probabilities are "
            f"{error.mean():.2g} away from transformers' float32 on average, transformers' own "
            f"{name} {own_error:.2g} ({allowed:.2g} is allowed); try --dtype fp32, which tells "
            "whether the architecture is at fault"
        )


def ordinary_ids(tokenizer, n_vocab):
    """-> two sequences of 4 to MOST_TOKENS token ids, of ordinary text.

    From the middle of the vocabulary where the tokenizer does not know such words, or has ids that
    the model has not.
    """
    sequences = [tokenizer(text)["input_ids"][:MOST_TOKENS] for text in TEXTS]
    is_known = all(len(set(ids)) > 3 and max(ids) < n_vocab for ids in sequences)
    if is_known:
        return sequences
    middle = n_vocab // 2
    return [[(middle + shift) % n_vocab for shift in shifts] for shifts in MIDDLE]


MIDDLE = [[5, 3, 8, 6, 4], [7, 9, 2, 5]]  # ids of the fallback, counted from the middle


@contextmanager
def _float32_arithmetic(model):
    """Compute in float32 with a model's half-precision weights.

    Each module has its own weights in float32 while it runs: a second copy of the whole model would
    not fit into memory beside the first.
    """

    def widen(module, _):
        halves[module] = dict(module._parameters)
        for name, p in module._parameters.items():
            if p is not None and p.is_floating_point():
                module._parameters[name] = torch.nn.Parameter(p.float(), requires_grad=False)

    def restore(module, *_):
        module._parameters.update(halves.pop(module, {}))

    halves, hooks = {}, []
    for module in model.modules():
        if module._parameters:
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(restore))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in list(halves):  # left in the middle of a forward pass
            restore(module)


def _packed_logp(model, sequences, device):
    """Log-probabilities of all predicted tokens, packed -> them, and [(layer, its window), ...]."""
    calls = []

    def recorded(module, *tensors, sliding_window=None, **options):
        calls.append((module.layer_idx, sliding_window))
        return attention(module, *tensors, sliding_window=sliding_window, **options)

    AttentionInterface.register("recorded", recorded)
    model.set_attn_implementation("recorded")
    logp = score(model, pack(sequences, device=device)).logp
    return logp, sorted(calls, key=lambda call: call[0])


def _named_windows(config):
    """[(layer, window or None), ...] as the config names them."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    return [(i, None if kind == "full_attention" else window) for i, kind in enumerate(kinds)]


def _cached_logp(model, sequences, device):
    """Log-probabilities (2,) of the fourth token of each sequence, predicted from the cache.

    Two tokens of each are encoded into the cache, the third is fed in a decoding step.
    """
    cache = Cache(model, slots=2, max_len=5)
    batch = pack([ids[:2] for ids in sequences], device=device)
    slots = torch.tensor([0, 0, 1, 1], device=device)
    prefill = Prefill(Packed(batch.lengths, device), cache, slots, batch.positions)
    hidden_states(model, batch.ids, batch.positions, prefill)

    third, fourth = (torch.tensor([ids[i] for ids in sequences], device=device) for i in (2, 3))
    lengths = torch.tensor([2, 2], device=device)
    hidden = hidden_states(model, third, lengths, Step(cache, lengths, longest=2))
    return -F.cross_entropy(next_token_logits(model, hidden), fourth, reduction="none")


def _transformers_logp(model, sequences, device):
    """Log-probabilities of all predicted tokens by transformers' own attention and head."""
    model.set_attn_implementation("eager")
    found = []
    for ids in sequences:
        ids = torch.tensor(ids, device=device)
        logits = model(ids[None], use_cache=False).logits[0, :-1].float()
        found.append(-F.cross_entropy(logits, ids[1:], reduction="none"))
    return torch.cat(found)


# ---------------------------------------------------------------- save


def save(model, tokenizer, path, dtype=None):
    """Write a Hugging Face directory (safetensors, config, tokenizer) into `path`.

    dtype: of the weights, if they are to be rounded. Other files there stay. config.json comes last
    and `load` asks for it first, so that a save that was cut short is not taken for a model.
    """
    part = saving(path)
    with rounded(model, dtype):
        model.save_pretrained(part)
    publish(part, tokenizer, path)


@contextmanager
def rounded(model, dtype):
    """Hold the weights in another type. Afterwards the ones from before are back."""
    weights = [(p, p.data) for p in model.parameters()] if dtype else []
    for p, data in weights:
        p.data = data.to(dtype)
    try:
        yield
    finally:
        for p, data in weights:
            p.data = data


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
