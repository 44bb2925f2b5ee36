"""Published facts for engine/plan.py: shapes of models, data sheets of GPUs, papers' settings."""

# From each model's config.json on the hub:
# family, width, inner width, layers, heads, key-value heads, vocabulary, is the head tied?
SHAPES = {
    "qwen2.5-0.5b": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "qwen2.5-1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "qwen2.5-3b": ("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "qwen2.5-7b": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "qwen2.5-14b": ("qwen2", 5120, 13824, 48, 40, 8, 152064, False),
    "qwen2.5-32b": ("qwen2", 5120, 27648, 64, 40, 8, 152064, False),
    "qwen3-14b": ("qwen3", 5120, 17408, 40, 40, 8, 151936, False),
}

# From data sheets:
# GiB that PyTorch sees, bf16 TFLOP/s (dense), GB/s of its memory, GB/s one way to the other GPUs
GPUS = {
    "H100-80GB": (79.1, 989, 3350, 450),
    "H200-141GB": (139.8, 989, 4800, 450),
    "B200-180GB": (178.0, 2250, 8000, 900),
    "A100-80GB": (79.1, 312, 2039, 300),
    "A100-40GB": (39.4, 312, 1555, 300),
    "L40S-48GB": (44.4, 362, 864, 32),
    "RTX4090-24GB": (23.5, 165, 1008, 32),
    "L4-24GB": (22.0, 121, 300, 32),
}

# Settings of engine/plan.py for the papers' runs: s1 §D, LIMO's training configuration, UniReason
# §2.2 and A.3. s1K has 4.7M tokens (its Table 6). The mean lengths of the other data sets, and of
# UniReason's answers, are assumptions.
RUNS = {
    "s1-32b": dict(
        model="qwen2.5-32b",
        rows=1000,
        row_tokens=5000,
        epochs=5,
        batch_rows=16,
        micro_batch_tokens=32768,
        recompute=True,
    ),
    "limo-32b": dict(
        model="qwen2.5-32b",
        rows=800,
        row_tokens=6500,
        epochs=15,
        batch_rows=64,
        max_length=16384,
        micro_batch_tokens=16384,
        recompute=True,
    ),
    "unireason-14b-sft": dict(
        model="qwen3-14b",
        rows=47000,
        row_tokens=5000,
        epochs=1.5,
        batch_rows=512,
        max_length=16384,
        micro_batch_tokens=16384,
        recompute=True,
    ),
    "unireason-14b-rl": dict(
        stage="grpo",
        model="qwen3-14b",
        steps=140,
        prompts_per_step=512,  # each rollout is trained on once, in four parts of 128 prompts
        group_size=16,
        answer_tokens=4000,
        max_tokens=16384,
        max_length=16584,
        micro_batch_tokens=16584,
        recompute=True,
        tp=4,
    ),
}
