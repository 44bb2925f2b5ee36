"""Which rows are worth training on? Trace rows in, the chosen trace rows out; no torch anywhere.

s1 (arXiv 2501.19393, §2.2 and Algorithm 1) filters by quality, then by difficulty, then samples for diversity:
    difficulty   a question that any attempt of a student model solves is dropped
    step A       right traces are taken outright from GPQA and AIME, and from MATH when longer than 5600 tokens
    step B       until there are k:  domain ~ uniform,  row in it ~ 2^-rank / sum 2^-rank,  rank 0 = longest trace
LIMO (arXiv 2502.03387 v3, §3.1) scores each trace and takes the k best, one per problem:
    score = .30 length + .20 verifying + .25 exploring + .25 connecting     each term / its maximum in the pool
    verifying, exploring, connecting = words of that kind / words of the trace
Controls: random, diverse, longest, full (s1, §5.1) and limo-low, the lowest LIMO scores.
--method full --keep-correct is rejection sampling, the teacher data of UniReason (arXiv 2507.00432, §2.2).

Departs from the papers in:
1. Right and wrong are decided by evaluate.py's rules; s1 asked Claude. A row's own `correct` counts where the rules
   cannot judge its gold answer. Domains are read from the row (domain, subject or task), not asked from a model.
2. Trace length is the row's n_thinking_tokens, and without one its number of words.
3. A question shorter than --ngram words, invisible to the n-gram test, is dropped when it equals a held-out one.
4. s1's quality rule reads the question only. Here the trace is read too: a part missing, no answer, unfinished, a
   delimiter inside the text, an arithmetic slip left standing, a passage repeated over and over.
5. s1 removes repeated questions at the start. Here the pool may hold several traces of a question; of those that
   survive the filters s1 and its controls keep the first, LIMO the best, full all.
6. LIMO published neither how its terms are brought to one scale nor all of its words: --words, --length-cap.

A laptop, a second (after recipes/tiny.sh; keeps 400 of 4000, 63% of them right against 41%):
    python curate.py --data out/tiny/seed0/data/pool.jsonl --against out/tiny/seed0/data/held_out.jsonl
                     --attempts out/tiny/seed0/attempts.jsonl --k 400 --out out/s1.jsonl
LIMO: python curate.py --data pool.jsonl --out limo.jsonl --method limo --k 800 --keep-correct     minutes for 1M rows

Reads the trace rows of --data, the completions of --attempts, the questions of --against. Writes the chosen rows to OUT
with correct, n_thinking_tokens, domain (and LIMO's score) filled in; settings and funnel to OUT.config.json.
"""
import hashlib
import random
import re
import string
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import evaluate
from data import run
from data.format import FORMATS
from data.rows import BadInput, read_rows, write_rows


@dataclass(frozen=True)
class Config:
    data: str                     # pool of trace rows: a .jsonl file or a directory of them
    out: str                      # where the chosen rows go (.jsonl)
    method: Literal["s1", "limo", "limo-low", "random", "diverse", "longest", "full"] = "s1"  # how to choose
    k: int = 1000                 # rows to keep: 1000 in s1, 800 in LIMO; `full` keeps all
    seed: int = 0                 # of the random draws (s1, random, diverse)

    against: tuple[str, ...] = ()  # files of held-out questions that must not be trained on
    ngram: int = 8                # words in a row shared with a held-out question that drop a row (s1: 8)
    quality: bool | None = None   # run the quality filter; if unset as in the papers: not for limo, limo-low, full
    repetition: float = 0.3       # largest share of repeated 8-grams; 99% of finished R1-like traces stay below 0.2
    keep_correct: bool = False    # only traces whose own answer is right (UniReason, STaR, LIMO)
    attempts: tuple[str, ...] = ()  # completions of student models on the pool's questions, for the difficulty filter
    difficulty: Literal["s1", "limo"] = "s1"  # s1: no attempt right; limo: in file 1 none, in file 2 one to three

    variant: Literal["paper", "notebook"] = "paper"  # s1: the released notebook draws the last 30% of k by benchmark
    words: Literal["strict", "extended"] = "strict"  # LIMO's words: the two that the paper names, or our longer lists
    length_cap: int | None = None  # tokens from which LIMO's length term is 1; the pool's longest trace if unset
    best_per_problem: bool = True  # limo: one trace per problem (limo-low: its worst)


