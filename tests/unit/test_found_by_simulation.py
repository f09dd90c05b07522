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

from cdn_worker.codec import encoded
from cdn_worker.contract import ROOT, ListReport
from cdn_worker.queues.memory import memory_queues
from sts_manager.domain.decide import decide, starts
from sts_manager.domain.errors import Denied, Retryable, StsManagerError, Throttled
from sts_manager.domain.model import (
    Counters,
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
from sts_manager.domain.naming import OperationName, Prefix, checked_prefixes, job_name
from sts_manager.pool.keeper import PoolKeeper
from sts_manager.pool.ledger import PoolLedger
from sts_manager.reconciler import Reconciler
from sts_manager.routes.sts import StsRoute
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import START, FakeClock
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
    transfers = Transfers(timeline, Chance(random.Random(1), set), lambda _job: None)
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


@pytest.mark.parametrize(("epochs", "ended"), [((4, 5), False), ((4, 4), False), ((4, 6), True), ((6, 4), True)])
def test_jobs_of_a_ledger_end_where_another_one_was_told_meanwhile(
    ledger: PoolLedger, epochs: tuple[int, int], ended: bool
) -> None:
    ledger.lead(epochs[0], NOW)
    begun(ledger)
    ledger.lead(epochs[1], NOW)
    job = ledger.job(JOB)
    assert job is not None
    assert (state(ledger), job.error_code) == (
        (OperationState.FAILED, "LED_ELSEWHERE") if ended else (OperationState.IN_PROGRESS, "")
    )


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
    assert ledger.fold([listed("r", 1, 2), copied("r", 0, job="transferJobs/other")], NOW) == {"transferJobs/other"}


def test_reports_that_nobody_waits_for_end_among_the_dead_and_are_told_once(
    ledger: PoolLedger, caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger that was lost leaves as many of them as it had tasks: they are no loss, and no alarm each."""
    queues = memory_queues(lease_s=0.0, deliveries_max=2)
    queues.reports.publish([encoded(copied("r", index)) for index in range(3)])
    keeper = PoolKeeper(queues, ledger, FakeClock())
    for _ in range(3):
        keeper.fold_reports()
    assert keeper.mourn()
    assert not keeper.mourn()
    assert [record.getMessage() for record in caplog.records] == ["reports_of_unknown_jobs"]
    assert vars(caplog.records[0])["fields"]["reports"] == 3
    assert ledger.job(JOB) is None
