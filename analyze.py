"""What did training change? Two models side by side on the tokens that the tuned one wrote; numbers, figures, a report.

For each token y that the tuned model G wrote, G and the base model B are asked what they expected there:
    KL          Σ_v G(v) log G(v)/B(v) over the whole vocabulary, and the same with G and B exchanged
    rank shift  rank of y under B - rank of y under G (1 = the most likely token); a token with a shift ≠ 0 is "shifted"
    PCA shift   how far a layer's mean state on given problems moved along the two main directions of the base's states
Source: UniReason (arXiv 2507.00432), §3 and §4.1. Departs from its scripts in: 1. Token ids come from the decoder; a text
encoded again may split differently. 2. KL is exact; their estimate is `kl_estimate`. 3. They leave out the first token of
a response by an off-by-one; --skip-first does, too. 4. Tokens that budget forcing wrote are not counted. 5. `pca_shift`
is theirs: it pools pads, and layers cancel; `pca_shift_masked` pools tokens only and averages lengths, which cannot.

A laptop, seconds:   python analyze.py --base data/tiny_base --tuned out/tiny/seed0/sft-s1 out/tiny/seed0/grpo
                     --data out/tiny/seed0/runs/{sft-s1,grpo}.jsonl --runs out/tiny/seed0/runs --out out/tiny
A 7B model:          python analyze.py --base Qwen/Qwen2.5-7B-Instruct --tuned simplescaling/s1.1-7B --data out/s1.jsonl
                     --runs out/runs --out out/analysis --device cuda --dtype bf16

Reads model directories, completion rows (data/rows.py) and the headers beside them. evaluate.py grades --runs; a run is
known by its file's name. Writes metrics.json, the figures as PNG, and report.html, one file that needs nothing else.
"""
import itertools
import json
import math
import random
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch

import evaluate
import kernels
import model as models
from data import run
from data.format import FORMATS
from data.rows import BadInput
from report import (BASE_COLOUR, COLOURS, draw, forced_points, key, model_table, page, pooled, read_json, read_runs,
                    right, scope, settle)


@dataclass(frozen=True)
class Config:
    base: str                            # model that training started from: directory or hub name
    out: str                             # directory to write into
    tuned: tuple[str, ...] = ()          # models that were trained from it
    data: tuple[str, ...] = ()           # completions of the tuned models; their headers say whose
    runs: tuple[str, ...] = ()           # completions to grade: files, or directories with one replicate (seed) each
    claims: str | None = None            # JSON list of {id, text, group, from, to, expect: higher | lower | same}
    format: Literal["s1", "think", "r1", "plain"] | None = None    # of --data; default: what the headers say
    max_responses: int = 100             # responses per task and tuned model; UniReason: 100
    k_texts: int = 100                   # problems per task for the PCA shift; UniReason: 100
    skip_first: bool = False             # leave out the first token of each response, as UniReason's scripts do
    device: str = "cpu"                  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"    # of weights and computation
    micro_batch_tokens: int = 16384      # tokens per forward pass; changes memory and speed, not the result


TEXT_TOKENS, VIEWED_TOKENS = 128, 800    # of a problem for the PCA shift, as in UniReason; of a transcript in the report


def kl_estimator(logps_tuned, logps_base):
    """Log-probabilities of the sampled tokens, a list per response -> UniReason's |mean of means of log G/B|."""
    means = [statistics.fmean(math.log((math.exp(g) + 1e-10) / (math.exp(b) + 1e-10)) for g, b in zip(*response))
             for response in zip(logps_tuned, logps_base, strict=True)]
    return abs(statistics.fmean(means))


def rank_shifts(ranks_base, ranks_tuned):
    """Ranks (N,) of the actual tokens -> (mean shift, number of tokens with a shift other than 0)."""
    shift = torch.as_tensor(ranks_base).double() - torch.as_tensor(ranks_tuned).double()
    return shift.mean().item(), int((shift != 0).sum())


