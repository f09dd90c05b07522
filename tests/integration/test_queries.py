"""The queries of docs/queries, over the same migration in both stores, and as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sts_manager.domain.errors import BadInput
from sts_manager.domain.model import Counters, FailedObject, JobStatus, changed
from sts_manager.domain.names import JobName, OperationName, Prefix, checked_prefixes
from sts_manager.ports import Batch
from sts_manager.stores.bigquery.store import BigQueryStore
from sts_manager.stores.queries import says, text_of, texts, wants
from sts_manager.stores.sql.store import SqlStore, open_store
from tests.end_to_end.commands import Shell
from tests.warehouses import bigquery_store
from tools.emulators.stage import Stage

# The queries speak of the present; this is as of when the tests were collected, some minutes ago: hence the tolerances.
NOW = datetime.now(UTC).replace(microsecond=0)
FAILED = {
    "errorBreakdowns": [
        {"errorCode": "NOT_FOUND", "errorCount": 2, "errorLogEntries": [{"url": "s3://b/bad/x", "errorDetails": ["gone"]}]}
    ]
}
NAMES = ["cost", "empty", "error_codes", "eta", "failed", "failed_objects", "life", "longest_running", "retries", "stalled"]
NAMES += ["throughput"]


class Migration:
    """Writes what the daemon would have written, at times of our choosing."""

    def __init__(self, store: SqlStore | BigQueryStore) -> None:
        self.store = store

    def step(self, text: str, ago: timedelta, *, results: str = "{}", **fields: Any) -> None:
        before = self.store.job(Prefix(text))
        assert before is not None
        at = NOW - ago
        after = changed(before, replace(before, **fields), at, results)
        assert not self.store.record(Batch(changes=(after,), at=at))

    def ask(self, name: str, **parameters: str) -> list[dict[str, Any]]:
        answer = self.store.ask(text_of(name), parameters)
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


@pytest.fixture(params=["sqlite", "bigquery"])
def migration(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Migration]:
    if request.param == "sqlite":
        store: SqlStore | BigQueryStore = open_store(f"sqlite:///{tmp_path}/store.db", create=True)
    else:
        request.getfixturevalue("stage")
        store = bigquery_store()
    made = Migration(store)
    store.load(checked_prefixes(["good/", "bad/", "slow/", "wait/"]), NOW - timedelta(hours=12), lambda _: None)
    hours = [timedelta(hours=number) for number in range(12)]

    def begin(text: str, ago: timedelta, **fields: Any) -> None:
        run = {"status": JobStatus.RUNNING, "job_name": JobName(f"transferJobs/{text[:-1]}-a1"), "attempt": 1}
        made.step(text, ago, results="", **(run | {"started_at": NOW - ago, "progress_at": NOW - ago} | fields))
        made.step(text, ago, operation_name=OperationName(f"transferOperations/{text[:-1]}"))

    begin("good/", hours[10])
    made.step("good/", hours[5], counters=Counters(objects_found=30, objects_copied=10, bytes_copied=3600 << 20))
    last = Counters(objects_found=30, objects_copied=30, bytes_copied=10**13)
    made.step("good/", hours[4], counters=last, status=JobStatus.DONE, ended_at=NOW - hours[4])
    begin("bad/", hours[9])
    counters = Counters(objects_copied=5, objects_failed=2)
    error = {"error_code": "NOT_FOUND", "error_message": "it's gone"}
    made.step("bad/", hours[8], results=json.dumps(FAILED), counters=counters, **error)
    begin("bad/", hours[7], attempt=2, counters=Counters())
    ended = {"status": JobStatus.ERROR, "ended_at": NOW - hours[6]}
    made.step("bad/", hours[6], results=json.dumps(FAILED), counters=counters, **error, **ended)
    begin("slow/", hours[3], progress_at=NOW - hours[1])
    yield made
    store.close()


def test_failed(migration: Migration) -> None:
    (row,) = migration.ask("failed")
    assert (row["prefix"], row["error_code"], row["error_message"]) == ("bad/", "NOT_FOUND", "it's gone")
    assert (row["objects_failed"], row["sample_object"], row["attempt"]) == (2, "s3://b/bad/x", 2)


def test_empty(migration: Migration) -> None:
    assert migration.ask("empty") == []
    told = {"error_code": "EMPTY", "error_message": "matched nothing"}
    at_once = timedelta(hours=1)
    migration.step("slow/", at_once, status=JobStatus.DONE, ended_at=NOW - at_once, **told)
    (row,) = migration.ask("empty")
    assert (row["prefix"], row["error_message"]) == ("slow/", "matched nothing")
    groups = {(row["status"], row["error_code"]) for row in migration.ask("error_codes")}
    assert groups == {("error", "NOT_FOUND"), ("done", "EMPTY")}


def test_failed_objects(migration: Migration) -> None:
    one = FailedObject(
        prefix=Prefix("bad/"),
        key="bad/x",
        size=3,
        etag="e",
        verdict="failed",
        error="forbidden",
        details="403",
        job_name="transferJobs/x",
    )
    migration.store.put_failures(one.prefix, [one], NOW)
    (row,) = migration.ask("failed_objects")
    assert (row["prefix"], row["key"], row["error"], row["status"], row["attempt"]) == ("bad/", "bad/x", "forbidden", "error", 2)


def test_error_codes(migration: Migration) -> None:
    (row,) = migration.ask("error_codes")
    assert (row["error_code"], row["status"], row["prefixes"], row["example"]) == ("NOT_FOUND", "error", 1, "bad/")


def test_throughput(migration: Migration) -> None:
    rows = migration.ask("throughput")
    assert [row["hour"] for row in rows] == sorted((row["hour"] for row in rows), reverse=True)
    fifth = next(row for row in rows if row["hour"] == (NOW - timedelta(hours=5)).strftime("%Y-%m-%d %H:00"))
    assert (fifth["objects"], fifth["bytes"], fifth["mib_per_second"]) == (10, 3600 << 20, 1.0)
    assert sum(row["objects"] for row in rows) == 30 + 5 + 5, "each attempt counts from zero"


def test_eta(migration: Migration) -> None:
    (row,) = migration.ask("eta")
    assert (row["prefixes"], row["ended"], row["in_error"], row["left_over"], row["done_lately"]) == (4, 2, 1, 2, 1)
    # `bad/` began anew 7 hours ago, so the first start that the table knows is that of `good/`.
    assert row["hours_watched"] == pytest.approx(10, abs=0.5)
    assert row["hours_left"] == pytest.approx(20, abs=1)


def test_longest_running_and_stalled(migration: Migration) -> None:
    (row,) = migration.ask("longest_running")
    assert (row["prefix"], row["operation_name"]) == ("slow/", "transferOperations/slow")
    assert row["hours"] == pytest.approx(3, abs=0.5)
    (row,) = migration.ask("stalled")
    assert row["prefix"] == "slow/"
    assert row["minutes_still"] == pytest.approx(60, abs=30)


def test_retries(migration: Migration) -> None:
    assert [(row["prefix"], row["attempt"]) for row in migration.ask("retries")] == [("bad/", 2)]


def test_cost(migration: Migration) -> None:
    (row,) = migration.ask("cost")
    assert (row["objects"], row["bytes"]) == (40, 10**13)
    assert (row["usd_egress"], row["prices_of"]) == (539.0, "2026-11")


def test_life(migration: Migration) -> None:
    rows = migration.ask("life", prefix="bad/")
    assert [row["status"] for row in rows] == ["running"] * 5 + ["error"]
    assert migration.ask("life", prefix="'; DROP TABLE sts_job; --") == []
    assert sum(migration.store.counts().values()) == 4


def test_each_query_says_what_it_tells_and_runs(migration: Migration) -> None:
    assert list(texts()) == NAMES
    for name, text in texts().items():
        assert says(text)
        migration.ask(name, **dict.fromkeys(wants(text), "x"))


def test_an_unknown_query_lists_the_others() -> None:
    with pytest.raises(BadInput, match="there is no query 'failures'; there are cost, empty, error_codes"):
        text_of("failures")


@pytest.mark.parametrize("address", ["sqlite:///sts_manager.db", "bigquery"])
def test_as_a_user_runs_them(stage: Stage, tmp_path: Path, address: str) -> None:
    shell = Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": address})
    (tmp_path / "prefixes.txt").write_text("a/\nb/\n")
    assert shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.txt").code == 0
    listed = shell.run("query").out
    assert [line.split()[0] for line in listed.splitlines()] == NAMES
    (row,) = json.loads(shell.run("query", "eta", "--json").out)
    assert (row["prefixes"], row["left_over"]) == (2, 2)
    assert shell.run("query", "eta", "--csv").out.startswith("prefixes,ended,in_error")
    assert "left_over" in shell.run("query", "eta").out
    assert "data_migration.sts_job" in shell.run("query", "eta", "--show").out
    assert [shell.run("query", *words).code for words in (["nope"], ["life"], ["eta", "--prefix", "a/"])] == [2, 2, 2]
    assert "needs --prefix" in shell.run("query", "life").err
