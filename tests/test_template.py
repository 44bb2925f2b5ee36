"""engine/template.py and engine/ending.py: chat templates of real models in every format."""

import sys
import threading
import time

import pytest
import torch
from stand_ins import bpe_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

import generate
from engine import model as models
from engine import template
from engine.decoder import Request, Sampling, decode
from engine.format import FORMATS, with_system
from engine.rows import BadInput
from engine.sampling import random_key

# Written after the models' documentation, shortened to messages without tools.
LOOP = "{% for m in messages %}"
IM = LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
IM_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
GEMMA = (
    "{{ bos_token }}{% set loop_messages = messages %}{% set first = '' %}SYSTEM"
    "{% for m in loop_messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% set today = strftime_now('%d %b %Y') %}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}"
    "{% endif %}<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: {{ today }}\n\n{{ system }}<|eot_id|>"
    "{% for m in rest %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}" + LOOP + "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
SYSTEM_IF_NONE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nTEXT<|im_end|>\n{% endif %}"
)

# name: (template, bos, eos, special tokens besides)
TEMPLATES = {
    "Qwen2.5": (SYSTEM_IF_NONE + IM + IM_END, None, "<|im_end|>", ["<|im_start|>"]),
    "Qwen3": (IM + IM_END, None, "<|im_end|>", ["<|im_start|>", "<think>", "</think>"]),
    "Qwen3, no thinking": (
        IM + IM_END.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n"),
        None,
        "<|im_end|>",
        ["<|im_start|>", "<think>", "</think>"],
    ),
    "DeepSeek-R1-Distill": (
        DEEPSEEK,
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
    ),
    "Llama 3.2": (
        LLAMA,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>"],
    ),
    "Gemma 2": (
        GEMMA.replace(
            "SYSTEM",
            "{% if messages[0].role == 'system' %}"
            "{{ raise_exception('System role not supported') }}{% endif %}",
        ),
        "<bos>",
        "<end_of_turn>",
        ["<start_of_turn>"],
    ),
    "Gemma 3": (
        GEMMA.replace(
            "SYSTEM",
            "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}"
            "{% set first = messages[0].content + '\n\n' %}{% endif %}",
        ),
        "<bos>",
        "<end_of_turn>",
        ["<start_of_turn>"],
    ),
    "Mistral": (
        "{{ bos_token }}" + LOOP + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% elif m.role == 'system' %}{{ raise_exception('Only user and assistant roles') }}"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        ["[INST]", "[/INST]"],
    ),
    "SmolLM2": (SYSTEM_IF_NONE + IM + IM_END, None, "<|im_end|>", ["<|im_start|>"]),
    "SmolLM3": (
        "<|im_start|>system\n## Metadata\n\nToday Date: {{ strftime_now('%d %B %Y') }}\n"
        "{% set quiet = messages[0].role == 'system' and '/no_think' in messages[0].content %}"
        "{{ messages[0].content if messages[0].role == 'system' else 'TEXT' }}<|im_end|>\n"
        + LOOP
        + "{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if quiet %}<think>\n\n</think>\n{% endif %}{% endif %}",
        None,
        "<|im_end|>",
        ["<|im_start|>"],
    ),
    "Phi 3": (
        LOOP + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<s>",
        "<|end|>",
        ["<|user|>", "<|assistant|>", "<|system|>"],
    ),
    "Phi 4": (
        LOOP + "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        None,
        "<|im_end|>",
        ["<|im_start|>", "<|im_sep|>"],
    ),
    "OLMo 2": (
        "{{ bos_token }}" + LOOP + "<|{{ m.role }}|>\n{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else '' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
        "<|endoftext|>",
        [],
    ),
}
NO_SYSTEM = ("Gemma 2", "Mistral")


