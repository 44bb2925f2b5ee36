"""The experiments of the handouts: a run of the tiny world by this copy's own functions.

    python assignments/tiny.py measure        a guesser and a patient teacher, graded: seconds
    python assignments/tiny.py batch          masks, packing and padding in numbers: seconds
    python assignments/tiny.py tokens         fine-tunes, then forces the budget: 3 minutes
    python assignments/tiny.py reinforce      GRPO for 40 steps, and its curves: a minute
    python assignments/tiny.py spare          what a rule of curation chooses: seconds
    python assignments/tiny.py why            three GRPO runs, two of which do not learn: a minute
    python assignments/tiny.py board FLAGS    a run for the leaderboard: two to four minutes

--seed S draws another world; --quick is a trial with tiny numbers. Everything is written below
out/assignments/NAME. The stages are the project's scripts, started with this Python: no bash is
needed, and `data.tiny -> sft -> generate -> evaluate` is what recipes/tiny.sh does. An experiment
needs the exercises of its own ladder and of the ladders above it.
"""

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE = "data/tiny_base"
sys.path.insert(0, str(ROOT))


def stage(*command):
    """Run one of the project's scripts, `FILE.py` or `-m MODULE`, with this Python.

    What it says is shown as it comes. Exits if it fails, and names an exercise that is missing.
    """
    command = [str(part) for part in command]
    print("\n$ python", *command, flush=True)
    settings = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "MPLBACKEND": "Agg"}
    settings |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | settings,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    missing = ""
    for line in process.stderr:
        sys.stderr.write(line)
        found = re.search(r"NotImplementedError: exercise: ([\w ]+)", line)
        missing = found[1] if found else missing
    if process.wait():
        sys.exit(f"first the exercise {missing}" if missing else process.returncode)


def fresh(out):
    """Remove what an earlier run left in `out`, a model directory or a file of completions.

    Its settings are the same, so a stage would continue it or call it complete; but the functions
    may have changed.
    """
    path = ROOT / out
    if path.suffix == ".jsonl":
        # and its NAME.config.json, NAME.jsonl.unfinished
        for old in path.parent.glob(f"{path.stem}.*"):
            old.unlink()
    elif (path / "training.json").is_file():
        shutil.rmtree(path)
    return out


def make_world(out, seed, quick):
    """data.tiny's problems and traces -> their folder."""
    sizes = ("--n-pool", 60, "--n-train", 40, "--n-held-out", 12) if quick else ()
    stage("-m", "data.tiny", "--out", f"{out}/world", "--seed", seed, *sizes)
    return f"{out}/world"


def read(path):
    from engine.rows import read_rows

    return list(read_rows(ROOT / path))


def write(path, rows):
    from engine.rows import write_rows

    write_rows(ROOT / path, rows)


# ---- measure


def measure(out, seed, quick):
    """Two writers answer the held-out problems 16 times each; evaluate.py compares them."""
    from data import tiny

    world = make_world(out, seed, quick)
    problems = [row for row in read(f"{world}/held_out.jsonl") if row["group"] == "math"]
    for name in ("blurt", "good"):
        trace_of, _ = tiny.TEACHER[name]
        rng = random.Random(f"{seed} {name}")
        rows = []
        for problem in problems:
            for sample in range(4 if quick else 16):
                _, attempt = trace_of(problem, rng)
                answer = tiny.expression(attempt)
                rows.append(problem | {"sample": sample, "response": answer, "text": answer})
        write(f"{out}/{name}.jsonl", rows)
        # The first 30 problems alone, one answer each.
        few = [row for row in rows if row["sample"] == 0][:30]
        write(f"{out}/{name}-30.jsonl", few)
    most = ("--k", 1, 4) if quick else ("--k", 1, 4, 16)
    stage("evaluate.py", f"{out}/good.jsonl", "--base", f"{out}/blurt.jsonl", *most)
    stage("evaluate.py", f"{out}/good-30.jsonl", "--base", f"{out}/blurt-30.jsonl", "--k", 1)


# ---- batch


