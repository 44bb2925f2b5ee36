"""Does an analysis cost more than the two forward passes it needs?

    python tests/bench_analyze.py                 on a CPU: the head of Qwen2.5-0.5B (151,936 × 896)
                                                  and 12 of its 24 layers
    python tests/bench_analyze.py --layers 24 --responses 100 --device cuda --dtype bf16    on a GPU

A forward pass is what any likelihood needs: the layers, and the product of states and head, chunk
after chunk. The analysis adds log-probability, rank and entropy of each model and the KL in both
directions. With half of the layers the head, where the analysis adds its work, weighs twice as much
as in the real model.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

import analyze  # noqa: E402
from engine import settings  # noqa: E402
from kernels import reference  # noqa: E402


@dataclass(frozen=True)
class Config:
    responses: int = 4  # analysed; the ratio hardly depends on their number
    length: int = 1000  # tokens of each
    layers: int = 12
    width: int = 896
    vocabulary: int = 151_936
    repeats: int = 2  # the fastest one counts
    device: str = "cpu"  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"  # of weights and computation


def make_side(cfg, seed):
    """A random Qwen2 of this size."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    width = cfg.width
    config = Qwen2Config(
        vocab_size=cfg.vocabulary,
        hidden_size=width,
        intermediate_size=4864 * width // 896,
        num_hidden_layers=cfg.layers,
        num_attention_heads=max(2, width // 64),
        tie_word_embeddings=True,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        attn_implementation="packed",
    )
    dtype = torch.bfloat16 if cfg.dtype == "bf16" else torch.float32
    model = Qwen2ForCausalLM(config).eval().to(cfg.device, dtype)
    return analyze.Side.of(model)


@torch.no_grad()
def forward(side, examples, micro_batch_tokens):
    """The layers and all logits, a chunk of which is in memory at a time."""
    weight = side.head.weight
    for _, _, batch in analyze.batches(examples, micro_batch_tokens, side.device):
        hidden = analyze.scored_states(side, batch)  # (N, D)
        n = len(hidden)
        if hidden.is_cuda:
            for part in hidden.split(4096):
                part @ weight.T
            continue
        size = reference.chunk_size(n, len(weight))
        room = torch.empty(n * size, dtype=hidden.dtype)
        for part in weight.split(size):
            torch.mm(hidden, part.T, out=room[: n * len(part)].view(n, len(part)))


def fastest(cfg, function):
    """Seconds of the fastest of several calls, of the processor where there is no GPU."""
    best = float("inf")
    for _ in range(cfg.repeats):
        clock = time.perf_counter if cfg.device == "cuda" else time.process_time
        began = clock()
        function()
        if cfg.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - began)
    return best


def main(cfg):
    """Print both times and their ratio -> the ratio."""
    base, tuned = make_side(cfg, 0), make_side(cfg, 1)
    generator = torch.Generator().manual_seed(2)

    def random_ids(n):
        return torch.randint(0, cfg.vocabulary, (n,), generator=generator).tolist()

    examples = [(random_ids(50), random_ids(cfg.length)) for _ in range(cfg.responses)]
    size = cfg.length + 50  # one response at a time fits the caches of a CPU
    if cfg.device == "cuda":
        size *= 16
    two = fastest(cfg, lambda: (forward(base, examples, size), forward(tuned, examples, size)))
    with tempfile.TemporaryDirectory() as folder:
        plain = fastest(cfg, lambda: list(analyze.measure(base, tuned, examples, size)))
        stored = time.process_time()
        analyze.store(base, examples, size, Path(folder), "base")
        list(analyze.measure(base.without_model(), tuned, examples, size, Path(folder)))
        stored = time.process_time() - stored
    print(
        f"{cfg.responses} responses × {cfg.length} tokens, {cfg.layers} layers, "
        f"vocabulary {cfg.vocabulary}, {cfg.device}"
    )
    print(f"two forward passes {two:8.2f} s")
    print(f"analysis           {plain:8.2f} s   ratio {plain / two:.2f}")
    print(f"one model at a time, states on disk {stored:8.2f} s of the processor, once")
    return plain / two


if __name__ == "__main__":
    settings.cli(main, Config)
