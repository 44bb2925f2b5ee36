"""Supervised fine-tuning of a reasoning model: the likelihood of curated traces, without padding.

    loss = - 1/n Σ_rows Σ_t log p(token_t | tokens before it),   n = trained tokens of the whole
    step

Rows are packed side by side into one long row per micro-batch. Attention and positions stay inside
each row, so packing changes nothing but speed. The sum is divided by the count of the whole step,
so gradient accumulation gives the same gradient for any micro-batch size.

Source: s1 (arXiv 2501.19393) §D for the text format, the mask and the defaults below. LIMO and
UniReason are other values of the same flags. Departs from s1 in:
1. Rows are packed; s1 pads them to 32k tokens.
2. The mean is over the tokens of the step, not the mean of per-device means.
3. Master weights are float32; s1 trains in bfloat16.
4. A row ends with the end-of-sequence token. The line break that the chat template puts after it is
   not trained.

A laptop, 20 seconds (after recipes/tiny.sh; the loss falls to 0.16):
    python sft.py --model data/tiny_base --data out/tiny/seed0/traces-s1.jsonl --out out/sft
        --format think --epochs 12 --batch-rows 32 --lr 2e-3
s1 at 0.5B:
    python sft.py --model Qwen/Qwen2.5-0.5B-Instruct --data out/s1k.jsonl --out out/s1-0.5b
        --dtype bf16
s1 at 32B on a node (weights in shards, the rows of a step dealt to the processes; same result):
    torchrun --standalone --nproc-per-node 8 -- sft.py --model Qwen/Qwen2.5-32B-Instruct
        --data out/s1k.jsonl
        --out out/s1-32b --dtype bf16 --recompute --micro-batch-tokens 16384

--eval-data has held-out rows; their loss is `eval_loss` in the log. Evaluation leaves the training
as it is, to the bit.

Reads trace rows: question, thinking, response; optional history of earlier turns; lists for several
responses of one question. Writes a Hugging Face model directory with log.jsonl (a line per step),
loss.png, flops.jsonl (what was computed) and training.json (the settings). A run that was killed
continues from its last checkpoint with the same command, with any number of processes.
"""

import bisect
import dataclasses
import itertools
import math
import time
from array import array
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

from data.load import read_traces
from engine import (
    dealing,
    fitting,
    loading,
    machine,
    packing,
    processes,
    runlog,
    settings,
    sharding,
    training,
)
from engine import model as models
from engine.format import DATE, FORMATS, check_history, with_system
from engine.rows import BadInput, is_text, read_rows, write_rows
from engine.training import lr_at


@dataclass(frozen=True, kw_only=True)
class Config(settings.Training):
    data: str  # trace rows: .jsonl, a directory, or a data set by its name (data/load.py)
    # text of a trace, see engine/format.py
    format: Literal["s1", "s1-steps", "think", "r1", "plain"] = "s1"
    system: str = ""  # system prompt of rows without one
    date: str = DATE  # what a chat template that writes a date takes for today
    special_in_text: bool = False  # special tokens that a row's texts name are special, not text
    train_on: Literal["completion", "all"] = "completion"  # "all" trains on the prompt too
    turns: int = 1  # assistant turns that are trained: the last ones, earlier ones in `history`

    epochs: int = 5  # s1: 5, LIMO: 15
    batch_rows: int = 16  # rows per optimizer step; s1: 16
    batch_tokens: int = 0  # if set, rows per step are those that best fill this many tokens instead
    max_length: int = 32768  # longest row in tokens
    overlong: Literal["cut", "drop"] = "cut"  # what happens to longer rows (counted either way)
    # easy: likeliest to the base model first, each epoch
    order: Literal["shuffled", "easy"] = "shuffled"
    # flops.jsonl of another run: stop where as much is computed, whatever --epochs
    match_flops: str | None = None

    eval_data: str | None = None  # held-out trace rows: their mean loss per trained token is logged
    # steps between evaluations; 0: after every epoch. The last step is followed by one, too
    eval_every: int = 0

    lr: float = 1e-5  # peak; s1: 1e-5, LIMO: 5e-6, UniReason: 5e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # from the peak to --lr-floor
    warmup: float = 0.05  # share of the steps, linear from 0
    hold: float = 0.0  # share of the steps that stay at the peak before decay begins
    lr_floor: float = 0.0  # final learning rate as a share of the peak
    weight_decay: float = 1e-4  # of matrices; norms, biases and embeddings have none
    muon_lr: float = 0.0  # if set, Muon at this rate for the hidden matrices; AdamW for the rest

    seed: int = 42  # order of the rows
    save_every: int = 100  # steps between checkpoints; see also --save-minutes
    compile: bool = False  # torch.compile each layer; worth its minutes on a GPU
    print_every: int = 1  # steps between lines on the terminal; log.jsonl has them all


