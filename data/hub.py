"""Data sets of the hub: where they are, and a function from one of their rows to one of ours.

A function fails (KeyError and the like) on a row that lacks what it needs: a data set that changed
its columns should not turn into empty questions. data/prepare.py gives the ids.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.rows import BadInput
from grading.answers import extract_answer


@dataclass(frozen=True)
class DataSet:
    hub: str | None  # name on the hub; None: has to be given as a file
    convert: Callable  # a row of theirs -> a row of ours
    split: str = "train"  # the split that is read if none is named
    parts: tuple[str | None, ...] = (None,)  # configurations that are read one after the other
    answer: str = (
        ""  # the form that is asked for: number, box or letter; empty: the question says it
    )


@dataclass(frozen=True, kw_only=True)
class Benchmark(DataSet):
    group: str  # math, other (reasoning) or non (reasoning): the columns of UniReason's Table 1
    citation: str = ""


def fetch(name, part, split, data_files=None):
    """Raw rows that the `datasets` library reads, from the hub or from files. Raises BadInput."""
    options = {"data_files": data_files} if data_files else {}
    try:
        from datasets import load_dataset

        return load_dataset(name, part, split=split, **options)
    except Exception as error:
        raise unreadable(data_files or name, error) from error


def unreadable(name, error):
    """BadInput for an exception of the `datasets` library.

    The library raises many kinds. All mean that the data could not be read.
    """
    message = str(error).strip() or type(error).__name__
    return BadInput(f"{name}: cannot be loaded ({message.splitlines()[0]})")


# ---- one function per data set: a row of theirs -> a row of ours


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
    """Hendrycks et al. 2021, MATH and its subset MATH-500.

    Rows without the field `answer` have it in the solution's last box.
    """
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
    """AIME and AMC: the answer is a whole number; AMC's are written 27.0."""
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
    context = (row.get("context") or "").strip()
    return {
        "question": f"{context}\n{row['question']}" if context else row["question"],
        "answer": ", ".join(row["final_answer"]),
        "solution": "\n\n".join(row.get("solution") or ()),
        "subject": row.get("subfield"),
        "source": "OlympiadBench",
    }


def problem(source, question, answer, **more):
    """A problem row; more: choices, subject and what else is known."""
    return {"question": question, "answer": answer, "source": source, **more}


def gpqa(row):
    """Rein et al. 2023. The data set has the right choice first, so the choices are shuffled.

    The question seeds the order, which is therefore the same for everyone.
    """
    right = row["Correct Answer"].strip()
    wrong = [row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3)]
    choices = [right, *wrong]
    random.Random(row["Question"]).shuffle(choices)
    answer = "ABCD"[choices.index(right)]
    more = {"solution": row.get("Explanation") or "", "subject": row.get("Subdomain")}
    return problem("GPQA", row["Question"].strip(), answer, choices=choices, **more)


def mmlu_pro(row):
    """Wang et al. 2024: up to ten choices."""
    more = {"choices": list(row["options"]), "subject": row.get("category")}
    return problem("MMLU-Pro", row["question"], row["answer"], **more)


def acpbench(row):
    """Kokel et al. 2024: the multiple-choice half of its seven tasks, which UniReason uses."""
    question = f"{row['context']}\n\n{row['question']}"
    more = {"choices": list(row["choices"]["text"]), "subject": row.get("group")}
    return problem("ACPBench", question, row["answer"], **more)


def commonsenseqa(row):
    """Talmor et al. 2019, as STaR uses it."""
    choices = list(row["choices"]["text"])
    return problem("CommonsenseQA", row["question"], row["answerKey"], choices=choices)


def headqa(row):
    """Vilares & Gómez-Rodríguez 2019, in English; answers are numbered from 1."""
    choices = [answer["atext"].strip() for answer in row["answers"]]
    answer = "ABCDEFGHIJ"[int(row["ra"]) - 1]
    more = {"choices": choices, "subject": row.get("category")}
    return problem("HeadQA", row["qtext"], answer, **more)


def ifeval(row):
    """Zhou et al. 2023: no answer, but instructions that grading/ifeval.py checks."""
    # The hub's rows name every argument of every instruction; those not meant are null.
    arguments = []
    for given in row["kwargs"]:
        arguments.append({key: value for key, value in given.items() if value is not None})
    return {
        "question": row["prompt"],
        "instruction_id_list": list(row["instruction_id_list"]),
        "kwargs": arguments,
        "source": "IFEval",
    }


