"""engine/trackers.py: what TensorBoard and Weights & Biases are given, with stand-ins in their places."""

import json
import sys
import types

import pytest
from ranks import cut_short, make_material, settings_of

import sft
from engine import trackers
from engine.rows import BadInput


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("trackers"))


class Writer:
    """In the place of SummaryWriter: keeps what it is given."""

    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.is_closed = folder, purge_step, [], False
        Writer.made.append(self)

    def add_scalar(self, name, number, step):
        self.scalars.append((step, name, number))

    def flush(self):
        pass

    def close(self):
        self.is_closed = True


class WandbRun:
    def __init__(self, options):
        self.options, self.rows, self.is_finished = options, [], False

    def log(self, numbers, step):
        self.rows.append((step, numbers))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def stand_ins(monkeypatch):
    """-> the writers and the runs that are made, in order."""
    Writer.made, runs = [], []

    def init(**options):
        runs.append(WandbRun(options))
        return runs[-1]

    wandb = types.SimpleNamespace(init=init)
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer)
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return Writer.made, runs


def test_they_get_the_log(material, tmp_path, stand_ins):
    """Every number of log.jsonl at its step, held-out losses too; a killed run goes on as the same run."""
    writers, runs = stand_ins
    cfg = settings_of(
        material,
        tmp_path / "out",
        tensorboard=True,
        wandb=True,
        epochs=2,
        save_every=2,
        eval_data=str(material / "rows.jsonl"),
    )
    cut_short(cfg, at=3)
    sft.main(cfg)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 6 and len(writers) == len(runs) == 2
    wanted = [(row["step"], {k: v for k, v in row.items() if k != "step"}) for row in log]
    assert runs[0].rows[:2] == wanted[:2] and runs[1].rows == wanted[2:]
    assert "eval_loss" in wanted[2][1]
    assert writers[1].scalars == [
        (step, name, number) for step, numbers in wanted[2:] for name, number in numbers.items()
    ]
    assert [writer.purge_step for writer in writers] == [1, 3]
    assert writers[1].is_closed and runs[1].is_finished
    first, second = (run.options for run in runs)
    assert first["id"] == second["id"] and len(first["id"]) == 32
    assert first["config"]["lr"] == 0.5 and first["dir"] == str(tmp_path / "out")


def test_what_is_no_number_is_left_out(tmp_path, stand_ins):
    """A step without a finite loss logs None; words are not drawn."""
    writers, _ = stand_ins
    cfg = types.SimpleNamespace(tensorboard=True, wandb=False)
    trackers.Trackers(cfg, tmp_path, 0).log(4, {"loss": None, "lr": 0.5, "note": "x", "n": 3})
    assert writers[0].scalars == [(4, "lr", 0.5), (4, "n", 3)]


def test_nothing_is_imported_without_a_flag(material, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "module_of", None)
    assert len(sft.main(settings_of(material, tmp_path / "out"))) == 3


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_one_that_is_not_installed_is_named(material, tmp_path, monkeypatch, name):
    """In one line, before the model is loaded."""
    monkeypatch.setitem(sys.modules, trackers.MODULES[name], None)  # as if it were not installed
    with pytest.raises(BadInput, match=rf"^--{name}: {name} is not installed \(pip install"):
        sft.main(settings_of(material, tmp_path / "out", **{name: True, "model": "no such model"}))


def test_a_refusal_of_wandb_is_one_line(material, tmp_path, monkeypatch):
    def init(**options):
        raise RuntimeError("no API key configured\nlog in with ...")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(BadInput) as refused:
        sft.main(settings_of(material, tmp_path / "out", wandb=True))
    assert str(refused.value) == (
        "--wandb: no API key configured (WANDB_MODE=offline needs no account)"
    )
