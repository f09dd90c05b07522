"""The Storage Transfer Service in virtual time: the stage's own rules behind the client's methods; objects are only counted."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions
from google.cloud import storage_transfer_v1 as sts
from google.longrunning import operations_pb2

from tests.simulation.chance import Chance
from tests.simulation.moves import Moves
from tests.simulation.timeline import START, Timeline
from tools.emulators.ledger import Ledger
from tools.emulators.rpc import Refused
from tools.emulators.sigv4 import Keys
from tools.emulators.sts.copier import ACTIVE, Status, Work
from tools.emulators.sts.server import StsAnswers
from tools.emulators.sts.service import Operation, Places, TransferService

if TYPE_CHECKING:
    from tests.simulation.url_lists import UrlLists

PROJECT = "stage-project"
STALE_S = 120.0


class _NoCopier:
    """Nothing is copied: the world says how far operations are."""

    def add(self, _work: Work) -> None:
        pass


class Transfers:
    """The service, and the world's hand on it. `created` is told of each job that is made, and by which process.

    moves   what becomes of objects, in a world where they change; None: they are only counted
    lists   what becomes of objects that URL lists name
    succeeding   told of each transfer that takes all of its prefixes
    """

    moves: Moves | None = None
    lists: UrlLists | None = None
    succeeding: Callable[[Operation], None] = staticmethod(lambda _operation: None)

    def __init__(self, timeline: Timeline, chance: Chance, created: Callable[[sts.TransferJob, str], None]) -> None:
        self.timeline, self.chance, self.created = timeline, chance, created
        ledger = self.ledger = Ledger(clock=lambda: timeline.now)
        ledger.change({"sts.buckets_checked_at": "run"})
        self.service = TransferService(ledger, PROJECT, Places("", "", (Keys("", ""),)))
        self.service.now = lambda: START + timedelta(seconds=timeline.now)
        self.service.streams._now = self.service.now
        self.service.copier = _NoCopier()  # type: ignore[assignment]
        self.answers = StsAnswers(self.service)
        self.ran_at: dict[str, float] = {}
        self.resumed: list[str] = []
        self.seen: dict[str, list[tuple[float, operations_pb2.Operation]]] = {}

    @property
    def operations(self) -> dict[str, Operation]:
        return self.service.operations

    def active(self) -> list[Operation]:
        return [one for one in self.operations.values() if one.work.status in ACTIVE]

    def progress(self, draw: random.Random, fail: float) -> None:
        """The service works on what is in progress, for a while."""
        for operation in self.active():
            work = operation.work
            if work.status == Status.SUSPENDING:
                work.status = Status.PAUSED
            if work.status != Status.IN_PROGRESS or draw.random() < 0.3:
                continue
            if self.lists is not None and "http_data_source" in work.spec:
                if self.lists.progress(operation, draw, fail):
                    self.service._ended(work)
                continue
            if self.moves is not None:
                if self.moves.progress(operation, draw, fail):
                    self.service._ended(work)
                continue
            for counter in (work.counts.found, work.counts.copied):
                counter[0] += 1
                counter[1] += 1000
            if draw.random() < 0.12:
                self._end(operation, draw, fail)

    def _end(self, operation: Operation, draw: random.Random, fail: float) -> None:
        work = operation.work
        if draw.random() >= fail:
            work.status = Status.SUCCESS
            self.succeeding(operation)
        else:
            match draw.randrange(3):
                case 0:
                    self.chance.count("operation failed", operation.name)
                    work.status = Status.FAILED
                    work.fail("INTERNAL", "s3://source/x", "an internal error")
                case 1:
                    self.chance.count("objects failed", operation.name)
                    work.status = Status.SUCCESS
                    work.counts.failed[0] += 2
                    work.fail("UNAVAILABLE", "s3://source/x", "the source was away")
                case _:
                    self.chance.count("operation denied", operation.name)
                    work.status = Status.FAILED
                    for counter in (work.counts.found, work.counts.copied):
                        counter[:] = [0, 0]
                    work.fail("PERMISSION_DENIED", "s3://source", "the role may not read the bucket")
        self.service._ended(work)

    def begin_next(self, job: sts.TransferJob) -> None:
        """What the service does by itself for a job with an event stream: its operations end, and new ones begin."""
        known = self.service._operations_of(job.name)
        if known:
            self.service.streams.tend(job, known)
        elif job.status == sts.TransferJob.Status.ENABLED:
            self.service.streams.begin(job)

    def delete_job(self, name: str) -> None:
        self.service.delete(name, PROJECT)

    def age(self, name: str) -> float:
        """How long ago an operation began, in seconds."""
        return (self.service.now() - self.operations[name].started).total_seconds()

    def forget(self, operation: Operation) -> None:
        """The service knows an operation no more; its job was deleted long ago."""
        self.service._delete(operation.job)
        del self.operations[operation.name]
        self.service.by_job[operation.job].remove(operation.name)
        self.service.jobs[operation.job].latest_operation_name = ""


class TransferApi:
    """The official client's methods, as far as they are used. What it reads may be up to two minutes old."""

    def __init__(self, transfers: Transfers, caller: str = "") -> None:
        self._transfers, self._answers, self._caller = transfers, transfers.answers, caller

    def create_transfer_job(self, request: sts.CreateTransferJobRequest, **_how: object) -> sts.TransferJob:
        created: sts.TransferJob = self._ask(self._answers.create, request)
        self._transfers.created(created, self._caller)
        if "event_stream" in created:
            self._transfers.ran_at[created.name] = self._transfers.timeline.now
        return created

    def get_transfer_job(self, request: sts.GetTransferJobRequest, **_how: object) -> sts.TransferJob:
        job: sts.TransferJob = self._ask(self._answers.get, request)
        ran = self._transfers.ran_at.get(job.name, -STALE_S)
        if job.latest_operation_name and self._transfers.timeline.now - ran < STALE_S and self._stale(job.name):
            *_, before, _latest = "", "", *self._transfers.service.by_job[job.name]
            job.latest_operation_name = before
        return job

    def run_transfer_job(self, request: sts.RunTransferJobRequest, **_how: object) -> Any:
        operation = self._ask(self._answers.run, request)
        self._transfers.ran_at[request.job_name] = self._transfers.timeline.now
        return _Future(operation)

    def list_operations(
        self, request: operations_pb2.ListOperationsRequest, **_how: object
    ) -> operations_pb2.ListOperationsResponse:
        page: operations_pb2.ListOperationsResponse = self._ask(self._answers.list_operations, request)
        now = self._transfers.timeline.now
        shown = []
        for one in page.operations:
            seen = self._transfers.seen.setdefault(one.name, [])
            seen[:] = [(at, before) for at, before in seen if now - at < STALE_S]
            seen.append((now, one))
            if not self._stale(one.name):
                shown.append(one)
            elif self._transfers.age(one.name) >= STALE_S:
                shown.append(self._transfers.chance.random.choice(seen)[1])
            # else it has begun so lately that it may not be known yet
        return operations_pb2.ListOperationsResponse(operations=shown, next_page_token=page.next_page_token)

    def list_transfer_jobs(self, request: sts.ListTransferJobsRequest, **_how: object) -> Any:
        return _Pager(self._ask(self._answers.list_jobs, request))

    def delete_transfer_job(self, request: sts.DeleteTransferJobRequest, **_how: object) -> None:
        self._ask(self._answers.delete, request)

    def pause_transfer_operation(self, request: sts.PauseTransferOperationRequest, **_how: object) -> None:
        self._ask(self._answers.pause, request)

    def resume_transfer_operation(self, request: sts.ResumeTransferOperationRequest, **_how: object) -> None:
        self._ask(self._answers.resume, request)
        self._transfers.resumed.append(request.name)

    def cancel_operation(self, request: operations_pb2.CancelOperationRequest, **_how: object) -> None:
        self._ask(self._answers.cancel, request)

    def _stale(self, about: str) -> bool:
        stale = self._transfers.chance.happens(0.05)
        if stale:
            self._transfers.chance.count("stale read", about)
        return stale

    def _ask(self, answer: Callable[[Any], Any], request: Any) -> Any:
        try:
            return answer(request)
        except Refused as refused:
            raise exceptions.from_grpc_status(refused.code, refused.message) from refused  # type: ignore[no-untyped-call]


class _Future:
    def __init__(self, operation: operations_pb2.Operation) -> None:
        self.operation = operation


class _Pager:
    def __init__(self, page: sts.ListTransferJobsResponse) -> None:
        self.pages = [page]
