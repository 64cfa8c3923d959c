"""The rows of a batch run: formats, settings of a row, rows that cannot be done."""

import json
from functools import partial

import pytest
from batch_runs import KNOBS, run_batch, run_without_errors, write_prompts


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
def test_a_dash_reads_prompts_from_stdin(done, args, piped, prompts):
    assert [record["prompt"] for record in done("-", *args, "-n", "1", piped=piped)] == prompts


def test_other_fields_are_copied_and_renamed_where_a_record_has_that_name(done, tmp_path):
    fields = {"prompt": "One", "id": "a7", "label": [1, None], "index": 5, "text": "mine", "context": "a long one"}
    (record,) = done(write_prompts(tmp_path / "prompts.jsonl", [fields]), "-n", "2")
    assert (record["id"], record["label"], record["context"]) == ("a7", [1, None], "a long one")
    assert (record["index"], record["input_index"], record["input_text"]) == (0, 5, "mine")
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


# ---- rows that cannot be done ----------------------------------------------------------------------------------

BAD = [
    ("not json", "the line is not JSON (Expecting value"),
    ('{"prompt": NaN}', "the line is not JSON (NaN is not a JSON number)"),
    ("[" * 100_000, "the line is not JSON"),
    ("[1]", "the line is not a JSON object"),
    ('{"text": "x"}', "the row has no prompt"),
    ('{"prompt": 5}', "prompt is 5; it must be a text"),
    ('{"prompt": "x", "temperature": "hot"}', "temperature is 'hot'; it must be a number"),
    ('{"prompt": "x", "strategy": ["top_k"]}', "Unknown sampling strategy: ['top_k']"),
    ('{"prompt": "x", "strategy": "greedy", "top_k": 5}', "top_k has no effect with strategy greedy"),
    ('{"prompt": "x", "stop": 5}', "stop is 5; it must be a text"),
    ('{"prompt": "x", "logit_bias": {"a": 1}}', "logit_bias has the key 'a'"),
    ('{"prompt": "x", "banned_ids": [99999]}', "there is no token 99999"),
    ('{"prompt": "x", "seed": -1}', "seed is -1"),
    ('{"prompt": "x", "num_samples": 1000000000}', "it must be a whole number from 1 to 10000"),
    ('{"prompt": "x", "min_new_tokens": 9}', "min_new_tokens is 9, but n_tokens_to_generate is only 2"),
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
