"""A world small enough for a laptop, in which the effects that the papers report can be seen.

Three groups of tasks over one vocabulary of about 150 words. Questions and completions:

math    cd       make 20 from 7 5 8                     combine all numbers left to right with + - *
        pair     pair sum 11 from 8 2 9 7 3 10          two of the numbers
        pick     pick three total 12 from 6 4 7 5 9 3   three of the numbers
other   sort     sort 15 2 21          <think> min 2 then 15 then 21 </think> 2 15 21
        close    close ( [ {           <think> first ( [ { </think> } ] )
        logic    logic f or f and t    <think> f or f is f f and t is f </think> f
        compare  compare 43 50         <think> </think> low       (43 seen from 50)
plain   copy, edge, fact, repeat: answered without thinking

A math answer is graded by computing it, so every solution counts. A guess is right about one time
in ten. The base model has read terse searches that often give up (`base`) and, in a minority of
documents, a teacher's style. The teacher's traces for fine-tuning are of four kinds, so that there
is something to curate:

good    tries, compares with the target, doubts ("wait , maybe"), checks again; its patience differs
        from trace to trace
blurt   one guess, no check
sloppy  wrong arithmetic left as it is, no comparison
loop    the same idea over and over

With --planning good traces also chain backward from the target and set subgoals, so that all four
habits of 2503.01307 occur: `20 is 12 + 8 , make 12 first . maybe 7 + 5 = 12 + 8 = 20 vs 20 yes .`

With --twins the vocabulary has a second script: most words of thinking have a Chinese twin, and in
some of the base model's searches any of them may stand for its word: `try 7 + 5 = 12 低 试 ...`.

Held-out problems never occur in training: a hash of the problem's key (numbers in any order,
target) decides its split. Facts, comparisons and repetitions are a closed set and are not held out.

    python -m data.tiny --out out/tiny/data              problems and the teacher's pool, in seconds
    python -m data.tiny --out out/base --pretrain 96000  also what the base model reads
"""

import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import settings
from engine.rows import BadInput, write_rows

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()
COLOURS = "red blue green pink black white grey brown".split()
NUMBERS = [str(n) for n in range(51)]
BRACKETS = {"(": ")", "[": "]", "{": "}"}
SIGNS = ["+", "-", "*", "=", ".", ",", "?", *BRACKETS, *BRACKETS.values()]
SPECIAL = ["<pad>", "<eos>", "<unk>", "<user>", "<bot>", "<think>", "</think>"]
QUESTION_WORDS = (
    "make from pair sum pick three total sort close logic compare copy first last of fact repeat"
).split()
THINKING_WORDS = (
    "try low high yes vs okay we need let me guess maybe perhaps wait check verify unsure "
    "therefore since done hmm so then min is and or"
).split()
# The order is that of the token ids of data/tiny_base.
WORDS = SPECIAL + NUMBERS + SIGNS + LETTERS + COLOURS + QUESTION_WORDS + THINKING_WORDS
VOCABULARY = list(dict.fromkeys(WORDS))  # t and f are letters, too: each word once
# Words of thinking in a second script; their ids come after the others'.
TWINS = {
    "try": "试",
    "low": "低",
    "high": "高",
    "yes": "是",
    "vs": "比",
    "okay": "好",
    "we": "我",
    "need": "要",
    "guess": "猜",
    "maybe": "或",
    "perhaps": "许",
    "wait": "等",
    "check": "查",
    "unsure": "疑",
    "therefore": "故",
    "done": "完",
    "so": "那",
    "then": "后",
}

TASKS = {
    "math": ("cd", "pair", "pick"),
    "other": ("sort", "close", "logic", "compare"),
    "plain": ("copy", "edge", "fact", "repeat"),
}
MAX_ATTEMPTS = 9


@dataclass(frozen=True)
class Config:
    out: str  # directory to write into
    # of the training problems and traces that are drawn; held-out problems never change
    seed: int = 0
    n_pool: int = 4000  # teacher traces
    n_train: int = 2000  # math problems for reinforcement learning
    # training problems of the two other groups, half of them each, with traces; 0 writes none
    n_other: int = 0
    n_held_out: int = 300  # held-out math problems; the two other groups get 200 each
    pretrain: int = 0  # documents for the base model; 0 writes none
    # False: each math document of the base model ends with its first attempt
    searches: bool = True
    # good traces, of the teacher and in the base model's reading, go back from the target, too
    planning: bool = False
    twins: bool = False  # a second script, which half of the base model's math documents mix in

    init_seed: int = 0  # weights of the untrained base model
    family: Literal["qwen3", "llama"] = "qwen3"  # Llama lacks the norms of queries and keys
    width: int = 64  # a multiple of 16, which is the width of a head
    layers: int = 3  # 5 and a width of 96 make 615 thousand parameters


