"""The log of what failed is read again until all are named: with a clock, a service and a store that do as they are told."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdn_worker.protocol.messages import Failure
from sts_manager.domain.errors import Denied, Retryable, Throttled
from sts_manager.domain.model import Change, Counters, FailedObject, JobStatus, PrefixJob, Route, changed
from sts_manager.domain.names import OperationName, Prefix, job_name
from sts_manager.ports import Batch
from sts_manager.routes.sts.failure_log import LATE, LogReader, reading_of
from sts_manager.routes.sts.transfer_log import LoggedFailure, LoggedFailures, filter_of
from sts_manager.stores.sql.store import SqlStore, open_store
from tests.fakes.clock import START, FakeClock

PREFIX = Prefix("p/")
BEGAN = "2026-11-20T02:00:00.123456789Z"


@dataclass
class Scene:
    """One prefix, of which `failed` objects failed in its attempts, and whatever the service has logged by now."""

    path: Path
    clock: FakeClock = field(default_factory=FakeClock)
    logged: LoggedFailures = field(default_factory=LoggedFailures)
    compared: Sequence[Failure] | None = ()
    refuses: Exception | None = None
    asked: list[tuple[str, OperationName, datetime]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with closing(open_store(self.url, create=True)) as store:
            store.load([PREFIX], START, lambda _: None)
        self.reader = self.restarted()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}/store.db"

    def restarted(self) -> LogReader:
        def read(project: str, operation: OperationName, since: datetime) -> LoggedFailures:
            self.asked.append((project, operation, since))
            if self.refuses is not None:
                raise self.refuses
            return self.logged

        path = self.path / "failure_log.db"
        self.reader = LogReader(path, read, lambda _job: self.compared, lambda: open_store(self.url), self.clock, most=100)
        return self.reader

    def store(self) -> closing[SqlStore]:
        return closing(open_store(self.url))

    def end(self, attempt: int, status: JobStatus = JobStatus.ERROR, failed: int = 2, results: str = "") -> Change:
        """An attempt comes to its end, as the store has it then."""
        with self.store() as store:
            before = store.job(PREFIX)
            assert before is not None
            name = job_name("0badcafe", PREFIX, attempt)
            row = replace(
                before,
                status=JobStatus.RUNNING,
                route=Route.STS_S3,
                attempt=attempt,
                job_name=name,
                operation_name=OperationName(f"transferOperations/{attempt}"),
                started_at=START,
            )
            store.record(Batch(changes=(running := changed(before, row, START),), at=START))
            over = replace(
                running.after,
                status=status,
                operation_name=None if status is JobStatus.WAITING else row.operation_name,
                counters=Counters(objects_failed=failed),
                error_code="X",
                error_message="as the service said",
            )
            change = changed(running.after, over, START, results)
            store.record(Batch(changes=(change,), at=START))
        return change

    def told(self) -> dict[str, tuple[str, str]]:
        with self.store() as store:
            return {one.key: (one.error, one.details) for one in store.failures(None, 100)}

    def row(self) -> PrefixJob:
        with self.store() as store:
            found = store.job(PREFIX)
        assert found is not None
        return found

    def log(self, *keys: str) -> None:
        for key in keys:
            self.logged.objects[key] = failure(key)

    def pass_time(self, seconds: float) -> int:
        """Turns as the thread makes them, one in two seconds; how often the log was read."""
        before = len(self.asked)
        for _ in range(int(seconds / 2)):
            self.clock.advance(2)
            self.reader.read_next()
        return len(self.asked) - before


def failure(key: str, error: str = "not_found") -> LoggedFailure:
    return LoggedFailure(key=key, error=error, details=f"GONE: {key} is gone")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.reader.close()


def test_it_is_read_again_until_as_many_are_named_as_failed(scene: Scene) -> None:
    scene.log("p/a")
    scene.reader.want(scene.end(1))
    assert scene.told() == {"p/a": ("not_found", "GONE: p/a is gone")}
    scene.log("p/b")
    assert scene.pass_time(10) == 1
    assert set(scene.told()) == {"p/a", "p/b"}
    assert scene.pass_time(3600) == 0, "all are named"


def test_a_look_that_finds_nothing_more_writes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look wrote the same rows again: statements that cost money where the job table is in BigQuery."""
    put: list[int] = []
    real = SqlStore.put_failures

    def counted(self: SqlStore, prefix: Prefix, failures: Sequence[FailedObject], at: datetime) -> None:
        put.append(len(failures))
        real(self, prefix, failures, at)

    monkeypatch.setattr(SqlStore, "put_failures", counted)
    scene.reader.want(scene.end(1, failed=3))
    scene.log("p/a")
    assert scene.pass_time(200) > 3
    assert put == [1]
    scene.log("p/b", "p/c")
    scene.pass_time(200)
    assert put == [1, 3]
    assert set(scene.told()) == {"p/a", "p/b", "p/c"}


