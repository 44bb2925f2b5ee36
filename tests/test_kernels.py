"""kernels/: against float64 brute force, by hand, and chunked against whole.

N, D, E, V are pairwise different in every fixture. Logits have a spread of several units, so that
an error in any of shift, sign, temperature or cap is thousands of tolerances large.
"""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import kernels
from kernels import Head, parallel, reference

ROOT = Path(__file__).resolve().parent.parent
N, D, E, V = 11, 6, 4, 23
EVERYTHING = ("logp", "entropy", "rank", "argmax", "logsumexp")


def case(seed=0, n=N, d=D, v=V, dtype=torch.float32, scale=1.2):
    """Hidden states, head and targets; float32 values, so that float64 copies hold exactly the same
    numbers."""
    rng = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(n, d, generator=rng)).to(dtype)
    weight = (scale * torch.randn(v, d, generator=rng)).to(dtype)
    return hidden, weight, torch.randint(v, (n,), generator=rng)


def truth(hidden, weight, target, temperature=1.0, softcap=None, scale=1.0):
    """All five statistics with Python loops and math, in float64: the definitions of the docstring,
    word by word."""
    rows = []
    for h, t in zip(hidden.double().tolist(), target.tolist()):
        z = [scale * sum(a * b for a, b in zip(h, w)) for w in weight.double().tolist()]
        if softcap is not None:
            z = [softcap * math.tanh(x / softcap) for x in z]
        z = [x / temperature for x in z]
        top = max(z)
        total = top + math.log(sum(math.exp(x - top) for x in z))
        p = [math.exp(x - total) for x in z]
        rows.append(
            (
                z[t] - total,
                -sum(q * math.log(q) for q in p),
                1 + sum(x > z[t] for x in z),
                z.index(top),
                total,
            )
        )
    return kernels.TokenStats(*(torch.tensor(column, dtype=torch.float64) for column in zip(*rows)))


# one chunk; 4, 4 and 3 rows; row by row
@pytest.mark.parametrize("chunk_numbers", [2**24, 4 * V, 1])
@pytest.mark.parametrize(
    "temperature, softcap, scale",
    [(1.0, None, 1.0), (0.6, None, 1.0), (1.7, 3.0, 1.0), (1.0, None, 0.5), (1.7, 3.0, 1.6)],
)
def test_token_stats_against_float64(monkeypatch, temperature, softcap, scale, chunk_numbers):
    """The five numbers of each token within 1e-5 of float64 loops. The settings differ from one
    another by more than 0.1 in logp and entropy (asserted), that is by 10,000 tolerances."""
    monkeypatch.setattr(reference, "CHUNK_NUMBERS", chunk_numbers)
    hidden, weight, target = case()
    head = Head(weight, softcap, scale)
    stats = kernels.token_stats(hidden, head, target, temperature, EVERYTHING)
    expected = truth(hidden, weight, target, temperature, softcap, scale)
    for name in EVERYTHING:
        value = getattr(stats, name)
        assert value.shape == (N,) and value.dtype == (
            torch.int64 if name in ("rank", "argmax") else torch.float32
        )
        assert (value.double() - getattr(expected, name)).abs().max() <= 1e-5, name
    if (temperature, scale) != (1.0, 1.0):
        plain = truth(hidden, weight, target)
        assert all(
            (getattr(plain, name) - getattr(expected, name)).abs().max() > 0.1
            for name in ("logp", "entropy")
        )


def test_token_stats_by_hand():
    """An identity head makes the hidden state the logits. z = (ln 1, ln 2, ln 5): p = (1/8, 2/8,
    5/8), L = ln 8. Target 1: logp = ln 1/4 = -1.386294, rank 2, argmax 2, entropy = (1/8) ln 8 +
    (1/4) ln 4 + (5/8) ln 8/5 = 0.900256. At T = 1/2 the z double: p = (1, 4, 25)/30, logp = ln 4/30
    = -2.014903, L = ln 30 = 3.401197."""
    hidden, target = torch.tensor([[1.0, 2.0, 5.0]]).log(), torch.tensor([1])
    stats = kernels.token_stats(hidden, Head(torch.eye(3)), target, want=EVERYTHING)
    assert [x.item() for x in stats] == pytest.approx(
        [-1.386294, 0.900256, 2, 2, math.log(8)], abs=2e-6
    )
    half = kernels.token_stats(
        hidden, Head(torch.eye(3)), target, temperature=0.5, want=("logp", "logsumexp")
    )
    assert [half.logp.item(), half.logsumexp.item()] == pytest.approx(
        [-2.014903, 3.401197], abs=2e-6
    )
    assert half.entropy is None and half.rank is None and half.argmax is None


