"""Checks and benchmarks that need a GPU: real shapes with random weights, no downloads. Prints one line per measurement.

    python tests/gpu.py                         checks, then 0.5B; about 3 minutes on a data-centre GPU
    python tests/gpu.py --shape 7b              7B shapes (fp32 master weights, gradients and Adam: 122 GB)
    python tests/gpu.py --device cpu --shape tiny --dtype fp32      tries the script itself, in seconds

What runs where: bf16 on CUDA takes the variable-length flash kernel inside packed rows, everything else the padded
blocks; both must agree. A decoding step is replayed as a CUDA graph with the Triton kernel over the cache, and its texts
must be those of single steps; transformers' generate and its continuous batching decode the same prompts beside it. The
decoder's floor is the time to read weights and cache once per step at the measured copy
bandwidth. MFU counts 6 FLOPs per parameter and trained token plus attention.
"""
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import decoder  # noqa: E402
import kernels  # noqa: E402
import model as models  # noqa: E402
import sft  # noqa: E402
from data import run, tiny  # noqa: E402
from data.format import FORMATS  # noqa: E402
from kernels import bench, reference  # noqa: E402

SHAPES = {  # width, inner width, layers, heads, key-value heads, vocabulary, tied head
    "tiny": (64, 128, 2, 4, 2, 512, True), "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151936, True), "7b": (3584, 18944, 28, 28, 4, 152064, False)}


@dataclass(frozen=True)
class Config:
    shape: Literal["tiny", "0.5b", "1.5b", "7b"] = "0.5b"  # of Qwen2.5
    device: str = "cuda"                 # or cpu
    dtype: Literal["bf16", "fp32"] = "bf16"                # of decoding and of the training computation
    context: int = 1024                  # prompt tokens of the decoding benchmark
    new_tokens: int = 128                # generated per sequence
    batches: tuple[int, ...] = (1, 16, 64, 256)            # sequences decoded side by side
    against: int = 64                    # batch at which transformers decodes the same prompts; 0 = not
    packed_tokens: int = 16384           # of a training step


def make(shape, device, dtype):
    width, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    config = Qwen2Config(vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
                         num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
                         max_position_embeddings=32768)
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("packed")
    models.fuse_norms(model)                                              # as model.load does
    return model.to(dtype).eval()


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


def check_attention(device):
    """The fast path in bf16 against the padded blocks in fp32 on the same weights, and no leak between sequences."""
    exact = make("tiny", device, torch.float32)
    fast = make("tiny", device, torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 512, (n,), generator=generator).tolist() for n in (5, 200, 1, 77)]
    wanted, found = (models.score(m, models.pack(rows, device=device)).logp.float() for m in (exact, fast))
    other = [rows[0], rows[1][:100] + [7] * 100, *rows[2:]]
    changed = models.score(fast, models.pack(other, device=device)).logp.float()
    inside = (models.pack(rows).row != 1).to(device)
    print(f"packed bf16 against fp32: largest log-prob error {(wanted - found).abs().max():.4f} (want < 0.1); "
          f"leak into other sequences {(found - changed)[inside].abs().max():.1e} (want 0)")


