"""Wrong solutions of the ladder "tokens", and of the batched decoder."""

from wrong import Wrong

KL = "return (logp.exp() * difference).sum(1), -(logq.exp() * difference).sum(1)"
CAP = "slope *= 1 - (z * (temperature / softcap)) ** 2"
SLOPE = "factor = factor + grad.entropy[:, None] * (mean - z)"
BEFORE = "before = probability.cumsum(1) - probability"
SMALLEST = "logits = logits.masked_fill(logits < smallest, -torch.inf)"
COUNTED = 'counted = thought.n_tokens if sampling.budget_rule == "total" else thought.n_round'
SPENT = "if request.budget is not None and counted >= request.budget:"
MORE = "more = thought.n_waits < request.waits or thought.n_tokens < request.min_thinking"
ROOM = "more = more and counted + n_wait < request.budget"
MANY_MORE = (
    'more = (state["n_waits"] < state["waits"]) | (state["n_thinking"] < state["min_thinking"])'
)
MANY_SPENT = 'spent = wish.thinking & (counted >= state["budget"])'

WRONG = (
    Wrong(
        "log_softmax_kl",
        "the two directions exchanged",
        ((KL, "return -(logq.exp() * difference).sum(1), (logp.exp() * difference).sum(1)"),),
    ),
    Wrong(
        "log_softmax_kl",
        "the mean over the vocabulary (F.kl_div's default reduction)",
        ((KL, "return (logp.exp() * difference).mean(1), -(logq.exp() * difference).mean(1)"),),
    ),
    Wrong(
        "log_softmax_kl",
        "the second without its sign",
        ((KL, "return (logp.exp() * difference).sum(1), (logq.exp() * difference).sum(1)"),),
    ),
    Wrong(
        "log_softmax_kl",
        "the logits are taken for log-probabilities",
        (
            ("logp = logits_p.to(exact).log_softmax(1)  # (N, V)", "logp = logits_p.to(exact)"),
            ("logq = logits_q.to(exact).log_softmax(1)  # (N, V)", "logq = logits_q.to(exact)"),
        ),
    ),
    Wrong(
        "log_softmax_kl",
        "the logarithm of a softmax, which underflows",
        (
            (
                "logp = logits_p.to(exact).log_softmax(1)  # (N, V)",
                "logp = logits_p.to(exact).softmax(1).log()",
            ),
            (
                "logq = logits_q.to(exact).log_softmax(1)  # (N, V)",
                "logq = logits_q.to(exact).softmax(1).log()",
            ),
        ),
        costs=("precision and refusals",),
    ),
    Wrong(
        "log_softmax_kl",
        "computed in bfloat16",
        (
            (
                "exact = torch.promote_types(logits_p.dtype, torch.float32)",
                "exact = logits_p.dtype",
            ),
        ),
        costs=("precision and refusals",),
    ),
    Wrong(
        "log_softmax_kl",
        "absolute differences (the Transferability repository takes an absolute value)",
        (
            (
                KL,
                "return (logp.exp() * difference.abs()).sum(1), (logq.exp() * difference.abs()).sum(1)",
            ),
        ),
    ),
    Wrong(
        "logit_gradient",
        "the one-hot of the target is missing",
        (("slope[row, own] += grad.logit[row]", "pass"),),
    ),
    Wrong(
        "logit_gradient",
        "not divided by the temperature",
        (("return (slope / temperature).to(hidden.dtype)", "return slope.to(hidden.dtype)"),),
        costs=("temperature, softcap, scale",),
    ),
    Wrong(
        "logit_gradient",
        "the softcap has no slope",
        ((CAP, "pass"),),
        costs=("temperature, softcap, scale",),
    ),
    Wrong(
        "logit_gradient",
        "the softcap's slope from logits that are divided by the temperature",
        ((CAP, "slope *= 1 - (z / softcap) ** 2"),),
        costs=("temperature, softcap, scale",),
    ),
    Wrong(
        "logit_gradient",
        "the entropy pushes the wrong way",
        ((SLOPE, "factor = factor + grad.entropy[:, None] * (z - mean)"),),
    ),
    Wrong(
        "logit_gradient",
        "the entropy's slope without the entropy: p (L - z)",
        (
            (
                "mean = (stats.logsumexp - stats.entropy)[:, None]  # Σ_v p_v z_v = L - H",
                "mean = stats.logsumexp[:, None]",
            ),
        ),
    ),
    Wrong(
        "logit_gradient",
        "a target of another part counts in this one, from its end",
        (
            ("row, own = rows_inside(target, z.shape[1])", "row = torch.arange(len(z))"),
            ("slope[row, own] += grad.logit[row]", "slope[row, target % z.shape[1]] += grad.logit"),
        ),
        costs=("parts of the vocabulary",),
    ),
    Wrong(
        "logit_gradient",
        "the softmax of the part instead of the whole vocabulary",
        (
            (
                "p = (z - stats.logsumexp[:, None]).exp()  # (N, C)",
                "p = z.softmax(1)",
            ),
        ),
        costs=("parts of the vocabulary",),
    ),
    Wrong(
        "keep_likely",
        "the token that reaches top_p is dropped",
        ((BEFORE, "before = probability.cumsum(1)"),),
        costs=("top-p",),
    ),
    Wrong(
        "keep_likely",
        "one token more than the smallest set",
        (
            (
                BEFORE,
                "before = (probability.cumsum(1) - probability).roll(1, 1).index_fill(1, torch.tensor(0), 0)",
            ),
        ),
        costs=("top-p",),
    ),
    Wrong(
        "keep_likely",
        "the mask is not put back into the order of the vocabulary",
        (
            (
                "outside = torch.zeros_like(before, dtype=torch.bool).scatter(1, index, before >= top_p)",
                "outside = before >= top_p",
            ),
        ),
        costs=("top-p",),
    ),
    Wrong(
        "keep_likely",
        "exactly k of equal logits",
        (
            (
                SMALLEST,
                "kept = torch.zeros_like(logits, dtype=torch.bool)\n"
                "kept = kept.scatter(1, logits.topk(top_k).indices, True)\n"
                "logits = logits.masked_fill(~kept, -torch.inf)",
            ),
        ),
        costs=("top-k",),
    ),
    Wrong(
        "keep_likely",
        "top-p counts probabilities of before top-k",
        (
            ("if 0 < top_k < logits.shape[1]:", "whole = logits\nif 0 < top_k < logits.shape[1]:"),
            (
                "ordered, index = logits.sort(descending=True)",
                "ordered, index = whole.sort(descending=True)",
            ),
        ),
        costs=("top-p",),
    ),
    Wrong(
        "keep_likely",
        "the logits are written into",
        ((SMALLEST, "logits.masked_fill_(logits < smallest, -torch.inf)"),),
    ),
    Wrong(
        "keep_likely",
        "0 keeps nothing but the largest",
        (
            (
                "if 0 < top_k < logits.shape[1]:",
                "top_k = max(1, top_k)\nif top_k < logits.shape[1]:",
            ),
        ),
    ),
    Wrong(
        "force_budget",
        "the budget counts only when the model wants to end",
        ((SPENT, "if wants_end and request.budget is not None and counted >= request.budget:"),),
        costs=("the budget is spent",),
    ),
    Wrong(
        "force_budget",
        "a token too late",
        ((SPENT, "if request.budget is not None and counted > request.budget:"),),
        costs=("the budget is spent",),
    ),
    Wrong(
        "force_budget",
        "every round has the whole budget (s1's harness)",
        ((COUNTED, "counted = thought.n_round"),),
    ),
    Wrong(
        "force_budget",
        "Wait is appended without room for a token behind it",
        ((ROOM, "pass"),),
        costs=("wait",),
    ),
    Wrong(
        "force_budget",
        "room for Wait alone",
        ((ROOM, "more = more and counted + n_wait <= request.budget"),),
        costs=("wait",),
    ),
    Wrong(
        "force_budget",
        "one Wait too many",
        ((MORE, MORE.replace("thought.n_waits <", "thought.n_waits <=")),),
    ),
    Wrong(
        "force_budget",
        "the minimum of thinking is ignored",
        ((MORE, "more = thought.n_waits < request.waits"),),
        costs=("wait",),
    ),
    Wrong(
        "force_budget",
        "forced in the answer, too",
        (("if not thought.is_open:", "if False:"),),
    ),
    Wrong(
        "force_budget_batched",
        "a token too late",
        ((MANY_SPENT, MANY_SPENT.replace(">=", ">")),),
        costs=("the budget is spent",),
    ),
    Wrong(
        "force_budget_batched",
        "two things at once: the answer and an end",
        (
            ("waits = wants_end & more & ~spent", "waits = wants_end & more"),
            ("ends = wants_end & ~more & ~spent", "ends = wants_end & ~more"),
        ),
        costs=("the budget is spent",),
    ),
    Wrong(
        "force_budget_batched",
        "what is asked of one sequence is asked of all",
        (
            (
                'wants_end = wish.end & state["guided"]',
                'wants_end = wish.end & state["guided"].any()',
            ),
        ),
    ),
    Wrong(
        "force_budget_batched",
        "the minimum of thinking is ignored",
        ((MANY_MORE, 'more = state["n_waits"] < state["waits"]'),),
        costs=("wait",),
    ),
    Wrong(
        "force_budget_batched",
        "the state is changed: the wait is counted here",
        (
            (
                "waits = wants_end & more & ~spent",
                'waits = wants_end & more & ~spent\nstate["n_waits"] += waits',
            ),
        ),
    ),
)