def test_ties_do_not_push_the_target_down():
    """Logits (3, 7, 7, 3, 1): targets 1 and 2 share rank 1, targets 0 and 3 share rank 1 + 2 = 3,
    target 4 has rank 5. Of equal logits argmax takes the first."""
    hidden = torch.tensor([[3.0, 7.0, 7.0, 3.0, 1.0]]).expand(5, 5)
    stats = kernels.token_stats(
        hidden, Head(torch.eye(5)), torch.arange(5), want=("rank", "argmax")
    )
    assert stats.rank.tolist() == [3, 1, 1, 3, 5] and stats.argmax.tolist() == [1] * 5


def test_ignored_tokens_are_zero_and_take_no_gradient():
    """Every field of an ignored token is 0, the others are as without it, and its hidden state has
    gradient 0."""
    hidden, weight, target = case()
    ignored = torch.zeros(N, dtype=torch.bool)
    ignored[[0, 4, 10]] = True
    hidden.requires_grad_(True)
    stats = kernels.token_stats(
        hidden, Head(weight), target.masked_fill(ignored, -100), want=EVERYTHING
    )
    expected = kernels.token_stats(hidden, Head(weight), target, want=EVERYTHING)
    for value, full in zip(stats, expected):
        assert (value[ignored] == 0).all() and torch.equal(value[~ignored], full[~ignored])
        assert full[ignored].abs().min() > 0 or full.dtype == torch.int64
    (stats.logp + stats.entropy + stats.logsumexp).sum().backward()
    assert (hidden.grad[ignored] == 0).all() and hidden.grad[~ignored].abs().amax(1).min() > 1e-2


def test_inputs_are_not_modified():
    hidden, weight, target = case()
    copies = hidden.clone(), weight.clone(), target.clone()
    kernels.token_stats(
        hidden, Head(weight, 5.0), target.index_fill(0, torch.tensor([2]), -100), 0.7, EVERYTHING
    )
    kernels.token_kl(hidden, Head(weight), hidden, Head(weight))
    assert all(map(torch.equal, (hidden, weight, target), copies))


def test_no_tokens():
    """N = 0 gives five empty tensors of the right types, and an empty pair for the KL: no crash, no
    NaN."""
    hidden, weight, target = case()
    head = Head(weight)
    stats = kernels.token_stats(hidden[:0], head, target[:0], want=EVERYTHING)
    assert [x.shape for x in stats] == [(0,)] * 5
    assert [x.dtype for x in stats] == [
        torch.float32,
        torch.float32,
        torch.int64,
        torch.int64,
        torch.float32,
    ]
    assert all(len(x) == 0 for x in kernels.token_kl(hidden[:0], head, hidden[:0], head))


