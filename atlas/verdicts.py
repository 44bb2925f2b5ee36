"""Claims of a study decided, and everything about it as one file: STORE/../results/NAME.json."""

import datetime
import json
import subprocess
from pathlib import Path

import evaluate
from engine import runlog
from engine.rows import BadInput, read_rows
from report.claims import decide_claim
from report.runs import Run

# Numbers of a run that the page shows, per seed and group.
SHOWN = ("accuracy", "n_questions", "n_thinking_tokens", "n_tokens", "truncated")
SHOWN += ("total_tokens", "sequential_tokens")


def decide_study(study, seeds, keys, jobs, store, root="."):
    """A study whose jobs have ended -> its results (a dict), also written beside the store."""
    out = Path(store).parent
    graded = {}  # {key: evaluate.metrics}: an arm of several claims is graded once
    # `place` is for messages about the file of the study; results do without it.
    claims = [
        decide_one(study, claim, seeds, keys, jobs, graded) | {"place": ""}
        for claim in study.claims
    ]
    used = {keys[arm.name, seed] for arm in study.ordered() for seed in seeds}
    seconds = sum((jobs[key].record() or {}).get("seconds", 0) for key in used)
    result = {
        "study": study.name,
        "title": study.title,
        "paper": study.paper,
        "notes": study.notes,
        "settings": study.settings,
        "given": study.given,
        "seeds": list(seeds),
        "claims": claims,
        "arms": [describe_arm(study, arm, seeds, keys, jobs) for arm in study.ordered()],
        "runs": describe_runs(study, seeds, keys, jobs, graded),
        "figures": figures_of(study, seeds, keys, jobs),
        "seconds": round(seconds),
        "commit": commit_of(root),
        "date": datetime.date.today().isoformat(),
    }
    note_looks(out / "looks.jsonl", study, claims, jobs)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    saved = out / "results" / f"{study.name}.json"
    saved.parent.mkdir(parents=True, exist_ok=True)
    runlog.write_whole(saved, text + "\n")
    return result


def decide_one(study, claim, seeds, keys, jobs, graded):
    """A claim -> the same with its verdict; where an arm failed, with `failed`, the reason."""
    inputs = {side: [keys[claim[side], seed] for seed in seeds] for side in ("from", "to")}
    claim = claim | {"inputs": sorted({key for side in inputs.values() for key in side})}
    if claim["id"] in study.because:
        claim["because"] = study.because[claim["id"]]
    for side, of_side in inputs.items():
        for key in of_side:
            if jobs[key].failed:
                return claim | {"holds": None, "failed": f"{claim[side]}: {jobs[key].failed}"}
    names = {claim["from"], claim["to"]}
    try:
        runs = [
            graded_run(name, seed, jobs[keys[name, seed]], "measure" not in claim, graded)
            for name in names
            for seed in seeds
        ]
        place = f"recipes/studies/{study.name}.study"
        return claim | decide_claim(claim, runs, place, evaluate.paired_bootstrap)
    except BadInput as error:
        return claim | {"holds": None, "failed": str(error)}


def graded_run(name, seed, job, with_answers, graded):
    """The rows of a job as a Run, graded if a claim is about its right answers. Raises BadInput."""
    rows = read_rows(job.out, need=("id",))
    run = Run(name, str(seed), {}, rows, str(job.out))
    if not with_answers:
        return run
    if job.key not in graded:
        try:
            graded[job.key] = evaluate.metrics(rows, (1, 4, 8, 16))
        except BadInput as error:
            raise BadInput(f"{job.out}: {error}") from error
    return run._replace(graded=graded[job.key])


def describe_arm(study, arm, seeds, keys, jobs):
    """Commands, seconds and outputs of an arm, per seed."""
    of_seeds = {seed: jobs[keys[arm.name, seed]] for seed in seeds}
    return {
        "name": arm.name,
        "kind": arm.kind,
        "commands": "\n".join(line.strip() for line in arm.lines),
        "seconds": {s: (job.record() or {}).get("seconds") for s, job in of_seeds.items()},
        "out": {seed: str(job.out) for seed, job in of_seeds.items()},
        "failed": {seed: job.failed for seed, job in of_seeds.items() if job.failed},
    }


def describe_runs(study, seeds, keys, jobs, graded):
    """{arm: {seed: {group: numbers}}} of the runs that claims compared by their answers."""
    found = {}
    for arm in study.ordered():
        for seed in seeds:
            metrics = graded.get(keys[arm.name, seed])
            if metrics:
                groups = {
                    group: {name: summary.get(name) for name in shown_of(summary)}
                    for group, summary in metrics["groups"].items()
                }
                found.setdefault(arm.name, {})[seed] = groups
    return found


def shown_of(summary):
    return [*SHOWN, *(name for name in summary if name.startswith(("maj@", "pass@")))]


def figures_of(study, seeds, keys, jobs):
    """Paths of the first seed's figures that were drawn."""
    figures = [arm for arm in study.ordered() if arm.kind == "figure"]
    drawn = [jobs[keys[arm.name, seeds[0]]] for arm in figures]
    return [str(job.out) for job in drawn if job.record()]


def note_looks(path, study, claims, jobs):
    """Note each look at the held-out split: a claim decided on outputs that it had not seen.

    Claims whose arms never name $SPLIT, such as copies found or weights changed, are no looks.
    """
    if study.settings.get("SPLIT", "held_out") != "held_out":
        return
    looks = read_looks(path)
    seen = {(look["study"], look["claim"], *look["inputs"]) for look in looks}
    new = [
        {"study": study.name, "claim": claim["id"], "inputs": claim["inputs"]}
        for claim in claims
        if "failed" not in claim
        and (study.name, claim["id"], *claim["inputs"]) not in seen
        and reads_split(claim["inputs"], jobs)
    ]
    lines = [json.dumps(look) + "\n" for look in [*looks, *new]]
    if new:
        runlog.write_whole(Path(path), "".join(lines))


def reads_split(keys, jobs):
    """Whether one of these jobs, or one that it needs, directly or not, names $SPLIT."""
    return any("SPLIT" in jobs[key].variables or reads_split(jobs[key].needs, jobs) for key in keys)


def read_looks(path):
    return read_rows(path, need=("study", "claim", "inputs")) if Path(path).is_file() else []


def commit_of(root):
    """The short name of the commit, with + for changes since; "" without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
