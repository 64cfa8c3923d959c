"""Read the rows of a batch run, one at a time: prompts.txt, .jsonl or .csv -> Row(number, line, fields)."""

import csv
import itertools
import json
import sys
from pathlib import Path

from checkpoints import files


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
            yield line, *parse_or_error(lambda text: {"prompt": decode(text).rstrip("\r\n")}, text)


def jsonl_rows(lines):
    """A JSON object a line."""
    for line, text in enumerate(lines, 1):
        if text.strip():
            yield line, *parse_or_error(json_object, text)


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
            yield line, *parse_or_error(lambda cells: cells_by_name(names, cells), cells)


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


def parse_or_error(read, source):
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
        return sys.stdin.buffer if path == "-" else open(files.expand(path), "rb")
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
    if path == "-" or not Path(files.expand(path)).is_file():
        return None
    with open_rows(path) as file:
        if kind == "csv":
            return max(0, sum(1 for cells in csv.reader(line.decode("utf-8", "replace") for line in file) if cells) - 1)
        return sum(1 for line in file if line.strip())
