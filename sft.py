"""Supervised fine-tuning of a reasoning model: the likelihood of curated traces, packed without padding.

    loss = - 1/n Σ_rows Σ_t log p(token_t | tokens before it),    n = trained tokens of the whole optimizer step

Rows are packed side by side into one long row per micro-batch; attention and positions stay inside each row, so
packing changes nothing but speed. The sum is divided by the count of the whole step, so that gradient accumulation
gives the same gradient for any micro-batch size. Source: s1 (arXiv 2501.19393) §D for the text format, the mask and
the defaults below; LIMO and UniReason are other values of the same flags.

Under torchrun the weights are sharded over the processes (engine/sharding.py), the rows of each step are dealt to them, and
loss and weights stay those of one process.

Departs from s1 in: 1. packing (s1 pads rows to 32k tokens). 2. The token mean is over the step, not the mean of
per-device means. 3. float32 master weights (s1 trains in bfloat16). 4. A row ends with the end-of-sequence token; the
line break that the chat template puts behind it is not trained.

A laptop, 20 seconds (after recipes/tiny.sh; the loss falls to 0.16):
                     python sft.py --model data/tiny_base --data out/tiny/seed0/traces-s1.jsonl --out out/sft
                     --format think --epochs 12 --batch-rows 32 --lr 2e-3
s1 at 0.5B:          python sft.py --model Qwen/Qwen2.5-0.5B-Instruct --data out/s1k.jsonl --out out/s1-0.5b
                     --device cuda --dtype bf16
s1 on a node:        torchrun --nproc-per-node 8 -- sft.py --model Qwen/Qwen2.5-32B-Instruct --data out/s1k.jsonl
                     --out out/s1-32b --device cuda --dtype bf16 --recompute --micro-batch-tokens 16384

Reads trace rows (question, thinking, response; optional history of earlier turns; lists for several responses of one
question). Writes a Hugging Face model directory with log.jsonl (one line per step), loss.png, flops.jsonl (what was
computed) and training.json (the settings). A run that was killed continues from its last checkpoint with the same
command, with any number of processes.
"""

import bisect
import itertools
import json
import math
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from data.load import read_traces
from engine import loading, packing, plan, processes, runlog, settings, sharding
from engine import model as models
from engine.checkpoints import save_checkpoint
from engine.dealing import deal
from engine.format import FORMATS
from engine.rows import BadInput, is_text, read_rows, write_rows
from engine.training import (
    autocast,
    finish,
    lr_at,
    make_optimizers,
    memory_gb,
    peak_flops,
    resume,
    update,
)


@dataclass(frozen=True)
class Config:
    model: str  # directory or hub name to start from
    data: str  # trace rows: .jsonl, a directory, or a data set by its name (data/load.py)
    out: str  # model directory to write
    # text of a trace, see engine/format.py
    format: Literal["s1", "s1-steps", "think", "r1", "plain"] = "s1"
    train_on: Literal["completion", "all"] = "completion"  # "all" trains on the prompt too
    turns: int = 1  # assistant turns that are trained: the last ones, earlier ones in `history`

    epochs: int = 5  # s1: 5, LIMO: 15
    batch_rows: int = 16  # rows per optimizer step; s1: 16
    batch_tokens: int = 0  # if set, rows per step are those that best fill this many tokens instead
    # tokens per forward pass and rank; changes memory and speed, not the result
    micro_batch_tokens: int = 32768
    max_length: int = 32768  # longest row in tokens
    overlong: Literal["cut", "drop"] = "cut"  # what happens to longer ones (counted either way)
    # easy: likeliest to the base model first, each epoch
    order: Literal["shuffled", "easy"] = "shuffled"
    padded: bool = False  # pad to the longest row of a step, as others do; only to compare
    # flops.jsonl of another run: stop where as much is computed, whatever --epochs
    match_flops: str | None = None

    lr: float = 1e-5  # peak; s1: 1e-5, LIMO: 5e-6, UniReason: 5e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # from the peak to --lr-floor
    warmup: float = 0.05  # share of the steps, linear from 0
    hold: float = 0.0  # share of the steps that stay at the peak before decay begins
    lr_floor: float = 0.0  # final learning rate as a share of the peak
    weight_decay: float = 1e-4  # of matrices; norms, biases and embeddings have none
    beta1: float = 0.9  # AdamW
    beta2: float = 0.95  # AdamW
    clip: float = 1.0  # gradient norm
    muon_lr: float = 0.0  # if set, Muon at this rate for the hidden matrices; AdamW for the rest

    seed: int = 42  # order of the rows
    save_every: int = 100  # steps between checkpoints
    print_every: int = 1  # steps between lines on the terminal; log.jsonl has them all
    plot: bool = True  # draw loss.png at the end
    bad_steps: int = 3  # steps in a row without a finite loss and gradient that end the run
    overwrite: bool = False  # replace a run with other settings in --out instead of refusing

    device: str = "cpu"  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"  # of the computation; weights stay float32
    tp: int = 1  # torchrun: neighbouring ranks that split each matrix (inside a node)
    recompute: bool = False  # activation checkpointing: 1/3 more compute, keeps one input per layer
    compile: bool = False  # torch.compile each layer
    offload: bool = False  # torchrun: shards and optimizer in host memory
    # of Adam's moments; bf16 saves 4 bytes a parameter
    adam_dtype: Literal["fp32", "bf16"] = "fp32"
    # train nothing: say whether this fits on 8xH100-80GB, say, and how long it takes
    plan: str = ""


