"""Runs of several processes on one machine, over gloo, for the tests.

The processes are forks with the variables that torchrun sets. A fork has the libraries loaded
already: it starts in 1 second, torchrun in 9.
"""

import json
import multiprocessing
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import sft
from data import tiny
from engine import loading, sharding, training
from engine.rows import BadInput, write_rows

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data" / "tiny_base")
TOKENIZER = tiny.tokenizer()

# ---- processes


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run_rank(work, arguments, environment, answer):
    os.environ |= environment
    # A fork makes torch's thread pool anew when it first uses it: say how many before that.
    torch.set_num_threads(1)
    try:
        answer.send(work(*arguments))
    except BadInput as error:
        answer.send(error)
    except BaseException as error:  # not every exception can be pickled
        answer.send(RuntimeError(f"{type(error).__name__}: {error}"))


def start_ranks(work, arguments=(), n=2):
    """Start work(*arguments) in n processes -> (process, pipe for what it returns) of each."""
    fork = multiprocessing.get_context("fork")
    port = free_port()
    started = []
    for rank in range(n):
        ours, theirs = fork.Pipe(duplex=False)
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(n),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        process = fork.Process(
            target=run_rank, args=(work, arguments, environment, theirs), daemon=True
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    return started


def kill(started):
    for process, _ in started:
        process.kill()
    for process, _ in started:
        process.join()


def ranks_run(work, *arguments, n=2, seconds=60):
    """Run work(*arguments) in n processes -> what each returned, or the exception that ended it."""
    started = start_ranks(work, arguments, n)
    end = time.monotonic() + seconds
    answers = []
    try:
        for _, answer in started:
            has_answered = answer.poll(end - time.monotonic())
            assert has_answered, f"a rank hangs; the ones before it: {answers}"
            answers.append(answer.recv())
    finally:
        kill(started)
    return answers


# ---- what they train

TRAINED = dict(
    vocab_size=len(TOKENIZER),
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.1,
    bos_token_id=None,
    eos_token_id=1,
)


def make_material(path):
    """Write two small models and 13 rows to train them on -> path.

    qwen3 has a tied head, and norms of queries and keys; qwen2 has a head of its own, and biases.
    Their 149 words do not divide by 2. "no head" lacks a weight, "other shape" has a config.json of
    another width.
    """
    for name, kind, config in (
        ("qwen3", Qwen3ForCausalLM, Qwen3Config(**TRAINED, head_dim=10, tie_word_embeddings=True)),
        ("qwen2", Qwen2ForCausalLM, Qwen2Config(**TRAINED, tie_word_embeddings=False)),
    ):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases are 0, norms 1 otherwise
                torch.nn.init.normal_(parameter, mean=parameter[0].item(), std=0.2)
        loading.save(model, TOKENIZER, path / name)
    for name in ("no head", "other shape"):
        shutil.copytree(path / "qwen2", path / name)
    tensors = load_file(path / "qwen2" / "model.safetensors")
    save_file(
        {key: x for key, x in tensors.items() if key != "lm_head.weight"},
        path / "no head" / "model.safetensors",
    )
    config = json.loads((path / "other shape" / "config.json").read_text()) | {"hidden_size": 64}
    (path / "other shape" / "config.json").write_text(json.dumps(config))
    write_rows(
        path / "rows.jsonl",
        [row for row in tiny.teacher_pool(60, 0) if row["n_thinking_tokens"] <= 45][:13],
    )
    return path


def settings_of(material, out, model="qwen3", **more):
    return sft.Config(
        **{
            "model": str(material / model),
            "data": str(material / "rows.jsonl"),
            "out": str(out),
            "format": "think",
            "epochs": 1,
            "batch_rows": 5,
            "lr": 0.5,
            "warmup": 0.0,
            "clip": 1.0,
            "print_every": 0,
            **more,
        }
    )


def plain_sgd(model, lr, *_, **__):
    """Gradient descent. AdamW would make full steps from the rounding of a gradient near 0."""
    optimizer = torch.optim.SGD(sharding.parts(model).values(), lr=lr)
    optimizer.param_groups[0]["peak"] = lr
    return [optimizer]


def replace_in(patch, name, value, *modules):
    """Replace a function of engine/training.py, also where a script has imported it by name."""
    for module in (training, *modules):
        if hasattr(module, name):
            patch.setattr(module, name, value)


def by_sgd(configs, script=sft):
    """Run a script with each config, by gradient descent -> what each run returns."""
    with pytest.MonkeyPatch.context() as patch:
        replace_in(patch, "make_optimizers", plain_sgd, script)
        return [script.main(cfg) for cfg in configs]


def cut_short(cfg, at=2):
    """Run sft.py until the update after step `at` fails, as after Ctrl-C."""
    n_calls, update = 0, training.update

    def failing(*args):
        nonlocal n_calls
        n_calls += 1
        if n_calls > at:
            raise KeyboardInterrupt
        return update(*args)

    with pytest.MonkeyPatch.context() as patch:
        replace_in(patch, "update", failing, sft)
        with pytest.raises(KeyboardInterrupt):
            sft.main(cfg)


def weights_of(path):
    return load_file(Path(path) / "model.safetensors")


def gap(one, other):
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)
