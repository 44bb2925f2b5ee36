"""curation/rewrite.py: corruptions, budgets, hints and teachers, by hand."""

import json
from collections import Counter

import pytest
from conftest import optional_data
from small_pools import config, ids, trace, write

import curate
from curation import rewrite
from engine.format import FORMATS
from engine.rows import BadInput, write_rows

STEPS = "\n\n".join(f"step {i} is {i * 7}" for i in range(9))


def corrupted(how, share, thinking=STEPS, donor=(), seed=0):
    return rewrite.corrupt_row(
        trace(1, thinking=thinking, n_thinking_tokens=99), how, share, seed, donor
    )["thinking"]


def test_corruptions_keep_what_they_should():
    steps = rewrite.split_steps(STEPS)[0]
    assert len(steps) == 9
    changed = corrupted("digits", 1)
    assert all(a != b if a.isdigit() else a == b for a, b in zip(STEPS, changed, strict=True))
    half = sum(a != b for a, b in zip("1" * 2000, corrupted("digits", 0.5, "1" * 2000)))
    assert 880 < half < 1120  # 1000 ± 5 · 22
    shuffled = corrupted("shuffle", 1)
    assert sorted(shuffled.split("\n\n")) == sorted(steps) and shuffled != STEPS
    assert sum(a != b for a, b in zip(corrupted("shuffle", 0.4).split("\n\n"), steps)) <= 4
    assert len(corrupted("delete", 0.67).split("\n\n")) == 3
    assert [step for step in steps if step in corrupted("delete", 0.67)] == corrupted(
        "delete", 0.67
    ).split("\n\n")
    inserted = corrupted("insert", 0.67, donor=["foreign"]).split("\n\n")
    assert (
        inserted.count("foreign") == 6 and [step for step in inserted if step != "foreign"] == steps
    )
    for how in rewrite.CORRUPTIONS:
        assert corrupted(how, 0, donor=["foreign"]) == STEPS
        assert corrupted(how, 0.5, donor=["foreign"]) == corrupted(how, 0.5, donor=["foreign"])
    row = trace(1, thinking=STEPS, n_thinking_tokens=99)
    made = rewrite.corrupt_row(row, "delete", 0.67)
    assert (
        made["corrupted"] == "delete:0.67"
        and "n_thinking_tokens" not in made
        and row["thinking"] == STEPS
    )


def test_steps_without_blank_lines_begin_with_a_second_thought():
    text = "try 7 + 8 = 15 low wait , maybe 9 + 8 = 17 but Waiting helps. Hmm, yes"
    assert rewrite.split_steps(text) == (
        ["try 7 + 8 = 15 low", "wait , maybe 9 + 8 = 17", "but Waiting helps.", "Hmm, yes"],
        " ",
    )
    assert corrupted("keywords", 1, "a wait, b. Wait , maybe c; await it") == "a b. c; await it"


def test_insert_takes_steps_of_the_next_row():
    rows = [trace(i, thinking="\n\n".join([f"own {i}"] * 4)) for i in range(3)]
    for i, row in enumerate(rewrite.rewrite_rows(iter(rows), corrupt="insert:0.5")):
        assert Counter(row["thinking"].split("\n\n")) == {f"own {i}": 4, f"own {(i + 1) % 3}": 2}
    assert list(rewrite.rewrite_rows(iter([]))) == [] and list(rewrite.rewrite_rows(rows)) == rows


@pytest.mark.parametrize(
    "flag, text",
    [
        ("corrupt", "shufle"),
        ("corrupt", "digits:2"),
        ("corrupt", "digits:x"),
        ("budget", "l1:5"),
        ("budget", "l1:9:5"),
        ("budget", "used"),
        ("budget", "used:1:9:1"),
        ("budget", "used:9:1:1:5"),
        ("budget", "used:1:9:0:5"),
        ("budget", "tokens:9"),
        ("budget", "l1:1:2:3"),
        ("hint", "no gold here"),
    ],
)
def test_bad_transformations_are_named(tmp_path, flag, text):
    with pytest.raises(BadInput, match=f"--{flag} .?{text}"):
        curate.main(config(tmp_path, **{flag: text}))


