"""Whole passes over the real store, the real client and the stage: what users run, in one process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from sts_manager.clock import SystemClock
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.location import place
from sts_manager.domain.model import Hold, JobStatus, Policy, PrefixJob, Route
from sts_manager.domain.names import Prefix, checked_prefixes
from sts_manager.routes.sts.route import StsRoute, connect
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from sts_manager.stores.sql.store import SqlStore, open_store
from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, s3_client, wait_for
from tools.emulators.stage import KEYS, PROJECT, Stage
from tools.emulators.sts.copier import Status

CLOCK = SystemClock()


class Migration:
    """A store file, a daemon's reconciler, and the stage."""

    def __init__(self, stage: Stage, path: Path) -> None:
        self.stage = stage
        self.store = open_store(f"sqlite:///{path}/store.db", create=True)
        self.settings = TransferSettings(
            project=PROJECT,
            source=place(f"s3://{SOURCE}"),
            sink=place(f"gs://{SINK}"),
            s3_access=S3Access(key_id=KEYS.key_id, secret_key=KEYS.secret),
        )
        self.policy = Policy(
            migration=self.store.control().migration,
            route=Route.STS_S3,
            running_max=200,
            attempts_max=3,
            retry_delay=timedelta(seconds=0.01),
            breaker_delay=timedelta(seconds=0.05),
        )
        self.reconciler = self.restarted()

    def restarted(self) -> Reconciler:
        client = connect(PROJECT, self.stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], CLOCK)
        route = StsRoute({PROJECT: client}, self.settings)
        self.reconciler = Reconciler(self.store, {Route.STS_S3: route, Route.STS_GCS: route}, self.policy, CLOCK)
        return self.reconciler

    def load(self, *texts: str) -> None:
        self.store.load(sorted(checked_prefixes(texts)), CLOCK.now(), lambda _: None)

    def until_ended(self) -> None:
        wait_for(lambda: self.reconciler.run_pass(dispatch=True).ended, seconds=20)

    def row(self, text: str) -> PrefixJob:
        job = self.store.job(Prefix(text))
        assert job is not None
        return job


@pytest.fixture
def migration(stage: Stage, tmp_path: Path) -> Iterator[Migration]:
    made = Migration(stage, tmp_path)
    yield made
    made.store.close()


HARD = [
    "a b",
    "a%20b",
    "a+b",
    "q?x=1",
    "h#x",
    "d//e",
    "./x",
    "x/../y",
    "é/日本",
    "tab\tx",
    "a/",
    "a",
    "%2F",
    "🎉",
    "b=;,@:$!*'()&",
]


def test_every_object_arrives_byte_for_byte_under_its_own_name(migration: Migration) -> None:
    objects = {f"p{index // len(HARD)}/{key}": f"{index} {key}".encode() for index, key in enumerate(HARD * 3)}
    objects["p0/empty"] = b""
    fill(migration.stage, objects | {"other/x": b"not asked for"})
    migration.load("p0/", "p1/", "p2/")
    migration.until_ended()
    assert at_sink(migration.stage) == objects
    assert migration.store.counts()[JobStatus.DONE] == 3
    total = migration.store.totals()
    assert (total.objects_copied, total.bytes_copied) == (len(objects), sum(map(len, objects.values())))


def test_the_source_etag_and_headers_are_kept(migration: Migration) -> None:
    fill(migration.stage, {})
    with s3_client(migration.stage) as s3, gcs_client(migration.stage) as gcs:
        put = s3.put_object(
            Bucket=SOURCE, Key="p/x", Body=b"x", ContentType="text/x-y", CacheControl="no-store", Metadata={"who": "me"}
        )
        migration.load("p/")
        migration.until_ended()
        blob = gcs.bucket(SINK).get_blob("p/x")
    assert (blob.content_type, blob.cache_control) == ("text/x-y", "no-store")
    assert blob.metadata == {"who": "me", "x-goog-source-etag": put["ETag"].strip('"')}


def test_a_second_migration_copies_only_what_differs(migration: Migration, tmp_path: Path) -> None:
    fill(migration.stage, {"p/same": b"1", "p/changed": b"1"})
    migration.load("p/")
    migration.until_ended()
    with s3_client(migration.stage) as s3:
        s3.put_object(Bucket=SOURCE, Key="p/changed", Body=b"2")
    (tmp_path / "again").mkdir()
    again = Migration(migration.stage, tmp_path / "again")
    again.load("p/")
    again.until_ended()
    counters = again.row("p/").counters
    assert (counters.objects_copied, counters.objects_skipped) == (1, 1)
    assert at_sink(migration.stage) == {"p/same": b"1", "p/changed": b"2"}
    again.store.close()


def test_a_service_that_finds_nothing_the_same_copies_all_again_and_that_is_no_error(
    migration: Migration, tmp_path: Path
) -> None:
    """What the service takes for the same, nobody told: by ALWAYS it takes nothing for it."""
    fill(migration.stage, {"p/one": b"1", "p/two": b"2"})
    migration.load("p/")
    migration.until_ended()
    (tmp_path / "again").mkdir()
    again = Migration(migration.stage, tmp_path / "again")
    again.settings = replace(again.settings, overwrite_when="ALWAYS")
    again.restarted()
    again.load("p/")
    again.until_ended()
    counters = again.row("p/").counters
    assert (counters.objects_copied, counters.objects_skipped) == (2, 0)
    assert again.row("p/").status is JobStatus.DONE
    assert at_sink(migration.stage) == {"p/one": b"1", "p/two": b"2"}
    again.store.close()


