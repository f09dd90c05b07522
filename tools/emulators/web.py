"""A small HTTP layer for the emulators: WSGI under cheroot, with the raw request path kept byte for byte."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from traceback import format_exc
from typing import Any
from urllib.parse import parse_qsl, unquote

from cheroot import wsgi

PHRASES = {status.value: status.phrase for status in HTTPStatus}

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
HEADERS = "emulators.headers"
"""Where the environment keeps the headers under the names they were sent with: WSGI's own cannot tell `_` from `-`."""


@dataclass(frozen=True)
class Request:
    """One HTTP request; `path` is as it came over the wire, still percent-encoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    raw_query: str = ""

    def values(self, name: str) -> list[str]:
        """All the values of a query parameter that is repeated."""
        return [value for key, value in parse_qsl(self.raw_query, keep_blank_values=True) if key == name]

    def segments(self) -> list[str]:
        """The path's segments, each decoded exactly once."""
        return [unquote(segment) for segment in self.path.lstrip("/").split("/")]


@dataclass
class Response:
    """An answer. `repeated`: header lines of names that come more than once, in their order."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    repeated: list[tuple[str, str]] = field(default_factory=list)


Handler = Callable[[Request], Response]


def request_of(environ: Environ) -> Request:
    """Read a request whole; the stage's objects are small enough for that."""
    target = environ["REQUEST_URI"]
    if isinstance(target, bytes):
        target = target.decode("latin-1")
    path, _, query = target.partition("?")
    # Header bytes come as latin-1; clients send metadata as UTF-8.
    headers = {name: value.encode("latin-1").decode("utf-8", "replace") for name, value in environ[HEADERS].items()}
    body = b"" if environ["REQUEST_METHOD"] in ("GET", "HEAD") else environ["wsgi.input"].read()
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    return Request(method=environ["REQUEST_METHOD"], path=path, query=pairs, headers=headers, body=body, raw_query=query)


def application(handle: Handler) -> Callable[[Environ, StartResponse], Iterable[bytes]]:
    """A WSGI application around a handler of whole requests."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = request_of(environ)
        response = handle(request)
        if response.hang_up:
            raise lost_answer()
        headers = dict(response.headers)
        headers.setdefault("Content-Length", str(len(response.body)))
        phrase = PHRASES.get(response.status, "Unknown")
        safe = [(name, value.encode().decode("latin-1")) for name, value in (*headers.items(), *response.repeated)]
        start_response(f"{response.status} {phrase}", safe)
        return [] if request.method == "HEAD" or response.status in (204, 304) else [response.body]

    return app


def _log(message: str = "", level: int = 20, traceback: bool = False) -> None:
    """cheroot's error log: an answer lost on purpose is no error; anything else is a defect of the stage and is shown."""
    shown = format_exc() if traceback else ""
    if level >= 40 and "on purpose" not in shown:
        print(f"stage: {message}\n{shown}", file=sys.stderr)


class _Gateway(wsgi.Gateway_10):
    """WSGI, with the headers as they came besides."""

    def get_environ(self) -> Environ:  # type: ignore[override]  # cheroot's own is not annotated
        environ: Environ = super().get_environ()  # type: ignore[no-untyped-call]
        sent = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.req.inheaders.items()}
        return environ | {HEADERS: sent}


class WebServer:
    """A cheroot server on a free loopback port, in threads of this process."""

    def __init__(self, app: Callable[..., Iterable[bytes]], *, threads: int = 16) -> None:
        self._server = wsgi.Server(("127.0.0.1", 0), app, numthreads=threads, request_queue_size=256)
        self._server.gateway = _Gateway
        setattr(self._server, "error_log", _log)  # noqa: B010 - cheroot's own way to be told where to log
        self._thread: threading.Thread | None = None

    def start(self) -> WebServer:
        self._server.prepare()
        self._thread = threading.Thread(target=self._server.serve, daemon=True)
        self._thread.start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.bind_addr[1]}"

    def stop(self) -> None:
        self._server.stop()
        if self._thread is not None:
            self._thread.join(timeout=5)


def lost_answer() -> OSError:
    """Raised in a handler, it makes cheroot hang up without a word, as when a network eats the answer."""
    return ConnectionResetError(errno.ECONNRESET, "the answer is lost on purpose")


def pause_for(seconds: float) -> None:
    """A fault's delay."""
    if seconds > 0:
        time.sleep(seconds)
