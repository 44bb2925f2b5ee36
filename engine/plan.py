"""Will it fit, and how long will it take? Memory by part, and hours, before anything is loaded.

    python -m engine.plan --run s1-32b                    a published run, on 8xH100-80GB
    python -m engine.plan --model qwen2.5-7b --gpus 1xH200-141GB --recompute           sft.py
    python -m engine.plan --model qwen2.5-7b --gpus 1xH100-80GB --stage grpo --offload

Needs no GPU and no weights. The formulas are in engine/costs.py; activations are simulated by
engine/activations.py. Hours rest on UTILISATION, a share of the GPU's rate, and in rollouts on
BANDWIDTH_SHARE, a share of its memory's bandwidth. Both are assumed, and printed.

The memory is tested against the allocator of a real small step, and against PyTorch's tracker of
FSDP2. No GPU has confirmed memory or hours yet.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from engine import costs, settings
from engine.published import RUNS
from engine.rows import BadInput


@dataclass(frozen=True)
class Config:
    # a published run (RUNS in engine/published.py): its settings, where none are given
    run: str = ""
    stage: Literal["sft", "grpo"] = "sft"  # which script is planned
    model: str = "qwen2.5-32b"  # a shape (SHAPES there) or a directory with config.json
    # number and kind, see GPUS there; 1x16GB: memory alone; cpu: the memory that is free here
    gpus: str = "8xH100-80GB"

    rows: int = 1000  # traces; s1: 1000
    row_tokens: int = 5000  # mean length of a trace with its prompt
    max_length: int = 32768  # longest trace: no micro-batch can be shorter
    epochs: float = 5  # s1: 5
    batch_rows: int = 16  # rows per optimizer step
    micro_batch_tokens: int = 16384  # tokens per forward pass and rank; 0: what fits
    dtype: Literal["fp32", "bf16"] = "bf16"  # of the computation
    recompute: bool = False  # activation checkpointing
    tp: int = 1  # GPUs that split each matrix; grpo: while sampling
    offload: bool = False  # master weights, gradients and Adam in host memory
    adam_dtype: Literal["fp32", "bf16"] = "fp32"  # of Adam's moments
    lora: int = 0  # rank of the adapters that are trained instead of all weights

    steps: int = 100  # grpo: rollouts
    prompts_per_step: int = 64  # grpo: N
    group_size: int = 8  # grpo: G
    prompt_tokens: int = 200  # grpo: mean length of a prompt
    answer_tokens: int = 1000  # grpo: mean length of a completion
    max_tokens: int = 2048  # grpo: longest completion; a slot of the cache is this long
    updates_per_rollout: int = 1  # grpo
    slots: int = 256  # grpo: sequences decoded side by side, if memory allows
    with_reference: bool = False  # grpo: a second model in shards, for the KL
    offload_optimizer: bool = False  # grpo: Adam's moments in host memory while sampling


# ---------------------------------------------------------------- the plan


def make_plan(cfg):
    """-> everything that is printed, as a dict. Raises BadInput."""
    gpus = costs.machine(cfg.gpus)
    config = costs.model_config(cfg.model)
    kv_heads = config.num_key_value_heads
    if gpus.n % cfg.tp or kv_heads % cfg.tp:
        raise BadInput(
            f"--tp {cfg.tp}: does not divide {gpus.n} GPUs or {kv_heads} key-value heads"
        )
    if cfg.lora and cfg.tp > 1 and cfg.stage == "sft":
        raise BadInput("--tp: with --lora every rank needs whole matrices; take --tp 1")
    whole = costs.count_parameters(config, cfg.lora)
    if cfg.dtype == "bf16" and gpus.fp32_tflops and not gpus.tflops:
        raise BadInput(f"--gpus {gpus.kind}: has no bfloat16; --dtype fp32")
    is_timed = gpus.rate(cfg.dtype) is not None
    memory = costs.training_memory(cfg, config, gpus.n, on_gpu=gpus.kind != "cpu")
    updating = costs.update_seconds(cfg, config, gpus) if is_timed else math.nan
    sampling = 0
    can_sample = True
    rollout = {}
    if cfg.stage == "sft":
        n_steps = costs.sft_steps(cfg)
    else:
        n_steps = cfg.steps
        updating *= cfg.updates_per_rollout
        memory["rollout"], slots = costs.rollout_memory(cfg, config, gpus)
        rollout["slots"] = slots
        can_sample = slots > 0
        if can_sample and is_timed:
            sampling = costs.rollout_seconds(cfg, config, gpus, slots)
            sampled = cfg.prompts_per_step * cfg.group_size * cfg.answer_tokens
            rollout["rollout_seconds"] = sampling
            rollout["rollout_tokens_per_second"] = sampled / sampling
            rollout["hours_per_100_steps"] = (sampling + updating) / 36

    sums = {phase: sum(parts.values()) for phase, parts in memory.items()}
    peak_phase = max(sums, key=sums.get)
    peak = sums[peak_phase]
    flops = costs.flops_per_token(config, costs.row_length(cfg), cfg.recompute, cfg.lora)
    host_memory = 0
    if cfg.offload:
        # Gradients, and what stays.
        state = costs.state_bytes(cfg, whole, share=1)
        host_memory = 4 * costs.n_trained(cfg, whole) + sum(state.values())
    return {
        "settings": dataclasses.asdict(cfg),
        "parameters": whole.total,
        "trained": costs.n_trained(cfg, whole),
        "gpus": gpus.n,
        "kind": gpus.kind,
        "memory": memory,
        "peak_phase": peak_phase,
        "peak": peak,
        "peak_with_margins": peak * (1 + costs.FRAGMENTS) + costs.CONTEXT * costs.GIB,
        "capacity": gpus.gib * costs.GIB,
        "fits": peak <= gpus.usable and can_sample,
        "host_memory": host_memory,
        "steps": n_steps,
        "tokens_per_step": costs.step_tokens(cfg),
        "update_seconds": updating if is_timed else None,
        "flops_per_step": costs.step_tokens(cfg) * flops,
        "hours": n_steps * (sampling + updating) / 3600 if can_sample and is_timed else None,
        **rollout,
    }


def advice(cfg):
    """The flags with which a plan fits: one alone if that is enough, else as few as do together.

    An empty string if none do.
    """
    changes = possible_changes(cfg)
    # Rows are cut only where nothing else is enough.
    alone = [[change] for change in changes if "max_length" not in change]
    together = [changes[:n] for n in range(2, len(changes) + 1)]
    chosen = next((some for some in (*alone, *together) if fits_with(cfg, some)), [])
    for change in chosen[:-1]:  # a later one may have made it superfluous
        rest = [other for other in chosen if other is not change]
        if fits_with(cfg, rest):
            chosen = rest
    return flags(merged(chosen))


LORA_RANK = 16  # what the advice suggests


def advice_with_lora(cfg):
    """The same with adapters instead of all weights: another training, so only where nothing helps.

    An empty string if that does not fit either.
    """
    if cfg.lora or cfg.tp > 1:
        return ""
    changed = dataclasses.replace(cfg, lora=LORA_RANK)
    own = flags({"lora": LORA_RANK})
    if fits_with(changed, []):
        return own
    more = advice(changed)
    return f"{own} {more}" if more else ""


def possible_changes(cfg):
    """-> [{setting: value}], each of which saves memory; those that cost least time come first."""
    n_gpus = costs.machine(cfg.gpus).n
    kv_heads = costs.model_config(cfg.model).num_key_value_heads
    longest = cfg.max_length
    if cfg.stage == "grpo":
        longest = min(longest, cfg.prompt_tokens + cfg.max_tokens)
    smallest = max(1024, min(longest, cfg.micro_batch_tokens))
    changes = []
    if not cfg.recompute:
        changes.append({"recompute": True})
    if smallest < cfg.micro_batch_tokens:
        changes.append({"micro_batch_tokens": smallest})
    if cfg.stage == "grpo" and not cfg.offload_optimizer:
        changes.append({"offload_optimizer": True})
    if cfg.adam_dtype == "fp32":
        changes.append({"adam_dtype": "bf16"})
    for tp in () if cfg.lora and cfg.stage == "sft" else (2, 4, 8):
        if tp > cfg.tp and n_gpus % tp == 0 and kv_heads % tp == 0:
            changes.append({"tp": tp})
    if not cfg.offload and cfg.gpus != "cpu":
        changes.append({"offload": True})
    if cfg.stage == "sft":  # last: rows are cut
        size = smallest // 2
        while size >= max(1024, cfg.row_tokens):
            changes.append({"micro_batch_tokens": size, "max_length": size})
            size //= 2
    return changes


def merged(changes):
    return {name: value for change in changes for name, value in change.items()}


def fits_with(cfg, changes):
    return make_plan(dataclasses.replace(cfg, **merged(changes)))["fits"]


def flags(changed):
    """{setting: value} as on the command line."""
    return " ".join(
        settings.flag(name) if value is True else f"{settings.flag(name)} {value}"
        for name, value in changed.items()
    )


# ---------------------------------------------------------------- the table


def show(cfg, found):
    """Print a plan: memory by part, whether it fits and with which flags it would, hours."""
    gpus = costs.machine(cfg.gpus)
    shown = (
        *("lora", "micro_batch_tokens", "recompute", "tp", "offload", "offload_optimizer"),
        "adam_dtype",
    )
    changed = {
        name: getattr(cfg, name) for name in shown if getattr(cfg, name) != getattr(Config, name)
    }
    billions = found["parameters"] / 1e9
    print(
        f"{cfg.run or cfg.stage}: {cfg.model}, {billions:.2f} billion parameters, "
        f"{gpus.n} x {gpus.kind} {flags(changed)}"
    )
    show_memory(found["memory"])
    show_verdict(cfg, found, gpus)
    show_time(cfg, found, gpus)


def show_memory(memory):
    """A row for each part, a column for each phase, in GiB."""

    def show_row(name, cells):
        print(f"{name:<12}" + "".join(f"{cell:>11}" for cell in cells))

    def in_gib(numbers):
        return [f"{n / costs.GIB:.1f}" for n in numbers]

    phases = list(memory.values())
    parts = dict.fromkeys(part for phase in phases for part in phase)  # in order, once each
    show_row("GiB per GPU", memory)
    for part in parts:
        numbers = [phase.get(part, 0) for phase in phases]
        if any(numbers):
            show_row(part, in_gib(numbers))
    show_row("sum", in_gib(sum(phase.values()) for phase in phases))


def show_verdict(cfg, found, gpus):
    verdict = "fits" if found["fits"] else "does not fit"
    if cfg.offload:
        verdict += f"; host memory {found['host_memory'] / costs.GIB:.1f} GiB"
    print(
        f"peak {found['peak'] / costs.GIB:.1f} GiB ({found['peak_phase']}); "
        f"{found['peak_with_margins'] / costs.GIB:.1f} with {costs.CONTEXT:.0f} for CUDA and "
        f"{costs.FRAGMENTS:.0%} between blocks, of {gpus.gib}: {verdict}"
    )
    if found["fits"]:
        return
    better = advice(cfg)
    if better:
        print(f"it fits with {better}")
    elif with_lora := advice_with_lora(cfg):
        print(f"it fits with {with_lora}, which trains adapters and no other weight")
    else:
        print("no flag makes it fit: take more or larger GPUs, or a smaller model")


def show_time(cfg, found, gpus):
    line = (
        f"{found['steps']} steps of {found['tokens_per_step']:,} tokens: "
        f"{found['flops_per_step']:.3g} FLOPs"
    )
    if found["update_seconds"] is None:
        print(f"{line} each; hours unknown, for the speed of {gpus.kind} is not known")
        return
    print(f"{line} and {found['update_seconds']:.1f} s each")
    rates = f"{costs.UTILISATION:.0%} of {gpus.rate(cfg.dtype)} TFLOP/s"
    if cfg.stage == "grpo":
        rates += f" and {costs.BANDWIDTH_SHARE:.0%} of {gpus.bandwidth} GB/s"
    if found.get("slots"):
        noun = "GPU" if cfg.tp == 1 else "GPUs"
        print(
            f"rollouts: {found['rollout_seconds']:.0f} s a step, "
            f"{found['rollout_tokens_per_second']:,.0f} tokens/s, "
            f"{found['slots']} sequences at a time on {cfg.tp} {noun}; "
            f"{found['hours_per_100_steps']:.1f} hours per 100 steps"
        )
    hours = found["hours"]
    if hours:
        print(
            f"{hours:.1f} hours, {hours * gpus.n:.0f} GPU hours, if {rates} are reached: "
            "planned, not measured"
        )


# ---------------------------------------------------------------- commands


def of_rows(cfg, examples):
    """The plan for a run of sft.py. cfg: its Config. examples: (ids, trained) of each trace."""
    lengths = [len(ids) for ids, _ in examples]
    mean = math.ceil(sum(lengths) / len(lengths))
    batch_rows = cfg.batch_rows
    if cfg.batch_tokens:
        batch_rows = max(1, cfg.batch_tokens // mean)
    known = {
        "rows": len(lengths),
        "row_tokens": mean,
        "max_length": max(lengths),
        "batch_rows": batch_rows,
    }
    return main(Config(**same_settings(cfg) | known))


def of_problems(cfg, form, tokenizer, rows):
    """The plan for a run of grpo.py. cfg: its Config. rows: its problems.

    Completions are taken to be half as long as they can be.
    """
    lengths = [len(form.row_prompt_ids(tokenizer, row)) for row in rows]
    known = {
        "stage": "grpo",
        "prompt_tokens": math.ceil(sum(lengths) / len(lengths)),
        "answer_tokens": math.ceil(cfg.max_tokens / 2),
        "max_length": max(lengths) + cfg.max_tokens,
        "with_reference": bool(cfg.beta or cfg.kl_every),
    }
    return main(Config(**same_settings(cfg) | known))


def same_settings(cfg):
    """Settings that a script's Config and a plan share by name, and its --plan as GPUs."""
    names = [field.name for field in dataclasses.fields(Config)]
    found = {name: getattr(cfg, name) for name in names if hasattr(cfg, name)}
    return found | {"gpus": cfg.plan}


