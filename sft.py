"""Supervised fine-tuning of a reasoning model: the likelihood of curated traces, packed without padding.

    loss = - 1/n Σ_rows Σ_t log p(token_t | tokens before it),    n = trained tokens of the whole optimizer step

Rows are packed side by side into one long row per micro-batch; attention and positions stay inside each row, so
packing changes nothing but speed. The sum is divided by the count of the whole step, so that gradient accumulation
gives the same gradient for any micro-batch size. Source: s1 (arXiv 2501.19393) §D for the text format, the mask and
the defaults below; LIMO and UniReason are other values of the same flags.

Departs from s1 in: 1. packing (s1 pads rows to 32k tokens). 2. The token mean is over the step, not the mean of
per-device means. 3. float32 master weights (s1 trains in bfloat16). 4. A row ends with the end-of-sequence token; the
line break that the chat template puts behind it is not trained.

A laptop, 20 seconds (after recipes/tiny.sh; the loss falls to 0.16):
                     python sft.py --model data/tiny_base --data out/tiny/seed0/traces-s1.jsonl --out out/sft
                     --format think --epochs 12 --batch-rows 32 --lr 2e-3
s1 at 0.5B:          python sft.py --model Qwen/Qwen2.5-0.5B-Instruct --data out/s1k.jsonl --out out/s1-0.5b
                     --device cuda --dtype bf16

Reads trace rows (question, thinking, response). Writes a Hugging Face model directory with log.jsonl (one line per
step) and training.json (the settings). A run that was killed continues from its last checkpoint with the same command.
"""
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

import model as models
from data import run
from data.format import FORMATS
from data.rows import BadInput, read_rows


@dataclass(frozen=True)
class Config:
    model: str                           # directory or hub name to start from
    data: str                            # trace rows
    out: str                             # model directory to write
    format: Literal["s1", "s1-steps", "think", "r1", "plain"] = "s1"   # text of a trace, see data/format.py
    train_on: Literal["completion", "all"] = "completion"          # "all" trains on the prompt too

    epochs: int = 5                      # s1: 5, LIMO: 15
    batch_rows: int = 16                 # rows per optimizer step; s1: 16
    batch_tokens: int = 0                # if set, rows per step are those that fit into this many tokens instead
    micro_batch_tokens: int = 32768      # tokens per forward pass; changes memory and speed, not the result
    max_length: int = 32768              # longest row in tokens
    overlong: Literal["cut", "drop"] = "cut"                       # what happens to longer ones (counted either way)

    lr: float = 1e-5                     # peak; s1: 1e-5, LIMO: 5e-6, UniReason: 5e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"   # from the peak to --lr-floor
    warmup: float = 0.05                 # share of the steps, linear from 0
    hold: float = 0.0                    # share of the steps that stay at the peak before decay begins
    lr_floor: float = 0.0                # final learning rate as a share of the peak
    weight_decay: float = 1e-4           # of matrices; norms, biases and embeddings have none
    beta1: float = 0.9                   # AdamW
    beta2: float = 0.95                  # AdamW
    clip: float = 1.0                    # gradient norm
    muon_lr: float = 0.0                 # if set, Muon at this rate for the hidden matrices; AdamW for the rest

    seed: int = 42                       # order of the rows
    save_every: int = 100                # steps between checkpoints
    print_every: int = 1                 # steps between lines on the terminal; log.jsonl has them all
    device: str = "cpu"                  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"                        # of the computation; weights stay float32
    overwrite: bool = False              # replace a run with other settings in --out instead of refusing


# Settings that may differ between a run and its continuation.
FREE = ("out", "save_every", "print_every", "overwrite", "micro_batch_tokens")


def lr_at(step, n_steps, peak, warmup, schedule="cosine", hold=0.0, floor=0.0):
    """Learning rate of step 0..n_steps-1: linear warm-up over ceil(warmup·n) steps from 0, then hold, then decay.

    As in transformers' schedules, step s of the decay over m steps has progress s/m, so that the value 0 belongs
    to step n_steps itself, which is never taken.
    """
    n_warm = math.ceil(warmup * n_steps)
    if step < n_warm:
        return peak * step / n_warm
    n_held = max(n_warm, round(hold * n_steps))
    progress = max(0, step - n_held) / max(1, n_steps - n_held)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[schedule]
    return peak * (floor + (1 - floor) * shape)