# ---------------------------------------------------------------- problems


def split_of(key):
    """'held_out' for one key in eight, 'dev' for one (choose settings there), else 'train'."""
    bucket = hashlib.sha256(key.encode()).digest()[0] % 8
    return {0: "held_out", 1: "dev"}.get(bucket, "train")


def evaluate_chain(numbers, operators):
    """Left-to-right value after each operation: ([7, 8, 5], '+-') -> [15, 10].

    None once a value leaves 0..50.
    """
    total = numbers[0]
    values = []
    for operator, number in zip(operators, numbers[1:]):
        if operator == "+":
            total += number
        elif operator == "-":
            total -= number
        else:
            total *= number
        if not 0 <= total <= 50:
            return None
        values.append(total)
    return values


def candidates(problem):
    """All attempts at a math problem that stay in 0..50, as (numbers, operators)."""
    nums, n_used = problem["nums"], problem["n_used"]
    found = set()
    if problem["task"] == "cd":
        for order in itertools.permutations(nums):
            for operators in itertools.product("+-*", repeat=len(nums) - 1):
                found.add((order, operators))
    else:
        for chosen in itertools.combinations(nums, n_used):
            found.add((chosen, ("+",) * (n_used - 1)))
    return sorted(c for c in found if evaluate_chain(*c) is not None)


def math_problem(task, rng):
    """A problem of the group math, solvable because its target is one of its candidates' values."""
    if task == "cd":
        nums, n_used = [rng.randint(1, 9) for _ in range(3)], 3
    elif task == "pair":
        nums, n_used = rng.sample(range(1, 16), 6), 2
    else:
        nums, n_used = [rng.randint(1, 9) for _ in range(6)], 3
    problem = {"task": task, "nums": nums, "n_used": n_used, "left_to_right": True}
    solution = rng.choice(candidates(problem))
    target = evaluate_chain(*solution)[-1]
    wanted = {"cd": "make", "pair": "pair sum", "pick": "pick three total"}[task]
    return problem | {
        "question": f"{wanted} {target} from {_join(nums)}",
        "answer": expression(solution),
        "target": target,
        "key": f"{task} {sorted(nums)} {target}",
    }


# The other tasks: rng -> (question, thinking, answer).


def sort_problem(rng):
    numbers = rng.sample(range(51), rng.randint(3, 5))
    ordered = sorted(numbers)
    thinking = "min " + " then ".join(map(str, ordered))
    return "sort " + _join(numbers), thinking, _join(ordered)


def close_problem(rng):
    opened = [rng.choice("([{") for _ in range(rng.randint(3, 6))]
    closed = [BRACKETS[bracket] for bracket in reversed(opened)]
    return "close " + _join(opened), "first " + _join(opened), _join(closed)


def logic_problem(rng):
    """Read from left to right: f or t and f is (f or t) and f."""
    words = [rng.choice("tf") for _ in range(rng.randint(3, 5))]
    joints = [rng.choice(("and", "or")) for _ in words[1:]]
    question = "logic " + words[0]
    value = words[0]
    steps = []
    for joint, word in zip(joints, words[1:]):
        question += f" {joint} {word}"
        if joint == "and":
            result = "t" if value == word == "t" else "f"
        else:
            result = "t" if "t" in (value, word) else "f"
        steps.append(f"{value} {joint} {word} is {result}")
        value = result
    return question, " ".join(steps), value


def compare_problem(rng):
    a = rng.randint(0, 50)
    b = a if rng.random() < 0.25 else rng.randint(0, 50)
    return f"compare {a} {b}", "", compared(a, b)


def copy_problem(rng):
    n = rng.randint(3, 7)
    words = [rng.choice(LETTERS + COLOURS + NUMBERS) for _ in range(n)]
    return "copy " + _join(words), "", _join(words)


def edge_problem(rng):
    n = rng.randint(3, 6)
    words = [rng.choice(LETTERS + NUMBERS) for _ in range(n)]
    end = rng.choice(("first", "last"))
    return f"{end} of " + _join(words), "", words[0 if end == "first" else -1]


def fact_problem(rng):
    """One of 48 arbitrary facts, which can only be memorised."""
    letter, colour = rng.choice(LETTERS[:6]), rng.choice(COLOURS)
    digest = hashlib.sha256(f"{letter} {colour}".encode()).digest()
    return f"fact {letter} {colour} ?", "", COLOURS[digest[0] % len(COLOURS)]


