"""Runs on real Ray clusters, in a network of their own: records, failures, signals, and what is printed.

tests/chaos_cluster.py does the same for longer.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from batch_runs import ROOT, read_records, texts, without_summary, write_prompts
from conftest import requires
from network_namespace import is_available, isolated

requires("ray")
if not is_available():
    pytest.skip("this user may not create a network of its own", allow_module_level=True)

WORDS = ("--model_size", "tiny", "--seed", "5", "--temperature", "1", "--batch_size", "1", "-n", "20", "--threads", "1")
ROWS = [{"prompt": "Once upon a time", "id": number} for number in range(30)]
ROWS[4] = {"prompt": 4}
ROWS[9] = {"prompt": "<|endoftext|>", "num_samples": 3}


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path / "prompts.jsonl", ROWS)


def environment():
    names = ("PICOGPT", "PYTHON", "RAY")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def start(*words):
    """Start batch.py in a network of its own."""
    command = isolated([sys.executable, "batch.py", *map(str, words), *WORDS])
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def expected(prompts, tmp_path):
    """The exit code, the messages and the records of a run without a cluster."""
    path = tmp_path / "alone.jsonl"
    command = [sys.executable, "batch.py", prompts, "--output", path, *WORDS]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, timeout=120)
    return done.returncode, without_summary(done.stderr.decode()), by_row(read_records(path))


def by_row(records):
    """Return the records in the order of their rows, without times."""
    ordered = sorted(records, key=lambda record: (record["row"], record.get("index", 0)))
    return [{name: value for name, value in record.items() if name != "timings"} for record in ordered]


def test_a_run_has_the_records_and_the_messages_of_a_single_machine_and_only_records_on_stdout(prompts, expected):
    code, out, err = finish(start(prompts, "--cluster", "local"))
    assert (code, without_summary(err)) == expected[:2]
    assert "29 rows finished, 1 error: 31 samples, " in err
    assert by_row(map(json.loads, out.splitlines())) == expected[2]


def test_a_model_that_other_machines_lack_is_sent_to_them(prompts, expected, tmp_path):
    """The driver believes that its model has another fingerprint, so that no worker finds that model."""
    script = tmp_path / "driver.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from runner import command\n"
        "command.fingerprint = lambda path: 'another'\n"
        "from batch import main; from cli.command import run\n"
        "run(main, command.BATCH)\n",
        encoding="utf-8",
    )
    words = [sys.executable, script, prompts, "--cluster", "local", *WORDS]
    done = subprocess.run(isolated([*map(str, words)]), env=environment(), capture_output=True, timeout=120)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert {record.get("fingerprint") for record in records if "error" not in record} == {"another"}
    expected_texts = texts(record for record in expected[2] if "error" not in record)
    assert texts(record for record in records if "error" not in record) == expected_texts


@pytest.mark.parametrize(
    ("signum", "code", "message"),
    [
        (signal.SIGTERM, 143, "Error: stopped by the signal SIGTERM. Finished rows are kept"),
        (signal.SIGINT, 130, "\nInterrupted. Finished rows are kept"),
    ],
)
def test_a_signal_ends_the_driver_as_it_ends_a_run_without_a_cluster(tmp_path, signum, code, message):
    prompts = write_prompts(tmp_path / "prompts.jsonl", [{"prompt": "Once", "max_tokens": 400}] * 2000)
    out = tmp_path / "out.jsonl"
    process = start(prompts, "--cluster", "local", "--output", out)
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signum)
    found = finish(process)
    assert found[0] == code
    assert found[2].startswith(message) and found[2].count("\n") == 1 + (code == 130)
    assert read_records(out)


def test_workers_nodes_and_drivers_may_be_killed(tmp_path):
    words = [sys.executable, "tests/chaos_cluster.py", "--kills", "5", "--rows", "150", "--seed", "2"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, timeout=280)
    last = "No row was lost or written twice, and all texts equal those of a single machine.\n"
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert done.stdout.decode().endswith(last)
