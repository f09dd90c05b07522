"""The job store on SQLAlchemy Core; SQLite, in a file beside the daemon, is the default."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from sts_manager.domain.errors import BadInput, LeaseLost, StoreNotPrepared, StoreTooNew, StoreUnavailable
from sts_manager.domain.location import without_password
from sts_manager.domain.model import (
    COUNTED_BY_SERVICE,
    EMPTY,
    LIVE,
    Change,
    Chosen,
    Counters,
    FailedObject,
    Hold,
    JobStatus,
    KnownObject,
    Limit,
    PrefixJob,
    Route,
)
from sts_manager.domain.names import JobName, Prefix, chunks
from sts_manager.domain.pacing import WAIT_MAX
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.ports import Batch, Control, ErrorGroup, HistoryRow, LeftBehind, Loaded, PrefixClash
from sts_manager.stores import control_codec as texts
from sts_manager.stores.lease import epoch_of
from sts_manager.stores.queries import Answer, for_sqlite, for_tables
from sts_manager.stores.rows import (
    COUNTERS,
    SCHEMA_VERSION,
    attempt_and_prefix,
    failure_of,
    failure_row,
    job_of,
    object_of,
    object_row,
    own_columns,
    row_of,
)
from sts_manager.stores.sql.schema import MIGRATIONS, Tables, tables

LOAD_ROWS = 20_000
"""Rows added in one transaction: few enough that the daemon never waits long for its turn to write."""

NAMES_IN_QUERY = 400
"""Values in one IN (…): under the smallest limit of parameters of the databases in question."""

ROWS_IN_PAGE = 1000

BUSY_TIMEOUT_S = 15


class SqlStore:
    """The `JobStore` port on any database SQLAlchemy speaks to. Use `open_store` to make one."""

    def __init__(self, engine: sa.Engine, made: Tables) -> None:
        self._engine = engine
        self._job, self._history, self._control, self._failure = made.job, made.history, made.control, made.failure
        self._object = made.object

    # Reading

    def counts(self) -> Mapping[JobStatus, int]:
        column = self._job.c.status
        with self._reading() as connection:
            rows = connection.execute(sa.select(column, sa.func.count()).group_by(column)).all()
        return dict.fromkeys(JobStatus, 0) | {JobStatus(status): count for status, count in rows}

    def live(self) -> tuple[PrefixJob, ...]:
        job = self._job
        query = sa.select(job).where(job.c.status.in_([status.value for status in LIVE])).order_by(job.c.prefix)
        return self._jobs(query)

    def startable(self, now: datetime, most: Mapping[Limit, int], default: Route) -> tuple[PrefixJob, ...]:
        job = self._job
        due = job.c.not_before.is_(None) | (job.c.not_before <= now) | (job.c.not_before > now + WAIT_MAX)  # ramp.is_due
        query = sa.select(job).where(job.c.status == JobStatus.WAITING.value, due).order_by(job.c.attempt, job.c.prefix)
        found: list[PrefixJob] = []
        for limit, number in most.items():
            # A question for each route, so that every one is answered in the order of the index, whatever the others hold.
            routes: list[str | None] = [route.value for route in Route if Limit.of(route) is limit]
            routes += [None] if Limit.of(default) is limit else []
            rows = [one for route in routes for one in self._jobs(query.where(job.c.route == route).limit(number))]
            found += sorted(rows, key=attempt_and_prefix)[:number]
        return tuple(sorted(found, key=attempt_and_prefix))

    def job(self, prefix: Prefix) -> PrefixJob | None:
        found = self._jobs(sa.select(self._job).where(self._job.c.prefix == prefix))
        return found[0] if found else None

    def jobs_named(self, names: Collection[JobName]) -> Mapping[JobName, PrefixJob]:
        found: dict[JobName, PrefixJob] = {}
        for some in chunks(sorted(names), NAMES_IN_QUERY):
            for job in self._jobs(sa.select(self._job).where(self._job.c.job_name.in_([str(name) for name in some]))):
                if job.job_name is not None:
                    found[job.job_name] = job
        return found

    def with_status(self, status: JobStatus) -> Iterator[PrefixJob]:
        # By the prefix alone, and along its index: what is changed on the way is not met again under another attempt, and a page
        # never sorts what it does not return. (A bare column would be looked up in the index of statuses, and sorted.)
        job = self._job
        query = (
            sa.select(job).where(sa.func.coalesce(job.c.status, "") == status.value).order_by(job.c.prefix).limit(ROWS_IN_PAGE)
        )
        page = self._jobs(query)
        while page:
            yield from page
            page = self._jobs(query.where(job.c.prefix > page[-1].prefix))

    def history(self, prefix: Prefix) -> Iterator[HistoryRow]:
        history = self._history
        query = sa.select(history).where(history.c.prefix == prefix)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(history.c.timestamp, history.c.generation)).mappings().all()
        for row in rows:
            yield HistoryRow(
                job=job_of(row, updated="timestamp"),
                timestamp=row["timestamp"],
                operation_results=row["operation_results"] or "",
            )

    def put_failures(self, prefix: Prefix, failures: Sequence[FailedObject], at: datetime) -> None:
        failure = self._failure
        with self._writing() as connection:
            connection.execute(sa.delete(failure).where(failure.c.prefix == prefix))
            if failures:
                connection.execute(sa.insert(failure), [failure_row(one) | {"seen_at": at} for one in failures])

    def failures(self, prefix: Prefix | None, limit: int) -> tuple[FailedObject, ...]:
        failure = self._failure
        query = sa.select(failure).order_by(failure.c.prefix, failure.c.key).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query if prefix is None else query.where(failure.c.prefix == prefix)).mappings().all()
        return tuple(failure_of(row) for row in rows)

    def put_objects(self, objects: Iterable[KnownObject], at: datetime) -> None:
        known = self._object
        one = (known.c.prefix == sa.bindparam("b_prefix")) & (known.c.key == sa.bindparam("b_key"))
        reading = iter(objects)
        while some := list(islice(reading, LOAD_ROWS)):
            with self._writing() as connection:
                connection.execute(sa.delete(known).where(one), [{"b_prefix": it.prefix, "b_key": it.key} for it in some])
                connection.execute(sa.insert(known), [object_row(it) | {"seen_at": at} for it in some])

    def objects(self, prefix: Prefix, limit: int) -> tuple[KnownObject, ...]:
        known = self._object
        query = sa.select(known).where(known.c.prefix == prefix).order_by(known.c.key).limit(limit)
        with self._reading() as connection:
            return tuple(object_of(row) for row in connection.execute(query).mappings())

    def error_groups(self, limit: int) -> tuple[ErrorGroup, ...]:
        job, count = self._job, sa.func.count()
        troubled = (job.c.status != JobStatus.DONE.value) & (job.c.error_code != "") | (job.c.error_code == EMPTY)
        query = (
            sa.select(job.c.status, job.c.error_code, count, sa.func.min(job.c.prefix))
            .where(troubled)
            .group_by(job.c.status, job.c.error_code)
            .order_by(count.desc(), job.c.error_code, job.c.status)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        groups = []
        for status, code, number, example in rows:
            worst = self.job(Prefix(example))
            message = worst.error_message if worst is not None else ""
            groups.append(
                ErrorGroup(status=JobStatus(status), code=code, prefixes=number, example=Prefix(example), message=message)
            )
        return tuple(groups)

    def left_behind(self, limit: int) -> tuple[LeftBehind, ...]:
        job, failure, count = self._job, self._failure, sa.func.count()
        counted = sa.func.max(sa.case((failure.c.error == COUNTED_BY_SERVICE, 1), else_=0))
        query = (
            sa.select(failure.c.prefix, count, sa.func.coalesce(sa.func.sum(failure.c.size), 0), counted)
            .join(job, job.c.prefix == failure.c.prefix)
            .where(job.c.status == JobStatus.DONE.value)
            .group_by(failure.c.prefix)
            .order_by(count.desc(), failure.c.prefix)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return tuple(
            LeftBehind(prefix=Prefix(prefix), objects=number, bytes=int(size), counted_by_service=bool(by_service))
            for prefix, number, size, by_service in rows
        )

    def totals(self) -> Counters:
        sums = [sa.func.coalesce(sa.func.sum(self._job.c[name]), 0) for name in COUNTERS]
        with self._reading() as connection:
            row = connection.execute(sa.select(*sums)).one()
        return Counters(**dict(zip(COUNTERS, map(int, row), strict=True)))

    def control(self) -> Control:
        with self._reading() as connection:
            return self._control_in(connection)

    def lease_text(self) -> str | None:
        with self._reading() as connection:
            return self._value(connection, "lease")

    def ask(self, query: str, parameters: Mapping[str, str]) -> Answer:
        if self._engine.dialect.name != "sqlite":
            raise BadInput(f"`query` speaks to SQLite and BigQuery; {self._engine.dialect.name} has functions of its own")
        quoted = self._engine.dialect.identifier_preparer.format_table
        text = for_sqlite(for_tables(query, quoted(self._job), quoted(self._history), quoted(self._failure)))
        with self._reading() as connection:
            found = connection.exec_driver_sql(text, dict(parameters))
            return Answer(list(found.keys()), [tuple(row) for row in found])

    # Writing

    def record(self, batch: Batch) -> frozenset[Prefix]:
        with self._writing() as connection:
            self._fenced(connection, batch.fence)
            stale = self._apply(connection, batch.changes, batch.at)
            if batch.writes_state:
                for key, text in (
                    ("breaker", texts.breaker_text(batch.breaker) if batch.breaker else None),
                    ("report", texts.report_text(batch.report) if batch.report else None),
                ):
                    self._put(connection, key, text)
        return stale

    def set_hold(self, hold: Hold | None) -> None:
        with self._writing() as connection:
            self._put(connection, "hold", None if hold is None else texts.hold_text(hold))

    def note_ledger(self, ledger: str, fence: int | None) -> None:
        with self._writing() as connection:
            self._fenced(connection, fence)
            self._put(connection, "ledger", ledger)

    def _fenced(self, connection: sa.Connection, fence: int | None) -> None:
        """Read under the write lock: a daemon that lost its lease meanwhile writes nothing."""
        if fence is not None:
            held = self._value(connection, "lease", lock=True)
            if held is None or epoch_of(held) != fence:
                raise LeaseLost("another daemon took over this store; nothing was written")

    def set_answers(self, answers: ServiceAnswers | None) -> None:
        with self._writing() as connection:
            self._put(connection, "answers", None if answers is None else texts.write_answers(answers))

    def bind(self, source: str, sink: str) -> Control:
        with self._writing() as connection:
            begun = sa.select(self._job.c.attempt).where(self._job.c.attempt > 0).limit(1)
            if self._value(connection, "source", lock=True) is None or connection.execute(begun).first() is None:
                self._put(connection, "source", source)
                self._put(connection, "sink", sink)
            return self._control_in(connection)

    def swap_lease(self, old: str | None, new: str) -> bool:
        with self._writing() as connection:
            if self._value(connection, "lease", lock=True) != old:
                return False
            self._put(connection, "lease", new)
        return True

    def load(
        self,
        prefixes: Sequence[Prefix],
        at: datetime,
        progress: Callable[[int], None],
        chosen: Mapping[Prefix, Chosen] = MappingProxyType({}),
    ) -> Loaded:
        added = 0
        job = self._job
        for some in chunks(prefixes, LOAD_ROWS):
            with self._writing() as connection:
                between = sa.select(job.c.prefix).where(job.c.prefix.between(some[0], some[-1]))
                present = set(connection.execute(between).scalars())
                rows = [
                    {"prefix": prefix, "status": JobStatus.WAITING.value, "last_updated": at, **own_columns(chosen.get(prefix))}
                    for prefix in some
                    if prefix not in present
                ]
                if rows:
                    connection.execute(sa.insert(job), rows)
            added += len(rows)
            progress(len(some))
        return Loaded(added=added, present=len(prefixes) - added)

    def clashes(self, prefixes: Sequence[Prefix], limit: int) -> tuple[PrefixClash, ...]:
        return tuple(islice(self._clashes(prefixes), limit))

    def prefixes(self) -> Iterator[Prefix]:
        prefix = self._job.c.prefix
        query = sa.select(prefix).order_by(prefix).limit(LOAD_ROWS)
        page = self._texts(query)
        while page:
            yield from map(Prefix, page)
            page = self._texts(query.where(prefix > page[-1]))

    def own_destinations(self) -> Iterator[tuple[Prefix, str]]:
        job = self._job
        own = sa.select(job.c.prefix, job.c.destination).where(sa.func.coalesce(job.c.destination, "") != "")
        with self._reading() as connection:
            rows = connection.execute(own.order_by(job.c.prefix)).all()
        return iter([(Prefix(prefix), destination) for prefix, destination in rows])

    def own_places(self) -> Iterator[tuple[str, str]]:
        source, destination = (sa.func.coalesce(one, "") for one in (self._job.c.source, self._job.c.destination))
        own = sa.select(source, destination).where(sa.or_(source != "", destination != "")).distinct()
        with self._reading() as connection:
            rows = connection.execute(own).all()
        return iter([(text, other) for text, other in rows])

    def close(self) -> None:
        self._engine.dispose()

    # Inside

    def _clashes(self, prefixes: Sequence[Prefix]) -> Iterator[PrefixClash]:
        # No stored prefix lies under another, and neither does one of the new ones. So in the order of both together a
        # stored prefix that encloses a new one is its next stored neighbour to the left, and everything under a new one
        # follows it at once.
        job = self._job
        for some in chunks(prefixes, LOAD_ROWS):
            with self._reading() as connection:
                before = sa.select(sa.func.max(job.c.prefix)).where(job.c.prefix < some[0])
                after = sa.select(sa.func.min(job.c.prefix)).where(job.c.prefix > some[-1])
                between = sa.select(job.c.prefix).where(job.c.prefix.between(some[0], some[-1])).order_by(job.c.prefix)
                left = connection.execute(before).scalar()
                stored = [*connection.execute(between).scalars()]
                right = connection.execute(after).scalar()
            yield from _neighbours_that_clash(some, left, stored, right)

    def _texts(self, query: sa.Select[Any]) -> list[str]:
        with self._reading() as connection:
            return [*connection.execute(query).scalars()]

    def _jobs(self, query: sa.Select[Any]) -> tuple[PrefixJob, ...]:
        with self._reading() as connection:
            return tuple(job_of(row) for row in connection.execute(query).mappings())

    def _apply(self, connection: sa.Connection, changes: Sequence[Change], at: datetime) -> frozenset[Prefix]:
        job, stale = self._job, set[Prefix]()
        for some in chunks(changes, NAMES_IN_QUERY):
            prefixes = [change.before.prefix for change in some]
            query = sa.select(job.c.prefix, job.c.generation).where(job.c.prefix.in_(prefixes)).with_for_update()
            stored = {row.prefix: row.generation for row in connection.execute(query)}
            fresh = [change for change in some if stored.get(change.before.prefix) == change.before.generation]
            stale.update(set(prefixes) - {change.before.prefix for change in fresh})
            if not fresh:
                continue
            rows = [row_of(change.after) for change in fresh]
            columns = [name for name in rows[0] if name != "prefix"]
            update = sa.update(job).where(job.c.prefix == sa.bindparam("b_prefix"))
            update = update.values({name: sa.bindparam(f"b_{name}") for name in (*columns, "last_updated")})
            connection.execute(update, [{f"b_{key}": row[key] for key in row} | {"b_last_updated": at} for row in rows])
            connection.execute(
                sa.insert(self._history),
                [
                    row | {"timestamp": at, "operation_results": change.results or None}
                    for row, change in zip(rows, fresh, strict=True)
                ],
            )
        return frozenset(stale)

    def _control_in(self, connection: sa.Connection) -> Control:
        rows = connection.execute(sa.select(self._control.c.key, self._control.c.value)).all()
        return texts.control_of({row.key: row.value for row in rows})

    def _value(self, connection: sa.Connection, key: str, *, lock: bool = False) -> str | None:
        query = sa.select(self._control.c.value).where(self._control.c.key == key)
        return connection.execute(query.with_for_update() if lock else query).scalar()

    def _put(self, connection: sa.Connection, key: str, value: str | None) -> None:
        control = self._control
        if value is None:
            connection.execute(sa.delete(control).where(control.c.key == key))
        elif connection.execute(sa.update(control).where(control.c.key == key).values(value=value)).rowcount == 0:
            connection.execute(sa.insert(control).values(key=key, value=value))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _translated(self._engine), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _translated(self._engine), self._engine.connect() as connection:
            writer = connection.execution_options(writes=True)
            with writer.begin():
                yield writer


def open_store(url: str, *, job_table: str = "sts_job", history_table: str = "sts_job_history", create: bool = False) -> SqlStore:
    """Open the store at a SQLAlchemy URL, bringing an older schema up to date.

    `create`: make the database and the tables when they are missing (prepare-tables); without it a missing store raises
    StoreNotPrepared. Raises StoreTooNew for a newer schema, BadInput for a path or URL that cannot work,
    StoreUnavailable when the database does not answer.
    """
    engine = _engine(url, create=create)
    made = tables(job_table, history_table)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with _translated(engine), engine.connect() as connection:
            version = _version(connection, made)
        if version is None and not create:
            raise StoreNotPrepared(
                f"{shown} has no table {job_table!r}; run `sts-manager prepare-tables` with the same --store first"
            )
        if version is not None and version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"{shown} has schema version {version}; this program knows up to {SCHEMA_VERSION}: "
                "upgrade it, or use the store it belongs to"
            )
        if version != SCHEMA_VERSION:
            _bring_up_to_date(engine, made)
    except BaseException:  # whatever it is, it goes on its way; only the connections are not left open
        engine.dispose()
        raise
    return SqlStore(engine, made)


def _bring_up_to_date(engine: sa.Engine, made: Tables) -> None:
    with _translated(engine), engine.connect() as connection:
        writer = connection.execution_options(writes=True)
        with writer.begin():
            version = _version(writer, made)  # once more, under the write lock
            if version is None:
                made.metadata.create_all(writer)
            else:
                while version < SCHEMA_VERSION:
                    MIGRATIONS[version](writer, made)
                    version += 1
            keys = set(writer.execute(sa.select(made.control.c.key)).scalars())
            if "migration" not in keys:
                writer.execute(sa.insert(made.control).values(key="migration", value=secrets.token_hex(4)))
            value = str(SCHEMA_VERSION)
            if "schema_version" not in keys:
                writer.execute(sa.insert(made.control).values(key="schema_version", value=value))
            else:
                writer.execute(sa.update(made.control).where(made.control.c.key == "schema_version").values(value=value))


def _version(connection: sa.Connection, made: Tables) -> int | None:
    """The schema found: None without a job table, 0 for the older tool's tables, else the version row."""
    names = set(sa.inspect(connection).get_table_names())
    if made.job.name not in names:
        return None
    if made.control.name not in names:
        return 0
    query = sa.select(made.control.c.value).where(made.control.c.key == "schema_version")
    return int(connection.execute(query).scalar() or 0)


