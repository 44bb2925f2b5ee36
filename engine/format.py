"""The text of a reasoning model, defined once: curation writes it, sft masks by it, generate forces budgets with it,
evaluate extracts answers from it.

    prompt | open trace end response eos
    masked | trained ------------------

s1      s1, §D: <|im_start|>think ... <|im_start|>answer ...; both delimiters are existing Qwen tokens
s1-steps  s1, §E.1, step-conditional control: the trace is <|im_start|>K steps left ... <|im_start|>K-1 steps left ...
think   <think> ... </think> ...: R1 distillations, Qwen3, and the tiny world
r1      DeepSeek-R1-Zero, Table 1: a template instead of a chat, <think> ... </think> <answer> ... </answer>
plain   the chat template alone; whatever reasoning there is stands in the response
"""

from dataclasses import dataclass

from engine.rows import BadInput

R1_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>. User: {question}. Assistant:"
)


@dataclass(frozen=True)
class Format:
    name: str
    open: str = ""  # begins thinking; the decoder appends it to the prompt
    before: str = ""  # between `open` and the trace
    after: str = ""  # between the trace and `end`
    end: str = ""  # ends thinking; its first token is the one that the decoder watches for
    between: str = ""  # between `end` and the response
    close: str = ""  # after the response, before the end-of-sequence token
    cue: str = ""  # written after `end` when the answer is forced
    prompt: str | None = None  # a template with {question}; None: the tokenizer's chat template
    has_steps: bool = False  # each step of the trace begins with the first token of `end`

    def prompt_text(self, tokenizer, question, history=()):
        """Everything the model is given before it starts to think, `open` not included. history: earlier messages."""
        if self.prompt is not None:
            return self.prompt.replace("{question}", question)
        if not tokenizer.chat_template:
            raise BadInput(
                f"the tokenizer has no chat template, which format '{self.name}' needs; --format r1 needs none"
            )
        return tokenizer.apply_chat_template(
            [*history, {"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
        )

    def prompt_ids(self, tokenizer, question, history=()):
        """Token ids that the decoder starts from: the prompt and `open`. Pieces are encoded one by one, here as in
        training_ids, so that a model meets the same ids in training and in use."""
        return _encode(tokenizer, self.prompt_text(tokenizer, question, history)) + _encode(
            tokenizer, self.open
        )

    def training_ids(self, tokenizer, row, turns=1):
        """A trace row -> (ids, trained): token ids and, for each, whether the loss counts it.

        The prompt is not trained, everything after it is, the end-of-sequence token included (without it the model
        never learns to stop). The trained span is found by construction, not by searching for a template in the text.
        turns: assistant turns to train, the last of which is the completion; the others stand in row["history"].
        """
        history = row.get("history") or []
        text = self.prompt_text(tokenizer, row["question"], history)
        prompt = _encode(tokenizer, text)
        completion = [i for piece in self.completion_pieces(row) for i in _encode(tokenizer, piece)]
        completion.append(tokenizer.eos_token_id)
        earlier = (
            self.trained_in_history(tokenizer, text, history, turns - 1)
            if turns > 1
            else [False] * len(prompt)
        )
        return prompt + completion, earlier + [True] * len(completion)

    def trained_in_history(self, tokenizer, text, history, turns):
        """For each token of a prompt whether it belongs to one of the last `turns` answers of the history: what the chat
        template puts between the beginning of that turn and the end-of-sequence token, that token included."""
        spans = []
        for k in [k for k, message in enumerate(history) if message["role"] == "assistant"][
            -turns:
        ]:
            opened, closed = (
                tokenizer.apply_chat_template(
                    history[:n], tokenize=False, add_generation_prompt=n == k
                )
                for n in (k, k + 1)
            )
            if not (
                text.startswith(opened)
                and text.startswith(closed.rstrip())
                and closed.startswith(opened)
            ):
                raise BadInput(
                    "--turns: the chat template changes earlier turns when later ones follow"
                )
            end = closed.rfind(tokenizer.eos_token)
            spans.append(
                (
                    len(opened),
                    end + len(tokenizer.eos_token) if end >= len(opened) else len(closed.rstrip()),
                )
            )
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return [any(start <= a < b <= end for start, end in spans) for a, b in offsets]

    def completion_pieces(self, row):
        """The completion of a trace row as the strings that are encoded one after the other."""
        thinking, response = (row.get("thinking") or "").strip(), row["response"].strip()
        if not self.end:
            return [f"{thinking}\n\n{response}" if thinking else response]
        if self.name == "s1" and "Answer:" not in response:  # s1's tokenization.py
            response = "Answer: " + response
        return [
            self.open,
            self.before + thinking + self.after,
            self.end,
            self.between + response + self.close,
        ]

    def split(self, text):
        """Generated text (it begins after `open`) -> (thinking, response).

        Text without an end of thinking is all thinking: an unfinished completion has no response.
        """
        if not self.end:
            return "", text.strip()
        thinking, found, response = text.partition(self.end)
        response = response.strip()
        if self.close:
            response = response.removesuffix(self.close.strip()).removeprefix(self.between.strip())
        return thinking.strip(), response.strip() if found else ""

    def check(self, tokenizer):
        """Raise BadInput if the tokenizer lacks the format's delimiters (r1's are ordinary text and need no tokens)."""
        if self.end and self.prompt is None and self.end_id(tokenizer) is None:
            raise BadInput(
                f"--format {self.name}: this tokenizer has no single token for the beginning of "
                f"'{self.end}', so that the end of thinking cannot be told"
            )

    def end_id(self, tokenizer):
        """Id of the token that announces the end of thinking; None when the tokenizer has no such single token."""
        ids = _encode(tokenizer, self.end)
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        return ids[0] if ids and ids[0] in special - {tokenizer.unk_token_id} else None


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

# What a question ends in when it tells the model how long to think.
ASK = {
    "tokens": "\n\nThink for up to {} tokens.",  # s1, §E.1, token-conditional
    "steps": "\n\nThink for up to {} steps.",  # s1, §E.1, step-conditional
    "long": "\n\nAnswer after a long amount of thinking. If you feel like you are finished early, spend the extra "
    "time trying to double-check your work until you are absolutely sure that you have the correct answer.",
    "short": "\n\nAnswer after a short amount of thinking. Do not spend excessive time double-checking your work.",
    "l1": " Let's think step by step and output the final answer within \\boxed{{}}. Think for {} tokens.",
    "l1-max": " Let's think step by step and output the final answer within \\boxed{{}}. Think for maximum {} tokens.",
}  # long, short: s1, §E.1, class-conditional; l1, l1-max: L1 (2503.04697), §3


def ask(question, how):
    """The question with the request `how`: a key of ASK, those with a number as NAME:N. Raises BadInput."""
    name, _, number = how.partition(":")
    wants_number = "{}" in ASK.get(name, "")
    if (
        name not in ASK
        or bool(number) != wants_number
        or wants_number
        and not (number.isdecimal() and int(number))
    ):
        raise BadInput(
            f"--ask {how}: not one of " + ", ".join(k + ":N" * ("{}" in ASK[k]) for k in ASK)
        )
    return question + ASK[name].format(number)


def _encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False) if text else []
