"""One file over HTTP: request the bytes that are missing, read the answer at a minimum speed, and name what went wrong.

The libraries below raise dozens of exceptions. Two remain here: Interrupted and Refused.
"""

import contextlib
import hashlib
import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from checkpoints import files
from checkpoints.messages import abbreviated, named, reason

TIMEOUT = (10, 60)  # seconds to connect; seconds without a byte
LONGEST_START = 120  # seconds until the body begins, after all redirects
LONGEST_CHUNK = 60  # seconds for files.CHUNK bytes: a slower server is abandoned

COUNT = r"\d{1,15}"  # a number of bytes in a header
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # variables that replace the trusted certificates


class Interrupted(Exception):
    """The transfer failed, and a retry may succeed."""


class Refused(Exception):
    """The transfer failed, and a retry would fail as well."""


class Part:
    """The bytes of a file that have been received: an open file and the SHA-256 of its content."""

    def __init__(self, file: BinaryIO, name: str):
        self.file = file
        self.name = name
        self.digest = hashlib.sha256()
        file.seek(0)
        while chunk := file.read(files.CHUNK):
            self.digest.update(chunk)
        self.size = file.tell()
        self.milestone = self.size  # the size to reach before the deadline
        self.deadline = 0.0

    def append(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self.file.truncate(0)
        self.digest = hashlib.sha256()
        self.size = self.milestone = 0


# ---- one answer ------------------------------------------------------------------------------------------------


def receive_more(url: str, part: Part, size: int | None) -> int | None:
    """Append the body of one answer to `part`. Return the size of the whole file if the server says it, else `size`.

    The body may end before the file does. It is not read if the file is larger than `size`, and not beyond `size` or,
    if that is None, files.LARGEST_TEXT.
    Raise Interrupted or Refused.
    """
    start = part.size
    with ended(request(url, start)) as response:
        is_continued, total = read_headers(response, part)
        if not is_continued:
            part.restart()
        length = length_of_body(response)
        end = size if length is None else part.size + length
        if total is None:
            total = end
        if None not in (size, total) and total > size:
            return total
        first = part.size
        with files.progress_bar(desc=part.name, total=total, initial=first, unit="B", unit_scale=True) as bar:
            for chunk in at_minimum_speed(part, response.iter_content(files.CHUNK)):
                part.append(chunk)
                bar.update(len(chunk))
                if part.size > (files.LARGEST_TEXT if size is None else size):
                    return part.size if size is None else size
    if end is not None and part.size < end:
        raise Interrupted(f"the connection ended after {part.size:,} of {end:,} bytes")
    if part.size == first and part.size != total:
        raise Interrupted(f"the server sent none of the bytes from {first:,} on")
    return total


@contextlib.contextmanager
def ended(response):
    """Close the connection of a response after a `with` block, also while another thread waits for its bytes."""
    try:
        yield response
    finally:
        with contextlib.suppress(Exception), socket.socket(fileno=os.dup(response.raw.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        response.close()


def request(url, start):
    """Return the response to a request for the bytes of `url` from `start` on, when its headers have arrived."""
    import requests

    headers = {"Accept-Encoding": "identity"}  # a compressed body could not be resumed
    if start:
        headers["Range"] = f"bytes={start}-"
    redirects = []
    hooks = {"response": lambda response, **_: redirects.append(response.headers.get("Location"))}
    try:
        with own_errors():
            return in_time(
                lambda: requests.get(url, headers=headers, stream=True, timeout=TIMEOUT, hooks=hooks),
                LONGEST_START,
                f"the server sent no answer in {LONGEST_START} seconds",
            )
    except Unusable as error:
        address = f"the server redirects to {named(redirects[-1])}" if any(redirects[-1:]) else "the address is invalid"
        raise Refused(f"{address}, and no file can be requested from there ({error})") from error


def read_headers(response, part):
    """Return whether the body continues `part` (206), not the whole file (200), and the file's size, None if not said.

    Raise Interrupted for any other answer that a retry may improve, Refused for the rest.
    """
    status = response.status_code
    answer = f"the server answered {status} {abbreviated(response.reason or '')}".rstrip()
    if status == 429 or status >= 500:
        raise Interrupted(answer)
    found = re.fullmatch(rf"bytes ({COUNT})-{COUNT}/({COUNT}|\*)", response.headers.get("Content-Range", ""))
    is_compressed = response.headers.get("Content-Encoding", "identity") != "identity"
    continues = status == 206 and found is not None and int(found[1]) == part.size and not is_compressed
    if status == 416 or (status == 206 and not continues):
        start = part.size
        part.restart()
        raise Interrupted(f"{answer} to a request for the bytes from {start:,} on")
    if status not in (200, 206):
        raise Refused(answer)
    if "text/html" in response.headers.get("Content-Type", ""):
        raise Refused("the server sent a web page instead of the file")
    return continues, int(found[2]) if continues and found[2] != "*" else None


def length_of_body(response):
    """Return the number of bytes in the body, None if the headers do not say it."""
    length = response.headers.get("Content-Length", "")
    is_compressed = response.headers.get("Content-Encoding", "identity") != "identity"
    return None if is_compressed or not re.fullmatch(COUNT, length, re.ASCII) else int(length)


# ---- time ------------------------------------------------------------------------------------------------------


def at_minimum_speed(part: Part, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a body, which the caller appends to `part`.

    Raise Interrupted if files.CHUNK bytes take longer than LONGEST_CHUNK seconds, in one answer or in several, and
    Refused if the body is invalid.
    """
    problem = f"the server sent fewer than {files.CHUNK:,} bytes in {LONGEST_CHUNK} seconds"
    while True:
        if part.size >= part.milestone:
            part.milestone = part.size + files.CHUNK
            part.deadline = time.monotonic() + LONGEST_CHUNK
        try:
            with own_errors():
                chunk = in_time(lambda: next(chunks, b""), part.deadline - time.monotonic(), problem)
        except Unusable as error:
            raise Refused(f"the server's answer cannot be read ({error})") from error
        if not chunk:
            return
        yield chunk


def in_time(function: Callable[[], Any], seconds: float, problem: str) -> Any:
    """Return what a function returns. Raise Interrupted if that takes longer; its thread is then abandoned.

    The timeouts of sockets do not suffice: each byte that arrives resets them.
    """
    results = queue.SimpleQueue()
    abandoned = threading.Event()

    def call():
        try:
            results.put((function(), None))
        except Exception as error:
            results.put((None, error))
        if abandoned.is_set():
            close_unused(results)

    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = results.get(timeout=max(seconds, 0))
    except queue.Empty:
        abandoned.set()
        close_unused(results)
        raise Interrupted(problem) from None
    if error is not None:
        raise error
    return result


def close_unused(results):
    """Close a response that arrived too late."""
    with contextlib.suppress(queue.Empty):
        result, _ = results.get_nowait()
        if hasattr(result, "close"):
            result.close()


# ---- errors ----------------------------------------------------------------------------------------------------


class Unusable(Exception):
    """The libraries cannot use an address or an answer."""


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Raise Interrupted, Refused or Unusable in place of the errors of requests and the libraries below it."""
    import requests

    try:
        yield
    except Interrupted:
        raise
    except requests.exceptions.SSLError as error:
        kind = Interrupted if isinstance(innermost(error), ssl.SSLEOFError) else Refused
        raise kind(f"{cause(error)}{note_on_certificates()}") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise Interrupted(cause(error)) from error
    except requests.TooManyRedirects as error:
        raise Refused("the server redirects too often") from error
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise Refused(f"{reason(error)}{note_on_certificates()}") from error
        raise Unusable(type(error).__name__) from error


def innermost(error):
    """Return the exception that caused the others; the outer ones are library internals."""
    while error.__context__:
        error = error.__context__
    return error


def cause(error):
    """Return the reason for a network error in a few words."""
    found = innermost(error)
    if not isinstance(found, OSError):
        return f"the connection failed ({type(found).__name__})"
    return reason(found)


def note_on_certificates():
    """Return which variable replaces the trusted certificates, or nothing."""
    for name in BUNDLES:
        if path := os.environ.get(name):
            return f"; {name} is {named(path)}, which must be a file or a folder with the certificates to trust"
    return ""
