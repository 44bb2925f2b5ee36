"""A model that thinks under a budget: batched decoding with a cache, and s1's budget forcing in both directions.

Budget forcing (s1, arXiv 2501.19393, §3.1), per sequence:
    the model wants to end thinking and `waits` are left    -> its end token is dropped, "Wait" is appended instead
    `thinking_budget` tokens of thinking are spent          -> the end of thinking and the answer cue are appended
What is appended is fed like any other token, so the cache is never rebuilt and no token is encoded twice. Injected
tokens count as thinking and are marked in the row, for no later training should take them for the model's own.

Departs from s1's evaluation code in: 1. the budget is spent over all rounds together (s1's README), not anew after
each "Wait" (its harness). 2. A "Wait" that would leave no room for one more token is not appended. 3. An
end-of-sequence token inside thinking is treated as an end of thinking whenever a budget or waits are set.

How it decodes: sequences live in the slots of one preallocated cache. All live slots take a step together; every few
steps finished ones are taken out, the last live slots move into the holes, and waiting prompts are encoded, packed
without padding, into the free slots. The state of each sequence is a row of a few tensors, changed by tensor
operations only: a step never asks the device for a value.

A laptop, 7 seconds (after recipes/tiny.sh; 56% of the math problems come out right, 43% without --waits):
                     python generate.py --model out/tiny/seed0/sft-s1 --data out/tiny/seed0/data/held_out.jsonl
                     --out out/wait.jsonl --format think --only math --max-tokens 448 --temperature 0.7 --waits 1 --wait wait
s1's settings:       python generate.py --model simplescaling/s1.1-32B --data out/aime24.jsonl --out out/aime24-wait2.jsonl
                     --waits 2 --thinking-budget 30000 --max-tokens 32768 --device cuda --dtype bf16

Reads problem rows (id, question). Writes completion rows in the order of the problems, and the settings beside them
in OUT.config.json. A killed run leaves its finished rows in OUT.unfinished and continues from them.
"""
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tqdm import tqdm

import model as models
from data import run
from data.format import FORMATS
from data.rows import BadInput, read_rows, write_rows


@dataclass(frozen=True)
class Config:
    model: str                           # directory or hub name
    data: str                            # problem rows
    out: str                             # completion rows to write
    format: Literal["s1", "think", "r1", "plain"] = "s1"   # text of the model's thinking, see data/format.py

    n: int = 1                           # samples per problem
    temperature: float = 0.0             # 0 = greedy
    top_p: float = 1.0                   # keep the smallest set of tokens with this probability
    top_k: int = 0                       # keep this many tokens; 0 = all
    seed: int = 0                        # with a row's id and sample number it decides the row's text
    max_tokens: int = 1024               # of a completion, thinking and injected tokens included

    waits: int = 0                       # how often an end of thinking is replaced by --wait
    wait: str = "Wait"                   # s1 also tried "Hmm" and "Alternatively"
    thinking_budget: int | None = None   # tokens of thinking before the answer is forced; 0 = no thinking

    only: str | None = None              # only problems of this group
    limit: int = 0                       # only the first so many problems; 0 = all
    slots: int = 256                     # sequences decoded side by side
    logp: bool = False                   # write the log-probability of each token
    device: str = "cpu"                  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"                # of weights and computation
    overwrite: bool = False              # replace --out if it was made with other settings


FREE = ("out", "slots", "overwrite")     # settings that may differ between a run and its continuation
POLL = 8                                 # steps between looks at which sequences are done


class Request(NamedTuple):
    prompt: list[int]
    key: int                             # stream of random numbers of this sample
    max_tokens: int


class Completion(NamedTuple):
    ids: list[int]                       # every generated token, the stop token included
    injected: list[bool]                 # written by budget forcing, not by the model
    logp: list[float]                    # of each token at the sampling temperature; 0 where injected
    finish: str                          # "stop" or "length"
    n_thinking: int
    n_waits: int
    forced: bool                         # the answer was forced by the budget


# ---------------------------------------------------------------- sampling

def random_key(seed, *parts):
    """A 63-bit key for a stream of random numbers, from a seed and whatever names the sample."""
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:8], "big") >> 1


