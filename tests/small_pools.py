"""Small pools of rows for the tests of curation."""

import json
import random

import curate


def trace(number, question=None, thinking="first a then b", response="4", **more):
    return {
        "id": f"r{number:03}",
        "question": question or f"question {number} ?",
        "answer": "4",
        "thinking": thinking,
        "response": response,
        "model": "teacher",
        **more,
    }


def pool_of(sizes, seed=0):
    """Rows of several domains with distinct lengths, in random order."""
    rows = [
        trace(100 * d + i, domain=domain, n_thinking_tokens=10 * (i + 1) + d)
        for d, (domain, size) in enumerate(sizes.items())
        for i in range(size)
    ]
    random.Random(seed).shuffle(rows)
    return rows


def ids(rows):
    return [row["id"] for row in rows]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_problems(tmp_path, n, **more):
    return write(
        tmp_path / "problems.jsonl",
        [
            {
                "id": f"p{i}",
                "question": f"question {i}",
                "answer": "4",
                **{name: values[i] for name, values in more.items()},
            }
            for i in range(n)
        ],
    )


def write_tries(tmp_path, rights, n=8, name="tries.jsonl"):
    """Completions of which rights[i] of n are right for problem i."""
    return write(
        tmp_path / name,
        [
            {"id": f"p{i}", "answer": "4", "response": "4" if j < right else "5"}
            for i, right in enumerate(rights)
            for j in range(n)
        ],
    )


# a trace caught in a loop
LOOP = "okay so . then " + "7 + 9 = 16 - 4 = 12 hmm . then " * 4


def small_pool():
    rows = pool_of({"a": 12, "b": 6})
    return rows + [
        dict(rows[0]),  # a copy
        trace(800, "make 20 from 7 5 8"),  # held out
        trace(801, thinking="so 2 + 2 = 5 ."),
        trace(802, thinking=LOOP),  # quality
        trace(803, response="5"),  # wrong
        trace(804),
        trace(805),  # solved by the student
        trace(806, rows[0]["question"], thinking="a later trace of a question that is there"),
    ]


def config(tmp_path, **settings):
    data = write(tmp_path / "pool.jsonl", small_pool())
    return curate.Config(data=data, out=str(tmp_path / "out.jsonl"), **settings)
