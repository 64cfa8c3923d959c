"""Batch runs on this machine: read rows, continue them together, write the records of a row when it is finished.

    Request (prompts.py) -> RowJob -> decode_together (engine/batching.py) -> records (records.py)

A row is read when a slot is free for it. Sample i of row j draws from default_rng([seed, j, i]), so that its text does
not depend on the other rows.
"""

import contextlib
import functools
import itertools
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from checkpoints import files, hub
from checkpoints.fingerprint import fingerprint
from cli import checks
from cli.checks import shown
from cli.command import DEBUG, Terminated, quiet
from cli.command_flags import BATCH_FLAGS, MAX_BATCH_SIZE
from cli.flags import ROW_FLAGS
from cli.help import Command
from cli.messages import describe, run_time_failures
from cli.options import Options
from cli.output import Clock, is_file
from cli.request import draw_seed, encode_prompt, find_model, load_model, new_completions
from cli.suggestions import with_suggestions
from engine.batching import Job, decode_together
from engine.memory import free_memory
from runner.prompts import Request, Row, count_rows, find_format, make_request, open_prompts, read_rows
from runner.record_format import Identity, check_unchanged, make_error_record, make_record, quoted
from runner.records import Records, SortedRecords
from runner.source import source_of
from sampling import make_sampler
from utils import Model

log = logging.getLogger("picogpt")

N_FIRST_ROWS = 100  # if all of these fail, the run stops
CONTINUES = "Finished rows are kept; the same command continues with the others."

BATCH = Command(
    usage="batch.py PROMPTS [--output FILE] [--option value ...]",
    about=f"""Continue many prompts with GPT-2, many at a time.

        PROMPTS is a file, or - for stdin:

        | .txt    one prompt per line
        | .jsonl  one JSON object per line: {{"prompt": "Once upon a time"}}
        | .json   a JSON array of such objects
        | .csv    a table with a column named prompt; .tsv: with tabs

        The output is one JSON object per sample: the fields of gpt2.py --json, and row, the number of the row from 0.
        Rows are written in the order in which they are finished. A row that fails is written with its line and an
        error, and the run continues, unless the first 100 rows all fail. A row may have up to 16 MB.

        The options below apply to all rows. A row of a .jsonl or .csv file may set some of them for itself:
        {", ".join(ROW_FLAGS)}. Its other fields are copied to the output.""",
    flags=BATCH_FLAGS,
    closing="""If the output file exists, finished rows are kept with the seed they were made with, and only the others
        are generated, however the earlier run ended. Different options or prompts for a finished row are an error;
        --overwrite starts again.

        Sample i of row j draws from default_rng([seed, j, i]), whatever the batch size. A row with a seed of its own
        gives the text that gpt2.py gives with this seed.

        Exit codes: 0 all rows are finished, 1 some rows failed or the run could not go on, 2 usage error, 130 Ctrl-C,
        143 SIGTERM, 129 SIGHUP. After all but 0 and 2 the same command continues the run.""",
    examples=(
        "python batch.py prompts.txt --output out.jsonl --top_p 0.9 --model_size tiny",
        "python batch.py prompts.jsonl --output out.jsonl --num_samples 3 --top_k 40",
        "cat prompts.txt | python batch.py - --model_size tiny > out.jsonl",
    ),
)

# ---- the command -----------------------------------------------------------------------------------------------


def complete_all(prompts: str | None, options: Options) -> None:
    """Continue all rows of the file `prompts` and write their records.

    Raises ValueError for usage errors, before the model is loaded if possible, and RuntimeError if rows have failed.
    """
    if options.sort_only is not None:
        sort_only(prompts, options.sort_only)
        return
    if prompts is None:
        raise ValueError("there are no prompts; name a file, such as prompts.txt, or - for stdin")
    checks.path("the name of the prompts", prompts)
    try:
        with quiet(options.quiet):
            run_rows(prompts, options)
    except KeyboardInterrupt:
        if options.output not in (None, "-"):
            log.warning(f"\nInterrupted. {CONTINUES}")
        raise
    except Terminated as error:
        if options.output not in (None, "-"):
            error.args = (f"{error}. {CONTINUES}",)
        raise


def sort_only(prompts, path):
    """Put the records of an earlier run in the order of their rows."""
    if prompts is not None:
        raise ValueError(f"--sort_only takes no prompts, but {shown(prompts)} is given; run it after the run itself")
    SortedRecords(path).close()


