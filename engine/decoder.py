"""The batched decoder: many sequences side by side in the slots of one cache, with forced budgets.

generate.py has the same decoder for one sequence in plain Python; both give the same tokens.

    cache   one slot per sequence, allocated once. Prompts are encoded into it packed, without
            padding, and only once for all samples of a prompt
    step    every live sequence feeds its newest token and gets the next one, sampled or injected.
            The state of a sequence is one row of a few tensors, which tensor operations change in
            place. A step never asks the device for a value, so that on a GPU it is recorded once
            as a CUDA graph and replayed
    poll    every few steps finished sequences are taken out, the last live slots move into the
            holes, and waiting requests get the free slots at once (continuous batching, Yu et al.
            2022, "Orca")

Budget forcing (s1, arXiv 2501.19393, §3.1), per sequence:

    the model wants to end thinking and has `waits` left -> drop its end token, append "Wait"
    `budget` tokens of thinking are spent                -> append the end of thinking and the cue
                                                            of an answer

Appended tokens are fed like any other: the cache is never rebuilt and no token is encoded twice.
They count as thinking and are marked as injected, so that training can leave them out.

Departs from s1's evaluation code in:
1. The budget is that of all rounds together, as in s1's README. Its harness starts the budget anew
   after each "Wait" (rule "round"). The harness then cuts the token ids, but not the text, to one
   budget; we do not.
2. A "Wait" that would leave no room for one more token is not appended.
3. An end-of-sequence token inside thinking is an end of thinking whenever something is forced.
"""

from collections import deque
from itertools import groupby
from typing import NamedTuple

import torch
import torch.distributed as dist

from engine import attention, ending, kv_cache, machine, onednn, packing
from engine import model as models
from engine.rows import BadInput
from engine.sampling import random_key, sample

# Steps between two looks at which sequences are done. A look waits for the GPU.
POLL = {"cuda": 8, "mps": 8, "cpu": 2}

PREFILL = 16384  # prompt tokens encoded at once

NO_BUDGET = 2**40


class Request(NamedTuple):
    """One sequence to decode."""

    prompt: list[int]
    key: int  # of the random numbers of this sample
    max_tokens: int
    waits: int = 0  # ends of thinking that are replaced by Sampling.wait
    budget: int | None = None  # tokens of thinking
    min_thinking: int = 0  # tokens of thinking before it may end, however many waits that takes
    steps: int = 0  # steps of thinking, in a format that has them; 0 = as many as the model wants
    n_tries: int = 1  # this one and those rejected before it

    @property
    def is_guided(self):
        """Whether something may be forced on it."""
        return self.budget is not None or self.waits + self.min_thinking + self.steps > 0


