"""Rewrite chosen rows: corrupted traces, budgets in the question, hints, questions about domains.

    corruption   "structure, not content": long traces may end wrong or hold wrong digits, but their
                 steps may not be shuffled, deleted or exchanged (2502.07374, §4)
    budgets      "Think for N tokens.", drawn as in L1 (2503.04697, §3), or what the trace needed in
                 powers of two, in tokens or in steps (s1, 2501.19393, §E.1), or what a completion
                 used, rounded, as the question's first word: a warm start for L1
    hints        shown the answer, a model explains it; the hint is taken away before training
                 (STaR, 2203.14465, §3.3)
    samples      how many a weaker teacher makes for the same FLOPs (2408.16737, §3)
    domains      by keywords, or asked of a model as in s1 (§C.4)

Every function returns a new row and leaves the given one alone. Draws depend on nothing but the
seed and the row's id.
"""

import json
import random
import re
from pathlib import Path

from curation.quality import holds_delimiter
from engine.format import FORMATS, ask
from engine.rows import BadInput

# A second thought. In a trace without blank lines a step begins at one of these words.
TURNS = r"wait|alternatively|hmm|but|however|actually"
REFLECTION = re.compile(
    rf"\b(?:{TURNS}|double-check|recheck|re-check|check|verify|maybe|perhaps)\b[ \t]*,?[ \t]*",
    re.IGNORECASE,
)
# The fields of a completion that a problem does not have.
COMPLETION_FIELDS = set(
    "sample text thinking response ids injected n_thinking_tokens n_tokens finish stop n_waits "
    "forced n_tries logp correct".split()
)


def rng_of(row, seed):
    """A generator of random numbers for this row alone."""
    return random.Random(f"{seed} {row['id']}")


def without(row, fields):
    return {field: value for field, value in row.items() if field not in fields}


# ---- Corruption ---------------------------------------------------------------------------------


def split_steps(text):
    """(steps, the text that joins them): the parts between blank lines.

    Without blank lines, a step begins with each second thought.
    """
    if re.search(r"\n\s*\n", text):
        steps, joint = split_at_blank_lines(text.strip()), "\n\n"
        return [step for step in steps if step.strip()], joint
    steps, joint = re.split(rf"(?i)(?<=\s)(?=\b(?:{TURNS})\b)", text), " "
    return [step.strip() for step in steps if step.strip()], joint


def split_at_blank_lines(text):
    return re.split(r"\n\s*\n", text)


def corrupt_digits(text, share, rng):
    """Replace each digit by another one with probability `share`."""

    def replace(digit):
        if rng.random() >= share:
            return digit[0]
        return rng.choice("0123456789".replace(digit[0], ""))

    return re.sub(r"[0-9]", replace, text)


def delete_keywords(text, share, rng):
    """Delete each word of reflection with probability `share`."""
    return REFLECTION.sub(lambda word: "" if rng.random() < share else word[0], text)


def shuffle_steps(steps, share, rng, donor=()):
    """A share of the steps change places among themselves."""
    places = draw_places(steps, share, rng)
    shuffled = list(steps)
    for place, source in zip(sorted(places), places):
        shuffled[place] = steps[source]
    return shuffled


def delete_steps(steps, share, rng, donor=()):
    places = set(draw_places(steps, share, rng))
    return [step for place, step in enumerate(steps) if place not in places]


def insert_steps(steps, share, rng, donor=()):
    """Insert steps of another trace, the donor, at random places: a share of the trace's length."""
    n = len(draw_places(steps, share, rng))
    steps = list(steps)
    for step in rng.choices(donor, k=n) if donor else ():
        steps.insert(rng.randrange(len(steps) + 1), step)
    return steps


def draw_places(steps, share, rng):
    return rng.sample(range(len(steps)), round(share * len(steps)))


TEXT_CORRUPTIONS = {"digits": corrupt_digits, "keywords": delete_keywords}
STEP_CORRUPTIONS = {"shuffle": shuffle_steps, "delete": delete_steps, "insert": insert_steps}
CORRUPTIONS = (*TEXT_CORRUPTIONS, *STEP_CORRUPTIONS)


def parse_corruption(text):
    """ "delete:0.67" -> ("delete", 0.67); no share means 1. Raises BadInput."""
    kind, _, share = text.partition(":")
    try:
        share = float(share or 1)
    except ValueError:
        share = -1
    if kind not in CORRUPTIONS or not 0 <= share <= 1:
        known = ", ".join(f"{name}:SHARE" for name in CORRUPTIONS)
        raise BadInput(f"--corrupt {text}: not one of {known}, with a share from 0 to 1")
    return kind, share


