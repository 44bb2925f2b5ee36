"""Small objects made here, where the real ones are files that the repository does not hold."""

# Qwen2.5's chat template for messages without tools, as one line of Jinja.
CHAT_TEMPLATE = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\n"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen2.5's rule for what is merged at all: words with the space before them, single digits,
# punctuation with the line ends behind it, white space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# In byte-level BPE "Ġ" is a space and "Ċ" a line end. These merges cross the borders of a format's
# pieces: "<think>" + "\n" has the token ">\n", " " + "</think>" the token " </".
ACROSS_BORDERS = [(">", "Ċ"), ("Ġ", "<"), ("Ġ<", "/"), ("<", "/")]
# Words that are one token, as they are in Qwen2.5's vocabulary.
WHOLE = (".Ċ", "ĊĊĊ", "think", "answer", "Answer", "Final", "Wait")


def merges():
    """The merges above, and those that build each whole word letter by letter."""
    found = list(ACROSS_BORDERS)
    for word in WHOLE:
        found += [(word[:end], word[end]) for end in range(1, len(word))]
    return found


def bpe_tokenizer():
    """Byte-level BPE of a few merges, with Qwen2.5's special tokens and chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [left + right for left, right in merges()]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges()))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