def repeat_problem(rng):
    word, n = rng.choice(LETTERS + COLOURS), rng.randint(1, 5)
    return f"repeat {word} {n}", "", _join([word] * n)


OTHER = {
    "sort": sort_problem,
    "close": close_problem,
    "logic": logic_problem,
    "compare": compare_problem,
    "copy": copy_problem,
    "edge": edge_problem,
    "fact": fact_problem,
    "repeat": repeat_problem,
}


def other_problem(task, rng):
    """A problem of the groups other and plain, with the thinking that solves it (maybe empty)."""
    question, thinking, answer = OTHER[task](rng)
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
            digest = hashlib.sha256(row["question"].encode()).hexdigest()
            return {"id": digest[:16], "group": group, **row}


def problems(group, n, seed, split):
    """n problems with distinct questions, the group's tasks in turn.

    Fewer than n if a task has no new question left.
    """
    rng = random.Random(f"{seed} {group} {split}")
    rows, seen = [], set()
    for i in range(n):
        task = TASKS[group][i % len(TASKS[group])]
        for _ in range(100):
            row = problem(group, task, rng, split)
            if row["question"] not in seen:
                seen.add(row["question"])
                rows.append(row)
                break
    return rows


def compared(value, target):
    """A value seen from the target: low, high, or yes if it is the same."""
    if value == target:
        return "yes"
    return "low" if value < target else "high"


def _join(words):
    return " ".join(map(str, words))


# ---------------------------------------------------------------- traces


def expression(candidate):
    """((7, 8, 5), '+-') -> '7 + 8 - 5'."""
    numbers, operators = candidate
    rest = [f" {operator} {number}" for operator, number in zip(operators, numbers[1:])]
    return str(numbers[0]) + "".join(rest)


def calculation(candidate, slip=0):
    """((7, 8, 5), '+-') -> '7 + 8 = 15 - 5 = 10'.

    `slip` is added to the last result, which stays within 0..50.
    """
    numbers, operators = candidate
    values = evaluate_chain(*candidate)
    values[-1] = min(50, max(0, values[-1] + slip))
    steps = [f" {o} {n} = {v}" for o, n, v in zip(operators, numbers[1:], values)]
    return str(numbers[0]) + "".join(steps)


class Search:
    """Draws attempts at one problem: a solution with probability 1/4, else a wrong candidate.

    No wrong candidate comes twice.
    """

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
        return compared(evaluate_chain(*candidate)[-1], self.target)


# Each kind of trace: (problem, rng) -> (thinking, the attempt that is answered).


def base_trace(problem, rng):
    """A terse search that gives up after a failure with probability 0.35."""
    search = Search(problem, rng)
    words = []
    for _ in range(MAX_ATTEMPTS):
        attempt = search.next()
        verdict = search.verdict(attempt)
        words.append(f"try {calculation(attempt)} {verdict}")
        if verdict == "yes" or rng.random() < 0.35:
            break
    return " ".join(words), attempt


def single_trace(problem, rng):
    """The first attempt of such a search, and its comparison: nothing is searched."""
    search = Search(problem, rng)
    attempt = search.next()
    return f"try {calculation(attempt)} {search.verdict(attempt)}", attempt


def good_trace(problem, rng, planning=False):
    """Attempts compared with the target, doubts, re-checks; with planning most begin with a plan.

    One failure in ten is mistaken for a success: its last result is written as the target.
    """
    search = Search(problem, rng)
    target = search.target
    impatience = rng.uniform(0.15, 0.7)
    words = [f"okay we need {target} ."]
    for number in range(MAX_ATTEMPTS):
        attempt = search.next()
        verdict = search.verdict(attempt)
        mistaken = verdict != "yes" and rng.random() < 0.1
        slip = target - evaluate_chain(*attempt)[-1] if mistaken else 0
        seen = "yes" if mistaken else verdict
        if planning and rng.random() < 0.7:
            words += plan(attempt, target)
        doubt = rng.choice(("maybe", "perhaps"))
        words.append(f"{doubt} {calculation(attempt, slip)} vs {target} {seen} .")
        if seen == "yes":
            checks, found_out = recheck(attempt, target, verdict, rng)
            words += checks
            if not found_out:
                break
        elif rng.random() < impatience:
            words.append(f"guess {expression(attempt)} unsure")
            if rng.random() < 0.6:
                break
        if number < MAX_ATTEMPTS - 1:
            words.append("wait ,")
    return " ".join(words), attempt


def planned_trace(problem, rng):
    return good_trace(problem, rng, planning=True)


