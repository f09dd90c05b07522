"""What was given to the pool and what it reported: the manager's own record, in a SQLite file beside it.

Each report counts once, whatever comes twice, late or out of order: see `cdn_worker.contract` for how a prefix adds up. What is
folded is committed before the report is acknowledged. A ledger that is lost costs a listing and nothing else: its jobs are
unknown then, so their prefixes get a further attempt, and what is at the sink is skipped (ADR 0016).
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cdn_worker.contract import (
    KEYS_MAX,
    ROOT,
    CopyReport,
    Counts,
    Failure,
    JobSpec,
    ListFailed,
    ListReport,
    Parked,
    Report,
)
from cdn_worker.queues.sqlite_file import SqliteFile
from sts_manager.domain.errors import Fatal, StoreUnavailable
from sts_manager.domain.model import KnownObject
from sts_manager.pool.document import LED_ELSEWHERE, Job
from sts_manager.pool.ledger_rows import (
    NOTHING_TO_TELL,
    OVER_ON_BOARD,
    SCHEMA,
    TABLES,
    TOLD,
    VERDICTS,
    count_in,
    early_of,
    early_text,
    job_of_row,
    known_of,
    spec_text,
    time_text,
)

REPLAY_KEYS_MAX, REPLAY_BYTES_MAX = KEYS_MAX, 1 << 20


@dataclass(slots=True)
class _Fold:
    """What a batch of reports adds to one job, before it is written."""

    added: Counter[str]
    ended: bool = False


class PoolLedger:
    """Safe to use from several threads and processes. Raises StoreUnavailable; Fatal for a file of a newer version."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, "the pool's ledger", StoreUnavailable)
        self._write, self._read = self._file.transaction, self._file.read
        version = self._read("PRAGMA user_version")[0][0]
        if version > SCHEMA:
            self.close()
            raise Fatal(f"the pool's ledger {path} was written by a newer version of this program: upgrade it")
        self._file.script(f"{TABLES}\nPRAGMA user_version = {SCHEMA};")

    def close(self) -> None:
        self._file.close()

    def lead(self, epoch: int, at: datetime) -> None:
        """Reports are for this ledger from now on. epoch: of the lease, which grows by one with each daemon that leads.

        Where another ledger's daemon led meanwhile, it may have had reports of jobs that are live here: they would never end, so
        they end now, and their prefixes are listed anew.
        """
        with self._write() as connection:
            row = connection.execute("SELECT epoch FROM led").fetchone()
            if row is not None and epoch not in (row["epoch"], row["epoch"] + 1):
                told = "another daemon, with a ledger of its own, led meanwhile: what it was told of this job is not known here"
                for job in connection.execute("SELECT name FROM job WHERE state <> 'over'").fetchall():
                    self._ended(connection, job["name"], at, LED_ELSEWHERE, told)
            connection.execute("DELETE FROM led")
            connection.execute("INSERT INTO led VALUES (?)", (epoch,))

    # A job's life

    def begin(self, spec: JobSpec, prefix: str, queue: str, at: datetime) -> Job:
        """Record a job that is about to be published, or find it as it was recorded before.

        queue     the id of the queues that it is published to
        carried   what an earlier attempt settled well, when only its failed keys are tried again
        """
        plain = spec_text(spec)
        with self._write() as connection:
            carried = self._carried(connection, prefix, plain, spec.job)
            made = connection.execute(
                "INSERT OR IGNORE INTO job (name, prefix, spec, queue, state, began_at, carried, carried_bytes) "
                "VALUES (?, ?, ?, ?, 'new', ?, ?, ?)",
                (spec.job, prefix, plain, queue, time_text(at), *carried),
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
        """The attempt before, if every one of its keys got a verdict, and only some of them a bad one."""
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM job WHERE prefix = ? AND name <> ? ORDER BY began_at DESC, rowid DESC LIMIT 1", (prefix, job)
        ).fetchone()
        if row is None or row["state"] != "over" or row["shards_open"] or row["tasks_open"] or row["error_code"]:
            return None
        if not row["failed"] or row["unmappable"] or row["vanished"]:
            return None
        statement = "SELECT count(*), sum(length(CAST(key AS BLOB))) FROM failure WHERE job = ?"
        keys, size = connection.execute(statement, (row["name"],)).fetchone()
        if keys > REPLAY_KEYS_MAX or (size or 0) > REPLAY_BYTES_MAX:
            return None  # more than one message holds: a listing finds them as well
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
        return () if before is None else tuple(one.key for one in self.failures(before["name"]))

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
            self._ended(connection, job, at, code, message)

    def _ended(self, connection: sqlite3.Connection, job: str, at: datetime, code: str = "", message: str = "") -> None:
        connection.execute(
            "UPDATE job SET state = 'over', ended_at = ?, error_code = ?, error_message = ?, strays = strays + ? "
            "WHERE name = ? AND state <> 'over'",
            (time_text(at), code, message, 1 if code else 0, job),
        )
        connection.execute(
            "UPDATE job SET strays = strays + (SELECT count(*) FROM early e WHERE e.job = name) WHERE name = ?", (job,)
        )
        # Nothing failed, and nothing did before: there is nothing to tell the store.
        connection.execute(
            "UPDATE job SET told = ?2 WHERE name = ?1 AND failed + unmappable + vanished = 0 AND NOT EXISTS "
            "(SELECT 1 FROM job o WHERE o.prefix = job.prefix AND o.name <> ?1 AND o.told = ?3)",
            (job, NOTHING_TO_TELL, TOLD),
        )
        # Failures of runs that were not believed are none; those of earlier attempts have had their time.
        for table in ("failure", "object"):
            connection.execute(
                f"DELETE FROM {table} WHERE job = ?1 AND NOT EXISTS "
                f"(SELECT 1 FROM shard s WHERE s.job = ?1 AND s.shard = {table}.shard AND s.run = {table}.run)",
                (job,),
            )
        connection.execute(
            "DELETE FROM failure WHERE job IN (SELECT older.name FROM job older JOIN job this ON this.prefix = older.prefix "
            "WHERE this.name = ?1 AND older.name <> ?1 AND older.state = 'over')",
            (job,),
        )
        for table in ("shard", "task", "early", "parked"):
            connection.execute(f"DELETE FROM {table} WHERE job = ?", (job,))

    def untold(self) -> list[tuple[str, str]]:
        """(job, prefix) of jobs that are over and whose failed objects the store does not know yet."""
        rows = self._read("SELECT name, prefix FROM job WHERE state = 'over' AND told = 0 ORDER BY ended_at LIMIT 100")
        return [(str(row["name"]), str(row["prefix"])) for row in rows]

    def told(self, job: str, *, failures: bool) -> None:
        """The store knows a job's failed objects now; `failures`: whether there were any."""
        with self._write() as connection:
            connection.execute("UPDATE job SET told = ? WHERE name = ?", (TOLD if failures else NOTHING_TO_TELL, job))

    def known(self, most: int) -> list[KnownObject]:
        """Lines of the object ledger that the store does not have yet: of one job that is over."""
        while over := self._read("SELECT name, prefix FROM job WHERE state = 'over' AND ledgered > 0 LIMIT 1"):
            job, prefix = over[0]
            rows = self._read("SELECT * FROM object WHERE job = ? LIMIT ?", (job, most))
            if rows:
                return known_of(rows, prefix)
            with self._write() as connection:
                connection.execute("UPDATE job SET ledgered = 0 WHERE name = ?", (job,))
        return []

    def forget(self, objects: Sequence[KnownObject]) -> None:
        """The store has them now."""
        with self._write() as connection:
            statement = "DELETE FROM object WHERE job = ? AND key = ?"
            connection.executemany(statement, [(one.job_name, one.key) for one in objects])

    # Reports

    def fold(self, reports: Sequence[Report], at: datetime) -> frozenset[str]:
        """Count reports: each once, and only those of the runs that are believed. One transaction. The jobs not known here."""
        with self._write() as connection:
            folds: dict[str, _Fold] = {}
            over: dict[str, bool] = {}
            unknown: set[str] = set()
            for report in reports:
                gone = over.get(report.job)
                if gone is None:
                    row = connection.execute("SELECT state FROM job WHERE name = ?", (report.job,)).fetchone()
                    gone = over[report.job] = row is None or row["state"] == "over"
                    if row is None:
                        unknown.add(report.job)
                if gone:
                    continue  # nobody waits for it any more
                fold = folds.setdefault(report.job, _Fold(Counter()))
                match report:
                    case CopyReport():
                        self._copied(connection, report, fold, at)
                    case ListReport():
                        self._listed(connection, report, fold)
                    case ListFailed():
                        if self._waits(connection, report):
                            self._ended(connection, report.job, at, report.code, report.why)
                            over[report.job] = True
                    case Parked():
                        values = (report.task, report.job, report.kind, report.body)
                        connection.execute("INSERT OR IGNORE INTO parked VALUES (?, ?, ?, ?)", values)
            for job, fold in folds.items():
                self._add(connection, job, fold, at)
        return frozenset(unknown)

    def _waits(self, connection: sqlite3.Connection, report: ListFailed) -> bool:
        row = connection.execute("SELECT run FROM shard WHERE job = ? AND shard = ?", (report.job, report.shard)).fetchone()
        return row is not None and row["run"] is None

    def _copied(self, connection: sqlite3.Connection, report: CopyReport, fold: _Fold, at: datetime) -> None:
        where = (report.job, report.shard, report.run, report.sequence)
        counts = report.counts
        text = json.dumps([dict(counts.objects), dict(counts.bytes), dict(counts.verified)])
        if not connection.execute("INSERT OR IGNORE INTO task VALUES (?, ?, ?, ?, ?)", (*where, text)).rowcount:
            return
        if report.failures:
            connection.executemany(
                "INSERT OR IGNORE INTO failure SELECT ?, ?, ?, prefix, ?, ?, ?, ?, ?, ?, ? FROM job WHERE name = ?",
                [
                    (*where[:3], one.key, one.size, one.etag, one.verdict, one.error, one.details, time_text(at), report.job)
                    for one in report.failures
                ],
            )
        if report.objects:
            fold.added["ledgered"] += 1
            connection.executemany(
                "INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (*where[:3], one.key, one.size, one.etag, one.generation, one.crc32c, one.verified, one.verdict)
                    for one in report.objects
                ],
            )
        row = connection.execute("SELECT run FROM shard WHERE job = ? AND shard = ?", where[:2]).fetchone()
        if row is not None and row["run"] == report.run:
            fold.added["tasks_open"] -= 1
            count_in(fold.added, counts)

    def _listed(self, connection: sqlite3.Connection, report: ListReport, fold: _Fold) -> None:
        waiting = [report]
        while waiting:
            one = waiting.pop()
            row = connection.execute("SELECT run FROM shard WHERE job = ? AND shard = ?", (one.job, one.shard)).fetchone()
            if row is None:
                # Its parent has not been heard of: either that comes later, or it was a dead run that left it.
                values = (one.job, one.shard, one.run, early_text(one))
                connection.execute("INSERT OR IGNORE INTO early (job, shard, run, report) VALUES (?, ?, ?, ?)", values)
                continue
            if row["run"] is not None:
                fold.added["strays"] += row["run"] != one.run
                continue
            connection.execute("UPDATE shard SET run = ? WHERE job = ? AND shard = ?", (one.run, one.job, one.shard))
            waiting += self._believed(connection, one, fold)

    def _believed(self, connection: sqlite3.Connection, report: ListReport, fold: _Fold) -> list[ListReport]:
        """Count a list report and the tasks of its run that are reported already; the reports of its children that came early."""
        run = (report.job, report.shard, report.run)
        known = connection.execute("SELECT counts FROM task WHERE job = ? AND shard = ? AND run = ?", run).fetchall()
        fold.added["tasks"] += report.tasks
        fold.added["tasks_open"] += report.tasks - len(known)
        fold.added["shards"] += len(report.children)
        fold.added["shards_open"] += len(report.children) - 1
        fold.added["listed"] += report.listed
        fold.added["listed_bytes"] += report.listed_bytes
        count_in(fold.added, report.counts)
        for (text,) in known:
            objects, sizes, verified = json.loads(text)
            count_in(fold.added, Counts(objects=objects, bytes=sizes, verified=verified))
        early: list[ListReport] = []
        for child in report.children:
            connection.execute("INSERT OR IGNORE INTO shard VALUES (?, ?, NULL)", (report.job, child.shard))
            statement = "SELECT report FROM early WHERE job = ? AND shard = ? ORDER BY id LIMIT 1"
            found = connection.execute(statement, (report.job, child.shard)).fetchone()
            if found is not None:
                early.append(early_of(found["report"]))
        return early

    def _add(self, connection: sqlite3.Connection, job: str, fold: _Fold, at: datetime) -> None:
        columns = [name for name, number in fold.added.items() if number]
        if columns:
            sets = ", ".join(f"{name} = {name} + ?" for name in columns)
            values = [fold.added[name] for name in columns]
            connection.execute(f"UPDATE job SET {sets} WHERE name = ?", (*values, job))
        row = connection.execute("SELECT * FROM job WHERE name = ?", (job,)).fetchone()
        if row["state"] == "over" or row["shards_open"] or row["tasks_open"]:
            return
        settled = sum(row[one] for one in VERDICTS)
        if settled == row["listed"]:
            self._ended(connection, job, at)
        else:
            told = f"{row['listed']:,} keys were listed, and {settled:,} verdicts came: a defect of this program"
            self._ended(connection, job, at, "COUNTS_DIFFER", told)

    # Questions

    def job(self, name: str) -> Job | None:
        rows = self._read("SELECT * FROM job WHERE name = ?", (name,))
        return job_of_row(rows[0], self._errors(rows[0])) if rows else None

    def _errors(self, row: sqlite3.Row) -> list[tuple[str, int, str, str]]:
        """(error, how often, a key, its details) of what failed."""
        if not (row["failed"] or row["unmappable"] or row["vanished"]):
            return []
        found = self._read(
            "SELECT error, count(*) AS number, min(key) AS key, details FROM failure WHERE job = ? "
            "GROUP BY error ORDER BY number DESC",
            (row["name"],),
        )
        return [(one["error"], one["number"], one["key"], one["details"]) for one in found]

    def busy(self) -> bool:
        """Whether there is anything to keep: a job that is not over, or one whose failures the store does not know."""
        return bool(self._read("SELECT 1 FROM job WHERE state <> 'over' OR told = 0 LIMIT 1") or self.known(1))

    def live(self) -> list[Job]:
        """The jobs that are not over."""
        return [
            job_of_row(row, self._errors(row))
            for row in self._read("SELECT * FROM job WHERE state IN ('new', 'running', 'paused') ORDER BY name")
        ]

    def failures(self, job: str) -> Iterator[Failure]:
        """The keys of a job that are not at the sink, in their order."""
        for row in self._read("SELECT * FROM failure WHERE job = ? ORDER BY key", (job,)):
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
                "INSERT INTO dead_letter (at, job, reason, body) VALUES (?, ?, ?, ?)", (time_text(at), job, reason, body)
            )
