"""Mistakes in report/."""

MUTANTS = [
    (
        "report/behaviours.py",
        "return int(found[-1]) if found else 0",
        "return int(found[0]) if found else 0",
        "a judge's first number, not its last",
        "test_behaviours.py::test_a_judge_through_files",
    ),
    (
        "report/behaviours.py",
        'texts[question].add(" ".join(trace_text(row).split()))',
        "texts[question].add(trace_text(row))",
        "solutions differ by their spaces",
        "test_behaviours.py::test_variety_by_hand",
    ),
    (
        "report/claims.py",
        "if low <= 0 <= high:",
        "if low <= -1 and high >= 1:",
        "an interval that holds 0 is called significant",
        "test_claims.py::test_decide",
    ),
    (
        "report/claims.py",
        'if low > 0:\nreturn f"more with {other}"\nif high < 0:',
        'if low + high > 0:\n    return f"more with {other}"\nif low + high < 0:',
        "any difference is called one",
        "test_claims.py::test_contrasts_by_hand",
    ),
    (
        "report/claims.py",
        "found[seed] = {question: statistics.fmean(v) for question, v in values.items()}",
        "found[seed] = {question: v[-1] for question, v in values.items()}",
        "of several samples of a question the last one counts",
        "test_claims.py::test_contrasts_by_hand",
    ),
    (
        "report/weights.py",
        "before, after = before.bfloat16(), after.bfloat16()",
        "return (after - before).bfloat16().float().abs()",
        "the change is rounded, not the weights",
        "test_weights.py::test_unchanged_by_hand",
    ),
    (
        "report/weights.py",
        '"chance_of_one": 100 * self.n_other / self.n,\n'
        '"chance_of_other": 100 * self.n_one / self.n,',
        '"chance_of_one": 100 * self.n_one / self.n,\n'
        '"chance_of_other": 100 * self.n_other / self.n,',
        "overlap by chance is the set's own density",
        "test_weights.py::test_weight_changes_of_checkpoints",
    ),
    (
        "report/compute.py",
        "times = other[what] / one[what]",
        "times = one[what] / other[what]",
        "compute matched the wrong way round",
        "test_compute.py::test_ledger_by_hand",
    ),
    (
        "report/study.py",
        "pair = [min(rivals, key=lambda name: abs(means[name] - means[rl])), rl]",
        "pair = [max(rivals, key=lambda name: abs(means[name] - means[rl])), rl]",
        "the SFT model farthest in accuracy is compared",
        "test_study.py::test_the_sft_model_that_is_as_accurate",
    ),
]
