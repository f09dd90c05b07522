"""The Storage Transfer Service behind our ports: paging, deadlines, quota pacing, and its errors as ours.

Every call has a deadline; none is retried here, because the next pass asks again with more knowledge than a blind retry has.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import storage_transfer_v1 as sts
from google.cloud.storage_transfer_v1.services.storage_transfer_service import transports
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from sts_manager.domain.errors import (
    Denied,
    Fatal,
    NameDeleted,
    NameTaken,
    NotFound,
    Permanent,
    Retryable,
    Throttled,
)
from sts_manager.domain.model import Counters, ErrorBreakdown, OperationSnapshot, OperationState, StartJob
from sts_manager.domain.naming import JobName, OperationName, chunks
from sts_manager.ports import Clock, Started, TransferJobView
from sts_manager.routes.sts_spec import TransferSettings, differences, transfer_job

NAMES_PER_POLL = 100
"""Operations asked about in one list call; a page holds at most 256 (Storage Transfer Service, list filters)."""

PAGE = 256
DEADLINE_S = 30.0

QUOTAS: Mapping[str, tuple[tuple[int, float], ...]] = {
    "create": ((600, 60.0), (5000, 86_400.0)),
    "read": ((1500, 60.0),),
    "update": ((600, 60.0),),
    "pause": ((900, 60.0),),
}
"""Calls allowed in sliding windows of seconds, per project (Storage Transfer Service, quotas)."""


_STATES: Any = sts.TransferOperation.Status  # proto-plus types its enums as classes of ints
STATE_NAMES: Mapping[int, str] = {member.value: member.name for member in _STATES}


class Pacer:
    """Keeps the calls of this process under the service's quotas: over it, a call is refused here instead of there."""

    def __init__(self, clock: Clock, quotas: Mapping[str, tuple[tuple[int, float], ...]] = QUOTAS) -> None:
        self._clock, self._quotas = clock, quotas
        self._calls: dict[str, deque[float]] = {kind: deque() for kind in quotas}
        self._lock = threading.Lock()

    def take(self, kind: str) -> None:
        """Count one call; raises Throttled, with the wait, when a window is full."""
        now = self._clock.monotonic()
        with self._lock:
            calls = self._calls[kind]
            longest = max(seconds for _, seconds in self._quotas[kind])
            while calls and calls[0] <= now - longest:
                calls.popleft()
            for limit, seconds in self._quotas[kind]:
                if len(calls) >= limit and calls[-limit] > now - seconds:
                    wait = timedelta(seconds=calls[-limit] + seconds - now)
                    raise Throttled(f"{limit} {kind} calls in {seconds:g} s is the service's quota", after=wait)
            calls.append(now)


