"""The decoder: sequences in the slots of a cache, all live ones a step at a time, budgets forced on the way.

    cache   1 slot per sequence, allocated once; prompts are encoded into it packed without padding, and once for all
            samples of a prompt
    step    every live sequence feeds its newest token and gets the next, sampled or injected; the state of a sequence
            is a row of a few tensors, changed in place by tensor operations only: a step never asks the device for a
            value, so that on a GPU it is recorded once as a CUDA graph and replayed
    poll    every few steps finished sequences are taken out, the last live slots move into the holes, and waiting
            requests get the free slots at once (continuous batching, Yu et al. 2022, "Orca")

Budget forcing (s1, arXiv 2501.19393, §3.1), per sequence:
    the model wants to end thinking and `waits` are left    -> its end token is dropped, "Wait" is appended instead
    `budget` tokens of thinking are spent                   -> the end of thinking and the answer cue are appended
What is appended is fed like any other token, so the cache is never rebuilt and no token is encoded twice. Injected
tokens count as thinking and are marked, for no later training should take them for the model's own.

Departs from s1's evaluation code in: 1. the budget is spent over all rounds together, as in s1's README; its harness
starts it anew after each "Wait" (rule "round"; we do not repeat that the harness then cuts the token ids, but not the
text, to one budget). 2. A "Wait" that would leave no room for one more token is not appended. 3. An end-of-sequence
token inside thinking is an end of thinking whenever something is forced.
"""

from collections import deque
from itertools import groupby
from typing import NamedTuple

import torch
import torch.distributed as dist

from engine import attention, kv_cache, packing
from engine import model as models
from engine.rows import BadInput
from engine.sampling import random_key, sample

# steps between looks at which sequences are done; a look waits for the GPU
POLL = {"cuda": 8, "cpu": 2}

PREFILL = 16384  # prompt tokens encoded at once

NO_BUDGET = 2**40


class Request(NamedTuple):
    prompt: list[int]
    key: int  # stream of random numbers of this sample
    max_tokens: int
    waits: int = 0  # ends of thinking that are replaced by Sampling.wait
    budget: int | None = None  # tokens of thinking
    min_thinking: int = 0  # tokens of thinking before it may end, however many waits that takes
    steps: int = 0  # of thinking, in a format that has them; 0 = as many as it wants
    n_tries: int = 1  # this one and those rejected before it

    @property
    def is_guided(self):
        """Whether something may be forced on it."""
        return self.budget is not None or self.waits + self.min_thinking + self.steps > 0


