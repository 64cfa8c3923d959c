"""Locks, atomic writes and progress bars."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Terminal
from model_folders import ROOT, load_weights

from checkpoints import files


def test_a_new_file_has_the_usual_permissions(tiny_checkpoint):
    load_weights(tiny_checkpoint)
    (tiny_checkpoint / "other").touch()
    assert (tiny_checkpoint / "model.safetensors").stat().st_mode == (tiny_checkpoint / "other").stat().st_mode


def test_a_new_file_deletes_the_part_of_a_killed_process(tiny_checkpoint):
    left = tiny_checkpoint / "model.safetensors.0123abcd.part"
    left.write_bytes(b"half")
    load_weights(tiny_checkpoint)
    assert not left.exists()


def test_a_new_file_gets_its_name_after_its_content_is_on_disk(tiny_checkpoint, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd, fsync=os.fsync: (fsync(fd), done.append(os.fstat(fd).st_size)))
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (replace(a, b), done.append(Path(b).name)))
    load_weights(tiny_checkpoint)
    assert done == [(tiny_checkpoint / "model.safetensors").stat().st_size, "model.safetensors"]


def test_a_lock_excludes_other_processes_and_ends_with_its_process(tmp_path):
    code = (
        "import pathlib\n"
        "from checkpoints import files\n"
        f"with files.locked(pathlib.Path({str(tmp_path)!r})): print('in', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder, open(tmp_path / ".lock", "ab") as file:
        assert holder.stdout.readline().strip() == b"in"
        assert not files.try_lock(file)
        holder.kill()
        holder.wait()
        assert files.try_lock(file)


@pytest.mark.parametrize(("level", "is_drawn"), [("NOTSET", True), ("INFO", True), ("WARNING", False)])
def test_a_progress_bar_is_drawn_on_a_terminal_unless_the_logger_is_limited_to_warnings(monkeypatch, level, is_drawn):
    monkeypatch.setattr(files.log, "level", logging.getLevelName(level))
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with files.progress_bar(range(3), desc="counting") as bar:
        assert list(bar) == [0, 1, 2]
    assert ("counting: 100%" in terminal.getvalue()) == is_drawn


def test_a_progress_bar_is_not_drawn_if_stderr_is_no_terminal(monkeypatch):
    monkeypatch.setattr(files.log, "level", logging.INFO)
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with files.progress_bar(range(3)) as bar:
        assert list(bar) == [0, 1, 2]
    assert log.getvalue() == ""
