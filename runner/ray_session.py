"""A connection to a Ray cluster, whose own output reaches neither stdout nor stderr."""

import contextlib
import io
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints.messages import abbreviated
from cli.threads import CHOSEN
from engine.cores import n_cores

log = logging.getLogger("picogpt")

ROOT = Path(__file__).parent.parent
PACKAGES = ("checkpoints", "cli", "engine", "runner")  # with the modules beside them, all that a worker imports
LOCAL = "local"
SECONDS_TO_CONNECT = 10
INSTALL = 'pip install "ray>=2.50"'


def import_ray() -> Any:
    """Return the package. Raise RuntimeError if it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(f"--cluster needs the package Ray: {INSTALL}") from error
    return ray


@contextlib.contextmanager
def session(address: str, worker_cpus: int, n_workers: int | None) -> Iterator[Any]:
    """Connect to a cluster within a `with` block, or start one for "local"; yield the module ray.

    Raise RuntimeError if that fails.
    """
    ray = import_ray()
    check_address(address)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    settings = {"log_to_driver": False, "logging_level": "CRITICAL", "address": address}
    if address == LOCAL:
        n_cpus = max(n_cores(), worker_cpus * (n_workers or 1))
        settings |= {"include_dashboard": False, "num_cpus": n_cpus}
    with tempfile.TemporaryDirectory() as folder:
        copy_modules(Path(folder))
        environment = {"working_dir": folder, "env_vars": dict.fromkeys(CHOSEN, str(worker_cpus))}
        try:
            ray.init(**settings, runtime_env=environment)
        except ConnectionError as error:
            raise RuntimeError(unconnected(address, reason_of(error).split(". ")[0])) from error
        except Exception as error:
            raise RuntimeError(f"cannot use the Ray cluster {address}: {reason_of(error)}") from error
        finally:
            for signum, handler in handlers.items():  # Ray replaces them
                signal.signal(signum, handler)
    try:
        yield ray
    except (SystemError, ray.exceptions.RayError) as error:
        lost = f"the connection to the Ray cluster {address} was lost ({reason_of(error)})"
        raise RuntimeError(f"{lost}; the same command continues with the other rows") from error
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise RuntimeError if nothing answers at HOST:PORT: Ray would wait for a minute."""
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        raise RuntimeError(unconnected(address, reason)) from error


def unconnected(address, reason):
    """Return the message of a connection that failed."""
    return (
        f"cannot connect to the Ray cluster {address} ({reason}): start one by ray start --head, join one by ray start "
        "--address HOST:PORT, or use --cluster local; all machines of a cluster need the same authentication token"
    )


def copy_modules(folder: Path) -> None:
    """Copy the modules of this project to a folder, without models and everything else in the checkout."""
    for module in ROOT.glob("*.py"):
        shutil.copy(module, folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def reason_of(error: BaseException) -> str:
    """Return what an exception of Ray says, in one line."""
    cause = getattr(error, "cause", None) or error
    text = str(cause).strip() or type(cause).__name__
    missing = re.search(r"No module named '([\w.]+)'", text)
    if missing:
        return f"a machine of the cluster lacks the package {missing[1]}; install the same packages on all machines"
    return abbreviated(" ".join(text.split()), 300)


# ---- output ----------------------------------------------------------------------------------------------------


class OwnStream(io.TextIOWrapper):
    """A text stream for the main thread. What other threads write, which are those of Ray, is dropped."""

    def write(self, text: str) -> int:
        if threading.current_thread() is threading.main_thread():
            return super().write(text)
        return len(text)


@contextlib.contextmanager
def without_foreign_output() -> Iterator[None]:
    """Let only this project write to stdout and stderr within a `with` block.

    Ray writes to the file descriptors 1 and 2, which are /dev/null in the block, and by its threads to sys.stdout.
    """
    streams = {1: sys.stdout, 2: sys.stderr}
    handler = log.handlers[0]
    saved = {number: os.dup(number) for number in streams}
    sys.stdout = own_stream(1, sys.stdout)
    sys.stderr = own_stream(2, sys.stderr)
    handler.setStream(sys.stderr)
    try:
        with open(os.devnull, "wb") as nowhere:
            for number in saved:
                os.dup2(nowhere.fileno(), number)
        yield
    finally:
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
        sys.stdout = streams[1]
        sys.stderr = streams[2]
        handler.setStream(sys.stderr)


def own_stream(number, stream):
    """Return a stream that writes to a copy of a file descriptor, None in place of None."""
    if stream is None:
        return None
    stream.flush()
    raw = open(os.dup(number), "wb", buffering=0)  # noqa: SIM115, the stream closes it
    return OwnStream(raw, encoding="utf-8", errors=stream.errors, write_through=True)
