"""Small models and one small analysis of them, made once for all test files that look at it."""

import json

import pytest
import torch

from analyze import Config, main
from data import tiny
from engine.rows import write_rows

HOSTILE = "</script><img src=x onerror=1>"
made = {}  # what several test files ask for is made once


def make_model(path, seed, words=(), n_vocabulary=None):
    """A random Qwen2 of width 32 over the tiny world's vocabulary, saved to path."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(list(words))
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=n_vocabulary or len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():  # logits of a useful size: KL far above rounding
        model.lm_head.weight.mul_(20)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


PROBLEMS = [  # group, task, question, answer; the third is hostile
    ("math", "pair", "pair sum 9 from 4 5", "4 + 5"),
    ("math", "pair", "pair sum 7 from 4 3", "4 + 3"),
    ("math", "pair", f"pair sum 8 from 4 4 {HOSTILE}", "4 + 4"),
    ("math", "pair", "pair sum 3 from 1 2", "1 + 2"),
    ("other", "sort", "sort 3 1", "1 3"),
    ("other", "sort", "sort 9 4", "4 9"),
    ("other", "sort", "sort 5 2", "2 5"),
    ("plain", "copy", "copy a b", "a b"),
    ("plain", "copy", "copy b c", "b c"),
    ("plain", "copy", "copy c", "c"),
]
RUNS = [  # name, model, Waits
    ("base", "base", 0),
    ("tuned", "tuned", 0),
    ("other", "other", 0),
    ("tuned-wait1", "tuned", 1),
    ("tuned-wait2", "tuned", 2),
]


def completions(name, forced=0):
    """Rows as generate.py writes them: one answer to each of PROBLEMS.

    The run "tuned" is right on every second problem, runs with forced Waits on all.
    """
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([HOSTILE])
    wait_id = tokenizer.encode("wait")[0]
    rows = []
    for number, (group, task, question, answer) in enumerate(PROBLEMS):
        is_right = forced > 0 or (name == "tuned" and number % 2 == 1)
        response = answer if is_right else "a"
        thinking = f"try {HOSTILE} 4 + 5 = 9" + " wait yes" * forced
        text = f"{thinking} </think> {response}"
        ids = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]
        rows.append(
            {
                "id": str(number),
                "group": group,
                "task": task,
                "question": question,
                "answer": answer,
                "sample": 0,
                "text": text,
                "thinking": thinking,
                "response": response,
                "ids": ids,
                "injected": [i for i, token in enumerate(ids) if token == wait_id],
                "n_thinking_tokens": len(ids) - 3,
                "n_tokens": len(ids),
                "finish": "stop",
                "n_waits": forced,
                "forced": False,
            }
        )
    return rows


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Models base, tuned (training.json says SFT) and other (says RL), and RUNS, in a directory.

    The models have a hostile word in their vocabulary. One row of "other" has no tokens.
    """
    if "place" in made:
        return made["place"]
    path = made["place"] = tmp_path_factory.mktemp("analyze")
    for seed, name in enumerate(("base", "tuned", "other")):
        make_model(path / name, seed, [HOSTILE])
    sft = {"train_on": "completion", "lr": 1e-3, "n_steps": 7}
    rl = {"reward": "correct", "lr": 5e-4, "n_steps": 3}
    (path / "tuned" / "training.json").write_text(json.dumps(sft))
    (path / "other" / "training.json").write_text(json.dumps(rl))
    for name, model, waits in RUNS:
        rows = completions(name, waits)
        if name == "other":
            rows.append(rows[0] | {"id": "empty", "ids": []})
        write_rows(path / "runs" / f"{name}.jsonl", rows)
        header = {
            "model": str(path / model),
            "format": "think",
            "waits": waits,
            "thinking_budget": None,
            "temperature": 0.7,
        }
        (path / "runs" / f"{name}.config.json").write_text(json.dumps(header))
    return path


@pytest.fixture(scope="session")
def analysed(place):
    """main() on all of it, with a claim -> (its result, the output directory)."""
    if "analysed" in made:
        return made["analysed"]
    claim = {
        "id": "A",
        "text": f"hostile {HOSTILE}",
        "group": "all",
        "from": "base",
        "to": "tuned-wait1",
        "expect": "higher",
    }
    (place / "claims.json").write_text(json.dumps([claim]))
    cfg = Config(
        base=str(place / "base"),
        tuned=(str(place / "tuned"), str(place / "other")),
        out=str(place / "out"),
        data=(str(place / "runs" / "tuned.jsonl"), str(place / "runs" / "other.jsonl")),
        runs=(str(place / "runs"),),
        claims=str(place / "claims.json"),
    )
    made["analysed"] = main(cfg), place / "out"
    return made["analysed"]
