"""engine/machine.py: the device that is found, memory by hand-written files of a system, and no
float64 on a device that has none.

Tensors on "meta" have no numbers; with NoFloat64 they take the place of those on Apple's GPU.
"""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM

import analyze
import generate
import grpo
import sft
from data import tiny
from engine import decoder, kv_cache, machine, processes, rollout, sampling, training
from engine.format import FORMATS
from engine.rows import BadInput

# ---- the device


def has(monkeypatch, cuda=False, mps=False, tool=False):
    """Pretend that a machine has these."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/" + name if tool else None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_auto_is_cuda_then_mps_then_cpu(monkeypatch, capsys):
    """A line says which GPU it is. Of a machine without one nothing is said."""
    cfg = generate.Config(model="m")
    assert cfg.device == "auto"
    has(monkeypatch, cuda=True, mps=True, tool=True)
    assert machine.on_device(cfg).device == "cuda"
    assert capsys.readouterr().out == "--device auto: cuda, NVIDIA L4\n"
    has(monkeypatch, mps=True)
    assert machine.on_device(cfg).device == "mps"
    assert capsys.readouterr().out == "--device auto: mps, Apple's GPU\n"
    has(monkeypatch)
    assert machine.on_device(cfg).device == "cpu"
    assert capsys.readouterr().out == ""


def test_a_gpu_that_pytorch_cannot_use_is_named(monkeypatch, capsys):
    """The commonest trap: a GPU, and a PyTorch that was installed without CUDA."""
    has(monkeypatch, tool=True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert machine.on_device(generate.Config(model="m")).device == "cpu"
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "nvidia-smi is here, but PyTorch" in out and "no CUDA" in out
    monkeypatch.setenv("RANK", "1")  # one process of several says it
    machine.on_device(generate.Config(model="m"))
    assert capsys.readouterr().out == ""


def test_a_device_that_was_given_stays(monkeypatch, capsys):
    has(monkeypatch, cuda=True, mps=False)
    assert machine.on_device(generate.Config(model="m", device="cpu")).device == "cpu"
    with pytest.raises(BadInput, match="^--device mps: torch finds no such device here"):
        machine.on_device(generate.Config(model="m", device="mps"))
    assert capsys.readouterr().out == ""


def test_processes_of_torchrun_do_not_take_apples_gpu(monkeypatch):
    has(monkeypatch, mps=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert machine.find_device()[0] == "cpu"
    with pytest.raises(BadInput, match="^--device mps: one process only"):
        processes.join_ranks("mps")


@pytest.mark.parametrize("script", [sft, grpo, generate, analyze])
def test_every_script_that_loads_a_model_finds_its_device(script):
    field = script.Config.__dataclass_fields__["device"]
    assert field.default == "auto"


@pytest.mark.parametrize("script", [sft, grpo, generate])
def test_a_run_continues_on_another_device(script):
    assert "device" in script.FREE


# ---- memory


def test_free_memory_is_that_of_the_smallest_group(tmp_path):
    """Version 2: the group has 1000 - 700 + 50 bytes of pages that can be dropped; its parent
    200 - 100. The root has no limit.
    """
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    for folder, most, used, pages in ((inner, 1000, 700, 50), (inner.parent, 200, 100, 0)):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 9\nactive_file 7\ninactive_file {pages}\n")
    (tmp_path / "memory.max").write_text("max\n")
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    assert machine.cgroup_rooms(tmp_path, own) == [machine.UNKNOWN, 350, 100]


def test_free_memory_within_a_container_of_version_1(tmp_path):
    """The path is the host's and does not exist inside: the root of what is mounted counts."""
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "memory.limit_in_bytes").write_text("5000\n")
    (memory / "memory.usage_in_bytes").write_text("6000\n")
    (memory / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 1500\n")
    own = tmp_path / "own"
    own.write_text("8:pids:/\n4:cpu,memory:/docker/abc\n0::/\n")
    assert machine.cgroup_rooms(tmp_path, own) == [machine.UNKNOWN, 500]
    assert machine.cgroup_rooms(tmp_path, tmp_path / "none") == [machine.UNKNOWN]


def test_free_memory_without_linux(monkeypatch):
    """macOS: half of the pages. Windows has neither the file nor sysconf."""

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(machine, "read", missing)
    monkeypatch.setattr(
        machine.os, "sysconf", {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 500}.__getitem__
    )
    assert machine.free_memory("cpu") == 1000
    monkeypatch.delattr(machine.os, "sysconf")
    assert machine.free_memory("cpu") == machine.UNKNOWN


def test_free_memory_is_that_of_the_smallest_of_them(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 900)
    for rooms, least in (([2000, 700], 700), ([2000], 900)):
        monkeypatch.setattr(machine, "cgroup_rooms", lambda rooms=rooms: rooms)
        assert machine.free_memory("cpu") == least


def test_free_memory_here_is_less_than_there_is():
    assert 10**8 < machine.free_memory("cpu") < 10**14


@pytest.mark.parametrize("system, unit", [("linux", 1024), ("darwin", 1)])
def test_peak_memory_in_bytes(monkeypatch, system, unit):
    usage = SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=3_000_000)
    )
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", system)
    assert machine.peak_memory("cpu") == 3_000_000 * unit
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.peak_memory("cpu") is None and training.memory_gb("cpu") is None


