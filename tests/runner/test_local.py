"""The batch command: every row once, none lost, each the text that the single command makes of it."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2
from cli import flags
from runner import local
from runner import prompts as runner_prompts
from runner.records import Records

ROOT = Path(__file__).parent.parent
PROMPTS = ["Once upon a time", "One day, a cat named Tim", "The sun", "A", "Lily and her mom went to the park. They"]
KNOBS = ("--temperature", "0.9", "--top_p", "0.9", "--seed", "11")


@pytest.fixture
def run(here):
    """A run of batch.py with the bundled model, in this process: (exit code, stdout, stderr)."""

    def run(*args, **options):
        return here(*args, "--model_size", "tiny", main=local.main, table=local.TABLE, **options)

    return run


@pytest.fixture
def done(run):
    """The records on stdout of a run that must succeed in silence."""

    def done(*args, **options):
        code, out, err = run(*args, **options)
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return done


def write(path, prompts):
    """A file of rows, as its name says: texts, or dicts for .jsonl."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(row if isinstance(row, dict) else {"prompt": row}) for row in prompts]
    else:
        lines = prompts
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(records):
    return {(record["row"], record["index"]): record["text"] for record in records}


# ---- a row is the text it is alone -----------------------------------------------------------------------------


def test_texts_do_not_depend_on_the_batch_size_and_are_those_of_the_single_command(done, here, tmp_path):
    fields = [
        {"prompt": prompt, "seed": 100 + j, "n_tokens_to_generate": 5 + 9 * j % 31, "num_samples": 1 + j % 3}
        for j, prompt in enumerate(PROMPTS * 2)
    ]
    file = write(tmp_path / "prompts.jsonl", fields)
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


def test_rows_draw_by_the_seed_of_the_run_and_their_number(done, here, tmp_path):
    file = write(tmp_path / "prompts.txt", ["Once upon a time"] * 4)
    records = done(file, *KNOBS, "-n", "20")
    assert len({record["text"] for record in records}) == 4
    assert {record["seed"] for record in records} == {11}
    _, first, _ = here("Once upon a time", *KNOBS, "-n", "20", "--model_size", "tiny")
    assert texts(records)[0, 0] + "\n" == first
    assert texts(done(file, *KNOBS, "-n", "20", "--batch_size", "1")) == texts(records)


def test_a_record_is_that_of_the_single_command_with_the_row(done, here, tmp_path):
    file = write(tmp_path / "prompts.txt", ["Once upon a time"])
    args = (*KNOBS, "-n", "6", "--logprobs", "2", "--echo", "--stop", '["zzz", "yyy"]')
    (record,) = done(file, *args)
    _, out, _ = here("Once upon a time", *args, "--json", "--model_size", "tiny")
    single = json.loads(out)
    assert list(record) == ["row", *single]
    assert record["row"] == 0
    for name in ("index", "prompt", "text", "finish_reason", "seed", "model", "settings", "usage"):
        assert record[name] == single[name]
    assert [entry["id"] for entry in record["logprobs"]] == [entry["id"] for entry in single["logprobs"]]
    assert record["timings"].keys() == single["timings"].keys()


def test_every_flag_of_gpt2_py_that_changes_a_text_is_taken():
    assert flags.FLAGS.keys() - local.TABLE.keys() == {"json", "stream"}


def test_rows_slide_stop_and_end_as_they_would_alone(done, tmp_path):
    file = write(tmp_path / "prompts.txt", PROMPTS)
    records = done(file, "-n", "40", "--stop", ".")
    assert {record["finish_reason"] for record in records} <= {"stop", "length"}
    assert not any("." in record["text"] for record in records)
    assert {record["finish_reason"] for record in done(file, "-n", "0")} == {"length"}
    write(file, ["Once upon a time there was a dog. " * 200, "A", "The"])
    records = done(file, "-n", "300", "--context", "slide", "--ignore_eos", "--batch_size", "2")
    assert {record["usage"]["completion_tokens"] for record in records} == {300}