def test_buckets_of_s1():
    assert [
        rewrite.round_up_to_power_of_two(n) for n in (1, 2, 3, 1023, 1024, 1025, 2048, 2049)
    ] == [
        1,
        2,
        4,
        1024,
        1024,
        2048,
        2048,
        4096,
    ]


def test_budgets_in_prompts():
    made = rewrite.add_budget(trace(1, "How many?", n_thinking_tokens=1025), "tokens")
    assert (
        made["question"] == "How many?\n\nThink for up to 2048 tokens." and made["budget"] == 2048
    )
    made = rewrite.add_budget(trace(1, "How many?", thinking="add\n\n carry\n \nsum"), "steps")
    assert made["question"] == "How many?\n\nThink for up to 4 steps." and made["budget"] == 4
    assert (
        made["thinking"]
        == "4 steps left\nadd\n<|im_start|>3 steps left\ncarry\n<|im_start|>2 steps left\nsum"
    )
    text = "".join(FORMATS["s1-steps"].completion_pieces(made))
    assert text == f"<|im_start|>{made['thinking']}\n<|im_start|>answer\n4"
    assert FORMATS["s1-steps"].split(text.removeprefix("<|im_start|>")) == (made["thinking"], "4")


def test_budgets_of_l1_are_uniform():
    """U{100..4000}: mean 2050, standard error of 4000 draws 1126 / sqrt(4000) = 17.8.

    Half are maxima, ± .0079.
    """
    name, numbers = rewrite.parse_budget("l1:100:4000:0.5")
    rows = [rewrite.add_budget(trace(i, "Q"), name, numbers, seed=1) for i in range(4000)]
    budgets = [row["budget"] for row in rows]
    assert (
        100 <= min(budgets) < 120
        and 3980 < max(budgets) <= 4000
        and abs(sum(budgets) / 4000 - 2050) < 5 * 17.8
    )
    assert abs(sum("budget_is_maximum" in row for row in rows) / 4000 - 0.5) < 5 * 0.0079
    for row in rows[:9]:
        kind = "maximum " if "budget_is_maximum" in row else ""
        assert row["question"] == (
            "Q Let's think step by step and output the final answer within \\boxed{}. "
            f"Think for {kind}{row['budget']} tokens."
        )
    assert (
        rows[7]
        == rewrite.add_budget(trace(7, "Q"), name, numbers, seed=1)
        != rewrite.add_budget(trace(7, "Q"), name, numbers, seed=2)
    )
    exact = rewrite.parse_budget("l1:5:5")
    assert not any("budget_is_maximum" in rewrite.add_budget(trace(i), *exact) for i in range(99))


def test_what_was_used_becomes_the_budget(tmp_path):
    """Budgets 12, 22 and 32, with two rows of each. 6 and 38 tokens are nearer to 2 and 42. The trace
    stays; one that was cut goes."""
    lengths = 6, 8, 25, 28, 33, 34, 38
    rows = [trace(i, f"How many {i}?", n_tokens=n) for i, n in enumerate(lengths)]
    rows += [trace(8, "cut", n_tokens=20, finish="length")]
    rows += [trace(9, "twice", n_tokens=20, response="</think> 4")]
    write_rows(tmp_path / "own.jsonl", rows)
    cfg = curate.Config(
        data=str(tmp_path / "own.jsonl"),
        out=str(tmp_path / "out.jsonl"),
        method="full",
        budget="used:12:32:10:2",
    )
    made = curate.main(cfg)
    assert [(row["question"], row["budget"]) for row in made] == [
        ("12 How many 1?", 12),
        ("22 How many 2?", 22),
        ("32 How many 3?", 32),
        ("32 How many 4?", 32),
    ]
    assert [row["thinking"] for row in made] == [row["thinking"] for row in rows[1:5]]
    write_rows(tmp_path / "own.jsonl", [rows[0] | {"n_tokens": "many"}])
    with pytest.raises(BadInput, match="--budget used: row r000: n_tokens is not a number"):
        curate.main(cfg)


