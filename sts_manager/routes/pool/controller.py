"""Keeps the pool going while this daemon leads: folds reports, deals with dead letters, posts the board, minds the workers."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable, Superseded
from cdn_worker.protocol.codec import decoded_report, decoded_task
from cdn_worker.protocol.messages import OTHER_BUCKET, CopyTask, ListFailed, ListTask, Refused, Report, has_huge, undone
from sts_manager.domain.errors import LeaseLost
from sts_manager.domain.model import FailedObject
from sts_manager.domain.names import JobName, Prefix
from sts_manager.ports import Clock, JobStore
from sts_manager.routes.local.background import Keeping
from sts_manager.routes.local.supervisor import Crew
from sts_manager.routes.pool.ledger import PoolLedger

log = logging.getLogger(__name__)

REPORTS_AT_ONCE = 500
REPORT_BYTES_AT_ONCE = 4 << 20
"""One of a task that failed as a whole is as long as a thousand others, and in memory several times as large."""
WAIT_S = 0.2
LAST_S = 1.0
"""With what the crew takes to drain, well within the seconds that the daemon has after a signal."""
BOARD_S = 30.0
BOARD_REST_S = 1.0
"""An object of Cloud Storage takes one write a second."""
TOLD_MAX = 10_000
AGAIN_MAX = 100
"""Some seconds, while none but a worker with another list is there."""
POISON = "poison"
FAILURES_MAX = 10_000
"""Of one prefix in the job store; the ledger has them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Where failures and objects go: a job store of the keeper's own, opened when there is something to tell.

    objects_at_once, objects_every_s   how many lines of the object ledger at a time, and how often (BigQuery: 1,500 loads a day)
    """

    store: Callable[[], JobStore]
    objects_at_once: int = 10_000
    objects_every_s: float = 0.0


class PoolKeeper:
    """Threads from `__enter__` to `__exit__`. Only the daemon that leads has them: reports are for its ledger.

    leading   whether it still does: it may have been frozen, or be cut off from its store. Each turn looks at it first.
    epoch     of its lease, which the board carries
    """

    def __init__(
        self,
        queues: Queues,
        ledger: PoolLedger,
        clock: Clock,
        crew: Crew | None = None,
        told: Told | None = None,
        *,
        leading: Callable[[], bool] = lambda: True,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self._queues, self._ledger, self._clock, self._crew, self._told = queues, ledger, clock, crew, told
        self._leading, self._epoch = leading, epoch
        self._put_at = 0.0
        self._strange: set[bytes] = set()
        self._again: Counter[str] = Counter()
        self.news = False  # something is to be looked at soon: nothing goes on in a job, or one has ended
        turns = (self.steer, self.fold_reports, self.mourn, self.sweep, *((self.tell,) if self._told is not None else ()))
        self._keeping = Keeping("pool", turns, rest_s=WAIT_S)
        self._posted: Mapping[str, str] | None = None
        self._posted_at = 0.0

    def __enter__(self) -> Self:
        self._keeping.begin()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._crew is not None:
            self._crew.stop()
        # What the workers reported while they drained is taken in, where it can be told how much that is.
        until = time.monotonic() + LAST_S
        with suppress(QueueUnavailable):
            while self._queues.reports.backlog() and time.monotonic() < until:
                time.sleep(WAIT_S / 4)
        self._keeping.end(LAST_S)
        if self._told is not None:
            self._put_at = 0.0
            self._keeping.guarded(self._tell_the_rest)

    def catch_up(self) -> None:
        """All of it once, in this thread. Raises QueueUnavailable, StoreUnavailable."""
        self.steer()
        while self.fold_reports() or self.mourn():
            pass
        if self._told is not None:
            self._tell_the_rest()

    def steer(self) -> bool:
        """Post the board, publish what was parked, mind the workers. Raises QueueUnavailable, StoreUnavailable."""
        if self._crew is not None and not self._keeping.ending:
            self._crew.tend()
        if self._leading():
            self._post_board()
            self._unpark()
        return False

    def fold_reports(self) -> bool:
        """Take in what is reported. Whether there may be more at once. Raises QueueUnavailable, StoreUnavailable."""
        if not self._leading():
            return False
        reports = self._queues.reports.lease(REPORTS_AT_ONCE, bytes_max=REPORT_BYTES_AT_ONCE)
        return bool(reports) and self._take_in(reports)

    def mourn(self) -> bool:
        """See to dead letters. Whether there were any. Raises QueueUnavailable, StoreUnavailable."""
        if not self._leading():
            return False
        dead = self._queues.dead.lease(REPORTS_AT_ONCE, bytes_max=REPORT_BYTES_AT_ONCE)
        return bool(dead) and self._mourn(dead)

    def sweep(self) -> bool:
        """Delete some of what jobs that are over left behind. Whether there may be more. Raises StoreUnavailable."""
        return self._leading() and self._ledger.sweep(self._clock.now())

    def tell(self) -> bool:
        """Let the job store know which objects failed, and (where it is wanted) all others. Raises StoreUnavailable.

        Of a prefix that has gone on to another attempt nothing is told: that one's objects count, and another daemon may have
        told them already.
        """
        assert self._told is not None
        if not self._leading():
            return False
        untold = self._ledger.untold()
        current = self._told.store().jobs_named([JobName(job) for job, _ in untold]) if untold else {}
        for job, prefix in untold:
            if job not in current:
                self._ledger.told(job, failures=False)
                continue
            failures = [
                FailedObject(
                    prefix=Prefix(prefix),
                    key=one.key,
                    size=one.size,
                    etag=one.etag,
                    verdict=one.verdict,
                    error=one.error,
                    details=one.details,
                    job_name=job,
                )
                for one in self._ledger.failures(job, FAILURES_MAX)
            ]
            self._told.store().put_failures(Prefix(prefix), failures, self._clock.now())
            self._ledger.told(job, failures=bool(failures))
        return self._tell_objects(self._told) or bool(untold)

    def _tell_the_rest(self) -> bool:
        """All that there is to tell, however seldom it is told otherwise."""
        while self.tell():
            pass
        assert self._told is not None
        while self._leading() and (self._put_objects(self._told) or self.sweep()):
            pass
        return False

    def _tell_objects(self, told: Told) -> bool:
        if time.monotonic() < self._put_at:
            return False
        put = self._put_objects(told)
        if put:
            self._put_at = time.monotonic() + told.objects_every_s
        return put and not told.objects_every_s

    def _put_objects(self, told: Told) -> bool:
        """Put some lines of the object ledger. Whether there were any."""
        lines = self._ledger.lines(told.objects_at_once)
        if lines is not None:
            told.store().put_objects(self._ledger.objects(lines), self._clock.now())
            self._ledger.forget(lines)
        return lines is not None

    def _take_in(self, leases: list[Leased]) -> bool:
        """Whether any of them was taken."""
        found: list[Report] = []
        good: list[Leased] = []
        for one in leases:
            try:
                found.append(decoded_report(one.body))
                good.append(one)
            except Refused as error:
                log.error("report_refused", extra={"fields": {"cause": str(error), "job": error.job}})
                self._queues.reports.bury(one, str(error))
        if not self._leading():
            return False  # it was frozen meanwhile: whoever leads now is to have them
        unknown = self._fold(found)
        # Another daemon's ledger may wait for what this one does not know: it comes again when its lease ends.
        self._queues.reports.ack([lease for place, lease in enumerate(good) if place not in unknown])
        return len(unknown) < len(good)

    def _fold(self, reports: Sequence[Report]) -> frozenset[int]:
        """Count reports; the places of those that are not of this ledger's jobs."""
        folded = self._ledger.fold(reports, self._clock.now())
        self.news = self.news or folded.troubled or folded.ended
        for place in folded.foreign:
            report = reports[place]
            effect = "it is not counted: a task of the same name that nobody here published was worked on"
            log.error("report_of_another_spec", extra={"fields": {"job": report.job, "spec": report.spec, "effect": effect}})
        return folded.unknown

    def _mourn(self, leases: list[Leased]) -> bool:
        """Dead letters: the keys of a task get their verdict; what nobody can read is kept, and told. Whether any was dealt with.

        What is of another ledger's jobs stays: a daemon that was frozen may not know that it leads no more.
        """
        verdicts: list[Report] = []
        places: list[Leased] = []
        over: list[Leased] = []
        for one in leases:
            reason = one.reason or "it was delivered too often"
            try:
                task = decoded_task(one.body)
            except Refused as error:
                report = _report_in(one.body)
                if report is not None:
                    verdicts.append(report)  # it is no loss while it can be read
                    places.append(one)
                elif self._keep_unread(one, error, reason):
                    over.append(one)
                continue
            known = self._ledger.knows(task)
            if known is None:
                self._tell_strange(one, task.spec.job)
                continue
            if known and OTHER_BUCKET in reason and self._publish_again(task, one.body, reason):
                over.append(one)
                continue
            log.error("dead_task", extra={"fields": {"cause": reason, "job": task.spec.job, "task": task.id}})
            self._ledger.bury(task.spec.job, reason, one.body, self._clock.now())
            if known:
                verdicts.append(_verdict_of(task, reason))
                places.append(one)
            else:
                over.append(one)
        if not self._leading():
            return False
        unknown = self._fold(verdicts)
        for place in unknown:
            self._tell_strange(places[place], verdicts[place].job)
        over += [lease for place, lease in enumerate(places) if place not in unknown]
        self._queues.dead.ack(over)
        return bool(over)

    def _keep_unread(self, lease: Leased, error: Refused, reason: str) -> bool:
        """Keep what nobody can read, and end the job that it names. False when that is no job of this ledger's."""
        if error.job and self._ledger.job(error.job) is None:
            self._tell_strange(lease, error.job)
            return False
        why = f"{reason}; {error}" if str(error) not in reason else reason
        log.error("dead_letter", extra={"fields": {"cause": why, "job": error.job, "bytes": len(lease.body)}})
        now = self._clock.now()
        if error.job:
            self._ledger.end(error.job, "MESSAGE_REFUSED", f"a message of it cannot be read: {why}", now)
        self._ledger.bury(error.job, why, lease.body, now)
        return True

    def _publish_again(self, task: CopyTask | ListTask, body: bytes, reason: str) -> bool:
        """A task of ours that a worker refused whose buckets are others: one that a person started, or that of a daemon that is
        frozen. It is for the others. False when that came to nothing too often, or nobody waits for it any more.
        """
        job = self._ledger.job(task.spec.job)
        times = self._again[task.id]
        if job is None or job.state == "over" or times >= AGAIN_MAX or (not times and len(self._again) >= TOLD_MAX):
            return False
        if not times:
            effect = "it is published again: another worker may be for it"
            log.warning("task_of_another_worker", extra={"fields": {"cause": reason, "task": task.id, "effect": effect}})
        queues = self._queues
        queue = queues.lists if isinstance(task, ListTask) else queues.huge if has_huge(task.items) else queues.copies
        queue.publish([body])
        self._again[task.id] = times + 1
        return True

    def _tell_strange(self, lease: Leased, job: str) -> None:
        """Once for each letter: it comes again and again, until whoever waits for it leads, or the queue deletes it."""
        digest = hashlib.sha256(lease.body).digest()
        if digest in self._strange:
            return
        if len(self._strange) < TOLD_MAX:
            self._strange.add(digest)
        effect = "it is left where it is: another ledger had this job, or one that was lost"
        log.warning("dead_letter_of_unknown_job", extra={"fields": {"job": job, "effect": effect}})

    def _post_board(self) -> None:
        states = self._ledger.board()
        since = time.monotonic() - self._posted_at
        if self._posted is not None and since < (BOARD_S if states == self._posted else BOARD_REST_S):
            return
        try:
            self._queues.board.post({job: JobState(state) for job, state in states.items()}, epoch=self._epoch())
        except (Superseded, LeaseLost) as error:
            log.warning("board_superseded", extra={"fields": {"cause": str(error), "effect": "the other daemon's board stands"}})
        self._posted, self._posted_at = states, time.monotonic()

    def _unpark(self) -> None:
        """Tasks of jobs that go on again are published again: then, and only then, they are parked no more."""
        parked = self._ledger.parked()
        queues = self._queues
        for kind, queue in (("list", queues.lists), ("copy", queues.copies), ("huge", queues.huge)):
            queue.publish([body for _, of, body in parked if of == kind])
        if parked:
            self._ledger.unpark([task for task, _, _ in parked])


def _report_in(body: bytes) -> Report | None:
    try:
        return decoded_report(body)
    except Refused:
        return None


def _verdict_of(task: CopyTask | ListTask, reason: str) -> Report:
    if isinstance(task, CopyTask):
        return undone(task, POISON, reason)
    why = f"its listing came to nothing: {reason}"
    return ListFailed(job=task.spec.job, shard=task.shard, code="POISON_TASK", why=why, **task.spec.mark)