class Sampling(NamedTuple):
    """Settings that all requests of a call share, named as in generate.Config."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    wait: str = ""
    budget_rule: str = "total"
    over_budget: str = "force"
    max_tries: int = 1
    stop: tuple[str, ...] = ()


class Completion(NamedTuple):
    """A decoded sequence."""

    ids: list[int]  # every generated token, the stop token included
    injected: list[bool]  # written by budget forcing, not by the model
    logp: list[float]  # of each token at the sampling temperature; 0 where injected
    finish: str  # one of FINISH
    n_thinking: int
    n_waits: int
    forced: bool  # the budget forced the answer
    stop: str | None = None  # the stop string that ended it, if one did
    n_tries: int = 1


# ran into max_tokens, stopped, too long in every try, logits not finite
FINISH = ("length", "stop", "rejected", "nan")

STOPPED, REJECTED, BROKEN = 1, 2, 3  # places in FINISH

# Scripts: token strings that the decoder can inject.
NONE, WAIT, END, FORCE, FORCE_AFTER_BREAK = range(5)


# ---------------------------------------------------------------- settings as tensors


class Control:
    """Format and settings as a step needs them: token ids, and tables over the vocabulary.

    Raises BadInput for a format in which the requested forcing is impossible, and for a wait string
    outside the vocabulary.
    """

    def __init__(self, model, tokenizer, form, sampling, requests):
        head = models.head(model)
        self.device = head.device
        # The head may be larger than the vocabulary; tokens beyond it are never drawn.
        self.n_tokens = min(len(tokenizer), len(head))
        self.rule = sampling.budget_rule
        self.reject = sampling.over_budget == "reject"
        self.stop_strings = [string for string in sampling.stop if string]
        self.has_waits = any(r.waits or r.min_thinking for r in requests)
        self.has_budget = any(r.budget is not None for r in requests)
        self.active = any(r.is_guided for r in requests)
        form = form.fit(tokenizer)
        self.has_thinking = bool(form.end)
        self.has_steps = form.has_steps
        # The end of thinking takes several tokens: its text is followed instead.
        self.watch = ending.watch_end(tokenizer, form, self.n_tokens)
        if self.watch is not None:
            following, begins = self.watch.following, self.watch.begins
            self.following, self.begins = following.to(self.device), begins.to(self.device)
        self.make_scripts(tokenizer, form, sampling)
        self.make_tables(model, tokenizer, form)

    def make_scripts(self, tokenizer, form, sampling):
        """Encode what may be injected, and the tokens that announce the end of thinking."""

        def encode(text):
            return tokenizer.encode(text, add_special_tokens=False) if text else []

        scripts = [
            [],
            encode(sampling.wait),
            encode(form.end),
            encode(form.after + form.end + form.cue),
            encode(form.end + form.cue),
        ]
        end_id = form.end_id(tokenizer)
        if self.active and not form.end:
            raise BadInput(
                f"--format {form.name}: it has no thinking of its own, which --waits, "
                "--thinking-budget and --steps cut or prolong (think, s1 and r1 have)"
            )
        if self.active and end_id is None and self.watch is None:
            raise BadInput(
                f"--format {form.name}: this tokenizer has no single token that ends thinking, "
                "nor a text for it, which forcing (--waits, --thinking-budget, --steps) needs"
            )
        if self.watch is not None and self.has_waits and not sampling.wait:
            raise BadInput(
                f"--wait '': this tokenizer has no single token for '{form.end}', "
                "so a word has to replace it"
            )
        if self.has_waits and form.has_steps:
            raise BadInput(
                f"--waits: --format {form.name} counts steps, which cannot be prolonged by a word"
            )
        if self.has_waits and sampling.wait:
            if not scripts[WAIT] or tokenizer.unk_token_id in scripts[WAIT]:
                raise BadInput(f"--wait {sampling.wait!r} is not in this tokenizer's vocabulary")
        self.end_id = -1 if end_id is None else end_id
        # With steps the second token of the delimiter tells an answer from one more step.
        self.answer_id = scripts[END][1] if len(scripts[END]) > 1 else -1
        self.lengths = [len(script) for script in scripts]
        self.wait_length = self.lengths[WAIT]
        width = max(1, *self.lengths)
        padded = [script + [0] * (width - len(script)) for script in scripts]
        self.script = torch.tensor(padded, device=self.device)  # (5, width)
        self.script_length = torch.tensor(self.lengths, device=self.device)  # (5,)

    def make_tables(self, model, tokenizer, form):
        """Make tables over the vocabulary: tokens that stop, end thinking, end in a line break."""

        def table(ids):
            found = torch.zeros(self.n_tokens, dtype=torch.bool)
            found[[i for i in ids if 0 <= i < self.n_tokens]] = True
            return found.to(self.device)

        stops = stop_ids(model, tokenizer)
        self.is_stop = table(stops)
        self.is_end = table(stops if form.has_steps else stops | {self.end_id})
        self.bars_round = self.is_end  # tokens that do not begin a round of thinking
        if self.watch is not None:
            self.bars_round = self.is_end | table([self.watch.first_id])
        # s1 writes a line break before the forced end of thinking unless the text just had one.
        self.breaks = table([])
        if self.has_budget and form.after:
            pieces = tokenizer.batch_decode([[i] for i in range(self.n_tokens)])
            self.breaks = table(i for i, piece in enumerate(pieces) if piece.endswith(form.after))

    def most_thinking(self, request):
        """Return the largest number of thinking tokens that a request with a budget can reach."""
        if self.rule == "total":
            return request.budget
        before_last_round = request.waits * (request.budget + self.wait_length)
        if request.min_thinking:
            # The minimum asks for one more round when it is missed by a single token.
            just_missed = request.min_thinking - 1 + self.wait_length
            before_last_round = max(before_last_round, just_missed)
        return before_last_round + request.budget


def stop_ids(model, tokenizer):
    """Return the ids that end a completion: the tokenizer's and the model's generation config's."""
    config = getattr(model, "generation_config", None)
    ids = config.eos_token_id if config is not None else None
    ids = ids if isinstance(ids, list) else [ids]
    return {tokenizer.eos_token_id, *ids} - {None}


