"""A chat in the terminal: questions, answers, and commands that change a setting."""

import dataclasses
import sys

from engine.rows import BadInput

# settings that a command can change, and the type of their values
KINDS = {
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


def chat(cfg, check, answer, tokenizer, form, stops):
    """Answer what is typed until the input ends.

    /NAME VALUE changes a setting, /new forgets the conversation. check(cfg): raises BadInput for
    settings that do not go together. answer(cfg, problem, history, watch): returns a completion
    row; watch(state, n) sees the decoder's state after every step. stops: ids that are not shown.
    """
    history, n_asked = [], 0
    print(
        "Type a question; /thinking_budget N, /waits N and the like change a setting, "
        "/new begins anew, Ctrl-D ends."
    )
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        try:
            if line == "/new":
                history = []
            elif line.startswith("/"):
                changed = changed_setting(cfg, line)
                check(changed)
                cfg = changed
            elif line:
                problem = {"id": f"typed {n_asked}", "question": line}
                n_asked += 1
                row = answer(cfg, problem, history, Display(tokenizer, form, stops))
                print()
                history = [
                    *history,
                    {"role": "user", "content": line},
                    {"role": "assistant", "content": row["response"]},
                ]
        except (BadInput, ValueError) as error:
            print(error)


def changed_setting(cfg, line):
    """Return the settings after a command like "/waits 2". Raises BadInput or ValueError."""
    name, _, text = line[1:].partition(" ")
    name = name.replace("-", "_")
    if name == "budget":
        name = "thinking_budget"
    if name not in KINDS:
        raise BadInput(f"/{name}: not one of {', '.join(KINDS)}, new")
    if name == "thinking_budget" and text in ("", "none"):
        value = None
    else:
        value = KINDS[name](text)
    return dataclasses.replace(cfg, **{name: value})


class Display:
    """Print an answer as it grows, thinking dimmed in a terminal."""

    def __init__(self, tokenizer, form, stops):
        self.tokenizer = tokenizer
        self.form = form
        self.stops = stops
        self.n_shown = 0  # characters
        self.dim, self.plain = ("\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "")

    def __call__(self, state, n):
        """Print what the newest token added. state: of the decoder, with one sequence."""
        ids = state["ids"][0, : int(state["n"][0])].tolist()
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
