"""What can be done to a trace or a prompt: corruption, budgets, hints, a domain's name, the text that is trained on.

    corruption   "structure, not content": long-CoT traces may end wrong or hold wrong digits, but their steps may not be
                 shuffled, deleted or exchanged                                           2502.07374, §4
    budgets      "Think for N tokens." as L1 draws them (2503.04697, §3), or as a trace needed them, in powers of two, in
                 tokens or in steps (s1, 2501.19393, §E.1)
    hints        STaR (2203.14465), §3.3: shown the answer, a model explains it; the hint is taken away before training
    samples      how many a weaker teacher makes for the same FLOPs                       2408.16737, §3
    domains      by keywords, or asked of a model in s1's way (§C.4)

Every function returns a new row and leaves the given one alone. Draws depend on the seed and the row's id alone.
"""

import json
import random
import re
from pathlib import Path

from engine.format import FORMATS, ask
from engine.rows import BadInput

# Words that announce a second thought; where a trace has no blank lines, a step begins at one of the first group.
TURNS = r"wait|alternatively|hmm|but|however|actually"
REFLECTION = re.compile(
    rf"\b(?:{TURNS}|double-check|recheck|re-check|check|verify|maybe|perhaps)\b[ \t]*,?[ \t]*",
    re.IGNORECASE,
)
COMPLETION = """sample text thinking response ids injected n_thinking_tokens n_tokens finish stop n_waits forced n_tries
                logp correct""".split()  # fields that a problem does not have
CORRUPTIONS = ("digits", "keywords", "shuffle", "delete", "insert")


def draws(row, seed):
    return random.Random(f"{seed} {row['id']}")


# ---- Corruption -------------------------------------------------------------------------------------------------


def split_steps(text):
    """(steps, what joins them): parts between blank lines; without any, parts that begin with a second thought."""
    if re.search(r"\n\s*\n", text):
        return [step for step in re.split(r"\n\s*\n", text.strip()) if step.strip()], "\n\n"
    return [
        step.strip() for step in re.split(rf"(?i)(?<=\s)(?=\b(?:{TURNS})\b)", text) if step.strip()
    ], " "


def corrupt_digits(text, share, rng):
    """Each digit becomes another one with probability `share`."""
    return re.sub(
        r"[0-9]",
        lambda digit: (
            rng.choice("0123456789".replace(digit[0], "")) if rng.random() < share else digit[0]
        ),
        text,
    )


def corrupt_keywords(text, share, rng):
    """Each word of reflection disappears with probability `share`."""
    return REFLECTION.sub(lambda word: "" if rng.random() < share else word[0], text)


def corrupt_steps(steps, how, share, rng, donor=()):
    """round(share · n) of n steps change places among themselves (shuffle) or go (delete); or as many steps of another
    trace, the donor, come in at random places (insert)."""
    steps, n = list(steps), round(share * len(steps))
    places = rng.sample(range(len(steps)), n)
    if how == "shuffle":
        for place, step in zip(sorted(places), [steps[i] for i in places]):
            steps[place] = step
    elif how == "delete":
        steps = [step for i, step in enumerate(steps) if i not in set(places)]
    elif donor:
        for step in rng.choices(donor, k=n):
            steps.insert(rng.randrange(len(steps) + 1), step)
    return steps


def parse_corruption(text):
    """ "delete:0.67" -> ("delete", 0.67); without a share all is meant. Raises BadInput."""
    how, _, share = text.partition(":")
    try:
        share = float(share or 1)
    except ValueError:
        share = -1
    if how not in CORRUPTIONS or not 0 <= share <= 1:
        raise BadInput(
            f"--corrupt {text}: not one of {', '.join(name + ':SHARE' for name in CORRUPTIONS)}, "
            "with a share from 0 to 1"
        )
    return how, share


