"""A run on disk: its settings and identity, its log, and how it ends when it is told to."""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from engine.rows import BadInput, read_rows


def save_config(config, path, **more):
    """Write the settings of a run (and `more`, for instance measured totals) as JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(
        json.dumps({**dataclasses.asdict(config), **more}, indent=1, ensure_ascii=False) + "\n"
    )
    os.replace(part, path)


def header_of(path):
    """Where the settings of the run that wrote `path` stand: OUT.config.json beside OUT.jsonl."""
    return Path(str(path).removesuffix(".jsonl") + ".config.json")


def fingerprint(path):
    """16 hex digits that change when a file, or any file directly in a directory, changes.

    Files up to 64 MB count by content, larger ones by size and time of change.
    """
    path, digest = Path(path), hashlib.sha256()
    if not path.exists():  # a hub name: the name is all we know
        return hashlib.sha256(str(path).encode()).hexdigest()[:16]
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            stat = file.stat()
            digest.update(file.name.encode())
            digest.update(
                file.read_bytes()
                if stat.st_size <= 64e6
                else f"{stat.st_size} {stat.st_mtime_ns}".encode()
            )
    return digest.hexdigest()[:16]


def identity(config, without=(), **inputs):
    """What makes two runs the same: every setting except those named in `without`, and the inputs' fingerprints."""
    settings = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in dataclasses.asdict(config).items()
        if k not in without
    }
    return settings | {
        f"contents of --{name}": fingerprint(path) for name, path in inputs.items() if path
    }


def difference(ours, theirs):
    """One line that names the settings in which two identities differ; '' when they are equal."""
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in names)


@contextmanager
def sigterm():
    """While inside, SIGTERM does not end the process but fills the list that is given; a second one ends it."""
    asked = []
    # Python takes signals in the main thread only
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(
        signal.SIGTERM, lambda *_: asked.append(signal.signal(signal.SIGTERM, signal.SIG_DFL))
    )
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def flops_in(path):
    """Floating-point operations that a run's flops.jsonl adds up to. Raises BadInput."""
    rows = read_rows(path, need=("phase", "flops"))
    for number, row in enumerate(rows, 1):
        if type(row["flops"]) not in (int, float) or not 0 <= row["flops"] < float("inf"):
            raise BadInput(f"{path}:{number}: 'flops' is not a number")
    if not sum(row["flops"] for row in rows):
        raise BadInput(f"{path}: nothing was computed")
    return sum(row["flops"] for row in rows)


def plot_loss(out):
    """OUT/loss.png from OUT/log.jsonl: the loss of each step and its mean over a twentieth of the run."""
    import matplotlib.figure

    log = [
        row
        for row in map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines())
        if row["loss"] is not None
    ]
    steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
    width = max(1, len(log) // 20)
    figure = matplotlib.figure.Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats per trained token")
    axes.plot(steps, losses, color="0.7", linewidth=1)
    axes.plot(
        steps[width - 1 :],
        [sum(losses[i : i + width]) / width for i in range(len(log) - width + 1)],
        color="C0",
    )
    figure.savefig(Path(out) / "loss.png", dpi=120)


class Log:
    """log.jsonl of a run: one dict per step, the same dict printed as one line.

    last_step: when resuming, lines after this step are cut away, so that the log has no gap and no repeat.
    every: print only every so many steps (and the last one); 0 prints nothing. shown: print only these values.
    """

    def __init__(self, path, last_step=0, total=None, every=1, shown=None):
        self.path, self.total, self.every, self.shown = Path(path), total, every, shown
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if last_step and self.path.exists():
            # a line without its "\n" was cut by a kill
            lines = self.path.read_text().split("\n")[:-1]
            kept = [line for line in lines if json.loads(line)["step"] <= last_step]
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(line + "\n" for line in kept))
        os.replace(part, self.path)
        self.file = open(self.path, "a", encoding="utf-8")

    def __call__(self, step, **values):
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if not self.every or (step % self.every and step != self.total):
            return
        head = f"step {step}" + (f"/{self.total}" if self.total else "")
        cells = [
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in values.items()
            if not self.shown or k in self.shown
        ]
        tqdm.write(f"{head:<15}" + "  ".join(cells))  # above a progress bar, if there is one
        sys.stdout.flush()
