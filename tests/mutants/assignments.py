"""Mistakes in the kit of the course."""

MUTANTS = [
    (
        "assignments/source.py",
        "for name in sorted(names - seen - known):",
        "for name in sorted(names - seen):",
        "a submission's version of the project's other functions counts",
        "test_assignments.py::test_own_helpers_and_imports_count_and_other_functions_do_not",
    ),
    (
        "assignments/grade.py",
        "if are_there and not lost:",
        "if not lost:",
        "a part without its tests has its points",
        "test_assignments.py::test_a_part_needs_all_of_its_tests",
    ),
    (
        "assignments/cut.py",
        '"tests/mutants",',
        "",
        "students get the list of mistakes",
        "test_assignments.py::test_the_starter_is_the_same_each_time_and_without_answers",
    ),
    (
        "assignments/cut.py",
        '"assignments/answers.md",',
        "",
        "students get the answers",
        "test_assignments.py::test_the_starter_is_the_same_each_time_and_without_answers",
    ),
    (
        "assignments/leaderboard.py",
        "if sampled > most_tokens:",
        "if trained > most_tokens:",
        "the leaderboard counts trained tokens, so who samples a lot and trains little wins",
        "test_leaderboard.py::test_the_last_accuracy_within_the_tokens_counts",
    ),
    (
        "assignments/leaderboard.py",
        "if identity.get(name) != runs[first][0].get(name):",
        "if name not in identity:",
        "runs of other data and another seed are compared",
        "test_leaderboard.py::test_runs_that_differ_are_refused",
    ),
    (
        "assignments/tiny.py",
        'sys.exit(f"first the exercise {missing}" if missing else process.returncode)',
        "return",
        "an experiment goes on after a stage has failed",
        "test_handouts.py::test_a_stage_is_a_process_of_this_python",
    ),
]
