"""atlas/measures.py: numbers of rows, by hand."""

import math

import pytest

from atlas import measures
from engine.rows import BadInput, read_rows, write_rows


def run(tmp_path, kind, *files, **more):
    """Rows of each file -> the rows that are written."""
    paths = []
    for number, rows in enumerate(files):
        paths.append(str(tmp_path / f"{number}.jsonl"))
        write_rows(paths[-1], rows)
    out = str(tmp_path / "out.jsonl")
    measures.main(measures.Config(data=tuple(paths), out=out, kind=kind, **more))
    return read_rows(out)


def answers(question, *responses, logp=(0, 0, 0, 0)):
    row = {"id": question, "answer": "4", "thinking": "", "n_tokens": 10, "finish": "stop"}
    return [
        row | {"sample": i, "response": text, "logp": [x]}
        for i, (text, x) in enumerate(zip(responses, logp))
    ]


def test_vote_and_best(tmp_path):
    """3, 4, 4 votes 4 at 30 tokens; of the first two, a tie, 3; the likeliest is the second 4."""
    rows = answers("q", "3", "4", "4", logp=(-3, -2, -1))
    (voted,) = run(tmp_path, "vote", rows)
    assert (voted["response"], voted["n_tokens"]) == ("4", 30)
    (voted,) = run(tmp_path, "vote", rows, k=2)
    assert (voted["response"], voted["n_tokens"]) == ("3", 20)
    (best,) = run(tmp_path, "best", rows)
    assert best["response"] == "4" and best["logp"] == [-1]


def test_any_right_sample(tmp_path):
    """The third of 3, 5, 4 is right; of the first two none is, so that the first stands."""
    rows = answers("q", "3", "5", "4")
    (found,) = run(tmp_path, "any", rows)
    assert (found["response"], found["n_tokens"]) == ("4", 30)
    (found,) = run(tmp_path, "any", rows, k=2)
    assert (found["response"], found["n_tokens"]) == ("3", 20)


def test_language(tmp_path):
    """try, low, 试, wait: 3 of 4 words; numbers are none; no words at all are all Latin."""
    texts = ["try 7 + 5 = 12 low 试 3 wait", "试 低", ""]
    rows = [{"id": text, "thinking": text} for text in texts]
    assert [row["latin"] for row in run(tmp_path, "language", rows)] == [75, 0, 100]


def test_gain(tmp_path):
    """Wrong to right +100, right to right 0, right to wrong -100; a question must be in both."""
    before = [*answers("a", "3"), *answers("b", "4"), *answers("c", "4")]
    after = [*answers("a", "4"), *answers("b", "4"), *answers("c", "none")]
    assert [row["gain"] for row in run(tmp_path, "gain", before, after)] == [100, 0, -100]
    with pytest.raises(BadInput, match="the first file has no answer to 'c'"):
        run(tmp_path, "gain", before[:2], after)
    with pytest.raises(BadInput, match="1 files for --kind gain"):
        run(tmp_path, "gain", before)


def test_within_its_limit(tmp_path):
    rows = [{"id": str(n), "n_thinking_tokens": n} for n in (39, 40, 41)]
    assert [row["within"] for row in run(tmp_path, "within", rows, limit=40)] == [1, 1, 0]


def test_behaviours(tmp_path):
    row = answers("q", "4")[0] | {"thinking": "5 high . wait , check it vs 4", "finish": "length"}
    (found,) = run(tmp_path, "behaviours", [row])
    assert (found["backtracking"], found["cut"]) == (1, 1) and found["verification"] >= 2


def test_divergence(tmp_path):
    """Ratios 0.5 and 1.5, mean 1; other completions are refused."""
    own = [{"id": "q", "ids": [1, 2], "logp": [-1.0, -1.0]}]
    base = [{"id": "q", "ids": [1, 2], "logp": [-1.5, -2.5]}]
    assert run(tmp_path, "divergence", own, base)[0]["divergence"] == 1
    with pytest.raises(BadInput, match="another completion"):
        run(tmp_path, "divergence", own, [base[0] | {"ids": [1, 3]}])


def test_stop_at_the_first_that_is_sure(tmp_path):
    """Answers of probability 0.5, 0.95 and 0.99: behind one thinking token and its end."""

    def at(n, probability):
        logp = [-9.0] * n + [-9.0, math.log(probability), 0.0]
        return [{"id": "q", "n_thinking_tokens": n, "n_tokens": n + 3, "logp": logp}]

    runs = at(1, 0.5), at(2, 0.95), at(3, 0.99)
    for limit, n in ((0.4, 1), (0.9, 2), (0.97, 3), (0.999, 3)):
        assert run(tmp_path, "stop", *runs, limit=limit)[0]["n_thinking_tokens"] == n


def test_unchanged_weights(tmp_path):
    """4 weights: the first training changes 2 of them, the other 1, which is among those: 50%.

    By chance a quarter. A change of 1e-6 is none in bfloat16.
    """
    import torch
    from safetensors.torch import save_file

    models = []
    for name, values in (("a", [1, 1, 1, 1]), ("b", [2, 2, 1, 1 + 1e-6]), ("c", [3, 1, 1, 1])):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.tensor(values, dtype=torch.float32)}, folder / "model.safetensors")
        models.append(str(folder))
    rows = measures.weights(models)
    assert rows == [{"id": "w", "unchanged": 50, "overlap": 50, "chance": 25}]


def test_flops_of_a_training(tmp_path):
    write_rows(
        tmp_path / "flops.jsonl", [{"phase": "a", "flops": 2e12}, {"phase": "b", "flops": 1e12}]
    )
    config = measures.Config(data=(str(tmp_path),), out=str(tmp_path / "o.jsonl"), kind="flops")
    assert measures.main(config) == [{"id": "all", "tflops": 3}]


def test_the_wrong_number_of_files(tmp_path):
    with pytest.raises(BadInput, match="2 files for --kind vote"):
        run(tmp_path, "vote", answers("q", "4"), answers("q", "4"))
