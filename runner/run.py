"""A batch run in progress: it writes what has become of each row, and counts rows, errors and tokens."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from cli.command import DEBUG
from cli.messages import describe
from cli.output import Clock
from runner.progress import Progress, counted
from runner.prompts import Request, Row
from runner.record_format import make_error_record, quoted
from runner.records import Records

log = logging.getLogger("picogpt")

N_FIRST_ROWS = 100  # if all of these fail, the run stops


@dataclass(frozen=True)
class Outcome:
    """What has become of a row: its records and the number of its new tokens, or the error that ended it."""

    records: list[dict]
    n_tokens: int = 0
    error: Exception | str | None = None


class Run:
    """A run in progress: where it writes, its progress bar and its totals."""

    def __init__(self, records: Records, progress: Progress):
        self.records = records
        self.progress = progress
        self.clock = Clock()
        self.n_done = 0
        self.n_failed = 0
        self.n_first_failed = 0  # of the first N_FIRST_ROWS rows
        self.n_samples = 0
        self.n_tokens = 0
        self.remark = ""  # at the end of the progress

    def begin(self, remark: str) -> None:
        """Log a remark about how rows are completed, and start to measure the time, without that of loading."""
        self.progress.clear()
        log.info(remark)
        self.clock = Clock()

    def attempt(self, row: Row, make: Callable, *args):
        """Return make(*args). If it fails, write the record of the row, which has then failed, and return None.

        Errors of the output are raised: they are not the row's.
        """
        try:
            return make(*args)
        except OSError:
            raise
        except Exception as error:
            self.fail(row, error)
            return None

    def fail(self, row: Row, error: Exception | str) -> None:
        """Write the record of a row that failed. Raise RuntimeError if this is the last of many and no row was done."""
        if os.environ.get(DEBUG) == "1" and type(error) not in (str, ValueError):
            raise error
        message = error if isinstance(error, str) else describe(error)
        try:
            self.records.write([make_error_record(row, message)])
        except (ValueError, TypeError, RecursionError, MemoryError):  # its fields cannot be written
            self.records.write([make_error_record(row, message, is_whole=False)])
        self.n_failed += 1
        self.n_first_failed += row.number < N_FIRST_ROWS
        self.progress.advance(None, self.speed())
        if self.n_first_failed == N_FIRST_ROWS and not self.n_done:
            raise RuntimeError(
                f"the first {N_FIRST_ROWS} rows all failed, the last one because {message}. Correct the prompts or the "
                "options and run the same command again"
            )

    def take(self, request: Request, outcome: Outcome) -> None:
        """Write the records of a row that has ended, or its error."""
        if outcome.error is not None:
            self.fail(request.row, outcome.error)
        elif self.attempt(request.row, self.write, outcome.records):
            self.count(request, outcome)

    def write(self, records):
        self.records.write(records)
        return True

    def count(self, request, outcome):
        """Add a finished row to the totals."""
        self.n_done += 1
        self.n_samples += len(outcome.records)
        self.n_tokens += outcome.n_tokens
        self.progress.advance(request, self.speed())

    def speed(self):
        """Return the tokens per second and the remark, for a line of progress."""
        self.clock.tick([])
        return f"{self.n_tokens / self.clock.seconds:,.1f} tokens/s{self.remark}"

    def line(self) -> str:
        """Return a line about the rows so far, for a log."""
        return f"{counted(self.n_done, 'row')} finished, {counted(self.n_failed, 'error')}, {self.speed()}"

    def summary(self, n_before: int) -> str:
        """Return a line with the totals. n_before: rows that an earlier run has finished."""
        before = f" ({n_before:,} more by earlier runs)" if n_before else ""
        place = "stdout" if self.records.path is None else quoted(self.records.path)
        if not self.n_done and not self.n_failed:
            return f"nothing to do: {counted(n_before, 'row')} finished by earlier runs; records in {place}"
        seconds = self.clock.seconds
        return (
            f"{counted(self.n_done, 'row')} finished{before}, {counted(self.n_failed, 'error')}: "
            f"{counted(self.n_samples, 'sample')}, {counted(self.n_tokens, 'token')} in {seconds:.1f} s "
            f"({self.n_tokens / seconds:,.1f} tokens/s); records in {place}"
        )

    def report(self) -> None:
        """Remark on the totals. Raise RuntimeError if rows have failed, OSError if records were lost."""
        self.records.finish()
        n_before = self.records.n_finished
        log.warning(self.summary(n_before))  # logs have this line too
        if self.n_failed:
            raise RuntimeError(
                f'{self.n_failed:,} of {counted(self.n_failed + self.n_done + n_before, "row")} failed; see "error" in '
                "the records. Fix the rows and run the same command again: only failed rows are retried"
            )
