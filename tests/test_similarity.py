"""curation/similarity.py: each layer by hand, and MinHash against comparing all pairs."""

import json
import random
from collections import Counter

import pytest
from conftest import optional_data
from small_pools import ids, trace, write

import curate
from curation import similarity
from engine.rows import BadInput, read_rows


def decontaminate(rows, questions, layers=("exact", "ngram")):
    """(rows kept, Counter of the reasons for dropping the others)."""
    held_out, kept, reasons = (
        similarity.SeenQuestions(similarity.parse_layers("--layers", layers)),
        [],
        Counter(),
    )
    for i, question in enumerate(questions):
        held_out.add({"id": i, "question": question})
    for row in rows:
        found = held_out.find(row)
        kept += [] if found else [row]
        reasons.update(found[:1] if found else ())
    return kept, reasons


# 13 words: 13 - 8 + 1 = 6 n-grams
TRAIN = "Find the number of positive integers n less than or equal to 2024"


def test_ngrams_by_hand():
    assert len(similarity.ngrams(TRAIN, 8)) == 6
    assert len(similarity.ngrams(TRAIN, 13)) == 1 and similarity.ngrams(TRAIN, 14) == set()
    assert similarity.ngrams("A  b\nC", 2) == {("a", "b"), ("b", "c")}
    shared = similarity.ngrams(TRAIN, 8) & similarity.ngrams(
        "FIND the  number of positive\nintegers n less than 5", 8
    )
    assert len(shared) == 2


@pytest.mark.parametrize(
    "test_question, reason",
    [
        ("FIND the  number of positive\nintegers n less than 5", "shared 8-gram"),
        # the comma makes `n,` another word
        ("Find the number of positive integers n, less than 5", None),
        ("number of positive integers n less than", None),  # 7 words in common
        ("of positive integers n less than or equal", "shared 8-gram"),
    ],
)
def test_contamination_needs_eight_words_in_a_row(test_question, reason):
    kept, reasons = decontaminate([trace(1, TRAIN)], [test_question])
    assert (len(kept), dict(reasons)) == ((0, {reason: 1}) if reason else (1, {}))


