"""The service's state and rules: jobs, operations, quotas, permissions. No gRPC here but its status codes."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.cloud import storage_transfer_v1 as sts
from google.rpc import code_pb2

from tools.emulators.ledger import Ledger
from tools.emulators.rpc import Refused, invalid
from tools.emulators.sigv4 import Keys
from tools.emulators.sts.activity_log import ActivityLog
from tools.emulators.sts.bucket_access import BucketAccess
from tools.emulators.sts.copier import ACTIVE, Copier, Status, Work
from tools.emulators.sts.defaults import fill_defaults
from tools.emulators.sts.ends import S3_LOCATION, EndError, GcsSink, GcsSource, S3Source, Source
from tools.emulators.sts.http_list import HttpSource
from tools.emulators.sts.manifest import ManifestSource
from tools.emulators.sts.rules import Filter, check_job, check_spec
from tools.emulators.sts.streams import EventStreams

JobState = sts.TransferJob.Status


@dataclass(frozen=True)
class Places:
    """Where the stage's other servers are, and who may read them."""

    s3: str
    gcs: str
    keys: tuple[Keys, ...]


@dataclass
class Operation:
    """One run of a job; the copying's own state is in `work`."""

    name: str
    job: str
    started: datetime
    work: Work
    ended: datetime | None = None


