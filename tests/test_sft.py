"""sft.py: schedule and plan by hand, the loss against transformers, invariances of the step, resuming, refusals.

A random Qwen3 of 2 layers with the tiny world's vocabulary (149 words) and 13 rows of 10 to 60 tokens; a step takes
about 10 ms. Weights are compared after steps of plain SGD where an invariance of the gradient is meant: Adam divides by
the gradient's size and so would turn rounding in a gradient of 1e-9 into a step of full length.
"""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_training import Two, sgd
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import sft
from data import tiny
from engine import checkpoints, loading, packing, runlog, sharding, template, training
from engine import model as models
from engine.checkpoints import saved_checkpoints
from engine.format import FORMATS
from engine.rows import BadInput, write_rows
from engine.training import make_optimizers, update
from sft import Config, encode, evaluation_steps, main, plan_steps

ROOT = Path(__file__).resolve().parent.parent
N_ROWS, BATCH = 13, 5  # 3 steps an epoch: 5, 5 and 3 rows


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Directory with a random model, tokenizer and rows.jsonl."""
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tiny.VOCABULARY),
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    loading.save(Qwen3ForCausalLM(config), tiny.tokenizer(), path / "model")
    rows = [row for row in tiny.teacher_pool(60, 0) if row["n_thinking_tokens"] <= 45][:N_ROWS]
    write_rows(path / "rows.jsonl", rows)
    return path


def config(base, out, **more):
    settings = dict(
        format="think",
        epochs=3,
        batch_rows=BATCH,
        lr=1e-2,
        print_every=0,
        save_every=1000,
    )
    paths = dict(model=str(base / "model"), data=str(base / "rows.jsonl"), out=str(out))
    return Config(**{**paths, **settings, **more})


def rows_of(base):
    return [json.loads(line) for line in (base / "rows.jsonl").read_text().splitlines()]


def weights(path):
    return load_file(Path(path) / "model.safetensors")


def log_of(path):
    """Lines of log.jsonl without the one value that is a speed."""
    rows = [json.loads(line) for line in (Path(path) / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("tok_s", "memory_gb")} for row in rows]


def plain_sgd(monkeypatch):
    """Gradient descent in place of AdamW."""

    def optimizers(model, lr, *_):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        optimizer.param_groups[0]["peak"] = lr
        return [optimizer]

    monkeypatch.setattr(training, "make_optimizers", optimizers)


# ---- learning rate


# ---- plan


def test_s1_plan():
    """1,000 rows by 16: 62 full steps and one of 8 = 63 an epoch, 315 in 5; every row once an epoch."""
    steps = plan_steps([1] * 1000, epochs=5, batch_rows=16, batch_tokens=0, seed=42)
    assert len(steps) == 315
    for epoch in range(5):
        part = steps[63 * epoch : 63 * (epoch + 1)]
        assert [len(step) for step in part] == [16] * 62 + [8]
        assert sorted(i for step in part for i in step) == list(range(1000))
    orders = [[i for step in steps[63 * e : 63 * (e + 1)] for i in step] for e in range(5)]
    assert len({tuple(order) for order in orders}) == 5  # each epoch has its own order


def test_plan_depends_on_the_seed_alone():
    torch.manual_seed(1)
    a = plan_steps([3] * 40, 2, 7, 0, seed=42)
    torch.manual_seed(2)
    assert plan_steps([9] * 40, 2, 7, 0, seed=42) == a != plan_steps([3] * 40, 2, 7, 0, seed=43)
    assert plan_steps([3] * 40, 5, 7, 0, seed=42)[: len(a)] == a


def test_plan_by_tokens():
    """At most 10 tokens a step; a row of 12 has a step of its own; 3 epochs of 53 tokens need 7 steps (12, 10, 7+3, 6+4,
    5+3+2, 1 by hand: 6) each at most; steps come in another order and rows in other company each epoch; --batch-rows
    plays no part."""
    lengths = [3, 12, 4, 5, 10, 1, 6, 2, 7, 3]
    steps = plan_steps(lengths, epochs=3, batch_rows=2, batch_tokens=10, seed=0)
    assert sorted(i for step in steps for i in step) == sorted(3 * list(range(10)))
    sums = [sum(lengths[i] for i in step) for step in steps]
    assert all(total <= 10 or step == [1] for total, step in zip(sums, steps)) and [1] in steps
    assert len(steps) <= 3 * 7 and max(map(len, steps)) > 2
    n = len(steps) // 3
    assert (
        sorted(i for step in steps[:n] for i in step) == list(range(10))
        and steps[:n] != steps[n : 2 * n]
    )
    assert steps == plan_steps(lengths, 3, 99, 10, seed=0) != plan_steps(lengths, 3, 2, 10, seed=1)


def s1_lengths(n, seed=0):
    """Tokens of n rows like s1's (§4.1, Table 8): three in four above 4,096, none past 32,768."""
    normal = torch.empty(n).log_normal_(8.8, 0.7, generator=torch.Generator().manual_seed(seed))
    return normal.clamp(300, 32768).int().tolist()


def test_packing_is_98_percent_full_and_still_shuffled():
    """1,000 rows into steps of 32,768 tokens: 98% full in every epoch, and of two rows that share a step in one epoch
    hardly any share one in the next."""
    lengths = s1_lengths(1000)
    assert 0.6 < sum(n > 4096 for n in lengths) / 1000 < 0.9
    pairs = []
    steps = plan_steps(lengths, 3, 16, 32768, seed=42)
    ends = [0]
    for _ in range(3):
        n_rows, at = 0, ends[-1]
        while n_rows < 1000:
            n_rows, at = n_rows + len(steps[at]), at + 1
        ends.append(at)
        epoch = steps[ends[-2] : at]
        assert sorted(i for step in epoch for i in step) == list(range(1000))
        assert sum(lengths) / len(epoch) / 32768 >= 0.98
        pairs.append({pair for step in epoch for pair in itertools.combinations(sorted(step), 2)})
        places = torch.tensor(
            [[place, lengths[i]] for place, step in enumerate(epoch) for i in step],
            dtype=torch.float,
        )
        assert abs(torch.corrcoef(places.T)[0, 1]) < 0.2  # long rows come at no particular time
    assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0]) and len(pairs[1] & pairs[2]) < 0.2 * len(
        pairs[1]
    )


# ---- rows to tokens


def test_encode_counts_what_it_cuts_and_drops(base):
    """Three rows by hand, prompt `<user> make 7 from 1 2 4 <bot>` = 8 tokens, then <think> t </think> r <eos>. With
    t of 3, 6 and 1 tokens and r of 1: 15, 18 and 13 tokens. The limit is 15."""
    rows = [
        {"question": "make 7 from 1 2 4", "thinking": t, "response": "7"}
        for t in ("a b c", "a b c d e f", "a")
    ]
    tokenizer = tiny.tokenizer()
    cfg = config(base, "x", max_length=15)
    examples, counts = encode(rows, tokenizer, cfg, context=128)
    assert [len(ids) for ids, _ in examples] == [15, 15, 12 + 1]
    assert counts == {"rows": 3, "cut": 1, "dropped": 0}
    assert list(examples[1][0]) == FORMATS["think"].training_ids(tokenizer, rows[1])[0][:15]
    assert list(examples[1][1]) == [False] * 8 + [True] * 7
    examples, counts = encode(rows, tokenizer, dataclasses.replace(cfg, overlong="drop"), 128)
    assert [len(ids) for ids, _ in examples] == [15, 13] and counts == {
        "rows": 3,
        "cut": 0,
        "dropped": 1,
    }
    examples, counts = encode(
        rows, tokenizer, dataclasses.replace(cfg, max_length=1000), context=14
    )
    # the context is a limit too
    assert [len(ids) for ids, _ in examples] == [14, 14, 13] and counts["cut"] == 2
    assert rows[1]["thinking"] == "a b c d e f" and len(rows[1]) == 3


