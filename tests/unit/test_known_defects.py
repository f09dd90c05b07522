"""The eight defects of earlier tools of this kind (INVARIANTS): each has a test that fails when it comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from sts_manager import admin
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import Retryable, StoreUnavailable
from sts_manager.domain.model import (
    Counters,
    Hold,
    JobStatus,
    OperationSnapshot,
    OperationState,
    PausedBy,
    Policy,
    PrefixJob,
    Route,
    StartJob,
)
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes
from sts_manager.ports import Batch, Started, TransferJobView
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService

PREFIX = Prefix("p/")


class Scene:
    """One prefix, a service, and daemons that come and go."""

    def __init__(self, attempts_max: int = 3) -> None:
        self.clock, self.store, self.service = FakeClock(), MemoryStore(), FakeTransferService()
        self.store.load(checked_prefixes([PREFIX]), self.clock.now(), lambda _: None)
        self.attempts_max = attempts_max
        self.daemon = self.restarted()

    def restarted(self) -> Reconciler:
        policy = Policy(migration="m1", route=Route.STS_S3, attempts_max=self.attempts_max)
        self.daemon = Reconciler(self.store, {Route.STS_S3: self.service}, policy, self.clock)
        return self.daemon

    def passes(self, number: int = 1, *, seconds: float = 60) -> None:
        for _ in range(number):
            self.clock.advance(seconds)
            self.daemon.run_pass(dispatch=True)

    @property
    def operation(self) -> OperationName:
        (name,) = self.service.active()
        return name

    def row(self) -> PrefixJob:
        return self.store.rows[PREFIX]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_1_a_restart_before_the_operation_is_known_makes_no_second_job(scene: Scene) -> None:
    scene.passes()
    assert scene.row().operation_name is None  # started, and the outcome not yet recorded
    scene.restarted()
    scene.passes(2)
    assert len(scene.service.jobs) == 1
    assert [job.runs for job in scene.service.jobs.values()] == [1]
    assert scene.row().operation_name == scene.operation


def test_1_a_lost_answer_makes_no_second_job(scene: Scene) -> None:
    real = scene.service.start

    def applied_then_lost(order: StartJob) -> Started:
        real(order)
        scene.service.start = real  # type: ignore[method-assign]
        raise Retryable("the answer was lost")

    scene.service.start = applied_then_lost  # type: ignore[method-assign]
    scene.passes(3)
    assert [job.runs for job in scene.service.jobs.values()] == [1]
    assert scene.row().attempt == 1


def test_2_a_crash_between_history_and_status_doubles_no_history_row(scene: Scene) -> None:
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.IN_PROGRESS, objects_copied=1)  # news
    batches: list[Batch] = []
    real = scene.store.record

    def lost(batch: Batch) -> frozenset[Prefix]:
        batches.append(batch)
        real(batch)
        raise StoreUnavailable("the answer was lost")

    scene.store.record = lost  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        scene.passes()
    scene.store.record = real  # type: ignore[method-assign]
    assert real(batches[0]) == {PREFIX}  # the same write again is refused as a whole
    scene.passes()
    generations = [event.job.generation for event in scene.store.history(PREFIX)]
    assert generations == sorted(set(generations))


@pytest.mark.parametrize("state", [OperationState.QUEUED, OperationState.SUSPENDING, OperationState.UNKNOWN])
def test_3_no_state_of_an_operation_ends_the_daemon(scene: Scene, state: OperationState) -> None:
    scene.passes(2)
    operation = scene.operation
    scene.service.set(operation, state)
    scene.passes(3)
    assert scene.row().status is JobStatus.RUNNING
    scene.service.set(operation, OperationState.SUCCESS)
    scene.passes()
    assert scene.row().status is JobStatus.DONE


def test_4_an_aborted_operation_is_not_restarted_on_its_own(scene: Scene) -> None:
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.ABORTED)
    scene.passes(20, seconds=3600)
    assert (scene.row().status, scene.row().error_code) == (JobStatus.ERROR, "CANCELLED")
    assert len(scene.service.jobs) == 1
    assert admin.retry(scene.store, [PREFIX], scene.clock.now())[0].done
    scene.passes(2)
    assert scene.row().status is JobStatus.RUNNING
    assert scene.row().attempt == 2


def test_5_an_operation_paused_by_a_person_is_not_resumed(scene: Scene) -> None:
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.PAUSED)
    scene.passes(20, seconds=1200)
    assert scene.row().status is JobStatus.PAUSED
    assert not scene.service.resumed


def test_5_an_operation_paused_by_the_command_is_resumed_as_documented(scene: Scene) -> None:
    scene.passes(2)
    project = Project(scene)
    done = admin.pause_all(scene.store, project, scene.clock.now(), hold=None, dry_run=False, all_in_project=False)
    assert [one.done for one in done] == [True]
    assert scene.row().paused_by is PausedBy.COMMAND
    operation = scene.operation
    scene.passes(3)
    assert scene.service.resumed == [operation]
    assert scene.row().status is JobStatus.RUNNING
    # The wish is spent: a pause found now is a person's.
    scene.service.set(operation, OperationState.PAUSED)
    scene.passes(3)
    assert scene.service.resumed == [operation]


def test_5_an_operation_that_a_person_resumed_and_a_hold_paused_before_the_next_look_is_resumed(scene: Scene) -> None:
    """Seed 457 of the simulation: the row said paused, so the command did not record that this pause was its own."""
    scene.passes(2)
    operation = scene.operation
    scene.service.set(operation, OperationState.PAUSED)
    scene.passes()
    scene.service.set(operation, OperationState.IN_PROGRESS)
    hold = Hold(by="ops", at=scene.clock.now())
    admin.pause_all(scene.store, Project(scene), scene.clock.now(), hold=hold, dry_run=False, all_in_project=False)
    assert (scene.row().status, scene.row().paused_by) == (JobStatus.PAUSED, PausedBy.HOLD)
    scene.passes()
    scene.store.set_hold(None)
    scene.passes(2)
    assert scene.service.resumed == [operation]


@pytest.mark.parametrize("held", [True, False])
def test_5_what_a_person_has_just_paused_is_not_called_a_pause_of_ours(scene: Scene, held: bool) -> None:
    """The row still said running, so the command recorded the person's pause as its own, and the daemon resumed it."""
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.PAUSED)
    hold = Hold(by="ops", at=scene.clock.now()) if held else None
    admin.pause_all(scene.store, Project(scene), scene.clock.now(), hold=hold, dry_run=False, all_in_project=False)
    scene.passes(2)
    scene.store.set_hold(None)
    scene.passes(20, seconds=1200)
    assert (scene.row().status, scene.row().paused_by) == (JobStatus.PAUSED, PausedBy.NOBODY)
    assert not scene.service.resumed


