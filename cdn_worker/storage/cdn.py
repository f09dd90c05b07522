"""A CDN before the bucket (CloudFront): signed by a query, or public. What an object really is, is asked of S3 itself."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from cdn_worker.domain.http import Answer, Host, Request
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.ports import Access, Source
from cdn_worker.storage.s3 import HEAD_S, s3_refusal

_PAGE = re.compile(rb"could not be satisfied\.\s*</H\d>\s*<(?:HR|P)\b[^>]*>\s*([^<\r\n]{1,300})", re.IGNORECASE)
"""Why CloudFront itself answers with a page, and no XML: what stands first under its heading."""


class CdnSource:
    """`url` is put before the path that `mapping` gives to a key, and ends with `/`.

    origin   who is asked what an object is now; None: the CDN itself, which may answer from its cache
    """

    def __init__(
        self, url: str, mapping: KeyMapping, origin: Source | None, *, key_pair_id: str = "", now: Callable[[], float] = time.time
    ) -> None:
        self._url, self._mapping, self._key_pair_id = url, mapping, key_pair_id
        self.origin = origin
        self._query = ""
        self._now = now

    def use(self, access: Access) -> None:
        self._query = f"?{access.signed}" if access.signed else ""
        if self.origin is not None:
            self.origin.use(access)

    def uri(self, key: str) -> str:
        return self._url + self._mapping.path(key) if self.origin is None else self.origin.uri(key)

    def get(self, key: str, etag: str, size: int, span: tuple[int, int] | None = None) -> Request:
        headers = [f'If-Match: "{etag}"', "Accept-Encoding: identity"]
        if span is not None:
            headers.append(f"Range: bytes={span[0]}-{span[1]}")
        return Request(Host.SOURCE, "GET", self._url + self._mapping.path(key) + self._query, headers, None, size)

    def head(self, key: str) -> Request:
        if self.origin is not None:
            return self.origin.head(key)
        url = self._url + self._mapping.path(key) + self._query
        return Request(Host.SOURCE, "HEAD", url, ["Accept-Encoding: identity"], deadline_s=HEAD_S)

    def explained(self, answer: Answer) -> str:
        said = s3_refusal(answer, self._now(), self._url)
        page = _PAGE.search(answer.body) if answer.status >= 400 else None
        if page is not None:
            said += f": {page[1].strip().decode('utf-8', 'replace')}"
            if answer.status == 403:
                said += "; it is not about keys: look at the distribution's geographic restrictions and AWS WAF rules"
        elif answer.status == 403:
            signer = f"signed as key pair {self._key_pair_id}" if self._query else "the URL was not signed"
            said += (
                f"; {signer}: is that key in the distribution's trusted key group, does the private key belong to it, "
                "and may the distribution read the bucket? `cdn-worker sign-url` makes one URL to try with curl"
            )
        return said
