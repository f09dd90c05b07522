"""Who is to blame when processes die: what was there at several deaths is halved until one object is alone with them.

One object that kills its process takes down whatever is with it. To blame all that were there would fail hundreds of healthy
ones; to try each alone would take as long as they are many. By halves it takes a death for each doubling.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence

from cdn_worker.object_copy.commands import Task

ALONE_MAX = 3
"""An object is to blame when so many processes died with nothing else in them."""
DEATHS_MAX = 30
"""Or when it was there at so many deaths, whoever else was: a process that it kills late is never found dead with it alone."""

Entry = tuple[int, Task]
"""A task, and the lane that it came on."""


class Ward:
    """Keeps suspects until they are cleared (`forget`: they have a verdict) or blamed."""

    def __init__(self) -> None:
        self.groups: deque[list[Entry]] = deque()
        self._deaths: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def next_group(self) -> list[Entry]:
        """To be given to a process that has nothing else."""
        return self.groups.popleft()

    def forget(self, ticket: int) -> None:
        self._deaths.pop(ticket, None)
        self._alone.pop(ticket, None)

    def take_in(self, there: Sequence[Entry], group: Collection[int]) -> tuple[list[Entry], list[tuple[Entry, int]]]:
        """A process died with these in it, of which `group` (tickets) were given to it alone.

        Returns what is to be given out as before, and what is to blame, with how many deaths it was there at.
        """
        for _, task in there:
            self._deaths[task.ticket] += 1
        if len(there) == 1:
            self._alone[there[0][1].ticket] += 1
        blamed = [one for one in there if self._to_blame(one[1].ticket)]
        told = [(one, self._deaths[one[1].ticket]) for one in blamed]
        left = [one for one in there if one not in blamed]
        if group:
            suspects = [one for one in left if one[1].ticket in group]
        else:
            suspects = [one for one in left if self._deaths[one[1].ticket] > 1]
        half = (len(suspects) + 1) // 2
        # At the back: the halves in which nobody dies come in between, and show that processes can live.
        self.groups.extend(filter(None, (suspects[:half], suspects[half:])))
        known = {one[1].ticket for one in suspects}
        for one, _ in told:
            self.forget(one[1].ticket)
        return [one for one in left if one[1].ticket not in known], told

    def withdraw(self, tickets: Collection[int]) -> list[Entry]:
        """Give up those of these that no process has; which."""
        withdrawn = [one for group in self.groups for one in group if one[1].ticket in tickets]
        left = ([one for one in group if one[1].ticket not in tickets] for group in self.groups)
        self.groups = deque(filter(None, left))
        for _, task in withdrawn:
            self.forget(task.ticket)
        return withdrawn

    def clear(self) -> None:
        self.groups.clear()

    def _to_blame(self, ticket: int) -> bool:
        return self._alone[ticket] >= ALONE_MAX or self._deaths[ticket] >= DEATHS_MAX


def tickets_of(entries: Iterable[Entry]) -> frozenset[int]:
    return frozenset(task.ticket for _, task in entries)
