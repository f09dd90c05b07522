"""A prefix job of the pool as the rest of the manager knows transfers: an operation, with a document of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sts_manager.domain.model import Counters, ErrorBreakdown, OperationSnapshot, OperationState
from sts_manager.domain.names import JobName, OperationName

STEM = "transferOperations/cdn-"
JOBS = "transferJobs/"
BAD = ("failed", "unmappable", "vanished")
CODES = {"forbidden": "PERMISSION_DENIED", "sink_forbidden": "PERMISSION_DENIED", "sink_missing": "NOT_FOUND"}
LASTING = frozenset({"archived", "too_large", "name", "same_path", "metadata_too_large", "exists"})
"""Errors of objects that another attempt would meet again: a person must do something first."""
CANCELLED = "CANCELLED"
LED_ELSEWHERE = "LED_ELSEWHERE"
STATES = {
    "new": OperationState.QUEUED,
    "running": OperationState.IN_PROGRESS,
    "paused": OperationState.PAUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt at one prefix, as the ledger has it. errors: (error, how often, one key, its details), commonest first.

    carried   objects that an earlier attempt settled well, when only its failed keys are tried again
    trouble   (code, why) while nothing goes on, for a cause that all its tasks share
    """

    name: str
    prefix: str
    spec: str
    queue: str
    state: str
    began_at: datetime
    ended_at: datetime | None
    error_code: str
    error_message: str
    shards: int
    shards_open: int
    tasks: int
    tasks_open: int
    listed: int
    listed_bytes: int
    carried: int
    carried_bytes: int
    objects: Mapping[str, int]
    bytes: Mapping[str, int]
    verified: Mapping[str, int]
    errors: tuple[tuple[str, int, str, str], ...] = ()
    trouble: tuple[str, str] | None = None

    @property
    def good(self) -> bool:
        """Whether every listed key is at the sink."""
        return self.state == "over" and not self.error_code and not any(self.objects[one] for one in BAD)


def operation_of(job: str) -> OperationName:
    """The operation of a transfer job's name: there is just one, as a pool's job never runs twice."""
    return OperationName(STEM + job.removeprefix(JOBS))


def job_of(operation: str) -> str:
    return JOBS + operation.removeprefix(STEM)


def snapshot(job: Job) -> OperationSnapshot:
    """The job as an operation."""
    state = _state(job)
    failed = sum(job.objects[one] for one in BAD)
    counters = Counters(
        objects_found=job.listed - job.objects["skipped"],
        bytes_found=job.listed_bytes - job.bytes["skipped"],
        objects_copied=job.objects["done"],
        bytes_copied=job.bytes["done"],
        objects_skipped=job.objects["skipped"] + job.carried,
        bytes_skipped=job.bytes["skipped"] + job.carried_bytes,
        objects_failed=failed,
        bytes_failed=sum(job.bytes[one] for one in BAD),
    )
    errors = _errors(job)
    return OperationSnapshot(
        name=operation_of(job.name),
        state=state,
        raw_state=state.value,
        job_name=JobName(job.name),
        counters=counters,
        errors=errors,
        results=_document(job, state),
        trouble=job.trouble if job.state == "running" else None,
        permanent=bool(job.errors) and not job.error_code and {one[0] for one in job.errors} <= LASTING,
    )


def _state(job: Job) -> OperationState:
    if job.state != "over":
        return STATES[job.state]
    if job.error_code == CANCELLED:
        return OperationState.ABORTED
    return OperationState.SUCCESS if job.good else OperationState.FAILED


def _errors(job: Job) -> tuple[ErrorBreakdown, ...]:
    if job.error_code:
        return (ErrorBreakdown(code=job.error_code, count=1, sample_url=job.prefix, sample_details=job.error_message),)
    return tuple(
        ErrorBreakdown(code=CODES.get(error, error.upper()), count=number, sample_url=key, sample_details=details)
        for error, number, key, details in job.errors
    )


def _document(job: Job, state: OperationState) -> str:
    """The pool's own operation, for `operation_results`. Errors stand where a transfer operation has them: queries look there."""
    return json.dumps(
        {
            "name": operation_of(job.name),
            "transferJobName": job.name,
            "route": "cdn",
            "status": state.value,
            "startTime": job.began_at.isoformat(),
            "endTime": None if job.ended_at is None else job.ended_at.isoformat(),
            "listed": {"objects": job.listed, "bytes": job.listed_bytes, "carried": job.carried},
            "verdicts": {one: {"objects": number, "bytes": job.bytes[one]} for one, number in job.objects.items()},
            "verified": dict(job.verified),
            "shards": {"known": job.shards, "open": job.shards_open},
            "tasks": {"known": job.tasks, "open": job.tasks_open},
            "errorBreakdowns": [
                {
                    "errorCode": one.code,
                    "errorCount": one.count,
                    "errorLogEntries": [{"url": one.sample_url, "errorDetails": [one.sample_details]}],
                }
                for one in _errors(job)
            ],
            "trouble": None if job.trouble is None else {"code": job.trouble[0], "message": job.trouble[1]},
            "error": {"code": job.error_code, "message": job.error_message} if job.error_code else None,
        },
        ensure_ascii=False,
    )
