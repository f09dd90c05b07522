"""What the data plane asks of the outside, as protocols. Requests and answers are values: the engine alone sends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import Stored
from cdn_worker.domain.listing_page import Page
from cdn_worker.domain.metadata import Attributes
from cdn_worker.domain.sigv4 import AwsKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The right to read and write, for a while: made by who holds the keys, handed to who copies. Never logged, never stored.

    aws       for S3; None where nothing is read from it
    signed    the query of a CDN's signed URL; empty for a public one
    bearer    the sink's OAuth token; empty against a stage
    until     when the first of them must be renewed; version: counts renewals
    """

    aws: AwsKeys | None = None
    signed: str = ""
    bearer: str = ""
    until: datetime | None = None
    version: int = 0

    def __repr__(self) -> str:
        return f"Access(version={self.version}, until={self.until})"


class SinkObject(NamedTuple):
    """One object of a sink's listing, as far as a copy is compared with it. Hashes are raw bytes."""

    name: str
    stored: Stored


@dataclass(frozen=True, slots=True)
class SinkPage:
    """In the order of the names; token: of the next page, None on the last one."""

    objects: list[SinkObject]
    token: str | None


class Source(Protocol):
    """Where objects are read from. Both implementations are held to it by tests/wire and tests/integration/test_faults.py.

    origin   the store itself, where this is a cache before it and the store can be read; else None
    """

    @property
    def origin(self) -> Source | None: ...

    def use(self, access: Access) -> None:
        """Sign with this from now on."""
        ...

    def uri(self, key: str) -> str:
        """What is recorded with a copy of it: bucket and key, percent-encoded, whatever way its bytes come."""
        ...

    def get(self, key: str, etag: str, size: int, span: tuple[int, int] | None = None) -> Request:
        """Read an object, or the bytes first…last of it, only if it still has this ETag."""
        ...

    def head(self, key: str) -> Request:
        """Ask what an object is now: of the store itself where it can be asked, not of a cache before it."""
        ...

    def explained(self, answer: Answer) -> str:
        """Why it may have refused, for an operator; without any secret."""
        ...


class Bucket(Protocol):
    """What can be listed. `where`: the server and the bucket, for an operator."""

    where: str

    def page(self, *, prefix: str, after: str = "", token: str = "", keys_max: int = 1000) -> Request: ...

    def page_of(self, answer: Answer) -> Page: ...


class Sink(Protocol):
    """Where objects are written. `generation` of a write: what must be there, 0 for nothing. `where`: as of a bucket."""

    where: str

    def use(self, access: Access) -> None: ...

    def put(self, name: str, attributes: Attributes, body: bytes, hashes: str, generation: int) -> Request:
        """Write an object in one request. Only for a name and attributes of which `simple` is true."""
        ...

    def simple(self, name: str, attributes: Attributes) -> bool:
        """Whether one request can carry it as it is."""
        ...

    def begin(self, name: str, attributes: Attributes, size: int, md5: bytes | None, generation: int) -> Request:
        """Begin a resumable upload; `session_of` reads its address from the answer."""
        ...

    def session_of(self, answer: Answer) -> str | None: ...

    def send(self, session: str, first: int, total: int) -> Request:
        """Send bytes first…total-1 to a session; the body is streamed, or put into the request by the caller."""
        ...

    def progress(self, session: str, total: int) -> Request:
        """Ask how far a session got; `persisted` reads the number of bytes from the answer."""
        ...

    def persisted(self, answer: Answer) -> int: ...

    def stored(self, answer: Answer) -> Stored | None:
        """What an answer to `put`, `send`, `progress` or `stat` says is stored.

        None when it does not say generation, size and crc32c: whoever wrote asks by `stat` then, and does not write again.
        """
        ...

    def stat(self, name: str) -> Request: ...

    def delete(self, name: str, generation: int) -> Request:
        """Delete just that generation."""
        ...

    def refusal(self, answer: Answer) -> str:
        """What the service said, for an operator: code and message."""
        ...

    def page(self, *, prefix: str, start: str = "", end: str = "", token: str = "") -> Request: ...

    def page_of(self, answer: Answer) -> SinkPage: ...


