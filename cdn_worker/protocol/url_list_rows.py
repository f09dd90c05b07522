"""Rows of the ledger of URL lists as the values that they stand for."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime

from cdn_worker.domain.url_list import Naming
from cdn_worker.protocol.codec import decoded_task
from cdn_worker.protocol.messages import ListTask
from cdn_worker.protocol.url_list_jobs import COUNTS, Job, Kind, Part, Row, State

CLASHING = -1
"""The part of an object whose path is another one's, too: it is none."""
IS_MD5 = "length(etag) = 32 AND etag NOT GLOB '*[^0-9a-f]*'"
ROW = f"SELECT url, key, size, etag, modified, generation FROM object WHERE part IS NOT {CLASHING}"


def row_of(row: sqlite3.Row) -> Row:
    return Row(*row)


def job_of(row: sqlite3.Row) -> Job:
    task = decoded_task(row["spec"].encode())
    assert isinstance(task, ListTask)
    return Job(
        name=row["name"],
        kind=Kind(row["kind"]),
        prefix=row["prefix"],
        spec=task.spec,
        manifest=row["manifest"],
        project=row["project"],
        operation=row["operation"],
        full_metadata=bool(row["full_metadata"]),
        state=State(row["state"]),
        paused=bool(row["paused"]),
        cancelled=bool(row["cancelled"]),
        forgotten=bool(row["forgotten"]),
        began_at=datetime.fromisoformat(row["began_at"]),
        ended_at=None if row["ended_at"] is None else datetime.fromisoformat(row["ended_at"]),
        base=row["base"],
        naming=Naming(row["naming"]) if row["naming"] else None,
        error_code=row["error_code"],
        error_message=row["error_message"],
        objects={one: row[one] for one in COUNTS},
        bytes={one: row[f"{one}_bytes"] for one in COUNTS},
        verified={"md5": row["by_md5"], "crc32c": row["by_crc32c"], "size": row["by_size"]},
    )


def part_of(row: sqlite3.Row) -> Part:
    return Part(
        job=row["job"],
        number=row["number"],
        rows=row["rows"],
        bytes=row["bytes"],
        location=row["location"],
        operation=row["operation"],
        state=row["state"],
        paused=bool(row["paused"]),
        resumable=bool(row["resumable"]),
        copied=row["copied"],
        copied_bytes=row["copied_bytes"],
        missing=row["missing"],
        missing_since=None if row["missing_since"] is None else datetime.fromisoformat(row["missing_since"]),
        errors=tuple((code, count, details) for code, count, details in json.loads(row["errors"])),
    )
