"""Which traces are worth training on? Rows in, the chosen rows out; no torch anywhere.

s1 (arXiv 2501.19393, §2.2 and Algorithm 1) filters by quality, then by difficulty, then samples for
diversity:
    difficulty   a question that any attempt of a student model solves is dropped
    step A       right traces are taken outright from GPQA and AIME, and from MATH if longer than
                 5600 tokens
    step B       until there are k:  domain ~ uniform,  row in it ~ 2^-rank / sum 2^-rank,
                 rank 0 = longest trace
LIMO (arXiv 2502.03387 v3, §3.1) scores each trace and takes the k best, one per problem:
    score = .30 length + .20 verifying + .25 exploring + .25 connecting
    verifying, exploring, connecting = words of that kind / words of the trace
    each term is divided by its maximum in the pool
Controls: random, diverse, longest, full (s1, §5.1); limo-low, the lowest scores, and limo-band, one
of five quality bands (LIMO, §6.3). variance ranks problems for 1-shot RLVR (2504.20571).
--method full --keep correct is rejection sampling: the teacher data of UniReason (2507.00432, §2.2)
and STaR's filter (2203.14465).

Departs from the papers in:
1. Right and wrong are decided by grading/answers.py; s1 asked Claude. A row's own `correct` counts
   where the rules cannot judge its gold answer.
2. Trace length is the row's n_thinking_tokens, or its number of words if that is missing.
3. A question too short for an n-gram is dropped when it equals a held-out one.
4. s1's quality rule reads the question only. Here the trace is read, too: a part missing, no
   answer, unfinished, a delimiter inside, an uncorrected false equation, a passage that repeats.
5. s1 removes repeated questions at the start. Here the pool may hold several traces of a question.
   Of those that pass the filters s1 and its controls keep the first, LIMO the best, full all.
6. LIMO published neither how its terms are brought to one scale nor all of its words: --length-cap,
   --words. Nor how its bands are cut: here into fifths of a question's right traces by score, and
   the middle trace of a fifth is taken.

A laptop, a second (after recipes/tiny.sh; keeps 400 of 4000, 63% of them right against 41%):
    python curate.py --data out/tiny/seed0/data/pool.jsonl --k 400 --out out/s1.jsonl
                     --against out/tiny/seed0/data/held_out.jsonl
                     --attempts out/tiny/seed0/attempts.jsonl
LIMO from a million rows, minutes:
    python curate.py --data pool.jsonl --out limo.jsonl --method limo --k 800 --keep correct

Reads rows with a trace (or problems, where nothing asks for a trace), completions of --attempts,
questions of --against. An `id` stands for one question; a row without one gets s1's. Writes the
chosen rows to OUT with correct, n_thinking_tokens, domain and LIMO's score filled in, settings and
funnel to OUT.config.json.

To add a rule, write one function under `@method` or `@row_filter`. --method and --help know it.
The methods here also run on pools larger than memory: 1M rows need 170 to 220 MB
(curation/low_memory.py). A method without such a twin gets its rows as a list in memory.
"""

import dataclasses
import random
import statistics
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from curation import low_memory, rewrite
from curation.funnel import Funnel, count_rows, summarise, summary_line
from curation.pool import (
    benchmark_of,
    check_ids,
    domain_of,
    grade_row,
    in_subset,
    level_of,
    make_prepare,
    n_tokens,
    pass_rates,
    question_of,
    read_attempts,
    reread_rows,
    sort_rows,
    stream_rows,
    trace_of,
)
from curation.quality import (
    CONNECT,
    EXPLORE,
    VERIFY,
    count_words,
    find_quality_problem,
    holds_delimiter,
    words_of,
)
from curation.similarity import CopyFinder, KeyLimit, parse_layers
from engine import runlog, settings
from engine.rows import BadInput, check_file_to_write, read_rows, write_rows
from grading.answers import answer_of, canonical
from grading.rewards import reward_language

FILTERS = {}  # name: RowFilter, in the order in which a row meets them
METHODS = {}  # name: Method


