"""A model that thinks under a budget: problems in, completions out. How tokens are made stands in engine/decoder.py.

Test-time compute, each a flag that writes ordinary completion rows:
    budget forcing     --waits k --wait Wait, --min-thinking N, --thinking-budget N         s1 (2501.19393), §3.1
    the model is told  --ask tokens:N | steps:N | long | short                              s1, §E.1
                       --ask l1:N | l1-max:N                                                L1 (2503.04697), §3
    rejection          --thinking-budget N --over-budget reject                             s1, §5.2
    samples            --n N --temperature T, for majority, best-of-N and pass@k in evaluate.py

A laptop, 7 seconds (after recipes/tiny.sh; 56% of the math problems come out right, 43% without --waits):
                     python generate.py --model out/tiny/seed0/sft-s1 --data out/tiny/seed0/data/held_out.jsonl
                     --out out/wait.jsonl --format think --only math --max-tokens 448 --temperature 0.7 --waits 1 --wait wait
s1's settings:       python generate.py --model simplescaling/s1.1-32B --data out/aime24.jsonl --out out/aime24-wait2.jsonl
                     --waits 2 --thinking-budget -1 --max-tokens 32768 --device cuda --dtype bf16
s1's Figure 1:       the same without --waits, with --sweep thinking_budget=500,1000,2000,4000,8000,16000
Eight GPUs:          torchrun --nproc-per-node 8 -- generate.py ... (each a part of the rows), --tp 8 (one model over all)

Reads problem rows (id, question; a row's own max_tokens, waits and thinking_budget precede the flags). Writes
completion rows in the order of the problems, and the settings beside them in OUT.config.json. A killed run leaves its
finished rows in OUT.unfinished and continues from them. --score reads rows with a completion (or with choices) and
writes likelihoods.
"""

import dataclasses
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from engine import kv_cache, packing, processes, runlog, settings, tensor_parallel
from engine import model as models
from engine.completions import completion_row, key_of
from engine.decoder import PREFILL, Control, Request, Sampling, decode, fit_slots, stop_ids
from engine.format import FORMATS, ask
from engine.rows import BadInput, read_rows, write_rows
from engine.sampling import random_key


@dataclass(frozen=True)
class Config:
    model: str  # directory or hub name
    data: str = ""  # problem rows
    out: str = ""  # completion rows to write
    # text of the thinking, see engine/format.py
    format: Literal["s1", "s1-steps", "think", "r1", "plain"] = "s1"

    n: int = 1  # samples per problem
    temperature: float = 0.0  # 0 = greedy
    top_p: float = 1.0  # keep the smallest set of tokens with this probability
    top_k: int = 0  # keep this many tokens; 0 = all
    seed: int = 0  # with a row's id and sample number it decides the row's text
    max_tokens: int = 1024  # of a completion, thinking and injected tokens included
    # strings that end a completion wherever they appear, across tokens too
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()  # tokens that end it, beside the model's own

    waits: int = 0  # how often an end of thinking is replaced by --wait
    wait: str = "Wait"  # s1 also tried "Hmm", "Alternatively" and none ('')
    min_thinking: int = 0  # replace it as often as it takes to think for this many tokens
    # tokens of thinking; 0 = none, -1 = all but 100 (s1's "auto")
    thinking_budget: int | None = None
    # of all rounds together, or of each round between waits
    budget_rule: Literal["total", "round"] = "total"
    # force the answer, or sample again until it fits (s1, §5.2)
    over_budget: Literal["force", "reject"] = "force"
    max_tries: int = 1000  # of --over-budget reject
    steps: int = 0  # force the answer after so many steps (--format s1-steps)
    # tell the model how long to think: tokens:N, steps:N, long, short, l1:N, l1-max:N
    ask: str = ""

    sweep: str = ""  # FLAG=A,B,...: one run for each value, OUT-FLAG-VALUE
    score: bool = False  # no sampling: log-probability, entropy, rank of each row's own completion
    interactive: bool = False  # answer what is typed in the terminal
    stdout: bool = False  # rows to standard output as they finish, no files
    only: str | None = None  # only problems of this group
    limit: int = 0  # only the first so many problems; 0 = all
    slots: int = 256  # sequences decoded side by side, if memory allows
    logp: bool = False  # write the log-probability of each token
    device: str = "cpu"  # or cuda
    dtype: Literal["fp32", "bf16"] = "fp32"  # of weights and computation
    tp: int = 1  # ranks that share one model (tensor parallel); the others share the rows
    overwrite: bool = False  # replace --out if it was made with other settings


