"""A world by seed: real daemons, routes, pool managers and workers over clouds in virtual time.

While the storm lasts, every call may be refused, or applied and its answer lost; processes die, freeze, and have their clocks
set; people do what people do. After each pass the invariants are checked. Then it is calm, and everything must come to an end.
"""

from __future__ import annotations

import random
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from google.cloud import storage_transfer_v1 as sts

from sts_manager import admin
from sts_manager.daemon import reconciler as reconciler_module
from sts_manager.domain.errors import BadInput, Permanent, Retryable
from sts_manager.domain.model import ENDED, Chosen, Hold, PausedBy, PrefixJob, Route
from sts_manager.domain.names import Prefix, checked_prefixes
from sts_manager.routes.local.operations import Beside, OwnOperations
from sts_manager.routes.pool.admin import PoolOperations
from sts_manager.routes.sts.route import StsProject
from sts_manager.routes.url_list.operation import ListOperations
from tests.fakes.memory_store import MemoryStore
from tests.simulation import invariants
from tests.simulation.buckets import SINK, SOURCE, Buckets
from tests.simulation.chance import Chance
from tests.simulation.daemons import DaemonProcess, client_of, open_ledger
from tests.simulation.following import Following
from tests.simulation.left_behind import LeftBehind
from tests.simulation.pool_kinds import HUGE_BYTES, PoolKinds
from tests.simulation.sources import Sources
from tests.simulation.streams import LARGE
from tests.simulation.timeline import HostClock, Process, Timeline
from tests.simulation.transfers import Transfers
from tests.simulation.url_lists import UrlLists
from tests.simulation.workers import SimQueues, SimWorker
from tools.emulators.gcs.objects import Attributes
from tools.emulators.sts.copier import Status