def test_a_row_cut_down_to_its_prompt_is_dropped(base):
    """The prompts have 8 and 12 tokens: at 10 the second row would train nothing; at 8 no row is left."""
    rows = [
        {"question": "make 7 from 1 2 4", "response": "7"},
        {"question": "sort 1 2 3 4 5 6 7 8 9", "response": "1"},
    ]
    examples, counts = encode(rows, tiny.tokenizer(), config(base, "x", max_length=10), 128)
    assert len(examples) == 1 and counts == {"rows": 2, "cut": 1, "dropped": 1}
    with pytest.raises(BadInput, match="no row is left within --max-length 8"):
        encode(rows, tiny.tokenizer(), config(base, "x", max_length=8), 128)
    examples, counts = encode(
        rows, tiny.tokenizer(), config(base, "x", max_length=8, train_on="all"), 128
    )
    assert [sum(trained) for _, trained in examples] == [8, 8] and counts["cut"] == 2


def test_one_token_rows_do_not_divide_by_zero(base, tmp_path):
    """--train-on all --max-length 1 leaves rows whose only token is predicted by nothing: refused, not NaN."""
    with pytest.raises(BadInput, match="no row is left"):
        main(config(base, tmp_path / "out", train_on="all", max_length=1, epochs=1))


def words_without(*missing):
    """A word-level tokenizer like the tiny world's that lacks some words: they become <unk>."""
    words = Tokenizer(
        WordLevel(
            {w: i for i, w in enumerate(w for w in tiny.VOCABULARY if w not in missing)},
            unk_token="<unk>",
        )
    )
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = tiny.tokenizer().chat_template
    return tokenizer


@pytest.mark.parametrize("name, delimiter", [("s1", "<|im_start|>answer"), ("think", "</think>")])
def test_a_tokenizer_without_the_delimiter_is_refused(base, name, delimiter):
    """<|im_start|>answer is <unk> in the tiny world, </think> in one that lacks the word. The decoder could not see the
    end of thinking, and the model would learn to write <unk>: say so before training. <unk> being a special token
    does not make it the delimiter."""
    with pytest.raises(BadInput, match=f"--format {name}: ") as caught:
        encode(
            rows_of(base), words_without("<think>", "</think>"), config(base, "x", format=name), 128
        )
    assert delimiter in str(caught.value)


def test_a_tokenizer_that_splits_the_delimiter(base, bpe):
    """As Qwen2.5's does, the tokenizer writes </think> as ordinary tokens: they are trained."""
    rows = rows_of(base)
    examples, _ = encode(rows, bpe, config(base, "x"), 10**6)
    for row, (ids, trained) in zip(rows, examples):
        text = bpe.decode(ids[list(trained).index(1) :])
        assert text == f"<think>\n{row['thinking']}\n</think>\n\n{row['response']}<|im_end|>"
    with pytest.raises(BadInput, match="--format s1: .* cannot spell it"):
        tokenizer = AutoTokenizer.from_pretrained(base / "model")
        encode(rows, tokenizer, config(base, "x", format="s1"), 128)


# ---- loss


def mean_nll(base, with_prompt=False):
    """Mean negative log-likelihood of all rows, one at a time with transformers' own model: of thinking, response, both
    delimiters and EOS, the prompt only if asked. -> (mean, count)"""
    model = AutoModelForCausalLM.from_pretrained(base / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    total, n = 0.0, 0
    for row in rows_of(base):
        prompt = f"<user> {row['question']} <bot>".split()
        completion = f"<think> {row['thinking']} </think> {row['response']} <eos>".split()
        ids = tokenizer.convert_tokens_to_ids(prompt + completion)
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(1)
        for at in range(1 if with_prompt else len(prompt), len(ids)):
            total -= logp[at - 1, ids[at]].item()
            n += 1
    return total / n, n


@pytest.mark.parametrize("train_on", ["completion", "all"])
def test_loss_is_the_mean_nll_of_the_trained_tokens(base, tmp_path, train_on):
    """The first line of the log, all 13 rows in one step, against transformers: 1e-6 relative. With and without the
    prompt differ by more than 1e-3, and leaving out the 13 EOS would change n_trained."""
    expected, n = mean_nll(base, with_prompt=train_on == "all")
    history = main(config(base, tmp_path / "out", epochs=1, batch_rows=N_ROWS, train_on=train_on))
    assert len(history) == 1 and history[0]["n_trained"] == n
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-6)
    by_hand = sum(
        row["n_thinking_tokens"] + len(row["response"].split()) + 3 for row in rows_of(base)
    )
    # without the very first token
    prompts = sum(len(row["question"].split()) + 1 for row in rows_of(base))
    assert n == by_hand + (prompts if train_on == "all" else 0)
    assert abs(mean_nll(base)[0] - mean_nll(base, True)[0]) > 1e-3


def test_what_is_scored(base, tmp_path, monkeypatch):
    """The batches that reach the model, decoded: of each row exactly the completion, its EOS last, nothing of a prompt
    and nothing across rows."""
    seen, score = [], models.score

    def spy(model, batch):
        if torch.is_grad_enabled():  # not what load may do to check the model
            seen.append(batch)
        return score(model, batch)

    monkeypatch.setattr(models, "score", spy)
    main(config(base, tmp_path / "out", epochs=1, micro_batch_tokens=70))
    tokenizer = tiny.tokenizer()
    completions = [
        tokenizer.decode(batch.target[batch.row == i])
        for batch in seen
        for i in range(len(batch.lengths))
    ]
    assert sorted(completions) == sorted(
        f"<think> {row['thinking']} </think> {row['response']} <eos>" for row in rows_of(base)
    )
    assert len(seen) > 5 and all(sum(batch.lengths) <= 70 for batch in seen)


def test_prompt_tokens_take_no_part_in_the_loss(base, monkeypatch):
    """Gradient of the loss with respect to the final hidden states: 0 at every position that does not predict a trained
    token, also at the prompt's, and above 1e-4 at those that do."""
    model, tokenizer = loading.load(str(base / "model"))
    examples, _ = encode(rows_of(base)[:4], tokenizer, config(base, "x"), 128)
    batch = packing.pack(*zip(*examples))
    states, hidden_states = [], models.hidden_states

    def spy(*args, **more):
        states.append(hidden_states(*args, **more))
        states[0].retain_grad()
        return states[0]

    monkeypatch.setattr(models, "hidden_states", spy)
    (-models.score(model, batch).logp.sum() / len(batch.target)).backward()
    trained = torch.zeros(len(batch.ids), dtype=torch.bool)
    at = 0
    for ids, mask in examples:
        trained[torch.arange(len(ids) - 1)[torch.tensor(list(mask[1:])).bool()] + at] = True
        at += len(ids)
    size = states[0].grad.abs().amax(1)
    assert (
        (size[~trained] == 0).all()
        and size[trained].min() > 1e-4
        and 0 < trained.sum() < len(trained) - 4
    )


# ---- invariances of a step


def moved(base, path):
    """Largest change of any weight since the base model."""
    before, after = weights(base / "model"), weights(path)
    return max((after[k] - before[k]).abs().max().item() for k in after)


