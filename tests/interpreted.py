"""The Triton kernels on a CPU, in Triton's interpreter, against float64. Run by test_triton.py, or
by itself.

The interpreter is chosen when triton is imported, so this needs a process of its own. It is right
for float32 and float16; its bfloat16 dot returns garbage (held as integers), so test_triton.py
compiles it and gpu.py runs it. Every torch.empty of a wrapper is poisoned here (NaN, or a huge
integer): what no kernel writes would show. Sizes are odd and blocks made small, so that there are
several of each with a rest. N rows, D and E widths, V vocabulary.
"""

import os
import sys

assert "triton" not in sys.modules, "the interpreter has to be asked for before triton is imported"
os.environ["TRITON_INTERPRET"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from kernels import (  # noqa: E402
    Head,
    attention,
    linear,
    parallel,
    reference,
    reference_attention,
    softmax_kl,
)

# torch 2.11's; int() of its arrays (1,) is an error in numpy 2.4. 3.7 squeezes
if triton.__version__.startswith("3.6."):

    def patch_tensor(tensor, scope, patch=interpreter._patch_lang_tensor):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patch_tensor


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)

        def poisoned(*arguments, make=make, **options):
            out = make(*arguments, **options)
            return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)

        monkeypatch.setattr(torch, name, poisoned)


# ---- attention.py


def slots(lengths, n_heads, kv_heads, width, max_len, dtype, seed=0):
    """A query per row and a cache with one slot more than rows, in which every dead cell is NaN."""
    rng = torch.Generator().manual_seed(seed)
    keys, values = (
        torch.full((len(lengths) + 1, kv_heads, max_len, width), torch.nan, dtype=dtype)
        for _ in "kv"
    )
    for row, length in enumerate(lengths):
        for cache in (keys, values):
            cache[row, :, : length + 1] = torch.randn(
                kv_heads, length + 1, width, generator=rng
            ).to(dtype)
    return (
        torch.randn(len(lengths), n_heads, width, generator=rng).to(dtype),
        keys,
        values,
        torch.tensor(lengths),
    )


def attend(query, keys, values, lengths, scale, window=None, softcap=None):
    """Float64, one head at a time: the definition."""
    out = torch.empty(query.shape, dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        first = 0 if window is None else max(0, length - window + 1)
        for h in range(query.shape[1]):
            g = h // (query.shape[1] // keys.shape[1])
            k, v = (x[row, g, first : length + 1].double() for x in (keys, values))
            scores = scale * (k @ query[row, h].double())
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            out[row, h] = scores.softmax(0) @ v
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "n_heads, kv_heads, width, max_len, lengths, window, softcap",
    [
        # G = 5, K no power of 2, edges of blocks
        (10, 2, 48, 300, [0, 1, 63, 64, 65, 127, 128, 299], None, None),
        (4, 4, 16, 600, [599, 5, 64], 7, None),  # G = 1, window within a block
        (6, 2, 128, 520, [519, 511, 512, 0], 130, 5.0),  # several splits, window over its edges
        (5, 1, 20, 70, [3, 69], 64, 2.0),  # window longer than one of the rows
        (34, 2, 32, 40, [17, 39], None, 1.0),
    ],
)  # G = 17: two tiles' worth of heads in one
def test_attention(n_heads, kv_heads, width, max_len, lengths, window, softcap, dtype):
    """float32 within 2e-6 of float64; float16 at most twice as far from it as the twin, which is
    within 4e-3. Without window and cap it would be off by more than 0.05 (asserted). Dead cells are
    NaN, the output is poisoned."""
    query, keys, values, lengths = slots(lengths, n_heads, kv_heads, width, max_len, dtype)
    out = attention.decode_attention(query, keys, values, lengths, 0.3, window, softcap)
    twin = reference_attention.decode_attention(
        query,
        keys.nan_to_num(),
        values.nan_to_num(),
        lengths,
        0.3,
        window,
        softcap,
    )
    expected = attend(query, keys, values, lengths, 0.3, window, softcap)
    assert out.dtype == dtype and out.shape == query.shape
    error, budget = ((x - expected).abs().max() for x in (out, twin))
    assert max(error, budget) <= 2e-6 if dtype == torch.float32 else error <= 2 * budget <= 8e-3
    if window or softcap:
        assert (attend(query, keys, values, lengths, 0.3) - expected).abs().max() > 0.05


