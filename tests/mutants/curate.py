"""Mistakes in curate.py."""

MUTANTS = [
    (
        "curate.py",
        "ranked = sorted(range(len(lengths)), key=lambda i: -lengths[i])",
        "ranked = sorted(range(len(lengths)), key=lambda i: lengths[i])",
        "the shortest trace of a domain is preferred",
        "test_curate.py::test_length_weights_by_hand",
    ),
    (
        "curate.py",
        "0.30 * min(1, n / cap) + 0.20 * v / most_v + 0.25 * e / most_e + 0.25 * c / most_c",
        "0.25 * min(1, n / cap) + 0.20 * v / most_v + 0.25 * e / most_e + 0.25 * c / most_c",
        "a weight of LIMO's score is wrong",
        "test_curate.py::test_limo_score_by_hand",
    ),
    (
        "curate.py",
        "return statistics.pstdev(history)",
        "return statistics.stdev(history)",
        "historical variance with n - 1",
        "test_curate.py::test_one_shot_by_historical_variance",
    ),
    (
        "curate.py",
        "groups = [group[::-1] for group in groups.values() if len(group) >= n_bands]  # lowest first",
        "groups = [group for group in groups.values() if len(group) >= n_bands]",
        "LIMO's bands upside down",
        "test_curate.py::test_limo_bands_by_hand",
    ),
    (
        "curate.py",
        "if n[domain_of(row)] <= k + 64 or id(row) in outright:",
        "if n[domain_of(row)] <= 64 or id(row) in outright:",
        "a large pool is pruned too far",
        "test_curate.py::test_early_pruning_changes_no_selection",
    ),
    (
        "curate.py",
        "for i in reversed(rng.sample(range(len(keys)), len(keys))):",
        "for i in rng.sample(range(len(keys)), len(keys)):",
        "with little memory another set is diverse",
        "test_curate.py::test_keys_sort_and_draw_as_rows_do",
    ),
    (
        "curate.py",
        "if (score <= scores[i] if lowest else score >= scores[i])",
        "if (score < scores[i] if lowest else score > scores[i])",
        "rows as good as the last one chosen are not looked at",
        "test_curate.py::test_early_pruning_changes_no_selection",
    ),
]
