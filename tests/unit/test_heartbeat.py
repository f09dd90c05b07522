"""What a heartbeat says, and that it neither hurries nor harms the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from sts_manager.daemon.heartbeat import Pulse
from sts_manager.domain.errors import OutOfOrder, Permanent, Retryable
from sts_manager.domain.heartbeat import METRICS, MetricKind, MetricPoint, Tally, Vitals, points, tally
from sts_manager.domain.model import Counters, JobStatus, PrefixJob, changed
from sts_manager.domain.names import JobName, Prefix
from sts_manager.metrics.alerts import Silence, alerts
from tests.fakes.clock import FakeClock

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


class FakeSink:
    def __init__(self) -> None:
        self.heard: list[tuple[datetime, tuple[MetricPoint, ...]]] = []
        self.fault: Exception | None = None

    def publish(self, points: Sequence[MetricPoint], at: datetime) -> None:
        if self.fault is not None:
            raise self.fault
        self.heard.append((at, tuple(points)))

    def value(self, name: str, label: str = "") -> int:
        (found,) = [
            point.value for point in self.heard[-1][1] if point.metric.name == name and [*point.labels.values()] in ([], [label])
        ]
        return found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


def test_the_older_metrics_keep_their_names_and_zeros_are_told() -> None:
    counts = dict.fromkeys(JobStatus, 0) | {JobStatus.WAITING: 3}
    found = {point.metric.type: point.value for point in points(Vitals(counts=counts, stalled=2), NOW)}
    for status in ("waiting", "running", "paused", "done", "error"):
        assert found[f"custom.googleapis.com/sts_job_manager/status/{status}"] == (3 if status == "waiting" else 0)
    assert found["custom.googleapis.com/sts_job_manager/metrics/stalled"] == 2


def test_before_the_first_pass_nothing_is_claimed_of_the_table() -> None:
    names = {point.metric.name for point in points(Vitals(degraded=True), NOW)}
    assert not any(name.startswith("status/") for name in names)
    assert "metrics/degraded" in names


def test_every_series_is_of_a_described_metric_with_its_labels() -> None:
    vitals = Vitals(counts=dict.fromkeys(JobStatus, 0), live_by_route={"sts-s3": 1})
    made = points(vitals, NOW)
    assert {point.metric for point in made} == set(METRICS)
    assert all(set(point.labels) == set(point.metric.labels) for point in made)
    assert all((point.since is not None) == (point.metric.kind is MetricKind.CUMULATIVE) for point in made)


def test_the_tally_counts_progress_retries_and_errors_once() -> None:
    name = JobName("transferJobs/x")
    first = PrefixJob(prefix=Prefix("a/"), status=JobStatus.RUNNING, job_name=name, attempt=1)
    further = replace(first, counters=Counters(objects_copied=3, bytes_copied=30, objects_failed=1, bytes_failed=5))
    again = replace(first, attempt=2, counters=Counters(objects_copied=1))
    failed = replace(first, status=JobStatus.ERROR)
    waiting = PrefixJob(prefix=Prefix("a/"))
    assert tally([changed(waiting, first, NOW)]) == Tally()
    assert tally([changed(first, further, NOW)]) == Tally(objects_copied=3, bytes_copied=30, objects_failed=1, bytes_failed=5)
    assert tally([changed(further, first, NOW)]) == Tally(), "a correction downwards takes nothing back"
    assert tally([changed(further, again, NOW)]) == Tally(retries=1), "a new attempt begins at zero"
    assert tally([changed(first, failed, NOW), changed(failed, failed, NOW)]) == Tally(errors=1)


def test_points_are_never_closer_than_the_service_takes_them(clock: FakeClock, sink: FakeSink) -> None:
    pulse = Pulse(sink, clock)
    published = []
    for _ in range(40):
        published.append(pulse.beat(Vitals()))
        clock.advance(1)
    times = [at for at, _ in sink.heard]
    assert len(times) == sum(published) == 4
    assert all(later - earlier >= timedelta(seconds=10) for earlier, later in pairwise(times))


@pytest.mark.parametrize("fault", [Retryable("away"), Permanent("no"), OutOfOrder("older")])
def test_a_sink_that_fails_stops_nothing_and_is_told_once(
    clock: FakeClock, sink: FakeSink, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    pulse = Pulse(sink, clock)
    sink.fault = fault
    with caplog.at_level("INFO"):
        for _ in range(5):
            assert not pulse.beat(Vitals())
            clock.advance(60)
        sink.fault = None
        assert pulse.beat(Vitals())
    assert [record.message for record in caplog.records] == ["heartbeat_failed", "heartbeat_recovered"]


def test_a_clock_set_back_publishes_nothing_older(clock: FakeClock, sink: FakeSink) -> None:
    pulse = Pulse(sink, clock)
    assert pulse.beat(Vitals())
    clock.advance(60)
    clock.jump(-3600)
    assert not pulse.beat(Vitals())
    clock.advance(3600)
    clock.jump(300)
    assert pulse.beat(Vitals())
    assert sink.heard[0][0] < sink.heard[1][0]


def test_a_clock_set_back_before_the_first_heartbeat_is_waited_for(clock: FakeClock, sink: FakeSink) -> None:
    pulse = Pulse(sink, clock)
    clock.jump(-60)
    assert not pulse.beat(Vitals()), "a count cannot end before it began"
    clock.advance(61)
    assert pulse.beat(Vitals())


def test_points_older_than_another_daemons_begin_the_count_anew(clock: FakeClock, sink: FakeSink) -> None:
    pulse = Pulse(sink, clock)
    began = clock.now()
    clock.advance(60)
    sink.fault = OutOfOrder("older than the last point")
    assert not pulse.beat(Vitals(tally=Tally(retries=5)))
    sink.fault = None
    clock.advance(60)
    assert pulse.beat(Vitals(tally=Tally(retries=7)))
    assert sink.value("metrics/retries") == 2
    assert all(point.since > began for point in sink.heard[-1][1] if point.since is not None)


class StrictSink(FakeSink):
    """Takes a point every 5 s, as Cloud Monitoring does."""

    def publish(self, points: Sequence[MetricPoint], at: datetime) -> None:
        if self.heard and at - self.heard[-1][0] < timedelta(seconds=5):
            raise Permanent("written more frequently than the maximum sampling period")
        super().publish(points, at)


DONE = Vitals(counts=dict.fromkeys(JobStatus, 0) | {JobStatus.DONE: 7})
ALMOST = Vitals(counts=dict.fromkeys(JobStatus, 0) | {JobStatus.DONE: 6, JobStatus.RUNNING: 1})


def test_the_last_heartbeat_waits_out_what_the_service_takes(clock: FakeClock) -> None:
    sink = StrictSink()
    pulse = Pulse(sink, clock, sleep=clock.advance)
    assert pulse.beat(ALMOST)
    clock.advance(1)
    assert not pulse.beat(DONE), "the regular ones are further apart"
    assert pulse.beat_last(DONE, within_s=30)
    assert (sink.value("status/done"), sink.value("status/running"), sink.value("metrics/unfinished")) == (7, 0, 0)
    assert clock.monotonic() == 6, "and no longer than it must"


def test_final_numbers_that_are_out_already_are_not_waited_for(clock: FakeClock) -> None:
    sink = StrictSink()
    pulse = Pulse(sink, clock, sleep=clock.advance)
    assert pulse.beat(DONE)
    clock.advance(1)
    assert pulse.beat_last(replace(DONE, pass_age_s=1.0), within_s=0)
    assert (len(sink.heard), clock.monotonic()) == (1, 1)


def test_the_first_heartbeat_may_be_the_last(clock: FakeClock) -> None:
    sink = StrictSink()
    assert Pulse(sink, clock, sleep=clock.advance).beat_last(DONE, within_s=0)
    assert (sink.value("status/done"), clock.monotonic()) == (7, 0)


@pytest.mark.parametrize("fault", [Retryable("away"), Permanent("more frequently"), OutOfOrder("older")])
def test_a_last_heartbeat_that_is_refused_is_tried_again_in_time(clock: FakeClock, fault: Exception) -> None:
    sink = StrictSink()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)
        sink.fault = fault if len(slept) < 3 else None

    pulse = Pulse(sink, clock, sleep=sleep)
    assert pulse.beat(ALMOST)
    assert pulse.beat_last(DONE, within_s=20)
    assert (len(slept), sink.value("status/done")) == (3, 7)


def test_a_last_heartbeat_for_which_no_time_is_left_is_told(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    sink = StrictSink()
    pulse = Pulse(sink, clock, sleep=clock.advance)
    assert pulse.beat(ALMOST)
    assert not pulse.beat_last(DONE, within_s=5)
    assert (len(sink.heard), clock.monotonic()) == (1, 0), "nothing is waited for in vain"
    sink.fault = Retryable("away")
    assert not pulse.beat_last(DONE, within_s=20)
    assert 6 <= clock.monotonic() <= 20
    clock.jump(-3600)
    sink.fault = None
    assert not pulse.beat_last(DONE, within_s=20)
    assert [record.message for record in caplog.records].count("last_heartbeat_missing") == 3


def test_alerts_wait_longer_than_the_daemon_may_be_silent() -> None:
    quick = alerts(sleep_s=60, job_interval_s=1200, metrics_interval_s=300)
    slow = alerts(sleep_s=301, job_interval_s=7200, metrics_interval_s=3000)
    assert [one.key for one in quick] == [
        "daemon-silent",
        "stalled",
        "errors-rising",
        "nothing-running",
        "breaker-open",
        "degraded",
    ]
    runbook = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert all(f"\n### {one.key}\n" in runbook for one in quick), "whoever is woken finds a section to read"
    assert slow[0].conditions[0].lasting == timedelta(minutes=16)
    silence = quick[0].conditions[0]
    assert isinstance(silence, Silence)
    stem, task = "custom_googleapis_com:sts_job_manager_metrics_", '{monitored_resource="generic_task"}'
    told, heard = f"last_over_time({stem}unfinished{task}[7d])", f"count_over_time({stem}oldest_pass_age{task}[5m])"
    assert silence.query == f"({told} > 0) unless {heard}"
    assert slow[3].conditions[0].lasting == timedelta(hours=4)
