"""What every MetricsSink must do. A module that tests an implementation imports these and gives a `sink` fixture."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sts_manager.domain.heartbeat import Tally, Vitals, points
from sts_manager.domain.model import JobStatus
from sts_manager.ports import MetricsSink

NOW = datetime.now(UTC) - timedelta(minutes=5)


def heartbeat(number: int) -> Vitals:
    counts = dict.fromkeys(JobStatus, number)
    return Vitals(counts=counts, live_by_route={"sts-s3": 1, "cdn": 0}, tally=Tally(bytes_copied=number << 60))


def test_heartbeats_follow_each_other(sink: MetricsSink) -> None:
    for number in range(3):
        sink.publish(points(heartbeat(number), NOW - timedelta(minutes=1)), NOW + timedelta(seconds=10 * number))


def test_a_daemon_that_knows_nothing_yet_may_speak(sink: MetricsSink) -> None:
    sink.publish(points(Vitals(degraded=True), NOW - timedelta(minutes=1)), NOW)


def test_a_restart_counts_anew(sink: MetricsSink) -> None:
    sink.publish(points(heartbeat(5), NOW - timedelta(minutes=1)), NOW)
    sink.publish(points(heartbeat(1), NOW + timedelta(seconds=5)), NOW + timedelta(seconds=15))
