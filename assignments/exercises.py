"""The table of exercises. cut.py cuts them, grade.py grades them, handouts describe them.

One entry per exercise:
    name       a word, for --only and in messages
    title      what a student reads above it
    ladder     one of LADDERS; within a ladder in the order of the table
    functions  "FILE.py:NAME" or "FILE.py:CLASS.NAME": what is cut, and taken from a submission
    parts      {name of a part: (points, tests)}; a part has its points if all its tests pass
    needs      exercises whose functions these call. Only a student's own copy needs them first: the
               grader puts one exercise at a time into the solution.
    minutes    an estimate for a student who has read the handout
    level      1 (some lines that follow the formula) to 5
    twins      {"FILE.py:NAME": "raise" or "skip"}: other code that shows the answer. In the starter
               its body raises, or skips the test that calls it. The grader's copy has it.

A test is "tests/FILE.py::FUNCTION" with all its cases, or "tests/FILE.py::FUNCTION[case" for the
cases whose name begins so. The exercises of LADDERS have 100 points in all; those of SPARE are for
another year, for an examination, or for those who are early.
"""

from typing import NamedTuple

LADDERS = ("measure", "batch", "tokens", "reinforce")
SPARE = "spare"


class Exercise(NamedTuple):
    """See above."""

    name: str
    title: str
    ladder: str
    functions: tuple
    parts: dict
    minutes: int
    level: int
    needs: tuple = ()
    twins: dict = {}

    @property
    def points(self):
        return sum(points for points, _ in self.parts.values())

    @property
    def tests(self):
        """The tests of all parts, each once."""
        return tuple(dict.fromkeys(test for _, tests in self.parts.values() for test in tests))

    @property
    def files(self):
        """The files of the functions, each once."""
        return tuple(dict.fromkeys(place.partition(":")[0] for place in self.functions))


def of(file, *names):
    """Tests of one file."""
    return tuple(f"tests/{file}::{name}" for name in names)


# Oracles of the tests: loops that compute the same numbers slowly.
SLOW_LOOPS = {"tests/policies.py:slow_loss": "skip", "tests/policies.py:slow_gradient": "skip"}

