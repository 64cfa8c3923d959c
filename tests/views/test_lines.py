"""score --lines and sweep --lines: many texts of a file, with one load of the model."""

import csv
import json
import math
from functools import partial

import pytest
from views_helpers import run_explore, stdout_of

import utils

TEXTS = ["Once upon a time there was a dog.", "One day, a little girl", "The sun"]


@pytest.fixture
def seen(here):
    return partial(stdout_of, here)


@pytest.fixture
def lines(tmp_path):
    """A function that writes a file of lines and returns its name."""

    def write(content, name="a.txt"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def records_of_lines(seen, path, *words):
    out = seen("score", "--lines", path, "--model_size", "tiny", "--json", *words)
    return [json.loads(line) for line in out.splitlines()]


# ---- score -----------------------------------------------------------------------------------------------------


def test_each_line_has_the_score_of_its_text_alone_and_the_last_record_that_of_all(seen, lines):
    *records, total = records_of_lines(seen, lines("\n\n".join(TEXTS) + "\n"))
    assert [(record["line"], record["text"]) for record in records] == [(1, TEXTS[0]), (3, TEXTS[1]), (5, TEXTS[2])]
    for record in records:
        alone = json.loads(seen("score", record["text"], "--model_size", "tiny", "--json"))
        assert {name: record[name] for name in alone} == alone
    nll = math.fsum(record["nll"] for record in records)
    n_tokens = sum(record["n_tokens"] for record in records)
    assert total["n_texts"] == 3 and total["nll"] == pytest.approx(nll) and total["n_tokens"] == n_tokens
    assert total["token_perplexity"] == pytest.approx(math.exp(nll / n_tokens))


def test_the_model_is_loaded_once(seen, lines, monkeypatch):
    loads = []
    load = utils.load_found
    monkeypatch.setattr(utils, "load_found", lambda *args: loads.append(args) or load(*args))
    seen("score", "--lines", lines("\n".join(TEXTS)), "--model_size", "tiny")
    assert len(loads) == 1


def test_lines_of_json_may_have_a_context_of_their_own(seen, lines):
    content = [{"given": "Once upon a", "text": " time"}, "The sun", {"prompt": "One day"}, {"text": " time"}]
    path = lines("".join(json.dumps(line) + "\n" for line in content), "a.jsonl")
    first, second, third, fourth, _ = records_of_lines(seen, path)
    assert first["is_greedy"] is True and first["given"] == "Once upon a"
    assert "is_greedy" not in second and third["text"] == "One day"
    assert fourth["nll"] > first["nll"]
    given = records_of_lines(seen, lines(" time\n"), "--given", "Once upon a")[0]
    assert given["logprob"] == pytest.approx(first["logprob"])


def test_the_table_has_a_line_per_text_and_the_totals(seen, lines):
    out = seen("score", "--lines", lines("\n".join(TEXTS)), "--model_size", "tiny").splitlines()
    assert [line.split()[0] for line in out[1:4]] == ["1", "2", "3"]
    assert all(text[:20] in line for line, text in zip(out[1:4], TEXTS, strict=True))
    assert out[5].startswith("3 texts, ") and any(line.startswith("token perplexity") for line in out)
    assert max(map(len, out)) <= 80


def test_stdin_may_hold_the_lines(seen, lines):
    words = ("--model_size", "tiny", "--json")
    piped = seen("score", "--lines", "-", *words, piped="\n".join(TEXTS).encode())
    assert piped == seen("score", "--lines", lines("\n".join(TEXTS)), *words)
    assert json.loads(seen("score", "--lines", "-", *words, piped=b'{"text": "x"}').splitlines()[0])["text"] == "x"


def test_a_pipe_beside_a_file_of_lines_is_not_read(seen, lines):
    words = ("score", "--lines", lines("One day\n"), "--model_size", "tiny")
    assert seen(*words, piped=b"more\n") == seen(*words)


# ---- sweep -----------------------------------------------------------------------------------------------------

SWEEP = ("--model_size", "tiny", "--top_k", "1,9", "--seed", "3", "-n", "6")


def test_a_sweep_of_several_prompts_has_the_texts_of_batch_py(here, seen, lines, tmp_path):
    import batch
    from runner.command import BATCH

    path = lines("\n".join(TEXTS))
    found = [json.loads(line) for line in seen("sweep", "--lines", path, *SWEEP, "--json").splitlines()]
    assert [record["prompt"] for record in found] == TEXTS
    for i, k in enumerate((1, 9)):
        words = (path, "--model_size", "tiny", "--top_k", k, "--seed", "3", "-n", "6", "--output", "-")
        _, out, _ = here(*words, main=batch.main, command=BATCH)
        expected = {record["row"]: record["text"] for record in map(json.loads, out.splitlines())}
        assert [record["cells"][i]["texts"][0] for record in found] == [expected[row] for row in range(3)]


def test_a_sweep_of_several_prompts_writes_all_formats(seen, lines, tmp_path):
    path = lines("\n".join(TEXTS))
    for name in ("a.csv", "a.md", "a.json"):
        assert seen("sweep", "--lines", path, *SWEEP, "--output", tmp_path / name) == ""
    with open(tmp_path / "a.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == [text for text in TEXTS for _ in range(2)]
    assert [record["prompt"] for record in json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))] == TEXTS
    assert (tmp_path / "a.md").read_text(encoding="utf-8").count("| top_k |") == 3
    out = seen("sweep", "--lines", path, *SWEEP)
    assert [out.index(text) for text in TEXTS] == sorted(out.index(text) for text in TEXTS)


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "words", "message"),
    [
        ("", "a.txt", (), "has no texts"),
        ("\n \n", "a.txt", (), "has no texts"),
        ("x\n", "a.txt", ("y",), "the texts are given twice, by --lines and as 'y'"),
        ("{}\n", "a.jsonl", (), "line 1 of"),
        ('"x"\n\n{"text": 3}\n', "a.jsonl", (), "has no text: it must be a JSON string"),
        ('"x"\nnothing\n', "a.jsonl", (), "is no JSON: 'nothing'"),
        ('{"text": "x", "given": 3}', "a.jsonl", (), 'has the field "given"; it must be a string'),
        ("x\n", "a.txt", ("--given", "y", "--stride", "4"), "stride has no effect with --given"),
        ('{"text": ""}', "a.jsonl", (), "line 1: there is nothing to score: the text is empty"),
        ("x\n", "a.txt", ("--stride", "513"), "line 1: stride is 513"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named_before_any_output(here, lines, content, name, words, message):
    code, out, err = run_explore(here, "score", *words, "--lines", lines(content, name), "--model_size", "tiny")
    assert message in err
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_file_of_lines_that_is_missing_is_named(here):
    code, _, err = run_explore(here, "score", "--lines", "nowhere.txt", "--model_size", "tiny")
    assert code == 2 and "nowhere.txt" in err


def test_the_prompts_of_a_sweep_have_no_context(here, lines):
    path = lines('{"prompt": "x", "given": "y"}', "a.jsonl")
    code, _, err = run_explore(here, "sweep", "--lines", path, *SWEEP)
    assert code == 2 and 'has the field "given"; only score takes it' in err
