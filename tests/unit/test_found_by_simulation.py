"""What the simulation found, each as small as it can be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import ROOT, CopyTask, Item, ListReport
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.decide import decide, starts
from sts_manager.domain.errors import Denied, LeaseLost, Retryable, StsManagerError, Throttled
from sts_manager.domain.model import (
    Counters,
    FailedObject,
    JobStarted,
    JobStatus,
    Observed,
    OperationSnapshot,
    OperationState,
    PausedBy,
    Policy,
    PrefixJob,
    Refusal,
    ResumeOperation,
    Route,
    StartRefused,
)
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes, job_name
from sts_manager.routes.pool.controller import PoolKeeper, Told
from sts_manager.routes.pool.leading import take_over
from sts_manager.routes.pool.ledger import Folded, PoolLedger
from sts_manager.routes.sts.route import StsRoute
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import START, FakeClock
from tests.fakes.memory_queue import memory_queues
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService
from tests.simulation.chance import Chance
from tests.simulation.daemons import SETTINGS, client_of
from tests.simulation.timeline import HostClock, Process, Timeline
from tests.simulation.transfers import PROJECT, Transfers
from tests.unit.test_pool_ledger import JOB, NOW, SPEC, begun, copied, listed, state

PREFIX = Prefix("p/")
POLICY = Policy(migration="0badcafe", route=Route.STS_S3)
SHARING = replace(POLICY, prefixes_per_job=10)
OPERATION = OperationName("transferOperations/1")


def test_a_wait_that_a_fast_clock_wrote_holds_nothing_up_for_years() -> None:
    waiting = PrefixJob(prefix=PREFIX, not_before=START + timedelta(days=5 * 365))
    assert starts(decide(Observed(startable=(waiting,)), POLICY, START))
    soon = replace(waiting, not_before=START + timedelta(hours=24))
    assert not starts(decide(Observed(startable=(soon,)), POLICY, START))


def intent(**more: Any) -> PrefixJob:
    return PrefixJob(prefix=PREFIX, status=JobStatus.RUNNING, job_name=job_name("0badcafe", PREFIX, 3), attempt=3, **more)


@pytest.mark.parametrize("refusal", [Refusal.THROTTLED, Refusal.DENIED])
@pytest.mark.parametrize(
    ("made", "policy", "attempt"),
    [
        (True, SHARING, 3),  # it may go with others next time, and an attempt has one job
        (True, POLICY, 2),  # next time the same name is adopted
        (False, SHARING, 2),
    ],
)
def test_the_number_of_an_attempt_whose_job_exists_is_not_given_to_another_job(
    refusal: Refusal, made: bool, policy: Policy, attempt: int
) -> None:
    refused = StartRefused(prefix=PREFIX, attempt=3, refusal=refusal, code="X", message="no", made=made)
    plan = decide(Observed(live=(intent(),), outcomes=(refused,)), policy, START)
    after = plan.changes[0].after
    assert (after.status, after.attempt, after.tries) == (JobStatus.WAITING, attempt, 2)


@pytest.mark.parametrize(("exists", "attempt"), [(True, 3), (False, 2)])
def test_nor_when_it_was_looked_for_and_found_never_to_have_run(exists: bool, attempt: int) -> None:
    found = JobStarted(prefix=PREFIX, attempt=3, operation_name=None, adopted=exists)
    plan = decide(Observed(live=(intent(),), outcomes=(found,)), SHARING, START)
    assert (plan.changes[0].after.attempt, plan.changes[0].after.tries) == (attempt, 2)


@pytest.mark.parametrize("error", [Throttled("quota"), Denied("permission")])
def test_a_refusal_of_what_was_asked_before_says_nothing_of_what_was_done_then(error: StsManagerError) -> None:
    """The first call may have begun the transfer; that the second one was refused is no proof that it did not."""
    store, service, clock = MemoryStore(), FakeTransferService(), FakeClock()
    store.load(checked_prefixes([PREFIX]), clock.now(), lambda _: None)
    reconciler = Reconciler(store, {Route.STS_S3: service}, SHARING, clock)
    for failure in (Retryable("no answer"), error, error):
        service.fail_start = failure
        reconciler.run_pass(dispatch=True)
        clock.advance(120)
    reconciler.settle_outcomes()
    row = store.rows[PREFIX]
    assert (row.status, row.attempt, row.operation_name) == (JobStatus.RUNNING, 1, None), "the intent stays"
    service.fail_start = None
    for _ in range(40):
        clock.advance(120)
        reconciler.run_pass(dispatch=True)
    assert store.rows[PREFIX].operation_name is not None
    assert [job.runs for job in service.jobs.values()] == [1]


def seen(state: OperationState, copied: int) -> OperationSnapshot:
    return OperationSnapshot(
        name=OPERATION, state=state, raw_state=state.value, counters=Counters(objects_copied=copied, objects_found=copied)
    )


@pytest.mark.parametrize(("copied", "by"), [(4, PausedBy.COMMAND), (5, PausedBy.COMMAND), (6, PausedBy.NOBODY)])
def test_an_old_answer_does_not_make_a_pause_of_ours_a_persons(copied: int, by: PausedBy) -> None:
    """The service said PAUSED, and then, two minutes late, IN_PROGRESS: only what has moved since was resumed by somebody."""
    paused = replace(
        intent(operation_name=OPERATION, paused_by=PausedBy.COMMAND, counters=Counters(objects_copied=5, objects_found=5)),
        status=JobStatus.PAUSED,
    )
    late = Observed(live=(paused,), operations={OPERATION: seen(OperationState.IN_PROGRESS, copied)})
    (change,) = decide(late, replace(POLICY, dispatch=False), START).changes
    assert change.after.paused_by is by
    again = Observed(live=(change.after,), operations={OPERATION: seen(OperationState.PAUSED, 5)})
    resumed = [one for one in decide(again, POLICY, START).actions if isinstance(one, ResumeOperation)]
    assert bool(resumed) == (by is PausedBy.COMMAND)


# A daemon that was frozen


class Frozen:
    """A daemon's lease, and what else it has; the process freezes for as long as it is told."""

    def __init__(self) -> None:
        self.store, self.clock, self.service = MemoryStore(), FakeClock(), FakeTransferService()
        self.store.load(checked_prefixes([PREFIX]), self.clock.now(), lambda _: None)
        self.lease = StoreLease(self.store, self.clock, lock_path=None, lease_s=60)
        assert self.lease.acquire() is None


