"""Compressed prompts and records: read, written, continued after any damage that a stopped machine leaves."""

import gzip
import io
import json
import random
import subprocess
from functools import partial

import pytest
from batch_runs import KNOBS, PROMPTS, read_records, run_batch, texts, write_prompts

from runner import records
from runner.gzip_members import Members, compress
from runner.prompts import count_rows, find_format
from runner.records import Records

ARGS = ("-n", "6", *KNOBS)


@pytest.fixture
def run(here):
    return partial(run_batch, here)


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(
        tmp_path / "prompts.jsonl", [{"prompt": p, "num_samples": 1 + i % 2} for i, p in enumerate(PROMPTS)]
    )


@pytest.fixture
def expected(run, prompts, tmp_path):
    """The records of a run without compression."""
    plain = tmp_path / "plain.jsonl"
    assert run(prompts, "--output", plain, *ARGS)[0] == 0
    return texts(read_records(plain))


def records_of(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


# ---- members ---------------------------------------------------------------------------------------------------


def reader_of(content):
    file = io.BytesIO(content)
    file.name = "x.gz"
    return io.BufferedReader(Members(file))


def test_members_are_read_as_one_text_and_every_position_can_be_reached():
    rng = random.Random(3)
    parts = [bytes(rng.choices(b"abc\n", k=rng.randrange(1, 400))) for _ in range(60)]
    text = b"".join(parts)
    reader = reader_of(b"".join(map(compress, parts)))
    assert reader.read() == text
    for _ in range(300):
        position = rng.randrange(len(text) + 1)
        reader.seek(position)
        assert reader.readline() == io.BytesIO(text[position:]).readline()


def test_the_text_ends_before_an_incomplete_member_and_its_place_is_known():
    whole = compress(b"one\n") + compress(b"two\n")
    torn = compress(bytes(range(256)) * 40)
    for cut in (1, 5, 12, len(torn) // 2, len(torn) - 1):
        reader = reader_of(whole + torn[:cut])
        assert reader.read().startswith(b"one\ntwo\n")
        assert reader.raw.place_of(8) == len(whole)
        assert [reader.raw.place_of(place) for place in (0, 4, 5)] == [0, len(compress(b"one\n")), None]


@pytest.mark.parametrize("n_zeros", [1, 8, 5000, 3_000_000])
def test_zeros_behind_the_last_member_end_the_text(n_zeros):
    assert reader_of(compress(b"one\n") + bytes(n_zeros)).read() == b"one\n"


def test_other_damage_is_an_error_with_its_place():
    one = compress(b"one\n")
    for content in (one + b"two\n", one + bytes(9) + one, b"two\n", one[:-5] + b"\xff" + one[-4:] + one):
        with pytest.raises(ValueError, match=r"^'?x.gz'? is damaged: no gzip data follow byte"):
            reader_of(content).read()


def test_members_without_a_text_are_read_over():
    assert reader_of(compress(b"") + compress(b"a") + compress(b"")).read() == b"a"


# ---- prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.JSONL.GZ"])
def test_compressed_prompts_are_read_by_their_name(run, prompts, expected, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(prompts.read_bytes()))
    code, out, err = run(path, *ARGS)
    assert (code, err) == (0, "")
    assert texts(map(json.loads, out.splitlines())) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt.gz", "One\nTwo\n"), ("p.csv.gz", "prompt,id\nOne,1\nTwo,2\n"), ("p.tsv.gz", "prompt\nOne\nTwo")],
)
def test_all_formats_may_be_compressed(run, tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    assert count_rows(str(path), find_format(str(path), None)) == 2
    _, out, _ = run(path, "-n", "1")
    assert {json.loads(line)["prompt"] for line in out.splitlines()} == {"One", "Two"}


def test_compressed_prompts_that_are_damaged_end_the_run_after_their_whole_lines(run, tmp_path):
    path = tmp_path / "p.txt.gz"
    whole = gzip.compress(b"One\nTwo\n")
    for content, reason in (
        (whole + whole[:10], "after line 2: the gzip file is damaged or cut off"),
        (b"One\nTwo\n", "after line 0: they are not in gzip's format"),
    ):
        path.write_bytes(content)
        code, out, err = run(path, "-n", "1", "--batch_size", "1")
        assert (code, out.count("\n")) == (1, 2 if content != b"One\nTwo\n" else 0)
        assert err == f"Error: cannot read the prompts {reason}\n"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("p.jsonl.zst", "unpack it first, as in zstd -dc "),
        ("p.txt.bz2", "unpack it first, as in bzip2 -dc "),
        ("p.parquet", "write its rows as .jsonl or .csv, with pandas"),
        ("p.xlsx", "write its rows as .jsonl or .csv, with pandas"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--format", "jsonl")])
def test_other_endings_are_refused_with_a_remedy(run, tmp_path, name, remedy, more):
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd")
    code, out, err = run(tmp_path / name, *more)
    assert (code, out) == (2, "")
    assert remedy in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl.zst"])
def test_an_output_whose_name_promises_another_format_is_refused(run, prompts, tmp_path, name):
    code, _, err = run(prompts, "--output", tmp_path / name)
    assert code == 2
    assert err.endswith("would hold lines of JSON: name a file that ends in .jsonl or .jsonl.gz\n")
    assert not (tmp_path / name).exists()


# ---- records ---------------------------------------------------------------------------------------------------


def test_compressed_records_are_those_of_a_plain_file_and_other_programs_read_them(run, prompts, expected, tmp_path):
    out = tmp_path / "out.jsonl.gz"
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")
    assert texts(records_of(out)) == expected
    unpacked = subprocess.run(["gzip", "-dc", out], capture_output=True, check=True).stdout
    assert unpacked == gzip.decompress(out.read_bytes())


def test_each_row_is_a_member_when_it_is_finished(run, prompts, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl.gz"
    n_rows = []
    append = Records.append

    def watching(self, data):
        append(self, data)
        n_rows.append(len({record["row"] for record in records_of(out)}))

    monkeypatch.setattr(Records, "append", watching)
    run(prompts, "--output", out, *ARGS)
    assert n_rows == [1, 2, 3, 4, 5]


def test_a_run_continues_wherever_the_file_was_cut(run, prompts, expected, tmp_path):
    out = tmp_path / "out.jsonl.gz"
    run(prompts, "--output", out, *ARGS)
    content = out.read_bytes()
    for size in range(0, len(content) + 1, 37):
        for zeros in (0, 700):
            out.write_bytes(content[:size] + bytes(zeros))
            code, _, err = run(prompts, "--output", out, *ARGS)
            assert (code, err) == (0, ""), (size, zeros)
            found = records_of(out)
            assert texts(found) == expected
            assert len(found) == len(expected)


def test_finished_rows_are_not_written_again(run, prompts, tmp_path):
    out = tmp_path / "out.jsonl.gz"
    run(prompts, "--output", out, *ARGS)
    content = out.read_bytes()
    kept = len(content) - 100
    out.write_bytes(content[:kept])
    run(prompts, "--output", out, *ARGS)
    last = content.rindex(b"\x1f\x8b\x08", 0, kept)
    assert out.read_bytes()[:last] == content[:last]


def test_a_file_that_was_packed_again_is_continued_and_its_rows_stay_fast_to_find(
    run, prompts, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "LONGEST_MEMBER", 1500)
    monkeypatch.setattr(records.files, "CHUNK", 1000)
    out = tmp_path / "out.jsonl.gz"
    run(prompts, "--output", out, *ARGS)
    lines = gzip.decompress(out.read_bytes()).splitlines(keepends=True)
    out.write_bytes(gzip.compress(b"".join(lines[:-1])))
    assert run(prompts, "--output", out, *ARGS) == (0, "", "")
    assert texts(records_of(out)) == expected
    opened = Records(out)
    assert opened.members.longest <= 1000
    opened.close()


def test_failed_rows_are_tried_again_and_sorting_works(run, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    out = tmp_path / "out.jsonl.gz"
    prompts.write_text('{"prompt": "One"}\n{"prompt": 3}\n{"prompt": "Two"}\n', encoding="utf-8")
    assert run(prompts, "--output", out, "-n", "2", "--batch_size", "1")[0] == 1
    prompts.write_text('{"prompt": "One"}\n{"prompt": "3"}\n{"prompt": "Two"}\n', encoding="utf-8")
    assert run(prompts, "--output", out, "-n", "2", "--batch_size", "1", "--sort") == (0, "", "")
    assert [(record["row"], record["prompt"]) for record in records_of(out)] == [(0, "One"), (1, "3"), (2, "Two")]


@pytest.mark.parametrize("content", [b"my notes\n", gzip.compress(b"my notes\n"), gzip.compress(b"a\n")[:-4] + b"1234"])
def test_a_file_of_something_else_is_refused_and_not_changed(run, prompts, tmp_path, content):
    out = tmp_path / "out.jsonl.gz"
    out.write_bytes(content)
    code, _, err = run(prompts, "--output", out, *ARGS)
    assert code == 2
    assert err.startswith("Error: ") and err.count("\n") == 1 and "out.jsonl.gz" in err
    assert out.read_bytes() == content
