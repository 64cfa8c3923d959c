"""Read the prompts of a batch run, one row at a time.

    prompts.txt, .jsonl or .csv -> Row(number, line, fields) -> Request(row, options, seed)

A row that cannot be read becomes a Row with an error; the other rows are not affected.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from checkpoints import files
from checkpoints.messages import abbreviated
from cli.command_flags import BATCH_FLAGS
from cli.flags import ROW_FLAGS
from cli.options import MODEL_PRESET, Options, check_options
from runner.formats import FORMATS, Table, bounded_lines, csv_lines
from sampling import without_none

# ---- rows and their settings -----------------------------------------------------------------------------------

ROW_SETTINGS = (*ROW_FLAGS, "max_new_tokens")  # the latter is another name of n_tokens_to_generate
# Flags that do not change a text.
RUN_FLAGS = tuple(name for name, flag in BATCH_FLAGS.items() if flag.group in ("run", "process"))


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
    if own.get("preset") == MODEL_PRESET:
        raise ValueError(f"preset is {MODEL_PRESET}; this preset is an option of the run, not of a row")
    return Request(row, check_options(shared | own, BATCH_FLAGS), own.get("seed", seed))


def own_settings(row):
    """Return the options that a row sets itself: {name: value}, not yet checked."""
    own = without_none({name: row.fields[name] for name in ROW_SETTINGS if name in row.fields})
    if "max_new_tokens" in own:
        own["n_tokens_to_generate"] = own.pop("max_new_tokens")
    return own


SUFFIXES = {".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}

# ---- the file of prompts ---------------------------------------------------------------------------------------


def find_format(path: str, asked: str | None) -> str | None:
    """Return the format that was asked for or follows from the name of the file. None, for stdin: look at the text."""
    found = asked or SUFFIXES.get(Path(path).suffix.lower())
    if found is None and path != "-":
        raise ValueError(
            f"the name of '{abbreviated(path)}' does not tell its format: add --format {' or '.join(FORMATS)}"
        )
    return found


def open_prompts(path: str) -> BinaryIO:
    """Return the open file of prompts; "-" is stdin. Raise ValueError if it cannot be read."""
    if path == "-":
        if sys.stdin is None:
            raise ValueError("stdin is closed: name a file of prompts, or pipe prompts into the command")
        return sys.stdin.buffer
    try:
        return open(files.expand(path), "rb")
    except OSError as error:
        raise ValueError(f"cannot read prompts from '{abbreviated(path)}': {error.strerror}") from error


def read_rows(file: BinaryIO, format: str | None) -> Iterator[Row]:
    """Yield the rows of an open file, each as soon as it has been read. format: as `find_format` returns it."""
    if format == "csv":
        lines = csv_lines(file)
    else:
        lines = bounded_lines(file)
        first = list(itertools.islice(lines, 1))
        format = format or ("jsonl" if first and first[0] and first[0].lstrip().startswith(b"{") else "txt")
        lines = itertools.chain(first, lines)
    for number, (line, fields, error) in enumerate(FORMATS[format](lines)):
        yield Row(number, line, fields, error or prompt_error(fields))


def prompt_error(fields):
    """Return a message if the row has no valid prompt, otherwise None."""
    prompt = fields.get("prompt")
    if prompt is None:
        return 'the row has no prompt: add a field "prompt" with a text'
    return None if isinstance(prompt, str) else f"prompt is {abbreviated(repr(prompt))}; it must be a text"


def count_rows(path: str, format: str) -> int | None:
    """Return the number of rows, for a progress bar; None for a pipe, which can be read only once."""
    if path == "-" or not Path(files.expand(path)).is_file():
        return None
    with open_prompts(path) as file:
        if format == "csv":
            return count_table_rows(Table(csv_lines(file)))
        return sum(1 for line in bounded_lines(file) if line is None or line.strip())


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
