"""What proves that two copies are the same: ETags of S3, hashes of Cloud Storage, and what was really compared.

An ETag is the MD5 of the object only when it was uploaded in one part and not under a KMS or customer key (S3, object
integrity). With `-N` it is the MD5 of the N parts' MD5s, and the part size is not told; then it can be recomputed only by
somebody who guesses the size.
"""

from __future__ import annotations

import hashlib
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MIB = 1 << 20
PARTS_MAX = 10_000
PART_BYTES_MIN = 5 * MIB
_MD5 = re.compile(r"[0-9a-f]{32}")
_MULTIPART = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,4})")
COMMON_PART_SIZES = tuple(size * MIB for size in (5, 6, 7, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
"""What the tools in use cut parts to: 8 (aws cli, boto3), 5 (the smallest), 15, 16, 64, 100 and powers of two."""


class Verified(StrEnum):
    """What was compared, strongest first; nothing is claimed beyond it (INVARIANTS 2)."""

    MD5 = "md5"  # the service checked the source's own MD5 against the bytes it stored
    CRC32C = "crc32c"  # the service's crc32c equals that of the bytes that were read
    SIZE = "size"  # sizes only
    NONE = ""


@dataclass(frozen=True, slots=True)
class Etag:
    """An ETag without its quotes. `hashed`: whether it may be an MD5 at all (not under SSE-KMS or SSE-C)."""

    text: str
    hashed: bool = True

    @property
    def md5(self) -> bytes | None:
        """The MD5 of the object's bytes, if the ETag is one."""
        return bytes.fromhex(self.text) if self.hashed and _MD5.fullmatch(self.text) else None

    @property
    def parts(self) -> int | None:
        """How many parts it was uploaded in, for a multipart ETag."""
        found = _MULTIPART.fullmatch(self.text)
        return int(found[2]) if found is not None and self.hashed else None


def etag_of(header: str, *, encryption: str = "") -> Etag:
    """An ETag header as S3 or a CDN sends it. `encryption`: `x-amz-server-side-encryption`, if it was sent.

    A weak ETag (`W/"…"`) says that the bytes may have been changed on the way, so it proves nothing.
    """
    weak = header.startswith("W/")
    text = header.removeprefix("W/").strip('"')
    return Etag(text, hashed=not weak and encryption not in ("aws:kms", "aws:kms:dsse", "sse-c"))


def part_sizes(size: int, parts: int) -> Iterator[int]:
    """The part sizes that would cut `size` bytes into `parts`, likely ones first: sizes in use, then whole MiB."""
    if not 0 < parts <= PARTS_MAX or size <= 0:
        return
    if parts == 1:
        yield max(size, PART_BYTES_MIN)
        return
    smallest, largest = -(-size // parts), (size - 1) // (parts - 1)
    fit = [one for one in COMMON_PART_SIZES if smallest <= one <= largest]
    yield from fit
    whole = -(-smallest // MIB) * MIB
    if whole <= largest and whole not in fit:
        yield whole


class MultipartMd5:
    """Recomputes a multipart ETag while bytes stream by, for one guess of the part size."""

    def __init__(self, part_size: int) -> None:
        if part_size <= 0:
            raise ValueError("a part has at least one byte")
        self._part_size, self._left = part_size, part_size
        self._whole = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)
        self._parts = 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            piece = view[: self._left]
            self._part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
            if not self._left:
                self._close()

    def etag(self) -> str:
        """The ETag of what was seen. To be asked once, at the end."""
        if self._left != self._part_size or not self._parts:
            self._close()
        return f"{self._whole.hexdigest()}-{self._parts}"

    def _close(self) -> None:
        self._whole.update(self._part.digest())
        self._part = hashlib.md5(usedforsecurity=False)
        self._parts += 1
        self._left = self._part_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object at the sink as the service describes it. Hashes are raw bytes.

    crc32c           empty where a listing does not tell it: of objects that a KMS key encrypts
    md5              None there, too, and for composed objects
    source_etag, source_modified, source_uri   of what it was copied from, as recorded with it; empty when nobody did
    """

    generation: int
    size: int
    crc32c: bytes
    md5: bytes | None = None
    source_etag: str = ""
    source_modified: str = ""
    source_uri: str = ""


def alike(stored: Stored, *, size: int, etag: str) -> Verified | None:
    """How far a stored object is proved to be the listed one: by its MD5, or by size and the source's ETag recorded with it."""
    if stored.size != size:
        return None
    if stored.md5 is not None and stored.md5 == etag_of(etag).md5:
        return Verified.MD5
    return Verified.SIZE if stored.source_etag == etag else None


def doubtful(stored: Stored, *, size: int, etag: str) -> bool:
    """Whether a listing tells too little to say if an object is the listed one: its hashes would, and a get tells them.

    So it is where a KMS key encrypts it, and whoever wrote it recorded no ETag of its source.
    """
    untold = not stored.crc32c and stored.md5 is None and not stored.source_etag
    return untold and stored.size == size and etag_of(etag).md5 is not None


def equal(stored: Stored, *, size: int, crc32c: bytes | None, md5: bytes | None) -> Verified | None:
    """How far an object at the sink is proved to be the same; None when it is another one.

    `crc32c`: of the bytes that were read, None when none were; `md5`: as the source tells it.
    """
    if stored.size != size:
        return None
    if crc32c is not None and stored.crc32c != crc32c:
        return None
    if md5 is not None and stored.md5 is not None:
        return Verified.MD5 if stored.md5 == md5 else None
    return Verified.CRC32C if crc32c is not None else Verified.SIZE


def goog_hash(*, crc32c: bytes | None = None, md5: bytes | None = None) -> str:
    """The `x-goog-hash` header with which the service checks what it receives; empty when there is nothing to check."""
    pairs = (("crc32c", crc32c), ("md5", md5))
    return ",".join([f"{name}={b2a_base64(value, newline=False).decode()}" for name, value in pairs if value is not None])


def goog_hashes(header: str) -> dict[str, bytes]:
    """The hashes of an `x-goog-hash` header. Raises ValueError for what is none."""
    found = {}
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name:
            found[name] = a2b_base64(value, strict_mode=True)
    return found
