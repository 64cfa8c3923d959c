"""The rows of a batch run: formats, settings of a row, rows that cannot be done."""

import io
import json
import os
import sys
import threading
from functools import partial

import pytest
from batch_runs import KNOBS, run_batch, run_without_errors, write_prompts

from runner import command, formats, local, prompts, records
from runner.prompts import count_rows, open_prompts, read_rows


@pytest.fixture
def run(here):
    return partial(run_batch, here)


@pytest.fixture
def done(here):
    return partial(run_without_errors, here)


# ---- formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("a.txt", "One\n\n Two \r\n123\n{x}", ["One", " Two ", "123", "{x}"]),
        ("a.txt", "\ufeff你好\n", ["你好"]),
        ("a.jsonl", '{"prompt": "One\\ntwo"}\n\n{"prompt": ""}', ["One\ntwo", ""]),
        ("a.ndjson", '\ufeff{"prompt": "a\\ud800b"}\n', ["a\ud800b"]),
        ("a.csv", 'id,prompt\n1,"One, two"\n2,"three\nfour"\n3,\n', ["One, two", "three\nfour", ""]),
        ("a.tsv", 'id\tprompt\n1\tOne, "two"\n2\t"three\tfour"\n', ['One, "two"', "three\tfour"]),
        ("a.json", '\ufeff[{"prompt": "One"},\n {"prompt": "Two"}]\n', ["One", "Two"]),
        ("a.json", '{"prompt": "One"}\n{"prompt": "Two"}\n', ["One", "Two"]),
        ("a.json", "[]", []),
        ("a.CSV", "\ufeffprompt\r\n1984\r\nTrue\r\n", ["1984", "True"]),
        ("a.csv", 'id,prompt\r1,One\r\r2,"two\rthree"\r', ["One", "two\rthree"]),
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
def test_a_dash_reads_prompts_from_stdin(done, args, piped, prompts):
    assert [record["prompt"] for record in done("-", *args, "-n", "1", piped=piped)] == prompts


def test_other_fields_are_copied_and_renamed_where_a_record_has_that_name(done, tmp_path):
    fields = {"prompt": "One", "id": "a7", "label": [1, None], "index": 5, "text": "mine", "context": "a long one"}
    (record,) = done(write_prompts(tmp_path / "prompts.jsonl", [fields]), "-n", "2")
    assert (record["id"], record["label"], record["context"]) == ("a7", [1, None], "a long one")
    assert (record["index"], record["input_index"], record["input_text"]) == (0, 5, "mine")
    fields = [{"prompt": "One", "text": "a", "input_text": "b", "format": "c"}]
    (record,) = done(write_prompts(tmp_path / "prompts.jsonl", fields), "-n", "2")
    assert (record["format"], record["input_format"]) == (2, "c")
    assert (record["input_text"], record["input_input_text"]) == ("a", "b")
    (tmp_path / "prompts.csv").write_text("prompt,id,temperature,stop\nOne,007,0.5,\n", encoding="utf-8")
    (record,) = done(tmp_path / "prompts.csv", "-n", "2", "--seed", "1")
    assert record["id"] == "007" and record["settings"]["temperature"] == 0.5 and "stop" not in record["settings"]


def test_settings_of_a_row_apply_to_that_row_only(done, tmp_path):
    fields = [
        {"prompt": "Once", "max_new_tokens": 3},
        {"prompt": "Once", "n_tokens_to_generate": 4, "temperature": None},
        {"prompt": "Once", "strategy": "top_k", "top_k": 5},
        {"prompt": "Once"},
    ]
    records = sorted(
        done(write_prompts(tmp_path / "prompts.jsonl", fields), *KNOBS, "-n", "9"), key=lambda record: record["row"]
    )
    assert [record["usage"]["completion_tokens"] for record in records] == [3, 4, 9, 9]
    assert [record["settings"].get("top_k") for record in records] == [None, None, 5, None]
    assert all(record["settings"]["temperature"] == 0.9 for record in records)


# ---- files that are no files of prompts ------------------------------------------------------------------------


@pytest.fixture
def small_rows(monkeypatch):
    """Rows of at most 100 bytes; a longer one must end within 1,000 bytes."""
    monkeypatch.setattr(formats, "MAX_ROW", 100)
    monkeypatch.setattr(formats, "MAX_SKIPPED", 1000)
    monkeypatch.setattr(formats.files, "CHUNK", 50)


