"""What the BigQuery store does when the service misbehaves, what a pass costs, and what wrong datasets are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud import bigquery

from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import BadInput, LeaseLost, StoreNotPrepared, StoreTooNew, StoreUnavailable
from sts_manager.domain.model import Breaker, Change, JobStatus, Limit, Policy, PrefixJob, Route, changed
from sts_manager.domain.names import JobName, Prefix, checked_prefixes
from sts_manager.ports import Batch
from sts_manager.stores.bigquery.client import connect
from sts_manager.stores.bigquery.setup import open_store, preparation
from sts_manager.stores.bigquery.statements import JOB_COLUMNS
from sts_manager.stores.bigquery.store import WRITE_BYTES, BigQueryStore
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import FakeClock
from tests.fakes.transfer_service import FakeTransferService
from tests.warehouses import NAMES, bigquery_store, warehouse
from tools.emulators.stage import Stage

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


@pytest.fixture
def store(stage: Stage) -> Iterator[BigQueryStore]:
    made = bigquery_store()
    made._warehouse._sleep = lambda _: None
    made.load(checked_prefixes(["a/", "b/"]), NOW, lambda _: None)
    stage.ledger.calls.clear()
    yield made
    made.close()


def started(store: BigQueryStore, text: str) -> Change:
    job = store.job(Prefix(text))
    assert job is not None
    return changed(job, replace(job, status=JobStatus.RUNNING, job_name=JobName("transferJobs/x"), attempt=1), NOW)


def written(store: BigQueryStore, text: str) -> tuple[int, int]:
    """(generation, rows of history) of a prefix."""
    job = store.job(Prefix(text))
    assert job is not None
    return job.generation, len(list(store.history(Prefix(text))))


def billed(stage: Stage) -> list[dict[str, object]]:
    assert stage.bigquery is not None
    return [one for one in stage.bigquery.jobs.billed() if not one["failed"]]


@pytest.mark.parametrize("method", ["jobs.insert", "jobs.getQueryResults"])
def test_a_write_whose_answer_is_lost_is_written_once(stage: Stage, store: BigQueryStore, method: str) -> None:
    change = started(store, "a/")
    stage.ledger.add_rule({"service": "bigquery", "method": method, "applied": True})
    assert not store.record(Batch(changes=(change,), at=NOW))
    assert written(store, "a/") == (1, 1)
    assert stage.ledger.rules[0].fired == 1


def test_a_write_that_is_committed_and_then_said_to_have_failed_is_in_the_history_once(
    stage: Stage, store: BigQueryStore
) -> None:
    change = started(store, "a/")
    stage.ledger.change({"bigquery.fail_late": 1})
    stale = store.record(Batch(changes=(change,), at=NOW))
    assert written(store, "a/") == (1, 1)
    assert stale == {"a/"}, "the second try finds the row changed: the next pass reads it and goes on from there"


@pytest.mark.parametrize("told", [True, False])
def test_what_was_written_is_known_whether_or_not_a_script_answers_with_rows(
    stage: Stage, store: BigQueryStore, told: bool
) -> None:
    first, second = started(store, "a/"), started(store, "b/")
    stage.ledger.change({"bigquery.script_answers": told})
    assert not store.record(Batch(changes=(first,), at=NOW))
    assert store.record(Batch(changes=(first, second), at=NOW)) == {"a/"}, "the row is not any more as this change read it"
    assert (written(store, "a/"), written(store, "b/")) == ((1, 1), (1, 1))


def test_a_row_leads_to_the_job_that_wrote_it(store: BigQueryStore) -> None:
    store.record(Batch(changes=(started(store, "a/"),), at=NOW))
    client = store._warehouse.client
    (row,) = client.query("SELECT write_id FROM data_migration.sts_job WHERE prefix = 'a/'").result()
    job: Any = client.get_job(row["write_id"], location="US")
    assert "MERGE" in job.query


@pytest.mark.parametrize("error", ["UNAVAILABLE", "INTERNAL", "RATE_LIMIT", "SERIALIZE"])
@pytest.mark.parametrize("write", [True, False])
def test_what_passes_by_itself_is_repeated(stage: Stage, store: BigQueryStore, error: str, write: bool) -> None:
    change = started(store, "a/")
    stage.ledger.add_rule({"service": "bigquery", "method": "jobs.insert", "error": error, "times": 2})
    if write:
        assert not store.record(Batch(changes=(change,), at=NOW))
        assert written(store, "a/") == (1, 1)
    else:
        assert store.counts()[JobStatus.WAITING] == 2
    assert stage.ledger.rules[0].fired == 2


def test_two_writers_at_once_conflict_and_both_get_through(stage: Stage, store: BigQueryStore) -> None:
    other = open_store(warehouse())
    changes = [(store, started(store, "a/")), (other, started(other, "b/"))]
    stage.ledger.change({"bigquery.dml_seconds": 0.3})
    stale: list[object] = []

    def write(one: BigQueryStore, change: Change) -> None:
        stale.append(one.record(Batch(changes=(change,), at=NOW)))

    threads = [threading.Thread(target=write, args=one) for one in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stale == [frozenset(), frozenset()]
    assert (written(store, "a/"), written(store, "b/")) == ((1, 1), (1, 1))
    assert stage.bigquery is not None
    failed = [job for job in stage.bigquery.jobs.jobs.values() if job.error is not None]
    assert any("concurrent update" in str(job.error) for job in failed), "the two must have met to prove anything"
    other.close()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        ("QUOTA", "QUOTA_EXCEEDED", "Raise the quota"),
        ("DENIED", "PERMISSION_DENIED", "gcloud projects add-iam-policy-binding stage-project"),
        ("UNAVAILABLE", "STORE_UNREACHABLE", "Service unavailable"),
    ],
)
def test_what_lasts_is_told_and_nothing_is_lost(stage: Stage, store: BigQueryStore, error: str, code: str, told: str) -> None:
    change = started(store, "a/")
    stage.ledger.add_rule({"service": "bigquery", "method": "jobs.insert", "error": error, "times": 0})
    with pytest.raises(StoreUnavailable, match=told) as refused:
        store.record(Batch(changes=(change,), at=NOW))
    assert refused.value.code == code
    stage.ledger.rules.clear()
    assert written(store, "a/") == (0, 0)
    assert not store.record(Batch(changes=(change,), at=NOW))


def test_a_server_that_is_not_there(stage: Stage) -> None:
    gone = connect(NAMES, "http://127.0.0.1:1")
    gone._sleep = lambda _: None
    with pytest.raises(StoreUnavailable, match="cannot look at the dataset") as refused:
        open_store(gone)
    assert refused.value.code == "STORE_UNREACHABLE"
    gone.close()


@pytest.mark.parametrize(
    ("permission", "role"),
    [
        ("bigquery.jobs.create", "roles/bigquery.jobUser"),
        ("bigquery.tables.getData", "roles/bigquery.dataEditor"),
        ("bigquery.tables.updateData", "roles/bigquery.dataEditor"),
    ],
)
def test_a_missing_permission_is_named_with_the_command_that_grants_it(
    stage: Stage, store: BigQueryStore, permission: str, role: str
) -> None:
    change = started(store, "a/")
    stage.ledger.change({"iam.denied": [permission]})
    with pytest.raises(StoreUnavailable) as refused:
        store.record(Batch(changes=(change,), at=NOW))
    assert f"The permission {permission} is missing: gcloud projects add-iam-policy-binding" in str(refused.value)
    assert role in str(refused.value)
    stage.ledger.change({"iam.denied": []})
    assert written(store, "a/") == (0, 0)


def test_a_batch_larger_than_a_request_is_cut_and_every_row_has_its_history(stage: Stage, store: BigQueryStore) -> None:
    store.load(checked_prefixes([f"{index:04}/" for index in range(40)]), NOW, lambda _: None)
    rows = [job for job in store.with_status(JobStatus.WAITING) if job.prefix[0] == "0"]
    results = "x" * (WRITE_BYTES // 10)
    changes = tuple(changed(job, replace(job, error_code="X"), NOW, results) for job in rows)
    breaker = Breaker(code="X", message="m", opened_at=NOW, probe_at=NOW)
    assert not store.record(Batch(changes=changes, at=NOW, writes_state=True, breaker=breaker))
    assert store.error_groups(1)[0].prefixes == 40
    assert all(written(store, job.prefix) == (1, 1) for job in rows)
    assert store.control().breaker == breaker


def test_a_lost_lease_writes_neither_rows_nor_state(stage: Stage, store: BigQueryStore) -> None:
    lease = StoreLease(store, FakeClock(), lock_path=None, lease_s=60)
    assert lease.acquire() is None
    breaker = Breaker(code="X", message="m", opened_at=NOW, probe_at=NOW)
    change = started(store, "a/")
    for changes in ((change,), ()):
        with pytest.raises(LeaseLost):
            store.record(Batch(changes=changes, at=NOW, fence=lease.fence + 1, writes_state=True, breaker=breaker))
    assert written(store, "a/") == (0, 0)
    assert store.control().breaker is None


def test_a_hundred_thousand_prefixes_come_in_one_load_job(stage: Stage) -> None:
    store = bigquery_store()
    prefixes = checked_prefixes([f"data/{index:06}/" for index in range(100_000)])
    loaded = store.load(prefixes, NOW, lambda _: None)
    again = store.load(prefixes, NOW, lambda _: None)
    assert (loaded.added, again.added, again.present) == (100_000, 0, 100_000)
    assert store.counts()[JobStatus.WAITING] == 100_000
    loads = [one for one in billed(stage) if one["statements"] == ["LOAD"]]
    assert len(loads) == 2
    assert [name for name in _tables(stage) if "load" in name] == []
    store.close()


def _tables(stage: Stage) -> dict[str, dict[str, object]]:
    assert stage.bigquery is not None
    return {name: table.resource for name, table in stage.bigquery.catalog.datasets["data_migration"].tables.items()}


def test_the_tables_are_laid_out_for_cheap_reading(stage: Stage, store: BigQueryStore) -> None:
    tables = _tables(stage)
    assert tables["sts_job_history"]["timePartitioning"] == {"type": "DAY", "field": "timestamp"}
    assert tables["sts_job_history"]["clustering"] == {"fields": ["prefix"]}
    assert tables["sts_job"]["clustering"] == {"fields": ["status", "prefix"]}


def reconciler_over(store: BigQueryStore) -> Reconciler:
    policy = Policy(migration=store.control().migration, route=Route.STS_S3, running_max=2)
    return Reconciler(store, {Route.STS_S3: FakeTransferService()}, policy, FakeClock())


def test_a_pass_makes_one_write_and_one_without_news_makes_none(stage: Stage, store: BigQueryStore) -> None:
    reconciler = reconciler_over(store)

    def jobs_of(dispatch: bool) -> list[list[str]]:
        before = len(billed(stage))
        reconciler.run_pass(dispatch=dispatch)
        return [list(one["statements"]) for one in billed(stage)[before:]]  # type: ignore[call-overload]

    first = jobs_of(True)
    writes = [one for one in first if one != ["SELECT"]]
    assert writes == [["BEGIN_TRANSACTION", "MERGE", "INSERT", "MERGE", "COMMIT_TRANSACTION", "SELECT"]]
    store._put({"hold": None})
    for job in store.live():
        ended = changed(job, replace(job, status=JobStatus.DONE), NOW)
        store.record(Batch(changes=(ended,), at=NOW))
    reconciler.settle_outcomes()
    jobs_of(False)
    assert all(one == ["SELECT"] for one in jobs_of(False)), "nothing runs, nothing changed: only reads"


def test_what_a_pass_is_billed_does_not_grow_with_the_history(stage: Stage, store: BigQueryStore) -> None:
    reconciler = reconciler_over(store)
    reconciler.run_pass(dispatch=True)
    reconciler.run_pass(dispatch=False)  # takes in what became of the first one's starts; from then on nothing is new

    def cost() -> int:
        before = len(billed(stage))
        reconciler.run_pass(dispatch=False)
        return sum(int(str(one["billed"])) for one in billed(stage)[before:])

    small = cost()
    client = store._warehouse.client
    event = {"prefix": "old/", "status": "running", "timestamp": NOW.isoformat(), "operation_results": "x" * 100_000}
    client.load_table_from_json([event] * 400, NAMES.full(NAMES.history)).result()
    assert cost() == small


# Datasets that will not do


def table(stage: Stage, name: str, *columns: str) -> bigquery.Client:
    """A table of `name TYPE` columns, in a dataset that is made when missing."""
    client = warehouse().client
    client.create_dataset(NAMES.dataset, exists_ok=True)
    fields = [bigquery.SchemaField(column.split()[0], column.split()[1]) for column in columns]
    client.create_table(bigquery.Table(NAMES.full(name), schema=fields))
    return client


OLDER_JOB = ("prefix STRING", "status STRING", "job_name STRING", "last_updated TIMESTAMP")
OLDER_HISTORY = ("prefix STRING", "status STRING", "job_name STRING", "operation_results STRING", "timestamp TIMESTAMP")


def test_a_dataset_that_is_not_there(stage: Stage) -> None:
    with pytest.raises(StoreNotPrepared, match="there is no dataset bigquery://stage-project/data_migration"):
        open_store(warehouse())


def test_a_dataset_elsewhere_is_refused_with_the_flag_that_helps(stage: Stage) -> None:
    bigquery_store().close()
    elsewhere = replace(NAMES, location="EU")
    for opening in (open_store, preparation):
        with pytest.raises(BadInput, match=r"is in US, but --dataset-location says EU; give --dataset-location US"):
            opening(warehouse(elsewhere))


def test_a_column_of_another_type_is_named(stage: Stage) -> None:
    table(stage, "sts_job", "prefix STRING", "status STRING", "job_name STRING", "last_updated STRING")
    with pytest.raises(BadInput, match=r"sts_job: the column last_updated is NULLABLE STRING, and must be TIMESTAMP"):
        preparation(warehouse())


def test_a_table_of_something_else_is_named(stage: Stage) -> None:
    table(stage, "sts_job", "customer STRING", "status STRING")
    with pytest.raises(BadInput, match="has no column prefix: it is no table of this program"):
        preparation(warehouse())


def test_a_column_that_was_dropped_is_named_and_made_again(stage: Stage) -> None:
    bigquery_store().close()
    assert stage.bigquery is not None
    found = stage.bigquery.catalog.table("data_migration", "sts_job")
    found.resource["schema"]["fields"] = [one for one in found.fields if one["name"] != "forgiven"]
    stage.bigquery.engine._duck.execute('ALTER TABLE "data_migration"."sts_job" DROP COLUMN "forgiven"')
    with pytest.raises(StoreNotPrepared, match="would add 1 columns to sts_job: forgiven"):
        open_store(warehouse())
    bigquery_store().close()
    assert {one["name"] for one in found.fields} == set(JOB_COLUMNS)


def test_duplicate_prefixes_are_reported_not_merged(stage: Stage) -> None:
    bigquery_store().close()
    client = warehouse().client
    row = {"prefix": "twice/", "status": "waiting"}
    client.load_table_from_json([row, row, {"prefix": "once/", "status": "waiting"}], NAMES.full("sts_job")).result()
    for opening in (open_store, preparation):
        with pytest.raises(BadInput, match=r"more than one row: 'twice/' \(2 rows\)"):
            opening(warehouse())
    assert len(list(client.query("SELECT * FROM data_migration.sts_job").result())) == 3


def test_a_lost_control_table_is_not_made_anew(stage: Stage, store: BigQueryStore) -> None:
    """Another migration id would be other names for the same transfers."""
    store._warehouse.client.delete_table(NAMES.full(NAMES.control))
    for opening in (open_store, preparation):
        with pytest.raises(BadInput, match=r"sts_job_control with the migration's id is gone; bring it back: bq cp"):
            opening(warehouse())


def test_a_newer_schema_is_refused(stage: Stage) -> None:
    store = bigquery_store()
    store._put({"schema_version": "99"})
    store.close()
    with pytest.raises(StoreTooNew, match="schema version 99"):
        open_store(warehouse())


def test_a_dataset_of_schema_1_is_brought_up_to_date_by_prepare_tables(stage: Stage) -> None:
    store = bigquery_store()
    store.load(checked_prefixes(["a/"]), NOW, lambda _: None)
    store._put({"schema_version": "1"})
    store.close()
    steps = preparation(warehouse())
    assert [step.says for step in steps] == ["write schema version 3: older versions of this program then refuse the dataset"]
    for step in steps:
        step.does()
    assert preparation(warehouse()) == []
    again = open_store(warehouse())
    assert [job.prefix for job in again.startable(NOW, {Limit.POOL: 5}, Route.CDN)] == ["a/"]
    again.close()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"dataset": "with-dash"}, "'with-dash' is not a dataset's name"),
        ({"project": "UPPER"}, "'UPPER' is not a project's id"),
        ({"job": "x`; DROP"}, "is not a table's name"),
    ],
)
def test_names_that_are_no_identifiers(names: dict[str, str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        replace(NAMES, **names)


def test_preparing_can_be_repeated_and_cut_short_anywhere(stage: Stage) -> None:
    made = warehouse()
    steps = len(preparation(made))
    assert steps == 7
    for index in range(steps):
        preparation(made)[0].does()  # one step, then begun anew
        assert len(preparation(made)) == steps - index - 1
    migration = open_store(made).control().migration
    assert preparation(made) == []
    assert open_store(made).control().migration == migration
    made.close()


# Taking over the older tool's dataset


def older(stage: Stage) -> bigquery.Client:
    client = table(stage, "sts_job", *OLDER_JOB)
    table(stage, "sts_job_history", *OLDER_HISTORY)
    rows = [
        ("w/", "waiting", None),
        ("r/", "running", "transferOperations/r"),
        ("p/", "paused", "transferOperations/p"),
        ("d/", "done", "transferOperations/d"),
        ("e/", "error", "transferOperations/e"),
        ("ghost/", "running", None),
    ]
    at = NOW.isoformat()
    job = [{"prefix": prefix, "status": status, "job_name": name, "last_updated": at} for prefix, status, name in rows]
    event = [
        {"prefix": prefix, "status": status, "job_name": name, "timestamp": at, "operation_results": "{}"}
        for prefix, status, name in rows
        if name
    ]
    client.load_table_from_json(job, NAMES.full("sts_job")).result()
    client.load_table_from_json(event, NAMES.full("sts_job_history")).result()
    return client


def test_the_older_tools_dataset_is_taken_over_without_losing_a_row(stage: Stage) -> None:
    client = older(stage)
    with pytest.raises(StoreNotPrepared, match="holds the older tool's tables"):
        open_store(warehouse())
    says = [step.says for step in preparation(warehouse())]
    assert says[0].startswith("add 29 columns to sts_job: operation_name, route, source, destination, egress")
    assert "2 live operations are watched to their end" in says[-1]
    assert says[-1].endswith("the 1 in error wait to be tried again, as that tool did (--keep-older-errors leaves them)")
    assert "generation" not in {one.name for one in client.get_table(NAMES.full("sts_job")).schema}, "a look changes nothing"
    store = bigquery_store()
    rows: dict[str, PrefixJob] = {}
    for status in JobStatus:
        rows |= {job.prefix: job for job in store.with_status(status)}
    assert len(rows) == 6
    assert {prefix: job.status.value for prefix, job in rows.items()} == {
        "w/": "waiting",
        "ghost/": "waiting",
        "r/": "running",
        "p/": "paused",
        "d/": "done",
        "e/": "waiting",
    }
    assert (rows["r/"].operation_name, rows["r/"].attempt) == ("transferOperations/r", 1)
    assert rows["p/"].paused_by.value == "pause-all-jobs"
    again = rows["e/"]
    assert (again.attempt, again.attempt_base, again.tries, again.operation_name, again.error_code) == (1, 1, 0, None, "")
    assert [event.job.operation_name for event in store.history(Prefix("d/"))] == ["transferOperations/d"]
    assert list(client.query("SELECT * FROM data_migration.sts_job_history WHERE status = 'error'").result())
    assert preparation(warehouse()) == []
    migration = store.control().migration
    assert bigquery_store().control().migration == migration
    store.close()


def test_what_ended_in_error_is_left_where_it_is_asked_for(stage: Stage) -> None:
    older(stage)
    steps = preparation(warehouse(), keep_errors=True)
    assert steps[-1].says.endswith("the 1 in error stay so, until `retry --errors`")
    for step in steps:
        step.does()
    store = open_store(warehouse())
    left = store.job(Prefix("e/"))
    assert left is not None
    assert (left.status, left.error_code, left.operation_name) == (JobStatus.ERROR, "OLDER_TOOL", "transferOperations/e")
    store.close()


def test_rows_the_older_tool_just_streamed_in_are_waited_for(stage: Stage) -> None:
    client = older(stage)
    assert client.insert_rows_json(NAMES.full("sts_job"), [{"prefix": "new/", "status": "waiting"}]) == []
    with pytest.raises(StoreUnavailable, match="wait until they have left the buffer"):
        bigquery_store()
    stage.ledger.change({"bigquery.streaming_buffer_seconds": 0})
    assert client.insert_rows_json(NAMES.full("sts_job"), [{"prefix": "newer/", "status": "waiting"}]) == []
    store = bigquery_store()
    assert sum(store.counts().values()) == 8
    store.close()


@pytest.mark.parametrize("status", ["RUNNING", None])
def test_a_status_that_is_none_is_named_before_anything_changes(stage: Stage, status: str | None) -> None:
    client = older(stage)
    client.load_table_from_json([{"prefix": "odd/", "status": status}], NAMES.full("sts_job")).result()
    with pytest.raises(BadInput, match=f"1 rows with the status {status!r}; give them one of waiting, running"):
        preparation(warehouse())


def test_rows_streamed_in_beside_the_daemon_degrade_it_and_do_not_end_it(stage: Stage, store: BigQueryStore) -> None:
    change = started(store, "a/")
    store._warehouse.client.insert_rows_json(NAMES.full("sts_job"), [{"prefix": "x/", "status": "waiting"}])
    with pytest.raises(StoreUnavailable) as refused:
        store.record(Batch(changes=(change,), at=NOW))
    assert refused.value.code == "STREAMING_BUFFER"


def test_whatever_is_lost_while_taking_over_it_is_done_once(stage: Stage) -> None:
    older(stage)
    stage.ledger.add_rule({"service": "bigquery", "method": "jobs.insert", "after": 3, "applied": True, "times": 2})
    store = bigquery_store()
    assert stage.ledger.rules[0].fired == 2
    assert len(list(store.history(Prefix("r/")))) == 1
    store.close()
