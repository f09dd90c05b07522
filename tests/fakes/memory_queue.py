"""A queue in memory: it passes the suite of the real ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from cdn_worker.ports import JobState, Leased, Queues, Superseded
from cdn_worker.queues.rules import BYTES_MAX, DELIVERIES_MAX, explain_dead_letter, explain_superseded


@dataclass(slots=True, eq=False)
class _Message:
    """in_vain: deliveries that came to nothing, the present one included while it is leased; taken: all of them."""

    body: bytes
    reason: str = ""
    in_vain: int = 0
    taken: int = 0


class MemoryQueue:
    """`dead`: where what was delivered too often goes; None: nothing ever does."""

    def __init__(
        self,
        *,
        lease_s: float = 60.0,
        dead: MemoryQueue | None = None,
        deliveries_max: int = DELIVERIES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_s, self._dead, self._deliveries_max, self._clock = lease_s, dead, deliveries_max, clock
        self._waiting: deque[_Message] = deque()
        self._leased: dict[str, tuple[_Message, float]] = {}
        self._ended: dict[str, _Message] = {}
        self._tokens = count(1)
        self._changed = threading.Condition()

    def publish(self, bodies: Sequence[bytes]) -> None:
        with self._changed:
            self._waiting += (_Message(body) for body in bodies)
            self._changed.notify_all()

    def lease(self, most: int, wait_s: float = 0.0, *, bytes_max: int | None = None) -> list[Leased]:
        until = time.monotonic() + wait_s
        with self._changed:
            while True:
                found = self._take(most, BYTES_MAX if bytes_max is None else bytes_max)
                left = until - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(min(left, 0.05))

    def _take(self, most: int, bytes_max: int) -> list[Leased]:
        now = self._clock()
        for token in [token for token, (_, until) in self._leased.items() if until <= now]:
            message = self._ended[token] = self._leased.pop(token)[0]
            self._waiting.append(message)
        found: list[Leased] = []
        size = 0
        while self._waiting and len(found) < most and size < bytes_max:
            one = self._waiting.popleft()
            if self._dead is not None and one.in_vain >= self._deliveries_max:
                self._dead.admit(one.body, explain_dead_letter(one.in_vain))
                continue
            one.in_vain += 1
            one.taken += 1
            token = str(next(self._tokens))
            self._leased[token] = (one, now + self._lease_s)
            found.append(Leased(one.body, token, one.in_vain, one.reason, one.taken > 1))
            size += len(one.body)
        return found

    def admit(self, body: bytes, reason: str) -> None:
        """Take in a dead letter."""
        with self._changed:
            self._waiting.append(_Message(body, reason))

    def extend(self, leases: Sequence[Leased]) -> list[Leased]:
        lost: list[Leased] = []
        with self._changed:
            for one in leases:
                if one.token in self._leased:
                    self._leased[one.token] = (self._leased[one.token][0], self._clock() + self._lease_s)
                    continue
                lost.append(one)
                ended = self._ended.pop(one.token, None)
                if ended is not None and ended.in_vain:
                    ended.in_vain -= 1
        return lost

    def ack(self, leases: Sequence[Leased]) -> None:
        with self._changed:
            for one in leases:
                self._leased.pop(one.token, None)
                self._ended.pop(one.token, None)

    def release(self, leases: Sequence[Leased], *, counted: bool = False) -> None:
        with self._changed:
            for one in leases:
                held = self._leased.pop(one.token, None)
                if held is not None:
                    held[0].in_vain -= not counted
                    self._waiting.append(held[0])
            self._changed.notify_all()

    def bury(self, lease: Leased, reason: str) -> None:
        assert self._dead is not None
        with self._changed:
            if self._leased.pop(lease.token, None) is not None:
                self._dead.admit(lease.body, reason)

    def backlog(self) -> int:
        with self._changed:
            return len(self._waiting)

    def close(self) -> None:
        pass


class MemoryBoard:
    def __init__(self) -> None:
        self._states: Mapping[str, JobState] = {}
        self._migration, self._epoch = "", 0

    def bind(self, migration: str) -> str:
        self._migration = self._migration or migration
        return self._migration

    def post(self, states: Mapping[str, JobState], *, epoch: int = 0) -> None:
        if epoch < self._epoch:
            raise Superseded(explain_superseded(epoch, self._epoch))
        self._states, self._epoch = dict(states), epoch

    def read(self) -> Mapping[str, JobState]:
        return self._states

    def close(self) -> None:
        pass


def memory_queues(
    lease_s: float = 60.0, deliveries_max: int = DELIVERIES_MAX, clock: Callable[[], float] = time.monotonic
) -> Queues:
    dead = MemoryQueue(lease_s=lease_s, clock=clock)

    def queue() -> MemoryQueue:
        return MemoryQueue(lease_s=lease_s, dead=dead, deliveries_max=deliveries_max, clock=clock)

    board = MemoryBoard()
    return Queues(lists=queue(), copies=queue(), huge=queue(), reports=queue(), dead=dead, board=board, lease_s=lease_s)
