"""data/tiny.py: the tiny world's problems, traces, tokenizer, and its base model."""

import dataclasses
import itertools
import math
import os
import random
import re
import shlex
from pathlib import Path

import pytest

from data import tiny
from engine import settings
from engine.format import FORMATS
from engine.rows import BadInput, read_rows
from grading.answers import grade

ROOT = Path(__file__).resolve().parent.parent


def left_to_right(expression):
    """Value of '7 + 8 - 5', operator by operator: the rule of the world, written a second time."""
    first, *rest = expression.split()
    total = int(first)
    for operator, number in zip(rest[::2], rest[1::2]):
        total = {"+": total + int(number), "-": total - int(number), "*": total * int(number)}[
            operator
        ]
    return total


def equations(thinking):
    """Each `a + b = c` of a trace -> (value of the left side, value written).

    Chains count link by link, with the running total on the left.
    """
    found = re.findall(r"(?=\b(\d+) ([-+*]) (\d+) = (\d+))", thinking)
    return [(left_to_right(f"{a} {op} {b}"), int(c)) for a, op, b, c in found]


PINNED = [
    "make 7 from 3 4 6",
    "pair sum 20 from 6 3 12 1 5 8",
    "pick three total 13 from 5 6 2 3 4 3",
]


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def pool():
    return tiny.teacher_pool(1500, seed=0)


@pytest.fixture(scope="module")
def held_out():
    return {
        split: [
            row
            for group, n in (("math", 300), ("other", 200), ("plain", 200))
            for row in tiny.problems(group, n, 0, split)
        ]
        for split in ("held_out", "dev")
    }


def test_the_same_seed_gives_the_same_rows(pool, held_out):
    """Python's set order and hash seed do not matter.

    The first problems are pinned, so that results of different days and machines are about the same
    problems.
    """
    assert (
        tiny.teacher_pool(200, seed=0) == pool[:200]
        and tiny.teacher_pool(200, seed=1) != pool[:200]
    )
    assert list(tiny.pretraining_rows(50, 3)) == list(tiny.pretraining_rows(50, 3))
    assert list(tiny.pretraining_rows(50, 3)) != list(tiny.pretraining_rows(50, 4))
    assert tiny.problems("math", 300, 0, "held_out") == held_out["held_out"][:300]
    assert [row["question"] for row in held_out["held_out"][:3]] == PINNED


def key_of(row):
    """What makes two problems one: `pair sum 11 from 8 2 9` -> (pair sum 11, 2, 8, 9)."""
    task, _, numbers = row["question"].partition(" from ")
    return task, *sorted(map(int, numbers.split()))


def test_no_problem_is_in_two_splits(pool, held_out):
    """Keys of held-out, dev and training rows are disjoint, except in the closed sets.

    Training rows are of three sorts: pool, problems for RL, the base model's reading. The closed
    sets are compare, fact and repeat.
    """
    closed = ("compare", "fact", "repeat")
    splits = {
        **held_out,
        "train": pool
        + tiny.problems("math", 400, 0, "train")
        + list(tiny.pretraining_rows(3000, 0)),
    }
    sets = {
        split: {key_of(row) for row in rows if row["question"].split()[0] not in closed}
        for split, rows in splits.items()
    }
    assert len(sets["train"]) > 3000 and min(map(len, sets.values())) > 450
    for a, b in itertools.combinations(sets, 2):
        assert not sets[a] & sets[b], (a, b)
    first, second = (
        {key_of(row) for row in tiny.problems("math", 300, seed, "held_out")} for seed in (0, 1)
    )
    assert first != second  # a split is a rule, not a list


def test_split_shares(held_out):
    """1/8 of the keys each: of 8,000 keys 1,000 ± 4 standard deviations of 29.6."""
    splits = [tiny.split_of(f"key {i}") for i in range(8000)]
    assert all(abs(splits.count(name) - 1000) < 119 for name in ("held_out", "dev"))
    assert {*splits} == {"held_out", "dev", "train"}
    questions = [row["question"] for rows in held_out.values() for row in rows[:300]]
    assert len(questions) == len(set(questions)) == 600


