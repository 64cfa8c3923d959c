"""Read the prompts of a batch run, one row at a time.

    prompts.txt, .jsonl or .csv -> Row(number, line, fields) -> Request(row, options, seed)

A row that cannot be read becomes a Row with an error; the other rows are not affected.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from checkpoints import files
from cli.flags import BATCH_FLAGS, ROW_FLAGS
from cli.options import Options, check_options
from sampling import without_none

# ---- rows and their settings -----------------------------------------------------------------------------------

ROW_SETTINGS = (*ROW_FLAGS, "max_new_tokens")  # the latter is another name of n_tokens_to_generate
RUN_FLAGS = tuple(name for name, flag in BATCH_FLAGS.items() if flag.group == "run")  # they do not change a text


@dataclass(frozen=True)
class Row:
    """A row of prompts: `number`, from 0; `line`, from 1; `fields`, {name: value}; `error`, a message or None."""

    number: int
    line: int
    fields: dict
    error: str | None = None


@dataclass(frozen=True)
class Request:
    """A valid row, the options of its text, and the seed: the row's own, otherwise that of the run."""

    row: Row
    options: Options
    seed: int

    @property
    def prompt(self) -> str:
        return self.row.fields["prompt"]

    @property
    def has_own_seed(self) -> bool:
        return self.row.fields.get("seed") is not None

    @property
    def index(self) -> int:
        """The number of the prompt in the seed sequence: 0 with a seed of its own, as in gpt2.py."""
        return 0 if self.has_own_seed else self.row.number


def make_request(row: Row, options: Options, seed: int) -> Request:
    """Return the request of a row. options, seed: those of the run. Raise ValueError if the row is invalid."""
    if row.error:
        raise ValueError(row.error)
    shared = {name: options.values[name] for name in options.given if name not in RUN_FLAGS}
    own = own_settings(row)
    return Request(row, check_options(shared | own, BATCH_FLAGS), own.get("seed", seed))


def own_settings(row):
    """Return the options that a row sets itself: {name: value}, not yet checked."""
    own = without_none({name: row.fields[name] for name in ROW_SETTINGS if name in row.fields})
    if "max_new_tokens" in own:
        own["n_tokens_to_generate"] = own.pop("max_new_tokens")
    return own


# ---- formats: lines of bytes -> (line number, fields, error or None) -------------------------------------------


def text_rows(lines):
    """Yield one prompt per line. Blank lines are skipped."""
    for line, data in enumerate(lines, 1):
        if data.strip():
            yield line, *parse_or_error(text_fields, data)


def text_fields(data):
    return {"prompt": decode(data).rstrip("\r\n")}


def jsonl_rows(lines):
    """Yield one JSON object per line. Blank lines are skipped."""
    for line, data in enumerate(lines, 1):
        if data.strip():
            yield line, *parse_or_error(json_fields, data)


def json_fields(data):
    try:
        fields = json.loads(decode(data), parse_constant=reject_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the line is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError('the line is not a JSON object such as {"prompt": "Once upon a time"}')
    return fields


def reject_constant(name):
    raise ValueError(f"the line is not JSON ({name} is not a JSON number)")


def csv_rows(lines):
    """Yield the rows of a table with a column `prompt`. A cell may contain line breaks."""
    csv.field_size_limit(2**31 - 1)
    table = csv.reader(line.decode("utf-8", "surrogateescape") for line in lines)
    names = column_names(table)
    while True:
        line = table.line_num + 1
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, {}, f"the row is not CSV ({error})"
            continue
        if cells:
            yield line, *parse_or_error(partial(csv_fields, names), cells)


def column_names(table):
    """Return the cells of the first line. Raise ValueError if none of them is `prompt`."""
    names = next(table, [])
    if names:
        names[0] = names[0].removeprefix("\ufeff")
    if "prompt" not in names:
        found = ", ".join(names) or "none"
        raise ValueError(f"there is no column prompt; the columns in the first line are: {found}")
    return names


def csv_fields(names, cells):
    """Return {name: value}. An empty cell is a field that is not given, except for the prompt."""
    if len(cells) != len(names):
        raise ValueError(f"the row has {len(cells)} cells, but the table has {len(names)} columns")
    decode("".join(cells).encode("utf-8", "surrogateescape"))  # raises ValueError if the bytes were not UTF-8
    fields = {}
    for name, cell in zip(names, cells, strict=True):
        if name == "prompt":
            fields[name] = cell
        elif cell:
            fields[name] = json_value(cell)
    return fields


def json_value(cell):
    """Return the value of a cell that is JSON, such as a number or a list, and the text of any other cell."""
    try:
        return json.loads(cell, parse_constant=reject_constant)
    except (ValueError, RecursionError):
        return cell


def parse_or_error(parse, source):
    """Return (parse(source), None), or ({}, the message of its ValueError)."""
    try:
        return parse(source), None
    except ValueError as error:
        return {}, str(error)


def decode(data):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the row is not UTF-8 text (byte {error.start})") from None


FORMATS = {"txt": text_rows, "jsonl": jsonl_rows, "csv": csv_rows}
SUFFIXES = {".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}

# ---- the file of prompts ---------------------------------------------------------------------------------------


def find_format(path: str, asked: str | None) -> str | None:
    """Return the format that was asked for or follows from the name of the file. None, for stdin: look at the text."""
    found = asked or SUFFIXES.get(Path(path).suffix.lower())
    if found is None and path != "-":
        raise ValueError(f"the name of {path!r} does not tell its format: add --format {' or '.join(FORMATS)}")
    return found


def open_prompts(path: str) -> BinaryIO:
    """Return the open file of prompts; "-" is stdin. Raise ValueError if it cannot be read."""
    try:
        return sys.stdin.buffer if path == "-" else open(files.expand(path), "rb")
    except OSError as error:
        raise ValueError(f"cannot read prompts from {path!r}: {error.strerror}") from error


def read_rows(file: Iterable[bytes], format: str | None) -> Iterator[Row]:
    """Yield the rows of an open file, each as soon as it has been read. format: as `find_format` returns it."""
    lines = iter(file)
    first = next(lines, b"")
    format = format or ("jsonl" if first.lstrip().startswith(b"{") else "txt")
    lines = itertools.chain([first] if first else [], lines)
    for number, (line, fields, error) in enumerate(FORMATS[format](lines)):
        yield Row(number, line, fields, error or prompt_error(fields))


def prompt_error(fields):
    """Return a message if the row has no valid prompt, otherwise None."""
    prompt = fields.get("prompt")
    if prompt is None:
        return 'the row has no prompt: add a field "prompt" with a text'
    return None if isinstance(prompt, str) else f"prompt is {prompt!r}; it must be a text"


def count_rows(path: str, format: str) -> int | None:
    """Return the number of rows, for a progress bar; None for a pipe, which can be read only once."""
    if path == "-" or not Path(files.expand(path)).is_file():
        return None
    with open_prompts(path) as file:
        if format == "csv":
            table = csv.reader(line.decode("utf-8", "replace") for line in file)
            return max(0, sum(1 for cells in table if cells) - 1)
        return sum(1 for line in file if line.strip())
