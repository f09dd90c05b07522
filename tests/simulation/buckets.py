"""S3, the CDN before it and Cloud Storage in virtual time: the workers' requests as values, answered by the stage's rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.domain.sigv4 import ATTRIBUTES
from tests.simulation.chance import OFTEN, Chance
from tools.emulators.cdn import STATUSES, Found, answered, misbehaved, refusal
from tools.emulators.gcs.objects import ObjectStore
from tools.emulators.gcs.server import Gcs
from tools.emulators.ledger import Ledger, Rule
from tools.emulators.rawhttp import RawRequest, RawResponse
from tools.emulators.s3_errors import Failure, error_xml
from tools.emulators.web import Request as WebRequest

S3, CDN, GCS = "http://s3.invalid", "http://cdn.invalid/", "http://gcs.invalid"
SOURCE, SINK = "source-bucket", "sink-bucket"
MODIFIED = "2026-11-20T03:00:00.000Z"
EMPTY = "a page without keys, and on from "
"""Before the token of a page without keys: what it goes on with is what was asked for."""
EMPTY_PAGES, LIES = 0.05, 0.01
"""The shares of pages that hold no key though more follow, and of those that are not as a listing is."""
PAGE_KEYS = 4
"""A page may hold fewer keys than were asked for (S3, ListObjectsV2); small ones show what comes of many."""
PARTS_FROM = 100
"""What holds as many bytes may have been uploaded in parts."""
SOURCE_FAULTS = ("TRUNCATED", "RESET", "NO_LENGTH", "TOO_LONG", "COMPRESSED", "CHANGED_ETAG", "REDIRECT", "WHOLE")
SINK_FAULTS = ("UNAUTHORIZED", "FORBIDDEN", "REQUEST_TIMEOUT", "TOO_MANY_REQUESTS", "INTERNAL", "UNAVAILABLE", "CORRUPT")


@dataclass
class Buckets:
    """`objects`: of the source, by key.

    tiered       those of them that are in an archive tier, which no listing tells
    archived     those that are in an archive, and `restored`: of which there is a copy that can be read
    cached       what the CDN has of some: what they replaced
    tells_parts  whether the source tells how an object was uploaded
    meet         may answer in place of a service that is away
    """

    chance: Chance
    objects: dict[str, bytes] = field(default_factory=dict)
    tiered: set[str] = field(default_factory=set)
    archived: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    cached: dict[str, bytes] = field(default_factory=dict)
    page_keys: int = PAGE_KEYS
    tells_parts: bool = True
    meet: Callable[[Request], Answer | None] = lambda _request: None

    def __post_init__(self) -> None:
        self.ledger = Ledger()
        self.store = ObjectStore()
        self.gcs = Gcs(self.ledger, self.store)
        self.gcs.at(GCS)
        self.store.create_bucket(SINK)
        # What nobody could verify of the service, or what depends on the bucket, differs from world to world.
        draw = self.chance.random
        self.ledger.change(
            {
                "gcs.put_answer_headers": draw.random() < 0.75,
                "gcs.session_answer_headers": draw.random() < 0.5,
                "gcs.buckets": {SINK: {"encryption": {"defaultKmsKeyName": "k"}}} if draw.random() < 0.25 else {},
            }
        )

    def answer(self, request: Request) -> Answer:
        """What becomes of a request; whoever sent it gets to know later, if it still lives."""
        met = self.meet(request)
        if met is not None:
            return met
        if request.url.startswith(CDN):
            return self._cdn(request)
        return self._s3(request) if request.url.startswith(S3) else self._gcs(request)

    # The source

    def _cdn(self, request: Request) -> Answer:
        fault = self._fault("cdn fault", (*STATUSES, *SOURCE_FAULTS), request)
        if fault in STATUSES:
            return _heard(refusal(*STATUSES[fault], retry_after=fault == "TOO_MANY_REQUESTS"), request)
        key = unquote(urlsplit(request.url).path[1:])
        found = self._found(key)
        if found is None:
            return _heard(refusal(404, "NoSuchKey"), request)
        if key in self.cached:
            body = self.cached[key]
            found = Found(body, {}, f'"{etag_of(body)}"')
        elif self.is_cold(key):
            return _heard(self._cold(key), request)
        asked = RawRequest(request.method, "", _headers(request))
        rule = Rule("cdn", "GET", error=fault) if fault else None
        return _heard(misbehaved(answered(asked, found), found, rule), request)

    def _s3(self, request: Request) -> Answer:
        fault = self._fault("s3 fault", ("INTERNAL", "UNAVAILABLE", "FORBIDDEN", "RESET"), request)
        if fault == "RESET":
            return Answer(0, fault=Fault.RESET)
        if fault:
            return _heard(refusal(*STATUSES[fault]), request)
        parts = urlsplit(request.url)
        query = _first_of_each(parts.query)
        if "list-type" in query:
            return _heard(self._page(query, told=ATTRIBUTES in _headers(request)), request)
        key = unquote(parts.path).removeprefix(f"/{SOURCE}/")
        found = self._found(key)
        if found is None:
            return _heard(refusal(404, "NoSuchKey"), request)
        if self.is_cold(key) and request.method == "GET":
            return _heard(self._cold(key), request)
        if key in self.tiered:
            found.headers["x-amz-archive-status"] = "ARCHIVE_ACCESS"
        if key in self.archived:
            found.headers["x-amz-storage-class"] = "GLACIER"
        if key in self.restored:
            found.headers["x-amz-restore"] = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"'
        if "partNumber" in query:
            return _heard(self._part(found), request)
        return _heard(answered(RawRequest(request.method, "", _headers(request)), found), request)

    def _found(self, key: str) -> Found | None:
        body = self.objects.get(key)
        return None if body is None else Found(body, {}, f'"{etag_of(body)}"')

    def _part(self, found: Found) -> RawResponse:
        """Of an object that was uploaded in parts S3 tells how many (HeadObject); not every server like it does."""
        if not self.tells_parts:
            return refusal(501, "NotImplemented")
        told = {"x-amz-mp-parts-count": "1"} if found.etag.endswith('-1"') else {}
        return RawResponse(206, {**found.headers, **told, "ETag": found.etag}, [], len(found.data))

    def is_cold(self, key: str) -> bool:
        """Whether an object cannot be read now."""
        return key in self.tiered or (key in self.archived and key not in self.restored)

    def _cold(self, key: str) -> RawResponse:
        told = "The operation is not valid for the object's storage class"
        elements = {"StorageClass": "INTELLIGENT_TIERING", "AccessTier": "ARCHIVE_ACCESS"}
        if key not in self.tiered:
            elements = {"StorageClass": "GLACIER"}
        body = error_xml(Failure(403, "InvalidObjectState", told, elements))
        return RawResponse(403, {"Content-Type": "application/xml"}, [body], len(body))

    def _page(self, query: dict[str, str], *, told: bool) -> RawResponse:
        """`told`: whether the question asks for the state of restores."""
        after = query.get("continuation-token", query.get("start-after", ""))
        lie = "" if after.startswith(EMPTY) else self._lie(query["prefix"])
        after = after.removeprefix(EMPTY)
        # S3's order is that of the keys' UTF-8 bytes.
        under = sorted((key for key in self.objects if key.startswith(query["prefix"])), key=str.encode)
        keys = [key for key in under if key > after]
        if lie == "listing out of order":
            keys = under[::-1]  # and where it was to begin is not heeded: so directory buckets do
        most = 0 if lie == "page without keys" else min(self.page_keys, int(query["max-keys"]))
        shown = keys[:most]
        more = len(keys) > most
        last = shown[-1] if shown else f"{EMPTY}{after}"
        count = len(shown)
        if lie == "listing with a key less":
            shown = shown[:-1]
        entries = "".join(self._entry(key, told=told) for key in shown)
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType><KeyCount>{count}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{entries}</ListBucketResult>"
        ).encode()
        return RawResponse(200, {"Content-Type": "application/xml"}, [body], len(body))

    def _entry(self, key: str, *, told: bool) -> str:
        storage_class = "INTELLIGENT_TIERING" if key in self.tiered else "GLACIER" if key in self.archived else "STANDARD"
        restore = ""
        if told and key in self.restored:
            expiry = "<RestoreExpiryDate>2029-12-21T00:00:00.000Z</RestoreExpiryDate>"
            restore = f"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>{expiry}</RestoreStatus>"
        return (
            f"<Contents><Key>{quote(key, safe='/')}</Key><LastModified>{MODIFIED}</LastModified>"
            f"<ETag>&quot;{etag_of(self.objects[key])}&quot;</ETag><Size>{len(self.objects[key])}</Size>"
            f"<StorageClass>{storage_class}</StorageClass>{restore}</Contents>"
        )

    def _lie(self, about: str) -> str:
        """How a page is not as it should be; a page without keys is none of the service's faults (S3, directory buckets)."""
        if self.chance.happens(EMPTY_PAGES):
            self.chance.count("page without keys", about)
            return "page without keys"
        if self.chance.happens(LIES):
            lie = self.chance.random.choice(["listing out of order", "listing with a key less"])
            self.chance.count(lie, about)
            return lie
        return ""

    # The sink

    def _gcs(self, request: Request) -> Answer:
        fault = self._fault("gcs fault", SINK_FAULTS, request)
        lost = not fault and self.chance.happens(OFTEN * self.chance.fault)
        if fault and not (fault == "CORRUPT" and request.method != "PUT"):
            self.ledger.rules.append(Rule("gcs", "*", error=fault))
        elif lost:
            self.chance.count("gcs answer lost", request.method)
            self.ledger.rules.append(Rule("gcs", "*", applied=True))
        parts = urlsplit(request.url)
        query = _first_of_each(parts.query)
        lists = request.method == "GET" and parts.path.endswith("/o")
        token = query.get("pageToken", "")
        if lists and not token.startswith(EMPTY) and self.chance.happens(EMPTY_PAGES):
            self.chance.count("page without keys", "gcs")
            page = json.dumps({"kind": "storage#objects", "nextPageToken": f"{EMPTY}{token}"}).encode()
            return _heard(RawResponse(200, {"Content-Type": "application/json"}, [page], len(page)), request)
        if token.startswith(EMPTY):
            query["pageToken"] = token.removeprefix(EMPTY)
        body = request.body or b""
        headers = _headers(request) | {"content-length": str(len(body))}
        asked = WebRequest(request.method, parts.path, query, headers, body, parts.query)
        response = self.gcs.handle(asked)
        self.ledger.rules.clear()
        if response.hang_up:
            return Answer(0, fault=Fault.RESET)
        said = response.body
        if lists and response.status == 200 and self.chance.happens(LIES):
            self.chance.count("listing out of order", "gcs")
            page = json.loads(said)
            said = json.dumps(page | {"items": page.get("items", [])[::-1]}).encode()
        told = RawResponse(response.status, response.headers, [said], len(said))
        return _heard(told, request, response.repeated)

    def _fault(self, name: str, kinds: tuple[str, ...], request: Request) -> str:
        if not self.chance.happens(OFTEN * self.chance.fault):
            return ""
        self.chance.count(name, request.method)
        return self.chance.random.choice(kinds)


