"""Whether what landed by a URL list is the listed version, where its ETag is no MD5 of its bytes: they are read back.

An object that was uploaded in parts has the MD5 of its parts' MD5s for an ETag (S3, "Checking object integrity"), so the list can
give the service no MD5 of it, and a cache that still has an older version of the same size would go unnoticed. Read back from the
destination it can be computed. How long its parts are S3 tells (HeadObject with `partNumber=1`: the length of that part, and
`x-amz-mp-parts-count`); where a server does not, the sizes in use are tried all at once. Should it tell those of another version,
nothing is proved, and the object is read from S3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Protocol

from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import MultipartMd5, etag_of, part_sizes
from cdn_worker.object_copy.commands import Command, Outcome, Tries, Wait, patient
from cdn_worker.ports import SinkObject
from cdn_worker.protocol.url_list_jobs import Row

PIECE = 8 << 20
AT_ONCE = 8
"""Pieces in memory: 64 MiB."""
TURN_S = 0.02
UNTOLD = (400, 403, 404, 405, 412, 416, 501)
"""S3, or a server like it, does not say how long the parts are. What an object is otherwise is not asked here."""

Asked = Callable[[Callable[[], Request], Sequence[int]], Generator[Command, Outcome, Answer]]


class Parts(Protocol):
    """Where it is asked how an object was uploaded."""

    def head_part(self, key: str) -> Request: ...

    def explained(self, answer: Answer) -> str: ...


class Landed(Protocol):
    """Where it is read."""

    def read(self, name: str, generation: int, first: int, last: int) -> Request: ...


class ReadBack:
    """Of one job. asked: a request to the sink, tried until it is answered; raises Ended."""

    def __init__(self, source: Parts, sink: Landed, asked: Asked, backoff_s: float) -> None:
        self._source, self._sink, self._asked, self._backoff_s = source, sink, asked, backoff_s
        self._at_work = 0

    def is_listed(self, one: SinkObject, row: Row) -> Generator[Command, Outcome, bool]:
        """Whether the bytes of an object at the sink have the ETag that was listed. False, too, where that cannot be told.

        Raises Ended when it cannot be read.
        """
        if not row.size:
            return True  # there is one such object
        while self._at_work >= AT_ONCE:
            yield Wait(TURN_S, exact=True)
        self._at_work += 1
        try:
            return (yield from self._has_etag(one, row))
        finally:
            self._at_work -= 1

    def _has_etag(self, one: SinkObject, row: Row) -> Generator[Command, Outcome, bool]:
        etag = etag_of(row.etag)
        if etag.md5 is None and etag.parts is None:
            return False
        plain = hashlib.md5(usedforsecurity=False)
        sizes = [] if etag.parts is None else (yield from self._part_sizes(row, etag.parts))
        in_parts = [MultipartMd5(size) for size in sizes]
        if etag.md5 is None and not in_parts:
            return False
        for first in range(0, row.size, PIECE):
            last = min(first + PIECE, row.size) - 1
            request = partial(self._sink.read, one.name, one.stored.generation, first, last)
            answer = yield from self._asked(request, (206, 404, 412))
            body = answer.body
            if answer.status not in (200, 206) or len(body) != last - first + 1:
                return False  # it is another generation by now
            for guess in in_parts:
                guess.update(body)
            if etag.md5 is not None:
                plain.update(body)
        if etag.md5 is not None:
            return plain.digest() == etag.md5
        return any(guess.etag() == row.etag for guess in in_parts)

    def _part_sizes(self, row: Row, parts: int) -> Generator[Command, Outcome, list[int]]:
        tries = Tries(self._backoff_s)
        head = partial(self._source.head_part, row.key)
        answer = yield from patient(head, tries, self._source.explained, of="listing", also=(206, *UNTOLD))
        told = answer.headers.get("content-length", "")
        if answer.status in (200, 206) and answer.headers.get("x-amz-mp-parts-count") == str(parts) and told.isdigit():
            return [int(told)] if int(told) else []
        return list(part_sizes(row.size, parts))
