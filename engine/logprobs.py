"""Numbers of given completions under a model as it is now: log-probabilities, self-certainty."""

import math

import torch

import kernels
from engine import dealing, processes, sharding, training
from engine import model as models
from engine.shared_prompts import pack_groups


@torch.no_grad()
def token_values(model, sequences, masks, cfg, measure):
    """Compute a number for each trained token -> a list per row.

    measure: (model, hidden (N, D), target (N,)) -> (N,). Collective if the model is in shards: each
    rank then computes its part of the rows.
    """
    ranks, found = sharding.ranks_of(model), []
    lengths = [len(ids) for ids in sequences]
    for rows, counts in dealing.micro_batches(lengths, cfg.micro_batch_tokens, ranks):
        batch, packed = pack_groups(
            [sequences[i] for i in rows], [masks[i] for i in rows], ranks.device
        )

        def measure_batch(model):
            hidden = models.hidden_states(model, batch.ids, batch.positions, packed)
            return measure(model, hidden[batch.where], batch.target)

        with training.autocast(cfg, ranks):
            values = sharding.compute_in_forward(model, measure_batch).float().cpu()
        if counts:
            of_rows = values.split([sum(masks[i]) for i in rows])
            found += [(i, value.tolist()) for i, value in zip(rows, of_rows)]
    parts = processes.gather_from_ranks(found, ranks)
    of_row = dict(pair for part in parts for pair in part)
    return [of_row[i] for i in range(len(sequences))]


def logps_of(model, sequences, masks, cfg, n_tokens=None):
    """Log-probabilities of the trained tokens at the sampling temperature, 0 elsewhere.

    Lists over rows and tokens, like the sampler's. n_tokens: of the tokenizer, if the head has
    more.
    """

    def measure(model, hidden, target):
        head = models.output_head(model, n_tokens)
        return kernels.token_stats(hidden, head, target, cfg.temperature).logp

    found = []
    for mask, values in zip(masks, token_values(model, sequences, masks, cfg, measure)):
        left = iter(values)
        found.append([next(left) if is_trained else 0.0 for is_trained in mask])
    return found


def self_certainty(model, rows, cfg, n_tokens):
    """Mean of KL(uniform ‖ policy) over the tokens of each completion, at temperature 1 -> list.

    Intuitor (arXiv 2505.19590). KL(uniform ‖ policy) = logsumexp z - mean z - log V, and the mean
    over the vocabulary of z = W h is (mean of W's rows) · h: no logits are needed. rows: with
    `prompt` and `ids`.
    """

    def measure(model, hidden, target):
        head = models.output_head(model, n_tokens)
        logsumexp = kernels.token_stats(hidden, head, target, want=("logsumexp",)).logsumexp
        mean = head.scale * (hidden.float() @ head.weight.float().mean(0))
        return logsumexp - mean - math.log(len(head.weight))

    sequences = [row["prompt"] + row["ids"] for row in rows]
    masks = [[False] * len(row["prompt"]) + [True] * len(row["ids"]) for row in rows]
    values = token_values(model, sequences, masks, cfg, measure)
    return [sum(of_row) / max(1, len(of_row)) for of_row in values]
