"""analyze.py: the published vectors, brute force in float64, claims by hand, hostile text, the whole script, a browser."""
import json
import math
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch

import analyze
import model as models
from analyze import (Config, choose_pairs, choose_waits, kl_estimator, main, measure, most_shifted, pca_shift,
                     pca_shift_masked, pooled_layers, rank_shifts, summarise)
from data import run, tiny
from data.format import FORMATS
from data.rows import BadInput, read_rows, write_rows
from report import Run, judge, paired, read_runs, settle

HOSTILE = "</script><img src=x onerror=1>"


def make_model(path, seed, words=(), n_vocabulary=None):
    """A random Qwen2 of width 32 over the tiny world's vocabulary, saved to path."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(list(words))
    torch.manual_seed(seed)
    config = Qwen2Config(vocab_size=n_vocabulary or len(tokenizer), hidden_size=32, intermediate_size=48,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():                                # logits of a useful size: KL far above rounding
        model.lm_head.weight.mul_(20)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models base, tuned (training.json says SFT) and other (says RL), with a hostile word in their vocabulary."""
    path = tmp_path_factory.mktemp("analyze")
    for seed, name in enumerate(("base", "tuned", "other")):
        make_model(path / name, seed, [HOSTILE])
    (path / "tuned" / "training.json").write_text(json.dumps({"train_on": "completion", "lr": 1e-3, "n_steps": 7}))
    (path / "other" / "training.json").write_text(json.dumps({"reward": "correct", "lr": 5e-4, "n_steps": 3}))
    return path


def examples(n=5):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randint(7, 140, (3 + i,), generator=generator).tolist(),
             torch.randint(7, 140, (2 * i + 1,), generator=generator).tolist()) for i in range(n)]


# ---- published vectors

def test_kl_estimator():
    """T26: log-ratios (ln 2, 0, ln 2) and (ln 2, 0): means 0.462098, 0.346574; their mean, not that of all tokens."""
    p, q = ([[math.log(x) for x in row] for row in rows] for rows in (
        [[0.9, 0.5, 0.8], [0.6, 0.7]], [[0.45, 0.5, 0.4], [0.3, 0.7]]))
    assert kl_estimator(p, q) == pytest.approx(0.404336, abs=1e-6)
    assert kl_estimator(q, p) == pytest.approx(0.404336, abs=1e-6)                       # abs hides the direction
    assert kl_estimator([[-1e4]], [[-1e4]]) == 0                                         # 1e-10 keeps it finite


def test_rank_shifts():
    """T27: shifts 0, 0, 2, 9, 0."""
    assert rank_shifts([1, 1, 3, 10, 1], [1] * 5) == (pytest.approx(2.2), 2)


def test_pca_shift():
    """T28: dPC 0.5, 1.75 in layer 0 (4 along z is invisible), 1, -2 in layer 1."""
    base = [torch.tensor([[1., 2, 3]]) + torch.tensor([[2., 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]]),
            torch.tensor([[0., 3, 0], [0, -3, 0], [0, 0, 1], [0, 0, -1]])]
    tuned = [base[0] + torch.tensor([.5, -.25, 4]), base[1] + torch.tensor([7., 1, -2])]
    distance, points = pca_shift(base, tuned)
    assert distance == pytest.approx(1.352082, abs=1e-5)
    torch.testing.assert_close(points, torch.tensor([[[0, 2], [.5, 1.75]], [[0, 0], [1, -2]]], dtype=torch.float64))
    assert pca_shift_masked(base, tuned)[0] == pytest.approx((math.hypot(.5, .25) + math.hypot(1, 2)) / 2)
    assert pca_shift(base, base)[0] == pca_shift_masked(base, base)[0] == 0


def test_pca_shift_cancels_and_its_repair_does_not():
    """Two layers that move in opposite directions: the published distance is 0."""
    base = [torch.tensor([[2., 0], [-2, 0], [0, 1], [0, -1]])] * 2
    tuned = [base[0] + torch.tensor([1., 0]), base[1] - torch.tensor([1., 0])]
    assert pca_shift(base, tuned)[0] == pytest.approx(0, abs=1e-12)
    assert pca_shift_masked(base, tuned)[0] == pytest.approx(1)


# ---- models

