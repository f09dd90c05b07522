"""Large objects in virtual time: what a stream's lanes and its upload come to, piece by piece, in an actor's own loop."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from google_crc32c import extend

from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.http.driver import Player
from cdn_worker.http.engine import Engine
from cdn_worker.object_copy.commands import Stream, Streamed

BUFFER_MAX = 100_000
"""Objects above this stream. The sink keeps whole steps of 256 KiB of an upload that breaks off."""
LARGE = (BUFFER_MAX + 1, 700_000)
PIECE = 150_000


class Exchanging(Protocol):
    def exchange(self, request: Request, done: Callable[[Answer], None]) -> None: ...

    def sent(self, request: Request) -> None:
        """Send it, and never hear of it."""
        ...


class SimPlayer(Player):
    """The player, with streams of its own."""

    def __init__(self, engine: Exchanging, draw: random.Random, **more: Any) -> None:
        super().__init__(cast("Engine", engine), jitter=draw.random, **more)
        self._exchanging, self._draw = engine, draw

    def _pump(self, stream: Stream, done: Callable[[Streamed], None]) -> None:
        SimStream(self._exchanging, self._draw, stream, done).go_on()


class SimStream:
    """Reads by ranges, then writes what is to be sent in one upload. A read that fails leaves an upload broken off anywhere."""

    def __init__(self, engine: Exchanging, draw: random.Random, plan: Stream, done: Callable[[Streamed], None]) -> None:
        self._engine, self._draw, self._plan, self._done = engine, draw, plan, done
        self._read, self._crc = plan.start, plan.crc
        self._to_send = bytearray()

    def go_on(self) -> None:
        plan = self._plan
        if self._read < plan.size:
            last = min(self._read + PIECE, plan.size) - 1 if plan.ranged else plan.size - 1
            request = plan.get(self._read, last)._replace(body_max=2 * plan.size)
            self._engine.exchange(request, partial(self._got, self._read, last))
        elif plan.start < plan.size <= plan.send_from:
            self._end(None, None, None)
        else:
            self._engine.exchange(plan.put._replace(body=bytes(self._to_send)), lambda answer: self._end(answer, None, None))

    def _got(self, first: int, last: int, answer: Answer) -> None:
        plan = self._plan
        why = plan.wrong(answer, first, last) if answer.status else None
        if why is None:
            if answer.status == 200 and plan.ranged:
                last = plan.size - 1
            body, answer.pieces = b"".join(answer.pieces), []
            if len(body) > last - first + 1:
                why = Fault.TOO_LONG.value
            else:
                self._take(body)
                short = Fault.TRUNCATED.value if self._read <= last else None
                why = short if answer.fault is None else answer.fault.value
        if why is None:
            self.go_on()
            return
        if self._to_send and self._draw.random() < 0.5:
            sent = bytes(self._to_send[: self._draw.randint(1, len(self._to_send))])
            self._engine.sent(plan.put._replace(body=sent))
        self._end(None, answer, why)

    def _take(self, data: bytes) -> None:
        plan = self._plan
        self._crc = extend(self._crc, data)
        if plan.md5 is not None:
            plan.md5.update(data)
        self._to_send += data[max(0, plan.send_from - self._read) :]
        self._read += len(data)
        plan.checkpoints.append((self._read, self._crc))

    def _end(self, put: Answer | None, got: Answer | None, why: str | None) -> None:
        self._done(Streamed(put=put, got=got, why=why, crc=self._crc, read=self._read))
