"""The loops of a machine, one process each. A process that dies takes nothing with it: its tasks go to another one."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cdn_worker.channel import Channel
from cdn_worker.copying.steps import Resume, Task
from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.engine.loop import Engine
from cdn_worker.messages import Begin, Report, Stop, Tasks
from cdn_worker.ports import Access
from cdn_worker.wiring import Setup

BATCH = 64
OUTSTANDING_KEYS = 1500
OUTSTANDING_BYTES = 512 << 20
CRASHES_OF_A_KEY_MAX = 3
STARTS_WITHOUT_A_VERDICT_MAX = 5
KEY_WEIGHT = 64 << 10
"""What a key costs besides its bytes, in bytes, when work is shared out."""


class LoopsDie(CdnWorkerError):
    """Every process that is started ends at once."""


@dataclass(slots=True)
class _Loop:
    """One process, and what it has been given."""

    process: subprocess.Popen[bytes]
    channel: Channel
    ready: bool = False
    outstanding: dict[str, Task] = field(default_factory=dict)
    weight: int = 0
    stopping: bool = False


class Processes:
    """`verdicts` gets what they report, `noted` how far large objects are, `renew` is called when access was refused.

    `said` gets a line for the operator when a process dies.
    """

    def __init__(
        self,
        engine: Engine,
        setup: Setup,
        access: Access,
        count: int,
        *,
        verdicts: Callable[[list[KeyVerdict]], None],
        noted: Callable[[Task, Resume], None],
        renew: Callable[[int], None],
        said: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._engine, self._setup, self._access = engine, setup, access
        self._on_verdicts, self._on_note, self._on_renew, self._say = verdicts, noted, renew, said
        self._queue: deque[Task] = deque()
        self._crashes: dict[str, int] = {}
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

    def add(self, task: Task) -> None:
        self._queue.append(task)

    def use(self, access: Access) -> None:
        self._access = access
        for loop in self._loops:
            if loop.ready:
                loop.channel.send(access)

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
            process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves
        loop = _Loop(process, Channel(ours))
        loop.channel.send(Begin(self._setup, self._access))
        self._engine.watch(loop.channel.fileno(), lambda: self._receive(loop))
        return loop

    def _hand_out(self, loop: _Loop) -> None:
        batch: list[Task] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < OUTSTANDING_BYTES // 8:
            task = self._queue.popleft()
            batch.append(task)
            size += task.size + KEY_WEIGHT
            loop.outstanding[task.key] = task
        loop.weight += size
        loop.channel.send(Tasks(batch))

    def _receive(self, loop: _Loop) -> None:
        for message in loop.channel.received():
            assert isinstance(message, Report)
            if not loop.ready:
                loop.ready = True
                loop.channel.send(self._access)
            for verdict in message.verdicts:
                task = loop.outstanding.pop(verdict.key)
                loop.weight -= task.size + KEY_WEIGHT
                self._crashes.pop(verdict.key, None)
            if message.verdicts:
                self._barren = 0
                self._on_verdicts(message.verdicts)
            for task, resume in message.notes:
                if task.key in loop.outstanding:
                    loop.outstanding[task.key] = task._replace(resume=resume)
                self._on_note(task, resume)
            if message.renew is not None:
                self._on_renew(message.renew)
        if loop.channel.closed:
            self._engine.unwatch(loop.channel.fileno())

    def _buried(self, index: int, loop: _Loop) -> None:
        """A process is gone. What it had is given out again; a key that was there at three deaths is not."""
        loop.channel.close()
        code = loop.process.wait()
        self.restarts += 1
        self._barren += 1
        self._say(f"a copying process died ({_cause(code)}); its {len(loop.outstanding):,} objects go to another one")
        if self._barren > STARTS_WITHOUT_A_VERDICT_MAX:
            raise LoopsDie(
                f"{self._barren} processes died one after the other without a single verdict; the last one: {_cause(code)}"
            )
        given_up: list[KeyVerdict] = []
        for key, task in loop.outstanding.items():
            crashes = self._crashes[key] = self._crashes.get(key, 0) + 1
            if crashes < CRASHES_OF_A_KEY_MAX:
                self._queue.appendleft(task)
            else:
                told = f"{crashes} processes died while they had it; the last one: {_cause(code)}"
                given_up.append(
                    KeyVerdict(
                        key=key,
                        size=task.size,
                        etag=task.etag,
                        verdict=Verdict.FAILED,
                        error="process_died",
                        details=told,
                        tries=crashes,
                    )
                )
        if given_up:
            self._on_verdicts(given_up)
        self._loops[index] = self._start()


def _cause(code: int) -> str:
    """A return code, for a person."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
