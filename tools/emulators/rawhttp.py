"""A threaded HTTP/1.1 server that can also misbehave: what goes over the wire is up to the handler, byte for byte."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

PHRASES = {status.value: status.phrase for status in HTTPStatus}
HEAD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class RawRequest:
    """A request; `target` is as it came over the wire. A body is read and let go: nothing that is served here takes one."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass
class RawResponse:
    """An answer. `pieces` are sent one by one.

    length   what Content-Length says; None sends none and closes the connection at the end
    reset    break the connection after the last piece (RST), `hang_up` close it then, whatever the length said
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterable[bytes] = ()
    length: int | None = 0
    hang_up: bool = False
    reset: bool = False


RawHandler = Callable[[RawRequest], RawResponse]


class RawServer:
    """On a free loopback port; connections are kept alive unless an answer ends them."""

    def __init__(self, handle: RawHandler) -> None:
        class Connection(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                # A client that goes away in the middle is nothing to speak of.
                with contextlib.suppress(OSError):
                    while _serve_one(self, handle):
                        pass

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Connection)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> RawServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _serve_one(connection: socketserver.StreamRequestHandler, handle: RawHandler) -> bool:
    """One request and its answer; whether the connection goes on."""
    request = _read(connection)
    if request is None:
        return False
    response = handle(request)
    head = [f"HTTP/1.1 {response.status} {PHRASES.get(response.status, 'Unknown')}"]
    head += [f"{name}: {value}" for name, value in response.headers.items()]
    if response.length is not None:
        head.append(f"Content-Length: {response.length}")
    last = response.length is None or response.hang_up or response.reset
    if last:
        head.append("Connection: close")
    connection.wfile.write(("\r\n".join(head) + "\r\n\r\n").encode("utf-8"))
    if request.method != "HEAD":
        for piece in response.pieces:
            connection.wfile.write(piece)
    connection.wfile.flush()
    if response.reset:
        # With a linger of zero seconds, closing sends RST instead of FIN.
        connection.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.connection.close()
    return not last


def _read(connection: socketserver.StreamRequestHandler) -> RawRequest | None:
    line = connection.rfile.readline(HEAD_BYTES_MAX).decode("latin-1").rstrip("\r\n")
    if not line:
        return None
    method, _, rest = line.partition(" ")
    target, _, _ = rest.rpartition(" ")
    headers: dict[str, str] = {}
    while True:
        header = connection.rfile.readline(HEAD_BYTES_MAX).decode("latin-1").rstrip("\r\n")
        if not header:
            _drain(connection, headers)
            return RawRequest(method, target, headers)
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()


def _drain(connection: socketserver.StreamRequestHandler, headers: Mapping[str, str]) -> None:
    """Read a body of a known length past, or the next request would be looked for in it; whoever waits for 100 sends none."""
    said = headers.get("content-length", "")
    left = int(said) if said.isdecimal() and "expect" not in headers else 0
    while left > 0 and (read := connection.rfile.read(min(left, HEAD_BYTES_MAX))):
        left -= len(read)
