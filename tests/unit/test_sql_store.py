"""What is particular to the SQL store: files, schemas, and errors of the database."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from sts_manager.domain.errors import BadInput, StoreNotPrepared, StoreTooNew, StoreUnavailable
from sts_manager.domain.location import without_password
from sts_manager.domain.model import Chosen, JobStatus, Limit, PausedBy, Route
from sts_manager.domain.names import Prefix, checked_prefixes
from sts_manager.stores.sql import store as sql
from sts_manager.stores.sql.store import open_store

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def older_tools_tables(path: Path) -> None:
    """What the older tool left, here in SQLite."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE sts_job (prefix TEXT, status TEXT, job_name TEXT, last_updated TIMESTAMP);
            CREATE TABLE sts_job_history (prefix TEXT, status TEXT, job_name TEXT, operation_results TEXT, timestamp TIMESTAMP);
            INSERT INTO sts_job VALUES
              ('done/', 'done', 'transferOperations/1', '2020-01-01 00:00:00.000000'),
              ('live/', 'running', 'transferOperations/2', '2020-01-01 00:00:00.000000'),
              ('stopped/', 'paused', 'transferOperations/3', '2020-01-01 00:00:00.000000'),
              ('lost/', 'running', NULL, '2020-01-01 00:00:00.000000'),
              ('new/', 'waiting', NULL, NULL);
            INSERT INTO sts_job_history VALUES
              ('done/', 'running', 'transferOperations/1', '{}', '2020-01-01 00:00:00.000000'),
              ('done/', 'done', 'transferOperations/1', '{"a":1}', '2020-01-01 00:01:00.000000');
            """
        )
    connection.close()


def test_the_older_tools_tables_are_migrated_without_losing_a_row(path: Path) -> None:
    older_tools_tables(path)
    store = open_store(f"sqlite:///{path}")
    assert sum(store.counts().values()) == 5
    done, live = store.job(Prefix("done/")), store.job(Prefix("live/"))
    assert done is not None
    assert live is not None
    assert (done.status, done.operation_name, done.attempt) == (JobStatus.DONE, "transferOperations/1", 1)
    assert (live.status, live.operation_name) == (JobStatus.RUNNING, "transferOperations/2")
    lost, stopped = store.job(Prefix("lost/")), store.job(Prefix("stopped/"))
    assert lost is not None
    assert lost.status is JobStatus.WAITING
    assert stopped is not None
    assert stopped.paused_by is PausedBy.COMMAND
    events = list(store.history(Prefix("done/")))
    assert [event.job.status for event in events] == [JobStatus.RUNNING, JobStatus.DONE]
    assert events[1].operation_results == '{"a":1}'
    store.close()
    again = open_store(f"sqlite:///{path}", create=True)
    assert sum(again.counts().values()) == 5
    again.load(checked_prefixes(["new/", "newer/"]), NOW, lambda _: None)
    assert sum(again.counts().values()) == 6
    again.close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    open_store(f"sqlite:///{path}", create=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sts_job_control SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(StoreTooNew, match=r"schema version 99; this program knows up to 3: upgrade it"):
        open_store(f"sqlite:///{path}")


def test_a_store_of_schema_1_gets_routes_of_its_own(path: Path) -> None:
    store = open_store(f"sqlite:///{path}", create=True)
    store.load(checked_prefixes(["a/"]), NOW, lambda _: None)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX sts_job_by_route")
        for table in ("sts_job", "sts_job_history"):
            for column in ("source", "destination"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE sts_job_control SET value = '1' WHERE key = 'schema_version'")
    connection.close()
    again = open_store(f"sqlite:///{path}")
    job = again.job(Prefix("a/"))
    assert job is not None
    assert (job.route, job.source, job.destination) == (None, "", "")
    own = {Prefix("b/"): Chosen(route=Route.CDN, source="s3://other")}
    again.load(checked_prefixes(["b/"]), NOW, lambda _: None, own)
    assert [one.prefix for one in again.startable(NOW, {Limit.POOL: 5}, Route.STS_S3)] == ["b/"]
    again.close()
    with sqlite3.connect(path) as connection:
        indexes = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    connection.close()
    assert "sts_job_by_route" in indexes


def test_a_store_of_schema_2_gets_shared_jobs(path: Path) -> None:
    store = open_store(f"sqlite:///{path}", create=True)
    store.load(checked_prefixes(["a/"]), NOW, lambda _: None)
    store.close()
    with sqlite3.connect(path) as connection:
        for table in ("sts_job", "sts_job_history"):
            for column in ("egress", "project", "lead"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE sts_job_control SET value = '2' WHERE key = 'schema_version'")
    connection.close()
    again = open_store(f"sqlite:///{path}")
    job = again.job(Prefix("a/"))
    assert job is not None
    assert (job.egress, job.project, job.lead) == ("", "", None)
    again.load(checked_prefixes(["b/"]), NOW, lambda _: None, {Prefix("b/"): Chosen(egress="s3")})
    other = again.job(Prefix("b/"))
    assert other is not None
    assert other.egress == "s3"
    again.close()


def test_a_store_that_is_not_there_is_not_made_by_a_reader(path: Path) -> None:
    with pytest.raises(StoreNotPrepared, match="prepare-tables"):
        open_store(f"sqlite:///{path}")
    assert not path.exists()


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(StoreNotPrepared, match="has no table 'sts_job'"):
        open_store(f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "is not a store address"),
        ("cassandra://host/x", "is not a store address"),
        ("sqlite://", "needs a file"),
        ("sqlite:////nowhere/at/all.db", "the folder /nowhere/at does not exist"),
    ],
)
def test_an_address_that_cannot_work_is_named(url: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        open_store(url, create=True)


def test_a_folder_or_a_text_file_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names the folder"):
        open_store(f"sqlite:///{tmp_path}", create=True)
    text = tmp_path / "notes.db"
    text.write_text("no database " * 100)
    with pytest.raises(BadInput, match="is not a database of this program"):
        open_store(f"sqlite:///{text}", create=True)


def test_a_locked_store_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_S", 0.05)
    store = open_store(f"sqlite:///{path}", create=True)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="is locked") as locked:
        store.set_hold(None)
    assert locked.value.code == "STORE_LOCKED"
    assert store.counts()[JobStatus.WAITING] == 0  # readers never wait for the writer
    other.rollback()
    other.close()
    store.set_hold(None)
    store.close()


def test_a_full_disk_says_so(path: Path) -> None:
    store = open_store(f"sqlite:///{path}", create=True)

    @sa.event.listens_for(store._engine, "begin")
    def _limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    with pytest.raises(StoreUnavailable, match="no space is left") as full:
        store.load(checked_prefixes(f"{index:09}/" for index in range(5000)), NOW, lambda _: None)
    assert full.value.code == "STORE_FULL"
    store.close()


def test_the_daemon_and_the_commands_write_at_once(path: Path) -> None:
    """Many loaders and readers in threads: every row is there once, nothing fails."""
    store = open_store(f"sqlite:///{path}", create=True)
    failures: list[BaseException] = []

    def loads(part: int) -> None:
        try:
            mine = open_store(f"sqlite:///{path}")
            for index in range(20):
                mine.load(checked_prefixes([f"{part}-{index:02}/"]), NOW, lambda _: None)
                mine.counts()
            mine.close()
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=loads, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.counts()[JobStatus.WAITING] == 80
    store.close()


@pytest.mark.parametrize("url", ["nonsense://u:hunter2@h/d", "nonsense://:hunter2@h/d", "nonsense://u:hunter2@x@h:port/d"])
def test_a_password_in_an_address_is_not_told(url: str) -> None:
    with pytest.raises(BadInput) as refused:
        open_store(url)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in without_password(url)


def test_other_table_names_are_another_migration(path: Path) -> None:
    one = open_store(f"sqlite:///{path}", create=True)
    two = open_store(f"sqlite:///{path}", job_table="other", history_table="other_history", create=True)
    assert one.control().migration != two.control().migration
    one.load(checked_prefixes(["a/"]), NOW, lambda _: None)
    assert two.counts()[JobStatus.WAITING] == 0
    one.close()
    two.close()
