"""A worker of the pool: takes tasks from the queues, lists and copies, and reports. Any number of them may run; any may die."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cdn_worker.config import Reach
from cdn_worker.copier.checkpoints import Journal
from cdn_worker.copier.messages import Begin
from cdn_worker.copier.process_pool import Processes, weight_of
from cdn_worker.domain.budget import is_huge
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.outage import outages
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.engine import Engine
from cdn_worker.object_copy.commands import Resume, Task
from cdn_worker.ports import JobState, Queues
from cdn_worker.protocol.codec import decoded_task, encoded
from cdn_worker.protocol.messages import (
    OTHER_BUCKET,
    CopyReport,
    CopyTask,
    FromNewer,
    JobSpec,
    ListTask,
    Parked,
    Refused,
    Trouble,
    counts_of,
    failures_of,
    has_huge,
    ledgered,
)
from cdn_worker.worker.claim_limits import Appetite, Load, Wanted
from cdn_worker.worker.job_context import Desk
from cdn_worker.worker.list_task import Listing, Sizes
from cdn_worker.worker.queue_client import Claim, Kind, Parcel, Post
from cdn_worker.worker.shared_causes import Cause, cause_of

log = logging.getLogger(__name__)

DESKS_MAX = 500
IDLE_S = 30.0
DRAIN_S = 8.0
END_S = 11.0
LOOK_S = 1.0
BEGIN_S = 60.0
"""A task of which nothing has begun for so long is given back: another worker may have room for it."""
TELL_S = 10.0
TOLD_MAX = 100
PROBE_S = 15.0
REFUSED_S = 5.0
SHOWN_MAX = 5


@dataclass(slots=True, eq=False)
class Copying:
    """A copy task at work: so many of its keys have no verdict yet.

    withdrawn   something of it was given up, and will have no verdict here; asked: it was asked back
    """

    claim: Claim
    task: CopyTask
    desk: Desk
    left: int
    since: float
    tickets: set[int] = field(default_factory=set)
    verdicts: list[KeyVerdict] = field(default_factory=list)
    withdrawn: bool = False
    asked: bool = False


@dataclass(slots=True)
class Figures:
    """What a worker has done since it began, for whoever asks. trouble: why nothing goes on, empty when it does."""

    objects: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    listed: int = 0
    in_flight: int = 0
    restarts: int = 0
    concurrency: dict[str, int] = field(default_factory=dict)
    oldest_s: float = 0.0
    jobs: int = 0
    queue_away: str = ""
    trouble: str = ""
    draining: bool = False
    turned_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How a worker works. ledger: every object is reported.

    sources, sinks   the buckets that tasks may name; any, where none is given
    state            a file of how far large objects are, for this worker when it is started again; none: they begin anew
    """

    reach: Reach
    processes: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    ledger: bool = False
    sources: frozenset[str] = frozenset()
    sinks: frozenset[str] = frozenset()
    state: Path | None = None

    def check(self, spec: JobSpec) -> None:
        """Raises Refused for a task that this worker is not for."""
        for flag, bucket, allowed in (
            ("--allow-source", spec.source_bucket, self.sources),
            ("--allow-destination", spec.sink_bucket, self.sinks),
        ):
            if allowed and bucket not in allowed:
                shown = ", ".join(sorted(allowed)[:SHOWN_MAX]) + (" and others" if len(allowed) > SHOWN_MAX else "")
                raise Refused(f"bucket {bucket!r} {OTHER_BUCKET}: {flag} {shown}", spec.job)


