"""The filters one after the other, how many rows pass each, and why the others do not."""

import sys
from collections import Counter

from engine.rows import BadInput

POOL = "pool"  # the first line of the funnel: all rows


class Funnel:
    """Counts of rows by stage, reasons for dropping rows, and pairs of similar questions."""

    def __init__(self, with_pairs=False):
        self.passed = Counter()  # stage: rows
        self.dropped = {}  # stage: Counter of reasons
        self.left = Counter()  # of the rows that pass all filters, for summarise()
        self.n_untried = 0  # rows at the filter "difficulty" whose question was never attempted
        self.similar = {}  # stage: Counter of "layer tenth of similarity"
        self.with_pairs, self.pairs = with_pairs, []  # for --audit
        self.table = []  # the printed lines as dicts

    def note_pair(self, stage, pair):
        """Count a pair of similar questions under the tenth of its similarity; --audit keeps it."""
        tenth = int(10 * pair["similarity"]) / 10
        self.similar.setdefault(stage, Counter())[f"{pair['layer']} {tenth}"] += 1
        if self.with_pairs:
            self.pairs.append({"stage": stage} | pair)

    def pass_rows(self, rows, stages):
        """Yield the (place, row) that pass every stage, then print the funnel.

        stages: list of (name, function: row -> the reason to drop it, or None). Stages without a
        name are not counted.
        """
        for place, row in rows:
            self.passed[POOL] += 1
            for stage, find_reason in stages:
                if reason := find_reason(row):
                    self.dropped.setdefault(stage, Counter())[reason] += 1
                    break
                self.passed[stage] += 1
            else:
                count_row(self.left, row)
                yield place, row
            if self.passed[POOL] % 100_000 == 0:
                self.print_progress(stages)
        self.report([stage for stage, _ in stages if stage])

    def print_progress(self, stages):
        counts = ", ".join(f"{stage} {self.passed[stage]}" for stage, _ in stages if stage)
        print(f"{self.passed[POOL]} rows read; {counts}", file=sys.stderr, flush=True)

    def report(self, stages):
        """Print a line for each stage. Raises BadInput if a filter left nothing."""
        print(f"{POOL:<12} {self.passed[POOL]:>7} rows")
        self.table.append({"stage": POOL, "kept": self.passed[POOL]})
        for stage in stages:
            self.report_stage(stage)
        # flush: choosing and writing come next and may take minutes
        print(summary_line("left", summarise(self.left)), flush=True)

    def report_stage(self, stage):
        reasons, kept = self.dropped.get(stage, Counter()), self.passed[stage]
        n_dropped = reasons.total()
        if stage == "difficulty" and self.n_untried == kept + n_dropped > 0:
            raise BadInput("--attempts: none of their ids is the id of a row of --data")
        why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        shown = f"-{n_dropped}: {why}" if why else f"-{n_dropped}"
        print(f"{stage:<12} {kept:>7} kept  ({shown})")
        entry = {"stage": stage, "kept": kept, "dropped": dict(reasons)}
        self.table.append(entry)
        if not kept:
            raise BadInput(f"no row is left after the filter '{stage}' ({why})")
        if stage in self.similar:
            entry["similarity"] = dict(sorted(self.similar[stage].items()))
        if stage == "difficulty":
            entry["without_attempt"] = self.n_untried
            print(f"{'':<12} {self.n_untried:>7} of them were never attempted")


def count_row(totals, row):
    """Count a row for summarise()."""
    totals["rows"] += 1
    totals["correct"] += row.get("correct") is True
    totals["graded"] += row.get("correct") is not None
    totals["tokens"] += row.get("n_thinking_tokens") or 0
    totals["domain", row["domain"]] += 1


def count_rows(rows, totals):
    """Count rows on their way through."""
    for row in rows:
        count_row(totals, row)
        yield row


def summarise(totals):
    """Counts of count_row() -> number of rows, share of right ones, mean length, rows by domain."""
    by_domain = Counter({name[1]: n for name, n in totals.items() if name[0] == "domain"})
    return {
        "rows": totals["rows"],
        "correct": totals["correct"] / totals["graded"] if totals["graded"] else None,
        "mean_thinking_tokens": totals["tokens"] / totals["rows"],
        "domains": dict(by_domain.most_common()),
    }


def summary_line(name, summary):
    """A summary as one line of text; of the domains, the eight with most rows."""
    correct = "?" if summary["correct"] is None else f"{summary['correct']:.1%}"
    largest = list(summary["domains"].items())[:8]
    domains = ", ".join(f"{domain} {n}" for domain, n in largest)
    return (
        f"{name:<12} {summary['rows']:>7} rows  correct {correct}  "
        f"thinking tokens {summary['mean_thinking_tokens']:.1f}  domains {domains}"
    )
