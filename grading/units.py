"""Units behind a number: which words are units, and when two units differ.

A unit may be left out or added, so that 18 dollars is 18. Two known units that differ make two
answers differ: 30 hours is not 30 minutes. Words that change a number are no units.
"""

import re

from grading.spelling import LETTERS

# canonical name -> its spellings
UNITS = {
    "m": "meter metre 米",
    "km": "kilometer kilometre km 千米 公里",
    "cm": "centimeter centimetre cm 厘米",
    "mm": "millimeter millimetre mm 毫米",
    "nm": "nanometer nm",
    "in": "inch inche in",
    "ft": "foot feet ft",
    "yd": "yard yd",
    "mi": "mile mi",
    "g": "gram 克",
    "kg": "kilogram kg 千克 公斤",
    "mg": "milligram mg",
    "lb": "pound lb",
    "oz": "ounce oz",
    "t": "ton tonne 吨",
    "s": "second sec 秒",
    "ms": "millisecond ms",
    "ns": "nanosecond ns",
    "min": "minute min 分钟",
    "h": "hour hr 小时",
    "d": "day 天",
    "week": "week 周",
    "month": "month 月",
    "y": "year yr 年",
    "l": "liter litre 升",
    "ml": "milliliter millilitre ml 毫升",
    "gal": "gallon gal",
    "dollar": "dollar buck 美元",
    "cent": "cent",
    "euro": "euro 欧元",
    "yuan": "yuan 元",
    "degree": "degree deg 度",
    "celsius": "celsius",
    "fahrenheit": "fahrenheit",
    "rad": "radian rad",
    "N": "newton kN",
    "J": "joule kJ eV keV MeV",
    "W": "watt kW mW",
    "V": "volt kV mV",
    "A": "ampere amp",
    "K": "kelvin",
    "Hz": "hertz Hz",
    "kHz": "kHz",
    "MHz": "MHz",
    "Pa": "pascal Pa",
    "kPa": "kPa",
    "mol": "mole mol",
    "other": "pc AU kmh mph kph",
}
CANONICAL = {name: unit for unit, names in UNITS.items() for name in names.split()}

# Number words, operators and connectives change what is before them.
NO_UNITS = set(
    """half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh
    sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths
    squared cubed doubled tripled halved plus minus over factorial percent percentage million
    billion trillion thousand hundred dozen dozens or and not if when but mod modulo choose base
    to than then else where unless either neither nor negative""".split()
)
NO_UNITS |= {name.lower() for name in LETTERS}
SYMBOLS = "|".join(
    sorted((re.escape(name) for name in CANONICAL if name.isascii()), key=len, reverse=True)
)
POWER = r"\s?\^\s?\{?\s?-?[123]\s?\}?"
# "cm^2", "apples", "of"
WORD = rf"(?:(?:{SYMBOLS})s?(?![a-zA-Z])|[a-zA-Z]{{3,20}}|of|in|per|sq|cu|a|an)\.?(?:{POWER})?"
UNITS_BEHIND = (
    # known units, glued or not: "5cm^2", "5 km/h"
    rf"\s?(?:{SYMBOLS})s?(?![a-zA-Z])(?:{POWER})?(?:\s?/\s?{WORD})?",
    # "3 m/s", where the letters alone could be names
    rf"\s(?:{SYMBOLS}|[mgJNWk])(?:{POWER})?\s?/\s?(?:{SYMBOLS}|[smhgLKN])(?![a-zA-Z])(?:{POWER})?",
    # any words: "5 apples of each kind"
    rf"(?:\s{WORD}(?:\s?[/*]\s?{WORD})?)+",
    # a glued word, "5apples", and Chinese
    r"[a-zA-Z]{4,20}",
    "\\s?[\u4e00-\u9fff]{1,6}",
)
UNIT = re.compile(rf"(?:(?<=[\d)}}])|(?<=pi))(?P<unit>{'|'.join(UNITS_BEHIND)})\.?\s?$")
NUMBER = re.compile(r"[-+]?[\d.,(*{^})]+")
LETTER_UNIT = re.compile(rf"(.*[\d}})])\s((?:[mgsNJWVAKLChF]|\\Omega)(?:{POWER})?)\s?$")
MODULO = re.compile(r"\s?(?:\\pmod\s?\{?\s?([\w^]+)\s?\}?|\(\s?\\?mod\s([\w^]+)\s?\))\s?$")


def split_unit(text):
    r"""'15 cm^2' -> ('15', 'cm^2'); ('2 thirds', '') where the words are no unit.

    text: one part of an answer in normal form.
    """
    if text[-1:].isdigit() and "^" not in text[-5:]:
        if "mod" not in text:
            return text, ""
    if "mod" in text and (found := MODULO.search(text)):
        return text[: found.start()], f"mod {found[1] or found[2]}"
    found = UNIT.search(text)
    if not found:
        return text, ""
    number, unit = text[: found.start()], found["unit"].strip()
    words = re.findall("[a-zA-Z]+|[\u4e00-\u9fff]+", unit)
    if NO_UNITS & {word.lower() for word in words}:
        return text, ""
    is_glued_word = unit[0].isalpha() and not text[found.start()].isspace()
    if is_glued_word and unit.isascii() and not _canonical_word(words[0]):
        if not NUMBER.fullmatch(number):  # a name in a formula, not 12apples
            return text, ""
    return number, unit


def units_differ(one, other):
    """Are both units known, and not the same? Words that are not in the table say nothing."""
    one, other = canonical_unit(one), canonical_unit(other)
    return bool(one and other and one != other)


def canonical_unit(unit):
    """'square meters per second' -> 'm^2/s'; "" if a word is not known."""
    if unit.startswith("mod "):
        return unit
    unit = re.sub(r"[\s{}.]+", " ", unit.replace("*", " "))
    unit = re.sub(r"\b(?:square|sq) ([a-zA-Z]+)", r"\1^2", unit)
    unit = re.sub(r"\b(?:cubic|cu) ([a-zA-Z]+)", r"\1^3", unit)
    unit = re.sub(r"\s?\bper\b\s?|\s?/\s?", " /", unit).replace("degrees celsius", "celsius")
    factors = []
    for sign, word, power in re.findall(r"(/?)([a-zA-Z\u4e00-\u9fff]+)(?: ?\^ ?(\d))?", unit):
        name = _canonical_word(word)
        if not name:
            return ""
        factors.append(sign + name + (f"^{power}" if power else ""))
    return " ".join(factors)


def _canonical_word(word):
    """meters, Meter, 米 -> m; '' for other words."""
    for spelling in (word, word.lower(), word.lower().removesuffix("s")):
        if spelling in CANONICAL:
            return CANONICAL[spelling]
    return word if len(word) == 1 else ""


def split_letter_unit(text):
    """'5 N' -> ('5', 'N'); (text, '') if no one-letter unit behind a space ends the text.

    Such a letter may also be a name, so this is only asked where the other answer is a number.
    """
    found = LETTER_UNIT.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")
