"""What every MetricsSink must do.

A module that tests an implementation imports these and gives two fixtures: a `sink`, and `heard`, which tells the value that
came in last for a metric and its label.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sts_manager.domain.heartbeat import Tally, Vitals, points
from sts_manager.domain.model import JobStatus
from sts_manager.ports import MetricsSink

NOW = datetime.now(UTC) - timedelta(minutes=5)
Heard = Callable[[str, str], int | None]


def heartbeat(number: int) -> Vitals:
    counts = dict.fromkeys(JobStatus, number)
    return Vitals(counts=counts, live_by_route={"sts-s3": 1, "cdn": 0}, tally=Tally(bytes_copied=number << 60))


def test_heartbeats_follow_each_other(sink: MetricsSink, heard: Heard) -> None:
    for number in range(3):
        sink.publish(points(heartbeat(number), NOW - timedelta(minutes=1)), NOW + timedelta(seconds=10 * number))
        assert heard("status/waiting", "") == number
        assert heard("metrics/bytes", "copied") == number << 60
    assert (heard("metrics/live_operations", "sts-s3"), heard("metrics/live_operations", "cdn")) == (1, 0)


def test_a_daemon_that_knows_nothing_yet_may_speak(sink: MetricsSink, heard: Heard) -> None:
    sink.publish(points(Vitals(degraded=True), NOW - timedelta(minutes=1)), NOW)
    assert (heard("metrics/degraded", ""), heard("status/waiting", "")) == (1, None)


def test_a_restart_counts_anew(sink: MetricsSink, heard: Heard) -> None:
    sink.publish(points(heartbeat(5), NOW - timedelta(minutes=1)), NOW)
    sink.publish(points(heartbeat(1), NOW + timedelta(seconds=5)), NOW + timedelta(seconds=15))
    assert heard("metrics/bytes", "copied") == 1 << 60