def pca_shift(base_layers, tuned_layers):
    """Lists of (K, H), one per layer -> (distance, points (layers, 2, 2)), as published. A point of base or tuned is the
    shift along PC1 and the place on PC2. The components belong to the base alone, projections are not centred, and a
    component's largest loading is positive. The mean over layers keeps the signs; then the length is taken."""
    points = []
    for base, tuned in zip(base_layers, tuned_layers, strict=True):
        base, tuned = (torch.as_tensor(x, dtype=torch.float64) for x in (base, tuned))
        components = torch.linalg.svd(base - base.mean(0), full_matrices=False).Vh[:2]               # (2, H)
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        before, after = (x.mean(0) @ (components * largest.sign()).T for x in (base, tuned))         # (2,)
        points.append([[0.0, before[1].item()], [(after[0] - before[0]).item(), after[1].item()]])
    points = torch.tensor(points, dtype=torch.float64)
    return (points[:, 1] - points[:, 0]).mean(0).norm().item(), points


def pca_shift_masked(base_layers, tuned_layers):
    """The same, but the mean over layers of each layer's length. Give it states pooled without pads."""
    points = pca_shift(base_layers, tuned_layers)[1]
    return (points[:, 1] - points[:, 0]).norm(dim=1).mean().item(), points


def summarise(responses, shifts):
    """Measured responses and {task: PCA shifts} -> entry of metrics.json. KL in nats per token, macro: mean over responses,
    micro: over tokens. Rank and PCA shift of several tasks are the mean of the tasks' values, as published."""
    tasks = defaultdict(list)
    for response in responses:
        tasks[response["task"]].append(response)
    entry = {"kl_estimate": kl_estimator(*([r[k].tolist() for r in responses] for k in ("logp_tuned", "logp_base")))}
    for name in ("kl_forward", "kl_reverse"):
        means = [r[name].mean().item() for r in responses]
        macro = statistics.fmean(means)                  # one response has no interval
        half = 1.959964 * statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
        entry[name] = {"macro": macro, "micro": torch.cat([r[name] for r in responses]).mean().item(),
                       **({"low": None, "high": None} if half is None else {"low": macro - half, "high": macro + half})}
    counts = [rank_shifts(*(torch.cat([r[side] for r in inside]) for side in ("rank_base", "rank_tuned")))
              for inside in tasks.values()]
    known = [shifts[task] for task in tasks if task in shifts]
    entry |= {k: statistics.fmean(s[k] for s in known) if known else None for k in ("pca_shift", "pca_shift_masked")}
    n_shifted, n_tokens = sum(n for _, n in counts), sum(len(r["ids"]) for r in responses)
    return entry | {"rank_shift_mean": statistics.fmean(mean for mean, _ in counts), "shifted_tokens": n_shifted,
                    "shifted_share": n_shifted / n_tokens, "shifted_per_response": n_shifted / len(responses),
                    "n_responses": len(responses), "n_tokens": n_tokens}


def most_shifted(responses, n=30):
    """Tokens by the summed size of their shifts, frequent or far: [{id, count, mean_shift, sum}] of the shifted ones."""
    shifts = defaultdict(list)
    for r in responses:
        for token, shift in zip(r["ids"], (r["rank_base"] - r["rank_tuned"]).tolist()):
            shifts[token] += [shift] * bool(shift)
    return sorted(({"id": token, "count": len(s), "mean_shift": statistics.fmean(s), "sum": sum(map(abs, s))}
                   for token, s in shifts.items() if s), key=lambda t: (-t["sum"], t["id"]))[:n]


