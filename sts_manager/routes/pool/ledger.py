"""What was given to the pool and what it reported: the manager's own record, in a SQLite file beside it.

Each report counts once, whatever comes twice, late or out of order: see `cdn_worker.protocol.messages` for how a prefix adds up.
What is folded is committed before the report is acknowledged. A ledger that is lost costs a listing and nothing else: its jobs
are unknown then, so their prefixes get a further attempt, and what is at the sink is skipped (ADR 0016).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cdn_worker.protocol.messages import (
    KEYS_MAX,
    ROOT,
    CopyReport,
    Failure,
    JobSpec,
    ListFailed,
    ListReport,
    Parked,
    Report,
    Task,
    Trouble,
)
from cdn_worker.protocol.sqlite_file import SqliteFile
from sts_manager.domain.errors import Fatal, StoreUnavailable
from sts_manager.domain.model import KnownObject
from sts_manager.routes.pool import folding
from sts_manager.routes.pool.folding import Fold
from sts_manager.routes.pool.ledger_rows import (
    NOTHING_TO_TELL,
    OVER_ON_BOARD,
    TOLD,
    job_of_row,
    known_object,
    spec_text,
    time_text,
)
from sts_manager.routes.pool.ledger_schema import SCHEMA, VERDICTS, attempt_of, prepare
from sts_manager.routes.pool.operation import LED_ELSEWHERE, Job
from sts_manager.routes.pool.tidying import LETTER_BYTES, STRAYS_GONE, Sweep, delete_where, prune

REPLAY_KEYS_MAX, REPLAY_BYTES_MAX = KEYS_MAX, 1 << 20
PRUNE_S = 60.0
PAGES_FREED = 2000
_BELIEVED = (
    f"(j.swept >= {STRAYS_GONE} OR EXISTS (SELECT 1 FROM shard s WHERE s.job = f.job AND s.shard = f.shard AND s.run = f.run))"
)
"""A condition on failures `f` of a job `j`: those of runs that are believed."""


@dataclass(frozen=True, slots=True)
class Folded:
    """Which of the reports of a batch, by their places in it, were not counted: of jobs that are not this ledger's to know,
    and of tasks that are of another spec than the job's. troubled: of some job it is new that nothing goes on, or why.
    ended: some job has come to its end, and its place is free.
    """

    unknown: frozenset[int] = frozenset()
    foreign: frozenset[int] = frozenset()
    troubled: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of the object ledger: of one job, up to a key."""

    job: str
    prefix: str
    last: str


