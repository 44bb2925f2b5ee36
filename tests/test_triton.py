"""The Triton kernels without a GPU: run in the interpreter, and compiled ahead of time for the GPUs they are meant for.

What only a GPU can show (bfloat16 arithmetic, speed, graph capture) is in gpu.py and kernels/bench.py.
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed (Linux only): kernels not tested, their twins are")
HERE = Path(__file__).resolve().parent
SHARED = {80: 166912, 90: 232448}        # bytes of shared memory that a program may have at most (A100, H100)
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64"}


def test_in_the_interpreter():
    """interpreted.py, in a process of its own: the interpreter is chosen when triton is first imported."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", HERE / "interpreted.py"],
                          capture_output=True, text=True)
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
    """Compile what a launch with these arguments would compile -> (registers, bytes of stack, bytes of shared memory).

    As a launch does, tell the compiler which pointers and integers are multiples of 16 and which integers are 1.
    """
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or (signature[name][0] == "i" and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr).groups())
    return registers, stack, built.metadata.shared


def calls(dtype):
    """name -> a call of each kernel at real sizes, on tensors without storage."""
    from kernels import attention

    def of(*size, dtype=dtype):
        return torch.empty(*size, dtype=dtype, device="meta")

    for n_heads, kv_heads, width in ((14, 2, 64), (28, 4, 128), (8, 1, 256)):
        yield f"decode {n_heads}/{kv_heads}x{width}", lambda: attention.decode_attention(
            of(64, n_heads, width), *[of(64, kv_heads, 32768, width)] * 2, of(64, dtype=torch.int64), 0.1, 4096, 50.0)


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_compile(monkeypatch, dtype, capability):
    """For A100 and H100, at the sizes of Qwen2.5 and Gemma 2: no spilled register, shared memory within the limit."""
    monkeypatch.setitem(os.environ, "TRITON_DEFAULT_FP_FUSION", "1")
    for name, call in calls(dtype):
        for kernel, arguments in launches(monkeypatch, call):
            registers, stack, shared = build(kernel, arguments, capability)
            print(f"sm_{capability} {str(dtype)[6:]:8} {name:18} {kernel.__name__:18} {registers:4} registers, "
                  f"{stack} bytes of stack, {shared} of shared memory")
            assert stack == 0 and shared <= SHARED[capability], (name, kernel.__name__)