@dataclass(frozen=True, slots=True)
class StsClient:
    """The official client with our manners; shared by the route and the utility commands."""

    client: sts.StorageTransferServiceClient
    project: str
    pacer: Pacer
    deadline_s: float = DEADLINE_S

    def create(self, job: sts.TransferJob) -> sts.TransferJob:
        with self._call("create", "create_transfer_job"):
            request = sts.CreateTransferJobRequest(transfer_job=job)
            return self.client.create_transfer_job(request, timeout=self.deadline_s, retry=None)

    def get(self, name: JobName) -> sts.TransferJob:
        with self._call("read", "get_transfer_job"):
            request = sts.GetTransferJobRequest(job_name=name, project_id=self.project)
            return self.client.get_transfer_job(request, timeout=self.deadline_s, retry=None)

    def run(self, name: JobName) -> OperationName:
        with self._call("update", "run_transfer_job"):
            request = sts.RunTransferJobRequest(job_name=name, project_id=self.project)
            future = self.client.run_transfer_job(request, timeout=self.deadline_s, retry=None)
            return OperationName(future.operation.name)

    def delete(self, name: str) -> None:
        with self._call("update", "delete_transfer_job"):
            request = sts.DeleteTransferJobRequest(job_name=name, project_id=self.project)
            self.client.delete_transfer_job(request, timeout=self.deadline_s, retry=None)

    def pause(self, name: OperationName) -> None:
        with self._call("pause", "pause_transfer_operation"):
            request = sts.PauseTransferOperationRequest(name=name)
            self.client.pause_transfer_operation(request, timeout=self.deadline_s, retry=None)

    def resume(self, name: OperationName) -> None:
        with self._call("pause", "resume_transfer_operation"):
            request = sts.ResumeTransferOperationRequest(name=name)
            self.client.resume_transfer_operation(request, timeout=self.deadline_s, retry=None)

    def cancel(self, name: OperationName) -> None:
        with self._call("pause", "cancel_operation"):
            request = operations_pb2.CancelOperationRequest(name=name)
            self.client.cancel_operation(request, timeout=self.deadline_s, retry=None)

    def agent(self) -> str:
        """The service's own account in this project, which reads and writes the buckets."""
        with self._call("read", "get_google_service_account"):
            request = sts.GetGoogleServiceAccountRequest(project_id=self.project)
            return str(self.client.get_google_service_account(request, timeout=self.deadline_s, retry=None).account_email)

    def jobs(self) -> Iterator[sts.TransferJob]:
        """All jobs of the project that are not deleted."""
        token = ""
        while True:
            with self._call("read", "list_transfer_jobs"):
                request = sts.ListTransferJobsRequest(
                    filter=json.dumps({"projectId": self.project, "jobStatuses": ["ENABLED", "DISABLED"]}),
                    page_size=PAGE,
                    page_token=token,
                )
                pager = self.client.list_transfer_jobs(request, timeout=self.deadline_s, retry=None)
                page = next(iter(pager.pages))
            yield from page.transfer_jobs
            token = page.next_page_token
            if not token:
                return

    def operations(self, **wanted: Any) -> Iterator[tuple[str, OperationSnapshot]]:
        """(job name, snapshot) of the operations a filter selects, page by page."""
        token = ""
        while True:
            with self._call("read", "list_operations"):
                request = operations_pb2.ListOperationsRequest(
                    name="transferOperations",
                    filter=json.dumps({"projectId": self.project, **wanted}),
                    page_size=PAGE,
                    page_token=token,
                )
                page = self.client.list_operations(request, timeout=self.deadline_s, retry=None)
            for found in page.operations:
                operation = sts.TransferOperation.deserialize(found.metadata.value)
                yield operation.transfer_job_name, snapshot(operation)
            token = page.next_page_token
            if not token:
                return

    @contextmanager
    def _call(self, kind: str, name: str) -> Iterator[None]:
        self.pacer.take(kind)
        with translated(name):
            yield


class Manifests(Protocol):
    """What is known of the objects that an attempt before did not bring."""

    def manifest(self, order: StartJob) -> str:
        """Where their names are written down; empty: all of the prefix is to be moved. Raises Throttled while they are found."""
        ...

    def carried(self, jobs: Collection[str]) -> Mapping[str, tuple[int, int]]:
        """(objects, bytes) that were there already, of the jobs that move just what a manifest names."""
        ...


class NoManifests:
    """Every attempt moves all of its prefix."""

    def manifest(self, _order: StartJob) -> str:
        return ""

    def carried(self, _jobs: Collection[str]) -> Mapping[str, tuple[int, int]]:
        return {}


class StsRoute:
    """The `TransferRoute` port over the service: one transfer job for each (prefix, attempt)."""

    def __init__(self, client: StsClient, settings: TransferSettings, manifests: Manifests | None = None) -> None:
        self._client, self._settings = client, settings
        self._manifests = manifests or NoManifests()

    def start(self, order: StartJob) -> Started:
        job = self._job(order)
        return adopted(self._client, job, may_run=False) if order.adopt_only else begun(self._client, job)

    def _job(self, order: StartJob) -> sts.TransferJob:
        try:
            return transfer_job(order, self._settings, self._manifests.manifest(order))
        except ValueError as error:
            raise Permanent(f"{order.prefix!r}: {error}", code="ROUTE_UNFIT") from error

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        found: dict[OperationName, OperationSnapshot] = {}
        for some in chunks(names, NAMES_PER_POLL):
            for _, seen in self._client.operations(operationNames=[str(name) for name in some]):
                found[seen.name] = seen
        carried = self._manifests.carried([str(seen.job_name) for seen in found.values()])
        return {name: _carrying(seen, *carried.get(str(seen.job_name), (0, 0))) for name, seen in found.items()}

    def pause(self, name: OperationName) -> None:
        self._client.pause(name)

    def resume(self, name: OperationName) -> None:
        self._client.resume(name)