def new_state(slots, width, device):
    """Return the state of the sequences: tensors with one row per slot, changed in place.

    width: the largest number of tokens of a completion.
    """

    def column(dtype=torch.int64, *shape):
        return torch.zeros(slots, *shape, dtype=dtype, device=device)

    return {
        # the request
        "index": column(),
        "key": column(),
        "limit": column(),
        "waits": column(),
        "budget": column(),
        "min_thinking": column(),
        "steps": column(),
        "guided": column(torch.bool),  # something may be forced on it
        # what is fed next, and how many tokens the cache has
        "token": column(),
        "length": column(),
        "prompt_end": column(),  # the last token of the prompt
        # counts
        "n": column(),  # tokens of the completion
        "n_thinking": column(),
        "n_round": column(),  # own tokens of thinking since the last "Wait"
        "n_waits": column(),
        "n_steps": column(),
        # where the sequence is
        "thinking": column(torch.bool),
        # Before the first token of a round of thinking. As in s1's harness, the very first round
        # counts if more can follow.
        "fresh": column(torch.bool),
        "script": column(),  # the script that is being injected
        "at": column(),  # how much of it is written
        "forced": column(torch.bool),
        "done": ~column(torch.bool),
        "finish": column(),
        # an end of thinking of several tokens: its characters and tokens written so far
        "match": column(),
        "n_match": column(),
        # the completion; the one extra cell is where the steps of a finished sequence write
        "ids": column(torch.int64, width + 1),
        "injected": column(torch.bool, width + 1),
        "logp": column(torch.float32, width + 1),
    }


# ---------------------------------------------------------------- one step


def advance(state, logits, control, sampling, group=None):
    """Choose the next token of each sequence, sampled or injected, and update the state in place.

    logits: (B, V). group: ranks that compute the same logits; the choice of its first rank holds.
    All steps are tensor operations without a branch on a value, so that a CUDA graph can hold them.
    """
    alive = ~state["done"]
    logits = logits[:, : control.n_tokens]
    if control.has_waits:
        # A round of thinking does not begin with its own end.
        logits = logits.masked_fill(state["fresh"][:, None] & control.bars_round, -torch.inf)

    # 1. Draw a token. Its logp is not finite if a logit is NaN or infinite.
    token, logp = draw(state, logits, state["n"], sampling, group)
    sound = alive & logp.isfinite()

    # 2. What does the model want?
    wish = read_wish(state, token, sound, control)
    own_end = wish.own_end

    # 3. What is forced on it?
    injected = torch.zeros_like(alive)
    if control.active:
        decision = force_budget(state, wish, control)
        if control.has_waits and not control.wait_length:
            # No wait string: the next likely token replaces the end of thinking.
            barred = logits.masked_fill(control.is_end, -torch.inf)
            # Another counter, so that the random number is another one.
            other, other_logp = draw(state, barred, state["n"] + 2**32, sampling, group)
            token = torch.where(decision.waits, other, token)
            logp = torch.where(decision.waits, other_logp, logp)
        begin_scripts(state, decision, own_end, control)
        token, scripted = next_of_script(state, token, alive, control)
        # The model's own end token stays its own where a script writes the same token.
        own_end = own_end & (decision.ends | ~state["guided"])
        injected = scripted & ~own_end

    # 4. Write it down.
    state["thinking"] &= ~own_end
    if control.watch is not None:
        # Its first tokens were counted as thinking before it was complete.
        state["n_thinking"] -= torch.where(own_end, state["n_match"], 0)
        follow_end(state, token, injected, control)
    record(state, token, logp.masked_fill(injected, 0), injected, sound, control)


