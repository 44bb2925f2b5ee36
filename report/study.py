"""The numbers of one analysis, as tables, figures and sentences take them."""

import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import runlog
from report.runs import read_json

# What tells SFT and RL apart, by the names that tables use; see Study.measure.
MEASURES = ("KL", "shifted", "PCA", "PCA masked")
UNKNOWN = (None, None, None)  # value and both ends of its interval


@dataclass(frozen=True)
class Models:
    """The base, the models trained from it, and which of them the page puts side by side."""

    base: str  # its name; all names are unique
    base_path: str
    tuned: dict  # {name: path}
    training: dict  # {name: training.json of the tuned model, {} without one}
    kinds: dict  # {name: "SFT", "RL" or "tuned"}
    pair: list  # an SFT and an RL model, or the first two
    # Names in the figures. Of models trained under several seeds ("seed1/grpo") only the pair;
    # the table has their mean and deviation.
    shown: list

    def paths(self):
        """{name: path} of the base and the tuned models."""
        return {self.base: self.base_path, **self.tuned}

    def replicates(self, name):
        """{seed: name} of the tuned models that differ from this one in their seed only."""
        return {
            other.rpartition("/")[0]: other
            for other in self.tuned
            if Path(other).name == Path(name).name
        }

    def with_nearest_sft(self, accuracy):
        """The same with the SFT model in the pair whose accuracy is nearest to the RL model's.

        Two trainings are compared at equal accuracy as far as they allow it. accuracy: {name:
        percent right} of the tuned models, with one left out where it is not known.
        """
        if [self.kinds[name] for name in self.pair] != ["SFT", "RL"]:
            return self
        means = {}
        for name in accuracy:
            known = [accuracy[n] for n in self.replicates(name).values() if n in accuracy]
            if known:
                means[name] = statistics.fmean(known)
        sft, rl = self.pair
        # Of several seeds only the first: the others are its replicates.
        seed = sft.rpartition("/")[0]
        rivals = [name for name in self.tuned if self.kinds[name] == "SFT" and name in means]
        rivals = [name for name in rivals if name.rpartition("/")[0] == seed]
        if not rivals or rl not in means:
            return self
        pair = [min(rivals, key=lambda name: abs(means[name] - means[rl])), rl]
        return replace(self, pair=pair, shown=pair if self.shown == self.pair else self.shown)

    def without(self, names):
        """The same without some tuned models."""
        return replace(
            self,
            tuned={name: path for name, path in self.tuned.items() if name not in names},
            pair=[name for name in self.pair if name not in names],
            shown=[name for name in self.shown if name not in names],
        )


def describe_models(base, paths):
    """Paths of the base and of the tuned models -> Models. Warns of models from another base."""
    tuned = name_models(base, paths)
    training = {name: read_training(path, base) for name, path in tuned.items()}
    kinds = {name: training_kind(settings) for name, settings in training.items()}
    pair = choose_pair(kinds)
    several_seeds = any("/" in name for name in tuned)
    shown = pair if several_seeds else list(tuned)
    return Models(Path(base).name, base, tuned, training, kinds, pair, shown)


def name_models(base, paths):
    """Paths -> {name: path}. The name is the last part, and where that is not unique the last two.

    "seed0/grpo" and "seed1/grpo" are written with a slash: two seeds of one training.
    """
    names = [Path(path).name for path in (*paths, base)]
    tuned = {}
    for path in paths:
        name, parent = Path(path).name, Path(path).parent.name
        if names.count(name) > 1:
            separator = "/" if "seed" in parent else "-"
            name = parent + separator + name
        tuned[name] = path
    return tuned


def read_training(path, base):
    """training.json of a model directory, {} without one. Warns if the base is another one now."""
    file = Path(path, "training.json")
    if not file.is_file():
        return {}
    settings = read_json(file)
    trained_from = settings.get("identity", {}).get("contents of --model")
    if trained_from not in (None, runlog.fingerprint(base)):
        print(f"warning: {path} was not trained from {base} as it is now (training.json)")
    return settings


def training_kind(settings):
    """What a training was, by the settings that only one kind has."""
    if "reward" in settings:
        return "RL"
    return "SFT" if "train_on" in settings else "tuned"