def _carrying(seen: OperationSnapshot, objects: int, size: int) -> OperationSnapshot:
    """An operation that moves the rest of a prefix: what was there before it counts as skipped."""
    counters = seen.counters
    more = replace(counters, objects_skipped=counters.objects_skipped + objects, bytes_skipped=counters.bytes_skipped + size)
    return replace(seen, counters=more) if objects else seen


def begun(client: StsClient, job: sts.TransferJob) -> Started:
    """Create a job and run it once, however often this is asked. Raises as `TransferRoute.start` does."""
    try:
        client.create(job)
    except _AlreadyExists:
        return adopted(client, job, may_run=True)
    return Started(operation_name=client.run(JobName(job.name)))


def adopted(client: StsClient, wanted: sts.TransferJob, *, may_run: bool) -> Started:
    """Take over the job of this name if it is the one we would have made; run it only if it never ran."""
    name = JobName(wanted.name)
    try:
        found = client.get(name)
    except NotFound as error:
        if may_run:
            raise NameDeleted(f"{name} was deleted; the service keeps its name for about 30 days") from error
        return Started(operation_name=None)
    if found.status == sts.TransferJob.Status.DELETED:
        raise NameDeleted(f"{name} was deleted; the service keeps its name for about 30 days")
    if different := sorted(differences(wanted.transfer_spec, found.transfer_spec)):
        raise NameTaken(
            f"{name} exists with another {' and '.join(different)}; this run would move other objects than that "
            "job does. Run with the settings it was made with, or delete the job and `retry` the prefix"
        )
    if found.latest_operation_name:
        return Started(operation_name=OperationName(found.latest_operation_name), adopted=True)
    # The job's own record may lag behind: the list of operations is asked too before anything is run.
    for _, seen in client.operations(jobNames=[str(name)]):
        return Started(operation_name=seen.name, adopted=True)
    if not may_run:
        return Started(operation_name=None)
    return Started(operation_name=client.run(name), adopted=True)


class StsProject:
    """The `TransferProject` port: what the utility commands ask across all jobs."""

    def __init__(self, client: StsClient) -> None:
        self._client = client

    def transfer_jobs(self) -> Iterator[TransferJobView]:
        for job in self._client.jobs():
            latest = job.latest_operation_name
            yield TransferJobView(
                name=job.name,
                latest_operation=OperationName(latest) if latest else None,
                one_time=is_one_time(job),
            )

    def active_operations(self, job_names: Collection[str] | None) -> Iterator[tuple[str, OperationSnapshot]]:
        active = ["IN_PROGRESS", "QUEUED", "SUSPENDING", "PAUSED"]
        if job_names is None:
            yield from self._client.operations(transferStatuses=active)
            return
        for some in chunks(sorted(job_names), NAMES_PER_POLL):
            yield from self._client.operations(jobNames=list(some), transferStatuses=active)

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        found: dict[OperationName, OperationSnapshot] = {}
        for some in chunks(names, NAMES_PER_POLL):
            found.update((seen.name, seen) for _, seen in self._client.operations(operationNames=[str(n) for n in some]))
        return found

    def pause(self, name: OperationName) -> None:
        self._client.pause(name)

    def resume(self, name: OperationName) -> None:
        self._client.resume(name)

    def cancel(self, name: OperationName) -> None:
        self._client.cancel(name)

    def delete_job(self, name: str) -> None:
        self._client.delete(name)


