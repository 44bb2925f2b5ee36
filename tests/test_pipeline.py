"""All stages one after the other, through files, in seconds: in the tiny world, and on English
text."""

import dataclasses
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import analyze
import curate
import evaluate
import generate
import grpo
import sft
from data import prepare, tiny
from engine import settings
from engine.rows import BadInput, read_rows, write_rows
from grading import labels
from report import behaviours

ROOT = Path(__file__).resolve().parent.parent


def test_tiny_world_end_to_end(tmp_path):
    """All six scripts with the shipped base model.

    curate -> sft -> generate -> evaluate -> grpo -> generate -> evaluate -> analyze
    """
    base, data = str(ROOT / "data/tiny_base"), tmp_path / "data"
    tiny.main(tiny.Config(out=str(data), n_pool=120, n_train=40, n_held_out=24))
    held_out = [row for row in read_rows(data / "held_out.jsonl")][:60]
    write_rows(data / "few.jsonl", held_out)

    attempts, traces = str(tmp_path / "attempts.jsonl"), str(tmp_path / "traces.jsonl")
    generate.main(
        generate.Config(
            model=base, data=str(data / "pool.jsonl"), out=attempts, format="think", max_tokens=48
        )
    )
    chosen = curate.main(
        curate.Config(
            data=str(data / "pool.jsonl"),
            attempts=(attempts,),
            out=traces,
            k=16,
            against=(str(data / "held_out.jsonl"),),
        )
    )
    assert len(chosen) == 16 and all("domain" in row for row in chosen)
    sft.main(
        sft.Config(
            model=base,
            data=traces,
            out=str(tmp_path / "sft"),
            format="think",
            epochs=2,
            batch_rows=8,
            lr=1e-3,
        )
    )

    def answer(model, name, **more):
        out = str(tmp_path / "runs" / f"{name}.jsonl")
        rows = generate.main(
            generate.Config(
                model=model,
                data=str(data / "few.jsonl"),
                out=out,
                format="think",
                max_tokens=160,
                temperature=0.7,
                **more,
            )
        )
        return out, rows

    plain, rows = answer(str(tmp_path / "sft"), "sft")
    forced, forced_rows = answer(str(tmp_path / "sft"), "sft-wait", waits=1, wait="wait")
    cut, cut_rows = answer(str(tmp_path / "sft"), "sft-cut", thinking_budget=4)
    assert len(rows) == len(forced_rows) == 60 and sum(row["n_waits"] for row in forced_rows) > 40
    assert all(row["n_thinking_tokens"] <= 4 for row in cut_rows) and any(
        row["forced"] for row in cut_rows
    )

    history = grpo.main(
        grpo.Config(
            model=base,
            data=str(data / "train.jsonl"),
            out=str(tmp_path / "grpo"),
            steps=3,
            prompts_per_step=6,
            group_size=4,
            max_tokens=48,
            lr=5e-4,
        )
    )
    assert max(step["ratio_first"] for step in history) < 1e-4
    after, _ = answer(str(tmp_path / "grpo"), "grpo")
    before, _ = answer(base, "base")

    report = evaluate.main(evaluate.Config(runs=(plain, forced, cut, before, after)))
    assert report
    analyze.main(
        analyze.Config(
            base=base,
            tuned=(str(tmp_path / "sft"), str(tmp_path / "grpo")),
            data=(plain, after),
            runs=(str(tmp_path / "runs"),),
            out=str(tmp_path / "report"),
        )
    )
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    page = (tmp_path / "report/report.html").read_text()
    assert {"sft", "grpo"} <= set(json.dumps(metrics).replace('"', " ").split()) and len(
        page
    ) > 10_000
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page) and "<script src" not in page


def english_trace(number):
    """A question in English with a trace that doubts and checks, as s1's have."""
    km, hours = 60 + 7 * number, 2 + number % 3
    total = km * hours
    thinking = (
        f"The train covers {km} km in each hour, and it runs for {hours} hours.\n\n"
        f"So the distance should be {km} * {hours} = {total} km. Wait, let me check this: "
        f"{total} / {hours} = {km}, which is the speed that was given.\n\nThat settles it."
    )
    return {
        "id": f"train-{number}",
        "question": f"A train runs at {km} km/h for {hours} hours. How many km does it cover?",
        "answer": str(total),
        "thinking": thinking,
        "response": f"It covers $\\boxed{{{total}}}$ km.",
        "model": "by hand",
    }