def draw(state, logits, counter, sampling, group):
    """logits (B, V), counter (B,) -> token (B,), logp (B,); one token for all ranks of a group."""
    token, logp = sample(
        logits,
        state["key"],
        counter,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
    )
    if group is not None:
        dist.broadcast(token, dist.get_global_rank(group, 0), group)
    return token, logp


class Wish(NamedTuple):
    """What the drawn tokens say, each (B,) bool. All False while a script is being injected."""

    thinking: torch.Tensor  # the sequence is inside its thinking
    end: torch.Tensor  # and wants to end it
    own_end: torch.Tensor  # with the format's own delimiter


def read_wish(state, token, sound, control):
    """Compare the drawn token (B,) with the tokens that end thinking -> Wish. Counts steps."""
    free = sound
    if control.active:
        free = sound & (state["at"] >= control.script_length[state["script"]])
    thinking = free & state["thinking"]
    end = thinking & control.is_end[token]
    if control.has_steps:
        # Each step begins with the first token of the delimiter, as the answer does.
        header = thinking & (token == control.end_id)
        state["n_steps"] += header
        end |= header & (state["n_steps"] == state["steps"])
        answers = thinking & (state["token"] == control.end_id) & (token == control.answer_id)
        state["thinking"] &= ~answers
        # The header before `answer` was counted as thinking.
        state["n_thinking"].sub_(answers.long()).clamp_(min=0)
    own_end = end & (token == control.end_id)
    if control.watch is not None:
        own_end = thinking & (control.following[state["match"], token] == control.watch.full)
        end = end | own_end
        # The token may hold the whole end itself: then no earlier one is part of it.
        state["n_match"].masked_fill_(own_end & control.begins[state["match"], token], 0)
    return Wish(thinking, end, own_end)


def follow_end(state, token, injected, control):
    """Note how much of an end of several tokens is written. What is injected begins anew."""
    before = state["match"]
    after = control.following[before, token]
    over = injected | ~state["thinking"] | (after == control.watch.full)
    after = after.masked_fill(over, 0)
    n_match = torch.where(control.begins[before, token], 1, state["n_match"] + 1)
    state["n_match"].copy_(n_match.masked_fill(after == 0, 0))
    state["match"].copy_(after)


def take_back(state, rows, control):
    """Remove the beginning of an end of thinking from the completions in `rows`, (B,) bool.

    Its tokens are in the cache, too, behind the new length, where they are overwritten.
    """
    n = torch.where(rows, state["n_match"], 0)
    for name in ("length", "n", "n_thinking", "n_round"):
        state[name] -= n
    state["n_match"] -= n
    state["match"].masked_fill_(rows, 0)
    # The newest token is the one before, which tells whether a line break precedes the script.
    last = state["ids"].gather(1, (state["n"] - 1).clamp(min=0)[:, None])[:, 0]
    last = torch.where(state["n"] > 0, last, state["prompt_end"])
    state["token"].copy_(torch.where(n > 0, last, state["token"]))