@dataclass(frozen=True)
class Config:
    data: str  # pool of rows: a .jsonl file or a directory of them
    out: str  # where the chosen rows go (.jsonl)
    method: str = field(default="s1", metadata={"names": METHODS})  # how to choose
    k: int = 1000  # rows to keep: 1000 in s1, 800 in LIMO; `full` keeps all
    seed: int = 0  # of the random draws (s1, random, diverse, --corrupt, --budget, --order)

    against: tuple[str, ...] = ()  # files of held-out questions that must not be trained on
    # how --against is searched; also minhash:0.6, masked:0.7, answer, embedding
    layers: tuple[str, ...] = ("exact", "ngram:8")
    # layers that compare the pool with itself, the first row stays; ngram: across sources
    dedup: tuple[str, ...] = ()
    audit: str | None = None  # file for the pairs that --layers and --dedup found
    # of benchmarks and levels (SimpleRL-Zoo, LIMO: curation/pool.py)
    subset: Literal["", "easy", "medium", "hard", "simple", "complex", "advanced"] = ""
    # run the quality filter; if unset as in the papers: for s1, random, diverse, longest
    quality: bool | None = None
    # correct: right answers only (UniReason, STaR, LIMO); wrong: for --hint, or as a corruption
    keep: Literal["all", "correct", "wrong"] = "all"
    # drop traces with words in another script, latin or cjk (DeepSeek-R1's rejection sampling)
    script: str = ""
    # completions of student models on the pool's questions, for --difficulty and variance
    attempts: tuple[str, ...] = ()
    # s1: no attempt right; limo: in file 1 none, in file 2 one to three; rate: --pass-rate
    difficulty: Literal["s1", "limo", "rate", "none"] = "s1"
    pass_rate: tuple[float, float] = (0.2, 0.8)  # lowest and highest share of right attempts
    # traces of a question, in file order; if unset 1 for s1 and its controls, else all
    per_question: int | None = None
    # traces of a question that give the same answer (OpenThoughts, 2506.04178)
    max_same_answer: int | None = None
    # STRONG=27e9 WEAK=9e9, by `model`: --per-question of one, the same FLOPs of the other
    match_flops: tuple[str, str] | None = None

    # JSON {domain: [keywords]}, or s1's list; else a row's domain, subject or task counts
    taxonomy: str | None = None
    # completions whose replies end in a code of --taxonomy; `ask` writes the questions for them
    domains: str | None = None
    # LIMO's words: the two of each kind that the paper names, or our longer lists
    words: Literal["strict", "extended"] = "strict"
    # tokens from which LIMO's length term is 1; if unset the pool's longest trace
    length_cap: int | None = None
    # limo-band: 1 is the fifth with the lowest scores of each question, 5 the highest
    band: int = 5

    # easy: by pass rate, level or length; nll: by the mean of `logp`
    order: Literal["chosen", "random", "easy", "nll"] = "chosen"
    corrupt: str = ""  # digits, keywords, shuffle, delete or insert, with :SHARE (2502.07374)
    # name a budget in the question: tokens, steps (s1, §E.1), l1:LOW:HIGH:SHARE (2503.04697), or
    # used:LOW:HIGH:STEP:MOST, what the completion used to the nearest STEP, MOST rows of each
    budget: str = ""
    # problems again with a hint, as " ({answer})"; `choices` marks the right one (STaR)
    hint: str = ""
    # write each row so often; 128 with --method variance --k 1 is 1-shot RLVR (2504.20571)
    copies: int = 1


TRACE = ("thinking", "response")


@dataclass(frozen=True)
class RowFilter:
    find_reason: Callable  # (row, inputs) -> the reason to drop the row, or None
    needs: tuple  # fields that every row must hold
    when: Callable  # settings -> whether they ask for this filter


@dataclass(frozen=True)
class Method:
    select: Callable  # (rows, k, inputs) -> at most k of the rows, or copies with more fields
    needs: tuple  # fields that every row must hold
    as_in_s1: bool  # unless told otherwise, filter by quality and keep one trace per question
    stream: Callable | None = None  # (pool, k, inputs) -> the same rows as cards


def row_filter(name, when=lambda cfg: True, needs=()):
    """Put the decorated function into FILTERS, behind those that are there."""

    def register(find_reason):
        FILTERS[name] = RowFilter(find_reason, needs, when)
        return find_reason

    return register


def method(name, needs=(), as_in_s1=False):
    """Put the decorated function into METHODS."""

    def register(select):
        METHODS[name] = Method(select, needs, as_in_s1)
        return select

    return register


# ---- Filters: the reason to drop a row, or None -------------------------------------------------


@row_filter("copies")
def drop_copies(row, inputs):
    key = question_of(row), row.get("thinking") or "", row.get("response") or ""
    return "same question and trace" if inputs.limits["copies"].exceeds(1, *key) else None