# May differ between a run and its continuation.
FREE = settings.FREE | {"print_every", "compile", "eval_data", "eval_every"}
BAD_STEPS = 3  # steps in a row without a finite loss and gradient that end the run


# ---------------------------------------------------------------- rows to batches


def encode(rows, tokenizer, cfg, context):
    """Trace rows -> (examples, counts). Cuts or drops rows longer than --max-length or the context.

    examples: (array of token ids, bytes: 1 where trained) per row; compact, since a list of int
    takes 36 bytes a token. A row whose completion would be cut away is dropped: it would train
    nothing. Raises BadInput naming the row.
    """
    form = FORMATS[cfg.format].fit(tokenizer, cfg.date, cfg.special_in_text)
    form.check(tokenizer)
    rows = with_system(rows, cfg.system)
    longest = min(cfg.max_length, context)
    examples, counts = [], {"rows": len(rows), "cut": 0, "dropped": 0}
    for number, row in enumerate(tqdm(rows, desc="tokenizing", disable=len(rows) < 20000), 1):
        where = f"{cfg.data}: row {number}"
        check_row(row, where)
        try:
            ids, trained = form.training_ids(tokenizer, row, cfg.turns)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
        if cfg.train_on == "all":
            trained = [True] * len(ids)
        if len(ids) > longest:
            # The first token is predicted by nothing, so it is never trained.
            if cfg.overlong == "drop" or not any(trained[1:longest]):
                counts["dropped"] += 1
                continue
            counts["cut"] += 1
        examples.append((array("i", ids[:longest]), bytes(trained[:longest])))
    if not examples:
        raise BadInput(f"{cfg.data}: no row is left within --max-length {longest}")
    return examples, counts


