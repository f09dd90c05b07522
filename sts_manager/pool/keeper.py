"""Keeps the pool going while this daemon leads: folds reports, deals with dead letters, posts the board, minds the workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

from cdn_worker.codec import decoded_report, decoded_task
from cdn_worker.contract import CopyTask, ListFailed, ListTask, Refused, Report, undone
from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable
from sts_manager.crew import Crew
from sts_manager.domain.model import FailedObject
from sts_manager.domain.naming import Prefix
from sts_manager.keeping import Keeping
from sts_manager.pool.ledger import PoolLedger
from sts_manager.ports import Clock, JobStore

log = logging.getLogger(__name__)

REPORTS_AT_ONCE = 500
WAIT_S = 0.2
LAST_S = 1.0
"""With what the crew takes to drain, well within the seconds that the daemon has after a signal."""
BOARD_S = 30.0
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
    """Threads from `__enter__` to `__exit__`. Only the daemon that leads has them: reports are for its ledger."""

    def __init__(
        self,
        queues: Queues,
        ledger: PoolLedger,
        clock: Clock,
        crew: Crew | None = None,
        told: Told | None = None,
    ) -> None:
        self._queues, self._ledger, self._clock, self._crew, self._told = queues, ledger, clock, crew, told
        self._put_at = 0.0
        turns = (self.steer, self.fold_reports, self.mourn, *((self.tell,) if self._told is not None else ()))
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
        self._post_board()
        self._unpark()
        return False

    def fold_reports(self) -> bool:
        """Take in what is reported. Whether there may be more at once. Raises QueueUnavailable, StoreUnavailable."""
        reports = self._queues.reports.lease(REPORTS_AT_ONCE)
        if reports:
            self._take_in(reports)
        return bool(reports)

    def mourn(self) -> bool:
        """See to dead letters. Whether there were any. Raises QueueUnavailable, StoreUnavailable."""
        dead = self._queues.dead.lease(REPORTS_AT_ONCE)
        if dead:
            self._mourn(dead)
        return bool(dead)

    def tell(self) -> bool:
        """Let the job store know which objects failed, and (where it is wanted) all others. Raises StoreUnavailable."""
        assert self._told is not None
        untold = self._ledger.untold()
        for job, prefix in untold:
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
                for one in islice(self._ledger.failures(job), FAILURES_MAX)
            ]
            self._told.store().put_failures(Prefix(prefix), failures, self._clock.now())
            self._ledger.told(job, failures=bool(failures))
        return self._tell_objects(self._told) or bool(untold)

    def _tell_the_rest(self) -> bool:
        while self.tell():
            pass
        return False

    def _tell_objects(self, told: Told) -> bool:
        if time.monotonic() < self._put_at:
            return False
        objects = self._ledger.known(told.objects_at_once)
        if objects:
            told.store().put_objects(objects, self._clock.now())
            self._ledger.forget(objects)
            self._put_at = time.monotonic() + told.objects_every_s
        return bool(objects) and not told.objects_every_s

    def _take_in(self, leases: list[Leased]) -> None:
        found: list[Report] = []
        good: list[Leased] = []
        for one in leases:
            try:
                found.append(decoded_report(one.body))
                good.append(one)
            except Refused as error:
                log.error("report_refused", extra={"fields": {"cause": str(error), "job": error.job}})
                self._queues.reports.bury(one, str(error))
        unknown = self._ledger.fold(found, self._clock.now())
        # Another daemon's ledger may wait for what this one does not know: it comes again when its lease ends.
        self._queues.reports.ack([lease for lease, report in zip(good, found, strict=True) if report.job not in unknown])

    def _mourn(self, leases: list[Leased]) -> None:
        """Dead letters: the keys of a task get their verdict; what nobody can read is kept, and told."""
        now = self._clock.now()
        verdicts: list[Report] = []
        late: list[Report] = []
        for one in leases:
            reason = one.reason or "it was delivered too often"
            try:
                task = decoded_task(one.body)
            except Refused as error:
                report = _report_in(one.body)
                if report is not None:
                    late.append(report)  # it is no loss while it can be read
                    continue
                why = f"{reason}; {error}" if str(error) not in reason else reason
                log.error("dead_letter", extra={"fields": {"cause": why, "job": error.job, "bytes": len(one.body)}})
                if error.job:
                    told = f"a message of it cannot be read: {why}"
                    self._ledger.end(error.job, "MESSAGE_REFUSED", told, now)
                self._ledger.bury(error.job, why, one.body, now)
                continue
            log.error("dead_task", extra={"fields": {"cause": reason, "job": task.spec.job, "task": task.id}})
            self._ledger.bury(task.spec.job, reason, one.body, now)
            verdicts.append(_verdict_of(task, reason))
        unknown = self._ledger.fold([*verdicts, *late], now)
        strange = [report.job for report in late if report.job in unknown]
        if strange:
            effect = "nobody here waits for them: another ledger had these jobs, or it was lost"
            log.warning(
                "reports_of_unknown_jobs", extra={"fields": {"reports": len(strange), "job": strange[0], "effect": effect}}
            )
        self._queues.dead.ack(leases)

    def _post_board(self) -> None:
        states = self._ledger.board()
        now = time.monotonic()
        if states == self._posted and now - self._posted_at < BOARD_S:
            return
        self._queues.board.post({job: JobState(state) for job, state in states.items()})
        self._posted, self._posted_at = states, now

    def _unpark(self) -> None:
        """Tasks of jobs that go on again are published again: then, and only then, they are parked no more."""
        parked = self._ledger.parked()
        for kind, queue in (("list", self._queues.lists), ("copy", self._queues.copies)):
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
    return ListFailed(job=task.spec.job, shard=task.shard, code="POISON_TASK", why=f"its listing came to nothing: {reason}")
