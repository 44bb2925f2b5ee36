"""engine/plan.py and its simulation: against real memory, by hand, and against published numbers."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM, Qwen2Config

import grpo
import sft
from engine import activations, attention, costs, lora, packing, plan, published, training
from engine import model as models
from engine.rows import BadInput, write_rows
from engine.settings import parse
from kernels import reference

GIB = 2**30
ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(
    vocab_size=1000,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    attn_implementation="packed",
)


@pytest.mark.parametrize(
    "name, billions",
    [
        ("qwen2.5-0.5b", 0.494033),
        ("qwen2.5-1.5b", 1.543714),
        ("qwen2.5-3b", 3.085939),
        ("qwen2.5-7b", 7.615617),
        ("Qwen/Qwen2.5-14B-Instruct", 14.770034),
        ("qwen2.5-32b", 32.763876),
        ("Qwen/Qwen3-14B-Base", 14.768307),
    ],
)
def test_parameters_of_the_shapes(name, billions):
    """As on the models' pages on the hub. -Instruct and -Base have the same shape."""
    assert round(costs.count_parameters(costs.model_config(name)).total / 1e9, 6) == billions


def real_peak(model, lengths, adam_dtype="fp32"):
    """The most bytes that one step of sft.py holds, by the allocator's own record.

    Weights and Adam's state, and what the profiler sees come and go in a second step.
    """
    optimizers = training.make_optimizers(model, 1e-4, (0.9, 0.95), 0.1, adam_dtype=adam_dtype)
    rows = [[1 + i % 900 for i in range(n)] for n in lengths]

    def step():
        batch = packing.pack(rows)
        logp = models.score(model, batch).logp
        (-logp.sum() / len(logp)).backward()
        del logp
        training.update(model, optimizers, 1.0, 1.0)

    step()
    resident = sum(p.nbytes for p in model.parameters()) + sum(
        value.nbytes
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
    )
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return resident + most


@pytest.mark.parametrize(
    "recompute, lengths, tied, adam, rank",
    [
        (False, [150, 100, 50], False, "fp32", 0),
        (True, [400, 300], True, "fp32", 0),
        (True, [20, 10], False, "bf16", 0),
        (False, [150, 100, 50], False, "fp32", 8),
        (True, [400, 300], True, "fp32", 8),
        (True, [20, 10], False, "fp32", 8),
    ],
)
def test_peak_of_a_real_step(recompute, lengths, tied, adam, rank):
    """Within 10%: where activations decide, with checkpointing, where the states do, and the same
    with adapters."""
    config = Qwen2Config(**SMALL, tie_word_embeddings=tied)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="packed")
    if rank:
        lora.attach(model, lora.Shape(rank, 32.0, 0))
        lora.draw(model)
    if recompute:
        for layer in models.layers(model):
            layer.forward = functools.partial(
                torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False
            )
    real = real_peak(model, lengths, adam)
    cfg = plan.Config(
        dtype="fp32",
        recompute=recompute,
        row_tokens=sum(lengths),
        batch_rows=1,
        adam_dtype=adam,
        lora=rank,
    )
    phases = costs.training_memory(cfg, config, 1, lengths, on_gpu=False)
    planned = max(sum(parts.values()) for parts in phases.values())
    assert planned == pytest.approx(real, rel=0.1)


