"""The decoder against transformers' `generate`: the same random model, prompts and lengths.

    python tests/bench_decoder.py                         prints ratios; about 3 minutes on one core
    python tests/bench_decoder.py --figure decoder.png    and draws tokens/s
    python tests/bench_decoder.py --model out/smollm2-135m-instruct --data out/laptop/seed0/data/\\
        held_out.jsonl --longest 128      a real model, which ends its greedy answers itself

Both run in this process, in turn. The figures are tokens per second of processor time, which other
programs on the machine disturb least; tests/gpu.py measures a GPU against its memory bandwidth.
transformers decodes all prompts as one left-padded batch and stops when the last row is done; rows
that are done cost it as much as live ones.
"""

import copy
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    StoppingCriteria,
    StoppingCriteriaList,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import loading, settings  # noqa: E402
from engine.decoder import Request, Sampling, decode  # noqa: E402
from engine.format import FORMATS  # noqa: E402
from engine.rows import read_rows  # noqa: E402

V = 4096


@dataclass(frozen=True)
class Config:
    prompts: tuple[int, ...] = (32, 128)  # of the comparison
    longest: int = 384  # tokens of a completion
    batches: tuple[int, ...] = (1, 4, 16, 64, 128)  # of the figure
    contexts: tuple[int, ...] = (64, 256, 512, 1024, 2048)  # of the figure
    repeats: int = 5  # draws of prompts and lengths, compared by their sums
    figure: str = ""  # PNG to draw
    model: str = ""  # a model directory in the place of the random one
    data: str = ""  # problem rows to ask it


