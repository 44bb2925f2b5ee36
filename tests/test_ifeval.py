"""grading/ifeval.py: every instruction by hand, followed and not; strict and loose; languages; bad
rows.
"""

import pytest

from engine.rows import BadInput
from grading import answers
from grading.ifeval import INSTRUCTIONS, follows, languages_of, may_be, n_sentences

CASES = [  # instruction, settings, a response that follows it, one that does not
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NASA and the well-known UNI-CEF.",
        "NASA and Unicef",
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        "One BIG dog",
        "I'm a BIG dog",
    ),
    ("change_case:english_capital", {}, "THIS IS THE END OF IT.", "THIS IS THE END OF It."),
    ("change_case:english_capital", {}, "AND YOU?", "DAS IST NICHT DIE ANTWORT UND ICH GEHE"),
    ("change_case:english_lowercase", {}, "this is the end of it.", "this is the End of it."),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem. "},
        "write a poem.\nRoses",
        "Sure: Write a poem.",
    ),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:two_responses", {}, "******\none******two", "one******two******three"),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "[name], [street]",
        "[name] and [str\neet]",
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        "Bye.\np. s. also",
        "Bye. PS also",
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        "Bye.\nP.P.S. also",
        "Bye.\nP.S. also",
    ),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", "My answer is no"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1, 2]}\n```', '{"a": [1, 2]} is it'),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\nfoo\nSECTION 2\nbar",
        "SECTION 1\nfoo\nSection 2\nbar",
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        "so:\n* one\n  - two\n**bold**",
        "* one\n* two\n* three",
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*one* and *two*",
        "*one* and * *",
    ),
    ("detectable_format:title", {}, "<<A song>>\nla la", "<< >>\nla <la>"),
    ("keywords:existence", {"keywords": ["sun", "c++"]}, "The Sunday of C++", "The Sunday of C"),
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "Sunday", "the SUN, rising"),
    (
        "keywords:frequency",
        {"keyword": "to", "frequency": 3, "relation": "at least"},
        "To go to Tokyo",
        "to go",
    ),
    (
        "keywords:frequency",
        {"keyword": "to", "frequency": 3, "relation": "less than"},
        "to go",
        "To go to Tokyo",
    ),
    (
        "keywords:letter_frequency",
        {"letter": "A", "let_frequency": 2, "let_relation": "at least"},
        "Aha",
        "ah",
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "less than"},
        "#one",
        "##two",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist gut und ich bin froh.",
        "This is good and I am glad.",
    ),
    ("language:response_language", {"language": "kn"}, "ಇದು ಪರೀಕ್ಷೆ", "यह एक परीक्षा है"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First.\n\n'then, we go",
        "First.\n\nWe go",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a"},
        "A b\n\nc",
        "a b\n\nc\n\nd",
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "one\n***\ntwo\n***",
        "one\n***\n***\ntwo",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Go! Dr. No won.",
        "Dr. No won.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "It is 3.5 m.",
        "Go. Stop.",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        "two-part words",
        "two words",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        "two words",
        "three short words",
    ),
    ("punctuation:no_comma", {}, "no comma; here", "a comma, here"),
    (
        "startend:end_checker",
        {"end_phrase": "Is that all?"},
        '"So. is that all?"',
        "Is that all? Yes.",
    ),
    ("startend:quotation", {}, ' "quoted" ', '"quoted'),
]


def row(*pairs):
    return {
        "instruction_id_list": [name for name, _ in pairs],
        "kwargs": [settings for _, settings in pairs],
    }


@pytest.mark.parametrize(
    "name, settings, good, bad", CASES, ids=lambda x: x if isinstance(x, str) and ":" in x else ""
)
def test_each_instruction(name, settings, good, bad):
    """Settings that other instructions have stand in the rows as null."""
    instruction = row((name, settings | {"unused": None}))
    assert [follows(instruction, text) for text in (good, bad, " ")] == [[True], [False], [False]]


