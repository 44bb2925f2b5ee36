"""Studies: arms are shared, resumed, failed and computed again as they should be. No models."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atlas import arms, lanes, run, sources, verdicts
from atlas.study import parse_claim, read_study, study_names
from engine.rows import BadInput

ROOT = Path(__file__).resolve().parent.parent

# tmp_path in a command. As a path that exists it would be one of the sources.
HERE = "${OUT%/out/arms/*}"
# Ten questions; `right` of them are answered right. Each time a line is added to the ledger.
BASIS = """
title: a title
paper: a paper
set RIGHT=3
answer() {
  echo "$OUT" >> HERE/ledger
  for i in 0 1 2 3 4 5 6 7 8 9; do
    answer=no
    if [ $i -lt $1 ]; then answer=yes; fi
    echo '{"id": "q'$i'", "group": "math", "answer": "yes", "response": "'$answer'",' \\
      '"thinking": "", "n_tokens": '$((10 + $1))'}' >> "$OUT"
  done
}
rows few
  answer $RIGHT
"""


@pytest.fixture
def studies(tmp_path):
    """write(NAME, text) -> the folder of studies; basis.study has the arm `few`."""
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "basis.study").write_text(BASIS.replace("HERE", HERE))

    def write(name, text):
        (folder / f"{name}.study").write_text("use basis\n" + text.replace("HERE", HERE))
        return folder

    return write


MANY = """
rows many
  answer 9
claim A more is more (paper, §1): math: few -> many, higher
claim B it costs no more (paper, §2): math n_tokens: few -> many, lower
"""


def start(tmp_path, folder, *names, **more):
    """Run studies -> list of results."""
    return run.main(run.Config(names, out=str(tmp_path / "out"), folder=str(folder), **more))


def ledger(tmp_path):
    """Names of the outputs that were computed, in order."""
    path = tmp_path / "ledger"
    lines = path.read_text().splitlines() if path.exists() else []
    return [Path(line).stem for line in lines]


# ---------------------------------------------------------------- the file of a study


def test_a_claim_is_one_line():
    found = parse_claim("A1 it helps: a lot (s1, §3.1, Fig. 4): math: few -> many, same", "f:1")
    assert found == {
        "id": "A1",
        "text": "it helps: a lot (s1, §3.1, Fig. 4)",
        "group": "math",
        "from": "few",
        "to": "many",
        "expect": "same",
        "place": "f:1",
    }
    assert parse_claim("A t: all kl: a -> b, lower", "f:1")["measure"] == "kl"


@pytest.mark.parametrize(
    "text, words",
    [
        ("claim A t: math: few -> none, higher", "claim A: no arm of rows is called none"),
        ("claim A t: math: few -> few, better", "not a claim"),
        ("claim A t: few -> few, higher", "not a claim"),
        ("rows x\n  cp $nothing $OUT", "there is no arm called $nothing"),
        ("rows x\n  echo $NOTHING > $OUT", "there is no setting called $NOTHING"),
        ("rows x\n  cp $y $OUT\nrows y\n  cp $x $OUT", "need one another: x -> y -> x"),
        ("rows x", "x has no commands"),
        ("rows X\n  true", "the name of an arm"),
        ("rows x\n  true\nrows x\n  true", "x is there twice"),
        ("row x\n  true", "'row' is none of"),
        ("set seed=1", "not a setting"),
        ("set SEED=1", "not a setting"),
        ("use nothing", "there is no"),
        ("f() {\n  true", "no line } that ends it"),
        ("because A it is small", "there is no such claim"),
        (
            "claim A t: math: few -> few, same\nclaim A u: math: few -> few, same",
            "claim A is there twice",
        ),
        ("folder x\n  true\nclaim A t: math: few -> x, higher", "no arm of rows is called x"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(tmp_path, studies, text, words):
    """Also where an earlier study of the same call is fine."""
    folder = studies("good", MANY)
    studies("wrong", text)
    with pytest.raises(BadInput) as refused:
        start(tmp_path, folder, "good", "wrong")
    assert words in str(refused.value) and "wrong.study" in str(refused.value)
    assert not ledger(tmp_path) and not (tmp_path / "out/arms").exists()


def test_an_unknown_study_names_those_there_are(tmp_path, studies):
    """basis.study claims nothing: it is not a study to run."""
    folder = studies("good", MANY)
    with pytest.raises(BadInput, match="no study called bad in .*; there are good$"):
        start(tmp_path, folder, "bad")


def test_the_environment_comes_before_a_setting(studies):
    folder = studies("good", MANY)
    assert read_study("good", folder, {}).settings["RIGHT"] == "3"
    assert read_study("good", folder, {"RIGHT": "5"}).settings["RIGHT"] == "5"


# ---------------------------------------------------------------- what is computed, and how often


def test_claims_are_decided_by_hand_counted_numbers(tmp_path, studies):
    """3 of 10 and 9 of 10: six questions more, +60 points; 13 and 19 tokens, so B is reversed."""
    (result,) = start(tmp_path, studies("good", MANY), "good")
    a, b = result["claims"]
    assert (a["before"], a["after"], a["difference"], a["n"]) == (30, 90, 60, 10)
    assert a["holds"] is True and a["verdict"].startswith("yes: 30.0 → 90.0, +60.0 [")
    assert (b["before"], b["after"], b["holds"]) == (13, 19, False)
    assert b["verdict"].startswith("reversed: 13.0 → 19.0, +6 [6, 6]")
    saved = json.loads((tmp_path / "out/results/good.json").read_text())
    assert saved["claims"][0]["verdict"] == a["verdict"]
    assert saved["runs"]["many"]["0"]["math"]["accuracy"] == 90


def test_arms_are_shared_by_studies_and_seeds(tmp_path, studies):
    """`few` of both, and `much`, which is `many` by another name; no arm names the seed."""
    folder = studies("one", MANY)
    studies("two", MANY.replace("many", "much"))
    start(tmp_path, folder, "one", "two", seeds=3)
    assert sorted(ledger(tmp_path)) == ["few", "many"]
    start(tmp_path, folder, "two")
    assert len(ledger(tmp_path)) == 2


def test_an_arm_that_names_the_seed_is_made_for_each(tmp_path, studies):
    """And so is what names it. The interval is over questions with their mean over the seeds."""
    text = """
