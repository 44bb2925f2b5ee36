"""How fast is the grader, and does any string make it hang, crash or run code?

    python tests/bench_grader.py                  # gradings per second on one core; reads optional data
    python tests/bench_grader.py --fuzz 100000    # hostile strings: 5 minutes on a shared core

Ends with status 1 if a string raises, takes over two seconds, leaves a file behind, or is taken for
the answer 7.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import OPTIONAL_DATA  # noqa: E402

from engine.rows import read_rows  # noqa: E402
from grading import symbolic  # noqa: E402
from grading.answers import (  # noqa: E402
    LONGEST_ANSWER,
    answer_of,
    canonical,
    extract_answer,
    grade,
    is_correct,
    overlap,
    read,
)
from grading.formulas import check_expression  # noqa: E402

PIECES = r"""
    \frac { } ( ) [ ] \{ \} ^ _ ' \sqrt 1 9 0 7 . , ; - + * / x e i n \pi \text{ % ! = \pm \boxed{
    \\ & \cup $ < > \le \ge | \binom{ \lfloor \rfloor \log_ \sum_{k=1}^ \ln \sin ^{9^{9^{ !!! é √ ∞
    ¬ and or ** // \begin{pmatrix} \end{pmatrix} \infty \lambda A: Answer: #### <answer> </answer>
    am p.m. 10^{99} 1e999 \x00 \ud800 null [] {} __import__('os').system('touch\x20run')
    open('run','w') exec( lambda: eval(
""".split()


def hostile(n, seed=0):
    """n strings of up to 40 pieces that mean something to the grader, some spaced or on lines."""
    rng = random.Random(seed)
    for _ in range(n):
        space = rng.choice(("", "", " ", "\n"))
        yield space.join(rng.choices(PIECES, k=rng.randint(1, 40)))


def attack(text):
    """Ask all that curation, reward and evaluation ask about a text -> seconds of the slowest.

    Raises AssertionError if an answer has the wrong type.
    """
    times = []

    def ask(question, *arguments):
        begin = time.perf_counter()
        found = question(*arguments)
        times.append(time.perf_counter() - begin)
        return found

    extracted = ask(extract_answer, text)
    assert extracted is None or isinstance(extracted, str)
    same = ask(is_correct, text, text)
    too_long = len(text) > LONGEST_ANSWER
    assert same or not text.strip() or too_long, "a text is not equal to itself"
    conversation = ask(answer_of, {"references": [text], "response": text})
    yes_or_no = ask(answer_of, {"choices": ["no", "yes"], "response": text})
    verdicts = [
        same,
        ask(is_correct, text, "7"),
        ask(is_correct, "7", text),
        ask(grade, {"answer": text}, extracted),
        ask(check_expression, text, [9, 9, 9], 24),
        ask(grade, {"references": [text, "x"]}, conversation),
        ask(grade, {"answer": "yes", "choices": ["no", "yes"]}, yes_or_no),
    ]
    assert all(verdict in (True, False, None) for verdict in verdicts)
    for row in ({}, {"nums": [9]}):
        hash(ask(canonical, row, text))
    assert all(0 <= share <= 1 for share in ask(overlap, text, [text, "x", "9"]))
    return max(times)


def measure_speed():
    """Print gradings per second of processor time, half of them right, each with an empty cache."""
    rng = random.Random(0)
    for name, files in (
        ("whole numbers", ["gsm8k_test", "aime_1983_2015"]),
        ("MATH", ["math500", "math_with_solutions_2k"]),
    ):
        golds = [
            row["answer"]
            for file in files
            for row in read_rows(OPTIONAL_DATA / f"math/{file}.jsonl")
        ]
        pairs = [(gold if rng.random() < 0.5 else rng.choice(golds), gold) for gold in golds]
        for said, gold in pairs:  # starts the process of the symbolic comparisons
            grade({"answer": gold}, said)
        start, n_right = time.process_time(), 0
        for said, gold in pairs:
            read.cache_clear()
            n_right += grade({"answer": gold}, said)
        per_second = len(pairs) / (time.process_time() - start)
        print(f"{name}: {per_second:,.0f} gradings/s, {n_right} of {len(pairs)} right")


def fuzz(n, seed):
    """Attack with n hostile strings; True if something went wrong."""
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    slowest, slowest_text, n_raised = 0.0, "", 0
    is_correct("\\binom{5}{2}", "10")  # starts the process of the symbolic comparisons
    start = time.perf_counter()
    for number, text in enumerate(hostile(n, seed), 1):
        try:
            seconds = attack(text)
            if seconds > slowest:
                slowest, slowest_text = seconds, text
        except Exception as error:
            n_raised += 1
            print(f"{type(error).__name__}: {error}: {text!r}")
        if number % 10_000 == 0:
            print(f"{number} strings, {time.perf_counter() - start:.0f} s", flush=True)
    made = [path.name for path in folder.iterdir()]
    print(
        f"{n} strings, {n_raised} raised, slowest answer {slowest:.2f} s: {slowest_text[:80]!r}, "
        f"files made: {made}, symbolic comparisons without a result: {dict(symbolic.FAILURES)}"
    )
    return bool(n_raised or made or slowest > 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fuzz", type=int, default=0, help="hostile strings instead of speed")
    parser.add_argument("--seed", type=int, default=0, help="of the strings")
    options = parser.parse_args()
    if not options.fuzz and not OPTIONAL_DATA.is_dir():
        sys.exit("REASONING_DATA must name the folder of optional data")
    sys.exit(fuzz(options.fuzz, options.seed) if options.fuzz else measure_speed())