def test_a_gcs_source(stage: Stage, tmp_path: Path) -> None:
    with gcs_client(stage) as gcs:
        bucket = gcs.create_bucket(SOURCE)
        gcs.create_bucket(SINK)
        bucket.blob("in/p/x").upload_from_string(b"1", content_type="text/x-y")
    migration = Migration(stage, tmp_path)
    migration.settings = TransferSettings(project=PROJECT, source=place(f"{SOURCE}/in"), sink=place(SINK))
    migration.restarted()
    migration.load("p/")
    migration.until_ended()
    assert at_sink(stage) == {"p/x": b"1"}
    migration.store.close()


@pytest.mark.parametrize("end", ["FAILED", "SUCCESS"])
def test_failed_objects_are_never_called_done(migration: Migration, end: str) -> None:
    """Whichever way the service ends such an operation (nobody could verify it), the prefix ends in error."""
    fill(migration.stage, {"p/good": b"1", "p/new\nline": b"2"})
    migration.stage.ledger.change({"sts.failed_objects_end": end})
    migration.load("p/")
    migration.until_ended()
    job = migration.row("p/")
    assert (job.status, job.attempt, job.error_code) == (JobStatus.ERROR, 3, "INVALID_ARGUMENT")
    assert "p/new" in job.error_message
    assert at_sink(migration.stage) == {"p/good": b"1"}
    last = list(migration.store.history(Prefix("p/")))[-1]
    assert json.loads(last.operation_results)["errorBreakdowns"][0]["errorCount"] == "1"


def test_retry_succeeds_when_the_cause_is_gone(migration: Migration) -> None:
    fill(migration.stage, {f"p/{index}": b"x" for index in range(5)})
    migration.stage.ledger.add_rule({"service": "gcs", "method": "xml.put", "error": "UNAVAILABLE", "times": 2})
    migration.load("p/")
    migration.until_ended()
    job = migration.row("p/")
    assert (job.status, job.attempt) == (JobStatus.DONE, 2)
    assert len(at_sink(migration.stage)) == 5


@pytest.mark.parametrize("method", ["CreateTransferJob", "RunTransferJob"])
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("error", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"])
def test_a_start_that_fails_or_whose_answer_is_lost_makes_one_job(
    migration: Migration, method: str, applied: bool, error: str
) -> None:
    fill(migration.stage, {"p/x": b"1"})
    rule = {"service": "sts", "method": method, "error": error, "applied": applied, "times": 2}
    migration.stage.ledger.add_rule(rule)
    migration.load("p/")
    migration.until_ended()
    service = migration.stage.sts
    assert service is not None
    assert len(service.jobs) == 1
    assert len(service.operations) == 1
    assert (migration.row("p/").status, migration.row("p/").attempt) == (JobStatus.DONE, 1)


@pytest.mark.parametrize("more", [{}, {"storage_class": "NEARLINE"}, {"overwrite": True}, {"overwrite_when": "NEVER"}])
def test_a_job_whose_defaults_the_service_spells_out_is_still_ours(migration: Migration, more: dict[str, Any]) -> None:
    fill(migration.stage, {"p/x": b"1"})
    migration.settings = replace(migration.settings, **more)
    migration.restarted()
    migration.stage.ledger.change({"sts.fill_defaults": True})
    migration.stage.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "error": "UNAVAILABLE", "applied": True})
    migration.load("p/")
    migration.until_ended()
    assert (migration.row("p/").status, migration.row("p/").attempt, migration.row("p/").error_message) == (JobStatus.DONE, 1, "")
    assert at_sink(migration.stage) == {"p/x": b"1"}


@pytest.mark.parametrize(
    ("source", "sink", "secret", "code", "named"),
    [
        (SOURCE, "no-such-bucket", KEYS.secret, "FAILED_PRECONDITION", "GCS bucket no-such-bucket"),
        ("no-such-bucket", SINK, KEYS.secret, "PERMISSION_DENIED", "s3://no-such-bucket"),
        (SOURCE, SINK, "wrong", "PERMISSION_DENIED", "The request signature we calculated does not match"),
    ],
)
@pytest.mark.parametrize("checked_at", ["create", "run"])
def test_a_missing_bucket_or_permission_opens_the_breaker_and_names_the_cause(
    migration: Migration, source: str, sink: str, secret: str, code: str, named: str, checked_at: str
) -> None:
    fill(migration.stage, {"p/x": b"1", "q/x": b"1"})
    migration.stage.ledger.change({"sts.buckets_checked_at": checked_at})
    migration.settings = TransferSettings(
        project=PROJECT,
        source=place(f"s3://{source}"),
        sink=place(sink),
        s3_access=S3Access(key_id=KEYS.key_id, secret_key=secret),
    )
    migration.restarted()
    migration.load("p/", "q/")
    wait_for(lambda: bool(migration.reconciler.run_pass(dispatch=True).plan.breaker))
    breaker = migration.store.control().breaker
    assert breaker is not None
    assert breaker.code == code
    assert named in breaker.message
    assert secret not in breaker.message
    assert all(migration.row(text).tries == 0 or migration.row(text).status is JobStatus.RUNNING for text in ("p/", "q/"))