def choose_pair(kinds):
    """{name: kind} -> the first SFT and the first RL model, or without both the first two."""
    by_kind = {}
    for name, kind in kinds.items():
        by_kind.setdefault(kind, name)
    if "SFT" in by_kind and "RL" in by_kind:
        return [by_kind["SFT"], by_kind["RL"]]
    return list(kinds)[:2]


@dataclass
class Study:
    """What analyze.py found. Dicts are by name of a model where nothing else is said."""

    models: Models
    published: bool = False  # tables and figures show UniReason's estimate of the KL

    # Graded runs: numbers of evaluate.py.
    runs: list = field(default_factory=list)  # of report.runs.Run
    graded: dict = field(default_factory=dict)  # {run's name: evaluate.metrics of all its seeds}
    claims: list = field(default_factory=list)  # decided, see report/claims.py
    accuracy: dict = field(default_factory=dict)  # {name: {group: summary}}, thinking unforced
    transfer: dict = field(default_factory=dict)  # {name: {"v1" or "v2": {group: TI}}}

    # Both models on the tokens of the tuned one.
    results: dict = field(default_factory=dict)  # {name: its entry of metrics.json}
    points: dict = field(default_factory=dict)  # {name: {task: points of the PCA shift}}
    responses: dict = field(default_factory=dict)  # {name: {group: [numbers of each response]}}
    refused: dict = field(default_factory=dict)  # {name: why the model could not be loaded}

    # Weights and what the trainings cost: see report/weights.py.
    weights: dict = field(default_factory=dict)  # {name: changes}
    overlaps: list = field(default_factory=list)
    compute: dict = field(default_factory=dict)  # {name: compute_ledger}
    matched: dict = field(default_factory=dict)  # compute of the pair against each other

    # What follows from the above.
    contrasts: list = field(default_factory=list)  # the pair, measure by measure
    behaviours: dict = field(default_factory=dict)  # {run's name: {group: summary}}
    curves: dict = field(default_factory=dict)  # {model: its runs under several budgets}
    waits: dict = field(default_factory=dict)  # {model: most Waits against the best number}
    beside: dict = field(default_factory=dict)  # {"where", "curves"} of another test-bed

    def groups(self):
        """Groups of the measured responses, in order."""
        return list(dict.fromkeys(g for result in self.results.values() for g in result["groups"]))

    def main_group(self):
        """The group that training was for."""
        groups = self.groups()
        return "math" if "math" in groups else groups[0]

    def measure(self, name, model, group):
        """One of MEASURES -> (value, low, high); None for what is not known."""
        summary = self.results.get(model, {}).get("groups", {}).get(group)
        if summary is None:
            return UNKNOWN
        if name == "KL" and self.published:
            return summary["kl_estimate"], None, None
        if name == "KL":
            kl = summary["kl_forward"]
            return kl["macro"], kl["low"], kl["high"]
        if name == "shifted":
            ends = summary["shifted_low"], summary["shifted_high"]
            return summary["shifted_per_response"], *ends
        kind = {"PCA": "pca_shift", "PCA masked": "pca_shift_masked"}[name]
        return summary[kind], None, None

    def metrics(self):
        """What metrics.json holds: an entry per tuned model, and what runs and weights say."""
        models = {
            name: result | {"weights": self.weights[name]} for name, result in self.results.items()
        }
        return models | {
            "refused": self.refused,
            "claims": self.claims,
            "transferability": self.transfer,
            "contrasts": self.contrasts,
            "overlaps": self.overlaps,
            "behaviours": self.behaviours,
            "compute": {"ledgers": self.compute, "matched": self.matched},
            "runs": {name: self.run_metrics(name) for name in self.graded},
        }

    def run_metrics(self, name):
        """The grades of a run and its seeds. Those of single questions are in evaluate.py --out."""
        graded = self.graded[name]
        groups = {
            group: {key: value for key, value in summary.items() if key != "questions"}
            for group, summary in graded["groups"].items()
        }
        seeds = [run.seed for run in self.runs if run.name == name]
        return {"all": graded["all"], "groups": groups, "seeds": seeds}
