"""What traces do: verification, backtracking, subgoals, backward chaining, by rules or by a judge.

verification   compare a result with what is wanted, or check it ("too high", "let me check")
backtracking   make a new attempt that does not go on from the previous result ("wait")
subgoal        name an intermediate result before it is reached ("if I can get 10 first")
backward       go back from the target, undoing operations ("working backwards", "36 = 9 * 4")

The four habits, and a judge that answers each of four questions with a count in <count>...</count>
(0 without one): Gandhi et al. (arXiv 2503.01307), §3. Their measure is the mean count per trace;
that of SimpleRL-Zoo (2503.18892) is the share of traces with at least one. Rules count phrases. How
far they agree with labels by hand is measured on tests/labelled_traces.jsonl. A judge is better on
free prose (SimpleRL-Zoo: keywords correlate weakly).

A judge of any kind, through files:
    python -m report.behaviours --data out/tiny/seed0/runs/sft-s1.jsonl --out out/judge.jsonl
    python generate.py --model JUDGE --data out/judge.jsonl --out out/judged.jsonl --format think \
        --max-tokens 512
    python analyze.py ... --judged out/judged.jsonl
The first command writes four questions per trace.
"""

import hashlib
import random
import re
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass

from engine import settings
from engine.rows import BadInput, check_file_to_write, read_rows, write_rows
from grading.answers import answer_of, canonical
from grading.repetition import repeated_share
from report.runs import is_right, row_scope


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # completion files to be judged
    out: str  # problem rows for the judge, four per trace
    limit: int = 200  # traces of each file, drawn at random; 0 = all. The paper: 200
    seed: int = 0  # of the draw


# Each rule is an alternation of phrases without nested repetition: linear in the text's length.
_N = r"-?\d+(?:\.\d+)?"
RULES = {
    name: re.compile("|".join(phrases), re.IGNORECASE)
    for name, phrases in {
        "verification": [
            r"\bdouble[- ]?check",
            r"\bcheck(?:s|ed|ing)?\b",
            r"\bverif(?:y|ied|ies|ying)\b",
            r"\bas (?:expected|required|desired|wanted|asked)\b",
            r"\btoo (?:high|low|big|small|large|much|many|few|little)\b",
            r"\b(?:made|is|there is) an? (?:mistake|error)",
            rf"\bvs {_N}",
            r"\b(?:equals?|match(?:es)?|reach(?:es)?|hits?)"
            rf" (?:the |our )?(?:target|goal|desired|{_N})",
            r"\bthat(?: works|'s it)\b",
            r"\bwhich (?:matches|works|is (?:right|correct|wrong))",
            r"\bnot quite\b",
            r"\bplugging\b[^.\n]{0,30}\bback\b",
            r"\b(?:equation|identity|formula|condition|result)"
            r" (?:holds|is (?:right|correct|satisfied))",
            r"\bsubstitut(?:e|ing) (?:it |this )?back",
            r"\bis what (?:was|we|is) (?:asked|want|needed)",
            r"\b(?:does not|doesn't|did not|didn't) (?:work|match|fit|hold|equal|add up)",
            rf"\b(?:is|=) not (?:equal to )?{_N}",
            r"\bcan(?:not|'t) be (?:right|negative|correct|true|a )",
            rf"\bbut (?:the problem|we|i) (?:wants?|needs?|asks for) {_N}",
            rf"\bexactly (?:right|{_N})",
            rf"= ?{_N} (?:low|high|yes|no)\b",
            r"\b(?:yes|correct|good|exactly|done)[,.!]?"
            r" (?:that|this|it|which) (?:is|equals|matches|works)",
        ],
        "backtracking": [
            r"\b(?:wait|alternatively|on second thought|scratch that|start(?:ing)? over|re-?do"
            r"|dead end|instead[,.]|what if)",
            r"\b(?:go|going) back\b",
            r"\b(?:leads?|goes|going) nowhere",
            r"\b(?:low|high|no) try\b",
            r"\b(?:let me|let's|i'?ll|we can|try)"
            r" (?:try )?(?:again|another|a different|something else)",
            r"\b(?:another|different|other) (?:way|approach|idea|method|attempt|combination)",
            rf"= ?{_N}\b[^=\n]{{0,80}}[.;] ?(?:maybe|perhaps|how about)\b",
        ],
        "subgoal": [
            r"\bif (?:i|we) (?:can|could) (?:get|make|reach|find|form)",
            r"\bbreak(?:ing)? (?:this|it|the problem|that) (?:down|into|up)",
            rf"\b(?:need|have|want|enough|try|goal is) to (?:make|get|reach|form) {_N}",
            r"\bstep \d+ ?[:.]",
            r"\bsub-?goal",
            r"\b(?:our|my|the|first|next) (?:goal|plan|aim)\b",
            r"\baim(?:ing)? (?:for|at)",
            rf"\b(?:get|make|form) {_N} (?:first|out of|from)",
            r"\bfirst,? (?:i'll|i will|we'll|we will|i need|we need|let me|let's)",
        ],
        "backward": [
            r"\bwork(?:ing)? (?:back|from the (?:end|target|answer|goal))",
            r"\bbackwards? from",
            r"\bbefore (?:that,?|it,?) (?:it|we)\b",
            r"\bstart(?:ing)? (?:from|with|at) the (?:target|answer|end|goal)",
            r"\bbefore (?:adding|subtracting|multiplying|dividing)",
            r"\b(?:reverse|undo|invert)(?:ing)? (?:the |this |that )?"
            r"(?:operation|step|last|addition|multipl|division|subtr)",
            r"\bthe last (?:step|operation) (?:is|was|must|could|would|has)",
            r"\b(\d{1,9}) ?/ ?(\d{1,9}) ?= ?(\d{1,9})\b[^\n]{0,60}?\b\3 ?\* ?\2 ?= ?\1\b",
            r"\b(?:want|need|reach|make|target is) (\d{1,9})\b[^\n]{0,60}?"
            r"\b\4 (?:/|divided by|minus|-) ?\d",
            r"(?<![-+*/=^] )(?<![-+*/=^\d.,])\d{1,9} (?:=|is) \d{1,9} ?[-+*/] ?\d{1,9}(?! ?=)",
        ],
    }.items()
}

