"""The job stores beside a dictionary: whatever is done to both, they answer alike (stateful hypothesis)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sts_manager.domain.errors import LeaseLost
from sts_manager.domain.model import (
    Breaker,
    Change,
    Chosen,
    Counters,
    FailedObject,
    Hold,
    JobStatus,
    KnownObject,
    Limit,
    PausedBy,
    PrefixJob,
    Route,
)
from sts_manager.domain.names import OperationName, Prefix, job_name
from sts_manager.ports import Batch, JobStore, PassReport
from sts_manager.stores.lease import LeaseRecord
from sts_manager.stores.sql.store import open_store
from tests.fakes.clock import START as NOW
from tests.fakes.memory_store import MemoryStore
from tests.proofs import sized
from tests.warehouses import NAMES, bigquery_store
from tools.emulators.stage import Stage

PREFIXES = [Prefix(text) for text in ("a/", "b/", "ä ö/", "c'; DROP TABLE x--/", "d\t/", "日本/", "e%_/")]
some = st.sampled_from(PREFIXES)
times = st.sampled_from([NOW + timedelta(seconds=seconds) for seconds in (-90_000_000, -1, 0, 1, 90_000, 90_000_000)])
numbers = st.integers(min_value=0, max_value=2**40)
made = count()
BREAKER = Breaker(code="X", message="m", opened_at=NOW, probe_at=NOW, limit=Limit.POOL)


@st.composite
def after(draw: st.DrawFn, before: PrefixJob) -> PrefixJob:
    """Any row that a decision could write."""
    attempt = before.attempt + draw(st.integers(0, 2))
    status = draw(st.sampled_from(JobStatus))
    name = job_name("m1", before.prefix, attempt) if attempt else None
    if name is None and status in (JobStatus.RUNNING, JobStatus.PAUSED):
        status = JobStatus.WAITING
    operation = OperationName(f"transferOperations/{draw(st.integers(1, 99))}")
    return replace(
        before,
        status=status,
        generation=before.generation + 1,
        attempt=attempt,
        job_name=name,
        operation_name=draw(st.none() | st.just(operation)) if name else None,
        route=draw(st.none() | st.sampled_from(Route)),
        lead=draw(st.none() | some),
        project=draw(st.sampled_from(["", "a-project"])),
        not_before=draw(st.none() | times),
        paused_by=draw(st.sampled_from(PausedBy)),
        counters=draw(st.builds(Counters, objects_found=numbers, bytes_copied=numbers, objects_failed=numbers)),
        error_code=draw(st.sampled_from(["", "INTERNAL", "X'"])),
        error_message=draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)),
        missing_count=draw(st.integers(0, 3)),
        progress_at=draw(st.none() | times),
        started_at=draw(st.none() | times),
    )


class BesideADictionary(RuleBasedStateMachine):
    """`make` opens an empty store."""

    make: Callable[[ExitStack], JobStore]

    def __init__(self) -> None:
        super().__init__()
        self.opened = ExitStack()
        self.real = type(self).make(self.opened)
        self.model = MemoryStore()
        self.at = NOW

    def teardown(self) -> None:
        self.opened.close()

    def both(self, call: Callable[[Any], Any]) -> Any:
        """The answer of both, which is the same; or the error."""
        told = []
        for store in (self.real, self.model):
            try:
                told.append(call(store))
            except LeaseLost:
                told.append("the lease is lost")
        assert told[0] == told[1]
        return told[0]

    @initialize()
    def lease(self) -> None:
        self._swap(None, 1)

    @rule(chosen=st.dictionaries(some, st.builds(Chosen, route=st.none() | st.sampled_from(Route), source=st.just("s3://x"))))
    def load(self, chosen: dict[Prefix, Chosen]) -> None:
        prefixes = sorted({*chosen, PREFIXES[0]})
        self.both(lambda store: store.load(prefixes, self.at, lambda _: None, chosen))

    @rule(data=st.data(), fence=st.sampled_from([None, 1, 2]), state=st.booleans(), old=st.booleans())
    def record(self, data: st.DataObject, fence: int | None, state: bool, old: bool) -> None:
        self.at += timedelta(seconds=1)
        rows = data.draw(st.lists(st.sampled_from(sorted(self.model.rows)), unique=True, max_size=4)) if self.model.rows else []
        changes = []
        for prefix in rows:
            before = self.model.rows[prefix]
            if old and before.generation:
                before = replace(before, generation=before.generation - 1)
            changes.append(Change(before=before, after=data.draw(after(before)), results=data.draw(st.sampled_from(["", "{}"]))))
        breaker = data.draw(st.none() | st.just(BREAKER))
        if not changes and not state:
            fence = None  # a batch of nothing writes nothing, and nobody need be asked whether it may
        report = PassReport(at=self.at, interval_s=1.0, running=len(rows))
        batch = Batch(changes=tuple(changes), at=self.at, fence=fence, writes_state=state, breaker=breaker, report=report)
        self.both(lambda store: store.record(batch))

    @rule(old=st.sampled_from([None, 1, 2]), new=st.sampled_from([1, 2]))
    def swap(self, old: int | None, new: int) -> None:
        self._swap(old, new)

    def _swap(self, old: int | None, new: int) -> None:
        self.both(lambda store: store.swap_lease(None if old is None else lease_text(old), lease_text(new)))

    @rule(hold=st.none() | st.builds(Hold, by=st.just("ops"), at=st.just(NOW), reason=st.text(max_size=5)))
    def hold(self, hold: Hold | None) -> None:
        self.both(lambda store: store.set_hold(hold))

    @rule(prefix=some, keys=st.sets(st.sampled_from(["k", "k'", "日"])))
    def failures(self, prefix: Prefix, keys: set[str]) -> None:
        failed = [
            FailedObject(prefix=prefix, key=key, size=1, etag="e", verdict="failed", error="x", details="d", job_name="j")
            for key in sorted(keys)
        ]
        self.both(lambda store: store.put_failures(prefix, failed, self.at))
        self.both(lambda store: store.failures(prefix, 2))
        self.both(lambda store: store.failures(None, 10))

    @rule(prefix=some, key=st.sampled_from(["k", "k'"]))
    def objects(self, prefix: Prefix, key: str) -> None:
        self.at += timedelta(seconds=1)
        known = KnownObject(
            prefix=prefix,
            key=key,
            size=1,
            etag="e",
            generation=self.at.second,
            crc32c="AAAAAA==",
            verified="md5",
            verdict="done",
            job_name="j",
        )
        self.both(lambda store: store.put_objects([known], self.at))
        self.both(lambda store: store.objects(prefix, 10))

    @rule(now=times, service=st.integers(0, 5), pool=st.integers(0, 5), default=st.sampled_from(Route))
    def startable(self, now: Any, service: int, pool: int, default: Route) -> None:
        self.both(lambda store: store.startable(now, {Limit.SERVICE: service, Limit.POOL: pool}, default))

    @rule(prefix=some, status=st.sampled_from(JobStatus))
    def asked(self, prefix: Prefix, status: JobStatus) -> None:
        self.both(lambda store: store.job(prefix))
        self.both(lambda store: [(row.job, row.timestamp, row.operation_results) for row in store.history(prefix)])
        self.both(lambda store: list(store.with_status(status)))
        self.both(lambda store: store.jobs_named([job_name("m1", prefix, attempt) for attempt in (1, 2, 3)]))
        self.both(lambda store: store.clashes([prefix, Prefix(f"{prefix}deeper/")], 10))

    @invariant()
    def alike(self) -> None:
        self.both(
            lambda store: (dict(store.counts()), store.live(), store.totals(), store.error_groups(10), store.left_behind(10))
        )
        self.both(lambda store: replace(store.control(), migration="any"))
        self.both(lambda store: store.lease_text())


def lease_text(epoch: int) -> str:
    return LeaseRecord(who="w", host="h", boot="b", epoch=epoch, beat=0, since="s", beaten_at="b").text()


def sqlite(opened: ExitStack) -> JobStore:
    folder = opened.enter_context(tempfile.TemporaryDirectory())
    store = open_store(f"sqlite:///{folder}/store.db", create=True)
    opened.callback(store.close)
    return store


def bigquery(opened: ExitStack) -> JobStore:
    store = bigquery_store(replace(NAMES, dataset=f"model_{next(made)}"))
    opened.callback(store.close)
    return store


def beside(make: Callable[[ExitStack], JobStore], examples: int, steps: int) -> None:
    machine = type("Machine", (BesideADictionary,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],  # shrinking takes minutes, and the steps are few
        ),
    )


def test_sqlite_is_a_dictionary() -> None:
    beside(sqlite, sized(25, 400), 40)


@pytest.mark.slow
def test_bigquery_is_a_dictionary(stage: Stage) -> None:
    beside(bigquery, sized(2, 10), sized(8, 20))