@dataclass
class TransferService:
    """Everything the service knows; all methods are safe to call from any thread."""

    ledger: Ledger
    project: str
    places: Places
    jobs: dict[str, sts.TransferJob] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    by_job: dict[str, list[str]] = field(default_factory=dict)
    storage_classes: dict[str, frozenset[str]] = field(default_factory=dict)  # of jobs that include some, which only REST can say
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1_000_000_000_000))
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self.copier = Copier(self.ledger, self._ended)
        self.streams = EventStreams(self.ledger, self._operation_of, self._admit, self.now)

    def reset(self) -> None:
        with self.lock:
            for operation in list(self.operations.values()):
                if operation.work.status in ACTIVE:
                    self._abort(operation)
            self.jobs.clear()
            self.operations.clear()
            self.by_job.clear()
            self.storage_classes.clear()
            self.streams.reset()
            self.copier.reset()

    def tend(self) -> None:
        """What the service does by itself, as time goes by: called again and again."""
        with self.lock:
            for job in list(self.jobs.values()):
                if "event_stream" in job and job.status != JobState.DELETED:
                    self.streams.tend(job, self._operations_of(job.name))

    # Jobs

    def create(self, job: sts.TransferJob, storage_classes: frozenset[str] = frozenset()) -> sts.TransferJob:
        self.check_project(job.project_id)
        self._quota("sts.creates_per_minute", 60, "create requests per minute", job.project_id)
        self._quota("sts.creates_per_day", 86_400, "create requests per day", job.project_id)
        check_job(job)
        with self.lock:
            self._refuse_taken(job.name)
        if self.ledger.setting("sts.buckets_checked_at") == "create":
            self._check_buckets(job)
        with self.lock:
            stored = sts.TransferJob(job)
            stored.name = job.name or f"transferJobs/{next(self.numbers)}"
            self._refuse_taken(stored.name)
            if self.ledger.setting("sts.fill_defaults"):
                fill_defaults(stored.transfer_spec)
            stored.creation_time = stored.last_modification_time = datetime.now(UTC)
            self.jobs[stored.name] = stored
            self.storage_classes[stored.name] = storage_classes
            if "event_stream" in stored:
                self.streams.begin(stored)
            return _shown(stored)

    def _refuse_taken(self, name: str) -> None:
        """A job keeps its name, also when it is deleted (for 30 days; setting `sts.deleted_names`)."""
        known = self.jobs.get(name)
        if known is not None and (known.status != JobState.DELETED or self.ledger.setting("sts.deleted_names") == "kept"):
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Transfer job already exists: {name}")

    def get(self, name: str, project: str) -> sts.TransferJob:
        self._reads(project)
        with self.lock:
            return _shown(self._job(name, project, deleted_too=True))

    def list_jobs(self, wanted: Filter) -> list[sts.TransferJob]:
        self._reads(wanted.project_id)
        with self.lock:
            of = wanted.project_id
            return [_shown(job) for _, job in sorted(self.jobs.items()) if job.project_id == of and _job_meets(job, wanted)]

    def update(self, name: str, project: str, patch: sts.TransferJob, mask: Sequence[str]) -> sts.TransferJob:
        self.check_project(project)
        self._quota("sts.updates_per_minute", 60, "update requests per minute", project)
        allowed = {"description", "transfer_spec", "notification_config", "logging_config", "status"}
        if unknown := sorted(set(mask) - allowed):
            raise invalid(f"update_transfer_job_field_mask: cannot update {unknown[0]!r}")
        with self.lock:
            job = self._job(name, project)
            changed = sts.TransferJob(job)
            for path in mask or allowed:
                setattr(changed, path, getattr(patch, path))
            check_spec(changed.transfer_spec)
            if changed.status == JobState.DELETED:
                return self._delete(name)
            changed.last_modification_time = datetime.now(UTC)
            self.jobs[name] = changed
            return _shown(changed)

    def delete(self, name: str, project: str) -> None:
        self.check_project(project)
        self._quota("sts.deletes_per_minute", 60, "delete requests per minute", project)
        with self.lock:
            self._job(name, project)
            self._delete(name)

    def _delete(self, name: str) -> sts.TransferJob:
        job = self.jobs[name]
        job.status = JobState.DELETED  # type: ignore[assignment]  # proto-plus types its members as int
        job.deletion_time = datetime.now(UTC)
        for operation in self._operations_of(name):
            if operation.work.status in ACTIVE:
                self._abort(operation)
        return _shown(job)

    # Operations

    def run(self, name: str, project: str) -> Operation:
        self.check_project(project)
        with self.lock:
            job = self._job(name, project)
            if any(operation.work.status in ACTIVE for operation in self._operations_of(name)):
                message = f"Transfer job {name} already has an active operation"
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message)
            if "event_stream" in job:
                raise invalid("a job with an event stream is begun by the service")
            operation = self._operation_of(job)
            self._admit()
            return operation

    def _operation_of(self, job: sts.TransferJob) -> Operation:
        spec = sts.TransferSpec(job.transfer_spec)
        operation = Operation(
            name=f"transferOperations/{job.name.replace('/', '-')}-{next(self.numbers)}",
            job=job.name,
            started=self.now(),
            work=Work(
                name=job.name,
                spec=spec,
                open_ends=lambda: self._ends(spec, job.project_id),
                storage_classes=self.storage_classes.get(job.name, frozenset()),
            ),
        )
        operation.work.logged = ActivityLog(self.ledger, job, operation.name).write
        self.operations[operation.name] = operation
        self.by_job.setdefault(job.name, []).append(operation.name)
        job.latest_operation_name = operation.name
        return operation

    def operation(self, name: str) -> Operation:
        with self.lock:
            if name not in self.operations:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"Transfer operation not found: {name}")
            return self.operations[name]

    def list_operations(self, wanted: Filter) -> list[Operation]:
        """Newest first."""
        self._reads(wanted.project_id)
        with self.lock:
            if wanted.operation_names:
                found = [self.operations[name] for name in wanted.operation_names if name in self.operations]
            elif wanted.job_names:
                found = [operation for name in wanted.job_names for operation in self._operations_of(name)]
            else:
                found = list(self.operations.values())
        found = [one for one in found if self.project_of(one) == wanted.project_id and _operation_meets(one, wanted)]
        return sorted(found, key=lambda operation: (operation.started, operation.name), reverse=True)

    def project_of(self, operation: Operation) -> str:
        job = self.jobs.get(operation.job)
        return self.project if job is None else job.project_id

    def pause(self, name: str) -> None:
        self._quota("sts.pauses_per_minute", 60, "pause requests per minute")
        work = self.operation(name).work
        with work.lock:
            if work.status not in (Status.IN_PROGRESS, Status.QUEUED):
                raise _precondition(f"Operation {name} is {status_name(work.status)}, not IN_PROGRESS")
            if work.status == Status.QUEUED:
                work.status = Status.PAUSED
                return
            work.suspend_until = time.monotonic() + self.ledger.setting("sts.suspend_seconds")
            work.status = Status.SUSPENDING

    def resume(self, name: str) -> None:
        self._quota("sts.pauses_per_minute", 60, "resume requests per minute")
        operation = self.operation(name)
        with self.lock, operation.work.lock:
            if operation.work.status != Status.PAUSED:
                raise _precondition(f"Operation {name} is {status_name(operation.work.status)}, not PAUSED")
            operation.work.status = Status.QUEUED
        with self.lock:
            self._admit()

    def cancel(self, name: str) -> None:
        self._quota("sts.pauses_per_minute", 60, "cancel requests per minute")
        with self.lock:
            operation = self.operation(name)
            if operation.work.status not in ACTIVE:
                raise _precondition(f"Operation {name} has ended")
            self._abort(operation)

    def force(self, name: str, status: int) -> None:
        """The stage's own: make an operation say any state, also one this client has never heard of."""
        self.operation(name).work.status = status

    def seed_past(self, number: int) -> None:
        """The stage's own: `number` finished operations of jobs of long ago."""
        past = datetime.now(UTC) - timedelta(days=7)
        with self.lock:
            for index in range(number):
                job = f"transferJobs/stsm-past-{index}"
                work = Work(name=job, spec=sts.TransferSpec(), open_ends=_no_ends, status=Status.SUCCESS)
                name = f"transferOperations/past-{index}"
                self.jobs[job] = sts.TransferJob(
                    name=job, project_id=self.project, status=JobState.ENABLED, latest_operation_name=name
                )
                self.operations[name] = Operation(name, job, past, work, past)
                self.by_job[job] = [name]

    # Inside

    def _operations_of(self, job: str) -> list[Operation]:
        return [self.operations[name] for name in self.by_job.get(job, ())]

    def _admit(self) -> None:
        """Start queued operations while fewer than the project's limit are in progress, oldest first."""
        limit = self.ledger.setting("sts.operations_in_progress_max")
        busy = sum(op.work.status in (Status.IN_PROGRESS, Status.SUSPENDING) for op in self.operations.values())
        for operation in self.operations.values():
            if busy >= limit:
                return
            if operation.work.status == Status.QUEUED:
                operation.work.status = Status.IN_PROGRESS
                busy += 1
                self.copier.add(operation.work)

    def _ended(self, work: Work) -> None:
        with self.lock:
            for operation in self._operations_of(work.name):
                if operation.work is work:
                    operation.ended = self.now()
            self._admit()

    def _abort(self, operation: Operation) -> None:
        with operation.work.lock:
            idle = operation.work.status in (Status.PAUSED, Status.QUEUED)
            operation.work.status = Status.ABORTED
        if idle:
            self.copier.add(operation.work)  # so that a copying thread hangs up on its ends
        operation.ended = self.now()
        self._admit()

    def _job(self, name: str, project: str, *, deleted_too: bool = False) -> sts.TransferJob:
        job = self.jobs.get(name)
        if job is None or job.project_id != project or (job.status == JobState.DELETED and not deleted_too):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Transfer job not found: {name}")
        return job

    def _quota(self, name: str, seconds: float, words: str, project: str = "") -> None:
        if not self.ledger.within(name, seconds, project or self.project):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Quota exceeded for quota metric '{words}'")

    def _reads(self, project: str) -> None:
        self.check_project(project)
        self._quota("sts.reads_per_minute", 60, "read requests per minute", project)

    def check_project(self, project: str) -> None:
        if not project:
            raise invalid("project_id is required")
        if not self.ledger.knows_project(project):
            message = f"The caller does not have permission on project {project!r}"
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, message)

    def _ends(self, spec: sts.TransferSpec, project: str) -> tuple[Source, GcsSink]:
        access = BucketAccess(self.ledger, project)
        sink = GcsSink(self.places.gcs, spec.gcs_data_sink.bucket_name, access)
        if "gcs_data_source" in spec:
            return self._chosen(spec, GcsSource(self.places.gcs, spec.gcs_data_source.bucket_name, access)), sink
        if "http_data_source" in spec:
            naming = functools.partial(self.ledger.setting, "sts.url_list_names")
            required = functools.partial(self.ledger.setting, "sts.url_list_md5_required")
            return HttpSource(spec.http_data_source.list_url, self.places.gcs, naming, required), sink
        data, missing = spec.aws_s3_data_source, self.ledger.setting("sts.s3_missing_bucket_code")
        source = S3Source(self.places.s3, data.bucket_name, self._keys(data), missing)
        return self._chosen(spec, source), sink

    def _chosen(self, spec: sts.TransferSpec, source: Source) -> Source:
        """The source itself, or just what a manifest names of it."""
        if "transfer_manifest" not in spec:
            return source
        data = spec.aws_s3_data_source if "aws_s3_data_source" in spec else spec.gcs_data_source
        ways = {name: self.ledger.setting(f"sts.manifest_{name}") for name in ("missing", "folders")}
        return ManifestSource(source, spec.transfer_manifest.location, data.path, self.places.gcs, **ways)

    def _keys(self, source: sts.AwsS3Data) -> Keys:
        if source.role_arn:
            if source.role_arn not in self.ledger.setting("sts.role_arns"):
                told = f"{S3_LOCATION} AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"
                raise EndError("PERMISSION_DENIED", told, f"s3://{source.bucket_name}/")
            return self.places.keys[0]
        if source.credentials_secret:
            value = self.ledger.setting("sts.secrets").get(source.credentials_secret)
            if value is None:
                raise EndError("PERMISSION_DENIED", f"cannot access secret {source.credentials_secret}")
            return Keys(*value.split(":", 1))
        return Keys(source.aws_access_key.access_key_id, source.aws_access_key.secret_access_key)

    def _check_buckets(self, job: sts.TransferJob) -> None:
        try:
            for end in self._ends(job.transfer_spec, job.project_id):
                with closing(end):
                    end.check()
        except EndError as error:
            code = grpc.StatusCode[error.code]
            raise Refused(code, error.details) from error