HELD_OUT = [
    "What is $2^{10}$?",
    "Find the sum of the digits of 7531.",
    "How many primes are below 20?",
]


def test_english_text_end_to_end(tmp_path, bpe):
    """The same scripts on questions in English, in s1's format.

    With byte-level BPE and an untrained small Qwen2.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = bpe
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    base = str(tmp_path / "base")
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)

    write_rows(tmp_path / "pool.jsonl", [english_trace(number) for number in range(12)])
    questions = str(tmp_path / "questions.jsonl")
    problems = zip(("1", "2", "3"), HELD_OUT, ("1024", "16", "8"))
    write_rows(questions, [{"id": i, "question": q, "answer": a} for i, q, a in problems])
    traces, out = str(tmp_path / "traces.jsonl"), str(tmp_path / "sft")
    kept = curate.main(
        curate.Config(data=str(tmp_path / "pool.jsonl"), against=(questions,), out=traces, k=6)
    )
    assert 1 <= len(kept) <= 6
    history = sft.main(
        sft.Config(
            model=base,
            data=traces,
            out=out,
            format="s1",
            epochs=2,
            batch_rows=2,
            lr=1e-2,
            max_length=160,
        )
    )
    assert history[-1]["loss"] < history[0]["loss"]

    runs = []
    for name, more in {"natural": {}, "cut": {"thinking_budget": 8}, "wait": {"waits": 1}}.items():
        runs.append(str(tmp_path / f"{name}.jsonl"))
        rows = generate.main(
            generate.Config(model=out, data=questions, out=runs[-1], limit=3, max_tokens=40, **more)
        )
        assert len(rows) == 3
    assert all("Final Answer:" in row["text"] for row in read_rows(runs[1]) if row["forced"])

    train = str(tmp_path / "train.jsonl")
    prepare.main(
        prepare.Config(name="rows", source=str(tmp_path / "pool.jsonl"), out=train, limit=8)
    )
    history = grpo.main(
        grpo.Config(
            model=base,
            data=train,
            out=str(tmp_path / "rl"),
            format="plain",
            steps=1,
            prompts_per_step=2,
            group_size=2,
            max_tokens=16,
            reward="random:0.5",
        )
    )
    assert history[0]["ratio_first"] < 1e-4
    evaluate.main(evaluate.Config(runs=tuple(runs)))
    analyze.main(
        analyze.Config(base=base, tuned=(out,), data=(runs[0],), out=str(tmp_path / "report"))
    )
    assert (tmp_path / "report/report.html").stat().st_size > 10_000


def test_prepare_reads_local_files(tmp_path):
    """Each converter on a hand-made row of its data set, as JSONL, JSON and Parquet, offline."""
    raw = {
        "gsm8k": {"question": "2+2?", "answer": "It is <<2+2=4>>4. #### 1,004"},
        "math500": {
            "problem": "x?",
            "solution": r"so \boxed{\frac12}",
            "answer": r"\frac12",
            "subject": "a",
            "level": 1,
        },
        "aime24": {"problem": "y?", "answer": "025", "solution": ""},
        "s1k": {
            "question": "q",
            "solution": r"\boxed{7}",
            "thinking_trajectories": ["hm"],
            "attempt": "Answer: 7",
            "cot_type": "math",
            "source_type": "s",
        },
        "limo": {"question": "q", "solution": "long", "answer": "7"},
        "countdown": {"nums": [3, 5], "target": 8},
    }
    wanted = {
        "gsm8k": "1004",
        "math500": r"\frac12",
        "aime24": "25",
        "s1k": "7",
        "limo": "7",
        "countdown": "8",
    }
    for name, row in raw.items():
        write_rows(tmp_path / f"{name}.jsonl", [row])
        out = str(tmp_path / "out.jsonl")
        rows = prepare.main(
            prepare.Config(name=name, source=str(tmp_path / f"{name}.jsonl"), out=out)
        )
        assert rows[0]["answer"] == wanted[name] and rows[0]["question"] and rows[0]["id"]
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([raw["gsm8k"]]), tmp_path / "g.parquet")
    rows = prepare.main(
        prepare.Config(
            name="gsm8k", source=str(tmp_path / "g.parquet"), out=str(tmp_path / "p.jsonl")
        )
    )
    assert rows[0]["solution"] == "It is 4."
    with pytest.raises(prepare.BadInput, match="row 1 does not look like s1k"):
        prepare.main(
            prepare.Config(
                name="s1k", source=str(tmp_path / "gsm8k.jsonl"), out=str(tmp_path / "x.jsonl")
            )
        )


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        (
            "sft.py",
            ["--model", "data/tiny_base", "--data", "nothing.jsonl", "--out", "OUT"],
            "nothing.jsonl: cannot be read",
        ),
        (
            "sft.py",
            ["--model", "data", "--data", "DATA", "--out", "OUT"],
            "data: not a model directory",
        ),
        (
            "sft.py",
            ["--model", "data/tiny_base", "--data", "BROKEN", "--out", "OUT"],
            "broken.jsonl:2: not a JSON object",
        ),
        (
            "generate.py",
            [
                "--model",
                "data/tiny_base",
                "--data",
                "DATA",
                "--out",
                "OUT.jsonl",
                "--format",
                "think",
                "--thinking-budget",
                "20",
                "--max-tokens",
                "20",
            ],
            "--thinking-budget 20 leaves no room",
        ),
        (
            "generate.py",
            ["--model", "data/tiny_base", "--data", "DATA", "--out", "OUT.jsonl", "--format", "s1"],
            "no single token",
        ),
        (
            "grpo.py",
            ["--model", "data/tiny_base", "--data", "DATA", "--out", "OUT", "--reward", "corect"],
            "no reward 'corect'",
        ),
        ("curate.py", ["--data", "DATA", "--out", "OUT.jsonl"], "data.jsonl:1: no field"),
        ("evaluate.py", ["BROKEN"], "broken.jsonl:2"),
    ],
)
def test_bad_input_is_one_line(tmp_path, script, arguments, message, monkeypatch):
    """A user's mistake ends with status 1 and one line that names it; nothing is written.

    A text given to sys.exit is printed to stderr, with status 1; tests/test_sft.py looks at a
    process of its own.
    """
    (tmp_path / "data.jsonl").write_text(
        '{"id": "a", "question": "compare 1 2", "answer": "low", "response": "low"}\n'
    )
    (tmp_path / "broken.jsonl").write_text(
        '{"id": "a", "question": "q", "response": "r"}\n{"id": \n'
    )
    paths = {
        "DATA": tmp_path / "data.jsonl",
        "BROKEN": tmp_path / "broken.jsonl",
        "OUT": tmp_path / "out",
        "OUT.jsonl": tmp_path / "out.jsonl",
    }
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *(str(paths.get(a, a)) for a in arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert (
        end.value.code.startswith(f"{script}: ")
        and message in end.value.code
        and "\n" not in end.value.code
    )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.jsonl").exists()


def test_decoder_benchmark_runs(capsys, tmp_path):
    """tests/bench_decoder.py in small: every text equal to transformers', and the figure drawn."""
    import bench_decoder

    bench_decoder.main(
        bench_decoder.Config(
            prompts=(8,),
            longest=24,
            batches=(1, 2),
            contexts=(4, 8),
            repeats=1,
            figure=str(tmp_path / "decoder.png"),
        )
    )
    printed = capsys.readouterr().out
    assert printed.count("8 of 8 texts equal") == 3 and printed.count(" tokens/s\n") == 2
    assert (tmp_path / "decoder.png").stat().st_size > 10_000


