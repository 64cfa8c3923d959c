"""Rows, continued together on the machine that holds the model.

Request (prompts.py) -> RowJob -> decode_together (engine/batching.py) -> Outcome
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cli.command_flags import MAX_BATCH_SIZE
from cli.messages import describe, run_time_failures
from cli.options import Options
from cli.output import Clock
from cli.request import encode_prompt, load_model, new_completions
from engine.batching import Job, decode_together
from engine.compiled import MANY
from engine.memory import slots_that_fit
from runner.prompts import Request
from runner.record_format import make_record
from runner.run import Outcome, Run
from sampling import make_sampler
from utils import Model

log = logging.getLogger("picogpt")


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

    def outcome(self) -> Outcome:
        """Return what has become of the row, when all completions are finished."""
        if self.error:
            return Outcome([], error=self.error)
        try:
            records = [
                make_record(self.request, index, completion, self.prompt, self.model, self.clock)
                for index, completion in enumerate(self.completions)
            ]
        except Exception as error:
            return Outcome([], error=error)
        return Outcome(records, sum(len(completion.ids) for completion in self.completions))


Take = Callable[[Request, Outcome], None]  # receives each request with its outcome


def decode_rows(requests: Iterable[Request | None], model: Model, n_slots: int, take: Take) -> None:
    """Complete the requests, up to `n_slots` samples at a time. None in place of a request: no row is ready yet.

    A request is taken from the iterable only when a slot is free.
    """
    for stepped in decode_together(jobs(requests, model, take), model.params, model.n_head, n_slots):
        for job in stepped:
            job.clock.tick(job.completions)
            if job.is_finished:
                take(job.request, job.outcome())


def jobs(requests: Iterable[Request | None], model: Model, take: Take) -> Iterator[RowJob | None]:
    """Yield the jobs of the requests. A request that the model cannot take, or of no tokens, is finished at once."""
    for request in requests:
        job = request and job_or_error(request, model)
        if isinstance(job, Exception):
            take(request, Outcome([], error=job))
        elif job and job.is_finished:
            job.clock.tick(job.completions)
            take(request, job.outcome())
        else:
            yield job


def job_or_error(request, model):
    try:
        return RowJob(request, model)
    except Exception as error:
        return error


def complete_here(requests: Iterable[Request], path: Path, options: Options, seed: int, run: Run) -> None:
    """Load the model at `path` and complete the requests."""
    model = load_model(path, options, n_tokens=MANY)
    n_slots, bytes_per_slot = slots_that_fit(model.hparams, MAX_BATCH_SIZE)
    n_slots = options.batch_size or n_slots
    run.begin(
        f"seed {seed}; {n_slots} samples at a time (--batch_size), "
        f"each with up to {bytes_per_slot / 1e6:.1f} MB of keys and values"
    )
    with engine_failures(n_slots):
        decode_rows(requests, model, n_slots, run.take)


@contextlib.contextmanager
def engine_failures(n_slots: int) -> Iterator[None]:
    """Raise RuntimeError in place of ValueError, and MemoryError, within a `with` block; its message ends the run."""
    try:
        with run_time_failures("the run ends here: "):
            yield
    except MemoryError as error:
        raise RuntimeError(
            f"there is not enough memory for {n_slots} samples at a time: add --batch_size {max(1, n_slots // 2)}; "
            "the same command continues with the other rows"
        ) from error
