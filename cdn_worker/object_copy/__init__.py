"""What is done for one object: a generator that yields commands, is sent their outcomes, and returns the object's verdict.

It sends nothing, reads no clock and knows no library, so a test can play both source and sink; the engine plays them for real.
Every rule of the fault table is here: what is tried again, how often, and what is never accepted.
"""

from __future__ import annotations

from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.object_copy.base import OneObject
from cdn_worker.object_copy.commands import Ended, Steps, Task, Tries, Way
from cdn_worker.object_copy.resumable import LargeObject
from cdn_worker.object_copy.single_request import SmallObject

__all__ = ["copied"]


def copied(task: Task, way: Way) -> Steps:
    """Copy one object, whatever it takes within bounds. Never raises; what is not provably there is not `done`."""
    tries = Tries(way.backoff_s)
    try:
        if task.look:
            found = yield from OneObject(task, way, tries).looked()
            if found is not None:
                return found
        if task.size <= way.buffer_max and task.resume is None:
            return (yield from SmallObject(task, way, tries).steps())
        return (yield from LargeObject(task, way, tries).steps())
    except Ended as end:
        return KeyVerdict(
            key=task.key,
            size=task.size,
            etag=task.etag,
            verdict=end.verdict,
            error=end.code,
            details=end.details,
            tries=tries.made,
        )
