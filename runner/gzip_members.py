"""Gzip files that grow: each write is a member of its own (RFC 1952), so that what a killed process leaves can be cut.

A reader sees the members as one text. It notes where they begin, so that it can go to any position without reading
from the start.
"""

import bisect
import io
import zlib
from array import array
from typing import BinaryIO

from checkpoints.messages import named

SUFFIX = ".gz"
GZIP = 31  # wbits of zlib for a gzip header
CHUNK = 2**16  # bytes
LONGEST_TORN = 2**20  # bytes of an incomplete member
ZEROS = bytes(8)  # more than a member ends with


def compress(data: bytes) -> bytes:
    """Return data as one member, which is the same at any time and in any file."""
    compressor = zlib.compressobj(wbits=GZIP)
    return compressor.compress(data) + compressor.flush()


class Members(io.RawIOBase):
    """The text of a gzip file, for reading. Wrap it in io.BufferedReader.

    A last member that is incomplete, or zero bytes behind the last one, end the text: a process or a machine stopped
    while the file was written. Reading raises ValueError for other damage.

    Attributes, of what has been read so far: `starts` and `texts`, where each whole member begins in the file and in
    the text, and where the last one ends; `longest`, the size of the longest text of a member.
    """

    def __init__(self, file: BinaryIO):
        super().__init__()
        self.file = file
        self.starts = array("q", [0])
        self.texts = array("q", [0])
        self.longest = 0
        self.go_to(0)

    def go_to(self, number):
        """Continue at the beginning of a member."""
        self.number = number
        self.file.seek(self.starts[number])
        self.rest = b""  # of the file, not yet decompressed
        self.position = self.texts[number]
        self.decompressor = zlib.decompressobj(GZIP)
        self.is_over = False

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.position

    def seek(self, offset, whence=io.SEEK_SET):
        """Go to a position of the text that has been read before."""
        offset += self.position if whence == io.SEEK_CUR else 0
        number = bisect.bisect_right(self.texts, offset) - 1
        self.go_to(max(0, min(number, len(self.starts) - 1)))
        while self.position < offset and self.read(min(CHUNK, offset - self.position)):
            pass
        return self.position

    def readinto(self, buffer):
        text = self.next_text(len(buffer))
        buffer[: len(text)] = text
        self.position += len(text)
        return len(text)

    def next_text(self, most):
        """Return up to `most` bytes of text, b"" at the end."""
        while not self.is_over:
            if not self.rest:
                self.rest = self.file.read(CHUNK)
            if not self.rest:
                self.is_over = True  # the last member may be incomplete
                return b""
            text = self.decompress(most)
            if text:
                return text
        return b""

    def decompress(self, most):
        try:
            text = self.decompressor.decompress(self.rest, most)
        except zlib.error as error:
            if not self.is_torn():
                place = f"{self.starts[self.number]:,}"
                raise ValueError(f"{named(self.file.name)} is damaged: no gzip data follow byte {place}") from error
            self.is_over = True
            return b""
        self.rest = self.decompressor.unconsumed_tail
        if self.decompressor.eof:
            self.rest = self.decompressor.unused_data
            self.end_member(self.position + len(text))
        return text

    def end_member(self, end):
        """Note where a member ends, and begin with the next one."""
        self.longest = max(self.longest, end - self.texts[self.number])
        self.number += 1
        if self.number == len(self.starts):
            self.starts.append(self.file.tell() - len(self.rest))
            self.texts.append(end)
        self.decompressor = zlib.decompressobj(GZIP)

    def is_torn(self):
        """Return whether the rest of the file, behind the last whole member, is what a power failure leaves."""
        self.file.seek(self.starts[self.number])
        rest = self.file.read(LONGEST_TORN)
        is_short = len(rest) < LONGEST_TORN and rest.endswith(ZEROS)
        while rest and not rest.strip(b"\0"):
            rest = self.file.read(CHUNK)
        return is_short or not rest

    def place_of(self, position: int) -> int | None:
        """Return where in the file the member begins whose text begins at `position`; None if there is none."""
        number = bisect.bisect_left(self.texts, position)
        return self.starts[number] if number < len(self.texts) and self.texts[number] == position else None

    def close(self):
        self.file.close()
        super().close()