def test_freed_tensors_go_back_to_the_system():
    """100 tensors of 2 MB between 100 others: when they are freed, 200 MB are free. As it begins,
    the heap keeps the gaps."""
    program = (
        "import sys, torch\n"
        "from engine import machine\n"
        "def resident(): return 4096 * int(open('/proc/self/statm').read().split()[1])\n"
        "large = torch.ones(2**22)\n"
        "del large\n"  # from now on the heap takes up to 16 MB
        "if sys.argv[1] == 'yes': machine.return_freed_tensors()\n"
        "kept = [torch.ones(2**19) for _ in range(200)]\n"
        "before = resident()\n"
        "del kept[::2]\n"
        "print(before - resident())"
    )
    freed = {}
    for word in ("yes", "no"):
        command = [sys.executable, "-c", program, word]
        done = subprocess.run(command, capture_output=True, text=True)
        freed[word] = int(done.stdout)
    assert freed["yes"] > 1.9e8 and freed["no"] < 2e7


def test_peak_memory_is_what_was_held():
    """A gigabyte is seen, after it is gone, too."""
    program = "from engine import machine\nb'x' * 10**9\nprint(machine.peak_memory('cpu'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 1e9 < int(done.stdout) < 2e9, done.stderr


# ---- no float64


class NoFloat64(TorchDispatchMode):
    """Raise TypeError for float64 on meta. A number that is asked for is 1, a copy to the CPU 0."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        name = function.name()
        x = arguments[0] if arguments else None
        is_meta = isinstance(x, torch.Tensor) and x.is_meta
        if name == "aten::_local_scalar_dense" and is_meta:
            return 1
        if name == "aten::nonzero" and is_meta:
            return x.new_zeros((x.numel(), x.ndim), dtype=torch.int64)
        if name == "aten::_to_copy" and is_meta and options.get("device") == torch.device("cpu"):
            return torch.zeros(x.shape, dtype=options.get("dtype") or x.dtype)
        result = function(*arguments, **options)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_meta and leaf.dtype == torch.float64:
                raise TypeError(f"{name}: this device has no float64")
        return result


@pytest.fixture
def no_float64(monkeypatch):
    monkeypatch.setattr(machine, "NO_FLOAT64", {"mps", "meta"})
    monkeypatch.setattr(training, "autocast", lambda cfg, ranks: contextlib.nullcontext())
    with NoFloat64():
        yield


@pytest.fixture(scope="module")
def model():
    config = Qwen3Config(
        vocab_size=len(tiny.VOCABULARY),
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        attn_implementation="packed",
    )
    with torch.device("meta"):
        return Qwen3ForCausalLM(config)


def test_the_stand_in_refuses_float64(no_float64):
    """And so it does what Apple's GPU would do to a slip in the code below."""
    x = torch.zeros(3, device="meta")
    with pytest.raises(TypeError, match="no float64"):
        x.double()
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(3, dtype=torch.float64, device="meta")
    assert x.to("cpu").double().dtype == torch.float64
    assert machine.exact_device("meta").type == machine.exact_device("mps:0").type == "cpu"