@pytest.fixture
def fake_ranks():
    """A process group of 4 of which only this process exists."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield dist.device_mesh.init_device_mesh("cpu", (4,))
    dist.destroy_process_group()


def test_peak_of_fsdp(fake_ranks):
    """Within 10% of PyTorch's tracker of FSDP2 on a simulated step of 4 ranks.

    engine/plan.py only adds up gathered, reduced and sharded bytes.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    config = Qwen2Config(
        **SMALL
        | dict(hidden_size=512, intermediate_size=2048, vocab_size=4096, num_hidden_layers=3)
    )
    lengths = [256] * 4
    batch, packed = packing.pack([[0] * n for n in lengths]), attention.Packed(lengths, "cpu")

    class Root(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self):
            hidden = models.hidden_states(self.model, batch.ids, batch.positions, packed)[
                batch.where
            ]
            return reference.token_stats(
                hidden, models.output_head(self.model), batch.target, backend=activations.FakeLinear
            ).logp

    with FakeTensorMode(allow_non_fake_inputs=True):
        AttentionInterface.register("planned", activations.attention_on_gpu)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="planned")
        options = dict(
            mesh=fake_ranks, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        )
        for layer in models.layers(model):
            layer.forward = functools.partial(
                torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False
            )
            fully_shard(layer, **options)
        root = fully_shard(Root(model), **options)
        optimizer = torch.optim.AdamW(root.parameters(), foreach=False)
        tracker = FSDPMemTracker(root, optimizer)
        with activations.Ledger(), tracker:
            for _ in range(2):  # the first step has no optimizer state yet
                (-root().sum()).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
    seen = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    cfg = plan.Config(recompute=True, row_tokens=256, batch_rows=16)
    phases = costs.training_memory(cfg, config, 4, lengths, on_gpu=True)
    planned = max(sum(parts.values()) - parts["copy"] for parts in phases.values())
    assert planned == pytest.approx(seen, rel=0.1)


def test_large_models_as_simulated_before():
    """32B on 8 ranks at 32,768 tokens: PyTorch's tracker found 86.3 GiB with all 64 layers.

    Adam's two moments take 30.5 of them, weights 15.3. Half of the tokens need half of the
    activations.
    """
    config = costs.model_config("qwen2.5-32b")
    cfg = plan.Config(**plan.RUNS["s1-32b"])
    phases = costs.training_memory(cfg, config, 8)
    assert max(sum(parts.values()) for parts in phases.values()) / GIB == pytest.approx(
        86.3, rel=0.02
    )
    assert (
        round(phases["first"]["weights"] / GIB, 1) == 15.3
        and round(phases["first"]["optimizer"] / GIB, 1) == 30.5
    )
    half = costs.training_memory(dataclasses.replace(cfg, micro_batch_tokens=16384), config, 8)
    assert half["first"]["activations"] == pytest.approx(
        phases["first"]["activations"] / 2, rel=0.02
    )
    split = costs.training_memory(dataclasses.replace(cfg, tp=4), config, 8)
    assert split["first"]["weights"] == phases["first"]["weights"]
    assert split["first"]["activations"] < 0.8 * phases["first"]["activations"]
    assert split["first"]["gathered"] == pytest.approx(phases["first"]["gathered"] / 4, rel=0.01)


def test_the_optimizers_step_by_hand():
    """7B on one GPU: 16 bytes a parameter for weights, gradients and two moments. An H200 has that.

    With moments in bf16 it is 12 bytes, and three float32 copies of the largest matrix.
    """
    cfg = plan.Config(model="qwen2.5-7b", gpus="1xH200-141GB", recompute=True, row_tokens=2048)
    n, found = costs.count_parameters(costs.model_config("qwen2.5-7b")).total, plan.make_plan(cfg)
    assert found["fits"] and sum(found["memory"]["update"].values()) == 16 * n
    half = plan.make_plan(dataclasses.replace(cfg, adam_dtype="bf16"))["memory"]["update"]
    assert sum(half.values()) == 12 * n + 3 * 4 * 152064 * 3584


