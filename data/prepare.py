"""Real data sets as JSONL rows, from the hub or from a local copy: to train on (--name) and to measure with (--benchmark).

    python -m data.prepare --name gsm8k --split train --out out/gsm8k.jsonl
    python -m data.prepare --name s1k --source my_copy.parquet --out out/s1k.jsonl
    python -m data.prepare --benchmark math500,aime24,gpqa --paper s1 --out out/benchmarks

Each entry of DATASETS is a hub name, its default split, and a function from one of its rows to one of ours. A row
that lacks what the function needs is reported by number and the run stops: a hub data set that changed its columns
should not turn into empty questions. Rows that already have our fields are taken as they are.

A benchmark becomes OUT/NAME.jsonl, its questions worded as --paper words them and with `task` and `group`, which is how
evaluate.py tells them apart, and NAME.config.json with the paper's sampling, format and the citation. The command that
answers it is printed. LiveCodeBench is refused: its answers are programs, and nothing that a model wrote runs here.
UniReason scores HeadQA and MC-TACO by the log-likelihood of the options, which generate.py --score gives for `choices`.
"""

import dataclasses
import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import runlog, settings
from engine.rows import BadInput, read_rows, write_rows
from grading.answers import extract_answer, grade


@dataclass(frozen=True)
class Config:
    out: str  # rows to write (.jsonl); of --benchmark: a directory
    name: str = ""  # which data set, see DATASETS
    benchmark: str = ""  # which benchmarks, with commas between them, see BENCHMARKS
    # whose wording and sampling, of --benchmark
    paper: Literal["s1", "limo", "unireason", "simplerl"] = "s1"
    split: str = ""  # the data set's own default if empty
    # a local .jsonl, .json or .parquet file, or a directory (a data set, or NAME.jsonl ...)
    source: str | None = None
    limit: int = 0  # only the first so many rows; 0 = all


def gsm8k(row):
    """Cobbe et al. 2021: the solution ends in '#### 72'; <<48/2=24>> are calculator notes."""
    solution, _, answer = row["answer"].rpartition("####")
    return {
        "question": row["question"],
        "answer": answer.strip().replace(",", ""),
        "solution": re.sub(r"<<.*?>>", "", solution).strip(),
        "source": "gsm8k",
    }


def math(row):
    """Hendrycks et al. 2021, MATH and its subset MATH-500; the answer is the last box where it has no field."""
    answer = row.get("answer") or extract_answer(row["solution"])
    return {
        "question": row["problem"],
        "answer": answer,
        "solution": row["solution"],
        "level": row.get("level"),
        "subject": row.get("subject") or row.get("type"),
        "source": "MATH",
    }


def aime(row):
    """A whole number; AMC's are written 27.0."""
    answer = str(row["answer"]).removesuffix(".0").lstrip("0") or "0"
    return {
        "question": row["problem"] if "problem" in row else row["question"],
        "answer": answer,
        "solution": row.get("solution") or "",
        "source": "AMC" if "question" in row else "AIME",
    }


def minerva(row):
    """Lewkowycz et al. 2022, §3.1, OCWCourses."""
    return {"question": row["question"], "answer": str(row["answer"]), "source": "OCWCourses"}


def olympiad(row):
    """He et al. 2024; every answer of final_answer is required."""
    return {
        "question": "\n".join(filter(None, [(row.get("context") or "").strip(), row["question"]])),
        "answer": ", ".join(row["final_answer"]),
        "solution": "\n\n".join(row.get("solution") or ()),
        "subject": row.get("subfield"),
        "source": "OlympiadBench",
    }


def gpqa(row):
    """Rein et al. 2023. The order of the choices is drawn from the question, so that it is the same for everyone."""
    choices = [
        row["Correct Answer"].strip(),
        *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3)),
    ]
    random.Random(row["Question"]).shuffle(choices)
    return {
        "question": row["Question"].strip(),
        "choices": choices,
        "solution": row.get("Explanation") or "",
        "answer": "ABCD"[choices.index(row["Correct Answer"].strip())],
        "subject": row.get("Subdomain"),
        "source": "GPQA",
    }


def mmlu_pro(row):
    """Wang et al. 2024: up to ten choices."""
    return {
        "question": row["question"],
        "choices": list(row["options"]),
        "answer": row["answer"],
        "subject": row.get("category"),
        "source": "MMLU-Pro",
    }


def acpbench(row):
    """Kokel et al. 2024, the multiple-choice half of its seven tasks, as UniReason takes them."""
    return {
        "question": f"{row['context']}\n\n{row['question']}",
        "choices": list(row["choices"]["text"]),
        "answer": row["answer"],
        "subject": row.get("group"),
        "source": "ACPBench",
    }