def test_a_row_that_is_too_long_is_a_bad_row_and_the_rows_after_it_are_read(small_rows):
    long = b"x" * 500
    for name, data, line in (
        ("txt", b"One\n" + long + b"\nTwo\n", 2),
        ("jsonl", b'{"prompt": "One"}\n{"prompt": "' + long + b'"}\n{"prompt": "Two"}\n', 2),
        ("csv", b"prompt\nOne\n" + long + b"\nTwo\n", 3),
        ("csv", b"prompt\rOne\r" + long + b"\rTwo\r", 3),
        ("csv", b'prompt\nOne\n"' + b"x" * 60 + b"\n" + b"x" * 60 + b"\nTwo\n", 3),
    ):
        one, bad, two = read_rows(io.BytesIO(data), name)
        assert (one.fields, two.fields) == ({"prompt": "One"}, {"prompt": "Two"}), name
        assert (bad.number, bad.line, bad.error) == (1, line, "the row is longer than 16 MB, the most that is read")


def test_a_row_without_an_end_is_an_error_and_is_not_kept_in_memory(run, tmp_path, small_rows):
    (tmp_path / "zeros.txt").write_bytes(bytes(2000))
    code, out, err = run(tmp_path / "zeros.txt")
    assert (code, out) == (2, "")
    assert "line 1 of the prompts has no end" in err and err.count("\n") == 1


def test_the_rows_of_a_progress_bar_are_those_that_are_read(tmp_path, small_rows):
    long = "x" * 500
    for name, text in (("txt", f"One\n\n{long}\nTwo"), ("csv", f"id,prompt\r1,One\r\r{long}\r2,Two")):
        (tmp_path / f"a.{name}").write_text(text, encoding="utf-8", newline="")
        assert count_rows(str(tmp_path / f"a.{name}"), name) == 3


def test_a_file_that_cannot_be_read_further_ends_the_run_with_1(run, tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def readline(self, size=-1):
            if self.tell() >= 8:
                raise OSError(5, "Input/output error")
            return super().readline(size)

    monkeypatch.setattr(command, "open_prompts", lambda path: Failing(b"One\nTwo\nThree\n"))
    code, out, err = run("prompts.txt", "-n", "2", "--batch_size", "1")
    assert (code, err) == (1, "Error: cannot read the prompts after line 2: Input/output error\n")
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["One", "Two"]


def test_closed_stdin_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="stdin is closed: name a file of prompts"):
        open_prompts("-")


# ---- rows that cannot be done ----------------------------------------------------------------------------------

BAD = [
    ("not json", "the line is not JSON (character 1)"),
    ('{"prompt": NaN}', "the line is not JSON (NaN is not a JSON number)"),
    ("[" * 100_000, "the line is not JSON"),
    ("[1]", "the line is not a JSON object"),
    ('{"text": "x"}', "the row has no prompt"),
    ('{"prompt": 5}', "prompt is 5; it must be a text"),
    ('{"prompt": "x", "temperature": "hot"}', "temperature is 'hot'; it must be a number"),
    ('{"prompt": "x", "strategy": ["top_k"]}', "Unknown sampling strategy: ['top_k']"),
    ('{"prompt": "x", "strategy": "greedy", "top_k": 5}', "top_k has no effect with strategy greedy"),
    ('{"prompt": "x", "stop": 5}', "stop is 5; it must be a text"),
    ('{"prompt": "x", "logit_bias": {"05": 1}}', "logit_bias has the key '05'"),
    ('{"prompt": "x", "banned_ids": [99999]}', "there is no token 99999"),
    ('{"prompt": "x", "seed": -1}', "seed is -1"),
    ('{"prompt": "x", "num_samples": 1000000000}', "it must be a whole number from 1 to 10000"),
    ('{"prompt": "x", "min_new_tokens": 9}', "min_new_tokens is 9, but n_tokens_to_generate is only 2"),
    ("null", "the line is not a JSON object"),
    ('{"prompt": "x", "id": %s}' % ("1" * 5000), "the line has a number of 5000 digits; at most 1000 are read"),
    ('{"prompt": "x", "id": 1e999}', "the line has the number 1e999, which is too large"),
    ('{"prompt": "x", "id": %s}' % ("[" * 100 + "]" * 100), "at most 100 lists and objects inside each other"),
    ('{"prompt": "x", "banned_ids": [12345678901234567890]}', "12345678901234567890"),
    ('{"prompt": "x", "temperature": 1%s}' % ("0" * 400), ""),
    (json.dumps({"prompt": "x", "stop": '["' + "[" * 3000}), "which begins as a list but is none"),
    (json.dumps({"prompt": "x", "logit_bias": {i * (2**61 - 1): 1 for i in range(1000)}}), "logit_bias has the key"),
    (json.dumps({"prompt": [0] * 10_000}), "0...0, 0, 0"),
    (json.dumps({"prompt": " word" * 600}), "this model reads at most 512"),
    (json.dumps({"prompt": "x", "banned_ids": list(range(2048))}), "every token is banned"),
]


