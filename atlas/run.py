"""Run studies: each claim of a paper is tested by one command, with an interval and a verdict.

    python -m atlas.run s1_ablation                one seed
    python -m atlas.run s1_ablation limo --seeds 3
    python -m atlas.run                            all studies of recipes/studies

What is complete is kept in OUT/arms and computed once for all studies and seeds; the same command
continues after a kill. A change of the sources computes what it touches again. An arm that fails
fails what needs it, the others go on. Writes OUT/results/STUDY.json,
OUT/atlas.html and OUT/atlas.md. Exit status: 0; 1 if an arm failed or a study cannot be read.
"""

import sys
from dataclasses import dataclass, field

from atlas import arms, lanes, page, verdicts
from atlas.study import FOLDER, read_study, study_names
from engine import runlog, settings
from engine.rows import BadInput


@dataclass(frozen=True)
class Config:
    # names of studies; none: all
    studies: tuple[str, ...] = field(default=(), metadata={"positional": True})
    seeds: int = 1  # 0, 1, ...: traces, trainings and samples are drawn anew for each
    lanes: int = 2  # arms side by side, a core for each
    out: str = "out/atlas"  # where everything is kept
    folder: str = FOLDER  # of the files of the studies


def main(cfg):
    """Run and decide -> list of results. Raises BadInput before anything runs."""
    settings.check_positive(cfg, "seeds", "lanes")
    studies = [read_study(name, cfg.folder) for name in cfg.studies or study_names(cfg.folder)]
    if not studies:
        raise BadInput(f"--folder {cfg.folder}: no studies")
    seeds = range(cfg.seeds)
    store = f"{cfg.out}/arms"
    jobs, planned = {}, []
    for study in studies:
        planned.append((study, arms.plan(study, seeds, store, jobs)))
    with runlog.sigterm() as asked:
        lanes.run_jobs(jobs, cfg.lanes, asked=asked)
    results = []
    for study, keys in planned:
        result = verdicts.decide_study(study, seeds, keys, jobs, store)
        results.append(result)
        print(table_of(result))
    print(page.write(cfg.out))
    return results


def table_of(result):
    """The claims of a study as text."""
    lines = ["", f"{result['study']}: {result['title']} [{result['paper']}]"]
    for claim in result["claims"]:
        words = f"FAILED: {claim['failed']}" if "failed" in claim else claim["verdict"]
        lines += [f"{claim['id']:<4}{claim['text']}", f"    {words}"]
    return "\n".join(lines)


def cli(cfg):
    results = main(cfg)
    if any("failed" in claim for result in results for claim in result["claims"]):
        sys.exit(1)


if __name__ == "__main__":
    settings.cli(cli, Config)
