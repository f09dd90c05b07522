"""Virtual time: events in order, and actors that are threads of which one runs at a time.

Real loops (a daemon's, a worker's) run unchanged in an actor: where they would sleep, the next event is due. So a year takes
minutes, and the same seed takes the same course.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

START = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


class Killed(BaseException):
    """kill -9: nothing may catch it."""


class Timeline:
    """`now`: seconds since the simulation began. Calls that are due at the same time are made in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self.running: Actor | None = None
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + max(0.0, seconds), next(self._order), call))

    def run_until(self, when: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until then, or until `done`. What an actor raises is raised here."""
        while self._due and self._due[0][0] <= when and not done():
            self.now, _, call = heapq.heappop(self._due)
            call()
        if not done():
            self.now = max(self.now, when)

    def sleep(self, seconds: float) -> None:
        """Of whichever actor runs."""
        assert self.running is not None
        self.running.sleep(seconds)


class Actor:
    """A thread of a process; it runs from one sleep to the next."""

    def __init__(self, process: Process, name: str, work: Callable[[], None]) -> None:
        self._process, self._work = process, work
        self._timeline = process.timeline
        # Bare locks, each handed over while it is held: a semaphore costs four times as much, and there are ten thousand a world.
        self._mine, self._back = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._back.acquire()
        self.name = f"{process.name}-{name}"
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.over = False
        self._thread.start()

    def _run(self) -> None:
        self._mine.acquire()
        try:
            if self._process.alive:
                self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - handed over to the timeline, which raises it
            self._failed = error
        self.over = True
        self._back.release()

    def go_on(self) -> None:
        """Let it run to its next sleep, unless its process is frozen."""
        if self.over:
            return
        wait = self._process.frozen_until - self._timeline.now
        if wait > 0 and self._process.alive:
            self._timeline.after(wait, self.go_on)
            return
        before, self._timeline.running = self._timeline.running, self
        self._mine.release()
        self._back.acquire()
        self._timeline.running = before
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def sleep(self, seconds: float) -> None:
        self._timeline.after(seconds, self.go_on)
        self._back.release()
        self._mine.acquire()
        if not self._process.alive:
            raise Killed


class HostClock:
    """The `Clock` port: monotonic time never jumps, the wall clock does."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.offset = timedelta()

    def now(self) -> datetime:
        return START + timedelta(seconds=self._timeline.now) + self.offset

    def monotonic(self) -> float:
        return self._timeline.now


class Process:
    """Its actors live, freeze and die together."""

    def __init__(self, timeline: Timeline, name: str, clock: HostClock) -> None:
        self.timeline, self.name, self.clock = timeline, name, clock
        self.alive = True
        self.doomed = False  # it dies at one of its next calls
        self.stopping = False  # it was told to end
        self.frozen_until = 0.0
        self._actors: list[Actor] = []

    def spawn(self, name: str, work: Callable[[], None]) -> Actor:
        actor = Actor(self, name, work)
        self._actors.append(actor)
        self.timeline.after(0, actor.go_on)
        return actor

    def kill(self) -> None:
        """At once: an actor that sleeps does not wake any more. The one that calls this must not go on."""
        self.alive = False
        for actor in self._actors:
            if actor is not self.timeline.running:
                actor.go_on()

    def freeze(self, seconds: float) -> None:
        self.frozen_until = self.timeline.now + seconds
        if self.timeline.running in self._actors:
            self.timeline.sleep(seconds)
