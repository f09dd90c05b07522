"""Cloud Monitoring behind our ports: heartbeats, metric descriptors and alert policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import grpc
from google.api import metric_pb2
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud import monitoring_v3 as monitoring
from google.cloud.monitoring_v3.services.alert_policy_service import transports as alert_transports
from google.cloud.monitoring_v3.services.metric_service import transports as metric_transports
from google.cloud.monitoring_v3.services.notification_channel_service import transports as channel_transports

from sts_manager.domain.errors import BadInput, Denied, OutOfOrder, Permanent, Retryable
from sts_manager.domain.heartbeat import METRICS, Metric, MetricPoint
from sts_manager.metrics.alerts import RESOURCE, Alert, Condition, Did, Silence

SERIES_PER_CALL = 200
"""Cloud Monitoring, quotas: time series in one create request."""
DEADLINE_S = 10.0
ALERT_LABEL = "sts_manager_alert"
ONCE: Any = None
"""No retry of the client's own: the next turn publishes newer points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which series are ours: the labels of the resource `generic_task`.

    location    where the store is; namespace: the store; task_id: the migration, the same after a restart elsewhere
    """

    project: str
    location: str
    namespace: str
    task_id: str

    @property
    def labels(self) -> dict[str, str]:
        return {
            "project_id": self.project,
            "location": self.location,
            "namespace": self.namespace,
            "job": "sts-manager",
            "task_id": self.task_id,
        }


class CloudMonitoring:
    """A `MetricsSink`: all series in as few calls as the API allows."""

    def __init__(self, origin: Origin, emulator: str | None) -> None:
        self._origin = origin
        self._client: Any = _client(monitoring.MetricServiceClient, metric_transports.MetricServiceGrpcTransport, emulator)

    def publish(self, points: Sequence[MetricPoint], at: datetime) -> None:
        """Raises OutOfOrder, Denied, Retryable, Permanent."""
        series = [self._series(point, at) for point in points]
        # In a thread: a gRPC call in the main thread would keep Python from handling signals.
        with translated("create_time_series", self._origin.project), ThreadPoolExecutor(max_workers=1) as pool:
            for start in range(0, len(series), SERIES_PER_CALL):
                pool.submit(self._create, series[start : start + SERIES_PER_CALL]).result()

    def _create(self, series: Sequence[monitoring.TimeSeries]) -> None:
        name = f"projects/{self._origin.project}"
        self._client.create_time_series(name=name, time_series=series, retry=ONCE, timeout=DEADLINE_S)

    def _series(self, point: MetricPoint, at: datetime) -> monitoring.TimeSeries:
        interval = {"end_time": at} if point.since is None else {"start_time": point.since, "end_time": at}
        return monitoring.TimeSeries(
            metric={"type": point.metric.type, "labels": dict(point.labels)},
            resource={"type": RESOURCE, "labels": self._origin.labels},
            metric_kind=_kind(point.metric),
            points=[monitoring.Point(interval=interval, value={"int64_value": point.value})],
        )


class AlertPolicies:
    """Creates and updates our alert policies; each carries a user label by which it is found again."""

    def __init__(self, project: str, emulator: str | None) -> None:
        self._project = project
        self._metrics: Any = _client(monitoring.MetricServiceClient, metric_transports.MetricServiceGrpcTransport, emulator)
        self._alerts: Any = _client(
            monitoring.AlertPolicyServiceClient, alert_transports.AlertPolicyServiceGrpcTransport, emulator
        )
        self._channels: Any = _client(
            monitoring.NotificationChannelServiceClient,
            channel_transports.NotificationChannelServiceGrpcTransport,
            emulator,
        )

    def apply(self, alerts: Sequence[Alert], channels: Sequence[str], *, dry_run: bool) -> Iterator[Did]:
        """Bring each policy to what it should be, and tell what was done.

        What a person set beside it is kept: whether it is enabled, and its channels unless `channels` names some.
        Raises BadInput for a channel that does not exist.
        """
        for name in channels:
            self._check_channel(name)
        if not dry_run:
            # A policy may only look at a metric that exists, and ours exist from the first heartbeat on.
            for metric in METRICS:
                self._describe(metric)
        for alert in alerts:
            yield self._apply(alert, channels, dry_run=dry_run)

    def _apply(self, alert: Alert, channels: Sequence[str], *, dry_run: bool) -> Did:
        wanted = _policy(alert, channels)
        with translated("list_alert_policies", self._project):
            found = next(self._labelled(alert), None)
        if found is None:
            if not dry_run:
                with translated("create_alert_policy", self._project):
                    self._alerts.create_alert_policy(
                        name=f"projects/{self._project}",
                        alert_policy=monitoring.AlertPolicy(wanted),
                        retry=ONCE,
                        timeout=DEADLINE_S,
                    )
            return Did(alert=alert, what="created")
        changed = _differences(found, wanted, channels=bool(channels))
        if not changed:
            return Did(alert=alert, what="unchanged")
        if not dry_run:
            request = {"alert_policy": monitoring.AlertPolicy(wanted | {"name": found.name}), "update_mask": {"paths": changed}}
            with translated("update_alert_policy", self._project):
                self._alerts.update_alert_policy(request=request, retry=ONCE, timeout=DEADLINE_S)
        return Did(alert=alert, what=f"updated ({', '.join(changed)})")

    def remove(self, alerts: Sequence[Alert]) -> None:
        """Delete the policies that carry these alerts' labels; one that is not there is no error."""
        for alert in alerts:
            with translated("list_alert_policies", self._project):
                names = [policy.name for policy in self._labelled(alert)]
            for name in names:
                with translated("delete_alert_policy", self._project), suppress(exceptions.NotFound):
                    self._alerts.delete_alert_policy(name=name, retry=ONCE, timeout=DEADLINE_S)

    def forget(self, metric: Metric) -> None:
        """Delete a metric's descriptor, and its points with it; one that is not there is no error."""
        name = f"projects/{self._project}/metricDescriptors/{metric.type}"
        with translated("delete_metric_descriptor", self._project), suppress(exceptions.NotFound):
            self._metrics.delete_metric_descriptor(name=name, retry=ONCE, timeout=DEADLINE_S)

    def _labelled(self, alert: Alert) -> Iterator[Any]:
        request = {"name": f"projects/{self._project}", "filter": f'user_labels.{ALERT_LABEL}="{alert.key}"'}
        yield from self._alerts.list_alert_policies(request=request, retry=ONCE, timeout=DEADLINE_S)

    def _describe(self, metric: Metric) -> None:
        descriptor = metric_pb2.MetricDescriptor(
            type=metric.type,
            metric_kind=_kind(metric),
            value_type=metric_pb2.MetricDescriptor.ValueType.INT64,
            unit=metric.unit,
            description=metric.says,
            labels=[{"key": label} for label in metric.labels],
        )
        with translated("create_metric_descriptor", self._project):
            self._metrics.create_metric_descriptor(
                name=f"projects/{self._project}", metric_descriptor=descriptor, retry=ONCE, timeout=DEADLINE_S
            )

    def _check_channel(self, name: str) -> None:
        try:
            self._channels.get_notification_channel(name=name, retry=ONCE, timeout=DEADLINE_S)
        except (exceptions.NotFound, exceptions.InvalidArgument) as error:
            raise BadInput(
                f"--notification-channel: {name!r} is no channel of project {self._project} ({error.message}); "
                "`gcloud beta monitoring channels list --format='value(name)'` lists them"
            ) from error
        except exceptions.GoogleAPICallError as error:
            raise _as_ours("get_notification_channel", self._project, error) from error


