"""The loops of a machine, one process each. A process that dies takes nothing with it: its tasks go to another one."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from cdn_worker.copier.channel import Channel
from cdn_worker.copier.messages import Begin, Close, Open, Report, Stop, Tasks, Use, Withdraw
from cdn_worker.copier.suspects import Entry, Ward, tickets_of
from cdn_worker.domain.budget import is_huge, need_of
from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.domain.outage import Contact
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.http.engine import Engine
from cdn_worker.object_copy.commands import BUFFER_MAX, Resume, Task
from cdn_worker.ports import Access
from cdn_worker.storage.setup import Setup

BATCH = 64
OUTSTANDING_KEYS = 1500
STARTS_WITHOUT_A_VERDICT_MAX = 5
KEY_WEIGHT = 64 << 10
"""What a key costs besides its buffers, in bytes, when work is shared out."""
WARD_S = 60.0
"""Suspects have a process for themselves for so long: those among which nobody dies meanwhile are cleared."""


class LoopsDie(CdnWorkerError):
    """Every process that is started ends at once."""


def weight_of(size: int) -> int:
    """What an object takes of a process: its buffers, never its size, which may be terabytes."""
    return need_of(size, BUFFER_MAX) + KEY_WEIGHT


@dataclass(slots=True)
class _Loop:
    """One process, and what it has been given: by ticket, the lane and the task.

    weight, keys   of all but huge objects; huge: how many of those, of at most `streams`
    group          tickets that were given to it alone, and alone_until: for how long they are
    """

    process: subprocess.Popen[bytes]
    channel: Channel
    ready: bool = False
    outstanding: dict[int, Entry] = field(default_factory=dict)
    weight: int = 0
    huge: int = 0
    streams: int = 0
    stopping: bool = False
    concurrency: dict[str, int] = field(default_factory=dict)
    contacts: Mapping[str, Contact] = field(default_factory=dict)
    group: frozenset[int] = frozenset()
    alone_until: float = 0.0

    @property
    def keys(self) -> int:
        return len(self.outstanding) - self.huge

    def put(self, entry: Entry) -> None:
        self.outstanding[entry[1].ticket] = entry
        if is_huge(entry[1].size):
            self.huge += 1
        else:
            self.weight += weight_of(entry[1].size)

    def pop(self, ticket: int) -> Entry:
        entry = self.outstanding.pop(ticket)
        if is_huge(entry[1].size):
            self.huge -= 1
        else:
            self.weight -= weight_of(entry[1].size)
        return entry


class _Waiting:
    """Tasks that no process has yet, and what they weigh together."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.weight = 0

    def __len__(self) -> int:
        return len(self.entries)

    def put(self, entry: Entry, *, first: bool = False) -> None:
        (self.entries.appendleft if first else self.entries.append)(entry)
        self.weight += weight_of(entry[1].size)

    def next_entry(self) -> Entry:
        entry = self.entries.popleft()
        self.weight -= weight_of(entry[1].size)
        return entry

    def withdraw(self, tickets: Collection[int]) -> list[Entry]:
        withdrawn = [one for one in self.entries if one[1].ticket in tickets]
        self.entries = deque(one for one in self.entries if one[1].ticket not in tickets)
        self.weight -= sum(weight_of(task.size) for _, task in withdrawn)
        return withdrawn

    def clear(self) -> None:
        self.entries.clear()
        self.weight = 0


