"""What a training run costs: memory by part and seconds, as formulas.

For P parameters on W GPUs, in bytes per GPU:

    weights      4 P / W   float32 masters
    optimizer    8 P / W   Adam's two moments (4 P / W in bf16)
    gradients    4 P / W   float32, complete after the backward pass
    gathered     weights of the ends and of two layers, which FSDP has put together to compute with
    reduced      whole gradients that are on their way to become shards
    activations  simulated (engine/activations.py)
    copy         what AdamW with bf16 moments makes of the largest matrix
    sampler      grpo: the copy of the model that samples, over --tp GPUs
    cache        grpo: keys and values of the sequences that are being sampled

With --lora only the adapters' A parameters are trained, and the P are frozen, for nothing updates
them: weights 2 P / W in bf16 and 4 A / W, optimizer 8 A / W, gradients 4 A / W, no reference and no
copy. Of what is gathered and reduced, adapters are a hundredth and left out.

The "ends" of a model are its embedding, last norm and head. cfg is the Config of engine/plan.py.
"""

import copy
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine import loading, lora
from engine import model as models
from engine.activations import activation_bytes, with_layers
from engine.machine import free_memory
from engine.published import GPUS, SHAPES
from engine.rows import BadInput

GIB = 2**30

CONTEXT = 1.0  # GiB that CUDA and NCCL take
FRAGMENTS = 0.06  # of the tensors' bytes, that the allocator loses between them

# Assumed shares of what the data sheet promises: bf16 FLOP/s in training, memory in decoding, the
# link to the other GPUs.
UTILISATION = 0.4
BANDWIDTH_SHARE = 0.65
LINK_SHARE = 0.7
# Assumed for offloading: bytes per second over PCIe, and of the host's memory.
PCIE = 25e9
HOST_BANDWIDTH = 100e9


def number_bytes(dtype):
    return {"bf16": 2, "fp32": 4}[dtype]


# ---------------------------------------------------------------- the model and the machine


def model_config(name):
    """Find the config of a model. Raises BadInput.

    name: a directory, or one of SHAPES, also as the last part of a hub name (Qwen/Qwen2.5-7B-Base).
    """
    if (Path(name) / "config.json").is_file():
        with loading.refusing(name):
            return AutoConfig.from_pretrained(name, trust_remote_code=False)
    short = name.lower().rpartition("/")[2]
    # What others call the same shape: Meta-Llama-3.1-8B, gemma-2-2b-it, Phi-3-mini-4k-instruct,
    # Mistral-Small-24B-Instruct-2501.
    short = re.sub(r"-(instruct|base|math|it|pt|4k|128k|2501)(?=-|$)|^meta-", "", short)
    if short not in SHAPES:
        raise BadInput(
            f"--model {name}: neither a directory with config.json nor one of {', '.join(SHAPES)}"
        )
    family, width, inner, layers, heads, kv_heads, vocab, is_tied, *head_width = SHAPES[short]
    return AutoConfig.for_model(
        family,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        tie_word_embeddings=is_tied,
        head_dim=head_width[0] if head_width else width // heads,
        max_position_embeddings=32768,
    )