def test_gpu_script_runs_on_a_cpu(tmp_path, capsys, monkeypatch):
    """tests/gpu.py is for machines with a GPU. Here it only has to run.

    It prints a line for each figure and writes it to the file. A section that fails is named at the
    end, and those behind it run. The flags of a section's own process are the settings. Where no
    time is left nothing begins.
    """
    import gpu

    cfg = gpu.Config(
        shape=("tiny",),
        device="cpu",
        dtype="fp32",
        context=32,
        new_tokens=8,
        batches=(2,),
        packed_tokens=256,
        row_tokens=64,
        prompts_per_step=2,
        group_size=3,
        prompt_tokens=9,
        max_tokens=8,
        out=str(tmp_path / "gpu.jsonl"),
    )
    assert settings.parse(gpu.Config, gpu.flags(cfg)) == cfg

    def broken(cfg, shape):
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setitem(gpu.SECTIONS, "kernels", broken)
    with pytest.raises(SystemExit, match="^not measured: kernels tiny$"):
        gpu.main(cfg)
    printed, rows = capsys.readouterr().out, read_rows(cfg.out)
    assert all(
        word in printed
        for word in (
            "packed bf16",
            "token_stats",
            "decode tiny batch 2",
            "single steps: 24 of 24",
            "grpo tiny 2 x 3",
            "sft tiny",
            "transformers' generate",
            "['no such kernel']",
        )
    )
    assert (
        list(dict.fromkeys(row["section"] for row in rows)) == list(gpu.SECTIONS)
        and len(rows) == 12
    )
    assert rows[0]["error"] < 0.1 and rows[0]["leak"] == rows[1]["resumed_error"] == 0
    assert (
        rows[-1]["section"] == "grpo"
        and rows[-1]["ratio_max"] < 1e-4
        and rows[-1]["tokens"] == 2 * 3 * 8
    )
    with pytest.raises(SystemExit, match="grpo tiny \\(no time was left\\)"):
        gpu.main(dataclasses.replace(cfg, only=("grpo",), minutes=-1))
    with pytest.raises(BadInput, match="--only speed: sections are checks, kernels"):
        gpu.main(dataclasses.replace(cfg, only=("speed",)))