WAIT_WORDS = (
    "wait",
    "hmm",
    "alternatively",
    "maybe",
    "perhaps",
    "however",
    "but",
    "actually",
    "check",
    "verify",
    "okay",
)
LONGEST = 200_000  # characters of a trace that are looked at

QUESTIONS = {  # what the judge is asked
    "verification": "How often does it verify: compare a result with the target, or check a step, "
    "in words or by computing?",
    "backtracking": "How often does it backtrack: give up what it has and begin a new attempt "
    "without the last result?",
    "subgoal": "How often does it set a subgoal: name an intermediate result that it wants to "
    "reach first?",
    "backward": "How often does it chain backward: start from the target and undo operations?",
}
JUDGE = (
    "Below is an attempt at a problem. {question}\nCount the distinct times; 0 if never. Say in a "
    "sentence or two what you found, then end with the number between <count> and </count>.\n\n"
    "Problem:\n{problem}\n\nAttempt:\n{attempt}"
)


# ---------------------------------------------------------------- one text


def trace_text(row):
    """The text of a completion row: thinking and response."""
    if row.get("thinking") is None and row.get("response") is None:
        return str(row.get("text") or "")
    return f"{row.get('thinking') or ''}\n{row.get('response') or ''}"


def count_behaviours(text):
    """{behaviour: how many of its phrases the text has}, by the rules."""
    text = text[:LONGEST]
    return {name: sum(1 for _ in rule.finditer(text)) for name, rule in RULES.items()}


def count_wait_words(text):
    """{word: count} of WAIT_WORDS, whole words in any case."""
    counts = Counter(re.findall(r"[a-z]+", text[:LONGEST].lower()))
    return {word: counts[word] for word in WAIT_WORDS}


# ---------------------------------------------------------------- the traces of a run


def summarise_runs(runs, judged, interval):
    """Runs -> {run: {group: summary of its traces, with all seeds together}}.

    judged and interval: see summarise_traces. "variety" is added where questions have several
    samples: the mean over the seeds.
    """
    summaries = {}
    for name in dict.fromkeys(run.name for run in runs):
        seeds = [run.rows for run in runs if run.name == name]
        groups = dict.fromkeys(row_scope(row)[0] for rows in seeds for row in rows)
        summaries[name] = {}
        for group in groups:
            inside = [[row for row in rows if row_scope(row)[0] == group] for rows in seeds]
            together = [row for rows in inside for row in rows]
            summary = summarise_traces(together, judged, interval)
            summaries[name][group] = summary | mean_variety(inside)
    return summaries


def mean_variety(seeds):
    """Rows of each seed -> {"variety": mean of solution_variety}, {} for single samples."""
    found = [solution_variety(rows) for rows in seeds]
    found = [variety for variety in found if variety and variety["n_samples"] > 1]
    if not found:
        return {}
    return {"variety": {key: statistics.fmean(v[key] for v in found) for key in found[0]}}


def summarise_traces(rows, judged, interval):
    """Completion rows -> what their traces do.

    judged: {digest of a trace: {behaviour: the judge's count}}, see read_judged.
    interval: a function of shares in 0..1, one per question -> (mean, low, high), such as
    evaluate.mean_interval.
    Returns n_responses, behaviours (count per trace; percent of traces with one and its interval),
    wait_words and repetition (means), length (mean thinking tokens of right and of wrong answers).
    """
    texts = [trace_text(row) for row in rows]
    counts = [count_behaviours(text) for text in texts]
    summary = {"n_responses": len(rows), "behaviours": {}}
    for name in RULES:
        of_trace = [count[name] for count in counts]
        entry = summarise_behaviour(rows, of_trace, interval)
        of_judge = [judged.get(trace_digest(row), {}).get(name) for row in rows]
        summary["behaviours"][name] = entry | compare_with_judge(of_trace, of_judge)
    words = Counter()
    for text in texts:
        words.update(count_wait_words(text))
    summary["wait_words"] = {word: n / len(rows) for word, n in words.items() if n}
    summary["repetition"] = sum(repeated_share(text[:LONGEST]) for text in texts) / len(rows)
    summary["length"] = mean_lengths(rows)
    return summary


