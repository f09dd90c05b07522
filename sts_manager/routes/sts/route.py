"""The Storage Transfer Service behind our ports: paging, deadlines, quota pacing, and its errors as ours.

Every call has a deadline; none is retried here, because the next pass asks again with more knowledge than a blind retry has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import grpc
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
from sts_manager.domain.names import JobName, OperationName, chunks
from sts_manager.ports import Clock, Started, TransferJobView
from sts_manager.routes.sts.errors import CREATE, AlreadyExists, advise, translated
from sts_manager.routes.sts.rate_limiter import Pacer
from sts_manager.routes.sts.rest import PassedOver, TransferRest
from sts_manager.routes.sts.spec import TransferSettings, classes_of, differences, marked_classes, transfer_job

NAMES_PER_POLL = 100
"""Operations asked about in one list call; a page holds at most 256 (Storage Transfer Service, list filters)."""

PAGE = 256
DEADLINE_S = 30.0


ARCHIVED = "ARCHIVED"
"""The code of objects that S3 would not give out before they are restored."""
_STATES: Any = sts.TransferOperation.Status  # proto-plus types its enums as classes of ints
STATE_NAMES: Mapping[int, str] = {member.value: member.name for member in _STATES}


@dataclass(frozen=True, slots=True)
class StsClient:
    """The official client with our manners; shared by the route and the utility commands.

    leading   asked before each call that changes something: a daemon that was frozen may not lead any more
    rest      for what gRPC's types cannot say; None beside an emulator that has no such face
    """

    client: sts.StorageTransferServiceClient
    project: str
    pacer: Pacer
    deadline_s: float = DEADLINE_S
    leading: Callable[[], bool] = lambda: True
    rest: TransferRest | None = None

    def create(self, job: sts.TransferJob, storage_classes: Sequence[str] = ()) -> sts.TransferJob:
        """Create a job; of objects in these storage classes alone, where some are given (which only REST can say).

        Raises AlreadyExists, and Denied with what to type so that the next one is not.
        """
        try:
            with self._call("create", CREATE):
                if storage_classes:
                    return self._by_rest().create(job, storage_classes, self.deadline_s)
                request = sts.CreateTransferJobRequest(transfer_job=job)
                return self.client.create_transfer_job(request, timeout=self.deadline_s, retry=None)
        except Denied as error:
            advice = advise(job, error.code, str(error))
            raise Denied(f"{error}; {advice}" if advice else str(error), code=error.code) from error

    def get(self, name: JobName) -> sts.TransferJob:
        with self._call("read", "get_transfer_job"):
            request = sts.GetTransferJobRequest(job_name=name, project_id=self.project)
            return self.client.get_transfer_job(request, timeout=self.deadline_s, retry=None)

    def get_with_classes(self, name: JobName) -> tuple[sts.TransferJob, tuple[str, ...]]:
        """A job, and the storage classes that it includes."""
        with self._call("read", "get_transfer_job"):
            return self._by_rest().get(name, self.project, self.deadline_s)

    def passed_over(self, name: OperationName) -> PassedOver:
        """What an operation passed over for its storage class, by the service's own count."""
        with self._call("read", "get_operation"):
            return self._by_rest().passed_over(name, self.deadline_s)

    def _by_rest(self) -> TransferRest:
        if self.rest is None:
            told = "this emulator of the transfer service has no REST: STORAGE_TRANSFER_REST_EMULATOR_HOST names where it is"
            raise Permanent(told, code="ROUTE_UNFIT")
        return self.rest

    def run(self, name: JobName) -> OperationName:
        with self._call("run", "run_transfer_job"):
            request = sts.RunTransferJobRequest(job_name=name, project_id=self.project)
            future = self.client.run_transfer_job(request, timeout=self.deadline_s, retry=None)
            return OperationName(future.operation.name)

    def delete(self, name: str) -> None:
        with self._call("delete", "delete_transfer_job"):
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
        if kind != "read" and not self.leading():
            raise Retryable(f"{name}: not called, as another daemon may lead by now", code="LEASE_OLD")
        self.pacer.take(kind)
        try:
            with translated(name):
                yield
        except Throttled:
            self.pacer.refuse(kind)
            raise


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
    """The `TransferRoute` port over the service: a transfer job for each attempt, of one prefix or of several.

    clients   one for each project that shares the work; the first is meant where an order names none
    """

    def __init__(self, clients: Mapping[str, StsClient], settings: TransferSettings, manifests: Manifests | None = None) -> None:
        self._clients, self._settings = clients, settings
        self._manifests = manifests or NoManifests()
        self._home: dict[OperationName, str] = {}

    def start(self, order: StartJob) -> Started:
        client = client_in(self._clients, order.project)
        job = self._job(order)
        classes = classes_of(job, self._settings)
        started = adopted(client, job, classes, may_run=False) if order.adopt_only else begun(client, job, classes)
        if started.operation_name is not None:
            self._home[started.operation_name] = client.project
        return started

    def _job(self, order: StartJob) -> sts.TransferJob:
        try:
            manifest = "" if order.others else self._manifests.manifest(order)
            return transfer_job(order, self._settings, manifest)
        except ValueError as error:
            raise Permanent(f"{order.prefix!r}: {error}", code="ROUTE_UNFIT") from error

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        found = listed(self._clients, names, self._home)
        carried = self._manifests.carried([str(seen.job_name) for seen in found.values()])
        return {name: _carrying(seen, *carried.get(str(seen.job_name), (0, 0))) for name, seen in found.items()}

    def pause(self, name: OperationName) -> None:
        self._client_of(name).pause(name)

    def resume(self, name: OperationName) -> None:
        self._client_of(name).resume(name)

    def _client_of(self, name: OperationName) -> StsClient:
        """Operations are named for the whole service: which project's quota is used for a call is all that depends on it."""
        return client_in(self._clients, self._home.get(name, ""))