# 1, 16 and 2 splits
@pytest.mark.parametrize("programs, max_splits", [(1, 64), (10**6, 64), (10**6, 2)])
def test_attention_in_any_number_of_splits(monkeypatch, programs, max_splits):
    """Rows of 1 to 16 blocks, so that many splits stay empty: always within 1e-6 of float64."""
    monkeypatch.setattr(attention, "PROGRAMS", programs)
    monkeypatch.setattr(attention, "MAX_SPLITS", max_splits)
    monkeypatch.setattr(attention, "BLOCK_BYTES", 1024)  # 16 cells
    query, keys, values, lengths = slots([0, 15, 16, 17, 100, 249], 3, 1, 16, 250, torch.float32)
    out = attention.decode_attention(query, keys, values, lengths, 0.5)
    assert (out - attend(query, keys, values, lengths, 0.5)).abs().max() <= 1e-6


def test_attention_with_other_strides():
    """A cache stored as (slots, L, H_kv, K) and a query cut out of a larger tensor count as their
    copies."""
    query, keys, values, lengths = slots([5, 70, 33], 4, 2, 16, 80, torch.float32)
    wide = torch.randn(3, 8, 16)
    wide[:, ::2] = query
    other = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (keys, values)]
    assert not any(x.is_contiguous() for x in other)
    assert torch.equal(
        attention.decode_attention(wide[:, ::2], *other, lengths, 0.3),
        attention.decode_attention(query, keys, values, lengths, 0.3),
    )


def test_attention_keeps_a_bad_number_in_its_row():
    """NaN in a key of row 0, Inf in a value of row 1: rows 2 and 3 bit-equal to those without, 0
    and 1 not finite."""
    query, keys, values, lengths = slots([9, 20, 3, 70], 4, 2, 16, 80, torch.float32)
    clean = attention.decode_attention(query, keys, values, lengths, 0.3)
    keys[0, :, 4], values[1, :, 20] = torch.nan, torch.inf
    out = attention.decode_attention(query, keys, values, lengths, 0.3)
    assert (
        torch.equal(out[2:], clean[2:]) and not out[:2].isfinite().any() and clean.isfinite().all()
    )


def test_attention_of_no_rows():
    query, keys, values, lengths = slots([2], 4, 2, 16, 8, torch.float32)
    assert attention.decode_attention(query[:0], keys, values, lengths[:0], 0.3).shape == (0, 4, 16)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(query=torch.zeros(2, 3, 16)), "does not fit"),
        (dict(query=torch.zeros(4, 4, 16)), "does not fit"),
        (dict(query=torch.zeros(2, 4, 8)), "does not fit"),
        (dict(query=torch.zeros(2, 4, 16).half()), "must be alike"),
        (dict(lengths=torch.tensor([1, 2], dtype=torch.int32)), "int64"),
        (dict(lengths=torch.tensor([1])), r"\(2,\)"),
    ],
)
def test_attention_refuses(change, message):
    query, keys, values, lengths = slots([2, 5], 4, 2, 16, 8, torch.float32)
    with pytest.raises(ValueError, match=message):
        attention.decode_attention(
            **{
                "query": query,
                "keys": keys,
                "values": values,
                "lengths": lengths,
                "scale": 1.0,
                **change,
            }
        )


# ---- softmax_kl.py

N, D, E, V = 37, 50, 23, 199  # rows() has 11, to be quick
EVERYTHING = ("logp", "entropy", "rank", "argmax", "logsumexp")


def plain(z, target):
    """Whole logits in any precision -> logp, entropy, logsumexp, rank, argmax."""
    logp = z.log_softmax(1)
    rank = 1 + (z > z.gather(1, target[:, None])).sum(1)
    return (
        logp.gather(1, target[:, None])[:, 0],
        -(logp.exp() * logp).sum(1),
        z.logsumexp(1),
        rank,
        z.argmax(1),
    )


def kl(z_p, z_q):
    p, q = z_p.log_softmax(1), z_q.log_softmax(1)
    return (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)


def rows(n=11, v=V, scale=3.0, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, v, generator=rng)).to(dtype), torch.randint(
        v, (n,), generator=rng
    )


@pytest.fixture
def small_rows(monkeypatch):
    monkeypatch.setattr(softmax_kl, "BLOCK", 64)  # 3 blocks and a rest of 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [3.0, 1000.0])
