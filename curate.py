"""Which rows are worth training on? Rows in, the chosen rows out; no torch anywhere.

s1 (arXiv 2501.19393, §2.2 and Algorithm 1) filters by quality, then by difficulty, then samples for diversity:
    difficulty   a question that any attempt of a student model solves is dropped
    step A       right traces are taken outright from GPQA and AIME, and from MATH when longer than 5600 tokens
    step B       until there are k:  domain ~ uniform,  row in it ~ 2^-rank / sum 2^-rank,  rank 0 = longest trace
LIMO (arXiv 2502.03387 v3, §3.1) scores each trace and takes the k best, one per problem:
    score = .30 length + .20 verifying + .25 exploring + .25 connecting     each term / its maximum in the pool
    verifying, exploring, connecting = words of that kind / words of the trace
Controls: random, diverse, longest, full (s1, §5.1); limo-low, the lowest scores, and limo-band, one of five (LIMO, §6.3).
--method full --keep-correct is rejection sampling, the teacher data of UniReason (arXiv 2507.00432, §2.2) and STaR's
filter (2203.14465); --hint asks again with the answer shown, and the hint is gone when such rows are read. --corrupt,
--budget and --format change what is written (curation/rewrite.py), --layers finds copies (curation/similarity.py).

Departs from the papers in:
1. Right and wrong are decided by evaluate.py's rules; s1 asked Claude. A row's own `correct` counts where the rules
   cannot judge its gold answer.
2. Trace length is the row's n_thinking_tokens, and without one its number of words.
3. A question shorter than an n-gram, invisible to that test, is dropped when it equals a held-out one.
4. s1's quality rule reads the question only. Here the trace is read too: a part missing, no answer, unfinished, a
   delimiter inside the text, an arithmetic slip left standing, a passage repeated over and over.
5. s1 removes repeated questions at the start. Here the pool may hold several traces of a question; of those that
   survive the filters s1 and its controls keep the first, LIMO the best, full all (or --per-question).
6. LIMO published neither how its terms are brought to one scale nor all of its words: --words, --length-cap; nor how its
   bands are cut: fifths of a question's right traces by score, the middle one of each fifth.

A laptop, a second (after recipes/tiny.sh; keeps 400 of 4000, 63% of them right against 41%):
    python curate.py --data out/tiny/seed0/data/pool.jsonl --against out/tiny/seed0/data/held_out.jsonl
                     --attempts out/tiny/seed0/attempts.jsonl --k 400 --out out/s1.jsonl
LIMO: python curate.py --data pool.jsonl --out limo.jsonl --method limo --k 800 --keep-correct     minutes for 1M rows

Reads rows with a trace (or problems, where nothing asks for a trace), completions of --attempts, questions of --against.
An `id` stands for one question, a row without one gets s1's. The pool is read once for the filters, and once more where a
row may be chosen, a line in memory at a time: 1M rows need 170 to 220 MB. Writes the chosen rows to OUT with correct,
n_thinking_tokens, domain (and LIMO's score) filled in; settings and funnel to OUT.config.json.
"""

import heapq
import random
import statistics
from array import array
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from curation import rewrite
from curation.pool import (
    Card,
    Funnel,
    benchmark_of,
    count,
    domain_of,
    draw_funnel,
    in_subset,
    judge,
    level_of,
    n_tokens,
    one_question_per_id,
    pass_rates,
    place_of,
    preparation,
    question_of,
    read_attempts,
    shown,
    sort_key,
    stream,
    summary,
    trace_of,
)
from curation.quality import (
    CONNECT,
    DELIMITERS,
    EXPLORE,
    VERIFY,
    count_words,
    quality_problem,
    words_of,
)
from curation.similarity import at_most, digest, overlap_filter, parse_layers
from engine import runlog, settings
from engine.rows import BadInput, read_rows, write_rows
from grading.answers import answer_of, canonical

CONTROLS = ("random", "diverse", "longest")
Method = Literal[
    "s1", "limo", "limo-low", "limo-band", "random", "diverse", "longest", "variance", "full"
]