class Decision(NamedTuple):
    """What is forced on the sequences, each (B,) bool; at most one of them is True in a row."""

    spent: torch.Tensor  # the budget is spent: end thinking and ask for the answer
    waits: torch.Tensor  # the model wants to end, and has to wait
    ends: torch.Tensor  # the model wants to end, and may


def force_budget(state, wish, control):
    """Decide what is forced on each sequence (s1, §3.1) -> Decision. Changes nothing.

    The rules are those of generate.py's force_budget, for a column of sequences and without a
    branch on a value: state holds (B,) tensors, control.rule is "total" or "round" and
    control.wait_length the tokens of the wait string.
    """
    wants_end = wish.end & state["guided"]
    more = (state["n_waits"] < state["waits"]) | (state["n_thinking"] < state["min_thinking"])
    if control.rule == "total":
        counted = state["n_thinking"]
        # "Wait" and one token behind it must fit into the budget.
        more &= counted + control.wait_length < state["budget"]
    else:
        counted = state["n_round"]
    spent = wish.thinking & (counted >= state["budget"])
    waits = wants_end & more & ~spent
    ends = wants_end & ~more & ~spent
    return Decision(spent, waits, ends)


def begin_scripts(state, decision, own_end, control):
    """Start the script that each decision asks for, and note what it changes."""
    spent, waits, ends = decision
    if control.watch is not None:
        # The model's own end stays as it is: only a stop token in its place needs the script.
        ends = ends & ~own_end
        take_back(state, spent | waits | ends, control)
    force = torch.where(control.breaks[state["token"]], FORCE_AFTER_BREAK, FORCE)
    script = torch.where(spent, force, torch.where(waits, WAIT, END))
    begins = spent | waits | ends
    state["script"].copy_(torch.where(begins, script, state["script"]))
    state["at"].masked_fill_(begins, 0)
    state["n_waits"] += waits
    state["n_round"].masked_fill_(waits, 0)
    state["thinking"] &= ~(spent | ends)
    if control.reject:
        state["finish"].masked_fill_(spent, REJECTED)
    else:
        state["forced"] |= spent


def next_of_script(state, token, alive, control):
    """Replace the token where a script is under way -> token (B,), scripted (B,) bool."""
    length = control.script_length[state["script"]]
    scripted = alive & (state["at"] < length)
    at = state["at"].clamp(max=control.script.shape[1] - 1)
    token = torch.where(scripted, control.script[state["script"], at], token)
    state["at"] += scripted
    is_complete = scripted & (state["at"] == length)
    state["fresh"].copy_(is_complete & (state["script"] == WAIT))
    return token, scripted


def record(state, token, logp, injected, sound, control):
    """Append the token to each completion, count it, and note which completions are over."""
    alive = ~state["done"]
    at = state["n"][:, None]  # (B, 1)
    state["ids"].scatter_(1, at, token[:, None])
    state["logp"].scatter_(1, at, logp[:, None])
    state["injected"].scatter_(1, at, injected[:, None])

    stops = alive & control.is_stop[token] & ~injected
    counts = sound & state["thinking"] & ~stops
    # The token at which a try is rejected is not part of it.
    state["n"] += sound & (state["finish"] != REJECTED)
    state["n_thinking"] += counts
    state["n_round"] += counts & ~injected
    state["finish"].masked_fill_(stops, STOPPED).masked_fill_(alive & ~sound, BROKEN)
    state["done"] |= (state["finish"] > 0) | (state["n"] >= state["limit"])
    state["token"].copy_(token)


