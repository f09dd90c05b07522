"""CloudFront on the stage: an origin in front of the S3 server that checks signed URLs, and misbehaves on command.

`http://HOST/<bucket>/<key>`. The signature is checked with the public key, the policy's resource and dates against the request.
"""

from __future__ import annotations

import base64
import fnmatch
import gzip
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tools.emulators.ledger import Ledger, Rule
from tools.emulators.rawhttp import RawRequest, RawResponse, RawServer
from tools.emulators.s3_errors import Failure, error_xml
from tools.emulators.sigv4 import Keys
from tools.emulators.web import pause_for

KEY_PAIR_ID = "K2STAGEREHEARSAL"
SIGNING = ("Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm", "Expires")
PIECE = 64 * 1024
STATUSES = {
    "FORBIDDEN": (403, "AccessDenied"),
    "NOT_FOUND": (404, "NoSuchKey"),
    "RANGE_NOT_SATISFIABLE": (416, "InvalidRange"),
    "TOO_MANY_REQUESTS": (429, "TooManyRequests"),
    "INTERNAL": (500, "InternalError"),
    "BAD_GATEWAY": (502, "BadGateway"),
    "UNAVAILABLE": (503, "SlowDown"),
    "TIMEOUT": (504, "GatewayTimeout"),
}
BODIES = ("TRUNCATED", "NO_LENGTH", "TOO_LONG", "SLOW", "COMPRESSED", "CHANGED_ETAG", "REDIRECT", "WHOLE", "RESET")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
METHODS = ("GET", "HEAD")
"""What a cache behaviour allows unless it is told otherwise: CloudFront's default, and all that its reading of S3 needs."""


