"""Write the records of a batch run, each row exactly once, and find the rows that an earlier run has finished.

A row's records are written in one call, so a row is in the file as a whole or not at all.
"""

import itertools
import json
import os
import stat
import sys
from array import array
from pathlib import Path

from checkpoints import files
from cli import output


class Records:
    """The output of a run, and the rows in it that an earlier run has finished.

    path: a file; or None, "-", a pipe or a device, which are only written to. overwrite: whether to begin anew.
    Attributes: `n_finished`, how many rows are there; `seed`, that of the earlier run, or None.
    ValueError: it cannot be had, another run has it, or it holds what is no record of ours.
    """

    def __init__(self, path, overwrite=False):
        self.path = None if path in (None, "-") else Path(files.expand(path))
        self.file = self.reader = None
        self.offsets, self.n_finished, self.seed = array("q"), 0, None  # offsets[row]: of its first record, or -1
        try:
            if self.path:
                self.open(overwrite)
            else:
                output.escape_half_pairs()
        except OSError as error:
            raise ValueError(f"cannot write to {str(self.path)!r}: {error.strerror}") from error
        finally:
            if sys.exc_info()[0]:
                self.close()

    def open(self, overwrite):
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self.file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115, close() does it
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        if not files.try_lock(self.file):
            raise ValueError(f"another run is writing to {str(self.path)!r}: wait for it, or name another --output")
        self.reader = open(self.path, "rb")  # noqa: SIM115
        if overwrite:
            self.file.truncate(0)
        spans = list(self.finished())
        if len(spans) <= 1 and all(start == 0 for start, _ in spans):
            self.file.truncate(spans[0][1] if spans else 0)  # at the end there may be a torn row
            self.file.seek(0, os.SEEK_END)
        else:
            self.leave_only(spans)

    def finished(self):
        """Yield (start, stop), in bytes, of every run of finished rows, and note where each of them is."""
        start = stop = 0
        for row, group in itertools.groupby(self.lines(), key=lambda line: line[2]["row"]):
            group = list(group)
            (first, _, record), (_, last, _) = group[0], group[-1]
            if "error" in record or len(group) < record["settings"].get("num_samples", 1) or self.has(row):
                continue
            self.note(row, first, record)
            if first != stop:
                if start != stop:
                    yield start, stop
                start = first
            stop = last
        if start != stop:
            yield start, stop

    def lines(self):
        """Yield (start, stop, record) of every line but a torn one at the end."""
        self.reader.seek(0)
        start, size = 0, os.fstat(self.reader.fileno()).st_size
        for number, line in enumerate(self.reader, 1):
            stop, record = start + len(line), parse(line)
            if record and line.endswith(b"\n"):
                yield start, stop, record
            elif stop < size or not (record or is_torn(line)):
                raise ValueError(
                    f"line {number} of {str(self.path)!r} is no record of a batch run: "
                    "name another --output, or add --overwrite"
                )
            start = stop

    def leave_only(self, spans):
        """Rewrite the file without what lies between: rows with an error, which are tried again."""
        with files.new_file(self.path) as new:
            for start, stop in spans:
                self.reader.seek(start)
                while size := min(stop - self.reader.tell(), files.CHUNK):
                    new.write(self.reader.read(size))
        self.close()
        self.offsets, self.n_finished = array("q"), 0
        self.open(overwrite=False)

    def note(self, row, offset, record):
        self.offsets.extend([-1] * (row + 1 - len(self.offsets)))
        self.offsets[row] = offset
        self.n_finished += 1
        if self.seed is None and "seed" not in record["settings"]:  # there it is the row's own
            self.seed = record["seed"]

    def has(self, row):
        return row < len(self.offsets) and self.offsets[row] >= 0

    def find(self, row):
        """The first record of a row that an earlier run has finished, or None."""
        if not self.has(row):
            return None
        self.reader.seek(self.offsets[row])
        return json.loads(self.reader.readline())

    def write(self, records):
        """Write all records of a row. OSError: there is no room; then nothing of the row is left in a file."""
        text = "".join(map(output.as_line, records))
        if self.path is None:
            output.put(text)
            return
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        end = self.file.tell() if self.reader else 0
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            if self.reader:
                self.file.truncate(end)
            raise OSError(
                f"cannot write to {str(self.path)!r}: {error.strerror}; make room and run the same command again, "
                "which goes on where this one stopped"
            ) from error

    def close(self):
        for file in (self.file, self.reader):
            if file:
                file.close()


def is_torn(line):
    """Whether this is how one of our records begins, and not a line of somebody else."""
    beginning = b'{"row": '
    return line.startswith(beginning) or beginning.startswith(line)


def parse(line):
    """The record in a line, or None if there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("row"), int) or record["row"] < 0:
        return None
    is_text = isinstance(record.get("settings"), dict) and {"prompt", "model", "seed"} <= record.keys()
    return record if is_text or "error" in record else None
