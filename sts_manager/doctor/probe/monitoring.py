"""Cloud Monitoring: two points ten seconds apart, in each location; the alert policies applied twice.

Both under names of the probe's own: points of the program's own metrics would set off a user's alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, judge, leave_out
from sts_manager.doctor.probe.record import ProbeRecord
from sts_manager.domain.errors import StsManagerError
from sts_manager.domain.heartbeat import Metric, MetricKind, MetricPoint
from sts_manager.metrics.alerts import Alert, alerts

APART_S = 10.0
"""The daemon publishes at most so often (`pulse.py`)."""
POINTS, REGION, POLICIES = "heartbeat", "heartbeat: the dataset's region", "alert policies applied twice"
GLOBAL = "global"


def probe_metric(record: ProbeRecord) -> Metric:
    """A metric of this probe alone, deleted afterwards with its points."""
    says = "Two points of a probe; deleted by it."
    return Metric(name=f"probe/{record.id.replace('-', '_')}", kind=MetricKind.GAUGE, unit="1", says=says)


def probe_alerts(record: ProbeRecord) -> tuple[Alert, ...]:
    """The policies of `create-alerts` under labels of this probe, over its own metric where a gauge will do."""
    usual = alerts(sleep_s=60, job_interval_s=1200, metrics_interval_s=300)
    return tuple(
        replace(alert, key=f"probe-{record.id}-{alert.key}", title=f"{alert.title} (probe {record.id})") for alert in usual
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsAnswer:
    """What became of two points in one location: empty for taken, else the refusal."""

    location: str
    first: str
    second: str


def probe_monitoring(context: Context) -> Iterator[Observation]:
    location = context.clients.location
    if context.clients.metrics is None or context.clients.policies is None:
        for subject in (POINTS, REGION, POLICIES):
            yield leave_out(subject, "--publish-heartbeat is off")
        return
    written = [_write(context, place) for place in dict.fromkeys((GLOBAL, location))]
    yield judge_points(written[0])
    if location == GLOBAL:
        yield leave_out(REGION, "the series' location is global: the store has no region")
    else:
        yield judge_region(written[1])
    policies = context.clients.policies(context.record.monitoring)
    wanted = probe_alerts(context.record)
    stem = f"probe-{context.record.id}-"
    first, second = (
        {did.alert.key.removeprefix(stem): did.what for did in policies.apply(wanted, (), dry_run=False)} for _ in range(2)
    )
    yield judge_policies(first, second)
    policies.remove(wanted)


def _write(context: Context, location: str) -> PointsAnswer:
    assert context.clients.metrics is not None
    sink = context.clients.metrics(location, context.record.id)
    point = MetricPoint(metric=probe_metric(context.record), value=1)
    refusals: list[str] = []
    for number in range(2):
        if number:
            context.sleep(APART_S)
        try:
            sink.publish([point], context.now())
            refusals.append("")
        except StsManagerError as error:
            refusals.append(str(error))
    return PointsAnswer(location=location, first=refusals[0], second=refusals[1])


def _describe(written: PointsAnswer) -> str:
    if not written.first and not written.second:
        return f"two points {APART_S:g} s apart are taken in {written.location}"
    which = "the first point" if written.first else "the second point"
    return f"{which} in {written.location} is refused: {written.first or written.second}"


def judge_points(written: PointsAnswer) -> Observation:
    return judge(
        POINTS,
        assumed=f"two points of a series {APART_S:g} s apart are taken",
        observed=_describe(written),
        contradicts=bool(written.first or written.second),
        meaning="heartbeats are lost: the alert `daemon-silent` would fire for a daemon that lives",
    )


def judge_region(written: PointsAnswer) -> Observation:
    """A region that is refused is heeded: the daemon then writes to `global`."""
    refused = bool(written.first or written.second)
    return judge(
        REGION,
        assumed="the region of a BigQuery dataset is a location of series",
        observed=_describe(written),
        contradicts=refused,
        meaning="the daemon heeds it and publishes with the location global",
        answers={"monitoring_location": "refused" if refused else "taken", "monitoring_location_of": written.location},
    )


def judge_policies(first: Mapping[str, str], second: Mapping[str, str]) -> Observation:
    """first, second: what `create-alerts` says of each policy."""
    changed = [f"{key}: {what}" for key, what in second.items() if what != "unchanged"]
    return judge(
        POLICIES,
        assumed="a policy that was applied is unchanged when it is applied again",
        observed=f"{len(first):,} policies made, {_describe_changes(second, changed)}",
        contradicts=bool(changed),
        meaning="`create-alerts` says “updated” at every run; nothing is lost by it",
        details={"first": dict(first), "second": dict(second)},
    )


def _describe_changes(second: Mapping[str, str], changed: Sequence[str]) -> str:
    return f"the second time {', '.join(changed)}" if changed else f"{len(second):,} unchanged the second time"