def commonsenseqa(row):
    """Talmor et al. 2019, as STaR uses it."""
    return {
        "question": row["question"],
        "choices": list(row["choices"]["text"]),
        "answer": row["answerKey"],
        "source": "CommonsenseQA",
    }


def headqa(row):
    """Vilares & Gómez-Rodríguez 2019, in English; answers are numbered from 1."""
    choices = [answer["atext"].strip() for answer in row["answers"]]
    return {
        "question": row["qtext"],
        "choices": choices,
        "answer": "ABCDEFGHIJ"[int(row["ra"]) - 1],
        "subject": row.get("category"),
        "source": "HeadQA",
    }


def ifeval(row):
    """Zhou et al. 2023: no answer, but instructions that grading/ifeval.py checks."""
    return {
        "question": row["prompt"],
        "instruction_id_list": list(row["instruction_id_list"]),
        "kwargs": [
            {key: value for key, value in settings.items() if value is not None}
            for settings in row["kwargs"]
        ],
        "source": "IFEval",
    }


def coqa(row):
    """Reddy et al. 2019: a passage, a conversation about it, and its last question, as lm-eval asks it. `references` are
    the answers of all annotators, without repetition."""
    questions, *given = (
        turns["input_text"]
        for turns in (
            row["questions"],
            row["answers"],
            *(row.get("additional_answers") or {}).values(),
        )
    )
    history = [
        text
        for question, answer in zip(questions, given[0])
        for text in (f"Q: {question}", f"A: {answer}")
    ][:-1]
    last = [answers[len(questions) - 1] for answers in given]
    return {
        "question": "\n\n".join([row["story"].strip(), *history, "A:"]),
        "answer": last[0],
        "references": list({answer.lower(): answer for answer in last[::-1]}.values()),
        "subject": row.get("source"),
        "source": "CoQA",
    }


def mc_taco(row):
    """Zhou et al. 2019: is a candidate answer to a question about time plausible?"""
    return {
        "question": f"{row['sentence']}\nQuestion: {row['question']}\nAnswer: {row['answer']}\n\nIs this answer "
        "plausible? Reply yes or no.",
        "choices": ["no", "yes"],
        "answer": ("no", "yes")[int(row["label"])],
        "subject": row.get("category"),
        "source": "MC-TACO",
    }


def halueval(row):
    """Li et al. 2023, its three tasks (and the general one). The wording is ours: UniReason's is longer, with an example."""
    told = next(
        fields
        for fields in (
            ("document", "summary"),
            ("knowledge", "dialogue_history", "response"),
            ("knowledge", "question", "answer"),
            ("user_query", "chatgpt_response"),
            ("question", "response"),
        )
        if row.keys() >= set(fields)
    )
    shown = "\n".join(f"{name.replace('_', ' ').capitalize()}: {row[name]}" for name in told)
    return {
        "question": f"{shown}\n\nDoes the {told[-1].rpartition('_')[2]} contain anything that is not factual or that "
        "does not follow from what precedes it? Reply yes or no.",
        "choices": ["no", "yes"],
        "answer": str(row["hallucination"] if "hallucination" in row else row["answer"])
        .strip()
        .lower(),
        "subject": told[-1],
        "source": "HaluEval",
    }


def s1k(row):
    """s1, §2.2: one Gemini trace per question."""
    return {
        "question": row["question"],
        "answer": extract_answer(row["solution"]) or row["solution"],
        "solution": row["solution"],
        "thinking": row["thinking_trajectories"][0],
        "response": row["attempt"],
        "subject": row.get("cot_type"),
        "source": row.get("source_type"),
        "model": "gemini-2.0-flash-thinking",
    }


def s1k_11(row):
    """s1.1: the same questions with DeepSeek-R1's traces."""
    return {
        "question": row["question"],
        "answer": extract_answer(row["solution"]) or row["solution"],
        "solution": row["solution"],
        "thinking": row["deepseek_thinking_trajectory"],
        "response": row["deepseek_attempt"],
        "subject": row.get("cot_type"),
        "source": row.get("source_type"),
        "model": "deepseek-r1",
    }


def limo(row):
    """LIMO: the solution is the training target, reasoning and all; it goes with --format plain."""
    return {
        "question": row["question"],
        "answer": row["answer"],
        "response": row["solution"],
        "source": "LIMO",
    }


def countdown(row):
    """TinyZero's Countdown: reach the target with each number once."""
    return {
        "question": f"Using the numbers {list(row['nums'])}, create an equation that equals {row['target']}. "
        "Each number must be used exactly once, with + - * / and brackets.",
        "answer": str(row["target"]),
        "nums": list(row["nums"]),
        "target": row["target"],
        "source": "countdown",
    }


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


