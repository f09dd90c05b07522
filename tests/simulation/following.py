"""What happens to followed prefixes: commands at any time, days that end, jobs that people take away; and what must hold of them.

Half of the worlds follow. Some of their prefixes were copied in bulk before, their objects change while the storm lasts, and a
daemon may be one that was not told the event queue. At the end the following is stopped, all is run again, and compared.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.cloud import storage_transfer_v1 as sts

from sts_manager import admin
from sts_manager.domain.errors import BadInput, Permanent, Retryable
from sts_manager.domain.following import FOLLOWED_FAILURES, QUEUE_MISSING
from sts_manager.domain.model import LIVE, JobStatus, PrefixJob, Route
from sts_manager.domain.names import OperationName, Prefix, is_ours, repaired_job
from sts_manager.routes.sts.repairs import Compared
from tests.simulation.buckets import SOURCE
from tests.simulation.moves import Moves
from tests.simulation.timeline import Process
from tools.emulators.sts.copier import ACTIVE, Status
from tools.emulators.sts.service import Operation

if TYPE_CHECKING:
    from tests.simulation.world import World

QUEUE = "arn:aws:sqs:eu-west-1:123456789012:changes"
THEIRS = "transferJobs/somebody-elses"
SHARE = 0.5
HOUR = 3600.0
DAYS_S = (1200.0, 1800.0, HOUR, 2 * HOUR)
DAY_S, DAY_SHARE = 86_400.0, 0.04
"""How long an operation takes events: about an hour or a day by the service's pages. A shorter one ends oftener in a storm."""
QUIET_S = 1.5 * HOUR
"""Beside a day and a gap: for the repairs of what failed, which wait for minutes each."""
FROZEN_S_MIN, FROZEN_S_MAX = 60.0, 1200.0
"""A process that was frozen acts on what it saw before, for about so long."""
TWELVE_LOOKS_S = 12 * 15.0
_Job = sts.TransferJob.Status
SUMS = ("objects_found", "bytes_found", "objects_copied", "bytes_copied", "objects_skipped", "bytes_skipped")


