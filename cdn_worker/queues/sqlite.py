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
from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable, Superseded
from cdn_worker.protocol.sqlite_file import SqliteFile
from cdn_worker.queues.rules import BYTES_MAX, DELIVERIES_MAX, explain_dead_letter, explain_superseded

SCHEMA = 2
BUSY_S = 10.0
LOOK_S = 0.05
LEASE_S_MAX = 600.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEEP_DEAD_S = 7 * 86400.0
"""A dead letter that nobody knows what to do with is kept as long as Pub/Sub keeps one."""
TIDY_S = 3600.0
PAGES_FREED = 1000
_TABLES = """
CREATE TABLE IF NOT EXISTS message (
  id INTEGER PRIMARY KEY, queue TEXT NOT NULL, body BLOB NOT NULL, due REAL NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, token TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
  taken INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS message_next ON message (queue, due, id);
CREATE TABLE IF NOT EXISTS board (job TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_LEASE = """
UPDATE message SET due = ?, attempts = attempts + 1, taken = taken + 1, token = ?
WHERE id IN (
  SELECT id FROM (
    SELECT id, sum(size) OVER (ORDER BY due, id) - size AS before FROM (
      SELECT id, due, length(body) AS size FROM message WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?
    )
  ) WHERE before < ?
)
RETURNING id, body, attempts, reason, taken
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
            if int(known["schema"]) < SCHEMA:
                _bring_up_to_date(connection)
            if known["boot"] != boot:
                connection.execute("UPDATE message SET due = 0")
                connection.execute("UPDATE about SET value = ? WHERE key = 'boot'", (boot,))
            # Where the kernel names no boot (macOS, gVisor), a lease that lasts longer than any may is of an earlier one.
            connection.execute("UPDATE message SET due = 0 WHERE due > ?", (time.monotonic() + LEASE_S_MAX,))
    except QueueUnavailable as error:
        raise BadInput(f"{error}; is its folder there and writable, and is it a queue's file?") from error
    return file, str(known["id"])


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """From schema 1: what was leased then was taken, as far as that is known."""
    there = {row["name"] for row in connection.execute("PRAGMA table_info(message)")}
    if "taken" not in there:
        connection.execute("ALTER TABLE message ADD COLUMN taken INTEGER NOT NULL DEFAULT 0")
        connection.execute("ALTER TABLE message ADD COLUMN at REAL NOT NULL DEFAULT 0")
        connection.execute("UPDATE message SET taken = attempts, at = ?", (time.time(),))
    connection.execute("UPDATE about SET value = ? WHERE key = 'schema'", (str(SCHEMA),))


class SqliteQueue:
    """One queue of a file. dead: the name of the one for what cannot be dealt with; empty: nothing goes there."""

    def __init__(
        self, file: SqliteFile, name: str, *, lease_s: float = 60.0, dead: str = "", deliveries_max: int = DELIVERIES_MAX
    ) -> None:
        self._file, self._name, self._lease_s, self._dead, self._deliveries_max = file, name, lease_s, dead, deliveries_max
        self._tidy_at = 0.0

    def publish(self, bodies: Sequence[bytes]) -> None:
        if not bodies:
            return
        rows = [(self._name, body, time.time()) for body in bodies]
        with self._file.transaction() as connection:
            connection.executemany("INSERT INTO message (queue, body, at) VALUES (?, ?, ?)", rows)

    def lease(self, most: int, wait_s: float = 0.0, *, bytes_max: int | None = None) -> list[Leased]:
        until = time.monotonic() + wait_s
        if not self._dead:
            self._tidy()
        while True:
            found = self._take(most, BYTES_MAX if bytes_max is None else bytes_max) if self._any() else []
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(left, LOOK_S))

    def _any(self) -> bool:
        """Whether anything is due: looked at without taking the lock of writers."""
        statement = "SELECT 1 FROM message WHERE queue = ? AND due <= ? LIMIT 1"
        return bool(self._file.read(statement, (self._name, time.monotonic())))

    def _take(self, most: int, bytes_max: int) -> list[Leased]:
        now = time.monotonic()
        token = secrets.token_hex(8)
        with self._file.transaction() as connection:
            rows = connection.execute(_LEASE, (now + self._lease_s, token, self._name, now, most, bytes_max)).fetchall()
            found = []
            for number, body, attempts, reason, taken in rows:
                if self._dead and attempts > self._deliveries_max:
                    self._move(connection, number, token, explain_dead_letter(attempts - 1))
                else:
                    found.append(Leased(body, f"{number}:{token}", attempts, reason, taken > 1))
        return found

    def _tidy(self) -> None:
        """Of the dead letters: those that nobody will ask for any more go, and the file gives back what it does not need."""
        now = time.monotonic()
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_S
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM message WHERE queue = ? AND at < ?", (self._name, time.time() - KEEP_DEAD_S))
        self._file.free(PAGES_FREED)

    def _move(self, connection: sqlite3.Connection, number: int, token: str, reason: str) -> None:
        connection.execute(
            "UPDATE message SET queue = ?, due = 0, token = '', attempts = 0, reason = ?, at = ? WHERE id = ? AND token = ?",
            (self._dead, reason, time.time(), number, token),
        )

    def extend(self, leases: Sequence[Leased]) -> list[Leased]:
        if not leases:
            return []
        due = time.monotonic() + self._lease_s
        lost: list[Leased] = []
        with self._file.transaction() as connection:
            for one in leases:
                number, token = one.token.split(":")
                ours = "UPDATE message SET due = ? WHERE id = ? AND token = ?"
                if connection.execute(ours, (due, number, token)).rowcount:
                    continue
                lost.append(one)
                # Somebody else has it, as if this holder had died: it did not.
                connection.execute(
                    "UPDATE message SET attempts = attempts - 1 WHERE id = ? AND queue = ? AND attempts > 0", (number, self._name)
                )
        return lost

    def ack(self, leases: Sequence[Leased]) -> None:
        self._each("DELETE FROM message WHERE id = ? AND token = ?", leases)

    def release(self, leases: Sequence[Leased], *, counted: bool = False) -> None:
        statement = "UPDATE message SET due = 0, token = '', attempts = attempts - ? WHERE id = ? AND token = ?"
        self._each(statement, leases, 0 if counted else 1)

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

    def bind(self, migration: str) -> str:
        with self._file.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO about VALUES ('migration', ?)", (migration,))
            return str(connection.execute("SELECT value FROM about WHERE key = 'migration'").fetchone()["value"])

    def post(self, states: Mapping[str, JobState], *, epoch: int = 0) -> None:
        with self._file.transaction() as connection:
            row = connection.execute("SELECT value FROM about WHERE key = 'epoch'").fetchone()
            if row is not None and epoch < int(row["value"]):
                raise Superseded(explain_superseded(epoch, int(row["value"])))
            connection.execute("INSERT OR REPLACE INTO about VALUES ('epoch', ?)", (str(epoch),))
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
        huge=queue("huge"),
        reports=queue("report"),
        dead=queue("dead", dead=""),
        board=SqliteBoard(file),
        lease_s=lease_s,
        id=name,
    )
