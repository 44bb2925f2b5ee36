"""Checks and benchmarks that need a GPU: real shapes with random weights, no downloads.

Prints one line for each figure as soon as it is there, and with --out writes a line of JSON.

    python tests/gpu.py --out gpu.jsonl                    all sections at 0.5B
    python tests/gpu.py --only sft grpo --shape 1.5b       some of them, at other shapes

    # tries the script itself, in seconds
    python tests/gpu.py --device cpu --shape tiny --dtype fp32 --context 32 --batches 2
        --packed-tokens 256 --row-tokens 64 --prompts-per-step 2 --prompt-tokens 9 --max-tokens 8

For a session that has a GPU for a few minutes at a time. --minutes 9 ends each call, which then
names what it left out:
    --only checks kernels decode against --shape 0.5b
    --only decode against --shape 1.5b 7b
    --only sft grpo --shape 0.5b 1.5b
    --only sft --shape 7b, and the same with --compile

checks   In bf16 on CUDA the variable-length flash kernel attends within packed rows; otherwise
         each sequence is attended to by itself: both must agree. A decoding step is replayed as a
         CUDA graph, with the Triton kernel over the cache: its texts must be those of single steps.
         kernels/ against float64
kernels  time and memory of the head; `python -m kernels.bench` has more sizes
decode   tokens/s, and the share of the floor: weights and cache read once per step, at the
         bandwidth of a copy measured here
against  the same prompts by transformers' generate and by its continuous batching
         (generate_batch), prefill included
sft      a step on packed rows, each way that engine/plan.py says fits: seconds, MFU, peak memory
         against the plan's
grpo     a step by the functions of grpo.py: seconds of rollout, log-probabilities and update,
         share of the floor, MFU

MFU counts 6 FLOPs per parameter and trained token plus attention, and no recomputation, over the
rate of the data sheet. On a GPU each section of a shape has its own process: one that fails, hangs
or takes all memory stops no other.
"""

import dataclasses
import functools
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


import grpo  # noqa: E402
import kernels  # noqa: E402
from data import tiny  # noqa: E402
from engine import (
    checkpoints,  # noqa: E402
    costs,  # noqa: E402
    decoder,  # noqa: E402
    machine,
    packing,  # noqa: E402
    plan,  # noqa: E402
    processes,  # noqa: E402
    settings,  # noqa: E402
    training,  # noqa: E402
)
from engine import model as models  # noqa: E402
from engine.format import FORMATS  # noqa: E402
from engine.rows import BadInput  # noqa: E402
from kernels import Head, bench, reference, reference_attention  # noqa: E402


@dataclass(frozen=True)
class Config:
    shape: tuple[str, ...] = ("0.5b",)  # of Qwen2.5: 0.5b, 1.5b, 7b ...; or tiny
    only: tuple[str, ...] = ()  # sections; default: all
    out: str = ""  # JSON lines, appended
    minutes: float = 9.0  # after which what runs is ended and nothing begins
    device: str = "cuda"  # or cpu
    dtype: Literal["bf16", "fp32"] = "bf16"  # of decoding and of the training computation
    context: int = 1024  # prompt tokens of decode and against
    new_tokens: int = 128  # generated per sequence
    batches: tuple[int, ...] = (1, 16, 64, 256)  # sequences decoded side by side
    packed_tokens: int = 16384  # of a training step in sft, of a micro-batch in grpo
    row_tokens: int = 2048  # of a row in sft
    compile: bool = False  # sft: torch.compile each layer
    prompts_per_step: int = 32  # grpo: N
    group_size: int = 8  # grpo: G
    prompt_tokens: int = 200  # grpo
    max_tokens: int = 512  # grpo: of a completion; random weights hardly ever stop before


def report(cfg, line, **figures):
    print(line, flush=True)
    if cfg.out:
        device = "CPU" if cfg.device == "cpu" else torch.cuda.get_device_name()
        with open(cfg.out, "a") as file:
            file.write(
                json.dumps(
                    {
                        "device": device,
                        "torch": torch.__version__,
                        "dtype": cfg.dtype,
                        **{
                            name: float(f"{x:.6g}") if isinstance(x, float) else x
                            for name, x in figures.items()
                        },
                    }
                )
                + "\n"
            )


def config_of(shape):
    if shape != "tiny":
        return costs.model_config(f"qwen2.5-{shape}")
    return Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )


def make(shape, device, dtype):
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config_of(shape))
    model.set_attn_implementation("packed")
    return model.to(dtype).eval()


