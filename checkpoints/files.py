"""Files shared by several processes: safe opening, JSON, checksums, locks, atomic writes.

A file is written under a name that ends in .part and renamed when it is complete, by the process that holds the lock of
its folder. A file under its final name is therefore always complete.

The files of a model may come from anybody. So a file is read only if it is a regular file of bounded size, and a file
that this program writes is never reached through a link that lies in the folder.
"""

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from checkpoints.messages import named, reason

log = logging.getLogger("picogpt")

CHUNK = 2**16  # bytes read or written at once
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
LARGEST_POINTER = 1024  # bytes; Git LFS's own limit
LARGEST_TEXT = 2**24  # bytes of a configuration file; those of published models have at most some hundred thousand
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO does not wait for its other end
NO_LINK = getattr(os, "O_NOFOLLOW", 0)

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a symbolic link"}
KINDS |= {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class CheckpointError(RuntimeError):
    """The files of a model are missing, damaged or inconsistent, or cannot be downloaded."""


# ---- open ------------------------------------------------------------------------------------------------------


def expand(path: str | os.PathLike) -> str:
    """Return the path with ~ and $VARIABLES expanded."""
    return os.path.expanduser(os.path.expandvars(str(path)))


def is_file(path: Path) -> bool:
    """Return whether there is a file at `path`. Raise CheckpointError if there is a folder, a FIFO or a device."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a NUL character
        return False
    check_regular(path, mode)
    return True


def check_regular(path: Path, mode: int) -> None:
    """Raise CheckpointError unless `mode`, of os.stat, is that of a regular file."""
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{named(path)} is {kind_of(mode)}; a model's files must be regular files: remove it")


def kind_of(mode: int) -> str:
    """Return a noun for what has this mode, of os.stat, and is not a regular file."""
    return KINDS.get(stat.S_IFMT(mode), "a special file")


def open_to_read(path: Path) -> BinaryIO:
    """Open a regular file. Raise CheckpointError if there is anything else, OSError if it cannot be read."""
    check_regular(path, os.stat(path).st_mode)  # opening a device can have an effect
    return checked(path, open(path, "rb", opener=lambda name, flags: os.open(name, flags | NO_WAIT)))


def open_to_append(path: Path) -> BinaryIO:
    """Open a regular file to append to it and to read it; create it if it is missing.

    Raise CheckpointError if there is anything else, also if it is a symbolic link to a file.
    """
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, os.lstat(path).st_mode)
    return checked(path, open(path, "a+b", opener=lambda name, flags: os.open(name, flags | NO_WAIT | NO_LINK, 0o666)))


def checked(path, file):
    """Return an open file. Close it and raise CheckpointError unless it is a regular file with a content."""
    try:
        status = os.fstat(file.fileno())
        check_regular(path, status.st_mode)
        if 0 < status.st_size < LARGEST_POINTER:
            check_content(path, file)
    except CheckpointError:
        file.close()
        raise
    return file


def check_content(path: Path, file: BinaryIO) -> None:
    """Raise CheckpointError if Git LFS left a pointer in place of the content."""
    file.seek(0)
    is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    file.seek(0)
    if is_pointer:
        raise CheckpointError(
            f"{named(path)} is a pointer of Git LFS, not the content of the file: run git lfs pull in its folder"
        )


# ---- read ------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, limit: int = LARGEST_TEXT) -> bytes:
    """Return the content of a regular file. Raise CheckpointError if it has more than `limit` bytes."""
    content = bytearray()
    with open_to_read(path) as file:
        while len(content) <= limit and (chunk := file.read(CHUNK)):
            content += chunk
        size = os.fstat(file.fileno()).st_size
    if len(content) > limit:
        raise CheckpointError(
            f"{named(path)} has {max(size, len(content)):,} bytes; at most {limit:,} are read from a file of this "
            "kind: it is damaged or another file; copy or download it again"
        )
    return bytes(content)


def read_json_object(file: Path, limit: int = LARGEST_TEXT) -> dict[str, Any]:
    """Return the dict in a JSON file. Raise CheckpointError if the file holds anything else."""
    content = read_bytes(file, limit)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise CheckpointError(f"{named(file)} is not valid JSON ({error}): copy or download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{named(file)} holds no JSON object: copy or download it again")
    return value


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text. Raise ValueError, with the fault in a few words, if it is none."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno:,}, column {error.colno:,}") from None
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        raise ValueError("it is nested too deeply" if is_deep else "a number has too many digits") from None


# ---- lock ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` within a `with` block; wait for it if another process holds it.

    The operating system releases the lock when the process ends, however it ends. The empty file .lock remains.
    """
    path = folder / ".lock"
    while True:
        with open_to_append(path) as file:
            wait_for_lock(file, folder)
            if is_at(path, file):  # another process may have deleted it while this one waited
                yield
                return


def wait_for_lock(file, folder):
    if not try_lock(file):
        log.info(f"waiting for another process that is writing in {named(folder)}")
        while not try_lock(file):
            time.sleep(0.1)


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file without waiting. Return whether this succeeded."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # held by another process: on POSIX, on Windows
        return False
    return True


def is_at(path: Path, file: BinaryIO) -> bool:
    """Return whether `path` is the name of the open file, not of another file or of none."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


# ---- write -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes the content of `path` when the `with` block succeeds, else it is deleted.

    If `path` exists, its mode and owner are kept; if it is a symbolic link, its target is replaced.
    Raise OSError if `path` is no regular file, or has several names (hard links), which replacing would separate.
    """
    path = Path(os.path.realpath(path))
    old = None
    with contextlib.suppress(FileNotFoundError):
        old = os.lstat(path)
        check_replaceable(path, old)
    with replacing(path) as file:
        if old and os.name != "nt":
            keep_mode_and_owner(path, old, file)
        yield file


def check_replaceable(path: Path, status: os.stat_result) -> None:
    """Raise OSError unless `status` is that of a regular file with one name."""
    if not stat.S_ISREG(status.st_mode):
        problem = f"it is {kind_of(status.st_mode)}, not a regular file; choose another name"
        raise OSError(errno.EINVAL, problem, str(path))
    if status.st_nlink > 1:
        problem = f"it has {status.st_nlink} names (hard links), which replacing it would separate"
        raise OSError(errno.EMLINK, f"{problem}; copy it to a file of its own or choose another name", str(path))


def keep_mode_and_owner(path: Path, old: os.stat_result, file: BinaryIO) -> None:
    """Give an open, empty file the mode and the owner of the file that it is to replace."""
    new = os.fstat(file.fileno())
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        except OSError as error:
            problem = f"its owner, user {old.st_uid} and group {old.st_gid}, cannot be kept when it is replaced"
            remedy = "run as that user or choose another name"
            raise OSError(error.errno, f"{problem} ({reason(error)}); {remedy}", str(path)) from error
    os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path`, also a symbolic link, when the `with` block succeeds."""
    remove_abandoned_parts(path)
    part, file = open_part(path)
    try:
        with file:
            yield file
            sync(file)
            if os.name != "nt":  # as long as the file is open, no other process takes it for abandoned
                os.replace(part, path)
        if os.name == "nt":  # where an open file cannot be renamed
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_part(path: Path) -> tuple[Path, BinaryIO]:
    """Create a temporary file beside `path` and lock it. Return its path and the open file."""
    while True:
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        file = open(part, "xb")  # noqa: SIM115
        if os.name == "nt" or (is_ours(file) and is_at(part, file)):
            return part, file
        file.close()  # another process took it for abandoned before it was locked


def is_ours(file):
    """Return whether this process could lock the file; also where the file system has no locks."""
    try:
        return try_lock(file)
    except OSError:
        return True


def remove_abandoned_parts(path: Path) -> None:
    """Delete the temporary files of `path` that processes left which were killed: nobody holds their lock."""
    name = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    names = []
    with contextlib.suppress(OSError):  # a folder that may be written but not listed
        names = os.listdir(path.parent)
    for part in [path.with_name(entry) for entry in names if name.fullmatch(entry)]:
        with contextlib.suppress(OSError, CheckpointError):  # of another user, or deleted by another process meanwhile
            if os.name == "nt":
                part.unlink()  # fails while it is open
                continue
            with open_to_append(part) as file:
                if try_lock(file):
                    part.unlink()


def sync(file: BinaryIO) -> None:
    """Force the file's content to disk."""
    file.flush()
    os.fsync(file.fileno())


def progress_bar(iterable=None, **settings):
    """Return a tqdm progress bar. It is drawn on a terminal only, and not if the logger is limited to warnings."""
    from tqdm import tqdm

    is_quiet = log.level > logging.INFO
    return tqdm(iterable, disable=is_quiet or None, **settings)