def test_adapters_by_hand():
    """GRPO of 7B with rank 16. Per layer 16 · (q 7168 + k 4096 + v 4096 + o 7168 + 3 · 22528), 28 layers:
    40,370,176, the number that PEFT prints for this model. The frozen model takes 2 bytes a
    parameter and adapters 16, and neither a reference nor a copy that samples takes any.
    """
    cfg = plan.Config(
        stage="grpo", model="qwen2.5-7b", gpus="1xRTX4090-24GB", lora=16, with_reference=True
    )
    found = plan.make_plan(cfg)
    n = costs.count_parameters(costs.model_config("qwen2.5-7b")).total
    assert found["trained"] == 40_370_176 == 28 * 16 * (7168 + 2 * 4096 + 7168 + 3 * 22528)
    assert found["parameters"] == n
    assert sum(found["memory"]["update"].values()) == 2 * n + 16 * 40_370_176
    rollout = found["memory"]["rollout"]
    assert sum(rollout.values()) - rollout["cache"] == 2 * n + (4 + 8) * 40_370_176
    # a step of all weights computes their gradients, too: 2 operations a parameter and token
    whole = plan.make_plan(dataclasses.replace(cfg, lora=0))
    layers = n - 152064 * 3584 * 2  # and the last norm, which is 3584 numbers
    saved = 2 * (layers + 152064 * 3584) - 6 * 40_370_176
    assert whole["flops_per_step"] - found["flops_per_step"] == pytest.approx(
        found["tokens_per_step"] * saved, rel=1e-4
    )


def test_rl_of_7b_on_one_card_of_24_gb(capsys):
    """All weights need 113 GiB for a step alone. With adapters it fits, with no host memory."""
    cfg = plan.Config(stage="grpo", model="qwen2.5-7b", gpus="1xRTX4090-24GB")
    assert not plan.main(cfg)["fits"]
    text = capsys.readouterr().out
    advised = text.split("it fits with ")[1].split(", which trains adapters")[0].split()
    assert advised[:2] == ["--lora", "16"] and "--offload" not in advised
    given = ["--stage=grpo", "--model=qwen2.5-7b", "--gpus=1xRTX4090-24GB"]
    found = plan.main(parse(plan.Config, given + advised))
    assert found["fits"] and found["slots"] > 32 and found["host_memory"] == 0
    assert "--lora 16" in capsys.readouterr().out


def test_flops_against_a_count():
    """Against PyTorch's count of transformers' step, with full attention and kept logits."""
    from torch.utils.flop_counter import FlopCounterMode

    config, length = Qwen2Config(**SMALL), 64
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.arange(length)[None]
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids).loss.backward()
    ours = length * (
        costs.flops_per_token(config, 2 * length, recompute=False)
        - 2 * costs.count_parameters(config).head
    )
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)
    layers = ours - length * 6 * costs.count_parameters(config).head
    assert length * costs.flops_per_token(config, 2 * length, recompute=True) == pytest.approx(
        layers * 4 / 3 + length * 8 * costs.count_parameters(config).head
    )


def test_steps_and_hours_by_hand():
    """Published numbers of steps; hours = steps · tokens · FLOPs / (GPUs · rate · utilisation).

    s1 reports 7 GPU hours.
    """
    found = {
        name: plan.make_plan(plan.Config(**settings))
        for name, settings in plan.RUNS.items()
        if "rl" not in name
    }
    assert [found[name]["steps"] for name in ("s1-32b", "limo-32b", "unireason-14b-sft")] == [
        315,
        195,
        138,
    ]
    s1 = found["s1-32b"]
    n, layers = costs.count_parameters(costs.model_config("qwen2.5-32b")), 64
    per_token = 4 * (2 * layers * n.layer + 2 * layers * 5120 * 5000) + 8 * 152064 * 5120
    assert s1["flops_per_step"] == 80000 * per_token
    assert s1["hours"] == pytest.approx(315 * 80000 * per_token / (8 * 989e12 * 0.4) / 3600)
    assert 3.5 < 8 * s1["hours"] < 14