def with_run(cfg):
    """Take the settings of a published run where cfg has the default."""
    if cfg.run not in RUNS:
        raise BadInput(f"--run {cfg.run}: not one of {', '.join(RUNS)}")
    defaults = Config()
    published = {
        name: value
        for name, value in RUNS[cfg.run].items()
        if getattr(cfg, name) == getattr(defaults, name)
    }
    return dataclasses.replace(cfg, **published)


def with_micro_batch(cfg):
    """The largest micro-batch that fits, as the scripts choose it; if none does the smallest."""
    sizes = [32768, 16384, 8192, 4096, 2048, 1024, 512]
    tried = (dataclasses.replace(cfg, micro_batch_tokens=size) for size in sizes)
    smallest = dataclasses.replace(cfg, micro_batch_tokens=sizes[-1])
    return next((other for other in tried if make_plan(other)["fits"]), smallest)


def main(cfg):
    """Print a plan and return it."""
    numbers = {f.name for f in dataclasses.fields(Config) if f.type in (int, float)}
    settings.check_positive(cfg, *sorted(numbers - {"lora", "micro_batch_tokens"}))
    settings.check_range(cfg, 0, math.inf, "lora", "micro_batch_tokens")
    if cfg.run:
        cfg = with_run(cfg)
    if not cfg.micro_batch_tokens:
        cfg = with_micro_batch(cfg)
    found = make_plan(cfg)
    show(cfg, found)
    return found


if __name__ == "__main__":
    settings.cli(main, Config)
