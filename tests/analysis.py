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


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Models base, tuned (training.json says SFT) and other (says RL), with a hostile word in their vocabulary."""
    if "place" in made:
        return made["place"]
    path = made["place"] = tmp_path_factory.mktemp("analyze")
    for seed, name in enumerate(("base", "tuned", "other")):
        make_model(path / name, seed, [HOSTILE])
    (path / "tuned" / "training.json").write_text(
        json.dumps({"train_on": "completion", "lr": 1e-3, "n_steps": 7})
    )
    (path / "other" / "training.json").write_text(
        json.dumps({"reward": "correct", "lr": 5e-4, "n_steps": 3})
    )
    return path


def completions(name, forced=0):
    """Rows as generate.py writes them, of three math, two other and three plain questions; the last math one is hostile."""
    tokenizer, rows = tiny.tokenizer(), []
    tokenizer.add_tokens([HOSTILE])
    for number, (group, task, question, answer) in enumerate(
        [
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
    ):
        said = answer if name == "tuned" and number % 2 or forced else "a"
        thinking = f"try {HOSTILE} 4 + 5 = 9" + " wait yes" * forced
        text = f"{thinking} </think> {said}"
        ids = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]
        wait = [i for i, token in enumerate(ids) if token == tokenizer.encode("wait")[0]]
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
                "response": said,
                "ids": ids,
                "injected": wait,
                "n_thinking_tokens": len(ids) - 3,
                "n_tokens": len(ids),
                "finish": "stop",
                "n_waits": forced,
                "forced": False,
            }
        )
    return rows


@pytest.fixture(scope="session")
def analysed(place):
    """main() on three models and six runs -> (its result, the output directory)."""
    if "analysed" in made:
        return made["analysed"]
    for name, model, waits in (
        ("base", "base", 0),
        ("tuned", "tuned", 0),
        ("other", "other", 0),
        ("tuned-wait1", "tuned", 1),
        ("tuned-wait2", "tuned", 2),
    ):
        rows = completions(name, waits)
        write_rows(
            place / "runs" / f"{name}.jsonl",
            rows + ([rows[0] | {"id": "empty", "ids": []}] if name == "other" else []),
        )
        (place / "runs" / f"{name}.config.json").write_text(
            json.dumps(
                {
                    "model": str(place / model),
                    "format": "think",
                    "waits": waits,
                    "thinking_budget": None,
                    "temperature": 0.7,
                }
            )
        )
    claims = [
        {
            "id": "A",
            "text": f"hostile {HOSTILE}",
            "group": "all",
            "from": "base",
            "to": "tuned-wait1",
            "expect": "higher",
        }
    ]
    (place / "claims.json").write_text(json.dumps(claims))
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