@dataclass(frozen=True)
class Config:
    data: str  # pool of rows: a .jsonl file or a directory of them
    out: str  # where the chosen rows go (.jsonl)
    method: Method = "s1"  # how to choose
    k: int = 1000  # rows to keep: 1000 in s1, 800 in LIMO; `full` keeps all
    seed: int = 0  # of the random draws (s1, random, diverse, --corrupt, --budget, --order)

    against: tuple[str, ...] = ()  # files of held-out questions that must not be trained on
    # to search --against; also minhash:0.6, masked:0.7, answer, embedding
    layers: tuple[str, ...] = ("exact", "ngram")
    # layers that compare the pool with itself, the first row stays; ngram: across sources
    dedup: tuple[str, ...] = ()
    ngram: int = 8  # words in a row shared with a held-out question that drop a row (s1: 8)
    audit: str | None = None  # file for the pairs that --layers and --dedup found
    # SimpleRL-Zoo, LIMO: curation/pool.py
    subset: Literal["", "easy", "medium", "hard", "simple", "complex", "advanced"] = ""
    # run the quality filter; if unset as in the papers: for s1, random, diverse, longest
    quality: bool | None = None
    # largest share of repeated 8-grams; 99% of finished R1-like traces stay below 0.2
    repetition: float = 0.3
    keep_correct: bool = False  # only traces whose own answer is right (UniReason, STaR, LIMO)
    # only those whose answer is wrong: a corruption, or what --hint is for
    keep_wrong: bool = False
    # completions of student models on the pool's questions, for the difficulty filter
    attempts: tuple[str, ...] = ()
    # s1: no attempt right; limo: in file 1 none, in 2 one to three
    difficulty: Literal["s1", "limo", "rate", "none"] = "s1"
    # --difficulty rate: lowest and highest share of right attempts
    pass_rate: tuple[float, ...] = (0.2, 0.8)
    # traces of a question, in file order; if unset 1 for s1 and its controls, else all
    per_question: int | None = None
    # traces of a question that give the same answer (OpenThoughts, 2506.04178)
    max_same_answer: int | None = None
    # STRONG=27e9 WEAK=9e9, by `model`: --per-question of one, the same FLOPs of the other
    match_flops: tuple[str, ...] = ()

    domain_field: str = ""  # row field that holds the domain; if empty: domain, subject or task
    # JSON {domain: [keywords]}, or s1's list; domains by keywords where --domains has none
    taxonomy: str | None = None
    # completions whose replies end in a code of --taxonomy (questions by --ask-domain)
    domains: str | None = None
    # s1: the released notebook draws the last 30% of k by benchmark
    variant: Literal["paper", "notebook"] = "paper"
    # LIMO's words: the two that the paper names, or our longer lists
    words: Literal["strict", "extended"] = "strict"
    # tokens from which LIMO's length term is 1; the pool's longest trace if unset
    length_cap: int | None = None
    best_per_problem: bool = True  # limo: one trace per problem (limo-low: its worst)
    # limo-band: 1 is the fifth with the lowest scores of each question, 5 the highest
    band: int = 5
    # write each row so often; 128 with --method variance --k 1 is 1-shot RLVR (2504.20571)
    copies: int = 1

    # of the rows written; easy: pass rate, level or length
    order: Literal["chosen", "random", "easy", "nll"] = "chosen"
    corrupt: str = ""  # digits, keywords, shuffle, delete or insert, with :SHARE (2502.07374)
    # name a budget in the question: tokens, steps (s1, §E.1), l1:LOW:HIGH:SHARE (2503.04697)
    budget: str = ""
    # problems again with a hint, as " ({answer})"; `choices` marks the right one (STaR)
    hint: str = ""
    # write questions about each row's domain in --taxonomy, for generate.py
    ask_domain: bool = False
    # also write the text trained on, as `completion`
    format: Literal["", "s1", "s1-steps", "think", "r1", "plain"] = ""
    figure: str | None = None  # draw the funnel into this PNG file


# ---- Filters: what speaks against a row, or None -----------------------------------------------------------------


def solve_filter(solved_in_4, solved_in_32):
    """LIMO, §3.1.1: a problem stays if 4 tries of a weak model all fail and 1 to 3 of a strong one's 32 succeed."""
    return solved_in_4 == 0 and 1 <= solved_in_32 <= 3


