"""Buckets of objects as large as one likes, in no memory: all their bytes are zero, and the huge ones come very slowly.

Over real HTTP, as far as a worker asks: a listing, HEAD and GET of S3; a listing, PUTs and sessions of Cloud Storage. A huge
object never ends: what is asked of whoever copies is what else goes on meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Mapping
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from google_crc32c import extend

SOURCE, SINK = "source-bucket", "sink-bucket"
PIECE = 64 << 10
EVERY_S = 0.2
HUGE_ETAG = "0123456789abcdef0123456789abcdef-99"
MODIFIED = "2026-11-21T03:00:00.000Z"


class Sparse:
    """`objects`: sizes by key; those of at least `huge` bytes never end. `stuck`: keys whose reads are never answered.

    reading   how many reads of each huge object are under way; written: names at the sink
    port      to listen at; 0: any that is free
    """

    def __init__(
        self, objects: Mapping[str, int], *, huge: int = 64 << 20, stuck: frozenset[str] = frozenset(), port: int = 0
    ) -> None:
        self.objects, self.huge, self.stuck = dict(sorted(objects.items())), huge, stuck
        self.reading: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.written: set[str] = set()
        self.lock = threading.Lock()
        self.over = threading.Event()
        self._etags: dict[int, str] = {}
        sparse = self

        class Connection(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    while _serve(self, sparse):
                        pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 1024

        self._server = Server(("127.0.0.1", port), Connection)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def streams(self) -> int:
        """Huge objects that are being read."""
        with self.lock:
            return sum(number > 0 for number in self.reading.values())

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def etag(self, key: str) -> str:
        size = self.objects[key]
        if size >= self.huge:
            return HUGE_ETAG
        if size not in self._etags:
            self._etags[size] = hashlib.md5(bytes(size), usedforsecurity=False).hexdigest()
        return self._etags[size]

    def listing(self, query: Mapping[str, str]) -> bytes:
        after = query.get("continuation-token", query.get("start-after", ""))
        keys = [key for key in self.objects if key > after and key.startswith(query.get("prefix", ""))]
        shown = keys[: int(query.get("max-keys", "1000"))]
        rows = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>{MODIFIED}</LastModified><ETag>&quot;{self.etag(key)}&quot;</ETag>"
            f"<Size>{self.objects[key]}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in shown
        )
        more = len(keys) > len(shown)
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        ).encode()


def _serve(connection: socketserver.StreamRequestHandler, sparse: Sparse) -> bool:
    line = connection.rfile.readline(65536).decode("latin-1").split()
    if len(line) < 2:
        return False
    headers: dict[str, str] = {}
    while header := connection.rfile.readline(65536).decode("latin-1").rstrip("\r\n"):
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    method, target = line[:2]
    parts = urlsplit(target)
    query = {name: one[0] for name, one in parse_qs(parts.query, keep_blank_values=True).items()}
    path = unquote(parts.path)
    if method in ("PUT", "POST"):
        return _written(connection, sparse, method, path, query, headers)
    if path.startswith("/storage/v1/"):
        return _answer(connection, 404 if "/o/" in path else 200, {}, b"{}")
    key = path.removeprefix(f"/{SOURCE}/")
    if key not in sparse.objects:
        return _answer(connection, 200, {"Content-Type": "application/xml"}, sparse.listing(query))
    return _read(connection, sparse, method, key, headers)


def _read(connection: socketserver.StreamRequestHandler, sparse: Sparse, method: str, key: str, headers: dict[str, str]) -> bool:
    size = sparse.objects[key]
    own = {"ETag": f'"{sparse.etag(key)}"', "Last-Modified": "Sat, 21 Nov 2026 03:00:00 GMT"}
    with sparse.lock:
        sparse.asked[key] += 1
    if key in sparse.stuck:
        sparse.over.wait()
        return False
    if size < sparse.huge or method == "HEAD":
        return _answer(connection, 200, own, bytes(size) if method == "GET" else b"", length=size)
    span = headers.get("range", "")
    first, last = (int(one) for one in span.removeprefix("bytes=").split("-")) if span else (0, size - 1)
    own["Content-Range"] = f"bytes {first}-{last}/{size}"
    _head(connection, 206 if span else 200, own, last - first + 1)
    with sparse.lock:
        sparse.reading[key] += 1
    try:
        while not sparse.over.is_set():
            connection.wfile.write(bytes(PIECE))
            time.sleep(EVERY_S)
    finally:
        with sparse.lock:
            sparse.reading[key] -= 1
    return False


def _written(
    connection: socketserver.StreamRequestHandler,
    sparse: Sparse,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
) -> bool:
    left, crc = int(headers.get("content-length", "0")), 0
    while left:
        data = connection.rfile.read(min(left, PIECE))
        if not data:
            return False
        crc = extend(crc, data)
        left -= len(data)
    if method == "POST":
        return _answer(connection, 200, {"Location": f"{sparse.url}/upload/session?name={quote(query['name'], safe='')}"}, b"")
    with sparse.lock:
        sparse.written.add(path.removeprefix(f"/{SINK}/"))
    hashes = f"crc32c={base64.b64encode(crc.to_bytes(4)).decode()}"
    told = {"x-goog-generation": "7", "x-goog-hash": hashes, "x-goog-stored-content-length": headers["content-length"]}
    return _answer(connection, 200, told, b"")


def _head(connection: socketserver.StreamRequestHandler, status: int, headers: Mapping[str, str], length: int) -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {length}"]
    connection.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode())


def _answer(
    connection: socketserver.StreamRequestHandler, status: int, headers: Mapping[str, str], body: bytes, *, length: int = -1
) -> bool:
    _head(connection, status, headers, len(body) if length < 0 else length)
    connection.wfile.write(body)
    return True
