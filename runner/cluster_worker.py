"""A worker of a cluster: a process that holds the model and completes the chunks of rows that it receives.

Several chunks may be in progress at a time. Their rows share the slots, so that no slot is empty while the last rows of
a chunk are being completed.
"""

import dataclasses
import itertools
import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from checkpoints.fingerprint import fingerprint
from cli.command_flags import MAX_BATCH_SIZE
from cli.messages import describe
from cli.options import Options
from cli.request import load_model
from engine.compiled import MANY
from engine.cores import n_cores
from engine.memory import slots_that_fit
from runner.local import decode_rows, engine_failures
from runner.prompts import Request
from runner.record_format import Identity
from runner.run import Outcome
from utils import Model, with_operands

log = logging.getLogger("picogpt")


@dataclass(frozen=True)
class Plan:
    """What all workers of a run have in common. path: of the model on the machine of the driver; cpus: of a worker."""

    identity: Identity
    path: Path
    options: Options
    cpus: int


@dataclass(frozen=True)
class Answer:
    """The outcomes of a chunk, in the order of its requests, and warnings about its rows."""

    outcomes: list[Outcome]
    warnings: list[str]


class Worker:
    """The work of one process. Threads may call `complete` at the same time."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.model = None
        self.n_slots = 0
        self.waiting = queue.SimpleQueue()  # requests
        self.futures = {}  # number of a row -> Future of its outcome
        self.failure = None
        self.warnings = Warnings()

    def start(self, model: Model | None = None) -> int | None:
        """Load the model and return the number of slots; None if the machine does not have the same model.

        model: the one of the driver, which then takes the place of the files.
        """
        name, expected = self.plan.identity
        if model is None and (expected is None or fingerprint(self.plan.path) != expected):
            return None
        if model is None:
            model = load_model(self.plan.path, self.plan.options, n_tokens=MANY)
        else:
            model = with_operands(dataclasses.replace(model, path=None), self.plan.options.weights, MANY)
        self.model = dataclasses.replace(model, name=name)
        vars(self.model)["fingerprint"] = expected  # the files of a model that was sent are not here
        self.n_slots = self.plan.options.batch_size or self.default_slots()
        threading.Thread(target=self.decode, daemon=True).start()
        return self.n_slots

    def default_slots(self):
        """Return this worker's part of the slots that fit in the memory of the machine."""
        n_processes = max(1, n_cores() // self.plan.cpus)
        n_slots, _ = slots_that_fit(self.model.hparams, MAX_BATCH_SIZE, n_processes)
        return n_slots

    def complete(self, requests: list[Request]) -> Answer:
        """Return the outcomes of a chunk of requests. Raise RuntimeError if the run cannot go on."""
        futures = [Future() for _ in requests]
        for request, future in zip(requests, futures, strict=True):
            self.futures[request.row.number] = future
            self.waiting.put(request)
        if self.failure:
            raise RuntimeError(self.failure)
        return Answer([future.result() for future in futures], self.warnings.take())

    def decode(self):
        """Complete the requests of all chunks until the process ends."""
        while self.failure is None:
            first = self.waiting.get()
            try:
                with engine_failures(self.n_slots):
                    decode_rows(itertools.chain([first], self.ready()), self.model, self.n_slots, self.take)
            except Exception as error:
                self.failure = describe(error)
        for future in list(self.futures.values()):
            future.set_exception(RuntimeError(self.failure))

    def ready(self) -> Iterator[Request | None]:
        """Yield the requests that have arrived, and None when there are no others yet."""
        while True:
            try:
                yield self.waiting.get_nowait()
            except queue.Empty:
                yield None

    def take(self, request: Request, outcome: Outcome) -> None:
        if outcome.error is not None and not isinstance(outcome.error, str):  # not every exception can be sent
            outcome = dataclasses.replace(outcome, error=describe(outcome.error))
        self.futures.pop(request.row.number).set_result(outcome)


class Warnings(logging.Handler):
    """The warnings that this process has logged and not yet sent."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = queue.SimpleQueue()
        log.handlers = [self]
        log.propagate = False

    def emit(self, record):
        self.messages.put(record.getMessage())

    def take(self) -> list[str]:
        found = []
        while not self.messages.empty():
            found.append(self.messages.get())
        return found
