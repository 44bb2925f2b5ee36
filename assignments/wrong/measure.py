"""Wrong solutions of the ladder "measure"."""

from wrong import Wrong

BOOTSTRAP = """def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    if len(a) != len(b) or not a:
        raise ValueError("paired values needed")
    rng, n = random.Random(seed), len(a)
"""
COMB = "return 1 - math.comb(n - c, k) / math.comb(n, k)"

WRONG = (
    Wrong(
        "pass_at_k",
        "drawn with replacement: the biased estimator",
        ((COMB, "return 1 - (1 - c / n) ** k"),),
    ),
    Wrong(
        "pass_at_k", "any of the n samples (LIMO prints it as accuracy)", ((COMB, "return c > 0"),)
    ),
    Wrong(
        "pass_at_k",
        "all k are right, instead of one of them",
        ((COMB, "return math.comb(c, k) / math.comb(n, k)"),),
    ),
    Wrong("pass_at_k", "the mean accuracy, whatever k is", ((COMB, "return c / n"),)),
    Wrong(
        "pass_at_k",
        "right and wrong samples exchanged",
        ((COMB, "return 1 - math.comb(c, k) / math.comb(n, k)"),),
    ),
    Wrong(
        "paired_bootstrap",
        "a and b are resampled apart: not paired",
        code={
            "paired_bootstrap": BOOTSTRAP
            + """    means = sorted(
        (sum(rng.choices(a, k=n)) - sum(rng.choices(b, k=n))) / n for _ in range(n_resamples)
    )
    low, high = means[int(0.025 * n_resamples)], means[int(0.975 * n_resamples) - 1]
    return (sum(a) - sum(b)) / n, low, high
"""
        },
        costs=("interval",),
    ),
    Wrong(
        "paired_bootstrap",
        "a 90% interval",
        (
            ("low = means[int(0.025 * n_resamples)]", "low = means[int(0.05 * n_resamples)]"),
            (
                "high = means[math.ceil(0.975 * n_resamples) - 1]",
                "high = means[math.ceil(0.95 * n_resamples) - 1]",
            ),
        ),
        costs=("interval",),
    ),
    Wrong(
        "paired_bootstrap",
        "the mean of the resamples instead of the sample's difference",
        (
            (
                "return sum(differences) / n, low, high",
                "return sum(means) / n_resamples, low, high",
            ),
        ),
    ),
    Wrong(
        "paired_bootstrap",
        "b - a",
        (
            (
                "differences = [x - y for x, y in zip(a, b)]",
                "differences = [y - x for x, y in zip(a, b)]",
            ),
        ),
    ),
    Wrong(
        "paired_bootstrap",
        "the global random state: another interval at each call",
        (
            (
                "means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))",
                "means = sorted("
                "sum(random.choices(differences, k=n)) / n for _ in range(n_resamples))",
            ),
        ),
        costs=("interval",),
    ),
    Wrong(
        "paired_bootstrap",
        "percentiles of single differences, not of means",
        (
            (
                "means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))",
                "means = sorted(rng.choice(differences) for _ in range(n_resamples))",
            ),
        ),
        costs=("interval",),
    ),
    Wrong(
        "check_expression",
        "a tolerance for the value instead of exact fractions",
        (
            (
                "if found is None or found[1] != Fraction(target):",
                "if found is None or abs(found[1] - target) > 1e-2:",
            ),
        ),
        costs=("value",),
    ),
    Wrong(
        "check_expression",
        "the value is rounded to a whole number",
        (
            (
                "if found is None or found[1] != Fraction(target):",
                "if found is None or round(found[1]) != round(target):",
            ),
        ),
        costs=("value",),
    ),
    Wrong(
        "check_expression",
        "numbers compared as sets: one may be used twice",
        (
            ("return used == given", "return set(used) == set(given)"),
            (
                "return sum(used.values()) == n_used and not used - given",
                "return sum(used.values()) == n_used and set(used) <= set(given)",
            ),
        ),
        costs=("numbers",),
    ),
    Wrong(
        "check_expression",
        "numbers may be left over",
        (("return used == given", "return not used - given"),),
        costs=("numbers",),
    ),
    Wrong(
        "check_expression",
        "digits compared: 2 and 4 may become 24 (nano-aha-moment's 1.5 of 1 and 5)",
        (
            (
                "used, given = Counter(found[0]), Counter(int(n) for n in nums)",
                'used, given = (Counter("".join(map(str, n))) for n in (found[0], nums))',
            ),
        ),
        costs=("numbers",),
    ),
    Wrong(
        "check_expression",
        "left_to_right is not passed on",
        (
            (
                "found = expression_value(text, left_to_right)",
                "found = expression_value(text)",
            ),
        ),
        costs=("value",),
    ),
    Wrong(
        "check_expression",
        "the sides of = are not compared",
        (("if any(value != values[0] for value in values):  # 6 * 4 = 25", "if False:"),),
        costs=("text around it",),
    ),
    Wrong(
        "check_expression",
        "Python's eval",
        code={
            "expression_value": """def expression_value(text, left_to_right=False):
    try:
        side = _arithmetic(text).split("=")[0]
        if not re.fullmatch(r"[0-9+*/(). -]+", side):
            return None
        return [int(n) for n in re.findall(r"[0-9]+", side)], eval(side)
    except Exception:
        return None
"""
        },
    ),
)