BENCHMARKS = {name: re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])") for name, pattern in
              (("GPQA", "(?i:gpqa)"), ("AIME", "(?i:aime)"), ("MATH", "MATH|(?i:openaimath)"))}
DELIMITERS = sorted({text.strip() for f in FORMATS.values() for text in (f.open, f.end) if text})
PUNCTUATION = string.punctuation + "…“”‘’–—"
VERIFY = {"strict": ("check", "verify"),
          "extended": ("check", "verify", "validate", "confirm", "double-check", "recheck")}
EXPLORE = {"strict": ("perhaps", "might"),
           "extended": ("perhaps", "might", "maybe", "alternatively", "wait", "consider", "suppose", "possibly",
                        "let me try")}
CONNECT = {"strict": ("therefore", "since"),
           "extended": ("therefore", "since", "thus", "hence", "because", "so", "then", "consequently", "however")}


# ---- What a row is ----------------------------------------------------------------------------------------------

def domain_of(row):
    return str(row.get("domain") or row.get("subject") or row.get("task") or "unknown")


def n_tokens(row):
    """Length of the trace in tokens; in words when nobody counted tokens."""
    n = row.get("n_thinking_tokens")
    return len(row["thinking"].split()) if n is None else n


def question_id(question):
    """Name of a question in s1: 16 hex digits of its SHA-256."""
    return hashlib.sha256(question.encode("utf-8")).hexdigest()[:16]


def benchmark_of(row):
    """"GPQA", "AIME", "MATH" or None, from the source. NuminaMath, which copies from all of them, is none of them."""
    source = str(row.get("source") or "")
    if "numina" in source.lower():
        return None
    return next((name for name, pattern in BENCHMARKS.items() if re.search(pattern, source)), None)


# ---- Filters: rows -> (rows left, Counter of the reasons for dropping the others) ---------------------------------

def sift(rows, problem):
    """Keep the rows for which problem(row) is None; anything else is the reason to drop the row."""
    kept, reasons = [], Counter()
    for row in rows:
        reason = problem(row)
        if reason is None:
            kept.append(row)
        else:
            reasons[reason] += 1
    return kept, reasons


def first_of_each(rows, key, reason):
    """Keep the first row of each key(row)."""
    first = {}
    for row in rows:
        first.setdefault(key(row), row)
    return list(first.values()), Counter({reason: len(rows) - len(first)} if len(rows) > len(first) else {})


def normalised(text):
    """Lower case, one space between words; punctuation stays attached (s1's decontamination)."""
    return " ".join(text.lower().split())


def ngrams(text, n):
    """Set of the n-word tuples of a text; empty when it has fewer than n words."""
    words = text.lower().split()
    return set(zip(*(words[i:] for i in range(n))))


def is_contaminated(question, grams, texts, n):
    """Why a question may not be trained on, or None. One n-gram in common is enough (s1, §C.5).

    grams, texts: the n-grams and the normalised texts of the held-out questions.
    """
    if normalised(question) in texts:
        return "same question"
    return None if grams.isdisjoint(ngrams(question, n)) else f"shared {n}-gram"


def decontaminate(rows, questions, n=8):
    grams, texts = {gram for q in questions for gram in ngrams(q, n)}, {normalised(q) for q in questions}
    return sift(rows, lambda row: is_contaminated(row["question"], grams, texts, n))


def quality_ok(row):
    """s1's string rule on the question (filter.ipynb): no figure, no sub-question `p3.`, no numbered bold text."""
    question = row["question"]
    if "[asy]" in question:                                                # an AIME figure excuses everything else
        return "AIME" in str(row.get("source") or "")
    return ("![Image]" not in question
            and not re.search(r"p[1-9][0-9]{0,2}\.", question)             # anywhere: `step3.` counts as well
            and not re.search(r"\*\*(?=.*\d)[^\s\]]*\*\*", question))