def client_in(clients: Mapping[str, StsClient], project: str) -> StsClient:
    """The client of a project; of the first one where none is named. Raises Permanent for one that this daemon does not use."""
    if not project:
        return next(iter(clients.values()))
    if project not in clients:
        told = f"it began in project {project}, which is not among this daemon's: --project {', '.join(clients)}"
        raise Permanent(told, code="PROJECT_UNKNOWN")
    return clients[project]


def listed(
    clients: Mapping[str, StsClient], names: Sequence[OperationName], home: dict[OperationName, str]
) -> dict[OperationName, OperationSnapshot]:
    """Ask for operations in the projects where they are known to be (`home`, which is added to), else in all of them."""
    found: dict[OperationName, OperationSnapshot] = {}
    for project, client in clients.items():
        here = [name for name in names if name not in found and home.get(name, project) == project]
        for some in chunks(here, NAMES_PER_POLL):
            for _, seen in client.operations(operationNames=[str(name) for name in some]):
                found[seen.name] = seen
                home[seen.name] = project
    return found


def _carrying(seen: OperationSnapshot, objects: int, size: int) -> OperationSnapshot:
    """An operation that moves the rest of a prefix: what was there before it counts as skipped."""
    counters = seen.counters
    more = replace(counters, objects_skipped=counters.objects_skipped + objects, bytes_skipped=counters.bytes_skipped + size)
    return replace(seen, counters=more) if objects else seen


def begun(client: StsClient, job: sts.TransferJob, classes: Sequence[str] = ()) -> Started:
    """Create a job and run it once, however often this is asked. Raises as `TransferRoute.start` does.

    classes   storage classes to which its objects are limited
    """
    try:
        client.create(job, classes)
    except AlreadyExists:
        return adopted(client, job, classes, may_run=True)
    return Started(operation_name=_run(client, JobName(job.name)))


