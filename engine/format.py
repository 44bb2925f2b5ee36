"""The text of a reasoning model, defined once for all stages.

Curation writes it, sft.py masks by it, generate.py forces budgets with it, evaluate.py reads
answers out of it.

    prompt | open thinking end response eos
    masked | trained ----------------------

s1        <|im_start|>think ... <|im_start|>answer ... (s1, §D); the delimiters are made of tokens
          that Qwen has already
s1-steps  s1's step-conditional control (§E.1): the thinking is
          <|im_start|>K steps left ... <|im_start|>K-1 steps left ...
think     <think> ... </think> ...: R1 distillations, Qwen3, and the tiny world
r1        <think> ... </think> <answer> ... </answer> in a template instead of a chat
          (DeepSeek-R1-Zero, Table 1)
plain     the chat template alone; any reasoning is part of the response

A chat template may write a part of this by itself: engine/template.py finds out which.
"""

import dataclasses
from dataclasses import dataclass

from engine import template
from engine.rows import BadInput, is_message
from engine.template import DATE

R1_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. User: {question}. Assistant:"
)


@dataclass(frozen=True)
class Format:
    name: str
    open: str = ""  # begins thinking; the decoder appends it to the prompt
    before: str = ""  # between `open` and the thinking
    after: str = ""  # between the thinking and `end`
    end: str = ""  # ends thinking; the decoder watches for its first token
    between: str = ""  # between `end` and the response
    close: str = ""  # after the response, before the end-of-sequence token
    cue: str = ""  # written after `end` when the answer is forced
    prompt: str | None = None  # a template with {question}; None: the tokenizer's chat template
    has_steps: bool = False  # each step of the thinking begins with the first token of `end`

    fitted: template.Template | None = None  # what the tokenizer writes itself, see `fit`

    # The pieces of a text are encoded one by one, in training as in use. Encoding the joined text
    # can give other ids at the borders: ">" + "\n" is one token of Qwen's. The model would then be
    # trained on ids that it never meets.

    def fit(self, tokenizer, date=DATE, special_in_text=False):
        """The format as it is written with this tokenizer's template -> Format.

        A template that opens the thinking keeps its own opening, which the prompt then ends with;
        `plain` on such a template is split at the end of thinking. A template that closes an empty
        thinking loses it in formats that think. A format that was fitted comes back as it is.

        date: what the template takes for today. special_in_text: special tokens in a row's texts
        stay special. Raises BadInput for a template that cannot be used.
        """
        if self.fitted is not None:
            return self
        if self.prompt is None and not tokenizer.chat_template:
            raise BadInput(
                f"the tokenizer has no chat template, which format '{self.name}' needs; "
                "--format r1 needs none"
            )
        found = template.look_at(tokenizer, self.prompt is None, date, special_in_text)
        form = self
        if found.opening and not self.end:
            form = dataclasses.replace(FORMATS["think"], name=self.name)
        if found.opening and form.end == THINK_END:
            form = dataclasses.replace(form, open="", before="")
        else:
            found = dataclasses.replace(found, opening="")
        return dataclasses.replace(form, fitted=found)

    def prompt_text(self, tokenizer, question, history=()):
        """Everything before `open`. history: the messages before this question."""
        form = self.fit(tokenizer)
        if form.prompt is not None:
            if any(message["role"] != "system" for message in history):
                raise BadInput(f"format '{form.name}' has no place for earlier turns")
            parts = [message["content"] for message in history] + [question]
            return form.fitted.bos + form.prompt.replace("{question}", "\n\n".join(parts))
        messages = [*history, {"role": "user", "content": question}]
        return form.chat_text(tokenizer, messages)

    def chat_text(self, tokenizer, messages):
        """The messages in the chat template, up to where `open` follows. For a fitted format."""
        text = template.render(tokenizer, messages, self.fitted.date)
        if self.end:
            text = template.without_thinking(text) + self.fitted.opening
        bos = self.fitted.bos
        return text if text.startswith(bos) else bos + text

    def prompt_ids(self, tokenizer, question, history=()):
        """Token ids that the decoder starts from: the prompt and `open`."""
        form = self.fit(tokenizer)
        return form.text_ids(tokenizer, question, history) + encode(tokenizer, form.open)

    def row_prompt_ids(self, tokenizer, row):
        """prompt_ids of a row, with its own history and requests. BadInput names the row."""
        history = row.get("history") or []
        try:
            check_history(history)
            ids = self.prompt_ids(tokenizer, asked(row), history)
            check_numbers(tokenizer, row)
            return ids
        except BadInput as error:
            raise BadInput(f"row '{row.get('id')}': {error}") from error

    def text_ids(self, tokenizer, question, history):
        """Token ids of prompt_text. Special tokens that a message names are encoded as text."""
        special = self.special_texts(tokenizer)
        marked = template.mark([question, *(m["content"] for m in history)], special)
        if marked is None:
            return encode(tokenizer, self.prompt_text(tokenizer, question, history))
        messages = [m | {"content": text} for m, text in zip(history, marked[1:])]
        text = self.prompt_text(tokenizer, marked[0], messages)
        return template.encode_marked(tokenizer, text, special)

    def special_texts(self, tokenizer):
        """Strings that are no special tokens when they are found inside a row's text."""
        if self.fitted is None or self.fitted.special_in_text:
            return ()
        return template.special_texts(tokenizer)

    def training_ids(self, tokenizer, row, turns=1):
        """A trace row -> (ids, trained): token ids and, for each, whether the loss counts it.

        The prompt is not trained. Everything after it is, the end-of-sequence token included:
        without it the model never learns to stop. The border is known because the pieces are
        encoded one by one; nothing searches the text for a template. The row is tidied first.
        Special tokens that the row's texts name stay text (special_texts, encode_text), but for the
        tags of thinking, which are tidied, and in formats with steps, whose headers are in the row.

        turns: how many of the assistant's turns are trained. The completion is the last of them,
        the others are in row["history"].
        """
        form = self.fit(tokenizer)
        history, question = row.get("history") or [], asked(row)
        prompt = form.text_ids(tokenizer, question, history)
        prompt_trained = [False] * len(prompt)
        if turns > 1:
            text = form.prompt_text(tokenizer, question, history)
            prompt_trained = form.trained_in_history(tokenizer, text, history, turns - 1)
            if len(prompt_trained) != len(prompt):
                raise BadInput("--turns: a message holds a special token of the tokenizer")

        completion = []
        # In formats that think no tag is left here; in the others it is the row's own.
        tags = (THINK_OPEN, THINK_END)
        own = [text for text in form.special_texts(tokenizer) if text not in tags]
        if form.has_steps:
            own = []
        for piece in form.completion_pieces(form.tidy(row, tokenizer)):
            # The format's own delimiters are special tokens; those of the row's texts are not.
            is_own = piece in (form.open, form.end)
            completion += encode(tokenizer, piece) if is_own else encode_text(tokenizer, piece, own)
        completion.append(tokenizer.eos_token_id)
        return prompt + completion, prompt_trained + [True] * len(completion)

    def trained_in_history(self, tokenizer, text, history, turns):
        """For each token of the prompt `text`: is it part of one of the last `turns` answers?"""
        answers = [k for k, message in enumerate(history) if message["role"] == "assistant"]
        spans = [answer_span(self, tokenizer, text, history, k) for k in answers[-turns:]]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        trained = []
        for first, last in encoded["offset_mapping"]:
            # A token of no characters (first == last) is not part of an answer.
            inside = any(start <= first < last <= end for start, end in spans)
            trained.append(inside)
        return trained

    def tidy(self, row, tokenizer):
        """The row with thinking and response free of the format's own tags -> dict.

        A thinking inside the response is split off; an end-of-sequence token behind the response
        and tags around the thinking are dropped, because the format writes them itself.
        Raises BadInput for tags elsewhere: they would be trained twice.
        """
        thinking = (row.get("thinking") or "").strip()
        response = row["response"].strip()
        if tokenizer.eos_token:
            while response.endswith(tokenizer.eos_token):
                response = response.removesuffix(tokenizer.eos_token).rstrip()
        if self.end:
            thinking, response = split_thinking(thinking, response, self)
        return row | {"thinking": thinking, "response": response}

    def completion_pieces(self, row):
        """The completion of a trace row as the strings that are encoded one after the other."""
        thinking = (row.get("thinking") or "").strip()
        response = row["response"].strip()
        if not self.end:
            return [f"{thinking}\n\n{response}" if thinking else response]
        if self.name == "s1" and "Answer:" not in response:  # as s1's tokenization.py does
            response = "Answer: " + response
        return [
            self.open,
            self.before + thinking + self.after,
            self.end,
            self.between + response + self.close,
        ]

    def split(self, text):
        """Generated text, which begins after `open` -> (thinking, response).

        Text without an end of thinking is all thinking: an unfinished completion has no response.
        """
        if not self.end:
            return "", text.strip()
        thinking, found, response = text.partition(self.end)
        if not found:
            return thinking.strip(), ""
        response = response.strip()
        if self.close:
            response = response.removesuffix(self.close.strip())
            response = response.removeprefix(self.between.strip())
        return thinking.strip(), response.strip()

    def check(self, tokenizer):
        """Raise BadInput if the tokenizer lacks the format's delimiters.

        The delimiters of a template (r1) are ordinary text and need no tokens of their own.
        """
        form = self.fit(tokenizer)
        if not form.end or form.prompt is not None or form.end_id(tokenizer) is not None:
            return
        if form.has_steps:
            raise BadInput(
                f"--format {form.name}: this tokenizer has no single token for the beginning of "
                f"'{form.end}', so the steps of thinking cannot be recognised"
            )
        if not form.is_spelled(tokenizer):
            raise BadInput(
                f"--format {form.name}: this tokenizer has no single token for the beginning of "
                f"'{form.end}' and cannot spell it, so the end of thinking cannot be recognised"
            )

    def is_spelled(self, tokenizer):
        """Whether the tokenizer can write the end of thinking, in however many tokens."""
        ids = encode(tokenizer, self.end)
        return bool(ids) and tokenizer.unk_token_id not in ids

    def end_id(self, tokenizer):
        """Id of the token that announces the end of thinking; None if there is no such token."""
        ids = encode(tokenizer, self.end)
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        special.discard(tokenizer.unk_token_id)
        return ids[0] if ids and ids[0] in special else None