# settings that may differ between a run and its continuation
FREE = ("out", "slots", "overwrite", "tp")
ANSWER_ROOM = 100  # tokens that --thinking-budget -1 leaves for the answer, as s1's harness does
SWEEPS = (
    "thinking_budget",
    "waits",
    "wait",
    "min_thinking",
    "max_tokens",
    "steps",
    "ask",
    "temperature",
    "seed",
)


def sampling_of(cfg):
    return Sampling(
        cfg.temperature,
        cfg.top_p,
        cfg.top_k,
        cfg.wait,
        cfg.budget_rule,
        cfg.over_budget,
        cfg.max_tries,
        cfg.stop,
        cfg.stop_tokens,
        cfg.logp,
    )


# ---------------------------------------------------------------- what is asked for


def check(cfg):
    """Raise BadInput for settings out of range or that do not go together."""
    for name, bad in (
        ("n", cfg.n < 1),
        ("temperature", cfg.temperature < 0),
        ("top_p", not 0 < cfg.top_p <= 1),
        ("top_k", cfg.top_k < 0),
        ("max_tokens", cfg.max_tokens < 1),
        ("waits", cfg.waits < 0),
        ("min_thinking", cfg.min_thinking < 0),
        ("max_tries", cfg.max_tries < 1),
        ("slots", cfg.slots < 1),
        ("thinking_budget", cfg.thinking_budget is not None and cfg.thinking_budget < -1),
        ("steps", cfg.steps < 0),
        ("tp", cfg.tp < 1),
        ("limit", cfg.limit < 0),
    ):
        if bad:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(cfg, name)}: out of range")
    if cfg.steps and not FORMATS[cfg.format].has_steps:
        raise BadInput(f"--steps {cfg.steps}: --format {cfg.format} has no steps (s1-steps has)")
    if cfg.over_budget == "reject" and (cfg.thinking_budget is None or cfg.temperature == 0):
        raise BadInput(
            "--over-budget reject samples until --thinking-budget is kept: it needs one, and --temperature"
        )
    if cfg.thinking_budget is not None and -1 < cfg.thinking_budget < cfg.min_thinking:
        raise BadInput(
            f"--min-thinking {cfg.min_thinking} is more than --thinking-budget {cfg.thinking_budget}"
        )
    if cfg.ask:
        ask("", cfg.ask)
    if not cfg.data:
        raise BadInput("--data: problem rows are needed (or --interactive)")
    if not cfg.out and not cfg.stdout:
        raise BadInput("--out: where to write is needed (or --stdout)")
    if cfg.out and Path(cfg.out).resolve() == Path(cfg.data).resolve():
        raise BadInput(f"--out {cfg.out} is --data")


def load_problems(cfg):
    """The rows that cfg asks for. Raises BadInput for rows it cannot take."""
    check(cfg)
    problems = [
        problem
        for problem in read_rows(cfg.data, need=("id", "question"))
        if cfg.only is None or problem.get("group") == cfg.only
    ]
    if not problems:
        raise BadInput(f"{cfg.data}: no row of --only {cfg.only}")
    problems = problems[: cfg.limit] if cfg.limit else problems
    seen = set()
    for problem in problems:
        if (
            not isinstance(problem["id"], (str, int))
            or not isinstance(problem["question"], str)
            or re.search("[\ud800-\udfff]", problem["question"])
        ):
            raise BadInput(f"{cfg.data}: row {problem['id']!r}: id or question is not a text")
        key = (problem["id"], problem.get("sample", 0) if cfg.score else 0)
        if key in seen:
            raise BadInput(f"{cfg.data}: two rows have the id '{problem['id']}'")
        seen.add(key)
        for name in ("max_tokens", "waits", "thinking_budget"):
            value = problem.get(name, 1)
            if type(value) is not int or value < (name == "max_tokens"):
                raise BadInput(
                    f"{cfg.data}: row '{problem['id']}': {name} {value!r} is not a number of tokens"
                )
    return problems


