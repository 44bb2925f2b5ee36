"""Mistakes in report/."""

MUTANTS = [
    (
        "report/behaviours.py",
        "return int(found[-1]) if found else 0",
        "return int(found[0]) if found else 0",
        "a judge's first number, not its last",
        "test_analyze.py::test_a_judge_through_files",
    ),
    (
        "report/behaviours.py",
        'found[1].add(" ".join(text_of(row).split()))',
        "found[1].add(text_of(row))",
        "solutions differ by their spaces",
        "test_analyze.py::test_variety_by_hand",
    ),
    (
        "report/page.py",
        "if low <= 0 <= high:",
        "if low <= -1 and high >= 1:",
        "an interval that holds 0 is called significant",
        "test_analyze.py::test_judge",
    ),
    (
        "report/page.py",
        ('if low > 0\nelse f"less with {other}"\nif high < 0'),
        ('if found["difference"] > 0\nelse f"less with {other}"\nif found["difference"] < 0'),
        "any difference is called one",
        "test_analyze.py::test_contrasts_by_hand",
    ),
    (
        "report/page.py",
        "found[seed] = {q: statistics.fmean(v) for q, v in values.items()}",
        "found[seed] = {q: v[-1] for q, v in values.items()}",
        "of several samples of a question the last one counts",
        "test_analyze.py::test_contrasts_by_hand",
    ),
    (
        "report/weights.py",
        "return (after.to(dtype).float() - before.to(dtype).float()).abs()",
        "return (after - before).to(dtype).float().abs()",
        "the change is rounded, not the weights",
        "test_analyze.py::test_unchanged_by_hand",
    ),
    (
        "report/weights.py",
        ('"chance_of_one": 100 * b / n,\n"chance_of_other": 100 * a / n,'),
        ('"chance_of_one": 100 * a / n,\n"chance_of_other": 100 * b / n,'),
        "overlap by chance is the set's own density",
        "test_analyze.py::test_weight_changes_of_checkpoints",
    ),
    (
        "report/weights.py",
        "times = other[what] / one[what]",
        "times = one[what] / other[what]",
        "compute matched the wrong way round",
        "test_analyze.py::test_ledger_by_hand",
    ),
]
