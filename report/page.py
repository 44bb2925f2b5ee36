"""The page: sentences, caveats, and the HTML around tables, figures and transcripts (page.html).

Every number comes from a Study. Whether a sentence is printed is decided by a number, too. What a
model or a file wrote is escaped here, or set as text by the page's script.
"""

import html
import itertools
import json
import re
import statistics
from pathlib import Path

from report import tables
from report.runs import sample_key
from report.study import MEASURES

NEAR_FULL = 95  # percent; above it a base model can hardly gain
SAME_COMPUTE = 0.05  # two trainings count as matched within this share
LONGER_IS_BETTER = 60  # percent of pairs of models; above it length explains accuracy, too
# Tasks of the tiny world whose questions the base model was trained on.
SEEN_TASKS = {"compare", "fact", "repeat"}

NOTES = {  # below each of these tables
    "CONTRASTS": "Difference: the second minus the first, paired over the questions that both "
    "answered, with its 95% interval; per seed where there are several. Only what an interval "
    "tells apart is called more or less.",
    "WEIGHTS": "What training changed in the weights. bfloat16 rounds small changes away; the "
    "float32 columns do not.",
    "OVERLAPS": "Overlap of the changed sets (bfloat16, 1e-5); by chance: the density of the other "
    "set.",
    "TRACES": "Percent of answers with at least one of each, counted by rules. Words of doubt per "
    "answer; percent of 8-grams that repeat; mean thinking tokens of right and wrong answers. A "
    "forced “Wait” counts, too.",
    "COMPUTE": "FLOPs, as the trainings wrote them down (flops.jsonl).",
}
ALWAYS = [  # caveats that need no number
    "Behaviours are counted by phrases; how far that agrees with a reader was measured on 44 short "
    "traces.",
    "bfloat16 hides small changes of weights: sparsity in it is partly rounding.",
    "The published PCA shift counts pads, lets layers cancel, and varies from seed to seed.",
]


