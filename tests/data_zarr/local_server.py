"""A server on this machine that hands out a folder as plain HTTP, S3 and Google storage do.

    /FOLDER/KEY          plain; /bucket/key is the same to S3 in path style
    /storage/v1/b/BUCKET/o/KEY?alt=media   Google's JSON interface

It answers ranges, lists nothing, and can be told to misbehave.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Attributes: `asked` and `signed` (path -> requests), `listings`, and what goes wrong:

    refuse: so many first requests of each path are answered 503.
    cut: paths whose bodies end half way.
    ranges: False hands out whole files, whatever part was asked for.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.refuse, self.ranges = root, 0, True
        self.cut: set[str] = set()
        self.asked: collections.Counter[str] = collections.Counter()
        self.listings = 0
        self.signed: collections.Counter[str] = collections.Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).lstrip("/")
        if key.startswith("storage/v1/b/"):
            bucket, _, name = key.removeprefix("storage/v1/b/").partition("/o/")
            key = f"{bucket}/{name}"
        if "list-type" in parts.query or "prefix" in parts.query or key.endswith("/"):
            self.server.listings += 1
            return self._status(403)
        self.server.asked[key] += 1
        self.server.signed[key] += "Authorization" in self.headers
        if self.server.asked[key] <= self.server.refuse:
            return self._status(503)
        file = self.server.root / key
        if not file.is_file():
            return self._status(404)
        content, size = file.read_bytes(), file.stat().st_size
        span = self.headers.get("Range", "").removeprefix("bytes=")
        status, extra = 200, {}
        if span and self.server.ranges:
            first, _, last = span.partition("-")
            start = int(first) if first else max(0, size - int(last))
            stop = min(size, int(last) + 1) if first and last else size
            if start >= size:
                return self._status(416)
            content, status = content[start:stop], 206
            extra = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        self.send_response(status)
        headers = {
            "Content-Length": str(len(content)),
            "Accept-Ranges": "bytes",
            "ETag": '"fixed"',
            "Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT",
            "x-goog-generation": "1",
            **extra,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            cut = key in self.server.cut
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True
        return None

    def _status(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()
