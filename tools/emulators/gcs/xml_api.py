"""The XML API: PUT, GET, HEAD, DELETE, listing and multipart uploads."""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tools.emulators.gcs.json_api import goog_hash, hash_lines, media
from tools.emulators.gcs.json_resources import rfc3339
from tools.emulators.gcs.objects import (
    LIST_MAX,
    Attributes,
    Conditions,
    Hashes,
    Listing,
    ObjectStore,
    Refused,
    StoredObject,
    crc32c_of,
    md5_of,
)
from tools.emulators.ledger import DEFAULTS
from tools.emulators.web import Request, Response

PART_BYTES_MIN = 5 * 1024 * 1024
PARTS_MAX = 10_000
META = "x-goog-meta-"
LISTING = "http://doc.s3.amazonaws.com/2006-03-01"
MULTIPART = "http://s3.amazonaws.com/doc/2006-03-01/"
"""The namespaces of the answers' XML, as the reference's examples show them."""


@dataclass
class Upload:
    """A multipart upload that was begun."""

    bucket: str
    name: str
    attributes: Attributes
    conditions: Conditions
    parts: dict[int, bytes] = field(default_factory=dict)


class XmlApi:
    """Routes requests under /{bucket} and /{bucket}/{object}; `name` tells the API method."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()
        self.settings: Callable[[str], Any] = lambda name: DEFAULTS[name]
        self.project = ""  # whose the buckets are that are made here

    def name(self, request: Request) -> str:
        """A name for counts and faults."""
        _, key = _target(request)
        if not key:
            return {"GET": "xml.list", "PUT": "xml.create_bucket", "HEAD": "xml.head_bucket"}.get(request.method, "xml.unknown")
        if "uploads" in request.query:
            return "xml.begin_multipart"
        if "uploadId" in request.query:
            known = {"PUT": "xml.upload_part", "POST": "xml.complete_multipart", "DELETE": "xml.abort_multipart"}
            return known.get(request.method, "xml.list_parts")
        return f"xml.{request.method.lower()}"

    def handle(self, request: Request) -> Response:
        bucket, key = _target(request)
        match self.name(request):
            case "xml.list":
                return self._list(request, bucket)
            case "xml.head_bucket":
                self._store.bucket(bucket)
                return Response(200)
            case "xml.create_bucket":
                self._store.create_bucket(bucket, project=self.project)
                return Response(200)
            case "xml.put":
                return self._put(request, bucket, key)
            case "xml.get" | "xml.head":
                found = self._store.get(bucket, key, _generation(request), _conditions(request))
                answer = media(request, found)
                answer.headers["ETag"] = etag(found)
                return answer
            case "xml.delete":
                self._store.delete(bucket, key, _generation(request), _conditions(request))
                return Response(204)
            case name:
                return self._multipart(name, request, bucket, key)

    def _multipart(self, name: str, request: Request, bucket: str, key: str) -> Response:
        match name:
            case "xml.begin_multipart":
                return self._begin(request, bucket, key)
            case "xml.upload_part":
                return self._part(request)
            case "xml.complete_multipart":
                return self._complete(request)
            case "xml.abort_multipart":
                with self._lock:
                    if self._uploads.pop(request.query["uploadId"], None) is None:
                        raise _no_upload()
                return Response(204)
        raise Refused(405, "methodNotAllowed", "The specified method is not allowed.", "MethodNotAllowed")

    def _put(self, request: Request, bucket: str, key: str) -> Response:
        if "content-length" not in request.headers:
            raise Refused(411, "lengthRequired", "You must provide the Content-Length header.", "MissingContentLength")
        stored = self._store.put(
            bucket, key, request.body, _attributes(request.headers), _conditions(request), goog_hash(request.headers)
        )
        # Empty, and called text/html all the same (observed: answers of "server: UploadServer").
        answer = Response(200, headers={"Content-Type": "text/html; charset=UTF-8"})
        if self.settings("gcs.put_answer_headers"):
            answer.headers |= _answer(stored)
            answer.repeated += hash_lines(stored)
        return answer

    def _list(self, request: Request, bucket: str) -> Response:
        query = request.query
        page = self._store.list(
            bucket,
            Listing(
                prefix=query.get("prefix", ""),
                delimiter=query.get("delimiter", ""),
                after=query.get("continuation-token") or query.get("start-after") or query.get("marker", ""),
                limit=min(LIST_MAX, int(query.get("max-keys") or LIST_MAX)),
            ),
        )
        rows = [
            f"<Contents><Key>{escape(found.name)}</Key><Generation>{found.generation}</Generation>"
            f"<MetaGeneration>{found.metageneration}</MetaGeneration><LastModified>{rfc3339(found.updated)}</LastModified>"
            f"<ETag>{escape(etag(found))}</ETag><Size>{found.size}</Size>"
            f"<StorageClass>{found.attributes.storage_class}</StorageClass></Contents>"
            for found in page.objects
        ]
        rows += [f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes]
        more = page.next_token is not None
        if more:
            rows.append(f"<NextMarker>{escape(page.next_token or '')}</NextMarker>")
            rows.append(f"<NextContinuationToken>{escape(page.next_token or '')}</NextContinuationToken>")
        head = f"<Name>{escape(bucket)}</Name><Prefix>{escape(query.get('prefix', ''))}</Prefix>"
        if query.get("list-type") == "2":
            head += f"<KeyCount>{len(page.objects) + len(page.prefixes)}</KeyCount>"
        head += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        return _xml(f"<ListBucketResult xmlns='{LISTING}'>{head}{''.join(rows)}</ListBucketResult>")

    def _begin(self, request: Request, bucket: str, key: str) -> Response:
        self._store.bucket(bucket)
        upload = secrets.token_hex(16)
        with self._lock:
            self._uploads[upload] = Upload(bucket, key, _attributes(request.headers), _conditions(request))
        where = f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
        return _xml(f"<InitiateMultipartUploadResult xmlns='{MULTIPART}'>{where}</InitiateMultipartUploadResult>")

    def _part(self, request: Request) -> Response:
        number = int(request.query.get("partNumber", "0"))
        if not 1 <= number <= PARTS_MAX:
            raise Refused(400, "invalid", f"Part number must be between 1 and {PARTS_MAX}", "InvalidArgument")
        said = goog_hash(request.headers)
        _check(said, request.body)
        with self._lock:
            upload = self._uploads.get(request.query["uploadId"])
            if upload is None:
                raise _no_upload()
            upload.parts[number] = request.body
        headers = {"ETag": _md5_etag(md5_of(request.body)), "x-goog-hash": f"crc32c={crc32c_of(request.body)}"}
        return Response(200, headers=headers)

    def _complete(self, request: Request) -> Response:
        with self._lock:
            upload = self._uploads.get(request.query["uploadId"])
        if upload is None:
            raise _no_upload()
        wanted = _wanted_parts(request.body)
        numbers = [number for number, _ in wanted]
        if not numbers or numbers != sorted(set(numbers)):
            raise Refused(400, "invalid", "The list of parts was not in ascending order.", "InvalidPartOrder")
        for number, wanted_etag in wanted:
            if number not in upload.parts or wanted_etag.strip('"') != _md5_etag(md5_of(upload.parts[number])).strip('"'):
                raise Refused(400, "invalid", f"Part {number} could not be found or its ETag differs.", "InvalidPart")
        if any(len(upload.parts[number]) < PART_BYTES_MIN for number in numbers[:-1]):
            raise Refused(400, "invalid", "A part but the last is smaller than 5 MiB.", "EntityTooSmall")
        data = b"".join(upload.parts[number] for number in numbers)
        stored = self._store.put(upload.bucket, upload.name, data, upload.attributes, upload.conditions, components=len(numbers))
        with self._lock:
            self._uploads.pop(request.query["uploadId"], None)
        body = f"<Bucket>{escape(stored.bucket)}</Bucket><Key>{escape(stored.name)}</Key><ETag>{escape(etag(stored))}</ETag>"
        answer = _xml(f"<CompleteMultipartUploadResult xmlns='{MULTIPART}'>{body}</CompleteMultipartUploadResult>")
        answer.headers |= _answer(stored)
        answer.repeated += hash_lines(stored)
        return answer


def refusal(refused: Refused) -> Response:
    """A refusal in the XML API's shape."""
    text = f"<Error><Code>{escape(refused.xml_code)}</Code><Message>{escape(refused.message)}</Message></Error>"
    return _xml(text, refused.status)