def test_star_hints_the_failures_and_forgets_the_hints(tmp_path):
    """Right without a hint: 0 and 2; with one: 1. These are kept, and no hint is in their text."""
    rows = [trace(i, f"question {i}", response=response) for i, response in enumerate("4554")]
    rows[3]["response"] = "7"
    rows[2]["response"] = "4"
    first = write(tmp_path / "first.jsonl", rows)
    hinted = curate.main(
        curate.Config(
            data=first,
            out=str(tmp_path / "hinted.jsonl"),
            method="full",
            keep="wrong",
            hint=" ( {answer} )",
        )
    )
    assert [row["question"] for row in hinted] == ["question 1 ( 4 )", "question 3 ( 4 )"]
    assert not any({"thinking", "response", "correct"} & row.keys() for row in hinted)
    (tmp_path / "both").mkdir()
    write(tmp_path / "both/a.jsonl", rows)
    write(
        tmp_path / "both/b.jsonl",
        [row | {"thinking": "t", "response": r} for row, r in zip(hinted, "49")],
    )
    kept = curate.main(
        curate.Config(
            data=str(tmp_path / "both"),
            out=str(tmp_path / "traces.jsonl"),
            method="full",
            keep="correct",
        )
    )
    assert ids(kept) == ["r000", "r002", "r001"] and [row.get("hint") for row in kept] == [
        None,
        None,
        True,
    ]
    assert all(
        row["question"] == f"question {row['id'][-1]}" and "unhinted" not in row for row in kept
    )


def test_hint_at_a_choice():
    row = {
        "id": 1,
        "question": "Where? (a) here (b) there",
        "choices": ["here", "there"],
        "answer_index": 1,
        "answer": "b",
    }
    assert rewrite.add_hint(row, "choices")["question"] == "Where? (a) here (b) there (CORRECT)"
    with pytest.raises(BadInput, match="does not list its right choice"):
        rewrite.add_hint(row | {"choices": ["here", "nowhere"]}, "choices")
    with pytest.raises(BadInput, match="row 1 has no answer"):
        rewrite.add_hint(row | {"answer": None}, " ({answer})")


def test_samples_for_the_same_flops():
    assert [
        rewrite.matched_samples(1, strong, weak) for strong, weak in ((27e9, 9e9), (8, 1), (70, 8))
    ] == [3, 8, 8]
    assert (
        rewrite.matched_samples(10, 27, 9) == 30
        and rewrite.matched_samples(1, 27, 9, 1000, 1500) == 2
    )


def test_taxonomy_in_the_form_of_s1(tmp_path):
    """A list with codes and descriptions instead of keywords; a reply ends in a code."""
    entries = [
        {"code": "03", "title": "Logic", "descriptions": ["proofs", "sets"]},
        {"code": "11", "title": "Number theory", "descriptions": []},
    ]
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps(entries))
    taxonomy = rewrite.read_taxonomy(path)
    assert taxonomy == [("03", "Logic", []), ("11", "Number theory", [])]
    assert rewrite.domain_of_reply("It is about primes, hence **11**.", taxonomy) == "Number theory"
    assert rewrite.domain_of_reply("Number 11 it is not", taxonomy) is None
    assert rewrite.domain_by_keywords("Is 11 a prime?", taxonomy) is None


def test_taxonomy_of_s1():
    taxonomy = rewrite.read_taxonomy(optional_data("traces/s1_msc_taxonomy.json"))
    assert (
        len(taxonomy) == 61
        and rewrite.domain_of_reply("It counts things, so 05.", taxonomy) == "Combinatorics"
    )
