"""Every metrics sink, over one suite."""

from __future__ import annotations

import os

import pytest

from sts_manager.metrics.cloud_monitoring import CloudMonitoring, Origin
from sts_manager.metrics.log import LogSink
from sts_manager.ports import MetricsSink
from tests.conformance.metrics_sink import *  # noqa: F403
from tools.emulators.stage import PROJECT


@pytest.fixture(params=["log", "cloud monitoring"])
def sink(request: pytest.FixtureRequest) -> MetricsSink:
    if request.param == "log":
        return LogSink()
    request.getfixturevalue("stage")
    origin = Origin(project=PROJECT, location="us-central1", namespace="data_migration", task_id="0badcafe")
    return CloudMonitoring(origin, os.environ["MONITORING_EMULATOR_HOST"])
