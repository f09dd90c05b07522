"""What the data plane asks of the outside, as protocols. Requests and answers are values: the engine alone sends them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import Stored
from cdn_worker.domain.metadata import Attributes
from cdn_worker.domain.pages import Page
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
    """Where objects are read from. Held by tests/conformance/test_sources.py for every implementation."""

    def use(self, access: Access) -> None:
        """Sign with this from now on."""
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
    """What can be listed."""

    def page(self, *, prefix: str, after: str = "", token: str = "", keys_max: int = 1000) -> Request: ...

    def page_of(self, answer: Answer) -> Page: ...


class Sink(Protocol):
    """Where objects are written. `generation` of a write: what must be there, 0 for nothing."""

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
        """What an answer to `put`, `send`, `progress` or `stat` says is stored; None when it says nothing of it."""
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
