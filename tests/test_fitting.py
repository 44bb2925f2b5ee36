"""engine/fitting.py: the formula by hand and against the simulation, what is chosen and said, and
that a run keeps it.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_sft import base, config, interrupted, log_of, weights  # noqa: F401
from transformers import AutoModelForCausalLM, LlamaConfig

import grpo
import sft
from engine import costs, fitting, machine, settings
from engine.activations import activation_bytes
from engine.fitting import Needs, fitting_tokens, most_tokens, needs_of

ROOT = Path(__file__).resolve().parent.parent
PLAIN = sft.Config(model="m", data="d", out="o")


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def small(**more):
    """A Llama of 3 layers whose widths are all different, vocabulary 96."""
    sizes = dict(hidden_size=8, intermediate_size=20, num_attention_heads=2, head_dim=4)
    return LlamaConfig(
        vocab_size=96,
        num_hidden_layers=3,
        num_key_value_heads=1,
        **sizes,
        bos_token_id=None,
        **more,
    )


def test_the_formula_by_hand():
    """Linear maps of a layer, inputs + outputs: q 8 + 8, k and v 8 + 4 each, o 8 + 8, gate and up
    8 + 20 each, down 20 + 8: 140, so 3 layers keep 1.25 · 420 = 525 numbers, and 4 · 8 at the ends.
    Recomputed: 3 · 8 + 175. The tied embedding has 96 · 8 = 768 weights; its gradient is there twice.
    """
    model = on_meta(small(tie_word_embeddings=True))
    assert [fitting.numbers_of_maps(layer) for layer in model.model.layers] == [140] * 3
    found = needs_of(model, [], PLAIN, "cpu")
    assert found == Needs(0, 64e6 + 8 * 768, 4 * (525 + 32))
    half = dataclasses.replace(PLAIN, dtype="bf16", recompute=True)
    assert needs_of(model, [], half, "cpu") == Needs(0, 64e6 + 10 * 768, 3 * (24 + 175 + 32))
    assert needs_of(model, [], half, "cuda").per_token == 3 * (24 + 175 + 32) + 10 * 96 / 16
    assert found.of(10) == 64e6 + 6144 + 22280


def test_gradients_and_moments_by_hand():
    """10 trained numbers: gradients 40 bytes; both moments 80, in bfloat16 40, and none any more
    when Adam has them."""
    p, frozen = torch.nn.Parameter(torch.ones(10)), torch.nn.Parameter(torch.ones(7))
    frozen.requires_grad_(False)
    optimizer = torch.optim.AdamW([p], lr=0.1)
    assert fitting.state_bytes([optimizer], "fp32") == 120
    assert fitting.state_bytes([optimizer], "bf16") == 80
    p.grad = torch.ones(10)
    optimizer.step()
    assert fitting.state_bytes([optimizer], "fp32") == 40


@pytest.mark.parametrize(
    "name, more, on_gpu",
    [
        ("qwen2.5-0.5b", dict(dtype="fp32"), False),
        ("qwen2.5-0.5b", dict(dtype="bf16"), True),
        ("qwen2.5-0.5b", dict(dtype="bf16", recompute=True), True),
        ("qwen2.5-7b", dict(dtype="fp32"), False),
    ],
)
def test_the_formula_is_near_the_simulation(name, more, on_gpu):
    """And rather above than below it."""
    config = costs.model_config(name)
    simulated = max(activation_bytes(config, [1024], shards=False, on_gpu=on_gpu, **more).values())
    cfg = dataclasses.replace(PLAIN, **more)
    found = needs_of(on_meta(config), [], cfg, "cuda" if on_gpu else "cpu").of(1024)
    assert 0.95 < found / simulated < 1.35, (found, simulated)


def test_what_fits_by_hand():
    """(9,899 - 100 - 200) / 10 = 959.9, in steps of 64: 896. Never above the most, nor below 64."""
    needs = Needs(100, 200, 10.0)
    assert fitting_tokens(needs, 9_899, 32768) == 896
    assert fitting_tokens(needs, 9_999, 512) == 512
    assert fitting_tokens(needs, 50, 512) == 64


def test_the_most_that_is_of_use():
    """On a CPU 512 tokens of a model of 135M or more, and 32,768 of a tiny one, as on a GPU."""
    assert most_tokens("cpu", 134_515_008) == 512
    assert [most_tokens("cpu", n) for n in (7 * 10**9, 7 * 10**7, 10**6)] == [512, 928, 32768]
    assert most_tokens("cuda", 7 * 10**9) == 32768


def test_it_is_the_default_and_none_is_negative():
    for script in (sft, grpo):
        assert script.Config.micro_batch_tokens == 0
        assert "micro_batch_tokens" in script.FREE
    settings.check_training(PLAIN)


def first_line(out):
    (line,) = [line for line in out.splitlines() if "micro-batches" in line]
    return line


def test_a_run_says_what_it_will_use(base, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Before step 1, on a machine with 5 GB: all of it for so small a model. With little memory
    less; with hardly any a warning."""
    monkeypatch.setattr(machine, "free_memory", lambda device: 5 * 10**9)
    sft.main(config(base, tmp_path / "a", epochs=1, print_every=1))
    out = capsys.readouterr().out
    assert first_line(out) == (
        "cpu: micro-batches of up to 32,768 tokens; about 0.2 GB beside the weights, 5.0 GB are free"
    )
    assert out.index("micro-batches") < out.index("step 1/")
    saved = json.loads((tmp_path / "a" / "training.json").read_text())
    assert saved["micro_batch_tokens"] == 32768 and saved["device"] == "cpu"
    monkeypatch.setattr(machine, "free_memory", lambda device: 81_000_000)
    sft.main(config(base, tmp_path / "b", epochs=1))
    line = first_line(capsys.readouterr().out)
    assert "up to 64 tokens" in line and "0.1 GB are free" in line
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**6)
    sft.main(config(base, tmp_path / "c", epochs=1))
    assert "warning: this may not fit; --recompute" in capsys.readouterr().out
    sft.main(config(base, tmp_path / "d", epochs=1, micro_batch_tokens=77))
    assert "up to 77 tokens" in first_line(capsys.readouterr().out)


