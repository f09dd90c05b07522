"""The loop: libcurl's multi interface under epoll. Many exchanges at once in one thread.

An `Engine` sends `Request`s and hands back `Answer`s. It knows nothing of objects, retries or verdicts. What is called back runs
between libcurl's calls, never inside them, but for a body that a `Taker` takes as it comes.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import pycurl

from cdn_worker.domain.budget import Budget
from cdn_worker.domain.concurrency import Pace
from cdn_worker.domain.http import DEADLINE_S, Answer, Fault, Host, Request, status_of
from cdn_worker.domain.outage import Contacts
from cdn_worker.http.certificates import find_ca_file

MIB = 1 << 20
HOLD_ON: int = pycurl.WRITEFUNC_PAUSE
NOTHING_YET: int = pycurl.READFUNC_PAUSE
BREAK_OFF = -1
CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""AES with 128 bits first, as browsers have it: 10 rounds instead of the 14 of OpenSSL's own first choice."""
_ACTIONS = [
    (pycurl.CSELECT_IN if mask & select.EPOLLIN else 0)
    | (pycurl.CSELECT_OUT if mask & select.EPOLLOUT else 0)
    | (pycurl.CSELECT_ERR if mask & (select.EPOLLERR | select.EPOLLHUP) else 0)
    for mask in range(32)
]
_MASKS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
_FAULTS = {
    pycurl.E_COULDNT_RESOLVE_HOST: Fault.CONNECT,
    pycurl.E_COULDNT_RESOLVE_PROXY: Fault.CONNECT,
    pycurl.E_COULDNT_CONNECT: Fault.CONNECT,
    pycurl.E_SSL_CONNECT_ERROR: Fault.CONNECT,
    pycurl.E_PEER_FAILED_VERIFICATION: Fault.CONNECT,
    pycurl.E_PARTIAL_FILE: Fault.TRUNCATED,
    pycurl.E_GOT_NOTHING: Fault.RESET,
    pycurl.E_RECV_ERROR: Fault.RESET,
    pycurl.E_SEND_ERROR: Fault.RESET,
    pycurl.E_FILESIZE_EXCEEDED: Fault.TOO_LONG,
}
_TIMED_OUT = pycurl.E_OPERATION_TIMEDOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds an engine.

    requests      at once, for each side; connections are kept alive for as many
    rate_min      bytes a second under which an exchange is given up after rate_s seconds
    lanes         ranged reads of one large object at once, at most; lane_bytes of each, lane_bytes_alone of a single one
    note_bytes    how often a stream tells how far it is
    ca_file       certificates to trust; http2: offer it over TLS
    """

    requests: int = 512
    rate_min: int = 1024
    rate_s: int = 30
    connect_s: float = 15.0
    lanes: int = 4
    lane_bytes: int = 8 << 20
    lane_bytes_alone: int = 64 << 20
    note_bytes: int = 32 << 20
    buffer_bytes: int = 256 << 10
    http2: bool = False
    ca_file: str = ""


@dataclass(order=True, slots=True)
class Timer:
    """Something to be called at a time of the monotonic clock."""

    due: float
    order: int
    call: Callable[[], None] = field(compare=False)

    def cancel(self) -> None:
        """Nothing is called, and nothing that it would have called is kept."""
        self.call = _nothing


class Taker(Protocol):
    """Takes a body piece by piece inside libcurl's callback: None for more, HOLD_ON to be offered it again, BREAK_OFF."""

    def append(self, data: bytes, /) -> int | None: ...


class Exchange:
    """One request under way."""

    __slots__ = ("curl", "done", "kind", "lines", "pieces", "request", "taker")

    def __init__(self, request: Request, done: Callable[[Answer], None], taker: Taker | None = None) -> None:
        self.request, self.done, self.taker = request, done, taker
        self.lines: list[bytes] = []
        self.pieces: list[bytes] = []
        self.curl: Any = None
        self.kind = ""


