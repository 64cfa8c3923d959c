"""Read the prompts of a batch run, one row at a time.

    prompts.txt, .jsonl or .csv -> Row(number, line, fields) -> Request(row, options, seed)

A row that cannot be read becomes a Row with an error; the other rows are not affected.
"""

import difflib
import functools
import gzip
import itertools
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from checkpoints import files
from checkpoints.messages import abbreviated
from cli.command_flags import BATCH_FLAGS
from cli.flags import ROW_FLAGS, flag_name
from cli.options import MODEL_PRESET, Options, check_options
from runner.formats import FORMATS, Table, bounded_lines, csv_lines, csv_rows
from runner.source import PROMPT, Source

log = logging.getLogger("picogpt")

# ---- rows and their settings -----------------------------------------------------------------------------------

OTHER_NAMES = {"max_new_tokens": "n_tokens_to_generate", "max_tokens": "n_tokens_to_generate", "temp": "temperature"}
ROW_SETTINGS = (*ROW_FLAGS, *OTHER_NAMES)  # names of settings at the top level of a row
OPTIONS = "options"  # the field of a row whose value is an object of further settings
NOT_PER_ROW = ("model_size", "models_dir", "offline", "weights")  # they belong to the run
KNOWN_FIELDS = {PROMPT, OPTIONS, *ROW_SETTINGS, "model", "format", "error"}
CLOSE = 0.8  # similarity of two names
ANY_ROW = Source()
GZIP = ".gz"  # the end of the name of a compressed file
BOM = b"\xef\xbb\xbf"  # the mark at the beginning of some files in UTF-8
# Flags that do not change a text.
RUN_FLAGS = tuple(name for name, flag in BATCH_FLAGS.items() if flag.group in ("run", "process"))


@dataclass(frozen=True)
class Row:
    """A row of prompts. Either its prompt or its error is None."""

    number: int  # from 0
    line: int  # from 1
    fields: dict
    prompt: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Request:
    """A valid row, the options of its text, and the seed: the row's own, otherwise that of the run."""

    row: Row
    options: Options
    seed: int
    has_own_seed: bool

    @property
    def prompt(self) -> str:
        return self.row.prompt

    @property
    def index(self) -> int:
        """The number of the prompt in the seed sequence: 0 with a seed of its own, as in gpt2.py."""
        return 0 if self.has_own_seed else self.row.number


def make_request(row: Row, options: Options, seed: int) -> Request:
    """Return the request of a row. options, seed: those of the run. Raise ValueError if the row is invalid."""
    if row.error:
        raise ValueError(row.error)
    check_names(row.fields)
    shared = {name: options.values[name] for name in options.given if name not in RUN_FLAGS}
    own = own_settings(row)
    if own.get("preset") == MODEL_PRESET:
        raise ValueError(f"preset is {MODEL_PRESET}; this preset is an option of the run, not of a row")
    return Request(row, check_options(shared | own, BATCH_FLAGS), own.get("seed", seed), "seed" in own)


@functools.cache  # once, not for each row
def warn_about_close_name(name: str, setting: str) -> None:
    log.warning(
        f"Warning: rows have the field {abbreviated(repr(name))}, which is no setting and is copied to the output; did "
        f"you mean {setting}?"
    )


@functools.lru_cache(maxsize=1000)  # rows have the same names, and a comparison is slow
def nearest_setting(name: str) -> str | None:
    """Return the setting whose name resembles that of a field."""
    near = difflib.get_close_matches(name, ROW_SETTINGS, 1, CLOSE)
    return near[0] if near else None


def check_names(fields):
    """Warn about fields whose names resemble those of settings."""
    for name in fields:
        if name not in KNOWN_FIELDS and (near := nearest_setting(name[:100])):
            warn_about_close_name(name[:100], near)


def own_settings(row):
    """Return the options that a row sets itself: {name: value}, not yet checked. null stands for not given.

    Raise ValueError if two names of one setting are given.
    """
    top = {name: row.fields[name] for name in ROW_SETTINGS if name in row.fields}
    own = {}
    for name, value in [*top.items(), *further_settings(row).items()]:
        name = OTHER_NAMES.get(name, name)
        if value is not None and name in own:
            raise ValueError(f"the row gives {name} twice; remove one of the two")
        if value is not None:
            own[name] = value
    return own


def further_settings(row):
    """Return the settings in the object `options` of a row, by the names of flags. Any flag and alias is allowed there.

    A field of this name with another value is the user's own.
    """
    options = row.fields.get(OPTIONS)
    if not isinstance(options, dict):
        return {}
    found = {}
    for key, value in options.items():
        name = "num_samples" if key == "n" else flag_name(key, BATCH_FLAGS)  # n is that of OpenAI's API
        if name in (*RUN_FLAGS, *NOT_PER_ROW) or name not in BATCH_FLAGS:
            raise ValueError(f"options has the field {abbreviated(repr(key))}, which is no setting of a text")
        if name in found:
            raise ValueError(f"options gives {name} twice; remove one of the two")
        found[name] = value
    return found


