"""The tables of the pool's ledger, and how a file of an earlier release comes to have them."""

from __future__ import annotations

import re
import secrets
import sqlite3

SCHEMA = 3
VERDICTS = ("done", "skipped", "failed", "unmappable", "vanished")
LEVELS = ("md5", "crc32c", "size")
TABLES = f"""
CREATE TABLE IF NOT EXISTS job (
  name TEXT PRIMARY KEY, prefix TEXT NOT NULL, spec TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL,
  strays INTEGER NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0, ledgered INTEGER NOT NULL DEFAULT 0,
  began_at TEXT NOT NULL, ended_at TEXT, error_code TEXT NOT NULL DEFAULT '', error_message TEXT NOT NULL DEFAULT '',
  shards INTEGER NOT NULL DEFAULT 1, shards_open INTEGER NOT NULL DEFAULT 1,
  tasks INTEGER NOT NULL DEFAULT 0, tasks_open INTEGER NOT NULL DEFAULT 0,
  listed INTEGER NOT NULL DEFAULT 0, listed_bytes INTEGER NOT NULL DEFAULT 0,
  carried INTEGER NOT NULL DEFAULT 0, carried_bytes INTEGER NOT NULL DEFAULT 0,
  {", ".join(f"{one} INTEGER NOT NULL DEFAULT 0, {one}_bytes INTEGER NOT NULL DEFAULT 0" for one in VERDICTS)},
  {", ".join(f"by_{one} INTEGER NOT NULL DEFAULT 0" for one in LEVELS)},
  attempt INTEGER NOT NULL DEFAULT 0, fingerprint TEXT NOT NULL DEFAULT '',
  swept INTEGER NOT NULL DEFAULT 0, superseded INTEGER NOT NULL DEFAULT 0,
  good_at TEXT NOT NULL DEFAULT '', trouble_code TEXT NOT NULL DEFAULT '', trouble_why TEXT NOT NULL DEFAULT '',
  trouble_since TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS job_by_attempt ON job (prefix, attempt);
CREATE INDEX IF NOT EXISTS job_by_state ON job (state, told);
CREATE INDEX IF NOT EXISTS job_over ON job (ended_at) WHERE state = 'over';
CREATE INDEX IF NOT EXISTS job_with_strays ON job (ended_at) WHERE strays > 0;
CREATE INDEX IF NOT EXISTS job_ledgered ON job (state) WHERE ledgered > 0;
CREATE INDEX IF NOT EXISTS job_to_sweep ON job (ended_at) WHERE state = 'over' AND swept < 2;
CREATE INDEX IF NOT EXISTS job_superseded ON job (ended_at) WHERE superseded = 1;
CREATE TABLE IF NOT EXISTS job_error (job TEXT, error TEXT, number INTEGER NOT NULL, key TEXT NOT NULL, details TEXT NOT NULL,
  PRIMARY KEY (job, error)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shard (job TEXT, shard TEXT, run TEXT, PRIMARY KEY (job, shard)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS early (id INTEGER PRIMARY KEY, job TEXT, shard TEXT, run TEXT, report TEXT, UNIQUE (job, shard, run));
CREATE TABLE IF NOT EXISTS task (job TEXT, shard TEXT, run TEXT, sequence INTEGER, counts TEXT,
  PRIMARY KEY (job, shard, run, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failure (job TEXT, shard TEXT, run TEXT, prefix TEXT, key TEXT, size INTEGER, etag TEXT, verdict TEXT,
  error TEXT, details TEXT, at TEXT, PRIMARY KEY (job, shard, run, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (job TEXT, shard TEXT, run TEXT, key TEXT, size INTEGER, etag TEXT, generation INTEGER,
  crc32c TEXT, verified TEXT, verdict TEXT, PRIMARY KEY (job, shard, run, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_by_key ON object (job, key);
CREATE TABLE IF NOT EXISTS parked (task TEXT PRIMARY KEY, job TEXT, kind TEXT, body TEXT);
CREATE INDEX IF NOT EXISTS parked_by_job ON parked (job);
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letter (id INTEGER PRIMARY KEY, at TEXT, job TEXT, reason TEXT, body BLOB);
"""
_ATTEMPT = re.compile(r"-a(\d{1,9})$")
_ADDED = {
    "attempt": "INTEGER NOT NULL DEFAULT 0",
    "fingerprint": "TEXT NOT NULL DEFAULT ''",
    "swept": "INTEGER NOT NULL DEFAULT 0",
    "superseded": "INTEGER NOT NULL DEFAULT 0",
    "good_at": "TEXT NOT NULL DEFAULT ''",
    "trouble_code": "TEXT NOT NULL DEFAULT ''",
    "trouble_why": "TEXT NOT NULL DEFAULT ''",
    "trouble_since": "TEXT NOT NULL DEFAULT ''",
}


def attempt_of(job: str) -> int:
    """The number of the attempt that a job's name tells; 0 for one that tells none."""
    found = _ATTEMPT.search(job)
    return int(found[1]) if found else 0


def statements() -> list[str]:
    return [one for one in TABLES.split(";\n") if one.strip()]


def prepare(connection: sqlite3.Connection) -> str:
    """Make the tables, or bring those of an earlier release up to date, in a transaction of the caller's. The ledger's id."""
    columns = {row["name"] for row in connection.execute("PRAGMA table_info(job)")}
    added = [name for name in _ADDED if name not in columns] if columns else []
    for name in added:
        connection.execute(f"ALTER TABLE job ADD COLUMN {name} {_ADDED[name]}")
    for statement in statements():
        connection.execute(statement)
    if added:
        _fill(connection)
    connection.execute("INSERT OR IGNORE INTO about VALUES ('id', ?)", (secrets.token_hex(8),))
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    return str(connection.execute("SELECT value FROM about WHERE key = 'id'").fetchone()["value"])


def _fill(connection: sqlite3.Connection) -> None:
    """What an earlier release did not write down. It deleted what a job left behind when that ended; errors it counted anew."""
    names = [row["name"] for row in connection.execute("SELECT name FROM job")]
    connection.executemany("UPDATE job SET attempt = ? WHERE name = ?", [(attempt_of(name), name) for name in names])
    connection.execute("UPDATE job SET swept = 2 WHERE state = 'over'")
    connection.execute(
        "UPDATE job SET superseded = 1 WHERE EXISTS "
        "(SELECT 1 FROM job o WHERE o.prefix = job.prefix AND o.attempt > job.attempt AND o.state = 'over')"
    )
    connection.execute(
        "INSERT OR IGNORE INTO job_error SELECT f.job, error, count(*), min(key), details FROM failure f "
        "JOIN job j ON j.name = f.job LEFT JOIN shard s ON s.job = f.job AND s.shard = f.shard "
        "WHERE j.state = 'over' OR s.run = f.run GROUP BY f.job, error"
    )
    connection.execute("DROP INDEX IF EXISTS job_by_prefix")
    connection.execute("DROP TABLE IF EXISTS led")
