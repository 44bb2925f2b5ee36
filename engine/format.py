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
"""

from dataclasses import dataclass

from engine.rows import BadInput

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

    # The pieces of a text are encoded one by one, in training as in use. Encoding the joined text
    # can give other ids at the borders: ">" + "\n" is one token of Qwen's. The model would then be
    # trained on ids that it never meets.

    def prompt_text(self, tokenizer, question, history=()):
        """Everything before `open`. history: the messages before this question."""
        if self.prompt is not None:
            return self.prompt.replace("{question}", question)
        if not tokenizer.chat_template:
            raise BadInput(
                f"the tokenizer has no chat template, which format '{self.name}' needs; "
                "--format r1 needs none"
            )
        messages = [*history, {"role": "user", "content": question}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def prompt_ids(self, tokenizer, question, history=()):
        """Token ids that the decoder starts from: the prompt and `open`."""
        text = self.prompt_text(tokenizer, question, history)
        return encode(tokenizer, text) + encode(tokenizer, self.open)

    def training_ids(self, tokenizer, row, turns=1):
        """A trace row -> (ids, trained): token ids and, for each, whether the loss counts it.

        The prompt is not trained. Everything after it is, the end-of-sequence token included:
        without it the model never learns to stop. The border is known because the pieces are
        encoded one by one; nothing searches the text for a template.

        turns: how many of the assistant's turns are trained. The completion is the last of them,
        the others are in row["history"].
        """
        history = row.get("history") or []
        text = self.prompt_text(tokenizer, row["question"], history)
        prompt = encode(tokenizer, text)
        prompt_trained = [False] * len(prompt)
        if turns > 1:
            prompt_trained = self.trained_in_history(tokenizer, text, history, turns - 1)

        completion = []
        for piece in self.completion_pieces(row):
            completion += encode(tokenizer, piece)
        completion.append(tokenizer.eos_token_id)
        return prompt + completion, prompt_trained + [True] * len(completion)

    def trained_in_history(self, tokenizer, text, history, turns):
        """For each token of the prompt `text`: is it part of one of the last `turns` answers?"""
        answers = [k for k, message in enumerate(history) if message["role"] == "assistant"]
        spans = [answer_span(tokenizer, text, history, k) for k in answers[-turns:]]
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        trained = []
        for first, last in encoded["offset_mapping"]:
            # A token of no characters (first == last) is not part of an answer.
            inside = any(start <= first < last <= end for start, end in spans)
            trained.append(inside)
        return trained

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
        if self.end and self.prompt is None and self.end_id(tokenizer) is None:
            raise BadInput(
                f"--format {self.name}: this tokenizer has no single token for the beginning of "
                f"'{self.end}', so the end of thinking cannot be recognised"
            )

    def end_id(self, tokenizer):
        """Id of the token that announces the end of thinking; None if there is no such token."""
        ids = encode(tokenizer, self.end)
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        special.discard(tokenizer.unk_token_id)
        return ids[0] if ids and ids[0] in special else None


def encode(tokenizer, text):
    """Token ids of one piece of text, nothing added in front or behind."""
    return tokenizer.encode(text, add_special_tokens=False) if text else []


def answer_span(tokenizer, text, history, k):
    """Where in the prompt `text` message k, an answer, is -> (start, end), in characters.

    The answer begins after the chat template's generation prompt and ends with the end-of-sequence
    token, that token included. Raises BadInput if the template writes an earlier turn differently
    once later ones follow.
    """
    opened = tokenizer.apply_chat_template(history[:k], tokenize=False, add_generation_prompt=True)
    closed = tokenizer.apply_chat_template(
        history[: k + 1], tokenize=False, add_generation_prompt=False
    )
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

# Requests that end a question and tell the model how long to think. With {}: takes a number.
ASK = {
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
}


def ask(question, how):
    """The question with a request from ASK: `how` is NAME, or NAME:N for one that takes a number.

    Raises BadInput.
    """
    name, _, number = how.partition(":")
    if not is_request(name, number):
        known = [f"{k}:N" if takes_number(k) else k for k in ASK]
        raise BadInput(f"--ask {how}: not one of {', '.join(known)}")
    return question + ASK[name].format(number)


def takes_number(name):
    """Whether a request of ASK names a number of tokens or steps."""
    return "{}" in ASK[name].replace("{{}}", "")


def is_request(name, number):
    """Whether ASK has this request, and it got a positive number exactly if it takes one."""
    if name not in ASK:
        return False
    if not takes_number(name):
        return not number
    return number.isdecimal() and int(number) > 0
