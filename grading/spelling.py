r"""One spelling for every answer: Unicode signs, LaTeX commands, spaces, numbers, words.

    CHARACTERS     one Unicode sign -> LaTeX text
    RULES          rewriting rules, applied one after the other, each with an example
    normal_form    both, applied to an answer

Units are no matter of spelling (grading/units.py), and neither are names and lists
(grading/structures.py). Texts are rewritten in linear time: blanks are collapsed before each rule
that looks for them, and no pattern has two neighbours that match the same character without limit.
"""

import re
import unicodedata
from typing import NamedTuple

LONGEST_ANSWER = 2_000  # characters; beyond it nothing is right

# ---- Characters --------------------------------------------------------------------------------

GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho
    varsigma sigma tau upsilon phi chi psi omega""".split()
CAPITAL_GREEK = {"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi"}
CAPITAL_GREEK |= {"Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega"}
# Names that a formula may hold; \\pi is a number.
LETTERS = {*GREEK, *CAPITAL_GREEK.values(), "varepsilon", "varphi", "hbar", "ell", "infty"}
SIGNS = {
    "\\cup": "∪",
    "\\cap": "∩",
    "\\setminus": "∖",
    "\\in": "∈",
    "\\pm": "±",
    "\\le": "≤⩽≦",
    "\\ge": "≥⩾≧",
    "\\ne": "≠",
    "\\approx": "≈≃≅",
    "\\equiv": "≡",
    "\\infty": "∞",
    "\\emptyset": "∅",
    "\\angle": "∠",
    "\\triangle": "△",
    "\\land": "∧",
    "\\lor": "∨",
    "\\to": "→",
    "\\mathbb{R}": "ℝ",
    "\\mathbb{Z}": "ℤ",
    "\\mathbb{N}": "ℕ",
    "\\mathbb{Q}": "ℚ",
    "\\mathbb{C}": "ℂ",
    "\\varepsilon": "ϵ",
    "\\varphi": "ϕ",
    "\\langle": "⟨〈",
    "\\rangle": "⟩〉",
    "\\lfloor": "⌊",
    "\\rfloor": "⌋",
    "\\lceil": "⌈",
    "\\rceil": "⌉",
    "^{\\circ}": "°º˚",
    "^{\\circ}\\text{C}": "℃",
    "^{\\circ}\\text{F}": "℉",
    "\\sqrt": "√",
    "\\sqrt[3]": "∛",
    "\\sqrt[4]": "∜",
    "\\ldots": "…⋯",
    "-": "−–—‒‐‑﹣",
    "+": "﹢",
    "*": "×·∙⋅∗•✕✖",
    "/": "÷∕⁄",
    "'": "′’‘ʼ",
    "''": "″",
    '"': "“”",
    ",": "、，﹐",
    ".": "。．",
    ":": "∶：",
    "(": "﹙【",
    ")": "﹚】",
    "\\mu": "µ",
    "": "\u200b\u200c\u200d\u2060\ufeff\u200e\u200f",
    " ": "\u00a0\u2009\u202f\u2007\u3000\u2002\u2003",
    "\\euro ": "€",
    "\\pounds ": "£",
    "\\yen ": "¥￥",
    "\\rupee ": "₹",
    "\\degree ": "",
}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢₓₐ", "0123456789+-=()nixa")
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢₓₐ]+")
# ½ is one character and reads "1⁄2" when it is taken apart.
VULGAR_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"


def _character_table():
    """{character: LaTeX text} of the signs, Greek, fractions, full-width and mathematical forms."""
    table = {sign: text for text, signs in SIGNS.items() for sign in signs}
    # A command needs an end before a letter, as in \pi r.
    table = {sign: text + " " * text[-1:].isalpha() for sign, text in table.items()}
    for number, name in enumerate(GREEK):
        table[chr(ord("α") + number)] = f"\\{name} "
    for sign, name in CAPITAL_GREEK.items():
        table[sign] = f"\\{name} "
    for sign in VULGAR_FRACTIONS:
        above, below = unicodedata.normalize("NFKC", sign).split("⁄")
        table[sign] = f"\\frac{{{above}}}{{{below}}}"
    for code in range(0xFF01, 0xFF5F):  # full-width ! to ~
        table.setdefault(chr(code), chr(code - 0xFEE0))
    for code in range(0x1D400, 0x1D800):  # mathematical letters and digits: 𝑥, 𝟏
        plain = unicodedata.normalize("NFKC", chr(code))
        table[chr(code)] = table.get(plain, plain)
    return str.maketrans(table)


CHARACTERS = _character_table()
ROOT_OF_NUMBER = re.compile(r"(\\sqrt(?:\[[34]\])?) (\d+(?:\.\d+)?)")


def plain_characters(text):
    r"""Text with every known Unicode sign as LaTeX: x²+√13 -> x^{2}+\sqrt{13}."""
    if text.isascii():
        return text
    text = RAISED.sub(lambda found: "^{" + found[0].translate(SUPERSCRIPTS) + "}", text)
    text = LOWERED.sub(lambda found: "_{" + found[0].translate(SUBSCRIPTS) + "}", text)
    text = text.translate(CHARACTERS)
    # √ reaches over the whole number, unlike LaTeX's \sqrt 13.
    return ROOT_OF_NUMBER.sub(r"\1{\2}", text)


# ---- Rules -------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """A rewriting rule with an example of what it does alone."""

    name: str
    before: str
    after: str
    pattern: str
    new: object  # replacement, or a function of the match
    cues: tuple = ()  # the pattern can only match a text that holds one of these


NUMBER = r"(?:\d+\.?\d*|\.\d+)"
TEXT_COMMANDS = (
    r"\\(?:text|mbox|hbox|mathrm|mathbf|mathit|mathsf|boldsymbol|operatorname\*?|"
    r"(?:text|math)(?:bf|it|rm|sf|tt|normal))\s?\{"
)
FUNCTION_NAMES = "arcsin|arccos|arctan|sinh|cosh|tanh|sqrt|sin|cos|tan|exp|ln|log|pi|infty"
SCALES = {
    "dozen": "12",
    "hundred": "100",
    "thousand": "1000",
    "million": "10^{6}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
    "万": "10^{4}",
    "亿": "10^{8}",
}
NO_SOLUTION = r"no (?:real |such )?(?:solutions?|roots?)|none|(?:the )?empty set|无解|空集"
OTHER_NAMES = {"leq": r"\le", "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "neq": r"\ne"}
OTHER_NAMES |= {"lt": "<", "gt": ">", "!=": r"\ne", "lbrace": r"\{", "rbrace": r"\}"}
OTHER_NAMES |= {"wedge": r"\land", "vee": r"\lor", "varnothing": r"\emptyset"}
OTHER_NAMES |= {"backslash": r"\setminus", "smallsetminus": r"\setminus", "tg": r"\tan"}
OTHER_NAMES |= {"langle": "(", "rangle": ")", "lbrack": "[", "rbrack": "]", "dots": r"\ldots"}
OTHER_NAMES |= {"cdots": r"\ldots", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|"}
SMALL_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = {word: number for number, word in enumerate(SMALL_NUMBERS)}
NUMBER_WORDS |= {word: 10 * number for number, word in enumerate(TENS, 2)}
COUNT = "(?:" + "|".join([*NUMBER_WORDS, "hundred", "thousand", "million"]) + ")"
DENOMINATORS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
}
DENOMINATORS |= {"seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12}
DENOMINATORS |= {"twentieth": 20, "hundredth": 100, "thousandth": 1000}
# ]2, 5[ is (2, 5), and [2, 5] stays.
OUTWARD = {"]": "(", "[": "[", "[ at the end": ")", "] at the end": "]"}
LETTERS_OF_UNITS = {"m": "meters", "s": "seconds", "g": "grams", "N": "newtons", "J": "joules"}
LETTERS_OF_UNITS |= {"W": "watts", "V": "volts", "A": "amperes", "K": "kelvins", "L": "liters"}
LETTERS_OF_UNITS |= {"C": "celsius", "F": "fahrenheit", "h": "hours"}


def _repeating_decimal(whole, fixed, repeated):
    r"""0.1666..., as "0", "1", "6" -> (\frac{15}{90}): (16 - 1) / 90."""
    numerator = int(whole + fixed + repeated) - int(whole + fixed or "0")
    denominator = "9" * len(repeated) + "0" * len(fixed)
    return f"(\\frac{{{numerator}}}{{{denominator}}})"


def _overlined_decimal(found):
    return _repeating_decimal(found[1], found[2] or "", found[3] or found[4])


def _base(found):
    r"""_{\text{base eight}} -> _{8}; other subscripts stay."""
    named = re.fullmatch(r"\s?\(?(?:base )?(\d{1,2}|[a-z]{3,8})\)?\s?", found[1] or found[2])
    if not named or not (named[1].isdigit() or named[1] in NUMBER_WORDS):
        return found[0]
    return f"_{{{NUMBER_WORDS.get(named[1], named[1])}}}"


def _number_in_words(found):
    """one hundred and twenty-five -> 125."""
    total, below_thousand = 0, 0
    for word in re.findall("[a-z]+", found[0].lower()):
        if word == "hundred":
            below_thousand = max(below_thousand, 1) * 100
        elif word in ("thousand", "million"):
            total += max(below_thousand, 1) * (1000 if word == "thousand" else 1_000_000)
            below_thousand = 0
        elif word != "and":
            below_thousand += NUMBER_WORDS[word]
    return str(total + below_thousand)


def _spelled_unit(found):
    r"""\text{ m/s} -> \text{ meters/seconds}."""
    return re.sub(
        r"(?<![a-zA-Z.])[a-zA-Z](?![a-zA-Z.])",  # not p.m.
        lambda letter: LETTERS_OF_UNITS.get(letter[0], letter[0]),
        found[0],
    )


# Applied one after the other, in this order.
RULES = [
    Rule(
        "thousands separated in LaTeX",
        r"1{,}000 and 10\,080",
        "1000 and 10080",
        r"(?<=\d)(?:\{,\}|,\\!|\\,)\s?(?=\d{3}(?!\d))",
        "",
        (r"{,}", r",\!", r"\,"),
    ),
    Rule(
        "spaces",
        r"7\,m",
        "7 m",
        r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![a-zA-Z])|\\[hv]space\*?\{[^{}]{0,20}\}",
        " ",
        ("\\", "~"),
    ),
    Rule(
        "sizes of brackets",
        r"\left( 1, 2 \right)",
        "( 1, 2 )",
        r"\\(?:left|right)(?![a-zA-Z])\.?|\\(?:middle|displaystyle|[bB]igg?[lrm]?)(?![a-zA-Z])",
        "",
        ("\\",),
    ),
    Rule(
        "currencies",
        r"\$5, Rs. 5, US$5",
        "5, 5, 5",
        r"\b(?:US|HK)\\?\$|\\\$|\\(?:euro|pounds|yen|rupee)(?![a-zA-Z])\s?"
        r"|\b(?:Rs\.?|USD|EUR|GBP|INR|RMB)\s?(?=[\d.])",
        "",
        ("$", "Rs", "USD", "EUR", "GBP", "INR", "RMB", r"\e", r"\p", r"\y", r"\r"),
    ),
    Rule(
        "math delimiters",
        r"\(9\) or $9$",
        "9 or 9",
        r"(?<!\\)\\[()\[\]]|\$",
        "",
        (r"\(", r"\)", r"\[", r"\]", "$"),
    ),
    Rule(
        "intervals with outward brackets",
        "]2,5[",
        "(2,5)",
        r"((?:^|\\cup|\\in|=)\s?)([\[\]])([^\[\]()]{1,80}[,;][^\[\]()]{1,80})([\[\]])",
        lambda found: found[1] + OUTWARD[found[2]] + found[3] + OUTWARD[found[4] + " at the end"],
        ("[", "]"),
    ),
    Rule(
        "kinds of fractions",
        r"\dfrac{1}{2}",
        r"\frac{1}{2}",
        r"\\[dtc]frac(?![a-zA-Z])",
        r"\\frac",
        ("frac",),
    ),
    Rule(
        "fractions by \\over",
        r"{3 \over 4}",
        r"\frac{3 }{ 4}",
        r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}",
        r"\\frac{\1}{\2}",
        (r"\over",),
    ),
    Rule(
        "binomials",
        r"{10 \choose 2} or \dbinom{10}{2}",
        r"\binom{10 }{ 2} or \binom{10}{2}",
        r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}|\\[dt]binom(?![a-zA-Z])",
        lambda found: f"\\binom{{{found[1]}}}{{{found[2]}}}" if found[1] is not None else "\\binom",
        (r"\choose", "binom"),
    ),
    Rule(
        "other names of signs",
        r"x \leq 2, x \neq 3, \lbrace 1 \rbrace",
        r"x \le 2, x \ne 3, \{ 1 \}",
        r"\\(" + "|".join(name for name in OTHER_NAMES if name != "!=") + r")(?![a-zA-Z])|!=",
        lambda found: OTHER_NAMES[found[1] or found[0]],
        ("\\", "!="),
    ),
    Rule("kinds of text", r"\mathrm{kg}", r"\text{kg}", TEXT_COMMANDS, r"\\text{", ("{",)),
    Rule(
        "letters of units as text",
        r"15\text{ m/s}",
        r"15\text{ meters/seconds}",
        r"(?:(?<=[\d})])|(?<=circ )|(?<=circ)|(?<=\d ))\s?\\text\{[^{}]*\}",
        _spelled_unit,
        (r"\text",),
    ),
    Rule(
        "bases in words",
        r"52_{(8)}, 52_{\text{eight}}",
        "52_{8}, 52_{8}",
        r"(?<=[\dA-F])_\s?\{\s?(?:\\text\{([^{}]{1,12})\}|([^{}]{1,12}))\s?\}",
        _base,
        ("_",),
    ),
    Rule(
        "bases beside the number",
        "52 (base 8)",
        "52_{8}",
        r"(?<=[\dA-F])\s?(?:\(base (\d{1,2})\)|base (\d{1,2}))$",
        lambda found: "_{" + (found[1] or found[2]) + "}",
        ("base",),
    ),
    Rule(
        "ordinals",
        r"12th, 12^{\text{th}}",
        "12, 12",
        r"(?<=\d)\s?(?:\^\s?\{\s?\\text\{ENDING\}\s?\}|\^\s?\{ENDING\}|\^?\s?\\text\{ENDING\}"
        r"|ENDING(?![a-zA-Z]))".replace("ENDING", r"\s?(?:th|st|nd|rd)\s?"),
        "",
        ("th", "st", "nd", "rd"),
    ),
    Rule("other text", r"\text{east}", " east ", r"\\text\{([^{}]*)\}", r" \1 ", (r"\text",)),
    Rule(
        "degrees in functions",
        r"\cos 60^\circ, \tan(45^{\circ})",
        r"\cos(60\pi/180), \tan(45\pi/180)",
        r"(\\(?:sin|cos|tan|cot|sec|csc))\s?[({]?\s?(\d+\.?\d*)\s?\^\s?\{?\s?\\circ\s?\}?\s?[)}]?",
        r"\1(\2\\pi/180)",
        (r"\circ",),
    ),
    Rule(
        "degrees",
        r"90^\circ, 90^{\circ}",
        "90 degrees , 90 degrees ",
        r"\s?\^?\s?\{?\s?\\(?:circ|degree)(?![a-zA-Z])\s?\}?",
        " degrees ",
        (r"\circ", r"\degree"),
    ),
    Rule("percent", r"5\%", "5 ", r"\\?%|(?<=[\d ])percent\b", " ", ("%", "percent")),
    Rule(
        "functions without a backslash",
        "sqrt(2) + 2pi",
        r"\sqrt(2) + 2\pi",
        # sec may also be a unit
        rf"(?<![\\a-zA-Z])({FUNCTION_NAMES}|(?:sec|csc|cot)(?=\())(?![a-zA-Z])",
        r"\\\1",
        (*FUNCTION_NAMES.split("|"), "sec", "csc", "cot"),
    ),
    Rule(
        "infinity in words",
        "(0, oo), -infinity",
        r"(0, \infty), -\infty",
        r"(?<![\\a-zA-Z])(?:oo|inf|infinity)(?![a-zA-Z])",
        r"\\infty",
        ("oo", "inf"),
    ),
    Rule(
        "roots with brackets",
        r"\sqrt(2)",
        r"\sqrt{2}",
        r"\\sqrt\s?\(([^()]*)\)",
        r"\\sqrt{\1}",
        (r"\sqrt",),
    ),
    Rule(
        "signs of products and powers",
        r"3 \times 10**4",
        "3 * 10^4",
        r"\\(?:cdot|times|ast)(?![a-zA-Z])|\*\*",
        lambda found: "^" if found[0] == "**" else "*",
        (r"\cdot", r"\times", r"\ast", "**"),
    ),
    Rule(
        "x as a sign of a product with a power of ten",
        "3 x 10^8",
        "3*10^8",
        r"(?<=\d)\s?[xX]\s?(?=10\s?\^)",
        "*",
        ("x", "X"),
    ),
    Rule("signs of quotients", r"6 \div 2", "6 / 2", r"\\div(?![a-zA-Z])", "/", (r"\div",)),
    Rule(
        "one-letter arguments",
        r"\frac12, \sqrt2",
        r"\frac{1}2, \sqrt{2}",
        r"\\(frac|sqrt)\s?(\w)",
        r"\\\1{\2}",
        (r"\frac", r"\sqrt"),
    ),
    Rule(
        "one-letter denominators",
        r"\frac{1}2",
        r"\frac{1}{2}",
        r"\\frac\s?(\{[^{}]*\})\s?(\w)",
        r"\\frac\1{\2}",
        (r"\frac",),
    ),
    Rule(
        "overlined decimals",
        r"0.1\overline{6}, 0.(3)",
        r"(\frac{15}{90}), (\frac{3}{9})",
        r"(?<![\d.])(\d{0,9})\.(?:(\d{0,20})\\(?:overline|bar|dot)\s?\{(\d{1,20})\}|\((\d{1,20})\))",
        _overlined_decimal,
        (r"\overline", r"\bar", r"\dot", ".("),
    ),
    Rule(
        "decimals that go on",
        r"0.333..., 0.1666\ldots",
        r"(\frac{333}{999}), (\frac{1665}{9990})",
        r"(?<![\d.])(\d{0,9})\.(\d{0,20}?)((\d{1,6}?)\4{1,19})\s?(?:\.{3}|\\ldots)",
        lambda found: _repeating_decimal(found[1], found[2], found[3]),
        ("...", r"\ldots"),
    ),
    Rule(
        "dots after a decimal",
        "3.14159...",
        "3.14159",
        r"(\.\d+)\s?(?:\.{3}|\\ldots)",
        r"\1",
        ("...", r"\ldots"),
    ),
    Rule(
        "numbers in words",
        "twenty-five",
        "25",
        rf"(?i)^\s?{COUNT}(?:[ -](?:and )?{COUNT}){{0,9}}(?=\s?$|[ -][a-z])",
        _number_in_words,
    ),
    Rule(
        "fractions in words",
        "2 thirds",
        r"\frac{2}{3}",
        rf"(?<![\d.])(\d+)[ -]({'|'.join(DENOMINATORS)})s?(?![a-zA-Z])",
        lambda found: f"\\frac{{{found[1]}}}{{{DENOMINATORS[found[2]]}}}",
        ("hal", "ird", "uarter", "th"),
    ),
    Rule(
        "powers in words",
        "2 squared, 2 cubed",
        "2^2, 2^3",
        r" (squared|cubed)(?![a-zA-Z])",
        lambda found: "^2" if found[1] == "squared" else "^3",
        ("squared", "cubed"),
    ),
    Rule(
        "mixed numbers in LaTeX",
        r"1\frac{4}{5}",
        r"(1+\frac{4}{5})",
        r"(?<![\w}.^])(\d+)\s?\\frac\s?\{(\d+)\}\s?\{(\d+)\}",
        r"(\1+\\frac{\2}{\3})",
        (r"\frac",),
    ),
    Rule(
        "mixed numbers",
        "1 4/5",
        r"(1+\frac{4}{5})",
        r"(?<![\w}.^/])(\d+) (\d+)\s?/\s?(\d+)",
        r"(\1+\\frac{\2}{\3})",
        ("/",),
    ),
    Rule(
        "thousands separated by spaces",
        "12 345 678",
        "12345678",
        r"(?<![\w.,^_/] )(?<![\w.,^_])\d{1,3}(?: \d{3})+(?! ?[\d/])",
        lambda found: found[0].replace(" ", ""),
        (" ",),
    ),
    Rule(
        "exponents of ten",
        "3e8",
        "(3*10^{8})",
        rf"(?<![\w.])({NUMBER})[eE]([+-]?\d{{1,4}})(?![\w.])",
        r"(\1*10^{\2})",
        ("e", "E"),
    ),
    Rule(
        "millions",
        "2.5 million, 3万",
        "(2.5*10^{6}), (3*10^{4})",
        rf"(?<![\w.])({NUMBER})\s?({'|'.join(SCALES)})s?(?![a-zA-Z])",
        lambda found: f"({found[1]}*{SCALES[found[2]]})",
        tuple(SCALES),
    ),
    Rule("braces around one letter", "x_{0}^{2}", "x_0^2", r"([_^])\{(\w)\}", r"\1\2", ("{",)),
    Rule(
        "primes",
        r"y^{\prime\prime}",
        "y''",
        r"\^\s?\{?\s?(\\prime\s?)+\}?",
        lambda found: "'" * found[0].count("p"),
        (r"\prime",),
    ),
    Rule(
        "halves of the day",
        "5 p.m., 1:58 AM",
        "5pm, 1:58am",
        r"(?<=\d)\s?([apAP])\.?\s?[mM](?![a-zA-Z])\.?",
        lambda found: found[1].lower() + "m",
        ("m", "M"),
    ),
    Rule("full hours", "10am", "10:00am", r"(?<![\d:.])(\d{1,2})([ap]m)\b", r"\1:00\2", ("m",)),
    Rule("hours with a zero", "05:00", "5:00", r"(?<![\d:.])0(?=\d\s?:\s?\d\d)", "", (":",)),
    Rule(
        "about",
        r"\approx 3 (rounded)",
        " 3",
        r"^\s?(?:\\approx(?![a-zA-Z])|(?:about|approximately) )"
        r"|\s?\((?:about|approx\.?|approximately|exact|exactly|rounded[^()]{0,60})\)$",
        "",
        (r"\approx", "about", "approx", "(exact", "(rounded"),
    ),
    Rule(
        "a sentence before the answer",
        "The number of eggs is 18",
        "18",
        r"^\s?[a-zA-Z][a-zA-Z ']{0,60} (?:is|are|equals) (?=[-+]?[\d\\.(])",
        "",
        (" is ", " are ", " equals "),
    ),
    Rule(
        "the empty set",
        r"\{\}",
        r"\emptyset",
        r"\\\{\s?\\\}",
        r"\\emptyset",
        (r"\{",),
    ),
    Rule(
        "no solution",
        "No real solutions",
        r"\emptyset",
        rf"(?i)^\s?(?:{NO_SOLUTION})\s?$",
        r"\\emptyset",
    ),
    Rule(
        "all real numbers",
        r"all real numbers",
        r"\mathbb{R}",
        r"(?i)^\s?(?:all|any) reals?(?: numbers?)?\s?$",
        r"\\mathbb{R}",
        ("eal",),
    ),
    Rule(
        "the letter of the real numbers",
        r"\mathbb R, \R",
        r"\mathbb{R}, \mathbb{R}",
        r"\\(?:mathbb R|mathbf\{R\}|R|reals|Reals)(?![a-zA-Z])",
        r"\\mathbb{R}",
        (r"\m", r"\R", r"\r"),
    ),
    Rule(
        "conditions that hold together",
        "x > 2 and x < 5",
        r"x > 2 \land x < 5",
        r"\s?,?\s?(?<![a-zA-Z\\])(?:and(?![a-zA-Z])|且)\s?(?=[^,]{0,40}(?:[<>]|\\[lgn]e))",
        r" \\land ",
        ("and", "且"),
    ),
    Rule(
        "lists in words",
        "1, 2 and 3, 或",
        "1, 2, 3, ",
        r"\s?,?\s?(?:(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|[或和与及])\s?",
        ", ",
        ("and", "or", "或", "和", "与", "及"),
    ),
]
COMPILED_RULES = [(re.compile(rule.pattern), rule.new, rule.cues) for rule in RULES]

# ---- An answer in normal form ------------------------------------------------------------------

BLANKS = re.compile(r"\s\s+")
NAMES_OF_LETTERS = sorted(LETTERS, key=len, reverse=True)
GLUED = re.compile(r"\\(" + "|".join(NAMES_OF_LETTERS) + r")([a-zA-Z]+)")  # \lambdakT
THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)")  # 1,234,567
BRACKET = re.compile(r"[(\[]|\\\{")
QUOTED = re.compile(r"([*`\"]{1,3})(.*)\1", re.DOTALL)


def _holds_one(text, cues):
    # A loop is twice as fast as any(...), and most of the time is spent here.
    for cue in cues:
        if cue in text:
            return True
    return False


def normal_form(text, thousands=True):
    """An answer in one spelling. thousands=False reads 1,234 as two numbers."""
    text = " ".join(plain_characters(text[:LONGEST_ANSWER]).split())
    text = text.rstrip(" $") if text.endswith("...") else text.rstrip(" .$")
    if quoted := QUOTED.fullmatch(text):
        text = quoted[2].strip(" .")
    for pattern, new, cues in COMPILED_RULES:
        if cues and not _holds_one(text, cues):
            continue
        text = pattern.sub(new, text)
        if "  " in text:
            text = BLANKS.sub(" ", text)
    text = GLUED.sub(r"\\\1 \2", text)
    # In brackets a comma separates.
    if thousands and "," in text and not BRACKET.search(text):
        text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return text
