"""Real data sets as JSONL rows, from the hub or from a local copy.

    python -m data.prepare --name gsm8k --split train --out out/gsm8k.jsonl
    python -m data.prepare --name s1k --source my_copy.parquet --out out/s1k.jsonl

Each entry of DATASETS is a hub name, its default split, and a function from one of its rows to one of ours. A row
that lacks what the function needs is reported by number and the run stops: a hub data set that changed its columns
should not turn into empty questions.
"""
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from data import run
from data.answers import extract_answer
from data.rows import BadInput, read_rows, write_rows


@dataclass(frozen=True)
class Config:
    name: str                    # which data set, see DATASETS
    out: str                     # rows to write (.jsonl)
    split: str = ""              # the data set's own default if empty
    source: str | None = None    # a local .jsonl, .json or .parquet file, or a data set directory, instead of the hub
    limit: int = 0               # only the first so many rows; 0 = all


def gsm8k(row):
    """Cobbe et al. 2021: the solution ends in '#### 72'; <<48/2=24>> are calculator notes."""
    solution, _, answer = row["answer"].rpartition("####")
    return {"question": row["question"], "answer": answer.strip().replace(",", ""),
            "solution": re.sub(r"<<.*?>>", "", solution).strip(), "source": "gsm8k"}


def math(row):
    """Hendrycks et al. 2021, MATH and its subset MATH-500; the answer is the last box where it has no field."""
    answer = row.get("answer") or extract_answer(row["solution"])
    return {"question": row["problem"], "answer": answer, "solution": row["solution"], "level": row.get("level"),
            "subject": row.get("subject") or row.get("type"), "source": "MATH"}


def aime(row):
    return {"question": row["problem"], "answer": str(row["answer"]).lstrip("0") or "0",
            "solution": row.get("solution") or "", "source": "AIME"}


def s1k(row):
    """s1, §2.2: one Gemini trace per question."""
    return {"question": row["question"], "answer": extract_answer(row["solution"]) or row["solution"],
            "solution": row["solution"], "thinking": row["thinking_trajectories"][0], "response": row["attempt"],
            "subject": row.get("cot_type"), "source": row.get("source_type"), "model": "gemini-2.0-flash-thinking"}


def s1k_11(row):
    """s1.1: the same questions with DeepSeek-R1's traces."""
    return {"question": row["question"], "answer": extract_answer(row["solution"]) or row["solution"],
            "solution": row["solution"], "thinking": row["deepseek_thinking_trajectory"],
            "response": row["deepseek_attempt"], "subject": row.get("cot_type"), "source": row.get("source_type"),
            "model": "deepseek-r1"}


def limo(row):
    """LIMO: the solution is the training target, reasoning and all; it goes with --format plain."""
    return {"question": row["question"], "answer": row["answer"], "response": row["solution"], "source": "LIMO"}


def countdown(row):
    """TinyZero's Countdown: reach the target with each number once."""
    return {"question": f"Using the numbers {list(row['nums'])}, create an equation that equals {row['target']}. "
                        "Each number must be used exactly once, with + - * / and brackets.",
            "answer": str(row["target"]), "nums": list(row["nums"]), "target": row["target"], "source": "countdown"}


def rows_as_they_are(row):
    """Rows that already have our fields."""
    return {"question": row["question"], "answer": row["answer"], **row}


DATASETS = {  # name: (hub name, configuration, default split, function)
    "gsm8k": ("openai/gsm8k", "main", "train", gsm8k),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", math),
    "math": ("nlile/hendrycks-MATH-benchmark", None, "train", math),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", aime),
    "s1k": ("simplescaling/s1K", None, "train", s1k),
    "s1k-1.1": ("simplescaling/s1K-1.1", None, "train", s1k_11),
    "limo": ("GAIR/LIMO", None, "train", limo),
    "countdown": ("Jiayi-Pan/Countdown-Tasks-3to4", None, "train", countdown),
    "rows": (None, None, "train", rows_as_they_are),
}


def load_source(cfg):
    """The raw rows, from a local file or directory or from the hub."""
    hub_name, configuration, split, _ = DATASETS[cfg.name]
    split = cfg.split or split
    if cfg.source is None and hub_name is None:
        raise BadInput(f"--name {cfg.name} needs --source")
    if cfg.source and cfg.source.endswith(".jsonl"):
        return read_rows(cfg.source)
    from datasets import load_dataset
    try:
        if cfg.source is None:
            return load_dataset(hub_name, configuration, split=split)
        if not Path(cfg.source).exists():
            raise BadInput(f"--source {cfg.source}: no such file or directory")
        if Path(cfg.source).is_dir():
            return load_dataset(cfg.source, split=split)
        kind = {".json": "json", ".parquet": "parquet"}.get(Path(cfg.source).suffix)
        if kind is None:
            raise BadInput(f"--source {cfg.source}: not a .jsonl, .json or .parquet file")
        return load_dataset(kind, data_files=cfg.source, split="train")
    except BadInput:
        raise
    except Exception as error:           # the library raises many kinds; all mean that it could not be read
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{cfg.source or hub_name}: cannot be loaded ({message})") from error


def main(cfg):
    """Write the rows; returns them."""
    if cfg.name not in DATASETS:
        raise BadInput(f"--name {cfg.name}: not among {', '.join(DATASETS)}")
    convert, rows = DATASETS[cfg.name][3], []
    for number, raw in enumerate(load_source(cfg), 1):
        if cfg.limit and number > cfg.limit:
            break
        try:
            row = convert(raw)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise BadInput(f"{cfg.source or cfg.name}: row {number} does not look like {cfg.name} "
                           f"({type(error).__name__}: {error})") from error
        digest = hashlib.sha256(row["question"].encode("utf-8")).hexdigest()[:16]
        rows.append({"id": raw.get("id", digest) if cfg.name == "rows" else digest, **row})
    rows = list({row["id"]: row for row in reversed(rows)}.values())[::-1]      # one row per question, the first
    write_rows(cfg.out, rows)
    print(f"{cfg.out}: {len(rows)} rows of {cfg.name}")
    return rows


if __name__ == "__main__":
    run.cli(main, Config)