@torch.no_grad()
def measure(base, tuned, examples, micro_batch_tokens=16384):
    """(prompt ids, completion ids) each -> per example a dict of (N,) float64 over its completion's tokens:
    kl_forward (tuned‖base), kl_reverse, and logp, rank, entropy of both models as logp_base, logp_tuned, ..."""
    device, results = models.head(base).device, {}
    for group in models.fill_bins([len(p) + len(c) for p, c in examples], micro_batch_tokens):
        batch = models.pack([[*examples[i][0], *examples[i][1]] for i in group],
                            [[False] * len(p) + [True] * len(c) for p, c in (examples[i] for i in group)], device)
        packed, columns, sides = models.Packed(batch.lengths, device), {}, []
        for name, m in (("tuned", tuned), ("base", base)):
            hidden = models.hidden_states(m, batch.ids, batch.positions, packed)[batch.where]        # (N, D)
            sides += [hidden, models.head(m)]
            stats = kernels.token_stats(*sides[-2:], batch.target, 1.0, models.softcap(m), ("logp", "rank", "entropy"))
            columns |= {f"{what}_{name}": getattr(stats, what) for what in ("logp", "rank", "entropy")}
        columns["kl_forward"], columns["kl_reverse"] = kernels.token_kl(
            *sides, softcap_p=models.softcap(tuned), softcap_q=models.softcap(base))
        parts = [column.double().cpu().split([len(examples[i][1]) for i in group]) for column in columns.values()]
        results |= {i: dict(zip(columns, values)) for i, *values in zip(group, *parts)}
    return [results[i] for i in range(len(examples))]


@torch.no_grad()
def pooled_layers(model, tokenizer, texts, micro_batch_tokens=16384):
    """Mean hidden state of each text, padded on the left -> (with the pads in the mean, as UniReason's script has it, and
    without), each a list over layers of (K, H) float32."""
    encoded = [tokenizer.encode(text)[:TEXT_TOKENS] for text in texts]
    longest, device = max(map(len, encoded)), models.head(model).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(e)) + e for e in encoded], device=device)             # (K, T)
    mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in encoded], device=device)
    size, pools = max(1, micro_batch_tokens // longest), ([], [])
    model.set_attn_implementation("sdpa")            # our own attention knows no pads
    try:
        for part, real in zip(ids.split(size), mask.split(size)):
            layers = model.base_model(input_ids=part, attention_mask=real, use_cache=False,
                                      output_hidden_states=True).hidden_states
            for pool, counted in zip(pools, (torch.ones_like(real), real)):
                pool.append([((h.float() * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)).cpu() for h in layers])
    finally:
        model.set_attn_implementation("packed")
    return tuple([torch.cat(parts) for parts in zip(*pool)] for pool in pools)


def task_shifts(cfg, base, tuned, tokenizer, rows, cache):
    """{task: pca_shift, pca_shift_masked, points} on up to k_texts problems a task. cache: the base's states."""
    texts, shifts = defaultdict(set), {}
    for row in rows:
        texts[scope(row)[1]].add(f"{row['question']}  {row.get('answer') or ''}")
    for task, found in texts.items():
        chosen = tuple(random.Random(42).sample(sorted(found), min(cfg.k_texts, len(found))))
        if len(chosen) > 2:                          # two components need three points
            if chosen not in cache:
                cache[chosen] = pooled_layers(base, tokenizer, chosen, cfg.micro_batch_tokens)
            padded, masked = zip(cache[chosen], pooled_layers(tuned, tokenizer, chosen, cfg.micro_batch_tokens))
            distance, points = pca_shift(*padded)
            shifts[task] = {"pca_shift": distance, "pca_shift_masked": pca_shift_masked(*masked)[0], "points": points.tolist()}
    return shifts


def load(path, cfg, base=None, tokenizer=None):
    """models.load; a tuned model must speak the base's vocabulary, else BadInput names the difference."""
    model, own = models.load(path, cfg.device, torch.bfloat16 if cfg.dtype == "bf16" else torch.float32)
    theirs, ours = own.get_vocab(), (tokenizer or own).get_vocab()
    if token := min((t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t)), default=None):
        raise BadInput(f"--tuned {path}: its tokenizer is not that of --base {cfg.base}, {token!r} has another id")
    if len(models.head(model)) != len(models.head(base or model)):
        raise BadInput(f"--tuned {path}: the size of its head is not that of --base {cfg.base}; KL needs one vocabulary")
    return model, own


