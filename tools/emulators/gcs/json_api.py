"""The JSON API, as google-cloud-storage uses it."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from tools.emulators.gcs.json_resources import (
    agent_bindings,
    attributes_of,
    bucket_resource,
    policy,
    resource,
    without_hashes,
)
from tools.emulators.gcs.multipart import parse_multipart
from tools.emulators.gcs.objects import (
    COMPOSE_MAX,
    LIST_MAX,
    Attributes,
    Conditions,
    Hashes,
    Listing,
    ObjectStore,
    Refused,
    StoredObject,
)
from tools.emulators.ledger import DEFAULTS
from tools.emulators.web import Request, Response

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\*|(\d+)-(\d+))/(\*|\d+)")
UPLOADS = ("/upload", "/resumable/upload")
"""Where uploads go; the second is the discovery document's own path for sessions, and gsutil's."""
RESUMABLE_STEP = 256 * 1024


@dataclass
class Session:
    """A resumable upload; `received` is the truth about how far it got."""

    bucket: str
    name: str
    attributes: Attributes
    conditions: Conditions
    said: Hashes
    received: bytearray = field(default_factory=bytearray)
    done: StoredObject | None = None


class JsonApi:
    """Routes requests under /storage/v1, /upload/storage/v1 and /download/storage/v1; `name` tells the API method."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self.settings: Callable[[str], Any] = lambda name: DEFAULTS[name]
        self.permits: Callable[[str], bool] = lambda _permission: True
        self.knows_project: Callable[[str], bool] = lambda _project: True
        self.project = ""  # whose the buckets are that were made by no request
        self.url = ""  # where clients reach this server: links in answers lead there

    def _resource(self, stored: StoredObject) -> dict[str, Any]:
        return resource(stored, self.url)

    def name(self, request: Request) -> str:
        """The API's own name of a request, for counts and faults."""
        upload, parts = _parts(request)
        verb = request.method
        if upload:
            return "objects.insert.session" if "upload_id" in request.query else "objects.insert"
        if parts[0] == "b" and parts[2:3] == ["iam"]:
            return "buckets.testIamPermissions" if len(parts) == 4 else "buckets.getIamPolicy"
        if parts[0] == "b" and len(parts) <= 2:
            several = {"GET": "buckets.list", "POST": "buckets.insert"}
            one = {"GET": "buckets.get", "DELETE": "buckets.delete", "PATCH": "buckets.patch"}
            return (several if len(parts) == 1 else one).get(verb, "buckets.unknown")
        for word in ("compose", "copyTo", "rewriteTo", "moveTo"):
            if word in parts[4:]:
                return f"objects.{word.removesuffix('To')}"
        if len(parts) == 3:
            return "objects.list"
        return {
            "GET": "objects.get",
            "DELETE": "objects.delete",
            "PATCH": "objects.patch",
            "PUT": "objects.update",
        }.get(verb, "objects.unknown")

    def handle(self, request: Request) -> Response:
        upload, parts = _parts(request)
        name = self.name(request)
        if upload:
            return self._upload(request, parts[1])
        if name.startswith("buckets."):
            return self._buckets(name, request, parts)
        bucket = parts[1]
        match name:
            case "objects.list":
                return self._list(request, bucket)
            case "objects.get":
                return self._get(request, bucket, parts[3])
            case "objects.delete":
                self._store.delete(bucket, parts[3], _generation(request), conditions_of(request.query))
                return Response(204)
            case "objects.patch" | "objects.update":
                return self._patch(request, bucket, parts[3], whole=name == "objects.update")
            case "objects.compose":
                return self._compose(request, bucket, parts[3])
            case "objects.copy" | "objects.rewrite":
                return self._copy(request, parts, rewrite=name == "objects.rewrite")
            case "objects.move":
                moved = self._store.move(
                    bucket,
                    parts[3],
                    parts[6],
                    conditions_of(request.query, "ifSource"),
                    conditions_of(request.query),
                )
                return _json(self._resource(moved))
        raise Refused(404, "notFound", f"Unknown path {request.path}")

    # Buckets

    def _buckets(self, name: str, request: Request, parts: list[str]) -> Response:
        match name:
            case "buckets.list":
                project = self._project(request)
                items = [bucket_resource(bucket) for bucket in self._store.buckets() if bucket.project == project]
                return _json({"kind": "storage#buckets", "items": items})
            case "buckets.insert":
                body = _body(request)
                made = self._store.create_bucket(body.get("name", ""), body.get("location", "US"), self._project(request))
                return _json(bucket_resource(made))
            case "buckets.get":
                return _json(bucket_resource(self._store.bucket(parts[1])) | self.settings("gcs.buckets").get(parts[1], {}))
            case "buckets.getIamPolicy":
                owner = self._store.bucket(parts[1]).project or self.project
                return _json(policy(self.settings("gcs.policies").get(parts[1], agent_bindings(owner))))
            case "buckets.testIamPermissions":
                self._store.bucket(parts[1])
                return _json({"permissions": [one for one in request.values("permissions") if self.permits(one)]})
            case "buckets.delete":
                self._store.delete_bucket(parts[1])
                return Response(204)
        raise Refused(404, "notFound", f"Unknown path {request.path}")

    def _project(self, request: Request) -> str:
        """The project that making and listing buckets must name."""
        project = request.query.get("project", "")
        if not project:
            raise Refused(400, "required", "Required parameter: project")
        if not self.knows_project(project):
            raise Refused(400, "invalid", f"Unknown project id: {project}")
        return project

    # Objects

    def _list(self, request: Request, bucket: str) -> Response:
        query = request.query
        wanted = Listing(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            start=query.get("startOffset", ""),
            end=query.get("endOffset", ""),
            after=_untoken(query.get("pageToken", "")),
            limit=min(LIST_MAX, int(query.get("maxResults") or LIST_MAX)),
            include_trailing_delimiter=query.get("includeTrailingDelimiter") == "true",
        )
        page = self._store.list(bucket, wanted)
        out: dict[str, Any] = {"kind": "storage#objects"}
        if page.objects:
            out["items"] = [without_hashes(self._resource(found)) for found in page.objects]
        if page.prefixes:
            out["prefixes"] = list(page.prefixes)
        if page.next_token:
            out["nextPageToken"] = base64.urlsafe_b64encode(page.next_token.encode()).decode()
        return _json(out)

    def _get(self, request: Request, bucket: str, name: str) -> Response:
        found = self._store.get(bucket, name, _generation(request), conditions_of(request.query))
        if request.query.get("alt") != "media":
            return _json(self._resource(found))
        return media(request, found)

    def _patch(self, request: Request, bucket: str, name: str, *, whole: bool) -> Response:
        found = self._store.get(bucket, name, _generation(request))
        base = Attributes(storage_class=found.attributes.storage_class) if whole else found.attributes
        attributes = attributes_of(_body(request), base)
        return _json(
            self._resource(self._store.patch(bucket, name, attributes, conditions_of(request.query), _generation(request)))
        )

    def _compose(self, request: Request, bucket: str, name: str) -> Response:
        body = _body(request)
        wanted = body.get("sourceObjects", [])
        if not 1 <= len(wanted) <= COMPOSE_MAX:
            raise Refused(400, "invalid", f"The number of source components must be between 1 and {COMPOSE_MAX}")
        sources = []
        for source in wanted:
            condition = source.get("objectPreconditions", {}).get("ifGenerationMatch")
            generation = source.get("generation")
            sources.append(
                self._store.get(
                    bucket,
                    source["name"],
                    None if generation is None else int(generation),
                    Conditions(generation=None if condition is None else int(condition)),
                )
            )
        data = b"".join(source.read() for source in sources)
        attributes = attributes_of(body.get("destination", {}), Attributes())
        components = sum(source.components or 1 for source in sources)
        stored = self._store.put(bucket, name, data, attributes, conditions_of(request.query), components=components)
        return _json(self._resource(stored))

    def _copy(self, request: Request, parts: list[str], *, rewrite: bool) -> Response:
        _, bucket, _, name, _, _, to_bucket, _, to_name = parts
        generation = request.query.get("sourceGeneration")
        source = self._store.get(
            bucket, name, None if generation is None else int(generation), conditions_of(request.query, "ifSource")
        )
        attributes = attributes_of(_body(request), source.attributes)
        stored = self._store.put(
            to_bucket, to_name, source.read(), attributes, conditions_of(request.query), components=source.components
        )
        if not rewrite:
            return _json(self._resource(stored))
        size = str(stored.size)
        done = {"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": size, "objectSize": size}
        return _json(done | {"resource": self._resource(stored)})

    # Uploads

    def _upload(self, request: Request, bucket: str) -> Response:
        # Chunks come by PUT, and from the Go client and what is built on it (rclone) by POST.
        if "upload_id" in request.query and request.method in ("PUT", "POST", "DELETE"):
            return self._continue(request, request.query["upload_id"])
        kind = request.query.get("uploadType")
        if kind == "media":
            attributes = replace(_keyed(request), content_type=request.headers.get("content-type"))
            name, said = request.query.get("name", ""), goog_hash(request.headers)
            return self._store_upload(request, bucket, name, attributes, said, request.body)
        if kind == "multipart":
            body, data = parse_multipart(request)
            name = request.query.get("name") or body.get("name", "")
            return self._store_upload(request, bucket, name, attributes_of(body, _keyed(request)), _hashes(body), data)
        if kind == "resumable":
            return self._begin(request, bucket)
        raise Refused(400, "invalid", f"Unknown uploadType {kind!r}")

    def _store_upload(
        self, request: Request, bucket: str, name: str, attributes: Attributes, said: Hashes, data: bytes
    ) -> Response:
        return _json(self._resource(self._store.put(bucket, name, data, attributes, conditions_of(request.query), said)))

    def _begin(self, request: Request, bucket: str) -> Response:
        body = _body(request)
        self._store.bucket(bucket)
        kind = body.get("contentType") or request.headers.get("x-upload-content-type")
        session = Session(
            bucket=bucket,
            name=request.query.get("name") or body.get("name", ""),
            attributes=attributes_of(body | ({"contentType": kind} if kind else {}), _keyed(request)),
            conditions=conditions_of(request.query),
            said=_hashes(body),
        )
        key = secrets.token_hex(16)
        with self._lock:
            self._sessions[key] = session
        where = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
        return Response(200, headers={"Location": where, "X-GUploader-UploadID": key})

    def _continue(self, request: Request, key: str) -> Response:
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                raise Refused(404, "notFound", "Upload session not found")
            if request.method == "DELETE":
                del self._sessions[key]
                return Response(499)
            if session.done is not None:
                return self._finished(session.done)
            try:
                return self._receive(request, session)
            except Refused as refused:
                if refused.xml_code == "BadDigest":
                    del self._sessions[key]  # or whoever asks how far it got would have the wrong bytes stored
                raise

    def _finished(self, stored: StoredObject) -> Response:
        answer = _json(self._resource(stored))
        if self.settings("gcs.session_answer_headers"):
            answer.headers |= {
                "x-goog-generation": str(stored.generation),
                "x-goog-metageneration": str(stored.metageneration),
                "x-goog-stored-content-length": str(stored.size),
            }
            answer.repeated += hash_lines(stored)
        return answer

    def _receive(self, request: Request, session: Session) -> Response:
        said = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", "bytes */*"))
        if said is None:
            raise Refused(400, "invalid", "Invalid Content-Range")
        total = None if said[4] == "*" else int(said[4])
        if request.headers.get("content-range") is None:
            session.received[:] = request.body
            total = len(request.body)
        elif said[1] != "*":
            first, last = int(said[2]), int(said[3])
            if first == len(session.received) and len(request.body) < last - first + 1:
                # The client went away in the middle: whole steps of what came are kept, as the service does.
                session.received += request.body[: len(request.body) // RESUMABLE_STEP * RESUMABLE_STEP]
            if first != len(session.received) or last - first + 1 != len(request.body):
                raise Refused(503, "backendError", "The chunk does not follow the bytes received")
            if total is None and len(request.body) % RESUMABLE_STEP:
                raise Refused(400, "invalid", f"A chunk must be a multiple of {RESUMABLE_STEP} bytes")
            session.received += request.body
        if total is None or len(session.received) < total:
            return _incomplete(request, len(session.received))
        # Content-MD5, which goog_hash would read too, is of the chunk; X-Goog-Hash is of the whole object.
        hashes = _agree(session.said, goog_hash({"x-goog-hash": request.headers.get("x-goog-hash", "")}))
        session.done = self._store.put(
            session.bucket, session.name, bytes(session.received), session.attributes, session.conditions, hashes
        )
        session.received.clear()
        return self._finished(session.done)


def _incomplete(request: Request, received: int) -> Response:
    """308 Resume Incomplete; to a client that says `X-GUploader-No-308: yes` (Go's: 308 is a redirect to it) 200 and a header."""
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    if request.headers.get("x-guploader-no-308", "").lower() == "yes":
        return Response(200, headers=headers | {"X-Http-Status-Code-Override": "308"})
    return Response(308, headers=headers)


def _agree(begun: Hashes, last: Hashes) -> Hashes:
    """The hashes given when the session began and with its last chunk (`X-Goog-Hash`). Raises Refused when they differ."""
    for kind, one, other in (("CRC32C", begun.crc32c, last.crc32c), ("MD5", begun.md5, last.md5)):
        if one and other and one != other:
            raise Refused(400, "invalid", f'Provided {kind} "{other}" doesn\'t match provided {kind} "{one}".', "BadDigest")
    return Hashes(crc32c=last.crc32c or begun.crc32c, md5=last.md5 or begun.md5)


def conditions_of(query: Mapping[str, str], stem: str = "if") -> Conditions:
    def number(name: str) -> int | None:
        text = query.get(stem + name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError as error:
            raise Refused(400, "invalid", f"Invalid value for {stem}{name}: {text!r}") from error

    return Conditions(
        generation=number("GenerationMatch"),
        generation_not=number("GenerationNotMatch"),
        metageneration=number("MetagenerationMatch"),
        metageneration_not=number("MetagenerationNotMatch"),
    )


def goog_hash(headers: Mapping[str, str]) -> Hashes:
    """The hashes of an `x-goog-hash` header and of Content-MD5; raises Refused for a malformed one."""
    said: dict[str, str] = {}
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name in ("crc32c", "md5"):
            said[name] = value
        elif name:
            raise Refused(400, "invalid", f"Invalid x-goog-hash: {part!r}", "InvalidDigest")
    return Hashes(crc32c=said.get("crc32c"), md5=said.get("md5") or headers.get("content-md5"))


def hash_lines(stored: StoredObject) -> list[tuple[str, str]]:
    """One `x-goog-hash` line for each hash, as the service sends them (observed: traces of storage.googleapis.com)."""
    lines = [("x-goog-hash", f"crc32c={stored.crc32c}")]
    return lines + ([("x-goog-hash", f"md5={stored.md5}")] if stored.md5 else [])


def media(request: Request, found: StoredObject) -> Response:
    """The bytes of an object, whole or by Range, with the hashes of the whole in `x-goog-hash`."""
    data = found.read()
    chosen = found.attributes
    headers = {
        "Content-Type": chosen.content_type or "application/octet-stream",
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": str(found.metageneration),
        "x-goog-stored-content-length": str(found.size),
        "x-goog-stored-content-encoding": chosen.content_encoding or "identity",
        "x-goog-storage-class": chosen.storage_class,
        "Last-Modified": found.updated.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "ETag": f'"{found.etag}"',
        "Accept-Ranges": "bytes",
    }
    optional = {
        "Content-Encoding": chosen.content_encoding,
        "Content-Disposition": chosen.content_disposition,
        "Content-Language": chosen.content_language,
        "Cache-Control": chosen.cache_control,
        "x-goog-component-count": None if found.components is None else str(found.components),
    }
    headers |= {name: value for name, value in optional.items() if value is not None}
    headers |= {f"x-goog-meta-{name}": value for name, value in chosen.metadata.items()}
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    if wanted is None or not (wanted[1] or wanted[2]):
        return Response(200, data, headers, repeated=hash_lines(found))
    first = int(wanted[1]) if wanted[1] else max(0, found.size - int(wanted[2]))
    last = min(found.size - 1, int(wanted[2])) if wanted[1] and wanted[2] else found.size - 1
    if first >= found.size or first > last:
        raise Refused(416, "requestedRangeNotSatisfiable", "Request range not satisfiable", "InvalidRange")
    headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    return Response(206, data[first : last + 1], headers, repeated=hash_lines(found))


def refusal(refused: Refused) -> Response:
    """A refusal in the JSON API's shape."""
    detail = {"message": refused.message, "domain": "global", "reason": refused.reason}
    return _json({"error": {"code": refused.status, "message": refused.message, "errors": [detail]}}, refused.status)


def _parts(request: Request) -> tuple[bool, list[str]]:
    """(is it an upload, the segments after …/storage/v1), each segment decoded exactly once."""
    upload = request.path.startswith(UPLOADS)
    _, _, rest = request.path.partition("/storage/v1/")
    # An object's name is one segment, with its slashes encoded, so empty segments in it survive.
    return upload, [unquote(part) for part in rest.split("/")]


def _body(request: Request) -> dict[str, Any]:
    if not request.body:
        return {}
    try:
        value = json.loads(request.body)
    except ValueError as error:
        raise Refused(400, "parseError", "Parse Error") from error
    return value if isinstance(value, dict) else {}


def _hashes(body: Mapping[str, Any]) -> Hashes:
    return Hashes(crc32c=body.get("crc32c"), md5=body.get("md5Hash"))


def _generation(request: Request) -> int | None:
    text = request.query.get("generation")
    return None if text is None else int(text)


def _keyed(request: Request) -> Attributes:
    """What an upload's query says of its attributes: the key that encrypts it."""
    return Attributes(kms_key=request.query.get("kmsKeyName") or None)


def _untoken(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError as error:
        raise Refused(400, "invalid", "Invalid page token") from error


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(status, json.dumps(body).encode(), {"Content-Type": "application/json; charset=UTF-8"})
