"""The rows of a pool: names, lengths, benchmarks and levels, read a line at a time.

A pool may be larger than memory. Its rows are read once for the filters; selection keeps a few numbers of each, a sort_key
or, of those that may be chosen, a Card; and the chosen rows are read again where they stand in the files.
"""

import hashlib
import json
import re
import struct
import sys
from collections import Counter
from pathlib import Path

from curation.rewrite import domain_by_keywords, domain_of_reply, without_hint
from curation.similarity import Seen, digest, normalised
from engine.rows import BadInput, parse_row
from grading.answers import answer_of, grade

BENCHMARKS = {
    name: re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])")
    for name, pattern in (
        ("GPQA", "(?i:gpqa)"),
        ("AIME", "(?i:aime)"),
        ("MATH", "MATH|(?i:openaimath)"),
        ("GSM8K", "(?i:gsm8k)"),
    )
}
SUBSETS = {  # benchmark: levels (0: whatever the level)
    # SimpleRL-Zoo
    "easy": {"GSM8K": {0}, "MATH": {1}},
    "medium": {"MATH": {1, 2, 3, 4}},
    "hard": {"MATH": {3, 4, 5}},
    # LIMO, §6.3.2
    "simple": {"MATH": {1, 2}},
    "complex": {"MATH": {3, 4, 5}},
    "advanced": {"AIME": {0}},
}


def domain_of(row):
    return str(row.get("domain") or row.get("subject") or row.get("task") or "unknown")


def n_tokens(row):
    """Length of the trace in tokens; in words when nobody counted tokens."""
    n = row.get("n_thinking_tokens")
    return n if n or isinstance(row, Card) else len(trace_of(row).split())


def trace_of(row):
    """The reasoning of a row: its thinking, or in the plain format, which has none, its response."""
    return row.get("thinking") or row.get("response") or ""


def question_id(question):
    """Name of a question in s1: 16 hex digits of its SHA-256."""
    return hashlib.sha256(question.encode("utf-8")).hexdigest()[:16]


def benchmark_of(row):
    """ "GPQA", "AIME", "MATH", "GSM8K" or None, from the source. NuminaMath, a copy of all of them, is none of them."""
    source = str(row.get("source") or "")
    if "numina" in source.lower():
        return None
    return next((name for name, pattern in BENCHMARKS.items() if re.search(pattern, source)), None)


def level_of(row):
    """5 for 5, "5" and "Level 5"; 0 without a level."""
    found = re.search(r"\d+", str(row.get("level")))
    return int(found[0]) if found else 0


def in_subset(row, name):
    levels = SUBSETS[name].get(benchmark_of(row), ())
    return 0 in levels or level_of(row) in levels


def question_of(row):
    """What two rows of the same question share."""
    return row.question if isinstance(row, Card) else normalised(row["question"])


class Card:
    """What selection looks at of a row, under half a KB where a row may have 20: its text stays in the file, at `at`."""

    __slots__ = (
        "at",
        "id",
        "thinking",
        "source",
        "domain",
        "correct",
        "n_thinking_tokens",
        "question",
        "rank",
    )
    response = ""

    def __init__(self, at, row, rank):
        self.at, self.id, self.rank, self.correct = at, str(row["id"]), rank, row.get("correct")
        self.source, self.domain = (
            sys.intern(str(row.get(name) or "")) for name in ("source", "domain")
        )
        self.thinking = digest(row.get("thinking") or "", row.get("response") or "")  # settles ties
        self.n_thinking_tokens, self.question = n_tokens(row), digest(normalised(row["question"]))

    def __getitem__(self, name):
        return getattr(self, name)

    def get(self, name):
        return getattr(self, name, None)


def sort_key(place, row, domain=0):
    """Some 70 bytes that sort as (id, trace) do, and then by place; domain: its number."""
    name = str(row["id"]).encode("utf-8").replace(b"\0", b"\0\xff")  # \0\0 ends it
    return (
        name
        + b"\0\0"
        + struct.pack(
            ">QQL", digest(row.get("thinking") or "", row.get("response") or ""), place, domain
        )
    )


def place_of(key):
    """(place, number of the domain) of a sort_key."""
    return struct.unpack(">QL", key[-12:])


def files_of(path):
    return sorted(Path(path).glob("*.jsonl")) if Path(path).is_dir() else [Path(path)]


