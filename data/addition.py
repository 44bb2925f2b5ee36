"""STaR's digit addition (arXiv 2203.14465, §4.1): sums of numbers of one to five digits, column by
column on a scratchpad.

    question  sum 6 2 4 + 2 5 9
    thinking  6 2 4 + 2 5 9 , c 0 . 2 + 5 , 3 c 1 . 6 + 2 , 8 3 c 0 . , 8 8 3 c 0 . 0 8 8 3
    answer    8 8 3

A step has the column that is next, the sum so far and the carry; the last one is the carry and the
sum. --style paper writes the steps as the paper's code does: a line for each, and `C:` for the
carry. The tiny world's vocabulary has neither.

A model that adds columns and carries has to be there before STaR can begin. warm.jsonl is what it
reads: sums of one and two digits, a quarter of them with the answer as a hint; longer ones with the
hint only. That takes the place of the paper's examples in the prompt.

    python -m data.addition --out out/addition/data
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.tiny import split_of
from engine import settings
from engine.rows import BadInput, write_rows

# Shares of sums of one digit, two digits ... in warm.jsonl; those above two show the form only.
WARM_SHARES = (0.35, 0.5, 0.05, 0.05, 0.05)
HINT = " from {answer}"


@dataclass(frozen=True)
class Config:
    out: str  # directory to write into
    seed: int = 0  # of the training problems and of warm.jsonl; dev and held_out never change
    digits: int = 5  # longest numbers of the training problems, at most 5, which the paper has
    longer: int = 7  # held-out problems have up to so many digits; the paper: 10
    n_warm: int = 16_000  # sums that the first model reads
    n_train: int = 400  # problems of each number of digits
    n_held_out: int = 60  # problems of each number of digits, where there are as many
    style: Literal["tiny", "paper"] = "tiny"  # of the scratchpad


def digits_of(number):
    return [int(digit) for digit in str(number)]


def scratchpad(a, b, style="tiny"):
    """The steps of a + b, two numbers of as many digits, as one text."""
    carry_word, joint = {"tiny": ("c", " . "), "paper": ("C:", "\n")}[style]
    columns = list(zip(digits_of(a), digits_of(b)))
    lines = [f"{spaced(a)} + {spaced(b)} , {carry_word} 0"]
    found, carry = [], 0
    for place in range(len(columns) - 1, -1, -1):
        total = sum(columns[place]) + carry
        carry, found = total // 10, [total % 10, *found]
        next_column = "{} + {} ".format(*columns[place - 1]) if place else ""
        lines.append(f"{next_column}, {' '.join(map(str, found))} {carry_word} {carry}")
    lines.append(" ".join(map(str, [carry, *found])))
    return joint.join(lines)


def spaced(number):
    return " ".join(str(number))


def problem(a, b):
    n_digits = len(str(a))
    return {
        "id": f"{a}+{b}",
        "group": f"digits{n_digits}",
        "question": f"sum {spaced(a)} + {spaced(b)}",
        "answer": spaced(a + b),
    }


def pairs(n_digits, split, rng):
    """Pairs of numbers of so many digits that fall into a split, without end.

    Sums of one digit are a closed set of facts and not held out: longer sums are made of them.
    """
    while True:
        a, b = (rng.randrange(10 ** (n_digits - 1), 10**n_digits) for _ in range(2))
        if n_digits == 1 or split_of(f"{a} + {b}") == split:
            yield a, b


def problems(n_digits, n, split, seed):
    """n different problems; fewer if there are none left."""
    rng = random.Random(f"{seed} {n_digits} {split}")
    source, found = pairs(n_digits, split, rng), {}
    for _ in range(50 * n):
        pair = next(source)
        found[pair] = problem(*pair)
        if len(found) == n:
            break
    return list(found.values())


def warm_rows(n, seed, style):
    """Solved sums for a first model. A quarter of the short and all longer ones show the answer."""
    rng = random.Random(f"{seed} warm")
    sources = [pairs(1 + i, "train", rng) for i in range(len(WARM_SHARES))]
    for number in range(n):
        a, b = next(rng.choices(sources, WARM_SHARES)[0])
        row = problem(a, b)
        is_hinted = number % 4 == 0 or a > 99
        hint = HINT.format(answer=row["answer"]) if is_hinted else ""
        yield {
            "id": str(number),
            "question": row["question"] + hint,
            "thinking": scratchpad(a, b, style),
            "response": row["answer"],
        }


def main(cfg):
    """Write warm, train, dev, held_out and against (no one may train on these) into cfg.out."""
    if (
        not 1 <= cfg.digits <= min(5, cfg.longer)
        or min(cfg.n_warm, cfg.n_train, cfg.n_held_out) < 1
    ):
        raise BadInput("--digits is 1 to 5 and to --longer; numbers of problems are positive")
    out = Path(cfg.out)
    files = {"warm": list(warm_rows(cfg.n_warm, cfg.seed, cfg.style))}
    train = [problems(d, cfg.n_train, "train", cfg.seed) for d in range(1, cfg.digits + 1)]
    files["train"] = [row for rows in interleave(train) for row in rows]
    for split in ("dev", "held_out"):
        lengths = range(1, cfg.longer + 1)
        files[split] = [row for d in lengths for row in problems(d, cfg.n_held_out, split, 0)]
    measured = [row for split in ("dev", "held_out") for row in files[split]]
    files["against"] = [row for row in measured if row["group"] != "digits1"]
    for name, rows in files.items():
        write_rows(out / f"{name}.jsonl", rows)
        print(f"{name}.jsonl: {len(rows)} rows")


def interleave(lists):
    """[[a1, a2], [b1]] -> [[a1, b1], [a2]]: any first part holds all lengths alike."""
    most = max(map(len, lists))
    return [[rows[i] for rows in lists if i < len(rows)] for i in range(most)]


if __name__ == "__main__":
    settings.cli(main, Config)
