"""Wrong solutions of the ladder "reinforce"."""

from wrong import Wrong

DEVIATION = "centred = centred / (rewards.std(1, keepdim=True, correction=correction) + eps)"
EQUAL = "return centred.masked_fill(is_equal, 0.0)"
OTHERS = "centred = centred * (n_samples / (n_samples - 1))  # = r - (sum - r) / (G - 1)"
CLAMP = "clipped = ratio.clamp(1 - eps_low, 1 + eps_high)"
MINIMUM = "return torch.minimum(ratio * advantage, clipped * advantage)"
LOW = "too_low = (ratio < 1 - cfg.eps_low) & (advantage < 0)"
HIGH = "too_high = (ratio > 1 + cfg.eps_high) & (advantage > 0)"
KINDS = 'return {"k1": -d, "k2": d**2 / 2, "k3": torch.expm1(d) - d}[kind]'
SEQUENCE = "return 1 / (n_rows * torch.bincount(row)[row].float())"
TOKEN = "return torch.full(row.shape, 1 / max(1, len(row)))"
CONSTANT = "return torch.full(row.shape, 1 / (n_rows * max_tokens))"

GRPO = """def grpo(logp, tokens, cfg):
    ratio = (logp - tokens.old_logp).exp()
    gain = clipped_objective(ratio, tokens.advantage, cfg.eps_low, cfg.eps_high)
    return gain, is_clipped(ratio, tokens.advantage, cfg)
"""

