"""Mistakes in grpo.py."""

MUTANTS = [
    (
        "grpo.py",
        "return torch.minimum(ratio * advantage, ratio.clamp(1 - eps_low, 1 + eps_high) * advantage)",
        "return torch.maximum(ratio * advantage, ratio.clamp(1 - eps_low, 1 + eps_high) * advantage)",
        "clip: max for min",
        "test_grpo.py::test_clipped_objective_by_hand",
    ),
    (
        "grpo.py",
        "loss = loss + cfg.beta * kl_estimate(stats.logp, ref_logp, cfg.kl)",
        "loss = loss - cfg.beta * kl_estimate(stats.logp, ref_logp, cfg.kl)",
        "sign of the KL term",
        "test_grpo.py::test_gradient_equals_a_loop_over_tokens",
    ),
    (
        "grpo.py",
        'centred = centred / (rewards.std(1, keepdim=True, correction=int(std == "sample")) + eps)',
        'centred = centred / (rewards.std(1, keepdim=True, correction=int(std == "pop")) + eps)',
        "sample and population deviation exchanged",
        "test_grpo.py::test_advantages_by_hand",
    ),
    (
        "grpo.py",
        "token_weight = torch.cat([weights[i] for i in chosen]).to(ranks.device)  # (N,)",
        "token_weight = torch.full((len(batch.row),), 1 / len(batch.row))  # (N,)",
        "normaliser of the micro-batch",
        "test_grpo.py::test_gradient_equals_a_loop_over_tokens",
    ),
    (
        "grpo.py",
        'hidden, head, batch.target, cfg.temperature, want=("logp", "entropy")',
        'hidden, head, batch.target, 1.0, want=("logp", "entropy")',
        "temperature left out of the training log-probabilities",
        "test_grpo.py::test_gradient_equals_a_loop_over_tokens",
    ),
    (
        "grpo.py",
        "centred = centred * (n_samples / (n_samples - 1))  # = r - (sum - r) / (G - 1)",
        "centred = centred * ((n_samples - 1) / n_samples)",
        "the row's own reward is in the baseline of the others",
        "test_grpo.py::test_leave_one_out_by_hand",
    ),
    (
        "grpo.py",
        (
            "ratio = (\n"
            "    torch.zeros_like(logp).index_add(0, row, difference)[row] / torch.bincount(row)[row]\n"
            ").exp()"
        ),
        "ratio = torch.zeros_like(logp).index_add(0, row, difference)[row].exp()",
        "GSPO's ratio without the length",
        "test_grpo.py::test_objective_grpo_and_gspo_by_hand",
    ),
    (
        "grpo.py",
        "return ratio.clamp(low, high).detach() * advantage * logp, (ratio < low) | (ratio > high)",
        "return ratio.clamp(low, high) * advantage * logp, (ratio < low) | (ratio > high)",
        "CISPO's weight has a gradient of its own",
        "test_grpo.py::test_objective_cispo_by_hand",
    ),
    (
        "grpo.py",
        "log_negative = limited.log() + (negative - negative.detach()) / limited",
        "log_negative = negative.clamp(min=cfg.nft_eps).log()",
        "NFT: the clipped value has no gradient",
        "test_grpo.py::test_objective_nft_of_a_wrong_answer",
    ),
    (
        "grpo.py",
        "loss = loss - cfg.entropy * stats.entropy",
        "loss = loss + cfg.entropy * stats.entropy",
        "sign of the entropy bonus",
        "test_grpo.py::test_entropy_bonus_raises_entropy",
    ),
    (
        "grpo.py",
        "everywhere = use_kl or cfg.entropy != 0  # a gradient in every row",
        "everywhere = use_kl",
        "rows of advantage 0 get no entropy bonus",
        "test_grpo.py::test_gradient_of_each_objective_equals_a_loop",
    ),
    (
        "grpo.py",
        "reward -= cfg.beta * kl.view_as(reward)",
        "reward += cfg.beta * kl.view_as(reward)",
        "sign of the KL in the reward",
        "test_grpo.py::test_kl_in_the_reward_of_a_run",
    ),
    (
        "grpo.py",
        "gain = gain * (old_logp - sampled_logp).exp().clamp(max=cfg.tis)",
        "gain = gain * (old_logp - sampled_logp).exp()",
        "importance weights that are not truncated",
        "test_grpo.py::test_truncated_importance_sampling_by_hand",
    ),
    (
        "grpo.py",
        "masks = [[m and bool(accepted) for m in mask] for mask, accepted in zip(masks, advantage)]",
        "masks = [list(mask) for mask, accepted in zip(masks, advantage)]",
        "rejected samples count in the normaliser of expert iteration",
        "test_grpo.py::test_rft_is_the_likelihood_of_what_was_accepted",
    ),
    (
        "grpo.py",
        "token_advantage = token_advantage + of_tokens(token_rewards, chosen)",
        "token_advantage = token_advantage * of_tokens(token_rewards, chosen)",
        "rewards of tokens multiply the advantage",
        "test_grpo.py::test_a_reward_of_tokens_is_an_advantage_of_its_own",
    ),
    (
        "grpo.py",
        "while len(queue) <= cfg.lag and step + len(queue) < cfg.steps:",
        "while not queue:",
        "--lag does nothing",
        "test_grpo.py::test_lag",
    ),
    (
        "grpo.py",
        (
            "# lengths only deal the work: older ones lack it\n"
            'queue, lengths = deque(state["queue"]), state.get("lengths", {})'
        ),
        'queue, lengths = deque(), state.get("lengths", {})',
        "waiting rollouts and the reference are lost with a kill",
        "test_grpo.py::test_a_killed_run_keeps_its_waiting_rollouts_and_its_reference",
    ),
    (
        "grpo.py",
        "parts = [slice(a, b) for a, b in zip(ends, ends[1:]) if a < b]",
        "parts = [slice(a // 2, b // 2) for a, b in zip(ends, ends[1:]) if a < b]",
        "half of a rollout is not trained",
        "test_grpo.py::test_parts_of_a_rollout",
    ),
]