def corrupted(row, how, share, seed=0, donor=()):
    """The row with a corrupted trace and no token count, which would be that of another text. donor: steps to insert."""
    text, rng = row["thinking"], draws(row, seed)
    if how == "digits":
        text = corrupt_digits(text, share, rng)
    elif how == "keywords":
        text = corrupt_keywords(text, share, rng)
    else:
        steps, joint = split_steps(text)
        text = joint.join(corrupt_steps(steps, how, share, rng, donor))
    return {k: v for k, v in row.items() if k != "n_thinking_tokens"} | {
        "thinking": text,
        "corrupted": f"{how}:{share:g}",
    }


# ---- Budgets ----------------------------------------------------------------------------------------------------


def bucket(n):
    """The smallest power of two that is at least n: 1023 -> 1024, 1025 -> 2048 (s1, §E.1)."""
    return 1 << max(0, int(n) - 1).bit_length()


def parse_budget(text):
    """ "l1:100:4000:0.5", "tokens" or "steps" -> (name, numbers). Raises BadInput."""
    name, *numbers = text.split(":")
    try:
        low, high, share = (
            [float(x) for x in numbers] + [0] * (3 - len(numbers)) if name == "l1" else (1, 1, 0)
        )
        if (
            name not in ("l1", "tokens", "steps")
            or name != "l1"
            and numbers
            or len(numbers) not in (0, 2, 3)
            or not 1 <= low <= high
            or not 0 <= share <= 1
        ):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"--budget {text}: not one of tokens, steps, l1:LOW:HIGH, l1:LOW:HIGH:SHARE "
            "(the share of prompts with a maximum)"
        ) from None
    return name, (int(low), int(high), share)


def with_budget(row, name, numbers=(), seed=0):
    """The row with a `budget`, which its question now names.

    l1      a whole number from LOW to HIGH, uniformly; for a share of the rows a maximum (then `budget_is_maximum`)
    tokens  the trace's tokens, rounded up to a power of two
    steps   the trace's steps (parts between blank lines), likewise, and the trace as a countdown from that number, which
            is the text of --format s1-steps
    """
    if name == "l1":
        (low, high, share), rng = numbers, draws(row, seed)
        budget, maximum = rng.randint(low, high), rng.random() < share
        return (
            row
            | {"question": ask(row["question"], f"l1{'-max' * maximum}:{budget}"), "budget": budget}
            | ({"budget_is_maximum": True} if maximum else {})
        )
    if name == "tokens":
        budget = bucket(row["n_thinking_tokens"])
        return row | {"question": ask(row["question"], f"tokens:{budget}"), "budget": budget}
    steps = [step.strip() for step in re.split(r"\n\s*\n", row["thinking"]) if step.strip()]
    budget, start = bucket(len(steps)), FORMATS["s1-steps"].open
    counted = [f"{budget - i} steps left\n{step}" for i, step in enumerate(steps)]
    return row | {
        "question": ask(row["question"], f"steps:{budget}"),
        "budget": budget,
        "thinking": f"\n{start}".join(counted),
    }


# ---- Hints ------------------------------------------------------------------------------------------------------


def hinted(row, template):
    """STaR's rationalisation: a problem whose question ends in a hint, e.g. " ({answer})"; with the template `choices`
    the right choice, where the question lists it, is followed by " (CORRECT)". `unhinted` keeps the question."""
    question, answer = row["question"], row.get("answer")
    if answer is None:
        raise BadInput(f"--hint: row {row['id']} has no answer to hint at")
    if template == "choices":
        right = (row.get("choices") or [""])[int(row.get("answer_index") or 0)]
        if not right or right not in question:
            raise BadInput(
                f"--hint choices: the question of row {row['id']} does not list its right choice"
            )
        text = question.replace(right, right + " (CORRECT)", 1)
    else:
        text = question + template.replace("{answer}", str(answer))
    return {k: v for k, v in row.items() if k not in COMPLETION} | {
        "question": text,
        "unhinted": question,
        "hint": True,
    }


