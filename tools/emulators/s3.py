"""S3: moto under cheroot, behind a strict layer that keeps every legal key byte for byte.

moto alone decodes keys through a URL router, accepts a wrong Content-MD5 and lets anybody in. This layer hands it the
request path as it came over the wire, and refuses unknown access keys, wrong signatures and wrong digests as S3 does. It has
archived objects (`s3_archive`), and user metadata as S3 gives it back: encoded by RFC 2047 where it is not ASCII.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY, Request, environ_key_for_header, normalize_request
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from werkzeug.wrappers import Response as WsgiResponse

from tools.emulators.ledger import Ledger
from tools.emulators.s3_archive import Archive
from tools.emulators.s3_errors import Failure, error_xml
from tools.emulators.s3_metadata import encode_mail_safe
from tools.emulators.sigv4 import Keys, scope_of, signature
from tools.emulators.web import HEADERS, Environ, StartResponse, lost_answer, pause_for

KEY_BYTES_MAX = 1024
_VERSION_NULL = re.compile(r"(?<=[?&])versionId=null(&|$)")
META = "HTTP_X_AMZ_META_"
SUBRESOURCES = frozenset({"tagging", "acl", "attributes", "retention", "legal-hold", "torrent", "uploads", "uploadId"})
"""Queries that ask for something else than the object: an archived one answers them."""


class ServedRequest(Request):
    """A request that came through a server: moto takes its raw path from the environment."""

    from_wsgi_server = True


class S3:
    """A WSGI application."""

    def __init__(self, ledger: Ledger, keys: Iterable[Keys]) -> None:
        self._ledger = ledger
        self._secrets = {pair.key_id: pair.secret for pair in keys}
        self.archive = Archive(ledger)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def reset(self) -> None:
        """Forget every bucket."""
        s3_backends.reset()
        self.archive.reset()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raw = environ["REQUEST_URI"]
        target = raw.decode("latin-1") if isinstance(raw, bytes) else raw
        path, _, query = target.partition("?")
        bucket, _, key = path.lstrip("/").partition("/")
        verb = environ["REQUEST_METHOD"]
        method = _method(verb, bucket, key, query)
        fault = self._ledger.count("s3", method)
        if fault is not None:
            pause_for(fault.delay_s)
            if not fault.applied:
                return _error(environ, start_response, 503, fault.error, fault.message)
        # Read whole: moto wants the body's length, and the digests are checked before anything is stored.
        body = environ["wsgi.input"].read() if verb in ("PUT", "POST") else b""
        refused = self._refusal(environ, path, query, body)
        if refused is not None:
            return _error(environ, start_response, *refused)
        name = (unquote(bucket), unquote(key))
        itself = SUBRESOURCES.isdisjoint(pair.partition("=")[0] for pair in query.split("&"))
        if method == "GetBucketRequestPayment":
            return _payer(start_response, pays=name[0] in self._ledger.setting("s3.requester_pays"))
        if method == "RestoreObject":
            done = self.archive.restore(*name, body)
            if isinstance(done, Failure):
                return _failed(environ, start_response, done)
            start_response(f"{done} Accepted" if done == 202 else "200 OK", [("Content-Length", "0")])
            return []
        failure = self.archive.unreadable(*name) if method == "GetObject" and itself else None
        if failure is not None:
            return _failed(environ, start_response, failure)
        answer = self._passed_on(environ, target, body, method if itself or verb == "POST" else "", name)
        response: Iterable[bytes] = answer(environ, start_response)
        if fault is not None:
            raise lost_answer()
        return response

    def _passed_on(self, environ: Environ, target: str, body: bytes, method: str, name: tuple[str, str]) -> WsgiResponse:
        """What moto answers, with what it does not know of archives. method: empty for what is not about the object itself."""
        for header in [one for one in environ if one.startswith(META)]:
            environ[header] = encode_mail_safe(environ[header])
        versioned = _keeps_versions(name[0])
        if not versioned:
            target = _VERSION_NULL.sub("", target)  # of a bucket that keeps no versions, `null` is the only one
        result = _moto(environ, target, body, is_key=bool(name[1]))
        if not versioned:
            # S3 names a version only where it keeps some; rclone would ask for the one that is named.
            result.headers.pop("x-amz-version-id", None)
        good = result.status_code in (200, 204, 206)
        if method in ("PutObject", "CompleteMultipartUpload", "DeleteObject") and good:
            self.archive.forget(*name)
        if method in ("PutObject", "CompleteMultipartUpload") and result.status_code == 200:
            self._ledger.tell(*name)
        if method in ("GetObject", "HeadObject") and good:
            result.headers.pop("x-amz-restore", None)
            for header, value in self.archive.headers(*name).items():
                result.headers[header] = value
        asked = environ.get("HTTP_X_AMZ_OPTIONAL_OBJECT_ATTRIBUTES", "")
        if method == "ListObjectsV2" and result.status_code == 200 and "RestoreStatus" in asked:
            result.set_data(self.archive.tell(name[0], result.get_data()))
        return result

    def _refusal(self, environ: Environ, path: str, query: str, body: bytes) -> tuple[int, str, str] | None:
        headers: Mapping[str, str] = environ[HEADERS]
        if self._ledger.setting("s3.verify_signatures"):
            scope = scope_of(headers.get("authorization", ""))
            if scope is None:
                return 403, "AccessDenied", "Access Denied"
            secret = self._secrets.get(scope.key_id)
            if secret is None:
                return 403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
            if signature(environ["REQUEST_METHOD"], path, query, headers, scope, secret) != scope.signature:
                text = "The request signature we calculated does not match the signature you provided."
                return 403, "SignatureDoesNotMatch", text
            unsigned = [one for one in headers if one.startswith("x-amz-") and one not in scope.signed]
            if unsigned:
                return 403, "AccessDenied", f"There were headers present in the request which were not signed: {unsigned[0]}"
        said = headers.get("content-md5")
        if said is not None and base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode() != said:
            return 400, "BadDigest", "The Content-MD5 you specified did not match what we received."
        declared = headers.get("x-amz-content-sha256", "")
        if len(declared) == 64 and declared != hashlib.sha256(body).hexdigest():
            return (
                400,
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        return None


def _moto(environ: Environ, target: str, body: bytes, *, is_key: bool) -> WsgiResponse:
    inner = environ | {
        "RAW_URI": target,
        "QUERY_STRING": target.partition("?")[2],
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input_terminated": True,
    }
    # moto, too, would take `x-amz-meta-a_b` for `x-amz-meta-a-b`; S3 keeps the name.
    inner[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = {environ_key_for_header(name): name for name in environ[HEADERS] if "_" in name}
    if "HTTP_X_AMZ_COPY_SOURCE" in inner:
        inner["HTTP_X_AMZ_COPY_SOURCE"] = _encode_again(inner["HTTP_X_AMZ_COPY_SOURCE"])
    inner.pop("HTTP_TRANSFER_ENCODING", None)
    request: Any = normalize_request(ServedRequest(inner))
    dispatch = S3Response.key_dispatch if is_key else S3Response.ambiguous_dispatch
    if target.split("?", maxsplit=1)[0] == "/":
        dispatch = S3Response.bucket_dispatch
    result: Any = dispatch(request, request.raw_url, dict(request.headers))
    status, headers, content = result if len(result) == 3 else (200, {}, result)
    response = WsgiResponse(response=content, status=status, headers=headers)
    if request.method == "HEAD" and "content-length" in headers:
        response.headers["Content-Length"] = headers["content-length"]
    return response


def _keeps_versions(bucket: str) -> bool:
    """Whether a bucket's versioning was ever switched on."""
    found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(bucket)
    return found is not None and bool(found.versioning_status)


