"""The real worker in virtual time: its threads, its loop and its processes are one actor."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import cast

from cdn_worker.config import Reach
from cdn_worker.copier.process_pool import Processes, weight_of
from cdn_worker.domain.budget import is_huge
from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.domain.outage import Contact, Contacts
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.driver import Player
from cdn_worker.http.engine import Engine, Timer
from cdn_worker.object_copy import copied
from cdn_worker.object_copy.commands import Resume, Task, Way
from cdn_worker.ports import Access, JobState, Queues, QueueUnavailable
from cdn_worker.storage.setup import Setup, way_of
from cdn_worker.worker.list_task import Sizes
from cdn_worker.worker.queue_client import Kind, Post
from cdn_worker.worker.worker import Pool, Worker
from tests.fakes.memory_queue import MemoryBoard, MemoryQueue
from tests.simulation.buckets import CDN, GCS, S3, Buckets
from tests.simulation.chance import Called, Chance
from tests.simulation.streams import BUFFER_MAX, SimPlayer
from tests.simulation.timeline import Process, Timeline

LEASE_S = 120.0
IDLE_S = 8.0
AT_ONCE, HUGE_AT_ONCE = 4, 2
DELIVERIES_MAX = 10


class SimEngine:
    """Exchanges take some virtual time; what they do at the other side is done at once."""

    def __init__(self, process: Process, buckets: Buckets, draw: random.Random) -> None:
        self._process, self._buckets, self._draw = process, buckets, draw
        self._timers: list[Timer] = []
        self._order = count()
        self.contacts = Contacts()

    def exchange(self, request: Request, done: Callable[[Answer], None]) -> None:
        answer = self._buckets.answer(request)

        def over() -> None:
            now = self._process.timeline.now
            if answer.status:
                self.contacts.heard(request.url, now)
            elif answer.fault is Fault.CONNECT:
                self.contacts.missed(request.url, now, answer.said)
            done(answer)

        self.after(self._draw.uniform(0.05, 2.0), over)

    def sent(self, request: Request) -> None:
        self._buckets.chance.count("upload broken off", request.method)
        self._buckets.answer(request)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self._process.timeline.now + seconds, next(self._order), call)
        heapq.heappush(self._timers, timer)
        return timer

    def turn(self, _timeout_s: float) -> None:
        now = self._process.timeline.now
        due = self._timers[0].due if self._timers else now + IDLE_S
        self._process.timeline.sleep(min(max(0.0, due - now), IDLE_S))
        while self._timers and self._timers[0].due <= self._process.timeline.now:
            heapq.heappop(self._timers).call()

    def close(self) -> None:
        self._timers.clear()


@dataclass(slots=True)
class _Lane:
    way: Way
    player: Player
    verdicts: Callable[[list[tuple[int, KeyVerdict]]], None]
    withdrawn: Callable[[list[int]], None]
    version: int


class SimProcesses:
    """All lanes in this one process. A huge object has a place of its own, as in the real ones."""

    def __init__(self, engine: SimEngine, draw: random.Random) -> None:
        self._engine, self._draw = engine, draw
        self._lanes: dict[int, _Lane] = {}
        self._numbers, self._tickets = count(1), count(1)
        self._ready: deque[tuple[int, Task]] = deque()
        self._huge: deque[tuple[int, Task]] = deque()
        self._active = self._active_huge = 0
        self.restarts = 0
        self.concurrency: dict[str, int] = {}
        self.weight_max = 1 << 30

    @property
    def weight(self) -> int:
        return sum(weight_of(task.size) for _, task in self._ready)

    @property
    def room_for_huge(self) -> int:
        return max(0, HUGE_AT_ONCE - self._active_huge - len(self._huge))

    @property
    def contacts(self) -> list[Mapping[str, Contact]]:
        return []

    def open(
        self,
        setup: Setup,
        access: Access,
        *,
        verdicts: Callable[[list[tuple[int, KeyVerdict]]], None],
        noted: Callable[[Task, Resume], None],
        renew: Callable[[int], None],
        withdrawn: Callable[[list[int]], None],
    ) -> int:
        number = next(self._numbers)
        way = replace(way_of(setup), buffer_max=BUFFER_MAX)
        player = SimPlayer(self._engine, self._draw, noted=noted, renew=lambda: renew(self._lanes[number].version))
        self._lanes[number] = _Lane(way, player, verdicts, withdrawn, access.version)
        self.use(number, access)
        return number

    def use(self, lane: int, access: Access) -> None:
        one = self._lanes[lane]
        one.version = access.version
        one.way.source.use(access)
        one.way.sink.use(access)
        one.player.go_on()

    def close_lane(self, number: int) -> None:
        del self._lanes[number]

    def add(self, lane: int, task: Task) -> int:
        ticket = next(self._tickets)
        (self._huge if is_huge(task.size) else self._ready).append((lane, task._replace(ticket=ticket)))
        return ticket

    def withdraw(self, tickets: Collection[int]) -> None:
        for ready in (self._ready, self._huge):
            withdrawn = [one for one in ready if one[1].ticket in tickets]
            left = [one for one in ready if one[1].ticket not in tickets]
            ready.clear()
            ready.extend(left)
            for lane, task in withdrawn:
                self._lanes[lane].withdrawn([task.ticket])

    def tend(self) -> None:
        while self._huge and self._active_huge < HUGE_AT_ONCE:
            self._active_huge += 1
            self._begin(*self._huge.popleft())
        while self._ready and self._active < AT_ONCE:
            self._active += 1
            self._begin(*self._ready.popleft())

    def _begin(self, lane: int, task: Task) -> None:
        one = self._lanes[lane]
        one.player.play(copied(task, one.way), partial(self._ended, lane, task))

    def _ended(self, lane: int, task: Task, verdict: KeyVerdict) -> None:
        if is_huge(task.size):
            self._active_huge -= 1
        else:
            self._active -= 1
        self._lanes[lane].verdicts([(task.ticket, verdict)])

    def close(self) -> None:
        pass


class _Waits:
    """An event that nobody waits for in vain: waiting takes virtual time."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline, self._set = timeline, False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        if not self._set:
            self._timeline.sleep(seconds)
        return self._set