def corrupt_row(row, kind, share, seed=0, donor=()):
    """Return the row with a corrupted trace, and without its token count, which is no longer true.

    donor: steps of another trace, for the kind "insert".
    """
    text, rng = row["thinking"], rng_of(row, seed)
    if kind in TEXT_CORRUPTIONS:
        text = TEXT_CORRUPTIONS[kind](text, share, rng)
    else:
        steps, joint = split_steps(text)
        text = joint.join(STEP_CORRUPTIONS[kind](steps, share, rng, donor))
    changed = {"thinking": text, "corrupted": f"{kind}:{share:g}"}
    return without(row, {"n_thinking_tokens"}) | changed


# ---- Budgets ------------------------------------------------------------------------------------


def round_up_to_power_of_two(n):
    """1023 -> 1024, 1025 -> 2048 (s1, §E.1)."""
    return 1 << max(0, int(n) - 1).bit_length()


def parse_budget(text):
    """A kind of budget and its numbers, without any for tokens and steps. Raises BadInput.

    "l1:100:4000:0.5" -> ("l1", (100, 4000, 0.5))
    "used:10:50:10:600" -> ("used", (10, 50, 10, 600))
    """
    kind, *numbers = text.split(":")
    low, high, share = 1, 1, 0
    try:
        if kind == "used":
            low, high, step, most = map(int, numbers)
            if not 1 <= low <= high or min(step, most) < 1:
                raise ValueError
            return kind, (low, high, step, most)
        if kind == "l1" and len(numbers) in (2, 3):
            low, high, share = [float(number) for number in numbers] + [0] * (3 - len(numbers))
        elif kind not in ("tokens", "steps") or numbers:
            raise ValueError
        if not 1 <= low <= high or not 0 <= share <= 1:
            raise ValueError
    except ValueError:
        raise BadInput(
            f"--budget {text}: not one of tokens, steps, l1:LOW:HIGH, l1:LOW:HIGH:SHARE (the share "
            "of prompts with a maximum), used:LOW:HIGH:STEP:MOST (rows of a budget)"
        ) from None
    return kind, (int(low), int(high), share)


def add_budget(row, kind, numbers=(), seed=0):
    """Return the row with a `budget` that its question names.

    l1      a whole number ~ uniform from LOW to HIGH; for a share of the rows it is a maximum, and
            the row says `budget_is_maximum`
    used    what `used_budget` says, as the question's first word
    tokens  the trace's tokens, rounded up to a power of two
    steps   the trace's steps (parts between blank lines), likewise; the trace becomes a countdown
            from that number, which is what --format s1-steps of sft.py trains
    """
    if kind == "l1":
        return add_l1_budget(row, *numbers, seed)
    if kind == "used":
        budget = used_budget(row, numbers)
        return row | {"question": ask(row["question"], f"first:{budget}"), "budget": budget}
    if kind == "tokens":
        budget = round_up_to_power_of_two(row["n_thinking_tokens"])
        return row | {"question": ask(row["question"], f"tokens:{budget}"), "budget": budget}
    steps = [step.strip() for step in split_at_blank_lines(row["thinking"]) if step.strip()]
    budget = round_up_to_power_of_two(len(steps))
    counted = [f"{budget - i} steps left\n{step}" for i, step in enumerate(steps)]
    return row | {
        "question": ask(row["question"], f"steps:{budget}"),
        "budget": budget,
        "thinking": f"\n{FORMATS['s1-steps'].open}".join(counted),
    }


def used_budget(row, numbers):
    """The nearest of LOW, LOW + STEP ... HIGH to a completion's tokens; None beyond them.

    None, too, for a text that was cut, or that holds a second end of thinking.
    """
    low, high, step, _ = numbers
    if holds_delimiter(row) or row.get("finish") == "length":
        return None
    budget = low + step * round((row["n_tokens"] - low) / step)
    return budget if low <= budget <= high else None


def add_l1_budget(row, low, high, share, seed):
    rng = rng_of(row, seed)
    budget = rng.randint(low, high)
    is_maximum = rng.random() < share
    kind = "l1-max" if is_maximum else "l1"
    row = row | {"question": ask(row["question"], f"{kind}:{budget}"), "budget": budget}
    return row | {"budget_is_maximum": True} if is_maximum else row


# ---- Hints --------------------------------------------------------------------------------------