def test_a_bad_row_gets_a_record_with_its_line_and_the_other_rows_are_done(run, tmp_path):
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
    assert err.startswith(f"Error: {len(BAD)} of {2 * len(BAD)} rows failed") and err.count("\n") == 1


def test_rows_that_are_not_utf_8_or_not_csv_are_bad_rows(run, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"One\nBl\xf6\xdfe\nTwo\n")
    (tmp_path / "a.csv").write_bytes(b"prompt,id\nOne,1\nBl\xf6\xdfe,2\nx\nTwo,3,4\nFive,5\n")
    for name, n_bad, n_rows in (("a.txt", 1, 3), ("a.csv", 3, 5)):
        code, out, _ = run(tmp_path / name, "-n", "1")
        records = [json.loads(line) for line in out.splitlines()]
        assert code == 1
        assert (sum("error" in record for record in records), len(records)) == (n_bad, n_rows)
        assert any("the row is not UTF-8 text (byte 2)" in record.get("error", "") for record in records)


def test_a_prompt_that_cannot_fit_into_the_context_is_not_encoded(run, tmp_path, monkeypatch):
    monkeypatch.setattr("encoder.Encoder.encode", None)
    code, out, _ = run(write_prompts(tmp_path / "prompts.txt", ["x" * 200_000]))
    assert code == 1
    assert (
        "the prompt has 200000 characters; this model reads at most 512 tokens of at most" in json.loads(out)["error"]
    )


@pytest.mark.parametrize("failure", [KeyError("x"), OverflowError("too large"), MemoryError(), RecursionError("deep")])
def test_a_row_may_fail_with_any_exception_and_the_other_rows_are_done(run, tmp_path, monkeypatch, failure):
    encode = local.encode_prompt

    def failing(prompt, *args):
        if prompt == "bad":
            raise failure
        return encode(prompt, *args)

    monkeypatch.setattr(local, "encode_prompt", failing)
    code, out, err = run(write_prompts(tmp_path / "prompts.txt", ["One", "bad", "Two"]), "-n", "1")
    records = sorted(map(json.loads, out.splitlines()), key=lambda record: record["row"])
    assert ["error" in record for record in records] == [False, True, False]
    assert (code, err.split(";")[0]) == (1, "Error: 1 of 3 rows failed")


def test_a_sampler_may_fail_with_any_exception_during_generation(run, tmp_path, monkeypatch):
    original = local.make_sampler

    def failing(logits, rng):
        raise IndexError("out of bounds")

    monkeypatch.setattr(local, "make_sampler", lambda **knobs: failing if knobs.get("top_k") else original(**knobs))
    fields = [{"prompt": "One", "top_k": 3}, {"prompt": "Two"}]
    code, out, _ = run(write_prompts(tmp_path / "prompts.jsonl", fields), "-n", "3", "--batch_size", "1")
    records = sorted(map(json.loads, out.splitlines()), key=lambda record: record["row"])
    assert code == 1
    assert records[0]["error"].startswith("IndexError at test_prompts.py:")
    assert records[1]["usage"]["completion_tokens"] == 3


def test_a_run_stops_if_the_first_100_rows_all_fail(run, tmp_path):
    bad = ["{}"] * 99
    good = '{"prompt": "One"}'
    for lines, n_records, message in (
        ([*bad, "{}", good], 100, "Error: the first 100 rows all failed, the last one because the row has no prompt"),
        ([*bad, good, *bad], 199, "Error: 198 of 199 rows failed"),
    ):
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        code, out, err = run(tmp_path / "prompts.jsonl", "-n", "1")
        assert (code, out.count("\n")) == (1, n_records)
        assert err.startswith(message) and err.count("\n") == 1