def test_all_25_have_a_case():
    assert {name for name, *_ in CASES} == set(INSTRUCTIONS) and len(INSTRUCTIONS) == 25


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    """The JSON is wrapped in talk; the comma stands in the first line only."""
    wrapped = row(
        ("detectable_format:json_format", {}),
        ("punctuation:no_comma", None),
        ("startend:quotation", {}),
    )
    text = "Sure, here it is:\n[1]\nDone"
    assert follows(wrapped, text) == [False, False, False] and follows(
        wrapped, text, loose=True
    ) == [True, True, False]
    assert follows(wrapped, '*"so"*', loose=True)[2] and not follows(wrapped, '*"so"*')[2]


def test_sentences():
    """Initials, abbreviations, decimals, ellipses and list numbers end nothing; a text without a
    stop is one sentence.
    """
    for text, n in (
        ("", 0),
        ("No stop", 1),
        ("One. Two! Three? four", 3),
        ("Mr. J. Smith, e.g. Dr. No, left.", 1),
        ('He said "Stop." Then he left.', 2),
        ("1. First\n2. Second", 2),
        ("Wait... what? Pi is 3.14.", 2),
        # without capital letters
        ("one. two! three? four", 4),
        ('the cat sat down. it was tired. "why?" no. it just was.', 5),
        ("wait... what? pi is 3.14, e.g. dr. no knows that.", 2),
        ("1. first\n2. second", 2),
        # one capital letter is enough
        ("I like it. you do, too.", 1),
    ):
        assert n_sentences(text) == n, text


def test_languages_that_share_letters():
    for code, text in (
        ("en", "the end of it is near"),
        ("es", "el fin de la casa está muy lejos"),
        ("hi", "यह घर है और वह भी"),
        ("pt", "a casa não é minha mas uma amiga"),
        ("fr", "il est dans la maison et vous"),
        ("mr", "हे घर आहे आणि ते"),
        ("ne", "यो घर हो र म"),
        ("ur", "یہ گھر ہے اور میں"),
        ("ar", "هذا في البيت من"),
        ("fa", "این خانه است که را"),
        ("ru", "это не мой дом и я"),
        ("bg", "това не е моят дом и съм"),
        ("ja", "日本語です"),
        ("zh", "中文"),
        ("ko", "한국어"),
        ("sw", "nyumba ya watu na kazi"),
    ):
        assert languages_of(text) == [code], text
    assert languages_of("12 + 3!") == []


def test_short_texts_are_in_any_language_of_their_script():
    """Without two frequent words, or with as many of several languages. The script still counts,
    and two frequent words of one language decide.
    """
    for language in ("en", "de", "es", "fi"):
        assert may_be("Hallo Welt", language) and may_be("HOLA!", language)
    poem = "Yacht naviga lento,\nNel mare blu, onde danzano,\nNotti stellate."
    assert may_be(poem, "it") and may_be(poem + " a", "it")
    assert languages_of("la casa de la playa, la luna") == ["es", "fr"]
    assert not may_be("Hallo Welt", "ru") and not may_be("Привет", "de") and may_be("Привет", "uk")
    assert may_be("नमस्ते", "ne") and not may_be("नमस्ते", "ur") and may_be("12", "ur")
    assert not may_be("Guten Tag, das ist das Haus", "en")
    shout = row(("change_case:english_capital", {}))
    assert follows(shout, "BRAVO!") == [True] and follows(shout, "DAS IST DAS HAUS") == [False]
    assert follows(row(("language:response_language", {"language": "sw"})), "Asante") == [True]


def test_bad_rows_are_refused_by_name():
    for wrong, words in (
        (row(("keywords:rhyme", {})), "keywords:rhyme"),
        (row(("keywords:frequency", {"keyword": "a"})), "frequency"),
        (row(("length_constraints:number_words", {"num_words": 3, "relation": "about"})), "about"),
    ):
        with pytest.raises(BadInput, match=words):
            follows(wrong, "text")


def test_graded_as_a_whole():
    """The answer of such a row is its response, boxes or not; it is right when every instruction is
    followed.
    """
    completion = row(("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "end"}))
    completion["response"] = "\\boxed{1} the end"
    assert answers.answer_of(completion) == "\\boxed{1} the end"
    assert (
        answers.grade(completion, "the end") is True
        and answers.grade(completion, "so, the end") is False
    )
    assert answers.grade(completion, None) is False
