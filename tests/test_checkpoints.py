"""engine/checkpoints.py over several ranks: any number continues what any number began."""

import math
import os
import signal
import time

import pytest
from ranks import (
    cut_short,
    kill,
    make_material,
    ranks_run,
    settings_of,
    start_ranks,
    weights_of,
)

import sft
from engine import checkpoints
from engine.rows import read_rows


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"))


def on_two_ranks(whole, broken, left, also_left, from_one):
    """-> histories of two continued runs: one cut short by these two ranks, one by one process.

    whole: an undisturbed run. left, also_left: cut short, for other numbers of ranks to continue.
    """
    sft.main(whole)
    cut_short(broken)
    checkpoints.FILE_BYTES = 20_000  # checkpoints in several files per rank
    for cfg in (left, also_left):
        cut_short(cfg)
        assert len(list(checkpoints.saved_checkpoints(cfg.out)[0].glob("*.safetensors"))) > 4
    checkpoints.FILE_BYTES = 2**28
    return sft.main(broken), sft.main(from_one)


@pytest.fixture(scope="module")
def runs(material, tmp_path_factory):
    """3 steps of AdamW, cut short after step 2 and continued by other numbers of ranks.

    -> (folder of all runs, {name: history on each rank}).
    """
    folder, histories = tmp_path_factory.mktemp("runs"), {}

    def adam(out, **more):
        return settings_of(material, folder / out, lr=0.01, save_every=1, **more)

    sft.main(adam("adam 1"))
    cut_short(adam("1 to 2"))
    names = ("adam 2", "2 to 2", "2 to 1", "2 to 4", "1 to 2")
    two = ranks_run(on_two_ranks, *(adam(name) for name in names))
    histories["2 to 2"], histories["1 to 2"] = zip(*two, strict=True)
    histories["2 to 4"] = ranks_run(sft.main, adam("2 to 4", tp=2), n=4)
    histories["2 to 1"] = [sft.main(adam("2 to 1"))]
    return folder, histories


@pytest.mark.parametrize("name", ["2 to 2", "2 to 1", "1 to 2", "2 to 4"])
def test_a_checkpoint_continues_on_any_number_of_ranks(material, runs, name):
    """Cut short after step 2 of AdamW, continued by as many or other ranks (4 with --tp 2).

    As many ranks end in the same bytes. Others end as close to one process as Adam allows, 1e-5 of
    the way that the weights moved.
    """
    folder, histories = runs
    for history in histories[name]:
        assert [row["step"] for row in history] == [3]
    assert [row["step"] for row in read_rows(folder / name / "log.jsonl")] == [1, 2, 3]
    assert not list((folder / name).glob("checkpoint*"))
    if name == "2 to 2":
        assert model_bytes(folder / name) == model_bytes(folder / "adam 2")
    wanted = weights_of(folder / "adam 1")
    moved = distance(wanted, weights_of(material / "qwen3"))
    assert moved > 0.5 and distance(wanted, weights_of(folder / name)) <= 1e-5 * moved


def model_bytes(path):
    return (path / "model.safetensors").read_bytes()


def distance(weights, others):
    return math.sqrt(sum((weights[key] - others[key]).square().sum().item() for key in weights))


def test_two_ranks_ended_at_any_moment(material, tmp_path):
    """SIGTERM to both ranks, then twice SIGKILL, at moments that the clock chooses.

    Each comes after the first checkpoint of its own. SIGTERM leaves a checkpoint of the last logged
    step. The run that ends undisturbed has the bytes and the log of one that nobody disturbed.
    """
    settings = dict(lr=0.01, epochs=5, save_every=1)
    whole = settings_of(material, tmp_path / "whole", **settings)
    cfg = settings_of(material, tmp_path / "out", **settings)
    undisturbed = start_ranks(sft.main, [whole])
    for end in [signal.SIGTERM, *[signal.SIGKILL] * 2]:
        before = last_saved(cfg)
        ranks = start_ranks(sft.main, [cfg])
        first_rank, _ = ranks[0]
        deadline = time.monotonic() + 60
        while last_saved(cfg) <= before and time.monotonic() < deadline and first_rank.is_alive():
            time.sleep(0.002)
        time.sleep(time.time_ns() % 1000 / 20_000)
        for process, _ in ranks:
            if process.is_alive():
                os.kill(process.pid, end)
        if end == signal.SIGTERM:
            assert all("SystemExit: 143" in str(answer.recv()) for _, answer in ranks)
            assert len(checkpoints.saved_checkpoints(cfg.out)) == 1
            assert last_saved(cfg) == read_rows(tmp_path / "out" / "log.jsonl")[-1]["step"] < 15
        kill(ranks)
    assert 0 < last_saved(cfg) < 15
    ranks_run(sft.main, cfg)
    assert all(answer.poll(60) for _, answer in undisturbed)
    kill(undisturbed)
    assert model_bytes(tmp_path / "out") == model_bytes(tmp_path / "whole")
    ours, theirs = (log_without_speeds(tmp_path / name) for name in ("out", "whole"))
    assert ours == theirs and [row["step"] for row in ours] == list(range(1, 16))


def last_saved(cfg):
    """The step of a run's last checkpoint, 0 if it has none."""
    saved = checkpoints.saved_checkpoints(cfg.out)
    return int(saved[0].name.removeprefix("checkpoint-")) if saved else 0


def log_without_speeds(path):
    rows = read_rows(path / "log.jsonl")
    return [{k: v for k, v in row.items() if k not in ("tok_s", "memory_gb")} for row in rows]
