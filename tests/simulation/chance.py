"""What goes wrong, at which call: drawn by seed, counted by fault and by the statuses that prefixes had at the time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from tests.simulation.timeline import Killed, Process

T = TypeVar("T")
Faults = Mapping[str, Callable[[], Exception]]
"""What a call may raise, by the name of the fault."""


@dataclass
class Chance:
    """`statuses` tells which statuses there are now; `storming` is over once all must come to an end.

    fault    the share of calls that are refused, or whose answers are lost
    at       of a sweep: which call meets something, and what; `calls` are all that were made
    full     labels of what has no room left: each of its calls is refused
    """

    random: random.Random
    statuses: Callable[[], set[str]]
    fault: float = 0.02
    storming: bool = False
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    at: tuple[int, str] | None = None
    full: set[str] = field(default_factory=set)

    def step(self, about: str) -> str:
        """Count a call of a sweep; what is to become of just this one: BEFORE, AFTER, LOST or nothing."""
        if self.at is None:
            return ""
        self.calls.append(about)
        return self.at[1] if len(self.calls) - 1 == self.at[0] else ""

    def happens(self, share: float) -> bool:
        return self.storming and self.random.random() < share

    def count(self, fault: str, about: str = "") -> None:
        """A fault has come about."""
        for status in self.statuses():
            self.met[fault, status] += 1
        self.told.append(f"{fault} {about}")


OFTEN = 4.0
"""For what is called seldom, beside all the calls to the store and the queues: objects, the pool's ledger."""


class Called:
    """An adapter as one process calls it: each call may be refused, be applied and its answer lost, or be the process's last.

    refused   faults that are certain not to have been applied; lost: what is raised after a call took effect
    calls     which methods are calls to the outside
    often     how much oftener than to others it happens to them
    """

    def __init__(
        self,
        inner: object,
        label: str,
        process: Process,
        chance: Chance,
        *,
        calls: frozenset[str],
        refused: Faults,
        lost: Faults,
        often: float = 1.0,
    ) -> None:
        self._often = often
        self._inner, self._label, self._process, self._chance = inner, label, process, chance
        self._calls, self._refused, self._lost = calls, refused, lost

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._call, name, found) if name in self._calls else found

    def _call(self, name: str, found: Callable[..., T], *args: Any, **more: Any) -> T:
        if not self._process.alive:
            return cast("T", None)  # whatever is cleared away after a kill does nothing any more
        chance, about = self._chance, f"{self._process.name} {self._label}.{name}"
        step = chance.step(about)
        if step == BEFORE:
            self._die()
        self._crash_point("killed before a call", about)
        if self._label in chance.full and self._refused:
            refuse = next(iter(self._refused.values()))
            error = refuse()
            raise error
        if self._refused and chance.happens(self._often * chance.fault):
            fault = chance.random.choice(sorted(self._refused))
            chance.count(fault, about)
            error = self._refused[fault]()
            raise error
        result = found(*args, **more)
        if step == AFTER:
            self._die()
        if step == LOST and self._lost:
            lost = next(iter(self._lost.values()))
            raise lost()
        self._crash_point("killed after a call", about)
        if self._lost and chance.happens(self._often * chance.fault / 2):
            fault = chance.random.choice(sorted(self._lost))
            chance.count(fault, about)
            error = self._lost[fault]()
            raise error
        if chance.happens(FREEZES):
            chance.count("frozen", about)
            self._process.freeze(chance.random.uniform(60, 900))
        return result

    def _crash_point(self, fault: str, about: str) -> None:
        if self._process.doomed and self._chance.random.random() < DOOM:
            self._chance.count(fault, about)
            self._die()

    def _die(self) -> None:
        self._process.kill()
        raise Killed


BEFORE, AFTER, LOST = "killed before it", "killed after it", "its answer lost"
DOOM = 0.2
"""At which share of its calls a process that is doomed dies: somewhere among the next ones."""
FREEZES = 0.0004