def gap(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


def test_micro_batches_change_nothing(base, tmp_path, monkeypatch):
    """Three SGD steps of 5, 5 and 3 rows, each in one forward pass or in passes of at most 40 tokens (a row or two, so
    that counts of trained tokens per pass differ): weights to 1e-6 where they moved by more than 0.05."""
    plain_sgd(monkeypatch)
    histories = [
        main(
            config(
                base,
                tmp_path / str(tokens),
                epochs=1,
                lr=0.5,
                warmup=0.0,
                clip=10.0,
                micro_batch_tokens=tokens,
            )
        )
        for tokens in (10_000, 40)
    ]
    assert len(histories[0]) == 3 and moved(base, tmp_path / "40") > 0.05
    assert gap(tmp_path / "40", tmp_path / "10000") <= 1e-6
    for a, b in zip(*histories):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["n_trained"] == b["n_trained"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-6)


def test_micro_batches_change_nothing_under_adam(base, tmp_path):
    """The same with AdamW as it is used: 3 steps at lr 0.03; gap and movement as Euclidean norms over all weights,
    1e-5 of the movement (Adam magnifies the rounding of tiny gradients)."""
    for tokens in (10_000, 40):
        main(
            config(
                base,
                tmp_path / str(tokens),
                epochs=1,
                lr=0.03,
                warmup=0.0,
                micro_batch_tokens=tokens,
            )
        )
    a, b, start = (weights(path) for path in (tmp_path / "40", tmp_path / "10000", base / "model"))
    apart = math.sqrt(sum((a[k] - b[k]).square().sum().item() for k in a))
    movement = math.sqrt(sum((a[k] - start[k]).square().sum().item() for k in a))
    assert movement > 1 and apart <= 1e-5 * movement


def test_order_within_a_step_changes_nothing(base, tmp_path, monkeypatch):
    """All 13 rows in each step, the file in two orders: weights after 2 SGD steps to 1e-6, moved by more than 0.05."""
    plain_sgd(monkeypatch)
    write_rows(tmp_path / "turned.jsonl", rows_of(base)[::-1])
    for name, data in (("a", base / "rows.jsonl"), ("b", tmp_path / "turned.jsonl")):
        main(
            config(
                base,
                tmp_path / name,
                data=str(data),
                epochs=2,
                batch_rows=N_ROWS,
                lr=0.5,
                warmup=0.0,
                clip=10.0,
            )
        )
    assert moved(base, tmp_path / "a") > 0.05 and gap(tmp_path / "a", tmp_path / "b") <= 1e-6


def test_bf16_computes_in_bf16_and_keeps_float32_weights(base, tmp_path):
    """Losses within 2% of those in float32 but not equal; weights are float32 and hold more than bfloat16 can."""
    a = main(config(base, tmp_path / "a", epochs=1))
    b = main(config(base, tmp_path / "b", epochs=1, dtype="bf16"))
    for x, y in zip(a, b):
        assert x["loss"] != y["loss"] and x["loss"] == pytest.approx(y["loss"], rel=0.02)
    after = weights(tmp_path / "b")
    assert all(w.dtype == torch.float32 for w in after.values())
    assert any(not torch.equal(w, w.bfloat16().float()) for w in after.values())


def test_the_first_step_takes_the_rate_of_step_zero(base, tmp_path):
    """3 steps, warm-up ceil(0.5 · 3) = 2: rates 0, lr/2, lr (cosine from its top). With rate 0 the first step changes
    no weight, so the second loss of the same batch is the first."""
    history = main(config(base, tmp_path / "a", epochs=3, batch_rows=N_ROWS, warmup=0.5))
    assert [row["lr"] for row in history] == pytest.approx([0, 0.005, 0.01])
    assert history[1]["loss"] == pytest.approx(history[0]["loss"], rel=1e-6)
    assert history[2]["loss"] < history[1]["loss"] - 0.01
    assert [row["step"] for row in history] == [1, 2, 3]


def test_recomputed_activations_change_no_bit(base, tmp_path):
    """--recompute: the same bytes after 3 steps, though each layer runs twice as often."""
    for name in (False, True):
        main(config(base, tmp_path / str(name), epochs=1, recompute=name))
    assert (tmp_path / "True" / "model.safetensors").read_bytes() == (
        tmp_path / "False" / "model.safetensors"
    ).read_bytes()


# ---- order and amount


def rows_seen(monkeypatch):
    """The questions of each row that reaches the model with a gradient, as training goes on."""
    seen, score = [], models.score

    def spy(model, batch):
        if torch.is_grad_enabled():
            texts = tiny.tokenizer().batch_decode(
                [part.tolist() for part in batch.ids.split(batch.lengths)]
            )
            seen.append([text.split(" <bot>")[0].removeprefix("<user> ") for text in texts])
        return score(model, batch)

    monkeypatch.setattr(models, "score", spy)
    return seen


def test_easy_order(base, tmp_path, monkeypatch):
    """--order easy: in each of 2 epochs the rows come by the mean log-probability of their completion under the base model,
    computed here with transformers, highest first. Interrupted in the second epoch, the order is still the base
    model's, not that of the weights by then; the ledger counts the pass that ranked them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base / "model").eval(), tiny.tokenizer()
    means = {}
    for row in rows_of(base):
        ids, trained = FORMATS["think"].training_ids(tokenizer, row)
        with torch.no_grad():
            logp = (
                model(torch.tensor([ids]))
                .logits[0, :-1]
                .log_softmax(1)[range(len(ids) - 1), ids[1:]]
            )
        means[row["question"]] = logp[torch.tensor(trained[1:])].mean().item()
    easy = sorted(means, key=lambda question: -means[question])
    assert len(easy) == N_ROWS and means[easy[0]] - means[easy[-1]] > 0.1
    seen = rows_seen(monkeypatch)
    cfg = config(base, tmp_path / "out", epochs=2, order="easy", save_every=1, warmup=0.0)
    interrupted(cfg, monkeypatch, 4)
    main(cfg)
    assert [set(step) for step in seen[:4] + seen[5:]] == 2 * [
        set(easy[:5]),
        set(easy[5:10]),
        set(easy[10:]),
    ]
    assert not (tmp_path / "out" / "order.json").exists()
    order, train = [
        json.loads(line) for line in (tmp_path / "out" / "flops.jsonl").read_text().splitlines()
    ]
    assert (order["phase"], train["phase"]) == ("order", "train")
    assert train["flops"] == 2 * 3 * order["flops"] and train["tokens"] == 2 * order["tokens"]


def test_flops_by_hand(base):
    """The base model: each layer has 1280 + 640 + 640 + 1280 weights of attention, 10 + 10 of norms of queries and keys, 3
    times 1408 of the MLP and 64 of norms: 8148. Two layers, 149 · 32 of the head (= embedding), 32 of the last norm:
    N = 21096. Forward, sequences of 10 and 4 tokens: 2 N 14 + 2 · 2 layers · 40 · (100 + 16). With a head of its own
    the embedding does not count."""
    model, _ = loading.load(str(base / "model"))
    assert models.forward_flops(model, [10, 4]) == 2 * 21096 * 14 + 4 * 40 * 116
    config = Qwen2Config(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
    )
    # 4 · 64 and 3 biases of 8, MLP 3 · 96, norms 3 · 8, head 88
    assert (
        models.forward_flops(Qwen2ForCausalLM(config), [1])
        == 2 * (256 + 24 + 288 + 24 + 88) + 2 * 8
    )


def test_mfu_where_the_device_is_known(base, tmp_path, monkeypatch):
    """A device of 10^9 operations a second, no recomputation counted: 3 forward passes per second and 10^9, in the log; on a
    CPU, whose peak nobody knows, no such number. Names of real devices are told apart."""
    assert (
        "mfu" not in main(config(base, tmp_path / "cpu", epochs=1))[0]
        and training.peak_flops("cpu") is None
    )
    names = {
        "NVIDIA H200": 989e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA L4": 121e12,
        "NVIDIA GeForce RTX 4090": 165e12,
        "Tesla V100": None,
    }
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        assert training.peak_flops("cuda") == peak, name
    monkeypatch.setattr(training, "peak_flops", lambda device: 1e9)
    model, tokenizer = loading.load(str(base / "model"))
    lengths = [len(ids) for ids, _ in encode(rows_of(base), tokenizer, config(base, "x"), 128)[0]]
    (row,) = main(config(base, tmp_path / "gpu", epochs=1, batch_rows=N_ROWS, recompute=True))
    seconds = sum(lengths) / row["tok_s"]
    assert row["mfu"] == pytest.approx(3 * models.forward_flops(model, lengths) / seconds / 1e9)


def test_match_flops(base, tmp_path):
    """A run of 1 epoch writes what it computed: 3 forward passes' worth of its 490 tokens. A budget of its ledger makes
    another run, whatever its --epochs, take the same 3 steps; two and a half times that, the first step that reaches it."""
    main(config(base, tmp_path / "one", epochs=1))
    model, tokenizer = loading.load(str(base / "model"))
    lengths = [len(ids) for ids, _ in encode(rows_of(base), tokenizer, config(base, "x"), 128)[0]]
    total = 3 * models.forward_flops(model, lengths)
    ledger = tmp_path / "one" / "flops.jsonl"
    assert json.loads(ledger.read_text()) == {
        "phase": "train",
        "tokens": sum(lengths),
        "flops": total,
    }
    matched = main(config(base, tmp_path / "same", epochs=7, match_flops=str(ledger)))
    assert [row["step"] for row in matched] == [1, 2, 3]
    assert weights(tmp_path / "same").keys() and gap(tmp_path / "same", tmp_path / "one") == 0
    write_rows(
        tmp_path / "more.jsonl",
        [{"phase": "sampling", "flops": total}, {"phase": "train", "flops": 1.5 * total}],
    )
    matched = main(
        config(base, tmp_path / "more", epochs=1, match_flops=str(tmp_path / "more.jsonl"))
    )
    flops = json.loads((tmp_path / "more" / "flops.jsonl").read_text())["flops"]
    steps = plan_steps(lengths, 3, BATCH, 0, 42)[: len(matched)]
    last = 3 * models.forward_flops(model, [lengths[i] for i in steps[-1]])
    assert flops - last < 2.5 * total <= flops and len(matched) in (7, 8)
    assert json.loads((tmp_path / "more" / "training.json").read_text())["n_tokens"] == sum(
        lengths[i] for step in steps for i in step
    )


@pytest.mark.parametrize(
    "more, message",
    [
        ({}, "no field 'flops'"),
        ({"flops": "x"}, "not a number"),
        ({"flops": -1}, "not a number"),
        ({"flops": 0}, "nothing was"),
    ],
)
def test_a_ledger_without_numbers_is_refused(base, tmp_path, more, message):
    write_rows(tmp_path / "flops.jsonl", [{"phase": "train", **more}])
    with pytest.raises(BadInput, match=message):
        main(config(base, tmp_path / "out", match_flops=str(tmp_path / "flops.jsonl")))
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_one_line(base, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sharding, "score", full)
    with pytest.raises(
        BadInput, match="--micro-batch-tokens 0: not enough memory; fewer tokens, --recompute"
    ):
        main(config(base, tmp_path / "out"))


TALK = [
    {"role": "user", "content": "make 3 from 1 2"},
    {"role": "assistant", "content": "1 + 2"},
    {"role": "user", "content": "sort 4 2"},
    {"role": "assistant", "content": "2 4"},
]


def test_turns_by_hand(base):
    """<user> make 3 from 1 2 <bot> 1 + 2 <user> sort 4 2 <bot> 2 4 <user> sort 9 8 <bot> and the completion: --turns 1
    trains the completion alone, 2 also `2 4`, 3 and more also `1 + 2`; ids are those of the decoder's prompt either way."""
    row, tokenizer = (
        {"question": "sort 9 8", "thinking": "8", "response": "8 9", "history": TALK},
        tiny.tokenizer(),
    )
    think = FORMATS["think"]
    prompt = think.prompt_ids(tokenizer, "sort 9 8", TALK)
    for turns, earlier in (
        (1, []),
        (2, ["2", "4"]),
        (3, ["1", "+", "2", "2", "4"]),
        (9, ["1", "+", "2", "2", "4"]),
    ):
        ((ids, trained),), _ = encode([row], tokenizer, config(base, "x", turns=turns), 128)
        assert list(ids[: len(prompt)]) == prompt
        assert tokenizer.convert_ids_to_tokens([i for i, t in zip(ids, trained) if t]) == [
            *earlier,
            "<think>",
            "8",
            "</think>",
            "8",
            "9",
            "<eos>",
        ]
    assert (
        encode([row | {"history": None}], tokenizer, config(base, "x", turns=2), 128)[0][0][
            1
        ].count(1)
        == 6
    )


def test_turns_with_a_real_chat_template(bpe):
    """Qwen2.5: the trained part of an earlier turn is its text and <|im_end|>, not the line break behind it."""
    tokenizer = bpe
    ids, trained = FORMATS["s1"].training_ids(
        tokenizer, {"question": "and 3?", "response": "4", "history": TALK}, turns=2
    )
    n = len(FORMATS["s1"].prompt_ids(tokenizer, "and 3?", TALK)) - 2  # without <|im_start|>think
    assert tokenizer.decode([i for i, t in zip(ids[:n], trained) if t]) == "2 4<|im_end|>"
    assert ids[:n] == tokenizer.encode(
        FORMATS["s1"].prompt_text(tokenizer, "and 3?", TALK), add_special_tokens=False
    )


def test_a_template_that_changes_earlier_turns_is_refused(base):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{% if loop.last or message.role == 'user' %}"
        "{{ '<user> ' + message.content + ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<bot>{% endif %}"
    )
    row = {"question": "sort 9 8", "response": "8 9", "history": TALK}
    with pytest.raises(BadInput, match="--turns: the chat template changes earlier turns"):
        encode([row], tokenizer, config(base, "x", turns=2), 128)


