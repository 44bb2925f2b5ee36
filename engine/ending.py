"""The end of thinking as a text, for tokenizers without a token for it.

Most tokenizers write </think> as several tokens, and not always as the same ones: the last may be
">" or ">\n\n". So the decoder follows the characters: an automaton (Knuth, Morris and Pratt 1977)
whose state is how many characters of the end the text now ends with. A table has the next state
for every state and token, so that a step of decoding looks up one cell.
"""

from typing import NamedTuple

import torch

from engine.rows import BadInput


class EndWatch(NamedTuple):
    """Tables over the vocabulary. State m of 0 ... m means that the whole end was seen."""

    text: str  # m characters
    following: torch.Tensor  # (m, V) int64: the state after a token
    begins: torch.Tensor  # (m, V) bool: the characters now matched begin inside this token
    first_id: int  # with this token the tokenizer itself begins the end

    @property
    def full(self):
        return len(self.text)


def watch_end(tokenizer, form, n_tokens):
    """Make the tables of a format's end -> EndWatch; None if a single token announces the end.

    n_tokens: the size of the vocabulary that is sampled from. Raises BadInput.
    """
    form = form.fit(tokenizer)
    if not form.end or form.end_id(tokenizer) is not None or not form.is_spelled(tokenizer):
        return None
    end = form.end
    if end[0] in end[1:]:  # then a match could fall back to one that began in an earlier token
        raise BadInput(f"--format {form.name}: its end of thinking repeats its first character")
    pieces = token_texts(tokenizer, n_tokens)

    afresh = torch.zeros(n_tokens, dtype=torch.int64)
    for token, piece in enumerate(pieces):
        if end[0] in piece:
            afresh[token] = longest_match(piece, end)
    following = afresh.repeat(len(end), 1)
    begins = torch.ones_like(following, dtype=torch.bool)
    by_first = {}
    for token, piece in enumerate(pieces):
        by_first.setdefault(piece[:1], []).append(token)
    for state in range(1, len(end)):
        left = end[state:]
        for token in by_first.get(left[0], ()):
            piece = pieces[token]
            if piece.startswith(left):
                following[state, token] = len(end)
                begins[state, token] = False
            elif left.startswith(piece):
                following[state, token] = state + len(piece)
                begins[state, token] = False
        # A token without characters changes nothing.
        for token in by_first.get("", ()):
            following[state, token] = state
            begins[state, token] = False
    first_id = tokenizer.encode(end, add_special_tokens=False)[0]
    return EndWatch(end, following, begins, first_id)


def token_texts(tokenizer, n_tokens):
    """The characters that each token adds to a text."""
    # Behind another token: the first of a text may lose its space.
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode([anchor], **options))
    pairs = [[anchor, token] for token in range(n_tokens)]
    return [text[before:] for text in tokenizer.batch_decode(pairs, **options)]


def longest_match(text, end):
    """How many characters of `end` the text ends with; all of them if it holds them anywhere."""
    if end in text:
        return len(end)
    for n in range(min(len(text), len(end) - 1), 0, -1):
        if text.endswith(end[:n]):
            return n
    return 0


class Follower:
    """The end of thinking of one sequence, token by token, as the batched decoder follows it."""

    def __init__(self, watch):
        """watch: EndWatch, or None where a single token ends thinking."""
        self.watch = watch
        self.forget()

    def forget(self):
        """Begin anew."""
        self.state = 0
        self.n_tokens = 0  # written tokens that the characters matched so far belong to

    def is_completed_by(self, token):
        """Whether this token completes the end."""
        if self.watch is None or self.watch.following[self.state, token] < self.watch.full:
            return False
        if self.watch.begins[self.state, token]:
            self.n_tokens = 0
        return True

    def follow(self, token, is_own):
        """Follow a written token. is_own: it is thinking that the model wrote; else begin anew."""
        if self.watch is None:
            return
        if not is_own:
            self.forget()
            return
        begins = self.watch.begins[self.state, token]
        self.state = int(self.watch.following[self.state, token])
        self.n_tokens = 1 if begins else self.n_tokens + 1
        if self.state in (0, self.watch.full):
            self.forget()
