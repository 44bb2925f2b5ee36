"""engine/settings.py: flags from a dataclass, their help, and how wrong ones are refused."""

import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from engine import settings
from engine.rows import BadInput


@dataclass(frozen=True)
class Flags:
    files: tuple[str, ...] = field(default=(), metadata={"positional": True})  # what to read
    n_rows: int = 5  # how many, 100% of them
    rate: float = 0.25  # a share
    limit: float | None = None  # no limit if not given
    kind: Literal["fast", "slow"] = "fast"  # which way
    power: Literal[2, 3] = 2  # an exponent
    k: tuple[int, ...] = (1, 8)  # several
    deep: bool = False  # yes or no
    wide: bool = True  # yes or no


@dataclass(frozen=True)
class Required:
    out: str  # where to
    seed: int = 0  # of the draws


def test_flags_become_a_config():
    """Each annotation gives its type.

    A tuple flag replaces the default, takes several values and may be repeated.
    """
    assert settings.parse(Flags, []) == Flags()
    given = settings.parse(
        Flags,
        "a b --n-rows 7 --rate=-1e-3 --limit 2 --kind slow --power 3 --k 4 --k 2 16 --deep "
        "--no-wide".split(),
    )
    assert given == Flags(("a", "b"), 7, -0.001, 2.0, "slow", 3, (4, 2, 16), True, False)
    assert type(given.limit) is float and type(given.k) is tuple and type(given.files) is tuple
    assert settings.parse(Required, ["--out", "x"]) == Required("x", 0)


@pytest.mark.parametrize(
    "config, arguments, named",
    [
        (Flags, "--n-row 7", "--n-row"),  # no abbreviations either
        (Flags, "--learning-rate 7", "--learning-rate"),
        (Flags, "--n-rows 1e3", "--n-rows"),
        (Flags, "--n-rows many", "--n-rows"),
        (Flags, "--rate x", "--rate"),
        (Flags, "--rate nan", "--rate"),
        (Flags, "--rate -inf", "--rate"),
        (Flags, "--limit 1e999", "--limit"),
        (Flags, f"--n-rows {10**30}", "--n-rows"),
        (Flags, f"--k 1 -{10**30}", "--k"),
        (Flags, "--n-rows " + "9" * 9999, "--n-rows"),
        (Required, "--out \udc80", "--out"),
        (Flags, "--kind quick", "--kind"),
        (Flags, "--power 4", "--power"),
        (Flags, "--k 1 two", "--k"),
        (Flags, "--deep yes --n-rows", "--n-rows"),
        (Required, "--seed 1", "--out"),
        (Required, "x --out y", "x"),
    ],
)
def test_wrong_flags_are_refused_by_name(capsys, config, arguments, named):
    with pytest.raises(SystemExit) as caught:
        settings.parse(config, arguments.split())
    assert caught.value.code == 2 and re.search(
        rf"{named}\b", capsys.readouterr().err.splitlines()[-1]
    )


def test_a_wrong_flag_costs_one_line(capsys):
    """The list of all flags is what --help is for."""
    with pytest.raises(SystemExit):
        settings.parse(Flags, ["--learning-rate", "7"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_shows_docstring_comments_and_defaults(capsys):
    """--help shows the module's docstring, each comment and each default.

    A % in a comment does not break argparse.
    """
    with pytest.raises(SystemExit) as caught:
        settings.parse(Flags, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and " ".join(__doc__.split()) in shown
    for text in (
        "what to read",
        "how many, 100% of them (default: 5)",
        "a share (default: 0.25)",
        "no limit if not given --",
        "which way (default: fast)",
        "several (default: 1 8)",
    ):
        assert text in shown, text


@dataclass(frozen=True, kw_only=True)
class Inherited(Required):
    # measured: 3 is best
    # for most
    n_layers: int = 2

    above: int = 1  # not explained by what is before the empty line
    pair: tuple[int, int] | None = None  # two values
    label: str = "#1"  # holds the sign of a comment


def test_comments_are_found_above_behind_and_inherited():
    """Lines above a setting, the comment behind it, and the settings of the parent class."""
    assert settings.comments_of(Inherited) == {
        "out": "where to",
        "seed": "of the draws",
        "n_layers": "measured: 3 is best for most",
        "above": "not explained by what is before the empty line",
        "pair": "two values",
        "label": "holds the sign of a comment",
    }


def test_a_pair_takes_exactly_two_values(capsys):
    config = settings.parse(Inherited, "--out x --pair 3 4".split())
    assert config.pair == (3, 4) and settings.parse(Inherited, ["--out", "x"]).pair is None
    for given in ("3", "3 4 5", ""):
        with pytest.raises(SystemExit):
            settings.parse(Inherited, f"--out x --pair {given}".split())
        assert re.search("--pair|arguments: 5", capsys.readouterr().err)


def test_bad_input_ends_in_one_line(monkeypatch, capsys):
    """BadInput becomes `script: message` and a status that is not 0.

    Other errors stay what they are.
    """
    monkeypatch.setattr("sys.argv", ["/some/where/script.py", "--out", "x"])

    def refuse(config):
        raise BadInput(f"rows.jsonl:3: no good for {config.out}")

    with pytest.raises(SystemExit) as caught:
        settings.cli(refuse, Required)
    # sys.exit(str): status 1, str on stderr
    assert caught.value.code == "script.py: rows.jsonl:3: no good for x"

    def bug(config):
        raise ValueError("a mistake of ours keeps its traceback")

    with pytest.raises(ValueError):
        settings.cli(bug, Required)


@dataclass(frozen=True, kw_only=True)
class Trained(settings.Training):
    model: str = ""
    out: str = ""


@pytest.mark.parametrize(
    "name, value",
    [
        *[("beta1", 2.0), ("beta1", -0.1), ("beta2", 1.0), ("warmup", -1.0), ("warmup", 2.0)],
        *[("weight_decay", -1.0), ("lr", 0.0), ("clip", float("nan")), ("warmup", float("nan"))],
        *[("save_every", 0), ("save_minutes", 0), ("tp", 0), ("micro_batch_tokens", -1)],
    ],
)
def test_settings_of_training_have_their_ranges(name, value):
    settings.check_training(Trained())
    with pytest.raises(BadInput, match=f"^{settings.flag(name)} {value}: must be") as caught:
        settings.check_training(Trained(**{name: value}))
    assert "\n" not in str(caught.value)