def test_a_row_whose_fields_cannot_be_written_gets_a_record_without_them(run, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_RECORDS", 600)
    prompts = write_prompts(tmp_path / "prompts.jsonl", [{"prompt": "One", "id": "x" * 500}, "Two"])
    code, out, _ = run(prompts, "-n", "1")
    first, second = sorted(map(json.loads, out.splitlines()), key=lambda record: record["row"])
    assert code == 1
    assert first.keys() == {"row", "format", "line", "error"} and "at most 600 can be written" in first["error"]
    assert second["prompt"] == "Two"


def test_too_little_memory_for_the_batch_ends_the_run_with_1_and_names_a_smaller_size(run, tmp_path, monkeypatch):
    def failing(*args):
        raise MemoryError

    monkeypatch.setattr(local, "decode_together", failing)
    code, _, err = run(write_prompts(tmp_path / "prompts.txt", ["One"]), "--batch_size", "8")
    assert code == 1
    assert "not enough memory for 8 samples at a time: add --batch_size 4" in err


def test_a_column_that_is_there_twice_is_an_error(run, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,id,prompt\na,1,b\n", encoding="utf-8")
    code, out, err = run(tmp_path / "prompts.csv", "-n", "1")
    assert (code, out) == (2, "")
    assert "the column 'prompt' is there twice: rename one of the two" in err


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_a_name_that_no_file_can_have_is_a_usage_error(run, name):
    code, out, err = run(name)
    assert (code, out) == (2, "") and err.startswith("Error: the name of the prompts is ") and err.count("\n") == 1


# ---- names of settings -----------------------------------------------------------------------------------------


def test_names_of_other_programs_and_an_object_of_options_set_a_row(done, tmp_path):
    rows = [
        {"prompt": "Once", "max_tokens": 3, "temp": 0.5},
        {"prompt": "Once", "options": {"n": 2, "max_new_tokens": 4, "echo": True, "min-p": 0.1, "context": "slide"}},
        {"prompt": "Once", "options": {"length": 2, "stop": ["."], "temperature": None, "logprobs": 1}},
        {"prompt": "Once", "options": "mine"},
    ]
    records = done(write_prompts(tmp_path / "prompts.jsonl", rows), *KNOBS, "-n", "9")
    by_row = {number: [record for record in records if record["row"] == number] for number in range(4)}
    assert [len(found) for found in by_row.values()] == [1, 2, 1, 1]
    (first,), (second, _), (third,), (fourth,) = by_row.values()
    assert (first["settings"]["n_tokens_to_generate"], first["settings"]["temperature"]) == (3, 0.5)
    assert second["text"].startswith("Once") and second["settings"]["min_p"] == 0.1
    assert second["settings"]["n_tokens_to_generate"] == 4 and "options" not in second
    assert third["settings"]["temperature"] == 0.9 and len(third["logprobs"]) == 2
    assert fourth["options"] == "mine"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 1, "temp": 1}, "the row gives temperature twice"),
        ({"max_tokens": 1, "options": {"length": 2}}, "the row gives n_tokens_to_generate twice"),
        ({"options": {"n": 1, "num_samples": 2}}, "options gives num_samples twice"),
        ({"options": {"model_size": "tiny"}}, "options has the field 'model_size', which is no setting of a text"),
        ({"options": {"output": "x"}}, "options has the field 'output', which is no setting of a text"),
        ({"options": {"json": True}}, "options has the field 'json'"),
        ({"options": {"zzz": 1}}, "options has the field 'zzz'"),
        ({"options": {"temperature": "hot"}}, "temperature is 'hot'; it must be a number"),
    ],
)
def test_a_wrong_setting_is_the_error_of_its_row(run, tmp_path, fields, said):
    code, out, _ = run(write_prompts(tmp_path / "prompts.jsonl", [{"prompt": "Once", **fields}]), "-n", "2")
    assert code == 1 and said in json.loads(out)["error"]


def test_null_means_not_given_under_both_names(done, tmp_path):
    rows = [{"prompt": "Once", "temp": None, "temperature": 0.7, "max_tokens": None, "options": {"seed": None}}]
    (record,) = done(write_prompts(tmp_path / "prompts.jsonl", rows), "-n", "2", "--seed", "3")
    assert record["settings"] == {"n_tokens_to_generate": 2, "temperature": 0.7} and record["seed"] == 3


def test_a_seed_among_the_options_is_the_row_s_own(done, here, tmp_path):
    rows = [{"prompt": "A"}, {"prompt": "Once", "options": {"seed": 5}}]
    records = done(write_prompts(tmp_path / "prompts.jsonl", rows), "-n", "6", "--temperature", "1", "--seed", "1")
    (own,) = [record for record in records if record["row"] == 1]
    _, text, _ = here("Once", "--model_size", "tiny", "-n", "6", "--temperature", "1", "--seed", "5")
    assert own["text"] + "\n" == text and own["settings"]["seed"] == 5