def run_rows(prompts, options):
    """Complete the rows that no earlier run has finished. The model is loaded only if there are any."""
    format = find_format(prompts, options.format)
    source = source_of(options)
    path = find_model(options)
    options = with_suggestions(options, path)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_prompts(prompts))
        check_output(file, options.output)
        records = stack.enter_context(contextlib.closing(Records(options.output, options.overwrite)))
        seed = choose_seed(options, records)
        run = Run(records, progress_bar(prompts, format, source, records, options))
        with run.bar:
            model = Identity(hub.name_of(path), fingerprint(path))
            requests = unfinished(read_rows(file, format, source), options, seed, model, run)
            first = next(requests, None)  # the finished rows before it have been checked by now
            if first:
                decode_all(itertools.chain([first], requests), path, options, seed, run)
        run.report()
    if options.sort and records.path is not None:
        SortedRecords(options.output).close()  # the run is complete, and its file is closed


def check_output(file, output):
    """Raise ValueError if the output would overwrite the open file of prompts."""
    with contextlib.suppress(OSError):
        there = os.stat(files.expand(output or "-"))
        if stat.S_ISREG(there.st_mode) and os.path.samestat(there, os.fstat(file.fileno())):
            raise ValueError(f"{quoted(output)} holds the prompts; name another --output")


def choose_seed(options, records):
    """Return the seed that is given, otherwise that of the earlier run, otherwise a new one."""
    if options.seed is not None:
        return options.seed
    return draw_seed() if records.seed is None else records.seed


def progress_bar(prompts, format, source, records, options):
    """Return a progress bar of rows, which a terminal shows if the records go to a file."""
    from tqdm import tqdm

    is_shown = sys.stderr.isatty() and not options.quiet and (records.path is not None or is_file(sys.stdout))
    n_rows = count_rows(prompts, format, source) if is_shown else None
    return tqdm(
        desc="rows",
        total=n_rows,
        unit=" rows",
        disable=not is_shown,
        initial=records.n_finished,
    )


# ---- from rows to records --------------------------------------------------------------------------------------


class RowJob(Job):
    """The job of a row. Raises ValueError if the model cannot take it.

    Attributes: `request`, `model`; `clock`, which measures the job.
    """

    def __init__(self, request: Request, model: Model):
        options = request.options
        ids = encode_prompt(request.prompt, model, options)
        new_sampler = functools.partial(make_sampler, **options.sampling)
        completions = new_completions(model, options, new_sampler, ids, request.seed, request.index)
        super().__init__(ids, completions, options.n_tokens_to_generate, options.window_keep)
        self.request = request
        self.model = model
        self.clock = Clock()

    def extend(self, completion, logits, is_full):
        """Choose the next token of one completion. Any failure ends this job; other jobs go on."""
        try:
            super().extend(completion, logits, is_full)
        except Exception as error:
            self.error = describe(error)
            self.finish("error")

    @property
    def n_new(self) -> int:
        return sum(len(completion.ids) for completion in self.completions)

    def records(self) -> list[dict]:
        """Return the records of all completions, when they are finished."""
        return [
            make_record(self.request, index, completion, self.prompt, self.model, self.clock)
            for index, completion in enumerate(self.completions)
        ]


