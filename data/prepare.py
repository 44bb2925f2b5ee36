"""Real data sets as JSONL rows: to train on (--name) and to measure with (--benchmark).

    python -m data.prepare --name gsm8k --split train --out out/gsm8k.jsonl
    python -m data.prepare --name s1k --source my_copy.parquet --out out/s1k.jsonl
    python -m data.prepare --benchmark math500,aime24,gpqa --paper s1 --out out/benchmarks

Rows come from the hub or from a local copy; data/hub.py says where they are and how they become
ours. A row that does not fit is reported by number and the run stops. Rows that already have our
fields are taken as they are.

Questions end with a request for the form of answer that is graded: the rows name it in `asks`, and
every stage that builds a prompt words it (engine/format.py). The question itself stays as it is.

A benchmark becomes two files. OUT/NAME.jsonl has its questions with `task` and `group`, by which
evaluate.py tells benchmarks apart. OUT/NAME.config.json has the sampling and format, of --paper if
one is named, and the citation. The command that answers the benchmark is printed.

LiveCodeBench is refused: its answers are programs, and nothing that a model wrote runs here.
UniReason scores HeadQA and MC-TACO by the log-likelihood of the options: generate.py --score does
this for rows with `choices`.
"""

import dataclasses
import hashlib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data import hub
from data.hub import BENCHMARKS, DATASETS
from engine import runlog, settings
from engine.format import ask
from engine.rows import BadInput, check_file_to_write, read_rows, write_rows
from grading.answers import grade


@dataclass(frozen=True)
class Config:
    out: str  # rows to write (.jsonl); of --benchmark: a directory
    name: str = ""  # which data set, see DATASETS in data/hub.py
    benchmark: str = ""  # which benchmarks, with commas between them, see BENCHMARKS there
    # whose sampling, format and requests, of --benchmark; none: ours
    paper: Literal["none", "s1", "limo", "unireason", "simplerl"] = "none"
    # request that ends the questions, see ASK in engine/format.py; '' for none; by default one for
    # the form of answer that is graded, but not for --paper s1, nor for s1K's questions
    ask: str | None = None
    split: str = ""  # the data set's own default if empty
    # a local .jsonl, .json or .parquet file, or a directory (a data set, or NAME.jsonl ...)
    source: str | None = None
    limit: int = 0  # only the first so many rows; 0 = all


# ---- raw rows, and our rows of them


def raw_rows_of(cfg, data_set):
    """Rows as they are in --source or on the hub. Raises BadInput."""
    split = cfg.split or data_set.split
    if cfg.source is None:
        if data_set.hub is None:
            raise BadInput(f"{cfg.name or cfg.benchmark} needs --source")
        return [row for part in data_set.parts for row in hub.fetch(data_set.hub, part, split)]
    source = Path(cfg.source)
    if source.suffix == ".jsonl":
        return read_rows(source)
    if not source.exists():
        raise BadInput(f"--source {source}: no such file or directory")
    if source.is_dir():
        return hub.fetch(cfg.source, None, split)
    kinds = {".json": "json", ".parquet": "parquet"}
    if source.suffix not in kinds:
        raise BadInput(f"--source {source}: not a .jsonl, .json or .parquet file")
    return hub.fetch(kinds[source.suffix], None, "train", data_files=cfg.source)


# What a function of data/hub.py raises on a row of another shape.
MISFIT = (KeyError, IndexError, TypeError, AttributeError, ValueError, StopIteration)


def rows_of(cfg, name, raw_rows, convert):
    """Raw rows -> our rows, one per question, with ids.

    Raises BadInput naming the row that does not fit.
    """
    rows = {}
    for number, raw in enumerate(raw_rows, 1):
        if cfg.limit and number > cfg.limit:
            break
        try:
            row = convert(raw)
        except MISFIT as error:
            raise BadInput(
                f"{cfg.source or name}: row {number} does not look like {name} "
                f"({type(error).__name__}: {error})"
            ) from error
        digest = hashlib.sha256(row["question"].encode("utf-8")).hexdigest()[:16]
        row = {"id": row.get("id", digest), **row}
        rows.setdefault(row["id"], row)
    return list(rows.values())


# ---- benchmarks as the papers ask them


# {form of answer: the request that asks for it, see ASK in engine/format.py}
OURS = {"number": "number", "box": "answer", "letter": "choice"}
PAPERS = {"number": "box", "box": "box", "letter": "letter"}


def protocol(name, paper):
    """How a paper answers a benchmark -> (settings of generate.py, OURS, PAPERS or {})."""
    sampling = {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 32768}
    if paper == "none":
        # DeepSeek-R1's sampling: greedily, small models and long answers repeat themselves.
        ours = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 4096, "format": "auto"}
        return sampling | ours, OURS
    if paper == "s1":
        # §4.1: greedy, the bare question
        return sampling | {"format": "s1"}, {}
    if paper == "limo":
        # §5: four samples on small benchmarks; the request is in its system prompt
        sampling["format"] = "plain"
        if name in ("aime24", "aime25", "amc23"):
            sampling |= {"n": 4, "temperature": 0.6}
        return sampling, PAPERS
    if paper == "unireason":
        # §A.3.4: means of 10 or 3 runs, else greedy
        sampling["format"] = "think"
        n_runs = {"aime24": 10, "aime25": 10, "math500": 3, "gpqa": 3}
        if name in n_runs:
            sampling |= {"n": n_runs[name], "temperature": 0.6, "top_p": 0.95}
        return sampling, PAPERS
    # SimpleRL-Zoo, §2.2
    return {
        "n": 32 if name.startswith("aime") else 1,
        "temperature": 1.0,
        "top_p": 0.95,
        "max_tokens": 16384,
        "format": "plain",
    }, PAPERS