def batch(out, seed, quick):
    """How much of a batch is trained, how much is padding, and what the base model thinks of it."""
    import torch

    from engine import loading, packing, training
    from engine import model as models
    from engine.format import FORMATS

    world = make_world(out, seed, quick)
    rows = read(f"{world}/pool.jsonl")
    model, tokenizer = loading.load(str(ROOT / BASE))
    examples = [FORMATS["think"].training_ids(tokenizer, row) for row in rows]
    lengths = [len(ids) for ids, _ in examples]
    n_trained = sum(sum(trained) for _, trained in examples)
    print(f"\n{len(rows)} traces, {sum(lengths)} tokens, {n_trained} of them trained")

    # Batches of 32 rows as they come, each padded to its longest row.
    batches = [lengths[i : i + 32] for i in range(0, len(lengths), 32)]
    padded = sum(len(of) * max(of) for of in batches)
    print(f"padded batches of 32 rows: {100 * (1 - sum(lengths) / padded):.1f}% is padding")
    for capacity in (512, 4096):
        bins = packing.fill_bins(lengths, capacity)
        room = sum(max(capacity, sum(lengths[i] for i in one)) for one in bins)
        share = 100 * (1 - sum(lengths) / room)
        print(f"fill_bins, capacity {capacity}: {len(bins)} bins, {share:.2f}% is empty")

    for kind in ("good", "loop"):
        chosen = [e for e, row in zip(examples, rows) if row["model"] == f"teacher-{kind}"][:64]
        packed = packing.pack([ids for ids, _ in chosen], [trained for _, trained in chosen])
        with torch.no_grad():
            logp = models.score(model, packed).logp
        print(f"{kind}: {-logp.mean().item():.3f} nats per trained token ({len(logp)} tokens)")

    rates = [training.lr_at(step, 150, 2e-3, 0.05) for step in range(150)]
    print(
        f"150 steps, warm-up 0.05, cosine: mean rate {statistics.fmean(rates) / 2e-3:.3f} of peak"
    )


# ---- tokens


def tokens(out, seed, quick):
    """Fine-tune on 400 of the good teacher's traces; force the budget with the plain decoder."""
    world = make_world(out, seed, quick)
    good = [row for row in read(f"{world}/pool.jsonl") if row["model"] == "teacher-good"]
    write(f"{out}/traces.jsonl", good[: 20 if quick else 400])
    epochs, n_problems, longest = (1, 4, 64) if quick else (12, 100, 320)
    stage(
        *("sft.py", "--model", BASE, "--data", f"{out}/traces.jsonl", "--out", fresh(f"{out}/sft")),
        *("--format", "think", "--epochs", epochs, "--batch-rows", 32, "--lr", 2e-3),
        *("--seed", seed, "--print-every", 25, "--device", "cpu", "--overwrite"),
    )
    forced = {"natural": (), "wait1": ("--waits", 1, "--wait", "wait")}
    forced |= {f"budget{n}": ("--thinking-budget", n) for n in (0, 20, 40)}
    for name, flags in forced.items():
        stage(
            *("generate.py", "--plain", "--model", f"{out}/sft", "--format", "think"),
            *("--data", f"{world}/held_out.jsonl", "--only", "math", "--limit", n_problems),
            *("--out", fresh(f"{out}/runs/{name}.jsonl"), "--temperature", 0.7, "--seed", seed),
            *("--max-tokens", longest, "--device", "cpu", "--overwrite", *flags),
        )
    runs = [f"{out}/runs/{name}.jsonl" for name in forced]
    stage("evaluate.py", *runs, "--base", runs[0], "--figure", f"{out}/budget.png")
    print(f"\n{out}/budget.png: accuracy against thinking tokens")


# ---- reinforce


def grpo(out, world, seed, steps, *flags):
    """A run of grpo.py -> the rows of its log."""
    stage(
        *("grpo.py", "--model", BASE, "--data", f"{world}/train.jsonl", "--out", fresh(out)),
        *("--format", "think", "--seed", seed, "--steps", steps, "--max-tokens", 128),
        *("--lr", 5e-4, "--device", "cpu", "--overwrite", *flags),
    )
    return read(f"{out}/log.jsonl")


def reinforce(out, seed, quick):
    """GRPO from the base model, and what its first and last ten steps look like."""
    world = make_world(out, seed, quick)
    small = ("--prompts-per-step", 3, "--group-size", 2) if quick else ()
    log = grpo(f"{out}/grpo", world, seed, 2 if quick else 40, *small)
    names = ("reward", "equal_groups", "n_tokens", "truncated", "entropy", "kl", "grad_norm")
    print(f"\n{'mean of ten steps':<20}{'first':>10}{'last':>10}")
    for name in names:
        first, last = (
            statistics.fmean(row[name] for row in part) for part in (log[:10], log[-10:])
        )
        print(f"{name:<20}{first:>10.3f}{last:>10.3f}")
    print(f"largest |loss| of all steps: {max(abs(row['loss']) for row in log):.1e}")
    print(f"{out}/grpo/curves.png")


