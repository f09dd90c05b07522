"""Alert policies and notification channels, with the checks that the service makes on create and update."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import grpc
from google.cloud import monitoring_v3 as monitoring

from tools.emulators.monitoring.series import SeriesStore
from tools.emulators.rpc import Refused, invalid

CONDITIONS_MAX = 6
DOCUMENTATION_BYTES_MAX = 8 * 1024
_METRIC = re.compile(r'metric\.type\s*=\s*"([^"]+)"')
_RESOURCE = re.compile(r'resource\.type\s*=\s*"([^"]+)"')
_USER_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_USER_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_FILTER = re.compile(r'user_labels\.(?:"([^"]+)"|([a-z0-9_-]+))\s*=\s*"([^"]*)"')
MINUTE_S = 60
ABSENCE_MINIMUM_S = 120
ABSENCE_MAXIMUM_S = 84_600
INTERVAL_S = 30
_PROMQL_METRIC = re.compile(r"[A-Za-z0-9_]+_googleapis_com:[A-Za-z0-9_]+")
PROMQL = "condition_prometheus_query_language"
NO_OP = monitoring.AlertPolicy.Condition.EvaluationMissingData.EVALUATION_MISSING_DATA_NO_OP


def promql_name(metric: str) -> str:
    """A metric's name in PromQL: the first `/` becomes `:`, all other special characters `_`."""
    domain, _, path = metric.partition("/")
    return f"{re.sub(r'[^A-Za-z0-9]', '_', domain)}:{re.sub(r'[^A-Za-z0-9]', '_', path)}"


def _fill_defaults(policy: Any) -> None:
    policy.documentation.subject = policy.documentation.subject or policy.display_name
    policy.alert_strategy.auto_close = policy.alert_strategy.auto_close or timedelta(days=7)
    policy.severity = policy.severity or monitoring.AlertPolicy.Severity.WARNING
    for condition in policy.conditions:
        kind = monitoring.AlertPolicy.Condition.pb(condition).WhichOneof("condition")
        if kind == PROMQL:
            body = condition.condition_prometheus_query_language
            body.evaluation_interval = body.evaluation_interval or timedelta(seconds=INTERVAL_S)
            body.rule_group = body.rule_group or "default"
            continue
        limit: Any = condition.condition_threshold if kind == "condition_threshold" else condition.condition_absent
        limit.trigger.count = limit.trigger.count or 1
        if kind == "condition_threshold" and limit.duration:
            limit.evaluation_missing_data = NO_OP


