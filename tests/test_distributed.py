"""Several processes on one machine, over gloo: generating with a part of the rows each, or one model over all; training a
model in shards; killed and continued.

One run is torchrun's own. The others are forks, which have the libraries loaded already, with the variables that
torchrun sets: 1 second instead of 9.
"""

import contextlib
import dataclasses
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from test_families import (
    FAMILIES,
    LENGTHS,
    LIMITS,
    SEED,
    SMALL,
    logp_packed,
    random_model,
    sequences,
    texts_of_slots,
)
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import generate
import sft
from data import tiny
from engine import (
    checkpoints,
    kv_cache,
    loading,
    packing,
    processes,
    sharding,
    tensor_parallel,
    training,
)
from engine import model as models
from engine.rows import BadInput, read_rows, write_rows

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "data" / "tiny_base")
TOKENIZER = tiny.tokenizer()


# ---- processes


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run_rank(work, arguments, environment, answer):
    os.environ |= environment
    # a fork gets torch's thread pool anew at its first use: here, before there are threads
    torch.set_num_threads(1)
    try:
        answer.send(work(*arguments))
    except BaseException as error:
        answer.send(
            error
            if isinstance(error, BadInput)
            else RuntimeError(f"{type(error).__name__}: {error}")
        )


def start_ranks(work, arguments=(), n=2):
    """work(*arguments) in n processes -> (process, pipe for what it returns) of each."""
    fork, port, started = multiprocessing.get_context("fork"), free_port(), []
    for rank in range(n):
        ours, theirs = fork.Pipe(duplex=False)
        environment = dict(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(n),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        process = fork.Process(
            target=run_rank, args=(work, arguments, environment, theirs), daemon=True
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    return started


def kill(started):
    for process, _ in started:
        process.kill()
    for process, _ in started:
        process.join()


def ranks_run(work, *arguments, n=2, seconds=60):
    """work(*arguments) in n processes -> what each returned, or the exception that ended it."""
    started, end, answers = start_ranks(work, arguments, n), time.monotonic() + seconds, []
    try:
        for _, answer in started:
            assert answer.poll(end - time.monotonic()), (
                f"a rank hangs; the ones before it: {answers}"
            )
            answers.append(answer.recv())
    finally:
        kill(started)
    return answers


def torchrun(**flags):
    """The command itself, by 2 processes."""
    flags = [
        x for name, value in flags.items() for x in (f"--{name.replace('_', '-')}", str(value))
    ]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            free_port(),
            "--",
            ROOT / "generate.py",
            *flags,
        ],
        text=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


# ---- rows


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """5 problems: 3 for the first of 2 ranks, 2 for the second."""
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems("math", 5, 9, "dev")))
    return str(path)


FORCED = dict(n=3, temperature=0.9, top_p=0.95, waits=1, wait="wait", thinking_budget=30)
RUNS = {
    "greedy": {},
    "sampled, waits, budget: a sweep": FORCED | dict(sweep="waits=0,2"),
    "one problem for two ranks, no wait string": FORCED | dict(limit=1, wait=""),
}


def config(problems, out, **more):
    return generate.Config(
        **{
            "model": BASE,
            "data": problems,
            "out": str(out),
            "format": "think",
            "max_tokens": 40,
            "slots": 4,
            **more,
        }
    )


@pytest.fixture(scope="module")
def alone(problems, tmp_path_factory):
    """A folder for each of RUNS with what one process writes."""
    folders = {}
    for name, settings in RUNS.items():
        folders[name] = tmp_path_factory.mktemp("alone")
        generate.main(config(problems, folders[name] / "out.jsonl", **settings))
    return folders


def all_runs(problems, folder, tp):
    rows = []
    for i, settings in enumerate(RUNS.values()):
        rows.append(
            generate.main(
                config(problems, folder / str(i) / "out.jsonl", tp=tp, slots=3, **settings)
            )
        )
    return rows


