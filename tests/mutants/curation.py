"""Mistakes in curation/."""

MUTANTS = [
    (
        "curation/pool.py",
        "offset += len(line)",
        'offset += len(line.decode("utf-8", "replace"))',
        "places in a file counted in characters",
        "test_curate.py::test_rows_of_a_directory_are_found_again",
    ),
    (
        "curation/pool.py",
        "if pairs.add(digest(name, question_of(row))) and not names.add(digest(name)):",
        'if pairs.add(digest(name, row["question"])) and not names.add(digest(name)):',
        "a question in other case is another question under the same id",
        "test_curate.py::test_one_id_stands_for_one_question",
    ),
    (
        "curation/quality.py",
        "for chain in _CHAIN.finditer(text, first, done + 16):  # 16: farther than its lookahead sees",
        "for chain in _CHAIN.finditer(text, first, done):",
        "a sum is judged without what stands behind it",
        "test_curate.py::test_chains_are_what_one_regular_expression_finds",
    ),
    (
        "curation/rewrite.py",
        (
            'r"[0-9]",\n'
            "lambda digit: (\n"
            '    rng.choice("0123456789".replace(digit[0], "")) if rng.random() < share else digit[0]\n'
            "),\n"
            "text,"
        ),
        'r"[0-9]", lambda digit: rng.choice("0123456789") if rng.random() < share else digit[0], text',
        "a corrupted digit may stay what it was",
        "test_curate.py::test_corruptions_keep_what_they_should",
    ),
    (
        "curation/rewrite.py",
        "return 1 << max(0, int(n) - 1).bit_length()",
        "return 1 << int(n).bit_length()",
        "powers of two are rounded up to the next",
        "test_curate.py::test_buckets_of_s1",
    ),
    (
        "curation/rewrite.py",
        'return {k: v for k, v in row.items() if k != "unhinted"} | own',
        'return {k: v for k, v in row.items() if k != "unhinted"}',
        "a rationalised trace is trained with its hint",
        "test_curate.py::test_star_hints_the_failures_and_forgets_the_hints",
    ),
    (
        "curation/rewrite.py",
        "return int(n_strong * strong * strong_tokens / (weak * weak_tokens) + 1e-9)",
        "return int(n_strong * weak * weak_tokens / (strong * strong_tokens) + 1e-9)",
        "the weaker teacher gets fewer samples",
        "test_curate.py::test_samples_for_the_same_flops",
    ),
    (
        "curation/similarity.py",
        'number = self.by["exact"].get(normalised(row["question"]))',
        'number = self.by["exact"].get(row["question"])',
        "an equal question in other case is not contamination",
        "test_curate.py::test_short_questions_are_caught_when_equal_and_only_then",
    ),
    (
        "curation/similarity.py",
        "return len(a & b) / len(a | b) if a or b else 0.0",
        "return len(a & b) / min(len(a), len(b)) if a and b else 0.0",
        "overlap of the smaller set instead of Jaccard",
        "test_curate.py::test_jaccard_of_shingles_by_hand",
    ),
    (
        "curation/similarity.py",
        "return [min([(a * x + b) % PRIME for x in hashes]) for a, b in PERMUTATIONS[:n]]",
        "return [(a * min(hashes) + b) % PRIME for a, b in PERMUTATIONS[:n]]",
        "the minimum is taken before the permutation",
        "test_curate.py::test_signatures_estimate_jaccard",
    ),
    (
        "curation/similarity.py",
        "return 1 - (1 - s**r) ** b",
        "return (1 - (1 - s) ** b) ** r",
        "bands and rows of the hashing exchanged",
        "test_curate.py::test_collision_probabilities",
    ),
    (
        "curation/similarity.py",
        'text = re.sub(r"\\d+(?:[.,]\\d+)*", "0", text)',
        'text = re.sub(r"\\d", "0", text)',
        "numbers of different length are masked differently",
        "test_curate.py::test_layers_on_one_question",
    ),
    (
        "curation/similarity.py",
        'shared = [number for number in shared if self.sources[number] != row.get("source")]',
        "shared = list(shared)",
        "questions of one source drop each other",
        "test_curate.py::test_ngrams_compare_sources_as_s1_does",
    ),
]