def test_a_lease_is_fresh_until_somebody_may_have_taken_it_over() -> None:
    scene = Frozen()

    def fresh() -> bool:
        return scene.lease.fresh

    scene.clock.advance(59)
    assert fresh()
    scene.clock.advance(1)
    assert not fresh()
    scene.lease.renew()
    assert fresh()
    scene.clock.jump(3600)  # a machine that was suspended: only its wall clock tells
    assert not fresh()
    scene.lease.renew()
    scene.clock.jump(-7200)
    assert fresh()
    scene.lease.release()
    assert not fresh()


def test_who_was_frozen_between_the_commit_and_the_calls_makes_none() -> None:
    scene = Frozen()
    record = scene.store.record

    def freeze(batch: Any) -> Any:
        stale = record(batch)
        scene.clock.advance(600)
        return stale

    scene.store.record = freeze  # type: ignore[method-assign]
    reconciler = Reconciler(
        scene.store, {Route.STS_S3: scene.service}, POLICY, scene.clock, leading=lambda: scene.lease.fresh, fence=lambda: 1
    )
    reconciler.run_pass(dispatch=True)
    assert scene.store.rows[PREFIX].status is JobStatus.RUNNING
    assert not scene.service.jobs, "whoever leads now finds the intent, and carries it out"


