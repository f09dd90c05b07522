"""What every JobStore must do. A module that tests an implementation imports these and gives a `store` fixture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sts_manager.domain.errors import LeaseLost
from sts_manager.domain.model import (
    COUNTED_BY_SERVICE,
    EMPTY,
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
    changed,
)
from sts_manager.domain.names import JobName, OperationName, Prefix, checked_prefixes
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.ports import Batch, JobStore, PassReport, PrefixClash, QuotaUse, Sample
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import FakeClock

NOW = datetime(2026, 11, 20, 3, 0, 0, 123456, tzinfo=UTC)
JOB = JobName("transferJobs/stsm-1-a1")
OPERATION = OperationName("transferOperations/1")


def load(store: JobStore, *texts: str) -> None:
    store.load(sorted(checked_prefixes(texts)), NOW, lambda _: None)


def row(store: JobStore, text: str) -> PrefixJob:
    job = store.job(Prefix(text))
    assert job is not None
    return job


def to(store: JobStore, text: str, **fields: object) -> Change:
    before = row(store, text)
    return changed(before, replace(before, **fields), NOW)  # type: ignore[arg-type]


def record(store: JobStore, *changes: Change) -> Iterable[str]:
    return store.record(Batch(changes=changes, at=NOW))


def run(store: JobStore, text: str, **fields: object) -> None:
    values = {"status": JobStatus.RUNNING, "job_name": JOB, "attempt": 1} | fields
    assert not record(store, to(store, text, **values))


def full(prefix: str) -> PrefixJob:
    return PrefixJob(
        prefix=Prefix(prefix),
        status=JobStatus.PAUSED,
        route=Route.STS_S3,
        source="s3://own/in/",
        destination="gs://own/out/",
        egress="managed-private-network",
        project="another-project",
        lead=Prefix("a-lead/"),
        job_name=JOB,
        operation_name=OPERATION,
        attempt=7,
        attempt_base=2,
        forgiven=1,
        generation=1,
        not_before=NOW + timedelta(hours=1),
        paused_by=PausedBy.HOLD,
        counters=Counters(
            objects_found=1,
            bytes_found=2**60,
            objects_copied=3,
            bytes_copied=4,
            objects_skipped=5,
            bytes_skipped=6,
            objects_failed=7,
            bytes_failed=8,
        ),
        error_code="UNAVAILABLE",
        error_message="it's ünusual; DROP TABLE sts_job --",
        missing_count=2,
        missing_since=NOW - timedelta(minutes=3),
        started_at=NOW - timedelta(hours=2),
        progress_at=NOW - timedelta(hours=1),
        ended_at=NOW,
        last_updated=NOW,
    )


def test_a_new_prefix_waits_in_generation_0(store: JobStore) -> None:
    load(store, "a/", "b/")
    assert row(store, "a/") == PrefixJob(prefix=Prefix("a/"), last_updated=NOW)
    assert store.counts() == {status: 2 if status is JobStatus.WAITING else 0 for status in JobStatus}
    assert store.job(Prefix("c/")) is None


def test_loading_again_keeps_rows_and_adds_the_new_ones(store: JobStore) -> None:
    load(store, "a/", "b/")
    run(store, "a/")
    before = row(store, "a/")
    seen: list[int] = []
    loaded = store.load(checked_prefixes(["a/", "b/", "c/"]), NOW, seen.append)
    assert (loaded.added, loaded.present, sum(seen)) == (1, 2, 3)
    assert row(store, "a/") == before


def test_a_row_and_its_history_come_back_as_they_were_written(store: JobStore) -> None:
    load(store, "a/")
    record(store, Change(before=row(store, "a/"), after=full("a/"), results='{"status":"PAUSED"}'))
    assert row(store, "a/") == full("a/")
    (event,) = store.history(Prefix("a/"))
    assert event.job == full("a/")
    assert (event.timestamp, event.operation_results) == (NOW, '{"status":"PAUSED"}')


@pytest.mark.parametrize("text", ["p'; DROP TABLE sts_job; --/", "日本語/é/", 'quote"/', "%_/", "a b/", "\\/", "🎉/"])
def test_any_legal_prefix_is_kept_exactly(store: JobStore, text: str) -> None:
    load(store, text, "zzz/")
    run(store, text)
    assert [job.prefix for job in store.live()] == [text]
    assert [event.job.prefix for event in store.history(Prefix(text))] == [text]


def test_a_stale_change_alters_nothing_and_is_named(store: JobStore) -> None:
    load(store, "a/", "b/")
    old, fresh = to(store, "a/", error_code="X"), to(store, "b/", error_code="Y")
    run(store, "a/")
    before = row(store, "a/")
    assert record(store, old, fresh) == {"a/"}
    assert row(store, "a/") == before
    assert row(store, "b/").error_code == "Y"
    assert len(list(store.history(Prefix("a/")))) == 1


def test_the_same_change_twice_is_written_once(store: JobStore) -> None:
    load(store, "a/")
    change = to(store, "a/", status=JobStatus.RUNNING, job_name=JOB, attempt=1)
    assert not record(store, change)
    assert record(store, change) == {"a/"}
    assert len(list(store.history(Prefix("a/")))) == 1


def test_a_change_of_an_unknown_prefix_is_stale(store: JobStore) -> None:
    load(store, "a/")
    ghost = PrefixJob(prefix=Prefix("ghost/"))
    assert record(store, changed(ghost, replace(ghost, error_code="X"), NOW)) == {"ghost/"}
    assert store.job(Prefix("ghost/")) is None


def test_the_history_folds_to_the_row(store: JobStore) -> None:
    load(store, "a/")
    run(store, "a/")
    for status in (JobStatus.PAUSED, JobStatus.RUNNING, JobStatus.DONE):
        record(store, to(store, "a/", status=status))
    events = list(store.history(Prefix("a/")))
    assert [event.job.generation for event in events] == [1, 2, 3, 4]
    assert events[-1].job == row(store, "a/")


def test_startable_rows_come_by_attempt_then_prefix_when_their_time_has_come(store: JobStore) -> None:
    load(store, "a/", "b/", "c/", "d/", "e/")
    record(store, to(store, "a/", attempt=1))
    record(store, to(store, "b/", not_before=NOW + timedelta(microseconds=1)))
    record(store, to(store, "c/", not_before=NOW))
    run(store, "d/")
    later = NOW - timedelta(days=365)  # a clock that was a year fast has been set right
    assert [job.prefix for job in store.startable(later, {Limit.SERVICE: 10}, Route.STS_S3)] == ["b/", "c/", "e/", "a/"]
    assert [job.prefix for job in store.startable(NOW - timedelta(days=1), {Limit.SERVICE: 10}, Route.STS_S3)] == ["e/", "a/"]
    assert [job.prefix for job in store.startable(NOW, {Limit.SERVICE: 10}, Route.STS_S3)] == ["c/", "e/", "a/"]
    assert [job.prefix for job in store.startable(NOW, {Limit.SERVICE: 2}, Route.STS_S3)] == ["c/", "e/"]
    assert [job.prefix for job in store.startable(NOW, {Limit.SERVICE: 2}, Route.CDN)] == []


def failed(prefix: str, key: str, details: str = "403 ü\n") -> FailedObject:
    return FailedObject(
        prefix=Prefix(prefix),
        key=key,
        size=5,
        etag="e",
        verdict="failed",
        error="forbidden",
        details=details,
        job_name="transferJobs/x",
    )


def test_the_failed_objects_of_a_prefix_are_those_of_its_last_attempt(store: JobStore) -> None:
    first = [failed("a/", f"a/{index:04}") for index in range(1500)]
    store.put_failures(Prefix("a/"), first, NOW)
    store.put_failures(Prefix("b/"), [failed("b/", "b/\n'; DROP TABLE x")], NOW)
    assert store.failures(Prefix("a/"), 2000) == tuple(first)
    assert store.failures(None, 10) == tuple(first[:10])
    assert [one.key for one in store.failures(None, 2000)][-1] == "b/\n'; DROP TABLE x"
    store.put_failures(Prefix("a/"), [failed("a/", "a/x", details="gone")], NOW)
    assert [(one.key, one.details) for one in store.failures(Prefix("a/"), 10)] == [("a/x", "gone")]
    store.put_failures(Prefix("a/"), [], NOW)
    assert store.failures(Prefix("a/"), 10) == ()
    assert len(store.failures(None, 10)) == 1


def test_what_done_prefixes_left_behind_is_told_by_prefix(store: JobStore) -> None:
    load(store, "a/", "b/", "c/", "d/")
    for text in ("a/", "b/", "d/"):
        run(store, text, status=JobStatus.DONE)
    for prefix, number in (("a/", 1), ("b/", 3), ("c/", 2)):
        store.put_failures(Prefix(prefix), [failed(prefix, f"{prefix}{index}") for index in range(number)], NOW)
    told = [(one.prefix, one.objects, one.bytes) for one in store.left_behind(10)]
    assert told == [("b/", 3, 15), ("a/", 1, 5)], "c/ is not done, d/ has all of its objects"
    assert [one.prefix for one in store.left_behind(1)] == ["b/"]
    store.put_failures(Prefix("d/"), [replace(failed("d/", "d/"), error=COUNTED_BY_SERVICE)], NOW)
    assert {one.prefix: one.counted_by_service for one in store.left_behind(10)} == {"b/": False, "a/": False, "d/": True}


def known(prefix: str, key: str, verdict: str = "done") -> KnownObject:
    return KnownObject(
        prefix=Prefix(prefix),
        key=key,
        size=5,
        etag="e",
        generation=7,
        crc32c="AAAAAA==",
        verified="md5",
        verdict=verdict,
        job_name="transferJobs/x",
    )


def test_an_object_is_known_as_it_was_last_seen(store: JobStore) -> None:
    first = [known("a/", f"a/{index:03}") for index in range(300)]
    store.put_objects(first, NOW)
    store.put_objects(first, NOW)
    store.put_objects([known("a/", "a/007", "skipped"), known("b/", "b/ü\n'")], NOW + timedelta(seconds=1))
    store.put_objects([], NOW)
    found = store.objects(Prefix("a/"), 1000)
    assert len(found) == 300
    assert {one.key for one in found if one.verdict == "skipped"} == {"a/007"}
    assert store.objects(Prefix("b/"), 10) == (known("b/", "b/ü\n'"),)
    assert [one.key for one in store.objects(Prefix("a/"), 2)] == ["a/000", "a/001"]


def test_prefixes_of_each_limit_are_startable_however_many_the_other_has(store: JobStore) -> None:
    own = {
        **{
            Prefix(f"a{index}/"): Chosen(
                route=Route.CDN, source="s3://other/in", destination="gs://other/out", egress="https://d.example"
            )
            for index in range(3)
        },
        Prefix("c/"): Chosen(route=Route.STS_GCS),
    }
    prefixes = [Prefix(one) for one in ("a0/", "a1/", "a2/", "b/", "c/", "d/")]
    assert store.load(prefixes, NOW, lambda _number: None, own).added == 6
    job = store.job(Prefix("a1/"))
    assert job is not None
    assert (job.route, job.source, job.destination) == (Route.CDN, "s3://other/in", "gs://other/out")
    assert job.egress == "https://d.example"
    both = store.startable(NOW, {Limit.SERVICE: 2, Limit.POOL: 2}, Route.STS_S3)
    assert [one.prefix for one in both] == ["a0/", "a1/", "b/", "c/"]
    default = store.startable(NOW, {Limit.SERVICE: 2, Limit.POOL: 4}, Route.CDN)
    assert [one.prefix for one in default] == ["a0/", "a1/", "a2/", "b/", "c/"]
    assert [one.prefix for one in store.startable(NOW, {Limit.POOL: 1}, Route.STS_S3)] == ["a0/"]


def test_live_rows_are_the_running_and_paused_ones(store: JobStore) -> None:
    load(store, "a/", "b/", "c/")
    run(store, "b/")
    run(store, "c/", status=JobStatus.PAUSED)
    assert [job.prefix for job in store.live()] == ["b/", "c/"]


def test_rows_are_found_by_their_transfer_job(store: JobStore) -> None:
    load(store, "a/", "b/")
    run(store, "a/")
    other = JobName("transferJobs/other")
    assert {name: job.prefix for name, job in store.jobs_named([JOB, other]).items()} == {JOB: "a/"}


def test_all_rows_of_a_status(store: JobStore) -> None:
    load(store, *(f"{number:04}/" for number in range(2100)))
    run(store, "0007/")
    assert [job.prefix for job in store.with_status(JobStatus.RUNNING)] == ["0007/"]
    assert len(list(store.with_status(JobStatus.WAITING))) == 2099


def test_more_changes_than_one_statement_takes(store: JobStore) -> None:
    load(store, *(f"{number:04}/" for number in range(1500)))
    rows = list(store.with_status(JobStatus.WAITING))
    changes = [changed(job, replace(job, error_code="X"), NOW) for job in rows]
    assert not record(store, *changes)
    assert store.error_groups(5)[0].prefixes == 1500


def test_prefixes_that_overlap_with_stored_ones_are_named(store: JobStore) -> None:
    load(store, "a/b/", "c/", "e/1/", "e/2/")
    new = sorted(checked_prefixes(["a/", "a/b/", "b/", "c/d/", "e/", "f/", "c"]))
    clashes = {(clash.prefix, clash.stored) for clash in store.clashes(new, 10)}
    assert {prefix for prefix, _ in clashes} == {"a/", "c", "c/d/", "e/"}
    assert ("c/d/", "c/") in clashes
    assert store.clashes(checked_prefixes(["b/", "f/"]), 10) == ()
    assert len(store.clashes(new, 2)) == 2
    assert isinstance(store.clashes(new, 1)[0], PrefixClash)


def test_whose_ledger_is_told_is_written_down_by_who_leads_alone(store: JobStore) -> None:
    clock = FakeClock()
    first, second = (StoreLease(store, clock, lock_path=None, lease_s=60) for _ in range(2))
    assert store.control().ledger == ""
    assert first.acquire() is None
    store.note_ledger("first", first.fence)
    assert store.control().ledger == "first"
    old = first.fence
    first.release()
    assert second.acquire() is None
    with pytest.raises(LeaseLost):
        store.note_ledger("late", old)
    assert store.control().ledger == "first"
    store.note_ledger("second", second.fence)
    assert store.control().ledger == "second"


def test_hold_breaker_and_report_are_kept(store: JobStore) -> None:
    assert store.control().hold is None
    hold = Hold(by="ops@host", at=NOW, reason="costs")
    store.set_hold(hold)
    breaker = Breaker(code="X", message="m", opened_at=NOW, probe_at=NOW, probes=2, probe=Prefix("a/"))
    sample = Sample(at=NOW, done=1, bytes_copied=2, objects_copied=3)
    used = QuotaUse(project="one", kind="create", seconds=60.0, calls=2, most=600)
    report = PassReport(
        at=NOW,
        interval_s=60.0,
        running=4,
        stalled=1,
        blocked="b",
        degraded="d",
        samples=(sample,),
        quotas=(used,),
        creates={"one": {3: 4}},
    )
    store.record(Batch(at=NOW, writes_state=True, breaker=breaker, report=report))
    control = store.control()
    assert (control.hold, control.breaker, control.report) == (hold, breaker, report)
    store.record(Batch(at=NOW))
    assert store.control().breaker == breaker
    store.record(Batch(at=NOW, writes_state=True, report=report))
    store.set_hold(None)
    assert (store.control().breaker, store.control().hold) == (None, None)


def test_what_a_probe_observed_is_kept(store: JobStore) -> None:
    assert store.control().answers is None
    answers = ServiceAnswers(probe="p", at=NOW, project="one", destination="gs://d/x/", answers={"transfer": "succeeded"})
    store.set_answers(answers)
    assert store.control().answers == answers
    store.record(Batch(at=NOW, writes_state=True))
    assert store.control().answers == answers, "what the daemon records leaves it alone"
    store.set_answers(None)
    assert store.control().answers is None


def test_the_buckets_are_bound_once_a_prefix_has_begun(store: JobStore) -> None:
    load(store, "a/")
    assert store.bind("s3://typo", "gs://two").source == "s3://typo"
    assert store.bind("s3://one", "gs://two").source == "s3://one"
    run(store, "a/")
    again = store.bind("s3://other", "gs://two")
    assert (again.source, again.sink) == ("s3://one", "gs://two")


def test_sums_and_error_groups(store: JobStore) -> None:
    load(store, "a/", "b/", "c/", "d/")
    counters = Counters(objects_copied=2, bytes_copied=10)
    for text in ("a/", "b/"):
        run(store, text, status=JobStatus.ERROR, error_code="UNAVAILABLE", error_message=f"of {text}", counters=counters)
    run(store, "c/", status=JobStatus.DONE, error_code="UNAVAILABLE")
    record(store, to(store, "d/", error_code="THROTTLED"))
    assert (store.totals().objects_copied, store.totals().bytes_copied) == (4, 20)
    first, second = store.error_groups(10)
    assert (first.prefixes, first.status, first.code) == (2, JobStatus.ERROR, "UNAVAILABLE")
    assert (first.example, first.message) == ("a/", "of a/")
    assert (second.prefixes, second.status) == (1, JobStatus.WAITING)
    load(store, "e/")
    run(store, "e/", status=JobStatus.DONE, error_code=EMPTY, error_message="matches nothing")
    empty = store.error_groups(10)[1]
    assert (empty.prefixes, empty.status, empty.code, empty.message) == (1, JobStatus.DONE, EMPTY, "matches nothing")


def test_a_writer_without_the_lease_writes_nothing(store: JobStore) -> None:
    load(store, "a/")
    lease = StoreLease(store, FakeClock(), lock_path=None, lease_s=60)
    assert lease.acquire() is None
    change = to(store, "a/", status=JobStatus.RUNNING, job_name=JOB, attempt=1)
    with pytest.raises(LeaseLost):
        store.record(Batch(changes=(change,), at=NOW, fence=lease.fence - 1, writes_state=True))
    assert row(store, "a/").generation == 0
    assert not list(store.history(Prefix("a/")))
    assert not store.record(Batch(changes=(change,), at=NOW, fence=lease.fence))


def test_the_lease_record_is_compared_and_set(store: JobStore) -> None:
    assert store.lease_text() is None
    assert not store.swap_lease("ghost", "one")
    assert store.lease_text() is None
    assert store.swap_lease(None, "one")
    assert not store.swap_lease(None, "two")
    assert not store.swap_lease("two", "three")
    assert store.swap_lease("one", "two")
    assert store.lease_text() == "two"


def test_prefixes_and_destinations_of_rows_own_come_in_the_order_of_their_bytes(store: JobStore) -> None:
    texts = sorted(checked_prefixes(["b/", "a/", "é/", "\U0001f600/", "￿/", "c/"]))
    own = {
        Prefix("c/"): Chosen(destination="gs://other/x"),
        Prefix("a/"): Chosen(destination="gs://other"),
        Prefix("b/"): Chosen(),
    }
    store.load(texts, NOW, lambda _: None, own)
    assert list(store.prefixes()) == sorted(texts, key=str.encode)
    assert list(store.own_destinations()) == [("a/", "gs://other"), ("c/", "gs://other/x")]


def test_places_of_rows_own_are_told_once_however_many_rows_share_them(store: JobStore) -> None:
    assert list(store.own_places()) == []
    texts = sorted(checked_prefixes(["a/", "b/", "c/", "d/", "e/"]))
    own = {
        Prefix("a/"): Chosen(destination="gs://other"),
        Prefix("b/"): Chosen(destination="gs://other"),
        Prefix("c/"): Chosen(source="s3://there/x"),
        Prefix("d/"): Chosen(source="s3://there/x", destination="gs://other"),
    }
    store.load(texts, NOW, lambda _: None, own)
    assert sorted(store.own_places()) == [("", "gs://other"), ("s3://there/x", ""), ("s3://there/x", "gs://other")]
