"""How fast is the grader, and does any string make it hang, crash or run code?

    python tests/bench_grader.py                      # gradings per second on one core; needs the shared data
    python tests/bench_grader.py --fuzz 100000        # hostile strings: 5 minutes on a shared core

Ends with status 1 if a string raises, takes over two seconds, leaves a file behind, or is taken for the answer 7.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.rows import read_rows  # noqa: E402
from grading import symbolic  # noqa: E402
from grading.answers import (  # noqa: E402
    LONGEST_ANSWER,
    answer_of,
    canonical,
    check_expression,
    extract_answer,
    grade,
    is_correct,
    overlap,
    parse,
)

SHARED = Path(__file__).parents[2] / "shared" / "data" / "math"
PIECES = r"""\frac { } ( ) [ ] \{ \} ^ _ ' \sqrt 1 9 0 7 . , ; - + * / x e i n \pi \text{ % ! = \pm \boxed{ \\ & \cup $ <
             > \le \ge | \binom{ \lfloor \rfloor \log_ \sum_{k=1}^ \ln \sin ^{9^{9^{ !!! é √ ∞ ¬ and or ** // \begin{pmatrix}
             \end{pmatrix} \infty \lambda A: Answer: #### <answer> </answer> am p.m. 10^{99} 1e999 \x00 \ud800 null [] {}
             __import__('os').system('touch\x20run') open('run','w') exec( lambda: eval(""".split()


def hostile(n, seed=0):
    """n strings of up to 40 pieces that mean something to the grader, some with spaces or newlines between them."""
    rng = random.Random(seed)
    for _ in range(n):
        space = rng.choice(("", "", " ", "\n"))
        yield space.join(rng.choices(PIECES, k=rng.randint(1, 40)))


def attack(text):
    """Everything that curation, reward and evaluation ask about a text -> seconds of the slowest question.

    Raises if an answer has the wrong type."""
    times, extracted = [time.perf_counter()], extract_answer(text)
    verdicts = []
    for question in (
        lambda: is_correct(text, "7"),
        lambda: is_correct("7", text),
        lambda: is_correct(text, text),
        lambda: grade({"answer": text}, extracted),
        lambda: check_expression(text, [9, 9, 9], 24),
        lambda: grade(
            {"references": [text, "x"]}, answer_of({"references": [text], "response": text})
        ),
        lambda: grade(
            {"answer": "yes", "choices": ["no", "yes"]},
            answer_of({"choices": ["no", "yes"], "response": text}),
        ),
    ):
        verdicts.append(question())
        times.append(time.perf_counter())
    hash(canonical({}, text)), hash(canonical({"nums": [9]}, text))
    assert all(0 <= share <= 1 for share in overlap(text, [text, "x", "9"]))
    assert all(verdict in (True, False, None) for verdict in verdicts)
    assert extracted is None or isinstance(extracted, str)
    assert verdicts[2] or not text.strip() or len(text) > LONGEST_ANSWER, (
        "a text is not equal to itself"
    )
    return max(later - earlier for earlier, later in zip(times, times[1:]))


def speed():
    """Gradings per second of processor time, half of them right, nothing remembered from one to the next."""
    rng = random.Random(0)
    for name, files in (
        ("whole numbers", ["gsm8k_test", "aime_1983_2015"]),
        ("MATH", ["math500", "math_with_solutions_2k"]),
    ):
        golds = [row["answer"] for file in files for row in read_rows(SHARED / f"{file}.jsonl")]
        pairs = [(gold if rng.random() < 0.5 else rng.choice(golds), gold) for gold in golds]
        for said, gold in pairs:  # the symbolic worker is there
            grade({"answer": gold}, said)
        start, right = time.process_time(), 0
        for said, gold in pairs:
            parse.cache_clear()
            right += grade({"answer": gold}, said)
        print(
            f"{name}: {len(pairs) / (time.process_time() - start):,.0f} gradings/s, {right} of {len(pairs)} right"
        )


def fuzz(n, seed):
    here, slowest, wrong = Path(tempfile.mkdtemp()), (0.0, ""), 0
    os.chdir(here)
    start = time.perf_counter()
    for number, text in enumerate(hostile(n, seed), 1):
        try:
            slowest = max(slowest, (attack(text), text))
        except Exception as error:
            wrong += 1
            print(f"{type(error).__name__}: {error}: {text!r}")
        if number % 10_000 == 0:
            print(f"{number} strings, {time.perf_counter() - start:.0f} s", flush=True)
    print(
        f"{n} strings, {wrong} raised, slowest answer {slowest[0]:.2f} s: {slowest[1][:80]!r}, files made: "
        f"{[path.name for path in here.iterdir()]}, symbolic comparisons without a result: {dict(symbolic.FAILURES)}"
    )
    return wrong or any(here.iterdir()) or slowest[0] > 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fuzz", type=int, default=0, help="hostile strings instead of speed")
    parser.add_argument("--seed", type=int, default=0, help="of the strings")
    options = parser.parse_args()
    sys.exit(fuzz(options.fuzz, options.seed) if options.fuzz else speed())
