"""Time series as the service takes them: descriptors, order, sampling period, one point a series, 200 series a call."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc
from google.api import metric_pb2
from google.cloud import monitoring_v3 as monitoring

from tools.emulators.ledger import Ledger
from tools.emulators.rpc import Refused, invalid

SERIES_MAX = 200
LABELS_MAX = 30
FUTURE, PAST = timedelta(minutes=5), timedelta(hours=25)
METRIC = re.compile(r"(custom|external)\.googleapis\.com/[A-Za-z0-9_./-]{1,180}")
LABEL = re.compile(r"[a-z][a-z0-9_]{0,99}", re.IGNORECASE)
LOCATION = re.compile(r"global|(aws:)?[a-z]+(-[a-z]+)+\d+(-[a-z])?")
RESOURCES = {
    "global": {"project_id"},
    "generic_task": {"project_id", "location", "namespace", "job", "task_id"},
    "generic_node": {"project_id", "location", "namespace", "node_id"},
    "gce_instance": {"project_id", "instance_id", "zone"},
}
Key = tuple[str, tuple[tuple[str, str], ...], str, tuple[tuple[str, str], ...]]
Kind = metric_pb2.MetricDescriptor.MetricKind
Type = metric_pb2.MetricDescriptor.ValueType
VALUES = {"int64_value": Type.INT64, "double_value": Type.DOUBLE, "bool_value": Type.BOOL, "string_value": Type.STRING}


@dataclass
class Point:
    start: datetime
    end: datetime
    value: monitoring.TypedValue


@dataclass
class Series:
    shown: monitoring.TimeSeries
    points: list[Point] = field(default_factory=list)


class SeriesStore:
    """All series of the project. Writes are partial, as the service's are: good points stand, the call still fails."""

    def __init__(self, ledger: Ledger, project: str) -> None:
        self._ledger, self._project = ledger, project
        self._lock = threading.Lock()
        self.descriptors: dict[str, metric_pb2.MetricDescriptor] = {}
        self.series: dict[Key, Series] = {}

    def reset(self) -> None:
        with self._lock:
            self.descriptors.clear()
            self.series.clear()

    def describe(self, given: metric_pb2.MetricDescriptor) -> metric_pb2.MetricDescriptor:
        """Create a descriptor, or replace an equal one's texts."""
        if not METRIC.fullmatch(given.type):
            raise invalid(f"Field metricDescriptor.type had an invalid value of {given.type!r}")
        with self._lock:
            known = self.descriptors.get(given.type)
            if known is not None and (known.metric_kind, known.value_type) != (given.metric_kind, given.value_type):
                raise invalid(f"Metric kind and value type of {given.type} cannot be changed.")
            made = metric_pb2.MetricDescriptor()
            made.CopyFrom(given)
            made.name = f"projects/{self._project}/metricDescriptors/{given.type}"
            self.descriptors[given.type] = made
            return made

    def write(self, given: Sequence[monitoring.TimeSeries]) -> None:
        if not 0 < len(given) <= SERIES_MAX:
            raise invalid(f"Field timeSeries had an invalid value: {len(given)} series; at most {SERIES_MAX} per request.")
        now = datetime.now(UTC)
        faults, seen = [], set()
        with self._lock:
            for index, one in enumerate(given):
                key = _key(one)
                if key in seen:
                    raise invalid(
                        f"Field timeSeries[{index}] had an invalid value: Duplicate TimeSeries encountered. Only one point can "
                        "be written per TimeSeries per request."
                    )
                seen.add(key)
                fault = self._fault(one, now)
                if fault:
                    faults.append(f"timeSeries[{index}] (metric.type={one.metric.type!r}): {fault}")
                else:
                    self._append(key, one)
        if faults:
            raise invalid(f"One or more TimeSeries could not be written: {'; '.join(faults)}")

    def _fault(self, one: monitoring.TimeSeries, now: datetime) -> str:
        """Why a series is refused; empty when it is good."""
        shape = _shape_fault(one)
        if shape:
            return shape
        point = one.points[0]
        kind = _kind(one)
        value_type = VALUES.get(monitoring.TypedValue.pb(point.value).WhichOneof("value") or "")
        known = self.descriptors.get(one.metric.type)
        if value_type is None:
            return "points[0].value must be set"
        if known is not None and known.metric_kind != kind:
            return f"Metric kind for metric {one.metric.type} must be {Kind.Name(known.metric_kind)}, but is {Kind.Name(kind)}."
        if known is not None and known.value_type != value_type:
            return (
                f"Value type for metric {one.metric.type} must be {Type.Name(known.value_type)}, but is {Type.Name(value_type)}."
            )
        start, end = _times(point)
        if end > now + FUTURE or end < now - PAST:
            return "Points must have an end time no more than 25 hours in the past and no more than 5 minutes in the future."
        if kind == Kind.GAUGE and start != end:
            return "The start time of a GAUGE point must be equal to its end time."
        if kind == Kind.CUMULATIVE and start >= end:
            return "The start time must be before the end time for the CUMULATIVE metric."
        return self._order_fault(_key(one), kind, start, end)

    def _order_fault(self, key: Key, kind: int, start: datetime, end: datetime) -> str:
        last = self.series[key].points[-1] if key in self.series else None
        if last is None:
            return ""
        if end <= last.end or (kind == Kind.CUMULATIVE and start != last.start and start < last.end):
            return (
                "Points must be written in order. One or more of the points specified had an older start/end time than the most "
                "recent point."
            )
        if end - last.end < timedelta(seconds=float(self._ledger.setting("monitoring.sampling_seconds"))):
            return "One or more points were written more frequently than the maximum sampling period configured for the metric."
        return ""

    def _append(self, key: Key, one: monitoring.TimeSeries) -> None:
        point = one.points[0]
        if one.metric.type not in self.descriptors:
            # Written before it was described, a metric gets a descriptor from its first point.
            kind, oneof = _kind(one), monitoring.TypedValue.pb(point.value).WhichOneof("value")
            self.descriptors[one.metric.type] = metric_pb2.MetricDescriptor(
                name=f"projects/{self._project}/metricDescriptors/{one.metric.type}",
                type=one.metric.type,
                metric_kind=kind,
                value_type=VALUES[oneof],
            )
        series = self.series.setdefault(key, Series(one))
        start, end = _times(point)
        series.points.append(Point(start, end, point.value))

    def read(self, metric: str, start: datetime, end: datetime) -> list[monitoring.TimeSeries]:
        """The series of a metric type, points newest first."""
        found = []
        with self._lock:
            for series in self.series.values():
                if series.shown.metric.type != metric:
                    continue
                points = [
                    monitoring.Point(
                        interval=monitoring.TimeInterval(start_time=point.start, end_time=point.end), value=point.value
                    )
                    for point in reversed(series.points)
                    if start <= point.end <= end
                ]
                if points:
                    found.append(
                        monitoring.TimeSeries(
                            metric=series.shown.metric,
                            resource=series.shown.resource,
                            metric_kind=self.descriptors[metric].metric_kind,
                            value_type=self.descriptors[metric].value_type,
                            points=points,
                        )
                    )
        return found

    def forget(self, metric: str) -> None:
        """Delete a descriptor, and its points with it."""
        self.known(metric)
        with self._lock:
            del self.descriptors[metric]
            self.series = {key: one for key, one in self.series.items() if key[0] != metric}

    def known(self, metric: str) -> None:
        if metric not in self.descriptors:
            raise Refused(grpc.StatusCode.NOT_FOUND, f'Cannot find metric that matches type = "{metric}".')


