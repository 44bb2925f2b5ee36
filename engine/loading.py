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
from engine.modules import fuse_norms
from engine.packing import pack
from engine.rows import BadInput

transformers_logging.disable_progress_bar()  # one bar per loaded tensor tells nobody anything


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
    fuse_norms(model)
    return model, tokenizer


@contextmanager
def refusing(path):
    """Whatever a broken directory or a strange family raises becomes one line."""
    try:
        yield
    except Exception as error:
        name = (
            re.search(r'"architectures": \[\s*"(\w+)"', (Path(path) / "config.json").read_text())
            if Path(path).exists()
            else None
        )
        raise BadInput(
            f"{path}: cannot be loaded as a model ({name[1] + ': ' if name else ''}"
            f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
        ) from error


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
    if len(tokenizer) < 3:  # what transformers makes up when there are no tokenizer files
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

    config, calls, pair, device = (
        model.config.get_text_config(),
        [],
        [[5, 3, 8, 6, 4], [7, 9, 2, 5]],
        head(model).device,
    )
    kinds = getattr(config, "layer_types", None)
    strange = set(kinds or ()) - {"full_attention", "sliding_attention"}
    if strange:
        refuse(
            f"has layers of the kind {sorted(strange)[0]}, which engine/model.py does not compute"
        )

    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        refuse("has a head with a bias, which engine/model.py does not add")

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
            hidden_states(
                model,
                batch.ids,
                batch.positions,
                Prefill(Packed([2, 2], device), cache, slots, batch.positions),
            )
            at = batch.positions.new_tensor([2, 2])
            hidden = hidden_states(
                model, at.new_tensor([ids[2] for ids in pair]), at, Step(cache, at, [2, 2])
            )
            cached = -F.cross_entropy(
                next_token_logits(model, hidden),
                at.new_tensor([ids[3] for ids in pair]),
                reduction="none",
            )
            model.set_attn_implementation("eager")
            pair = [torch.tensor(ids, device=device) for ids in pair]
            theirs = [
                -F.cross_entropy(
                    model(ids[None], use_cache=False).logits[0, :-1].float(),
                    ids[1:],
                    reduction="none",
                )
                for ids in pair
            ]
        except Exception as error:  # whatever an unknown architecture does with our arguments
            refuse(
                f"does not take packed sequences ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
            )
        finally:
            model.set_attn_implementation("packed")
    window = getattr(config, "sliding_window", None)
    wanted = [
        (i, None if kinds and kinds[i] == "full_attention" else window)
        for i in range(config.num_hidden_layers)
    ]
    if sorted(layers, key=lambda call: call[0]) != wanted:
        refuse(
            "has layers that do not call the attention once, with the window that the config names"
        )
    theirs = torch.cat(theirs)
    if not theirs.isfinite().all():
        refuse("has weights that give no finite log-probabilities")
    error = torch.cat([ours - theirs, cached - theirs[[2, 6]]]).abs()
    # In half precision the head alone rounds a logit of 16 by 0.06.
    if not (error.max() < 3e-4 if model.dtype == torch.float32 else error.mean() < 0.25):
        refuse("computes something that engine/model.py does not")


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
        file.chmod(0o644)  # safetensors' own files are for their owner only
        os.replace(file, Path(path) / file.name)
    part.rmdir()