def check_row(row, where):
    """Raise BadInput, beginning with `where`, for a row that cannot be turned into text."""
    for field in ("question", "thinking", "response"):
        if not is_text(row.get(field) or ""):
            raise BadInput(f"{where}: '{field}' is not a text")
    if not ((row.get("thinking") or "") + row["response"]).strip():
        raise BadInput(f"{where}: empty completion")
    try:
        check_history(row.get("history") or [])
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def plan_steps(lengths, epochs, batch_rows, batch_tokens, seed, order=None):
    """Row indices of every optimizer step of the whole run, from the seed alone.

    So resuming needs only a step number. lengths: tokens per row. The last step of an epoch may be
    smaller; no row is left out. With batch_tokens an epoch is packed best-fit into steps of that
    many tokens, which come in random order. order: the rows of every epoch instead of a shuffle; a
    step then ends where the next row does not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for _ in range(epochs):
        rows = order or torch.randperm(len(lengths), generator=generator).tolist()
        if batch_tokens and order is None:
            packs = packing.fill_bins([lengths[i] for i in rows], batch_tokens)
            for k in torch.randperm(len(packs), generator=generator).tolist():
                steps.append([rows[j] for j in packs[k]])
        else:
            steps += split_in_order(rows, lengths, batch_rows, batch_tokens)
    return steps


def split_in_order(rows, lengths, batch_rows, batch_tokens):
    """Cut a list of rows into steps of batch_rows rows, or batch_tokens tokens if that is set."""
    steps, step, n_tokens = [], [], 0
    for i in rows:
        if batch_tokens:
            is_full = n_tokens + lengths[i] > batch_tokens
        else:
            is_full = len(step) == batch_rows
        if step and is_full:
            steps.append(step)
            step, n_tokens = [], 0
        step.append(i)
        n_tokens += lengths[i]
    return [*steps, step]


# ---------------------------------------------------------------- the loss


def accumulate_gradient(model, examples, cfg, ranks):
    """Add the gradient of the loss of one step, micro-batch by micro-batch -> the loss.

    examples: (ids, trained) of every row of the step, on every rank; each rank computes its share.
    """
    # The first token of a row is predicted by nothing.
    n_trained = sum(sum(trained[1:]) for _, trained in examples)
    lengths = [len(ids) for ids, _ in examples]
    loss = 0.0
    for rows, counts in dealing.micro_batches(lengths, cfg.micro_batch_tokens, ranks):
        ids, trained = zip(*(examples[i] for i in rows))
        batch = packing.pack(ids, trained, device=ranks.device)
        with training.autocast(cfg, ranks):
            logp = sharding.score(model, batch)  # (N,) of the trained tokens
        # Divided by the count of the whole step: micro-batches add up to its gradient.
        part = -logp.sum() / n_trained
        if not counts:
            # This rank had no rows left, but must still take part in the collective.
            part = part * 0
        (part * ranks.n).backward()  # FSDP takes the mean over ranks
        loss += part.item()
    return processes.sum_over_ranks(loss, ranks)


def order_easy_first(model, examples, cfg, ranks):
    """Rows by the mean log-probability of their trained tokens under the model, highest first."""
    sums = logp_of_rows(model, examples, cfg, ranks)
    means = [value / max(1, sum(trained[1:])) for value, (_, trained) in zip(sums, examples)]
    return sorted(range(len(examples)), key=lambda i: -means[i])


def held_out_loss(model, examples, cfg, ranks):
    """The loss of rows that are not trained on: the mean over all their trained tokens."""
    counts = [sum(trained[1:]) for _, trained in examples]
    return -sum(logp_of_rows(model, examples, cfg, ranks)) / sum(counts)


def logp_of_rows(model, examples, cfg, ranks):
    """The log-probability of each row's trained tokens -> a list, the same on every rank."""
    sums = [0.0] * len(examples)
    lengths = [len(ids) for ids, _ in examples]
    for rows, counts in dealing.micro_batches(lengths, cfg.micro_batch_tokens, ranks):
        batch = packing.pack(*zip(*(examples[i] for i in rows)), device=ranks.device)
        with torch.no_grad(), training.autocast(cfg, ranks):
            logp = sharding.score(model, batch)
        of_row = torch.zeros(len(rows), device=logp.device).index_add(0, batch.row, logp)
        if counts:
            for i, value in zip(rows, of_row.tolist()):
                sums[i] = value
    return processes.sum_over_ranks(sums, ranks)


def evaluation_steps(steps, n_rows, every):
    """Steps (0, 1, ...) after which held-out rows are scored -> set; see --eval-every.

    steps: row indices of every step. A step does not reach into the next epoch, so an epoch of
    n_rows is over where the rows so far are a multiple of that.
    """
    seen = itertools.accumulate(map(len, steps))
    if every:
        due = set(range(every - 1, len(steps), every))
    else:
        due = {step for step, n in enumerate(seen) if n % n_rows == 0}
    return due | {len(steps) - 1}


# ---------------------------------------------------------------- the run


def main(cfg):
    """Fine-tune and save. Returns the log rows of the steps taken now."""
    check(cfg)
    if cfg.plan:
        from engine import plan

        tokenizer = loading.load_tokenizer(cfg.model)
        examples, _ = encode(read_traces(cfg.data), tokenizer, cfg, cfg.max_length)
        return plan.of_rows(cfg, examples)
    cfg = machine.on_device(cfg)
    ranks = training.join_to_train(cfg, cfg.tp)
    if ranks.mesh is not None and cfg.muon_lr:
        raise BadInput("--muon-lr needs whole matrices: not under torchrun")
    rows = read_traces(cfg.data)
    held_out = read_traces(cfg.eval_data) if cfg.eval_data else []
    flags = f"--micro-batch-tokens {cfg.micro_batch_tokens}"
    relief = (
        "fewer tokens, --recompute, --lora 16, --adam-dtype bf16, more ranks under torchrun or "
        "--offload"
    )
    with training.failures_in_one_line(cfg, flags, relief), runlog.locked(cfg.out):
        return train(cfg, ranks, rows, held_out)


