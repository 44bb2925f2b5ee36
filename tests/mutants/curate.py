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
        "return statistics.pstdev(accuracies)",
        "return statistics.stdev(accuracies)",
        "historical variance with n - 1",
        "test_curate.py::test_one_shot_by_historical_variance",
    ),
    (
        "curate.py",
        "lowest_first = traces[::-1]",
        "lowest_first = traces",
        "LIMO's bands upside down",
        "test_curate.py::test_limo_bands_by_hand",
    ),
    (
        "curate.py",
        "if len(accuracies) < 2:",
        "if len(accuracies) < 1:",
        "one epoch has a variance",
        "test_curate.py::test_one_shot_by_historical_variance",
    ),
]