def test_rollouts_by_hand():
    """The cache takes 256 KiB a token (32B). A decoding step reads weights and cache.

    The longest completion sets the number of steps. What does not fit is decoded later.
    """
    assert costs.cache_bytes(costs.model_config("qwen2.5-32b"), "bf16") == 256 * 1024
    cfg = plan.Config(
        stage="grpo",
        model="qwen2.5-7b",
        gpus="1xH100-80GB",
        recompute=True,
        offload=True,
        prompts_per_step=4,
        group_size=8,
        prompt_tokens=100,
        answer_tokens=600,
        max_tokens=900,
    )
    found = plan.make_plan(cfg)
    n = costs.count_parameters(costs.model_config("qwen2.5-7b")).total
    read = 2 * n + 32 * 400 * 2 * 2 * 28 * 4 * 128
    assert found["slots"] == 32 and found["rollout_seconds"] == pytest.approx(
        900 * read / (3350e9 * 0.65)
    )
    assert found["rollout_tokens_per_second"] == pytest.approx(32 * 600 / found["rollout_seconds"])
    assert found["memory"]["rollout"]["cache"] == 32 * (57344 * 1000 + 12 * 152064)
    assert found["memory"]["rollout"]["sampler"] == 2 * n
    assert found["tokens_per_step"] == 4 * (100 + 8 * 600)  # a group's prompt is computed once
    crowded = plan.make_plan(
        dataclasses.replace(cfg, prompts_per_step=512, max_tokens=8000, slots=4096)
    )
    assert (
        32 < crowded["slots"] < 512 * 8 and crowded["peak"] <= costs.machine("1xH100-80GB").usable
    )
    assert crowded["host_memory"] == 16 * n


@pytest.mark.parametrize(
    "settings",
    [
        dict(run="s1-32b"),
        dict(model="qwen2.5-0.5b", gpus="1xRTX4090-24GB"),
        dict(stage="grpo", model="qwen2.5-7b", gpus="1xH100-80GB"),
    ],
)
def test_advice_makes_it_fit(settings, capsys):
    """If a plan does not fit, it names flags with which it does."""
    found = plan.main(plan.Config(**settings))
    assert not found["fits"]
    text = capsys.readouterr().out
    flags = text.split("it fits with ")[1].split("\n")[0].split()
    given = [
        f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}")
        for k, v in found["settings"].items()
        if k != "run" and v is not False
    ]
    changed = parse(plan.Config, given + flags)
    assert plan.main(changed)["fits"]
    capsys.readouterr()


def test_no_flag_makes_it_fit(capsys):
    cfg = plan.Config(model="qwen2.5-32b", gpus="1xL4", row_tokens=16384, max_length=16384)
    plan.main(cfg)
    assert "no flag makes it fit" in capsys.readouterr().out


def test_all_published_runs_are_printed(capsys):
    """Each with its memory table, verdict, steps and hours."""
    for name in plan.RUNS:
        found = plan.main(plan.Config(run=name))
        text = capsys.readouterr().out
        assert (
            "GiB per GPU" in text
            and f"{found['steps']} steps" in text
            and "planned, not measured" in text
        )
    assert math.isfinite(found["hours_per_100_steps"]) and found["fits"]
    waiting = plan.make_plan(
        dataclasses.replace(plan.Config(**plan.RUNS[name]), offload_optimizer=True, slots=10**6)
    )
    kept = plan.make_plan(dataclasses.replace(plan.Config(**plan.RUNS[name]), slots=10**6))
    assert waiting["slots"] > kept["slots"] and waiting["memory"]["rollout"]["optimizer"] == 0
    assert kept["memory"]["last"]["sampler"] == 2 * found["parameters"] / 4
    larger = plan.main(plan.Config(run="s1-32b", gpus="8xh200-141gb"))  # a flag that is given stays
    assert larger["fits"] and larger["kind"] == "H200-141GB"