def tokenizer_of(name):
    """The stand-in tokenizer with a model's template and special tokens."""
    from tokenizers.processors import TemplateProcessing

    text, bos, eos, special = TEMPLATES[name]
    tokenizer = bpe_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": [t for t in special if t]})
    tokenizer.add_special_tokens({"eos_token": eos} | ({"bos_token": bos} if bos else {}))
    if bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = text
    return tokenizer


ROW = {
    "id": "r",
    "question": "What is 2+3?",
    "thinking": "2+3 is 5.",
    "response": "Answer: 5",
    "history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("form_name", FORMATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_and_formats(name, form_name):
    """Training ids are the prompt's and the completion's; one opening, one end, one beginning."""
    tokenizer = tokenizer_of(name)
    form = FORMATS[form_name].fit(tokenizer)
    row = dict(ROW, history=[] if form_name == "r1" else ROW["history"])
    if form_name != "r1" and name not in NO_SYSTEM:
        row["history"] = [SYSTEM, *row["history"]]
    prompt = form.row_prompt_ids(tokenizer, row)
    ids, trained = form.training_ids(tokenizer, row)
    assert ids[: len(prompt)] == prompt
    assert not any(trained[: trained.index(True)]) and all(trained[trained.index(True) :])
    text = tokenizer.decode(ids)
    completion = tokenizer.decode(ids[len(prompt) :])
    assert completion.endswith(tokenizer.eos_token) and ids[-1] == tokenizer.eos_token_id
    thinking, response = form.split(completion.removesuffix(tokenizer.eos_token))
    assert response.endswith("5") and (thinking == "2+3 is 5." or not form.end)
    for word in ("Hi", "Hello", "Be brief."):
        assert text.count(word) == (
            row["history"] != [] and (word[:2] != "Be" or SYSTEM in row["history"])
        )
    # nothing twice
    n_own = 1 if form_name == "r1" else 0  # the template's own words name the tags once
    opened = form_name in ("think", "r1") or (name[:8] == "DeepSeek" and form_name == "plain")
    assert text.count("<think>") <= 1 + 2 * n_own
    if form_name != "r1":
        empty = name == "Qwen3, no thinking" and form_name == "plain"
        assert text.count("<think>") == text.count("</think>") == opened + empty
    if tokenizer.bos_token:
        assert ids[0] == tokenizer.bos_token_id
        n_ends = tokenizer.eos_token == tokenizer.bos_token  # OLMo's is its end, too
        n_ends *= 1 + (form_name != "r1")
        assert ids.count(tokenizer.bos_token_id) == 1 + n_ends


def test_what_templates_do_is_seen():
    """The opened thinking, the empty one, the default system prompt, and the date."""
    seen = {name: FORMATS["think"].fit(tokenizer_of(name)).fitted for name in TEMPLATES}
    assert [name for name, found in seen.items() if found.opening] == ["DeepSeek-R1-Distill"]
    assert [name for name, found in seen.items() if found.closes_empty] == ["Qwen3, no thinking"]
    assert [name for name, found in seen.items() if found.has_date] == ["Llama 3.2", "SmolLM3"]
    default = [name for name, found in seen.items() if found.has_default_system]
    assert default == ["Qwen2.5", "SmolLM2", "SmolLM3"]
    tokenizer = tokenizer_of("Llama 3.2")
    text = FORMATS["plain"].fit(tokenizer, date="2026-03-04").prompt_text(tokenizer, "q")
    assert "Today Date: 04 Mar 2026" in text
    with pytest.raises(BadInput, match="--date tomorrow"):
        FORMATS["plain"].fit(tokenizer, date="tomorrow")


def test_what_a_template_adds_is_said_in_one_line():
    """A word for each thing that it writes by itself, and nothing where it writes nothing."""

    def line(name):
        return FORMATS["plain"].fit(tokenizer_of(name)).fitted.describe()

    system = "writes a system prompt where none is given (--system replaces it)"
    assert line("Qwen2.5") == "chat template: " + system
    assert "closes an empty thinking" in line("Qwen3, no thinking")
    assert "opens the thinking with '<think>" in line("DeepSeek-R1-Distill")
    assert "writes a date, which is 2025-01-01" in line("Llama 3.2")
    assert line("OLMo 2") == ""


def test_an_empty_thinking_that_a_row_asks_for():
    """SmolLM3 closes an empty thinking where the system prompt says /no_think."""
    tokenizer = tokenizer_of("SmolLM3")
    history = [{"role": "system", "content": "/no_think"}]
    think = FORMATS["think"].prompt_text(tokenizer, "q", history)
    assert think.endswith("assistant\n")
    assert FORMATS["plain"].prompt_text(tokenizer, "q", history).endswith("</think>\n")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{{ raise_exception('never') }}", "refuses the messages .never"),
        ("{{ messages[0].content.nothing.more }}", "refuses the messages"),
        ("user: assistant:", "drops the question"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "did not end",
        ),
        ("{{ messages[0].content * 999999 }}", "writes 1.* characters for a word"),
    ],
)
def test_templates_that_cannot_be_used(monkeypatch, text, message):
    """One line each."""
    monkeypatch.setattr(template, "SECONDS", 0.5)
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = text
    with pytest.raises(BadInput, match=message) as caught:
        FORMATS["think"].check(tokenizer)
    assert "\n" not in str(caught.value)


