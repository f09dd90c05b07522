"""What a job leaves behind in the ledger goes in slices, after it is over: nobody waits long for whoever deletes.

Kept: of each prefix the last attempt, with the failures that the next one may try again. Deleted: tasks, shards and parked tasks
of what is over; failures and objects of runs that were not believed; failures of earlier attempts; earlier attempts, once a later
one has ended; of the rest what has been over for a month; all but the last dead letters.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta

from sts_manager.routes.pool.ledger_rows import time_text

ROWS_AT_ONCE = 5000
JOBS_AT_ONCE = 200
KEEP_STRAYS = timedelta(days=7)
"""A job of which tasks may be about stands on the board as over for as long as Pub/Sub keeps a message."""
KEEP_OVER = timedelta(days=30)
DEAD_LETTERS = 1000
LETTER_BYTES = 64 << 10
STRAYS_GONE, SWEPT = 1, 2
"""Values of `job.swept`: the first from which failures and objects are those of believed runs alone."""
KEYS = {
    "failure": "job, shard, run, key",
    "object": "job, shard, run, key",
    "task": "job, shard, run, sequence",
    "shard": "job, shard",
    "early": "id",
    "parked": "task",
}


class Sweep:
    """One slice at a time. What it remembers between slices can be lost: it only begins a job's runs again from the first."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[str, str, str]] = {}

    def slice(self, connection: sqlite3.Connection) -> bool:
        """Delete one slice of what a job that is over left behind. False when there is nothing."""
        row = connection.execute(
            "SELECT name, prefix, swept FROM job WHERE state = 'over' AND swept < 2 ORDER BY ended_at LIMIT 1"
        ).fetchone()
        if row is None:
            self._at.clear()
            return False
        name = row["name"]
        if row["swept"] < STRAYS_GONE:
            if not any(self._strays(connection, table, name) for table in ("failure", "object")):
                connection.execute("UPDATE job SET swept = ? WHERE name = ?", (STRAYS_GONE, name))
            return True
        for table in ("shard", "task", "early", "parked"):
            if delete_some(connection, table, name):
                return True
        for older in earlier(connection, name, row["prefix"]):
            if delete_some(connection, "failure", older):
                return True
        connection.executemany(
            "UPDATE job SET superseded = 1 WHERE name = ?", [(one,) for one in earlier(connection, name, row["prefix"])]
        )
        connection.execute("UPDATE job SET swept = ? WHERE name = ?", (SWEPT, name))
        return True

    def _strays(self, connection: sqlite3.Connection, table: str, job: str) -> bool:
        """Delete a slice of rows of a run that was not believed, if there is one. Runs are looked for one by one, by the key."""
        known, shard, run = self._at.get(table, ("", "", ""))
        if known != job:
            shard, run = "", ""
        while True:
            statement = f"SELECT shard, run FROM {table} WHERE job = ? AND (shard, run) > (?, ?) ORDER BY shard, run LIMIT 1"
            found = connection.execute(statement, (job, shard, run)).fetchone()
            if found is None:
                return False
            believed = connection.execute("SELECT run FROM shard WHERE job = ? AND shard = ?", (job, found["shard"])).fetchone()
            if believed is None or believed["run"] != found["run"]:
                where = "job = ? AND shard = ? AND run = ?"
                delete_where(connection, table, where, (job, found["shard"], found["run"]))
                return True
            shard, run = found["shard"], found["run"]
            self._at[table] = (job, shard, run)


def earlier(connection: sqlite3.Connection, job: str, prefix: str) -> Iterator[str]:
    """The attempts before a job, as far as they are over and known."""
    rows = connection.execute(
        "SELECT older.name FROM job older JOIN job this ON this.name = ? WHERE older.prefix = ? AND older.name <> this.name "
        "AND older.attempt <= this.attempt AND older.state = 'over' AND older.superseded = 0",
        (job, prefix),
    ).fetchall()
    return (row["name"] for row in rows)


def delete_some(connection: sqlite3.Connection, table: str, job: str) -> bool:
    """A slice of a job's rows. Whether there were any."""
    return delete_where(connection, table, "job = ?", (job,))


def delete_where(connection: sqlite3.Connection, table: str, where: str, values: tuple[str, ...]) -> bool:
    keys = KEYS[table]
    statement = f"DELETE FROM {table} WHERE ({keys}) IN (SELECT {keys} FROM {table} WHERE {where} LIMIT {ROWS_AT_ONCE})"
    return connection.execute(statement, values).rowcount > 0


def prune(connection: sqlite3.Connection, now: datetime) -> bool:
    """Delete jobs that nobody asks about any more, and all but the last dead letters. Whether there may be more."""
    over = "state = 'over' AND swept = 2 AND told <> 0 AND ledgered = 0"
    strays, month = time_text(now - KEEP_STRAYS), time_text(now - KEEP_OVER)
    rows = connection.execute(
        f"SELECT name FROM job WHERE superseded = 1 AND {over} AND (strays = 0 OR ended_at < ?) LIMIT {JOBS_AT_ONCE}", (strays,)
    ).fetchall()
    rows += connection.execute(f"SELECT name FROM job WHERE {over} AND ended_at < ? LIMIT {JOBS_AT_ONCE}", (month,)).fetchall()
    for row in rows:
        if delete_some(connection, "failure", row["name"]):
            return True  # the rest of it in the next slices
        connection.execute("DELETE FROM job_error WHERE job = ?", (row["name"],))
        connection.execute("DELETE FROM job WHERE name = ?", (row["name"],))
    connection.execute(f"DELETE FROM dead_letter WHERE id <= (SELECT max(id) FROM dead_letter) - {DEAD_LETTERS}")
    return bool(rows)
