"""An HTTP server on this machine that serves files and, on demand, goes wrong in many ways."""

import contextlib
import gzip
import http.server
import re
import socket
import struct
import threading
from collections import defaultdict

NOT_FOUND = b"<html><body>The page you look for is not here</body></html>"


class Server(http.server.ThreadingHTTPServer):
    """Serve `files`, {path: bytes}.

    script: {path: words}, a word for each request, which selects one of the handler's answer_ methods. Requests after
    those get the file.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.script, self.requests, self.encodings = {}, defaultdict(list), [], set()
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def names_requested(self):
        return [path.rpartition("/")[2] for path, _ in self.requests]

    def handle_error(self, request, client_address):
        pass  # in some tests the client closes the connection


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.encodings.add(self.headers.get("Accept-Encoding"))
        script = self.server.script[self.path]
        word, _, argument = (script.pop(0) if script else "good").partition(" ")
        if word == "good" and self.path not in self.server.files:
            word, argument = "status", "404"
        getattr(self, f"answer_{word}")(self.server.files.get(self.path, b""), argument)

    def answer(self, body, status=200, announce=None, **headers):
        self.send_response(status)
        if announce is not None:
            self.send_header("Content-Length", announce)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        if announce != len(body):
            self.close_connection = True

    def answer_good(self, body, _):
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            if start >= len(body):
                return self.answer(b"", 416, 0, Content_Range=f"bytes */{len(body)}")
            headers = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return self.answer(body[start:], 206, len(body) - start, **headers)
        return self.answer(body, 200, len(body))

    def answer_without_range(self, body, _):
        self.answer(body, 200, len(body))

    def answer_other_range(self, body, _):
        self.answer(body[1:], 206, len(body) - 1, Content_Range=f"bytes 1-{len(body) - 1}/{len(body)}")

    def answer_truncate(self, body, _):
        self.answer(body[: len(body) // 2], 200, len(body))

    def answer_reset(self, body, _):
        self.answer(body[: len(body) // 2], 200, len(body))
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()  # with no linger: an RST, not a FIN

    def answer_until_close(self, body, _):
        self.answer(body, 200)

    def answer_until_early_close(self, body, _):
        self.answer(body[: len(body) // 2], 200)

    def answer_chunked(self, body, argument):
        self.answer(b"", 200, Transfer_Encoding="chunked")
        for start in range(0, len(body), 100):
            chunk = body[start : start + 100]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if argument != "cut":
            self.wfile.write(b"0\r\n\r\n")

    def answer_status(self, _, argument):
        self.answer(NOT_FOUND, int(argument), len(NOT_FOUND), Content_Type="text/html; charset=utf-8")

    def answer_page(self, _, content_type):
        self.answer(NOT_FOUND, 200, len(NOT_FOUND), Content_Type=content_type)

    def answer_wrong(self, body, _):
        self.answer(bytes(len(body)), 200, len(body))

    def answer_too_long(self, body, _):
        with contextlib.suppress(OSError):
            self.answer(bytes(2**24), 200)

    def answer_redirect(self, _, argument):
        self.answer(b"", 302, 0, Location=argument)

    def answer_short_ranges(self, body, argument):
        """From now on send at most `argument` bytes for each request, as a part of the file."""
        self.server.script[self.path].insert(0, f"short_ranges {argument}")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        piece = body[start : start + int(argument)]
        self.answer(piece, 206, len(piece), Content_Range=f"bytes {start}-{start + len(piece) - 1}/{len(body)}")

    def answer_announce(self, body, argument):
        """Send the file with other bytes after it, and announce them."""
        self.server.script[self.path].insert(0, f"announce {argument}")
        with contextlib.suppress(OSError):
            self.answer(body + bytes(int(argument)), 200, len(body) + int(argument))

    def answer_plain_page(self, _, __):
        self.answer(NOT_FOUND, 200, len(NOT_FOUND), Content_Type="text/plain")

    def answer_padded_page(self, body, _):
        page = NOT_FOUND.ljust(len(body))[: len(body)]
        self.answer(page, 200, len(page), Content_Type="text/plain")

    def answer_drip(self, body, _):
        """Send one byte after the other, slowly and without an end."""
        self.answer(b"", 200, len(body))
        self.close_connection = True
        with contextlib.suppress(OSError):
            while not self.server.stopping.wait(0.01):
                self.wfile.write(b"x")

    def answer_drip_headers(self, *_):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.answer_nothing_but_bytes()

    def answer_nothing_but_bytes(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            while not self.server.stopping.wait(0.01):
                self.wfile.write(b"x")

    def answer_reason(self, _, argument):
        self.send_raw(f"HTTP/1.1 404 {argument}\r\nContent-Length: 0\r\n\r\n".encode("latin-1", "replace"))

    def answer_raw(self, _, argument):
        self.send_raw(argument.encode("latin-1").decode("unicode_escape").encode("latin-1"))

    def send_raw(self, data):
        self.close_connection = True
        self.wfile.write(data)

    def answer_gzip(self, body, _):
        packed = gzip.compress(body)
        self.answer(packed, 200, len(packed), Content_Encoding="gzip")

    def answer_never(self, _, __):
        self.server.stopping.wait()
        self.close_connection = True