# Benchmarks: (hub name, configuration, split, function, group of UniReason's Table 1, how to answer, citation).
BENCHMARKS = {
    "math500": (
        "HuggingFaceH4/MATH-500",
        None,
        "test",
        math,
        "math",
        "box",
        "Hendrycks 2021 (2103.03874), Lightman 2023 (2305.20050)",
    ),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", aime, "math", "box", "AIME 2024, (c) MAA"),
    "aime25": ("math-ai/aime25", None, "test", aime, "math", "box", "AIME 2025, (c) MAA"),
    "amc23": ("math-ai/amc23", None, "test", aime, "math", "box", "AMC 2023, (c) MAA"),
    "gsm8k": ("openai/gsm8k", "main", "test", gsm8k, "math", "box", "Cobbe 2021 (2110.14168)"),
    "minerva": (
        "math-ai/minervamath",
        None,
        "test",
        minerva,
        "math",
        "box",
        "Lewkowycz 2022 (2206.14858)",
    ),
    "olympiad": (
        "Hothan/OlympiadBench",
        "OE_TO_maths_en_COMP",
        "train",
        olympiad,
        "math",
        "box",
        "He 2024 (2402.14008)",
    ),
    "gpqa": (
        "Idavidrein/gpqa",
        "gpqa_diamond",
        "train",
        gpqa,
        "other",
        "letter",
        "Rein 2023 (2311.12022)",
    ),
    "mmlu-pro": (
        "TIGER-Lab/MMLU-Pro",
        None,
        "test",
        mmlu_pro,
        "other",
        "letter",
        "Wang 2024 (2406.01574)",
    ),
    "headqa": (
        "dvilares/head_qa",
        "en",
        "test",
        headqa,
        "other",
        "letter",
        "Vilares 2019 (1906.04701)",
    ),
    "acpbench": (
        "ibm-research/acp_bench",
        tuple(
            f"acp_{task}_mcq" for task in ("app", "areach", "just", "land", "prog", "reach", "val")
        ),
        "test",
        acpbench,
        "other",
        "letter",
        "Kokel 2024 (2410.05669)",
    ),
    "commonsenseqa": (
        "tau/commonsense_qa",
        None,
        "validation",
        commonsenseqa,
        "other",
        "letter",
        "Talmor 2019 (1811.00937)",
    ),
    "countdown": (
        "Jiayi-Pan/Countdown-Tasks-3to4",
        None,
        "train",
        countdown,
        "other",
        "box",
        "Gandhi 2024 (2404.03683)",
    ),
    "ifeval": ("google/IFEval", None, "train", ifeval, "non", "", "Zhou 2023 (2311.07911)"),
    "coqa": ("EleutherAI/coqa", None, "validation", coqa, "non", "", "Reddy 2019 (1808.07042)"),
    "mc-taco": ("CogComp/mc_taco", None, "test", mc_taco, "non", "", "Zhou 2019 (1909.03065)"),
    "halueval": (
        "pminervini/HaluEval",
        ("qa_samples", "dialogue_samples", "summarization_samples"),
        "data",
        halueval,
        "non",
        "",
        "Li 2023 (2305.11747)",
    ),
}
REQUESTS = {
    "box": "\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "": "",
    "letter": "\n\nPlease reason step by step, and put the letter of your choice within \\boxed{}.",
}


def protocol(name, paper):
    """How a paper answers a benchmark -> settings of generate.py, and whether it adds a request for a box."""
    settings = {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 32768}
    if paper == "s1":  # §4.1: greedy, the bare question
        return settings | {"format": "s1"}, False
    if paper == "limo":  # §5; the request stands in its system prompt
        small = {"n": 4, "temperature": 0.6} if name in ("aime24", "aime25", "amc23") else {}
        return settings | {"format": "plain"} | small, True
    if paper == "unireason":  # §A.3.4: means of 10 or 3 runs, else greedy
        n = {"aime24": 10, "aime25": 10, "math500": 3, "gpqa": 3}.get(name)
        return settings | {"format": "think"} | (
            {"n": n, "temperature": 0.6, "top_p": 0.95} if n else {}
        ), True
    # SimpleRL-Zoo, §2.2
    return settings | {
        "format": "plain",
        "temperature": 1.0,
        "top_p": 0.95,
        "max_tokens": 16384,
        "n": 32 if name.startswith("aime") else 1,
    }, True