class Following:
    """Of one world. `follows`: whether it has followed prefixes; `day_s`, `gap_s`: of its operations.

    late    the storm is over, but objects change, and fail, all the same
    quiet   what there was to be looked at in the end
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.draw = random.Random(f"follow {world.seed}")
        self.follows = self.draw.random() < SHARE
        self.day_s = DAY_S if self.draw.random() < DAY_SHARE else self.draw.choice(DAYS_S)
        self.gap_s = 0.0
        self.late = False
        self.without_queue: set[str] = set()
        self.comparisons: dict[tuple[str, str], tuple[float, Compared | None]] = {}
        self.quiet: Counter[str] = Counter()
        self._read, self._stopping = 0, False
        self._rows: dict[Prefix, PrefixJob] = {}
        self._active_at: dict[str, float] = {}
        self._gaps: dict[str, tuple[float, float]] = {}
        self._known_operations: set[str] = set()

    @property
    def fails(self) -> float:
        """The share of objects and operations that fail at the service."""
        return 0.3 if self.world.chance.storming or self.late else 0.0

    @property
    def moves(self) -> Moves:
        assert self.world.transfers.moves is not None
        return self.world.transfers.moves

    def load(self, prefixes: list[Prefix]) -> None:
        """Objects, of which those of some prefixes are at the sink already."""
        if not self.follows:
            return
        world, draw = self.world, self.draw
        moves = world.transfers.moves = Moves(world.transfers)
        settings: dict[str, Any] = {"sqs.queues": {QUEUE: SOURCE}, "sts.follow_operation_seconds": self.day_s}
        settings["sts.failed_objects_end"] = draw.choice(["FAILED", "SUCCESS"])
        world.transfers.ledger.change(settings)
        self._draw_gap()
        for prefix in prefixes:
            for index in range(draw.randint(1, 8)):
                moves.source[f"{prefix}{index:02}"] = 1
        for prefix in prefixes[: draw.randint(0, len(prefixes))]:
            moves.sink |= dict.fromkeys(moves.under([prefix]), 1)
            name = OperationName(f"transferOperations/earlier-{prefix.strip('/')}")
            row = replace(world.store.rows[prefix], status=JobStatus.DONE, route=Route.STS_S3, attempt=1, operation_name=name)
            world.store.rows[prefix] = row

    def _draw_gap(self) -> None:
        """From the end of an operation's day to the next one's begin: none, or minutes."""
        self.gap_s = self.draw.choice([0.0, 0.0, 60.0, 600.0, 2400.0])
        self.world.transfers.ledger.change({"sts.follow_gap_seconds": self.gap_s})

    # A daemon's part

    def queue_of(self, process: Process) -> str:
        """The event queue that a daemon is told, if it is."""
        if not self.follows:
            return ""
        if self.draw.random() < 0.25:
            self.world.chance.count("daemon without the queue", process.name)
            self.without_queue.add(process.name)
            return ""
        self.without_queue.discard(process.name)
        return QUEUE

    # What happens

    def begin(self) -> None:
        if self.follows:
            self.world._every(20.0, self._step)
            self.world._every(150.0, self._happen)
            self.world._every(90.0, self._change)

    def _change(self) -> None:
        if self.world.chance.storming or self.late:
            prefixes = sorted(prefix for prefix in self.world.store.rows if prefix.startswith("sts-"))
            self.moves.change(f"{self.draw.choice(prefixes)}{self.draw.randrange(12):02}")

    def _step(self) -> None:
        """The service's own doing."""
        transfers, service, chance = self.world.transfers, self.world.transfers.service, self.world.chance
        for job in list(service.jobs.values()):
            if "event_stream" not in job or job.status == _Job.DELETED:
                continue
            transfers.begin_next(job)
            active = [one for one in service._operations_of(job.name) if one.work.status in ACTIVE]
            if active:
                now = self.world.timeline.now
                if now - (before := self._active_at.get(job.name, now)) > FROZEN_S_MIN:
                    self._gaps[job.name] = (now, now - before)
                self._active_at[job.name] = now
            if len(active) > 1:
                chance.count("two operations at once", job.name)
            new = set(service.by_job.get(job.name, ())) - self._known_operations
            if new:
                transfers.ran_at[job.name] = self.world.timeline.now
                if len(service.by_job[job.name]) > 1:
                    chance.count("followed operation began", max(new))
                self._known_operations |= new
                self._draw_gap()

    def _happen(self) -> None:
        if not self.world.chance.storming:
            return
        draw, service, chance = self.draw, self.world.transfers.service, self.world.chance
        listening = self.listening()
        match draw.randrange(16):
            case 0 | 1 | 2 | 3 | 4:
                self.follow()
            case 5:
                chance.count("follow stopped")
                self.stop()
            case 6 if listening and draw.random() < 0.5:
                chance.count("followed job deleted", listening[0])
                self.world.transfers.delete_job(listening[0])
            case 7 if listening and draw.random() < 0.5:
                chance.count("followed job disabled", listening[0])
                service.jobs[listening[0]].status = _Job.DISABLED  # type: ignore[assignment]
            case 8:
                self._listen_too()
            case 9 | 10 | 14 | 15:
                self._forget()
            case 11 | 12:
                disabled = [name for name, job in service.jobs.items() if job.status == _Job.DISABLED]
                for name in disabled[:1]:
                    service.jobs[name].status = _Job.ENABLED  # type: ignore[assignment]
            case 13:
                # What waits to be copied once more, or cannot be followed any more, a person has tried again.
                chance.count("retried")
                with suppress(BadInput):
                    list(admin.retry_errors(self.world.store, self.world._now(), code=None))

    def _listen_too(self) -> None:
        """Somebody else's job comes, or goes: none comes while one of ours listens, or is about to."""
        service = self.world.transfers.service
        if THEIRS in service.jobs:
            service._delete(THEIRS)
            del service.jobs[THEIRS]
            for name in service.by_job.pop(THEIRS, ()):
                del service.operations[name]
            return
        if self.listening() or self._followed():
            return
        self.world.chance.count("somebody else listens")
        spec = sts.TransferSpec(
            aws_s3_data_source=sts.AwsS3Data(bucket_name=SOURCE, role_arn="arn:aws:iam::123456789012:role/stage-reader"),
            gcs_data_sink=sts.GcsData(bucket_name="their-sink"),
            object_conditions=sts.ObjectConditions(include_prefixes=["nothing-of-ours/"]),
        )
        stream = sts.EventStream(name=QUEUE)
        job = sts.TransferJob(
            name=THEIRS, project_id=service.project, status=_Job.ENABLED, transfer_spec=spec, event_stream=stream
        )
        service.create(job)

    def _forget(self) -> None:
        """The service knows an operation that is over no more, of a job that goes on."""
        service = self.world.transfers.service
        over = [
            one
            for name in self.listening()
            for one in service._operations_of(name)
            if one.work.status not in ACTIVE and not self._failing(one)
        ]
        if over:
            one = self.draw.choice(over)
            self.world.chance.count("past operation forgotten", one.name)
            service.by_job[one.job].remove(one.name)
            del service.operations[one.name]
            if service.jobs[one.job].latest_operation_name == one.name:
                service.jobs[one.job].latest_operation_name = ""

    def _failing(self, operation: Operation) -> bool:
        """What failed in it would be forgotten with it: the service keeps what is so young."""
        return bool(operation.work.counts.failed[0]) or operation.work.status == Status.FAILED

    # Commands

    def listening(self) -> list[str]:
        """The jobs of ours that listen."""
        jobs = self.world.transfers.service.jobs
        return sorted(
            name for name, job in jobs.items() if is_ours(name) and "event_stream" in job and job.status != _Job.DELETED
        )

    def _followed(self) -> list[PrefixJob]:
        return [job for job in self.world.store.live() if job.route is Route.STS_FOLLOW]

    def follow(self) -> None:
        """Refused where some follow, or a job listens; else its intents are written. The queue is not always told."""
        world, draw, service = self.world, self.draw, self.world.transfers.service
        done = [job.prefix for job in world.store.with_status(JobStatus.DONE) if job.prefix.startswith("sts-")]
        if not done:
            return
        wanted = done if draw.random() < 0.5 else draw.sample(done, draw.randint(1, len(done)))
        queue = QUEUE if draw.random() < 0.7 else ""
        theirs = THEIRS in service.jobs and service.jobs[THEIRS].status != _Job.DELETED and queue == QUEUE
        taken = bool(self._followed() or self.listening() or theirs)
        refused = ""
        with suppress(Retryable, Permanent), world._project(faults=world.chance.storming) as project:
            try:
                began = admin.follow(world.store, project, wanted, world._now(), queue=queue)
            except BadInput as error:
                refused = str(error)
            else:
                assert not taken, f"a second `follow` was taken: {began}"
                world.chance.count("follow began", f"{len(began)} prefixes")
        if refused:
            assert taken, f"`follow` was refused, and nobody listens: {refused}"
            world.chance.count("second follow refused", refused[:60])

    def stop(self, *, faults: bool = True) -> None:
        self.check()
        self._stopping = True
        try:
            with suppress(Retryable, Permanent, BadInput), self.world._project(faults=faults) as project:
                admin.stop_following(self.world.store, project, self.world._now())
        finally:
            self.check()
            self._stopping = False

    # What must hold

    def created(self, job: sts.TransferJob, caller: str) -> None:
        """A transfer job has come to be."""
        if "event_stream" not in job:
            return
        assert caller not in self.without_queue, f"{caller} knows no event queue, and made {job.name}"
        jobs = self.world.transfers.service.jobs.values()
        listening = [one.name for one in jobs if one.event_stream.name == QUEUE and one.status != _Job.DELETED]
        assert listening == [job.name], f"two jobs listen to one queue: {listening}"

    def check(self) -> None:
        """Each change of a followed row since the last look."""
        if not self.follows:
            return
        events = self.world.store.events
        for event in events[self._read :]:
            after = event.job
            before = self._rows.get(after.prefix)
            self._rows[after.prefix] = after
            if before is not None and before.route is Route.STS_FOLLOW and before.status in LIVE:
                self._check_change(before, after)
        self._read = len(events)

    def _check_change(self, before: PrefixJob, after: PrefixJob) -> None:
        told = f"{after.prefix!r} is followed, and became {after.status.value}: {after.error_code}: {after.error_message}"
        if after.status in LIVE:
            less = [name for name in SUMS if getattr(after.counters, name) < getattr(before.counters, name)]
            assert not less or after.job_name != before.job_name, f"{after.prefix!r}: {less} went back: {after.counters}"
            return
        if self._stopping:
            return
        assert after.status is JobStatus.ERROR, told
        assert self._is_over(str(after.job_name), after.error_code), told

    def _is_over(self, name: str, code: str) -> bool:
        """Whether nothing listens any more for a row that ended so."""
        job = self.world.transfers.service.jobs.get(name)
        if job is None or job.status in (_Job.DELETED, _Job.DISABLED):
            return True
        if "event_stream" not in job:
            return False
        # Time may have been told wrong by an hour and more; twelve looks take their time all the same.
        now = self.world.timeline.now
        idle = now - self._active_at.get(name, 0.0)
        ended, gap = self._gaps.get(name, (0.0, 0.0))
        if now - ended < FROZEN_S_MAX:
            idle = max(idle, gap)  # the next one began while whoever had looked was frozen
        return idle > (TWELVE_LOOKS_S if self.world.clocks_set else HOUR - 300.0)

    # The end

    def end(self) -> None:
        """The storm is over, and nothing changes any more. When all must be known the following is stopped."""
        if not self.follows:
            return
        world = self.world
        if THEIRS in world.transfers.service.jobs:
            self._listen_too()
        if not self._followed():
            self.stop(faults=False)  # a job that was left behind
            self.follow()
        self.late = True
        world._until(world.timeline.now + min(self.day_s, HOUR))
        self.late = False
        world._until(world.timeline.now + self.day_s + 2400.0 + QUIET_S)
        self.check()
        self._check_quiet()
        if self.listening() or self._followed():
            self.follow()
        self.stop(faults=False)
        assert not self._followed(), f"`follow --stop`, and {self._followed()} follow"
        assert not self.listening(), f"`follow --stop`, and {self.listening()} listen"
        repairs = [one.name for one in world.transfers.active() if repaired_job(one.job) is not None]
        assert not repairs, f"`follow --stop`, and {repairs} go on"

    def _check_quiet(self) -> None:
        """What failed is at the sink by now, or is named."""
        for row in self._followed():
            name = str(row.job_name)
            if row.error_code == QUEUE_MISSING or name not in self.listening():
                continue
            operations = self.world.transfers.service._operations_of(name)
            paused = [one.name for one in operations if one.work.status == Status.PAUSED]
            assert not paused, f"{paused} of {name} stay paused"
            self.quiet["looked at"] += 1
            self.quiet["failed"] += bool(self.moves.failed[name])
            self.quiet["named"] += row.error_code == FOLLOWED_FAILURES
            missing = [key for key in self.moves.missing(self.moves.failed[name]) if key.startswith(row.prefix)]
            assert not missing or row.error_code == FOLLOWED_FAILURES, f"{missing} failed, and nobody names them: {row}"

    def compare(self) -> None:
        """Once all has ended and was run again, what is done is done."""
        if not self.follows:
            return
        for row in self.world.store.rows.values():
            if row.status is JobStatus.DONE and row.prefix.startswith("sts-"):
                missing = self.moves.missing(self.moves.under([row.prefix]))
                assert not missing, f"{row.prefix!r} is called done, and {missing} are not there: {row}"


FAULTS = (
    "daemon without the queue",
    "follow began",
    "follow stopped",
    "followed day ended",
    "followed job deleted",
    "followed job disabled",
    "followed object failed",
    "followed operation began",
    "followed operation failed",
    "past operation forgotten",
    "second follow refused",
    "somebody else listens",
    "two operations at once",
)