def uniform(key, counter):
    """key and counter (B,) int64 -> (B,) float64 in [0, 1), without a state to keep.

    A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the number for a
    token depends on its key and position alone, hence not on who shares the batch. The mixer is SplitMix64.
    """
    def shift(x, n):                                     # logical shift: int64 is signed
        return (x >> n) & ((1 << (64 - n)) - 1)

    def mix(x):
        x = (x ^ shift(x, 30)) * -0x40A7B892E31B1A47     # 0xBF58476D1CE4E5B9
        x = (x ^ shift(x, 27)) * -0x6B2FB644ECCEEE15     # 0x94D049BB133111EB
        return x ^ shift(x, 31)

    x = mix(mix(key) + (counter + 1) * -0x61C8864680B583EB)  # 0x9E3779B97F4A7C15
    return shift(x, 11).double() / 2**53


def keep_likely(logits, top_k, top_p):
    """Set all but the top_k tokens, then all but the smallest set with probability top_p, to -inf. (B, V)."""
    if top_k and top_k < logits.shape[1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(descending=True)
        probability = ordered.softmax(1)
        above = probability.cumsum(1) - probability                  # of the tokens before this one
        outside = torch.zeros_like(above, dtype=torch.bool).scatter(1, index, above >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def sample(logits, key, counter, temperature=1.0, top_k=0, top_p=1.0):
    """logits (B, V) float32 -> token (B,), logp (B,) under the distribution it was drawn from (greedy: at T = 1)."""
    if temperature > 0:
        logits = keep_likely(logits / temperature, top_k, top_p)
    logp = logits.log_softmax(1)
    if temperature > 0:
        below = logp.double().exp().cumsum(1)
        # First token whose cumulative probability exceeds u; one with probability 0 never does.
        token = torch.searchsorted(below, uniform(key, counter)[:, None] * below[:, -1:], right=True)[:, 0]
    else:
        token = logp.argmax(1)
    return token, logp.gather(1, token[:, None])[:, 0]


# ---------------------------------------------------------------- decoding

class Control:
    """What the decoder needs to know of format and settings, as token ids on the device."""
    none, wait, end, force, force_after_break = range(5)             # scripts: token strings the decoder can inject

    def __init__(self, tokenizer, form, settings, device):
        def encode(text):
            return tokenizer.encode(text, add_special_tokens=False) if text else []

        self.n_tokens = len(tokenizer)                               # the head may be larger; those ids are never drawn
        end_id = form.end_id(tokenizer)
        self.end_id = -1 if end_id is None else end_id
        self.waits, self.budget = settings.waits, settings.thinking_budget
        self.active = self.waits > 0 or self.budget is not None
        if self.active and end_id is None:
            raise BadInput(f"--format {form.name}: this tokenizer has no single token that ends thinking, "
                           "which --waits and --thinking-budget need")
        scripts = [[], encode(settings.wait), encode(form.end), encode(form.after + form.end + form.cue),
                   encode(form.end + form.cue)]
        if self.waits and not scripts[self.wait]:
            raise BadInput(f"--wait {settings.wait!r} is no token")
        if self.waits and tokenizer.unk_token_id is not None and tokenizer.unk_token_id in scripts[self.wait]:
            raise BadInput(f"--wait {settings.wait!r} is not in this tokenizer's vocabulary")
        if self.budget is not None and self.budget + len(scripts[self.force]) >= settings.max_tokens:
            raise BadInput(f"--thinking-budget {self.budget} leaves no room for an answer in "
                           f"--max-tokens {settings.max_tokens}")
        self.script_length = torch.tensor([len(s) for s in scripts], device=device)
        width = max(1, *map(len, scripts))
        self.script = torch.tensor([s + [0] * (width - len(s)) for s in scripts], device=device)   # (5, width)
        self.stops = torch.tensor([tokenizer.eos_token_id], device=device)
        self.ends = torch.tensor(sorted({self.end_id, tokenizer.eos_token_id} - {-1}), device=device)
        # s1 puts a line break before the forced end of thinking unless the text just had one.
        self.breaks = torch.zeros(self.n_tokens, dtype=torch.bool, device=device)
        if self.budget is not None and form.after:
            pieces = tokenizer.batch_decode([[i] for i in range(self.n_tokens)])
            self.breaks = torch.tensor([piece.endswith(form.after) for piece in pieces], device=device)


def new_state(requests, indices, control, has_thinking, max_tokens, device):
    """The state of sequences that have just been given a slot: tensors with one row per sequence."""
    n = len(requests)

    def column(values, dtype=torch.int64):
        return torch.tensor(values, dtype=dtype, device=device)

    zeros = column([0] * n)
    return {
        "index": column(indices), "key": column([r.key for r in requests]),
        "limit": column([r.max_tokens for r in requests]),
        "length": column([len(r.prompt) for r in requests]),          # tokens in the cache
        "token": column([r.prompt[-1] for r in requests]),            # newest token; it is fed next
        "n": zeros, "n_thinking": zeros.clone(), "n_waits": zeros.clone(),
        "thinking": column([has_thinking] * n, torch.bool),
        # First token of a round of thinking; as in s1's harness, the very first round counts if more are to come.
        "fresh": column([has_thinking and control.waits > 0] * n, torch.bool),
        "script": zeros.clone(), "at": zeros.clone(),                 # which script is being injected, and where
        "forced": column([False] * n, torch.bool), "done": column([False] * n, torch.bool),
        "stopped": column([False] * n, torch.bool),
        "ids": torch.zeros(n, max_tokens, dtype=torch.int64, device=device),
        "injected": torch.zeros(n, max_tokens, dtype=torch.bool, device=device),
        "logp": torch.zeros(n, max_tokens, device=device),
    }


def advance(state, logits, control, settings):
    """Choose the next token of each sequence, sampled or injected, and update the state in place. logits (B, V)."""
    logits = logits[:, :control.n_tokens]
    if control.active:                                # a round of thinking does not begin with its own end
        barred = torch.zeros_like(logits, dtype=torch.bool)
        barred[:, control.ends] = state["fresh"][:, None]
        logits = logits.masked_fill(barred, -torch.inf)
    token, logp = sample(logits, state["key"], state["n"], settings.temperature, settings.top_k, settings.top_p)

    # No script under way; and a finished sequence, which steps along until it is taken out, begins none.
    free = ~state["done"] & (state["at"] >= control.script_length[state["script"]])
    ends = torch.isin(token, control.ends)
    wants_end = free & state["thinking"] & ends
    own_end = wants_end & (token == control.end_id)
    if control.active:
        spent = torch.zeros_like(free)
        room = torch.ones_like(free)
        if control.budget is not None:
            spent = free & state["thinking"] & (state["n_thinking"] >= control.budget)
            room = state["n_thinking"] + control.script_length[control.wait] < control.budget
        waiting = wants_end & ~spent & (state["n_waits"] < control.waits) & room
        closing = wants_end & ~spent & ~waiting
        own_end &= closing
        force = torch.where(control.breaks[state["token"]], control.force_after_break, control.force)
        begins = spent | waiting | closing
        script = torch.where(spent, force, torch.where(waiting, control.wait, control.end))
        state["script"] = torch.where(begins, script, state["script"])
        state["at"] = torch.where(begins, 0, state["at"])
        state["n_waits"] += waiting
        state["forced"] |= spent
        state["thinking"] &= ~(spent | closing)
        scripted = state["at"] < control.script_length[state["script"]]
        written = control.script[state["script"], state["at"].clamp(max=control.script.shape[1] - 1)]
        token = torch.where(scripted, written, token)
        state["at"] += scripted
        state["fresh"] = scripted & (state["script"] == control.wait) \
            & (state["at"] == control.script_length[control.wait])
        injected = scripted & ~own_end                # the model's own end token is its own, also inside a script
    else:
        state["thinking"] &= ~own_end
        injected = torch.zeros_like(free)

    at = state["n"][:, None]
    live = ~state["done"][:, None]

    def put(name, value):
        old = state[name].gather(1, at.clamp(max=state[name].shape[1] - 1))
        state[name].scatter_(1, at.clamp(max=state[name].shape[1] - 1), torch.where(live, value[:, None], old))

    put("ids", token)
    put("injected", injected)
    put("logp", logp.masked_fill(injected, 0))
    alive = live[:, 0]
    state["n"] += alive
    stops = alive & ~injected & torch.isin(token, control.stops)
    state["n_thinking"] += alive & state["thinking"] & ~stops
    state["stopped"] |= stops
    state["done"] |= stops | (state["n"] >= state["limit"])
    state["token"] = token


@torch.no_grad()
def decode(model, tokenizer, form, requests, settings, slots=256):
    """Yield (index of the request, Completion) as they finish. settings: a Config, or anything with its fields.

    Same requests, same settings, same text, for any number of slots and any order (up to float rounding of the
    matrix products, whose last bit depends on the batch).
    """
    device = models.head(model).device
    control = Control(tokenizer, form, settings, device)
    if not requests:
        return
    longest_completion = max(r.max_tokens for r in requests)
    slots = min(slots, len(requests))
    cache = models.Cache(model, slots, max(len(r.prompt) + r.max_tokens for r in requests))
    waiting, state, n_live = list(enumerate(requests))[::-1], None, 0
    while n_live or waiting:
        new = [waiting.pop() for _ in range(min(slots - n_live, len(waiting)))]
        if new:                                       # encode their prompts, packed, into the free slots
            fresh = new_state([r for _, r in new], [i for i, _ in new], control, bool(form.end), longest_completion,
                              device)
            batch = models.pack([r.prompt for _, r in new], device=device)
            slot = torch.arange(n_live, n_live + len(new), device=device)
            ends = fresh["length"].cumsum(0) - 1      # last token of each prompt
            prefill = models.Prefill(models.Packed(batch.lengths, device), cache,
                                     slot.repeat_interleave(fresh["length"]), batch.positions)
            hidden = models.hidden_states(model, batch.ids, batch.positions, prefill)[ends]
            advance(fresh, models.next_token_logits(model, hidden), control, settings)
            state = fresh if state is None else {k: torch.cat([state[k], fresh[k]]) for k in state}
            n_live += len(new)
        longest = int(state["length"].max())
        for _ in range(POLL):
            seen = torch.arange(longest + 1, device=device) <= state["length"][:, None]
            step = models.Step(cache, state["length"], longest, seen[:, None, None])
            hidden = models.hidden_states(model, state["token"], state["length"], step)
            state["length"] = (state["length"] + 1).clamp(max=cache.max_len - 1)
            longest = min(longest + 1, cache.max_len - 1)
            advance(state, models.next_token_logits(model, hidden), control, settings)
        done = state["done"].tolist()
        yield from _take_out(state, [i for i, d in enumerate(done) if d])
        n_left = done.count(False)
        holes = [i for i in range(n_left) if done[i]]
        movers = [i for i in range(n_left, n_live) if not done[i]]
        if holes:
            cache.move(movers, holes)
            for tensor in state.values():
                tensor[holes] = tensor[movers]
        state = {name: tensor[:n_left] for name, tensor in state.items()}
        n_live = n_left


def _take_out(state, rows):
    """Finished rows of the state -> (index, Completion)."""
    picked = {name: tensor[rows].tolist() for name, tensor in state.items()} if rows else {"index": []}
    for i, index in enumerate(picked["index"]):
        n = picked["n"][i]
        yield index, Completion(picked["ids"][i][:n], picked["injected"][i][:n], picked["logp"][i][:n],
                                "stop" if picked["stopped"][i] else "length", picked["n_thinking"][i],
                                picked["n_waits"][i], picked["forced"][i])


def completion_text(tokenizer, completion):
    """The generated text with its special tokens, without the stop token."""
    ids = completion.ids[:-1] if completion.finish == "stop" else completion.ids
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def completion_row(problem, sample_number, completion, tokenizer, form, with_logp=False):
    """A completion as a JSONL row: the problem's fields, the text and its parts, and the exact token ids."""
    text = completion_text(tokenizer, completion)
    thinking, response = form.split(text)
    n_thinking = completion.n_thinking
    if form.end and form.end_id(tokenizer) is None:       # no single end token that the decoder could count up to
        n_thinking = len(tokenizer.encode(thinking, add_special_tokens=False))
    row = problem | {"sample": sample_number, "text": text, "thinking": thinking, "response": response,
                     "ids": completion.ids, "injected": [i for i, x in enumerate(completion.injected) if x],
                     "n_thinking_tokens": n_thinking, "n_tokens": len(completion.ids), "finish": completion.finish,
                     "n_waits": completion.n_waits, "forced": completion.forced}
    return row | {"logp": [round(x, 6) for x in completion.logp]} if with_logp else row


def read_part(path):
    """Rows of an interrupted run: its last line may be cut."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def load_problems(cfg):
    """The problems that cfg asks for. Raises BadInput for settings out of range and for rows it cannot take."""
    for name, bad in (("n", cfg.n < 1), ("temperature", cfg.temperature < 0), ("top_p", not 0 < cfg.top_p <= 1),
                      ("max_tokens", cfg.max_tokens < 1), ("waits", cfg.waits < 0), ("slots", cfg.slots < 1),
                      ("thinking_budget", cfg.thinking_budget is not None and cfg.thinking_budget < 0)):
        if bad:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(cfg, name)}: out of range")
    if Path(cfg.out).resolve() == Path(cfg.data).resolve():
        raise BadInput(f"--out {cfg.out} is --data")
    problems = [problem for problem in read_rows(cfg.data, need=("id", "question"))
                if cfg.only is None or problem.get("group") == cfg.only]
    if not problems:
        raise BadInput(f"{cfg.data}: no row of --only {cfg.only}")
    problems = problems[:cfg.limit] if cfg.limit else problems
    seen = set()
    for problem in problems:
        if problem["id"] in seen:
            raise BadInput(f"{cfg.data}: two rows have the id '{problem['id']}'")
        seen.add(problem["id"])
    return problems


def standing(cfg, out, header, identity):
    """How far this run is: "new", "begun" or "complete". Raises BadInput if --out is another run's and may not go."""
    if not header.is_file():
        if out.is_file() and not cfg.overwrite:
            raise BadInput(f"--out {out} exists, and without {header.name} it cannot be told how it was made; "
                           "choose another --out, or --overwrite to replace it")
        return "new"
    difference = run.difference(identity, json.loads(header.read_text()).get("identity", {}))
    if difference and not cfg.overwrite:
        raise BadInput(f"--out {out} was made with other settings ({difference}); choose another --out, "
                       "or --overwrite to replace it")
    return "new" if difference else "complete" if out.is_file() else "begun"


def make_requests(cfg, problems, done, model, tokenizer, form, control):
    """-> (requests, the (problem, sample number) of each, prompts left out). done: the (id, sample) already written.

    A prompt needs room for one token in the context, or for its budget, what ends it, and one token of an answer.
    """
    requests, todo, context = [], [], models.context_length(model)
    needed = 1 if control.budget is None else control.budget + int(control.script_length[control.force]) + 1
    n_skipped = 0
    for problem in problems:
        prompt = form.prompt_ids(tokenizer, problem["question"])
        room = context - len(prompt)
        if room < needed:
            print(f"skipped: the prompt of row '{problem['id']}' has {len(prompt)} tokens, the context {context}")
            n_skipped += 1
            continue
        for number in range(cfg.n):
            if (problem["id"], number) not in done:
                todo.append((problem, number))
                requests.append(Request(prompt, random_key(cfg.seed, problem["id"], number),
                                        min(cfg.max_tokens, room)))
    return requests, todo, n_skipped


def main(cfg):
    """Generate and write the rows; returns them."""
    problems = load_problems(cfg)
    out, part = Path(cfg.out), Path(cfg.out + ".unfinished")
    header = out.with_suffix(".config.json")
    identity = run.identity(cfg, FREE, data=cfg.data, model=cfg.model)
    stands = standing(cfg, out, header, identity)
    if stands == "complete":
        print(f"{out}: this run is complete")
        return read_rows(out)
    model, tokenizer = models.load(cfg.model, cfg.device, torch.bfloat16 if cfg.dtype == "bf16" else torch.float32)
    form = FORMATS[cfg.format]
    form.check(tokenizer)
    control = Control(tokenizer, form, cfg, cfg.device)
    if stands == "new":                                   # only now, when nothing else can be refused
        out.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    run.save_config(cfg, header, identity=identity)
    rows = {(row["id"], row["sample"]): row for row in read_part(part)}
    write_rows(part, rows.values())                       # without a cut last line
    requests, todo, n_skipped = make_requests(cfg, problems, rows, model, tokenizer, form, control)

    began, n_tokens = time.perf_counter(), 0
    with open(part, "a", encoding="utf-8", newline="\n") as file, \
            tqdm(total=len(requests), desc=out.name, disable=None) as bar:
        for index, completion in decode(model, tokenizer, form, requests, cfg, cfg.slots):
            problem, number = todo[index]
            row = completion_row(problem, number, completion, tokenizer, form, cfg.logp)
            rows[row["id"], number] = row
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            n_tokens += len(completion.ids)
            bar.update()
    seconds = time.perf_counter() - began
    done = [rows[problem["id"], number] for problem in problems for number in range(cfg.n)
            if (problem["id"], number) in rows]
    if not done:
        raise BadInput(f"{cfg.data}: no prompt fits into the context")
    write_rows(out, done)
    part.unlink()
    totals = {"n_tokens": n_tokens, "seconds": round(seconds, 2), "skipped_prompts": n_skipped}
    run.save_config(cfg, header, identity=identity, **totals)
    print(f"{out}: {len(done)} completions, {n_tokens / max(seconds, 1e-9):.0f} tokens/s, "
          f"{sum(row['finish'] == 'length' for row in done)} cut by --max-tokens, {n_skipped} prompts skipped")
    return done


if __name__ == "__main__":
    run.cli(main, Config)
