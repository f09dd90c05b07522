"""The route `sts-url-list`: lists of URLs, each a transfer job, then every object moved to its own name (ADR 0018).

The ledger has the state of each job; `cdn-worker lists` writes the lists and moves the objects; this drives what lies between:
the canary's transfer, then the others. Every step may be taken twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from cdn_worker.domain.url_list import md5_column
from cdn_worker.protocol.messages import JobSpec
from cdn_worker.protocol.url_list_jobs import CANCELLED, Job, Part, State, spec_text
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.errors import NameTaken, Permanent, Retryable
from sts_manager.domain.model import OperationSnapshot, OperationState, StartJob
from sts_manager.domain.names import OperationName
from sts_manager.ports import Clock, Started
from sts_manager.routes.sts.route import StsClient, begun, client_in, listed
from sts_manager.routes.sts.spec import ListedTransfer, list_job
from sts_manager.routes.url_list.operation import ListOperations, operation_of

log = logging.getLogger(__name__)

PARTS_AT_ONCE = 4
"""Of one prefix: the service runs 200 operations of a project at once."""
MISSING_POLLS, MISSING_FOR = 3, timedelta(minutes=10)
ENDED = {OperationState.SUCCESS, OperationState.FAILED, OperationState.ABORTED}
Seen = Mapping[OperationName, OperationSnapshot]


class UrlListRoute:
    """`spec_of` gives what is asked of the lister for a prefix. Held by tests/conformance/transfer_route.py, as every route is.

    full_metadata   user metadata and content headers are restored from S3, a request an object
    """

    def __init__(
        self,
        clients: Mapping[str, StsClient],
        ledger: ListLedger,
        spec_of: Callable[[StartJob], JobSpec],
        clock: Clock,
        *,
        full_metadata: bool = True,
    ) -> None:
        self._clients, self._ledger, self._spec_of, self._clock = clients, ledger, spec_of, clock
        self._home: dict[OperationName, str] = {}
        self._own = ListOperations(ledger)
        self._full_metadata = full_metadata
        self._told: set[str] = set()

    # The port

    def start(self, order: StartJob) -> Started:
        name = str(order.job_name)
        known = self._ledger.job(name)
        if known is None and order.adopt_only:
            return Started(operation_name=None)
        spec = self._spec_of(order)
        if known is not None and spec_text(known.spec) != spec_text(spec):
            raise NameTaken(f"{name} is in the ledger of URL lists with another spec: {known.spec}, not {spec}")
        self._ledger.begin(spec, order.prefix, self._clock.now(), full_metadata=self._full_metadata, project=order.project)
        return Started(operation_name=operation_of(name), adopted=known is not None)

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        found = {name: self._own.operation(name) for name in names if name.startswith(self._own.stem)}
        return {name: seen for name, seen in found.items() if seen is not None}

    def pause(self, name: OperationName) -> None:
        self._steer(name, paused=True)

    def resume(self, name: OperationName) -> None:
        self._steer(name, paused=False)

    def _steer(self, name: OperationName, *, paused: bool) -> None:
        if not self._own.steer(name, paused=paused):
            raise Retryable(f"{name} cannot be {'paused' if paused else 'resumed'} now", code="FAILED_PRECONDITION")

    # What lies between listing and moving

    def advance(self) -> bool:
        """One step of every job whose lists are written. Raises StoreUnavailable; what the service refuses is tried again."""
        jobs = [job for job in self._ledger.live() if job.state in (State.CANARY, State.SENDING)]
        parts = {job.name: self._ledger.parts(job.name) for job in jobs}
        try:
            seen = self._poll([part for some in parts.values() for part in some if part.state == "started"])
        except (Retryable, Permanent) as error:
            self._tell("lists_cannot_be_polled", str(error))
            return False
        for job in jobs:
            self._advance(job, [self._looked_at(job, part, seen) for part in parts[job.name]])
        return False

    def _poll(self, parts: Sequence[Part]) -> Seen:
        return listed(self._clients, [OperationName(part.operation) for part in parts], self._home)

    def _looked_at(self, job: Job, part: Part, seen: Seen) -> Part:
        """Record what the service says of a part, and steer it as its job is steered."""
        if part.state != "started":
            return part
        operation = seen.get(OperationName(part.operation))
        if operation is None:
            return self._missing(part)
        self._steer_part(job, part, operation)
        self._ledger.seen(
            part,
            operation.state.value if operation.state in ENDED else "started",
            copied=operation.counters.objects_copied + operation.counters.objects_skipped,
            copied_bytes=operation.counters.bytes_copied + operation.counters.bytes_skipped,
            errors=[(one.code, one.count, one.sample_details) for one in operation.errors],
            paused=operation.state is OperationState.PAUSED,
        )
        return self._again(part)

    def _missing(self, part: Part) -> Part:
        """The service does not know it: believed after several looks over some time, as everywhere."""
        now = self._clock.now()
        since = min(part.missing_since or now, now)
        self._ledger.missed(part, since)
        if part.missing + 1 >= MISSING_POLLS and now - since >= MISSING_FOR:
            told = [("OPERATION_NOT_FOUND", 1, f"the service no longer knows {part.operation}")]
            self._ledger.seen(part, "FAILED", copied=part.copied, copied_bytes=part.copied_bytes, errors=told, paused=False)
        return self._again(part)

    def _again(self, part: Part) -> Part:
        return next(one for one in self._ledger.parts(part.job) if one.number == part.number)

    def _steer_part(self, job: Job, part: Part, operation: OperationSnapshot) -> None:
        name, client = operation.name, client_in(self._clients, job.project)
        calls: list[Callable[[OperationName], None]] = []
        if job.cancelled and operation.active:
            calls.append(client.cancel)
        elif job.paused and operation.state in (OperationState.IN_PROGRESS, OperationState.QUEUED):
            self._ledger.may_resume(part, resumable=True)
            calls.append(client.pause)
        elif part.resumable and not job.paused and operation.state is OperationState.PAUSED:
            # What a person paused at the service stays paused, until a command says otherwise.
            calls.append(client.resume)
        elif part.resumable and not job.paused and operation.state is OperationState.IN_PROGRESS:
            self._ledger.may_resume(part, resumable=False)  # the wish is fulfilled
        for call in calls:
            try:
                call(name)
            except (Retryable, Permanent) as error:
                self._tell("part_not_steered", f"{name}: {error}")

    def _advance(self, job: Job, parts: Sequence[Part]) -> None:
        wanted = [part for part in parts if part.number == 0] if job.state is State.CANARY else parts
        if not job.paused and not job.cancelled:
            room = PARTS_AT_ONCE - sum(part.state == "started" for part in wanted)
            for part in [one for one in wanted if one.state == "ready"][: max(0, room)]:
                if not self._started(job, part):
                    return
        now = [self._again(part) for part in wanted]
        if job.cancelled:
            if not any(part.state == "started" for part in now):
                self._ledger.enter(job.name, State.MOVING, was=job.state)
        elif all(part.ended for part in now):
            self._ended(job, now)

    def _ended(self, job: Job, parts: Sequence[Part]) -> None:
        """Every part that was wanted has ended: what landed is moved, whatever became of the rest."""
        aborted = next((part for part in parts if part.state == "ABORTED"), None)
        if aborted is not None:
            told = f"{aborted.operation} was cancelled outside this program; `retry` starts it again"
            self._ledger.enter(job.name, State.MOVING, was=job.state, code=CANCELLED, message=told)
        elif job.state is State.SENDING:
            refused = next((part.errors[0] for part in parts if not part.operation), None)
            code, message = ("", "") if refused is None else (refused[0], refused[2])
            self._ledger.enter(job.name, State.MOVING, was=State.SENDING, code=code, message=message)
        elif parts[0].state == "SUCCESS" and not parts[0].errors:
            self._ledger.enter(job.name, State.LOOKING, was=State.CANARY)
        else:
            code, _, details = parts[0].errors[0] if parts[0].errors else ("FAILED", 1, "no reason was given")
            told = f"what is sent ahead of all others could not be transferred: {details}"
            if any(not md5_column(row.etag) for row in self._ledger.canaries(job.name)):
                told += (
                    "; one of these objects has no MD5 that S3 tells (uploaded in parts), so its row has none either: if the "
                    "service refuses that, send the prefix by route cdn or sts-s3"
                )
            self._ledger.enter(job.name, State.MOVING, was=State.CANARY, code=code, message=told)

    def _started(self, job: Job, part: Part) -> bool:
        """Begin a part's transfer, or find it begun. Whether to go on with the next one now."""
        transfer = ListedTransfer(
            name=part.transfer_job,
            description=f"STS Manager: {job.prefix}, list {part.number}",
            location=part.location,
            bucket=job.spec.sink_bucket,
            path=job.landing,
            storage_class=job.spec.storage_class,
        )
        try:
            client = client_in(self._clients, job.project)
            started = begun(client, list_job(transfer, client.project))
        except Retryable as error:
            self._tell("part_waits", f"{part.transfer_job}: {error}")
            return False
        except Permanent as error:
            if job.state is State.CANARY:
                self._ledger.enter(job.name, State.MOVING, was=job.state, code=error.code, message=str(error))
                return False
            # What has begun goes on, and is waited for: else it would land when nobody clears up any more.
            for one in self._ledger.parts(job.name):
                if one.state == "ready":
                    told = [(error.code, one.rows, str(error))]
                    self._ledger.seen(one, "FAILED", copied=0, copied_bytes=0, errors=told, paused=False)
            return False
        assert started.operation_name is not None, "a job that was not there, or did not run, is run"
        self._ledger.started(part, started.operation_name)
        return True

    def _tell(self, event: str, cause: str) -> None:
        """Once for each cause, as long as this program runs."""
        if (text := f"{event} {cause}") not in self._told:
            self._told.add(text)
            log.warning(event, extra={"fields": {"cause": cause, "effect": "it is tried again"}})
