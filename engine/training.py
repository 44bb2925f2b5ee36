"""Training, as sft.py and grpo.py share it: optimizers, one update, the run loop.

A run loop resumes from the last checkpoint in --out, logs every step, saves a checkpoint when one
is due, and ends cleanly on SIGTERM:

    run = Run(cfg, identity, model, optimizers)
    for step in run.steps(n_steps):
        ...
        run.log(step, loss=loss)
    run.finish(tokenizer)
"""

import json
import math
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from engine import loading, lora, machine, processes, runlog, sharding, trackers
from engine.checkpoints import (
    check_sums,
    load_checkpoint,
    read_state,
    save_checkpoint,
    saved_checkpoints,
)
from engine.published import GPUS
from engine.rows import BadInput

# ---------------------------------------------------------------- the optimizers


def lr_at(step, n_steps, peak, warmup, schedule="cosine", hold=0.0, floor=0.0):
    """Learning rate of step 0 ... n_steps - 1.

    Linear warm-up from 0 over ceil(warmup · n_steps) steps, then hold until a share `hold` of the
    steps is over, then decay to floor · peak. As in transformers' schedules, step s of a decay over
    m steps has progress s / m: the final value belongs to step n_steps, which is never taken.
    A run of a single step has no warm-up: its only step would train at rate 0.
    """
    n_warm = math.ceil(warmup * n_steps) if n_steps > 1 else 0
    if step < n_warm:
        return peak * step / n_warm
    n_held = max(n_warm, round(hold * n_steps))
    progress = max(0, step - n_held) / max(1, n_steps - n_held)
    if schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    elif schedule == "linear":
        shape = 1 - progress
    else:
        shape = 1.0
    return peak * (floor + (1 - floor) * shape)


