"""The parsers and judges of the data plane, each as a function from a sample to plain values that can stand in JSON.

Each of them calls the product's own code with the answer as it came; nothing here reads the answer itself.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from cdn_worker.domain import listing_page
from cdn_worker.domain.http import Answer, Host, Request
from cdn_worker.domain.integrity import Stored, etag_of
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.listing_page import Listed
from cdn_worker.domain.metadata import kept
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.listing.diff import Ground, Planned, Planner, Walk
from cdn_worker.object_copy import copied
from cdn_worker.object_copy.cdn_probe import canary
from cdn_worker.object_copy.commands import Outcome, Renew, Resume, Stream, Streamed, Task, Wait, Way, wrong
from cdn_worker.ports import Access, Source
from cdn_worker.storage.cdn import CdnSource
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source
from tests.wire.samples import Sample

Given = Mapping[str, Any]
Parser = Callable[[Sample, Given], Any]

ENDPOINT = "https://storage.googleapis.com"
SINK = "example-sink"
CDN = "https://d111111abcdef8.cloudfront.net/"
NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
BODY = b"hello world\n"
ETAG = "6f5902ac237024bdd0c176cb93063dc4"
"""The MD5 of BODY."""
ANSWERS_MAX = 200


def _sink() -> GcsSink:
    return GcsSink(ENDPOINT, SINK)


def _now(sample: Sample) -> float:
    """When the sample is read: its clock, else the moment at which the service sent it."""
    if sample.clock is not None:
        return sample.clock.timestamp()
    date = sample.answer.headers.get("date")
    return (NOW if date is None else parsedate_to_datetime(date)).timestamp()


def _s3(sample: Sample) -> S3Source:
    return S3Source("https://s3.eu-central-1.amazonaws.com", "example-source", "eu-central-1", now=lambda: _now(sample))


def _cdn(sample: Sample, given: Given) -> CdnSource:
    """Signed, unless `given` says `signed: false`. What an object is now is asked of the bucket."""
    source = CdnSource(CDN, KeyMapping(), _s3(sample), key_pair_id="KEXAMPLE", now=lambda: _now(sample))
    source.use(Access(signed="Signature=s" if given.get("signed", True) else ""))
    return source


def _base64(value: bytes | None) -> str | None:
    return base64.b64encode(value).decode() if value else None


def _stored(found: Stored | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "generation": found.generation,
        "size": found.size,
        "crc32c": _base64(found.crc32c),
        "md5": _base64(found.md5),
        "source_etag": found.source_etag,
    }


def _verdict(found: KeyVerdict) -> dict[str, Any]:
    return {
        "verdict": found.verdict.value,
        "error": found.error,
        "details": found.details,
        "verified": found.verified.value,
        "tries": found.tries,
    }


def headers(sample: Sample, _given: Given) -> Any:
    return sample.answer.headers


def status(sample: Sample, _given: Given) -> Any:
    return sample.answer.status


def retry_after(sample: Sample, _given: Given) -> Any:
    return sample.answer.retry_after()


def etag(sample: Sample, _given: Given) -> Any:
    """The object's ETag: the MD5 in it, and how many parts it was uploaded in."""
    told = sample.answer.headers
    found = etag_of(told["etag"], encryption=told.get("x-amz-server-side-encryption", ""))
    return {"text": found.text, "md5": None if found.md5 is None else found.md5.hex(), "parts": found.parts}


def metadata(sample: Sample, _given: Given) -> Any:
    """What is kept of an object beside its bytes."""
    found = kept(sample.answer.headers, etag="e", modified="m")
    return {"content": dict(found.content), "custom": sorted(found.custom)}


def sink_stored(sample: Sample, _given: Given) -> Any:
    return _stored(_sink().stored(sample.answer))


def sink_page(sample: Sample, _given: Given) -> Any:
    try:
        page = _sink().page_of(sample.answer)
    except ValueError as error:
        return {"refused": str(error)}
    return {"objects": [{"name": one.name, "stored": _stored(one.stored)} for one in page.objects], "token": page.token}


def sink_session(sample: Sample, _given: Given) -> Any:
    return _sink().session_of(sample.answer)