EXERCISES = (
    # ---- measure and grade
    Exercise(
        name="pass_at_k",
        title="pass@k without bias",
        ladder="measure",
        functions=("evaluate.py:pass_at_k",),
        parts={
            "estimator": (3, of("test_evaluate.py", "test_pass_at_k_by_hand")),
            "every small case": (1, of("test_evaluate.py", "test_pass_at_k_by_enumeration")),
        },
        minutes=15,
        level=1,
    ),
    Exercise(
        name="paired_bootstrap",
        title="Is the difference of two models real?",
        ladder="measure",
        functions=("evaluate.py:paired_bootstrap",),
        parts={
            "difference": (1, of("test_evaluate.py", "test_paired_bootstrap_difference")),
            "interval": (
                4,
                of(
                    "test_evaluate.py",
                    "test_paired_bootstrap_interval",
                    "test_paired_bootstrap_percentiles",
                    "test_paired_bootstrap_repeats",
                ),
            ),
        },
        minutes=25,
        level=2,
    ),
    Exercise(
        name="check_expression",
        title="A grader for Countdown",
        ladder="measure",
        functions=(
            "grading/formulas.py:check_expression",
            "grading/formulas.py:expression_value",
        ),
        parts={
            "value": (5, of("test_formulas.py", "test_countdown_value")),
            "numbers": (3, of("test_formulas.py", "test_countdown_numbers")),
            "text around it": (3, of("test_formulas.py", "test_countdown_text")),
        },
        minutes=40,
        level=2,
    ),
    # ---- from text to a batch
    Exercise(
        name="training_ids",
        title="Which tokens are trained?",
        ladder="batch",
        functions=("engine/format.py:Format.training_ids",),
        parts={
            "text and mask": (
                5,
                of("test_format.py", "test_s1_text_is_that_of_its_paper", "test_think_text")
                + of("test_format.py", "test_plain_text", "test_training_ids_leave_the_row_alone"),
            ),
            "piece by piece": (
                2,
                of("test_format.py", "test_r1_text", "test_the_joined_text_would_give_other_ids")
                + of("test_format.py", "test_the_decoder_starts_where_training_did"),
            ),
            "turns and tags": (
                2,
                of("test_sft.py", "test_turns_with_a_real_chat_template")
                + of("test_template.py", "test_special_tokens_that_a_row_names_are_text")
                + of("test_template.py", "test_tags_in_a_row_are_split_off"),
            ),
        },
        minutes=40,
        level=3,
    ),
    Exercise(
        name="pack",
        title="Sequences side by side in one row",
        ladder="batch",
        functions=("engine/packing.py:pack",),
        parts={
            "one row": (
                5,
                of(
                    "test_packing.py",
                    "test_pack_by_hand",
                    "test_nothing_of_the_next_document_is_predicted",
                    "test_pack_refuses_empty_sequences",
                ),
            ),
            "masks": (
                3,
                of(
                    "test_packing.py",
                    "test_pack_with_masks_by_hand",
                    "test_pack_leaves_its_inputs_alone",
                ),
            ),
        },
        minutes=60,
        level=3,
    ),
    Exercise(
        name="fill_bins",
        title="Micro-batches that waste little",
        ladder="batch",
        functions=("engine/packing.py:fill_bins",),
        parts={
            "best fit, longest first": (
                4,
                of(
                    "test_packing.py",
                    "test_fill_bins_by_hand",
                    "test_fill_bins_takes_the_longest_first",
                    "test_fill_bins_wastes_little",
                ),
            ),
            "every length": (
                3,
                of(
                    "test_packing.py",
                    "test_an_oversized_item_gets_its_own_bin",
                    "test_fill_bins_holds_each_index_once",
                ),
            ),
        },
        minutes=60,
        level=3,
    ),
    Exercise(
        name="lr_at",
        title="Warm-up, hold and decay",
        ladder="batch",
        functions=("engine/training.py:lr_at",),
        parts={
            "warm-up and cosine": (
                2,
                of(
                    "test_training.py",
                    "test_s1_schedule",
                    "test_limo_schedule",
                    "test_cosine_is_that_of_transformers",
                    "test_a_single_step_is_taken_at_the_peak",
                ),
            ),
            "hold, floor, linear": (
                2,
                of("test_training.py", "test_hold_floor_and_linear_by_hand"),
            ),
        },
        minutes=20,
        level=1,
    ),
    # ---- from logits to tokens
    Exercise(
        name="log_softmax_kl",
        title="KL of two models, exactly",
        ladder="tokens",
        functions=("kernels/reference.py:log_softmax_kl",),
        parts={
            "both directions": (3, of("test_kernels.py", "test_log_softmax_kl_by_hand")),
            "precision and refusals": (
                1,
                of(
                    "test_kernels.py",
                    "test_log_softmax_kl_of_half_precision_and_large_logits",
                    "test_log_softmax_kl_refuses_logits_of_other_shapes",
                ),
            ),
        },
        minutes=30,
        level=2,
    ),
    Exercise(
        name="logit_gradient",
        title="The gradient of log-probability and entropy in the logits",
        ladder="tokens",
        functions=("kernels/reference.py:logit_gradient",),
        parts={
            "log-probability": (3, of("test_kernels.py", "test_logit_gradient_by_hand[logp")),
            "entropy": (3, of("test_kernels.py", "test_logit_gradient_by_hand[entropy")),
            "temperature, softcap, scale": (
                2,
                of("test_kernels.py", "test_logit_gradient_by_hand[head"),
            ),
            "parts of the vocabulary": (
                1,
                of("test_kernels.py", "test_logit_gradient_of_a_part"),
            ),
        },
        minutes=120,
        level=4,
        twins={"kernels/linear.py:_logit_gradient": "raise"},
    ),
    Exercise(
        name="keep_likely",
        title="top-k and top-p",
        ladder="tokens",
        functions=("engine/sampling.py:keep_likely",),
        parts={
            "top-k": (2, of("test_sampling.py", "test_top_k_by_hand")),
            "top-p": (
                3,
                of(
                    "test_sampling.py",
                    "test_top_p_by_hand",
                    "test_top_p_ties_keep_the_right_number",
                ),
            ),
        },
        minutes=40,
        level=2,
    ),
    Exercise(
        name="force_budget",
        title="Budget forcing: answer now, wait, or end",
        ladder="tokens",
        functions=("generate.py:force_budget",),
        parts={
            "the budget is spent": (2, of("test_generate.py", "test_force_budget_by_hand[answer")),
            "wait": (3, of("test_generate.py", "test_force_budget_by_hand[wait")),
            "nothing, or the end": (3, of("test_generate.py", "test_force_budget_by_hand[end")),
        },
        minutes=60,
        level=3,
        twins={"engine/decoder.py:force_budget": "raise"},
    ),
    # ---- reinforcement
    Exercise(
        name="advantages",
        title="Advantages of a group",
        ladder="reinforce",
        functions=("grpo.py:advantages",),
        parts={
            "mean and deviation of the group": (
                4,
                of(
                    "test_grpo.py",
                    "test_advantages_by_hand",
                    "test_equal_rewards_have_advantage_zero",
                    "test_groups_are_independent",
                ),
            ),
            "deviation of the batch": (1, of("test_grpo.py", "test_batch_deviation_by_hand")),
            "mean of the others": (
                1,
                of(
                    "test_grpo.py",
                    "test_leave_one_out_by_hand",
                    "test_a_group_of_one_has_no_sample_deviation",
                ),
            ),
        },
        minutes=40,
        level=2,
    ),
    Exercise(
        name="clip",
        title="The clipped objective",
        ladder="reinforce",
        functions=("grpo.py:clipped_objective", "grpo.py:is_clipped"),
        parts={
            "value and gradient": (3, of("test_grpo.py", "test_clipped_objective_by_hand")),
            "where it clips": (1, of("test_grpo.py", "test_is_clipped_by_hand")),
        },
        minutes=30,
        level=3,
        twins=SLOW_LOOPS,
    ),
    Exercise(
        name="objectives",
        title="GRPO, GSPO, CISPO, NFT",
        ladder="reinforce",
        functions=("grpo.py:grpo", "grpo.py:gspo", "grpo.py:cispo", "grpo.py:nft"),
        parts={
            "grpo": (2, of("test_grpo.py", "test_objective_grpo_by_hand")),
            "gspo": (2, of("test_grpo.py", "test_objective_gspo_by_hand")),
            "cispo": (2, of("test_grpo.py", "test_objective_cispo_by_hand")),
            "nft": (
                3,
                of(
                    "test_grpo.py",
                    "test_objective_nft_of_a_wrong_answer",
                    "test_objective_nft_of_a_right_answer_and_far_away",
                ),
            ),
        },
        minutes=90,
        level=4,
        needs=("clip",),
        twins=SLOW_LOOPS,
    ),
    Exercise(
        name="kl_estimate",
        title="Three estimators of the KL",
        ladder="reinforce",
        functions=("grpo.py:kl_estimate",),
        parts={
            "k1": (
                1,
                of(
                    "test_grpo.py",
                    "test_kl_estimates_by_hand[k1",
                    "test_kl_estimates_in_expectation[k1",
                ),
            ),
            "k2": (
                1,
                of(
                    "test_grpo.py",
                    "test_kl_estimates_by_hand[k2",
                    "test_kl_estimates_in_expectation[k2",
                ),
            ),
            "k3": (
                2,
                of(
                    "test_grpo.py",
                    "test_kl_estimates_by_hand[k3",
                    "test_kl_estimates_in_expectation[k3",
                    "test_k3_keeps_its_digits_near_zero",
                ),
            ),
        },
        minutes=25,
        level=2,
        twins=SLOW_LOOPS,
    ),
    Exercise(
        name="token_weights",
        title="What is the loss divided by?",
        ladder="reinforce",
        functions=("grpo.py:token_weights",),
        parts={
            "token": (1, of("test_grpo.py", "test_token_weights_by_hand[token")),
            "sequence": (1, of("test_grpo.py", "test_token_weights_by_hand[sequence")),
            "constant": (1, of("test_grpo.py", "test_token_weights_by_hand[constant")),
        },
        minutes=30,
        level=2,
        twins=SLOW_LOOPS,
    ),
    # ---- spare: curation and analysis, and the batched decoder
    Exercise(
        name="limo_scores",
        title="LIMO's score of a trace",
        ladder=SPARE,
        functions=("curate.py:limo_terms", "curate.py:limo_scores"),
        parts={
            "score": (3, of("test_curate.py", "test_limo_score_by_hand")),
            "extremes": (2, of("test_curate.py", "test_limo_score_of_extremes")),
        },
        minutes=40,
        level=2,
    ),
    Exercise(
        name="algorithm_1",
        title="s1's Algorithm 1",
        ladder=SPARE,
        functions=(
            "curate.py:take_outright",
            "curate.py:length_weights",
            "curate.py:draw_by_domain",
        ),
        parts={
            "outright": (2, of("test_curate.py", "test_take_outright_by_hand")),
            "weights by length": (2, of("test_curate.py", "test_length_weights_by_hand")),
            "draws": (
                4,
                of(
                    "test_curate.py",
                    "test_draw_by_domain_by_hand",
                    "test_domains_are_drawn_uniformly_and_long_traces_first",
                ),
            ),
        },
        minutes=90,
        level=3,
    ),
    Exercise(
        name="rank_shifts",
        title="Which tokens change their rank?",
        ladder=SPARE,
        functions=("analyze.py:rank_shifts",),
        parts={"shifts": (3, of("test_analyze.py", "test_rank_shifts"))},
        minutes=15,
        level=1,
    ),
    Exercise(
        name="pca_shift",
        title="How far do hidden states move?",
        ladder=SPARE,
        functions=("analyze.py:pca_shift", "analyze.py:main_components"),
        parts={
            "shift": (4, of("test_analyze.py", "test_pca_shift")),
            "layers": (
                2,
                of(
                    "test_analyze.py",
                    "test_pca_shift_cancels_and_its_repair_does_not",
                    "test_pca_shift_without_a_layer_that_is_not_finite",
                ),
            ),
        },
        minutes=60,
        level=3,
    ),
    Exercise(
        name="force_budget_batched",
        title="Budget forcing of many sequences, without a branch",
        ladder=SPARE,
        functions=("engine/decoder.py:force_budget",),
        parts={
            "the budget is spent": (2, of("test_decoder.py", "test_force_budget_by_hand[answer")),
            "wait": (3, of("test_decoder.py", "test_force_budget_by_hand[wait")),
            "nothing, or the end": (3, of("test_decoder.py", "test_force_budget_by_hand[end")),
        },
        minutes=90,
        level=4,
        twins={"generate.py:force_budget": "raise"},
    ),
)

