"""One SQLite file behind one connection: transactions, and errors in the words of whoever uses it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

BUSY_S = 10.0


def create_private(path: Path) -> None:
    """Make a file that only this user may read, unless there is one: it will hold names of objects and texts of errors.

    SQLite gives the files beside it (-wal, -shm) the same rights. Where it cannot be made, SQLite says why.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


class SqliteFile:
    """Safe to use from several threads; other processes may have the same file open.

    what          as an operator knows it, for messages
    unavailable   makes the error of a file that cannot be read or written at the moment
    """

    def __init__(self, path: Path, what: str, unavailable: Callable[[str], Exception], *, busy_s: float = BUSY_S) -> None:
        self.path = path
        self._shown, self._unavailable = f"{what} {path}", unavailable
        self._lock, self._busy_s = threading.Lock(), busy_s
        create_private(path)
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            # Before anything is written: what is deleted can then be given back to the disk (`free`).
            self._connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def script(self, text: str) -> None:
        """Run statements that make tables."""
        with self._lock, self._translated():
            self._connection.executescript(text)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A writing transaction: all of it, or nothing."""
        connection = self._connection
        with self._lock, self._translated():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                # SQLite itself rolls back after some errors (a full disk): another ROLLBACK would hide the cause.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def free(self, pages: int) -> bool:
        """Give unused pages back to the disk, at most so many; whether there are more.

        A file that was made without that keeps them, and uses them again.
        """
        with self._lock, self._translated():
            before = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            # As a script: a single statement would be stepped once, and free one page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({pages});")
            after = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return bool(0 < after < before)

    @contextmanager
    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Iterator[sqlite3.Row]]:
        """What a question finds, row by row, by a connection of its own: nobody waits for whoever reads, and nothing is held."""
        with self._translated(), closing(sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection.execute(statement, values)

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock, self._translated():
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unavailable(f"{self._shown}: {error}") from error