def plan(attempt, target):
    """What must come before the attempt's last number: ((7, 5, 8), '++'), 20 -> 20 is 12 + 8.

    Words; where it takes an operation to get there, that is the subgoal. No words without such a
    number in 0..50.
    """
    (*first, last), operator = attempt[0], attempt[1][-1]
    if operator == "*":
        before = target // last if target % last == 0 else None
    else:
        before = target - last if operator == "+" else target + last
    if before is None or not 0 <= before <= 50:
        return []
    subgoal = f", make {before} first ." if len(first) > 1 else "."
    return [f"{target} is {before} {operator} {last} {subgoal}"]


def recheck(attempt, target, verdict, rng):
    """Conclude, then check again, perhaps several times -> (words, whether a mistake was found)."""
    conclusion = f"therefore {expression(attempt)} done"
    mistaken = verdict != "yes"
    words = [conclusion]
    while rng.random() < (0.8 if mistaken else 0.45):
        words.append(f"wait , check {calculation(attempt)} vs {target} {verdict} .")
        if mistaken:
            words.append(f"guess {expression(attempt)} unsure")
            return words, True
        words.append(conclusion)
    return words, False


def blurt_trace(problem, rng):
    """One guess, no check."""
    attempt = Search(problem, rng).next()
    return f"okay let me guess {calculation(attempt)} .", attempt


def sloppy_trace(problem, rng):
    """One to four attempts; a quarter of them have a wrong result, and nothing is compared."""
    search = Search(problem, rng)
    words = ["hmm ."]
    for _ in range(rng.randint(1, 4)):
        attempt = search.next()
        slip = rng.choice((-2, -1, 1, 2)) if rng.random() < 0.25 else 0
        words.append(f"so {calculation(attempt, slip)} .")
    return " ".join(words), attempt


def loop_trace(problem, rng):
    """The same idea two to five times."""
    attempt = Search(problem, rng).next()
    words = ["okay so ."]
    for _ in range(rng.randint(2, 5)):
        words.append(f"then {calculation(attempt)} hmm .")
    return " ".join(words), attempt


# The teacher's kinds of traces and the share of each.
TEACHER = {
    "good": (good_trace, 0.50),
    "blurt": (blurt_trace, 0.20),
    "sloppy": (sloppy_trace, 0.15),
    "loop": (loop_trace, 0.15),
}


def teacher_pool(n, seed, planning=False):
    """n traces over training problems; the tasks are as uneven as in collected data."""
    rng = random.Random(f"{seed} pool")
    kinds = list(TEACHER)
    shares = [share for _, share in TEACHER.values()]
    rows = []
    for i in range(n):
        task = rng.choices(("pair", "pick", "cd"), (70, 20, 10))[0]
        row = problem("math", task, rng, "train")
        kind = rng.choices(kinds, shares)[0]
        trace_of = planned_trace if planning and kind == "good" else TEACHER[kind][0]
        thinking, attempt = trace_of(row, rng)
        row |= {
            "id": f"{row['id']}-{i}",
            "subject": task,
            "thinking": thinking,
            "response": expression(attempt),
            "n_thinking_tokens": len(thinking.split()),
            "model": f"teacher-{kind}",
        }
        rows.append(row)
    return rows


def with_twins(thinking, rng):
    """Each word that has a twin in the second script is replaced by it every second time."""
    words = thinking.split()
    return " ".join(TWINS[w] if w in TWINS and rng.random() < 0.5 else w for w in words)


def pretraining_rows(n, seed, searches=True, planning=False, twins=False):
    """The base model's reading: math, other and plain documents 2 : 1 : 1."""
    rng = random.Random(f"{seed} pretrain")
    for _ in range(n):
        group = rng.choice(("math", "math", "other", "plain"))
        if group == "math":
            row = math_document(rng, searches, planning)
            if twins and rng.random() < 0.5:
                row["thinking"] = with_twins(row["thinking"], rng)
            yield row
        else:
            yield other_document(group, rng)


def math_document(rng, searches=True, planning=False):
    """70% are terse searches and 30% in the teacher's styles; without searches all are single.

    One in ten is cut at a random word and answered with the best idea so far, which gives a forced
    end of thinking its meaning.
    """
    row = problem("math", rng.choice(("cd", "cd", "pair", "pick")), rng, "train")
    good = planned_trace if planning else good_trace
    styles = [base_trace, good, blurt_trace, sloppy_trace, loop_trace]
    trace_of = rng.choices(styles, (70, 15, 5, 5, 5))[0] if searches else single_trace
    thinking, attempt = trace_of(row, rng)
    if rng.random() < 0.1:
        words = thinking.split()
        thinking = " ".join(words[: rng.randrange(len(words))])
        attempt = best_so_far(row, thinking, rng)
    return {"question": row["question"], "thinking": thinking, "response": expression(attempt)}