class PoolLedger:
    """Safe to use from several threads and processes. Raises StoreUnavailable; Fatal for a file of a newer version.

    id   of this ledger: tasks name it, so that reports come to who waits for them
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, "the pool's ledger", StoreUnavailable)
        self._write, self._read = self._file.transaction, self._file.read
        version = self._read("PRAGMA user_version")[0][0]
        if version > SCHEMA:
            self.close()
            raise Fatal(f"the pool's ledger {path} was written by a newer version of this program: upgrade it")
        with self._write() as connection:
            self.id = prepare(connection)
        self._sweep = Sweep()
        self._prune_at = 0.0
        self._free = False

    def close(self) -> None:
        self._file.close()

    def lead(self, last: str, at: datetime) -> None:
        """Reports are for this ledger from now on. last: the id of the ledger that led before; empty where none is known.

        Where another ledger's daemon led meanwhile, it may have had reports of jobs that are live here: they would never end, so
        they end now, and their prefixes are listed anew.
        """
        if last in ("", self.id):
            return
        told = "another daemon, with a ledger of its own, led meanwhile: what it was told of this job is not known here"
        with self._write() as connection:
            for job in connection.execute("SELECT name FROM job WHERE state <> 'over'").fetchall():
                self._end(connection, job["name"], at, LED_ELSEWHERE, told)

    # A job's life

    def address(self, spec: JobSpec) -> JobSpec:
        """The spec, for tasks whose reports come to this ledger."""
        return replace(spec, ledger=self.id)

    def begin(self, spec: JobSpec, prefix: str, queue: str, at: datetime) -> Job:
        """Record a job that is about to be published, or find it as it was recorded before.

        queue     the id of the queues that it is published to
        carried   what an earlier attempt settled well, when only its failed keys are tried again
        """
        plain = spec_text(spec)
        with self._write() as connection:
            carried = self._carried(connection, prefix, plain, spec.job)
            own = (spec.job, prefix, plain, queue, time_text(at), attempt_of(spec.job), spec.fingerprint)
            made = connection.execute(
                "INSERT OR IGNORE INTO job "
                "(name, prefix, spec, queue, state, began_at, attempt, fingerprint, carried, carried_bytes) "
                "VALUES (?, ?, ?, ?, 'new', ?, ?, ?, ?, ?)",
                (*own, *carried),
            )
            if made.rowcount:
                connection.execute("INSERT INTO shard VALUES (?, ?, NULL)", (spec.job, ROOT))
        found = self.job(spec.job)
        assert found is not None
        return found

    def _carried(self, connection: sqlite3.Connection, prefix: str, spec: str, job: str) -> tuple[int, int]:
        before = self._replayable(connection, prefix, spec, job)
        if before is None:
            return 0, 0
        good = before["carried"] + before["done"] + before["skipped"]
        return good, before["carried_bytes"] + before["done_bytes"] + before["skipped_bytes"]

    def _replayable(self, connection: sqlite3.Connection, prefix: str, spec: str, job: str) -> sqlite3.Row | None:
        """The attempt before, if every one of its keys got a verdict, and only some of them a bad one.

        Which one is before is told by its number: a clock may have been set meanwhile.
        """
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM job WHERE prefix = ? AND name <> ? AND attempt <= ? ORDER BY attempt DESC, rowid DESC LIMIT 1",
            (prefix, job, attempt_of(job)),
        ).fetchone()
        if row is None or row["state"] != "over" or row["shards_open"] or row["tasks_open"] or row["error_code"]:
            return None
        if not row["failed"] or row["failed"] > REPLAY_KEYS_MAX or row["unmappable"] or row["vanished"]:
            return None  # more than one message holds: a listing finds them as well
        failures = f"FROM job j JOIN failure f ON f.job = j.name WHERE j.name = ? AND {_BELIEVED}"
        keys, size = connection.execute(f"SELECT count(*), sum(length(CAST(key AS BLOB))) {failures}", (row["name"],)).fetchone()
        if keys != row["failed"] or size > REPLAY_BYTES_MAX:
            return None  # where one of them is not known by its name, only a listing finds it
        same = {**json.loads(row["spec"]), "job": ""} == {**json.loads(spec), "job": ""}
        return row if same else None

    def replay(self, job: str) -> tuple[str, ...]:
        """The keys that a job is to try again; empty: it lists its prefix."""
        rows = self._read("SELECT * FROM job WHERE name = ?", (job,))
        if not rows or not rows[0]["carried"]:
            return ()
        row = rows[0]
        with self._write() as connection:
            before = self._replayable(connection, row["prefix"], row["spec"], job)
        keys = () if before is None else tuple(one.key for one in self.failures(before["name"], REPLAY_KEYS_MAX))
        return keys if before is not None and len(keys) == before["failed"] else ()

    def published(self, job: str) -> None:
        """Its first task is safely in the queue."""
        with self._write() as connection:
            connection.execute("UPDATE job SET state = 'running' WHERE name = ? AND state = 'new'", (job,))

    def set_paused(self, job: str, *, paused: bool) -> bool:
        """Pause a job that runs, or resume one that is paused; False when it is neither."""
        before, after = ("running", "paused") if paused else ("paused", "running")
        with self._write() as connection:
            done = connection.execute("UPDATE job SET state = ? WHERE name = ? AND state = ?", (after, job, before))
        return done.rowcount > 0

    def end(self, job: str, code: str, message: str, at: datetime) -> None:
        """It comes to nothing: what was published of it is not worked on any more."""
        with self._write() as connection:
            self._end(connection, job, at, code, message)

    def _end(self, connection: sqlite3.Connection, job: str, at: datetime, code: str = "", message: str = "") -> None:
        """What it leaves behind is deleted later, in slices: see `sweep`."""
        connection.execute(
            "UPDATE job SET state = 'over', ended_at = ?, error_code = ?, error_message = ?, trouble_code = '', "
            "trouble_why = '', strays = strays + ? + EXISTS (SELECT 1 FROM early e WHERE e.job = name) "
            "WHERE name = ? AND state <> 'over'",
            (time_text(at), code, message, 1 if code else 0, job),
        )
        # Nothing failed, and nothing did before: there is nothing to tell the store. What another ledger told is not known here.
        connection.execute(
            "UPDATE job SET told = ?2 WHERE name = ?1 AND failed + unmappable + vanished = 0 AND NOT EXISTS "
            "(SELECT 1 FROM job o WHERE o.prefix = job.prefix AND o.name <> ?1 AND o.told = ?3) AND "
            "(attempt = 1 OR EXISTS (SELECT 1 FROM job o WHERE o.prefix = job.prefix AND o.attempt = job.attempt - 1))",
            (job, NOTHING_TO_TELL, TOLD),
        )

    def sweep(self, at: datetime) -> bool:
        """Delete a slice of what jobs that are over left behind. Whether there may be more."""
        with self._write() as connection:
            more = self._sweep.slice(connection)
            if not more and time.monotonic() >= self._prune_at:
                more = prune(connection, at)
                self._prune_at = 0.0 if more else time.monotonic() + PRUNE_S
                if not more:
                    self._free = True
        if not more and self._free:
            self._free = self._file.free(PAGES_FREED)
        return more

    def untold(self) -> list[tuple[str, str]]:
        """(job, prefix) of jobs that are over and whose failed objects the store does not know yet."""
        rows = self._read("SELECT name, prefix FROM job WHERE state = 'over' AND told = 0 ORDER BY ended_at LIMIT 100")
        return [(str(row["name"]), str(row["prefix"])) for row in rows]

    def told(self, job: str, *, failures: bool) -> None:
        """The store knows a job's failed objects now; `failures`: whether there were any."""
        with self._write() as connection:
            connection.execute("UPDATE job SET told = ? WHERE name = ?", (TOLD if failures else NOTHING_TO_TELL, job))

    def lines(self, most: int) -> Lines | None:
        """Lines of the object ledger that the store does not have yet: at most so many, of one job that is over."""
        statement = f"SELECT name, prefix FROM job WHERE state = 'over' AND ledgered > 0 AND swept >= {STRAYS_GONE} LIMIT 1"
        while over := self._read(statement):
            job, prefix = over[0]
            last = self._read("SELECT key FROM object WHERE job = ? ORDER BY key LIMIT 1 OFFSET ?", (job, most - 1))
            last = last or self._read("SELECT max(key) AS key FROM object WHERE job = ?", (job,))
            if last[0]["key"] is not None:
                return Lines(str(job), str(prefix), str(last[0]["key"]))
            with self._write() as connection:
                connection.execute("UPDATE job SET ledgered = 0 WHERE name = ?", (job,))
        return None

    def objects(self, lines: Lines) -> Iterator[KnownObject]:
        """These lines, read one by one."""
        statement = "SELECT * FROM object WHERE job = ? AND key <= ? ORDER BY key"
        with self._file.rows(statement, (lines.job, lines.last)) as found:
            for row in found:
                yield known_object(row, lines.prefix)

    def forget(self, lines: Lines) -> None:
        """The store has them now. In slices."""
        more = True
        while more:
            with self._write() as connection:
                more = delete_where(connection, "object", "job = ? AND key <= ?", (lines.job, lines.last))

    # Reports

    def fold(self, reports: Sequence[Report], at: datetime) -> Folded:
        """Count reports: each once, and only those of the runs that are believed. One transaction."""
        unknown: set[int] = set()
        foreign: set[int] = set()
        with self._write() as connection:
            folds: dict[str, Fold] = {}
            known: dict[str, sqlite3.Row | None] = {}
            over: set[str] = set()
            for place, report in enumerate(reports):
                job = report.job
                if job not in known:
                    known[job] = connection.execute("SELECT state, fingerprint FROM job WHERE name = ?", (job,)).fetchone()
                row = known[job]
                if report.ledger not in ("", self.id) or (row is None and not report.ledger):
                    unknown.add(place)
                elif row is None or row["state"] == "over" or job in over:
                    continue  # nobody waits for it any more
                elif report.spec and row["fingerprint"] and report.spec != row["fingerprint"]:
                    foreign.add(place)
                elif self._fold(connection, report, folds.setdefault(job, Fold()), at):
                    over.add(job)
            settled = {self._settle(connection, job, fold, at) for job, fold in folds.items()}
        troubled = any(one.troubled for one in folds.values())
        return Folded(frozenset(unknown), frozenset(foreign), troubled, bool(over) or True in settled)

    def _fold(self, connection: sqlite3.Connection, report: Report, fold: Fold, at: datetime) -> bool:
        """Whether its job is over by it."""
        match report:
            case CopyReport():
                folding.fold_copied(connection, report, fold, at)
            case ListReport():
                failed = folding.fold_list_report(connection, report, fold)
                if failed is not None:
                    self._end(connection, failed.job, at, failed.code, failed.why)
                    return True
            case ListFailed():
                if folding.fold_list_failed(connection, report):
                    self._end(connection, report.job, at, report.code, report.why)
                    return True
            case Trouble():
                if not fold.good and folding.fold_trouble(connection, report, fold, at):
                    self._end(connection, report.job, at, report.code, report.why)
                    return True
            case Parked():
                values = (report.task, report.job, report.kind, report.body)
                connection.execute("INSERT OR IGNORE INTO parked VALUES (?, ?, ?, ?)", values)
        return False

    def _settle(self, connection: sqlite3.Connection, job: str, fold: Fold, at: datetime) -> bool:
        """Whether the job has come to its end."""
        row = folding.write(connection, job, fold, at)
        if row["state"] == "over" or row["shards_open"] or row["tasks_open"]:
            return False
        settled = sum(row[one] for one in VERDICTS)
        if settled == row["listed"]:
            self._end(connection, job, at)
        else:
            told = f"{row['listed']:,} keys were listed, and {settled:,} verdicts came: a defect of this program"
            self._end(connection, job, at, "COUNTS_DIFFER", told)
        return True

    def knows(self, task: Task) -> bool | None:
        """Whether a task is of a job of this ledger, as that was published; None: of another ledger's, or of nobody's."""
        rows = self._read("SELECT fingerprint FROM job WHERE name = ?", (task.spec.job,))
        if task.spec.ledger not in ("", self.id) or not (rows or task.spec.ledger):
            return None
        return not rows or not rows[0]["fingerprint"] or rows[0]["fingerprint"] == task.spec.fingerprint

    # Questions

    def job(self, name: str) -> Job | None:
        rows = self._read("SELECT * FROM job WHERE name = ?", (name,))
        return job_of_row(rows[0], self._errors(rows[0])) if rows else None

    def _errors(self, row: sqlite3.Row) -> list[tuple[str, int, str, str]]:
        """(error, how often, a key, its details) of what failed."""
        if not (row["failed"] or row["unmappable"] or row["vanished"]):
            return []
        found = self._read("SELECT * FROM job_error WHERE job = ? ORDER BY number DESC, error", (row["name"],))
        return [(one["error"], one["number"], one["key"], one["details"]) for one in found]

    def busy(self) -> bool:
        """Whether there is anything to keep: a job that is not over, or one that left something to tell or to delete."""
        return bool(
            self._read("SELECT 1 FROM job WHERE state <> 'over' OR told = 0 LIMIT 1")
            or self._read("SELECT 1 FROM job WHERE state = 'over' AND swept < 2 LIMIT 1")
            or self.lines(1)
        )

    def live(self) -> list[Job]:
        """The jobs that are not over."""
        return [
            job_of_row(row, self._errors(row))
            for row in self._read("SELECT * FROM job WHERE state IN ('new', 'running', 'paused') ORDER BY name")
        ]

    def buckets(self) -> list[tuple[str, str]]:
        """(source's, destination's bucket) of the jobs of which tasks may be about, each pair once."""
        pair = "json_extract(spec, '$.source_bucket') AS source, json_extract(spec, '$.sink_bucket') AS sink"
        rows = self._read(
            f"SELECT {pair} FROM job WHERE state IN ('new', 'running', 'paused') UNION "
            f"SELECT {pair} FROM job WHERE state = 'over' AND strays > 0"
        )
        return [(str(row["source"]), str(row["sink"])) for row in rows]

    def failures(self, job: str, limit: int) -> Iterator[Failure]:
        """The first `limit` keys of a job that are not at the sink, in their order; read one by one, however many there are."""
        # In one look: between two the runs that are believed may be swept away, and with them what tells whose failures count.
        statement = (
            f"SELECT f.* FROM job j JOIN failure f ON f.job = j.name WHERE j.name = ? AND {_BELIEVED} ORDER BY key LIMIT ?"
        )
        with self._file.rows(statement, (job, limit)) as found:
            for row in found:
                yield Failure(
                    key=row["key"],
                    size=row["size"],
                    etag=row["etag"],
                    verdict=row["verdict"],
                    error=row["error"],
                    details=row["details"],
                )

    def board(self) -> Mapping[str, str]:
        """What workers must know: the jobs that are paused, and those over of which tasks may still be about."""
        paused = self._read("SELECT name, state FROM job WHERE state = 'paused'")
        over = self._read(
            "SELECT name, state FROM job WHERE state = 'over' AND strays > 0 ORDER BY ended_at DESC LIMIT ?", (OVER_ON_BOARD,)
        )
        return {str(row["name"]): str(row["state"]) for row in (*paused, *over)}

    def parked(self, most: int = 500) -> list[tuple[str, str, bytes]]:
        """(task, kind, body) of tasks that were handed back and can go on."""
        rows = self._read(
            "SELECT task, kind, body FROM parked JOIN job ON job.name = parked.job WHERE job.state = 'running' LIMIT ?", (most,)
        )
        return [(str(row["task"]), str(row["kind"]), str(row["body"]).encode()) for row in rows]

    def unpark(self, tasks: Sequence[str]) -> None:
        """They are in the queue again."""
        with self._write() as connection:
            connection.executemany("DELETE FROM parked WHERE task = ?", [(one,) for one in tasks])

    def bury(self, job: str, reason: str, body: bytes, at: datetime) -> None:
        """Keep a dead letter where a person can look at it."""
        with self._write() as connection:
            connection.execute(
                "INSERT INTO dead_letter (at, job, reason, body) VALUES (?, ?, ?, ?)",
                (time_text(at), job, reason, body[:LETTER_BYTES]),
            )