def test_every_answer_is_right(held_out):
    """By grading.answers.grade, and for math by hand.

    The answer gives the target and uses each number at most as often as it was given.
    """
    for row in held_out["held_out"] + held_out["dev"]:
        assert grade(row, row["answer"]) is True, row
        if row["group"] == "math":
            assert (
                left_to_right(row["answer"])
                == row["target"]
                == int(re.search(r"\d+", row["question"])[0])
            )
            assert 0 <= row["target"] <= 50
            left = list(row["nums"])
            for number in row["answer"].split()[::2]:
                left.remove(int(number))
            assert len(left) == len(row["nums"]) - row["n_used"]
            listed = list(map(int, row["question"].partition(" from ")[2].split()))
            assert listed == row["nums"]


def solve(question):
    """Answers of the tasks that are not math, worked out from the world's docstring."""
    task, *words = question.split()
    if task == "sort":
        return " ".join(map(str, sorted(map(int, words))))
    if task == "close":
        return " ".join({"(": ")", "[": "]", "{": "}"}[w] for w in words[::-1])
    if task == "logic":
        value = words[0] == "t"
        for joint, word in zip(words[1::2], words[2::2]):
            value = (value and word == "t") if joint == "and" else (value or word == "t")
        return "t" if value else "f"
    if task == "compare":
        a, b = map(int, words)
        return "low" if a < b else "high" if a > b else "yes"
    if task == "copy":
        return " ".join(words)
    if task in ("first", "last"):
        return words[1] if task == "first" else words[-1]
    return " ".join([words[0]] * int(words[1])) if task == "repeat" else None


def test_answers_of_the_other_groups(held_out):
    """Seven tasks solved a second time; a fact only has to be the same whenever it is asked."""
    facts, tasks = {}, set()
    for row in (
        held_out["held_out"]
        + held_out["dev"]
        + [tiny.problem("plain", "fact", random.Random(i), "train") for i in range(60)]
    ):
        if row["group"] == "math":
            continue
        tasks.add(row["task"])
        if row["task"] == "fact":
            assert (
                facts.setdefault(row["question"], row["answer"]) == row["answer"]
                and row["answer"] in tiny.COLOURS
            )
        else:
            assert row["answer"] == solve(row["question"]), row
    assert tasks == {*tiny.TASKS["other"], *tiny.TASKS["plain"]}


def test_examples_in_the_docstring_are_true():
    """Each `question  <think> ... </think> answer` of the module's docstring is true."""
    examples = re.findall(
        r"^\S* +(?:sort|close|logic|compare) +(\S.*?) +<think> .*?</think> (.*?)(?: {3,}.*)?$",
        tiny.__doc__,
        re.MULTILINE,
    )
    assert len(examples) == 4
    for question, answer in examples:
        assert solve(question) == answer, question
    said = int(re.search(r"vocabulary of about (\d+) words", tiny.__doc__)[1])
    assert abs(said - len(tiny.VOCABULARY)) <= 5, f"{len(tiny.VOCABULARY)} words"


def test_chains_by_hand():
    """7 + 8 = 15, - 5 = 10. Left to right, so 2 + 3 * 4 is 20. 30 + 30 and 3 - 5 leave 0..50."""
    assert tiny.evaluate_chain([7, 8, 5], "+-") == [15, 10]
    assert tiny.evaluate_chain([2, 3, 4], "+*") == [5, 20]
    assert tiny.evaluate_chain([30, 30], "+") is None and tiny.evaluate_chain([3, 5], "-") is None
    assert tiny.evaluate_chain([25, 25], "+") == [50] and tiny.evaluate_chain([5, 5, 9], "-*") == [
        0,
        0,
    ]
    assert tiny.calculation(((7, 8, 5), "+-")) == "7 + 8 = 15 - 5 = 10"
    assert tiny.calculation(((7, 8, 5), "+-"), slip=-12) == "7 + 8 = 15 - 5 = 0"
    assert tiny.expression(((7, 8, 5), "+-")) == "7 + 8 - 5"
    assert tiny.evaluate_text({"response": "7 + 8 - 5", "target": 10})
    assert not tiny.evaluate_text({"response": "7 + 8 - 5", "target": 11})