@row_filter("subset", when=lambda cfg: cfg.subset)
def drop_other_subsets(row, inputs):
    subset = inputs.cfg.subset
    return None if in_subset(row, subset) else f"not {subset}"


@row_filter("held out", when=lambda cfg: cfg.against)
def drop_held_out(row, inputs):
    """s1, §C.5: a question that shares an 8-gram with one of the test sets is dropped."""
    return inputs.held_out.find_reason(row)


@row_filter("near copies", when=lambda cfg: cfg.dedup)
def drop_near_copies(row, inputs):
    return inputs.near_copies.find_reason(row)


def filters_quality(cfg):
    return METHODS[cfg.method].as_in_s1 if cfg.quality is None else cfg.quality


@row_filter("quality", when=filters_quality, needs=TRACE)
def drop_poor_quality(row, inputs):
    """s1, §2.2: formatting issues such as figures that are not there; the rest is ours."""
    return find_quality_problem(row)


@row_filter("language", when=lambda cfg: cfg.script, needs=("thinking",))
def drop_mixed_language(row, inputs):
    share = reward_language({"text": row["thinking"] or ""}, None, inputs.cfg.script)
    return None if share == 1 else f"words that are not {inputs.cfg.script}"


@row_filter("")  # without a name: drops nothing, and the funnel does not show it
def write_correct(row, inputs):
    """From here on rows with a response have `correct`. Grading is slow: cheap filters go first."""
    grade_row(row)


@row_filter("correct", when=lambda cfg: cfg.keep == "correct", needs=("response",))
def drop_wrong(row, inputs):
    if row["correct"] is None:
        return "cannot be graded"
    if not row["correct"]:
        return "wrong"
    # A model's own text may hold a second <think>.
    return "delimiter in text" if holds_delimiter(row) else None


@row_filter("wrong", when=lambda cfg: cfg.keep == "wrong", needs=("response",))
def drop_right(row, inputs):
    if row["correct"] is None:
        return "cannot be graded"
    return "right" if row["correct"] else None


def s1_difficulty(n_right):
    """s1, §2.2: drop a question that any attempt solves. n_right: per file, None if never tried."""
    return "solved" if any(n_right) else None


def limo_difficulty(n_right):
    """LIMO, §3.1.1: a weak model's 4 tries all fail, and 1 to 3 of a strong one's 32 succeed."""
    weak, strong = n_right
    if weak:
        return "solved by the weak model"
    if strong is None:  # never tried: kept, and the funnel says how many
        return None
    if strong == 0:
        return "never solved"
    return "solved too often" if strong > 3 else None


def rate_difficulty(rate, low, high):
    """Keep a window of pass rates. rate: share of right attempts, None if there are none."""
    if rate is None:
        return "never attempted"
    if rate < low:
        return "too hard"
    return "too easy" if rate > high else None


def filters_difficulty(cfg):
    # For variance the attempts are the accuracies over time.
    return cfg.attempts and cfg.difficulty != "none" and cfg.method != "variance"


@row_filter("difficulty", when=filters_difficulty)
def drop_by_difficulty(row, inputs):
    name = str(row["id"])
    inputs.funnel.n_untried += name not in inputs.pass_rates
    if inputs.cfg.difficulty == "rate":
        return rate_difficulty(inputs.pass_rates.get(name), *inputs.cfg.pass_rate)
    n_right = [right.get(name) for right, _ in inputs.attempts]
    return s1_difficulty(n_right) if inputs.cfg.difficulty == "s1" else limo_difficulty(n_right)


@row_filter("budget", when=lambda cfg: cfg.budget.startswith("used"), needs=(*TRACE, "n_tokens"))
def drop_other_budgets(row, inputs):
    """As many rows of each length: a model's own answers are mostly short."""
    _, numbers = rewrite.parse_budget(inputs.cfg.budget)
    if type(row["n_tokens"]) is not int:
        raise BadInput(f"--budget used: row {row['id']}: n_tokens is not a number of tokens")
    budget, most = rewrite.used_budget(row, numbers), numbers[-1]
    if budget is None:
        return "no budget of the range"
    is_beyond = inputs.limits["budget"].exceeds(most, str(budget))
    return f"more than {most} of a budget" if is_beyond else None


