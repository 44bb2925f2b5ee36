"""Mistakes in evaluate.py."""

MUTANTS = [
    (
        "evaluate.py",
        "return 1 - math.comb(n - c, k) / math.comb(n, k)",
        "return float(c > 0)",
        'pass@k is "any of n right"',
        "test_evaluate.py::test_pass_at_k_by_hand_and_by_enumeration",
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
        (
            "effective = (\n"
            "    min(limit, n * mean * (1 - mean) / spread)\n"
            "    if spread > 1e-12\n"
            "    else limit\n"
            "    if 0 < mean < 1\n"
            "    else n\n"
            ")"
        ),
        "effective = limit",
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
        (
            'summary[f"bon@{size}"] = _mean(\n'
            '    (max(head, key=lambda s: s["score"])["right"] for head in heads), 100\n'
            ")"
        ),
        'summary[f"bon@{size}"] = _mean((any(s["right"] for s in head) for head in heads), 100)',
        "best of N is any of N",
        "test_evaluate.py::test_what_more_samples_and_tokens_buy",
    ),
    (
        "evaluate.py",
        (
            's["row"]["n_tokens"]\n'
            "for s in flat\n"
            'if s["row"].get("finish") == "stop" and s["row"].get("n_tokens") is not None'
        ),
        's["row"]["n_tokens"] for s in flat if True and s["row"].get("n_tokens") is not None',
        "the stopped length counts what was cut",
        "test_evaluate.py::test_clip_ratio_and_stopped_length_of_simplerl",
    ),
    (
        "evaluate.py",
        (
            'task: s["ifeval"]["instruction_strict"]\n'
            'if "ifeval" in s\n'
            'else s.get("overlap", {}).get("exact", s["accuracy"])'
        ),
        'task: s.get("overlap", {}).get("exact", s["accuracy"])',
        "IFEval enters the index per prompt, not per instruction",
        "test_evaluate.py::test_ifeval_run",
    ),
]