def sweep(cfg):
    """The settings of each run of --sweep FLAG=A,B,..."""
    name, _, values = cfg.sweep.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    kind = {"wait": str, "ask": str, "temperature": float}.get(name, int)
    if name not in SWEEPS or not values:
        raise BadInput(f"--sweep {cfg.sweep}: not FLAG=A,B,... with a FLAG of {', '.join(SWEEPS)}")
    if not cfg.out:
        raise BadInput("--sweep writes files: --out is needed")
    runs, out = [], Path(cfg.out)
    for value in values.split(","):
        if "/" in value:
            raise BadInput(f"--sweep {cfg.sweep}: '{value}' cannot be part of a file's name")
        try:
            value = None if (name, value) == ("thinking_budget", "none") else kind(value)
        except ValueError:
            raise BadInput(
                f"--sweep {cfg.sweep}: '{value}' is not a value of --{name.replace('_', '-')}"
            ) from None
        label = f"-{name.replace('_', '-')}-{str(value).replace(':', '-')}"
        place = out.with_name(
            out.name.removesuffix(".jsonl") + label + ".jsonl" * out.name.endswith(".jsonl")
        )
        runs.append(dataclasses.replace(cfg, **{name: value, "sweep": "", "out": str(place)}))
    for one in runs:
        check(one)
    return runs


def make_requests(cfg, problems, model, tokenizer, form, history=()):
    """-> (requests, the (problem, sample number) of each, lines that say which prompts were left out and why).

    A prompt needs room in the context for one token, or for its budget, what ends it, and one token of an answer.
    """
    requests, todo, skipped, context = [], [], [], models.context_length(model)
    asked = [
        Request(
            [],
            0,
            problem.get("max_tokens", cfg.max_tokens),
            problem.get("waits", cfg.waits),
            problem.get("thinking_budget", cfg.thinking_budget),
            cfg.min_thinking,
            cfg.steps,
        )
        for problem in problems
    ]
    # refuses what cannot be served
    control = Control(model, tokenizer, form, sampling_of(cfg), asked)
    # and a token of an answer
    forced = control.force_length + 1 if cfg.over_budget == "force" else 0
    for problem, request in zip(problems, asked):
        question = ask(problem["question"], cfg.ask) if cfg.ask else problem["question"]
        prompt = form.prompt_ids(tokenizer, question, history)
        limit, budget, room = (
            request.max_tokens,
            request.budget,
            min(request.max_tokens, context - len(prompt)),
        )
        if budget == -1:  # s1's "auto"
            request = request._replace(
                budget=min(limit, context) - len(prompt) - control.forced_length - ANSWER_ROOM
            )
        # Under "round" the auto budget is each round's, and the context ends the later ones, as in s1's harness.
        most = (
            request.budget
            if budget == -1
            else 0
            if budget is None
            else control.most_thinking(request)
        )
        needed = 1 if budget is None else most + forced
        if budget is not None and (
            limit < ANSWER_ROOM + control.forced_length if budget == -1 else needed > limit
        ):
            where = (
                f"{cfg.data}: row '{problem['id']}': "
                if problem.keys() & {"thinking_budget", "max_tokens"}
                else ""
            )
            raise BadInput(
                f"{where}--thinking-budget {budget} leaves no room for an answer in --max-tokens {limit}"
            )
        if room < needed or budget == -1 and request.budget < 0:
            skipped.append(
                f"skipped: the prompt of row '{problem['id']}' has {len(prompt)} tokens, the context {context}"
            )
            continue
        for number in range(cfg.n):
            todo.append((problem, number))
            requests.append(
                request._replace(
                    prompt=prompt, max_tokens=room, key=random_key(cfg.seed, problem["id"], number)
                )
            )
    return requests, todo, skipped


# ---------------------------------------------------------------- likelihoods


def to_score(cfg, rows, model, tokenizer, form):
    """What --score reads of each row -> a list per row of (prompt ids, completion ids), several for `choices`.

    The completion is `ids` where the row has them, else `thinking` and `response` in the format's text. Raises BadInput
    naming the row that cannot be scored.
    """
    found, context = [], models.context_length(model)
    for row in rows:
        where = f"{cfg.data}: row '{row['id']}'"
        prompt = form.prompt_ids(
            tokenizer, ask(row["question"], cfg.ask) if cfg.ask else row["question"]
        )
        if "choices" in row:
            choices = row["choices"] if isinstance(row["choices"], list) else []
            if not choices or not all(isinstance(choice, str) for choice in choices):
                raise BadInput(f"{where}: choices is not a list of texts")
            pairs = [
                (prompt, tokenizer.encode(choice, add_special_tokens=False)) for choice in choices
            ]
        elif "ids" in row:
            pairs = [(prompt, row["ids"])]
        elif row.get("response") is not None:
            ids, trained = form.training_ids(tokenizer, row)
            pairs = [(ids[: trained.index(True)], ids[trained.index(True) :])]
        else:
            raise BadInput(f"{where} has neither ids, nor response, nor choices to score")
        for start, end in pairs:
            if (
                not end
                or not isinstance(end, list)
                or not all(type(i) is int and 0 <= i < len(tokenizer) for i in end)
            ):
                raise BadInput(f"{where}: nothing to score, or ids outside the vocabulary")
            if len(start) + len(end) > context:
                raise BadInput(f"{where} has {len(start) + len(end)} tokens, the context {context}")
        found.append(pairs)
    return found


