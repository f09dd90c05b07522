"""The tables of the SQL store, and the steps from each older schema to the next.

The columns of the older tool keep their names and meaning; what this design adds stands after them. Nothing here is
particular to SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from sts_manager.domain.model import PausedBy
from sts_manager.stores.rows import ADOPTED, COUNTERS, OLDER_ERROR, OLDER_ERROR_MESSAGE


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime, stored without its zone so that every database compares it alike."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


# Prefixes are compared as UTF-8 bytes everywhere: SQLite does so by itself, PostgreSQL under the "C" collation.
PREFIX_TEXT = sa.String(1024).with_variant(sa.String(1024, collation="C"), "postgresql")


def _number(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text("0"))


def _text(name: str, kind: sa.types.TypeEngine[str]) -> sa.Column[str]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text("''"))


def _added_columns() -> list[sa.Column[Any]]:
    """What both tables have beside the older tool's columns."""
    return [
        sa.Column("operation_name", sa.String(512)),
        sa.Column("route", sa.String(16)),
        sa.Column("source", sa.Text),
        sa.Column("destination", sa.Text),
        sa.Column("egress", sa.String(256)),
        sa.Column("project", sa.String(64)),
        sa.Column("lead", PREFIX_TEXT),
        _number("attempt"),
        _number("attempt_base"),
        _number("forgiven"),
        sa.Column("not_before", UtcDateTime),
        _text("paused_by", sa.String(32)),
        _text("error_code", sa.String(64)),
        _text("error_message", sa.Text()),
        *(_number(name, sa.BigInteger) for name in COUNTERS),
        _number("missing_count"),
        sa.Column("missing_since", UtcDateTime),
        sa.Column("started_at", UtcDateTime),
        sa.Column("progress_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
    ]


@dataclass(frozen=True, slots=True)
class Tables:
    metadata: sa.MetaData
    job: sa.Table
    history: sa.Table
    control: sa.Table
    failure: sa.Table
    object: sa.Table


def tables(job_table: str, history_table: str) -> Tables:
    """The tables under the operator's names; the control table is called after the job table."""
    metadata = sa.MetaData()
    job = sa.Table(
        job_table,
        metadata,
        sa.Column("prefix", PREFIX_TEXT, primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("job_name", sa.String(512)),
        sa.Column("last_updated", UtcDateTime),
        *_added_columns(),
        sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Index(f"{job_table}_next", "status", "attempt", "prefix", "not_before"),
        sa.Index(f"{job_table}_by_route", "status", "route", "attempt", "prefix", "not_before"),
        sa.Index(f"{job_table}_by_name", "job_name"),
    )
    history = sa.Table(
        history_table,
        metadata,
        sa.Column("prefix", PREFIX_TEXT, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("job_name", sa.String(512)),
        sa.Column("operation_results", sa.Text),
        sa.Column("timestamp", UtcDateTime, nullable=False),
        *_added_columns(),
        # Rows of the older tool have no generation; of ours no two share one, so no event can be written twice.
        sa.Column("generation", sa.Integer),
        sa.Index(f"{history_table}_once", "prefix", "generation", unique=True),
    )
    control = sa.Table(
        f"{job_table}_control",
        metadata,
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    failure = sa.Table(
        f"{job_table}_failure",
        metadata,
        sa.Column("prefix", PREFIX_TEXT, primary_key=True),
        sa.Column("key", PREFIX_TEXT, primary_key=True),
        *(_number(name, sa.BigInteger) for name in ("size",)),
        *(_text(name, sa.Text()) for name in ("etag", "verdict", "error", "details", "job_name")),
        sa.Column("seen_at", UtcDateTime),
    )
    known = sa.Table(
        f"{job_table}_object",
        metadata,
        sa.Column("prefix", PREFIX_TEXT, primary_key=True),
        sa.Column("key", PREFIX_TEXT, primary_key=True),
        *(_number(name, sa.BigInteger) for name in ("size", "generation")),
        *(_text(name, sa.Text()) for name in ("etag", "crc32c", "verified", "verdict", "job_name")),
        sa.Column("seen_at", UtcDateTime),
    )
    return Tables(metadata, job, history, control, failure, known)


def add_missing_columns(connection: sa.Connection, table: sa.Table) -> None:
    """ALTER TABLE … ADD COLUMN for each column of `table` that the database lacks."""
    present = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    quoted = connection.dialect.identifier_preparer.format_table(table)
    for column in table.columns:
        if column.name not in present:
            clause = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(sa.text(f"ALTER TABLE {quoted} ADD COLUMN {clause}"))


def from_older_tool(connection: sa.Connection, made: Tables) -> None:
    """Schema 0 (the older tool's two tables, no control table) to schema 1, losing no row.

    The older tool stored the operation's name as `job_name`: it moves to `operation_name`, so that an operation that is
    still live is watched to its end. The transfer job's name is learnt from the operation when it is polled; until then
    the row says `transferJobs/adopted`.
    """
    for table in (made.job, made.history):
        add_missing_columns(connection, table)
        is_operation = table.c.job_name.like("transferOperations/%")
        connection.execute(sa.update(table).where(is_operation).values(operation_name=table.c.job_name, job_name=ADOPTED))
    job = made.job
    started = job.c.operation_name.is_not(None)
    connection.execute(sa.update(job).where(started).values(attempt=1))
    # A live row that names no operation was never really started: it waits.
    lost = job.c.status.in_(["running", "paused"]) & job.c.operation_name.is_(None)
    connection.execute(sa.update(job).where(lost).values(status="waiting", job_name=None))
    failed = (job.c.status == "error") & (job.c.error_code == "")
    connection.execute(sa.update(job).where(failed).values(error_code=OLDER_ERROR, error_message=OLDER_ERROR_MESSAGE))
    # The older tool resumed whatever it found paused, and kept no mark of who paused it.
    connection.execute(sa.update(job).where(job.c.status == "paused").values(paused_by=PausedBy.COMMAND.value))
    made.metadata.create_all(connection, tables=[made.control, made.failure, made.object])
    for table in (made.job, made.history):
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    duplicates = sa.select(job.c.prefix).group_by(job.c.prefix).having(sa.func.count() > 1)
    if twice := connection.execute(duplicates.limit(1)).scalar():
        raise ValueError(f"prefix {twice!r} stands in {job.name} more than once; remove one of the rows and repeat")
    sa.Index(f"{job.name}_prefix", job.c.prefix, unique=True).create(connection, checkfirst=True)


def to_own_routes(connection: sa.Connection, made: Tables) -> None:
    """Schema 1 to schema 2: a prefix may have a route and places of its own; failed objects have a table, and known ones."""
    made.metadata.create_all(connection, tables=[made.failure, made.object])
    for table in (made.job, made.history):
        add_missing_columns(connection, table)
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def to_shared_jobs(connection: sa.Connection, made: Tables) -> None:
    """Schema 2 to schema 3: prefixes may share a transfer job, in one of several projects, by an egress of their own."""
    for table in (made.job, made.history):
        add_missing_columns(connection, table)


MIGRATIONS: Mapping[int, Callable[[sa.Connection, Tables], None]] = {0: from_older_tool, 1: to_own_routes, 2: to_shared_jobs}
"""How to get from a schema to the next one."""