class Sampling(NamedTuple):
    """What all requests of a call share; the names are those of Config."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    wait: str = ""
    budget_rule: str = "total"
    over_budget: str = "force"
    max_tries: int = 1
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    logp: bool = True


class Completion(NamedTuple):
    ids: list[int]  # every generated token, the stop token included
    injected: list[bool]  # written by budget forcing, not by the model
    # of each token at the sampling temperature; 0 where injected or not asked for
    logp: list[float]
    finish: str  # one of FINISH
    n_thinking: int
    n_waits: int
    forced: bool  # the answer was forced by the budget
    stop: str | None = None  # the stop string that ended it, if it was one
    n_tries: int = 1


# ran into max_tokens, stopped, too long in every try, broken logits
FINISH = ("length", "stop", "rejected", "nan")

STOPPED, REJECTED, BROKEN = 1, 2, 3


# ---------------------------------------------------------------- one step


class Control:
    """What a step needs to know of format and settings, as token ids and tables over the vocabulary. Raises BadInput
    for a format without an end of thinking where something is to be forced, and for strings outside the vocabulary."""

    # scripts: token strings the decoder can inject
    none, wait, end, force, force_after_break = range(5)

    def __init__(self, model, tokenizer, form, sampling, requests):
        def encode(text):
            return tokenizer.encode(text, add_special_tokens=False) if text else []

        def table(ids):
            found = torch.zeros(self.n_tokens, dtype=torch.bool)
            found[[i for i in ids if 0 <= i < self.n_tokens]] = True
            return found.to(device)

        device = models.head(model).device
        # the head may be larger; those are never drawn
        self.n_tokens = min(len(tokenizer), len(models.head(model)))
        self.rule, self.reject = sampling.budget_rule, sampling.over_budget == "reject"
        self.stop_strings = [s for s in sampling.stop if s]
        self.has_waits = any(r.waits or r.min_thinking for r in requests)
        self.has_budget = any(r.budget is not None for r in requests)
        self.active = any(r.is_guided for r in requests)
        end_id = form.end_id(tokenizer)
        if self.active and end_id is None:
            raise BadInput(
                f"--format {form.name}: this tokenizer has no single token that ends thinking, "
                "which forcing (--waits, --thinking-budget, --steps) needs"
            )
        if self.has_waits and form.has_steps:
            raise BadInput(
                f"--waits: --format {form.name} counts steps, which cannot be prolonged by a word"
            )
        self.end_id = -1 if end_id is None else end_id
        self.has_steps, self.answer_id = form.has_steps, (*encode(form.end), -1, -1)[1]
        scripts = [
            [],
            encode(sampling.wait),
            encode(form.end),
            encode(form.after + form.end + form.cue),
            encode(form.end + form.cue),
        ]
        if (
            self.has_waits
            and sampling.wait
            and (not scripts[self.wait] or tokenizer.unk_token_id in scripts[self.wait])
        ):
            raise BadInput(f"--wait {sampling.wait!r} is not in this tokenizer's vocabulary")
        self.wait_length, self.force_length = len(scripts[self.wait]), len(scripts[self.force])
        self.forced_length = len(scripts[self.force_after_break])
        self.script_length = torch.tensor([len(s) for s in scripts], device=device)
        width = max(1, *map(len, scripts))
        # (5, width)
        self.script = torch.tensor([s + [0] * (width - len(s)) for s in scripts], device=device)
        stops = stop_ids(model, tokenizer, sampling.stop_tokens)
        self.is_stop = table(stops)
        self.is_end = table(stops if form.has_steps else {*stops, self.end_id})
        # s1 puts a line break before the forced end of thinking unless the text just had one.
        self.breaks = table([])
        if self.has_budget and form.after:
            pieces = tokenizer.batch_decode([[i] for i in range(self.n_tokens)])
            self.breaks = table(i for i, piece in enumerate(pieces) if piece.endswith(form.after))

    def most_thinking(self, request):
        """The largest number of thinking tokens that a request with a budget can come to."""
        if self.rule == "total":
            return request.budget
        rounds = request.waits * (request.budget + self.wait_length)
        last_wait = request.min_thinking - 1 + self.wait_length if request.min_thinking else 0
        return max(rounds, last_wait) + request.budget


def stop_ids(model, tokenizer, names):
    """Ids that end a completion: the tokenizer's, those of the model's generation config, and the tokens `names`."""
    ids, own = {tokenizer.eos_token_id}, getattr(model, "generation_config", None)
    own = own.eos_token_id if own is not None else None
    ids |= set(own if isinstance(own, list) else [own]) - {None}
    for name in names:
        found = tokenizer.convert_tokens_to_ids(name)
        if found is None or found == tokenizer.unk_token_id:
            raise BadInput(
                f"--stop-tokens {name!r}: not a token of this vocabulary (--stop takes any string)"
            )
        ids.add(found)
    return ids


def new_state(slots, width, device):
    """The state of the sequences: tensors with one row per slot, changed in place. width: tokens of a completion."""

    def column(dtype=torch.int64, *shape):
        return torch.zeros(slots, *shape, dtype=dtype, device=device)

    return {
        "index": column(),
        "key": column(),
        "limit": column(),  # of the request
        "waits": column(),
        "budget": column(),
        "min_thinking": column(),
        "steps": column(),
        "length": column(),  # tokens in the cache
        "token": column(),  # newest token; it is fed next
        "n": column(),
        "n_thinking": column(),
        "n_round": column(),
        "n_waits": column(),
        "n_steps": column(),
        "guided": column(torch.bool),  # something may be forced on it
        "thinking": column(torch.bool),
        # Before the first token of a round of thinking; as in s1's harness, the very first counts if more can come.
        "fresh": column(torch.bool),
        "script": column(),
        "at": column(),  # which script is being injected, and where
        "forced": column(torch.bool),
        "done": ~column(torch.bool),
        "finish": column(),
        # One cell more than can be used: where the steps of a finished sequence write.
        "ids": column(torch.int64, width + 1),
        "injected": column(torch.bool, width + 1),
        "logp": column(torch.float32, width + 1),
    }


def advance(state, logits, control, sampling, group=None):
    """Choose the next token of each sequence, sampled or injected, and update the state in place. logits (B, V).

    group: ranks that compute the same logits; the first one's choice holds.
    """
    alive = ~state["done"]
    logits = logits[:, : control.n_tokens]
    if control.has_waits:  # a round of thinking does not begin with its own end
        logits = logits.masked_fill(state["fresh"][:, None] & control.is_end, -torch.inf)

    def draw(logits, counter):
        token, logp = sample(
            logits,
            state["key"],
            counter,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.logp,
        )
        if group is not None:
            dist.broadcast(token, dist.get_global_rank(group, 0), group)
        return token, logp

    token, logp = draw(logits, state["n"])
    sound = alive & logp.isfinite()  # or else a NaN or an infinity is among the logits

    # No script under way; and a finished sequence, which steps along until it is taken out, begins none.
    free = (
        sound & (state["at"] >= control.script_length[state["script"]]) if control.active else sound
    )
    thinking = free & state["thinking"]
    wants_end = thinking & control.is_end[token]
    if control.has_steps:  # each step begins with the same token as the answer
        header = thinking & (token == control.end_id)
        state["n_steps"] += header
        wants_end |= header & (state["n_steps"] == state["steps"])
        answers = thinking & (state["token"] == control.end_id) & (token == control.answer_id)
        state["thinking"] &= ~answers
        # the header before it was no thinking
        state["n_thinking"].sub_(answers.long()).clamp_(min=0)
    own_end = wants_end & (token == control.end_id)
    if control.active:
        wants_end = wants_end & state["guided"]
        counted = state["n_thinking"] if control.rule == "total" else state["n_round"]
        spent = thinking & (counted >= state["budget"])
        more = (state["n_waits"] < state["waits"]) | (state["n_thinking"] < state["min_thinking"])
        room = counted + control.wait_length < state["budget"] if control.rule == "total" else more
        waiting = wants_end & ~spent & more & room
        # no string: the next likely token instead
        if control.has_waits and not control.wait_length:
            barred = logits.masked_fill(control.is_end, -torch.inf)
            other = draw(barred, state["n"] + 2**32)
            token, logp = (
                torch.where(waiting, other[0], token),
                torch.where(waiting, other[1], logp),
            )
        if control.reject:
            state["finish"].masked_fill_(spent, REJECTED)
        closing = wants_end & ~spent & ~waiting
        own_end &= closing | ~state["guided"]
        force = torch.where(
            control.breaks[state["token"]], control.force_after_break, control.force
        )
        begins = spent | waiting | closing
        script = torch.where(spent, force, torch.where(waiting, control.wait, control.end))
        state["script"].copy_(torch.where(begins, script, state["script"]))
        state["at"].masked_fill_(begins, 0)
        state["n_waits"] += waiting
        state["n_round"].masked_fill_(waiting, 0)
        if not control.reject:
            state["forced"] |= spent
        state["thinking"] &= ~(spent | closing)
        scripted = alive & (state["at"] < control.script_length[state["script"]])
        written = control.script[
            state["script"], state["at"].clamp(max=control.script.shape[1] - 1)
        ]
        token = torch.where(scripted, written, token)
        state["at"] += scripted
        state["fresh"].copy_(
            scripted & (state["script"] == control.wait) & (state["at"] == control.wait_length)
        )
        injected = scripted & ~own_end  # the model's own end token is its own, also inside a script
    state["thinking"] &= ~own_end

    at, stops = state["n"][:, None], alive & control.is_stop[token]
    if control.active:
        stops &= ~injected
        logp = logp.masked_fill(injected, 0)
        state["injected"].scatter_(1, at, injected[:, None])
    state["ids"].scatter_(1, at, token[:, None])
    if sampling.logp:
        state["logp"].scatter_(1, at, logp[:, None])
    state["n"] += sound & (state["finish"] != REJECTED)
    counts = sound & state["thinking"] & ~stops
    state["n_thinking"] += counts
    if control.active:
        state["n_round"] += counts & ~injected
    state["finish"].masked_fill_(stops, STOPPED).masked_fill_(alive & ~sound, BROKEN)
    state["done"] |= (state["finish"] > 0) | (state["n"] >= state["limit"])
    state["token"].copy_(token)


class Stepper:
    """One decoding step of the first n slots. On CUDA it is recorded once per batch size as a graph and replayed: the
    many small operations of a step take the host longer to launch than the GPU to compute."""

    def __init__(self, model, cache, state, control, sampling):
        self.model, self.cache, self.state, self.control, self.sampling = (
            model,
            cache,
            state,
            control,
            sampling,
        )
        # A rotary embedding that looks at the longest sequence of the batch would ask the device for it.
        self.use_graphs = models.head(model).is_cuda and models.rope_limit(model) is None
        self.graphs, self.pool, self.live = {}, None, {}
        self.group = getattr(model, "group", None)

    def __call__(self, bounds):
        """bounds: of the length of each live sequence, known to the host."""
        if not self.use_graphs:
            return self.run(bounds)
        # rows behind are done, nothing changes
        size = min(1 << (len(bounds) - 1).bit_length(), self.cache.slots - 1)
        if size in self.graphs:
            return self.graphs[size].replay()
        bounds = [self.cache.max_len - 1] * size
        self.run(bounds)  # a real step, which also compiles what it needs
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):  # records and does not compute
            self.run(bounds)
        self.graphs[size], self.pool = graph, graph.pool()

    def run(self, bounds):
        if len(bounds) not in self.live:
            self.live[len(bounds)] = {
                name: tensor[: len(bounds)] for name, tensor in self.state.items()
            }
        live = self.live[len(bounds)]
        step = attention.Step(self.cache, live["length"], bounds)
        hidden = models.hidden_states(self.model, live["token"], live["length"], step)
        live["length"].add_(1).clamp_(max=self.cache.max_len - 1)
        advance(
            live,
            models.next_token_logits(self.model, hidden),
            self.control,
            self.sampling,
            self.group,
        )


# ---------------------------------------------------------------- decoding


def fit_slots(model, requests, slots):
    """How many of `slots` sequences fit into free memory, a fifth of which is left for the computation itself."""
    longest = max(len(r.prompt) + r.max_tokens for r in requests)
    room = (
        int(
            0.8
            * kv_cache.free_memory(models.head(model).device)
            / (longest * kv_cache.bytes_per_token(model))
        )
        - 1
    )
    if getattr(model, "group", None) is not None:  # the ranks that share a model go in step
        room = torch.tensor(room, device=models.head(model).device)
        dist.all_reduce(room, dist.ReduceOp.MIN, model.group)
        room = int(room)
    if room < 1:
        raise BadInput(
            f"--max-tokens: the memory left does not hold the cache of one sequence of {longest} tokens"
        )
    return min(slots, len(requests), room)


@torch.inference_mode()
def decode(model, tokenizer, form, requests, sampling=None, slots=256, watch=None):
    """Yield (index of the request, Completion) as they finish.

    form: a data.format.Format. slots: sequences decoded side by side at most; fewer if memory is short. Same requests,
    same settings, same text, for any number of slots and any order (up to float rounding of the matrix products, whose
    last bit depends on the batch). watch(state, n): called after every step. Raises BadInput for what the tokenizer or the
    format cannot serve, and if not one sequence fits into memory.
    """
    if not requests:
        return
    sampling = sampling or Sampling()
    requests, control = list(requests), Control(model, tokenizer, form, sampling, requests)
    slots = fit_slots(model, requests, slots)
    # The last slot of the cache keeps the prompt of a group that is admitted in parts.
    cache = kv_cache.Cache(model, slots + 1, max(len(r.prompt) + r.max_tokens for r in requests))
    device = models.head(model).device
    state = new_state(slots, max(r.max_tokens for r in requests), device)
    step = Stepper(model, cache, state, control, sampling)
    # bounds: the length of each live sequence
    waiting, kept, bounds = deque(enumerate(requests)), None, []
    while bounds or waiting:
        new = [waiting.popleft() for _ in range(min(slots - len(bounds), len(waiting)))]
        if new:
            kept = admit(
                model,
                cache,
                state,
                new,
                len(bounds),
                kept,
                waiting[0][1].prompt if waiting else None,
                bool(form.end),
            )
            bounds += [len(r.prompt) - 1 for _, r in new]
        n_live = len(bounds)
        for _ in range(1 if watch or control.stop_strings else POLL[device.type]):
            step(bounds)
            bounds = [min(n + 1, cache.max_len - 1) for n in bounds]
        found = (
            stop_at_strings(tokenizer, state, n_live, control.stop_strings)
            if control.stop_strings
            else {}
        )
        if watch:
            watch(state, n_live)
        done, lengths = torch.stack(
            [state["done"][:n_live].long(), state["length"][:n_live]]
        ).tolist()
        over = [i for i in range(n_live) if done[i]]
        if over:
            cache.clear(over, max(lengths[i] for i in over) + 1)
        for index, completion in take_out(state, over, requests, found):
            request = requests[index]
            if completion.finish == "rejected" and completion.n_tries < sampling.max_tries:
                requests[index] = request._replace(
                    key=random_key(request.key, "again"), n_tries=request.n_tries + 1
                )
                waiting.appendleft((index, requests[index]))
            else:
                yield index, completion
        n_left = done.count(0)
        holes = [i for i in range(n_left) if done[i]]
        movers = [i for i in range(n_left, n_live) if not done[i]]
        if holes:
            cache.copy(movers, holes, max(lengths[i] for i in movers))
            for tensor in state.values():
                tensor[holes] = tensor[movers]
            for hole, mover in zip(holes, movers):
                bounds[hole] = bounds[mover]
        state["done"][n_left:n_live] = True
        bounds = bounds[:n_left]


def admit(model, cache, state, new, first, kept, next_prompt, has_thinking):
    """Give slots first, first + 1, ... to the requests `new` ((index, Request) pairs) and encode their prompts, each but
    for its last token, which the first step feeds. Neighbours with one prompt share its encoding.

    kept: the prompt whose encoding the spare slot holds. Returns what it holds now: the last prompt of `new` if the
    next request has it too.
    """
    spare, slot, prompts, copies = cache.slots - 1, first, [], []
    for prompt, members in groupby((r.prompt for _, r in new)):
        places = list(range(slot, slot + len(list(members))))
        slot += len(places)
        if prompt != kept:
            prompts.append((prompt, places[0]))
        source = spare if prompt == kept else places[0]
        copies.append((source, [place for place in places if place != source], len(prompt)))
    if prompt == next_prompt and source != spare:
        copies.append((source, [spare], len(prompt)))
        kept = prompt
    device, batch, n_packed = state["key"].device, [], 0
    for i, (prompt, place) in enumerate(prompts):
        if len(prompt) > 1:
            batch.append((prompt[:-1], place))
            n_packed += len(prompt) - 1
        if batch and (i + 1 == len(prompts) or n_packed + len(prompts[i + 1][0]) > PREFILL):
            packed = packing.pack([ids for ids, _ in batch], device=device)
            slots = torch.tensor([place for ids, place in batch for _ in ids], device=device)
            models.hidden_states(
                model,
                packed.ids,
                packed.positions,
                attention.Prefill(
                    attention.Packed(packed.lengths, device), cache, slots, packed.positions
                ),
            )
            batch, n_packed = [], 0
    for source, places, length in copies:
        if places:
            cache.copy([source] * len(places), places, length)
    requests = [r for _, r in new]
    values = {
        "index": [i for i, _ in new],
        "key": [r.key for r in requests],
        "limit": [r.max_tokens for r in requests],
        "waits": [r.waits for r in requests],
        "min_thinking": [r.min_thinking for r in requests],
        "steps": [r.steps for r in requests],
        "budget": [NO_BUDGET if r.budget is None else r.budget for r in requests],
        "length": [len(r.prompt) - 1 for r in requests],
        "token": [r.prompt[-1] for r in requests],
        "guided": [r.is_guided for r in requests],
        "thinking": [has_thinking] * len(new),
        "fresh": [r.waits + r.min_thinking > 0 for r in requests],
    }
    for name, tensor in state.items():
        tensor[first : first + len(new)] = (
            torch.tensor(values[name], device=device) if name in values else 0
        )
    return kept


def stop_at_strings(tokenizer, state, n_live, strings):
    """End the live sequences whose newest token completed one of the strings -> {row: string}."""
    width = 4 * max(map(len, strings))  # a token is a byte at least, a character at most four
    n = state["n"][:n_live]
    at = n[:, None] - torch.arange(width, 0, -1, device=n.device)
    tails = state["ids"][:n_live].gather(1, at.clamp(min=0)).tolist()
    found = {}
    for row, (tail, length, finish) in enumerate(
        zip(tails, n.tolist(), state["finish"][:n_live].tolist())
    ):
        if finish == 0:  # a stop token has not ended it already
            text = tokenizer.decode(
                tail[max(0, width - length) :], clean_up_tokenization_spaces=False
            )
            hits = [(text.index(string), string) for string in strings if string in text]
            if hits:
                found[row] = min(hits)[1]
                state["finish"][row], state["done"][row] = STOPPED, True
    return found


def take_out(state, rows, requests, stop_strings):
    """Finished rows of the state -> (index, Completion)."""
    picked = (
        {name: tensor[rows].tolist() for name, tensor in state.items()} if rows else {"index": []}
    )
    for i, index in enumerate(picked["index"]):
        n = picked["n"][i]
        yield (
            index,
            Completion(
                picked["ids"][i][:n],
                picked["injected"][i][:n],
                picked["logp"][i][:n],
                FINISH[picked["finish"][i]],
                picked["n_thinking"][i],
                picked["n_waits"][i],
                picked["forced"][i],
                stop_strings.get(rows[i]),
                requests[index].n_tries,
            ),
        )
