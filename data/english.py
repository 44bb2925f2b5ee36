"""An English world for a small real language model (SmolLM2-135M-Instruct, recipes/laptop.sh).

What data/tiny.py is for 171K parameters: problems that need a search, a teacher with good and bad
habits, and tasks that show what training forgets. Every atomic step is one that a model of 135
million parameters takes reliably: adding small numbers, comparing them, copying a name.

math    pair     Prices in dollars: lamp 7, mug 3, bowl 9 and clock 2.
                 Which two things cost exactly 12 together?                    mug and bowl
        triple   four weights; which three things weigh exactly 11 together?
        double   four ages; which child is exactly twice as old as which other?
other   meet     three people and their free days; on which day can they meet?
        tallest  three comparisons; who is the tallest?
facts   fact     154 questions about the world, each choice a sentence (data/english/facts.jsonl)
plain   follow   instructions that a program can check (IFEval's 25 kinds)
free    free     open questions, where the drift of a model's texts is measured

Each math problem has one solution. Attempts are drawn at random, as a small model draws them.

The teacher's traces are of four kinds, so that there is something to curate:

good    tries, compares, doubts and goes on, concludes, checks again
blurt   one guess, no check
sloppy  wrong sums left as they are, no comparison
loop    the same idea over and over

Whether "Wait" helps is decided here: what comes after a conclusion or a guess, if anything does,
begins with "Wait" on a new line, which is the text that budget forcing appends.

Held-out problems never occur in training: a hash of the problem's key decides its split.

    python -m data.english --out out/laptop/data      problems, pools, cold start: a second
"""

import hashlib
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.tiny import split_of
from engine import settings
from engine.rows import BadInput, read_rows, write_rows

FACTS = Path(__file__).parent / "english" / "facts.jsonl"

THINGS = (
    "lamp mug bowl clock vase chair book spoon ball rope box cup plate brush basket pen kite drum "
    "fork coat hat scarf belt bag key ring candle mirror pillow blanket towel bucket ladder hammer"
).split()
NAMES = "Ann Ben Cleo Dan Eve Finn Gina Hugo Iris Jack Kate Leo Mia Nick Olga Paul Rosa Sam".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
GROUPS = {"math": ("pair", "triple", "double"), "other": ("meet", "tallest")}
N_THINGS = 4  # of a math problem
MEASURED_SEED = 1  # the problems of seed 0 were looked at while this world was being made
MOST_ATTEMPTS = 8


@dataclass(frozen=True)
class Config:
    out: str  # directory to write into
    # of the training problems and traces that are drawn; held-out problems never change
    seed: int = 0
    n_cold: int = 300  # traces that teach an instruct model the form
    n_open: int = 160  # open questions that the instruct model answers itself, as a part of that
    n_pool: int = 1200  # teacher traces to choose from
    n_train: int = 800  # math problems for reinforcement learning
    n_held_out: int = 200  # math problems for measuring; half as many of the group other
    # a model's own completions of cold_open.jsonl: those that are finished join cold.jsonl
    own_answers: str = ""


# ---------------------------------------------------------------- problems with numbers


class Task(NamedTuple):
    """A family of problems: choose things whose numbers satisfy a condition."""

    intro: str
    question: str
    names: list
    numbers: range  # N_THINGS different ones are drawn
    n_chosen: int


TASKS = {
    "pair": Task(
        "Prices in dollars",
        "Which two things cost exactly {target} together?",
        THINGS,
        range(1, 11),
        2,
    ),
    "triple": Task(
        "Weights in kilos",
        "Which three things weigh exactly {target} together?",
        THINGS,
        range(1, 11),
        3,
    ),
    "double": Task(
        "Ages in years",
        "One child is exactly twice as old as another. Which two children?",
        NAMES,
        range(1, 21),
        2,
    ),
}


def attempts(problem):
    """All ways to choose things of a problem, each a tuple of (name, number).

    Of a double the younger child comes first.
    """
    chosen = itertools.combinations(problem["items"], TASKS[problem["task"]].n_chosen)
    if problem["task"] == "double":
        return [tuple(sorted(pair, key=lambda item: item[1])) for pair in chosen]
    return list(chosen)


