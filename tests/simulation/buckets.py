"""S3, the CDN before it and Cloud Storage in virtual time: the workers' requests as values, answered by the stage's rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from cdn_worker.domain.http import Answer, Fault, Request
from tests.simulation.chance import OFTEN, Chance
from tests.simulation.streams import BUFFER_MAX
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
PAGE_KEYS = 4
"""A page may hold fewer keys than were asked for (S3, ListObjectsV2); small ones show what comes of many."""
SOURCE_FAULTS = ("TRUNCATED", "RESET", "NO_LENGTH", "TOO_LONG", "COMPRESSED", "CHANGED_ETAG", "REDIRECT", "WHOLE")
SINK_FAULTS = ("UNAUTHORIZED", "FORBIDDEN", "REQUEST_TIMEOUT", "TOO_MANY_REQUESTS", "INTERNAL", "UNAVAILABLE", "CORRUPT")


@dataclass
class Buckets:
    """`objects`: of the source, by key; `tiered`: those of them that are in an archive tier, which no listing tells.

    meet   may answer in place of a service that is away
    """

    chance: Chance
    objects: dict[str, bytes] = field(default_factory=dict)
    tiered: set[str] = field(default_factory=set)
    page_keys: int = PAGE_KEYS
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
        if key in self.tiered:
            return _heard(_cold(), request)
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
        if parts.query:
            return _heard(self._page(_first_of_each(parts.query)), request)
        key = unquote(parts.path).removeprefix(f"/{SOURCE}/")
        found = self._found(key)
        if found is None:
            return _heard(refusal(404, "NoSuchKey"), request)
        if key in self.tiered and request.method == "GET":
            return _heard(_cold(), request)
        if key in self.tiered:
            found.headers["x-amz-archive-status"] = "ARCHIVE_ACCESS"
        return _heard(answered(RawRequest(request.method, "", _headers(request)), found), request)

    def _found(self, key: str) -> Found | None:
        body = self.objects.get(key)
        return None if body is None else Found(body, {}, f'"{etag_of(body)}"')

    def _page(self, query: dict[str, str]) -> RawResponse:
        after = query.get("continuation-token", query.get("start-after", ""))
        # S3's order is that of the keys' UTF-8 bytes.
        keys = sorted((key for key in self.objects if key.startswith(query["prefix"]) and key > after), key=str.encode)
        most = min(self.page_keys, int(query["max-keys"]))
        shown = keys[:most]
        entries = "".join(
            f"<Contents><Key>{quote(key, safe='/')}</Key><LastModified>{MODIFIED}</LastModified>"
            f"<ETag>&quot;{etag_of(self.objects[key])}&quot;</ETag><Size>{len(self.objects[key])}</Size>"
            f"<StorageClass>{'INTELLIGENT_TIERING' if key in self.tiered else 'STANDARD'}</StorageClass></Contents>"
            for key in shown
        )
        more = len(keys) > most
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        ).encode()
        return RawResponse(200, {"Content-Type": "application/xml"}, [body], len(body))

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
        body = request.body or b""
        headers = _headers(request) | {"content-length": str(len(body))}
        asked = WebRequest(request.method, parts.path, query, headers, body, parts.query)
        response = self.gcs.handle(asked)
        self.ledger.rules.clear()
        if response.hang_up:
            return Answer(0, fault=Fault.RESET)
        told = RawResponse(response.status, response.headers, [response.body], len(response.body))
        return _heard(told, request, response.repeated)

    def _fault(self, name: str, kinds: tuple[str, ...], request: Request) -> str:
        if not self.chance.happens(OFTEN * self.chance.fault):
            return ""
        self.chance.count(name, request.method)
        return self.chance.random.choice(kinds)


def _cold() -> RawResponse:
    told = "The operation is not valid for the object's storage class"
    elements = {"StorageClass": "INTELLIGENT_TIERING", "AccessTier": "ARCHIVE_ACCESS"}
    body = error_xml(Failure(403, "InvalidObjectState", told, elements))
    return RawResponse(403, {"Content-Type": "application/xml"}, [body], len(body))


def _first_of_each(query: str) -> dict[str, str]:
    return {name: one[0] for name, one in parse_qs(query, keep_blank_values=True).items()}


def etag_of(body: bytes) -> str:
    """Every other large object was uploaded in parts (one part, as it is small for that): its ETag is not its MD5."""
    whole = hashlib.md5(body, usedforsecurity=False)
    if len(body) > BUFFER_MAX and body[0] % 2:
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
