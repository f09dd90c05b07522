"""A sink for what speaks Cloud Storage's JSON API: takes uploads, counts their bytes, stores nothing. Plain or TLS.

Every object of a workload has the same bytes, so the hashes that it tells are known before.
"""

from __future__ import annotations

import contextlib
import json
import re
import socketserver
import ssl
import sys
import threading
import time
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_SPAN = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
PIECE = 1 << 20


class Connection(socketserver.StreamRequestHandler):
    """One connection, kept alive."""

    disable_nagle_algorithm = True
    server: Sink

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self._one():
                pass

    def _one(self) -> bool:
        line = self.rfile.readline(65536).decode("latin-1").split()
        if len(line) < 2:
            return False
        headers: dict[str, str] = {}
        while True:
            header = self.rfile.readline(65536).decode("latin-1").rstrip("\r\n")
            if not header:
                break
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect") == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        first = self._body(headers)
        self._answer(line[0], line[1], headers, first)
        return True

    def _body(self, headers: dict[str, str]) -> bytes:
        """Read it all, and keep its beginning, where a multipart upload has its resource."""
        first = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(self.rfile.readline().strip() or b"0", 16)
                data = self.rfile.read(size)
                first = first or data[:4096]
                self.rfile.readline()
                if not size:
                    return first
        left = int(headers.get("content-length") or 0)
        while left:
            data = self.rfile.read(min(left, PIECE))
            if not data:
                raise ValueError("cut")
            first = first or data[:4096]
            left -= len(data)
        return first

    def _answer(self, method: str, target: str, headers: dict[str, str], first: bytes) -> None:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        span = _SPAN.fullmatch(headers.get("content-range", ""))
        if method == "GET":
            status, more, body = 404, "", {"error": {"code": 404, "message": "Not Found"}}
        elif query.get("uploadType") == ["resumable"] and "upload_id" not in query:
            host = f"{self.server.scheme}://{headers.get('host')}"
            status, more, body = 200, f"Location: {host}{parts.path}?uploadType=resumable&upload_id=x&name=n\r\n", {}
        elif span is not None and span[3] != str(int(span[2]) + 1):
            status, more, body = 308, f"Range: bytes=0-{span[2]}\r\n", {}
            if "x-guploader-no-308" in headers:  # Google's Go library asks for it so
                status, more = 200, f"{more}X-Http-Status-Code-Override: 308\r\n"
        else:
            found = re.search(rb'"name":\s*"([^"]+)"', first)
            name = query["name"][0] if "name" in query else found[1].decode() if found else unquote(parts.path.rsplit("/", 1)[-1])
            status, more, body = 200, "", self.server.resource | {"name": name}
        data = json.dumps(body).encode()
        if status == 200:
            time.sleep(self.server.put_s)
        self.wfile.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(data)}\r\n\r\n".encode() + data
        )


class Sink(socketserver.ThreadingTCPServer):
    """On a free port."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, resource: dict[str, Any], certificate: str, key: str, put_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.resource, self.put_s = resource, put_s
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._context: ssl.SSLContext | None = context
            self.scheme = "https"
        else:
            self._context = None

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._context is not None:
            # The handshake is made by the connection's own thread, when it first reads.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    server = Sink(told["resource"], told.get("certificate", ""), told.get("key", ""), told.get("put_ms", 0) / 1000)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{server.scheme}://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()
