"""The commands that the steps of an object yield, their outcomes, and what all steps share: the way, the tries, the judgement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field
from typing import NamedTuple

from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.domain.integrity import MultipartMd5
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.listing_page import Listed
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.ports import Sink, Source

BUFFER_MAX = 8 << 20
"""Objects up to this are read whole and written by one request; larger ones stream."""
CHECKPOINTS = 256
FORBIDDEN_MAX = 3
CHANGED_MAX = 3
MISSING_MAX = 3
BROKEN_MAX = 5
BUSY_MAX = 10
REFUSED_MAX = 3
BACKOFF_S_MAX = 60.0


class Resume(NamedTuple):
    """How far a large object got: an upload session, and the crc32c of the bytes before `offset`. The address is a secret."""

    session: str
    offset: int
    crc: int


class Task(NamedTuple):
    """One object to copy.

    generation   of the object that may be replaced at the sink; 0: nothing may be there
    look         somebody may have copied it already: look at the sink before reading
    ticket       by which whoever gave it out knows it again
    """

    key: str
    size: int
    etag: str
    modified: str = ""
    generation: int = 0
    resume: Resume | None = None
    look: bool = False
    ticket: int = 0

    @classmethod
    def of(cls, listed: Listed, generation: int = 0) -> Task:
        return cls(listed.key, listed.size, listed.etag, listed.modified, generation)


class Wait(NamedTuple):
    """Let some seconds pass; whoever waits adds jitter. `exact`: the service said how long."""

    seconds: float
    exact: bool = False


class Renew(NamedTuple):
    """Have the access renewed: a signature or a token may have expired."""


class Note(NamedTuple):
    """How far a large object is, to be kept for whoever has to go on with it."""

    task: Task
    resume: Resume


@dataclass(slots=True, kw_only=True)
class Stream:
    """Read start…size-1 from the source and send send_from…size-1 to the sink, through a bounded queue.

    get      the request for bytes first…last; for all of the object when not `ranged`
    wrong    why the head of an answer to that is not acceptable; None when it is. Asked before a byte of it is sent on.
    crc      of the bytes before `start`; `checkpoints` gets (offset, crc) pairs as the bytes go by
    noted    is told now and then how far it is: whoever plays the stream sets it
    """

    get: Callable[[int, int], Request]
    wrong: Callable[[Answer, int, int], str | None]
    put: Request
    size: int
    start: int
    send_from: int
    crc: int
    ranged: bool
    md5: MultipartMd5 | None
    checkpoints: list[tuple[int, int]]
    task: Task
    session: str
    noted: Callable[[int, int], None] = lambda _offset, _crc: None


@dataclass(slots=True, kw_only=True)
class Streamed:
    """How that went. `why` and `got`: the read that failed; `put`: the sink's answer; crc: of all `read` bytes from 0 on."""

    put: Answer | None
    got: Answer | None
    why: str | None
    crc: int
    read: int


Command = Request | Wait | Renew | Note | Stream
Outcome = Answer | Streamed | None
Steps = Generator[Command, Outcome, KeyVerdict]
Asking = Generator[Command, Outcome, Answer]
Pausing = Generator[Command, Outcome, None]


class Ended(Exception):
    """This object comes to nothing: a constant code, and details for a person."""

    def __init__(self, code: str, details: str, verdict: Verdict = Verdict.FAILED) -> None:
        super().__init__(code)
        self.code, self.details, self.verdict = code, details, verdict


@dataclass(slots=True, kw_only=True)
class Way:
    """What a copy of many objects has in common.

    backoff_s        the first wait; it doubles
    multipart_etags  recompute the ETags of objects that were uploaded in parts (costs an MD5 of every byte)
    buffer_max       objects up to this, in bytes, are read whole and written by one request; larger ones stream
    """

    source: Source
    sink: Sink
    mapping: KeyMapping = field(default_factory=KeyMapping)
    backoff_s: float = 0.5
    multipart_etags: bool = True
    buffer_max: int = BUFFER_MAX