def coqa(row):
    """Reddy et al. 2019: a passage, a conversation about it, and its last question.

    Worded as lm-eval does it. `references` are all annotators' different answers to it.
    """
    questions = row["questions"]["input_text"]
    answers = row["answers"]["input_text"]
    more_annotators = (row.get("additional_answers") or {}).values()
    conversation = [row["story"].strip()]
    for question, answer in zip(questions, answers):
        conversation += [f"Q: {question}", f"A: {answer}"]
    conversation[-1] = "A:"  # the last answer is what is asked for

    last = len(questions) - 1
    references = [answers[last]]
    references += [annotator["input_text"][last] for annotator in more_annotators]
    # Spellings that differ in case only are one answer; of those the first one stays.
    different = {answer.lower(): answer for answer in reversed(references)}
    return {
        "question": "\n\n".join(conversation),
        "answer": answers[last],
        "references": list(different.values()),
        "subject": row.get("source"),
        "source": "CoQA",
    }


def mc_taco(row):
    """Zhou et al. 2019: is a candidate answer to a question about time plausible?"""
    question = (
        f"{row['sentence']}\nQuestion: {row['question']}\nAnswer: {row['answer']}\n\n"
        "Is this answer plausible? Reply yes or no."
    )
    answer = ("no", "yes")[int(row["label"])]
    more = {"choices": ["no", "yes"], "subject": row.get("category")}
    return problem("MC-TACO", question, answer, **more)


# HaluEval's tasks by the fields that they show; the last field is judged.
HALUEVAL_FIELDS = (
    ("document", "summary"),
    ("knowledge", "dialogue_history", "response"),
    ("knowledge", "question", "answer"),
    ("user_query", "chatgpt_response"),
    ("question", "response"),
)


def halueval(row):
    """Li et al. 2023, its three tasks and the general one.

    The wording is ours: UniReason's is longer, with an example.
    """
    fields = next(fields for fields in HALUEVAL_FIELDS if row.keys() >= set(fields))
    shown = [f"{name.replace('_', ' ').capitalize()}: {row[name]}" for name in fields]
    judged = fields[-1].rpartition("_")[2]  # chatgpt_response: the response
    hallucinated = row["hallucination"] if "hallucination" in row else row["answer"]
    question = (
        "\n".join(shown) + f"\n\nDoes the {judged} contain anything that is not factual or "
        "that does not follow from what precedes it? Reply yes or no."
    )
    answer = str(hallucinated).strip().lower()
    return problem("HaluEval", question, answer, choices=["no", "yes"], subject=fields[-1])


def s1_trace(row, thinking, response, model):
    """A question of s1K with one of the traces that its rows hold."""
    return {
        "question": row["question"],
        "answer": extract_answer(row["solution"]) or row["solution"],
        "solution": row["solution"],
        "thinking": thinking,
        "response": response,
        "subject": row.get("cot_type"),
        "source": row.get("source_type"),
        "model": model,
    }


def s1k(row):
    """s1, §2.2: one Gemini trace per question."""
    thinking = row["thinking_trajectories"][0]
    return s1_trace(row, thinking, row["attempt"], "gemini-2.0-flash-thinking")


def s1k_11(row):
    """s1.1: the same questions with DeepSeek-R1's traces."""
    thinking, response = row["deepseek_thinking_trajectory"], row["deepseek_attempt"]
    return s1_trace(row, thinking, response, "deepseek-r1")


def limo(row):
    """LIMO: the solution, with its reasoning, is the training target; goes with --format plain."""
    return {
        "question": row["question"],
        "answer": row["answer"],
        "response": row["solution"],
        "source": "LIMO",
    }


def countdown(row):
    """TinyZero's Countdown: reach the target with each number once."""
    return {
        "question": (
            f"Using the numbers {list(row['nums'])}, create an equation that equals "
            f"{row['target']}. Each number must be used exactly once, with + - * / and brackets."
        ),
        "answer": str(row["target"]),
        "nums": list(row["nums"]),
        "target": row["target"],
        "source": "countdown",
    }


def already_ours(row):
    """A row that already has our fields."""
    return {"question": row["question"], "answer": row["answer"], **row}


# ---- where they are

