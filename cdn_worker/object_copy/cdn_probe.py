"""One byte of one object through the CDN, before a prefix is copied through it: a wrong distribution is told at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from cdn_worker.domain.archive import archived_by_head, refused_as_archived
from cdn_worker.domain.http import Answer
from cdn_worker.object_copy.commands import FORBIDDEN_MAX, MISSING_MAX, Command, Ended, Outcome, Renew, Task, Tries, Way, wrong

PERMISSION_DENIED, MISMATCH = "PERMISSION_DENIED", "CDN_MISMATCH"
CANARIES_MAX = 8
"""Objects of a prefix that are tried, one after the other, until one of them can be read or tells what is wrong."""
STALE_MAX = 3
"""So many objects of which the CDN has another version than is listed, one after the other: it is of another bucket."""


class Trial(NamedTuple):
    """What one object says of the CDN.

    wrong     why nothing can be read through it, as (code, text for a person); None when nothing speaks against it
    spoiled   the object cannot be read for a reason of its own (archived, deleted, changed): it says nothing
    stale     the CDN has another version than the bucket, or compressed it, as `wrong` tells. Of one object that may be what its
              cache kept (it is read from the bucket then), or what this kind of content meets; of STALE_MAX of them it says
              what `wrong` says
    """

    wrong: tuple[str, str] | None = None
    spoiled: bool = False
    stale: bool = False


def canary(task: Task, way: Way, url: str) -> Generator[Command, Outcome, Trial]:
    """Try one object through the CDN at `url`. What passes (a busy server) is left to the copying itself."""
    tries = Tries(way.backoff_s)
    span = (0, 0) if task.size else None
    while True:
        answer = yield way.source.get(task.key, task.etag, task.size, span)
        assert isinstance(answer, Answer)
        why = answer.fault.value if answer.status == 0 and answer.fault is not None else wrong(answer, task, span)
        if why not in ("forbidden", "missing", "changed", "compressed", "redirected"):
            return Trial()
        if refused_as_archived(answer.body) is not None:
            return Trial(spoiled=True)
        told = way.source.explained(answer)
        try:
            if why == "forbidden":
                pause = tries.again(PERMISSION_DENIED, told, FORBIDDEN_MAX)
                if b"<Code>" not in answer.body and tries.made == 2:
                    # No word of S3's, or the CDN's: its page for errors may hide an archived object.
                    head = yield way.source.head(task.key)
                    assert isinstance(head, Answer)
                    if head.status == 200 and archived_by_head(head.headers) is not None:
                        return Trial(spoiled=True)
                yield Renew()
            else:
                head = yield way.source.head(task.key)
                assert isinstance(head, Answer)
                if head.status != 200 or head.headers.get("etag") != f'"{task.etag}"':
                    return Trial(spoiled=True)
                says = COMPRESSES.format(url=url, key=task.key) if why == "compressed" else _mismatched(task, url, answer, told)
                pause = tries.again(MISMATCH, says, MISSING_MAX)
        except Ended as end:
            return Trial((end.code, end.details), stale=why in ("changed", "compressed"))
        yield pause


COMPRESSES = (
    "the CDN at {url} compresses what it answers for {key!r}, so its bytes are not those of the object: turn "
    '"Compress objects automatically" off in its cache behaviour'
)


def _mismatched(task: Task, url: str, answer: Answer, told: str) -> str:
    has = f"ETag {answer.headers.get('etag', 'none')}" if answer.status in (200, 206) else f"status {answer.status}"
    return (
        f"the CDN at {url} has {has} for {task.key!r}, and the bucket has it with ETag {task.etag}: is the distribution's origin "
        f"this bucket, its origin path empty, and --substitute right? ({told})"
    )
