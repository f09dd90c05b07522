"""How reports are counted, inside one transaction of the ledger: see `cdn_worker.protocol.messages` for how a prefix adds up."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cdn_worker.protocol.messages import CopyReport, Counts, ListFailed, ListReport, Trouble
from sts_manager.routes.pool.ledger_rows import count_in, decode_early, encode_early, time_of, time_text

ERRORS_MAX = 100
"""Of one job that are told apart; what comes beyond is counted as OTHER."""
OTHER = "other"
WELL_FOR = timedelta(seconds=30)
"""So long after something went well at one worker, that nothing goes at another one is that one's."""
ENDS_AFTER = timedelta(seconds=15)
"""A job of which nothing has gone well yet ends when it is told for so long that nothing goes: it is not even listed, or what
was tried failed. One that is listed, and of which nothing came back yet, may be at work elsewhere: on one huge object."""
GOOD = ("done", "skipped")
NO_RUN = ""
"""Of a shard that could not be listed: such a report names none."""


Errors = dict[str, tuple[int, str, str]]
"""error → (how often, the first key in their order, its details)."""


def add_error(errors: Errors, error: str, number: int, key: str, details: str) -> None:
    known = errors.get(error)
    if known is not None:
        number, (key, details) = known[0] + number, min((key, details), known[1:])
    errors[error] = (number, key, details)


@dataclass(slots=True)
class Fold:
    """What a batch of reports adds to one job, before it is written.

    good       something went well at a worker
    troubled   it is told for the first time that nothing goes on, or why
    """

    added: Counter[str] = field(default_factory=Counter)
    errors: Errors = field(default_factory=dict)
    good: bool = False
    troubled: bool = False

    def count(self, counts: Counts, errors: Errors) -> None:
        count_in(self.added, counts)
        for error, (number, key, details) in errors.items():
            add_error(self.errors, error, number, key, details)


def fold_copied(connection: sqlite3.Connection, report: CopyReport, fold: Fold, at: datetime) -> None:
    where = (report.job, report.shard, report.run, report.sequence)
    counts, errors = report.counts, _errors_in(report)
    text = json.dumps([dict(counts.objects), dict(counts.bytes), dict(counts.verified), errors])
    if not connection.execute("INSERT OR IGNORE INTO task VALUES (?, ?, ?, ?, ?)", (*where, text)).rowcount:
        return
    fold.good = fold.good or any(counts.objects.get(one) for one in GOOD)
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
        fold.count(counts, errors)


def _errors_in(report: CopyReport) -> Errors:
    errors: Errors = {}
    for one in report.failures:
        add_error(errors, one.error, 1, one.key, one.details)
    return errors


def fold_list_report(connection: sqlite3.Connection, report: ListReport, fold: Fold) -> ListFailed | None:
    """The shard that cannot be listed, of which that was heard before its parent was."""
    fold.good = True
    waiting = [report]
    while waiting:
        one = waiting.pop()
        row = connection.execute("SELECT run FROM shard WHERE job = ? AND shard = ?", (one.job, one.shard)).fetchone()
        if row is None:
            # Its parent has not been heard of: either that comes later, or it was a dead run that left it.
            _keep_early(connection, one, one.run)
            continue
        if row["run"] is not None:
            fold.added["strays"] += row["run"] != one.run
            continue
        connection.execute("UPDATE shard SET run = ? WHERE job = ? AND shard = ?", (one.run, one.job, one.shard))
        for early in _believe(connection, one, fold):
            if isinstance(early, ListFailed):
                return early
            waiting.append(early)
    return None


def _keep_early(connection: sqlite3.Connection, report: ListReport | ListFailed, run: str) -> None:
    values = (report.job, report.shard, run, encode_early(report))
    connection.execute("INSERT OR IGNORE INTO early (job, shard, run, report) VALUES (?, ?, ?, ?)", values)