def sink_persisted(sample: Sample, _given: Given) -> Any:
    return _sink().persisted(sample.answer)


def sink_refusal(sample: Sample, _given: Given) -> Any:
    return _sink().refusal(sample.answer)


def _way(sample: Sample, source: Source | None = None, *, large: bool = False) -> Way:
    return Way(source=source or _s3(sample), sink=_sink(), backoff_s=0.5, buffer_max=0 if large else 1 << 20)


def _head(method: str = "GET") -> Answer:
    """The source's answer for the object that has BODY."""
    lines = [b"HTTP/1.1 200 OK\r\n", f'ETag: "{ETAG}"\r\n'.encode(), f"Content-Length: {len(BODY)}\r\n".encode(), b"\r\n"]
    return Answer(200, lines, [BODY] if method == "GET" else [])


def _play(task: Task, way: Way, answers: Callable[[Request | Stream], Answer | Streamed]) -> dict[str, Any]:
    """The verdict on one object, and which requests it took (`GET source`, `PUT sink`, …)."""
    steps = copied(task, way)
    outcome: Outcome = None
    asked: list[str] = []
    while True:
        try:
            command = steps.send(outcome)
        except StopIteration as stop:
            found: KeyVerdict = stop.value
            return _verdict(found) | {"asked": asked}
        outcome = None
        if isinstance(command, Request | Stream):
            asked.append("stream" if isinstance(command, Stream) else f"{command.method} {command.host.value}")
            assert len(asked) < ANSWERS_MAX, "it goes on for ever"
            outcome = answers(command)


def sink_write(sample: Sample, _given: Given) -> Any:
    """A small object whose PUT is always answered so. BODY is what is written; nothing is there when somebody looks."""

    def answers(command: Request | Stream) -> Answer:
        assert isinstance(command, Request)
        if command.host is Host.SOURCE:
            return _head(command.method)
        return sample.answer if command.method == "PUT" else Answer(404)

    return _play(Task("key", len(BODY), ETAG), _way(sample), answers)


def sink_upload(sample: Sample, _given: Given) -> Any:
    """A large object whose session answers so, to the bytes and when it is asked how far it is."""
    session = f"{ENDPOINT}/upload/storage/v1/b/{SINK}/o?uploadType=resumable&upload_id=u"

    def answers(command: Request | Stream) -> Answer | Streamed:
        if isinstance(command, Stream):
            return Streamed(put=sample.answer, got=None, why=None, crc=0xF0FF7292, read=len(BODY))
        if command.host is Host.SOURCE:
            return _head(command.method)
        if command.method == "POST":
            return Answer(200, [b"HTTP/1.1 200 OK\r\n", f"Location: {session}\r\n".encode(), b"\r\n"])
        return sample.answer if command.method == "PUT" else Answer(404)

    return _play(Task("key", len(BODY), ETAG, resume=Resume("", 0, 0)), _way(sample, large=True), answers)


def source_page(sample: Sample, _given: Given) -> Any:
    try:
        page = _s3(sample).page_of(sample.answer)
    except ValueError as error:
        return {"refused": str(error)}
    return {"entries": [_listed(one) for one in page.entries], "token": page.token}


def _listed(one: Listed) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("key", "size", "etag", "modified", "storage_class")}


def slow_page(sample: Sample, _given: Given) -> Any:
    """Whether the quick scanner and the ordinary parser say the same."""
    return listing_page.parse_page(sample.body) == listing_page._parsed(sample.body)


def source_explained(sample: Sample, _given: Given) -> Any:
    return _s3(sample).explained(sample.answer)


def cdn_explained(sample: Sample, given: Given) -> Any:
    return _cdn(sample, given).explained(sample.answer)


def source_fits(sample: Sample, given: Given) -> Any:
    """Why a head is not that of the object that is wanted; None when it is. given: etag, size, span [first, last] or none."""
    span = given.get("span")
    return wrong(sample.answer, Task("key", given["size"], given["etag"]), None if span is None else (span[0], span[1]))


