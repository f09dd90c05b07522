"""A queue in a SQLite file: for a daemon with its workers beside it, and for several processes of one machine.

Leases end by the machine's own clock since boot, which all its processes share and nobody can set. After a restart of the
machine every lease has ended.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable
from cdn_worker.queues.memory import DELIVERIES_MAX, delivered_in_vain
from cdn_worker.queues.sqlite_file import SqliteFile

SCHEMA = 1
BUSY_S = 10.0
LOOK_S = 0.05
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TABLES = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, queue TEXT NOT NULL, body BLOB NOT NULL, due REAL NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, token TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS message_next ON message (queue, due, id);
CREATE TABLE IF NOT EXISTS board (job TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_LEASE = """
UPDATE message SET due = ?, attempts = attempts + 1, token = ?
WHERE id IN (SELECT id FROM message WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?) RETURNING id, body, attempts, reason
"""


def opened(path: Path) -> tuple[SqliteFile, str]:
    """The file with its tables, and its id. Raises BadInput for one that cannot be used."""
    try:
        file = SqliteFile(path, "the queue", QueueUnavailable, busy_s=BUSY_S)
        file.script(_TABLES)
        boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
        with file.transaction() as connection:
            first = {"schema": str(SCHEMA), "id": secrets.token_hex(8), "boot": boot}
            connection.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", first.items())
            known = dict(connection.execute("SELECT key, value FROM about").fetchall())
            if int(known["schema"]) > SCHEMA:
                raise BadInput(
                    f"the queue {path} was written by a newer version of this program: upgrade it, or use another queue"
                )
            if known["boot"] != boot:
                connection.execute("UPDATE message SET due = 0")
                connection.execute("UPDATE about SET value = ? WHERE key = 'boot'", (boot,))
    except QueueUnavailable as error:
        raise BadInput(f"{error}; is its folder there and writable, and is it a queue's file?") from error
    return file, str(known["id"])


class SqliteQueue:
    """One queue of a file. dead: the name of the one for what cannot be dealt with; empty: nothing goes there."""

    def __init__(
        self, file: SqliteFile, name: str, *, lease_s: float = 60.0, dead: str = "", deliveries_max: int = DELIVERIES_MAX
    ) -> None:
        self._file, self._name, self._lease_s, self._dead, self._deliveries_max = file, name, lease_s, dead, deliveries_max

    def publish(self, bodies: Sequence[bytes]) -> None:
        if not bodies:
            return
        with self._file.transaction() as connection:
            connection.executemany("INSERT INTO message (queue, body) VALUES (?, ?)", [(self._name, body) for body in bodies])

    def lease(self, most: int, wait_s: float = 0.0) -> list[Leased]:
        until = time.monotonic() + wait_s
        while True:
            found = self._taken(most) if self._any() else []
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(left, LOOK_S))

    def _any(self) -> bool:
        """Whether anything is due: looked at without taking the lock of writers."""
        statement = "SELECT 1 FROM message WHERE queue = ? AND due <= ? LIMIT 1"
        return bool(self._file.read(statement, (self._name, time.monotonic())))

    def _taken(self, most: int) -> list[Leased]:
        now = time.monotonic()
        token = secrets.token_hex(8)
        with self._file.transaction() as connection:
            rows = connection.execute(_LEASE, (now + self._lease_s, token, self._name, now, most)).fetchall()
            found = []
            for number, body, attempts, reason in rows:
                if self._dead and attempts > self._deliveries_max:
                    self._move(connection, number, token, delivered_in_vain(attempts - 1))
                else:
                    found.append(Leased(body, f"{number}:{token}", attempts, reason))
        return found

    def _move(self, connection: sqlite3.Connection, number: int, token: str, reason: str) -> None:
        connection.execute(
            "UPDATE message SET queue = ?, due = 0, token = '', reason = ? WHERE id = ? AND token = ?",
            (self._dead, reason, number, token),
        )

    def extend(self, leases: Sequence[Leased]) -> None:
        due = time.monotonic() + self._lease_s
        self._each("UPDATE message SET due = ? WHERE id = ? AND token = ?", leases, due)

    def ack(self, leases: Sequence[Leased]) -> None:
        self._each("DELETE FROM message WHERE id = ? AND token = ?", leases)

    def release(self, leases: Sequence[Leased]) -> None:
        statement = "UPDATE message SET due = 0, token = '' WHERE id = ? AND token = ?"
        self._each(statement, leases)

    def _each(self, statement: str, leases: Sequence[Leased], *before: object) -> None:
        if not leases:
            return
        with self._file.transaction() as connection:
            connection.executemany(statement, [(*before, *one.token.split(":")) for one in leases])

    def bury(self, lease: Leased, reason: str) -> None:
        assert self._dead
        number, token = lease.token.split(":")
        with self._file.transaction() as connection:
            self._move(connection, int(number), token, reason)

    def backlog(self) -> int:
        found = self._file.read("SELECT count(*) FROM message WHERE queue = ? AND due <= ?", (self._name, time.monotonic()))
        number = found[0][0]
        assert isinstance(number, int)
        return number

    def close(self) -> None:
        self._file.close()


class SqliteBoard:
    """What is posted, in a table of the same file."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def post(self, states: Mapping[str, JobState]) -> None:
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM board")
            connection.executemany("INSERT INTO board VALUES (?, ?)", [(job, state.value) for job, state in states.items()])

    def read(self) -> Mapping[str, JobState]:
        return {str(job): JobState(str(state)) for job, state in self._file.read("SELECT job, state FROM board")}

    def close(self) -> None:
        self._file.close()


def sqlite_queues(path: Path, *, lease_s: float = 60.0, deliveries_max: int = DELIVERIES_MAX) -> Queues:
    """The queues of a file, which is made if it is not there. Raises BadInput when it cannot be."""
    file, name = opened(path)

    def queue(which: str, dead: str = "dead") -> SqliteQueue:
        return SqliteQueue(file, which, lease_s=lease_s, dead=dead, deliveries_max=deliveries_max)

    return Queues(
        lists=queue("list"),
        copies=queue("copy"),
        reports=queue("report"),
        dead=queue("dead", dead=""),
        board=SqliteBoard(file),
        lease_s=lease_s,
        id=name,
    )