def quality_problem(row, max_repetition=0.3):
    """Why a row is not worth training on, however hard its question; or None."""
    thinking, response = row["thinking"], row["response"]
    if not quality_ok(row):
        return "question string"
    if not thinking.strip():
        return "no thinking"
    if row.get("finish") == "length":
        return "unfinished"
    if not response.strip() or evaluate.answer_of(row) is None and evaluate.grade(row, None) is not None:
        return "no answer"                                                 # a proof, which has no gold, needs none
    if any(delimiter in thinking or delimiter in response for delimiter in DELIMITERS):
        return "delimiter in text"
    if standing_slips(thinking):
        return "false equation"
    # Who checks, repeats: four checks of one solution reach a share of 0.8, a trace caught in a loop exceeds 0.85.
    share = repetition(thinking)
    if share <= max_repetition or share <= 0.8 and not set(words_of(thinking)).isdisjoint(VERIFY["extended"]):
        return None
    return "repetition"


def repetition(text, n=8):
    """Share of a text's n-grams that occurred before in it: 0 for most prose, close to 1 for a loop."""
    words = text.split()
    total = len(words) - n + 1
    return 1 - len(set(zip(*(words[i:] for i in range(n))))) / total if total > 0 else 0.0


# A chain such as `4 * 1 = 4 - 2 = 2` of plain integers. What stands before must not make its first number a part of
# something larger (`x + 3 = 5`, `2^3 + 1 = 9`, `20% of 5 + 5 = 2`), nor what stands behind the last (`3 * 4 = 12x`).
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})"
_PIECE = rf"{_NUMBER}(?: ?[-+*/] ?{_NUMBER})*"
_CHAIN = re.compile(rf"(?<![\w.,:^_)}}\]\\+*/-])(?<![-+*/^)}}\]\\\d] )(?<!of )(?<!mod ){_PIECE}(?: ?= ?-?{_PIECE})+"
                    r"(?![\w^(!%√]|[.,:]\d| ?[-+/]| ?\*(?!\*)| ?\\[A-Za-z]| \(?(?:mod|remainder|R)\b)")


def equations(text):
    """(left, right, whether they are equal) for each `=` behind plain integer arithmetic, in order.

    Read as people write: the left value must equal the first number on the right, from which the next piece goes on
    (`7 + 5 = 12 - 2 = 10`), or all of the right (`2 + 4 = 3 * 2`). Doubtful context is skipped, not judged.
    """
    if "=" not in text:
        return
    text = text.translate({0xD7: "*", 0xB7: "*", 0xF7: "/", 0x2212: "-"})  # × · ÷ −
    text = re.sub(r"\\times|\\cdot|(?<=\d) ?x(?= ?\d)", "*", re.sub(r"[ \t]+", " ", text))
    for chain in _CHAIN.findall(text):
        pieces = [piece.strip() for piece in chain.split("=")]
        for left, right in zip(pieces, pieces[1:]):
            if not re.search(r"\d ?[-+*/]", left):                         # `3 = 4` computes nothing
                continue
            try:
                yield left, right, not readings(left).isdisjoint(
                    readings(right) | readings(re.match(r"-?[\d,]+", right)[0]))
            except ZeroDivisionError:
                continue


@lru_cache(maxsize=100_000)                                               # traces repeat themselves and each other
def readings(piece):
    """Values of `a op b op c`: worked from left to right, and with * and / before + and -."""
    first, *rest = re.findall(r"(?:^-|[-+*/])?\d+", re.sub("[ ,]", "", piece))
    running = int(first)
    terms = [running]
    for item in rest:
        if item[0] in "+-":
            running += int(item)
            terms.append(int(item))
        else:
            factor = int(item[1:]) if item[0] == "*" else Fraction(1, int(item[1:]))
            running *= factor
            terms[-1] *= factor
    return frozenset((running, sum(terms)))