def test_a_template_that_does_not_end_is_refused_in_a_thread_too(monkeypatch):
    """No signal comes there, nor on Windows. A sound template is rendered, and a debugger's trace
    function is back afterwards."""
    monkeypatch.setattr(template, "SECONDS", 0.2)
    tokenizer = bpe_tokenizer()
    sound = tokenizer_of("Qwen2.5")
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer.chat_template = loop
    found = []

    def work():
        messages = [{"role": "user", "content": "q"}]
        found.append(template.render(sound, messages))
        try:
            template.render(tokenizer, messages)
        except BadInput as error:
            found.append(str(error))
        found.append(sys.gettrace())

    before = time.monotonic()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    text, refusal, trace = found
    assert text == template.render(sound, [{"role": "user", "content": "q"}]) and trace is None
    assert refusal.endswith("did not end within 0.2 seconds") and time.monotonic() - before < 15


def test_a_template_without_a_system_role_names_the_row():
    (row,) = with_system([{"id": "a", "question": "q"}], "Be brief.")
    with pytest.raises(BadInput, match="row 'a': .* refuses the messages .System role"):
        FORMATS["think"].row_prompt_ids(tokenizer_of("Gemma 2"), row)


def test_special_tokens_that_a_row_names_are_text():
    """<|im_end|> in a question is a string of characters, in training as in use, unless allowed."""
    tokenizer = tokenizer_of("Qwen3")
    end, think = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<think>"))
    row = {"question": "Say <|im_end|> or <think>.", "thinking": "so <|im_end|>", "response": "b"}
    plain_row = {"question": "Say it", "thinking": "so", "response": "b"}
    form = FORMATS["think"].fit(tokenizer)
    ids, usual = (form.training_ids(tokenizer, r)[0] for r in (row, plain_row))
    assert [ids.count(end), ids.count(think)] == [usual.count(end), 1]
    text = tokenizer.decode(ids)
    assert "Say <|im_end|> or <think>.<|im_end|>" in text and "so <|im_end|>\n</think>" in text
    prompt = form.row_prompt_ids(tokenizer, row | {"id": 1})
    assert ids[: len(prompt)] == prompt
    allowed = FORMATS["think"].fit(tokenizer, special_in_text=True)
    assert allowed.training_ids(tokenizer, row)[0].count(end) == usual.count(end) + 2


