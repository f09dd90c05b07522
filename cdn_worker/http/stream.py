"""A stream: ranged reads of one object, hashed and passed on through a bounded queue into one upload."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from google_crc32c import extend

from cdn_worker.domain.budget import QUEUE_LEAST
from cdn_worker.domain.http import Answer, Fault, status_of
from cdn_worker.http.engine import BREAK_OFF, HOLD_ON, NOTHING_YET, Engine, Exchange, Timer
from cdn_worker.object_copy.commands import CHECKPOINTS, Stream, Streamed

MIB = 1 << 20
CHECKPOINT_EVERY = MIB
QUEUE_WORTH_SENDING = QUEUE_LEAST
STREAM_RATE_MIN = 64 << 10
"""Bytes a second below which a whole stream is given up and resumed, whatever its parts say."""


class _Lane:
    """One ranged read of a stream: bytes first…last. Only the first lane's bytes are passed on; the others keep theirs."""

    __slots__ = ("checked", "exchange", "first", "kept", "last", "over", "paused", "received", "refusal", "reserved", "why")

    def __init__(self, first: int, last: int, reserved: int) -> None:
        self.first, self.last, self.reserved = first, last, reserved
        self.received = 0
        self.kept: deque[bytes] = deque()
        self.refusal: list[bytes] = []
        self.checked = self.paused = self.over = False
        self.why: str | None = None
        self.exchange: Exchange | None = None


