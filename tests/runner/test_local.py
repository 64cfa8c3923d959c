"""Batch runs on this machine: each row gives the text of the single command; whole runs, killed runs, usage errors."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from batch_runs import (
    KNOBS,
    PROMPTS,
    ROOT,
    read_records,
    run_batch,
    run_without_errors,
    texts,
    without_summary,
    write_prompts,
)

import batch
from cli import command_flags, flags
from engine import memory
from runner import command, local
from runner.prompts import read_rows
from runner.records import Records


@pytest.fixture
def run(here):
    return partial(run_batch, here)


@pytest.fixture
def done(here):
    return partial(run_without_errors, here)


# ---- the text of a row -----------------------------------------------------------------------------------------


def test_texts_equal_those_of_the_single_command_for_every_batch_size(done, here, tmp_path):
    fields = [
        {"prompt": prompt, "seed": 100 + j, "n_tokens_to_generate": 5 + 9 * j % 31, "num_samples": 1 + j % 3}
        for j, prompt in enumerate(PROMPTS * 2)
    ]
    file = write_prompts(tmp_path / "prompts.jsonl", fields)
    single = {}
    knobs = ("--top_k=5", "--temperature=1")
    for j, row in enumerate(fields):
        options = [f"--{name}={value}" for name, value in row.items() if name != "prompt"]
        code, out, _ = here(row["prompt"], "--model_size=tiny", "--json", *knobs, *options)
        assert code == 0
        single |= {(j, record["index"]): record["text"] for record in map(json.loads, out.splitlines())}
    for size in (1, 3, 16):
        assert texts(done(file, *knobs, "--batch_size", size)) == single
    assert len(set(single.values())) > 15


def test_the_seed_of_the_run_and_the_number_of_the_row_determine_its_text(done, here, tmp_path):
    file = write_prompts(tmp_path / "prompts.txt", ["Once upon a time"] * 4)
    records = done(file, *KNOBS, "-n", "20")
    assert len({record["text"] for record in records}) == 4
    assert {record["seed"] for record in records} == {11}
    _, first, _ = here("Once upon a time", *KNOBS, "-n", "20", "--model_size", "tiny")
    assert texts(records)[0, 0] + "\n" == first
    assert texts(done(file, *KNOBS, "-n", "20", "--batch_size", "1")) == texts(records)


def test_a_record_equals_that_of_the_single_command_plus_the_row_and_the_format(done, here, tmp_path):
    file = write_prompts(tmp_path / "prompts.txt", ["Once upon a time"])
    args = (*KNOBS, "-n", "6", "--logprobs", "2", "--echo", "--stop", '["zzz", "yyy"]')
    (record,) = done(file, *args)
    _, out, _ = here("Once upon a time", *args, "--json", "--model_size", "tiny")
    single = json.loads(out)
    assert list(record) == ["row", "format", *single]
    assert (record["row"], record["format"]) == (0, 2)
    for name in ("index", "prompt", "text", "finish_reason", "seed", "model", "settings", "usage"):
        assert record[name] == single[name]
    assert [entry["id"] for entry in record["logprobs"]] == [entry["id"] for entry in single["logprobs"]]
    assert record["timings"].keys() == single["timings"].keys()
    assert 0 < record["timings"]["first_token_seconds"] <= record["timings"]["seconds"]


def test_batch_py_has_every_flag_of_gpt2_py_that_is_not_about_one_prompt_or_stdout():
    others = {"row", "json", "stream", "list", "separator", "completion", "draft", *flags.PROMPT_FLAGS}
    assert flags.FLAGS.keys() - command.BATCH.flags.keys() == others


def test_rows_end_at_a_stop_string_or_at_the_length_and_can_slide(done, tmp_path):
    file = write_prompts(tmp_path / "prompts.txt", PROMPTS)
    records = done(file, "-n", "40", "--stop", ".")
    assert {record["finish_reason"] for record in records} <= {"stop", "length"}
    assert not any("." in record["text"] for record in records)
    assert {record["finish_reason"] for record in done(file, "-n", "0")} == {"length"}
    write_prompts(file, ["Once upon a time there was a dog. " * 200, "A", "The"])
    records = done(file, "-n", "300", "--context", "slide", "--ignore_eos", "--batch_size", "2")
    assert {record["usage"]["completion_tokens"] for record in records} == {300}


def test_a_row_whose_sampler_fails_gets_one_record_if_its_samples_wait_for_a_slot(run, tmp_path):
    fields = [{"prompt": "One", "num_samples": 3, "banned_ids": list(range(2048))}, {"prompt": "Two"}]
    code, out, _ = run(write_prompts(tmp_path / "prompts.jsonl", fields), "-n", "2", "--batch_size", "1")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(record["row"], "error" in record) for record in records] == [(0, True), (1, False)]


# ---- usage errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there are no prompts; name a file"),
        (["nowhere.txt"], "cannot read prompts from 'nowhere.txt': No such file"),
        (["README.md"], "the name of 'README.md' does not tell its format: add --format"),
        (["a.txt", "b.txt"], "the prompts must be one file: 'a.txt b.txt'"),
        (["{txt}", "--format", "xml"], "format is 'xml'; it must be txt or jsonl or json or csv or tsv"),
        (
            ["{txt}", "--format", "csv"],
            "there is no column prompt; the columns in the first line are: One",
        ),
        (["{txt}", "--batch_size", "0"], "batch_size is 0; it must be a whole number from 1 upwards"),
        (["{txt}", "--top_p", "9"], "top_p is 9"),
        (["{txt}", "--stream", "False"], "batch.py has no --stream; --help lists its options"),
        (["{txt}", "--outptu", "x"], "there is no flag --outptu; did you mean --output?"),
        (["{txt}", "--output", "{txt}"], "holds the prompts; name another --output"),
        (["{txt}", "--output", "{dir}"], "cannot write to"),
        (["{txt}", "--output", "{dir}/no/such.jsonl"], "No such file or directory"),
        (["{txt}", "--output", "{other}"], "line 1 of"),
        (["{txt}", "--output", "{notes}"], "line 1 of"),
    ],
)
def test_a_usage_error_prints_one_line_exits_with_2_and_loads_no_model(run, tmp_path, monkeypatch, args, message):
    monkeypatch.setattr(local, "load_model", None)
    other = tmp_path / "other.jsonl"
    other.write_text('{"name": "my data"}\n', encoding="utf-8")
    notes = write_prompts(tmp_path / "notes.txt", ["my notes"])
    places = {"txt": write_prompts(tmp_path / "a.txt", ["One"]), "dir": tmp_path, "other": other, "notes": notes}
    code, out, err = run(*[arg.format(**places) for arg in args])
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert other.read_text(encoding="utf-8") == '{"name": "my data"}\n'
    assert notes.read_text(encoding="utf-8") == "my notes\n"


# ---- during a run ----------------------------------------------------------------------------------------------


def test_the_records_of_a_row_are_written_as_soon_as_it_is_finished(run, tmp_path, monkeypatch):
    prompts = write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    out = tmp_path / "out.jsonl"
    extend = local.RowJob.extend
    seen = []

    def watching(self, *args):
        seen.append(len(out.read_bytes().splitlines()))
        extend(self, *args)

    monkeypatch.setattr(local.RowJob, "extend", watching)
    run(prompts, "--output", out, "-n", "3", "--batch_size", "1")
    assert seen == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert len(read_records(out)) == 5


def test_a_prompt_is_read_only_when_a_slot_is_free_for_it(run, tmp_path, monkeypatch):
    read = []
    finished = []
    write = Records.write

    def reading(file, format, source):
        for row in read_rows(file, format, source):
            read.append(row)
            assert len(read) <= len(finished) + 2 + 1  # one may wait outside
            yield row

    def writing(self, records):
        write(self, records)
        finished.append(records)

    monkeypatch.setattr(command, "read_rows", reading)
    monkeypatch.setattr(Records, "write", writing)
    prompts = write_prompts(tmp_path / "prompts.txt", ["One"] * 50)
    run(prompts, "--output", tmp_path / "out.jsonl", "-n", "2", "--batch_size", "2")
    assert len(read) == len(finished) == 50


# ---- runs that are killed or interrupted -----------------------------------------------------------------------


def start(*args, **options):
    """Start batch.py with the bundled model in its own process."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "PYTHON"))}
    words = [sys.executable, "-W", "error", "batch.py", *map(str, args), "--model_size", "tiny"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(words, cwd=ROOT, env=settings, **streams)


def finish(*args):
    """Run batch.py to its end, which must be a success."""
    with start(*args) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, without_summary(err.decode())) == (0, "")