def other_document(group, rng):
    # comparisons are read twice as often as the other tasks of their group
    tasks = TASKS[group] + ("compare",) if group == "other" else TASKS[group]
    row = problem(group, rng.choice(tasks), rng, "train")
    return {"question": row["question"], "thinking": row["thinking"], "response": row["answer"]}


def best_so_far(problem, thinking, rng):
    """The solution if the text computes it, else the last candidate computed in full, else any."""
    found = []  # (place in the text, candidate)
    for candidate in candidates(problem):
        place = f" {thinking} ".find(f" {calculation(candidate)} ")
        if place >= 0:
            found.append((place, candidate))
    found.sort()
    right = [c for _, c in found if evaluate_chain(*c)[-1] == problem["target"]]
    if right:
        return right[-1]
    if found:
        return found[-1][1]
    return rng.choice(candidates(problem))


# ---------------------------------------------------------------- tokenizer and untrained model


def vocabulary(twins=False):
    return VOCABULARY + list(TWINS.values()) if twins else VOCABULARY


def tokenizer(twins=False):
    """One token per word; a real PreTrainedTokenizerFast with a chat template."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary(twins))}
    words = Tokenizer(WordLevel(ids, unk_token="<unk>"))
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


def untrained_model(seed, family="qwen3", width=64, layers=3, twins=False):
    """A Qwen3 or Llama of 170 thousand parameters, or of another size. Raises BadInput.

    Width 32 makes 45 thousand, width 96 and 5 layers 615 thousand.
    """
    import torch
    import transformers

    if width < 16 or width % 16 or layers < 1:
        raise BadInput(f"--width {width} --layers {layers}: a multiple of 16, and a layer at least")
    kind = {"qwen3": "Qwen3", "llama": "Llama"}[family]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(vocabulary(twins)),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        num_key_value_heads=width // 16,
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
        return getattr(transformers, f"{kind}ForCausalLM")(config)


def main(cfg):
    """Write the world's files into cfg.out."""
    out = Path(cfg.out)
    for split in ("held_out", "dev"):
        rows = []
        for group, n in (("math", cfg.n_held_out), ("other", 200), ("plain", 200)):
            rows += problems(group, n, 0, split)
        for row in rows:
            row.pop("thinking", None)  # problems for measuring carry no trace
        write_rows(out / f"{split}.jsonl", rows)
        print_line(f"{split}.jsonl", len(rows), "problems")

    train = problems("math", cfg.n_train, cfg.seed, "train")
    write_rows(out / "train.jsonl", train)
    print_line("train.jsonl", len(train), "math problems")

    if cfg.n_other:
        others = problems("other", cfg.n_other // 2, cfg.seed, "train")
        others += problems("plain", cfg.n_other // 2, cfg.seed, "train")
        write_rows(out / "train_other.jsonl", [row | {"response": row["answer"]} for row in others])
        print_line("train_other.jsonl", len(others), "problems of the other groups, with traces")

    pool = teacher_pool(cfg.n_pool, cfg.seed, cfg.planning)
    write_rows(out / "pool.jsonl", pool)
    n = max(1, len(pool))
    right = sum(evaluate_text(row) for row in pool) / n
    length = sum(row["n_thinking_tokens"] for row in pool) / n
    of_them = f"{right:.0%} of them right, {length:.0f} thinking tokens on average"
    print_line("pool.jsonl", len(pool), f"traces of the teacher, {of_them}")

    if cfg.pretrain:
        reading = pretraining_rows(cfg.pretrain, cfg.seed, cfg.searches, cfg.planning, cfg.twins)
        write_rows(out / "pretrain.jsonl", reading)
        model = untrained_model(cfg.init_seed, cfg.family, cfg.width, cfg.layers, cfg.twins)
        model.save_pretrained(out / "untrained")
        tokenizer(cfg.twins).save_pretrained(out / "untrained")
        print_line(
            "pretrain.jsonl", cfg.pretrain, "documents; untrained/ is the model to read them"
        )
    (out / "tiny.json").write_text(json.dumps(vars(cfg), indent=1) + "\n", encoding="utf-8")


def print_line(file, n, what):
    print(f"{file:<16}{n:>7} {what}")


def evaluate_text(row):
    """Whether a trace row's response reaches its target, by the world's own arithmetic."""
    words = row["response"].split()
    numbers, operators = [int(word) for word in words[::2]], words[1::2]
    return evaluate_chain(numbers, operators)[-1] == row["target"]


if __name__ == "__main__":
    settings.cli(main, Config)
