"""The recipes: every command is one that its script takes, with the papers' settings.

Stand-ins for python and torchrun note the commands; no script starts. tests/test_recipes_slow.py
runs the recipes in the tiny world to their end.
"""

import inspect
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.nn.attention.varlen import varlen_attn

import analyze
import curate
import evaluate
import generate
import grpo
import sft
from atlas import measures
from atlas import run as studies
from data import addition, english, prepare, search, smollm, tiny
from engine import machine, plan, settings
from grading import labels, verdicts
from grading.formulas import check_expression

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {
    "sft.py": sft,
    "grpo.py": grpo,
    "generate.py": generate,
    "evaluate.py": evaluate,
    "atlas.measures": measures,
    "curate.py": curate,
    "analyze.py": analyze,
    "data.prepare": prepare,
    "data.tiny": tiny,
    "data.english": english,
    "data.smollm": smollm,
    "grading.labels": labels,
    "engine.machine": machine,
    "grading.verdicts": verdicts,
    "data.addition": addition,
    "data.search": search,
    "atlas.run": studies,
}
# Notes the command, and writes 2,000 lines to each --out FILE.jsonl.
STAND_IN = """#!/bin/sh
if [ "$1" = - ]; then shift; exec {python} - "$@"; fi
own=$(mktemp)
{{ for word in "$0" "$@"; do printf '%s\\0' "$word"; done; printf '\\n'; }} > "$own"
# In one write: two lanes of a recipe run side by side.
cat "$own" >> "$COMMANDS"; rm "$own"
while [ $# -gt 0 ]; do
  if [ "$1" = --out ]; then
    case "$2" in *.jsonl) mkdir -p "$(dirname "$2")"; seq 2000 > "$2";; esac
  fi
  shift
done
"""


def commands(tmp_path, recipe, *arguments, **variables):
    """Run a copy of a recipe with stand-ins -> [(ranks, script, its Config)], in order."""
    for name in ("python", "torchrun"):
        (tmp_path / name).write_text(STAND_IN.format(python=shlex.quote(sys.executable)))
        (tmp_path / name).chmod(0o755)
    # A copy, because recipes/tiny.sh replaces what earlier runs left in out/.
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", dirs_exist_ok=True)
    log = tmp_path / "commands"
    log.unlink(missing_ok=True)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SKIP_INSTALL": "1",
        "OUT": str(tmp_path / "out"),
        "COMMANDS": str(log),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", str(tmp_path / "recipes" / recipe), *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [parsed(line.split("\0")) for line in log.read_text().split("\0\n")[:-1]]


def parsed(words):
    """[program, its arguments ...] -> (ranks, script, its Config)."""
    program, *words = words
    ranks = 1
    if program.endswith("torchrun"):
        ranks = int(words[words.index("--nproc-per-node") + 1])
        words = words[words.index("--") + 1 :]
    if words[0] == "-m":
        words = words[1:]
    name, *arguments = words
    return ranks, name, settings.parse(SCRIPTS[name].Config, arguments)


def only(found, name):
    """(ranks, Config) of the only command of this script."""
    ((ranks, _, config),) = [command for command in found if command[1] == name]
    return ranks, config


def check_settings(config, **wanted):
    assert {name: getattr(config, name) for name in wanted} == wanted


# What a recipe has to be given; the others need nothing.
VARIABLES = {
    "laptop.sh": {"DTYPE": "fp32", "EQUAL_FLOPS": "1"},
    "l1.sh": {"MODEL": "m", "DATA": "d.jsonl", "TEST": "t.jsonl"},
    "tiny_world.sh": {"RECIPE": "s1"},
}
# Those of studies are tested by test_atlas.py.
STUDIES = ("oneshot", "verifier", "addition", "sos", "sizes", "priming", "r1")
OTHERS = ("env.sh", "study.sh", "atlas.sh", *(f"{name}.sh" for name in STUDIES))
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.sh") if path.name not in OTHERS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_is_one_that_its_script_takes(tmp_path, recipe):
    """A misspelt or removed flag would end the recipe, perhaps after hours."""
    for folder in ("out/world", "out/data"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("held_out", "train"):
            row = {"group": "math", "task": "cd", "id": name}
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "out/tiny_base_run0").mkdir()
    (tmp_path / "out/tiny_base_run0/config.json").write_text("{}")
    variables = dict(VARIABLES.get(recipe, {}))
    arguments = [variables.pop("RECIPE")] if "RECIPE" in variables else []
    found = commands(tmp_path, recipe, *arguments, **variables)
    assert len(found) >= 2
    if recipe in ("objectives.sh", "spurious.sh", "star.sh", "ttrl.sh", "unireason.sh"):
        assert commands(tmp_path, recipe, MODEL="m", DATA="d", TEST="t", TASKS="k", DEVICE="cuda")


