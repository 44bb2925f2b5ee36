"""data/hub.py and data/prepare.py: the hub's rows become ours, worded as in the papers."""

import json

import pytest

from data import hub, prepare
from engine.rows import BadInput, read_rows, write_rows
from grading.answers import grade

RAW = {  # one row of each, as it is on the hub, and its answer in ours
    "math500": (
        {"problem": "x?", "solution": r"\boxed{\frac12}", "answer": r"\frac12", "level": 1},
        r"\frac12",
    ),
    "aime24": ({"problem": "y?", "answer": "025", "solution": ""}, "25"),
    "aime25": ({"problem": "y?", "answer": 70}, "70"),
    "amc23": ({"question": "z?", "answer": 27.0}, "27"),
    "gsm8k": ({"question": "2+2?", "answer": "4. #### 1,004"}, "1004"),
    "minerva": ({"question": "m?", "answer": "1e-5"}, "1e-5"),
    "olympiad": (
        {"context": None, "question": "o?", "final_answer": ["$2$", "$-2$"], "solution": ["s"]},
        "$2$, $-2$",
    ),
    "gpqa": (
        {
            "Question": "g?",
            "Correct Answer": "yes\n",
            "Incorrect Answer 1": "no",
            "Incorrect Answer 2": "maybe",
            "Incorrect Answer 3": "never",
            "Subdomain": "Physics",
        },
        None,
    ),
    "mmlu-pro": (
        {
            "question": "p?",
            "options": ["a", "b", "c"],
            "answer": "C",
            "answer_index": 2,
            "category": "law",
        },
        "C",
    ),
    "headqa": (
        {"qtext": "h?", "ra": 2, "answers": [{"aid": 1, "atext": "a "}, {"aid": 2, "atext": "b"}]},
        "B",
    ),
    "commonsenseqa": (
        {"question": "c?", "choices": {"label": ["A", "B"], "text": ["a", "b"]}, "answerKey": "B"},
        "B",
    ),
    "acpbench": (
        {
            "id": 1,
            "group": "ferry",
            "context": "There is a ferry.",
            "question": "a?",
            "answer": "B",
            "query": "",
            "choices": {"text": ["u", "v"], "label": ["A", "B"]},
        },
        "B",
    ),
    "countdown": ({"nums": [3, 5], "target": 8}, "8"),
    "ifeval": (
        {
            "key": 1,
            "prompt": "i?",
            "instruction_id_list": ["keywords:existence"],
            "kwargs": [{"keywords": ["a"], "num_words": None}],
        },
        None,
    ),
    "coqa": (
        {
            "id": "c",
            "source": "cnn",
            "story": "Cotton lived in a barn.",
            "questions": {"input_text": ["Who?", "Where?"]},
            "answers": {"input_text": ["Cotton", "in a barn"]},
            "additional_answers": {
                "0": {"input_text": ["a kitten", "a barn"]},
                "1": {"input_text": ["Cotton", "In a barn"]},
            },
        },
        "in a barn",
    ),
    "mc-taco": (
        {
            "sentence": "He went to sleep.",
            "question": "For how long?",
            "answer": "8 hours",
            "label": 1,
            "category": 0,
        },
        "yes",
    ),
    "halueval": (
        {"knowledge": "k", "question": "h?", "answer": "perhaps", "hallucination": "no"},
        "no",
    ),
}


def test_every_benchmark_from_a_row_of_the_hub(tmp_path, capsys):
    """Answers by hand.

    GPQA's is the letter of the right choice in its order. Nulls are dropped from IFEval's
    arguments.
    """
    assert set(RAW) == set(prepare.BENCHMARKS)
    for name, (raw, answer) in RAW.items():
        write_rows(tmp_path / f"{name}.jsonl", [raw])
        source, out = str(tmp_path / f"{name}.jsonl"), str(tmp_path / "out")
        (row,) = prepare.main(prepare.Config(benchmark=name, source=source, out=out))[name]
        assert row["task"] == name and row["group"] == prepare.BENCHMARKS[name].group and row["id"]
        if name == "gpqa":
            answer = "ABCD"[row["choices"].index("yes")]
            assert sorted(row["choices"]) == ["maybe", "never", "no", "yes"]
            assert "\n\nA) " + row["choices"][0] + "\nB) " in row["question"]
        assert (
            row.get("answer") == answer
            and grade(row, "3 + 5" if name == "countdown" else answer or "a b") is True
        ), name
        if name == "ifeval":
            assert row["kwargs"] == [{"keywords": ["a"]}] and row["question"] == "i?"
        assert ("\n\nA) " in row["question"]) == (
            name in ("gpqa", "mmlu-pro", "headqa", "acpbench", "commonsenseqa")
        )
    said = capsys.readouterr().out
    assert "ifeval.jsonl: 1 questions; Zhou 2023" in said
    assert "--n 1 --temperature 0.6 --top-p 0.95 --max-tokens 4096 --format auto" in said


