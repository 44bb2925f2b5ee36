"""What each ladder ends with: the tiny world, run by your own functions. No shell is needed.

    python assignments/world.py measure      the teacher's 4,000 traces, graded
    python assignments/world.py batch        choose traces, fine-tune, answer, grade
    python assignments/world.py tokens       think longer or shorter, one sequence at a time
    python assignments/world.py reinforce    100 steps of GRPO, answer, grade

Each runs the project's own commands, which it prints, and takes seconds to three minutes on a laptop.
A ladder's run needs the exercises of the ladders before it. --again removes what an earlier run has
left, which your changed functions would otherwise not see.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE = "data/tiny_base"
OUT = "out/world"
ANSWERS = ("--format", "think", "--temperature", "0.7", "--max-tokens", "320", "--device", "cpu")


def answer(model, name, *flags):
    """The command with which a model answers the held-out problems of mathematics."""
    data = ("--data", f"{OUT}/data/held_out.jsonl", "--only", "math")
    return (
        "generate.py",
        "--model",
        model,
        *data,
        "--out",
        f"{OUT}/{name}.jsonl",
        *ANSWERS,
        *flags,
    )


def grade(*names):
    return ("evaluate.py", *(f"{OUT}/{name}.jsonl" for name in names))


def plainly(name, *flags):
    return answer(f"{OUT}/sft", name, "--plain", "--limit", "40", "--max-tokens", "448", *flags)


DATA = ("-m", "data.tiny", "--out", f"{OUT}/data")
LADDERS = {
    "measure": (DATA, grade("data/pool")),
    "batch": (
        DATA,
        ("curate.py", "--data", f"{OUT}/data/pool.jsonl", "--out", f"{OUT}/traces.jsonl")
        + ("--against", f"{OUT}/data/held_out.jsonl", "--k", "400", "--method", "limo")
        + ("--words", "extended", "--length-cap", "120"),
        ("sft.py", "--model", BASE, "--data", f"{OUT}/traces.jsonl", "--out", f"{OUT}/sft")
        + ("--format", "think", "--epochs", "12", "--batch-rows", "32", "--lr", "2e-3")
        + ("--print-every", "25", "--device", "cpu"),
        answer(f"{OUT}/sft", "sft"),
        grade("sft"),
    ),
    "tokens": (
        plainly("wait0"),
        plainly("wait1", "--waits", "1", "--wait", "wait"),
        plainly("wait2", "--waits", "2", "--wait", "wait"),
        plainly("budget20", "--thinking-budget", "20"),
        plainly("budget80", "--thinking-budget", "80"),
        grade("wait0", "wait1", "wait2", "budget20", "budget80"),
    ),
    "reinforce": (
        DATA,
        ("grpo.py", "--model", BASE, "--data", f"{OUT}/data/train.jsonl", "--out", f"{OUT}/grpo")
        + ("--format", "think", "--steps", "100", "--max-tokens", "128", "--lr", "5e-4")
        + ("--device", "cpu"),
        answer(f"{OUT}/grpo", "grpo"),
        grade("grpo"),
    ),
}


def run(command):
    """Run a command of the project. Exits in one line if an exercise is not written yet."""
    print("\npython", *command, flush=True)
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | settings,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    errors = process.stderr.read()
    if process.wait() == 0:
        return
    if needed := re.findall(r"NotImplementedError: exercise: (\w+)", errors):
        sys.exit(f"this run needs the exercise {needed[-1]}, which is not written yet")
    sys.exit(errors.rstrip())


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ladder", choices=LADDERS)
    parser.add_argument("--again", action="store_true", help=f"remove {OUT} first")
    options = parser.parse_args(arguments)
    if options.again:
        shutil.rmtree(ROOT / OUT, ignore_errors=True)
    began = time.perf_counter()
    for command in LADDERS[options.ladder]:
        if command[0] == "generate.py" and f"{OUT}/sft" in command:
            if not (ROOT / OUT / "sft" / "config.json").is_file():
                sys.exit("first: python assignments/world.py batch")
        run(command)
    print(f"\n{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