def test_candidates_by_hand():
    """pair from 1 2 3 takes 2: sums of 3 pairs.

    cd from 1 2: orders x operators = 1 + 2, 1 * 2, 2 + 1, 2 - 1, 2 * 1 (1 - 2 is negative).
    """
    pairs = tiny.candidates({"task": "pair", "nums": [1, 2, 3], "n_used": 2})
    assert pairs == [((1, 2), ("+",)), ((1, 3), ("+",)), ((2, 3), ("+",))]
    chains = tiny.candidates({"task": "cd", "nums": [1, 2], "n_used": 2})
    assert [tiny.expression(c) for c in chains] == ["1 * 2", "1 + 2", "2 * 1", "2 + 1", "2 - 1"]


def test_pool_rows_hold_what_they_promise(pool):
    """Shares, ids, counts of words, grades.

    Shares of kinds and tasks are within 4 standard deviations of 1,500 draws (at most 0.052).
    Grading and the world agree on each response.
    """
    kinds = [row["model"].removeprefix("teacher-") for row in pool]
    for kind, share in {"good": 0.5, "blurt": 0.2, "sloppy": 0.15, "loop": 0.15}.items():
        assert abs(kinds.count(kind) / 1500 - share) < 0.052
    for task, share in {"pair": 0.7, "pick": 0.2, "cd": 0.1}.items():
        assert (
            abs(sum(row["task"] == task == row["subject"] for row in pool) / 1500 - share) < 0.052
        )
    assert len({row["id"] for row in pool}) == 1500
    right = [left_to_right(row["response"]) == row["target"] for row in pool]
    assert 0.3 < sum(right) / 1500 < 0.8  # something to curate
    for row, is_right in zip(pool, right):
        assert row["n_thinking_tokens"] == len(row["thinking"].split()) > 0
        assert grade(row, row["response"]) is is_right is tiny.evaluate_text(row)


def test_kinds_of_teacher_traces(pool):
    """The four kinds do what the world's docstring says.

    good: compares each attempt with the target and says so truthfully but for one mistake, doubts
    and checks. blurt: one guess. sloppy: false equations in about half (an attempt slips with
    probability 1/4, there are 1 to 4), no comparison. loop: one calculation, 2 to 5 times.
    """
    of = {kind: [row for row in pool if row["model"] == f"teacher-{kind}"] for kind in tiny.TEACHER}
    for row in of["good"]:
        words = row["thinking"].split()
        assert words[:4] == ["okay", "we", "need", str(row["target"])]
        verdicts = re.findall(r"= (\d+) vs (\d+) (low|high|yes) \.", row["thinking"])
        assert len(verdicts) >= 1 and all(int(target) == row["target"] for _, target, _ in verdicts)
        for value, target, verdict in verdicts:
            value, target = int(value), int(target)
            assert verdict == ("low" if value < target else "high" if value > target else "yes")
    text = " ".join(row["thinking"] for row in of["good"])
    assert all(
        f" {word} " in f" {text} "
        for word in ("wait", "check", "maybe", "perhaps", "therefore", "unsure")
    )
    checked = sum("check" in row["thinking"].split() for row in of["good"]) / len(of["good"])
    assert 0.2 < checked < 0.8
    wrong = {
        kind: sum(any(a != b for a, b in equations(row["thinking"])) for row in rows) / len(rows)
        for kind, rows in of.items()
    }
    assert (
        0.3 < wrong["sloppy"] < 0.7
        and 0 < wrong["good"] < 0.3
        and wrong["blurt"] == wrong["loop"] == 0
    )
    for kind in ("blurt", "sloppy", "loop"):
        assert not any(
            {"vs", "wait", "check", "therefore"} & {*row["thinking"].split()} for row in of[kind]
        )
    for row in of["blurt"]:
        assert re.fullmatch(r"okay let me guess [\d+*=\- ]+ \.", row["thinking"])
    for row in of["loop"]:
        ideas = re.findall(r"then (.*?) hmm \.", row["thinking"])
        assert 2 <= len(ideas) <= 5 and len(set(ideas)) == 1


