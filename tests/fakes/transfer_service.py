"""A transfer service in memory behind the `TransferRoute` port: operations move only when told, faults come on command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sts_manager.domain.days import Days
from sts_manager.domain.errors import NameDeleted, NameTaken, NotFound, Permanent, Retryable
from sts_manager.domain.following import Following
from sts_manager.domain.model import Counters, ErrorBreakdown, OperationSnapshot, OperationState, Route, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix
from sts_manager.ports import Started
from tests.fakes.clock import START


@dataclass
class FakeJob:
    name: JobName
    prefix: Prefix
    others: tuple[Prefix, ...] = ()
    project: str = ""
    event_queue: str = ""
    follows: bool = False
    deleted: bool = False
    operation: OperationName | None = None
    runs: int = 0


class FakeTransferService:
    def __init__(self) -> None:
        self.jobs: dict[JobName, FakeJob] = {}
        self.states: dict[OperationName, OperationSnapshot] = {}
        self.prefix_of: dict[OperationName, Prefix] = {}
        self.fail_start: Exception | None = None
        self.fail_poll: Exception | None = None
        self.resumed: list[OperationName] = []
        self.paused: list[OperationName] = []
        self.polls = 0

    # The port

    def start(self, order: StartJob) -> Started:
        if self.fail_start is not None:
            raise self.fail_start
        job = self.jobs.get(order.job_name)
        adopted = job is not None
        if job is None:
            if order.adopt_only:
                return Started(operation_name=None)
            job = self.jobs[order.job_name] = FakeJob(order.job_name, order.prefix, order.others, order.project)
            job.follows = order.route is Route.STS_FOLLOW
        if job.deleted:
            raise NameDeleted(f"{order.job_name} was deleted")
        if not {order.prefix, *order.others} <= {job.prefix, *job.others}:
            raise NameTaken(f"{order.job_name} exists with another spec")
        if job.operation is not None or order.adopt_only:
            return Started(operation_name=job.operation, adopted=True)
        return Started(operation_name=self._run(job), adopted=adopted)

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        self.polls += 1
        if self.fail_poll is not None:
            raise self.fail_poll
        return {name: self._told(name) for name in names if name in self.states}

    def _told(self, name: OperationName) -> OperationSnapshot:
        """Of a job with an event stream: its present operation, with the sums over all of them."""
        seen = self.states[name]
        job = self.jobs.get(seen.job_name) if seen.job_name is not None else None
        if job is None or not job.follows:
            return seen
        days = Days.of(job.name, self.states.values())
        assert days.present is not None
        at_work = days.present.active
        over = f"{job.name} was deleted" if job.deleted and not at_work else ""
        following = Following(between=not at_work and not over, cause=days.cause, over=over)
        return replace(days.present, counters=days.counters(), following=following)

    def pause(self, name: OperationName) -> None:
        self._expect(name, OperationState.IN_PROGRESS, OperationState.QUEUED)
        self.paused.append(name)
        self.set(name, OperationState.PAUSED)

    def resume(self, name: OperationName) -> None:
        self._expect(name, OperationState.PAUSED)
        self.resumed.append(name)
        self.set(name, OperationState.IN_PROGRESS)

    # The world's hand

    def set(self, name: OperationName, state: OperationState, **more: int) -> None:
        known = self.states[name]
        counters = replace(known.counters, **more)
        errors = (ErrorBreakdown(code="UNAVAILABLE", count=1),) if counters.objects_failed else ()
        if state is OperationState.FAILED and not errors:
            errors = (ErrorBreakdown(code="INTERNAL", count=1),)
        self.states[name] = replace(known, state=state, raw_state=state.value, counters=counters, errors=errors)

    def next_day(self, name: JobName) -> OperationName:
        """The present operation of a job with an event stream ends, if it has not, and the next one begins."""
        job = self.jobs[name]
        if job.operation is not None and self.states[job.operation].active:
            self.set(job.operation, OperationState.SUCCESS)
        return self._run(job)

    def deny(self, name: OperationName) -> None:
        """The operation fails as a whole for want of a permission."""
        denied = ErrorBreakdown(code="PERMISSION_DENIED", count=1, sample_details="the role may not read the bucket")
        known = replace(self.states[name], state=OperationState.FAILED, raw_state="FAILED", errors=(denied,))
        self.states[name] = replace(known, counters=Counters())

    def active(self) -> list[OperationName]:
        return [name for name, seen in self.states.items() if seen.active]

    def delete(self, name: JobName) -> None:
        job = self.jobs[name]
        job.deleted = True
        if job.operation is not None and self.states[job.operation].active:
            self.set(job.operation, OperationState.ABORTED)

    def _run(self, job: FakeJob) -> OperationName:
        if job.operation is not None and self.states[job.operation].active:
            raise Retryable("an operation is active", code="FAILED_PRECONDITION")
        job.runs += 1
        job.operation = OperationName(f"transferOperations/{job.name.partition('/')[2]}-{job.runs}")
        self.states[job.operation] = OperationSnapshot(
            name=job.operation,
            state=OperationState.IN_PROGRESS,
            raw_state="IN_PROGRESS",
            job_name=job.name,
            results='{"status":"IN_PROGRESS"}',
            started_at=START + timedelta(days=job.runs),
        )
        self.prefix_of[job.operation] = job.prefix
        return job.operation

    def _expect(self, name: OperationName, *states: OperationState) -> None:
        if name not in self.states:
            raise NotFound(f"no operation {name}")
        if self.states[name].state not in states:
            raise Retryable(f"{name} is {self.states[name].raw_state}", code="FAILED_PRECONDITION")


INVALID = Permanent("the service refuses the spec")