def completions_of(path, files, cfg):
    """What the model at `path` wrote, without forcing if there is such -> (rows, rows skipped, their format)."""
    mine = [f for f in files if f.of(path)] or files[:len(files) == 1]
    mine = [f for f in mine if f.forcing() == "no forcing"] or mine
    if mine and not mine[0].of(path):
        print(f"warning: --data {mine[0].name}: its header does not say that {path} wrote it; taken for that all the same")
    form = cfg.format or next((f.settings.get("format") for f in mine), None)
    if form not in FORMATS:
        raise BadInput(f"--tuned {path}: no file of --data " + (
            "names its format in its header; give --format" if mine else "says in its header that this model wrote it"))
    rows = [row for f in mine for row in f.rows]
    kept = [row for row in rows if row.get("ids") and row.get("question") is not None]
    print(f"{path}: {len(kept)} completions, {len(rows) - len(kept)} without token ids or question skipped")
    if not kept:
        raise BadInput(f"--tuned {path}: none of its completions has a question and token ids (field 'ids')")
    return kept, len(rows) - len(kept), FORMATS[form]


def analyse(cfg, base, tuned, tokenizer, rows, form, cache):
    """(entry of metrics.json, {task: layers' places in the PCA figure}) of one tuned model."""
    n_seen, responses, n_vocabulary = defaultdict(itertools.count), [], len(models.head(tuned))
    measured = [row for row in rows if next(n_seen[scope(row)]) < cfg.max_responses]
    if foreign := [row["id"] for row in measured if min(row["ids"]) < 0 or max(row["ids"]) >= n_vocabulary]:
        raise BadInput(f"--data: row '{foreign[0]}' has token ids outside the vocabulary of {n_vocabulary}")
    examples = [(form.prompt_ids(tokenizer, row["question"]), row["ids"]) for row in measured]
    for row, values in zip(measured, measure(base, tuned, examples, cfg.micro_batch_tokens)):
        injected, (group, task) = set(row.get("injected") or ()), scope(row)
        if own := [i for i in range(cfg.skip_first, len(row["ids"])) if i not in injected]:
            responses.append({name: value[own] for name, value in values.items()}
                             | {"ids": [row["ids"][i] for i in own], "group": group, "task": task})
    shifts = task_shifts(cfg, base, tuned, tokenizer, rows, cache)
    entry = {part: {name: summarise([r for r in responses if r[field] == name], shifts)
                    for name in dict.fromkeys(r[field] for r in responses)}
             for part, field in (("tasks", "task"), ("groups", "group"))}
    words = [{"token": piece(tokenizer, t["id"]).strip() or repr(piece(tokenizer, t["id"]))} | t
             for t in most_shifted(responses)]
    return (entry | {"all": summarise(responses, shifts), "most_shifted": words},
            {task: shift["points"] for task, shift in shifts.items()})


def piece(tokenizer, *ids):
    """Text of the last of one or two tokens, with the space that the tokenizer puts between them."""
    exact = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return tokenizer.decode(ids, **exact)[len(tokenizer.decode(ids[:-1], **exact)):]


def choose_pairs(one, other):
    """Problems that two models answered -> [(row, row)]: two of the first group, one of each other; differing grades first."""
    others, groups = {key(row): row for row in other}, defaultdict(dict)
    for row in one:
        if key(row) in others and right(row) is not None:
            groups[scope(row)[0]].setdefault((right(row), right(others[key(row)])), (row, others[key(row)]))
    order = ((False, True), (True, False), (True, True), (False, False))
    return [pair for i, by in enumerate(groups.values()) for pair in [by[o] for o in order if o in by][:1 + (i == 0)]]


def choose_waits(runs, model, n=3):
    """Completions with a forced Wait -> [(run, row)]: n whose answer it mended and one whose answer it spoilt."""
    found, mine = {True: [], False: []}, [r for r in runs if r.of(model)]    # by whether the answer is right in the end
    for forced in sorted(mine, key=lambda r: r.settings.get("waits") or 0):
        before = {key(row): right(row) for r in mine if r.seed == forced.seed and r.forcing() == "no forcing" for row in r.rows}
        for row in forced.rows:
            if row.get("n_waits") and row.get("ids") and {now := right(row), before.get(key(row))} == {True, False}:
                found[now].append((forced, row))
    return found[True][:n] + found[False][-1:]


