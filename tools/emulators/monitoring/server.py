"""The gRPC face of Cloud Monitoring."""

from __future__ import annotations

import re
from concurrent import futures
from datetime import UTC, datetime

import grpc
from google.api import metric_pb2
from google.cloud import monitoring_v3 as monitoring
from google.protobuf import empty_pb2

from tools.emulators.ledger import Ledger
from tools.emulators.monitoring.policies import Policies
from tools.emulators.monitoring.series import SeriesStore
from tools.emulators.rpc import Refused, Rpc, handlers, invalid, page

PAGE_DEFAULT = 100
_CHANNEL = re.compile(r"projects/([^/]+)/notificationChannels/[0-9]+")
_TYPE = re.compile(r'\s*metric\.type\s*=\s*"([^"]+)"\s*')


class Workspace:
    """What one project has."""

    def __init__(self, ledger: Ledger, project: str) -> None:
        self.series = SeriesStore(ledger, project)
        self.policies = Policies(self.series, project)
        self.policies.fills_defaults = lambda: bool(ledger.setting("monitoring.fill_defaults"))


class MonitoringServer:
    """A gRPC server on a free loopback port."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._projects: dict[str, Workspace] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        services = {
            "MetricService": self._metrics(),
            "AlertPolicyService": self._alerts(),
            "NotificationChannelService": self._channels(),
        }
        self._server.add_generic_rpc_handlers(
            tuple(handlers(ledger, "monitoring", f"google.monitoring.v3.{name}", rpcs) for name, rpcs in services.items())
        )
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> MonitoringServer:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop(grace=0.2).wait(timeout=5)

    def reset(self) -> None:
        with self._ledger.lock:
            self._projects.clear()

    @property
    def series(self) -> SeriesStore:
        """The series of the suite's first project."""
        return self._workspace(f"projects/{self._ledger.projects[0]}").series

    @property
    def policies(self) -> Policies:
        """The alert policies of the suite's first project."""
        return self._workspace(f"projects/{self._ledger.projects[0]}").policies

    def _metrics(self) -> list[Rpc]:
        m, descriptor = monitoring, metric_pb2.MetricDescriptor
        return [
            ("CreateTimeSeries", m.CreateTimeSeriesRequest, empty_pb2.Empty, self._write, "monitoring.timeSeries.create"),
            ("ListTimeSeries", m.ListTimeSeriesRequest, m.ListTimeSeriesResponse, self._read, "monitoring.timeSeries.list"),
            (
                "CreateMetricDescriptor",
                m.CreateMetricDescriptorRequest,
                descriptor,
                self._describe,
                "monitoring.metricDescriptors.create",
            ),
            (
                "GetMetricDescriptor",
                m.GetMetricDescriptorRequest,
                descriptor,
                self._described,
                "monitoring.metricDescriptors.get",
            ),
            (
                "DeleteMetricDescriptor",
                m.DeleteMetricDescriptorRequest,
                empty_pb2.Empty,
                self._forget,
                "monitoring.metricDescriptors.delete",
            ),
        ]

    def _alerts(self) -> list[Rpc]:
        m, policy = monitoring, monitoring.AlertPolicy
        return [
            ("CreateAlertPolicy", m.CreateAlertPolicyRequest, policy, self._create, "monitoring.alertPolicies.create"),
            ("UpdateAlertPolicy", m.UpdateAlertPolicyRequest, policy, self._update, "monitoring.alertPolicies.update"),
            ("GetAlertPolicy", m.GetAlertPolicyRequest, policy, self._get, "monitoring.alertPolicies.get"),
            ("DeleteAlertPolicy", m.DeleteAlertPolicyRequest, empty_pb2.Empty, self._delete, "monitoring.alertPolicies.delete"),
            (
                "ListAlertPolicies",
                m.ListAlertPoliciesRequest,
                m.ListAlertPoliciesResponse,
                self._list,
                "monitoring.alertPolicies.list",
            ),
        ]

    def _channels(self) -> list[Rpc]:
        m, channel = monitoring, monitoring.NotificationChannel
        return [
            (
                "CreateNotificationChannel",
                m.CreateNotificationChannelRequest,
                channel,
                self._create_channel,
                "monitoring.notificationChannels.create",
            ),
            (
                "GetNotificationChannel",
                m.GetNotificationChannelRequest,
                channel,
                self._channel,
                "monitoring.notificationChannels.get",
            ),
        ]

    def _workspace(self, name: str, *, below: bool = False) -> Workspace:
        """The project of a name: `projects/P`, or of a resource below it. Raises Refused for any other."""
        kind, _, rest = name.partition("/")
        project, more, _ = rest.partition("/")
        if kind != "projects" or bool(more) != below or not self._ledger.knows_project(project):
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"The caller does not have permission on {name!r}.")
        with self._ledger.lock:
            if project not in self._projects:
                self._projects[project] = Workspace(self._ledger, project)
            return self._projects[project]

    def _write(self, request: monitoring.CreateTimeSeriesRequest) -> empty_pb2.Empty:
        self._workspace(request.name).series.write(list(request.time_series))
        return empty_pb2.Empty()

    def _read(self, request: monitoring.ListTimeSeriesRequest) -> monitoring.ListTimeSeriesResponse:
        series = self._workspace(request.name).series
        match = _TYPE.fullmatch(request.filter)
        if match is None:
            raise invalid(f'the stage models the filter metric.type = "…" only, not {request.filter!r}')
        raw = monitoring.TimeInterval.pb(request.interval)
        start, end = (datetime.fromtimestamp(stamp.seconds, UTC) for stamp in (raw.start_time, raw.end_time))
        found = series.read(match[1], start, end)
        shown, token = page(found, request.page_size or 100_000, request.page_token)
        return monitoring.ListTimeSeriesResponse(time_series=shown, next_page_token=token)

    def _describe(self, request: monitoring.CreateMetricDescriptorRequest) -> metric_pb2.MetricDescriptor:
        return self._workspace(request.name).series.describe(request.metric_descriptor)

    def _described(self, request: monitoring.GetMetricDescriptorRequest) -> metric_pb2.MetricDescriptor:
        series = self._workspace(request.name, below=True).series
        metric = request.name.partition("/metricDescriptors/")[2]
        series.known(metric)
        return series.descriptors[metric]

    def _forget(self, request: monitoring.DeleteMetricDescriptorRequest) -> empty_pb2.Empty:
        self.series.forget(request.name.partition("/metricDescriptors/")[2])
        return empty_pb2.Empty()

    def _create(self, request: monitoring.CreateAlertPolicyRequest) -> monitoring.AlertPolicy:
        return self._workspace(request.name).policies.create(request.alert_policy)

    def _update(self, request: monitoring.UpdateAlertPolicyRequest) -> monitoring.AlertPolicy:
        workspace = self._workspace(request.alert_policy.name, below=True)
        return workspace.policies.update(request.alert_policy, list(request.update_mask.paths))

    def _get(self, request: monitoring.GetAlertPolicyRequest) -> monitoring.AlertPolicy:
        return self._workspace(request.name, below=True).policies.get(request.name)

    def _delete(self, request: monitoring.DeleteAlertPolicyRequest) -> empty_pb2.Empty:
        self._workspace(request.name, below=True).policies.delete(request.name)
        return empty_pb2.Empty()

    def _list(self, request: monitoring.ListAlertPoliciesRequest) -> monitoring.ListAlertPoliciesResponse:
        found = self._workspace(request.name).policies.list(request.filter)
        shown, token = page(found, request.page_size or PAGE_DEFAULT, request.page_token)
        return monitoring.ListAlertPoliciesResponse(alert_policies=shown, next_page_token=token)

    def _create_channel(self, request: monitoring.CreateNotificationChannelRequest) -> monitoring.NotificationChannel:
        return self._workspace(request.name).policies.create_channel(request.notification_channel)

    def _channel(self, request: monitoring.GetNotificationChannelRequest) -> monitoring.NotificationChannel:
        named = _CHANNEL.fullmatch(request.name)
        if named is None or not self._ledger.knows_project(named[1]):
            raise invalid(f"Name must be of the form 'projects/*/notificationChannels/*', not {request.name!r}.")
        return self._workspace(request.name, below=True).policies.channel(request.name)
