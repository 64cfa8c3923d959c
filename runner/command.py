"""The command batch.py: its help, its checks, and a run from the prompts to the records.

    Row (prompts.py) -> Request -> this machine (local.py) or a cluster (cluster.py) -> Outcome -> Run (run.py)

A row is read when a slot is free for it. Sample i of row j draws from default_rng([seed, j, i]), so that its text does
not depend on the other rows.
"""

import contextlib
import itertools
import logging
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpoints import files, hub
from checkpoints.fingerprint import fingerprint
from cli import checks
from cli.checks import shown
from cli.command import Terminated, quiet
from cli.command_flags import BATCH_FLAGS
from cli.flags import ROW_FLAGS
from cli.help import Command
from cli.messages import describe
from cli.options import Options
from cli.output import is_file
from cli.request import draw_seed, find_model
from cli.suggestions import with_suggestions
from runner import cluster, local, ray_session
from runner.progress import Progress, measure, tokens_of
from runner.prompts import TABLES, UNPACK, Request, Row, find_format, make_request, open_prompts, read_rows
from runner.record_format import Identity, check_unchanged, quoted
from runner.records import Records, SortedRecords
from runner.run import Run
from runner.source import source_of

log = logging.getLogger("picogpt")

CONTINUES = "Finished rows are kept; the same command continues with the others."

BATCH = Command(
    usage="batch.py PROMPTS [--output FILE] [--option value ...]",
    about=f"""Continue many prompts with GPT-2, many at a time.

        PROMPTS is a file, or - for stdin:

        | .txt    one prompt per line
        | .jsonl  one JSON object per line: {{"prompt": "Once upon a time"}}
        | .json   a JSON array of such objects
        | .csv    a table with a column named prompt; .tsv: with tabs
        | .gz     any of these, compressed, as in prompts.jsonl.gz

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
    check_cluster(options)
    format = find_format(prompts, options.format)
    source = source_of(options)
    path = find_model(options)
    options = with_suggestions(options, path)
    with contextlib.ExitStack() as stack:
        if options.cluster:
            stack.enter_context(ray_session.without_foreign_output())
        file = stack.enter_context(open_prompts(prompts))
        check_output(file, options.output)
        records = stack.enter_context(contextlib.closing(Records(options.output, options.overwrite)))
        seed = choose_seed(options, records)
        run = Run(records, new_progress(prompts, format, source, records, options))
        with contextlib.closing(run.progress):
            model = Identity(hub.name_of(path), fingerprint(path))
            requests = unfinished(read_rows(file, format, source), options, seed, model, run)
            first = next(requests, None)  # the finished rows before it have been checked by now
            requests = itertools.chain([first], requests)
            if first and options.cluster:
                cluster.complete_on_cluster(requests, path, options, seed, model, run)
            elif first:
                local.complete_here(requests, path, options, seed, run)
        run.report()
    if options.sort and records.path is not None:
        SortedRecords(options.output).close()  # the run is complete, and its file is closed


def check_cluster(options):
    """Raise ValueError for settings of a cluster without one, RuntimeError if the package Ray is missing."""
    for name in ("workers", "worker_cpus"):
        if options.values[name] is not None and not options.cluster:
            raise ValueError(f"--{name} has no effect without --cluster: add --cluster local, or remove it")
    if options.cluster:
        ray_session.import_ray()


def check_output(file, output):
    """Raise ValueError if the output would overwrite the open file of prompts, or its name promises another format."""
    if output and Path(output).suffix.lower() in (".csv", ".tsv", *UNPACK, *TABLES):
        raise ValueError(f"{quoted(output)} would hold lines of JSON: name a file that ends in .jsonl or .jsonl.gz")
    with contextlib.suppress(OSError):
        there = os.stat(files.expand(output or "-"))
        if stat.S_ISREG(there.st_mode) and os.path.samestat(there, os.fstat(file.fileno())):
            raise ValueError(f"{quoted(output)} holds the prompts; name another --output")


def choose_seed(options, records):
    """Return the seed that is given, otherwise that of the earlier run, otherwise a new one."""
    if options.seed is not None:
        return options.seed
    return draw_seed() if records.seed is None else records.seed


def new_progress(prompts, format, source, records, options):
    """Return a progress bar, which a terminal shows if the records go to a file."""
    is_shown = sys.stderr.isatty() and not options.quiet and (records.path is not None or is_file(sys.stdout))
    work = measure(prompts, format, source, options) if is_shown else None
    return Progress(work, tokens_of(options.n_tokens_to_generate, options.num_samples), is_shown)


# ---- rows to complete ------------------------------------------------------------------------------------------


def unfinished(rows: Iterable[Row], options: Options, seed: int, model: Identity, run: Run) -> Iterator[Request]:
    """Yield the requests that no earlier run has finished. A row that is invalid gets its record at once."""
    for row in rows:
        record = run.records.find(row.number)
        if record:
            request = make_finished_request(row, options, seed, run)
            check_unchanged(request, record, model, run.records.path)
            run.progress.skip(request)
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