class Forbidden(Exception):
    """The signature does not open this URL. Codes and messages as in tests/wire/cdn."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.code, self.message = code, message


DENIED = ("AccessDenied", "Access denied")
"""Of a signature that does not fit, has expired or covers another URL: CloudFront does not tell these apart."""


@dataclass(frozen=True)
class Found:
    """An object as its origin gave it.

    data   its bytes: all of them, or those from `first` on that were asked for; none for a HEAD
    size   of the whole object, in bytes; None: as long as `data`
    """

    data: bytes
    headers: dict[str, str]
    etag: str
    first: int = 0
    size: int | None = None


class Cdn:
    """Key pairs: RSA and ECDSA, both made when it starts."""

    def __init__(self, ledger: Ledger, s3_endpoint: str, keys: Keys) -> None:
        self._ledger = ledger
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=s3_endpoint,
            aws_access_key_id=keys.key_id,
            aws_secret_access_key=keys.secret,
            region_name="us-east-1",
            config=Config(response_checksum_validation="when_required", max_pool_connections=32),
        )
        rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
        self.private_keys = {KEY_PAIR_ID: _pem(rsa_key), f"{KEY_PAIR_ID}EC": _pem(ec_key)}
        self._public: dict[str, rsa.RSAPublicKey | ec.EllipticCurvePublicKey] = {
            KEY_PAIR_ID: rsa_key.public_key(),
            f"{KEY_PAIR_ID}EC": ec_key.public_key(),
        }
        self.dropped: set[str] = set()  # headers, in lower case, that a policy of the distribution removes
        self.files: dict[str, bytes] = {}  # what the distribution serves to anybody, by path: robots.txt
        self._cache: dict[str, tuple[float, Found]] = {}  # by path, each until a time
        self._server = RawServer(self._answer)

    @property
    def address(self) -> str:
        return self._server.address

    def start(self) -> Cdn:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop()
        self._s3.close()

    def _answer(self, request: RawRequest) -> RawResponse:
        response = self._handle(request)
        page = self._ledger.setting("cdn.error_page").encode()
        if page and response.status in (403, 404):
            response.pieces, response.length = [page], len(page)
            response.headers["Content-Type"] = "text/html"
        return response

    def _handle(self, request: RawRequest) -> RawResponse:
        fault = self._ledger.count("cdn", request.method)
        if fault is not None:
            pause_for(fault.delay_s)
            if fault.error in STATUSES:
                return refusal(*STATUSES[fault.error], retry_after=fault.error == "TOO_MANY_REQUESTS")
        if request.method not in METHODS:
            return refuse_method()
        path, _, query = request.target.partition("?")
        if path in self.files:
            return answered(request, Found(self.files[path], {"Content-Type": "text/plain"}, '"file"'))
        try:
            if not self._ledger.setting("cdn.public"):
                self._check(path, query)
            # Whoever ignores a range, or lies in answer to a HEAD, has read the whole object.
            whole = fault is not None and (fault.error == "WHOLE" or request.method == "HEAD")
            found = self._found(path, request, whole=whole)
        except Forbidden as refused:
            return refusal(403, refused.code, refused.message)
        except ClientError as error:
            return passed_through(error)
        return misbehaved(answered(request, found), found, fault)

    def _check(self, path: str, query: str) -> None:
        """CloudFront's own checks, in its order. Raises Forbidden with its code."""
        given = dict(parse_qsl(query, keep_blank_values=True))
        if "Key-Pair-Id" not in given:
            raise Forbidden("MissingKey", "Missing Key-Pair-Id query parameter or cookie value")
        key = self._public.get(given["Key-Pair-Id"])
        if key is None:
            raise Forbidden("InvalidKey", "Unknown Key")
        try:
            signature = _unsafe(given["Signature"])
        except (KeyError, ValueError) as error:
            raise Forbidden("MalformedSignature", "Could not unencode Signature") from error
        try:
            policy = _unsafe(given["Policy"])
            statement = json.loads(policy)["Statement"][0]
            expires = int(statement["Condition"]["DateLessThan"]["AWS:EpochTime"])
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise Forbidden("MalformedPolicy", "Malformed Policy") from error
        hash_: hashes.HashAlgorithm = hashes.SHA256() if given.get("Hash-Algorithm") == "SHA256" else hashes.SHA1()  # noqa: S303
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, policy, padding.PKCS1v15(), hash_)
            else:
                key.verify(signature, policy, ec.ECDSA(hash_))
        except InvalidSignature as error:
            raise Forbidden(*DENIED) from error
        begins = statement["Condition"].get("DateGreaterThan", {}).get("AWS:EpochTime", 0)
        if not int(begins) <= time.time() < expires:
            raise Forbidden(*DENIED)
        # Only `*` and `?` are special in a policy's resource, so brackets are not fnmatch's.
        pattern = str(statement["Resource"]).replace("[", "[[]")
        if not fnmatch.fnmatchcase(f"http://{self.address}{path}", pattern):
            raise Forbidden(*DENIED)

    def _found(self, path: str, request: RawRequest, *, whole: bool) -> Found:
        """From the cache, as long as its time is not over: the origin is not asked whether it has changed."""
        keeps = self._ledger.setting("cdn.cache_seconds")
        if not keeps:
            self._cache.clear()
            return self._fetch(path, request, whole=whole)
        until, found = self._cache.get(path, (0.0, None))
        if found is None or until <= time.monotonic():
            found = self._fetch(path, request, whole=True)
            found = replace(found, headers=found.headers | {"X-Cache": "Hit from cloudfront"})
            self._cache[path] = time.monotonic() + keeps, found
        return found

    def _fetch(self, path: str, request: RawRequest, *, whole: bool) -> Found:
        """Ask the origin for just what the viewer asked for: a HEAD by HEAD, a range by a range."""
        bucket, _, key = path.lstrip("/").partition("/")
        if not key:
            raise Forbidden(*DENIED)
        named = {"Bucket": unquote(bucket), "Key": unquote(key)}
        if request.method == "HEAD" and not whole:
            return self._head(named)
        range_ = _RANGE.fullmatch(request.headers.get("range", ""))
        try:
            answer = self._s3.get_object(**named, **({} if whole or range_ is None else {"Range": range_[0]}))
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidRange":
                return self._head(named)
            raise
        data, headers = answer["Body"].read(), self._headers(answer)
        part = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if part is None:
            return Found(data, headers, answer["ETag"])
        return Found(data, headers, answer["ETag"], first=int(part[1]), size=int(part[2]))

    def _head(self, named: dict[str, str]) -> Found:
        answer = self._s3.head_object(**named)
        return Found(b"", self._headers(answer), answer["ETag"], size=answer["ContentLength"])

    def _headers(self, answer: dict[str, Any]) -> dict[str, str]:
        """What the distribution passes on of its origin's headers."""
        kept = ("Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control", "Last-Modified")
        raw = answer["ResponseMetadata"]["HTTPHeaders"]
        headers = {name: raw[name.lower()] for name in kept if name.lower() in raw}
        headers |= {name: value for name, value in raw.items() if name.startswith("x-amz-meta-")}
        return {name: value for name, value in headers.items() if name.lower() not in self.dropped}