def _policy(alert: Alert, channels: Sequence[str]) -> dict[str, Any]:
    """A policy as we want it: what is not in here is the service's, or a person's."""
    return {
        "display_name": alert.title,
        "documentation": {"content": alert.advice, "mime_type": "text/markdown"},
        "user_labels": {ALERT_LABEL: alert.key},
        "conditions": [_silence(one) if isinstance(one, Silence) else _condition(one) for one in alert.conditions],
        "combiner": "AND_WITH_MATCHING_RESOURCE" if len(alert.conditions) > 1 else "OR",
        "notification_channels": list(channels),
    }


def _condition(one: Condition) -> Mapping[str, Any]:
    aggregation = {"alignment_period": timedelta(minutes=1) if one.over is None else one.over, "per_series_aligner": one.aligner}
    body = {
        "filter": one.filter,
        "duration": one.lasting,
        "aggregations": [aggregation],
        "comparison": "COMPARISON_GT" if one.above is not None else "COMPARISON_LT",
        "threshold_value": one.above if one.above is not None else one.below,
    }
    return {"display_name": one.says, "condition_threshold": body}


def _silence(one: Silence) -> Mapping[str, Any]:
    # For a minute, as points may be late by some seconds.
    body = {"query": one.query, "duration": timedelta(minutes=1), "evaluation_interval": timedelta(seconds=30)}
    return {"display_name": one.says, "condition_prometheus_query_language": body}


