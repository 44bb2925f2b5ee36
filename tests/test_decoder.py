"""engine/decoder.py: the numbers that decide a token by hand, transformers' own decoder and a
decoder without a cache as oracles, budget forcing by script."""

import contextlib
import functools
import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forcing import each_case
from stand_ins import bpe_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

import generate
from data import tiny
from engine import attention, decoder, kv_cache, loading, machine, packing
from engine import model as models
from engine.completions import completion_text
from engine.decoder import Request, Sampling, decode
from engine.format import FORMATS
from engine.rows import BadInput
from engine.sampling import random_key

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data" / "tiny_base")
TOKENIZER = tiny.tokenizer()  # 149 words; the models below have 157 logits
PAD, EOS, END = (TOKENIZER.convert_tokens_to_ids(t) for t in ("<pad>", "<eos>", "</think>"))
THINK = FORMATS["think"]

SHAPES = {  # all sizes differ, heads share key-value heads
    "qwen2": Qwen2Config(
        num_hidden_layers=3, hidden_size=32, num_attention_heads=4, num_key_value_heads=2
    ),
    "qwen3": Qwen3Config(
        num_hidden_layers=1,
        hidden_size=30,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=14,
    ),
    "llama": LlamaConfig(
        num_hidden_layers=2, hidden_size=36, num_attention_heads=6, num_key_value_heads=3
    ),
}


@functools.cache
def twins(kind, end_bias=0.0, dtype=torch.float64):
    """One random model twice: with transformers' sdpa attention and with ours.

    Weights are large, so that texts differ; logits 149..156, which the tokenizer does not know, are
    the largest of all. Double precision leaves no token to the rounding of a sum. The embeddings
    share a constant that the head reads, so that <eos> is likely everywhere, and </think> by
    end_bias.
    """
    config = SHAPES[kind]
    config.update(
        {
            "vocab_size": 157,
            "intermediate_size": 40,
            "max_position_embeddings": 128,
            "pad_token_id": PAD,
            "initializer_range": 0.35,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": EOS,
        }
    )
    torch.manual_seed(7)
    theirs = AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa", dtype=dtype
    ).eval()
    with torch.no_grad():
        head = theirs.get_output_embeddings().weight
        head[149:] *= 3
        theirs.get_input_embeddings().weight[:, 0] = 1.5
        head[EOS, 0] += {"qwen2": 4, "qwen3": 8, "llama": 4}[kind]
        head[END, 0] += end_bias
    ours = AutoModelForCausalLM.from_config(
        type(config)(**config.to_dict()), attn_implementation="packed", dtype=dtype
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def prompts_of(lengths, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(7, 149) for _ in range(n)] for n in lengths]


def settings(
    max_tokens=40,
    temperature=0.0,
    waits=0,
    thinking_budget=None,
    min_thinking=0,
    steps=0,
    wait="wait",
    **more,
):
    """What requests of a test share, and the Sampling they are decoded with."""
    return SimpleNamespace(
        max_tokens=max_tokens,
        temperature=temperature,
        waits=waits,
        wait=wait,
        steps=steps,
        thinking_budget=thinking_budget,
        min_thinking=min_thinking,
        sampling=Sampling(temperature, wait=wait, **more),
    )


def completions(model, requests, cfg, slots=4, tokenizer=TOKENIZER, form=THINK):
    """Completions in the order of the requests, all of them with the forcing of cfg."""
    requests = [
        r._replace(
            waits=cfg.waits,
            budget=cfg.thinking_budget,
            min_thinking=cfg.min_thinking,
            steps=cfg.steps,
        )
        for r in requests
    ]
    return decoded(model, requests, cfg.sampling, slots, tokenizer, form)


def decoded(model, requests, sampling=None, slots=4, tokenizer=TOKENIZER, form=THINK):
    """Completions in the order of the requests, each with its own forcing; each comes exactly
    once."""
    found = list(decode(model, tokenizer, form, list(requests), sampling or Sampling(), slots))
    assert sorted(i for i, _ in found) == list(range(len(requests)))
    return [c for _, c in sorted(found, key=lambda pair: pair[0])]


def poll_every(monkeypatch, n):
    """Let the decoder look every n steps which sequences are done."""
    monkeypatch.setattr(decoder, "POLL", dict.fromkeys(decoder.POLL, n))


# ---- The decoder against transformers, against scoring, against itself