def summarise_behaviour(rows, counts, interval):
    """Counts of one behaviour, one per row -> its mean, and the percent of traces with one."""
    by_question = defaultdict(list)
    for row, count in zip(rows, counts):
        by_question[str(row["id"])].append(count > 0)
    share, low, high = interval([sum(has) / len(has) for has in by_question.values()])
    return {
        "mean": sum(counts) / len(counts),
        "share": 100 * share,
        "low": 100 * low,
        "high": 100 * high,
    }


def compare_with_judge(counts, of_judge):
    """Counts by the rules and by the judge (None: not asked) -> {"judged": ...}, or {} for none.

    agreement: percent of traces on which both say whether the behaviour occurs.
    """
    both = [(judge, rule) for judge, rule in zip(of_judge, counts) if judge is not None]
    if not both:
        return {}
    n = len(both)
    return {
        "judged": {
            "n": n,
            "mean": sum(judge for judge, _ in both) / n,
            "share": 100 * sum(judge > 0 for judge, _ in both) / n,
            "agreement": 100 * sum((judge > 0) == (rule > 0) for judge, rule in both) / n,
        }
    }


def mean_lengths(rows):
    """{"right", "wrong": mean thinking tokens of the answers that are}, None without any."""
    lengths = {True: [], False: []}
    for row in rows:
        n_tokens = row.get("n_thinking_tokens")
        right = None if n_tokens is None else is_right(row)
        if right is not None:
            lengths[right].append(n_tokens)
    means = {right: sum(found) / len(found) if found else None for right, found in lengths.items()}
    return {"right": means[True], "wrong": means[False]}


def solution_variety(rows):
    """Samples of some questions -> how varied their right solutions are; None without grades.

    coverage: percent of the questions with a right sample; diversity: mean number of right
    solutions per question that read differently; different_answers: the same of answers that are
    not the same value; n_samples: per question (2408.16737, §4).
    """
    n_samples = Counter()
    texts, answers = defaultdict(set), defaultdict(set)  # of right samples, by question
    for row in rows:
        right = is_right(row)
        if right is None:
            continue
        question = str(row["id"])
        n_samples[question] += 1
        if right:
            texts[question].add(" ".join(trace_text(row).split()))
            answers[question].add(canonical(row, answer_of(row)))
    n = len(n_samples)
    if not n:
        return None
    return {
        "coverage": 100 * len(texts) / n,
        "diversity": sum(map(len, texts.values())) / n,
        "different_answers": sum(map(len, answers.values())) / n,
        "n_samples": n_samples.total() / n,
    }


# ---------------------------------------------------------------- a judge


def trace_digest(row):
    """16 hex digits of a trace's text, by which the judge's answers are found."""
    return hashlib.sha256(trace_text(row).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def judge_rows(rows):
    """Completion rows -> problem rows for a judge, one per trace and behaviour.

    The field "judged" says what each is about.
    """
    questions = []
    for digest, row in {trace_digest(row): row for row in rows}.items():
        for name, question in QUESTIONS.items():
            text = JUDGE.format(
                question=question,
                problem=row.get("question", "not given"),
                attempt=trace_text(row)[:LONGEST],
            )
            about = {"trace": digest, "behaviour": name}
            questions.append({"id": f"{digest}/{name}", "judged": about, "question": text})
    return questions


def read_judged(path):
    """A judge's completions -> {digest of a trace: {behaviour: count}}. Raises BadInput."""
    found = {}
    for number, row in enumerate(read_rows(path), 1):
        about = row.get("judged")
        if not isinstance(about, dict) or not {"trace", "behaviour"} <= set(about):
            raise BadInput(
                f"{path}:{number}: no field 'judged' with trace and behaviour, as "
                "report.behaviours writes it"
            )
        response = row.get("response")
        text = response if isinstance(response, str) else str(row.get("text") or "")
        found.setdefault(str(about["trace"]), {})[about["behaviour"]] = parse_count(text)
    return found


def parse_count(text):
    """The judge's number: the last <count>...</count>, 0 without one."""
    found = re.findall(r"<count>\s{0,9}(\d{1,6})\s{0,9}</count>", text)
    return int(found[-1]) if found else 0


def main(cfg):
    """Write the judge's questions -> the rows."""
    check_file_to_write(cfg.out)
    chosen = []
    for path in cfg.data:
        rows = read_rows(path, need=("id",))
        if 0 < cfg.limit < len(rows):
            rows = random.Random(cfg.seed).sample(rows, cfg.limit)
        chosen += rows
    questions = judge_rows(chosen)
    if not questions:
        raise BadInput("--data: no completions to judge")
    write_rows(cfg.out, questions)
    n_traces = len(questions) // len(QUESTIONS)
    print(f"{cfg.out}: {len(questions)} questions about {n_traces} traces")
    return questions


if __name__ == "__main__":
    settings.cli(main, Config)
