"""The results of all studies as one page, OUT/atlas.html, and as a table for RESULTS.md.

    python -m atlas.page                       from out/atlas/results
    python -m atlas.page --table RESULTS.md    also between that file's two marks <!-- atlas -->

The page loads nothing. Whatever an arm wrote is escaped.
"""

import base64
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

from atlas.verdicts import read_looks
from engine import runlog, settings
from engine.rows import BadInput
from report.claims import format_number

MARK = "<!-- atlas -->"
# One claim in twenty comes out "significant" where there is nothing.
FALSE_SHARE = 0.05
# Verdicts, and the class that colours each on the page.
CLASSES = {
    "as in the paper": "yes",
    "reversed here": "no",
    "differs here": "no",
    "not significant here": "open",
    "undecided here": "open",
    "no interval": "open",
    "failed": "failed",
}
WIDTH = 60  # points from the middle of an interval's picture to its ends


@dataclass(frozen=True)
class Config:
    out: str = "out/atlas"  # where the studies have left their results
    table: str = ""  # a Markdown file with two marks, to write the table between


# ---------------------------------------------------------------- what is counted


def read_results(out):
    """Results of all studies, by paper and name -> list of dicts. Raises BadInput."""
    found = []
    for path in sorted(Path(out, "results").glob("*.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise BadInput(f"{path}: not the results of a study ({error})") from error
    return sorted(found, key=lambda result: (result["paper"].lower(), result["study"]))


def verdict_of(claim):
    """A decided claim -> its verdict, a key of CLASSES."""
    if "failed" in claim:
        return "failed"
    if claim["holds"]:
        return "as in the paper"
    if claim["n"] == 1:
        return "no interval"
    if claim["expect"] == "same":
        return "undecided here" if claim["holds"] is None else "differs here"
    return "not significant here" if claim["holds"] is None else "reversed here"


def count_verdicts(results):
    """{"claims", "studies", "papers", and each verdict: how many}."""
    verdicts = [verdict_of(claim) for result in results for claim in result["claims"]]
    counts = {"claims": len(verdicts), "studies": len(results)}
    counts["papers"] = len({paper for result in results for paper in papers_of(result)})
    return counts | {verdict: verdicts.count(verdict) for verdict in CLASSES}


def papers_of(result):
    """The arXiv numbers of a study's papers; its whole text where it names none."""
    return re.findall(r"\b\d{4}\.\d{5}\b", result["paper"]) or [result["paper"]]


def care_sentence(results, n_looks):
    """How many claims were tested, how often problems were looked at, what chance would give."""
    claims = [claim for result in results for claim in result["claims"] if "failed" not in claim]
    n_significant = sum(
        claim["n"] > 1 and not claim["low"] <= 0 <= claim["high"] for claim in claims
    )
    one_seed = sum(len(claim["seeds"]) == 1 for claim in claims)
    dev = [result["study"] for result in results if is_dev(result)]
    text = (
        f"{len(claims)} claims were tested, {one_seed} of them with one seed; the held-out split "
        f"was looked at {n_looks} times, counting each claim again whenever it was decided on outputs "
        f"that it had not seen. {n_significant} differences are significant. If no effect existed, "
        f"{FALSE_SHARE * len(claims):.1f} would be expected to be, by chance at 5% each."
    )
    if dev:
        text += f" Not on the held-out split, but on the development split: {', '.join(dev)}."
    return text


def is_dev(result):
    return result["settings"].get("SPLIT", "held_out") != "held_out"


def command_of(result):
    """The command that repeats a study with these settings and seeds."""
    given = "".join(f"{name}={quote(value)} " for name, value in result["given"].items())
    n = len(result["seeds"])
    return f"{given}bash recipes/study.sh {result['study']}" + (f" --seeds {n}" if n > 1 else "")


def quote(value):
    return value if value and value.replace("/", "").replace("_", "").isalnum() else f'"{value}"'


def interval_of(claim):
    """Before → after, difference [interval]."""
    if "failed" in claim:
        return claim["failed"]
    show = format_number if "measure" in claim else "{:.1f}".format
    return f"{show(claim['before'])} → {show(claim['after'])}, {claim['interval']}"


# ---------------------------------------------------------------- the page


def render(results, n_looks):
    """The page as text."""
    counts = count_verdicts(results)
    n_papers = counts["papers"]
    words = [f"<b>{counts['claims']} claims</b> of {n_papers} paper{'s' * (n_papers > 1)}"]
    words += [f"<span class={CLASSES[v]}>{counts[v]} {v}</span>" for v in CLASSES if counts[v]]
    parts, paper = [], None
    for result in results:
        if result["paper"] != paper:
            paper = result["paper"]
            parts.append(f"<h2>{html.escape(paper)}</h2>")
        parts.append(render_study(result))
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    filled = {
        "COUNTS": "\n".join(f"<span>{w}</span>" for w in words),
        "CARE": html.escape(care_sentence(results, n_looks)),
        "STUDIES": "\n".join(parts),
    }
    for name, text in filled.items():
        template = template.replace(f"@{name}@", text)
    return template


def render_study(result):
    """Title, command, notes, the table of claims, figures, the runs of a study."""
    minutes = max(1, round(result["seconds"] / 60))
    seeds = len(result["seeds"])
    about = f"{minutes} min of one core, {seeds} seed{'s' * (seeds > 1)}"
    about += f", commit {result['commit'] or 'unknown'}, {result['date']}"
    rows = "\n".join(render_claim(result, claim) for claim in result["claims"])
    notes = "".join(f"<p class=dim>{html.escape(note)}" for note in result["notes"])
    return f"""<section id={html.escape(result["study"])}>
<h3>{html.escape(result["study"])}: {html.escape(result["title"])}</h3>
<p class=dim><code>{html.escape(command_of(result))}</code> &middot; {html.escape(about)}{notes}
<div class=wide><table class=claims>
<tr><th>claim<th>verdict<th>difference<th><th class=number>n
{rows}
</table></div>
{"".join(map(render_figure, result["figures"]))}
<details><summary class=dim>arms: commands and numbers of each seed</summary>
<div class=wide>{render_runs(result)}{render_arms(result)}</div></details>
</section>"""


def render_claim(result, claim):
    """A row of the table; it opens to both arms, seed by seed."""
    verdict = verdict_of(claim)
    what = f"{claim['group']}, {claim.get('measure', 'right answers')}"
    lines = [f"{what}: {claim['from']} → {claim['to']}, expected {claim['expect']}"]
    if "failed" not in claim:
        each = [f"seed {seed}: {show_signed(claim, d)}" for seed, d in claim["per_seed"].items()]
        lines += [claim["verdict"], "; ".join(each)]
    inside = "".join(f"<p>{html.escape(line)}" for line in lines if line)
    commands = {arm["name"]: arm["commands"] for arm in result["arms"]}
    for side in ("from", "to"):
        name = claim[side]
        inside += f"<p><b>{html.escape(name)}</b><pre>{html.escape(commands[name])}</pre>"
    because = claim.get("because")
    reason = f"<p class=dim>{html.escape(because)}" if because else ""
    return f"""<tr><td><details><summary>{html.escape(claim["id"])} {html.escape(claim["text"])}
</summary><div>{inside}</div></details>{reason}
<td class="verdict {CLASSES[verdict]}">{verdict}
<td>{html.escape(interval_of(claim))}<td>{draw_interval(claim, CLASSES[verdict])}
<td class=number>{claim.get("n", "")}"""


def show_signed(claim, difference):
    if "measure" in claim:
        return ("+" if difference > 0 else "") + format_number(difference)
    return f"{difference:+.1f}"


def draw_interval(claim, colour):
    """A difference in points and its interval, as a picture from -60 to +60."""
    if "failed" in claim or "measure" in claim or claim["n"] == 1:
        return ""
    ends = claim["low"], claim["difference"], claim["high"]
    low, middle, high = (max(-WIDTH, min(WIDTH, x)) for x in ends)
    return (
        f'<svg class="interval {colour}" viewBox="{-WIDTH - 2} -7 {2 * WIDTH + 4} 14" '
        f'role=img aria-label="{low:.0f} to {high:.0f} points">'
        '<path d="M0-7V7" stroke="currentColor" opacity=".35"/>'
        f'<path d="M{low:.1f} 0H{high:.1f}" stroke="currentColor" stroke-width="3"/>'
        f'<circle cx="{middle:.1f}" r="4" fill="currentColor"/></svg>'
    )


def render_figure(path):
    """A PNG as part of the page; nothing where it is gone."""
    if not Path(path).is_file():
        return ""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<p><img alt="{html.escape(Path(path).stem)}" src="data:image/png;base64,{data}">'


def render_runs(result):
    """The accuracy and the tokens of each run, group and seed."""
    lines = ["<table><tr><th>run<th>group<th>right, %, per seed<th>thinking tokens<th>cut, %"]
    for name, seeds in result["runs"].items():
        groups = dict.fromkeys(group for found in seeds.values() for group in found)
        for group in groups:
            found = [of_seed[group] for of_seed in seeds.values() if group in of_seed]
            cells = [
                ", ".join(one_decimal(summary[field]) for summary in found)
                for field in ("accuracy", "n_thinking_tokens", "truncated")
            ]
            cells = [html.escape(cell) for cell in (name, group, *cells)]
            lines.append(f"<tr><td>{'<td>'.join(cells)}")
    return "\n".join([*lines, "</table>"])


def one_decimal(number):
    return "" if number is None else f"{number:.1f}"


def render_arms(result):
    """The commands of each arm, its seconds, and the reason if it failed."""
    lines = ["<table><tr><th>arm<th>commands<th>seconds, per seed"]
    for arm in result["arms"]:
        seconds = ", ".join("?" if s is None else f"{s:.0f}" for s in arm["seconds"].values())
        failed = "".join(f"<p class=failed>{html.escape(why)}" for why in arm["failed"].values())
        lines.append(
            f"<tr><td>{html.escape(arm['name'])}<td><code>{html.escape(arm['commands'])}</code>"
            f"{failed}<td>{seconds}"
        )
    return "\n".join([*lines, "</table>"])


# ---------------------------------------------------------------- the table


def markdown(results, n_looks):
    """The table for RESULTS.md, with the sentence on how much was tested."""
    counts = count_verdicts(results)
    said = ", ".join(f"{counts[v]} {v}" for v in CLASSES if counts[v])
    lines = [f"{said}. {care_sentence(results, n_looks)}", ""]
    lines += ["| paper | claim | verdict | before → after, difference | n, seeds |"]
    lines += ["|---|---|---|---|---|"]
    for result in results:
        minutes = max(1, round(result["seconds"] / 60))
        lines.append(
            f"| {escape_cell(result['paper'])} | **`study.sh {result['study']}`**, {minutes} min "
            f"[{result['date']}, {result['commit']}] | | | |"
        )
        for claim in result["claims"]:
            verdict = verdict_of(claim)
            strong = f"**{verdict}**" if CLASSES[verdict] == "no" else verdict
            text = f"{claim['text']}. {claim['because']}" if "because" in claim else claim["text"]
            n = f"{claim['n']}, {len(claim['seeds'])}" if "n" in claim else ""
            lines.append(
                f"| | {escape_cell(text)} | {strong} | {escape_cell(interval_of(claim))} | {n} |"
            )
    return "\n".join(lines)


def escape_cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def put_between_marks(path, table):
    """Replace what is between the two marks of a Markdown file. Raises BadInput without them."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--table {path}: cannot be read ({error.strerror})") from error
    if text.count(MARK) != 2:
        raise BadInput(f"--table {path}: needs two lines {MARK}, the table goes between them")
    before, _, after = text.split(MARK)
    runlog.write_whole(Path(path), f"{before}{MARK}\n{table}\n{MARK}{after}")


def write(out, table=""):
    """Write OUT/atlas.html and OUT/atlas.md, and the table of RESULTS.md -> a line about them."""
    results = read_results(out)
    if not results:
        raise BadInput(f"--out {out}: no results of studies (bash recipes/study.sh NAME)")
    n_looks = len(read_looks(Path(out, "looks.jsonl")))
    page = Path(out, "atlas.html")
    runlog.write_whole(page, render(results, n_looks))
    text = markdown(results, n_looks)
    runlog.write_whole(Path(out, "atlas.md"), text + "\n")
    if table:
        put_between_marks(table, text)
    return f"{page}: {count_verdicts(results)['claims']} claims, {page.stat().st_size / 1e6:.1f} MB"


def main(cfg):
    print(write(cfg.out, cfg.table))


if __name__ == "__main__":
    settings.cli(main, Config)
