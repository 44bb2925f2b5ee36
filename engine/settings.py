"""Flags from a dataclass: each script declares a frozen Config, one line per setting. The comment behind a setting is its
--help text and the annotation its type, so a default, its reason and its flag stand in one place.
"""
import argparse
import dataclasses
import inspect
import os
import re
import sys
import types
import typing
from pathlib import Path

from engine.rows import BadInput


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
