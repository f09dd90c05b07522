"""Several prefixes in one transfer job: who shares one, what each row says, and how a culprit is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sts_manager.daemon.pass_result import PassResult
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import Permanent, Retryable, Throttled
from sts_manager.domain.model import (
    Chosen,
    Hold,
    JobStatus,
    Limit,
    OperationState,
    PausedBy,
    Policy,
    PrefixJob,
    ProjectUse,
    Route,
)
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes
from sts_manager.ports import Batch, NoQuotas
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService


class Scene:
    """A store with prefixes, a fake service, a daemon's reconciler."""

    def __init__(self, number: int, **policy: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.prefixes = checked_prefixes(f"p{index:03}/" for index in range(number))
        self.store.load(self.prefixes, self.clock.now(), lambda _: None)
        self.service = FakeTransferService()
        chosen: dict[str, Any] = {"route": Route.STS_S3, "retry_delay": timedelta(seconds=1), "running_max": 4}
        self.policy = Policy(migration="m1", **(chosen | policy))
        self.reconciler = self.restarted()

    def restarted(self) -> Reconciler:
        self.reconciler = Reconciler(self.store, {Route.STS_S3: self.service, Route.CDN: self.service}, self.policy, self.clock)
        return self.reconciler

    def run(self, number: int = 1) -> PassResult:
        for _ in range(number):
            self.clock.advance(60)
            result = self.reconciler.run_pass(dispatch=True)
        return result

    def rows(self) -> list[PrefixJob]:
        found = [self.store.job(prefix) for prefix in self.prefixes]
        return [job for job in found if job is not None]

    def statuses(self) -> Counter[str]:
        return Counter(job.status.value for job in self.rows())

    def operation(self) -> OperationName:
        (name,) = self.service.active()
        return name


@pytest.fixture
def scene() -> Scene:
    return Scene(5, prefixes_per_job=10)


def test_prefixes_share_a_job_and_end_together(scene: Scene) -> None:
    scene.run(2)
    (job,) = scene.service.jobs.values()
    assert {job.prefix, *job.others} == set(scene.prefixes)
    assert scene.statuses() == {"running": 5}
    assert {row.operation_name for row in scene.rows()} == {scene.operation()}
    assert [row.lead for row in scene.rows()] == [None, *["p000/"] * 4]
    scene.service.set(scene.operation(), OperationState.IN_PROGRESS, objects_found=7, objects_copied=3, bytes_copied=30)
    scene.run()
    assert scene.store.totals().objects_copied == 3, "counted once, however many share it"
    scene.service.set(scene.operation(), OperationState.SUCCESS, objects_found=7, objects_copied=7, bytes_copied=70)
    scene.run()
    assert scene.statuses() == {"done": 5}
    assert scene.store.totals().objects_copied == 7
    events = list(scene.store.history(Prefix("p003/")))
    assert [event.job.status for event in events] == [JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.DONE]
    assert events[-1].operation_results == "", "the operation in full stands in its lead's history"
    assert list(scene.store.history(Prefix("p000/")))[-1].operation_results


def test_jobs_are_bounded_not_prefixes_and_the_ramp_counts_jobs() -> None:
    scene = Scene(100, prefixes_per_job=10, running_max=3)
    scene.run()
    assert len(scene.service.jobs) == 1
    scene.run()
    assert len(scene.service.jobs) == 2
    scene.run(3)
    assert len(scene.service.jobs) == 3
    assert scene.statuses() == {"running": 30, "waiting": 70}


def test_only_what_is_alike_shares_a_job() -> None:
    scene = Scene(0, prefixes_per_job=10, running_max=20)
    own = {
        "a/": Chosen(),
        "b/": Chosen(destination="gs://other"),
        "c/": Chosen(source="s3://other"),
        "d/": Chosen(egress="s3"),
        "e/": Chosen(),
        "f/": Chosen(route=Route.CDN),
        "g/": Chosen(route=Route.CDN),
    }
    scene.prefixes = checked_prefixes(own)
    chosen = {Prefix(prefix): one for prefix, one in own.items()}
    scene.store.load(scene.prefixes, scene.clock.now(), lambda _: None, chosen)
    for _ in range(6):
        scene.run()
    groups = sorted(sorted((job.prefix, *job.others)) for job in scene.service.jobs.values())
    assert groups == [["a/", "e/"], ["b/"], ["c/"], ["d/"], ["f/"], ["g/"]]


def test_a_failed_job_is_split_until_the_culprit_is_alone() -> None:
    scene = Scene(64, prefixes_per_job=64, running_max=100, attempts_max=3)
    culprit = Prefix("p033/")
    sizes: list[list[int]] = []
    for _ in range(40):
        scene.run()
        if scene.service.active():
            sizes.append([1 + len(scene.service.jobs[name].others) for name in scene.service.jobs if _runs(scene, name)])
        for name, job in list(scene.service.jobs.items()):
            if _runs(scene, name):
                assert job.operation is not None
                bad = culprit in (job.prefix, *job.others)
                state = OperationState.FAILED if bad else OperationState.SUCCESS
                scene.service.set(job.operation, state, objects_found=2, objects_copied=1, objects_failed=int(bad))
    assert sizes[0] == [64]
    assert scene.statuses() == {"done": 63, "error": 1}
    row = scene.store.job(culprit)
    assert row is not None
    assert (row.status, row.attempt, row.error_code) == (JobStatus.ERROR, 3, "UNAVAILABLE")
    assert max(job.attempt for job in scene.rows()) == 3
    created = Counter(1 + len(job.others) for job in scene.service.jobs.values())
    assert created[1] >= 1
    assert created[64] == 1


def _runs(scene: Scene, name: Any) -> bool:
    operation = scene.service.jobs[name].operation
    return operation is not None and scene.service.states[operation].active


def test_a_refused_job_is_split_too() -> None:
    scene = Scene(40, prefixes_per_job=40, running_max=100)
    scene.service.fail_start = Permanent("one of the prefixes is refused")
    scene.run(2)
    assert {(row.status, row.attempt) for row in scene.rows()} == {(JobStatus.WAITING, 1)}
    scene.service.fail_start = None
    for _ in range(9):
        scene.run()
    assert {len(job.others) for job in scene.service.jobs.values()} == {0}
    assert scene.statuses() == {"running": 40}


def test_a_crash_before_the_answer_asks_again_for_the_same_job(scene: Scene) -> None:
    scene.service.fail_start = Retryable("the answer was lost")
    scene.run()
    scene.service.fail_start = None
    scene.restarted()
    scene.run(3)
    assert len(scene.service.jobs) == 1
    assert [job.runs for job in scene.service.jobs.values()] == [1]
    assert {row.operation_name for row in scene.rows()} == {scene.operation()}


def test_a_throttled_job_burns_no_attempt_of_any(scene: Scene) -> None:
    scene.service.fail_start = Throttled("slowly")
    scene.run(2)
    assert {(row.status, row.attempt, row.lead) for row in scene.rows()} == {(JobStatus.WAITING, 0, None)}
    scene.service.fail_start = None
    scene.run(3)
    assert {row.attempt for row in scene.rows()} == {1}


def test_a_hold_pauses_a_shared_operation_once_and_a_resume_lets_all_go(scene: Scene) -> None:
    scene.run(2)
    scene.store.set_hold(Hold(by="me", at=scene.clock.now()))
    scene.run(2)
    assert len(scene.service.paused) == 1
    assert scene.statuses() == {"paused": 5}
    scene.store.set_hold(None)
    scene.run(3)
    assert len(scene.service.resumed) == 1
    assert scene.statuses() == {"running": 5}
    assert {row.paused_by for row in scene.rows()} == {PausedBy.NOBODY}, "the wish is spent for all of them"
    scene.service.set(scene.operation(), OperationState.PAUSED)
    scene.run(3)
    assert len(scene.service.resumed) == 1, "what a person paused stays paused"
    assert scene.statuses() == {"paused": 5}


def test_a_spent_wish_is_spent_in_every_row_at_once() -> None:
    """Paused again by a person in the very moment after: no row may take that for our own pause."""
    scene = Scene(3, prefixes_per_job=10)
    scene.run(2)
    scene.store.set_hold(Hold(by="me", at=scene.clock.now()))
    scene.run(2)
    scene.store.set_hold(None)
    scene.run()
    scene.service.set(scene.operation(), OperationState.PAUSED)
    scene.run(3)
    assert {row.paused_by for row in scene.rows()} == {PausedBy.NOBODY}
    assert len(scene.service.resumed) == 1


@pytest.mark.parametrize("late", ["p001/", "p000/"])
def test_a_row_that_changed_meanwhile_stays_out_of_the_job(late: str) -> None:
    scene = Scene(3, prefixes_per_job=10)
    real = scene.store.record

    def record(batch: Batch) -> frozenset[Prefix]:
        """The first write finds one row changed by somebody else."""
        if not batch.changes:
            return real(batch)
        scene.store.record = real  # type: ignore[method-assign]
        old = [change for change in batch.changes if change.before.prefix == late]
        stale = [replace(c, before=replace(c.before, generation=7), after=replace(c.after, generation=8)) for c in old]
        return real(replace(batch, changes=(*(c for c in batch.changes if c not in old), *stale)))

    scene.store.record = record  # type: ignore[method-assign]
    scene.run()
    (job,) = scene.service.jobs.values()
    assert {job.prefix, *job.others} == set(scene.prefixes) - {late}
    scene.run(4)
    assert scene.statuses() == {"running": 3}
    assert len(scene.service.jobs) == 2
    for name in scene.service.active():
        scene.service.set(name, OperationState.IN_PROGRESS, objects_found=5, objects_copied=5)
    scene.run()
    assert scene.store.totals().objects_copied == 10, "each job is counted once, whoever leads it now"
    assert min(row.prefix for row in scene.rows() if row.prefix != late) in {
        r.prefix for r in scene.rows() if r.counters.objects_copied
    }
    scene.store.set_hold(Hold(by="me", at=scene.clock.now()))
    scene.run(2)
    assert scene.statuses() == {"paused": 3}
    for name in list(scene.service.states):
        scene.service.set(name, OperationState.SUCCESS)
    scene.run()
    assert scene.statuses() == {"done": 3}
    assert {row.attempt for row in scene.rows()} == {1}


def test_members_never_count_as_stalled_but_their_lead_does(scene: Scene) -> None:
    result = scene.run(20)
    assert result.plan.stalled == 1


def test_projects_share_the_work_evenly() -> None:
    scene = Scene(8, projects=("one-project", "two-project"), running_max=8)
    scene.run(5)
    assert Counter(job.project for job in scene.service.jobs.values()) == {"one-project": 4, "two-project": 4}
    assert Counter(row.project for row in scene.rows()) == {"one-project": 4, "two-project": 4}


def test_a_project_that_is_full_or_refuses_gets_no_more() -> None:
    scene = Scene(6, projects=("one-project", "two-project", "three-project"), running_max=9)
    use = {"one-project": ProjectUse(full=True), "two-project": ProjectUse(refused=True), "three-project": ProjectUse(creates=9)}
    scene.reconciler = Reconciler(scene.store, {Route.STS_S3: scene.service}, scene.policy, scene.clock, quotas=Known(use))
    scene.run(5)
    assert Counter(job.project for job in scene.service.jobs.values()) == {"three-project": 6}
    use["three-project"] = ProjectUse(full=True)
    scene.store.load(checked_prefixes(["q/"]), scene.clock.now(), lambda _: None)
    scene.run(3)
    assert Counter(job.project for job in scene.service.jobs.values())["two-project"] == 1, "rather than none"
    use["two-project"] = ProjectUse(full=True)
    scene.store.load(checked_prefixes(["r/"]), scene.clock.now(), lambda _: None)
    scene.run(3)
    row = scene.store.job(Prefix("r/"))
    assert row is not None
    assert (row.status, row.attempt) == (JobStatus.WAITING, 0)


class Known(NoQuotas):
    """Says what the test knows."""

    def __init__(self, use: dict[str, ProjectUse]) -> None:
        self._use = use

    def projects(self) -> dict[str, ProjectUse]:
        return self._use


def test_as_many_rows_are_asked_for_as_may_start() -> None:
    policy = Policy(migration="m", route=Route.STS_S3, running_max=4, prefixes_per_job=100, cdn_running_max=7)
    assert (policy.most_rows(Limit.SERVICE), policy.most_rows(Limit.POOL)) == (400, 7)
    with pytest.raises(ValueError, match="1 to 1000"):
        Policy(migration="m", route=Route.STS_S3, prefixes_per_job=1001)