def without_hint(row):
    """The row with its own question again; `hint` remains, to count by."""
    own = {"question": row["unhinted"]} if "unhinted" in row else {}
    return {k: v for k, v in row.items() if k != "unhinted"} | own


# ---- Samples of a weaker teacher --------------------------------------------------------------------------------


def matched_samples(n_strong, strong, weak, strong_tokens=1.0, weak_tokens=1.0):
    """Samples per question of a weaker teacher for the FLOPs of n_strong samples of a stronger one, rounded down.

    A sample of W tokens costs 2 P W: n_weak = n_strong · P_strong W_strong / (P_weak W_weak). strong, weak: parameters.
    """
    return int(n_strong * strong * strong_tokens / (weak * weak_tokens) + 1e-9)


# ---- Domains ----------------------------------------------------------------------------------------------------


def load_taxonomy(path):
    """JSON -> [(two-digit code, title, keywords)]: {"Geometry": ["triangle", ...], ...}, or s1's list of {"code",
    "title", "descriptions"}, which has no keywords. Raises BadInput."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, dict):
            data = [
                {"code": f"{i:02}", "title": title, "keywords": words}
                for i, (title, words) in enumerate(data.items())
            ]
        entries = [
            (str(x["code"]), str(x["title"]), [w.lower() for w in x.get("keywords") or ()])
            for x in data
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"--taxonomy {path}: cannot be used ({type(error).__name__}: {error})"
        ) from None
    return entries


def domain_by_keywords(question, taxonomy):
    """The title whose keywords occur most often, as whole words; of equals the first; None if none occurs."""
    text = f" {' '.join(re.findall(r'[a-z0-9-]+', question.lower()))} "
    hits = [(sum(text.count(f" {word} ") for word in words), title) for _, title, words in taxonomy]
    best = max(hits, key=lambda hit: hit[0], default=(0, None))
    return best[1] if best[0] else None


def domain_question(row, taxonomy):
    """The row as a question to a model: to which of these domains does it belong?"""
    listed = "\n".join(f"{code} {title}" for code, title, _ in taxonomy)
    return {
        "id": row["id"],
        "question": f"Here is a list of domains, each with a two-digit code.\n\n{listed}\n\nTo which "
        "of them does the following question belong? Explain in a sentence, then end your reply with the code.\n\n"
        + row["question"],
    }


def domain_of_reply(text, taxonomy):
    """The title of the code in which a reply ends (s1: its last two characters), or None."""
    return next((title for code, title, _ in taxonomy if text.rstrip(" .*\n").endswith(code)), None)


# ---- Text -------------------------------------------------------------------------------------------------------


def trained_text(row, name):
    """Everything that a model in this format is trained to write after the prompt, the end-of-sequence token aside."""
    return "".join(FORMATS[name].completion_pieces(row))


# ---- Chosen rows -> the rows written -------------------------------------------------------------------------------


def with_next(rows):
    """(row, the row after it), after the last one the first."""
    rows = iter(rows)
    first = row = next(rows, None)
    for following in rows:
        yield row, following
        row = following
    if row is not None:
        yield row, first


def finished(rows, hint="", corrupt="", budget="", taxonomy=None, format="", copies=1, seed=0):
    """Chosen rows -> the rows written: hinted, corrupted with steps of the next row, budgeted; asked about instead of
    asked, with a taxonomy; with their `completion` in a format; so many copies of each, under ids of their own."""
    corruption, budget = corrupt and parse_corruption(corrupt), budget and parse_budget(budget)
    for row, donor in with_next(rows):
        if hint:
            row = hinted(row, hint)
        if corruption:
            row = corrupted(row, *corruption, seed, split_steps(donor["thinking"])[0])
        if budget:
            row = with_budget(row, *budget, seed)
        if taxonomy:
            row = domain_question(row, taxonomy)
        if format:
            row = row | {"completion": trained_text(row, format)}
        yield from (
            [row] if copies == 1 else [row | {"id": f"{row['id']}-{i}"} for i in range(copies)]
        )