def _engine(url: str, *, create: bool) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            _check_sqlite_path(parsed, create=create)
            engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
            _as_sqlite(engine)
            return engine
        return sa.create_engine(parsed)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, ValueError) as error:
        raise BadInput(
            f"--store {without_password(url)!r} is not a store address: {error}; for example sqlite:///sts_manager.db"
        ) from None


def _check_sqlite_path(url: sa.URL, *, create: bool) -> None:
    if url.database in (None, "", ":memory:"):
        raise BadInput("--store needs a file: the daemon and the commands share it; for example sqlite:///sts_manager.db")
    path = Path(url.database or "")
    if path.is_dir():
        raise BadInput(f"--store names the folder {path}; name a file in it, for example sqlite:///{path / 'sts_manager.db'}")
    if not path.exists() and not create:
        raise StoreNotPrepared(f"there is no store at {path}; run `sts-manager prepare-tables` with the same --store first")
    if not path.parent.is_dir():
        raise BadInput(f"--store {path}: the folder {path.parent} does not exist")
    if create:
        # For this user alone: it will hold names of objects and texts of errors. SQLite gives -wal and -shm the same rights.
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _as_sqlite(engine: sa.Engine) -> None:
    """WAL, so that readers never wait for the writer; the write lock is taken at BEGIN, so that no transaction fails half-way."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's begin event below says BEGIN, not the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a committed intent survives a power cut

    @event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated(engine: sa.Engine) -> Iterator[None]:
    """The driver's errors as ours; the address is named without its password."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise _as_ours(shown, str(error.orig)) from error