# ---- spare


def spare(out, seed, quick):
    """Curate the same pool by four rules: whose traces are chosen, and how long are they?"""
    world = make_world(out, seed, quick)
    print_later = []
    for method in ("limo", "limo-low", "random", "longest"):
        file = f"{out}/{method}.jsonl"
        words = ("--words", "extended", "--length-cap", 120) if method.startswith("limo") else ()
        stage(
            *("curate.py", "--data", f"{world}/pool.jsonl", "--method", method, "--seed", seed),
            *("--k", 20 if quick else 400, "--out", file, "--no-quality", *words),
        )
        rows = read(file)
        good = statistics.fmean(row["model"] == "teacher-good" for row in rows)
        mean = statistics.fmean(row["n_thinking_tokens"] for row in rows)
        print_later.append(f"{method:<10}{mean:>10.1f}{100 * good:>10.1f}%")
    print(f"\n{'rule':<10}{'tokens':>10}{'good':>11}", *print_later, sep="\n")


# ---- why does the reward not rise?

RUNS = {  # name: flags of grpo.py, and what is plotted for it
    "as it should be": (),
    "learning rate 5e-6": ("--lr", 5e-6),
    "8 tokens: nearly all answers are cut": ("--max-tokens", 8),
}
CURVES = {
    "reward": "mean reward",
    "equal_groups": "groups of 16 with equal rewards",
    "loss": "loss",
    "grad_norm": "norm of the gradient",
}


def why(out, seed, quick):
    """Three runs of GRPO, of which two do not learn -> OUT/why.png."""
    world = make_world(out, seed, quick)
    small = ("--prompts-per-step", 3, "--group-size", 2) if quick else ()
    logs = {}
    for number, (name, flags) in enumerate(RUNS.items()):
        logs[name] = grpo(f"{out}/run{number}", world, seed, 2 if quick else 30, *small, *flags)
    draw(logs, ROOT / out / "why.png")
    print(f"\n{out}/why.png")


def draw(logs, path):
    """A panel for each of CURVES, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, CURVES.items()):
        for label, log in logs.items():
            axes.plot([row["step"] for row in log], [row[name] for row in log], label=label)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.25)
        # A loss of 1e-8 is 0; a scale of its own would hide that.
        if name == "loss":
            axes.set_ylim(-1, 1)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=80)


# ---- a run for the leaderboard


def board(out, seed, quick, flags=()):
    """GRPO with more flags of grpo.py, measured on the held-out math problems every five steps."""
    # One world for all runs beside this one.
    world = make_world(f"{Path(out).parent.as_posix()}/board{seed}", seed, quick)
    math = [row for row in read(f"{world}/held_out.jsonl") if row["group"] == "math"]
    write(f"{world}/math.jsonl", math)
    small = ("--prompts-per-step", 3, "--group-size", 2, "--eval-every", 1) if quick else ()
    held_out = ("--eval-data", f"{world}/math.jsonl", "--eval-every", 5)
    grpo(out, world, seed, 2 if quick else 50, *held_out, *small, *flags)
    stage("assignments/leaderboard.py", out)


EXPERIMENTS = {
    "measure": measure,
    "batch": batch,
    "tokens": tokens,
    "reinforce": reinforce,
    "spare": spare,
    "why": why,
    "board": board,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seed", type=int, default=0, help="of the world, training and sampling")
    parser.add_argument("--quick", action="store_true", help="a trial with tiny numbers")
    parser.add_argument("--out", help="default: out/assignments/EXPERIMENT")
    options, flags = parser.parse_known_args(arguments)
    if flags and options.experiment != "board":
        parser.error(f"unknown: {' '.join(flags)}")
    out = options.out or f"out/assignments/{options.experiment}"
    (ROOT / out).mkdir(parents=True, exist_ok=True)
    more = {"flags": flags} if flags else {}
    try:
        EXPERIMENTS[options.experiment](out, options.seed, options.quick, **more)
    except (NotImplementedError, ValueError) as error:
        # The load of a model calls exercises, too, and says so in an error of its own.
        sys.exit(f"tiny.py: {error}")


if __name__ == "__main__":
    main()