def test_5_a_hold_right_after_the_daemon_has_resumed_is_still_ours(scene: Scene) -> None:
    """Seed 725 of the simulation: that the resume had succeeded was told after the hold, and its pause became a person's."""
    scene.passes(2)
    operation = scene.operation
    hold = Hold(by="ops", at=scene.clock.now())
    admin.pause_all(scene.store, Project(scene), scene.clock.now(), hold=hold, dry_run=False, all_in_project=False)
    scene.passes()
    scene.store.set_hold(None)
    scene.passes()
    assert scene.service.resumed == [operation]
    admin.pause_all(scene.store, Project(scene), scene.clock.now(), hold=hold, dry_run=False, all_in_project=False)
    scene.passes(3)
    assert scene.row().status is JobStatus.PAUSED
    scene.store.set_hold(None)
    scene.passes(2)
    assert scene.service.resumed == [operation, operation]


def test_6_a_call_can_never_be_sent_without_a_name() -> None:
    for empty in ("", "transferOperations/", "transferJobs/x"):
        with pytest.raises(ValueError, match="not the name of a transfer operation"):
            OperationName(empty)


class Project:
    """The `TransferProject` port over the fake service, with jobs of other kinds."""

    def __init__(self, scene: Scene, *others: TransferJobView) -> None:
        self._service, self._others = scene.service, others
        self.deleted: list[str] = []

    def transfer_jobs(self) -> list[TransferJobView]:
        ours = [
            TransferJobView(
                name=job.name, latest_operation=job.operation, one_time=not job.event_queue, event_queue=job.event_queue
            )
            for job in self._service.jobs.values()
        ]
        return [*ours, *self._others]

    def active_operations(self, _names: object) -> list[tuple[str, OperationSnapshot]]:
        return [("", self._service.states[name]) for name in self._service.active()]

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        return self._service.operations(names)

    def pause(self, name: OperationName) -> None:
        self._service.pause(name)

    def resume(self, name: OperationName) -> None:
        self._service.resume(name)

    def cancel(self, name: OperationName) -> None:
        self._service.set(name, OperationState.ABORTED)

    def delete_job(self, name: str) -> None:
        self.deleted.append(name)


