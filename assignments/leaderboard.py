"""Who learned most from the same number of sampled tokens? A table of GRPO runs.

    python assignments/leaderboard.py RUN [RUN ...] --tokens 200000
    python assignments/leaderboard.py FOLDER            all runs in a folder

A run is the --out of grpo.py with --eval-data and --eval-every. Its place is its last held-out
accuracy before it had sampled so many tokens, so a longer run is no better for being longer. The
other columns are of the same moment: steps, sampled and trained tokens, and the computation of
training. Runs of another model, other data or another seed are refused.
"""

import argparse
import json
import sys
from pathlib import Path

SAME = ("contents of --model", "contents of --data", "eval_data", "seed", "temperature")


def read_run(folder):
    """(identity, rows of log.jsonl) of a run. ValueError that names the file."""
    folder = Path(folder)
    try:
        settings = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return settings["identity"], [json.loads(line) for line in lines]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: not a finished run of grpo.py ({error})") from error


def runs_of(folders):
    """The runs among some folders, and those inside of the others."""
    found = []
    for folder in map(Path, folders):
        inside = sorted(path.parent for path in folder.glob("*/training.json"))
        is_run = (folder / "training.json").is_file()
        found += [folder] if is_run or not inside else inside
    return found


def place_of(log, most_tokens):
    """The numbers of a log at its last evaluation within so many sampled tokens, or None."""
    place, sampled, trained, flops = None, 0, 0, 0
    for row in log:
        sampled += row["rollout_tokens"]
        trained += row["train_tokens"]
        flops += row["train_flops"]
        if sampled > most_tokens:
            break
        if row.get("held_out") is not None:
            place = {"held_out": row["held_out"], "steps": row["step"], "sampled": sampled}
            place |= {"trained": trained, "flops": flops}
    return place


def leaderboard(folders, most_tokens):
    """[(name, numbers or None)], the best first. ValueError for runs that cannot be compared."""
    runs = {str(folder): read_run(folder) for folder in runs_of(folders)}
    first = next(iter(runs))
    for folder, (identity, _) in runs.items():
        for name in SAME:
            if identity.get(name) != runs[first][0].get(name):
                raise ValueError(f"{folder}: not the {name} of {first}")
    places = [(folder, place_of(log, most_tokens)) for folder, (_, log) in runs.items()]
    # Of equals the one that sampled less.
    return sorted(
        places, key=lambda one: (-one[1]["held_out"], one[1]["sampled"]) if one[1] else (1,)
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="folders that grpo.py wrote")
    parser.add_argument("--tokens", type=int, default=200_000, help="sampled tokens that count")
    options = parser.parse_args(arguments)
    try:
        places = leaderboard(options.runs, options.tokens)
    except ValueError as error:
        sys.exit(f"leaderboard.py: {error}")
    width = max(len(name) for name, _ in places)
    print(f"{'run':<{width}}  held out  steps  sampled  trained  training, 1e9 FLOPs")
    for name, place in places:
        if place is None:
            print(f"{name:<{width}}  no held-out accuracy within {options.tokens} tokens")
            continue
        print(
            f"{name:<{width}}{100 * place['held_out']:>9.1f}%{place['steps']:>7}"
            f"{place['sampled']:>9}{place['trained']:>9}{place['flops'] / 1e9:>21.1f}"
        )


if __name__ == "__main__":
    main()