def test_the_order_of_choices_is_drawn_from_the_question():
    """Each letter is right for some of 30 questions, and always the same one."""
    letters = [
        [hub.gpqa(RAW["gpqa"][0] | {"Question": f"question {i}"})["answer"] for i in range(30)]
        for _ in range(2)
    ]
    assert letters[0] == letters[1] and set(letters[0]) == set("ABCD")


def test_conversations(tmp_path):
    """The passage, what was said, the last question.

    Each different answer to it is a reference. One annotator is enough.
    """
    row = hub.coqa(RAW["coqa"][0])
    assert row["question"] == "Cotton lived in a barn.\n\nQ: Who?\n\nA: Cotton\n\nQ: Where?\n\nA:"
    assert sorted(row["references"]) == ["a barn", "in a barn"] and row["answer"] == "in a barn"
    alone = hub.coqa(
        {name: value for name, value in RAW["coqa"][0].items() if name != "additional_answers"}
    )
    assert alone["question"] == row["question"] and alone["references"] == ["in a barn"]


def test_what_may_be_hallucinated():
    """Each of HaluEval's tasks shows its own fields, the judged text last.

    So do the rows of the general task.
    """
    for raw, shown in (
        (
            {"document": "d", "summary": "s", "hallucination": "yes"},
            "Document: d\nSummary: s\n\nDoes the summary ",
        ),
        (
            {"knowledge": "k", "dialogue_history": "h", "response": "r", "hallucination": "Yes"},
            "Knowledge: k\nDialogue history: h\nResponse: r\n\nDoes the response ",
        ),
        (
            {"id": "1", "question": "q", "response": "r", "answer": "yes"},
            "Question: q\nResponse: r\n\nDoes the r",
        ),
    ):
        row = hub.halueval(raw)
        assert (
            row["question"].startswith(shown)
            and row["answer"] == "yes"
            and row["choices"] == ["no", "yes"]
        )


def test_parts_of_a_benchmark_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda *names, split: asked.append((*names, split)) or [{"n": len(asked)}],
    )
    halueval = prepare.BENCHMARKS["halueval"]
    assert prepare.raw_rows_of(prepare.Config(out="x"), halueval) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert asked[1] == ("pminervini/HaluEval", "dialogue_samples", "data")


def test_protocols_of_the_papers(tmp_path):
    """s1 asks greedily and adds nothing; the others ask for a box.

    LIMO and UniReason sample small benchmarks several times.
    """
    wanted = {
        ("none", "aime24"): (1, 0.6, "auto"),
        ("s1", "aime24"): (1, 0, "s1"),
        ("limo", "aime24"): (4, 0.6, "plain"),
        ("limo", "math500"): (1, 0, "plain"),
        ("unireason", "aime24"): (10, 0.6, "think"),
        ("unireason", "math500"): (3, 0.6, "think"),
        ("unireason", "ifeval"): (1, 0, "think"),
        ("simplerl", "aime25"): (32, 1, "plain"),
        ("simplerl", "gsm8k"): (1, 1, "plain"),
    }
    for (paper, name), expected in wanted.items():
        settings, requests = prepare.protocol(name, paper)
        assert (
            settings["n"],
            settings["temperature"],
            settings["format"],
        ) == expected
        assert requests == {"none": prepare.OURS, "s1": {}}.get(paper, prepare.PAPERS)
    for name in ("gsm8k", "mmlu-pro"):
        write_rows(tmp_path / f"{name}.jsonl", [RAW[name][0]])
    rows = prepare.main(
        prepare.Config(
            benchmark="gsm8k,mmlu-pro",
            source=str(tmp_path),
            out=str(tmp_path / "out"),
            paper="limo",
        )
    )
    assert rows["gsm8k"][0]["question"] == "2+2?" and rows["gsm8k"][0]["asks"] == ["box"]
    choices = "p?\n\nA) a\nB) b\nC) c"
    assert rows["mmlu-pro"][0]["question"] == choices and rows["mmlu-pro"][0]["asks"] == ["letter"]
    header = json.loads((tmp_path / "out/gsm8k.config.json").read_text())
    assert (
        header["sampling"]["max_tokens"] == 32768
        and header["citation"].startswith("Cobbe")
        and header["paper"] == "limo"
    )
    assert read_rows(tmp_path / "out/gsm8k.jsonl") == rows["gsm8k"]


