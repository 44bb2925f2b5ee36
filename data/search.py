"""Stream of Search (arXiv 2404.03683): searches for Countdown's solutions, written as language.

Any two numbers are combined until one is left. Twelve symbolic strategies search: depth-first and
breadth-first with a beam of 1 to 5, each with one of two heuristics. A search becomes a flat text:

    question  make 24 from 4 9 3
    thinking  try 9 + 3 = 12 then 4 12 try 4 + 12 = 16 low try 4 * 12 = 48 high wait , 4 9 3 try 9 -
              3 = 6 then 4 6 try 4 * 6 = 24 yes
    answer    4 * ( 9 - 3 )

`try` explores an operation on the current numbers, `then` moves on to what came of one, `wait ,`
goes back to numbers of before. The verdict behind a last number is the goal test. An optimal path
is the same without what failed: the baseline of the paper.

Departs from the paper in: three numbers up to 9 and results up to 50, no division, which the tiny
world has no word for; an answer, which its texts do not have.

    python -m data.search --out out/search
    python -m data.search --do examine --data run.jsonl --out examined.jsonl

The first writes streams.jsonl, optimal.jsonl (as many problems, the same ones), train.jsonl,
dev.jsonl and held_out.jsonl; those two have new numbers (group `numbers`) and targets that no
training problem has (group `targets`). The second adds to the rows of a run the kind of their first
error and how much of what they visited each strategy visits, too.
"""

import functools
import itertools
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from data.tiny import compared, split_of
from engine import settings
from engine.rows import BadInput, read_rows, write_rows

LARGEST = 50  # of the tiny world's numbers
MAX_NODES = 48  # of a search over three numbers, in the paper's rating
STRATEGIES = {
    f"{kind}-{heuristic}": (beam, heuristic)
    for heuristic in ("sum", "mult")
    for kind, beam in [("dfs", 0)] + [(f"bfs{beam}", beam) for beam in range(1, 6)]
}
ERRORS = ("arithmetic", "exploration", "format")


@dataclass(frozen=True)
class Config:
    out: str  # directory to write into; for examine the file of rows
    do: Literal["make", "examine"] = "make"  # write data, or look at a run
    data: str = ""  # completion rows to examine
    seed: int = 0  # of the training problems and strategies; dev and held_out never change
    n_train: int = 4000  # problems, and a stream of each
    n_held_out: int = 150  # problems of each group that measures
    limit: int = MAX_NODES  # operations that a search explores before it gives up
    longest: int = 220  # words of a stream; longer ones are left out


# ---------------------------------------------------------------- countdown


class Node(NamedTuple):
    """Numbers that are left, how each was made, and the operation that led here."""

    nums: tuple
    made: tuple = ()  # of each number an expression
    operation: tuple = ()  # (a, sign, b, result)


