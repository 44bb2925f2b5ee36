"""A world small enough for a laptop, in which the effects that the papers report can be seen.

Three groups of tasks over one vocabulary of about 150 words. Questions and completions look like this:

math    cd       make 20 from 7 5 8                          combine all numbers left to right with + - *
        pair     pair sum 11 from 8 2 9 7 3 10               two of the numbers
        pick     pick three total 12 from 6 4 7 5 9 3        three of the numbers
other   sort     sort 15 2 21          <think> min 2 then 15 then 21 </think> 2 15 21
        close    close ( [ {           <think> first ( [ { </think> } ] )
        logic    logic f or f and t    <think> f or f is f f and t is f </think> f
        compare  compare 43 50         <think> </think> low         (the first number, seen from the second)
plain   copy, edge, fact, repeat: answered without thinking

A math answer is graded by computing it, so every solution counts, and a guess is right about one time in ten.
The base model has read terse searches that often give up (`base`) and, in a minority of documents, a teacher's style.
The teacher's traces for fine-tuning are of four kinds, so that there is something to curate:

good    tries, compares with the target, doubts ("wait , maybe"), checks again; its patience differs from trace to trace
blurt   one guess, no check
sloppy  wrong arithmetic left standing, no comparison
loop    the same idea over and over

Held-out problems never occur in training: a problem's key (numbers in any order, target) decides its split by hash.
Facts, comparisons and repetitions are a closed set and are not held out.

    python -m data.tiny --out out/tiny/data                     problems, the teacher's pool: a second or two
    python -m data.tiny --out out/base --pretrain 96000         also the base model's reading, and an untrained model
"""

import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

from engine import settings
from engine.rows import write_rows

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()
COLOURS = "red blue green pink black white grey brown".split()
BRACKETS = {"(": ")", "[": "]", "{": "}"}
SPECIAL = ["<pad>", "<eos>", "<unk>", "<user>", "<bot>", "<think>", "</think>"]
WORDS = (
    ["+", "-", "*", "=", ".", ",", "?", *BRACKETS, *BRACKETS.values()]
    + LETTERS
    + COLOURS
    + "make from pair sum pick three total sort close logic compare copy first last of fact repeat".split()
    + "try low high yes vs okay we need let me guess maybe perhaps wait check verify unsure therefore since".split()
    + "done hmm so then min is and or".split()
)
VOCABULARY = list(dict.fromkeys(SPECIAL + [str(n) for n in range(51)] + WORDS))

TASKS = {
    "math": ("cd", "pair", "pick"),
    "other": ("sort", "close", "logic", "compare"),
    "plain": ("copy", "edge", "fact", "repeat"),
}
MAX_ATTEMPTS = 9


@dataclass(frozen=True)
class Config:
    out: str  # directory to write into
    # of the traces and of which training problems are drawn; held-out problems never change
    seed: int = 0
    n_pool: int = 4000  # teacher traces
    n_train: int = 2000  # math problems for reinforcement learning
    n_held_out: int = 300  # held-out math problems; the two other groups get 200 each
    pretrain: int = 0  # documents for the base model; 0 writes none
    init_seed: int = 0  # weights of the untrained base model


# ---------------------------------------------------------------- problems


def split_of(key):
    """'held_out' for one key in eight, 'dev' for one (choose settings there), else 'train'."""
    return {0: "held_out", 1: "dev"}.get(hashlib.sha256(key.encode()).digest()[0] % 8, "train")


def evaluate_chain(numbers, operators):
    """Left-to-right value after each operation, or None once one leaves 0..50: ([7, 8, 5], '+-') -> [15, 10]."""
    values, total = [], numbers[0]
    for operator, number in zip(operators, numbers[1:]):
        total = (
            total + number
            if operator == "+"
            else total - number
            if operator == "-"
            else total * number
        )
        if not 0 <= total <= 50:
            return None
        values.append(total)
    return values


def candidates(problem):
    """All attempts at a math problem that stay in 0..50, as (numbers, operators)."""
    nums, n_used = problem["nums"], problem["n_used"]
    if problem["task"] == "cd":
        found = {
            (p, o)
            for p in itertools.permutations(nums)
            for o in itertools.product("+-*", repeat=len(nums) - 1)
        }
    else:
        found = {(c, ("+",) * (n_used - 1)) for c in itertools.combinations(nums, n_used)}
    return sorted(c for c in found if evaluate_chain(*c) is not None)


