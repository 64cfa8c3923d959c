"""The output of a batch run: each row exactly once, whatever ended the run before."""

import json
import os
import shutil
from functools import partial
from operator import itemgetter
from pathlib import Path

import pytest
from batch_runs import PROMPTS, ROOT, read_records, run_batch, texts, write_prompts

import batch
from runner import local
from runner.command import BATCH
from runner.record_format import COMPLETION_FIELDS as RECORD_FIELDS
from runner.record_format import parse
from runner.records import Records


@pytest.fixture
def run(here):
    return partial(run_batch, here)


@pytest.fixture
def files(tmp_path):
    return write_prompts(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.jsonl"


def test_a_finished_run_is_recognized_without_loading_the_model(run, files, monkeypatch):
    prompts, out = files
    assert run(prompts, "--output", out, "--temperature", "1", "-n", "5") == (0, "", "")
    before = out.read_bytes()
    monkeypatch.setattr(local, "load_model", None)
    assert run(prompts, "--output", out, "--temperature", "1", "-n", "5") == (0, "", "")
    assert out.read_bytes() == before


FIRST_VERSION = """\
{"row": 0, "id": 7, "index": 0, "prompt": "The sun", "text": " was shining brightly", "finish_reason": "length", \
"seed": 5, "model": "tiny", "settings": {"n_tokens_to_generate": 4, "top_p": 0.9, "temperature": 0.7, \
"strategy": "top_p", "stop": ["."], "seed": 5}, "usage": {"prompt_tokens": 2, "completion_tokens": 4}, \
"timings": {"first_token_seconds": 0.04357, "seconds": 0.053738, "tokens_per_second": 74.436}}
{"row": 1, "index": 0, "prompt": "A", "text": " day, a little", "finish_reason": "length", \
"seed": 3, "model": "tiny", "settings": {"n_tokens_to_generate": 4, "top_p": 0.9, "strategy": "top_p"}, \
"usage": {"prompt_tokens": 1, "completion_tokens": 4}, \
"timings": {"first_token_seconds": 0.043485, "seconds": 0.053853, "tokens_per_second": 74.276}}
"""


def test_records_of_the_first_version_are_finished_rows_and_have_the_same_texts(run, tmp_path):
    rows = [{"prompt": "The sun", "id": 7, "seed": 5, "temperature": 0.7, "stop": "."}, {"prompt": "A"}]
    prompts = write_prompts(tmp_path / "prompts.jsonl", rows)
    old = tmp_path / "old.jsonl"
    old.write_text(FIRST_VERSION, encoding="utf-8")
    args = ("-n", "4", "--strategy", "top_p")
    assert run(prompts, "--output", old, *args) == (0, "", "")
    assert old.read_text(encoding="utf-8") == FIRST_VERSION
    new = tmp_path / "new.jsonl"
    assert run(prompts, "--output", new, "--seed", "3", *args) == (0, "", "")
    for made, first in zip(read_records(new), read_records(old), strict=True):
        changed = {"format", "settings", "timings", "fingerprint"}
        assert {name: made[name] for name in made.keys() - changed} == {
            name: first[name] for name in first.keys() - changed
        }
        assert (made["format"], made["timings"].keys()) == (2, first["timings"].keys())
    sampling = {"n_tokens_to_generate": 4, "temperature": 0.7, "top_p": 0.9}
    assert [record["settings"] for record in read_records(new)] == [
        sampling | {"stop": ["."], "seed": 5},
        sampling | {"temperature": 1.0},
    ]


def test_a_run_continues_with_the_same_model_in_another_place_and_with_no_other_model(files, here, tmp_path):
    prompts, out = files
    place = Path(shutil.copytree(ROOT / "models" / "tiny", tmp_path / "other" / "tiny"))
    moved = place.rename(place.with_name("moved"))

    def complete(model):
        return here(prompts, "--output", out, "-n", "3", "--model_size", model, main=batch.main, command=BATCH)

    assert complete("tiny")[0] == 0
    before = out.read_bytes()
    assert complete(moved)[0] == 0
    with open(moved.rename(place) / "vocab.bpe", "ab") as file:
        file.write(b"\n")
    code, _, err = complete(place)
    assert code == 2
    assert "was made with fingerprint" in err
    assert out.read_bytes() == before


SETTINGS = [  # (options of a run, other options with the same values in effect)
    (["--preset", "chatbot"], ["--temperature", "0.5", "--top_p", "0.5"]),
    (["--strategy", "top_k"], ["--top_k", "50", "--min_p", "0", "--top_p", "1"]),
    (["--strategy", "mirostat"], ["--mirostat_tau", "5", "--mirostat_eta", "0.1", "--temperature", "1"]),
    (["--repetition_penalty", "1", "--presence_penalty", "0"], ["--temperature", "0"]),
    (["--num_samples", "1", "--stop", "[]", "--min_new_tokens", "0"], ["--context", "stop", "--keep", "0"]),
    (["--stop", "a", "--logit_bias", '{"5": -1}'], ["--stop", '["a"]', "--logit_bias", '{"5": -1.0}']),
]


@pytest.mark.parametrize(("args", "others"), SETTINGS)
def test_a_run_continues_with_other_options_if_the_values_in_effect_are_the_same(run, files, args, others):
    prompts, out = files
    assert run(prompts, "--output", out, "-n", "3", "--seed", "1", *args) == (0, "", "")
    before = out.read_bytes()
    assert run(prompts, "--output", out, "-n", "3", "--seed", "1", *others) == (0, "", "")
    assert run(prompts, "--output", out, "-n", "3", "--seed", "1", *others, "--top_k", "7", "--temp", "1")[0] == 2
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("first", "args"),
    [
        ({"strategy": "mirostat"}, ["--strategy", "mirostat"]),
        ({"strategy": "mirostat", "mirostat_tau": 3}, ["--mirostat_tau", "3"]),
        ({"temperature": 0.5, "top_p": 0.5, "preset": "chatbot"}, ["--preset", "chatbot"]),
        ({"top_k": 50, "strategy": "top_k"}, ["--strategy", "top_k"]),
        ({"num_samples": 1, "echo": False, "temperature": 0}, []),
        (
            {"logit_bias": {"5": -1}, "banned_ids": [7], "stop": ["."]},
            ["--logit_bias", '{"5":-1}', "--banned_ids", "7"],
        ),
        ({"temperature": 1.0, "knob_of_a_later_version": 2}, None),
    ],
)
def test_the_settings_of_the_first_version_are_compared_by_the_values_in_effect(run, tmp_path, first, args):
    prompts = write_prompts(tmp_path / "prompts.txt", ["A"])
    record = json.loads(FIRST_VERSION.splitlines()[1]) | {"row": 0, "settings": {"n_tokens_to_generate": 4, **first}}
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps(record) + "\n", encoding="utf-8")
    stop = ["--stop", "."] if "stop" in first else []
    code, _, err = run(prompts, "--output", out, "-n", "4", *(["--temp", "1"] if args is None else args), *stop)
    assert (code, err == "") == ((2, False) if args is None else (0, True))
    if args is None:
        assert "with knob_of_a_later_version 2, now it is not given" in err


