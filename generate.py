"""A model that thinks under a budget: problems in, completions out.

Budget forcing (s1, arXiv 2501.19393, §3.1) is the heart: `force_budget` and `decode_one` below, a
sequence with a KV cache and two rules.
    1. The model has spent its budget of thinking: append the end of thinking and an answer's cue.
    2. The model wants to stop thinking too early: drop its end token and append "Wait".
--plain runs them. Otherwise engine/decoder.py decodes many sequences side by side; it gives the
same tokens and lists where both depart from s1's code.

Ways to scale test-time compute, each a flag that writes ordinary completion rows:
    budget forcing   --waits k --wait Wait, --min-thinking N, --thinking-budget N   s1, §3.1
    tell the model   --ask tokens:N | steps:N | long | short                        s1, §E.1
                     --ask l1:N | l1-max:N | first:N                        L1 (2503.04697), §3
    rejection        --thinking-budget N --over-budget reject                       s1, §5.2
    more samples     --n N --temperature T, then majority, best-of-N, pass@k in evaluate.py

A laptop, 7 seconds (after recipes/tiny.sh; 56% of the math problems are right, 43% without waits):
    python generate.py --model out/tiny/seed0/sft-s1 --data out/tiny/seed0/data/held_out.jsonl
        --out out/wait.jsonl --format think --only math --max-tokens 448 --temperature 0.7
        --waits 1 --wait wait
s1's settings:
    python generate.py --model simplescaling/s1.1-32B --data out/aime24.jsonl --format s1
        --out out/aime24-wait2.jsonl --waits 2 --thinking-budget -1 --max-tokens 32768
        --dtype bf16
s1's Figure 1: the same without --waits, with --sweep thinking_budget=500,1000,2000,4000,8000,16000
Eight GPUs, each decodes a part of the rows; with --tp 8 one model over all:
    torchrun --standalone --nproc-per-node 8 -- generate.py ...

Reads problem rows: id, question; a row's own max_tokens, waits and thinking_budget precede the
flags. Writes completion rows in the order of the problems, and the settings beside them in
OUT.config.json. A killed run leaves its finished rows in OUT.unfinished and continues from them.
--score reads rows with a completion (or with choices) and writes likelihoods.
"""

import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from engine import (
    attention,
    chat,
    ending,
    kv_cache,
    machine,
    processes,
    runlog,
    scoring,
    settings,
    sweep,
    tensor_parallel,
)
from engine import model as models
from engine.columns import check_ids, read_any
from engine.completions import RowFile, completion_row, key_of
from engine.decoder import (
    FORCE,
    FORCE_AFTER_BREAK,
    Completion,
    Control,
    Request,
    Sampling,
    decode,
    fit_slots,
    next_try,
    stop_ids,
)
from engine.format import DATE, FORMATS, ask, asked_length, with_asks, with_system
from engine.rows import BadInput, is_text, read_rows
from engine.sampling import LEAST_TEMPERATURE, LEAST_TOP_P, random_key, sample
from engine.settings import Computing, flag


@dataclass(frozen=True, kw_only=True)
class Config(Computing):
    data: str = ""  # problem rows
    out: str = ""  # completion rows to write
    # text of the thinking, see engine/format.py; auto: as the model was trained here (its
    # training.json), plain for other models
    format: Literal["auto", "s1", "s1-steps", "think", "r1", "plain"] = "auto"

    # system prompt of rows without one; with --format auto by default that of the training
    system: str = ""
    date: str = DATE  # what a chat template that writes a date takes for today
    special_in_text: bool = False  # special tokens that a row's texts name are special, not text

    n: int = 1  # samples per problem
    temperature: float = 0.0  # 0 = greedy
    top_p: float = 1.0  # keep the smallest set of tokens with this probability
    top_k: int = 0  # keep this many tokens; 0 = all
    max_tokens: int = 1024  # of a completion, thinking and injected tokens included
    stop: tuple[str, ...] = ()  # strings that end a completion wherever they appear
    logp: bool = False  # write the log-probability of each token

    waits: int = 0  # ends of thinking that are replaced by --wait
    wait: str = "Wait"  # s1 also tried "Hmm", "Alternatively" and none ('')
    min_thinking: int = 0  # replace them as often as it takes to think for this many tokens
    # tokens of thinking; 0 = none, -1 = all but 100 (s1's "auto")
    thinking_budget: int | None = None
    # of all rounds together, or of each round between waits
    budget_rule: Literal["total", "round"] = "total"
    # force the answer, or sample again until it fits (s1, §5.2)
    over_budget: Literal["force", "reject"] = "force"
    max_tries: int = 1000  # of --over-budget reject
    steps: int = 0  # force the answer after so many steps (--format s1-steps)
    # ends the questions: in which form to answer (number, answer, choice, box, letter) or how long
    # to think (tokens:N, steps:N, long, short, l1:N, l1-max:N, first:N); a row's own `asks` come
    # before
    ask: str = ""

    sweep: str = ""  # FLAG=A,B,...: one run for each value, OUT-FLAG-VALUE
    score: bool = False  # decode nothing: logp, entropy and rank of each row's own completion
    interactive: bool = False  # answer what is typed in the terminal
    only: str | None = None  # only problems of this group
    limit: int = 0  # only the first so many problems; 0 = all
    slots: int = 256  # sequences decoded side by side, if memory allows
    plain: bool = False  # decode one sequence at a time with the decoder of this file