class Stepper:
    """One decoding step of the first sequences.

    On CUDA it is recorded once per batch size as a graph and replayed: launching the many small
    operations of a step takes the host longer than computing them takes the GPU.
    """

    def __init__(self, model, cache, state, control, sampling):
        self.model = model
        self.cache = cache
        self.state = state
        self.control = control
        self.sampling = sampling
        self.group = getattr(model, "group", None)
        # A rotary embedding that depends on the longest sequence would ask the device for it.
        self.use_graphs = models.head(model).is_cuda and models.rope_limit(model) is None
        self.graphs = {}  # number of sequences -> its graph
        self.pool = None
        self.live = {}  # number of sequences -> views of their rows of the state

    def __call__(self, n_live, longest):
        """longest: the length of the longest live sequence, or more."""
        if not self.use_graphs:
            self.run(n_live, longest)
            return
        # A power of two covers the live sequences; the rows behind them are done and do not change.
        size = min(1 << (n_live - 1).bit_length(), self.cache.slots - 1)
        if size not in self.graphs:
            self.record_graph(size)
        else:
            self.graphs[size].replay()

    def record_graph(self, size):
        """Take one step of `size` sequences, and record it for the following ones."""
        longest = self.cache.max_len - 1
        self.run(size, longest)  # compiles what a step needs
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):  # records and does not compute
            self.run(size, longest)
        self.graphs[size] = graph
        self.pool = graph.pool()

    def run(self, n, longest):
        """Feed the newest token of each sequence and choose the next."""
        if n not in self.live:
            self.live[n] = {name: tensor[:n] for name, tensor in self.state.items()}
        live = self.live[n]
        step = attention.Step(self.cache, live["length"], longest)
        hidden = models.hidden_states(self.model, live["token"], live["length"], step)
        # A finished sequence steps along until it is taken out: it must stay inside its slot.
        live["length"].add_(1).clamp_(max=self.cache.max_len - 1)
        logits = models.next_token_logits(self.model, hidden)
        advance(live, logits, self.control, self.sampling, self.group)


# ---------------------------------------------------------------- decoding


@torch.inference_mode()
def decode(model, tokenizer, form, requests, sampling=None, slots=256, watch=None):
    """Decode the requests. Yield (index of the request, Completion) as they finish.

    form: engine.format.Format. slots: the most sequences decoded side by side; fewer if memory is
    short. watch(state, n_live): called after every step.

    The same requests and settings give the same text for any number of slots and any order, up to
    the rounding of the matrix products, whose last bit depends on the batch. Raises BadInput for
    what the tokenizer or the format cannot serve, and if memory does not hold one sequence.
    """
    if not requests:
        return
    requests = list(requests)
    sampling = sampling or Sampling()
    control = Control(model, tokenizer, form, sampling, requests)
    batch = LiveSequences(model, requests, fit_slots(model, requests, slots), control.has_thinking)
    step = Stepper(model, batch.cache, batch.state, control, sampling)
    waiting = deque(enumerate(requests))
    steps_per_look = 1 if watch or control.stop_strings else POLL[batch.device.type]
    with onednn.reordered_weights(model, batch.cache.slots):
        while batch.n_live or waiting:
            admit(batch, waiting)
            for _ in range(steps_per_look):
                step(batch.n_live, batch.longest)
                batch.longest = min(batch.longest + 1, batch.cache.max_len - 1)
            stopped_by = stop_at_strings(tokenizer, batch, control.stop_strings)
            if watch:
                watch(batch.state, batch.n_live)
            for index, completion in take_out(batch, requests, stopped_by):
                request = requests[index]
                if completion.finish == "rejected" and completion.n_tries < sampling.max_tries:
                    requests[index] = next_try(request)
                    waiting.appendleft((index, requests[index]))
                else:
                    yield index, completion


def next_try(request):
    """Return the request again, after it was rejected, with other random numbers."""
    return request._replace(key=random_key(request.key, "again"), n_tries=request.n_tries + 1)


