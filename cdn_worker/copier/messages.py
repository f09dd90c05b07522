"""What passes between the process that plans and those that copy: both are this program, on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdn_worker.domain.outage import Contact
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.engine import Limits
from cdn_worker.object_copy.commands import Resume, Task
from cdn_worker.ports import Access
from cdn_worker.storage.setup import Setup


@dataclass(slots=True)
class Begin:
    """The first message to a process. buffer_bytes: what it may hold; slots: objects in flight, the least and the most."""

    limits: Limits
    buffer_bytes: int
    slots: tuple[int, int]


@dataclass(slots=True)
class Open:
    """A lane, by its number: from where to where."""

    lane: int
    setup: Setup
    access: Access


@dataclass(slots=True)
class Use:
    """Sign with this from now on."""

    lane: int
    access: Access


@dataclass(slots=True)
class Close:
    """Nothing comes on this lane any more."""

    lane: int


@dataclass(slots=True)
class Tasks:
    """Copy these; each is known by its ticket."""

    lane: int
    tasks: list[Task]


@dataclass(slots=True)
class Withdraw:
    """Give back those of these tickets that have not begun."""

    tickets: list[int]


@dataclass(slots=True)
class Stop:
    """Begin nothing more; what is in flight may end within `seconds`."""

    seconds: float


@dataclass(slots=True)
class Report:
    """Verdicts by ticket, how far large objects are, and which (lane, version of the access) was refused.

    concurrency   how many requests each host is given at once by now, and contacts: which servers answer; told now and then
    withdrawn     tickets that had not begun, and will not
    streams       huge objects that this process takes at once; told once
    """

    verdicts: list[tuple[int, KeyVerdict]] = field(default_factory=list)
    notes: list[tuple[Task, Resume]] = field(default_factory=list)
    renew: set[tuple[int, int]] = field(default_factory=set)
    concurrency: dict[str, int] = field(default_factory=dict)
    contacts: Mapping[str, Contact] = field(default_factory=dict)
    withdrawn: list[int] = field(default_factory=list)
    streams: int = 0
