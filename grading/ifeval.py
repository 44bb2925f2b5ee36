"""IFEval (2311.07911): does a response follow instructions that a program can check?

A row holds `instruction_id_list` and, one for each, `kwargs`. Strict: the response as it is.
Loose: also without its first line, its last line or both, and without asterisks ("Sure, here it
is:" and markdown are forgiven).

Departs from the authors' program in:
1. Sentences are told apart by a rule of a few lines instead of NLTK's trained splitter.
2. Languages are told apart by script, letters and frequent words instead of langdetect, which
   answers at random for short texts. Where the words fit several languages equally well, or
   hardly any, the text may be in any of them: a check of the language is then passed, as it is
   where langdetect raises an error.
3. Keywords are text, never regular expressions, and every check takes linear time.
"""

import json
import re
from collections import Counter

from engine.rows import BadInput

# ---- Sentences ---------------------------------------------------------------------------------

SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]*_]{0,3}(?=(\s{0,3})(\S?))")
# "Dr." and "e.g." end no sentence, nor does the number of a list's entry.
ABBREVIATION = re.compile(
    r"(?:\b(?:Mrs?|Ms|Dr|Prof|St|Jr|Sr|vs|etc|[eE]\.g|[iI]\.e|Inc|Ltd|Co|No|[A-Z])|^\s*\d+)$"
)


LOWER_ABBREVIATION = re.compile(
    r"(?:\b(?:mrs?|ms|dr|prof|st|jr|sr|vs|etc|e\.g|i\.e|inc|ltd)|^\s*\d+)$"
)


def n_sentences(text):
    """Sentences end in . ! or ? before white space and no small letter, or with the text.

    In a text without capital letters a small letter may begin a sentence, except after an ellipsis.
    There "no." and single letters, which may be the end of one, are no abbreviations.
    """
    text = text.strip()
    has_capitals = text != text.lower()
    abbreviation = ABBREVIATION if has_capitals else LOWER_ABBREVIATION
    count, begin = 0, 0
    for stop in SENTENCE_END.finditer(text):
        space, following = stop[1], stop[2]
        before = text[max(begin, stop.start() - 12) : stop.start()]
        is_ellipsis = stop[0].startswith("..")
        goes_on = not space or following.islower() and (has_capitals or is_ellipsis)
        abbreviated = stop[0] == "." and abbreviation.search(before)
        if following and (goes_on or abbreviated):
            continue
        count += 1
        begin = stop.end()
    rest_has_words = bool(re.search(r"\w", text[begin:]))
    return count + rest_has_words


# ---- Which language? ---------------------------------------------------------------------------

# Languages that share a script: its letters. Those of one key are told apart by WORDS.
SCRIPTS = {
    "ja": "\u3040-\u30ff",
    "ko": "\uac00-\ud7af",
    "zh": "\u4e00-\u9fff",
    "th": "\u0e00-\u0e7f",
    "he": "\u0590-\u05ff",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "hi mr ne": "\u0900-\u097f",
    "ar fa ur": "\u0600-\u06ff",
    "ru uk bg": "\u0400-\u04ff",
    "en es pt fr de it pl vi sw fi": "a-zA-Z\u00c0-\u024f\u1e00-\u1eff",
}
WORDS = {
    name: words.split()
    for name, words in {
        "en": (
            "the of and to in is that it for was with as on be at by this are or from you have "
            "not i a my"
        ),
        "es": (
            "el la de que y en los se del las un por con una su para es al como más pero está muy"
        ),
        "pt": (
            "o a de que e do da em um para com não uma os no se na por mais as dos como mas "
            "foi ao é são"
        ),
        "fr": (
            "le la les de des et est un une du en que qui dans pour pas sur au avec ce il je vous "
            "nous sont"
        ),
        "de": (
            "der die und das ist ich nicht ein eine zu den mit von sich auf für dem im es auch als "
            "wir sie sind"
        ),
        "it": (
            "il di che la e un una per in non è sono del con le si da al come lo gli della anche i"
        ),
        "pl": "i w nie na to się z że jest do jak o co ale za od po tak czy przez są dla",
        "vi": "và của là có không được một người cho trong các những với này đã khi để tôi bạn",
        "sw": (
            "na ya wa kwa ni katika za la cha kuwa hii yake hiyo kama lakini yetu au vya mimi wewe"
        ),
        "fi": "ja on ei se että hän oli en mutta niin kun mitä ovat tai minä kuin olen myös tämä",
        "hi": "है के में की और का से को हैं एक यह पर नहीं कि भी लिए था",
        "mr": "आहे आणि या ते आहेत मी हा की नाही एक च्या त्या असे होते करण्यासाठी तुम्ही आपण",
        "ne": "छ र को मा हो लागि छन् यो गर्न हुन्छ पनि तपाईं एक भएको थियो गरेको हामी",
        "ar": "في من على أن إلى هذا التي هو لا ما عن هي مع كان هذه أو ذلك",
        "fa": "و در به از که این را با است برای آن یک می های شود من شما",
        "ur": "ہے کے میں کی اور کا سے کو ہیں ایک یہ پر نہیں کہ بھی لئے لیے",
        "ru": "и в не на я что он с это как по но они мы все так его у из был для есть",
        "uk": "і в не на що я з це як та до але ми так його для є був від щоб",
        "bg": "и на да се в е за с не са от че като това по си ще или но съм",
    }.items()
}


