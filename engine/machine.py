"""The machine that computes: which device it has, how much memory is free, how much was used.

    python -m engine.machine                  prints the --dtype with which it computes faster
    python -m engine.machine --needs-gb 9     ends with one line if less memory is free

Tested on Linux. Apple's GPUs (mps) have no float64: what needs it is computed on the CPU there.
"""

import contextlib
import ctypes
import dataclasses
import os
import re
import shutil
import sys
import time
from pathlib import Path

import torch

from engine import settings
from engine.rows import BadInput

UNKNOWN = 2**60  # bytes of free memory, where a system does not say
NO_FLOAT64 = {"mps"}


@dataclasses.dataclass(frozen=True)
class Config:
    needs_gb: float = 0.0  # memory that has to be free, in GB (1e9 bytes)


# ---------------------------------------------------------------- the device


def on_device(cfg):
    """cfg with --device auto replaced by the device that is found. Raises BadInput.

    Prints one line if that is a GPU, or if there may be one that PyTorch cannot use.
    """
    if cfg.device != "auto":
        check_device(cfg.device)
        return cfg
    device, line = find_device()
    if line and int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)
    return dataclasses.replace(cfg, device=device)


def find_device():
    """cuda, else mps, else cpu -> (device, a line that says what was found, or '')."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return "cuda", f"--device auto: cuda, {name}"
    # Processes cannot talk about tensors of Apple's GPU.
    if torch.backends.mps.is_available() and "WORLD_SIZE" not in os.environ:
        return "mps", "--device auto: mps, Apple's GPU"
    if shutil.which("nvidia-smi"):
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        return "cpu", (
            f"--device auto: cpu. nvidia-smi is here, but PyTorch {torch.__version__}, built with "
            f"{built}, finds no GPU"
        )
    return "cpu", ""


def check_device(name):
    """Raise BadInput for a --device that torch does not know or does not find here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise BadInput(f"--device {name}: not a device (auto, cpu, cuda, cuda:0, mps)")
    n_found = 1
    if device.type == "cuda":
        n_found = torch.cuda.device_count()
    elif device.type == "mps":
        n_found = int(torch.backends.mps.is_available())
    if (device.index or 0) >= n_found:
        raise BadInput(f"--device {name}: torch finds no such device here; --device cpu is slower")


def exact_device(device):
    """The device on which to compute in float64 with tensors of this one: itself, or the CPU."""
    device = torch.device(device)
    return torch.device("cpu") if device.type in NO_FLOAT64 else device


# ---------------------------------------------------------------- memory


def free_memory(device):
    """Bytes that can still be allocated on a device; on a CPU within the limit of its cgroup."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(available_memory(), *cgroup_rooms())


def available_memory():
    """Bytes of host memory that the system can still give, without swapping."""
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", read("/proc/meminfo"))
        return 1024 * int(available[1])
    except (OSError, TypeError):  # not Linux
        pass
    try:
        # macOS does not say what is free. Half of the memory is a guess for a laptop in use.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows
        return UNKNOWN


def cgroup_rooms(root="/sys/fs/cgroup", own="/proc/self/cgroup"):
    """Bytes left within the limit of each memory cgroup that this process is in.

    A container, or a job of a cluster, is ended beyond its limit, however much the machine has.
    Pages of files that can be dropped do not count. [UNKNOWN] where there is no limit.
    """
    rooms = [UNKNOWN]
    try:
        lines = read(own).splitlines()
    except OSError:
        return rooms
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind == "":  # version 2
            base, names = Path(root), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kind.split(","):  # version 1
            base = Path(root) / "memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = base / path.lstrip("/")
        # In a container the path may be the host's: then only the root of what is seen exists.
        for place in (folder, *folder.parents):
            if place.is_relative_to(base):
                rooms += room_of(place, *names)
    return rooms


def room_of(folder, limit, used, droppable):
    """[bytes left in a cgroup], or [] if it has no limit."""
    try:
        most, now = int(read(folder / limit)), int(read(folder / used))
        match = re.search(rf"^{droppable} (\d+)", read(folder / "memory.stat"), re.MULTILINE)
    except (OSError, ValueError):  # no such file; "max"
        return []
    return [max(0, most - now + int(match[1] if match else 0))]


def read(path):
    return Path(path).read_text(encoding="utf-8")


def return_freed_tensors(least=2**17):
    """Have Linux's allocator give each freed tensor of so many bytes back to the system at once.

    It would keep their room in its heap, with gaps that the next tensors do not fill: 0.4 GB of 4.1
    when a 135M model is trained. Fresh pages for every tensor cost a tenth or more of the speed.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD in malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system's allocator
        ctypes.CDLL(None).mallopt(mmap_threshold, least)


def peak_memory(device):
    """The most bytes that this process has held so far; on a GPU, there. None if unknown."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if kind == "mps":
        return torch.mps.driver_allocated_memory()  # now: it keeps no record of the most
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, Linux in KiB.
    return most if sys.platform == "darwin" else 1024 * most


# ---------------------------------------------------------------- the faster type


def faster_dtype(device):
    """('bf16' or 'fp32', a line that says why): measured on matrix products of a small model.

    bf16 must be 1.3 times as fast: casts and sums, which it does not speed up, take their time.
    """
    seconds = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rows = torch.ones(512, 576, dtype=dtype, device=device)
        weight = torch.ones(1536, 576, dtype=dtype, device=device)
        times = []
        for _ in range(8):
            began = time.perf_counter()
            # Reading a number waits for the device.
            float(torch.nn.functional.linear(rows, weight)[0, 0])
            times.append(time.perf_counter() - began)
        seconds[name] = min(times)
    ratio = seconds["fp32"] / seconds["bf16"]
    best = "bf16" if ratio >= 1.3 else "fp32"
    return best, f"--dtype {best}: matrix products in bf16 are {ratio:.1f} times as fast as in fp32"


def main(cfg):
    """Print the faster type, and say why. Raises BadInput if less memory is free than is needed."""
    device = find_device()[0]
    free = free_memory(device)
    if free < 1e9 * cfg.needs_gb:
        raise BadInput(
            f"{free / 1e9:.1f} GB of memory are free on {device}, {cfg.needs_gb:g} are needed"
        )
    found, why = faster_dtype(device)
    print(why, file=sys.stderr)
    print(found)


if __name__ == "__main__":
    settings.cli(main, Config)