rows many
  answer $((8 + $SEED))
rows copy
  cp $many $OUT; echo copy >> HERE/ledger
claim A t: math: few -> copy, higher
"""
    (result,) = start(tmp_path, studies("one", text), "one", seeds=2)
    assert sorted(ledger(tmp_path)) == ["copy", "copy", "few", "many", "many"]
    assert result["claims"][0]["per_seed"] == {"0": 50, "1": 60}
    assert result["claims"][0]["after"] == 85


def test_a_changed_command_or_setting_computes_what_it_touches(tmp_path, studies, monkeypatch):
    folder = studies("one", MANY)
    start(tmp_path, folder, "one")
    studies("one", MANY.replace("answer 9", "answer 8"))
    start(tmp_path, folder, "one")
    assert ledger(tmp_path)[2:] == ["many"]
    monkeypatch.setenv("RIGHT", "2")
    start(tmp_path, folder, "one")
    assert ledger(tmp_path)[3:] == ["few"]


def test_a_changed_source_computes_what_it_touches(tmp_path, studies, monkeypatch):
    """many -> script.py -> helper.py; `few` names no script. A comment changes nothing."""
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("import helper, sys\nopen(sys.argv[1], 'w').write(helper.TEXT)\n")
    row = '{"id": "q0", "group": "math", "answer": "yes", "response": "yes"}'
    Path("helper.py").write_text(f"TEXT = '{row}'\n")
    text = f"""
rows many
  {sys.executable} script.py $OUT
  echo many >> HERE/ledger
