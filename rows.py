"""The two files of a batch run: prompts come in, a row at a time, and finished rows go out, each of them once.

    prompts.txt, .jsonl or .csv -> Row(number, line, fields)    one in memory at a time, bad ones with their error
    a row's records -> out.jsonl                                in one write, so a row is there whole or not at all

What the output holds already, a run that was stopped has finished: `Records` finds it, and cuts off what is torn.
"""

import csv
import itertools
import json
import os
import stat
import sys
from array import array
from pathlib import Path

import utils
import writer

# ---- prompts in ------------------------------------------------------------------------------------------------


class Row:
    """A row of prompts. Attributes: `number`, from 0; `line`, from 1; `fields`, {name: value}; `error`, or None."""

    def __init__(self, number, line, fields, error=None):
        self.number, self.line, self.fields = number, line, fields
        self.error = error or self.check()

    def check(self):
        prompt = self.fields.get("prompt")
        if prompt is None:
            return "it has no prompt"
        return None if isinstance(prompt, str) else f"its prompt is {prompt!r}; it must be a text"


def text_rows(lines):
    """A prompt a line; lines without any are passed over."""
    for line, text in enumerate(lines, 1):
        if text.strip():
            yield line, *attempt(lambda text: {"prompt": decode(text).rstrip("\r\n")}, text)


def jsonl_rows(lines):
    """A JSON object a line."""
    for line, text in enumerate(lines, 1):
        if text.strip():
            yield line, *attempt(json_object, text)


def json_object(text):
    try:
        fields = json.loads(decode(text), parse_constant=no_number)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError('it is not a JSON object such as {"prompt": "Once upon a time"}')
    return fields


def no_number(name):
    raise ValueError(f"it is not JSON ({name} is none of its numbers)")


def csv_rows(lines):
    """A table with a column `prompt`; a cell may have several lines. An empty cell is a field that is not there."""
    csv.field_size_limit(2**31 - 1)
    table = csv.reader(line.decode("utf-8", "surrogateescape") for line in lines)
    names = next(table, [])
    if names:
        names[0] = names[0].removeprefix("\ufeff")
    if "prompt" not in names:
        raise ValueError(f"there is no column prompt; the first line names the columns: {', '.join(names) or 'none'}")
    while True:
        try:
            line, cells = table.line_num + 1, next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, {}, f"it is not CSV ({error})"
            continue
        if cells:
            yield line, *attempt(lambda cells: cells_by_name(names, cells), cells)


def cells_by_name(names, cells):
    if len(cells) != len(names):
        raise ValueError(f"it has {len(cells)} cells, but there are {len(names)} columns")
    decode("".join(cells).encode("utf-8", "surrogateescape"))
    fields = zip(names, cells, strict=True)
    return {name: json_value(cell) if name != "prompt" else cell for name, cell in fields if cell or name == "prompt"}


def json_value(cell):
    """A number, a list and the like as JSON has them; else the text as it is."""
    try:
        return json.loads(cell, parse_constant=no_number)
    except (ValueError, RecursionError):
        return cell


def attempt(read, source):
    """What a row holds, and None; or nothing, and what is wrong with it."""
    try:
        return read(source), None
    except ValueError as error:
        return {}, str(error)


def decode(line):
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start} of it)") from None


FORMATS = {"txt": text_rows, "jsonl": jsonl_rows, "csv": csv_rows}
ENDINGS = {".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def find_format(path, asked):
    """txt, jsonl or csv, as asked for or as a file's name says; None for stdin, which may be looked at."""
    found = asked or ENDINGS.get(Path(path).suffix.lower())
    if found is None and path != "-":
        raise ValueError(f"the name of {path!r} does not say what is in it: add --format {' or '.join(FORMATS)}")
    return found


def open_rows(path):
    try:
        return sys.stdin.buffer if path == "-" else open(utils.expand(path), "rb")
    except OSError as error:
        raise ValueError(f"cannot read prompts from {path!r}: {error.strerror}") from error


def read_rows(file, kind):
    """Yield the rows of an open binary file. kind: as `find_format` gives it."""
    first = file.readline()
    kind = kind or ("jsonl" if first.lstrip().startswith(b"{") else "txt")
    lines = itertools.chain([first] if first else [], file)
    for number, (line, fields, error) in enumerate(FORMATS[kind](lines)):
        yield Row(number, line, fields, error)


def count_rows(path, kind):
    """How many rows there are, for a progress bar; None where looking would use them up."""
    if path == "-" or not Path(utils.expand(path)).is_file():
        return None
    with open_rows(path) as file:
        if kind == "csv":
            return max(0, sum(1 for cells in csv.reader(line.decode("utf-8", "replace") for line in file) if cells) - 1)
        return sum(1 for line in file if line.strip())


# ---- records out -----------------------------------------------------------------------------------------------


class Records:
    """The output of a run, and the rows in it that an earlier run has finished.

    path: a file; or None, "-", a pipe or a device, which are only written to. overwrite: whether to begin anew.
    Attributes: `n_finished`, how many rows are there; `seed`, that of the earlier run, or None.
    ValueError: it cannot be had, another run has it, or it holds what is no record of ours.
    """

    def __init__(self, path, overwrite=False):
        self.path = None if path in (None, "-") else Path(utils.expand(path))
        self.file = self.reader = None
        self.offsets, self.n_finished, self.seed = array("q"), 0, None  # offsets[row]: of its first record, or -1
        try:
            if self.path:
                self.open(overwrite)
            else:
                writer.escape_half_pairs()
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
        if not utils.try_lock(self.file):
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
        with utils.new_file(self.path) as new:
            for start, stop in spans:
                self.reader.seek(start)
                while size := min(stop - self.reader.tell(), utils.CHUNK):
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
        text = "".join(map(writer.as_line, records))
        if self.path is None:
            writer.put(text)
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