def test_one_word_is_one_token(pool, held_out, words):
    """Nothing in the world is unknown to its tokenizer; text -> ids -> text is the identity.

    The pool, the problems, and 500 documents of the base model's reading.
    """
    texts = [
        row[key]
        for row in (*pool, *tiny.pretraining_rows(500, 0), *held_out["held_out"], *held_out["dev"])
        for key in ("question", "thinking", "response", "answer")
        if row.get(key)
    ]
    assert {word for text in texts for word in text.split()} <= {*tiny.VOCABULARY[7:]}
    for text in texts[::37]:
        ids = words.encode(text)
        assert (
            len(ids) == len(text.split())
            and words.unk_token_id not in ids
            and words.decode(ids) == text
        )
    assert words.get_vocab() == {word: i for i, word in enumerate(tiny.VOCABULARY)}
    assert len(set(tiny.VOCABULARY)) == len(tiny.VOCABULARY)
    assert words.decode(words.encode("quux 3")) == "<unk> 3"


def test_chat_template_of_the_tiny_world(words):
    chat = [
        {"role": "user", "content": "fact a red ?"},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "repeat a 2"},
    ]
    text = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<user> fact a red ? <bot> blue <user> repeat a 2 <bot>"
    assert words.decode(words.encode(text)) == text


def test_reading_of_the_base_model():
    """Half of it is math, within 4 standard deviations of 1,000 draws.

    Three fields. The plain tasks and comparisons have no thinking. About 70% of the math is terse:
    it begins with `try`.
    """
    rows = list(tiny.pretraining_rows(1000, 0))
    math_rows = [row for row in rows if " from " in row["question"]]
    assert abs(len(math_rows) / 1000 - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert all(sorted(row) == ["question", "response", "thinking"] for row in rows)
    terse = sum(row["thinking"].startswith("try ") for row in math_rows) / len(math_rows)
    assert abs(terse - 0.7) < 4 * math.sqrt(0.21 / len(math_rows))
    plain = [
        row
        for row in rows
        if row["question"].split()[0] in ("copy", "first", "last", "fact", "repeat", "compare")
    ]
    assert len(plain) > 200 and not any(row["thinking"] for row in plain)


def test_best_so_far_by_hand():
    """Target 5 from 1 2 3 4, pairs.

    The text computes 1 + 2, 2 + 3 (right) and 3 + 4: the right one counts. Without it, the last one
    computed in full: a calculation cut before its result (`3 + 4 =`) is none.
    """
    problem = {"task": "pair", "nums": [1, 2, 3, 4], "n_used": 2, "target": 5}

    def best(text, seed=0):
        return tiny.expression(tiny.best_so_far(problem, text, random.Random(seed)))

    assert best("try 1 + 2 = 3 low try 2 + 3 = 5 yes try 3 + 4 = 7") == "2 + 3"
    assert best("try 1 + 2 = 3 low try 3 + 4 = 7 high") == "3 + 4"
    assert best("try 1 + 2 = 3 low try 3 + 4 =") == "1 + 2"
    assert len({best("", seed) for seed in range(40)}) > 3


def test_main_writes_the_world(tmp_path, capsys):
    """Small counts end to end.

    Problems for measuring carry no trace. Another seed leaves the held-out problems as they are.
    """
    for seed in (0, 5):
        tiny.main(
            tiny.Config(str(tmp_path / str(seed)), seed=seed, n_pool=30, n_train=20, n_held_out=9)
        )
    a, b = (tmp_path / seed for seed in "05")
    assert {p.name for p in a.iterdir()} == {
        "dev.jsonl",
        "held_out.jsonl",
        "pool.jsonl",
        "tiny.json",
        "train.jsonl",
    }
    for name in ("held_out", "dev"):
        assert (a / f"{name}.jsonl").read_bytes() == (b / f"{name}.jsonl").read_bytes()
        rows = read_rows(a / f"{name}.jsonl", need=("id", "question", "answer", "group"))
        assert not any("thinking" in row for row in rows) and {row["group"] for row in rows} == {
            *tiny.TASKS
        }
    assert (a / "pool.jsonl").read_bytes() != (b / "pool.jsonl").read_bytes()
    assert (
        len(read_rows(a / "pool.jsonl", need=("question", "thinking", "response", "model"))) == 30
    )
    assert "30 traces of the teacher" in capsys.readouterr().out


# ---- the shipped base model and how it is made


def test_shipped_base_model(words):
    """Small enough for the repository, with the world's vocabulary, and trained.

    New documents of its reading cost below 0.5 nats a token (measured: 0.20), where an untrained
    model has ln 149 = 5.0.
    """
    import torch

    from engine import loading, packing
    from engine import model as models

    directory = ROOT / "data" / "tiny_base"
    assert sum(file.stat().st_size for file in directory.iterdir()) < 4e6
    model, tokenizer = loading.load(str(directory))
    assert (
        tokenizer.get_vocab() == words.get_vocab()
        and tokenizer.chat_template == words.chat_template
    )
    assert tokenizer.eos_token_id == model.config.eos_token_id == words.eos_token_id
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in tiny.untrained_model(0).parameters()
    )
    n = sum(p.numel() for p in model.parameters())
    said = int(
        re.search(r"A Qwen3 or Llama of (\d+) thousand parameters", tiny.untrained_model.__doc__)[1]
    )
    assert n == 169_824 and round(n / 1000) == said
    nll = []
    for network in (model, tiny.untrained_model(0)):
        network.set_attn_implementation("packed")
        examples = [
            FORMATS["think"].training_ids(tokenizer, row)
            for row in tiny.pretraining_rows(60, 12345)
        ]
        with torch.no_grad():
            nll.append(-models.score(network, packing.pack(*zip(*examples))).logp.mean().item())
    assert nll[0] < 0.5 and abs(nll[1] - math.log(149)) < 0.2