@pytest.mark.parametrize("field", ["question", "thinking", "response"])
@pytest.mark.parametrize("value", [5, "8 \ud800 9"])
def test_what_is_no_text_is_refused(base, field, value):
    """A number, and half of a surrogate pair, which JSON can hold and no tokenizer takes."""
    rows = [
        {"question": "sort 9 8", "thinking": "", "response": "8 9"} | {name: value}
        for name in ("none of them", field)
    ]
    with pytest.raises(BadInput, match=f"row 2: '{field}' is not a text"):
        encode(rows, tiny.tokenizer(), config(base, "x"), 128)


@pytest.mark.parametrize(
    "history",
    [
        "text",
        [1],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": "\udfff"}],
    ],
)
def test_a_history_of_another_kind_is_refused(base, history):
    with pytest.raises(BadInput, match="row 1: 'history' is not a list of messages"):
        encode(
            [{"question": "sort 9 8", "response": "8 9", "history": history}],
            tiny.tokenizer(),
            config(base, "x"),
            128,
        )


# ---- optimizer


def test_weight_decay_is_for_hidden_matrices_only(base):
    """Names by hand: 7 projections a layer decay; norms, the tied embedding and head do not. Every parameter is in
    exactly one group of one optimizer, with Muon as without."""
    model, _ = loading.load(str(base / "model"))
    names = {id(p): name for name, p in model.named_parameters()}
    expected = {
        f"model.layers.{i}.{part}.weight"
        for i in range(2)
        for part in [f"self_attn.{x}_proj" for x in "qkvo"]
        + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    }
    for muon_lr, kinds in ((0.0, ["AdamW"]), (0.02, ["Muon", "AdamW"])):
        optimizers = make_optimizers(model, 1e-3, (0.9, 0.95), 0.5, muon_lr)
        assert [type(o).__name__ for o in optimizers] == kinds
        groups = [(o, group) for o in optimizers for group in o.param_groups]
        everything = [names[id(p)] for _, group in groups for p in group["params"]]
        assert sorted(everything) == sorted(names.values())
        decayed = {
            names[id(p)] for _, group in groups if group["weight_decay"] for p in group["params"]
        }
        assert decayed == expected and {group["weight_decay"] for _, group in groups} == {0.5, 0.0}
        for optimizer, group in groups:
            assert group["peak"] == (0.02 if type(optimizer).__name__ == "Muon" else 1e-3)
            assert type(optimizer).__name__ == "Muon" or group["betas"] == (0.9, 0.95)


