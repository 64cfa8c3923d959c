"""The formats of prompts: from the lines of a file to the fields of each row.

Lines, rows, numbers and nested lists are of limited size, so that any file can be read in little memory.
"""

import contextlib
import csv
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import IO, BinaryIO

from checkpoints import files
from checkpoints.messages import abbreviated
from cli.messages import describe

# ---- lines of limited length -----------------------------------------------------------------------------------

MAX_ROW = 16 * 2**20  # bytes
MAX_SKIPPED = 2**30  # bytes of a longer row, which are read and dropped; a row without an end is not skipped
TOO_LONG = f"the row is longer than {MAX_ROW >> 20} MB, the most that is read"


def bounded_lines(file: IO, ends: bytes | str | tuple = b"\n") -> Iterator[bytes | str | None]:
    """Yield the lines of a file, None in place of a line of more than MAX_ROW bytes.

    ends: what a line ends with. Raise OSError if the file cannot be read further.
    """
    number = 1
    place = "cannot read the prompts after line"
    try:
        while line := file.readline(MAX_ROW + 1):
            if len(line) <= MAX_ROW:
                yield line
            else:
                skip_line(file, line, ends, number)
                yield None
            number += 1
    except OSError as error:
        reason = error.strerror or "they are not in gzip's format"
        raise OSError(f"{place} {number - 1}: {reason}") from error
    except (EOFError, zlib.error) as error:
        raise OSError(
            f"cannot read the prompts after line {number - 1}: the gzip file is damaged or cut off"
        ) from error


def skip_line(file, line, ends, number):
    """Read the rest of a line. Raise ValueError if it has no end."""
    n_read = len(line)
    while line and not line.endswith(ends):
        if n_read > MAX_SKIPPED:
            raise ValueError(
                f"line {number} of the prompts has no end within {MAX_SKIPPED >> 30} GB: name a file with one prompt "
                f"per line, each of at most {MAX_ROW >> 20} MB"
            )
        line = file.readline(files.CHUNK)
        n_read += len(line)


def csv_lines(file: BinaryIO) -> Iterator[str | None]:
    """Yield the lines of a table as text with their ends, \\n, \\r\\n or \\r; None in place of one that is too long."""
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
    try:
        yield from bounded_lines(text, ends=("\n", "\r"))
    finally:
        with contextlib.suppress(ValueError):  # the file is closed already
            text.detach()


# ---- formats: lines -> (line number, fields, error or None) ----------------------------------------------------

MAX_ARRAY = 2**26  # bytes of a JSON array
MAX_DIGITS = 1000  # of a whole number in a row
MAX_DEPTH = 100  # of lists and objects inside each other
TOO_DEEP = f"the line is not JSON with at most {MAX_DEPTH} lists and objects inside each other"


def text_rows(lines):
    """Yield one prompt per line. Blank lines are skipped."""
    for line, data in enumerate(lines, 1):
        if data is None or data.strip():
            yield line, *parse_or_error(text_fields, data)


def text_fields(data):
    return {"prompt": decode(data).rstrip("\r\n")}


def jsonl_rows(lines):
    """Yield one JSON object per line. Blank lines are skipped."""
    for line, data in enumerate(lines, 1):
        if data is None or data.strip():
            yield line, *parse_or_error(json_fields, data)


def json_rows(lines):
    """Yield the objects of a JSON array, which is read as a whole; all have the line 1."""
    parts = []
    n_bytes = 0
    for line in lines:
        parts.append(line or b"")
        n_bytes += MAX_ARRAY + 1 if line is None else len(line)
        if n_bytes > MAX_ARRAY:
            rule = f"a JSON array of prompts may have at most {MAX_ARRAY >> 20} MB, and a line of it {MAX_ROW >> 20} MB"
            raise ValueError(f"{rule}; write one object per line")
    try:
        value = parse_json(decode(b"".join(parts)))
    except json.JSONDecodeError as error:
        raise ValueError(f"the prompts are not JSON (line {error.lineno}, column {error.colno})") from None
    if not isinstance(value, list):
        raise ValueError("the prompts are not a JSON array of objects")
    for fields in value:
        yield 1, *parse_or_error(as_object, fields)


def as_object(fields):
    if not isinstance(fields, dict):
        raise ValueError('the row is not a JSON object such as {"prompt": "Once upon a time"}')
    return fields


