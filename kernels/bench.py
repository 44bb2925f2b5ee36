"""Time and memory of kernels/, beside plain PyTorch, torch.compile, Liger and cut cross-entropy.

    python -m kernels.bench --device cpu      N 2k, head of Qwen2.5 0.5B, float32: 3 minutes, 6 GB
    python -m kernels.bench --out out/bench   on a GPU, bfloat16: N 2k, 8k, 32k; heads of Qwen2.5
                                              0.5B, 7B and 32B, and a figure

Each size has a forward pass, and forward and backward, of the mean log-probability. Two numbers
count beside the milliseconds:
    of products   time over that of the matrix products of N · V · D alone: one in the forward pass,
                  three in both. Not storing the logits costs one more product, so 1.33 at best
    memory        peak beyond inputs and gradients, over that of N · V numbers in fp32
Wanted on a GPU: memory 5 %, time 1.15, no slower than the others, and 85 % of the bandwidth of a
copy where rows of logits are read. Wanted on a CPU: memory 5 %, time 1.1 of plain PyTorch.

Liger and cut cross-entropy take part if they are installed: pip install liger-kernel
cut-cross-entropy. On a CPU, times are processor time, so other processes do not count.
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

PAGE = 4096  # bytes, the unit of /proc/self/statm


# ---- what is compared: functions of hidden (N, D), weight (V, D) and target (N,)


def plain(hidden, weight, target):
    return -F.cross_entropy((hidden @ weight.T).float(), target)


def ours(hidden, weight, target):
    return kernels.token_stats(hidden, kernels.Head(weight), target).logp.mean()


def ours_entropy(hidden, weight, target):
    stats = kernels.token_stats(hidden, kernels.Head(weight), target, want=("logp", "entropy"))
    return (stats.logp + stats.entropy).mean()


def methods(device):
    """{name: function}, of what is installed."""
    found = {"plain": plain, "ours": ours, "ours + entropy": ours_entropy}
    if device == "cpu":
        return found
    # torch.compile keeps few shapes per function: forget those of an earlier size.
    torch._dynamo.reset()
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


def products_alone(hidden, weight, backward):
    """A function that makes the matrix products alone, by the parts of the backward pass."""
    size = -(-len(weight) // 16)
    slope = torch.zeros(len(hidden), size, dtype=hidden.dtype, device=hidden.device)
    logits = torch.empty_like(slope)
    grad_hidden = torch.zeros_like(hidden)
    grad_weight = torch.empty_like(weight)

    def call():
        for start in range(0, len(weight), size):
            part = weight[start : start + size]
            torch.mm(hidden, part.T, out=logits[:, : len(part)])
            if backward:
                part_slope = slope[:, : len(part)]
                grad_hidden.addmm_(part_slope, part)
                torch.mm(part_slope.T, hidden, out=grad_weight[start : start + size])

    return call


# ---- measuring


class Peak:
    """`bytes` in use at the peak beyond those at the start: the allocator's on a GPU, the process's
    pages on a CPU."""

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        if self.device == "cpu":
            self.start = self.top = self._pages()
            self.running = True
            self.thread = threading.Thread(target=self._watch)
            self.thread.start()
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_):
        if self.device == "cpu":
            self.running = False
            self.thread.join()
        else:
            torch.cuda.synchronize()
            self.top = torch.cuda.max_memory_allocated()
        self.bytes = self.top - self.start

    def _watch(self):
        while self.running:
            self.top = max(self.top, self._pages())
            time.sleep(0.001)

    def _pages(self):
        resident = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
        return int(resident) * PAGE


def measure(call, device, repeats):
    """-> (median seconds, peak bytes) of call(). On a GPU, compiling does not count."""
    return _measure_cpu(call, repeats) if device == "cpu" else _measure_gpu(call, device, repeats)


def _measure_cpu(call, repeats):
    times = []
    for _ in range(repeats):
        began = time.process_time()
        with Peak("cpu") as peak:
            call()
        times.append(time.process_time() - began)
    return statistics.median(times), peak.bytes


def _measure_gpu(call, device, repeats):
    call()
    with Peak(device) as peak:
        call()
    times = []
    for _ in range(repeats):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times), peak.bytes


def captured(call):
    """call() as a CUDA graph, as the decoder runs it: no time of the host for each launch."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


# ---- the head: a row of the table for each pass and method