def check_kernels(device):
    """kernels.* against float64 of the same numbers, and beside it the error of whole logits in the same type."""
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(1)
        hidden, weight = (torch.randn(n, 200, device=device).mul(0.3).to(dtype) for n in (300, 5003))
        weight[8] = weight[7]                                             # equal logits have equal ranks
        target = torch.randint(5003, (300,), device=device)
        both = [[x.to(kind).clone().requires_grad_(True) for x in (hidden, weight)]
                for kind in (dtype, dtype, torch.float64)]
        stats = kernels.token_stats(*both[0], target, 0.7, 20.0, want=("logp", "entropy", "rank"))
        runs = [(stats.logp, stats.entropy)]
        for h, w in both[1:]:
            logp = (20 * torch.tanh(h @ w.T / 20) / 0.7).log_softmax(1)
            runs.append((logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(1)))
        for logp, entropy in runs:
            (logp - entropy).sum().backward()
        ours, plain = ([(a - b).abs().max() for a, b in zip((*run, *[x.grad for x in leaves]),
                                                            (*runs[2], *[x.grad for x in both[2]]))]
                       for run, leaves in zip(runs[:2], both))
        twin = reference.token_stats(hidden, weight, target, 0.7, 20.0, ("rank",)).rank
        tie = [kernels.token_stats(hidden, weight, torch.full_like(target, i), want=("rank",)).rank for i in (7, 8)]
        pairs = [kl(hidden, weight, hidden.flip(0), weight) for kl in (kernels.token_kl, reference.token_kl)]
        errors = [" ".join(f"{x:.1e}" for x in errors) for errors in (ours, plain)]
        unlike, apart = (stats.rank != twin).float().mean(), (tie[0] != tie[1]).sum()
        kl_error = (pairs[0][0] - pairs[1][0]).abs().max() / pairs[1][0].max()
        print(f"{str(dtype)[6:]}: token_stats errors of logp, entropy, gradients {errors[0]}, of plain {errors[1]} "
              f"(want: no larger, fp32 < 1e-4); ranks unlike the twin's {unlike:.1%}, of equal logits {apart} "
              f"(want 0); KL {kl_error:.1e} off the twin's")
        query = torch.randn(6, 10, 64, device=device).to(dtype)
        keys, values = (torch.randn(6, 2, 500, 64, device=device).to(dtype) for _ in "kv")
        lengths = torch.tensor([0, 1, 63, 64, 300, 498], device=device)

        def attend(function=kernels.decode_attention, kind=dtype):
            return function(query.to(kind), keys.to(kind), values.to(kind), lengths, 499, 0.125, 200, 30.0)

        error = (attend() - attend(reference.decode_attention, torch.float64)).abs().max()
        replayed = 0.0
        if device != "cpu":                                               # a graph must follow lengths that grow
            graph, _ = torch.cuda.CUDAGraph(), wait(device)
            with torch.cuda.graph(graph):
                out = attend()
            lengths += 1
            graph.replay()
            replayed = (out - attend()).abs().max()
        print(f"{str(dtype)[6:]}: decode attention {error:.1e} off float64 (want < 2e-2, fp32 < 1e-5); "
              f"captured in a graph {replayed:.1e} off (want 0)")


def bench_decoder(cfg, dtype):
    """Tokens/s of decoder.decode without stops, and the share of the bandwidth floor that a step reaches."""
    model, tokenizer = make(cfg.shape, cfg.device, dtype), tiny.tokenizer()
    with torch.no_grad():
        models.head(model)[tokenizer.eos_token_id] = 0                    # greedy decoding never picks it
    block = torch.empty(2**28 if cfg.device != "cpu" else 2**24, dtype=torch.uint8, device=cfg.device)
    bandwidth = 2 * len(block) / seconds(lambda: block.clone(), cfg.device)
    config, size = model.config, torch.finfo(dtype).bits // 8
    weights = sum(p.numel() for p in model.parameters()) * size
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * size * \
        config.hidden_size // config.num_attention_heads
    for n in cfg.batches:
        requests = [decoder.Request([(7 * i + j) % 140 + 7 for j in range(cfg.context)], i, cfg.new_tokens)
                    for i in range(n)]

        def decode(limit):
            short = [r._replace(max_tokens=limit) for r in requests]
            return list(decoder.decode(model, tokenizer, FORMATS["plain"], short, slots=n))

        both, prefill = seconds(lambda: decode(cfg.new_tokens), cfg.device, 2), seconds(lambda: decode(1), cfg.device, 2)
        step = (both - prefill) / (cfg.new_tokens - 1)
        floor = (weights + n * per_token * (cfg.context + cfg.new_tokens / 2)) / bandwidth
        print(f"decode {cfg.shape} batch {n} context {cfg.context}: {n / step:.0f} tokens/s, step {step * 1e3:.2f} ms, "
              f"{floor / step:.0%} of the floor at {bandwidth / 1e9:.0f} GB/s; prefill {n * cfg.context / prefill:.0f} tokens/s")
        if n == cfg.against:
            bench_transformers(cfg, model, [r.prompt for r in requests], n * cfg.new_tokens / both)


