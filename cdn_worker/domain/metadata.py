"""What is kept of an object besides its bytes: content headers, user metadata, and where it came from.

Names are allow-listed and values cleaned, so that nothing a bucket's writer puts into metadata can become a header of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SOURCE_ETAG = "x-goog-source-etag"
"""Custom metadata under which Storage Transfer Service records the source's ETag; so do we, and each knows the other's copies."""
SOURCE_MODIFIED = "x-goog-source-last-modified"
SOURCE_URI = "x-goog-source-uri"
"""Custom metadata of ours: bucket and key of the object that this is a copy of, percent-encoded. Only a newer version of that
very object may replace it unasked."""
METADATA_BYTES_MAX = 8 * 1024
"""Of an object's custom metadata, names and values together (Cloud Storage, quotas)."""
CONTENT = frozenset({"content-type", "content-encoding", "content-disposition", "content-language", "cache-control"})
_NAME = re.compile(r"[a-z0-9_.~!#$%&'*+^`|-]{1,256}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")
_META = "x-amz-meta-"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a stored object carries. `content`: header name in lower case → value; `custom`: the service's custom metadata."""

    content: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether all of it may stand in an HTTP header as it is: other text goes to the service as JSON."""
        return "".join(self.content.values()).isascii() and "".join(self.custom.values()).isascii()


class MetadataTooLarge(ValueError):
    """The sink would refuse the object for its metadata."""


def kept(headers: Mapping[str, str], *, etag: str, modified: str = "", uri: str = "") -> Attributes:
    """The attributes of an object, from the headers of a response (names in lower case).

    etag, modified   of the listing; recorded as custom metadata
    uri              of the object at the source, percent-encoded (`s3://bucket/key`); recorded, too

    Raises MetadataTooLarge.
    """
    content: dict[str, str] = {}
    custom: dict[str, str] = {}
    for name, value in headers.items():
        if name in CONTENT:
            if value:
                content[name] = value if value.isprintable() else _CONTROL.sub(" ", value)
        elif name.startswith(_META):
            short = name[len(_META) :]
            if _NAME.fullmatch(short):
                custom[short] = value if value.isprintable() else _CONTROL.sub(" ", value)
    encoding = content.get("content-encoding")
    if encoding is not None and "aws-chunked" in encoding:
        # How an upload was framed, and by mistake of many clients stored as if it were the object's own.
        rest = ",".join(one for one in (part.strip() for part in encoding.split(",")) if one != "aws-chunked")
        content.pop("content-encoding")
        if rest:
            content["content-encoding"] = rest
    custom[SOURCE_ETAG] = etag if etag.isprintable() else _CONTROL.sub(" ", etag)
    if modified:
        custom[SOURCE_MODIFIED] = modified if modified.isprintable() else _CONTROL.sub(" ", modified)
    if uri:
        custom[SOURCE_URI] = uri
    if len(custom) > 1 + bool(modified) + bool(uri):
        size = sum(len(name.encode()) + len(value.encode()) for name, value in custom.items())
        if size > METADATA_BYTES_MAX:
            raise MetadataTooLarge(f"its metadata is {size:,} bytes, and {METADATA_BYTES_MAX:,} are the most")
    return Attributes(content, custom)
