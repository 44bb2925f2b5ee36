"""Mistakes in generate.py."""

MUTANTS = [
    (
        "generate.py",
        'lines = [line for part in self.parts() for line in part.read_bytes().split(b"\\n")[:-1]]',
        "lines = [line for part in self.parts() for line in part.read_bytes().splitlines()]",
        "cut last line read when resuming",
        "test_generate.py::test_main_resumes_with_the_same_file",
    ),
    (
        "generate.py",
        (
            "say = (\n"
            "    print\n"
            "    if ranks.leads and not cfg.stdout\n"
            "    else lambda line: ranks.leads and print(line, file=sys.stderr)\n"
            ")"
        ),
        "say = print",
        "messages among the rows of --stdout",
        "test_generate.py::test_stdout_holds_rows_and_nothing_else",
    ),
    (
        "generate.py",
        'named = row.get("answer") in list(letters) and best < len(letters)',
        "named = False",
        "multiple choice answers in words where letters are asked for",
        "test_generate.py::test_score_of_choices[10000]",
    ),
]