def false_equations(text):
    """Integer equations of a text that are wrong: 'so 7 + 5 = 11 .' -> ['7 + 5 = 11']."""
    return [f"{left} = {right}" for left, right, equal in equations(text) if not equal]


def standing_slips(text):
    """The false equations that no later right one with the same left side takes back."""
    last = {left.replace(" ", ""): (equal, f"{left} = {right}") for left, right, equal in equations(text)}
    return [shown for equal, shown in last.values() if not equal]


def solve_filter(solved_in_4, solved_in_32):
    """LIMO, §3.1.1: a problem stays if 4 tries of a weak model all fail and 1 to 3 of a strong one's 32 succeed."""
    return solved_in_4 == 0 and 1 <= solved_in_32 <= 3


def difficulty_problem(row, solved, rule="s1"):
    """Why a row's question is too easy or too hard, or None; solved: per file of attempts {id: how many are right}."""
    counts = [file.get(str(row["id"])) for file in solved]
    if rule == "s1":
        return "solved" if any(counts) else None
    weak, strong = counts
    if weak or strong is None or solve_filter(0, strong):                  # never tried: kept, and main() counts it
        return "solved by the weak model" if weak else None
    return "solved too often" if strong else "never solved"


# ---- Selections: rows -> at most k of them; ids decide where lengths or scores tie, never the order of the rows ----

def in_order(rows, key=lambda row: 0):
    return sorted(rows, key=lambda row: (key(row), str(row["id"]), row["thinking"], row["response"]))


def length_weights(lengths):
    """P(i) = 2^-rank_i / sum 2^-rank, rank 0 = longest (s1, §2.2); equal lengths rank as they stand."""
    ranked = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rank = {i: r for r, i in enumerate(ranked)}
    return [2.0 ** -rank[i] / (2 - 2.0 ** (1 - len(lengths))) for i in range(len(lengths))]


def benchmark_weights(gpqa, aime):
    """Rows per domain -> {domain: probability}, GPQA brought to about half the mass of AIME (s1, filter.ipynb)."""
    ratio = 0.5 * sum(aime.values()) / sum(gpqa.values()) if gpqa else 0
    counts = Counter({domain: int(n * ratio) for domain, n in gpqa.items()}) + Counter(aime)
    return {domain: n / counts.total() for domain, n in counts.items()}


def s1_select(rows, k, seed=0, variant="paper"):
    """Algorithm 1 of s1, steps A and B."""
    outright = [row for row in rows if row.get("correct") is True and benchmark_of(row)
                and (benchmark_of(row) != "MATH" or n_tokens(row) > 5600)]
    counts = {name: Counter(domain_of(row) for row in rows if benchmark_of(row) == name) for name in ("GPQA", "AIME")}
    shape = benchmark_weights(counts["GPQA"], counts["AIME"]) if variant == "notebook" else {}
    shortest_first = in_order(rows, key=lambda row: -n_tokens(row))[::-1]
    return draw_by_domain(shortest_first, k, random.Random(seed), in_order(outright)[:k], 64, shape)


def diverse_select(rows, k, seed=0):
    """s1's 1K-diverse: domain ~ uniform, row in it ~ uniform."""
    rng = random.Random(seed)
    return draw_by_domain(rng.sample(in_order(rows), len(rows)), k, rng)


