"""Mistakes in rollouts.py."""

MUTANTS = [
    (
        "rollouts.py",
        'injected, cut = set(row["injected"]), cfg.mask_truncated and row["finish"] == "length"',
        'injected, cut = set(), cfg.mask_truncated and row["finish"] == "length"',
        "injected tokens trained",
        "test_grpo.py::test_injected_and_truncated_tokens_are_masked",
    ),
    (
        "rollouts.py",
        '+ [not cut and i not in injected for i in range(len(row["ids"]))]',
        ('+ [not cut and i not in injected for i in range(len(row["ids"]) - 1)]\n+ [False]'),
        "end-of-sequence not trained",
        "test_grpo.py::test_what_is_trained",
    ),
    (
        "rollouts.py",
        (
            "order = torch.randperm(\n"
            "    n_problems, generator=torch.Generator().manual_seed(seed + place // n_problems)\n"
            ")"
        ),
        "order = torch.randperm(n_problems, generator=torch.Generator().manual_seed(seed + step))",
        "order of the data changes inside an epoch",
        "test_grpo.py::test_choose_prompts_visits_each_once_per_epoch",
    ),
    (
        "rollouts.py",
        (
            "groups = rollout(\n"
            '    here, problems, ("rollout", step, number)[: 2 + (number > 0)], shares[here.ranks.index]\n'
            ")"
        ),
        'groups = rollout(here, problems, ("rollout",), shares[here.ranks.index])',
        "same random numbers at every step",
        "test_grpo.py::test_a_problem_is_sampled_anew_at_each_step",
    ),
    (
        "rollouts.py",
        (
            "if (\n"
            "    not cfg.dynamic_sampling\n"
            '    or len({row["right" if "answer" in needs else "reward"] for row in trained}) > 1\n'
            "):"
        ),
        'if not cfg.dynamic_sampling or len({row["reward"] for row in trained}) > 1:',
        "dynamic sampling takes a difference in length for a mixed group",
        "test_grpo.py::test_dynamic_sampling_looks_at_correctness_not_at_length",
    ),
    (
        "rollouts.py",
        "if not isinstance(found, dict):  # a Failure, which JSON has made a list",
        "if found is None:",
        "a failed reward is used",
        "test_grpo.py::test_a_reward_that_is_nan_is_no_reward",
    ),
    (
        "rollouts.py",
        "return logsumexp - mean - math.log(len(head.weight))",
        "return logsumexp - mean",
        "self-certainty without log V",
        "test_grpo.py::test_self_certainty_by_hand",
    ),
    (
        "rollouts.py",
        "packed = attention.Packed(batch.lengths, device, source=place, first=own.nonzero()[:, 0])",
        "packed = attention.Packed(\n"
        "    batch.lengths, device, source=place, first=torch.arange(len(place))[: own.sum()]\n"
        ")",
        "shared tokens get the attention of others",
        "test_grpo.py::test_a_prompt_is_computed_once_for_its_group",
    ),
    (
        "rollouts.py",
        "if leader is not None and ids[:start] == leader[0]:",
        "if leader is not None and ids[:4] == leader[0][:4]:",
        "another prompt with the same beginning is taken for the same",
        "test_grpo.py::test_a_prompt_is_computed_once_for_its_group",
    ),
    (
        "rollouts.py",
        "return [found[place] for place in range(len(found))]",
        "return list(found.values())",
        "groups of several ranks in the order of the ranks",
        "test_grpo_ranks.py::test_groups_stay_together_and_all_ranks_see_all",
    ),
    (
        "rollouts.py",
        "for place in sorted(range(len(work)), key=lambda i: -work[i]):",
        "for place in range(len(work)):",
        "groups are dealt as they come, and the largest comes last",
        "test_grpo_ranks.py::test_groups_are_dealt_by_hand",
    ),
    (
        "rollouts.py",
        "heapq.heappush(loads, (load + work[place], rank))",
        "heapq.heappush(loads, (load + 1, rank))",
        "groups are dealt by their number",
        "test_grpo_ranks.py::test_ranks_sample_as_many_tokens_each",
    ),
    (
        "rollouts.py",
        'most = min(cfg.max_tokens, problem["budget"]) if budgeted else cfg.max_tokens',
        "most = cfg.max_tokens",
        "a problem with a small budget is taken for a long one",
        "test_grpo_ranks.py::test_ranks_sample_as_many_tokens_each",
    ),
]