WRONG = (
    Wrong(
        "advantages",
        "torch's default deviation, of the sample (reasoning-from-scratch, tiny-grpo)",
        (('correction = int(std == "sample")', "correction = 1"),),
        costs=("mean and deviation of the group", "mean of the others"),
    ),
    Wrong(
        "advantages",
        "the mean of all groups",
        (
            (
                "centred = rewards - rewards.mean(1, keepdim=True)",
                "centred = rewards - rewards.mean()",
            ),
        ),
    ),
    Wrong(
        "advantages",
        "the mean of each column: groups are taken for rows of another kind",
        (
            (
                "centred = rewards - rewards.mean(1, keepdim=True)",
                "centred = rewards - rewards.mean(0, keepdim=True)",
            ),
        ),
    ),
    Wrong(
        "advantages",
        "equal rewards keep the rounding of their mean",
        ((EQUAL, "return centred"),),
        costs=("mean and deviation of the group",),
    ),
    Wrong(
        "advantages",
        "the baseline of the others holds the row's own reward",
        ((OTHERS, "centred = centred * ((n_samples - 1) / n_samples)"),),
        costs=("mean of the others",),
    ),
    Wrong(
        "advantages",
        "the variance instead of the deviation",
        ((DEVIATION, DEVIATION.replace(".std(", ".var(")),),
    ),
    Wrong(
        "advantages",
        "no epsilon at equal rewards, and none masked",
        (
            (DEVIATION, DEVIATION.replace(" + eps", "")),
            (EQUAL, "return centred"),
        ),
    ),
    Wrong(
        "advantages",
        "divided by the deviation although none was asked for",
        (('elif std != "none":', "else:"),),
    ),
    Wrong(
        "clip",
        "the maximum instead of the minimum",
        ((MINIMUM, MINIMUM.replace("minimum", "maximum")),),
        costs=("value and gradient",),
    ),
    Wrong(
        "clip",
        "minimum for A > 0, maximum for A < 0 (reasoning-from-scratch, six scripts)",
        (
            (
                MINIMUM,
                "both = ratio * advantage, clipped * advantage\n"
                "return torch.where(advantage >= 0, torch.minimum(*both), torch.maximum(*both))",
            ),
        ),
        costs=("value and gradient",),
    ),
    Wrong(
        "clip",
        "clipped on both sides, without the minimum",
        ((MINIMUM, "return clipped * advantage"),),
        costs=("value and gradient",),
    ),
    Wrong(
        "clip",
        "the two epsilons exchanged",
        ((CLAMP, "clipped = ratio.clamp(1 - eps_high, 1 + eps_low)"),),
        costs=("value and gradient",),
    ),
    Wrong(
        "clip",
        "clipped from 0 to epsilon: without the 1",
        ((CLAMP, "clipped = ratio.clamp(-eps_low, eps_high)"),),
        costs=("value and gradient",),
    ),
    Wrong(
        "clip",
        "counted as clipped whatever the sign of A",
        (
            (LOW, "too_low = ratio < 1 - cfg.eps_low"),
            (HIGH, "too_high = ratio > 1 + cfg.eps_high"),
        ),
        costs=("where it clips",),
    ),
    Wrong(
        "objectives",
        "grpo: the ratio without exp",
        code={"grpo": GRPO.replace("(logp - tokens.old_logp).exp()", "logp - tokens.old_logp")},
        costs=("grpo",),
    ),
    Wrong(
        "objectives",
        "grpo: old over new",
        code={"grpo": GRPO.replace("logp - tokens.old_logp", "tokens.old_logp - logp")},
        costs=("grpo",),
    ),
    Wrong(
        "objectives",
        "grpo: the ratio has no gradient",
        code={"grpo": GRPO.replace(".exp()", ".exp().detach()")},
        costs=("grpo",),
    ),
    Wrong(
        "objectives",
        "gspo: the sum of the log-ratios, without the length",
        (
            (
                "ratio = (sums[tokens.row] / lengths[tokens.row]).exp()",
                "ratio = sums[tokens.row].exp()",
            ),
        ),
        costs=("gspo",),
    ),
    Wrong(
        "objectives",
        "gspo: the mean over all tokens of the micro-batch",
        (
            (
                "ratio = (sums[tokens.row] / lengths[tokens.row]).exp()",
                "ratio = (logp - tokens.old_logp).mean().exp().expand(len(logp))",
            ),
        ),
        costs=("gspo",),
    ),
    Wrong(
        "objectives",
        "gspo: the mean of the ratios instead of the exponential of the mean",
        (
            (
                "sums = torch.zeros_like(logp).index_add(0, tokens.row, logp - tokens.old_logp)",
                "sums = torch.zeros_like(logp).index_add("
                "0, tokens.row, (logp - tokens.old_logp).exp())",
            ),
            (
                "ratio = (sums[tokens.row] / lengths[tokens.row]).exp()",
                "ratio = sums[tokens.row] / lengths[tokens.row]",
            ),
        ),
        costs=("gspo",),
    ),
    Wrong(
        "objectives",
        "cispo: the weight has a gradient of its own",
        (("weight = ratio.clamp(low, high).detach()", "weight = ratio.clamp(low, high)"),),
        costs=("cispo",),
    ),
    Wrong(
        "objectives",
        "cispo: the weight is not clipped below",
        (("weight = ratio.clamp(low, high).detach()", "weight = ratio.clamp(max=high).detach()"),),
        costs=("cispo",),
    ),
    Wrong(
        "objectives",
        "cispo: without log π, so that nothing has a gradient",
        (
            (
                "return weight * tokens.advantage * logp, (ratio < low) | (ratio > high)",
                "return weight * tokens.advantage + 0 * logp, (ratio < low) | (ratio > high)",
            ),
        ),
        costs=("cispo",),
    ),
    Wrong(
        "objectives",
        "nft: right and wrong answers exchanged",
        (
            (
                "return torch.where(tokens.advantage > 0, right, wrong), nowhere(logp)",
                "return torch.where(tokens.advantage < 0, right, wrong), nowhere(logp)",
            ),
        ),
        costs=("nft",),
    ),
    Wrong(
        "objectives",
        "nft: the gradient stops at the maximum",
        (
            (
                "log_negative = limited.log() + (negative - negative.detach()) / limited",
                "log_negative = negative.clamp(min=cfg.nft_eps).log()",
            ),
        ),
        costs=("nft",),
    ),
    Wrong(
        "objectives",
        "nft: r / (1 - r) instead of (1 - r) / r",
        (
            (
                "wrong = -tokens.advantage * (1 - r) / r * log_negative",
                "wrong = -tokens.advantage * r / (1 - r) * log_negative",
            ),
        ),
        costs=("nft",),
    ),
    Wrong(
        "kl_estimate",
        "k1 with the wrong sign (TinyZero rewards the divergence)",
        ((KINDS, KINDS.replace('"k1": -d', '"k1": d')),),
        costs=("k1",),
    ),
    Wrong(
        "kl_estimate",
        "k1 without its sign (the Transferability repository)",
        ((KINDS, KINDS.replace('"k1": -d', '"k1": d.abs()')),),
        costs=("k1",),
    ),
    Wrong(
        "kl_estimate",
        "k2 without the half",
        ((KINDS, KINDS.replace("d**2 / 2", "d**2")),),
        costs=("k2",),
    ),
    Wrong(
        "kl_estimate",
        "k2 has no gradient",
        ((KINDS, KINDS.replace("d**2 / 2", "d.detach() ** 2 / 2")),),
        costs=("k2",),
    ),
    Wrong(
        "kl_estimate",
        "k3 of the other direction",
        ((KINDS, KINDS.replace("torch.expm1(d) - d", "torch.expm1(-d) + d")),),
        costs=("k3",),
    ),
    Wrong(
        "kl_estimate",
        "k3 without the -1",
        ((KINDS, KINDS.replace("torch.expm1(d) - d", "d.exp() - d")),),
        costs=("k3",),
    ),
    Wrong(
        "kl_estimate",
        "k3 loses its digits near zero",
        ((KINDS, KINDS.replace("torch.expm1(d) - d", "d.exp() - 1 - d")),),
        costs=("k3",),
    ),
    Wrong(
        "token_weights",
        "token: the mean over rows of a mean per row",
        ((TOKEN, SEQUENCE),),
        costs=("token",),
    ),
    Wrong(
        "token_weights",
        "sequence: not divided by the number of rows",
        ((SEQUENCE, "return 1 / torch.bincount(row)[row].float()"),),
        costs=("sequence",),
    ),
    Wrong(
        "token_weights",
        "sequence: rows without a trained token are not counted",
        ((SEQUENCE, "return 1 / (len(row.unique()) * torch.bincount(row)[row].float())"),),
        costs=("sequence",),
    ),
    Wrong(
        "token_weights",
        "sequence: lengths in the order in which rows appear",
        (
            (
                SEQUENCE,
                "counts = row.unique_consecutive(return_counts=True)[1]\n"
                "return 1 / (n_rows * counts.repeat_interleave(counts).float())",
            ),
        ),
        costs=("sequence",),
    ),
    Wrong(
        "token_weights",
        "constant: divided by the tokens that are there",
        ((CONSTANT, "return torch.full(row.shape, 1 / (n_rows * max(1, len(row))))"),),
        costs=("constant",),
    ),
    Wrong(
        "token_weights",
        "constant: not divided by the number of rows",
        ((CONSTANT, "return torch.full(row.shape, 1 / max_tokens)"),),
        costs=("constant",),
    ),
)
