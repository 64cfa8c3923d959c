"""The progress bar of a batch run: its rows, and a remaining time that is weighted by tokens."""

import io
import json

import pytest
from batch_runs import write_prompts

from cli.command_flags import BATCH_FLAGS
from cli.options import check_options
from runner import progress
from runner.progress import Progress, Work, measure
from runner.prompts import Row, make_request
from runner.source import Source

OPTIONS = check_options({"n_tokens_to_generate": 10}, BATCH_FLAGS)


def request(n_tokens):
    fields = {"prompt": "One", "n_tokens_to_generate": n_tokens}
    return make_request(Row(0, 1, fields, "One"), OPTIONS, 7)


def test_the_work_is_the_sum_of_the_tokens_that_the_rows_may_generate(tmp_path):
    rows = [
        {"prompt": "a"},
        {"prompt": "b", "max_tokens": 100},
        {"prompt": "c", "options": {"n": 3}},
        {"prompt": "d", "max_tokens": "many"},
        {"prompt": "e", "max_tokens": 5, "n_tokens_to_generate": 5},
        {"prompt": 3, "num_samples": 2},
    ]
    file = write_prompts(tmp_path / "a.jsonl", rows)
    assert measure(str(file), "jsonl", Source(), OPTIONS) == Work(6, 10 + 100 + 30 + 10 + 10 + 20)
    assert measure(str(file), "jsonl", Source(limit=5, shard=(1, 2)), OPTIONS) == Work(3, 10 + 30 + 10)


def test_of_a_large_file_only_the_rows_are_counted_and_a_pipe_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LARGEST_READ", 10)
    file = write_prompts(tmp_path / "a.jsonl", [{"prompt": "a", "max_tokens": 100}] * 3)
    assert measure(str(file), "jsonl", Source(), OPTIONS) == Work(3, 30)
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": "a"}]), encoding="utf-8")
    assert measure(str(tmp_path / "a.json"), "json", Source(), OPTIONS) is None
    assert measure("-", None, Source(), OPTIONS) is None
    assert measure("/dev/stdin", None, Source(), OPTIONS) is None


@pytest.fixture
def shown(monkeypatch):
    """A function that returns what a progress bar shows after these calls; a second passes between two of them."""

    def show(work, *calls):
        now = iter(range(10**6))
        monkeypatch.setattr("tqdm.std.time", lambda: float(next(now)))
        stream = io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        bar = Progress(work, usual=10, is_shown=True)
        bar.bar.mininterval = 0
        bar.bar.ncols = 80
        for name, *args in calls:
            getattr(bar, name)(*args)
        line = str(bar.bar)
        bar.close()
        return line, bar.bar.format_dict

    return show


def test_a_row_of_many_tokens_advances_the_bar_more_than_one_of_few(shown):
    line, _ = shown(Work(2, 1000), ("advance", request(10), "5.0 tokens/s"))
    assert "1/2 rows   1%|" in line and line.endswith("5.0 tokens/s]")
    line, _ = shown(Work(2, 1000), ("advance", request(990), "5.0 tokens/s"))
    assert "1/2 rows  99%|" in line
    line, _ = shown(Work(2, 1000), ("advance", None))
    assert "1/2 rows   1%|" in line


def test_rows_of_an_earlier_run_are_counted_but_not_as_speed(shown):
    _, found = shown(Work(3, 1200), ("skip", request(1000)), ("advance", request(100)))
    assert (found["n"], found["initial"], found["total"]) == (1100, 1000, 1200)


def test_without_a_total_there_are_rows_and_times_only(shown):
    line, _ = shown(None, ("advance", request(10), "5.0 tokens/s"))
    assert line.startswith("1 row [")
    assert "%" not in line and "?" not in line


def test_a_bar_that_is_not_shown_accepts_everything(capsys):
    bar = Progress(None, 10, is_shown=False)
    bar.skip(request(5))
    bar.advance(None)
    bar.clear()
    bar.close()
    assert capsys.readouterr() == ("", "")