def _as_ours(shown: str, cause: str) -> Exception:
    lowered = cause.lower()
    if "locked" in lowered or "busy" in lowered:
        advice = f"another program has held its write lock for over {BUSY_TIMEOUT_S} s"
        return StoreUnavailable(f"{shown} is locked: {advice}", code="STORE_LOCKED")
    if "full" in lowered:
        return StoreUnavailable(f"{shown}: no space is left to write ({cause})", code="STORE_FULL")
    if "readonly" in lowered or "read-only" in lowered or "unable to open" in lowered:
        return StoreUnavailable(f"{shown} cannot be written: {cause}; check the path and its permissions", code="STORE_READ_ONLY")
    if "not a database" in lowered or "malformed" in lowered:
        return BadInput(f"{shown} is not a database of this program: {cause}")
    return StoreUnavailable(f"{shown}: {cause}", code="STORE_UNREACHABLE")


def _neighbours_that_clash(
    new: Sequence[Prefix], left: str | None, stored: Sequence[str], right: str | None
) -> Iterator[PrefixClash]:
    known = [*([left] if left is not None else []), *stored, *([right] if right is not None else [])]
    at = 0
    for prefix in new:
        while at < len(known) and known[at] <= prefix:
            at += 1
        enclosing = known[at - 1] if at else None
        if enclosing is not None and enclosing != prefix and prefix.startswith(enclosing):
            yield PrefixClash(prefix=prefix, stored=Prefix(enclosing))
        elif at < len(known) and known[at].startswith(prefix):
            yield PrefixClash(prefix=prefix, stored=Prefix(known[at]))
