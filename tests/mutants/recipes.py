"""Mistakes in recipes/."""

MUTANTS = [
    (
        "recipes/gsm8k.sh",
        '--temperature "${TEMPERATURE:-0}" --max-tokens "$MAX_TOKENS" --device "$DEVICE" --dtype "$DTYPE" $seed; }',
        '--temperature "${TEMPERATURE:-0}" --max-tokens "$MAX_TOKENS" --device "$DEVICE" --dtype "$DTYPE"; }',
        "all seeds of a recipe are measured with the same samples",
        "test_recipes.py::test_tiny_world[gsm8k]",
    ),
    (
        "recipes/limo.sh",
        '--batch-rows 64 --lr "${LR:-5e-6}" --warmup 0 --weight-decay 0 --beta1 0.9 --beta2 0.999 --max-length "$MAX_LENGTH" \\',
        '--batch-rows 64 --lr 5e-6 --warmup 0 --weight-decay 0 --beta1 0.9 --beta2 0.999 --max-length "$MAX_LENGTH" \\',
        "a recipe ignores LR",
        "test_recipes.py::test_tiny_world[limo]",
    ),
    (
        "recipes/tiny_world.sh",
        'cat "$world/math.jsonl" "$world/train.jsonl" | grep \'"task": "cd"\' > "$world/cd.jsonl"      # the held-out ones first',
        'cat "$world/train.jsonl" "$world/math.jsonl" | grep \'"task": "cd"\' > "$world/cd.jsonl"',
        "Countdown in the tiny world: held-out problems are trained",
        "test_recipes.py::test_tiny_world[countdown]",
    ),
    (
        "recipes/tiny_world.sh",
        'default() { for pair in "$@"; do name=${pair%%=*}; [ -n "${!name:-}" ] || export "$pair"; done; }   # where nothing is set',
        'default() { for pair in "$@"; do export "$pair"; done; }',
        "the tiny world ignores SEED and other variables",
        "test_recipes.py::test_tiny_world[gsm8k]",
    ),
]