# Settings that may differ between a run and its continuation.
FREE = (
    "out",
    "save_every",
    "print_every",
    "plot",
    "bad_steps",
    "overwrite",
    "micro_batch_tokens",
    "tp",
    "recompute",
    "compile",
    "offload",
    "plan",
)


def plan_steps(lengths, epochs, batch_rows, batch_tokens, seed, order=None):
    """Row indices of every optimizer step of the whole run, from the seed alone: resuming needs only a step number.

    lengths: tokens per row. The last step of an epoch may be smaller; no row is left out. With batch_tokens an epoch is
    packed best-fit into steps of that many tokens, which come in random order. order: the rows of every epoch instead of
    a shuffle; a step then ends where the next row does not fit.
    """
    generator, steps = torch.Generator().manual_seed(seed), []
    for _ in range(epochs):
        rows = order or torch.randperm(len(lengths), generator=generator).tolist()
        if batch_tokens and order is None:
            packs = packing.fill_bins([lengths[i] for i in rows], batch_tokens)
            steps += [
                [rows[j] for j in packs[k]]
                for k in torch.randperm(len(packs), generator=generator).tolist()
            ]
            continue
        step, tokens = [], 0
        for i in rows:
            full = tokens + lengths[i] > batch_tokens if batch_tokens else len(step) == batch_rows
            if step and full:
                steps.append(step)
                step, tokens = [], 0
            step.append(i)
            tokens += lengths[i]
        steps.append(step)
    return steps


def encode(rows, tokenizer, cfg, context):
    """Trace rows -> (list of (array of ids, bytes: 1 where trained), a dict of counts). Overlong rows are cut or dropped.

    A row whose completion is cut away wholly is dropped: it would train nothing.
    """
    form, longest = FORMATS[cfg.format], min(cfg.max_length, context)
    form.check(tokenizer)
    examples, counts = [], {"rows": len(rows), "cut": 0, "dropped": 0}
    for number, row in enumerate(tqdm(rows, desc="tokenizing", disable=len(rows) < 20000), 1):
        for field in ("question", "thinking", "response"):
            if not is_text(row.get(field) or ""):
                raise BadInput(f"{cfg.data}: row {number}: '{field}' is not a text")
        if not ((row.get("thinking") or "") + row["response"]).strip():
            raise BadInput(f"{cfg.data}: row {number}: empty completion")
        history = row.get("history") or []
        if not isinstance(history, list) or not all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and is_text(m.get("content"))
            for m in history
        ):
            raise BadInput(
                f"{cfg.data}: row {number}: 'history' is not a list of messages with role and content"
            )
        ids, trained = form.training_ids(tokenizer, row, cfg.turns)
        if cfg.train_on == "all":
            trained = [True] * len(ids)
        if len(ids) > longest:
            if cfg.overlong == "drop" or not any(trained[1:longest]):
                counts["dropped"] += 1
                continue
            counts["cut"] += 1
        # a list of int takes 36 bytes a token
        examples.append((array("i", ids[:longest]), bytes(trained[:longest])))
    if not examples:
        raise BadInput(f"{cfg.data}: no row is left within --max-length {longest}")
    return examples, counts


# ---------------------------------------------------------------- the run