def test_a_token_is_drawn_without_float64(no_float64):
    logits = torch.zeros(3, 7, device="meta")
    key = torch.zeros(3, dtype=torch.int64, device="meta")
    for how in ((0,), (0.7,), (1.0, 5, 0.9)):
        token, logp = sampling.sample(logits, key, key, *how)
        assert token.is_meta and logp.is_meta and token.shape == logp.shape == (3,)


def test_a_decoding_step_without_float64(no_float64, model):
    """Budgets and waits, so that every branch of a step is taken."""
    form = FORMATS["think"]
    request = decoder.Request([5, 6], 1, 12, waits=1, budget=6)
    how = decoder.Sampling(temperature=0.7, wait="wait")
    control = decoder.Control(model, tiny.tokenizer(), form, how, [request])
    state = decoder.new_state(2, 12, torch.device("meta"))
    cache = kv_cache.Cache(model, 3, 14)
    step = decoder.Stepper(model, cache, state, control, how)
    with torch.no_grad():
        step.run(2, 4)


def train_on(model, cfg, rows):
    """One micro-batch of sft.py and an update."""
    optimizers = training.make_optimizers(model, 1e-3, (0.9, 0.95), 0.1)
    sft.accumulate_gradient(model, rows, cfg, processes.Ranks("meta"))
    training.update(model, optimizers, 1.0, 1.0)


def test_a_training_step_without_float64(no_float64, model):
    cfg = sft.Config(model="m", data="d", out="o", micro_batch_tokens=64)
    train_on(model, cfg, [([5, 6, 7, 8], b"\0\1\1\1"), ([5, 9, 7], b"\0\1\1")])


def test_an_rl_update_without_float64(no_float64, model):
    """Advantages, the loss with a KL and an entropy bonus, and what is measured."""
    cfg = grpo.Config(
        model="m",
        data="d",
        out="o",
        micro_batch_tokens=64,
        **{"kl": "k3", "beta": 0.1, "entropy": 0.1},
    )
    with torch.device("cpu"):
        advantage = grpo.advantages(torch.tensor([[1.0, 0.0]])).flatten()
    sequences, masks = [[5, 6, 7, 8], [5, 6, 9]], [[False, False, True, True], [False, False, True]]
    old = [[0.0, 0.0, -1.0, -1.0], [0.0, 0.0, -1.0]]
    group = rollout.Rollout(sequences, masks, old, advantage)
    optimizers = training.make_optimizers(model, 1e-3, (0.9, 0.95), 0.1)
    grpo.update_policy(model, model, optimizers, group, cfg, 1.0, True)


def test_two_models_are_compared_without_float64(no_float64, model):
    side = analyze.Side.of(model)
    (_, _, batch), *_ = analyze.batches([([5, 6], [7, 8, 9])], 64, torch.device("meta"))
    with torch.no_grad():
        numbers = analyze.compare_batch(side, side, batch, top=3)
    assert {x.dtype for x in numbers.values()} == {torch.float64}


def test_the_faster_type_is_measured(monkeypatch):
    """A clock that says 2 ms for each product in fp32, and 1 or 1.9 in bf16."""
    for milliseconds, best in ((1, "bf16"), (1.9, "fp32")):
        steps = [0, 2] * 8 + [0, milliseconds] * 8
        clock = iter([sum(steps[: i + 1]) / 1000 for i in range(len(steps))])
        monkeypatch.setattr(machine.time, "perf_counter", lambda clock=clock: next(clock))
        found, why = machine.faster_dtype("cpu")
        assert found == best and f"{2 / milliseconds:.1f} times as fast" in why


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    """5 GB are free: 4 will do and the type is printed, 9 will not."""
    monkeypatch.setattr(machine, "free_memory", lambda device: 5e9)
    monkeypatch.setattr(machine, "find_device", lambda: ("cpu", ""))
    monkeypatch.setattr(machine, "faster_dtype", lambda device: ("bf16", "why"))
    machine.main(machine.Config(needs_gb=4))
    assert capsys.readouterr() == ("bf16\n", "why\n")
    with pytest.raises(BadInput, match="5.0 GB of memory are free on cpu, 9 are needed"):
        machine.main(machine.Config(needs_gb=9))
