"""A world by seed: the real reconciler over a store and a service that outlive it, with crashes, faults and people.

Every call to the store or the service may be cut off before it is applied, or after (its answer is lost with the process).
After each pass the safety invariants are checked; once the storm is over, everything must come to an end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sts_manager import chores
from sts_manager.domain.errors import Denied, Permanent, Retryable, StoreUnavailable, Throttled
from sts_manager.domain.model import (
    ENDED,
    Hold,
    JobStatus,
    OperationSnapshot,
    OperationState,
    Policy,
    Route,
    StartJob,
)
from sts_manager.domain.naming import OperationName, checked_prefixes
from sts_manager.ports import Started
from sts_manager.reconciler import Reconciler
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService

RUNNING_MAX = 4
ATTEMPTS_MAX = 3


class Crash(BaseException):
    """kill -9: nothing may catch it."""


@dataclass
class Chance:
    """How likely things go wrong at each call."""

    random: random.Random
    crash: float = 0.0
    fault: float = 0.0

    def before(self) -> None:
        if self.random.random() < self.crash:
            raise Crash

    after = before

    def faulty(self) -> bool:
        return self.random.random() < self.fault


class CrashingStore:
    """Every write may be cut off, before or after it is applied; some are refused for now."""

    def __init__(self, store: MemoryStore, chance: Chance) -> None:
        self._store, self._chance = store, chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def record(self, batch: Any) -> Any:
        self._chance.before()
        if self._chance.faulty():
            raise StoreUnavailable("the disk is full")
        stale = self._store.record(batch)
        self._chance.after()
        return stale


@dataclass(eq=False)
class CrashingRoute:
    """Every call may be cut off, or refused, before or after it is applied. Starts check that the intent came first."""

    service: FakeTransferService
    store: MemoryStore
    chance: Chance
    broken: list[str] = field(default_factory=list)

    def start(self, order: StartJob) -> Started:
        for prefix in (order.prefix, *order.others):
            intent = self.store.rows[prefix]
            if (intent.job_name, intent.attempt, intent.status) != (order.job_name, order.attempt, JobStatus.RUNNING):
                self.broken.append(f"start of {order.job_name} without its intent for {prefix}")
        self.chance.before()
        if self.chance.faulty():
            raise self.chance.random.choice(
                [
                    Throttled("quota"),
                    Retryable("unavailable"),
                    Denied("the service account may not use the sink"),
                    Permanent("refused"),
                ]
            )
        started = self.service.start(order)
        self.chance.after()
        if self.chance.faulty():
            raise Retryable("the answer was lost")
        return started

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        self.chance.before()
        if self.chance.faulty():
            raise Retryable("unavailable")
        return self.service.operations(names)

    def pause(self, name: OperationName) -> None:
        self._steer(name, self.service.pause)

    def resume(self, name: OperationName) -> None:
        self._steer(name, self.service.resume)

    def _steer(self, name: OperationName, call: Any) -> None:
        self.chance.before()
        if self.chance.faulty():
            raise Retryable("unavailable")
        call(name)
        self.chance.after()


class World:
    def __init__(self, seed: int, prefixes: int = 10, prefixes_per_job: int = 1) -> None:
        self.prefixes_per_job = prefixes_per_job
        self.random = random.Random(seed)
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.service = FakeTransferService()
        self.store.load(checked_prefixes(f"p{index:02}/" for index in range(prefixes)), self.clock.now(), lambda _: None)
        self.chance = Chance(self.random)
        self.route = CrashingRoute(self.service, self.store, self.chance)
        self.paused_by_people: set[OperationName] = set()
        self.outside_resumes = 0
        self.reconciler = self._restarted()

    def _restarted(self) -> Reconciler:
        policy = Policy(
            migration="0badcafe",
            route=Route.STS_S3,
            running_max=RUNNING_MAX,
            prefixes_per_job=self.prefixes_per_job,
            attempts_max=ATTEMPTS_MAX,
            retry_delay=timedelta(seconds=30),
            breaker_delay=timedelta(seconds=60),
        )
        return Reconciler(CrashingStore(self.store, self.chance), {Route.STS_S3: self.route}, policy, self.clock)

    def storm(self, passes: int) -> None:
        self.chance.crash, self.chance.fault = 0.03, 0.08
        for _ in range(passes):
            self._people()
            self._progress(fail=0.25)
            self._one_pass()
            self.check()

    def calm(self, passes: int) -> None:
        self.chance.crash = self.chance.fault = 0.0
        self.store.set_hold(None)
        for _ in range(passes):
            # Whoever paused something comes back and resumes it: only a command or a person may.
            for name in list(self.paused_by_people):
                if self.service.states[name].state is OperationState.PAUSED:
                    self.service.set(name, OperationState.IN_PROGRESS)
                self.paused_by_people.discard(name)
            self._progress(fail=0.0)
            self._one_pass()
            self.check()

    @property
    def all_ended(self) -> bool:
        return all(job.status in ENDED for job in self.store.rows.values())

    def _one_pass(self) -> None:
        self.clock.advance(self.random.choice([5, 60, 400]) if self.chance.crash else 600)
        if self.chance.crash and self.random.random() < 0.05:
            self.clock.jump(self.random.choice([-7200, 7200]))
        resumed_before = len(self.service.resumed)
        try:
            self.reconciler.run_pass(dispatch=self.random.random() < 0.7)
        except StoreUnavailable:
            pass
        except Crash:
            self.reconciler = self._restarted()
        for name in self.service.resumed[resumed_before:]:
            assert name not in self.paused_by_people, f"{name} was paused by a person and resumed by the daemon"

    def _progress(self, fail: float) -> None:
        """The service works on what is in progress."""
        for name in self.service.active():
            seen = self.service.states[name]
            if seen.state is OperationState.UNKNOWN and self.random.random() < 0.5:
                self.service.set(name, OperationState.IN_PROGRESS)
            if seen.state is not OperationState.IN_PROGRESS or self.random.random() < 0.3:
                continue
            copied = seen.counters.objects_copied + 1
            self.service.set(name, OperationState.IN_PROGRESS, objects_copied=copied, objects_found=copied)
            if self.random.random() < 0.5:
                self._end(name, fail)
            elif fail and self.random.random() < 0.05:
                self.service.set(name, OperationState.UNKNOWN)

    def _end(self, name: OperationName, fail: float) -> None:
        if self.random.random() >= fail:
            self.service.set(name, OperationState.SUCCESS)
            return
        match self.random.randrange(3):
            case 0:
                self.service.set(name, OperationState.FAILED)
            case 1:
                self.service.set(name, OperationState.SUCCESS, objects_failed=2)
            case _:
                self.service.deny(name)

    def _people(self) -> None:
        """Now and then somebody does something, in the console or with a command."""
        active = self.service.active()
        running = [name for name in active if self.service.states[name].state is OperationState.IN_PROGRESS]
        match self.random.randrange(24):
            case 0 if running:
                name = self.random.choice(running)
                if self.store.control().hold is None and self._unmarked(name):
                    self.service.set(name, OperationState.PAUSED)
                    self.paused_by_people.add(name)
            case 1 if active:
                self.service.set(self.random.choice(active), OperationState.ABORTED)
            case 2:
                self.store.set_hold(Hold(by="ops", at=self.clock.now()))
            case 3 | 4 | 5:
                self.store.set_hold(None)
            case 6 if self.service.jobs:
                self.service.delete(self.random.choice(sorted(self.service.jobs)))
            case 7:
                list(chores.retry_errors(self.store, self.clock.now(), code=None))
            case 8 if active:
                # The service forgets an operation, and the job with it.
                name = self.random.choice(active)
                gone = self.service.prefix_of[name]
                del self.service.states[name]
                for job in self.service.jobs.values():
                    if job.prefix == gone and job.operation == name:
                        job.deleted = True
                        job.operation = None
                self.paused_by_people.discard(name)

    def _unmarked(self, name: OperationName) -> bool:
        """Whether no pause of this operation was asked for here: then a pause found is a person's."""
        job = self.store.rows[self.service.prefix_of[name]]
        return job.operation_name == name and not job.paused_by

    def check(self) -> None:
        """The safety invariants."""
        assert not self.route.broken, self.route.broken
        assert all(job.runs <= 1 for job in self.service.jobs.values()), "a job ran twice"
        jobs = {job.operation: job for job in self.service.jobs.values()}
        live = Counter(
            prefix
            for name in self.service.active()
            for prefix in ((jobs[name].prefix, *jobs[name].others) if name in jobs else (self.service.prefix_of[name],))
        )
        assert all(number == 1 for number in live.values()), f"two live operations: {live}"
        for prefix, job in self.store.rows.items():
            events = list(self.store.history(prefix))
            assert [event.job.generation for event in events] == list(range(1, job.generation + 1))
            assert not events or events[-1].job == job, "the history does not fold to the row"
            assert job.tries <= ATTEMPTS_MAX
            if job.status is JobStatus.DONE:
                assert job.operation_name is not None
                assert job.counters.objects_failed == 0
        names = [job.name for job in self.service.jobs.values()]
        assert len(names) == len(set(names))


def truthful(world: World) -> bool:
    """Whether every prefix called done has an operation that ended well."""
    for job in world.store.rows.values():
        if job.status is JobStatus.DONE:
            seen = world.service.states.get(job.operation_name or OperationName("transferOperations/none"))
            if seen is not None and (seen.state is not OperationState.SUCCESS or seen.counters.objects_failed):
                return False
    return True
