"""Project-wide faults, holds, throttling, the ramp and stalls, through whole passes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sts_manager import admin
from sts_manager.daemon.pass_result import PassResult
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import Denied, NameTaken, Throttled
from sts_manager.domain.model import Hold, JobStatus, Limit, OperationState, Policy, Route
from sts_manager.domain.names import checked_prefixes
from sts_manager.domain.pacing import WAIT_MAX, backoff, jitter, ramp_room
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService
from tests.unit.test_known_defects import Project


class Many:
    """Twenty prefixes under one daemon."""

    def __init__(self, **policy: object) -> None:
        self.clock, self.store, self.service = FakeClock(), MemoryStore(), FakeTransferService()
        prefixes = checked_prefixes(f"p{index:02}/" for index in range(20))
        self.store.load(prefixes, self.clock.now(), lambda _: None)
        made = Policy(migration="m1", route=Route.STS_S3, **policy)  # type: ignore[arg-type]
        self.daemon = Reconciler(self.store, {Route.STS_S3: self.service}, made, self.clock)

    def one_pass(self, *, dispatch: bool = True, seconds: float = 60) -> PassResult:
        self.clock.advance(seconds)
        return self.daemon.run_pass(dispatch=dispatch)

    def count(self, status: JobStatus) -> int:
        return self.store.counts()[status]


def test_a_refused_permission_opens_the_breaker_burns_nothing_and_mends_itself() -> None:
    many = Many()
    many.service.fail_start = Denied("the service agent lacks storage.objects.create on gs://sink")
    many.one_pass()
    many.one_pass(seconds=1)
    breaker = many.store.control().breaker
    assert breaker is not None
    assert "storage.objects.create" in breaker.message
    for _ in range(10):
        result = many.one_pass(seconds=1)
        assert not result.plan.actions
    assert "breaker open" in result.plan.blocked
    assert many.count(JobStatus.WAITING) == 20
    assert all(job.attempt == 0 for job in many.store.rows.values())
    for _ in range(5):
        many.one_pass(seconds=3600)  # probes, one at a time, all refused
    assert all(job.attempt <= 1 and job.tries <= 1 for job in many.store.rows.values())
    many.service.fail_start = None
    for _ in range(40):
        many.one_pass(seconds=3600)
        for name in many.service.active():
            many.service.set(name, OperationState.SUCCESS, objects_copied=1)
    assert many.store.control().breaker is None
    assert many.count(JobStatus.DONE) == 20
    assert {job.attempt for job in many.store.rows.values()} == {1}


def test_an_operation_that_meets_a_permission_at_once_opens_the_breaker_and_is_forgiven() -> None:
    many = Many(attempts_max=1)
    many.one_pass()
    many.one_pass(dispatch=False)
    (operation,) = many.service.active()
    many.service.deny(operation)
    many.one_pass()
    assert many.store.control().breaker is not None
    first = many.store.rows[many.service.prefix_of[operation]]
    assert (first.status, first.tries) == (JobStatus.WAITING, 0)


def test_throttling_waits_and_burns_no_attempt() -> None:
    many = Many()
    many.service.fail_start = Throttled("600 creates a minute")
    for _ in range(5):
        many.one_pass(seconds=300)
    assert many.store.control().breaker is None
    assert all(job.tries <= 1 for job in many.store.rows.values())
    many.service.fail_start = None
    for _ in range(20):
        many.one_pass(seconds=300)
        for name in many.service.active():
            many.service.set(name, OperationState.SUCCESS)
    assert {job.attempt for job in many.store.rows.values()} == {1}


def test_a_wait_that_the_service_asks_for_is_kept_and_is_no_longer_than_one_that_is_believed() -> None:
    many = Many()
    many.service.fail_start = Throttled("a day's creates are used up", after=timedelta(days=30))
    many.one_pass()
    many.one_pass()
    many.service.fail_start = None
    waits = [job.not_before - many.clock.now() for job in many.store.rows.values() if job.not_before is not None]
    assert waits == [WAIT_MAX]
    assert all(job.job_name is None for job in many.store.startable(many.clock.now(), {Limit.SERVICE: 20}, Route.STS_S3))


def test_a_job_of_our_name_with_another_spec_stops_the_prefix_and_says_so() -> None:
    many = Many()
    many.service.fail_start = NameTaken("transferJobs/x exists with another source")
    many.one_pass()
    many.service.fail_start = None
    many.one_pass()
    assert many.count(JobStatus.ERROR) == 1
    (group,) = many.store.error_groups(5)
    assert (group.code, "another source" in group.message) == ("SPEC_DIFFERS", True)


def test_the_ramp_doubles_what_runs_up_to_the_maximum() -> None:
    many = Many(running_max=10)
    running = []
    for _ in range(6):
        many.one_pass()
        running.append(len(many.service.active()))
    assert running == [1, 2, 4, 8, 10, 10]


def test_the_ramp_counts_what_ended_well_since_the_last_dispatch() -> None:
    many = Many(running_max=16)
    started = []
    for _ in range(5):
        before = len(many.service.jobs)
        many.one_pass()
        started.append(len(many.service.jobs) - before)
        for name in many.service.active():
            many.service.set(name, OperationState.SUCCESS)
        many.one_pass(dispatch=False)
    assert started == [1, 2, 4, 8, 5]


@pytest.mark.parametrize(
    ("running", "ended_well", "running_max", "room"),
    [(0, 0, 20, 1), (1, 0, 20, 1), (4, 0, 20, 4), (15, 0, 20, 5), (20, 0, 20, 0), (25, 0, 20, 0), (0, 3, 20, 6)],
)
def test_ramp_room(running: int, ended_well: int, running_max: int, room: int) -> None:
    assert ramp_room(running, ended_well, running_max) == room


def test_without_dispatch_nothing_starts() -> None:
    many = Many()
    for _ in range(3):
        assert not many.one_pass(dispatch=False).plan.actions
    assert not many.service.jobs


def test_stalled_jobs_hold_their_slots_unless_told_otherwise() -> None:
    for ignore_stalled, expected in ((False, 2), (True, 4)):
        many = Many(running_max=2, ignore_stalled=ignore_stalled)
        for _ in range(3):
            many.one_pass()
        assert len(many.service.active()) == 2
        result = many.one_pass(seconds=300)
        assert result.plan.stalled == 2
        many.one_pass(seconds=1)
        assert len(many.service.active()) == expected


def test_counters_that_move_end_a_stall() -> None:
    many = Many(running_max=1)
    many.one_pass()
    many.one_pass()
    assert many.one_pass(seconds=300).plan.stalled == 1
    (operation,) = many.service.active()
    many.service.set(operation, OperationState.IN_PROGRESS, objects_copied=1)
    assert many.one_pass(seconds=300).plan.stalled == 0


def test_a_hold_pauses_everything_and_its_end_resumes_everything() -> None:
    many = Many(running_max=4)
    for _ in range(4):
        many.one_pass()
    many.store.set_hold(Hold(by="ops", at=many.clock.now(), reason="egress bill"))
    many.one_pass()
    result = many.one_pass()
    assert many.count(JobStatus.PAUSED) == 4
    assert result.plan.blocked == "held by ops: egress bill"
    for _ in range(3):
        many.one_pass(seconds=3600)
    assert not many.service.resumed
    assert len(many.service.jobs) == 4
    project = Project(many)  # type: ignore[arg-type]
    admin.resume_all(many.store, project, many.clock.now(), dry_run=False, all_in_project=False)
    many.one_pass()
    many.one_pass()
    assert many.count(JobStatus.RUNNING) == 4


def test_a_retry_waits_longer_each_time_and_prefixes_do_not_come_back_together() -> None:
    many = Many()
    first, longest = (
        Policy(migration="m", route=Route.STS_S3).retry_delay,
        Policy(migration="m", route=Route.STS_S3).retry_delay_max,
    )
    waits = [backoff("p/", tries, first, longest) for tries in range(1, 12)]
    assert waits[0] < waits[2] < waits[4]
    assert max(waits) <= longest
    assert len({jitter(prefix) for prefix in many.store.rows}) == 20
    assert all(0.5 <= jitter(prefix) < 1 for prefix in many.store.rows)


def test_an_unknown_state_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    many = Many(running_max=1)
    many.one_pass()
    many.one_pass()
    many.service.set(many.service.active()[0], OperationState.UNKNOWN)
    for _ in range(5):
        many.one_pass()
    assert [record.message for record in caplog.records].count("unknown_operation_state") == 1