def test_bf16_adam_resumes_to_the_bit(base, tmp_path, monkeypatch):
    cfg = config(base, tmp_path / "out", epochs=1, save_every=1, adam_dtype="bf16")
    main(dataclasses.replace(cfg, out=str(tmp_path / "whole")))
    interrupted(cfg, monkeypatch, 2)
    saved = load_file(next(saved_checkpoints(cfg.out)[0].glob("*.safetensors")))
    assert {x.dtype for name, x in saved.items() if "exp_avg" in name} == {torch.bfloat16}
    assert len(main(cfg)) == 1 and gap(tmp_path / "out", tmp_path / "whole") == 0


def test_adam_is_one_kernel_on_a_gpu(base, tmp_path, monkeypatch):
    """Weights that say they are on a GPU get torch's fused AdamW, others its default. It computes the same (torch has it for
    a CPU too), keeps its count beside the weights, and resumes to the bit."""
    optimizers = training.make_optimizers

    def on_gpu(*arguments, **more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", property(lambda p: True), raising=False)
            return optimizers(*arguments, **more)

    model, _ = loading.load(str(base / "model"))
    assert [
        make(model, 1e-3, (0.9, 0.95), 0.5)[0].defaults["fused"] for make in (optimizers, on_gpu)
    ] == [None, True]
    assert "fused" not in on_gpu(model, 1e-3, (0.9, 0.95), 0.5, adam_dtype="bf16")[0].defaults
    cfg = config(base, tmp_path / "out", epochs=1, save_every=1)
    main(dataclasses.replace(cfg, out=str(tmp_path / "plain")))
    monkeypatch.setattr(training, "make_optimizers", on_gpu)
    main(dataclasses.replace(cfg, out=str(tmp_path / "whole")))
    assert 0 < gap(tmp_path / "plain", tmp_path / "whole") < 1e-6
    interrupted(cfg, monkeypatch, 2)
    assert len(main(cfg)) == 1 and gap(tmp_path / "out", tmp_path / "whole") == 0


@pytest.mark.parametrize("fused, device", [(None, "cpu"), (True, "meta")])
def test_a_loaded_count_lies_where_its_step_reads_it(base, tmp_path, fused, device):
    """A fused kernel is given the address of the count: on the device of the weights, here one without memory. Others ask
    for its value: on the host."""
    for save in (True, False):
        model, _ = loading.load(str(base / "model"))
        (optimizer,) = make_optimizers(model if save else model.to("meta"), 1e-3, (0.9, 0.95), 0.5)
        if save:
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
            checkpoints.save_checkpoint(tmp_path, model, [optimizer], 1, {})
    optimizer.defaults["fused"] = fused
    # on meta the head is no longer tied; the slots are made before
    with pytest.raises(BadInput, match="lm_head"):
        checkpoints.load_checkpoint(tmp_path / "checkpoint-1", model, [optimizer])
    assert {
        (slot, x.device.type) for values in optimizer.state.values() for slot, x in values.items()
    } == {("step", device), ("exp_avg", "meta"), ("exp_avg_sq", "meta")}


# ---- resuming


def interrupted(cfg, monkeypatch, at):
    """Run until the update after step `at` raises, as a full disk or Ctrl-C would."""
    calls = []

    def failing(*args):
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            main(cfg)


def test_checkpoints_by_time(base, tmp_path, monkeypatch):
    """9 steps of 4 minutes each. By --save-minutes 10: after step 3 (12 minutes), then 12 minutes later
    after step 6; --save-every, which comes at 5, moves the second one to 5 + 3 = 8."""
    minutes, saved = [0.0], []

    def slow_update(*args):
        minutes[0] += 4
        return update(*args)

    monkeypatch.setattr(training, "update", slow_update)
    monkeypatch.setattr(training.time, "monotonic", lambda: 60 * minutes[0])
    monkeypatch.setattr(training.Run, "save", lambda run, n_taken, noted: saved.append(n_taken))
    assert main(config(base, tmp_path / "a", save_minutes=10))[-1]["step"] == 9
    assert saved == [3, 6]
    saved.clear()
    main(config(base, tmp_path / "b", save_minutes=10, save_every=5))
    assert saved == [3, 5, 8]
    saved.clear()
    main(config(base, tmp_path / "c"))
    assert sft.Config.save_minutes == 10 and saved == [3, 6]


def test_a_run_of_one_step_trains(base, tmp_path):
    """With the default warm-up its only step had rate 0."""
    (row,) = main(config(base, tmp_path / "out", epochs=1, batch_rows=100))
    assert row["lr"] == 1e-2
    before, after = weights(base / "model"), weights(tmp_path / "out")
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module", params=[0.0, 0.02], ids=["adamw", "muon"])
def uninterrupted(request, base, tmp_path_factory):
    """9 steps without a break, with AdamW alone and with Muon."""
    cfg = config(
        base, tmp_path_factory.mktemp("whole") / "out", save_every=3, muon_lr=request.param
    )
    assert len(main(cfg)) == 9
    return cfg


def same_end(cfg, whole):
    ours, theirs = Path(cfg.out), Path(whole.out)
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert log_of(ours) == log_of(theirs) and [row["step"] for row in log_of(ours)] == list(
        range(1, 10)
    )
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())


@pytest.mark.parametrize("at, first", [(2, 1), (3, 4), (5, 4), (8, 7)])
def test_resume_is_bit_equal(tmp_path, monkeypatch, uninterrupted, at, first, capsys):
    """Interrupted after step `at`; the same command takes it up after the last multiple of 3, wherever the global
    random state stands, and ends in the same bytes and the same log."""
    cfg = dataclasses.replace(uninterrupted, out=str(tmp_path / "out"))
    interrupted(cfg, monkeypatch, at)
    torch.manual_seed(99)
    history = main(cfg)
    assert [row["step"] for row in history] == list(range(first, 10))
    assert (f"continuing after step {first - 1}" in capsys.readouterr().out) == (first > 1)
    same_end(cfg, uninterrupted)


def test_resume_after_several_interruptions_with_other_free_settings(
    tmp_path, monkeypatch, uninterrupted
):
    """Twice interrupted, each time with another --save-every; a larger --micro-batch-tokens that changes no pass."""
    cfg = dataclasses.replace(uninterrupted, out=str(tmp_path / "out"))
    interrupted(cfg, monkeypatch, 4)
    # steps 4 and 5, saved after 4
    interrupted(dataclasses.replace(cfg, save_every=2), monkeypatch, 2)
    history = main(dataclasses.replace(cfg, micro_batch_tokens=50_000))
    assert history[0]["step"] == 5
    same_end(cfg, uninterrupted)


