"""Mistakes, a few lines each, that other implementations make or that are easy to make here.

Each must fail the test that is named beside it. Also a catalogue to teach from: put a mistake in by
hand, run the test, read what it says. One file for each room or script; an entry is
(file, the right lines, the mistaken lines, the mistake in words, test file::test).
"""

from mutants import (
    analyze,
    assignments,
    atlas,
    curate,
    curation,
    data,
    engine,
    evaluate,
    generate,
    grading,
    grpo,
    kernels,
    recipes,
    report,
    sft,
)

MUTANTS = [
    mutant
    for part in (
        analyze,
        assignments,
        atlas,
        curate,
        curation,
        data,
        engine,
        evaluate,
        generate,
        grading,
        grpo,
        kernels,
        recipes,
        report,
        sft,
    )
    for mutant in part.MUTANTS
]
