"""Batch runs on a Ray cluster: chunks of rows go to workers on many machines, and the driver writes what they return.

    Request -> chunk -> Worker (cluster_worker.py) -> Answer -> Run.take

Each worker has up to two chunks, so that its slots are never empty, and no further rows are read until one is finished.
Workers, machines and the network may fail at any time: a chunk that was lost is completed by another worker. The output
is written by this process alone, as in a run without a cluster.

Ray (pip install "ray>=2.50") is imported here only.
"""

import itertools
import logging
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import utils
from cli.options import Options
from runner.cluster_worker import Plan, Worker
from runner.prompts import Request
from runner.ray_session import reason_of, session
from runner.record_format import Identity
from runner.run import Outcome, Run

log = logging.getLogger("picogpt")

CHUNKS_IN_FLIGHT = 2  # of a worker
MAX_LOST = 10  # times that a single row may be lost with its worker
MAX_FAILED_STARTS = 10  # in a row
SECONDS_PER_LOOK = 2.0  # at the CPUs of the cluster
SECONDS_PER_LINE = 60.0  # of progress in a log


@dataclass
class Chunk:
    """Requests that are completed together, and how many times their worker was lost."""

    requests: list[Request]
    n_lost: int = 0


@dataclass
class Member:
    """A worker of the run. n_slots: 0 until it is ready."""

    actor: Any
    starting: Any  # the reference to what Worker.start returns
    n_slots: int = 0
    chunks: dict[Any, Chunk] = field(default_factory=dict)  # reference to an Answer -> chunk

    @property
    def is_free(self) -> bool:
        return self.n_slots > 0 and len(self.chunks) < CHUNKS_IN_FLIGHT


def complete_on_cluster(
    requests: Iterable[Request], path: Path, options: Options, seed: int, identity: Identity, run: Run
) -> None:
    """Complete the requests on the cluster that the options name."""
    cpus = options.worker_cpus or 1
    with session(options.cluster, cpus, options.workers) as ray:
        plan = Plan(identity, path.resolve(), options, cpus)
        crew = Crew(ray, plan, run, f"seed {seed}; rows are completed on the Ray cluster {options.cluster}")
        crew.complete(requests)