def easy_first(model, examples, cfg, ranks):
    """Rows by the mean log-probability that the model gives to their trained tokens, highest first."""
    sums, counts = [0.0] * len(examples), [max(1, sum(trained[1:])) for _, trained in examples]
    for group in deal([len(ids) for ids, _ in examples], cfg.micro_batch_tokens, ranks.n)[
        ranks.index
    ]:
        batch = packing.pack(*zip(*(examples[i] for i in group or [0])), device=ranks.device)
        with torch.no_grad(), autocast(cfg, ranks.mesh is not None):
            logp = sharding.score(model, batch)
        of_row = torch.zeros(len(batch.lengths), device=logp.device).index_add(0, batch.row, logp)
        for i, value in zip(group, of_row.tolist()):
            sums[i] = value
    sums = processes.sum_over_ranks(sums, ranks)
    return sorted(range(len(examples)), key=lambda i: -sums[i] / counts[i])


def main(cfg):
    """Fine-tune and save. Returns the log rows of the steps taken now."""
    settings.check_positive(
        cfg,
        "epochs",
        "batch_rows",
        "micro_batch_tokens",
        "max_length",
        "lr",
        "clip",
        "save_every",
        "turns",
        "bad_steps",
        "tp",
    )
    if cfg.plan:
        return plan.of_rows(
            cfg,
            encode(read_traces(cfg.data), loading.load_tokenizer(cfg.model), cfg, cfg.max_length)[
                0
            ],
        )
    ranks = processes.join_ranks(cfg.device, cfg.tp, shards=True)
    if ranks.mesh is not None and cfg.muon_lr:
        raise BadInput("--muon-lr needs whole matrices: not under torchrun")
    if ranks.mesh is None and cfg.offload:
        raise BadInput(
            "--offload is for shards: start with torchrun (also one process: --nproc-per-node 1)"
        )
    rows = read_traces(cfg.data)
    budget = runlog.flops_in(cfg.match_flops) if cfg.match_flops else math.inf
    identity = runlog.identity(
        cfg, FREE, data=cfg.data, model=cfg.model, match_flops=cfg.match_flops
    )
    try:
        with runlog.sigterm() as asked_to_end:
            return train(cfg, ranks, rows, budget, identity, asked_to_end)
    except torch.OutOfMemoryError as error:
        raise BadInput(
            f"--micro-batch-tokens {cfg.micro_batch_tokens}: not enough memory; fewer tokens, --recompute, "
            "--adam-dtype bf16, more ranks under torchrun or --offload; the last checkpoint is kept"
        ) from error
    except (OSError, SafetensorError) as error:
        raise (
            error if isinstance(error, BrokenPipeError) else BadInput(f"--out {cfg.out}: {error}")
        ) from error