def check(cfg):
    """Raise BadInput for settings out of range."""
    settings.check_training(cfg)
    if cfg.lora and cfg.tp > 1:
        raise BadInput("--tp: with --lora every rank needs whole matrices; take --tp 1")
    if cfg.lora and cfg.muon_lr:
        raise BadInput("--muon-lr: not with --lora, whose matrices are factors of another matrix")
    settings.check_positive(cfg, "epochs", "batch_rows", "max_length", "turns")
    settings.check_range(cfg, 0, 1, "hold", "lr_floor")
    settings.check_range(cfg, 0, math.inf, "muon_lr", "batch_tokens", "print_every", "eval_every")
    if cfg.eval_every and not cfg.eval_data:
        raise BadInput("--eval-every: needs --eval-data, the rows to evaluate")


def train(cfg, ranks, rows, held_out):
    """Load, loop over the steps, save; see main."""
    flops_budget = runlog.flops_in(cfg.match_flops) if cfg.match_flops else math.inf
    identity = runlog.identity(
        cfg, FREE, data=cfg.data, model=cfg.model, match_flops=cfg.match_flops
    )
    model, tokenizer = training.load_model(cfg, ranks, cfg.compile)
    optimizers = training.make_optimizers(
        model, cfg.lr, (cfg.beta1, cfg.beta2), cfg.weight_decay, cfg.muon_lr, cfg.adam_dtype
    )
    run = training.Run(cfg, identity, model, optimizers)
    if run.is_complete:
        if ranks.leads:  # a kill at the very end of the run left it
            (run.out / "order.json").unlink(missing_ok=True)
        return []
    examples, counts = encode(rows, tokenizer, cfg, models.context_length(model))
    form = FORMATS[cfg.format].fit(tokenizer, cfg.date, cfg.special_in_text)
    run.say(form.fitted.describe())
    cfg = fitting.with_micro_batch(cfg, run, max(len(ids) for ids, _ in examples))
    work = plan_work(run, examples, cfg, flops_budget)
    run.say(describe(work, examples, counts, cfg))
    held_out = encode_held_out(run, held_out, tokenizer)
    due = evaluation_steps(work.steps, len(examples), cfg.eval_every) if held_out else ()

    n_bad, peak = 0, training.peak_flops(ranks.device)
    for step in run.steps(len(work.steps), cfg.print_every):
        began = time.perf_counter()
        batch = [examples[i] for i in work.steps[step]]
        loss = accumulate_gradient(model, batch, cfg, ranks)
        scale = lr_at(step, len(work.steps), 1.0, cfg.warmup, cfg.schedule, cfg.hold, cfg.lr_floor)
        # A loss that is not finite has no gradient to apply.
        norm = training.update(
            model, optimizers, cfg.clip, scale if math.isfinite(loss) else math.nan
        )
        seconds = time.perf_counter() - began

        is_bad = not math.isfinite(loss + norm)
        values = {
            "loss": None if is_bad else loss,
            "lr": cfg.lr * scale,
            "grad_norm": None if is_bad else norm,
            "n_trained": sum(sum(trained[1:]) for _, trained in batch),
            "tok_s": sum(len(ids) for ids, _ in batch) / seconds,
            "memory_gb": training.memory_gb(ranks.device),
        }
        if peak:
            values["mfu"] = work.flops[step] / seconds / (peak * ranks.n * cfg.tp)
        if step in due:
            values["eval_loss"] = held_out_loss(model, held_out, cfg, ranks)
        run.log(step, **values)
        n_bad = n_bad + 1 if is_bad else 0
        if n_bad == BAD_STEPS:
            refuse_bad_step(run, step, batch, tokenizer)

    if ranks.leads:
        counts["skipped"] = sum(row["loss"] is None for row in run.history)
        write_rows(run.out / "flops.jsonl", work.ledger)
        runlog.plot_loss(cfg.out)
    run.finish(tokenizer, n_steps=len(work.steps), n_tokens=work.n_tokens, **counts)
    if ranks.leads:  # not earlier: a save that is cut short needs it again
        (run.out / "order.json").unlink(missing_ok=True)
    return run.taken