LENGTHS = (1, 2, 60, 7, 3, 31, 12, 45, 5, 19, 58, 9, 26)
LIMITS = (37, 5, 21, 29, 33, 1, 25, 17, 40, 36, 13, 39, 30)


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_equals_transformers(kind):
    """13 prompts of 1..60 tokens through 4 slots, limits 1..40: slots are refilled and holes filled
    many times. transformers decodes the same weights, left-padded, with the ids that the tokenizer
    lacks suppressed."""
    theirs, ours = twins(kind)
    prompts, width = prompts_of(LENGTHS), max(LENGTHS)
    with torch.no_grad():
        out = theirs.generate(
            input_ids=torch.tensor([[PAD] * (width - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
            do_sample=False,
            max_new_tokens=max(LIMITS),
            eos_token_id=EOS,
            pad_token_id=PAD,
            suppress_tokens=list(range(149, 157)),
        )
    expected = []
    for row, limit in zip(out[:, width:].tolist(), LIMITS):
        stop = row.index(EOS) + 1 if EOS in row else len(row)
        expected.append(row[: min(stop, limit)])
    found = completions(
        ours, [Request(p, i, m) for i, (p, m) in enumerate(zip(prompts, LIMITS))], settings(40)
    )
    assert [c.ids for c in found] == expected
    assert [c.finish for c in found] == ["stop" if ids[-1] == EOS else "length" for ids in expected]
    assert {"stop", "length"} == {c.finish for c in found} and len({len(c.ids) for c in found}) > 6


def test_ids_beyond_the_tokenizer_are_never_drawn():
    """Of 157 logits the tokenizer knows 149; the eight others are by far the largest here
    (checked)."""
    theirs, ours = twins("qwen2")
    prompts = prompts_of((3, 8, 21))
    with torch.no_grad():
        mass = (
            sum(
                theirs(torch.tensor([p])).logits[0, -1].softmax(0)[149:].sum().item()
                for p in prompts
            )
            / 3
        )
    assert mass > 0.5
    for temperature in (0.0, 1.0, 1.7):
        for c in completions(
            ours, [Request(p, i, 30) for i, p in enumerate(prompts)], settings(30, temperature)
        ):
            assert max(c.ids) < len(TOKENIZER) == 149


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_logp_equals_a_fresh_forward(temperature):
    """What the decoder reports, from its cache, against one packed forward of prompt and completion
    (greedy: at temperature 1), 11 rows through 3 slots, in float32. Tolerance 1e-5; the values
    spread over more than 1."""
    model, tokenizer = loading.load(BASE)
    problems = tiny.problems("math", 11, 5, "dev")
    requests = [
        Request(THINK.prompt_ids(tokenizer, p["question"]), random_key(1, p["id"]), 30 + i)
        for i, p in enumerate(problems)
    ]
    found = completions(model, requests, settings(41, temperature), slots=3, tokenizer=tokenizer)
    batch = packing.pack(
        [r.prompt + c.ids for r, c in zip(requests, found)],
        [[False] * len(r.prompt) + [True] * len(c.ids) for r, c in zip(requests, found)],
    )
    with torch.no_grad():
        logp = models.score(model, batch, temperature or 1.0).logp
    ours = torch.tensor([x for c in found for x in c.logp])
    assert "stop" in {c.finish for c in found} and ours.std() > 1e-1 and ours.min() < -1
    assert (ours - logp).abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_text_depends_on_neither_slots_nor_order(temperature):
    _, ours = twins("qwen3")
    requests = [
        Request(p, random_key(2, i), m) for i, (p, m) in enumerate(zip(prompts_of(LENGTHS), LIMITS))
    ]
    reference = completions(ours, requests, settings(40, temperature), slots=1)
    assert len({tuple(c.ids) for c in reference}) > 9
    for slots in (2, 5, 13, 99):
        assert [c.ids for c in completions(ours, requests, settings(40, temperature), slots)] == [
            c.ids for c in reference
        ]
    order = random.Random(1).sample(range(len(requests)), len(requests))
    shuffled = completions(ours, [requests[i] for i in order], settings(40, temperature), slots=3)
    assert [c.ids for c in shuffled] == [reference[i].ids for i in order]


def test_other_keys_other_texts():
    """Same prompt, 9 keys: 9 different texts when sampling, one text when greedy."""
    _, ours = twins("qwen2")
    requests = [
        Request(prompts_of([6])[0], random_key(seed, "id", n), 24)
        for seed in range(3)
        for n in range(3)
    ]
    assert len({tuple(c.ids) for c in completions(ours, requests, settings(24, 1.0))}) == 9
    assert len({tuple(c.ids) for c in completions(ours, requests, settings(24))}) == 1


def test_the_stop_token_is_kept_with_its_logp():
    """Reward and training need the end-of-sequence token: it stands in ids, marked as the model's
    own, with the log-probability it was drawn with; the text does not show it."""
    model, tokenizer = loading.load(BASE)
    prompt = THINK.prompt_ids(tokenizer, "copy a b")
    (c,) = completions(model, [Request(prompt, 0, 60)], settings(60), tokenizer=tokenizer)
    assert c.finish == "stop" and c.ids.count(EOS) == 1 and c.ids[-1] == EOS and not any(c.injected)
    with torch.no_grad():
        stats = models.score(model, packing.pack([prompt + c.ids]))
    assert c.logp[-1] == pytest.approx(stats.logp[-1].item(), abs=1e-5)
    assert "<eos>" not in completion_text(tokenizer, c)
    (cut,) = completions(
        model, [Request(prompt, 0, len(c.ids) - 1)], settings(60), tokenizer=tokenizer
    )
    assert cut.finish == "length" and cut.ids == c.ids[:-1]
    assert completion_text(tokenizer, cut) == completion_text(tokenizer, c)


def test_no_requests():
    assert list(decode(twins("qwen2")[1], TOKENIZER, THINK, [])) == []


# ---- Budget forcing by hand


@each_case
def test_force_budget_by_hand(case):
    """budget 8, 7 tokens of thinking, the model wants to end: "Wait" would be the 8th and nothing
    could follow, so it may end; at 6 it has to wait; at 8 the answer is forced. A sequence beside
    it asks for nothing."""
    budget = decoder.NO_BUDGET if case.budget is None else case.budget
    is_guided = case.budget is not None or case.waits + case.min_thinking > 0
    columns = {
        "n_thinking": (case.n_tokens, 50),
        "n_round": (case.n_round, 50),
        "n_waits": (case.n_waits, 0),
        "waits": (case.waits, 0),
        "min_thinking": (case.min_thinking, 0),
        "budget": (budget, decoder.NO_BUDGET),
        "guided": (is_guided, False),
    }
    state = {name: torch.tensor(values) for name, values in columns.items()}
    thinking = torch.tensor([case.is_open, True])
    end = torch.tensor([case.is_open and case.wants_end, True])
    wish = decoder.Wish(thinking, end, end)
    control = SimpleNamespace(rule=case.rule, wait_length=case.n_wait)
    decision = decoder.force_budget(state, wish, control)
    names = dict(zip(("answer", "wait", "end"), decision))
    found = [[name for name in names if names[name][row]] for row in (0, 1)]
    assert found == [[case.decision] if case.decision else [], []]
    assert {name: tuple(values.tolist()) for name, values in state.items()} == columns


# ---- Budget forcing against a decoder without a cache

END_BIAS = 6.0


@functools.cache
def logits_after(text):
    """Logits of the next token after the whole text, encoded anew by transformers' attention."""
    theirs, _ = twins("qwen2", END_BIAS)
    with torch.no_grad():
        return theirs(torch.tensor([text])).logits[0, -1].float()


def naive(request, sampling):
    """generate.py's plain decoder without its cache: transformers encodes the whole text at each
    step."""

    def next_logits(model, text, token, position):
        assert len(text) == position
        text.append(token)
        return logits_after(tuple(text))[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "prefill", lambda model, prompt, max_tokens: prompt[:-1])
        patch.setattr(generate, "next_logits", next_logits)
        theirs, _ = twins("qwen2", END_BIAS)
        found = generate.decode_plainly(theirs, TOKENIZER, THINK, [request], sampling)
        ((_, completion),) = found
    return completion


def same(found, expected):
    """Everything of two completions equal, log-probabilities to 1e-5."""
    return found._replace(logp=None) == expected._replace(
        logp=None
    ) and found.logp == pytest.approx(expected.logp, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("waits", [0, 1, 2, 3])
def test_budget_forcing_equals_re_encoding_everything(waits, temperature):
    """5 prompts through 2 slots, every budget, "wait ," (two tokens) as the string. The model ends
    its thinking or its text every few tokens, so that waits, natural ends and forced ends all occur
    (counted)."""
    _, ours = twins("qwen2", END_BIAS)
    prompts, seen = prompts_of((4, 1, 17, 9, 28), seed=3), set()
    for budget in (None, 0, 1, 5, 20):
        cfg = settings(30, temperature, waits=waits, wait="wait ,", thinking_budget=budget)
        requests = [
            Request(p, random_key(0, i, 7), m)
            for i, (p, m) in enumerate(zip(prompts, (30, 28, 23, 29, 27)))
        ]
        for request, c in zip(requests, completions(ours, requests, cfg, slots=2)):
            assert same(c, naive(request._replace(waits=waits, budget=budget), cfg.sampling)), (
                budget
            )
            # spent over all rounds, never overdrawn
            assert budget is None or c.n_thinking <= budget
            assert [x for x, i in zip(c.logp, c.injected) if i] == [0] * sum(c.injected)
            seen |= {c.n_waits, "forced" if c.forced else "natural", c.finish}
    assert seen >= {*range(waits + 1), "forced", "natural", "stop", "length"}


def mixed_requests(n, seed, key=0):
    """n requests, each with a forcing of its own; every third has the prompt of the one before
    it."""
    rng, requests = random.Random(seed), []
    for i in range(n):
        prompt = (
            requests[-1].prompt
            if i % 3 == 2
            else prompts_of([rng.randint(1, 24)], 99 * seed + i)[0]
        )
        waits, least, budget = (
            rng.choice((0, 0, 1, 2, 3)),
            rng.choice((0, 0, 4, 11)),
            rng.choice((None, 0, 1, 4, 9, 17)),
        )
        if i % 7 == 5:  # nothing is forced on it
            waits, least, budget = 0, 0, None
        requests.append(
            Request(prompt, random_key(key, seed, i), rng.randint(20, 31), waits, budget, least)
        )
    return requests


@pytest.mark.parametrize(
    "temperature, more",
    [
        (0.0, {"wait": "wait ,"}),
        (0.8, {"wait": "wait ,"}),
        (0.0, {"wait": ""}),  # no string: the next likely token
        (1.0, {"wait": "", "top_k": 9}),
        (1.0, {"wait": "wait ,", "budget_rule": "round"}),
        (0.0, {"wait": "", "budget_rule": "round"}),
        (1.0, {"wait": "", "budget_rule": "round", "top_p": 0.8}),
        (1.0, {"wait": "wait", "over_budget": "reject", "max_tries": 4}),
    ],
    ids=str,
)
def test_forcing_of_each_row_equals_re_encoding_everything(temperature, more):
    """14 requests side by side, each with its own waits, budget, minimum and limit, through 3 slots
    and through 14, against the decoder without a cache, token for token: both budget rules, wait
    strings of two, one and no token, cut distributions, and samples that are tried again until they
    keep to their budget. What must occur is counted."""
    _, ours = twins("qwen2", END_BIAS)
    sampling = Sampling(temperature, **more)
    requests = mixed_requests(14, seed=len(sampling.wait) + 5)
    if sampling.over_budget == "reject":
        requests = [
            r._replace(waits=0, min_thinking=0, budget=(2, 5, 9, 17)[i % 4])
            for i, r in enumerate(requests)
        ]
    expected = [naive(request, sampling) for request in requests]
    for slots in (3, 14):
        for request, c, e in zip(requests, decoded(ours, requests, sampling, slots), expected):
            assert same(c, e), request
    seen = {e.finish for e in expected} | {"forced" if e.forced else "natural" for e in expected}
    if sampling.over_budget == "reject":
        assert {e.n_tries for e in expected} >= {1, 2, 3, 4} and seen == {
            "stop",
            "length",
            "rejected",
            "natural",
        }
    else:  # the minimum may ask for more waits than --waits
        assert seen == {"stop", "length", "forced", "natural"}
        assert any(e.n_waits > r.waits for e, r in zip(expected, requests)) and any(
            e.n_waits > 1 for e in expected
        )


def test_what_is_forced_on_one_row_is_not_forced_on_another():
    """Of 20 rows every second is to wait and has a budget; the others are free. A free row has the
    text that it has without them: an end-of-sequence inside its thinking ends it (some do), its own
    end of thinking passes. Else a row's text would depend on which rows are in the call: on the
    ranks, or on what was left when a run was killed."""
    _, ours = twins("qwen2", END_BIAS)
    requests = [
        Request(p, random_key(4, i), 24) for i, p in enumerate(prompts_of(range(1, 21), seed=6))
    ]
    alone, sampling = decoded(ours, requests, Sampling(1.0)), Sampling(1.0, wait="wait")
    assert any(END not in c.ids and c.finish == "stop" for c in alone)
    mixed = [r._replace(waits=1, budget=6) if i % 2 else r for i, r in enumerate(requests)]
    found = decoded(ours, mixed, sampling)
    assert {c.n_waits for c in found[1::2]} == {0, 1} and {c.forced for c in found[1::2]} == {
        False,
        True,
    }
    assert [c.ids for c in found[::2]] == [c.ids for c in alone[::2]]
    assert not any(sum(c.injected) for c in found[::2])


def test_requests_are_not_written_into():
    """A caller may decode one list twice: samples that were tried again have not changed it."""
    _, ours = twins("qwen2", END_BIAS)
    requests = [
        Request(p, random_key(5, i), 20, budget=3) for i, p in enumerate(prompts_of(range(2, 8)))
    ]
    before, sampling = list(requests), Sampling(1.0, over_budget="reject", max_tries=9)
    assert any(c.n_tries > 1 for _, c in decode(ours, TOKENIZER, THINK, requests, sampling))
    assert requests == before


def test_no_token_is_fed_twice(monkeypatch):
    """What is fed to the model, in order, is the text itself: prompt, then each token but the last,
    injected or not; behind it at most POLL steps of a sequence that is done. With 5 prompts in 2
    slots the sum obeys the same bound."""
    _, ours = twins("qwen2", END_BIAS)
    fed, original = [], models.hidden_states
    monkeypatch.setattr(
        models,
        "hidden_states",
        lambda model, ids, *more: fed.extend(ids.tolist()) or original(model, ids, *more),
    )
    cfg = settings(30, 1.0, waits=3, wait="wait ,", thinking_budget=14)
    requests = [
        Request(p, random_key(0, i), 30)
        for i, p in enumerate(prompts_of((4, 1, 17, 9, 28), seed=3))
    ]
    total = n_waits = n_forced = 0
    for request in requests:
        fed.clear()
        (c,) = completions(ours, [request], cfg)
        text = request.prompt + c.ids
        assert fed[: len(text) - 1] == text[:-1] and len(fed) <= len(text) - 1 + decoder.POLL["cpu"]
        total, n_waits, n_forced = total + len(text) - 1, n_waits + c.n_waits, n_forced + c.forced
    assert n_waits > 5 and n_forced
    fed.clear()
    completions(ours, requests, cfg, slots=2)
    assert total <= len(fed) <= total + decoder.POLL["cpu"] * len(requests)


# ---- Budget forcing by script: s1's text


def s1_words():
    """A tokenizer of words in which a line break is a word, with s1's delimiters as special
    tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel

    words = [
        "<|im_end|>",
        "<|im_start|>",
        "?",
        "\n",
        ".\n",
        "\n\n\n",
        "user",
        "assistant",
        "think",
        "answer",
        "Final",
        "Answer",
        ":",
        "Wait",
        *"abcdefxyzq42",
    ]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(*how)
            for how in (("\n", "isolated"), (":", "isolated"), (" ", "removed"))
        ]
    )
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(word, special=True) for word in words[:2]])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return fast


@pytest.fixture(params=["words", "bpe"], scope="module")
def s1(request):
    """(tokenizer, a model that has its vocabulary; what the model wants will be scripted)."""
    tokenizer = s1_words() if request.param == "words" else bpe_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=99,
    )
    return tokenizer, AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()


CUE = "<|im_start|>answer\nFinal Answer:"  # a forced answer; NEWLINE before it unless one is there
NAMES = {"STOP": "<|im_end|>", "END": "<|im_start|>"}


def ids_of(tokenizer, *texts):
    """Token ids of texts, each encoded by itself; a text that is a word of the vocabulary is that
    word."""
    found = []
    for text in (NAMES.get(text, text) for text in texts):
        known = tokenizer.convert_tokens_to_ids(text)
        is_word = known not in (None, tokenizer.unk_token_id)
        found += [known] if is_word else tokenizer.encode(text, add_special_tokens=False)
    return found


def play(monkeypatch, s1, script, limit=30, form="s1", poll=1, **more):
    """Decode one prompt greedily. script: what the model wants at each place of its completion: a
    token's text, or (most wanted, second). While tokens are injected the model wants to stop, which
    must have no effect: an int in the script is that many such places. When the script is over, the
    model stops. Every step is one place."""
    poll_every(monkeypatch, poll)
    tokenizer, model = s1
    wishes = [
        wish
        for entry in script
        for wish in (["STOP"] * entry if isinstance(entry, int) else [entry])
    ]
    places = iter(range(10**6))

    def logits(model, hidden):
        place, out = next(places), torch.zeros(1, len(tokenizer))
        wish = wishes[place] if place < len(wishes) else "STOP"
        wanted = ids_of(tokenizer, *([wish] if isinstance(wish, str) else wish))
        out[0, wanted] = torch.tensor([9.0, 8.0])[: len(wanted)]
        return out

    monkeypatch.setattr(models, "next_token_logits", logits)
    form, cfg = FORMATS[form], settings(**{"max_tokens": 30, "wait": "Wait", **more})
    prompt = form.prompt_ids(tokenizer, "q")
    assert prompt[-len(ids_of(tokenizer, form.open)) :] == ids_of(tokenizer, form.open)
    (c,) = completions(model, [Request(prompt, 0, limit)], cfg, tokenizer=tokenizer, form=form)
    return c


def test_plain_decoder_of_s1_text():
    """generate.py's plain decoder on s1's text, whose end of thinking has two tokens and whose
    forced end begins with a line break unless there is one: 12 sampled requests as the batched
    decoder."""
    tokenizer, form = s1_words(), FORMATS["s1"]
    torch.manual_seed(2)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()
    prompt = form.prompt_ids(tokenizer, "q")
    sampling, seen = Sampling(1.0, wait="Wait a"), set()
    requests = [
        Request(prompt, random_key(1, i), 40, waits=i % 3, budget=(4, 9, None)[i // 4])
        for i in range(12)
    ]
    plain = dict(generate.decode_plainly(model, tokenizer, form, requests, sampling))
    for i, c in enumerate(decoded(model, requests, sampling, 4, tokenizer, form)):
        assert same(plain[i], c)
        text = tokenizer.decode(c.ids)
        end = text.find("<|im_start|>answer")
        if c.forced:
            seen.add("break" if text[:end].endswith("\n") else "no break")
        elif end >= 0:
            seen.add("own end")
    assert seen >= {"break", "own end"}


def test_budget_spent(monkeypatch, s1):
    """A b c d e f END wanted, budget 4: a b c d, line break, <|im_start|>answer, line break,
    Final Answer:"""
    n = len(ids_of(s1[0], "\n", CUE))
    c = play(monkeypatch, s1, [*"abcd", n, "4"], thinking_budget=4)
    assert c.ids == ids_of(s1[0], *"abcd", "\n", CUE, "4", "STOP")
    assert c.injected == [False] * 4 + [True] * n + [False] * 2
    assert (c.n_thinking, c.n_waits, c.forced, c.finish) == (4, 0, True, "stop")


@pytest.mark.parametrize("last", ["\n", ".\n"])
def test_no_second_line_break(monkeypatch, s1, last):
    """If the last token of thinking is a line break, or ends in one, none is added."""
    n = len(ids_of(s1[0], CUE))
    c = play(monkeypatch, s1, [*"abc", last, n, "4"], thinking_budget=4)
    assert c.ids == ids_of(s1[0], *"abc", last, CUE, "4", "STOP")
    assert c.injected == [False] * 4 + [True] * n + [False] * 2 and c.n_thinking == 4 and c.forced


def test_natural_end(monkeypatch, s1):
    """Budget 10 is not reached: a..f, then <|im_start|>answer without line break and without
    Final Answer. The first token of the delimiter is the model's own, the second is written for
    it."""
    c = play(monkeypatch, s1, [*"abcdef", "END", 1, "4"], thinking_budget=10)
    assert c.ids == ids_of(s1[0], *"abcdef", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False] * 7 + [True] + [False] * 2
    assert (c.n_thinking, c.n_waits, c.forced) == (6, 0, False)
    assert c.logp[6] < 0 and c.logp[7] == 0


def test_budget_0_answers_at_once(monkeypatch, s1):
    """No thinking: the delimiter follows the prompt, which ends in `think` and not in a line
    break."""
    c = play(monkeypatch, s1, [len(ids_of(s1[0], "\n", CUE)), "4"], thinking_budget=0)
    assert c.ids == ids_of(s1[0], "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.forced, c.finish) == (0, True, "stop")


def test_wait(monkeypatch, s1):
    """Waits = 1, x y END, then z END: x y Wait z <|im_start|>answer. The dropped END is not in
    the text."""
    c = play(monkeypatch, s1, ["x", "y", "END", "z", "END", 1, "4"], waits=1)
    assert c.ids == ids_of(s1[0], "x", "y", "Wait", "z", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, False, True, False, False, True, False, False]
    assert (c.n_thinking, c.n_waits, c.forced) == (4, 1, False)  # x y Wait z


def test_second_round_runs_out(monkeypatch, s1):
    """Waits = 2, round 2 ends by length: one Wait, then the forced form. Over both rounds x y
    Wait z z z = 6 tokens are the budget (s1's harness would give round 2 six of its own; its README
    and we do not)."""
    c = play(
        monkeypatch,
        s1,
        ["x", "y", "END", *"zzz", len(ids_of(s1[0], "\n", CUE)), "4"],
        waits=2,
        thinking_budget=6,
    )
    assert c.ids == ids_of(s1[0], "x", "y", "Wait", *"zzz", "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (6, 1, True)


def test_no_wait_without_room_for_a_token_behind_it(monkeypatch, s1):
    """Round 1 is 5 tokens and END. Budget 6: Wait would be the sixth and nothing could follow, so
    thinking ends naturally at 5. Budget 7: Wait and one more token fit, then the answer is
    forced."""
    c = play(monkeypatch, s1, [*"abcde", "END", 1, "4"], waits=1, thinking_budget=6)
    assert c.ids == ids_of(s1[0], *"abcde", "<|im_start|>answer", "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (5, 0, False)
    script = [*"abcde", "END", "z", len(ids_of(s1[0], "\n", CUE)), "4"]
    c = play(monkeypatch, s1, script, waits=1, thinking_budget=7)
    assert c.ids == ids_of(s1[0], *"abcde", "Wait", "z", "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (7, 1, True)


@pytest.mark.parametrize("stop", ["END", "STOP"])
def test_a_round_does_not_begin_with_a_stop(monkeypatch, s1, stop):
    """After Wait the model wants to end at once: its second wish is taken, for one token. Then it
    may end."""
    c = play(monkeypatch, s1, ["x", "END", (stop, "z"), stop, 1, "4"], waits=1)
    assert c.ids == ids_of(s1[0], "x", "Wait", "z", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, True, False, stop == "STOP", True, False, False]


def test_end_of_sequence_inside_thinking(monkeypatch, s1):
    """With a budget or waits it is an end of thinking: replaced by Wait, or by the delimiter, which
    is then wholly injected. Without forcing it stops the text; it is no token of thinking."""
    c = play(monkeypatch, s1, ["x", "STOP", "y", "STOP", 1, "4"], waits=1)
    assert c.ids == ids_of(s1[0], "x", "Wait", "y", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, True, False, True, True, False, False] and (
        c.n_waits,
        c.n_thinking,
    ) == (1, 3)
    c = play(monkeypatch, s1, ["x", "STOP", 1, "4"], thinking_budget=9)
    assert (
        c.ids == ids_of(s1[0], "x", "<|im_start|>answer", "4", "STOP")
        and not c.forced
        and c.n_thinking == 1
    )
    c = play(monkeypatch, s1, ["x", "STOP", "y"])
    assert (
        c.ids == ids_of(s1[0], "x", "STOP") and c.finish == "stop" and c.injected == [False, False]
    )
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
    """The decoder looks every few steps, here 8, for who is done. Cut at 2 tokens inside its
    thinking, a text has had no Wait and no forced end, although the steps behind its last token
    would have brought both."""
    c = play(monkeypatch, s1, ["x", "y", "END", "z", "z"], limit=2, poll=8, waits=1)
    assert c.ids == ids_of(s1[0], "x", "y") and (c.finish, c.n_waits, c.n_thinking) == (
        "length",
        0,
        2,
    )
    c = play(monkeypatch, s1, ["x", "y", "z", "z", "z"], limit=2, poll=8, thinking_budget=2)
    assert c.ids == ids_of(s1[0], "x", "y") and (c.finish, c.forced, c.n_thinking) == (
        "length",
        False,
        2,
    )


# ---- The other rules by script: harness budgets, no string, rejection, steps


def test_harness_rule_gives_each_round_the_whole_budget(monkeypatch, s1):
    """Both thinking calls get the same max_tokens, here 6. Round 1 is x y, round 2 runs into
    its own six: forced after 2 + Wait + 6 = 9 tokens of thinking, with a second wait left over."""
    n = len(ids_of(s1[0], "\n", CUE))
    c = play(
        monkeypatch,
        s1,
        ["x", "y", "END", *"zzzzzz", n, "4"],
        waits=2,
        thinking_budget=6,
        budget_rule="round",
    )
    assert c.ids == ids_of(s1[0], "x", "y", "Wait", *"zzzzzz", "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (9, 1, True)
    c = play(monkeypatch, s1, [*"abcdef", n, "4"], waits=2, thinking_budget=6, budget_rule="round")
    assert c.ids == ids_of(s1[0], *"abcdef", "\n", CUE, "4", "STOP") and (c.n_waits, c.forced) == (
        0,
        True,
    )


def test_harness_rule_and_its_natural_end(monkeypatch, s1):
    """Budget 6, one wait, each round 5 tokens and END: nothing is forced. The text shows both
    rounds; that the harness then cuts the ids to the budget we do not repeat. By the rule of the
    total the same script gets no Wait at all, for 5 + 1 leaves no room."""
    c = play(
        monkeypatch,
        s1,
        [*"abcde", "END", *"xyzxy", "END", 1, "4"],
        waits=1,
        thinking_budget=6,
        budget_rule="round",
    )
    assert c.ids == ids_of(s1[0], *"abcde", "Wait", *"xyzxy", "<|im_start|>answer", "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (11, 1, False)


def test_no_string(monkeypatch, s1):
    """With an empty string the text is x y z: where the model wants to end, its next wish is
    taken. That token is its own, drawn with END and STOP out of the way: logits 8 for z and 0 for
    the V - 3 others."""
    c = play(monkeypatch, s1, ["x", "y", ("END", "z"), "END", 1, "4"], waits=1, wait="")
    assert c.ids == ids_of(s1[0], "x", "y", "z", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, False, False, False, True, False, False]
    assert (c.n_thinking, c.n_waits, c.forced) == (3, 1, False)
    assert c.logp[2] == pytest.approx(8 - math.log(math.exp(8) + len(s1[0]) - 3), abs=1e-4)
    c = play(
        monkeypatch, s1, ["x", "y", ("STOP", "z"), ("END", "q"), "END", 1, "4"], waits=2, wait=""
    )
    assert (
        c.ids == ids_of(s1[0], "x", "y", "z", "q", "<|im_start|>answer", "4", "STOP")
        and c.n_waits == 2
    )


@pytest.mark.parametrize("budget, text", [(2, "xy"), (3, "xyz")])
def test_no_string_within_a_budget(monkeypatch, s1, budget, text):
    """x y and a wish to end. With a budget of 3 the token in its place is the third and the answer
    is forced; with 2 the budget was spent already."""
    script = ["x", "y", *[("END", "z")] * (budget - 2), len(ids_of(s1[0], "\n", CUE)), "4"]
    c = play(monkeypatch, s1, script, waits=1, wait="", thinking_budget=budget)
    assert c.ids == ids_of(s1[0], *text, "\n", CUE, "4", "STOP")
    assert (c.n_thinking, c.n_waits, c.forced) == (budget, budget - 2, True)


def test_minimum_of_thinking(monkeypatch, s1):
    """--min-thinking 5: x END (1 token), Wait y END (3), Wait z END (5): the third wish is granted.
    The first token is never an end. Together with one wait nothing changes, for that one was used
    up on the way."""
    for waits in (0, 1, 2):
        script = [("END", "x"), "END", ("END", "y"), "END", ("STOP", "z"), "END", 1, "4"]
        c = play(monkeypatch, s1, script, waits=waits, min_thinking=5)
        assert c.ids == ids_of(
            s1[0], "x", "Wait", "y", "Wait", "z", "<|im_start|>answer", "4", "STOP"
        )
        assert (c.n_thinking, c.n_waits, c.forced) == (5, 2, False)
    c = play(
        monkeypatch,
        s1,
        ["x", "END", "y", "END", "z", "END", "q", "END", 1, "4"],
        waits=3,
        min_thinking=5,
    )
    assert c.n_waits == 3 and c.n_thinking == 7


def test_rejection(monkeypatch, s1):
    """Limit 4, bodies of 7, 5 and 3 tokens: accepted at try 3, since 3 and the delimiter are
    4. The transition is the natural one and no cue is written. The tries before took 4 tokens and a
    look each."""
    script = [*"abcd", 1, *"abcd", 1, *"xyz", "END", 1, "4"]
    c = play(
        monkeypatch,
        s1,
        script,
        thinking_budget=4,
        temperature=1e-2,
        over_budget="reject",
        max_tries=9,
    )
    assert c.ids == ids_of(s1[0], *"xyz", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False] * 4 + [True] + [False] * 2
    assert (c.n_tries, c.n_thinking, c.forced, c.finish) == (3, 3, False, "stop")


def test_the_delimiter_counts(monkeypatch, s1):
    """A body of 4 and its delimiter are 5 tokens, more than 4. Nothing of an answer is
    written, the four tokens are kept, and no answer was forced."""
    c = play(monkeypatch, s1, [*"abcd", "END", 1, "4"], thinking_budget=4, over_budget="reject")
    assert c.ids == ids_of(s1[0], *"abcd") and not any(c.injected)
    assert (c.n_tries, c.finish, c.n_thinking, c.stop) == (1, "rejected", 4, None)
    assert c.forced is False


def test_tries_run_out(monkeypatch, s1):
    """Three tries of 4 tokens; the third is what is reported. A second look at the same place costs
    nothing: 15 steps."""
    asked, script = [], [*"abcd", 1, *"bcda", 1, *"cdab", 1]
    original = decoder.advance
    monkeypatch.setattr(decoder, "advance", lambda *rest: asked.append(1) or original(*rest))
    c = play(monkeypatch, s1, script, thinking_budget=4, over_budget="reject", max_tries=3)
    assert (
        c.ids == ids_of(s1[0], *"cdab")
        and (c.n_tries, c.finish) == (3, "rejected")
        and len(asked) == 15
    )


def test_a_rejected_sample_gets_other_random_numbers():
    """The second try of a sample is drawn with random_key(key, "again"): it is the text of a
    request with that key."""
    _, ours = twins("qwen2", END_BIAS)
    requests = [
        Request(p, random_key(5, i), 20, budget=3) for i, p in enumerate(prompts_of(range(2, 12)))
    ]
    once = decoded(ours, requests, Sampling(1.0, over_budget="reject", max_tries=1))
    twice = decoded(ours, requests, Sampling(1.0, over_budget="reject", max_tries=2))
    again = [r._replace(key=random_key(r.key, "again")) for r in requests]
    assert 2 < sum(c.finish == "rejected" for c in once) < 10
    for c, first, second in zip(
        twice, once, decoded(ours, again, Sampling(1.0, over_budget="reject"))
    ):
        if first.finish == "rejected":
            assert c == second._replace(n_tries=2) and c.ids != first.ids
        else:
            assert c == first


def steps(monkeypatch, s1, script, **more):
    return play(monkeypatch, s1, script, form="s1-steps", **more)


def test_steps_of_the_model_alone(monkeypatch, s1):
    """Each step begins with <|im_start|>, as does the answer: only `answer` behind it ends
    thinking. A stray `answer` is a word like any other. Nothing is injected."""
    c = steps(monkeypatch, s1, ["4", "\n", "answer", "END", "2", "\n", "b", "END", "answer", "4"])
    assert c.ids == ids_of(
        s1[0], "4", "\n", "answer", "END", "2", "\n", "b", "END", "answer", "4", "STOP"
    )
    assert not any(c.injected) and c.finish == "stop" and (c.n_waits, c.forced) == (0, False)


def test_steps_count_what_is_thought(monkeypatch, s1):
    """4 NEWLINE answer <|im_start|> 2 NEWLINE b before <|im_start|>answer: 7 tokens of thinking,
    whether the model ends by itself or is made to by --steps 2. In every other format the delimiter
    is no thinking either."""
    own = steps(monkeypatch, s1, ["4", "\n", "answer", "END", "2", "\n", "b", "END", "answer", "4"])
    made = steps(
        monkeypatch, s1, ["4", "\n", "answer", "END", "2", "\n", "b", "END", 1, "4"], steps=2
    )
    assert made.ids == own.ids and made.n_thinking == 7
    assert own.n_thinking == 7


@pytest.mark.parametrize("n", [1, 2, 3])
def test_steps_force_the_answer(monkeypatch, s1, n):
    """s1, §E.1: after n steps, that is at the n-th header (the first stands in the prompt), the
    answer follows: its <|im_start|> is the model's own, `answer` is written. Further headers, in
    the answer, count for nothing."""
    script = [token for k in range(n) for token in (str("42q"[k]), "a", "END")] + [
        1,
        "4",
        "END",
        "q",
        "END",
    ]
    c = steps(monkeypatch, s1, script, steps=n)
    expected = [token for k in range(n) for token in ("42q"[k], "a", "END")] + [
        "answer",
        "4",
        "END",
        "q",
        "END",
        "STOP",
    ]
    assert c.ids == ids_of(s1[0], *expected)
    assert [i for i, x in enumerate(c.injected) if x] == [3 * n]
    assert (c.n_thinking, c.forced, c.finish) == (3 * n - 1, False, "stop") and c.logp[
        3 * n - 1
    ] < 0 == c.logp[3 * n]


def test_steps_end_by_themselves_before_they_are_made_to(monkeypatch, s1):
    """--steps 3, and the model answers behind its second header, or at once behind the prompt's
    <|im_start|>."""
    c = steps(monkeypatch, s1, ["4", "END", "2", "END", "answer", "q", "END", "4"], steps=3)
    assert c.ids == ids_of(
        s1[0], "4", "END", "2", "END", "answer", "q", "END", "4", "STOP"
    ) and not any(c.injected)
    c = steps(monkeypatch, s1, ["answer", "4", "END", "END"], steps=1)
    assert (
        c.ids == ids_of(s1[0], "answer", "4", "END", "END", "STOP")
        and not any(c.injected)
        and c.n_thinking == 0
    )


def test_steps_under_a_budget_and_at_a_stop(monkeypatch, s1):
    """A budget forces the answer inside a step, with a line break. A stop token inside thinking
    becomes the whole delimiter when something is forced, else it ends the text."""
    n = len(ids_of(s1[0], "\n", CUE))
    for allowed in (0, 9):
        c = steps(monkeypatch, s1, ["4", "a", "END", "b", n, "4"], thinking_budget=4, steps=allowed)
        assert c.ids == ids_of(s1[0], "4", "a", "END", "b", "\n", CUE, "4", "STOP")
        assert (c.n_thinking, c.forced) == (4, True)
    c = steps(monkeypatch, s1, ["4", "answer", "b", n, "4"], thinking_budget=3)
    # no end of thinking
    assert c.ids == ids_of(s1[0], "4", "answer", "b", "\n", CUE, "4", "STOP") and c.forced
    c = steps(monkeypatch, s1, ["4", "a", "STOP", 1, "4"], steps=9)
    assert c.ids == ids_of(s1[0], "4", "a", "<|im_start|>answer", "4", "STOP")
    assert c.injected == [False, False, True, True, False, False] and not c.forced
    c = steps(monkeypatch, s1, ["4", "a", "STOP", "4"])
    assert c.ids == ids_of(s1[0], "4", "a", "STOP") and c.finish == "stop"


def test_steps_take_no_waits(monkeypatch, s1):
    with pytest.raises(BadInput, match="^--waits: --format s1-steps counts steps"):
        steps(monkeypatch, s1, ["a"], waits=1)


# ---- Stopping


def shown(s1, c):
    return completion_text(s1[0], c)


@pytest.mark.parametrize(
    "script, stop, text, found",
    [
        (["a", "x", "y", "z", "q"], ("yz",), "ax", "yz"),  # over two tokens
        (["a", "Final", "q"], ("inal",), "aF", "inal"),  # inside one
        # from the middle of one over another
        (["a", "Final", "x", "y", "q"], ("nalxy",), "aFi", "nalxy"),
        (["a", "END", "answer", "b", "z"], ("rb",), "a<|im_start|>answe", "rb"),
        (["a", "x", "y", "z"], ("zz", "xy"), "a", "xy"),  # the one that is complete first
        (["a", "x", "y", "z"], ("y", "a"), "", "a"),
        (["a", "a", "b", "a"], ("ab",), "a", "ab"),
        (["a", "\n\n\n", "b"], ("\n\n",), "a", "\n\n"),  # twice in one token: cut at the first
        (["x", "Wait", "x"], ("t", ""), "xWai", "t"),  # an empty string is no string
    ],
)
def test_stop_strings(monkeypatch, s1, script, stop, text, found):
    """In thinking as in the answer, across tokens or inside one. ids keep the token that completes
    the string, which has its log-probability; the text ends before the string."""
    c = play(monkeypatch, s1, script, stop=stop)
    n = next(
        n
        for n in range(1, 9)
        if any(s and s in s1[0].decode(ids_of(s1[0], *script[:n])) for s in stop)
    )
    assert c.ids == ids_of(s1[0], *script[:n]) and n <= len(script)
    assert (c.finish, c.stop) == ("stop", found) and not any(c.injected)
    assert len(c.logp) == len(c.ids) and max(c.logp) < 0
    assert shown(s1, c) == text


def test_stop_strings_that_do_not_occur(monkeypatch, s1):
    """The prompt ends in `think` and is not looked at; a string that the end-of-sequence token cuts
    off never comes; the end-of-sequence token ends the text by itself, also where a string would
    have ended in it."""
    c = play(monkeypatch, s1, ["a", "b"], stop=("ka", "bq", "b<|im_end|>"))
    assert c.ids == ids_of(s1[0], "a", "b", "STOP") and (c.finish, c.stop) == ("stop", None)
    assert shown(s1, c) == "ab"


def test_a_stop_string_at_the_limit_and_in_what_is_injected(monkeypatch, s1):
    """Completed by the last token that --max-tokens allows: a stop, not a cut. The forced cue is
    text like any other."""
    c = play(monkeypatch, s1, ["a", "b", "c"], limit=3, stop=("bc",))
    assert (c.finish, c.stop, shown(s1, c)) == ("stop", "bc", "a")
    c = play(monkeypatch, s1, ["a", "b", 9, "4"], thinking_budget=2, stop=("Final",))
    assert (
        c.ids == ids_of(s1[0], "a", "b", "\n", "<|im_start|>answer\nFinal")
        and c.injected[2:] == [True] * 5
    )
    assert (c.finish, c.stop, shown(s1, c)) == ("stop", "Final", "ab\n<|im_start|>answer\n")


def test_a_stop_string_of_half_characters(monkeypatch, s1):
    """A parrot takes several tokens of Qwen's tokenizer, none of them a character: found with the
    last of them."""
    parrot = s1[0].convert_ids_to_tokens(s1[0].encode("\N{PARROT}", add_special_tokens=False))
    if len(parrot) < 2:
        pytest.skip("this tokenizer has no bytes")
    c = play(monkeypatch, s1, ["a", *parrot, "b"], stop=("\N{PARROT}",))
    assert len(c.ids) == 1 + len(parrot) and c.stop == "\N{PARROT}" and shown(s1, c) == "a"


def test_stop_strings_against_the_whole_text():
    """24 sampled rows of the tiny world, 5 slots, five strings, most of them over words: each row
    ends at its first token whose text, decoded from the beginning, holds one of them."""
    _, ours = twins("qwen2")
    requests = [
        Request(p, random_key(9, i), 30) for i, p in enumerate(prompts_of(range(1, 25), seed=9))
    ]
    free = decoded(ours, requests, Sampling(1.0))
    strings = ("epeat m", "8 4", " = ", "5 ", "pare 2")
    found, n_stopped = decoded(ours, requests, Sampling(1.0, stop=strings), slots=5), 0
    for c, whole in zip(found, free):
        texts = [TOKENIZER.decode(whole.ids[:n]) for n in range(1, len(whole.ids) + 1)]
        n = next((n for n, text in enumerate(texts, 1) if any(s in text for s in strings)), None)
        if n is None or whole.ids[n - 1] == EOS:
            assert c == whole
        else:
            n_stopped += 1
            assert (
                c.ids == whole.ids[:n]
                and c.logp == whole.logp[:n]
                and c.finish == "stop"
                and c.stop in texts[n - 1]
            )
            assert completion_text(TOKENIZER, c) == texts[n - 1][: texts[n - 1].index(c.stop)]
    assert 3 < n_stopped < 22


def test_several_stop_tokens(monkeypatch, s1):
    """The tokenizer's, and those of the model's generation config (a number or a list): each ends
    the text; it is kept with its log-probability and not shown."""
    tokenizer, model = s1
    z, q = ids_of(tokenizer, "z", "q")
    for own in (z, [z, q]):
        monkeypatch.setattr(model.generation_config, "eos_token_id", own)
        for last in ("z", "q", "STOP"):
            c = play(monkeypatch, s1, ["a", "b", last, "c"])
            expected = ["a", "b", last] if last != "q" or own != z else ["a", "b", "q", "c", "STOP"]
            assert c.ids == ids_of(tokenizer, *expected) and (c.finish, c.stop) == ("stop", None)
            assert c.logp[-1] < 0 and not c.injected[-1] and shown(s1, c) == "".join(expected[:-1])


def test_a_stop_token_inside_forced_thinking(monkeypatch, s1):
    """It is an end of thinking, as end-of-sequence is; a round does not begin with it."""
    tokenizer, model = s1
    monkeypatch.setattr(model.generation_config, "eos_token_id", ids_of(tokenizer, "q"))
    c = play(monkeypatch, s1, ["x", "q", ("q", "y"), "q", 1, "4", "q"], waits=1)
    assert c.ids == ids_of(tokenizer, "x", "Wait", "y", "<|im_start|>answer", "4", "q")
    assert c.finish == "stop"


# ---- Logits that are no numbers

RARE = 151  # a word of the model that no text of its can hold


@contextlib.contextmanager
def embedding(model, token, value):
    """What a token means to the model, for a while."""
    weight = model.get_input_embeddings().weight.data
    before = weight[token].clone()
    weight[token] = value
    try:
        yield
    finally:
        weight[token] = before


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "more",
    [{}, {"temperature": 0.9}, {"temperature": 0.9, "top_k": 7, "top_p": 0.9}],
    ids=str,
)
def test_broken_logits_end_one_row(monkeypatch, value, more):
    """One number of one row is NaN or infinite at its sixth token: that row ends with "nan" and its
    first five tokens; the 12 others, before and behind it in the 3 slots, have the texts that they
    have without it."""
    sampling, original, (_, model) = (
        Sampling(wait="wait", **more),
        decoder.advance,
        twins("qwen2", END_BIAS),
    )
    requests = [
        Request(p, random_key(8, i), 24, waits=i % 3)
        for i, p in enumerate(prompts_of(range(4, 17), seed=12))
    ]
    reference = decoded(model, requests, sampling, slots=3)
    victim = next(i for i in range(4, 13) if len(reference[i].ids) > 9)

    def advance(state, logits, *rest):
        bad = (state["key"] == requests[victim].key) & (state["n"] == 5)
        logits[:, 17] = torch.where(bad, value, logits[:, 17])
        return original(state, logits, *rest)

    monkeypatch.setattr(decoder, "advance", advance)
    for c, expected, i in zip(decoded(model, requests, sampling, slots=3), reference, range(13)):
        if i == victim:
            assert (
                c.ids == expected.ids[:5]
                and c.finish == "nan"
                and len(c.logp) == len(c.injected) == 5
            )
        else:
            assert c == expected


def test_broken_logits_while_something_is_injected(monkeypatch, s1):
    """Nothing was drawn, but what follows would come from the same state: the row ends there
    too."""
    original = decoder.advance
    monkeypatch.setattr(
        decoder,
        "advance",
        lambda state, logits, *rest: original(
            state, torch.where((state["n"] == 4)[:, None], math.nan, logits), *rest
        ),
    )
    c = play(monkeypatch, s1, ["x", "y", 9, "4"], thinking_budget=2)
    assert c.ids == ids_of(s1[0], "x", "y", "\n", "<|im_start|>") and c.finish == "nan"


def expect_nan_for(victims, requests, slots=(1, 2, 3, 13)):
    """With RARE meaning NaN the victims end before their first token; all others have the texts
    they have without."""
    _, model = twins("qwen2", END_BIAS)
    reference = decoded(
        model, [r for i, r in enumerate(requests) if i not in victims], Sampling(1.0), 2
    )
    assert len({tuple(c.ids) for c in reference}) > 3
    for n in slots:
        with embedding(model, RARE, math.nan):
            found = decoded(model, requests, Sampling(1.0), n)
        assert [i for i, c in enumerate(found) if c.finish == "nan"] == sorted(victims), n
        assert all(found[i].ids == [] for i in victims)
        assert [c for i, c in enumerate(found) if i not in victims] == reference, n


@pytest.mark.parametrize("place", [0, 4, -1])
def test_a_prompt_of_nan_reaches_nobody(place):
    """NaN goes through the hidden states into the cache of one slot, from the first, a middle or
    the last token of the prompt on. 13 rows; the broken one is the second of many that are encoded
    together, longer than most."""
    prompts = prompts_of((3, 12, 5, 7, 2, 17, 4, 9, 1, 8, 6, 20, 11), seed=13)
    prompts[1][place] = RARE
    requests = [Request(p, random_key(3, i), 14 + i) for i, p in enumerate(prompts)]
    expect_nan_for({1}, requests)


def test_a_short_prompt_of_nan_between_long_ones():
    """Prompts are encoded in one padded block; the padding of each is not to be taken from a
    neighbour."""
    prompts = prompts_of((9, 2, 10, 3, 4, 11), seed=14)
    for i in (1, 3):
        prompts[i][0] = RARE
    expect_nan_for(
        {1, 3}, [Request(p, random_key(3, i), 20) for i, p in enumerate(prompts)], slots=(2, 6)
    )


def test_a_shared_prompt_of_nan_does_not_stay_behind():
    """Four samples of a prompt of 20 tokens with NaN through 2 slots: its encoding waits in the
    spare slot. Then three of a prompt of 4 tokens: two at once, and the third, from the spare slot,
    beside a prompt of 26 tokens. What the NaN left behind the fourth cell must not come along."""
    broken, short, long = prompts_of((20, 4, 26), seed=15)
    broken[2] = RARE
    prompts, limits = [broken] * 4 + [short] * 3 + [long] * 2, [9, 9, 9, 9, 2, 2, 11, 9, 3]
    requests = [Request(p, random_key(6, i), m) for i, (p, m) in enumerate(zip(prompts, limits))]
    expect_nan_for({0, 1, 2, 3}, requests, slots=(2, 3))


def test_what_a_finished_row_computes_on_its_way_out_reaches_nobody(monkeypatch):
    """A row that is done steps along until it is taken out, and feeds its end-of-sequence token,
    which no text does. Here that gives NaN, behind the end of its text; the slot's next tenants
    never notice."""
    poll_every(monkeypatch, 5)
    _, model = twins("qwen2", END_BIAS)
    requests = [
        Request(p, random_key(11, i), 24)
        for i, p in enumerate(prompts_of([5, 3, 9, 2, 30, 4, 7, 6, 28, 3]))
    ]
    reference = decoded(model, requests, Sampling(1.0), slots=2)
    assert sum(c.finish == "stop" for c in reference) > 3
    with embedding(model, EOS, math.nan):
        assert decoded(model, requests, Sampling(1.0), slots=2) == reference


# ---- Prompts that are shared, slots that fit


@pytest.mark.parametrize("slots", [1, 2, 3, 20])
def test_a_prompt_is_encoded_once_for_all_its_samples(monkeypatch, slots):
    """Groups A (6 samples), B (5), A (4) and C (3), C of one token: what is encoded ahead of the
    steps is each group's prompt but for its last token, once, also when the group comes into 2
    slots by and by; A may be kept for its second group. The texts are those that each sample has
    alone."""
    _, ours = twins("qwen2", END_BIAS)
    a, b, c = prompts_of((23, 8, 1), seed=16)
    requests = [
        Request(p, random_key(12, i), 9 + i)
        for i, p in enumerate([a] * 6 + [b] * 5 + [a] * 4 + [c] * 3)
    ]
    alone = [decoded(ours, [r], Sampling(1.0))[0] for r in requests]
    encoded, original = [], models.hidden_states

    def hidden_states(model, ids, positions, sequences):
        if isinstance(sequences, attention.Prefill):
            encoded.append(ids.tolist())
        return original(model, ids, positions, sequences)

    monkeypatch.setattr(models, "hidden_states", hidden_states)
    assert decoded(ours, requests, Sampling(1.0), slots) == alone
    assert [i for ids in encoded for i in ids] == a[:-1] + b[:-1] + a[:-1]


def test_shared_prompts_with_forcing_equal_the_oracle():
    """Groups whose members have different budgets, and samples that are tried again while their
    group is still coming in: through 2, 3 and 20 slots as without a cache."""
    _, ours = twins("qwen2", END_BIAS)
    a, b = prompts_of((11, 6), seed=17)
    requests = [
        Request(p, random_key(13, i), 20, budget=2 + i % 5)
        for i, p in enumerate([a] * 5 + [b] * 4 + [a] * 3)
    ]
    sampling = Sampling(1.0, over_budget="reject", max_tries=9)
    expected = [naive(r, sampling) for r in requests]
    assert max(e.n_tries for e in expected) > 2
    for slots in (2, 3, 20):
        assert all(same(c, e) for c, e in zip(decoded(ours, requests, sampling, slots), expected))


def test_slots_fit_into_memory(monkeypatch):
    """The qwen2 twin caches 2 · 3 layers · 2 heads · 8 numbers of 8 bytes = 768 bytes a token; 20 +
    30 tokens take 38,400 bytes. Four fifths of 250,000 bytes hold 5.2 of them: 4 slots and the
    spare one. 96,000 bytes hold 2.0: one slot. With one byte less nothing is left for a sequence,
    and the refusal says in one line of what length."""
    _, ours = twins("qwen2")
    requests = [Request(p, random_key(0, i), 30) for i, p in enumerate(prompts_of([20] * 9))]
    reference, sizes, caches, original = (
        decoded(ours, requests, Sampling(1.0), 9),
        [],
        [],
        kv_cache.Cache,
    )
    assert kv_cache.bytes_per_token(ours) == 768
    monkeypatch.setattr(kv_cache, "Cache", lambda *size: caches.append(size[1:]) or original(*size))
    for free, slots in ((250_000, 4), (96_000, 1), (10**9, 9)):
        monkeypatch.setattr(machine, "free_memory", lambda device: free)
        assert decoder.fit_slots(ours, requests, 99) == slots and decoder.fit_slots(
            ours, requests, 3
        ) == min(3, slots)
        found = dict(
            decode(
                ours,
                TOKENIZER,
                THINK,
                requests,
                Sampling(1.0),
                99,
                watch=lambda s, n: sizes.append(n),
            )
        )
        assert [found[i] for i in range(9)] == reference and max(sizes) == slots
        assert caches.pop() == (slots + 1, 50)
        sizes.clear()
    monkeypatch.setattr(machine, "free_memory", lambda device: 95_999)
    with pytest.raises(
        BadInput, match="--max-tokens: the memory left does not hold .* 50 tokens"
    ) as error:
        decoded(ours, requests)
    assert "\n" not in str(error.value) and not caches


# ---- A step as a CUDA graph sees it

SETTINGS = {
    "greedy": Sampling(wait="wait ,"),
    "sampled": Sampling(0.9, top_k=20, top_p=0.9, wait="wait ,"),
    "no string": Sampling(0.9, wait="", budget_rule="round"),
    "reject": Sampling(1.0, wait="wait", over_budget="reject", max_tries=3),
}
BANNED = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "unique",
    "lift_fresh",
    "bincount",
    "_unique2",
    "repeat_interleave",
    "_assert_async",
)
READERS = (
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__array__",
)


class Asked(TorchDispatchMode):
    """Notes the operations by which a step would ask the device for a value, or bring one to it."""

    def __init__(self):
        super().__init__()
        self.found, self.n = [], 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        with self:  # an operation made of others: look at those
            result = function.decompose(*arguments, **(options or {}))
        if result is not NotImplemented:
            return result
        name, self.n = function.overloadpacket.__name__, self.n + 1
        masks = (
            [x for x in tree_leaves(arguments[1]) if torch.is_tensor(x)]
            if name.startswith(("index", "_index")) and isinstance(arguments[1], (list, tuple))
            else []
        )
        if name in BANNED or any(x.dtype in (torch.bool, torch.uint8) for x in masks):
            self.found.append(name)
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def asked():
    """Operations that ask, and calls of Tensor.tolist and the like, inside the block."""
    with pytest.MonkeyPatch.context() as patch, Asked() as mode:
        for name in READERS:
            original = getattr(torch.Tensor, name)
            patch.setattr(
                torch.Tensor,
                name,
                lambda *rest, name=name, original=original, **options: (
                    mode.found.append(name) or original(*rest, **options)
                ),
            )
        yield mode


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x[x > 1],
        lambda x: x.__setitem__(x > 1, 0),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0]) + x,
        lambda x: x[int(x.argmax()) :],
        lambda x: x.masked_select(x > 1),
        lambda x: torch.equal(x, x),
        lambda x: torch.where(x > 1),
        lambda x: x.cpu().numpy(),
    ],
)
def test_the_watch_for_questions_works(question):
    for guard in (torch.no_grad(), torch.inference_mode()):
        with guard, asked() as mode:
            question(torch.arange(4.0))
        assert mode.found


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_step_asks_the_device_for_nothing(monkeypatch, name, kind):
    """No value is read, no mask indexes, no constant is copied in, in any step of 9 forced rows."""
    _, ours = twins(kind, END_BIAS)
    original, n_steps = decoder.Stepper.run, []

    def run(*arguments):
        with asked() as mode:
            original(*arguments)
        assert not mode.found and mode.n > 50
        n_steps.append(mode.n)

    monkeypatch.setattr(decoder.Stepper, "run", run)
    decoded(ours, mixed_requests(9, seed=1), SETTINGS[name], slots=3)
    assert len(n_steps) > 30


def test_a_step_of_counted_steps_asks_for_nothing(monkeypatch, s1):
    original, n_steps = decoder.Stepper.run, []

    def run(*arguments):
        with asked() as mode:
            original(*arguments)
        n_steps.append(mode.found)

    monkeypatch.setattr(decoder.Stepper, "run", run)
    tokenizer, model = s1
    prompt = FORMATS["s1-steps"].prompt_ids(tokenizer, "q")
    requests = [Request(prompt, i, 12, steps=i, budget=7) for i in range(4)]
    decoded(model, requests, Sampling(1.0), 4, tokenizer, FORMATS["s1-steps"])
    assert len(n_steps) >= 12 and not any(n_steps)


def test_the_state_stays_where_it_is(monkeypatch):
    """A graph reads and writes the addresses it was recorded with: through steps, refills and moves
    of 13 rows in 4 slots each tensor of the state and of the cache stays where it was allocated."""
    _, ours = twins("qwen2", END_BIAS)
    caches, places, original = [], set(), kv_cache.Cache
    monkeypatch.setattr(
        kv_cache, "Cache", lambda *size: caches.append(original(*size)) or caches[-1]
    )

    def watch(state, n):
        tensors = [*state.values(), *caches[0].keys, *caches[0].values]
        places.add(tuple(x.data_ptr() for x in tensors))
        sizes.add(n)

    sizes, requests = set(), mixed_requests(13, seed=2)
    found = dict(decode(ours, TOKENIZER, THINK, requests, Sampling(0.9, wait="wait"), 4, watch))
    assert len(found) == 13 and sizes == {1, 2, 3, 4}
    assert len(places) == 1 and len(set(*places)) == len(decoder.new_state(1, 1, "cpu")) + 6


class Tape:
    """torch.cuda.CUDAGraph on a CPU: operations on fixed tensors, recorded once and then repeated
    as they stand."""

    made = []

    def __init__(self):
        self.operations, self.n_replays = [], 0
        Tape.made.append(self)

    def replay(self):
        """What was a number while recording stays that number; what was a tensor is read and
        written where it was."""
        self.n_replays += 1
        for function, arguments, options, result in self.operations:
            again = function(*arguments, **options)
            for old, new in zip(tree_leaves(result), tree_leaves(again)):
                if (
                    torch.is_tensor(old)
                    and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
                ):
                    old.copy_(new)

    def pool(self):
        return None


class Record(TorchDispatchMode):
    """torch.cuda.graph on a CPU: what runs inside goes onto the tape and, in the end, has changed
    nothing."""

    def __init__(self, tape, pool=None):
        super().__init__()
        self.tape, self.before, self.own = tape, {}, set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        with self:
            result = function.decompose(*arguments, **(options or {}))
        if result is not NotImplemented:
            return result
        for x in tree_leaves((arguments, options or {})):
            if torch.is_tensor(x) and (place := x.untyped_storage()).data_ptr() not in self.own:
                self.before.setdefault(place.data_ptr(), (place, place.clone()))
        result = function(*arguments, **(options or {}))
        self.own |= {
            x.untyped_storage().data_ptr() for x in tree_leaves(result) if torch.is_tensor(x)
        } - set(self.before)
        self.tape.operations.append(
            (function, tree_map(lambda x: x, arguments), dict(options or {}), result)
        )
        return result

    def __exit__(self, *error):
        super().__exit__(*error)
        for place, content in self.before.values():
            place.copy_(content)


def on_tape(monkeypatch):
    """Let the decoder do on this CPU what it does on CUDA."""
    original = decoder.Stepper.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.use_graphs = True

    monkeypatch.setattr(decoder.Stepper, "__init__", init)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", Record)
    monkeypatch.setattr(Tape, "made", [])
    poll_every(monkeypatch, 8)


@pytest.mark.parametrize(
    "name, kind", [(name, "qwen2") for name in SETTINGS] + [("sampled", kind) for kind in SHAPES]
)
def test_recorded_steps_give_the_same_texts(monkeypatch, name, kind):
    """16 forced requests through 5 slots: steps of 5, 4, 2 and 1 sequences are recorded once each
    and repeated for all the others, while slots are refilled and holes filled. Texts and
    log-probabilities equal the ordinary decoder's."""
    _, ours = twins(kind, END_BIAS)
    requests = mixed_requests(16, seed=3)
    reference = decoded(ours, requests, SETTINGS[name], slots=5)
    on_tape(monkeypatch)
    found = decoded(ours, requests, SETTINGS[name], slots=5)
    assert all(same(c, e) for c, e in zip(found, reference))
    assert 2 <= len(Tape.made) <= 4 and sum(tape.n_replays for tape in Tape.made) > 5 * len(
        Tape.made
    )


def test_recorded_steps_stop_at_strings_and_tokens(monkeypatch):
    """Stop strings are looked for between the steps; what they end must not go on in a recorded
    step."""
    _, ours = twins("qwen2")
    requests = [
        Request(p, random_key(9, i), 30) for i, p in enumerate(prompts_of(range(1, 25), seed=9))
    ]
    sampling = Sampling(1.0, stop=("epeat m", "8 4", "5 "))
    stops = [EOS, *ids_of(TOKENIZER, "u")]
    monkeypatch.setattr(ours.generation_config, "eos_token_id", stops)
    reference = decoded(ours, requests, sampling, slots=5)
    on_tape(monkeypatch)
    assert decoded(ours, requests, sampling, slots=5) == reference
    assert {c.stop for c in reference} >= {None, "8 4"} and any(
        c.ids[-1] == ids_of(TOKENIZER, "u")[0] for c in reference
    )


def test_recorded_steps_of_a_broken_row(monkeypatch):
    """A step is recorded for 1, 2, 4 or all slots, so that rows which are done step along behind
    the live ones. One of them, ended by NaN, feeds a token whose meaning is NaN; the next tenant of
    its slot must not read it."""
    on_tape(monkeypatch)
    prompts = prompts_of((5, 9, 4, 3, 6, 7, 8, 2, 5, 4), seed=18)
    prompts[2][-1] = PAD  # the largest of NaN logits is the first: PAD once more
    requests = [
        Request(p, random_key(3, i), 3 if i == 2 else 9 + 4 * i) for i, p in enumerate(prompts)
    ]
    _, model = twins("qwen2", END_BIAS)
    reference = decoded(model, requests, slots=4)
    assert not any(PAD in c.ids for c in reference)
    with embedding(model, PAD, math.nan):
        found = decoded(model, requests, slots=4)
    assert found[2].finish == "nan" and found[2].ids == []
    assert [c for i, c in enumerate(found) if i != 2] == [
        c for i, c in enumerate(reference) if i != 2
    ]
