"""A run of a script: flags in, config.json and log.jsonl out.

Each script declares a frozen dataclass Config, one line per setting. The comment behind a setting is its --help
text and the annotation its type, so a default, its reason and its flag stand in one place.
"""
import argparse
import dataclasses
import hashlib
import inspect
import json
import os
import re
import signal
import sys
import threading
import types
import typing
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from engine.rows import BadInput, read_rows


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line; the list of all flags is what --help is for."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse(config_class, argv):
    """Turn argv into a config_class. Exits with status 2 and one line for an unknown flag or a wrong type.

    Annotations: int, float, str, bool, Literal, X | None, tuple[X, ...] (a flag that takes several values and may be
    repeated; with metadata positional=True, arguments without a flag).
    """
    module = sys.modules[config_class.__module__]
    parser = Parser(description=module.__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    comments = dict(re.findall(r"^    (\w+):[^#\n]*#\s*(.+)$", inspect.getsource(config_class), re.MULTILINE))
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind, options = hints[field.name], {}
        if typing.get_origin(kind) in (typing.Union, types.UnionType):     # X | None
            kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            options |= {"type": typing.get_args(kind)[0], "nargs": "*", "action": "extend"}
        elif typing.get_origin(kind) is typing.Literal:
            options |= {"type": type(typing.get_args(kind)[0]), "choices": typing.get_args(kind)}
        else:
            options["type"] = kind
        help_text = comments.get(field.name, "").replace("%", "%%")
        help_text += "" if required or default in (None, ()) else f" (default: {default})"
        if field.metadata.get("positional"):
            parser.add_argument(field.name, help=help_text, **options)
        else:
            # Tuples default to None while parsing: "extend" would append to the default instead of replacing it.
            parser.add_argument("--" + field.name.replace("_", "-"), required=required, help=help_text,
                                default=None if isinstance(default, tuple) else default, **options)
    given = vars(parser.parse_args(argv))
    tuples = {f.name: f.default for f in dataclasses.fields(config_class) if isinstance(f.default, tuple)}
    return config_class(**{k: (tuple(v) if v else tuples[k]) if k in tuples else v for k, v in given.items()})


def check_positive(config, *names):
    """Raise BadInput naming the first of these settings that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(config, name)}: must be positive")


def cli(main, config_class):
    """Run main(config) from the command line; what the user got wrong ends in one line, not in a traceback."""
    config = parse(config_class, sys.argv[1:])
    name = Path(sys.argv[0]).name
    try:
        main(config)
    except BadInput as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; what was saved is usable and the same command continues from it")
    except BrokenPipeError:                                                # `script | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def save_config(config, path, **more):
    """Write the settings of a run (and `more`, for instance measured totals) as JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**dataclasses.asdict(config), **more}, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, path)


def header_of(path):
    """Where the settings of the run that wrote `path` stand: OUT.config.json beside OUT.jsonl."""
    return Path(str(path).removesuffix(".jsonl") + ".config.json")


def fingerprint(path):
    """16 hex digits that change when a file, or any file directly in a directory, changes.

    Files up to 64 MB count by content, larger ones by size and time of change.
    """
    path, digest = Path(path), hashlib.sha256()
    if not path.exists():                                                  # a hub name: the name is all we know
        return hashlib.sha256(str(path).encode()).hexdigest()[:16]
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            stat = file.stat()
            digest.update(file.name.encode())
            digest.update(file.read_bytes() if stat.st_size <= 64e6 else f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def identity(config, without=(), **inputs):
    """What makes two runs the same: every setting except those named in `without`, and the inputs' fingerprints."""
    settings = {k: list(v) if isinstance(v, tuple) else v
                for k, v in dataclasses.asdict(config).items() if k not in without}
    return settings | {f"contents of --{name}": fingerprint(path) for name, path in inputs.items() if path}


def difference(ours, theirs):
    """One line that names the settings in which two identities differ; '' when they are equal."""
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in names)


@contextmanager
def sigterm():
    """While inside, SIGTERM does not end the process but fills the list that is given; a second one ends it."""
    asked = []
    if threading.current_thread() is not threading.main_thread():          # Python takes signals in the main thread only
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(signal.signal(signal.SIGTERM, signal.SIG_DFL)))
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
    log = [row for row in map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines()) if row["loss"] is not None]
    steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
    width = max(1, len(log) // 20)
    figure = matplotlib.figure.Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss, nats per trained token")
    axes.plot(steps, losses, color="0.7", linewidth=1)
    axes.plot(steps[width - 1:], [sum(losses[i:i + width]) / width for i in range(len(log) - width + 1)], color="C0")
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
            lines = self.path.read_text().split("\n")[:-1]                 # a line without its "\n" was cut by a kill
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
        cells = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
                 if not self.shown or k in self.shown]
        tqdm.write(f"{head:<15}" + "  ".join(cells))                      # above a progress bar, if there is one
        sys.stdout.flush()