class Pump:
    """One stream: lanes → hash → queue → upload."""

    def __init__(self, engine: Engine, plan: Stream, done: Callable[[Streamed], None]) -> None:
        self._engine, self._plan, self._done = engine, plan, done
        self._lanes: deque[_Lane] = deque()
        self._next = plan.start
        self._read = plan.start
        self._crc = plan.crc
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._put: Exchange | None = None
        self._put_paused = False
        self._starting = False
        self._ended = False
        self._deadline: Timer | None = None
        self._mark = plan.start - plan.start % CHECKPOINT_EVERY + CHECKPOINT_EVERY
        self._note_every = engine.limits.note_bytes
        self._note = plan.start - plan.start % self._note_every + self._note_every
        self._to_note: tuple[int, int] | None = None

    @property
    def _full(self) -> int:
        """Bytes that may wait for the upload: less where there are many streams."""
        return self._engine.budget.queue_full(self._engine.streams)

    def begin(self) -> None:
        plan = self._plan
        self._engine.streams += 1
        if plan.start >= plan.size:
            if plan.send_from <= plan.size:
                self._start_put()
            return
        self._open_lanes()
        self._deadline = self._engine.after(60 + (plan.size - plan.start) / STREAM_RATE_MIN, self._too_late)

    def _too_late(self) -> None:
        if not self._ended:
            self._end(None, Answer(0, fault=Fault.TIMEOUT, said="the stream as a whole was too slow"), Fault.TIMEOUT.value)

    # Reading

    def _open_lanes(self) -> None:
        engine, plan = self._engine, self._plan
        many = plan.ranged and engine.idle_share > 0.5
        most = engine.limits.lanes if many else 1
        while self._next < plan.size and len(self._lanes) < most:
            if plan.ranged:
                length = engine.limits.lane_bytes if most > 1 else engine.limits.lane_bytes_alone
                last = min(self._next + length, plan.size) - 1
            else:
                last = plan.size - 1
            reserved = 0
            if self._lanes:
                reserved = last - self._next + 1
                if not engine.budget.take_ahead(reserved):
                    return
            lane = _Lane(self._next, last, reserved)
            self._next = last + 1
            self._lanes.append(lane)
            request = plan.get(lane.first, last)._replace(deadline_s=0.0)
            lane.exchange = Exchange(request, partial(self._lane_over, lane), _Taker(self, lane))
            engine.offer(lane.exchange)

    def take(self, lane: _Lane, data: bytes) -> int | None:
        """Bytes of a lane, inside libcurl's callback: None when they are taken."""
        if not lane.checked:
            exchange = lane.exchange
            assert exchange is not None
            head = Answer(status_of(exchange.lines), exchange.lines)
            lane.why = self._plan.wrong(head, lane.first, lane.last)
            if lane.why is not None and head.status < 300:
                return BREAK_OFF
            lane.checked = True
            if lane.why is None and head.status == 200 and self._plan.ranged:
                # All of the object came for its first bytes: one lane then, to its end.
                lane.last = self._plan.size - 1
                self._next = self._plan.size
        if lane.why is not None:
            if len(lane.refusal) < 16:
                lane.refusal.append(data)
            return None
        if lane is self._lanes[0] and not lane.kept:
            if self._queued >= self._full:
                lane.paused = True
                return HOLD_ON
            lane.received += len(data)
            if lane.first + lane.received - 1 > lane.last:
                lane.why = Fault.TOO_LONG.value
                return BREAK_OFF
            self._pass_on(data)
            return None
        lane.received += len(data)
        lane.kept.append(data)
        return None

    def _pass_on(self, data: bytes) -> None:
        plan = self._plan
        at = self._read
        self._crc = extend(self._crc, data)
        if plan.md5 is not None:
            plan.md5.update(data)
        self._read = after = at + len(data)
        if after >= self._mark:
            self._checkpoint(after)
        if after > plan.send_from:
            self._queue.append(data if at >= plan.send_from else data[plan.send_from - at :])
            self._queued += min(len(data), after - plan.send_from)
            if self._put is None:
                if not self._starting:
                    self._starting = True
                    self._engine.after(0, self._start_put)
            elif self._put_paused and self._queued >= QUEUE_WORTH_SENDING:
                self._wake_put()

    def _checkpoint(self, at: int) -> None:
        plan = self._plan
        plan.checkpoints.append((at, self._crc))
        if len(plan.checkpoints) > 2 * CHECKPOINTS:
            del plan.checkpoints[1:-CHECKPOINTS]
        self._mark = at - at % CHECKPOINT_EVERY + CHECKPOINT_EVERY
        if at >= self._note:
            # The sink is behind what was read: one mark later it surely has got this far.
            if self._to_note is not None:
                plan.noted(*self._to_note)
            self._to_note = (at, self._crc)
            self._note = at - at % self._note_every + self._note_every

    def _lane_over(self, lane: _Lane, answer: Answer) -> None:
        if self._ended:
            return
        lane.over = True
        answer.pieces = lane.refusal
        if lane.why is None and not lane.checked:
            lane.why = self._plan.wrong(answer, lane.first, lane.last) if answer.status else None
        if lane.why is None and answer.fault is not None:
            lane.why = answer.fault.value
        if lane.why is None and lane.first + lane.received - 1 != lane.last:
            lane.why = Fault.TRUNCATED.value
        if lane.why is not None:
            self._end(None, answer, lane.why)
            return
        self._advance()

    def _advance(self) -> None:
        """Promote lanes whose turn has come, and open others."""
        while self._lanes and self._lanes[0].over and not self._lanes[0].kept:
            self._give(self._lanes.popleft())
        if self._lanes:
            lane = self._lanes[0]
            while lane.kept and self._queued < self._full:
                self._pass_on(lane.kept.popleft())
            if lane.over and not lane.kept:
                self._advance()
                return
        self._open_lanes()
        if self._read >= self._plan.size:
            self._plan.checkpoints.append((self._plan.size, self._crc))
            if self._plan.send_from >= self._plan.size:
                self._end(None, None, None)
                return
        if self._put is None and not self._ended and self._queued:
            self._start_put()
        elif self._put_paused and (self._queued >= QUEUE_WORTH_SENDING or self._read >= self._plan.size):
            self._wake_put()

    def _give(self, lane: _Lane) -> None:
        if lane.reserved:
            self._engine.budget.give_huge(lane.reserved)
            lane.reserved = 0

    # Writing

    def _start_put(self) -> None:
        if self._put is not None or self._ended:
            return
        plan = self._plan
        self._put = self._engine.upload(plan.put, plan.size - plan.send_from, self._more, self._put_over)

    def _more(self, most: int) -> bytes | int:
        """Bytes for the upload, inside libcurl's callback."""
        queue = self._queue
        if not queue:
            if self._read >= self._plan.size:
                return b""
            self._put_paused = True
            return NOTHING_YET
        taken, size = [], 0
        while queue and size + len(queue[0]) <= most:
            piece = queue.popleft()
            taken.append(piece)
            size += len(piece)
        if not taken:
            piece = queue[0]
            taken.append(piece[:most])
            queue[0] = piece[most:]
            size = most
        self._queued -= size
        if self._queued < self._full // 2 and self._lanes:
            lane = self._lanes[0]
            if lane.paused and lane.exchange is not None:
                lane.paused = False
                self._engine.wake(lane.exchange)
            elif lane.kept:
                self._engine.after(0, self._advance_if_going)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _advance_if_going(self) -> None:
        if not self._ended:
            self._advance()

    def _wake_put(self) -> None:
        self._put_paused = False
        assert self._put is not None
        self._engine.wake(self._put)

    def _put_over(self, answer: Answer) -> None:
        self._put = None
        if not self._ended:
            self._end(answer, None, None)

    def _end(self, put: Answer | None, got: Answer | None, why: str | None) -> None:
        """Stop whatever is still under way, and tell."""
        self._ended = True
        self._engine.streams -= 1
        if self._deadline is not None:
            self._deadline.cancel()
        engine = self._engine
        engine.bytes_read += self._read - self._plan.start
        for lane in self._lanes:
            self._give(lane)
            if not lane.over and lane.exchange is not None:
                engine.drop(lane.exchange)
        self._lanes.clear()
        if self._put is not None:
            engine.drop(self._put)
            self._put = None
        self._queue.clear()
        self._done(Streamed(put=put, got=got, why=why, crc=self._crc, read=self._read))


class _Taker:
    """Hands the pieces of a lane's body to the pump."""

    __slots__ = ("_lane", "_pump")

    def __init__(self, pump: Pump, lane: _Lane) -> None:
        self._pump, self._lane = pump, lane

    def append(self, data: bytes, /) -> int | None:
        return self._pump.take(self._lane, data)
