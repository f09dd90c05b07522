"""One HTTP server for both APIs, with counts and faults in front."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from tools.emulators.gcs import json_api, xml_api
from tools.emulators.gcs.json_api import JsonApi
from tools.emulators.gcs.objects import ObjectStore, Refused
from tools.emulators.gcs.partial import parse_fields, select
from tools.emulators.gcs.xml_api import XmlApi
from tools.emulators.ledger import BadFault, Ledger, Rule
from tools.emulators.web import Request, Response, pause_for

SOFT_ERRORS = {
    "BAD_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "REQUEST_TIMEOUT": 408,
    "GONE": 410,
    "PRECONDITION_FAILED": 412,
    "TOO_MANY_REQUESTS": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}
NEEDED = {"buckets.get": "storage.buckets.get", "buckets.getIamPolicy": "storage.buckets.getIamPolicy"}
"""The permissions that are asked for: what the doctor reads of buckets. What objects need is not modelled."""
CORRUPT = "CORRUPT"
"""The bytes are changed on their way, and stored: only a comparison of hashes can tell."""


class Gcs:
    """A handler of requests."""

    def __init__(self, ledger: Ledger, store: ObjectStore) -> None:
        self.store = store
        self._ledger = ledger
        self._json, self._xml = JsonApi(store), XmlApi(store)
        self._json.settings, self._json.permits = ledger.setting, ledger.grants
        self._xml.settings = ledger.setting
        store.fields = lambda bucket: ledger.setting("gcs.buckets").get(bucket, {})
        self._json.knows_project = ledger.knows_project
        self._json.project = self._xml.project = ledger.projects[0]

    def at(self, url: str) -> None:
        """Be told where clients reach this server."""
        self._json.url = url

    def handle(self, request: Request) -> Response:
        is_json = request.path.startswith(tuple(f"{begin}/storage/v1/" for begin in ("", *json_api.UPLOADS, "/download")))
        api: JsonApi | XmlApi = self._json if is_json else self._xml
        shape = json_api.refusal if is_json else xml_api.refusal
        name = api.name(request)
        fault = self._ledger.count("gcs", name)
        if fault is not None:
            pause_for(fault.delay_s)
            if fault.error == CORRUPT:
                request = _corrupted(request)
            elif not fault.applied:
                return _refused(fault, shape)
        if is_json and name in NEEDED and not self._ledger.permits(NEEDED[name]):
            told = f"The caller does not have {NEEDED[name]} access to the Google Cloud Storage bucket."
            return shape(Refused(403, "forbidden", told, "AccessDenied"))
        try:
            response = self._json_answer(request) if is_json else api.handle(request)
        except Refused as refused:
            response = shape(refused)
        response.hang_up = fault is not None and fault.applied and fault.error != CORRUPT
        return response

    def _json_answer(self, request: Request) -> Response:
        """With `fields`: the part of the answer that it selects. One that cannot be read is refused before anything is done."""
        text = request.query.get("fields", "")
        if not text or request.query.get("alt") == "media":
            return self._json.handle(request)
        wanted = parse_fields(text, self._json.name(request))
        response = self._json.handle(request)
        if response.status < 300 and response.body:
            response.body = json.dumps(select(json.loads(response.body), wanted)).encode()
        return response


def _refused(fault: Rule, shape: Callable[[Refused], Response]) -> Response:
    if fault.error not in SOFT_ERRORS:
        raise BadFault(f"the stage's Cloud Storage knows no fault {fault.error!r}; it knows {', '.join([*SOFT_ERRORS, CORRUPT])}")
    refused = Refused(SOFT_ERRORS[fault.error], "backendError", fault.message, fault.error.title().replace("_", ""))
    response = shape(refused)
    if fault.error == "TOO_MANY_REQUESTS":
        response.headers["Retry-After"] = "1"
    return response


def _corrupted(request: Request) -> Request:
    """One bit of the body turned, and what was said of its hash left out."""
    body = bytes([request.body[0] ^ 1]) + request.body[1:] if request.body else b""
    kept = {name: value for name, value in request.headers.items() if name not in ("x-goog-hash", "content-md5")}
    return replace(request, body=body, headers=kept)