def test_a_name_close_to_a_setting_causes_one_warning_per_run(run, tmp_path):
    prompts.warn_about_close_name.cache_clear()
    rows = [{"prompt": "Once", "temprature": 1, "id": 7, "topic": "x"}] * 3
    code, out, err = run(write_prompts(tmp_path / "prompts.jsonl", rows), "-n", "1")
    assert code == 0 and json.loads(out.splitlines()[0])["temprature"] == 1
    assert err == (
        "Warning: rows have the field 'temprature', which is no setting and is copied to the output; did you mean "
        "temperature?\n"
    )


# ---- where prompts come from -----------------------------------------------------------------------------------


def test_another_field_may_hold_the_prompt(done, tmp_path):
    rows = [{"question": "Once upon a time", "prompt": "mine", "text": "also mine"}]
    (record,) = done(write_prompts(tmp_path / "prompts.jsonl", rows), "-n", "2", "--prompt_field", "question")
    assert (record["prompt"], record["input_prompt"], record["input_text"]) == ("Once upon a time", "mine", "also mine")
    (tmp_path / "table.csv").write_text("id,question\n1,Once\n", encoding="utf-8")
    (record,) = done(tmp_path / "table.csv", "-n", "2", "--prompt_field", "question")
    assert (record["prompt"], record["id"]) == ("Once", "1")


def test_a_template_makes_the_prompt_from_fields(done, tmp_path):
    rows = [{"question": "Who {is} it?", "n": 3, "tags": ["a"], "prompt": "mine"}]
    file = write_prompts(tmp_path / "prompts.jsonl", rows)
    (record,) = done(file, "-n", "2", "--template", r"{{{n}}} {tags}\nQ: {question}\nA:")
    assert record["prompt"] == '{3} ["a"]\nQ: Who {is} it?\nA:'
    assert (record["input_prompt"], record["question"], record["n"]) == ("mine", "Who {is} it?", 3)
    (record,) = done(write_prompts(tmp_path / "a.txt", ["x"]), "-n", "1", "--template", "Say {prompt}.")
    assert record["prompt"] == "Say x."


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--template", "no field"], "template is 'no field'; it must name a field in braces"),
        (["--template", "{prompt}", "--prompt_field", "x"], "--prompt_field and --template are both given"),
        (["--shard", "0/2"], "shard is '0/2'; it must be I/N with I from 1 to N, as in 1/4"),
        (["--shard", "3/2"], "shard is '3/2'"),
        (["--shard", "1"], "shard is '1'"),
        (["--limit", "0"], "limit is 0; it must be a whole number from 1 upwards"),
    ],
)
def test_a_wrong_selection_is_a_usage_error(run, tmp_path, args, said):
    code, out, err = run(write_prompts(tmp_path / "prompts.txt", ["x"]), *args)
    assert (code, out) == (2, "") and said in err


def test_a_row_without_a_field_of_the_template_has_an_error(run, tmp_path):
    file = write_prompts(tmp_path / "prompts.jsonl", [{"prompt": "x"}, {"q": None}, {"q": "Why?"}])
    code, out, _ = run(file, "-n", "1", "--template", "Q: {q}")
    errors = [json.loads(line).get("error") for line in out.splitlines()]
    said = "the row has no field 'q', which the template names"
    assert code == 1 and errors.count(said) == 2 and errors.count(None) == 1
    (tmp_path / "table.csv").write_text("prompt\nx\n", encoding="utf-8")
    code, _, err = run(tmp_path / "table.csv", "--template", "{q}")
    assert code != 0 and "there is no column q; the columns in the first line are: prompt" in err


def test_cells_that_are_no_settings_stay_texts(done, tmp_path):
    cells = {"id": "007", "price": "1.10", "big": "1e5", "flag": "true", "huge": "1e999", "list": "[1]", "none": "null"}
    text = f"prompt,temperature,{','.join(cells)}\nOnce,0.50,{','.join(cells.values())}\n"
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    (record,) = done(tmp_path / "table.csv", "-n", "1", "--seed", "1")
    assert {name: record[name] for name in cells} == cells
    assert record["settings"]["temperature"] == 0.5


