"""Transcripts: which completions the page shows, and their tokens with both models' numbers."""

import math
from collections import defaultdict
from typing import NamedTuple

from engine.format import asked
from grading.answers import answer_of
from report.runs import is_right, row_scope, sample_key

VIEWED_TOKENS = 800  # of each transcript
MODELS_WITH_WAITS = 6  # more would make the page larger than 5 MB

# Pairs of grades (first model right?, second model right?), the most telling first.
GRADES = ((False, True), (True, False), (True, True), (False, False))


class Chosen(NamedTuple):
    """A completion that the page shows."""

    heading: str  # transcripts with the same heading stand side by side
    title: str
    row: dict


# ---------------------------------------------------------------- choosing


def choose_transcripts(models, runs, written):
    """Completions for the page -> {model: [Chosen]}.

    written: {model: its rows}. The pair's answers to some problems beside the base's own, and for
    each shown model completions with a forced Wait.
    """
    chosen = {name: [] for name in models.paths()}
    own = unforced_rows(runs, models.base_path)
    one, other = (models.pair * 2)[:2]  # a single model is its own partner
    for rows in choose_pairs(written[one], written[other]):
        heading = f"{scope_title(rows[0])}, problem {rows[0]['id']}"
        base_row = own.get(sample_key(rows[0]))
        if base_row is not None:
            chosen[models.base].append(Chosen(heading, f"{models.base} (base)", base_row))
        for name, row in zip(models.pair, rows):
            chosen[name].append(Chosen(heading, f"{name} ({models.kinds[name]})", row))
    for name in models.shown[:MODELS_WITH_WAITS]:
        for run, row in choose_waits(runs, models.tuned[name]):
            was = "wrong" if is_right(row) else "right"
            heading = f"{scope_title(row)}, {run.forcing()}: {was} without it"
            chosen[name].append(Chosen(heading, run.name, row))
    return chosen


def unforced_rows(runs, model):
    """{sample: row with token ids} that a model wrote without forcing."""
    return {
        sample_key(row): row
        for run in runs
        if run.written_by(model) and run.is_unforced()
        for row in run.rows
        if row.get("ids")
    }


def scope_title(row):
    """Group and task of a row, or one of them where they have the same name."""
    return " / ".join(dict.fromkeys(row_scope(row)))


def choose_pairs(one, other):
    """Rows of two models -> [(row, row)] of problems that both answered, differing grades first.

    Two problems of the first group and one of each other.
    """
    others = {sample_key(row): row for row in other}
    by_group = defaultdict(dict)  # {group: {pair of grades: the first pair of rows}}
    for row in one:
        partner = others.get(sample_key(row))
        if partner is None or is_right(row) is None:
            continue
        grades = is_right(row), is_right(partner)
        by_group[row_scope(row)[0]].setdefault(grades, (row, partner))
    chosen = []
    for pairs in by_group.values():
        n = 1 if chosen else 2
        chosen += [pairs[grades] for grades in GRADES if grades in pairs][:n]
    return chosen


def choose_waits(runs, model, n=3):
    """Completions with a forced Wait -> [(run, row)].

    n whose answer the Wait made right and one whose answer it made wrong.
    """
    mine = [run for run in runs if run.written_by(model)]
    made_right, made_wrong = [], []
    for forced in sorted(mine, key=lambda run: run.settings.get("waits") or 0):
        unforced = [run for run in mine if run.is_unforced() and run.seed == forced.seed]
        before = {sample_key(row): is_right(row) for run in unforced for row in run.rows}
        for row in forced.rows:
            if not (row.get("n_waits") and row.get("ids")):
                continue
            grades = before.get(sample_key(row)), is_right(row)
            if grades == (False, True):
                made_right.append((forced, row))
            elif grades == (True, False):
                made_wrong.append((forced, row))
    return made_right[:n] + made_wrong[-1:]


# ---------------------------------------------------------------- tokens


def token_text(tokenizer, *ids):
    """Text of the last of one or two tokens, with the space that belongs between them."""
    exact = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = tokenizer.decode(ids[:-1], **exact)
    return tokenizer.decode(ids, **exact)[len(before) :]


def make_transcript(tokenizer, row, values, title):
    """A completion for the viewer -> {title, question, answer, said, right, tokens}.

    values: {name: (N,) or (N, k)} of its first N tokens, from analyze.measure with top=k.
    tokens: [text, KL, rank under the base, rank under the model, entropy, injected?, likely] each,
    likely being the base's [[text, p]]. The script of page.html takes them apart.
    """
    columns = {name: value.tolist() for name, value in values.items()}
    injected = set(row.get("injected") or ())
    ids = row["ids"][:VIEWED_TOKENS]
    tokens = []
    for i in range(len(ids)):
        likely = zip(columns["likely_ids"][i], columns["likely_p"][i])
        tokens.append(
            [
                token_text(tokenizer, *ids[max(0, i - 1) : i + 1]),
                rounded(columns["kl_forward"][i], 4),
                int(columns["rank_base"][i]),
                int(columns["rank_tuned"][i]),
                rounded(columns["entropy_tuned"][i], 4),
                int(i in injected),
                [[token_text(tokenizer, int(token)), rounded(p, 3)] for token, p in likely],
            ]
        )
    return {
        "title": title,
        "question": str(asked(row)),
        "answer": str(row.get("answer", "not given")),
        "said": str(answer_of(row) or "nothing"),
        "right": is_right(row),
        "tokens": tokens,
    }


def rounded(x, digits):
    """JSON knows no NaN: None stands for it."""
    return round(x, digits) if math.isfinite(x) else None
