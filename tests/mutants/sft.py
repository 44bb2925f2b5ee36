"""Mistakes in sft.py."""

MUTANTS = [
    (
        "sft.py",
        "part = -logp.sum() / n_trained",
        "part = -logp.mean()",
        "the loss is normalised per micro-batch",
        "test_sft.py::test_micro_batches_change_nothing",
    ),
    (
        "sft.py",
        "n_trained = sum(sum(trained[1:]) for _, trained in examples)",
        "n_trained = sum(len(trained) - 1 for _, trained in examples)",
        "the normaliser counts prompt tokens",
        "test_sft.py::test_loss_is_the_mean_nll_of_the_trained_tokens",
    ),
    (
        "sft.py",
        'if cfg.train_on == "all":',
        "if True:",
        "the prompt is trained",
        "test_sft.py::test_prompt_tokens_take_no_part_in_the_loss",
    ),
    (
        "sft.py",
        "(part * ranks.n).backward()  # FSDP takes the mean over ranks",
        "part.backward()",
        "the gradient shrinks with the number of ranks",
        "test_sharding.py::test_one_step_of_two_ranks",
    ),
    (
        "sft.py",
        "for k in torch.randperm(len(packs), generator=generator).tolist():",
        "for k in sorted(range(len(packs)), key=lambda k: len(packs[k])):",
        "packed steps come in the order of their lengths",
        "test_sft.py::test_packing_is_98_percent_full_and_still_shuffled",
    ),
    (
        "sft.py",
        "steps = steps[: 1 + bisect.bisect_left(spent, flops_budget)]",
        "steps = steps[: bisect.bisect_left(spent, flops_budget)]",
        "a matched run stops a step short",
        "test_sft.py::test_match_flops",
    ),
    (
        "sft.py",
        "n_bad = n_bad + 1 if is_bad else 0",
        "n_bad += is_bad",
        "bad steps need not follow one another to end a run",
        "test_sft.py::test_several_bad_steps_in_a_row_end_the_run",
    ),
    (
        "sft.py",
        "return sorted(range(len(examples)), key=lambda i: -means[i])",
        "return sorted(range(len(examples)), key=lambda i: -sums[i])",
        "short rows count as easy",
        "test_sft.py::test_easy_order",
    ),
    (
        "sft.py",
        "return plan.of_rows(cfg, examples)",
        "plan.of_rows(cfg, examples)",
        "--plan says what it says and trains all the same",
        "test_plan.py::test_plan_flag_of_the_scripts",
    ),
]
