"""The daemon's heartbeat: one a loop turn, never faster than the service takes points, and never a reason to stop.

The last one is published whenever the service takes it, so that what is shown afterwards are the final numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sts_manager.domain.errors import OutOfOrder, StsManagerError
from sts_manager.domain.heartbeat import Tally, Vitals, points
from sts_manager.ports import Clock, MetricsSink

log = logging.getLogger(__name__)

POINTS_EVERY_S = 10.0
"""The least time between two points of a series (Cloud Monitoring, custom metrics: about one in 5 to 10 s)."""

LAST_AFTER_S = 6.0
"""The least time before the last one: what the service takes (one in 5 s), and a second for clocks that are being set right."""

AGAIN_S = 1.0
FIRST = timedelta(milliseconds=1)
"""A cumulative point ends after it began, the first one too."""


class Pulse:
    """Publishes vitals. What it counts begins with it, so that a restart is told apart from a service that forgot.

    every_s        seconds between heartbeats, at least
    last_after_s   seconds between the last heartbeat and the one before it, at least
    """

    def __init__(
        self,
        sink: MetricsSink,
        clock: Clock,
        *,
        every_s: float = POINTS_EVERY_S,
        last_after_s: float = LAST_AFTER_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sink, self._clock, self._every_s = sink, clock, every_s
        self._last_after_s, self._sleep = last_after_s, sleep
        self._since: datetime = clock.now() - FIRST
        self._base = Tally()
        self._last: tuple[float, datetime] | None = None
        self._published: Vitals | None = None
        self._fault = ""

    def beat(self, vitals: Vitals) -> bool:
        """Publish, unless the last heartbeat was just now; whether points were published."""
        if self._last is not None and self._clock.monotonic() - self._last[0] < self._every_s:
            return False
        return self._publish(vitals, self._every_s / 2)

    def beat_last(self, vitals: Vitals, *, within_s: float) -> bool:
        """Publish the final numbers, as soon as the service takes another point; whether they are published.

        A refusal is met with another try, as long as one can begin within so many seconds. Numbers that were published already
        are not waited for.
        """
        if self._is_published(vitals):
            return True
        now = self._clock.monotonic()
        until = now + within_s
        wait = 0.0 if self._last is None else max(0.0, self._last[0] + self._last_after_s - now)
        while self._clock.monotonic() + wait <= until:
            self._sleep(wait)
            if self._publish(vitals, 0.0):
                return True
            wait = max(AGAIN_S, self._last_after_s)
        fields = {"cause": self._fault or "no time is left", "effect": "what is shown stays as it was before"}
        log.warning("last_heartbeat_missing", extra={"fields": fields})
        return False

    def _is_published(self, vitals: Vitals) -> bool:
        return self._published is not None and replace(self._published, pass_age_s=0.0) == replace(vitals, pass_age_s=0.0)

    def _publish(self, vitals: Vitals, least_s: float) -> bool:
        """Hand the points over; whether they were taken. least_s: seconds by the wall clock since the last ones."""
        moment, now = self._clock.monotonic(), self._clock.now()
        if now <= self._since or (self._last is not None and (now - self._last[1]).total_seconds() < least_s):
            # No point may be older than the last one: after a clock was set back, what is published waits for it.
            self._failed("the clock stands before the last heartbeat: nothing is published until it has caught up")
            return False
        since, base = self._since, self._base
        try:
            self._sink.publish(points(replace(vitals, tally=vitals.tally - base), since), now)
        except OutOfOrder as error:
            # Another daemon (or this one, under another clock) wrote later points: counting begins anew from here.
            self._since, self._base = now, vitals.tally
            self._last = (moment, now)
            self._failed(str(error))
            return False
        except StsManagerError as error:
            self._last = (moment, self._last[1] if self._last is not None else self._since)
            self._failed(str(error))
            return False
        self._last, self._published = (moment, now), vitals
        if self._fault:
            log.info("heartbeat_recovered", extra={"fields": {"was": self._fault}})
            self._fault = ""
        return True

    def _failed(self, cause: str) -> None:
        if cause != self._fault:
            fields = {"cause": cause, "effect": "alerts may fire; transfers go on"}
            log.warning("heartbeat_failed", extra={"fields": fields})
        self._fault = cause