@row_filter("flops", when=lambda cfg: cfg.match_flops)
def drop_beyond_flops(row, inputs):
    """2408.16737, §3: keep as many samples of a weak teacher as the strong one's FLOPs buy."""
    teacher = row.get("model")
    if teacher not in inputs.samples:
        return "other teacher"
    n = inputs.samples[teacher]
    is_beyond = inputs.limits["flops"].exceeds(n, question_of(row), teacher)
    return f"more than {n} of {teacher}" if is_beyond else None


def traces_per_question(cfg):
    return cfg.per_question or (1 if METHODS[cfg.method].as_in_s1 else None)


@row_filter("questions", when=lambda cfg: traces_per_question(cfg) and not cfg.match_flops)
def drop_later_traces(row, inputs):
    limit = traces_per_question(inputs.cfg)
    return "later trace" if inputs.limits["questions"].exceeds(limit, question_of(row)) else None


@row_filter("answers", when=lambda cfg: cfg.max_same_answer, needs=("response",))
def drop_same_answers(row, inputs):
    """OpenThoughts (2506.04178): at most a few responses per question that give the same answer."""
    key = question_of(row), repr(canonical(row, answer_of(row)))
    is_beyond = inputs.limits["answers"].exceeds(inputs.cfg.max_same_answer, *key)
    return "same answer again" if is_beyond else None


# ---- s1: rows -> at most k of them --------------------------------------------------------------

WINDOW = 64  # longest rows of a domain that are drawn from: a rank beyond weighs less than 2^-64


@method("s1", needs=TRACE, as_in_s1=True)
def select_s1(rows, k, inputs):
    """Algorithm 1 of s1."""
    rng = random.Random(inputs.cfg.seed)
    # A. take some rows outright
    chosen = take_outright(rows, k)
    # B. until there are k: a domain, then a row by its length
    return draw_by_domain(longest_last(rows), k, rng, chosen, WINDOW)


def take_outright(rows, k):
    """Step A: the rows that are taken before any draw, at most k, in the order of sort_rows.

    Those with a right answer from GPQA and AIME, and from MATH if they have more than 5,600 tokens.
    """

    def is_taken(row):
        benchmark = benchmark_of(row)
        is_long = benchmark == "MATH" and n_tokens(row) > 5600
        return row.get("correct") is True and (benchmark in ("GPQA", "AIME") or is_long)

    return sort_rows(filter(is_taken, rows))[:k]


def draw_by_domain(rows, k, rng, chosen=(), window=1, weigh_domains=None):
    """Step B: add rows to the chosen ones until there are k.

    A domain ~ uniform, then by length one of the last `window` rows there. Chosen rows stay in the
    pools and may be drawn in vain, as in s1's notebook. Two calls of rng.choices for each draw:
    among the domains that are left, sorted by name, then among places, the longest row first.
    rows: of each domain the longest comes last.
    weigh_domains: (domains, number of rows chosen) -> weights, or None for uniform.
    """
    chosen = list(chosen)
    taken = {id(row) for row in chosen}
    pools = {}
    for row in sorted(rows, key=domain_of):
        pools.setdefault(domain_of(row), []).append(row)
    while len(chosen) < k and pools:
        domains = list(pools)
        domain_weights = weigh_domains(domains, len(chosen)) if weigh_domains else None
        domain = rng.choices(domains, domain_weights)[0]
        last_first = pools[domain][-window:][::-1]
        row_weights = length_weights([n_tokens(row) for row in last_first])
        place = rng.choices(range(len(last_first)), row_weights)[0]
        row = pools[domain].pop(-1 - place)
        if not pools[domain]:
            del pools[domain]
        if id(row) not in taken:
            chosen.append(row)
    return chosen


def length_weights(lengths):
    """P(i) = 2^-rank_i / sum 2^-rank, rank 0 = longest (s1, §2.2); equal lengths in order."""
    ranked = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    total = 2 - 2.0 ** (1 - len(lengths))
    weights = [0.0] * len(lengths)
    for rank, i in enumerate(ranked):
        weights[i] = 2.0**-rank / total
    return weights


def longest_last(rows):
    return sort_rows(rows, key=lambda row: -n_tokens(row))[::-1]


@method("s1-notebook", needs=TRACE, as_in_s1=True)
def select_s1_notebook(rows, k, inputs):
    """As in s1's filter.ipynb: the last 30% of k follow the domains of GPQA and AIME."""
    gpqa = Counter(domain_of(row) for row in rows if benchmark_of(row) == "GPQA")
    aime = Counter(domain_of(row) for row in rows if benchmark_of(row) == "AIME")
    weight_of = benchmark_weights(gpqa, aime)

    def weigh_domains(domains, n_chosen):
        weights = [weight_of.get(domain, 0) for domain in domains]
        return weights if any(weights) and n_chosen >= 0.7 * k else None

    rng = random.Random(inputs.cfg.seed)
    outright = take_outright(rows, k)
    return draw_by_domain(longest_last(rows), k, rng, outright, WINDOW, weigh_domains)