def stream(path, need=(), places=None):
    """(place, row) of each line of a .jsonl file or of a directory of them, or of the lines at these places, one in
    memory at a time. Raises BadInput as data.rows.read_rows does."""
    files = files_of(path)
    if not files:
        raise BadInput(f"{path}: no .jsonl file in this directory")
    opened = {}
    try:
        for place in places or ():
            file = files[place >> 48]
            lines = opened.get(file) or opened.setdefault(file, open(file, "rb"))
            lines.seek(place & (1 << 48) - 1)
            yield place, parse_line(str(file), lines.readline(), need)
        for index, file in enumerate(files if places is None else ()):
            offset = 0
            with open(file, "rb") as lines:
                for number, line in enumerate(lines, 1):  # "\n" alone ends a line: U+2028 does not
                    yield (index << 48) + offset, parse_line(f"{file}:{number}", line, need)
                    offset += len(line)
            if not offset:
                raise BadInput(f"{file}:1: empty line")
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from error
    finally:
        for lines in opened.values():
            lines.close()


def parse_line(where, line, need):
    """As rows.parse_row; its texts are texts and its length is a number, so that curation need not look again."""
    row = parse_row(where, line, need)
    for field in ("question", "thinking", "response"):
        if not isinstance(row.get(field) or "", str):
            raise BadInput(f"{where}: {field} {row[field]!r:.60} is not text")
    n = row.get("n_thinking_tokens") or 0
    if not isinstance(n, (int, float)) or not 0 <= n < float("inf"):
        raise BadInput(f"{where}: n_thinking_tokens {n!r:.60} is not a number")
    if b"\\ud" in line.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise BadInput(
                f"{where}: holds half a character (a lone \\ud... escape), which no text can"
            ) from None
    return row


def preparation(taxonomy=(), field="", replies=None):
    """A function: row of the file -> row with its own question (STaR's hint gone), s1's id, domain and length.

    The domain is that of a field; or with a taxonomy what a completion of `replies` (a file) names, else by keywords.
    """
    named = (
        {}
        if not replies
        else {
            str(row["id"]): domain_of_reply(row["response"], taxonomy)
            for _, row in stream(replies, ("id", "response"))
        }
    )

    def prepare(row):
        row = without_hint(row)
        if row.get("id") is None:
            row = {"id": question_id(row["question"])} | {k: v for k, v in row.items() if k != "id"}
        if field:
            domain = str(row.get(field) or "unknown")
        elif taxonomy:
            domain = (
                named.get(str(row["id"]))
                or domain_by_keywords(row["question"], taxonomy)
                or "unknown"
            )
        else:
            domain = domain_of(row)
        return (
            row
            | {"domain": domain}
            | ({"n_thinking_tokens": n_tokens(row)} if trace_of(row) else {})
        )

    return prepare


def judge(row):
    """Write `correct` into a row that has a response."""
    if row.get("response") is not None:
        verdict = grade(row, answer_of(row))
        row["correct"] = row.get("correct") if verdict is None else verdict


def read_attempts(path):
    """Completions -> ({id: how many are right}, {id: how many there are})."""
    solved, tries, ungraded = Counter(), Counter(), 0
    for _, row in stream(path, need=("id",)):
        verdict = grade(row, answer_of(row))
        if verdict is None:
            ungraded += 1
            continue
        solved[str(row["id"])] += verdict
        tries[str(row["id"])] += 1
    if ungraded:
        print(f"{path}: {ungraded} attempts have no answer to grade them by and do not count")
    return solved, tries


def pass_rates(attempts):
    """{id: share of right attempts over all files}."""
    solved, tries = (
        (sum(counters, Counter()) for counters in zip(*attempts)) if attempts else ({}, {})
    )
    return {name: solved[name] / n for name, n in tries.items()}


def one_question_per_id(path, prepare):
    """A filter that nothing fails. Raises BadInput for an id that stands for two questions: attempts, domains and draws
    belong to an id, and so do the completions of every later stage."""
    names, pairs = Seen(), Seen()

    def problem(row):
        name = str(row["id"])
        if pairs.add(digest(name, question_of(row))) and not names.add(digest(name)):
            first, line, file = {}, 0, -1  # question: where it stands, read once more
            for place, other in stream(path):
                line, file = line + 1 if place >> 48 == file else 1, place >> 48
                if str((other := prepare(other))["id"]) == name:
                    first.setdefault(question_of(other), f"{files_of(path)[file]}:{line}")
            one, other, *_ = first.values()
            raise BadInput(
                f"{one} and {other}: different questions with one id, '{name}'; a row without an `id` gets "
                "that of s1, made from its question"
            )

    return problem


