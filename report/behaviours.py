"""What a trace does: verification, backtracking, subgoals, backward chaining, by rules or by a judge model.

verification   a result is compared with what is wanted, or checked ("too high", "let me check", "vs 10 low")
backtracking   a new attempt that does not go on from the previous result ("wait", "another way")
subgoal        an intermediate result is named before it is reached ("if I can get 10 first")
backward       from the target back, undoing operations ("working backwards", "36 = 9 * 4")

The four habits and the interface of the judge, a count in <count>...</count> for each of four questions, a missing one
counts 0: Gandhi et al. (arXiv 2503.01307), §3; mean count per trace is their measure, the share of traces with at least
one that of SimpleRL-Zoo (2503.18892). Rules count phrases. How far they agree with labels by hand is measured in
tests/labelled_traces.jsonl; a judge is better on free prose (SimpleRL-Zoo: keywords correlate weakly).

A judge of any kind, through files:
    python -m report.behaviours --data out/tiny/seed0/runs/sft-s1.jsonl --out out/judge.jsonl        four questions per trace
    python generate.py --model JUDGE --data out/judge.jsonl --out out/judged.jsonl --format think --max-tokens 512
    python analyze.py ... --judged out/judged.jsonl
"""

import hashlib
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from engine import settings
from engine.rows import BadInput, read_rows, write_rows
from grading.answers import answer_of, canonical, grade
from grading.repetition import repeated_share


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # completion files to be judged
    out: str  # problem rows for the judge, four per trace
    limit: int = 200  # traces of each file, drawn at random; 0 = all. The paper: 200
    seed: int = 0  # of the draw


