"""What the shell around the decision must keep to, beside what the simulation covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import pytest

from sts_manager import admin
from sts_manager.daemon.loop import Daemon, Ending, Intervals, Stop
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import BadInput, Retryable, StoreUnavailable
from sts_manager.domain.model import JobStatus, OperationSnapshot, OperationState, Policy, PrefixJob, Route, changed
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes
from sts_manager.ports import Batch
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService
from tests.unit.test_known_defects import PREFIX, Project, Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nothing_is_done_for_a_row_that_changed_meanwhile(scene: Scene) -> None:
    real = scene.store.startable

    def then_changed(*args: object) -> tuple[PrefixJob, ...]:
        rows = real(*args)  # type: ignore[arg-type]
        admin.retry(scene.store, [PREFIX], scene.clock.now())
        return rows

    scene.store.startable = then_changed  # type: ignore[method-assign, assignment]
    scene.clock.advance(60)
    result = scene.daemon.run_pass(dispatch=True)
    assert result.stale == {PREFIX}
    assert not scene.service.jobs
    assert scene.row().status is JobStatus.WAITING
    scene.store.startable = real  # type: ignore[method-assign]
    scene.passes()
    assert len(scene.service.jobs) == 1


def test_an_outcome_survives_a_row_that_changed_meanwhile(scene: Scene) -> None:
    scene.passes()
    real = scene.store.record

    def after_a_command(batch):  # type: ignore[no-untyped-def]
        scene.store.record = real  # type: ignore[method-assign]
        admin._mark(scene.store, scene.clock.now(), lambda job: replace(job, error_message="touched"))
        return real(batch)

    scene.store.record = after_a_command  # type: ignore[method-assign]
    scene.passes()
    assert scene.row().operation_name is None
    scene.passes()
    assert scene.row().operation_name == scene.operation
    assert [job.runs for job in scene.service.jobs.values()] == [1]


@pytest.mark.parametrize("changes", [1, 100])
def test_to_follow_no_longer_is_not_half_done_when_the_daemon_changes_the_row_in_that_moment(scene: Scene, changes: int) -> None:
    scene.passes()
    real, left = scene.store.record, changes
    scene.store._control = replace(scene.store._control, migration="m1")
    next(iter(scene.service.jobs.values())).event_queue = "arn:aws:sqs:us-east-1:123456789012:changes"

    def touched() -> None:
        job = replace(scene.row(), route=Route.STS_FOLLOW, job_name=next(iter(scene.service.jobs)))
        real(Batch(changes=(changed(scene.row(), job, scene.clock.now()),), at=scene.clock.now()))

    def after_the_daemon(batch: Batch) -> frozenset[Prefix]:
        nonlocal left
        if left > 0:
            left -= 1
            touched()
        return real(batch)

    touched()
    scene.store.record = after_the_daemon  # type: ignore[method-assign]
    project = Project(scene)
    if changes == 1:
        assert [one.done for one in admin.stop_following(scene.store, project, scene.clock.now())] == [True, True]
        assert (scene.row().status, len(project.deleted)) == (JobStatus.DONE, 1)
    else:
        with pytest.raises(BadInput, match="keeps changing the rows"):
            admin.stop_following(scene.store, project, scene.clock.now())
        assert (scene.row().status, project.deleted) == (JobStatus.RUNNING, []), "else the daemon would call it cancelled"


def test_a_poll_that_fails_concludes_nothing_and_starts_nothing(scene: Scene) -> None:
    scene.passes(2)
    before = scene.row()

    def away(_names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        raise Retryable("connection refused")

    real, scene.service.operations = scene.service.operations, away  # type: ignore[method-assign, assignment]
    for _ in range(5):
        scene.clock.advance(3600)
        result = scene.daemon.run_pass(dispatch=True)
        assert "connection refused" in result.degraded
    assert (scene.row().status, scene.row().missing_count) == (before.status, 0)
    report = scene.store.control().report
    assert report is not None
    assert "connection refused" in report.degraded
    scene.service.operations = real  # type: ignore[method-assign]
    scene.service.set(scene.operation, OperationState.SUCCESS)
    scene.passes()
    assert scene.row().status is JobStatus.DONE


def test_the_daemon_polls_on_starts_nothing_and_recovers_when_the_store_comes_back(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene.store.load(checked_prefixes(["q/"]), scene.clock.now(), lambda _: None)
    stop, turns = Stop(), 0
    real_swap, real_record = scene.store.swap_lease, scene.store.record

    def away(*_args: object) -> NoReturn:
        raise StoreUnavailable("no space is left")

    class Waits:
        """The sleep of the loop: the store goes away after the second turn and comes back after the sixth."""

        def __call__(self) -> bool:
            return stop()

        def wait(self, seconds: float) -> bool:
            nonlocal turns
            turns += 1
            scene.clock.advance(seconds)
            if turns == 2:
                scene.store.swap_lease = scene.store.record = away  # type: ignore[method-assign, assignment]
                jobs_before.append(len(scene.service.jobs))
                polls_before.append(scene.service.polls)
            if turns == 6:
                assert len(scene.service.jobs) == jobs_before[0]
                assert scene.service.polls == polls_before[0] + 4
                scene.store.swap_lease, scene.store.record = real_swap, real_record  # type: ignore[method-assign]
            if turns == 8:
                stop.set()
            return stop()

    jobs_before: list[int] = []
    polls_before: list[int] = []
    lease = StoreLease(scene.store, scene.clock, lock_path=None, lease_s=60)
    intervals = Intervals(job_s=60, metrics_s=60, sleep_s=60)
    ending = Daemon(scene.daemon, lease, scene.clock, intervals, Waits()).run()  # type: ignore[arg-type]
    assert (turns, ending) == (8, Ending.STOPPED)
    told = [record.message for record in caplog.records]
    assert told.count("degraded") == 1
    assert told.count("recovered") == 1
    assert told.count("store_unreachable_polling_on") == 4
    assert len(scene.service.jobs) == 2


def test_a_dry_run_writes_and_calls_nothing(scene: Scene) -> None:
    scene.clock.advance(60)
    result = scene.daemon.run_pass(dispatch=True, dry_run=True)
    assert len(result.plan.actions) == 1
    assert not scene.service.jobs
    assert scene.row().generation == 0
    assert scene.store.control().report is None


def test_the_report_tells_progress_without_summing_the_table(scene: Scene) -> None:
    scene.passes(2)
    scene.store.totals = None  # type: ignore[method-assign, assignment]
    for copied in (3, 7):
        scene.service.set(scene.operation, OperationState.IN_PROGRESS, objects_copied=copied, bytes_copied=copied * 10)
        scene.passes()
    report = scene.store.control().report
    assert report is not None
    assert (report.samples[-1].objects_copied, report.samples[-1].bytes_copied) == (7, 70)


@pytest.mark.parametrize("applied", [True, False])
def test_what_has_to_follow_a_success_is_begun_before_anybody_hears_of_it(scene: Scene, applied: bool) -> None:
    """Else whoever dies between the commit and the comparison leaves a prefix that is done, and never compared."""
    begun: list[tuple[Prefix, JobStatus]] = []
    policy = Policy(migration="m1", route=Route.STS_S3)

    def arriving(job: PrefixJob) -> bool:
        assert job.status is JobStatus.DONE
        begun.append((job.prefix, scene.row().status))
        return True

    scene.daemon = Reconciler(scene.store, {Route.STS_S3: scene.service}, policy, scene.clock, arriving=arriving)
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.SUCCESS)
    real = scene.store.record

    def lost(batch: Batch) -> frozenset[Prefix]:
        if applied:
            real(batch)
        raise StoreUnavailable("the answer was lost")

    scene.store.record = lost  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        scene.passes()
    scene.store.record = real  # type: ignore[method-assign]
    assert begun == [(PREFIX, JobStatus.RUNNING)]
    scene.passes()
    assert scene.row().status is JobStatus.DONE
    assert begun == [(PREFIX, JobStatus.RUNNING)] * (1 if applied else 2)


def test_what_may_not_be_called_done_yet_stays_running_with_all_of_its_transfer_job() -> None:
    store, service, clock = MemoryStore(), FakeTransferService(), FakeClock()
    prefixes = checked_prefixes(["a/", "b/"])
    store.load(prefixes, clock.now(), lambda _: None)
    early = {"b/"}
    policy = Policy(migration="m1", route=Route.STS_S3, prefixes_per_job=2)
    daemon = Reconciler(store, {Route.STS_S3: service}, policy, clock, arriving=lambda job: job.prefix not in early)
    for _ in range(2):
        daemon.run_pass(dispatch=True)
    (operation,) = service.active()
    service.set(operation, OperationState.SUCCESS, objects_copied=3)
    result = daemon.run_pass(dispatch=True)
    assert {job.status for job in store.rows.values()} == {JobStatus.RUNNING}
    assert not result.ended
    assert [note.event for note in result.plan.notes] == [], "nobody is told that they are done"
    early.clear()
    assert daemon.run_pass(dispatch=True).counts[JobStatus.DONE] == 2
    assert sum(job.counters.objects_copied for job in store.rows.values()) == 3


def test_a_dry_run_begins_nothing(scene: Scene) -> None:
    policy = Policy(migration="m1", route=Route.STS_S3)
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.SUCCESS)
    begun: list[PrefixJob] = []

    def arriving(job: PrefixJob) -> bool:
        begun.append(job)
        return True

    looks = Reconciler(scene.store, {Route.STS_S3: scene.service}, policy, scene.clock, arriving=arriving)
    assert looks.run_pass(dispatch=True, dry_run=True).plan.changes
    assert begun == []
