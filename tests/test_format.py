"""engine/format.py: the text of a reasoning model, which tokens are trained, how it is split."""

import itertools

import pytest
from conftest import optional_data
from tiny_runs import TOKENIZER

from data import tiny
from engine.format import FORMATS, ask, asked, with_asks
from engine.rows import BadInput, read_rows


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


TRACE = {
    "question": "How many r in raspberry?",
    "thinking": "\n Let me count.\n\nr, r, r: 3. ",
    "response": "It is 3.\n",
}
CHAT = (
    "<|im_start|>system\n"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
TRACES = [
    (TRACE, "Let me count.\n\nr, r, r: 3.", "Answer: It is 3."),
    # "Answer:" anywhere in the response keeps it as it is
    ({**TRACE, "response": "So\nAnswer: 3"}, "Let me count.\n\nr, r, r: 3.", "So\nAnswer: 3"),
    ({**TRACE, "response": "answer: 3"}, "Let me count.\n\nr, r, r: 3.", "Answer: answer: 3"),
    (
        {
            "question": "x²+1=0?\n\tü",
            "thinking": "{i}^2 = -1 ;\u2028 ok\t",
            "response": "$\\boxed{\\pm i}$",
        },
        "{i}^2 = -1 ;\u2028 ok",
        "Answer: $\\boxed{\\pm i}$",
    ),
    ({"question": "None?", "thinking": None, "response": "3"}, "", "Answer: 3"),
]


@pytest.mark.parametrize("row, thinking, response", TRACES)
def test_s1_text_is_that_of_its_paper(bpe, row, thinking, response):
    """The text of s1's tokenization.py, without the newline behind <|im_end|>, which nothing reads.

    The chat prompt with Qwen's default system text; the two delimiters, each an existing special
    token and a word; both parts stripped; `Answer: ` in front of a response that lacks it. The
    pieces' ids are those of the whole string.
    """
    ids, trained = FORMATS["s1"].training_ids(bpe, row)
    text = (
        CHAT.replace("{question}", row["question"])
        + f"<|im_start|>think\n{thinking}\n<|im_start|>answer\n{response}<|im_end|>"
    )
    assert bpe.decode(ids) == text
    assert ids == bpe.encode(text, add_special_tokens=False)
    assert max(ids) < len(bpe)  # no new token
    prompt = CHAT.replace("{question}", row["question"])
    n = len(bpe.encode(prompt, add_special_tokens=False))
    assert bpe.decode(ids[:n]) == prompt
    # the mask in runs of equal values: the prompt is not trained, all the rest is
    runs = [(value, len(list(run))) for value, run in itertools.groupby(trained)]
    assert runs == [(False, n), (True, len(ids) - n)]
    assert ids[-1] == bpe.convert_tokens_to_ids("<|im_end|>") == bpe.eos_token_id


def test_real_traces_with_a_real_tokenizer():
    """Ten distilled traces, the longest of some thousand tokens, and Qwen2.5's own tokenizer.

    For s1 the pieces' ids are those of the whole string, and the mask switches once. The tokenizer
    made for these tests has the same chat template and splits the same delimiters.
    """
    from stand_ins import bpe_tokenizer
    from transformers import AutoTokenizer

    qwen = AutoTokenizer.from_pretrained(optional_data("tokenizers/qwen2.5"))
    made = bpe_tokenizer()
    n_tokens = []
    path = optional_data("traces/distill_samples_10.jsonl")
    for row in read_rows(path, need=("question", "thinking", "response")):
        ids, trained = FORMATS["s1"].training_ids(qwen, row)
        assert ids == qwen.encode(qwen.decode(ids), add_special_tokens=False)
        assert trained == sorted(trained) and 0 < sum(trained) < len(ids)
        n_tokens.append(len(ids))
    assert len(n_tokens) == 10 and max(n_tokens) > 1000
    for form in FORMATS.values():
        ids, _ = form.training_ids(qwen, row)
        made_ids, _ = form.training_ids(made, row)
        assert made.decode(made_ids) == qwen.decode(ids)
        same = ids == qwen.encode(qwen.decode(ids), add_special_tokens=False)
        made_same = made_ids == made.encode(made.decode(made_ids), add_special_tokens=False)
        assert same == made_same == (form.name not in ("think", "r1"))


def test_s1_forced_answer_by_hand(bpe):
    """Four thinking tokens, then the budget is out; the decoder writes `after`, `end` and `cue`.

    <|im_start|>think, the four, newline, <|im_start|>answer, newline, Final Answer:
    """
    s1 = FORMATS["s1"]
    assert (
        s1.open + "abcd" + s1.after + s1.end + s1.cue
        == "<|im_start|>thinkabcd\n<|im_start|>answer\nFinal Answer:"
    )
    assert s1.end_id(bpe) == bpe.convert_tokens_to_ids("<|im_start|>")


def test_think_text(words):
    """One token per word: <user> q <bot> | <think> t </think> r <eos>.

    Trained from <think> to <eos>.
    """
    row = {
        "question": "make 20 from 7 5 8",
        "thinking": " try 7 + 8 high ",
        "response": "7 + 5 + 8",
    }
    ids, trained = FORMATS["think"].training_ids(words, row)
    text = "<user> make 20 from 7 5 8 <bot> <think> try 7 + 8 high </think> 7 + 5 + 8 <eos>".split()
    assert words.convert_ids_to_tokens(ids) == text
    assert [word for word, scored in zip(text, trained) if scored] == text[8:]
    assert text[8] == "<think>" and len(trained) == len(ids)
    assert FORMATS["think"].end_id(words) == words.convert_tokens_to_ids("</think>")


def test_r1_text(bpe):
    """DeepSeek-R1-Zero's template, no chat template; the completion is <think> ... </answer>.

    A question that holds braces or the placeholder itself is inserted once and as it is.
    """
    row = {"question": "What is {question} or {x}?", "thinking": " so 2 ", "response": "4 "}
    ids, trained = FORMATS["r1"].training_ids(bpe, row)
    text = bpe.decode(ids)
    start = text.index("User: ")
    assert text[start:] == (
        "User: What is {question} or {x}?. Assistant: <think> so 2 </think> <answer> 4 </answer>"
        "<|im_end|>"
    )
    assert text[:start].endswith(
        "<think> reasoning process here </think> <answer> answer here </answer>. "
    )
    completion = bpe.decode([token for token, scored in zip(ids, trained) if scored])
    assert completion == " <think> so 2 </think> <answer> 4 </answer><|im_end|>"


def test_plain_text(bpe):
    """Chat template and response; a trace, if there is one, is written before the response."""
    ids, trained = FORMATS["plain"].training_ids(bpe, {"question": "q", "response": " r "})
    assert bpe.decode(ids) == CHAT.replace("{question}", "q") + "r<|im_end|>"
    assert bpe.decode([token for token, scored in zip(ids, trained) if scored]) == "r<|im_end|>"
    ids, _ = FORMATS["plain"].training_ids(bpe, {"question": "q", "thinking": "t", "response": "r"})
    assert bpe.decode(ids).endswith("assistant\nt\n\nr<|im_end|>")


@pytest.mark.parametrize("name", FORMATS)
def test_the_decoder_starts_where_training_did(bpe, name):
    """prompt_ids are the first ids of training_ids, `open` included."""
    form = FORMATS[name]
    prompt = form.prompt_ids(bpe, TRACE["question"])
    ids, _ = form.training_ids(bpe, TRACE)
    # the tokens from 9 before the end of the prompt on
    assert bpe.convert_ids_to_tokens(ids[len(prompt) - 9 : len(prompt)]) == (
        bpe.convert_ids_to_tokens(prompt[-9:])
    )
    assert ids[: len(prompt)] == prompt and bpe.decode(prompt).endswith(form.open)


def test_the_joined_text_would_give_other_ids(bpe):
    """<think> + newline: encoded one by one the pieces end in ">" and begin with "\\n".

    The tokenizer has a token for ">\\n", which encoding the joined text would choose. The decoder
    would then never start where training did: it is given "<think>" alone.
    """
    form = FORMATS["think"]
    ids, trained = form.training_ids(bpe, TRACE)
    joined = bpe.encode(bpe.decode(ids), add_special_tokens=False)
    first = trained.index(True)
    assert bpe.convert_ids_to_tokens(ids[first : first + 4]) == ["<", "think", ">", "Ċ"]
    both = bpe.convert_tokens_to_ids(">Ċ")
    assert both in joined and both not in ids
    prompt = form.prompt_ids(bpe, TRACE["question"])
    assert joined[: len(prompt)] != prompt


def test_training_ids_leave_the_row_alone(words):
    """Thinking and response are stripped for the ids, not in the row."""
    row = dict(TRACE)
    for form in FORMATS.values():
        form.training_ids(words, row)
    assert row == TRACE


@pytest.mark.parametrize(
    "name, text, thinking, response",
    [
        ("s1", "\na\nb\n<|im_start|>answer\nAnswer: 3", "a\nb", "Answer: 3"),
        ("s1", "\na\nb", "a\nb", ""),  # unfinished: no response
        ("s1", "a<|im_start|>answer", "a", ""),
        ("s1", "a<|im_start|>answer\nb<|im_start|>answer\nc", "a", "b<|im_start|>answer\nc"),
        ("think", "\na\n</think>\n\n4", "a", "4"),
        ("think", "</think>4", "", "4"),
        ("think", " 4", "4", ""),
        ("think", "", "", ""),
        ("r1", " a </think> <answer> 4 </answer>", "a", "4"),
        ("r1", " a </think> <answer> 4", "a", "4"),  # cut before </answer>
        ("r1", " a </think> 4", "a", "4"),
        ("r1", " a <answer> 4 </answer>", "a <answer> 4 </answer>", ""),
        ("r1", "a</think><answer>4</answer>", "a", "4"),
        ("plain", " the answer is 4 ", "", "the answer is 4"),
    ],
)
def test_split(name, text, thinking, response):
    assert FORMATS[name].split(text) == (thinking, response)


def test_steps_are_split_at_the_answer_and_nowhere_else():
    """s1's step-conditional traces: every header begins with the answer's first token.

    Written and read back; the prompt ends with the piece that training writes first.
    """
    form, thinking = FORMATS["s1-steps"], "2 steps left\nadd\n<|im_start|>1 steps left\ncarry"
    pieces = form.completion_pieces({"question": "q", "thinking": thinking, "response": "42"})
    assert (
        "".join(pieces) == f"<|im_start|>{thinking}\n<|im_start|>answer\n42"
        and pieces[0] == form.open
    )
    assert form.split("".join(pieces[1:])) == (thinking, "42")


@pytest.mark.parametrize("name", FORMATS)
def test_split_undoes_the_training_text(bpe, name):
    """A model that imitates the training text perfectly is split into trace and response."""
    form = FORMATS[name]
    text = "".join(form.completion_pieces({**TRACE, "response": "Answer: 3"}))[len(form.open) :]
    expected = "Let me count.\n\nr, r, r: 3."
    assert form.split(text) == (
        (expected, "Answer: 3") if form.end else ("", expected + "\n\nAnswer: 3")
    )


def test_a_missing_chat_template_is_refused_by_name(words):
    """Guessing a template would train on text that no one uses; r1 brings its own."""
    bare = tiny.tokenizer()
    bare.chat_template = None
    for name in ("s1", "think", "plain"):
        with pytest.raises(BadInput, match=f"no chat template, which format '{name}' needs"):
            FORMATS[name].training_ids(bare, TRACE)
    assert FORMATS["r1"].training_ids(bare, TRACE)[0]


def test_end_id_needs_a_single_special_token(words, bpe):
    """The decoder watches for one token.

    The tiny world has </think>, Qwen2.5 splits it into several. The tiny world reads
    <|im_start|>answer as <unk>, which is a special token but not that one.
    """
    assert FORMATS["think"].end_id(bpe) is None and FORMATS["plain"].end_id(bpe) is None
    assert FORMATS["s1"].end_id(words) is None


def test_requests_by_hand():
    """A number exactly where the request takes one; it must be positive."""
    assert ask("q", "tokens:20") == "q\n\nThink for up to 20 tokens."
    assert ask("q", "l1:5").endswith("within \\boxed{}. Think for 5 tokens.")
    assert ask("q", "short").startswith("q\n\nAnswer after a short amount")
    for how in ("tokens", "tokens:", "tokens:0", "tokens:x", "short:3", "brief", ""):
        with pytest.raises(BadInput, match="tokens:N, steps:N, long, short, l1:N, l1-max:N"):
            ask("q", how)


def test_requests_of_a_row_are_in_its_prompt_and_in_its_training_text():
    """Sampling, scoring, analysis and RL read row_prompt_ids, fine-tuning reads training_ids."""
    form, row = FORMATS["think"], {"id": 1, "question": "q", "response": "r"}
    said = row | {"question": ask(ask("q", "box"), "tokens:9")}
    asking = row | {"asks": ["box", "tokens:9"]}
    assert asked(asking) == said["question"] and asked(row) == "q"
    for ids_of in (form.row_prompt_ids, form.training_ids):
        assert ids_of(TOKENIZER, asking) == ids_of(TOKENIZER, said) != ids_of(TOKENIZER, row)
    for wrong in ("box", [3], ["bax"]):
        with pytest.raises(BadInput, match="row '1': .*(asks|bax)"):
            form.row_prompt_ids(TOKENIZER, row | {"asks": wrong})


def test_a_request_is_added_once():
    """The run's comes behind the row's own; a run that is scored or continued does not ask twice;
    L1's request has the form of the answer in it."""
    rows = [{"question": "q"}, {"question": "q", "asks": ["box"]}]

    def asks(how):
        return [row.get("asks") for row in with_asks(rows, how)]

    assert asks("") == asks(None) == [None, ["box"]]
    assert asks("tokens:9") == [["tokens:9"], ["box", "tokens:9"]]
    assert asks("box") == [["box"], ["box"]]
    assert asks("l1:9") == [["l1:9"], ["l1:9"]]
    assert ask("q", "answer").endswith(
        'with "The answer is \\boxed{}", with the answer in the box.'
    )
