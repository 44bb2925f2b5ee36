"""Wrong solutions of the ladder "batch"."""

from wrong import Wrong

MASK = "return prompt + completion, prompt_trained + [True] * len(completion)"
PIECES = """for piece in form.completion_pieces(form.tidy(row, tokenizer)):
# The format's own delimiters are special tokens; those of the row's texts are not.
is_own = piece in (form.open, form.end)
completion += encode(tokenizer, piece) if is_own else encode_text(tokenizer, piece, own)"""

FIT = """def fill_bins(lengths, capacity):
    bins = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [b for b in bins if sum(lengths[j] for j in b) + lengths[i] <= capacity]
        if fitting:
            CHOOSE.append(i)
        else:
            bins.append([i])
    return sorted(sorted(b) for b in bins)
"""
BEST = "max(fitting, key=lambda b: sum(lengths[j] for j in b))"

COSINE = "shape = 0.5 * (1 + math.cos(math.pi * progress))"
PROGRESS = "progress = max(0, step - n_held) / max(1, n_steps - n_held)"
END = "return peak * (floor + (1 - floor) * shape)"

WRONG = (
    Wrong(
        "training_ids",
        "the end-of-sequence token is not trained (nanochat, GRPO-Zero)",
        (
            (
                MASK,
                "return prompt + completion, prompt_trained + [True] * (len(completion) - 1) + [False]",
            ),
        ),
    ),
    Wrong(
        "training_ids",
        "no end-of-sequence token",
        (("completion.append(tokenizer.eos_token_id)", "pass"),),
    ),
    Wrong(
        "training_ids",
        "the prompt is trained, too",
        (("prompt_trained = [False] * len(prompt)", "prompt_trained = [True] * len(prompt)"),),
    ),
    Wrong(
        "training_ids",
        "the pieces are joined and tokenized together",
        (
            (
                PIECES,
                "pieces = form.completion_pieces(form.tidy(row, tokenizer))\n"
                'completion += encode(tokenizer, "".join(pieces))',
            ),
        ),
    ),
    Wrong(
        "training_ids",
        "prompt and completion are one text, the border is the prompt's length",
        (
            (
                PIECES,
                "pieces = form.completion_pieces(form.tidy(row, tokenizer))\n"
                'whole = form.prompt_text(tokenizer, row["question"], history) + "".join(pieces)\n'
                "ids = encode(tokenizer, whole)\n"
                "prompt, completion = ids[: len(prompt)], ids[len(prompt) :]",
            ),
        ),
    ),
    Wrong(
        "training_ids",
        "the mask is one place early: it belongs to the token that predicts",
        (
            (
                MASK,
                "return prompt + completion, "
                "prompt_trained[1:] + [True] * len(completion) + [False]",
            ),
        ),
    ),
    Wrong(
        "training_ids",
        "special tokens that a row's text names become special",
        ((PIECES.split("\n")[3], "completion += encode(tokenizer, piece)"),),
        costs=("turns and tags",),
    ),
    Wrong(
        "training_ids",
        "only the last turn is trained, whatever is asked for",
        (("if turns > 1:", "if False:"),),
        costs=("turns and tags",),
    ),
    Wrong(
        "training_ids",
        "tags inside a response stay there and are trained twice",
        ((PIECES.split("\n")[0], "for piece in form.completion_pieces(row):"),),
        costs=("turns and tags",),
    ),
    Wrong(
        "pack",
        "positions run on across documents",
        (("positions=positions.to(device),", "positions=torch.arange(len(ids)).to(device),"),),
    ),
    Wrong(
        "pack",
        "the first token of a document is predicted by the one before (nanochat)",
        (("is_scored = positions > 0", "is_scored = torch.arange(len(ids)) > 0"),),
    ),
    Wrong(
        "pack",
        "no shift: a token predicts itself",
        (("where=(scored_at - 1).to(device),", "where=scored_at.to(device),"),),
    ),
    Wrong(
        "pack",
        "targets are the tokens at the predicting positions",
        (("target=ids[scored_at].to(device),", "target=ids[scored_at - 1].to(device),"),),
    ),
    Wrong(
        "pack",
        "the mask is read at the position that predicts",
        (
            (
                "is_scored &= torch.tensor([bool(scored) for mask in masks for scored in mask])",
                "is_scored[1:] &= "
                "torch.tensor([bool(scored) for mask in masks for scored in mask])[:-1]",
            ),
        ),
        costs=("masks",),
    ),
    Wrong(
        "pack",
        "the masks are changed in place (nano-aha-moment edits through a view)",
        (
            (
                "is_scored = positions > 0",
                "is_scored = positions > 0\nfor mask in masks or ():\n    mask[0] = 2",
            ),
        ),
        costs=("masks",),
    ),
    Wrong(
        "pack",
        "rows are numbered by sequences that have a scored token",
        (
            (
                "row=row[scored_at].to(device),",
                "row=row[scored_at].unique(return_inverse=True)[1].to(device),",
            ),
        ),
    ),
    Wrong(
        "fill_bins",
        "in the order of the input",
        code={
            "fill_bins": FIT.replace("CHOOSE", BEST).replace(
                "sorted(range(len(lengths)), key=lambda i: -lengths[i])", "range(len(lengths))"
            )
        },
        costs=("best fit, longest first",),
    ),
    Wrong(
        "fill_bins",
        "the first bin with room",
        code={"fill_bins": FIT.replace("CHOOSE", "fitting[0]")},
        costs=("best fit, longest first",),
    ),
    Wrong(
        "fill_bins",
        "the bin with the most room",
        code={"fill_bins": FIT.replace("CHOOSE", BEST.replace("max", "min"))},
    ),
    Wrong(
        "fill_bins",
        "only the newest bin is looked at",
        code={
            "fill_bins": FIT.replace("CHOOSE", BEST).replace(
                "b for b in bins if", "b for b in bins[-1:] if"
            )
        },
    ),
    Wrong(
        "fill_bins",
        "what is longer than the capacity is dropped",
        code={
            "fill_bins": FIT.replace("CHOOSE", BEST).replace(
                "        else:", "        elif lengths[i] <= capacity:"
            )
        },
        costs=("every length",),
    ),
    Wrong(
        "fill_bins",
        "a bin may not be quite full",
        code={"fill_bins": FIT.replace("CHOOSE", BEST).replace("<= capacity", "< capacity")},
    ),
    Wrong(
        "fill_bins",
        "what is longer than the capacity waits for ever (nanochat #590)",
        code={
            "fill_bins": """def fill_bins(lengths, capacity):
    bins, left = [], sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while left:
        free, chosen = capacity, []
        for i in list(left):
            if lengths[i] <= free:
                chosen.append(i)
                free -= lengths[i]
        left = [i for i in left if i not in chosen]
        bins.append(sorted(chosen))
    return sorted(bins)
"""
        },
    ),
    Wrong(
        "lr_at",
        "the warm-up begins at step 1",
        (("return peak * step / n_warm", "return peak * (step + 1) / n_warm"),),
    ),
    Wrong(
        "lr_at",
        "the warm-up is rounded down",
        (
            (
                "n_warm = math.ceil(warmup * n_steps) if n_steps > 1 else 0",
                "n_warm = int(warmup * n_steps) if n_steps > 1 else 0",
            ),
        ),
    ),
    Wrong(
        "lr_at",
        "the decay is over all steps, not over those behind the warm-up",
        ((PROGRESS, "progress = step / n_steps"),),
    ),
    Wrong(
        "lr_at",
        "the last step has the final rate",
        ((PROGRESS, "progress = max(0, step - n_held) / max(1, n_steps - 1 - n_held)"),),
    ),
    Wrong("lr_at", "half of the cosine", ((COSINE, "shape = math.cos(math.pi / 2 * progress)"),)),
    Wrong(
        "lr_at",
        "the floor cuts the curve off instead of lifting it",
        ((END, "return peak * max(floor, shape)"),),
        costs=("hold, floor, linear",),
    ),
    Wrong(
        "lr_at",
        "the hold is counted from the end of the warm-up",
        (
            (
                "n_held = max(n_warm, round(hold * n_steps))",
                "n_held = n_warm + round(hold * n_steps)",
            ),
        ),
        costs=("hold, floor, linear",),
    ),
)