@pytest.mark.parametrize("all_in_project", [False, True])
def test_7_clean_up_keeps_never_run_and_recurring_and_needed_jobs(scene: Scene, all_in_project: bool) -> None:
    scene.passes(2)
    operation = scene.operation
    mine = next(iter(scene.service.jobs))
    stem = "transferJobs/stsm-m1-"
    never_run = TransferJobView(name=f"{stem}never-a1", latest_operation=None, one_time=True)
    recurring = TransferJobView(name=f"{stem}recurring-a1", latest_operation=operation, one_time=False)
    project = Project(scene, never_run, recurring)

    def removed() -> list[str]:
        list(admin.remove_successful_one_time_jobs(scene.store, project, dry_run=False, all_in_project=all_in_project))
        return project.deleted

    assert removed() == []  # it runs
    scene.service.set(operation, OperationState.SUCCESS)
    assert removed() == []  # it succeeded, but the daemon has not recorded that yet
    scene.passes()
    assert removed() == [mine]


def test_7_clean_up_holds_few_operations_in_memory(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million jobs that were done, each operation's whole description would be gigabytes."""
    monkeypatch.setattr(admin, "ROWS_AT_ONCE", 2)
    scene.passes(2)
    operation = scene.operation
    scene.service.set(operation, OperationState.SUCCESS)
    scene.passes()
    stem = "transferJobs/stsm-m1-other"
    others = [TransferJobView(name=f"{stem}{one}-a1", latest_operation=operation, one_time=True) for one in range(4)]
    project, asked = Project(scene, *others), list[int]()
    known = project.operations

    def counted(names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        asked.append(len(names))
        return known(names)

    monkeypatch.setattr(project, "operations", counted)
    done = list(admin.remove_successful_one_time_jobs(scene.store, project, dry_run=False, all_in_project=True))
    assert asked == [2, 2, 1]
    assert len(project.deleted) == len(done) == 5


def test_8_retries_are_bounded(scene: Scene) -> None:
    for _ in range(30):
        scene.passes(2, seconds=7200)
        for name in scene.service.active():
            scene.service.set(name, OperationState.FAILED)
    assert scene.row().status is JobStatus.ERROR
    assert scene.row().attempt == scene.attempts_max
    assert "gave up after 3 attempts" in scene.row().error_message


def test_8_failed_objects_in_a_successful_operation_are_retried_and_bounded() -> None:
    scene = Scene(attempts_max=2)
    for _ in range(10):
        scene.passes(2, seconds=7200)
        for name in scene.service.active():
            scene.service.set(name, OperationState.SUCCESS, objects_failed=1)
    assert (scene.row().status, scene.row().attempt) == (JobStatus.ERROR, 2)


def test_8_polling_asks_only_about_what_is_live(scene: Scene) -> None:
    asked: list[int] = []
    real = scene.service.operations

    def counted(names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        asked.append(len(names))
        return real(names)

    scene.service.operations = counted  # type: ignore[method-assign]
    scene.passes(2)
    scene.service.set(scene.operation, OperationState.SUCCESS)
    scene.passes(10)
    assert max(asked) == 1
    assert scene.daemon.run_pass(dispatch=True).ended
    asked.clear()
    scene.passes(5)
    assert asked == []


def test_a_vanished_operation_is_believed_only_after_three_polls_over_ten_minutes(scene: Scene) -> None:
    scene.passes(2)
    del scene.service.states[scene.operation]
    scene.passes(4, seconds=60)
    assert (scene.row().status, scene.row().missing_count) == (JobStatus.RUNNING, 4)
    scene.passes(1, seconds=600)
    assert (scene.row().status, scene.row().error_code) == (JobStatus.WAITING, "OPERATION_NOT_FOUND")
    scene.passes(2, seconds=timedelta(hours=1).total_seconds())
    assert scene.row().attempt == 2


@pytest.mark.parametrize(("attempt", "by_manifest", "code"), [(1, False, "EMPTY"), (2, False, "EMPTY"), (2, True, "")])
def test_a_success_without_any_object_is_told_unless_it_was_of_named_objects(attempt: int, by_manifest: bool, code: str) -> None:
    """A second attempt may be of just those objects that failed, and these may be gone. Or the first one met but an error."""
    scene = Scene()
    policy = Policy(migration="m1", route=Route.STS_S3, tells_empty=True)
    scene.daemon = Reconciler(scene.store, {Route.STS_S3: scene.service}, policy, scene.clock)
    scene.passes(2)
    if attempt == 2:
        scene.service.set(scene.operation, OperationState.SUCCESS, objects_copied=5, objects_failed=1)
        scene.passes(3, seconds=3600)
        known = scene.service.states[scene.operation]
        scene.service.states[scene.operation] = replace(known, counters=Counters(), by_manifest=by_manifest)
    scene.service.set(scene.operation, OperationState.SUCCESS)
    scene.passes()
    assert (scene.row().status, scene.row().attempt, scene.row().error_code) == (JobStatus.DONE, attempt, code)