def difficulty_problem(row, solved, rule="s1"):
    """Why a row's question is too easy or too hard, or None; solved: per file of attempts {id: how many are right}."""
    counts = [file.get(str(row["id"])) for file in solved]
    if rule == "s1":
        return "solved" if any(counts) else None
    weak, strong = counts
    if weak or strong is None or solve_filter(0, strong):  # never tried: kept, and main() counts it
        return "solved by the weak model" if weak else None
    return "solved too often" if strong else "never solved"


def rate_problem(row, rates, low, high):
    """Why a question is outside the window of pass rates, or None; rates: {id: share of right attempts}."""
    rate = rates.get(str(row["id"]))
    return (
        "never attempted"
        if rate is None
        else "too hard"
        if rate < low
        else "too easy"
        if rate > high
        else None
    )


# ---- Selections: rows -> at most k of them; ids decide where lengths or scores tie, never the order of the rows ----


def in_order(rows, key=lambda row: 0):
    return sorted(
        rows,
        key=lambda row: (
            key(row),
            str(row["id"]),
            row.get("thinking") or "",
            row.get("response") or "",
        ),
    )


def longest(rows, k=None):
    return in_order(rows, key=lambda row: -n_tokens(row))[:k]


def first_of_each(rows, key):
    """The first row of each key(row)."""
    first = {}
    for row in rows:
        first.setdefault(key(row), row)
    return list(first.values())


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


def s1_outright(rows, k):
    """Step A of Algorithm 1: the rows taken before any draw."""
    return in_order(
        row
        for row in rows
        if row.get("correct") is True
        and (
            benchmark_of(row) in ("GPQA", "AIME")
            or benchmark_of(row) == "MATH"
            and n_tokens(row) > 5600
        )
    )[:k]


def s1_select(rows, k, seed=0, variant="paper", counts=None):
    """Algorithm 1 of s1, steps A and B. counts: rows of each (benchmark, domain), where `rows` are not all there were."""
    counts = counts or Counter((benchmark_of(row), domain_of(row)) for row in rows)
    shape = (
        {}
        if variant == "paper"
        else benchmark_weights(
            *(
                Counter({domain: n for (name, domain), n in counts.items() if name == wanted})
                for wanted in ("GPQA", "AIME")
            )
        )
    )
    return draw_by_domain(
        longest(rows)[::-1], k, random.Random(seed), s1_outright(rows, k), 64, shape
    )


def s1_candidates(rows, k):
    """The rows that s1_select can reach. With n rows taken outright it draws k - n more, and at most n times in vain,
    among the 64 longest of a domain: the k + 64 longest of each."""
    kept, n = [], Counter()
    outright = {id(row) for row in s1_outright(rows, k)}
    for row in longest(rows):
        n[domain_of(row)] += 1
        if n[domain_of(row)] <= k + 64 or id(row) in outright:
            kept.append(row)
    return kept


def diverse_select(rows, k, seed=0):
    """s1's 1K-diverse: domain ~ uniform, row in it ~ uniform."""
    rng = random.Random(seed)
    return draw_by_domain(rng.sample(in_order(rows), len(rows)), k, rng)


def diverse_places(keys, names, k, seed=0):
    """diverse_select() of sorted sort_keys -> places. It can reach the last k rows of each domain in the drawn order."""
    rng, n, reach = random.Random(seed), Counter(), []
    for i in reversed(rng.sample(range(len(keys)), len(keys))):
        place, domain = place_of(keys[i])
        n[domain] += 1
        if n[domain] <= k:
            reach.append({"at": place, "domain": names[domain], "n_thinking_tokens": 1})
    return [row["at"] for row in draw_by_domain(reach[::-1], k, rng)]


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
        weights = (
            [shape.get(domain, 0) for domain in pools] if shape and len(chosen) >= 0.7 * k else [0]
        )
        domain = rng.choices(list(pools), weights if any(weights) else None)[0]
        pool = pools[domain]
        ranked = pool[: -window - 1 : -1]
        row = pool.pop(
            -1
            - rng.choices(range(len(ranked)), length_weights([n_tokens(row) for row in ranked]))[0]
        )
        if not pool:
            del pools[domain]
        if id(row) not in taken:
            chosen.append(row)
    return chosen