def _target(request: Request) -> tuple[str, str]:
    bucket, _, key = request.path.lstrip("/").partition("/")
    return unquote(bucket), unquote(key)


def _attributes(headers: Mapping[str, str]) -> Attributes:
    return Attributes(
        content_type=headers.get("content-type"),
        content_encoding=headers.get("content-encoding"),
        content_disposition=headers.get("content-disposition"),
        content_language=headers.get("content-language"),
        cache_control=headers.get("cache-control"),
        storage_class=headers.get("x-goog-storage-class", "STANDARD"),
        kms_key=headers.get("x-goog-encryption-kms-key-name"),
        metadata={name.removeprefix(META): value for name, value in headers.items() if name.startswith(META)},
    )


def _conditions(request: Request) -> Conditions:
    def number(name: str) -> int | None:
        text = request.headers.get(f"x-goog-if-{name}-match")
        return None if text is None else int(text)

    return Conditions(generation=number("generation"), metageneration=number("metageneration"))


def _generation(request: Request) -> int | None:
    text = request.query.get("generation")
    return None if text is None else int(text)


def _check(said: Hashes, data: bytes) -> None:
    if (said.crc32c or crc32c_of(data)) != crc32c_of(data) or (said.md5 or md5_of(data)) != md5_of(data):
        raise Refused(400, "invalid", "The hash you specified did not match what we received.", "BadDigest")


def _wanted_parts(body: bytes) -> list[tuple[int, str]]:
    try:
        root = ET.fromstring(body)  # noqa: S314 - the stage's own callers on loopback
    except ET.ParseError as error:
        raise Refused(400, "invalid", "The XML you provided was not well-formed.", "MalformedXML") from error
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    return [(int(part.findtext("PartNumber") or 0), part.findtext("ETag") or "") for part in root.iter("Part")]


def etag(stored: StoredObject) -> str:
    """The XML API's ETag, in its quotes: the MD5 in hexadecimal where the object has one (docs, "Hashes and ETags")."""
    return f'"{stored.etag}"' if stored.md5 is None else _md5_etag(stored.md5)


def _md5_etag(md5: str) -> str:
    return f'"{base64.b64decode(md5).hex()}"'


def _no_upload() -> Refused:
    return Refused(404, "notFound", "The requested upload was not found.", "NoSuchUpload")


def _answer(stored: StoredObject) -> dict[str, str]:
    return {
        "x-goog-generation": str(stored.generation),
        "x-goog-metageneration": str(stored.metageneration),
        "x-goog-stored-content-length": str(stored.size),
        "ETag": etag(stored),
    }


def _xml(body: str, status: int = 200) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>{body}'
    return Response(status, text.encode(), {"Content-Type": "application/xml; charset=UTF-8"})