# Settings that may differ between a run and its continuation.
FREE = ("out", "slots", "plain", "overwrite", "tp", "device")

# Tokens that --thinking-budget -1 leaves for the answer, as s1's harness does.
ANSWER_ROOM = 100

# The least value of a setting.
LEAST = {
    "n": 1,
    "top_k": 0,
    "max_tokens": 1,
    "waits": 0,
    "min_thinking": 0,
    "max_tries": 1,
    "steps": 0,
    "limit": 0,
    "slots": 1,
    "tp": 1,
}


# ---------------------------------------------------------------- one sequence, plainly


def prefill(model, prompt, max_tokens):
    """Encode a prompt, except its last token, which the first step feeds. Return the KV cache."""
    cache = kv_cache.Cache(model, 1, len(prompt) + max_tokens)
    if len(prompt) > 1:
        ids = torch.tensor(prompt[:-1], device=models.head(model).device)  # (T,)
        positions = torch.arange(len(ids), device=ids.device)
        packed = attention.Packed([len(ids)], ids.device)
        slots = torch.zeros_like(ids)  # all tokens belong to the one sequence
        sequences = attention.Prefill(packed, cache, slots, positions)
        models.hidden_states(model, ids, positions, sequences)
    return cache


def next_logits(model, cache, token, position):
    """Feed one token, whose key and value go into the cache -> logits of the next one, (1, V)."""
    ids = torch.tensor([token], device=models.head(model).device)
    positions = torch.full_like(ids, position)
    step = attention.Step(cache, positions, position)
    hidden = models.hidden_states(model, ids, positions, step)  # (1, D)
    return models.next_token_logits(model, hidden)


@dataclass
class Thought:
    """How far a sequence has thought."""

    is_open: bool  # the next token is part of it
    is_fresh: bool = False  # a round begins; its first token must not end it
    is_forced: bool = False  # the budget forced the answer
    n_tokens: int = 0
    n_round: int = 0  # own tokens since the last "Wait"
    n_waits: int = 0

    def note(self, decision, is_end, n_wait):
        """Follow a decision of force_budget. is_end: the token is the end of thinking."""
        self.is_fresh = decision == "wait" and n_wait > 0
        self.is_forced |= decision == "answer"
        if decision == "wait":
            self.n_waits += 1
            self.n_round = 0
        elif decision or is_end:
            self.is_open = False

    def take_back(self, n):
        """Uncount the last n tokens, which were no thinking."""
        self.n_tokens -= n
        self.n_round -= n

    def count(self, is_injected):
        """Count one more token, if it is one of thinking."""
        if self.is_open:
            self.n_tokens += 1
            self.n_round += not is_injected


def force_budget(thought, wants_end, request, sampling, n_wait):
    """Decide what is forced at this step (s1, §3.1) -> "answer", "wait", "end" or "" for nothing.

    wants_end: the model drew a token that ends thinking. n_wait: tokens of the wait string.
    "answer": the budget is spent, whatever the model wants. Rule "total" counts all tokens of
    thinking, "round" the model's own since the last wait. "wait": the model wants to end, but has
    waits left or has not reached its minimum; under "total" the wait string and one token behind
    it must fit into the budget. "end": it wants to end, and may. Nothing is forced after thinking,
    or on a request that asks for nothing.
    """
    if not thought.is_open:
        return ""
    counted = thought.n_tokens if sampling.budget_rule == "total" else thought.n_round
    if request.budget is not None and counted >= request.budget:
        return "answer"
    if not wants_end or not request.is_guided:
        return ""
    more = thought.n_waits < request.waits or thought.n_tokens < request.min_thinking
    if request.budget is not None and sampling.budget_rule == "total":
        # "Wait" and one token behind it must fit into the budget.
        more = more and counted + n_wait < request.budget
    return "wait" if more else "end"