def _believe(connection: sqlite3.Connection, report: ListReport, fold: Fold) -> list[ListReport | ListFailed]:
    """Count a list report and the tasks of its run that are reported already; the reports of its children that came early.

    Of a child that one run listed, and another one could not, it is the former that counts.
    """
    run = (report.job, report.shard, report.run)
    known = connection.execute("SELECT counts FROM task WHERE job = ? AND shard = ? AND run = ?", run).fetchall()
    fold.added["tasks"] += report.tasks
    fold.added["tasks_open"] += report.tasks - len(known)
    fold.added["shards"] += len(report.children)
    fold.added["shards_open"] += len(report.children) - 1
    fold.added["listed"] += report.listed
    fold.added["listed_bytes"] += report.listed_bytes
    fold.count(report.counts, {})
    for (text,) in known:
        objects, sizes, verified, *more = json.loads(text)
        fold.count(Counts(objects=objects, bytes=sizes, verified=verified), more[0] if more else {})
    early: list[ListReport | ListFailed] = []
    for child in report.children:
        connection.execute("INSERT OR IGNORE INTO shard VALUES (?, ?, NULL)", (report.job, child.shard))
        statement = "SELECT report FROM early WHERE job = ? AND shard = ? ORDER BY run = ?, id LIMIT 1"
        found = connection.execute(statement, (report.job, child.shard, NO_RUN)).fetchone()
        if found is not None:
            early.append(decode_early(found["report"]))
    return early


def fold_list_failed(connection: sqlite3.Connection, report: ListFailed) -> bool:
    """Whether the job ends by it: its shard is waited for. That of a parent which was not heard of yet is kept until then."""
    row = connection.execute("SELECT run FROM shard WHERE job = ? AND shard = ?", (report.job, report.shard)).fetchone()
    if row is None:
        _keep_early(connection, report, NO_RUN)
    return row is not None and row["run"] is None


def fold_trouble(connection: sqlite3.Connection, report: Trouble, fold: Fold, at: datetime) -> bool:
    """Write down that nothing of a job goes on at a worker. Whether the job is to end by it, as nothing ever went well of it."""
    row = connection.execute("SELECT * FROM job WHERE name = ?", (report.job,)).fetchone()
    if row["good_at"] and timedelta(0) <= at - time_of(row["good_at"]) < WELL_FOR:
        return False
    since = time_of(row["trouble_since"]) if row["trouble_since"] else at
    since = min(since, at)  # a time still to come was written by a clock that has since been set back
    connection.execute(
        "UPDATE job SET trouble_code = ?, trouble_why = ?, trouble_since = ? WHERE name = ?",
        (report.code, report.why, time_text(since), report.job),
    )
    waits = row["good_at"] and not (row["failed"] or fold.added["failed"])
    ends = at - since >= ENDS_AFTER and not (waits or row["carried"] or any(row[one] for one in GOOD))
    fold.troubled = fold.troubled or ends or row["trouble_code"] != report.code
    return ends


def write(connection: sqlite3.Connection, job: str, fold: Fold, at: datetime) -> sqlite3.Row:
    """Add a fold to its job; the job's row as it is now."""
    columns = [name for name, number in fold.added.items() if number]
    sets = [f"{name} = {name} + ?" for name in columns]
    values: list[object] = [fold.added[name] for name in columns]
    if fold.good:
        sets.append("good_at = ?, trouble_code = '', trouble_why = '', trouble_since = ''")
        values.append(time_text(at))
    if sets:
        connection.execute(f"UPDATE job SET {', '.join(sets)} WHERE name = ?", (*values, job))
    if fold.errors:
        _write_errors(connection, job, fold.errors)
    row: sqlite3.Row = connection.execute("SELECT * FROM job WHERE name = ?", (job,)).fetchone()
    return row


def _write_errors(connection: sqlite3.Connection, job: str, errors: Errors) -> None:
    known = {row["error"] for row in connection.execute("SELECT error FROM job_error WHERE job = ?", (job,))}
    for error, (number, key, details) in errors.items():
        name = error if error in known or len(known) < ERRORS_MAX else OTHER
        known.add(name)
        # The sample is the first key in their order, with its own details.
        connection.execute(
            "INSERT INTO job_error VALUES (?, ?, ?, ?, ?) ON CONFLICT (job, error) DO UPDATE SET "
            "number = number + excluded.number, key = min(key, excluded.key), "
            "details = CASE WHEN excluded.key < key THEN excluded.details ELSE details END",
            (job, name, number, key, details),
        )