@pytest.mark.parametrize("name", [*STUDIES, "l1"])
def test_recipes_that_are_studies(tmp_path, name):
    """They hand their arguments on."""
    ((_, script, config),) = commands(tmp_path, f"{name}.sh", "--seeds", "3", LANES="1")
    assert script == "atlas.run"
    check_settings(config, studies=(name,), seeds=3, lanes=1)


def test_l1(tmp_path):
    """The paper's settings; with a warm start RL begins from it. Cut is the model of the start."""
    given = {"MODEL": "m", "DATA": "d.jsonl", "TEST": "t.jsonl"}
    _, config = only(commands(tmp_path, "l1.sh", **given), "grpo.py")
    check_settings(config, model="m", steps=700, reward="lcpo:alpha=0.0003", budgets=(100, 4000))
    check_settings(config, prompts_per_step=128, group_size=16, lr=1e-6, max_tokens=8000)
    more = {"WORDS": "first", "WARM": "used:100:4000:100:500", "KIND": "max", "BUDGETS": "40 900"}
    found = commands(tmp_path, "l1.sh", **given, **more)
    start = only(found, "sft.py")[1].out
    _, config = only(found, "grpo.py")
    check_settings(config, model=start, reward="lcpo_max:alpha=0.0003", budget_words="first")
    runs = [(c.model, c.ask, c.thinking_budget) for _, n, c in found if n == "generate.py"][1:]
    trained = config.out
    assert runs == [
        (trained, "first:40", None),
        ("m", "", 0),
        (trained, "first:900", None),
        ("m", "", 850),
    ]


def test_s1(tmp_path):
    found = commands(
        tmp_path, "s1.sh", MODEL="m", NPROC="8", TP="8", FLAGS="--recompute --adam-dtype bf16"
    )
    ranks, config = only(found, "sft.py")
    assert ranks == 8
    check_settings(config, epochs=5, batch_rows=16, lr=1e-5, warmup=0.05, weight_decay=1e-4)
    check_settings(config, beta1=0.9, beta2=0.95, max_length=32768, dtype="bf16")
    check_settings(config, recompute=True, adam_dtype="bf16")
    answers = [config for _, name, config in found if name == "generate.py"]
    assert [c.waits for c in answers if c.waits] == [1, 2, 4, 6]
    assert answers[0].tp == 8 and len(answers) == 11


def test_limo(tmp_path):
    ranks, config = only(commands(tmp_path, "limo.sh"), "sft.py")
    assert ranks == 1
    check_settings(config, epochs=15, batch_rows=64, lr=5e-6, warmup=0, weight_decay=0)
    check_settings(config, beta2=0.999, max_length=16384, schedule="cosine", format="plain")
    found = commands(tmp_path, "limo.sh", METHOD="limo", NAME="rows", SOURCE="pool.jsonl")
    _, chosen = only(found, "curate.py")
    check_settings(chosen, method="limo", k=800)
    assert only(found, "sft.py")[1].data == chosen.out


def test_unireason(tmp_path):
    found = commands(tmp_path, "unireason_sft.sh", PROBLEMS="p.jsonl", TEACHER="t")
    _, config = only(found, "sft.py")
    check_settings(config, batch_rows=512, lr=5e-5, max_length=16384, format="think")
    assert only(found, "curate.py")[1].keep == "correct"
    assert [c.model for _, name, c in found if name == "generate.py"][0] == "t"

    found = commands(tmp_path, "unireason_rl.sh", NPROC="8", TP="4")
    ranks, config = only(found, "grpo.py")
    assert ranks == 8
    check_settings(config, prompts_per_step=512, group_size=16, minibatches=4, steps=140, tp=4)
    check_settings(config, eps_low=0.22, eps_high=0.28, lr=1e-6, beta=0, entropy=0)
    check_settings(config, max_tokens=16384)


def test_countdown(tmp_path):
    """The generated problems are like the data set's and solvable; held-out ones stay out."""
    found = commands(tmp_path, "countdown.sh", GENERATE="300", HELD_OUT="50")
    _, config = only(found, "grpo.py")
    check_settings(config, prompts_per_step=256, max_tokens=1024, lr=1e-6, beta=0.001)
    check_settings(config, reward="countdown", format="r1")
    out = tmp_path / "out"
    assert (out / "test.jsonl").read_text().split() == [str(i) for i in range(1, 51)]
    assert (out / "train.jsonl").read_text().split()[0] == "51"
    rows = [json.loads(line) for line in (out / "generated.jsonl").read_text().splitlines()]
    assert len(rows) == 300 and {len(row["nums"]) for row in rows} == {3, 4}
    for row in rows:
        assert 0 < row["target"] < 1000 and 1 <= min(row["nums"]) and max(row["nums"]) < 100
    assert all(solvable(row["nums"], row["target"]) for row in rows[:40])


def solvable(nums, target):
    """Whether some order and some operations, applied from left to right, give the target."""
    for order in itertools.permutations(nums):
        for operations in itertools.product("+-*/", repeat=len(nums) - 1):
            text = str(order[0])
            for operation, number in zip(operations, order[1:]):
                text += f"{operation}{number}"
            if check_expression(text, nums, target, left_to_right=True):
                return True
    return False


