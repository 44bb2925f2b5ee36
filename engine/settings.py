"""Flags from a dataclass, and the settings that several scripts share.

Each script declares a frozen dataclass Config, one setting per line. The comment behind a setting,
or on the lines above it, is its --help text, and the annotation is its type: a default, its reason
and its flag are in one place.
"""

import argparse
import dataclasses
import inspect
import math
import os
import re
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.rows import BadInput, is_text


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Settings of every script that loads a model."""

    model: str  # directory or hub name
    device: str = "auto"  # cuda, else mps, else cpu; cuda:1 is the second GPU
    dtype: Literal["fp32", "bf16"] = "fp32"  # of the computation; trained weights stay float32
    tp: int = 1  # torchrun: neighbouring ranks that share one copy of the model
    seed: int = 0  # of everything that is drawn
    overwrite: bool = False  # replace a run with other settings in --out instead of refusing


@dataclass(frozen=True, kw_only=True)
class Training(Computing):
    """Settings of the scripts that train: optimizer, memory, checkpoints."""

    out: str  # model directory to write

    lr: float = 1e-6  # peak learning rate
    schedule: Literal["cosine", "linear", "constant"] = "constant"  # of the learning rate
    warmup: float = 0.0  # share of the steps in which the learning rate rises from 0
    weight_decay: float = 0.0  # of matrices; norms, biases and embeddings have none
    beta1: float = 0.9  # AdamW
    beta2: float = 0.95  # AdamW
    clip: float = 1.0  # gradient norm

    # tokens per forward pass and rank; changes memory and speed, not the result. 0: as many as fit
    # into free memory
    micro_batch_tokens: int = 0
    # activation checkpointing: 1/3 more compute, keeps one input per layer
    recompute: bool = False
    offload: bool = False  # torchrun: shards and optimizer in host memory
    # of Adam's moments; bf16 saves 4 bytes a parameter
    adam_dtype: Literal["fp32", "bf16"] = "fp32"
    # train adapters of this rank (engine/lora.py), the model stays as it is; 0 = train all weights.
    # They want 2 to 10 times the learning rate
    lora: int = 0
    # the adapters' output is multiplied by this over the rank: the best learning rate then depends
    # little on the rank
    lora_alpha: float = 32.0
    # of the weights in the model directory at the end; checkpoints have what is trained
    save_dtype: Literal["fp32", "bf16"] = "fp32"
    save_every: int = 25  # steps between checkpoints
    save_minutes: float = 10.0  # minutes between checkpoints, if that comes first
    tensorboard: bool = False  # hand the log on to TensorBoard, in OUT/tensorboard
    wandb: bool = False  # hand the log on to Weights & Biases; WANDB_MODE=offline sends nothing
    # train nothing: say whether this fits on 8xH100-80GB, say, and how long it takes
    plan: str = ""


# These may differ between a run and its continuation: where it is computed, with how much memory.
FREE = {
    "out",
    "device",
    "overwrite",
    "tp",
    "micro_batch_tokens",
    "recompute",
    "offload",
    "plan",
    "save_every",
    "save_minutes",
    "tensorboard",
    "wandb",
}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """End with one line. The list of all flags is what --help is for."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse(config_class, argv):
    """Turn argv into a config_class. Exits with status 2 and one line for a wrong flag or value."""
    parser = Parser(
        description=sys.modules[config_class.__module__].__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    comments = comments_of(config_class)
    kinds = typing.get_type_hints(config_class)
    fields = dataclasses.fields(config_class)
    for field in fields:
        add_flag(parser, field, kinds[field.name], comments.get(field.name, ""))
    given = vars(parser.parse_args(argv))
    for field in fields:
        value = given[field.name]
        if isinstance(field.default, tuple):
            value = value or field.default
        given[field.name] = tuple(value) if isinstance(value, list) else value
    return config_class(**given)


def comments_of(config_class):
    """{setting: its comment}, of the class and of those that it inherits from."""
    found = {}
    for parent in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(parent):
            found |= comments_in(inspect.getsource(parent))
    return found


def comments_in(source):
    """{setting: its comment} of one class. A comment is above its setting, behind it, or both."""
    found = {}
    above = []  # comment lines since the last setting or blank line
    for line in source.splitlines():
        comment = re.fullmatch(r"    #\s*(.+)", line)
        setting = re.match(r"    (\w+):.*?(?:  #\s*(.+))?$", line)
        if comment:
            above.append(comment[1])
        elif setting:
            name, behind = setting.groups()
            found[name] = " ".join(above + [behind] if behind else above)
            above = []
        elif not line.strip():
            above = []
    return found


def add_flag(parser, field, kind, comment):
    """Add the flag of one dataclass field, whose type is `kind`, to an argparse parser.

    With metadata positional=True the setting is given without a flag; with metadata names=TABLE its
    help lists the names in the table.
    """
    options = options_of(kind)
    required = field.default is dataclasses.MISSING
    default = None if required else field.default
    is_tuple = isinstance(default, tuple)
    shown = " ".join(map(str, default)) if is_tuple else default
    if names := field.metadata.get("names"):
        comment += f": {', '.join(names)}"
    if shown not in (None, ""):
        comment += f" (default: {shown})"
    options["help"] = comment.replace("%", "%%")
    if field.metadata.get("positional"):
        parser.add_argument(field.name, **options)
        return
    # parse() puts a tuple's default in: "extend" would append to it instead of replacing it.
    options["default"] = None if is_tuple else default
    parser.add_argument(flag(field.name), required=required, **options)


# Whole numbers beyond this are slips: a float cannot count so far.
MOST = 2**53


def whole(text):
    """A flag's text -> int."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number") from None
    if abs(number) > MOST:
        raise argparse.ArgumentTypeError(f"{text[:40]}: too large")
    return number


def finite(text):
    """A flag's text -> float, neither infinite nor NaN."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text}: not a finite number")
    return number


def words(text):
    """A flag's text, which a tokenizer and a file must be able to take."""
    if not is_text(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8")
    return text


READERS = {int: whole, float: finite, str: words}


def options_of(kind):
    """Arguments of argparse's add_argument for a setting's type.

    int, float, str; bool (--x and --no-x); Literal (one of these values); X | None (as X);
    tuple[X, ...] (any number of values, and the flag may be repeated); tuple[X, X] (exactly two).
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # X | None
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is Literal:
        return {"type": type(arguments[0]), "choices": arguments}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": READERS[arguments[0]], "nargs": "*", "action": "extend"}
    if origin is tuple:
        return {"type": READERS[arguments[0]], "nargs": len(arguments)}
    return {"type": READERS[kind]}


def flag(name):
    """The flag of a setting, as messages name it: batch_rows -> --batch-rows."""
    return "--" + name.replace("_", "-")


def check_positive(config, *names):
    """Raise BadInput naming the first of these settings that is not above 0."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:  # NaN, too, is refused
            raise BadInput(f"{flag(name)} {value}: must be positive")


def check_range(config, least, most, *names):
    """Raise BadInput naming the first of these settings that is not from least to most."""
    for name in names:
        value = getattr(config, name)
        if not least <= value <= most:  # NaN, too, is refused
            limits = f"from {least} to {most}" if most < math.inf else f"{least} or more"
            raise BadInput(f"{flag(name)} {value}: must be {limits}")


def check_training(config):
    """Raise BadInput for settings of Training that are out of range."""
    names = ("lr", "clip", "save_every", "save_minutes", "tp", "lora_alpha")
    check_positive(config, *names)
    check_range(config, 0, 2**16, "lora")
    check_range(config, 0, 1, "warmup")
    check_range(config, 0, math.inf, "micro_batch_tokens")
    check_range(config, 0, math.inf, "weight_decay")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise BadInput(f"{flag(name)} {getattr(config, name)}: must be from 0 to below 1")


def cli(main, config_class):
    """Run main(config) from the command line. A user's mistake ends in one line, no traceback."""
    config = parse(config_class, sys.argv[1:])
    name = Path(sys.argv[0]).name
    try:
        main(config)
    except BadInput as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; finished work is kept and the same command continues")
    except BrokenPipeError:  # `script | head`
        # Python flushes stdout once more when it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