def tokenizer_of(model):
    """Of as many words as the head has rows, so that sampling is over all of them."""
    words = [
        *tiny.VOCABULARY,
        *(f"w{i}" for i in range(len(tiny.VOCABULARY), len(models.head(model)))),
    ]
    with mock.patch.object(tiny, "VOCABULARY", words):
        return tiny.tokenizer()


def dtype_of(cfg):
    return torch.bfloat16 if cfg.dtype == "bf16" else torch.float32


def bandwidth_of(device):
    """Bytes per second that a copy reads and writes."""
    block = torch.empty(2**28 if device != "cpu" else 2**24, dtype=torch.uint8, device=device)
    return 2 * len(block) / seconds(lambda: block.clone(), device)


def step_bytes(model, dtype, n, cells):
    """Bytes that a decoding step of n sequences has to read.

    Each weight once (of an embedding apart from the head only a row for each sequence), and the
    cache of `cells` tokens for each sequence.
    """
    apart = models.head_is_apart(model) and model.get_input_embeddings().weight.numel()
    n_weights, size = (
        sum(p.numel() for p in model.parameters()) - apart,
        {"bf16": 2, "fp32": 4}[dtype],
    )
    return size * n_weights + n * cells * costs.cache_bytes(model.config, dtype)


def mfu_of(cfg, rate):
    """Floating-point operations per second -> the figure in words, its share of the data sheet's."""
    peak = training.peak_flops(cfg.device)
    return (
        f"{rate / 1e12:.1f} TFLOP/s" + (f", MFU {rate / peak:.1%}" if peak else "")
    ), rate / peak if peak else None


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(call, device, repeats=5):
    """Median seconds of call() after one call that is not counted."""
    times = []
    for _ in range(repeats + 1):
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


# ---------------------------------------------------------------- checks


def check_attention(cfg):
    """The flash kernel in bf16 against single sequences in fp32, and no leak between sequences."""
    device = cfg.device
    exact = make("tiny", device, torch.float32)
    fast = make("tiny", device, torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 512, (n,), generator=generator).tolist() for n in (5, 200, 1, 77)]
    wanted, found = (
        models.score(m, packing.pack(rows, device=device)).logp.float() for m in (exact, fast)
    )
    other = [rows[0], rows[1][:100] + [7] * 100, *rows[2:]]
    changed = models.score(fast, packing.pack(other, device=device)).logp.float()
    inside = (packing.pack(rows).row != 1).to(device)
    error, leak = (wanted - found).abs().max().item(), (found - changed)[inside].abs().max().item()
    report(
        cfg,
        f"packed bf16 against fp32: largest log-prob error {error:.4f} (want < 0.1); "
        f"leak into other sequences {leak:.1e} (want 0)",
        section="checks",
        error=error,
        leak=leak,
    )