def add_hint(row, template):
    """STaR's rationalisation: return a problem whose question ends in a hint, e.g. " ({answer})".

    With the template `choices`, " (CORRECT)" follows the right choice where the question lists it.
    `unhinted` keeps the question.
    """
    question, answer = row["question"], row.get("answer")
    if answer is None:
        raise BadInput(f"--hint: row {row['id']} has no answer to hint at")
    if template == "choices":
        choices = row.get("choices") or [""]
        right = choices[int(row.get("answer_index") or 0)]
        if not right or right not in question:
            raise BadInput(
                f"--hint choices: the question of row {row['id']} does not list its right choice"
            )
        hinted = question.replace(right, f"{right} (CORRECT)", 1)
    else:
        hinted = question + template.replace("{answer}", str(answer))
    changed = {"question": hinted, "unhinted": question, "hint": True}
    return without(row, COMPLETION_FIELDS) | changed


def without_hint(row):
    """Return the row with its own question again. `hint` stays, to count by."""
    if "unhinted" not in row:
        return dict(row)
    return without(row, {"unhinted"}) | {"question": row["unhinted"]}


# ---- Samples of a weaker teacher ----------------------------------------------------------------


def matched_samples(n_strong, strong, weak, strong_tokens=1.0, weak_tokens=1.0):
    """Samples per question of a weaker teacher for the FLOPs of n_strong samples of a stronger one.

    strong, weak: parameters. A sample of W tokens costs 2 P W, so
    n_weak = n_strong * P_strong W_strong / (P_weak W_weak), rounded down (2408.16737, §3).
    """
    return int(n_strong * strong * strong_tokens / (weak * weak_tokens) + 1e-9)


# ---- Domains ------------------------------------------------------------------------------------


def read_taxonomy(path):
    """Read a JSON file -> [(two-digit code, title, keywords)]. Raises BadInput.

    The file holds {"Geometry": ["triangle", ...], ...}, or s1's list of {"code", "title",
    "descriptions"}, which has no keywords.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, dict):
            data = [
                {"code": f"{i:02}", "title": title, "keywords": words}
                for i, (title, words) in enumerate(data.items())
            ]
        taxonomy = []
        for entry in data:
            keywords = [word.lower() for word in entry.get("keywords") or ()]
            taxonomy.append((str(entry["code"]), str(entry["title"]), keywords))
        return taxonomy
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"--taxonomy {path}: cannot be used ({type(error).__name__}: {error})"
        ) from None


def domain_by_keywords(question, taxonomy):
    """The title whose keywords occur most often, as whole words; None if none occurs.

    Of equals, the first.
    """
    words = re.findall(r"[a-z0-9-]+", question.lower())
    text = f" {' '.join(words)} "
    best, most_hits = None, 0
    for _, title, keywords in taxonomy:
        n_hits = sum(text.count(f" {keyword} ") for keyword in keywords)
        if n_hits > most_hits:
            best, most_hits = title, n_hits
    return best


def ask_domain(row, taxonomy):
    """Return the row as a question to a model: to which of these domains does it belong?"""
    listed = "\n".join(f"{code} {title}" for code, title, _ in taxonomy)
    question = (
        f"Here is a list of domains, each with a two-digit code.\n\n{listed}\n\n"
        "To which of them does the following question belong? "
        f"Explain in a sentence, then end your reply with the code.\n\n{row['question']}"
    )
    return {"id": row["id"], "question": question}


def domain_of_reply(text, taxonomy):
    """The title of the code in which a reply ends (s1: its last two characters), or None."""
    end = text.rstrip(" .*\n")
    return next((title for code, title, _ in taxonomy if end.endswith(code)), None)


# ---- Chosen rows -> the rows written ------------------------------------------------------------


def with_next(rows):
    """Yield (row, the row after it); the first row comes after the last."""
    rows = iter(rows)
    first = row = next(rows, None)
    for following in rows:
        yield row, following
        row = following
    if row is not None:
        yield row, first


def rewrite_rows(rows, hint="", corrupt="", budget="", taxonomy=(), copies=1, seed=0):
    """Yield the rows to write: with a hint, corrupted, with a budget, as questions about domains.

    taxonomy: if given, each row becomes a question about its domain. Copies get ids of their own.
    """
    corruption = parse_corruption(corrupt) if corrupt else None
    parsed_budget = parse_budget(budget) if budget else None
    for row, following in with_next(rows):
        if hint:
            row = add_hint(row, hint)
        if corruption:
            donor, _ = split_steps(following["thinking"])
            row = corrupt_row(row, *corruption, seed, donor)
        if parsed_budget:
            row = add_budget(row, *parsed_budget, seed)
        if taxonomy:
            row = ask_domain(row, taxonomy)
        if copies == 1:
            yield row
        for i in range(copies) if copies > 1 else ():
            yield row | {"id": f"{row['id']}-{i}"}