def connect(project: str, emulator: str | None, clock: Clock) -> StsClient:
    """The official client, at the service or at the emulator's `host:port`. Raises Fatal without credentials."""
    try:
        if emulator:
            transport = transports.StorageTransferServiceGrpcTransport(channel=grpc.insecure_channel(emulator))
            client = sts.StorageTransferServiceClient(transport=transport)
        else:
            client = sts.StorageTransferServiceClient()
    except auth_exceptions.GoogleAuthError as error:
        raise Fatal(
            f"no Google credentials: {error}. On GCE give the machine a service account; elsewhere run "
            "`gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    return StsClient(client, project, Pacer(clock))


def snapshot(operation: sts.TransferOperation) -> OperationSnapshot:
    """An operation in our words; a state this client does not know becomes UNKNOWN, never an error."""
    # The number is read below proto-plus, which has no word for a state that was added after this client was made.
    number = sts.TransferOperation.pb(operation).status
    name = STATE_NAMES.get(number, str(number))
    known = name in OperationState.__members__
    counted = operation.counters
    try:
        job_name = JobName(operation.transfer_job_name)
    except ValueError:
        job_name = None
    return OperationSnapshot(
        name=OperationName(operation.name),
        state=OperationState(name) if known else OperationState.UNKNOWN,
        raw_state=name,
        job_name=job_name,
        counters=Counters(
            objects_found=counted.objects_found_from_source,
            bytes_found=counted.bytes_found_from_source,
            objects_copied=counted.objects_copied_to_sink,
            bytes_copied=counted.bytes_copied_to_sink,
            objects_skipped=counted.objects_from_source_skipped_by_sync,
            bytes_skipped=counted.bytes_from_source_skipped_by_sync,
            objects_failed=counted.objects_from_source_failed,
            bytes_failed=counted.bytes_from_source_failed,
        ),
        errors=tuple(_breakdown(summary) for summary in operation.error_breakdowns),
        results=_results(operation),
    )


def without_query(url: str) -> str:
    """A web address without its query; any other text as it is."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def _results(operation: sts.TransferOperation) -> str:
    """The whole operation as JSON, without any key the service might one day give out."""
    value: dict[str, Any] = json.loads(sts.TransferOperation.to_json(operation, indent=None))
    source = value.get("transferSpec", {}).get("awsS3DataSource")
    if isinstance(source, dict):
        source.pop("awsAccessKey", None)
    for entry in (one for summary in value.get("errorBreakdowns", ()) for one in summary.get("errorLogEntries", ())):
        entry["url"] = without_query(entry.get("url", ""))
    return json.dumps(value, separators=(",", ":"))


def _breakdown(summary: sts.ErrorSummary) -> ErrorBreakdown:
    entry = next(iter(summary.error_log_entries), None)
    # A URL of a list may have been signed: what follows the '?' is nobody's business.
    number = int(summary.error_code)
    known = number in code_pb2.Code.values()
    return ErrorBreakdown(
        code=code_pb2.Code.Name(number) if known else f"CODE_{number}",
        count=summary.error_count,
        sample_url="" if entry is None else without_query(entry.url),
        sample_details="" if entry is None else "; ".join(entry.error_details),
    )


def is_one_time(job: sts.TransferJob) -> bool:
    """Whether a job runs once: no schedule, or one that starts and ends on the same day; and no event stream."""
    if "event_stream" in job:
        return False
    if "schedule" not in job:
        return True
    begin, end = job.schedule.schedule_start_date, job.schedule.schedule_end_date
    return bool(end.year) and (begin.year, begin.month, begin.day) == (end.year, end.month, end.day)


class _AlreadyExists(Permanent):
    """The create collided with a job of the same name."""


@contextmanager
def translated(call: str) -> Iterator[None]:
    """The vendor's errors as ours. Messages are the service's own; they hold no secret of ours."""
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        raise _as_ours(call, error) from error
    except (exceptions.RetryError, auth_exceptions.TransportError) as error:
        raise Retryable(f"{call}: {error}") from error
    except auth_exceptions.GoogleAuthError as error:
        raise Denied(f"{call}: {error}", code="UNAUTHENTICATED") from error


def _as_ours(call: str, error: exceptions.GoogleAPICallError) -> Exception:
    message, code = f"{call}: {error.message}", _code(error)
    match error:
        case exceptions.ResourceExhausted():
            return Throttled(message)
        case exceptions.AlreadyExists():
            return _AlreadyExists(message, code=code)
        case exceptions.PermissionDenied() | exceptions.Unauthenticated():
            return Denied(message, code=code)
        case exceptions.NotFound():
            # A create names nothing but buckets: one of them is missing, and no prefix can start.
            return Denied(message, code=code) if call == "create_transfer_job" else NotFound(message)
        case exceptions.InvalidArgument() | exceptions.OutOfRange() | exceptions.MethodNotImplemented():
            return Permanent(message, code=code)
        case _:
            # Among them FAILED_PRECONDITION: an operation is not in the state we thought, so the next pass looks again.
            return Retryable(message, code=code)


def _code(error: exceptions.GoogleAPICallError) -> str:
    code = error.grpc_status_code
    return code.name if code is not None else type(error).__name__