COPIES = {  # a held-out question, and copies of it in other clothes
    "Chinese": (
        "小明有5个苹果，吃了2个，又买了8个，现在一共有几个苹果？",
        "请解答下面的问题。小明有5个苹果，吃了2个，又买了8个，现在一共有几个苹果？写出过程。",
        "小明有５个苹果, 吃了２个, 又买了８个, 现在一共有几个苹果?",
    ),
    "Chinese with a formula": (
        "已知函数$f(x)=x^2+3x$的图像与直线$y=a$有两个交点，求实数$a$的取值范围。",
        "例1. 已知函数 $f(x) = x^2+3x$ 的图像与直线 $y=a$ 有两个交点，求实数 $a$ 的取值范围．",
    ),
    "Japanese": (
        "太郎さんはりんごを3個、みかんを5個買いました。全部でいくつですか。",
        "次の問題を解きなさい。太郎さんはりんごを3個、みかんを5個買いました。全部でいくつですか。",
    ),
    "Korean": (
        "철수는 사과를 세 개, 배를 다섯 개 샀다. 모두 몇 개인가?",
        "다음 문제를 풀어라: 철수는 사과를 세개, 배를 다섯개 샀다. 모두 몇개인가?",
    ),
    "Thai": (
        "สมชายมีแอปเปิ้ลห้าผลและซื้อเพิ่มอีกสามผล",
        "จงหาคำตอบ: สมชายมีแอปเปิ้ลห้าผลและซื้อเพิ่มอีกสามผล",
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_in_scripts_without_spaces(name):
    question, *copies = COPIES[name]
    kept, reasons = decontaminate([trace(i, copy) for i, copy in enumerate(copies)], [question])
    assert kept == [] and reasons == {"shared 8-gram": len(copies)}


def test_phrases_of_many_questions_are_no_copies():
    """Also in Korean, and where two questions share a formula."""
    held_out = [
        "下列说法正确的是（ ）A. 正方形是菱形 B. 菱形是正方形",
        "求函数 $f(x)=x^2+3x+2-x+x^3-5x^4+1$ 的最大值",
        "다음 식의 값을 구하시오. 3과 5의 최대공약수",
        "次の方程式を解きなさい。3x+2=8",
    ]
    others = [
        "下列说法正确的是（ ）A. 圆是多边形 B. 三角形有四条边",
        "画出 $f(x)=x^2+3x+2-x+x^3-5x^4+1$ 的图像",
        "다음 식의 값을 구하시오. 4와 6의 최소공배수",
        "次の方程式を解きなさい。5x-7=13",
    ]
    rows = [trace(i, question) for i, question in enumerate(others)]
    kept, reasons = decontaminate(rows, held_out)
    assert len(kept) == len(rows) and not reasons


def test_runs_of_characters_by_hand():
    """12 characters for n = 8, of 13 units 2 runs; a third of each must be characters. Latin
    scripts have none, so their n-grams are those of words.
    """
    assert len(similarity.character_runs("求 x 的最小值，其中 x 是正整数。", 8)) == 2
    assert len(similarity.character_runs("求 a+b+c+d+e 的值", 8)) == 0
    assert similarity.character_runs("ABC, 12 für α β γ δ ε ζ η θ — привет", 1) == set()
    assert len(similarity.shingles("りんごをください")) == 6  # of 8 characters


def test_short_questions_are_caught_when_equal_and_only_then():
    rows = [
        trace(1, "make 20 from 7 5 8"),
        trace(2, "make 20 from 7 5 9"),
        trace(3, "Make 20  from 7 5 8 "),
    ]
    kept, reasons = decontaminate(rows, ["make 20 from 7 5 8", "make 20 from 7"])
    assert ids(kept) == ["r002"] and reasons == {"same question": 2}


def test_jaccard_of_shingles_by_hand():
    """Seven 3-word runs each; `jumps` stands in three of them, so 4 of 4 + 3 + 3 are shared."""
    fox = "the quick brown fox {} over the lazy dog"
    a, b = similarity.shingles(fox.format("jumps")), similarity.shingles(fox.format("leaps"))
    assert (len(a), len(b), len(a & b)) == (7, 7, 4) and similarity.jaccard(a, b) == pytest.approx(
        0.4
    )
    rest = "the sum of all positive integers n less than 100"
    assert similarity.jaccard(
        similarity.shingles("What is " + rest), similarity.shingles("Find " + rest)
    ) == pytest.approx(8 / 11)
    assert similarity.shingles("Compute 5^2 - 4^2", True) != similarity.shingles(
        "Compute 9^2 + 9 + 1", True
    )
    assert len(similarity.shingles("求 x 的值是多少")) == 5  # seven words, one of them x
    assert (
        similarity.shingles("Two, words?") == similarity.shingles("two words")
        and len(similarity.shingles("x")) == 1
    )
    assert similarity.shingles("add 12 and 3.5", masked=True) == similarity.shingles(
        "add 1,000 and 7", masked=True
    )


def test_collision_probabilities():
    """Banding of FineWeb (14 bands of 8) and two others; 1 - (1 - s^r)^b."""
    for (b, r), expected in {
        (14, 8): {0.5: 0.0533, 0.6: 0.2111, 0.7: 0.5645, 0.75: 0.7716, 0.8: 0.9235, 0.9: 0.9996},
        (20, 5): {0.5: 0.4701, 0.7: 0.9748},
        (16, 8): {0.8: 0.9470},
    }.items():
        assert {
            s: round(similarity.collision_probability(s, b, r), 4) for s in expected
        } == expected
    for threshold in (0.4, 0.6, 0.8, 1.0):
        b, r = similarity.choose_bands(threshold)
        assert b * r <= 128 and similarity.collision_probability(threshold, b, r) >= 0.95
        # one row more would miss pairs
        assert similarity.collision_probability(threshold, 128 // (r + 1), r + 1) < 0.95 or r == 128


def test_signatures_estimate_jaccard():
    """At J = 1/2 the share of equal minima of 128 has mean 1/2, deviation sqrt(.25 / 128) = .0442."""
    rng, errors = random.Random(3), []
    for _ in range(60):
        both, a, b = ({rng.getrandbits(32) for _ in range(n)} for n in (24, 12, 12))
        pairs = list(
            zip(similarity.minhash_signature(both | a), similarity.minhash_signature(both | b))
        )
        errors.append(sum(x == y for x, y in pairs) / len(pairs) - 0.5)
    assert abs(sum(errors) / 60) < 5 * 0.0442 / 60**0.5
    assert 0.030 < (sum(e * e for e in errors) / 60) ** 0.5 < 0.060


def reworded(text, share, rng):
    return " ".join(
        rng.choice("alpha beta gamma delta epsilon zeta".split()) if rng.random() < share else word
        for word in text.split()
    )


@pytest.mark.parametrize("threshold, masked", [(0.6, False), (0.8, True)])
def test_minhash_finds_what_comparing_all_pairs_finds(threshold, masked):
    rng = random.Random(5)
    texts = [
        " ".join(rng.choice("abcdefghijklmnopqrst") + str(rng.randrange(9)) for _ in range(30))
        for _ in range(40)
    ]
    asked = [reworded(text, share, rng) for text in texts for share in (0, 0.03, 0.08, 0.3)]
    index = [similarity.MinHashIndex(threshold, masked, prefilter) for prefilter in (True, False)]
    for minima in index:
        for text in texts:
            minima.add(text)
    missed, n = 0, 0
    for text in asked:
        hashes = similarity.shingles(text, masked)
        pairs = [
            (similarity.jaccard(hashes, similarity.shingles(other, masked)), -i)
            for i, other in enumerate(texts)
        ]
        best, place = max(pairs)
        found = index[0].find(text)
        assert found == index[1].find(text)  # the prefilter loses nothing
        assert found is None or found == (-place, best) and best >= threshold
        missed, n = missed + (found is None and best >= threshold), n + (best >= threshold)
    assert 60 < n < len(asked) and missed <= 0.05 * n


TRAIN_RIDE = (
    "A train leaves the station at {} and travels {} miles in {} hours. "
    "What is its average speed in miles an hour?"
)


@pytest.mark.parametrize(
    "layers, question, reason",
    [
        (("exact",), TRAIN_RIDE.format(5, 120, 2), None),
        # of the constant words at the end
        (("exact", "ngram"), TRAIN_RIDE.format(5, 120, 2), "shared 8-gram"),
        (("ngram:13",), TRAIN_RIDE.format(5, 120, 2), None),
        # 18 runs of three words, 8 hold a number
        (("minhash:0.6",), TRAIN_RIDE.format(5, 120, 2), None),
        (("minhash:0.3",), TRAIN_RIDE.format(5, 120, 2), "minhash 0.3"),
        (("masked:0.9",), TRAIN_RIDE.format(5, 120, 2.5), "masked 0.9"),
        (("exact", "masked:0.9"), TRAIN_RIDE.format(9, 300, 4), "same question"),
        (("minhash:0.6",), "of What is the speed?", None),
    ],
)
def test_layers_on_one_question(layers, question, reason):
    kept, reasons = decontaminate(
        [trace(1, question)], [TRAIN_RIDE.format(9, 300, 4)], layers=layers
    )
    assert (len(kept), dict(reasons)) == ((0, {reason: 1}) if reason else (1, {}))


def test_layers_answer_and_embedding():
    seen = similarity.SeenQuestions(
        similarity.parse_layers("--layers", ("answer:0.4", "embedding:0.9"))
    )
    seen.add(
        {"id": "t", "question": TRAIN_RIDE.format(9, 300, 4), "answer": "1/2", "embedding": [3, 4]}
    )
    near = {
        "id": "x",
        "question": TRAIN_RIDE.format(5, 120, 2),
        "answer": "0.5",
        "embedding": [4, -3],
    }
    assert seen.find(near)[:3] == ("answer 0.4", "answer", 0)
    assert seen.find(near | {"answer": "0.6"}) is None
    *found, cosine = seen.find(near | {"answer": None, "embedding": [30, 41]})
    assert found == ["embedding 0.9", "embedding", 0] and cosine == pytest.approx(
        254 / (30**2 + 41**2) ** 0.5 / 5
    )
    with pytest.raises(BadInput, match="row x: `embedding` is not a list of numbers"):
        seen.find(near | {"answer": None, "embedding": "no"})


@pytest.mark.parametrize(
    "layer", ["minhsh", "minhash:2", "ngram:2.5", "ngram:0", "exact:1", "masked:x", "masked:0"]
)
def test_bad_layers_are_named(layer):
    with pytest.raises(BadInput, match=f"--layers {layer}: not one of exact, ngram:8, minhash:0.6"):
        similarity.parse_layers("--layers", ["exact", layer])


def test_ngrams_compare_sources_as_s1_does():
    """Within a source overlaps stay. A row that is dropped is not added and cannot drop others."""
    rows = [
        trace(1, TRAIN, source="a"),
        trace(2, TRAIN + " or so", source="a"),
        trace(3, TRAIN + " or more", source="b"),
        trace(4, "more or less so " + TRAIN[-30:], source="b"),
        trace(5, TRAIN, source=None),
    ]
    pairs = []
    finder = similarity.CopyFinder(similarity.parse_layers("--dedup", ("ngram",)), pairs.append)
    # 5 asks what 1 asks
    assert [finder.find_reason(row) for row in rows] == [None, None, "shared 8-gram", None, None]
    assert [(pair["id"], pair["other_id"]) for pair in pairs] == [("r003", "r001")]


def test_seen_is_a_set():
    rng, seen, plain = random.Random(1), similarity.DigestSet(), set()
    for _ in range(5000):
        digest = rng.choice(
            (0, 1 << 63, rng.randrange(4000), rng.getrandbits(64), rng.randrange(9) << 20)
        )
        assert (digest or 1) in plain or digest not in seen
        assert seen.add(digest) == ((digest or 1) not in plain)
        plain.add(digest or 1)
        assert digest in seen
    assert seen.n == len(plain) and 2 * seen.n <= len(seen.table) <= 4096 * 4


def test_audit_file_and_near_copies(tmp_path, capsys):
    rows = [
        trace(1, TRAIN_RIDE.format(9, 300, 4)),
        trace(2, TRAIN_RIDE.format(9, 300, 4), thinking="another trace"),
        trace(3, TRAIN_RIDE.format(5, 120, 2)),
        trace(4, "something else entirely , is it not ?"),
        trace(5, "How many primes are below 100 ?"),
    ]
    against = write(
        tmp_path / "test.jsonl",
        [
            {"id": "t", "question": "How many primes are there below 50 ?"},
            {"id": "u", "question": "Nothing like the others"},
        ],
    )
    cfg = curate.Config(
        data=write(tmp_path / "pool.jsonl", rows),
        out=str(tmp_path / "out.jsonl"),
        method="full",
        against=(against,),
        layers=("exact", "masked:0.2"),
        dedup=("masked:0.9",),
        audit=str(tmp_path / "audit.jsonl"),
    )
    # 2 is another trace, not another question
    assert ids(curate.main(cfg)) == ["r001", "r002", "r004"]
    near, held = sorted(read_rows(cfg.audit), key=lambda pair: pair["id"])
    assert near == {
        "stage": "near copies",
        "layer": "masked",
        "similarity": 1.0,
        "id": "r003",
        "question": rows[2]["question"],
        "other_id": "r001",
        "other": rows[0]["question"],
    }
    # "how many primes", "many primes are" of 4 and 5 runs: 2 of 7
    assert (held["layer"], held["id"], held["other_id"], held["similarity"]) == (
        "masked",
        "r005",
        "t",
        round(2 / 7, 4),
    )
    funnel = {
        stage["stage"]: stage
        for stage in json.loads((tmp_path / "out.config.json").read_text())["funnel"]
    }
    assert funnel["held out"]["similarity"] == {"masked 0.2": 1} and funnel["near copies"][
        "similarity"
    ] == {"masked 1.0": 1}
    write(tmp_path / "test.jsonl", rows)
    with pytest.raises(BadInput, match="no row is left after the filter 'held out'"):
        curate.main(cfg)
    assert len(read_rows(cfg.audit)) == 5


def test_a_set_made_of_a_test_set_is_found_out():
    """Copies in other clothes: an instruction in front, other spaces, other case, a longer question."""
    held_out = [
        "What is the smallest positive integer that is a multiple of both 14 and 35 ?",
        "Let $f(x) = 3x^2 - 5$ for all real numbers $x$. Find the value of $f(f(1))$.",
        "make 20 from 7 5 8",
    ]
    copies = [
        "Solve this. Put your answer in \\boxed{}. " + held_out[0],
        held_out[1].upper().replace(" ", "\n"),
        " Make 20 from  7 5 8",
        "Ann asks Bob: " + held_out[1] + " He says 7. Is he right?",
    ]
    others = [
        "What is the largest integer that divides both 14 and 35 ?",
        "Let $g(x) = 2x - 1$ for all real $x$. Find the value of $g(g(3))$.",
        "make 20 from 7 5 9",
    ]
    rows = [trace(i, question) for i, question in enumerate(copies + others)]
    kept, reasons = decontaminate(rows, held_out)
    assert [row["question"] for row in kept] == others
    assert reasons == {"shared 8-gram": 2, "same question": 2}


def test_real_traces_of_a_test_set_are_found_out():
    """One of the two sets was made of MATH-500."""
    rows = [
        row
        for name in ("qwen3_8b_thinking_on_200", "unireason_sft_math500_traces_100")
        for row in read_rows(optional_data(f"traces/{name}.jsonl"))
    ]
    held_out = [row["question"] for row in read_rows(optional_data("math/math500.jsonl"))]
    kept, _ = decontaminate(rows, held_out)
    assert not any(row["id"].startswith("unireason") for row in kept) and len(kept) == 200
