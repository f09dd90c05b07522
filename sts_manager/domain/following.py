"""What is known of a transfer job with an event stream, beside what its present operation says. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sts_manager.domain.names import Prefix

FOLLOWED_FAILURES = "FOLLOWED_OBJECTS_FAILED"
"""The error code of a followed prefix with objects that failed and are not at the destination; it goes on all the same."""
NO_OPERATION = "NO_OPERATION"
"""The error code of a followed prefix whose transfer job is enabled, and has no operation any more."""
QUEUE_MISSING = "EVENT_QUEUE_MISSING"
"""The error code of an intent to follow, as long as its daemon was not told the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong: a constant code, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """How it stands with a transfer job of which an operation ends and another one begins every day (event-driven transfers).

    between    none of its operations is at work: the service is expected to begin the next one
    cause      what the last operation ended with, where that was not the end of its day
    over       why nobody listens any more (the job was deleted, disabled, or has expired); empty while it is enabled
    standing   by prefix, what has failed and is not at the destination; None where that is not known at the moment
    others_move, others_paused   of what is at work beside the present operation (the one before it, and repairs): whether some
                                 of it moves, and whether some is paused
    """

    between: bool = False
    cause: Problem | None = None
    over: str = ""
    standing: Mapping[Prefix, str] | None = None
    others_move: bool = False
    others_paused: bool = False
