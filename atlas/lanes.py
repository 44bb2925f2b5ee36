"""Jobs side by side in lanes, each after those it needs; what failed, how long it may still take."""

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from atlas import arms, sources
from engine import runlog

# Seconds of a job of which nothing is known: the tiny world's fine-tuning.
TYPICAL = 30


def run_jobs(jobs, n_lanes, root=".", say=print, asked=()):
    """Run what is not complete of {key: Job}. A failed job, and what needs it, gets its reason.

    Stops all of them at an interrupt, or once `asked` is filled (engine.runlog.sigterm). What is
    complete stays; the scripts continue the rest in the next run.
    """
    done = {key for key, job in jobs.items() if job.record()}
    waiting = {key: job for key, job in jobs.items() if key not in done}
    say(f"{len(jobs)} arms, {len(done)} of them complete{time_left(waiting.values(), n_lanes)}")
    stop, running = threading.Event(), {}
    with ThreadPoolExecutor(n_lanes) as pool:
        try:
            while waiting or running:
                if asked:
                    raise KeyboardInterrupt
                skip_hopeless(waiting, jobs, say)
                for key in ready(waiting, done)[: n_lanes - len(running)]:
                    job = waiting.pop(key)
                    running[pool.submit(run_job, job, stop, root)] = job
                for future in wait(running, 1, return_when=FIRST_COMPLETED)[0]:
                    job = running.pop(future)
                    job.failed = future.result()
                    if not job.failed:
                        done.add(job.key)
                    left = [*waiting.values(), *running.values()]
                    say(line_of(job, len(done), len(jobs), time_left(left, n_lanes)))
        except BaseException:
            stop.set()
            raise


def ready(waiting, done):
    """Keys of the jobs whose needs are complete, in order."""
    return [key for key, job in waiting.items() if done.issuperset(job.needs)]


def skip_hopeless(waiting, jobs, say):
    """Remove jobs that need a failed one from `waiting`, and note the reason in them."""
    for key, job in list(waiting.items()):
        broken = [jobs[need] for need in job.needs if jobs[need].failed]
        if broken:
            # Through a chain of jobs: the reason for which the first one failed.
            first = broken[0].failed
            job.failed = first if first.startswith("needs ") else f"needs {broken[0].name}: {first}"
            del waiting[key]
            say(f"  not run: {job.name}: {job.failed}")


def run_job(job, stop, root):
    """Run the commands of a job -> "" or the reason for which it failed."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.folder / "lock", "ab") as lock:
        # The commands hold the lock, too: those of a runner that was killed are waited for.
        while not try_lock(lock):
            if stop.wait(1):
                return "interrupted"
        if job.record():
            return ""
        runlog.write_whole(job.folder / "name", job.name + "\n")
        began = time.monotonic()
        status = run_commands(job, stop, root, lock)
        if stop.is_set():
            return "interrupted"
        if status:
            return f"{last_line(job.folder / 'log.txt')} (status {status})"
        if not job.out.exists():
            return "its commands wrote no $OUT"
        if changed_sources(job, root):
            return f"{', '.join(changed_sources(job, root))} changed while it ran; run it again"
        arms.finish(job, time.monotonic() - began)
        return ""


def try_lock(file):
    """Lock an open file for this process and its children -> whether nobody else has it."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def run_commands(job, stop, root, lock):
    """The exit status of a job's commands; what they print goes to log.txt."""
    with open(job.folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", job.text],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | job.variables,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
        while True:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    os.killpg(process.pid, signal.SIGTERM)
                    return process.wait()


def changed_sources(job, root):
    """Names of the sources that are not what they were when the job was planned."""
    now = sources.fingerprints(arms.text_with_settings(job), root)
    return [name for name, found in job.sources.items() if now.get(name) != found]


def last_line(path):
    """The last line of a log that says something, without a progress bar's earlier states."""
    text = Path(path).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


# ---------------------------------------------------------------- time


def seconds_known(folder):
    """Mean seconds of complete jobs of a store, by the script that they run."""
    found = {}
    for path in Path(folder).glob("*/arm.json"):
        record = arms.read_record(path)
        if record:
            found.setdefault(script_of(record["commands"]), []).append(record["seconds"])
    return {script: sum(seconds) / len(seconds) for script, seconds in found.items()}


def script_of(text):
    """The slowest of the scripts that a job runs, "" if it runs none of the slow ones."""
    return next((name for name in ("grpo.py", "sft.py", "generate.py") if name in text), "")


def time_left(jobs, n_lanes):
    """ ", about 5 minutes left" for jobs that are not complete; "" for none."""
    jobs = list(jobs)
    if not jobs:
        return ""
    known = seconds_known(jobs[0].folder.parent)
    seconds = sum(known.get(script_of(job.text), TYPICAL) for job in jobs) / n_lanes
    return f", about {max(1, round(seconds / 60))} minutes left"


def line_of(job, n_done, n_jobs, left):
    """The line that is printed when a job has ended."""
    seeds = sorted({seed for _, _, seed in job.users})
    for_whom = f"{job.name} (seed {', '.join(map(str, seeds))})"
    if job.failed:
        return f"  FAILED {for_whom}: {job.failed}; its log is {job.folder / 'log.txt'}"
    seconds = (job.record() or {}).get("seconds", 0)
    return f"  {n_done}/{n_jobs}  {for_whom}: {seconds:.0f} s{left}"
