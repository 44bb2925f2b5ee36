"""Rows with a number that claims compare.

    python -m atlas.measures --kind KIND --data FILE ... --out FILE

within       `within`: 1 if the thinking kept --limit tokens
vote, best, any
             a row per question of n samples: that of the majority's answer, the likeliest one, or
             one that is right if there is any (coverage); n_tokens is the sum over the samples
behaviours   verification, backtracking, subgoal, backward: their counts in the trace; `cut`: 1 if
             the completion was cut
divergence   `divergence`: mean over the tokens of logp in file 1 - logp in file 2, nats; both are
             `generate.py --score` of the same completions, by their model and by another one
stop         files of one run under rising budgets, greedy, with logp: the first whose answer is
             likelier than --limit, else the last. What is saved by stopping once it is sure
weights      --data BASE TUNED [TUNED]: a row per tensor, `unchanged`: percent of the weights that
             are the same in bfloat16; with two of them `overlap`: percent of the first's changed
             weights that the other changed, `chance`: what independent sets would share
language     `latin`: percent of the words that are in Latin script, in the thinking
gain         --data BEFORE AFTER: the rows of the second with `gain`, points of right answers more
             than in the first: -100, 0 or 100
flops        --data MODEL: one row, `tflops` of its training, the sum of its flops.jsonl
"""

import math
import statistics
from dataclasses import dataclass
from typing import Literal

import evaluate
from engine import runlog, settings
from engine.rows import BadInput, read_rows, write_rows
from grading.rewards import reward_language
from report.behaviours import count_behaviours, trace_text
from report.runs import is_right, sample_key

Kind = Literal[
    "language",
    "within",
    "vote",
    "best",
    "any",
    "behaviours",
    "divergence",
    "stop",
    "weights",
    "gain",
    "flops",
]


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # files of rows, or model directories for `weights`
    out: str  # file of rows to write
    kind: Kind = "behaviours"  # what to measure, see above
    limit: float = 0.0  # tokens of `within`, probability of `stop`
    k: int = 0  # samples that vote or are chosen from; 0 = all


def within(rows, cfg):
    """Rows with `within`: 1 if the thinking kept --limit tokens."""
    return [row | {"within": int(row["n_thinking_tokens"] <= cfg.limit)} for row in rows]


def behaviours(rows, cfg):
    """Rows with the counts of the four behaviours, and `cut`: 1 if --max-tokens ended them."""
    return [
        row | count_behaviours(trace_text(row)) | {"cut": int(row.get("finish") == "length")}
        for row in rows
    ]


def language(rows, cfg):
    """Rows with `latin`: percent of the words of the thinking that are in Latin script."""
    return [
        row | {"latin": 100 * reward_language({"text": row["thinking"]}, None, "latin")}
        for row in rows
    ]


def choose_sample(rows, cfg):
    """A row per question: the majority's, the likeliest by mean log-probability, or a right one."""
    questions, _ = evaluate.grade_questions(rows, "logp")
    chosen = []
    for samples in questions.values():
        samples = samples[: cfg.k or None]
        best = evaluate.choose_one(samples, "majority" if cfg.kind == "vote" else cfg.kind)
        total = sum(sample.row["n_tokens"] for sample in samples)
        chosen.append(best.row | {"n_tokens": total, "sample": 0})
    return chosen


def divergence(own, other):
    """Two scored files of the same completions -> rows with their mean log-ratio per token."""
    found = []
    for row, twin in zip(own, other, strict=True):
        if row["id"] != twin["id"] or row["ids"] != twin["ids"]:
            raise BadInput(f"--data: row '{row['id']}' is another completion in the second file")
        ratios = [p - q for p, q in zip(row["logp"], twin["logp"], strict=True)]
        found.append(row | {"divergence": statistics.fmean(ratios)})
    return found


def gains(before, after):
    """Two runs of the same questions -> rows of the second with what it gains, in points."""
    old = {sample_key(row): bool(is_right(row)) for row in before}
    found = []
    for row in after:
        if sample_key(row) not in old:
            raise BadInput(f"--data: the first file has no answer to '{row['id']}'")
        found.append(row | {"gain": 100 * (bool(is_right(row)) - old[sample_key(row)])})
    return found


def answer_probability(row):
    """Probability of the tokens after thinking: those of the response and the end."""
    n = row["n_thinking_tokens"]
    # logp[n] is the end of thinking. Where it was forced it was not sampled: leave it out of all.
    return math.exp(sum(row["logp"][n + 1 :]))


def stop_when_sure(runs, limit):
    """Runs under rising budgets -> a row per question: the first that is sure, else the last."""
    tables = [{row["id"]: row for row in rows} for rows in runs]
    chosen = []
    for question in tables[-1]:
        tried = [table[question] for table in tables]
        sure = [row for row in tried if row["n_tokens"] and answer_probability(row) >= limit]
        chosen.append((sure or tried[-1:])[0])
    return chosen


def weights(paths):
    """Paths of a base and of one or two models trained from it -> a row per tensor."""
    from report.weights import difference, find_tensors, read_tensor

    files = [find_tensors(path) for path in paths]
    rows = []
    for name in sorted(files[0]):
        before, *after = [read_tensor(found, name, "cpu") for found in files]
        changed = [difference(before, tensor, "bf16") > 0 for tensor in after]
        shares = [mask.float().mean().item() for mask in changed]
        row = {"id": name, "unchanged": 100 * (1 - shares[0])}
        if len(changed) == 2 and shares[0]:
            both = (changed[0] & changed[1]).sum().item()
            row["overlap"] = 100 * both / changed[0].sum().item()
            row["chance"] = 100 * shares[1]
        rows.append(row)
    return rows


def main(cfg):
    """Write the rows of --kind; returns them. Raises BadInput."""
    if cfg.kind == "weights":
        rows = weights(cfg.data)
    elif cfg.kind == "flops":
        flops = sum(runlog.flops_in(f"{path}/flops.jsonl") for path in cfg.data)
        rows = [{"id": "all", "tflops": flops / 1e12}]
    else:
        files = [read_rows(path, need=("id",)) for path in cfg.data]
        if cfg.kind == "divergence" and len(files) == 2:
            rows = divergence(*files)
        elif cfg.kind == "gain" and len(files) == 2:
            rows = gains(*files)
        elif cfg.kind == "stop":
            rows = stop_when_sure(files, cfg.limit)
        elif len(files) == 1 and cfg.kind not in ("divergence", "gain"):
            kinds = {"within": within, "behaviours": behaviours, "language": language}
            rows = kinds.get(cfg.kind, choose_sample)(files[0], cfg)
        else:
            raise BadInput(f"--data: {len(files)} files for --kind {cfg.kind}")
    write_rows(cfg.out, rows)
    print(f"{cfg.out}: {len(rows)} rows")
    return rows


if __name__ == "__main__":
    settings.cli(main, Config)
