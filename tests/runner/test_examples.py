"""The examples with jq and pandas in docs/batch.md, run on records with several samples and an error."""

import json
import re
import shlex

import pytest
from batch_runs import ROOT, run_batch, write_prompts
from conftest import requires

jq = requires("jq")
requires("pandas")

PAGE = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
ROWS = [{"prompt": "Once"}, {"prompt": 3}, {"prompt": "One day"}]


@pytest.fixture
def records(here, tmp_path, monkeypatch):
    """The records of a run, in out.jsonl of the current folder."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", ROWS)
    out = tmp_path / "out.jsonl"
    run_batch(
        here, prompts, "--output", out, "--num_samples", "2", "-n", "5", "--temperature", "1", "--batch_size", "1"
    )
    monkeypatch.chdir(tmp_path)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def results_of_jq(records):
    """Return the results of each jq command in the page: {the rest of its line, a comment: list of results}."""
    found = {}
    for line in re.findall(r"^jq .*$", PAGE, re.MULTILINE):
        command, _, comment = line.partition("  # ")
        *options, program, _ = shlex.split(command)[1:]
        compiled = jq.compile(program)
        results = compiled.input_value(records).all() if "-s" in options else []
        for record in [] if "-s" in options else records:
            results += compiled.input_value(record).all()
        found[comment] = results
    return found


def test_the_jq_examples_do_what_their_comments_say(records):
    found = results_of_jq(records)
    good = [record for record in records if "error" not in record]
    (bad,) = [record for record in records if "error" in record]
    assert found["all texts"] == [record["text"] for record in good]
    assert found["failed rows"] == [f"1\t2\t{bad['error']}"]
    rows = found["all samples of a row in one object"]
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert rows[2]["texts"] == [record["text"] for record in records if record["row"] == 2]
    assert found["tokens"] == [sum(record["usage"]["completion_tokens"] for record in good)]


def test_the_pandas_example_writes_the_texts_in_order(records, tmp_path, capsys):
    (block,) = re.findall(r"```python\n(import pandas.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "batch.md", "exec"), {})
    assert "length" in capsys.readouterr().out
    lines = (tmp_path / "texts.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "row,index,prompt,text"
    assert [line.split(",")[:2] for line in lines[1:] if re.match(r"\d,\d,", line)] == [
        [str(row), str(index)] for row in (0, 2) for index in (0, 1)
    ]
