"""Compare two models token by token: log-probability, rank and entropy of both, KL both ways.

For analysis. On a CPU the products with the two heads are most of the work. token_stats and
token_kl one after another would make each of them three times; here each is made once.
"""

import torch

import kernels
from kernels import reference

NAMES = "tuned", "base"
WANT = "logp", "rank", "entropy"


def token_numbers(tuned, base, target):
    """(hidden (N, D), Head) of two models, target (N,) -> {name: (N,)}.

    Names: kl_forward = KL(tuned‖base), kl_reverse = KL(base‖tuned), and logp, rank and entropy of
    both, as logp_tuned, logp_base and so on. The widths D of the two models may differ.
    """
    if target.is_cuda:
        both = [kernels.token_stats(*side, target, want=WANT) for side in (tuned, base)]
        kl = kernels.token_kl(*tuned, *base)
    else:
        both, kl = _numbers_of_chunks(tuned, base, target)
    numbers = dict(zip(("kl_forward", "kl_reverse"), kl))
    for name, stats in zip(NAMES, both):
        for what in WANT:
            numbers[f"{what}_{name}"] = getattr(stats, what)
    return numbers


def _numbers_of_chunks(tuned, base, target):
    """-> ([TokenStats of both], (KL(tuned‖base), KL(base‖tuned))), by chunks of the vocabulary."""
    sides = tuned, base
    n, n_vocab = len(target), len(tuned[1].weight)
    size = reference.chunk_size(2 * n, n_vocab)  # two tensors of logits at a time
    logits = [_target_logit(hidden, head, target) for hidden, head in sides]  # (N,) each
    parts = [], []  # PartStats of each side
    kls = []
    for start in range(0, n_vocab, size):
        both = []  # (N, C) of each side
        for (hidden, head), logit, stats in zip(sides, logits, parts):
            z = head.part(start, start + size).logits(hidden)
            # A product with one row may be rounded otherwise than one with many.
            row, own = reference.rows_inside(target - start, z.shape[1])
            z[row, own] = logit[row]
            stats.append(reference.part_statistics(z, target - start, logit, WANT))
            both.append(z)
        kls.append(reference.log_softmax_kl(*both))
    merged = [reference.stack(stats) for stats in parts]  # (parts, N)
    forward, reverse = map(torch.stack, zip(*kls))
    kl = reference.merge_kl(merged[0].logsumexp, merged[1].logsumexp, forward, reverse)
    none = torch.zeros_like(target, dtype=torch.bool)
    both = [reference.token_stats_of(reference.merge_parts(stats), WANT, none) for stats in merged]
    return both, kl


def _target_logit(hidden, head, target):
    """(N,): the logit of each row's target."""
    return head.temper((hidden * head.weight[target]).sum(1))
