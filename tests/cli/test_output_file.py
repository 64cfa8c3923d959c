"""--output FILE, --overwrite and --separator."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from run_script import STORY, text_of

ENDLESS = ("--model_size", "tiny", "-n", "1000000", "--context", "slide", "--ignore_eos")


def test_the_text_goes_to_the_file_and_nothing_to_stdout(here, tmp_path):
    file = tmp_path / "out.txt"
    assert here(STORY, "--model_size", "tiny", "--output", file) == (0, "", "")
    assert file.read_text(encoding="utf-8") == text_of(here, STORY)
    assert here(STORY, "--model_size", "tiny", "-o", file, "--overwrite", "--json")[0] == 0
    assert json.loads(file.read_text(encoding="utf-8"))["prompt"] == STORY


def test_a_file_that_exists_is_kept_unless_it_may_be_replaced(here, tmp_path):
    file = tmp_path / "out.txt"
    file.write_text("precious", encoding="utf-8")
    code, out, err = here(STORY, "--model_size", "tiny", "--output", file)
    assert (code, out) == (2, "") and "exists; add --overwrite to replace it, or name another --output" in err
    assert file.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    ("name", "said"),
    [("folder", "folder is a folder"), ("absent/out.txt", "there is no folder"), ("a\0b", "can have this")],
)
def test_a_place_without_a_file_is_an_error_before_the_model_is_loaded(here, tmp_path, monkeypatch, name, said):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("utils.load_found", lambda *_: pytest.fail("loaded"))
    for args in ((), ("--overwrite",)):
        code, out, err = here(STORY, "--model_size", "tiny", "--output", tmp_path / name, *args)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_a_usage_error_leaves_no_file(here, tmp_path):
    for words in (["x", "--temperature", "hot"], ["x", "--model_size", "nowhere"], ["word " * 600]):
        args = [*words, *([] if "--model_size" in words else ["--model_size", "tiny"])]
        here(*args, "--output", tmp_path / "out.txt")
    assert os.listdir(tmp_path) == []
    (tmp_path / "out.txt").write_text("precious", encoding="utf-8")
    assert here("word " * 600, "--model_size", "tiny", "--output", tmp_path / "out.txt", "--overwrite")[0] == 2
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "precious"


def test_a_device_may_be_the_output(here):
    assert here(STORY, "--model_size", "tiny", "--output", os.devnull) == (0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("args", [(), ("--json", "--stream")])
def test_the_text_so_far_is_in_the_file_after_ctrl_c(tmp_path, args):
    file = tmp_path / "out.txt"
    command = [sys.executable, "gpt2.py", STORY, *ENDLESS, "--output", str(file), *args]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    while not file.exists() or file.stat().st_size < 500:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 130)
    text = file.read_text(encoding="utf-8")
    assert len(text) >= 500 and text.endswith("\n")
    for line in text.splitlines() if args else ():
        json.loads(line)


def test_the_separator_stands_between_two_samples(here):
    args = (STORY, "--num_samples", "2", "-n", "3")
    text = text_of(here, STORY, "-n", "3").removesuffix("\n")
    assert text_of(here, *args) == f"{text}\n---------------\n{text}\n"
    assert text_of(here, *args, "--separator", r"\n* * *\n") == f"{text}\n\n* * *\n\n{text}\n"
    assert text_of(here, *args, "--separator=") == f"{text}\n\n{text}\n"


def test_a_request_that_does_not_fit_in_memory_prints_nothing_and_leaves_no_file(here, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.memory.free_memory", lambda: 10**6)
    args = (STORY, "--model_size", "tiny", "--num_samples", "100", "-n", "100")
    for further in ((), ("--output", tmp_path / "out.txt")):
        code, out, err = here(*args, *further)
        assert (code, out) == (1, "")
        assert "Error: 100 texts of 104 tokens need 0." in err and "GB are free; ask for fewer samples or tokens" in err
    assert os.listdir(tmp_path) == []
