"""Likelihoods of given completions: log-probability, entropy and rank of every token."""

import torch

from engine import model as models
from engine import packing
from engine.rows import BadInput, is_text

PREFILL = 16384  # tokens scored at once

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def pairs_to_score(rows, model, tokenizer, form, path):
    """Return for each row its (prompt ids, completion ids) pairs: one, or one for each choice.

    path: of the rows, for messages.
    Raises BadInput naming the first row that cannot be scored.
    """
    context = models.context_length(model)
    found = []
    for row in rows:
        where = f"{path}: row '{row['id']}'"
        pairs = pairs_of_row(row, tokenizer, form, where)
        for prompt, completion in pairs:
            if not are_ids(completion, len(tokenizer)):
                raise BadInput(f"{where}: nothing to score, or ids outside the vocabulary")
            n_tokens = len(prompt) + len(completion)
            if n_tokens > context:
                raise BadInput(f"{where} has {n_tokens} tokens, the context {context}")
        found.append(pairs)
    return found


def pairs_of_row(row, tokenizer, form, where):
    """Return a row's (prompt ids, completion ids) pairs.

    The completion is each of `choices`, else `ids`, else `thinking` and `response` in the text of
    the format.
    """
    try:
        prompt = form.row_prompt_ids(tokenizer, row)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    if "choices" in row:
        choices = row["choices"]
        are_texts = isinstance(choices, list) and all(map(is_text, choices))
        if not are_texts or not choices:
            raise BadInput(f"{where}: choices is not a list of texts")
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in choices]
        for text, ids in zip(choices, encoded):
            if tokenizer.unk_token_id in ids:
                raise BadInput(f"{where}: the tokenizer has no word for the choice {text!r}")
        return [(prompt, ids) for ids in encoded]
    if "ids" in row:
        return [(prompt, row["ids"])]
    if row.get("response") is not None:
        for field in ("thinking", "response"):
            if not is_text(row.get(field) or ""):
                raise BadInput(f"{where}: '{field}' is not a text")
        try:
            ids, trained = form.training_ids(tokenizer, row)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
        start = trained.index(True)
        return [(ids[:start], ids[start:])]
    raise BadInput(f"{where} has neither ids, nor response, nor choices to score")


def are_ids(ids, n_tokens):
    """Whether this is a list of at least one token id of a vocabulary of n_tokens."""
    if not isinstance(ids, list) or not ids:
        return False
    return all(type(i) is int and 0 <= i < n_tokens for i in ids)


def score_rows(rows, pairs, model, temperature, n_tokens):
    """Yield each row with logp, entropy (nats) and rank of every token of its completion.

    A row with `choices` (multiple choice) gets `choice_logp` and `response` instead, see
    choose_by_likelihood. pairs: of pairs_to_score. n_tokens: the softmax is cut to so many tokens,
    as in decoding.
    """
    items = [(place, number) for place, row in enumerate(pairs) for number in range(len(row))]
    lengths = [sum(map(len, pairs[place][number])) for place, number in items]
    found = {}
    for group in packing.fill_bins(lengths, PREFILL):
        members = [items[i] for i in group]
        texts = [pairs[place][number] for place, number in members]
        found |= dict(zip(members, score_texts(model, texts, temperature, n_tokens)))
        for place in dict.fromkeys(place for place, _ in members):
            scores = [found.get((place, number)) for number in range(len(pairs[place]))]
            if None in scores:  # other choices of this row are in a later group
                continue
            if "choices" in rows[place]:
                sums = [float(logp.sum()) for logp, _, _ in scores]
                yield choose_by_likelihood(rows[place], sums)
            else:
                logp, entropy, rank = (values.tolist() for values in scores[0])
                yield rows[place] | {
                    "logp": [round(x, 6) for x in logp],
                    "entropy": [round(x, 6) for x in entropy],
                    "rank": rank,
                }


@torch.no_grad()
def score_texts(model, texts, temperature, n_tokens):
    """(prompt ids, completion ids) pairs -> for each (logp, entropy, rank) of its completion."""
    batch = packing.pack(
        [prompt + completion for prompt, completion in texts],
        [[False] * len(prompt) + [True] * len(completion) for prompt, completion in texts],
        models.head(model).device,
    )
    names = ("logp", "entropy", "rank")
    stats = models.score(model, batch, temperature, names, n_tokens)
    lengths = [len(completion) for _, completion in texts]
    return list(zip(*(getattr(stats, name).split(lengths) for name in names)))


def choose_by_likelihood(row, sums):
    """Return the row with `choice_logp`, the log-probability of each choice, and the likeliest one.

    The response is the choice's letter if the row's answer is a letter. The choices are answers to
    the question with --format plain; another format would read them as the beginning of thinking.
    """
    best = max(range(len(sums)), key=lambda i: sums[i])
    letters = LETTERS[: len(sums)]
    answer_is_letter = row.get("answer") in list(letters)
    if answer_is_letter and best < len(letters):
        response = letters[best]
    else:
        response = row["choices"][best]
    return row | {
        "choice_logp": [round(x, 6) for x in sums],
        "thinking": "",
        "response": response,
    }