claim A t: math: few -> many, higher
"""
    folder = studies("one", text)
    for code, computed in [
        (f"TEXT = '{row}'\n", {"few": 1, "many": 1}),
        (f"# a comment\nTEXT  =  '{row}'\n", {"few": 1, "many": 1}),
        (f"TEXT = '{row}' + ''\n", {"few": 1, "many": 2}),
    ]:
        Path("helper.py").write_text(code)
        start(tmp_path, folder, "one")
        assert {name: ledger(tmp_path).count(name) for name in ("few", "many")} == computed


def test_sources_of_a_command_of_ours():
    """What generate.py imports, also by a name at run time, and the model; nothing that grades."""
    found = sources.fingerprints("python generate.py --model data/tiny_base --data $x", ROOT)
    assert {"generate.py", "data/tiny_base", "engine/decoder.py", "kernels/linear.py"} <= set(found)
    assert not [name for name in found if name.startswith("grading") or name == "grpo.py"]
    assert "data/tiny.py" in sources.fingerprints("python -m data.tiny --out $OUT", ROOT)
    graded = sources.fingerprints("python evaluate.py x", ROOT)
    assert {"grading/simplify.py", "grading/sandbox.py"} <= set(graded)


def test_recipes_that_name_one_another(tmp_path):
    """one.sh runs a.py, names two.sh, and that names one.sh in its usage."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r/one.sh").write_text("# bash r/one.sh, then r/two.sh\npython a.py\n")
    (tmp_path / "r/two.sh").write_text("# after bash r/one.sh\npython b.py\n")
    for name in "ab":
        (tmp_path / f"{name}.py").write_text(f"{name} = 1\n")
    for text in ("bash r/one.sh", "bash r/two.sh"):
        assert set(sources.fingerprints(text, tmp_path)) == {"r/one.sh", "r/two.sh", "a.py", "b.py"}


def test_a_source_that_changes_while_an_arm_runs_fails_it(tmp_path, studies, monkeypatch):
    """Else the output of the new source would be kept under the key of the old one."""
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("x = 1\n")
    text = """
rows many
  echo 'x = 2' > script.py
  cp $few $OUT
claim A t: math: few -> many, higher
"""
    (result,) = start(tmp_path, studies("one", text), "one")
    assert "script.py changed while it ran" in result["claims"][0]["failed"]


# ---------------------------------------------------------------- failures and kills


def test_a_failed_arm_fails_what_needs_it_and_nothing_else(tmp_path, studies):
    text = """
rows broken
  echo "the reason" >&2; exit 3
rows after
  cp $broken $OUT
rows later
  cp $after $OUT
claim B t: math: few -> later, higher
"""
    (result,) = start(tmp_path, studies("one", MANY + text.replace("claim B", "claim C")), "one")
    a, b, c = result["claims"]
    assert a["holds"] is True and b["holds"] is False
    assert c["failed"] == "later: needs broken: the reason (status 3)" and c["holds"] is None
    assert json.loads((tmp_path / "out/results/one.json").read_text())["claims"][2] == c


def test_an_arm_that_writes_nothing_fails(tmp_path, studies):
    text = "rows none\n  true\nclaim A t: math: few -> none, higher\n"
    (result,) = start(tmp_path, studies("one", text), "one")
    assert "wrote no $OUT" in result["claims"][0]["failed"]


def test_rows_without_the_field_fail_the_claim(tmp_path, studies):
    text = "claim A t: math kl: few -> few, same\n"
    (result,) = start(tmp_path, studies("one", text), "one")
    assert "few.jsonl:1: 'kl' is not a number" in result["claims"][0]["failed"]


