"""Label problems by the majority answer of a model that is not trained on them (2506.10947).

    python generate.py --model BASE --data problems.jsonl --out votes.jsonl --n 64 --temperature 1
    python -m grading.labels --data votes.jsonl --out labelled.jsonl --keep wrong

The rewards `vote_offline` and `wrong_label` of grpo.py read the field `label`.
"""

from dataclasses import dataclass
from typing import Literal

from engine import settings
from engine.rows import BadInput, check_file_to_write, read_rows, write_rows
from grading.answers import answer_of, grade
from grading.rewards import majority

COMPLETION_FIELDS = {
    "sample",
    "text",
    "thinking",
    "response",
    "ids",
    "injected",
    "n_thinking_tokens",
    "n_tokens",
    "finish",
    "stop",
    "n_waits",
    "forced",
    "n_tries",
    "logp",
    "settings",
}


@dataclass(frozen=True)
class Config:
    data: str  # completion rows of generate.py --n 64
    out: str  # problem rows to write, with `label` and its share of the votes, `label_share`
    # which labels; right and wrong need a gold answer
    keep: Literal["all", "right", "wrong"] = "all"


def main(cfg):
    """Label each problem with the majority answer of its completions. Returns the rows written."""
    check_file_to_write(cfg.out)
    groups = {}
    for row in read_rows(cfg.data, need=("id", "question", "text")):
        groups.setdefault(str(row["id"]), []).append(row)
    labelled = []
    for rows in groups.values():
        _, first, share = majority(rows)
        if first is None:  # no completion has an answer
            continue
        label = answer_of(first)
        right = grade(first, label)  # None without a gold answer
        if cfg.keep == "all" or right is (cfg.keep == "right"):
            problem = {
                name: value for name, value in first.items() if name not in COMPLETION_FIELDS
            }
            labelled.append(problem | {"label": label, "label_share": share})
    print(
        f"{len(labelled)} of {len(groups)} problems labelled by the majority of their completions"
    )
    if not labelled:
        raise BadInput(f"{cfg.data}: --keep {cfg.keep} leaves no problem")
    write_rows(cfg.out, labelled)
    return labelled


if __name__ == "__main__":
    settings.cli(main, Config)