class Funnel:
    """Filters, one after the other, and what they let pass."""

    def __init__(self, with_pairs=False):
        # (name, filter): row -> what speaks against it, or None; without a name, not counted
        self.stages = []
        # by stage: rows, Counters of reasons, of pairs
        self.passed, self.dropped, self.similar = Counter(), {}, {}
        self.left, self.untried = Counter(), 0  # for summary(); rows that were never attempted
        # similar questions; what report() printed
        self.with_pairs, self.pairs, self.table = with_pairs, [], []

    def note(self, stage, pair):
        """Remember a pair of similar questions, and count it under the tenth of its similarity."""
        self.similar.setdefault(stage, Counter())[
            f"{pair['layer']} {int(10 * pair['similarity']) / 10}"
        ] += 1
        if self.with_pairs:
            self.pairs.append({"stage": stage} | pair)

    def survivors(self, rows):
        """Those of the (place, row) that pass, then report()."""
        for place, row in rows:
            self.passed["pool"] += 1
            for stage, problem in self.stages:
                if reason := problem(row):
                    self.dropped.setdefault(stage, Counter())[reason] += 1
                    break
                self.passed[stage] += 1
            else:
                yield place, count(self.left, row)
            if self.passed["pool"] % 100_000 == 0:
                print(
                    f"{self.passed['pool']} rows read; "
                    + ", ".join(
                        f"{stage} {self.passed[stage]}" for stage, _ in self.stages if stage
                    ),
                    file=sys.stderr,
                    flush=True,
                )
        self.report()

    def report(self):
        """Print the funnel. Raises BadInput if a filter left nothing."""
        print(f"{'pool':<12} {self.passed['pool']:>7} rows")
        self.table.append({"stage": "pool", "kept": self.passed["pool"]})
        for stage in [name for name, _ in self.stages if name]:
            reasons, kept = self.dropped.get(stage, Counter()), self.passed[stage]
            if stage == "difficulty" and self.untried == kept + reasons.total() > 0:
                raise BadInput("--attempts: none of their ids is the id of a row of --data")
            why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
            print(f"{stage:<12} {kept:>7} kept  (-{reasons.total()}{': ' * bool(why)}{why})")
            self.table.append({"stage": stage, "kept": kept, "dropped": dict(reasons)})
            if not kept:
                raise BadInput(f"no row is left after the filter '{stage}' ({why})")
            if stage in self.similar:
                self.table[-1]["similarity"] = dict(sorted(self.similar[stage].items()))
            if stage == "difficulty":
                self.table[-1]["without_attempt"] = self.untried
                print(f"{'':<12} {self.untried:>7} of them were never attempted")
        print(shown("left", summary(self.left)), flush=True)  # choosing and writing come next


def count(totals, row):
    """Count a row for summary(), and hand it on."""
    totals["rows"] += 1
    totals["correct"] += row.get("correct") is True
    totals["graded"] += row.get("correct") is not None
    totals["tokens"] += row.get("n_thinking_tokens") or 0
    totals["domain", row["domain"]] += 1
    return row


def summary(totals):
    """The numbers that tell two selections apart."""
    domains = Counter({name[1]: n for name, n in totals.items() if name[0] == "domain"})
    return {
        "rows": totals["rows"],
        "correct": totals["correct"] / totals["graded"] if totals["graded"] else None,
        "mean_thinking_tokens": totals["tokens"] / totals["rows"],
        "domains": dict(domains.most_common()),
    }


def shown(name, total):
    """A summary as a line."""
    correct = "?" if total["correct"] is None else f"{total['correct']:.1%}"
    domains = ", ".join(f"{domain} {n}" for domain, n in list(total["domains"].items())[:8])
    return (
        f"{name:<12} {total['rows']:>7} rows  correct {correct}  thinking tokens {total['mean_thinking_tokens']:.1f}  "
        f"domains {domains}"
    )


def draw_funnel(funnel, path):
    """The rows left after each stage as a bar chart (PNG)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.4 * len(funnel)), layout="constrained")
    axes = figure.subplots()
    names, kept = [stage["stage"] for stage in funnel], [stage["kept"] for stage in funnel]
    axes.bar_label(axes.barh(names, kept), [f"{n:,}" for n in kept], padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="rows", xlim=(0, 1.15 * max(kept)))
    figure.savefig(path, dpi=150)