def compared(problem, attempt):
    """'yes' for a solution, else 'too low', 'too high' or 'no'."""
    numbers = [number for _, number in attempt]
    if problem["task"] == "double":
        return "yes" if 2 * numbers[0] == numbers[1] else "no"
    total = sum(numbers)
    if total == problem["target"]:
        return "yes"
    return "too low" if total < problem["target"] else "too high"


def numbers_problem(task, rng):
    """A problem with exactly one solution."""
    kind = TASKS[task]
    while True:
        names = rng.sample(kind.names, N_THINGS)
        items = list(zip(names, rng.sample(kind.numbers, N_THINGS)))
        target = sum(number for _, number in rng.sample(items, kind.n_chosen))
        problem = {"task": task, "items": items, "target": target}
        right = [a for a in attempts(problem) if compared(problem, a) == "yes"]
        if len(right) == 1:
            break
    listed = [f"{name} {number}" for name, number in items]
    question = kind.question.format(target=target)
    numbers = sorted(number for _, number in items)
    return problem | {
        "question": f"{kind.intro}: {enumerated(listed)}. {question}",
        "answer": enumerated(name for name, _ in right[0]),
        "key": f"{task} {numbers}" + f" {target}" * (task != "double"),
    }


def enumerated(words):
    """['lamp', 'mug', 'bowl'] -> 'lamp, mug and bowl'."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


# ---------------------------------------------------------------- the other tasks


def meet_problem(rng):
    """Three people, three free days each, one day in common."""
    names = rng.sample(NAMES, 3)
    common, *rest = rng.sample(DAYS, 7)
    days = []
    for number in range(3):
        # Each further day is free for two people at most, so that only one suits all.
        free = [common, rest[number], rest[(number + 1) % 3]]
        days.append(sorted(free, key=DAYS.index))
    says = " ".join(f"{name} is free on {enumerated(free)}." for name, free in zip(names, days))
    words = []
    for day in days[0]:
        answers = [f"{name} {'yes' if day in free else 'no'}" for name, free in zip(names, days)]
        words.append(f"{day}: {', '.join(answers)}.")
        if all(day in free for free in days):
            break
    return f"{says} On which day can all three meet?", " ".join(words), common


def tallest_problem(rng):
    """A chain of comparisons in random order: the tallest is the one whom nobody exceeds."""
    people = rng.sample(NAMES, 4)  # the tallest first
    says = [f"{one} is taller than {two}." for one, two in zip(people, people[1:])]
    thinking = f"{people[0]} is taller than {people[1]}. Nobody is taller than {people[0]}."
    rng.shuffle(says)
    return f"{' '.join(says)} Who is the tallest?", thinking, people[0]


OTHER: dict[str, Callable] = {"meet": meet_problem, "tallest": tallest_problem}


def other_problem(task, rng):
    question, thinking, answer = OTHER[task](rng)
    return {
        "task": task,
        "question": question,
        "answer": answer,
        "thinking": thinking,
        "key": question,
    }


def problems(group, n, seed, split, tasks=None):
    """n problems of a group with distinct keys, all of one split; its tasks in turn.

    Raises BadInput when a task has not so many.
    """
    rng = random.Random(f"{seed} {group} {split}")
    tasks = tasks or GROUPS[group]
    rows, seen = [], set()
    for number in range(n):
        row = new_problem(tasks[number % len(tasks)], rng, split, seen)
        digest = hashlib.sha256(row["question"].encode()).hexdigest()
        rows.append({"id": digest[:16], "group": group, **row})
    return rows


def new_problem(task, rng, split, seen):
    """A problem of a split whose key is not in `seen`, which it joins."""
    for _ in range(10_000):
        row = numbers_problem(task, rng) if task in TASKS else other_problem(task, rng)
        if row["key"] not in seen and split_of(row["key"]) == split:
            seen.add(row["key"])
            return row
    raise BadInput(f"the task '{task}' has only {len(seen)} different problems: ask for fewer")


# ---------------------------------------------------------------- traces


class Search:
    """Draws attempts at one problem: the solution with probability 1/4, else a wrong one.

    No wrong attempt comes twice.
    """

    def __init__(self, problem, rng):
        self.problem, self.rng = problem, rng
        everything = attempts(problem)
        (self.right,) = [a for a in everything if compared(problem, a) == "yes"]
        self.wrong = [a for a in everything if a != self.right]
        rng.shuffle(self.wrong)

    def next(self):
        if self.rng.random() < 0.25 or not self.wrong:
            return self.right
        return self.wrong.pop()


def things(attempt):
    """The names of an attempt as words: 'lamp and mug'."""
    return enumerated(name for name, _ in attempt)


def calculation(problem, attempt, slip=0):
    """'7 + 3 = 10', '2 + 3 = 5, 5 + 4 = 9' or '3 + 3 = 6'; `slip` is added to the last result."""
    numbers = [number for _, number in attempt]
    if problem["task"] == "double":
        numbers = [numbers[0], numbers[0]]
    steps, total = [], numbers[0]
    for place, number in enumerate(numbers[1:], 2):
        result = total + number + (slip if place == len(numbers) else 0)
        steps.append(f"{total} + {number} = {result}")
        total = result
    return ", ".join(steps)


def computed(problem, attempt, slip=0):
    """'lamp 7 and mug 3, 7 + 3 = 10': each number is copied beside its name first."""
    copied = enumerated(f"{name} {number}" for name, number in attempt)
    return f"{copied}, {calculation(problem, attempt, slip)}"


def tried(problem, attempt, seen, slip=0):
    """'lamp 7 and mug 3, 7 + 3 = 10 against 12, too low.' The two that are compared are neighbours.

    seen: what the trace takes the comparison to be.
    """
    aim = attempt[1][1] if problem["task"] == "double" else problem["target"]
    end = ". Yes." if seen == "yes" else f", {seen}."
    return f"{computed(problem, attempt, slip)} against {aim}{end}"


# Each kind of trace: (problem, rng) -> (thinking, the attempt that is answered).


def terse_trace(problem, rng):
    """A search that gives up after a failure with probability 0.35."""
    search = Search(problem, rng)
    words = []
    for _ in range(MOST_ATTEMPTS):
        attempt = search.next()
        seen = compared(problem, attempt)
        words.append(f"Maybe {tried(problem, attempt, seen)}")
        if seen == "yes" or rng.random() < 0.35:
            break
    return " ".join(words), attempt


def good_trace(problem, rng):
    """Attempts that are compared, doubts, conclusions that are checked again.

    One failure in twelve is mistaken for a success: its last result is written as it should be.
    """
    search = Search(problem, rng)
    impatience = rng.uniform(0.1, 0.5)
    text = "Okay, let me try." if problem["task"] == "double" else f"We need {problem['target']}."
    link = " Maybe "
    for _ in range(MOST_ATTEMPTS):
        attempt = search.next()
        seen = compared(problem, attempt)
        mistaken = seen != "yes" and problem["task"] != "double" and rng.random() < 1 / 12
        if mistaken:
            slip = problem["target"] - sum(number for _, number in attempt)
            text += link + tried(problem, attempt, "yes", slip)
        else:
            text += link + tried(problem, attempt, seen)
        if seen == "yes" or mistaken:
            more, found_out = conclusion(problem, attempt, seen, rng)
            text += more
            if not found_out:
                break
            link = "\nWait, maybe "
        elif rng.random() < impatience:
            text += f" Not sure, maybe {things(attempt)}."
            if rng.random() < 0.5:
                break
            link = "\nWait, maybe "
        else:
            link = rng.choice((" Maybe ", " Maybe ", "\nWait, maybe "))
    return text, attempt


def conclusion(problem, attempt, seen, rng):
    """Conclude and check again, perhaps several times -> (text, was a mistake found out?)."""
    therefore = f" Therefore {things(attempt)}."
    text = therefore
    while rng.random() < (0.8 if seen != "yes" else 0.45):
        text += f"\nWait, let me check {tried(problem, attempt, seen)}"
        if seen != "yes":
            return text, True
        text += therefore
    return text, False


def blurt_trace(problem, rng):
    """One guess, no check."""
    attempt = Search(problem, rng).next()
    return f"Okay, I guess {things(attempt)}.", attempt


def sloppy_trace(problem, rng):
    """One to four attempts; a quarter of them have a wrong result, and nothing is compared."""
    search = Search(problem, rng)
    words = ["Hmm."]
    for _ in range(rng.randint(1, 4)):
        attempt = search.next()
        slip = rng.choice((-2, -1, 1, 2)) if rng.random() < 0.25 else 0
        words.append(f"So {computed(problem, attempt, slip)}.")
    return " ".join(words), attempt


def loop_trace(problem, rng):
    """The same idea two to five times."""
    attempt = Search(problem, rng).next()
    words = ["Okay, so."]
    for _ in range(rng.randint(2, 5)):
        words.append(f"Then {computed(problem, attempt)}, hmm.")
    return " ".join(words), attempt


# The teacher's kinds of traces and the share of each.
TEACHER = {
    "good": (good_trace, 0.50),
    "blurt": (blurt_trace, 0.20),
    "sloppy": (sloppy_trace, 0.15),
    "loop": (loop_trace, 0.15),
}


def teacher_pool(n, seed):
    """n traces over training problems; the tasks are uneven, as in collected data."""
    rng = random.Random(f"{seed} pool")
    kinds, shares = list(TEACHER), [share for _, share in TEACHER.values()]
    rows = []
    tasks = ("pair", "pair", "pair", "triple", "double")
    for row in problems("math", n, f"{seed} pool", "train", tasks):
        kind = rng.choices(kinds, shares)[0]
        trace_of, _ = TEACHER[kind]
        thinking, attempt = trace_of(row, rng)
        rows.append(trace_row(row, thinking, things(attempt), f"teacher-{kind}"))
    return rows


def trace_row(problem, thinking, response, model):
    return problem | {
        "subject": problem["task"],
        "thinking": thinking,
        "response": response,
        "n_thinking_tokens": len(thinking.split()),
        "model": model,
    }


def cold_start(n, seed):
    """Traces that teach the form: mostly terse searches that give up, a few in each style.

    One in ten is cut at a random word and answered with the best idea so far, which gives a forced
    end of thinking its meaning. One in five is of the group other.
    """
    rng = random.Random(f"{seed} cold")
    n_other = n // 5
    rows = [
        trace_row(row, row["thinking"], row["answer"], "cold")
        for row in problems("other", n_other, f"{seed} cold", "train")
    ]
    styles = [terse_trace, good_trace, blurt_trace, sloppy_trace, loop_trace]
    for row in problems("math", n - n_other, f"{seed} cold", "train"):
        trace_of = rng.choices(styles, (70, 15, 5, 5, 5))[0]
        thinking, attempt = trace_of(row, rng)
        response = things(attempt)
        if rng.random() < 0.1:
            words = thinking.split(" ")
            thinking = " ".join(words[: rng.randrange(1, len(words))])
            response = best_so_far(row, thinking, rng)
        rows.append(trace_row(row, thinking, response, "cold"))
    rng.shuffle(rows)
    return rows


def best_so_far(problem, thinking, rng):
    """The solution if the text computes it, else the last attempt computed in full, else any."""
    found = []  # (place in the text, attempt)
    for attempt in attempts(problem):
        place = thinking.rfind(computed(problem, attempt))
        if place >= 0:
            found.append((place, attempt))
    right = [attempt for _, attempt in found if compared(problem, attempt) == "yes"]
    if right:
        return things(right[0])
    return things(max(found)[1] if found else rng.choice(attempts(problem)))


# ---------------------------------------------------------------- what training may forget

TOPICS = (
    "a cat, the sea, a birthday party, the moon, a small village, the rain, an old tree, a train "
    "journey, a school, the winter, a garden, a market, a river, bread, music, a friend, football, "
    "the sun, a farm, a bicycle, a letter, a library, a doctor, a mountain, breakfast, a bird, the "
    "city, a ship, painting, sleep, a teacher, tea, the future, a horse, a bridge, the forest"
).split(", ")
OPEN_QUESTIONS = (
    "Write one sentence about {topic}.",
    "Tell me something nice about {topic} in one sentence.",
    "In one sentence, what do people like about {topic}?",
    "Give me a tip of one sentence that has to do with {topic}.",
    "Write a message of two sentences to a friend about {topic}.",
    "In one sentence, what can a child learn from {topic}?",
)
# One prompt for each kind of instruction, with the settings of its check (grading/ifeval.py).
INSTRUCTIONS = {
    "change_case:capital_word_frequency": (
        "Write two sentences about {topic}. Write at least three words in capital letters.",
        {"capital_frequency": 3, "capital_relation": "at least"},
    ),
    "change_case:english_capital": (
        "Write one sentence about {topic}, in English and in capital letters only.",
        {},
    ),
    "change_case:english_lowercase": (
        "Write one sentence about {topic}, in English and without any capital letter.",
        {},
    ),
    "combination:repeat_prompt": (
        "Write one sentence about {topic}. First repeat this request word for word, "
        "then answer it.",
        {"prompt_to_repeat": "Write one sentence about {topic}."},
    ),
    "combination:two_responses": (
        "Give two different sentences about {topic}, with ****** between them.",
        {},
    ),
    "detectable_content:number_placeholders": (
        "Write a short invitation that has to do with {topic}. Use at least two placeholders in "
        "square brackets, such as [name].",
        {"num_placeholders": 2},
    ),
    "detectable_content:postscript": (
        "Write a short note about {topic}. End with a postscript that begins with P.S.",
        {"postscript_marker": "P.S."},
    ),
    "detectable_format:constrained_response": (
        "Do most people like {topic}? Answer with one of: My answer is yes. My answer is no. "
        "My answer is maybe.",
        {},
    ),
    "detectable_format:json_format": (
        "Describe {topic} in JSON, and write nothing else.",
        {},
    ),
    "detectable_format:multiple_sections": (
        "Write about {topic} in two sections. Begin each with Section and its number, as in "
        "Section 1.",
        {"section_spliter": "Section", "num_sections": 2},
    ),
    "detectable_format:number_bullet_lists": (
        "Name three things about {topic} in exactly three bullet points, such as * This one.",
        {"num_bullets": 3},
    ),
    "detectable_format:number_highlighted_sections": (
        "Write two sentences about {topic}. Highlight at least one phrase with asterisks, as in "
        "*this one*.",
        {"num_highlights": 1},
    ),
    "detectable_format:title": (
        "Write a short poem about {topic}. Give it a title in double angular brackets, as in "
        "<<title>>.",
        {},
    ),
    "keywords:existence": (
        "Write two sentences about {topic}. Use the words blue and happy.",
        {"keywords": ["blue", "happy"]},
    ),
    "keywords:forbidden_words": (
        "Write two sentences about {topic}. Do not use the words very and good.",
        {"forbidden_words": ["very", "good"]},
    ),
    "keywords:frequency": (
        "Write a few sentences about {topic}. Use the word and at least three times.",
        {"keyword": "and", "frequency": 3, "relation": "at least"},
    ),
    "keywords:letter_frequency": (
        "Write two sentences about {topic}. Use the letter e at least ten times.",
        {"letter": "e", "let_frequency": 10, "let_relation": "at least"},
    ),
    "language:response_language": (
        "Write one sentence about {topic} in Spanish, and nothing in another language.",
        {"language": "es"},
    ),
    "length_constraints:nth_paragraph_first_word": (
        "Write two paragraphs about {topic} with an empty line between them. The second begins "
        "with the word However.",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "however"},
    ),
    "length_constraints:number_paragraphs": (
        "Write two short paragraphs about {topic}, with *** between them.",
        {"num_paragraphs": 2},
    ),
    "length_constraints:number_sentences": (
        "Write about {topic} in fewer than four sentences.",
        {"num_sentences": 4, "relation": "less than"},
    ),
    "length_constraints:number_words": (
        "Write about {topic} in fewer than 30 words.",
        {"num_words": 30, "relation": "less than"},
    ),
    "punctuation:no_comma": ("Write two sentences about {topic}. Do not use any comma.", {}),
    "startend:end_checker": (
        "Write two sentences about {topic}. End with exactly these words: That is all.",
        {"end_phrase": "That is all."},
    ),
    "startend:quotation": (
        "Write one sentence about {topic}. Put the whole answer in double quotation marks.",
        {},
    ),
}


def follow_rows(n_each):
    """n_each prompts of every kind of instruction, about different topics."""
    rows = []
    for number, (name, (prompt, given)) in enumerate(INSTRUCTIONS.items()):
        for turn in range(n_each):
            topic = TOPICS[(number + 7 * turn) % len(TOPICS)]
            checks = {
                key: value.format(topic=topic) if isinstance(value, str) else value
                for key, value in given.items()
            }
            rows.append(
                {
                    "id": f"follow-{number}-{turn}",
                    "group": "plain",
                    "task": "follow",
                    "question": prompt.format(topic=topic),
                    "instruction_id_list": [name],
                    "kwargs": [checks],
                }
            )
    return rows


def open_rows(split):
    """Open questions: those of one split of the topics."""
    rows = []
    for topic in TOPICS:
        if split_of(topic) == split:
            for number, question in enumerate(OPEN_QUESTIONS):
                asked = question.format(topic=topic)
                row = {"id": f"free-{topic}-{number}", "group": "free", "question": asked}
                rows.append(row | {"task": "free"})
    return rows


def fact_rows():
    return [row | {"group": "facts", "task": "fact"} for row in read_rows(FACTS)]


def own_answer_rows(path):
    """What a model said to the open questions, as traces without thinking.

    Trained on them, it keeps what it said before. Raises BadInput when no completion is finished.
    """
    rows = [
        row for row in read_rows(path) if row.get("finish") == "stop" and row["response"].strip()
    ]
    if not rows:
        raise BadInput(f"--own-answers {path}: no completion is finished, or all are empty")
    fields = ("id", "group", "task", "question", "response")
    return [{name: row[name] for name in fields} | {"thinking": ""} for row in rows]


# ---------------------------------------------------------------- files


def main(cfg):
    """Write the world's files into cfg.out."""
    settings.check_positive(cfg, "n_cold", "n_open", "n_pool", "n_train", "n_held_out")
    out = Path(cfg.out)
    own = own_answer_rows(cfg.own_answers) if cfg.own_answers else []
    asked = open_rows("train")
    files = {
        "cold": cold_start(cfg.n_cold, cfg.seed) + own,
        "cold_open": random.Random(cfg.seed).sample(asked, min(cfg.n_open, len(asked))),
        "pool": teacher_pool(cfg.n_pool, cfg.seed),
        "train": problems("math", cfg.n_train, cfg.seed, "train"),
        "facts": fact_rows(),
        "follow": follow_rows(2),
        "free": open_rows("held_out"),
    }
    for split in ("dev", "held_out"):
        rows = problems("math", cfg.n_held_out, MEASURED_SEED, split)
        rows += problems("other", cfg.n_held_out // 2, MEASURED_SEED, split)
        for row in rows:
            row.pop("thinking", None)  # problems for measuring carry no trace
        files[split] = rows
    for name, rows in files.items():
        write_rows(out / f"{name}.jsonl", rows)
        print(f"{name + '.jsonl':<18}{len(rows):>6} rows")


if __name__ == "__main__":
    settings.cli(main, Config)
