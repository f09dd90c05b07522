"""A worker of the pool: takes tasks from the queues, lists and copies, and reports. Any number of them may run; any may die."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cdn_worker.codec import decoded_task, encoded
from cdn_worker.contract import (
    CopyReport,
    CopyTask,
    FromNewer,
    JobSpec,
    ListTask,
    Parked,
    Refused,
    counts_of,
    failures_of,
    ledgered,
)
from cdn_worker.copying.steps import Resume, Task
from cdn_worker.desk import Desk
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.engine.loop import Engine
from cdn_worker.journal import Journal
from cdn_worker.listing import Listing, Sizes
from cdn_worker.messages import Begin
from cdn_worker.ports import JobState, Queues
from cdn_worker.post import Claim, Parcel, Post
from cdn_worker.processes import Processes
from cdn_worker.reach import Reach

log = logging.getLogger(__name__)

KEYS_A_PROCESS = 1200
LISTINGS_MAX = 4
DESKS_MAX = 500
IDLE_S = 30.0
DRAIN_S = 8.0
END_S = 11.0
SIGN_S = 1.0
REFUSED_S = 5.0


@dataclass(slots=True)
class Copying:
    """A copy task at work: so many of its keys have no verdict yet."""

    claim: Claim
    task: CopyTask
    desk: Desk
    left: int
    verdicts: list[KeyVerdict] = field(default_factory=list)


@dataclass(slots=True)
class Figures:
    """What a worker has done since it began, for whoever asks."""

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
                raise Refused(f"bucket {bucket!r} is none of this worker's: {flag} {', '.join(sorted(allowed))}", spec.job)


class Worker:
    """`stopping` says when to drain; `figures` can be read from another thread."""

    def __init__(self, pool: Pool, queues: Queues, *, stopping: Callable[[], bool]) -> None:
        self._pool, self._stopping = pool, stopping
        self.figures = Figures()
        self._post, self._engine, self._processes = self._machinery(queues)
        self._desks: dict[str, Desk] = {}
        self._specs: dict[str, JobSpec] = {}
        self._copying: dict[int, Copying] = {}
        self._listings: list[Listing] = []
        self._journal = None if pool.state is None else Journal(pool.state, f"the pool at {pool.reach.sink_endpoint}")
        self._sign_at = 0.0
        self._refuse_until = 0.0

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
        if now >= self._sign_at:
            self._sign_at = now + SIGN_S
            self._post.check()
            self._look_after_desks(now)
        figures = self.figures
        figures.in_flight, figures.restarts = len(self._copying), self._processes.restarts
        figures.concurrency = self._processes.concurrency
        figures.oldest_s, figures.turned_at, figures.jobs = self._post.oldest_s, now, len(self._desks)

    def _want(self) -> None:
        """As many keys as keep the processes busy; a listing only while there is room for what it finds."""
        most = KEYS_A_PROCESS * self._pool.processes
        room = max(0, most - len(self._copying)) // self._pool.sizes.keys
        if self._post.full or not self._post.looked.is_set() or time.monotonic() < self._refuse_until:
            room = 0
        lists = LISTINGS_MAX - len(self._listings) if room else 0
        self._post.want(copies=room, lists=max(0, lists))

    def _drain(self) -> None:
        """No new claims; what is at work gets some seconds."""
        self.figures.draining = True
        self._post.claim_no_more()
        log.info("draining", extra={"fields": {"objects": len(self._copying), "listings": len(self._listings)}})
        until = time.monotonic() + DRAIN_S
        while (self._copying or self._listings) and time.monotonic() < until:
            self._engine.turn(0.02)
            self._processes.tend()
            claimed = self._post.claimed()
            if claimed:
                self._post.send(Parcel(given_back=claimed))
            self._listings = [one for one in self._listings if not self._listing_ended(one)]
        left = {id(one.claim): one.claim for one in self._copying.values()}
        left |= {id(one.claim): one.claim for one in self._listings}
        self._post.send(Parcel(given_back=[*left.values(), *self._post.claimed()]))
        log.info("drained", extra={"fields": {"given_back": len(left)}})

    # Tasks

    def _take(self, claim: Claim) -> None:
        """Begin a task; or park it, drop it, bury it."""
        try:
            task = decoded_task(claim.lease.body)
            known = self._specs.get(task.spec.job, task.spec)
            if known != task.spec:
                raise Refused("its spec is not that of the other tasks of its job", task.spec.job)
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
        state = self._post.board.get(task.spec.job)
        if state is JobState.OVER:
            self._post.send(Parcel(done=[claim]))
        elif state is JobState.PAUSED:
            kind = "list" if isinstance(task, ListTask) else "copy"
            parked = Parked(job=task.spec.job, task=task.id, kind=kind, body=claim.lease.body.decode())
            self._post.send(Parcel(reports=[encoded(parked)], done=[claim]))
        else:
            self._begin(claim, task)

    def _begin(self, claim: Claim, task: ListTask | CopyTask) -> None:
        try:
            desk = self._desk(task.spec)
        except BadInput as error:
            log.error("no_access", extra={"fields": {"cause": str(error), "job": task.spec.job}})
            self._refuse_until = time.monotonic() + REFUSED_S
            # Not given back at once: a worker without keys would bring every message to the dead letters in a minute.
            self._post.send(Parcel(let_go=[claim]))
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
                ledger=self._pool.ledger,
            )
            self._listings.append(listing)
            listing.begin()
            return
        copying = Copying(claim, task, desk, len(task.items))
        again = claim.lease.attempt > 1
        for item in task.items:
            resume = None if self._journal is None else self._journal.resume(desk.place(item.key), item.etag, item.size)
            asked = Task(item.key, item.size, item.etag, item.modified, item.generation, resume, look=again)
            self._copying[self._processes.add(desk.lane, asked)] = copying

    def _desk(self, spec: JobSpec) -> Desk:
        desk = self._desks.get(spec.job)
        if desk is None:
            desk = Desk(
                spec, self._pool.reach, self._engine, self._processes, verdicts=self._verdicts, noted=self._noted, said=self._say
            )
            self._desks[spec.job] = desk
            self._specs[spec.job] = spec
        return desk

    def _verdicts(self, verdicts: list[tuple[int, KeyVerdict]]) -> None:
        figures = self.figures
        for ticket, verdict in verdicts:
            copying = self._copying.pop(ticket)
            copying.verdicts.append(verdict)
            if self._journal is not None:
                self._journal.ended(copying.desk.place(verdict.key))
            copying.left -= 1
            figures.objects[verdict.verdict.value] += 1
            figures.bytes[verdict.verdict.value] += verdict.size
            if verdict.error:
                figures.errors[verdict.error] += 1
            if not copying.left:
                self._copied(copying)

    def _noted(self, place: str, task: Task, resume: Resume) -> None:
        if self._journal is None:
            return
        try:
            self._journal.note(task._replace(key=place), resume)
        except OSError as error:
            self._say(f"how far large objects are cannot be written down: {error.strerror}")

    def _copied(self, copying: Copying) -> None:
        task, verdicts = copying.task, copying.verdicts
        report = CopyReport(
            job=task.spec.job,
            shard=task.shard,
            run=task.run,
            sequence=task.sequence,
            counts=counts_of(verdicts),
            failures=failures_of(verdicts),
            objects=ledgered(verdicts) if self._pool.ledger else (),
        )
        self._post.send(Parcel(reports=[encoded(report)], done=[copying.claim]))
        self._left(copying.desk)
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
            del self._specs[job]

    # Telling

    def _say(self, text: str) -> None:
        log.warning("worker", extra={"fields": {"cause": text}})

    def _queue_away(self, why: str) -> None:
        self.figures.queue_away = why
        if why:
            log.error("queue_away", extra={"fields": {"cause": why, "effect": "nothing is claimed; what is at work goes on"}})
        else:
            log.info("queue_back")