@dataclass(slots=True)
class _Lane:
    """From where to where, with what access; who is told of its verdicts and its large objects, and of what was withdrawn."""

    setup: Setup
    access: Access
    verdicts: Callable[[list[tuple[int, KeyVerdict]]], None]
    noted: Callable[[Task, Resume], None]
    renew: Callable[[int], None]
    withdrawn: Callable[[list[int]], None]


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
        self._weight_max = 2 * begin.buffer_bytes
        self._lanes: dict[int, _Lane] = {}
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._queue, self._huge = _Waiting(), _Waiting()
        self._ward = Ward()
        self._barren = 0
        self._stopping = False
        self.restarts = 0
        self._loops = [self._start() for _ in range(count)]

    @property
    def waiting(self) -> int:
        """Tasks that no process has yet, but for those of huge objects."""
        return len(self._queue) + len(self._ward)

    @property
    def waiting_huge(self) -> int:
        return len(self._huge)

    @property
    def outstanding(self) -> int:
        """Tasks that are with a process."""
        return sum(len(loop.outstanding) for loop in self._loops)

    @property
    def idle(self) -> bool:
        return not (self._queue or self._huge or self._ward or self.outstanding)

    @property
    def weight(self) -> int:
        """Bytes that the tasks need which are here, with a process or not, but for those of huge objects."""
        return self._queue.weight + sum(loop.weight for loop in self._loops)

    @property
    def weight_max(self) -> int:
        return self._weight_max * len(self._loops)

    @property
    def room_for_huge(self) -> int:
        """How many more huge objects could begin at once."""
        return max(0, sum(max(0, loop.streams - loop.huge) for loop in self._loops if loop.ready) - len(self._huge))

    @property
    def concurrency(self) -> dict[str, int]:
        """Requests that each host is given at once by now, over all processes."""
        return dict(sum((Counter(loop.concurrency) for loop in self._loops), Counter()))

    @property
    def contacts(self) -> list[Mapping[str, Contact]]:
        """Which servers answer each of them."""
        return [loop.contacts for loop in self._loops]

    def open(
        self,
        setup: Setup,
        access: Access,
        *,
        verdicts: Callable[[list[tuple[int, KeyVerdict]]], None],
        noted: Callable[[Task, Resume], None] = lambda _task, _resume: None,
        renew: Callable[[int], None] = lambda _version: None,
        withdrawn: Callable[[list[int]], None] = lambda _tickets: None,
    ) -> int:
        """A lane, by its number. `verdicts` gets them with their tickets; `renew` is called with the version that was refused."""
        number = next(self._numbers)
        self._lanes[number] = _Lane(setup, access, verdicts, noted, renew, withdrawn)
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
        self._of(task).put((lane, task._replace(ticket=ticket)))
        return ticket

    def _of(self, task: Task) -> _Waiting:
        return self._huge if is_huge(task.size) else self._queue

    def withdraw(self, tickets: Collection[int]) -> None:
        """Give up those of these that have not begun: their lanes are told which, sooner or later."""
        withdrawn = self._ward.withdraw(tickets)
        for queue in (self._queue, self._huge):
            withdrawn += queue.withdraw(tickets)
        self._tell_withdrawn(withdrawn)
        for loop in self._loops:
            theirs = [ticket for ticket in tickets if ticket in loop.outstanding]
            if theirs:
                loop.channel.send(Withdraw(theirs))

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
                self._bury(index, loop)
        if self._stopping:
            return
        now = time.monotonic()
        self._isolate(now)
        free = [loop for loop in self._loops if loop.ready and not self._has_suspects(loop, now)]
        while self._huge and free:
            loop = min(free, key=lambda one: one.huge / max(1, one.streams))
            if loop.huge >= loop.streams:
                break
            self._hand_out(loop, self._huge, 1)
        while self._queue and free:
            loop = min(free, key=lambda one: one.weight)
            if loop.keys >= OUTSTANDING_KEYS or loop.weight >= self._weight_max:
                return
            self._hand_out(loop, self._queue, BATCH)

    def _isolate(self, now: float) -> None:
        """Give each group of suspects a process that has nothing else."""
        for loop in self._loops:
            if not self._ward.groups:
                return
            if loop.ready and not (loop.outstanding and (not loop.group or now < loop.alone_until)):
                group = self._ward.next_group()
                loop.group, loop.alone_until = tickets_of(group), now + WARD_S
                for entry in group:
                    loop.put(entry)
                    loop.channel.send(Tasks(entry[0], [entry[1]]))

    def _has_suspects(self, loop: _Loop, now: float) -> bool:
        if loop.group and (now >= loop.alone_until or not loop.group & loop.outstanding.keys()):
            loop.group = frozenset()
        return bool(loop.group)

    def stop(self, seconds: float) -> None:
        """Begin nothing more; wait for what is in flight, at most that long, and take in its verdicts."""
        self._stopping = True
        self._queue.clear()
        self._huge.clear()
        self._ward.clear()
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
            arguments = [sys.executable, "-m", "cdn_worker.copier.process", str(theirs.fileno())]
            process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves  # nosec B603
        loop = _Loop(process, Channel(ours))
        loop.channel.send(self._begin)
        self._engine.watch(loop.channel.fileno(), lambda: self._receive(loop))
        return loop

    def _hand_out(self, loop: _Loop, queue: _Waiting, most: int) -> None:
        """Give a loop a batch: what comes next, as long as it is of one lane."""
        batch: list[Task] = []
        weight = 0
        lane = queue.entries[0][0]
        while queue and queue.entries[0][0] == lane and len(batch) < most and weight < self._weight_max // 8:
            entry = queue.next_entry()
            batch.append(entry[1])
            weight += weight_of(entry[1].size)
            loop.put(entry)
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
            number, _ = loop.pop(ticket)
            self._ward.forget(ticket)
            self._barren = 0
            by_lane.setdefault(number, []).append((ticket, verdict))
        loop.concurrency = report.concurrency or loop.concurrency
        loop.contacts = report.contacts or loop.contacts
        loop.streams = report.streams or loop.streams
        for task, resume in report.notes:
            held = loop.outstanding.get(task.ticket)
            if held is not None:
                loop.outstanding[task.ticket] = (held[0], held[1]._replace(resume=resume))
                self._lanes[held[0]].noted(task, resume)
        for number, version in report.renew:
            if number in self._lanes:
                self._lanes[number].renew(version)
        for number, verdicts in by_lane.items():
            self._lanes[number].verdicts(verdicts)
        self._tell_withdrawn([loop.pop(ticket) for ticket in report.withdrawn])

    def _tell_withdrawn(self, entries: Collection[Entry]) -> None:
        by_lane: dict[int, list[int]] = {}
        for number, task in entries:
            self._ward.forget(task.ticket)
            by_lane.setdefault(number, []).append(task.ticket)
        for number, tickets in by_lane.items():
            self._lanes[number].withdrawn(tickets)

    def _bury(self, index: int, loop: _Loop) -> None:
        """A process is gone. What it had is given out again; who was there at several deaths is looked into by halves."""
        loop.channel.close()
        code = loop.process.wait()
        self.restarts += 1
        self._barren += not loop.group
        self._say(f"a copying process died ({_cause(code)}); its {len(loop.outstanding):,} objects go to another one")
        if self._barren > STARTS_WITHOUT_A_VERDICT_MAX:
            raise LoopsDie(
                f"{self._barren} processes died one after the other without a single verdict; the last one: {_cause(code)}"
            )
        again, blamed = self._ward.take_in(list(loop.outstanding.values()), loop.group)
        for entry in reversed(again):
            self._of(entry[1]).put(entry, first=True)
        given_up: dict[int, list[tuple[int, KeyVerdict]]] = {}
        for (number, task), deaths in blamed:
            told = f"{deaths} processes died while they had it; the last one: {_cause(code)}"
            verdict = KeyVerdict(
                key=task.key,
                size=task.size,
                etag=task.etag,
                verdict=Verdict.FAILED,
                error="process_died",
                details=told,
                tries=deaths,
            )
            given_up.setdefault(number, []).append((task.ticket, verdict))
        for number, verdicts in given_up.items():
            self._lanes[number].verdicts(verdicts)
        self._loops[index] = self._start()


def begin_of(setup: Setup) -> Begin:
    return Begin(setup.limits, setup.buffer_bytes, setup.slots)


def _cause(code: int) -> str:
    """A return code, for a person."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
