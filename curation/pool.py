"""The rows of a pool: what can be asked of a row, and reading them a line at a time.

A pool may be larger than memory. Its rows are read once for the filters. A selection then keeps a
few numbers of each row, or a Card of those that may be chosen, and reads the chosen rows again from
their places in the files (curation/low_memory.py).
"""

import copy
import hashlib
import json
import re
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from curation.rewrite import domain_by_keywords, domain_of_reply, without_hint
from curation.similarity import DigestSet, digest, normalise
from engine.rows import BadInput, parse_row
from grading.answers import answer_of, grade

# ---- One row ------------------------------------------------------------------------------------

BENCHMARKS = {
    name: re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])")
    for name, pattern in (
        ("GPQA", "(?i:gpqa)"),
        ("AIME", "(?i:aime)"),
        ("MATH", "MATH|(?i:openaimath)"),
        ("GSM8K", "(?i:gsm8k)"),
    )
}
ANY_LEVEL = 0
SUBSETS = {  # name: {benchmark: levels}
    # SimpleRL-Zoo (2503.18892)
    "easy": {"GSM8K": {ANY_LEVEL}, "MATH": {1}},
    "medium": {"MATH": {1, 2, 3, 4}},
    "hard": {"MATH": {3, 4, 5}},
    # LIMO, §6.3.2
    "simple": {"MATH": {1, 2}},
    "complex": {"MATH": {3, 4, 5}},
    "advanced": {"AIME": {ANY_LEVEL}},
}


def domain_of(row):
    return str(row.get("domain") or row.get("subject") or row.get("task") or "unknown")


def n_tokens(row):
    """Length of the trace in tokens, or in words if nobody counted tokens."""
    counted = row.get("n_thinking_tokens")
    if counted or isinstance(row, Card):
        return counted
    return len(trace_of(row).split())


def trace_of(row):
    """A row's reasoning: its thinking, or in the plain format, which has none, its response."""
    return row.get("thinking") or row.get("response") or ""


def question_id(question):
    """The id that s1 gives a question: 16 hex digits of its SHA-256."""
    return hashlib.sha256(question.encode("utf-8")).hexdigest()[:16]


def question_of(row):
    """A name that all rows of the same question share."""
    return row.question if isinstance(row, Card) else normalise(row["question"])


def digest_of_trace(row):
    """64 bits that stand for the thinking and the response."""
    if isinstance(row, Card):
        return row.trace
    return digest(row.get("thinking") or "", row.get("response") or "")


def sort_rows(rows, key=lambda row: 0):
    """Sort rows by a key. Ties go by id, then by a digest of the trace, never by file order."""
    return sorted(rows, key=lambda row: (key(row), str(row["id"]), digest_of_trace(row)))


def benchmark_of(row):
    """ "GPQA", "AIME", "MATH", "GSM8K" or None, read from the row's source.

    NuminaMath copied from all of them and counts as none.
    """
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
    return ANY_LEVEL in levels or level_of(row) in levels


NO_FIELDS = {}  # one dict for all cards: an empty one each would cost 64 bytes


class Card:
    """The fields of a row that selections read, in under half a KB where a row may take 20.

    The text stays in the file, at the place `at`. As for a dict, `card | fields` is a card with
    more fields; they are added to the row when it is read again.
    """

    __slots__ = (
        "at",
        "id",
        "trace",
        "source",
        "domain",
        "correct",
        "n_thinking_tokens",
        "question",
        "rank",
        "more",
    )

    def __init__(self, at, row, rank=0):
        self.at = at
        self.id = str(row["id"])
        self.trace = digest_of_trace(row)
        self.source = sys.intern(str(row.get("source") or ""))
        self.domain = sys.intern(str(row.get("domain") or ""))
        self.correct = row.get("correct")
        self.n_thinking_tokens = n_tokens(row)
        self.question = digest(question_of(row))
        self.rank = rank  # what --order sorts by
        self.more = NO_FIELDS

    def __getitem__(self, name):
        return self.more[name] if name in self.more else getattr(self, name)

    def get(self, name):
        return self.more.get(name, getattr(self, name, None))

    def __or__(self, fields):
        card = copy.copy(self)
        card.more = self.more | fields
        return card


# ---- Reading ------------------------------------------------------------------------------------

# A row's place is one number: the file's number in the upper 16 bits, the byte offset in the rest.
OFFSET_BITS = 48


def files_of(path):
    """The .jsonl files of a directory in name order, or the file itself. Raises BadInput."""
    files = sorted(Path(path).glob("*.jsonl")) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise BadInput(f"{path}: no .jsonl file in this directory")
    return files


def stream_rows(path, need=()):
    """Yield (place, row) for each line of a .jsonl file or of a directory of them.

    One line is in memory at a time. Raises BadInput as engine.rows.read_rows does.
    """
    for index, file in enumerate(files_of(path)):
        offset = 0
        try:
            with open(file, "rb") as lines:  # in binary "\n" alone ends a line, U+2028 does not
                for number, line in enumerate(lines, 1):
                    place = (index << OFFSET_BITS) + offset
                    yield place, parse_line(f"{file}:{number}", line, need)
                    offset += len(line)
        except OSError as error:
            raise BadInput(f"{file}: cannot be read ({error.strerror})") from error
        if not offset:
            raise BadInput(f"{file}:1: empty line")


