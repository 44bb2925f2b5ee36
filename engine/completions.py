"""Completion rows: a decoded completion as a row, and the file that a run writes its rows to."""

import re
from pathlib import Path

from engine import processes, runlog
from engine.rows import BadInput, check_file_to_write, line_of, parse_row, write_rows

# ---------------------------------------------------------------- one row


def completion_text(tokenizer, completion):
    """Return the generated text with its special tokens, without the stop token or string."""
    ids = completion.ids
    ends_in_stop_token = completion.finish == "stop" and completion.stop is None
    if ends_in_stop_token:
        ids = ids[:-1]
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if completion.stop is not None:
        text = text.partition(completion.stop)[0]
    return text


def completion_row(problem, sample_number, completion, tokenizer, form, with_logp=False):
    """Return a decoder.Completion as a JSONL row.

    The row has the fields of its problem, the text and its parts, and the exact token ids.
    """
    text = completion_text(tokenizer, completion)
    form = form.fit(tokenizer)
    thinking, response = form.split(text)
    n_thinking = completion.n_thinking
    if form.end and form.end_id(tokenizer) is None and not form.is_spelled(tokenizer):
        # The decoder could not see the end, so it counted everything.
        n_thinking = len(tokenizer.encode(thinking, add_special_tokens=False))
    stop = completion.stop
    if completion.finish == "stop" and stop is None:
        stop = tokenizer.convert_ids_to_tokens(completion.ids[-1])
    row = problem | {
        "sample": sample_number,
        "text": text,
        "thinking": thinking,
        "response": response,
        "ids": completion.ids,
        "injected": [i for i, injected in enumerate(completion.injected) if injected],
        "n_thinking_tokens": n_thinking,
        "n_tokens": len(completion.ids),
        "finish": completion.finish,
        "stop": stop,
        "n_waits": completion.n_waits,
        "forced": completion.forced,
        "n_tries": completion.n_tries,
    }
    if with_logp:
        row["logp"] = [round(logp, 6) for logp in completion.logp]
    return row


def key_of(row):
    """Return the key of a row in its file: its problem and the number of its sample.

    Ids 1 and "1" are one problem, in all stages.
    """
    return str(row["id"]), row.get("sample", 0)


# ---------------------------------------------------------------- the file of a run


class RowFile:
    """The rows of a run on disk.

    OUT.unfinished holds them while the run lasts, one file for each process, and OUT when all are
    there. A run that was killed continues from the rows of its unfinished files.
    """

    def __init__(self, cfg, free):
        """cfg: the settings of the run, among them out, data, model and overwrite.

        free: settings that may differ between a run and its continuation. Raises BadInput if --out
        holds another run and --overwrite was not given.
        """
        self.cfg = cfg
        self.path = Path(cfg.out)
        self.part = Path(cfg.out + ".unfinished")
        self.header = runlog.header_of(self.path)
        self.identity = runlog.identity(cfg, free, data=cfg.data, model=cfg.model)
        check_file_to_write(self.path)
        if self.header.is_file():
            earlier = runlog.earlier_identity(self.header, cfg.overwrite)
            difference = runlog.difference(self.identity, earlier)
            if difference and not cfg.overwrite:
                raise BadInput(
                    f"--out {self.path} was made with other settings ({difference}); "
                    "choose another --out, or --overwrite to replace it"
                )
            self.is_new = bool(difference)
        else:
            if self.path.is_file() and not cfg.overwrite:
                raise BadInput(
                    f"--out {self.path} exists without {self.header.name}, which tells how it was "
                    "made; choose another --out, or --overwrite to replace it"
                )
            self.is_new = True
        self.complete = not self.is_new and self.path.is_file()

    def open(self, ranks):
        """Open this process's unfinished file -> {key: row} of the rows of earlier starts.

        ranks: processes.Ranks.
        """
        self.ranks = ranks
        processes.barrier(ranks)
        if ranks.leads:
            if self.is_new:
                self.path.unlink(missing_ok=True)
                rows = {}
            else:
                rows = self.read_parts()
            # Tidy up: one file, without a last line that was cut.
            write_rows(self.part, rows.values())
            for file in self.parts():
                if file != self.part:
                    file.unlink()
            runlog.save_config(self.cfg, self.header, identity=self.identity)
        processes.barrier(ranks)
        rows = self.read_parts()
        processes.barrier(ranks)
        self.file = None
        if ranks.writes:
            name = f"{self.part}.{ranks.index}" if ranks.index else self.part
            self.file = open(name, "a", encoding="utf-8", newline="\n")
        return rows

    def parts(self):
        """Return the unfinished files. A glob would read some letters of --out as patterns."""
        folder = self.part.parent
        if not folder.is_dir():
            return []
        name = re.compile(re.escape(self.part.name) + r"(\.\d+)?")
        return sorted(file for file in folder.iterdir() if name.fullmatch(file.name))

    def read_parts(self):
        """Return {key: row} of all unfinished files. The last line of each may have been cut."""
        rows = {}
        for part in self.parts():
            complete_lines = part.read_bytes().split(b"\n")[:-1]
            for number, line in enumerate(complete_lines, 1):
                row = parse_row(f"{part}:{number}", line, need=("id",))
                rows[key_of(row)] = row
        return rows

    def add(self, row):
        """Write a row at once, so that a kill does not lose it."""
        if self.file:
            self.file.write(line_of(row))
            self.file.flush()

    def close(self, order, **totals):
        """Write OUT, its rows in this order of keys, and the header with the totals -> the rows.

        Raises BadInput where a row is missing.
        """
        if self.file:
            self.file.close()
        processes.barrier(self.ranks)
        rows = self.read_parts()
        missing = [key for key in order if key not in rows]
        if missing:
            raise BadInput(
                f"{self.path}: {len(missing)} of {len(order)} rows are missing, the first of id "
                f"'{missing[0][0]}'; the same command makes them"
            )
        rows = [rows[key] for key in order]
        processes.barrier(self.ranks)
        if self.ranks.leads:
            write_rows(self.path, rows)
            for part in self.parts():
                part.unlink()
            runlog.save_config(self.cfg, self.header, identity=self.identity, **totals)
        return rows
