"""Will it fit, and how long will it take? Memory by part and hours of a training run, before anything is loaded.

    python -m engine.plan --run s1-32b                                         a published run, on 8xH100-80GB
    python -m engine.plan --model qwen2.5-7b --gpus 1xH200-141GB --recompute    fine-tuning by sft.py
    python -m engine.plan --stage grpo --model qwen2.5-7b --gpus 1xH100-80GB --offload

Needs no GPU and no weights. One micro-batch goes through engine/model.py forward and backward at full width over fake tensors,
which have shapes but no numbers, with 2 and with 4 layers; what is alive at most, beyond weights and gradients, while the
head, the first layer that goes backward and the last one compute is continued in a straight line to all layers. To that
arithmetic adds, for P parameters on W GPUs:

    weights    4P/W  float32 masters                       optimizer  8P/W  Adam's moments (4P/W in bf16)
    gradients  4P/W  float32, complete after the backward  copy       of a matrix in float32: AdamW in bf16 (update)
    gathered   embedding, head and two layers in bf16      reduced    gradients of a layer and the head, not yet shards
    sampler    grpo: a bf16 copy, over --tp GPUs           cache      grpo: keys and values of the slots

Hours: FLOPs at --utilisation of the data sheet's rate; in rollouts, bytes that a decoding step reads at --bandwidth-share.
The memory is tested against the allocator of a real small step and against PyTorch's tracker of FSDP2. Times rest on
the two shares, which are assumed and printed. No GPU has confirmed either yet.
"""

import copy
import dataclasses
import functools
import json
import math
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from engine import attention, loading, packing, settings
from engine import model as models
from engine.published import GPUS, RUNS, SHAPES
from engine.rows import BadInput
from kernels import reference

GIB = 2**30


@dataclass(frozen=True)
class Config:
    # a published run (RUNS in engine/published.py): its settings, where none are given
    run: str = ""
    stage: Literal["sft", "grpo"] = "sft"  # which script is planned
    model: str = "qwen2.5-32b"  # a shape (SHAPES there) or a directory with config.json
    gpus: str = "8xH100-80GB"  # number and kind, see GPUS there

    rows: int = 1000  # traces; s1: 1000
    row_tokens: int = 5000  # mean length of a trace with its prompt
    max_length: int = 32768  # longest trace: no micro-batch can be shorter
    epochs: float = 5  # s1: 5
    batch_rows: int = 16  # rows per optimizer step
    micro_batch_tokens: int = 16384  # tokens per forward pass and data-parallel rank
    dtype: Literal["fp32", "bf16"] = "bf16"  # of the computation
    recompute: bool = False  # activation checkpointing
    tp: int = 1  # GPUs that split each matrix; grpo: while sampling
    offload: bool = False  # master weights, gradients and Adam in host memory
    adam_dtype: Literal["fp32", "bf16"] = "fp32"  # of Adam's moments

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

    utilisation: float = 0.4  # assumed share of the data sheet's bf16 rate in training
    bandwidth_share: float = 0.65  # assumed share of the data sheet's memory bandwidth in decoding
    json: bool = False  # print JSON instead of a table


# GiB of CUDA and NCCL, share of the tensors that the allocator loses between them
CONTEXT, FRAGMENTS = 1.0, 0.06


# ---------------------------------------------------------------- the model and the machine


def model_config(name):
    """A shape's name (or a hub name that ends in one) or a directory -> transformers' config. Raises BadInput."""
    if (Path(name) / "config.json").is_file():
        with loading.refusing(name):
            return AutoConfig.from_pretrained(name)
    short = re.sub(r"-(instruct|base|math)$", "", name.lower().rpartition("/")[2])
    if short not in SHAPES:
        raise BadInput(
            f"--model {name}: neither a directory with config.json nor one of {', '.join(SHAPES)}"
        )
    family, width, inner, layers, heads, kv_heads, vocab, tied = SHAPES[short]
    return AutoConfig.for_model(
        family,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        head_dim=128 if family == "qwen3" else width // heads,
        max_position_embeddings=32768,
    )