def pair():
    """(transformers' model, ours) with the same weights, and a tokenizer of as many words."""
    config = Qwen2Config(
        vocab_size=V,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation="sdpa"
    ).eval()
    with torch.no_grad():
        theirs.get_output_embeddings().weight[0] = 0  # the end of sequence is never the likeliest
    ours = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation="packed"
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    words = Tokenizer(WordLevel({str(i): i for i in range(V)}, unk_token="1"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0")
    tokenizer.chat_template = "{{ messages[0].content }}"
    return theirs, ours, tokenizer


def workload(n, kind, longest, seed=0):
    """n prompts of 8 to 120 tokens, and how many tokens each is to be given: uniform up to the
    longest, exponential with a mean of 27% of it, or one in eight as long as can be and the others
    up to a sixth of it."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(2, V) for _ in range(rng.randint(8, 120))] for _ in range(n)]
    if kind == "uniform":
        return prompts, [rng.randint(longest // 24, longest) for _ in range(n)]
    if kind == "few long":
        return prompts, [
            longest if i % 8 == 0 else rng.randint(longest // 24, longest // 6) for i in range(n)
        ]
    return prompts, [min(longest, 1 + int(rng.expovariate(3.7 / longest))) for _ in range(n)]


class RowStop(StoppingCriteria):
    """Ends row i after lengths[i] new tokens."""

    def __init__(self, start, lengths):
        self.start, self.lengths = start, torch.tensor(lengths)

    def __call__(self, ids, scores, **more):
        return ids.shape[1] - self.start >= self.lengths


def by_transformers(model, prompts, lengths):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=max(lengths),
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([RowStop(width, lengths)]),
    )
    return [row[width : width + n] for row, n in zip(out.tolist(), lengths)]


def by_us(model, tokenizer, prompts, lengths):
    requests = [Request(prompt, i, n) for i, (prompt, n) in enumerate(zip(prompts, lengths))]
    found = dict(decode(model, tokenizer, FORMATS["plain"], requests, Sampling(), len(requests)))
    return [found[i].ids for i in range(len(requests))]


def timed(call):
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


def compare(cfg, theirs, ours, tokenizer):
    for n in cfg.prompts:
        for kind in ("uniform", "exponential", "few long"):
            runs, same = [], 0
            for seed in range(cfg.repeats):
                prompts, lengths = workload(n, kind, cfg.longest, seed)
                a, mine = timed(lambda: by_us(ours, tokenizer, prompts, lengths))
                b, other = timed(lambda: by_transformers(theirs, prompts, lengths))
                runs.append((sum(lengths), a, b))
                same += sum(x == y for x, y in zip(mine, other))
            tokens, mine, other = (sum(column) for column in zip(*runs))
            ratios = ", ".join(f"{b / a:.2f}" for _, a, b in runs)
            print(
                f"{n:>4} prompts, {kind:<11} {tokens / n / cfg.repeats:4.0f} tokens each: "
                f"{tokens / mine:5.0f} tokens/s against {tokens / other:5.0f}, "
                f"{other / mine:.2f} x ({ratios}); "
                f"{same} of {n * cfg.repeats} texts equal",
                flush=True,
            )


def compare_on_rows(cfg):
    """A real model on the first problems of a file: greedy, until it ends or is cut."""
    ours, tokenizer = loading.load(cfg.model)
    theirs = AutoModelForCausalLM.from_pretrained(cfg.model, dtype=torch.float32).eval()
    form = FORMATS["plain"].fit(tokenizer)
    rows = read_rows(cfg.data)
    for n in cfg.prompts:
        prompts = [form.row_prompt_ids(tokenizer, row) for row in rows[:n]]
        lengths = [cfg.longest] * len(prompts)
        a, mine = timed(lambda: by_us(ours, tokenizer, prompts, lengths))
        b, other = timed(lambda: by_transformers(theirs, prompts, lengths))
        end = tokenizer.eos_token_id
        other = [ids[: ids.index(end) + 1] if end in ids else ids for ids in other]
        tokens = sum(map(len, mine))
        print(
            f"{len(prompts)} prompts, {tokens} tokens: {tokens / a:.0f} tokens/s against "
            f"{tokens / b:.0f}, {b / a:.2f} x; "
            f"{sum(x == y for x, y in zip(mine, other))} of {len(prompts)} texts equal",
            flush=True,
        )


def step_seconds(cfg, model, tokenizer, n, context, steps=32):
    """Processor time of one decoding step of n sequences, with about `context` tokens in the
    cache."""
    prompts = [[2 + (7 * i + j) % 997 for j in range(context)] for i in range(n)]
    times = []
    for _ in range(cfg.repeats):
        long, short = (
            timed(lambda: by_us(model, tokenizer, prompts, [k] * n))[0] for k in (steps + 8, 8)
        )
        times.append((long - short) / steps)
    return statistics.median(times)


def draw(cfg, model, tokenizer):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    speed = [n / step_seconds(cfg, model, tokenizer, n, 128) for n in cfg.batches]
    left.plot(cfg.batches, speed, "o-")
    left.set_xscale("log", base=2)
    left.set_xticks(cfg.batches, cfg.batches)
    left.set(
        ylim=(0, None),
        xlabel="sequences decoded side by side",
        ylabel="tokens / s",
        title="128 tokens of context",
    )
    seconds = [step_seconds(cfg, model, tokenizer, 16, context) for context in cfg.contexts]
    right.plot(cfg.contexts, [1e3 * t for t in seconds], "o-", label="measured")
    slope = (seconds[-1] - seconds[0]) / (cfg.contexts[-1] - cfg.contexts[0])
    line = [1e3 * (seconds[0] + slope * (c - cfg.contexts[0])) for c in cfg.contexts]
    right.plot(cfg.contexts, line, "--", label="a straight line, as attention grows")
    right.set(xlabel="tokens of context", ylabel="ms / step", title="16 sequences", ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(cfg.figure, dpi=120)
    for n, s in zip(cfg.batches, speed):
        print(f"batch {n:>4}: {s:7.0f} tokens/s")
    for c, t in zip(cfg.contexts, seconds):
        print(f"context {c:>5}: {1e3 * t:6.2f} ms a step of 16 sequences")


def main(cfg):
    torch.set_num_threads(1)
    if cfg.model:
        compare_on_rows(cfg)
        return
    theirs, ours, tokenizer = pair()
    compare(cfg, theirs, ours, tokenizer)
    if cfg.figure:
        draw(cfg, ours, tokenizer)


if __name__ == "__main__":
    settings.cli(main, Config)
