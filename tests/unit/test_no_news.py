"""A pass that finds nothing new writes nothing; what stands in the way of all prefixes of a route stops it, and is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from sts_manager.cli.views import gather, health
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.decide import decide, starts
from sts_manager.domain.model import (
    Chosen,
    Counters,
    JobStatus,
    Limit,
    Observed,
    OperationSnapshot,
    OperationState,
    Policy,
    PrefixJob,
    Route,
)
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes, job_name
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import START, FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService

PREFIX, OTHER = Prefix("a/"), Prefix("b/")
POLICY = Policy(migration="0badcafe", route=Route.CDN, stalled_after=timedelta(minutes=5))
WHY = "storage.example: Could not resolve host (7 tries in 21 s, no answer to any)"


class Scene:
    def __init__(self, *prefixes: Prefix) -> None:
        self.store, self.clock, self.service = MemoryStore(), FakeClock(), FakeTransferService()
        chosen = {prefix: Chosen(route=Route.CDN) for prefix in prefixes or (PREFIX,)}
        self.store.load(checked_prefixes(list(chosen)), self.clock.now(), lambda _: None, chosen)
        self.reconciler = self.made()
        self.passes(2)

    def made(self) -> Reconciler:
        return Reconciler(self.store, {Route.CDN: self.service}, POLICY, self.clock)

    def passes(self, number: int = 1, seconds: float = 60) -> None:
        for _ in range(number):
            self.reconciler.run_pass(dispatch=True)
            self.clock.advance(seconds)

    def row(self, prefix: Prefix = PREFIX) -> PrefixJob:
        return self.store.rows[prefix]

    def operation(self, prefix: Prefix = PREFIX) -> OperationName:
        name = self.row(prefix).operation_name
        assert name is not None
        return name

    def trouble(self, prefix: Prefix, trouble: tuple[str, str] | None) -> None:
        name = self.operation(prefix)
        self.service.states[name] = replace(self.service.states[name], trouble=trouble)


@pytest.mark.parametrize("state", [one for one in OperationState if one not in ("SUCCESS", "FAILED", "ABORTED")])
def test_a_pass_without_news_writes_no_history_row(state: OperationState) -> None:
    """Each one wrote the whole operation, for every live row: 117 MB in five minutes with 500 of them (M7)."""
    scene = Scene()
    scene.service.set(scene.operation(), state)
    scene.passes(2)
    written = len(scene.store.events)
    batches = scene.store.batches
    scene.passes(4, seconds=10)
    assert len(scene.store.events) == written
    assert scene.store.batches == batches
    scene.service.set(scene.operation(), state, objects_copied=1)
    scene.passes()
    assert len(scene.store.events) == written + 1
    assert scene.store.events[-1].job == scene.row(), "the history folds to the row"


def test_each_state_is_written_once_and_so_is_each_count() -> None:
    scene = Scene()
    operation = scene.operation()
    before = len(scene.store.events)
    for copied in range(1, 4):
        scene.service.set(operation, OperationState.IN_PROGRESS, objects_copied=copied)
        scene.passes(5)
    for state in (OperationState.PAUSED, OperationState.IN_PROGRESS, OperationState.SUCCESS):
        scene.service.set(operation, state)
        scene.passes(5)
    told = [(event.job.status, event.job.counters.objects_copied) for event in scene.store.events[before:]]
    running, paused = JobStatus.RUNNING, JobStatus.PAUSED
    assert told == [(running, 1), (running, 2), (running, 3), (paused, 3), (running, 3), (JobStatus.DONE, 3)]


def test_what_is_queued_does_not_stall_and_has_its_time_once_it_sets_out() -> None:
    scene = Scene()
    scene.service.set(scene.operation(), OperationState.QUEUED)
    scene.passes(10)
    assert scene.store.control().report is not None
    assert scene.store.control().report.stalled == 0  # type: ignore[union-attr]
    scene.service.set(scene.operation(), OperationState.IN_PROGRESS)
    scene.passes(4)
    assert scene.reconciler.run_pass(dispatch=True).plan.stalled == 0
    scene.passes(2)
    assert scene.reconciler.run_pass(dispatch=True).plan.stalled == 1


def test_a_restart_is_no_news() -> None:
    scene = Scene()
    scene.passes(3)
    written = len(scene.store.events)
    scene.reconciler = scene.made()
    scene.passes(3)
    assert len(scene.store.events) == written


# A cause that all tasks share


def test_trouble_of_one_prefix_opens_the_breaker_of_its_route_with_its_cause() -> None:
    scene = Scene(PREFIX, OTHER)
    scene.passes(2)
    scene.service.set(scene.operation(), OperationState.IN_PROGRESS, objects_copied=5)
    scene.trouble(PREFIX, ("UNREACHABLE", WHY))
    scene.passes()
    breaker = scene.store.control().breaker
    assert breaker is not None
    assert (breaker.code, breaker.message, breaker.limit, breaker.probe) == ("UNREACHABLE", WHY, Limit.POOL, PREFIX)
    assert (scene.row().status, scene.row().tries) == (JobStatus.RUNNING, 1), "it waits, and burns nothing"
    lease = StoreLease(scene.store, scene.clock, lock_path=None, lease_s=60)
    assert lease.acquire() is None
    told = health(gather(scene.store, scene.clock.now()))
    assert told == f"running, but nothing starts in the worker pool: UNREACHABLE: {WHY}"


def test_the_breaker_closes_when_what_met_the_fault_goes_on() -> None:
    scene = Scene(PREFIX, OTHER)
    scene.passes(2)
    for prefix in (PREFIX, OTHER):
        scene.service.set(scene.operation(prefix), OperationState.IN_PROGRESS, objects_copied=5)
        scene.trouble(prefix, ("UNREACHABLE", WHY))
    scene.passes(30)
    assert scene.store.control().breaker is not None
    for prefix in (PREFIX, OTHER):
        scene.trouble(prefix, None)
    scene.passes()
    assert scene.store.control().breaker is None
    assert [scene.row(prefix).tries for prefix in (PREFIX, OTHER)] == [1, 1]


def test_a_prefix_that_ended_by_it_burns_no_attempt_and_is_tried_again() -> None:
    scene = Scene()
    name = scene.operation()
    known = scene.service.states[name]
    failed = OperationSnapshot(
        name=name, state=OperationState.FAILED, raw_state="FAILED", job_name=known.job_name, errors=known.errors
    )
    from sts_manager.domain.model import ErrorBreakdown

    scene.service.states[name] = replace(failed, errors=(ErrorBreakdown(code="UNREACHABLE", count=1, sample_details=WHY),))
    scene.passes()
    breaker = scene.store.control().breaker
    assert breaker is not None
    assert (breaker.code, WHY in breaker.message) == ("UNREACHABLE", True)
    assert (scene.row().status, scene.row().tries) == (JobStatus.WAITING, 0)


def test_nothing_starts_under_a_route_in_trouble_and_the_other_goes_on() -> None:
    running = PrefixJob(
        prefix=PREFIX,
        status=JobStatus.RUNNING,
        route=Route.CDN,
        job_name=job_name("0badcafe", PREFIX, 1),
        operation_name=OperationName("transferOperations/cdn-1"),
        attempt=1,
    )
    seen = OperationSnapshot(
        name=OperationName("transferOperations/cdn-1"),
        state=OperationState.IN_PROGRESS,
        raw_state="IN_PROGRESS",
        counters=Counters(objects_copied=5),
        trouble=("UNREACHABLE", WHY),
    )
    waiting = (PrefixJob(prefix=OTHER, route=Route.CDN), PrefixJob(prefix=Prefix("c/"), route=Route.STS_S3))
    observed = Observed(live=(running,), startable=waiting, operations={seen.name: seen})
    assert [one.prefix for one in starts(decide(observed, POLICY, START))] == ["c/"]
    well = Observed(live=(running,), startable=waiting, operations={seen.name: replace(seen, trouble=None)})
    assert [one.prefix for one in starts(decide(well, POLICY, START))] == ["c/", "b/"]
