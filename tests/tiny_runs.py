"""Small runs of generate.py on the shipped base model, for the tests of its pieces."""

import json
import sys
from pathlib import Path

import generate
from data import tiny

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data" / "tiny_base")
TOKENIZER = tiny.tokenizer()
EOS, END = TOKENIZER.convert_tokens_to_ids(["<eos>", "</think>"])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config_in(folder):
    """config(flag=value, ...) of a small sampled run into `folder`: 5 problems, 3 samples."""
    data = write(folder / "problems.jsonl", tiny.problems("math", 5, 9, "dev"))

    def config(**more):
        settings = {
            "model": BASE,
            "data": data,
            "out": str(folder / "out.jsonl"),
            "format": "think",
            "n": 3,
            "temperature": 1.0,
            "max_tokens": 26,
            "wait": "wait",
            "slots": 4,
        }
        return generate.Config(**{**settings, **more})

    return config


def command(*flags):
    """generate.py as it is typed."""
    script = str(ROOT / "generate.py")
    return [sys.executable, script, "--model", BASE, "--format", "think", *map(str, flags)]
