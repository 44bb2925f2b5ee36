"""IFEval (Zhou et al. 2023, arXiv 2311.07911): does a response follow instructions that a program can check?

A row holds `instruction_id_list` and, one for each, `kwargs`. Strict: the response as it is. Loose: also without its
first line, its last line or both, and without asterisks ("Sure, here it is:" and markdown are forgiven).

Departs from the authors' program in: 1. Sentences are told apart by a rule of a few lines instead of NLTK's trained
splitter. 2. Languages are told apart by script, letters and frequent words instead of langdetect, which answers at
random for short texts. 3. Keywords are text, never regular expressions, and every check takes linear time.
"""

import json
import re
from collections import Counter

from engine.rows import BadInput

RELATIONS = {"less than": lambda count, n: count < n, "at least": lambda count, n: count >= n}
ABBREVIATION = re.compile(
    r"(?:\b(?:Mrs?|Ms|Dr|Prof|St|Jr|Sr|vs|etc|[eE]\.g|[iI]\.e|Inc|Ltd|Co|No|[A-Z])|^\s*\d+)$"
)


def n_sentences(text):
    """Sentences end in . ! or ? before white space and something that is not a small letter, or with the text."""
    text, count, begin = text.strip(), 0, 0
    for stop in re.finditer(r"[.!?]+[\"'”’)\]*_]{0,3}(?=(\s{0,3})(\S?))", text):
        before = text[max(begin, stop.start() - 12) : stop.start()]
        if stop[2] and (
            not stop[1] or stop[2].islower() or stop[0] == "." and ABBREVIATION.search(before)
        ):
            continue
        count, begin = count + 1, stop.end()
    return count + bool(re.search(r"\w", text[begin:]))


# ---- Which language? --------------------------------------------------------------------------------------------

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
        "en": "the of and to in is that it for was with as on be at by this are or from you have not i a my",
        "es": "el la de que y en los se del las un por con una su para es al como más pero está muy",
        "pt": "o a de que e do da em um para com não uma os no se na por mais as dos como mas foi ao é são",
        "fr": "le la les de des et est un une du en que qui dans pour pas sur au avec ce il je vous nous sont",
        "de": "der die und das ist ich nicht ein eine zu den mit von sich auf für dem im es auch als wir sie sind",
        "it": "il di che la e un una per in non è sono del con le si da al come lo gli della anche i",
        "pl": "i w nie na to się z że jest do jak o co ale za od po tak czy przez są dla",
        "vi": "và của là có không được một người cho trong các những với này đã khi để tôi bạn",
        "sw": "na ya wa kwa ni katika za la cha kuwa hii yake hiyo kama lakini yetu au vya mimi wewe",
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


def language(text):
    """ISO 639-1 code of the language that a text is written in; None for a text without letters."""
    counts = {names: len(re.findall(f"[{letters}]", text)) for names, letters in SCRIPTS.items()}
    if counts["ja"]:
        counts["ja"] += counts["zh"]  # kana among Han
    names = max(counts, key=counts.get)
    if not counts[names]:
        return None
    found = Counter(re.findall(r"[^\s\d.,;:!?\"'()*।،؟-]+", text.lower()))
    # ties: the first
    return max(names.split(), key=lambda name: sum(found[word] for word in WORDS.get(name, ())))


# ---- The 25 instructions ----------------------------------------------------------------------------------------


def _bullets(text, num_bullets):
    return (
        sum(bool(re.match(r"\s*(?:\*[^*]|-)", line + "\n")) for line in text.split("\n"))
        == num_bullets
    )


def _highlights(text, num_highlights):
    single = [found.strip("*").strip() for found in re.findall(r"\*[^\n*]*\*", text)]
    double = [found.strip("*").strip() for found in re.findall(r"\*\*[^\n*]*\*\*", text)]
    return sum(map(bool, single + double)) >= num_highlights


def _paragraphs(text, num_paragraphs):
    parts = [part.strip() for part in text.split("***")]
    inner = parts[not parts[0] : len(parts) - (len(parts) > 1 and not parts[-1])]
    return all(inner) and len(inner) == num_paragraphs


def _first_word(text, num_paragraphs, nth_paragraph, first_word):
    parts = text.split("\n\n")
    n = sum(bool(part.strip()) for part in parts)
    words = parts[nth_paragraph - 1].split() if nth_paragraph <= n else []
    return (
        n == num_paragraphs
        and bool(words)
        and re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower()
        == first_word.lower()
    )


def _two(text):
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _json(text):
    text = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text):
    titles = [line[line.find("<<") : line.rfind(">>")] for line in text.split("\n") if ">>" in line]
    return any(title.startswith("<<") and title.lstrip("<").strip("> \t\r") for title in titles)


def _postscript(text, postscript_marker):
    spelled = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return bool(
        re.search(
            spelled.get(postscript_marker, re.escape(postscript_marker.strip().lower())),
            text.lower(),
        )
    )


def _keyword(word):
    return re.compile(re.escape(word.strip()), re.IGNORECASE)


CHECKS = {
    "change_case:capital_word_frequency": lambda text, capital_frequency, capital_relation: (
        RELATIONS[capital_relation](
            sum(word.isupper() for word in re.findall(r"\w(?:[\w.-]*\w)?", text)), capital_frequency
        )
    ),
    "change_case:english_capital": lambda text: text.isupper() and language(text) in ("en", None),
    "change_case:english_lowercase": lambda text: text.islower() and language(text) in ("en", None),
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "combination:two_responses": _two,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        sum("[" in part for line in text.split("\n") for part in line.split("]")[:-1])
        >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text: any(
        f"My answer is {answer}." in text for answer in ("yes", "no", "maybe")
    ),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d", text)) >= num_sections
    ),
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": lambda text, keywords: all(
        _keyword(word).search(text) for word in keywords
    ),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(
            re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words
        )
    ),
    "keywords:frequency": lambda text, keyword, frequency, relation: RELATIONS[relation](
        len(_keyword(keyword).findall(text)), frequency
    ),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: RELATIONS[
        let_relation
    ](text.lower().count(letter.strip().lower()), let_frequency),
    "language:response_language": lambda text, language: _is_language(text, language),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": lambda text, num_sentences, relation: RELATIONS[
        relation
    ](n_sentences(text), num_sentences),
    "length_constraints:number_words": lambda text, num_words, relation: RELATIONS[relation](
        len(re.findall(r"\w+", text)), num_words
    ),
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: (
        len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'
    ),
}


def _is_language(text, wanted):
    return language(text) in (wanted, None)


def follows(row, response, loose=False):
    """For each instruction of a row: is it followed? An empty response follows nothing.

    Raises BadInput for an instruction that is not among the 25, or that lacks its settings.
    """
    texts = [response]
    if loose:
        lines = response.split("\n")
        texts += [
            "\n".join(lines[1:]).strip(),
            "\n".join(lines[:-1]).strip(),
            "\n".join(lines[1:-1]).strip(),
        ]
        texts += [text.replace("*", "") for text in texts]
    result = []
    for name, settings in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        given = {key: value for key, value in (settings or {}).items() if value is not None}
        if name not in CHECKS:
            raise BadInput(f"'{name}' is not an instruction of IFEval")
        try:
            result.append(any(text.strip() != "" and CHECKS[name](text, **given) for text in texts))
        except (TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"instruction '{name}' with the settings {given}: {error}") from error
    return result
