"""Locks, atomic writes and progress bars."""

import io
import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Terminal
from model_folders import ROOT, convert, load_weights

from checkpoints import files
from utils import CheckpointError

on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs, and links need a privilege")


# ---- open and read ---------------------------------------------------------------------------------------------


def put(kind, path):
    """Put a FIFO, a socket, a folder or a link to a device at `path`."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        os.chdir(path.parent)  # the name of a socket has at most 107 characters
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@on_posix
@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a folder", "a device"])
@pytest.mark.parametrize("function", [files.is_file, files.open_to_read, files.open_to_append, files.read_bytes])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind, function):
    monkeypatch.chdir(tmp_path)
    put(kind, tmp_path / "x")
    found = "a symbolic link" if kind == "a device" and function is files.open_to_append else kind
    with pytest.raises(CheckpointError, match=f"x is {found}; a model's files must be regular files: remove it"):
        function(tmp_path / "x")


def test_a_file_over_its_limit_is_an_error_with_both_numbers(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "x", limit=5) == b"12345"
    with pytest.raises(CheckpointError, match=r"x has 5 bytes; at most 4 are read"):
        files.read_bytes(tmp_path / "x", limit=4)


@on_posix
def test_a_sparse_file_of_a_terabyte_is_an_error_at_once(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=r"has 1,099,511,627,776 bytes; at most 16,777,216 are read"):
        files.read_json_object(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1" * 5000, "a number has too many digits"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"{\xff", "byte 2 is not UTF-8"),
        (b'{"a": 1,\n}', "line [12], column [18]"),  # Python 3.13 names the comma
    ],
)
def test_the_error_for_invalid_json_is_in_our_own_words(tmp_path, content, said):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config\.json is not valid JSON \({said}\)"):
        files.read_json_object(tmp_path / "config.json")


# ---- lock ------------------------------------------------------------------------------------------------------


@on_posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_lock_that_is_a_symbolic_link_is_an_error_and_leaves_its_target_unchanged(tmp_path, exists):
    target = tmp_path / "precious"
    if exists:
        target.write_bytes(b"precious")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".lock").symlink_to(target)
    with pytest.raises(CheckpointError, match=r"\.lock is a symbolic link"), files.locked(tmp_path / "m"):
        pass
    assert target.exists() == exists and (not exists or target.read_bytes() == b"precious")


def test_a_lock_does_not_truncate_a_file(tmp_path):
    (tmp_path / ".lock").write_bytes(b"something")
    with files.locked(tmp_path):
        assert (tmp_path / ".lock").read_bytes() == b"something"


@on_posix
def test_a_lock_that_was_deleted_while_a_process_waited_is_taken_again(tmp_path, monkeypatch):
    waits = []

    def delete_once(file, try_lock=files.try_lock):
        if not waits:
            waits.append(1)
            (tmp_path / ".lock").unlink()
        return try_lock(file)

    monkeypatch.setattr(files, "try_lock", delete_once)
    with files.locked(tmp_path), open(tmp_path / ".lock", "ab") as other:
        assert not files.try_lock(other)


# ---- write -----------------------------------------------------------------------------------------------------


def write(path, content=b"new"):
    with files.new_file(path) as file:
        file.write(content)


@on_posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o755])
def test_a_new_file_keeps_the_mode_of_the_file_that_it_replaces(tmp_path, mode):
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(mode)
    with files.new_file(tmp_path / "x") as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode  # from the beginning
        file.write(b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give a file away")
def test_a_new_file_keeps_the_owner_of_the_file_that_it_replaces(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    os.chown(tmp_path / "x", 1234, 2345)
    write(tmp_path / "x")
    assert ((tmp_path / "x").stat().st_uid, (tmp_path / "x").stat().st_gid) == (1234, 2345)


@on_posix
def test_an_owner_that_cannot_be_kept_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "lstat", lambda path, lstat=os.lstat: with_owner(lstat(path), 7))
    with pytest.raises(OSError, match=r"its owner, user 7 and group \d+, cannot be kept .*Operation not permitted"):
        write(tmp_path / "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


def with_owner(status, user):
    values = list(status)
    values[stat.ST_UID] = user
    return os.stat_result(values)


@on_posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_new_file_replaces_the_target_of_a_symbolic_link(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    if exists:
        (tmp_path / "elsewhere" / "x").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/x")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "x").read_bytes() == b"new"
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"x"}


@on_posix
def test_a_file_with_several_names_is_not_replaced(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    os.link(tmp_path / "x", tmp_path / "y")
    with pytest.raises(OSError, match=r"it has 2 names \(hard links\)"):
        write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == b"old"


@on_posix
def test_a_fifo_or_a_link_to_itself_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, kind in (("fifo", "a FIFO"), ("loop", "a symbolic link")):
        with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
            write(tmp_path / name)
    assert (tmp_path / "loop").is_symlink() and (tmp_path / "fifo").is_fifo()


@on_posix
def test_a_link_in_place_of_a_converted_file_is_replaced_itself(tiny_checkpoint, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tiny_checkpoint / "model.safetensors").symlink_to(tmp_path / "precious")
    (tiny_checkpoint / "model.ckpt.verified").symlink_to(tmp_path / "precious")
    load_weights(tiny_checkpoint)
    assert not (tiny_checkpoint / "model.ckpt.verified").is_symlink()
    convert(tiny_checkpoint)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tiny_checkpoint / "model.safetensors").is_symlink()


@on_posix
@pytest.mark.parametrize("name", ["*.jsonl", "[ab].json", "?", "a.b"])
def test_a_new_file_deletes_no_part_of_another_file(tmp_path, name):
    for other in ("a.jsonl.01234567.part", "a.json.01234567.part", "x.01234567.part", "axb.01234567.part"):
        (tmp_path / other).touch()
    (tmp_path / f"{name}.01234567.part").touch()
    write(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 5 and not (tmp_path / f"{name}.01234567.part").exists()


@on_posix
def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    with files.new_file(tmp_path / "x") as first:
        first.write(b"first")
        write(tmp_path / "x", b"second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"first"}


def test_a_new_file_has_the_usual_permissions(tiny_checkpoint):
    convert(tiny_checkpoint)
    (tiny_checkpoint / "other").touch()
    assert (tiny_checkpoint / "model.safetensors").stat().st_mode == (tiny_checkpoint / "other").stat().st_mode


def test_a_new_file_deletes_the_part_of_a_killed_process(tiny_checkpoint):
    left = tiny_checkpoint / "model.safetensors.0123abcd.part"
    left.write_bytes(b"half")
    convert(tiny_checkpoint)
    assert not left.exists()


def test_a_new_file_gets_its_name_after_its_content_is_on_disk(tiny_checkpoint, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd, fsync=os.fsync: (fsync(fd), done.append(os.fstat(fd).st_size)))
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (replace(a, b), done.append(Path(b).name)))
    convert(tiny_checkpoint)
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
