"""What landed by a URL list is taken for the listed object only as far as it can be proved."""

from __future__ import annotations

import hashlib

import pytest

from cdn_worker.domain.integrity import Stored, Verified
from cdn_worker.protocol.url_list_jobs import Row
from cdn_worker.url_lists import proofs

BODY = hashlib.md5(b"body", usedforsecurity=False)


@pytest.mark.parametrize(
    ("etag", "size", "md5", "proved"),
    [
        (BODY.hexdigest(), 4, BODY.digest(), Verified.MD5),
        (BODY.hexdigest(), 4, b"another", None),
        (BODY.hexdigest(), 5, BODY.digest(), None),
        (f"{BODY.hexdigest()}-2", 4, b"whatever", Verified.SIZE),
        (f"{BODY.hexdigest()}-2", 5, b"whatever", None),
        (BODY.hexdigest(), 4, None, Verified.SIZE),
    ],
)
def test_no_more_is_claimed_than_was_compared(etag: str, size: int, md5: bytes | None, proved: Verified | None) -> None:
    stored = Stored(generation=1, size=size, crc32c=b"crc", md5=md5)
    assert proofs.proved(stored, Row("https://h/k", "k", 4, etag, "", 0)) is proved