def test_more_than_the_services_limit_is_queued_and_all_is_done(migration: Migration) -> None:
    fill(migration.stage, {f"p{index:02}/x": b"1" for index in range(12)})
    migration.stage.ledger.change({"sts.operations_in_progress_max": 2})
    migration.load(*(f"p{index:02}/" for index in range(12)))
    migration.until_ended()
    assert migration.store.counts()[JobStatus.DONE] == 12


@pytest.mark.parametrize("how", ["paused at once", "refused while it is queued"])
def test_a_queued_operation_is_paused_when_the_service_lets_it(migration: Migration, how: str) -> None:
    ledger, service = migration.stage.ledger, migration.stage.sts
    assert service is not None
    fill(migration.stage, {"p/x": b"1", "p/y": b"2"})
    ledger.change({"sts.operations_in_progress_max": 0})
    migration.load("p/")
    migration.reconciler.run_pass(dispatch=True)
    (operation,) = service.operations.values()
    assert operation.work.status == Status.QUEUED
    if how != "paused at once":
        ledger.add_rule({"service": "sts", "method": "PauseTransferOperation", "error": "FAILED_PRECONDITION", "times": 3})
    migration.store.set_hold(Hold(by="ops", at=CLOCK.now()))
    wait_for(lambda: bool(migration.reconciler.run_pass(dispatch=True)) and migration.row("p/").status is JobStatus.PAUSED)
    assert all(rule.fired == 3 for rule in ledger.rules)
    assert operation.work.status == Status.PAUSED
    migration.store.set_hold(None)
    ledger.change({"sts.operations_in_progress_max": 200})
    migration.until_ended()
    assert migration.row("p/").status is JobStatus.DONE


def test_the_services_create_quota_is_waited_for(migration: Migration) -> None:
    fill(migration.stage, {f"p{index}/x": b"1" for index in range(6)})
    migration.stage.ledger.change({"sts.creates_per_minute": 3})
    migration.load(*(f"p{index}/" for index in range(6)))
    for _ in range(12):
        migration.reconciler.run_pass(dispatch=True)
    assert migration.store.counts()[JobStatus.ERROR] == 0
    migration.stage.ledger.change({"sts.creates_per_minute": 600})
    migration.until_ended()
    assert {job.attempt for job in migration.store.with_status(JobStatus.DONE)} == {1}


def test_an_unknown_state_of_the_service_ends_nothing(migration: Migration) -> None:
    fill(migration.stage, {f"p/{index}": b"1" for index in range(50)})
    migration.stage.ledger.change({"sts.objects_per_second": 10})
    migration.load("p/")
    migration.reconciler.run_pass(dispatch=True)
    service = migration.stage.sts
    assert service is not None
    (name,) = service.operations
    service.force(name, 42)
    for _ in range(3):
        migration.reconciler.run_pass(dispatch=True)
    assert migration.row("p/").status is JobStatus.RUNNING
    service.force(name, 3)
    migration.until_ended()


def writes(store: SqlStore) -> list[str]:
    """Each write transaction of the store from now on."""
    begun: list[str] = []

    @sa.event.listens_for(store._engine, "before_cursor_execute")
    def _executed(_c, _cursor, statement, *_rest):  # type: ignore[no-untyped-def]
        if statement == "BEGIN IMMEDIATE":
            begun.append(statement)

    return begun


@pytest.mark.slow
def test_what_a_pass_costs_depends_on_what_is_live(migration: Migration) -> None:
    """10,000 prefixes, 5,000 finished operations in the past: calls <= 2 + live / 100 + 2 a start; one write if any."""
    service, ledger = migration.stage.sts, migration.stage.ledger
    assert service is not None
    service.seed_past(5000)
    # Nothing ends by itself: all stay queued. Buckets are not looked at, so that only the daemon's own calls are counted.
    ledger.change({"sts.operations_in_progress_max": 0, "sts.buckets_checked_at": "run"})
    migration.load(*(f"{index:05}/" for index in range(10_000)))
    batches = writes(migration.store)
    for _ in range(12):
        before = sum(ledger.report().get("sts", {}).values())
        live = len(migration.store.live())
        batches.clear()
        result = migration.reconciler.run_pass(dispatch=True)
        calls = sum(ledger.report().get("sts", {}).values()) - before
        assert calls <= 2 + math.ceil(live / 100) + 2 * result.acted
        assert len(batches) == bool(result.plan.changes)
    assert len(migration.store.live()) == 200
    # The steady state: 200 operations live, nothing to start.
    before = sum(ledger.report()["sts"].values())
    migration.reconciler.run_pass(dispatch=True)
    assert sum(ledger.report()["sts"].values()) - before == 2
