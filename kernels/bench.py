"""Time and memory of kernels/ against the products alone, torch.compile, Liger and cut cross-entropy.

    python -m kernels.bench --out out/bench     on a GPU, bfloat16: N 2k, 8k, 32k; heads of Qwen2.5 0.5B, 7B, 32B
    python -m kernels.bench --device cpu        N 2k and the head of 0.5B in float32: 3 minutes, 6 GB

Per size, forward and forward + backward of the mean log-probability. `of products`: time over that of the products
of N·V·D alone, one forward and three with the backward pass; making the logits once more is a fourth, so 1.33 is what
not keeping them costs there. `memory`: peak beyond inputs and gradients, over N·V numbers in fp32. Bars (GPU): memory
5%, time 1.15, no slower than others; rows of logits read at 85% of the bandwidth of a copy. Bars (CPU): memory 5%,
time 1.1 of the plain computation. Liger and cut cross-entropy take part when installed: pip install liger-kernel
cut-cross-entropy. A CPU's times are those of the process, so that other processes do not count.
"""

import argparse
import functools
import importlib.util
import statistics
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import kernels

PAGE = 4096


def plain(hidden, weight, target):
    return -F.cross_entropy((hidden @ weight.T).float(), target)


def ours(hidden, weight, target):
    return kernels.token_stats(hidden, kernels.Head(weight), target).logp.mean()


def ours_entropy(hidden, weight, target):
    stats = kernels.token_stats(hidden, kernels.Head(weight), target, want=("logp", "entropy"))
    return (stats.logp + stats.entropy).mean()


def others(device):
    """name -> function of hidden, weight and target, or why it is missing."""
    found = {"plain": plain, "ours": ours, "ours + entropy": ours_entropy}
    if device == "cpu":
        return found
    torch._dynamo.reset()  # it keeps few shapes per function: none of an earlier size
    found["torch.compile"] = torch.compile(plain, dynamic=False)
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        loss = LigerFusedLinearCrossEntropyLoss()
        found["Liger"] = lambda hidden, weight, target: -loss(weight, hidden, target)
    if importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        found["cut cross-entropy"] = lambda hidden, weight, target: (
            -linear_cross_entropy(hidden, weight, target)
        )
    return found


class Peak:
    """Bytes in use at the peak beyond those at the start: the allocator's on a GPU, the process's pages on a CPU."""

    def __init__(self, device):
        self.device = device

    def now(self):
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    def __enter__(self):
        if self.device == "cpu":
            self.start = self.top = self.now()
            self.running = True
            self.thread = threading.Thread(target=self.watch)
            self.thread.start()
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        return self

    def watch(self):
        while self.running:
            self.top = max(self.top, self.now())
            time.sleep(0.001)

    def __exit__(self, *_):
        if self.device == "cpu":
            self.running = False
            self.thread.join()
        else:
            torch.cuda.synchronize()
            self.top = torch.cuda.max_memory_allocated()
        self.bytes = self.top - self.start


def measure(call, device, repeats):
    """(median seconds, peak bytes) of call(); the first call, which compiles, is not timed."""
    if device == "cpu":
        times = []
        for _ in range(repeats):
            began = time.process_time()
            with Peak(device) as peak:
                call()
            times.append(time.process_time() - began)
        return statistics.median(times), peak.bytes
    call()
    with Peak(device) as peak:
        call()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times), peak.bytes


