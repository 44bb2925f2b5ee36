"""What a tokenizer's chat template writes by itself, found out once.

    DeepSeek-R1     ... <Assistant><think>\\n          opens the thinking
    Qwen3, without  ... assistant\\n<think>\\n\\n</think>\\n\\n   closes an empty thinking
    Qwen2.5         writes a system prompt where none is given
    Llama 3.2       writes today's date

Training and sampling read the same `Template`, so that both see the same ids. A template that
raises, drops the question, or does not end is refused.
"""

import contextlib
import datetime
import re
import signal
import sys
import threading
import time
import weakref
from dataclasses import dataclass

from engine.rows import BadInput

THINK_OPEN, THINK_END = "<think>", "</think>"

# Templates take this for today, so that a run is the same on every day. --date changes it.
DATE = "2025-01-01"

# A template has this much time for a prompt, and may write this many characters for a short one.
SECONDS = 5
LONGEST = 1_000_000


@dataclass(frozen=True)
class Template:
    bos: str = ""  # the beginning of sequence, if the tokenizer adds one itself
    opening: str = ""  # the beginning of thinking with which the generation prompt ends
    closes_empty: bool = False  # the generation prompt ends with an empty thinking
    has_default_system: bool = False  # a system prompt is written where none is given
    has_date: bool = False
    date: str = DATE
    special_in_text: bool = False

    def describe(self):
        """One line on what the template writes by itself; empty if that is nothing unusual."""
        parts = []
        if self.has_default_system:
            parts.append("writes a system prompt where none is given (--system replaces it)")
        if self.opening:
            parts.append(f"opens the thinking with {self.opening!r}")
        if self.closes_empty:
            parts.append("closes an empty thinking, which formats that think leave out")
        if self.has_date:
            parts.append(f"writes a date, which is {self.date} (--date)")
        return f"chat template: {'; '.join(parts)}" if parts else ""


# {tokenizer: {(its chat template, other arguments): Template}}
_found = weakref.WeakKeyDictionary()


def look_at(tokenizer, is_chat, date=DATE, special_in_text=False):
    """Find out what the tokenizer and its chat template write -> Template. Raises BadInput.

    is_chat: whether the format uses the chat template.
    """
    known = _found.setdefault(tokenizer, {})
    key = (tokenizer.chat_template if is_chat else None, is_chat, date, special_in_text)
    key = (str(key), tokenizer.bos_token, tokenizer.eos_token)
    if key not in known:
        bos = bos_of(tokenizer)
        known[key] = Template(bos, date=date, special_in_text=special_in_text)
        if is_chat:
            known[key] = look_at_chat(tokenizer, known[key])
    return known[key]