def likelihoods(cfg, rows, pairs, model, n_tokens):
    """Yield each row with log-probability, entropy (nats) and rank of every token of its completion.

    A row with `choices` (multiple choice) gets `choice_logp`, the summed log-probability of each as an answer to the
    question (--format plain: with another it would be the beginning of the thinking), and as `response` the likeliest,
    by its letter if `answer` is a letter. n_tokens: of the vocabulary, to which the softmax is cut as in decoding.
    """
    items = [(place, number) for place, row in enumerate(pairs) for number in range(len(row))]
    lengths, found, names = (
        [sum(map(len, pairs[p][i])) for p, i in items],
        {},
        ("logp", "entropy", "rank"),
    )
    for group in packing.fill_bins(lengths, PREFILL):
        texts = [pairs[place][number] for place, number in (items[i] for i in group)]
        batch = packing.pack(
            [start + end for start, end in texts],
            [[False] * len(start) + [True] * len(end) for start, end in texts],
            models.head(model).device,
        )
        with torch.no_grad():
            stats = models.score(model, batch, cfg.temperature or 1.0, names, n_tokens)
        columns = [getattr(stats, name).split([len(end) for _, end in texts]) for name in names]
        found |= dict(zip((items[i] for i in group), zip(*columns)))
        for place in dict.fromkeys(items[i][0] for i in group):
            scored = [found.get((place, number)) for number in range(len(pairs[place]))]
            row = rows[place]
            if None in scored:  # a choice is still missing
                continue
            if "choices" in row:
                sums = [float(logp.sum()) for logp, *_ in scored]
                best = max(range(len(sums)), key=sums.__getitem__)
                letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(sums)]
                named = row.get("answer") in list(letters) and best < len(letters)
                yield row | {
                    "choice_logp": [round(x, 6) for x in sums],
                    "thinking": "",
                    "response": letters[best] if named else row["choices"][best],
                }
            else:
                logp, entropy, rank = (x.tolist() for x in scored[0])
                yield row | {
                    "logp": [round(x, 6) for x in logp],
                    "entropy": [round(x, 6) for x in entropy],
                    "rank": rank,
                }


# ---------------------------------------------------------------- the command