def plan_steps(lengths, epochs, batch_rows, batch_tokens, seed):
    """Row indices of every optimizer step of the whole run, from the seed alone: resuming needs only a step number.

    lengths: tokens per row. The last step of an epoch may be smaller; no row is left out.
    """
    order, steps = torch.Generator().manual_seed(seed), []
    for _ in range(epochs):
        step, tokens = [], 0
        for i in torch.randperm(len(lengths), generator=order).tolist():
            full = tokens + lengths[i] > batch_tokens if batch_tokens else len(step) == batch_rows
            if step and full:
                steps.append(step)
                step, tokens = [], 0
            step.append(i)
            tokens += lengths[i]
        steps.append(step)
    return steps


def encode(rows, tokenizer, cfg, context):
    """Trace rows -> (list of (ids, trained), a dict of counts). Overlong rows are cut or dropped, and counted.

    A row whose completion is cut away wholly is dropped: it would train nothing.
    """
    form, longest = FORMATS[cfg.format], min(cfg.max_length, context)
    form.check(tokenizer)
    examples, counts = [], {"rows": len(rows), "cut": 0, "dropped": 0}
    for number, row in enumerate(tqdm(rows, desc="tokenizing", disable=len(rows) < 20000), 1):
        for field in ("question", "thinking", "response"):
            if not isinstance(row.get(field) or "", str):
                raise BadInput(f"{cfg.data}: row {number}: '{field}' is not a string")
        ids, trained = form.training_ids(tokenizer, row)
        if cfg.train_on == "all":
            trained = [True] * len(ids)
        if len(ids) > longest:
            if cfg.overlong == "drop" or not any(trained[1:longest]):
                counts["dropped"] += 1
                continue
            counts["cut"] += 1
        examples.append((ids[:longest], trained[:longest]))
    if not examples:
        raise BadInput(f"{cfg.data}: no row is left within --max-length {longest}")
    return examples, counts


def make_optimizers(model, lr, betas, weight_decay, muon_lr=0.0):
    """AdamW with weight decay on matrices only; with muon_lr, Muon for the hidden matrices. `update` sets the rates."""
    embeddings = {id(models.head(model)), id(model.get_input_embeddings().weight)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in parameters if p.ndim != 2 or id(p) in embeddings]
    groups = [{"params": others, "weight_decay": 0.0}]
    optimizers = []
    if muon_lr:
        optimizers.append(torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay))
    else:
        groups.insert(0, {"params": matrices, "weight_decay": weight_decay})
    optimizers.append(torch.optim.AdamW(groups, lr=lr, betas=betas))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def update(model, optimizers, clip, scale):
    """Clip the gradient norm, take one step at `scale` times each group's peak rate, clear the gradients.

    Returns the norm before clipping. A gradient that is not finite is not applied.
    """
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    if math.isfinite(norm):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
    model.zero_grad(set_to_none=True)
    return norm


def autocast(cfg):
    return torch.autocast(torch.device(cfg.device).type, torch.bfloat16, enabled=cfg.dtype == "bf16")


# ---------------------------------------------------------------- checkpoints

