"""Published facts for engine/plan.py: shapes of models, data sheets of GPUs, papers' settings."""

# From each model's config.json on the hub (Gemma 3: of its text model; above 1B the vision part,
# 0.4B parameters, is not planned):
# family, width, inner width, layers, heads, key-value heads, vocabulary, is the head tied?, and the
# head width where it is not width / heads
SHAPES = {
    "qwen2.5-0.5b": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "qwen2.5-1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "qwen2.5-3b": ("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "qwen2.5-7b": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "qwen2.5-14b": ("qwen2", 5120, 13824, 48, 40, 8, 152064, False),
    "qwen2.5-32b": ("qwen2", 5120, 27648, 64, 40, 8, 152064, False),
    "qwen3-14b": ("qwen3", 5120, 17408, 40, 40, 8, 151936, False),
    "llama-3.2-1b": ("llama", 2048, 8192, 16, 32, 8, 128256, True),
    "llama-3.2-3b": ("llama", 3072, 8192, 28, 24, 8, 128256, True),
    "llama-3.1-8b": ("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "llama-3.1-70b": ("llama", 8192, 28672, 80, 64, 8, 128256, False),
    "llama-3.3-70b": ("llama", 8192, 28672, 80, 64, 8, 128256, False),
    "gemma-2-2b": ("gemma2", 2304, 9216, 26, 8, 4, 256000, True, 256),
    "gemma-2-9b": ("gemma2", 3584, 14336, 42, 16, 8, 256000, True, 256),
    "gemma-2-27b": ("gemma2", 4608, 36864, 46, 32, 16, 256000, True, 128),
    "gemma-3-1b": ("gemma3_text", 1152, 6912, 26, 4, 1, 262144, True, 256),
    "gemma-3-4b": ("gemma3_text", 2560, 10240, 34, 8, 4, 262208, True, 256),
    "gemma-3-12b": ("gemma3_text", 3840, 15360, 48, 16, 8, 262208, True, 256),
    "gemma-3-27b": ("gemma3_text", 5376, 21504, 62, 32, 16, 262208, True, 128),
    "mistral-7b-v0.1": ("mistral", 4096, 14336, 32, 32, 8, 32000, False),
    "mistral-7b-v0.3": ("mistral", 4096, 14336, 32, 32, 8, 32768, False),
    "mistral-small-24b": ("mistral", 5120, 32768, 40, 32, 8, 131072, False, 128),
    "phi-3-mini": ("phi3", 3072, 8192, 32, 32, 32, 32064, False),
    "phi-4": ("phi3", 5120, 17920, 40, 40, 10, 100352, False),
    "phi-4-mini": ("phi3", 3072, 8192, 32, 24, 8, 200064, True),
    "smollm2-135m": ("llama", 576, 1536, 30, 9, 3, 49152, True),
    "smollm2-360m": ("llama", 960, 2560, 32, 15, 5, 49152, True),
    "smollm2-1.7b": ("llama", 2048, 8192, 24, 32, 32, 49152, True),
}

# From data sheets:
# GiB that PyTorch sees, TFLOP/s in bf16 (dense, sums in float32; None: it has no bf16) and in fp32,
# GB/s of its memory, GB/s one way to the other GPUs
GPUS = {
    "H100-80GB": (79.1, 989, 67, 3350, 450),
    "H200-141GB": (139.8, 989, 67, 4800, 450),
    "B200-180GB": (178.0, 2250, 75, 8000, 900),
    "A100-80GB": (79.1, 312, 19.5, 2039, 300),
    "A100-40GB": (39.4, 312, 19.5, 1555, 300),
    "L40S-48GB": (44.4, 362, 91.6, 864, 32),
    "A10G-24GB": (22.2, 70, 31.2, 600, 32),
    "L4-24GB": (22.0, 121, 30.3, 300, 32),
    "T4-16GB": (14.7, None, 8.1, 320, 16),
    "RTX5090-32GB": (31.3, 209, 104.8, 1792, 64),
    "RTX4090-24GB": (23.5, 165, 82.6, 1008, 32),
    "RTX3090-24GB": (23.6, 71, 35.6, 936, 32),
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