def test_who_was_frozen_between_making_a_job_and_running_it_does_not_run_it() -> None:
    timeline = Timeline()
    fresh = [True, False]
    transfers = Transfers(timeline, Chance(random.Random(1), set), lambda _job, _caller: None)
    process = Process(timeline, "frozen", HostClock(timeline))
    client = client_of(transfers, process, leading=lambda: fresh.pop(0))
    order = starts(decide(Observed(startable=(PrefixJob(prefix=PREFIX),)), POLICY, START))[0]
    with pytest.raises(Retryable, match="another daemon may lead"):
        StsRoute({PROJECT: client}, SETTINGS).start(order)
    assert list(transfers.service.jobs) == [order.job_name]
    assert not transfers.operations


# Daemons on two hosts, each with a ledger of its own


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[PoolLedger]:
    with closing(PoolLedger(tmp_path / "pool.db")) as made:
        yield made


@pytest.mark.parametrize(("last", "ended"), [("own", False), ("", False), ("another", True)])
def test_jobs_of_a_ledger_end_where_another_one_was_told_meanwhile(ledger: PoolLedger, last: str, ended: bool) -> None:
    begun(ledger)
    ledger.lead(ledger.id if last == "own" else last, NOW)
    job = ledger.job(JOB)
    assert job is not None
    assert (state(ledger), job.error_code) == (
        (OperationState.FAILED, "LED_ELSEWHERE") if ended else (OperationState.IN_PROGRESS, "")
    )


def test_who_led_without_a_ledger_was_told_nothing(ledger: PoolLedger) -> None:
    """A start that could not write its ledger, or had no prefix of the pool: nobody else has had reports of ours (M4)."""
    scene = Frozen()
    take_over(ledger, scene.store, scene.lease.fence, NOW)
    begun(ledger)
    for _ in range(3):
        scene.lease.release()
        assert scene.lease.acquire() is None
    take_over(ledger, scene.store, scene.lease.fence, NOW)
    assert state(ledger) is OperationState.IN_PROGRESS


def test_the_ledger_that_is_told_is_known_by_its_id(ledger: PoolLedger, tmp_path: Path) -> None:
    scene = Frozen()
    with closing(PoolLedger(tmp_path / "other.db")) as other, closing(PoolLedger(tmp_path / "pool.db")) as again:
        assert again.id == ledger.id != other.id
        take_over(ledger, scene.store, scene.lease.fence, NOW)
        begun(ledger)
        take_over(other, scene.store, scene.lease.fence, NOW)
        assert scene.store.control().ledger == other.id
        take_over(again, scene.store, scene.lease.fence, NOW)
        assert (state(ledger), scene.store.control().ledger) == (OperationState.FAILED, ledger.id)


def test_who_leads_no_more_does_not_write_itself_down(ledger: PoolLedger) -> None:
    scene = Frozen()
    fence = scene.lease.fence
    scene.lease.release()
    assert scene.lease.acquire() is None
    with pytest.raises(LeaseLost):
        take_over(ledger, scene.store, fence, NOW)


def test_a_report_that_this_ledger_does_not_know_is_left_to_whose_it_is(ledger: PoolLedger, tmp_path: Path) -> None:
    """A daemon that was frozen does not know yet that it leads no more: what it takes out of the queue must come again."""
    clock = FakeClock()
    queues = memory_queues(lease_s=0.0)
    report = encoded(ListReport(job=SPEC.job, shard=ROOT, run="r", listed=0, listed_bytes=0, tasks=0))
    queues.reports.publish([report])
    with closing(PoolLedger(tmp_path / "frozen.db")) as other:
        PoolKeeper(queues, other, clock).fold_reports()
    begun(ledger)
    PoolKeeper(queues, ledger, clock).fold_reports()
    assert state(ledger) is OperationState.SUCCESS


def test_what_is_known_is_acknowledged_beside_what_is_not(ledger: PoolLedger) -> None:
    begun(ledger)
    folded = ledger.fold([listed("r", 1, 2), copied("r", 0, job="transferJobs/other")], NOW)
    assert folded == Folded(unknown=frozenset({1}))