def test_plans_by_hand():
    """The last operation undone: 20 - 8 = 12, 3 + 9 = 12, 20 / 5 = 4; a pair needs no subgoal."""
    assert tiny.plan(((7, 5, 8), "++"), 20) == ["20 is 12 + 8 , make 12 first ."]
    assert tiny.plan(((7, 6, 9), "*-"), 3) == ["3 is 12 - 9 , make 12 first ."]
    assert tiny.plan(((1, 3, 5), "+*"), 20) == ["20 is 4 * 5 , make 4 first ."]
    assert tiny.plan(((8, 3), "+"), 11) == ["11 is 8 + 3 ."]
    # 7 is no multiple of 5, 4 - 8 is negative, 48 + 5 leaves 0..50
    assert not tiny.plan(((1, 3, 5), "+*"), 7)
    assert not tiny.plan(((1, 3, 8), "++"), 4) and not tiny.plan(((1, 3, 5), "+-"), 48)


def test_all_four_habits_occur_with_planning(pool):
    """By the rules of report/behaviours.py; without planning the last two never do.

    Each plan is true: 20 is 12 + 8. Other kinds of traces have none, nothing new is said in words
    that the vocabulary lacks, and the reading of the base model has them as well.
    """
    from report.behaviours import count_behaviours

    rows = tiny.teacher_pool(1500, seed=0, planning=True)
    for row in rows:
        found = count_behaviours(row["thinking"])
        is_good = row["model"] == "teacher-good"
        assert {*row["thinking"].split()} <= {*tiny.VOCABULARY}
        plans = re.findall(r"(\d+) is (\d+ [-+*] \d+)", row["thinking"])
        assert found["backward"] >= len(plans) and (is_good or not plans)
        assert all(int(a) == row["target"] == left_to_right(b) for a, b in plans)
        subgoals = re.findall(r"is (\d+) [-+*] \d+ , make (\d+) first", row["thinking"])
        assert found["subgoal"] == len(subgoals) == (0 if row["task"] == "pair" else len(plans))
        assert all(a == b for a, b in subgoals)
    good = [count_behaviours(row["thinking"]) for row in rows if row["model"] == "teacher-good"]
    for habit, least in (("verification", 1), ("backtracking", 0.5), ("backward", 0.7)):
        assert sum(count[habit] > 0 for count in good) >= least * len(good), habit
    assert sum(count["subgoal"] > 0 for count in good) > 0.15 * len(good)  # 3 in 10 can have one
    assert not any(count_behaviours(row["thinking"])["subgoal"] for row in pool)
    assert not any(" is " in row["thinking"] for row in pool)
    read = [row["thinking"] for row in tiny.pretraining_rows(1500, 0, planning=True)]
    assert sum(count_behaviours(text)["subgoal"] > 0 for text in read) > 20


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_sizes_by_hand():
    """Embedding 149 W, tied; a layer has 4 W W (attention), 9 W W (MLP), two norms of W; a last W.

    Qwen3 has two norms of 16 more in each layer, those of queries and keys.
    """
    for width, layers, by_hand in ((32, 3, 45_024), (64, 3, 169_824), (96, 5, 614_560)):
        assert n_parameters(tiny.untrained_model(0, "qwen3", width, layers)) == by_hand
        llama = tiny.untrained_model(0, "llama", width, layers)
        assert n_parameters(llama) == by_hand - layers * 2 * 16
        assert n_parameters(llama) == 149 * width + layers * (13 * width**2 + 2 * width) + width
    said = re.search(r"makes (\d+) .* layers (\d+) thousand", tiny.untrained_model.__doc__)
    assert [*map(int, said.groups())] == [45, 615]
    for width, layers in ((8, 3), (40, 3), (64, 0)):
        with pytest.raises(BadInput, match=f"--width {width} --layers {layers}"):
            tiny.untrained_model(0, "qwen3", width, layers)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_both_families_load(tmp_path, words, family):
    """Written by main, loaded as every stage loads, which compares them with transformers' own."""
    from engine import loading

    cfg = tiny.Config(str(tmp_path), n_pool=2, n_train=2, n_held_out=3, pretrain=5)
    tiny.main(dataclasses.replace(cfg, family=family, width=32, layers=2))
    model, tokenizer = loading.load(str(tmp_path / "untrained"))
    assert model.config.model_type == family and tokenizer.get_vocab() == words.get_vocab()
    loading.check_forward(model, tokenizer, "untrained")
    assert n_parameters(model) == 31_616 - (64 if family == "llama" else 0)


