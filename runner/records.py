"""The records of a batch run: what is in them, and the file that holds each row exactly once.

The records of a row are written in one call, so that a row is in the file as a whole or not at all. A run whose output
exists continues it: `Records` finds the finished rows and removes failed and incomplete ones.
"""

import itertools
import json
import os
import stat
from array import array
from collections.abc import Iterable
from pathlib import Path

from checkpoints import files
from cli import output
from engine.completion import Completion
from runner.prompts import ROW_SETTINGS, Request, Row
from utils import Model

# ---- the contents of a record ----------------------------------------------------------------------------------

RECORD_FIELDS = (  # a field of a row with one of these names is copied as input_<name>
    "row",
    "line",
    "index",
    "prompt",
    "text",
    "finish_reason",
    "seed",
    "model",
    "settings",
    "usage",
    "timings",
    "logprobs",
    "error",
)


def make_record(
    request: Request, index: int, completion: Completion, n_prompt: int, model: Model, clock: output.Clock
) -> dict:
    """Return the record of a completion: that of gpt2.py --json, the number of the row and its other fields."""
    beginning = request.prompt if request.options.echo else ""
    record = output.make_record(
        index,
        completion,
        beginning + completion.text.take(),
        prompt=request.prompt,
        n_prompt=n_prompt,
        seed=request.seed,
        model=model,
        options=request.options,
        clock=clock,
    )
    return {"row": request.row.number, **other_fields(request.row), **record, "settings": settings(request)}


def make_error_record(row: Row, error: Exception | str) -> dict:
    """Return the record of a row that failed."""
    prompt = {"prompt": row.fields["prompt"]} if "prompt" in row.fields else {}
    return {"row": row.number, "line": row.line, **other_fields(row), **prompt, "error": str(error)}


def other_fields(row):
    """Return the fields of a row that are neither its prompt nor a setting."""
    others = {name: value for name, value in row.fields.items() if name != "prompt" and name not in ROW_SETTINGS}
    return {f"input_{name}" if name in RECORD_FIELDS else name: value for name, value in others.items()}


def settings(request):
    """Return the settings of gpt2.py --json, and the seed if it is the row's own."""
    own_seed = {"seed": request.seed} if request.has_own_seed else {}
    return output.settings(request.options) | own_seed


def check_unchanged(request: Request, record: dict, model_name: str, path: Path) -> None:
    """Raise ValueError if a row that an earlier run finished would now be generated in another way."""
    now = {"prompt": request.prompt, "model": model_name, "seed": request.seed, **settings(request)}
    now = json.loads(json.dumps(now))  # tuples become lists, as in the file
    then = {name: record[name] for name in ("prompt", "model", "seed")} | record["settings"]
    for name in then | now:
        if then.get(name) != now.get(name):
            raise ValueError(
                f"row {request.row.number} of {str(path)!r} was made with {name} {abbreviated(then.get(name))}, now it "
                f"is {abbreviated(now.get(name))}: use the same prompts and options, name another --output, or start "
                "again with --overwrite"
            )


def abbreviated(value):
    """Return a value as JSON of at most 60 characters, for a message."""
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "..."


# ---- the file of records ---------------------------------------------------------------------------------------