def _shape_fault(one: monitoring.TimeSeries) -> str:
    if not METRIC.fullmatch(one.metric.type):
        return f"metric.type had an invalid value of {one.metric.type!r}"
    if len(one.metric.labels) > LABELS_MAX or not all(LABEL.fullmatch(name) for name in one.metric.labels):
        return "metric.labels had an invalid value"
    wanted = RESOURCES.get(one.resource.type)
    if wanted is None:
        return f"resource.type had an invalid value of {one.resource.type!r}"
    labels = set(one.resource.labels)
    if labels != wanted or not all(one.resource.labels.values()):
        return f"resource.labels of {one.resource.type} must be {', '.join(sorted(wanted))}, all set, and not {sorted(labels)}"
    location = one.resource.labels.get("location", "global")
    if not LOCATION.fullmatch(location):
        return f"Unrecognized region or location: {location}"
    if len(one.points) != 1:
        return f"points had an invalid value of size {len(one.points)}: Only one point can be written per TimeSeries per request."
    return ""


def _kind(one: monitoring.TimeSeries) -> int:
    return int(one.metric_kind) or int(Kind.GAUGE)


def _key(one: monitoring.TimeSeries) -> Key:
    return (
        one.metric.type,
        tuple(sorted(one.metric.labels.items())),
        one.resource.type,
        tuple(sorted(one.resource.labels.items())),
    )


def _times(point: monitoring.Point) -> tuple[datetime, datetime]:
    raw = monitoring.TimeInterval.pb(point.interval)

    def at(stamp: object) -> datetime:
        seconds, nanos = stamp.seconds, stamp.nanos  # type: ignore[attr-defined]
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000)

    end = at(raw.end_time)
    return (at(raw.start_time) if raw.HasField("start_time") else end), end