def test_wrong_benchmarks_are_refused(tmp_path):
    write_rows(tmp_path / "x.jsonl", [{"question": "q"}])
    file = str(tmp_path / "x.jsonl")
    for given, words in (
        (dict(benchmark="math501"), "--benchmark math501: not among math500, aime24"),
        ({}, "one of --name and --benchmark"),
        (dict(benchmark="gsm8k", name="gsm8k"), "one of"),
        (
            dict(benchmark="livecodebench"),
            "livecodebench: its answers are programs, and what a model",
        ),
        (dict(name="rows"), "rows needs --source"),
        (dict(benchmark="halueval", source=file), "row 1 does not look like halueval"),
        (dict(benchmark="gsm8k,math500", source=file), "several benchmarks need a directory"),
        (dict(benchmark="gsm8k", source=file), "x.jsonl: row 1 does not look like gsm8k"),
        (
            dict(benchmark="headqa", source=str(tmp_path / "none.parquet")),
            "none.parquet: no such file",
        ),
    ):
        with pytest.raises(BadInput, match=words):
            prepare.main(prepare.Config(out=str(tmp_path / "out"), **given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "row, is_ours",
    [
        ({"id": 1, "question": "q", "answer": "2"}, True),
        ({"id": 1, "question": "q", "answer": "A", "choices": ["a", "b"]}, True),
        ({"id": 1, "question": "q", "instruction_id_list": []}, True),
        ({"question": "2+2?", "answer": "4. #### 4"}, False),  # GSM8K
        ({"id": 1, "problem": "p", "answer": "2"}, False),
        ({"id": 1, "question": "q"}, False),
        ({"id": 1, "question": "q", "answer": "no", "response": "r"}, False),  # HaluEval
        ({"id": 1, "question": "q", "answer": "B", "choices": {"text": ["a"]}}, False),  # ACPBench
    ],
)
def test_rows_that_are_ours_are_known(row, is_ours):
    """Taken for theirs, our row would lose its id and its other fields; and theirs, taken for
    ours, its choices."""
    assert prepare.looks_ours(row) == is_ours


def test_rows_name_the_form_of_answer_that_is_graded(tmp_path):
    """--name asks for a box where grading looks for one, --ask '' for nothing, --ask long for that.
    A row's own requests stay unless --ask says another. The question stays as it is, so that
    curate.py --against compares questions and not requests."""
    ours = {"id": 1, "question": "q", "answer": "2"}

    def asks(name, row, **more):
        write_rows(tmp_path / "rows.jsonl", [row])
        source, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")
        (found,) = prepare.main(prepare.Config(name=name, source=source, out=out, **more))
        assert found["question"] == row["question"]
        return found.get("asks")

    assert asks("gsm8k", RAW["gsm8k"][0]) == ["number"] == asks("gsm8k", ours)
    assert asks("gsm8k", ours, ask="") is None is asks("rows", ours)
    assert asks("gsm8k", ours, ask="long") == ["long"] == asks("rows", ours, ask="long")
    assert asks("gsm8k", ours | {"asks": ["letter"]}) == ["letter"]
    with pytest.raises(
        BadInput, match="--ask lang: not one of number, answer, choice, box, letter, tokens:N"
    ):
        asks("gsm8k", ours, ask="lang")