def captured(call):
    """call() as a CUDA graph, which is how the decoder runs it: without the host's time for each launch."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def products(hidden, weight, backward):
    """The matrix products alone, by parts of the vocabulary as the backward pass takes them."""
    size = -(-len(weight) // 16)
    slope = torch.zeros(len(hidden), size, dtype=hidden.dtype, device=hidden.device)
    out, for_hidden, for_weight = (
        torch.empty_like(slope),
        torch.zeros_like(hidden),
        torch.empty_like(weight),
    )

    def call():
        for start in range(0, len(weight), size):
            part = weight[start : start + size]
            torch.mm(hidden, part.T, out=out[:, : len(part)])
            if backward:
                for_hidden.addmm_(slope[:, : len(part)], part)
                torch.mm(slope[:, : len(part)].T, hidden, out=for_weight[start : start + size])

    return call


def bench_head(n, d, n_vocab, device, repeats):
    """A list of rows of the table for one size."""
    dtype, full = torch.float32 if device == "cpu" else torch.bfloat16, 4 * n * n_vocab
    torch.manual_seed(0)
    hidden = (torch.randn(n, d, device=device) / d**0.5).to(dtype)
    weight = torch.randn(n_vocab, d, device=device, dtype=dtype)
    target, table = torch.randint(n_vocab, (n,), device=device), []
    for backward in (False, True):
        with torch.no_grad():
            alone, _ = measure(products(hidden, weight, backward), device, repeats)
        for name, function in others(device).items():
            hidden, weight = (x.detach().requires_grad_(backward) for x in (hidden, weight))
            given = (hidden.numel() + weight.numel()) * hidden.element_size() if backward else 0

            def call():
                with torch.set_grad_enabled(backward):
                    value = function(hidden, weight, target)
                    return torch.autograd.grad(value, (hidden, weight)) if backward else value

            try:
                seconds, peak = measure(call, device, repeats)
            except torch.cuda.OutOfMemoryError:  # shown as nan
                seconds = peak = torch.nan
                torch.cuda.empty_cache()
            table.append(
                {
                    "N": n,
                    "D": d,
                    "V": n_vocab,
                    "pass": "both" if backward else "forward",
                    "name": name,
                    "ms": 1e3 * seconds,
                    "of products": seconds / alone,
                    "memory": (peak - given) / full,
                }
            )
            print(line(table[-1]), flush=True)
    return table


def line(row):
    return (
        f"N {row['N']:6} D {row['D']:5} V {row['V']:7} {row['pass']:8} {row['name']:18} {row['ms']:10.2f} ms  "
        f"{row['of products']:6.2f} of products  memory {row['memory']:7.1%}"
    )


def bench_rows(n, n_vocab, device, repeats):
    """Kernels that read logits or cache once, against the bandwidth of a copy measured here."""
    block = torch.empty(2**30 if device != "cpu" else 2**24, dtype=torch.uint8, device=device)
    bandwidth = 2 * len(block) / measure(lambda: block.clone(), device, repeats)[0]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    p, q = (torch.randn(n, n_vocab, device=device, dtype=dtype) for _ in "pq")
    calls = {
        f"KL of two logits {n} x {n_vocab}": (lambda: kernels.log_softmax_kl(p, q), 2 * p.nbytes)
    }
    if device != "cpu":
        from kernels import softmax_kl

        target = torch.randint(n_vocab, (n,), device=device)
        calls[f"log-softmax statistics {n} x {n_vocab}"] = (
            lambda: softmax_kl.log_softmax_statistics(p, target),
            p.nbytes,
        )
    shapes = (1, 28, 4, 128, 8192), (64, 28, 4, 128, 2048), (256, 14, 2, 64, 1024)
    for rows, heads, kv_heads, width, cells in shapes:
        if device == "cpu":
            rows, cells = min(rows, 4), min(cells, 256)
        keys, values = (
            torch.randn(rows, kv_heads, 2 * cells, width, device=device, dtype=dtype) for _ in "kv"
        )
        query = torch.randn(rows, heads, width, device=device, dtype=dtype)
        lengths = torch.linspace(cells - 1, 0, rows, device=device).long()  # ragged
        read = 2 * int((lengths + 1).sum()) * kv_heads * width * keys.element_size()
        call = functools.partial(kernels.decode_attention, query, keys, values, lengths, 0.1)
        calls[f"decode attention {rows} x {heads}/{kv_heads} heads, up to {cells} cells"] = (
            call if device == "cpu" else captured(call),
            read,
        )
    for name, (call, size) in calls.items():
        seconds, _ = measure(call, device, repeats)
        print(
            f"{name:58} {1e3 * seconds:9.3f} ms  {size / seconds / bandwidth:6.1%} of {bandwidth / 1e9:.0f} GB/s"
        )


def draw(table, path):
    """Bars: time over the products alone, per size and method; one panel for each pass."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6))
    for panel, kind in enumerate(("forward", "both")):
        rows = [row for row in table if row["pass"] == kind]
        sizes, names = (
            list(dict.fromkeys(map(key, rows)))
            for key in (lambda row: (row["N"], row["D"]), lambda row: row["name"])
        )
        axes = figure.add_subplot(2, 1, panel + 1, title=kind, ylabel="time / products alone")
        for i, name in enumerate(names):
            bars = [
                (sizes.index((row["N"], row["D"])) + 0.8 * i / len(names), row["of products"])
                for row in rows
                if row["name"] == name
            ]
            axes.bar(*zip(*bars), width=0.8 / len(names), label=name)
        axes.set_xticks([x + 0.4 for x in range(len(sizes))], [f"N {n}\nD {d}" for n, d in sizes])
        axes.axhline(1.15, color="black", linewidth=0.5)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--tokens", type=int, nargs="+", help="N; default 2048 8192 32768, on a CPU 2048"
    )
    parser.add_argument(
        "--heads", nargs="+", help="DxV; default Qwen2.5's 0.5B, 7B and 32B, on a CPU the first"
    )
    parser.add_argument("--repeats", type=int, help="timed calls of each; default 10, on a CPU 1")
    parser.add_argument("--out", help="a folder for the figure (none without)")
    options = parser.parse_args(arguments)
    cpu = options.device == "cpu"
    tokens = options.tokens or [2048, 8192, 32768][: 1 if cpu else 3]
    heads = options.heads or ["896x151936", "3584x152064", "5120x152064"][: 1 if cpu else 3]
    repeats = options.repeats or (1 if cpu else 10)
    print(f"{'CPU' if cpu else torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name, package in (("Liger", "liger_kernel"), ("cut cross-entropy", "cut_cross_entropy")):
        if not cpu and not importlib.util.find_spec(package):
            print(f"{name} is not installed: not compared")
    table = []
    for head in heads:
        for n in tokens:
            table += bench_head(n, *map(int, head.split("x")), options.device, repeats)
    bench_rows(
        min(tokens[0], 256) if cpu else 4096, int(heads[0].split("x")[1]), options.device, repeats
    )
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)
        draw(table, Path(options.out) / "kernels.png")
    return table


if __name__ == "__main__":
    main()