def make_optimizers(model, lr, betas, weight_decay, muon_lr=0.0, adam_dtype="fp32"):
    """AdamW that decays hidden matrices only; with muon_lr, Muon for those matrices instead.

    Returns a list of optimizers; each parameter group remembers its peak rate, which `update`
    scales.
    """
    embeddings = {
        id(model.get_input_embeddings().weight),
        id(model.get_output_embeddings().weight),
    }
    hidden = {
        name for name, p in model.named_parameters() if p.ndim == 2 and id(p) not in embeddings
    }
    # Of a model in shards, an optimizer steps this rank's part of each weight.
    parts = {name: part for name, part in sharding.parts(model).items() if part.requires_grad}
    matrices = [part for name, part in parts.items() if name in hidden]
    others = [part for name, part in parts.items() if name not in hidden]

    optimizers = []
    groups = [{"params": others, "weight_decay": 0.0}]
    if muon_lr:
        optimizers.append(torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay))
    else:
        groups.insert(0, {"params": matrices, "weight_decay": weight_decay})
    if adam_dtype == "bf16":
        optimizers.append(AdamWBf16(groups, lr=lr, betas=betas))
    else:
        # On a GPU a single kernel takes the step; the unfused step there makes a copy of all
        # weights.
        fused = (matrices + others)[0].is_cuda or None
        optimizers.append(torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


class AdamWBf16(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101, Algorithm 2) with both moments in bfloat16.

    DeepSeek-V3 keeps its moments so (arXiv 2412.19437, §3.3.3). bfloat16 moves in steps of 1/256:
    a beta2 above 0.99 would round small changes away.
    """

    def __init__(self, groups, lr, betas, eps=1e-8):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group)

    def _step_one(self, p, group):
        lr, (beta1, beta2) = group["lr"], group["betas"]
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(p, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.bfloat16)
        state["step"] += 1
        # The arithmetic is in float32; only what is kept is rounded.
        mean = state["exp_avg"].float().lerp_(p.grad, 1 - beta1)
        square = state["exp_avg_sq"].float().lerp_(p.grad.square(), 1 - beta2)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        n = state["step"].item()
        p.mul_(1 - lr * group["weight_decay"])
        deviation = (square / (1 - beta2**n)).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, deviation, value=-lr / (1 - beta1**n))


def update(model, optimizers, clip, scale):
    """Clip the gradient norm, step at `scale` times each group's peak rate, clear the gradients.

    Returns the norm before clipping. A gradient that is not finite is not applied; neither is any
    gradient when `scale` is NaN.
    """
    norm = sharding.clip_gradients(model, clip)
    if math.isfinite(norm) and not math.isnan(scale):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.step()
    for holder in (model, *optimizers):
        holder.zero_grad(set_to_none=True)
    return norm


def move_state(optimizers, device):
    """Move Adam's moments to the host, or back, while the device has other use for the memory.

    Step counts stay where they are: on a device, every step would wait to read them.
    """
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for slot, value in state.items():
                state[slot] = value.to(device) if value.ndim else value


def load_model(cfg, ranks, compiled=False):
    """Load --model to be trained as the settings say, see sharding.load_to_train."""
    return sharding.load_to_train(
        cfg.model,
        ranks,
        cfg.dtype == "bf16",
        cfg.offload,
        cfg.recompute,
        compiled,
        lora.shape_of(cfg),
    )


def autocast(cfg, ranks):
    """Matrix products in bfloat16 with --dtype bf16; shards are gathered in bfloat16 anyway."""
    kind = torch.device(ranks.device).type
    is_half = cfg.dtype == "bf16" and ranks.mesh is None
    return torch.autocast(kind, torch.bfloat16, enabled=is_half)


# ---------------------------------------------------------------- the run loop


class Run:
    """A training run in cfg.out: where it is, its log, its checkpoints, its end.

    start: the first step to take. is_complete: there is none. noted: what the last checkpoint noted
    beside the tensors. Raises BadInput when --out holds another run and --overwrite was not given.
    """

    def __init__(self, cfg, identity, model, optimizers, reference=None):
        """identity: settings and inputs that make two runs the same (runlog.identity).

        reference: a second model that changes during the run and is saved with it.
        """
        self.cfg, self.identity, self.out = cfg, identity, Path(cfg.out)
        self.model, self.optimizers, self.reference = model, optimizers, reference
        self.ranks = sharding.ranks_of(model)
        self.history = []  # a dict for each step; on the leading rank those before a kill, too
        self.log_file = self.trackers = None
        self.start, self.noted = self._find_start()
        self.is_complete = self.start is None

    def _find_start(self):
        """Find where the run in --out is -> (its last saved step, what it noted)."""
        saved, done = saved_checkpoints(self.out), self.out / "training.json"
        theirs, step, noted = None, 0, {}
        if self.out.exists() and not self.out.is_dir():
            raise BadInput(f"--out {self.out}: not a directory, in which a model could be saved")
        if done.is_file():
            theirs = runlog.earlier_identity(done, self.cfg.overwrite)
        elif saved:
            step, theirs, noted = read_state(saved[0])
        if theirs is not None and theirs != self.identity:
            self._remove_other_run(theirs)
            theirs = None
        if theirs is None:
            return 0, {}
        if done.is_file():
            self.say(f"{self.out}: this run is complete")
            if self.ranks.leads:
                self._remove_checkpoints()  # a kill between the last two lines of finish left one
            return None, {}
        check_sums(saved[0], noted, self.ranks)
        load_checkpoint(saved[0], self.model, self.optimizers, self.reference)
        self.say(f"{self.out}: continuing after step {step}")
        return step, noted

    def _remove_other_run(self, theirs):
        """Delete --out. Raises BadInput without --overwrite, or if an input is inside --out."""
        if not self.cfg.overwrite:
            raise BadInput(
                f"--out {self.out} holds another run ({runlog.difference(self.identity, theirs)}); "
                "choose another --out, or --overwrite to replace it"
            )
        for path in (self.cfg.model, self.cfg.data):
            if Path(path).resolve().is_relative_to(self.out.resolve()):
                raise BadInput(
                    f"--overwrite would delete --model or --data, which are inside --out {self.out}"
                )
        processes.barrier(self.ranks)  # every rank has read what will be deleted
        if self.ranks.leads:
            shutil.rmtree(self.out)
        processes.barrier(self.ranks)

    def say(self, line):
        """Print a line, once for all ranks; nothing for an empty one."""
        if line and self.ranks.leads:
            print(line, flush=True)

    def steps(self, n_steps, print_every=1, shown=None, note=dict):
        """Yield the steps that are left. After each one, save a checkpoint if it is due.

        note: () -> what a checkpoint notes beside weights and optimizer. shown: values of the log
        that are printed. SIGTERM ends the run after the step under way: with a checkpoint and
        status 143. A step counts as taken when the loop asks for the next one. Raises BadInput for
        a checkpoint of a step that this run does not have.
        """
        if self.start > 0 and self.start >= n_steps:
            raise BadInput(
                f"{saved_checkpoints(self.out)[0]}: this run has {n_steps} steps; "
                "delete it to start over"
            )
        if self.ranks.leads:
            path = self.out / "log.jsonl"
            self.log_file = runlog.Log(path, self.start, n_steps, print_every, shown)
            self.history = [
                json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
            ]
            self.trackers = trackers.Trackers(self.cfg, self.out, self.start)
        # A progress bar on a terminal, on the leading rank.
        bar = tqdm(total=n_steps, initial=self.start, disable=None if self.ranks.leads else True)
        saved_at = time.monotonic()
        with runlog.sigterm() as asked_to_end, bar:
            for step in range(self.start, n_steps):
                yield step
                bar.update()
                minutes = (time.monotonic() - saved_at) / 60
                # The sum over ranks, so that all of them save and end after the same step.
                ends, is_late = processes.sum_over_ranks(
                    [float(len(asked_to_end)), float(minutes >= self.cfg.save_minutes)], self.ranks
                )
                if step + 1 == n_steps:
                    return
                if ends or is_late or (step + 1) % self.cfg.save_every == 0:
                    self.save(step + 1, note())
                    saved_at = time.monotonic()
                if ends:
                    self.say(f"SIGTERM: stopped after step {step + 1}; the same command continues")
                    raise SystemExit(143)

    def log(self, step, **values):
        """Note the numbers of a step (0, 1, ...): in history, log.jsonl and on the terminal."""
        self.history.append({"step": step + 1, **values})
        if self.log_file:
            self.log_file(**self.history[-1])
            self.trackers.log(step + 1, values)

    @property
    def taken(self):
        """The log rows of the steps that this process took."""
        return [row for row in self.history if row["step"] > self.start]

    def save(self, n_taken, noted):
        """Save a checkpoint after so many steps."""
        save_checkpoint(
            self.out,
            self.model,
            self.optimizers,
            n_taken,
            self.identity,
            self.reference,
            micro_batch_tokens=self.cfg.micro_batch_tokens,
            **noted,
        )

    def finish(self, tokenizer, **totals):
        """Save the model directory and delete the checkpoint.

        training.json is written last: it marks the run as complete.
        """
        if hasattr(self.model, "lora"):
            # Not in --out itself: transformers would take the adapters for all that is there.
            sharding.save_adapters(self.model, self.cfg.model, self.out / "adapter")
        sharding.save(self.model, tokenizer, self.out, loading.DTYPES[self.cfg.save_dtype])
        if self.ranks.leads:
            path = self.out / "training.json"
            runlog.save_config(self.cfg, path, identity=self.identity, **totals)
            self._remove_checkpoints()
            self.trackers.close()

    def _remove_checkpoints(self):
        for folder in saved_checkpoints(self.out):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def moments_on_host(optimizers, device, enabled=True):
    """Keep Adam's moments in host memory while the device samples."""
    if enabled:
        move_state(optimizers, "cpu")
    yield
    if enabled:
        move_state(optimizers, device)


@contextmanager
def rounded_weights(model, dtype):
    """Round the weights to bfloat16 for sampling, if that is what training computes in.

    Afterwards the float32 weights are back.
    """
    with loading.rounded(model, torch.bfloat16 if dtype == "bf16" else None):
        yield


@contextmanager
def failures_in_one_line(cfg, flags, relief):
    """Turn running out of memory or a failed write into BadInput.

    flags: those that decide how much memory is needed, with their values; relief: what would help.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        message = f"{flags}: not enough memory; {relief}; the last checkpoint is kept"
        raise BadInput(message) from error
    except BrokenPipeError:  # `script | head`
        raise
    except (OSError, SafetensorError) as error:
        raise BadInput(f"--out {cfg.out}: {error}") from error


def join_to_train(cfg, tp=1):
    """Join the processes of torchrun for a model in shards -> processes.Ranks. Raises BadInput."""
    trackers.check(cfg)  # before minutes of loading
    ranks = processes.join_ranks(cfg.device, tp, shards=True)
    if ranks.mesh is None and cfg.offload:
        raise BadInput(
            "--offload is for shards: start with torchrun (one process: --nproc-per-node 1)"
        )
    return ranks


# ---------------------------------------------------------------- measured


def memory_gb(device):
    """The most memory that this process has held so far, in 10^9 bytes; on a GPU, there.

    None where the system does not say.
    """
    n_bytes = machine.peak_memory(device)
    return None if n_bytes is None else round(n_bytes / 1e9, 2)


def peak_flops(device):
    """Operations per second that the maker of a GPU states for bfloat16; None where unknown."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).replace(" ", "")
    for kind, gpu in GPUS.items():
        if kind.split("-")[0] in name:
            return 1e12 * gpu[1] if gpu[1] else None
    return None