@torch.no_grad()
def transcript(base, tuned, tokenizer, row, form, title):
    """What the viewer shows of a completion: at most VIEWED_TOKENS tokens, each as the page's script takes it apart."""
    prompt, ids = form.prompt_ids(tokenizer, row["question"]), row["ids"][:VIEWED_TOKENS]
    values, injected = measure(base, tuned, [(prompt, ids)])[0], set(row.get("injected") or ())
    batch = models.pack([prompt + ids], [[False] * len(prompt) + [True] * len(ids)], models.head(base).device)
    hidden = models.hidden_states(base, batch.ids, batch.positions, models.Packed(batch.lengths, batch.ids.device))
    tokens, columns = [], [values[name].tolist() for name in ("kl_forward", "rank_base", "rank_tuned", "entropy_tuned")]
    for i, (at, kl, rank_base, rank_tuned, entropy) in enumerate(zip(batch.where.tolist(), *columns)):
        top = models.next_token_logits(base, hidden[at:at + 1])[0].softmax(0).topk(3)
        likely = [[piece(tokenizer, t), round(p, 3)] for p, t in zip(top.values.tolist(), top.indices.tolist())]
        tokens.append([piece(tokenizer, *ids[max(0, i - 1):i + 1]), round(kl, 4), int(rank_base), int(rank_tuned),
                       round(entropy, 4), int(i in injected), likely])
    return {"title": title, "question": str(row["question"]), "answer": str(row.get("answer", "not given")),
            "said": str(evaluate.answer_of(row) or "nothing"), "right": right(row), "tokens": tokens}


def describe(cfg, tuned, runs):
    """What can be said before a model is loaded: training settings, accuracy, transferability. tuned: {name: path}.

    Returns the study, what the report speaks about; the keys of its dicts are names of models.
    """
    study = SimpleNamespace(base=Path(cfg.base).name, base_path=cfg.base, tuned=tuned, runs=runs, training={}, kinds={}, accuracy={},
                            transfer={}, results={}, points={})
    colours = dict(zip(dict.fromkeys(Path(name).name for name in tuned), itertools.cycle(COLOURS)))
    study.colours = {study.base: BASE_COLOUR} | {name: colours[Path(name).name] for name in tuned}
    for name, path in {study.base: cfg.base, **tuned}.items():
        if free := [r for r in runs if r.of(path) and r.forcing() == "no forcing"]:
            summary = pooled(free, name if name in {r.name for r in free} else free[0].name)
            study.accuracy[name] = {g: s for g, s in summary["groups"].items() if s["n_questions"]}
    scores = {name: {g: {task: t["accuracy"] for task, t in s["tasks"].items() if t["n_questions"]}
                     for g, s in by_group.items()} for name, by_group in study.accuracy.items()}
    for name, path in tuned.items():
        settings = read_json(f"{path}/training.json") if Path(path, "training.json").is_file() else {}
        study.training[name] = settings
        study.kinds[name] = "RL" if "reward" in settings else "SFT" if "train_on" in settings else "tuned"
        if settings.get("identity", {}).get("contents of --model") not in (None, run.fingerprint(cfg.base)):
            print(f"warning: {path} was not trained from {cfg.base} as it is now (training.json)")
        before, after = scores.get(study.base, {}), scores.get(name, {})
        if "math" in before and all(set(before[g]) == set(after.get(g, ())) for g in before):
            study.transfer[name] = {}
            for version in ("v1", "v2"):
                index = evaluate.transferability(before, after, version=version)
                study.transfer[name][version] = {g: None if math.isnan(ti) else ti for g, ti in index.items()}
    first = {kind: name for name, kind in [*study.kinds.items()][::-1]}
    study.pair = [first["SFT"], first["RL"]] if {"SFT", "RL"} <= set(first) else [*tuned][:2]
    # Of models trained with several seeds ("seed1/grpo") the figures show the first; the table has mean and deviation.
    study.shown = study.pair if any("/" in name for name in tuned) else [*tuned]
    return study


