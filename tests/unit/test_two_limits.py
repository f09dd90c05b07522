"""Prefixes of the transfer service and of the worker pool under one daemon: what befalls one side leaves the other alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import Denied, Retryable
from sts_manager.domain.model import Chosen, Hold, JobStatus, Limit, OperationState, Policy, PrefixJob, Route
from sts_manager.domain.names import checked_prefixes
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService


class Both:
    """Ten prefixes of each kind; a service and a pool of their own."""

    def __init__(self, **policy: int) -> None:
        self.clock, self.store = FakeClock(), MemoryStore()
        self.service, self.pool = FakeTransferService(), FakeTransferService()
        prefixes = checked_prefixes(f"{kind}{index}/" for kind in ("cdn", "sts") for index in range(10))
        chosen = {prefix: Chosen(route=Route.CDN) for prefix in prefixes if prefix.startswith("cdn")}
        self.store.load(prefixes, self.clock.now(), lambda _: None, chosen)
        made = Policy(migration="m1", route=Route.STS_S3, **policy)  # type: ignore[arg-type]
        self.daemon = Reconciler(self.store, {Route.STS_S3: self.service, Route.CDN: self.pool}, made, self.clock)

    def passes(self, number: int) -> None:
        for _ in range(number):
            self.clock.advance(60)
            self.daemon.run_pass(dispatch=True)


def test_each_side_has_its_own_limit_and_its_own_ramp() -> None:
    both = Both(running_max=3, cdn_running_max=5)
    running = []
    for _ in range(4):
        both.passes(1)
        running.append((len(both.service.active()), len(both.pool.active())))
    assert running == [(1, 1), (2, 2), (3, 4), (3, 5)]


def test_the_pool_is_filled_between_dispatches() -> None:
    """Its workers stood idle until the next one: 1,440 prefixes a day, however small (M2)."""
    both = Both(cdn_running_max=4)
    both.passes(1)
    for _ in range(5):
        for name in both.pool.active():
            both.pool.set(name, OperationState.SUCCESS, objects_copied=1)
        both.daemon.run_pass(dispatch=False)
    assert both.store.counts()[JobStatus.DONE] == 10, "1, 2, 4, and the last 3 of the pool"
    assert len(both.service.jobs) == 1, "the service's ramp goes by dispatches"


def test_what_the_pool_lacks_is_not_asked_for_between_dispatches() -> None:
    """A question costs money where the job table is in BigQuery."""
    both = Both(cdn_running_max=20)
    asked: list[set[Limit]] = []
    startable = both.store.startable

    def counted(now: datetime, most: Mapping[Limit, int], default: Route) -> tuple[PrefixJob, ...]:
        asked.append(set(most))
        return startable(now, most, default)

    both.store.startable = counted  # type: ignore[method-assign]
    both.passes(1)
    for _ in range(8):
        for name in both.pool.active():
            both.pool.set(name, OperationState.SUCCESS, objects_copied=1)
        both.daemon.run_pass(dispatch=False)
    assert asked[0] == {Limit.SERVICE, Limit.POOL}
    assert set(map(frozenset, asked[1:])) == {frozenset({Limit.POOL})}
    assert len(asked) < 8, "no row of the pool waits any more"


def test_the_last_pass_of_a_program_starts_nothing() -> None:
    both = Both()
    both.passes(1)
    before = len(both.pool.jobs)
    both.daemon.settle_outcomes()
    assert len(both.pool.jobs) == before
    held = both.store.counts()[JobStatus.WAITING]
    both.store.set_hold(Hold(by="ops", at=both.clock.now()))
    both.daemon.run_pass(dispatch=False)
    assert both.store.counts()[JobStatus.WAITING] == held


@pytest.mark.parametrize("denied", ["service", "pool"])
def test_a_breaker_stops_only_the_side_that_was_denied(denied: str) -> None:
    both = Both()
    bad, good = (both.service, both.pool) if denied == "service" else (both.pool, both.service)
    bad.fail_start = Denied("the bucket's door is shut")
    both.passes(6)
    breaker = both.store.control().breaker
    assert breaker is not None
    assert breaker.limit is (Limit.SERVICE if denied == "service" else Limit.POOL)
    assert bad.active() == []
    assert len(good.active()) == 10, "the other side goes on"
    bad.fail_start = None
    for name in good.active():
        good.set(name, OperationState.SUCCESS, objects_copied=1)
    for _ in range(12):
        both.clock.advance(3600)
        both.daemon.run_pass(dispatch=True)
        for name in bad.active():
            bad.set(name, OperationState.SUCCESS, objects_copied=1)
    assert both.store.control().breaker is None
    assert both.store.counts()[JobStatus.DONE] == 20


def test_when_both_sides_are_denied_nothing_starts() -> None:
    both = Both()
    both.service.fail_start = both.pool.fail_start = Denied("shut")
    both.passes(6)
    breaker = both.store.control().breaker
    assert breaker is not None
    assert breaker.limit is None
    assert both.store.counts()[JobStatus.WAITING] == 20


def test_a_side_that_cannot_be_asked_holds_up_only_its_own_starts() -> None:
    both = Both()
    both.passes(2)
    both.service.fail_poll = Retryable("the service is away")
    before = len(both.service.jobs)
    both.passes(3)
    assert len(both.service.jobs) == before
    assert len(both.pool.active()) == 10


def test_failures_that_no_attempt_can_mend_end_a_prefix_at_once() -> None:
    both = Both()
    both.passes(1)
    both.passes(1)
    name = both.pool.active()[0]
    both.pool.set(name, OperationState.FAILED, objects_failed=1)
    both.pool.states[name] = replace(both.pool.states[name], permanent=True)
    both.passes(1)
    job = both.store.job(both.pool.prefix_of[name])
    assert job is not None
    assert (job.status, job.attempt) == (JobStatus.ERROR, 1)
