"""Training, as sft.py and grpo.py share it: optimizers, learning rate, one update, where a run stands, how it ends."""

import json
import math
import resource
import shutil
from pathlib import Path

import torch

from engine import checkpoints, processes, runlog, sharding
from engine.checkpoints import load_checkpoint, saved_checkpoints
from engine.published import GPUS
from engine.rows import BadInput


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
    shape = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[schedule]
    return peak * (floor + (1 - floor) * shape)


def make_optimizers(model, lr, betas, weight_decay, muon_lr=0.0, adam_dtype="fp32"):
    """AdamW with weight decay on matrices only; with muon_lr, Muon for the hidden matrices. `update` sets the rates."""
    embeddings = {id(model.get_output_embeddings().weight), id(model.get_input_embeddings().weight)}
    parts = sharding.parts(model)  # of a sharded model this rank's part of each weight
    hidden = {
        name for name, p in model.named_parameters() if p.ndim == 2 and id(p) not in embeddings
    }
    matrices = [part for name, part in parts.items() if part.requires_grad and name in hidden]
    others = [part for name, part in parts.items() if part.requires_grad and name not in hidden]
    groups = [{"params": others, "weight_decay": 0.0}]
    optimizers = []
    if muon_lr:
        optimizers.append(torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay))
    else:
        groups.insert(0, {"params": matrices, "weight_decay": weight_decay})
    # On a GPU one kernel does the step: the other way there makes a copy of all weights on its way.
    options = {} if adam_dtype == "bf16" else {"fused": others[0].is_cuda or None}
    optimizers.append(
        (AdamWBf16 if adam_dtype == "bf16" else torch.optim.AdamW)(
            groups, lr=lr, betas=betas, **options
        )
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


class AdamWBf16(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101, Algorithm 2) with both moments in bfloat16, as DeepSeek-V3 keeps
    them (arXiv 2412.19437, §3.3.3). bfloat16 moves in steps of 1/256: beta2 past 0.99 would round small changes away."""

    def __init__(self, groups, lr, betas, eps=1e-8):
        super().__init__(groups, dict(lr=lr, betas=betas, eps=eps, weight_decay=0.0))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {
                        "step": torch.zeros(()),
                        "exp_avg": torch.zeros_like(p, dtype=torch.bfloat16),
                        "exp_avg_sq": torch.zeros_like(p, dtype=torch.bfloat16),
                    }
                state["step"] += 1
                mean = state["exp_avg"].float().lerp_(p.grad, 1 - beta1)
                square = state["exp_avg_sq"].float().lerp_(p.grad.square(), 1 - beta2)
                state["exp_avg"].copy_(mean)
                state["exp_avg_sq"].copy_(square)
                n = state["step"].item()
                p.mul_(1 - lr * group["weight_decay"])
                p.addcdiv_(
                    mean, (square / (1 - beta2**n)).sqrt_().add_(eps), value=-lr / (1 - beta1**n)
                )


def update(model, optimizers, clip, scale):
    """Clip the gradient norm, take one step at `scale` times each group's peak rate, clear the gradients.

    Returns the norm before clipping. A gradient that is not finite is not applied; nor is any when `scale` is NaN.
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


def autocast(cfg, sharded=False):
    """Matrix products in bfloat16; shards are gathered as such anyway."""
    return torch.autocast(
        torch.device(cfg.device).type, torch.bfloat16, enabled=cfg.dtype == "bf16" and not sharded
    )


def resume(cfg, identity, model, optimizers, reference=None):
    """Find out where a run stands -> its last saved step, 0 for a new run, None when it is complete.

    Raises BadInput when --out holds another run, unless --overwrite, which removes that run.
    """
    out, ranks = Path(cfg.out), sharding.ranks_of(model)
    saved, done = saved_checkpoints(out), out / "training.json"
    theirs = None
    if done.is_file():
        theirs = json.loads(done.read_text())["identity"]
    elif saved:
        step, theirs, _ = checkpoints.read_state(saved[0])
    if theirs is not None and theirs != identity:
        if not cfg.overwrite:
            raise BadInput(
                f"--out {out} holds another run ({runlog.difference(identity, theirs)}); "
                "choose another --out, or --overwrite to replace it"
            )
        if any(
            Path(path).resolve().is_relative_to(out.resolve()) for path in (cfg.model, cfg.data)
        ):
            raise BadInput(f"--overwrite would delete --model or --data, which lie in --out {out}")
        processes.barrier(ranks)  # all have seen what is about to go
        if ranks.leads:
            shutil.rmtree(out)
        processes.barrier(ranks)
        theirs = None
    if theirs is None:
        return 0
    say = print if ranks.leads else (lambda line: None)
    if done.is_file():
        say(f"{out}: this run is complete")
        return None
    load_checkpoint(saved[0], model, optimizers, reference)
    say(f"{out}: continuing after step {step}")
    return step


def finish(cfg, model, tokenizer, identity, **totals):
    """Save the model directory; training.json, written last, marks the run complete. The checkpoint goes."""
    sharding.save(model, tokenizer, cfg.out)
    if sharding.ranks_of(model).leads:
        runlog.save_config(cfg, Path(cfg.out) / "training.json", identity=identity, **totals)
        for path in saved_checkpoints(cfg.out):
            shutil.rmtree(path)


def memory_gb(device):
    """The most that this process has held so far, on a GPU there, in units of 10^9 bytes."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    # Linux counts in KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def peak_flops(device):
    """Floating-point operations per second that the maker of a GPU states for bfloat16, or None."""
    name = (
        torch.cuda.get_device_name(device).replace(" ", "")
        if torch.device(device).type == "cuda"
        else ""
    )
    return next((1e12 * gpu[1] for kind, gpu in GPUS.items() if kind.split("-")[0] in name), None)


def move_state(optimizers, device):
    """Adam's moments to the host while the device has other use for the memory, or back."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for slot, value in state.items():
                state[slot] = value.to(device) if value.ndim else value