class Tries:
    """How often each thing went wrong: every loop over an object is bounded by it."""

    __slots__ = ("_backoff_s", "_counts", "made")

    def __init__(self, backoff_s: float) -> None:
        self._backoff_s = backoff_s
        self._counts: dict[str, int] = {}
        self.made = 1

    def forgive(self) -> None:
        """Something was achieved since: what went wrong before counts no more. A huge object may meet many passing faults."""
        self._counts.clear()

    def again(self, code: str, details: str, most: int, retry_after_s: float = 0.0) -> Wait:
        """The wait before another try. Raises Ended after `most` of them."""
        count = self._counts[code] = self._counts.get(code, 0) + 1
        if count >= most:
            raise Ended(code, details)
        self.made += 1
        if retry_after_s > 0:
            return Wait(retry_after_s, exact=True)
        return Wait(min(BACKOFF_S_MAX, self._backoff_s * (1 << (count - 1))))


def patient(
    request: Callable[[], Request], tries: Tries, explained: Callable[[Answer], str], *, of: str, also: Collection[int] = ()
) -> Asking:
    """One answer of status 200 (or one of `also`), however often it must be asked for. Raises Ended: `of` is its code's stem.

    request   makes it: anew for each try, as the access that is in it may have been renewed
    """
    while True:
        answer = yield request()
        assert isinstance(answer, Answer)
        if answer.fault is None and (answer.status == 200 or answer.status in also):
            return answer
        told = explained(answer)
        if answer.fault is not None or answer.status in (408, 429) or answer.status >= 500:
            yield tries.again(f"{of}_busy", told, BUSY_MAX, answer.retry_after() if answer.status else 0.0)
        elif answer.status in (401, 403) or expired(answer):
            pause = tries.again(f"{of}_refused", told, REFUSED_MAX)
            yield Renew()
            yield pause
        else:
            raise Ended(f"{of}_missing" if answer.status == 404 else of, told)


def wrong(answer: Answer, task: Task, span: tuple[int, int] | None) -> str | None:
    """Why a head that the source sent is not that of the object we want; None when it is.

    span: the bytes that were asked for; None for the whole. The ETag must be the listing's, strong, on every response: what a CDN
    compressed has the same as a weak one (CloudFront, "Serve compressed files").
    """
    status = answer.status
    if status not in (200, 206):
        return _STATUSES.get(status) or ("source_busy" if status >= 500 else "redirected" if 300 <= status < 400 else "refused")
    headers = answer.headers
    etag = headers.get("etag", "")
    if etag != f'"{task.etag}"':
        return "compressed" if etag == f'W/"{task.etag}"' else "changed"
    if span is None:
        # A stored encoding (gzip at rest) leaves the length alone; one that was put on for us changes it, and is refused.
        said = headers.get("content-length")
        return None if status == 200 and (said is None or said == str(task.size)) else "length"
    if status == 200:
        whole = span[0] == 0 and headers.get("content-length") == str(task.size)
        return None if whole else "whole"
    return None if headers.get("content-range") == f"bytes {span[0]}-{span[1]}/{task.size}" else "range"


def expired(answer: Answer) -> bool:
    """Whether S3 says that temporary credentials have expired, which it does by 400 (S3, error responses: ExpiredToken).

    A HEAD is answered without a body, so after one it may be.
    """
    return answer.status == 400 and (not answer.body or any(code in answer.body for code in _EXPIRED))


_EXPIRED = (b"<Code>ExpiredToken</Code>", b"<Code>TokenRefreshRequired</Code>")
_STATUSES = {403: "forbidden", 401: "forbidden", 404: "missing", 410: "missing", 412: "changed", 416: "missing"}
_STATUSES |= {408: "source_busy", 429: "throttled", 503: "throttled"}
BUSY = {"source_busy", "throttled", Fault.CONNECT.value, Fault.SLOW.value, Fault.TIMEOUT.value}