class Policies:
    def __init__(self, series: SeriesStore, project: str) -> None:
        self._series, self._project = series, project
        self._lock = threading.Lock()
        self.fills_defaults: Callable[[], bool] = lambda: False  # whether it spells out what was left to it
        self.policies: dict[str, monitoring.AlertPolicy] = {}
        self.channels: dict[str, monitoring.NotificationChannel] = {}
        self._numbers = 0

    def reset(self) -> None:
        with self._lock:
            self.policies.clear()
            self.channels.clear()

    def create(self, given: monitoring.AlertPolicy) -> monitoring.AlertPolicy:
        self._check(given)
        return self._put(f"projects/{self._project}/alertPolicies/{self._number()}", given)

    def update(self, given: monitoring.AlertPolicy, mask: Iterable[str]) -> monitoring.AlertPolicy:
        known = self.get(given.name)
        fields = list(mask)
        after = monitoring.AlertPolicy(known) if fields else monitoring.AlertPolicy(given)
        for name in fields:
            if name not in monitoring.AlertPolicy.pb(given).DESCRIPTOR.fields_by_name:
                raise invalid(f"update_mask names no field: {name}")
            setattr(after, name, getattr(given, name))
        self._check(after)
        return self._put(known.name, after)

    def get(self, name: str) -> monitoring.AlertPolicy:
        if name not in self.policies:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Cannot find alert policy {name}.")
        return self.policies[name]

    def delete(self, name: str) -> None:
        self.get(name)
        del self.policies[name]

    def list(self, filter_: str) -> list[monitoring.AlertPolicy]:
        found = list(self.policies.values())
        if not filter_:
            return found
        match = _FILTER.fullmatch(filter_.strip())
        if match is None:
            raise invalid(f'the stage models the filter user_labels.KEY="VALUE" only, not {filter_!r}')
        return [one for one in found if one.user_labels.get(match[1] or match[2]) == match[3]]

    def create_channel(self, given: monitoring.NotificationChannel) -> monitoring.NotificationChannel:
        if not given.type_:
            raise invalid("notification_channel.type must be set")
        name = f"projects/{self._project}/notificationChannels/{self._number()}"
        made = monitoring.NotificationChannel(given)
        made.name = name
        self.channels[name] = made
        return made

    def channel(self, name: str) -> monitoring.NotificationChannel:
        if name not in self.channels:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Cannot find channel {name}.")
        return self.channels[name]

    def _number(self) -> int:
        with self._lock:
            self._numbers += 1
            return 10**6 + self._numbers

    def _put(self, name: str, given: monitoring.AlertPolicy) -> monitoring.AlertPolicy:
        made = monitoring.AlertPolicy(given)
        made.name = name
        for condition in made.conditions:
            condition.name = condition.name or f"{name}/conditions/{self._number()}"
        if self.fills_defaults():
            _fill_defaults(made)
        self.policies[name] = made
        return made

    def _check(self, policy: monitoring.AlertPolicy) -> None:
        if not policy.display_name:
            raise invalid("Field alertPolicy.display_name had an invalid value: it must not be empty.")
        if not 0 < len(policy.conditions) <= CONDITIONS_MAX:
            raise invalid(f"Field alertPolicy.conditions: 1 to {CONDITIONS_MAX} conditions")
        if not policy.combiner:
            raise invalid("Field alertPolicy.combiner had an invalid value: it must be set.")
        if len(policy.documentation.content.encode()) > DOCUMENTATION_BYTES_MAX:
            raise invalid("Field alertPolicy.documentation.content: at most 8192 bytes")
        if policy.documentation.content and policy.documentation.mime_type != "text/markdown":
            raise invalid('Field alertPolicy.documentation.mime_type: only "text/markdown" is supported')
        for name, value in policy.user_labels.items():
            if not _USER_LABEL.fullmatch(name) or not _USER_VALUE.fullmatch(value):
                raise invalid(f"Field alertPolicy.user_labels had an invalid entry {name}={value}")
        for channel in policy.notification_channels:
            self.channel(channel)
        for index, condition in enumerate(policy.conditions):
            self._check_condition(index, condition)

    def _check_condition(self, index: int, condition: monitoring.AlertPolicy.Condition) -> None:
        where = f"Field alertPolicy.conditions[{index}]"
        kind = monitoring.AlertPolicy.Condition.pb(condition).WhichOneof("condition")
        if kind not in ("condition_threshold", "condition_absent", PROMQL):
            raise invalid(f"{where}: the stage models threshold, absence and PromQL conditions, not {kind}")
        if not condition.display_name:
            raise invalid(f"{where}.display_name must not be empty")
        if kind == PROMQL:
            self._check_promql(f"{where}.{PROMQL}", condition.condition_prometheus_query_language)
            return
        body = condition.condition_threshold if kind == "condition_threshold" else condition.condition_absent
        metric, resource = _METRIC.search(body.filter), _RESOURCE.search(body.filter)
        if metric is None or resource is None:
            raise invalid(f"{where}.filter must name one metric.type and one resource.type: {body.filter!r}")
        self._series.known(metric[1])
        duration = body.duration.total_seconds()
        if duration % MINUTE_S:
            raise invalid(f"{where}.duration must be a multiple of a minute: {duration} s")
        if kind == "condition_absent" and not ABSENCE_MINIMUM_S <= duration <= ABSENCE_MAXIMUM_S:
            raise invalid(f"{where}.duration of an absence must be 2 minutes to 23.5 hours: {duration} s")
        for aggregation in body.aggregations:
            if aggregation.alignment_period.total_seconds() < MINUTE_S:
                raise invalid(f"{where}.aggregations: the alignment period must be at least 60 s")
            self._check_aligner(where, metric[1], aggregation.per_series_aligner.name)

    def _check_promql(self, where: str, body: monitoring.AlertPolicy.Condition.PrometheusQueryLanguageCondition) -> None:
        if not body.query:
            raise invalid(f"{where}.query must not be empty")
        if body.evaluation_interval and body.evaluation_interval.total_seconds() % INTERVAL_S:
            raise invalid(f"{where}.evaluation_interval must be a multiple of 30 seconds: {body.evaluation_interval}")
        if body.disable_metric_validation:
            return
        described = {promql_name(metric): metric for metric in self._series.descriptors}
        for name in _PROMQL_METRIC.findall(body.query):
            if name not in described:
                raise Refused(grpc.StatusCode.NOT_FOUND, f'Cannot find metric that matches "{name}".')

    def _check_aligner(self, where: str, metric: str, aligner: str) -> None:
        cumulative = self._series.descriptors[metric].metric_kind == 3
        if (aligner in ("ALIGN_DELTA", "ALIGN_RATE")) != cumulative and aligner != "ALIGN_NONE":
            raise invalid(f"{where}.aggregations: the aligner {aligner} cannot be applied to metric {metric}")
