"""What is kept of an object besides its bytes: content headers, user metadata, and where it came from.

Names are allow-listed and values cleaned, so that nothing a bucket's writer puts into metadata can become a header of ours.
"""

from __future__ import annotations

import base64
import binascii
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
_WORD = r"=\?utf-8\?(?:b\?[a-z0-9+/]*={0,2}|q\?(?:[!-<>@-~]|=[0-9a-f]{2})*)\?="
_WORDS = re.compile(rf"{_WORD}(?:[ \t]+{_WORD})*", re.IGNORECASE)


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


def decode_words(value: str) -> str:
    """The text of a value that is nothing but encoded words in UTF-8 (RFC 2047); any other value as it is.

    S3 gives user metadata that is not ASCII back in this form, and takes such a form apart before it stores it: no value that it
    has can be meant to look so (S3 user guide, UsingMetadata).
    """
    if not _WORDS.fullmatch(value):
        return value
    try:
        # A character may be cut in two by the end of a word, so the bytes are put together first.
        return b"".join(map(_bytes_of, value.split())).decode()
    except (binascii.Error, UnicodeDecodeError):
        return value


def _bytes_of(word: str) -> bytes:
    _, _, encoding, text, _ = word.split("?")
    return base64.b64decode(text, validate=True) if encoding in "Bb" else binascii.a2b_qp(text, header=True)


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
                text = decode_words(value) if value.startswith("=?") else value
                custom[short] = text if text.isprintable() else _CONTROL.sub(" ", text)
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