def json_fields(data):
    try:
        fields = parse_json(decode(data))
    except json.JSONDecodeError as error:
        raise ValueError(f"the line is not JSON (character {error.pos + 1})") from None
    if not isinstance(fields, dict):
        raise ValueError('the line is not a JSON object such as {"prompt": "Once upon a time"}')
    return fields


def parse_json(text):
    """Return the value of a JSON text. Raise ValueError if it cannot be copied to the output as JSON."""
    try:
        value = json.loads(text, parse_constant=reject_constant, parse_int=bounded_int, parse_float=bounded_float)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise ValueError(TOO_DEEP)
    return value


def reject_constant(name):
    raise ValueError(f"the line is not JSON ({name} is not a JSON number)")


def bounded_int(digits):
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the line has a number of {len(digits)} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def bounded_float(digits):
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the line has the number {abbreviated(digits)}, which is too large")
    return number


def is_deeper(value, depth):
    """Return whether more than `depth` lists and dicts are inside each other."""
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in items_of(outer)]
    return any(isinstance(inner, (dict, list)) for inner in level)


def items_of(value):
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def csv_rows(lines, required=("prompt",), settings=(), delimiter=","):
    """Yield the rows of a table. A cell may contain line breaks.

    required: names of columns that must be there. settings: those whose cells are read as JSON; others stay texts.
    """
    table = Table(lines, delimiter)
    names = column_names(table, required)
    while True:
        line = table.n_lines + 1
        try:
            cells = table.read_row()
        except StopIteration:
            return
        except ValueError as error:
            yield line, {}, str(error)
            continue
        if cells:
            yield line, *parse_or_error(partial(csv_fields, names, required, settings), cells)


class Table:
    """The rows of a table in CSV, each a list of cells. After a row that is too long, the next line is read.

    Attribute: `n_lines`, the number of lines that have been read.
    """

    def __init__(self, lines: Iterator[str | None], delimiter: str = ","):
        csv.field_size_limit(MAX_ROW)
        self.lines = lines
        self.reader = csv.reader(self, delimiter=delimiter)
        self.n_lines = 0
        self.n_characters = 0  # of the row

    def read_row(self) -> list[str]:
        """Return the cells of the next row. Raise ValueError if it is no row, StopIteration at the end."""
        self.n_characters = 0
        try:
            return next(self.reader)
        except csv.Error:
            raise ValueError("the row is not CSV: check its quotes") from None

    def __iter__(self):
        return self

    def __next__(self):
        line = next(self.lines)
        self.n_lines += 1
        self.n_characters += MAX_ROW if line is None else len(line)
        if line is None or self.n_characters > MAX_ROW:
            raise ValueError(TOO_LONG)
        return line


def column_names(table, required):
    """Return the cells of the first line. Raise ValueError if a required name is not among them."""
    try:
        names = table.read_row()
    except StopIteration:
        names = []
    if names:
        names[0] = names[0].removeprefix("\ufeff")
    for name in required:
        if name not in names:
            found = abbreviated(", ".join(names)) or "none"
            raise ValueError(f"there is no column {abbreviated(name)}; the columns in the first line are: {found}")
    repeated = next((name for name, n in Counter(names).items() if n > 1), None)
    if repeated is not None:
        raise ValueError(f"the column {abbreviated(repeated)!r} is there twice: rename one of the two")
    return names


def csv_fields(names, required, settings, cells):
    """Return {name: value}. An empty cell is a field that is not given, except for a required one."""
    if len(cells) != len(names):
        raise ValueError(f"the row has {len(cells)} cells, but the table has {len(names)} columns")
    decode("".join(cells).encode("utf-8", "surrogateescape"))  # raises ValueError if the bytes were not UTF-8
    fields = {}
    for name, cell in zip(names, cells, strict=True):
        if cell or name in required:
            fields[name] = json_value(cell) if name in settings and name not in required else cell
    return fields


def json_value(cell):
    """Return the value of a cell that is JSON, such as a number or a list, and the text of any other cell."""
    try:
        return parse_json(cell)
    except ValueError:
        return cell


def parse_or_error(parse, source):
    """Return (parse(source), None), or ({}, a message) if that fails. source: None for a row that is too long."""
    if source is None:
        return {}, TOO_LONG
    try:
        return parse(source), None
    except Exception as error:
        return {}, describe(error)


def decode(data):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the row is not UTF-8 text (byte {error.start})") from None


FORMATS = {"txt": text_rows, "jsonl": jsonl_rows, "json": json_rows}  # tables are read by csv_rows
