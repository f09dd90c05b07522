"""One migration, interrupted at one place: a commit or a call to the outside; before it, after it, or as its answer is lost.

A daemon and a worker take two prefixes over the transfer service and one through the pool. Whatever the one interruption, the
end is that of a run that nothing interrupted, times aside.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sts_manager.domain.model import ENDED, Chosen, Route
from sts_manager.domain.names import Prefix, checked_prefixes
from sts_manager.ports import JobStore
from tests.simulation.buckets import SINK, Buckets
from tests.simulation.chance import AFTER, BEFORE, LOST, Chance
from tests.simulation.daemons import DaemonProcess
from tests.simulation.timeline import HostClock, Process, Timeline
from tests.simulation.transfers import Transfers
from tests.simulation.workers import POOL, SimQueues, SimWorker
from tests.simulation.world import in_virtual_time
from tools.emulators.sts.copier import Status

MODES = (BEFORE, AFTER, LOST)
NOWHERE = (-1, "")
OBJECTS = 4
HOURS_MAX = 6


@dataclass(frozen=True)
class Outcome:
    """How it ended: what each row says, and which statuses it went through; the jobs that were made; the sink's objects."""

    rows: tuple[tuple[str, ...], ...]
    statuses: tuple[tuple[str, ...], ...]
    jobs: tuple[str, ...]
    sink: frozenset[tuple[str, bytes]]


class Sweep:
    """One run over a store that is empty but prepared. `at`: which call meets something, and what."""

    def __init__(self, store: JobStore, folder: Path, at: tuple[int, str] = NOWHERE, seed: int = 1) -> None:
        self.store: JobStore = store
        self.folder, self.seed = folder, seed
        self.timeline = Timeline()
        self.chance = Chance(random.Random(seed), set, at=at)
        self.transfers = Transfers(self.timeline, self.chance, lambda _job, _caller: None)
        self.buckets = Buckets(self.chance)
        self.queues = SimQueues(self.timeline, self.chance)
        self.prefixes_per_job = 1
        self.following = None
        self.lists = None
        self.takeovers = 0
        self._daemon: DaemonProcess | None = None
        self._worker: Process | None = None
        self._daemons: list[DaemonProcess] = []
        self._clock = HostClock(self.timeline)
        self._draw = random.Random(seed)
        prefixes = [Prefix("cdn/"), Prefix("sts-a/"), Prefix("sts-b/")]
        for index in range(OBJECTS):
            self.buckets.objects[f"cdn/{index}"] = self._draw.randbytes(index * 10)
        chosen = {prefixes[0]: Chosen(route=Route.CDN)}
        store.load(checked_prefixes(prefixes), self._clock.now(), lambda _: None, chosen)
        self._prefixes = prefixes

    @property
    def calls(self) -> list[str]:
        """What was called, in order."""
        return self.chance.calls

    @property
    def jobs(self) -> JobStore:
        return self.store

    def run(self) -> Outcome:
        """Raises AssertionError when it does not end."""
        with in_virtual_time(self.timeline, self.seed):
            try:
                self._step()
                self.timeline.run_until(HOURS_MAX * 3600, self._ended)
                assert self._ended(), [self.store.job(prefix) for prefix in self._prefixes]
                # Until all is acknowledged and told.
                self.timeline.run_until(self.timeline.now + 600)
            finally:
                for one in self._daemons:
                    one.process.kill()
                    one.close()
                if self._worker is not None:
                    self._worker.kill()
        return self._outcome()

    def _ended(self) -> bool:
        return all(job is not None and job.status in ENDED for job in map(self.store.job, self._prefixes))

    def _step(self) -> None:
        for operation in self.transfers.active():
            self._progress(operation.name)
        if self._daemon is None or not self._daemon.process.alive:
            process = Process(self.timeline, "daemon", self._clock)
            self._daemon = DaemonProcess(self, process, self.folder / "pool.db")
            self._daemons.append(self._daemon)
        if self._worker is None or not self._worker.alive:
            process = self._worker = Process(self.timeline, "worker", self._clock)
            draw = random.Random(self.seed)
            worker = SimWorker(POOL, self.queues.of(process), process, self.buckets, draw, lambda: False)
            process.spawn("loop", worker.run)
        self.timeline.after(20, self._step)

    def _progress(self, name: str) -> None:
        operation = self.transfers.operations[name]
        work = operation.work
        for counter in (work.counts.found, work.counts.copied):
            counter[0] += 1
            counter[1] += 1000
        if work.counts.copied[0] == OBJECTS:
            work.status = Status.SUCCESS
            self.transfers.service._ended(work)

    def passed(self, process: Process) -> None:
        """A pass was made: nothing is looked at before the end."""

    def _outcome(self) -> Outcome:
        rows, statuses = [], []
        for prefix in self._prefixes:
            job = self.store.job(prefix)
            assert job is not None
            moved = job.counters.objects_copied + job.counters.objects_skipped
            told = (
                prefix,
                job.status,
                job.attempt,
                _attempt(str(job.job_name)),
                job.error_code,
                moved,
                job.counters.objects_failed,
            )
            rows.append(tuple(map(str, told)))
            events = list(self.store.history(prefix))
            assert [event.job.generation for event in events] == list(range(1, len(events) + 1)), "each change is there once"
            assert events[-1].job == job, "the history folds to the row"
            statuses.append(tuple(_folded([event.job.status.value for event in events])))
        bodies = {name: stored.read() for name, stored in self.buckets.store.bucket(SINK).objects.items()}
        return Outcome(
            tuple(rows), tuple(statuses), tuple(sorted(map(_attempt, self.transfers.service.jobs))), frozenset(bodies.items())
        )


def _attempt(job: str) -> str:
    """What a job's name says of its attempt; the rest of it differs from store to store."""
    return job.rpartition("-")[2]


def _folded(statuses: list[str]) -> Iterator[str]:
    before = ""
    for status in statuses:
        if status != before:
            yield status
        before = status