class Worker:
    """`stopping` says when to drain; `figures` can be read from another thread."""

    def __init__(self, pool: Pool, queues: Queues, *, stopping: Callable[[], bool]) -> None:
        self._pool, self._stopping = pool, stopping
        self.figures = Figures()
        self._post, self._engine, self._processes = self._machinery(queues)
        self._desks: dict[str, Desk] = {}
        self._copying: dict[int, Copying] = {}
        self._tasks: dict[tuple[Kind, str], Copying] = {}
        self._huge: set[int] = set()
        self._listings: list[Listing] = []
        self._journal = None if pool.state is None else Journal(pool.state, f"the pool at {pool.reach.sink_endpoint}")
        self._appetite = Appetite(pool.processes, pool.sizes.keys, pool.sizes.bytes)
        self._cause: Cause | None = None
        self._to_tell: dict[str, JobSpec] = {}
        self._no_access = ("", 0.0)
        self._look_at = self._tell_at = self._probe_at = 0.0

    def _machinery(self, queues: Queues) -> tuple[Post, Engine, Processes]:
        """What runs beside this: threads, libcurl, processes. A simulation has others."""
        reach = self._pool.reach
        engine = Engine(reach.limits)
        begin = Begin(reach.limits, reach.buffer_bytes, reach.slots)
        return Post(queues, failed=self._queue_away), engine, Processes(engine, begin, self._pool.processes, said=self._say)

    def run(self) -> None:
        """Until told to stop; then what is at work may end, and the rest goes back. Raises LoopsDie, PostBroken."""
        self._post.start()
        try:
            while not self._stopping():
                self._turn()
                self._want()
            self._drain()
        finally:
            self._processes.close()
            self._post.close(END_S - DRAIN_S)
            self._engine.close()
            if self._journal is not None:
                self._journal.close(complete=False)

    # The loop

    def _turn(self) -> None:
        self._engine.turn(0.02)
        self._processes.tend()
        for claim in self._post.claimed():
            self._take(claim)
        # A list, not a filter over the loop: ending one may begin nothing, but it sends.
        self._listings = [one for one in self._listings if not self._listing_ended(one)]
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._post.check()
            self._look_after_desks(now)
            self._look_for_causes(now)
            self._give_back_unbegun(now)
        figures = self.figures
        figures.in_flight, figures.restarts = len(self._copying), self._processes.restarts
        figures.concurrency = self._processes.concurrency
        figures.oldest_s, figures.turned_at, figures.jobs = self._post.oldest_s, now, len(self._desks)

    def _want(self) -> None:
        """As much as can begin; nothing while nothing goes on here, but for one task now and then that shows whether it does."""
        wanted = Wanted()
        if not self._post.full and self._post.looked.is_set():
            processes = self._processes
            load = Load(
                keys=len(self._copying) - len(self._huge),
                weight=processes.weight,
                weight_max=processes.weight_max,
                huge_room=processes.room_for_huge,
                listings=len(self._listings),
            )
            wanted = self._appetite.wanted(load) if self._cause is None else self._probe(self._cause)
        self._post.want(lists=wanted.lists, copies=wanted.copies, huge=wanted.huge)

    def _probe(self, cause: Cause) -> Wanted:
        """Wanted until something is at work: a claim takes its time, and there may be tasks of one kind alone."""
        now = time.monotonic()
        if self._copying or self._listings:
            self._probe_at = now + PROBE_S
        if not cause.probes or now < self._probe_at:
            return Wanted()
        return Wanted(lists=1, copies=1, huge=1)

    def _drain(self) -> None:
        """No new claims; what is at work gets some seconds, and what has not begun goes back at once."""
        self.figures.draining = True
        self._post.claim_no_more()
        log.info("draining", extra={"fields": {"objects": len(self._copying), "listings": len(self._listings)}})
        self._processes.withdraw(frozenset(self._copying))
        until = time.monotonic() + DRAIN_S
        while (self._copying or self._listings) and time.monotonic() < until:
            self._engine.turn(0.02)
            self._processes.tend()
            claimed = self._post.claimed()
            if claimed:
                self._post.send(Parcel(given_back=claimed))
            self._listings = [one for one in self._listings if not self._listing_ended(one)]
        left = [one.claim for one in self._tasks.values()] + [one.claim for one in self._listings]
        self._post.send(Parcel(given_back=[*left, *self._post.claimed()]))
        log.info("drained", extra={"fields": {"given_back": len(left)}})

    # What meets everything here alike

    def _look_for_causes(self, now: float) -> None:
        contacts = [self._engine.contacts.known, *self._processes.contacts]
        why, until = self._no_access
        cause = cause_of(self._pool.reach.lacking() or (why if now < until else ""), outages(contacts, now))
        before, self._cause = self._cause, cause
        self.figures.trouble = "" if cause is None else cause.why
        if cause is None:
            if before is not None:
                log.info("trouble_over", extra={"fields": {"was": before.why}})
            self._to_tell.clear()
            return
        self._to_tell |= {one.spec.fingerprint: one.spec for one in self._desks.values() if one.tasks}
        if before is None:
            effect = "nothing is claimed but to try whether it is over; what has not begun goes back"
            log.error("trouble", extra={"fields": {"code": cause.code, "cause": cause.why, "effect": effect}})
            self._processes.withdraw(frozenset(self._copying))
            self._tell_at = now
        if now >= self._tell_at and self._to_tell:
            self._tell_at = now + TELL_S
            for spec in list(self._to_tell.values())[:TOLD_MAX]:
                self._tell(spec, cause.code, cause.why)

    def _tell(self, spec: JobSpec, code: str, why: str) -> None:
        self._post.send(Parcel(reports=[encoded(Trouble(job=spec.job, code=code, why=why[:4000], **spec.mark))]))

    def _spoiled(self, error: str) -> bool:
        """Whether something came to nothing by what meets everything here alike."""
        return self._cause is not None and error in self._cause.errors

    def _give_back_unbegun(self, now: float) -> None:
        """Ask for what lies here without having begun: other workers may have nothing to do."""
        unbegun = [one for one in self._tasks.values() if not (one.asked or one.verdicts) and now - one.since > BEGIN_S]
        for copying in unbegun:
            copying.asked = True
            self._processes.withdraw(frozenset(copying.tickets))

    # Tasks

    def _take(self, claim: Claim) -> None:
        """Begin a task; or park it, drop it, bury it."""
        try:
            task = decoded_task(claim.lease.body)
            self._pool.check(task.spec)
        except FromNewer as error:
            # A newer worker may take it when its lease ends; if there is none, it comes to be among the dead letters.
            log.error("message_from_newer_version", extra={"fields": {"cause": str(error), "job": error.job}})
            self._post.send(Parcel(let_go=[claim]))
            return
        except Refused as error:
            log.error("message_refused", extra={"fields": {"cause": str(error), "job": error.job}})
            self._post.send(Parcel(buried=[(claim, str(error))]))
            return
        kind = Kind.LIST if isinstance(task, ListTask) else Kind.HUGE if has_huge(task.items) else Kind.COPY
        state = self._post.board.get(task.spec.job)
        if state is JobState.OVER:
            self._post.send(Parcel(done=[claim]))
        elif state is JobState.PAUSED:
            body = claim.lease.body.decode()
            parked = Parked(job=task.spec.job, task=task.id, kind=kind.value, body=body, **task.spec.mark)
            self._post.send(Parcel(reports=[encoded(parked)], done=[claim]))
        elif kind is Kind.HUGE and claim.kind is Kind.COPY:
            # Of a daemon of an earlier release, or of a person: the others of its queue shall not wait for it.
            self._post.send(Parcel(huge=[claim.lease.body], done=[claim]))
        else:
            self._begin(claim, task)

    def _begin(self, claim: Claim, task: ListTask | CopyTask) -> None:
        try:
            if self._cause is not None and not self._cause.probes:
                raise BadInput(self._cause.why)
            desk = self._desk(task.spec)
        except BadInput as error:
            log.error("no_access", extra={"fields": {"cause": str(error), "job": task.spec.job}})
            self._to_tell[task.spec.fingerprint] = task.spec
            self._no_access = (str(error), time.monotonic() + REFUSED_S)
            self._look_at = 0.0  # at once: nothing more is to be claimed
            self._post.send(Parcel(given_back=[claim]))
            return
        desk.tasks += 1
        if isinstance(task, ListTask):
            listing = Listing(
                claim,
                task,
                desk,
                self._pool.sizes,
                send=self._post.send,
                full=lambda: self._post.full,
                spoiled=self._spoiled,
                ledger=self._pool.ledger,
            )
            self._listings.append(listing)
            listing.begin()
            return
        copying = self._tasks[claim.key] = Copying(claim, task, desk, len(task.items), time.monotonic())
        for item in task.items:
            resume = None if self._journal is None else self._journal.resume(desk.place(item.key), item.etag, item.size)
            asked = Task(item.key, item.size, item.etag, item.modified, item.generation, resume, look=claim.lease.again)
            ticket = self._processes.add(desk.lane, asked)
            self._copying[ticket] = copying
            copying.tickets.add(ticket)
            if is_huge(item.size):
                self._huge.add(ticket)
        if not has_huge(task.items):
            self._appetite.taken(sum(weight_of(item.size) for item in task.items))

    def _desk(self, spec: JobSpec) -> Desk:
        """By the whole spec: a task of the same job that says otherwise, whoever wrote it, is no reason to refuse the others."""
        desk = self._desks.get(spec.fingerprint)
        if desk is None:
            desk = self._desks[spec.fingerprint] = Desk(
                spec,
                self._pool.reach,
                self._engine,
                self._processes,
                verdicts=self._verdicts,
                noted=self._noted,
                withdrawn=self._withdrawn,
                said=self._say,
            )
        return desk

    def _verdicts(self, verdicts: list[tuple[int, KeyVerdict]]) -> None:
        figures = self.figures
        for ticket, verdict in verdicts:
            copying = self._settle(ticket)
            if self._spoiled(verdict.error):
                copying.withdrawn = True
            else:
                copying.verdicts.append(verdict)
                if self._journal is not None:
                    self._journal.ended(copying.desk.place(verdict.key))
                figures.objects[verdict.verdict.value] += 1
                figures.bytes[verdict.verdict.value] += verdict.size
                if verdict.error:
                    figures.errors[verdict.error] += 1
                hopeless = copying.desk.hope.look(verdict)
                if hopeless is not None:
                    self._tell(copying.task.spec, *hopeless)
            if not copying.left:
                self._close(copying)
        self._appetite.ended(len(verdicts))

    def _withdrawn(self, tickets: list[int]) -> None:
        for ticket in tickets:
            copying = self._settle(ticket)
            copying.withdrawn = True
            if not copying.left:
                self._close(copying)
        if self._cause is None and not self.figures.draining:
            self._appetite.given_back()

    def _settle(self, ticket: int) -> Copying:
        copying = self._copying.pop(ticket)
        copying.left -= 1
        copying.tickets.discard(ticket)
        self._huge.discard(ticket)
        return copying

    def _noted(self, place: str, task: Task, resume: Resume) -> None:
        if self._journal is None:
            return
        try:
            self._journal.note(task._replace(key=place), resume)
        except OSError as error:
            self._say(f"how far large objects are cannot be written down: {error.strerror}")

    def _close(self, copying: Copying) -> None:
        """Nothing of a task is at work any more: report it; or give it back, where not all of it was tried here."""
        del self._tasks[copying.claim.key]
        self._left(copying.desk)
        if copying.withdrawn:
            self._post.send(Parcel(given_back=[copying.claim]))
            return
        task, verdicts = copying.task, copying.verdicts
        report = CopyReport(
            job=task.spec.job,
            shard=task.shard,
            run=task.run,
            sequence=task.sequence,
            counts=counts_of(verdicts),
            failures=failures_of(verdicts),
            objects=ledgered(verdicts) if self._pool.ledger else (),
            **task.spec.mark,
        )
        self._post.send(Parcel(reports=[encoded(report)], done=[copying.claim]))
        self.figures.tasks["copy"] += 1

    def _listing_ended(self, listing: Listing) -> bool:
        if not listing.ended():
            return False
        self._left(listing.desk)
        self.figures.tasks["list"] += 1
        self.figures.listed += listing.listed
        return True

    def _left(self, desk: Desk) -> None:
        desk.tasks -= 1
        desk.used_at = time.monotonic()

    def _look_after_desks(self, now: float) -> None:
        """Renew what ends soon, and clear the desks of jobs that nothing has come of for a while."""
        for desk in self._desks.values():
            desk.stay_signed()
        crowded = len(self._desks) > DESKS_MAX
        idle = [job for job, desk in self._desks.items() if not desk.tasks and (crowded or now - desk.used_at > IDLE_S)]
        for job in idle:
            self._desks.pop(job).close()

    # Telling

    def _say(self, text: str) -> None:
        log.warning("worker", extra={"fields": {"cause": text}})

    def _queue_away(self, why: str) -> None:
        self.figures.queue_away = why
        if why:
            log.error("queue_away", extra={"fields": {"cause": why, "effect": "nothing is claimed; what is at work goes on"}})
        else:
            log.info("queue_back")
