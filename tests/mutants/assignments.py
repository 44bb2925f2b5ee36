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
]
