"""Heartbeats and alert policies over the official client, against a service that is as strict as the real one."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import monitoring_v3 as monitoring
from google.cloud.monitoring_v3.services.alert_policy_service import transports as alert_transports
from google.cloud.monitoring_v3.services.metric_service import transports as metric_transports
from google.cloud.monitoring_v3.services.notification_channel_service import transports as channel_transports

from sts_manager.domain.errors import BadInput, Denied, OutOfOrder, Retryable
from sts_manager.domain.heartbeat import METRICS, Tally, Vitals, points
from sts_manager.domain.model import JobStatus
from sts_manager.metrics.alerts import Did, alerts
from sts_manager.metrics.cloud_monitoring import ALERT_LABEL, AlertPolicies, CloudMonitoring, Origin
from tools.emulators.stage import PROJECT, Stage

ORIGIN = Origin(project=PROJECT, location="global", namespace="data_migration", task_id="0badcafe")
NAME = f"projects/{PROJECT}"
ALERTS = alerts(sleep_s=60, job_interval_s=1200, metrics_interval_s=300)


def channel() -> grpc.Channel:
    return grpc.insecure_channel(os.environ["MONITORING_EMULATOR_HOST"])


def metric_client() -> Any:
    return monitoring.MetricServiceClient(transport=metric_transports.MetricServiceGrpcTransport(channel=channel()))


def alert_client() -> Any:
    return monitoring.AlertPolicyServiceClient(transport=alert_transports.AlertPolicyServiceGrpcTransport(channel=channel()))


def channel_client() -> Any:
    transport = channel_transports.NotificationChannelServiceGrpcTransport(channel=channel())
    return monitoring.NotificationChannelServiceClient(transport=transport)


def sink() -> CloudMonitoring:
    return CloudMonitoring(ORIGIN, os.environ["MONITORING_EMULATOR_HOST"])


def made(retries: int = 0, since: datetime | None = None) -> Any:
    vitals = Vitals(counts=dict.fromkeys(JobStatus, 1), live_by_route={"sts-s3": 1}, tally=Tally(retries=retries))
    return points(vitals, since or datetime.now(UTC) - timedelta(minutes=10))


def read(metric: str) -> list[int]:
    now = datetime.now(UTC)
    listed = metric_client().list_time_series(
        request={
            "name": NAME,
            "filter": f'metric.type = "custom.googleapis.com/sts_job_manager/{metric}"',
            "interval": {"start_time": now - timedelta(hours=1), "end_time": now + timedelta(hours=1)},
        }
    )
    return [point.value.int64_value for series in listed for point in series.points]


def test_all_series_go_in_one_call_and_come_back(stage: Stage) -> None:
    now = datetime.now(UTC)
    since = now - timedelta(minutes=9)
    writer = sink()
    writer.publish(made(3, since), now - timedelta(minutes=2))
    writer.publish(made(5, since), now - timedelta(minutes=1))
    assert stage.ledger.report()["monitoring"] == {"CreateTimeSeries": 2}
    assert read("metrics/retries") == [5, 3]
    assert read("status/waiting") == [1, 1]
    assert stage.monitoring is not None
    assert set(stage.monitoring.series.descriptors) == {metric.type for metric in METRICS}


def test_an_older_point_is_told_apart_from_other_refusals(stage: Stage) -> None:
    now = datetime.now(UTC)
    sink().publish(made(), now)
    with pytest.raises(OutOfOrder, match="in order"):
        sink().publish(made(), now - timedelta(minutes=1))


@pytest.mark.parametrize(("error", "kind"), [("UNAVAILABLE", Retryable), ("PERMISSION_DENIED", Denied)])
def test_refusals_are_classed(stage: Stage, error: str, kind: type[Exception]) -> None:
    stage.ledger.add_rule({"service": "monitoring", "method": "CreateTimeSeries", "error": error})
    with pytest.raises(kind) as refused:
        sink().publish(made(), datetime.now(UTC))
    if kind is Denied:
        assert "--role=roles/monitoring.metricWriter" in str(refused.value)


# The stage is as strict as the service


def series(metric: str = "custom.googleapis.com/x", **changes: Any) -> monitoring.TimeSeries:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "metric": {"type": metric},
        "resource": {"type": "generic_task", "labels": ORIGIN.labels},
        "points": [{"interval": {"end_time": now}, "value": {"int64_value": 1}}],
    } | changes
    return monitoring.TimeSeries(values)


def at(seconds: float, start: float | None = None) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    interval = {"end_time": now + timedelta(seconds=seconds)}
    if start is not None:
        interval["start_time"] = now + timedelta(seconds=start)
    return [{"interval": interval, "value": {"int64_value": 1}}]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([series(f"custom.googleapis.com/x{index}") for index in range(201)], "at most 200"),
        ([series(), series()], "Duplicate TimeSeries"),
        ([series(points=[*at(0), *at(10)])], "Only one point"),
        ([series("compute.googleapis.com/x")], "metric.type had an invalid value"),
        ([series(resource={"type": "generic_task", "labels": {"project_id": PROJECT}})], "resource.labels of generic_task"),
        ([series(resource={"type": "generic_task", "labels": ORIGIN.labels | {"location": "US"}})], "Unrecognized region"),
        ([series(resource={"type": "nothing", "labels": {}})], "resource.type had an invalid value"),
        ([series(points=at(3600))], "no more than 5 minutes in the future"),
        ([series(points=at(-30 * 3600))], "25 hours in the past"),
        ([series(metric_kind="CUMULATIVE", points=at(0))], "start time must be before"),
        ([series(points=at(0, start=-60))], "GAUGE point must be equal"),
    ],
)
def test_the_stage_refuses_what_the_service_refuses(stage: Stage, given: list[Any], told: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=told):
        metric_client().create_time_series(name=NAME, time_series=given)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"points": at(-60)}, {"points": at(-61)}, "in order"),
        ({"points": at(-60)}, {"points": at(-58)}, "more frequently"),
        ({"points": at(-60)}, {"metric_kind": "CUMULATIVE", "points": at(0, -5)}, "must be GAUGE"),
        (
            {"points": at(-60)},
            {"points": [{"interval": {"end_time": datetime.now(UTC)}, "value": {"bool_value": True}}]},
            "INT64",
        ),
        (
            {"metric_kind": "CUMULATIVE", "points": at(-60, -120)},
            {"metric_kind": "CUMULATIVE", "points": at(0, -90)},
            "in order",
        ),
    ],
)
def test_the_stage_keeps_the_order_and_kind_of_a_series(
    stage: Stage, first: dict[str, Any], second: dict[str, Any], told: str
) -> None:
    client = metric_client()
    client.create_time_series(name=NAME, time_series=[series(**first)])
    with pytest.raises(exceptions.InvalidArgument, match=told):
        client.create_time_series(name=NAME, time_series=[series(**second), series("custom.googleapis.com/good")])
    assert stage.monitoring is not None
    assert "custom.googleapis.com/good" in stage.monitoring.series.descriptors, "good points stand although the call failed"


def test_another_project_is_refused(stage: Stage) -> None:
    with pytest.raises(exceptions.PermissionDenied):
        metric_client().create_time_series(name="projects/another", time_series=[series()])


# Alert policies


def applied(*channels: str, dry_run: bool = False, given: Any = ALERTS) -> list[str]:
    policies = AlertPolicies(PROJECT, os.environ["MONITORING_EMULATOR_HOST"])
    done: list[Did] = list(policies.apply(given, channels, dry_run=dry_run))
    return [did.what for did in done]


def stored() -> dict[str, Any]:
    return {policy.user_labels[ALERT_LABEL]: policy for policy in alert_client().list_alert_policies(name=NAME)}


def test_policies_are_made_once_and_only_differences_are_updated(stage: Stage) -> None:
    assert applied(dry_run=True) == ["created"] * 6
    assert stored() == {}
    assert applied() == ["created"] * 6
    assert applied() == ["unchanged"] * 6
    slower = alerts(sleep_s=600, job_interval_s=1200, metrics_interval_s=600)
    assert applied(given=slower, dry_run=True)[0] == "updated (conditions)"
    assert applied(given=slower)[0] == "updated (conditions)"
    assert len(stored()) == 6
    assert all("Runbook: docs/operations.md" in policy.documentation.content for policy in stored().values())


def test_what_the_service_fills_in_is_no_difference(stage: Stage) -> None:
    stage.ledger.change({"monitoring.fill_defaults": True})
    assert applied() == ["created"] * 6
    filled = stored()["stalled"]
    assert (filled.conditions[0].condition_threshold.trigger.count, filled.documentation.subject) == (1, filled.display_name)
    assert applied() == ["unchanged"] * 6
    slower = alerts(sleep_s=600, job_interval_s=1200, metrics_interval_s=600)
    changed = ["updated (conditions)" if index < 2 else "unchanged" for index in range(6)]
    assert applied(given=slower) == changed
    assert applied(given=slower) == ["unchanged"] * 6


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("stalled", {"condition_threshold": {"threshold_value": 5}}),
        ("degraded", {"condition_threshold": {"comparison": "COMPARISON_LT"}}),
        ("breaker-open", {"condition_threshold": {"duration": {"seconds": 60}}}),
        ("stalled", {"condition_threshold": {"aggregations": [{"per_series_aligner": "ALIGN_MAX", "alignment_period": "60s"}]}}),
        ("daemon-silent", {"condition_prometheus_query_language": {"duration": {"seconds": 600}}}),
    ],
)
def test_what_is_not_as_it_was_made_is_a_difference(stage: Stage, key: str, change: dict[str, Any]) -> None:
    stage.ledger.change({"monitoring.fill_defaults": True})
    applied()
    client, policy = alert_client(), stored()[key]
    ((kind, fields),) = change.items()
    body = getattr(policy.conditions[0], kind)
    for name, value in fields.items():
        setattr(body, name, timedelta(**value) if name == "duration" else value)
    client.update_alert_policy(alert_policy=policy)
    expected = {one.key: "updated (conditions)" if one.key == key else "unchanged" for one in ALERTS}
    assert dict(zip(expected, applied(), strict=True)) == expected
    assert applied() == ["unchanged"] * 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"query": ""}, "query must not be empty"),
        ({"evaluation_interval": timedelta(seconds=45)}, "multiple of 30 seconds"),
        ({"query": "custom_googleapis_com:nope > 0"}, "Cannot find metric"),
    ],
)
def test_promql_that_the_service_does_not_take(stage: Stage, change: dict[str, Any], told: str) -> None:
    applied()
    policy = stored()["daemon-silent"]
    policy.name = ""
    for name, value in change.items():
        setattr(policy.conditions[0].condition_prometheus_query_language, name, value)
    with pytest.raises((exceptions.InvalidArgument, exceptions.NotFound), match=told):
        alert_client().create_alert_policy(name=NAME, alert_policy=policy)
    policy.conditions[0].condition_prometheus_query_language.disable_metric_validation = True
    if "nope" in str(change):
        alert_client().create_alert_policy(name=NAME, alert_policy=policy)


def test_what_a_person_set_is_kept(stage: Stage) -> None:
    theirs = channel_client().create_notification_channel(name=NAME, notification_channel={"type_": "email"}).name
    applied(theirs)
    client, policy = alert_client(), stored()["stalled"]
    policy.enabled = False
    policy.display_name = "renamed"
    client.update_alert_policy(alert_policy=policy)
    assert applied()[1] == "updated (display_name)"
    after = stored()["stalled"]
    assert (after.enabled, list(after.notification_channels)) == (False, [theirs])


@pytest.mark.parametrize("name", ["nope", f"{NAME}/notificationChannels/1", "projects/other/notificationChannels/1"])
def test_a_channel_that_does_not_exist_is_named_before_anything_is_made(stage: Stage, name: str) -> None:
    with pytest.raises(BadInput, match="--notification-channel") as refused:
        applied(name)
    assert name in str(refused.value)
    assert stored() == {}


def test_a_policy_over_an_unknown_metric_is_refused_by_the_stage(stage: Stage) -> None:
    applied()
    policy = stored()["stalled"]
    policy.name = ""
    policy.conditions[0].condition_threshold.filter = 'metric.type = "custom.googleapis.com/nope" AND resource.type = "global"'
    with pytest.raises(exceptions.NotFound, match="Cannot find metric"):
        alert_client().create_alert_policy(name=NAME, alert_policy=policy)
