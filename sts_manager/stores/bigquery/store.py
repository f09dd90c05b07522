"""The job store on BigQuery: one script a pass, row and history in one transaction, nothing streamed.

A pass writes in one job: `BEGIN; MERGE rows; INSERT history; MERGE state; COMMIT`, so no crash can part a row from its
history (ADR 0011). Each accepted row carries the id of the write that made it, which tells what was stale.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from google.cloud import bigquery

from sts_manager.domain.errors import LeaseLost, StoreUnavailable
from sts_manager.domain.model import (
    COUNTED_BY_SERVICE,
    EMPTY,
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
from sts_manager.stores.bigquery.client import ONCE, Parameter, Warehouse
from sts_manager.stores.bigquery.statements import (
    BEGIN,
    COMMIT,
    FAILURE,
    OBJECT_COLUMNS,
    ROW,
    STAGED_COLUMNS,
    STATE,
    add_staged,
    clashes,
    statements,
)
from sts_manager.stores.lease import epoch_of
from sts_manager.stores.queries import Answer, for_tables
from sts_manager.stores.rows import COUNTERS, failure_of, failure_row, job_of, object_of, object_row, own_columns, row_of

WRITE_BYTES = 5 << 20
"""Bytes of rows in one write, as sent: BigQuery takes 10 MB with everything around them (Quotas: query parameters)."""
ROW_BYTES = 1800
"""What a row costs on the wire without its texts: each value has a name and brackets around it."""
FAILURES_A_WRITE = 1000
"""At most 4 KB each, so that they fit into one request."""
STAGED_FOR = timedelta(days=1)


class BigQueryStore:
    """The `JobStore` port on a BigQuery dataset. Use `bigquery_setup.open_store` to make one."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse, self._names = warehouse, warehouse.names
        self._say = statements(self._names)
        self._staged: str | None = None

    # Reading

    def counts(self) -> Mapping[JobStatus, int]:
        rows = self._warehouse.read(self._say.counts)
        return dict.fromkeys(JobStatus, 0) | {JobStatus(row["status"]): row["number"] for row in rows}

    def live(self) -> tuple[PrefixJob, ...]:
        return self._jobs(self._say.live)

    def startable(self, now: datetime, most: Mapping[Limit, int], default: Route) -> tuple[PrefixJob, ...]:
        return self._jobs(
            self._say.startable,
            now=Parameter("TIMESTAMP", now),
            too_far=Parameter("TIMESTAMP", now + WAIT_MAX),  # ramp.is_due
            route=Parameter("STRING", default.value),
            in_pool=Parameter("INT64", most.get(Limit.POOL, 0)),
            in_service=Parameter("INT64", most.get(Limit.SERVICE, 0)),
        )

    def job(self, prefix: Prefix) -> PrefixJob | None:
        found = self._jobs(self._say.job, prefix=Parameter("STRING", str(prefix)))
        return found[0] if found else None

    def jobs_named(self, names: Collection[JobName]) -> Mapping[JobName, PrefixJob]:
        if not names:
            return {}
        found = self._jobs(self._say.jobs_named, names=Parameter("STRING", sorted(map(str, names)), many=True))
        return {job.job_name: job for job in found if job.job_name is not None}

    def with_status(self, status: JobStatus) -> Iterator[PrefixJob]:
        for row in self._warehouse.read(self._say.with_status, {"status": Parameter("STRING", status.value)}):
            yield job_of(row)

    def history(self, prefix: Prefix) -> Iterator[HistoryRow]:
        for row in self._warehouse.read(self._say.history, {"prefix": Parameter("STRING", str(prefix))}):
            yield HistoryRow(
                job=job_of(row, updated="timestamp"),
                timestamp=row["timestamp"],
                operation_results=row["operation_results"] or "",
            )

    def put_failures(self, prefix: Prefix, failures: Sequence[FailedObject], at: datetime) -> None:
        # Should this process die between two parts, whoever puts them again begins with the same DELETE.
        self._warehouse.write(self._say.forget_failures, {"prefix": Parameter("STRING", str(prefix))})
        for some in chunks(failures, FAILURES_A_WRITE):
            rows = [failure_row(one) for one in some]
            given = {"failures": Parameter(FAILURE, rows), "at": Parameter("TIMESTAMP", at)}
            self._warehouse.write(self._say.add_failures, given)

    def failures(self, prefix: Prefix | None, limit: int) -> tuple[FailedObject, ...]:
        given = {"prefix": Parameter("STRING", prefix and str(prefix)), "number": Parameter("INT64", limit)}
        return tuple(failure_of(row) for row in self._warehouse.read(self._say.failures, given))

    def put_objects(self, objects: Iterable[KnownObject], at: datetime) -> None:
        # Names of jobs are the project's: the same lines for another dataset are another job.
        digest = hashlib.sha256(self._names.full(self._names.object).encode())
        with tempfile.TemporaryFile() as file:
            for one in objects:
                line = json.dumps(object_row(one) | {"seen_at": at.isoformat()}, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                file.write(line)
            if not file.tell():
                return
            # The same lines are the same job: should this process die before it has heard of it, they are not there twice.
            name = f"stsm-objects-{digest.hexdigest()[:32]}"
            self._warehouse.load(self._names.object, OBJECT_COLUMNS, file, append_as=name)

    def objects(self, prefix: Prefix, limit: int) -> tuple[KnownObject, ...]:
        given = {"prefix": Parameter("STRING", str(prefix)), "number": Parameter("INT64", limit)}
        return tuple(object_of(row) for row in self._warehouse.read(self._say.objects, given))

    def error_groups(self, limit: int) -> tuple[ErrorGroup, ...]:
        rows = self._warehouse.read(
            self._say.error_groups, {"number": Parameter("INT64", limit), "empty": Parameter("STRING", EMPTY)}
        )
        return tuple(
            ErrorGroup(
                status=JobStatus(row["status"]),
                code=row["error_code"],
                prefixes=row["number"],
                example=Prefix(row["example"]),
                message=row["message"] or "",
            )
            for row in rows
        )

    def left_behind(self, limit: int) -> tuple[LeftBehind, ...]:
        rows = self._warehouse.read(
            self._say.left_behind, {"number": Parameter("INT64", limit), "counted": Parameter("STRING", COUNTED_BY_SERVICE)}
        )
        return tuple(
            LeftBehind(
                prefix=Prefix(row["prefix"]), objects=row["number"], bytes=row["bytes"], counted_by_service=bool(row["counted"])
            )
            for row in rows
        )

    def totals(self) -> Counters:
        (row,) = self._warehouse.read(self._say.totals)
        return Counters(**{name: int(row[name]) for name in COUNTERS})

    def control(self) -> Control:
        return texts.control_of(self._values())

    def lease_text(self) -> str | None:
        return self._values().get("lease")

    def ask(self, query: str, parameters: Mapping[str, str]) -> Answer:
        names = self._names
        job, history, failure = (f"`{names.full(one)}`" for one in (names.job, names.history, names.failure))
        text = for_tables(query, job, history, failure)
        given = {name: Parameter("STRING", value) for name, value in parameters.items()}
        columns, rows = self._warehouse.table(text, given)
        return Answer(columns, rows)

    # Writing

    def record(self, batch: Batch) -> frozenset[Prefix]:
        state = []
        if batch.writes_state:
            state = [
                {"key": "breaker", "value": texts.breaker_text(batch.breaker) if batch.breaker else None},
                {"key": "report", "value": texts.report_text(batch.report) if batch.report else None},
            ]
        stale: set[Prefix] = set()
        parts = list(_sized(batch.changes)) or [[]]
        for some in parts:
            stale |= self._record(some, batch, state if some is parts[-1] else [])
        return frozenset(stale)

    def _record(self, changes: Sequence[Change], batch: Batch, state: Sequence[Mapping[str, str | None]]) -> set[Prefix]:
        """One script: rows, their history and the state, or nothing at all."""
        say, fence = self._say, Parameter("INT64", batch.fence)
        steps, given = [], {"fence": fence}
        if changes:
            steps += [say.merge_rows, say.append_history]
            rows = [row_of(change.after) | {"operation_results": change.results or None} for change in changes]
            given |= {"rows": Parameter(ROW, rows), "at": Parameter("TIMESTAMP", batch.at)}
        if state:
            steps.append(say.merge_state)
            given |= {"state": Parameter(STATE, state)}
        if not steps:
            return set()
        if not changes:
            written = self._warehouse.write(say.merge_state, given)
            if batch.fence is not None and not written.affected:
                self._still_ours(batch.fence)
            return set()
        written = self._warehouse.write(";\n".join([BEGIN, *steps, COMMIT, say.written]), given)
        # A script answers with its last statement's rows. Should it not, or should all be stale, they are asked for again.
        accepted = written.rows or list(self._warehouse.read(say.written, {"write_id": Parameter("STRING", written.job)}))
        if batch.fence is not None and not accepted:
            self._still_ours(batch.fence)
        return {change.before.prefix for change in changes} - {Prefix(row["prefix"]) for row in accepted}

    def set_hold(self, hold: Hold | None) -> None:
        self._put({"hold": None if hold is None else texts.hold_text(hold)})

    def note_ledger(self, ledger: str, fence: int | None) -> None:
        state = [{"key": "ledger", "value": ledger}]
        given = {"state": Parameter(STATE, state), "fence": Parameter("INT64", fence)}
        written = self._warehouse.write(self._say.merge_state, given)
        if fence is not None and not written.affected:
            self._still_ours(fence)

    def set_answers(self, answers: ServiceAnswers | None) -> None:
        self._put({"answers": None if answers is None else texts.write_answers(answers)})

    def bind(self, source: str, sink: str) -> Control:
        stored = self.control()
        if (stored.source, stored.sink) == (source, sink):
            return stored
        state = [{"key": "source", "value": source}, {"key": "sink", "value": sink}]
        self._warehouse.write(self._say.bind, {"state": Parameter(STATE, state)})
        return self.control()

    def swap_lease(self, old: str | None, new: str) -> bool:
        given = {"old": Parameter("STRING", old), "new": Parameter("STRING", new)}
        return self._warehouse.write(self._say.swap_lease, given).affected == 1

    def load(
        self,
        prefixes: Sequence[Prefix],
        at: datetime,
        progress: Callable[[int], None],
        chosen: Mapping[Prefix, Chosen] = MappingProxyType({}),
    ) -> Loaded:
        if not prefixes:
            return Loaded()
        staged = self._stage(prefixes, chosen)
        written = self._warehouse.write(add_staged(self._names, staged), {"at": Parameter("TIMESTAMP", at)})
        self._unstage()
        progress(len(prefixes))
        return Loaded(added=written.affected, present=len(prefixes) - written.affected)

    def prefixes(self) -> Iterator[Prefix]:
        for row in self._warehouse.read(self._say.prefixes):
            yield Prefix(row["prefix"])

    def own_destinations(self) -> Iterator[tuple[Prefix, str]]:
        for row in self._warehouse.read(self._say.own_destinations):
            yield Prefix(row["prefix"]), row["destination"]

    def own_places(self) -> Iterator[tuple[str, str]]:
        for row in self._warehouse.read(self._say.own_places):
            yield row["source"], row["destination"]

    def clashes(self, prefixes: Sequence[Prefix], limit: int) -> tuple[PrefixClash, ...]:
        if not prefixes or not sum(self.counts().values()):
            return ()
        text = clashes(self._names, self._stage(prefixes))
        rows = self._warehouse.read(text, {"number": Parameter("INT64", limit)})
        return tuple(PrefixClash(prefix=Prefix(row["prefix"]), stored=Prefix(row["stored"])) for row in rows)

    def close(self) -> None:
        with suppress(StoreUnavailable):  # a table that is left behind has an end of life of its own
            self._unstage()
        self._warehouse.close()

    # Inside

    def _jobs(self, text: str, **parameters: Parameter) -> tuple[PrefixJob, ...]:
        return tuple(job_of(row) for row in self._warehouse.read(text, parameters))

    def _values(self) -> dict[str, str]:
        return {row["key"]: row["value"] for row in self._warehouse.read(self._say.control)}

    def _put(self, values: Mapping[str, str | None]) -> None:
        state = [{"key": key, "value": value} for key, value in values.items()]
        self._warehouse.write(self._say.merge_state, {"state": Parameter(STATE, state), "fence": Parameter("INT64", None)})

    def _still_ours(self, fence: int) -> None:
        """Why nothing was written: a lost lease is told, anything else was only stale."""
        lease = self.lease_text()
        if lease is None or epoch_of(lease) != fence:
            raise LeaseLost("another daemon took over this store; nothing was written")

    def _stage(self, prefixes: Sequence[Prefix], chosen: Mapping[Prefix, Chosen] = MappingProxyType({})) -> str:
        """A table of just these prefixes, in one load job; the same list is loaded once."""
        # Names of jobs are the project's: the same lines for another dataset are another job.
        digest = hashlib.sha256(self._names.full(self._names.object).encode())
        with tempfile.TemporaryFile() as file:
            for prefix in prefixes:
                own = {name: value for name, value in own_columns(chosen.get(prefix)).items() if value}
                line = json.dumps({"prefix": prefix, **own}, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                file.write(line)
            name = f"{self._names.job}_load_{digest.hexdigest()[:16]}"
            if name != self._staged:
                self._unstage()
                # Made first, with an end of life: should this process die, the table goes by itself.
                table = bigquery.Table(
                    self._names.full(name), schema=[bigquery.SchemaField(*column) for column in STAGED_COLUMNS.items()]
                )
                table.expires = datetime.now(UTC) + STAGED_FOR
                client = self._warehouse.client
                self._warehouse.again("create a table", lambda: client.create_table(table, exists_ok=True, retry=ONCE))
                self._staged = name
                self._warehouse.load(name, STAGED_COLUMNS, file)
        return name

    def _unstage(self) -> None:
        if self._staged is not None:
            name, self._staged = self._names.full(self._staged), None
            client = self._warehouse.client
            self._warehouse.again("drop a table", lambda: client.delete_table(name, not_found_ok=True, retry=ONCE))


def _sized(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """The changes in parts that fit into one write each."""
    part: list[Change] = []
    size = 0
    for change in changes:
        job = change.after
        # As it goes over the wire: quotes and whatever is not ASCII grow when they are escaped.
        own = ROW_BYTES + len(json.dumps([change.results, job.error_message, job.prefix, job.job_name, job.operation_name]))
        if part and size + own > WRITE_BYTES:
            yield part
            part, size = [], 0
        part.append(change)
        size += own
    if part:
        yield part