def source_read(sample: Sample, given: Given) -> Any:
    """A small object whose reads are always answered so; the bucket says that it is there, as it was listed."""
    source: Source = _cdn(sample, given) if given.get("cdn") else _s3(sample)

    def answers(command: Request | Stream) -> Answer:
        assert isinstance(command, Request)
        return sample.answer if command.method == "GET" else _head("HEAD")

    return _play(Task("key", len(BODY), ETAG), _way(sample, source), answers)


def source_canary(sample: Sample, given: Given) -> Any:
    """What the first byte of an object says about a whole prefix: None, "spoiled" (nothing but of itself), or (code, text)."""
    steps = canary(Task("key", len(BODY), ETAG), _way(sample, _cdn(sample, given)), CDN)
    outcome: Outcome = None
    for _ in range(ANSWERS_MAX):
        try:
            command = steps.send(outcome)
        except StopIteration as stop:
            trial = stop.value
            if trial.spoiled:
                return "spoiled"
            return None if trial.wrong is None else {"code": trial.wrong[0], "text": trial.wrong[1]}
        outcome = None
        if isinstance(command, Request):
            outcome = sample.answer if command.method == "GET" else _head("HEAD")
    raise AssertionError("it goes on for ever")


class _Listings:
    """Plays a planner's walks: the source's pages in turn, then an empty last one; nothing is at the sink."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = list(answers)
        self._walks: list[tuple[Walk, Callable[[None], None]]] = []

    def play(self, steps: Walk, done: Callable[[None], None]) -> None:
        self._walks.append((steps, done))

    def run(self) -> None:
        while self._walks:
            steps, done = self._walks.pop(0)
            outcome: Outcome = None
            for _ in range(ANSWERS_MAX):
                try:
                    command = steps.send(outcome)
                except StopIteration:
                    done(None)
                    break
                assert not isinstance(command, Stream)
                outcome = None
                if isinstance(command, Request):
                    outcome = (
                        self._next() if command.host is Host.SOURCE else Answer(200, pieces=[b'{"kind": "storage#objects"}'])
                    )
                else:
                    assert isinstance(command, Wait | Renew)
            else:
                raise AssertionError("it goes on for ever")

    def _next(self) -> Answer:
        return self._answers.pop(0) if self._answers else Answer(200, pieces=[LAST_PAGE])


LAST_PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<IsTruncated>false</IsTruncated><Contents><Key>zz-last</Key><LastModified>2026-11-20T03:00:00.000Z</LastModified>"
    b"<ETag>&quot;6f5902ac237024bdd0c176cb93063dc4&quot;</ETag><Size>12</Size></Contents></ListBucketResult>"
)
"""What comes after a sample that says that more follows: one key, `zz-last`."""


def planner(sample: Sample, _given: Given) -> Any:
    """What a planner does with each key of a listing that begins so: `copy`, or the verdict's error."""
    # A refusal is repeated as often as somebody asks.
    player = _Listings([sample.answer] * (1 if sample.answer.status == 200 else ANSWERS_MAX))
    source = _s3(sample)
    planned: list[Planned] = []
    ground = Ground(source=source, bucket=source, sink=_sink(), mapping=KeyMapping())
    found = Planner(player, ground, deliver=planned.extend, full=lambda: False, lanes=1)
    found.begin()
    player.run()
    if found.error is not None:
        return {"error": found.error.code, "text": str(found.error)}
    return {one.key: one.error if isinstance(one, KeyVerdict) else "copy" for one in planned}


PARSERS: Mapping[str, Parser] = {
    "http.headers": headers,
    "http.status": status,
    "http.retry_after": retry_after,
    "etag": etag,
    "metadata": metadata,
    "gcs.stored": sink_stored,
    "gcs.page": sink_page,
    "gcs.session": sink_session,
    "gcs.persisted": sink_persisted,
    "gcs.refusal": sink_refusal,
    "gcs.write": sink_write,
    "gcs.upload": sink_upload,
    "s3.page": source_page,
    "s3.scan": slow_page,
    "s3.explained": source_explained,
    "s3.fits": source_fits,
    "s3.read": source_read,
    "cdn.explained": cdn_explained,
    "cdn.canary": source_canary,
    "planner": planner,
}
