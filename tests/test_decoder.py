"""decoder.py: the numbers that decide a token by hand, transformers' own decoder and a decoder without a cache as
oracles, budget forcing by script."""
import functools
import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen3Config)

import decoder
import generate
import model as models
from data import tiny
from data.format import FORMATS
from decoder import Request, Sampling, decode, keep_likely, random_key, sample, uniform

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data" / "tiny_base")
QWEN = ROOT.parent / "shared" / "data" / "tokenizers" / "qwen2.5"
TOKENIZER = tiny.tokenizer()                                  # 149 words; the models below have 157 logits
PAD, EOS, END = (TOKENIZER.convert_tokens_to_ids(t) for t in ("<pad>", "<eos>", "</think>"))
THINK = FORMATS["think"]

SHAPES = {                                                    # all sizes differ, heads share key-value heads
    "qwen2": Qwen2Config(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, num_key_value_heads=2),
    "qwen3": Qwen3Config(num_hidden_layers=1, hidden_size=30, num_attention_heads=6, num_key_value_heads=2,
                         head_dim=14),
    "llama": LlamaConfig(num_hidden_layers=2, hidden_size=36, num_attention_heads=6, num_key_value_heads=3),
}


@functools.cache
def twins(kind, end_bias=0.0, dtype=torch.float64):
    """One random model twice: with transformers' sdpa attention and with ours.

    Weights are large, so that texts differ; logits 149..156, which the tokenizer does not know, are the largest of all.
    Double precision leaves no token to the rounding of a sum. The embeddings share a constant that the head reads, so
    that <eos> is likely everywhere, and </think> by end_bias.
    """
    config = SHAPES[kind]
    config.update({"vocab_size": 157, "intermediate_size": 40, "max_position_embeddings": 128, "pad_token_id": PAD,
                   "initializer_range": 0.35, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": EOS})
    torch.manual_seed(7)
    theirs = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
    with torch.no_grad():
        head = theirs.get_output_embeddings().weight
        head[149:] *= 3
        theirs.get_input_embeddings().weight[:, 0] = 1.5
        head[EOS, 0] += {"qwen2": 4, "qwen3": 8, "llama": 4}[kind]
        head[END, 0] += end_bias
    ours = AutoModelForCausalLM.from_config(type(config)(**config.to_dict()), attn_implementation="packed",
                                            dtype=dtype).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def prompts_of(lengths, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(7, 149) for _ in range(n)] for n in lengths]


def settings(max_tokens=40, temperature=0.0, waits=0, thinking_budget=None, min_thinking=0, steps=0, wait="wait",
             **more):
    """What requests of a test share, and the Sampling they are decoded with."""
    return SimpleNamespace(max_tokens=max_tokens, temperature=temperature, waits=waits, wait=wait, steps=steps,
                           thinking_budget=thinking_budget, min_thinking=min_thinking,
                           sampling=Sampling(temperature, wait=wait, **more))


def completions(model, requests, cfg, slots=4, tokenizer=TOKENIZER, form=THINK):
    """Completions in the order of the requests; each comes exactly once."""
    requests = [r._replace(waits=cfg.waits, budget=cfg.thinking_budget, min_thinking=cfg.min_thinking, steps=cfg.steps)
                for r in requests]
    found = list(decode(model, tokenizer, form, requests, cfg.sampling, slots))
    assert sorted(i for i, _ in found) == list(range(len(requests)))
    return [c for _, c in sorted(found, key=lambda pair: pair[0])]


# ---- Random numbers ---------------------------------------------------------------------------------------------

MASK = 2**64 - 1


def mix(x):
    """SplitMix64's finaliser (Steele, Lea, Flood 2014) on Python's unbounded integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def test_uniform_is_splitmix64():
    """The published first outputs for seed 1234567 check the Python twin; the twin checks the tensor code, whose
    constants are the same numbers minus 2^64 and whose shifts are of signed integers."""
    assert [mix(1234567 + k * 0x9E3779B97F4A7C15 & MASK) for k in (1, 2, 3)] == \
        [6457827717110365317, 3203168211198807973, 9817491932198370423]
    rng = random.Random(3)
    keys = [0, 1, 2**63 - 1, 2**62] + [rng.getrandbits(63) for _ in range(60)]
    counters = [0, 1, 32767, 2**31] + [rng.randrange(40000) for _ in range(60)]
    expected = [(mix(mix(k) + (c + 1) * 0x9E3779B97F4A7C15 & MASK) >> 11) / 2**53 for k, c in zip(keys, counters)]
    assert uniform(torch.tensor(keys), torch.tensor(counters)).tolist() == expected


def test_uniform_is_uniform():
    """1e5 draws over 100 neighbouring keys and 1000 neighbouring counters. Mean 1/2 ± 5·(1/√12)/√1e5 = 0.0046,
    variance 1/12 ± 5·√(1/180)/√1e5 = 0.0012, χ² of 64 bins has mean 63 and deviation √126: at most 63 + 5·11.2 = 119.
    The correlation of neighbours in either direction has deviation 1/√1e5: at most 0.016."""
    key, counter = torch.arange(100).repeat_interleave(1000), torch.arange(1000).repeat(100)
    u = uniform(key, counter)
    assert 0 <= u.min() and u.max() < 1 and u.dtype == torch.float64
    assert abs(u.mean() - 0.5) < 0.0046 and abs(u.var() - 1 / 12) < 0.0012
    assert ((torch.histc(u, 64, 0, 1) - 1562.5)**2 / 1562.5).sum() < 119
    grid = u.view(100, 1000) - 0.5
    for a, b in ((grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1])):
        assert abs((a * b).mean() * 12) < 0.016


def test_uniform_depends_on_nothing_but_key_and_counter():
    key, counter = torch.arange(50) * 977, torch.arange(50) % 11
    u, order = uniform(key, counter), torch.randperm(50)
    assert torch.equal(uniform(key[order], counter[order]), u[order])
    assert torch.equal(uniform(key[17:18], counter[17:18]), u[17:18])


def test_random_key_names_the_sample():
    """Seed, id and sample number each change the key; it fits a positive int64. ("a", 11) is not ("a1", 1)."""
    names = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 11), (0, "a1", 1), (0, "a", "1")]
    keys = [random_key(*name) for name in names]
    assert len(set(keys)) == len(names) and all(0 <= k < 2**63 for k in keys)
    assert random_key(*names[0]) == keys[0]


# ---- Choosing a token -------------------------------------------------------------------------------------------

def draw(monkeypatch, probabilities, us, **more):
    """Tokens that sample() takes for given uniform numbers."""
    monkeypatch.setattr(decoder, "uniform", lambda key, counter: torch.tensor(us, dtype=torch.float64))
    logits = torch.tensor([probabilities]).log().expand(len(us), -1)
    return sample(logits, None, None, **more)


def test_sample_inverts_the_cumulative_distribution(monkeypatch):
    """p = [.5, 0, .25, .25]: cumulative .5, .5, .75, 1. u below .5 is token 0, below .75 token 2, else 3; token 1,
    which has probability 0, never, not even at the smallest and the largest possible u."""
    us = [0.0, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2**-53]
    token, logp = draw(monkeypatch, [.5, 0., .25, .25], us)
    assert token.tolist() == [0, 0, 2, 2, 3, 3]
    assert logp.tolist() == pytest.approx([math.log(.5)] * 2 + [math.log(.25)] * 4, abs=1e-6)
    token, _ = draw(monkeypatch, [0., .3, .7, 0., 0.], [0.0, 1 - 2**-53])
    assert token.tolist() == [1, 2]


def test_sample_frequencies():
    """60,000 draws from 7 tokens of probability 1/28 .. 7/28: each count within 5 standard deviations of N·p."""
    n, p = 60000, torch.arange(1, 8) / 28
    token, _ = sample(p.log().expand(n, -1), torch.arange(n), torch.full((n,), 5))
    counts = torch.bincount(token, minlength=7)
    assert (abs(counts - n * p) < 5 * (n * p * (1 - p)).sqrt()).all()


def test_temperature(monkeypatch):
    """p = [1/5, 4/5] at T = 1/2 is ∝ p²: [1/17, 16/17]; at T = 2 ∝ √p: [1/3, 2/3]. logp belongs to that
    distribution."""
    for temperature, first in ((0.5, 1 / 17), (2.0, 1 / 3)):
        token, logp = draw(monkeypatch, [.2, .8], [first - 1e-4, first + 1e-4], temperature=temperature)
        assert token.tolist() == [0, 1]
        assert logp.tolist() == pytest.approx([math.log(first), math.log(1 - first)], abs=1e-5)


def test_top_p_counts_probability_at_the_sampling_temperature(monkeypatch):
    """p = [1/5, 4/5] at T = 2 is [1/3, 2/3]: top-p 0.7 needs both tokens (at T = 1 the second alone would do)."""
    token, logp = draw(monkeypatch, [.2, .8], [0.3, 0.4], temperature=2.0, top_p=0.7)
    assert token.tolist() == [0, 1] and logp[0].item() == pytest.approx(math.log(1 / 3), abs=1e-5)


def test_greedy_takes_the_largest_and_reports_its_logp_at_temperature_1():
    token, logp = sample(torch.tensor([[.2, .7, .1]]).log(), None, None, temperature=0.0, top_k=1)
    assert token.item() == 1 and logp.item() == pytest.approx(math.log(.7), abs=1e-6)


@pytest.mark.parametrize("probabilities, top_k, top_p, kept", [
    ([.4, .1, .3, .2], 2, 1.0, {0, 2}),
    ([.4, .1, .3, .2], 4, 1.0, {0, 1, 2, 3}),
    ([.4, .1, .3, .2], 9, 1.0, {0, 1, 2, 3}),          # more than there are
    ([.4, .2, .2, .2], 2, 1.0, {0, 1, 2, 3}),          # equal to the second largest: all stay
    ([.4, .1, .3, .2], 0, .39, {0}),
    ([.4, .1, .3, .2], 0, .41, {0, 2}),                # .4 does not reach .41, .7 does
    ([.4, .1, .3, .2], 0, .69, {0, 2}),
    ([.4, .1, .3, .2], 0, .71, {0, 2, 3}),
    ([.4, .1, .3, .2], 0, 1e-9, {0}),                  # never empty
    ([.4, .1, .3, .2], 3, .60, {0, 2}),                # of the three kept .4/.9 = .44 is less than .6, .78 is not
    ([.4, .1, .3, .2], 2, .57, {0}),                   # .4/.7 = .571: top-p counts what top-k left, renormalised
    ([.4, .1, .3, .2], 0, .57, {0, 2}),
])
def test_keep_likely_by_hand(probabilities, top_k, top_p, kept):
    logits = torch.tensor([probabilities, probabilities[::-1]]).log()
    before = logits.clone()
    out = keep_likely(logits, top_k, top_p)
    assert torch.equal(logits, before)                         # the input is not written into
    assert set(out[0].isfinite().nonzero()[:, 0].tolist()) == kept
    assert set((3 - out[1].isfinite().nonzero()[:, 0]).tolist()) == kept
    assert torch.equal(out[0][sorted(kept)], before[0][sorted(kept)])


def test_top_p_ties_keep_the_right_number():
    """Five tokens of 0.2: three make 0.6 ≥ 0.5, two do not. Which of the equals stay is not promised."""
    assert keep_likely(torch.zeros(1, 5), 0, 0.5).isfinite().sum() == 3


def test_logp_is_that_of_the_cut_distribution(monkeypatch):
    """p = [.4, .1, .3, .2] with top_k = 2: [4/7, 0, 3/7, 0]."""
    token, logp = draw(monkeypatch, [.4, .1, .3, .2], [4 / 7 - 1e-4, 4 / 7 + 1e-4], top_k=2)
    assert token.tolist() == [0, 2]
    assert logp.tolist() == pytest.approx([math.log(4 / 7), math.log(3 / 7)], abs=1e-6)


# ---- The decoder against transformers, against scoring, against itself ---------------------------------------------

LENGTHS = (1, 2, 60, 7, 3, 31, 12, 45, 5, 19, 58, 9, 26)
LIMITS = (37, 5, 21, 29, 33, 1, 25, 17, 40, 36, 13, 39, 30)


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_equals_transformers(kind):
    """13 prompts of 1..60 tokens through 4 slots, limits 1..40: slots are refilled and holes filled many times.
    transformers decodes the same weights, left-padded, with the ids that the tokenizer lacks suppressed."""
    theirs, ours = twins(kind)
    prompts, width = prompts_of(LENGTHS), max(LENGTHS)
    with torch.no_grad():
        out = theirs.generate(
            input_ids=torch.tensor([[PAD] * (width - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]), do_sample=False,
            max_new_tokens=max(LIMITS), eos_token_id=EOS, pad_token_id=PAD, suppress_tokens=list(range(149, 157)))
    expected = []
    for row, limit in zip(out[:, width:].tolist(), LIMITS):
        stop = row.index(EOS) + 1 if EOS in row else len(row)
        expected.append(row[:min(stop, limit)])
    found = completions(ours, [Request(p, i, m) for i, (p, m) in enumerate(zip(prompts, LIMITS))], settings(40))
    assert [c.ids for c in found] == expected
    assert [c.finish for c in found] == ["stop" if ids[-1] == EOS else "length" for ids in expected]
    assert {"stop", "length"} == {c.finish for c in found} and len({len(c.ids) for c in found}) > 6


def test_ids_beyond_the_tokenizer_are_never_drawn():
    """Of 157 logits the tokenizer knows 149; the eight others are by far the largest here (checked)."""
    theirs, ours = twins("qwen2")
    prompts = prompts_of((3, 8, 21))
    with torch.no_grad():
        mass = sum(theirs(torch.tensor([p])).logits[0, -1].softmax(0)[149:].sum().item() for p in prompts) / 3
    assert mass > 0.5
    for temperature in (0.0, 1.0, 1.7):
        for c in completions(ours, [Request(p, i, 30) for i, p in enumerate(prompts)], settings(30, temperature)):
            assert max(c.ids) < len(TOKENIZER) == 149


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_logp_equals_a_fresh_forward(temperature):
    """What the decoder reports, from its cache, against one packed forward of prompt and completion (greedy: at
    temperature 1), 11 rows through 3 slots, in float32. Tolerance 1e-5; the values spread over more than 1."""
    model, tokenizer = models.load(BASE)
    problems = tiny.problems("math", 11, 5, "dev")
    requests = [Request(THINK.prompt_ids(tokenizer, p["question"]), random_key(1, p["id"]), 30 + i)
                for i, p in enumerate(problems)]
    found = completions(model, requests, settings(41, temperature), slots=3, tokenizer=tokenizer)
    batch = models.pack([r.prompt + c.ids for r, c in zip(requests, found)],
                        [[False] * len(r.prompt) + [True] * len(c.ids) for r, c in zip(requests, found)])
    with torch.no_grad():
        logp = models.score(model, batch, temperature or 1.0).logp
    ours = torch.tensor([x for c in found for x in c.logp])
    assert "stop" in {c.finish for c in found} and ours.std() > 1e-1 and ours.min() < -1
    assert (ours - logp).abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_text_depends_on_neither_slots_nor_order(temperature):
    _, ours = twins("qwen3")
    requests = [Request(p, random_key(2, i), m) for i, (p, m) in enumerate(zip(prompts_of(LENGTHS), LIMITS))]
    reference = completions(ours, requests, settings(40, temperature), slots=1)
    assert len({tuple(c.ids) for c in reference}) > 9
    for slots in (2, 5, 13, 99):
        assert [c.ids for c in completions(ours, requests, settings(40, temperature), slots)] == \
            [c.ids for c in reference]
    order = random.Random(1).sample(range(len(requests)), len(requests))
    shuffled = completions(ours, [requests[i] for i in order], settings(40, temperature), slots=3)
    assert [c.ids for c in shuffled] == [reference[i].ids for i in order]


def test_other_keys_other_texts():
    """Same prompt, 9 keys: 9 different texts when sampling, one text when greedy."""
    _, ours = twins("qwen2")
    requests = [Request(prompts_of([6])[0], random_key(seed, "id", n), 24) for seed in range(3) for n in range(3)]
    assert len({tuple(c.ids) for c in completions(ours, requests, settings(24, 1.0))}) == 9
    assert len({tuple(c.ids) for c in completions(ours, requests, settings(24))}) == 1


def test_the_stop_token_is_kept_with_its_logp():
    """Reward and training need the end-of-sequence token: it stands in ids, marked as the model's own, with the
    log-probability it was drawn with; the text does not show it."""
    model, tokenizer = models.load(BASE)
    prompt = THINK.prompt_ids(tokenizer, "copy a b")
    c, = completions(model, [Request(prompt, 0, 60)], settings(60), tokenizer=tokenizer)
    assert c.finish == "stop" and c.ids.count(EOS) == 1 and c.ids[-1] == EOS and not any(c.injected)
    with torch.no_grad():
        stats = models.score(model, models.pack([prompt + c.ids]))
    assert c.logp[-1] == pytest.approx(stats.logp[-1].item(), abs=1e-5)
    assert "<eos>" not in generate.completion_text(tokenizer, c)
    cut, = completions(model, [Request(prompt, 0, len(c.ids) - 1)], settings(60), tokenizer=tokenizer)
    assert cut.finish == "length" and cut.ids == c.ids[:-1]
    assert generate.completion_text(tokenizer, cut) == generate.completion_text(tokenizer, c)


def test_no_requests():
    assert list(decode(twins("qwen2")[1], TOKENIZER, THINK, [])) == []


# ---- Budget forcing against a decoder without a cache ----------------------------------------------------------------

END_BIAS = 6.0


@functools.cache
def next_logits(prompt, ids):
    """Logits of the 149 known tokens after the whole text, encoded anew by transformers' attention."""
    theirs, _ = twins("qwen2", END_BIAS)
    with torch.no_grad():
        return theirs(torch.tensor([prompt + ids])).logits[0, -1].float()[:149]


def naive(request, cfg):
    """Budget forcing for one sequence, written from its description, one token at a time, no cache."""
    wait, end = ([TOKENIZER.convert_tokens_to_ids(w) for w in text.split()] for text in (cfg.wait, "</think>"))
    ids, injected, queue, thinking, n_thinking, n_waits, forced = [], [], [], True, 0, 0, False
    fresh = cfg.waits > 0                                  # a round of several does not begin with its own end
    active = cfg.waits > 0 or cfg.thinking_budget is not None
    while len(ids) < request.max_tokens:
        own = False
        if not queue and active and thinking and n_thinking == cfg.thinking_budget:
            queue, thinking, forced, fresh = list(end), False, True, False
        elif not queue:
            logits = next_logits(tuple(request.prompt), tuple(ids)).clone()
            if fresh:
                logits[[EOS, END]] = -math.inf
            key, place = torch.tensor([request.key]), torch.tensor([len(ids)])
            token = sample(logits[None], key, place, cfg.temperature)[0].item()
            own, fresh = True, False
            if thinking and active and token in (EOS, END):
                if n_waits < cfg.waits and (cfg.thinking_budget is None
                                            or n_thinking + len(wait) < cfg.thinking_budget):
                    queue, own, n_waits, fresh = list(wait), False, n_waits + 1, True
                else:
                    thinking, own = False, token == END
                    token = END
            elif thinking and token == END:
                thinking = False
        if queue and not own:
            token = queue.pop(0)
        ids.append(token)
        injected.append(not own)
        n_thinking += thinking and not (own and token == EOS)
        if own and token == EOS:
            return ids, injected, n_thinking, n_waits, forced, "stop"
    return ids, injected, n_thinking, n_waits, forced, "length"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("waits", [0, 1, 2, 3])
def test_budget_forcing_equals_re_encoding_everything(waits, temperature):
    """5 prompts through 2 slots, every budget, "wait ," (two tokens) as the string. The model ends its thinking or its
    text every few tokens, so that waits, natural ends and forced ends all occur (counted)."""
    _, ours = twins("qwen2", END_BIAS)
    prompts, seen = prompts_of((4, 1, 17, 9, 28), seed=3), set()
    for budget in (None, 0, 1, 5, 20):
        cfg = settings(30, temperature, waits=waits, wait="wait ,", thinking_budget=budget)
        requests = [Request(p, random_key(0, i, 7), m) for i, (p, m) in enumerate(zip(prompts, (30, 28, 23, 29, 27)))]
        for request, c in zip(requests, completions(ours, requests, cfg, slots=2)):
            assert (c.ids, c.injected, c.n_thinking, c.n_waits, c.forced, c.finish) == naive(request, cfg), budget
            assert len(c.ids) == len(c.injected) == len(c.logp)
            assert budget is None or c.n_thinking <= budget            # spent over all rounds, never overdrawn
            assert [x for x, i in zip(c.logp, c.injected) if i] == [0] * sum(c.injected)
            seen |= {c.n_waits, "forced" if c.forced else "natural", c.finish}
    assert seen >= {*range(waits + 1), "forced", "natural", "stop", "length"}


def test_no_token_is_fed_twice(monkeypatch):
    """What is fed to the model, in order, is the text itself: prompt, then each token but the last, injected or not;
    behind it at most POLL steps of a sequence that is done. With 5 prompts in 2 slots the sum obeys the same bound."""
    _, ours = twins("qwen2", END_BIAS)
    fed, original = [], models.hidden_states
    monkeypatch.setattr(models, "hidden_states", lambda model, ids, *more: fed.extend(ids.tolist()) or
                        original(model, ids, *more))
    cfg = settings(30, 1.0, waits=3, wait="wait ,", thinking_budget=14)
    requests = [Request(p, random_key(0, i), 30) for i, p in enumerate(prompts_of((4, 1, 17, 9, 28), seed=3))]
    total = n_waits = n_forced = 0
    for request in requests:
        fed.clear()
        c, = completions(ours, [request], cfg)
        text = request.prompt + c.ids
        assert fed[:len(text) - 1] == text[:-1] and len(fed) <= len(text) - 1 + decoder.POLL
        total, n_waits, n_forced = total + len(text) - 1, n_waits + c.n_waits, n_forced + c.forced
    assert n_waits > 5 and n_forced
    fed.clear()
    completions(ours, requests, cfg, slots=2)
    assert total <= len(fed) <= total + decoder.POLL * len(requests)


# ---- Budget forcing by script: s1's text, vectors T13 and T14 of the specification --------------------------------

def s1_words():
    """A tokenizer of words in which a line break is a word, with s1's delimiters as special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    words = ["<|im_end|>", "<|im_start|>", "?", "\n", ".\n", "user", "assistant", "think", "answer", "Final", "Answer",
             ":", "Wait", *"abcdefxyzq42"]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(*how) for how in (
        ("\n", "isolated"), (":", "isolated"), (" ", "removed"))])
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(word, special=True) for word in words[:2]])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    fast.chat_template = ("{% for m in messages %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endfor %}"
                          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    return fast


@pytest.fixture(params=["words", "qwen2.5"], scope="module")
def s1(request):
    """(tokenizer, a model that has its vocabulary; what the model wants will be scripted)."""
    if request.param == "qwen2.5" and not QWEN.is_dir():
        pytest.skip(f"{QWEN} is not there; the same cases run with the small tokenizer")
    tokenizer = s1_words() if request.param == "words" else AutoTokenizer.from_pretrained(QWEN)
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    tokenizer.batch_decode = lambda ids: [pieces[i] for i, in ids]           # 0.6 s each time, for 151,665 words
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=12, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=99)
    return tokenizer, AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()


CUE = "<|im_start|>answer\nFinal Answer:"                # a forced answer; NEWLINE before it unless one is there
NAMES = {"STOP": "<|im_end|>", "END": "<|im_start|>"}


def ids_of(tokenizer, *texts):
    """Token ids of texts, each encoded by itself; a text that is a word of the vocabulary is that word."""
    found = []
    for text in (NAMES.get(text, text) for text in texts):
        known = tokenizer.convert_tokens_to_ids(text)
        is_word = known not in (None, tokenizer.unk_token_id)
        found += [known] if is_word else tokenizer.encode(text, add_special_tokens=False)
    return found


def play(monkeypatch, s1, script, limit=30, **more):
    """Decode one prompt greedily. script: what the model wants at each place of its completion: a token's text, or
    (most wanted, second). While tokens are injected the model wants to stop, which must have no effect: an int in
    the script is that many such places. When the script is over, the model stops."""
    tokenizer, model = s1
    wishes = [wish for entry in script for wish in (["STOP"] * entry if isinstance(entry, int) else [entry])]
    places = iter(range(10**6))

    def logits(model, hidden):
        place, out = next(places), torch.zeros(1, len(tokenizer))
        wish = wishes[place] if place < len(wishes) else "STOP"
        wanted = ids_of(tokenizer, *([wish] if isinstance(wish, str) else wish))
        out[0, wanted] = torch.tensor([9.0, 8.0])[:len(wanted)]
        return out

    monkeypatch.setattr(models, "next_token_logits", logits)
    form, cfg = FORMATS["s1"], settings(**{"max_tokens": 30, "wait": "Wait", **more})
    prompt = form.prompt_ids(tokenizer, "q")
    assert prompt[-2:] == ids_of(tokenizer, "<|im_start|>think")
    c, = completions(model, [Request(prompt, 0, limit)], cfg, tokenizer=tokenizer, form=form)
    return c


def test_t13_budget_spent(monkeypatch, s1):
    """T13: a b c d e f END wanted, budget 4: a b c d, line break, <|im_start|>answer, line break, Final Answer:"""
    n = len(ids_of(s1[0], "\n", CUE))
    c = play(monkeypatch, s1, [*"abcd", n, "4"], thinking_budget=4)
    assert c.ids == ids_of(s1[0], *"abcd", "\n", CUE, "4", "STOP")
    assert c.injected == [False] * 4 + [True] * n + [False] * 2
    assert (c.n_thinking, c.n_waits, c.forced, c.finish) == (4, 0, True, "stop")


@pytest.mark.parametrize("last", ["\n", ".\n"])
def test_t13_no_second_line_break(monkeypatch, s1, last):
    """T13: if the last token of thinking is a line break, or ends in one, none is added."""
    n = len(ids_of(s1[0], CUE))
    c = play(monkeypatch, s1, [*"abc", last, n, "4"], thinking_budget=4)
    assert c.ids == ids_of(s1[0], *"abc", last, CUE, "4", "STOP")
    assert c.injected == [False] * 4 + [True] * n + [False] * 2 and c.n_thinking == 4 and c.forced


def test_t13_natural_end(monkeypatch, s1):
    """T13: budget 10 is not reached: a..f, then <|im_start|>answer without line break and without Final Answer. The
    first token of the delimiter is the model's own, the second is written for it."""
    c = play(monkeypatch, s1, [*"abcdef", "END", 1, "4"], thinking_budget=10)
    assert c.ids == ids_of(s1[0], *"abcdef", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False] * 7 + [True] + [False] * 2
    assert (c.n_thinking, c.n_waits, c.forced) == (6, 0, False)
    assert c.logp[6] < 0 and c.logp[7] == 0


def test_t13_budget_0_answers_at_once(monkeypatch, s1):
    """No thinking: the delimiter follows the prompt, which ends in `think` and not in a line break."""
    c = play(monkeypatch, s1, [len(ids_of(s1[0], "\n", CUE)), "4"], thinking_budget=0)
    assert c.ids == ids_of(s1[0], "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.forced, c.finish) == (0, True, "stop")


def test_t14_wait(monkeypatch, s1):
    """T14: waits = 1, x y END, then z END: x y Wait z <|im_start|>answer. The dropped END is not in the text."""
    c = play(monkeypatch, s1, ["x", "y", "END", "z", "END", 1, "4"], waits=1)
    assert c.ids == ids_of(s1[0], "x", "y", "Wait", "z", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, False, True, False, False, True, False, False]
    assert (c.n_thinking, c.n_waits, c.forced) == (4, 1, False)        # x y Wait z


def test_t14_second_round_runs_out(monkeypatch, s1):
    """T14: waits = 2, round 2 ends by length: one Wait, then the forced form. Over both rounds x y Wait z z z = 6
    tokens are the budget (s1's harness would give round 2 six of its own; its README and we do not)."""
    c = play(monkeypatch, s1, ["x", "y", "END", *"zzz", len(ids_of(s1[0], "\n", CUE)), "4"], waits=2, thinking_budget=6)
    assert c.ids == ids_of(s1[0], "x", "y", "Wait", *"zzz", "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (6, 1, True)


def test_t14_no_wait_without_room_for_a_token_behind_it(monkeypatch, s1):
    """Round 1 is 5 tokens and END. Budget 6: Wait would be the sixth and nothing could follow, so thinking ends
    naturally at 5. Budget 7: Wait and one more token fit, then the answer is forced."""
    c = play(monkeypatch, s1, [*"abcde", "END", 1, "4"], waits=1, thinking_budget=6)
    assert c.ids == ids_of(s1[0], *"abcde", "<|im_start|>answer", "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (5, 0, False)
    script = [*"abcde", "END", "z", len(ids_of(s1[0], "\n", CUE)), "4"]
    c = play(monkeypatch, s1, script, waits=1, thinking_budget=7)
    assert c.ids == ids_of(s1[0], *"abcde", "Wait", "z", "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (7, 1, True)


@pytest.mark.parametrize("stop", ["END", "STOP"])
def test_t14_a_round_does_not_begin_with_a_stop(monkeypatch, s1, stop):
    """After Wait the model wants to end at once: its second wish is taken, for one token. Then it may end."""
    c = play(monkeypatch, s1, ["x", "END", (stop, "z"), stop, 1, "4"], waits=1)
    assert c.ids == ids_of(s1[0], "x", "Wait", "z", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, True, False, stop == "STOP", True, False, False]


def test_end_of_sequence_inside_thinking(monkeypatch, s1):
    """With a budget or waits it is an end of thinking: replaced by Wait, or by the delimiter, which is then wholly
    injected. Without forcing it stops the text; it is no token of thinking."""
    c = play(monkeypatch, s1, ["x", "STOP", "y", "STOP", 1, "4"], waits=1)
    assert c.ids == ids_of(s1[0], "x", "Wait", "y", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, True, False, True, True, False, False] and (c.n_waits, c.n_thinking) == (1, 3)
    c = play(monkeypatch, s1, ["x", "STOP", 1, "4"], thinking_budget=9)
    assert c.ids == ids_of(s1[0], "x", "<|im_start|>answer", "4", "STOP") and not c.forced and c.n_thinking == 1
    c = play(monkeypatch, s1, ["x", "STOP", "y"])
    assert c.ids == ids_of(s1[0], "x", "STOP") and c.finish == "stop" and c.injected == [False, False]
    assert c.n_thinking == 1


def test_without_forcing_nothing_is_injected(monkeypatch, s1):
    """The model's own delimiter passes, and its tokens before it are counted as thinking: x y."""
    c = play(monkeypatch, s1, ["x", "y", "END", "answer", "4"])
    assert c.ids == ids_of(s1[0], "x", "y", "END", "answer", "4", "STOP")
    assert not any(c.injected) and (c.n_thinking, c.n_waits, c.forced) == (2, 0, False)


def test_the_limit_cuts_an_injection(monkeypatch, s1):
    """max_tokens counts everything: cut in the middle of what is being written, finish "length"."""
    c = play(monkeypatch, s1, ["x", "y", "END", "z"], limit=3, waits=1, wait="Wait Wait")
    assert c.ids == ids_of(s1[0], "x", "y", "Wait") and c.finish == "length"


def test_a_finished_text_is_not_changed_by_the_steps_behind_it(monkeypatch, s1):
    """The decoder looks every 8 steps for who is done. Cut at 2 tokens inside its thinking, a text has had no Wait and
    no forced end, although the steps behind its last token would have brought both."""
    c = play(monkeypatch, s1, ["x", "y", "END", "z", "z"], limit=2, waits=1)
    assert c.ids == ids_of(s1[0], "x", "y") and (c.finish, c.n_waits, c.n_thinking) == ("length", 0, 2)
    c = play(monkeypatch, s1, ["x", "y", "z", "z", "z"], limit=2, thinking_budget=4)
    assert c.ids == ids_of(s1[0], "x", "y") and (c.finish, c.forced, c.n_thinking) == ("length", False, 2)
