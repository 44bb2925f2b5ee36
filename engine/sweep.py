"""A sweep: one run for each value of a flag, as for s1's Figure 1."""

import argparse
import dataclasses
from pathlib import Path

from engine.rows import BadInput
from engine.settings import READERS, flag

# settings that can be swept, and the type of their values
KINDS = {
    "thinking_budget": int,
    "waits": int,
    "wait": str,
    "min_thinking": int,
    "max_tokens": int,
    "steps": int,
    "ask": str,
    "temperature": float,
    "seed": int,
}


def runs_of_sweep(cfg):
    """Return the settings of each run of --sweep FLAG=A,B,...; each writes OUT-FLAG-VALUE."""
    name, _, values = cfg.sweep.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    if name not in KINDS or not values:
        raise BadInput(f"--sweep {cfg.sweep}: not FLAG=A,B,... with a FLAG of {', '.join(KINDS)}")
    if not cfg.out:
        raise BadInput("--sweep writes files: --out is needed")
    runs = []
    for text in values.split(","):
        if "/" in text:
            raise BadInput(f"--sweep {cfg.sweep}: '{text}' cannot be part of a file's name")
        try:
            value = value_of(name, text)
        except argparse.ArgumentTypeError:
            raise BadInput(
                f"--sweep {cfg.sweep}: '{text}' is not a value of {flag(name)}"
            ) from None
        changed = {name: value, "sweep": "", "out": path_of_run(cfg.out, name, value)}
        runs.append(dataclasses.replace(cfg, **changed))
    return runs


def value_of(name, text):
    """Return a setting's value from its text. Raises ArgumentTypeError, as a flag does."""
    if name == "thinking_budget" and text == "none":
        return None
    return READERS[KINDS[name]](text)


def path_of_run(out, name, value):
    """Return the path of a run's rows: runs/a.jsonl, waits, 2 -> runs/a-waits-2.jsonl."""
    out = Path(out)
    # Path.suffix would take the point of a number for one.
    suffix = ".jsonl" if out.name.endswith(".jsonl") else ""
    value = str(value).replace(":", "-")
    label = f"-{name.replace('_', '-')}-{value}"
    return str(out.with_name(out.name.removesuffix(".jsonl") + label + suffix))
