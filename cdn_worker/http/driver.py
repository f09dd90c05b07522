"""Plays the outside for generators of commands: sends their requests, pumps their streams, lets their pauses pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from functools import partial
from itertools import count
from typing import TypeVar

from cdn_worker.domain.http import Request
from cdn_worker.http.engine import Engine
from cdn_worker.http.stream import Pump
from cdn_worker.object_copy.commands import Command, Note, Outcome, Renew, Resume, Stream, Streamed, Task, Wait

RENEW_WAIT_S = 5.0
T = TypeVar("T")


class Player:
    """One for all the generators of a loop. `noted`: how far a large object is; `renew`: access was refused, make it anew.

    jitter   a number 0…1; a pause takes between half of what was asked for and all of it, unless it is exact
    """

    def __init__(
        self,
        engine: Engine,
        *,
        noted: Callable[[Task, Resume], None] = lambda _task, _resume: None,
        renew: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine, self._noted, self._renew, self._jitter = engine, noted, renew, jitter
        self._waiting: dict[int, Callable[[], None]] = {}
        self._numbers = count()

    def play(self, steps: Generator[Command, Outcome, T], done: Callable[[T], None]) -> None:
        """Run a generator to its end; `done` gets what it returns."""
        self._go_on(steps, done, None)

    def go_on(self) -> None:
        """The access is new, or nobody made it anew: what waits for it tries again, and counts its tries."""
        waiting, self._waiting = self._waiting, {}
        for again in waiting.values():
            again()

    def _wait_for_access(self, again: Callable[[], None]) -> None:
        """Each as long as any other: who came first must not wake those that came after it."""
        number = next(self._numbers)
        self._waiting[number] = again
        self._engine.after(RENEW_WAIT_S, partial(self._try_again, number))
        self._renew()

    def _try_again(self, number: int) -> None:
        again = self._waiting.pop(number, None)
        if again is not None:  # nobody handed out a new access meanwhile
            again()

    def _go_on(self, steps: Generator[Command, Outcome, T], done: Callable[[T], None], outcome: Outcome) -> None:
        engine = self._engine
        try:
            while True:
                command = steps.send(outcome)
                if type(command) is Request:
                    engine.exchange(command, lambda answer: self._go_on(steps, done, answer))
                elif isinstance(command, Stream):
                    command.noted = partial(self._note, command)
                    self._pump(command, lambda streamed: self._go_on(steps, done, streamed))
                elif isinstance(command, Wait):
                    seconds = command.seconds if command.exact else command.seconds * (0.5 + self._jitter() / 2)
                    engine.after(seconds, lambda: self._go_on(steps, done, None))
                elif isinstance(command, Renew):
                    self._wait_for_access(lambda: self._go_on(steps, done, None))
                else:
                    assert isinstance(command, Note)
                    self._noted(command.task, command.resume)
                    outcome = None
                    continue
                return
        except StopIteration as stop:
            result: T = stop.value
        done(result)

    def _pump(self, stream: Stream, done: Callable[[Streamed], None]) -> None:
        Pump(self._engine, stream, done).begin()

    def _note(self, stream: Stream, offset: int, crc: int) -> None:
        self._noted(stream.task, Resume(stream.session, offset, crc))