def bench_head(n, d, n_vocab, device, repeats):
    """-> rows of the table for one size, printed as they come."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    hidden = (torch.randn(n, d, device=device) / d**0.5).to(dtype)
    weight = torch.randn(n_vocab, d, device=device, dtype=dtype)
    target = torch.randint(n_vocab, (n,), device=device)
    fp32_logits = 4 * n * n_vocab  # bytes
    table = []
    for backward in (False, True):
        with torch.no_grad():
            alone, _ = measure(products_alone(hidden, weight, backward), device, repeats)
        gradients = hidden.nbytes + weight.nbytes if backward else 0
        for name, function in methods(device).items():
            call = _one_pass(function, hidden, weight, target, backward)
            try:
                seconds, peak = measure(call, device, repeats)
            except torch.cuda.OutOfMemoryError:
                seconds = peak = torch.nan
                torch.cuda.empty_cache()
            row = {
                "N": n,
                "D": d,
                "V": n_vocab,
                "pass": "both" if backward else "forward",
                "name": name,
                "ms": 1e3 * seconds,
                "of products": seconds / alone,
                "memory": (peak - gradients) / fp32_logits,
            }
            print(line_of(row), flush=True)
            table.append(row)
    return table


def _one_pass(function, hidden, weight, target, backward):
    hidden = hidden.detach().requires_grad_(backward)
    weight = weight.detach().requires_grad_(backward)

    def call():
        with torch.set_grad_enabled(backward):
            value = function(hidden, weight, target)
            return torch.autograd.grad(value, (hidden, weight)) if backward else value

    return call


def line_of(row):
    size = f"N {row['N']:6} D {row['D']:5} V {row['V']:7}"
    times = f"{row['ms']:10.2f} ms  {row['of products']:6.2f} of products"
    return f"{size} {row['pass']:8} {row['name']:18} {times}  memory {row['memory']:7.1%}"


# ---- kernels that read logits or the cache once: the share of the bandwidth of a copy


def bench_bandwidth(n, n_vocab, device, repeats):
    """Print a line for each kernel. The bandwidth of a copy is measured here, too."""
    block = torch.empty(2**24 if device == "cpu" else 2**30, dtype=torch.uint8, device=device)
    seconds, _ = measure(lambda: block.clone(), device, repeats)
    bandwidth = 2 * len(block) / seconds  # read and written
    for name, call, n_bytes in (
        *_logit_calls(n, n_vocab, device),
        *_attention_calls(device),
    ):
        seconds, _ = measure(call, device, repeats)
        share = n_bytes / seconds / bandwidth
        print(f"{name:58} {1e3 * seconds:9.3f} ms  {share:6.1%} of {bandwidth / 1e9:.0f} GB/s")


def _logit_calls(n, n_vocab, device):
    """Yield (name, call, bytes that it reads)."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    p, q = (torch.randn(n, n_vocab, device=device, dtype=dtype) for _ in "pq")
    kl = functools.partial(kernels.log_softmax_kl, p, q)
    yield f"KL of two logits {n} x {n_vocab}", kl, 2 * p.nbytes
    if device != "cpu":
        from kernels import softmax_kl

        target = torch.randint(n_vocab, (n,), device=device)
        call = functools.partial(softmax_kl.log_softmax_statistics, p, target)
        yield f"log-softmax statistics {n} x {n_vocab}", call, p.nbytes


def _attention_calls(device):
    """Yield (name, call, bytes that it reads), for rows of unlike length."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for rows, heads, kv_heads, width, cells in (
        (1, 28, 4, 128, 8192),
        (64, 28, 4, 128, 2048),
        (256, 14, 2, 64, 1024),
    ):
        if device == "cpu":
            rows, cells = min(rows, 4), min(cells, 256)
        shape = rows, kv_heads, 2 * cells, width
        keys, values = (torch.randn(shape, device=device, dtype=dtype) for _ in "kv")
        query = torch.randn(rows, heads, width, device=device, dtype=dtype)
        lengths = torch.linspace(cells - 1, 0, rows, device=device).long()
        live = int((lengths + 1).sum())
        n_bytes = 2 * live * kv_heads * width * keys.element_size()
        call = functools.partial(kernels.decode_attention, query, keys, values, lengths, 0.1)
        name = f"decode attention {rows} x {heads}/{kv_heads} heads, up to {cells} cells"
        yield name, call if device == "cpu" else captured(call), n_bytes


# ---- the figure


def draw_bars(table, path):
    """Time over the products alone, per size and method: one panel for each pass."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6))
    for panel, name_of_pass in enumerate(("forward", "both")):
        rows = [row for row in table if row["pass"] == name_of_pass]
        sizes = list(dict.fromkeys((row["N"], row["D"]) for row in rows))
        names = list(dict.fromkeys(row["name"] for row in rows))
        width = 0.8 / len(names)
        axes = figure.add_subplot(2, 1, panel + 1)
        axes.set_title(name_of_pass)
        axes.set_ylabel("time / products alone")
        for i, name in enumerate(names):
            own = [row for row in rows if row["name"] == name]
            places = [sizes.index((row["N"], row["D"])) + i * width for row in own]
            axes.bar(places, [row["of products"] for row in own], width=width, label=name)
        axes.set_xticks([x + 0.4 for x in range(len(sizes))], [f"N {n}\nD {d}" for n, d in sizes])
        axes.axhline(1.15, color="black", linewidth=0.5)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")


# ---- the command


def main(arguments=None):
    options = parse(arguments)
    on_cpu = options.device == "cpu"
    tokens = options.tokens or ([2048] if on_cpu else [2048, 8192, 32768])
    heads = options.heads or ["896x151936", "3584x152064", "5120x152064"][: 1 if on_cpu else 3]
    repeats = options.repeats or (1 if on_cpu else 10)
    print(f"{'CPU' if on_cpu else torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name, package in (("Liger", "liger_kernel"), ("cut cross-entropy", "cut_cross_entropy")):
        if not on_cpu and not importlib.util.find_spec(package):
            print(f"{name} is not installed: not compared")
    shapes = [tuple(map(int, head.split("x"))) for head in heads]  # (D, V)
    table = []
    for d, n_vocab in shapes:
        for n in tokens:
            table += bench_head(n, d, n_vocab, options.device, repeats)
    n_rows = min(tokens[0], 256) if on_cpu else 4096
    bench_bandwidth(n_rows, shapes[0][1], options.device, repeats)
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)
        draw_bars(table, Path(options.out) / "kernels.png")
    return table


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", choices=["cuda", "cpu"])
    add("--tokens", type=int, nargs="+", help="N; default 2048 8192 32768, on a CPU 2048")
    add("--heads", nargs="+", help="DxV; default Qwen2.5's 0.5B, 7B, 32B, on a CPU the first")
    add("--repeats", type=int, help="timed calls of each; default 10, on a CPU 1")
    add("--out", help="a folder for the figure; none is drawn without it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