def train(cfg, ranks, rows, budget, identity, asked_to_end):
    """The run itself; see main. budget: floating-point operations; asked_to_end: filled by SIGTERM."""
    say = print if ranks.leads else (lambda line: None)
    model, tokenizer = sharding.load_to_train(
        cfg.model, ranks, cfg.dtype == "bf16", cfg.offload, cfg.recompute, cfg.compile
    )
    model.requires_grad_(True)
    optimizers = make_optimizers(
        model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay, cfg.muon_lr, cfg.adam_dtype
    )
    start = resume(cfg, identity, model, optimizers)
    if start is None:
        return []
    examples, counts = encode(rows, tokenizer, cfg, models.context_length(model))
    lengths = [len(ids) for ids, _ in examples]
    order, kept_order = None, Path(cfg.out) / "order.json"
    if cfg.order == "easy":
        order = (
            read_rows(kept_order)[0]["order"] if start else easy_first(model, examples, cfg, ranks)
        )
        if ranks.leads and not start:
            write_rows(kept_order, [{"order": order}])
    flops = [3 * models.forward_flops(model, [length]) for length in lengths]
    epochs = cfg.epochs if budget == math.inf else math.ceil(budget / sum(flops))
    steps = plan_steps(lengths, epochs, cfg.batch_rows, cfg.batch_tokens, cfg.seed, order)
    spent = list(itertools.accumulate(sum(flops[i] for i in step) for step in steps))
    steps = steps[: 1 + bisect.bisect_left(spent, budget)]
    n_tokens, n_trained_on = sum(lengths), sum(lengths[i] for step in steps for i in step)
    say(
        f"{counts['rows']} rows, {counts['cut']} cut, {counts['dropped']} dropped; {n_tokens} tokens an epoch, "
        f"{sum(sum(trained) for _, trained in examples) / n_tokens:.0%} of them trained; {len(steps)} steps"
        + (f", {n_trained_on / len(steps) / cfg.batch_tokens:.1%} full" if cfg.batch_tokens else "")
    )

    log = (
        runlog.Log(Path(cfg.out) / "log.jsonl", start, len(steps), cfg.print_every)
        if ranks.leads
        else None
    )
    history, n_bad, peak = [], 0, peak_flops(ranks.device)
    bar = tqdm(
        range(start, len(steps)),
        initial=start,
        total=len(steps),
        disable=None if ranks.leads else True,
    )
    for number in bar:
        began = time.perf_counter()
        chosen = [examples[i] for i in steps[number]]
        n_trained = sum(sum(trained[1:]) for _, trained in chosen)
        shortest, longest = (
            min(range(len(chosen)), key=lambda i: len(chosen[i][0])),
            max(len(ids) for ids, _ in chosen),
        )
        if cfg.padded:
            chosen = [
                (ids + ids[-1:] * (longest - len(ids)), trained.ljust(longest, b"\0"))
                for ids, trained in chosen
            ]
        loss = 0.0
        for group in deal([len(ids) for ids, _ in chosen], cfg.micro_batch_tokens, ranks.n)[
            ranks.index
        ]:
            batch = packing.pack(
                *zip(*(chosen[i] for i in group or [shortest])), device=ranks.device
            )
            with autocast(cfg, ranks.mesh is not None):
                logp = sharding.score(model, batch)  # (N,)
            part = -logp.sum() / n_trained
            if not group:
                part = part * 0  # nothing left for this rank, but the others need its shards
            (part * ranks.n).backward()  # FSDP takes the mean over ranks
            loss += part.item()
        loss = processes.sum_over_ranks(loss, ranks)
        scale = lr_at(number, len(steps), 1.0, cfg.warmup, cfg.schedule, cfg.hold, cfg.lr_floor)
        norm = update(model, optimizers, cfg.clip, scale if math.isfinite(loss) else math.nan)
        seconds = time.perf_counter() - began
        is_bad = not math.isfinite(loss + norm)
        n_bad = n_bad + 1 if is_bad else 0
        computed = sum(flops[i] for i in steps[number])
        values = {
            "loss": None if is_bad else loss,
            "lr": cfg.lr * scale,
            "grad_norm": None if is_bad else norm,
            "n_trained": n_trained,
            "tok_s": sum(lengths[i] for i in steps[number]) / seconds,
            "memory_gb": memory_gb(ranks.device),
        }
        if peak:
            values["mfu"] = computed / seconds / (peak * ranks.n * cfg.tp)
        history.append({"step": number + 1, **values})
        if log:
            log(**history[-1])
        if n_bad == cfg.bad_steps:
            bad_step = Path(cfg.out) / "bad_step.jsonl"
            if ranks.leads:
                write_rows(
                    bad_step,
                    [
                        {"ids": list(ids), "trained": list(trained), "text": tokenizer.decode(ids)}
                        for ids, trained in chosen
                    ],
                )
            raise BadInput(
                f"step {number + 1}: no finite loss and gradient {n_bad} times in a row; the rows of this step "
                f"are in {bad_step}"
            )
        # so that all ranks end after the same step
        n_asked = processes.sum_over_ranks(len(asked_to_end), ranks)
        if number + 1 == len(steps):
            break
        if n_asked or (number + 1) % cfg.save_every == 0:
            save_checkpoint(cfg.out, model, optimizers, number + 1, identity)
        if n_asked:
            say(f"SIGTERM: stopped after step {number + 1}; the same command continues")
            raise SystemExit(143)
    if ranks.leads:
        lines = (Path(cfg.out) / "log.jsonl").read_text().splitlines()
        counts["skipped"] = sum(json.loads(line)["loss"] is None for line in lines)
        ledger = [{"phase": "train", "tokens": n_trained_on, "flops": spent[len(steps) - 1]}]
        if order:
            ledger.insert(0, {"phase": "order", "tokens": n_tokens, "flops": sum(flops) // 3})
        write_rows(Path(cfg.out) / "flops.jsonl", ledger)
        if cfg.plot:
            runlog.plot_loss(cfg.out)
        kept_order.unlink(missing_ok=True)
    finish(cfg, model, tokenizer, identity, n_steps=len(steps), n_tokens=n_trained_on, **counts)
    return history


if __name__ == "__main__":
    settings.cli(main, Config)
