"""Every metrics sink, over one suite."""

from __future__ import annotations

import os

import pytest

from sts_manager.domain.heartbeat import STEM
from sts_manager.metrics.cloud_monitoring import CloudMonitoring, Origin
from sts_manager.metrics.log import LogSink
from sts_manager.ports import MetricsSink
from tests.conformance.metrics_sink import *  # noqa: F403
from tests.conformance.metrics_sink import Heard
from tools.emulators.stage import PROJECT, Stage


@pytest.fixture(params=["log", "cloud monitoring"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sink(kind: str, stage: Stage) -> MetricsSink:
    if kind == "log":
        return LogSink()
    origin = Origin(project=PROJECT, location="us-central1", namespace="data_migration", task_id="0badcafe")
    return CloudMonitoring(origin, os.environ["MONITORING_EMULATOR_HOST"])


@pytest.fixture
def heard(kind: str, stage: Stage, caplog: pytest.LogCaptureFixture) -> Heard:
    caplog.set_level("INFO")

    def logged(metric: str, label: str) -> int | None:
        name = ".".join(filter(None, [metric.partition("/")[2], label]))
        value: int | None = getattr(caplog.records[-1], "fields", {}).get(name)
        return value

    def stored(metric: str, label: str) -> int | None:
        assert stage.monitoring is not None
        for series in stage.monitoring.series.series.values():
            if series.shown.metric.type == STEM + metric and label in ("", *series.shown.metric.labels.values()):
                value: int = series.points[-1].value.int64_value
                return value
        return None

    return logged if kind == "log" else stored