class Scripts:
    """Token strings that can be forced on a sequence, and the tokens that end its thinking."""

    def __init__(self, model, tokenizer, form, sampling):
        def encode(text):
            return tokenizer.encode(text, add_special_tokens=False) if text else []

        self.wait = encode(sampling.wait)
        self.end = encode(form.end)
        self.answer = encode(form.after + form.end + form.cue)
        self.answer_after_break = encode(form.end + form.cue)
        self.ends_in_break = lambda token: tokenizer.decode([token]).endswith(form.after)
        self.end_id = form.end_id(tokenizer)
        # An end of several tokens is followed as text (engine/ending.py).
        self.watch = ending.watch_end(tokenizer, form, len(tokenizer))
        self.stops = stop_ids(model, tokenizer)
        # A stop token inside thinking is an end of thinking, too.
        self.ends = self.stops if self.end_id is None else self.stops | {self.end_id}
        first = set() if self.watch is None else {self.watch.first_id}
        device = models.head(model).device
        self.barred = torch.tensor(sorted(self.ends), device=device)
        self.barred_at_once = torch.tensor(sorted(self.ends | first), device=device)

    def of(self, decision, is_end, last):
        """The tokens to write for a decision of force_budget.

        is_end: the model has just ended its thinking; last: the token before.
        """
        if decision == "answer":  # without a second line break
            return list(self.answer_after_break if self.ends_in_break(last) else self.answer)
        if decision == "end" and is_end and self.watch is not None:
            return []  # the model has written all of it
        return list({"": [], "wait": self.wait, "end": self.end}[decision])


@torch.inference_mode()
def decode_one(model, tokenizer, form, request, sampling):
    """Decode one sequence and force its budget of thinking. Return a Completion.

    At every step the model draws a token. It is kept, unless a script ("Wait", the end of thinking,
    the cue of an answer) is being written: then the next token of the script replaces it.
    """

    def draw(logits, counter):
        how = (sampling.temperature, sampling.top_k, sampling.top_p)
        token, logp = sample(logits, key, torch.full_like(key, counter), *how)
        return token.item(), logp.item()

    form = form.fit(tokenizer)
    scripts = Scripts(model, tokenizer, form, sampling)
    key = torch.tensor([request.key], device=models.head(model).device)
    thought = Thought(bool(form.end), is_fresh=request.waits + request.min_thinking > 0)
    partial = ending.Follower(scripts.watch)  # the first tokens of an end of several
    tokens, script, injected, logps, finish = list(request.prompt), [], [], [], "length"

    cache = prefill(model, tokens, request.max_tokens)
    while (n := len(tokens) - len(request.prompt)) < request.max_tokens:
        logits = next_logits(model, cache, tokens[-1], len(tokens) - 1)[:, : len(tokenizer)]
        if thought.is_fresh and not script:  # a round does not begin with its end
            token, logp = draw(logits.index_fill(1, scripts.barred_at_once, -torch.inf), n)
        else:
            token, logp = draw(logits, n)
        if not math.isfinite(logp):
            finish = "nan"
            break
        own_end = False
        if not script:
            is_end = token == scripts.end_id
            is_end = is_end or (thought.is_open and partial.is_completed_by(token))
            wants_end = is_end or token in scripts.ends
            decision = force_budget(thought, wants_end, request, sampling, len(scripts.wait))
            own_end = decision == "end" and is_end  # the script's first token is its own
            is_replaced = decision and not own_end
            if partial.n_tokens and (is_replaced or is_end):
                # The first tokens of the end are no thinking; they go if the last is replaced.
                thought.take_back(partial.n_tokens)
                if is_replaced:
                    for written in (tokens, injected, logps):
                        del written[-partial.n_tokens :]
                partial.forget()
            if decision == "answer" and sampling.over_budget == "reject":
                finish = "rejected"
                break
            if decision == "wait" and not scripts.wait:
                # No wait string: the next likely token, drawn with another random number.
                token, logp = draw(logits.index_fill(1, scripts.barred, -torch.inf), n + 2**32)
            script = scripts.of(decision, is_end, tokens[-1])
            thought.note(decision, is_end, len(scripts.wait))
        is_injected = bool(script) and not own_end
        token = script.pop(0) if script else token
        tokens.append(token)
        injected.append(is_injected)
        logps.append(0.0 if is_injected else logp)
        if token in scripts.stops and not is_injected:
            finish = "stop"
            break
        thought.count(is_injected)
        partial.follow(token, is_own=thought.is_open and not is_injected)
    ids = tokens[len(request.prompt) :]
    counts = (thought.n_tokens, thought.n_waits, thought.is_forced)
    return Completion(ids, injected, logps, finish, *counts, n_tries=request.n_tries)


