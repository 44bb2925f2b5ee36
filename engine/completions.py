"""Completion rows: how a decoded completion becomes a row, and the file that a run writes its rows to."""


# ---------------------------------------------------------------- one row


def completion_text(tokenizer, completion):
    """The generated text with its special tokens, without the stop token or stop string."""
    ids = completion.ids
    ends_in_stop_token = completion.finish == "stop" and completion.stop is None
    if ends_in_stop_token:
        ids = ids[:-1]
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if completion.stop is not None:
        text = text.partition(completion.stop)[0]
    return text


def completion_row(problem, sample_number, completion, tokenizer, form, with_logp=False):
    """Return a decoder.Completion as a JSONL row.

    The row has the fields of its problem, the text and its parts, and the exact token ids.
    """
    text = completion_text(tokenizer, completion)
    thinking, response = form.split(text)
    n_thinking = completion.n_thinking
    if form.end and form.end_id(tokenizer) is None:
        # Without a single end token the decoder could not count up to it.
        n_thinking = len(tokenizer.encode(thinking, add_special_tokens=False))
    stop = completion.stop
    if completion.finish == "stop" and stop is None:
        stop = tokenizer.convert_ids_to_tokens(completion.ids[-1])
    row = problem | {
        "sample": sample_number,
        "text": text,
        "thinking": thinking,
        "response": response,
        "ids": completion.ids,
        "injected": [i for i, injected in enumerate(completion.injected) if injected],
        "n_thinking_tokens": n_thinking,
        "n_tokens": len(completion.ids),
        "finish": completion.finish,
        "stop": stop,
        "n_waits": completion.n_waits,
        "forced": completion.forced,
        "n_tries": completion.n_tries,
    }
    if with_logp:
        row["logp"] = [round(logp, 6) for logp in completion.logp]
    return row


def key_of(row):
    """The key of a row in its file: its problem and the number of its sample."""
    return row["id"], row.get("sample", 0)
