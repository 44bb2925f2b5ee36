"""Mistakes in analyze.py."""

MUTANTS = [
    (
        "analyze.py",
        "return (points[:, 1] - points[:, 0]).mean(0).norm().item(), points",
        "return (points[:, 1] - points[:, 0]).norm(dim=1).mean().item(), points",
        "published PCA shift without its cancelling layers",
        "test_analyze.py::test_pca_shift",
    ),
    (
        "analyze.py",
        "return abs(statistics.fmean(ratios)) if ratios else None",
        "return statistics.fmean(ratios) if ratios else None",
        "published KL estimate without its absolute value",
        "test_analyze.py::test_kl_estimator",
    ),
    (
        "analyze.py",
        "errors[question] += total - value * count",
        "errors[len(errors)] += total - value * count",
        "samples of one question taken for independent",
        "test_analyze.py::test_samples_of_one_question_are_not_independent",
    ),
    (
        "analyze.py",
        "later = [i for i in counted if i > 0]",
        "later = counted",
        "published KL estimate with the first token",
        "test_analyze.py::test_the_published_estimate_leaves_out_the_first_token",
    ),
    (
        "analyze.py",
        "if not (base.isfinite().all() and tuned.isfinite().all()):",
        "if not base.isfinite().all():",
        "a NaN of the tuned model reaches the PCA shift",
        "test_analyze.py::test_a_layer_that_is_not_finite_is_left_out",
    ),
    (
        "analyze.py",
        "if numbers.is_file():",
        "if states.is_file() and numbers.is_file():",
        "a resumed pass computes what is known",
        "test_analyze.py::test_streamed_and_resumed",
    ),
]