def draw_by_domain(rows, k, rng, chosen=(), window=1, shape=None):
    """Add rows to the chosen ones until there are k: a domain, uniformly, then by length one of the last `window` rows
    there; 64 are as good as all, since further ranks weigh less than 2^-64. shape: {domain: weight} of the last 30%.

    Chosen rows stay in the pools at first and may be hit in vain, which is how s1's notebook does it.
    """
    chosen, pools = list(chosen), {}
    taken = {id(row) for row in chosen}
    for row in sorted(rows, key=domain_of):
        pools.setdefault(domain_of(row), []).append(row)
    while len(chosen) < k and pools:
        weights = [shape.get(domain, 0) for domain in pools] if shape and len(chosen) >= 0.7 * k else [0]
        domain = rng.choices(list(pools), weights if any(weights) else None)[0]
        pool = pools[domain]
        ranked = pool[:-window - 1:-1]
        row = pool.pop(-1 - rng.choices(range(len(ranked)), length_weights([n_tokens(row) for row in ranked]))[0])
        if not pool:
            del pools[domain]
        if id(row) not in taken:
            chosen.append(row)
    return chosen


def words_of(text):
    return [word.strip(PUNCTUATION).lower() for word in text.split()]


def count_words(words, wanted):
    """How often the wanted words or phrases occur among words; whole words only."""
    text = f" {'  '.join(words)} "                                         # two spaces: neighbours share none
    return sum(text.count(f" {'  '.join(item.split())} ") for item in wanted)


def limo_score(rows, words="strict", length_cap=None):
    """LIMO's score of each row, 0 to 1; relative to these rows, since the terms' maxima are taken over them."""
    texts, lengths = [words_of(row["thinking"]) for row in rows], [n_tokens(row) for row in rows]
    cap = length_cap or max(lengths, default=0) or 1
    scores = [0.30 * min(1, length / cap) for length in lengths]
    for weight, kind in ((0.20, VERIFY), (0.25, EXPLORE), (0.25, CONNECT)):
        rates = [count_words(text, kind[words]) / max(1, len(text)) for text in texts]
        best = max(rates, default=0) or 1
        scores = [score + weight * rate / best for score, rate in zip(scores, rates)]
    return scores


def limo_select(rows, k, words="strict", length_cap=None, best_per_problem=True, lowest=False):
    """The k best rows by LIMO's score as copies with `score`, best first; of equal scores the longer, then by id."""
    sign = 1 if lowest else -1
    scored = [row | {"score": score} for row, score in zip(rows, limo_score(rows, words, length_cap))]
    ranked = in_order(scored, key=lambda row: (sign * row["score"], sign * n_tokens(row)))
    if best_per_problem:
        ranked, _ = first_of_each(ranked, lambda row: normalised(row["question"]), "")
    return ranked[:k]


def select(rows, cfg):
    if cfg.method == "s1":
        return s1_select(rows, cfg.k, cfg.seed, cfg.variant)
    if cfg.method in ("limo", "limo-low"):
        return limo_select(rows, cfg.k, cfg.words, cfg.length_cap, cfg.best_per_problem, cfg.method == "limo-low")
    if cfg.method == "diverse":
        return diverse_select(rows, cfg.k, cfg.seed)
    if cfg.method == "random":
        return random.Random(cfg.seed).sample(in_order(rows), min(cfg.k, len(rows)))
    return in_order(rows, key=lambda row: -n_tokens(row))[:cfg.k] if cfg.method == "longest" else list(rows)


# ---- Files ------------------------------------------------------------------------------------------------------

def read_pool(path):
    """Rows of the pool as copies with `domain`, `n_thinking_tokens` and, where missing, s1's id filled in."""
    rows = read_rows(path, need=("question", "thinking", "response"))
    for row in rows:
        for field in ("question", "thinking", "response"):
            if not isinstance(row[field], str):
                raise BadInput(f"{path}: {field} {row[field]!r:.60} is not text")
        if not isinstance(n_tokens(row), (int, float)):
            raise BadInput(f"{path}: n_thinking_tokens {n_tokens(row)!r:.60} is not a number")
    return [{"id": question_id(row["question"])} | row | {"domain": domain_of(row), "n_thinking_tokens": n_tokens(row)}
            for row in rows]


def graded(row):
    verdict = evaluate.grade(row, evaluate.answer_of(row))
    return row | {"correct": row.get("correct") if verdict is None else verdict}