def decode_plainly(model, tokenizer, form, requests, sampling):
    """Decode the requests one after the other; yields what engine.decoder.decode yields."""
    for index, request in enumerate(requests):
        completion = decode_one(model, tokenizer, form, request, sampling)
        while completion.finish == "rejected" and completion.n_tries < sampling.max_tries:
            request = next_try(request)
            completion = decode_one(model, tokenizer, form, request, sampling)
        yield index, completion


# ---------------------------------------------------------------- problems in


def check_settings(cfg):
    """Raise BadInput for settings that are out of range or do not go together."""
    in_range = {name: getattr(cfg, name) >= least for name, least in LEAST.items()}
    in_range["temperature"] = cfg.temperature == 0 or LEAST_TEMPERATURE <= cfg.temperature
    in_range["top_p"] = LEAST_TOP_P <= cfg.top_p <= 1
    in_range["thinking_budget"] = cfg.thinking_budget is None or cfg.thinking_budget >= -1
    for name, fine in in_range.items():
        if not fine:
            raise BadInput(f"{flag(name)} {getattr(cfg, name)}: out of range")
    if cfg.steps and not FORMATS[cfg.format].has_steps:
        raise BadInput(f"--steps {cfg.steps}: --format {cfg.format} has no steps (s1-steps has)")
    if cfg.over_budget == "reject" and (cfg.thinking_budget is None or cfg.temperature == 0):
        raise BadInput(
            "--over-budget reject samples until --thinking-budget is kept: it needs one, "
            "and --temperature"
        )
    has_budget = cfg.thinking_budget is not None and cfg.thinking_budget != -1
    if has_budget and cfg.thinking_budget < cfg.min_thinking:
        raise BadInput(
            f"--min-thinking {cfg.min_thinking} is more than "
            f"--thinking-budget {cfg.thinking_budget}"
        )
    if cfg.ask:
        ask("", cfg.ask)
    if cfg.plain:
        check_plain(cfg)
    if not cfg.data:
        raise BadInput("--data: problem rows are needed (or --interactive)")
    if not cfg.out:
        raise BadInput("--out: where to write is needed")
    if Path(cfg.out).resolve() == Path(cfg.data).resolve():
        raise BadInput(f"--out {cfg.out} is --data")


def check_plain(cfg):
    """Raise BadInput for what the plain decoder does not serve."""
    refused = {
        "--format s1-steps": FORMATS[cfg.format].has_steps,
        "--stop": cfg.stop,
        "--score": cfg.score,
        "--interactive": cfg.interactive,
        "--tp": cfg.tp > 1,
    }
    for name, given in refused.items():
        if given:
            raise BadInput(f"--plain decodes one sequence with the shortest code: not with {name}")


def load_problems(cfg):
    """Return the problem rows that cfg asks for. Raises BadInput for a row that is no problem."""
    problems = read_any(cfg.data, ("id", "question"))
    if cfg.only is not None:
        problems = [problem for problem in problems if problem.get("group") == cfg.only]
    if not problems:
        raise BadInput(f"{cfg.data}: no row of --only {cfg.only}")
    if cfg.limit:
        problems = problems[: cfg.limit]
    for problem in problems:
        check_problem(problem, cfg.data)
    # Only rows to score already have a sample number.
    keys = [key_of(p if cfg.score else {"id": p["id"]}) for p in problems]
    check_ids(cfg.data, keys)
    try:
        return with_asks(with_system(problems, cfg.system), cfg.ask)
    except BadInput as error:
        raise BadInput(f"{cfg.data}: {error}") from error