def test_measure_against_float64(place):
    """KL in both directions, log-probability, rank and entropy against log_softmax of whole logits in float64."""
    base, tuned = (models.load(place / name)[0] for name in ("base", "tuned"))
    found = measure(base, tuned, examples(), micro_batch_tokens=20)
    plain = {name: models.load(place / name)[0].double() for name in ("base", "tuned")}
    for model in plain.values():
        model.set_attn_implementation("sdpa")
    for (prompt, ids), values in zip(examples(), found, strict=True):
        logs = {}
        for name, model in plain.items():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1:-1]
            logs[name] = logits.log_softmax(1).detach()
            chosen = logs[name].gather(1, torch.tensor(ids)[:, None])
            assert values[f"rank_{name}"].tolist() == (1 + (logs[name] > chosen).sum(1)).tolist()
            torch.testing.assert_close(values[f"logp_{name}"], chosen[:, 0], atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(values[f"entropy_{name}"], -(logs[name].exp() * logs[name]).sum(1), atol=2e-5,
                                       rtol=1e-5)
        for kl, p, q in (("kl_forward", "tuned", "base"), ("kl_reverse", "base", "tuned")):
            true = (logs[p].exp() * (logs[p] - logs[q])).sum(1)
            assert true.min() > 0.01                                                     # signal ≫ tolerance
            torch.testing.assert_close(values[kl], true, atol=2e-5, rtol=1e-5)


def test_measure_for_any_batch(place):
    """The micro-batch changes nothing but rounding, and the order of the answers is that of the questions."""
    base, tuned = (models.load(place / name)[0] for name in ("base", "tuned"))
    small, large = (measure(base, tuned, examples(), size) for size in (1, 10_000))
    for (_, ids), a, b in zip(examples(), small, large, strict=True):
        assert all(len(value) == len(ids) for value in a.values())
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)


def test_a_model_against_itself(place):
    """Exactly no KL and no shift."""
    model = models.load(place / "base")[0]
    for values in measure(model, model, examples()):
        assert not values["kl_forward"].any() and not values["kl_reverse"].any()
        assert torch.equal(values["rank_base"], values["rank_tuned"])


