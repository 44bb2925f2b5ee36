"""Arms as jobs in a store. What is the same for two studies, or for two seeds, is computed once.

A job's key covers its commands, the settings and the seed that they name, the keys of the arms that
they name, and the sources. STORE/KEY/ holds its output, log.txt, and arm.json once it is complete.
The arm's own name is no part of it: two studies may call the same arm differently.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from atlas import sources
from atlas.study import KINDS, VARIABLE
from engine import runlog

KEY_LENGTH = 16


@dataclass
class Job:
    key: str
    name: str  # of the arm that made it first
    kind: str
    text: str  # shell commands
    variables: dict  # of the environment: settings, SEED, OUT, and the arms by their names
    needs: list  # keys of the jobs that come before
    folder: Path  # STORE/KEY
    sources: dict  # {file: fingerprint}
    users: set = field(default_factory=set)  # (study, arm, seed)
    failed: str = ""  # the reason

    @property
    def out(self):
        return self.folder / (self.name + KINDS[self.kind])

    def record(self):
        """What arm.json says, None while the job is not complete."""
        return read_record(self.folder / "arm.json") if self.out.exists() else None


def plan(study, seeds, store, jobs=None):
    """A study -> {(arm's name, seed): key}. Adds new jobs to `jobs`, {key: Job}, needs first."""
    jobs = {} if jobs is None else jobs
    keys = {}
    for seed in seeds:
        for arm in study.ordered():
            job = make_job(study, arm, seed, {a: jobs[keys[a, seed]] for a in needs_of(study, arm)})
            # The key is known only now, and the place of the output depends on it.
            job.folder = Path(store, job.key)
            job.name = name_of(job)
            job.variables["OUT"] = str(job.out)
            job = jobs.setdefault(job.key, job)
            job.users.add((study.name, arm.name, seed))
            keys[arm.name, seed] = job.key
    return keys


def needs_of(study, arm):
    return study.variables_of(arm)[0]


def make_job(study, arm, seed, inputs):
    """An arm under a seed, with the jobs of the arms that it names, {name: Job} -> Job."""
    names = study.variables_of(arm)[1]
    text = study.text_of(arm)
    settings = {name: study.settings[name] for name in names if name in study.settings}
    job = Job("", arm.name, arm.kind, text, dict(settings), [], Path(), {})
    job.sources = sources.fingerprints(text_with_settings(job))
    job.needs = [input_.key for input_ in inputs.values()]
    if "SEED" in names:
        job.variables["SEED"] = str(seed)
    job.key = key_of(job, {name: input_.key for name, input_ in inputs.items()})
    job.variables |= {name: str(input_.out) for name, input_ in inputs.items()}
    return job


def text_with_settings(job):
    """The texts in which files of the project may be named: commands and settings, not outputs."""
    settings = [value for name, value in job.variables.items() if name.isupper() and name != "OUT"]
    return " ".join([job.text, *settings])


def key_of(job, inputs):
    """The key of a job. inputs: {arm: key}; in the text, keys take the place of their names."""

    def by_key(found):
        # As VARIABLE, without a closing brace.
        return f"${{{inputs[found[1]]}" if found[1] in inputs else found[0]

    parts = [job.kind, VARIABLE.sub(by_key, job.text), job.variables, job.sources, job.needs]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def read_record(path):
    """An arm.json -> dict, None if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def name_of(job):
    """The name of the arm that made a job first, maybe in an earlier run: that of its output."""
    try:
        return (job.folder / "name").read_text(encoding="utf-8").strip() or job.name
    except OSError:
        return job.name


def finish(job, seconds):
    """Write arm.json: the job is complete."""
    saved = {
        "name": job.name,
        "seconds": round(seconds, 1),
        "commands": job.text,
        "variables": job.variables,
        "sources": job.sources,
    }
    runlog.write_whole(job.folder / "arm.json", json.dumps(saved, indent=1) + "\n")