@pytest.fixture
def long_run(tmp_path):
    rng = np.random.default_rng(0)
    fields = [
        {"prompt": PROMPTS[j % 5], "id": j, "n_tokens_to_generate": int(rng.integers(1, 60)), "num_samples": 1 + j % 2}
        for j in range(60)
    ]
    return write_prompts(tmp_path / "prompts.jsonl", fields)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_killed_at_any_moment_loses_no_finished_row_and_writes_none_twice(long_run, tmp_path):
    args = ("--batch_size", "4")  # greedy, because rounding depends on which rows share a step
    whole = tmp_path / "whole.jsonl"
    out = tmp_path / "out.jsonl"
    finish(long_run, "--output", whole, *args)
    expected = read_records(whole)
    moments = random.Random(5)
    killed = 0
    finished_before = set()
    while killed < 25:
        process = start(long_run, "--output", out, *args)
        try:
            process.communicate(timeout=moments.uniform(0.2, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        assert process.returncode in (0, -signal.SIGKILL)
        lines = out.read_bytes().splitlines(keepends=True) if out.exists() else []
        finished = {line for line in lines if line.endswith(b"\n")}
        assert finished_before <= finished | set(lines[-1:])
        finished_before = {line for line in finished if b'"index": 0' in line and b'"num_samples": 2' not in line}
        if process.returncode == 0:  # all rows are finished: start again
            records = read_records(out)
            assert len(records) == len(expected) and texts(records) == texts(expected)
            out.unlink()
            finished_before = set()
    finish(long_run, "--output", out, *args)
    assert len(read_records(out)) == len(expected) == 90
    assert texts(read_records(out)) == texts(expected)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("n_bytes", [1, 700, 1200, 3000])
def test_a_run_killed_during_a_write_continues_after_the_row_before(long_run, tmp_path, run, n_bytes):
    out = tmp_path / "out.jsonl"
    code = (
        "import os, signal, sys\n"
        "from cli.command import run\n"
        "from batch import main\n"
        "from runner.command import BATCH\n"
        "from runner.records import Records\n"
        f"left = {n_bytes}\n"
        "class Dying:\n"
        "    def __init__(self, file): self.file = file\n"
        "    def __getattr__(self, name): return getattr(self.file, name)\n"
        "    def write(self, data):\n"
        "        global left\n"
        "        left -= self.file.write(data[:left])\n"
        "        if left <= 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return len(data)\n"
        "original = Records.open\n"
        "def open(self, overwrite):\n"
        "    original(self, overwrite)\n"
        "    self.file = Dying(self.file)\n"
        "Records.open = open\n"
        "run(main, BATCH)\n"
    )
    args = [str(long_run), "--output", str(out), *KNOBS, "--model_size", "tiny"]
    dying = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, timeout=120)
    assert dying.returncode == -signal.SIGKILL, dying.stderr
    assert out.stat().st_size == n_bytes
    assert run(*args[:-2]) == (0, "", "")
    records = read_records(out)
    assert len(records) == len(texts(records)) == 90


KEPT = "Finished rows are kept; the same command continues with the others.\n"
ENDS = {  # signal -> (exit code, stderr)
    "SIGINT": (130, f"\nInterrupted. {KEPT}"),
    "SIGTERM": (143, f"Error: stopped by the signal SIGTERM. {KEPT}"),
    "SIGHUP": (129, f"Error: stopped by the signal SIGHUP. {KEPT}"),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.parametrize("name", ENDS)
def test_a_signal_ends_a_run_with_one_line_that_says_how_to_continue_and_keeps_finished_rows(long_run, tmp_path, name):
    out = tmp_path / "out.jsonl"
    process = start(long_run, "--output", out, *KNOBS, "--context", "slide", "--batch_size", "2")
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        pass
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == ENDS[name]
    assert 0 < len(read_records(out)) < 90
    finish(long_run, "--output", out, *KNOBS, "--context", "slide", "--batch_size", "9")
    assert len(read_records(out)) == len(texts(read_records(out))) == 90


def test_a_closed_pipe_ends_the_run_without_a_message(long_run):
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -c 5', "sh", sys.executable, "batch.py", str(long_run), "--model_size", "tiny"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    assert (len(done.stdout), done.stderr) == (5, b"")


# ---- help, memory, imports -------------------------------------------------------------------------------------


def test_help_names_every_flag_and_every_setting_of_a_row_in_79_columns(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert [name for name in command.BATCH.flags if f"--{name}" not in out] == []
    about = out.split("--output FILE  ")[0]
    assert [name for name in flags.ROW_FLAGS if name not in about] == []
    assert max(map(len, out.splitlines())) <= 79


def test_the_default_batch_size_is_what_half_of_the_free_memory_holds_from_1_to_64(monkeypatch):
    hparams = {"n_layer": 12, "n_embd": 768, "n_ctx": 1024}  # 75.5 MB a slot
    for free, size in [(0, 1), (400e6, 2), (4e9, 26), (1e12, 64)]:
        monkeypatch.setattr(memory, "free_memory", lambda free=free: int(free))
        assert memory.slots_that_fit(hparams, command_flags.MAX_BATCH_SIZE) == (size, 75_497_472)


def test_free_memory_is_plausible():
    assert 2**20 < memory.free_memory() < 2**50


def test_no_other_module_imports_the_runner():
    for name in ("gpt2", "cli.command", "cli.request", "cli.output", "cli.flags", "utils", "engine.batching"):
        code = f"import sys, {name}; print('batch' in sys.modules, 'runner' in sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["False"] * 2


def test_importing_gpt2_does_not_import_the_engine():
    code = "import sys, gpt2; print('engine' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


# ---- the summary -----------------------------------------------------------------------------------------------


@pytest.fixture
def summary_of(here, tmp_path):
    """Run batch.py; return the last line on stderr that is no error, with its times replaced."""

    def run(*args):
        _, _, err = here(*args, "--model_size", "tiny", main=batch.main, command=command.BATCH)
        line = next(line for line in err.splitlines() if not line.startswith("Error: "))
        return re.sub(r"\d+\.\d s \([\d.,]+ tokens/s\)", "T", line).replace(str(tmp_path), "")

    return run


def test_every_run_ends_with_a_line_of_its_totals_also_in_a_log(summary_of, tmp_path):
    file = write_prompts(tmp_path / "prompts.jsonl", ["One", "Two"])
    out = tmp_path / "out.jsonl"
    args = (file, "-n", "3", "--num_samples", "2")
    assert summary_of(*args) == "2 rows finished, 0 errors: 4 samples, 12 tokens in T; records in stdout"
    first = summary_of(*args, "--output", out, "--limit", "1")
    assert first == "1 row finished, 0 errors: 2 samples, 6 tokens in T; records in '/out.jsonl'"
    with open(file, "a", encoding="utf-8") as opened:
        opened.write("[]\n")
    second = summary_of(*args, "--output", out)
    totals = "1 row finished (1 more by earlier runs), 1 error: 2 samples, 6 tokens in T"
    assert second == f"{totals}; records in '/out.jsonl'"
    nothing = summary_of(*args, "--output", out, "--limit", "2")
    assert nothing == "nothing to do: 2 rows finished by earlier runs; records in '/out.jsonl'"


def test_quiet_hides_the_summary(here, tmp_path):
    file = write_prompts(tmp_path / "prompts.txt", ["One"])
    _, _, err = here(file, "-n", "1", "--model_size", "tiny", "--quiet", main=batch.main, command=command.BATCH)
    assert err == ""