def test_a_second_script(tmp_path):
    """Twins are single Chinese characters, which the reward counts as words, with ids of their own.

    About half of the math documents mix, about half of their words; the rest of the reading, and
    each question and answer, is Latin. Put back word for word a mixed document is a plain one.
    """
    from grading.rewards import reward_language

    assert len({*tiny.TWINS.values()}) == len(tiny.TWINS) == 18 and {*tiny.TWINS} <= {*tiny.WORDS}
    assert all(reward_language({"text": w}, None, "cjk") == 1 for w in tiny.TWINS.values())
    both = tiny.tokenizer(twins=True)
    assert both.convert_tokens_to_ids(["<eos>", "试", "后"]) == [1, 149, 166]
    assert n_parameters(tiny.untrained_model(0, twins=True)) == 169_824 + 18 * 64

    rows = list(tiny.pretraining_rows(1500, 0, twins=True))
    back = {twin: word for word, twin in tiny.TWINS.items()}
    mixed = []
    for row in rows:
        for key, text in row.items():
            assert both.unk_token_id not in both.encode(text)
            has_twins = bool({*text.split()} & {*back})
            assert not has_twins or (key == "thinking" and " from " in row["question"])
        if {*row["thinking"].split()} & {*back}:
            mixed.append(reward_language({"text": row["thinking"]}, None, "latin"))
    n_math = sum(" from " in row["question"] for row in rows)
    assert 0.35 < len(mixed) / n_math < 0.5 and 0.3 < sum(mixed) / len(mixed) < 0.5
    thinking = "okay we need 5 . maybe 2 + 3 = 5 vs 5 yes ."
    mixed = tiny.with_twins(thinking, random.Random(0)).split()
    assert " ".join(back.get(word, word) for word in mixed) == thinking != " ".join(mixed)