def described(operation: Operation, project: str) -> sts.TransferOperation:
    """An operation as the service shows it."""
    work, counts = operation.work, operation.work.counts
    shown = sts.TransferOperation(
        name=operation.name,
        project_id=project,
        transfer_spec=_without_secret(work.spec),
        start_time=operation.started,
        status=int(work.status),
        transfer_job_name=operation.job,
        counters=sts.TransferCounters(
            objects_found_from_source=counts.found[0],
            bytes_found_from_source=counts.found[1],
            objects_from_source_skipped_by_sync=counts.skipped[0],
            bytes_from_source_skipped_by_sync=counts.skipped[1],
            objects_copied_to_sink=counts.copied[0],
            bytes_copied_to_sink=counts.copied[1],
            objects_from_source_failed=counts.failed[0],
            bytes_from_source_failed=counts.failed[1],
        ),
        error_breakdowns=[_summary(code, number, samples) for code, (number, samples) in work.errors.items()],
    )
    if operation.ended is not None:
        shown.end_time = operation.ended
    return shown


def _summary(code: str, number: int, samples: list[tuple[str, str]]) -> sts.ErrorSummary:
    entries = [sts.ErrorLogEntry(url=url, error_details=[details]) for url, details in samples]
    return sts.ErrorSummary(error_code=code_pb2.Code.Value(code), error_count=number, error_log_entries=entries)