@pytest.mark.parametrize(
    "n, tp", [(2, 1), (2, 2), (4, 2)], ids=["parts of the rows", "one model", "both"]
)
def test_rows_are_those_of_one_process(problems, alone, tmp_path, n, tp):
    """Greedy and sampled, n = 3, waits and budget, a sweep: the same bytes, the same totals, nothing left over; every
    rank returns all rows. The runs themselves differ."""
    for i in range(len(RUNS)):
        (tmp_path / str(i)).mkdir()
    first, *others = ranks_run(all_runs, problems, tmp_path, tp, n=n)
    assert all(rows == first for rows in others)
    texts = set()
    for i, (name, folder) in enumerate(alone.items()):
        names = sorted(p.name for p in folder.iterdir())
        assert sorted(p.name for p in (tmp_path / str(i)).iterdir()) == names
        assert len(names) == (4 if "sweep" in name else 2)
        for file in names:
            ours, theirs = tmp_path / str(i) / file, folder / file
            if file.endswith(".config.json"):
                ours, theirs = json.loads(ours.read_text()), json.loads(theirs.read_text())
                assert (
                    ours["n_tokens"] == theirs["n_tokens"] > 0 and ours["skipped_prompts"] == 0
                ), name
            else:
                assert ours.read_bytes() == theirs.read_bytes(), name
                texts.add(theirs.read_bytes())
    assert len(texts) == len(RUNS) + 1


def test_score_and_stdout(problems, alone, tmp_path):
    """--score in parts and over one model: rows of one process, in its order, numbers to 2e-5. --stdout: each row
    once, from whichever rank has it."""
    data = str(alone["sampled, waits, budget: a sweep"] / "out-waits-2.jsonl")
    wanted = generate.main(config(data, tmp_path / "alone.jsonl", score=True))
    numbers = ("logp", "entropy")

    def work():
        rows = [
            generate.main(config(data, tmp_path / f"{tp}.jsonl", score=True, tp=tp))
            for tp in (1, 2)
        ]
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            generate.main(config(problems, "", stdout=True, **FORCED | dict(waits=2)))
        return rows, shown.getvalue()

    (rows, shown), (again, also_shown) = ranks_run(work)
    assert rows == again and rows == [
        read_rows(tmp_path / "1.jsonl"),
        read_rows(tmp_path / "2.jsonl"),
    ]
    for found in rows:
        assert [{k: v for k, v in row.items() if k not in numbers} for row in found] == [
            {k: v for k, v in row.items() if k not in numbers} for row in wanted
        ]
        for name in numbers:
            a, b = (
                torch.tensor([x for row in part for x in row[name]]) for part in (found, wanted)
            )
            assert a.std() > 0.3 and (a - b).abs().max() <= 2e-5
    printed = [[json.loads(line) for line in text.splitlines()] for text in (shown, also_shown)]
    by_key = {generate.key_of(row): row for part in printed for row in part}
    # 3 and 2 problems, 3 samples each
    assert [len(part) for part in printed] == [9, 6] and len(by_key) == 15
    assert [by_key[generate.key_of(row)] for row in read_rows(data)] == read_rows(data)


# ---- killed and continued


def finished_lines(out):
    return [
        path.read_bytes().count(b"\n")
        for path in sorted(out.parent.glob(out.name + ".unfinished*"))
        if path.suffix != ".part"
    ]  # which is renamed at any moment


def test_killed_with_two_ranks_continued_with_one_and_by_torchrun(tmp_path, problems):
    """Both ranks get SIGKILL when each has written rows; the second was in the middle of a line. One process
    continues, and so does torchrun with one model over two ranks: both files are those of a run that nobody
    disturbed, and only the missing rows are decoded."""
    settings = dict(n=8, temperature=1.0, waits=2, wait="wait")
    generate.main(config(problems, tmp_path / "alone.jsonl", **settings))
    wanted = (tmp_path / "alone.jsonl").read_bytes()
    out, other = tmp_path / "killed" / "out.jsonl", tmp_path / "other" / "out.jsonl"
    out.parent.mkdir()
    ranks = start_ranks(lambda: generate.main(config(problems, out, slots=1, **settings)))
    end = time.monotonic() + 60
    while (
        ranks[0][0].is_alive()
        and time.monotonic() < end
        and min([0, *finished_lines(out)][-2:]) < 3
    ):
        time.sleep(0.005)
    kill(ranks)
    done = sum(finished_lines(out))
    assert 6 <= done < 40 and not out.exists() and len(finished_lines(out)) == 2
    with open(f"{out}.unfinished.1", "ab") as file:
        file.write(b'{"id": "half a li')
    header = json.loads(out.with_suffix(".config.json").read_text())
    assert header["temperature"] == 1.0 and "n_tokens" not in header
    shutil.copytree(out.parent, other.parent)
    later = torchrun(
        model=BASE, data=problems, out=other, format="think", max_tokens=40, tp=2, **settings
    )
    asked, decode = [], generate.decode
    with pytest.MonkeyPatch.context() as patch:  # meanwhile
        patch.setattr(
            generate,
            "decode",
            lambda m, t, f, requests, *more: (
                asked.append(len(requests)) or decode(m, t, f, requests, *more)
            ),
        )
        generate.main(config(problems, out, **settings))
    assert asked == [40 - done] and out.read_bytes() == wanted
    printed, errors = later.communicate(timeout=60)
    assert later.returncode == 0, errors
    assert other.read_bytes() == wanted and "40 rows" in printed
    assert sorted(p.name for p in other.parent.iterdir()) == ["out.config.json", "out.jsonl"]


