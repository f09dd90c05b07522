"""A proxy before any of the stage's HTTP servers that breaks what passes through it, byte by byte, as networks do.

Each connection of a client has one to the server behind it. A fault fires at chosen exchanges; `fired` says how often it did.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Self
from urllib.parse import urlsplit

FAULTS = (
    "reset before the request",
    "reset after the request",
    "closed after the request",
    "half a head",
    "no HTTP at all",
    "half a body",
    "body reset",
    "stalled body",
    "dripping body",
    "a byte of the answer changed",
    "a byte of the request changed",
    "another length said",
    "chunks that end early",
    "a second answer behind",
    "two lengths",
    "endless head",
)
BLOCK = 64 << 10
STALL_S = 30.0
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)")


@dataclass
class Plan:
    """One fault, at the exchanges after the first `after` ones that `wanted` takes (by method and target); `times` 0: always."""

    fault: str
    wanted: Callable[[str, str], bool] = lambda _method, _target: True
    after: int = 0
    times: int = 1
    seen: int = 0
    fired: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def meets(self, method: str, target: str) -> bool:
        with self.lock:
            if not self.wanted(method, target):
                return False
            self.seen += 1
            if self.seen <= self.after or (self.times and self.fired >= self.times):
                return False
            self.fired += 1
            return True


class _Over(Exception):
    """This connection is at its end."""


class FaultProxy:
    """Before `upstream` (http://HOST:PORT), at `url`. A context."""

    def __init__(self, upstream: str, plan: Plan) -> None:
        if plan.fault not in FAULTS:
            raise ValueError(f"the proxy knows no fault {plan.fault!r}; it knows {', '.join(FAULTS)}")
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream, self._plan = (parts.hostname, parts.port or 80), plan
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._there = f"http://{parts.netloc}".encode()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_how: object) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, _Over), client, socket.create_connection(self._upstream) as server:
            ours, theirs = client.makefile("rb"), server.makefile("rb")
            while True:
                _Exchange(client, server, ours, theirs, self).play()

    def fault_of(self, method: str, target: str) -> str:
        return self._plan.fault if self._plan.meets(method, target) else ""

    def here(self, head: bytes) -> bytes:
        """Addresses of the server in an answer lead to the proxy."""
        return head.replace(self._there, self.url.encode())

    def pause(self, seconds: float) -> None:
        self._ended.wait(seconds)


class _Exchange:
    """One request and its answer."""

    def __init__(self, client: socket.socket, server: socket.socket, ours: BinaryIO, theirs: BinaryIO, proxy: FaultProxy) -> None:
        self._client, self._server, self._ours, self._theirs, self._proxy = client, server, ours, theirs, proxy

    def play(self) -> None:
        head = _head(self._ours)
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        fault = self._proxy.fault_of(method, target)
        if fault == "reset before the request":
            self._reset()
        self._forward(head, fault)
        if fault == "reset after the request":
            _answer(self._theirs, method)  # it has taken effect
            self._reset()
        if fault == "closed after the request":
            _answer(self._theirs, method)
            raise _Over
        status, body = _answer(self._theirs, method)
        self._tell(self._proxy.here(status), body, fault)

    def _forward(self, head: bytes, fault: str) -> None:
        self._server.sendall(head)
        left = _length(head)
        change = fault == "a byte of the request changed"
        while left:
            block = self._ours.read(min(left, BLOCK))
            if not block:
                raise _Over
            left -= len(block)
            if change:
                block, change = _changed(block), False
            self._server.sendall(block)

    def _tell(self, head: bytes, body: bytes, fault: str) -> None:
        send = self._client.sendall
        if fault in CLOSING:
            send(CLOSING[fault](head, body))
            raise _Over
        match fault:
            case "body reset":
                send(head + body[: len(body) // 2])
                self._reset()
            case "stalled body":
                send(head + body[: len(body) // 2])
                self._proxy.pause(STALL_S)
                raise _Over
            case "dripping body":
                self._drip(head, body)
            case "a byte of the answer changed":
                send(head + _changed(body))
            case "a second answer behind":
                # What another request on this connection would take for its own, if it looked no further.
                send(head + body + b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: "evil"\r\n\r\nevil')
            case "endless head":
                self._endless(head)
            case _:
                send(head + body)

    def _drip(self, head: bytes, body: bytes) -> None:
        self._client.sendall(head)
        until = time.monotonic() + STALL_S
        for index in range(len(body)):
            self._client.sendall(body[index : index + 1])
            self._proxy.pause(0.2)
            if time.monotonic() > until:
                raise _Over
        if not body:
            raise _Over

    def _endless(self, head: bytes) -> None:
        self._client.sendall(head.split(b"\r\n", 1)[0] + b"\r\n")
        for index in range(5000):
            self._client.sendall(f"X-Filler-{index}: {'x' * 1000}\r\n".encode())
        raise _Over

    def _reset(self) -> None:
        """RST instead of FIN: with a linger of zero seconds."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _Over


def _head(stream: BinaryIO) -> bytes:
    lines = []
    while True:
        line = stream.readline()
        if not line:
            raise _Over
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


def _answer(stream: BinaryIO, method: str) -> tuple[bytes, bytes]:
    """A whole answer; one without a length ends with its connection."""
    head = _head(stream)
    if method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304"):
        return head, b""
    if _LENGTH.search(head) is None:
        return head, stream.read() or b""
    left, blocks = _length(head), []
    while left:
        block = stream.read(left)
        if not block:
            raise _Over
        blocks.append(block)
        left -= len(block)
    return head, b"".join(blocks)


def _changed(block: bytes) -> bytes:
    """One bit in the middle turned."""
    at = len(block) // 2
    return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :] if block else block


def _with_length(head: bytes, length: int) -> bytes:
    return _LENGTH.sub(f"Content-Length: {length}".encode(), head)


def _without_length(head: bytes) -> bytes:
    """The head without its length, and without its end."""
    kept = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"content-length:")]
    return b"\r\n".join(kept) + b"\r\n"


CLOSING: Mapping[str, Callable[[bytes, bytes], bytes]] = {
    "half a head": lambda head, _body: head[: len(head) // 2],
    "no HTTP at all": lambda _head, _body: b"SSH-2.0-OpenSSH_9.2\r\n\x00\x01\x02 this is no answer\r\n\r\n",
    "half a body": lambda head, body: head + body[: len(body) // 2],
    "another length said": lambda head, body: _with_length(head, len(body) + 7) + body,
    "chunks that end early": lambda head, body: (
        _without_length(head) + b"Transfer-Encoding: chunked\r\n\r\n" + f"{len(body) + 9:x}\r\n".encode() + body
    ),
    "two lengths": lambda head, body: head.replace(b"\r\n", b"\r\nContent-Length: 3\r\n", 1) + body,
}
"""What is sent before the connection is closed."""