def test_rows(small_rows, scale, dtype):
    """Values within 4e-6 of float64 relative to the largest, gradients within rounding; exact
    ranks. Logits of thousands overflow every exp: entropies stay as exact, because all terms are
    relative to the largest logit."""
    logits, target = rows(scale=scale, dtype=dtype)
    target[[3, 7]] = -100
    mine, exact = logits.clone().requires_grad_(True), logits.double().requires_grad_(True)
    stats = softmax_kl.log_softmax_statistics(mine, target)
    kept = target != -100
    logp, entropy, logsumexp, rank, _ = plain(exact, target.clamp(min=0))
    for value, true in ((stats.logp, logp), (stats.entropy, entropy), (stats.logsumexp, logsumexp)):
        assert value.dtype == torch.float32 and (value[~kept] == 0).all()
        assert (value - true)[kept].abs().max() <= 4e-6 * max(1, true.abs().max())
    assert (stats.entropy - entropy)[kept].abs().max() <= 2e-5
    assert torch.equal(stats.rank[kept], rank[kept]) and (stats.rank[~kept] == 0).all()
    w = torch.linspace(-1, 2, len(logits))
    (w * (stats.logp - 0.3 * stats.entropy + 0.2 * stats.logsumexp)).sum().backward()
    (w.double() * (logp - 0.3 * entropy + 0.2 * logsumexp))[kept].sum().backward()
    assert exact.grad.abs().max() > 1
    assert (mine.grad - exact.grad).abs().max() <= (
        1e-5 if dtype == torch.float32 else 1e-3
    ) * exact.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_kl(small_rows, dtype):
    """Both directions within 2e-6 of float64, relative, one side strided; of equals exactly 0."""
    (p, _), (q, _) = rows(dtype=dtype), rows(seed=1, dtype=dtype)
    wide = torch.zeros(len(q), 2 * V, dtype=dtype)
    wide[:, ::2] = q
    for found, true in zip(softmax_kl.log_softmax_kl(p, wide[:, ::2]), kl(p.double(), q.double())):
        assert true.min() > 0.5 and ((found - true) / true).abs().max() <= 2e-6
    assert all((x == 0).all() for x in softmax_kl.log_softmax_kl(p, p.clone()))


def test_rows_keep_a_bad_number_in_its_row(small_rows):
    logits, target = rows()
    clean = (
        softmax_kl.log_softmax_statistics(logits, target),
        softmax_kl.log_softmax_kl(logits, logits.flip(1)),
    )
    logits[2, 70], logits[5, 3] = torch.nan, torch.inf
    stats, pair = (
        softmax_kl.log_softmax_statistics(logits, target),
        softmax_kl.log_softmax_kl(logits, logits.flip(1)),
    )
    good = torch.ones(len(logits), dtype=torch.bool)
    good[[2, 5]] = False
    for a, b in zip(
        (stats.logp, stats.entropy, *pair), (clean[0].logp, clean[0].entropy, *clean[1])
    ):
        assert torch.equal(a[good], b[good]) and not a[~good].isfinite().any()


def test_rows_none_and_refused(small_rows):
    logits, target = rows()
    assert softmax_kl.log_softmax_statistics(logits[:0], target[:0]).logp.shape == (0,)
    assert softmax_kl.log_softmax_kl(logits[:0], logits[:0])[0].shape == (0,)
    for wrong in (target[1:], target.int(), target + V):
        with pytest.raises(ValueError, match="target"):
            softmax_kl.log_softmax_statistics(logits, wrong)
    with pytest.raises(ValueError, match="must be"):
        softmax_kl.log_softmax_kl(logits, logits[:, 1:])