def test_training_problems_of_the_other_groups(tmp_path):
    """Five of each group, with traces to learn from; without --n-other there is no such file."""
    cfg = tiny.Config(str(tmp_path / "a"), n_pool=2, n_train=2, n_held_out=3, n_other=10)
    tiny.main(cfg)
    rows = read_rows(tmp_path / "a/train_other.jsonl", need=("thinking", "response", "answer"))
    assert [row["group"] for row in rows] == ["other"] * 5 + ["plain"] * 5
    assert all(row["response"] == row["answer"] for row in rows)


def test_reading_without_searches():
    """Every math document ends with its first attempt; without a search there is no second one.

    The other documents, and the share of math, are those of the reading with searches.
    """
    rows = list(tiny.pretraining_rows(1500, 0, searches=False))
    math_rows = [row for row in rows if " from " in row["question"]]
    assert 600 < len(math_rows) < 900
    whole = 0
    for row in math_rows:
        words = row["thinking"].split()
        assert words.count("try") <= 1 and not {"wait", "vs", "check", "maybe", "so"} & {*words}
        whole += bool(re.fullmatch(r"try (\d+( [-+*=] )?)+ (low|high|yes)", row["thinking"]))
    assert 0.85 < whole / len(math_rows) < 0.95  # one in ten is cut
    searching = [row["thinking"].split() for row in tiny.pretraining_rows(1500, 0)]
    assert sum(words.count("try") > 1 for words in searching) > 200


def test_untrained_model_depends_on_its_seed_only():
    """Same seed, same weights, whatever was drawn before.

    Making a model leaves the global random state alone.
    """
    import torch

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a = tiny.untrained_model(0).state_dict()
    assert torch.equal(torch.rand(1), expected)
    b, c = tiny.untrained_model(0).state_dict(), tiny.untrained_model(1).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(
        a["lm_head.weight"], c["lm_head.weight"]
    )


def test_the_recipe_of_the_base_model_still_runs(tmp_path):
    """The flags of recipes/tiny_base.sh with 64 documents instead of 96,000.

    2 epochs of 2 steps, Muon for the hidden matrices. The first loss is that of guessing, ln 149 =
    5.00 (within 0.2); the steps lower it.
    """
    import sft

    lines = (ROOT / "recipes" / "tiny_base.sh").read_text().replace("\\\n", " ").splitlines()
    command = next(line for line in lines if line.startswith("python sft.py"))
    recipe = settings.parse(
        sft.Config, shlex.split(command.replace("$seed", "0").replace("$order", "42"))[2:]
    )
    assert (recipe.muon_lr, recipe.schedule, recipe.hold, recipe.lr_floor) == (
        0.02,
        "linear",
        0.4,
        0.02,
    )
    tiny.main(tiny.Config(str(tmp_path), n_pool=1, n_train=1, n_held_out=1, pretrain=64))
    cfg = dataclasses.replace(
        recipe,
        model=str(tmp_path / "untrained"),
        data=str(tmp_path / "pretrain.jsonl"),
        out=str(tmp_path / "base"),
        print_every=0,
        warmup=0.0,
    )
    history = sft.main(cfg)
    assert len(history) == 4 and abs(history[0]["loss"] - math.log(149)) < 0.2
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    assert os.path.getsize(tmp_path / "base" / "model.safetensors") == os.path.getsize(
        ROOT / "data" / "tiny_base" / "model.safetensors"
    )