BY_NAME = {exercise.name: exercise for exercise in EXERCISES}


def choose(only=(), without=()):
    """The exercises of these names and ladders, in the order of the table -> a list.

    only: default all of LADDERS; "all" is the spare ones, too. Raises ValueError for an unknown
    name.
    """
    known = {*BY_NAME, *LADDERS, SPARE, "all"}
    for name in (*only, *without):
        if name not in known:
            raise ValueError(f"no exercise or ladder '{name}'; there are {', '.join(BY_NAME)}")

    def is_named(exercise, names):
        return "all" in names or exercise.name in names or exercise.ladder in names

    return [
        exercise
        for exercise in EXERCISES
        if is_named(exercise, only or LADDERS) and not is_named(exercise, without)
    ]


def twins_of(chosen):
    """{"FILE.py:NAME": "raise" or "skip"} of all that shows an answer of the chosen exercises."""
    functions = {function for exercise in chosen for function in exercise.functions}
    return {
        place: how
        for exercise in chosen
        for place, how in exercise.twins.items()
        if place not in functions
    }


def table(chosen):
    """The exercises as lines of text."""
    lines = [f"{'exercise':<22}{'points':>6}{'minutes':>9}{'level':>7}  file"]
    for exercise in chosen:
        files = ", ".join(exercise.files)
        lines.append(
            f"{exercise.name:<22}{exercise.points:>6}{exercise.minutes:>9}{exercise.level:>7}  {files}"
        )
    points, minutes = (sum(getattr(e, name) for e in chosen) for name in ("points", "minutes"))
    return [*lines, f"{len(chosen):>2} exercises{points:>16}{minutes:>9}"]


if __name__ == "__main__":
    print("\n".join(table(EXERCISES)))
