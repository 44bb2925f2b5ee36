"""Mistakes in data/."""

MUTANTS = [
    (
        "data/load.py",
        "# data/hub.py is imported where it is needed: reading JSONL needs no checkers of answers.",
        "from data import hub",
        "fine-tuning loads the checkers of answers",
        "test_structure.py::test_fine_tuning_imports_no_checkers",
    ),
    (
        "data/hub.py",
        'random.Random(row["Question"]).shuffle(choices)',
        "pass",
        "GPQA's right choice is always A",
        "test_prepare.py::test_the_order_of_choices_is_drawn_from_the_question",
    ),
    (
        "data/hub.py",
        'conversation[-1] = "A:"  # the last answer is what is asked for',
        'conversation.append("A:")',
        "the conversation ends with the answer that is asked for",
        "test_prepare.py::test_conversations",
    ),
    (
        "data/tiny.py",
        '"key": f"{task} {sorted(nums)} {target}",',
        '"key": f"{task} {nums} {target}",',
        "held-out problems come back in another order of numbers",
        "test_tiny.py::test_no_problem_is_in_two_splits",
    ),
    (
        "data/tiny.py",
        "trace_of = rng.choices(styles, (70, 15, 5, 5, 5))[0] if searches else single_trace",
        "trace_of = rng.choices(styles, (70, 15, 5, 5, 5))[0]",
        "a base that is said to have read no searches has read them",
        "test_tiny.py::test_reading_without_searches",
    ),
    (
        "data/tiny.py",
        'before = target - last if operator == "+" else target + last',
        'before = target + last if operator == "+" else target - last',
        "a plan goes forward instead of backward",
        "test_tiny.py::test_plans_by_hand",
    ),
    (
        "data/tiny.py",
        "return VOCABULARY + list(TWINS.values()) if twins else VOCABULARY",
        "return VOCABULARY",
        "the second script is unknown to the tokenizer",
        "test_tiny.py::test_a_second_script",
    ),
    (
        "data/addition.py",
        "total = sum(columns[place]) + carry",
        "total = sum(columns[place])",
        "a scratchpad that forgets the carry",
        "test_addition.py::test_scratchpads_of_the_paper",
    ),
    (
        "data/search.py",
        "if Counter((a, b)) - now:",
        "if False:",
        "a number may be used twice, as the paper's checker lets it",
        "test_search.py::test_first_errors",
    ),
    (
        "data/search.py",
        "return max(0.0, 1 - (n_explored + 1) / max_nodes) if is_solved else 0.0",
        "return max(0.0, 1 - n_explored / max_nodes) if is_solved else 0.0",
        "a rating forgets the first node",
        "test_search.py::test_searches_of_the_paper",
    ),
]