DATASETS = {
    "gsm8k": DataSet("openai/gsm8k", gsm8k, parts=("main",), answer="number"),
    "math500": DataSet("HuggingFaceH4/MATH-500", math, "test", answer="box"),
    "math": DataSet("nlile/hendrycks-MATH-benchmark", math, answer="box"),
    "aime24": DataSet("HuggingFaceH4/aime_2024", aime, answer="number"),
    "s1k": DataSet("simplescaling/s1K", s1k),
    "s1k-1.1": DataSet("simplescaling/s1K-1.1", s1k_11),
    "limo": DataSet("GAIR/LIMO", limo, answer="box"),
    "countdown": DataSet("Jiayi-Pan/Countdown-Tasks-3to4", countdown),
    "rows": DataSet(None, already_ours),
}

# ACPBench's seven tasks, their multiple-choice halves.
ACP_TASKS = ("app", "areach", "just", "land", "prog", "reach", "val")

BENCHMARKS = {
    "math500": Benchmark(
        "HuggingFaceH4/MATH-500",
        math,
        "test",
        group="math",
        answer="box",
        citation="Hendrycks 2021 (2103.03874), Lightman 2023 (2305.20050)",
    ),
    "aime24": Benchmark(
        "HuggingFaceH4/aime_2024",
        aime,
        group="math",
        answer="number",
        citation="AIME 2024, (c) MAA",
    ),
    "aime25": Benchmark(
        "math-ai/aime25", aime, "test", group="math", answer="number", citation="AIME 2025, (c) MAA"
    ),
    "amc23": Benchmark(
        "math-ai/amc23", aime, "test", group="math", answer="number", citation="AMC 2023, (c) MAA"
    ),
    "gsm8k": Benchmark(
        "openai/gsm8k",
        gsm8k,
        "test",
        parts=("main",),
        group="math",
        answer="number",
        citation="Cobbe 2021 (2110.14168)",
    ),
    "minerva": Benchmark(
        "math-ai/minervamath",
        minerva,
        "test",
        group="math",
        answer="box",
        citation="Lewkowycz 2022 (2206.14858)",
    ),
    "olympiad": Benchmark(
        "Hothan/OlympiadBench",
        olympiad,
        parts=("OE_TO_maths_en_COMP",),
        group="math",
        answer="box",
        citation="He 2024 (2402.14008)",
    ),
    "gpqa": Benchmark(
        "Idavidrein/gpqa",
        gpqa,
        parts=("gpqa_diamond",),
        group="other",
        answer="letter",
        citation="Rein 2023 (2311.12022)",
    ),
    "mmlu-pro": Benchmark(
        "TIGER-Lab/MMLU-Pro",
        mmlu_pro,
        "test",
        group="other",
        answer="letter",
        citation="Wang 2024 (2406.01574)",
    ),
    "headqa": Benchmark(
        "dvilares/head_qa",
        headqa,
        "test",
        parts=("en",),
        group="other",
        answer="letter",
        citation="Vilares 2019 (1906.04701)",
    ),
    "acpbench": Benchmark(
        "ibm-research/acp_bench",
        acpbench,
        "test",
        parts=tuple(f"acp_{task}_mcq" for task in ACP_TASKS),
        group="other",
        answer="letter",
        citation="Kokel 2024 (2410.05669)",
    ),
    "commonsenseqa": Benchmark(
        "tau/commonsense_qa",
        commonsenseqa,
        "validation",
        group="other",
        answer="letter",
        citation="Talmor 2019 (1811.00937)",
    ),
    "countdown": Benchmark(
        "Jiayi-Pan/Countdown-Tasks-3to4",
        countdown,
        group="other",
        answer="box",
        citation="Gandhi 2024 (2404.03683)",
    ),
    "ifeval": Benchmark("google/IFEval", ifeval, group="non", citation="Zhou 2023 (2311.07911)"),
    "coqa": Benchmark(
        "EleutherAI/coqa", coqa, "validation", group="non", citation="Reddy 2019 (1808.07042)"
    ),
    "mc-taco": Benchmark(
        "CogComp/mc_taco", mc_taco, "test", group="non", citation="Zhou 2019 (1909.03065)"
    ),
    "halueval": Benchmark(
        "pminervini/HaluEval",
        halueval,
        "data",
        parts=("qa_samples", "dialogue_samples", "summarization_samples"),
        group="non",
        citation="Li 2023 (2305.11747)",
    ),
}
