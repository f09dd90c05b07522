"""The part of the ledger about comparisons: which objects a transfer did not bring, and where their names are written down.

Of one prefix, or of several that share something (a followed transfer job): then `prefix` of the job is what they share, and
the table job_prefix has the prefixes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType

from cdn_worker.protocol.messages import JobSpec
from cdn_worker.protocol.sqlite_file import SqliteFile
from cdn_worker.protocol.url_list_jobs import Hints, Kind, State, spec_text

STUCK = "(verdict = 'unmappable' OR error = 'exists')"
"""Of a failure: no other transfer brings it. It is archived, or has no legal name, or another object has its name."""


class Comparisons:
    """A mixin of the ledger."""

    def __init__(self, file: SqliteFile) -> None:
        self._write, self._read = file.transaction, file.read

    def compare(
        self,
        spec: JobSpec,
        prefix: str,
        at: datetime,
        hints: Hints,
        *,
        operation: str = "",
        project: str = "",
        kind: Kind = Kind.COMPARISON,
        shared: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Have it found out which objects a transfer did not bring; what earlier comparisons of the prefix found is forgotten.

        operation, project   of that transfer
        shared               the prefixes of one that several share, each with the number of its failed objects that the job store
                             has been told of
        """
        with self._write() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO job_prefix VALUES (?, ?, ?, ?)",
                [(spec.job, one, spec.source_root + one, told) for one, told in shared.items()],
            )
            self._forget(connection, prefix, told=1)
            earlier = "SELECT name FROM job WHERE prefix = ? AND kind <> ?"
            connection.execute(f"DELETE FROM failure WHERE job IN ({earlier})", (prefix, Kind.URLS))
            connection.execute(
                "INSERT OR IGNORE INTO job (name, kind, prefix, spec, full_metadata, state, began_at, hints, operation, project) "
                "VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
                (
                    spec.job,
                    kind,
                    prefix,
                    spec_text(spec),
                    State.LISTING,
                    at.isoformat(),
                    hints.text(),
                    operation,
                    project,
                ),
            )

    def compared_before(self, name: str) -> bool:
        """Whether another job was about the same prefix, of whose failed objects the job store may have been told."""
        pairs = "job AS this JOIN job AS other ON other.prefix = this.prefix AND other.name <> this.name"
        return bool(self._read(f"SELECT 1 FROM {pairs} WHERE this.name = ? LIMIT 1", (name,)))

    def forget(self, prefix: str) -> None:
        """The prefix is done: what a comparison named is there. What cannot travel is named on, until it is compared again."""
        with self._write() as connection:
            self._forget(connection, prefix, told=0, also=f"AND NOT {STUCK}")
            for job, under in connection.execute("SELECT job, under FROM job_prefix WHERE prefix = ?", (prefix,)).fetchall():
                gone = connection.execute(
                    "DELETE FROM failure WHERE job = ? AND key >= ? AND substr(key, 1, length(?)) = ?", (job, under, under, under)
                )
                if gone.rowcount:
                    connection.execute("UPDATE job SET told = 0 WHERE name = ?", (job,))

    def mend(self, shared_by: str) -> bool:
        """What was named of prefixes that share something is there; what cannot travel is named on.

        A comparison that found nothing to move stays as it is: whoever asks again is told so. Returns whether there ever was a
        comparison of them here.
        """
        with self._write() as connection:
            self._forget(connection, shared_by, told=0, also=f"AND NOT {STUCK}", which="AND manifest <> ''")
            return connection.execute("SELECT 1 FROM job WHERE prefix = ? LIMIT 1", (shared_by,)).fetchone() is not None

    def stuck(self, shared_by: str) -> list[tuple[str, int, str, str]]:
        """Of prefixes that share something, what cannot travel: (prefix, how many, one of them, its details).

        The key that is given is relative to the source's path.
        """
        rows = self._read(
            "SELECT shared.prefix, under, count(*) AS number, min(key) AS key, details FROM job "
            "JOIN job_prefix AS shared ON shared.job = job.name JOIN failure ON failure.job = job.name "
            "AND key >= under AND substr(key, 1, length(under)) = under "
            f"WHERE job.prefix = ? AND {STUCK} GROUP BY shared.prefix ORDER BY shared.prefix",
            (shared_by,),
        )
        return [(row["prefix"], row["number"], row["prefix"] + row["key"][len(row["under"]) :], row["details"]) for row in rows]

    def _forget(self, connection: sqlite3.Connection, prefix: str, *, told: int, also: str = "", which: str = "") -> None:
        where = f"prefix = ? AND kind <> ? AND NOT forgotten {which}"
        named = f"SELECT name FROM job WHERE {where}"
        connection.execute(f"DELETE FROM failure WHERE job IN ({named}) {also}", (prefix, Kind.URLS))
        # What has no manifest has nothing to be cleared away.
        clear = f"CASE WHEN kind = '{Kind.LEFT_BEHIND}' AND state = '{State.READY}' THEN '{State.OVER}' ELSE '{State.MOVING}' END"
        connection.execute(
            f"UPDATE job SET forgotten = 1, told = ?, state = iif(state = ?, state, {clear}) WHERE {where}",
            (told, State.OVER, prefix, Kind.URLS),
        )

    def ready(self, job: str, manifest: str) -> None:
        """A comparison is done: what it found has failed, for the reasons that the service gave."""
        with self._write() as connection:
            found = connection.execute("SELECT hints, state FROM job WHERE name = ?", (job,)).fetchone()
            if found["state"] != State.LISTING:
                return
            hints = Hints.of(found["hints"])
            rows = connection.execute("SELECT key, size, etag FROM object WHERE job = ?", (job,)).fetchall()
            connection.executemany(
                "INSERT OR IGNORE INTO failure VALUES (?, ?, ?, ?, 'failed', ?, ?)",
                [(job, row["key"], row["size"], row["etag"], *hints.cause(row["key"])) for row in rows],
            )
            connection.execute("DELETE FROM object WHERE job = ?", (job,))
            connection.execute(
                "UPDATE job SET state = ?, manifest = ?, failed = failed + ?, failed_bytes = failed_bytes + ? WHERE name = ?",
                (State.READY, manifest, len(rows), sum(row["size"] for row in rows), job),
            )

    def comparing(self) -> tuple[int, int]:
        """(comparisons after successful transfers that are not told yet, keys that they have listed)."""
        sums = "count(*) AS number, coalesce(sum(listed), 0) AS keys"
        row = self._read(f"SELECT {sums} FROM job WHERE kind = ? AND told <> 1 AND NOT forgotten", (Kind.LEFT_BEHIND,))[0]
        return row["number"], row["keys"]

    def uncompared(self) -> tuple[int, str]:
        """(successful transfers of which nobody found out what they passed over, or nobody yet; why, of one of them)."""
        row = self._read(
            "SELECT count(*) AS number, max(error_message) AS why FROM job WHERE kind = ? AND NOT forgotten "
            "AND (told <> 1 OR error_code <> '')",
            (Kind.LEFT_BEHIND,),
        )[0]
        return row["number"], row["why"] or ""

    def use(self, comparison: str, by: str) -> str:
        """The manifest of a comparison, for the transfer job that is to move just that; empty where there is none."""
        with self._write() as connection:
            connection.execute(
                "UPDATE job SET used_by = ? WHERE name = ? AND state = ? AND manifest <> ''", (by, comparison, State.READY)
            )
            found = connection.execute("SELECT manifest FROM job WHERE name = ? AND used_by = ?", (comparison, by)).fetchone()
        return "" if found is None else str(found["manifest"])

    def carried(self, transfer_jobs: Collection[str]) -> dict[str, tuple[int, int]]:
        """(objects, bytes) that were there already, of transfer jobs that move just what a manifest names."""
        marks = ",".join("?" * len(transfer_jobs))
        there = "skipped + moved AS objects, skipped_bytes + moved_bytes AS bytes"  # moved: by the comparison, as no manifest may
        rows = self._read(f"SELECT used_by, {there} FROM job WHERE used_by IN ({marks})", tuple(transfer_jobs))
        return {row["used_by"]: (row["objects"], row["bytes"]) for row in rows}

    # Of several prefixes

    def shared(self, job: str) -> dict[str, int]:
        """The prefixes that share a comparison: how many failed objects of each the job store was told of. One alone has none."""
        rows = self._read("SELECT prefix, told FROM job_prefix WHERE job = ? ORDER BY prefix", (job,))
        return {row["prefix"]: row["told"] for row in rows}

    def told_of(self, job: str, prefix: str, number: int) -> None:
        with self._write() as connection:
            connection.execute("UPDATE job_prefix SET told = ? WHERE job = ? AND prefix = ?", (number, job, prefix))

    def behind(self, job: str, under: str) -> tuple[int, str, str]:
        """Of the keys under a prefix: (how many might have travelled and have not, one of them, its details)."""
        found = self._read(
            "SELECT count(*) AS number, min(key) AS key, details FROM failure WHERE job = ? AND key >= ? AND key < ? "
            f"AND verdict = 'failed' AND NOT {STUCK}",
            (job, under, _after_all(under)),
        )[0]
        return found["number"], found["key"] or "", found["details"] or ""


def _after_all(prefix: str) -> str:
    """The first text, in the order of UTF-8, after all that begins with a prefix (whose last character is not the last one)."""
    last = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if last == 0xD800 else last)