def check_kernels(cfg):
    """kernels.* against float64, beside the error of whole logits in the same type."""
    device = cfg.device
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(1)
        hidden, weight = (
            torch.randn(n, 200, device=device).mul(0.3).to(dtype) for n in (300, 5003)
        )
        weight[8] = weight[7]  # equal logits have equal ranks
        target = torch.randint(5003, (300,), device=device)
        both = [
            [x.to(kind).clone().requires_grad_(True) for x in (hidden, weight)]
            for kind in (dtype, dtype, torch.float64)
        ]
        head = Head(both[0][1], softcap=20.0)
        stats = kernels.token_stats(both[0][0], head, target, 0.7, want=("logp", "entropy", "rank"))
        runs = [(stats.logp, stats.entropy)]
        for h, w in both[1:]:
            logp = (20 * torch.tanh(h @ w.T / 20) / 0.7).log_softmax(1)
            runs.append((logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(1)))
        for logp, entropy in runs:
            (logp - entropy).sum().backward()
        ours, plain = (
            [
                (a - b).abs().max().item()
                for a, b in zip(
                    (*run, *[x.grad for x in leaves]), (*runs[2], *[x.grad for x in both[2]])
                )
            ]
            for run, leaves in zip(runs[:2], both)
        )
        twin = reference.token_stats(hidden, Head(weight, 20.0), target, 0.7, ("rank",)).rank
        tie = [
            kernels.token_stats(
                hidden, Head(weight), torch.full_like(target, i), want=("rank",)
            ).rank
            for i in (7, 8)
        ]
        pairs = [
            kl(hidden, Head(weight), hidden.flip(0), Head(weight))
            for kl in (kernels.token_kl, reference.token_kl)
        ]
        errors = [" ".join(f"{x:.1e}" for x in errors) for errors in (ours, plain)]
        unlike, apart = (stats.rank != twin).float().mean(), (tie[0] != tie[1]).sum()
        kl_error = (pairs[0][0] - pairs[1][0]).abs().max() / pairs[1][0].max()
        report(
            cfg,
            f"{str(dtype)[6:]}: token_stats errors of logp, entropy, gradients {errors[0]}, of plain {errors[1]} "
            f"(want: no larger, fp32 < 1e-4); ranks unlike the twin's {unlike:.1%}, of equal logits {apart} "
            f"(want 0); KL {kl_error:.1e} off the twin's",
            section="checks",
            type=str(dtype)[6:],
            errors=ours,
            plain_errors=plain,
            kl_error=float(kl_error),
        )
        query = torch.randn(6, 10, 64, device=device).to(dtype)
        keys, values = (torch.randn(6, 2, 500, 64, device=device).to(dtype) for _ in "kv")
        lengths = torch.tensor([0, 1, 63, 64, 300, 498], device=device)

        def attend(function=kernels.decode_attention, kind=dtype):
            return function(
                query.to(kind), keys.to(kind), values.to(kind), lengths, 0.125, 200, 30.0
            )

        error = (attend() - attend(reference_attention.decode_attention, torch.float64)).abs().max()
        replayed = 0.0
        if device != "cpu":  # a graph must follow lengths that grow
            graph, _ = torch.cuda.CUDAGraph(), wait(device)
            with torch.cuda.graph(graph):
                out = attend()
            lengths += 1
            graph.replay()
            replayed = (out - attend()).abs().max()
        report(
            cfg,
            f"{str(dtype)[6:]}: decode attention {error:.1e} off float64 (want < 2e-2, fp32 < 1e-5); "
            f"captured in a graph {replayed:.1e} off (want 0)",
            section="checks",
            type=str(dtype)[6:],
            attention_error=float(error),
            replayed_error=float(replayed),
        )


def check_graphs(cfg):
    """Uneven prompts and lengths in few slots: texts of the recorded step and of single steps."""
    model, tokenizer = make("tiny", cfg.device, torch.float32), tiny.tokenizer()
    requests = [
        decoder.Request([(5 * i + j) % 140 + 7 for j in range(1 + 11 * i % 70)], i, 9 + 7 * i % 50)
        for i in range(24)
    ]

    def texts():
        return dict(
            decoder.decode(
                model, tokenizer, FORMATS["plain"], requests, decoder.Sampling(1.0), slots=9
            )
        )

    recorded = texts()
    with mock.patch.object(
        decoder.Stepper, "__call__", lambda self, n, longest: self.run(n, longest)
    ):
        stepped = texts()
    same = sum(recorded[i].ids == stepped[i].ids for i in stepped)
    report(
        cfg,
        f"texts of the recorded step equal to those of single steps: {same} of {len(stepped)}",
        section="checks",
        same_texts=same,
        texts=len(stepped),
    )


def check_optimizer(cfg):
    """Two steps of AdamW, and the second again from a checkpoint of the first.

    On a GPU one kernel does a step.
    """

    def after_second(folder=None):
        model = make("tiny", cfg.device, torch.float32).requires_grad_(True)
        optimizers = training.make_optimizers(model, 1e-3, (0.9, 0.95), 0.1)
        if folder:
            checkpoints.load_checkpoint(f"{folder}/checkpoint-1", model, optimizers)
        for step in range(1 if folder else 0, 2):
            for i, p in enumerate(model.parameters()):
                p.grad = torch.cos(torch.arange(p.numel(), device=cfg.device) + i + step).view_as(p)
            training.update(model, optimizers, 1e9, 1.0)
            if step == 0:
                checkpoints.save_checkpoint(place, model, optimizers, 1, {})
        return model, optimizers[0].defaults["fused"]

    with tempfile.TemporaryDirectory() as place:
        (whole, fused), (resumed, _) = after_second(), after_second(place)
    gap = max((a - b).abs().max().item() for a, b in zip(whole.parameters(), resumed.parameters()))
    report(
        cfg,
        f"AdamW, fused {fused}: resumed from a checkpoint {gap:.1e} off (want 0)",
        section="checks",
        fused=fused,
        resumed_error=gap,
    )


