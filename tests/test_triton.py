"""The Triton kernels without a GPU: run in the interpreter, and compiled ahead of time for A100 and
H100.

What only a GPU can show (bfloat16 arithmetic, speed, graph capture) is in gpu.py and
kernels/bench.py.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip(
    "triton", reason="triton is not installed (Linux only): only the twins are tested"
)
HERE = Path(__file__).resolve().parent
# bytes of shared memory that a program may have at most (A100, H100)
SHARED = {80: 166912, 90: 232448}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}


@pytest.mark.parametrize("part", ["attention", "rows", "linear"])
def test_in_the_interpreter(part):
    """interpreted.py, in a process of its own: the interpreter is chosen when triton is first
    imported."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-k",
            part,
            HERE / "interpreted.py",
        ],
        capture_output=True,
        text=True,
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def launches(monkeypatch, call):
    """(kernel, its arguments by name) of each launch that call() would make; nothing is run."""
    seen = []

    def record(kernel, *args, grid, warmup, **named):
        seen.append((kernel, dict(zip((p.name for p in kernel.params), args)) | named))

    with monkeypatch.context() as patch:
        patch.setattr(triton.runtime.jit.JITFunction, "run", record)
        call()
    return seen


def build(kernel, arguments, capability):
    """Compile as a launch with these arguments would -> (registers, bytes of stack, bytes of shared
    memory).

    That is, tell the compiler which pointers and integers are multiples of 16 and which integers
    are 1.
    """
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = (
                "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
            )
        if isinstance(value, torch.Tensor) or (signature[name][0] == "i" and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        fn=kernel, signature=signature, constexprs=constants, attrs=attributes
    )
    options = {
        name: arguments[name]
        for name in ("num_warps", "num_stages", "maxnreg")
        if name in arguments
    }
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    registers, stack = map(
        int, re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr).groups()
    )
    return registers, stack, built.metadata.shared


def calls(dtype):
    """(name, a call of the kernels) at real sizes, on tensors without storage."""
    from kernels import attention, linear, reference, softmax_kl

    def of(*size, dtype=dtype):
        return torch.empty(*size, dtype=dtype, device="meta")

    def ids(n):
        return of(n, dtype=torch.int64)

    numbers = [of(4096, dtype=torch.float32) for _ in range(5)]
    logits = of(4096, 151936).requires_grad_(True)
    yield (
        "rows",
        lambda: sum(softmax_kl._RowStatistics.apply(logits, ids(4096))[:3]).sum().backward(),
    )
    yield "rows", lambda: softmax_kl.log_softmax_kl(logits, logits)
    sizes = [
        ((28, 4, 128), 3584, 152064, None, ("logp", "entropy")),  # Qwen2.5 7B
        ((8, 4, 256), 2304, 256000, 30.0, ("entropy", "rank", "argmax")),
    ]  # Gemma 2 2B
    for (n_heads, kv_heads, k), d, n_vocab, cap, want in sizes[
        : 1 if dtype == torch.float32 else 2
    ]:
        yield (
            f"{n_heads}/{kv_heads} heads of {k}",
            lambda: attention.decode_attention(
                of(64, n_heads, k),
                *[of(64, kv_heads, 32768, k)] * 2,
                ids(64),
                0.1,
                cap and 4096,
                cap,
            ),
        )
        hidden, head = of(4096, d), reference.Head(of(n_vocab, d), cap)
        yield (
            f"{d} x {n_vocab}",
            lambda: linear.statistics(hidden, head, ids(4096), None, 0.7, want),
        )
        yield (
            f"{d} x {n_vocab}",
            lambda: linear.logit_gradient(
                hidden,
                head.part(0, linear.chunk_size(4096, n_vocab)),
                ids(4096),
                reference.PartStats(None, *numbers[:2]),
                reference.PartStats(*numbers[2:]),
                0.7,
            ),
        )
        yield f"{d} x {n_vocab}", lambda: linear.token_kl(hidden, head, hidden, head, 0.7)


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_compile(monkeypatch, dtype, capability):
    """For A100 and H100, at the sizes of Qwen2.5 and Gemma 2: no spilled register, shared memory
    within the limit. Float32, which is not for speed, may spill two per thread: ptxas does so for
    occupancy, differently by version."""
    monkeypatch.setitem(os.environ, "TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setattr("kernels.linear._hopper", lambda device: capability == 90)
    done = set()
    for name, call in calls(dtype):
        for kernel, arguments in launches(monkeypatch, call):
            registers, stack, shared = build(kernel, arguments, capability)
            print(
                f"sm_{capability} {str(dtype)[6:]:8} {name:18} {kernel.__name__:15} "
                f"{registers:4} registers, {stack} bytes of stack, {shared} of shared memory"
            )
            assert stack <= (8 if dtype == torch.float32 else 0), (name, kernel.__name__)
            assert shared <= SHARED[capability], (name, kernel.__name__)
            done.add(kernel.__name__)
    assert len(done) == 9  # every kernel of the folder
