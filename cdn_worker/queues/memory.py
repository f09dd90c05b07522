"""A queue in memory, for tests: it passes the suite of the real ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from cdn_worker.ports import JobState, Leased, Queues

DELIVERIES_MAX = 10


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
        self._waiting: deque[Leased] = deque()
        self._leased: dict[str, tuple[Leased, float]] = {}
        self._tokens = count(1)
        self._changed = threading.Condition()

    def publish(self, bodies: Sequence[bytes]) -> None:
        with self._changed:
            self._waiting += (Leased(body, "", 0) for body in bodies)
            self._changed.notify_all()

    def lease(self, most: int, wait_s: float = 0.0) -> list[Leased]:
        until = time.monotonic() + wait_s
        with self._changed:
            while True:
                found = self._taken(most)
                left = until - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(min(left, 0.05))

    def _taken(self, most: int) -> list[Leased]:
        now = self._clock()
        ended = [token for token, (_, until) in self._leased.items() if until <= now]
        self._waiting.extend(self._leased.pop(token)[0] for token in ended)
        found: list[Leased] = []
        while self._waiting and len(found) < most:
            one = self._waiting.popleft()
            if self._dead is not None and one.attempt >= self._deliveries_max:
                self._dead.admit(one.body, one.attempt, delivered_in_vain(one.attempt))
                continue
            leased = Leased(one.body, str(next(self._tokens)), one.attempt + 1, one.reason)
            self._leased[leased.token] = (leased, now + self._lease_s)
            found.append(leased)
        return found

    def admit(self, body: bytes, attempt: int, reason: str) -> None:
        """Take in a dead letter."""
        with self._changed:
            self._waiting.append(Leased(body, "", attempt, reason))

    def extend(self, leases: Sequence[Leased]) -> None:
        with self._changed:
            for one in leases:
                if one.token in self._leased:
                    self._leased[one.token] = (one, self._clock() + self._lease_s)

    def ack(self, leases: Sequence[Leased]) -> None:
        with self._changed:
            for one in leases:
                self._leased.pop(one.token, None)

    def release(self, leases: Sequence[Leased]) -> None:
        with self._changed:
            self._waiting.extend(one for one in leases if self._leased.pop(one.token, None) is not None)
            self._changed.notify_all()

    def bury(self, lease: Leased, reason: str) -> None:
        assert self._dead is not None
        with self._changed:
            if self._leased.pop(lease.token, None) is not None:
                self._dead.admit(lease.body, lease.attempt, reason)

    def backlog(self) -> int:
        with self._changed:
            return len(self._waiting)

    def close(self) -> None:
        pass


class MemoryBoard:
    def __init__(self) -> None:
        self._states: Mapping[str, JobState] = {}

    def post(self, states: Mapping[str, JobState]) -> None:
        self._states = dict(states)

    def read(self) -> Mapping[str, JobState]:
        return self._states

    def close(self) -> None:
        pass


def memory_queues(lease_s: float = 60.0, deliveries_max: int = DELIVERIES_MAX) -> Queues:
    dead = MemoryQueue(lease_s=lease_s)
    made = [MemoryQueue(lease_s=lease_s, dead=dead, deliveries_max=deliveries_max) for _ in range(3)]
    return Queues(lists=made[0], copies=made[1], reports=made[2], dead=dead, board=MemoryBoard(), lease_s=lease_s)


def delivered_in_vain(times: int) -> str:
    return f"delivered {times} times, and never answered: whoever took it died or hung"
