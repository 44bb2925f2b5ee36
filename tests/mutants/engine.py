"""Mistakes in engine/."""

MUTANTS = [
    (
        "engine/attention.py",
        "packed = sequences",
        "packed = Packed([len(query)], query.device)",
        "packed documents attend to one another",
        "test_model.py::test_no_document_sees_another",
    ),
    (
        "engine/attention.py",
        "q, k, v, is_causal=True, scale=scale, enable_gqa=True",
        "q, k, v, is_causal=False, scale=scale, enable_gqa=True",
        "attention sees later tokens",
        "test_model.py::test_no_token_sees_a_later_one",
    ),
    (
        "engine/attention.py",
        "self.back = None if len(groups) == 1 else torch.cat(real).argsort().to(device)",
        "self.back = None if len(groups) == 1 else torch.cat(real).to(device)",
        "tokens come back from the blocks in the wrong order",
        "test_model.py::test_blocks_hold_each_token_once_and_put_it_back",
    ),
    (
        "engine/attention.py",
        "if window is not None and sequences.max_len <= window:",
        "if window is not None and sequences.max_len <= window + 1:",
        "a window is dropped for a text one token longer than it",
        "test_families.py::test_the_edge_of_a_window",
    ),
    (
        "engine/attention.py",
        "scores = softcap * torch.tanh((q @ k.transpose(2, 3)).float() * (scale / softcap))",
        "scores = softcap * torch.tanh((q @ k.transpose(2, 3)).float() / softcap) * scale",
        "scores are capped before they are scaled",
        "test_families.py::test_half_precision_with_caps_is_no_worse_than_transformers",
    ),
    (
        "engine/checkpoints.py",
        'return int(state["step"]), dict(state["identity"]), state',
        'return int(state["step"]) - 1, dict(state["identity"]), state',
        "resuming repeats a step",
        "test_sft.py::test_resume_is_bit_equal",
    ),
    (
        "engine/checkpoints.py",
        'dcp.load(state, storage_reader=reader, no_dist=getattr(model, "shards", None) is None)',
        (
            "dcp.load(\n"
            '    {key: x for key, x in state.items() if "exp_avg" not in key},\n'
            "    storage_reader=reader,\n"
            "    no_dist=True,\n"
            ")"
        ),
        "resuming forgets the optimizer's moments",
        "test_sft.py::test_resume_is_bit_equal",
    ),
    (
        "engine/checkpoints.py",
        "older = saved_checkpoints(out)",
        "older = [shutil.rmtree(path) for path in saved_checkpoints(out)] and []",
        "the last checkpoint is deleted before the next one is there",
        "test_sft.py::test_killed_in_the_middle_of_a_checkpoint",
    ),
    (
        "engine/checkpoints.py",
        'if state["files"] != _sizes(path):',
        "if False:",
        "a checkpoint that lost the optimizer is taken",
        "test_sft.py::test_a_corrupt_checkpoint_costs_one_line",
    ),
    (
        "engine/checkpoints.py",
        (
            "else torch.zeros(\n"
            "    (),\n"
            "    dtype=like,\n"
            '    device=p.device if optimizer.defaults.get("fused") else "cpu",\n'
            ")"
        ),
        'else torch.zeros((), dtype=like, device="cpu")',
        "a kernel on the GPU is given an address on the host",
        "test_sft.py::test_a_loaded_count_lies_where_its_step_reads_it",
    ),
    (
        "engine/dealing.py",
        "return [bins[rank::n_ranks] for rank in range(n_ranks)]",
        "return [bins[::n_ranks] for rank in range(n_ranks)]",
        "all ranks see the same rows",
        "test_sft.py::test_deal_by_hand",
    ),
    (
        "engine/completions.py",
        "text = text.partition(completion.stop)[0]",
        "text = text.rpartition(completion.stop)[0]",
        "text is cut at the last of two stop strings in one token",
        "test_decoder.py::test_stop_strings",
    ),
    (
        "engine/decoder.py",
        "logits = logits[:, : control.n_tokens]",
        "logits = logits.clone()",
        "ids beyond the tokenizer can be drawn",
        "test_decoder.py::test_greedy_equals_transformers",
    ),
    (
        "engine/decoder.py",
        'logits = logits.masked_fill(state["fresh"][:, None] & control.is_end, -torch.inf)',
        (
            "logits[:, control.end_id] = logits[:, control.end_id].masked_fill(\n"
            '    state["fresh"], -torch.inf\n'
            ")"
        ),
        "end-of-sequence right after Wait",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        'spent = thinking & (counted >= state["budget"])',
        'spent = thinking & (counted > state["budget"])',
        "budget off by one",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        'state["n_thinking"] += counts',
        'state["n_thinking"] += counts & ~injected',
        "Wait not counted as thinking",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        'more = (state["n_waits"] < state["waits"]) | (state["n_thinking"] < state["min_thinking"])',
        'more = (state["n_waits"] <= state["waits"]) | (state["n_thinking"] < state["min_thinking"])',
        "one Wait too many",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        "wants_end = thinking & control.is_end[token]",
        "wants_end = thinking & (token == control.end_id)",
        "end-of-sequence inside thinking not treated as its end",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        'n = picked["n"][i]',
        'n = picked["n"][i] - (picked["finish"][i] == STOPPED)',
        "stop token dropped from ids",
        "test_decoder.py::test_greedy_equals_transformers",
    ),
    (
        "engine/decoder.py",
        "cache.copy(movers, holes, max(lengths[i] for i in movers))",
        "pass",
        "cache not moved into the hole",
        "test_decoder.py::test_greedy_equals_transformers",
    ),
    (
        "engine/decoder.py",
        "bounds[hole] = bounds[mover]",
        "pass",
        "a sequence that moves is taken to be as long as the one before it",
        "test_decoder.py::test_greedy_equals_transformers",
    ),
    (
        "engine/decoder.py",
        'token, logp = draw(logits, state["n"])',
        'token, logp = draw(logits, state["length"])',
        "random numbers by place in the cache, not in the completion",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        'counted = state["n_thinking"] if control.rule == "total" else state["n_round"]',
        'counted = state["n_thinking"]',
        "the harness rule does not start the budget anew",
        "test_decoder.py::test_t14_harness_rule_gives_each_round_the_whole_budget",
    ),
    (
        "engine/decoder.py",
        'room = counted + control.wait_length < state["budget"] if control.rule == "total" else more',
        "room = more",
        "a Wait that leaves no room for a token behind it",
        "test_decoder.py::test_forcing_of_each_row_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        'other = draw(barred, state["n"] + 2**32)',
        'other = draw(barred, state["n"])',
        "no wait string: the same random number drawn twice",
        "test_decoder.py::test_forcing_of_each_row_equals_re_encoding_everything",
    ),
    (
        "engine/decoder.py",
        (
            "requests[index] = request._replace(\n"
            '    key=random_key(request.key, "again"), n_tries=request.n_tries + 1\n'
            ")"
        ),
        "requests[index] = request._replace(n_tries=request.n_tries + 1)",
        "a rejected sample is drawn again with the same random numbers",
        "test_decoder.py::test_a_rejected_sample_gets_other_random_numbers",
    ),
    (
        "engine/decoder.py",
        'answers = thinking & (state["token"] == control.end_id) & (token == control.answer_id)',
        "answers = thinking & (token == control.answer_id)",
        'the word "answer" inside a step ends thinking',
        "test_decoder.py::test_steps_under_a_budget_and_at_a_stop",
    ),
    (
        "engine/decoder.py",
        "width = 4 * max(map(len, strings))  # a token is a byte at least, a character at most four",
        "width = 1",
        "stop strings over two tokens are not seen",
        "test_decoder.py::test_stop_strings_against_the_whole_text",
    ),
    (
        "engine/decoder.py",
        "bounds = [self.cache.max_len - 1] * size",
        "bounds = (bounds * size)[:size]",
        "the graph is recorded with its first step's bound of the lengths",
        "test_decoder.py::test_recorded_steps_give_the_same_texts",
    ),
    (
        "engine/decoder.py",
        "copies.append((source, [spare], len(prompt)))",
        "pass",
        "the spare slot does not get the prompt that is to be kept",
        "test_decoder.py::test_a_prompt_is_encoded_once_for_all_its_samples",
    ),
    (
        "engine/decoder.py",
        "cache.clear(over, max(lengths[i] for i in over) + 1)",
        "pass",
        "a slot's NaN reaches its next tenant",
        "test_decoder.py::test_what_a_finished_row_computes_on_its_way_out_reaches_nobody",
    ),
    (
        "engine/decoder.py",
        'wants_end = wants_end & state["guided"]',
        "pass",
        "what is forced on one row changes the rows beside it",
        "test_decoder.py::test_what_is_forced_on_one_row_is_not_forced_on_another",
    ),
    (
        "engine/format.py",
        ("for piece in self.completion_pieces(row):\n    completion += encode(tokenizer, piece)"),
        'completion += encode(tokenizer, "".join(self.completion_pieces(row)))',
        "the joined text is encoded: other ids than in use",
        "test_format.py::test_the_decoder_starts_where_training_did",
    ),
    (
        "engine/format.py",
        "return prompt + completion, prompt_trained + [True] * len(completion)",
        "return prompt + completion, prompt_trained + [True] * (len(completion) - 1) + [False]",
        "the end-of-sequence token is not trained",
        "test_format.py::test_think_text",
    ),
    (
        "engine/format.py",
        'return thinking.strip(), ""',
        "return thinking.strip(), thinking.strip()",
        "unfinished thinking counts as the response",
        "test_format.py::test_split",
    ),
    (
        "engine/format.py",
        "spans = [answer_span(tokenizer, text, history, k) for k in answers[-turns:]]",
        "spans = [answer_span(tokenizer, text, history, k) for k in answers]",
        "every earlier turn is trained",
        "test_sft.py::test_turns_by_hand",
    ),
    (
        "engine/kv_cache.py",
        "self.n_positions = min(max_len, rope_limit(model) or max_len)",
        "self.n_positions = max_len",
        "a long cache stretches a rope",
        "test_families.py::test_a_long_cache_does_not_stretch_the_rope",
    ),
    (
        "engine/kv_cache.py",
        "torch.cat([-sin[:, : sin.shape[1] // 2], sin[:, sin.shape[1] // 2 :]], 1),",
        "torch.cat([sin[:, : sin.shape[1] // 2], -sin[:, sin.shape[1] // 2 :]], 1),",
        "a decoding step turns the other way",
        "test_families.py::test_a_plain_step_is_transformers_own",
    ),
    (
        "engine/loading.py",
        'for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):',
        'for file in sorted(part.iterdir(), key=lambda file: file.name != "config.json"):',
        "config.json is saved first",
        "test_model.py::test_a_save_cut_short_is_no_model",
    ),
    (
        "engine/loading.py",
        "if sorted(layers, key=lambda call: call[0]) != wanted:",
        "if len(layers) != len(wanted):",
        "a window that a layer forgets is not noticed",
        "test_model.py::test_an_architecture_is_computed_as_transformers_does_or_refused",
    ),
    (
        "engine/model.py",
        (
            "return min(\n"
            "    model.config.get_text_config().max_position_embeddings, rope_limit(model) or math.inf\n"
            ")"
        ),
        "return model.config.max_position_embeddings",
        "completions run past the exact part of a stretched rotary embedding",
        "test_families.py::test_generate_keeps_to_the_limit",
    ),
    (
        "engine/model.py",
        "return sum(2 * n * length + 2 * attention_width * length**2 for length in lengths)",
        "return sum(2 * n * length + 4 * attention_width * length**2 for length in lengths)",
        "attention is counted as if nothing were masked",
        "test_sft.py::test_flops_by_hand",
    ),
    (
        "engine/model.py",
        'own.sliding_window if hasattr(own, "sliding_window") else window,',
        'getattr(own, "sliding_window", None),',
        "a decoding step forgets Mistral's window",
        "test_families.py::test_a_plain_step_is_transformers_own",
    ),
    (
        "engine/modules.py",
        "plain = torch.allclose(theirs, F.rms_norm(x, x.shape, weight, module.variance_epsilon))",
        "plain = True",
        "a norm that is not plain is taken for one",
        "test_families.py::test_a_norm_that_centres_is_left_alone",
    ),
    (
        "engine/modules.py",
        "module.__class__ = classes[kind]",
        'module.forward = __import__("functools").partial(classes[kind].forward, module)',
        "each layer is compiled anew",
        "test_sft.py::test_compiled_layers_are_one_program[False]",
    ),
    (
        "engine/packing.py",
        "is_scored = positions > 0",
        "is_scored = torch.arange(len(ids)) > 0",
        "the first token of a document is predicted by the last of the one before",
        "test_model.py::test_pack_by_hand",
    ),
    (
        "engine/packing.py",
        "positions=positions.to(device),",
        "positions=torch.arange(len(ids)).to(device),",
        "positions run on across documents",
        "test_model.py::test_positions_restart",
    ),
    (
        "engine/packing.py",
        "at = bisect_left(rooms, lengths[i])  # the least room that is enough",
        "at = len(rooms) - 1 if rooms and rooms[-1] >= lengths[i] else len(rooms)",
        "bins are filled worst-fit",
        "test_model.py::test_fill_bins_by_hand",
    ),
    (
        "engine/plan.py",
        '"optimizer": (8 if cfg.adam_dtype == "fp32" else 4) * n,',
        '"optimizer": (4 if cfg.adam_dtype == "fp32" else 2) * n,',
        "one of Adam's two moments is planned for",
        "test_plan.py::test_rollouts_by_hand",
    ),
    (
        "engine/plan.py",
        "self.live -= n",
        "self.live -= 0",
        "what is freed counts as memory for ever",
        "test_plan.py::test_peak_of_a_real_step",
    ),
    (
        "engine/plan.py",
        'phase = {0: "last", n_layers - 1: "first"}.get(i, "middle")',
        'phase = {0: "first", n_layers - 1: "last"}.get(i, "middle")',
        "the backward pass is taken to begin at the bottom",
        "test_plan.py::test_large_models_as_simulated_before",
    ),
    (
        "engine/plan.py",
        (
            "# micro-batches: the first leaves gradients\n"
            "several = step_tokens(cfg) / data_parallel(cfg, n_gpus) > sum(lengths)"
        ),
        "several = step_tokens(cfg) > sum(lengths)",
        "a step that the ranks share is taken for one of several micro-batches on each",
        "test_plan.py::test_large_models_as_simulated_before",
    ),
    (
        "engine/plan.py",
        "return forward * (4 if recompute else 3) + 2 * n.head * 4",
        "return forward * (4 if recompute else 3) + 2 * n.head * 3",
        "the head's logits are made a second time for nothing",
        "test_plan.py::test_steps_and_hours_by_hand",
    ),
    (
        "engine/plan.py",
        "return max(rows * cfg.answer_tokens / slots, cfg.max_tokens) * max(reading, computing)",
        "return rows * cfg.answer_tokens / slots * max(reading, computing)",
        "nobody waits for the longest completion",
        "test_plan.py::test_rollouts_by_hand",
    ),
    (
        "engine/plan.py",
        "return cfg.prompts_per_step * (cfg.prompt_tokens + cfg.group_size * cfg.answer_tokens)",
        "return cfg.prompts_per_step * cfg.group_size * (cfg.prompt_tokens + cfg.answer_tokens)",
        "the prompt of a group is computed for each of its samples",
        "test_plan.py::test_rollouts_by_hand",
    ),
    (
        "engine/plan.py",
        (
            "n_steps = math.ceil(\n"
            "    cfg.epochs * (math.ceil(each) if cfg.epochs == int(cfg.epochs) else each)\n"
            ")"
        ),
        "n_steps = int(cfg.epochs * each)",
        "the smaller step at the end of an epoch is forgotten",
        "test_plan.py::test_steps_and_hours_by_hand",
    ),
    (
        "engine/plan.py",
        '"copy": on_gpu * kept * 12 * n.head * (cfg.adam_dtype == "bf16") * (phase == "update"),',
        '"copy": on_gpu * kept * 4 * n.total * (cfg.adam_dtype == "fp32") * (phase == "update"),',
        "memory for a copy of the weights is planned that a GPU's AdamW does not make",
        "test_plan.py::test_the_optimizers_step_by_hand",
    ),
    (
        "engine/processes.py",
        "dist.all_reduce(summed.mul_(ranks.writes))",
        "dist.all_reduce(summed)",
        "tokens of ranks that share a model are counted once for each",
        "test_distributed.py::test_join",
    ),
    (
        "engine/rows.py",
        'lines = content.removesuffix(b"\\n").split(b"\\n")',
        'lines = [line.encode() for line in content.decode("utf-8", "replace").splitlines()]',
        "U+2028 ends a line",
        "test_rows.py::test_line_separators_inside_a_string_end_no_line",
    ),
    (
        "engine/runlog.py",
        (
            '# a line without its "\\n" was cut by a kill\n'
            'lines = self.path.read_text().split("\\n")[:-1]'
        ),
        "lines = self.path.read_text().splitlines()",
        "a line that a kill cut in half stays in the log",
        "test_runlog.py::test_log_resumes_without_gap_or_repeat",
    ),
    (
        "engine/sampling.py",
        "return torch.searchsorted(sums, point, right=True).clamp(max=sums.shape[1] - 1)",
        "return torch.searchsorted(sums, point, right=False).clamp(max=sums.shape[1] - 1)",
        "a token of probability 0 can be drawn",
        "test_decoder.py::test_sample_inverts_the_cumulative_distribution",
    ),
    (
        "engine/sampling.py",
        "start = F.pad(below, (1, 0)).gather(1, block)",
        "start = below.gather(1, block)",
        "the place in a block of the vocabulary is not counted from its start",
        "test_decoder.py::test_choose_against_one_sum",
    ),
    (
        "engine/sampling.py",
        "last = inside[:, -1:].nextafter(torch.zeros_like(u))",
        "last = u + 1e9",
        "a block's rounded sum reaches past its last token",
        "test_decoder.py::test_choose_stays_inside_a_block_whose_sum_is_rounded_up",
    ),
    (
        "engine/sampling.py",
        "logits = keep_likely(logits / temperature, top_k, top_p)",
        "logits = keep_likely(logits, top_k, top_p)",
        "temperature not applied in sampling",
        "test_decoder.py::test_temperature",
    ),
    (
        "engine/sampling.py",
        "block = blocks.amax(2).argmax(1, keepdim=True)",
        "block = blocks.sum(2).argmax(1, keepdim=True)",
        "greedy decoding takes the block with the largest sum",
        "test_decoder.py::test_first_max",
    ),
    (
        "engine/sharding.py",
        "layer.forward = torch.compile(layer.forward, dynamic=True)",
        "layer.compile(dynamic=True)",
        "nothing is compiled inside --recompute",
        "test_sft.py::test_compiled_layers_are_one_program[True]",
    ),
    (
        "engine/sharding.py",
        "square += part.grad.double().square().sum().to(square.device) * (n_parts / world)",
        "square += part.grad.double().square().sum().to(square.device) / world",
        "the gradient's norm is the mean over shards",
        "test_distributed.py::test_one_step_of_two_ranks",
    ),
    (
        "engine/sharding.py",
        "if name in shards.halves:",
        "if False:",
        "norms of queries learn from the heads of one rank only",
        "test_distributed.py::test_one_step_of_two_ranks",
    ),
    (
        "engine/tensor_parallel.py",
        "if rank and layer.bias is not None:",
        "if False:",
        "each rank adds the bias of a layer whose outputs are summed",
        "test_distributed.py::test_a_split_model_computes_what_the_whole_one_does",
    ),
    (
        "engine/tensor_parallel.py",
        "mine.copy_(whole if rank == 0 else torch.zeros_like(whole))  # it is added once",
        "mine.copy_(whole)",
        "each rank adds the bias that is summed over ranks",
        "test_grpo_ranks.py::test_the_sampler_has_the_weights_that_are_trained",
    ),
    (
        "engine/training.py",
        "n_warm = math.ceil(warmup * n_steps)",
        "n_warm = math.floor(warmup * n_steps)",
        "warm-up rounded down",
        "test_sft.py::test_s1_schedule",
    ),
    (
        "engine/training.py",
        'groups = [{"params": others, "weight_decay": 0.0}]',
        'groups = [{"params": others, "weight_decay": weight_decay}]',
        "norms and embeddings are decayed",
        "test_sft.py::test_weight_decay_is_for_hidden_matrices_only",
    ),
    (
        "engine/training.py",
        "if math.isfinite(norm) and not math.isnan(scale):",
        "if not math.isnan(scale):",
        "a NaN gradient is applied",
        "test_sft.py::test_a_gradient_that_is_not_finite_is_not_applied",
    ),
    (
        "engine/training.py",
        'p.mul_(1 - lr * group["weight_decay"])',
        'p.grad.add_(p, alpha=group["weight_decay"])',
        "decay goes through the moments (Adam with L2)",
        "test_sft.py::test_bf16_adam_by_hand_and_against_torch",
    ),
    (
        "engine/training.py",
        "state[slot] = value.to(device) if value.ndim else value",
        "state[slot] = value.to(device)",
        "Adam's step count on the device, where each step waits for it",
        "test_grpo_ranks.py::test_moments_move_and_come_back",
    ),
    (
        "engine/training.py",
        'options = {} if adam_dtype == "bf16" else {"fused": others[0].is_cuda or None}',
        "options = {}",
        "AdamW copies all weights on a GPU",
        "test_sft.py::test_adam_is_one_kernel_on_a_gpu",
    ),
    (
        "engine/watch.py",
        'if all(row["equal_groups"] == row["n_groups"] for row in last):',
        'if any(row["equal_groups"] == row["n_groups"] for row in last):',
        "one step without a lesson is called the end of learning",
        "test_grpo.py::test_warnings_in_words",
    ),
]