def answered(request: RawRequest, found: Found) -> RawResponse:
    """What a healthy CDN says: whole objects, ranges, preconditions."""
    headers = {"X-Cache": "Miss from cloudfront"} | found.headers | {"ETag": found.etag, "Accept-Ranges": "bytes"}
    if not _names_etag(request.headers.get("if-match", "*"), found.etag):
        return refusal(412, "PreconditionFailed")
    if _names_etag(request.headers.get("if-none-match", ""), found.etag):
        return RawResponse(304, {name: value for name, value in headers.items() if not name.startswith("Content-")}, length=None)
    size = len(found.data) if found.size is None else found.size
    range_ = _RANGE.fullmatch(request.headers.get("range", ""))
    if range_ is None or range_[0] == "bytes=-" or (range_[1] and range_[2] and int(range_[1]) > int(range_[2])):
        return RawResponse(200, headers, _pieces(found.data), size)
    first = int(range_[1]) if range_[1] else max(0, size - int(range_[2]))
    last = min(int(range_[2]), size - 1) if range_[1] and range_[2] else size - 1
    if first > last:
        refused = refusal(416, "InvalidRange")
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    data = found.data[first - found.first : last + 1 - found.first]
    return RawResponse(206, headers | {"Content-Range": f"bytes {first}-{last}/{size}"}, _pieces(data), last + 1 - first)


def _names_etag(wanted: str, etag: str) -> bool:
    """Whether `If-Match` or `If-None-Match` names an ETag: by `*`, or in its list."""
    return wanted.strip() == "*" or etag in (one.strip() for one in wanted.split(","))


def misbehaved(response: RawResponse, found: Found, fault: Rule | None) -> RawResponse:
    """The same with a fault in its body or its head, if it must meet one."""
    if fault is None or response.status >= 300:
        return response
    data = b"".join(response.pieces)
    half = data[: len(data) // 2]
    response.pieces = _pieces(data)
    match fault.error:
        case "TRUNCATED":
            response.pieces, response.hang_up = [half], True
        case "RESET":
            response.pieces, response.reset = [half], True
        case "NO_LENGTH":
            response.pieces, response.length = [half], None
        case "TOO_LONG":
            response.pieces, response.length = [data, b"surplus"], len(data) + len(b"surplus")
        case "SLOW":
            response.pieces = _slowly(data)
        case "COMPRESSED":
            packed = gzip.compress(data)
            response.pieces, response.length = [packed], len(packed)
            response.headers |= {"Content-Encoding": "gzip", "ETag": f"W/{found.etag}"}
        case "CHANGED_ETAG":
            response.headers["ETag"] = '"00000000000000000000000000000000"'
        case "REDIRECT":
            return RawResponse(302, {"Location": "http://127.0.0.1:1/elsewhere"})
        case "WHOLE":
            response.headers.pop("Content-Range", None)
            response.status, response.pieces, response.length = 200, _pieces(found.data), len(found.data)
        case other:
            raise ValueError(f"the CDN knows no fault {other!r}; it knows {', '.join([*STATUSES, *BODIES])}")
    return response


def refuse_method() -> RawResponse:
    """CloudFront's page for a method that the cache behaviour does not allow (developer guide, "HTTP 403 (Invalid method)").

    The sentence is as public reports quote it. The connection is closed: a body may still be under way.
    """
    told = (
        "This distribution is not configured to allow the HTTP request method that was used for this request. "
        "The distribution supports only cachable requests."
    )
    body = (
        "<HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD><BODY><H1>403 ERROR</H1>"
        f'<H2>The request could not be satisfied.</H2><HR noshade size="1px">{told}</BODY></HTML>'
    ).encode()
    headers = {"Server": "CloudFront", "Content-Type": "text/html", "X-Cache": "Error from cloudfront"}
    return RawResponse(403, headers, [body], len(body), hang_up=True)


def refusal(status: int, code: str, message: str = "", *, retry_after: bool = False) -> RawResponse:
    """CloudFront's own, or its origin's."""
    told = f"<Message>{message}</Message>" if message else ""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>{told}</Error>'.encode()
    headers = {"Content-Type": "text/xml", "X-Cache": "Error from cloudfront"}
    if retry_after:
        headers["Retry-After"] = "1"
    return RawResponse(status, headers, [body], len(body))


def passed_through(error: ClientError) -> RawResponse:
    """What the origin refused, with its own status and body (CloudFront, HTTPStatusCodes: without custom error pages)."""
    # An origin that may not be listed answers 403 for what is not there; ours may be.
    code, status = error.response["Error"]["Code"], int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    if status >= 500:
        return refusal(502, code)
    more = {name: str(error.response[name]) for name in ("StorageClass", "AccessTier") if name in error.response}
    body = error_xml(Failure(status, code, error.response["Error"].get("Message", ""), more))
    return RawResponse(status, {"Content-Type": "application/xml", "X-Cache": "Error from cloudfront"}, [body], len(body))


def _pieces(data: bytes) -> Iterable[bytes]:
    return [data[start : start + PIECE] for start in range(0, len(data), PIECE)]


def _slowly(data: bytes) -> Iterator[bytes]:
    """A byte every tenth of a second: whoever waits for the end waits long."""
    for index in range(len(data)):
        time.sleep(0.1)
        yield data[index : index + 1]


def _unsafe(text: str) -> bytes:
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")), validate=True)


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