def test_reports_that_nobody_waits_for_end_among_the_dead_and_are_told_once(
    ledger: PoolLedger, caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger that was lost leaves as many of them as it had tasks. They are left, as another daemon may wait for them."""
    queues = memory_queues(lease_s=0.0, deliveries_max=2)
    queues.reports.publish([encoded(copied("r", index)) for index in range(3)])
    keeper = PoolKeeper(queues, ledger, FakeClock())
    for _ in range(3):
        keeper.fold_reports()
    for _ in range(3):
        assert not keeper.mourn()
    assert [record.getMessage() for record in caplog.records] == ["dead_letter_of_unknown_job"] * 3
    assert ledger.job(JOB) is None
    begun(ledger)
    ledger.fold([listed("r", 3, 6)], NOW)
    assert keeper.mourn(), "whose they are takes them"
    assert state(ledger) is OperationState.SUCCESS
    assert not keeper.mourn()


def test_the_dead_tasks_of_another_daemons_job_are_left_to_it(ledger: PoolLedger, tmp_path: Path) -> None:
    """Acknowledged, they were lost, and its prefix never ended (C9)."""
    queues = memory_queues(lease_s=0.0)
    with closing(PoolLedger(tmp_path / "other.db")) as other:
        spec = other.address(SPEC)
        begun(other, spec)
        other.fold([listed("r", 1, 1)], NOW)
        task = CopyTask(spec=spec, shard=ROOT, run="r", sequence=0, items=(Item("p/a", 1, "e"),))
        queues.copies.publish([encoded(task)])
        queues.copies.bury(queues.copies.lease(1)[0], "whoever took it died")
        assert not PoolKeeper(queues, ledger, FakeClock()).mourn()
        begun(ledger)  # the same job, under the same name: an intent that both of them carried out
        assert not PoolKeeper(queues, ledger, FakeClock()).mourn()
        assert PoolKeeper(queues, other, FakeClock()).mourn()
        assert (state(other), state(ledger)) == (OperationState.FAILED, OperationState.IN_PROGRESS)
        assert [one.error for one in other.failures(JOB, 5)] == ["poison"]


def test_reports_go_to_the_ledger_that_they_name_though_another_one_knows_the_job(ledger: PoolLedger, tmp_path: Path) -> None:
    queues = memory_queues(lease_s=0.0)
    with closing(PoolLedger(tmp_path / "other.db")) as other:
        for one in (ledger, other):
            begun(one, one.address(SPEC))
        spec = other.address(SPEC)
        queues.reports.publish([encoded(replace(listed("r", 0, 0), **spec.mark))])
        assert not PoolKeeper(queues, ledger, FakeClock()).fold_reports()
        assert state(ledger) is OperationState.IN_PROGRESS
        assert PoolKeeper(queues, other, FakeClock()).fold_reports()
        assert state(other) is OperationState.SUCCESS


def test_who_leads_no_more_takes_no_reports_and_no_dead_letters_and_posts_nothing(ledger: PoolLedger) -> None:
    queues = memory_queues(lease_s=0.0)
    begun(ledger)
    report = encoded(listed("r", 0, 0))
    queues.reports.publish([report])
    queues.copies.publish([report])
    queues.copies.bury(queues.copies.lease(1)[0], "why")
    leads = [False]
    keeper = PoolKeeper(queues, ledger, FakeClock(), leading=lambda: leads[0], epoch=lambda: 1)
    ledger.set_paused(JOB, paused=True)
    for turn in (keeper.steer, keeper.fold_reports, keeper.mourn, keeper.sweep):
        assert not turn()
    assert queues.board.read() == {}
    assert [one.attempt for one in queues.reports.lease(5)] == [1], "nobody took it"
    assert [one.attempt for one in queues.dead.lease(5)] == [1]
    leads[0] = True
    keeper.steer()
    assert queues.board.read() == {JOB: "paused"}


def test_who_was_frozen_with_reports_in_its_hand_leaves_them(ledger: PoolLedger) -> None:
    queues = memory_queues(lease_s=0.0)
    begun(ledger)
    queues.reports.publish([encoded(listed("r", 0, 0))])
    looks = iter([True, False])
    keeper = PoolKeeper(queues, ledger, FakeClock(), leading=lambda: next(looks))
    assert not keeper.fold_reports()
    assert state(ledger) is OperationState.IN_PROGRESS
    assert len(queues.reports.lease(5)) == 1


def test_a_report_of_a_task_that_nobody_here_published_counts_nothing(
    ledger: PoolLedger, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's message names our job, and another bucket (M13)."""
    queues = memory_queues(lease_s=0.0)
    spec = ledger.address(SPEC)
    begun(ledger, spec)
    foreign = replace(spec, sink_bucket="another")
    queues.reports.publish([encoded(replace(listed("r", 0, 0), **foreign.mark))])
    keeper = PoolKeeper(queues, ledger, FakeClock())
    keeper.fold_reports()
    assert state(ledger) is OperationState.IN_PROGRESS
    assert "report_of_another_spec" in caplog.text
    task = CopyTask(spec=foreign, shard=ROOT, run="r", sequence=0, items=(Item("p/a", 1, "e"),))
    queues.copies.publish([encoded(task)])
    queues.copies.bury(queues.copies.lease(1)[0], "why")
    assert keeper.mourn(), "it names this ledger, and is kept for a person to look at"
    ledger.fold([replace(listed("r", 1, 2), **spec.mark), replace(copied("r", 0), **spec.mark)], NOW)
    assert state(ledger) is OperationState.SUCCESS


def told_of(*failed: str) -> tuple[FailedObject, ...]:
    return tuple(
        FailedObject(prefix=PREFIX, key=key, size=1, etag="e", verdict="failed", error="forbidden", details="403", job_name=JOB)
        for key in failed
    )


def stored(attempt: int) -> MemoryStore:
    """A store with the prefix at an attempt, and failures of an earlier one."""
    store = MemoryStore()
    store.load([PREFIX], START, lambda _: None)
    store.rows[PREFIX] = replace(store.rows[PREFIX], job_name=job_name("0badcafe", PREFIX, attempt), attempt=attempt)
    store.failed = list(told_of("p/old"))
    return store


def test_what_failed_in_an_attempt_is_not_told_when_the_prefix_has_gone_on(ledger: PoolLedger) -> None:
    """Its daemon had lost the lease before it could: the next attempt was done, and its objects were called failed again."""
    store = stored(4)
    third = replace(SPEC, job=str(job_name("0badcafe", PREFIX, 3)))
    begun(ledger, third)
    ledger.fold([listed("r", 1, 2, job=third.job), copied("r", 0, done=0, failed=2, job=third.job)], NOW)
    store.failed = []
    keeper = PoolKeeper(memory_queues(), ledger, FakeClock(), told=Told(store=lambda: store))
    assert keeper.tell()
    assert store.failed == []
    assert ledger.untold() == []


@pytest.mark.parametrize("known", [True, False])
def test_what_another_ledger_told_of_an_earlier_attempt_is_forgotten_when_the_next_one_is_done(
    ledger: PoolLedger, known: bool
) -> None:
    """This one knew of no failures, and so told nothing: the prefix was done, and its objects were still called failed."""
    store = stored(4)
    third, fourth = (replace(SPEC, job=str(job_name("0badcafe", PREFIX, attempt))) for attempt in (3, 4))
    if known:
        begun(ledger, third)
        ledger.fold([listed("r", 1, 2, job=third.job), copied("r", 0, done=2, job=third.job)], NOW)
    begun(ledger, fourth)
    ledger.fold([listed("r", 1, 2, job=fourth.job), copied("r", 0, done=2, job=fourth.job)], NOW)
    assert state(ledger, fourth.job) is OperationState.SUCCESS
    keeper = PoolKeeper(memory_queues(), ledger, FakeClock(), told=Told(store=lambda: store))
    keeper.tell()
    assert bool(store.failed) is known, "who knows that nothing failed before saves the store a statement"