def checks(cfg, shape):
    check_attention(cfg)
    check_optimizer(cfg)
    check_graphs(cfg)
    check_kernels(cfg)


# ---------------------------------------------------------------- benchmarks


def bench_kernels(cfg, shape):
    config = config_of(shape)
    for row in bench.bench_head(
        min(8192, cfg.packed_tokens), config.hidden_size, config.vocab_size, cfg.device, 3
    ):
        if cfg.out:
            with mock.patch("builtins.print"):  # it has its line
                report(cfg, "", section="kernels", shape=shape, **row)


def prompts_of(cfg, n):
    return [[(7 * i + j) % 140 + 7 for j in range(cfg.context)] for i in range(n)]


def decoding(cfg, shape):
    """-> (model, function of prompts and a limit that decodes them greedily and never stops)."""
    model = make(shape, cfg.device, dtype_of(cfg))
    tokenizer = tokenizer_of(model)
    models.head(model).data[tokenizer.eos_token_id] = 0  # greedy decoding never picks it

    def decode(prompts, limit):
        requests = [decoder.Request(prompt, i, limit) for i, prompt in enumerate(prompts)]
        return list(
            decoder.decode(model, tokenizer, FORMATS["plain"], requests, slots=len(prompts))
        )

    return model, decode


@torch.no_grad()
def bench_decoder(cfg, shape):
    (model, decode), bandwidth = decoding(cfg, shape), bandwidth_of(cfg.device)
    for n in cfg.batches:
        prompts = prompts_of(cfg, n)
        both, prefill = (
            seconds(lambda: decode(prompts, limit), cfg.device, 2) for limit in (cfg.new_tokens, 1)
        )
        step = (both - prefill) / (cfg.new_tokens - 1)
        floor = step_bytes(model, cfg.dtype, n, cfg.context + cfg.new_tokens / 2) / bandwidth
        report(
            cfg,
            f"decode {shape} batch {n} context {cfg.context}: {n / step:.0f} tokens/s, step {step * 1e3:.2f} ms, "
            f"{floor / step:.0%} of the floor at {bandwidth / 1e9:.0f} GB/s; prefill "
            f"{n * cfg.context / prefill:.0f} tokens/s",
            section="decode",
            shape=shape,
            batch=n,
            context=cfg.context,
            tokens_per_second=n / step,
            step_ms=step * 1e3,
            share_of_floor=floor / step,
            bandwidth=bandwidth,
            prefill_tokens_per_second=n * cfg.context / prefill,
        )