def encode(tokenizer, text):
    """Token ids of one piece of text, nothing added in front or behind."""
    return tokenizer.encode(text, add_special_tokens=False) if text else []


def encode_text(tokenizer, text, special):
    """Token ids of a text in which the strings `special` are text, not special tokens."""
    marked = template.mark([text], special)
    if marked is None:
        return encode(tokenizer, text)
    return template.encode_marked(tokenizer, marked[0], special)


THINK_OPEN, THINK_END = template.THINK_OPEN, template.THINK_END


def split_thinking(thinking, response, form):
    """Take a format's tags off the texts of a row -> (thinking, response). Raises BadInput."""
    opens, ends = {form.open.strip()} - {""}, {form.end.strip()}
    if form.has_steps:  # the thinking holds this tag before each step
        opens = set()
    if THINK_END in ends or response.startswith(THINK_OPEN):
        opens, ends = opens | {THINK_OPEN}, ends | {THINK_END}
    for end in ends:
        before, found, after = response.partition(end)
        if found:
            if thinking and before.strip():
                raise BadInput(f"'{end}' in the response of a row that has its thinking apart")
            thinking, response = thinking or before, after
    for tag in opens:
        thinking = thinking.strip().removeprefix(tag)
        response = response.strip().removeprefix(tag)
    for tag in ends:
        thinking = thinking.strip().removesuffix(tag)
    if form.close:
        response = response.strip().removesuffix(form.close.strip())
        response = response.removeprefix(form.between.strip())
    thinking, response = thinking.strip(), response.strip()
    for tag in opens | ends:
        for name, text in (("thinking", thinking), ("response", response)):
            if tag in text:
                raise BadInput(f"'{tag}' inside the {name}: it would be trained twice")
    return thinking, response