class Killed(Exception):
    pass


def test_killed_while_the_parts_are_put_together(problems, tmp_path, monkeypatch):
    """A run of two ranks left two parts. The next one dies while it makes one file of them: no row is lost."""
    out = tmp_path / "out.jsonl"
    rows = generate.main(config(problems, out, **FORCED))
    out.rename(f"{out}.unfinished")
    lines = Path(f"{out}.unfinished").read_text().splitlines(keepends=True)
    for name, part in ((f"{out}.unfinished", lines[:6]), (f"{out}.unfinished.1", lines[6:10])):
        Path(name).write_text("".join(part))
    for step in ("write_rows", "unlink"):

        def die(*_, **__):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(
                *((generate, "write_rows") if step == "write_rows" else (Path, "unlink")), die
            )
            with pytest.raises(Killed):
                generate.main(config(problems, out, **FORCED))
        kept = [
            json.loads(line)
            for path in tmp_path.glob("out.jsonl.unfinished*")
            for line in path.read_text().splitlines()
        ]
        assert {generate.key_of(row) for row in kept} == {
            generate.key_of(row) for row in rows[:10]
        }, step


def test_parts_are_found_whatever_the_name(problems, tmp_path):
    """[ ] * ? in a file's name are no pattern for its parts."""
    rows = generate.main(config(problems, tmp_path / "run[1]*.jsonl", limit=2))
    assert len(rows) == 2 and read_rows(tmp_path / "run[1]*.jsonl") == rows
    assert len(list(tmp_path.iterdir())) == 2


def test_more_ranks_before_and_other_settings(problems, alone, tmp_path):
    """--overwrite by two ranks over parts that five left with other settings: not a row of them is kept."""
    out = tmp_path / "out.jsonl"
    rows = [row | {"text": "of another run"} for row in read_rows(alone["greedy"] / "out.jsonl")]
    for i, name in enumerate(["", ".1", ".4"]):
        Path(f"{out}.unfinished{name}").write_text(json.dumps(rows[i]) + "\n")
    (tmp_path / "out.config.json").write_text(json.dumps({"identity": {"seed": 7}}))

    def work():
        return generate.main(config(problems, out, overwrite=True))

    ranks_run(work)
    assert out.read_bytes() == (alone["greedy"] / "out.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.config.json", "out.jsonl"]


# ---- refused


def test_tp_that_does_not_divide_the_processes_is_refused(problems, tmp_path):
    def work():
        generate.main(config(problems, tmp_path / "out.jsonl", tp=3))

    line = "--tp 3: does not divide 2 processes (torchrun --nproc-per-node)"
    assert [(type(answer), str(answer)) for answer in ranks_run(work)] == [(BadInput, line)] * 2
    assert not list(tmp_path.iterdir())


def test_tp_of_one_process_is_refused(problems, tmp_path):
    with pytest.raises(BadInput, match=r"^--tp 2: does not divide 1 process \(torchrun"):
        generate.main(config(problems, tmp_path / "out.jsonl", tp=2))


ODD = dict(
    vocab_size=len(TOKENIZER),
    hidden_size=36,
    intermediate_size=45,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=1,
)
CANNOT_BE_CUT = {
    "3 key-value heads": (
        LlamaConfig(**ODD, num_key_value_heads=3),
        "k_proj .*cannot be cut into 2 equal",
    ),
    "45 hidden units": (
        LlamaConfig(**ODD, num_key_value_heads=2),
        "gate_proj .*cannot be cut into 2 equal",
    ),
    "no plan": (
        GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=1, n_head=2, eos_token_id=1),
        "no tensor-parallel plan for GPT2LMHeadModel",
    ),
    "no model": (None, "no such model directory"),
}


@pytest.mark.parametrize("what", CANNOT_BE_CUT)
def test_all_ranks_refuse_what_one_refuses(problems, tmp_path, what):
    """A model that cannot be cut, or is not there: every rank ends with the same line (one that waited for the others
    would end in a traceback of the network)."""
    made, message = CANNOT_BE_CUT[what]
    if made is not None:
        loading.save(AutoModelForCausalLM.from_config(made), TOKENIZER, tmp_path / "model")

    def work():
        generate.main(config(problems, tmp_path / "out.jsonl", model=str(tmp_path / "model"), tp=2))

    for answer in ranks_run(work):
        assert isinstance(answer, BadInput) and "\n" not in str(answer), answer
        if what != "no model":
            assert "--tp 2" in str(answer)
        assert re.search(message, str(answer))


