"""The file of a study, recipes/studies/NAME.study: arms as commands, claims as lines.

    title: which of s1's three criteria does the work?
    paper: s1 (2501.19393)
    use tiny                           # functions, settings and arms of tiny.study
    set EPOCHS=12                      # a setting; a variable of the environment comes before it

    rows chosen                        # an arm that writes one file of rows to $OUT
      python curate.py --data $world/pool.jsonl --method random --seed $SEED --out $OUT
    folder model                       # an arm that writes a folder, a model for instance
      python sft.py --model $MODEL --data $chosen --out $OUT --epochs $EPOCHS --seed $SEED
    rows answers
      answer $model                    # a shell function of tiny.study

    claim A s1 beats random (s1, Table 2): math: random -> answers, higher
    because A what the tiny world lacks, if the claim does not come out

$lower is the output of another arm, $UPPER a setting. An arm that names others comes after them;
what no claim and no arm of the file itself needs is not run. `figure NAME` is an arm that draws
$OUT as PNG. A claim compares two arms of rows: "math" by right answers, "math n_tokens" by that
field of the rows; "all" stands for every group. Arms that read the problems to measure with name
them as $SPLIT: by that the looks at the held-out split are counted.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from engine.rows import BadInput
from report.claims import EXPECTATIONS

FOLDER = "recipes/studies"
# What an arm writes to $OUT, and the ending of its name.
KINDS = {"rows": ".jsonl", "folder": "", "figure": ".png"}
# Variables that the runner sets itself.
GIVEN = ("OUT", "SEED")

# ID text: group [field]: from -> to, expected
CLAIM = re.compile(r"(\S+) (.+): (\w+)(?: (\w+))?: (\w+) -> (\w+), (\w+)")
# The first line of a shell function; its last is a } alone.
FUNCTION = re.compile(r"(\w+)\(\) \{(?: .*| *#.*)?")
# $name or ${name
VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
# A variable of the shell: NAME=..., for NAME in, read NAME.
ASSIGNED = re.compile(r"(?:\b([a-z_]\w*)=|\bfor ([a-z_]\w*) in\b|\bread (?:-\w+ )*([a-z_]\w*))")


@dataclass(frozen=True)
class Arm:
    name: str
    kind: str  # of KINDS
    lines: tuple  # shell commands
    place: str  # file:line, for messages


@dataclass
class Study:
    name: str
    title: str = ""
    paper: str = ""
    notes: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)  # {NAME: value}
    given: dict = field(default_factory=dict)  # those of them that the environment changed
    functions: dict = field(default_factory=dict)  # {name: text}
    arms: dict = field(default_factory=dict)  # {name: Arm}
    own: list = field(default_factory=list)  # names of the arms of the file, not of what it uses
    claims: list = field(default_factory=list)  # dicts as report/claims.py takes them
    because: dict = field(default_factory=dict)  # {claim's id: sentence}

    def text_of(self, arm):
        """The shell text of an arm: the functions that it calls, then its commands."""
        # Functions may call functions: what is found is searched, too.
        called, waiting = {}, ["\n".join(arm.lines)]
        while waiting:
            words = set(re.findall(r"[\w-]+", waiting.pop()))
            for name in self.functions:
                if name in words and name not in called:
                    called[name] = self.functions[name]
                    waiting.append(self.functions[name])
        # In the order of the file, so that the text, and with it the key, is always the same.
        functions = [text for name, text in self.functions.items() if name in called]
        return "\n".join([*functions, *arm.lines])

    def variables_of(self, arm):
        """(arms, settings) that an arm's text names. Raises BadInput for a name that is neither."""
        text = self.text_of(arm)
        assigned = {name for names in ASSIGNED.findall(text) for name in names}
        arms, settings = [], []
        for name in dict.fromkeys(VARIABLE.findall(text)):
            if name in self.arms:
                arms.append(name)
            elif name in self.settings or name in GIVEN:
                settings.append(name)
            # What the text itself assigns is the shell's own.
            elif name not in assigned:
                kind = "arm" if name.islower() else "setting"
                raise BadInput(f"{arm.place}: {arm.name}: there is no {kind} called ${name}")
        return arms, settings

    def ordered(self):
        """The arms that are needed, each after those that it names.

        Raises BadInput for arms that need one another.
        """
        found, path = {}, []

        def visit(name):
            if name in path:
                ring = " -> ".join([*path[path.index(name) :], name])
                raise BadInput(f"{self.arms[name].place}: arms that need one another: {ring}")
            if name in found:
                return
            path.append(name)
            for other in self.variables_of(self.arms[name])[0]:
                visit(other)
            path.pop()
            found[name] = self.arms[name]

        compared = [claim[side] for claim in self.claims for side in ("from", "to")]
        for name in dict.fromkeys([*self.own, *compared]):
            visit(name)
        return list(found.values())