class QueueUnavailable(CdnWorkerError):
    """The queue cannot be reached or written at the moment; what was asked for may or may not have been done. Ask again later."""


class Superseded(CdnWorkerError):
    """Another leader with a later lease has written since: what was to be written was not."""


@dataclass(frozen=True, slots=True)
class Leased:
    """A message that is ours until its lease ends.

    attempt  how often it was taken and nothing came of it, this time included (best effort)
    again    whether somebody had it before, for whatever reason it comes again
    reason   why it was buried: of dead letters only
    """

    body: bytes
    token: str
    attempt: int = 1
    reason: str = ""
    again: bool = False


class WorkQueue(Protocol):
    """Messages, each delivered at least once, in no order. Held by tests/conformance/work_queue.py for every implementation.

    A message that is leased is nobody else's until the lease ends, is released, or is acknowledged. One that was delivered
    `deliveries_max` times in vain goes to the dead letters: whoever took it died or hung with it. To be given back is not to have
    been delivered in vain. Safe to use from several threads. All raise QueueUnavailable.
    """

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Add messages; they are safe when this returns. After QueueUnavailable some of them may be there: publish all again."""
        ...

    def lease(self, most: int, wait_s: float = 0.0, *, bytes_max: int | None = None) -> list[Leased]:
        """At most `most` messages; waits that long for the first one.

        bytes_max: of all of them together, but for the last one; where a service cannot be told that, as near as can be.
        """
        ...

    def extend(self, leases: Sequence[Leased]) -> list[Leased]:
        """Begin each lease anew, where it is still ours; those that are not any more, as far as that can be told.

        Their holder lives, so that they ended counts for nothing, where that can be taken back.
        """
        ...

    def ack(self, leases: Sequence[Leased]) -> None:
        """They are done with. A lease that has ended meanwhile is left alone: whoever has the message now answers for it."""
        ...

    def release(self, leases: Sequence[Leased], *, counted: bool = False) -> None:
        """Give them back at once. counted: something was tried, and came to nothing: it counts as a delivery in vain."""
        ...

    def bury(self, lease: Leased, reason: str) -> None:
        """Put a message among the dead letters, and say why."""
        ...

    def backlog(self) -> int | None:
        """How many messages wait, roughly; None where that cannot be told."""
        ...

    def close(self) -> None: ...


class JobState(StrEnum):
    """What a worker may do with the tasks of a job. A job that is not on the board is running."""

    PAUSED = "paused"
    OVER = "over"


class Board(Protocol):
    """Where the manager posts what has become of jobs, and workers look. Held by tests/conformance/work_queue.py."""

    def bind(self, migration: str) -> str:
        """Name the migration that these queues are for, unless they are for one already. Returns which."""
        ...

    def post(self, states: Mapping[str, JobState], *, epoch: int = 0) -> None:
        """Replace what is posted: every job that is paused, or over while messages of it may be about.

        epoch: of the writer's lease. Raises Superseded, and changes nothing, where one of a later lease has posted.
        """
        ...

    def read(self) -> Mapping[str, JobState]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """The queues of a pool.

    copies    copy tasks; huge: those of one huge object each, so that nothing waits behind them
    dead      messages of any of the others that nobody could deal with
    lease_s   how long a lease lasts unless it is extended
    id        of these queues: others, under the same address (a file that was lost), have another one
    warnings  what is not as it should be, for an operator to read once
    """

    lists: WorkQueue
    copies: WorkQueue
    huge: WorkQueue
    reports: WorkQueue
    dead: WorkQueue
    board: Board
    lease_s: float = 60.0
    id: str = ""
    warnings: tuple[str, ...] = ()

    def close(self) -> None:
        for queue in (self.lists, self.copies, self.huge, self.reports, self.dead):
            queue.close()
        self.board.close()