class Run:
    """A run in progress: where it writes, its progress bar and its totals."""

    def __init__(self, records: Records, bar):
        self.records = records
        self.bar = bar
        self.clock = Clock()
        self.n_done = 0
        self.n_failed = 0
        self.n_first_failed = 0  # of the first N_FIRST_ROWS rows
        self.n_samples = 0
        self.n_tokens = 0

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
        self.bar.update()
        if self.n_first_failed == N_FIRST_ROWS and not self.n_done:
            raise RuntimeError(
                f"the first {N_FIRST_ROWS} rows all failed, the last one because {message}. Correct the prompts or the "
                "options and run the same command again"
            )

    def follow(self, job: RowJob) -> None:
        """Note a step of a job, and write its records if that was the last one."""
        job.clock.tick(job.completions)
        if not job.is_finished:
            return
        row = job.request.row
        if job.error:
            self.fail(row, job.error)
        elif self.attempt(row, self.write, job):
            self.count(job)

    def write(self, job):
        self.records.write(job.records())
        return True

    def count(self, job):
        """Add a finished job to the totals."""
        self.n_done += 1
        self.n_samples += len(job.completions)
        self.n_tokens += job.n_new
        self.clock.tick([])
        self.bar.set_postfix_str(f"{self.n_tokens / self.clock.seconds:.1f} tokens/s", refresh=False)
        self.bar.update()

    def summary(self, n_before: int) -> str:
        """Return a line with the totals. n_before: rows that an earlier run has finished."""
        before = f" ({n_before} more by earlier runs)" if n_before else ""
        place = "stdout" if self.records.path is None else quoted(self.records.path)
        if not self.n_done and not self.n_failed:
            return f"nothing to do: {counted(n_before, 'row')} finished by earlier runs; records in {place}"
        seconds = self.clock.seconds
        return (
            f"{counted(self.n_done, 'row')} finished{before}, {counted(self.n_failed, 'error')}: "
            f"{counted(self.n_samples, 'sample')}, {counted(self.n_tokens, 'token')} in {seconds:.1f} s "
            f"({self.n_tokens / seconds:.1f} tokens/s); records in {place}"
        )

    def report(self) -> None:
        """Remark on the totals. Raise RuntimeError if rows have failed, OSError if records were lost."""
        self.records.finish()
        n_before = self.records.n_finished
        log.warning(self.summary(n_before))  # logs have this line too
        if self.n_failed:
            raise RuntimeError(
                f'{self.n_failed} of {counted(self.n_failed + self.n_done + n_before, "row")} failed; see "error" in '
                "the records. Fix the rows and run the same command again: only failed rows are retried"
            )


def counted(n: int, noun: str) -> str:
    """Return a number and its noun.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def unfinished(rows: Iterable[Row], options: Options, seed: int, model: Identity, run: Run) -> Iterator[Request]:
    """Yield the requests that no earlier run has finished. A row that is invalid gets its record at once."""
    for row in rows:
        record = run.records.find(row.number)
        if record:
            check_unchanged(make_finished_request(row, options, seed, run), record, model, run.records.path)
        elif request := run.attempt(row, make_request, row, options, seed):
            yield request


def make_finished_request(row, options, seed, run):
    """Return the request of a row that an earlier run has finished. Raise ValueError if it is invalid now."""
    try:
        return make_request(row, options, seed)
    except Exception as error:
        raise ValueError(
            f"row {row.number} of {quoted(run.records.path)} is finished, but this row of the prompts is now invalid: "
            f"{describe(error)}. Use the same prompts and options, or name another --output"
        ) from error


def jobs(requests: Iterable[Request], model: Model, run: Run) -> Iterator[RowJob]:
    """Yield the jobs of the requests. A request that the model cannot take, or of no tokens, is finished at once."""
    for request in requests:
        job = run.attempt(request.row, RowJob, request, model)
        if job and job.is_finished:
            run.follow(job)
        elif job:
            yield job


def decode_all(requests: Iterable[Request], path: Path, options: Options, seed: int, run: Run) -> None:
    """Load the model at `path` and complete the requests."""
    model = load_model(path, options)
    n_slots, bytes_per_slot = default_batch_size(model.hparams)
    n_slots = options.batch_size or n_slots
    run.bar.clear()
    log.info(
        f"seed {seed}; {n_slots} samples at a time (--batch_size), "
        f"each with up to {bytes_per_slot / 1e6:.1f} MB of keys and values"
    )
    run.clock = Clock()  # the time of loading does not count
    try:
        with run_time_failures("the run ends here: "):
            for stepped in decode_together(jobs(requests, model, run), model.params, model.n_head, n_slots):
                for job in stepped:
                    run.follow(job)
    except MemoryError as error:
        raise RuntimeError(
            f"there is not enough memory for {n_slots} samples at a time: add --batch_size {max(1, n_slots // 2)}; "
            "the same command continues with the other rows"
        ) from error


# ---- memory ----------------------------------------------------------------------------------------------------


def default_batch_size(hparams: dict) -> tuple[int, int]:
    """Return the number of slots that fit in half of the free memory, at most MAX_BATCH_SIZE, and the bytes of one."""
    n_floats = 2 * hparams["n_layer"] * hparams["n_embd"] * hparams["n_ctx"]  # keys and values
    bytes_per_slot = 4 * n_floats
    n_slots = free_memory() // 2 // bytes_per_slot
    return max(1, min(MAX_BATCH_SIZE, n_slots)), bytes_per_slot