def math_problem(task, rng):
    if task == "cd":
        nums, n_used = [rng.randint(1, 9) for _ in range(3)], 3
    elif task == "pair":
        nums, n_used = rng.sample(range(1, 16), 6), 2
    else:
        nums, n_used = [rng.randint(1, 9) for _ in range(6)], 3
    problem = {"task": task, "nums": nums, "n_used": n_used, "left_to_right": True}
    solution = rng.choice(candidates(problem))
    target = evaluate_chain(*solution)[-1]
    listed = " ".join(map(str, nums))
    question = {
        "cd": f"make {target} from {listed}",
        "pair": f"pair sum {target} from {listed}",
        "pick": f"pick three total {target} from {listed}",
    }[task]
    key = f"{task} {sorted(nums)} {target}"
    return problem | {
        "question": question,
        "answer": expression(solution),
        "target": target,
        "key": key,
    }


def other_problem(task, rng):
    """A problem of the other groups, with the trace that solves it (empty for the plain tasks)."""
    thinking = ""
    if task == "sort":
        numbers = rng.sample(range(51), rng.randint(3, 5))
        question, answer = "sort " + _join(numbers), _join(sorted(numbers))
        thinking = "min " + " then ".join(map(str, sorted(numbers)))
    elif task == "close":
        opened = [rng.choice("([{") for _ in range(rng.randint(3, 6))]
        question, answer = "close " + _join(opened), _join(BRACKETS[b] for b in reversed(opened))
        thinking = "first " + _join(opened)
    elif task == "logic":
        words = [rng.choice("tf") for _ in range(rng.randint(3, 5))]
        joints = [rng.choice(("and", "or")) for _ in words[1:]]
        question = "logic " + words[0] + "".join(f" {j} {w}" for j, w in zip(joints, words[1:]))
        answer, steps = words[0], []
        for joint, word in zip(joints, words[1:]):
            both = (answer == "t", word == "t")
            result = "t" if (all(both) if joint == "and" else any(both)) else "f"
            steps.append(f"{answer} {joint} {word} is {result}")
            answer = result
        thinking = " ".join(steps)
    elif task == "compare":
        a = rng.randint(0, 50)
        b = a if rng.random() < 0.25 else rng.randint(0, 50)
        question, answer = f"compare {a} {b}", "low" if a < b else "high" if a > b else "yes"
    elif task == "copy":
        words = [
            rng.choice(LETTERS + COLOURS + [str(n) for n in range(51)])
            for _ in range(rng.randint(3, 7))
        ]
        question, answer = "copy " + _join(words), _join(words)
    elif task == "edge":
        words = [
            rng.choice(LETTERS + [str(n) for n in range(51)]) for _ in range(rng.randint(3, 6))
        ]
        end = rng.choice(("first", "last"))
        question, answer = f"{end} of " + _join(words), words[0 if end == "first" else -1]
    elif task == "fact":
        letter, colour = rng.choice(LETTERS[:6]), rng.choice(COLOURS)
        question, answer = f"fact {letter} {colour} ?", _fact(letter, colour)
    else:
        word, n = rng.choice(LETTERS + COLOURS), rng.randint(1, 5)
        question, answer = f"repeat {word} {n}", _join([word] * n)
    return {
        "task": task,
        "question": question,
        "answer": answer,
        "thinking": thinking,
        "key": question,
    }


def problem(group, task, rng, split):
    """Draw problems until one falls into `split` (closed sets take any)."""
    while True:
        row = math_problem(task, rng) if group == "math" else other_problem(task, rng)
        if task in ("fact", "repeat", "compare") or split_of(row["key"]) == split:
            return {
                "id": hashlib.sha256(row["question"].encode()).hexdigest()[:16],
                "group": group,
                **row,
            }


def problems(group, n, seed, split):
    """n problems with distinct questions, the group's tasks in turn; a task that runs out leaves its place empty."""
    rng, rows, seen = random.Random(f"{seed} {group} {split}"), [], set()
    for i in range(n):
        task = TASKS[group][i % len(TASKS[group])]
        for _ in range(100):
            row = problem(group, task, rng, split)
            if row["question"] not in seen:
                seen.add(row["question"])
                rows.append(row)
                break
    return rows


def _join(words):
    return " ".join(map(str, words))


def _fact(letter, colour):
    """48 arbitrary facts that can only be memorised."""
    return COLOURS[hashlib.sha256(f"{letter} {colour}".encode()).digest()[0] % len(COLOURS)]


# ---------------------------------------------------------------- traces


def expression(candidate):
    """((7, 8, 5), '+-') -> '7 + 8 - 5'."""
    numbers, operators = candidate
    return str(numbers[0]) + "".join(f" {o} {n}" for o, n in zip(operators, numbers[1:]))