def study_names(folder=FOLDER):
    """Names of the studies in a folder, in alphabetical order. A file without claims is none."""
    files = sorted(Path(folder).glob("*.study"))
    return [f.stem for f in files if re.search(r"^claim ", f.read_text(encoding="utf-8"), re.M)]


def read_study(name, folder=FOLDER, environment=os.environ):
    """The name of a study -> Study, with settings from the environment. Raises BadInput.

    Every claim names arms of rows that exist, every arm what exists.
    """
    path = Path(folder, f"{name}.study")
    if not path.is_file():
        known = ", ".join(study_names(folder)) or "none"
        raise BadInput(f"no study called {name} in {folder}; there are {known}")
    study = Study(name)
    read_into(study, path, is_own=True)
    for setting, default in study.settings.items():
        if environment.get(setting, default) != default:
            study.given[setting] = environment[setting]
    study.settings |= study.given
    for claim in study.claims:
        check_claim(study, claim)
    for known, sentence in study.because.items():
        if known not in [claim["id"] for claim in study.claims]:
            raise BadInput(f"{path}: because {known}: there is no such claim ({sentence[:40]} ...)")
    study.ordered()
    return study


def read_into(study, path, is_own):
    """Add what a study's file says. Raises BadInput that names file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    number = 0
    while number < len(lines):
        line, place = lines[number], f"{path}:{number + 1}"
        number += 1
        if not line.strip() or line.startswith("#"):
            continue
        begins, _, rest = line.partition(" ")
        rest = rest.strip()
        if FUNCTION.fullmatch(line):
            end = next((i for i in range(number, len(lines)) if lines[i] == "}"), None)
            if end is None:
                raise BadInput(f"{place}: the function has no line }} that ends it")
            study.functions[begins.removesuffix("()")] = "\n".join(lines[number - 1 : end + 1])
            number = end + 1
        elif begins in KINDS:
            # The commands are the indented lines that follow; empty lines do not end them.
            end = number
            while end < len(lines) and (lines[end].startswith(" ") or not lines[end].strip()):
                end += 1
            body = tuple(text for text in lines[number:end] if text.strip())
            add_arm(study, Arm(rest, begins, body, place), is_own)
            number = end
        else:
            add_line(study, begins, rest, path, place)


def add_arm(study, arm, is_own):
    """Add an arm. A study may replace one that it uses; within a file a name is unique."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arm.name):
        raise BadInput(f"{arm.place}: {arm.name!r}: the name of an arm is a-z, then a-z, 0-9 or _")
    if not arm.lines:
        raise BadInput(f"{arm.place}: {arm.name} has no commands (indented lines)")
    if is_own and arm.name in study.own:
        raise BadInput(f"{arm.place}: {arm.name} is there twice")
    study.arms[arm.name] = arm
    if is_own:
        study.own.append(arm.name)


def add_line(study, begins, rest, path, place):
    """Add a line that is neither an arm nor a function. Raises BadInput."""
    if begins in ("title:", "paper:"):
        setattr(study, begins[:-1], rest)
    elif begins == "note:":
        study.notes.append(rest)
    elif begins == "use":
        other = path.parent / f"{rest}.study"
        if not other.is_file():
            raise BadInput(f"{place}: there is no {other}")
        read_into(study, other, is_own=False)
    elif begins == "set":
        name, equals, value = rest.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or name in GIVEN:
            raise BadInput(f"{place}: not a setting: set NAME=value")
        study.settings[name] = value
    elif begins == "because":
        known, _, sentence = rest.partition(" ")
        study.because[known] = sentence
    elif begins == "claim":
        study.claims.append(parse_claim(rest, place))
    else:
        raise BadInput(
            f"{place}: {begins!r} is none of title:, paper:, note:, use, set, "
            f"{', '.join(KINDS)}, claim, because, NAME() {{"
        )


def parse_claim(text, place):
    """`ID words: group [field]: from -> to, expected` -> dict. Raises BadInput."""
    found = CLAIM.fullmatch(text)
    if not found or found[7] not in EXPECTATIONS:
        raise BadInput(
            f"{place}: not a claim: ID text (paper, §): group: from -> to, "
            f"{', '.join(EXPECTATIONS)}"
        )
    keys = ("id", "text", "group", "measure", "from", "to", "expect")
    claim = dict(zip(keys, found.groups())) | {"place": place}
    return {name: value for name, value in claim.items() if value is not None}


def check_claim(study, claim):
    """Raise BadInput for a claim whose arms do not exist or write no rows."""
    for side in ("from", "to"):
        arm = study.arms.get(claim[side])
        if arm is None or arm.kind != "rows":
            known = ", ".join(name for name, arm in study.arms.items() if arm.kind == "rows")
            raise BadInput(
                f"{claim['place']}: claim {claim['id']}: no arm of rows is called "
                f"{claim[side]}; there are {known}"
            )
    if [other["id"] for other in study.claims].count(claim["id"]) > 1:
        raise BadInput(f"{claim['place']}: claim {claim['id']} is there twice")
