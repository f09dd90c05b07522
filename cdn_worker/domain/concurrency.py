"""How much goes on at once: additive increase and multiplicative decrease for each host, and a climb for the whole loop."""

from __future__ import annotations

from dataclasses import dataclass

DECREASE = 0.7
SETTLE_S = 1.0
"""One decrease at most in this time: the answers that come in it were caused by what went before."""


class Pace:
    """The requests that one host takes at once: one more for each round that went well, a cut for a round that did not.

    `limit` never leaves 1…`most`. Times are of a monotonic clock, in seconds.
    """

    __slots__ = ("_cut_at", "limit", "most", "not_before")

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError("at least one request at a time")
        self.most = most
        self.limit = float(most)
        self.not_before = 0.0
        self._cut_at = float("-inf")

    def went_well(self) -> None:
        """An answer that was no complaint."""
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + 1.0 / self.limit)

    def throttled(self, now: float, retry_after_s: float = 0.0) -> None:
        """A 429, a 503, or an answer too slow to be waited for."""
        if retry_after_s > 0:
            self.not_before = max(self.not_before, now + retry_after_s)
        if now - self._cut_at >= SETTLE_S:
            self._cut_at = now
            self.limit = max(1.0, self.limit * DECREASE)


@dataclass(frozen=True, slots=True)
class Interval:
    """What a loop did in a while: objects ended, bytes moved, and the share of the time in which it only waited (0…1)."""

    seconds: float
    objects: int
    bytes: int
    idle: float


class Climb:
    """How many objects are in flight: more while that moves more, and while the machine has time to spare.

    Waiting for a far service leaves the loop idle, and more in flight fill the time; on a near one the processor is the limit,
    and more in flight only cost memory. So the number doubles while the loop has time to spare and the last step paid; a step
    that did not pay is taken back.
    """

    __slots__ = ("_before", "_held", "least", "limit", "most")

    IDLE_ENOUGH = 0.25
    PAID = 1.1
    HOLD = 20  # intervals until it is tried again after a step that did not pay

    def __init__(self, least: int, most: int) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"1 <= {least} <= {most} does not hold")
        self.least, self.most, self.limit = least, most, least
        self._before: float | None = None  # the rate before the last step up, while that step is on trial
        self._held = 0

    def observe(self, seen: Interval, *, full: bool) -> None:
        """Take an interval in. `full`: whether all that was allowed was in flight; else the limit limits nothing."""
        rate = seen.objects / seen.seconds + seen.bytes / seen.seconds / (1 << 20)
        if self._held:
            self._held -= 1
        if self._before is not None:
            paid = rate >= self._before * self.PAID
            self._before = None
            if not paid:
                self.limit = max(self.least, self.limit // 2)
                self._held = self.HOLD
                return
        if full and not self._held and rate and seen.idle >= self.IDLE_ENOUGH and self.limit < self.most:
            self._before = rate
            self.limit = min(self.most, self.limit * 2)