def fit_slots(model, requests, slots):
    """Return how many of `slots` sequences fit into free memory; a fifth is left to compute in."""
    device = models.head(model).device
    longest = max(len(r.prompt) + r.max_tokens for r in requests)
    bytes_per_slot = longest * kv_cache.bytes_per_token(model)
    # One slot more is needed for the prompts that are kept.
    room = int(0.8 * machine.free_memory(device) / bytes_per_slot) - 1
    group = getattr(model, "group", None)
    if group is not None:
        # The ranks that share a model decode in step: the one with the least memory decides.
        least = torch.tensor(room, device=device)
        dist.all_reduce(least, dist.ReduceOp.MIN, group)
        room = int(least)
    if room < 1:
        raise BadInput(
            "--max-tokens: the memory left does not hold the cache of one sequence of "
            f"{longest} tokens"
        )
    return min(slots, len(requests), room)


class LiveSequences:
    """The sequences that are being decoded. Live ones occupy the first slots without a gap."""

    def __init__(self, model, requests, slots, has_thinking):
        longest = max(len(r.prompt) + r.max_tokens for r in requests)
        self.model = model
        self.device = models.head(model).device
        self.slots = slots
        self.has_thinking = has_thinking
        # The last slot of the cache keeps the prompt of a group that is admitted in parts.
        self.cache = kv_cache.Cache(model, slots + 1, longest)
        self.kept = None  # the prompt in that slot
        self.state = new_state(slots, max(r.max_tokens for r in requests), self.device)
        self.n_live = 0
        # No live sequence is longer. Known without asking the device, so it may be too much.
        self.longest = 0


def admit(batch, waiting):
    """Give the free slots to waiting (index, Request) pairs and encode their prompts.

    The last token of a prompt is left to the first step. Neighbours with the same prompt share its
    encoding.
    """
    n_new = min(batch.slots - batch.n_live, len(waiting))
    if n_new == 0:
        return
    new = [waiting.popleft() for _ in range(n_new)]
    next_prompt = waiting[0][1].prompt if waiting else None
    encode, copies = share_prompts(batch, [request.prompt for _, request in new], next_prompt)
    encode_prompts(batch, encode)
    for source, places, length in copies:
        batch.cache.copy([source] * len(places), places, length)
    fill_state(batch, new)
    batch.n_live += n_new
    batch.longest = max(batch.longest, *(len(request.prompt) - 1 for _, request in new))


def share_prompts(batch, prompts, next_prompt):
    """Plan how the prompts get into the next slots -> (encode, copies).

    encode: (prompt, slot) pairs, one for each run of equal prompts. copies: (slot to copy from,
    slots to copy to, length). If the next waiting request has the last prompt, too, it is kept.
    """
    spare = batch.cache.slots - 1
    slot = batch.n_live
    encode, copies = [], []
    for prompt, equal in groupby(prompts):
        places = list(range(slot, slot + len(list(equal))))
        slot += len(places)
        if prompt == batch.kept:
            source = spare
        else:
            source = places.pop(0)
            encode.append((prompt, source))
        if places:
            copies.append((source, places, len(prompt)))
    if prompt == next_prompt and source != spare:
        copies.append((source, [spare], len(prompt)))
        batch.kept = prompt
    return encode, copies


def encode_prompts(batch, prompts):
    """Write keys and values of (prompt, slot) pairs into the cache, some PREFILL tokens at once."""
    prompts = [(prompt[:-1], slot) for prompt, slot in prompts if len(prompt) > 1]
    while prompts:
        part = [prompts.pop(0)]
        n_tokens = len(part[0][0])
        while prompts and n_tokens + len(prompts[0][0]) < PREFILL:
            n_tokens += len(prompts[0][0])
            part.append(prompts.pop(0))
        packed = packing.pack([ids for ids, _ in part], device=batch.device)
        slots = torch.tensor([slot for ids, slot in part for _ in ids], device=batch.device)
        sequences = attention.Prefill(
            attention.Packed(packed.lengths, batch.device), batch.cache, slots, packed.positions
        )
        models.hidden_states(batch.model, packed.ids, packed.positions, sequences)