def bench_transformers(cfg, model, prompts, ours):
    """The same prompts by transformers' generate and generate_batch, prefill included, against our tokens/s."""
    more = {"max_new_tokens": cfg.new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.tensor(prompts, device=cfg.device)
    calls = {"generate": lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **more)}
    if cfg.device != "cpu":                          # there it takes all memory for its cache first
        calls["generate_batch"] = lambda: model.generate_batch(prompts, GenerationConfig(**more))
    for name, call in calls.items():
        model.set_attn_implementation("sdpa")
        try:
            found = len(prompts) * cfg.new_tokens / seconds(call, cfg.device, 2)
            print(f"  with prefill {ours:.0f} tokens/s, {ours / found:.2f} x transformers' {name} ({found:.0f})")
        except Exception as error:                   # an optional package of theirs may be missing
            print(f"  transformers' {name} does not run here ({type(error).__name__}: {str(error).splitlines()[:1]})")
        finally:
            model.set_attn_implementation("packed")


def check_graphs(device, dtype):
    """Uneven prompts and lengths through few slots: texts of the recorded step against those of single steps."""
    model, tokenizer = make("tiny", device, dtype), tiny.tokenizer()
    requests = [decoder.Request([(5 * i + j) % 140 + 7 for j in range(1 + 11 * i % 70)], i, 9 + 7 * i % 50)
                for i in range(24)]

    def texts():
        return dict(decoder.decode(model, tokenizer, FORMATS["plain"], requests, decoder.Sampling(1.0), slots=9))

    recorded = texts()
    with mock.patch.object(decoder.Stepper, "__call__", lambda self, n, longest: self.run(n, longest)):
        stepped = texts()
    same = sum(recorded[i].ids == stepped[i].ids for i in stepped)
    print(f"texts of the recorded step equal to those of single steps: {same} of {len(stepped)}")


def bench_training(cfg):
    """One SFT step on packed rows of 2k tokens: tokens/s, TFLOP/s, peak memory."""
    model = make(cfg.shape, cfg.device, torch.float32).requires_grad_(True)
    optimizers = sft.make_optimizers(model, 1e-5, (0.9, 0.95), 0.0)
    longest = min(2048, cfg.packed_tokens)
    rows = [[(3 * i + j) % 500 for j in range(longest)] for i in range(cfg.packed_tokens // longest)]
    batch = models.pack(rows, device=cfg.device)

    def step():
        with sft.autocast(cfg):
            loss = -models.score(model, batch).logp.mean()
        loss.backward()
        sft.update(model, optimizers, 1.0, 1.0)

    took, config = seconds(step, cfg.device, 3), model.config
    n, embedding = sum(p.numel() for p in model.parameters()), model.get_input_embeddings().weight.numel()
    dense = 6 * (n if config.tie_word_embeddings else n - embedding) * cfg.packed_tokens
    attention = 6 * config.num_hidden_layers * config.hidden_size * longest * cfg.packed_tokens   # causal: half of 12
    peak = 0 if cfg.device == "cpu" else torch.cuda.max_memory_allocated()
    print(f"sft {cfg.shape} {cfg.packed_tokens} packed tokens: {cfg.packed_tokens / took:.0f} tokens/s, "
          f"{(dense + attention) / took / 1e12:.1f} TFLOP/s, peak memory {peak / 1e9:.1f} GB")


def main(cfg):
    dtype = torch.bfloat16 if cfg.dtype == "bf16" else torch.float32
    name = "CPU" if cfg.device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, {cfg.dtype}")
    check_attention(cfg.device)
    check_graphs(cfg.device, torch.float32)
    check_kernels(cfg.device)
    with torch.no_grad():
        bench_decoder(cfg, dtype)
    width, *_, vocabulary, _ = SHAPES[cfg.shape]
    bench.bench_head(min(8192, cfg.packed_tokens), width, vocabulary, cfg.device, 3)    # all: python -m kernels.bench
    bench_training(cfg)


if __name__ == "__main__":
    run.cli(main, Config)
