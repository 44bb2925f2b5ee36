"""Mistakes in grading/."""

MUTANTS = [
    (
        "grading/answers.py",
        'loose = ["=" in sign or "e" in sign for sign in signs]',
        'loose = ["=" in sign for sign in signs]',
        "x \\\\le 2 is x < 2",
        "test_answers.py::test_wrong",
    ),
    (
        "grading/answers.py",
        "if len(values) == len(parts) > 1:",
        "if False:",
        "x = 1, y = 2 is x = 2, y = 1",
        "test_answers.py::test_wrong",
    ),
    (
        "grading/answers.py",
        "if kind != other_kind or len(parts) != len(other_parts) or len(parts) > MOST_PARTS:",
        "if kind != other_kind or len(parts) > MOST_PARTS:",
        "one of several required answers is enough",
        "test_answers.py::test_wrong",
    ),
    (
        "grading/answers.py",
        'answer = f"{before}, {answer}"',
        "answer = before",
        "of two boxes that are one list only the first counts",
        "test_answers.py::test_extract_answer",
    ),
    (
        "grading/answers.py",
        "return any(is_correct(prediction, right) for right in [gold, *others])",
        "return is_correct(prediction, gold)",
        "other accepted answers are not looked at",
        "test_answers.py::test_a_choice_may_be_given_by_its_text",
    ),
    (
        "grading/answers.py",
        "if len(references) > 1:",
        "if False:",
        "CoQA's references count all at once",
        "test_answers.py::test_words_shared_with_references",
    ),
    (
        "grading/formulas.py",
        "return used == given",
        "return not used - given",
        "Countdown accepts unused numbers",
        "test_formulas.py::test_check_expression",
    ),
    (
        "grading/formulas.py",
        'raise ValueError("an interval or a list, not a group")',
        "pass",
        "[x + 1] is (x + 1)",
        "test_answers.py::test_wrong",
    ),
    (
        "grading/ifeval.py",
        (
            "texts = [\n"
            "    response,\n"
            '    "\\n".join(lines[1:]).strip(),\n'
            '    "\\n".join(lines[:-1]).strip(),\n'
            '    "\\n".join(lines[1:-1]).strip(),\n'
            "]"
        ),
        "texts = [response]",
        "loose is strict but for asterisks",
        "test_ifeval.py::test_loose_forgives_a_first_line_a_last_line_and_asterisks",
    ),
    (
        "grading/rewards.py",
        "if n + margin >= limit:",
        "if n >= limit:",
        "cosine reward without the margin before the limit",
        "test_rewards.py::test_reward_cosine_by_hand",
    ),
    (
        "grading/rewards.py",
        'return min(0.0, max(-1.0, (around.max_tokens - cache - row["n_tokens"]) / cache))',
        'return min(0.0, max(-1.0, (row["n_tokens"] - around.max_tokens + cache) / cache))',
        "short completions are punished as overlong",
        "test_rewards.py::test_reward_overlong_by_hand",
    ),
    (
        "grading/rewards.py",
        'return reward_correct(row, around) - alpha * abs(row["budget"] - row["n_tokens"])',
        'return reward_correct(row, around) - alpha * (row["n_tokens"] - row["budget"])',
        "LCPO-Exact pays for staying below the budget",
        "test_rewards.py::test_reward_lcpo_by_hand",
    ),
    (
        "grading/rewards.py",
        "return float(answer is not None and canonical(row, answer) == around.majority[0])",
        'return float(canonical(row, answer or "") == around.majority[0] or not answer)',
        "no answer agrees with the majority",
        "test_rewards.py::test_reward_vote_by_hand",
    ),
    (
        "grading/repetition.py",
        "return 1 - len(different) / n_grams",
        "return len(different) / n_grams",
        "the share of different n-grams is punished",
        "test_rewards.py::test_reward_repetition_by_hand",
    ),
    (
        "grading/rewards.py",
        "until = i + n if gram in seen else until",
        "until = i + 1 if gram in seen else until",
        "only the first token of a repeated n-gram is punished",
        "test_rewards.py::test_dense_repetition_by_hand",
    ),
    (
        "grading/rewards.py",
        "if not math.isfinite(value):",
        "if value is None:",
        "a reward of NaN is a reward",
        "test_rewards.py::test_a_reward_that_is_no_number_is_a_failure",
    ),
    (
        "grading/rewards.py",
        'kept = [row for row in kept if grade(row, str(row["label"])) is False]',
        'kept = [row for row in kept if not grade(row, str(row["label"]))]',
        "a label without a gold answer counts as wrong",
        "test_rewards.py::test_which_problems_can_be_rewarded",
    ),
    (
        "grading/rewards.py",
        "if in_file and function_name in (declared.name, declared.function.__name__):",
        "if False:",
        "what a reader's own reward declares is not looked at",
        "test_rewards.py::test_what_a_file_declares_is_needed",
    ),
    (
        "grading/rewards.py",
        '@reward("cosine", needs=("answer",))',
        '@reward("cosine")',
        "a reward forgets to say that it needs a gold answer",
        "test_rewards.py::test_what_a_reward_reads_is_declared",
    ),
    (
        "grading/sandbox.py",
        "late = time.monotonic() > self.deadline",
        "late = False",
        "a worker whose own timers are off is waited for",
        "test_sandbox.py::test_a_worker_without_timers_is_killed_by_the_parent",
    ),
    (
        "grading/sandbox.py",
        "os.dup2(2, 1)  # what the function prints goes to the terminal",
        "pass",
        "what a function prints is taken for its answer",
        "test_sandbox.py::test_what_a_function_prints_is_no_answer",
    ),
    (
        "grading/sandbox.py",
        "if self.owner != os.getpid():  # after a fork: the pipes are the parent's",
        "if False:",
        "a fork talks to the workers of its parent",
        "test_sandbox.py::test_a_fork_starts_its_own",
    ),
    (
        "grading/symbolic.py",
        (
            'return not re.search(r"(?<![\\\\a-zA-Z])[a-zA-Z]{3,}|[\\d)}]\\s*_|\\d\\s+[\\d.]|!\\s*!", text)'
        ),
        "return True",
        "math-verify is asked what it gets wrong: 52_8 = 52_9",
        "test_symbolic.py::test_what_math_verify_is_not_asked",
    ),
    (
        "grading/answers.py",
        "reach = abs(value) * NEAR",
        "reach = 0",
        "in a vote 0.333333 and 1/3 are never compared",
        "test_answers.py::test_classes_of_many_answers",
    ),
    (
        "grading/symbolic.py",
        "return _comparable(first, second) and _same(first, second)",
        "return _same(first, second)",
        "every pair of formulas is compared symbolically",
        "test_symbolic.py::test_different_fingerprints_are_different_formulas",
    ),
    (
        "grading/symbolic.py",
        "raise NoResult(result.kind)",
        "return False",
        "a comparison that ran out of time is remembered as different",
        "test_symbolic.py::test_a_time_out_is_no_verdict",
    ),
    (
        "grading/sandbox.py",
        "signal.setitimer(signal.ITIMER_PROF, cpu_seconds)",
        "signal.setitimer(signal.ITIMER_PROF, seconds)",
        "processor time has the limit of the clock",
        "test_sandbox.py::test_processor_time_is_limited_by_itself",
    ),
    (
        "grading/repetition.py",
        "return WORD.findall(text) if HAS_NO_SPACES.search(text) else text.split()",
        "return text.split()",
        "a loop in Chinese is one word",
        "test_repetition.py::test_scripts_without_spaces",
    ),
]