# ---- linear.py


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 x 16 x 32 (2 blocks and a rest in each direction), 6 of them to a program."""
    for half in (True, False):
        monkeypatch.setitem(
            linear.TILES, half, dict(BLOCK_R=16, BLOCK_C=32, BLOCK_D=32, num_warps=4, num_stages=2)
        )
    monkeypatch.setattr(linear, "SPAN", 64)
    monkeypatch.setattr(linear, "GROUP", 2)


def case(n=N, d=D, v=V, scale=0.7, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    hidden, weight = ((scale * torch.randn(rows, d, generator=rng)).to(dtype) for rows in (n, v))
    return hidden, weight, torch.randint(v, (n,), generator=rng)


def logits_of(hidden, weight, temperature, softcap=None, scale=1.0):
    z = scale * (hidden @ weight.T)
    return (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature


def loss(logp, entropy, logsumexp):
    return (
        torch.linspace(-1, 2, len(logp)).to(logp.dtype) * (logp - 0.3 * entropy + 0.2 * logsumexp)
    ).sum()


@pytest.mark.parametrize(
    "temperature, softcap, scale", [(1.0, None, 1.0), (0.7, 5.0, 1.0), (0.7, 5.0, 0.8)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_linear(small_tiles, dtype, temperature, softcap, scale):
    """All five numbers and both gradients against float64. Float32: values 5e-6, gradients 1e-5 of
    numbers of order 1. Float16: values and gradients no further off than whole logits and autograd
    in float16; ranks exact in both."""
    hidden, weight, target = case(dtype=dtype)
    runs = []
    for kind in (None, dtype, torch.float64):  # the kernel, plain, exact
        leaves = [x.to(kind or dtype).clone().requires_grad_(True) for x in (hidden, weight)]
        if kind is None:
            stats = linear.token_stats(
                leaves[0], Head(leaves[1], softcap, scale), target, temperature, EVERYTHING
            )
            values = stats.logp, stats.entropy, stats.logsumexp, stats.rank, stats.argmax
        else:
            values = plain(logits_of(*leaves, temperature, softcap, scale), target)
        loss(*values[:3]).backward()
        runs.append([*values, *(x.grad for x in leaves)])
    for i, (found, low, true) in enumerate(zip(*runs)):
        error, budget = (found - true).abs().max(), (low - true).abs().max()
        if i in (3, 4):
            assert torch.equal(found, true) and found.dtype == torch.int64
        else:
            assert true.abs().max() > 1 and error <= (
                (5e-6, 1e-5)[i > 4] if dtype == torch.float32 else budget
            ), i
    assert runs[0][5].dtype == runs[0][6].dtype == dtype and runs[0][0].dtype == torch.float32


@pytest.mark.parametrize("want", ["logp", "entropy", "rank", "argmax", "logsumexp"])
def test_linear_one_field_alone(small_tiles, want):
    """Each field alone is bit-equal to itself among all, and a loss on it has the twin's gradient
    within 1e-5."""
    hidden, weight, target = case()
    alone = [x.clone().requires_grad_(True) for x in (hidden, weight)]
    stats = linear.token_stats(alone[0], Head(alone[1]), target, 0.7, (want,))
    assert [x is None for x in stats] == [name != want for name in stats._fields]
    among = linear.token_stats(hidden, Head(weight), target, 0.7, EVERYTHING)
    assert torch.equal(getattr(stats, want), getattr(among, want))
    if want not in ("rank", "argmax"):
        twin = [x.clone().requires_grad_(True) for x in (hidden, weight)]
        for (h, w), module in ((alone, linear), (twin, reference)):
            value = getattr(module.token_stats(h, Head(w), target, 0.7, (want,)), want)
            value.square().sum().backward()
        assert all(
            b.grad.abs().max() > 1 and (a.grad - b.grad).abs().max() <= 1e-5 * b.grad.abs().max()
            for a, b in zip(alone, twin)
        )


def test_linear_ties_do_not_push_the_target_down(small_tiles):
    """Whole numbers, so that sums are exact: one-hot hidden states, logits 0..4 with many ties."""
    weight = torch.randint(5, (V, D), generator=torch.Generator().manual_seed(0)).float()
    hidden, target = torch.eye(D)[:N], case()[2]
    stats = linear.token_stats(hidden, Head(weight), target, want=("rank", "argmax"))
    z = hidden @ weight.T
    assert torch.equal(stats.rank, 1 + (z > z.gather(1, target[:, None])).sum(1))
    assert torch.equal(stats.argmax, z.argmax(1)) and stats.rank.unique().numel() >= 4


def test_linear_keeps_a_bad_number_in_its_row(small_tiles):
    """Rows 0 (NaN) and 17 (Inf): the others are bit-equal in values and in their own gradient."""
    hidden, weight, target = case()
    bad = hidden.clone()
    bad[0, 3], bad[17, 40] = torch.nan, torch.inf
    good = torch.ones(N, dtype=torch.bool)
    good[[0, 17]] = False
    runs = []
    for x in (hidden.requires_grad_(True), bad.requires_grad_(True)):
        stats = linear.token_stats(x, Head(weight), target, want=EVERYTHING)
        stats.logp.sum().backward()
        runs.append(
            [*stats, x.grad, *linear.token_kl(x, Head(weight), hidden.flip(0), Head(weight))]
        )
    assert all(torch.equal(a[good], b[good]) for a, b in zip(*runs))
    assert not any(runs[1][i][~good].isfinite().any() for i in (0, 1, 4, 6))


def test_linear_ignored_strided_and_none(small_tiles):
    """Ignored tokens are 0 and take no gradient; strided inputs count as their copies; N = 0 is
    empty."""
    hidden, weight, target = case(d=2 * D)
    target[[2, 30]] = -100
    views = [hidden[:, ::2].requires_grad_(True), weight[:, ::2].requires_grad_(True)]
    head = Head(views[1])
    stats = linear.token_stats(views[0], head, target, want=EVERYTHING)
    twin = reference.token_stats(views[0], head, target, want=EVERYTHING)
    assert all((a[[2, 30]] == 0).all() and (a - b).abs().max() <= 5e-6 for a, b in zip(stats, twin))
    gradients = [torch.autograd.grad(x.logp.sum(), views) for x in (stats, twin)]
    assert (
        all((a - b).abs().max() <= 1e-5 for a, b in zip(*gradients))
        and (gradients[0][0][[2, 30]] == 0).all()
    )
    empty = linear.token_stats(views[0][:0], head, target[:0], want=EVERYTHING)
    assert all(
        x.shape == (0,) for x in (*empty, *linear.token_kl(views[0][:0], head, views[0][:0], head))
    )
    assert (torch.autograd.grad(empty.logp.sum(), views[1])[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_linear_kl(small_tiles, dtype):
    """Widths 50 and 23, a scale on one side, a cap on the other: float32 within 5e-6 of float64
    (relative), float16 no worse than plain."""
    (p, weight_p, _), (q, weight_q, _) = case(dtype=dtype), case(d=E, seed=1, dtype=dtype)
    found = linear.token_kl(p, Head(weight_p, scale=1.2), q, Head(weight_q, 5.0), 0.7)
    low, true = (
        kl(
            logits_of(p.to(kind), weight_p.to(kind), 0.7, None, 1.2),
            logits_of(q.to(kind), weight_q.to(kind), 0.7, 5.0),
        )
        for kind in (dtype, torch.float64)
    )
    for a, b, c in zip(found, low, true):
        error, budget = (((x - c) / c).abs().max() for x in (a, b))
        assert c.min() > 0.5 and error <= (5e-6 if dtype == torch.float32 else budget)


def test_linear_at_the_real_tiles():
    """The tiles of a GPU, three spans of the vocabulary and a rest: float16 within 2e-5 of
    float64."""
    hidden, weight, target = case(n=130, d=70, v=1601, dtype=torch.float16, scale=0.4)
    stats = linear.token_stats(hidden, Head(weight), target, want=EVERYTHING)
    logp, entropy, logsumexp, rank, argmax = plain(hidden.double() @ weight.double().T, target)
    for value, true in ((stats.logp, logp), (stats.entropy, entropy), (stats.logsumexp, logsumexp)):
        assert (value - true).abs().max() <= 2e-5
    assert torch.equal(stats.rank, rank) and torch.equal(stats.argmax, argmax)


def test_linear_sharded(small_tiles, tmp_path):
    """The kernels under parallel.token_stats, on one rank (two are tried with the twin, in
    test_kernels.py)."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    hidden, weight, target = case()
    stats = parallel.token_stats(
        hidden, Head(weight), target, 0, None, 0.7, EVERYTHING, backend=linear
    )
    torch.distributed.destroy_process_group()
    whole = linear.token_stats(hidden, Head(weight), target, 0.7, EVERYTHING)
    assert all((a - b).abs().max() <= 2e-6 for a, b in zip(stats, whole))


def test_linear_refuses(small_tiles):
    hidden, weight, target = case()
    for call in (
        lambda: linear.token_stats(hidden.double(), Head(weight.double()), target),
        lambda: linear.token_kl(hidden, Head(weight), hidden.half(), Head(weight.half())),
    ):
        with pytest.raises(ValueError, match="float16, bfloat16 or float32, all alike"):
            call()
