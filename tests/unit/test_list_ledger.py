"""The ledger of URL lists: states, counts, and what survives a process that dies anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.protocol.messages import JobSpec
from cdn_worker.protocol.url_list_jobs import CANCELLED, Moved, Row, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.model import OperationState
from sts_manager.routes.url_list.operation import snapshot, state_of

NOW = datetime(2026, 11, 21, tzinfo=UTC)
JOB = "transferJobs/stsm-x-a1"
SPEC = JobSpec(job=JOB, prefix="p/", source_bucket="source-bucket", sink_bucket="sink-bucket")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[ListLedger]:
    made = ListLedger(tmp_path / "lists.db", StoreUnavailable)
    yield made
    made.close()


def row(key: str, size: int = 10) -> Row:
    return Row(f"https://h/{key}", key, size, f"etag-{key}", "2026", 0)


def bad(key: str, error: str = "archived") -> KeyVerdict:
    return KeyVerdict(key=key, size=1, etag="e", verdict=Verdict.UNMAPPABLE, error=error, details="why", tries=0)


def skipped(key: str) -> KeyVerdict:
    return KeyVerdict(
        key=key, size=5, etag="e", verdict=Verdict.SKIPPED, generation=1, crc32c=b"c", verified=Verified.SIZE, tries=0
    )


def listed(ledger: ListLedger, *keys: str) -> None:
    """A job whose lists are written: the first key is the canary's."""
    ledger.begin(SPEC, "p/", NOW, full_metadata=True)
    ledger.list_anew(JOB, "https://h/")
    ledger.found(JOB, [row(key) for key in keys], [skipped("s"), bad("g")])
    ledger.add_part(JOB, 0, [row(keys[0]).url], 10, "gs://b/0")
    ledger.add_part(JOB, 1, [row(key).url for key in keys[1:]], 10, "gs://b/1")
    ledger.enter(JOB, State.CANARY, was=State.LISTING)


def state(ledger: ListLedger) -> OperationState:
    job = ledger.job(JOB)
    assert job is not None
    return state_of(job, ledger.parts(JOB))


def seen(ledger: ListLedger, number: int, what: str, *, paused: bool = False, error: str = "") -> None:
    errors = [(error, 1, "the service's reason")] if error else []
    ledger.seen(ledger.parts(JOB)[number], what, copied=1, copied_bytes=10, errors=errors, paused=paused)


def test_what_is_listed_is_counted_once_however_often_it_is_begun(ledger: ListLedger) -> None:
    for _ in range(2):
        ledger.begin(SPEC, "p/", NOW, full_metadata=True)
        ledger.list_anew(JOB, "https://h/")
        ledger.found(JOB, [row("a"), row("b")], [skipped("s"), bad("g")])
    job = ledger.job(JOB)
    assert job is not None
    assert job.objects == {"listed": 4, "skipped": 1, "todo": 2, "moved": 0, "failed": 1}
    assert job.bytes == {"listed": 26, "skipped": 5, "todo": 20, "moved": 0, "failed": 1}
    assert [one.key for one in ledger.rows(JOB)] == ["a", "b"]


def test_the_canary_is_the_object_whose_name_tells_most(ledger: ListLedger) -> None:
    ledger.begin(SPEC, "p/", NOW, full_metadata=True)
    assert ledger.canaries(JOB) == []
    ledger.found(JOB, [row("a", 0), row("b", 9), row("c", 5)], [])
    assert [one.key for one in ledger.canaries(JOB)] == ["c"], "not empty, and small"
    ledger.found(JOB, [row("d%20e", 99)], [])
    assert [one.key for one in ledger.canaries(JOB)] == ["d%20e"]


def test_a_second_canary_has_no_md5_where_there_is_such_an_object(ledger: ListLedger) -> None:
    md5 = "0123456789abcdef" * 2
    ledger.begin(SPEC, "p/", NOW, full_metadata=True)
    ledger.found(JOB, [row("a%20b")._replace(etag=md5), row("c", 5)._replace(etag=md5)], [])
    assert [one.key for one in ledger.canaries(JOB)] == ["a%20b"]
    ledger.found(JOB, [row("d", 7)._replace(etag=f"{md5}-2"), row("A", 9)._replace(etag=f"{md5}-3")], [])
    assert [one.key for one in ledger.canaries(JOB)] == ["a%20b", "d"]


def test_two_keys_with_one_path_are_neither_transferred(ledger: ListLedger) -> None:
    ledger.begin(SPEC, "p/", NOW, full_metadata=True)
    ledger.found(JOB, [row("a"), row("b")], [])
    ledger.found(JOB, [row("a")._replace(key="other")], [])
    job = ledger.job(JOB)
    assert job is not None
    assert [(one.key, one.error) for one in ledger.failures(JOB, 9)] == [("a", "same_path"), ("other", "same_path")]
    assert [one.key for one in ledger.rows(JOB)] == ["b"]
    assert (job.objects["todo"], job.objects["failed"], job.objects["listed"]) == (1, 2, 3)
    ledger.found(JOB, [row("a")._replace(key="third")], [])
    assert [one.key for one in ledger.failures(JOB, 9)] == ["a", "other", "third"]
    assert [one.key for one in ledger.rows(JOB)] == ["b"]