def test_pooled_layers(place):
    """Without pads: the mean of the packed states. With pads: something else, unless no text is padded."""
    model, tokenizer = models.load(place / "base")
    texts = ["make 20 from 7 5 8", "copy n q", "sort 15 2 21  2 15 21"]
    padded, masked = pooled_layers(model, tokenizer, texts)
    small = pooled_layers(model, tokenizer, texts, micro_batch_tokens=1)
    for i, text in enumerate(texts):
        batch = models.pack([tokenizer.encode(text)])
        states = models.hidden_states(model, batch.ids, batch.positions, models.Packed(batch.lengths, "cpu"), all_layers=True)
        for layer, state in enumerate(states):
            torch.testing.assert_close(masked[layer][i], state.mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(small[0][layer][i], padded[layer][i], atol=1e-5, rtol=1e-4)
    assert len(padded) == len(masked) == 3 and padded[0].shape == (3, 32)
    assert (padded[0][1] - masked[0][1]).abs().max() > 1e-3
    torch.testing.assert_close(padded[1][2], masked[1][2])                               # the longest has no pad
    assert model.config._attn_implementation == "packed"


def test_summary_by_hand():
    """Two responses of 3 and 1 tokens: macro (2 + 6) / 2, micro (1 + 2 + 3 + 6) / 4; tasks weigh the same in rank shift."""
    def response(task, kl, base, tuned):
        kl, ones = torch.tensor(kl, dtype=torch.float64), torch.zeros(len(kl))
        return {"task": task, "ids": [5] * len(kl), "kl_forward": kl, "kl_reverse": kl, "logp_base": ones, "logp_tuned": ones,
                "rank_base": torch.tensor(base), "rank_tuned": torch.tensor(tuned)}

    both = [response("a", [1, 2, 3], [1, 4, 1], [1, 1, 1]), response("b", [6], [1], [3])]
    found = summarise(both, {"a": {"pca_shift": 2.0, "pca_shift_masked": 3.0}})
    half = 1.959964 * math.sqrt(8) / math.sqrt(2)
    assert found["kl_forward"] == pytest.approx({"macro": 4, "micro": 3, "low": 4 - half, "high": 4 + half})
    assert found["rank_shift_mean"] == pytest.approx((1 - 2) / 2)
    assert [found[k] for k in ("shifted_tokens", "shifted_share", "shifted_per_response", "n_responses", "n_tokens")] \
        == [2, 0.5, 1.0, 2, 4]
    assert found["pca_shift"] == 2 and found["pca_shift_masked"] == 3
    alone = summarise(both[1:], {})
    assert alone["kl_forward"]["low"] is None and alone["pca_shift"] is None
    assert most_shifted(both) == [{"id": 5, "count": 2, "mean_shift": 0.5, "sum": 5.0}]


def test_other_tokenizers_are_refused(place, tmp_path):
    """By name, for another vocabulary and for a head of another size."""
    write_rows(tmp_path / "data.jsonl", completions("tuned"))
    (tmp_path / "data.config.json").write_text(json.dumps({"model": str(tmp_path / "stranger"), "format": "think"}))

    def refused(words, size=None):
        make_model(tmp_path / "stranger", 5, words, size)
        with pytest.raises(BadInput) as caught:
            main(Config(base=str(place / "base"), tuned=(str(tmp_path / "stranger"),), data=(str(tmp_path / "data.jsonl"),),
                        out=str(tmp_path / "out")))
        return str(caught.value)

    message = refused(["other"])
    assert "stranger: its tokenizer is not that of --base" in message and "base" in message and "\n" not in message
    assert "head" in refused([HOSTILE], 200)


# ---- claims

@pytest.mark.parametrize("low, high, expect, holds, words", [
    (1, 9, "higher", True, "yes"), (-9, -1, "lower", True, "yes"), (-9, -1, "higher", False, "reversed"),
    (1, 9, "lower", False, "reversed"), (-1, 9, "higher", None, "not significant"), (0, 9, "higher", None, "not significant"),
    (-4, 4.9, "same", True, "yes, unchanged within 5 points"), (1, 4, "same", True, "yes, unchanged within 5 points"),
    (1, 9, "same", False, "no, higher"), (-9, -1, "same", False, "no, lower"),
    (-6, 3, "same", None, "undecided, the interval leaves ±5"), (0, 0, "same", True, "yes, unchanged within 5 points"),
])
def test_judge(low, high, expect, holds, words):
    assert judge(low, high, expect) == (holds, words)


def test_paired_by_hand():
    """Questions pair by id; of two seeds each question counts once with its mean; what only one side has is left out."""
    before = {"0": {"a": 0.0, "b": 1.0, "c": 0.0}, "1": {"a": 0.0, "b": 0.0}, "7": {"a": 1.0}}
    after = {"0": {"a": 1.0, "b": 1.0, "d": 1.0}, "1": {"a": 1.0, "b": 1.0}}
    found = paired(before, after)
    assert found["difference"] == pytest.approx(75) and found["n"] == 2 and found["seeds"] == ["0", "1"]     # a: 1, b: 1/2
    assert found["per_seed"] == pytest.approx({"0": 50, "1": 100})
    assert (found["low"], found["high"]) == pytest.approx((50, 100))
    assert paired({"0": {"a": 1.0}}, {"0": {"b": 1.0}}) is None and paired({}, {"0": {"b": 1.0}}) is None
    assert paired({"0": {"a": 0.0}}, {"1": {"a": 1.0}})["difference"] == 100             # no seed in common: pooled


def graded(name, answers, seed="0", group="math", **settings):
    rows = [{"id": str(i), "question": "q", "answer": "1", "response": a, "group": group} for i, a in enumerate(answers)]
    return Run(name, seed, settings, rows)


def test_claims_by_hand():
    """20 questions, 10 turn right: +50 points; groups are kept apart; an unknown run is named."""
    runs = [graded("a", "0" * 20), graded("b", "0" * 10 + "1" * 10), graded("a", "0" * 20, "1"),
            graded("b", "0" * 5 + "1" * 15, "1"), graded("p", "1" * 4, group="plain")]
    claim = {"id": "A", "text": "t", "group": "math", "from": "a", "to": "b", "expect": "higher"}
    found = settle(claim, runs[:2], "f")
    assert found["holds"] is True and found["n"] == 20
    assert re.fullmatch(r"yes: 0\.0 → 50\.0, \+50\.0 \[\d+\.\d, \d+\.\d\], n=20, seeds 0", found["verdict"])
    assert settle(claim | {"expect": "lower"}, runs, "f")["verdict"].startswith("reversed: 0.0 → 62.5, +62.5 [")
    assert settle(claim, runs, "f")["verdict"].endswith("n=20, seeds 0 (+50.0), 1 (+75.0)")
    assert settle(claim | {"to": "a", "expect": "same"}, runs, "f")["verdict"].startswith("yes, unchanged within 5 points: 0.0 → 0.0, +0.0")
    for wrong, word in (({"to": "zz"}, "zz"), ({"to": "p"}, "in common"), ({"expect": "more"}, "higher, lower or same")):
        with pytest.raises(BadInput, match=word):
            settle(claim | wrong, runs, "f")


# ---- completions

def test_runs_and_their_seeds(tmp_path):
    """A directory is a replicate, named by the number after "seed" where that tells them apart."""
    for place in ("seed3/runs", "seed12/runs", "a/x", "b/x"):
        write_rows(tmp_path / place / "r.jsonl", [{"id": "1"}])
    named = read_runs([str(tmp_path / "seed3/runs"), str(tmp_path / "seed12/runs/r.jsonl")])
    assert [(r.name, r.seed) for r in named] == [("r", "3"), ("r", "12")]
    assert [r.seed for r in read_runs([str(tmp_path / "a/x"), str(tmp_path / "b/x")])] == ["0", "1"]
    words = [Run("", "", settings, []).forcing() for settings in (
        {}, {"thinking_budget": 0, "waits": 0}, {"thinking_budget": None, "waits": 2}, {"thinking_budget": 9, "waits": 1})]
    assert words == ["no forcing", "budget 0", "Wait ×2", "budget 9, Wait ×1"]


def test_what_is_shown():
    """Pairs: of the first group two, differing grades first. Waits: mended answers, and one spoilt."""
    pairs = choose_pairs(graded("a", "0101").rows, graded("b", "1011").rows)
    assert [(a["response"], b["response"]) for a, b in pairs] == [("0", "1"), ("1", "0")]
    forced = graded("w", "1100", model="m", waits=1)
    for row in forced.rows:
        row |= {"n_waits": 1, "ids": [1]}
    shown = choose_waits([graded("a", "0011", model="m"), forced], "m")
    assert [(row["id"], row["response"]) for _, row in shown] == [("0", "1"), ("1", "1"), ("3", "0")]


def completions(name, forced=0):
    """Rows as generate.py writes them, of three math, two other and three plain questions; the last math one is hostile."""
    tokenizer, rows = tiny.tokenizer(), []
    tokenizer.add_tokens([HOSTILE])
    for number, (group, task, question, answer) in enumerate([
            ("math", "pair", "pair sum 9 from 4 5", "4 + 5"), ("math", "pair", "pair sum 7 from 4 3", "4 + 3"),
            ("math", "pair", f"pair sum 8 from 4 4 {HOSTILE}", "4 + 4"), ("math", "pair", "pair sum 3 from 1 2", "1 + 2"),
            ("other", "sort", "sort 3 1", "1 3"), ("other", "sort", "sort 9 4", "4 9"), ("other", "sort", "sort 5 2", "2 5"),
            ("plain", "copy", "copy a b", "a b"), ("plain", "copy", "copy b c", "b c"), ("plain", "copy", "copy c", "c")]):
        said = answer if name == "tuned" and number % 2 or forced else "a"
        thinking = f"try {HOSTILE} 4 + 5 = 9" + " wait yes" * forced
        text = f"{thinking} </think> {said}"
        ids = tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]
        wait = [i for i, token in enumerate(ids) if token == tokenizer.encode("wait")[0]]
        rows.append({"id": str(number), "group": group, "task": task, "question": question, "answer": answer, "sample": 0,
                     "text": text, "thinking": thinking, "response": said, "ids": ids, "injected": wait,
                     "n_thinking_tokens": len(ids) - 3, "n_tokens": len(ids), "finish": "stop", "n_waits": forced,
                     "forced": False})
    return rows