def calculation(candidate, slip=0):
    """((7, 8, 5), '+-') -> '7 + 8 = 15 - 5 = 10'; `slip` is added to the last result (kept within 0..50)."""
    numbers, operators = candidate
    values = evaluate_chain(*candidate)
    values[-1] = min(50, max(0, values[-1] + slip))
    return str(numbers[0]) + "".join(
        f" {o} {n} = {v}" for o, n, v in zip(operators, numbers[1:], values)
    )


class Search:
    """Draws attempts at one problem: the solution with probability 1/4, else a wrong candidate not tried before."""

    def __init__(self, problem, rng):
        self.rng, self.target = rng, problem["target"]
        pool = candidates(problem)
        self.right = [c for c in pool if evaluate_chain(*c)[-1] == self.target]
        self.wrong = [c for c in pool if evaluate_chain(*c)[-1] != self.target]
        rng.shuffle(self.wrong)

    def next(self):
        if self.rng.random() < 0.25 or not self.wrong:
            return self.rng.choice(self.right)
        return self.wrong.pop()

    def verdict(self, candidate):
        value = evaluate_chain(*candidate)[-1]
        return "low" if value < self.target else "high" if value > self.target else "yes"


def base_trace(problem, rng):
    """Terse search that gives up after a failure with probability 0.35. -> (thinking, last attempt)."""
    search, words = Search(problem, rng), []
    for _ in range(MAX_ATTEMPTS):
        attempt = search.next()
        verdict = search.verdict(attempt)
        words.append(f"try {calculation(attempt)} {verdict}")
        if verdict == "yes" or rng.random() < 0.35:
            break
    return " ".join(words), attempt


def good_trace(problem, rng):
    """Attempts compared with the target, doubts, re-checks; one failure in ten is mistaken for a success."""
    search = Search(problem, rng)
    stop = rng.uniform(0.15, 0.7)  # this trace's impatience
    words = [f"okay we need {search.target} ."]
    for number in range(MAX_ATTEMPTS):
        attempt = search.next()
        verdict = search.verdict(attempt)
        slip = verdict != "yes" and rng.random() < 0.1
        shown = calculation(attempt)
        if slip:  # the last result is written as the target
            shown = calculation(attempt, search.target - evaluate_chain(*attempt)[-1])
        words.append(
            f"{rng.choice(('maybe', 'perhaps'))} {shown} vs {search.target} {'yes' if slip else verdict} ."
        )
        if verdict == "yes" or slip:
            words.append(f"therefore {expression(attempt)} done")
            while rng.random() < (0.8 if slip else 0.45):
                words.append(f"wait , check {calculation(attempt)} vs {search.target} {verdict} .")
                if slip:  # the check shows it: go on searching
                    words.append(f"guess {expression(attempt)} unsure")
                    break
                words.append(f"therefore {expression(attempt)} done")
            else:
                break
        elif rng.random() < stop:
            words.append(f"guess {expression(attempt)} unsure")
            if rng.random() < 0.6:
                break
        if number < MAX_ATTEMPTS - 1:
            words.append("wait ,")
    return " ".join(words), attempt


def blurt_trace(problem, rng):
    attempt = Search(problem, rng).next()
    return f"okay let me guess {calculation(attempt)} .", attempt


def sloppy_trace(problem, rng):
    search, words = Search(problem, rng), ["hmm ."]
    for _ in range(rng.randint(1, 4)):
        attempt = search.next()
        slip = rng.choice((-2, -1, 1, 2)) if rng.random() < 0.25 else 0
        words.append(f"so {calculation(attempt, slip)} .")
    return " ".join(words), attempt


def loop_trace(problem, rng):
    attempt = Search(problem, rng).next()
    return "okay so . " + " ".join(
        f"then {calculation(attempt)} hmm ." for _ in range(rng.randint(2, 5))
    ), attempt


TEACHER = {
    "good": (good_trace, 0.50),
    "blurt": (blurt_trace, 0.20),
    "sloppy": (sloppy_trace, 0.15),
    "loop": (loop_trace, 0.15),
}


def teacher_pool(n, seed):
    """n traces over training problems; the kinds of task are as uneven as they are in collected data."""
    rng, rows = random.Random(f"{seed} pool"), []
    for i in range(n):
        task = rng.choices(("pair", "pick", "cd"), (70, 20, 10))[0]
        row = problem("math", task, rng, "train")
        kind = rng.choices(list(TEACHER), [share for _, share in TEACHER.values()])[0]
        thinking, attempt = TEACHER[kind][0](row, rng)
        rows.append(
            row
            | {
                "id": f"{row['id']}-{i}",
                "subject": task,
                "thinking": thinking,
                "response": expression(attempt),
                "n_thinking_tokens": len(thinking.split()),
                "model": f"teacher-{kind}",
            }
        )
    return rows


