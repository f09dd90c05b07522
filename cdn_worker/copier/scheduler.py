"""Copies many objects at once: lets them in as bytes and concurrency allow, and plays the outside for the steps of each."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from functools import partial

from cdn_worker.domain.budget import is_huge, need_of, streams_of
from cdn_worker.domain.concurrency import Climb, Interval
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.driver import Player
from cdn_worker.http.engine import Engine
from cdn_worker.object_copy import copied
from cdn_worker.object_copy.commands import Resume, Task, Way
from cdn_worker.ports import Access

INTERVAL_S = 0.25


class Lane:
    """One way that objects go: all of them share a source, a sink and the access to both. Made by `Copier.open`."""

    def __init__(self, copier: Copier, way: Way, player: Player) -> None:
        self._copier, self.way, self.player = copier, way, player

    def add(self, task: Task) -> None:
        """Copy this when there is room."""
        copier = self._copier
        (copier.ready_huge if is_huge(task.size) else copier.ready).append((task, self))

    def use(self, access: Access) -> None:
        """Sign with this from now on; what waits for it goes on."""
        self.way.source.use(access)
        self.way.sink.use(access)
        self.player.go_on()


class Copier:
    """One loop's work. `ended` gets every task with its verdict.

    slots_least, slots_most   objects in flight, but for the huge ones: it climbs between them
    streams                   huge objects in flight, at most: they have places of their own, as they keep them for long
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ended: Callable[[Task, KeyVerdict], None],
        slots_least: int = 16,
        slots_most: int = 512,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine, self._jitter = engine, jitter
        self._on_end = ended
        self.climb = Climb(slots_least, slots_most)
        self.streams = streams_of(engine.limits.requests, engine.budget.bytes_max)
        self.ready: deque[tuple[Task, Lane]] = deque()
        self.ready_huge: deque[tuple[Task, Lane]] = deque()
        self._active = self._huge = 0
        self._objects = 0
        self._bytes = 0
        self._last = (0, 0, 0.0, 0.0)
        self._on_interval()

    def open(
        self,
        way: Way,
        *,
        noted: Callable[[Task, Resume], None] = lambda _task, _resume: None,
        renew: Callable[[], None] = lambda: None,
    ) -> Lane:
        """A lane. `noted`: how far a large object is; `renew` is called when access is refused."""
        return Lane(self, way, Player(self._engine, noted=noted, renew=renew, jitter=self._jitter))

    @property
    def idle(self) -> bool:
        return not (self.ready or self.ready_huge or self._active or self._huge)

    def let_in(self) -> None:
        """Start what may start."""
        budget = self._engine.budget
        while self.ready_huge and self._huge < self.streams:
            task, lane = self.ready_huge[0]
            need = need_of(task.size, lane.way.buffer_max)
            if not budget.take_huge(need):
                break
            self.ready_huge.popleft()
            self._huge += 1
            lane.player.play(copied(task, lane.way), partial(self._huge_ended, task, need))
        if not self.ready_huge:
            budget.relax()
        while self.ready and self._active < self.climb.limit:
            task, lane = self.ready[0]
            need = need_of(task.size, lane.way.buffer_max)
            if not budget.take(need):
                return
            self.ready.popleft()
            self._active += 1
            lane.player.play(copied(task, lane.way), partial(self._ended, task, need))

    def drop(self) -> None:
        """Give up what has not begun (a clean shutdown); what is in flight goes on."""
        self.ready.clear()
        self.ready_huge.clear()

    def withdraw(self, tickets: Collection[int]) -> list[int]:
        """Give up those of these that have not begun; which."""
        withdrawn: list[int] = []
        for ready in (self.ready, self.ready_huge):
            kept = [one for one in ready if one[0].ticket not in tickets]
            withdrawn += [task.ticket for task, _ in ready if task.ticket in tickets]
            ready.clear()
            ready.extend(kept)
        return withdrawn

    def _ended(self, task: Task, taken: int, verdict: KeyVerdict) -> None:
        self._active -= 1
        self._engine.budget.give(taken)
        self._objects += 1
        self._bytes += task.size
        self._on_end(task, verdict)
        if self.ready or self.ready_huge:
            self.let_in()

    def _huge_ended(self, task: Task, taken: int, verdict: KeyVerdict) -> None:
        self._huge -= 1
        self._engine.budget.give_huge(taken)
        self._on_end(task, verdict)
        if self.ready or self.ready_huge:
            self.let_in()

    def _on_interval(self) -> None:
        engine = self._engine
        objects, moved, busy, idle = self._last
        # Huge objects say nothing here: they would seem to move nothing for hours, and then all of it at once.
        self._last = (self._objects, self._bytes, engine.busy_s, engine.idle_s)
        seconds = self._last[2] - busy + self._last[3] - idle
        if seconds > INTERVAL_S / 4:
            seen = Interval(seconds, self._last[0] - objects, self._last[1] - moved, (self._last[3] - idle) / seconds)
            self.climb.observe(seen, full=self._active >= self.climb.limit)
            self.let_in()
        engine.after(INTERVAL_S, self._on_interval)