def load_source(cfg, hub_name, configuration, split):
    """The raw rows, from a local file or directory or from the hub. Raises BadInput."""
    if cfg.source is None and hub_name is None:
        raise BadInput(f"{cfg.name or cfg.benchmark} needs --source")
    if cfg.source and cfg.source.endswith(".jsonl"):
        return read_rows(cfg.source)
    if cfg.source and not Path(cfg.source).exists():
        raise BadInput(f"--source {cfg.source}: no such file or directory")
    from datasets import load_dataset

    try:
        if cfg.source is None:
            parts = configuration if isinstance(configuration, tuple) else [configuration]
            return [
                row
                for part in parts
                for row in load_dataset(hub_name, part, split=cfg.split or split)
            ]
        if Path(cfg.source).is_dir():
            return load_dataset(cfg.source, split=cfg.split or split)
        kind = {".json": "json", ".parquet": "parquet"}.get(Path(cfg.source).suffix)
        if kind is None:
            raise BadInput(f"--source {cfg.source}: not a .jsonl, .json or .parquet file")
        return load_dataset(kind, data_files=cfg.source, split="train")
    except BadInput:
        raise
    except Exception as error:  # the library raises many kinds; all mean that it could not be read
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{cfg.source or hub_name}: cannot be loaded ({message})") from error


def converted(cfg, name, raw_rows, convert):
    """Our rows of the raw ones, one per question, with ids. Raises BadInput naming the row that does not fit."""
    rows = {}
    for number, raw in enumerate(raw_rows, 1):
        if cfg.limit and number > cfg.limit:
            break
        try:
            row = convert(raw)
        except (
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            ValueError,
            StopIteration,
        ) as error:
            raise BadInput(
                f"{cfg.source or name}: row {number} does not look like {name} "
                f"({type(error).__name__}: {error})"
            ) from error
        digest = hashlib.sha256(row["question"].encode("utf-8")).hexdigest()[:16]
        row = {"id": raw.get("id", digest) if convert is rows_as_they_are else digest, **row}
        rows.setdefault(row["id"], row)
    return list(rows.values())


def prepare_benchmark(cfg, name):
    """Write OUT/NAME.jsonl and OUT/NAME.config.json; returns the rows."""
    hub_name, configuration, split, convert, group, kind, citation = BENCHMARKS[name]
    if cfg.source and Path(cfg.source).is_dir():  # of ours, or of local copies: NAME.jsonl ...
        found = [
            file
            for ending in (".jsonl", ".parquet", ".json")
            if (file := Path(cfg.source) / (name + ending)).exists()
        ]
        cfg = dataclasses.replace(cfg, source=str(found[0])) if found else cfg
    raw_rows = load_source(cfg, hub_name, configuration, split)
    first = next(iter(raw_rows), {})
    ours = (
        {"id", "question"} <= first.keys()
        and not first.keys().isdisjoint({"answer", "instruction_id_list"})
        and "response" not in first
        and not isinstance(first.get("choices"), dict)
    )
    rows = converted(cfg, name, raw_rows, rows_as_they_are if ours else convert)
    settings, asks = protocol(name, cfg.paper)
    for row in rows:
        if row.get("choices") and kind == "letter":
            row["question"] += "\n\n" + "\n".join(
                f"{chr(65 + i)}) {choice}" for i, choice in enumerate(row["choices"])
            )
        row["question"] += (
            REQUESTS[kind if row.get("choices") or kind != "letter" else "box"] if asks else ""
        )
        row |= {"task": name, "group": group}
    path = Path(cfg.out) / f"{name}.jsonl"
    write_rows(path, rows)
    runlog.save_config(
        cfg,
        runlog.header_of(path),
        hub=hub_name,
        sampling=settings,
        citation=citation,
        n_questions=len(rows),
    )
    no_gold = sum(grade(row, "0") is None for row in rows)
    flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in settings.items())
    print(
        f"{path}: {len(rows)} questions"
        + f", {no_gold} without an answer" * bool(no_gold)
        + f"; {citation}\n"
        f"    python generate.py --model MODEL --data {path} --out RUN.jsonl{flags}"
    )
    return rows


def main(cfg):
    """Write the rows; returns them."""
    if bool(cfg.name) == bool(cfg.benchmark):
        raise BadInput("one of --name and --benchmark is needed")
    if cfg.benchmark:
        names = cfg.benchmark.split(",")
        for name in names:
            if name == "livecodebench":
                raise BadInput(
                    "--benchmark livecodebench: its answers are programs, and what a model wrote is not run here"
                )
            if name not in BENCHMARKS:
                raise BadInput(f"--benchmark {name}: not among {', '.join(BENCHMARKS)}")
        if len(names) > 1 and cfg.source and not Path(cfg.source).is_dir():
            raise BadInput(
                f"--source {cfg.source}: several benchmarks need a directory that holds NAME.jsonl for each"
            )
        return {name: prepare_benchmark(cfg, name) for name in names}
    if cfg.name not in DATASETS:
        raise BadInput(f"--name {cfg.name}: not among {', '.join(DATASETS)}")
    *place, convert = DATASETS[cfg.name]
    rows = converted(cfg, cfg.name, load_source(cfg, *place), convert)
    write_rows(cfg.out, rows)
    print(f"{cfg.out}: {len(rows)} rows of {cfg.name}")
    return rows


if __name__ == "__main__":
    settings.cli(main, Config)
