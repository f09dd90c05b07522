"""The tables of the pool's ledger, and how its rows and texts become values."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from cdn_worker.contract import Child, Counts, JobSpec, ListReport
from sts_manager.domain.model import KnownObject
from sts_manager.domain.naming import Prefix
from sts_manager.pool.document import Job

SCHEMA = 2
OVER_ON_BOARD = 1000
NOTHING_TO_TELL, TOLD = 1, 2
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
  {", ".join(f"by_{one} INTEGER NOT NULL DEFAULT 0" for one in LEVELS)}
);
CREATE INDEX IF NOT EXISTS job_by_prefix ON job (prefix, began_at);
CREATE INDEX IF NOT EXISTS job_by_state ON job (state, told);
CREATE INDEX IF NOT EXISTS job_with_strays ON job (ended_at) WHERE strays > 0;
CREATE INDEX IF NOT EXISTS job_ledgered ON job (state) WHERE ledgered > 0;
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
CREATE TABLE IF NOT EXISTS led (epoch INTEGER);
CREATE TABLE IF NOT EXISTS dead_letter (id INTEGER PRIMARY KEY, at TEXT, job TEXT, reason TEXT, body BLOB);
"""


def spec_text(spec: JobSpec) -> str:
    """A spec as it is recorded: the same text for the same spec."""
    return json.dumps({name: getattr(spec, name) for name in sorted(JobSpec.__dataclass_fields__)}, default=str)


def count_in(added: Counter[str], counts: Counts) -> None:
    for name, number in counts.objects.items():
        added[name] += number
    for name, number in counts.bytes.items():
        added[f"{name}_bytes"] += number
    for name, number in counts.verified.items():
        if name in LEVELS:
            added[f"by_{name}"] += number


def early_text(report: ListReport) -> str:
    counts = report.counts
    return json.dumps(
        [
            [report.job, report.shard, report.run, report.listed, report.listed_bytes, report.tasks],
            [dict(counts.objects), dict(counts.bytes), dict(counts.verified)],
            [[one.shard, one.after, one.until] for one in report.children],
        ]
    )


def early_of(text: str) -> ListReport:
    (job, shard, run, listed, listed_bytes, tasks), (objects, sizes, verified), children = json.loads(text)
    return ListReport(
        job=job,
        shard=shard,
        run=run,
        listed=listed,
        listed_bytes=listed_bytes,
        tasks=tasks,
        counts=Counts(objects=objects, bytes=sizes, verified=verified),
        children=tuple(Child(shard=one[0], after=one[1], until=one[2]) for one in children),
    )


def known_of(rows: Sequence[sqlite3.Row], prefix: str) -> list[KnownObject]:
    return [
        KnownObject(
            prefix=Prefix(prefix),
            key=row["key"],
            size=row["size"],
            etag=row["etag"],
            generation=row["generation"],
            crc32c=row["crc32c"],
            verified=row["verified"],
            verdict=row["verdict"],
            job_name=row["job"],
        )
        for row in rows
    ]


def job_of_row(row: sqlite3.Row, errors: list[tuple[str, int, str, str]]) -> Job:
    return Job(
        name=row["name"],
        prefix=row["prefix"],
        spec=row["spec"],
        queue=row["queue"],
        state=row["state"],
        began_at=time_of(row["began_at"]),
        ended_at=time_of(row["ended_at"]) if row["ended_at"] else None,
        error_code=row["error_code"],
        error_message=row["error_message"],
        shards=row["shards"],
        shards_open=row["shards_open"],
        tasks=row["tasks"],
        tasks_open=row["tasks_open"],
        listed=row["listed"],
        listed_bytes=row["listed_bytes"],
        carried=row["carried"],
        carried_bytes=row["carried_bytes"],
        objects={one: row[one] for one in VERDICTS},
        bytes={one: row[f"{one}_bytes"] for one in VERDICTS},
        verified={one: row[f"by_{one}"] for one in LEVELS},
        errors=tuple(errors),
    )


def time_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)
