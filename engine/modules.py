"""Norms and linear layers that compute what transformers' do in less time. A first reading can leave them out: names,
shapes and weights of a model stay, and its outputs differ by rounding at most."""

from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F


def quicken(model):
    """Put those below in the places of a model's own, each where it pays."""
    fuse_norms(model)
    if mkl_holds_back():
        for module in model.modules():
            if type(module) is torch.nn.Linear:
                module.__class__ = WideLinear


def fuse_norms(model):
    """Let PyTorch's rms_norm, one operation and one kernel on a GPU, stand for the seven of transformers' RMSNorm.

    Only in classes that compute just this: Gemma, which scales by 1 + weight, keeps its own. The class is replaced, not
    the forward of each module: torch.compile would take every layer for another program, and give up after 8.
    """

    def fused(kind):
        def forward(self, x):
            # mixed types under autocast are left to transformers
            same = x.dtype == self.weight.dtype
            return (
                F.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)
                if same
                else kind.forward(self, x)
            )

        return type(kind.__name__, (kind,), {"forward": forward})

    classes = {}
    for module in model.modules():
        if not hasattr(module, "variance_epsilon"):
            continue
        kind = type(module)
        if kind not in classes:
            x, weight = (
                torch.linspace(-1, 3, len(module.weight)),
                torch.linspace(-2, 2, len(module.weight)),
            )
            theirs = torch.func.functional_call(module, {"weight": weight}, x)
            plain = torch.allclose(theirs, F.rms_norm(x, x.shape, weight, module.variance_epsilon))
            classes[kind] = fused(kind) if plain else kind
        module.__class__ = classes[kind]


def mkl_holds_back():
    """Whether matrix products in float32 take AVX2 where the processor has AVX-512, as MKL does on one by AMD."""
    # there on Linux; elsewhere nothing is known, and nothing changed
    processor = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and processor.exists()
        and "AuthenticAMD" in processor.read_text()
    )


WORK = 2**24  # multiplications of a product; from here on a convolution pays
FEW = 256  # rows; so many are the image of the convolution, fewer are its filters


class WideLinear(torch.nn.Linear):
    """A linear layer, computed as a 1 x 1 convolution where that pays: PyTorch gives matrix products in float32 to MKL, but
    convolutions to oneDNN, which takes AVX-512 on any processor that has it. On one by AMD a large layer and its gradients
    then take about half the time.

    oneDNN reads the image as it lies and copies the filters into an order of its own. So with many rows, as in training,
    they are the image and the weight is the filters; with the few of a decoding step it is the other way round.
    """

    def forward(self, x):
        """x (..., D) -> (..., E)."""
        weight, bias = self.weight, self.bias
        if not _pays(x, weight):
            return F.linear(x, weight, bias)
        rows = x.reshape(-1, x.shape[-1])  # (T, D)
        if len(rows) < FEW:
            out = _product(weight, rows).t().contiguous()
            out = out if bias is None else out + bias
        else:
            n = len(rows) // 64 * 64  # oneDNN compiles a kernel for each size
            out = _product(rows[:n], weight, bias)
            if n < len(rows):
                out = torch.cat([out, self.forward(rows[n:])])
        return out.view(*x.shape[:-1], -1)


def _pays(x, weight):
    """Whether a convolution is faster: not for a layer that is compiled, in shards over ranks, or on a GPU."""
    return (
        x.numel() * len(weight) >= WORK
        and weight.numel() >= 2**15
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not hasattr(weight, "full_tensor")  # a DTensor: tensor parallelism
        and (x.numel() >= FEW * x.shape[-1] or len(weight) % 16 == 0 and weight.is_contiguous())
    )


def _product(image, filters, bias=None):
    """image (P, D), P a multiple of 16; filters (F, D); bias (F,) -> image @ filters.T + bias, (P, F)."""
    # (16, D, P / 16, 1), channels last: no copy
    pixels = image.view(16, len(image) // 16, 1, -1).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, filters[:, :, None, None], bias)  # fewer images might not go to oneDNN
    return out.permute(0, 2, 3, 1).reshape(len(image), -1)


@contextmanager
def by_columns(model, rows):
    """While this lasts, the weights of WideLinear that are too small for a convolution of so many rows lie in memory column
    by column; shapes and numbers stay.

    MKL's AVX2 code then takes less time for a few of them: a whole decoding step of one or two sequences 0.85. From four
    rows on the bits are the same. Training, saving and sharding see weights as they were.
    """
    layers = [
        m
        for m in model.modules()
        if isinstance(m, WideLinear)
        and m.weight.dtype == torch.float32
        and m.weight.device.type == "cpu"
        and m.weight.is_contiguous()
        and not hasattr(m.weight, "full_tensor")
        and m.weight.numel() * rows < WORK
    ]

    def store(order):
        with torch.inference_mode(False):  # what is made in that mode cannot be trained
            for layer in layers:
                layer.weight.data = order(layer.weight.data)

    try:
        store(lambda weight: weight.t().contiguous().t())
        yield
    finally:
        store(torch.Tensor.contiguous)