def split_config(config, tp):
    """The config of what one of tp GPUs computes: its heads, inner width and vocabulary entries."""
    config = copy.deepcopy(config)
    config.head_dim = models.head_width(config)
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        whole = getattr(config, name)
        if whole % tp:
            raise BadInput(f"--tp {tp}: does not divide {name} {whole}")
        setattr(config, name, whole // tp)
    return config


class Parameters(NamedTuple):
    """Numbers of parameters."""

    total: int
    layer: int  # of one layer
    ends: int  # of embedding, last norm and head
    head: int  # of the head's matrix, which is the embedding's if they are tied
    adapters: int = 0  # of all layers


def count_parameters(config, rank=0):
    """Count the parameters of a model, from one layer that is made without memory.

    rank: of LoRA's adapters, which are counted beside the model.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(with_layers(config, 1))
    adapters = 0
    if rank:
        n_before = sum(p.numel() for p in model.parameters())
        lora.attach(model, lora.Shape(rank, alpha=1.0, seed=0))
        adapters = sum(p.numel() for p in model.parameters()) - n_before
    own = {name: p.numel() for name, p in model.named_parameters() if not lora.is_part(name)}
    layer = sum(p.numel() for p in models.layers(model)[0].parameters()) - adapters
    ends = sum(own.values()) - layer
    return Parameters(
        total=ends + config.num_hidden_layers * layer,
        layer=layer,
        ends=ends,
        head=models.head(model).numel(),
        adapters=config.num_hidden_layers * adapters,
    )


class Machine(NamedTuple):
    """GPUs of one kind, and the data sheet of one of them."""

    n: int
    kind: str
    gib: float  # memory
    # None where it is unknown:
    tflops: float | None = None  # bf16
    fp32_tflops: float | None = None
    bandwidth: float | None = None  # GB/s of its memory
    link: float | None = None  # GB/s to the other GPUs, one way

    @property
    def usable(self):
        """Bytes that tensors can take."""
        return (self.gib - CONTEXT) * GIB / (1 + FRAGMENTS)

    def rate(self, dtype):
        """TFLOP/s of a type, or None."""
        return self.tflops if dtype == "bf16" else self.fp32_tflops


def machine(text):
    """Read a number and a kind of GPUs -> Machine. Raises BadInput.

    text: 8xH100-80GB, or 1x4090 where one kind is meant; 1x16GB, of which no more is known; cpu for
    the memory that is free here.
    """
    if text.lower() == "cpu":
        return Machine(1, "cpu", round(free_memory("cpu") / GIB, 1))
    match = re.fullmatch(r"0*([1-9]\d*)x(.+)", text)
    name = match[2].lower() if match else ""
    if memory := re.fullmatch(r"(\d+(?:\.\d+)?)gb", name):
        # A GiB has 10^9 bytes and some: what is left is what a driver keeps.
        return Machine(int(match[1]), name.upper(), round(float(memory[1]) * 1e9 / GIB, 1))
    kinds = [kind for kind in GPUS if name in names_of_gpu(kind)]
    if len(kinds) != 1:
        raise BadInput(
            f"--gpus {text}: not a number and a kind, as 8xH100-80GB, 1x16GB or cpu; "
            f"kinds: {', '.join(kinds or GPUS)}"
        )
    return Machine(int(match[1]), kinds[0], *GPUS[kinds[0]])


def names_of_gpu(kind):
    """RTX4090-24GB -> also rtx4090 and 4090."""
    short = kind.lower().partition("-")[0]
    return kind.lower(), short, short.removeprefix("rtx")


# ---------------------------------------------------------------- the work of a step


def data_parallel(cfg, n_gpus):
    """GPUs with rows of their own in training. grpo.py splits matrices only to sample."""
    return n_gpus // cfg.tp if cfg.stage == "sft" else n_gpus


def step_tokens(cfg):
    """Tokens of an optimizer step. grpo.py computes the prompt of a group once."""
    if cfg.stage == "sft":
        return cfg.batch_rows * cfg.row_tokens
    return cfg.prompts_per_step * (cfg.prompt_tokens + cfg.group_size * cfg.answer_tokens)


def row_length(cfg):
    """Mean tokens of a row, with its prompt."""
    return cfg.row_tokens if cfg.stage == "sft" else cfg.prompt_tokens + cfg.answer_tokens


def full_micro_batch(cfg, n_gpus):
    """Lengths of the rows of the fullest micro-batch that a step can have: all mean, and a rest."""
    step_share = step_tokens(cfg) // data_parallel(cfg, n_gpus)
    n_tokens = min(cfg.micro_batch_tokens, max(cfg.max_length, step_share))
    n_rows, rest = divmod(n_tokens, row_length(cfg))
    lengths = [row_length(cfg)] * n_rows
    return [*lengths, rest] if rest else lengths


# ---------------------------------------------------------------- memory in training

# The moments of a step at which memory can be largest. The backward pass begins at the top layer.
TRAINING_PHASES = (
    "head",  # forward pass and head
    "first",  # backward pass of the top layer
    "last",  # backward pass of the bottom layer
    "embedding",  # its backward pass
    "update",  # the optimizer's step
)


class Setup(NamedTuple):
    """What the formulas below need to know."""

    cfg: object  # the Config of engine/plan.py
    whole: Parameters  # of the model
    part: Parameters  # of what one of tp GPUs computes
    is_tied: bool  # head and embedding are one matrix
    is_sharded: bool  # by FSDP; otherwise one GPU has it all
    share: float  # of weights, gradients and optimizer state, that one GPU keeps
    is_accumulating: bool  # over several micro-batches, the first of which leaves gradients


def training_memory(cfg, config, n_gpus, lengths=None, on_gpu=True):
    """The memory of one GPU in each of TRAINING_PHASES -> {phase: {part: bytes}}.

    config: the model's. lengths: of the rows of a micro-batch; None for as many as a step can have.
    """
    if lengths is None:
        lengths = full_micro_batch(cfg, n_gpus)
    own_config = config
    if cfg.tp > 1 and cfg.stage == "sft":
        own_config = split_config(config, cfg.tp)
    setup = Setup(
        cfg,
        whole=count_parameters(config, cfg.lora),
        part=count_parameters(own_config),
        is_tied=config.tie_word_embeddings,
        is_sharded=n_gpus > 1 or cfg.offload,
        share=kept_share(cfg, n_gpus),
        is_accumulating=step_tokens(cfg) / data_parallel(cfg, n_gpus) > sum(lengths),
    )
    activations = activation_bytes(
        own_config, lengths, cfg.dtype, setup.is_sharded, cfg.recompute, on_gpu, cfg.lora
    )
    memory = {}
    for phase in TRAINING_PHASES:
        memory[phase] = state_bytes(cfg, setup.whole, setup.share) | {
            "sampler": waiting_sampler_bytes(setup),
            "gradients": gradient_bytes(setup, phase),
            "gathered": gathered_bytes(setup, phase),
            "reduced": reduced_bytes(setup, phase),
            "activations": activations.get(phase, 0),
            "copy": copy_bytes(setup, phase) if on_gpu else 0,
        }
    return memory


def kept_share(cfg, n_gpus):
    """Share of weights, gradients and optimizer state that one GPU keeps."""
    return 0 if cfg.offload else 1 / n_gpus


def n_trained(cfg, whole):
    """Parameters that are trained."""
    return whole.adapters if cfg.lora else whole.total


def state_bytes(cfg, whole, share):
    """What stays from step to step, of this share of a model's Parameters -> {part: bytes}."""
    trained = n_trained(cfg, whole) * share
    # The reference of adapters is the model without them.
    has_reference = cfg.stage == "grpo" and cfg.with_reference and not cfg.lora
    frozen = number_bytes(cfg.dtype) * whole.total * share if cfg.lora else 0
    return {
        "weights": 4 * trained + frozen,
        "optimizer": 2 * number_bytes(cfg.adam_dtype) * trained,  # two moments
        "reference": 4 * whole.total * share if has_reference else 0,
    }


def waiting_sampler_bytes(setup):
    """The copy that samples waits on the GPU while the sharded model trains."""
    cfg = setup.cfg
    if cfg.stage != "grpo" or not setup.is_sharded:
        return 0
    return number_bytes(cfg.dtype) * setup.whole.total / cfg.tp


def gradient_bytes(setup, phase):
    """Gradients in float32, of the weights that this GPU keeps."""
    part = setup.part
    if setup.is_accumulating or phase == "update" or setup.cfg.lora:
        # All are there: those of the micro-batches before this one, or adapters' few.
        ready = 1
    elif phase == "head":
        ready = 0
    elif phase == "first":
        # The head has its gradient, unless the embedding's is to be added to it. In shards the
        # ends' gradients are complete last; until then they are whole, see reduced_bytes.
        ready = 0 if setup.is_sharded or setup.is_tied else part.head / part.total
    else:
        ready = 1 - part.ends / part.total if setup.is_sharded else 1
    return 4 * n_trained(setup.cfg, setup.whole) * setup.share * ready


def gathered_bytes(setup, phase):
    """Weights that FSDP has gathered: the ends, the layer that computes and the next one."""
    if not setup.is_sharded:
        return 0
    part = setup.part
    n = {"update": 0, "embedding": part.ends}.get(phase, part.ends + 2 * part.layer)
    return number_bytes(setup.cfg.dtype) * n


def reduced_bytes(setup, phase):
    """Whole gradients: in the computation's type, in float32 while they are summed over GPUs."""
    if not setup.is_sharded or setup.cfg.lora:
        return 0
    part = setup.part
    size = number_bytes(setup.cfg.dtype)
    if phase == "first":
        return size * (part.head + part.layer)
    if phase == "last":
        return size * part.head + 4 * part.layer
    if phase == "embedding":
        return (size + 4) * part.ends
    return 0


def copy_bytes(setup, phase):
    """AdamW with bf16 moments makes three float32 tensors of a matrix's size, at most the head's.

    PyTorch's AdamW, with moments in float32, is one kernel on a GPU and makes none.
    """
    if phase != "update" or setup.cfg.adam_dtype != "bf16" or setup.cfg.lora:
        return 0
    return setup.share * 3 * 4 * setup.whole.head


# ---------------------------------------------------------------- memory in rollouts


def cache_bytes(config, dtype):
    """Keys and values of one token in all layers."""
    n_numbers = (
        2 * config.num_hidden_layers * config.num_key_value_heads * models.head_width(config)
    )
    return number_bytes(dtype) * n_numbers


def rollout_memory(cfg, config, gpus):
    """The memory of one GPU while it samples -> ({part: bytes}, slots).

    slots: sequences that --tp GPUs decode side by side.
    """
    whole = count_parameters(config, cfg.lora)
    total = whole.total
    parts = state_bytes(cfg, whole, kept_share(cfg, gpus.n))
    if cfg.offload_optimizer:
        parts["optimizer"] = 0
    # On one GPU the trained weights themselves sample, in bf16 as a copy; frozen ones are in bf16.
    has_copy = (cfg.dtype == "bf16" and not cfg.lora) or gpus.n > 1
    parts["sampler"] = number_bytes(cfg.dtype) * total / cfg.tp if has_copy else 0

    cache = cache_bytes(config, cfg.dtype) * (cfg.prompt_tokens + cfg.max_tokens) / cfg.tp
    logits = 12 * config.vocab_size  # in float32, with what sampling makes of them
    slot_bytes = cache + logits
    n_free = int((gpus.usable - sum(parts.values())) // slot_bytes)
    n_wanted = math.ceil(cfg.prompts_per_step * cfg.group_size * cfg.tp / gpus.n)
    slots = min(cfg.slots, n_wanted, max(0, n_free))
    parts["cache"] = slots * slot_bytes
    return parts, slots


# ---------------------------------------------------------------- time


def flops_per_token(config, length, recompute, rank=0):
    """FLOPs of a training step per token, in rows of this length (Kaplan et al. 2020, §2.1).

    Forward, 2 per weight. Attention adds 2 · 2 · width per token that it sees, on average half of
    the row. The backward pass takes twice as many, and recomputing one more forward pass. A frozen
    weight (LoRA, with adapters of this rank) has no gradient: once as many in the backward pass.
    """
    n = count_parameters(config, rank)
    layers = config.num_hidden_layers
    matrices = 2 * layers * n.layer
    attention = 2 * layers * config.num_attention_heads * models.head_width(config) * length
    passes = 4 if recompute else 3
    is_frozen = int(rank > 0)
    # The head's logits are always made once more in the backward pass.
    head = 2 * n.head * (4 - is_frozen)
    return matrices * (passes - is_frozen) + attention * passes + 2 * n.adapters * passes + head


def update_seconds(cfg, config, gpus):
    """Seconds of one optimizer step.

    Gathering weights happens while others compute; splitting and offloading do not.
    """
    whole = count_parameters(config, cfg.lora)
    n_micro = math.ceil(step_tokens(cfg) / data_parallel(cfg, gpus.n) / cfg.micro_batch_tokens)
    gathering = gathering_seconds(cfg, whole.total, gpus, n_micro)
    seconds = max(computing_seconds(cfg, config, gpus), gathering)
    seconds += splitting_seconds(cfg, config, gpus)
    if cfg.offload:
        seconds += offloading_seconds(cfg, whole, gpus, n_micro)
    return seconds


def computing_seconds(cfg, config, gpus):
    rate = gpus.n * gpus.rate(cfg.dtype) * 1e12 * UTILISATION
    flops = flops_per_token(config, row_length(cfg), cfg.recompute, cfg.lora)
    return step_tokens(cfg) * flops / rate


def gathering_seconds(cfg, n, gpus, n_micro):
    """FSDP: n weights are gathered twice in bf16 and reduced once in float32, per micro-batch."""
    dp = data_parallel(cfg, gpus.n)
    tp = gpus.n // dp
    reduced = 0 if cfg.lora else 4
    n_bytes = n_micro * (2 * 2 + reduced) * n / tp * (dp - 1) / dp
    return n_bytes / (LINK_SHARE * gpus.link * 1e9)


def splitting_seconds(cfg, config, gpus):
    """Tensor parallelism: each layer's outputs are summed over the tp GPUs.

    Two sums in each pass, forward and backward (and forward once more if recomputed), each of which
    sends a bf16 number twice.
    """
    dp = data_parallel(cfg, gpus.n)
    tp = gpus.n // dp
    n_sums = (6 if cfg.recompute else 4) * config.num_hidden_layers
    n_bytes = n_sums * step_tokens(cfg) / dp * config.hidden_size * 2 * 2 * (tp - 1) / tp
    return n_bytes / (LINK_SHARE * gpus.link * 1e9)


def offloading_seconds(cfg, whole, gpus, n_micro):
    """Shards go to the GPU and gradients back in each micro-batch; AdamW runs in host memory.

    AdamW reads weights, gradients and two moments, and writes all but the gradients: 28 bytes.
    """
    trained = n_trained(cfg, whole)
    shards = number_bytes(cfg.dtype) * whole.total if cfg.lora else 4 * whole.total
    return n_micro * (shards + 4 * trained) / gpus.n / PCIE + 28 * trained / HOST_BANDWIDTH


def rollout_seconds(cfg, config, gpus, slots):
    """Seconds to sample N · G completions.

    Each decoding step reads the weights and the cache. There are at least as many steps as the
    longest completion has tokens.
    """
    n = count_parameters(config).total
    context = cfg.prompt_tokens + cfg.answer_tokens / 2  # mean length while decoding
    n_bytes = number_bytes(cfg.dtype) * n
    n_bytes += slots * context * cache_bytes(config, cfg.dtype)
    reading = n_bytes / cfg.tp / (gpus.bandwidth * 1e9 * BANDWIDTH_SHARE)
    computing = 2 * n * slots / cfg.tp / (gpus.rate(cfg.dtype) * 1e12 * UTILISATION)

    completions = cfg.prompts_per_step * cfg.group_size * cfg.tp / gpus.n  # of tp GPUs
    n_steps = max(completions * cfg.answer_tokens / slots, cfg.max_tokens)
    return n_steps * max(reading, computing)


def sft_steps(cfg):
    """Optimizer steps: an epoch ends with a smaller step, except if a run ends within an epoch."""
    per_epoch = cfg.rows / cfg.batch_rows
    if cfg.epochs == int(cfg.epochs):
        per_epoch = math.ceil(per_epoch)
    return math.ceil(cfg.epochs * per_epoch)