def compare(cfg, study, files):
    """Load the base and one tuned model after the other, fill in the study -> transcripts, [heading, side by side]."""
    written, cache = {name: completions_of(path, files, cfg) for name, path in study.tuned.items()}, {}
    pairs = choose_pairs(*(written[name][0] for name in (study.pair * 2)[:2]))
    viewed = [[" / ".join(dict.fromkeys(scope(row))), []] for row, _ in pairs]
    base, tokenizer = load(cfg.base, cfg)
    for name, path in study.tuned.items():
        model, _ = load(path, cfg, base, tokenizer)
        rows, n_skipped, form = written[name]
        entry, study.points[name] = analyse(cfg, base, model, tokenizer, rows, form, cache)
        study.results[name] = entry | {"skipped_rows": n_skipped}
        if name in study.pair:
            for (_, beside), pair in zip(viewed, pairs):
                row = pair[study.pair.index(name)]
                beside.append(transcript(base, model, tokenizer, row, form, f"{name} ({study.kinds[name]})"))
        for r, row in choose_waits(study.runs, path) if name in study.shown else ():
            was = "wrong" if right(row) else "right"
            heading = f"{' / '.join(dict.fromkeys(scope(row)))}, {r.forcing()}: {was} without it"
            viewed.append([heading, [transcript(base, model, tokenizer, row, form, r.name)]])
    groups = [g for r in study.results.values() for g in r["groups"]]
    study.group = "math" if "math" in groups else groups[0]              # what training was for
    study.curves = forced_points(study.runs, study.group)
    return viewed


def main(cfg):
    """Analyse, write everything into --out, print the tables; returns what metrics.json holds."""
    if not cfg.tuned or not cfg.data:
        raise BadInput("--tuned and --data are needed: which models, and what they wrote")
    files, runs, names = read_runs(cfg.data), read_runs(cfg.runs), [Path(path).name for path in cfg.tuned]
    claims = [settle(claim, runs, cfg.claims) for claim in (read_json(cfg.claims) if cfg.claims else ())]
    tuned = {n if names.count(n) == 1 else f"{Path(path).parent.name}/{n}": path for n, path in zip(names, cfg.tuned)}
    study = describe(cfg, tuned, runs)
    viewed = compare(cfg, study, files)

    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    metrics = study.results | {"claims": claims, "transferability": study.transfer, "runs": {}}
    for name in dict.fromkeys(r.name for r in runs):
        summary = metrics["runs"][name] = pooled(runs, name) | {"seeds": [r.seed for r in runs if r.name == name]}
        for of_group in summary["groups"].values():
            del of_group["questions"]                                    # evaluate.py --out has them
    run.save_config(cfg, out / "analysis.config.json")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    flags = [f"--{k.replace('_', '-')} {' '.join(v) if isinstance(v, tuple) else '' if v is True else v}".strip()
             for k, v in asdict(cfg).items() if v != getattr(Config, k, None)]
    rows = [["", "claim", "where", "verdict"]] if claims else []
    rows += [[c["id"], c["text"], f"{c['group']}: {c['from']} → {c['to']}", c["verdict"]] for c in claims]
    text = page(study, rows, viewed, draw(study, out), f"python analyze.py {' '.join(flags)}")
    (out / "report.html").write_text(text, encoding="utf-8")
    for title, lines in (("claims", rows), ("SFT against RL", [*zip(*model_table(study))])):
        if lines:
            widths = [max(map(len, column)) for column in zip(*lines)]
            print(f"\n{title}", *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines), sep="\n")
    print(f"\n{out / 'report.html'}: {len(text) / 1e6:.1f} MB")
    return metrics


if __name__ == "__main__":
    run.cli(main, Config)