@pytest.fixture(scope="module")
def analysed(place):
    """main() on three models and six runs -> (its result, the output directory)."""
    for name, model, waits in (("base", "base", 0), ("tuned", "tuned", 0), ("other", "other", 0), ("tuned-wait1", "tuned", 1),
                               ("tuned-wait2", "tuned", 2)):
        rows = completions(name, waits)
        write_rows(place / "runs" / f"{name}.jsonl", rows + ([rows[0] | {"id": "empty", "ids": []}] if name == "other" else []))
        (place / "runs" / f"{name}.config.json").write_text(json.dumps(
            {"model": str(place / model), "format": "think", "waits": waits, "thinking_budget": None, "temperature": 0.7}))
    claims = [{"id": "A", "text": f"hostile {HOSTILE}", "group": "all", "from": "base", "to": "tuned-wait1", "expect": "higher"}]
    (place / "claims.json").write_text(json.dumps(claims))
    cfg = Config(base=str(place / "base"), tuned=(str(place / "tuned"), str(place / "other")), out=str(place / "out"),
                 data=(str(place / "runs" / "tuned.jsonl"), str(place / "runs" / "other.jsonl")),
                 runs=(str(place / "runs"),), claims=str(place / "claims.json"))
    return main(cfg), place / "out"


def test_main(analysed):
    """Everything is written, the numbers add up, and metrics.json is what main returned."""
    metrics, out = analysed
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    for name in ("budget", "accuracy", "kl", "rank_shift", "tokens", "pca"):
        assert (out / f"{name}.png").stat().st_size > 5000
    tuned = metrics["tuned"]
    assert set(tuned["groups"]) == {"math", "other", "plain"} and set(tuned["tasks"]) == {"pair", "sort", "copy"}
    assert tuned["all"]["n_tokens"] == sum(task["n_tokens"] for task in tuned["tasks"].values())
    assert tuned["all"]["kl_forward"]["macro"] > 0.01 and tuned["all"]["pca_shift"] > 0
    assert metrics["other"]["skipped_rows"] == 1 and metrics["other"]["all"]["n_responses"] == 10
    assert metrics["runs"]["tuned-wait1"]["all"]["accuracy"] == 100 and metrics["runs"]["base"]["all"]["accuracy"] == 0
    assert metrics["claims"][0]["holds"] is True and metrics["claims"][0]["difference"] == 100
    assert (out / "report.html").stat().st_size < 5e6


