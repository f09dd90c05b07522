"""What happens to the worker pool, beside what happens to every process: restarts, what is away, letters that go astray.

A world calls `happen` now and then while the storm lasts, and `calm` when it is over. `fair` says what must hold of the pool
whatever happens: see `docs/reliability.md` for the bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.protocol.codec import decoded_task, encoded
from cdn_worker.protocol.messages import CopyReport, CopyTask, Counts, Item, JobSpec, ListTask
from cdn_worker.worker.worker import Pool
from tests.fakes.memory_queue import MemoryQueue
from tests.simulation.buckets import CDN, GCS, S3
from tests.simulation.timeline import Process
from tests.simulation.workers import POOL, SimWorker

if TYPE_CHECKING:
    from tests.simulation.world import World

RESTARTS = 100
RESTART_EVERY_S = 25.0
WAITS_MAX_S = 600.0
"""So long a task may wait while a worker has nothing to do: five leases."""
NO_FAULT_OF_THEIRS = frozenset({"poison", "POISON", "POISON_TASK", "MESSAGE_REFUSED", "COUNTS_DIFFER"})
"""No object, and no message, of any world is to blame for these."""
HUGE_BYTES = 300_000
"""Of these worlds, where a byte takes as long as a thousand."""


@dataclass
class PoolKinds:
    """Of one world. `idle`, `waiting`: since when each worker has nothing to do, and each message is there for whoever wants it.

    lying   since when each object has been at a worker that has not begun it, by the worker and the object's ticket
    spec    of some task that was seen, for who writes messages that look like ours
    """

    world: World
    lacking: str = ""
    away: str = ""
    idle: dict[str, float] = field(default_factory=dict)
    waiting: dict[int, tuple[float, object]] = field(default_factory=dict)
    workers: dict[str, SimWorker] = field(default_factory=dict)
    lying: dict[tuple[str, int], float] = field(default_factory=dict)
    spec: JobSpec | None = None

    def __post_init__(self) -> None:
        self.world.buckets.meet = self._meet

    @property
    def pool(self) -> Pool:
        return replace(POOL, reach=replace(POOL.reach, lacking=lambda: self.lacking))

    def _meet(self, request: Request) -> Answer | None:
        if self.away and request.url.startswith(self.away):
            return Answer(0, fault=Fault.CONNECT, said="Could not resolve host")
        if self.lacking and request.url.startswith(GCS):
            return Answer(401, [b"HTTP/1.1 401 Unauthorized\r\n"])
        return None

    def begun(self, process: Process, worker: SimWorker) -> None:
        """A worker was started."""
        self.workers[process.name] = worker

    # What happens

    def happen(self) -> None:
        world, draw = self.world, self.world.draw
        if not world.chance.storming:
            return
        match draw.randrange(7):
            case 0:
                world.chance.count("restarted politely")
                self._restart(draw.randrange(2), RESTARTS if draw.random() < 0.2 else draw.randint(1, 12))
            case 1:
                world.chance.count("board away")
                world.queues.board.away = True
                world.timeline.after(draw.uniform(60, 1800), self._bring_board_back)
            case 2:
                world.chance.count("credentials away")
                self.lacking = "Google credentials: the metadata server does not answer"
                world.timeline.after(draw.uniform(60, 1800), self._bring_credentials_back)
            case 3:
                world.chance.count("host away")
                self.away = draw.choice([S3, CDN, GCS])
                world.timeline.after(draw.uniform(60, 1800), self._bring_host_back)
            case 4:
                self._thaw_among_dead_letters()
            case 5:
                self._lose_ledger(draw.randrange(2))
            case 6:
                self._publish_foreign()

    def calm(self) -> None:
        self._bring_board_back()
        self._bring_credentials_back()
        self._bring_host_back()

    def _bring_board_back(self) -> None:
        self.world.queues.board.away = False

    def _bring_credentials_back(self) -> None:
        self.lacking = ""

    def _bring_host_back(self) -> None:
        self.away = ""

    def _restart(self, index: int, times: int) -> None:
        """A rolling deploy, Spot, a crash loop of whoever is beside it: SIGTERM, again and again."""
        process = self.world.workers[index]
        if process is not None:
            process.stopping = True
        if times > 1:
            self.world.timeline.after(RESTART_EVERY_S, lambda: self._restart(index, times - 1))

    def _thaw_among_dead_letters(self) -> None:
        """Reports that went round too often are among the dead, and who leads freezes until another one does."""
        world = self.world
        world.chance.count("thawed among dead letters")
        queue = world.queues.reports
        for lease in MemoryQueue.lease(queue, 5):
            queue.bury(lease, "delivered 10 times, and never answered")
        for one in world.daemons:
            if one is not None and one.leading and one.process.alive:
                one.process.freeze(world.draw.uniform(120, 900))

    def _lose_ledger(self, index: int) -> None:
        world = self.world
        world.chance.count("ledger lost")
        path = world.paths[index % len(world.paths)]
        for place, one in enumerate(world.daemons):
            if one is not None and world.paths[place % len(world.paths)] == path:
                one.process.kill()
                one.close()
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _publish_foreign(self) -> None:
        """Messages that name a job of ours, and come from somewhere else: with another spec, or for another ledger."""
        world, draw = self.world, self.world.draw
        spec = self.spec
        if spec is None:
            return
        world.chance.count("foreign message")
        foreign = replace(spec, sink_root="elsewhere/", ledger=draw.choice([spec.ledger, "0badcafe", ""]))
        keys = sorted(key for key in world.buckets.objects if key.startswith(spec.prefix)) or [f"{spec.prefix}x"]
        item = Item(draw.choice(keys), 1, "0" * 32)
        counts = Counts(objects={"done": 1}, bytes={"done": 1}, verified={"md5": 1})
        report = CopyReport(job=spec.job, shard="root", run="foreign", sequence=0, counts=counts, **foreign.mark)
        match draw.randrange(3):
            case 0:
                world.queues.copies.publish(
                    [encoded(CopyTask(spec=foreign, shard="root", run="foreign", sequence=0, items=(item,)))]
                )
            case 1:
                world.queues.lists.publish([encoded(ListTask(spec=foreign))])
            case _:
                world.queues.reports.publish([encoded(report)])

    def _tasks(self) -> Iterable[ListTask | CopyTask]:
        queues = self.world.queues
        for queue in (queues.lists, queues.copies, queues.huge):
            for message in (*queue._waiting, *(held for held, _ in queue._leased.values())):
                try:
                    yield decoded_task(message.body)
                except ValueError:
                    continue

    # What must hold

    def look(self) -> None:
        """Note who has nothing to do, and what waits. Raises AssertionError where a task waits beside an idle worker."""
        now = self.world.timeline.now
        busy = set(self.workers)
        for process in self.world.workers:
            worker = None if process is None else self.workers.get(process.name)
            if process is None or worker is None:
                continue
            if process.alive and not process.stopping and process.frozen_until <= now and worker.is_idle:
                self.idle.setdefault(process.name, now)
                busy.discard(process.name)
        for name in busy:
            self.idle.pop(name, None)
        queues = self.world.queues
        self.spec = next((one.spec for one in self._tasks()), self.spec)
        there = [one for queue in (queues.lists, queues.copies, queues.huge) for one in queue._waiting]
        self.waiting = {id(one): self.waiting.get(id(one), (now, one)) for one in there}
        idle = min(self.idle.values(), default=now)
        waits = min((since for since, _ in self.waiting.values()), default=now)
        both = now - max(idle, waits)
        self._look_at_what_lies(now)
        assert both <= WAITS_MAX_S, f"a task has waited for {both:.0f} s while a worker had nothing to do: {self.idle}"

    def _look_at_what_lies(self, now: float) -> None:
        """Raises AssertionError where an object lies at a worker, and has not begun, while another one has nothing to do."""
        lies: dict[tuple[str, int], float] = {}
        for name, worker in self.workers.items():
            process = next((one for one in self.world.workers if one is not None and one.name == name), None)
            if process is None or not process.alive or process.stopping or process.frozen_until > now:
                continue
            for ticket in worker.tickets_that_wait:
                lies[name, ticket] = self.lying.get((name, ticket), now)
        self.lying = lies
        for (name, _), since in lies.items():
            idle = min((at for other, at in self.idle.items() if other != name), default=now)
            both = now - max(idle, since)
            assert both <= WAITS_MAX_S, (
                f"an object has lain at {name} for {both:.0f} s while a worker had nothing to do: {self.idle}"
            )

    def check(self) -> None:
        """What nothing is wrong with never fails."""
        store = self.world.store
        failed = {one.key: one.error for one in store.failed if one.error in NO_FAULT_OF_THEIRS}
        # Objects of the pool never change here: what a cache has besides is none of their fault.
        failed |= {one.key: one.error for one in store.failed if one.error == "source_changing" and one.key.startswith("cdn-")}
        assert not failed, f"nothing was wrong with {failed}"
        rows = {job.prefix: job.error_code for job in store.rows.values() if job.error_code in NO_FAULT_OF_THEIRS}
        assert not rows, f"nothing was wrong with {rows}"


KINDS = (
    "board away",
    "credentials away",
    "foreign message",
    "host away",
    "ledger lost",
    "restarted politely",
    "thawed among dead letters",
)
