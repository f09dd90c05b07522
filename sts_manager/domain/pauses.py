"""Whose pause of a followed job's operation it is, where the row has gone on to the next operation. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sts_manager.domain.model import JobStatus, PausedBy, PrefixJob
from sts_manager.domain.names import OperationName


def is_paused_by_person(events: Iterable[PrefixJob], name: OperationName) -> bool:
    """Whether a person paused an operation, and nobody has asked since that it goes on.

    events   what the history has of one row, oldest first. The program's own wish is recorded before its call; so an operation
             whose row became paused without one was paused by a person.
    """
    since: list[PausedBy] = []
    for row in events:
        if row.operation_name == name:
            since = [*since, row.paused_by] if row.status is JobStatus.PAUSED else []
    return bool(since) and since[0] is PausedBy.NOBODY and PausedBy.RESUME not in since
