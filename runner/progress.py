"""The progress of a batch run on a terminal: rows, tokens per second, and the remaining time, weighted by tokens.

A row counts as many tokens as it may generate: a row of 1,000 tokens takes longer than one of 10.
"""

from pathlib import Path
from typing import NamedTuple

from checkpoints import files
from cli.options import Options
from runner.prompts import Request, Row, count_rows, open_prompts, own_settings, read_rows
from runner.source import Source

LARGEST_READ = 2**26  # bytes of a file of prompts whose rows are read for their settings; of others, rows are counted


class Work(NamedTuple):
    """The rows of a run, and how many tokens they may generate together."""

    n_rows: int
    n_tokens: int


def measure(path: str, format: str | None, source: Source, options: Options) -> Work | None:
    """Return the work in a file of prompts; None for a pipe, which can be read only once."""
    place = Path(files.expand(path))
    if path == "-" or not place.is_file():
        return None
    usual = tokens_of(options.n_tokens_to_generate, options.num_samples)
    if place.stat().st_size > LARGEST_READ:
        n_rows = count_rows(path, format, source)
        return None if n_rows is None else Work(n_rows, n_rows * usual)
    with open_prompts(path) as file:
        sizes = [row_tokens(row, options) for row in read_rows(file, format, source)]
    return Work(len(sizes), sum(sizes))


def row_tokens(row: Row, options: Options) -> int:
    """Return how many tokens a row may generate, by its own settings or those of the run."""
    try:
        own = own_settings(row)
    except ValueError:  # it will fail
        own = {}
    numbers = [own.get(name, options.values[name]) for name in ("n_tokens_to_generate", "num_samples")]
    are_numbers = all(type(number) is int and number >= 0 for number in numbers)
    return tokens_of(*(numbers if are_numbers else (options.n_tokens_to_generate, options.num_samples)))


def tokens_of(n_tokens: int, num_samples: int) -> int:
    return max(1, n_tokens * num_samples)


class Progress:
    """A progress bar. work: None if it is unknown. usual: the tokens of a row without settings of its own."""

    def __init__(self, work: Work | None, usual: int, is_shown: bool):
        from tqdm import tqdm

        self.work = work
        self.usual = usual
        self.n_rows = 0
        times = "[{elapsed}<{remaining}{postfix}]" if work else "[{elapsed}{postfix}]"
        self.bar = tqdm(
            total=work.n_tokens if work else None,
            bar_format=("{desc} {percentage:3.0f}%|{bar}| " if work else "{desc} ") + times,
            smoothing=0,  # rows end in any order
            disable=not is_shown,
        )

    def close(self) -> None:
        self.bar.close()

    def clear(self) -> None:
        """Remove the bar from the terminal for a message."""
        self.bar.clear()

    def skip(self, request: Request) -> None:
        """Note a row that an earlier run has finished. The speed does not count it."""
        if not self.bar.disable:
            tokens = self.tokens_of(request)
            self.bar.initial += tokens
            self.bar.n += tokens
        self.count()

    def advance(self, request: Request | None, remark: str = "") -> None:
        """Note a row that has ended; None if it is invalid. remark: stands behind the times."""
        self.count()
        self.bar.set_postfix_str(remark, refresh=False)
        self.bar.update(self.tokens_of(request))

    def tokens_of(self, request):
        if request is None:
            return self.usual
        return tokens_of(request.options.n_tokens_to_generate, request.options.num_samples)

    def count(self):
        self.n_rows += 1
        rows = f"{self.n_rows:,}/{counted(self.work.n_rows, 'row')}" if self.work else counted(self.n_rows, "row")
        self.bar.set_description_str(rows, refresh=False)


def counted(n: int, noun: str) -> str:
    """Return a number and its noun.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"
