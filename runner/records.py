"""The file of records of a batch run, which holds each row exactly once.

The records of a row are written in one call, so that a row is in the file as a whole or not at all. A run whose output
exists continues it: `Records` finds the finished rows and removes failed and incomplete ones.
"""

import contextlib
import errno
import functools
import io
import itertools
import os
import shlex
import stat
import sys
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from checkpoints import files
from checkpoints.messages import abbreviated
from cli import output
from runner.gzip_members import SUFFIX, Members, compress
from runner.record_format import is_blank, is_certain, is_finished, is_torn, parse, quoted
from runner.signals import delayed_signals

MAX_RECORDS = 2**28  # bytes of the records of a row, and of a line of the output
MAX_STRANGE = 100  # lines that are not records; after them, the rest of the file is not read
LONGEST_MEMBER = 2**20  # bytes of text in a member of a gzip file; a row in a longer one is found slowly
MAX_LISTED = 20  # numbers of such lines in a message
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ATTEMPTS = 20  # to open a file that other runs are replacing
CONTINUE = "run the same command again: it continues where this run stopped"


class Records:
    """The output of a run, and the rows in it that an earlier run has finished.

    path: a file; None or "-" is stdout. A pipe or a device is only written to. overwrite: remove all records first.
    Attributes: `path`, None for stdout; `n_finished`, the number of finished rows; `seed`, that of the earlier run, or
    None. Raises ValueError if the file cannot be opened, is locked by another run, or contains something else.
    """

    def __init__(self, path: str | Path | None, overwrite: bool = False):
        self.path = None if path in (None, "-") else Path(files.expand(path))
        self.is_gzip = self.path is not None and self.path.suffix == SUFFIX
        self.members = None  # of a gzip file
        self.file = None
        self.reader = None  # None unless the output is a regular file
        self.size = 0  # of the records in it
        self.offsets = Offsets()  # of the first record of each finished row
        self.n_finished = 0
        self.seed = None
        try:
            if self.path:
                self.open(overwrite)
            elif sys.stdout is None:
                raise ValueError("stdout is closed: name a file for the records by --output")
            else:
                output.escape_lone_surrogates()
        except OSError as error:
            self.close()
            raise ValueError(f"cannot write to {quoted(self.path)}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    # ---- open --------------------------------------------------------------------------------------------------

    def open(self, overwrite):
        """Open and lock the file, and remove all but the finished rows."""
        self.open_locked()
        if self.reader is None:
            return
        if overwrite:
            self.file.truncate(0)
        strange = []
        spans = join_adjacent(self.find_finished(strange))
        if strange:
            raise ValueError(self.refusal(strange))
        end = spans[0][1] if spans else 0
        place = self.place_of(end) if spans in ([], [(0, end)]) else None
        if place is None:
            self.rewrite(spans)
        else:
            self.file.truncate(place)
            self.size = place

    def open_locked(self):
        """Open the file. If it is regular, lock it and open it for reading too.

        Another run may replace the file between these steps; then the file that is there now is opened.
        """
        for _ in range(ATTEMPTS):
            self.file = open_for_writing(self.path)
            status = os.fstat(self.file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return
            if not files.try_lock(self.file):
                raise ValueError(
                    f"another run is writing to {quoted(self.path)}: wait for it, or name another --output"
                )
            self.reader = open_or_none(self.path)
            if self.reader and os.path.samestat(os.fstat(self.reader.fileno()), os.fstat(self.file.fileno())):
                files.check_replaceable(self.path, status)
                if self.is_gzip:
                    self.members = Members(self.reader)
                    self.reader = io.BufferedReader(self.members)
                return
            self.close()
        raise ValueError(f"other programs keep replacing {quoted(self.path)}: name another --output")

    def place_of(self, position):
        """Return where a position of the text is in the file; None if the file must be written again to end there."""
        if not self.is_gzip:
            return position
        return self.members.place_of(position) if self.members.longest <= LONGEST_MEMBER else None

    def find_finished(self, strange):
        """Yield (start, stop), in bytes, of each finished row, and note its position. strange: as in read_records."""
        for start, stop, record, n_records in by_row(self.read_records(strange)):
            if is_finished(record, n_records) and record["row"] not in self.offsets:
                self.note(record["row"], start, record)
                yield start, stop

    def read_records(self, strange):
        """Yield (start, stop, record) of each record.

        strange: an empty list, which receives the numbers of the lines that are neither records, nor blank, nor torn
        at the end of the file.
        """
        self.reader.seek(0)
        n_torn = 0  # of these, torn ones after the last record
        first = None  # the line of the first record
        places = []  # of the lines in `strange`
        is_ours = False
        for number, start, line in numbered_lines(self.reader):
            record = parse(line) if line.endswith(b"\n") else None
            if record:
                first = first or number
                is_ours = is_ours or is_certain(record)
                n_torn = 0
                yield start, start + len(line), record
            elif not is_blank(line) or (b"\0" in line and not is_ours):
                strange.append(number)
                places.append(start)
                n_torn += is_torn(line, is_first=not is_ours)
            if len(strange) > max(n_torn, MAX_STRANGE):
                break
        if first and not is_ours:
            strange.insert(0, first)
        if len(strange) == max(n_torn, self.n_behind_last_member(places)):
            strange.clear()

    def n_behind_last_member(self, places):
        """Return how many places are behind the last whole member of a gzip file, where the text may be garbage."""
        return sum(place >= self.members.texts[-1] for place in places) if self.members else 0

    def refusal(self, strange):
        """Return a message about the lines with these numbers, which are not records."""
        problem = f"line {strange[0]} of {quoted(self.path)} is not a record of a batch run"
        if not self.n_finished:
            return f"{problem}: name another --output, or add --overwrite"
        if len(strange) > MAX_LISTED:
            return f"{problem}, nor are {len(strange) - 1} other lines: name another --output"
        script = ";".join(f"{number}d" for number in strange)
        rows = f"{self.n_finished} finished row{'s' * (self.n_finished > 1)}"
        which = "this line" if len(strange) == 1 else f"the lines {', '.join(map(str, strange))}"
        return (
            f"{problem}, but the file has {rows}. To keep them, delete {which} "
            f"(sed -i '{script}' {shlex.quote(abbreviated(self.path, 300))}) and run the same command again; "
            "--overwrite would delete them"
        )

    def rewrite(self, spans):
        """Replace the file by these parts of it and open it again. What lies between are failed rows."""
        with files.new_file(self.path) as new:
            for start, stop in spans:
                self.reader.seek(start)
                while size := min(stop - self.reader.tell(), files.CHUNK):
                    new.write(self.packed(self.reader.read(size)))
        self.close()
        self.offsets = Offsets()
        self.n_finished = 0
        self.open(overwrite=False)

    def note(self, row, offset, record):
        """Note a finished row, and the seed of the run if it is not the row's own."""
        self.offsets[row] = offset
        self.n_finished += 1
        if self.seed is None and "seed" not in record["settings"]:
            self.seed = record["seed"]

    # ---- read and write ----------------------------------------------------------------------------------------

    def find(self, row: int) -> dict | None:
        """Return the first record of a row that an earlier run has finished, or None."""
        if row not in self.offsets:
            return None
        self.reader.seek(self.offsets[row])
        record = parse(self.reader.readline())
        if record is None:
            raise OSError(f"{quoted(self.path)} was changed by another program during this run: {CONTINUE}")
        return record

    def write(self, records: Iterable[dict]) -> None:
        """Write all records of a row. Raise OSError if that fails; no part of the row then remains in a file.

        A signal waits until the row has been written.
        """
        text = "".join(map(output.as_line, records))
        if len(text) > MAX_RECORDS:
            raise ValueError(
                f"the records of the row have {len(text)} characters, at most {MAX_RECORDS} can be written: "
                "reduce --logprobs, --num_samples or --n_tokens_to_generate"
            )
        with delayed_signals():
            if self.path is None:
                output.write(text)
            else:
                self.append(self.packed(text.encode("utf-8", "backslashreplace")))

    def packed(self, data):
        return compress(data) if self.is_gzip else data

    def append(self, data):
        """Write bytes to the file, all or none if it is regular."""
        self.check()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except BaseException as error:
            if self.reader:
                with contextlib.suppress(OSError):
                    self.file.truncate(self.size)
            if not isinstance(error, OSError):
                raise
            raise OSError(f"cannot write to {quoted(self.path)}: {error.strerror}{self.remedy(error)}") from error
        if self.reader and self.file.tell() != self.size + len(data):  # the file was changed after the check
            self.file.truncate(self.file.tell() - len(data))  # a record must not follow a torn one
            self.check()
        self.size += len(data)

    def remedy(self, error):
        """Return the end of a message about a failed write."""
        if error.errno in NO_SPACE:
            return f"; free some space and {CONTINUE}"
        return f"; {CONTINUE}" if self.reader else ""

    def check(self) -> None:
        """Raise OSError if another program has deleted, replaced or changed the file, so that rows are lost."""
        if not self.reader:
            return
        size = os.fstat(self.file.fileno()).st_size
        if not files.is_at(Path(os.path.realpath(self.path)), self.file):
            problem = "another program deleted or replaced it"
        elif size != self.size:
            problem = f"another program changed it: it has {size} bytes instead of {self.size}"
        else:
            return
        raise OSError(
            f"rows are missing from {quoted(self.path)}, because {problem} during this run; "
            "run the same command again to generate them"
        )

    def finish(self) -> None:
        """Force the records to the disk and check the file once more. Raise OSError if records are lost."""
        if not self.reader:
            return
        try:
            files.sync(self.file)
        except OSError as error:
            raise OSError(f"cannot write to {quoted(self.path)}: {error.strerror}{self.remedy(error)}") from error
        self.check()

    def close(self) -> None:
        for file in (self.file, self.reader):
            if file:
                file.close()
        self.file = None
        self.reader = None


class SortedRecords(Records):
    """The output of a run, whose records are put in the order of their rows. Those of failed rows are kept.

    Raises ValueError as Records does, and if the file is missing or is no regular file.
    """

    def open(self, overwrite):
        if not self.path.exists():
            raise ValueError(f"there is no file {quoted(self.path)}, whose records could be sorted")
        self.open_locked()
        if self.reader is None:
            raise ValueError(f"{quoted(self.path)} is no regular file: its records cannot be sorted")
        strange = []
        spans = [(record["row"], start, stop) for start, stop, record, _ in by_row(self.read_records(strange))]
        if strange:
            raise ValueError(self.refusal(strange))
        if spans != sorted(spans):
            self.rewrite([(start, stop) for _, start, stop in sorted(spans)])  # opens the file again


class Offsets:
    """A mapping {row: position in a file} that takes about 8 bytes a row if most rows of a range are in it.

    >>> offsets = Offsets()
    >>> offsets[700] = 12
    >>> offsets[700], 700 in offsets, 701 in offsets, 10**12 in offsets
    (12, True, False, False)
    """

    def __init__(self):
        self.blocks = {}

    def __setitem__(self, row: int, offset: int):
        block = self.blocks.get(row // 256)
        if block is None:
            block = self.blocks[row // 256] = array("q", [-1]) * 256
        block[row % 256] = offset

    def __getitem__(self, row: int) -> int:
        return self.blocks[row // 256][row % 256]

    def __contains__(self, row: int) -> bool:
        return row // 256 in self.blocks and self[row] >= 0


# ---- files -----------------------------------------------------------------------------------------------------


def open_for_writing(path: Path) -> BinaryIO:
    """Open a file without reading or changing it, and create it if it is missing. What is written goes to its end.

    A pipe, as which --output may be named, must not be opened for reading: the run would read its own records.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags, 0o666), "wb", buffering=0)


def open_or_none(path):
    """Open a file for reading; return None if it is missing."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def numbered_lines(file):
    """Yield (number, start, line) of each line. A line of more than MAX_RECORDS bytes arrives in several parts."""
    number = 1
    start = 0
    while line := file.readline(MAX_RECORDS):
        yield number, start, line
        number += line.endswith(b"\n")
        start += len(line)


def by_row(lines):
    """Yield (start, stop, first record, number of records) for adjacent lines (start, stop, record) of a row."""
    for _, group in itertools.groupby(lines, key=lambda line: line[2]["row"]):
        yield functools.reduce(with_line, group, None)


def with_line(row, line):
    """Return a row of `by_row` with one more line; row: None before its first line."""
    start, stop, record = line
    if row is None:
        return start, stop, record, 1
    start, _, record, n_records = row
    return start, stop, record, n_records + 1


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