def save_checkpoint(path, model, optimizers, step, identity):
    """Weights, optimizer state, random state and step in one safetensors file, replaced atomically."""
    tensors = {f"weight/{name}": p.detach() for name, p in model.named_parameters()}
    names = {id(p): name for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for p, state in optimizer.state.items():
            tensors |= {f"optimizer{number}/{key}/{names[id(p)]}": value for key, value in state.items()}
    tensors["random"] = torch.get_rng_state()
    part = Path(path).with_name("checkpoint.part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part,
              metadata={"step": str(step), "identity": json.dumps(identity)})
    os.replace(part, path)


def load_checkpoint(path, model, optimizers):
    """Restore what save_checkpoint saved; returns the step. Raises BadInput when the file cannot be read."""
    parameters = dict(model.named_parameters())
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            for key in file.keys():
                kind, *rest = key.split("/")
                if kind == "weight":
                    parameters[rest[0]].copy_(file.get_tensor(key))
                elif kind == "random":
                    torch.set_rng_state(file.get_tensor(key))
                else:
                    optimizer, parameter = optimizers[int(kind.removeprefix("optimizer"))], parameters[rest[1]]
                    value = file.get_tensor(key)
                    optimizer.state[parameter][rest[0]] = value.to(parameter.device) if value.ndim else value
            return int(file.metadata()["step"])
    except (SafetensorError, OSError, KeyError) as error:
        raise BadInput(f"{path}: unreadable checkpoint ({error}); delete it to start over") from error


def resume(cfg, identity, model, optimizers):
    """Find out where a run stands -> its last saved step, 0 for a new run, None when it is complete.

    Raises BadInput when --out holds another run, unless --overwrite, which removes that run.
    """
    out = Path(cfg.out)
    checkpoint, done = out / "checkpoint.safetensors", out / "training.json"
    theirs = None
    if done.is_file():
        theirs = json.loads(done.read_text())["identity"]
    elif checkpoint.is_file():
        try:
            with safe_open(checkpoint, "pt") as file:
                theirs = json.loads(file.metadata()["identity"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{checkpoint}: unreadable checkpoint ({error}); delete it to start over") from error
    if theirs is not None and theirs != identity:
        if not cfg.overwrite:
            raise BadInput(f"--out {out} holds another run ({run.difference(identity, theirs)}); "
                           "choose another --out, or --overwrite to replace it")
        if any(Path(path).resolve().is_relative_to(out.resolve()) for path in (cfg.model, cfg.data)):
            raise BadInput(f"--overwrite would delete --model or --data, which lie in --out {out}")
        shutil.rmtree(out)
        theirs = None
    if theirs is None:
        return 0
    if done.is_file():
        print(f"{out}: this run is complete")
        return None
    step = load_checkpoint(checkpoint, model, optimizers)
    print(f"{out}: continuing after step {step}")
    return step


def finish(cfg, model, tokenizer, identity, **totals):
    """Save the model directory; training.json, written last, marks the run complete. The checkpoint goes."""
    models.save(model, tokenizer, cfg.out)
    run.save_config(cfg, Path(cfg.out) / "training.json", identity=identity, **totals)
    (Path(cfg.out) / "checkpoint.safetensors").unlink(missing_ok=True)


def main(cfg):
    """Fine-tune and save. Returns the log rows of the steps taken now."""
    run.check_positive(cfg, "epochs", "batch_rows", "micro_batch_tokens", "max_length", "lr", "clip", "save_every")
    rows = read_rows(cfg.data, need=("question", "response"))
    identity = run.identity(cfg, FREE, data=cfg.data, model=cfg.model)
    model, tokenizer = models.load(cfg.model, cfg.device)
    model.requires_grad_(True)
    optimizers = make_optimizers(model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay, cfg.muon_lr)
    start = resume(cfg, identity, model, optimizers)
    if start is None:
        return []
    examples, counts = encode(rows, tokenizer, cfg, models.context_length(model))
    steps = plan_steps([len(ids) for ids, _ in examples], cfg.epochs, cfg.batch_rows, cfg.batch_tokens, cfg.seed)
    n_tokens = sum(len(ids) for ids, _ in examples)
    print(f"{counts['rows']} rows, {counts['cut']} cut, {counts['dropped']} dropped; {n_tokens} tokens an epoch, "
          f"{sum(sum(trained) for _, trained in examples) / n_tokens:.0%} of them trained; {len(steps)} steps")

    log, history = run.Log(Path(cfg.out) / "log.jsonl", start, len(steps), cfg.print_every), []
    for number in range(start, len(steps)):
        began = time.perf_counter()
        chosen = [examples[i] for i in steps[number]]
        n_trained = sum(sum(trained[1:]) for _, trained in chosen)
        loss = 0.0
        for group in models.fill_bins([len(ids) for ids, _ in chosen], cfg.micro_batch_tokens):
            batch = models.pack(*zip(*(chosen[i] for i in group)), device=cfg.device)
            with autocast(cfg):
                logp = models.score(model, batch).logp                       # (N,)
            part = -logp.sum() / n_trained
            part.backward()
            loss += part.item()
        scale = lr_at(number, len(steps), 1.0, cfg.warmup, cfg.schedule, cfg.hold, cfg.lr_floor)
        norm = update(model, optimizers, cfg.clip, scale)
        seconds = time.perf_counter() - began
        values = {"loss": loss, "lr": cfg.lr * scale, "grad_norm": norm, "n_trained": n_trained,
                  "tok_s": sum(len(ids) for ids, _ in chosen) / seconds}
        history.append({"step": number + 1, **values})
        log(**history[-1])
        if (number + 1) % cfg.save_every == 0 and number + 1 < len(steps):
            save_checkpoint(Path(cfg.out) / "checkpoint.safetensors", model, optimizers, number + 1, identity)
    finish(cfg, model, tokenizer, identity, n_steps=len(steps), n_tokens=n_tokens * cfg.epochs, **counts)
    return history


if __name__ == "__main__":
    run.cli(main, Config)