def fill_state(batch, new):
    """Set the next rows of the state to the beginning of the new (index, Request) pairs."""
    requests = [request for _, request in new]
    values = {
        "index": [index for index, _ in new],
        "key": [r.key for r in requests],
        "limit": [r.max_tokens for r in requests],
        "waits": [r.waits for r in requests],
        "min_thinking": [r.min_thinking for r in requests],
        "steps": [r.steps for r in requests],
        "budget": [NO_BUDGET if r.budget is None else r.budget for r in requests],
        "guided": [r.is_guided for r in requests],
        "length": [len(r.prompt) - 1 for r in requests],
        "token": [r.prompt[-1] for r in requests],
        "prompt_end": [r.prompt[-1] for r in requests],
        "thinking": [batch.has_thinking] * len(new),
        "fresh": [r.waits + r.min_thinking > 0 for r in requests],
    }
    first = batch.n_live
    for name, tensor in batch.state.items():
        rows = tensor[first : first + len(new)]
        if name in values:
            rows.copy_(torch.tensor(values[name]))
        else:
            rows.zero_()


def stop_at_strings(tokenizer, batch, strings):
    """End the live sequences whose newest token completed one of the strings -> {row: string}."""
    if not strings:
        return {}
    state, n_live = batch.state, batch.n_live
    # A token is at least a byte, a character at most four: the string is within these tokens.
    width = 4 * max(map(len, strings))
    n = state["n"][:n_live]
    at = n[:, None] - torch.arange(width, 0, -1, device=n.device)  # (B, width)
    tails = state["ids"][:n_live].gather(1, at.clamp(min=0)).tolist()
    lengths = n.tolist()
    finishes = state["finish"][:n_live].tolist()
    found = {}
    for row in range(n_live):
        if finishes[row]:  # a stop token has ended it already
            continue
        tail = tails[row][max(0, width - lengths[row]) :]
        text = tokenizer.decode(tail, clean_up_tokenization_spaces=False)
        places = [(text.index(string), string) for string in strings if string in text]
        if places:
            _, found[row] = min(places)
            state["finish"][row] = STOPPED
            state["done"][row] = True
    return found


def take_out(batch, requests, stopped_by):
    """Remove the finished sequences -> list of (index, Completion).

    The last live sequences move into the holes. stopped_by: {row: stop string}.
    """
    state, n_live = batch.state, batch.n_live
    both = torch.stack([state["done"][:n_live].long(), state["length"][:n_live]])
    done, lengths = both.tolist()  # one question to the device
    finished = [row for row in range(n_live) if done[row]]
    if not finished:
        return []
    completions = read_completions(state, finished, requests, stopped_by)
    # A NaN would outlive its sequence: 0 · NaN is NaN.
    batch.cache.clear(finished, max(lengths[row] for row in finished) + 1)
    n_left = n_live - len(finished)
    holes = [row for row in range(n_left) if done[row]]
    movers = [row for row in range(n_left, n_live) if not done[row]]
    if holes:
        batch.cache.copy(movers, holes, max(lengths[row] for row in movers))
        for tensor in state.values():
            tensor[holes] = tensor[movers]
    state["done"][n_left:n_live] = True
    batch.n_live = n_left
    batch.longest = max((lengths[row] for row in range(n_live) if not done[row]), default=0)
    return completions


def read_completions(state, rows, requests, stopped_by):
    """Rows of the state -> list of (index, Completion)."""
    picked = {name: tensor[rows].tolist() for name, tensor in state.items()}
    completions = []
    for i, row in enumerate(rows):
        index = picked["index"][i]
        n = picked["n"][i]
        completion = Completion(
            ids=picked["ids"][i][:n],
            injected=picked["injected"][i][:n],
            logp=picked["logp"][i][:n],
            finish=FINISH[picked["finish"][i]],
            n_thinking=picked["n_thinking"][i],
            n_waits=picked["n_waits"][i],
            forced=picked["forced"][i],
            stop=stopped_by.get(row),
            n_tries=requests[index].n_tries,
        )
        completions.append((index, completion))
    return completions