def benchmark_weights(gpqa, aime):
    """Rows by domain -> {domain: probability}, with GPQA brought to about half the mass of AIME."""
    ratio = 0.5 * aime.total() / gpqa.total() if gpqa else 0
    counts = Counter({domain: int(n * ratio) for domain, n in gpqa.items()}) + aime
    return {domain: n / counts.total() for domain, n in counts.items()}


# ---- Controls (s1, §5.1) ------------------------------------------------------------------------


@method("random", as_in_s1=True)
def select_random(rows, k, inputs):
    return random.Random(inputs.cfg.seed).sample(sort_rows(rows), min(k, len(rows)))


@method("diverse", as_in_s1=True)
def select_diverse(rows, k, inputs):
    """domain ~ uniform, row in it ~ uniform."""
    rng = random.Random(inputs.cfg.seed)
    shuffled = rng.sample(sort_rows(rows), len(rows))
    return draw_by_domain(shuffled, k, rng)


@method("longest", needs=TRACE, as_in_s1=True)
def select_longest(rows, k, inputs):
    return sort_rows(rows, key=lambda row: -n_tokens(row))[:k]


@method("full")
def select_full(rows, k, inputs):
    return rows


# ---- LIMO, §3.1: a score for each row, then the best --------------------------------------------

KINDS_OF_WORDS = (VERIFY, EXPLORE, CONNECT)


@method("limo", needs=("response",))
def select_limo(rows, k, inputs):
    """The k best rows by LIMO's score, one per problem, as copies with `score`."""
    return best_per_question(rows, score_rows(rows, inputs))[:k]


@method("limo-low", needs=("response",))
def select_limo_low(rows, k, inputs):
    return best_per_question(rows, score_rows(rows, inputs), lowest=True)[:k]


def score_rows(rows, inputs):
    terms = [limo_terms(row, inputs.cfg.words) for row in rows]
    columns = list(zip(*terms)) or [()] * 4
    return limo_scores(columns, inputs.cfg.length_cap)


def limo_terms(row, words="strict"):
    """(length, shares of verifying, exploring and connecting words) of a row's trace."""
    said = words_of(trace_of(row))
    shares = [count_words(said, kind[words]) / max(1, len(said)) for kind in KINDS_OF_WORDS]
    return n_tokens(row), *shares


def limo_scores(columns, length_cap=None):
    """LIMO's score of each row, 0 to 1. columns: the four terms, each of all rows.

    A score is relative to these rows, since each term is divided by its maximum over them.
    """
    longest, most_v, most_e, most_c = (max(column, default=0) or 1 for column in columns)
    cap = length_cap or longest
    # an array takes 8 bytes a score, a list 32
    return array(
        "d",
        (
            0.30 * min(1, n / cap) + 0.20 * v / most_v + 0.25 * e / most_e + 0.25 * c / most_c
            for n, v, e, c in zip(*columns)
        ),
    )


def rank_by_score(rows, scores, lowest=False):
    """Copies of the rows with `score`, best first; of equal scores the longer, then by id."""
    sign = 1 if lowest else -1
    scored = [row | {"score": score} for row, score in zip(rows, scores)]
    return sort_rows(scored, key=lambda row: (sign * row["score"], sign * n_tokens(row)))


def best_per_question(rows, scores, lowest=False):
    return first_of_each(rank_by_score(rows, scores, lowest), question_of)


def first_of_each(rows, key):
    """The first row of each key(row)."""
    first = {}
    for row in rows:
        first.setdefault(key(row), row)
    return list(first.values())


@method("limo-band", needs=("response",))
def select_limo_band(rows, k, inputs):
    return middle_of_band(rows, score_rows(rows, inputs), inputs.cfg.band)[:k]