# ---- prompts in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("a.txt", "One\n\n Two \r\n123\n{x}", ["One", " Two ", "123", "{x}"]),
        ("a.txt", "\ufeff你好\n", ["你好"]),
        ("a.jsonl", '{"prompt": "One\\ntwo"}\n\n{"prompt": ""}', ["One\ntwo", ""]),
        ("a.ndjson", '\ufeff{"prompt": "a\\ud800b"}\n', ["a\ud800b"]),
        ("a.csv", 'id,prompt\n1,"One, two"\n2,"three\nfour"\n3,\n', ["One, two", "three\nfour", ""]),
        ("a.CSV", "\ufeffprompt\r\n1984\r\nTrue\r\n", ["1984", "True"]),
    ],
)
def test_prompts_arrive_as_they_were_written(done, tmp_path, name, content, prompts):
    (tmp_path / name).write_bytes(content.encode())
    assert [record["prompt"] for record in done(tmp_path / name, "-n", "1")] == prompts


@pytest.mark.parametrize(
    ("args", "piped", "prompts"),
    [
        ([], b"One\nTwo\n", ["One", "Two"]),
        ([], b'{"prompt": "One"}\n', ["One"]),
        (["--format", "txt"], b'{"prompt": "One"}\n', ['{"prompt": "One"}']),
        (["--format", "csv"], b"n,prompt\n1,One\n", ["One"]),
        ([], b"", []),
    ],
)
def test_prompts_come_from_a_pipe_too(done, args, piped, prompts):
    assert [record["prompt"] for record in done("-", *args, "-n", "1", piped=piped)] == prompts


def test_other_fields_come_out_as_they_went_in_under_a_name_of_their_own(done, tmp_path):
    fields = {"prompt": "One", "id": "a7", "label": [1, None], "index": 5, "text": "mine", "context": "a long one"}
    (record,) = done(write(tmp_path / "prompts.jsonl", [fields]), "-n", "2")
    assert (record["id"], record["label"], record["context"]) == ("a7", [1, None], "a long one")
    assert (record["index"], record["input_index"], record["input_text"]) == (0, 5, "mine")
    (tmp_path / "prompts.csv").write_text("prompt,id,temperature,stop\nOne,007,0.5,\n", encoding="utf-8")
    (record,) = done(tmp_path / "prompts.csv", "-n", "2", "--seed", "1")
    assert record["id"] == "007" and record["settings"]["temperature"] == 0.5 and "stop" not in record["settings"]


def test_a_row_s_own_settings_are_for_that_row_alone(done, tmp_path):
    fields = [
        {"prompt": "Once", "max_new_tokens": 3},
        {"prompt": "Once", "n_tokens_to_generate": 4, "temperature": None},
        {"prompt": "Once", "strategy": "top_k", "top_k": 5},
        {"prompt": "Once"},
    ]
    records = sorted(
        done(write(tmp_path / "prompts.jsonl", fields), *KNOBS, "-n", "9"), key=lambda record: record["row"]
    )
    assert [record["usage"]["completion_tokens"] for record in records] == [3, 4, 9, 9]
    assert [record["settings"].get("top_k") for record in records] == [None, None, 5, None]
    assert all(record["settings"]["temperature"] == 0.9 for record in records)


# ---- what is wrong ---------------------------------------------------------------------------------------------

BAD = [
    ("not json", "it is not JSON (Expecting value"),
    ('{"prompt": NaN}', "it is not JSON (NaN is none of its numbers)"),
    ("[" * 100_000, "it is not JSON"),
    ("[1]", "it is not a JSON object"),
    ('{"text": "x"}', "it has no prompt"),
    ('{"prompt": 5}', "its prompt is 5; it must be a text"),
    ('{"prompt": "x", "temperature": "hot"}', "temperature is 'hot'; it must be a number"),
    ('{"prompt": "x", "strategy": ["top_k"]}', "Unknown sampling strategy: ['top_k']"),
    ('{"prompt": "x", "strategy": "greedy", "top_k": 5}', "top_k has no effect with strategy greedy"),
    ('{"prompt": "x", "stop": 5}', "stop is 5; it must be a text"),
    ('{"prompt": "x", "logit_bias": {"a": 1}}', "logit_bias is {'a': 1}"),
    ('{"prompt": "x", "banned_ids": [99999]}', "there is no token 99999"),
    ('{"prompt": "x", "seed": -1}', "seed is -1"),
    ('{"prompt": "x", "num_samples": 1000000000}', "it must be a whole number from 1 to 10000"),
    ('{"prompt": "x", "min_new_tokens": 9}', "min_new_tokens is 9, but n_tokens_to_generate only 2"),
    (json.dumps({"prompt": " word" * 600}), "this model reads at most 512"),
    (json.dumps({"prompt": "x", "banned_ids": list(range(2048))}), "every token is banned"),
]


