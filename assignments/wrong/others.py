"""Right solutions, written in another way than the project's: the tests must accept them."""

from wrong import Wrong
from wrong.batch import BEST, FIT

OTHERS = (
    Wrong(
        "pass_at_k",
        "as a product (Codex's own code)",
        code={
            "pass_at_k": """def pass_at_k(n, c, k):
    if c < 0 or c > n or k < 1 or k > n:
        raise ValueError("out of range")
    if n - c < k:
        return 1.0
    missed = 1.0
    for i in range(n - c + 1, n + 1):
        missed *= 1 - k / i
    return 1 - missed
"""
        },
    ),
    Wrong(
        "paired_bootstrap",
        "places are drawn, quantiles by statistics",
        code={
            "paired_bootstrap": """def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    if len(a) != len(b) or len(a) == 0:
        raise ValueError("as many of both")
    rng, means = random.Random(seed), []
    for _ in range(n_resamples):
        places = [rng.randrange(len(a)) for _ in a]
        means.append(statistics.fmean(a[i] - b[i] for i in places))
    cuts = statistics.quantiles(means, n=40, method="inclusive")
    return statistics.fmean(x - y for x, y in zip(a, b)), cuts[0], cuts[-1]
"""
        },
    ),
    Wrong(
        "check_expression",
        "with Python's parser, exactly",
        code={
            "check_expression": """def check_expression(text, nums, target, n_used=None, left_to_right=False):
    found = expression_value(text, left_to_right)
    if found is None:
        return False
    numbers, value = found
    left = list(map(int, nums))
    for number in numbers:
        if number not in left:
            return False
        left.remove(number)
    enough = len(numbers) == n_used if n_used is not None else not left
    return enough and value == Fraction(target)
""",
            "expression_value": """def expression_value(text, left_to_right=False):
    if not isinstance(text, str):
        return None
    values, numbers = [], []
    for side in _arithmetic(text).split("="):
        if not re.fullmatch(r"[0-9+*/() -]+", side.strip()):
            return None
        try:
            values.append(Expression(side, 0, False, left_to_right).sum())
        except (ValueError, ArithmeticError):
            return None
        numbers.append(sorted(map(int, re.findall("[0-9]+", side))))
    if len(set(values)) != 1:
        return None
    return max(numbers[:2], key=len), values[0]
""",
        },
    ),
    Wrong(
        "pack",
        "a loop over sequences and tokens",
        code={
            "pack": """def pack(sequences, masks=None, device="cpu"):
    if not sequences or not all(sequences):
        raise ValueError("an empty sequence")
    ids, positions, where, target, row = [], [], [], [], []
    for number, sequence in enumerate(sequences):
        for position, token in enumerate(sequence):
            if position and (masks is None or masks[number][position]):
                where.append(len(ids) - 1)
                target.append(token)
                row.append(number)
            ids.append(token)
            positions.append(position)
    tensors = [torch.tensor(x, dtype=torch.long, device=device) for x in (ids, positions)]
    rest = [torch.tensor(x, dtype=torch.long, device=device) for x in (where, target, row)]
    return Batch(*tensors, [len(sequence) for sequence in sequences], *rest)
"""
        },
    ),
    Wrong(
        "fill_bins", "a search through all bins", code={"fill_bins": FIT.replace("CHOOSE", BEST)}
    ),
    Wrong(
        "lr_at",
        "case by case",
        code={
            "lr_at": """def lr_at(step, n_steps, peak, warmup, schedule="cosine", hold=0.0, floor=0.0):
    rising = -int(-warmup * n_steps // 1) if n_steps != 1 else 0
    if step < rising:
        return step / rising * peak
    start = max(round(n_steps * hold), rising)
    if step <= start or schedule == "constant":
        return peak
    done = (step - start) / (n_steps - start)
    share = 1 - done if schedule == "linear" else math.cos(done * math.pi / 2) ** 2
    return peak * floor + (peak - peak * floor) * share
"""
        },
    ),
    Wrong(
        "log_softmax_kl",
        "by F.kl_div, in float64",
        code={
            "log_softmax_kl": """def log_softmax_kl(logits_p, logits_q):
    check_logits(logits_p, logits_q)
    p, q = (torch.log_softmax(x.float(), -1) for x in (logits_p, logits_q))
    kl = torch.nn.functional.kl_div
    one = kl(q, p, reduction="none", log_target=True).sum(-1)
    return one, kl(p, q, reduction="none", log_target=True).sum(-1)
"""
        },
    ),
    Wrong(
        "logit_gradient",
        "term by term, with a mask for the target",
        code={
            "logit_gradient": """def logit_gradient(hidden, head, target, stats, grad, temperature):
    z = head.logits(hidden, temperature)
    logp = z - stats.logsumexp.unsqueeze(1)
    slope = logp.exp() * grad.logsumexp.unsqueeze(1)
    if grad.entropy is not None:
        slope = slope - grad.entropy.unsqueeze(1) * logp.exp() * (logp + stats.entropy.unsqueeze(1))
    is_target = torch.arange(z.shape[1]) == target.unsqueeze(1)
    slope = slope + is_target * grad.logit.unsqueeze(1)
    t, cap = head.fold(temperature)
    if cap is not None:
        slope = slope * (1 - (z * t / cap).square())
    return slope.div(t).to(hidden.dtype)
"""
        },
    ),
    Wrong(
        "keep_likely",
        "row by row",
        code={
            "keep_likely": """def keep_likely(logits, top_k, top_p):
    out = logits.clone()
    for row in out:
        if top_k:
            least = row.sort(descending=True).values[min(top_k, len(row)) - 1]
            row[row < least] = -torch.inf
        if top_p < 1:
            total = 0.0
            probabilities = row.softmax(0)
            for token in probabilities.argsort(descending=True).tolist():
                if total >= top_p:
                    row[token] = -torch.inf
                total += probabilities[token].item()
    return out
"""
        },
    ),
    Wrong(
        "force_budget",
        "in another order",
        code={
            "force_budget": """def force_budget(thought, wants_end, request, sampling, n_wait):
    used = thought.n_round if sampling.budget_rule == "round" else thought.n_tokens
    left = math.inf if request.budget is None else request.budget - used
    if thought.is_open and left <= 0:
        return "answer"
    if not (thought.is_open and wants_end and request.is_guided):
        return ""
    fits = sampling.budget_rule == "round" or left > n_wait
    if fits and (thought.n_tokens < request.min_thinking or thought.n_waits < request.waits):
        return "wait"
    return "end"
"""
        },
    ),
    Wrong(
        "advantages",
        "group by group",
        code={
            "advantages": """def advantages(rewards, std="pop", baseline="group", eps=1e-6):
    n = rewards.shape[1]
    if n == 1 and "sample" == std or n == 1 and baseline == "others":
        raise ValueError("a group of two or more")
    out = torch.zeros_like(rewards)
    for i, group in enumerate(rewards):
        if group.max() == group.min():
            continue
        mean = (group.sum() - group) / (n - 1) if baseline == "others" else group.mean()
        scale = {
            "pop": lambda group: group.std(unbiased=False) + eps,
            "sample": lambda group: group.std() + eps,
            "batch": lambda group: rewards.std(unbiased=False) + eps,
            "none": lambda group: 1.0,
        }[std](group)
        out[i] = (group - mean) / scale
    return out
"""
        },
    ),
    Wrong(
        "clip",
        "sign by sign",
        code={
            "clipped_objective": """def clipped_objective(ratio, advantage, eps_low, eps_high):
    above, below = ratio.clamp(max=1 + eps_high), ratio.clamp(min=1 - eps_low)
    return torch.where(advantage > 0, above, below) * advantage
"""
        },
    ),
    Wrong(
        "objectives",
        "gspo with a loop over rows, nft with where",
        code={
            "gspo": """def gspo(logp, tokens, cfg):
    ratio = torch.empty_like(logp)
    for number in tokens.row.unique():
        mine = tokens.row == number
        ratio[mine] = (logp[mine] - tokens.old_logp[mine]).mean().exp()
    gain = clipped_objective(ratio, tokens.advantage, cfg.eps_low, cfg.eps_high)
    return gain, is_clipped(ratio, tokens.advantage, cfg)
""",
            "cispo": """def cispo(logp, tokens, cfg):
    with torch.no_grad():
        ratio = torch.exp(logp - tokens.old_logp)
        weight = ratio.clip(1 - cfg.eps_low, 1 + cfg.eps_high)
    return tokens.advantage * weight * logp, weight != ratio
""",
        },
    ),
    Wrong(
        "kl_estimate",
        "by the ratio, k3 from expm1",
        code={
            "kl_estimate": """def kl_estimate(logp, ref_logp, kind):
    difference = logp - ref_logp
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() * 0.5
    return difference + torch.expm1(-difference)
"""
        },
    ),
    Wrong(
        "token_weights",
        "counted row by row",
        code={
            "token_weights": """def token_weights(row, n_rows, normalise, max_tokens):
    n = len(row)
    if normalise == "token":
        return torch.ones(n) / max(n, 1)
    if normalise == "constant":
        return torch.ones(n) / n_rows / max_tokens
    counts = torch.tensor([(row == i).sum().item() for i in row.tolist()])
    return 1 / (counts * n_rows)
"""
        },
    ),
    Wrong(
        "rank_shifts",
        "in Python",
        code={
            "rank_shifts": """def rank_shifts(ranks_base, ranks_tuned):
    pairs = [(int(a), int(b)) for a, b in zip(ranks_base, ranks_tuned)]
    return sum(a - b for a, b in pairs) / len(pairs), sum(a != b for a, b in pairs)
"""
        },
    ),
    Wrong(
        "pca_shift",
        "by eigenvectors of the covariance",
        code={
            "main_components": """def main_components(states):
    _, vectors = torch.linalg.eigh(torch.cov(states.T))
    first, second = vectors[:, -1], vectors[:, -2]
    return torch.stack([v * v[v.abs().argmax()].sign() for v in (first, second)])
"""
        },
    ),
)
