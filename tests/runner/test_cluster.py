"""The driver of a run on a cluster, with simulated workers; and the worker, in threads of this process."""

import io
import json
import logging
import pickle
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from batch_runs import ROOT, read_records, run_batch, write_prompts

import utils
from checkpoints.fingerprint import fingerprint
from cli.command_flags import BATCH_FLAGS
from cli.options import check_options
from runner import cluster, cluster_worker, ray_session
from runner.cluster import CHUNKS_IN_FLIGHT, MAX_FAILED_STARTS, MAX_LOST, Ahead, Crew
from runner.cluster_worker import Answer, Plan, Worker
from runner.prompts import Row, make_request
from runner.record_format import Identity
from runner.run import Outcome

TINY = ROOT / "models" / "tiny"
OPTIONS = check_options({"n_tokens_to_generate": 4, "temperature": 1, "model_size": "tiny"}, BATCH_FLAGS)


def request(number, **fields):
    row = Row(number, number + 1, {"prompt": "Once", **fields}, "Once")
    return make_request(row, OPTIONS, 7)


def requests(n, **fields):
    return [request(number, **fields) for number in range(n)]


# ---- a simulation of Ray ---------------------------------------------------------------------------------------


class RayError(Exception):
    """A worker has ended."""


class RayTaskError(RayError):
    """A call has raised an exception."""


