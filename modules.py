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
            same = x.dtype == self.weight.dtype          # mixed types under autocast are left to transformers
            return F.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon) if same else kind.forward(self, x)

        return type(kind.__name__, (kind,), {"forward": forward})

    classes = {}
    for module in model.modules():
        if not hasattr(module, "variance_epsilon"):
            continue
        kind = type(module)
        if kind not in classes:
            x, weight = torch.linspace(-1, 3, len(module.weight)), torch.linspace(-2, 2, len(module.weight))
            theirs = torch.func.functional_call(module, {"weight": weight}, x)
            plain = torch.allclose(theirs, F.rms_norm(x, x.shape, weight, module.variance_epsilon))
            classes[kind] = fused(kind) if plain else kind
        module.__class__ = classes[kind]


def mkl_holds_back():
    """Whether matrix products in float32 take AVX2 where the processor has AVX-512, as MKL does on one by AMD."""
    processor = Path("/proc/cpuinfo")                    # there on Linux; elsewhere nothing is known, and nothing changed
    return (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and processor.exists() and "AuthenticAMD" in processor.read_text())


class WideLinear(torch.nn.Linear):
    """A linear layer, computed in training as a 1 x 1 convolution: PyTorch gives matrix products in float32 to MKL, but
    convolutions to oneDNN, which takes AVX-512 on any processor that has it. On one by AMD the layer and its gradients
    then take about half the time.

    Only where gradients are recorded. From four rows on MKL gives each the same bits in any company, so decoding and
    scoring, where a text should not depend on its batch, stay with it; so does what is too small to gain.
    """

    def forward(self, x):
        """x (..., D) -> (..., E)."""
        if not self.is_wide(x):
            return super().forward(x)
        tokens = x.reshape(-1, x.shape[-1])                              # (T, D)
        n = len(tokens) // 64 * 64                                       # oneDNN compiles a kernel for each size
        images = tokens[:n].view(16, n // 16, 1, -1).permute(0, 3, 1, 2) # (16, D, n / 16, 1), channels last: no copy
        images = F.conv2d(images, self.weight[:, :, None, None], self.bias)              # fewer might not go to oneDNN
        out = images.permute(0, 2, 3, 1).reshape(n, -1)
        if n < len(tokens):
            out = torch.cat([out, super().forward(tokens[n:])])
        return out.view(*x.shape[:-1], -1)

    def is_wide(self, x):
        """Whether the convolution is faster: not for a layer that is compiled, in shards over ranks, or on a GPU."""
        return (torch.is_grad_enabled() and not torch.compiler.is_compiling() and x.dtype == torch.float32
                and x.shape[:-1].numel() >= 1024 and self.weight.numel() >= 2**15 and x.device.type == "cpu"
                and not hasattr(self.weight, "full_tensor"))             # a DTensor: tensor parallelism


@contextmanager
def by_columns(model):
    """While this lasts, the weights that WideLinear has lie in memory column by column; shapes and numbers stay.

    A decoding step multiplies a few rows by them. MKL's AVX2 code then takes 0.65 (one row) to 0.9 (32 rows) of the
    time, with the same bits from four rows on. Training, saving and sharding see weights as they were.
    """
    layers = [m for m in model.modules() if isinstance(m, WideLinear) and m.weight.dtype == torch.float32
              and m.weight.device.type == "cpu" and m.weight.is_contiguous() and not hasattr(m.weight, "full_tensor")]

    def store(order):
        with torch.inference_mode(False):                                # what is made in that mode cannot be trained
            for layer in layers:
                layer.weight.data = order(layer.weight.data)

    try:
        store(lambda weight: weight.t().contiguous().t())
        yield
    finally:
        store(torch.Tensor.contiguous)