def moves(a, b, signs="+*-/"):
    """The results of combining two numbers -> [(a, sign, b, result)], the larger one first."""
    large, small = max(a, b), min(a, b)
    found = [(a, "+", b, a + b), (a, "*", b, a * b), (large, "-", small, large - small)]
    if small > 0 and large % small == 0:
        found.append((large, "/", small, large // small))
    return [move for move in found if move[1] in signs]


def children(node, signs="+*-", largest=LARGEST):
    """All nodes that one operation leads to, in the order of the paper's code."""
    found = []
    for i, j in itertools.combinations(range(len(node.nums)), 2):
        for move in moves(node.nums[i], node.nums[j], signs):
            if largest is not None and move[3] > largest:
                continue
            order = (i, j) if move[0] == node.nums[i] else (j, i)
            left, right = (bracketed(node.made[k]) for k in order)
            rest = [k for k in range(len(node.nums)) if k not in (i, j)]
            nums = (*(node.nums[k] for k in rest), move[3])
            made = (*(node.made[k] for k in rest), f"{left} {move[1]} {right}")
            found.append(Node(nums, made, move))
    return found


def bracketed(expression):
    return f"( {expression} )" if " " in expression else expression


def root_of(nums):
    return Node(tuple(nums), tuple(map(str, nums)))


def distance_sum(nums, target):
    """Mean distance of the numbers to the target."""
    return sum(abs(n - target) for n in nums) / len(nums)


def distance_mult(nums, target):
    """Sum of the distances to the nearest factor of the target, 2 ... target."""
    if len(nums) == 1:
        return abs(nums[0] - target)
    factors = [f for f in range(2, target + 1) if target % f == 0]
    return sum(min(abs(n - f) for f in factors) for n in nums)


HEURISTICS = {"sum": distance_sum, "mult": distance_mult}


# ---------------------------------------------------------------- the strategies


@dataclass
class Stream:
    """A search as it is written down."""

    target: int
    limit: int
    words: list
    explored: list  # sorted numbers that each operation led to
    solution: str | None = None

    @property
    def is_over(self):
        return self.solution is not None or len(self.explored) >= self.limit

    def move(self, node, word):
        self.words.append(f"{word} {' '.join(map(str, node.nums))}")

    def explore(self, child):
        """Write one operation, with the goal test if a single number is left."""
        a, sign, b, result = child.operation
        text = f"try {a} {sign} {b} = {result}"
        if len(child.nums) == 1:
            text += f" {compared(result, self.target)}"
            if result == self.target:
                self.solution = child.made[0]
        self.words.append(text)
        self.explored.append(tuple(sorted(child.nums)))

    @property
    def text(self):
        return " ".join(self.words)


def search(nums, target, strategy, limit=MAX_NODES, rng=None, **rules):
    """Run one of STRATEGIES -> Stream. rng: shuffles what a breadth-first search writes."""
    beam, heuristic = STRATEGIES[strategy]
    stream = Stream(target, limit, [], [])
    if beam:
        search_breadth_first(root_of(nums), stream, HEURISTICS[heuristic], beam, rng, rules)
    else:
        search_depth_first(root_of(nums), stream, HEURISTICS[heuristic], rules)
    return stream


def search_depth_first(node, stream, heuristic, rules):
    """The nearest child first; children farther than the target are dropped."""
    valued = [(heuristic(c.nums, stream.target), c) for c in children(node, **rules)]
    kept = sorted((v for v in valued if v[0] <= stream.target), key=lambda v: v[0])
    for place, (_, child) in enumerate(kept):
        if stream.is_over:
            return
        if place and len(node.nums) > 2:  # what was below the child before is left
            stream.move(node, "wait ,")
        stream.explore(child)
        if len(child.nums) > 1:
            stream.move(child, "then")
            search_depth_first(child, stream, heuristic, rules)


def search_breadth_first(root, stream, heuristic, beam, rng, rules):
    """Level by level; of each node's children the `beam` nearest are kept."""
    level = [root]
    while level and not stream.is_over:
        following = []
        for node in level:
            if stream.is_over:
                return
            if node is not root:
                stream.move(node, "then")
            nearest = sorted(
                children(node, **rules), key=lambda c: heuristic(c.nums, stream.target)
            )
            kept = nearest[:beam]
            if rng:
                rng.shuffle(kept)
            for child in kept:
                if not stream.is_over:
                    stream.explore(child)
            following += [child for child in kept if len(child.nums) > 1]
        level = sorted(following, key=lambda c: heuristic(c.nums, stream.target))


def solve(node, target, path=()):
    """A shortest path, which is any solution: the nodes to it, or None."""
    if len(node.nums) == 1:
        return path if node.nums[0] == target else None
    for child in children(node):
        if found := solve(child, target, (*path, child)):
            return found
    return None


def optimal_stream(nums, target):
    stream = Stream(target, MAX_NODES, [], [])
    for child in solve(root_of(nums), target):
        stream.explore(child)
        if len(child.nums) > 1:
            stream.move(child, "then")
    return stream


def rating(n_explored, is_solved, max_nodes=MAX_NODES):
    """The paper's: 0 for no solution, else 1 less the share of all nodes that was explored."""
    return max(0.0, 1 - (n_explored + 1) / max_nodes) if is_solved else 0.0


# ---------------------------------------------------------------- what a model wrote


def examine(text, nums, target):
    """A stream as a model wrote it -> (explored: sorted numbers, kind of the first error or None).

    arithmetic: a wrong result or goal test; exploration: numbers that are not there; format: words
    that are no step.
    """
    now, known = Counter(nums), {tuple(sorted(nums))}
    explored, words = [], text.split()
    place = 0
    while place < len(words):
        step, numbers, place = read_step(words, place)
        if step == "try" and len(numbers) == 4:
            a, sign, b, result = numbers
            if Counter((a, b)) - now:
                return explored, "exploration"
            if {"+": a + b, "-": a - b, "*": a * b}[sign] != result:
                return explored, "arithmetic"
            left = tuple(sorted((now - Counter((a, b)) + Counter((result,))).elements()))
            known.add(left)
            explored.append(left)
            verdict = words[place] if place < len(words) else ""
            if len(left) == 1 and verdict != compared(result, target):
                return explored, "arithmetic" if verdict in ("low", "high", "yes") else "format"
            place += len(left) == 1
        elif step == "move" and numbers:
            if tuple(sorted(numbers)) not in known:
                return explored, "exploration"
            now = Counter(numbers)
        else:
            return explored, "format"
    return explored, None


def read_step(words, place):
    """(kind of the step, its numbers and sign, the place behind it); kind None for no step."""
    word, rest = words[place], words[place + 1 :]
    if word == "try" and len(rest) >= 5 and rest[1] in "+-*" and rest[3] == "=":
        a, b, result = rest[0], rest[2], rest[4]
        if a.isdecimal() and b.isdecimal() and result.isdecimal():
            return "try", (int(a), rest[1], int(b), int(result)), place + 6
    is_back = word == "wait" and rest[:1] == [","]
    if word == "then" or is_back:
        numbers = list(itertools.takewhile(str.isdecimal, rest[is_back:]))
        return "move", tuple(map(int, numbers)), place + 1 + is_back + len(numbers)
    return None, (), place + 1


def alignment(explored, others):
    """Shared visited numbers over the larger number of visited ones; 1 for two empty searches."""
    one, other = set(explored), set(others)
    return len(one & other) / max(len(one), len(other)) if one or other else 1.0


def examined(row):
    """A completion row with `explored`, its first error as 0/1 fields, and its alignments."""
    explored, error = examine(row["thinking"], row["nums"], row["target"])
    found = {"explored": len(explored), "error": error}
    found |= {f"error_{kind}": int(error == kind) for kind in ERRORS}
    for name in STRATEGIES:
        others = search(row["nums"], row["target"], name).explored
        found["align_" + name.replace("-", "_")] = alignment(explored, others)
    return row | found


# ---------------------------------------------------------------- data


@functools.cache
def reachable(nums):
    """{target: an expression} of what three sorted numbers can make, targets from 10 on."""
    found, level = {}, [root_of(nums)]
    while level:
        level = [child for node in level for child in children(node)]
        for node in level:
            if len(node.nums) == 1 and node.nums[0] >= 10:  # as in the paper
                found.setdefault(node.nums[0], node.made[0])
    return found


def is_held_out(target):
    """One target in ten is in no training problem."""
    return target % 10 == 7


def problems(n, split, is_new, seed):
    """n different problems of a split, with held-out targets or others; fewer if that is all."""
    rng, found = random.Random(seed), {}
    for _ in range(50 * n):
        nums = [rng.randint(1, 9) for _ in range(3)]
        ordered = tuple(sorted(nums))
        targets = [
            target
            for target in reachable(ordered)
            if is_held_out(target) == is_new and split_of(f"{list(ordered)} {target}") == split
        ]
        if not targets:
            continue
        target = rng.choice(targets)
        name = f"{'-'.join(map(str, nums))}-{target}"
        found[name] = {
            "id": name,
            "question": f"make {target} from {' '.join(map(str, nums))}",
            "answer": reachable(ordered)[target],
            "nums": nums,
            "target": target,
        }
        if len(found) == n:
            break
    return list(found.values())


def trace_of(row, stream):
    return row | {"thinking": stream.text, "response": stream.solution or "unsure"}


def streams_of(rows, cfg):
    """[(problem, Stream)], each by a strategy that is drawn for it; long ones left out."""
    rng, found = random.Random(f"{cfg.seed} strategies"), []
    for row in rows:
        # depth- or breadth-first, each half of the time, as in the paper
        heuristic = rng.choice(tuple(HEURISTICS))
        kind = rng.choice(("dfs", f"bfs{rng.randint(1, 5)}"))
        stream = search(row["nums"], row["target"], f"{kind}-{heuristic}", cfg.limit, rng)
        if len(stream.text.split()) <= cfg.longest:
            found.append((row | {"strategy": f"{kind}-{heuristic}"}, stream))
    return found


def make(cfg):
    """Write streams, optimal paths and problems. Raises BadInput where no search finds anything."""
    train = problems(cfg.n_train, "train", False, f"{cfg.seed} train")
    found = streams_of(train, cfg)
    n_solved = sum(stream.solution is not None for _, stream in found)
    if not n_solved:
        raise BadInput(f"--limit {cfg.limit}, --longest {cfg.longest}: no search finds a solution")
    out = Path(cfg.out)
    write_rows(out / "streams.jsonl", [trace_of(row, stream) for row, stream in found])
    best = [trace_of(row, optimal_stream(row["nums"], row["target"])) for row, _ in found]
    write_rows(out / "optimal.jsonl", best)
    write_rows(out / "train.jsonl", train)
    for split in ("dev", "held_out"):
        rows = []
        for group, is_new in (("numbers", False), ("targets", True)):
            drawn = problems(cfg.n_held_out, split, is_new, f"{split} {group}")
            rows += [row | {"group": group} for row in drawn]
        write_rows(out / f"{split}.jsonl", rows)
    words = sum(len(stream.text.split()) for _, stream in found) / len(found)
    print(
        f"{len(found)} streams of {cfg.n_train} problems, {n_solved / len(found):.0%} solved, "
        f"{words:.0f} words each"
    )


def main(cfg):
    """Write the data, or the examined rows of a run."""
    if cfg.do == "make":
        settings.check_positive(cfg, "n_train", "n_held_out", "limit", "longest")
        return make(cfg)
    if not cfg.data:
        raise BadInput("--do examine: needs --data, the rows of a run")
    rows = read_rows(cfg.data, need=("id", "thinking", "nums", "target"))
    rows = [examined(row) for row in rows]
    write_rows(cfg.out, rows)
    errors = Counter(row["error"] for row in rows)
    said = ", ".join(f"{kind} {errors[kind] / len(rows):.0%}" for kind in (None, *ERRORS))
    print(f"{cfg.data}: first errors: {said.replace('None', 'none')}")
    for name in STRATEGIES:
        field = "align_" + name.replace("-", "_")
        print(f"  alignment with {name:<10}{sum(row[field] for row in rows) / len(rows):.3f}")
    return rows


if __name__ == "__main__":
    settings.cli(main, Config)