def check_problem(problem, path):
    """Raise BadInput, naming the row, for a field of another type. path: of the rows."""
    name, question = problem["id"], problem["question"]
    if not isinstance(name, int) and not is_text(name) or not is_text(question):
        raise BadInput(f"{path}: row {name!r}: id or question is not a text")
    for field, least in (("max_tokens", 1), ("waits", 0), ("thinking_budget", 0)):
        value = problem.get(field, least)
        if type(value) is not int or value < least:
            raise BadInput(f"{path}: row '{name}': {field} {value!r} is not a number of tokens")


def sampling_of(cfg):
    """Return the settings that all requests share."""
    return Sampling(
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        top_k=cfg.top_k,
        wait=cfg.wait,
        budget_rule=cfg.budget_rule,
        over_budget=cfg.over_budget,
        max_tries=cfg.max_tries,
        stop=cfg.stop,
    )


def as_trained(cfg):
    """Settings with --format auto replaced: by the format and system prompt of a training here.

    Raises BadInput for a training.json that cannot be read.
    """
    if cfg.format != "auto":
        return cfg
    file = Path(cfg.model) / "training.json"
    trained = runlog.read_settings(file) if file.is_file() else {}
    name, system = trained.get("format"), trained.get("system")
    return dataclasses.replace(
        cfg,
        format=name if name in FORMATS else "plain",
        system=cfg.system or (system if isinstance(system, str) else ""),
    )


def budget_warning(cfg):
    """A line where --ask names a length beyond those that the model was trained with, else ""."""
    file = Path(cfg.model) / "training.json"
    trained = runlog.read_settings(file).get("budgets") if file.is_file() else None
    asked, _ = asked_length({"asks": [cfg.ask]}) or (None, None)
    if not trained or asked is None or trained[0] <= asked <= trained[1]:
        return ""
    return (
        f"warning: --ask {cfg.ask}: the model was trained with budgets of {trained[0]} to "
        f"{trained[1]} tokens; it may not keep another"
    )


def format_of(cfg, tokenizer):
    """Return the format, fitted to the tokenizer's template. Raises BadInput if it cannot be."""
    form = FORMATS[cfg.format].fit(tokenizer, cfg.date, cfg.special_in_text)
    form.check(tokenizer)
    return form


def prompt_of(cfg, problem, tokenizer, form):
    """Return the ids of a problem's prompt, with its own history. Raises BadInput."""
    try:
        return form.row_prompt_ids(tokenizer, problem)
    except BadInput as error:
        raise BadInput(f"{cfg.data}: {error}") from error


def make_requests(cfg, problems, model, tokenizer, form):
    """Return (requests, the (problem, sample number) of each, messages on the prompts left out).

    Raises BadInput for what model, tokenizer and format cannot serve.
    """
    asked = [
        Request(
            prompt=prompt_of(cfg, problem, tokenizer, form),
            key=0,
            max_tokens=problem.get("max_tokens", cfg.max_tokens),
            waits=problem.get("waits", cfg.waits),
            budget=problem.get("thinking_budget", cfg.thinking_budget),
            min_thinking=cfg.min_thinking,
            steps=cfg.steps,
        )
        for problem in problems
    ]
    control = Control(model, tokenizer, form, sampling_of(cfg), asked)
    context = models.context_length(model)
    requests, todo, skipped = [], [], []
    for problem, request in zip(problems, asked):
        has_own_limits = problem.keys() & {"thinking_budget", "max_tokens"}
        where = f"{cfg.data}: row '{problem['id']}': " if has_own_limits else ""
        fitted = fit_request(request, control, context, where)
        if fitted is None:
            skipped.append(
                f"skipped: the prompt of row '{problem['id']}' has {len(request.prompt)} tokens, "
                f"the context {context}"
            )
            continue
        for number in range(cfg.n):
            key = random_key(cfg.seed, problem["id"], number)
            requests.append(fitted._replace(key=key))
            todo.append((problem, number))
    return requests, todo, skipped


