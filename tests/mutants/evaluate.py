"""Mistakes in evaluate.py."""

MUTANTS = [
    (
        "evaluate.py",
        "return 1 - math.comb(n - c, k) / math.comb(n, k)",
        "return float(c > 0)",
        'pass@k is "any of n right"',
        "test_evaluate.py::test_pass_at_k_by_enumeration",
    ),
    (
        "evaluate.py",
        (
            "placed = [\n"
            '    (math.log2(tokens) if x == "log2" else tokens, accuracy)\n'
            "    for tokens, accuracy in points\n"
            "    if tokens > 0\n"
            "]"
        ),
        "placed = [(tokens, accuracy) for tokens, accuracy in points if tokens > 0]",
        "scaling per token, not per doubling",
        "test_evaluate.py::test_scaling_by_hand",
    ),
    (
        "evaluate.py",
        "effective = min(effective, n * mean * (1 - mean) / variance)",
        "pass",
        "samples of one question count as independent",
        "test_evaluate.py::test_the_interval_covers_what_it_promises",
    ),
    (
        "evaluate.py",
        "votes[key(answer)] = votes.get(key(answer), 0) + weight",
        "votes[key(answer)] = votes.get(key(answer), 0) + 1",
        "weights of votes are ignored",
        "test_evaluate.py::test_weighted_votes",
    ),
    (
        "evaluate.py",
        'found[f"bon@{k}"] = percent(sample.right for sample in best)',
        'found[f"bon@{k}"] = percent(any(sample.right for sample in head) for head in heads)',
        "best of N is any of N",
        "test_evaluate.py::test_what_more_samples_and_tokens_buy",
    ),
    (
        "evaluate.py",
        'known_counts([s for s in flat if s.row.get("finish") == "stop"], "n_tokens")',
        'known_counts(flat, "n_tokens")',
        "the stopped length counts what was cut",
        "test_evaluate.py::test_clip_ratio_and_stopped_length_of_simplerl",
    ),
    (
        "evaluate.py",
        'return summary["ifeval"]["instruction_strict"]',
        'return summary["accuracy"]',
        "IFEval enters the index per prompt, not per instruction",
        "test_evaluate.py::test_ifeval_run",
    ),
    (
        "evaluate.py",
        "variance = statistics.variance(values)",
        "variance = statistics.pvariance(values)",
        "the variance between few questions is divided by N",
        "test_evaluate.py::test_mean_interval",
    ),
    (
        "evaluate.py",
        "return mean, *wilson(mean * effective, effective, t_quantile(n - 1))",
        "return mean, *wilson(mean * effective, effective)",
        "an estimated variance is taken for the true one",
        "test_evaluate.py::test_mean_interval",
    ),
    (
        "evaluate.py",
        'pairs["all"] = pairs["all"] + shared',
        'pairs["all"] = shared',
        "the last group of a run is taken for the whole run",
        "test_evaluate.py::test_runs_that_share_some_questions",
    ),
    (
        "evaluate.py",
        "if None not in flexible:  # side by side means over the same samples",
        "if flexible:",
        "flexible and strict accuracy are of different samples",
        "test_evaluate.py::test_flexible_beside_strict",
    ),
    (
        "evaluate.py",
        "if 2 * n_cut > len(without):",
        "if n_cut > len(without):",
        "a run that was cut is advised to box its answers",
        "test_evaluate.py::test_advice_where_answers_are_missing",
    ),
    (
        "evaluate.py",
        '"bias": 100 * statistics.fmean((u - a) / a for a, u in pairs),',
        '"bias": 100 * statistics.fmean((u - a) / u for a, u in pairs),',
        "the error of a length is relative to what was used",
        "test_evaluate.py::test_adherence_by_hand",
    ),
    (
        "evaluate.py",
        "return [first[value] + (count[value] - 1) / 2 for value in values]",
        "return [first[value] for value in values]",
        "equal values get the lowest rank",
        "test_evaluate.py::test_adherence_by_hand",
    ),
    (
        "evaluate.py",
        "weights = [sample.score for sample in answered] if weighted else None",
        "weights = None",
        "weighted votes weigh nothing",
        "test_verdicts.py::test_scores_choose_and_vote",
    ),
]