def check_history(history):
    """Raise BadInput unless it is a list of messages, {"role": text, "content": text}."""
    if not isinstance(history, list) or not all(is_message(message) for message in history):
        raise BadInput("'history' is not a list of messages with role and content")


def with_system(rows, system):
    """Rows with the system prompt in their history; a row that has its own keeps it."""
    if not system:
        return rows
    message = {"role": "system", "content": system}
    found = []
    for row in rows:
        history = row.get("history") or []
        first = history[0] if isinstance(history, list) and history else {}
        has_own = isinstance(first, dict) and first.get("role") == "system"
        found.append(row if has_own else row | {"history": [message, *history]})
    return found


def answer_span(form, tokenizer, text, history, k):
    """Where in the prompt `text` message k, an answer, is -> (start, end), in characters.

    The answer begins after the chat template's generation prompt and ends with the end-of-sequence
    token, that token included. Raises BadInput if the template writes an earlier turn differently
    once later ones follow.
    """
    opened = template.render(tokenizer, history[:k], form.fitted.date)
    opened = template.without_thinking(opened)
    closed = template.render(tokenizer, history[: k + 1], form.fitted.date, prompts=False)
    if not opened.startswith(form.fitted.bos):
        opened, closed = form.fitted.bos + opened, form.fitted.bos + closed
    in_prompt = text.startswith(opened) and text.startswith(closed.rstrip())
    if not (in_prompt and closed.startswith(opened)):
        raise BadInput("--turns: the chat template changes earlier turns when later ones follow")
    eos = closed.rfind(tokenizer.eos_token)
    if eos >= len(opened):
        return len(opened), eos + len(tokenizer.eos_token)
    return len(opened), len(closed.rstrip())


FORMATS = {
    "s1": Format(
        "s1",
        open="<|im_start|>think",
        before="\n",
        after="\n",
        end="<|im_start|>answer",
        between="\n",
        cue="\nFinal Answer:",
    ),
    "s1-steps": Format(
        "s1-steps",
        open="<|im_start|>",
        after="\n",
        end="<|im_start|>answer",
        between="\n",
        cue="\nFinal Answer:",
        has_steps=True,
    ),
    "think": Format(
        "think", open="<think>", before="\n", after="\n", end="</think>", between="\n\n", cue="\n\n"
    ),
    "r1": Format(
        "r1",
        open=" <think>",
        before=" ",
        after=" ",
        end="</think>",
        between=" <answer> ",
        close=" </answer>",
        cue=" <answer>",
        prompt=R1_TEMPLATE,
    ),
    "plain": Format("plain"),
}

