"""How a row of the job table becomes a `PrefixJob` and back: the same columns in every store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sts_manager.domain.model import Chosen, Counters, FailedObject, JobStatus, KnownObject, PausedBy, PrefixJob, Route
from sts_manager.domain.names import JobName, OperationName, Prefix

SCHEMA_VERSION = 3
COUNTERS = tuple(Counters.__slots__)
ADOPTED = "transferJobs/adopted"
"""The job name of a row taken over from the older tool, until its operation tells the real one."""
OLDER_ERROR = "OLDER_TOOL"
OLDER_ERROR_MESSAGE = "ended in error under the older tool; `retry` starts it again, its history has the operation"


def row_of(job: PrefixJob) -> dict[str, Any]:
    """A job's columns, those that both tables share; `last_updated` and `timestamp` are the caller's."""
    row: dict[str, Any] = {
        "prefix": str(job.prefix),
        "status": job.status.value,
        "job_name": None if job.job_name is None else str(job.job_name),
        "operation_name": None if job.operation_name is None else str(job.operation_name),
        "route": None if job.route is None else job.route.value,
        "source": job.source or None,
        "destination": job.destination or None,
        "egress": job.egress or None,
        "project": job.project or None,
        "lead": job.lead,
        "attempt": job.attempt,
        "attempt_base": job.attempt_base,
        "forgiven": job.forgiven,
        "not_before": job.not_before,
        "paused_by": job.paused_by.value,
        "error_code": job.error_code,
        "error_message": job.error_message,
        "missing_count": job.missing_count,
        "missing_since": job.missing_since,
        "started_at": job.started_at,
        "progress_at": job.progress_at,
        "ended_at": job.ended_at,
        "generation": job.generation,
    }
    row.update((name, getattr(job.counters, name)) for name in COUNTERS)
    return row


def own_columns(chosen: Chosen | None) -> dict[str, str | None]:
    """What a new row has of its own."""
    own = chosen or Chosen()
    return {
        "route": None if own.route is None else own.route.value,
        "source": own.source or None,
        "destination": own.destination or None,
        "egress": own.egress or None,
    }


def failure_row(failure: FailedObject) -> dict[str, Any]:
    """A failed object's columns, but for the time."""
    return {name: getattr(failure, name) for name in FailedObject.__slots__}


def failure_of(row: Mapping[Any, Any]) -> FailedObject:
    return FailedObject(**{name: row[name] for name in FailedObject.__slots__})


def object_row(known: KnownObject) -> dict[str, Any]:
    """A known object's columns, but for the time."""
    return {name: getattr(known, name) for name in KnownObject.__slots__}


def object_of(row: Mapping[Any, Any]) -> KnownObject:
    return KnownObject(**{name: row[name] for name in KnownObject.__slots__})


def attempt_and_prefix(job: PrefixJob) -> tuple[int, str]:
    """Fewest attempts first: the order in which prefixes start."""
    return job.attempt, job.prefix


def job_of(row: Mapping[Any, Any], updated: str = "last_updated") -> PrefixJob:
    """The job that a row of the job table stands for, or of the history with `updated="timestamp"`. NULL is 0 or ''."""
    return PrefixJob(
        prefix=Prefix(row["prefix"]),
        status=JobStatus(row["status"]),
        route=Route(row["route"]) if row["route"] else None,
        source=row["source"] or "",
        destination=row["destination"] or "",
        egress=row["egress"] or "",
        project=row["project"] or "",
        lead=Prefix(row["lead"]) if row["lead"] else None,
        job_name=JobName(row["job_name"]) if row["job_name"] else None,
        operation_name=OperationName(row["operation_name"]) if row["operation_name"] else None,
        attempt=row["attempt"] or 0,
        attempt_base=row["attempt_base"] or 0,
        forgiven=row["forgiven"] or 0,
        generation=row["generation"] or 0,
        not_before=row["not_before"],
        paused_by=PausedBy(row["paused_by"] or ""),
        counters=Counters(**{name: row[name] or 0 for name in COUNTERS}),
        error_code=row["error_code"] or "",
        error_message=row["error_message"] or "",
        missing_count=row["missing_count"] or 0,
        missing_since=row["missing_since"],
        started_at=row["started_at"],
        progress_at=row["progress_at"],
        ended_at=row["ended_at"],
        last_updated=row[updated],
    )