class _Queue:
    """The exchanges of one side: under way, and waiting for a place. streams: uploads, which may last for hours.

    A stream takes no place of an exchange, or those would wait for its end; of the connections it leaves them one at least.
    """

    __slots__ = ("active", "pace", "streams", "waiting")

    def __init__(self, most: int) -> None:
        self.pace = Pace(most)
        self.active = self.streams = 0
        self.waiting: deque[Exchange] = deque()

    @property
    def places(self) -> float:
        return min(self.pace.limit, max(1, self.pace.most - self.streams))


class Engine:
    """Runs exchanges and streams. Everything is called back from `turn`."""

    def __init__(self, limits: Limits | None = None, budget: Budget | None = None) -> None:
        self.limits = limits or Limits()
        self.budget = budget or Budget(256 * MIB)
        self.queues = {side: _Queue(self.limits.requests) for side in Host}
        self.busy_s = 0.0
        self.idle_s = 0.0
        self.bytes_read = 0
        self.errors = 0
        self.streams = 0
        self.contacts = Contacts()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 2 * self.limits.requests + 16)
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX if self.limits.http2 else pycurl.PIPE_NOTHING)
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._parked: set[int] = set()
        self._curl_due: float | None = None
        self._timers: list[Timer] = []
        self._order = count()
        self._free: dict[str, list[Any]] = {"read": [], "write": [], "send": [], "other": []}
        self._wakes: list[Any] = []
        self._under_way = 0
        self._ca_file = self.limits.ca_file or find_ca_file(os.environ)
        self._now = time.monotonic()
        self._share = (self._now, 0.0)
        self.idle_share = 0.0

    @property
    def under_way(self) -> int:
        """Exchanges that were begun, or wait for a place."""
        return self._under_way + sum(len(queue.waiting) for queue in self.queues.values())

    def exchange(self, request: Request, done: Callable[[Answer], None]) -> None:
        """Send a request as soon as its side has a place; `done` is called with the answer, whatever becomes of it."""
        self.offer(Exchange(request, done))

    def upload(self, request: Request, size: int, more: Callable[[int], bytes | int], done: Callable[[Answer], None]) -> Exchange:
        """Send a request at once whose body of `size` bytes comes from `more(most)`: bytes, b"" at the end, or NOTHING_YET."""
        exchange = Exchange(request, done)
        exchange.kind = "send"
        curl = exchange.curl = self._handle("send")
        curl.setopt(pycurl.URL, request.url)
        curl.setopt(pycurl.HTTPHEADER, [*request.headers, "Expect:"])
        curl.setopt(pycurl.INFILESIZE_LARGE, size)
        curl.setopt(pycurl.READFUNCTION, more)
        curl.setopt(pycurl.WRITEFUNCTION, exchange.pieces.append)
        curl.setopt(pycurl.HEADERFUNCTION, exchange.lines.append)
        curl.setopt(pycurl.TIMEOUT_MS, 0)
        self.queues[request.host].streams += 1
        self._launch(exchange)
        return exchange

    def wake(self, exchange: Exchange) -> None:
        """Let an exchange go on that answered HOLD_ON or NOTHING_YET."""
        if exchange.curl is not None:
            self._wakes.append(exchange.curl)

    def drop(self, exchange: Exchange) -> None:
        """Give an exchange up; `done` is not called."""
        queue = self.queues[exchange.request.host]
        if exchange.curl is None:
            queue.waiting.remove(exchange)
        else:
            self._leave(queue, exchange)
            self._release(exchange, spoiled=True)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, that much later."""
        timer = Timer(time.monotonic() + seconds, next(self._order), call)
        heapq.heappush(self._timers, timer)
        return timer

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call when a descriptor can be read."""
        self._watched[fd] = call
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, timeout_s: float = 1.0) -> None:
        """Wait for something to happen, at most that long, and see to it."""
        before = time.monotonic()
        until = before + timeout_s
        if self._curl_due is not None:
            until = min(until, self._curl_due)
        if self._timers:
            until = min(until, self._timers[0].due)
        events = self._epoll.poll(max(0.0, until - before), 1024)
        now = self._now = time.monotonic()
        self.idle_s += now - before
        multi = self._multi
        for fd, mask in events:
            call = self._watched.get(fd)
            if call is not None:
                call()
            elif fd in self._parked:
                self._parked.discard(fd)
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fd)
                multi.socket_action(fd, _ACTIONS[mask & 31])  # it may see that the connection is dead
            else:
                multi.socket_action(fd, _ACTIONS[mask & 31])
        if self._curl_due is not None and self._curl_due <= now:
            self._curl_due = None
            multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        while self._wakes:
            wakes, self._wakes = self._wakes, []
            for curl in wakes:
                self._unpause(curl)
        self._finish()
        while self._timers and self._timers[0].due <= now:
            heapq.heappop(self._timers).call()
        self._let_in()
        since, idle = self._share
        if now - since >= 0.25:
            self.idle_share = (self.idle_s - idle) / (now - since)
            self._share = (now, self.idle_s)
        self.busy_s += time.monotonic() - now

    def close(self) -> None:
        """Drop everything that is under way; nothing is called back any more."""
        for queue in self.queues.values():
            queue.waiting.clear()
        self._multi.close()
        self._epoll.close()
        for handles in self._free.values():
            for curl in handles:
                curl.close()
            handles.clear()

    # Places

    def offer(self, exchange: Exchange) -> None:
        """Begin an exchange as soon as its side has a place."""
        queue = self.queues[exchange.request.host]
        if queue.waiting or queue.active >= queue.places or queue.pace.not_before > self._now:
            queue.waiting.append(exchange)
        else:
            queue.active += 1
            self._begin(exchange)

    def _let_in(self) -> None:
        for queue in self.queues.values():
            if not queue.waiting:
                continue
            pause = queue.pace.not_before - self._now
            if pause > 0:
                # One timer is enough: it only ends the wait of the loop.
                if not self._timers or self._timers[0].due > queue.pace.not_before:
                    self.after(pause, _nothing)
                continue
            while queue.waiting and queue.active < queue.places:
                queue.active += 1
                self._begin(queue.waiting.popleft())

    def _over(self, exchange: Exchange, answer: Answer) -> None:
        queue = self.queues[exchange.request.host]
        self._leave(queue, exchange)
        status = answer.status
        if status:
            self.contacts.heard(exchange.request.url, self._now)
        elif answer.fault is Fault.CONNECT:
            self.contacts.missed(exchange.request.url, self._now, answer.said)
        if status in (429, 503) or answer.fault in (Fault.SLOW, Fault.TIMEOUT):
            queue.pace.throttled(self._now, answer.retry_after() if status else 0.0)
        elif status:
            queue.pace.went_well()
        if queue.waiting:
            self._let_in()

    @staticmethod
    def _leave(queue: _Queue, exchange: Exchange) -> None:
        if exchange.kind == "send":
            queue.streams -= 1
        else:
            queue.active -= 1

    # Handles

    def _handle(self, kind: str) -> Any:
        free = self._free[kind]
        if free:
            return free.pop()
        limits, curl = self.limits, pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PATH_AS_IS, 1)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.BUFFERSIZE, limits.buffer_bytes)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, limits.buffer_bytes * (2 if kind == "send" else 1))
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(limits.connect_s * 1000))
        curl.setopt(pycurl.LOW_SPEED_LIMIT, limits.rate_min)
        curl.setopt(pycurl.LOW_SPEED_TIME, limits.rate_s)
        curl.setopt(pycurl.TIMEOUT_MS, int(DEADLINE_S * 1000))
        curl.setopt(pycurl.CAINFO, self._ca_file)
        with contextlib.suppress(pycurl.error):  # a libcurl over another library than OpenSSL has an order of its own
            curl.setopt(pycurl.TLS13_CIPHERS, CIPHERS)
        version = pycurl.CURL_HTTP_VERSION_2TLS if limits.http2 else pycurl.CURL_HTTP_VERSION_1_1
        curl.setopt(pycurl.HTTP_VERSION, version)
        if kind == "write":
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
        elif kind == "send":
            curl.setopt(pycurl.UPLOAD, 1)
        return curl

    def _begin(self, exchange: Exchange) -> None:
        request = exchange.request
        method, body = request.method, request.body
        if method == "GET":
            kind = "read"
        elif method == "PUT" and body is not None:
            kind = "write"
        else:
            kind = "other"
        curl = self._handle(kind)
        exchange.kind, exchange.curl = kind, curl
        curl.setopt(pycurl.URL, request.url)
        if kind == "read":
            curl.setopt(pycurl.HTTPHEADER, request.headers)
        else:
            curl.setopt(pycurl.HTTPHEADER, [*request.headers, "Expect:"])
            if kind == "other":
                curl.setopt(pycurl.NOBODY, method == "HEAD")
                curl.setopt(pycurl.CUSTOMREQUEST, method)
            if body is not None:
                curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.MAXFILESIZE_LARGE, 0 if method == "HEAD" else max(request.body_max, 65536))
        curl.setopt(pycurl.WRITEFUNCTION, (exchange.taker or exchange.pieces).append)
        curl.setopt(pycurl.HEADERFUNCTION, exchange.lines.append)
        if request.deadline_s != DEADLINE_S:
            curl.setopt(pycurl.TIMEOUT_MS, int(request.deadline_s * 1000))
        self._launch(exchange)

    def _launch(self, exchange: Exchange) -> None:
        exchange.curl.exchange = exchange
        self._under_way += 1
        self._multi.add_handle(exchange.curl)
        self._curl_due = 0.0

    def _release(self, exchange: Exchange, *, spoiled: bool = False) -> None:
        curl = exchange.curl
        self._multi.remove_handle(curl)
        self._under_way -= 1
        curl.exchange = None
        if spoiled or exchange.kind == "other":
            curl.close()
            return
        if exchange.request.deadline_s != DEADLINE_S:
            curl.setopt(pycurl.TIMEOUT_MS, int(DEADLINE_S * 1000))
        self._free[exchange.kind].append(curl)

    def _finish(self) -> None:
        while True:
            found: tuple[int, list[Any], list[Any]] = self._multi.info_read(256)
            left, well, ill = found
            for curl in well:
                exchange = curl.exchange
                if exchange is None:
                    continue
                answer = Answer(curl.getinfo(pycurl.RESPONSE_CODE), exchange.lines, exchange.pieces)
                self._release(exchange)
                self._over(exchange, answer)
                exchange.done(answer)
            for curl, code, said in ill:
                if curl.exchange is not None:
                    self._failed(curl, code, said)
            if not left:
                return

    def _failed(self, curl: Any, code: int, said: str) -> None:
        exchange: Exchange = curl.exchange
        fault = _FAULTS.get(code, Fault.OTHER)
        if code == _TIMED_OUT:
            fault = Fault.SLOW if "too slow" in said.lower() else Fault.TIMEOUT
            if not curl.getinfo(pycurl.CONNECT_TIME):
                fault = Fault.CONNECT
        answer = Answer(status_of(exchange.lines), exchange.lines, exchange.pieces, fault, _told(said))
        self.errors += 1
        self._release(exchange, spoiled=True)
        self._over(exchange, answer)
        exchange.done(answer)

    def _unpause(self, curl: Any) -> None:
        if getattr(curl, "exchange", None) is None:
            return  # it ended meanwhile
        try:
            curl.pause(pycurl.PAUSE_CONT)
        except pycurl.error as error:
            # What was held back was offered to the taker at once, and refused by it.
            self._failed(curl, *error.args)

    # libcurl's callbacks

    def _on_socket(self, what: int, fd: int, _multi: object, _data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            # The connection will most likely be used again at once: it stays registered, and an event says that it was not.
            self._parked.add(fd)
            return
        self._parked.discard(fd)
        try:
            self._epoll.modify(fd, _MASKS[what])
        except FileNotFoundError:
            self._epoll.register(fd, _MASKS[what])

    def _on_timer(self, timeout_ms: int) -> None:
        if timeout_ms > 0:
            self._curl_due = time.monotonic() + timeout_ms / 1000
        else:
            self._curl_due = 0.0 if timeout_ms == 0 else None  # at once, or not at all


def _told(said: str) -> str:
    """libcurl's own words, which may quote a URL: never its query."""
    return said.partition("?")[0][:200]


def _nothing() -> None:
    pass