def machine(text):
    """ "8xH100-80GB" -> n, kind, and its data sheet; usable: bytes that tensors can take. Raises BadInput."""
    found, kinds = re.fullmatch(r"(\d+)x(.+)", text), {kind.lower(): kind for kind in GPUS}
    if not found or not int(found[1]) or found[2].lower() not in kinds:
        raise BadInput(
            f"--gpus {text}: not a number and a kind, as 8xH100-80GB; kinds: {', '.join(GPUS)}"
        )
    kind = kinds[found[2].lower()]
    gib, tflops, bandwidth, link = GPUS[kind]
    return SimpleNamespace(
        n=int(found[1]),
        kind=kind,
        gib=gib,
        tflops=tflops,
        bandwidth=bandwidth,
        link=link,
        usable=(gib - CONTEXT) * GIB / (1 + FRAGMENTS),
    )


def split_config(config, tp):
    """The config of what one of tp GPUs computes: its heads, its inner width, its part of the vocabulary."""
    config = copy.deepcopy(config)
    config.head_dim = head_width(config)
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        if getattr(config, name) % tp:
            raise BadInput(f"--tp {tp}: does not divide {name} {getattr(config, name)}")
        setattr(config, name, getattr(config, name) // tp)
    return config


def with_layers(config, n):
    config = copy.deepcopy(config)
    config.num_hidden_layers = n
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * n)[:n]
    return config


def count(config):
    """Parameters: all of them, of one layer, of embedding, head and final norm, and of the head's matrix."""
    with torch.device("meta"):
        small = AutoModelForCausalLM.from_config(with_layers(config, 1))
    total = sum(p.numel() for p in small.parameters())
    layer = sum(p.numel() for p in models.layers(small)[0].parameters())
    return SimpleNamespace(
        total=total + (config.num_hidden_layers - 1) * layer,
        layer=layer,
        ends=total - layer,
        head=models.head(small).numel(),
    )


# ---------------------------------------------------------------- the simulation


