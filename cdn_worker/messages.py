"""What passes between the process that plans and those that copy: both are this program, on one machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdn_worker.copying.steps import Resume, Task
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.ports import Access
from cdn_worker.wiring import Setup


@dataclass(slots=True)
class Tasks:
    tasks: list[Task]


@dataclass(slots=True)
class Stop:
    """Begin nothing more; what is in flight may end within `seconds`."""

    seconds: float


@dataclass(slots=True)
class Begin:
    setup: Setup
    access: Access


@dataclass(slots=True)
class Report:
    """Verdicts, how far large objects are, and whether access was refused to the version that is in use."""

    verdicts: list[KeyVerdict] = field(default_factory=list)
    notes: list[tuple[Task, Resume]] = field(default_factory=list)
    renew: int | None = None
