"""The heartbeat as a log line: the same numbers for those who publish nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from sts_manager.domain.heartbeat import MetricPoint

log = logging.getLogger(__name__)


class LogSink:
    """A `MetricsSink` that writes one line."""

    def publish(self, points: Sequence[MetricPoint], _at: datetime) -> None:
        fields = {_name(point): point.value for point in points}
        log.info("heartbeat", extra={"fields": fields})


def _name(point: MetricPoint) -> str:
    return ".".join([point.metric.name.partition("/")[2], *point.labels.values()])