@torch.no_grad()
def bench_transformers(cfg, shape):
    """Their two ways beside ours; what does not run is named, and the next batch tried."""
    model, decode = decoding(cfg, shape)
    more = {
        "max_new_tokens": cfg.new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    # there it takes all memory for its cache
    names = ("generate", "generate_batch")[: 1 if cfg.device == "cpu" else 2]
    for name in names:
        for n in cfg.batches:
            prompts = prompts_of(cfg, n)
            ids = torch.tensor(prompts, device=cfg.device)
            ours = (
                n * cfg.new_tokens / seconds(lambda: decode(prompts, cfg.new_tokens), cfg.device, 2)
            )
            calls = {
                "generate": lambda: model.generate(
                    ids, attention_mask=torch.ones_like(ids), **more
                ),
                "generate_batch": lambda: model.generate_batch(prompts, GenerationConfig(**more)),
            }
            model.set_attn_implementation("sdpa")
            try:
                theirs = n * cfg.new_tokens / seconds(calls[name], cfg.device, 1)
                report(
                    cfg,
                    f"{shape} batch {n}, with prefill: {ours:.0f} tokens/s, {ours / theirs:.2f} x transformers' "
                    f"{name} ({theirs:.0f})",
                    section="against",
                    shape=shape,
                    batch=n,
                    name=name,
                    tokens_per_second=ours,
                    theirs=theirs,
                )
            except Exception as error:  # an optional package of theirs may be missing
                report(
                    cfg,
                    f"{shape} batch {n}: transformers' {name} does not run here ({type(error).__name__}: "
                    f"{str(error)[:300]!r})",
                    section="against",
                    shape=shape,
                    batch=n,
                    name=name,
                    error=str(error),
                )
            finally:
                model.set_attn_implementation("packed")


def bench_sft(cfg, shape):
    """One micro-batch of whole rows and an optimizer step, each way that fits."""
    lengths = [cfg.row_tokens] * (cfg.packed_tokens // cfg.row_tokens)
    ways = [(recompute, adam) for adam in ("fp32", "bf16") for recompute in (False, True)]
    for recompute, adam in ways[:1] if cfg.device == "cpu" else ways:
        planned = max(
            sum(parts.values())
            for parts in costs.training_memory(
                plan.Config(
                    dtype=cfg.dtype,
                    recompute=recompute,
                    adam_dtype=adam,
                    row_tokens=cfg.row_tokens,
                    batch_rows=len(lengths),
                ),
                config_of(shape),
                1,
                lengths,
                on_gpu=cfg.device != "cpu",
            ).values()
        )
        way = f"sft {shape} {sum(lengths)} packed tokens, Adam {adam}" + ", recomputing" * recompute
        figures = {
            "section": "sft",
            "shape": shape,
            "tokens": sum(lengths),
            "adam": adam,
            "recompute": recompute,
            "compile": cfg.compile,
            "planned_gib": planned / costs.GIB,
        }
        free = machine.free_memory(torch.device(cfg.device))
        if planned * (1 + costs.FRAGMENTS) > free:
            report(
                cfg,
                f"{way}: planned {planned / costs.GIB:.1f} GiB, free {free / costs.GIB:.1f}: not tried",
                **figures,
            )
            continue
        try:
            fine_tune(cfg, shape, lengths, way, figures)
        except torch.OutOfMemoryError as error:
            report(
                cfg,
                f"{way}: planned {planned / costs.GIB:.1f} GiB, does not fit",
                **figures,
                error=str(error),
            )
        gc.collect()
        if cfg.device != "cpu":
            torch.cuda.empty_cache()


def fine_tune(cfg, shape, lengths, way, figures):
    model = make(shape, cfg.device, torch.float32).requires_grad_(True)
    for layer in models.layers(model) if figures["recompute"] else ():
        layer.forward = functools.partial(
            torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False
        )
    for layer in models.layers(model) if cfg.compile else ():
        layer.compile(dynamic=True)
    optimizers = training.make_optimizers(model, 1e-5, (0.9, 0.95), 0.0, adam_dtype=figures["adam"])
    batch = packing.pack(
        [[(3 * i + j) % 500 for j in range(n)] for i, n in enumerate(lengths)], device=cfg.device
    )
    if cfg.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(4):
        wait(cfg.device)
        began = time.perf_counter()
        with training.autocast(cfg, processes.Ranks(cfg.device)):
            loss = -models.score(model, batch).logp.mean()
        loss.backward()
        wait(cfg.device)
        middle = time.perf_counter()
        training.update(model, optimizers, 1.0, 1.0)
        wait(cfg.device)
        times.append((middle - began, time.perf_counter() - middle))
    passes, update = (statistics.median(part) for part in zip(*times[1:]))
    flops = 3 * models.forward_flops(model, lengths)
    (rate, mfu), (alone_rate, alone) = (
        mfu_of(cfg, flops / took) for took in (passes + update, passes)
    )
    peak = 0 if cfg.device == "cpu" else torch.cuda.max_memory_allocated()
    report(
        cfg,
        f"{way}: {sum(lengths) / (passes + update):.0f} tokens/s, {rate}; without the optimizer, {update:.3f} of "
        f"{passes + update:.3f} s, {alone_rate}; peak memory {peak / costs.GIB:.1f} GiB, planned "
        f"{figures['planned_gib']:.1f}",
        **figures,
        seconds=passes + update,
        update_seconds=update,
        mfu=mfu,
        mfu_without_optimizer=alone,
        peak_gib=peak / costs.GIB,
    )


def bench_grpo(cfg, shape):
    """Rollout, log-probabilities as --tis asks for them, one update with random advantages.

    Reports the second of two steps.
    """
    n, size = cfg.prompts_per_step, cfg.group_size
    model = make(shape, cfg.device, torch.float32).requires_grad_(True)
    tokenizer, bandwidth = tokenizer_of(model), bandwidth_of(cfg.device)
    settings = grpo.Config(
        model=shape,
        data="",
        out="",
        format="plain",
        prompts_per_step=n,
        group_size=size,
        max_tokens=cfg.max_tokens,
        slots=n * size,
        micro_batch_tokens=cfg.packed_tokens,
        device=cfg.device,
        dtype=cfg.dtype,
    )
    problems = [
        {
            "id": i,
            "question": " ".join(
                tiny.VOCABULARY[7 + (i + j) % 140] for j in range(cfg.prompt_tokens - 2)
            ),
        }
        for i in range(n)
    ]
    setup = grpo.Setup(
        settings,
        model,
        model,
        processes.Ranks(cfg.device),
        None,
        None,
        tokenizer,
        FORMATS["plain"],
        None,
        problems,
        {},
    )
    optimizers = training.make_optimizers(model, 1e-6, (0.9, 0.95), 0.0)
    for number in range(2):
        times = [time.perf_counter()]

        def lap():
            wait(cfg.device)
            times.append(time.perf_counter())

        groups = grpo.sample_groups(setup, problems, ("bench", number), range(n))
        lap()
        sequences, masks, sampled = grpo.token_columns(
            [row for group in groups for row in group], settings
        )
        grpo.logps_of(model, sequences, masks, settings)
        lap()
        rollout = grpo.Rollout(sequences, masks, sampled, torch.randn(n * size))
        values = grpo.update_policy(model, None, optimizers, rollout, settings, 1.0, False)
        lap()
    rollout, logps, update = (b - a for a, b in zip(times, times[1:]))
    lengths = [len(row["ids"]) for group in groups for row in group]
    weights, cell = step_bytes(model, cfg.dtype, 0, 0), costs.cache_bytes(model.config, cfg.dtype)
    floor = (
        weights * max(lengths) + cell * sum(x * (cfg.prompt_tokens + x / 2) for x in lengths)
    ) / bandwidth
    rate, mfu = mfu_of(cfg, values["flops"] / update)
    report(
        cfg,
        f"grpo {shape} {n} x {size} completions of {statistics.fmean(lengths):.0f} tokens: rollout {rollout:.2f} s "
        f"({sum(lengths) / rollout:.0f} tokens/s, {floor / rollout:.0%} of the floor, prefill included), log-probs "
        f"{logps:.2f} s, update {update:.2f} s ({rate}); furthest ratio {values['ratio_max']:.1e}, "
        f"mean |Δ log p| {values['dlogp']:.1e}",
        section="grpo",
        shape=shape,
        prompts=n,
        group_size=size,
        tokens=sum(lengths),
        rollout_seconds=rollout,
        logp_seconds=logps,
        update_seconds=update,
        share_of_floor=floor / rollout,
        mfu=mfu,
        ratio_max=values["ratio_max"],
        dlogp=values["dlogp"],
    )


SECTIONS = {
    "checks": checks,
    "kernels": bench_kernels,
    "decode": bench_decoder,
    "against": bench_transformers,
    "sft": bench_sft,
    "grpo": bench_grpo,
}


def flags(cfg):
    """The command line that gives these settings."""
    found = []
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else [] if value is True else [value]
            found += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return found


def main(cfg):
    """Run the sections; exits with their names if some could not be measured."""
    names = cfg.only or tuple(SECTIONS)
    if not set(names) <= set(SECTIONS):
        raise BadInput(f"--only {' '.join(names)}: sections are {', '.join(SECTIONS)}")
    for shape in cfg.shape:
        config_of(shape)  # refuses a name
    print(
        f"{'CPU' if cfg.device == 'cpu' else torch.cuda.get_device_name()}, torch {torch.__version__}, {cfg.dtype}"
    )
    todo = [
        (name, shape) for name in names for shape in cfg.shape[: 1 if name == "checks" else None]
    ]
    missing, end = [], time.monotonic() + 60 * cfg.minutes
    for name, shape in todo:
        left = end - time.monotonic()
        if left <= 0:
            missing.append(f"{name} {shape} (no time was left)")
            continue
        try:
            if cfg.device == "cpu" or len(todo) == 1:
                SECTIONS[name](cfg, shape)
            elif subprocess.run(
                [
                    sys.executable,
                    __file__,
                    *flags(dataclasses.replace(cfg, only=(name,), shape=(shape,))),
                ],
                timeout=left,
            ).returncode:
                missing.append(f"{name} {shape}")  # it has said why
        except Exception as error:
            traceback.print_exc()
            missing.append(f"{name} {shape}")
            report(
                cfg,
                f"{name} {shape}: {type(error).__name__}: {str(error).splitlines()[:1]}",
                section=name,
                shape=shape,
                error=str(error),
            )
    if missing:
        sys.exit(f"not measured: {', '.join(missing)}")


if __name__ == "__main__":
    settings.cli(main, Config)