SUFFIXES = {".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
SUFFIXES |= {".csv": "csv", ".tsv": "tsv"}
DELIMITERS = {"csv": ",", "tsv": "\t"}  # formats of tables
UNPACK = {".bz2": "bzip2 -dc", ".xz": "xz -dc", ".zst": "zstd -dc", ".zip": "unzip -p", ".lz4": "lz4 -dc"}
TABLES = (".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods")

# ---- the file of prompts ---------------------------------------------------------------------------------------


def find_format(path: str, asked: str | None) -> str | None:
    """Return the format that was asked for or follows from the name of the file. None, for a pipe: look at the text.

    Raise ValueError for another name, or if there is no such file.
    """
    place = Path(files.expand(path))
    exists = os.path.exists(place)
    if exists and (remedy := remedy_for(path)):
        raise ValueError(f"batch.py does not read '{abbreviated(path)}': {remedy}")
    name = Path(path.lower()).name.removesuffix(GZIP)
    found = asked or SUFFIXES.get(Path(name).suffix)
    if found is not None or path == "-":
        return found
    if not exists:
        raise ValueError(f"there is no file '{abbreviated(path)}'; batch.py reads a file of prompts{hint_of(path)}")
    if place.is_file():
        formats = " or ".join([*FORMATS, *DELIMITERS])
        raise ValueError(f"the name of '{abbreviated(path)}' does not tell its format: add --format {formats}")
    return None


def remedy_for(path: str) -> str | None:
    """Return how a file of a format that is not read becomes one that is, None for other endings."""
    suffix = Path(path).suffix.lower()
    if suffix in UNPACK:
        return f"unpack it first, as in {UNPACK[suffix]} {shlex.quote(abbreviated(path))} | python batch.py -"
    if suffix in TABLES:
        return "write its rows as .jsonl or .csv, with pandas: .to_json('rows.jsonl', orient='records', lines=True)"
    return None


def hint_of(path):
    """Return the end of a message if the name of a file looks like a prompt."""
    return ', and python gpt2.py "PROMPT" continues one' if " " in path else ""


def open_prompts(path: str) -> BinaryIO:
    """Return the open file of prompts; "-" is stdin. Raise ValueError if it cannot be read."""
    if path == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed: name a file of prompts, or pipe prompts into the command")
        return sys.stdin.buffer
    try:
        open_file = gzip.open if path.lower().endswith(GZIP) else open
        return open_file(files.expand(path), "rb")
    except OSError as error:
        raise ValueError(f"cannot read prompts from '{abbreviated(path)}': {error.strerror}") from error


def read_rows(file: BinaryIO, format: str | None, source: Source = ANY_ROW) -> Iterator[Row]:
    """Yield the selected rows of an open file, each as soon as it has been read. format: as from `find_format`."""
    if format in DELIMITERS:
        rows = csv_rows(csv_lines(file), source.fields, (*ROW_SETTINGS, OPTIONS), DELIMITERS[format])
    else:
        lines = bounded_lines(file)
        first = list(itertools.islice(lines, 1))
        format = format_of(first[0] or b"" if first else b"", format)
        rows = FORMATS[format](itertools.chain(first, lines))
    for number, (line, fields, error) in enumerate(itertools.islice(rows, source.limit)):
        if source.selects(number):
            yield make_row(number, line, fields, error, source)


def format_of(line, format):
    """Return the format of a text that begins with this line; a file named .json may also have an object per line."""
    beginning = line.removeprefix(BOM).lstrip()[:1]
    if format in (None, "json"):
        return {b"{": "jsonl", b"[": "json"}.get(beginning, format or "txt")
    return format


def make_row(number, line, fields, error, source):
    """Return a row with its prompt, or with the error that it has none."""
    try:
        return Row(number, line, fields, error=error) if error else Row(number, line, fields, source.prompt_of(fields))
    except ValueError as problem:
        return Row(number, line, fields, error=str(problem))


def count_rows(path: str, format: str, source: Source = ANY_ROW) -> int | None:
    """Return the number of selected rows, for a progress bar; None for a pipe, which can be read only once."""
    if path == "-" or not Path(files.expand(path)).is_file():
        return None
    with open_prompts(path) as file:
        if format in DELIMITERS:
            return source.count(count_table_rows(Table(csv_lines(file), DELIMITERS[format])))
        if format == "json":
            return None
        return source.count(sum(1 for line in bounded_lines(file) if line is None or line.strip()))


def count_table_rows(table):
    """Return the number of rows of a table without its first one, the names of the columns."""
    n_rows = -1
    while True:
        try:
            n_rows += bool(table.read_row())
        except StopIteration:
            return max(0, n_rows)
        except ValueError:
            n_rows += 1