@pytest.mark.parametrize("incomplete", [b"", b'{"row": 4, "index": 0, "pro', b'{"row": 3'])
@pytest.mark.parametrize("n_samples", [1, 2])
def test_a_run_continues_where_it_was_stopped_with_its_seed(run, files, incomplete, n_samples):
    prompts, out = files
    args = (prompts, "--output", out, "--temperature", "1", "-n", "8", "--num_samples", n_samples)
    run(*args)
    whole = read_records(out)
    lines = out.read_bytes().splitlines(keepends=True)
    for kept in range(n_samples, len(lines)):  # at least one row, which has the seed
        out.write_bytes(b"".join(lines[:kept]) + incomplete)
        assert run(*args) == (0, "", "")
        assert texts(read_records(out)).keys() == texts(whole).keys() and len(read_records(out)) == len(whole)
        assert {record["seed"] for record in read_records(out)} == {whole[0]["seed"]}
        assert out.read_bytes().startswith(b"".join(lines[: kept // n_samples * n_samples]))


def test_only_failed_rows_are_retried(run, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", ["One", {"prompt": 5}, "Two", {"prompt": 6}, "Three"])
    out = tmp_path / "out.jsonl"
    args = (prompts, "--output", out, "--temperature", "1", "-n", "4", "--batch_size", "1")
    assert run(*args)[0] == 1
    first = texts(record for record in read_records(out) if "error" not in record)
    write_prompts(prompts, ["One", "Fixed", "Two", {"prompt": 6}, "Three"])
    code, _, err = run(*args)
    assert (code, err.split(";")[0]) == (1, "Error: 1 of 5 rows failed")
    records = read_records(out)
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
def test_an_option_that_differs_from_the_earlier_run_is_named_in_the_error(run, files, monkeypatch, change, message):
    prompts, out = files
    args = ["--temperature", "1", "--seed", "3", "-n", "4"]
    run(prompts, "--output", out, *args)
    before = out.read_bytes()
    out.write_bytes(before[: before.index(b"\n") + 1])  # one row; the others are still to be done
    monkeypatch.setattr(local, "load_model", None)
    kept = [word for i in (0, 2, 4) if args[i] != change[0] for word in args[i : i + 2]]
    code, _, err = run(prompts, "--output", out, *kept, *change)
    assert code == 2
    assert message.format(out=repr(str(out))) in err
    assert "start again with --overwrite" in err


def test_a_difference_that_is_found_after_generation_has_begun_exits_with_1(run, files):
    prompts, out = files
    run(prompts, "--output", out, "-n", "4", "--batch_size", "1")
    out.write_bytes(out.read_bytes().splitlines(keepends=True)[2])
    code, _, err = run(prompts, "--output", out, "-n", "3", "--batch_size", "1")
    assert code == 1 and "row 2 of" in err and "with n_tokens_to_generate 4, now it is 3" in err
    assert sorted(record["row"] for record in read_records(out)) == [0, 1, 2]


def test_another_prompt_in_a_finished_row_is_an_error_and_overwrite_starts_again(run, files):
    prompts, out = files
    run(prompts, "--output", out, "-n", "4")
    write_prompts(prompts, ["Another", *PROMPTS[1:]])
    code, _, err = run(prompts, "--output", out, "-n", "4")
    assert code == 2 and 'with prompt "Once upon a time", now it is "Another"' in err
    assert run(prompts, "--output", out, "-n", "3", "--overwrite") == (0, "", "")
    assert {record["usage"]["completion_tokens"] for record in read_records(out)} == {3}
    assert len(read_records(out)) == len(PROMPTS)


def test_a_second_run_on_the_same_output_is_an_error(run, files):
    prompts, out = files
    records = Records(out)
    code, _, err = run(prompts, "--output", out)
    records.close()
    assert code == 2 and "another run is writing to" in err


def test_records_can_be_opened_while_another_error_is_handled(files):
    _, out = files
    try:
        raise KeyError("unrelated")
    except KeyError:
        records = Records(out)
    records.write([{"row": 0, "error": "x"}])
    records.close()
    assert read_records(out) == [{"row": 0, "error": "x"}]


# ---- what is ours and what is not ------------------------------------------------------------------------------

FOREIGN = [
    b'{"row": 7, "value": 3}',
    b'{"row": 7, "value": 3}\n',
    b'{"row": 7, "format": 2, "value": 3}',
    b'{"row": 1, "error": "sensor 5"}\n',
    b'{"row": 1, "line": 2, "error": "sensor 5"}\n',  # as the first version wrote it, but not only it
    b'{"row": 7, "val',
    b'{"name": ',
    b"[" * 100_000,
    bytes(100),
    b"my notes",
]


@pytest.mark.parametrize("content", [pytest.param(content, id=str(i)) for i, content in enumerate(FOREIGN)])
def test_a_file_of_another_program_is_refused_and_not_changed(run, files, content):
    prompts, out = files
    out.write_bytes(content)
    code, _, err = run(prompts, "--output", out, "-n", "4")
    assert code == 2 and "line 1 of" in err and "is not a record of a batch run: name another --output" in err
    assert out.read_bytes() == content


@pytest.mark.parametrize("name", RECORD_FIELDS)
def test_a_record_is_recognized_by_every_field(name):
    record = json.loads(FIRST_VERSION.splitlines()[0])
    assert parse(json.dumps(record | {"of_a_later_format": 1}).encode())
    for wrong in (None, True, -1, "", {}, [], {"num_samples": "many"}):
        if name in ("prompt", "text", "finish_reason", "model") and wrong == "":
            continue
        if name == "settings" and wrong == {}:
            continue
        assert parse(json.dumps(record | {name: wrong}).encode()) is None
    del record[name]
    assert parse(json.dumps(record).encode()) is None


@pytest.mark.parametrize("beginning", [b"{", b'{"row": 12', b'{"row": 0, "format": 2, "id": 7, "ind'])
def test_a_torn_line_is_cut_if_it_is_the_beginning_of_the_first_record(run, files, beginning):
    prompts, out = files
    out.write_bytes(beginning)
    assert run(prompts, "--output", out, "-n", "2") == (0, "", "")
    assert len(read_records(out)) == len(PROMPTS)


TORN_ENDS = [
    bytes(5000),
    b"\n\n",
    b"\r\n \n",
    b'{"row": 3, "for' + bytes(100),
    b'{"row": 3, "for\n',
    b'\0\0{"row": 3\0\n\0',
]


@pytest.mark.parametrize("end", [pytest.param(end, id=str(i)) for i, end in enumerate(TORN_ENDS)])
def test_zeros_and_blank_lines_and_a_torn_line_after_the_last_record_are_cut(run, files, end):
    prompts, out = files
    args = (prompts, "--output", out, "-n", "4", "--temperature", "1", "--seed", "3", "--batch_size", "1")
    assert run(*args) == (0, "", "")
    whole = out.read_bytes()
    kept = b"".join(whole.splitlines(keepends=True)[:3])
    out.write_bytes(kept + end)
    assert run(*args) == (0, "", "")
    assert out.read_bytes().startswith(kept) and texts(read_records(out)) == texts(map(json.loads, whole.splitlines()))
    out.write_bytes(whole[:-1])
    assert run(*args) == (0, "", "")
    assert texts(read_records(out)) == texts(map(json.loads, whole.splitlines()))
    out.write_bytes(b"\n\n" + kept + end)
    assert run(*args) == (0, "", "")
    assert out.read_bytes().startswith(kept)


@pytest.mark.parametrize("damage", [b'{"row": 1, "format": 2, "in\n', b"my notes\n", b'\0\0\0{"row": 1, "format": 2\n'])
def test_the_message_about_a_damaged_line_before_others_says_how_to_keep_the_rows(run, files, damage):
    prompts, out = files
    args = (prompts, "--output", out, "-n", "4")
    run(*args)
    first, _, third, *rest = out.read_bytes().splitlines(keepends=True)
    damaged = b"".join([first, damage, third, damage, *rest])
    out.write_bytes(damaged)
    code, _, err = run(*args)
    assert code == 2 and err.count("\n") == 1
    assert "line 2 of" in err and "is not a record of a batch run, but the file has 4 finished rows" in err
    assert "delete the lines 2, 4 (sed -i '2d;4d' " in err
    assert out.read_bytes() == damaged
    out.write_bytes(b"".join([first, third, *rest]))  # as sed does
    assert run(*args) == (0, "", "")
    assert out.read_bytes().startswith(b"".join([first, third, *rest])) and len(read_records(out)) == len(PROMPTS)


def test_an_output_that_ends_in_something_else_is_refused(run, files):
    prompts, out = files
    run(prompts, "--output", out, "-n", "4")
    whole = out.read_bytes()
    for end in (b"my notes", b'{"row": 7, "value": 3}', b"[1, 2]\n"):
        out.write_bytes(whole + end)
        code, _, err = run(prompts, "--output", out, "-n", "4")
        assert code == 2 and "line 6 of" in err and "has 5 finished rows" in err
        assert out.read_bytes() == whole + end


def test_a_finished_row_that_is_invalid_now_is_a_usage_error(run, files):
    prompts, out = files
    run(prompts, "--output", out, "-n", "4")
    before = out.read_bytes()
    write_prompts(prompts, [{"prompt": 5}, *PROMPTS[1:]])
    code, _, err = run(prompts, "--output", out, "-n", "4")
    assert code == 2 and "row 0 of" in err and "this row of the prompts is now invalid: prompt is 5" in err
    assert out.read_bytes() == before


def test_a_record_with_a_very_large_row_number_takes_little_memory(files):
    _, out = files
    record = json.loads(FIRST_VERSION.splitlines()[1]) | {"row": 10**12}
    out.write_text(json.dumps(record) + "\n", encoding="utf-8")
    records = Records(out)
    assert records.n_finished == 1 and records.find(10**12) == record
    records.close()


def test_an_output_that_is_refused_is_closed(files):
    _, out = files
    out.write_text("my notes\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 of"):
        Records(out)
    Records(out, overwrite=True).close()  # the lock is free again


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_the_message_about_a_full_disk_says_how_to_continue(run, files):
    prompts, _ = files
    code, _, err = run(prompts, "--output", "/dev/full", "-n", "2")
    assert code == 1
    assert err == (
        "Error: cannot write to '/dev/full': No space left on device; free some space and run the same command "
        "again: it continues where this run stopped\n"
    )


def test_a_disk_that_fills_up_during_a_run_leaves_whole_rows(run, files, monkeypatch):
    prompts, out = files
    assert run(prompts, "--output", out, "-n", "9", "--batch_size", "1")[0] == 0
    whole = read_records(out)
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
    assert 0 < len(read_records(out)) < len(whole)
    monkeypatch.setattr(Records, "open", original)
    assert run(prompts, "--output", out, "-n", "9") == (0, "", "")
    assert texts(read_records(out)) == texts(whole)


# ---- order -----------------------------------------------------------------------------------------------------


def unsorted_run(run, tmp_path, *args):
    """Run rows that finish in another order than theirs; return their output."""
    rows = [{"prompt": "One", "n_tokens_to_generate": n, "num_samples": 1 + n % 2} for n in (9, 3, 6, 1)]
    out = tmp_path / "out.jsonl"
    assert run(write_prompts(tmp_path / "p.jsonl", rows), "--output", out, "--seed", "1", *args) == (0, "", "")
    return out


def order(path):
    return [(record["row"], record.get("index")) for record in read_records(path)]


SORTED = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]


def test_sort_puts_the_records_in_the_order_of_the_rows(run, tmp_path):
    out = unsorted_run(run, tmp_path)
    records = read_records(out)
    assert order(out) != SORTED
    assert run("--sort_only", out) == (0, "", "")
    assert order(out) == SORTED
    key = itemgetter("row", "index")
    assert sorted(read_records(out), key=key) == sorted(records, key=key)
    before = out.stat().st_ino
    assert run("--sort_only", out) == (0, "", "")
    assert out.stat().st_ino == before  # it was sorted already
    out.unlink()
    assert order(unsorted_run(run, tmp_path, "--sort")) == SORTED


def test_a_sorted_output_can_be_continued(run, tmp_path):
    rows = [{"prompt": "One", "n_tokens_to_generate": 9}, {"prompt": "Two", "n_tokens_to_generate": 1}]
    out = tmp_path / "out.jsonl"
    file = write_prompts(tmp_path / "p.jsonl", rows)
    assert run(file, "--output", out, "--sort", "--seed", "1") == (0, "", "")
    write_prompts(file, [*rows, {"prompt": "Three", "n_tokens_to_generate": 1}])
    assert run(file, "--output", out, "--sort") == (0, "", "")
    assert [row for row, _ in order(out)] == [0, 1, 2]


def test_sorting_keeps_failed_rows_and_a_run_with_errors_is_not_sorted(run, tmp_path):
    rows = [{"prompt": "One", "n_tokens_to_generate": 9}, {"prompt": 5}, {"prompt": "Two", "n_tokens_to_generate": 1}]
    out = tmp_path / "out.jsonl"
    assert run(write_prompts(tmp_path / "p.jsonl", rows), "--output", out, "--sort")[0] == 1
    assert [row for row, _ in order(out)] == [1, 2, 0]
    assert run("--sort_only", out) == (0, "", "")
    assert [row for row, _ in order(out)] == [0, 1, 2] and "error" in read_records(out)[1]


@pytest.mark.parametrize("content", ["my notes\n", None])
def test_only_records_are_sorted(run, tmp_path, content):
    file = tmp_path / "notes.txt"
    if content:
        file.write_text(content, encoding="utf-8")
    code, out, err = run("--sort_only", file)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert ("is not a record" if content else "there is no file") in err
    assert file.exists() == bool(content)
    code, _, err = run("prompts.txt", "--sort_only", file)
    assert code == 2 and "--sort_only takes no prompts, but 'prompts.txt' is given" in err