def test_a_bad_row_gets_a_record_with_its_line_and_the_others_are_done(run, tmp_path):
    lines = [line for bad, _ in BAD for line in (bad, "", '{"prompt": "Once", "id": 7}')]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    code, out, err = run(file, "-n", "2", "--batch_size", "3")
    records = sorted(map(json.loads, out.splitlines()), key=lambda record: record["row"])
    assert [record["row"] for record in records] == list(range(2 * len(BAD)))
    for i, (_, message) in enumerate(BAD):
        assert message in records[2 * i]["error"]
        assert records[2 * i]["line"] == 3 * i + 1
        assert records[2 * i + 1]["usage"]["completion_tokens"] == 2 and records[2 * i + 1]["id"] == 7
    assert code == 1
    assert err.startswith(f"Error: {len(BAD)} of {2 * len(BAD)} rows could not be done") and err.count("\n") == 1


def test_bytes_that_are_no_text_and_tables_that_are_none_are_bad_rows_too(run, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"One\nBl\xf6\xdfe\nTwo\n")
    (tmp_path / "a.csv").write_bytes(b"prompt,id\nOne,1\nBl\xf6\xdfe,2\nx\nTwo,3,4\nFive,5\n")
    for name, n_bad, n_rows in (("a.txt", 1, 3), ("a.csv", 3, 5)):
        code, out, _ = run(tmp_path / name, "-n", "1")
        records = [json.loads(line) for line in out.splitlines()]
        assert code == 1
        assert (sum("error" in record for record in records), len(records)) == (n_bad, n_rows)
        assert any("it is not UTF-8 text (byte 2 of it)" in record.get("error", "") for record in records)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there are no prompts; name a file"),
        (["nowhere.txt"], "cannot read prompts from 'nowhere.txt': No such file"),
        (["README.md"], "the name of 'README.md' does not say what is in it: add --format"),
        (["a.txt", "b.txt"], "there can be only one file of prompts: 'a.txt b.txt'"),
        (["{txt}", "--format", "xml"], "format is 'xml'; it must be txt or jsonl or csv"),
        (["{txt}", "--format", "csv"], "there is no column prompt; the first line names the columns: One"),
        (["{txt}", "--batch_size", "0"], "batch_size is 0; it must be a whole number from 1 upwards"),
        (["{txt}", "--top_p", "9"], "top_p is 9"),
        (["{txt}", "--stream", "False"], "batch.py has no --stream; --help explains those it has"),
        (["{txt}", "--outptu", "x"], "there is no flag --outptu; did you mean --output?"),
        (["{txt}", "--output", "{txt}"], "holds the prompts; name another --output"),
        (["{txt}", "--output", "{dir}"], "cannot write to"),
        (["{txt}", "--output", "{dir}/no/such.jsonl"], "No such file or directory"),
        (["{txt}", "--output", "{other}"], "line 1 of"),
        (["{txt}", "--output", "{notes}"], "line 1 of"),
    ],
)
def test_a_mistake_costs_one_sentence_exit_code_2_and_no_model(run, tmp_path, monkeypatch, args, message):
    monkeypatch.setattr(local.utils, "load_encoder_hparams_and_params", None)
    other = tmp_path / "other.jsonl"
    other.write_text('{"name": "my data"}\n', encoding="utf-8")
    notes = write(tmp_path / "notes.txt", ["my notes"])
    places = {"txt": write(tmp_path / "a.txt", ["One"]), "dir": tmp_path, "other": other, "notes": notes}
    code, out, err = run(*[arg.format(**places) for arg in args])
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert other.read_text(encoding="utf-8") == '{"name": "my data"}\n'
    assert notes.read_text(encoding="utf-8") == "my notes\n"


