"""Mistakes in atlas/."""

MUTANTS = [
    (
        "atlas/arms.py",
        "    job.sources = sources.fingerprints(text_with_settings(job))",
        "    job.sources = {}",
        "a changed source computes nothing again",
        "test_atlas.py::test_a_changed_source_computes_what_it_touches",
    ),
    (
        "atlas/arms.py",
        '    if "SEED" in names:',
        "    if False:",
        "all seeds of an arm are the same",
        "test_atlas.py::test_an_arm_that_names_the_seed_is_made_for_each",
    ),
    (
        "atlas/arms.py",
        "    parts = [job.kind, VARIABLE.sub(by_key, job.text), job.variables, job.sources, job.needs]",
        "    parts = [job.kind, job.name, job.variables, job.sources, job.needs]",
        "a changed command is not run again",
        "test_atlas.py::test_a_changed_command_or_setting_computes_what_it_touches",
    ),
    (
        "atlas/lanes.py",
        '        if job.record():\n            return ""',
        '        if job.out.exists():\n            return ""',
        "what a killed arm left is taken for its whole output",
        "test_atlas.py::test_a_killed_run_continues[9]",
    ),
    (
        "atlas/lanes.py",
        "            pass_fds=(lock.fileno(),),",
        "",
        "an arm is written by the commands of a killed runner and by those of the next",
        "test_atlas.py::test_a_killed_run_continues[9]",
    ),
    (
        "atlas/lanes.py",
        "if status:",
        "if False:",
        "what a failed arm left is taken for its whole output",
        "test_atlas.py::test_a_failed_arm_fails_what_needs_it_and_nothing_else",
    ),
    (
        "atlas/verdicts.py",
        '    if study.settings.get("SPLIT", "held_out") != "held_out":',
        "    if False:",
        "settings that are chosen on the dev split count as looks at the held-out one",
        "test_atlas.py::test_looks_are_counted_once_for_each_output",
    ),
]