class Crew:
    """The workers of a run, and the chunks that wait for one. remark: logged when the first worker is ready."""

    def __init__(self, ray: Any, plan: Plan, run: Run, remark: str):
        self.ray = ray
        self.plan = plan
        self.run = run
        self.remark = remark
        self.members = []
        self.lost = deque()  # chunks
        self.model = None  # the reference to the model, when a worker has asked for it
        self.n_failed_starts = 0
        self.next_look = 0.0
        self.next_line = time.monotonic() + SECONDS_PER_LINE
        self.warned = set()

    def complete(self, requests: Iterable[Request]) -> None:
        """Complete all requests, which are read as workers become free."""
        ahead = Ahead(requests)
        while True:
            self.hire()
            for member in self.members:
                while member.is_free and (chunk := self.next_chunk(ahead, member)):
                    self.send(member, chunk)
            if not any(member.chunks for member in self.members) and not self.lost and ahead.is_empty:
                return
            self.receive()
            self.tell()

    # ---- workers -----------------------------------------------------------------------------------------------

    def hire(self):
        """Start as many workers as the cluster has CPUs for, or as the user wants."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + SECONDS_PER_LOOK
        n_cpus = self.ray.cluster_resources().get("CPU", 0)
        wanted = self.plan.options.workers or max(1, int(n_cpus // self.plan.cpus))
        for _ in range(wanted - len(self.members)):
            remote = self.ray.remote(Worker).options(num_cpus=self.plan.cpus, max_concurrency=CHUNKS_IN_FLIGHT + 1)
            actor = remote.remote(self.plan)
            self.members.append(Member(actor, actor.start.remote()))

    def dismiss(self, member, error):
        """Forget a worker that has ended; its chunks wait for another one."""
        self.members.remove(member)
        for chunk in member.chunks.values():
            self.lose(chunk)
        self.next_look = 0.0
        if member.n_slots == 0:
            self.n_failed_starts += 1
            if self.n_failed_starts == MAX_FAILED_STARTS:
                raise RuntimeError(f"workers cannot start on the cluster: {reason_of(error)}") from error

    def lose(self, chunk):
        """Keep a chunk whose worker ended. A row that was lost many times has failed."""
        chunk.n_lost += 1
        requests = chunk.requests
        if len(requests) == 1 and chunk.n_lost >= MAX_LOST:
            error = f"the worker that was completing the row ended, {chunk.n_lost} times"
            self.run.take(requests[0], Outcome([], error=error))
        elif len(requests) == 1:
            self.lost.append(chunk)
        else:
            middle = len(requests) // 2
            self.lost += (Chunk(requests[:middle], chunk.n_lost), Chunk(requests[middle:], chunk.n_lost))

    # ---- chunks ------------------------------------------------------------------------------------------------

    def next_chunk(self, ahead, member):
        """Return the next chunk for a worker, None if there is none."""
        if self.lost:
            return self.lost.popleft()
        n_ready = max(1, sum(member.n_slots > 0 for member in self.members))
        requests = ahead.take(member.n_slots, n_ready)
        return Chunk(requests) if requests else None

    def send(self, member, chunk):
        member.chunks[member.actor.complete.remote(chunk.requests)] = chunk

    def receive(self):
        """Wait for workers; take what they return."""
        refs = {member.starting: member for member in self.members if member.n_slots == 0}
        refs |= {ref: member for member in self.members for ref in member.chunks}
        done, _ = self.ray.wait(list(refs), num_returns=1, timeout=SECONDS_PER_LOOK)
        if done:
            done, _ = self.ray.wait(list(refs), num_returns=len(refs), timeout=0)
        for ref in done:
            member = refs[ref]
            if member in self.members:  # otherwise it has ended since
                self.receive_from(member, ref)

    def receive_from(self, member, ref):
        exceptions = self.ray.exceptions
        try:
            answer = self.ray.get(ref)
        except exceptions.RayTaskError as error:
            raise RuntimeError(reason_of(error)) from error
        except exceptions.RayError as error:
            self.dismiss(member, error)
            return
        if ref in member.chunks:
            self.take(member.chunks.pop(ref).requests, answer)
        elif answer is None:
            member.starting = member.actor.start.remote(self.put_model())
        else:
            if self.remark:
                self.run.begin(self.remark)
                self.remark = ""
            member.n_slots = answer
            self.n_failed_starts = 0

    def take(self, requests, answer):
        """Write the outcomes of a chunk, and show each warning once."""
        for warning in answer.warnings:
            if warning not in self.warned:
                self.warned.add(warning)
                log.warning(warning)
        for request, outcome in zip(requests, answer.outcomes, strict=True):
            self.run.take(request, outcome)

    def put_model(self):
        """Return a reference to the model, which the workers of a machine share."""
        if self.model is None:
            options = self.plan.options
            places = utils.search_places(options.models_dir, options.offline)
            self.model = self.ray.put(utils.load_found(self.plan.path, places))
        return self.model

    # ---- progress ----------------------------------------------------------------------------------------------

    def tell(self):
        """Show the number of workers; write a line per minute to a log."""
        n_ready = sum(member.n_slots > 0 for member in self.members)
        self.run.remark = f", {n_ready} worker{'s' * (n_ready != 1)}"
        if time.monotonic() >= self.next_line and not sys.stderr.isatty():
            self.next_line += SECONDS_PER_LINE
            log.warning(self.run.line())


class Ahead:
    """Requests that have been read ahead, so that the last ones can be divided equally among the workers."""

    def __init__(self, requests: Iterable[Request]):
        self.requests = iter(requests)
        self.read = deque()
        self.is_empty = False

    def take(self, n_samples: int, n_workers: int) -> list[Request]:
        """Return requests of up to `n_samples` samples together, fewer if otherwise other workers would get none."""
        self.read.extend(itertools.islice(self.requests, max(0, n_samples * n_workers - len(self.read))))
        most = max(1, min(n_samples, -(-len(self.read) // n_workers)))
        taken = []
        n_taken = 0
        while self.read and len(taken) < most and n_taken < n_samples:
            taken.append(self.read.popleft())
            n_taken += taken[-1].options.num_samples
        self.is_empty = not taken
        return taken
