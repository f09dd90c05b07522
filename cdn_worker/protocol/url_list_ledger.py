"""What is listed and moved beside the transfer service: a SQLite file between the manager and `cdn-worker lists`.

A job of URL lists goes through states, and each has one of the two at work: `listing` (the lister), `canary` (the manager),
`looking` (the lister), `sending` (the manager), `moving` (the lister), `over`. A comparison, which finds the objects that a
transfer did not bring, goes from `listing` to `ready`; when nobody needs its manifest any more, it is cleared away by `moving`.
One after a transfer that succeeded has no manifest.
Everything that a state has done is committed before the next one begins, and each can be begun anew: a process may die anywhere.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.url_list import Naming
from cdn_worker.domain.verdict import GOOD, KeyVerdict, Verdict
from cdn_worker.protocol.messages import Failure, JobSpec
from cdn_worker.protocol.sqlite_file import SqliteFile
from cdn_worker.protocol.url_list_comparisons import Comparisons
from cdn_worker.protocol.url_list_jobs import CANCELLED, COUNTS, Job, Kind, Moved, Part, Row, State, spec_text
from cdn_worker.protocol.url_list_rows import CLASHING, IS_MD5, ROW, job_of, part_of, row_of

SCHEMA = 2
ROWS_AT_ONCE = 5000


THE_LISTERS = (State.LISTING, State.LOOKING, State.MOVING)
TABLES = f"""
CREATE TABLE IF NOT EXISTS job (
  name TEXT PRIMARY KEY, kind TEXT NOT NULL, prefix TEXT NOT NULL, spec TEXT NOT NULL, state TEXT NOT NULL,
  full_metadata INTEGER NOT NULL, project TEXT NOT NULL DEFAULT '',
  paused INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0,
  began_at TEXT NOT NULL, ended_at TEXT, base TEXT NOT NULL DEFAULT '', naming TEXT NOT NULL DEFAULT '',
  error_code TEXT NOT NULL DEFAULT '', error_message TEXT NOT NULL DEFAULT '', told INTEGER NOT NULL DEFAULT 0,
  hints TEXT NOT NULL DEFAULT '', manifest TEXT NOT NULL DEFAULT '', used_by TEXT NOT NULL DEFAULT '',
  forgotten INTEGER NOT NULL DEFAULT 0, operation TEXT NOT NULL DEFAULT '',
  {", ".join(f"{one} INTEGER NOT NULL DEFAULT 0, {one}_bytes INTEGER NOT NULL DEFAULT 0" for one in COUNTS)},
  by_md5 INTEGER NOT NULL DEFAULT 0, by_size INTEGER NOT NULL DEFAULT 0, by_crc32c INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS job_by_state ON job (state, told);
CREATE INDEX IF NOT EXISTS job_by_prefix ON job (prefix);
CREATE INDEX IF NOT EXISTS job_untold ON job (began_at, name) WHERE told <> 1;
CREATE INDEX IF NOT EXISTS job_used_by ON job (used_by) WHERE used_by <> '';
CREATE TABLE IF NOT EXISTS part (
  job TEXT, number INTEGER, rows INTEGER, bytes INTEGER, location TEXT, operation TEXT NOT NULL DEFAULT '',
  state TEXT NOT NULL DEFAULT 'ready', paused INTEGER NOT NULL DEFAULT 0,
  resumable INTEGER NOT NULL DEFAULT 0, copied INTEGER NOT NULL DEFAULT 0,
  copied_bytes INTEGER NOT NULL DEFAULT 0, missing INTEGER NOT NULL DEFAULT 0, missing_since TEXT,
  errors TEXT NOT NULL DEFAULT '[]', PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (
  job TEXT, url TEXT, key TEXT, size INTEGER, etag TEXT, modified TEXT, generation INTEGER, part INTEGER,
  PRIMARY KEY (job, url)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failure (
  job TEXT, key TEXT, size INTEGER, etag TEXT, verdict TEXT, error TEXT, details TEXT, PRIMARY KEY (job, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS job_prefix (
  job TEXT, prefix TEXT, under TEXT NOT NULL, told INTEGER NOT NULL, PRIMARY KEY (job, prefix)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS job_of_prefix ON job_prefix (prefix);
"""


def is_listers(job: Job) -> bool:
    """Whether it is the lister's turn."""
    return job.state in THE_LISTERS and (not job.paused or job.state is State.MOVING)


class ListLedger(Comparisons):
    """Safe to use from several threads and processes. unavailable: makes the error of a file that cannot be had at the moment."""

    def __init__(self, path: Path, unavailable: Callable[[str], Exception]) -> None:
        self.path = path
        self._file = SqliteFile(path, "the ledger of URL lists", unavailable)
        super().__init__(self._file)
        version = self._read("PRAGMA user_version")[0][0]
        if version > SCHEMA:
            self.close()
            raise unavailable(f"the ledger of URL lists {path} was written by a newer version of this program: upgrade it")
        self._file.script(f"{TABLES}\nPRAGMA user_version = {SCHEMA};")
        if all(column["name"] != "by_crc32c" for column in self._read("PRAGMA table_info(job)")):
            self._file.script("ALTER TABLE job ADD COLUMN by_crc32c INTEGER NOT NULL DEFAULT 0;")  # a file of before 2026-11-30

    def close(self) -> None:
        self._file.close()

    # A job's life

    def begin(self, spec: JobSpec, prefix: str, at: datetime, *, full_metadata: bool, project: str = "") -> Job:
        """Record a job, or find it as it was recorded before. project: where its transfer jobs are made."""
        with self._write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO job (name, kind, prefix, spec, full_metadata, project, state, began_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (spec.job, Kind.URLS, prefix, spec_text(spec), full_metadata, project, State.LISTING, at.isoformat()),
            )
        found = self.job(spec.job)
        assert found is not None
        return found

    def sort_out(self, job: str, bad: Sequence[KeyVerdict], gone: Sequence[str]) -> None:
        """Of what a comparison missed: objects that have a verdict of their own, and keys that are not missed any more."""
        missed = [one.key for one in bad] + list(gone)
        changed: Counter[str] = Counter()
        with self._write() as connection:
            for key in missed:
                row = connection.execute("DELETE FROM object WHERE job = ? AND url = ? RETURNING size", (job, key)).fetchone()
                if row is not None:
                    _count(changed, -row["size"], "todo", by=-1)
            self._fail(connection, job, bad)
            for one in bad:
                _count(changed, one.size, "failed")
            self._add(connection, job, changed)

    def job(self, name: str) -> Job | None:
        return next(iter(self._jobs("name = ?", (name,))), None)

    def live(self) -> list[Job]:
        states = [one for one in State if one is not State.OVER]
        return self._jobs(f"state IN ({','.join('?' * len(states))}) AND kind = ?", (*states, Kind.URLS))

    def work(self, most: int = ROWS_AT_ONCE, besides: Collection[str] = ()) -> list[Job]:
        """What a lister has to do: so many jobs at most, and none of those named.

        The oldest first; but what only reports waits for what a transfer waits for.
        """
        states, names = ",".join("?" * len(THE_LISTERS)), ",".join("?" * len(besides))
        where = f"state IN ({states}) AND (NOT paused OR state = ?) AND name NOT IN ({names})"
        values = (*THE_LISTERS, State.MOVING, *besides)
        return self._jobs(where, values, most, first=f"kind = '{Kind.LEFT_BEHIND}', ")

    def busy(self) -> bool:
        """Whether there is anything to do, or to tell."""
        states = [one for one in State if one not in (State.OVER, State.READY)]
        marks = ",".join("?" * len(states))
        return bool(
            self._read("SELECT 1 FROM job WHERE told <> 1 LIMIT 1")
            or self._read(f"SELECT 1 FROM job WHERE state IN ({marks}) LIMIT 1", states)
        )

    def _jobs(self, where: str, values: Sequence[str], most: int = -1, first: str = "") -> list[Job]:
        rows = self._read(f"SELECT * FROM job WHERE {where} ORDER BY {first}began_at, name LIMIT ?", (*values, most))
        return [job_of(row) for row in rows]

    def enter(self, job: str, state: State, *, was: State, code: str = "", message: str = "") -> None:
        """Go on with the next state, if the job is still in the one that it was; an error that is there already stays."""
        with self._write() as connection:
            connection.execute(
                "UPDATE job SET state = ?, error_code = iif(error_code = '', ?, error_code), "
                "error_message = iif(error_code = '', ?, error_message) WHERE name = ? AND state = ?",
                (state, code, message[:4000], job, was),
            )

    def name_by(self, job: str, naming: Naming) -> None:
        """What the canary told."""
        with self._write() as connection:
            connection.execute("UPDATE job SET naming = ? WHERE name = ?", (naming, job))

    def end(self, job: str, at: datetime) -> None:
        """It is over: what is still to be transferred has failed, and why is told by its part."""
        with self._write() as connection:
            for part, errors in connection.execute("SELECT number, errors FROM part WHERE job = ?", (job,)).fetchall():
                known = json.loads(errors)
                code, details = (known[0][0], known[0][2]) if known else ("NOT_TRANSFERRED", "")
                told = details or "the transfer service did not bring it, and gave no reason"
                connection.execute(
                    "INSERT OR IGNORE INTO failure SELECT job, key, size, etag, 'failed', ?, ? FROM object "
                    "WHERE job = ? AND part = ?",
                    (code.lower(), told[:4000], job, part),
                )
            connection.execute(
                "UPDATE job SET state = ?, ended_at = ?, told = iif(kind = 'comparison' AND NOT forgotten, 1, told), "
                "failed = (SELECT count(*) FROM failure f WHERE f.job = name), "
                "failed_bytes = (SELECT coalesce(sum(f.size), 0) FROM failure f WHERE f.job = name) WHERE name = ?",
                (State.OVER, at.isoformat(), job),
            )
            connection.execute("DELETE FROM object WHERE job = ?", (job,))
            connection.execute(
                "DELETE FROM failure WHERE job IN (SELECT older.name FROM job older JOIN job this ON this.prefix = older.prefix "
                "WHERE this.name = ?1 AND older.name <> ?1 AND older.state = ?2 AND this.kind = ?3)",
                (job, State.OVER, Kind.URLS),
            )

    def set_paused(self, job: str, *, paused: bool) -> bool:
        """Pause a job, or resume one that is paused, by whomever; False when it is over, or as it was asked to be."""
        stands = "NOT paused" if paused else "(paused OR EXISTS (SELECT 1 FROM part p WHERE p.job = name AND p.paused))"
        with self._write() as connection:
            done = connection.execute(
                f"UPDATE job SET paused = ? WHERE name = ? AND state <> ? AND {stands}", (paused, job, State.OVER)
            )
            if not paused:
                connection.execute("UPDATE part SET resumable = 1, paused = 0 WHERE job = ? AND state = 'started'", (job,))
        return done.rowcount > 0

    def cancel(self, job: str) -> None:
        """Transfer nothing more of it. One that is being listed has nothing at the service: it is cleared up at once."""
        with self._write() as connection:
            connection.execute(
                "UPDATE job SET cancelled = 1, paused = 0, error_code = ?, error_message = ?, state = iif(state = ?, ?, state) "
                "WHERE name = ? AND state <> ?",
                (CANCELLED, "cancelled by command; `retry` starts it again", State.LISTING, State.MOVING, job, State.OVER),
            )

    # The listing

    def list_anew(self, job: str, base: str) -> None:
        """Forget what an earlier listing of this attempt found: it did not come to its end."""
        sums = ", ".join(f"{one} = 0, {one}_bytes = 0" for one in COUNTS)
        with self._write() as connection:
            for table in ("part", "object", "failure"):
                connection.execute(f"DELETE FROM {table} WHERE job = ?", (job,))
            connection.execute(f"UPDATE job SET base = ?, {sums} WHERE name = ?", (base, job))

    def found(self, job: str, rows: Sequence[Row], verdicts: Sequence[KeyVerdict], nameless: Sequence[KeyVerdict] = ()) -> None:
        """Objects of the listing: to be transferred, or with a verdict at once; `nameless` ones are counted and not kept."""
        added: Counter[str] = Counter()
        with self._write() as connection:
            for row in rows:
                _count(added, row.size, "listed", "todo")
                clash = self._clash(connection, job, row)
                self._fail(connection, job, clash)
                for one in clash:
                    _count(added, one.size, "failed")
                    _count(added, -one.size, "todo", by=-1)
            self._fail(connection, job, [one for one in verdicts if one.verdict not in GOOD])
            for verdict in (*verdicts, *nameless):
                _count(added, verdict.size, "listed", "skipped" if verdict.verdict in GOOD else "failed")
            self._add(connection, job, added)

    def _add(self, connection: sqlite3.Connection, job: str, counts: Counter[str]) -> None:
        sums = ", ".join(f"{name} = {name} + :{name}" for name in counts)
        if sums:
            connection.execute(f"UPDATE job SET {sums} WHERE name = :job", {**counts, "job": job})

    def _clash(self, connection: sqlite3.Connection, job: str, row: Row) -> list[KeyVerdict]:
        """Add a row; or say of which keys the CDN has one and the same path: neither is transferred."""
        if connection.execute("INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", (job, *row)).rowcount:
            return []
        other = connection.execute(
            "SELECT key, size, etag, part FROM object WHERE job = ? AND url = ?", (job, row.url)
        ).fetchone()
        # The row stays, so that a third key with this path is found out too.
        connection.execute("UPDATE object SET part = ? WHERE job = ? AND url = ?", (CLASHING, job, row.url))
        return [
            KeyVerdict(
                key=key,
                size=size,
                etag=etag,
                verdict=Verdict.UNMAPPABLE,
                error="same_path",
                details=f"the substitutions give it the path of {another!r}: {row.url}",
            )
            for key, size, etag, another in (
                (row.key, row.size, row.etag, other["key"]),
                *(((other["key"], other["size"], other["etag"], row.key),) if other["part"] is None else ()),
            )
        ]

    def _fail(self, connection: sqlite3.Connection, job: str, bad: Sequence[KeyVerdict]) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(job, one.key, one.size, one.etag, one.verdict.value, one.error, one.details[:4000]) for one in bad],
        )

    def canaries(self, job: str) -> list[Row]:
        """The objects that are sent ahead of all others, in the order of their URLs; empty when there is nothing to do.

        One whose name tells most: it has to be percent-encoded, is not empty, and small. And one whose row will have no MD5,
        where there is such an object: nobody could verify that the service takes such rows.
        """
        best = "instr(url, '%') = 0, size = 0, size, url"
        named = self._read(f"{ROW} AND job = ? ORDER BY {best} LIMIT 1", (job,))
        plain = self._read(f"{ROW} AND job = ? AND NOT ({IS_MD5}) ORDER BY {best} LIMIT 1", (job,))
        return sorted({row_of(one) for one in (*named, *plain)}, key=lambda row: row.url.encode())

    def rows(self, job: str, after: str = "") -> Iterator[Row]:
        """All objects that are to be transferred, in the order of their URLs."""
        while found := self._read(f"{ROW} AND job = ? AND url > ? ORDER BY url LIMIT {ROWS_AT_ONCE}", (job, after)):
            yield from map(row_of, found)
            after = found[-1]["url"]

    def add_part(self, job: str, number: int, rows: Sequence[str], size: int, location: str) -> None:
        """A list that is in the bucket, and the URLs in it."""
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO part (job, number, rows, bytes, location) VALUES (?, ?, ?, ?, ?)",
                (job, number, len(rows), size, location),
            )
            connection.executemany("UPDATE object SET part = ? WHERE job = ? AND url = ?", [(number, job, url) for url in rows])

    # The transfer of its parts

    def parts(self, job: str) -> list[Part]:
        return [part_of(row) for row in self._read("SELECT * FROM part WHERE job = ? ORDER BY number", (job,))]

    def started(self, part: Part, operation: str) -> None:
        self._change(part, state="started", operation=operation, paused=0, missing=0, missing_since=None)

    def seen(
        self, part: Part, state: str, *, copied: int, copied_bytes: int, errors: Sequence[tuple[str, int, str]], paused: bool
    ) -> None:
        """What the service says of a part's transfer."""
        self._change(
            part,
            state=state,
            copied=copied,
            copied_bytes=copied_bytes,
            errors=json.dumps(errors),
            paused=paused,
            missing=0,
            missing_since=None,
        )

    def may_resume(self, part: Part, *, resumable: bool) -> None:
        self._change(part, resumable=resumable)

    def missed(self, part: Part, since: datetime) -> None:
        self._change(part, missing=part.missing + 1, missing_since=since.isoformat())

    def _change(self, part: Part, **values: object) -> None:
        named = ", ".join(f"{name} = ?" for name in values)
        with self._write() as connection:
            connection.execute(f"UPDATE part SET {named} WHERE job = ? AND number = ?", (*values.values(), part.job, part.number))

    # The moves

    def row(self, job: str, url: str) -> Row | None:
        """The object of a URL, while it is to be transferred."""
        return next((row_of(one) for one in self._read(f"{ROW} AND job = ? AND url IN (?, ?)", (job, url, f"{url}?"))), None)

    def settle(self, job: str, moved: Sequence[Moved], bad: Sequence[tuple[Row, KeyVerdict]]) -> None:
        """Objects that are under their own names, and objects that will not be."""
        by = Counter(one.verified for one in moved)
        sums = (by[Verified.MD5], by[Verified.CRC32C], len(moved) - by[Verified.MD5] - by[Verified.CRC32C])
        with self._write() as connection:
            gone = [(job, one.row.url) for one in moved] + [(job, row.url) for row, _ in bad]
            connection.executemany("DELETE FROM object WHERE job = ? AND url = ?", gone)
            self._fail(connection, job, [verdict for _, verdict in bad])
            connection.execute(
                "UPDATE job SET moved = moved + ?, moved_bytes = moved_bytes + ?, by_md5 = by_md5 + ?, "
                "by_crc32c = by_crc32c + ?, by_size = by_size + ? WHERE name = ?",
                (len(moved), sum(one.row.size for one in moved), *sums, job),
            )

    # Telling

    def untold(self) -> list[Job]:
        """Jobs of which the store does not know yet: what is over, comparisons that are ready or forgotten."""
        return self._jobs("told <> 1 AND (state IN (?, ?) OR forgotten)", (State.OVER, State.READY))

    def telling(self, job: str) -> None:
        """What is known of a job is about to be read, and told."""
        with self._write() as connection:
            connection.execute("UPDATE job SET told = 2 WHERE name = ?", (job,))

    def told(self, job: str) -> None:
        """It was told; unless something came to be otherwise since it was read: then it is told again."""
        with self._write() as connection:
            connection.execute("UPDATE job SET told = 1 WHERE name = ? AND told = 2", (job,))

    def failures(self, job: str, most: int) -> list[Failure]:
        rows = self._read("SELECT * FROM failure WHERE job = ? ORDER BY key LIMIT ?", (job, most))
        return [
            Failure(
                key=row["key"],
                size=row["size"],
                etag=row["etag"],
                verdict=row["verdict"],
                error=row["error"],
                details=row["details"],
            )
            for row in rows
        ]

    def error_counts(self, job: str) -> list[tuple[str, int, str, str]]:
        """(error, how often, one key, its details), commonest first."""
        rows = self._read(
            "SELECT error, count(*) AS number, min(key) AS key, min(details) AS details FROM failure WHERE job = ? "
            "GROUP BY error ORDER BY number DESC, error",
            (job,),
        )
        return [(row["error"], row["number"], row["key"], row["details"]) for row in rows]


def _count(added: Counter[str], size: int, *names: str, by: int = 1) -> None:
    for name in names:
        added[name] += by
        added[f"{name}_bytes"] += size