def command(cfg):
    """The command line that gives this Config."""
    flags = [sys.executable, str(ROOT / "sft.py")]
    for name, value in dataclasses.asdict(cfg).items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        flags += (
            [f"--{flag}" if value else f"--no-{flag}"]
            if isinstance(value, bool)
            else [f"--{flag}", str(value)]
        )
    return flags


def test_resume_after_kill_9(base, tmp_path):
    """The script as a process of its own, killed with SIGKILL at a moment of the clock's choosing after its first
    checkpoint (0 to 100 ms later: steps take 10). Whatever it left, the same settings end, in another process, in the
    bytes and the log of a run without a break."""
    whole = config(base, tmp_path / "whole", muon_lr=0.02)
    main(whole)
    cfg = dataclasses.replace(whole, out=str(tmp_path / "out"), save_every=1)
    child = subprocess.Popen(command(cfg), stdout=subprocess.DEVNULL)
    deadline = time.time() + 180
    while not saved_checkpoints(cfg.out) and child.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    time.sleep(time.time_ns() % 1000 / 10_000)
    child.kill()
    child.wait()
    assert saved_checkpoints(cfg.out) or (tmp_path / "out" / "training.json").exists()
    main(dataclasses.replace(cfg, save_every=3))
    same_end(cfg, whole)


@pytest.mark.parametrize("place", ["the model", "training.json"])
def test_resume_when_the_final_save_was_interrupted(tmp_path, monkeypatch, uninterrupted, place):
    """All 9 steps are done and the process dies before the weights or before training.json: the run does not count as
    complete, and the same command takes steps 7 to 9 again."""
    cfg = dataclasses.replace(uninterrupted, out=str(tmp_path / "out"))

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*(loading, "save") if place == "the model" else (runlog, "save_config"), die)
        with pytest.raises(KeyboardInterrupt):
            main(cfg)
    assert [row["step"] for row in main(cfg)] == [7, 8, 9]
    same_end(cfg, uninterrupted)


def test_the_random_state_is_part_of_a_checkpoint(base, tmp_path):
    """Nothing draws at random during these steps, so bit-equality would not notice: saved and restored directly."""
    model, _ = loading.load(str(base / "model"))
    optimizers = make_optimizers(model, 1e-2, (0.9, 0.95), 0.1)
    torch.manual_seed(7)
    checkpoints.save_checkpoint(tmp_path, model, optimizers, 3, {})
    expected = torch.rand(2)
    torch.manual_seed(8)
    checkpoints.load_checkpoint(tmp_path / "checkpoint-3", model, optimizers)
    assert torch.equal(torch.rand(2), expected)


def test_another_config_is_refused_by_name(base, tmp_path, monkeypatch):
    """Both from a checkpoint and from a finished run: the differing settings are named with both values, nothing is
    touched."""
    cfg = config(base, tmp_path / "out", save_every=2)
    interrupted(cfg, monkeypatch, 3)
    for _ in range(2):
        before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
        with pytest.raises(BadInput) as caught:
            main(dataclasses.replace(cfg, lr=2e-2, epochs=4))
        message = str(caught.value)
        assert "lr: 0.01 there, 0.02 here" in message and "epochs: 3 there, 4 here" in message
        assert "--overwrite" in message and "beta1" not in message and "\n" not in message
        assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
        main(cfg)  # second round: the run is complete


def test_other_data_under_the_same_name_are_refused(base, tmp_path):
    data = tmp_path / "rows.jsonl"
    shutil.copy(base / "rows.jsonl", data)
    cfg = config(base, tmp_path / "out", data=str(data), epochs=1)
    main(cfg)
    write_rows(data, rows_of(base)[:-1])
    with pytest.raises(BadInput, match="contents of --data"):
        main(cfg)


def test_overwrite_replaces(base, tmp_path, monkeypatch):
    """--overwrite with other settings starts at step 1, leaves no line or file of the old run, and with the settings of
    the old run it continues or does nothing like any rerun."""
    cfg = config(base, tmp_path / "out", epochs=2, save_every=2)
    interrupted(cfg, monkeypatch, 3)
    (tmp_path / "out" / "checkpoint.part").mkdir()  # as kill -9 leaves it
    (tmp_path / "out" / "checkpoint.part" / "state.json").write_bytes(b"half")
    other = dataclasses.replace(cfg, epochs=1, seed=7, overwrite=True)
    assert [row["step"] for row in main(other)] == [1, 2, 3]
    assert [row["step"] for row in log_of(tmp_path / "out")] == [1, 2, 3]
    assert not list((tmp_path / "out").glob("checkpoint*"))
    assert main(other) == []


def test_a_complete_run_is_left_alone(base, tmp_path, capsys):
    cfg = config(base, tmp_path / "out", epochs=1)
    main(cfg)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main(cfg) == [] and "this run is complete" in capsys.readouterr().out
    assert {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()
    } == before


def foreign(path):
    """A well-formed safetensors file that no run of ours wrote."""
    save_file({"x": torch.zeros(2)}, path)


def only_some(path):
    """The optimizer's part is lost."""
    tensors = load_file(path)
    save_file({name: x for name, x in tensors.items() if not name.startswith("optimizer")}, path)