def _run(client: StsClient, name: JobName) -> OperationName:
    """Run a job that exists; who is refused that is told so."""
    try:
        return client.run(name)
    except (Throttled, Denied) as error:
        error.made = True
        raise


def made(client: StsClient, job: sts.TransferJob, classes: Sequence[str] = ()) -> None:
    """Create a job, or find that it is there already: one that the service begins by itself. Raises NameTaken, NameDeleted."""
    try:
        client.create(job, classes)
    except AlreadyExists:
        same_job(client, job, classes)


def same_job(client: StsClient, wanted: sts.TransferJob, classes: Sequence[str] = ()) -> sts.TransferJob:
    """The job of this name, if it is the one we would have made. Raises NotFound, NameDeleted, NameTaken."""
    name = JobName(wanted.name)
    if classes:
        found, theirs = client.get_with_classes(name)
    else:
        # gRPC does not show the classes that a job includes: its description does, if it is ours.
        found = client.get(name)
        theirs = marked_classes(found.description)
    if found.status == sts.TransferJob.Status.DELETED:
        raise NameDeleted(f"{wanted.name} was deleted; the service keeps its name for about 30 days")
    different = sorted(differences(wanted.transfer_spec, found.transfer_spec))
    different += ["storage_classes"] if set(classes) != set(theirs) else []
    if different:
        raise NameTaken(
            f"{wanted.name} exists with another {' and '.join(different)}; this run would move other objects than that "
            "job does. Run with the settings it was made with, or delete the job and `retry` the prefix"
        )
    return found


def adopted(client: StsClient, wanted: sts.TransferJob, classes: Sequence[str] = (), *, may_run: bool) -> Started:
    """Take over the job of this name if it is the one we would have made; run it only if it never ran."""
    name = JobName(wanted.name)
    try:
        found = same_job(client, wanted, classes)
    except NotFound as error:
        if may_run:
            raise NameDeleted(f"{name} was deleted; the service keeps its name for about 30 days") from error
        return Started(operation_name=None)
    if found.latest_operation_name:
        return Started(operation_name=OperationName(found.latest_operation_name), adopted=True)
    # The job's own record may lag behind: the list of operations is asked too before anything is run.
    for _, seen in client.operations(jobNames=[str(name)]):
        return Started(operation_name=seen.name, adopted=True)
    if not may_run:
        return Started(operation_name=None, adopted=True)
    return Started(operation_name=_run(client, name), adopted=True)


class StsProject:
    """The `TransferProject` port: what the utility commands ask across all jobs of one project, or of several."""

    def __init__(self, clients: Mapping[str, StsClient]) -> None:
        self._clients = clients
        self._home: dict[OperationName, str] = {}

    def transfer_jobs(self) -> Iterator[TransferJobView]:
        for client in self._clients.values():
            for job in client.jobs():
                latest = job.latest_operation_name
                yield TransferJobView(
                    name=job.name,
                    latest_operation=OperationName(latest) if latest else None,
                    one_time=is_one_time(job),
                    event_queue=job.event_stream.name,
                )

    def active_operations(self, job_names: Collection[str] | None) -> Iterator[tuple[str, OperationSnapshot]]:
        active = ["IN_PROGRESS", "QUEUED", "SUSPENDING", "PAUSED"]
        for client in self._clients.values():
            if job_names is None:
                yield from client.operations(transferStatuses=active)
                continue
            for some in chunks(sorted(job_names), NAMES_PER_POLL):
                yield from client.operations(jobNames=list(some), transferStatuses=active)

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        return listed(self._clients, names, self._home)

    def pause(self, name: OperationName) -> None:
        client_in(self._clients, self._home.get(name, "")).pause(name)

    def resume(self, name: OperationName) -> None:
        client_in(self._clients, self._home.get(name, "")).resume(name)

    def cancel(self, name: OperationName) -> None:
        client_in(self._clients, self._home.get(name, "")).cancel(name)

    def delete_job(self, name: str) -> None:
        """In whichever project it is. Raises NotFound."""
        *others, last = self._clients.values()
        for client in others:
            try:
                client.delete(name)
            except NotFound:
                continue
            return
        last.delete(name)