def test_gsm8k(tmp_path):
    variables = {"DEVICE": "cpu", "NAME": "rows", "TRAIN": "a.jsonl", "TEST": "b.jsonl"}
    found = commands(tmp_path, "gsm8k.sh", **variables)
    _, config = only(found, "grpo.py")
    check_settings(config, prompts_per_step=64, group_size=8, max_tokens=512, dtype="fp32")
    assert [name for _, name, _ in found] == [
        "data.prepare",
        "data.prepare",
        "generate.py",
        "grpo.py",
        "generate.py",
        "evaluate.py",
        "analyze.py",
    ]


PAPER = {
    "s1": {"batch_rows": 16, "warmup": 0.05, "weight_decay": 1e-4, "beta2": 0.95},
    "limo": {"epochs": 15, "batch_rows": 64, "warmup": 0, "weight_decay": 0, "beta2": 0.999},
    "unireason_sft": {"warmup": 0.1, "weight_decay": 0, "schedule": "cosine"},
    "unireason_rl": {"minibatches": 4, "eps_low": 0.22, "eps_high": 0.28, "kl": "none"},
    "gsm8k": {"reward": "correct", "group_size": 8},
    "countdown": {"reward": "countdown", "group_size": 5, "kl": "k3", "beta": 0.001},
}


@pytest.mark.parametrize("recipe", PAPER)
def test_tiny_world(tmp_path, recipe):
    """The same recipe with its method's settings; the tiny model and one seed everywhere.

    What is trained on is not what is measured with.
    """
    world = tmp_path / "out/world"
    world.mkdir(parents=True)
    for name in ("held_out", "train"):
        row = {"group": "math", "task": "cd", "id": name}
        (world / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    found = commands(tmp_path, "tiny_world.sh", recipe, SEED="3", PROMPTS="5")
    check_settings(found[0][2], seed=3, out=str(world))
    lines = (world / "cd.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["held_out", "train"]

    ((_, name, trained),) = [x for x in found if x[1] in ("sft.py", "grpo.py")]
    check_settings(trained, **PAPER[recipe])
    check_settings(trained, model="data/tiny_base", seed=3, format="think", device="cpu")
    assert trained.lr >= 2e-4
    if name == "grpo.py":
        assert trained.prompts_per_step == 5
    answers = [config for _, name, config in found if name == "generate.py"]
    assert len(answers) >= 2
    for config in answers:
        check_settings(config, seed=3, format="think")
    assert {config.data for config in answers[-2:]}.isdisjoint({trained.data})


def test_slow_tests_wait_until_they_are_asked_for(request):
    """The default run leaves them out, so that it stays a matter of minutes."""
    if request.config.option.markexpr == "not slow":
        assert not any(item.get_closest_marker("slow") for item in request.session.items)


@pytest.mark.parametrize(
    "recipe, flags, words",
    [
        ("s1.sh", dict(run="s1-32b", adam_dtype="bf16"), "76.6 GiB each, 0.6 hours"),
        ("s1.sh", dict(run="s1-32b", gpus="8xH200-141GB"), "92.7 GiB, 0.6 hours"),
        ("limo.sh", dict(run="limo-32b", adam_dtype="bf16"), "74.9 GiB each, 1.9 hours"),
        ("unireason_sft.sh", dict(run="unireason-14b-sft"), "49.2 GiB each, 3.7 hours"),
        ("unireason_rl.sh", dict(run="unireason-14b-rl"), "78.6 GiB each"),
    ],
)
def test_planned_figures_are_those_of_the_plan(recipe, flags, words, capsys):
    """The head of a recipe says of memory and time what engine/plan.py prints, and it fits.

    Under torch 2.11 the flash kernel is given keys and values repeated for every head: it may be a
    hundredth more.
    """
    found = plan.main(plan.Config(**flags))
    text = " ".join(
        line.lstrip("# ") for line in (ROOT / "recipes" / recipe).read_text().splitlines()
    )
    assert found["fits"] and words in text
    said = float(words.split()[0])
    more = 1 if "enable_gqa" in inspect.signature(varlen_attn).parameters else 1.01
    assert said <= round(found["peak_with_margins"] / 2**30, 1) <= said * more
    if "hours" in words:
        assert float(words.split()[-2]) == round(found["hours"], 1)


@pytest.mark.parametrize("flags, left_out", [([], set()), (["--quick"], {"A3", "B2"})])
def test_the_laptops_claims_are_about_runs_that_it_makes(tmp_path, flags, left_out):
    """A claim about a run that is not there would end the analysis, after an hour."""
    commands(tmp_path, "laptop.sh", *flags, DTYPE="fp32")
    kept = {claim["id"] for claim in json.loads((tmp_path / "out/claims.json").read_text())}
    all_of_them = json.loads((ROOT / "recipes/laptop_claims.json").read_text())
    assert {claim["id"] for claim in all_of_them} - kept == left_out