def _shown(job: sts.TransferJob) -> sts.TransferJob:
    """A copy without what the service only takes in and never gives out."""
    shown = sts.TransferJob(job)
    shown.transfer_spec = _without_secret(job.transfer_spec)
    return shown


def _without_secret(spec: sts.TransferSpec) -> sts.TransferSpec:
    shown = sts.TransferSpec(spec)
    if "aws_s3_data_source" in shown:
        shown.aws_s3_data_source.aws_access_key = sts.AwsAccessKey()
    return shown


def _job_meets(job: sts.TransferJob, wanted: Filter) -> bool:
    spec = job.transfer_spec
    source: Any = spec.aws_s3_data_source if "aws_s3_data_source" in spec else spec.gcs_data_source  # of a URL list: none
    return (
        (not wanted.job_names or job.name in wanted.job_names)
        and (not wanted.job_statuses or JobState(job.status).name in wanted.job_statuses)
        and (not wanted.source_bucket or source.bucket_name == wanted.source_bucket)
        and (not wanted.sink_bucket or spec.gcs_data_sink.bucket_name == wanted.sink_bucket)
    )


def _operation_meets(operation: Operation, wanted: Filter) -> bool:
    pattern = wanted.job_name_pattern
    return (
        (not wanted.job_names or operation.job in wanted.job_names)
        and (not pattern or fnmatch.fnmatchcase(operation.job, pattern))
        and (not wanted.operation_names or operation.name in wanted.operation_names)
        and (not wanted.transfer_statuses or status_name(operation.work.status) in wanted.transfer_statuses)
        and (wanted.min_creation_time is None or operation.started >= wanted.min_creation_time)
        and (wanted.max_creation_time is None or operation.started <= wanted.max_creation_time)
    )


def status_name(status: int) -> str:
    """A status in words; one that this client has never heard of as its number."""
    return next((known.name for known in Status if known == status), str(status))


def _precondition(message: str) -> Refused:
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, message)


def _no_ends() -> tuple[Source, GcsSink]:
    raise EndError("INTERNAL", "an operation of the past copies nothing")