def fit_request(request, control, context, where):
    """Fit max_tokens and budget into what the prompt leaves of the context.

    Returns None for a prompt that does not leave enough: one token or, with a budget, the thinking,
    what ends it, and one token of an answer. Raises BadInput for a budget that leaves no answer in
    max_tokens. where: the beginning of its message.
    """
    n_prompt = len(request.prompt)
    room = min(request.max_tokens, context - n_prompt)
    answer = 0 if control.reject else control.lengths[FORCE] + 1
    budget = request.budget
    possible = True
    if budget is None:
        needed = 1
    elif budget == -1:
        # s1's "auto". Under rule "round" it is each round's, and the context ends the later rounds,
        # as in s1's harness.
        reserved = control.lengths[FORCE_AFTER_BREAK] + ANSWER_ROOM
        possible = request.max_tokens >= reserved
        budget = min(request.max_tokens, context) - n_prompt - reserved
        needed = budget + answer
    else:
        needed = control.most_thinking(request) + answer
        possible = needed <= request.max_tokens
    if not possible:
        raise BadInput(
            f"{where}--thinking-budget {request.budget} leaves no room for an answer in "
            f"--max-tokens {request.max_tokens}"
        )
    if room < needed or (budget is not None and budget < 0):
        return None
    return request._replace(max_tokens=room, budget=budget)


# ---------------------------------------------------------------- rows out


def completion_rows(cfg, model, tokenizer, form, requests, todo):
    """Decode the requests and yield a row for each as it finishes."""
    sampling = sampling_of(cfg)
    if cfg.plain:
        found = decode_plainly(model, tokenizer, form, requests, sampling)
    else:
        found = decode(model, tokenizer, form, requests, sampling, cfg.slots)
    for index, completion in found:
        problem, number = todo[index]
        if completion.finish == "nan":
            tqdm.write(
                f"row '{problem['id']}': the model's logits are not finite after "
                f"{len(completion.ids)} tokens",
                file=sys.stderr,
            )
        yield completion_row(problem, number, completion, tokenizer, form, cfg.logp)


def load_model(cfg):
    """Return (model, tokenizer, ranks). ranks: under torchrun, this process's part of the work."""
    ranks = processes.join_ranks(cfg.device, cfg.tp)
    dtype = torch.bfloat16 if cfg.dtype == "bf16" else torch.float32
    model, tokenizer = tensor_parallel.load_split(cfg.model, ranks, dtype)
    return model, tokenizer, ranks


def main(cfg, loaded=None):
    """Generate and write the rows. Return them (of a sweep a list for each run).

    loaded: of load_model, to load a model only once.
    """
    cfg = as_trained(cfg)
    if cfg.interactive:
        return chat_with(cfg)
    if cfg.sweep:
        cfg = machine.on_device(cfg)
        runs = sweep.runs_of_sweep(cfg)
        for run in runs:
            check_settings(run)
        loaded = loaded or load_model(cfg)
        return [main(run, loaded) for run in runs]
    check_settings(cfg)
    cfg = machine.on_device(cfg)
    problems = load_problems(cfg)
    with runlog.locked(cfg.out):
        file = RowFile(cfg, FREE)
        if file.complete:
            print(f"{file.path}: this run is complete")
            return read_rows(file.path)
        loaded = loaded or load_model(cfg)
        format_of(cfg, loaded[1])
        work = score_given if cfg.score else answer_problems
        return work(cfg, problems, file, *loaded)


def answer_problems(cfg, problems, file, model, tokenizer, ranks):
    """Decode completions of the problems that are not in the file yet. Return all rows."""
    form = format_of(cfg, tokenizer)
    # What cannot be served is refused before a file is touched.
    requests, todo, skipped = make_requests(cfg, problems, model, tokenizer, form)
    if ranks.leads:
        for line in [form.fitted.describe(), budget_warning(cfg), *skipped]:
            if line:
                print(line)
    if not requests:
        raise BadInput(f"{cfg.data}: no prompt fits into the context")
    keys = [key_of({"id": problem["id"], "sample": number}) for problem, number in todo]
    left = places_left(keys, problems, file.open(ranks), ranks)
    requests = [requests[i] for i in left]
    todo = [todo[i] for i in left]
    if requests and not cfg.plain:
        line = describe_cache(model, requests, cfg.slots)  # ranks that share a model ask together
        if ranks.leads:
            print(line)
    rows = completion_rows(cfg, model, tokenizer, form, requests, todo)
    return write_rows_as_they_finish(cfg, rows, len(left), keys, file, ranks, len(skipped))