def _first_of_each(query: str) -> dict[str, str]:
    return {name: one[0] for name, one in parse_qs(query, keep_blank_values=True).items()}


def etag_of(body: bytes) -> str:
    """Every other object of some size was uploaded in parts (one part, as it is small for that): its ETag is not its MD5."""
    whole = hashlib.md5(body, usedforsecurity=False)
    if len(body) >= PARTS_FROM and body[0] % 2:
        return f"{hashlib.md5(whole.digest(), usedforsecurity=False).hexdigest()}-1"
    return whole.hexdigest()


def _headers(request: Request) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in request.headers)}


def _heard(response: RawResponse, request: Request, repeated: Sequence[tuple[str, str]] = ()) -> Answer:
    """An answer as the engine gives it: cut short, broken off, or whole."""
    headers = dict(response.headers)
    if response.length is not None:
        headers["Content-Length"] = str(response.length)
    lines = [
        f"HTTP/1.1 {response.status} X\r\n".encode(),
        *(f"{key}: {value}\r\n".encode() for key, value in (*headers.items(), *repeated)),
    ]
    body = b"" if request.method == "HEAD" else b"".join(response.pieces)
    fault = Fault.RESET if response.reset else Fault.TRUNCATED if response.hang_up else None
    if len(body) > request.body_max:
        body, fault = body[: request.body_max], Fault.TOO_LONG
    return Answer(response.status, lines, [body] if body else [], fault)
