"""Whose log is still to be read: a SQLite file, so that a daemon that is started again goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cdn_worker.protocol.sqlite_file import SqliteFile
from sts_manager.domain.names import OperationName, Prefix

TABLE = """
CREATE TABLE IF NOT EXISTS reading (
  prefix TEXT PRIMARY KEY, transfer_job TEXT NOT NULL, operation TEXT NOT NULL, project TEXT NOT NULL, since TEXT NOT NULL,
  expected INTEGER NOT NULL, until TEXT NOT NULL, next_at TEXT NOT NULL, looks INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
COLUMNS = "prefix, transfer_job, operation, project, since, expected, until, next_at, looks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is looked for of one attempt of a prefix.

    since      when its operation began
    expected   so many objects failed; 0: it ended badly without any, so the cause of the listing is looked for
    until      no look is begun after this, but one there is always
    next_at    when it is looked at next; looks: how often it was
    """

    prefix: Prefix
    transfer_job: str
    operation: OperationName
    project: str
    since: datetime
    expected: int
    until: datetime
    next_at: datetime
    looks: int = 0


class ReadingLedger:
    """Safe to use from several threads. unavailable: makes the error of a file that cannot be had at the moment."""

    def __init__(self, path: Path, unavailable: Callable[[str], Exception]) -> None:
        self._file = SqliteFile(path, "the ledger of log readings", unavailable)
        self._file.script(TABLE)

    def close(self) -> None:
        self._file.close()

    def want(self, reading: Reading) -> None:
        """Have it read; what was wanted of an earlier attempt is wanted no more."""
        values = (
            reading.prefix,
            reading.transfer_job,
            reading.operation,
            reading.project,
            reading.since.isoformat(),
            reading.expected,
            reading.until.isoformat(),
            reading.next_at.isoformat(),
            reading.looks,
        )
        with self._file.transaction() as connection:
            connection.execute(f"INSERT OR REPLACE INTO reading ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, prefix: Prefix) -> None:
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM reading WHERE prefix = ?", (prefix,))

    def over(self, reading: Reading) -> None:
        """Unless another attempt's took its place meanwhile."""
        with self._file.transaction() as connection:
            connection.execute(
                "DELETE FROM reading WHERE prefix = ? AND transfer_job = ?", (reading.prefix, reading.transfer_job)
            )

    def look_again(self, reading: Reading, at: datetime, *, looked: bool = True) -> None:
        """looked: this was a look, and not only found too early for one."""
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE reading SET next_at = ?, looks = looks + ? WHERE prefix = ? AND transfer_job = ?",
                (at.isoformat(), looked, reading.prefix, reading.transfer_job),
            )

    def wanted(self, reading: Reading) -> bool:
        """Whether it still is: a later attempt of the prefix may have come to its end meanwhile."""
        return bool(
            self._file.read("SELECT 1 FROM reading WHERE prefix = ? AND transfer_job = ?", (reading.prefix, reading.transfer_job))
        )

    def due(self, now: datetime | None) -> Reading | None:
        """The one that has waited longest of those that are due; of all where no time is given. None: none is."""
        where, values = ("WHERE next_at <= ?", (now.isoformat(),)) if now is not None else ("", ())
        rows = self._file.read(f"SELECT {COLUMNS} FROM reading {where} ORDER BY next_at LIMIT 1", values)
        return next((_reading(row) for row in rows), None)

    def unread(self, most: int) -> list[Reading]:
        """Those that nobody has looked at yet."""
        rows = self._file.read(f"SELECT {COLUMNS} FROM reading WHERE looks = 0 ORDER BY next_at LIMIT ?", (most,))
        return [_reading(row) for row in rows]


def _reading(row: sqlite3.Row) -> Reading:
    return Reading(
        prefix=Prefix(row["prefix"]),
        transfer_job=row["transfer_job"],
        operation=OperationName(row["operation"]),
        project=row["project"],
        since=datetime.fromisoformat(row["since"]),
        expected=row["expected"],
        until=datetime.fromisoformat(row["until"]),
        next_at=datetime.fromisoformat(row["next_at"]),
        looks=row["looks"],
    )
