"""Wrong solutions of the spare exercises of curation and analysis."""

from wrong import Wrong

SCORE = "0.30 * min(1, n / cap) + 0.20 * v / most_v + 0.25 * e / most_e + 0.25 * c / most_c"
MOST = "longest, most_v, most_e, most_c = (max(column, default=0) or 1 for column in columns)"
RIGHT = 'return row.get("correct") is True and (benchmark in ("GPQA", "AIME") or is_long)'
RANKED = "ranked = sorted(range(len(lengths)), key=lambda i: -lengths[i])"
DOMAIN = "domain = rng.choices(domains, domain_weights)[0]"
SHIFT = "shift = torch.as_tensor(ranks_base).double() - torch.as_tensor(ranks_tuned).double()"
DISTANCE = "return (points[:, 1] - points[:, 0]).mean(0).norm().item(), points"

WRONG = (
    Wrong(
        "limo_scores",
        "the weights of verifying and exploring exchanged",
        ((SCORE, SCORE.replace("0.20 * v", "0.25 * v").replace("0.25 * e", "0.20 * e")),),
    ),
    Wrong(
        "limo_scores",
        "the length does not saturate",
        ((SCORE, SCORE.replace("min(1, n / cap)", "n / cap")),),
        costs=("score",),
    ),
    Wrong(
        "limo_scores",
        "divided by the sum over the rows",
        ((MOST, MOST.replace("max(column, default=0)", "sum(column)")),),
    ),
    Wrong(
        "limo_scores",
        "counts instead of shares of the words",
        (
            (
                "shares = [count_words(said, kind[words]) / max(1, len(said)) for kind in KINDS_OF_WORDS]",
                "shares = [count_words(said, kind[words]) for kind in KINDS_OF_WORDS]",
            ),
        ),
        costs=("score",),
    ),
    Wrong(
        "limo_scores",
        "the terms are not scaled to 1",
        ((MOST, "longest, most_v, most_e, most_c = max(columns[0], default=0) or 1, 1, 1, 1"),),
    ),
    Wrong(
        "algorithm_1",
        "ungraded traces count as right",
        ((RIGHT, RIGHT.replace("is True", "is not False")),),
        costs=("outright",),
    ),
    Wrong(
        "algorithm_1",
        "right answers are not asked for",
        ((RIGHT, 'return benchmark in ("GPQA", "AIME") or is_long'),),
        costs=("outright",),
    ),
    Wrong(
        "algorithm_1",
        "the shortest has rank 0",
        ((RANKED, RANKED.replace("-lengths", "lengths")),),
    ),
    Wrong(
        "algorithm_1",
        "weights in proportion to the length",
        (
            (
                "weights[i] = 2.0**-rank / total",
                "weights[i] = lengths[i] / sum(lengths)",
            ),
        ),
    ),
    Wrong(
        "algorithm_1",
        "a domain by the number of its rows",
        (
            (
                DOMAIN,
                "domain = rng.choices(domains, [len(pools[name]) for name in domains])[0]",
            ),
        ),
        costs=("draws",),
    ),
    Wrong(
        "algorithm_1",
        "a row that is chosen already comes again",
        (("if id(row) not in taken:", "if True:"),),
        costs=("draws",),
    ),
    Wrong(
        "algorithm_1",
        "any row of the domain, whatever its length",
        (
            (
                "row_weights = length_weights([n_tokens(row) for row in last_first])",
                "row_weights = [1 / len(last_first)] * len(last_first)",
            ),
        ),
        costs=("draws",),
    ),
    Wrong(
        "rank_shifts",
        "tuned - base",
        (
            (
                SHIFT,
                "shift = torch.as_tensor(ranks_tuned).double() - torch.as_tensor(ranks_base).double()",
            ),
        ),
    ),
    Wrong("rank_shifts", "absolute shifts", ((SHIFT, f"{SHIFT}\nshift = shift.abs()"),)),
    Wrong(
        "rank_shifts",
        "only tokens that became likelier are counted",
        (
            (
                "return shift.mean().item(), int((shift != 0).sum())",
                "return shift.mean().item(), int((shift > 0).sum())",
            ),
        ),
    ),
    Wrong(
        "rank_shifts",
        "the mean over the shifted tokens",
        (
            (
                "return shift.mean().item(), int((shift != 0).sum())",
                "return shift[shift != 0].mean().item(), int((shift != 0).sum())",
            ),
        ),
    ),
    Wrong(
        "pca_shift",
        "the mean of the lengths, in which layers do not cancel",
        ((DISTANCE, "return (points[:, 1] - points[:, 0]).norm(dim=1).mean().item(), points"),),
    ),
    Wrong(
        "pca_shift",
        "the components of both models' states together",
        (
            (
                "components = main_components(base)  # (2, H)",
                "components = main_components(torch.cat([base, tuned]))",
            ),
        ),
    ),
    Wrong(
        "pca_shift",
        "the components of the tuned model",
        (
            (
                "components = main_components(base)  # (2, H)",
                "components = main_components(tuned * torch.tensor([1.0, 0.3, 2.0, 1])[: tuned.shape[1]])",
            ),
        ),
    ),
    Wrong(
        "pca_shift",
        "a layer with NaN is not left out",
        (("if not (base.isfinite().all() and tuned.isfinite().all()):", "if False:"),),
        costs=("layers",),
    ),
    Wrong(
        "pca_shift",
        "projections are centred: the place on PC2 is lost",
        (
            (
                "before = base.mean(0) @ components.T  # (2,)",
                "tuned = tuned - base.mean(0)\nbase = base - base.mean(0)\n"
                "before = base.mean(0) @ components.T",
            ),
        ),
    ),
    Wrong(
        "pca_shift",
        "the components keep the sign that the decomposition gave them, the other one",
        (("return components * largest.sign()", "return -components * largest.sign()"),),
    ),
)
