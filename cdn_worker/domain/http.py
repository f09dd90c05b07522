"""Requests and answers as values: what is asked of a source or a sink, and what came back. Nothing here sends anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

DEADLINE_S = 300.0
RETRY_AFTER_S_MAX = 300.0


class Host(StrEnum):
    """Which side of a copy a request goes to: concurrency is adapted for each."""

    SOURCE = "source"
    SINK = "sink"


class Fault(StrEnum):
    """Why no whole answer came."""

    CONNECT = "unreachable"  # no address, no connection, no TLS
    RESET = "connection_lost"  # it ended in the middle of an exchange
    TIMEOUT = "deadline"
    SLOW = "too_slow"
    TRUNCATED = "truncated"
    TOO_LONG = "too_long"
    OTHER = "transport"


class Request(NamedTuple):
    """One exchange. Made for each object, so it is a tuple.

    url         percent-encoded; it may hold a signature, so it is never logged
    headers     lines `Name: value`
    body        None for no body; a streamed body is the engine's own matter
    body_max    bytes of an answer that are taken at most: more is a fault
    deadline_s  the whole exchange, in seconds
    """

    host: Host
    method: str
    url: str
    headers: Sequence[str] = ()
    body: bytes | None = None
    body_max: int = 1 << 20
    deadline_s: float = DEADLINE_S


class Answer:
    """What came back: a status (0 when none did), header lines, the body in pieces; `fault` when it is not whole."""

    __slots__ = ("_headers", "fault", "lines", "pieces", "said", "status")

    def __init__(
        self,
        status: int,
        lines: list[bytes] | None = None,
        pieces: list[bytes] | None = None,
        fault: Fault | None = None,
        said: str = "",
    ) -> None:
        self.status, self.fault, self.said = status, fault, said
        self.lines: list[bytes] = [] if lines is None else lines
        self.pieces: list[bytes] = [] if pieces is None else pieces
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; the values of a repeated one joined by ", " (RFC 9110, 5.3). Parsed when first asked for."""
        if self._headers is None:
            self._headers = headers_of(self.lines)
        return self._headers

    @property
    def body(self) -> bytes:
        """All of it. A body that came in one piece is not copied."""
        if len(self.pieces) > 1:
            self.pieces[:] = [b"".join(self.pieces)]
        return self.pieces[0] if self.pieces else b""

    def retry_after(self) -> float:
        """Seconds to wait as the service asked; 0 when it did not, or gave a date, which needs a clock to read."""
        said = self.headers.get("retry-after", "")
        return min(float(said), RETRY_AFTER_S_MAX) if said.isascii() and said.isdigit() else 0.0

    def __repr__(self) -> str:
        return f"Answer({self.status}, {sum(map(len, self.pieces))} bytes, {self.fault})"


_HEADER = re.compile(r"^([^:\r\n]+):[ \t]*([^\r\n]*)", re.MULTILINE)
_NAMES_KEPT = 1000


class _LowerCase(dict[str, str]):
    """Names of headers in lower case: the few that there are come again with every answer."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _NAMES_KEPT:
            self.clear()
        lower = self[name] = name.lower()
        return lower


_LOWER = _LowerCase()


def headers_of(lines: Sequence[bytes]) -> dict[str, str]:
    """The headers of the last head among these lines: an interim one (100) may stand before it.

    Lines of one name are one list (RFC 9110, 5.3): Cloud Storage sends a line of `x-goog-hash` for each hash.
    """
    raw = b"".join(lines)
    last = raw.rfind(b"\nHTTP/")
    if last > 0:
        raw = raw[last + 1 :]
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    found = _HEADER.findall(text)
    if " \r" in text or "\t\r" in text:
        found = [(name, value.rstrip()) for name, value in found]
    headers = {_LOWER[name]: value for name, value in found}
    if len(headers) < len(found):
        headers = _joined(found)
    return headers


def _joined(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in found:
        lower = _LOWER[name]
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return headers


def status_of(lines: Sequence[bytes]) -> int:
    """The status that header lines tell; 0 when there is none."""
    for line in reversed(lines):
        if line.startswith(b"HTTP/"):
            words = line.split(None, 2)
            return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return 0