def limo_terms(row, words="strict"):
    """(length, words of checking, of exploring, of connecting), these three per word of the trace."""
    text = words_of(trace_of(row))
    return n_tokens(row), *(
        count_words(text, kind[words]) / max(1, len(text)) for kind in (VERIFY, EXPLORE, CONNECT)
    )


def limo_scores(columns, length_cap=None):
    """LIMO's score of each row, 0 to 1, from the columns of limo_terms; relative to these rows, since the terms' maxima
    are taken over them."""
    longest, *most = (max(column, default=0) or 1 for column in columns)
    cap, (most_v, most_e, most_c) = length_cap or longest, most
    return array(
        "d",
        (
            0.30 * min(1, n / cap) + 0.20 * v / most_v + 0.25 * e / most_e + 0.25 * c / most_c
            for n, v, e, c in zip(*columns)
        ),
    )


def limo_score(rows, words="strict", length_cap=None):
    return list(
        limo_scores(list(zip(*[limo_terms(row, words) for row in rows])) or [()] * 4, length_cap)
    )


def ranked(rows, scores, best_per_problem=True, lowest=False):
    """[(row, score)], best first; of equal scores the longer, then by id."""
    sign, score = 1 if lowest else -1, {id(row): score for row, score in zip(rows, scores)}
    order = in_order(rows, key=lambda row: (sign * score[id(row)], sign * n_tokens(row)))
    return [
        (row, score[id(row)])
        for row in (first_of_each(order, question_of) if best_per_problem else order)
    ]


def within_reach(questions, scores, k, lowest=False):
    """Places of the rows that can be among the k best: down to the best row of the k-th question, ties included."""
    best, size = heapq.nsmallest if lowest else heapq.nlargest, 2 * k
    while size < len(scores):
        seen = set()
        for i in best(size, range(len(scores)), key=scores.__getitem__):
            seen.add(questions[i])
            if len(seen) == k:
                return [
                    j
                    for j, score in enumerate(scores)
                    if (score <= scores[i] if lowest else score >= scores[i])
                ]
        size *= 4
    return range(len(scores))


def limo_select(rows, k, words="strict", length_cap=None, best_per_problem=True, lowest=False):
    """The k best rows by LIMO's score as copies with `score`, best first."""
    best = ranked(rows, limo_score(rows, words, length_cap), best_per_problem, lowest)[:k]
    return [row | {"score": score} for row, score in best]