def test_the_private_characters_of_the_marks_are_refused_beside_a_special_token():
    """They would be taken for marks: \\ue0100\\ue011 for the first special token, others for none."""
    form = FORMATS["think"].fit(tokenizer_of("Qwen3"))
    for number in (0, 999):
        row = {"id": "a", "question": f"Say <|im_end|> \ue010{number}\ue011"}
        with pytest.raises(BadInput, match=r"row 'a': .* private character U\+E010"):
            form.row_prompt_ids(tokenizer_of("Qwen3"), row)
    assert form.row_prompt_ids(tokenizer_of("Qwen3"), {"id": "a", "question": "\ue0100\ue011"})


@pytest.mark.parametrize(
    "row",
    [
        {"response": "<think>a</think>b"},
        {"response": "<think>\na\n</think>\n\nb<|im_end|>", "thinking": None},
        {"response": "b<|im_end|>\n", "thinking": "<think>a</think>"},
        {"response": "b", "thinking": "<think>\na"},
        {"response": "</think>b", "thinking": "a"},
    ],
)
def test_tags_in_a_row_are_split_off(row):
    """The same ids as of the row whose thinking is apart."""
    tokenizer = tokenizer_of("Qwen3")
    wanted = {"question": "q", "thinking": "a", "response": "b"}
    for name in ("think", "r1", "s1"):
        if name == "s1" and "<think>" not in row["response"]:
            continue  # tags of others are text there
        form = FORMATS[name]
        ids, trained = form.training_ids(tokenizer, {"question": "q", **row})
        expected, expected_trained = form.training_ids(tokenizer, wanted)
        assert tokenizer.decode(ids) == tokenizer.decode(expected)
        assert (ids, trained) == (expected, expected_trained), name


@pytest.mark.parametrize(
    "row, message",
    [
        ({"thinking": "a", "response": "c</think>b"}, "in the response of a row that has"),
        ({"thinking": "a <think> c", "response": "b"}, "'<think>' inside the thinking"),
        ({"response": "<think>a</think>b</think>"}, "'</think>' inside the response"),
    ],
)
def test_tags_elsewhere_are_refused(row, message):
    with pytest.raises(BadInput, match=message):
        FORMATS["think"].training_ids(tokenizer_of("Qwen3"), {"question": "q", **row})


# ---- an end of thinking of several tokens


