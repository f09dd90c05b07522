"""Jobs: queries, scripts and loads, run when they are inserted; idempotent by job id; with conflicts as the service has them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tools.emulators.bigquery.catalog import Catalog, Table
from tools.emulators.bigquery.engine import Engine, Result, Statement, checked_rows
from tools.emulators.bigquery.rules import JOB, Refused, invalid, no_dataset, no_table
from tools.emulators.bigquery.values import Parameter, cell, parameters
from tools.emulators.ledger import Ledger

DML_AT_ONCE = 2
DML_QUEUED = 20
REQUEST_BYTES_MAX = 10 << 20
DAY_S = 86_400.0
SPENT = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE")


@dataclass
class Job:
    """A job and its outcome. `done_at`: (stage seconds) from when on it says DONE."""

    id: str
    location: str
    configuration: dict[str, Any]
    created_ms: int
    done_at: float = 0.0
    error: Refused | None = None
    results: list[Result] = field(default_factory=list)
    loaded: int = 0

    @property
    def answer(self) -> Result:
        """A script's answer is its last statement's."""
        return self.results[-1] if self.results else Result("")


class Jobs:
    """Runs jobs over the catalogue and the engine."""

    def __init__(self, ledger: Ledger, catalog: Catalog, engine: Engine) -> None:
        self._ledger, self._catalog, self._engine = ledger, catalog, engine
        self.lock = threading.RLock()
        self.jobs: dict[str, Job] = {}

    # Running

    def insert(self, reference: Mapping[str, Any], configuration: dict[str, Any], body: bytes | None = None) -> Job:
        """Run a job. Raises Refused `duplicate` for an id that was used before, and what refuses the request as a whole."""
        self.allowed("bigquery.jobs.create", f"Project {self._catalog.project}")
        name = reference.get("jobId") or f"job_{uuid.uuid4().hex}"
        if not JOB.fullmatch(name):
            raise invalid(f"Invalid job ID {name!r}")
        location = reference.get("location") or ""
        with self.lock:
            if name in self.jobs:
                raise Refused("duplicate", f"Already Exists: Job {self._catalog.project}:{location or 'US'}.{name}")
            job = Job(name, location, configuration, int(time.time() * 1000))
            self.jobs[name] = job
        try:
            if "query" in configuration:
                self._query(job, configuration["query"])
                self._fail_late()
            elif "load" in configuration:
                self._load(job, configuration["load"], body)
            else:
                raise invalid("the stage models query and load jobs")
        except Refused as refused:
            job.error, job.results = refused, []
        job.location = job.location or "US"
        job.done_at = time.monotonic() + float(self._ledger.setting("bigquery.job_seconds"))
        return job

    def _fail_late(self) -> None:
        left = int(self._ledger.setting("bigquery.fail_late"))
        if left:
            self._ledger.change({"bigquery.fail_late": left - 1})
            raise Refused("backendError", "Error encountered during execution. Retrying may solve the problem.")

    def _query(self, job: Job, query: Mapping[str, Any]) -> None:
        if query.get("useLegacySql", True):
            raise invalid("the stage models no legacy SQL")
        if query.get("destinationTable"):
            raise invalid("the stage models no destination table")
        if len(json.dumps(query)) > REQUEST_BYTES_MAX:
            raise invalid("The query is too large: at most 10 MB with its parameters")
        given = parameters(query.get("queryParameters", []), query.get("parameterMode", "NAMED"))
        dataset = (query.get("defaultDataset") or {}).get("datasetId")
        with self.lock:
            statements = self._engine.parsed(query["query"], dataset)
            if not statements:
                raise Refused("invalidQuery", "Syntax error: Unexpected end of statement")
            for statement in statements:
                self._check(job, statement)
        changed = set().union(*(statement.changes for statement in statements))
        tables = {key: self._catalog.table(*key) for key in changed}
        with self._outstanding(tables):
            self._commit(job, statements, given, tables)

    def _commit(
        self,
        job: Job,
        statements: Sequence[Statement],
        given: Sequence[Parameter],
        tables: Mapping[tuple[str, str], Table],
    ) -> None:
        """First to commit wins: whoever began on an older state of a table that was changed meanwhile is refused."""
        with self.lock:
            before = {key: table.mutations for key, table in tables.items()}
        if tables:
            time.sleep(float(self._ledger.setting("bigquery.dml_seconds")))
        with self.lock:
            for key, table in tables.items():
                shown = f"{self._catalog.project}:{'.'.join(key)}"
                if table.mutations != before[key]:
                    if len(statements) > 1:
                        raise Refused("invalidQuery", f"Transaction is aborted due to concurrent update against table {shown}.")
                    raise Refused("invalidQuery", f"Could not serialize access to table {shown} due to concurrent update")
                if table.streamed_until > time.monotonic():
                    raise Refused(
                        "invalidQuery",
                        f"UPDATE or DELETE statement over table {shown} would affect rows in the streaming buffer, which is not "
                        "supported",
                    )
            self._execute(job, statements, given)
            for table in tables.values():
                table.mutations += 1

    def _execute(self, job: Job, statements: Sequence[Statement], given: Sequence[Parameter]) -> None:
        open_ = False
        try:
            for statement in statements:
                match statement.kind:
                    case "BEGIN_TRANSACTION":
                        self._engine.begin()
                        open_ = True
                    case "COMMIT_TRANSACTION" if open_:
                        self._engine.commit()
                        open_ = False
                    case "ROLLBACK_TRANSACTION" if open_:
                        self._engine.rollback()
                        open_ = False
                    case "COMMIT_TRANSACTION" | "ROLLBACK_TRANSACTION":
                        raise Refused("invalidQuery", "No transaction is open")
                    case _:
                        job.results.append(self._engine.run(statement, given))
                        continue
                job.results.append(Result(statement.kind))
        finally:
            if open_:
                self._engine.rollback()

    def _check(self, job: Job, statement: Statement) -> None:
        """Permissions, and that everything is where the job is."""
        for dataset, name in [*statement.reads, *statement.targets]:
            found = self._catalog.dataset(dataset).resource["location"]
            if job.location and job.location.lower() != found.lower():
                raise no_dataset(self._catalog.project, dataset, job.location)
            job.location = found
            full = f"{self._catalog.project}:{dataset}.{name}"
            if (dataset, name) in statement.reads:
                self.allowed("bigquery.tables.getData", f"Table {full}", query=True)
            if (dataset, name) in statement.targets:
                self.allowed("bigquery.tables.updateData", f"Table {full}")

    @contextmanager
    def _outstanding(self, tables: Mapping[tuple[str, str], Table]) -> Iterator[None]:
        """Two statements that change rows run at once on a table, twenty wait, the next one fails."""
        with self.lock:
            for key, table in tables.items():
                if table.outstanding >= DML_AT_ONCE + DML_QUEUED:
                    shown = f"{self._catalog.project}:{'.'.join(key)}"
                    raise Refused(
                        "resourcesExceeded",
                        "Resources exceeded during query execution: Too many DML statements outstanding against table "
                        f"{shown}, limit is {DML_QUEUED}.",
                    )
            for table in tables.values():
                table.outstanding += 1
        try:
            yield
        finally:
            with self.lock:
                for table in tables.values():
                    table.outstanding -= 1

    def _load(self, job: Job, load: Mapping[str, Any], body: bytes | None) -> None:
        if load.get("sourceFormat") != "NEWLINE_DELIMITED_JSON" or body is None:
            raise invalid("the stage loads uploaded NEWLINE_DELIMITED_JSON only")
        into = load["destinationTable"]
        dataset, name = into["datasetId"], into["tableId"]
        with self.lock:
            home = self._catalog.dataset(dataset)
            if job.location and job.location.lower() != home.resource["location"].lower():
                raise no_dataset(self._catalog.project, dataset, job.location)
            if name not in home.tables:
                if load.get("createDisposition") == "CREATE_NEVER" or "schema" not in load:
                    raise no_table(self._catalog.project, dataset, name)
                self.allowed("bigquery.tables.create", f"Dataset {self._catalog.project}:{dataset}")
                made = self._catalog.create_table(dataset, {"tableReference": into, "schema": load["schema"]})
                self._engine.create_table(dataset, name, made.fields)
            table = self._catalog.table(dataset, name)
            full = f"{self._catalog.project}:{dataset}.{name}"
            self.allowed("bigquery.tables.updateData", f"Table {full}")
            if not self._ledger.within("bigquery.table_operations_per_day", DAY_S, of=full):
                raise Refused("quotaExceeded", f"Quota exceeded: Your table exceeded quota for imports per table: {full}")
            try:
                rows = [json.loads(line) for line in body.splitlines() if line.strip()]
            except ValueError as error:
                raise invalid(f"Error while reading data, error message: JSON parsing error: {error}") from error
            good, bad = checked_rows(full, table.fields, rows)
            if bad:
                raise invalid(f"Error while reading data, error message: row {bad[0][0] + 1}: {bad[0][1]}")
            truncate = load.get("writeDisposition") == "WRITE_TRUNCATE"
            if load.get("writeDisposition") == "WRITE_EMPTY" and self._engine.rows(dataset, name):
                raise Refused("duplicate", f"Already Exists: Table {full}")
            self._engine.append(dataset, name, table.fields, good, truncate=truncate)
            table.version += 1
            job.loaded = len(good)

    # Answering

    def job(self, name: str, location: str | None) -> Job:
        job = self.jobs.get(name)
        if job is None or (location and location.lower() != job.location.lower()):
            raise Refused("notFound", f"Not found: Job {self._catalog.project}:{name}")
        return job

    def resource(self, job: Job) -> dict[str, Any]:
        done = time.monotonic() >= job.done_at
        status: dict[str, Any] = {"state": "DONE" if done else "RUNNING"}
        if done and job.error is not None:
            status |= {"errorResult": job.error.result, "errors": [job.error.result]}
        return {
            "kind": "bigquery#job",
            "id": f"{self._catalog.project}:{job.location}.{job.id}",
            "jobReference": {"projectId": self._catalog.project, "jobId": job.id, "location": job.location},
            "configuration": job.configuration | {"jobType": "QUERY" if "query" in job.configuration else "LOAD"},
            "status": status,
            "statistics": self._statistics(job),
        }

    def _statistics(self, job: Job) -> dict[str, Any]:
        shown: dict[str, Any] = {"creationTime": str(job.created_ms), "startTime": str(job.created_ms)}
        billed = sum(result.billed for result in job.results)
        if "load" in job.configuration:
            return shown | {"load": {"outputRows": str(job.loaded)}}
        query: dict[str, Any] = {"totalBytesBilled": str(billed), "totalBytesProcessed": str(billed)}
        if len(job.results) == 1:
            query["statementType"] = job.answer.kind
            if job.answer.affected is not None:
                query["numDmlAffectedRows"] = str(job.answer.affected)
        else:
            query["statementType"] = "SCRIPT"
            shown["numChildJobs"] = str(len(job.results))
        return shown | {"totalBytesProcessed": str(billed), "query": query}

    def results(self, job: Job, query: Mapping[str, str], *, micros: bool) -> dict[str, Any]:
        """A page of a job's answer. Raises the job's own refusal."""
        shown: dict[str, Any] = {
            "jobReference": self.resource(job)["jobReference"],
            "jobComplete": time.monotonic() >= job.done_at,
        }
        if not shown["jobComplete"]:
            return shown
        if job.error is not None:
            raise job.error
        answer = job.answer
        if len(job.results) > 1 and not self._ledger.setting("bigquery.script_answers"):
            answer = Result("")
        billed = sum(result.billed for result in job.results)
        shown |= {"schema": {"fields": answer.fields}, "totalBytesProcessed": str(billed), "cacheHit": False}
        if answer.affected is not None:
            shown["numDmlAffectedRows"] = str(answer.affected)
        if answer.kind == "SELECT":
            start = int(query.get("pageToken") or query.get("startIndex") or 0)
            size = min(int(query.get("maxResults") or 1 << 40), int(self._ledger.setting("bigquery.rows_per_page")))
            rows = answer.rows[start : start + size]
            shown["totalRows"] = str(len(answer.rows))
            shown["rows"] = [row_of(answer.fields, row, micros=micros) for row in rows]
            if start + size < len(answer.rows):
                shown["pageToken"] = str(start + size)
        return shown

    def allowed(self, permission: str, on: str, *, query: bool = False) -> None:
        """Count a permission's use. Raises Refused `accessDenied`, in the service's words, when it is denied."""
        if self._ledger.permits(permission):
            return
        if permission == "bigquery.jobs.create":
            raise Refused("accessDenied", f"Access Denied: {on}: User does not have {permission} permission in {on.lower()}.")
        if query:
            table = on.partition(" ")[2]
            raise Refused(
                "accessDenied",
                f"Access Denied: {on}: User does not have permission to query table {table}, or perhaps it does not exist.",
            )
        what = on[0].lower() + on[1:]
        raise Refused("accessDenied", f"Access Denied: {on}: Permission {permission} denied on {what} (or it may not exist).")

    def billed(self) -> list[dict[str, Any]]:
        """Every job with what it cost: the stage's own page, for benchmarks and tests."""
        with self.lock:
            return [
                {
                    "id": job.id,
                    "statements": [result.kind for result in job.results] or ["LOAD"],
                    "billed": sum(result.billed for result in job.results),
                    "failed": job.error is not None,
                }
                for job in self.jobs.values()
            ]


def row_of(fields: Sequence[Mapping[str, Any]], row: Sequence[Any], *, micros: bool) -> dict[str, Any]:
    return {"f": [cell(one, value, micros=micros) for one, value in zip(fields, row, strict=True)]}


Answer = Callable[..., dict[str, Any]]