def test_a_large_model_returns_its_memory(base, tmp_path, monkeypatch):  # noqa: F811
    """On a CPU; of a small one nothing is gained."""
    calls = []
    monkeypatch.setattr(machine, "return_freed_tensors", lambda: calls.append(1))
    sft.main(config(base, tmp_path / "a", epochs=1))
    assert not calls
    monkeypatch.setattr(fitting, "LARGE", 1000)
    sft.main(config(base, tmp_path / "b", epochs=1))
    assert calls == [1]


def test_processes_of_one_machine_share_its_memory(base, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(machine, "free_memory", lambda device: 4 * 10**9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    sft.main(config(base, tmp_path / "a", epochs=1))
    assert "2.0 GB are free" in first_line(capsys.readouterr().out)


def test_a_run_continues_with_the_size_that_it_began_with(base, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Killed with 64 tokens, continued where there is room for all: the same to the bit. The sums of
    a larger micro-batch round otherwise, so the test would see it."""
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**6)
    sft.main(config(base, tmp_path / "whole"))
    cfg = config(base, tmp_path / "out", save_every=2)
    interrupted(cfg, monkeypatch, 5)
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**10)
    capsys.readouterr()
    sft.main(cfg)
    assert "up to 64 tokens" in first_line(capsys.readouterr().out)
    assert log_of(tmp_path / "out") == log_of(tmp_path / "whole")
    one, other = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)
    sft.main(config(base, tmp_path / "large"))
    large = weights(tmp_path / "large")
    assert any(not torch.equal(one[name], large[name]) for name in one)


@pytest.mark.slow
def test_a_135m_model_trains_within_4_gb(tmp_path):
    """Two steps at the defaults on 20 rows of 512 tokens, in a process of its own: its peak."""
    program = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from data import tiny
from engine import loading
import sft
config = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    bos_token_id=None, eos_token_id=1, pad_token_id=0)
if sys.argv[1] == "make":
    loading.save(LlamaForCausalLM(config), tiny.tokenizer(), "model")
    words = [w for w in tiny.VOCABULARY if w.isalnum()]
    with open("rows.jsonl", "w") as file:
        for i in range(20):
            text = " ".join(words[(i + j) % len(words)] for j in range(495))
            row = dict(id=str(i), question="make 20 from 7 5 8", thinking=text, response="7 + 5")
            file.write(json.dumps(row) + chr(10))
else:
    log = sft.main(sft.Config(model="model", data="rows.jsonl", out="out", format="think", epochs=1))
    print(max(row["memory_gb"] for row in log))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for step in ("make", "train"):
        done = subprocess.run(
            [sys.executable, "-c", program, step],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env,
        )
        assert done.returncode == 0, done.stderr
    assert 2 < float(done.stdout.splitlines()[-1]) < 4