class Ray:
    """Simulated workers, which finish a call, end or fail when `outcome_of` says so.

    outcome_of: (the simulation, name of the method, its argument) -> a value, an exception to raise, or PENDING.
    Attributes: `started`, the number of workers; `cpus`, of the cluster; `calls` in progress; `puts`.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, outcome_of, cpus=2):
        self.outcome_of = outcome_of
        self.cpus = cpus
        self.started = 0
        self.calls = {}
        self.puts = []
        self.most = Counter()  # calls in progress at a time: {actor: number}

    def cluster_resources(self):
        return {"CPU": self.cpus} if self.cpus else {}

    def remote(self, worker):
        return self

    def options(self, **resources):
        ray = self

        class Actor:
            """A simulated worker."""

            def __init__(self, plan):
                ray.started += 1
                self.start = SimpleNamespace(remote=lambda *args: ray.call(self, "start", *args))
                self.complete = SimpleNamespace(remote=lambda *args: ray.call(self, "complete", *args))

        return SimpleNamespace(remote=Actor)

    def call(self, actor, name, *args):
        ref = object()
        self.calls[ref] = (actor, name, *args)
        if name == "complete":
            in_progress = sum(call[:2] == (actor, name) for call in self.calls.values())
            self.most[actor] = max(self.most[actor], in_progress)
        return ref

    def wait(self, refs, num_returns, timeout):
        assert refs
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        _, name, *args = self.calls.pop(ref)
        outcome = self.outcome_of(self, name, *args)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def put(self, value):
        self.puts.append(value)
        return "model"


class FakeRun:
    """Receives outcomes. Attribute: `outcomes`, {row: outcome}."""

    def __init__(self):
        self.outcomes = {}

    def take(self, request, outcome):
        assert request.row.number not in self.outcomes, "a row is there twice"
        self.outcomes[request.row.number] = outcome

    def begin(self, remark):
        assert remark == "remark" and not self.outcomes

    def line(self):
        return f"{len(self.outcomes)} rows{self.remark}"


def answer_to(requests):
    return Answer([Outcome([{"row": request.row.number}], 1) for request in requests], [])


def complete(ray, some, **options):
    """Complete requests by simulated workers; return the run and the crew."""
    run = FakeRun()
    crew = Crew(ray, Plan(Identity("tiny", "f"), TINY, check_options(options, BATCH_FLAGS), 1), run, "remark")
    crew.complete(some)
    return run, crew


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    """Look at the CPUs of the cluster before each step."""
    monkeypatch.setattr(cluster, "SECONDS_PER_LOOK", 0.0)


def working(ray, name, *args):
    return 4 if name == "start" else answer_to(*args)


# ---- the driver ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 3, 8, 100])
def test_each_row_is_completed_once_and_no_worker_has_more_than_two_chunks(n):
    ray = Ray(working)
    run, _ = complete(ray, requests(n))
    assert sorted(run.outcomes) == list(range(n))
    assert max(ray.most.values(), default=0) <= CHUNKS_IN_FLIGHT


def test_rows_are_read_only_a_few_chunks_before_they_are_completed():
    n_slots = 4
    n_workers = 2
    run = FakeRun()
    n_read = 0

    def reading():
        nonlocal n_read
        for one in requests(200):
            n_read += 1
            assert n_read - len(run.outcomes) <= n_slots * n_workers * (CHUNKS_IN_FLIGHT + 1) + 1
            yield one

    crew = Crew(Ray(working, cpus=n_workers), Plan(Identity("tiny", "f"), TINY, OPTIONS, 1), run, "remark")
    crew.complete(reading())
    assert len(run.outcomes) == n_read == 200


def test_the_rows_of_a_worker_that_ended_are_completed_by_another():
    rows_lost = []

    def dying(ray, name, *args):
        if name == "complete" and len(rows_lost) < 3:
            rows_lost.append(args)
            return RayError("killed")
        return working(ray, name, *args)

    ray = Ray(dying)
    run, _ = complete(ray, requests(50))
    assert sorted(run.outcomes) == list(range(50))
    assert all(outcome.error is None for outcome in run.outcomes.values())
    assert ray.started >= 2 + 3 - 1


def test_a_row_that_ends_every_worker_fails_and_the_other_rows_are_done():
    def dying(ray, name, *args):
        if name == "complete" and any(request.row.number == 5 for request in args[0]):
            return RayError("killed")
        return working(ray, name, *args)

    run, _ = complete(Ray(dying), requests(20))
    assert sorted(run.outcomes) == list(range(20))
    assert [number for number, outcome in run.outcomes.items() if outcome.error] == [5]
    assert run.outcomes[5].error == f"the worker that was completing the row ended, {MAX_LOST} times"


def test_a_run_whose_workers_cannot_start_ends_with_the_reason():
    def failing(ray, name, *args):
        return RayError("ModuleNotFoundError: No module named 'regex'")

    with pytest.raises(
        RuntimeError, match=r"cannot start on the cluster: a machine of the cluster lacks the package regex"
    ):
        complete(Ray(failing), requests(3))


def test_some_workers_may_end_before_they_are_ready():
    n_failed = 0

    def failing(ray, name, *args):
        nonlocal n_failed
        if name == "start" and n_failed < MAX_FAILED_STARTS - 1:
            n_failed += 1
            return RayError("killed")
        return working(ray, name, *args)

    run, _ = complete(Ray(failing), requests(3))
    assert len(run.outcomes) == 3


def test_an_exception_in_a_worker_ends_the_run_with_its_message():
    def failing(ray, name, *args):
        error = RayTaskError("traceback")
        error.cause = RuntimeError("the run ends here: logits are not finite")
        return error if name == "complete" else working(ray, name, *args)

    with pytest.raises(RuntimeError, match=r"^the run ends here: logits are not finite$"):
        complete(Ray(failing), requests(3))


def test_new_machines_get_workers_and_a_number_of_workers_is_kept():
    def growing(ray, name, *args):
        ray.cpus = min(8, ray.cpus + 1)
        return working(ray, name, *args)

    ray = Ray(growing)
    complete(ray, requests(200))
    assert ray.started == 8
    ray = Ray(growing)
    complete(ray, requests(200), workers=3, cluster="auto")
    assert ray.started == 3
    ray = Ray(working, cpus=0)  # a cluster that starts machines when they are needed
    complete(ray, requests(2))
    assert ray.started == 1


def test_the_model_is_sent_once_to_workers_that_lack_it(monkeypatch):
    monkeypatch.setattr(utils, "load_found", lambda path, where: "the model")

    def lacking(ray, name, *args):
        return None if name == "start" and not args else working(ray, name, *args)

    ray = Ray(lacking, cpus=3)
    run, _ = complete(ray, requests(40))
    assert (ray.puts, len(run.outcomes)) == (["the model"], 40)


def test_a_warning_of_many_workers_is_shown_once(caplog):
    def warning(ray, name, *args):
        answer = working(ray, name, *args)
        return answer if name == "start" else Answer(answer.outcomes, ["careful"])

    logging.getLogger("picogpt").propagate = True
    complete(Ray(warning), requests(40))
    assert [record.getMessage() for record in caplog.records] == ["careful"]


def test_a_log_gets_a_line_of_progress_per_minute(monkeypatch, caplog):
    now = iter(range(0, 10**6, 31))
    monkeypatch.setattr(cluster.time, "monotonic", lambda: next(now))
    logging.getLogger("picogpt").propagate = True
    complete(Ray(working, cpus=1), requests(40))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) > 2 and all(line.endswith("rows, 1 worker") for line in lines[1:])


def test_the_last_rows_are_divided_among_the_workers():
    ahead = Ahead(iter(requests(10)))
    assert [len(ahead.take(64, n_workers)) for n_workers in (3, 3, 3, 3, 3)] == [4, 2, 2, 1, 1]
    assert ahead.take(64, 3) == [] and ahead.is_empty


def test_a_chunk_has_as_many_samples_as_a_worker_has_slots():
    ahead = Ahead(iter(requests(100, num_samples=3)))
    assert [len(ahead.take(8, 1)) for _ in range(3)] == [3, 3, 3]
    assert len(Ahead(iter(requests(5, num_samples=50))).take(8, 1)) == 1


# ---- the worker ------------------------------------------------------------------------------------------------


@pytest.fixture
def worker():
    log = logging.getLogger("picogpt")
    handlers = log.handlers
    plan = Plan(Identity("its name", fingerprint(TINY)), TINY, OPTIONS, 1)
    yield Worker(plan)
    log.handlers = handlers


def test_a_worker_completes_several_chunks_at_a_time_with_the_texts_of_one_machine(worker, here, tmp_path):
    assert worker.start() >= 1
    chunks = [requests(40)[start : start + 8] for start in range(0, 40, 8)]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(worker.complete, chunks))
    records = [record for answer in answers for outcome in answer.outcomes for record in outcome.records]
    prompts = write_prompts(tmp_path / "prompts.txt", ["Once"] * 40)
    args = ("--output", tmp_path / "out.jsonl", "-n", "4", "--temperature", "1", "--seed", "7")
    run_batch(here, prompts, *args)
    expected = sorted(read_records(tmp_path / "out.jsonl"), key=lambda record: record["row"])
    assert [record["text"] for record in records] == [record["text"] for record in expected]
    assert records[0]["model"] == "its name"
    assert records[0]["fingerprint"] == expected[0]["fingerprint"]
    assert worker.futures == {}


def test_a_row_that_fails_in_a_worker_is_an_error_text_and_a_warning_is_sent_with_its_chunk(worker):
    worker.start()
    long = make_request(Row(0, 1, {}, "x " * 2000), OPTIONS, 7)
    special = make_request(Row(1, 2, {}, "<|endoftext|>A"), OPTIONS, 7)
    answer = worker.complete([long, special])
    assert "at most 512" in answer.outcomes[0].error
    assert answer.outcomes[1].error is None
    assert [warning[:15] for warning in answer.warnings] == ["'<|endoftext|>'"]
    pickle.dumps(answer)


def test_a_worker_without_the_same_model_asks_for_it_and_then_gives_the_same_texts(worker):
    worker.start()
    expected = worker.complete([request(0)]).outcomes[0].records
    for plan in (
        Plan(Identity("its name", "0" * 16), TINY, OPTIONS, 1),
        Plan(Identity("its name", fingerprint(TINY)), TINY.with_name("missing"), OPTIONS, 1),
        Plan(Identity("its name", None), TINY, OPTIONS, 1),
    ):
        other = Worker(plan)
        assert other.start() is None
        assert other.start(pickle.loads(pickle.dumps(utils.load(TINY)))) >= 1
        (record,) = other.complete([request(0)]).outcomes[0].records
        assert record["text"] == expected[0]["text"]
        assert record["fingerprint"] == plan.identity.fingerprint


def test_an_engine_that_fails_ends_all_chunks_with_its_message(worker, monkeypatch):
    worker.start()

    def failing(*args):
        raise MemoryError

    monkeypatch.setattr(cluster_worker, "decode_rows", failing)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"there is not enough memory for .* samples at a time"):
            worker.complete(requests(2))


def test_options_survive_pickling():
    options = check_options({"stop": ["a"], "temperature": 0.5, "top_k": 3}, BATCH_FLAGS)
    again = pickle.loads(pickle.dumps(options))
    assert again == options
    with pytest.raises(TypeError):
        again.values["top_k"] = 4


# ---- the command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--cluster", "here"], "Error: cluster is 'here'; it must be local, auto or HOST:PORT, as in 10.0.0.5:6379"),
        (["--workers", "2"], "Error: --workers has no effect without --cluster: add --cluster local, or remove it"),
        (["--cluster", "local", "--workers", "0"], "Error: workers is 0; it must be a whole number from 1 upwards"),
        (["--worker_cpus", "2"], "Error: --worker_cpus has no effect without --cluster"),
    ],
)
def test_invalid_settings_of_a_cluster_are_usage_errors(here, tmp_path, args, message):
    code, out, err = run_batch(here, write_prompts(tmp_path / "prompts.txt", ["One"]), *args)
    assert (code, out) == (2, "")
    assert err.startswith(message)


def test_without_ray_the_message_has_the_command_that_installs_it(here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out.jsonl"
    prompts = write_prompts(tmp_path / "prompts.txt", ["One"])
    code, _, err = run_batch(here, prompts, "--cluster", "local", "--output", out)
    assert (code, err) == (1, 'Error: --cluster needs the package Ray: pip install "ray>=2.50"\n')
    assert not out.exists()


def test_importing_the_command_does_not_import_ray():
    code = "import sys, runner.command; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_workers_get_the_modules_and_neither_models_nor_anything_else(tmp_path):
    ray_session.copy_modules(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in ROOT.glob("*.py")} | {
        *ray_session.PACKAGES
    }
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".py"}


def test_only_the_main_thread_writes_to_an_own_stream():
    raw = io.BytesIO()
    stream = ray_session.OwnStream(raw, encoding="utf-8", write_through=True)
    thread = threading.Thread(target=lambda: print("(raylet) a worker died", file=stream))
    thread.start()
    thread.join()
    print(json.dumps({"row": 0}), file=stream)
    assert raw.getvalue() == b'{"row": 0}\n'