def plain(hidden, weight, target, temperature=1.0, softcap=None, scale=1.0):
    """logp, entropy and logsumexp from whole logits in the dtype of the arguments."""
    z = scale * (hidden @ weight.T)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    logp = z.log_softmax(1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(1), z.logsumexp(1)


@pytest.mark.parametrize("name", ["logp", "entropy", "logsumexp"])
@pytest.mark.parametrize(
    "temperature, softcap, scale",
    [(1.0, None, 1.0), (0.6, 4.0, 1.0), (1.0, None, 0.5), (0.6, 4.0, 1.6)],
)
def test_gradients_against_autograd_of_the_formula(name, temperature, softcap, scale):
    """d(w · value)/d hidden and /d weight with random w, against float64 autograd of whole logits:
    within 1e-5 where the gradients are of order 1 (asserted: above 0.1, that is 10,000
    tolerances)."""
    hidden, weight, target = case()
    w = torch.randn(N, generator=torch.Generator().manual_seed(1))
    ours = [hidden.clone().requires_grad_(True), weight.clone().requires_grad_(True)]
    head = Head(ours[1], softcap, scale)
    stats = kernels.token_stats(ours[0], head, target, temperature, (name,))
    (w * getattr(stats, name)).sum().backward()
    theirs = [hidden.double().requires_grad_(True), weight.double().requires_grad_(True)]
    values = plain(*theirs, target, temperature, softcap, scale)
    value = values[("logp", "entropy", "logsumexp").index(name)]
    (w.double() * value).sum().backward()
    for a, b in zip(ours, theirs):
        assert b.grad.abs().max() > 0.1
        assert (a.grad.double() - b.grad).abs().max() <= 1e-5


def slopes_of(z, target, grad, temperature=1.0, softcap=None, scale=1.0, parts=((0, 3),)):
    """logit_gradient for an identity head of three tokens, whose logits are z, part by part.

    grad: of the logit, the logsumexp and the entropy. Returns a list of lists, one per row of z.
    """
    hidden, target = torch.tensor(z), torch.tensor(target)
    head = Head(torch.eye(3), softcap, scale)
    stats = reference.statistics(hidden, head, target, None, temperature, ("entropy",))
    grad = reference.PartStats(*(None if g is None else torch.tensor(g) for g in grad))
    found = [
        reference.logit_gradient(
            hidden, head.part(start, end), target - start, stats, grad, temperature
        )
        for start, end in parts
    ]
    return torch.cat(found, dim=1).tolist()


EIGHTHS = [math.log(1), math.log(2), math.log(5)]  # p = 1/8, 2/8, 5/8
AUTOGRAD = "autograd of the formula"
# name: (z, target, grad, settings of the head, expected)
SLOPES = {
    "logp, of token 1": (
        [EIGHTHS],
        [1],
        ([1.0], [-1.0], None),
        {},
        [[-0.125, 0.75, -0.625]],
    ),
    "logp, two rows with weights": (
        [EIGHTHS, [0.0, 0.0, 0.0]],
        [2, 0],
        ([2.0, -3.0], [-2.0, 3.0], None),
        {},
        [[-0.25, -0.5, 0.75], [-2, 1, 1]],
    ),
    "logp, the logsumexp alone": (
        [EIGHTHS],
        [1],
        ([0.0], [1.0], None),
        {},
        [[0.125, 0.25, 0.625]],
    ),
    "entropy, alone": (
        [EIGHTHS],
        [1],
        ([0.0], [0.0], [1.0]),
        {},
        [[0.147398, 0.121510, -0.268908]],
    ),
    "entropy, with a logp": (
        [EIGHTHS],
        [1],
        ([1.0], [-1.0], [-2.0]),
        {},
        [[-0.419796, 0.506980, -0.087184]],
    ),
    "entropy, of equal logits": ([[4.0, 4.0, 4.0]], [1], ([0.0], [0.0], [1.0]), {}, [[0, 0, 0]]),
    "head, temperature": ([EIGHTHS], [1], ([1.0], [-1.0], [0.3]), {"temperature": 0.5}, AUTOGRAD),
    "head, softcap": (
        [[1.0, -2.0, 4.0]],
        [1],
        ([1.0], [-1.0], [0.3]),
        {"temperature": 0.7, "softcap": 3.0},
        AUTOGRAD,
    ),
    "head, scale": (
        [[1.0, -2.0, 4.0]],
        [0],
        ([1.0], [-1.0], [0.3]),
        {"temperature": 0.7, "softcap": 3.0, "scale": 0.5},
        AUTOGRAD,
    ),
}


def slopes_by_autograd(z, target, grad, temperature=1.0, softcap=None, scale=1.0):
    """The same from whole logits, in float64."""
    x = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    logp, entropy, total = plain(
        x, torch.eye(3, dtype=torch.float64), torch.tensor(target), temperature, softcap, scale
    )
    weights = [torch.tensor(g, dtype=torch.float64) for g in grad]
    (weights[0] * (logp + total) + weights[1] * total + weights[2] * entropy).sum().backward()
    return x.grad.tolist()


@pytest.mark.parametrize("name", SLOPES)
def test_logit_gradient_by_hand(name):
    """z = (ln 1, ln 2, ln 5): p = (1/8, 2/8, 5/8), L = ln 8 = 2.079442, H = 0.900256. The
    log-probability of token 1 has slopes [v = 1] - p_v. The entropy has p_v (L - H - z_v), where
    L - H = 1.179186: 1/8 · 1.179186, 2/8 · 0.486039, 5/8 · -0.430252. With a temperature T the
    slopes in x are those in z over T, with a softcap also times 1 - tanh²."""
    z, target, grad, settings, expected = SLOPES[name]
    if expected == AUTOGRAD:
        expected = slopes_by_autograd(z, target, grad, **settings)
    for row, wanted in zip(slopes_of(z, target, grad, **settings), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)


def test_logit_gradient_of_a_part():
    """Tokens 0 and 1 are one part, token 2 another: target 1 is -1 in the second, and target 2 is 2
    in the first, which has no such entry. Row by row the slopes are [v = target] - p_v. The result
    has hidden's type."""
    found = slopes_of(
        [EIGHTHS, EIGHTHS], [1, 2], ([1.0, 1.0], [-1.0, -1.0], None), parts=((0, 2), (2, 3))
    )
    assert found[0] == pytest.approx([-0.125, 0.75, -0.625], abs=1e-6)
    assert found[1] == pytest.approx([-0.125, -0.25, 0.375], abs=1e-6)
    hidden = torch.tensor([EIGHTHS], dtype=torch.bfloat16)
    stats = reference.PartStats(None, torch.tensor([2.079442]))
    grad = reference.PartStats(torch.tensor([1.0]), torch.tensor([-1.0]))
    head = Head(torch.eye(3, dtype=torch.bfloat16))
    slope = reference.logit_gradient(hidden, head, torch.tensor([1]), stats, grad, 1.0)
    assert slope.dtype == torch.bfloat16
    assert slope[0].tolist() == pytest.approx([-0.125, 0.75, -0.625], abs=4e-3)


@pytest.mark.parametrize("chunk_numbers", [3 * V, 1])  # 6 entries and a rest of 5; one by one
def test_chunks_change_no_value_and_no_gradient(monkeypatch, chunk_numbers):
    """Several chunks of the vocabulary against one, token_stats and token_kl: values 1e-6,
    gradients 5e-6 of 1."""

    def run():
        hidden, weight, target = case()
        other_hidden, other_weight, _ = case(seed=5, d=E)
        leaves = [x.requires_grad_(True) for x in (hidden, weight, other_hidden, other_weight)]
        stats = kernels.token_stats(hidden, Head(weight, 6.0), target, 0.8, EVERYTHING)
        forward, reverse = kernels.token_kl(
            hidden, Head(weight), other_hidden, Head(other_weight), 0.8
        )
        (
            stats.logp - 0.3 * stats.entropy + 0.1 * stats.logsumexp + forward + 2 * reverse
        ).mean().backward()
        return [x.detach() for x in (*stats, forward, reverse)], [x.grad for x in leaves]

    whole_values, whole_gradients = run()
    monkeypatch.setattr(reference, "CHUNK_NUMBERS", chunk_numbers)
    values, gradients = run()
    assert all(
        (a - b).abs().max() <= 1e-6 * max(1, b.abs().max()) for a, b in zip(values, whole_values)
    )
    assert all(
        b.abs().max() > 0.5 and (a - b).abs().max() <= 5e-6
        for a, b in zip(gradients, whole_gradients)
    )


def test_no_logits_are_kept_for_the_backward_pass():
    """Numbers saved by autograd, views of hidden and weight not counted: a few per token, not
    N·V."""
    hidden, weight, target = case(n=40)
    hidden.requires_grad_(True)
    given, saved = {x.untyped_storage().data_ptr() for x in (hidden, weight)}, {}

    def keep(x):
        saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        stats = kernels.token_stats(hidden, Head(weight), target, want=("logp", "entropy"))
    numbers = sum(
        x.untyped_storage().nbytes() // x.element_size() for p, x in saved.items() if p not in given
    )
    assert numbers <= 6 * 40 < 40 * V / 3
    (stats.logp + stats.entropy).sum().backward()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("chunk_numbers", [2**24, 4 * 5])
@pytest.mark.parametrize("temperature, softcap", [(1.0, None), (0.7, 3.0)])
def test_gradcheck(monkeypatch, temperature, softcap, chunk_numbers):
    """torch's check by finite differences in float64, of all that is differentiable, in one chunk
    and in several."""
    monkeypatch.setattr(reference, "CHUNK_NUMBERS", chunk_numbers)
    hidden, weight, target = case(n=5, d=4, v=9, dtype=torch.float64)
    other, other_weight, _ = case(seed=1, n=5, d=3, v=9, dtype=torch.float64)

    def numbers(hidden, weight, other, other_weight):
        stats = kernels.token_stats(
            hidden,
            Head(weight, softcap, 1.3),
            target,
            temperature,
            ("logp", "entropy", "logsumexp"),
        )
        pair = kernels.token_kl(
            hidden, Head(weight, scale=0.8), other, Head(other_weight), temperature
        )
        return stats.logp, stats.entropy, stats.logsumexp, *pair

    torch.autograd.gradcheck(
        numbers, [x.requires_grad_(True) for x in (hidden, weight, other, other_weight)]
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_only_the_wanted_gradient_is_formed(frozen):
    """With a frozen head (or frozen hidden states) the other gradient is what it is with neither
    frozen."""
    hidden, weight, target = case()
    leaves = [hidden.requires_grad_(True), weight.requires_grad_(True)]
    head = Head(weight)
    both = torch.autograd.grad(kernels.token_stats(hidden, head, target).logp.sum(), leaves)
    leaves[frozen].requires_grad_(False)
    kernels.token_stats(hidden, head, target).logp.sum().backward()
    assert leaves[frozen].grad is None and torch.equal(leaves[1 - frozen].grad, both[1 - frozen])


def test_a_bad_number_stays_in_its_row(monkeypatch):
    """NaN in hidden state 2 and Inf in 5: all other rows bit-equal to those without, in values and
    gradient."""
    monkeypatch.setattr(reference, "CHUNK_NUMBERS", 7 * N)
    hidden, weight, target = case()
    bad = hidden.clone()
    bad[2, 1], bad[5, 0] = torch.nan, torch.inf
    good = torch.ones(N, dtype=torch.bool)
    good[[2, 5]] = False
    runs = []
    for x in (hidden.requires_grad_(True), bad.requires_grad_(True)):
        stats = kernels.token_stats(x, Head(weight), target, want=EVERYTHING)
        stats.logp.sum().backward()
        runs.append([*stats, x.grad])
    assert (
        all(torch.equal(a[good], b[good]) for a, b in zip(*runs))
        and not runs[1][0][~good].isfinite().any()
    )


def test_strided_inputs():
    """Hidden states and a head that are columns of something larger give what their copies give,
    gradients too."""
    hidden, weight, target = case(d=2 * D)
    views = hidden[:, ::2].requires_grad_(True), weight[:, ::2].requires_grad_(True)
    copies = [x.detach().contiguous().requires_grad_(True) for x in views]
    results = [kernels.token_stats(h, Head(w), target, want=EVERYTHING) for h, w in (views, copies)]
    assert all((a - b).abs().max() <= 1e-6 * max(1, b.abs().max()) for a, b in zip(*results))
    gradients = [
        torch.autograd.grad((r.logp + r.entropy).sum(), pair)
        for r, pair in zip(results, (views, copies))
    ]
    assert all((a - b).abs().max() <= 1e-5 and b.abs().max() > 0.1 for a, b in zip(*gradients))


def test_autocast_rounds_both_inputs():
    """Float32 hidden states under bfloat16 autocast are scored as a linear layer there would score
    them."""
    hidden, weight, target = case()
    weight.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        stats = kernels.token_stats(hidden, Head(weight), target)
    assert torch.equal(
        stats.logp, kernels.token_stats(hidden.bfloat16(), Head(weight.bfloat16()), target).logp
    )
    assert not torch.equal(stats.logp, kernels.token_stats(hidden, Head(weight), target).logp)
    stats.logp.sum().backward()
    assert weight.grad.dtype == torch.float32 and weight.grad.abs().max() > 0.1


def test_bfloat16_is_no_worse_than_the_plain_computation():
    """Errors against float64 of the same bfloat16 numbers, largest over 97 tokens and V = 211: ours
    may not exceed those of whole logits and log-softmax in bfloat16, which are above 0.01 (the
    budget is not empty)."""
    hidden, weight, target = case(seed=3, n=97, d=32, v=211, dtype=torch.bfloat16, scale=0.7)
    exact = plain(hidden.double(), weight.double(), target)
    low = plain(hidden, weight, target)
    stats = kernels.token_stats(hidden, Head(weight), target, want=("logp", "entropy", "logsumexp"))
    for ours, theirs, true in zip((stats.logp, stats.entropy, stats.logsumexp), low, exact):
        assert ours.dtype == torch.float32
        budget = (theirs.double() - true).abs().max()
        assert (ours.double() - true).abs().max() <= budget and budget > 0.01


def half_case(dtype, n, v, d=32):
    """Hidden states, head, targets and weights of the tokens, with logits of a spread of 2."""
    rng = torch.Generator().manual_seed(n + v)
    hidden = torch.randn(n, d, generator=rng).to(dtype)
    weight = (2 / d**0.5 * torch.randn(v, d, generator=rng)).to(dtype)
    return hidden, weight, torch.randint(v, (n,), generator=rng), torch.randn(n, generator=rng)


def gradients(loss, *tensors):
    """-> gradients of loss(*tensors) in float64."""
    leaves = [x.clone().requires_grad_(True) for x in tensors]
    return [x.double() for x in torch.autograd.grad(loss(*leaves), leaves)]


def relative_error(gradient, exact):
    return ((gradient - exact).norm() / exact.norm()).item()


def in_16_parts(n_rows, n_vocab):
    """Parts as on a GPU."""
    return -(-n_vocab // 16)


@pytest.mark.parametrize("parts", [reference.chunk_size, in_16_parts])
@pytest.mark.parametrize("n, v", [(64, 50_000), (512, 20_000)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_have_the_error_of_the_plain_computation(
    monkeypatch, dtype, n, v, parts
):
    """The gradients of hidden states and head are within 1.3 times the error that plain log-softmax
    of whole logits has, from float64 of the same numbers. A sum over parts in half precision has 2
    to 2.5 times that error."""
    hidden, weight, target, of_token = half_case(dtype, n, v)
    place = torch.arange(n), target

    def plain_loss(hidden, weight):
        z = hidden @ weight.T
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return (z.log_softmax(1)[place] * of_token.to(z.dtype)).sum()

    def our_loss(hidden, weight):
        return (kernels.token_stats(hidden, Head(weight), target).logp * of_token).sum()

    exact = gradients(plain_loss, hidden.double(), weight.double())
    plain_half = gradients(plain_loss, hidden, weight)
    monkeypatch.setattr(reference, "chunk_size", parts)
    assert reference.chunk_size(n, v) < v or n == 64
    ours = gradients(our_loss, hidden, weight)
    for our, theirs, true in zip(ours, plain_half, exact):
        assert relative_error(our, true) <= 1.3 * relative_error(theirs, true)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_a_kl_in_half_precision_is_summed_in_float32(monkeypatch, dtype):
    """16 parts of the vocabulary: within 1.3 times the error of the KL of whole logits."""
    n, v = 64, 4000
    tuned, head_tuned, _, of_token = half_case(dtype, n, v)
    base, head_base, _, _ = half_case(dtype, n + 1, v)
    base = base[:n]

    def loss(tuned, base):
        heads = Head(head_tuned.to(tuned.dtype)), Head(head_base.to(base.dtype))
        forward, reverse = kernels.token_kl(tuned, heads[0], base, heads[1])
        return ((forward + reverse) * of_token.to(forward.dtype)).sum()

    monkeypatch.setattr(reference, "chunk_size", lambda n_rows, n_vocab: n_vocab)
    exact = gradients(loss, tuned.double(), base.double())
    whole = gradients(loss, tuned, base)
    monkeypatch.setattr(reference, "chunk_size", in_16_parts)
    for our, theirs, true in zip(gradients(loss, tuned, base), whole, exact):
        assert relative_error(our, true) <= 1.3 * relative_error(theirs, true)


def test_gradients_of_ranks_are_summed_in_float32(monkeypatch):
    """The hidden states' gradient of a sharded head: bfloat16 in and out, float32 between ranks."""
    summed = []

    def all_reduce(x, group=None):
        summed.append(x.dtype)
        x.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    hidden = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    parallel._Shared.apply(hidden, None).sum().backward()
    assert summed == [torch.float32] and hidden.grad.dtype == torch.bfloat16
    assert (hidden.grad == 2).all()


def test_bfloat16_hidden_with_a_float32_head():
    """Under autocast hidden states are bfloat16 while the head is a float32 master weight: the head
    is rounded, the sums are not, and its gradient comes back in float32."""
    hidden, weight, target = case()
    weight.requires_grad_(True)
    stats = kernels.token_stats(hidden.bfloat16(), Head(weight), target)
    expected = kernels.token_stats(hidden.bfloat16(), Head(weight.detach().bfloat16()), target)
    assert torch.equal(stats.logp, expected.logp)
    stats.logp.sum().backward()
    assert weight.grad.dtype == torch.float32 and weight.grad.abs().max() > 0.1


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_extreme_logits_stay_finite(scale):
    """Logits of a few thousand: exp overflows float32 at 88, log-sum-exp must not. Entropy stays
    within [0, ln V]."""
    hidden, weight, target = case(scale=scale)
    stats = kernels.token_stats(hidden, Head(weight), target, want=("logp", "entropy"))
    assert stats.logp.isfinite().all() and (stats.logp <= 0).all() and stats.logp.min() < -100
    assert (
        stats.entropy.isfinite().all()
        and (stats.entropy > -1e-2).all()
        and (stats.entropy <= math.log(V)).all()
    )


# ---- KL


def logits_as_head(*probabilities):
    """(N, D = V) hidden states and an identity head whose softmax gives these rows of
    probabilities."""
    logits = torch.tensor(probabilities).log()
    return logits, Head(torch.eye(logits.shape[1]))


def test_token_kl_by_hand():
    """p = (.5, .5), q = (.25, .75). KL(p‖q) = .5 ln 2 + .5 ln 2/3 = 0.143841; KL(q‖p) = .25 ln 1/2
    + .75 ln 3/2 = 0.130812. With p and q exchanged the two exchange; of p with itself both are
    0."""
    p, q = (0.5, 0.5), (0.25, 0.75)
    forward, reverse = kernels.token_kl(*logits_as_head(p, q, p), *logits_as_head(q, p, p))
    assert forward.tolist() == pytest.approx([0.143841, 0.130812, 0], abs=1e-6)
    assert reverse.tolist() == pytest.approx([0.130812, 0.143841, 0], abs=1e-6)


def test_log_softmax_kl_by_hand():
    """p = (.5, .5), q = (.25, .75): KL(p‖q) = .5 ln 2 + .5 ln 2/3 = 0.143841, KL(q‖p) = .25 ln 1/2
    + .75 ln 3/2 = 0.130812. Logits need not be normalised: a constant for each row changes
    nothing. The second row has p and q exchanged, the third is p against itself."""
    p, q = (0.5, 0.5), (0.25, 0.75)
    logits_p = torch.tensor([p, q, p]).log() + torch.tensor([[3.0], [-1.0], [0.5]])
    logits_q = torch.tensor([q, p, p]).log() - torch.tensor([[2.0], [5.0], [0.0]])
    before = logits_p.tolist(), logits_q.tolist()
    forward, reverse = kernels.log_softmax_kl(logits_p, logits_q)
    assert forward.tolist() == pytest.approx([0.143841, 0.130812, 0], abs=1e-6)
    assert reverse.tolist() == pytest.approx([0.130812, 0.143841, 0], abs=1e-6)
    assert (logits_p.tolist(), logits_q.tolist()) == before
    # (.5, .25, .25) against (.25, .25, .5): .5 ln 2 + .25 ln 1/2 = .25 ln 2 both ways
    both = kernels.log_softmax_kl(*torch.tensor([[[2.0, 1, 1]], [[1.0, 1, 2]]]).log())
    assert [x.item() for x in both] == pytest.approx([0.173287, 0.173287], abs=1e-6)


def test_log_softmax_kl_of_half_precision_and_large_logits():
    """bfloat16 in, float32 out: (0, 0.0078125) against (0, 0) is 0.0078125²/8 = 7.63e-6, which sums
    in bfloat16 lose. Logits of 1,000 and -1,000: p = (1, 0), q = (0, 1) are 2,000 apart."""
    near = torch.tensor([[0.0, 0.0078125]], dtype=torch.bfloat16)
    found = kernels.log_softmax_kl(near, torch.zeros_like(near))
    assert [x.dtype for x in found] == [torch.float32] * 2
    assert [x.item() for x in found] == pytest.approx([7.63e-6] * 2, abs=3e-7)
    far = torch.tensor([[1000.0, -1000.0]])
    found = kernels.log_softmax_kl(far, -far)
    assert [x.item() for x in found] == [2000, 2000]


@pytest.mark.parametrize(
    "temperature, p, q",
    [
        (1.0, (None, 1.0), (None, 1.0)),
        (0.7, (3.0, 1.0), (5.0, 1.0)),
        (0.7, (3.0, 1.2), (None, 0.9)),
    ],
)
@pytest.mark.parametrize("chunk_numbers", [2**24, 2 * V * 4])
def test_token_kl_of_different_widths_against_float64(
    monkeypatch, temperature, p, q, chunk_numbers
):
    """Widths 6 and 4 over one vocabulary of 23, both directions, each model with its own cap and
    scale: 1e-5 of float64. The values are of order 1 and the two directions differ (asserted)."""
    monkeypatch.setattr(reference, "CHUNK_NUMBERS", chunk_numbers)
    (hidden_p, weight_p, _), (hidden_q, weight_q, _) = case(), case(seed=5, d=E)
    forward, reverse = kernels.token_kl(
        hidden_p, Head(weight_p, *p), hidden_q, Head(weight_q, *q), temperature
    )

    def log_p(hidden, weight, cap, scale):
        z = scale * (hidden.double() @ weight.double().T)
        return ((z if cap is None else cap * torch.tanh(z / cap)) / temperature).log_softmax(1)

    p, q = log_p(hidden_p, weight_p, *p), log_p(hidden_q, weight_q, *q)
    expected = (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)
    assert all(x.shape == (N,) and x.dtype == torch.float32 for x in (forward, reverse))
    assert (forward.double() - expected[0]).abs().max() <= 1e-5 and (
        reverse.double() - expected[1]
    ).abs().max() <= 1e-5
    assert expected[0].mean() > 0.5 and (expected[0] - expected[1]).abs().mean() > 0.1


# ---- refusals


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(head=Head(torch.zeros(V, D + 1))),
            r"hidden \(11, 6\) and weight \(23, 7\) must be \(N, D\) and \(V, D\)",
        ),
        (dict(hidden=torch.zeros(1, N, D)), "must be"),
        (
            dict(target=torch.zeros(N - 1, dtype=torch.int64)),
            r"target \(10,\) torch.int64 on cpu must be \(11,\) int64",
        ),
        (
            dict(target=torch.zeros(N, dtype=torch.int32)),
            r"target \(11,\) torch.int32 on cpu must be \(11,\) int64",
        ),
        (dict(target=torch.zeros(N, dtype=torch.int64, device="meta")), "on meta must be"),
        (
            dict(hidden=torch.zeros(N, D, dtype=torch.int64)),
            "must be floating-point numbers on one device",
        ),
        (
            dict(head=Head(torch.zeros(V, D, device="meta"))),
            "must be floating-point numbers on one device",
        ),
        (dict(target=torch.full((N,), V)), "target outside the vocabulary of 23"),
        (dict(target=torch.full((N,), -1)), "target outside the vocabulary of 23"),
        (dict(temperature=0.0), "temperature 0.0: must be positive"),
        (dict(temperature=-1.0), "must be positive"),
        (dict(head=Head(torch.zeros(V, D), scale=0.0)), "scale 0.0: must be positive"),
        (dict(want=("logp", "logits")), "'logits'.*not among"),
    ],
)
def test_token_stats_refuses(change, message):
    hidden, weight, target = case()
    with pytest.raises(ValueError, match=message):
        kernels.token_stats(**{"hidden": hidden, "head": Head(weight), "target": target, **change})


@pytest.mark.parametrize("n, v", [(N - 1, V), (N, V + 1)])
def test_token_kl_refuses_other_tokens_and_other_vocabularies(n, v):
    hidden, weight, _ = case()
    other_hidden, other_weight, _ = case(n=n, v=v)
    with pytest.raises(ValueError, match="KL needs the same tokens and one vocabulary"):
        kernels.token_kl(hidden, Head(weight), other_hidden, Head(other_weight))


def test_log_softmax_kl_refuses_logits_of_other_shapes():
    """(2, 3) and (2, 4): two vocabularies have no KL; check_logits says so."""
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and \(2, 4\) must be \(N, V\)"):
        kernels.log_softmax_kl(torch.zeros(2, 3), torch.zeros(2, 4))


# ---- a head sharded over ranks


def on_rank(rank, store, results):
    """One of two processes: entries 0..9 or 10..22 of the head."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    reference.CHUNK_NUMBERS = 5 * N
    hidden, weight, target = case()
    target[4] = -100
    hidden, shard = (
        hidden.requires_grad_(True),
        weight.split([10, V - 10])[rank].clone().requires_grad_(True),
    )
    stats = kernels.token_stats(hidden, Head(shard, 5.0), target, 0.7, EVERYTHING, offset=10 * rank)
    loss = (torch.arange(N) * (stats.logp - 0.3 * stats.entropy + 0.1 * stats.logsumexp)).sum()
    loss.backward()
    refused = []
    for changed, offset in (
        (target.index_fill(0, torch.tensor([3]), V), 10 * rank),
        (target, 9 * rank),
    ):
        try:
            kernels.token_stats(hidden, Head(shard), changed, offset=offset)
        except ValueError as error:
            refused.append(str(error))
    torch.save(
        [*[x.detach() for x in stats], hidden.grad, shard.grad, refused], f"{results}{rank}.pt"
    )
    dist.destroy_process_group()


def test_sharded_head_equals_whole_head(tmp_path):
    """Two gloo processes with unequal shards: statistics, ranks and gradients of the unsharded head
    on both, within 1e-5 where gradients are of order 1 to 10; a target outside and shards that
    overlap are refused on both."""
    torch.multiprocessing.spawn(on_rank, (tmp_path / "store", tmp_path / "rank"), nprocs=2)
    hidden, weight, target = case()
    target[4] = -100
    hidden, weight = hidden.requires_grad_(True), weight.requires_grad_(True)
    stats = kernels.token_stats(hidden, Head(weight, 5.0), target, 0.7, EVERYTHING)
    (torch.arange(N) * (stats.logp - 0.3 * stats.entropy + 0.1 * stats.logsumexp)).sum().backward()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for *values, for_hidden, _, refused in ranks:
        assert all((a - b).abs().max() <= 2e-6 for a, b in zip(values, stats))
        assert (for_hidden - hidden.grad).abs().max() <= 1e-5 and hidden.grad.abs().max() > 1
        assert (
            "outside the vocabulary of 23" in refused[0] and "must follow one another" in refused[1]
        )
    assert (
        torch.cat([ranks[0][-2], ranks[1][-2]]) - weight.grad
    ).abs().max() <= 1e-5 and weight.grad.abs().max() > 1


# ---- the folder's name

SCORE = """
import sys
sys.path[:0] = [{project!r}, {packages!r}]
import kernels
assert "triton" not in sys.modules and not hasattr(kernels, "__version__")
from importlib.metadata import version
assert version("kernels") == {version!r}
from transformers import Qwen2Config, Qwen2ForCausalLM
from engine import model as models, packing
config = Qwen2Config(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=4, num_key_value_heads=2)
model = Qwen2ForCausalLM(config)
model.set_attn_implementation("packed")
print(models.score(model, packing.pack([[5, 3, 8]])).logp.shape)
"""


@pytest.mark.parametrize("is_used", [False, True])
def test_with_the_hubs_package_of_the_same_name_installed(tmp_path, is_used):
    """A distribution called kernels, behind the project on the path as site-packages is. In a
    version that transformers does not use, models load and score; else it imports our folder
    instead, which says what to do."""
    from transformers.utils import import_utils

    version = getattr(import_utils, "KERNELS_MIN_VERSION", None) if is_used else "0.0.1"
    if version is None:
        pytest.skip("this transformers names no version of the hub's kernels that it uses")
    info = tmp_path / f"kernels-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    (info / "RECORD").write_text("kernels/__init__.py,,\n")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    code = SCORE.format(project=str(ROOT), packages=str(tmp_path), version=version)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path.parent
    )
    if not is_used:
        assert done.returncode == 0 and "torch.Size([2])" in done.stdout, done.stderr[-2000:]
    else:
        assert done.returncode == 1 and "`pip uninstall kernels` in its" in done.stderr, (
            done.stderr[-2000:]
        )


def test_no_triton_on_a_cpu():
    """Importing and using kernels without a GPU imports no triton: the twins serve where it is not
    installed."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch, kernels; x = torch.randn(3, 4); "
        "head = kernels.Head(x); kernels.token_stats(x, head, torch.arange(3)); "
        "kernels.token_kl(x, head, x, head); kernels.log_softmax_kl(x, x)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
