"""How much a worker claims: what it can begin, in keys, in bytes of buffers and in streams; never what would only lie there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KEYS_A_PROCESS = 1200
LISTINGS_MAX = 4
HUGE_AT_ONCE = 4
"""Huge objects that each process of a worker claims at once: few, so that workers that start together share what there is."""
SMOOTH = 0.2


class Wanted(NamedTuple):
    """Messages that may be claimed, of each kind."""

    lists: int = 0
    copies: int = 0
    huge: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a worker has. weight: bytes of buffers that its keys need. Huge objects stand apart: how many more could begin."""

    keys: int
    weight: int
    weight_max: int
    huge_room: int
    listings: int


class Appetite:
    """`ended` and `given_back` tell how it went: who gives back what it could not begin claims half as much from then on.

    task_keys, task_bytes   the most that one task holds
    """

    def __init__(self, processes: int, task_keys: int, task_bytes: int) -> None:
        self._processes, self._task_keys = processes, task_keys
        self._most = KEYS_A_PROCESS * processes
        self.keys_max = float(self._most)
        self._task_weight = task_bytes / 2

    def wanted(self, load: Load) -> Wanted:
        keys = int(self.keys_max - load.keys) // self._task_keys
        left = load.weight_max - load.weight
        weighty = 0 if left <= 0 else max(1, int(left / max(1.0, self._task_weight)))
        copies = max(0, min(keys, weighty))
        lists = LISTINGS_MAX - load.listings if copies else 0
        huge = min(load.huge_room, HUGE_AT_ONCE * self._processes)
        return Wanted(lists=max(0, lists), copies=copies, huge=max(0, huge))

    def taken(self, weight: int) -> None:
        """A task was claimed that needs so many bytes of buffers: the next ones are taken to be like it."""
        self._task_weight += SMOOTH * (weight - self._task_weight)

    def ended(self, keys: int) -> None:
        """So many objects have come to an end."""
        self.keys_max = min(float(self._most), self.keys_max + keys)

    def given_back(self) -> None:
        """Tasks were given back of which nothing had begun."""
        self.keys_max = max(float(self._task_keys), self.keys_max / 2)