def middle_of_band(rows, scores, band, n_bands=5):
    """LIMO, §6.3.1: from each question's right traces by score, take the middle one of a band.

    Band 1 has the lowest scores. A question needs n_bands right traces. Questions come by their
    best score, so that the first k are the same in every band.
    """
    by_question = {}
    for row in rank_by_score(rows, scores):
        if row.get("correct") is True:
            by_question.setdefault(question_of(row), []).append(row)
    chosen = []
    for traces in by_question.values():
        if len(traces) < n_bands:
            continue
        lowest_first = traces[::-1]
        start = (band - 1) * len(traces) // n_bands
        end = band * len(traces) // n_bands
        chosen.append(lowest_first[(start + end - 1) // 2] | {"band": band})
    if not chosen:
        raise BadInput("--method limo-band: no question has five right traces to divide into bands")
    return chosen


# ---- 1-shot RLVR (2504.20571, §2) ---------------------------------------------------------------


@method("variance")
def select_variance(rows, k, inputs):
    """The k rows whose accuracy varied most over the epochs of an earlier training."""
    return rank_by_score(rows, [historical_variance(row, inputs) for row in rows])[:k]


def historical_variance(row, inputs):
    """Population standard deviation of a question's accuracy over epochs.

    The accuracies are the row's `accuracies`, which grpo.py writes (once called `history`, which
    now holds messages), or one per file of --attempts. Raises BadInput for less than two.
    """
    name = str(row["id"])
    accuracies = row.get("accuracies")
    if not accuracies and are_numbers(row.get("history")):
        accuracies = row["history"]
    if not accuracies:
        if len(inputs.attempts) == 1:
            raise BadInput(
                "--method variance: one file of --attempts has no variance; it needs two or more, "
                "one per epoch"
            )
        accuracies = [right[name] / n[name] for right, n in inputs.attempts if n[name]]
    if not are_numbers(accuracies):
        raise BadInput(f"--method variance: row {name} has neither `accuracies` nor --attempts")
    if len(accuracies) < 2:
        raise BadInput(
            f"--method variance: row {name} was tried in one epoch only, which has no variance; it "
            "needs two or more (more --steps of grpo.py, or more files of --attempts)"
        )
    return statistics.pstdev(accuracies)


def are_numbers(values):
    """Whether this is a list of numbers, at least one."""
    if not isinstance(values, list) or not values:
        return False
    return all(isinstance(value, (int, float)) for value in values)


def select(rows, inputs):
    """Choose from a list of rows by --method: nothing is filtered, graded or written."""
    return METHODS[inputs.cfg.method].select(rows, inputs.cfg.k, inputs)


# ---- The same selections for a pool larger than memory ------------------------------------------


def streaming(*names):
    """Declare that these methods have a twin that chooses the same rows in little memory."""

    def register(stream):
        for name in names:
            METHODS[name] = dataclasses.replace(METHODS[name], stream=stream)
        return stream

    return register


@streaming("s1")
def stream_s1(pool, k, inputs):
    def prune(cards):
        longest_first = select_longest(cards, len(cards), inputs)
        return low_memory.within_reach_of_s1(longest_first, take_outright(cards, k), k, WINDOW)

    return select_s1(low_memory.collect_cards(pool, prune), k, inputs)


@streaming("longest")
def stream_longest(pool, k, inputs):
    cards = low_memory.collect_cards(pool, lambda cards: select_longest(cards, k, inputs))
    return select_longest(cards, k, inputs)


@streaming("random")
def stream_random(pool, k, inputs):
    keys, _ = low_memory.collect_keys(pool)
    return pool.cards(low_memory.draw_random(keys, k, inputs.cfg.seed))


@streaming("diverse")
def stream_diverse(pool, k, inputs):
    keys, domains = low_memory.collect_keys(pool)
    seed = inputs.cfg.seed
    return pool.cards(low_memory.draw_diverse(keys, domains, k, seed, draw_by_domain))


@streaming("limo", "limo-low", "limo-band")
def stream_limo(pool, k, inputs):
    cfg = inputs.cfg
    table = low_memory.ScoreTable(pool, lambda row: limo_terms(row, cfg.words))
    scores = limo_scores(table.terms, cfg.length_cap)
    if cfg.method == "limo-band":
        reach = low_memory.within_reach_of_bands(table.questions, table.right, scores, k)
        return middle_of_band(*table.read_again(reach, scores), cfg.band)[:k]
    lowest = cfg.method == "limo-low"
    reach = low_memory.within_reach_of_best(table.questions, scores, k, lowest)
    return best_per_question(*table.read_again(reach, scores), lowest)[:k]


@streaming("variance")
def stream_variance(pool, k, inputs):
    table = low_memory.ScoreTable(pool, lambda row: [historical_variance(row, inputs)])
    [scores] = table.terms
    reach = low_memory.within_reach_of_best(table.questions, scores, k)
    return rank_by_score(*table.read_again(reach, scores))[:k]


# ---- The command --------------------------------------------------------------------------------


class Inputs:
    """The settings and the files that they name: what filters and methods read beside the rows."""

    def __init__(self, cfg):
        self.cfg = cfg
        # for each file ({id: number of right attempts}, {id: number of attempts})
        self.attempts = [read_attempts(path) for path in cfg.attempts]
        self.pass_rates = pass_rates(self.attempts)  # {id: share of right attempts}
        self.taxonomy = rewrite.read_taxonomy(cfg.taxonomy) if cfg.taxonomy else []
        self.samples = samples_per_teacher(cfg) if cfg.match_flops else {}
        self.funnel = Funnel(with_pairs=bool(cfg.audit))
        self.limits = defaultdict(KeyLimit)  # name of a filter: how many rows it met by key
        if cfg.against:
            rows = [row for path in cfg.against for _, row in stream_rows(path, ("question",))]
            layers = parse_layers("--layers", cfg.layers)
            self.held_out = CopyFinder(layers, partial(self.funnel.note_pair, "held out"), rows)
        if cfg.dedup:
            layers = parse_layers("--dedup", cfg.dedup)
            self.near_copies = CopyFinder(layers, partial(self.funnel.note_pair, "near copies"))


def samples_per_teacher(cfg):
    """{teacher: samples per question} of --match-flops. Raises BadInput."""
    n = cfg.per_question
    try:
        (strong, strong_size), (weak, weak_size) = (text.rsplit("=", 1) for text in cfg.match_flops)
        n_weak = rewrite.matched_samples(n, float(strong_size), float(weak_size))
    except (ValueError, TypeError, ZeroDivisionError):
        raise BadInput(
            f"--match-flops {' '.join(cfg.match_flops)}: not STRONG=PARAMETERS WEAK=PARAMETERS "
            "with --per-question, the samples of the first"
        ) from None
    return {strong: n, weak: n_weak}


def check_settings(cfg):
    """Raise BadInput for settings that are out of range or do not go together."""
    if cfg.method not in METHODS:
        raise BadInput(f"--method {cfg.method}: not one of {', '.join(METHODS)}")
    counts = ("k", "length_cap", "per_question", "max_same_answer", "copies")
    given = {name: getattr(cfg, name) for name in counts}
    too_small = [name for name, n in given.items() if n is not None and n < 1]
    if too_small:
        raise BadInput(f"{', '.join(map(settings.flag, too_small))} must be at least 1")
    low, high = cfg.pass_rate
    refuse_if(not 0 <= low <= high <= 1, "--pass-rate takes two shares, LOW HIGH, from 0 to 1")
    refuse_if(not 1 <= cfg.band <= 5, f"--band {cfg.band}: there are five, 1 to 5")
    refuse_if(
        cfg.attempts and cfg.difficulty == "limo" and len(cfg.attempts) != 2,
        "--difficulty limo needs two files of --attempts: the weak model's, then the strong one's",
    )
    refuse_if(cfg.difficulty == "rate" and not cfg.attempts, "--difficulty rate needs --attempts")
    refuse_if(cfg.domains and not cfg.taxonomy, "--domains needs a --taxonomy")
    refuse_if(
        cfg.audit and not cfg.against and not cfg.dedup,
        "--audit needs --against or --dedup, which find the pairs",
    )
    refuse_if(
        cfg.hint and cfg.hint != "choices" and "{answer}" not in cfg.hint,
        f"--hint '{cfg.hint}' holds no {{answer}}",
    )
    refuse_if(
        cfg.corrupt and cfg.budget.startswith(("tokens", "used")),
        "--budget tokens and used need the trace's length in tokens, which --corrupt changes",
    )
    if cfg.corrupt:
        rewrite.parse_corruption(cfg.corrupt)
    if cfg.budget:
        rewrite.parse_budget(cfg.budget)
    if cfg.match_flops:
        samples_per_teacher(cfg)


def refuse_if(is_wrong, message):
    if is_wrong:
        raise BadInput(message)


def active_filters(cfg):
    """{name: RowFilter} of those that the settings ask for, in order."""
    return {name: each for name, each in FILTERS.items() if each.when(cfg)}


def filter_stages(inputs):
    """[(name, function: row -> the reason to drop it, or None)] of the active filters."""

    def stage(name, find_reason):
        return name, lambda row: find_reason(row, inputs)

    return [stage(name, each.find_reason) for name, each in active_filters(inputs.cfg).items()]


def needed_fields(cfg):
    """Fields that every row must hold: what the method, the filters and the rewriting need."""
    needs = {"question", *METHODS[cfg.method].needs}
    for each in active_filters(cfg).values():
        needs.update(each.needs)
    if cfg.corrupt or cfg.budget in ("tokens", "steps"):
        needs.update(TRACE)
    usual_order = ("question", *TRACE)
    return [*(name for name in usual_order if name in needs), *sorted(needs - set(usual_order))]


def rank_of(row, inputs):
    """The number that --order sorts by."""
    cfg = inputs.cfg
    if cfg.order == "random":
        return random.Random(f"{cfg.seed} {row['id']}").random()
    if cfg.order == "easy" and inputs.pass_rates:
        return -inputs.pass_rates.get(str(row["id"]), 0.0)
    if cfg.order == "easy":
        return level_of(row) or n_tokens(row)
    if cfg.order == "nll":
        logp = row.get("logp")
        if not isinstance(logp, list) or not logp:
            raise BadInput(
                f"--order nll: row {row['id']} has no `logp`, which generate.py --score writes"
            )
        return -statistics.fmean(logp)
    return 0


def choose_rows(rows, inputs, prepare):
    """Yield the rows to keep, of (place, row) that come once; chosen rows may be read again."""
    cfg = inputs.cfg

    def reread(places):
        for place, row in reread_rows(cfg.data, places):
            row = prepare(row)
            grade_row(row)
            yield place, row

    def rank(row):
        return rank_of(row, inputs)

    pool = low_memory.StreamedPool(rows, reread, rank)
    stream = METHODS[cfg.method].stream
    if cfg.method == "full":
        yield from (row for _, row in rows) if cfg.order == "chosen" else pool.in_order()
    elif stream:
        cards = stream(pool, cfg.k, inputs)
        check_number(cards, cfg)
        cards.sort(key=lambda card: card.rank)
        more = {card.at: card.more for card in cards}
        for place, row in reread(card.at for card in cards):
            yield row | more[place]
    else:
        chosen = select([row for _, row in rows], inputs)
        check_number(chosen, cfg)
        yield from sorted(chosen, key=rank)


def check_number(chosen, cfg):
    """Say when fewer than k rows are left. Raises BadInput if the method chose nothing."""
    n = len(chosen)
    refuse_if(n == 0, f"--method {cfg.method} chose no row")
    if n < cfg.k:
        print(f"only {n} rows are left to choose, fewer than --k {cfg.k}: all of them are taken")


def curate(cfg):
    """Filter, choose, write. Settings, funnel and totals go beside the rows."""
    check_settings(cfg)
    for path in filter(None, (cfg.out, cfg.audit)):
        check_file_to_write(path)
    inputs = Inputs(cfg)
    asks_domain = cfg.domains == "ask"
    prepare = make_prepare(inputs.taxonomy, None if asks_domain else cfg.domains)
    stages = [("", check_ids(cfg.data, prepare)), *filter_stages(inputs)]

    # Nothing is read yet: rows pass from generator to generator, one at a time, while write_rows()
    # asks for them.
    funnel, taken = inputs.funnel, Counter()
    pool = ((place, prepare(row)) for place, row in stream_rows(cfg.data, needed_fields(cfg)))
    left = funnel.pass_rows(pool, stages)
    chosen = count_rows(choose_rows(left, inputs, prepare), taken)
    taxonomy = inputs.taxonomy if asks_domain else ()
    rewritten = rewrite.rewrite_rows(
        chosen, cfg.hint, cfg.corrupt, cfg.budget, taxonomy, cfg.copies, cfg.seed
    )
    try:
        write_rows(cfg.out, rewritten)
    finally:
        Path(cfg.out + ".part").unlink(missing_ok=True)
        if cfg.audit and funnel.table:  # also where a filter left nothing
            write_rows(cfg.audit, funnel.pairs)
    totals = {"left": summarise(funnel.left), cfg.method: summarise(taken)}
    runlog.save_config(cfg, runlog.header_of(cfg.out), funnel=funnel.table, totals=totals)
    print(summary_line(cfg.method, totals[cfg.method]))


def main(cfg):
    """curate(), and the rows that it wrote."""
    curate(cfg)
    return read_rows(cfg.out)


if __name__ == "__main__":
    settings.cli(curate, Config)