def add_request(row, usual, given):
    """Set the row's `asks`: to --ask if that is given, else to the usual request, if there is one.

    A row that comes with requests keeps them.
    """
    if given is None and row.get("asks"):
        return
    request = usual if given is None else given
    if request:
        row["asks"] = [request]


def lettered(question, choices):
    """The question with its choices, A) and so on."""
    lines = [f"{letter}) {text}" for letter, text in zip(string.ascii_uppercase, choices)]
    return question + "\n\n" + "\n".join(lines)


def looks_ours(row):
    """Whether a raw row of a benchmark already has our fields."""
    return (
        {"id", "question"} <= row.keys()
        and ("answer" in row or "instruction_id_list" in row)
        and "response" not in row  # HaluEval has the other three fields
        and not isinstance(row.get("choices"), dict)  # so have ACPBench and CommonsenseQA
    )


def local_copy(cfg, name):
    """cfg with NAME.jsonl (.parquet, .json) of the directory --source, if there is such a file."""
    if cfg.source and Path(cfg.source).is_dir():
        for ending in (".jsonl", ".parquet", ".json"):
            file = Path(cfg.source) / (name + ending)
            if file.exists():
                return dataclasses.replace(cfg, source=str(file))
    return cfg


def prepare_benchmark(cfg, name):
    """Write OUT/NAME.jsonl and OUT/NAME.config.json; returns the rows."""
    benchmark = BENCHMARKS[name]
    cfg = local_copy(cfg, name)
    raw_rows = raw_rows_of(cfg, benchmark)
    first = next(iter(raw_rows), {})
    rows = rows_of(
        cfg, name, raw_rows, hub.already_ours if looks_ours(first) else benchmark.convert
    )
    sampling, requests = protocol(name, cfg.paper)
    for row in rows:
        form = benchmark.answer
        if form == "letter" and row.get("choices"):
            row["question"] = lettered(row["question"], row["choices"])
        elif form == "letter":  # a copy whose rows have lost their choices
            form = "box"
        add_request(row, requests.get(form), cfg.ask)
        row["task"] = name
        row["group"] = benchmark.group

    path = Path(cfg.out) / f"{name}.jsonl"
    write_rows(path, rows)
    runlog.save_config(
        cfg,
        runlog.header_of(path),
        hub=benchmark.hub,
        sampling=sampling,
        citation=benchmark.citation,
        n_questions=len(rows),
    )
    n_without = sum(grade(row, "0") is None for row in rows)
    missing = f", {n_without} without an answer" if n_without else ""
    print(f"{path}: {len(rows)} questions{missing}; {benchmark.citation}")
    flags = " ".join(f"{settings.flag(key)} {value}" for key, value in sampling.items())
    print(f"    python generate.py --model MODEL --data {path} --out RUN.jsonl {flags}")
    return rows


# ---- the command


def main(cfg):
    """Write the rows of a data set, or of several benchmarks; returns them."""
    if bool(cfg.name) == bool(cfg.benchmark):
        raise BadInput("one of --name and --benchmark is needed")
    if cfg.ask:
        ask("", cfg.ask)
    if cfg.benchmark:
        names = cfg.benchmark.split(",")
        check_benchmarks(names, cfg.source)
        return {name: prepare_benchmark(cfg, name) for name in names}
    if cfg.name not in DATASETS:
        raise BadInput(f"--name {cfg.name}: not among {', '.join(DATASETS)}")
    check_file_to_write(cfg.out)
    data_set = DATASETS[cfg.name]
    raw_rows = raw_rows_of(cfg, data_set)
    first = next(iter(raw_rows), {})
    convert = hub.already_ours if cfg.source and looks_ours(first) else data_set.convert
    rows = rows_of(cfg, cfg.name, raw_rows, convert)
    for row in rows:
        add_request(row, OURS.get(data_set.answer), cfg.ask)
    write_rows(cfg.out, rows)
    print(f"{cfg.out}: {len(rows)} rows of {cfg.name}")
    return rows


def check_benchmarks(names, source):
    """Raise BadInput if one of the benchmarks is unknown or they cannot all come from --source."""
    for name in names:
        if name == "livecodebench":
            raise BadInput(
                "--benchmark livecodebench: its answers are programs, and what a model wrote "
                "is not run here"
            )
        if name not in BENCHMARKS:
            raise BadInput(f"--benchmark {name}: not among {', '.join(BENCHMARKS)}")
    if len(names) > 1 and source and not Path(source).is_dir():
        raise BadInput(
            f"--source {source}: several benchmarks need a directory that holds NAME.jsonl for each"
        )


if __name__ == "__main__":
    settings.cli(main, Config)
