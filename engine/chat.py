"""A chat in the terminal: questions, answers, and commands that change a setting."""

import dataclasses
import sys
import time

from engine.format import FORMATS
from engine.rows import BadInput, is_text

# settings that a command can change, and the type of their values
KINDS = {
    "format": str,
    "system": str,
    "thinking_budget": int,
    "waits": int,
    "wait": str,
    "min_thinking": int,
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "seed": int,
    "ask": str,
}

HELP = f"""\
/format NAME    the text of a reasoning model: {", ".join(FORMATS)}
/system TEXT    the system prompt; without a text none
/budget N       tokens of thinking, then the answer is forced; none: no limit
/waits N        ends of thinking that become "Wait" (/wait TEXT: another word)
/NAME VALUE     {", ".join(name for name in KINDS if name not in ("format", "system"))}
/new            forget the conversation
/quit           end, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(cfg, check, answer):
    """Answer what is typed until the input ends.

    check(cfg): raises BadInput for settings that do not go together. answer(cfg, problem, history):
    prints the answer to a question and returns its completion row.
    """
    history, n_asked = [], 0
    print("Type a question. /help lists the commands, /quit ends.")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        try:
            if line == "/quit":
                return
            elif line == "/help":
                print(HELP)
            elif line == "/new":
                history = []
            elif line.startswith("/"):
                changed = changed_setting(cfg, line)
                check(changed)
                cfg = changed
            elif line:
                problem = {"id": f"typed {n_asked}", "question": checked(line)}
                n_asked += 1
                began = time.perf_counter()
                row = answer(cfg, problem, history)
                print("\n" + measured(row, time.perf_counter() - began))
                history = [
                    *history,
                    {"role": "user", "content": line},
                    {"role": "assistant", "content": row["response"]},
                ]
        except (BadInput, ValueError) as error:
            print(error)
        except KeyboardInterrupt:
            print("\n[stopped; the question is forgotten]")


def checked(text):
    """The text that was typed. Raises BadInput for one that a tokenizer cannot take."""
    if not is_text(text):
        raise BadInput("what was typed is not UTF-8")
    return text


def measured(row, seconds):
    """A line on the length and the speed of an answer; the model's reading of the prompt counts."""
    parts = [f"{row['n_tokens']} tokens"]
    if row["n_thinking_tokens"]:
        parts.append(f"{row['n_thinking_tokens']} of them thinking")
    if row["finish"] == "length":
        parts.append("cut by /max_tokens")
    if row["finish"] == "nan":
        parts.append("ended by logits that are not finite")
    return f"[{', '.join(parts)}, {row['n_tokens'] / max(seconds, 1e-9):.1f} tokens/s]"


def changed_setting(cfg, line):
    """Return the settings after a command like "/waits 2". Raises BadInput."""
    name, _, text = line[1:].partition(" ")
    name, text = name.replace("-", "_"), checked(text.strip())
    if name == "budget":
        name = "thinking_budget"
    if name not in KINDS:
        raise BadInput(f"/{name}: not a command; /help lists them")
    if name == "thinking_budget" and text in ("", "none"):
        value = None
    elif name == "format" and text not in FORMATS:
        raise BadInput(f"/format {text}: not one of {', '.join(FORMATS)}")
    else:
        try:
            value = KINDS[name](text)
        except ValueError:
            raise BadInput(f"/{name} {text}: not a number") from None
    return dataclasses.replace(cfg, **{name: value})


class Display:
    """Print an answer as it grows, thinking dimmed in a terminal."""

    def __init__(self, tokenizer, form, stops):
        """form: of the text, fitted. stops: ids that are not shown."""
        self.tokenizer = tokenizer
        self.form = form
        self.stops = stops
        self.n_shown = 0  # characters
        self.n_ids = 0
        self.dim, self.plain = ("\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "")

    def __call__(self, state, n):
        """Print what the newest token added. state: of the decoder, with one sequence."""
        # The beginning of an end of thinking may yet be replaced by "Wait".
        n_ids = int(state["n"][0]) - int(state["n_match"][0])
        ids = state["ids"][0, :n_ids].tolist()
        if n_ids < self.n_ids:
            print("\n[over the budget; another try]")
            self.n_shown = 0
        self.n_ids = n_ids
        if ids and ids[-1] in self.stops:
            ids = ids[:-1]
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):  # half a character
            return
        answer = max(self.n_shown, self.answer_begins(text))
        thinking, response = text[self.n_shown : answer], text[answer:]
        print(self.dim + thinking + self.plain + response, end="", flush=True)
        self.n_shown = len(text)

    def answer_begins(self, text):
        """Return the place in the text behind its end of thinking."""
        if not self.form.end:
            return 0
        end = self.form.end
        return text.find(end) + len(end) if end in text else len(text)
