"""A verifier (Cobbe et al. 2021, arXiv 2110.14168): a model that says whether an attempt is right.

It is fine-tuned to answer yes or no to a question and an attempt. The probability of yes becomes a
field of the attempt, by which evaluate.py takes the best of N and weighs votes:

    python -m grading.verdicts --do train --data tries.jsonl --out lessons.jsonl
    python sft.py --data lessons.jsonl --out verifier --format plain ...
    python -m grading.verdicts --do ask --data attempts.jsonl --out asked.jsonl
    python generate.py --score --model verifier --data asked.jsonl --out heard.jsonl --format plain
    python -m grading.verdicts --do join --data heard.jsonl --out verified.jsonl
    python evaluate.py verified.jsonl --best-by verifier

Departs from the paper in: 1. the verdict is a word after the whole attempt, not a number at each of
its tokens; 2. the generator is not trained along.
"""

import math
from dataclasses import dataclass
from typing import Literal

from engine import settings
from engine.rows import BadInput, check_file_to_write, read_rows, write_rows
from grading.answers import answer_of, grade


@dataclass(frozen=True)
class Config:
    data: str  # completion rows; for join what generate.py --score made of the rows of ask
    out: str  # rows to write
    # train: rows for sft.py; ask: rows for generate.py --score; join: completions with `verifier`
    do: Literal["train", "ask", "join"] = "train"
    # what the verifier is asked; a small model needs words that it knows
    template: str = "{question}\n\nAttempt: {thinking}\n\nAnswer: {response}\n\nIs this right?"
    yes: str = "yes"  # its word for a right attempt
    no: str = "no"  # and for a wrong one


def fill(template, row):
    """The template with the texts of a completion row; braces in these stay as they are."""
    parts = template.split("{")
    text = parts[0]
    for part in parts[1:]:
        name, closed, rest = part.partition("}")
        if closed and name in ("question", "thinking", "response"):
            text += (row.get(name) or "") + rest
        else:
            text += "{" + part
    return text


def lesson_of(row, cfg):
    """A completion row -> what the verifier learns from it; None if it cannot be graded."""
    right = grade(row, answer_of(row))
    if right is None:
        return None
    return {
        "id": f"{row['id']}-{row.get('sample', 0)}",
        "question": fill(cfg.template, row),
        "thinking": "",
        "response": cfg.yes if right else cfg.no,
    }


def inquiry_of(row, cfg):
    """A completion row -> a question with two choices, which carries the row along."""
    return {
        "id": row["id"],
        "sample": row.get("sample", 0),
        "question": fill(cfg.template, row),
        "choices": [cfg.yes, cfg.no],
        "attempt": row,
    }


def probability(choice_logp):
    """[log p(yes), log p(no)] -> p(yes) / (p(yes) + p(no))."""
    yes, no = choice_logp
    return 1 / (1 + math.exp(min(700.0, no - yes)))


def verified(row, where):
    """A scored inquiry -> its completion row with `verifier`. Raises BadInput."""
    logps = row["choice_logp"]
    are_two = isinstance(logps, list) and len(logps) == 2
    if not are_two or not all(isinstance(x, (int, float)) for x in logps):
        raise BadInput(f"{where}: choice_logp is not a pair of numbers")
    return row["attempt"] | {"verifier": round(probability(logps), 6)}


def main(cfg):
    """Write the rows. Returns them."""
    check_file_to_write(cfg.out)
    if cfg.yes == cfg.no:
        raise BadInput(f"--yes and --no are both {cfg.yes!r}")
    if cfg.do == "join":
        rows = read_rows(cfg.data, need=("attempt", "choice_logp"))
        found = [verified(row, f"{cfg.data}:{line}") for line, row in enumerate(rows, 1)]
    else:
        rows = read_rows(cfg.data, need=("id", "question", "response"))
        make = lesson_of if cfg.do == "train" else inquiry_of
        found = [made for made in (make(row, cfg) for row in rows) if made]
    if not found:
        raise BadInput(f"{cfg.data}: no row can be graded, so a verifier has nothing to learn")
    write_rows(cfg.out, found)
    print(f"{cfg.out}: {len(found)} rows of {len(rows)} attempts")
    return found


if __name__ == "__main__":
    settings.cli(main, Config)
