"""assignments/leaderboard.py: runs by their accuracy after a number of sampled tokens."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "assignments"))

import leaderboard  # noqa: E402

IDENTITY = {"contents of --model": "m", "contents of --data": "d", "eval_data": "h", "seed": 7}


def write_run(folder, held_out, tokens=100, **identity):
    """A run that samples so many tokens a step, and trains twice as many; held_out: of each step."""
    folder.mkdir()
    training = {"identity": IDENTITY | {"temperature": 1.0} | identity}
    (folder / "training.json").write_text(json.dumps(training))
    rows = [
        {"step": i, "rollout_tokens": tokens, "train_tokens": 2 * tokens, "train_flops": 1e9}
        | ({} if share is None else {"held_out": share})
        for i, share in enumerate(held_out, 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_last_accuracy_within_the_tokens_counts(tmp_path, capsys):
    """250 tokens are two steps of 100 and five of 50. `long` is best at its end, which does not
    count; `late` has no evaluation so early."""
    runs = [
        write_run(tmp_path / "long", [0.2, 0.3, 0.9]),
        write_run(tmp_path / "short", [None, 0.1, None, 0.5, None, 0.8], tokens=50),
        write_run(tmp_path / "late", [None, None, 1.0]),
    ]
    places = leaderboard.leaderboard(runs, 250)
    assert [(Path(name).name, place and place["held_out"]) for name, place in places] == [
        ("short", 0.5),
        ("long", 0.3),
        ("late", None),
    ]
    expected = {"held_out": 0.5, "steps": 4, "sampled": 200, "trained": 400, "flops": 4e9}
    assert places[0][1] == expected
    assert [Path(name).name for name, _ in leaderboard.leaderboard([tmp_path], 250)] == [
        "short",
        "long",
        "late",
    ]
    leaderboard.main([*map(str, runs), "--tokens", "250"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[1:] == ["50.0%", "4", "200", "400", "4.0"]
    assert shown[3].endswith("no held-out accuracy within 250 tokens")


@pytest.mark.parametrize("name", leaderboard.SAME)
def test_runs_that_differ_are_refused(name, tmp_path):
    one = write_run(tmp_path / "a", [0.5])
    other = write_run(tmp_path / "b", [0.5], **{name: "another"})
    with pytest.raises(ValueError, match=f"b: not the {name} of .*a"):
        leaderboard.leaderboard([one, other], 250)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match="leaderboard.py: .*: not a finished run of grpo.py"):
        leaderboard.main([str(tmp_path)])