def reread_rows(path, places):
    """Yield (place, row) for these places, in their order."""
    files = files_of(path)
    opened = {}
    with ExitStack() as stack:
        for place in places:
            file = files[place >> OFFSET_BITS]
            if file not in opened:
                opened[file] = stack.enter_context(open_file(file))
            lines = opened[file]
            lines.seek(place & (1 << OFFSET_BITS) - 1)
            yield place, parse_line(str(file), lines.readline())


def open_file(file):
    try:
        return open(file, "rb")
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from error


def parse_line(where, line, need=()):
    """Read one line as rows.parse_row does, and check the types that curation relies on."""
    row = parse_row(where, line, need)
    for field in ("question", "thinking", "response"):
        if not isinstance(row.get(field) or "", str):
            raise BadInput(f"{where}: {field} {row[field]!r:.60} is not text")
    n = row.get("n_thinking_tokens") or 0
    if not isinstance(n, (int, float)) or not 0 <= n < float("inf"):
        raise BadInput(f"{where}: n_thinking_tokens {n!r:.60} is not a number")
    if b"\\ud" in line.lower():
        refuse_half_characters(where, row)
    return row


def refuse_half_characters(where, row):
    """Raise BadInput for a lone surrogate: JSON can escape it, but no UTF-8 file can hold it."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(
            f"{where}: holds half a character (a lone \\ud... escape), which UTF-8 cannot write"
        ) from None


# ---- Preparing ----------------------------------------------------------------------------------


def make_prepare(taxonomy=(), replies=None):
    """Return a function that fills in a row's id, domain and length, and takes STaR's hint away.

    With a taxonomy the domain is the one that a completion in the file `replies` names, else it is
    found by keywords. Without one it is the row's own domain, subject or task.
    """
    replied = {}
    for _, row in stream_rows(replies, ("id", "response")) if replies else ():
        replied[str(row["id"])] = domain_of_reply(row["response"], taxonomy)

    def find_domain(row):
        if not taxonomy:
            return domain_of(row)
        by_reply = replied.get(str(row["id"]))
        return by_reply or domain_by_keywords(row["question"], taxonomy) or "unknown"

    def prepare(row):
        row = without_hint(row)
        if row.get("id") is None:
            others = {field: value for field, value in row.items() if field != "id"}
            row = {"id": question_id(row["question"])} | others
        row = row | {"domain": find_domain(row)}
        if trace_of(row):
            row["n_thinking_tokens"] = n_tokens(row)
        return row

    return prepare


def grade_row(row):
    """Write `correct` into a row with a response. Its own value stays if no rule can grade it."""
    if row.get("response") is None:
        return
    verdict = grade(row, answer_of(row))
    row["correct"] = row.get("correct") if verdict is None else verdict


def check_ids(path, prepare):
    """Return a function that raises BadInput when a row's id was another question's before.

    Attempts, domains and draws go by id, and so do the completions of every later stage.
    """
    ids, pairs = DigestSet(), DigestSet()

    def check(row):
        name = str(row["id"])
        is_new_pair = pairs.add(digest(name, question_of(row)))
        if is_new_pair and not ids.add(digest(name)):
            raise BadInput(describe_clash(path, prepare, name))

    return check


def describe_clash(path, prepare, name):
    """Read the pool again for the first two questions with this id, and say where they are."""
    first = {}  # question: its file and line
    line, index = 0, None
    for place, row in stream_rows(path):
        is_same_file = place >> OFFSET_BITS == index
        index = place >> OFFSET_BITS
        line = line + 1 if is_same_file else 1
        row = prepare(row)
        if str(row["id"]) == name:
            first.setdefault(question_of(row), f"{files_of(path)[index]}:{line}")
    one, other, *_ = first.values()
    return (
        f"{one} and {other}: different questions with one id, '{name}'; a row without an `id` gets "
        "s1's, which is made from its question"
    )


# ---- Attempts -----------------------------------------------------------------------------------


def read_attempts(path):
    """Read completions -> ({id: how many are right}, {id: how many there are})."""
    n_right, n_tries, n_ungraded = Counter(), Counter(), 0
    for _, row in stream_rows(path, need=("id",)):
        verdict = grade(row, answer_of(row))
        if verdict is None:
            n_ungraded += 1
            continue
        n_right[str(row["id"])] += verdict
        n_tries[str(row["id"])] += 1
    if n_ungraded:
        print(f"{path}: {n_ungraded} attempts have no answer to grade them by and do not count")
    return n_right, n_tries


def pass_rates(attempts):
    """Attempts of several files -> {id: share of right ones over all files}."""
    n_right, n_tries = Counter(), Counter()
    for right, tries in attempts:
        n_right.update(right)
        n_tries.update(tries)
    return {name: n_right[name] / n for name, n in n_tries.items()}