# Requests that end a question, or begin it (LEADING). With {}: takes a number.
ASK = {
    # The form of the answer, which grading looks for. A model of 135M parameters follows these
    # three, and hardly the two below (RESULTS.md).
    "number": '\n\nEnd with "The answer is \\boxed{{}}", with the number in the box.',
    "answer": '\n\nEnd with "The answer is \\boxed{{}}", with the answer in the box.',
    "choice": (
        '\n\nEnd with "The answer is \\boxed{{}}", with the letter of your choice in the box.'
    ),
    # in the words of Qwen2.5-Math and of papers
    "box": "\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
    "letter": (
        "\n\nPlease reason step by step, and put the letter of your choice within \\boxed{{}}."
    ),
    # how long to think
    # s1, §E.1: token-, step- and class-conditional
    "tokens": "\n\nThink for up to {} tokens.",
    "steps": "\n\nThink for up to {} steps.",
    "long": (
        "\n\nAnswer after a long amount of thinking. If you feel like you are finished early, "
        "spend the extra time trying to double-check your work until you are absolutely sure that "
        "you have the correct answer."
    ),
    "short": (
        "\n\nAnswer after a short amount of thinking. Do not spend excessive time double-checking "
        "your work."
    ),
    # L1 (2503.04697), §3
    "l1": (
        " Let's think step by step and output the final answer within \\boxed{{}}. "
        "Think for {} tokens."
    ),
    "l1-max": (
        " Let's think step by step and output the final answer within \\boxed{{}}. "
        "Think for maximum {} tokens."
    ),
    # the number alone, before the question: for a model too small to read a sentence
    "first": "{} ",
}


def ask(question, how):
    """The question with a request from ASK: `how` is NAME, or NAME:N for one that takes a number.

    Raises BadInput.
    """
    name, _, number = how.partition(":")
    if not is_request(name, number):
        known = [f"{k}:N" if takes_number(k) else k for k in ASK]
        raise BadInput(f"--ask {how}: not one of {', '.join(known)}")
    words = ASK[name].format(number)
    return words + question if name in LEADING else question + words


def asked(row):
    """The question of a row with the requests that its `asks` names. Raises BadInput."""
    asks = row.get("asks") or []
    if not isinstance(asks, list) or not all(isinstance(how, str) for how in asks):
        raise BadInput("'asks' is not a list of requests")
    question = row["question"]
    for how in asks:
        question = ask(question, how)
    return question


def check_numbers(tokenizer, row):
    """Raise BadInput for a request whose number the tokenizer cannot write."""
    for how in row.get("asks") or []:
        number = how.partition(":")[2]
        if number and tokenizer.unk_token_id in encode(tokenizer, number):
            raise BadInput(f"--ask {how}: the tokenizer has no word for {number}")


def asked_length(row):
    """(tokens that a row was asked for, the field that counts what it used); None if for none.

    Its last request for a length counts, else its `budget`, which means all tokens.
    """
    for how in reversed(row.get("asks") or []):
        name, _, number = str(how).partition(":")
        if name in LENGTHS and is_request(name, number):
            return int(number), LENGTHS[name]
    budget = row.get("budget")
    is_length = type(budget) is int and budget > 0
    return (budget, "n_tokens") if is_length else None


def with_asks(rows, how):
    """Rows with one more request, by whose words all later stages ask the same. how: '' for none.

    L1's requests name the form of the answer, too, and replace one that a row has.
    """
    if not how:
        return rows
    replaced = FORMS if how.startswith("l1") else (how,)
    found = []
    for row in rows:
        asked(row)  # its own can be read
        own = [other for other in row.get("asks") or [] if other not in replaced]
        found.append(row | {"asks": [*own, how]})
    return found


def takes_number(name):
    """Whether a request of ASK names a number of tokens or steps."""
    return "{}" in ASK[name].replace("{{}}", "")


LEADING = ("first",)
# Requests for a number of tokens, and the field of a completion that counts them.
LENGTHS = {
    "tokens": "n_thinking_tokens",
    "l1": "n_tokens",
    "l1-max": "n_tokens",
    "first": "n_tokens",
}
# Requests for the form of an answer.
FORMS = ("number", "answer", "choice", "box", "letter")


def is_request(name, number):
    """Whether ASK has this request, and it got a positive number exactly if it takes one."""
    if name not in ASK:
        return False
    if not takes_number(name):
        return not number
    return number.isdecimal() and int(number) > 0