def _encode_again(source: str) -> str:
    """The source of a copy in the one spelling that moto reads right.

    S3 takes any characters in it as they are (rclone writes `;` so), and `+` for a space (aws/aws-cli#614; s5cmd writes it).
    """
    path, mark, query = source.partition("?")
    return quote(unquote_to_bytes(path.replace("+", " ").encode("latin-1")), safe="/") + mark + query


def _method(verb: str, bucket: str, key: str, query: str) -> str:
    """The API's own name of a request, for counts and faults."""
    if not bucket:
        return "ListBuckets"
    if not key:
        if "list-type=2" in query:
            return "ListObjectsV2"
        if verb == "GET" and "requestPayment" in query:
            return "GetBucketRequestPayment"
        return {"PUT": "CreateBucket", "GET": "ListObjects", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}.get(
            verb, "DeleteObjects"
        )
    if verb == "POST" and query.partition("&")[0] in ("restore", "restore="):
        return "RestoreObject"
    if verb == "POST" and "uploadId=" in query:
        return "CompleteMultipartUpload"
    return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(verb, "PostObject")


def _payer(start_response: StartResponse, *, pays: bool) -> list[bytes]:
    who = "Requester" if pays else "BucketOwner"
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    body = f'<RequestPaymentConfiguration xmlns="{space}"><Payer>{who}</Payer></RequestPaymentConfiguration>'.encode()
    start_response("200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _error(environ: Environ, start_response: StartResponse, status: int, code: str, message: str) -> list[bytes]:
    return _failed(environ, start_response, Failure(status, code, message))


def _failed(environ: Environ, start_response: StartResponse, failure: Failure) -> list[bytes]:
    body = error_xml(failure)
    start_response(f"{failure.status} Error", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
