"""Copies of a benchmark planted into a pool, and which of them a filter found.

    python recipes/studies/plant.py plant --out FOLDER --seed 0    benchmark.jsonl, pool.jsonl
    python recipes/studies/plant.py found FOLDER/pool.jsonl KEPT.jsonl --out ROWS.jsonl

The pool has a copy of every question of the benchmark in four ways, by `group`: verbatim,
renumbered (other numbers), embedded (in a longer text), reworded (other words around the same
middle); cjk are verbatim copies of Chinese, Japanese and Korean questions with another punctuation;
clean are other questions. Rows found have `found`: 100 if the filter took the row out.
"""

import argparse
import random

from engine.rows import read_rows, write_rows

NAMES = "Ana Ben Chen Dora Emil Fatma Goran Hana Ivan Jana Kofi Lena Mira Nils Olga Pavel".split()
THINGS = "apples books coins stamps tickets marbles pencils shells cards buttons".split()
PLACES = "market library station garden school harbour museum village".split()
# With other numbers no eight words in a row stay the same.
FORMS = [
    "{a} has {x} {thing} and gives {y} to {b}, who has {z} already; how many now?",
    "A box holds {x} rows of {y} {thing} and {a} takes {z}; how many are left?",
    "{a} sells {x} {thing} before and {y} after noon, {b} sells {z}; how many more?",
]
OTHER_FORMS = [
    "The train from the {place} leaves at {x} minutes past noon and {a} waits {y} minutes for {b}; "
    "when do they meet if the walk takes {z} minutes?",
    "{a} paints a wall of {x} by {y} metres near the {place}, and {b} paints {z} square metres; "
    "what area is left to paint?",
]
CJK_FORMS = [
    "{a}带了{x}个苹果去市场，给了{b}其中的{y}个，{b}原来已经有{z}个，请问{b}最后一共有多少个苹果？",
    "{a}は市場に{x}個のりんごを持って行き、{b}に{y}個あげました。{b}は初めに{z}個持っていました。全部でいくつですか？",
    "{a}는 시장에 사과 {x}개를 가져가서 {b}에게 {y}개를 주었다. {b}는 처음에 {z}개를 가지고 있었다. 모두 몇 개인가?",
]


def question(forms, rng):
    """(form, the values that are filled in)."""
    a, b = rng.sample(NAMES, 2)
    values = {"a": a, "b": b, "thing": rng.choice(THINGS), "place": rng.choice(PLACES)}
    return rng.choice(forms), values | {k: rng.randint(11, 99) for k in "xyz"}


def copies(form, values, rng):
    """{group: the question changed in this way}."""
    text = form.format(**values)
    middle = text.split()[2:-3]
    return {
        "verbatim": text.upper() + " ",
        "renumbered": form.format(**values | {k: rng.randint(11, 99) for k in "xyz"}),
        "embedded": f"Think carefully. {text} Give the number alone, and explain each step.",
        "reworded": " ".join(["Suppose", "that", *middle, "in", "the", "end?"]),
    }


def plant(out, seed, n=100):
    """Write benchmark.jsonl (2n questions) and pool.jsonl (4n copies, n of cjk, 4n clean)."""
    rng = random.Random(seed)
    benchmark, pool = [], []
    for number in range(n):
        form, values = question(FORMS, rng)
        benchmark.append(form.format(**values))
        pool += [(f"{number}", group, text) for group, text in copies(form, values, rng).items()]
        form, values = question(CJK_FORMS, rng)
        benchmark.append(form.format(**values))
        pool.append((f"{number}", "cjk", form.format(**values).replace("，", ", ") + "!"))
    for number in range(4 * n):
        form, values = question(OTHER_FORMS, rng)
        pool.append((f"{number}", "clean", form.format(**values)))
    write_rows(
        f"{out}/benchmark.jsonl",
        [{"id": str(i), "question": text, "answer": "1"} for i, text in enumerate(benchmark)],
    )
    write_rows(
        f"{out}/pool.jsonl",
        [
            {"id": f"{group}-{number}", "group": group, "question": text, "answer": "1"}
            for number, group, text in pool
        ],
    )


def found(pool, kept, out):
    """Write the rows of the pool with `found`."""
    left = {row["id"] for row in read_rows(kept, need=("id",))}
    rows = read_rows(pool, need=("id", "group"))
    write_rows(out, [row | {"found": 100 * (row["id"] not in left)} for row in rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("plant", "found"))
    parser.add_argument("files", nargs="*")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.what == "plant":
        plant(args.out, args.seed)
    else:
        found(*args.files, args.out)
