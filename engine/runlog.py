"""A run on disk: its settings and identity, its log, and how it ends when it is told to."""

import dataclasses
import hashlib
import json
import math
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from engine.rows import BadInput, read_rows

# ---- settings and identity


def save_config(config, path, **more):
    """Write the settings of a run, and `more` (measured totals, for instance), as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = dataclasses.asdict(config) | more
    write_whole(path, json.dumps(saved, indent=1, ensure_ascii=False) + "\n")


def header_of(path):
    """The file with the settings of the run that wrote `path`: OUT.config.json beside OUT.jsonl."""
    return Path(str(path).removesuffix(".jsonl") + ".config.json")


def write_whole(path, text):
    """Write a text file whole or not at all: a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def fingerprint(path):
    """16 hex digits that change when a file, or any file directly in a directory, changes.

    Files up to 64 MB count by content, larger ones by size and time of change. A path that does not
    exist is taken for a hub name: the name is all that is known.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if not path.exists():
        digest.update(str(path).encode())
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            continue
        digest.update(file.name.encode())
        stat = file.stat()
        if stat.st_size <= 64e6:
            digest.update(file.read_bytes())
        else:
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def identity(config, without=(), **inputs):
    """What two runs must have in common to be the same run -> dict of JSON values.

    Every setting except those named in `without`, and the fingerprints of the inputs (flag=path).
    """
    found = {}
    for name, value in dataclasses.asdict(config).items():
        if name not in without:
            found[name] = list(value) if isinstance(value, tuple) else value
    for name, path in inputs.items():
        if path:
            found[f"contents of --{name}"] = fingerprint(path)
    return found


def difference(ours, theirs):
    """One line that names the settings in which two identities differ; '' when they are equal."""
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in names)


# ---- how a run ends


@contextmanager
def sigterm():
    """While inside, a first SIGTERM does not end the process; it only fills the list that is given.

    A second one ends the process. In a thread nothing changes: Python takes signals in the main
    thread only.
    """
    asked = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number, frame):
        asked.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- the log


class Log:
    """log.jsonl of a run: one dict per step. The same dict is printed as one line.

    last_step: when resuming, lines after this step are cut away, so that the log has no gap and no
    repeat. total: steps of the whole run.
    every: print only every so many steps, and the last one; 0 prints nothing.
    shown: print only these values.
    """

    def __init__(self, path, last_step=0, total=None, every=1, shown=None):
        self.path, self.total, self.every, self.shown = Path(path), total, every, shown
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if last_step and self.path.exists():
            # a line without its "\n" was cut by a kill
            lines = self.path.read_text().split("\n")[:-1]
            kept = [line + "\n" for line in lines if json.loads(line)["step"] <= last_step]
        write_whole(self.path, "".join(kept))
        self.file = open(self.path, "a", encoding="utf-8")

    def __call__(self, step, **values):
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if self.every and (step % self.every == 0 or step == self.total):
            self.print(step, values)

    def print(self, step, values):
        head = f"step {step}/{self.total}" if self.total else f"step {step}"
        cells = []
        for name, value in values.items():
            if self.shown and name not in self.shown:
                continue
            cells.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        # tqdm's write goes above a progress bar, if there is one
        tqdm.write(f"{head:<15}" + "  ".join(cells))
        sys.stdout.flush()


def flops_in(path):
    """Floating-point operations of a run, the sum of its flops.jsonl. Raises BadInput."""
    total = 0
    for number, row in enumerate(read_rows(path, need=("phase", "flops")), 1):
        flops = row["flops"]
        if type(flops) not in (int, float) or not math.isfinite(flops) or flops < 0:
            raise BadInput(f"{path}:{number}: 'flops' is not a number")
        total += flops
    if not total:
        raise BadInput(f"{path}: nothing was computed")
    return total


def plot_loss(out):
    """Draw OUT/loss.png from OUT/log.jsonl: each step's loss, and its mean over 1/20 of the run."""
    import matplotlib.figure

    lines = (Path(out) / "log.jsonl").read_text().splitlines()
    log = [row for row in map(json.loads, lines) if row["loss"] is not None]
    steps = [row["step"] for row in log]
    losses = [row["loss"] for row in log]
    width = max(1, len(log) // 20)
    means = []
    for end in range(width, len(log) + 1):
        means.append(sum(losses[end - width : end]) / width)

    figure = matplotlib.figure.Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats per trained token")
    axes.plot(steps, losses, color="0.7", linewidth=1)
    axes.plot(steps[width - 1 :], means, color="C0")
    figure.savefig(Path(out) / "loss.png", dpi=120)