@dataclass(frozen=True)
class Work:
    """All steps of a run and what they cost."""

    steps: list  # row indices of each step
    flops: list  # of each step, forward and backward
    n_tokens: int  # that all steps read
    ledger: list  # rows of flops.jsonl


def plan_work(run, examples, cfg, flops_budget):
    """Plan every step of the run -> Work. With --match-flops it ends when the budget is used up."""
    lengths = [len(ids) for ids, _ in examples]
    row_flops = [models.training_flops(run.model, [length]) for length in lengths]
    epochs = cfg.epochs
    if flops_budget < math.inf:
        epochs = math.ceil(flops_budget / sum(row_flops))
    order = order_of_rows(run, examples, cfg)
    steps = plan_steps(lengths, epochs, cfg.batch_rows, cfg.batch_tokens, cfg.seed, order)
    flops = [sum(row_flops[i] for i in step) for step in steps]
    spent = list(itertools.accumulate(flops))
    steps = steps[: 1 + bisect.bisect_left(spent, flops_budget)]

    n_tokens = sum(lengths[i] for step in steps for i in step)
    ledger = [{"phase": "train", "tokens": n_tokens, "flops": spent[len(steps) - 1]}]
    if order:
        flops_of_order = models.forward_flops(run.model, lengths)
        forward = {"phase": "order", "tokens": sum(lengths), "flops": flops_of_order}
        ledger.insert(0, forward)
    return Work(steps, flops, n_tokens, ledger)


def order_of_rows(run, examples, cfg):
    """The rows of every epoch with --order easy, else None.

    Written down, for a run that continues has another model than the one that it began with.
    """
    if cfg.order != "easy":
        return None
    path = run.out / "order.json"
    if run.start:
        return read_rows(path)[0]["order"]
    order = order_easy_first(run.model, examples, cfg, run.ranks)
    if run.ranks.leads:
        write_rows(path, [{"order": order}])
    return order


def describe(work, examples, counts, cfg):
    """One line that says what will be trained."""
    n_tokens = sum(len(ids) for ids, _ in examples)
    n_trained = sum(sum(trained) for _, trained in examples)
    line = (
        f"{counts['rows']} rows, {counts['cut']} cut, {counts['dropped']} dropped; "
        f"{n_tokens} tokens an epoch, {n_trained / n_tokens:.0%} of them trained; "
        f"{len(work.steps)} steps"
    )
    if cfg.batch_tokens:
        line += f", {work.n_tokens / len(work.steps) / cfg.batch_tokens:.1%} full"
    return line


def encode_held_out(run, rows, tokenizer):
    """Rows of --eval-data -> examples, as `encode` makes them of --data."""
    if not rows:
        return []
    cfg = dataclasses.replace(run.cfg, data=run.cfg.eval_data)
    examples, counts = encode(rows, tokenizer, cfg, models.context_length(run.model))
    run.say(
        f"{cfg.eval_data}: {len(examples)} held-out rows, {counts['cut']} cut, "
        f"{counts['dropped']} dropped"
    )
    return examples


def refuse_bad_step(run, step, batch, tokenizer):
    """Write the rows of a step without a finite loss to a file, and raise BadInput."""
    path = run.out / "bad_step.jsonl"
    if run.ranks.leads:
        rows = [
            {"ids": list(ids), "trained": list(trained), "text": tokenizer.decode(ids)}
            for ids, trained in batch
        ]
        write_rows(path, rows)
    raise BadInput(
        f"step {step + 1}: no finite loss and gradient {BAD_STEPS} times in a row; "
        f"the rows of this step are in {path}"
    )


if __name__ == "__main__":
    settings.cli(main, Config)
