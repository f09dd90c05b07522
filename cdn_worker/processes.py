"""The loops of a machine, one process each. A process that dies takes nothing with it: its tasks go to another one."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cdn_worker.channel import Channel
from cdn_worker.copying.steps import Resume, Task
from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.engine.loop import Engine
from cdn_worker.messages import Begin, Close, Open, Report, Stop, Tasks, Use
from cdn_worker.ports import Access
from cdn_worker.wiring import Setup

BATCH = 64
OUTSTANDING_KEYS = 1500
OUTSTANDING_BYTES = 512 << 20
CRASHES_OF_AN_OBJECT_MAX = 3
STARTS_WITHOUT_A_VERDICT_MAX = 5
KEY_WEIGHT = 64 << 10
"""What a key costs besides its bytes, in bytes, when work is shared out."""


class LoopsDie(CdnWorkerError):
    """Every process that is started ends at once."""


@dataclass(slots=True)
class _Loop:
    """One process, and what it has been given: by ticket, the lane and the task."""

    process: subprocess.Popen[bytes]
    channel: Channel
    ready: bool = False
    outstanding: dict[int, tuple[int, Task]] = field(default_factory=dict)
    weight: int = 0
    stopping: bool = False
    concurrency: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Lane:
    """From where to where, with what access; who is told of its verdicts and its large objects."""

    setup: Setup
    access: Access
    verdicts: Callable[[list[tuple[int, KeyVerdict]]], None]
    noted: Callable[[Task, Resume], None]
    renew: Callable[[int], None]


class Processes:
    """`said` gets a line for the operator when a process dies. How each is set up is the same for all: `begin`."""

    def __init__(
        self,
        engine: Engine,
        begin: Begin,
        count: int,
        *,
        said: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._engine, self._begin, self._say = engine, begin, said
        self._lanes: dict[int, _Lane] = {}
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._queue: deque[tuple[int, Task]] = deque()
        self._crashes: dict[int, int] = {}
        self._barren = 0
        self._stopping = False
        self.restarts = 0
        self._loops = [self._start() for _ in range(count)]

    @property
    def waiting(self) -> int:
        """Tasks that no process has yet."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Tasks that are with a process."""
        return sum(len(loop.outstanding) for loop in self._loops)

    @property
    def concurrency(self) -> dict[str, int]:
        """Requests that each host is given at once by now, over all processes."""
        return dict(sum((Counter(loop.concurrency) for loop in self._loops), Counter()))

    def open(
        self,
        setup: Setup,
        access: Access,
        *,
        verdicts: Callable[[list[tuple[int, KeyVerdict]]], None],
        noted: Callable[[Task, Resume], None] = lambda _task, _resume: None,
        renew: Callable[[int], None] = lambda _version: None,
    ) -> int:
        """A lane, by its number. `verdicts` gets them with their tickets; `renew` is called with the version that was refused."""
        number = next(self._numbers)
        self._lanes[number] = _Lane(setup, access, verdicts, noted, renew)
        for loop in self._loops:
            if loop.ready:
                loop.channel.send(Open(number, setup, access))
        return number

    def close_lane(self, number: int) -> None:
        """Nothing comes on it any more, and nothing of it is outstanding."""
        del self._lanes[number]
        for loop in self._loops:
            if loop.ready:
                loop.channel.send(Close(number))

    def add(self, lane: int, task: Task) -> int:
        """Have an object copied; its ticket."""
        ticket = next(self._tickets)
        self._queue.append((lane, task._replace(ticket=ticket)))
        return ticket

    def use(self, lane: int, access: Access) -> None:
        self._lanes[lane].access = access
        for loop in self._loops:
            if loop.ready:
                loop.channel.send(Use(lane, access))

    def tend(self) -> None:
        """Hand out tasks, and see to who has died. Raises LoopsDie."""
        for index, loop in enumerate(self._loops):
            loop.channel.flush()
            if loop.channel.closed and not loop.stopping:
                self._buried(index, loop)
        while self._queue and not self._stopping:
            ready = [one for one in self._loops if one.ready]
            if not ready:
                return
            loop = min(ready, key=lambda one: one.weight)
            if len(loop.outstanding) >= OUTSTANDING_KEYS or loop.weight >= OUTSTANDING_BYTES:
                return
            self._hand_out(loop)

    def stop(self, seconds: float) -> None:
        """Begin nothing more; wait for what is in flight, at most that long, and take in its verdicts."""
        self._stopping = True
        self._queue.clear()
        for loop in self._loops:
            loop.stopping = True
            loop.channel.send(Stop(seconds))
        until = time.monotonic() + seconds + 1
        while any(not loop.channel.closed for loop in self._loops) and time.monotonic() < until:
            self._engine.turn(0.05)
            for loop in self._loops:
                loop.channel.flush()
        self.close()

    def close(self) -> None:
        for loop in self._loops:
            if not loop.channel.closed:
                self._engine.unwatch(loop.channel.fileno())
            loop.channel.close()
        for loop in self._loops:
            try:
                loop.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                loop.process.kill()
                loop.process.wait()

    def _start(self) -> _Loop:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [sys.executable, "-m", "cdn_worker.loop_process", str(theirs.fileno())]
            process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves  # nosec B603
        loop = _Loop(process, Channel(ours))
        loop.channel.send(self._begin)
        self._engine.watch(loop.channel.fileno(), lambda: self._receive(loop))
        return loop

    def _hand_out(self, loop: _Loop) -> None:
        """Give a loop a batch: what comes next, as long as it is of one lane."""
        batch: list[Task] = []
        size = 0
        lane = self._queue[0][0]
        while self._queue and self._queue[0][0] == lane and len(batch) < BATCH and size < OUTSTANDING_BYTES // 8:
            _, task = self._queue.popleft()
            batch.append(task)
            size += task.size + KEY_WEIGHT
            loop.outstanding[task.ticket] = (lane, task)
        loop.weight += size
        loop.channel.send(Tasks(lane, batch))

    def _receive(self, loop: _Loop) -> None:
        for message in loop.channel.received():
            assert isinstance(message, Report)
            if not loop.ready:
                loop.ready = True
                for number, lane in self._lanes.items():
                    loop.channel.send(Open(number, lane.setup, lane.access))
            self._take_in(loop, message)
        if loop.channel.closed:
            self._engine.unwatch(loop.channel.fileno())

    def _take_in(self, loop: _Loop, report: Report) -> None:
        by_lane: dict[int, list[tuple[int, KeyVerdict]]] = {}
        for ticket, verdict in report.verdicts:
            number, task = loop.outstanding.pop(ticket)
            loop.weight -= task.size + KEY_WEIGHT
            self._crashes.pop(ticket, None)
            self._barren = 0
            by_lane.setdefault(number, []).append((ticket, verdict))
        loop.concurrency = report.concurrency or loop.concurrency
        for task, resume in report.notes:
            held = loop.outstanding.get(task.ticket)
            if held is not None:
                loop.outstanding[task.ticket] = (held[0], task._replace(resume=resume))
                self._lanes[held[0]].noted(task, resume)
        for number, version in report.renew:
            if number in self._lanes:
                self._lanes[number].renew(version)
        for number, verdicts in by_lane.items():
            self._lanes[number].verdicts(verdicts)

    def _buried(self, index: int, loop: _Loop) -> None:
        """A process is gone. What it had is given out again; an object that was there at three deaths is not."""
        loop.channel.close()
        code = loop.process.wait()
        self.restarts += 1
        self._barren += 1
        self._say(f"a copying process died ({_cause(code)}); its {len(loop.outstanding):,} objects go to another one")
        if self._barren > STARTS_WITHOUT_A_VERDICT_MAX:
            raise LoopsDie(
                f"{self._barren} processes died one after the other without a single verdict; the last one: {_cause(code)}"
            )
        given_up: dict[int, list[tuple[int, KeyVerdict]]] = {}
        for ticket, (number, task) in loop.outstanding.items():
            crashes = self._crashes[ticket] = self._crashes.get(ticket, 0) + 1
            if crashes < CRASHES_OF_AN_OBJECT_MAX:
                self._queue.appendleft((number, task))
                continue
            told = f"{crashes} processes died while they had it; the last one: {_cause(code)}"
            verdict = KeyVerdict(
                key=task.key,
                size=task.size,
                etag=task.etag,
                verdict=Verdict.FAILED,
                error="process_died",
                details=told,
                tries=crashes,
            )
            given_up.setdefault(number, []).append((ticket, verdict))
        for number, verdicts in given_up.items():
            self._lanes[number].verdicts(verdicts)
        self._loops[index] = self._start()


def begin_of(setup: Setup) -> Begin:
    return Begin(setup.limits, setup.buffer_bytes, setup.slots)


def _cause(code: int) -> str:
    """A return code, for a person."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