def test_after_ten_minutes_it_is_left_and_told_how_many_are_missing(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.log("p/a")
    scene.reader.want(scene.end(1))
    asked = scene.pass_time(LATE.total_seconds() + 120)
    assert 8 <= asked <= 20, "often at first, then once a minute"
    (record,) = [one for one in caplog.records if one.message == "failed_objects_not_named"]
    fields = record.__dict__["fields"]
    assert (fields["failed"], fields["named"], fields["prefix"]) == (2, 1, PREFIX)
    assert scene.pass_time(3600) == 0


def test_a_reader_that_is_started_again_goes_on_and_looks_once_at_least(scene: Scene) -> None:
    scene.reader.want(scene.end(1))
    scene.reader.close()
    scene.clock.advance(7200)
    scene.log("p/a")
    scene.restarted().catch_up()
    assert set(scene.told()) == {"p/a"}
    assert scene.pass_time(3600) == 0


@pytest.mark.parametrize("error", [Denied("no"), Retryable("away"), Throttled("no quota")])
def test_a_log_that_cannot_be_read_is_tried_again(scene: Scene, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene.refuses = error
    scene.reader.want(scene.end(1))
    scene.pass_time(240)
    assert len([one for one in caplog.records if one.message == "transfer_log_not_read"]) == (not isinstance(error, Throttled))
    assert scene.told() == {}
    scene.refuses = None
    scene.log("p/a", "p/b")
    scene.pass_time(120)
    assert set(scene.told()) == {"p/a", "p/b"}


def test_no_quota_is_no_look(scene: Scene) -> None:
    """However long others use it up: what was never read is not given up."""
    scene.refuses = Throttled("no quota")
    scene.reader.want(scene.end(1))
    scene.pass_time(3600)
    scene.refuses = None
    scene.log("p/a", "p/b")
    scene.pass_time(120)
    assert set(scene.told()) == {"p/a", "p/b"}


def test_what_a_comparison_finds_missing_gets_its_own_causes(scene: Scene) -> None:
    known = [Failure(key=f"p/{one}", size=7, etag="e", verdict="failed", error="x", details="the commonest") for one in "ab"]
    scene.compared = None
    scene.log("p/a", "p/meanwhile-there")
    scene.reader.want(scene.end(1, failed=3))
    assert (scene.told(), scene.asked) == ({}, []), "the listings are compared first"
    scene.compared = known
    scene.pass_time(10)
    assert scene.told() == {"p/a": ("not_found", "GONE: p/a is gone"), "p/b": ("x", "the commonest")}
    with scene.store() as store:
        assert {one.size for one in store.failures(PREFIX, 10)} == {7}


def test_a_listing_that_failed_is_told_with_the_prefix(scene: Scene) -> None:
    scene.logged.listings["s3://b/in/"] = failure("s3://b/in/", "permission_denied")
    scene.reader.want(scene.end(1, failed=0))
    details = "it could not be listed: GONE: s3://b/in/ is gone"
    assert scene.told() == {"s3://b/in/": ("permission_denied", details)}
    told = "the service could not list s3://b/in/: GONE: s3://b/in/ is gone; as the service said"
    assert (scene.row().error_message, scene.row().status) == (told, JobStatus.ERROR)
    assert scene.pass_time(3600) == 0, "the cause is known"


def test_of_an_attempt_that_is_history_nothing_is_told(scene: Scene) -> None:
    first = scene.end(1, JobStatus.WAITING)
    scene.reader.want(first)
    scene.end(2)
    scene.logged.listings["s3://b/"] = failure("s3://b/")
    scene.pass_time(10)
    assert scene.row().error_message == "as the service said"


def test_what_failed_before_is_forgotten_when_the_prefix_is_there(scene: Scene) -> None:
    scene.reader.want(scene.end(1, JobStatus.WAITING))
    scene.reader.forget(scene.end(2, JobStatus.DONE, failed=0))
    scene.log("p/a")
    scene.pass_time(3600)
    assert scene.told() == {}


def test_a_later_attempt_takes_the_place_of_an_earlier_one(scene: Scene) -> None:
    scene.reader.want(scene.end(1, JobStatus.WAITING))
    scene.reader.want(scene.end(2))
    scene.pass_time(3600)
    assert [str(one) for _, one, _ in scene.asked[:3]] == ["transferOperations/1", *["transferOperations/2"] * 2]
    assert {str(one) for _, one, _ in scene.asked[1:]} == {"transferOperations/2"}


def test_a_start_that_was_refused_has_no_log(scene: Scene) -> None:
    change = scene.end(1)
    none = replace(change, before=replace(change.before, operation_name=None), after=replace(change.after, operation_name=None))
    assert reading_of(none, START) is None


def test_whose_log_is_read_and_from_when(scene: Scene) -> None:
    """By the service's clock where it is known; by ours with an hour to spare."""
    results = json.dumps({"name": "transferOperations/1", "startTime": BEGAN})
    change = scene.end(1, JobStatus.WAITING, results=results)
    found = reading_of(change, START)
    assert found is not None
    assert (str(found.operation), found.expected, found.until) == ("transferOperations/1", 2, START + LATE)
    assert found.since == datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC)
    for unknown in ("", "no JSON", "[]"):
        guessed = reading_of(replace(change, results=unknown), START)
        assert guessed is not None
        assert guessed.since == START - timedelta(hours=1)


def test_the_filter_is_one_log_one_operation_and_what_came_since() -> None:
    text = filter_of("my-project", OperationName("transferOperations/transferJobs-x-1"), datetime(2026, 11, 20, 2, 0, 5, 9, UTC))
    assert text == (
        'logName="projects/my-project/logs/storagetransfer.googleapis.com%2Ftransfer_activity" '
        'AND resource.type="storage_transfer_job" AND severity>=ERROR '
        'AND jsonPayload.operation:"transferJobs-x-1" AND timestamp>="2026-11-20T02:00:05Z"'
    )


def test_failed_objects_of_a_store_are_what_is_expected_here(scene: Scene) -> None:
    scene.log("p/a", "p/b")
    scene.reader.want(change := scene.end(1))
    with scene.store() as store:
        (first, _) = store.failures(PREFIX, 10)
    assert first == FailedObject(
        prefix=PREFIX,
        key="p/a",
        size=0,
        etag="",
        verdict="failed",
        error="not_found",
        details="GONE: p/a is gone",
        job_name=str(change.after.job_name),
    )