def test_a_state_is_left_only_from_where_the_job_is(ledger: ListLedger) -> None:
    listed(ledger, "a", "b")
    ledger.enter(JOB, State.MOVING, was=State.LISTING)
    assert [one.state for one in ledger.live()] == [State.CANARY]
    ledger.enter(JOB, State.MOVING, was=State.CANARY, code="FIRST", message="this one")
    ledger.enter(JOB, State.SENDING, was=State.MOVING, code="SECOND", message="not this one")
    job = ledger.job(JOB)
    assert job is not None
    assert (job.state, job.error_code, job.error_message) == (State.SENDING, "FIRST", "this one")


def test_what_was_not_moved_has_failed_with_the_reason_of_its_list(ledger: ListLedger) -> None:
    listed(ledger, "a", "b", "c")
    seen(ledger, 0, "SUCCESS")
    seen(ledger, 1, "FAILED", error="PERMISSION_DENIED")
    ledger.settle(JOB, [Moved(row("a"), Verified.MD5), Moved(row("b"), Verified.SIZE)], [])
    ledger.end(JOB, NOW)
    job = ledger.job(JOB)
    assert job is not None
    assert (job.objects["moved"], job.objects["failed"], job.verified) == (2, 2, {"md5": 1, "crc32c": 0, "size": 1})
    told = {one.key: (one.error, one.details) for one in ledger.failures(JOB, 9)}
    assert told == {"c": ("permission_denied", "the service's reason"), "g": ("archived", "why")}
    assert state(ledger) is OperationState.FAILED
    found = snapshot(job, ledger.parts(JOB), ledger.error_counts(JOB))
    counters = found.counters
    assert counters.objects_found == counters.objects_copied + counters.objects_failed
    assert {(one.code, one.count) for one in found.errors} == {("ARCHIVED", 1), ("PERMISSION_DENIED", 1)}
    assert not found.permanent, "another attempt may bring what was denied"


def test_all_there_is_a_success_and_an_archived_object_never(ledger: ListLedger) -> None:
    listed(ledger, "a", "b")
    ledger.settle(JOB, [Moved(row("a"), Verified.MD5), Moved(row("b"), Verified.MD5)], [])
    ledger.end(JOB, NOW)
    job = ledger.job(JOB)
    assert job is not None
    found = snapshot(job, (), ledger.error_counts(JOB))
    assert (found.state, found.permanent) == (OperationState.FAILED, True), "restoring it is a person's"
    other = JobSpec(job=f"{JOB}2", prefix="p/", source_bucket="source-bucket", sink_bucket="sink-bucket")
    ledger.begin(other, "p/", NOW, full_metadata=True)
    ledger.end(other.job, NOW)
    second = ledger.job(other.job)
    assert second is not None
    assert state_of(second, ()) is OperationState.SUCCESS
    assert ledger.failures(JOB, 9) == [], "those of the attempt before have had their time"


def test_a_pause_stands_until_nothing_moves_and_a_persons_pause_is_seen(ledger: ListLedger) -> None:
    listed(ledger, "a", "b")
    ledger.started(ledger.parts(JOB)[0], "transferOperations/0")
    assert state(ledger) is OperationState.IN_PROGRESS
    assert ledger.set_paused(JOB, paused=True)
    assert not ledger.set_paused(JOB, paused=True)
    assert state(ledger) is OperationState.SUSPENDING
    seen(ledger, 0, "started", paused=True)
    assert state(ledger) is OperationState.PAUSED
    assert ledger.set_paused(JOB, paused=False)
    assert state(ledger) is OperationState.IN_PROGRESS
    assert ledger.parts(JOB)[0].resumable
    ledger.may_resume(ledger.parts(JOB)[0], resumable=False)
    seen(ledger, 0, "started", paused=True)
    assert state(ledger) is OperationState.PAUSED, "somebody paused it at the service"
    assert not ledger.parts(JOB)[0].resumable
    assert ledger.set_paused(JOB, paused=False), "but a command may resume it"
    assert ledger.parts(JOB)[0].resumable
    assert not ledger.set_paused(JOB, paused=False)


def test_a_cancelled_listing_is_cleared_up_at_once_and_a_transfer_by_whoever_drives_it(ledger: ListLedger) -> None:
    ledger.begin(SPEC, "p/", NOW, full_metadata=True)
    ledger.cancel(JOB)
    assert [one.state for one in ledger.work()] == [State.MOVING]
    ledger.enter(JOB, State.CANARY, was=State.LISTING)  # a lister that did not know
    assert [one.state for one in ledger.work()] == [State.MOVING]
    ledger.end(JOB, NOW)
    assert state(ledger) is OperationState.ABORTED
    job = ledger.job(JOB)
    assert job is not None
    assert job.error_code == CANCELLED
    ledger.cancel(JOB)
    assert ledger.live() == []


def test_failures_are_told_once(ledger: ListLedger) -> None:
    listed(ledger, "a", "b")
    assert ledger.busy()
    ledger.end(JOB, NOW)
    assert [one.name for one in ledger.untold()] == [JOB]
    ledger.telling(JOB)
    assert [one.name for one in ledger.untold()] == [JOB], "whoever was to tell it may have died"
    ledger.told(JOB)
    assert ledger.untold() == []
    assert not ledger.busy()


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lists.db"
    ledger = ListLedger(path, StoreUnavailable)
    ledger._file.script("PRAGMA user_version = 99;")
    ledger.close()
    with pytest.raises(StoreUnavailable, match="newer version"):
        ListLedger(path, StoreUnavailable)