def _differences(found: monitoring.AlertPolicy, wanted: Mapping[str, Any], *, channels: bool) -> list[str]:
    """The fields in which a policy is not what it should be; what the service or a person added beside it does not count."""
    names = ["display_name", "documentation", "conditions", "combiner", *(["notification_channels"] if channels else [])]
    return [name for name in names if not _holds(getattr(found, name), wanted[name])]


def _holds(found: Any, wanted: Any) -> bool:
    """Whether a message has all that is wanted, by the fields that are wanted alone."""
    if isinstance(wanted, Mapping):
        return all(_holds(getattr(found, name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(_holds(*pair) for pair in zip(found, wanted, strict=True))
    if isinstance(wanted, timedelta):
        return bool((found or timedelta(0)) == wanted)  # a duration of 0 may be left out
    return bool((found.name if isinstance(found, Enum) else found) == wanted)


def _kind(metric: Metric) -> int:
    return int(metric_pb2.MetricDescriptor.MetricKind.Value(metric.kind.value))


def _client(client: Any, transport: Any, emulator: str | None) -> Any:
    try:
        if emulator:
            return client(transport=transport(channel=grpc.insecure_channel(emulator)))
        return client()
    except auth.GoogleAuthError as error:
        raise Denied(f"no Google credentials for Cloud Monitoring: {error}", code="UNAUTHENTICATED") from error


@contextmanager
def translated(call: str, project: str) -> Iterator[None]:
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        raise _as_ours(call, project, error) from error
    except auth.GoogleAuthError as error:
        raise Denied(f"{call}: the Google credentials do not work: {error}", code="UNAUTHENTICATED") from error


def _as_ours(call: str, project: str, error: exceptions.GoogleAPICallError) -> Exception:
    said = f"{call}: {error.message}"
    if isinstance(error, (exceptions.PermissionDenied, exceptions.Forbidden)):
        role = "roles/monitoring.metricWriter" if call == "create_time_series" else "roles/monitoring.editor"
        grant = f"gcloud projects add-iam-policy-binding {project} --member=serviceAccount:ACCOUNT --role={role}"
        return Denied(f"{said} Grant it: {grant}")
    if "must be written in order" in error.message:
        return OutOfOrder(f"{said} (is another daemon's clock, or was this one's, ahead?)")
    if isinstance(error, exceptions.NotFound) and "find metric" in error.message:
        return Retryable(f"{said} A new metric takes a while to be known: repeat in a minute")
    retryable = (exceptions.ServerError, exceptions.TooManyRequests)
    # Points that come too soon after the last ones are refused under a code that says otherwise; the next turn's are taken.
    soon = "more frequently than the maximum sampling period" in error.message
    return Retryable(said) if soon or isinstance(error, retryable) else Permanent(said)
