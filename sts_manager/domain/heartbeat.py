"""What the daemon tells the outside of itself: from what a loop turn knows to metric points. Pure.

The two older metrics keep their names, because users' alerts depend on them: `status/{status}` and `metrics/stalled`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from sts_manager.domain.model import Change, JobStatus

STEM = "custom.googleapis.com/sts_job_manager/"


class MetricKind(StrEnum):
    """A value as it is now, or a count since the daemon began."""

    GAUGE = "GAUGE"
    CUMULATIVE = "CUMULATIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric type; all are whole numbers. `unit` is UCUM, as Cloud Monitoring wants it."""

    name: str
    kind: MetricKind
    unit: str
    says: str
    labels: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return STEM + self.name


def _gauge(name: str, unit: str, says: str, *labels: str) -> Metric:
    return Metric(name=name, kind=MetricKind.GAUGE, unit=unit, says=says, labels=labels)


def _count(name: str, unit: str, says: str, *labels: str) -> Metric:
    return Metric(name=name, kind=MetricKind.CUMULATIVE, unit=unit, says=says, labels=labels)


STATUS = {one: _gauge(f"status/{one.value}", "1", f"Prefixes that are {one.value}.") for one in JobStatus}
UNFINISHED = _gauge("metrics/unfinished", "1", "Prefixes that have not ended: waiting, running or paused.")
STALLED = _gauge("metrics/stalled", "1", "Running prefixes whose counters stand still.")
OBJECTS = _count("metrics/objects", "1", "Objects copied or failed since the daemon began.", "result")
BYTES = _count("metrics/bytes", "By", "Bytes copied or failed since the daemon began.", "result")
ERRORS = _count("metrics/errors", "1", "Prefixes that ended in error since the daemon began.")
RETRIES = _count("metrics/retries", "1", "Attempts after the first since the daemon began.")
LIVE = _gauge("metrics/live_operations", "1", "Operations that run or are paused.", "route")
PASS_AGE = _gauge("metrics/oldest_pass_age", "s", "Seconds since the last whole pass.")
BREAKER = _gauge("metrics/breaker_open", "1", "1 while a project-wide fault stops every start.")
DEGRADED = _gauge("metrics/degraded", "1", "1 while the store or the service cannot be reached.")
METRICS = (*STATUS.values(), UNFINISHED, STALLED, OBJECTS, BYTES, ERRORS, RETRIES, LIVE, PASS_AGE, BREAKER, DEGRADED)


NOT_ENDED = (JobStatus.WAITING, JobStatus.RUNNING, JobStatus.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a daemon has brought about, counted from the changes it recorded."""

    objects_copied: int = 0
    bytes_copied: int = 0
    objects_failed: int = 0
    bytes_failed: int = 0
    errors: int = 0
    retries: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Tally)})

    def __sub__(self, other: Tally) -> Tally:
        return Tally(**{one.name: getattr(self, one.name) - getattr(other, one.name) for one in fields(Tally)})


COUNTED = ("objects_copied", "bytes_copied", "objects_failed", "bytes_failed")


def tally(changes: Iterable[Change]) -> Tally:
    """What changes add. Counters begin anew with each attempt, and a service's correction downwards adds nothing."""
    total = dict.fromkeys((one.name for one in fields(Tally)), 0)
    for change in changes:
        before, after = change.before, change.after
        if after.attempt == before.attempt:
            for name in COUNTED:
                total[name] += max(0, getattr(after.counters, name) - getattr(before.counters, name))
        elif before.attempt:
            total["retries"] += 1
        if after.status is JobStatus.ERROR and before.status is not JobStatus.ERROR:
            total["errors"] += 1
    return Tally(**total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a loop turn knows. `counts` is empty before the first pass; `pass_age_s`: seconds since the last whole pass."""

    counts: Mapping[JobStatus, int] = field(default_factory=dict)
    stalled: int = 0
    live_by_route: Mapping[str, int] = field(default_factory=dict)
    pass_age_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    breaker_open: bool = False
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One value of one series. `since`: when a cumulative series began; a gauge has none."""

    metric: Metric
    value: int
    labels: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None


def points(vitals: Vitals, since: datetime) -> tuple[MetricPoint, ...]:
    """The points of one heartbeat; statuses without a row are 0, so that an alert on them has something to look at."""
    return (*_gauges(vitals), *_counts(vitals.tally, since))


def _gauges(vitals: Vitals) -> Iterator[MetricPoint]:
    if vitals.counts:
        for status in JobStatus:
            yield MetricPoint(metric=STATUS[status], value=vitals.counts.get(status, 0))
        yield MetricPoint(metric=UNFINISHED, value=sum(vitals.counts.get(status, 0) for status in NOT_ENDED))
        yield MetricPoint(metric=STALLED, value=vitals.stalled)
    for route, number in sorted(vitals.live_by_route.items()):
        yield MetricPoint(metric=LIVE, value=number, labels={"route": route})
    yield MetricPoint(metric=PASS_AGE, value=int(vitals.pass_age_s))
    yield MetricPoint(metric=BREAKER, value=int(vitals.breaker_open))
    yield MetricPoint(metric=DEGRADED, value=int(vitals.degraded))


def _counts(total: Tally, since: datetime) -> Iterator[MetricPoint]:
    for result, objects, size in (
        ("copied", total.objects_copied, total.bytes_copied),
        ("failed", total.objects_failed, total.bytes_failed),
    ):
        yield MetricPoint(metric=OBJECTS, value=objects, labels={"result": result}, since=since)
        yield MetricPoint(metric=BYTES, value=size, labels={"result": result}, since=since)
    yield MetricPoint(metric=ERRORS, value=total.errors, since=since)
    yield MetricPoint(metric=RETRIES, value=total.retries, since=since)