def test_plan_of_a_script_and_a_directory(tmp_path, capsys):
    """The settings of sft.py by the same names; a local config.json as the shape."""
    Qwen2Config(**SMALL).save_pretrained(tmp_path)
    cfg = sft.Config(
        model=str(tmp_path),
        data="x",
        out="y",
        epochs=2,
        batch_rows=4,
        micro_batch_tokens=2048,
        recompute=True,
        plan="2xA100-40GB",
        dtype="bf16",
    )
    rows = [([1] * 200, []), ([1] * 400, [])] * 5
    found = plan.of_rows(cfg, rows)
    assert (
        found["steps"] == 6
        and found["tokens_per_step"] == 1200
        and found["fits"]
        and found["gpus"] == 2
    )
    assert found["settings"]["recompute"] and found["settings"]["model"] == str(tmp_path)
    assert (
        found["memory"]
        == plan.of_rows(dataclasses.replace(cfg, micro_batch_tokens=600), rows)["memory"]
    )
    assert plan.of_rows(dataclasses.replace(cfg, batch_tokens=900), rows)["tokens_per_step"] == 900


def test_plan_flag_of_the_scripts(tmp_path, capsys):
    """--plan of sft.py and grpo.py measures the data, prints the table, and writes nothing."""
    base, data, out = str(ROOT / "data/tiny_base"), tmp_path / "rows.jsonl", tmp_path / "out"
    write_rows(
        data,
        [
            {
                "id": str(i),
                "question": "compare 1 2",
                "thinking": "hm",
                "response": "low",
                "answer": "low",
            }
            for i in range(10)
        ],
    )
    found = sft.main(
        sft.Config(
            model=base, data=str(data), out=str(out), format="think", plan="1xL4-24GB", batch_rows=5
        )
    )
    assert found["steps"] == 10 and found["fits"] and not found["settings"]["recompute"]
    tokens = found["tokens_per_step"]
    assert tokens == 5 * found["settings"]["max_length"]  # rows of one length
    found = grpo.main(
        grpo.Config(
            model=base, data=str(data), out=str(out), plan="2xL4-24GB", steps=7, max_tokens=40
        )
    )
    settings = found["settings"]
    assert found["steps"] == 7 and settings["answer_tokens"] == 20 and settings["with_reference"]
    assert found["tokens_per_step"] == 16 * (settings["prompt_tokens"] + 8 * 20)
    assert "GiB per GPU" in capsys.readouterr().out and not out.exists()


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(gpus="8xH1"), "--gpus 8xH1"),
        (dict(gpus="H100-80GB"), "--gpus"),
        (dict(gpus="0xH100-80GB"), "--gpus"),
        (dict(model="gpt-9"), "--model gpt-9"),
        (dict(run="s2"), "--run s2"),
        (dict(tp=3), "--tp 3"),
        (dict(rows=0), "--rows 0"),
        (dict(lora=-1), "--lora -1"),
        (dict(lora=8, tp=2), "--tp: with --lora"),
    ],
)
def test_bad_input(settings, words):
    with pytest.raises(BadInput) as refused:
        plan.main(plan.Config(**settings))
    assert words in str(refused.value) and "\n" not in str(refused.value)


