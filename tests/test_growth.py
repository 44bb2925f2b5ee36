"""Freedom to grow: a reader's function and one line beside it fit in, and every check stays green.

A copy of the repository gets a reward, an objective, a curation method and a setting.
Then the formatter, the linter, the tests of the structure and a test that uses the additions run
there.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# (file, the line that the addition is written before; "" is the end of the file, addition)
ADDITIONS = [
    (
        "grading/rewards.py",
        "",
        '''

@reward("shorter", needs=("answer",))
def reward_shorter(row, around, alpha=0.001):
    """A right answer is worth more the fewer tokens it takes."""
    return reward_correct(row, around) * (1 - alpha * row["n_tokens"])
''',
    ),
    (
        "grpo.py",
        "def kl_estimate(",
        '''@objective("soft")
def soft(logp, tokens, cfg):
    """A tanh(log ρ): a clip without a threshold."""
    log_ratio = logp - tokens.old_logp
    return tokens.advantage * log_ratio.tanh(), nowhere(logp)


''',
    ),
    (
        "curate.py",
        "def main(cfg):",
        '''@method("shortest", needs=("response",))
def select_shortest(rows, k, inputs):
    """The k rows with the shortest responses, in characters."""
    long_enough = [row for row in rows if len(row["response"]) >= inputs.cfg.shortest_from]
    return sorted(long_enough, key=lambda row: len(row["response"]))[:k]


''',
    ),
    (
        "curate.py",
        "    k: int = 1000",
        "    shortest_from: int = 0  # characters of the shortest response that `shortest` takes\n",
    ),
]

TEST = '''
from types import SimpleNamespace

import torch

import curate
import grpo
from engine import settings
from engine.rows import read_rows, write_rows
from grading import rewards


def test_the_reward():
    """Right in 100 tokens: 1 - 0.002 * 100 = 0.8; wrong: 0."""
    rows = []
    for text in ("4", "5"):
        answers = {"text": text, "response": text, "thinking": ""}
        rows.append({"question": "2 + 2?", "answer": "4", "n_tokens": 100, **answers})
    shorter = rewards.parse_reward("shorter:0.002")
    assert rewards.rewards_of(shorter, rows, None, 200) == [0.8, 0]


def test_the_objective():
    """log ρ = 1, A = 2: 2 tanh(1) = 1.5232; nothing is clipped."""
    flags = ["--model", "m", "--data", "d", "--out", "o", "--loss", "soft"]
    config = settings.parse(grpo.Config, flags)
    tokens = SimpleNamespace(old_logp=torch.tensor([-2.0]), advantage=torch.tensor([2.0]))
    gain, clipped = grpo.OBJECTIVES[config.loss].function(torch.tensor([-1.0]), tokens, config)
    assert abs(gain.item() - 1.5232) < 1e-4 and not clipped.any()


def test_the_method_and_its_setting(tmp_path):
    """Of responses of 1, 2, 3 and 4 characters the two shortest of 2 or more."""
    pool, out = str(tmp_path / "pool.jsonl"), str(tmp_path / "out.jsonl")
    responses = ["aaaa", "a", "aaa", "aa"]
    write_rows(pool, [{"id": r, "question": r, "response": r} for r in responses])
    flags = ["--data", pool, "--out", out, "--method", "shortest", "--k", "2"]
    config = settings.parse(curate.Config, [*flags, "--shortest-from", "2"])
    curate.main(config)
    assert [row["response"] for row in read_rows(out)] == ["aa", "aaa"]
'''


def test_additions_leave_everything_green(tmp_path):
    """Formatter, linter, structure and the additions' own test pass in the copy."""
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "out", "__pycache__", ".*_cache")
    )
    for name, before, addition in ADDITIONS:
        text = (copy / name).read_text()
        if before:
            assert text.count("\n" + before) == 1, f"{name} has moved on: {before}"
            text = text.replace("\n" + before, "\n" + addition + before)
        else:
            text += addition
        (copy / name).write_text(text)
    (copy / "tests/test_mine.py").write_text(TEST.lstrip())

    pytest = ["pytest", "-q", "-p", "no:cacheprovider"]
    for command in (
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        [*pytest, "tests/test_mine.py"],
        # those that need no torch
        [*pytest, "tests/test_structure.py", "-k", "curate or grading or tensors or paths or text"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr}"