def connect(project: str, emulator: str | None, clock: Clock, rest: str | None = None) -> StsClient:
    """The official client, at the service or at the emulator's `host:port`. Raises Fatal without credentials.

    rest   where the emulator's REST face is
    """
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
    by_rest = None if emulator and not rest else TransferRest(rest or "")
    return StsClient(client, project, Pacer(clock), rest=by_rest)


def snapshot(operation: sts.TransferOperation) -> OperationSnapshot:
    """An operation in our words; a state this client does not know becomes UNKNOWN, never an error."""
    # The number is read below proto-plus, which has no word for a state that was added after this client was made.
    number = sts.TransferOperation.pb(operation).status
    name = STATE_NAMES.get(number, str(number))
    known = name in OperationState.__members__
    counted = operation.counters
    errors = tuple(_breakdown(summary) for summary in operation.error_breakdowns)
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
        errors=errors,
        results=_results(operation),
        permanent=bool(errors) and all(one.code == ARCHIVED for one in errors),
        started_at=operation.start_time,
        ended_at=operation.end_time,
        by_manifest=bool(operation.transfer_spec.transfer_manifest.location),
    )


_QUERY = re.compile(r"((?:GET|HEAD) [^\s?]*|https?://[^\s?\"']*)\?[^\s\"'\]]*")


def without_queries(text: str) -> str:
    """A text without the queries of the URLs in it: the service repeats the request that failed, and it may have been signed."""
    return _QUERY.sub(r"\1", text)


def without_query(url: str) -> str:
    """A web address without its query; any other text as it is."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def is_archived(details: Iterable[str]) -> bool:
    """Whether an error is S3's of an object in an archive tier, which the service found out by reading."""
    return any("InvalidObjectState" in one for one in details)


def _results(operation: sts.TransferOperation) -> str:
    """The whole operation as JSON, without any key the service might one day give out."""
    value: dict[str, Any] = json.loads(sts.TransferOperation.to_json(operation, indent=None))
    source = value.get("transferSpec", {}).get("awsS3DataSource")
    if isinstance(source, dict):
        source.pop("awsAccessKey", None)
    for entry in (one for summary in value.get("errorBreakdowns", ()) for one in summary.get("errorLogEntries", ())):
        entry["url"] = without_query(entry.get("url", ""))
        entry["errorDetails"] = [without_queries(one) for one in entry.get("errorDetails", ())]
    return json.dumps(value, separators=(",", ":"))


def _breakdown(summary: sts.ErrorSummary) -> ErrorBreakdown:
    entry = next(iter(summary.error_log_entries), None)
    # A URL of a list may have been signed: what follows the '?' is nobody's business.
    number = int(summary.error_code)
    known = number in code_pb2.Code.values()
    code = code_pb2.Code.Name(number) if known else f"CODE_{number}"
    if entry is not None and all(is_archived(one.error_details) for one in summary.error_log_entries):
        code = ARCHIVED  # whatever code the service has for it: it is no permission that is missing, and no other try helps
    return ErrorBreakdown(
        code=code,
        count=summary.error_count,
        sample_url="" if entry is None else without_query(entry.url),
        sample_details="" if entry is None else without_queries("; ".join(entry.error_details)),
    )


def is_one_time(job: sts.TransferJob) -> bool:
    """Whether a job runs once: no schedule, or one that starts and ends on the same day; and no event stream."""
    if "event_stream" in job:
        return False
    if "schedule" not in job:
        return True
    begin, end = job.schedule.schedule_start_date, job.schedule.schedule_end_date
    return bool(end.year) and (begin.year, begin.month, begin.day) == (end.year, end.month, end.day)