# ---- going on --------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.jsonl"


def test_a_finished_run_is_recognised_without_loading_a_model(run, files, monkeypatch):
    prompts, out = files
    assert run(prompts, "--output", out, "--temperature", "1", "-n", "5") == (0, "", "")
    before = out.read_bytes()
    monkeypatch.setattr(local.utils, "load_encoder_hparams_and_params", None)
    assert run(prompts, "--output", out, "--temperature", "1", "-n", "5") == (0, "", "")
    assert out.read_bytes() == before


@pytest.mark.parametrize("torn", [b"", b'{"row": 4, "index": 0, "pro', b'{"row": 3'])
@pytest.mark.parametrize("n_samples", [1, 2])
def test_a_run_goes_on_where_it_was_stopped_with_the_seed_it_had(run, files, torn, n_samples):
    prompts, out = files
    args = (prompts, "--output", out, "--temperature", "1", "-n", "8", "--num_samples", n_samples)
    run(*args)
    whole = read(out)
    lines = out.read_bytes().splitlines(keepends=True)
    for kept in range(n_samples, len(lines)):  # of one row at least: it tells the seed
        out.write_bytes(b"".join(lines[:kept]) + torn)
        assert run(*args) == (0, "", "")
        assert texts(read(out)).keys() == texts(whole).keys() and len(read(out)) == len(whole)
        assert {record["seed"] for record in read(out)} == {whole[0]["seed"]}
        assert out.read_bytes().startswith(b"".join(lines[: kept // n_samples * n_samples]))


def test_only_bad_rows_are_tried_again(run, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", ["One", {"prompt": 5}, "Two", {"prompt": 6}, "Three"])
    out = tmp_path / "out.jsonl"
    args = (prompts, "--output", out, "--temperature", "1", "-n", "4", "--batch_size", "1")
    assert run(*args)[0] == 1
    first = texts(record for record in read(out) if "error" not in record)
    write(prompts, ["One", "Mended", "Two", {"prompt": 6}, "Three"])
    code, _, err = run(*args)
    assert (code, err.split(";")[0]) == (1, "Error: 1 of 5 rows could not be done")
    records = read(out)
    assert sorted(record["row"] for record in records) == [0, 1, 2, 3, 4]
    second = texts(record for record in records if "error" not in record)
    assert {row: second[row] for row in first} == first and (1, 0) in second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--temperature", "0.5"], "row 0 of {out} was made with temperature 1, now it is 0.5"),
        (["--top_k", "5"], "with top_k not given, now it is 5"),
        (["--seed", "4"], "with seed 3, now it is 4"),
        (["-n", "9"], "with n_tokens_to_generate 4, now it is 9"),
        (["--num_samples", "2"], "with num_samples not given, now it is 2"),
        (["--echo"], "with echo not given, now it is true"),
        (["--logprobs", "1"], "with logprobs not given, now it is 1"),
        (["--stop", "x"], 'with stop not given, now it is ["x"]'),
    ],
)
def test_settings_that_are_not_those_of_the_run_are_refused_by_name(run, files, monkeypatch, change, message):
    prompts, out = files
    args = ["--temperature", "1", "--seed", "3", "-n", "4"]
    run(prompts, "--output", out, *args)
    before = out.read_bytes()
    out.write_bytes(before[: before.index(b"\n") + 1])  # of one row, the others are still to be done
    monkeypatch.setattr(local.utils, "load_encoder_hparams_and_params", None)
    kept = [word for i in (0, 2, 4) if args[i] != change[0] for word in args[i : i + 2]]
    code, _, err = run(prompts, "--output", out, *kept, *change)
    assert code == 2
    assert message.format(out=repr(str(out))) in err
    assert "begin anew with --overwrite" in err


def test_another_prompt_in_a_finished_row_is_refused_and_overwrite_begins_anew(run, files):
    prompts, out = files
    run(prompts, "--output", out, "-n", "4")
    write(prompts, ["Another", *PROMPTS[1:]])
    code, _, err = run(prompts, "--output", out, "-n", "4")
    assert code == 2 and 'with prompt "Once upon a time", now it is "Another"' in err
    assert run(prompts, "--output", out, "-n", "3", "--overwrite") == (0, "", "")
    assert {record["usage"]["completion_tokens"] for record in read(out)} == {3}
    assert len(read(out)) == len(PROMPTS)


def test_two_runs_do_not_write_to_one_file(run, files):
    prompts, out = files
    records = Records(out)
    code, _, err = run(prompts, "--output", out)
    records.close()
    assert code == 2 and "another run is writing to" in err


def test_a_row_is_there_as_soon_as_it_is_done(run, files, monkeypatch):
    prompts, out = files
    seen, original = [], local.Run.follow

    def watching(self, job):
        original(self, job)
        seen.append(len(out.read_bytes().splitlines()))

    monkeypatch.setattr(local.Run, "follow", watching)
    run(prompts, "--output", out, "-n", "3", "--batch_size", "1")
    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 5]


def test_a_prompt_is_read_only_when_a_slot_is_free_for_it(run, tmp_path, monkeypatch):
    n_read, n_finished = [0], [0]
    original = runner_prompts.read_rows

    def reading(file, kind):
        for row in original(file, kind):
            n_read[0] += 1
            assert n_read[0] <= n_finished[0] + 2 + 1  # one may wait outside
            yield row

    write_records = Records.write
    monkeypatch.setattr(local, "read_rows", reading)
    monkeypatch.setattr(
        Records,
        "write",
        lambda self, records: (write_records(self, records), n_finished.__setitem__(0, n_finished[0] + 1)),
    )
    run(
        write(tmp_path / "prompts.txt", ["One"] * 50),
        "--output",
        tmp_path / "out.jsonl",
        "-n",
        "2",
        "--batch_size",
        "2",
    )
    assert n_read == n_finished == [50]


# ---- ends that are none ----------------------------------------------------------------------------------------


def start(*args, **options):
    """batch.py with the bundled model, in a process of its own."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PICOGPT", "PYTHON"))}
    command = [sys.executable, "-W", "error", "batch.py", *map(str, args), "--model_size", "tiny"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=ROOT, env=settings, **streams)


def finish(*args):
    """The same to its end, which must be a good one."""
    with start(*args) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")


@pytest.fixture
def long_run(tmp_path):
    rng = np.random.default_rng(0)
    fields = [
        {"prompt": PROMPTS[j % 5], "id": j, "n_tokens_to_generate": int(rng.integers(1, 60)), "num_samples": 1 + j % 2}
        for j in range(60)
    ]
    return write(tmp_path / "prompts.jsonl", fields)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_at_any_moment_it_loses_no_finished_row_and_does_none_twice(long_run, tmp_path):
    args = ("--batch_size", "4")  # greedy: which rows share a step depends on the moment, and so does rounding
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    finish(long_run, "--output", whole, *args)
    moments, killed, finished_before = random.Random(5), 0, set()
    while killed < 25:
        process = start(long_run, "--output", out, *args)
        try:
            process.communicate(timeout=moments.uniform(0.2, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        lines = out.read_bytes().splitlines(keepends=True) if out.exists() else []
        finished = {line for line in lines if line.endswith(b"\n")}
        assert finished_before <= finished | set(lines[-1:])
        finished_before = {line for line in finished if b'"index": 0' in line and b'"num_samples": 2' not in line}
        if process.returncode == 0:  # it was all done: begin again
            assert len(read(out)) == len(read(whole)) and texts(read(out)) == texts(read(whole))
            out.unlink()
            finished_before = set()
    finish(long_run, "--output", out, *args)
    assert len(read(out)) == len(read(whole)) == 90
    assert texts(read(out)) == texts(read(whole))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("n_bytes", [1, 700, 1200, 3000])
def test_killed_in_the_middle_of_a_write_it_goes_on_from_the_row_before(long_run, tmp_path, run, n_bytes):
    out = tmp_path / "out.jsonl"
    code = (
        "import os, signal, sys\n"
        "from cli.command import run\n"
        "from runner.local import TABLE, main\n"
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
        "run(main, TABLE)\n"
    )
    args = [str(long_run), "--output", str(out), *KNOBS, "--model_size", "tiny"]
    dying = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, timeout=120)
    assert dying.returncode == -signal.SIGKILL, dying.stderr
    assert out.stat().st_size == n_bytes
    assert run(*args[:-2]) == (0, "", "")
    records = read(out)
    assert len(records) == len(texts(records)) == 90


def test_an_interrupt_is_exit_code_130_says_how_to_go_on_and_keeps_what_is_done(long_run, tmp_path):
    out = tmp_path / "out.jsonl"
    process = start(long_run, "--output", out, *KNOBS, "--context", "slide", "--batch_size", "2")
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode() == "\nInterrupted. What is finished is kept; the same command goes on from there.\n"
    assert 0 < len(read(out)) < 90
    finish(long_run, "--output", out, *KNOBS, "--context", "slide", "--batch_size", "9")
    assert len(read(out)) == len(texts(read(out))) == 90


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_told_with_the_way_to_go_on(run, files):
    prompts, _ = files
    code, _, err = run(prompts, "--output", "/dev/full", "-n", "2")
    assert code == 1
    assert err == (
        "Error: cannot write to '/dev/full': No space left on device; make room and run the same command again, "
        "which goes on where this one stopped\n"
    )


def test_a_disk_that_fills_up_in_the_middle_leaves_whole_rows(run, files, monkeypatch):
    prompts, out = files
    assert run(prompts, "--output", out, "-n", "9", "--batch_size", "1")[0] == 0
    whole = read(out)
    out.unlink()
    original = Records.open

    class Full:
        """A file on a disk with room for 1,000 bytes."""

        def __init__(self, file):
            self.file, self.room = file, 1000

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.room <= 0:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

    def opening(self, overwrite):
        original(self, overwrite)
        self.file = Full(self.file)

    monkeypatch.setattr(Records, "open", opening)
    code, _, err = run(prompts, "--output", out, "-n", "9", "--batch_size", "1")
    assert code == 1 and "No space left on device" in err
    assert 0 < len(read(out)) < len(whole)
    monkeypatch.setattr(Records, "open", original)
    assert run(prompts, "--output", out, "-n", "9") == (0, "", "")
    assert texts(read(out)) == texts(whole)


def test_a_closed_pipe_is_quiet(long_run):
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -c 5', "sh", sys.executable, "batch.py", str(long_run), "--model_size", "tiny"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    assert (len(done.stdout), done.stderr) == (5, b"")


# ---- the house -------------------------------------------------------------------------------------------------


def test_help_names_every_flag_and_fits_a_terminal(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert [name for name in local.TABLE if f"--{name}" not in out] == []
    assert max(map(len, out.splitlines())) <= 84


def test_the_batch_size_is_what_memory_allows_from_one_to_sixty_four(monkeypatch):
    hparams = {"n_layer": 12, "n_embd": 768, "n_ctx": 1024}  # 75.5 MB a slot
    for free, size in [(0, 1), (400e6, 2), (4e9, 26), (1e12, 64)]:
        monkeypatch.setattr(local, "free_memory", lambda free=free: int(free))
        assert local.default_batch_size(hparams) == (size, 75_497_472)


def test_free_memory_is_some_and_no_more_than_there_is():
    assert 2**20 < local.free_memory() < 2**50


def test_the_rest_of_the_program_does_not_need_it():
    for name in ("gpt2", "cli", "writer", "utils", "flags"):
        code = f"import sys, {name}; print('batch' in sys.modules, 'slots' in sys.modules, 'rows' in sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["False"] * 3


def test_the_engine_computes_with_the_model_s_own_functions():
    import slots

    assert slots.gpt2 is gpt2.gpt2 and slots.transformer is gpt2.transformer