def read_attempts(path):
    """Completions -> {id: how many are right}."""
    solved = Counter()
    for row in read_rows(path, need=("id",)):
        solved[str(row["id"])] += evaluate.grade(row, evaluate.answer_of(row)) is True
    return solved


def summary(rows):
    """The numbers that tell two selections apart."""
    verdicts = [row["correct"] for row in rows if row["correct"] is not None]
    return {"rows": len(rows), "correct": sum(verdicts) / len(verdicts) if verdicts else None,
            "mean_thinking_tokens": sum(row["n_thinking_tokens"] for row in rows) / len(rows),
            "domains": dict(Counter(row["domain"] for row in rows).most_common())}


def main(cfg):
    if min(cfg.k, cfg.ngram, 1 if cfg.length_cap is None else cfg.length_cap) < 1:
        raise BadInput("--k, --ngram and --length-cap must be at least 1")
    if cfg.attempts and cfg.difficulty == "limo" and len(cfg.attempts) != 2:
        raise BadInput("--difficulty limo needs two files of --attempts: the weak model's, then the strong model's")
    one_per_question = cfg.method in ("s1", "random", "diverse", "longest")
    rows = read_pool(cfg.data)
    funnel = [{"stage": "pool", "kept": len(rows)}]
    print(f"{'pool':<12} {len(rows):>7} rows")

    def passed(stage, kept, reasons):
        """Print and remember one filter's result, and hand on what it left."""
        why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        print(f"{stage:<12} {len(kept):>7} kept  (-{reasons.total()}{': ' * bool(why)}{why})")
        funnel.append({"stage": stage, "kept": len(kept), "dropped": dict(reasons)})
        if not kept:
            raise BadInput(f"no row is left after the filter '{stage}' ({why})")
        return kept

    rows = passed("copies", *first_of_each(
        rows, lambda row: (normalised(row["question"]), row["thinking"], row["response"]), "same question and trace"))
    if cfg.against:
        questions = [row["question"] for path in cfg.against for row in read_rows(path, need=("question",))]
        rows = passed("held out", *decontaminate(rows, questions, cfg.ngram))
    if one_per_question if cfg.quality is None else cfg.quality:
        rows = passed("quality", *sift(rows, lambda row: quality_problem(row, cfg.repetition)))
    rows = [graded(row) for row in rows]
    if cfg.keep_correct:
        why = {True: None, False: "wrong", None: "cannot be graded"}
        rows = passed("correct", *sift(rows, lambda row: why[row["correct"]]))
    if cfg.attempts:
        solved = [read_attempts(path) for path in cfg.attempts]
        untried = sum(all(str(row["id"]) not in file for file in solved) for row in rows)
        if untried == len(rows):
            raise BadInput(f"--attempts {' '.join(cfg.attempts)}: none of their ids is the id of a row of {cfg.data}")
        rows = passed("difficulty", *sift(rows, lambda row: difficulty_problem(row, solved, cfg.difficulty)))
        funnel[-1]["without_attempt"] = untried
        print(f"{'':<12} {untried:>7} of them were never attempted")
    if one_per_question:
        rows = passed("questions", *first_of_each(rows, lambda row: normalised(row["question"]), "later trace"))

    chosen = select(rows, cfg)
    if len(chosen) < cfg.k and cfg.method != "full":
        print(f"only {len(chosen)} rows are left to choose, fewer than --k {cfg.k}: all of them are taken")
    totals = {"left": summary(rows), cfg.method: summary(chosen)}
    for name, total in totals.items():
        correct = "?" if total["correct"] is None else f"{total['correct']:.1%}"
        domains = ", ".join(f"{domain} {n}" for domain, n in list(total["domains"].items())[:8])
        print(f"{name:<12} {total['rows']:>7} rows  correct {correct}  "
              f"thinking tokens {total['mean_thinking_tokens']:.1f}  domains {domains}")
    write_rows(cfg.out, chosen)
    run.save_config(cfg, run.header_of(cfg.out), funnel=funnel, totals=totals)
    return chosen


if __name__ == "__main__":
    run.cli(main, Config)