def limo_band(rows, scores, band, n_bands=5):
    """[(row, score)]: of each question with n_bands right traces or more the middle one of the band-th part by score,
    1 = lowest; questions by their best score, so that the k first are the same in every band (LIMO, §6.3.1)."""
    groups = {}
    for row, score in ranked(rows, scores, best_per_problem=False):
        if row.get("correct") is True:
            groups.setdefault(question_of(row), []).append((row, score))
    groups = [group[::-1] for group in groups.values() if len(group) >= n_bands]  # lowest first
    return [
        group[((band - 1) * len(group) // n_bands + (band * len(group) // n_bands) - 1) // 2]
        for group in groups
    ]


def band_within_reach(questions, right, scores, k, n_bands=5):
    """Places of the rows that limo_band() looks at for its first k: those of the k best questions, ties included."""
    order = sorted((i for i, is_right in enumerate(right) if is_right), key=questions.__getitem__)
    groups = [
        group
        for _, places in groupby(order, key=questions.__getitem__)
        if len(group := list(places)) >= n_bands
    ]
    best = [max(scores[i] for i in group) for group in groups]
    least = min(heapq.nlargest(k, best), default=0)
    return [i for group, score in zip(groups, best) if score >= least for i in group]


# ---- Files ------------------------------------------------------------------------------------------------------


def needed(cfg):
    """Fields that every row must hold for these settings."""
    if (
        wants_quality(cfg)
        or cfg.method in ("s1", "longest")
        or cfg.corrupt
        or cfg.budget in ("tokens", "steps")
    ):
        return "question", "thinking", "response"
    reads_answer = (
        cfg.method.startswith("limo") or cfg.keep_correct or cfg.keep_wrong or cfg.max_same_answer
    )
    return ("question", "response") if reads_answer or cfg.format else ("question",)


def wants_quality(cfg):
    return cfg.method in ("s1", *CONTROLS) if cfg.quality is None else cfg.quality


def filters(cfg, attempts, funnel):
    """[(stage, filter)] in the order in which a row meets them. They tell the funnel of pairs and of untried rows."""
    stages = [
        (
            "copies",
            at_most(
                1,
                lambda row: (
                    question_of(row),
                    row.get("thinking") or "",
                    row.get("response") or "",
                ),
                "same question and trace",
            ),
        )
    ]
    if cfg.subset:
        stages.append(
            ("subset", lambda row: None if in_subset(row, cfg.subset) else f"not {cfg.subset}")
        )
    if cfg.against:
        held_out = [row for path in cfg.against for _, row in stream(path, need=("question",))]
        layers = parse_layers("--layers", cfg.layers, cfg.ngram)
        stages.append(
            (
                "held out",
                overlap_filter(layers, lambda pair: funnel.note("held out", pair), held_out),
            )
        )
    if cfg.dedup:
        layers = parse_layers("--dedup", cfg.dedup, cfg.ngram)
        stages.append(
            ("near copies", overlap_filter(layers, lambda pair: funnel.note("near copies", pair)))
        )
    if wants_quality(cfg):
        stages.append(("quality", lambda row: quality_problem(row, cfg.repetition)))
    if cfg.format:
        stages.append(
            (
                "format",
                lambda row: (
                    "delimiter in text"
                    if any(text in trace_of(row) + row["response"] for text in DELIMITERS)
                    else None
                ),
            )
        )
    stages.append(("", judge))
    if cfg.keep_correct or cfg.keep_wrong:
        why = {
            cfg.keep_correct: None,
            cfg.keep_wrong: "wrong" if cfg.keep_correct else "right",
            None: "cannot be graded",
        }
        stages.append(("correct" if cfg.keep_correct else "wrong", lambda row: why[row["correct"]]))
    if cfg.attempts and cfg.difficulty != "none" and cfg.method != "variance":  # there: a history
        solved, rates = [right for right, _ in attempts], pass_rates(attempts)

        def difficulty(row):
            funnel.untried += str(row["id"]) not in rates
            return (
                rate_problem(row, rates, *cfg.pass_rate)
                if cfg.difficulty == "rate"
                else difficulty_problem(row, solved, cfg.difficulty)
            )

        stages.append(("difficulty", difficulty))
    per_question = cfg.per_question or (1 if cfg.method in ("s1", *CONTROLS) else None)
    if cfg.match_flops:
        samples = matched(cfg)
        teachers = {
            name: at_most(
                n, lambda row: (question_of(row), row["model"]), f"more than {n} of {name}"
            )
            for name, n in samples.items()
        }
        stages.append(
            ("flops", lambda row: teachers.get(row.get("model"), lambda row: "other teacher")(row))
        )
    elif per_question:
        stages.append(
            ("questions", at_most(per_question, lambda row: (question_of(row),), "later trace"))
        )
    if cfg.max_same_answer:
        stages.append(
            (
                "answers",
                at_most(
                    cfg.max_same_answer,
                    lambda row: (
                        question_of(row),
                        repr(canonical(row, answer_of(row))),
                    ),
                    "same answer again",
                ),
            )
        )
    return stages


def matched(cfg):
    """{teacher: samples per question} of --match-flops. Raises BadInput."""
    try:
        (strong, p), (weak, q) = (text.rsplit("=", 1) for text in cfg.match_flops)
        return {
            strong: cfg.per_question,
            weak: rewrite.matched_samples(cfg.per_question, float(p), float(q)),
        }
    except (ValueError, TypeError, ZeroDivisionError):
        raise BadInput(
            f"--match-flops {' '.join(cfg.match_flops)}: not STRONG=PARAMETERS WEAK=PARAMETERS with "
            "--per-question, the samples of the first"
        ) from None


def rank_of(row, cfg, rates):
    """What --order sorts by."""
    if cfg.order == "nll":
        logp = row.get("logp")
        if not isinstance(logp, list) or not logp:
            raise BadInput(
                f"--order nll: row {row['id']} has no `logp`, which generate.py --score writes"
            )
        return -statistics.fmean(logp)
    if cfg.order == "easy":
        return -rates.get(str(row["id"]), 0.0) if rates else level_of(row) or n_tokens(row)
    return random.Random(f"{cfg.seed} {row['id']}").random() if cfg.order == "random" else 0


def spread(row, attempts):
    """1-shot RLVR's historical variance: the population standard deviation of a question's accuracy over the epochs of
    an earlier training, from its `history` or from one file of attempts per epoch (2504.20571, §2)."""
    name = str(row["id"])
    history = row.get("history") or [
        right[name] / tries[name] for right, tries in attempts if tries[name]
    ]
    if (
        not isinstance(history, list)
        or not all(isinstance(x, (int, float)) for x in history)
        or not history
    ):
        raise BadInput(
            f"--method variance: row {name} has neither a `history` of accuracies nor --attempts"
        )
    return statistics.pstdev(history)


def check(cfg):
    """Raise BadInput for settings out of range or that do not go together."""
    wrong = [
        name
        for name in ("k", "ngram", "length_cap", "per_question", "max_same_answer", "copies")
        if getattr(cfg, name) is not None and getattr(cfg, name) < 1
    ]
    if wrong:
        raise BadInput(
            ", ".join("--" + name.replace("_", "-") for name in wrong) + " must be at least 1"
        )
    if len(cfg.pass_rate) != 2 or not 0 <= cfg.pass_rate[0] <= cfg.pass_rate[1] <= 1:
        raise BadInput("--pass-rate takes two shares, LOW HIGH, from 0 to 1")
    for sure, message in (
        (1 <= cfg.band <= 5, f"--band {cfg.band}: there are five, 1 to 5"),
        (
            not (cfg.keep_correct and cfg.keep_wrong),
            "--keep-correct and --keep-wrong together leave nothing",
        ),
        (
            not cfg.attempts or cfg.difficulty != "limo" or len(cfg.attempts) == 2,
            "--difficulty limo needs two files of --attempts: the weak model's, then the strong model's",
        ),
        (cfg.attempts or cfg.difficulty != "rate", "--difficulty rate needs --attempts"),
        (
            cfg.taxonomy or not (cfg.domains or cfg.ask_domain),
            "--domains and --ask-domain need a --taxonomy",
        ),
        (
            not cfg.audit or cfg.against or cfg.dedup,
            "--audit needs --against or --dedup, which find the pairs",
        ),
        (
            not cfg.hint or cfg.hint == "choices" or "{answer}" in cfg.hint,
            f"--hint '{cfg.hint}' holds no {{answer}}",
        ),
    ):
        if not sure:
            raise BadInput(message)
    for parse, text in (
        (rewrite.parse_corruption, cfg.corrupt),
        (rewrite.parse_budget, cfg.budget),
    ):
        if text:
            parse(text)
    if cfg.match_flops:
        matched(cfg)


def select(rows, cfg, attempts, card, again):
    """[(card, fields to add)] out of (place, row), each seen once. A row leaves some 30 to 100 bytes behind, which tell
    whether it can be chosen, and is read again if so; s1 and longest keep cards, and prune them on the way.

    card: (place, row) -> Card; again: places -> their (place, row).
    """
    if cfg.method in ("s1", "longest"):
        cards, counts, limit = [], Counter(), 50_000
        for place, row in rows:
            cards.append(card(place, row))
            counts[benchmark_of(row), domain_of(row)] += 1
            if len(cards) >= limit:
                cards = s1_candidates(cards, cfg.k) if cfg.method == "s1" else longest(cards, cfg.k)
                limit = max(limit, 2 * len(cards))
        best = (
            longest(cards, cfg.k)
            if cfg.method == "longest"
            else s1_select(cards, cfg.k, cfg.seed, cfg.variant, counts)
        )
        return [(each, {}) for each in best]
    if cfg.method in ("random", "diverse"):
        numbers = {}
        keys = sorted(
            sort_key(place, row, numbers.setdefault(domain_of(row), len(numbers)))
            for place, row in rows
        )
        places = (
            diverse_places(keys, list(numbers), cfg.k, cfg.seed)
            if cfg.method == "diverse"
            else [
                place_of(key)[0]
                for key in random.Random(cfg.seed).sample(keys, min(cfg.k, len(keys)))
            ]
        )
        return [(card(place, row), {}) for place, row in again(places)]
    places, questions, right, columns = (
        array("Q"),
        array("Q"),
        bytearray(),
        [array("d") for _ in range(4)],
    )
    for place, row in rows:
        (
            places.append(place),
            questions.append(digest(question_of(row))),
            right.append(row.get("correct") is True),
        )
        terms = [spread(row, attempts)] if cfg.method == "variance" else limo_terms(row, cfg.words)
        for column, term in zip(columns, terms):
            column.append(term)
    scores = columns[0] if cfg.method == "variance" else limo_scores(columns, cfg.length_cap)
    lowest = cfg.method == "limo-low"
    reach = (
        band_within_reach(questions, right, scores, cfg.k)
        if cfg.method == "limo-band"
        else within_reach(questions, scores, cfg.k, lowest)
    )
    cards, scores = (
        [card(place, row) for place, row in again(places[i] for i in reach)],
        [scores[i] for i in reach],
    )
    if cfg.method == "limo-band":
        return [
            (each, {"score": score, "band": cfg.band})
            for each, score in limo_band(cards, scores, cfg.band)[: cfg.k]
        ]
    best = ranked(cards, scores, cfg.best_per_problem and cfg.method != "variance", lowest)
    return [(each, {"score": score}) for each, score in best[: cfg.k]]


def chosen(rows, cfg, attempts, prepare):
    """Chosen rows out of (place, row): the rows that come are looked at once, and those chosen are read again."""
    rates = pass_rates(attempts)

    def again(places):
        for place, row in stream(cfg.data, places=places):
            row = prepare(row)
            judge(row)
            yield place, row

    if cfg.method == "full":  # nothing to choose
        if cfg.order != "chosen":
            places, ranks = array("Q"), array("d")
            for place, row in rows:
                places.append(place), ranks.append(rank_of(row, cfg, rates))
            rows = again(places[i] for i in sorted(range(len(ranks)), key=ranks.__getitem__))
        yield from (row for _, row in rows)
        return
    picks = select(
        rows, cfg, attempts, lambda place, row: Card(place, row, rank_of(row, cfg, rates)), again
    )
    if not picks:
        raise BadInput("--method limo-band: no question has five right traces to divide into bands")
    if len(picks) < cfg.k:
        print(
            f"only {len(picks)} rows are left to choose, fewer than --k {cfg.k}: all of them are taken"
        )
    if cfg.order != "chosen":
        picks.sort(key=lambda pick: pick[0].rank)
    more = {card.at: fields for card, fields in picks}
    yield from (row | more[place] for place, row in again(card.at for card, _ in picks))


def curate(cfg):
    """Filter, choose, write; settings, funnel and totals go beside the rows."""
    check(cfg)
    attempts = [read_attempts(path) for path in cfg.attempts]
    taxonomy = rewrite.load_taxonomy(cfg.taxonomy) if cfg.taxonomy else []
    funnel, taken = Funnel(with_pairs=bool(cfg.audit)), Counter()
    prepare = preparation(taxonomy, cfg.domain_field, cfg.domains)
    funnel.stages = [("", one_question_per_id(cfg.data, prepare)), *filters(cfg, attempts, funnel)]
    left = funnel.survivors((place, prepare(row)) for place, row in stream(cfg.data, needed(cfg)))
    counted = (count(taken, row) for row in chosen(left, cfg, attempts, prepare))
    try:
        write_rows(
            cfg.out,
            rewrite.finished(
                counted,
                cfg.hint,
                cfg.corrupt,
                cfg.budget,
                taxonomy if cfg.ask_domain else None,
                cfg.format,
                cfg.copies,
                cfg.seed,
            ),
        )
    finally:
        Path(cfg.out + ".part").unlink(missing_ok=True)
        if cfg.audit and funnel.table:  # also where a filter left nothing
            write_rows(cfg.audit, funnel.pairs)
    totals = {"left": summary(funnel.left), cfg.method: summary(taken)}
    if cfg.figure:
        draw_funnel([*funnel.table, {"stage": cfg.method, "kept": taken["rows"]}], cfg.figure)
    runlog.save_config(cfg, runlog.header_of(cfg.out), funnel=funnel.table, totals=totals)
    print(shown(cfg.method, totals[cfg.method]))


def main(cfg):
    """curate(), and the rows that it wrote."""
    curate(cfg)
    return read_rows(cfg.out)


if __name__ == "__main__":
    settings.cli(curate, Config)
