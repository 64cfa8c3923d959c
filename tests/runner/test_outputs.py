"""Outputs of a batch run that are no plain file, or that other programs change, and signals during a write."""

import os
import signal
import stat
import threading
from functools import partial

import pytest
from batch_runs import PROMPTS, read_records, run_batch, texts, write_prompts

from runner import command, records
from runner.records import Records
from runner.signals import delayed_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="written for POSIX: FIFOs, links, signals")
ARGS = ("-n", "3", "--batch_size", "1")


@pytest.fixture
def run(here):
    return partial(run_batch, here)


@pytest.fixture
def files(tmp_path):
    return write_prompts(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.jsonl"


@pytest.fixture
def after_two_rows(monkeypatch):
    """A function that calls another one when two rows have been written."""

    def arrange(action):
        original = Records.write
        n_rows = []

        def write(self, *args):
            original(self, *args)
            n_rows.append(1)
            if len(n_rows) == 2:
                action()

        monkeypatch.setattr(Records, "write", write)

    return arrange


# ---- pipes and links -------------------------------------------------------------------------------------------


def test_a_fifo_receives_every_row(run, files):
    prompts, out = files
    os.mkfifo(out)
    received = []
    reader = threading.Thread(target=lambda: received.extend(read_records(out)))
    reader.start()
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")
    reader.join()
    assert [record["prompt"] for record in received] == PROMPTS


def test_a_run_ends_with_1_if_the_reader_of_its_fifo_has_closed_it(run, files):
    prompts, out = files
    os.mkfifo(out)
    reader = threading.Thread(target=lambda: out.open("rb").close())
    reader.start()
    code, _, err = run(prompts, "--output", out, *ARGS)
    reader.join()
    assert (code, err) == (1, f"Error: cannot write to '{out}': Broken pipe\n")


def test_a_link_to_the_output_stays_a_link_and_the_mode_of_the_file_stays(run, files, tmp_path):
    prompts, out = files
    target = tmp_path / "target.jsonl"
    out.symlink_to(target)
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")
    target.chmod(0o600)
    lines = target.read_bytes().splitlines(keepends=True)
    target.write_bytes(b"".join([lines[0], b"\n", *lines[2:]]))  # the file will be rewritten
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")
    assert out.is_symlink() and len(read_records(target)) == len(PROMPTS)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_an_output_with_several_hard_links_is_refused(run, files, tmp_path):
    prompts, out = files
    run(prompts, "--output", out, *ARGS)
    os.link(out, tmp_path / "other")
    code, _, err = run(prompts, "--output", out, *ARGS)
    assert code == 2 and "cannot write to" in err and "it has 2 names (hard links)" in err


def test_the_prompts_on_stdin_are_not_overwritten(files):
    prompts, out = files
    os.symlink(prompts, out)
    with open(prompts, "rb") as file, pytest.raises(ValueError, match="holds the prompts; name another --output"):
        command.check_output(file, str(out))


# ---- files that other programs change --------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [ARGS, ("-n", "3", "--batch_size", "9")])
def test_an_output_that_is_deleted_during_a_run_is_an_error(run, files, after_two_rows, batch):
    prompts, out = files
    after_two_rows(out.unlink)
    code, _, err = run(prompts, "--output", out, *batch)
    assert code == 1 and "because another program deleted or replaced it during this run" in err


def test_an_output_that_is_replaced_during_a_run_is_an_error(run, files, tmp_path, after_two_rows):
    prompts, out = files
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    after_two_rows(partial(os.replace, other, out))
    assert run(prompts, "--output", out, *ARGS)[0] == 1
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("size", [0, 10])
@pytest.mark.parametrize("n_rows", [2, 5])
def test_an_output_that_is_truncated_during_a_run_is_an_error(run, files, after_two_rows, size, n_rows):
    prompts, out = files
    write_prompts(prompts, PROMPTS[:n_rows])
    after_two_rows(partial(os.truncate, out, size))
    code, _, err = run(prompts, "--output", out, *ARGS)
    assert code == 1 and f"another program changed it: it has {size} bytes instead of" in err
    assert b"\0" not in out.read_bytes()
    out.write_bytes(b"")
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_row_is_not_left_behind_a_record_that_was_torn_between_the_check_and_the_write(
    run, files, tmp_path, monkeypatch, name
):
    prompts, _ = files
    out = tmp_path / name
    check = records.Records.check
    sizes = []

    def tearing(self):
        check(self)
        sizes.append(self.size)
        if len(sizes) == 3:
            os.truncate(out, self.size - 5)

    monkeypatch.setattr(records.Records, "check", tearing)
    code, _, err = run(prompts, "--output", out, *ARGS)
    assert code == 1 and "another program changed it" in err
    assert out.stat().st_size == sizes[2] - 5
    monkeypatch.undo()
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")


def test_rows_go_to_the_file_that_has_the_name_after_the_lock(run, files, monkeypatch):
    prompts, out = files
    run(prompts, "--output", out, *ARGS)
    whole = read_records(out)
    lock = records.files.try_lock
    n_calls = []

    def locking(file):
        n_calls.append(file)
        if len(n_calls) == 1:  # another run rewrites the file in between
            content = out.read_bytes()
            out.unlink()
            out.write_bytes(content[: content.index(b"\n") + 1])
        return lock(file)

    monkeypatch.setattr(records.files, "try_lock", locking)
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")
    assert texts(read_records(out)) == texts(whole) and len(n_calls) == 2


def test_an_output_that_is_always_replaced_is_a_usage_error(run, files, monkeypatch):
    prompts, out = files

    def replaced(file):
        out.unlink()
        return True

    monkeypatch.setattr(records.files, "try_lock", replaced)
    code, _, err = run(prompts, "--output", out, *ARGS)
    assert code == 2 and "other programs keep replacing" in err


# ---- signals during a write ------------------------------------------------------------------------------------


@pytest.fixture
def written_in_parts(monkeypatch):
    """A function that divides each write into parts of 50 bytes and sends signals after the first part of all."""
    original = Records.open

    def arrange(signals):
        class Slow:
            def __init__(self, file):
                self.file = file

            def __getattr__(self, name):
                return getattr(self.file, name)

            def write(self, data):
                n_written = self.file.write(data[:50])
                while signals:
                    signal.raise_signal(signals.pop(0))
                return n_written

        def opening(self, overwrite):
            original(self, overwrite)
            self.file = Slow(self.file)

        monkeypatch.setattr(Records, "open", opening)

    return arrange


@pytest.mark.parametrize(
    ("signum", "code", "message"),
    [
        (signal.SIGINT, 130, "\nInterrupted. Finished rows are kept; the same command continues with the others.\n"),
        (
            signal.SIGTERM,
            143,
            "Error: stopped by the signal SIGTERM. Finished rows are kept; the same command continues with the others."
            "\n",
        ),
    ],
)
def test_a_signal_during_a_write_waits_until_the_row_is_written(run, files, written_in_parts, signum, code, message):
    prompts, out = files
    written_in_parts([signum])
    assert run(prompts, "--output", out, *ARGS) == (code, "", message)
    assert len(read_records(out)) == 1 and out.read_bytes().endswith(b"\n")


def test_a_second_signal_during_a_write_is_delivered_at_once_and_no_part_of_the_row_remains(
    run, files, written_in_parts
):
    prompts, out = files
    written_in_parts([signal.SIGTERM, signal.SIGINT])
    assert run(prompts, "--output", out, *ARGS)[0] == 130
    assert out.read_bytes() == b""


def test_delayed_signals_restores_the_handlers_and_sends_the_signal_again():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    steps = []
    with pytest.raises(KeyboardInterrupt), delayed_signals():
        signal.raise_signal(signal.SIGINT)
        steps.append("written")
    assert steps == ["written"]
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_delayed_signals_does_nothing_outside_the_main_thread():
    results = []

    def work():
        with delayed_signals():
            results.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [signal.getsignal(signal.SIGINT)]