def test_a_failed_arm_is_tried_again_and_the_others_are_not(tmp_path, studies):
    text = """
rows broken
  test -e HERE/mended
  cp $few $OUT
claim A t: math: few -> broken, same
"""
    folder = studies("one", text)
    assert "failed" in start(tmp_path, folder, "one")[0]["claims"][0]
    (tmp_path / "mended").touch()
    (result,) = start(tmp_path, folder, "one")
    assert result["claims"][0]["holds"] is True and ledger(tmp_path) == ["few"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_continues(tmp_path, studies, number):
    """Its commands end with it; those that SIGKILL leaves behind are waited for."""
    text = """
rows many
  echo begin >> HERE/ledger
  while [ ! -e HERE/go ]; do sleep 0.05; done
  cp $few $OUT
  echo end >> HERE/ledger
claim A t: math: few -> many, same
"""
    folder = studies("one", text)
    command = [sys.executable, "-m", "atlas.run", "one", "--lanes", "1", "--folder", str(folder)]
    command += ["--out", str(tmp_path / "out")]
    # A suite that runs in the background of a shell ignores SIGINT, and its children would, too.
    first = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while "begin" not in ledger(tmp_path):
        time.sleep(0.05)
        assert first.poll() is None
    first.send_signal(number)
    assert first.wait(timeout=60) != 0
    second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert second.stdout.readline().startswith(b"2 arms, 1 of them complete")
    if number == signal.SIGKILL:
        time.sleep(0.5)
    (tmp_path / "go").touch()
    second.stdout.read()
    assert second.wait() == 0
    orphan = ["begin", "end"] if number == signal.SIGKILL else ["begin"]
    assert ledger(tmp_path) == ["few", *orphan, "begin", "end"]


# ---------------------------------------------------------------- lanes


def test_two_lanes_work_at_once_and_in_order(tmp_path, studies):
    """left and right wait for each other's start, so one lane alone would never end."""
    text = """
rows left
  touch HERE/left
  while [ ! -e HERE/right ]; do sleep 0.02; done
  cp $few $OUT
rows right
  touch HERE/right
  while [ ! -e HERE/left ]; do sleep 0.02; done
  cp $few $OUT
claim A t: math: left -> right, same
"""
    (result,) = start(tmp_path, studies("one", text), "one", lanes=2)
    assert result["claims"][0]["holds"] is True


def test_time_left_by_hand(tmp_path):
    """Complete: fine-tuning took 100 and 140 s. Three more are left, and one unknown: 390 / 2 s."""
    store = tmp_path / "arms"
    for key, seconds in (("a", 100), ("b", 140)):
        job = arms.Job(key, "x", "rows", "python sft.py", {}, [], store / key, {})
        job.folder.mkdir(parents=True)
        arms.finish(job, seconds)
    waiting = [arms.Job("c", "x", "rows", "python sft.py", {}, [], store / "c", {})] * 3
    waiting.append(arms.Job("d", "x", "rows", "true", {}, [], store / "d", {}))
    assert lanes.time_left(waiting, 2) == ", about 3 minutes left"
    assert lanes.time_left(waiting[:1], 1) == ", about 2 minutes left"
    assert lanes.time_left([], 2) == ""


def test_the_last_line_of_a_log_is_the_reason(tmp_path):
    (tmp_path / "log").write_text("fine\n 10%\r 20%\rsft.py: no rows\n\n")
    assert lanes.last_line(tmp_path / "log") == "sft.py: no rows"


# ---------------------------------------------------------------- looks at the held-out split


SPLIT = """
set SPLIT=held_out
rows measured
  answer 7 $SPLIT
rows copied
  cp $measured $OUT
claim A t: math: few -> measured, higher
claim B t: math: few -> copied, higher
claim C t: math n_tokens: few -> few, same
"""


def test_looks_are_counted_once_for_each_output(tmp_path, studies, monkeypatch):
    """A names $SPLIT, B through another arm, C not at all: two looks. Again the same: none;
    another setting: two more; the dev split: none."""
    folder = studies("one", SPLIT)
    looks = tmp_path / "out/looks.jsonl"
    start(tmp_path, folder, "one")
    assert [look["claim"] for look in verdicts.read_looks(looks)] == ["A", "B"]
    start(tmp_path, folder, "one")
    assert len(verdicts.read_looks(looks)) == 2
    monkeypatch.setenv("RIGHT", "2")
    start(tmp_path, folder, "one")
    assert len(verdicts.read_looks(looks)) == 4
    monkeypatch.setenv("RIGHT", "1")
    monkeypatch.setenv("SPLIT", "dev")
    start(tmp_path, folder, "one")
    assert len(verdicts.read_looks(looks)) == 4


@pytest.mark.parametrize(
    "name, looking",
    [("decontamination", ""), ("subnetwork", ""), ("window", "A"), ("equal_compute", "ABCDE")],
)
def test_which_claims_of_ours_look_at_the_held_out_split(tmp_path, name, looking):
    """Copies found, weights and tokens of training are none of its answers."""
    study = read_study(name, ROOT / "recipes/studies", {})
    jobs = {}
    keys = arms.plan(study, [0], tmp_path, jobs)
    found = [
        claim["id"]
        for claim in study.claims
        if verdicts.reads_split([keys[claim[side], 0] for side in ("from", "to")], jobs)
    ]
    assert "".join(found) == looking


# ---------------------------------------------------------------- the project's own studies


@pytest.mark.parametrize("name", study_names(ROOT / "recipes/studies"))
def test_every_command_of_a_study_is_one_that_its_script_takes(tmp_path, name, monkeypatch):
    """Stand-ins note the commands; no script starts. A misspelt flag would fail an arm later."""
    from test_recipes import STAND_IN, parsed

    monkeypatch.chdir(ROOT)
    study = read_study(name, ROOT / "recipes/studies", {})
    assert study.title and study.paper and study.claims
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").write_text(STAND_IN.format(python=sys.executable))
    (bin_ / "python").chmod(0o755)
    jobs = {}
    arms.plan(study, [3], tmp_path / "arms", jobs)
    for job in jobs.values():
        log = tmp_path / "commands"
        log.unlink(missing_ok=True)
        environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "COMMANDS": str(log)}
        done = subprocess.run(
            ["bash", "-u", "-c", f"mkdir -p {job.folder}\n{job.text}"],
            env=environment | job.variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "command not found" not in done.stderr and "unbound" not in done.stderr, job.name
        for line in log.read_text().split("\0\n")[:-1] if log.exists() else ():
            words = line.split("\0")
            if "recipes/" in words[1]:
                continue
            config = parsed(words)[2]
            # 103: a second training under the same seed; scoring draws nothing
            drawn = not getattr(config, "score", False)
            assert getattr(config, "seed", 3) in (3, 103) or not drawn, f"{job.name}: --seed"


def atlas_sh(tmp_path, *arguments):
    """What recipes/atlas.sh runs -> [words of a command], and its process."""
    from test_recipes import STAND_IN

    (tmp_path / "python").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SKIP_INSTALL": "1"}
    environment["COMMANDS"] = str(tmp_path / "commands")
    done = subprocess.run(
        ["bash", str(ROOT / "recipes/atlas.sh"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    log = tmp_path / "commands"
    lines = log.read_text().split("\0\n")[:-1] if log.exists() else []
    return [line.split("\0")[2:] for line in lines], done


def test_the_flags_of_atlas_sh(tmp_path):
    found, done = atlas_sh(tmp_path, "--seeds", "3", "--only", "a,b", "--table", "R.md")
    assert done.returncode == 0, done.stderr
    assert found == [
        "atlas.run a b --seeds 3 --lanes 2 --out out/atlas".split(),
        "atlas.page --out out/atlas --table R.md".split(),
    ]
    for wrong in (["--sedes", "3"], ["--seeds", "x"], ["--only"]):
        found, done = atlas_sh(tmp_path, *wrong)
        assert done.returncode == 2 and "unknown argument: --" in done.stderr
