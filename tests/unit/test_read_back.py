"""What landed without an MD5 is taken for the listed version only when its bytes have the listed ETag."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from typing import Any

import pytest

from cdn_worker.domain.http import Answer, Host, Request
from cdn_worker.domain.integrity import MIB, Stored
from cdn_worker.object_copy.commands import Command, Outcome, Tries, Wait, patient
from cdn_worker.ports import SinkObject
from cdn_worker.protocol.url_list_jobs import Row
from cdn_worker.url_lists import read_back
from cdn_worker.url_lists.read_back import AT_ONCE, ReadBack

BODY = random.Random(1).randbytes(11 * MIB)


class S3:
    """One that says how long the first part is, or does not."""

    def __init__(self, first: int | None, parts: int = 2) -> None:
        self.first, self.parts = first, parts

    def head_part(self, key: str) -> Request:
        return Request(Host.SOURCE, "HEAD", f"https://s3/{key}?partNumber=1")

    def explained(self, answer: Answer) -> str:
        return f"S3 answered {answer.status}"

    def answer(self) -> Answer:
        if self.first is None:
            return Answer(501, [b"HTTP/1.1 501 X\r\n"])
        told = f"Content-Length: {self.first}\r\nx-amz-mp-parts-count: {self.parts}\r\n"
        return Answer(206, [b"HTTP/1.1 206 X\r\n", *(f"{one}\r\n".encode() for one in told.splitlines())])


class Gcs:
    def read(self, name: str, generation: int, first: int, last: int) -> Request:
        return Request(Host.SINK, "GET", f"https://gcs/{name}?generation={generation}", [f"Range: bytes={first}-{last}"])


def etag(body: bytes, *cuts: int) -> str:
    """As S3 makes it of parts that end there."""
    ends = [*cuts, len(body)]
    parts = [body[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    whole = hashlib.md5(b"".join(hashlib.md5(one).digest() for one in parts)).hexdigest()
    return f"{whole}-{len(parts)}"


def asked(request: Any, also: Any) -> Generator[Command, Outcome, Answer]:
    return patient(request, Tries(0.0), lambda answer: str(answer.status), of="sink", also=also)


def proves(etag: str, stored: bytes, s3: S3, sent: list[Request] | None = None) -> bool:
    one = SinkObject("in/k", Stored(generation=7, size=len(stored), crc32c=b"crc"))
    walk = ReadBack(s3, Gcs(), asked, 0.0).is_listed(one, Row("https://h/k", "k", len(BODY), etag, "", 0))
    outcome: Outcome = None
    while True:
        try:
            command = walk.send(outcome)
        except StopIteration as end:
            return bool(end.value)
        assert isinstance(command, Request)
        if sent is not None:
            sent.append(command)
        outcome = s3.answer() if command.host is Host.SOURCE else part_of(stored, command)


def part_of(stored: bytes, request: Request) -> Answer:
    first, last = map(int, request.headers[0].removeprefix("Range: bytes=").split("-"))
    return Answer(206, [b"HTTP/1.1 206 X\r\n"], [stored[first : last + 1]])


ODD = 6 * MIB + 4321
OLDER = BODY[:-1] + bytes([BODY[-1] ^ 1])


@pytest.mark.parametrize(
    ("etag", "stored", "s3", "proved"),
    [
        (etag(BODY, ODD), BODY, S3(ODD), True),
        (etag(BODY, ODD), OLDER, S3(ODD), False),
        (etag(BODY, ODD), BODY, S3(None), False),  # no size in use
        (etag(BODY, 8 * MIB), BODY, S3(None), True),  # the commonest
        (etag(BODY, 8 * MIB), OLDER, S3(None), False),
        (etag(BODY, 6 * MIB, 7 * MIB), BODY, S3(6 * MIB, 3), False),  # parts of several sizes
        (etag(BODY, ODD), BODY, S3(6 * MIB, 3), False),  # what it tells is of another version
        (hashlib.md5(BODY).hexdigest(), BODY, S3(None), True),
        (hashlib.md5(BODY).hexdigest(), OLDER, S3(None), False),
        ("opaque", BODY, S3(None), False),
        (etag(BODY, ODD), BODY[:-1], S3(ODD), False),  # cut short
    ],
)
def test_only_bytes_that_have_the_listed_etag_are_the_listed_version(etag: str, stored: bytes, s3: S3, proved: bool) -> None:
    assert proves(etag, stored, s3) is proved


def test_it_is_read_piece_by_piece_and_only_that_generation() -> None:
    sent: list[Request] = []
    assert proves(etag(BODY, ODD), BODY, S3(ODD), sent)
    pieces = [request for request in sent if request.host is Host.SINK]
    assert [one.headers[0] for one in pieces] == ["Range: bytes=0-8388607", f"Range: bytes=8388608-{len(BODY) - 1}"]
    assert all("generation=7" in one.url for one in pieces)


def test_few_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "TURN_S", 0.0)
    back = ReadBack(S3(ODD), Gcs(), asked, 0.0)
    row = Row("https://h/k", "k", len(BODY), etag(BODY, ODD), "", 0)
    one = SinkObject("in/k", Stored(generation=7, size=len(BODY), crc32c=b"crc"))
    walks = [back.is_listed(one, row) for _ in range(AT_ONCE + 2)]
    first = [next(walk) for walk in walks]
    assert [isinstance(command, Wait) for command in first] == [False] * AT_ONCE + [True] * 2
    walks[0].close()
    assert isinstance(next(walks[-1]), Request), "whose turn it is now"