class SimPost(Post):
    """What its threads do is done when the worker looks for claims."""

    def __init__(self, queues: Queues, timeline: Timeline, failed: Callable[[str], None]) -> None:
        super().__init__(queues, failed=failed)
        self._timeline = timeline
        self._ended = _Waits(timeline)  # type: ignore[assignment]
        self._look_at = 0.0

    def start(self) -> None:
        self._look()

    def check(self) -> None:
        pass

    def claimed(self) -> list[object]:  # type: ignore[override]
        now = self._timeline.now
        if now >= self._look_at:
            self._look_at = now + 10
            self._keep()
            self._look()
        self._send_all()
        if not self._no_more.is_set():
            self._claim(Kind.HUGE)
            if not self._claim(Kind.COPY):
                self._claim(Kind.LIST)
        return list(super().claimed())

    def close(self, seconds: float) -> None:
        self.claim_no_more()
        self._send_all()


class SimBoard(MemoryBoard):
    """`away`: nobody can read or write it."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def _look(self) -> None:
        if self.away:
            raise QueueUnavailable("the board is away")

    def bind(self, migration: str) -> str:
        self._look()
        return super().bind(migration)

    def post(self, states: Mapping[str, JobState], *, epoch: int = 0) -> None:
        self._look()
        super().post(states, epoch=epoch)

    def read(self) -> Mapping[str, JobState]:
        self._look()
        return super().read()


class SimWorker(Worker):
    def __init__(
        self, pool: Pool, queues: Queues, process: Process, buckets: Buckets, draw: random.Random, stopping: Callable[[], bool]
    ) -> None:
        self._process, self._buckets, self._draw = process, buckets, draw
        super().__init__(pool, queues, stopping=stopping)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, and nothing keeps it from taking something."""
        ready = self._post.looked.is_set() and not self._post.full and self._cause is None and not self.figures.draining
        return ready and not (self._copying or self._listings)

    @property
    def tickets_that_wait(self) -> list[int]:
        """Of the objects that it was given, and has not begun."""
        processes = cast("SimProcesses", self._processes)
        return [task.ticket for _, task in (*processes._ready, *processes._huge)]

    def _machinery(self, queues: Queues) -> tuple[Post, Engine, Processes]:
        engine = SimEngine(self._process, self._buckets, self._draw)
        processes = SimProcesses(engine, self._draw)
        post = SimPost(queues, self._process.timeline, self._queue_away)
        return post, cast("Engine", engine), cast("Processes", processes)


POOL = Pool(
    reach=Reach(s3_endpoint=S3, s3_region="us-east-1", sink_endpoint=GCS, cdn_url=CDN),
    sizes=Sizes(keys=2, pages=2),
)


class SimQueue(MemoryQueue):
    """Delivers twice, late and in any order while the storm lasts."""

    def __init__(self, timeline: Timeline, chance: Chance, dead: MemoryQueue | None) -> None:
        super().__init__(lease_s=LEASE_S, dead=dead, deliveries_max=DELIVERIES_MAX, clock=lambda: timeline.now)
        self._timeline, self._chance = timeline, chance

    def publish(self, bodies: Sequence[bytes]) -> None:
        chance = self._chance
        for body in bodies:
            again = chance.happens(0.1)
            if again:
                chance.count("message twice")
            for _ in range(1 + again):
                if chance.happens(0.1):
                    chance.count("message late")
                    self._timeline.after(chance.random.uniform(1, 120), partial(super().publish, [body]))
                else:
                    super().publish([body])

    def lease(self, most: int, _wait_s: float = 0.0, *, bytes_max: int | None = None) -> list[object]:  # type: ignore[override]
        if len(self._waiting) > 1 and self._chance.happens(0.3):
            self._chance.count("messages reordered")
            order = list(self._waiting)
            self._chance.random.shuffle(order)
            self._waiting = deque(order)
        return list(super().lease(most, 0.0, bytes_max=bytes_max))


QUEUE_CALLS = frozenset({"publish", "lease", "extend", "ack", "release", "bury"})


class SimQueues:
    """The queues, which outlive every process; each process calls them through faults of its own."""

    def __init__(self, timeline: Timeline, chance: Chance) -> None:
        self._chance = chance
        self.dead = SimQueue(timeline, chance, None)
        self.lists, self.copies, self.huge, self.reports = (SimQueue(timeline, chance, self.dead) for _ in range(4))
        self.board = SimBoard()

    def of(self, process: Process) -> Queues:
        def called(inner: object, label: str, calls: frozenset[str]) -> MemoryQueue:
            away = {"queue away": lambda: QueueUnavailable("the queue is away")}
            lost = {"queue's answer lost": lambda: QueueUnavailable("the answer was lost")}
            found = Called(inner, label, process, self._chance, calls=calls, refused=away, lost=lost)
            return cast("MemoryQueue", found)

        lists, copies, huge, reports, dead = (
            called(getattr(self, name), name, QUEUE_CALLS) for name in ("lists", "copies", "huge", "reports", "dead")
        )
        board = cast("MemoryBoard", called(self.board, "board", frozenset({"bind", "post", "read"})))
        return Queues(
            lists=lists, copies=copies, huge=huge, reports=reports, dead=dead, board=board, lease_s=LEASE_S, id="queues"
        )