def languages_of(text):
    """ISO 639-1 codes of the languages that a text may be written in; [] if it has no letters.

    The language whose frequent words are most in the text. Several languages of one script if they
    have equally many, and all of the script if none has two: "Hola" has none, and the "a" of a poem
    is a word of half of them.
    """
    counts = {names: len(re.findall(f"[{letters}]", text)) for names, letters in SCRIPTS.items()}
    if counts["ja"]:
        counts["ja"] += counts["zh"]  # kana among Han
    names = max(counts, key=counts.get)
    if not counts[names]:
        return []
    found = Counter(re.findall(r"[^\s\d.,;:!?\"'()*।،؟-]+", text.lower()))
    n_frequent = {name: sum(found[word] for word in WORDS.get(name, ())) for name in names.split()}
    most = max(n_frequent.values())
    if most < 2:
        return list(n_frequent)
    return [name for name, n in n_frequent.items() if n == most]


def may_be(text, language):
    """May a text be in this language, an ISO 639-1 code? Yes if it has no letters."""
    languages = languages_of(text)
    return not languages or language in languages


# ---- The 25 instructions -----------------------------------------------------------------------

INSTRUCTIONS = {}


def instruction(name):
    """Put the decorated check into the table: text and settings -> is it followed?"""

    def register(function):
        INSTRUCTIONS[name] = function
        return function

    return register


def compare_count(relation, count, wanted):
    """IFEval's two relations between numbers. Raises KeyError for another one."""
    return {"less than": count < wanted, "at least": count >= wanted}[relation]


@instruction("change_case:capital_word_frequency")
def capital_word_frequency(text, capital_frequency, capital_relation):
    words = re.findall(r"\w(?:[\w.-]*\w)?", text)
    n_capital = sum(word.isupper() for word in words)
    return compare_count(capital_relation, n_capital, capital_frequency)


@instruction("change_case:english_capital")
def english_capital(text):
    return text.isupper() and may_be(text, "en")


@instruction("change_case:english_lowercase")
def english_lowercase(text):
    return text.islower() and may_be(text, "en")


@instruction("combination:repeat_prompt")
def repeat_prompt(text, prompt_to_repeat):
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@instruction("combination:two_responses")
def two_responses(text):
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


@instruction("detectable_content:number_placeholders")
def number_placeholders(text, num_placeholders):
    """[name]: a bracket that is closed on its line."""
    n_found = 0
    for line in text.split("\n"):
        n_found += sum("[" in before for before in line.split("]")[:-1])
    return n_found >= num_placeholders


@instruction("detectable_content:postscript")
def postscript(text, postscript_marker):
    spellings = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    literal = re.escape(postscript_marker.strip().lower())
    return bool(re.search(spellings.get(postscript_marker, literal), text.lower()))


@instruction("detectable_format:constrained_response")
def constrained_response(text):
    return any(f"My answer is {answer}." in text for answer in ("yes", "no", "maybe"))


@instruction("detectable_format:json_format")
def json_format(text):
    text = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@instruction("detectable_format:multiple_sections")
