"""How the rows and texts of the pool's ledger become values."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from datetime import UTC, datetime

from cdn_worker.protocol.messages import Child, Counts, JobSpec, ListFailed, ListReport
from sts_manager.domain.model import KnownObject
from sts_manager.domain.names import Prefix
from sts_manager.routes.pool.ledger_schema import LEVELS, VERDICTS
from sts_manager.routes.pool.operation import Job

OVER_ON_BOARD = 1000
NOTHING_TO_TELL, TOLD = 1, 2


def spec_text(spec: JobSpec) -> str:
    """A spec as it is recorded: the same text for the same spec, whichever ledger it is for."""
    names = sorted(set(JobSpec.__dataclass_fields__) - {"ledger"})
    return json.dumps({name: getattr(spec, name) for name in names}, default=str)


def count_in(added: Counter[str], counts: Counts) -> None:
    for name, number in counts.objects.items():
        added[name] += number
    for name, number in counts.bytes.items():
        added[f"{name}_bytes"] += number
    for name, number in counts.verified.items():
        if name in LEVELS:
            added[f"by_{name}"] += number


def encode_early(report: ListReport | ListFailed) -> str:
    if isinstance(report, ListFailed):
        return json.dumps({"job": report.job, "shard": report.shard, "code": report.code, "why": report.why})
    counts = report.counts
    return json.dumps(
        [
            [report.job, report.shard, report.run, report.listed, report.listed_bytes, report.tasks],
            [dict(counts.objects), dict(counts.bytes), dict(counts.verified)],
            [[one.shard, one.after, one.until] for one in report.children],
        ]
    )


def decode_early(text: str) -> ListReport | ListFailed:
    found = json.loads(text)
    if isinstance(found, dict):
        return ListFailed(**found)
    (job, shard, run, listed, listed_bytes, tasks), (objects, sizes, verified), children = found
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


def known_object(row: sqlite3.Row, prefix: str) -> KnownObject:
    return KnownObject(
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
        trouble=(row["trouble_code"], row["trouble_why"]) if row["trouble_code"] else None,
    )


def time_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)