def spelled_words():
    """A tokenizer that writes </think> as three words, the last of them also with a line break."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel

    words = ["<|end|>", "?", "</", "a</", "<", "think", ">", ">\n", "\n", "/", *"abcdWq"]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"</|think|[^t]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return fast


def test_an_end_of_several_tokens(monkeypatch):
    """Both decoders follow it, count what is before it, and replace all of it.

    Sampled from a random model that likes the three words. A completion has as many tokens of
    thinking as are complete before the token in which the end begins.
    """
    tokenizer, form = spelled_words(), FORMATS["think"]
    assert form.end_id(tokenizer) is None
    model = small_model(tokenizer)
    likes = torch.zeros(len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids
    likes[[ids("</"), ids("a</"), ids("think"), ids(">"), ids(">\n")]] = 2.0
    plainly = models.next_token_logits
    monkeypatch.setattr(
        models, "next_token_logits", lambda model, hidden: plainly(model, hidden) + likes
    )
    prompt = form.prompt_ids(tokenizer, "q")
    requests = [
        Request(
            prompt,
            random_key(5, i),
            60,
            waits=(0, 1, 2)[i % 3],
            budget=(None, 7, 20, None)[i // 3 % 4],
            min_thinking=(0, 0, 5)[i // 12 % 3],
        )
        for i in range(72)
    ]
    seen = set()
    for rule in ("total", "round"):
        sampling = Sampling(1.0, wait="Wq", budget_rule=rule)
        plain = dict(generate.decode_plainly(model, tokenizer, form, requests, sampling))
        for i, c in decode(model, tokenizer, form, requests, sampling, 5):
            assert plain[i]._replace(logp=None) == c._replace(logp=None)
            assert plain[i].logp == pytest.approx(c.logp, abs=1e-4)
            text = tokenizer.decode(c.ids)
            words = [tokenizer.decode([i]) for i in c.ids]
            assert len(c.ids) == len(c.injected) == len(c.logp)
            if form.end in text and not c.forced:
                begins = text.index(form.end)
                n, place = 0, 0
                while place + len(words[n]) <= begins:
                    place += len(words[n])
                    n += 1
                seen.add("stop token" if c.injected[n] else f"own end after {c.n_waits} waits")
                assert c.n_thinking == n
            if c.forced:
                seen.add("forced")
                if rule == "total":
                    assert c.n_thinking <= requests[i].budget
    assert seen >= {"forced", "stop token", "own end after 0 waits", "own end after 2 waits"}


def small_model(tokenizer):
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="packed").eval()


THINK, STOP = ["</", "think", ">"], "<|end|>"
FORCED = ["\n", *THINK, "\n", "\n"]


@pytest.mark.parametrize("decoder", ["plain", "batched"])
@pytest.mark.parametrize(
    "more, wished, written, n_thinking",
    [
        # dropped whole, and kept the second time
        (
            {"waits": 1},
            ["a", *THINK, "", "b", *THINK, "c"],
            ["a", "W", "q", "b", *THINK, "c"],
            4,
        ),
        # the end's last token may hold more; what began in an earlier token is another match
        (
            {"waits": 1},
            ["b", "</", "a</", "think", ">\n", "", "c"],
            ["b", "</", "W", "q", "c", *THINK],
            5,
        ),
        # a stop token in the middle of an end: the beginning goes, the end is written whole
        ({"budget": 9}, ["a", "</", STOP, "", "", "b"], ["a", *THINK, "b"], 1),
        # the budget ends in the middle of one
        ({"budget": 2}, ["a", "</", "think", *[""] * 5, "b"], ["a", *FORCED, "b"], 1),
        ({"budget": 2}, ["\n", "</", "think", *[""] * 4, "b"], ["\n", *FORCED[1:], "b"], 1),
        # nothing is forced
        ({}, ["a", "b", *THINK, "c"], ["a", "b", *THINK, "c"], 2),
        ({}, ["a", "</", "b", "think", ">"], ["a", "</", "b", "think", ">"], 5),
    ],
)
def test_an_end_of_several_tokens_by_hand(monkeypatch, decoder, more, wished, written, n_thinking):
    """wished: what the model wants at each step, "" while something is injected."""
    tokenizer, form = spelled_words(), FORMATS["think"]
    model = small_model(tokenizer)
    wishes = iter(wished)

    def logits(model, hidden):
        out = torch.zeros(1, len(tokenizer))
        out[0, tokenizer.convert_tokens_to_ids(next(wishes, STOP) or STOP)] = 9
        return out

    monkeypatch.setattr(models, "next_token_logits", logits)
    requests = [Request(form.prompt_ids(tokenizer, "q"), 0, 30, **more)]
    sampling = Sampling(wait="Wq")
    decoders = {"plain": generate.decode_plainly, "batched": decode}
    ((_, c),) = decoders[decoder](model, tokenizer, form, requests, sampling)
    found = tokenizer.convert_ids_to_tokens(c.ids)
    stop = [] if written[-1] == STOP else [STOP]
    assert found == written + stop
    assert c.n_thinking == n_thinking and c.forced == (more.get("budget") == 2)


def test_no_word_to_replace_an_end_of_several_tokens():
    """Nothing is drawn at the place where the end began, so a word is needed."""
    tokenizer = spelled_words()
    model = small_model(tokenizer)
    prompt = FORMATS["think"].prompt_ids(tokenizer, "q")
    with pytest.raises(BadInput, match="--wait '': .* a word has to replace it"):
        list(decode(model, tokenizer, FORMATS["think"], [Request(prompt, 0, 9, waits=1)]))