# From the safetensors metadata of each model on the hub; Gemma 3's 4B without its vision part.
PUBLISHED_COUNTS = {
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Meta-Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-pt": 999_885_952,
    "google/gemma-3-4b-it": 3_880_263_168,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23_572_403_200,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_parameters_are_those_published(name):
    assert costs.count_parameters(costs.model_config(name)).total == PUBLISHED_COUNTS[name]


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-2-2b", "phi-3-mini"])
def test_a_shape_has_as_many_parameters_as_transformers_makes(name):
    """All layers made without memory, against one layer times their number."""
    config = costs.model_config(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert costs.count_parameters(config).total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "text, n, kind",
    [
        ("1x4090", 1, "RTX4090-24GB"),
        ("2xrtx3090", 2, "RTX3090-24GB"),
        ("1xRTX5090-32GB", 1, "RTX5090-32GB"),
        ("4xA10G", 4, "A10G-24GB"),
        ("1xL4", 1, "L4-24GB"),
        ("8xh100", 8, "H100-80GB"),
    ],
)
def test_gpus_by_their_short_names(text, n, kind):
    found = costs.machine(text)
    assert (found.n, found.kind) == (n, kind) and found.gib == published.GPUS[kind][0]


def test_a_name_of_two_kinds_is_refused():
    with pytest.raises(BadInput, match="--gpus 1xA100: .* kinds: A100-80GB, A100-40GB$"):
        costs.machine("1xA100")


def test_memory_alone_is_planned_without_hours(capsys, monkeypatch):
    """16 GB are 16e9 / 2^30 = 14.9 GiB; cpu is what is free here. How fast they are is unknown."""
    assert costs.machine("1x16GB")[:3] == (1, "16GB", 14.9)
    monkeypatch.setattr(costs, "free_memory", lambda device: 12 * 2**30)
    assert costs.machine("cpu")[:3] == (1, "cpu", 12.0)
    for gpus in ("1x16GB", "cpu"):
        cfg = plan.Config(
            model="smollm2-135m", gpus=gpus, row_tokens=512, max_length=512, micro_batch_tokens=512
        )
        found = plan.main(cfg)
        assert found["fits"] and found["hours"] is found["update_seconds"] is None
        assert "hours unknown" in capsys.readouterr().out


def test_a_card_without_bf16(capsys):
    with pytest.raises(BadInput, match="^--gpus T4-16GB: has no bfloat16; --dtype fp32"):
        plan.main(plan.Config(model="smollm2-135m", gpus="1xT4"))
    settings = dict(model="smollm2-135m", row_tokens=512, max_length=1024, micro_batch_tokens=1024)
    found = plan.main(plan.Config(**settings, gpus="1xT4", dtype="fp32"))
    # 40% of 8.1 TFLOP/s: no tensor cores.
    assert found["update_seconds"] == pytest.approx(found["flops_per_step"] / (0.4 * 8.1e12))


def test_the_micro_batch_that_fits(monkeypatch):
    """0: the largest of the powers of two that fits; the smallest if none does."""
    limit = 4096
    monkeypatch.setattr(plan, "make_plan", lambda cfg: {"fits": cfg.micro_batch_tokens <= limit})
    assert plan.with_micro_batch(plan.Config(micro_batch_tokens=0)).micro_batch_tokens == 4096
    limit = 0
    assert plan.with_micro_batch(plan.Config(micro_batch_tokens=0)).micro_batch_tokens == 512


def test_shorter_rows_are_the_last_advice(monkeypatch):
    """A smaller micro-batch than the longest row cuts it, and that is said: --max-length, too."""
    cfg = plan.Config(model="smollm2-135m", gpus="1x16GB", row_tokens=1000, max_length=8192)
    changes = plan.possible_changes(cfg)
    assert changes[1] == {"micro_batch_tokens": 8192}
    assert changes[-2:] == [{"micro_batch_tokens": n, "max_length": n} for n in (2048, 1024)]
    monkeypatch.setattr(
        plan, "make_plan", lambda cfg: {"fits": cfg.recompute and cfg.max_length <= 4096}
    )
    assert plan.advice(cfg) == "--recompute --micro-batch-tokens 4096 --max-length 4096"
    monkeypatch.setattr(plan, "make_plan", lambda cfg: {"fits": cfg.max_length <= 4096})
    assert plan.advice(cfg) == "--micro-batch-tokens 4096 --max-length 4096"


def test_float32_has_its_own_rate():
    """An L4: 121 TFLOP/s in bf16, 30.3 in float32, of data sheets. The step is that much slower."""
    settings = dict(model="smollm2-135m", gpus="1xL4", row_tokens=512, max_length=1024)
    settings["micro_batch_tokens"] = 1024
    half = plan.make_plan(plan.Config(**settings))["update_seconds"]
    whole = plan.make_plan(plan.Config(**settings, dtype="fp32"))["update_seconds"]
    assert whole / half == pytest.approx(121 / 30.3)