# ---- parts of a run --------------------------------------------------------------------------------------------


def test_the_shards_together_have_the_records_of_one_run(done, tmp_path):
    file = write_prompts(tmp_path / "prompts.txt", ["One", "Two", "Three", "Four", "Five"])
    args = ("-n", "4", "--temperature", "1", "--seed", "3", "--batch_size", "1")
    whole = {record["row"]: record["text"] for record in done(file, *args)}
    parts = [done(file, *args, "--shard", f"{i}/3") for i in (1, 2, 3)]
    assert [[record["row"] for record in part] for part in parts] == [[0, 3], [1, 4], [2]]
    assert {record["row"]: record["text"] for part in parts for record in part} == whole


def test_a_limit_reads_no_further_row(done, tmp_path):
    file = write_prompts(tmp_path / "prompts.jsonl", ["One", "Two", "Three"])
    with open(file, "a", encoding="utf-8") as opened:
        opened.write("no JSON\n")
    assert [record["row"] for record in done(file, "-n", "1", "--limit", "2")] == [0, 1]
    assert [record["row"] for record in done(file, "-n", "1", "--limit", "2", "--shard", "2/2")] == [1]


def test_gpt2_py_repeats_a_row_of_a_run(done, here, tmp_path):
    file = write_prompts(tmp_path / "prompts.txt", ["One", "Two", "Three"])
    args = ("-n", "6", "--temperature", "1.5", "--seed", "9", "--num_samples", "2")
    records = [record for record in done(file, *args, "--batch_size", "1") if record["row"] == 2]
    _, out, _ = here("Three", "--model_size", "tiny", *args, "--row", "2", "--json")
    again = [json.loads(line) for line in out.splitlines()]
    assert [record["text"] for record in again] == [record["text"] for record in records]
    assert again[0]["settings"] == records[0]["settings"]
    _, other, _ = here("Three", "--model_size", "tiny", *args, "--json")
    assert json.loads(other.splitlines()[0])["text"] != records[0]["text"]


# ---- arrays and pipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"prompt": "x"}', "the prompts are not JSON (line 1, column 17)"),
        ("[" * 100_000, "lists and objects inside each other"),
        ('"x"', "the prompts are not a JSON array of objects"),
        ("[NaN]", "NaN is not a JSON number"),
        (b"[\xff]", "is not UTF-8 text"),
    ],
)
def test_a_damaged_array_is_a_usage_error(run, tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = run(tmp_path / "a.json", "-n", "1")
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_an_object_of_an_array_without_a_prompt_is_a_failed_row(run, tmp_path):
    (tmp_path / "a.json").write_text('[{"prompt": "x"}, 5, {}]', encoding="utf-8")
    code, out, _ = run(tmp_path / "a.json", "-n", "1")
    records = sorted(map(json.loads, out.splitlines()), key=lambda record: record["row"])
    assert code == 1 and [record["row"] for record in records] == [0, 1, 2]
    assert "the row is not a JSON object" in records[1]["error"] and "has no prompt" in records[2]["error"]


def test_an_array_larger_than_the_limit_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_ARRAY", 100)
    (tmp_path / "a.json").write_text("[" + '{"prompt": "x"},\n' * 20 + "{}]", encoding="utf-8")
    code, _, err = run(tmp_path / "a.json", "-n", "1")
    assert code == 2 and "a JSON array of prompts may have at most 0 MB" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in its file system")
@pytest.mark.parametrize(
    ("content", "prompts"),
    [("One\nTwo\n", ["One", "Two"]), ('{"prompt": "One"}\n', ["One"]), ('[{"prompt": "One"}]', ["One"])],
)
def test_the_format_of_a_pipe_without_a_suffix_follows_from_its_text(done, tmp_path, content, prompts):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(content,))
    writer.start()
    records = done(tmp_path / "pipe", "-n", "1", "--batch_size", "1")
    writer.join()
    assert [record["prompt"] for record in records] == prompts
    assert [record["prompt"] for record in done("-", "-n", "1", "--batch_size", "1", piped=content.encode())] == prompts


def test_a_prompt_in_place_of_a_file_is_answered(run):
    code, out, err = run("Once upon a time")
    assert (code, out) == (2, "")
    said = (
        "there is no file 'Once upon a time'; batch.py reads a file of prompts, and python gpt2.py \"PROMPT\" continues"
    )
    assert said in err
    assert "there is no file 'nowhere'; batch.py reads a file of prompts\n" in run("nowhere")[2]
