"""Flags from a dataclass, and the settings that several scripts share.

Each script declares a frozen dataclass Config, one setting per line. The comment behind a setting, or
on the lines above it, is its --help text, and the annotation is its type: a default, its reason and
its flag stand in one place.
"""

import argparse
import dataclasses
import inspect
import os
import re
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.rows import BadInput


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Settings of every script that loads a model."""

    model: str  # directory or hub name
    device: str = "cpu"  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"  # of the computation; trained weights stay float32
    tp: int = 1  # torchrun: neighbouring ranks that share one copy of the model
    seed: int = 0  # of everything that is drawn
    overwrite: bool = False  # replace a run with other settings in --out instead of refusing


@dataclass(frozen=True, kw_only=True)
class Training(Computing):
    """Settings of the scripts that train: optimizer, memory, checkpoints."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # of the learning rate
    beta1: float = 0.9  # AdamW
    beta2: float = 0.95  # AdamW
    clip: float = 1.0  # gradient norm

    # tokens per forward pass and rank; changes memory and speed, not the result
    micro_batch_tokens: int = 32768
    # activation checkpointing: 1/3 more compute, keeps one input per layer
    recompute: bool = False
    offload: bool = False  # torchrun: shards and optimizer in host memory
    # of Adam's moments; bf16 saves 4 bytes a parameter
    adam_dtype: Literal["fp32", "bf16"] = "fp32"
    # train nothing: say whether this fits on 8xH100-80GB, say, and how long it takes
    plan: str = ""


# May differ between a run and its continuation: where it is computed and how much memory that takes.
FREE = {
    "out",
    "overwrite",
    "tp",
    "micro_batch_tokens",
    "recompute",
    "offload",
    "plan",
    "save_every",
}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line; --help is for the list of all flags."""
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
        if isinstance(field.default, tuple):
            given[field.name] = tuple(given[field.name] or field.default)
    return config_class(**given)


def comments_of(config_class):
    """{setting: its comment}, of the class and of those that it inherits from."""
    found = {}
    for parent in reversed(config_class.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        above = []  # comment lines since the last setting
        for line in inspect.getsource(parent).splitlines():
            if comment := re.fullmatch(r"    #\s*(.+)", line):
                above.append(comment[1])
            elif setting := re.match(r"    (\w+):[^#]*(?:#\s*(.+))?$", line):
                found[setting[1]] = " ".join(filter(None, [*above, setting[2]]))
                above = []
            elif not line.strip():
                above = []
    return found


def add_flag(parser, field, kind, comment):
    """Add the flag of one dataclass field to an argparse parser.

    kind: int, float, str, bool, Literal, X | None, tuple[X, ...] (any number of values; the flag may
    be repeated) or tuple[X, X] (just two). With metadata positional=True: arguments without a flag.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # X | None
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    arguments, options = typing.get_args(kind), {}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is tuple and arguments[-1] is Ellipsis:
        options |= {"type": arguments[0], "nargs": "*", "action": "extend"}
    elif typing.get_origin(kind) is tuple:
        options |= {"type": arguments[0], "nargs": len(arguments)}
    elif typing.get_origin(kind) is Literal:
        options |= {"type": type(arguments[0]), "choices": arguments}
    else:
        options["type"] = kind
    required = field.default is dataclasses.MISSING
    default = None if required else field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    comment += "" if shown in (None, "") else f" (default: {shown})"
    options["help"] = comment.replace("%", "%%")
    if field.metadata.get("positional"):
        parser.add_argument(field.name, **options)
        return
    # A tuple's default is put in after parsing: "extend" would append to it instead of replacing it.
    options["default"] = None if isinstance(default, tuple) else default
    parser.add_argument(flag(field.name), required=required, **options)


def flag(name):
    """The flag of a setting, as messages name it: batch_rows -> --batch-rows."""
    return "--" + name.replace("_", "-")


def check_positive(config, *names):
    """Raise BadInput naming the first of these settings that is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise BadInput(f"{flag(name)} {getattr(config, name)}: must be positive")


def cli(main, config_class):
    """Run main(config) from the command line. What the user got wrong ends in one line, no traceback."""
    config = parse(config_class, sys.argv[1:])
    name = Path(sys.argv[0]).name
    try:
        main(config)
    except BadInput as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; finished work is kept and the same command continues")
    except BrokenPipeError:  # `script | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
