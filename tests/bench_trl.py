"""sft.py and grpo.py against TRL's trainers: the same random Qwen2, rows, lengths and steps, in one process, in turn.

    python tests/bench_trl.py                     makes out/trl-venv (pip, a minute), then about 10 minutes on one core
    python tests/bench_trl.py --only sft          one of the two; --repeats 1 for a first look

Figures are processor time of whole steps on one thread: everything between two lines of the log, respectively two
on_step_end of TRL's trainer, the first step of each run left out. Both sides train in float32 without activation
checkpointing: TRL's bfloat16 and gradient checkpointing, its defaults, would only cost it time here. How TRL cuts a step
into micro-batches was tried out: one packed row at a time is faster than two or four, a quarter of the completions faster
than all of them. Padded rows come 8 at a time, its default; --padded-rows 3 is faster, 14 slower.

sft     rows with lengths like s1K's (log-normal, cut at the longest), 4,096 tokens a step; TRL packs by best fit
        ("bfd"), or by cutting where a row is full ("wrapped", which attends across documents), or pads the rows of a
        micro-batch to the longest of them
grpo    N prompts, G samples each, of lengths fixed beforehand: all as long as can be, or uneven as in
        bench_decoder.py. A completion is ended by its length on both sides, the same for the same place in the batch;
        the model never ends one by itself. No KL and no reference on either side; rewards are drawn at random
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import sft  # noqa: E402
from engine import settings  # noqa: E402

PINNED = ("torch==2.13.0", "transformers==5.23.0", "trl==1.16.0", "matplotlib")
V, LONGEST = 4096, 1024


@dataclass(frozen=True)
class Config:
    venv: str = "out/trl-venv"  # environment with TRL; made if it is not there
    only: Literal["both", "sft", "grpo"] = "both"  # which of the comparisons
    repeats: int = 3  # of each comparison, ours and theirs taking turns to begin
    steps: int = 6  # timed in each run, after a first one
    tokens: int = 4096  # of a step of fine-tuning
    padded_rows: int = 8  # that TRL pads to the longest of them
    prompts: int = 8  # N
    group_size: int = 8  # G
    longest: int = 256  # tokens of a completion
    scratch: str = "out/trl-bench"  # models and logs


def enter(cfg):
    """Go on in the environment that has TRL."""
    python = Path(cfg.venv).absolute() / "bin" / "python"
    if Path(sys.prefix).resolve() == python.parent.parent.resolve():
        return
    if (
        not python.exists()
        or subprocess.run([python, "-c", "import trl"], capture_output=True).returncode
    ):
        print(f"making {cfg.venv} with {', '.join(PINNED)}", flush=True)
        venv.create(cfg.venv, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PINNED],
            check=True,
        )
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    os.execve(python, [str(python), __file__, *sys.argv[1:]], environment)


def make_model(path):
    """A directory with a random Qwen2 of 4 million parameters that never ends a text, and a tokenizer: a digit a token."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

    config = Qwen2Config(
        vocab_size=V,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a feature that is always on, and speaks against the end
        model.get_input_embeddings().weight[:, 0] = 1
        model.get_output_embeddings().weight[0] = 0
        model.get_output_embeddings().weight[0, 0] = -3
    model.save_pretrained(path)
    digits = Tokenizer(BPE({str(i): i for i in range(V)}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=digits, eos_token="0", pad_token="0")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(path)
    return str(path)


def load_theirs(path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="sdpa"
    ), AutoTokenizer.from_pretrained(path)


class Clock:
    """Processor time at the end of each step."""

    def __init__(self):
        self.times, self.losses, self.trained = [], [], []

    def tick(self):
        self.times.append(time.process_time())

    def steps(self):
        return [b - a for a, b in zip(self.times, self.times[1:])]


def our_clock(script):
    """Let the log of a script tell the time: it is called once at the end of each step."""
    clock, log = Clock(), script.run.Log

    class TimedLog(log):
        def __call__(self, step, **values):
            super().__call__(step, **values)
            if "loss" in values:
                clock.losses.append(values["loss"])
                clock.tick()

    script.run.Log = TimedLog
    return clock, lambda: setattr(script.run, "Log", log)


def their_clock():
    from transformers import TrainerCallback

    clock = Clock()

    class Timer(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            clock.tick()

        def on_log(self, args, state, control, logs=None, **more):
            if "loss" in logs:
                clock.losses.append(logs["loss"])

    return clock, Timer()


COMMON = dict(
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    report_to=[],
    save_strategy="no",
    disable_tqdm=True,
    logging_steps=1,
    lr_scheduler_type="constant",
    learning_rate=1e-4,
    max_grad_norm=1.0,
    adam_beta2=0.95,
    dataloader_pin_memory=False,
)


# ---------------------------------------------------------------- fine-tuning


def sft_rows(n, seed=0):
    """n trace rows: prompts of 8 to 40 digits, log-normal completions with s1K's spread (sd of the logarithm 0.6)."""
    rng = random.Random(seed)

    def text(n):
        return "".join(rng.choices("123456789", k=n))

    return [
        {
            "id": str(i),
            "question": text(rng.randint(8, 40)),
            "response": text(min(LONGEST - 41, round(rng.lognormvariate(5.4, 0.6)))),
        }
        for i in range(n)
    ]


def our_sft(cfg, model, data, out):
    shutil.rmtree(out, ignore_errors=True)
    clock, restore = our_clock(sft)
    sft.main(
        sft.Config(
            model=model,
            data=data,
            out=out,
            format="plain",
            epochs=1,
            batch_tokens=cfg.tokens,
            lr=1e-4,
            schedule="constant",
            warmup=0.0,
            weight_decay=0.0,
            max_length=LONGEST,
            micro_batch_tokens=2048,
            print_every=10**6,
            save_every=10**6,
        )
    )
    restore()
    return clock


def their_sft(cfg, model, examples, packing, rows_at_once, n_batch, strategy="bfd"):
    """rows_at_once: packed rows or padded ones in a micro-batch; n_batch: of such in a step."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    weights, tokenizer = load_theirs(model)
    clock, timer = their_clock()
    rows = Dataset.from_list(
        [
            {"input_ids": [int(i) for i in ids], "completion_mask": [int(t) for t in trained]}
            for ids, trained in examples
        ]
    )
    options = SFTConfig(
        output_dir=cfg.scratch + "/trl",
        packing=packing,
        packing_strategy=strategy,
        max_length=LONGEST,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=n_batch // rows_at_once,
        completion_only_loss=True,
        max_steps=cfg.steps + 1,
        **COMMON,
    )
    trainer = SFTTrainer(
        model=weights,
        args=options,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[timer],
    )
    inner = trainer.compute_loss

    def counted(model, inputs, *args, **more):
        clock.trained.append(int((inputs["labels"] != -100).sum()))
        return inner(model, inputs, *args, **more)

    trainer.compute_loss = counted
    trainer.train()
    return clock


def compare_sft(cfg, model):
    from transformers import AutoTokenizer

    from engine.rows import write_rows

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = sft_rows(1000)
    mean = statistics.fmean(len(sft.FORMATS["plain"].training_ids(tokenizer, r)[0]) for r in rows)
    rows = rows[: round(cfg.tokens * (cfg.steps + 2) / mean)]
    data = str(Path(cfg.scratch) / "sft.jsonl")
    write_rows(data, rows)
    settings = sft.Config(model=model, data=data, out="", format="plain", max_length=LONGEST)
    examples, _ = sft.encode(rows, tokenizer, settings, 4096)
    lengths = [len(ids) for ids, _ in examples]
    print(
        f"sft: {len(rows)} rows, mean {statistics.fmean(lengths):.0f} tokens, longest {max(lengths)}; "
        f"{cfg.tokens} tokens a step"
    )
    n_padded = max(1, round(cfg.tokens / mean / cfg.padded_rows)) * cfg.padded_rows
    kinds = {
        "packing": ("bfd", 1, cfg.tokens // LONGEST),
        "packing, cut": ("wrapped", 1, cfg.tokens // LONGEST),
        "padding": (None, cfg.padded_rows, n_padded),
    }

    def ours():
        """Trained tokens per second: what is trained is the same everywhere, and pads do not count."""
        clock = our_sft(cfg, model, data, str(Path(cfg.scratch) / "sft"))
        steps = sft.plan_steps(lengths, 1, 0, cfg.tokens, 42)[1 : len(clock.times)]
        real = sum(lengths[i] for step in steps for i in step)
        return real / sum(clock.steps()), clock

    def theirs(strategy, rows_at_once, n_batch):
        clock = their_sft(
            cfg, model, examples, strategy is not None, rows_at_once, n_batch, strategy or "bfd"
        )
        share = sum(lengths) / sum(sum(t[1:]) for _, t in examples)  # of all tokens to trained ones
        each = n_batch // rows_at_once
        return share * sum(clock.trained[each : (cfg.steps + 1) * each]) / sum(clock.steps()), clock

    for kind, cut in kinds.items():
        pairs = []
        for repeat in range(cfg.repeats):
            a, b = in_turn(repeat, ours, lambda: theirs(*cut))
            # the same model and rows in another order
            assert abs(a[1].losses[0] - b[1].losses[0]) < 0.2
            pairs.append((a[0], b[0]))
        report(f"sft against TRL with {kind}", pairs, "tokens/s")


def in_turn(repeat, ours, theirs):
    """Both results, ours measured first in even repeats and second in odd ones."""
    if repeat % 2:
        b = theirs()
        return ours(), b
    a = ours()
    return a, theirs()


def report(name, pairs, unit, invert=False):
    mine, other = (statistics.fmean(column) for column in zip(*pairs))
    ratio = [b / a if invert else a / b for a, b in pairs]
    print(
        f"{name}: {mine:.4g} against {other:.4g} {unit}: {other / mine if invert else mine / other:.2f} x "
        f"({', '.join(f'{r:.2f}' for r in ratio)})",
        flush=True,
    )


# ---------------------------------------------------------------- reinforcement learning


def completion_lengths(n, kind, longest):
    """Tokens of each of n completions, by place in the batch: even, or drawn as in bench_decoder.py."""
    rng = random.Random(1)
    if kind == "even":
        return [longest] * n
    if kind == "few long":
        return [
            longest if i % 8 == 0 else rng.randint(longest // 24, longest // 6) for i in range(n)
        ]
    return [min(longest, 2 + int(rng.expovariate(3.7 / longest))) for _ in range(n)]


def our_grpo(cfg, model, data, out, lengths):

    import grpo

    shutil.rmtree(out, ignore_errors=True)
    clock, restore = our_clock(grpo)
    decode = grpo.decode

    def decode_to_length(model, tokenizer, form, requests, *args, **more):
        """The i-th completion of a step ends at lengths[i]."""
        assert len(requests) == len(lengths)
        requests = [r._replace(max_tokens=n) for r, n in zip(requests, lengths)]
        return decode(model, tokenizer, form, requests, *args, **more)

    grpo.decode = decode_to_length
    try:
        grpo.main(
            grpo.Config(
                model=model,
                data=data,
                out=out,
                format="plain",
                reward="random:0.5",
                steps=cfg.steps + 1,
                prompts_per_step=cfg.prompts,
                group_size=cfg.group_size,
                max_tokens=cfg.longest,
                lr=1e-4,
                kl_every=0,
                micro_batch_tokens=2304,
                save_every=10**6,
            )
        )
    finally:
        restore()
        grpo.decode = decode
    return clock


def their_grpo(cfg, model, prompts, lengths, rows_at_once):
    import torch
    from datasets import Dataset
    from transformers import StoppingCriteria, StoppingCriteriaList
    from trl import GRPOConfig, GRPOTrainer

    weights, tokenizer = load_theirs(model)
    clock, timer = their_clock()
    longest = max(lengths)
    # the end token that follows is one more
    limits = torch.tensor([n - (n < longest) for n in lengths])

    class RowStop(StoppingCriteria):
        def __init__(self, start):
            self.start = start

        def __call__(self, ids, scores, **more):
            return ids.shape[1] - self.start >= limits

    inner = weights.generate

    def generate(input_ids=None, **more):
        return inner(
            input_ids=input_ids,
            stopping_criteria=StoppingCriteriaList([RowStop(input_ids.shape[1])]),
            **more,
        )

    weights.generate = generate
    rng = random.Random(0)
    total = len(lengths)

    def reward(completions, completion_ids, **more):
        clock.trained.append(sum(map(len, completion_ids)))
        return [float(rng.random() < 0.5) for _ in completions]

    options = GRPOConfig(
        output_dir=cfg.scratch + "/trl",
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=total // rows_at_once,
        num_generations=cfg.group_size,
        max_completion_length=longest,
        max_steps=cfg.steps + 1,
        beta=0.0,
        temperature=1.0,
        loss_type="dapo",
        **COMMON,
    )
    trainer = GRPOTrainer(
        model=weights,
        reward_funcs=reward,
        args=options,
        processing_class=tokenizer,
        callbacks=[timer],
        train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
    )
    trainer.train()
    assert all(n == sum(lengths) for n in clock.trained), (clock.trained, sum(lengths))
    return clock


def compare_grpo(cfg, model):
    from engine.rows import write_rows

    rng = random.Random(0)
    prompts = ["".join(rng.choices("123456789", k=rng.randint(8, 120))) for _ in range(cfg.prompts)]
    data = str(Path(cfg.scratch) / "problems.jsonl")
    write_rows(data, [{"id": str(i), "question": p, "answer": "1"} for i, p in enumerate(prompts)])
    n = cfg.prompts * cfg.group_size
    for kind in ("even", "exponential", "few long"):
        lengths = completion_lengths(n, kind, cfg.longest)

        def theirs():
            return statistics.fmean(
                their_grpo(cfg, model, prompts, lengths, max(cfg.group_size, n // 4)).steps()
            )

        def ours():
            return statistics.fmean(
                our_grpo(cfg, model, data, str(Path(cfg.scratch) / "grpo"), lengths).steps()
            )

        print(
            f"grpo, {kind}: {cfg.prompts} x {cfg.group_size} completions, mean {sum(lengths) / n:.0f} tokens"
        )
        pairs = [in_turn(repeat, ours, theirs) for repeat in range(cfg.repeats)]
        report(f"grpo against TRL, {kind} lengths", pairs, "s a step", invert=True)


def main(cfg):
    enter(cfg)
    import datasets
    import torch
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    Path(cfg.scratch).mkdir(parents=True, exist_ok=True)
    model = make_model(Path(cfg.scratch) / "model")
    if cfg.only != "grpo":
        compare_sft(cfg, model)
    if cfg.only != "sft":
        compare_grpo(cfg, model)


if __name__ == "__main__":
    settings.cli(main, Config)