class Book:
    """The rows of a run on disk: OUT.unfinished while it lasts (a file for each process), OUT when all are there."""

    def __init__(self, cfg):
        """Raises BadInput if --out is another run's and may not go."""
        self.cfg, self.complete = cfg, False
        if cfg.stdout:
            return
        self.out, self.part = Path(cfg.out), Path(cfg.out + ".unfinished")
        self.header = runlog.header_of(self.out)
        self.identity = runlog.identity(cfg, FREE, data=cfg.data, model=cfg.model)
        if not self.header.is_file():
            self.is_new = True
            if self.out.is_file() and not cfg.overwrite:
                raise BadInput(
                    f"--out {self.out} exists, and without {self.header.name} it cannot be told how it was "
                    "made; choose another --out, or --overwrite to replace it"
                )
            return
        difference = runlog.difference(
            self.identity, json.loads(self.header.read_text()).get("identity", {})
        )
        if difference and not cfg.overwrite:
            raise BadInput(
                f"--out {self.out} was made with other settings ({difference}); choose another --out, "
                "or --overwrite to replace it"
            )
        self.is_new, self.complete = bool(difference), not difference and self.out.is_file()

    def open(self, ranks):
        """-> {key: row} of what is already there."""
        self.ranks, self.file = ranks, None
        if self.cfg.stdout:
            self.file = sys.stdout if ranks.writes else None
            return {}
        processes.barrier(ranks)
        if ranks.leads:
            if self.is_new:
                self.out.unlink(missing_ok=True)
            rows = {} if self.is_new else self.read()
            write_rows(self.part, rows.values())  # in one file, without a cut last line
            for file in self.parts():
                if file != self.part:
                    file.unlink()
            runlog.save_config(self.cfg, self.header, identity=self.identity)
        processes.barrier(ranks)
        rows = self.read()
        processes.barrier(ranks)
        if ranks.writes:
            name = f"{self.part}.{ranks.index}" if ranks.index else self.part
            self.file = open(name, "a", encoding="utf-8", newline="\n")
        return rows

    def parts(self):
        names = re.compile(re.escape(self.part.name) + r"(\.\d+)?")
        return (
            sorted(f for f in self.part.parent.iterdir() if names.fullmatch(f.name))
            if self.part.parent.is_dir()
            else []
        )

    def read(self):
        """Rows of all parts; the last line of a part may be cut."""
        lines = [line for part in self.parts() for line in part.read_bytes().split(b"\n")[:-1]]
        return {key_of(row): row for row in map(json.loads, lines)}

    def add(self, row):
        if self.file:
            self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.file.flush()

    def close(self, order, **totals):
        """Write OUT, its rows in this order of keys, and the header -> the rows."""
        if self.cfg.stdout:
            return []
        if self.file:
            self.file.close()
        processes.barrier(self.ranks)
        rows = self.read()
        rows = [rows[key] for key in order if key in rows]
        processes.barrier(self.ranks)
        if self.ranks.leads:
            write_rows(self.out, rows)
            for part in self.parts():
                part.unlink()
            runlog.save_config(self.cfg, self.header, identity=self.identity, **totals)
        return rows


def completions(cfg, model, tokenizer, form, requests, todo):
    """Yield the rows of the requests as they finish."""
    for index, completion in decode(model, tokenizer, form, requests, sampling_of(cfg), cfg.slots):
        problem, number = todo[index]
        if completion.finish == "nan":
            tqdm.write(
                f"row '{problem['id']}': the model's logits are not finite after {len(completion.ids)} tokens",
                file=sys.stderr,
            )
        yield completion_row(problem, number, completion, tokenizer, form, cfg.logp)


def load(cfg):
    """-> (model, tokenizer, ranks): under torchrun this process's share of the work, see processes.join_ranks."""
    ranks = processes.join_ranks(cfg.device, cfg.tp)
    dtype = torch.bfloat16 if cfg.dtype == "bf16" else torch.float32
    return *tensor_parallel.load_split(cfg.model, ranks, dtype), ranks


def main(cfg, loaded=None):
    """Generate and write the rows; returns them (of a sweep: a list for each run)."""
    if cfg.interactive:
        return chat(cfg)
    if cfg.sweep:
        runs, loaded = sweep(cfg), loaded or load(cfg)
        return [main(one, loaded) for one in runs]
    given, form = load_problems(cfg), FORMATS[cfg.format]
    book = Book(cfg)
    if book.complete:
        print(f"{book.out}: this run is complete")
        return read_rows(book.out)
    model, tokenizer, ranks = loaded or load(cfg)
    form.check(tokenizer)
    skipped = []  # what cannot be served is refused before a file is touched
    if cfg.score:
        pairs = to_score(cfg, given, model, tokenizer, form)
    else:
        requests, todo, skipped = make_requests(cfg, given, model, tokenizer, form)
    say = (
        print
        if ranks.leads and not cfg.stdout
        else lambda line: ranks.leads and print(line, file=sys.stderr)
    )
    for line in skipped:
        say(line)
    keys = (
        [key_of(row) for row in given]
        if cfg.score
        else [(problem["id"], number) for problem, number in todo]
    )
    if not keys:
        raise BadInput(f"{cfg.data}: no prompt fits into the context")
    done = book.open(ranks)
    share = {problem["id"]: place % ranks.n == ranks.index for place, problem in enumerate(given)}
    left = [i for i, key in enumerate(keys) if share[key[0]] and key not in done]
    if cfg.score:
        rows = likelihoods(
            cfg, [given[i] for i in left], [pairs[i] for i in left], model, len(tokenizer)
        )
    else:
        requests, todo = [requests[i] for i in left], [todo[i] for i in left]
        rows = completions(cfg, model, tokenizer, form, requests, todo)
        if requests:
            longest, slots = (
                max(len(r.prompt) + r.max_tokens for r in requests),
                fit_slots(model, requests, cfg.slots),
            )
            say(
                f"{slots} slots of {longest} tokens, a cache of "
                f"{(slots + 1) * longest * kv_cache.bytes_per_token(model) / 1e9:.2g} GB"
            )
    n_tokens, n_cut, began = 0, 0, time.perf_counter()
    with tqdm(
        total=len(left), desc=book.cfg.out or "rows", disable=None if ranks.leads else True
    ) as bar:
        try:
            for row in rows:
                book.add(row)
                n_tokens += row.get("n_tokens", 0)
                n_cut += row.get("finish") == "length"
                bar.set_postfix_str(
                    f"{n_tokens / (time.perf_counter() - began):.0f} tokens/s", refresh=False
                )
                bar.update()
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"--slots {cfg.slots}: out of memory; finished rows are kept, fewer slots continue"
            ) from error
    n_tokens, n_cut = (
        processes.sum_over_ranks(n_tokens, ranks),
        processes.sum_over_ranks(n_cut, ranks),
    )
    seconds = time.perf_counter() - began
    done = book.close(
        keys, n_tokens=n_tokens, seconds=round(seconds, 2), skipped_prompts=len(skipped)
    )
    say(
        f"{cfg.out or 'done'}: {len(keys)} rows, {n_tokens / max(seconds, 1e-9):.0f} tokens/s, "
        f"{n_cut} cut by --max-tokens, {len(skipped)} prompts skipped"
    )
    return done