def test_floor_of_a_decoding_step_by_hand():
    """All weights, and 10 tokens of cache for each of 2 sequences.

    Keys and values, 2 layers of 2 heads of 16. Of an embedding apart from the head only rows are
    read.
    """
    import gpu

    model = gpu.make("tiny", "cpu", torch.float32)
    n = sum(p.numel() for p in model.parameters())
    assert gpu.step_bytes(model, "fp32", 2, 10) == 4 * n + 2 * 10 * (2 * 4 * 2 * 2 * 16)
    model.lm_head = torch.nn.Linear(64, 512, bias=False)
    assert gpu.step_bytes(model, "bf16", 2, 10) == 2 * n + 2 * 10 * (2 * 2 * 2 * 2 * 16)
    assert len(gpu.tokenizer_of(model)) == 512


def test_kernel_benchmark_runs_on_a_cpu(tmp_path, capsys):
    """python -m kernels.bench at a tiny size.

    Rows for both passes and three methods, the figure, no NaN.
    """
    from kernels import bench

    table = bench.main(
        ["--device", "cpu", "--tokens", "64", "--heads", "32x512", "--out", str(tmp_path)]
    )
    assert [(row["pass"], row["name"]) for row in table] == [
        (p, n) for p in ("forward", "both") for n in ("plain", "ours", "ours + entropy")
    ]
    assert all(row["ms"] > 0 and row["of products"] > 0 for row in table)
    assert (
        "decode attention" in capsys.readouterr().out
        and (tmp_path / "kernels.png").stat().st_size > 1000
    )


@pytest.mark.parametrize(
    "main, config, given",
    [
        (evaluate.main, evaluate.Config, {"runs": ("none.jsonl",)}),
        (evaluate.main, evaluate.Config, {"scores": "none.jsonl"}),
        (curate.main, curate.Config, {"data": "none.jsonl", "method": "full"}),
        (prepare.main, prepare.Config, {"name": "rows", "source": "none.jsonl"}),
        (labels.main, labels.Config, {"data": "none.jsonl"}),
        (behaviours.main, behaviours.Config, {"data": ("none.jsonl",)}),
    ],
)
def test_an_out_that_is_no_file_is_refused_before_the_work(main, config, given):
    """None of them has read anything yet: the rows are not there."""
    with pytest.raises(BadInput, match=f"^{os.devnull}: not a regular file"):
        main(config(out=os.devnull, **given))


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_table(tmp_path, capsys):
    """One run makes no curve; its grades are printed and written all the same. A figure that
    cannot be written is refused before the grading."""
    rows = [
        {"id": "1", "question": "q", "answer": "2", "text": "2", "thinking": "", "response": "2"}
    ]
    write_rows(tmp_path / "run.jsonl", rows)
    given = {"runs": (str(tmp_path / "run.jsonl"),), "out": str(tmp_path / "graded.jsonl")}
    with pytest.raises(BadInput, match="--figure .*: no model has two runs"):
        evaluate.main(evaluate.Config(figure=str(tmp_path / "curve.png"), **given))
    assert "accuracy" in capsys.readouterr().out and (tmp_path / "graded.jsonl").is_file()
    with pytest.raises(BadInput, match="a directory, not a file to write"):
        evaluate.main(evaluate.Config(figure=str(tmp_path), **given))
    assert not capsys.readouterr().out
