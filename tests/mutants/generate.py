"""Mistakes in generate.py."""

MUTANTS = [
    (
        "generate.py",
        "if request.budget is not None and counted >= request.budget:",
        "if request.budget is not None and counted > request.budget:",
        "plain decoder: budget off by one",
        "test_decoder.py::test_budget_forcing_equals_re_encoding_everything",
    ),
    (
        "generate.py",
        "more = more and counted + n_wait < request.budget",
        "pass",
        "plain decoder: a Wait that leaves no room for a token behind it",
        "test_decoder.py::test_forcing_of_each_row_equals_re_encoding_everything",
    ),
    (
        "generate.py",
        "positions = torch.full_like(ids, position)",
        "positions = torch.full_like(ids, position - 1)",
        "plain decoder: a token overwrites the one before it in the cache",
        "test_generate.py::test_plain_gives_the_same_tokens",
    ),
    (
        "generate.py",
        'system=cfg.system or (system if isinstance(system, str) else ""),',
        "system=cfg.system,",
        "--format auto forgets the system prompt of the training",
        "test_chat.py::test_a_model_is_used_as_it_was_trained",
    ),
]
