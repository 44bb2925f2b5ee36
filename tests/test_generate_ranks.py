"""generate.py over several processes: a part of the rows each, or one model over all."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import BASE, ROOT, free_port, kill, ranks_run, start_ranks

import generate
from data import tiny
from engine import completions
from engine.completions import key_of
from engine.rows import BadInput, read_rows


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
    """The same bytes, the same totals, nothing left over; every rank returns all rows.

    Greedy and sampled, n = 3, waits and budget, a sweep. The three runs themselves differ.
    """
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


def test_score_over_ranks(alone, tmp_path):
    """--score in parts and over one model: the rows of one process in its order, numbers to 2e-5."""
    data = str(alone["sampled, waits, budget: a sweep"] / "out-waits-2.jsonl")
    wanted = generate.main(config(data, tmp_path / "alone.jsonl", score=True))
    numbers = ("logp", "entropy")

    def work():
        return [
            generate.main(config(data, tmp_path / f"{tp}.jsonl", score=True, tp=tp))
            for tp in (1, 2)
        ]

    rows, again = ranks_run(work)
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


# ---- killed and continued


def finished_lines(out):
    return [
        path.read_bytes().count(b"\n")
        for path in sorted(out.parent.glob(out.name + ".unfinished*"))
        if path.suffix != ".part"
    ]  # which is renamed at any moment


def test_killed_with_two_ranks_continued_with_one_and_by_torchrun(tmp_path, problems):
    """Both ranks get SIGKILL when each has written rows; the second was in the middle of a line.

    One process continues, and so does torchrun with one model over two ranks. Both files are those
    of a run that nobody disturbed, and only the missing rows are decoded.
    """
    settings = dict(n=8, temperature=1.0, waits=2, wait="wait")
    generate.main(config(problems, tmp_path / "alone.jsonl", **settings))
    wanted = (tmp_path / "alone.jsonl").read_bytes()
    out, other = tmp_path / "killed" / "out.jsonl", tmp_path / "other" / "out.jsonl"
    out.parent.mkdir()
    ranks = start_ranks(lambda: generate.main(config(problems, out, slots=1, **settings)))
    end = time.monotonic() + 180
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
    printed, errors = later.communicate(timeout=180)
    assert later.returncode == 0, errors
    assert other.read_bytes() == wanted and "40 rows" in printed
    assert sorted(p.name for p in other.parent.iterdir()) == ["out.config.json", "out.jsonl"]


class Killed(Exception):
    pass


def test_killed_while_the_parts_are_put_together(problems, tmp_path, monkeypatch):
    """A run of two ranks left two parts. The next dies while it joins them: no row is lost."""
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
                *((completions, "write_rows") if step == "write_rows" else (Path, "unlink")), die
            )
            with pytest.raises(Killed):
                generate.main(config(problems, out, **FORCED))
        kept = [
            json.loads(line)
            for path in tmp_path.glob("out.jsonl.unfinished*")
            for line in path.read_text().splitlines()
        ]
        assert {key_of(row) for row in kept} == {key_of(row) for row in rows[:10]}, step


def test_parts_are_found_whatever_the_name(problems, tmp_path):
    """[ ] * ? in a file's name are no pattern for its parts."""
    rows = generate.main(config(problems, tmp_path / "run[1]*.jsonl", limit=2))
    assert len(rows) == 2 and read_rows(tmp_path / "run[1]*.jsonl") == rows
    assert len(list(tmp_path.iterdir())) == 2


def test_more_ranks_before_and_other_settings(problems, alone, tmp_path):
    """--overwrite by two ranks over the parts of five with other settings: no old row is kept."""
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


def test_a_row_of_one_rank_is_refused_by_all(alone, tmp_path):
    """A row of the second rank cannot be scored: both end with its name, before a file is touched.

    One that waited for the other would end in a traceback of the network.
    """
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