def join_words(items):
    """["a", "b", "c"] -> "a, b and c"."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


# ---------------------------------------------------------------- what was found


def summary_sentences(study):
    """The paragraph at the top of the page."""
    return [
        *accuracy_sentences(study),
        *kl_sentences(study),
        *weight_sentences(study),
        *forcing_sentences(study),
    ]


def accuracy_sentences(study):
    models = study.models
    before = study.accuracy.get(models.base, {})
    sentences = []
    for name in (models.base, *models.shown):
        if name not in study.accuracy:
            continue
        scores = []
        for group, summary in study.accuracy[name].items():
            score = f"{summary['accuracy']:.1f}% in {group}"
            if name != models.base and group in before:
                gain = summary["accuracy"] - before[group]["accuracy"]
                score += f" ({gain:+.1f} points)"
            scores.append(score)
        kind = models.kinds.get(name, "base")
        sentences.append(f"{name} ({kind}) is right on {join_words(scores)}.")
    return sentences


def kl_sentences(study):
    sentences = []
    for name, result in study.results.items():
        if name not in study.models.shown:
            continue
        distances = [
            f"{summary['kl_forward']['macro']:.2g} ({group})"
            for group, summary in result["groups"].items()
        ]
        sentences.append(
            f"Per token of its own answers, {name} is {join_words(distances)} nats of KL away from "
            "the base."
        )
    return sentences


def weight_sentences(study):
    sentences = []
    for name in study.models.pair:
        if not study.weights[name]["n"]:
            continue
        unchanged = study.weights[name]["unchanged"]
        sentences.append(
            f"{name} left {unchanged['bf16']['1e-05']:.1f}% of the weights as they were in "
            f"bfloat16 (within 1e-5), {unchanged['fp32']['1e-05']:.1f}% in float32."
        )
    return sentences


def forcing_sentences(study):
    sentences = []
    for model, points in study.curves.items():
        worst = min(points, key=lambda point: point["accuracy"])
        best = max(points, key=lambda point: point["accuracy"])
        if worst["accuracy"] == best["accuracy"]:
            sentences.append(
                f"Forcing {model} to think less or more changes nothing: {best['accuracy']:.1f}%."
            )
            continue
        sentences.append(
            f"Forcing {model} to think less or more moves it from {point_in_words(worst)} to "
            f"{point_in_words(best)}."
        )
    return sentences


def point_in_words(point):
    tokens = f"{point['n_thinking_tokens']:.0f} tokens"
    return f"{point['accuracy']:.1f}% ({point['label']}, {tokens})"


# ---------------------------------------------------------------- what the numbers do not say


def caveats(study):
    """Sentences on what these numbers do not say, each because of a number or a setting."""
    return [
        *seed_caveats(study),
        *majority_caveats(study),
        *waiting_caveats(study),
        *length_caveats(study),
        *matching_caveats(study),
        *ceiling_caveats(study),
        *seen_task_caveats(study),
        *refused_caveats(study),
        *ALWAYS,
    ]


def seed_caveats(study):
    if len({run.seed for run in study.runs}) != 1:
        return []
    return [
        "One seed: the intervals are over questions and hold nothing of what varies between "
        "trainings."
    ]


def majority_caveats(study):
    if not study.runs or any(has_several_samples(run) for run in study.runs):
        return []
    return [
        "A majority vote over short answers was not measured; at equal tokens it may beat one long "
        "thought."
    ]


def has_several_samples(run):
    questions = {sample_key(row)[0] for row in run.rows}
    return len(questions) < len(run.rows)


def waiting_caveats(study):
    sentences = []
    for model, found in study.waits.items():
        end = ": in the end it hurts." if found["high"] < 0 else "."
        sentences.append(
            f"More waiting is not always better: {found['most']} against {found['best']} makes "
            f"{found['interval']} points for {model}{end}"
        )
    return sentences


def length_caveats(study):
    """Are the models that think longer the better ones?"""
    group = study.main_group()
    points = []  # (mean thinking tokens, run, accuracy)
    for name in {run.name for run in study.runs if run.is_unforced()}:
        summary = study.graded[name]["groups"].get(group)
        if summary and summary["n_thinking_tokens"]:
            points.append((summary["n_thinking_tokens"], name, summary["accuracy"]))
    if len(points) < 3:
        return []
    points.sort()
    pairs = itertools.combinations(points, 2)
    agree = 100 * statistics.fmean(shorter[2] < longer[2] for shorter, longer in pairs)
    lengths = [f"{name} {tokens:.0f} ({right:.0f}% right)" for tokens, name, right in points]
    end = ": better and longer are not told apart." if agree > LONGER_IS_BETTER else "."
    return [
        f"Training changes how long a model thinks, too. Mean thinking tokens in {group}: "
        f"{join_words(lengths)}. In {agree:.0f}% of the pairs the longer is the better one{end}"
    ]


def matching_caveats(study):
    """What the pair of trainings does not have in common."""
    if len(study.models.pair) < 2:
        return []
    one, other = study.models.pair
    matched = study.matched
    same_compute = "total" in matched and abs(matched["total"]["times"] - 1) < SAME_COMPUTE
    unmatched = "accuracy" if same_compute else "compute or accuracy"
    lengths = "".join(training_in_words(study, name) for name in (one, other))
    sentences = [f"The two trainings are not matched in {unmatched}{lengths}."]
    rivals = {Path(name).name for name, kind in study.models.kinds.items() if kind == "SFT"}
    if len(rivals) > 1 and study.models.kinds[one] == "SFT":
        sentences.append(
            f"Of {len(rivals)} trainings by SFT, {one} is the one that comes nearest to {other} in "
            "right answers."
        )
    for what, found in matched.items():
        steps = f"; as many steps of {one}: {found['n_steps']:.0f}" if "n_steps" in found else ""
        sentences.append(
            f"Counting {what} FLOPs, {other} took {found['times']:.3g} times what {one} "
            f"took{steps}."
        )
    for measure in MEASURES:
        groups = groups_where_first_is_not_larger(study, measure)
        if groups:
            sentences.append(
                f"{measure} is not larger for {one} than for {other} in {join_words(groups)}."
            )
    return sentences


def training_in_words(study, name):
    settings = study.models.training[name]
    if not {"n_steps", "lr"} <= set(settings):
        return ""
    return f"; {name}: {settings['n_steps']} steps at learning rate {settings['lr']:g}"


def groups_where_first_is_not_larger(study, measure):
    one, other = study.models.pair
    found = []
    for group in study.results[one]["groups"]:
        if group in study.results[other]["groups"]:
            values = [study.measure(measure, name, group)[0] or 0 for name in (one, other)]
            if values[0] <= values[1]:
                found.append(group)
    return found


def ceiling_caveats(study):
    before = study.accuracy.get(study.models.base, {})
    full = [group for group, summary in before.items() if summary["accuracy"] > NEAR_FULL]
    if not full:
        return []
    return [
        f"The base is right on more than {NEAR_FULL}% of {join_words(full)}: training can lose "
        "there, hardly gain, and TI v2, weighted by the room for gains, hardly sees a loss."
    ]


def seen_task_caveats(study):
    tasks = {task for result in study.results.values() for task in result["tasks"]}
    seen = sorted(SEEN_TASKS & tasks)
    if not seen:
        return []
    return [
        f"Pretraining has seen the questions of {join_words(seen)}: they show forgetting, not "
        "learning."
    ]


def refused_caveats(study):
    return [f"Left out, as it could not be loaded: {why}" for why in study.refused.values()]


# ---------------------------------------------------------------- HTML


def make_page(study, transcripts, figures, command):
    """The whole page as HTML. figures: {caption: SVG}.

    transcripts: [(heading, [transcripts side by side, see report/transcripts.py])].
    """
    e = html.escape
    more = {
        "CONTRASTS": tables.contrasts_table(study),
        "WEIGHTS": tables.weights_table(study),
        "OVERLAPS": tables.overlaps_table(study),
        "TRACES": tables.traces_table(study),
        "COMPUTE": tables.compute_table(study),
    }
    noted = {name: noted_table(rows, NOTES[name]) for name, rows in more.items() if rows}
    claims = tables.claims_table(study.claims)
    parts = {
        "ABOUT": e(" · ".join(facts(study))),
        "COMMAND": e(command),
        "LEAD": e(" ".join(summary_sentences(study))),
        "CLAIMS": "<h2>Claims</h2>" + table_html(claims, "claims") if claims else "",
        "MODELS": table_html(tables.model_table(study), "numbers"),
        "CONTRASTS": noted.pop("CONTRASTS", ""),
        "FIGURES": "".join(figure_html(caption, svg) for caption, svg in figures.items()),
        "MORE": "".join(noted.values()),
        "CARDS": "".join(cards_html(heading, side) for heading, side in transcripts),
        "CAVEATS": "".join(f"<li>{e(sentence)}" for sentence in caveats(study)),
        "DATA": tokens_json(transcripts),
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], template)


def facts(study):
    kinds = [f"{name} ({kind})" for name, kind in study.models.kinds.items()]
    n_answers = sum(result["all"]["n_responses"] for result in study.results.values())
    return [
        f"base {study.models.base}",
        f"tuned {join_words(kinds)}",
        f"answers compared token by token: {n_answers}",
        f"graded runs: {len(study.graded)}",
        f"seeds: {', '.join(sorted({run.seed for run in study.runs}))}",
    ]


def table_html(rows, css):
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = "".join(f"<{tag}>{html.escape(cell)}" for cell in row)
        lines.append(f"<tr>{cells}")
    return f"<div class=wide><table class={css}>{''.join(lines)}</table></div>"


def noted_table(rows, note):
    return f"{table_html(rows, 'plain')}<p class=dim>{note}"


def figure_html(caption, svg):
    caption = html.escape(caption)
    return f"<figure><div class=wide>{svg}</div><figcaption>{caption}</figcaption></figure>"


def cards_html(heading, transcripts):
    """Transcripts side by side, below their heading."""
    cards = "".join(map(card_html, transcripts))
    return f"<h3>{html.escape(heading)}</h3><div class=beside>{cards}</div>"


def card_html(transcript):
    e = html.escape
    verdict = {True: "right", False: "wrong", None: "not graded"}[transcript["right"]]
    css = verdict.replace(" ", "-")
    text = "".join(token[0] for token in transcript["tokens"])
    return (
        f"<div class=card><b>{e(transcript['title'])}</b> <b class={css}>{verdict}</b>"
        f"<div class=question>{e(transcript['question'])}</div>"
        f"<small>solution: {e(transcript['answer'])} · said: {e(transcript['said'])}</small>"
        f"<div class=tokens>{e(text)}</div></div>"
    )


def tokens_json(transcripts):
    """The tokens of all cards, for the page's script."""
    tokens = [card["tokens"] for _, side in transcripts for card in side]
    # In JSON "<" may be written \u003c, so that no text can end the script element.
    return json.dumps(tokens).replace("<", "\\u003c")
