"""User metadata as S3 gives it back: ASCII as it is, other text as encoded words (S3 user guide, UsingMetadata; RFC 2047).

Documented: values are decoded by RFC 2047 before they are stored and encoded by it before they are returned; and, by the
guide's own example, raw bytes of a header are taken for ISO-8859-1. Assumed: `Q` where most of a value is ASCII, else `B`
(as JavaMail chooses), and one encoded word for the whole of a value.
"""

from __future__ import annotations

import base64
from email.errors import HeaderParseError
from email.header import decode_header


def encode_mail_safe(value: str) -> str:
    """What S3 returns for a header that came with this value (its bytes read as ISO-8859-1)."""
    text = _decoded(value)
    if text.isascii():
        return text
    raw = text.encode()
    others = sum(not letter.isascii() for letter in text)
    if others * 2 > len(text):
        return f"=?UTF-8?B?{base64.b64encode(raw).decode()}?="
    quoted = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else "_" if byte == 32 else f"={byte:02X}" for byte in raw)
    return f"=?UTF-8?Q?{quoted}?="


def _decoded(value: str) -> str:
    if not value.startswith("=?"):
        return value
    try:
        parts = decode_header(value)
        return "".join(part.decode(charset or "ascii") if isinstance(part, bytes) else part for part, charset in parts)
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return value
