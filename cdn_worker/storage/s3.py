"""S3 by signed requests: objects, and pages of a bucket's listing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.http import Answer, Host, Request
from cdn_worker.domain.keys import encoded
from cdn_worker.domain.listing_page import QUOTES, Page, parse_page
from cdn_worker.domain.ordering import bucket_fault
from cdn_worker.domain.sigv4 import ATTRIBUTES, SigV4, canonical_query
from cdn_worker.ports import Access

PAGE_BYTES_MAX = 16 << 20
"""1,000 keys of 1,024 bytes, each percent-encoded threefold, and what stands around them."""
HEAD_S = 30.0
RESTORE_STATUS = "RestoreStatus"
"""What a listing tells besides, of archived objects, when it is asked (S3 API, ListObjectsV2). A server that does not know it
ignores the question: what it has in an archive class stays unreadable to us then, as nobody asks of each key on its own."""
_CODE = re.compile(rb"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})")
_REGION = re.compile(rb"<Region>([a-z0-9-]{1,40})</Region>")
SKEW_S = 300


class S3Source:
    """One bucket. `endpoint`: `https://s3.REGION.amazonaws.com`, or a server of one's own; the bucket is put into the path."""

    origin = None
    """It is the store itself."""

    def __init__(self, endpoint: str, bucket: str, region: str, now: Callable[[], float] = time.time) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadInput(f"the S3 endpoint {endpoint!r} is no URL: it is written https://HOST")
        if (fault := bucket_fault(bucket)) is not None:
            raise BadInput(fault)
        self.bucket, self.region = bucket, region
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.netloc
        self._uri = f"s3://{bucket}/"
        self.where = f"{self._origin}, bucket s3://{bucket}"
        self._now = now
        self._signer: SigV4 | None = None
        self._second, self._stamp = -1, ""

    def use(self, access: Access) -> None:
        keys = access.aws
        if keys is None:
            self._signer = None
        elif self._signer is None or self._signer.keys != keys:
            self._signer = SigV4(keys, self.region)

    def uri(self, key: str) -> str:
        return self._uri + encoded(key)

    def get(self, key: str, etag: str, size: int, span: tuple[int, int] | None = None) -> Request:
        path = f"/{self.bucket}/{encoded(key)}"
        headers = self._signed("GET", path)
        headers.append(f'If-Match: "{etag}"')
        if span is not None:
            headers.append(f"Range: bytes={span[0]}-{span[1]}")
        return Request(Host.SOURCE, "GET", self._origin + path, headers, None, size)

    def head(self, key: str) -> Request:
        path = f"/{self.bucket}/{encoded(key)}"
        return Request(Host.SOURCE, "HEAD", self._origin + path, self._signed("HEAD", path), deadline_s=HEAD_S)

    def head_part(self, key: str) -> Request:
        """Ask how long the first part of an object is that was uploaded in parts, and how many they are.

        The answer has that part's Content-Length and `x-amz-mp-parts-count` (S3 API, HeadObject, partNumber).
        """
        path, query = f"/{self.bucket}/{encoded(key)}", "partNumber=1"
        return Request(Host.SOURCE, "HEAD", f"{self._origin}{path}?{query}", self._signed("HEAD", path, query), deadline_s=HEAD_S)

    def page(self, *, prefix: str, after: str = "", token: str = "", keys_max: int = 1000) -> Request:
        values = {"list-type": "2", "encoding-type": "url", "prefix": prefix, "max-keys": str(keys_max)}
        if token:
            values["continuation-token"] = token
        elif after:
            values["start-after"] = after
        query = canonical_query(values)
        path = f"/{self.bucket}"
        url = f"{self._origin}{path}?{query}"
        headers = self._signed("GET", path, query, RESTORE_STATUS)
        return Request(Host.SOURCE, "GET", url, headers, None, PAGE_BYTES_MAX, HEAD_S * 2)

    def page_of(self, answer: Answer) -> Page:
        """The page in an answer. Raises ValueError for what is none."""
        return parse_page(answer.body)

    def explained(self, answer: Answer) -> str:
        return s3_refusal(answer, self._now(), f"s3://{self.bucket}")

    def _signed(self, method: str, path: str, query: str = "", attributes: str = "") -> list[str]:
        if self._signer is None:
            return [f"{ATTRIBUTES}: {attributes}"] if attributes else []
        second = int(self._now())
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._signer.headers(method, self._host, path, query, self._stamp, attributes)


def s3_refusal(answer: Answer, now: float, where: str) -> str:
    """What S3, or a CDN before it, said: status, code, message, the right region, and a clock that differs."""
    body = answer.body
    code, message = _CODE.search(body), _MESSAGE.search(body)
    said = f"{where} answered {answer.status}" if answer.status else f"{where} did not answer"
    if code is not None:
        said += f" {code[1].decode('utf-8', 'replace')}"
    if message is not None:
        said += f": {unescape(message[1].decode('utf-8', 'replace'), QUOTES)}"
    if answer.said:
        said += f" ({answer.said})"
    named = _REGION.search(body)  # not each refusal has the header
    region = answer.headers.get("x-amz-bucket-region") or (named[1].decode() if named is not None else "")
    if region and answer.status in (301, 307, 400):
        said += f"; the bucket is in {region}: --s3-region {region}"
    try:
        skew = now - parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return said
    if abs(skew) > SKEW_S:
        fast = "fast" if skew > 0 else "slow"
        said += f"; this machine's clock is {abs(skew) / 60:.0f} minutes {fast}: signatures depend on it, set it right"
    return said
