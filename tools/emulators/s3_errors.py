"""S3's answer to what it refuses, as XML (S3 API, error responses)."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Failure:
    """What S3 answers instead of doing what it was asked for; `elements` stand beside code and message."""

    status: int
    code: str
    message: str
    elements: dict[str, str] = field(default_factory=dict)


def error_xml(failure: Failure) -> bytes:
    """The body."""
    more = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in failure.elements.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(failure.code)}</Code>'
        f"<Message>{escape(failure.message)}</Message>{more}<RequestId>STAGE0000000000</RequestId><HostId>stage</HostId></Error>"
    ).encode()
