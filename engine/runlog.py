"""A run on disk: its settings and identity, its log, and how it ends when it is told to."""

import contextlib
import dataclasses
import errno
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

from engine.axes import name_steps, say_empty
from engine.rows import BadInput, check_file_to_write, parse_row, read_rows

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # not Windows
    msvcrt = None

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
    check_file_to_write(path)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


def read_settings(path):
    """What save_config wrote -> dict with an identity ({} where none was saved). BadInput."""
    try:
        saved = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadInput(f"{path}: not the settings of a run ({reason})") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("identity", {}), dict):
        raise BadInput(f"{path}: not the settings of a run")
    return {"identity": {}} | saved


def earlier_identity(path, overwrite):
    """The identity of the run whose settings are in `path`.

    Raises BadInput if the file holds something else; with --overwrite it then counts as another
    run's.
    """
    try:
        return read_settings(path)["identity"]
    except BadInput as error:
        if not overwrite:
            raise BadInput(f"{error}; --overwrite replaces the run") from error
        return {}


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


# ---- one process for each --out


@contextmanager
def locked(out):
    """Keep --out for this process: two would write over one another's files.

    The lock is on OUT.lock. It ends with its process, however that ends: a file that is left behind
    locks nothing. Under torchrun the leading process holds it. Raises BadInput where another
    process has it.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        yield
        return
    path = Path(f"{Path(out)}.lock")
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(path)
    except (BlockingIOError, PermissionError) as error:
        raise BadInput(
            f"--out {out}: another process is writing there, or {path} is not ours to write; "
            "wait for its end or choose another --out"
        ) from error
    except OSError as error:
        raise BadInput(f"--out {out}: {error}") from error
    try:
        yield
    finally:
        if msvcrt:  # Windows deletes no open file, nor one that the next process has opened
            file.close()
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
        else:  # unlocked first, the file could be the next process's
            path.unlink(missing_ok=True)
            file.close()


def open_locked(path):
    """Open a file and lock it -> the file. Raises BlockingIOError where another process has it."""
    while True:
        file = open(path, "a", encoding="utf-8")
        try:
            lock(file)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                file.close()
                raise
            return file  # a file system without locks
        # The process before may have removed the file after it was opened here.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def lock(file):
    """Lock an open file for this process. Raises OSError where another process has it."""
    if fcntl:
        # Not flock: children of a fork would share that, and outlive their parent.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


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
    every: print only every so many steps, the last one, and those with a held-out loss; 0 prints
    nothing.
    shown: print only these values.
    """

    def __init__(self, path, last_step=0, total=None, every=1, shown=None):
        self.path, self.total, self.every, self.shown = Path(path), total, every, shown
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if last_step and self.path.exists():
            # a line without its "\n" was cut by a kill
            lines = self.path.read_bytes().split(b"\n")[:-1]
            kept = [
                line.decode() + "\n"
                for number, line in enumerate(lines, 1)
                if step_of(f"{self.path}:{number}", line) <= last_step
            ]
        write_whole(self.path, "".join(kept))
        self.file = open(self.path, "a", encoding="utf-8", newline="\n")

    def __call__(self, step, **values):
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        is_shown = step == self.total or "eval_loss" in values
        if self.every and (step % self.every == 0 or is_shown):
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


def step_of(where, line):
    """The step of a line of bytes of a log. Raises BadInput, beginning with `where`."""
    step = parse_row(where, line, need=("step",))["step"]
    if type(step) is not int:
        raise BadInput(f"{where}: 'step' {step!r} is not a number of steps")
    return step


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
    """Draw OUT/loss.png from OUT/log.jsonl: each step's loss, and its mean over 1/20 of the run.

    Held-out losses are points on a line of their own.
    """
    import matplotlib.figure

    lines = (Path(out) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    log = [row for row in rows if row.get("loss") is not None]
    held_out = [row for row in rows if row.get("eval_loss") is not None]
    steps = [row["step"] for row in log]
    losses = [row["loss"] for row in log]
    width = max(1, len(log) // 20)
    means = []
    for end in range(width, len(log) + 1):
        means.append(sum(losses[end - width : end]) / width)

    figure = matplotlib.figure.Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats per trained token")
    name_steps(axes, steps)
    # A line of one point would not be seen.
    few = "." if len(steps) < 20 else None
    axes.plot(steps, losses, color="0.7", linewidth=1, marker=few, label="trained rows, each step")
    if width > 1:
        axes.plot(steps[width - 1 :], means, color="C0", label=f"their mean over {width} steps")
    if held_out:
        points = [row["step"] for row in held_out], [row["eval_loss"] for row in held_out]
        axes.plot(*points, color="C1", marker="o", markersize=4, label="held-out rows")
    if steps or held_out:
        axes.legend(fontsize=8, frameon=False)
    else:
        say_empty(axes, "no step has a finite loss")
    figure.savefig(Path(out) / "loss.png", dpi=120)
