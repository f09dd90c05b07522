"""Following: a transfer job with an event stream copies what changes at the source, as S3 tells it by an SQS queue.

The service begins by itself once the job is made, and goes on until the job is deleted. An operation of it runs for about a day;
then it ends and a new one begins, and both run while an object is under way (event-driven transfers, "Monitor an event-driven
transfer"; the page for S3 says one an hour). So a row follows the job, not an operation: see `domain/days.py`. One queue is for
one job: two would take each other's events.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from google.cloud import storage_transfer_v1 as sts

from sts_manager.domain.days import Days
from sts_manager.domain.errors import NotFound, Permanent, Retryable, Unready
from sts_manager.domain.following import QUEUE_MISSING, Following
from sts_manager.domain.model import OperationSnapshot, OperationState, PrefixJob, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix, chunks
from sts_manager.domain.pauses import is_paused_by_person
from sts_manager.ports import Clock, Started
from sts_manager.routes.sts.repairs import Repairs
from sts_manager.routes.sts.route import NAMES_PER_POLL, StsClient, client_in, listed, made, same_job
from sts_manager.routes.sts.spec import TransferSettings, classes_of, transfer_job

log = logging.getLogger(__name__)

PAUSABLE = (OperationState.IN_PROGRESS, OperationState.QUEUED)
LISTENS_WITHIN = timedelta(seconds=10)
AGAIN = "nobody follows this prefix any more. `follow --stop`, then `retry` catches up, then `follow` it again"
_STATUS: Any = sts.TransferJob.Status
GONE = {_STATUS.DELETED: "deleted", _STATUS.DISABLED: "disabled"}


class FollowRoute:
    """The `TransferRoute` port for rows that `follow` has made intents of.

    event_queue   the ARN of the SQS queue; without it, what is followed already is watched, and nothing is begun
    repairs       bring what failed
    row_of        the row with this operation, for one that the service has forgotten
    history_of    a row as it became, oldest first: it tells whose pause of an operation it was
    """

    def __init__(
        self,
        clients: Mapping[str, StsClient],
        settings: TransferSettings,
        event_queue: str,
        clock: Clock,
        repairs: Repairs,
        row_of: Callable[[OperationName], PrefixJob | None] = lambda _name: None,
        history_of: Callable[[Prefix], Iterable[PrefixJob]] = lambda _prefix: (),
    ) -> None:
        self._clients, self._settings, self._event_queue = clients, settings, event_queue
        self._clock, self._repairs, self._row_of, self._history_of = clock, repairs, row_of, history_of
        self._home: dict[OperationName, str] = {}
        self._homes: dict[JobName, str] = {}
        self._jobs: dict[OperationName, JobName] = {}
        self._at_work: set[OperationName] = set()
        self._days: dict[JobName, Days] = {}
        self._lock = threading.Lock()

    # Beginning

    def start(self, order: StartJob) -> Started:
        """Make the job or find it, and its operation. Its rows belong together, so what is refused ends all of them."""
        client = client_in(self._clients, order.project)
        found, made_now = self._found(client, order)
        if found is None:
            return Started(operation_name=None)
        if not found.latest_operation_name:
            raise Retryable(f"{order.job_name} is there, and the service has not begun to listen yet", after=LISTENS_WITHIN)
        name = OperationName(found.latest_operation_name)
        self._jobs[name], self._homes[JobName(order.job_name)] = JobName(order.job_name), client.project
        return Started(operation_name=name, adopted=not made_now)

    def _found(self, client: StsClient, order: StartJob) -> tuple[sts.TransferJob | None, bool]:
        """(the job, made where it is not there; None where it may not be made now; whether it was made)."""
        job = self._job(order)
        classes = classes_of(job, self._settings)
        try:
            return same_job(client, job, classes), False
        except NotFound:
            if order.adopt_only:
                return None, False
        if not self._event_queue:
            raise Unready(
                "following needs the SQS queue that S3 tells its events: give the daemon --event-queue", code=QUEUE_MISSING
            )
        self._refuse_a_second(order)
        made(client, job, classes)
        return client.get(JobName(order.job_name)), True

    def _refuse_a_second(self, order: StartJob) -> None:
        for client in self._clients.values():
            for job in client.jobs():
                if job.event_stream.name == self._event_queue and job.name != order.job_name:
                    raise Permanent(
                        f"{job.name} listens to {self._event_queue} already, and two jobs would take each other's events: end "
                        f"that one (`sts-manager follow --stop`, or `gcloud transfer jobs delete {job.name}`), "
                        "or give another queue",
                        code="QUEUE_TAKEN",
                    )

    def _job(self, order: StartJob) -> sts.TransferJob:
        try:
            job = transfer_job(order, self._settings)
        except ValueError as error:
            raise Permanent(f"{order.prefix!r}: {error}", code="ROUTE_UNFIT") from error
        if self._event_queue:
            job.event_stream = sts.EventStream(name=self._event_queue)
        return job

    # Watching

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        """What became of the jobs of these operations: each is told of by the job's present operation, under that one's name."""
        with self._lock:
            self._learn_jobs(names)
            looks = {job: self._look(job) for job in {self._jobs[name] for name in names if name in self._jobs}}
            return {name: self._told(name, *looks[self._jobs[name]]) for name in names if name in self._jobs}

    def _learn_jobs(self, names: Sequence[OperationName]) -> None:
        unknown = [name for name in names if name not in self._jobs]
        found = listed(self._clients, unknown, self._home) if unknown else {}
        for name in unknown:
            seen = found.get(name)
            if seen is not None and seen.job_name is not None:
                self._jobs[name], self._homes[seen.job_name] = seen.job_name, self._home[name]
            elif (row := self._row_of(name)) is not None and row.job_name is not None:
                self._jobs[name], self._homes[row.job_name] = row.job_name, row.project

    def _look(self, job: JobName) -> tuple[Days, str]:
        """(its operations and its repairs', why nobody listens any more)."""
        client = client_in(self._clients, self._homes[job])
        seen = [one for _, one in client.operations(jobNames=[str(job)])]
        days = Days.of(job, seen)
        if days.failing:
            for some in chunks(self._repairs.names(days), NAMES_PER_POLL):
                seen += [one for _, one in client.operations(jobNames=list(some))]
            days = Days.of(job, seen)
        over = ""
        if days.present is None or not days.present.active:
            over, latest = self._listens(client, job)
            if latest and all(one.name != latest for one in seen):
                # Begun so lately that it is not listed yet.
                days = Days.of(job, [*seen, *(one for _, one in client.operations(operationNames=[latest]))])
        self._tell_failures(days)
        self._days[job] = days
        self._jobs |= {one.name: job for one in days.operations}
        return days, over

    def _listens(self, client: StsClient, job: JobName) -> tuple[str, str]:
        """(why nobody listens any more; the job's latest operation)."""
        try:
            found = client.get(job)
        except NotFound:
            return f"{job} is not there any more; {AGAIN}", ""
        stream = found.event_stream
        if found.status in GONE:
            return f"{job} was {GONE[found.status]} outside this program; {AGAIN}", found.latest_operation_name
        if "event_stream_expiration_time" in stream and stream.event_stream_expiration_time <= self._clock.now():
            return f"{job} has expired; {AGAIN}", found.latest_operation_name
        return "", found.latest_operation_name

    def _told(self, name: OperationName, days: Days, over: str) -> OperationSnapshot:
        present = days.present or OperationSnapshot(name=name, state=OperationState.UNKNOWN, raw_state="", job_name=days.job)
        at_work = days.present is not None and present.active
        known = self._repairs.known(days)
        others = {one.state for one in days.at_work if one.name != present.name}
        following = Following(
            between=not at_work and not over,
            cause=days.cause,
            over="" if at_work else over,
            standing=None if known is None else known.standing,
            others_move=not others.isdisjoint(PAUSABLE),
            others_paused=OperationState.PAUSED in others,
        )
        return replace(present, counters=days.counters(None if known is None else known.left), following=following)

    def _tell_failures(self, days: Days) -> None:
        """An operation that was seen at work, and failed as a whole: nobody would hear of it once the next one has begun."""
        for one in days.operations:
            if one.active:
                self._at_work.add(one.name)
            elif one.name in self._at_work:
                self._at_work.discard(one.name)
                if one.state is OperationState.FAILED and not one.counters.objects_failed:
                    told = "; ".join(f"{error.code}: {error.sample_url} {error.sample_details}" for error in one.errors)
                    fields = {"job": str(days.job), "operation": one.name, "cause": told or "the service gave no reason"}
                    log.warning("followed_operation_failed", extra={"fields": fields})

    def mend(self, rows: Sequence[PrefixJob], *, may_start: bool) -> None:
        """One step towards bringing what failed in a job's operations that have ended. rows: all that follow in it.

        may_start   a transfer job may be made for it. Raises nothing but what the repairs do.
        """
        lead = next((row for row in rows if row.lead is None), None)
        days = None if lead is None or lead.job_name is None else self._days.get(lead.job_name)
        if lead is None or days is None:
            return
        client = client_in(self._clients, self._homes[days.job])
        moves = days.present is not None and days.present.state is not OperationState.PAUSED
        self._repairs.step(lead, tuple(row.prefix for row in rows), days, client, may_start=may_start and moves)

    # Steering

    def pause(self, name: OperationName) -> None:
        """All of the job that is at work: the operation before it, and what is brought once more."""
        self._steer(name, self._list_at_work(name, PAUSABLE), lambda client: client.pause)

    def resume(self, name: OperationName) -> None:
        """All of the job that is paused, but for what a person paused."""
        paused = self._list_at_work(name, (OperationState.PAUSED,))
        row = self._row_of(name)
        events = [] if row is None or not paused else list(self._history_of(row.prefix))
        self._steer(name, [one for one in paused if not is_paused_by_person(events, one)], lambda client: client.resume)

    def _list_at_work(self, name: OperationName, states: Collection[OperationState]) -> list[OperationName]:
        """What is in one of these states of the job that has this operation; the operation itself where no look has told yet."""
        job = self._jobs.get(name)
        days = None if job is None else self._days.get(job)
        return [name] if days is None else [one.name for one in days.at_work if one.state in states]

    def _steer(
        self,
        name: OperationName,
        wanted: Sequence[OperationName],
        call_of: Callable[[StsClient], Callable[[OperationName], None]],
    ) -> None:
        """Each of them is tried; then what the first refused one was refused for is raised, so that all are asked once more."""
        job = self._jobs.get(name)
        call = call_of(client_in(self._clients, "" if job is None else self._homes[job]))
        refused: list[Retryable | Permanent] = []
        for one in wanted:
            try:
                call(one)
            except (Retryable, Permanent) as error:
                refused.append(error)
                if one != name:
                    log.warning("followed_operation_not_steered", extra={"fields": {"operation": one, "cause": str(error)}})
        if refused:
            raise refused[0]
