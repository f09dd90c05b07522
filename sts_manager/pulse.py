"""The daemon's heartbeat: one a loop turn, never faster than the service takes points, and never a reason to stop."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from sts_manager.domain.errors import OutOfOrder, StsManagerError
from sts_manager.domain.heartbeat import Tally, Vitals, points
from sts_manager.ports import Clock, MetricsSink

log = logging.getLogger(__name__)

POINTS_EVERY_S = 10.0
"""The least time between two points of a series (Cloud Monitoring, custom metrics: about one in 5 to 10 s)."""

FIRST = timedelta(milliseconds=1)
"""A cumulative point ends after it began, the first one too."""


class Pulse:
    """Publishes vitals. What it counts begins with it, so that a restart is told apart from a service that forgot."""

    def __init__(self, sink: MetricsSink, clock: Clock, *, every_s: float = POINTS_EVERY_S) -> None:
        self._sink, self._clock, self._every_s = sink, clock, every_s
        self._since: datetime = clock.now() - FIRST
        self._base = Tally()
        self._last: tuple[float, datetime] | None = None
        self._fault = ""

    def beat(self, vitals: Vitals) -> bool:
        """Publish, unless the last heartbeat was just now; whether points were published."""
        moment, now = self._clock.monotonic(), self._clock.now()
        if self._last is not None and moment - self._last[0] < self._every_s:
            return False
        if now <= self._since or (self._last is not None and (now - self._last[1]).total_seconds() < self._every_s / 2):
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
        self._last = (moment, now)
        if self._fault:
            log.info("heartbeat_recovered", extra={"fields": {"was": self._fault}})
            self._fault = ""
        return True

    def _failed(self, cause: str) -> None:
        if cause != self._fault:
            fields = {"cause": cause, "effect": "alerts may fire; transfers go on"}
            log.warning("heartbeat_failed", extra={"fields": fields})
        self._fault = cause