def flip_a_bit(path):
    """The last bit of the last number."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_state(path, **changes):
    file = path.parent / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 300),
        foreign,
        only_some,
        Path.unlink,
        lambda path: (path.parent / "state.json").write_text("{"),
        lambda path: (path.parent / "state.json").write_text("[]"),
        lambda path: (path.parent / "state.json").write_bytes(b"\xff\x00"),
        flip_a_bit,
        lambda path: edit_state(path, step=10**9),
        lambda path: edit_state(path, step="2"),
        lambda path: edit_state(path, identity={}),
    ],
    ids=[
        "cut",
        "empty",
        "noise",
        "foreign",
        "a part",
        "gone",
        "state.json cut",
        "state.json foreign",
        "state.json noise",
        "a bit",
        "an absurd step",
        "a step that is a word",
        "another identity",
    ],
)
def test_a_corrupt_checkpoint_costs_one_line(base, tmp_path, monkeypatch, damage):
    cfg = config(base, tmp_path / "out", save_every=2)
    interrupted(cfg, monkeypatch, 3)
    (checkpoint,) = saved_checkpoints(cfg.out)
    (file,) = checkpoint.glob("*.safetensors")
    damage(file)
    with pytest.raises(BadInput) as caught:
        main(cfg)
    assert "checkpoint-2: unreadable" in str(caught.value) and "\n" not in str(caught.value)
    assert "delete it to start over" in str(caught.value)
    shutil.rmtree(checkpoint)
    assert len(main(cfg)) == 9  # the advice works


def test_an_out_that_cannot_be_written_costs_one_line(base, tmp_path, monkeypatch):
    """A folder inside a file; a disk that is full when the model is saved, after which the same command goes on from the
    last checkpoint. A pipe that nobody reads is no matter of --out."""
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="^--out .*file/out: .*Not a directory"):
        main(config(base, tmp_path / "file" / "out"))
    cfg = config(base, tmp_path / "out", save_every=8)
    for kind, text, wanted in (
        (SafetensorError, "No space left on device (os error 28)", BadInput),
        (OSError, "No space left on device", BadInput),
        (BrokenPipeError, "", BrokenPipeError),
    ):

        def full(*_):
            raise kind(text)

        with monkeypatch.context() as patch, pytest.raises(wanted) as caught:
            patch.setattr(loading, "save", full)
            main(cfg)
        assert wanted is BrokenPipeError or str(caught.value) == f"--out {tmp_path / 'out'}: {text}"
    assert [row["step"] for row in main(cfg)] == [9]


def test_a_checkpoint_of_a_step_that_the_run_does_not_have(base, tmp_path, monkeypatch):
    """All checksums right, but a run of 9 steps has no checkpoint of step 500."""
    cfg = config(base, tmp_path / "out", save_every=2)
    interrupted(cfg, monkeypatch, 3)
    (checkpoint,) = saved_checkpoints(cfg.out)
    state = json.loads((checkpoint / "state.json").read_text()) | {"step": 500}
    state["sum"] = checkpoints._sum_of_state(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    checkpoint.rename(tmp_path / "out" / "checkpoint-500")
    with pytest.raises(BadInput, match="checkpoint-500: this run has 9 steps; delete it"):
        main(cfg)


def test_a_checkpoint_beside_a_complete_run_is_removed(base, tmp_path, monkeypatch):
    """A kill between the last two lines of a run leaves one: the next start removes it."""
    cfg = config(base, tmp_path / "out", save_every=4)
    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "_remove_checkpoints", lambda run: None)
        main(cfg)
    assert saved_checkpoints(cfg.out)
    assert main(cfg) == [] and not saved_checkpoints(cfg.out)


def test_what_the_chat_template_adds_is_said(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(template.Template, "describe", lambda self: "chat template: adds X")
    main(config(base, tmp_path / "out", epochs=1))
    assert capsys.readouterr().out.count("chat template: adds X\n") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 3}', "\0"])
def test_garbage_in_training_json_costs_one_line(base, tmp_path, text):
    cfg = config(base, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training.json").write_text(text)
    with pytest.raises(BadInput, match="training.json: not the settings of a run") as caught:
        main(cfg)
    assert "\n" not in str(caught.value) and "--overwrite" in str(caught.value)
    assert len(main(dataclasses.replace(cfg, overwrite=True))) == 9


@pytest.mark.parametrize("line", [b"garbage", b"\0\0", b"\xff", b'{"loss": 1}', b'{"step": "x"}'])
def test_garbage_in_the_log_costs_one_line(base, tmp_path, monkeypatch, line):
    cfg = config(base, tmp_path / "out", save_every=2)
    interrupted(cfg, monkeypatch, 3)
    log = tmp_path / "out" / "log.jsonl"
    log.write_bytes(line + b"\n" + log.read_bytes())
    with pytest.raises(BadInput, match="log.jsonl:1: ") as caught:
        main(cfg)
    assert "\n" not in str(caught.value)


def test_an_out_that_is_no_directory_is_refused(base, tmp_path):
    """A file, a device (as root it would be replaced): refused, and still what it was."""
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", Path(os.devnull)):
        with pytest.raises(BadInput, match=f"^--out {path}: not a directory"):
            main(config(base, path, overwrite=True))
    assert (tmp_path / "file").read_text() == "kept" and Path(os.devnull).is_char_device()


def test_the_reason_of_a_failed_checkpoint_is_the_systems():
    """PyTorch wraps what a rank raised into CheckpointException, whose text has no reason."""
    full = OSError(28, "No space left on device")
    wrapped = torch.distributed.checkpoint.api.CheckpointException("save", {0: (full, None)})
    assert str(wrapped).startswith("CheckpointException ranks")
    rust = SafetensorError("Error while serializing: I/O error: No space (os error 28)")
    for error in (full, wrapped, rust):
        assert checkpoints._reason(error) == "No space left on device"


def fill_the_disk(cfg, answer):
    """In a process of its own: from the checkpoint of step 4 on a file may have 100 kB."""
    save = training.save_checkpoint

    def full(*args, **more):
        if args[3] == 4:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save(*args, **more)

    training.save_checkpoint = full
    try:
        main(cfg)
    except BaseException as error:
        answer.send((type(error).__name__, str(error)))


def test_a_full_disk_keeps_the_checkpoint_before(base, tmp_path):
    """One line that names the folder, nothing half written; with room the same command goes on from step 2."""
    cfg = config(base, tmp_path / "out", save_every=2)
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=fill_the_disk, args=(cfg, theirs))
    child.start()
    kind, message = ours.recv()
    child.join()
    assert kind == "BadInput" and "\n" not in message
    assert message.startswith(
        f"{tmp_path}/out: the checkpoint of step 4 cannot be written (File too large);"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["checkpoint-2", "log.jsonl"]
    assert [row["step"] for row in main(cfg)] == list(range(3, 10))


def test_killed_in_the_middle_of_a_checkpoint(base, tmp_path, monkeypatch, uninterrupted):
    """The process dies before each of the steps that make checkpoint 6 the checkpoint: at whichever, a good one is there and
    the end is that of a run without a break."""
    for place in (
        ("os.replace",) if uninterrupted.muon_lr else ("dcp.save", "os.replace", "shutil.rmtree")
    ):
        cfg = dataclasses.replace(uninterrupted, out=str(tmp_path / place))
        owner, name = (
            {"dcp": checkpoints.dcp, "os": os, "shutil": shutil}[place.split(".")[0]],
            place.split(".")[1],
        )
        original = getattr(owner, name)

        def die(*args, **more):
            n_there = len(saved_checkpoints(cfg.out))
            if n_there == 1 + (place == "shutil.rmtree") and (
                place != "os.replace" or "checkpoint" in str(args[0])
            ):
                raise KeyboardInterrupt
            return original(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(KeyboardInterrupt):
                main(cfg)
        assert [row["step"] for row in main(cfg)] == list(
            range(7 if place == "shutil.rmtree" else 4, 10)
        )
        same_end(cfg, uninterrupted)


def test_sigterm_saves_and_ends(base, tmp_path, monkeypatch, uninterrupted, capsys):
    """The signal comes in step 4 (save_every is 3): the step is finished, saved and logged, the status is 143, and the same
    command continues with step 5. The handler is gone afterwards."""
    cfg = dataclasses.replace(uninterrupted, out=str(tmp_path / "out"))
    calls, handler = [], signal.getsignal(signal.SIGTERM)

    def signalled(*args):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", signalled)
        with pytest.raises(SystemExit) as ended:
            main(cfg)
    assert ended.value.code == 143 and "stopped after step 4" in capsys.readouterr().out
    assert [p.name for p in saved_checkpoints(cfg.out)] == ["checkpoint-4"] and signal.getsignal(
        signal.SIGTERM
    ) == handler
    assert [row["step"] for row in main(cfg)] == list(range(5, 10))
    same_end(cfg, uninterrupted)


def poisoned(monkeypatch, steps):
    """The loss of these steps (from 1) is NaN."""
    score, calls = models.score, []

    def spoilt(model, batch):
        stats = score(model, batch)
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) in steps:
                return stats._replace(logp=stats.logp * math.nan)
        return stats

    monkeypatch.setattr(models, "score", spoilt)


def test_a_step_without_a_finite_loss_is_skipped_and_counted(base, tmp_path, monkeypatch):
    """Steps 2 and 3 of 9 give NaN: their log line has no loss, training.json counts 2, the other steps are as without
    them: weights are finite."""
    with monkeypatch.context() as patch:
        poisoned(patch, (2, 3))
        history = main(config(base, tmp_path / "out"))
    assert (
        [row["step"] for row in history if row["loss"] is None]
        == [2, 3]
        == [row["step"] for row in history if row["grad_norm"] is None]
    )
    assert json.loads((tmp_path / "out" / "training.json").read_text())["skipped"] == 2
    assert all(w.isfinite().all() for w in weights(tmp_path / "out").values())
    assert "NaN" not in (tmp_path / "out" / "log.jsonl").read_text()


def test_a_loss_that_is_not_finite_counts_even_if_the_gradient_is(base, tmp_path):
    """`update` with a rate of NaN, which is how an unusable loss is passed on: no weight changes, the gradient is gone."""
    model = Two()
    model.a.grad, model.b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert update(model, sgd(model, 1.0), clip=1.0, scale=math.nan) == pytest.approx(5)
    assert model.a.tolist() == [1.0, 2.0] and model.b.item() == 3.0 and model.a.grad is None


def test_several_bad_steps_in_a_row_end_the_run(base, tmp_path, monkeypatch):
    """Steps 2, 4, 5 and 6 are bad, --bad-steps 3: the run ends at step 6 with the rows of that step in a file."""
    cfg = config(base, tmp_path / "out", save_every=2)
    poisoned(monkeypatch, (2, 4, 5, 6))
    with pytest.raises(BadInput, match=r"step 6: .* 3 times in a row; .*bad_step\.jsonl"):
        main(cfg)
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "bad_step.jsonl").read_text().splitlines()
    ]
    lengths = [
        len(FORMATS["think"].training_ids(tiny.tokenizer(), row)[0]) for row in rows_of(base)
    ]
    wanted = [rows_of(base)[i]["question"] for i in plan_steps(lengths, 3, BATCH, 0, 42)[5]]
    assert len(rows) == 3 and all(
        question in row["text"] for question, row in zip(wanted, rows, strict=True)
    )
    assert [p.name for p in saved_checkpoints(cfg.out)] == ["checkpoint-4"]


# ---- end to end


def test_the_finished_directory(base, tmp_path):
    """transformers loads it, it has learned (loss lower by more than 1 after 9 steps), and training.json tells how."""
    history = main(config(base, tmp_path / "out", warmup=0.0))
    assert history[-1]["loss"] < history[0]["loss"] - 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    saved = weights(tmp_path / "out")
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters() if name in saved)
    assert tokenizer.chat_template == tiny.tokenizer().chat_template
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "flops.jsonl",
        "generation_config.json",
        "log.jsonl",
        "loss.png",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    n_tokens = sum(
        len(row["question"].split()) + row["n_thinking_tokens"] + len(row["response"].split()) + 5
        for row in rows_of(base)
    )
    assert (told["n_steps"], told["rows"], told["cut"], told["dropped"]) == (9, N_ROWS, 0, 0)
    assert (
        told["n_tokens"] == 3 * n_tokens
        and told["lr"] == 0.01
        and told["identity"]["contents of --data"]
    )


def test_an_empty_completion_is_refused(base):
    """Nothing to learn but to stop: most likely a field of another name."""
    for row in (
        {"question": "sort 2 1", "response": " "},
        {"question": "sort 2 1", "response": "", "thinking": ""},
    ):
        with pytest.raises(BadInput, match="row 2: empty completion"):
            encode([rows_of(base)[0], row], tiny.tokenizer(), config(base, "x"), 128)
    assert encode(
        [{"question": "a", "response": "", "thinking": "b"}],
        tiny.tokenizer(),
        config(base, "x"),
        128,
    )


def test_rows_of_the_wrong_kind_are_refused(base, tmp_path):
    """A response that is a number, a question that is a list of messages: named, not a traceback out of a tokenizer."""
    for field, value in (
        ("response", 5),
        ("question", [{"role": "user", "content": "a"}]),
        ("thinking", ["a"]),
    ):
        rows = rows_of(base)
        rows[3][field] = value
        write_rows(tmp_path / "rows.jsonl", rows)
        with pytest.raises(BadInput, match=field):
            main(config(base, tmp_path / "out", data=str(tmp_path / "rows.jsonl")))


def test_bad_input_on_the_command_line(base, tmp_path):
    """A row without a response: status not 0, one line on stderr that names file and line, no traceback, no --out."""
    write_rows(tmp_path / "rows.jsonl", [{"question": "a", "response": "b"}, {"question": "c"}])
    cfg = config(base, tmp_path / "out", data=str(tmp_path / "rows.jsonl"))
    done = subprocess.run(command(cfg), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"sft.py: {tmp_path}/rows.jsonl:2: no field 'response'\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, value",
    [("warmup", -1.0), ("hold", 2.0), ("lr_floor", math.nan), ("muon_lr", -1.0), ("beta2", 1.0)],
)
def test_settings_out_of_range_are_refused(base, tmp_path, name, value):
    with pytest.raises(BadInput, match=f"^--{name.replace('_', '-')} {value}: must be"):
        main(config(base, tmp_path / "out", **{name: value}))


def test_a_second_process_on_one_out_is_refused(base, tmp_path, monkeypatch):
    """Before anything of the first one's is touched; tests/test_runlog.py has two real processes."""

    def taken(path):
        assert path == tmp_path / "out.lock"
        raise BlockingIOError

    monkeypatch.setattr(runlog, "open_locked", taken)
    with pytest.raises(BadInput, match="^--out .*: another process is writing there"):
        main(config(base, tmp_path / "out", overwrite=True))