def test_injected_and_first_tokens_are_not_counted(place):
    """One "wait" each was injected: one token fewer; --skip-first: one more."""
    base, tokenizer = models.load(place / "base")
    tuned, rows = models.load(place / "tuned")[0], completions("tuned", 1)
    counts = [analyze.analyse(Config(base="", out="", skip_first=skip), base, tuned, tokenizer, rows, FORMATS["think"], {})[0]
              ["all"]["n_tokens"] for skip in (False, True)]
    assert counts == [sum(len(row["ids"]) - k for row in rows) for k in (1, 2)]


def test_whose_completions(place, capsys):
    """One file without header serves all models, with a warning; two are refused; without a format they all are."""
    rows = completions("tuned")
    plain, other = Run("x", "", {"format": "think"}, rows), Run("y", "", {"format": "think"}, rows)
    cfg = SimpleNamespace(format=None)
    assert len(analyze.completions_of("m", [plain], cfg)[0]) == 10 and "warning" in capsys.readouterr().out
    with pytest.raises(BadInput, match="says in its header that this model wrote it"):
        analyze.completions_of("m", [plain, other], cfg)
    with pytest.raises(BadInput, match="--format"):
        analyze.completions_of("m", [plain._replace(settings={})], cfg)
    forced = Run("z", "", {"format": "think", "model": "m", "waits": 1}, rows)
    free = Run("z", "", {"format": "think", "model": "m"}, rows[:3])
    assert len(analyze.completions_of("m", [forced, free], cfg)[0]) == 3                 # unforced ones if there are


def test_hostile_text_is_escaped(analysed):
    """A completion, a question and a claim that try to end the script or to load an image stay text."""
    page = (analysed[1] / "report.html").read_text()
    assert "<img" not in page and "onerror" in page and page.count("</script>") == 2
    data = json.loads(re.search(r"<script type=application/json id=data>(.*?)</script>", page, re.DOTALL)[1])
    assert any(HOSTILE in token[0] for tokens in data for token in tokens)
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\((?!#)", page)  # nothing is loaded from anywhere
    assert sum(token[5] for tokens in data for token in tokens) >= 3                     # injected tokens are marked


def test_report_in_a_browser(analysed, tmp_path):
    """Chromium runs the page's script: tokens become spans, injected ones are framed, no image is there."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium on this machine")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}", "--dump-dom",
         (analysed[1] / "report.html").as_uri()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert "<img" not in done.stdout and len(re.findall(r'class="injected"', done.stdout)) >= 3
    assert len(re.findall(r"<span[^>]*background: rgba", done.stdout)) > 50 and re.search(r'id="most">[\d.]', done.stdout)


def test_wrong_use_is_named(place, tmp_path):
    for cfg, word in ((Config(base="b", out="o"), "--tuned and --data"),
                      (Config(base="b", out="o", tuned=("t",), data=(str(tmp_path / "none.jsonl"),)), "none.jsonl")):
        with pytest.raises(BadInput, match=word):
            main(cfg)


def test_a_changed_base_is_noticed(place, analysed, capsys):
    """training.json knows what the model was trained from; another base now gives a warning."""
    settings = json.loads((place / "tuned" / "training.json").read_text())
    path = place / "tuned" / "training.json"
    for print_, warned in (("0" * 16, True), (run.fingerprint(place / "base"), False)):
        path.write_text(json.dumps(settings | {"identity": {"contents of --model": print_}}))
        main(Config(base=str(place / "base"), tuned=(str(place / "tuned"),), data=(str(place / "runs" / "tuned.jsonl"),),
                    out=str(place / "again")))
        assert ("was not trained from" in capsys.readouterr().out) is warned
    assert read_rows(place / "runs" / "tuned.jsonl") and not (place / "again" / "budget.png").exists()
    path.write_text(json.dumps(settings))