class Records:
    """The output of a run, and the rows in it that an earlier run has finished.

    path: a file; None or "-" is stdout. A pipe or a device is only written to. overwrite: remove all records first.
    Attributes: `path`, None for stdout; `n_finished`, the number of finished rows; `seed`, that of the earlier run, or
    None. Raises ValueError if the file cannot be opened, is locked by another run, or contains something else.
    """

    def __init__(self, path: str | Path | None, overwrite: bool = False):
        self.path = None if path in (None, "-") else Path(files.expand(path))
        self.file = None
        self.reader = None
        self.offsets = array("q")  # offsets[row]: the position of the first record of a finished row, otherwise -1
        self.n_finished = 0
        self.seed = None
        try:
            if self.path:
                self.open(overwrite)
            else:
                output.escape_lone_surrogates()
        except OSError as error:
            self.close()
            raise ValueError(f"cannot write to {str(self.path)!r}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def open(self, overwrite):
        """Open and lock the file, and remove all but the finished rows."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self.file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115, close() does it
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        if not files.try_lock(self.file):
            raise ValueError(f"another run is writing to {str(self.path)!r}: wait for it, or name another --output")
        self.reader = open(self.path, "rb")  # noqa: SIM115
        if overwrite:
            self.file.truncate(0)
        spans = join_adjacent(self.find_finished())
        end = spans[0][1] if spans else 0
        if spans in ([], [(0, end)]):
            self.file.truncate(end)
            self.file.seek(0, os.SEEK_END)
        else:
            self.rewrite(spans)

    def find_finished(self):
        """Yield (start, stop), in bytes, of each finished row, and note its position."""
        for row, lines in itertools.groupby(self.read_lines(), key=lambda line: line[2]["row"]):
            lines = list(lines)
            start, _, record = lines[0]
            _, stop, _ = lines[-1]
            if is_finished(record, len(lines)) and not self.has(row):
                self.note(row, start, record)
                yield start, stop

    def read_lines(self):
        """Yield (start, stop, record) of each line. An incomplete line at the end is left out."""
        self.reader.seek(0)
        size = os.fstat(self.reader.fileno()).st_size
        start = 0
        for number, line in enumerate(self.reader, 1):
            stop = start + len(line)
            record = parse(line)
            if record and line.endswith(b"\n"):
                yield start, stop, record
            elif stop < size or not (record or is_incomplete(line)):
                raise ValueError(
                    f"line {number} of {str(self.path)!r} is not a record of a batch run: "
                    "name another --output, or add --overwrite"
                )
            start = stop

    def rewrite(self, spans):
        """Replace the file by these parts of it and open it again. What lies between are failed rows."""
        with files.new_file(self.path) as new:
            for start, stop in spans:
                self.reader.seek(start)
                while size := min(stop - self.reader.tell(), files.CHUNK):
                    new.write(self.reader.read(size))
        self.close()
        self.offsets = array("q")
        self.n_finished = 0
        self.open(overwrite=False)

    def note(self, row, offset, record):
        """Note a finished row, and the seed of the run if it is not the row's own."""
        self.offsets.extend([-1] * (row + 1 - len(self.offsets)))
        self.offsets[row] = offset
        self.n_finished += 1
        if self.seed is None and "seed" not in record["settings"]:
            self.seed = record["seed"]

    def has(self, row):
        return row < len(self.offsets) and self.offsets[row] >= 0

    def find(self, row: int) -> dict | None:
        """Return the first record of a row that an earlier run has finished, or None."""
        if not self.has(row):
            return None
        self.reader.seek(self.offsets[row])
        return json.loads(self.reader.readline())

    def write(self, records: Iterable[dict]) -> None:
        """Write all records of a row. Raise OSError if that fails; no part of the row then remains in a file."""
        text = "".join(map(output.as_line, records))
        if self.path is None:
            output.write(text)
            return
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        end = self.file.tell() if self.reader else 0
        try:
            while data:
                n_written = self.file.write(data)
                data = data[n_written:]
        except OSError as error:
            if self.reader:
                self.file.truncate(end)
            raise OSError(
                f"cannot write to {str(self.path)!r}: {error.strerror}; free some space and run the same command "
                "again: it continues where this run stopped"
            ) from error

    def close(self) -> None:
        for file in (self.file, self.reader):
            if file:
                file.close()


def join_adjacent(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans, each joined with those that begin where it ends.

    >>> join_adjacent([(0, 5), (5, 9), (12, 15)])
    [(0, 9), (12, 15)]
    """
    joined = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            start, _ = joined.pop()
        joined.append((start, stop))
    return joined


def is_finished(record, n_records):
    """Return whether a row with this first record has no error and all of its samples."""
    return "error" not in record and n_records >= record["settings"].get("num_samples", 1)


def is_incomplete(line):
    """Return whether a line without an end may be the beginning of a record."""
    beginning = b'{"row": '
    return line.startswith(beginning) or beginning.startswith(line)


def parse(line):
    """Return the record in a line, or None if the line is something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("row"), int) or record["row"] < 0:
        return None
    is_text = isinstance(record.get("settings"), dict) and {"prompt", "model", "seed"} <= record.keys()
    return record if is_text or "error" in record else None
