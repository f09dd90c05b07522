"""Who is to blame for the deaths of processes: the culprit alone, whoever was with it."""

from __future__ import annotations

import math
import random
from collections import deque

import pytest

from cdn_worker.copier.suspects import ALONE_MAX, DEATHS_MAX, Entry, Ward, tickets_of
from cdn_worker.object_copy.commands import Task

OBJECTS = 1500


def entries(number: int = OBJECTS) -> list[Entry]:
    return [(1, Task(f"p/{ticket}", 1, "e", ticket=ticket)) for ticket in range(number)]


class Machine:
    """One process after the other; each holds `at_once` objects, and goes through them in any order."""

    def __init__(self, seed: int, culprits: set[int], *, at_once: int = OBJECTS, killed: float = 0.0, late: float = 0.0) -> None:
        self.draw = random.Random(seed)
        self.culprits, self.at_once, self.killed, self.late = culprits, at_once, killed, late
        self.ward = Ward()
        self.queue: deque[Entry] = deque(entries())
        self.done: set[int] = set()
        self.blamed: set[int] = set()
        self.deaths = 0

    def run(self) -> None:
        while self.queue or self.ward.groups:
            group: frozenset[int] = frozenset()
            if self.ward.groups:
                there = self.ward.next_group()
                group = tickets_of(there)
            else:
                there = [self.queue.popleft() for _ in range(min(self.at_once, len(self.queue)))]
            self._live(there, group)
            assert self.deaths < 10_000

    def _live(self, there: list[Entry], group: frozenset[int]) -> None:
        held = {one[1].ticket: one for one in there}
        order = sorted(held)
        self.draw.shuffle(order)
        for ticket in order:
            if ticket in self.culprits or self.draw.random() < self.killed:
                self.deaths += 1
                again, blamed = self.ward.take_in(list(held.values()), group)
                self.blamed |= {entry[1].ticket for entry, _ in blamed}
                self.queue.extendleft(reversed(again))
                return
            self.done.add(ticket)
            self.ward.forget(ticket)
            del held[ticket]


@pytest.mark.parametrize("seed", range(20))
def test_one_object_that_kills_its_process_is_found_and_the_others_are_copied(seed: int) -> None:
    """All that were outstanding at three deaths were blamed: up to 1,500 healthy ones for one (M12)."""
    culprit = random.Random(seed).randrange(OBJECTS)
    machine = Machine(seed, {culprit})
    machine.run()
    assert machine.blamed == {culprit}
    assert machine.done == set(range(OBJECTS)) - {culprit}
    assert machine.deaths <= 2 + math.ceil(math.log2(OBJECTS)) + ALONE_MAX


@pytest.mark.parametrize("seed", range(10))
def test_several_are_found_too(seed: int) -> None:
    culprits = set(random.Random(seed).sample(range(OBJECTS), 12))
    machine = Machine(seed, culprits, at_once=300)
    machine.run()
    assert machine.blamed == culprits
    assert machine.done == set(range(OBJECTS)) - culprits


@pytest.mark.parametrize("seed", range(10))
def test_who_is_killed_from_outside_again_and_again_blames_nobody(seed: int) -> None:
    machine = Machine(seed, set(), killed=0.01)
    machine.run()
    assert machine.deaths > 8
    assert machine.blamed == set()
    assert machine.done == set(range(OBJECTS))


def test_one_that_is_there_at_every_death_is_blamed_in_the_end_though_never_alone() -> None:
    ward = Ward()
    (culprit, *others) = entries(200)
    for death in range(DEATHS_MAX):
        again, blamed = ward.take_in([culprit, others[death]], frozenset())
        ward.clear()
        assert bool(blamed) == (death + 1 == DEATHS_MAX)
        ward.forget(others[death][1].ticket)
    assert blamed == [(culprit, DEATHS_MAX)]
    assert again == [others[DEATHS_MAX - 1]]


def test_what_is_withdrawn_is_suspected_no_more() -> None:
    ward = Ward()
    there = entries(8)
    for _ in range(2):
        ward.take_in(there, frozenset())
    assert len(ward) == 8
    assert sorted(tickets_of(ward.withdraw({1, 5, 99}))) == [1, 5]
    assert (len(ward), [len(one) for one in ward.groups]) == (6, [3, 3])
    assert ward.take_in([there[1]], frozenset()) == ([there[1]], [])