def bos_of(tokenizer):
    """The beginning-of-sequence token if the tokenizer puts it before a text by itself, else ''."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return ""
    return tokenizer.bos_token if tokenizer.encode("a")[:1] == [bos] else ""


def look_at_chat(tokenizer, known):
    """Try the chat template with short questions -> Template. Raises BadInput."""
    try:
        day = datetime.date.fromisoformat(known.date)
    except ValueError as error:
        raise BadInput(f"--date {known.date}: not a day like {DATE}") from error
    text, other = (
        render(tokenizer, [{"role": "user", "content": word}], known.date)
        for word in ("first question", "second thing")
    )
    if text == other:
        raise BadInput("the tokenizer's chat template drops the question")
    if len(text) > LONGEST:
        raise BadInput(f"the tokenizer's chat template writes {len(text)} characters for a word")
    later = str(day.replace(year=day.year + 1))
    tail = thinking_at_end(text)
    return Template(
        bos=known.bos,
        opening="" if THINK_END in tail else tail,
        closes_empty=THINK_END in tail,
        has_default_system=writes_system(tokenizer, text, known.date),
        has_date=render(tokenizer, [{"role": "user", "content": "first question"}], later) != text,
        date=known.date,
        special_in_text=known.special_in_text,
    )


def writes_system(tokenizer, text, date):
    """Whether `text`, of the first question alone, has more than the same with an empty system."""
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "first question"},
    ]
    try:
        return len(render(tokenizer, messages, date)) < len(text)
    except BadInput:  # no system role at all
        return False


def render(tokenizer, messages, date=DATE, prompts=True):
    """The messages as the chat template writes them. Raises BadInput if it refuses or hangs.

    prompts: the text ends where the assistant begins to speak.
    """
    source = tokenizer.get_chat_template()
    if "strftime_now" in source:
        source = with_date(source, datetime.date.fromisoformat(date))
    try:
        with time_limit(SECONDS):
            return tokenizer.apply_chat_template(
                messages,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=prompts,
            )
    except TimeoutError as error:
        raise BadInput(
            f"the tokenizer's chat template did not end within {SECONDS} seconds"
        ) from error
    except Exception as error:  # a template raises anything, jinja2's errors among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BadInput(f"the tokenizer's chat template refuses the messages ({reason})") from error


def with_date(source, day):
    """A template's source with the calls of strftime_now replaced by a day. Raises BadInput."""
    call = r"""strftime_now\s*\(\s*("[^"]*"|'[^']*')\s*\)"""

    def written(found):
        quote, form = found[1][0], found[1][1:-1]
        return quote + day.strftime(form) + quote

    fixed = re.sub(call, written, source)
    if re.search(r"strftime_now\s*\(", fixed):
        raise BadInput(
            "the tokenizer's chat template writes a date in a way that --date cannot fix"
        )
    return fixed


@contextlib.contextmanager
def time_limit(seconds):
    """Raise TimeoutError after so many seconds."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(signal, "setitimer"):
        with traced_limit(seconds):
            yield
        return

    def end(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def traced_limit(seconds):
    """The same in a thread or on Windows, where no signal can end a loop.

    Every line of the functions called inside looks at the clock, which makes them slower.
    """
    end = time.monotonic() + seconds

    def look(frame, event, argument):
        if time.monotonic() > end:
            raise TimeoutError
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def thinking_at_end(text):
    """The opened thinking, or the empty one, with which a generation prompt ends; '' if none."""
    found = re.search(r"<think>\s*(</think>\s*)?\Z", text)
    return found[0] if found else ""


def without_thinking(text):
    """A generation prompt without the thinking that it opens or closes itself."""
    return text.removesuffix(thinking_at_end(text))


# ---- special tokens that a text names

# Private characters around the number of a special string, in a text that a template rewrites.
MARK = "\ue010{}\ue011"


def special_texts(tokenizer):
    """The strings of the tokenizer's special tokens and the tags of thinking, longest first."""
    known = _found.setdefault(tokenizer, {})
    key = ("special", len(tokenizer))
    if key not in known:
        added = tokenizer.added_tokens_decoder.values()
        texts = {token.content for token in added if token.special}
        added_texts = {token.content for token in added}
        texts |= {tag for tag in (THINK_OPEN, THINK_END) if tag in added_texts}
        known[key] = tuple(sorted(texts, key=lambda text: (-len(text), text)))
    return known[key]


def mark(texts, special):
    """Texts with every special string replaced by its mark; None if no text holds one.

    Raises BadInput for a text that beside one holds a character of the marks.
    """
    if not any(word in text for text in texts for word in special):
        return None
    for sign in (MARK[0], MARK[-1]):
        if any(sign in text for text in texts):
            raise BadInput(f"special tokens as text beside the private character U+{ord(sign):X}")
    marked = []
    for text in texts:
        for number, word in enumerate(special):
            text = text.replace(word, MARK.format(number))
        marked.append(text)
    return marked


def encode_marked(tokenizer, text, special):
    """Token ids of a marked text; a marked string is encoded as the characters that it has."""
    ids = []
    for place, piece in enumerate(re.split("\ue010(\\d+)\ue011", text)):
        if place % 2 == 0:
            ids += tokenizer.encode(piece, add_special_tokens=False) if piece else []
        else:
            # Halves of the string are no special token.
            word = special[int(piece)]
            for half in (word[:1], word[1:]):
                ids += tokenizer.encode(half, add_special_tokens=False) if half else []
    return ids