def score_given(cfg, given, file, model, tokenizer, ranks):
    """Score the completions of the given rows that are not in the file yet. Return all rows."""
    form = format_of(cfg, tokenizer)
    pairs = scoring.pairs_to_score(given, model, tokenizer, form, cfg.data)
    keys = [key_of(row) for row in given]
    left = places_left(keys, given, file.open(ranks), ranks)
    rows = scoring.score_rows(
        [given[i] for i in left],
        [pairs[i] for i in left],
        model,
        cfg.temperature or 1.0,
        len(tokenizer),
    )
    return write_rows_as_they_finish(cfg, rows, len(left), keys, file, ranks)


def places_left(keys, problems, done, ranks):
    """Return the places of the keys that this process has to serve: its problems', and not done."""
    # By id: rows to score may be several samples of one problem.
    part = {str(problem["id"]): place % ranks.n for place, problem in enumerate(problems)}
    return [
        place for place, key in enumerate(keys) if part[key[0]] == ranks.index and key not in done
    ]


def describe_cache(model, requests, slots):
    """Return a line on the memory that decoding these requests takes."""
    slots = fit_slots(model, requests, slots)
    longest = max(len(request.prompt) + request.max_tokens for request in requests)
    n_bytes = (slots + 1) * longest * kv_cache.bytes_per_token(model)
    return f"{slots} slots of {longest} tokens, a cache of {n_bytes / 1e9:.2g} GB"


def write_rows_as_they_finish(cfg, rows, n_rows, keys, file, ranks, n_skipped=0):
    """Write this process's n_rows rows, then the file in the order of `keys`. Return all rows."""
    n_tokens = n_cut = 0
    began = time.perf_counter()
    try:
        with tqdm(total=n_rows, desc=cfg.out, disable=None if ranks.leads else True) as bar:
            for row in rows:
                file.add(row)
                n_tokens += row.get("n_tokens", 0)
                n_cut += row.get("finish") == "length"
                speed = n_tokens / (time.perf_counter() - began)
                bar.set_postfix_str(f"{speed:.0f} tokens/s", refresh=False)
                bar.update()
    except torch.OutOfMemoryError as error:
        raise BadInput(
            f"--slots {cfg.slots}: out of memory; finished rows are kept, fewer slots continue"
        ) from error
    n_tokens, n_cut = processes.sum_over_ranks([n_tokens, n_cut], ranks)
    seconds = time.perf_counter() - began
    written = file.close(
        keys, n_tokens=n_tokens, seconds=round(seconds, 2), skipped_prompts=n_skipped
    )
    if ranks.leads:
        print(
            f"{cfg.out}: {len(keys)} rows, {n_tokens / max(seconds, 1e-9):.0f} tokens/s, "
            f"{n_cut} cut by --max-tokens, {n_skipped} prompts skipped"
        )
    return written


def chat_with(cfg):
    """Answer what is typed in the terminal (engine/chat.py)."""
    cfg = dataclasses.replace(cfg, data="typed", out="shown")
    check_settings(cfg)
    cfg = machine.on_device(cfg)
    print(f"loading {cfg.model} ...", flush=True)
    model, tokenizer, ranks = load_model(cfg)
    if ranks.n > 1 or ranks.group is not None:
        raise BadInput("--interactive: one process only, not under torchrun")
    stops = stop_ids(model, tokenizer)

    def check(cfg):
        check_settings(cfg)
        problem = {"id": "typed", "question": "?"}
        make_requests(cfg, [problem], model, tokenizer, format_of(cfg, tokenizer))

    def answer(cfg, problem, history):
        form = format_of(cfg, tokenizer)
        (problem,) = with_system([problem | {"history": history}], cfg.system)
        (problem,) = with_asks([problem], cfg.ask)
        requests, _, skipped = make_requests(cfg, [problem], model, tokenizer, form)
        if skipped:
            raise BadInput("the conversation has outgrown the context; /new begins anew")
        watch = chat.Display(tokenizer, form, stops)
        sampling = sampling_of(cfg)
        ((_, completion),) = decode(model, tokenizer, form, requests[:1], sampling, 1, watch)
        return completion_row(problem, 0, completion, tokenizer, form)

    check(cfg)
    given = f", system prompt {cfg.system!r}" if cfg.system else ""
    print(f"--format {cfg.format}{given}")
    if line := format_of(cfg, tokenizer).fitted.describe():
        print(line)
    chat.chat(cfg, check, answer)


if __name__ == "__main__":
    settings.cli(main, Config)
