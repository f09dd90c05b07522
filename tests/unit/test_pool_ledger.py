"""The fold: whatever comes twice, late or out of order, a prefix is complete exactly when it is, and its counts add up."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import (
    ROOT,
    Child,
    CopyReport,
    Counts,
    Failure,
    JobSpec,
    ListFailed,
    ListReport,
    Parked,
    Report,
    child_of,
)
from sts_manager.domain.errors import Fatal
from sts_manager.domain.model import OperationState
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.operation import CANCELLED, snapshot

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
JOB = "transferJobs/stsm-m-x-a1"
SPEC = JobSpec(job=JOB, prefix="p/", source_bucket="source", sink_bucket="sink")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[PoolLedger]:
    with closing(PoolLedger(tmp_path / "pool.db")) as made:
        yield made


def begun(ledger: PoolLedger, spec: JobSpec = SPEC, at: datetime = NOW) -> PoolLedger:
    ledger.begin(spec, spec.prefix, "q", at)
    ledger.published(spec.job)
    return ledger


def copied(run: str, sequence: int, *, shard: str = ROOT, done: int = 2, failed: int = 0, job: str = JOB) -> CopyReport:
    counts = Counts(objects={"done": done, "failed": failed}, bytes={"done": 10 * done, "failed": failed}, verified={"md5": done})
    failures = tuple(
        Failure(key=f"p/{shard}-{sequence}-{index}", size=1, etag="e", verdict="failed", error="forbidden", details="403")
        for index in range(failed)
    )
    return CopyReport(job=job, shard=shard, run=run, sequence=sequence, counts=counts, failures=failures)


def listed(run: str, tasks: int, keys: int, *, shard: str = ROOT, children: tuple[Child, ...] = (), job: str = JOB) -> ListReport:
    return ListReport(job=job, shard=shard, run=run, listed=keys, listed_bytes=10 * keys, tasks=tasks, children=children)


def state(ledger: PoolLedger, job: str = JOB) -> OperationState:
    found = ledger.job(job)
    assert found is not None
    return snapshot(found).state


def swept(ledger: PoolLedger, at: datetime = NOW) -> int:
    """How many slices it took."""
    slices = 0
    while ledger.sweep(at):
        slices += 1
    return slices


class Prefix:
    """A prefix as workers see it: a tree of shards, some of which are listed by several runs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.reports: list[Report] = []
        self.believable: dict[str, int] = {}
        self.dead: list[Report] = []
        self.keys = self.bytes = 0
        self._shard(ROOT, 0)

    def _shard(self, shard: str, depth: int) -> None:
        draw = self.random
        for dead in range(draw.choice([0, 0, 1, 2])):
            self._dead_run(shard, f"dead{dead}")
        tasks = draw.randrange(5)
        run = f"run{draw.randrange(1000)}"
        counts = [draw.randrange(1, 5) for _ in range(tasks)]
        skipped = draw.randrange(3)
        children = []
        if depth < 4 and draw.random() < 0.6:
            children = [
                Child(shard=child_of(shard, run, index), after=str(index), until=None) for index in range(draw.choice([1, 2]))
            ]
        self.reports += [copied(run, index, shard=shard, done=number) for index, number in enumerate(counts)]
        report = listed(run, tasks, sum(counts) + skipped, shard=shard, children=tuple(children))
        self.reports.append(
            replace(
                report, counts=Counts(objects={"skipped": skipped}, bytes={"skipped": 10 * skipped}, verified={"size": skipped})
            )
        )
        self.keys += sum(counts) + skipped
        for child in children:
            self._shard(child.shard, depth + 1)

    def _dead_run(self, shard: str, run: str) -> None:
        """Its worker died before it could report the listing; some of what it published was worked on all the same."""
        for index in range(self.random.randrange(4)):
            self.dead.append(copied(run, index, shard=shard, failed=self.random.randrange(2)))
        child = child_of(shard, run, 0)
        self.dead.append(listed("orphan", 1, 2, shard=child))
        self.dead.append(copied("orphan", 0, shard=child))
        self.dead.append(ListFailed(job=JOB, shard=child_of(shard, run, 1), code="NOT_FOUND", why="its parent is not believed"))

    def as_they_come(self) -> list[Report]:
        """All of them, some twice or three times, in any order."""
        coming = [*self.reports, *self.dead]
        coming += self.random.choices(coming, k=len(coming) // 2)
        self.random.shuffle(coming)
        return coming


@pytest.mark.parametrize("seed", range(60))
def test_whatever_order_the_counts_add_up_and_the_end_is_the_end(ledger: PoolLedger, seed: int) -> None:
    prefix = Prefix(seed)
    begun(ledger)
    missing = {encoded(one) for one in prefix.reports}
    coming = prefix.as_they_come()
    while coming:
        batch, coming = coming[: (size := prefix.random.randrange(1, 6))], coming[size:]
        ledger.fold(batch, NOW)
        missing -= {encoded(one) for one in batch}
        assert (state(ledger) is OperationState.SUCCESS) == (not missing), "complete when all is reported, and not before"
    job = ledger.job(JOB)
    assert job is not None
    assert (job.listed, job.objects["done"] + job.objects["skipped"], job.objects["failed"]) == (prefix.keys, prefix.keys, 0)
    assert job.bytes["done"] + job.bytes["skipped"] == job.listed_bytes
    assert sum(job.verified.values()) == prefix.keys
    assert list(ledger.failures(JOB, 100)) == [], "what failed in a run that is not believed did not fail"


@pytest.mark.parametrize("seed", range(20))
def test_of_two_whole_listings_of_a_shard_one_counts(ledger: PoolLedger, seed: int) -> None:
    """Its worker was slow, not dead: both list it to the end, cut differently, and each key is copied by both."""
    draw = random.Random(seed)
    coming: list[Report] = []
    for run, cuts in (("a", [3, 3]), ("b", [2, 2, 2])):
        child = Child(shard=child_of(ROOT, run, 0), after="p/6", until=None)
        coming += [copied(run, index, done=number) for index, number in enumerate(cuts)]
        coming += [listed(run, len(cuts), 6, children=(child,))]
        coming += [listed(f"{run}2", 1, 4, shard=child.shard), copied(f"{run}2", 0, shard=child.shard, done=4)]
    draw.shuffle(coming)
    begun(ledger)
    for one in coming:
        ledger.fold([one], NOW)
    job = ledger.job(JOB)
    assert job is not None
    assert (snapshot(job).state, job.listed, job.objects["done"]) == (OperationState.SUCCESS, 10, 10)


def test_an_empty_queue_is_not_the_end(ledger: PoolLedger) -> None:
    begun(ledger)
    ledger.fold([copied("r", 0), copied("r", 1)], NOW)
    assert state(ledger) is OperationState.IN_PROGRESS, "nobody has said how many there are"
    ledger.fold([listed("r", 3, 6)], NOW)
    assert state(ledger) is OperationState.IN_PROGRESS
    ledger.fold([copied("r", 2)], NOW)
    assert state(ledger) is OperationState.SUCCESS


def test_counts_that_do_not_add_up_are_no_success(ledger: PoolLedger) -> None:
    begun(ledger).fold([listed("r", 1, 3), copied("r", 0, done=2)], NOW)
    job = ledger.job(JOB)
    assert job is not None
    assert (snapshot(job).state, job.error_code) == (OperationState.FAILED, "COUNTS_DIFFER")


def test_failed_keys_are_told_with_their_causes(ledger: PoolLedger) -> None:
    begun(ledger).fold([listed("r", 2, 5), copied("r", 0, done=1, failed=2), copied("r", 1)], NOW)
    job = ledger.job(JOB)
    assert job is not None
    seen = snapshot(job)
    assert (seen.state, seen.counters.objects_failed, seen.permanent) == (OperationState.FAILED, 2, False)
    assert [(one.code, one.count, one.sample_url) for one in seen.errors] == [("PERMISSION_DENIED", 2, "p/root-0-0")]
    assert [one.key for one in ledger.failures(JOB, 100)] == ["p/root-0-0", "p/root-0-1"]


def test_only_the_failed_keys_are_tried_again_and_the_totals_stay(ledger: PoolLedger) -> None:
    begun(ledger).fold([listed("r", 1, 5), copied("r", 0, done=3, failed=2)], NOW)
    spec = replace(SPEC, job="transferJobs/stsm-m-x-a2")
    begun(ledger, spec, NOW + timedelta(minutes=1))
    assert ledger.replay(spec.job) == ("p/root-0-0", "p/root-0-1")
    ledger.fold([listed("s", 1, 2, job=spec.job), copied("s", 0, done=2, job=spec.job)], NOW)
    job = ledger.job(spec.job)
    assert job is not None
    counters = snapshot(job).counters
    assert (counters.objects_copied, counters.objects_skipped, counters.objects_failed) == (2, 3, 0)
    swept(ledger)
    assert list(ledger.failures(JOB, 100)) == [], "they have had their time"
    further = replace(SPEC, job="transferJobs/stsm-m-x-a3")
    begun(ledger, further, NOW + timedelta(minutes=2))
    assert ledger.replay(further.job) == (), "after a good end all is listed anew"


@pytest.mark.parametrize("why", ["another spec", "vanished keys", "an error of its own", "not over"])
def test_all_is_listed_anew_when_the_failed_keys_are_not_all_there_is(ledger: PoolLedger, why: str) -> None:
    begun(ledger)
    report = copied("r", 0, done=3, failed=2)
    if why == "vanished keys":
        counts = Counts(objects={"done": 3, "failed": 1, "vanished": 1}, bytes={}, verified={})
        report = replace(report, counts=counts)
    if why == "an error of its own":
        ledger.end(JOB, CANCELLED, "by a test", NOW)
    if why != "not over":
        ledger.fold([listed("r", 1, 5), report], NOW)
    spec = replace(SPEC, job="transferJobs/stsm-m-x-a2", storage_class="NEARLINE" if why == "another spec" else "")
    begun(ledger, spec, NOW + timedelta(minutes=1))
    assert ledger.replay(spec.job) == ()


def test_more_failed_keys_than_a_message_holds_are_found_by_a_listing(
    ledger: PoolLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sts_manager.routes.pool.ledger.REPLAY_KEYS_MAX", 1)
    begun(ledger).fold([listed("r", 1, 5), copied("r", 0, done=3, failed=2)], NOW)
    spec = replace(SPEC, job="transferJobs/stsm-m-x-a2")
    begun(ledger, spec, NOW + timedelta(minutes=1))
    job = ledger.job(spec.job)
    assert job is not None
    assert (ledger.replay(spec.job), job.carried) == ((), 0), "and nothing is carried over that the listing counts again"


def test_a_listing_that_failed_ends_the_job_unless_the_shard_was_listed(ledger: PoolLedger) -> None:
    failed = ListFailed(job=JOB, shard=ROOT, code="PERMISSION_DENIED", why="s3:ListBucket")
    begun(ledger).fold([listed("r", 1, 2), failed], NOW)
    assert state(ledger) is OperationState.IN_PROGRESS, "another run had listed it"
    other = replace(SPEC, job="transferJobs/stsm-m-y-a1", prefix="q/")
    begun(ledger, other).fold([replace(failed, job=other.job)], NOW)
    job = ledger.job(other.job)
    assert job is not None
    assert (snapshot(job).state, snapshot(job).errors[0].code) == (OperationState.FAILED, "PERMISSION_DENIED")
    assert ledger.board() == {other.job: "over"}, "tasks of it may be about"


@pytest.mark.parametrize("listed_too", [True, False])
@pytest.mark.parametrize("failed_first", [True, False])
def test_a_listing_that_failed_counts_though_it_is_heard_of_before_its_parent(
    ledger: PoolLedger, failed_first: bool, listed_too: bool
) -> None:
    """Found by the simulation: it was acknowledged and forgotten, and the prefix waited for it for ever."""
    child = child_of(ROOT, "r", 0)
    failed = ListFailed(job=JOB, shard=child, code="PERMISSION_DENIED", why="s3:ListBucket")
    parent = listed("r", 0, 0, children=(Child(shard=child, after="p/6", until=None),))
    other = [listed("s", 0, 0, shard=child)] if listed_too else []
    early: list[Report] = [failed, *other] if failed_first else [*other, failed]
    begun(ledger)
    for one in early:
        ledger.fold([one], NOW)
    assert state(ledger) is OperationState.IN_PROGRESS
    ledger.fold([parent], NOW)
    assert state(ledger) is (OperationState.SUCCESS if listed_too else OperationState.FAILED)


def test_what_is_over_stays_over(ledger: PoolLedger) -> None:
    begun(ledger)
    ledger.end(JOB, CANCELLED, "by a person", NOW)
    ledger.fold([listed("r", 0, 0)], NOW)
    assert state(ledger) is OperationState.ABORTED
    assert not ledger.set_paused(JOB, paused=True)


def test_parked_tasks_go_on_when_their_job_does(ledger: PoolLedger) -> None:
    begun(ledger)
    assert ledger.set_paused(JOB, paused=True)
    assert ledger.board() == {JOB: "paused"}
    task = Parked(job=JOB, task=f"{JOB}/root/r/0", kind="copy", body="ü")
    ledger.fold([task, task], NOW)
    assert ledger.parked() == []
    assert ledger.set_paused(JOB, paused=False)
    assert ledger.parked() == [(task.task, "copy", "ü".encode())]
    ledger.unpark([task.task])
    assert ledger.parked() == []


def test_reports_of_nobodys_jobs_are_nothing(ledger: PoolLedger) -> None:
    ledger.fold([copied("r", 0), listed("r", 1, 2)], NOW)
    assert ledger.job(JOB) is None


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.db"
    PoolLedger(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(Fatal, match="newer version"):
        PoolLedger(path)