class Ledger(TorchDispatchMode):
    """Counts the bytes of live tensors at each operation, and the most in each phase. What the program asks of numbers,
    which fake tensors do not have, is answered with yes, or with as many as there can be."""

    def __init__(self):
        super().__init__()
        self.live, self.phase, self.most = 0, "head", {}
        self.seen = torch.utils.weak.WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1
        if function is torch.ops.aten.nonzero.default:
            x = arguments[0]
            found = x.new_zeros((x.numel(), x.ndim), dtype=torch.int64)
        else:
            found = function(*arguments, **(options or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return found

    def add(self, storage):
        if storage not in self.seen:
            n = storage.nbytes()
            self.seen[storage] = n
            weakref.finalize(storage, self.remove, n)
            self.live += n
            self.most[self.phase] = max(self.live, self.most.get(self.phase, 0))

    def remove(self, n):
        self.live -= n


class LikeLinear:
    """Takes the memory that kernels/linear.py takes on a GPU, by its SPAN and N_PARTS, and computes nothing."""

    @staticmethod
    def columns(n_rows, n_vocab):
        return -(-n_vocab // 16 // 128) * 128

    @staticmethod
    def statistics(hidden, head, target, threshold, temperature, want):
        parts = hidden.new_empty(5, -(-len(head.weight) // 512), len(hidden), dtype=torch.float32)
        return (
            parts[0, 0] + 0,
            *reference.merge(*parts[: 2 if "entropy" in want else 1]),
            None,
            None,
            None,
        )

    @staticmethod
    def logit_gradient(hidden, head, *_):
        return hidden.new_empty(len(hidden), len(head.weight))


def attention_on_gpu(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    sequences=None,
    sliding_window=None,
    **_,
):
    """model.attention's branch for a GPU, whatever the device: fake tensors are on the CPU."""
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return attention.flash_packed(query, key, value, sequences, scaling, sliding_window)[None], None


@functools.lru_cache(maxsize=64)
def _peaks(config_json, family, n_layers, lengths, dtype, shards, recompute, on_gpu):
    from torch._subclasses.fake_tensor import FakeTensorMode

    AttentionInterface.register("planned", attention_on_gpu)
    config = with_layers(AutoConfig.for_model(family, **json.loads(config_json)), n_layers)
    batch, packed = packing.pack([[0] * n for n in lengths]), attention.Packed(lengths, "cpu")
    half = dtype == "bf16"
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.bfloat16 if half and shards else torch.float32,
            attn_implementation="planned" if on_gpu and half else "packed",
        )
        ledger = Ledger()
        for p in model.parameters():  # gradients are counted apart
            p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        for i, layer in enumerate(models.layers(model)):
            if recompute:
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
            phase = {0: "last", n_layers - 1: "first"}.get(i, "middle")
            layer.register_forward_hook(
                lambda layer, inputs, out, phase=phase: (
                    (out[0] if isinstance(out, tuple) else out).register_hook(
                        lambda _: setattr(ledger, "phase", phase)
                    )
                    and None
                )
            )
        for p in (*model.parameters(), *model.buffers()):
            ledger.seen[p.untyped_storage()] = 0  # these too
        with ledger:
            with torch.autocast("cpu", torch.bfloat16, enabled=half and not shards):
                hidden = models.hidden_states(model, batch.ids, batch.positions, packed)[
                    batch.where
                ]
                logp = reference.token_stats(
                    hidden,
                    models.output_head(model),
                    batch.target,
                    engine=LikeLinear if on_gpu and half else None,
                ).logp
            del hidden
            (-logp.sum() / len(batch.target)).backward()
    return {phase: ledger.most[phase] for phase in ("head", "first", "last")}


def activations(config, lengths, dtype="bf16", shards=True, recompute=False, on_gpu=True):
    """Most bytes beyond weights and gradients in the phases of a micro-batch of sequences of these lengths, simulated with
    2 and 4 layers and continued: forward pass and head, backward pass of the layer before it, of the one at the bottom."""
    derived = ("model_type", "transformers_version", "layer_types")
    settings = json.dumps(
        {k: v for k, v in config.to_diff_dict().items() if k not in derived}, default=str
    )
    two, four = (
        _peaks(settings, config.model_type, n, tuple(lengths), dtype, shards, recompute, on_gpu)
        for n in (2, 4)
    )
    return {
        phase: round(two[phase] + (four[phase] - two[phase]) / 2 * (config.num_hidden_layers - 2))
        for phase in two
    }


# ---------------------------------------------------------------- memory


def training_memory(cfg, config, n_gpus, lengths=None, on_gpu=True):
    """-> {phase: {part: bytes}} of one GPU: forward pass and head, backward pass of the first and of the last layer that it
    comes to, of the embedding, and the optimizer's step. lengths: of the sequences of a micro-batch."""
    shards, kept = n_gpus > 1 or cfg.offload, 0 if cfg.offload else 1 / n_gpus
    mine = split_config(config, cfg.tp) if cfg.tp > 1 and cfg.stage == "sft" else config
    n, part, size = count(config), count(mine), 2 if cfg.dtype == "bf16" else 4
    if lengths is None:  # micro-batches as full as a step can make them
        most = min(
            cfg.micro_batch_tokens,
            max(cfg.max_length, step_tokens(cfg) // data_parallel(cfg, n_gpus)),
        )
        lengths = [min(row_length(cfg), left) for left in range(most, 0, -row_length(cfg))]
    living = activations(mine, lengths, cfg.dtype, shards, cfg.recompute, on_gpu)
    # micro-batches: the first leaves gradients
    several = step_tokens(cfg) / data_parallel(cfg, n_gpus) > sum(lengths)
    # Gradients that are whole already; of shards those of embedding and head come last, until then they are `reduced`.
    ready = {
        "first": 0 if shards or config.tie_word_embeddings else part.head / part.total,
        "last": 1 - part.ends / part.total if shards else 1,
        "embedding": 1 - part.ends / part.total if shards else 1,
        "update": 1,
    }
    reduced = {
        "first": size * (part.head + part.layer),
        "last": size * part.head + 4 * part.layer,
        "embedding": (size + 4) * part.ends,
    }
    gathered = {"embedding": part.ends, "update": 0}
    return {
        phase: states(cfg, n.total * kept)
        | {
            "sampler": shards * (cfg.stage == "grpo") * size * n.total / cfg.tp,
            "gradients": 4 * n.total * kept * (1 if several else ready.get(phase, 0)),
            "gathered": shards * size * gathered.get(phase, part.ends + 2 * part.layer),
            "reduced": shards * reduced.get(phase, 0),
            "activations": living.get(phase, 0),
            "copy": on_gpu * kept * 12 * n.head * (cfg.adam_dtype == "bf16") * (phase == "update"),
        }
        for phase in ("head", "first", "last", "embedding", "update")
    }


def states(cfg, n):
    """Bytes of what stays from step to step, of n parameters."""
    return {
        "weights": 4 * n,
        "optimizer": (8 if cfg.adam_dtype == "fp32" else 4) * n,
        "reference": 4 * n * (cfg.stage == "grpo" and cfg.with_reference),
    }


def head_width(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def cache_bytes(config, dtype):
    """Keys and values of one token in all layers."""
    return (
        2
        * (2 if dtype == "bf16" else 4)
        * config.num_hidden_layers
        * config.num_key_value_heads
        * head_width(config)
    )


def rollout_memory(cfg, config, gpus):
    """-> ({part: bytes} of one GPU while it samples, sequences that --tp GPUs decode side by side). Logits and what sampling
    makes of them take 12 bytes each."""
    n, kept = count(config), 0 if cfg.offload else 1 / gpus.n
    parts = states(cfg, n.total * kept) | {
        "sampler": (2 if cfg.dtype == "bf16" else 4 * (gpus.n > 1)) * n.total / cfg.tp
    }
    parts["optimizer"] *= not cfg.offload_optimizer
    each = (
        cache_bytes(config, cfg.dtype) * (cfg.prompt_tokens + cfg.max_tokens) / cfg.tp
        + 12 * config.vocab_size
    )
    wanted = -(-cfg.prompts_per_step * cfg.group_size * cfg.tp // gpus.n)
    slots = min(cfg.slots, wanted, max(0, int((gpus.usable - sum(parts.values())) // each)))
    return parts | {"cache": slots * each}, slots


# ---------------------------------------------------------------- time


def data_parallel(cfg, n_gpus):
    """Ranks with rows of their own in training; grpo.py splits no matrix there."""
    return n_gpus // cfg.tp if cfg.stage == "sft" else n_gpus


def step_tokens(cfg):
    """Trained with in a step; grpo.py computes the prompt of a group once."""
    if cfg.stage == "sft":
        return cfg.batch_rows * cfg.row_tokens
    return cfg.prompts_per_step * (cfg.prompt_tokens + cfg.group_size * cfg.answer_tokens)


def row_length(cfg):
    return cfg.row_tokens if cfg.stage == "sft" else cfg.prompt_tokens + cfg.answer_tokens


def flops_per_token(config, length, recompute):
    """Of a training step: 2 per weight and token forward, twice that backward; attention sees half of the row on average
    (Kaplan et al. 2020, arXiv 2001.08361, §2.1; causal). The head's logits are made once more in the backward pass."""
    n, layers = count(config), config.num_hidden_layers
    forward = (
        2 * layers * n.layer + 2 * layers * config.num_attention_heads * head_width(config) * length
    )
    return forward * (4 if recompute else 3) + 2 * n.head * 4


def update_seconds(cfg, config, gpus):
    """Of one optimizer step: the longer of computing and gathering, and what cannot be hidden behind either."""
    n, dp, tokens = count(config), data_parallel(cfg, gpus.n), step_tokens(cfg)
    tp = gpus.n // dp
    rate, link = gpus.n * gpus.tflops * 1e12 * cfg.utilisation, 0.7 * gpus.link * 1e9
    rate /= 1 if cfg.dtype == "bf16" else 15  # float32 without tensor cores, H100 and A100
    computing = tokens * flops_per_token(config, row_length(cfg), cfg.recompute) / rate
    n_micro = math.ceil(tokens / dp / cfg.micro_batch_tokens)
    sharing = n_micro * 8 * n.total / tp * (dp - 1) / dp / link  # two gathers, one reduction
    splitting = (
        (6 if cfg.recompute else 4)
        * config.num_hidden_layers
        * tokens
        / dp
        * config.hidden_size
        * 4
        * (tp - 1)
        / tp
        / link
    )
    # PCIe; memory of the host
    on_host = cfg.offload * (n_micro * 8 * n.total / gpus.n / 25e9 + 28 * n.total / 100e9)
    return max(computing, sharing) + splitting + on_host


def rollout_seconds(cfg, config, gpus, slots):
    """Of sampling N·G completions: each decoding step reads the weights and the cache, at least as often as the longest
    completion has tokens."""
    n, rows = count(config), cfg.prompts_per_step * cfg.group_size * cfg.tp / gpus.n
    context = cfg.prompt_tokens + cfg.answer_tokens / 2
    read = (2 if cfg.dtype == "bf16" else 4) * n.total + slots * context * cache_bytes(
        config, cfg.dtype
    )
    reading = read / cfg.tp / (gpus.bandwidth * 1e9 * cfg.bandwidth_share)
    computing = 2 * n.total * slots / cfg.tp / (gpus.tflops * 1e12 * cfg.utilisation)
    return max(rows * cfg.answer_tokens / slots, cfg.max_tokens) * max(reading, computing)


# ---------------------------------------------------------------- the plan


def plan(cfg):
    """-> everything that is printed, as a dict. Raises BadInput."""
    gpus = machine(cfg.gpus)
    config = model_config(cfg.model)
    if gpus.n % cfg.tp or config.num_key_value_heads % cfg.tp:
        raise BadInput(
            f"--tp {cfg.tp}: does not divide {gpus.n} GPUs or {config.num_key_value_heads} key-value heads"
        )
    phases, n, extra = training_memory(cfg, config, gpus.n), count(config), {}
    updating = update_seconds(cfg, config, gpus)
    if cfg.stage == "grpo":
        phases["rollout"], slots = rollout_memory(cfg, config, gpus)
        n_steps, updating = cfg.steps, updating * cfg.updates_per_rollout
        sampled = cfg.prompts_per_step * cfg.group_size * cfg.answer_tokens
        extra, sampling = (
            {"slots": slots},
            rollout_seconds(cfg, config, gpus, slots) if slots else math.inf,
        )
        if slots:
            extra |= {
                "rollout_seconds": sampling,
                "rollout_tokens_per_second": sampled / sampling,
                "hours_per_100_steps": (sampling + updating) / 36,
            }
    else:
        sampling, each = 0, cfg.rows / cfg.batch_rows
        n_steps = math.ceil(
            cfg.epochs * (math.ceil(each) if cfg.epochs == int(cfg.epochs) else each)
        )
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    peak = sum(phases[phase].values())
    hours = n_steps * (sampling + updating) / 3600
    return {
        "settings": dataclasses.asdict(cfg),
        "parameters": n.total,
        "gpus": gpus.n,
        "kind": gpus.kind,
        "memory": phases,
        "peak_phase": phase,
        "peak": peak,
        "peak_with_margins": peak * (1 + FRAGMENTS) + CONTEXT * GIB,
        "capacity": gpus.gib * GIB,
        "fits": peak <= gpus.usable and extra.get("slots", 1) > 0,
        "host_memory": cfg.offload * (4 * n.total + sum(states(cfg, n.total).values())),
        "steps": n_steps,
        "tokens_per_step": step_tokens(cfg),
        "update_seconds": updating,
        "flops_per_step": step_tokens(cfg)
        * flops_per_token(config, row_length(cfg), cfg.recompute),
        "hours": hours if math.isfinite(hours) else None,
    } | extra


def advice(cfg):
    """The flags with which a plan fits: one alone if that is enough, else as few as do together. '' if none do."""

    def fits(chosen):
        return plan(dataclasses.replace(cfg, **functools.reduce(dict.__or__, chosen, {})))["fits"]

    n_gpus = machine(cfg.gpus).n
    heads, shortest = (
        model_config(cfg.model).num_key_value_heads,
        max(1024, min(cfg.max_length, cfg.micro_batch_tokens)),
    )
    changes = [{"recompute": True}] * (not cfg.recompute)
    changes += [{"micro_batch_tokens": shortest}] * (shortest < cfg.micro_batch_tokens)
    changes += [{"offload_optimizer": True}] * (cfg.stage == "grpo" and not cfg.offload_optimizer)
    changes += [{"adam_dtype": "bf16"}] * (cfg.adam_dtype == "fp32")
    changes += [{"tp": t} for t in (2, 4, 8) if t > cfg.tp and n_gpus % t + heads % t == 0]
    changes += [{"offload": True}] * (not cfg.offload)
    tried = [[change] for change in changes] + [changes[:i] for i in range(2, len(changes) + 1)]
    chosen = next((some for some in tried if fits(some)), [])
    for change in chosen[:-1]:  # those that the others made superfluous
        rest = [c for c in chosen if c is not change]
        chosen = rest if fits(rest) else chosen
    return flags(functools.reduce(dict.__or__, chosen, {}))


def flags(settings):
    return " ".join(
        f"--{k.replace('_', '-')}" + ("" if v is True else f" {v}") for k, v in settings.items()
    )


def show(cfg, found):
    """The plan as a table, and what it rests on."""

    def line(name, numbers):
        print(
            f"{name:<12}"
            + "".join(f"{x:>11}" if isinstance(x, str) else f"{x / GIB:>11.1f}" for x in numbers)
        )

    gpus, phases, hours, short = machine(cfg.gpus), found["memory"], found["hours"], "{:.1f}".format
    names = ("micro_batch_tokens", "recompute", "tp", "offload", "offload_optimizer", "adam_dtype")
    print(
        f"{cfg.run or cfg.stage}: {cfg.model}, {found['parameters'] / 1e9:.2f} billion parameters, {gpus.n} x {gpus.kind}",
        flags({k: getattr(cfg, k) for k in names if getattr(cfg, k) != getattr(Config, k)}),
    )
    line("GiB per GPU", phases)
    for name in dict.fromkeys(part for parts in phases.values() for part in parts):
        if any(parts.get(name) for parts in phases.values()):
            line(name, [parts.get(name, 0) for parts in phases.values()])
    line("sum", [sum(parts.values()) for parts in phases.values()])
    print(
        f"peak {short(found['peak'] / GIB)} GiB ({found['peak_phase']}); {short(found['peak_with_margins'] / GIB)} with "
        f"{CONTEXT:.0f} for CUDA and {FRAGMENTS:.0%} between blocks, of {gpus.gib}: "
        + ("fits" if found["fits"] else "does not fit")
        + (f"; host memory {short(found['host_memory'] / GIB)} GiB" if cfg.offload else "")
    )
    if not found["fits"]:
        better = advice(cfg)
        print(
            f"it fits with {better}"
            if better
            else "no flag makes it fit: take more or larger GPUs, or a smaller model"
        )
    print(
        f"{found['steps']} steps of {found['tokens_per_step']:,} tokens: {found['flops_per_step']:.3g} FLOPs and "
        f"{found['update_seconds']:.1f} s each"
    )
    if found.get("slots"):
        print(
            f"rollouts: {found['rollout_seconds']:.0f} s a step, {found['rollout_tokens_per_second']:,.0f} tokens/s, "
            f"{found['slots']} sequences at a time on {cfg.tp} GPU{'s' * (cfg.tp > 1)}; "
            f"{short(found['hours_per_100_steps'])} hours per 100 steps"
        )
    if hours:
        print(
            f"{hours:.1f} hours, {hours * gpus.n:.0f} GPU hours, if {cfg.utilisation:.0%} of {gpus.tflops} TFLOP/s"
            + f" and {cfg.bandwidth_share:.0%} of {gpus.bandwidth} GB/s" * (cfg.stage == "grpo")
            + " are reached: planned, not measured"
        )


def of_rows(cfg, examples):
    """The plan for a Config of sft.py, whose settings have the same names. examples: (ids, trained) of each trace."""
    lengths = [len(ids) for ids, _ in examples]
    mean = math.ceil(sum(lengths) / len(lengths))
    return main(
        Config(
            **same_settings(cfg)
            | {
                "rows": len(lengths),
                "row_tokens": mean,
                "max_length": max(lengths),
                "batch_rows": max(1, cfg.batch_tokens // mean)
                if cfg.batch_tokens
                else cfg.batch_rows,
            }
        )
    )


def of_problems(cfg, form, tokenizer, rows):
    """The same for grpo.py and its problems; completions are taken to be half as long as they can be."""
    lengths = [len(form.prompt_ids(tokenizer, row["question"])) for row in rows]
    mean = math.ceil(sum(lengths) / len(lengths))
    return main(
        Config(
            **same_settings(cfg)
            | {
                "stage": "grpo",
                "prompt_tokens": mean,
                "answer_tokens": math.ceil(cfg.max_tokens / 2),
                "max_length": max(lengths) + cfg.max_tokens,
                "with_reference": bool(cfg.beta or cfg.kl_every),
            }
        )
    )


def same_settings(cfg):
    return {
        f.name: getattr(cfg, f.name) for f in dataclasses.fields(Config) if hasattr(cfg, f.name)
    } | {"gpus": cfg.plan}


def main(cfg):
    """Print the plan; returns it."""
    settings.check_positive(
        cfg, *[f.name for f in dataclasses.fields(Config) if f.type in (int, float)]
    )
    if cfg.run:
        if cfg.run not in RUNS:
            raise BadInput(f"--run {cfg.run}: not one of {', '.join(RUNS)}")
        given = {f.name for f in dataclasses.fields(Config) if getattr(cfg, f.name) != f.default}
        cfg = dataclasses.replace(cfg, **{k: v for k, v in RUNS[cfg.run].items() if k not in given})
    found = plan(cfg)
    if cfg.json:
        print(json.dumps(found | {"fits_with": "" if found["fits"] else advice(cfg)}, indent=1))
    else:
        show(cfg, found)
    return found


if __name__ == "__main__":
    settings.cli(main, Config)