def test_a_row_of_one_rank_is_refused_by_all(alone, tmp_path):
    """A row of the second rank cannot be scored: both end with its name, before a file is touched. (One that waited for the
    other would end in a traceback of the network.)"""
    rows = read_rows(alone["greedy"] / "out.jsonl")
    rows[3] = {k: v for k, v in rows[3].items() if k not in ("ids", "response")}
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def work():
        return generate.main(config(str(data), tmp_path / "out.jsonl", score=True))

    answers = ranks_run(work, seconds=20)
    assert all(
        isinstance(answer, BadInput) and f"row '{rows[3]['id']}'" in str(answer)
        for answer in answers
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


# ---- who does what


def test_join():
    """4 processes, --tp 2: ranks 0 and 1 share one model and one half of the rows, 2 and 3 the others. A total counts
    each half once. Without --tp each is for itself."""

    def work():
        two, one = processes.join_ranks(tp=2), processes.join_ranks()
        shown = [
            (
                r.device,
                r.index,
                r.n,
                r.leads,
                r.writes,
                r.group and dist.get_process_group_ranks(r.group),
            )
            for r in (two, one)
        ]
        return (
            shown,
            processes.sum_over_ranks(10 * two.index + 1, two),
            processes.sum_over_ranks(dist.get_rank(), one),
        )

    answers = ranks_run(work, n=4)
    assert [shown[0] for shown, *_ in answers] == [
        ("cpu", 0, 2, True, True, [0, 1]),
        ("cpu", 0, 2, False, False, [0, 1]),
        ("cpu", 1, 2, False, True, [2, 3]),
        ("cpu", 1, 2, False, False, [2, 3]),
    ]
    assert [shown[1] for shown, *_ in answers] == [
        ("cpu", i, 4, i == 0, True, None) for i in range(4)
    ]
    assert [totals for _, *totals in answers] == [[12, 6]] * 4


def test_ranks_wait_for_one_another_as_long_as_it_takes():
    """One rank may have the long texts: the others wait at the end of a run for hours. (torch's defaults end the run
    after 30 minutes, on NCCL after 10.)"""

    def work():
        group = processes.join_ranks(tp=2).group
        dist.barrier()  # the first rank, which keeps the addresses, goes last
        return [
            g._get_backend(torch.device("cpu")).options._timeout for g in (dist.group.WORLD, group)
        ]

    for timeouts in ranks_run(work):
        assert min(timeouts) >= timedelta(days=1)


# ---- one model over two ranks

BIASES = dict(attention_bias=True, mlp_bias=True)
PLAN = {
    name: FAMILIES[name][:2]
    for name in ("qwen2", "qwen3", "llama 3", "mistral", "gemma 2", "gemma 3", "olmo 2", "phi 3")
}
PLAN["llama, biases in every layer"] = (LlamaConfig, BIASES)


def memory(model):
    """Bytes of each matrix of the layers; of what is really held, so that a view counts as the whole."""
    return {
        name: module.weight.untyped_storage().nbytes()
        for name, module in model.base_model.layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@torch.no_grad()
def computed(model):
    logp = logp_packed(model, sequences([3, 70, 1, 40, 5, 2, 23], seed=1))
    texts, _ = texts_of_slots(model, sequences(LENGTHS[:7]), [min(n, 14) for n in LIMITS[:7]])
    return logp.tolist(), texts, memory(model), kv_cache.bytes_per_token(model)


def whole_and_split():
    """-> for each family what is computed before and after the cut, or why it cannot be cut."""
    group, found = processes.join_ranks(tp=2).group, {}
    for name, (config, own) in PLAN.items():
        model = random_model(config(**{**SMALL, **own}), SEED)
        model.set_attn_implementation("packed")
        whole = computed(model)
        try:
            tensor_parallel.split(model, group, name)
        except BadInput as error:
            found[name] = str(error)
        else:
            found[name] = whole, computed(model)
    return found


@pytest.fixture(scope="module")
def cuts():
    return ranks_run(whole_and_split)


@pytest.mark.parametrize("family", PLAN)
def test_a_split_model_computes_what_the_whole_one_does(cuts, family):
    """Both ranks: log-probabilities to 5e-5 (they spread over more than 1), greedy texts token for token."""
    for rank in cuts:
        if isinstance(rank[family], str):
            assert family in rank[family] and "--tp 2" in rank[family]
            continue
        (logp, texts, *_), (found, found_texts, *_) = rank[family]
        logp, found = torch.tensor([logp, found])
        assert logp.std() > 1 and (logp - found).abs().max() <= 5e-5
        assert texts == found_texts and len({tuple(ids) for ids in texts}) > 5


@pytest.mark.parametrize("family", PLAN)
def test_a_rank_holds_its_part_of_the_weights_and_no_more(cuts, family):
    """Half of every matrix and of the cache; of OLMo 2, whose norms run over all heads, half of the MLP only. What
    cannot be cut is refused: --tp is for a model that does not fit."""
    for rank in cuts:
        if isinstance(rank[family], str):
            continue
        (*_, whole, cache), (*_, part, cache_part) = rank[family]
        uncut = "self_attn" if family == "olmo 2" else "none"
        assert {name: size / whole[name] for name, size in part.items()} == {
            name: 1.0 if uncut in name else 0.5 for name in whole
        }
        assert cache_part == (cache if family == "olmo 2" else cache // 2)


# ---- training: a model in shards

TRAINED = dict(
    vocab_size=len(TOKENIZER),
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.1,
    bos_token_id=None,
    eos_token_id=1,
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """13 rows; a Qwen3 (head tied to the embedding, norms of queries and keys) and a Qwen2 (head apart, biases). The
    vocabulary of 149 does not divide by 2."""
    path = tmp_path_factory.mktemp("material")
    for name, kind, config in (
        ("qwen3", Qwen3ForCausalLM, Qwen3Config(**TRAINED, head_dim=10, tie_word_embeddings=True)),
        ("qwen2", Qwen2ForCausalLM, Qwen2Config(**TRAINED, tie_word_embeddings=False)),
    ):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases are 0, norms 1 otherwise
                torch.nn.init.normal_(parameter, mean=parameter[0].item(), std=0.2)
        loading.save(model, TOKENIZER, path / name)
    for name in ("no head", "other shape"):
        shutil.copytree(path / "qwen2", path / name)
    tensors = load_file(path / "qwen2" / "model.safetensors")
    save_file(
        {key: x for key, x in tensors.items() if key != "lm_head.weight"},
        path / "no head" / "model.safetensors",
    )
    config = json.loads((path / "other shape" / "config.json").read_text()) | {"hidden_size": 64}
    (path / "other shape" / "config.json").write_text(json.dumps(config))
    write_rows(
        path / "rows.jsonl",
        [row for row in tiny.teacher_pool(60, 0) if row["n_thinking_tokens"] <= 45][:13],
    )
    return path


def settings_of(material, out, model="qwen3", **more):
    return sft.Config(
        **{
            "model": str(material / model),
            "data": str(material / "rows.jsonl"),
            "out": str(out),
            "format": "think",
            "epochs": 1,
            "batch_rows": 5,
            "lr": 0.5,
            "warmup": 0.0,
            "clip": 1.0,
            "print_every": 0,
            "plot": False,
            **more,
        }
    )


def plain_sgd(model, lr, *_, **__):
    """Gradient descent instead of AdamW, which turns rounding of a gradient near 0 into a step of full length."""
    optimizer = torch.optim.SGD(sharding.parts(model).values(), lr=lr)
    optimizer.param_groups[0]["peak"] = lr
    return [optimizer]


def by_sgd(configs, script=sft):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_optimizers", plain_sgd)
        return [script.main(cfg) for cfg in configs]


def weights_of(path):
    return load_file(Path(path) / "model.safetensors")


def gap(one, other):
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("tp", [1, 2])
def test_one_step_of_two_ranks(material, tmp_path, tp):
    """The shortest of the tests below: all 13 rows in one step."""
    settings = dict(batch_rows=13, tp=tp)
    (((alone,),),) = [by_sgd([settings_of(material, tmp_path / "alone", batch_rows=13)])]
    for ((found,),) in ranks_run(by_sgd, [settings_of(material, tmp_path / "out", **settings)]):
        assert found["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-6)
    assert gap(tmp_path / "alone", tmp_path / "out") <= 1e-6


SHARDED = {"gemma 3": (1, 2), "llama, biases in every layer": (2,)}
TEXTS = [sequences([n], seed=n)[0] for n in (30, 17, 50, 8)]


def gradients_in_shards(folder):
    """-> {(family, tp): (norm, share of the weights that this rank holds, {weight: whole gradient})}."""
    found = {}
    for name, ways in SHARDED.items():
        for tp in ways:
            model, _ = sharding.load(str(folder / name), processes.join_ranks(tp=tp, shards=True))
            (-sharding.score(model, packing.pack(TEXTS)).sum() / 100).backward()
            norm = sharding.clip_gradients(model, 1e9)
            share = sum(part.numel() for part in model.shards.parts.values()) / sum(
                p.numel() for p in model.parameters()
            )
            found[name, tp] = (
                norm,
                share,
                {
                    key: DTensor.from_local(
                        model.shards.parts[key].grad,
                        p.device_mesh,
                        p.placements,
                        run_check=False,
                        shape=p.shape,
                        stride=p.stride(),
                    )
                    .full_tensor()
                    .tolist()
                    for key, p in model.named_parameters()
                },
            )
    return found


def test_a_model_to_be_sharded_is_made_without_weights():
    """Matrices have a shape and no memory; what is in no file, the rotary frequencies, has its numbers."""
    model, folder = sharding._without_weights(BASE)
    assert folder == Path(BASE) and all(p.is_meta for p in model.parameters() if p.ndim > 1)
    whole, _ = loading.load(BASE)
    for (name, ours), (_, theirs) in zip(model.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.equal(ours, theirs) and len(ours) > 1, name


def test_families_in_shards(tmp_path):
    """Scaled embeddings, two rotary embeddings and windows of Gemma 3; biases on both sides of every cut of a Llama. All
    gradients are those of one process: to the bit over data parallel ranks (here with the same rows), to 1e-5 of the
    largest with split matrices. A rank holds half of the weights."""
    wanted = {}
    for name in SHARDED:
        config, own = PLAN[name]
        loading.save(random_model(config(**{**SMALL, **own}), SEED), TOKENIZER, tmp_path / name)
        model, _ = loading.load(str(tmp_path / name))
        (-models.score(model, packing.pack(TEXTS)).logp.sum() / 100).backward()
        wanted[name] = {key: p.grad for key, p in model.named_parameters()}
    for answer in ranks_run(gradients_in_shards, tmp_path):
        for (name, tp), (norm, share, gradients) in answer.items():
            assert 0.49 <= share <= 0.52  # one token of 149 more or less; norms
            largest = max(g.abs().max().item() for g in wanted[name].values())
            assert gradients.keys() == wanted[name].keys() and largest > 0.1
            assert norm == pytest.approx(
                math.sqrt(sum(g.square().sum().item() for g in wanted[name].values())), rel=1e-5
            )
            for key, gradient in gradients.items():
                assert (torch.tensor(gradient) - wanted[name][key]).abs().max() <= (
                    0 if tp == 1 else 1e-5 * largest
                ), key


def cut_short(cfg, at=2):
    """Run until the update after step `at` fails, as Ctrl-C makes it."""
    calls, update = [], training.update

    def failing(*args):
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return update(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "update", failing)
        with pytest.raises(KeyboardInterrupt):
            sft.main(cfg)


def on_two_ranks(sgd, adam, others):
    """-> histories. adam: an undisturbed run, one that is cut short and continued, two that are left cut short, one that
    one process has cut short."""
    (history,) = by_sgd([sgd])
    whole, broken, left, also_left, from_one = adam
    sft.main(whole)
    cut_short(broken)
    sharding.FILE_BYTES = 20_000  # checkpoints in several files per rank
    for cfg in (left, also_left):
        cut_short(cfg)
        assert len(list(checkpoints.saved_checkpoints(cfg.out)[0].glob("*.safetensors"))) > 4
    sharding.FILE_BYTES = 5e9
    again, taken_over, refused = sft.main(broken), sft.main(from_one), []
    material = Path(left.model).parent
    for cfg in (
        dataclasses.replace(left, lr=0.5),
        dataclasses.replace(left, muon_lr=0.01),
        dataclasses.replace(left, tp=3),
        *(
            dataclasses.replace(left, model=str(material / name))
            for name in ("no head", "other shape", "no model")
        ),
    ):
        with pytest.raises(BadInput) as caught:
            sft.main(cfg)
        refused.append(str(caught.value))
    sharding.FILE_BYTES = 20_000
    return history, again, taken_over, [sft.main(cfg)[0] for cfg in others], refused


@pytest.fixture(scope="module")
def runs(material, tmp_path_factory):
    """3 steps of 5, 5 and 3 rows by 1, 2 and 4 ranks, with and without tensor parallelism, by gradient descent; and by
    AdamW, cut short after step 2 and continued by other numbers of ranks -> (folder of all runs, histories)."""
    folder, histories = tmp_path_factory.mktemp("runs"), {}

    def sgd(out, model="qwen3", **more):
        return settings_of(material, folder / out, model, **{"micro_batch_tokens": 70, **more})

    def adam(out, **more):
        return settings_of(material, folder / out, lr=0.01, save_every=1, **more)

    histories["1"], histories["1 qwen2"] = by_sgd(
        [sgd("1", micro_batch_tokens=10_000), sgd("1 qwen2", "qwen2", micro_batch_tokens=10_000)]
    )
    sft.main(adam("adam 1"))
    cut_short(adam("1 to 2"))
    others = [
        settings_of(material, folder / "bf16", dtype="bf16"),
        settings_of(material, folder / "recompute", model="qwen2", recompute=True),
        settings_of(
            material, folder / "again", model=folder / "recompute", train_on="all", offload=True
        ),
    ]
    two = ranks_run(
        on_two_ranks,
        sgd("2"),
        [adam(x) for x in ("adam 2", "2 to 2", "2 to 1", "2 to 4", "1 to 2")],
        others,
    )
    (
        histories["2"],
        histories["2 to 2"],
        histories["1 to 2"],
        histories["others"],
        histories["refused"],
    ) = zip(*two)
    histories["4"] = [h for (h,) in ranks_run(by_sgd, [sgd("4")], n=4)]
    histories["tp 2"] = [
        h for (h,) in ranks_run(by_sgd, [sgd("tp 2", "qwen2", tp=2, micro_batch_tokens=10_000)])
    ]
    both = ranks_run(
        lambda: (
            by_sgd([sgd("2 x 2", tp=2, micro_batch_tokens=200)])[0],
            sft.main(adam("2 to 4", tp=2)),
        ),
        n=4,
    )
    histories["2 x 2"], histories["2 to 4"] = zip(*both)
    histories["2 to 1"] = [sft.main(adam("2 to 1"))]
    return folder, histories


@pytest.mark.parametrize("ranks", ["2", "4", "tp 2", "2 x 2"])
def test_training_is_that_of_one_process(material, runs, ranks):
    """Loss, gradient norm and weights after 3 steps to 1e-6, in micro-batches of at most 70 or 200 tokens, the last step
    with fewer rows than 4 ranks can share; the clipping acts. Only the first rank writes, and transformers loads it."""
    folder, histories = runs
    alone, ours = folder / ("1 qwen2" if ranks == "tp 2" else "1"), folder / ranks
    before = load_file(material / ("qwen2" if ranks == "tp 2" else "qwen3") / "model.safetensors")
    assert max((w - before[key]).abs().max().item() for key, w in weights_of(alone).items()) > 0.05
    assert gap(alone, ours) <= 1e-6
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in alone.iterdir())
    for history in histories[ranks]:
        for found, wanted in zip(history, histories[alone.name], strict=True):
            assert found["n_trained"] == wanted["n_trained"] and wanted["grad_norm"] > 1
            for value in ("loss", "grad_norm"):
                assert found[value] == pytest.approx(wanted[value], rel=1e-6)
    assert [row["step"] for row in read_rows(ours / "log.jsonl")] == [1, 2, 3]
    loaded = AutoModelForCausalLM.from_pretrained(ours)
    assert all(torch.equal(p, weights_of(ours)[key]) for key, p in loaded.named_parameters())
    assert AutoTokenizer.from_pretrained(ours).get_vocab() == TOKENIZER.get_vocab()
    assert json.loads((ours / "config.json").read_text()) == json.loads(
        (alone / "config.json").read_text()
    )


@pytest.mark.parametrize("name", ["2 to 2", "2 to 1", "1 to 2", "2 to 4"])
def test_a_checkpoint_continues_on_any_number_of_ranks(material, runs, name):
    """Cut short after step 2 of AdamW, continued with the third by as many or another number of ranks (4: two by two):
    the same ranks end in the same bytes, others as close to one process as Adam allows (1e-5 of the way moved)."""
    folder, histories = runs
    assert [[row["step"] for row in history] for history in histories[name]] == [[3]] * len(
        histories[name]
    )
    assert [row["step"] for row in read_rows(folder / name / "log.jsonl")] == [1, 2, 3]
    assert not list((folder / name).glob("checkpoint*"))
    if name == "2 to 2":
        assert (folder / name / "model.safetensors").read_bytes() == (
            folder / "adam 2" / "model.safetensors"
        ).read_bytes()
    before, wanted = (
        load_file(material / "qwen3" / "model.safetensors"),
        weights_of(folder / "adam 1"),
    )
    apart, moved = (
        math.sqrt(sum((wanted[key] - other[key]).square().sum().item() for key in wanted))
        for other in (weights_of(folder / name), before)
    )
    assert moved > 0.5 and apart <= 1e-5 * moved


def test_bf16_recomputing_and_offloading_in_shards(material, runs):
    """In bfloat16 the first loss is within 2% of float32 and not the same; with recomputed activations it is the same. A
    model written in several files is read again, straight into shards in host memory, and by transformers: the first
    loss is that of the whole model."""
    folder, histories = runs
    again = AutoModelForCausalLM.from_pretrained(folder / "recompute").eval()
    assert len(list((folder / "recompute").glob("model-0000?-of-0000?.safetensors"))) > 3
    assert not (folder / "recompute" / "model.safetensors").exists()
    tokenizer, total, n = AutoTokenizer.from_pretrained(folder / "recompute"), 0.0, 0
    texts = [
        sft.FORMATS["think"].training_ids(tokenizer, row)[0]
        for row in read_rows(material / "rows.jsonl")
    ]
    for i in sft.plan_steps([len(ids) for ids in texts], 1, 5, 0, 42)[0]:
        with torch.no_grad():
            logp = again(torch.tensor([texts[i]])).logits[0, :-1].log_softmax(1)
        total -= logp[range(len(logp)), texts[i][1:]].sum().item()
        n += len(logp)
    for bf16, recomputed, continued in histories["others"]:
        assert 1e-5 < abs(bf16["loss"] / histories["1"][0]["loss"] - 1) < 0.02
        assert recomputed["loss"] == pytest.approx(histories["1 qwen2"][0]["loss"], rel=1e-6)
        assert continued["loss"] == pytest.approx(total / n, rel=1e-5)


def test_what_shards_refuse(runs):
    """By every rank, in one line that names it: other settings, Muon, a --tp that does not divide, weights that lack one or
    have another shape, no model at all."""
    wanted = [
        "lr: 0.01 there, 0.5 here",
        "--muon-lr needs whole matrices",
        "--tp 3: does not divide 2 processes",
        r"no head: the weights lack lm_head.weight; .*save_original_format=False",
        r"other shape: .* is \[149, 32\], not \[149, 64\]",
        "no model: no such model directory",
    ]
    for refused in runs[1]["refused"]:
        assert len(refused) == len(wanted)
        for line, message in zip(refused, wanted):
            assert re.search(message, line) and "\n" not in line


def test_two_ranks_ended_at_any_moment(material, tmp_path):
    """SIGTERM to both ranks, then twice SIGKILL, each at a moment of the clock's choosing after the first checkpoint of
    its own; SIGTERM leaves a checkpoint of the last logged step. What ends undisturbed has the bytes and the log of a
    run that nobody disturbed."""
    settings = dict(lr=0.01, epochs=5, save_every=1)
    whole = settings_of(material, tmp_path / "whole", **settings)
    cfg = settings_of(material, tmp_path / "out", **settings)
    undisturbed = start_ranks(sft.main, [whole])
    for end in [signal.SIGTERM, *[signal.SIGKILL] * 2]:
        before = max([0, *map(step_of, checkpoints.saved_checkpoints(cfg.out))])
        ranks, deadline = start_ranks(sft.main, [cfg]), time.monotonic() + 60
        while (
            max([0, *map(step_of, checkpoints.saved_checkpoints(cfg.out))]) <= before
            and time.monotonic() < deadline
            and ranks[0][0].is_alive()
        ):
            time.sleep(0.002)
        time.sleep(time.time_ns() % 1000 / 20_000)
        for process, _ in ranks:
            if process.is_alive():
                os.kill(process.pid, end)
        if end == signal.SIGTERM:
            assert all("SystemExit: 143" in str(answer.recv()) for _, answer in ranks)
            (saved,) = checkpoints.saved_checkpoints(cfg.out)
            assert step_of(saved) == read_rows(tmp_path / "out" / "log.jsonl")[-1]["step"] < 15
        kill(ranks)
    assert 0 < step_of(checkpoints.saved_checkpoints(cfg.out)[0]) < 15
    ranks_run(sft.main, cfg)
    assert all(answer.poll(60) for _, answer in undisturbed)
    kill(undisturbed)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    speeds = ("tok_s", "memory_gb")
    logs = [
        [
            {k: v for k, v in row.items() if k not in speeds}
            for row in read_rows(tmp_path / name / "log.jsonl")
        ]
        for name in ("out", "whole")
    ]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == list(range(1, 16))


def step_of(checkpoint):
    return int(checkpoint.name.partition("-")[2])
