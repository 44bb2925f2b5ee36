"""How sure are we, and what grew? pass@k, votes, intervals; s1's control, scaling and performance; UniReason's index.

Plain numbers in and out; the papers and equations are named at each function. evaluate.py has them all under its own name.
"""
import math
import random
import statistics
import sys


def pass_at_k(n, c, k):
    """Probability that k samples, drawn without replacement from n of which c are right, hold a right one."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers, key=lambda answer: answer, weights=None):
    """The first answer of the largest class, or of that with the largest sum of weights (ties: the class seen first).
    None votes for nothing."""
    votes, first = {}, {}
    for answer, weight in zip(answers, weights or [1] * len(answers)):
        if answer is not None:
            first.setdefault(key(answer), answer)
            votes[key(answer)] = votes.get(key(answer), 0) + weight
    return first[max(votes, key=votes.get)] if votes else None             # max keeps the first of equals


def wilson(successes, n, z=1.959964):
    """95% interval (low, high) of a share; unlike ± z·s it does not collapse at 0 and 1."""
    if not n:
        return 0.0, 1.0
    p, scale = successes / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (p + z * z / (2 * n) - half) / scale), min(1.0, (p + z * z / (2 * n) + half) / scale)


def mean_interval(values, n_samples=None):
    """(mean, low, high) over questions; values are shares in 0..1, one per question (its mean over samples).

    Wilson's interval for n = N p(1 - p) / variance between the N questions: N if all samples of each question agree, up
    to n_samples, their number in all questions together (default N), if questions are all alike.
    """
    n, mean = len(values), statistics.fmean(values) if values else math.nan
    limit = n_samples or n
    spread = statistics.pvariance(values) if values else 0
    effective = min(limit, n * mean * (1 - mean) / spread) if spread > 1e-12 else limit if 0 < mean < 1 else n
    return mean, *wilson(mean * effective if n else 0, effective)


def paired_bootstrap(a, b, n_resamples=10_000, seed=0):
    """(difference, low, high) of mean(a) - mean(b), 95%; a[i], b[i] belong to one question (s1 §5.1)."""
    if len(a) != len(b) or not a:
        raise ValueError(f"paired values needed, not {len(a)} and {len(b)}")
    rng, n, differences = random.Random(seed), len(a), [x - y for x, y in zip(a, b)]
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(n_resamples))
    return sum(differences) / n, means[int(0.025 * n_resamples)], means[math.ceil(0.975 * n_resamples) - 1]


def control(points, limits):
    """Percent of runs whose tokens stay within their limit; a point is tokens or (tokens, accuracy), a limit is the
    largest number of tokens or (smallest, largest). s1 §3.2, eq. 1."""
    tokens = [point[0] if isinstance(point, tuple) else point for point in points]
    bounds = [limit if isinstance(limit, tuple) else (0, limit) for limit in limits]
    if len(tokens) != len(bounds) or not tokens:
        raise ValueError(f"one limit per run needed, not {len(bounds)} for {len(tokens)}")
    return 100 * statistics.fmean(low <= x <= high for x, (low, high) in zip(tokens, bounds))


def scaling(points, x="log2"):
    """Mean slope over all pairs of (tokens, accuracy in percent): points per doubling of tokens, or per token with
    x="linear". The paper names no unit; log2 reproduces its Table 3. Pairs of equal x are left out. s1 §3.2, eq. 2."""
    placed = [(math.log2(tokens) if x == "log2" else tokens, accuracy) for tokens, accuracy in points if tokens > 0]
    slopes = [(f1 - f0) / (x1 - x0) for i, (x0, f0) in enumerate(placed) for x1, f1 in placed[i + 1:] if x0 != x1]
    return statistics.fmean(slopes) if slopes else math.nan


def performance(points):
    """The best accuracy of any run. s1 §3.2, eq. 3."""
    return max(accuracy for _, accuracy in points)


def transferability(base, tuned, version="v2", sigma=None):
    """{group: TI in percent} for every group but "math"; base and tuned are {group: {benchmark: score in percent}}.

    v1  gain = mean of (tuned - base) / base                                                  (July 2025)
    v2  gain = Σ w sign(d) √|d|, d = (tuned - base) / sigma[group], w ∝ 100 - base, Σ w = 1    (October 2025, §2.1)
    sigma: one constant per group. The paper prints "standard deviation over the group's benchmarks", but its numbers
    need one sigma for all audited models; with None it is 1, which changes TI by a constant factor per group.
    NaN where the index is undefined; the reason is printed to stderr.
    """
    gains = {}
    for group, scores in base.items():
        if set(scores) != set(tuned.get(group, ())) or not scores:
            raise ValueError(f"base and tuned differ in the benchmarks of group '{group}'")
        pairs = [(before, tuned[group][name]) for name, before in scores.items()]
        if version == "v1":
            gains[group] = statistics.fmean((after - old) / old if old else math.nan for old, after in pairs)
        else:
            deltas = [(after - before) / (sigma or {}).get(group, 1) for before, after in pairs]
            room = [100 - before for before, _ in pairs]
            total = sum(w * math.copysign(math.sqrt(abs(d)), d) for w, d in zip(room, deltas))
            gains[group] = total / sum(room) if sum(room) else math.nan
        if math.isnan(gains[group]):
            print(f"TI is undefined: base score {0 if version == 'v1' else 100} in group '{group}'", file=sys.stderr)
    if "math" not in gains:
        raise ValueError("no group 'math' to compare with")
    if gains["math"] <= 0:
        print("TI is undefined: no gain in maths", file=sys.stderr)
    return {group: 100 * gain / gains["math"] if gains["math"] > 0 else math.nan
            for group, gain in gains.items() if group != "math"}


def pooled_sigma(tables):
    """{group: standard deviation} of all scores of all models; tables are {group: {benchmark: score}}, one per model."""
    found = {}
    for table in tables:
        for group, scores in table.items():
            found.setdefault(group, []).extend(scores.values())
    return {group: statistics.pstdev(scores) or 1 for group, scores in found.items()}
