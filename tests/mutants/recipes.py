"""Mistakes in recipes/."""

MUTANTS = [
    (
        "recipes/gsm8k.sh",
        (
            '  --temperature "$TEMPERATURE" --max-tokens "$MAX_TOKENS" --device "$DEVICE" '
            '--dtype "$DTYPE" \\\n'
            "  $seed"
        ),
        (
            '  --temperature "$TEMPERATURE" --max-tokens "$MAX_TOKENS" --device "$DEVICE" '
            '--dtype "$DTYPE"'
        ),
        "all seeds of a recipe are measured with the same samples",
        "test_recipes.py::test_tiny_world[gsm8k]",
    ),
    (
        "recipes/limo.sh",
        "default EPOCHS=15 LR=5e-6 MAX_LENGTH=16384 N=4 MAX_TOKENS=16384 TP=1",
        "default EPOCHS=15 MAX_LENGTH=16384 N=4 MAX_TOKENS=16384 TP=1; LR=5e-6",
        "a recipe ignores LR",
        "test_recipes.py::test_tiny_world[limo]",
    ),
    (
        "recipes/tiny_world.sh",
        'cat "$world/math.jsonl" "$world/train.jsonl" | grep \'"task": "cd"\' > "$world/cd.jsonl"',
        'cat "$world/train.jsonl" "$world/math.jsonl" | grep \'"task": "cd"\' > "$world/cd.jsonl"',
        "Countdown in the tiny world: held-out problems are trained",
        "test_recipes.py::test_tiny_world[countdown]",
    ),
    (
        "recipes/env.sh",
        '[ -n "${!name:-}" ] || export "$pair"',
        'export "$pair"',
        "recipes ignore SEED and other variables",
        "test_recipes.py::test_tiny_world[gsm8k]",
    ),
]