# ---- held-out rows


def test_when_held_out_rows_are_scored():
    """Three epochs of 13 rows in steps of 5, 5, 3: after steps 2, 5, 8 (from 0), or every 4 and the last."""
    steps = plan_steps([1] * 13, 3, 5, 0, 0)
    assert evaluation_steps(steps, 13, 0) == {2, 5, 8}
    assert evaluation_steps(steps, 13, 4) == {3, 7, 8}
    assert evaluation_steps(steps[:7], 13, 0) == {2, 5, 6}  # a run that ends within an epoch


def test_held_out_loss_is_that_of_transformers(base, tmp_path):
    """Of the model as it is saved: -log p per trained token of the held-out rows, over all of them at once."""
    rows = rows_of(base)[:4]
    write_rows(tmp_path / "held out.jsonl", rows)
    more = dict(eval_data=str(tmp_path / "held out.jsonl"), micro_batch_tokens=70)
    history = main(config(base, tmp_path / "out", **more))
    found = [row.get("eval_loss") for row in history]
    assert [step for step, loss in enumerate(found) if loss is not None] == [2, 5, 8]
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval(),
        tiny.tokenizer(),
    )
    total = n = 0
    for row in rows:
        ids, trained = FORMATS["think"].training_ids(tokenizer, row)
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(1)
        logp = logp[range(len(ids) - 1), ids[1:]][torch.tensor(trained[1:])]
        total, n = total - logp.sum().item(), n + len(logp)
    assert found[-1] == pytest.approx(total / n, rel=1e-5)
    assert found[2] > 1.05 * found[-1]
    assert (tmp_path / "out" / "loss.png").stat().st_size > 5000


def test_evaluation_changes_no_bit(base, tmp_path):
    """Weights and losses with --eval-data, at another interval, and without; each continues the others."""
    rows = str(base / "rows.jsonl")
    main(config(base, tmp_path / "without"))
    main(config(base, tmp_path / "with", eval_data=rows, eval_every=2))
    ours, theirs = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    logs = [
        [{k: v for k, v in row.items() if k != "eval_loss"} for row in log_of(tmp_path / out)]
        for out in ("with", "without")
    ]
    assert logs[0] == logs[1]
    assert main(config(base, tmp_path / "without", eval_data=rows)) == []  # it is the same run


def test_held_out_rows_are_checked(base, tmp_path):
    """By file and row, and before any step; --eval-every alone is a slip."""
    write_rows(tmp_path / "bad.jsonl", [*rows_of(base)[:1], {"question": "a", "response": " "}])
    with pytest.raises(BadInput, match=r"bad\.jsonl: row 2: empty completion"):
        main(config(base, tmp_path / "out", eval_data=str(tmp_path / "bad.jsonl")))
    with pytest.raises(BadInput, match="^--eval-every: needs --eval-data"):
        main(config(base, tmp_path / "out", eval_every=3))