# ---------------------------------------------------------------- in the terminal


def chat(cfg):
    """Answer what is typed, thinking dimmed and the answer plain. /NAME VALUE changes a setting, /new forgets the past."""
    cfg = dataclasses.replace(cfg, data="typed", out="shown")
    check(cfg)
    model, tokenizer, ranks = load(cfg)
    if ranks.n > 1 or ranks.group is not None:
        raise BadInput("--interactive: one process only, not under torchrun")
    form = FORMATS[cfg.format]
    form.check(tokenizer)
    converse(cfg, model, tokenizer, form)


def converse(cfg, model, tokenizer, form):
    """Questions, answers and settings in turn, until the input ends."""
    names = (
        "thinking_budget",
        "waits",
        "wait",
        "min_thinking",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "ask",
    )
    stops, history, n_asked = stop_ids(model, tokenizer, cfg.stop_tokens), [], 0
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    print(
        "Type a question; /thinking_budget N, /waits N and the like change a setting, /new begins anew, Ctrl-D ends."
    )
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return print()
        shown = 0

        def show(state, n):
            """Print what the newest token added, except half a character."""
            nonlocal shown
            ids = state["ids"][0, : int(state["n"][0])].tolist()
            if ids and ids[-1] in stops:
                ids = ids[:-1]
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            end = text.find(form.end) if form.end else 0
            end = len(text) if end < 0 else end + len(form.end)
            if not text.endswith("\ufffd"):
                print(
                    dim + text[shown : max(shown, end)] + plain + text[max(shown, end) :],
                    end="",
                    flush=True,
                )
                shown = len(text)

        try:
            if line == "/new":
                history = []
            elif line.startswith("/"):
                name, _, value = line[1:].partition(" ")
                name = {"budget": "thinking_budget"}.get(
                    name.replace("-", "_"), name.replace("-", "_")
                )
                if name not in names:
                    raise BadInput(f"/{name}: not one of {', '.join(names)}, new")
                value = (
                    None
                    if value in ("", "none") and name == "thinking_budget"
                    else {"wait": str, "ask": str, "temperature": float, "top_p": float}.get(
                        name, int
                    )(value)
                )
                check(changed := dataclasses.replace(cfg, **{name: value}))
                cfg = changed
            elif line:
                problem = {"id": f"typed {n_asked}", "question": line}
                requests, _, skipped = make_requests(
                    cfg, [problem], model, tokenizer, form, history
                )
                n_asked += 1
                if skipped:
                    raise BadInput("the conversation has outgrown the context; /new begins anew")
                ((_, completion),) = decode(
                    model, tokenizer, form, requests[:1], sampling_of(cfg), 1, watch=show
                )
                print()
                row = completion_row(problem, 0, completion, tokenizer, form)
                history += [
                    {"role": "user", "content": line},
                    {"role": "assistant", "content": row["response"]},
                ]
        except (BadInput, ValueError) as error:
            print(error)


if __name__ == "__main__":
    settings.cli(main, Config)