def multiple_sections(text, section_spliter, num_sections):
    sections = re.findall(re.escape(section_spliter.strip()) + r"\s?\d", text)
    return len(sections) >= num_sections


@instruction("detectable_format:number_bullet_lists")
def number_bullet_lists(text, num_bullets):
    lines = [line + "\n" for line in text.split("\n")]
    return sum(bool(re.match(r"\s*(?:\*[^*]|-)", line)) for line in lines) == num_bullets


@instruction("detectable_format:number_highlighted_sections")
def number_highlighted_sections(text, num_highlights):
    """*word* or **word**, with something inside."""
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(section.strip("*").strip()) for section in found) >= num_highlights


@instruction("detectable_format:title")
def title(text):
    """<<title>>"""
    titles = [line[line.find("<<") : line.rfind(">>")] for line in text.split("\n") if ">>" in line]
    return any(found.startswith("<<") and found.lstrip("<").strip("> \t\r") for found in titles)


@instruction("keywords:existence")
def keywords_existence(text, keywords):
    return all(_keyword(word).search(text) for word in keywords)


@instruction("keywords:forbidden_words")
def forbidden_words(text, forbidden_words):
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words
    )


@instruction("keywords:frequency")
def keyword_frequency(text, keyword, frequency, relation):
    return compare_count(relation, len(_keyword(keyword).findall(text)), frequency)


def _keyword(word):
    return re.compile(re.escape(word.strip()), re.IGNORECASE)


@instruction("keywords:letter_frequency")
def letter_frequency(text, letter, let_frequency, let_relation):
    n_letters = text.lower().count(letter.strip().lower())
    return compare_count(let_relation, n_letters, let_frequency)


@instruction("language:response_language")
def response_language(text, language):
    return may_be(text, language)


@instruction("length_constraints:nth_paragraph_first_word")
def nth_paragraph_first_word(text, num_paragraphs, nth_paragraph, first_word):
    paragraphs = text.split("\n\n")
    n_paragraphs = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if n_paragraphs != num_paragraphs or nth_paragraph > n_paragraphs:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    if not words:
        return False
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0]
    return word.lower() == first_word.lower()


@instruction("length_constraints:number_paragraphs")
def number_paragraphs(text, num_paragraphs):
    """Paragraphs between lines of ***; only before the first and after the last may be nothing."""
    parts = [part.strip() for part in text.split("***")]
    begin = 0 if parts[0] else 1
    end = len(parts) - 1 if len(parts) > 1 and not parts[-1] else len(parts)
    inside = parts[begin:end]
    return all(inside) and len(inside) == num_paragraphs


@instruction("length_constraints:number_sentences")
def number_sentences(text, num_sentences, relation):
    return compare_count(relation, n_sentences(text), num_sentences)


@instruction("length_constraints:number_words")
def number_words(text, num_words, relation):
    return compare_count(relation, len(re.findall(r"\w+", text)), num_words)


@instruction("punctuation:no_comma")
def no_comma(text):
    return "," not in text


@instruction("startend:end_checker")
def end_checker(text, end_phrase):
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@instruction("startend:quotation")
def quotation(text):
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


# ---- A row's instructions ----------------------------------------------------------------------


def follows(row, response, loose=False):
    """For each instruction of a row: is it followed? An empty response follows nothing.

    Raises BadInput for an instruction that is not among the 25, or that lacks its settings.
    """
    texts = loose_readings(response) if loose else [response]
    texts = [text for text in texts if text.strip()]
    followed = []
    for name, settings in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        given = {key: value for key, value in (settings or {}).items() if value is not None}
        if name not in INSTRUCTIONS:
            raise BadInput(f"'{name}' is not an instruction of IFEval")
        try:
            followed.append(any(INSTRUCTIONS[name](text, **given) for text in texts))
        except (TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"instruction '{name}' with the settings {given}: {error}") from error
    return followed


def loose_readings(response):
    """The response, without its first line, its last line or both; each also without asterisks."""
    lines = response.split("\n")
    texts = [
        response,
        "\n".join(lines[1:]).strip(),
        "\n".join(lines[:-1]).strip(),
        "\n".join(lines[1:-1]).strip(),
    ]
    return texts + [text.replace("*", "") for text in texts]