def pretraining_rows(n, seed):
    """The base model's reading: math, other and plain documents 2 : 1 : 1.

    Of the math documents 70% are terse searches and 30% in the teacher's styles; one in ten is cut at a random word
    and answered with the best idea so far, which gives a forced end of thinking its meaning.
    """
    rng = random.Random(f"{seed} pretrain")
    styles = [base_trace, good_trace, blurt_trace, sloppy_trace, loop_trace]
    for _ in range(n):
        group = rng.choice(("math", "math", "other", "plain"))
        if group != "math":
            task = rng.choice(TASKS[group] + (("compare",) if group == "other" else ()))
            row = problem(group, task, rng, "train")
            yield {
                "question": row["question"],
                "thinking": row["thinking"],
                "response": row["answer"],
            }
            continue
        row = problem("math", rng.choice(("cd", "cd", "pair", "pick")), rng, "train")
        style = rng.choices(styles, (70, 15, 5, 5, 5))[0]
        thinking, attempt = style(row, rng)
        if rng.random() < 0.1:
            words = thinking.split()
            thinking = " ".join(words[: rng.randrange(len(words))])
            attempt = best_so_far(row, thinking, rng)
        yield {"question": row["question"], "thinking": thinking, "response": expression(attempt)}


def best_so_far(problem, thinking, rng):
    """The solution if the text computes it, else the last candidate computed in full, else any candidate."""
    found = [(f" {thinking} ".find(f" {calculation(c)} "), c) for c in candidates(problem)]
    found = sorted((at, c) for at, c in found if at >= 0)
    right = [c for _, c in found if evaluate_chain(*c)[-1] == problem["target"]]
    return right[-1] if right else found[-1][1] if found else rng.choice(candidates(problem))


# ---------------------------------------------------------------- tokenizer and untrained model


def tokenizer():
    """One token per word; a real PreTrainedTokenizerFast with a chat template."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=["<user>", "<bot>", "<think>", "</think>"],
    )
    fast.chat_template = (
        "{% for message in messages %}"
        "{{ ('<user> ' if message.role == 'user' else '<bot> ') + message.content + ' ' }}"
        "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    return fast


def untrained_model(seed):
    """A Qwen3 of 170 thousand parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=VOCABULARY.index("<eos>"),
        pad_token_id=VOCABULARY.index("<pad>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def main(cfg):
    out = Path(cfg.out)
    for split in ("held_out", "dev"):
        rows = [
            row
            for group, n in (("math", cfg.n_held_out), ("other", 200), ("plain", 200))
            for row in problems(group, n, 0, split)
        ]
        write_rows(
            out / f"{split}.jsonl",
            ({k: v for k, v in row.items() if k != "thinking"} for row in rows),
        )
        print(f"{split + '.jsonl':<16}{len(rows):>7} problems")
    train = problems("math", cfg.n_train, cfg.seed, "train")
    write_rows(out / "train.jsonl", train)
    print(f"{'train.jsonl':<16}{len(train):>7} math problems")
    pool = teacher_pool(cfg.n_pool, cfg.seed)
    write_rows(out / "pool.jsonl", pool)
    right = sum(evaluate_text(row) for row in pool) / max(1, len(pool))
    print(
        f"{'pool.jsonl':<16}{len(pool):>7} traces of the teacher, {right:.0%} of them right, "
        f"{sum(row['n_thinking_tokens'] for row in pool) / max(1, len(pool)):.0f} thinking tokens on average"
    )
    if cfg.pretrain:
        write_rows(out / "pretrain.jsonl", pretraining_rows(cfg.pretrain, cfg.seed))
        untrained_model(cfg.init_seed).save_pretrained(out / "untrained")
        tokenizer().save_pretrained(out / "untrained")
        print(
            f"{'pretrain.jsonl':<16}{cfg.pretrain:>7} documents; untrained/ is the model that is to read them"
        )
    (out / "tiny.json").write_text(json.dumps(vars(cfg), indent=1) + "\n")


def evaluate_text(row):
    """Whether a trace row's response reaches its target, by the world's own arithmetic."""
    words = row["response"].split()
    return evaluate_chain([int(w) for w in words[::2]], words[1::2])[-1] == row["target"]


if __name__ == "__main__":
    settings.cli(main, Config)
