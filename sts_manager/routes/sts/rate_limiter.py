"""The transfer service's quotas, kept on this side: a call over one is refused here, with the wait, instead of there."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sts_manager.domain.errors import Throttled
from sts_manager.ports import Clock

QUOTAS: Mapping[str, tuple[tuple[int, float], ...]] = {
    "create": ((600, 60.0), (5000, 86_400.0)),
    "read": ((1500, 60.0),),
    "update": ((600, 60.0),),
    "delete": ((600, 60.0),),
    "pause": ((900, 60.0),),
    "run": (),
}
"""Calls allowed in sliding windows of seconds, per project (Storage Transfer Service, quotas).

read: get and list; update: transferJobs.patch, agentPools.patch; pause: of operations pause, resume and cancel. No quota
counts transferJobs.run.
"""

REFUSED_S = 60.0
JUST_BEFORE_S = 0.001
BUCKET_S = 600
"""Creates of the last day are remembered across restarts by the ten minutes in which they were made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """How much of one quota is used: calls of a kind in a sliding window of seconds, of the most that are allowed."""

    kind: str
    seconds: float
    calls: int
    most: int


class Pacer:
    """Keeps the calls of this process under one project's quotas: over it, a call is refused here instead of there.

    Windows are kept by a clock that never jumps. `remember` takes over what an earlier process used of the day.
    """

    def __init__(self, clock: Clock, quotas: Mapping[str, tuple[tuple[int, float], ...]] = QUOTAS) -> None:
        self._clock, self._quotas = clock, quotas
        self._calls: dict[str, deque[float]] = {kind: deque() for kind in quotas}
        self._refused: dict[str, float] = {}
        self._lock = threading.Lock()

    def refuse(self, kind: str) -> None:
        """The service has refused a call that we would have let through."""
        self._refused[kind] = self._clock.monotonic()

    def refused(self, kind: str) -> bool:
        """Whether it did so lately."""
        return self._clock.monotonic() - self._refused.get(kind, -REFUSED_S) < REFUSED_S

    def take(self, kind: str) -> None:
        """Count one call; raises Throttled, with the wait, when a window is full."""
        now = self._clock.monotonic()
        with self._lock:
            calls = self._current(kind, now)
            for limit, seconds in self._quotas[kind]:
                if len(calls) >= limit and calls[-limit] > now - seconds:
                    wait = timedelta(seconds=calls[-limit] + seconds - now)
                    raise Throttled(f"{limit} {kind} calls in {seconds:g} s is the service's quota", after=wait)
            calls.append(now)

    def used(self) -> list[Used]:
        """Each window as it is now."""
        now = self._clock.monotonic()
        with self._lock:
            return [
                Used(kind=kind, seconds=seconds, most=limit, calls=sum(at > now - seconds for at in self._current(kind, now)))
                for kind, windows in self._quotas.items()
                for limit, seconds in windows
            ]

    def buckets(self, kind: str = "create") -> dict[int, int]:
        """Calls still in the longest window, by the ten minutes (since 1970) in which they were made."""
        mono, wall = self._clock.monotonic(), self._clock.now().timestamp()
        with self._lock:
            return dict(Counter(int((wall - (mono - at)) // BUCKET_S) for at in self._current(kind, mono)))

    def remember(self, buckets: Mapping[int, int], kind: str = "create") -> None:
        """Take over the calls of an earlier process: each as late in its ten minutes as can be; known ones not again."""
        mono, wall = self._clock.monotonic(), self._clock.now().timestamp()
        with self._lock:
            known = Counter(int((wall - (mono - at)) // BUCKET_S) for at in self._calls[kind])
            for bucket, number in buckets.items():
                # A time that is still to come was written by a clock that has since been set back.
                age = max(0.0, wall - (bucket + 1) * BUCKET_S + JUST_BEFORE_S)
                self._calls[kind].extend([mono - age] * max(0, number - known[bucket]))
            self._calls[kind] = deque(sorted(self._calls[kind]))

    def _current(self, kind: str, now: float) -> deque[float]:
        calls = self._calls[kind]
        longest = max((seconds for _, seconds in self._quotas[kind]), default=0.0)
        while calls and calls[0] <= now - longest:
            calls.popleft()
        return calls