# Each rule is an alternation of phrases without nested repetition: linear in the length of the text.
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
            rf"\b(?:equals?|match(?:es)?|reach(?:es)?|hits?) (?:the |our )?(?:target|goal|desired|{_N})",
            r"\bthat(?: works|'s it)\b",
            r"\bwhich (?:matches|works|is (?:right|correct|wrong))",
            r"\bnot quite\b",
            r"\bplugging\b[^.\n]{0,30}\bback\b",
            r"\b(?:equation|identity|formula|condition|result) (?:holds|is (?:right|correct|satisfied))",
            r"\bsubstitut(?:e|ing) (?:it |this )?back",
            r"\bis what (?:was|we|is) (?:asked|want|needed)",
            r"\b(?:does not|doesn't|did not|didn't) (?:work|match|fit|hold|equal|add up)",
            rf"\b(?:is|=) not (?:equal to )?{_N}",
            r"\bcan(?:not|'t) be (?:right|negative|correct|true|a )",
            rf"\bbut (?:the problem|we|i) (?:wants?|needs?|asks for) {_N}",
            rf"\bexactly (?:right|{_N})",
            rf"= ?{_N} (?:low|high|yes|no)\b",
            r"\b(?:yes|correct|good|exactly|done)[,.!]? (?:that|this|it|which) (?:is|equals|matches|works)",
        ],
        "backtracking": [
            r"\b(?:wait|alternatively|on second thought|scratch that|start(?:ing)? over|re-?do|dead end|instead[,.]|what if)",
            r"\b(?:go|going) back\b",
            r"\b(?:leads?|goes|going) nowhere",
            r"\b(?:low|high|no) try\b",
            r"\b(?:let me|let's|i'?ll|we can|try) (?:try )?(?:again|another|a different|something else)",
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
            r"\b(?:reverse|undo|invert)(?:ing)? (?:the |this |that )?(?:operation|step|last|addition|multipl|division|subtr)",
            r"\bthe last (?:step|operation) (?:is|was|must|could|would|has)",
            r"\b(\d{1,9}) ?/ ?(\d{1,9}) ?= ?(\d{1,9})\b[^\n]{0,60}?\b\3 ?\* ?\2 ?= ?\1\b",
            r"\b(?:want|need|reach|make|target is) (\d{1,9})\b[^\n]{0,60}?\b\4 (?:/|divided by|minus|-) ?\d",
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
# UniReason's figure tells logical words from words of content and gives no list: discourse words here, the rest content.
LOGICAL = frozenset(
    "so but now then therefore let since because thus wait alternatively however first next".split()
)
LONGEST = 200_000  # characters of a trace that are looked at

QUESTIONS = {  # what the judge is asked; each is followed by the trace and by how to answer
    "verification": "How often does it verify: compare a result with the target, or check a step, in words or by computing?",
    "backtracking": "How often does it backtrack: give up what it has and begin a new attempt without the last result?",
    "subgoal": "How often does it set a subgoal: name an intermediate result that it wants to reach first?",
    "backward": "How often does it chain backward: start from the target and undo operations?",
}
JUDGE = (
    "Below is an attempt at a problem. {question}\nCount the distinct times; 0 if never. Say in a sentence or two what "
    "you found, then end with the number between <count> and </count>.\n\nProblem:\n{problem}\n\nAttempt:\n{attempt}"
)


def behaviours(text):
    """{behaviour: how many of its phrases the text has}, by the rules."""
    text = text[:LONGEST]
    return {name: sum(1 for _ in rule.finditer(text)) for name, rule in RULES.items()}


def wait_words(text):
    """{word: how often it occurs} of WAIT_WORDS, whole words in any case."""
    counts = Counter(re.findall(r"[a-z]+", text[:LONGEST].lower()))
    return {word: counts[word] for word in WAIT_WORDS}


def word_class(token):
    """'logical', 'content' or, for a token without a letter, 'sign'; the token's text may carry spaces."""
    word = token.strip().strip(".,;:!?").lower()
    return "logical" if word in LOGICAL else "content" if any(map(str.isalpha, word)) else "sign"


def text_of(row):
    """What a completion row says, thinking and response."""
    if row.get("thinking") is None and row.get("response") is None:
        return str(row.get("text") or "")
    return f"{row.get('thinking') or ''}\n{row.get('response') or ''}"


def variety(rows):
    """Samples of some questions -> {"coverage", "diversity", "different_answers", "n_samples"}, or None without grades.

    coverage: percent of the questions with a right sample; diversity: mean number of right solutions per question that
    read differently; different_answers: the same of answers that are not the same value (2408.16737, §4).
    """
    questions = {}
    for row in rows:
        answer = answer_of(row)
        if (right := grade(row, answer)) is not None:
            found = questions.setdefault(str(row["id"]), [0, set(), set()])
            found[0] += 1
            if right:
                found[1].add(" ".join(text_of(row).split()))
                found[2].add(canonical(row, answer))
    n = len(questions)
    return (
        {
            "coverage": 100 * sum(bool(texts) for _, texts, _ in questions.values()) / n,
            "diversity": sum(len(texts) for _, texts, _ in questions.values()) / n,
            "different_answers": sum(len(answers) for _, _, answers in questions.values()) / n,
            "n_samples": sum(count for count, _, _ in questions.values()) / n,
        }
        if n
        else None
    )


def summary(rows, judged, interval):
    """Completion rows -> what they do. judged: read_judged's; interval: of the mean of shares, one per question."""
    found = {"n_responses": len(rows), "behaviours": {}}
    counts, asked = (
        [behaviours(text_of(row)) for row in rows],
        [judged.get(digest(row), {}) for row in rows],
    )
    for name in RULES:
        by_question = defaultdict(list)
        for row, count in zip(rows, counts):
            by_question[str(row["id"])].append(count[name] > 0)
        mean, low, high = interval([sum(has) / len(has) for has in by_question.values()])
        entry = found["behaviours"][name] = {
            "mean": sum(count[name] for count in counts) / len(rows),
            "share": 100 * mean,
            "low": 100 * low,
            "high": 100 * high,
        }
        both = [(judge[name], count[name]) for judge, count in zip(asked, counts) if name in judge]
        if both:
            entry["judged"] = {
                "n": len(both),
                "mean": sum(j for j, _ in both) / len(both),
                "share": 100 * sum(j > 0 for j, _ in both) / len(both),
                "agreement": 100 * sum((j > 0) == (c > 0) for j, c in both) / len(both),
            }
    words = Counter()
    lengths = defaultdict(list)
    for row in rows:
        words.update(wait_words(text_of(row)))
        if (
            row.get("n_thinking_tokens") is not None
            and (right := grade(row, answer_of(row))) is not None
        ):
            lengths[right].append(row["n_thinking_tokens"])
    return found | {
        "wait_words": {word: n / len(rows) for word, n in words.items() if n},
        "repetition": sum(repeated_share(text_of(row)[:LONGEST]) for row in rows) / len(rows),
        "length": {
            word: sum(lengths[right]) / len(lengths[right]) if lengths[right] else None
            for word, right in (("right", True), ("wrong", False))
        },
    }


def judged_count(text):
    """The judge's number: what stands in the last <count>...</count>, 0 without one."""
    found = re.findall(r"<count>\s{0,9}(\d{1,6})\s{0,9}</count>", text)
    return int(found[-1]) if found else 0


def digest(row):
    """What a trace is known by: 16 hex digits of its text."""
    return hashlib.sha256(text_of(row).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def judge_rows(rows):
    """Completion rows -> problem rows for a judge, one per behaviour; `judged` says what each is about."""
    return [
        {
            "id": f"{digest(row)}/{name}",
            "judged": {"trace": digest(row), "behaviour": name},
            "question": JUDGE.format(
                question=question,
                problem=row.get("question", "not given"),
                attempt=text_of(row)[:LONGEST],
            ),
        }
        for row in {digest(row): row for row in rows}.values()
        for name, question in QUESTIONS.items()
    ]


def read_judged(path):
    """A judge's completions -> {digest of a trace: {behaviour: count}}. Raises BadInput for other rows."""
    found = {}
    for number, row in enumerate(read_rows(path), 1):
        about = row.get("judged")
        if not isinstance(about, dict) or not {"trace", "behaviour"} <= set(about):
            raise BadInput(
                f"{path}:{number}: no field 'judged' with trace and behaviour, as report.behaviours writes it"
            )
        said = (
            row["response"] if isinstance(row.get("response"), str) else str(row.get("text") or "")
        )
        found.setdefault(str(about["trace"]), {})[about["behaviour"]] = judged_count(said)
    return found


def main(cfg):
    """Write the judge's questions -> the rows."""
    chosen = []
    for path in cfg.data:
        rows = read_rows(path, need=("id",))
        if 0 < cfg.limit < len(rows):
            rows = random.Random(cfg.seed).sample(rows, cfg.limit)
        chosen += rows
    asked = judge_rows(chosen)
    if not asked:
        raise BadInput("--data: no completions to judge")
    write_rows(cfg.out, asked)
    print(f"{cfg.out}: {len(asked)} questions about {len(asked) // len(QUESTIONS)} traces")
    return asked


if __name__ == "__main__":
    settings.cli(main, Config)