MIGRATION = "0badcafe"
STEP_S = 20.0
PEOPLE_EVERY_S = 300.0
CALM_HOURS_MAX = 48.0
RERUN_HOURS_MAX = 24.0
HOUR, YEAR = 3600.0, 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs from seed to seed: how much there is, and where it runs."""

    transfers: int
    pooled: int
    prefixes_per_job: int
    one_host: bool

    @classmethod
    def of(cls, draw: random.Random) -> Shape:
        return cls(draw.randint(2, 9), draw.randint(1, 4), draw.choice([1, 1, 1, 4]), draw.random() < 0.5)


@dataclass
class World:
    """`folder`: for the ledgers of the pool. `hours` of storm."""

    seed: int
    folder: Path
    hours: float = 6.0
    passes: int = 0
    takeovers: int = 0
    foreign: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.shape = Shape.of(self.draw)
        self.timeline = Timeline()
        self.store = MemoryStore()
        self.chance = Chance(random.Random(self.seed + 1), self._statuses)
        self.transfers = Transfers(self.timeline, self.chance, self._created)
        self.buckets = Buckets(self.chance)
        self.queues = SimQueues(self.timeline, self.chance)
        self.history = invariants.History()
        self.following = Following(self)
        self.lists = UrlLists(self)
        self.clocks_set = False
        self.paused_by_people: set[str] = set()
        self.clocks = [HostClock(self.timeline) for _ in range(2)]
        self.paths = [self.folder / f"pool-{index}.db" for index in range(1 if self.shape.one_host else 2)]
        self.daemons: list[DaemonProcess | None] = [None, None]
        self.workers: list[Process | None] = [None, None]
        self._console = Process(self.timeline, "console", HostClock(self.timeline))
        self._resumed = 0
        self.kinds = PoolKinds(self)
        self.sources = Sources(self)
        self.behind = LeftBehind(self)
        self._load()

    @property
    def replay(self) -> str:
        return f"python -m tests.simulation --seed {self.seed} --hours {self.hours:g} --tell"

    def _load(self) -> None:
        draw = self.draw
        transfers = [Prefix(f"sts-{index:02}/") for index in range(self.shape.transfers)]
        pooled = [Prefix(f"cdn-{index:02}/") for index in range(self.shape.pooled)]
        for prefix in pooled:
            for index in range(draw.randint(0, 14)):
                size = draw.randint(*LARGE) if draw.random() < 0.2 else draw.randint(0, 40)
                self.buckets.objects[f"{prefix}{index:02}"] = draw.randbytes(size)
        # Chance of its own, so that the course of everything else stays what it was.
        winter = random.Random(f"archived {self.seed}")
        if self.buckets.objects and winter.random() < 0.25:
            self.buckets.tiered = set(winter.choices(sorted(self.buckets.objects), k=winter.randint(1, 3)))
        if self.buckets.objects and draw.random() < 0.3:
            # Somebody else's object has the name of one of ours: nobody may touch it.
            key = draw.choice(sorted(self.buckets.objects))
            self.foreign[key] = self.buckets.store.put(SINK, key, b"somebody else's", Attributes()).generation
        chosen = {prefix: Chosen(route=Route.CDN) for prefix in pooled}
        chosen |= self.lists.load()
        self.sources.load()
        self.transfers.lists = self.lists
        self.store.bind(f"s3://{SOURCE}", f"gs://{SINK}")
        self.store.load(checked_prefixes([*transfers, *chosen]), self.clocks[0].now(), lambda _: None, chosen)
        self.following.load(transfers)
        self.behind.load(transfers)
        self.transfers.succeeding = self.behind.bring

    def _statuses(self) -> set[str]:
        return {job.status.value for job in self.store.rows.values()}

    def _created(self, job: sts.TransferJob, caller: str) -> None:
        self.history.creates(self.store, job)
        self.following.created(job, caller)

    # The course of things

    def run(self) -> World:
        """Raises AssertionError where an invariant does not hold, with the line that shows it again."""
        with in_virtual_time(self.timeline, self.seed):
            try:
                self._begin()
                self.chance.storming = True
                self._until(self.hours * HOUR)
                self._calm()
                self.following.end()
                self._until(self.timeline.now + CALM_HOURS_MAX * HOUR, done=self._all_ended)
                self._check()
                assert self._all_ended(), f"it does not end: {self._unended()}"
                invariants.truth(self)
                self._run_again()
            except Exception as error:
                told = "\n".join(self.chance.told[-15:])
                raise AssertionError(f"{error}\nlast faults:\n{told}\nreplay: {self.replay}") from error
            finally:
                self._end()
        return self

    def _begin(self) -> None:
        for index in range(2):
            self._start_daemon(index)
            self._start_worker(index)
        self._every(STEP_S, self._step)
        self._every(PEOPLE_EVERY_S, self._people)
        self._every(HOUR / 4, self._hardware)
        self._every(HOUR / 4, self.kinds.happen)
        self._every(HOUR / 6, self.sources.happen)
        self.following.begin()
        self.lists.begin()

    def _run_again(self) -> None:
        """Where objects have changed meanwhile, or could be read only now: none does any more, and what is done is compared."""
        if not (self.following.follows or self.lists.travels or self.buckets.archived):
            return
        list(admin.rerun_all(self.store, self._now()))
        self.sources.retry()
        self._until(self.timeline.now + RERUN_HOURS_MAX * HOUR, done=self._all_ended)
        assert self._all_ended(), f"the rerun does not end: {self._unended()}"
        self._check()
        self.following.compare()
        self.lists.compare()
        self.sources.compare()
        invariants.truth(self)

    def _every(self, seconds: float, call: Any) -> None:
        def again() -> None:
            call()
            self.timeline.after(self.draw.uniform(0.5, 1.5) * seconds, again)

        self.timeline.after(self.draw.uniform(0, seconds), again)

    def _until(self, when: float, done: Any = lambda: False) -> None:
        self.timeline.run_until(when, done)

    def _calm(self) -> None:
        """No more faults. Whoever holds or paused something comes back: only a command or a person may."""
        self.chance.storming = False
        for clock in self.clocks:
            clock.offset = timedelta()
        self.kinds.calm()
        self.sources.calm()
        self._lift()

    def _lift(self) -> None:
        """The hold is lifted, and what people paused they resume; what the program paused is the program's to resume."""
        self.store.set_hold(None)
        for name in sorted(self.paused_by_people):
            operation = self.transfers.operations.get(name)
            if operation is not None and operation.work.status == Status.PAUSED:
                self.transfers.service.resume(name)
        self.paused_by_people.clear()

    def _all_ended(self) -> bool:
        ended = not self.chance.storming and all(job.status in ENDED for job in self.store.rows.values())
        return ended and not self.behind.pending

    def _unended(self) -> dict[str, tuple[str, str, str]]:
        return {
            job.prefix: (job.status.value, str(job.operation_name), job.error_message)
            for job in self.store.rows.values()
            if job.status not in ENDED
        }

    def _step(self) -> None:
        self.transfers.progress(self.draw, fail=self.following.fails)
        for index in range(2):
            daemon, worker = self.daemons[index], self.workers[index]
            if daemon is None or not daemon.process.alive:
                self._start_daemon(index)
            if worker is None or not worker.alive:
                self._start_worker(index)
        self.kinds.look()

    def _start_daemon(self, index: int) -> None:
        process = Process(self.timeline, f"daemon-{index}", self.clocks[index])
        self.daemons[index] = DaemonProcess(self, process, self.paths[index % len(self.paths)])

    def _start_worker(self, index: int) -> None:
        process = self.workers[index] = Process(self.timeline, f"worker-{index}", self.clocks[index])
        draw = random.Random(self.draw.random())
        worker = SimWorker(self.kinds.pool, self.queues.of(process), process, self.buckets, draw, lambda: process.stopping)
        self.kinds.begun(process, worker)

        def work() -> None:
            worker.run()
            process.alive = False  # it ended as it was told to

        process.spawn("loop", work)

    def _end(self) -> None:
        self.chance.storming = False
        for daemon in self.daemons:
            if daemon is not None:
                daemon.process.kill()
                daemon.close()
        for worker in self.workers:
            if worker is not None:
                worker.kill()
        self.lists.close()

    @property
    def jobs(self) -> MemoryStore:
        return self.store

    @property
    def prefixes_per_job(self) -> int:
        return self.shape.prefixes_per_job

    def passed(self, process: Process) -> None:
        """A daemon has made a pass."""
        self.passes += 1
        self._check()

    def _check(self) -> None:
        for name in self.transfers.resumed[self._resumed :]:
            assert name not in self.paused_by_people, f"{name} was paused by a person and resumed by the program"
        self._resumed = len(self.transfers.resumed)
        invariants.check(self)
        self.kinds.check()
        self.following.check()
        self.lists.check()

    # What happens

    def _hardware(self) -> None:
        """A process dies or freezes, a clock is set: about once an hour each."""
        if not self.chance.storming:
            return
        draw = self.draw
        processes = [one.process for one in self.daemons if one is not None] + [one for one in self.workers if one is not None]
        process = draw.choice(processes)
        match draw.randrange(6):
            case 0 | 1:
                process.doomed = True
            case 2:
                self.chance.count("killed", process.name)
                process.kill()
            case 3:
                self.chance.count("frozen", process.name)
                process.freeze(draw.uniform(60, 900))
            case _:
                self.chance.count("clock set", process.name)
                self.clocks_set = True
                jump = draw.choice([-HOUR, HOUR, -5 * YEAR, 5 * YEAR, 0])
                process.clock.offset = timedelta(seconds=jump)

    def _people(self) -> None:
        """Somebody does something, in the console or with a command."""
        if not self.chance.storming:
            return
        draw, service = self.draw, self.transfers.service
        active = self.transfers.active()
        live = [job for job in self.store.live() if job.operation_name is not None]
        match draw.randrange(16):
            case 0 if active:
                operation = draw.choice(active)
                if operation.work.status == Status.IN_PROGRESS and self._unmarked(operation.name):
                    self.chance.count("paused in the console", operation.name)
                    operation.work.status = Status.PAUSED
                    self.paused_by_people.add(operation.name)
            case 1 if active:
                operation = draw.choice(active)
                self.chance.count("cancelled in the console", operation.name)
                service._abort(operation)
            case 2 | 3:
                self.chance.count("held")
                self._pause_all(Hold(by="ops", at=self._now()))
            case 4 | 5 | 6:
                self.chance.count("hold lifted")
                self.store.set_hold(None)
            case 7:
                self.chance.count("paused by command")
                self._pause_all(None)
            case 8 if service.jobs:
                names = sorted(name for name, job in service.jobs.items() if job.status != 3)
                if names:
                    self.chance.count("job deleted")
                    self.transfers.delete_job(draw.choice(names))
            case 9 | 10:
                self.chance.count("retried")
                list(admin.retry_errors(self.store, self._now(), code=None))
            case 11 if active:
                operation = draw.choice(active)
                self.chance.count("operation forgotten", operation.name)
                self.transfers.forget(operation)
                self.paused_by_people.discard(operation.name)
            case 12 if live:
                self._cancel(draw.choice(live))
            case 13:
                self.chance.count("rerun")
                list(admin.rerun_all(self.store, self._now()))
            case 14:
                self.chance.count("hostile message")
                body = draw.choice([b"", b"{}", b"\xff\xfe", b'{"v":1,"kind":"copy"}', draw.randbytes(30)])
                draw.choice([self.queues.lists, self.queues.copies, self.queues.reports]).publish([body])

    def _unmarked(self, name: str) -> bool:
        """Whether no pause of this operation was asked for here: then a pause that is found is a person's."""
        rows = [job for job in self.store.rows.values() if job.operation_name == name]
        return bool(rows) and self.store.control().hold is None and all(job.paused_by is PausedBy.NOBODY for job in rows)

    def _now(self) -> Any:
        return self._console.clock.now()

    @contextmanager
    def _project(self, *, faults: bool = False) -> Iterator[Beside]:
        """As the utility commands see it, run on the host of the pool's ledger that leads. `faults` come between, or not."""
        ledger = open_ledger(self.paths[self._leading() % len(self.paths)])
        try:
            client = client_of(self.transfers, self._console, self.chance if faults else None)
            own: list[OwnOperations] = [PoolOperations(ledger, self._console.clock)]
            if self.lists.ledger is not None:
                own.append(ListOperations(self.lists.ledger))
            yield Beside(lambda: StsProject({client.project: client}), own)
        finally:
            ledger.close()

    def _leading(self) -> int:
        return next((index for index, one in enumerate(self.daemons) if one is not None and one.leading), 0)

    def _pause_all(self, hold: Hold | None) -> None:
        with self._project() as project:
            admin.pause_all(self.store, project, self._now(), hold=hold, dry_run=False, all_in_project=False)

    def _cancel(self, job: PrefixJob) -> None:
        with self._project() as project:
            self.chance.count("cancelled by command", job.prefix)
            with suppress(Retryable, Permanent, BadInput):
                admin.cancel(self.store, [job.prefix], project.cancel)

    def statistics(self) -> Counter[str]:
        found = Counter(job.status.value for job in self.store.rows.values())
        found += Counter({f"followed, {name}": number for name, number in self.following.quiet.items()})
        return found + Counter(passes=self.passes, takeovers=self.takeovers, faults=len(self.chance.told))


@contextmanager
def in_virtual_time(timeline: Timeline, seed: int) -> Iterator[None]:
    """What asks the machine for the time, or for chance, asks the world."""
    fake = types.SimpleNamespace(monotonic=lambda: timeline.now, sleep=timeline.sleep, time=lambda: timeline.now)
    modules = (
        "cdn_worker.url_lists.service",
        "cdn_worker.worker.worker",
        "cdn_worker.worker.queue_client",
        "cdn_worker.worker.job_context",
        "sts_manager.routes.pool.controller",
    )
    clock = mock.patch("sts_manager.routes.url_list.setup.SystemClock", return_value=HostClock(timeline))
    before = random.getstate()
    random.seed(seed)
    with mock.patch.object(reconciler_module, "_overlapping", lambda call, items: [call(one) for one in items]):
        patches: list[Any] = [mock.patch(f"{module}.time", fake) for module in modules]
        patches += [mock.patch("cdn_worker.domain.budget.HUGE_BYTES", HUGE_BYTES), clock]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(patches):
                patch.stop()
            random.setstate(before)
