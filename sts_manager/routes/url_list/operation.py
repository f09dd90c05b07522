"""A job of URL lists as the rest of the manager knows transfers: an operation, with a document of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cdn_worker.protocol.url_list_jobs import CANCELLED, Job, Part, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.errors import NotFound
from sts_manager.domain.model import Counters, ErrorBreakdown, OperationSnapshot, OperationState
from sts_manager.domain.names import JobName, OperationName, whole_of
from sts_manager.routes.pool.operation import CODES, JOBS, LASTING

STEM = "transferOperations/list-"
REFUSED = frozenset({"URL_LIST_NAMES", "URL_LIST_REFUSED", "ROUTE_UNFIT"})
"""Causes that another attempt would meet again."""
Errors = Sequence[tuple[str, int, str, str]]


def operation_of(job: str) -> OperationName:
    """The operation of a transfer job's name: there is just one."""
    return OperationName(STEM + job.removeprefix(JOBS))


def job_of(operation: str) -> str:
    return JOBS + operation.removeprefix(STEM)


def state_of(job: Job, parts: Sequence[Part]) -> OperationState:
    """PAUSED when nothing of it can move: by our wish, or because somebody paused what is at the service."""
    if job.state is State.OVER:
        if job.error_code == CANCELLED:
            return OperationState.ABORTED
        return OperationState.FAILED if job.error_code or job.objects["failed"] else OperationState.SUCCESS
    started = [part for part in parts if part.state == "started"]
    if job.paused:
        still = job.state is not State.MOVING and all(part.paused for part in started)
        return OperationState.PAUSED if still else OperationState.SUSPENDING
    if started and all(part.paused for part in started):
        return OperationState.PAUSED
    return OperationState.IN_PROGRESS


def snapshot(job: Job, parts: Sequence[Part], errors: Errors) -> OperationSnapshot:
    """The job as an operation. What is copied is what has its own name; bytes are counted as they land, so that they move."""
    state = state_of(job, parts)
    landed = sum(part.copied_bytes for part in parts)
    over = job.state is State.OVER
    objects, sizes = job.objects, job.bytes
    return OperationSnapshot(
        name=operation_of(job.name),
        state=state,
        raw_state=state.value,
        job_name=JobName(job.name),
        counters=Counters(
            objects_found=objects["listed"] - objects["skipped"],
            bytes_found=sizes["listed"] - sizes["skipped"],
            objects_copied=objects["moved"],
            bytes_copied=sizes["moved"] if over else max(landed, sizes["moved"]),
            objects_skipped=objects["skipped"],
            bytes_skipped=sizes["skipped"],
            objects_failed=objects["failed"],
            bytes_failed=sizes["failed"],
        ),
        errors=_breakdowns(job, errors),
        results=_document(job, parts, state, errors),
        permanent=job.error_code in REFUSED
        or bool(over and errors and not job.error_code and {error for error, *_ in errors} <= LASTING),
    )


def _breakdowns(job: Job, errors: Errors) -> tuple[ErrorBreakdown, ...]:
    if job.error_code:
        return (ErrorBreakdown(code=job.error_code, count=1, sample_url=job.prefix, sample_details=job.error_message),)
    return tuple(
        ErrorBreakdown(code=CODES.get(error, error.upper()), count=number, sample_url=key, sample_details=details)
        for error, number, key, details in errors
    )


def _document(job: Job, parts: Sequence[Part], state: OperationState, errors: Errors) -> str:
    """For `operation_results`; errors stand where a transfer operation has them: queries look there."""
    return json.dumps(
        {
            "name": operation_of(job.name),
            "transferJobName": job.name,
            "route": "sts-url-list",
            "status": state.value,
            "step": job.state.value,
            "startTime": job.began_at.isoformat(),
            "endTime": None if job.ended_at is None else job.ended_at.isoformat(),
            "objects": dict(job.objects),
            "bytes": dict(job.bytes),
            "verified": dict(job.verified),
            "naming": None if job.naming is None else job.naming.value,
            "parts": [
                {
                    "transferJobName": part.transfer_job,
                    "operation": part.operation,
                    "status": part.state,
                    "objects": part.rows,
                    "bytes": part.bytes,
                    "copied": part.copied,
                }
                for part in parts
            ],
            "errorBreakdowns": [
                {
                    "errorCode": one.code,
                    "errorCount": one.count,
                    "errorLogEntries": [{"url": one.sample_url, "errorDetails": [one.sample_details]}],
                }
                for one in _breakdowns(job, errors)
            ],
            "error": {"code": job.error_code, "message": job.error_message} if job.error_code else None,
        },
        ensure_ascii=False,
    )


class ListOperations:
    """The operations of a ledger of URL lists, as routes and commands see them."""

    stem = STEM

    def __init__(self, ledger: ListLedger) -> None:
        self._ledger = ledger

    def live(self) -> Mapping[str, OperationSnapshot]:
        return {job.name: self._snapshot(job) for job in self._ledger.live()}

    def operation(self, name: OperationName) -> OperationSnapshot | None:
        job = self._ledger.job(job_of(name))
        return None if job is None else self._snapshot(job)

    def steer(self, name: OperationName, *, paused: bool) -> bool:
        return self._ledger.set_paused(job_of(name), paused=paused)

    def cancel(self, name: OperationName) -> None:
        """Raises NotFound for one that is not in this ledger."""
        if self._ledger.job(job_of(name)) is None:
            raise NotFound(f"{name} is not in the ledger of URL lists here: give the daemon's --store or --list-ledger")
        self._ledger.cancel(job_of(name))

    def job_of_part(self, name: str) -> str | None:
        whole = whole_of(name)
        return None if whole == name else whole

    def _snapshot(self, job: Job) -> OperationSnapshot:
        return snapshot(job, self._ledger.parts(job.name), self._ledger.error_counts(job.name))
