"""Cloud Storage: small objects by one PUT of the XML API, large ones by a resumable session of the JSON API.

The XML API's multipart uploads take no preconditions, so an object that somebody else put there meanwhile would be overwritten;
sessions take them (ADR 0014). Names whose path a server might normalise (`.` and `..` segments), and metadata that no header
can carry, go by a session too: there both are in a query and in JSON.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import unescape

from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.http import DEADLINE_S, Answer, Host, Request
from cdn_worker.domain.integrity import Stored, goog_hashes
from cdn_worker.domain.keys import encoded
from cdn_worker.domain.listing_page import QUOTES
from cdn_worker.domain.metadata import SOURCE_ETAG, SOURCE_MODIFIED, SOURCE_URI, Attributes
from cdn_worker.ports import Access, SinkObject, SinkPage

CALL_S = 60.0
PAGE_BYTES_MAX = 64 << 20
JSON = "content-type: application/json; charset=UTF-8"
FIELDS = "name,size,generation,crc32c,md5Hash,metadata"
"""What is asked of an object. A listing leaves the hashes out of one that a KMS key encrypts; a get tells them."""
_DOTS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")
_JSON_CONTENT = {
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "content-disposition": "contentDisposition",
    "content-language": "contentLanguage",
    "cache-control": "cacheControl",
}
_CODE = re.compile(rb"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,300})</Message>")
_DETAILS = re.compile(rb"<Details>([^<]{1,1000})")


class GcsSink:
    """One bucket. storage_class and kms_key are set on every object that is written; empty leaves the bucket's default."""

    def __init__(self, endpoint: str, bucket: str, *, storage_class: str = "", kms_key: str = "") -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadInput(f"the Cloud Storage endpoint {endpoint!r} is no URL: it is written https://HOST")
        self.bucket = bucket
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self.where = f"{self._origin}, bucket gs://{bucket}"
        self._put_at = f"{self._origin}/{bucket}/"
        self._storage_class, self._kms_key = storage_class, kms_key
        self._fixed: list[str] = []
        if storage_class:
            self._fixed.append(f"x-goog-storage-class: {storage_class}")
        if kms_key:
            self._fixed.append(f"x-goog-encryption-kms-key-name: {kms_key}")
        self._auth: list[str] = []
        self._lines = list(self._fixed)

    def use(self, access: Access) -> None:
        self._auth = [f"Authorization: Bearer {access.bearer}"] if access.bearer else []
        self._lines = self._auth + self._fixed

    def simple(self, name: str, attributes: Attributes) -> bool:
        return attributes.plain and not ("." in name and _DOTS.search(name))

    def put(self, name: str, attributes: Attributes, body: bytes, hashes: str, generation: int) -> Request:
        content = attributes.content
        headers = [*self._lines, f"x-goog-if-generation-match: {generation}", f"x-goog-hash: {hashes}"]
        headers += [f"{key}: {value}" for key, value in content.items()]
        if "content-type" not in content:
            headers.append("content-type: application/octet-stream")
        headers += [f"x-goog-meta-{key}: {value}" for key, value in attributes.custom.items()]
        return Request(Host.SINK, "PUT", self._put_at + encoded(name), headers, body)

    def begin(self, name: str, attributes: Attributes, size: int, md5: bytes | None, generation: int) -> Request:
        resource = _resource(attributes)
        if self._storage_class:
            resource["storageClass"] = self._storage_class
        if md5 is not None:
            resource["md5Hash"] = base64.b64encode(md5).decode()
        url = (
            f"{self._origin}/upload/storage/v1/b/{quote(self.bucket, safe='')}/o?uploadType=resumable"
            f"&name={quote(name, safe='')}&ifGenerationMatch={generation}"
        )
        if self._kms_key:
            url += f"&kmsKeyName={quote(self._kms_key, safe='')}"
        headers = [*self._auth, JSON, f"x-upload-content-length: {size}"]
        return Request(Host.SINK, "POST", url, headers, json.dumps(resource).encode(), deadline_s=CALL_S)

    def session_of(self, answer: Answer) -> str | None:
        """The address of a session that was begun; only one at this very service is taken."""
        where = answer.headers.get("location", "")
        return where if answer.status in (200, 201) and where.startswith(f"{self._origin}/") else None

    def send(self, session: str, first: int, total: int) -> Request:
        span = f"bytes {first}-{total - 1}/{total}" if first < total else f"bytes */{total}"
        return Request(Host.SINK, "PUT", session, [*self._auth, f"content-range: {span}", "content-type:"])

    def progress(self, session: str, total: int) -> Request:
        headers = [*self._auth, f"content-range: bytes */{total}", "content-type:"]
        return Request(Host.SINK, "PUT", session, headers, b"", deadline_s=CALL_S)

    def persisted(self, answer: Answer) -> int:
        span = answer.headers.get("range", "")
        return int(span.rpartition("-")[2]) + 1 if span else 0

    def stored(self, answer: Answer) -> Stored | None:
        headers = answer.headers
        try:
            # A session's last answer is a resource, whatever its headers tell besides; that to a PUT is empty.
            if "x-goog-generation" in headers and not headers.get("content-type", "").startswith("application/json"):
                hashes = goog_hashes(headers["x-goog-hash"])
                return Stored(
                    generation=int(headers["x-goog-generation"]),
                    size=int(headers["x-goog-stored-content-length"]),
                    crc32c=hashes["crc32c"],
                    md5=hashes.get("md5"),
                )
            found = _stored(json.loads(answer.body))
            return found if found.crc32c else None
        except (KeyError, ValueError, TypeError):
            return None

    def stat(self, name: str) -> Request:
        url = f"{self._object(name)}?fields={quote(FIELDS)}"
        return Request(Host.SINK, "GET", url, self._auth, deadline_s=CALL_S)

    def read(self, name: str, generation: int, first: int, last: int) -> Request:
        """Bytes first…last of just that generation, as they are stored: what is stored compressed is not to be unpacked on the
        way (Cloud Storage, "Transcoding of gzip-compressed files")."""
        url = f"{self._object(name)}?alt=media&generation={generation}"
        headers = [*self._auth, f"Range: bytes={first}-{last}", "Accept-Encoding: gzip"]
        return Request(Host.SINK, "GET", url, headers, None, last - first + 1, DEADLINE_S)

    def delete(self, name: str, generation: int) -> Request:
        return Request(Host.SINK, "DELETE", f"{self._object(name)}?generation={generation}", self._auth, deadline_s=CALL_S)

    def patch(self, name: str, attributes: Attributes, generation: int) -> Request:
        """Give a stored object attributes, if it still is that generation."""
        body = json.dumps(_resource(attributes)).encode()
        url = f"{self._object(name)}?ifGenerationMatch={generation}&fields={quote(FIELDS)}"
        return Request(Host.SINK, "PATCH", url, [*self._auth, JSON], body, deadline_s=CALL_S)

    def move(self, name: str, to: str, *, source_generation: int, generation: int) -> Request:
        """Rename within the bucket (objects.move). `generation`: what must be at the new name, 0 for nothing."""
        return self._carried("moveTo", name, to, source_generation, generation)

    def rewrite(self, name: str, to: str, *, source_generation: int, generation: int, token: str = "") -> Request:
        """Copy within the bucket; an answer that is not `done` has a `rewriteToken` to go on with."""
        more = f"&rewriteToken={quote(token, safe='')}" if token else ""
        made = self._carried("rewriteTo", name, to, source_generation, generation, f"b/{quote(self.bucket, safe='')}/", more)
        return made._replace(deadline_s=DEADLINE_S)

    def _carried(
        self, verb: str, name: str, to: str, source_generation: int, generation: int, bucket: str = "", more: str = ""
    ) -> Request:
        url = f"{self._object(name)}/{verb}/{bucket}o/{quote(to, safe='')}"
        url += f"?ifSourceGenerationMatch={source_generation}&ifGenerationMatch={generation}{more}"
        return Request(Host.SINK, "POST", url, [*self._auth, JSON], b"", deadline_s=CALL_S)

    def refusal(self, answer: Answer) -> str:
        said = f"gs://{self.bucket} answered {answer.status}" if answer.status else f"gs://{self.bucket} did not answer"
        body = answer.body
        code, message, details = _CODE.search(body), _MESSAGE.search(body), _DETAILS.search(body)
        if code is not None:
            said += f" {code[1].decode('utf-8', 'replace')}"
        if message is not None:
            # Of what is forbidden the message says nothing: who lacks which permission stands in the details.
            texts = [one[1].decode("utf-8", "replace") for one in (message, details) if one is not None]
            return f"{said}: {unescape(' '.join(texts), QUOTES)}"
        try:
            return f"{said}: {json.loads(body)['error']['message']}"
        except (KeyError, ValueError, TypeError):
            return f"{said} ({answer.said})" if answer.said else said

    def page(self, *, prefix: str, start: str = "", end: str = "", token: str = "") -> Request:
        values = {"prefix": prefix, "startOffset": start, "endOffset": end, "pageToken": token}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in values.items() if value)
        url = f"{self._bucket()}/o?maxResults=1000&fields=nextPageToken,items({FIELDS})&{query}"
        return Request(Host.SINK, "GET", url, self._auth, None, PAGE_BYTES_MAX, CALL_S)

    def page_of(self, answer: Answer) -> SinkPage:
        """The page in an answer. Raises ValueError for what is none."""
        try:
            page = json.loads(answer.body)
            objects = [SinkObject(item["name"], _stored(item)) for item in page.get("items", ())]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no listing of gs://{self.bucket}: {error!r}") from error
        return SinkPage(objects, page.get("nextPageToken"))

    def _bucket(self) -> str:
        return f"{self._origin}/storage/v1/b/{quote(self.bucket, safe='')}"

    def _object(self, name: str) -> str:
        return f"{self._bucket()}/o/{quote(name, safe='')}"


def _resource(attributes: Attributes) -> dict[str, Any]:
    resource: dict[str, Any] = {_JSON_CONTENT[key]: value for key, value in attributes.content.items()}
    return resource | {"metadata": dict(attributes.custom)}


def _stored(item: dict[str, Any]) -> Stored:
    crc32c, md5, metadata = item.get("crc32c", ""), item.get("md5Hash"), item.get("metadata", {})
    return Stored(
        generation=int(item["generation"]),
        size=int(item["size"]),
        crc32c=base64.b64decode(crc32c),
        md5=None if md5 is None else base64.b64decode(md5),
        source_etag=metadata.get(SOURCE_ETAG, ""),
        source_modified=metadata.get(SOURCE_MODIFIED, ""),
        source_uri=metadata.get(SOURCE_URI, ""),
    )
